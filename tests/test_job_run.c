/*
 * test_job_run.c - runs that are taken whole: a job that is the same in everything makes no step, and ends with the bits
 * and the report of the job that made them; one that differs in one fact makes them all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cache/calibration.h"
#include "tests/saved_tier.h"

enum { MEMORY = 16 << 20, NUMERICS_AT = 160, OTHER_JOB = 8, AT = 6 };

static struct job_order order_now(const char *cache)
{
    struct job_order order = saved_order(cache);
    order.tenant = "ann";
    return order;
}

struct counted {
    struct saved_run run;
    int made;  /* steps */
    int taken; /* steps, as the job says */
    int texts; /* prompts encoded or taken */
    double seconds;
};

/* from: NULL, or a checkpoint to go on from. */
static struct counted run_from(int ring, const struct job_order *order, const struct saved_bytes *from)
{
    struct counted counted = {0};
    struct error error;
    struct job *job = saved_create(saved_rings[ring], order);
    int last = -1;
    if (from && job_restore(job, from->bytes, from->size, &error) != STATUS_OK) fail_msg("%s", error.text);
    while (job->life < LIFE_DECODE) {
        int at = job->life == LIFE_STEP && !job->replaying ? job->pass * order->steps + job->step : -1;
        counted.made += last >= 0 && at == last + 1;
        last = at;
        ring_deliver(saved_rings[ring], job, job_advance(job) == JOB_WAITS);
    }
    if (job->life == LIFE_FINISHED) fail_msg("it failed");
    counted.taken = job->status.steps_reused;
    counted.texts = job->text_branch;
    counted.seconds = job->status.reused_seconds;
    saved_take(job, &counted.run);
    saved_discard(saved_rings[ring], job);
    if (saved_tier) saved_tier_settle();
    return counted;
}

/* With the tier, and compared with the same made without one. */
static struct counted run_exact(const char *name, int ring, const struct job_order *order,
                                const struct saved_bytes *from)
{
    struct counted here = run_from(ring, order, from);
    int other = (ring + 1) % SAVED_RINGS;
    saved_tier_use(other, false);
    struct counted alone = run_from(other, order, from);
    saved_tier_use(other, true);
    assert_int_equal(alone.taken, 0);
    saved_expect_same(name, 0, &alone.run, &here.run);
    saved_free(&alone.run);
    return here;
}

#define EXPECT_FROM(name, order, ring, from, want_made, want_taken)                                          \
    do {                                                                                                     \
        struct counted counted = run_exact(name, ring, &(order), from);                                      \
        if (counted.made != (want_made) || counted.taken != (want_taken))                                    \
            fail_msg("%s: %d steps made and %d taken instead of %d and %d", name, counted.made,              \
                     counted.taken, want_made, want_taken);                                                  \
        if (counted.taken && counted.seconds <= 0) fail_msg("%s: it saved no time", name);                   \
        if (!counted.made && counted.texts) fail_msg("%s: its text was made for nothing", name);             \
        saved_free(&counted.run);                                                                            \
    } while (0)
#define EXPECT(name, order, ring, want_made, want_taken)                                                     \
    EXPECT_FROM(name, order, ring, NULL, want_made, want_taken)

/* ------------------------------------------------------------------------------------------------- the same job */

static void an_equal_job_takes_every_step_whatever_its_caching(void **state)
{
    for (int i = -1; i < SAVED_SETTINGS; i++) {
        struct job_order order = order_now(i < 0 ? NULL : saved_settings[i]);
        const char *name = order.cache ? order.cache : "off";
        saved_tier_open(MEMORY);
        enum item_kind kind = strcmp(name, "calibrate") == 0 ? ITEM_TABLE : ITEM_LATENT;
        EXPECT(name, order, (i + 1) % SAVED_RINGS, STEPS, 0);
        assert_int_equal(saved_tier_count(kind), 1);
        assert_int_equal(saved_tier_count(ITEM_TABLE) + saved_tier_count(ITEM_LATENT), 1);
        order.job = OTHER_JOB;
        EXPECT(name, order, (i + 2) % SAVED_RINGS, 0, STEPS);
        saved_tier_close();
    }
}

static void what_changes_no_bit_of_the_latent_does_not_matter(void **state)
{
    struct job_order order = order_now("balanced"), other;
    saved_tier_open(MEMORY);
    EXPECT("first", order, 0, STEPS, 0);
#define TAKES(...)                                                                                           \
    do {                                                                                                     \
        other = order;                                                                                       \
        __VA_ARGS__;                                                                                         \
        EXPECT(#__VA_ARGS__, other, 1, 0, STEPS);                                                            \
    } while (0)
    TAKES(other.job = 99);
    TAKES(other.attempt = 3);
    TAKES(other.fps = 30);
    TAKES(other.save_latents = other.save_frames = true);
    TAKES(other.priority = 2);
    TAKES(other.deadline_ms = 1);
    TAKES(other.checkpoint_every = 5);
    TAKES(other.preview_every = 3);
#undef TAKES
    order.guidance = 1;
    EXPECT("no guidance", order, 0, STEPS, 0);
    order.negative = "anything else";
    EXPECT("no guidance, another negative", order, 2, 0, STEPS);
    order.guidance = 0.5;
    EXPECT("less than none", order, 2, 0, STEPS);
    saved_tier_close();
}

static void one_fact_that_differs_is_a_miss(void **state)
{
    struct job_order order = order_now("balanced"), other;
    saved_tier_open(MEMORY);
    EXPECT("first", order, 0, STEPS, 0);
#define MISSES_RUN(...)                                                                                      \
    do {                                                                                                     \
        other = order;                                                                                       \
        __VA_ARGS__;                                                                                         \
        EXPECT(#__VA_ARGS__, other, 1, other.steps, 0);                                                      \
    } while (0)
    MISSES_RUN(other.tenant = "bob");
    MISSES_RUN(other.tenant = NULL);
    MISSES_RUN(other.prompt = "a yellow star");
    MISSES_RUN(other.negative = "");
    MISSES_RUN(other.seed = 4);
    MISSES_RUN(other.width = 48);
    MISSES_RUN(other.height = 48);
    MISSES_RUN(other.frames = 5);
    MISSES_RUN(other.steps = 13);
    MISSES_RUN(other.solver = SOLVER_EULER);
    MISSES_RUN(other.shift = 3.5);
    MISSES_RUN(other.guidance = 4.5);
    MISSES_RUN(other.guidance = 1);
    MISSES_RUN(other.cache = NULL);
    MISSES_RUN(other.cache = "fast");
    MISSES_RUN(other.table_count = 4);
#undef MISSES_RUN
    struct model *model = ring_engine(saved_rings[0])->model;
    model->identity.rest++;
    EXPECT("other weights", order, 0, STEPS, 0);
    model->identity.text_encoder++;
    EXPECT("another text encoder", order, 0, STEPS, 0);
    model->identity.tokenizer++;
    EXPECT("another tokenizer", order, 0, STEPS, 0);
    size_t items = saved_tier_count(ITEM_LATENT);
    model->identity.tokenizer = 0;
    EXPECT("an unknown tokenizer", order, 0, STEPS, 0);
    assert_int_equal(saved_tier_count(ITEM_LATENT), items);
    model->identity = ring_engine(saved_rings[1])->model->identity;
    EXPECT("the first one again", order, 0, 0, STEPS);
    saved_tier_close();
}

/* ---------------------------------------------------------------------------------------------------- calibrating */

static uint64_t tenant_of_run(const struct job_order *order)
{
    saved_tier_open(MEMORY);
    struct job *job = saved_create(saved_rings[0], order);
    job_tend(job);
    assert_true(job->run[0].keyed);
    uint64_t tenant = job->run[0].key.tenant;
    saved_discard(saved_rings[0], job);
    saved_tier_close();
    return tenant;
}

/* With the standard prompts nobody's words are in it: what one tenant measured, all have. */
static void a_standard_calibration_is_everybody_s(void **state)
{
    struct job_order order = order_now("calibrate:F0"), other;
    order.prompt = calibration_prompts[1], order.negative = "", order.seed = 0;
    assert_true(tenant_of_run(&order) == KEY_PUBLIC);
    saved_tier_open(MEMORY);
    EXPECT("ann", order, 0, STEPS, 0);
    assert_int_equal(saved_tier_count(ITEM_TABLE), 1);
    other = order, other.tenant = "bob", other.job = OTHER_JOB;
    EXPECT("bob", other, 1, 0, STEPS);
    other.table_count = 0; /* it decides by none */
    EXPECT("bob, without tables", other, 2, 0, STEPS);
    other = order, other.cache = "calibrate:F1";
    EXPECT("over other blocks", other, 1, STEPS, 0);
    other = order, other.steps = STEPS - 1;
    EXPECT("another number of steps", other, 2, STEPS - 1, 0);
    other = order, other.prompt = calibration_prompts[2];
    EXPECT("another prompt", other, 0, STEPS, 0);
    other = order, other.guidance = 5;
    EXPECT("another guidance", other, 1, STEPS, 0);
    other.guidance = 1;
    EXPECT("no guidance", other, 2, STEPS, 0);
    other.guidance = 0.5;
    EXPECT("less than none", other, 1, 0, STEPS);
    assert_int_equal(saved_tier_count(ITEM_TABLE), 6);
    assert_int_equal(saved_tier_count(ITEM_LATENT), 0);
    saved_tier_close();
}

static void a_calibration_with_somebody_s_own_words_is_his(void **state)
{
    struct job_order standard = order_now("calibrate:F0"), order, other;
    standard.prompt = calibration_prompts[0], standard.negative = "", standard.seed = 0;
#define IS_HIS(...)                                                                                          \
    do {                                                                                                     \
        order = standard;                                                                                    \
        __VA_ARGS__;                                                                                         \
        assert_true(tenant_of_run(&order) != KEY_PUBLIC);                                                    \
        saved_tier_open(MEMORY);                                                                             \
        EXPECT(#__VA_ARGS__, order, 0, STEPS, 0);                                                            \
        other = order, other.tenant = "bob";                                                                 \
        EXPECT(#__VA_ARGS__ ", another's", other, 1, STEPS, 0);                                              \
        EXPECT(#__VA_ARGS__ ", again", order, 2, 0, STEPS);                                                  \
        saved_tier_close();                                                                                  \
    } while (0)
    IS_HIS(order.prompt = "a large red star spinning on a navy background ");
    IS_HIS(order.negative = "x");
    IS_HIS(order.seed = 1);
#undef IS_HIS
    order = standard, order.cache = "interval:N=3"; /* a standard prompt alone makes nothing public */
    assert_true(tenant_of_run(&order) != KEY_PUBLIC);
}

/* Its records are what tables are made from: one that broke is made again. */
static void a_calibration_that_broke_is_made_again(void **state)
{
    struct job_order order = order_now("calibrate:F0");
    order.prompt = calibration_prompts[3], order.negative = "", order.seed = 0;
    saved_tier_open(MEMORY);
    struct job *job = saved_create(saved_rings[0], &order);
    job_tend(job);
    struct key key = job->run[0].key;
    saved_discard(saved_rings[0], job);
    struct saved_run good = saved_run(saved_rings[0], &order, NULL, true);
    struct saved_bytes *end = &good.at[STEPS];
    assert_true(good.record_count > 0);
    for (int i = 0; i < 8; i++) {
        struct saved_bytes bad = {saved_copy(end->bytes, end->size), end->size};
        saved_tier_settle();
        saved_tier_forget(ITEM_TABLE);
        bad.bytes[HEAD + (bad.size - HEAD) * (size_t)i / 8] ^= (unsigned char)(1 << i);
        if (i == 7) bad.size -= 100, saved_forge(&bad); /* as if it were whole */
        saved_tier_put(&key, bad.bytes, bad.size);
        EXPECT("forged", order, 1, STEPS, 0);
        free(bad.bytes);
    }
    saved_free(&good);
    saved_tier_close();
}

/* ----------------------------------------------------------------------------------------------------- comparing */

static void a_job_that_compares_is_two_runs(void **state)
{
    struct job_order plain = order_now(NULL), cached = order_now("balanced"), both = cached, other;
    both.compare = true;
    saved_tier_open(MEMORY);
    EXPECT("uncached", plain, 0, STEPS, 0);
    EXPECT("compares", both, 1, STEPS, STEPS); /* the uncached run was there */
    assert_int_equal(saved_tier_count(ITEM_LATENT), 2);
    EXPECT("cached", cached, 2, 0, STEPS);
    EXPECT("compares again", both, 0, 0, 2 * STEPS);
    other = both, other.cache = "fast";
    EXPECT("compares another policy", other, 1, STEPS, STEPS);
    saved_tier_forget(ITEM_LATENT);
    EXPECT("compares, nothing there", both, 2, 2 * STEPS, 0);
    assert_int_equal(saved_tier_count(ITEM_LATENT), 2);
    EXPECT("uncached", plain, 1, 0, STEPS);
    EXPECT("cached", cached, 0, 0, STEPS);
    saved_tier_close();
}

/* --------------------------------------------------------------------------------------------------- going on */

static struct job_order branch_of(const struct job_order *order, int step)
{
    struct job_order branch = *order;
    branch.job = OTHER_JOB;
    branch.origin = order->job;
    branch.origin_step = step;
    return branch;
}

/* With changes a branch is a run of its own, that depends on where it began. */
static void a_branch_is_named_by_its_origin_and_what_it_changes(void **state)
{
    struct job_order order = order_now("balanced"), branch, other;
    saved_tier_open(MEMORY);
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    saved_tier_settle();
    branch = branch_of(&order, AT);
    EXPECT_FROM("nothing is changed", branch, 1, &whole.at[AT], 0, STEPS - AT);
    branch.guidance = 6;
    EXPECT_FROM("guidance", branch, 1, &whole.at[AT], STEPS - AT, 0);
    EXPECT_FROM("guidance again", branch, 2, &whole.at[AT], 0, STEPS - AT);
    other = branch, other.origin_step = AT + 1;
    EXPECT_FROM("another step", other, 0, &whole.at[AT + 1], STEPS - AT - 1, 0);
    other = branch, other.prompt = "a yellow star";
    EXPECT_FROM("another prompt", other, 1, &whole.at[AT], STEPS - AT, 0);
    other = branch, other.tenant = "bob";
    EXPECT_FROM("another tenant", other, 1, &whole.at[AT], STEPS - AT, 0);
    other = order, other.guidance = 6;
    EXPECT("not a branch", other, 2, STEPS, 0);
    order.seed = 4;
    struct saved_run seeded = saved_run(saved_rings[0], &order, NULL, true);
    other = branch, other.seed = 4;
    EXPECT_FROM("another origin", other, 2, &seeded.at[AT], STEPS - AT, 0);
    saved_free(&whole);
    saved_free(&seeded);
    saved_tier_close();
}

/* A branch of a branch, whose first part was taken, ends as what was made does. */
static void a_branch_of_what_was_taken_is_exact(void **state)
{
    struct job_order order = order_now("dicache:threshold=0.4"), branch = branch_of(&order, AT), deeper;
    saved_tier_open(MEMORY);
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    branch.guidance = 6;
    struct saved_run second = saved_run(saved_rings[1], &branch, &whole.at[AT], true);
    saved_tier_settle();
    deeper = branch, deeper.job = 9, deeper.origin = branch.job, deeper.origin_step = AT + 3;
    EXPECT_FROM("unchanged", deeper, 2, &second.at[AT + 3], 0, STEPS - AT - 3);
    deeper.guidance = 3;
    EXPECT_FROM("changed", deeper, 0, &second.at[AT + 3], STEPS - AT - 3, 0);
    EXPECT_FROM("changed, again", deeper, 1, &second.at[AT + 3], 0, STEPS - AT - 3);
    saved_free(&whole);
    saved_free(&second);
    saved_tier_close();
}

/* A job that was moved gives what it made; one whose first steps were made otherwise gives nothing. */
static void a_job_that_goes_on_gives_its_run_if_all_of_it_is_known(void **state)
{
    struct job_order order = order_now("balanced");
    saved_tier_open(MEMORY);
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    saved_tier_settle();
    saved_tier_forget(ITEM_LATENT);
    order.attempt++;
    EXPECT_FROM("moved", order, 1, &whole.at[AT], STEPS - AT, 0);
    assert_int_equal(saved_tier_count(ITEM_LATENT), 1);
    EXPECT("again", order, 2, 0, STEPS);
    saved_tier_forget(ITEM_LATENT);
    whole.at[AT].bytes[NUMERICS_AT] ^= 1;
    saved_forge(&whole.at[AT]);
    EXPECT_FROM("by another program", order, 1, &whole.at[AT], STEPS - AT, 0);
    assert_int_equal(saved_tier_count(ITEM_LATENT), 0);
    saved_free(&whole);
    saved_tier_close();
}

/* What a job that took a run saves is what the job that made it saves. */
static void others_can_go_on_from_a_job_that_took_everything(void **state)
{
    struct job_order order = order_now("balanced"), branch = branch_of(&order, STEPS);
    struct error error;
    int step;
    saved_tier_open(MEMORY);
    struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);
    saved_tier_settle();
    struct job *job = saved_create(saved_rings[1], &order);
    job_tend(job);
    assert_int_equal(job->life, LIFE_DECODE);
    assert_true(job_between_steps(job, &step));
    assert_int_equal(step, STEPS);
    struct saved_bytes saved = {.size = job_save_bytes(job)};
    assert_int_equal(saved.size, whole.at[STEPS].size);
    saved.bytes = saved_copy(NULL, saved.size);
    assert_int_equal(job_save(job, saved.bytes, saved.size, &error), STATUS_OK);
    assert_memory_equal(saved.bytes + HEAD, whole.at[STEPS].bytes + HEAD, saved.size - HEAD);
    saved_discard(saved_rings[1], job);
    struct saved_run end = saved_run(saved_rings[2], &branch, &saved, false);
    assert_true(end.over);
    saved_expect_same("end", STEPS, &whole, &end);
    free(saved.bytes);
    saved_free(&end);
    saved_free(&whole);
    saved_tier_close();
}

/* ------------------------------------------------------------------------------------------------- checkpoints */

/* Makes some steps, gives a checkpoint after every other, and is cancelled. */
static void make_some(int ring, const struct job_order *order, int steps)
{
    struct job *job = saved_create(saved_rings[ring], order);
    int step, given = 0;
    while (job->life < LIFE_DECODE) {
        bool between = job_between_steps(job, &step);
        if (between && step != given && step % 2 == 0) {
            job_give_checkpoint(job);
            given = step;
        }
        if (between && step == steps) break;
        ring_deliver(saved_rings[ring], job, job_advance(job) == JOB_WAITS);
    }
    saved_discard(saved_rings[ring], job);
    saved_tier_settle();
}

static void an_equal_job_goes_on_where_another_was_cancelled(void **state)
{
    for (int i = -1; i < SAVED_SETTINGS; i++) {
        struct job_order order = order_now(i < 0 ? NULL : saved_settings[i]);
        const char *name = order.cache ? order.cache : "off";
        saved_tier_open(MEMORY);
        make_some((i + 1) % SAVED_RINGS, &order, 9);
        int items = (int)saved_tier_count(ITEM_CHECKPOINT);
        assert_true(items > 0 && items <= 4); /* some policies cannot be saved after every step */
        assert_int_equal(saved_tier_count(ITEM_LATENT), 0);
        order.job = OTHER_JOB;
        struct counted rest = run_exact(name, (i + 2) % SAVED_RINGS, &order, NULL);
        if (rest.taken < 2 || rest.taken > 8 || rest.made + rest.taken != STEPS)
            fail_msg("%s: %d steps made and %d taken", name, rest.made, rest.taken);
        if (items == 4) assert_int_equal(rest.taken, 8);
        assert_true(rest.seconds > 0);
        saved_free(&rest.run);
        assert_int_equal(saved_tier_count(ITEM_LATENT) + saved_tier_count(ITEM_TABLE), 1);
        assert_int_equal(saved_tier_count(ITEM_CHECKPOINT), 0); /* of no more use */
        saved_tier_close();
    }
}

static void who_compares_goes_on_in_its_first_run(void **state)
{
    struct job_order plain = order_now(NULL), both = order_now("balanced");
    both.compare = true;
    saved_tier_open(MEMORY);
    make_some(0, &plain, 9);
    EXPECT("compares", both, 1, STEPS + STEPS - 8, 8);
    saved_tier_forget(ITEM_LATENT);
    make_some(0, &both, STEPS + 7); /* ended in the second */
    assert_int_equal(saved_tier_count(ITEM_CHECKPOINT), 3);
    EXPECT("compares", both, 2, STEPS - 6, STEPS + 6);
    saved_tier_close();
}

/* What a job itself saved counts where it is further; what cannot be used leaves it as it was. */
static void a_job_takes_only_what_is_further_than_it_is(void **state)
{
    static const char *const settings[] = {NULL, "balanced", "dicache:threshold=0.4",
                                           "layers:every=3,begin=2,end=6"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        struct job_order order = order_now(settings[i]);
        const char *name = settings[i] ? settings[i] : "off";
        struct saved_run whole;
        struct key key;
        saved_tier_open(MEMORY);
        whole = saved_run(saved_rings[0], &order, NULL, true);
        saved_tier_settle();
        saved_tier_forget(ITEM_LATENT);
        make_some(0, &order, 5); /* after the fourth step */
        EXPECT_FROM(name, order, 1, &whole.at[3], STEPS - 4, 1);
        saved_tier_forget(ITEM_LATENT);
        make_some(0, &order, 5);
        EXPECT_FROM(name, order, 2, &whole.at[5], STEPS - 5, 0);
        saved_tier_forget(ITEM_LATENT);
        saved_tier_forget(ITEM_CHECKPOINT);
        /* under the eighth step's name something whose hashes fit and whose caching does not */
        struct job *job = saved_create(saved_rings[0], &order);
        job_tend(job);
        assert_int_equal(tier_run_key(&job->run[0].key, 8, STEPS, &key), STATUS_OK);
        saved_discard(saved_rings[0], job);
        struct saved_bytes bad = {saved_copy(whole.at[8].bytes, whole.at[8].size), whole.at[8].size};
        bad.size -= settings[i] ? 4 : 0;
        bad.bytes[settings[i] ? HEAD : FORMAT_AT]++;
        saved_forge(&bad);
        saved_tier_put(&key, bad.bytes, bad.size);
        EXPECT_FROM(name, order, 1, &whole.at[3], STEPS - 3, 0);
        free(bad.bytes);
        saved_free(&whole);
        saved_tier_close();
    }
}

/* -------------------------------------------------------------------------------------------------- bad items */

/* Under the right name lies what is none, is another run's, or broke: the job makes it all. */
static void items_that_cannot_be_used_are_not(void **state)
{
    struct job_order order = order_now("balanced"), other = order;
    other.seed = 4;
    saved_tier_open(MEMORY);
    struct job *job = saved_create(saved_rings[0], &order);
    job_tend(job);
    assert_true(job->run[0].keyed);
    struct key key = job->run[0].key;
    struct saved_run good = saved_run(saved_rings[0], &order, NULL, true),
                     foreign = saved_run(saved_rings[0], &other, NULL, true);
    saved_discard(saved_rings[0], job);
    struct saved_bytes *end = &good.at[STEPS];
    for (int i = 0; i < 6; i++) {
        struct saved_bytes bad = {saved_copy(end->bytes, end->size), end->size};
        saved_tier_settle();
        saved_tier_forget(ITEM_LATENT);
        if (i == 0) bad.size = 7;
        if (i == 1) bad.bytes[HEAD + 100] ^= 1; /* its own hash does not fit */
        if (i == 2) bad.size--, saved_forge(&bad);
        if (i == 3)
            memset(bad.bytes + bad.size - 40, 0xff, 40), saved_forge(&bad); /* reasons that are none */
        if (i == 4) memcpy(bad.bytes, foreign.at[STEPS].bytes, bad.size);
        if (i == 5) bad.size += 4, bad.bytes = realloc(bad.bytes, bad.size), saved_forge(&bad);
        saved_tier_put(&key, bad.bytes, bad.size);
        EXPECT("forged", order, 1, STEPS, 0);
        free(bad.bytes);
    }
    saved_free(&good);
    saved_free(&foreign);
    saved_tier_close();
}

/* In any piece, also between the runs of one that compares: nothing is left half made, and nothing wrong. */
static void a_job_that_ends_anywhere_leaves_no_half_item(void **state)
{
    struct job_order order = order_now("balanced");
    order.compare = true;
    order.steps = 4;
    for (int pieces = 0; pieces < 200; pieces += 7) {
        saved_tier_open(MEMORY);
        struct job *job = saved_create(saved_rings[1], &order);
        for (int i = 0; i < pieces && job->life < LIFE_DECODE; i++)
            ring_deliver(saved_rings[1], job, job_advance(job) == JOB_WAITS);
        saved_discard(saved_rings[1], job);
        saved_tier_settle();
        int there = (int)saved_tier_count(ITEM_LATENT);
        struct counted again = run_exact("after one that ended", 2, &order, NULL);
        assert_int_equal(again.taken, there * order.steps);
        assert_int_equal(again.made + again.taken, 2 * order.steps);
        saved_free(&again.run);
        saved_tier_close();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_equal_job_takes_every_step_whatever_its_caching),
        cmocka_unit_test(what_changes_no_bit_of_the_latent_does_not_matter),
        cmocka_unit_test(one_fact_that_differs_is_a_miss),
        cmocka_unit_test(a_standard_calibration_is_everybody_s),
        cmocka_unit_test(a_calibration_with_somebody_s_own_words_is_his),
        cmocka_unit_test(a_calibration_that_broke_is_made_again),
        cmocka_unit_test(a_job_that_compares_is_two_runs),
        cmocka_unit_test(a_branch_is_named_by_its_origin_and_what_it_changes),
        cmocka_unit_test(a_branch_of_what_was_taken_is_exact),
        cmocka_unit_test(a_job_that_goes_on_gives_its_run_if_all_of_it_is_known),
        cmocka_unit_test(others_can_go_on_from_a_job_that_took_everything),
        cmocka_unit_test(an_equal_job_goes_on_where_another_was_cancelled),
        cmocka_unit_test(who_compares_goes_on_in_its_first_run),
        cmocka_unit_test(a_job_takes_only_what_is_further_than_it_is),
        cmocka_unit_test(items_that_cannot_be_used_are_not),
        cmocka_unit_test(a_job_that_ends_anywhere_leaves_no_half_item),
    };
    return cmocka_run_group_tests(tests, saved_start_rings, saved_end_rings);
}
