/* counts.c - see counts.h. Runs on the coordinator's loop thread. */
#include "coordinator/counts.h"

#include <math.h>
#include "cache/settings.h"

static const double step_bounds[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60};
static const double job_bounds[] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400};
static const double error_bounds[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};

#define BOUNDS(list)                                                                                         \
    {                                                                                                        \
        .bounds = (list), .buckets = sizeof(list) / sizeof *(list)                                           \
    }

void counts_open(struct counts *counts)
{
    *counts = (struct counts){.step = BOUNDS(step_bounds),
                              .queued = BOUNDS(job_bounds),
                              .total = BOUNDS(job_bounds),
                              .finish_error = BOUNDS(error_bounds)};
}

static void add_seconds(double *sum, double seconds)
{
    if (isfinite(seconds) && seconds > 0) *sum += seconds;
}

/* The first report of a phase only says where the job begins: it may have gone on from a checkpoint. */
void counts_progress(struct counts *counts, const struct job *job, const Refrain__Progress *report)
{
    const Refrain__Progress *before = &job->progress;
    bool denoises = report->phase == REFRAIN__PHASE__PHASE_DENOISE && before->has_phase &&
                    before->phase == REFRAIN__PHASE__PHASE_DENOISE;
    if (!denoises || report->step <= before->step) return;
    uint64_t steps = report->step - before->step;
    counts->steps += steps;
    if (report->has_step_seconds && report->step_seconds > 0)
        histogram_add(&counts->step, report->step_seconds, steps);
}

/* Policies are few and known when the program is built; NULL cannot happen, unless there come to be more of them. */
static struct counted_policy *place_of(struct counts *counts, const struct policy *policy)
{
    for (int i = policy ? 1 : 0; i < COUNTED_POLICIES; i++) {
        struct counted_policy *place = &counts->policies[i];
        if (place->policy == policy) return place;
        if (place->policy) continue;
        place->policy = policy;
        return place;
    }
    return NULL;
}

static void count_policy(struct counts *counts, const Refrain__JobSpec *spec,
                         const Refrain__CacheReport *report)
{
    struct cache_settings settings = {0};
    if (!spec->cache || cache_settings_read(spec->cache, &settings, NULL) != STATUS_OK)
        settings.policy = NULL;
    struct counted_policy *place = place_of(counts, settings.policy);
    if (!place) return;
    place->jobs++;
    if (!settings.policy) {
        place->branch_steps[0] += (uint64_t)(spec->steps - spec->at_step) * (spec->guidance > 1 ? 2 : 1);
    } else if (report) {
        place->branch_steps[0] += report->computed;
        place->branch_steps[1] += report->reused;
        place->branch_steps[2] += report->forecast;
        add_seconds(&place->seconds_saved, report->seconds_saved);
    }
}

void counts_completed(struct counts *counts, const Refrain__JobSpec *spec, const Refrain__JobTimes *times,
                      const Refrain__CacheReport *report)
{
    counts->frames += spec->frames;
    count_policy(counts, spec, report);
    if (!times) return;
    const double seconds[COUNTED_PHASES] = {times->text, times->denoise, times->decode, times->encode};
    for (int i = 0; i < COUNTED_PHASES; i++) add_seconds(&counts->phase_seconds[i], seconds[i]);
    histogram_add(&counts->queued, times->queued, 1);
    histogram_add(&counts->total, times->total, 1);
    counts->texts_reused += times->texts_reused;
    counts->first_steps_reused += times->first_steps_reused;
    counts->steps_taken_over += times->steps_taken_over;
    add_seconds(&counts->reused_seconds, times->reused_seconds);
}

void counts_foretold(struct counts *counts, double told, double took)
{
    if (told > 0 && took > 0) histogram_add(&counts->finish_error, fabs(took - told) / took, 1);
}
