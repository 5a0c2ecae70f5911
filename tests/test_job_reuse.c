/*
 * test_job_reuse.c - what jobs take from the cache tier: exactly what they would have made, and nothing that one fact
 * tells apart.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/saved_tier.h"

enum { MEMORY = 16 << 20, GUIDED = 2 };

/* Jobs that find their last latent ask for nothing else: that is tests/test_job_run.c's. */
static void forget_latents(void)
{
    if (saved_tier) saved_tier_forget(ITEM_LATENT);
}

struct counted {
    struct saved_run run;
    int encoded;      /* prompts, by the text encoder */
    int texts, steps; /* taken from the tier */
};

static struct counted run(struct ring *ring, const struct job_order *order)
{
    struct counted counted = {0};
    struct job *job = saved_create(ring, order);
    const struct text_run *encoding = NULL;
    while (job->life < LIFE_DECODE) {
        ring_deliver(ring, job, job_advance(job) == JOB_WAITS);
        counted.encoded += job->text_run && !encoding;
        encoding = job->text_run;
    }
    counted.texts = job->status.texts_reused;
    counted.steps = job->status.first_steps_reused;
    saved_take(job, &counted.run);
    saved_discard(ring, job);
    if (saved_tier) saved_tier_settle();
    forget_latents();
    return counted;
}

/* Runs it with the tier and compares it with the same job made without one, elsewhere. */
static struct counted run_exact(const char *name, const struct job_order *order, int ring)
{
    struct counted made = run(saved_rings[ring], order);
    int other = (ring + 1) % SAVED_RINGS;
    saved_tier_use(other, false);
    struct counted alone = run(saved_rings[other], order);
    saved_tier_use(other, true);
    assert_int_equal(alone.encoded, order->guidance > 1 ? GUIDED : 1);
    saved_expect_same(name, 0, &alone.run, &made.run);
    saved_free(&alone.run);
    return made;
}

#define EXPECT(name, order, ring, want_encoded, want_texts, want_steps)                                      \
    do {                                                                                                     \
        struct counted counted = run_exact(name, &(order), ring);                                            \
        if (counted.encoded != (want_encoded) || counted.texts != (want_texts) ||                            \
            counted.steps != (want_steps))                                                                   \
            fail_msg("%s: %d prompts encoded, %d texts and %d first steps reused", name, counted.encoded,    \
                     counted.texts, counted.steps);                                                          \
        saved_free(&counted.run);                                                                            \
    } while (0)

static struct job_order order_now(const char *cache)
{
    struct job_order order = saved_order(cache);
    order.tenant = "ann";
    return order;
}

static void what_was_made_is_not_made_again(void **state)
{
    saved_tier_open(MEMORY);
    struct job_order order = order_now(NULL), other;
    EXPECT("first", order, 0, 2, 0, 0);
    assert_int_equal(saved_tier_count(ITEM_TEXT), 2);
    assert_int_equal(saved_tier_count(ITEM_FIRST_STEP), 2);
    EXPECT("again", order, 1, 0, 2, 2);
    other = order, other.seed = 4;
    EXPECT("another seed", other, 2, 0, 2, 0);
    other = order, other.guidance = 6;
    EXPECT("another guidance", other, 0, 0, 2, 2);
    other = order, other.guidance = 1;
    EXPECT("no guidance", other, 1, 0, 1, 1);
    other = order, other.prompt = "a yellow star";
    EXPECT("another prompt", other, 2, 1, 1, 1); /* the unconditional branch is the same */
    other = order, other.negative = "";
    EXPECT("another negative", other, 0, 1, 1, 1);
    other = order, other.prompt = order.negative, other.negative = order.prompt;
    EXPECT("branches exchanged", other, 1, 0, 2, 2); /* which branch it is does not matter */
    saved_tier_close();
}

/* The first sigma and time step are asked for, not how many there are. */
static void as_many_steps_as_begin_alike_share_their_first(void **state)
{
    saved_tier_open(MEMORY);
    struct job_order order = order_now(NULL), fewer;
    EXPECT("14 steps", order, 0, 2, 0, 0);
    fewer = order, fewer.steps = 7;
    EXPECT("7 steps", fewer, 1, 0, 2, 2);
    saved_tier_close();
}

static void one_fact_that_differs_is_a_miss(void **state)
{
    saved_tier_open(MEMORY);
    struct job_order order = order_now(NULL), other;
    EXPECT("first", order, 0, 2, 0, 0);
#define NO_STEP(...)                                                                                         \
    do {                                                                                                     \
        other = order;                                                                                       \
        __VA_ARGS__;                                                                                         \
        EXPECT(#__VA_ARGS__, other, 1, 0, 2, 0);                                                             \
    } while (0)
    NO_STEP(other.seed = 4);
    NO_STEP(other.width = 48);
    NO_STEP(other.height = 48);
    NO_STEP(other.frames = 5);
    NO_STEP(other.solver = SOLVER_EULER); /* its first sigma is 1, UniPC's .9998 */
#undef NO_STEP
    other = order, other.tenant = "bob";
    EXPECT("another tenant", other, 2, 2, 0, 0);
    /* other weights */
    struct model *model = ring_engine(saved_rings[0])->model;
    model->identity.rest++;
    EXPECT("another denoiser", order, 0, 0, 2, 0);
    model->identity.text_encoder++;
    EXPECT("another text encoder", order, 0, 2, 0, 0);
    model->identity.tokenizer++;
    EXPECT("another tokenizer", order, 0, 2, 0, 0);
    model->identity.tokenizer = 0; /* it cannot be told: nothing is asked for or given */
    size_t texts = saved_tier_count(ITEM_TEXT);
    EXPECT("an unknown tokenizer", order, 0, 2, 0, 0);
    assert_int_equal(saved_tier_count(ITEM_TEXT), texts);
    model->identity = ring_engine(saved_rings[1])->model->identity;
    EXPECT("the first one again", order, 0, 0, 2, 2);
    saved_tier_close();
}

/* Policies need what was not computed; but they compute the first step, and others may have that. */
static void runs_with_caching_give_their_first_step_and_take_none(void **state)
{
    static const char *const settings[] = {"balanced", "easycache:threshold=0.3,first=3",
                                           "zeus:first=3,late=0", "layers:every=3,begin=2,end=6"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        struct job_order order = order_now(settings[i]), plain = order_now(NULL);
        saved_tier_open(MEMORY);
        EXPECT(settings[i], order, 0, 2, 0, 0);
        assert_int_equal(saved_tier_count(ITEM_FIRST_STEP), 2);
        EXPECT("off", plain, 1, 0, 2, 2);
        EXPECT(settings[i], order, 2, 0, 2, 0);
        order.compare = true;
        EXPECT("compare", order, 1, 0, 2, 2); /* its first run has no caching */
        saved_tier_close();
    }
}

/* Who goes on from a checkpoint has no first step, and the last step of another is none. */
static void a_job_that_goes_on_takes_text_alone(void **state)
{
    struct job_order order = order_now(NULL), branch;
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    saved_tier_open(MEMORY);
    EXPECT("first", order, 0, 2, 0, 0);
    branch = order, branch.job = 8, branch.origin = order.job, branch.origin_step = 3;
    struct job *job = saved_create(saved_rings[1], &branch);
    struct error error;
    assert_int_equal(job_restore(job, whole.at[3].bytes, whole.at[3].size, &error), STATUS_OK);
    struct saved_run rest = {0};
    saved_drive(saved_rings[1], job, INT32_MAX, false, &rest);
    assert_int_equal(job->status.texts_reused, 2);
    assert_int_equal(job->status.first_steps_reused, 0);
    assert_int_equal(job->status.steps_taken_over, 3);
    saved_take(job, &rest);
    saved_expect_same("branch", 3, &whole, &rest);
    saved_discard(saved_rings[1], job);
    assert_int_equal(saved_tier_count(ITEM_FIRST_STEP), 2);
    saved_free(&whole);
    saved_free(&rest);
    saved_tier_close();
}

/* Items under the right names that cannot be what they should be. */
static void items_of_another_size_are_not_used(void **state)
{
    struct job_order order = order_now(NULL);
    saved_tier_open(MEMORY);
    struct job *job = saved_create(saved_rings[0], &order);
    job_tend(job); /* makes the keys */
    const struct ask *asks[] = {&job->text_ask[0], &job->text_ask[1], &job->step_ask[0], &job->step_ask[1]};
    static const uint64_t sizes[] = {7, 16 << 20 >> 2, 4, 1 << 20};
    for (int i = 0; i < 4; i++) {
        void *zeros = calloc(1, sizes[i]);
        assert_true(asks[i]->keyed);
        saved_tier_put(&asks[i]->query.key, zeros, sizes[i]);
        free(zeros);
    }
    saved_discard(saved_rings[0], job);
    EXPECT("forged", order, 0, 2, 0, 0);
    saved_tier_close();
}

/* In any piece of its text and of its first step. */
static void a_job_that_ends_anywhere_leaves_no_item_half_made(void **state)
{
    struct job_order order = order_now(NULL);
    for (int pieces = 0; pieces < 60; pieces += 3) {
        saved_tier_open(MEMORY);
        for (int again = 0; again < 2; again++) {
            struct job *job = saved_create(saved_rings[1], &order);
            for (int i = 0; i < pieces * (again + 1) && job->life < LIFE_DECODE; i++)
                ring_deliver(saved_rings[1], job, job_advance(job) == JOB_WAITS);
            saved_discard(saved_rings[1], job);
            saved_tier_settle();
        }
        saved_tier_close();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_made_is_not_made_again),
        cmocka_unit_test(as_many_steps_as_begin_alike_share_their_first),
        cmocka_unit_test(one_fact_that_differs_is_a_miss),
        cmocka_unit_test(runs_with_caching_give_their_first_step_and_take_none),
        cmocka_unit_test(a_job_that_goes_on_takes_text_alone),
        cmocka_unit_test(items_of_another_size_are_not_used),
        cmocka_unit_test(a_job_that_ends_anywhere_leaves_no_item_half_made),
    };
    return cmocka_run_group_tests(tests, saved_start_rings, saved_end_rings);
}
