/*
 * hitrate.h - how much of a job its caching will skip: what plans of layouts are made from.
 *
 *     struct hitrates rates = {0};
 *     hitrates_of(&rates, spec, card, &mix);                 before a job runs: branches, F, B and hit rate
 *     hitrates_learn(&rates, spec, card, report);            after it has completed
 *
 * Policies that decide by the number of the step are rehearsed (cache/rehearse.h): their rate is exact. For
 * the others it is what the latest jobs with the same policy and as many steps on the same model had, later ones counting more; before the
 * first such job what those with other numbers of steps had, and before any the typical rate of our presets. In memory only: a coordinator that starts
 * anew learns again.
 *
 * A plain value of fixed size, no locks; one thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_FORESIGHT_HITRATE_H
#define REFRAIN_COORDINATOR_FORESIGHT_HITRATE_H

#include "proto/refrain.pb-c.h"
#include "rules/plan.h"

struct caching_outlook; /* proto/caching.h */

enum { HITRATES_KEPT = 512 };

struct hitrates {
    struct hitrate {
        uint64_t key;  /* of model, policy's complete text and steps; 0: free */
        uint64_t used; /* larger: later */
        double rate, expert[PLAN_EXPERTS]; /* expert: of the steps of each; of one alone the first counts */
    } kept[HITRATES_KEPT];
    uint64_t uses;
};

/* Sets branches, head, tail, the experts' shares and hit rates; the rest of *mix stays. spec: complete, as it is stored; one that
 * its model does not allow any more counts as uncached. outlook: what it was made from; NULL is fine. True: the rate is exact. */
bool hitrates_of(struct hitrates *rates, const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                 struct plan_mix *mix, struct caching_outlook *outlook);

/* report: checked (caching_check_report); NULL is fine. */
void hitrates_learn(struct hitrates *rates, const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                    const Refrain__CacheReport *report);

#endif
