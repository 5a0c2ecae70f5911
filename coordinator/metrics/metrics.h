/*
 * metrics.h - what the coordinator tells a Prometheus: queue, jobs, ranks, the cache tier, checkpoints.
 *
 *     metrics_write(server, &exposition);
 *     metrics_tend(server);                  once a turn, after the commit: makes a text if somebody waits for one
 *
 * Sums over all tenants: no name, prompt, label or job number of anybody is in it. Labels have values that are known when
 * the program is built (states, kinds, policies), but for models, of which the first COUNTED_MODELS, and for ranks, of which at most METRICS_RANKS are told apart; figures of
 * further ones are added up under rank "(others)". All names, and what they mean: docs/metrics.md. The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_METRICS_METRICS_H
#define REFRAIN_COORDINATOR_METRICS_METRICS_H

#include "coordinator/metrics/exposition.h"
#include "coordinator/server.h"

enum { METRICS_RANKS = 1024 };

void metrics_write(const struct server *server, struct exposition *out);
void metrics_tend(struct server *server);

#endif
