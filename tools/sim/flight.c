/* flight.c - see flight.h. One thread. */
#include "tools/sim/flight.h"

#include <stdio.h>

#include "base/clock.h"
#include "tools/sim/rehearsal.h"

enum { LAYERS = 8, STEPS = 30, FRAMES = 17, SIDE = 32 };

#define MICROSECOND_NS (MILLISECOND_NS / 1000)
#define LIMIT_NS       (10000 * SECOND_NS)

/* Numbers that do not repeat soon: the golden section of the range. */
static int steps_of(const struct flight_case *w, int index)
{
    double part = index * 0.6180339887498949;
    return w->mixed ? STEPS / 2 + (int)((part - (int)part) * (STEPS + 1)) : STEPS;
}

static status_t submit(struct rehearsal *r, const struct flight_case *w, int index, struct error *error)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.has_seed = spec.has_steps = spec.has_width = spec.has_height = spec.has_frames = spec.has_guidance =
        1;
    spec.model = (char *)(uintptr_t) "tiny";
    spec.prompt = (char *)(uintptr_t) "a red fox in the snow";
    spec.steps = (uint32_t)steps_of(w, index);
    spec.width = spec.height = SIDE;
    spec.frames = FRAMES;
    spec.guidance = 4;
    spec.cache = (char *)(uintptr_t)w->cache;
    int job;
    return rehearsal_submit(r, &spec, &job, error);
}

static status_t begin(struct lab *lab, const struct flight_case *w, struct rehearsal **r, struct error *error)
{
    char model[PATH_MAX], in_flight[16];
    struct rehearsal_config config = {
        .model = model,
        .directory = lab->directory,
        .ranks = w->ranks,
        .costs = {.block_ns = 1750 * MICROSECOND_NS,
                  .embed_ns = 50 * MICROSECOND_NS,
                  .output_ns = 50 * MICROSECOND_NS,
                  .text_ns = 250 * MICROSECOND_NS,
                  .frame_ns = 22 * MILLISECOND_NS,
                  .film_ns = 900 * MICROSECOND_NS},
        .network = {.latency_ns = 100 * MICROSECOND_NS},
        .start_ns = 500 * MILLISECOND_NS,
        .options = {"--in-flight", in_flight, w->home ? "--home" : NULL, w->home}};
    snprintf(in_flight, sizeof in_flight, "%d", w->in_flight);
    status_t status = lab_model(lab, LAYERS, model, error);
    return status == STATUS_OK ? rehearsal_open(&config, r, error) : status;
}

static bool all_started(const struct rehearsal *r, int first, int count)
{
    for (int i = first; i < first + count; i++)
        if (!rehearsal_job(r, i)->started_ns) return false;
    return true;
}

static void note_busy(const struct rehearsal *r, int ranks, int64_t busy_ns[])
{
    for (int i = 0; i < ranks; i++) busy_ns[i] = rehearsal_busy_ns(r, i);
}

/* Jobs through a service that stands ready: it has the model and knows how to lay it out. */
static status_t fly(struct rehearsal *r, const struct flight_case *w, struct flight_found *found,
                    struct error *error)
{
    int64_t busy[3][SEAT_MAX_RANKS], when[3]; /* at the beginning, when the queue was empty, at the end */
    int first = 0;
    status_t status = STATUS_OK;
    for (int i = 0; i < w->ranks && status == STATUS_OK; i++) status = submit(r, w, i, error);
    if (status == STATUS_OK) status = rehearsal_finish(r, LIMIT_NS, error);
    if (status != STATUS_OK) return status;
    first = w->ranks;
    when[0] = rehearsal_now_ns(r);
    note_busy(r, w->ranks, busy[0]);
    for (int i = 0; i < w->jobs && status == STATUS_OK; i++) status = submit(r, w, i, error);
    while (status == STATUS_OK && !all_started(r, first, w->jobs) && rehearsal_now_ns(r) < when[0] + LIMIT_NS)
        rehearsal_run(r, rehearsal_now_ns(r) + MILLISECOND_NS);
    when[1] = rehearsal_now_ns(r);
    note_busy(r, w->ranks, busy[1]);
    if (status == STATUS_OK) status = rehearsal_finish(r, LIMIT_NS, error);
    if (status != STATUS_OK) return status;
    when[2] = rehearsal_now_ns(r);
    note_busy(r, w->ranks, busy[2]);
    double all = (double)(when[2] - when[0]), early = (double)(when[1] - when[0]);
    found->seconds = all / (double)SECOND_NS;
    for (int i = 0; i < w->ranks; i++) {
        struct flight_rank *rank = &found->rank[i];
        double first_ns = (double)(busy[1][i] - busy[0][i]), last_ns = (double)(busy[2][i] - busy[1][i]);
        rank->busy = (first_ns + last_ns) / all;
        rank->idle = (early - first_ns) / all;
        rank->drain = (all - early - last_ns) / all;
        found->share += rank->busy / w->ranks;
        found->queued += first_ns / early / w->ranks;
    }
    for (int i = first; i < first + w->jobs; i++)
        if (rehearsal_job(r, i)->state != REFRAIN__JOB_STATE__JOB_COMPLETED)
            return error_set(error, STATUS_INTERNAL, "job %d: %.400s", i - first + 1,
                             rehearsal_job(r, i)->message);
    return STATUS_OK;
}

status_t flight_run(struct lab *lab, const struct flight_case *wanted, struct flight_found *found,
                    struct error *error)
{
    struct rehearsal *r;
    if (wanted->jobs < 1 || wanted->jobs > FLIGHT_MAX_JOBS)
        return error_set(error, STATUS_INVALID, "%d jobs: must be 1 to %d", wanted->jobs, FLIGHT_MAX_JOBS);
    if (wanted->ranks < 1 || wanted->ranks > SEAT_MAX_RANKS)
        return error_set(error, STATUS_INVALID, "%d ranks: must be 1 to %d", wanted->ranks, SEAT_MAX_RANKS);
    *found = (struct flight_found){0};
    status_t status = begin(lab, wanted, &r, error);
    if (status != STATUS_OK) return status;
    status = fly(r, wanted, found, error);
    rehearsal_close(r);
    return status;
}
