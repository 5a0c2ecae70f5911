/* counts.c - see counts.h. Runs on the coordinator's loop thread. */
#include "coordinator/metrics/counts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "cache/settings.h"

static const double step_bounds[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60};
static const double job_bounds[] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400};
static const double error_bounds[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};

#define HISTOGRAM(list) ((struct histogram){.bounds = (list), .buckets = sizeof(list) / sizeof *(list)})

static void begin_model(struct counted_model *model, const char *name)
{
    snprintf(model->name, sizeof model->name, "%s", name);
    model->step = HISTOGRAM(step_bounds);
    model->queued = HISTOGRAM(job_bounds);
    model->total = HISTOGRAM(job_bounds);
}

void counts_open(struct counts *counts)
{
    *counts = (struct counts){.finish_error = HISTOGRAM(error_bounds)};
    begin_model(&counts->models[COUNTED_MODELS], "(others)");
}

/* First come: a service has few models, and a name is one label. */
static struct counted_model *model_of(struct counts *counts, const char *name)
{
    int place = 0;
    for (; place < COUNTED_MODELS && *counts->models[place].name; place++)
        if (strcmp(counts->models[place].name, name) == 0) return &counts->models[place];
    if (place < COUNTED_MODELS) begin_model(&counts->models[place], name);
    return &counts->models[place];
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
    struct counted_model *model = model_of(counts, job->model);
    model->steps += steps;
    if (report->has_step_seconds && report->step_seconds > 0)
        histogram_add(&model->step, report->step_seconds, steps);
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

/* taken: steps that an equal run had made. A report is about the run, and was counted with the job that made it. */
static void count_policy(struct counts *counts, const Refrain__JobSpec *spec,
                         const Refrain__CacheReport *report, uint32_t taken)
{
    uint32_t own = spec->steps - spec->at_step;
    struct cache_settings settings = {0};
    if (!spec->cache || cache_settings_read(spec->cache, &settings, NULL) != STATUS_OK)
        settings.policy = NULL;
    struct counted_policy *place = place_of(counts, settings.policy);
    if (!place) return;
    place->jobs++;
    if (!settings.policy) {
        place->branch_steps[0] += (uint64_t)(own > taken ? own - taken : 0) * (spec->guidance > 1 ? 2 : 1);
    } else if (report && !taken) {
        place->branch_steps[0] += report->computed;
        place->branch_steps[1] += report->reused;
        place->branch_steps[2] += report->forecast;
        add_seconds(&place->seconds_saved, report->seconds_saved);
    }
}

void counts_completed(struct counts *counts, const Refrain__JobSpec *spec, const Refrain__JobTimes *times,
                      const Refrain__CacheReport *report)
{
    struct counted_model *model = model_of(counts, spec->model);
    model->frames += spec->frames;
    count_policy(counts, spec, report, times ? times->steps_reused : 0);
    if (!times) return;
    const double seconds[COUNTED_PHASES] = {times->text, times->denoise, times->decode, times->encode};
    for (int i = 0; i < COUNTED_PHASES; i++) add_seconds(&model->phase_seconds[i], seconds[i]);
    histogram_add(&model->queued, times->queued, 1);
    histogram_add(&model->total, times->total, 1);
    counts->texts_reused += times->texts_reused;
    counts->first_steps_reused += times->first_steps_reused;
    counts->steps_taken_over += times->steps_taken_over;
    counts->steps_reused += times->steps_reused;
    add_seconds(&counts->reused_seconds, times->reused_seconds);
}

void counts_foretold(struct counts *counts, double told, double took)
{
    if (told > 0 && took > 0) histogram_add(&counts->finish_error, fabs(took - told) / took, 1);
}
