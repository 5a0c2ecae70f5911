/*
 * test_repair.c - the real coordinator process: several jobs in flight, lost ranks, replacements, blame.
 *
 * Workers and the launcher are scripted (tests/coordinator_rig.h) but speak the real protocol over real
 * sockets.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))
#define STATE(name)                REFRAIN__JOB_STATE__JOB_##name
#define ORDER(name)                REFRAIN__WORKER_ORDER__BODY_##name

enum { ANSWER_MS = 5000, QUIET_MS = 300, RANKS = 3 };

/* A service with three ranks and, if asked for, a launcher that can replace them. */
struct bench {
    struct rig rig;
    void *client;
    struct fake_worker ranks[RANKS], launcher;
};

static void begin(struct bench *b, const char *const *options, bool launcher)
{
    *b = (struct bench){0};
    rig_start(&b->rig, options);
    rig_add_model(&b->rig, "small");
    b->client = rig_client(&b->rig);
    if (launcher) fake_launcher_open(&b->launcher, &b->rig, "one", RANKS);
    for (uint32_t rank = 0; rank < RANKS; rank++)
        fake_worker_open(&b->ranks[rank], &b->rig, "one", rank, RANKS);
    fake_workers_join(b->ranks, RANKS);
}

static void end(struct bench *b)
{
    for (int rank = 0; rank < RANKS; rank++) fake_worker_close(&b->ranks[rank]);
    fake_worker_close(&b->launcher);
    zmq_close(b->client);
    rig_stop(&b->rig);
}

static void say_seat_ended(struct bench *b, int rank)
{
    Refrain__SeatEnded ended = REFRAIN__SEAT_ENDED__INIT;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    ended.group = (char *)"one";
    ended.message = (char *)"a child ended";
    if (rank >= 0) SET(ended, rank, (uint32_t)rank);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_SEAT_ENDED;
    report.seat_ended = &ended;
    fake_worker_report(&b->launcher, &report);
}

static void expect_replace(struct bench *b, uint32_t rank)
{
    Refrain__WorkerOrder *order = fake_worker_order(&b->launcher, ORDER(REPLACE), ANSWER_MS);
    assert_non_null(order);
    assert_string_equal(order->replace->group, "one");
    if (order->replace->host)
        assert_string_equal(order->replace->host, "somewhere"); /* unless it never came */
    assert_int_equal(order->replace->rank, rank);
    assert_int_equal(order->replace->ranks, RANKS);
    refrain__worker_order__free_unpacked(order, NULL);
}

static void expect_relaunch(struct bench *b)
{
    Refrain__WorkerOrder *order = fake_worker_order(&b->launcher, ORDER(RELAUNCH), ANSWER_MS);
    assert_non_null(order);
    assert_string_equal(order->relaunch->group, "one");
    refrain__worker_order__free_unpacked(order, NULL);
}

/* A new process takes the seat, and everybody joins the next epoch. */
static void replace(struct bench *b, uint32_t rank)
{
    expect_replace(b, rank);
    fake_worker_close(&b->ranks[rank]);
    fake_worker_open(&b->ranks[rank], &b->rig, "one", rank, RANKS);
    fake_workers_join(b->ranks, RANKS);
}

static void expect_assigned(struct bench *b, uint64_t job, uint32_t attempt)
{
    uint64_t assigned;
    uint32_t which;
    fake_worker_take(&b->ranks[0], &assigned, &which);
    assert_int_equal(assigned, job);
    assert_int_equal(which, attempt);
}

static void expect_quiet(struct fake_worker *worker, Refrain__WorkerOrder__BodyCase kind)
{
    assert_null(fake_worker_order(worker, kind, QUIET_MS));
}

static void finish(struct bench *b, uint64_t job, uint32_t attempt)
{
    uint64_t hash;
    fake_worker_upload(&b->ranks[0], job, attempt, "video.mp4", 1000, job, &hash);
    fake_worker_done(&b->ranks[0], job, attempt, "video.mp4", 1000, hash);
}

/* ---------------------------------------------------------------------------------------------- in flight */

static void as_many_jobs_as_allowed_are_in_flight_and_the_next_follows_one_that_ends(void **state)
{
    struct bench b;
    uint64_t job[4];
    begin(&b, (const char *[]){"--in-flight", "3", NULL}, false);
    for (int i = 0; i < 4; i++) job[i] = rig_submit(b.client, "x");
    fake_workers_load(b.ranks, RANKS);
    for (int i = 0; i < 3; i++) expect_assigned(&b, job[i], 1);
    expect_quiet(&b.ranks[0], ORDER(ASSIGN));
    finish(&b, job[1], 1);
    rig_await(b.client, job[1], STATE(COMPLETED));
    expect_assigned(&b, job[3], 1);
    rig_await(b.client, job[0], STATE(RUNNING));
    end(&b);
}

static void a_job_of_higher_priority_does_not_wait_for_room(void **state)
{
    struct bench b;
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Submit submit = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    begin(&b, (const char *[]){"--in-flight", "1", NULL}, false);
    uint64_t first = rig_submit(b.client, "x");
    rig_submit(b.client, "waits");
    fake_workers_load(b.ranks, RANKS);
    expect_assigned(&b, first, 1);
    spec.prompt = (char *)"urgent";
    SET(spec, priority, REFRAIN__PRIORITY__PRIORITY_HIGH);
    submit.spec = &spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    Refrain__Reply *reply = rig_call(b.client, &request);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
    expect_assigned(&b, reply->job->job, 1);
    refrain__reply__free_unpacked(reply, NULL);
    expect_quiet(&b.ranks[0], ORDER(ASSIGN));
    end(&b);
}

/* ------------------------------------------------------------------------------------------------- repair */

static void a_lost_rank_is_replaced_and_every_job_in_flight_goes_on(void **state)
{
    struct bench b;
    uint64_t job[2];
    begin(&b, (const char *[]){"--in-flight", "2", NULL}, true);
    for (int i = 0; i < 2; i++) job[i] = rig_submit(b.client, "x");
    fake_workers_load(b.ranks, RANKS);
    for (int i = 0; i < 2; i++) expect_assigned(&b, job[i], 1);
    fake_worker_goodbye(&b.ranks[1], "for a test");
    replace(&b, 1);
    fake_workers_load(b.ranks, RANKS);
    for (int i = 0; i < 2; i++) expect_assigned(&b, job[i], 2);
    for (int i = 0; i < 2; i++) finish(&b, job[i], 2);
    for (int i = 0; i < 2; i++) rig_await(b.client, job[i], STATE(COMPLETED));
    end(&b);
}

/* As the ranks of GPUs are over it. */
static void so_it_is_over_nccl(void **state)
{
    struct bench b = {0};
    rig_start(&b.rig, NULL);
    b.client = rig_client(&b.rig);
    fake_launcher_open(&b.launcher, &b.rig, "one", RANKS);
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        fake_worker_connect(&b.ranks[rank], &b.rig, "one", rank, RANKS);
        b.ranks[rank].fabric = "nccl";
        fake_worker_hello(&b.ranks[rank]);
    }
    fake_workers_join(b.ranks, RANKS);
    fake_worker_goodbye(&b.ranks[1], "for a test");
    expect_replace(&b, 1);
    end(&b);
}

static void home_can_be_lost_like_any_other_rank(void **state)
{
    struct bench b;
    begin(&b, NULL, true);
    uint64_t job = rig_submit(b.client, "x");
    fake_workers_load(b.ranks, RANKS);
    expect_assigned(&b, job, 1);
    fake_worker_goodbye(&b.ranks[0], "for a test");
    replace(&b, 0);
    fake_workers_load(b.ranks, RANKS);
    expect_assigned(&b, job, 2);
    finish(&b, job, 2);
    rig_await(b.client, job, STATE(COMPLETED));
    end(&b);
}

static void a_seat_nobody_can_fill_is_asked_for_with_growing_pauses_and_then_all_is_started_anew(void **state)
{
    struct bench b;
    begin(&b, NULL, true);
    fake_worker_goodbye(&b.ranks[2], "for a test");
    expect_replace(&b, 2);
    for (int i = 0; i < 3; i++) {
        say_seat_ended(&b, 2);
        if (i == 1) expect_quiet(&b.launcher, ORDER(REPLACE)); /* a second by now */
        if (i < 2) expect_replace(&b, 2);
    }
    expect_replace(&b, 2);
    say_seat_ended(&b, 2);
    Refrain__WorkerOrder *order = fake_worker_order(&b.launcher, ORDER(RELAUNCH), 2 * ANSWER_MS);
    assert_non_null(order);
    refrain__worker_order__free_unpacked(order, NULL);
    end(&b);
}

static void when_most_ranks_are_gone_all_are_started_anew(void **state)
{
    struct bench b;
    begin(&b, NULL, true);
    uint64_t job = rig_submit(b.client, "x");
    fake_workers_load(b.ranks, RANKS);
    expect_assigned(&b, job, 1);
    fake_worker_goodbye(&b.ranks[1], "for a test");
    fake_worker_goodbye(&b.ranks[2], "for a test");
    expect_relaunch(&b);
    Refrain__WorkerOrder *order = fake_worker_order(&b.ranks[0], ORDER(SHUTDOWN), ANSWER_MS);
    assert_non_null(order);
    refrain__worker_order__free_unpacked(order, NULL);
    rig_await(b.client, job, STATE(QUEUED));
    end(&b);
}

static void a_rank_that_wakes_up_after_its_seat_was_given_away_is_sent_away(void **state)
{
    struct bench b;
    struct fake_worker sleeper;
    begin(&b, NULL, true);
    sleeper = b.ranks[1];
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__EpochLost lost = REFRAIN__EPOCH_LOST__INIT;
    SET(lost, epoch, b.ranks[0].epoch);
    SET(lost, peer, 1);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_EPOCH_LOST;
    report.epoch_lost = &lost;
    fake_worker_report(&b.ranks[0], &report);
    expect_replace(&b, 1); /* it said nothing for less than a second, and its neighbour lost it */
    b.ranks[1].socket = NULL;
    fake_worker_open(&b.ranks[1], &b.rig, "one", 1, RANKS);
    b.ranks[1].pid = 2;
    fake_workers_join(b.ranks, RANKS);
    sleeper.pid = 3;
    fake_worker_hello(&sleeper);
    Refrain__WorkerOrder *order = fake_worker_order(&sleeper, ORDER(SHUTDOWN), ANSWER_MS);
    assert_non_null(order);
    refrain__worker_order__free_unpacked(order, NULL);
    fake_worker_close(&sleeper);
    end(&b);
}

/* The coordinator was away while a rank died: the survivors say that they were together before. */
static void a_restarted_coordinator_replaces_who_did_not_come_back(void **state)
{
    struct bench b;
    begin(&b, NULL, true);
    uint64_t job = rig_submit(b.client, "x");
    fake_workers_load(b.ranks, RANKS);
    expect_assigned(&b, job, 1);
    rig_kill(&b.rig);
    fake_worker_close(&b.ranks[1]);
    rig_restart(&b.rig);
    zmq_close(b.client);
    b.client = rig_client(&b.rig);
    fake_worker_close(&b.launcher);
    fake_launcher_open(&b.launcher, &b.rig, "one", RANKS);
    for (int rank = 0; rank < RANKS; rank += 2) {
        struct fake_worker *survivor = &b.ranks[rank];
        fake_worker_close(survivor);
        uint64_t epoch = survivor->epoch;
        fake_worker_open(survivor, &b.rig, "one", (uint32_t)rank, RANKS);
        survivor->last_epoch = epoch;
        fake_worker_hello(survivor);
    }
    expect_replace(&b, 1);
    fake_worker_open(&b.ranks[1], &b.rig, "one", 1, RANKS);
    fake_workers_join(b.ranks, RANKS);
    end(&b);
}

/* -------------------------------------------------------------------------------------------------- blame */

/* Two jobs are in flight whenever a rank dies; then each is tried alone. The one that kills again fails, the
 * other goes on. */
static void a_job_that_keeps_killing_ranks_fails_alone_and_the_others_go_on(void **state)
{
    struct bench b;
    begin(&b, (const char *[]){"--in-flight", "2", NULL}, true);
    uint64_t killer = rig_submit(b.client, "x"), innocent = rig_submit(b.client, "y");
    fake_workers_load(b.ranks, RANKS);
    for (uint32_t attempt = 1; attempt <= 2; attempt++) {
        expect_assigned(&b, killer, attempt);
        expect_assigned(&b, innocent, attempt);
        fake_worker_goodbye(&b.ranks[1], "for a test");
        replace(&b, 1);
        fake_workers_load(b.ranks, RANKS);
    }
    for (uint32_t attempt = 3; attempt <= 4; attempt++) {
        expect_assigned(&b, killer, attempt);
        expect_quiet(&b.ranks[0], ORDER(ASSIGN)); /* alone */
        fake_worker_goodbye(&b.ranks[1], "for a test");
        if (attempt == 4) rig_await(b.client, killer, STATE(FAILED));
        replace(&b, 1);
        fake_workers_load(b.ranks, RANKS);
    }
    expect_assigned(&b, innocent, 3);
    finish(&b, innocent, 3);
    rig_await(b.client, innocent, STATE(COMPLETED));
    end(&b);
}

static void a_suspected_job_that_gets_further_has_company_again(void **state)
{
    struct bench b;
    begin(&b, (const char *[]){"--in-flight", "2", NULL}, true);
    uint64_t first = rig_submit(b.client, "x"), second = rig_submit(b.client, "y"),
             third = rig_submit(b.client, "z");
    fake_workers_load(b.ranks, RANKS);
    for (uint32_t attempt = 1; attempt <= 2; attempt++) {
        expect_assigned(&b, first, attempt);
        expect_assigned(&b, second, attempt);
        fake_worker_goodbye(&b.ranks[2], "for a test");
        replace(&b, 2);
        fake_workers_load(b.ranks, RANKS);
    }
    expect_assigned(&b, first, 3); /* alone, and then the other suspect */
    finish(&b, first, 3);
    expect_assigned(&b, second, 3);
    expect_quiet(&b.ranks[0], ORDER(ASSIGN));
    fake_worker_progress(&b.ranks[0], second, 3, 1);
    expect_assigned(&b, third, 1);
    end(&b);
}

static void a_job_that_gets_further_each_time_is_never_given_up(void **state)
{
    struct bench b;
    begin(&b, NULL, true);
    uint64_t job = rig_submit(b.client, "x");
    fake_workers_load(b.ranks, RANKS);
    for (uint32_t attempt = 1; attempt <= 5; attempt++) {
        expect_assigned(&b, job, attempt);
        fake_worker_progress(&b.ranks[0], job, attempt, attempt);
        fake_worker_goodbye(&b.ranks[0], "for a test");
        replace(&b, 0);
        fake_workers_load(b.ranks, RANKS);
    }
    expect_assigned(&b, job, 6);
    finish(&b, job, 6);
    rig_await(b.client, job, STATE(COMPLETED));
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_many_jobs_as_allowed_are_in_flight_and_the_next_follows_one_that_ends),
        cmocka_unit_test(a_job_of_higher_priority_does_not_wait_for_room),
        cmocka_unit_test(a_lost_rank_is_replaced_and_every_job_in_flight_goes_on),
        cmocka_unit_test(so_it_is_over_nccl),
        cmocka_unit_test(home_can_be_lost_like_any_other_rank),
        cmocka_unit_test(
            a_seat_nobody_can_fill_is_asked_for_with_growing_pauses_and_then_all_is_started_anew),
        cmocka_unit_test(when_most_ranks_are_gone_all_are_started_anew),
        cmocka_unit_test(a_rank_that_wakes_up_after_its_seat_was_given_away_is_sent_away),
        cmocka_unit_test(a_restarted_coordinator_replaces_who_did_not_come_back),
        cmocka_unit_test(a_job_that_keeps_killing_ranks_fails_alone_and_the_others_go_on),
        cmocka_unit_test(a_suspected_job_that_gets_further_has_company_again),
        cmocka_unit_test(a_job_that_gets_further_each_time_is_never_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
