/*
 * settings.h - a job's caching as text, as values, and checked:
 * "dbcache:F1B0,threshold=0.12,forecast=taylor1".
 *
 *     struct cache_settings settings;
 *     cache_settings_read("balanced", &settings, &error);      the grammar, names, ranges: no job needed
 *     cache_settings_plan(&settings, &job, &plan, &error);     what only the job can tell; ring sizes
 *     cache_settings_text(&settings, text, sizeof text);       complete: every value, presets resolved
 *
 * Grammar: PRESET or POLICY[:ITEM[,ITEM]...]. An ITEM is name=value (the authors' names are accepted beside
 * ours), a DBCache tag (F1B0, W4, MC3, R0.12, joined by _ or not), forecast=NAME (a trailing number is its
 * order: taylor2), forecast.NAME=VALUE, or mask=MASK. "off" or "" is no caching. What is not known or not in
 * range is refused with the item and what would be allowed. Pure functions; coordinator, client and worker
 * use the same.
 */
#ifndef REFRAIN_CACHE_SETTINGS_H
#define REFRAIN_CACHE_SETTINGS_H

#include <stdio.h>
#include "cache/forecast.h"
#include "cache/policy.h"

enum { CACHE_TEXT_BYTES = 4096 };

struct cache_settings {
    const struct policy *policy; /* NULL: off */
    double value[POLICY_PARAMETERS];
    const struct forecast *forecast; /* never NULL with a policy */
    double forecast_value[POLICY_PARAMETERS];
    char mask[CACHE_STEPS + 64]; /* as written; "": none */
};

struct cache_preset {
    const char *name, *text, *summary;
};
extern const struct cache_preset cache_presets[]; /* name NULL at the end */

status_t cache_settings_read(const char *text, struct cache_settings *settings, struct error *error);
/* The complete canonical text: reading it gives the same settings. */
void cache_settings_text(const struct cache_settings *settings, char *text, size_t bytes);

/* Everything a job's caching will hold and measure. */
struct cache_plan {
    struct policy_plan policy;
    int slots;                       /* of each ring */
    int rings;                       /* branches, or 1 for SITE_VELOCITY */
    unsigned char mask[CACHE_STEPS]; /* resolved, if the settings have one */
    bool has_mask;
};

/* job->mask is set from the plan while the policy's hook looks at it. */
status_t cache_settings_plan(const struct cache_settings *settings, const struct policy_job *job,
                             struct cache_plan *plan, struct error *error);

/* Bytes a job's caching takes over all ranks: exactly what the engine will allocate for tensors. tokens: of
 * the video; hidden: of a token; latent: elements of the latent. */
uint64_t cache_plan_bytes(const struct cache_settings *settings, const struct cache_plan *plan,
                          const struct policy_job *job, int64_t tokens, int64_t hidden, int64_t latent);

/* All policies, forecasts, presets and masks with their parameters, defaults and sources: `refrain policies`.
 */
void cache_settings_help(const char *name, FILE *out); /* NULL: all */

#endif
