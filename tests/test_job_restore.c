/*
 * test_job_restore.c - what is not a checkpoint of this job is refused, and the job begins from the start as
 * if nothing had been tried; what was forged does no harm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/saved_run.h"

static void expect_refused(const struct job_order *order, const struct saved_bytes *from, status_t why,
                           const char *what)
{
    struct error error;
    struct job *job = saved_create(saved_rings[0], order);
    status_t status = job_restore(job, from->bytes, from->size, &error);
    if (status != why) fail_msg("%s: %s instead of %s", what, status_name(status), status_name(why));
    assert_false(job->resumed);
    saved_discard(saved_rings[0], job);
}

static void a_checkpoint_of_anything_else_is_refused(void **state)
{
    struct job_order order = saved_order("balanced"), other;
    struct saved_run end = saved_run(saved_rings[0], &order, NULL, true);
    const struct saved_bytes *at = &end.at[6];
#define REFUSED(...)                                                                                         \
    do {                                                                                                     \
        other = order;                                                                                       \
        __VA_ARGS__;                                                                                         \
        expect_refused(&other, at, STATUS_CONFLICT, #__VA_ARGS__);                                           \
    } while (0)
    REFUSED(other.job = 8);
    REFUSED(other.prompt = "another");
    REFUSED(other.negative = "");
    REFUSED(other.seed = 4);
    REFUSED(other.steps = 13, other.table_count = 0);
    REFUSED(other.width = 48);
    REFUSED(other.height = 48);
    REFUSED(other.frames = 5);
    REFUSED(other.guidance = 4.5);
    REFUSED(other.shift = 5);
    REFUSED(other.solver = SOLVER_EULER);
    REFUSED(other.cache = "safe");
    REFUSED(other.cache = "off");
    REFUSED(other.table_count = 4);
    REFUSED(other.compare = true);
#undef REFUSED
    /* what changes no bit does not matter */
    other = order;
    other.attempt = 9;
    other.priority = 2;
    other.fps = 30;
    other.save_latents = true;
    struct saved_run again = saved_run(saved_rings[1], &other, at, false);
    saved_expect_same("balanced", 6, &end, &again);
    saved_free(&again);
    saved_free(&end);
}

static void a_checkpoint_of_another_model_is_refused(void **state)
{
    struct job_order order = saved_order("balanced");
    struct saved_run end = saved_run(saved_rings[0], &order, NULL, true);
    struct model_config *config = &ring_engine(saved_rings[0])->model->config, kept = *config;
    config->denoiser.eps *= 2;
    expect_refused(&order, &end.at[6], STATUS_CONFLICT, "eps");
    *config = kept;
    config->solver.order = 3;
    expect_refused(&order, &end.at[6], STATUS_CONFLICT, "solver_order");
    *config = kept;
    saved_free(&end);
}

static void another_format_is_refused_as_such(void **state)
{
    struct job_order order = saved_order(NULL);
    struct saved_run end = saved_run(saved_rings[0], &order, NULL, true);
    end.at[3].bytes[FORMAT_AT]++;
    expect_refused(&order, &end.at[3], STATUS_UNSUPPORTED, "format");
    saved_free(&end);
}

static void a_job_that_has_begun_is_not_restored(void **state)
{
    struct job_order order = saved_order("balanced");
    struct saved_run end = saved_run(saved_rings[0], &order, NULL, true), unused = {0};
    struct error error;
    struct job *job = saved_create(saved_rings[0], &order);
    saved_drive(saved_rings[0], job, 2, false, &unused);
    assert_int_equal(job_restore(job, end.at[3].bytes, end.at[3].size, &error), STATUS_CONFLICT);
    saved_discard(saved_rings[0], job);
    saved_free(&end);
}

/* --------------------------------------------------------------------------------------------------- fuzz */

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % limit;
}

/* Some bytes are other ones, or the end is missing, or there is more. In places that lie close together, and
 * in those with meaning rather than in tensors. */
static struct saved_bytes break_it(const struct saved_bytes *whole, bool forge)
{
    struct saved_bytes broken = {.size = whole->size};
    uint32_t how = random_below(8);
    if (how == 0) broken.size = random_below((uint32_t)whole->size);
    if (how == 1) broken.size += 1 + random_below(64);
    broken.bytes = calloc(1, broken.size + 1);
    assert_non_null(broken.bytes);
    memcpy(broken.bytes, whole->bytes, broken.size < whole->size ? broken.size : whole->size);
    for (uint32_t i = 0, changes = 1 + random_below(4); how > 1 && i < changes; i++) {
        uint32_t at = random_below((uint32_t)broken.size);
        broken.bytes[at] ^= (unsigned char)(1 + random_below(255));
    }
    if (forge) saved_forge(&broken);
    return broken;
}

/* With a right hash much is read; what is taken must be worked with, or end the job in an orderly way. */
static bool survive(const struct job_order *order, const struct saved_bytes *broken)
{
    struct error error;
    struct job *job = saved_create(saved_rings[0], order);
    status_t status = job_restore(job, broken->bytes, broken->size, &error);
    if (status == STATUS_OK) {
        enum job_result result = JOB_ADVANCED;
        while (job->life < LIFE_DECODE && (result = job_advance(job)) == JOB_ADVANCED) {
        }
        assert_int_not_equal(result, JOB_WAITS); /* alone there is nothing to wait for */
    }
    saved_discard(saved_rings[0], job);
    return status == STATUS_OK;
}

/* Small, so that few bytes are tensors. */
static struct job_order small_order(const char *cache)
{
    struct job_order order = saved_order(cache);
    order.width = order.height = 16;
    order.frames = 1;
    return order;
}

static void a_broken_checkpoint_is_refused_and_the_job_begins_from_the_start(void **state)
{
    struct job_order order = small_order("balanced");
    struct saved_run end = saved_run(saved_rings[0], &order, NULL, true);
    for (int i = 0; i < 300; i++) {
        struct saved_bytes broken = break_it(&end.at[9], false);
        if (survive(&order, &broken)) fail_msg("bytes that are not what was saved were taken (%d)", i);
        free(broken.bytes);
    }
    struct saved_bytes broken = {saved_copy(end.at[9].bytes, end.at[9].size), end.at[9].size};
    struct error error;
    broken.bytes[HEAD + 5] ^= 1;
    struct job *job = saved_create(saved_rings[0], &order);
    assert_int_equal(job_restore(job, broken.bytes, broken.size, &error), STATUS_CORRUPT);
    struct saved_run begun = {0};
    saved_drive(saved_rings[0], job, INT32_MAX, false, &begun);
    saved_take(job, &begun);
    saved_expect_same("balanced", 0, &end, &begun);
    saved_discard(saved_rings[0], job);
    saved_free(&begun);
    free(broken.bytes);
    saved_free(&end);
}

/* The same for a job whose caching was read before it turned out that something else is wrong. */
static void what_fits_only_in_part_leaves_nothing_behind(void **state)
{
    for (int i = 0; i < SAVED_SETTINGS; i++) {
        struct job_order order = small_order(saved_settings[i]);
        struct saved_run end = saved_run(saved_rings[0], &order, NULL, true), begun = {0};
        struct saved_bytes *at = &end.at[9];
        struct error error;
        size_t whole = at->size;
        at->size--; /* of the last tensor, or the last byte of the state */
        saved_forge(at);
        struct job *job = saved_create(saved_rings[0], &order);
        assert_int_equal(job_restore(job, at->bytes, at->size, &error), STATUS_CORRUPT);
        saved_drive(saved_rings[0], job, INT32_MAX, true, &begun);
        saved_take(job, &begun);
        at->size = whole;
        saved_forge(at);
        saved_expect_same(saved_settings[i], 0, &end, &begun);
        for (int step = 10; step < STEPS; step++)
            assert_memory_equal(end.at[step].bytes + HEAD, begun.at[step].bytes + HEAD,
                                end.at[step].size - HEAD);
        saved_discard(saved_rings[0], job);
        saved_free(&begun);
        saved_free(&end);
    }
}

static void forged_bytes_do_no_harm(void **state)
{
    static const char *const some[] = {"interval:N=3,first=3,forecast=foca",
                                       "balanced",
                                       "dbcache:F3B2,W3,threshold=0.5,separate=0,forecast=newton2",
                                       "easycache:threshold=0.3,first=3",
                                       "sencache:threshold=20,early=20",
                                       "specache",
                                       "easycache:threshold=0.3,first=5,forecast=dmd",
                                       "meancache:mask=11101001001101,order=2",
                                       "layers:every=3,begin=2,end=6",
                                       "calibrate"};
    int taken = 0;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        struct job_order order = small_order(some[i]);
        struct saved_run end = saved_run(saved_rings[0], &order, NULL, true);
        for (int k = 0; k < 60; k++) {
            struct saved_bytes broken = break_it(&end.at[k % 3 ? 10 : STEPS], true);
            taken += survive(&order, &broken);
            free(broken.bytes);
        }
        saved_free(&end);
    }
    assert_true(taken > 100); /* otherwise nothing but hashes was tested */
}

/* One branch decides for both. A log in which they differ, with as many latents as it asks for, has more
 * steps made again than there is room for. */
static void a_log_of_tied_branches_that_differ_is_refused(void **state)
{
    enum { AT = 10, MOST_MORE = 6 };
    struct job_order order = small_order("dbcache:F3B2,W3,threshold=0.5,separate=0,forecast=newton2");
    struct saved_run end = saved_run(saved_rings[0], &order, NULL, true);
    struct job *job = saved_create(saved_rings[0], &order);
    const struct saved_bytes *whole = &end.at[AT];
    size_t latent = (size_t)end.count * sizeof(float), cells = 2 * AT;
    size_t actions =
        HEAD + latent + solver_save_bytes(job->solver[0], AT) + sizeof(int64_t) + cells * sizeof(float);
    saved_discard(saved_rings[0], job);
    assert_memory_equal(whole->bytes + actions, end.actions, cells);
    for (size_t more = 0; more <= MOST_MORE; more++) {
        struct saved_bytes forged = {calloc(1, whole->size + more * latent), whole->size + more * latent};
        assert_non_null(forged.bytes);
        memcpy(forged.bytes, whole->bytes, whole->size);
        for (size_t i = 1; i < cells; i += 2)
            forged.bytes[actions + i] = end.actions[i] == REUSE_COMPUTED ? REUSE_REUSED : REUSE_COMPUTED;
        saved_forge(&forged);
        expect_refused(&order, &forged, STATUS_CORRUPT, "other steps of branch 1");
        free(forged.bytes);
    }
    saved_free(&end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpoint_of_anything_else_is_refused),
        cmocka_unit_test(a_checkpoint_of_another_model_is_refused),
        cmocka_unit_test(another_format_is_refused_as_such),
        cmocka_unit_test(a_job_that_has_begun_is_not_restored),
        cmocka_unit_test(a_broken_checkpoint_is_refused_and_the_job_begins_from_the_start),
        cmocka_unit_test(what_fits_only_in_part_leaves_nothing_behind),
        cmocka_unit_test(forged_bytes_do_no_harm),
        cmocka_unit_test(a_log_of_tied_branches_that_differ_is_refused),
    };
    return cmocka_run_group_tests(tests, saved_start_rings, saved_end_rings);
}
