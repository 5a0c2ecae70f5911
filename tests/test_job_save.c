/*
 * test_job_save.c - a job's state as bytes: whatever its caching, it goes on from any of its steps, on any
 * number of ranks, with the same bits; and nothing else is taken for a checkpoint.
 *
 * Every setting runs undisturbed on one rank, then on two while every step is saved. From each of these
 * checkpoints a new job goes on to the end on another ring, and saves its steps, too: they must be the same
 * bytes.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <xxhash.h>

#include "tests/ring.h"
#include "worker/job_state.h"

enum {
    STEPS = 14,
    MOST_STEPS = 2 * STEPS,
    RINGS = 3,
    HEAD = 112,
    FORMAT_AT = 4,
    HASH_AT = 16,
    HASHED_FROM = 24
};

static struct ring *rings[RINGS]; /* of 1, 2 and 3 members; stay for all tests */

/* Each keeps something else or forecasts in another way, and all but `calibrate` skip something. */
static const char *const settings[] = {
    "interval:N=3,forecast=reuse",
    "interval:N=3,backwards=1,forecast=taylor1",
    "interval:N=2,first=2,grow=0.75,forecast=taylor2",
    "interval:N=3,F=2,B=1,forecast=newton2",
    "interval:N=3,forecast=hermite",
    "interval:N=3,first=3,forecast=ab",
    "interval:N=3,first=3,forecast=foca",
    "interval:N=3,first=3,forecast=freqca",
    "interval:N=3,first=4,forecast=worldcache",
    "interval:N=2,first=4,forecast=dmd",
    "interval:N=3,first=3,forecast=spectrum",
    "interval:N=3,first=3,forecast=l2p",
    "mask:mask=11010010010010,forecast=taylor1",
    "magcache:threshold=0.5",
    "teacache:threshold=0.3",
    "teacache:threshold=0.3,retention=1,first=2",
    "fbcache:threshold=0.3",
    "dbcache:F1B0,W3,threshold=0.5,forecast=taylor1",
    "dbcache:F1B0,W2,M=3,threshold=0.9,separate=0",
    "dbcache:F3B2,W3,threshold=0.5,separate=0,forecast=newton2",
    "easycache:threshold=0.3,first=3",
    "dicache:threshold=0.4",
    "dicache:threshold=0.4,delta_minus=1,m=2",
    "seacache:threshold=0.4",
    "seacache:threshold=0.4,forecast=freqca",
    "balanced",
    "sencache:threshold=20,early=20",
    "specache",
    "zeus:first=3,late=0",
    "easycache:threshold=0.3,first=5,forecast=dmd",
    "meancache:mask=11101001001101,order=2",
    "calibrate",
};
enum { SETTINGS = sizeof settings / sizeof *settings };

/* ------------------------------------------------------------------------------------------------------------
 * tables */

static struct cache_table tables[5];

static double *values_of(int count)
{
    double *values = calloc((size_t)count, sizeof *values);
    assert_non_null(values);
    return values;
}

/* Numbers of no model, in reasonable sizes: one of each kind. */
static void make_tables(void)
{
    double *ratios = values_of(STEPS), *line = values_of(5), *retention = values_of(5),
           *sensitivities = values_of(2 * STEPS), *products = values_of(STEPS * STEPS);
    for (int i = 0; i < STEPS; i++) {
        ratios[i] = 1 - 0.02 * i / STEPS;
        sensitivities[2 * i] = 1;
        sensitivities[2 * i + 1] = 1e-3;
        for (int k = 0; k < STEPS; k++) products[i * STEPS + k] = exp(-abs(i - k) / 6.0);
    }
    line[3] = retention[3] = 1;
    tables[0] = (struct cache_table){.kind = "magcache", .width = 1, .count = STEPS, .values = ratios};
    tables[1] = (struct cache_table){.kind = "teacache", .width = 5, .count = 5, .values = line};
    tables[2] =
        (struct cache_table){.kind = "teacache-retention", .width = 5, .count = 5, .values = retention};
    tables[3] =
        (struct cache_table){.kind = "sencache", .width = 2, .count = 2 * STEPS, .values = sensitivities};
    tables[4] =
        (struct cache_table){.kind = "l2p", .width = STEPS, .count = STEPS * STEPS, .values = products};
    for (int i = 0; i < 5; i++) tables[i].name = "made up";
}

/* --------------------------------------------------------------------------------------------------------------
 * jobs */

static struct job_order order_with(const char *cache)
{
    return (struct job_order){.job = 7,
                              .attempt = 1,
                              .prompt = "a red square drifting right on a white background",
                              .negative = "a blue ring",
                              .seed = 3,
                              .steps = STEPS,
                              .width = 32,
                              .height = 32,
                              .frames = 9,
                              .fps = 8,
                              .guidance = 4,
                              .shift = 3,
                              .tables = tables,
                              .table_count = 5,
                              .cache = cache};
}

struct checkpoint {
    unsigned char *bytes; /* NULL: none */
    size_t size;
};

/* What came of a job. */
struct end {
    float *latent, *uncached;
    int64_t count;
    int cells, computed;
    unsigned char *actions, *reasons;
    float *changes, largest;
    struct reuse_record *records;
    int record_count;
    struct checkpoint at[MOST_STEPS + 1]; /* by steps finished */
    bool over;                            /* all steps were done when it was restored */
};

static void *copy_of(const void *from, size_t bytes)
{
    void *copy = malloc(bytes + 1);
    assert_non_null(copy);
    return from && bytes ? memcpy(copy, from, bytes) : copy;
}

static void free_end(struct end *end)
{
    for (int i = 0; i <= MOST_STEPS; i++) free(end->at[i].bytes);
    free(end->latent);
    free(end->uncached);
    free(end->actions);
    free(end->reasons);
    free(end->changes);
    free(end->records);
}

static void take_end(const struct job *j, struct end *end)
{
    size_t bytes = (size_t)j->latent_count * sizeof(float);
    end->count = j->latent_count;
    end->latent = copy_of(j->latent, bytes);
    end->uncached = copy_of(j->passes > 1 ? j->uncached_latent : j->latent, bytes);
    if (!j->cache) return;
    struct reuse_report report;
    reuse_describe(j->cache, &report);
    end->cells = report.steps * report.branches;
    end->computed = report.computed;
    end->largest = report.largest_reused;
    end->actions = copy_of(report.actions, (size_t)end->cells);
    end->reasons = copy_of(report.reasons, (size_t)end->cells);
    end->changes = copy_of(report.changes, (size_t)end->cells * sizeof(float));
    const struct reuse_record *records = reuse_trace(j->cache, &end->record_count);
    end->records = copy_of(records, (size_t)end->record_count * sizeof *records);
}

static struct job *create(struct ring *ring, const struct job_order *order)
{
    struct job *job;
    struct error error;
    if (job_create(ring_engine(ring), order, "/nowhere", &job, &error) != STATUS_OK)
        fail_msg("%s: %s", order->cache, error.text);
    return job;
}

/* Ends it, wherever it is. */
static void discard(struct ring *ring, struct job *job)
{
    job_cancel(job);
    for (enum job_result result; (result = job_advance(job)) != JOB_FINISHED;)
        ring_deliver(ring, job, result == JOB_WAITS);
    while (!job_settled(job)) ring_deliver(ring, job, true);
    job_destroy(job);
}

static struct checkpoint save(const struct job *job)
{
    struct checkpoint made = {.size = job_save_bytes(job)};
    if (made.size == 0) return made;
    made.bytes = malloc(made.size);
    assert_non_null(made.bytes);
    memset(made.bytes, 0xa5, made.size); /* what is left out shows as a difference */
    job_save(job, made.bytes, made.size);
    return made;
}

/* Until all steps are done (or `until` of them); saving: after every one. */
static void drive(struct ring *ring, struct job *job, int until, bool saving, struct end *end)
{
    while (job->life < LIFE_DECODE) {
        int step;
        bool between = job_between_steps(job, &step);
        if (between && saving && !end->at[step].bytes) end->at[step] = save(job);
        if (between && step >= until) return;
        ring_deliver(ring, job, job_advance(job) == JOB_WAITS);
    }
    struct error error = {0};
    if (job->life == LIFE_FINISHED) {
        job_outcome(job, &error);
        fail_msg("%s: %s", job->policy, error.text);
    }
}

static struct end run(struct ring *ring, const struct job_order *order, const struct checkpoint *from,
                      bool saving)
{
    struct end end = {0};
    struct error error;
    struct job *job = create(ring, order);
    if (from && job_restore(job, from->bytes, from->size, &error) != STATUS_OK)
        fail_msg("%s: %s", order->cache, error.text);
    end.over = job->life == LIFE_DECODE;
    drive(ring, job, INT32_MAX, saving, &end);
    take_end(job, &end);
    discard(ring, job);
    return end;
}

#define SAME(what, a, b, bytes)                                                                              \
    do {                                                                                                     \
        if (memcmp(a, b, bytes) != 0) fail_msg("%s, from step %d: other %s", name, step, what);              \
    } while (0)

static void expect_same(const char *name, int step, const struct end *a, const struct end *b)
{
    size_t latent = (size_t)a->count * sizeof(float), cells = (size_t)a->cells;
    assert_int_equal(a->cells, b->cells);
    SAME("latents", a->latent, b->latent, latent);
    SAME("uncached latents", a->uncached, b->uncached, latent);
    if (cells) {
        SAME("actions", a->actions, b->actions, cells);
        SAME("reasons", a->reasons, b->reasons, cells);
        SAME("changes", a->changes, b->changes, cells * sizeof(float));
    }
    assert_int_equal(a->computed, b->computed);
    assert_true(a->largest == b->largest);
    assert_int_equal(a->record_count, b->record_count);
    SAME("records", a->records, b->records, (size_t)a->record_count * sizeof *a->records);
}

/* But for the times in their heads. A job whose steps were all done saves no more. */
static void expect_same_checkpoints(const char *name, int step, const struct end *a, const struct end *b)
{
    for (int i = step; i <= MOST_STEPS; i++) {
        if (i == step && !b->at[i].bytes && b->over) return;
        if (a->at[i].size != b->at[i].size)
            fail_msg("%s, from step %d: a checkpoint of %zu bytes at %d instead of %zu", name, step,
                     b->at[i].size, i, a->at[i].size);
        if (a->at[i].size)
            SAME("checkpoint", a->at[i].bytes + HEAD, b->at[i].bytes + HEAD, a->at[i].size - HEAD);
    }
}

/* Saved on one ring, continued on the others, from each of the steps. Returns how many checkpoints there
 * were. */
static int check_every_step(const struct job_order *given, struct ring *saving)
{
    const char *name = given->cache ? given->cache : "off";
    struct job_order order = *given;
    struct end alone = run(rings[0], &order, NULL, false), saved = run(saving, &order, NULL, true);
    int checkpoints = 0;
    expect_same(name, 0, &alone, &saved);
    for (int step = 0; step <= MOST_STEPS; step++) {
        if (!saved.at[step].bytes) continue;
        order.attempt++;
        struct end again = run(rings[(step + 2) % RINGS], &order, &saved.at[step], true);
        expect_same(name, step, &alone, &again);
        expect_same_checkpoints(name, step, &saved, &again);
        free_end(&again);
        checkpoints++;
    }
    if (alone.cells && !strstr(name, "calibrate") && alone.computed == alone.cells)
        fail_msg("%s: skipped nothing", name);
    free_end(&alone);
    free_end(&saved);
    return checkpoints;
}

/* ------------------------------------------------------------------------------------------------------- the
 * same bits */

static void any_caching_goes_on_from_any_step_with_the_same_bits(void **state)
{
    for (int i = 0; i < SETTINGS; i++) {
        struct job_order order = order_with(settings[i]);
        assert_int_equal(check_every_step(&order, rings[1]), STEPS + 1);
    }
}

static void without_caching_too(void **state)
{
    struct job_order order = order_with(NULL);
    assert_int_equal(check_every_step(&order, rings[2]), STEPS + 1);
    order.solver = SOLVER_EULER;
    assert_int_equal(check_every_step(&order, rings[1]), STEPS + 1);
}

static void with_one_branch_and_with_euler_too(void **state)
{
    static const char *const some[] = {"balanced", "dicache:threshold=0.4", "easycache:threshold=0.3,first=3",
                                       "zeus:first=3,late=0"};
    for (int i = 0; i < 4; i++) {
        struct job_order order = order_with(some[i]);
        order.guidance = 1;
        check_every_step(&order, rings[2]);
        order.guidance = 4;
        order.solver = SOLVER_EULER;
        check_every_step(&order, rings[1]);
    }
}

static void a_comparison_goes_on_in_either_of_its_passes(void **state)
{
    static const char *const some[] = {"balanced", "easycache:threshold=0.3,first=3",
                                       "layers:every=3,begin=2,end=6"};
    for (int i = 0; i < 3; i++) {
        struct job_order order = order_with(some[i]);
        order.compare = true;
        int checkpoints = check_every_step(&order, rings[1]);
        assert_int_equal(checkpoints, i < 2 ? 2 * STEPS + 1 : STEPS + 1 + 1 + 1); /* see by_blocks below */
    }
}

/* Blocks keep what they reuse on their ranks: such a job is saved while all blocks of all steps were
 * computed, and when it is done. */
static void by_blocks_it_is_saved_until_a_block_is_reused_and_after_the_last_step(void **state)
{
    static const char *const some[] = {"layers:every=3,begin=2,end=6,first=4", "dbprune:F1,W3,threshold=0.3"};
    for (int i = 0; i < 2; i++) {
        struct job_order order = order_with(some[i]);
        struct end end = run(rings[1], &order, NULL, true);
        int first = 0;
        while (first < STEPS && end.actions[2 * first] == REUSE_COMPUTED &&
               end.actions[2 * first + 1] == REUSE_COMPUTED)
            first++;
        assert_in_range(first, 2, STEPS - 1);
        for (int step = 0; step <= STEPS; step++)
            if (!!end.at[step].bytes != (step <= first || step == STEPS))
                fail_msg("%s: reuses at step %d, saved at %d: %s", some[i], first, step,
                         end.at[step].bytes ? "yes" : "no");
        free_end(&end);
        assert_int_equal(check_every_step(&order, rings[1]), first + 2);
    }
}

/* -------------------------------------------------------------------------------------------------------------
 * finished */

static void finish(struct ring *ring, struct job *job)
{
    struct error error;
    for (enum job_result result; (result = job_advance(job)) != JOB_FINISHED;)
        ring_deliver(ring, job, result == JOB_WAITS);
    if (job_outcome(job, &error) != STATUS_OK) fail_msg("%s", error.text);
}

/* After the last step neither text nor stages are needed again; the report is complete. */
static void a_job_whose_steps_are_done_is_decoded_at_once(void **state)
{
    char directory[] = "/tmp/refrain-test-XXXXXX", path[64];
    struct job_order order = order_with("balanced");
    struct end end = {0};
    struct error error;
    struct job *job, *again;
    struct job_cache cache, cache_again;
    assert_non_null(mkdtemp(directory));
    order.tables = NULL;
    order.table_count = 0;
    assert_int_equal(job_create(ring_engine(rings[1]), &order, directory, &job, &error), STATUS_OK);
    drive(rings[1], job, STEPS, true, &end);
    finish(rings[1], job);
    order.attempt = 2;
    assert_int_equal(job_create(ring_engine(rings[0]), &order, directory, &again, &error), STATUS_OK);
    assert_int_equal(job_restore(again, end.at[STEPS].bytes, end.at[STEPS].size, &error), STATUS_OK);
    assert_int_equal(job_status(again)->phase, JOB_PHASE_DECODE);
    finish(rings[0], again);
    size_t frames = (size_t)order.frames * 3 * (size_t)order.width * (size_t)order.height;
    assert_memory_equal(job_frames(job), job_frames(again), frames * sizeof(float));
    assert_true(job_cache(job, &cache) && job_cache(again, &cache_again));
    assert_string_equal(cache.policy, cache_again.policy);
    assert_int_equal(cache.report.reused + cache.report.forecast,
                     cache_again.report.reused + cache_again.report.forecast);
    assert_true(cache.computed_seconds == cache_again.computed_seconds);
    assert_true(cache.reused_seconds == cache_again.reused_seconds);
    assert_true(cache_again.cached_seconds > 0);
    assert_true(job_status(again)->text_seconds == job_status(job)->text_seconds);
    assert_true(job_status(again)->denoise_seconds > 0);
    job_destroy(job);
    job_destroy(again);
    free_end(&end);
    snprintf(path, sizeof path, "%s/video.mp4", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/sheet.png", directory);
    unlink(path);
    rmdir(directory);
}

/* Times go on from what they were; the steps made again, and the pause, are not part of them. */
static void times_and_progress_go_on(void **state)
{
    struct job_order order = order_with("balanced");
    struct end end = run(rings[0], &order, NULL, true);
    struct checkpoint *at = &end.at[9];
    double hours = 5 * 3600;
    struct error error;
    int step;
    memcpy(at->bytes + 64, &hours, sizeof hours); /* of denoising */
    memcpy(at->bytes + 80, &hours, sizeof hours); /* of the pass */
    uint64_t hash = XXH64(at->bytes + HASHED_FROM, at->size - HASHED_FROM, 0);
    memcpy(at->bytes + HASH_AT, &hash, sizeof hash);
    struct job *job = create(rings[2], &order);
    assert_int_equal(job_restore(job, at->bytes, at->size, &error), STATUS_OK);
    while (!job_between_steps(job, &step)) ring_deliver(rings[2], job, job_advance(job) == JOB_WAITS);
    assert_int_equal(step, 9);
    assert_int_equal(job_status(job)->done, 9);
    assert_int_equal(job_status(job)->of, STEPS);
    assert_int_equal(job_status(job)->phase, JOB_PHASE_DENOISE);
    assert_true(job_status(job)->step_seconds > 0 && job_status(job)->seconds_left > 0);
    struct end rest = {0};
    drive(rings[2], job, INT32_MAX, false, &rest);
    assert_int_equal(job_status(job)->done, 0); /* of the decoder's frames */
    assert_true(job_status(job)->denoise_seconds >= hours && job_status(job)->denoise_seconds < hours + 600);
    assert_true(job->pass_seconds[0] >= hours && job->pass_seconds[0] < hours + 600);
    discard(rings[2], job);
    free_end(&end);
}

static void a_restored_job_can_be_cancelled_while_it_makes_steps_again(void **state)
{
    struct job_order order = order_with("interval:N=2,first=4,forecast=dmd");
    struct end end = run(rings[0], &order, NULL, true);
    struct error error;
    struct job *job = create(rings[2], &order);
    assert_int_equal(job_restore(job, end.at[11].bytes, end.at[11].size, &error), STATUS_OK);
    while (!job->replaying || !job->step_begun) ring_deliver(rings[2], job, job_advance(job) == JOB_WAITS);
    job_cancel(job);
    for (enum job_result result; (result = job_advance(job)) != JOB_FINISHED;)
        ring_deliver(rings[2], job, result == JOB_WAITS);
    assert_int_equal(job_outcome(job, &error), STATUS_ABORTED);
    discard(rings[2], job);
    free_end(&end);
}

/* -------------------------------------------------------------------------------------------------------------
 * refusals */

static void expect_refused(const struct job_order *order, const struct checkpoint *from, status_t why,
                           const char *what)
{
    struct error error;
    struct job *job = create(rings[0], order);
    status_t status = job_restore(job, from->bytes, from->size, &error);
    if (status != why) fail_msg("%s: %s instead of %s", what, status_name(status), status_name(why));
    assert_false(job->resumed);
    discard(rings[0], job);
}

static void a_checkpoint_of_anything_else_is_refused(void **state)
{
    struct job_order order = order_with("balanced"), other;
    struct end end = run(rings[0], &order, NULL, true);
    const struct checkpoint *at = &end.at[6];
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
    struct end again = run(rings[1], &other, at, false);
    expect_same("balanced", 6, &end, &again);
    free_end(&again);
    free_end(&end);
}

static void a_checkpoint_of_another_model_is_refused(void **state)
{
    struct job_order order = order_with("balanced");
    struct end end = run(rings[0], &order, NULL, true);
    struct model_config *config = &ring_engine(rings[0])->model->config, kept = *config;
    config->denoiser.eps *= 2;
    expect_refused(&order, &end.at[6], STATUS_CONFLICT, "eps");
    *config = kept;
    config->solver.order = 3;
    expect_refused(&order, &end.at[6], STATUS_CONFLICT, "solver_order");
    *config = kept;
    free_end(&end);
}

static void another_format_is_refused_as_such(void **state)
{
    struct job_order order = order_with(NULL);
    struct end end = run(rings[0], &order, NULL, true);
    end.at[3].bytes[FORMAT_AT]++;
    expect_refused(&order, &end.at[3], STATUS_UNSUPPORTED, "format");
    free_end(&end);
}

static void a_job_that_has_begun_is_not_restored(void **state)
{
    struct job_order order = order_with("balanced");
    struct end end = run(rings[0], &order, NULL, true), unused = {0};
    struct error error;
    struct job *job = create(rings[0], &order);
    drive(rings[0], job, 2, false, &unused);
    assert_int_equal(job_restore(job, end.at[3].bytes, end.at[3].size, &error), STATUS_CONFLICT);
    discard(rings[0], job);
    free_end(&end);
}

/* -----------------------------------------------------------------------------------------------------------------
 * fuzz */

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % limit;
}

static void forge_hash(const struct checkpoint *c)
{
    uint64_t bytes = c->size, hash;
    if (c->size < HEAD) return;
    memcpy(c->bytes + 8, &bytes, sizeof bytes);
    hash = XXH64(c->bytes + HASHED_FROM, c->size - HASHED_FROM, 0);
    memcpy(c->bytes + HASH_AT, &hash, sizeof hash);
}

/* Some bytes are other ones, or the end is missing, or there is more. In places that lie close together, and
 * in those with meaning rather than in tensors. */
static struct checkpoint break_it(const struct checkpoint *whole, bool forge)
{
    struct checkpoint broken = {.size = whole->size};
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
    if (forge) forge_hash(&broken);
    return broken;
}

/* With a right hash much is read; what is taken must be worked with, or end the job in an orderly way. */
static bool survive(const struct job_order *order, const struct checkpoint *broken)
{
    struct error error;
    struct job *job = create(rings[0], order);
    status_t status = job_restore(job, broken->bytes, broken->size, &error);
    if (status == STATUS_OK) {
        enum job_result result = JOB_ADVANCED;
        while (job->life < LIFE_DECODE && (result = job_advance(job)) == JOB_ADVANCED) {
        }
        assert_int_not_equal(result, JOB_WAITS); /* alone there is nothing to wait for */
    }
    discard(rings[0], job);
    return status == STATUS_OK;
}

/* Small, so that few bytes are tensors. */
static struct job_order small_order(const char *cache)
{
    struct job_order order = order_with(cache);
    order.width = order.height = 16;
    order.frames = 1;
    return order;
}

static void a_broken_checkpoint_is_refused_and_the_job_begins_from_the_start(void **state)
{
    struct job_order order = small_order("balanced");
    struct end end = run(rings[0], &order, NULL, true);
    for (int i = 0; i < 300; i++) {
        struct checkpoint broken = break_it(&end.at[9], false);
        if (survive(&order, &broken)) fail_msg("bytes that are not what was saved were taken (%d)", i);
        free(broken.bytes);
    }
    struct checkpoint broken = {copy_of(end.at[9].bytes, end.at[9].size), end.at[9].size};
    struct error error;
    broken.bytes[HEAD + 5] ^= 1;
    struct job *job = create(rings[0], &order);
    assert_int_equal(job_restore(job, broken.bytes, broken.size, &error), STATUS_CORRUPT);
    struct end begun = {0};
    drive(rings[0], job, INT32_MAX, false, &begun);
    take_end(job, &begun);
    expect_same("balanced", 0, &end, &begun);
    discard(rings[0], job);
    free_end(&begun);
    free(broken.bytes);
    free_end(&end);
}

/* The same for a job whose caching was read before it turned out that something else is wrong. */
static void what_fits_only_in_part_leaves_nothing_behind(void **state)
{
    for (int i = 0; i < SETTINGS; i++) {
        struct job_order order = small_order(settings[i]);
        struct end end = run(rings[0], &order, NULL, true), begun = {0};
        struct checkpoint *at = &end.at[9];
        struct error error;
        size_t whole = at->size;
        at->size--; /* of the last tensor, or the last byte of the state */
        forge_hash(at);
        struct job *job = create(rings[0], &order);
        assert_int_equal(job_restore(job, at->bytes, at->size, &error), STATUS_CORRUPT);
        drive(rings[0], job, INT32_MAX, true, &begun);
        take_end(job, &begun);
        at->size = whole;
        forge_hash(at);
        expect_same(settings[i], 0, &end, &begun);
        for (int step = 10; step < STEPS; step++)
            assert_memory_equal(end.at[step].bytes + HEAD, begun.at[step].bytes + HEAD,
                                end.at[step].size - HEAD);
        discard(rings[0], job);
        free_end(&begun);
        free_end(&end);
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
                                       "layers:every=3,begin=2,end=6,first=11",
                                       "calibrate"};
    int taken = 0;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        struct job_order order = small_order(some[i]);
        struct end end = run(rings[0], &order, NULL, true);
        for (int k = 0; k < 60; k++) {
            struct checkpoint broken = break_it(&end.at[k % 3 ? 10 : STEPS], true);
            taken += survive(&order, &broken);
            free(broken.bytes);
        }
        free_end(&end);
    }
    assert_true(taken > 100); /* otherwise nothing but hashes was tested */
}

/* -----------------------------------------------------------------------------------------------------------------
 * size */

/* A few latents: no hidden state is in it. What it takes beside a step is printed, not judged. */
static void a_checkpoint_is_a_few_latents(void **state)
{
    struct job_order order = order_with("balanced");
    struct end end = {0};
    order.width = order.height = 64;
    order.frames = 17;
    struct job *job = create(rings[0], &order);
    drive(rings[0], job, 9, true, &end);
    size_t size = job_save_bytes(job), latent = (size_t)job->latent_count * sizeof(float);
    unsigned char *bytes = malloc(size);
    int64_t began = clock_now_ns();
    for (int i = 0; i < 100; i++) job_save(job, bytes, job_save_bytes(job));
    double seconds = job_seconds_since(began) / 100;
    print_message("balanced, 64x64x17: %zu bytes, %.1f latents; saved in %.0f us, a computed step takes %.1f "
                  "ms (%.2f %%)\n",
                  size, (double)size / (double)latent, seconds * 1e6, job->report.computed_seconds * 1e3,
                  100 * seconds / job->report.computed_seconds);
    assert_true(size < 10 * latent);
    free(bytes);
    discard(rings[0], job);
    free_end(&end);
}

static int start_rings(void **state)
{
    static const struct split splits[RINGS] = {
        {.members = 1, .head = 8},
        {.members = 2, .head = 4, .run = {0, 4}},
        {.members = 3, .head = 1, .tail = 1, .run = {0, 3, 3}},
    };
    make_tables();
    for (int i = 0; i < RINGS; i++) rings[i] = ring_start("models/reference", &splits[i], 1);
    return 0;
}

static int end_rings(void **state)
{
    for (int i = 0; i < RINGS; i++) ring_end(rings[i]);
    for (int i = 0; i < 5; i++) free((void *)(uintptr_t)tables[i].values);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_caching_goes_on_from_any_step_with_the_same_bits),
        cmocka_unit_test(without_caching_too),
        cmocka_unit_test(with_one_branch_and_with_euler_too),
        cmocka_unit_test(a_comparison_goes_on_in_either_of_its_passes),
        cmocka_unit_test(by_blocks_it_is_saved_until_a_block_is_reused_and_after_the_last_step),
        cmocka_unit_test(a_job_whose_steps_are_done_is_decoded_at_once),
        cmocka_unit_test(times_and_progress_go_on),
        cmocka_unit_test(a_restored_job_can_be_cancelled_while_it_makes_steps_again),
        cmocka_unit_test(a_checkpoint_of_anything_else_is_refused),
        cmocka_unit_test(a_checkpoint_of_another_model_is_refused),
        cmocka_unit_test(another_format_is_refused_as_such),
        cmocka_unit_test(a_job_that_has_begun_is_not_restored),
        cmocka_unit_test(a_broken_checkpoint_is_refused_and_the_job_begins_from_the_start),
        cmocka_unit_test(what_fits_only_in_part_leaves_nothing_behind),
        cmocka_unit_test(forged_bytes_do_no_harm),
        cmocka_unit_test(a_checkpoint_is_a_few_latents),
    };
    return cmocka_run_group_tests(tests, start_rings, end_rings);
}
