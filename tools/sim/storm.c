/* storm.c - see storm.h. One thread. */
#include "tools/sim/storm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "tools/sim/rehearsal.h"

enum { LAYERS = 8, PERMILLE_STOPS = 300, PERMILLE_LOSSES = 150, PERMILLE_DRAINS = 600 };

#define STORM_NS (20 * SECOND_NS)
#define LIMIT_NS (3000 * SECOND_NS)
#define SILENT_NS                                                                                            \
    (12 * SECOND_NS) /* at most, for a rank that is stopped: beyond what the coordinator waits */

/* A mix: guidance on and off, short and long, cached in several ways, still and moving. */
static const struct kind {
    int steps, frames, width;
    double guidance;
    const char *cache;
} kinds[STORM_KINDS] = {
    {12, 5, 32, 5, NULL},
    {8, 1, 48, 1, NULL},
    {14, 1, 32, 5, "interval:N=3,F=1"},
    {10, 5, 32, 5, "fbcache:threshold=0.3"},
    {16, 1, 32, 1, "interval:N=4,forecast=taylor1"},
    {9, 1, 32, 4, "mask:F=1,mask=110101011"},
};

static status_t submit(struct rehearsal *r, int kind, int *job, struct error *error)
{
    const struct kind *k = &kinds[kind];
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.has_seed = spec.has_steps = spec.has_width = spec.has_height = spec.has_frames = spec.has_guidance =
        spec.has_save_latents = 1;
    spec.model = (char *)(uintptr_t) "tiny";
    spec.prompt = (char *)(uintptr_t) "a red fox in the snow";
    spec.seed = (uint64_t)kind + 40;
    spec.steps = (uint32_t)k->steps;
    spec.width = (uint32_t)k->width;
    spec.height = 32;
    spec.frames = (uint32_t)k->frames;
    spec.guidance = k->guidance;
    spec.cache = (char *)(uintptr_t)k->cache;
    spec.save_latents = 1;
    return rehearsal_submit(r, &spec, job, error);
}

static status_t begin(struct lab *lab, int ranks, struct rehearsal **r, struct error *error)
{
    static char model[PATH_MAX];
    struct rehearsal_config config = {.model = model,
                                      .directory = lab->directory,
                                      .ranks = ranks,
                                      .costs = {.block_ns = 10 * MILLISECOND_NS,
                                                .text_ns = 5 * MILLISECOND_NS,
                                                .frame_ns = 60 * MILLISECOND_NS},
                                      .network = {.latency_ns = MILLISECOND_NS / 20,
                                                  .bytes_per_second = 1e8,
                                                  .death_ns = 2 * MILLISECOND_NS},
                                      .start_ns = 500 * MILLISECOND_NS};
    status_t status = lab_model(lab, LAYERS, model, error);
    return status == STATUS_OK ? rehearsal_open(&config, r, error) : status;
}

/* --------------------------------------------------------------------------------------------------- calm */

static status_t know(struct calm *calm, int kind, struct error *error)
{
    struct rehearsal *r;
    int job;
    if (calm->latents[kind]) return STATUS_OK;
    status_t status = begin(calm->lab, 1, &r, error);
    if (status != STATUS_OK) return status;
    status = submit(r, kind, &job, error);
    if (status == STATUS_OK) status = rehearsal_finish(r, LIMIT_NS, error);
    if (status == STATUS_OK)
        status = rehearsal_latents(r, job, &calm->latents[kind], &calm->bytes[kind], error);
    rehearsal_close(r);
    return status;
}

void calm_free(struct calm *calm)
{
    for (int i = 0; i < STORM_KINDS; i++) {
        free(calm->latents[i]);
        calm->latents[i] = NULL;
    }
}

/* -------------------------------------------------------------------------------------------------- storm */

struct dice {
    uint64_t state;
};

static uint64_t roll(struct dice *dice, uint64_t sides)
{
    dice->state = dice->state * 6364136223846793005u + 1442695040888963407u;
    return (dice->state >> 11) % sides;
}

/* One blow, and how long it lasts until the next. */
static void strike(struct rehearsal *r, const struct storm_case *w, struct dice *dice,
                   struct storm_found *found)
{
    int rank = (int)roll(dice, (uint64_t)w->ranks);
    if (w->drains && roll(dice, 1000) < PERMILLE_DRAINS) {
        bool back = roll(dice, 2);
        log_line(LOG_INFO, "storm: rank %d is drained%s", rank, back ? ", or is no more" : "");
        found->drains += rehearsal_drain(r, rank, back, NULL) == STATUS_OK;
        return;
    }
    uint64_t what = roll(dice, 1000);
    if (w->coordinator && what < PERMILLE_LOSSES) {
        int64_t away_ns = (int64_t)roll(dice, 2 * SECOND_NS);
        log_line(LOG_INFO, "storm: it is killed, for %.3f s", (double)away_ns / SECOND_NS);
        rehearsal_lose_coordinator(r, away_ns);
        found->losses++;
    } else if (what < PERMILLE_LOSSES + PERMILLE_STOPS) {
        int64_t asleep_ns = (int64_t)roll(dice, SILENT_NS);
        log_line(LOG_INFO, "storm: rank %d is stopped for %.3f s", rank, (double)asleep_ns / SECOND_NS);
        rehearsal_stop(r, rank);
        rehearsal_run(r, rehearsal_now_ns(r) + asleep_ns);
        rehearsal_continue(r, rank);
        found->stops++;
    } else {
        log_line(LOG_INFO, "storm: rank %d is killed", rank);
        rehearsal_kill(r, rank);
        found->kills++;
    }
}

static void blame(struct storm_found *found, int job, int kind, const char *why)
{
    if (!found->first[0])
        snprintf(found->first, sizeof found->first, "job %d of kind %d: %.400s", job, kind, why);
}

static void compare(const struct calm *calm, const struct rehearsal *r, int job, struct storm_found *found)
{
    struct error error;
    const struct rehearsal_job *done = rehearsal_job(r, job);
    int kind = job % STORM_KINDS;
    void *bytes = NULL;
    size_t size = 0;
    found->steps += done->steps_reported;
    found->steps_wanted += kinds[kind].steps;
    if (done->state == REFRAIN__JOB_STATE__JOB_FAILED && strstr(done->message, "given up")) {
        found->given_up++;
    } else if (done->state != REFRAIN__JOB_STATE__JOB_COMPLETED) {
        found->failed++;
        blame(found, job, kind, done->message);
    } else if (rehearsal_latents(r, job, &bytes, &size, &error) != STATUS_OK) {
        found->failed++;
        blame(found, job, kind, error.text);
    } else if (size != calm->bytes[kind] || memcmp(bytes, calm->latents[kind], size) != 0) {
        found->different++;
        blame(found, job, kind, "its latents are not those of the undisturbed run");
    }
    free(bytes);
}

status_t storm_run(struct calm *calm, const struct storm_case *wanted, struct storm_found *found,
                   struct error *error)
{
    struct rehearsal *r;
    struct rehearsal_counts counts;
    struct dice dice = {wanted->seed * 0x9E3779B97F4A7C15u + 1};
    int jobs[STORM_MAX_JOBS];
    if (wanted->jobs < 1 || wanted->jobs > STORM_MAX_JOBS)
        return error_set(error, STATUS_INVALID, "%d jobs: must be 1 to %d", wanted->jobs, STORM_MAX_JOBS);
    *found = (struct storm_found){0};
    for (int i = 0; i < STORM_KINDS && i < wanted->jobs; i++) {
        status_t status = know(calm, i, error);
        if (status != STATUS_OK) return status;
    }
    status_t status = begin(calm->lab, wanted->ranks, &r, error);
    if (status != STATUS_OK) return status;
    for (int i = 0; i < wanted->jobs && status == STATUS_OK; i++)
        status = submit(r, i % STORM_KINDS, &jobs[i], error);
    int64_t until_ns = wanted->until_ns ? wanted->until_ns : STORM_NS;
    while (status == STATUS_OK && wanted->pause_ns && rehearsal_now_ns(r) < until_ns) {
        rehearsal_run(r, rehearsal_now_ns(r) + (int64_t)roll(&dice, (uint64_t)(2 * wanted->pause_ns)));
        strike(r, wanted, &dice, found);
    }
    for (int rank = 0; rank < wanted->ranks && wanted->drains; rank++) rehearsal_drain(r, rank, true, NULL);
    if (status == STATUS_OK) status = rehearsal_finish(r, LIMIT_NS, error);
    for (int i = 0; i < wanted->jobs && status == STATUS_OK; i++) compare(calm, r, jobs[i], found);
    rehearsal_counts(r, &counts);
    found->processes = counts.processes;
    found->seconds = (double)rehearsal_now_ns(r) / (double)SECOND_NS;
    rehearsal_close(r);
    return status;
}
