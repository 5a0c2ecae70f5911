/* metrics_tier.h - metrics.c's part about single ranks and the cache tier; nobody else includes this. */
#ifndef REFRAIN_COORDINATOR_METRICS_METRICS_TIER_H
#define REFRAIN_COORDINATOR_METRICS_METRICS_TIER_H

#include "coordinator/metrics/metrics.h"

void metrics_write_tier(const struct server *server, struct exposition *out);

#endif
