/* foretold.c - see foretold.h. One thread. */
#include "tools/sim/foretold.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { LAYERS = 8, ROWS = 20, SHORT_FRAMES = 9, LONG_FRAMES = 17, LEAST_STEPS = 15, MOST_STEPS = 45 };

#define MICROSECOND_NS (MILLISECOND_NS / 1000)
#define BLOCK_NS       (1750 * MICROSECOND_NS)
#define LIMIT_NS       (10000 * SECOND_NS)
#define SETTLED_NS     (50 * MILLISECOND_NS)

/* The times of the reference model on one core. */
static status_t begin(struct lab *lab, const struct foretold_case *w, struct rehearsal **r,
                      struct error *error)
{
    char model[PATH_MAX], in_flight[16];
    struct rehearsal_config config = {.model = model,
                                      .directory = lab->directory,
                                      .ranks = w->ranks,
                                      .costs = {.block_ns = (int64_t)(BLOCK_NS * (1 - w->curve)),
                                                .square_ns = (int64_t)(BLOCK_NS * w->curve),
                                                .embed_ns = 50 * MICROSECOND_NS,
                                                .output_ns = 50 * MICROSECOND_NS,
                                                .text_ns = 250 * MICROSECOND_NS,
                                                .frame_ns = 22 * MILLISECOND_NS,
                                                .film_ns = 900 * MICROSECOND_NS,
                                                .rows = ROWS},
                                      .network = {.latency_ns = 100 * MICROSECOND_NS},
                                      .start_ns = 500 * MILLISECOND_NS};
    int options = 0;
    snprintf(in_flight, sizeof in_flight, "%d", w->in_flight);
    const char *const wishes[][2] = {
        {"--home", w->home}, {"--layout", w->layout}, {"--in-flight", w->in_flight ? in_flight : NULL}};
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++)
        if (wishes[i][1]) {
            config.options[options++] = wishes[i][0];
            config.options[options++] = wishes[i][1];
        }
    status_t status = lab_model(lab, LAYERS, model, error);
    return status == STATUS_OK ? rehearsal_open(&config, r, error) : status;
}

/* Steps that do not repeat soon: the golden section of the range. */
static uint32_t steps_of(const struct foretold_case *w, int index)
{
    int least = w->least_steps ? w->least_steps : LEAST_STEPS,
        most = w->most_steps ? w->most_steps : MOST_STEPS;
    double part = index * 0.6180339887498949;
    return (uint32_t)(least + (int)((part - floor(part)) * (most - least + 1)));
}

static Refrain__JobSpec describe(const struct foretold_case *w, int index)
{
    static const char *const counted[] = {"off", "interval:N=3,F=1", "off", "interval:N=2,F=1"},
                             *const measured[] = {"off", "fbcache", "balanced", "interval:N=3,F=1"};
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.has_seed = spec.has_steps = spec.has_width = spec.has_height = spec.has_frames = spec.has_guidance =
        spec.has_priority = 1;
    spec.model = (char *)(uintptr_t) "tiny";
    spec.prompt = (char *)(uintptr_t) "a red fox in the snow";
    spec.seed = (uint64_t)index + 1;
    spec.steps = steps_of(w, index);
    spec.width = spec.height = 32;
    spec.frames = !w->one_kind && index % 3 == 2 ? SHORT_FRAMES : LONG_FRAMES;
    spec.guidance = !w->one_kind && index % 5 == 4 ? 1 : 4;
    spec.cache = (char *)(uintptr_t)(w->one_kind ? "off" : (w->measured ? measured : counted)[index % 4]);
    spec.priority = !w->priorities   ? REFRAIN__PRIORITY__PRIORITY_NORMAL
                    : index % 6 == 5 ? REFRAIN__PRIORITY__PRIORITY_HIGH
                    : index % 7 == 6 ? REFRAIN__PRIORITY__PRIORITY_LOW
                                     : REFRAIN__PRIORITY__PRIORITY_NORMAL;
    return spec;
}

static status_t run_queue(struct rehearsal *r, const struct foretold_case *w, int first, int count,
                          struct error *error)
{
    int job;
    for (int i = first; i < first + count; i++) {
        Refrain__JobSpec spec = describe(w, i);
        status_t status = rehearsal_submit(r, &spec, &job, error);
        if (status != STATUS_OK) return status;
        if (w->gap_ns && i + 1 < first + count) rehearsal_run(r, rehearsal_now_ns(r) + w->gap_ns);
    }
    rehearsal_run(r, rehearsal_now_ns(r) + SETTLED_NS); /* nobody expects more of them */
    for (int i = first; i < first + count; i++) rehearsal_ask(r, i);
    return rehearsal_finish(r, LIMIT_NS, error);
}

static status_t take(const struct rehearsal *r, const struct foretold_case *w, struct foretold_found *found,
                     struct error *error)
{
    *found = (struct foretold_found){.jobs = w->jobs};
    for (int i = 0; i < w->jobs; i++) {
        const Refrain__JobSpec spec = describe(w, FORETOLD_FIRST + i);
        const struct rehearsal_job *job = rehearsal_job(r, FORETOLD_FIRST + i);
        if (job->state != REFRAIN__JOB_STATE__JOB_COMPLETED)
            return error_set(error, STATUS_INTERNAL, "job %d: %.400s", i + 1, job->message);
        found->job[i] = *job;
        found->cache[i] = spec.cache;
        found->frames[i] = (int)spec.frames;
        found->branches[i] = spec.guidance > 1 ? 2 : 1;
        found->priority[i] = spec.priority;
    }
    return STATUS_OK;
}

status_t foretold_run(struct lab *lab, const struct foretold_case *wanted, struct foretold_found *found,
                      struct error *error)
{
    struct rehearsal *r;
    if (wanted->jobs < 1 || wanted->jobs > FORETOLD_MOST_JOBS)
        return error_set(error, STATUS_INVALID, "%d jobs: must be 1 to %d", wanted->jobs, FORETOLD_MOST_JOBS);
    status_t status = begin(lab, wanted, &r, error);
    if (status != STATUS_OK) return status;
    status = run_queue(r, wanted, 0, FORETOLD_FIRST, error);
    if (status == STATUS_OK) status = run_queue(r, wanted, FORETOLD_FIRST, wanted->jobs, error);
    if (status == STATUS_OK) status = take(r, wanted, found, error);
    rehearsal_close(r);
    return status;
}

/* -------------------------------------------------------------------------------------------------- errors */

static const struct rehearsal_told *told_at(const struct rehearsal_job *job, enum foretold_moment moment)
{
    switch (moment) {
    case FORETOLD_ONCE_ALL_ARE_THERE:
        return &job->asked;
    case FORETOLD_AT_A_QUARTER:
        return &job->told[1];
    case FORETOLD_AT_HALF:
        return &job->told[2];
    default:
        return &job->told[0];
    }
}

bool foretold_job_error(const struct foretold_found *found, int index, enum foretold_moment moment, bool rest,
                        double *error)
{
    const struct rehearsal_job *job = &found->job[index];
    const struct rehearsal_told *told = told_at(job, moment);
    if (!told->at_ns || told->at_ns >= job->ended_ns) return false;
    double span = (double)(job->ended_ns - (rest ? told->at_ns : job->submitted_ns));
    *error = (double)(told->finish_ns - job->ended_ns) / span;
    return true;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double middle(const struct foretold_found *found, enum foretold_moment moment, bool rest, bool sizes)
{
    double all[FORETOLD_MOST_JOBS];
    for (int i = 0; i < found->jobs; i++) {
        if (!foretold_job_error(found, i, moment, rest, &all[i])) all[i] = 1;
        if (sizes) all[i] = fabs(all[i]);
    }
    qsort(all, (size_t)found->jobs, sizeof *all, by_size);
    return all[found->jobs / 2];
}

double foretold_error(const struct foretold_found *found, enum foretold_moment moment, bool rest)
{
    return middle(found, moment, rest, true);
}

double foretold_bias(const struct foretold_found *found, enum foretold_moment moment, bool rest)
{
    return middle(found, moment, rest, false);
}
