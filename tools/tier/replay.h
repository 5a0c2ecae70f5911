/*
 * replay.h - a trace against a real store: what its requests look up and publish, on a virtual clock.
 *
 *     replay_run(&trace, &settings, &result, &error);
 *     result.saved_s / result.asked_s                     the share of the work that was not done
 *
 * Every request starts when it comes; what it makes is published when it would be done. All bytes are divided by
 * `scale`, those of the items as those of the limits, so that a terabyte of items fits into a test; the store, its
 * files and its accounting are the product's. Every hit is checked to be what was published under its key. With `rival`
 * another policy stands in for the store (tools/tier/rival.h), and replay_foresee tells a bound what there is to be won.
 */
#ifndef REFRAIN_TOOLS_TIER_REPLAY_H
#define REFRAIN_TOOLS_TIER_REPLAY_H

#include "cache/tier/store.h"
#include "tools/tier/bound.h"
#include "tools/tier/request.h"

struct replay_settings {
    uint64_t limit_bytes[LEVELS]; /* before they are divided */
    const char *directory;        /* of the disk level; NULL with a limit of 0 */
    enum eviction eviction;
    const char *rival; /* NULL: the store */
    uint32_t scale;
    uint32_t cadence; /* steps between checkpoints */
    uint32_t items;
};

struct replay_result {
    double asked_s, saved_s; /* processor time of all requests without a store; what hits saved of it */
    uint64_t requests, lookups, hits, wrong;
    uint64_t published_bytes; /* before they were divided */
    struct store_stats stats;
};

status_t replay_run(const struct trace *trace, const struct replay_settings *settings,
                    struct replay_result *result, struct error *error);
/* Everything that is asked for and made where nothing is ever found. */
void replay_foresee(const struct trace *trace, const struct replay_settings *settings, struct bound *bound);

#endif
