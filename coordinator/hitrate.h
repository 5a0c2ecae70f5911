/*
 * hitrate.h - how much of a job its caching will skip: what plans of layouts are made from.
 *
 *     struct hitrates rates = {0};
 *     hitrates_of(&rates, spec, card, &mix);                 before a job runs: branches, F, B and hit rate
 *     hitrates_learn(&rates, spec, card, report);            after it has completed
 *
 * Policies that decide by the number of the step are rehearsed (cache/rehearse.h): their rate is exact. For
 * the others it is what the latest jobs with the same policy on the same model had, later ones counting more,
 * and before the first such job the typical rate of our presets. In memory only: a coordinator that starts
 * anew learns again.
 *
 * A plain value of fixed size, no locks; one thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_HITRATE_H
#define REFRAIN_COORDINATOR_HITRATE_H

#include "coordinator/plan.h"
#include "proto/refrain.pb-c.h"

enum { HITRATES_KEPT = 256 };

struct hitrates {
    struct hitrate {
        uint64_t key;  /* of model, policy's complete text and steps; 0: free */
        uint64_t used; /* larger: later */
        double rate, expert[PLAN_EXPERTS]; /* expert: of the steps of each; of one alone the first counts */
    } kept[HITRATES_KEPT];
    uint64_t uses;
};

/* Sets branches, head, tail, the experts' shares and hit rates; the rest of *mix stays. spec: complete, as it is stored; one that
 * its model does not allow any more counts as uncached. */
void hitrates_of(struct hitrates *rates, const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                 struct plan_mix *mix);

/* report: checked (caching_check_report); NULL is fine. */
void hitrates_learn(struct hitrates *rates, const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                    const Refrain__CacheReport *report);

#endif
