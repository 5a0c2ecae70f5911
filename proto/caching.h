/*
 * caching.h - a job's caching as messages say it: checked, completed, and as the values cache/ works with.
 *
 *     caching_check(spec, &field, &error)                     part of validate_spec: text, tables, compare
 *     caching_fill(spec, card, &error)                        part of validate_fill: canonical text, the
 *                                                             tables it needs
 *     caching_check_for_model(spec, card, &field, &error)     part of validate_spec_for_model: the plan is
 *                                                             made
 *     caching_check_bytes(spec, card, limit, &field, &error)  what it would keep, against a budget
 *     caching_check_report(report, spec, card, &error)        what a worker says the policy did
 *
 * Sentences start with the field's name, as all of validate.h do; what cache/settings.h refuses is passed on
 * in its words. Pure functions; any thread.
 */
#ifndef REFRAIN_PROTO_CACHING_H
#define REFRAIN_PROTO_CACHING_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "cache/settings.h"
#include "proto/refrain.pb-c.h"

enum {
    LIMIT_JOB_TABLES = 8,
    LIMIT_CARD_TABLES = 64,
    LIMIT_TABLE_VALUES = 1 << 18, /* of all tables of one job or card: 2 MiB, so that either fits a frame */
    LIMIT_TABLE_LAYERS = 4096,    /* and heads, and values of head_dim; ffn_dim is below LIMIT_TABLE_VALUES */
};

/* Is there a policy at all? False for an absent, empty or unreadable text. */
bool caching_on(const Refrain__JobSpec *spec);

/* Some policy or forecast of cache/registry.c can use a table of this kind, or of a variant ("KIND-..."). */
bool caching_kind_known(const char *kind);
/* "magcache, teacache": for sentences. Returns text. */
const char *caching_kinds(char *text, size_t bytes);

/* The message as cache/table.h has it; texts and values are borrowed from the message. */
void caching_table(const Refrain__CacheTable *message, struct cache_table *table);

/* Known kind, at least one value, all finite, rows complete, LIMIT_TABLE_VALUES in all. field: "cache_tables"
 * or "tables", put before the sentence. */
status_t caching_check_tables(const char *field, Refrain__CacheTable *const *tables, size_t count,
                              size_t limit, struct error *error);

status_t caching_check(const Refrain__JobSpec *spec, const char **field, struct error *error);

/* spec must have passed caching_check. Absent text becomes "off"; a text becomes the complete one. If its
 * policy or forecast needs a table that the spec does not bring, the one of the card that fits best is copied
 * into it; published ones are part of the program and need no copy. STATUS_NO_MEMORY only. */
status_t caching_fill(Refrain__JobSpec *spec, const Refrain__ModelCard *card, struct error *error);

/* How many of the job's steps the first of two experts makes; all, where there is one. Exactly what the worker's solver
 * will say (cache/schedule.h), but for a scheduler whose last sigma is repeated. */
uint32_t caching_switch(const Refrain__JobSpec *spec, const Refrain__ModelCard *card);

/* Makes the plan as the worker will. Absent numbers are taken as their defaults. */
status_t caching_check_for_model(const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                                 const char **field, struct error *error);

/* Tokens of a job: what every block works on. */
int64_t caching_tokens(const Refrain__JobSpec *spec, const Refrain__ModelCard *card);

/* Features the job's caching would keep, over all ranks; spec as below. */
uint64_t caching_bytes(const Refrain__JobSpec *spec, const Refrain__ModelCard *card);

/* spec must be complete and have passed caching_check_for_model. limit: bytes over all ranks. */
status_t caching_check_bytes(const Refrain__JobSpec *spec, const Refrain__ModelCard *card, uint64_t limit,
                             const char **field, struct error *error);

/* What a job's caching leaves to do, as far as it can be said before the job runs. */
struct caching_outlook {
    int branches;   /* evaluations of the model in a step: 1 or 2 */
    int head, tail; /* blocks that run at every step */
    bool by_blocks; /* its policy decides for each block by itself */
    bool certain;   /* share is what will be, to the step; otherwise only measuring will tell, and it is 0 */
    double share;   /* of the work between head and tail: skipped, reused or forecast */
    double expert_share[2]; /* the same of each expert's steps */
};
/* spec must be complete and have passed caching_check_for_model. */
status_t caching_foresee(const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                         struct caching_outlook *outlook, struct error *error);

/* spec: complete. Lists of [steps, branches] values must be absent or complete, every number one of its enum,
 * counts within the steps there are. STATUS_CORRUPT. A change that is not finite becomes -1 ("nothing
 * measured"): a client may print it as JSON, and the reason says it. */
status_t caching_check_report(Refrain__CacheReport *report, const Refrain__JobSpec *spec,
                              struct error *error);

#endif
