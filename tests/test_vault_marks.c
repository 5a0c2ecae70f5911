/*
 * test_vault_marks.c - what the vault keeps of jobs for others to go on from, and lends to them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "coordinator/vault/vaultfile.h"
#include "tests/vault_rig.h"

enum { SMALL = 150000, MARKS = 64 << 20 };

/* Saves steps first..last of an attempt. */
static void save_steps(const struct vault_rig *rig, void *rank, uint64_t job, uint32_t attempt,
                       uint32_t first, uint32_t last)
{
    for (uint32_t step = first; step <= last; step++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(job, attempt, step, SMALL);
        assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    }
}

static void expect_steps(const struct vault_rig *rig, uint64_t job, const char *expected)
{
    uint32_t steps[64];
    char list[256] = "";
    size_t count = vault_steps(rig->vault, job, steps, 64);
    for (size_t i = 0; i < count; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%u ", steps[i]);
    assert_string_equal(list, expected);
}

static void every_so_many_steps_stay_and_the_last_when_the_job_is_over(void **state)
{
    struct vault_rig rig = {.mark_bytes = MARKS};
    struct vault_stats stats;
    uint32_t few[2];
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_mark(rig.vault, 7, 4);
    vault_allow(rig.vault, 7, 1);
    save_steps(&rig, rank, 7, 1, 1, 11);
    expect_steps(&rig, 7, "4 8 10 11 "); /* the last two are the job's own */
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.marks, 2 * SMALL);
    vault_retire(rig.vault, 7);
    expect_steps(&rig, 7, "4 8 11 ");
    vault_rig_await_files(&rig, 7, 3);
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.marks, 3 * SMALL);
    assert_int_equal(stats.bytes, 3 * (SMALL + VAULTFILE_HEAD_BYTES));
    assert_int_equal(vault_steps(rig.vault, 7, few, 2), 3);
    assert_true(few[0] == 4 && few[1] == 8);
    /* what was on its way when the job ended may still come */
    save_steps(&rig, rank, 7, 1, 12, 12);
    expect_steps(&rig, 7, "4 8 12 ");
    zmq_close(rank);
    vault_rig_restart(&rig);
    vault_retire(rig.vault, 7);
    expect_steps(&rig, 7, "4 8 12 ");
    vault_drop(rig.vault, 7);
    expect_steps(&rig, 7, "");
    vault_rig_await_files(&rig, 7, -1);
    vault_stats(rig.vault, &stats);
    assert_int_equal(stats.marks, 0);
    vault_rig_stop(&rig);
}

static void without_marks_nothing_stays(void **state)
{
    for (int i = 0; i < 2; i++) { /* none are allowed; this job wants none */
        struct vault_rig rig = {.mark_bytes = i ? MARKS : 0};
        vault_rig_start(&rig);
        void *rank = vault_rig_rank(&rig);
        vault_mark(rig.vault, 7, i ? 0 : 4);
        vault_allow(rig.vault, 7, 1);
        save_steps(&rig, rank, 7, 1, 1, 8);
        expect_steps(&rig, 7, "7 8 ");
        vault_retire(rig.vault, 7);
        expect_steps(&rig, 7, "");
        vault_rig_await_files(&rig, 7, -1);
        zmq_close(rank);
        vault_rig_stop(&rig);
    }
}

static void a_step_made_twice_is_one_mark(void **state)
{
    struct vault_rig rig = {.mark_bytes = MARKS};
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_mark(rig.vault, 7, 2);
    vault_allow(rig.vault, 7, 1);
    save_steps(&rig, rank, 7, 1, 1, 5);
    vault_allow(rig.vault, 7, 2);
    save_steps(&rig, rank, 7, 2, 2, 8);
    vault_retire(rig.vault, 7);
    expect_steps(&rig, 7, "2 4 6 8 ");
    vault_rig_await_files(&rig, 7, 4);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

/* A mark counts for its bytes and head. */
static void the_oldest_marks_go_when_all_of_them_take_too_much(void **state)
{
    struct vault_rig rig = {.mark_bytes = 4 * (SMALL + VAULTFILE_HEAD_BYTES)};
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    for (uint64_t job = 1; job <= 3; job++) {
        vault_mark(rig.vault, job, 2);
        vault_allow(rig.vault, job, 1);
        save_steps(&rig, rank, job, 1, 1, 4);
        vault_retire(rig.vault, job);
    }
    expect_steps(&rig, 1, "");
    expect_steps(&rig, 2, "2 4 ");
    expect_steps(&rig, 3, "2 4 ");
    /* and one that was of use is young again */
    struct error error;
    assert_int_equal(vault_lend(rig.vault, 2, 2, 9, &error), STATUS_OK);
    vault_mark(rig.vault, 4, 2);
    vault_allow(rig.vault, 4, 1);
    save_steps(&rig, rank, 4, 1, 1, 4);
    vault_retire(rig.vault, 4);
    expect_steps(&rig, 2, "2 ");
    expect_steps(&rig, 3, "4 ");
    expect_steps(&rig, 4, "2 4 ");
    zmq_close(rank);
    vault_rig_stop(&rig);
}

/* Of all checkpoints: marks go before anything that a job needs. */
static void marks_make_way_for_what_jobs_need(void **state)
{
    struct vault_rig rig = {
        .mark_bytes = MARKS, .keep = 2, .limit_bytes = 4 * (SMALL + VAULTFILE_HEAD_BYTES)};
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_mark(rig.vault, 1, 1);
    vault_allow(rig.vault, 1, 1);
    save_steps(&rig, rank, 1, 1, 1, 4);
    vault_allow(rig.vault, 2, 1);
    save_steps(&rig, rank, 2, 1, 1, 2);
    expect_steps(&rig, 1, "3 4 ");
    expect_steps(&rig, 2, "1 2 ");
    zmq_close(rank);
    vault_rig_stop(&rig);
}

/* -------------------------------------------------------------------------------------------------- lending */

static void what_is_lent_stays_whatever_becomes_of_the_other_job(void **state)
{
    struct vault_rig rig = {.mark_bytes = MARKS};
    struct checkpoint lent, latest, from = vault_rig_checkpoint(7, 1, 4, SMALL);
    struct error error;
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_mark(rig.vault, 7, 4);
    vault_allow(rig.vault, 7, 1);
    save_steps(&rig, rank, 7, 1, 1, 6);
    assert_int_equal(vault_lend(rig.vault, 7, 3, 8, &error), STATUS_NOT_FOUND);
    assert_int_equal(vault_lend(rig.vault, 6, 4, 8, &error), STATUS_NOT_FOUND);
    assert_false(vault_origin(rig.vault, 8, &lent));
    assert_int_equal(vault_lend(rig.vault, 7, 4, 8, &error), STATUS_OK);
    assert_true(vault_origin(rig.vault, 8, &lent));
    assert_true(lent.job == 8 && lent.attempt == 0 && lent.step == 4 && lent.xxh64 == from.xxh64);
    assert_false(vault_latest(rig.vault, 8, &latest)); /* it has made none itself */
    expect_steps(&rig, 8, "");                         /* nor can it lend what is not its own */
    vault_drop(rig.vault, 7);
    vault_rig_await_files(&rig, 7, -1);
    zmq_close(rank);
    vault_rig_restart(&rig);
    rank = vault_rig_rank(&rig);
    assert_true(vault_origin(rig.vault, 8, &lent));
    assert_int_equal(vault_rig_load(rank, &lent), STATUS_OK);
    /* through all attempts, beside the job's own */
    vault_mark(rig.vault, 8, 0);
    for (uint32_t attempt = 1; attempt <= 2; attempt++) {
        vault_allow(rig.vault, 8, attempt);
        save_steps(&rig, rank, 8, attempt, 5, 8);
        assert_true(vault_origin(rig.vault, 8, &lent));
        assert_true(vault_latest(rig.vault, 8, &latest) && latest.step == 8 && latest.attempt == attempt);
    }
    assert_int_equal(vault_rig_load(rank, &lent), STATUS_OK);
    vault_retire(rig.vault, 8);
    assert_false(vault_origin(rig.vault, 8, &lent));
    vault_rig_await_files(&rig, 8, -1);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static void what_is_lent_is_not_evicted(void **state)
{
    struct vault_rig rig = {.mark_bytes = MARKS, .limit_bytes = 4 * (SMALL + VAULTFILE_HEAD_BYTES)};
    struct checkpoint lent;
    struct error error;
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    vault_mark(rig.vault, 1, 2);
    vault_allow(rig.vault, 1, 1);
    save_steps(&rig, rank, 1, 1, 1, 4);
    assert_int_equal(vault_lend(rig.vault, 1, 2, 2, &error), STATUS_OK);
    vault_retire(rig.vault, 1);
    vault_allow(rig.vault, 2, 1);
    save_steps(&rig, rank, 2, 1, 3, 8);
    vault_allow(rig.vault, 3, 1);
    save_steps(&rig, rank, 3, 1, 1, 3);
    assert_true(vault_origin(rig.vault, 2, &lent));
    assert_int_equal(vault_rig_load(rank, &lent), STATUS_OK);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

/* A number may come again after a commit that failed: what was lent to the job that never was is replaced. */
static void lending_anew_replaces_what_was_lent_before(void **state)
{
    struct vault_rig rig = {.mark_bytes = MARKS};
    struct checkpoint lent;
    struct error error;
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    for (uint64_t job = 1; job <= 2; job++) {
        vault_mark(rig.vault, job, 2);
        vault_allow(rig.vault, job, 1);
        save_steps(&rig, rank, job, 1, 1, 4);
    }
    assert_int_equal(vault_lend(rig.vault, 1, 4, 9, &error), STATUS_OK);
    assert_int_equal(vault_lend(rig.vault, 2, 4, 9, &error), STATUS_OK);
    struct checkpoint second = vault_rig_checkpoint(2, 1, 4, SMALL);
    assert_true(vault_origin(rig.vault, 9, &lent) && lent.xxh64 == second.xxh64);
    assert_int_equal(vault_rig_load(rank, &lent), STATUS_OK);
    assert_int_equal(vault_lend(rig.vault, 2, 2, 9, &error), STATUS_OK);
    assert_true(vault_origin(rig.vault, 9, &lent) && lent.step == 2);
    assert_int_equal(vault_rig_load(rank, &lent), STATUS_OK);
    vault_rig_await_files(&rig, 9, 1);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

static struct key run_of(uint64_t tenant, uint64_t number)
{
    return (struct key){
        .tenant = tenant, .low = number, .high = 9, .kind = ITEM_LATENT, .format = KEY_FORMAT};
}

static void save_of(const struct vault_rig *rig, void *rank, uint64_t job, uint32_t step,
                    struct run_point point, uint64_t bytes)
{
    struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, step, bytes);
    vault_rig_name_run(&point);
    vault_allow(rig->vault, job, 1);
    assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
    vault_rig_name_run(NULL);
}

/* The step that is found, and of which job; 0: none. */
static void expect_found(const struct vault_rig *rig, struct key run, uint32_t after, uint64_t job,
                         uint32_t step, double seconds)
{
    struct checkpoint checkpoint = {0};
    struct run_point point = {.step = 0};
    bool found = vault_find_run(rig->vault, &run, after, &checkpoint, &point);
    assert_int_equal(found, step > 0);
    assert_int_equal(checkpoint.job, job);
    assert_int_equal(point.step, step);
    assert_true(point.seconds == seconds);
}

/* Whatever jobs made them, also after a restart, and never another tenant's or another run's. */
static void a_run_is_found_by_its_name(void **state)
{
    struct vault_rig rig = {.mark_bytes = MARKS};
    struct key run = run_of(5, 1), other = run_of(5, 2), foreign = run_of(6, 1);
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    expect_found(&rig, run, 0, 0, 0, 0);
    for (uint64_t job = 7; job <= 9; job++) vault_mark(rig.vault, job, 2);
    save_of(&rig, rank, 7, 2, (struct run_point){run, 2, 1.5}, SMALL);
    save_of(&rig, rank, 7, 4, (struct run_point){run, 4, 3}, 3 << 20); /* in several pieces */
    save_of(&rig, rank, 8, 36, (struct run_point){run, 6, 4.5},
            SMALL); /* the second run of one that compares */
    save_of(&rig, rank, 9, 8, (struct run_point){other, 8, 6}, SMALL);
    for (int again = 0; again < 2; again++) {
        expect_found(&rig, run, 0, 8, 6, 4.5);
        expect_found(&rig, run, 5, 8, 6, 4.5);
        expect_found(&rig, run, 6, 0, 0, 0);
        expect_found(&rig, other, 0, 9, 8, 6);
        expect_found(&rig, foreign, 0, 0, 0, 0);
        zmq_close(rank);
        vault_rig_restart(&rig);
        for (uint64_t job = 7; job <= 9; job++) vault_retire(rig.vault, job);
        rank = vault_rig_rank(&rig);
    }
    vault_drop(rig.vault, 8);
    expect_found(&rig, run, 0, 7, 4, 3);
    struct checkpoint checkpoint;
    struct run_point point;
    assert_true(vault_find_run(rig.vault, &run, 0, &checkpoint, &point));
    assert_int_equal(vault_rig_load(rank, &checkpoint), STATUS_OK);
    vault_spoil(rig.vault, &checkpoint);
    expect_found(&rig, run, 0, 7, 2, 1.5);
    /* a job that it was lent to has it, too */
    struct error error;
    assert_int_equal(vault_lend(rig.vault, 7, 2, 12, &error), STATUS_OK);
    vault_drop(rig.vault, 7);
    expect_found(&rig, run, 0, 12, 2, 1.5);
    zmq_close(rank);
    vault_rig_stop(&rig);
}

/* What cannot be a run's name or place is none; the checkpoint is kept all the same. */
static void a_checkpoint_whose_run_cannot_be_is_of_none(void **state)
{
    struct vault_rig rig = {.mark_bytes = MARKS};
    struct key run = run_of(5, 1), text = run;
    text.kind = ITEM_TEXT;
    struct key public = run_of(KEY_PUBLIC, 1);
    const struct run_point bad[] = {{text, 2, 1}, {public, 2, 1}, {run, 0, 1}, {run, 2, -1}, {run, 2, NAN}};
    vault_rig_start(&rig);
    void *rank = vault_rig_rank(&rig);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t job = 20 + i;
        vault_mark(rig.vault, job, 2);
        save_of(&rig, rank, job, 2, bad[i], SMALL);
        expect_steps(&rig, job, "2 ");
        expect_found(&rig, bad[i].run, 0, 0, 0, 0);
    }
    zmq_close(rank);
    vault_rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_so_many_steps_stay_and_the_last_when_the_job_is_over),
        cmocka_unit_test(without_marks_nothing_stays),
        cmocka_unit_test(a_step_made_twice_is_one_mark),
        cmocka_unit_test(the_oldest_marks_go_when_all_of_them_take_too_much),
        cmocka_unit_test(marks_make_way_for_what_jobs_need),
        cmocka_unit_test(what_is_lent_stays_whatever_becomes_of_the_other_job),
        cmocka_unit_test(what_is_lent_is_not_evicted),
        cmocka_unit_test(lending_anew_replaces_what_was_lent_before),
        cmocka_unit_test(a_run_is_found_by_its_name),
        cmocka_unit_test(a_checkpoint_whose_run_cannot_be_is_of_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
