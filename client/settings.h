/*
 * settings.h - the one table of options of the `refrain` command, and what a person asked for in terms of it.
 *
 *     struct settings settings = {0};
 *     options_parse(settings_table(), VERB_SUBMIT, argc, argv, &settings, &options, &error);
 *     status = settings_spec(&settings, options, &job_texts, &spec, &field, &error);
 *
 * Everything that can be wrong with a request without asking the coordinator is found here, before anything
 * starts. Main thread, at start.
 */
#ifndef REFRAIN_CLIENT_SETTINGS_H
#define REFRAIN_CLIENT_SETTINGS_H

#include "base/options.h"
#include "client/librefrain.h"
#include "client/planmodel.h"
#include "client/tablefile.h"

/* One bit per verb: which options it takes. */
enum verb_bit {
    VERB_GENERATE = 1 << 0,
    VERB_SUBMIT = 1 << 1,
    VERB_STATUS = 1 << 2,
    VERB_WATCH = 1 << 3,
    VERB_CANCEL = 1 << 4,
    VERB_LIST = 1 << 5,
    VERB_RESULT = 1 << 6,
    VERB_DELETE = 1 << 7,
    VERB_STATS = 1 << 8,
    VERB_MODELS = 1 << 9,
    VERB_KEYGEN = 1 << 10,
    VERB_COMPARE = 1 << 11,
    VERB_CALIBRATE = 1 << 12,
    VERB_POLICIES = 1 << 13,
    VERB_RANKS = 1 << 14,
    VERB_PLAN = 1 << 15,
    VERB_MEASURE = 1 << 16,
    VERB_DRAIN = 1 << 17,
    VERB_CACHE = 1 << 18,
};

/* Strings are borrowed from argv or the environment. NULL and 0: not said. */
struct settings {
    const char *model, *prompt, *negative;
    uint64_t seed;
    int64_t steps, width, height, frames, fps;
    double guidance, guidance_2, shift;
    int solver; /* index of "unipc|euler"; look at options_given */

    const char *cache, *cache_table;
    bool compare; /* set by the verb, not by an option */

    const char *output, *save_latents, *save_frames;

    int priority;             /* enum refrain_priority */
    int64_t deadline_ms;      /* 0: none */
    bool strict;              /* the deadline */
    int64_t checkpoint_every; /* look at options_given */
    uint64_t resume_from;
    const char *at_step; /* a number or END */
    bool recompute;
    int64_t preview_every;
    const char *preview; /* where the newest goes */
    const char *label, *idempotency_key;
    bool wait;

    int kind; /* of calibration: index of "all|magcache|..." */
    const char *prompts;

    int64_t ranks, threads;
    int fabric; /* index of "zmq|mpi" */

    const char *size; /* width, height and frames in one; of measure several */

    const char *measured, *caps; /* of plan */
    int64_t per_node, jobs, replicas;
    double hit_rate, link, link_inside, memory, tflops;
    bool explain;

    bool active, watch, all, back;
    int64_t limit;
    uint64_t from, before;

    const char *coordinator, *key, *server_key;
    int64_t timeout_ms;

    bool json, quiet, help;
};

const struct option_table *settings_table(void);

/* What was read for a job from files and standard input. */
struct settings_loaded {
    char *prompt, *negative; /* owned; NULL: none */
    struct tablefile tables;
};
void settings_loaded_free(struct settings_loaded *loaded);

/* The request that the settings stand for, completely checked (proto/validate.h); spec->model is left NULL.
 * Its strings are those of `loaded`, which the caller frees also after a failure, and of `settings`. `field`
 * gets the field to blame, or "". */
status_t settings_spec(const struct settings *settings, const struct options *options,
                       struct settings_loaded *loaded, struct refrain_spec *spec, const char **field,
                       struct error *error);

/* Width, height and frames as they were said, one by one or with --size; of each that was not said `clip` keeps what it has. A
 * number is within its limits, or INVALID with the field. */
status_t settings_clip(const struct settings *settings, const struct options *options,
                       struct planmodel_clip *clip, const char **field, struct error *error);

/* The option that a field of proto/refrain.proto is set by, without dashes; NULL: none. */
const char *settings_flag_of(const char *field);

/* The option that a sentence such as "size '832x480': must be ..." begins with; NULL: none. */
const char *settings_blamed(const char *sentence);

/* A job's number as people type it: digits, above 0. */
status_t settings_job_number(const char *text, uint64_t *number, struct error *error);

#endif
