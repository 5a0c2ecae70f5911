/*
 * test_job_residual.c - jobs that move with what their caching keeps: the steps in its history are not made again where
 * their residuals are to be had, and the bits are the same either way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/saved_tier.h"

enum { MEMORY = 16 << 20, AT = 9 };

static struct job_order order_now(const char *cache)
{
    struct job_order order = saved_order(cache);
    order.tenant = "ann";
    return order;
}

static struct saved_bytes save(struct job *job)
{
    struct saved_bytes made = {.size = job_save_bytes(job)};
    struct error error;
    made.bytes = saved_copy(NULL, made.size);
    if (made.size) assert_int_equal(job_save(job, made.bytes, made.size, &error), STATUS_OK);
    return made;
}

/* Makes `at` steps, saves, makes so many pieces more, and leaves as a home does whose epoch ends. */
static struct saved_bytes leave(int ring, const struct job_order *order, int at, int pieces)
{
    struct saved_run none = {0};
    struct job *job = saved_create(saved_rings[ring], order);
    saved_drive(saved_rings[ring], job, at, false, &none);
    struct saved_bytes saved = save(job);
    for (int i = 0; i < pieces; i++) ring_deliver(saved_rings[ring], job, job_advance(job) == JOB_WAITS);
    job_keep_residuals(job);
    saved_discard(saved_rings[ring], job);
    saved_tier_settle();
    return saved;
}

struct moved {
    struct saved_run run;
    int taken;        /* residuals */
    uint64_t rebuilt; /* work until the first new step */
};

static struct moved go_on(int ring, const struct job_order *order, const struct saved_bytes *from)
{
    struct moved moved = {0};
    struct error error;
    struct job *job = saved_create(saved_rings[ring], order);
    if (job_restore(job, from->bytes, from->size, &error) != STATUS_OK) fail_msg("%s", error.text);
    uint64_t begun = 0;
    while (job->life < LIFE_DECODE) {
        if (job->life < LIFE_STEP) begun = job_work(job);
        if (job->life < LIFE_STEP || job->replaying) moved.rebuilt = job_work(job) - begun;
        ring_deliver(saved_rings[ring], job, job_advance(job) == JOB_WAITS);
    }
    if (job->life == LIFE_FINISHED) fail_msg("it failed");
    moved.taken = job->residuals_taken;
    saved_take(job, &moved.run);
    saved_discard(saved_rings[ring], job);
    saved_tier_settle();
    return moved;
}

/* Goes on with residuals, and, elsewhere, without. Returns how many were taken. */
static int expect_same(const char *name, const struct job_order *order, const struct saved_bytes *saved,
                       int ring, uint64_t *with, uint64_t *without)
{
    struct moved here = go_on(ring, order, saved);
    saved_tier_use(ring, false);
    struct moved alone = go_on(ring, order, saved);
    saved_tier_use(ring, true);
    assert_int_equal(alone.taken, 0);
    saved_expect_same(name, AT, &alone.run, &here.run);
    *with = here.rebuilt;
    *without = alone.rebuilt;
    saved_free(&here.run);
    saved_free(&alone.run);
    return here.taken;
}

static bool keeps_spans(const struct job_order *order)
{
    struct job *job = saved_create(saved_rings[0], order);
    bool spans = job->cache && reuse_residual_bytes(job->cache) > 0;
    saved_discard(saved_rings[0], job);
    return spans;
}

static void a_job_that_moves_between_steps_makes_none_again(void **state)
{
    int moved = 0;
    for (int i = 0; i < SAVED_SETTINGS; i++) {
        struct job_order order = order_now(saved_settings[i]);
        uint64_t with, without;
        saved_tier_open(MEMORY);
        struct saved_bytes saved = leave(i % SAVED_RINGS, &order, AT, 0);
        if (saved.size) {
            order.attempt++;
            int taken = expect_same(order.cache, &order, &saved, (i + 1) % SAVED_RINGS, &with, &without);
            if ((taken > 0) != keeps_spans(&order)) fail_msg("%s: %d residuals taken", order.cache, taken);
            if (taken && 2 * with > without)
                fail_msg("%s: %lu of work instead of %lu", order.cache, (unsigned long)with,
                         (unsigned long)without);
            moved += taken > 0;
        }
        free(saved.bytes);
        assert_int_equal(saved_tier_count(ITEM_RESIDUAL), 0); /* of no more use when all steps are made */
        saved_tier_close();
    }
    assert_true(moved > 20);
}

/* As when another rank is lost: what is whole is kept, whatever the step is at. */
static void a_job_that_moves_in_the_middle_of_a_step_is_exact(void **state)
{
    static const char *const settings[] = {"balanced",
                                           "interval:N=3,F=2,B=1,forecast=newton2",
                                           "dicache:threshold=0.4",
                                           "dbcache:F1B0,W3,threshold=0.5,forecast=taylor1",
                                           "interval:N=3,first=4,forecast=worldcache",
                                           "specache"};
    int taken = 0;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        for (int pieces = 1; pieces < 120; pieces += 13) {
            struct job_order order = order_now(settings[i]);
            uint64_t with, without;
            saved_tier_open(MEMORY);
            struct saved_bytes saved = leave((int)i % SAVED_RINGS, &order, AT, pieces);
            order.attempt++;
            taken +=
                expect_same(settings[i], &order, &saved, ((int)i + 1) % SAVED_RINGS, &with, &without) > 0;
            free(saved.bytes);
            saved_tier_close();
        }
    assert_true(taken > 20);
}

static void what_is_not_the_job_s_own_or_does_not_fit_is_not_taken(void **state)
{
    struct job_order order = order_now("balanced"), other;
    uint64_t with, without;
    saved_tier_open(MEMORY);
    struct saved_bytes saved = leave(0, &order, AT, 0);
    int there = (int)saved_tier_count(ITEM_RESIDUAL);
    assert_true(there > 0);
    /* the same request of another tenant, and another seed, that are at the same step */
    for (int i = 0; i < 2; i++) {
        other = order;
        if (i == 0) other.tenant = "bob";
        if (i == 1) other.seed = 4;
        saved_tier_use(1, false);
        struct saved_run none = {0};
        struct job *job = saved_create(saved_rings[1], &other);
        saved_drive(saved_rings[1], job, AT, false, &none);
        struct saved_bytes others = save(job);
        saved_discard(saved_rings[1], job);
        saved_tier_use(1, true);
        assert_int_equal(expect_same("another's", &other, &others, 2, &with, &without), 0);
        free(others.bytes);
    }
    /* another size under the right names */
    struct job *job = saved_create(saved_rings[0], &order);
    struct error error;
    assert_int_equal(job_restore(job, saved.bytes, saved.size, &error), STATUS_OK);
    saved_tier_forget(ITEM_RESIDUAL);
    job_tend(job);
    int asked = 0;
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < job->residual_count[b]; i++, asked++)
            saved_tier_put(&job->residuals[b][i].ask.query.key, saved.bytes, 1000);
    assert_true(asked > 0);
    saved_discard(saved_rings[0], job);
    assert_int_equal(expect_same("forged", &order, &saved, 1, &with, &without), 0);
    free(saved.bytes);
    saved_tier_close();
}

/* Between being restored and its first new step, in any piece. */
static void a_job_that_ends_while_it_is_rebuilt_leaves_nothing_half_done(void **state)
{
    struct job_order order = order_now("balanced");
    for (int pieces = 0; pieces < 60; pieces += 4) {
        saved_tier_open(MEMORY);
        struct saved_bytes saved = leave(0, &order, AT, 0);
        struct error error;
        uint64_t with, without;
        order.attempt++;
        struct job *job = saved_create(saved_rings[1], &order);
        assert_int_equal(job_restore(job, saved.bytes, saved.size, &error), STATUS_OK);
        for (int i = 0; i < pieces && job->life < LIFE_DECODE; i++)
            ring_deliver(saved_rings[1], job, job_advance(job) == JOB_WAITS);
        job_keep_residuals(job); /* it moves again */
        saved_discard(saved_rings[1], job);
        saved_tier_settle();
        assert_true(expect_same("again", &order, &saved, 2, &with, &without) > 0);
        free(saved.bytes);
        saved_tier_close();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_that_moves_between_steps_makes_none_again),
        cmocka_unit_test(a_job_that_moves_in_the_middle_of_a_step_is_exact),
        cmocka_unit_test(what_is_not_the_job_s_own_or_does_not_fit_is_not_taken),
        cmocka_unit_test(a_job_that_ends_while_it_is_rebuilt_leaves_nothing_half_done),
    };
    return cmocka_run_group_tests(tests, saved_start_rings, saved_end_rings);
}
