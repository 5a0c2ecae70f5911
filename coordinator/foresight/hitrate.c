/* hitrate.c - see hitrate.h. */
#include "coordinator/foresight/hitrate.h"

#include <string.h>
#include <xxhash.h>
#include "proto/caching.h"

#define TYPICAL_RATE 0.5 /* of `balanced` at the usual number of steps: docs/caching-results.md */
#define NEWEST_SHARE                                                                                         \
    0.25 /* of the mean that the latest job makes up: four jobs, and it has followed a change */

/* ------------------------------------------------------------------------------------------- what is kept */

/* The number of steps belongs to it: warm-up weighs more in a short job. 0: any number. */
static uint64_t key_of(const Refrain__JobSpec *spec, uint32_t steps)
{
    const char *model = spec->model ? spec->model : "";
    uint64_t key = XXH64(model, strlen(model), steps);
    key = XXH64(spec->cache, strlen(spec->cache), key);
    return key ? key : 1;
}

static struct hitrate *find(struct hitrates *rates, uint64_t key)
{
    for (size_t i = 0; i < HITRATES_KEPT; i++)
        if (rates->kept[i].key == key) {
            rates->kept[i].used = ++rates->uses;
            return &rates->kept[i];
        }
    return NULL;
}

/* In the place of the one that was not used for longest; free ones never were. */
static struct hitrate *add(struct hitrates *rates, uint64_t key)
{
    struct hitrate *oldest = rates->kept;
    for (size_t i = 1; i < HITRATES_KEPT; i++)
        if (rates->kept[i].used < oldest->used) oldest = &rates->kept[i];
    *oldest = (struct hitrate){.key = key, .used = ++rates->uses, .rate = -1};
    return oldest;
}

/* ---------------------------------------------------------------------------------------------- the rates */

/* A job that compares runs a second time, without its caching. */
static double over_passes(const Refrain__JobSpec *spec, double rate)
{
    return spec->compare ? rate / 2 : rate;
}

bool hitrates_of(struct hitrates *rates, const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                 struct plan_mix *mix, struct caching_outlook *out)
{
    struct caching_outlook outlook;
    if (caching_foresee(spec, card, &outlook, NULL) != STATUS_OK)
        outlook = (struct caching_outlook){.branches = spec->guidance > 1 ? 2 : 1, .certain = true};
    if (!outlook.certain) {
        const struct hitrate *learnt = find(rates, key_of(spec, spec->steps));
        if (!learnt) learnt = find(rates, key_of(spec, 0));
        outlook.share = learnt ? learnt->rate : TYPICAL_RATE;
        for (int e = 0; e < PLAN_EXPERTS; e++)
            outlook.expert_share[e] = learnt ? learnt->expert[e] : TYPICAL_RATE;
    }
    mix->branches = (uint32_t)outlook.branches;
    mix->head = (uint32_t)outlook.head;
    mix->tail = (uint32_t)outlook.tail;
    mix->hit_rate = over_passes(spec, outlook.share);
    mix->experts = card->experts > 1 ? 2 : 1;
    mix->first_share = spec->steps ? (double)caching_switch(spec, card) / spec->steps : 1;
    for (int e = 0; e < PLAN_EXPERTS; e++)
        mix->expert_hits[e] = mix->experts > 1 ? over_passes(spec, outlook.expert_share[e]) : 0;
    if (out) *out = outlook;
    return outlook.certain;
}

/* Branch-steps that were skipped, of all; where blocks were decided by themselves, of those that might have
 * been. Negative: the report does not say. */
static double rate_of(const Refrain__CacheReport *report, const struct caching_outlook *outlook)
{
    double reused = (double)report->reused + report->forecast, all = reused + report->computed;
    size_t end = report->n_block_computed;
    if (end > 0) {
        reused = all = 0;
        for (size_t i = (size_t)outlook->head; i + (size_t)outlook->tail < end; i++) {
            reused += report->block_reused[i];
            all += (double)report->block_reused[i] + report->block_computed[i];
        }
    }
    return all > 0 ? reused / all : -1;
}

/* The same of an expert's steps; where blocks were decided by themselves the report does not say, and all stand for
 * each. */
static double expert_rate_of(const Refrain__CacheReport *report, uint32_t steps, int expert)
{
    size_t branches = report->branches, skipped = 0, all = 0;
    if (report->n_block_computed > 0 || branches == 0 || report->actions.len < steps * branches) return -1;
    for (uint32_t step = 0; step < steps; step++) {
        if ((report->has_switch_at && step >= report->switch_at) != (expert == 1)) continue;
        for (size_t b = 0; b < branches; b++, all++)
            skipped += report->actions.data[step * branches + b] != REFRAIN__CACHE_ACTION__CACHE_COMPUTED;
    }
    return all > 0 ? (double)skipped / (double)all : -1;
}

static void follow(double *mean, double rate)
{
    *mean = *mean < 0 ? rate : *mean + NEWEST_SHARE * (rate - *mean);
}

static void learn(struct hitrates *rates, uint64_t key, const Refrain__CacheReport *report, uint32_t steps,
                  double rate)
{
    struct hitrate *learnt = find(rates, key);
    if (!learnt) learnt = add(rates, key);
    bool fresh = learnt->rate < 0;
    follow(&learnt->rate, rate);
    for (int e = 0; e < PLAN_EXPERTS; e++) {
        double own = expert_rate_of(report, steps, e);
        if (fresh) learnt->expert[e] = -1;
        follow(&learnt->expert[e], own < 0 ? rate : own);
    }
}

void hitrates_learn(struct hitrates *rates, const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                    const Refrain__CacheReport *report)
{
    struct caching_outlook outlook;
    if (spec->at_step) return; /* how it began would be missing */
    if (!report || caching_foresee(spec, card, &outlook, NULL) != STATUS_OK || outlook.certain) return;
    double rate = rate_of(report, &outlook);
    if (rate < 0) return;
    learn(rates, key_of(spec, spec->steps), report, spec->steps, rate);
    learn(rates, key_of(spec, 0), report, spec->steps, rate);
}
