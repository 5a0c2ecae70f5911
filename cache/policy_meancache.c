/*
 * policy_meancache.c - MeanCache: at a skipped step the velocity follows from the mean velocity of the last j
 * steps.
 *
 *     u = mean velocity over steps i-j .. i-1,  jvp = (v_i-j - u) / (s_i - s_i-j)
 *     v_i = v_i-1 - jvp (s_i+1 - s_i)                             s: sigmas; j: the interval's order
 *
 * Which steps are computed, and the order of each gap, come from the authors' search; their results for
 * Qwen-Image at 50 steps are the budgets 25, 17 and 10. With mask= any steps can be given, and one order for
 * all gaps.
 *
 * Skipped steps' velocities take part like computed ones, so each of the last steps is kept as weights over
 * computed velocities, which is all the recursion needs. The authors take u from the latents, (x_i - x_i-j) /
 * (s_i - s_i-j); with their sampler (Euler) that is the sum of v_k (s_k+1 - s_k) over the same, which is used
 * here: with a multistep sampler it is the mean of velocities rather than of the sampler's corrected moves.
 * Order 1 is then plain reuse of v_i-1, in their code too.
 */
#include "cache/gates.h"

#include <string.h>

enum { BUDGET, ORDER, PARAMETERS };
enum { LOG = 6, ANCHORS = 8, PUBLISHED_STEPS = 50 };

static const struct parameter parameters[PARAMETERS] = {
    [BUDGET] = {"budget", "cache-jvp", NULL, PARAMETER_WHOLE, 25, 0, CACHE_STEPS,
                "computed steps of the published plans for 50 steps: 25, 17 or 10; not used with mask="},
    [ORDER] = {"order", "edge_order", NULL, PARAMETER_WHOLE, 1, 1, LOG,
               "steps the mean is taken over in every gap, with mask="},
};

/* Orders of the gaps that start at a computed step; in gaps of a single step nothing is skipped. */
struct gap {
    int from, order;
};
enum { GAPS = 9 };
static const struct published {
    int budget;
    const char *computed;
    struct gap gaps[GAPS];
} published[] = {
    {25, "0-16+24+32+40+43+45+47-49", {{16, 1}, {24, 1}, {32, 1}, {40, 5}, {43, 5}, {45, 5}}},
    {17, "0-8+10+17+24+31+38+45+48+49", {{8, 2}, {10, 1}, {17, 1}, {24, 1}, {31, 1}, {38, 1}, {45, 4}}},
    {10, "0+1+3+7+14+21+28+35+42+49", {{1, 2}, {3, 1}, {7, 1}, {14, 1}, {21, 1}, {28, 1}, {35, 1}, {42, 4}}},
};

/* The velocity of one of the last steps as weights over computed ones, newest first. */
struct logged {
    double weight[ANCHORS];
};
struct state {
    struct logged log[LOG]; /* newest first */
    int count;
};
_Static_assert(sizeof(struct state) <= POLICY_STATE_BYTES, "state of meancache");

static const struct published *find_published(const double *value)
{
    for (size_t i = 0; i < sizeof published / sizeof *published; i++)
        if (published[i].budget == (int)value[BUDGET]) return &published[i];
    return NULL;
}

static status_t plan(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error)
{
    if (job->mask == NULL && job->steps != PUBLISHED_STEPS)
        return error_set(
            error, STATUS_INVALID,
            "budget %.0f: plans are published for %d steps, the job has %d: give mask= and order=",
            value[BUDGET], PUBLISHED_STEPS, job->steps);
    if (job->mask == NULL && find_published(value) == NULL)
        return error_set(error, STATUS_INVALID,
                         "budget %.0f: must be 25, 17 or 10, or give mask= and order=", value[BUDGET]);
    plan->site = SITE_VELOCITY;
    plan->slots = ANCHORS;
    return STATUS_OK;
}

static struct verdict begin(const struct policy_now *now, void *state)
{
    const unsigned char *mask = now->job->mask;
    unsigned char own[PUBLISHED_STEPS] = {0};
    if (mask == NULL) {
        if (mask_resolve(find_published(now->value)->computed, PUBLISHED_STEPS, own, NULL) != STATUS_OK)
            return gate_unknown();
        mask = own;
    }
    return verdict(mask[now->step] ? ACTION_COMPUTE : ACTION_REUSE, REASON_MASK, CHANGE_NONE);
}

/* The order of the gap that step `now` is in. */
static int gap_order(const struct policy_now *now)
{
    int order = (int)now->value[ORDER];
    if (now->job->mask != NULL) return order;
    const struct published *p = find_published(now->value);
    order = 1;
    for (int i = 0; i < GAPS && p->gaps[i].order > 0; i++)
        if (p->gaps[i].from < now->step) order = p->gaps[i].order;
    return order;
}

/* s: the log as it was before step `now`. Without sigmas that tell apart, v_i-1 is repeated. */
static struct logged predict(const struct policy_now *now, const struct state *s)
{
    const double *sigma = now->job->sigmas;
    int i = now->step, order = gap_order(now);
    if (order > s->count) order = s->count;
    if (order == 0) return (struct logged){{1}};
    struct logged v = s->log[0];
    double span = sigma[i] - sigma[i - order];
    if (order == 1 || span == 0) return v;
    double scale = -(sigma[i + 1] - sigma[i]) / span; /* of (v_i-j - u) */
    for (int a = 0; a < ANCHORS; a++) {
        double mean = 0;
        for (int k = 0; k < order; k++)
            mean += s->log[k].weight[a] * (sigma[i - k] - sigma[i - k - 1]) / span;
        v.weight[a] += scale * (s->log[order - 1].weight[a] - mean);
    }
    return v;
}

static void weights(const struct policy_now *now, double *w, void *state)
{
    struct logged v = predict(now, state);
    for (int j = 0; j < now->history->count; j++) w[j] = j < ANCHORS ? v.weight[j] : 0;
}

/* A computed step pushes every anchor one place back; what was furthest joins the one before it, so that
 * weights still add up to one. */
static void push_anchor(struct logged *v)
{
    v->weight[ANCHORS - 2] += v->weight[ANCHORS - 1];
    memmove(v->weight + 1, v->weight, (ANCHORS - 1) * sizeof *v->weight);
    v->weight[0] = 0;
}

static void observe(const struct policy_now *now, const struct verdict *taken, void *state)
{
    struct state *s = state;
    struct logged v = {{1}};
    if (taken->action == ACTION_COMPUTE)
        for (int k = 0; k < s->count; k++) push_anchor(&s->log[k]);
    else
        v = predict(now, s);
    memmove(s->log + 1, s->log, (LOG - 1) * sizeof *s->log);
    s->log[0] = v;
    if (s->count < LOG) s->count++;
}

static bool sound(const void *state)
{
    const struct state *s = state;
    return s->count >= 0 && s->count <= LOG;
}

extern const struct policy policy_meancache;
const struct policy policy_meancache = {
    .name = "meancache",
    .summary = "planned steps; skipped velocities from the mean velocity of the steps before",
    .source = "MeanCache, arXiv 2601.19961; github.com/UnicomAI/MeanCache, MeanCache4Qwen-Image",
    .parameters = parameters,
    .parameter_count = PARAMETERS,
    .state_bytes = sizeof(struct state),
    .plan = plan,
    .begin = begin,
    .observe = observe,
    .weights = weights,
    .sound = sound,
};
