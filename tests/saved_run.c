/* saved_run.c - see saved_run.h. */
#include "tests/saved_run.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <xxhash.h>

struct ring *saved_rings[SAVED_RINGS];

/* Each keeps something else or forecasts in another way, and all but `calibrate` skip something. */
const char *const saved_settings[] = {
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
    "layers:every=3,begin=2,end=6",
    "layers:every=14,begin=1,end=5,boundary=0.6,first=2",
    "dbprune:F1,W3,threshold=0.3",
    "dbprune:F1B1,W2,threshold=0.9,M=4,MC=2,dynamic=1",
};
_Static_assert(sizeof saved_settings / sizeof *saved_settings == SAVED_SETTINGS, "as declared");

/* ------------------------------------------------------------------------------------------------- tables */

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

/* --------------------------------------------------------------------------------------------------- jobs */

struct job_order saved_order(const char *cache)
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

void *saved_copy(const void *from, size_t bytes)
{
    void *copy = malloc(bytes + 1);
    assert_non_null(copy);
    return from && bytes ? memcpy(copy, from, bytes) : copy;
}

void saved_free(struct saved_run *end)
{
    for (int i = 0; i <= MOST_STEPS; i++) free(end->at[i].bytes);
    free(end->latent);
    free(end->uncached);
    free(end->actions);
    free(end->reasons);
    free(end->changes);
    free(end->records);
}

void saved_take(const struct job *j, struct saved_run *end)
{
    size_t bytes = (size_t)j->latent_count * sizeof(float);
    end->count = j->latent_count;
    end->latent = saved_copy(j->latent, bytes);
    end->uncached = saved_copy(j->passes > 1 ? j->uncached_latent : j->latent, bytes);
    if (!j->cache) return;
    struct reuse_report report;
    reuse_describe(j->cache, &report);
    end->cells = report.steps * report.branches;
    end->computed = report.computed;
    end->largest = report.largest_reused;
    end->actions = saved_copy(report.actions, (size_t)end->cells);
    end->reasons = saved_copy(report.reasons, (size_t)end->cells);
    end->changes = saved_copy(report.changes, (size_t)end->cells * sizeof(float));
    const struct reuse_record *records = reuse_trace(j->cache, &end->record_count);
    end->records = saved_copy(records, (size_t)end->record_count * sizeof *records);
}

struct job *saved_create(struct ring *ring, const struct job_order *order)
{
    struct job *job;
    struct error error;
    if (job_create(ring_engine(ring), order, "/nowhere", &job, &error) != STATUS_OK)
        fail_msg("%s: %s", order->cache, error.text);
    return job;
}

/* Ends it, wherever it is. */
void saved_discard(struct ring *ring, struct job *job)
{
    job_cancel(job);
    for (enum job_result result; (result = job_advance(job)) != JOB_FINISHED;)
        ring_deliver(ring, job, result == JOB_WAITS);
    while (!job_settled(job)) ring_deliver(ring, job, true);
    job_destroy(job);
}

static struct saved_bytes save(const struct job *job)
{
    struct saved_bytes made = {.size = job_save_bytes(job)};
    struct error error;
    if (made.size == 0) return made;
    made.bytes = malloc(made.size);
    assert_non_null(made.bytes);
    memset(made.bytes, 0xa5, made.size); /* what is left out shows as a difference */
    if (job_save(job, made.bytes, made.size, &error) != STATUS_OK) fail_msg("%s", error.text);
    return made;
}

/* Until all steps are done (or `until` of them); saving: after every one. */
void saved_drive(struct ring *ring, struct job *job, int until, bool saving, struct saved_run *end)
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

struct saved_run saved_run(struct ring *ring, const struct job_order *order, const struct saved_bytes *from,
                           bool saving)
{
    struct saved_run end = {0};
    struct error error;
    struct job *job = saved_create(ring, order);
    if (from && job_restore(job, from->bytes, from->size, &error) != STATUS_OK)
        fail_msg("%s: %s", order->cache, error.text);
    end.over = job->life == LIFE_DECODE;
    saved_drive(ring, job, INT32_MAX, saving, &end);
    saved_take(job, &end);
    saved_discard(ring, job);
    return end;
}

#define SAME(what, a, b, bytes)                                                                              \
    do {                                                                                                     \
        if ((bytes) > 0 && memcmp(a, b, bytes) != 0)                                                         \
            fail_msg("%s, from step %d: other %s", name, step, what);                                        \
    } while (0)

void saved_expect_same(const char *name, int step, const struct saved_run *a, const struct saved_run *b)
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
static void expect_same_checkpoints(const char *name, int step, const struct saved_run *a,
                                    const struct saved_run *b)
{
    for (int i = step; i <= MOST_STEPS; i++) {
        if (i == step && !b->at[i].bytes && b->over) return;
        if (a->at[i].size != b->at[i].size)
            fail_msg("%s, from step %d: a checkpoint of %zu bytes at %d instead of %zu", name, step,
                     b->at[i].size, i, a->at[i].size);
        if (a->at[i].size && memcmp(a->at[i].bytes + HEAD, b->at[i].bytes + HEAD, a->at[i].size - HEAD) != 0)
            fail_msg("%s, from step %d: another checkpoint at %d", name, step, i);
    }
}

int saved_check_every_step(const struct job_order *given, struct ring *saving, bool skips)
{
    const char *name = given->cache ? given->cache : "off";
    struct job_order order = *given;
    struct saved_run alone = saved_run(saved_rings[0], &order, NULL, false),
                     saved = saved_run(saving, &order, NULL, true);
    int checkpoints = 0;
    saved_expect_same(name, 0, &alone, &saved);
    for (int step = 0; step <= MOST_STEPS; step++) {
        if (!saved.at[step].bytes) continue;
        order.attempt++;
        struct saved_run again =
            saved_run(saved_rings[(step + 2) % SAVED_RINGS], &order, &saved.at[step], true);
        saved_expect_same(name, step, &alone, &again);
        expect_same_checkpoints(name, step, &saved, &again);
        saved_free(&again);
        checkpoints++;
    }
    if (skips && alone.cells && !strstr(name, "calibrate") && alone.computed == alone.cells)
        fail_msg("%s: skipped nothing", name);
    saved_free(&alone);
    saved_free(&saved);
    return checkpoints;
}

void saved_forge(const struct saved_bytes *c)
{
    uint64_t bytes = c->size, hash;
    if (c->size < HEAD) return;
    memcpy(c->bytes + 8, &bytes, sizeof bytes);
    hash = XXH64(c->bytes + HASHED_FROM, c->size - HASHED_FROM, 0);
    memcpy(c->bytes + HASH_AT, &hash, sizeof hash);
}

void saved_start_rings_of(const char *model)
{
    static const struct split splits[SAVED_RINGS] = {
        {.members = 1, .head = 8},
        {.members = 2, .head = 4, .run = {0, 4}},
        {.members = 3, .head = 1, .tail = 1, .run = {0, 3, 3}},
    };
    make_tables();
    for (int i = 0; i < SAVED_RINGS; i++) saved_rings[i] = ring_start(model, &splits[i], 1);
}

int saved_start_rings(void **state)
{
    saved_start_rings_of("models/reference");
    return 0;
}

int saved_end_rings(void **state)
{
    for (int i = 0; i < SAVED_RINGS; i++) ring_end(saved_rings[i]);
    for (int i = 0; i < 5; i++) free((void *)(uintptr_t)tables[i].values);
    return 0;
}
