/* rehearse.c - see rehearse.h. */
#include "cache/rehearse.h"

#include <string.h>

/* One branch's, or one block's, state between steps. */
struct rehearsal {
    const struct cache_settings *settings;
    const struct policy_job *job;
    struct history history;
    int slots, run, total;
    _Alignas(16) unsigned char state[POLICY_STATE_BYTES];
};

static const struct signals no_signals;

static struct policy_now moment(const struct rehearsal *r, int step)
{
    return (struct policy_now){.value = r->settings->value,
                               .job = r->job,
                               .step = step,
                               .run = r->run,
                               .total = r->total,
                               .history = &r->history,
                               .signals = &no_signals};
}

static void push(struct rehearsal *r, int step)
{
    struct history *h = &r->history;
    if (h->count < r->slots) h->count++;
    for (int i = h->count - 1; i > 0; i--) {
        h->step[i] = h->step[i - 1];
        h->sigma[i] = h->sigma[i - 1];
    }
    h->step[0] = step;
    h->sigma[0] = r->job->sigmas[step];
}

static void count(struct rehearsal *r, bool reused)
{
    r->run = reused ? r->run + 1 : 0;
    r->total += reused;
}

/* As the engine does where the second expert takes over. */
static void begin_step(struct rehearsal *r, int step)
{
    if (step == 0 || step != r->job->switch_at) return;
    r->run = r->total = 0;
    r->history.count = 0;
    memset(r->state, 0, sizeof r->state);
}

/* In the engine's order: what was computed is kept before the policy observes the step. */
static bool step_is_reused(struct rehearsal *r, int step)
{
    const struct policy *policy = r->settings->policy;
    struct policy_now now = moment(r, step);
    struct verdict verdict = policy->begin(&now, r->state);
    bool reused = verdict.action == ACTION_REUSE && r->history.count > 0;
    verdict.action = reused ? ACTION_REUSE : ACTION_COMPUTE;
    if (!reused) push(r, step);
    if (policy->observe) policy->observe(&now, &verdict, r->state);
    count(r, reused);
    return reused;
}

static bool block_is_reused(struct rehearsal *r, int step, int block)
{
    struct policy_now now = moment(r, step);
    struct block_now at = {.block = block};
    bool reused =
        r->history.count > 0 && r->settings->policy->block(&now, &at, r->state).action == ACTION_REUSE;
    if (!reused) push(r, step);
    count(r, reused);
    return reused;
}

static double part(int64_t of, int64_t all)
{
    return all > 0 ? (double)of / (double)all : 0;
}

bool cache_rehearse(const struct cache_settings *settings, const struct cache_plan *plan,
                    const struct policy_job *job, struct rehearsed *found)
{
    const struct policy_plan *p = &plan->policy;
    bool by_block = p->site == SITE_BLOCKS;
    double sigmas[CACHE_STEPS + 1];
    struct policy_job known = *job;
    int64_t reused[2] = {0}, asked[2] = {0}; /* of each expert */
    if (!settings->policy || p->signals || p->block_signal || p->trace || settings->policy->probe ||
        (by_block ? !settings->policy->block : !settings->policy->begin))
        return false;
    /* No verdict depends on them; what keeps a log of its weights divides by their differences. */
    for (int i = 0; i <= job->steps; i++)
        sigmas[i] = job->sigmas ? job->sigmas[i] : 1 - (double)i / job->steps;
    known.sigmas = sigmas;
    if (plan->has_mask) known.mask = plan->mask;
    /* Branches are alike, blocks may differ. */
    int first = by_block ? p->head : 0, end = by_block ? job->layers - p->tail : 1;
    for (int i = first; i < end; i++) {
        struct rehearsal r = {.settings = settings, .job = &known, .slots = by_block ? 1 : plan->slots};
        for (int step = 0; step < job->steps; step++) {
            int expert = job->switch_at > 0 && step >= job->switch_at;
            begin_step(&r, step);
            reused[expert] += by_block ? block_is_reused(&r, step, i) : step_is_reused(&r, step);
            asked[expert]++;
        }
    }
    *found = (struct rehearsed){.share = part(reused[0] + reused[1], asked[0] + asked[1]),
                                .expert_share = {part(reused[0], asked[0]), part(reused[1], asked[1])}};
    return true;
}
