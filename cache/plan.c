/*
 * plan.c - what only the job can tell about its caching: masks, tables, blocks, and the memory it takes.
 */
#include "cache/plan.h"

#include <string.h>

#define PROBE_RESIDUALS                                                                                      \
    (SIGNAL_BIT(SIGNAL_PROBE) | SIGNAL_BIT(SIGNAL_PROBE_OLDER) | SIGNAL_BIT(SIGNAL_PROBE_HISTORY))

/* --------------------------------------------------------------------------------------------- planning */

static status_t check_job(const struct policy_job *job, struct error *error)
{
    if (job->steps < 1 || job->steps > CACHE_STEPS)
        return error_set(error, STATUS_INVALID, "steps %d: must be 1 to %d", job->steps, CACHE_STEPS);
    if (job->layers < 1 || job->branches < 1 || job->branches > 2)
        return error_set(error, STATUS_INVALID, "a job of %d blocks and %d branches cannot be cached",
                         job->layers, job->branches);
    return STATUS_OK;
}

static status_t check_span(const struct policy_plan *p, const struct policy_job *job, struct error *error)
{
    bool by_block = p->site == SITE_SPAN || p->site == SITE_BLOCKS;
    if (!by_block || (p->head >= 0 && p->tail >= 0 && p->head < job->layers - p->tail)) return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "F %d and B %d leave nothing to reuse of the model's %d blocks: F + B must be below %d",
                     p->head, p->tail, job->layers, job->layers);
}

/* Some forecasts need hidden states, some sites can only repeat what they kept. */
static status_t check_forecast(const struct cache_settings *settings, const struct policy_plan *p,
                               const struct policy_job *job, struct error *error)
{
    const struct forecast *f = settings->forecast;
    const char *policy = settings->policy->name;
    if (settings->policy->weights != NULL) return STATUS_OK;
    if (p->site == SITE_BLOCKS && strcmp(f->name, "reuse") != 0)
        return error_set(
            error, STATUS_INVALID,
            "forecast %s: %s keeps one tensor for each block and can only repeat it: must be reuse", f->name,
            policy);
    if (p->site != SITE_SPAN && (f->bands > 1 || f->groups > 1))
        return error_set(error, STATUS_INVALID, "forecast %s: works on hidden states, %s keeps velocities",
                         f->name, policy);
    return f->plan != NULL ? f->plan(settings->forecast_value, job, error) : STATUS_OK;
}

/* What a site does not pass by cannot be measured there. That is a mistake in the policy, not in the job; it
 * is said here so that it is neither a crash nor a policy that never fires. */
static status_t check_signals(const struct policy *policy, const struct policy_plan *p, struct error *error)
{
    const unsigned everywhere = SIGNAL_BIT(SIGNAL_TIME) | SIGNAL_BIT(SIGNAL_PROJECTION) |
                                SIGNAL_BIT(SIGNAL_LATENT) | SIGNAL_BIT(SIGNAL_DRIFT) |
                                SIGNAL_BIT(SIGNAL_OUTPUT) | SIGNAL_BIT(SIGNAL_RESIDUAL);
    bool probes = (p->signals & PROBE_RESIDUALS) != 0, verify = (p->signals & SIGNAL_BIT(SIGNAL_VERIFY)) != 0;
    const char *wrong = NULL;
    if (p->site == SITE_BLOCKS && (p->signals != 0 || p->trace || policy->block == NULL))
        wrong = "decides by blocks: it needs a hook for blocks, and sees the change of their inputs only";
    else if (p->site != SITE_BLOCKS && p->site != SITE_SPAN &&
             ((p->signals & ~everywhere) != 0 || p->trace || policy->begin == NULL))
        wrong = "keeps velocities: it must decide before the blocks, whose hidden states it cannot see";
    else if (p->site == SITE_SPAN && policy->begin == NULL && policy->probe == NULL)
        wrong = "has no hook that decides";
    else if (probes && p->head < 1)
        wrong = "probes the first blocks, and its plan runs none of them: head must be at least 1";
    else if (verify && p->tail < 1)
        wrong = "verifies with the last blocks, and its plan runs none of them: tail must be at least 1";
    else if (p->probe_slots < 0 || p->probe_slots > 2)
        wrong = "asks for more than 2 probe_slots";
    if (wrong == NULL) return STATUS_OK;
    return error_set(error, STATUS_UNSUPPORTED, "policy %s %s", policy->name, wrong);
}

static int clip(int slots)
{
    if (slots < 1) return 1;
    return slots > CACHE_SLOTS ? CACHE_SLOTS : slots;
}

static int ring_slots(const struct cache_settings *settings, const struct policy_plan *p,
                      const struct policy_job *job)
{
    const struct forecast *f = settings->forecast;
    int wanted = p->slots;
    if (!p->trace && settings->policy->weights == NULL) {
        int needed = f->slots(settings->forecast_value, job);
        if (needed > wanted) wanted = needed;
    }
    /* The residual of before must still be there when that of now comes. */
    if ((p->signals & SIGNAL_BIT(SIGNAL_RESIDUAL)) != 0 && wanted < 2) wanted = 2;
    return clip(wanted);
}

static status_t make_plan(const struct cache_settings *settings, const struct policy_job *given,
                          struct cache_plan *plan, struct error *error)
{
    struct policy_job job = *given;
    status_t status = check_job(&job, error);
    if (status != STATUS_OK) return status;
    job.mask = NULL;
    if (settings->mask[0] != 0) {
        status = mask_resolve(settings->mask, job.steps, plan->mask, error);
        if (status != STATUS_OK) return status;
        plan->has_mask = true;
        job.mask = plan->mask;
    }
    status = settings->policy->plan(settings->value, &job, &plan->policy, error);
    if (status == STATUS_OK) status = check_span(&plan->policy, &job, error);
    if (status == STATUS_OK) status = check_signals(settings->policy, &plan->policy, error);
    if (status == STATUS_OK) status = check_forecast(settings, &plan->policy, &job, error);
    if (status != STATUS_OK) return status;
    plan->slots = plan->policy.site == SITE_BLOCKS ? 1 : ring_slots(settings, &plan->policy, &job);
    plan->rings = plan->policy.site == SITE_VELOCITY ? 1 : job.branches;
    return STATUS_OK;
}

status_t cache_settings_plan(const struct cache_settings *settings, const struct policy_job *job,
                             struct cache_plan *plan, struct error *error)
{
    struct cache_plan made = {0};
    status_t status = settings->policy != NULL ? make_plan(settings, job, &made, error) : STATUS_OK;
    if (status != STATUS_OK) {
        error_prefix(error, "cache");
        return status;
    }
    *plan = made;
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------- memory */

static bool wants(const struct policy_plan *p, enum signal signal)
{
    return (p->signals & SIGNAL_BIT(signal)) != 0;
}

/* What signals are measured against, for one branch. */
static void count_references(const struct cache_plan *plan, struct cache_tensors *count)
{
    static const enum signal whole[] = {SIGNAL_INPUT, SIGNAL_FILTERED, SIGNAL_EMBED, SIGNAL_PROBE_STEP},
                             latent[] = {SIGNAL_LATENT, SIGNAL_DRIFT, SIGNAL_OUTPUT};
    const struct policy_plan *p = &plan->policy;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) count->hidden += wants(p, whole[i]);
    for (size_t i = 0; i < sizeof latent / sizeof *latent; i++) count->latents += wants(p, latent[i]);
    count->vectors += wants(p, SIGNAL_TIME);
    count->projections += wants(p, SIGNAL_PROJECTION);
    if ((p->signals & PROBE_RESIDUALS) != 0) /* the embedding, the probe of now, and those kept */
        count->hidden += 2 + (p->probe_slots > 1 ? p->probe_slots : 1);
    if (wants(p, SIGNAL_VERIFY)) count->hidden += plan->slots + 2;
}

void cache_plan_tensors(const struct cache_plan *plan, const struct cache_settings *settings,
                        const struct policy_job *job, struct cache_tensors *count)
{
    const struct policy_plan *p = &plan->policy;
    const struct forecast *f = settings->forecast;
    *count = (struct cache_tensors){0};
    if (settings->policy == NULL) return;
    if (p->site == SITE_BLOCKS) {
        count->hidden = job->branches * (job->layers - p->head - p->tail) * (p->block_signal ? 2 : 1);
        return;
    }
    for (int ring = 0; ring < plan->rings; ring++) {
        count_references(plan, count);
        *(p->site == SITE_SPAN ? &count->hidden : &count->latents) += plan->slots;
        if (p->trace) count->latents += 2 * plan->slots;
    }
    if (f->bands > 1 || f->groups > 1)
        count->hidden += 3; /* scratch, once per job */
    else if (wants(p, SIGNAL_FILTERED))
        count->hidden += 2;
}

/* *sum += count * a * b, never beyond UINT64_MAX. */
static void add(uint64_t *sum, int count, int64_t a, int64_t b)
{
    uint64_t product = (uint64_t)count;
    if (__builtin_mul_overflow(product, (uint64_t)(a > 0 ? a : 1), &product) ||
        __builtin_mul_overflow(product, (uint64_t)(b > 0 ? b : 1), &product) ||
        __builtin_add_overflow(*sum, product, sum))
        *sum = UINT64_MAX;
}

uint64_t cache_tensors_bytes(const struct cache_tensors *count, int64_t tokens, int64_t hidden,
                             int64_t latent)
{
    uint64_t elements = 0;
    add(&elements, count->hidden, tokens, hidden);
    add(&elements, count->vectors, 1, hidden);
    add(&elements, count->projections, 6, hidden);
    add(&elements, count->latents, 1, latent);
    return elements > UINT64_MAX / sizeof(float) ? UINT64_MAX : elements * sizeof(float);
}

uint64_t cache_plan_bytes(const struct cache_settings *settings, const struct cache_plan *plan,
                          const struct policy_job *job, int64_t tokens, int64_t hidden, int64_t latent)
{
    struct cache_tensors count;
    cache_plan_tensors(plan, settings, job, &count);
    return cache_tensors_bytes(&count, tokens, hidden, latent);
}
