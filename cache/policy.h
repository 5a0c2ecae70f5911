/*
 * policy.h - when a step may be skipped: what every caching policy is made of. Values only, no tensors.
 *
 *     static struct verdict begin(const struct policy_now *now, void *state)
 *     {
 *         return now->step % (int)now->value[EVERY] ? reuse(REASON_INTERVAL) : compute(REASON_INTERVAL);
 *     }
 *     const struct policy policy_interval = {
 *         .name = "interval", .parameters = ..., .plan = plan, .begin = begin};
 *
 * A policy is a table of parameters, a plan made once per job, and hooks that return small values. It never
 * touches a tensor: it says in its plan which *signals* it wants to see, and the engine (cache/reuse.h,
 * cache/blocks.h) measures them, keeps the history, applies the verdict and logs it. What replaces a skipped
 * computation is a *forecast* (cache/forecast.h): weights over that history.
 *
 * Hooks H1..H6 are those of the survey of methods: H1 plan, H2 begin (before the blocks), H3 probe (after the
 * first blocks) or block (before each block), H5 observe, H6 weights. One hook is called at a time, on the
 * compute thread of the rank that owns the state; state is per (job, branch, expert), zeroed at the start.
 *
 * Linked by coordinator and client too, which validate and explain with the same table: no kernels, no I/O.
 */
#ifndef REFRAIN_CACHE_POLICY_H
#define REFRAIN_CACHE_POLICY_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "cache/table.h"

enum { CACHE_SLOTS = 16, POLICY_PARAMETERS = 16, CACHE_STEPS = 1000 };

/* ------------------------------------------------------------------------------------------- verdicts */

enum action {
    ACTION_COMPUTE,
    ACTION_REUSE, /* apply the forecast */
    ACTION_PROBE, /* only from `begin`: run the head blocks, then ask `probe` */
};

/* Numbers of enum CacheReason in refrain.proto. */
enum reason {
    REASON_OFF = 0,         /* there is no policy */
    REASON_WARMUP = 1,      /* the first steps are always computed */
    REASON_LAST = 2,        /* and the last ones */
    REASON_MASK = 3,        /* the step mask, table or interval says so */
    REASON_BELOW = 4,       /* the measured change is below the threshold */
    REASON_ABOVE = 5,       /* it is not */
    REASON_NO_HISTORY = 6,  /* nothing has been kept yet that could be reused */
    REASON_RUN = 7,         /* as many reused in a row as allowed */
    REASON_TOTAL = 8,       /* as many reused in all as allowed */
    REASON_ACCUMULATED = 9, /* the changes let through since the last computed step add up to the limit */
    REASON_NON_FINITE = 10, /* a signal was NaN or infinite: computed, whatever the policy */
    REASON_VERIFY = 11,     /* the check of the last forecast failed */
    REASON_BLOCKS = 12,     /* decided block by block; see the block counts */
    REASON_ORIGIN = 13,     /* made by the job that this one went on from */
    REASONS
};

#define CHANGE_NONE (-1.0f) /* nothing was measured */

struct verdict {
    enum action action;
    enum reason reason;
    float change; /* what was compared with the threshold; CHANGE_NONE */
};

static inline struct verdict verdict(enum action action, enum reason reason, double change)
{
    return (struct verdict){action, reason, (float)change};
}

/* -------------------------------------------------------------------------------------------- signals */

/* Sums over two tensors, `now` and `before` (kernels/ops.h, reduce2; added in token order in double). */
struct sums {
    double difference;                 /* sum |now - before| */
    double now, before;                /* sum |now|, sum |before| */
    double product;                    /* sum now * before */
    double now2, before2, difference2; /* sums of squares of now, before, now - before */
    double row_ratio;                  /* mean over rows of ||now|| / ||before|| */
    int64_t count;                     /* elements */
};

/* mean|now - before| / mean|before|: the field's relL1. NaN or infinite when before is 0 or either is not
 * finite. */
static inline double relative_change(const struct sums *s)
{
    return s->difference / s->before;
}

/* What can be measured, and against what. The first group is known to `begin`, the second to `probe`, the
 * third to `observe`. */
enum signal {
    SIGNAL_TIME,       /* time embedding [hidden]; previous step */
    SIGNAL_PROJECTION, /* its projection [6, hidden]; previous step */
    SIGNAL_LATENT,     /* latent; previous step */
    SIGNAL_DRIFT,      /* latent; last computed step */
    SIGNAL_INPUT,      /* modulated input of block 0 [tokens, hidden]; previous step */
    SIGNAL_FILTERED,   /* the same through SeaCache's filter; previous step */
    SIGNAL_EMBED,      /* hidden state before block 0; previous step */

    SIGNAL_PROBE_STEP,  /* hidden state after the head blocks; previous step */
    SIGNAL_PROBE,       /* what the head blocks added; last computed step */
    SIGNAL_PROBE_OLDER, /* the same; last computed step but one (plan: probe_slots 2) */

    SIGNAL_PROBE_HISTORY, /* what the head blocks added at the last computed step; at the one before (kept
                             until the next computed step, so `begin` and `probe` see it too) */
    SIGNAL_OUTPUT,        /* velocity of the branch; last computed step */
    SIGNAL_RESIDUAL,      /* what is kept at the reuse site; last computed step */
    SIGNAL_VERIFY, /* what the tail blocks really added; what the forecast said (also on reused steps) */
    SIGNALS
};
#define SIGNAL_BIT(signal) (1u << (signal))

struct signals {
    unsigned known; /* bits: those measured at this step. A reference may still be missing */
    struct sums sums[SIGNALS];
};

/* --------------------------------------------------------------------------------------------- history */

/* The steps whose tensors are in a ring, newest first: entry 0 is the last computed step. */
struct history {
    int count;
    int step[CACHE_SLOTS];
    double sigma[CACHE_SLOTS];
    double gram[CACHE_SLOTS][CACHE_SLOTS]; /* inner products of the tensors, if the forecast wants them */
};

/* ------------------------------------------------------------------------------------------ parameters */

enum parameter_type { PARAMETER_REAL, PARAMETER_WHOLE, PARAMETER_FLAG };

struct parameter {
    const char *name; /* "threshold" */
    const char
        *author;     /* the authors' name for it where it differs, accepted too: "residual_diff_threshold" */
    const char *tag; /* letters of DBCache's short form: "R" in F1B0_W4_R0.12; NULL: none */
    enum parameter_type type;
    double standard, min, max; /* the authors' default for the Wan family */
    const char *help;
};

/* ----------------------------------------------------------------------------------------------- plans */

/* What a job is, as far as policies may know. */
struct policy_job {
    int steps, layers, branches;
    int switch_at; /* of a model with two experts: the second one's first step; 0, or `steps` and more: there is none.
                      What is known of the first one's steps is forgotten there */
    double shift;
    const double *sigmas;             /* [steps + 1]; NULL where only validation happens */
    const struct cache_table *tables; /* that came with the job or belong to its model */
    int table_count;
    struct cache_model model;  /* what tables must fit */
    const unsigned char *mask; /* [steps], 1: compute; NULL: none was given */
};

/* Where a skipped computation is replaced. */
enum reuse_site {
    SITE_SPAN,     /* hidden state: blocks [head, layers - tail) are replaced by what they added */
    SITE_OUTPUT,   /* a branch's velocity minus the latent: nothing of the model runs */
    SITE_VELOCITY, /* the guided velocity: not even the branches are looked at */
    SITE_BLOCKS,   /* each block by itself, on the rank that holds it */
};

struct policy_plan {
    enum reuse_site site;
    int head, tail;      /* SITE_SPAN: blocks that run at every step, F and B; SITE_BLOCKS: protected ones */
    int slots;           /* tensors of history the policy's own weights need; 0: what the forecast needs */
    int probe_slots;     /* SIGNAL_PROBE*: how many computed steps' probes are kept, 0..2 */
    unsigned signals;    /* SIGNAL_BITs */
    double filter_power; /* SIGNAL_FILTERED */
    bool tied;           /* branch 0 is measured and decides for all */
    bool block_signal;   /* SITE_BLOCKS: `block` wants the change of the block's input */
    bool trace;          /* measure every signal of every lag, write trace.json (policy `calibrate`) */
};

/* ----------------------------------------------------------------------------------------------- hooks */

struct policy_now {
    const double *value; /* [parameters], in the order of the policy's table */
    const struct policy_job *job;
    int step;
    int run,
        total; /* branch's steps reused in a row just before this one, and in all, by the expert at work */
    const struct history *history;
    const struct signals *signals;
};

/* The first step of the expert that makes this one: what warm-ups count from. */
static inline int policy_begun(const struct policy_job *job, int step)
{
    return job->switch_at > 0 && step >= job->switch_at ? job->switch_at : 0;
}

/* Steps of that expert before this one, and its steps in all. */
static inline int policy_age(const struct policy_now *now)
{
    return now->step - policy_begun(now->job, now->step);
}

static inline int policy_steps(const struct policy_now *now)
{
    const struct policy_job *job = now->job;
    if (policy_begun(job, now->step) > 0) return job->steps - job->switch_at;
    return job->switch_at > 0 && job->switch_at < job->steps ? job->switch_at : job->steps;
}

/* A block's view of its step. */
struct block_now {
    int block;
    const struct sums
        *input;           /* its input now against that of its last computation; NULL: not measured or none */
    int seen;             /* blocks of this step with a measured change before this one, and those changes */
    const float *changes; /* [seen] */
};

struct policy {
    const char *name, *summary; /* one line, lower case, no full stop */
    const char *source;         /* paper and code the rule was read from */
    const struct parameter *parameters;
    int parameter_count;
    const char *forecast; /* used when the job names none; NULL: "reuse" */
    const char *table;    /* kind of calibration table it cannot do without; NULL: none */
    size_t state_bytes;   /* at most POLICY_STATE_BYTES */

    /* H1. Checks what only the job can tell (masks, tables, blocks) and says what the engine must provide.
     * *plan comes zeroed. Errors start with the parameter's name. Pure. */
    status_t (*plan)(const double *value, const struct policy_job *job, struct policy_plan *plan,
                     struct error *error);
    /* H2. NULL: ACTION_PROBE with SITE_SPAN. */
    struct verdict (*begin)(const struct policy_now *now, void *state);
    /* H3, after the head blocks; needed when `begin` may say ACTION_PROBE. */
    struct verdict (*probe)(const struct policy_now *now, void *state);
    /* H3 for SITE_BLOCKS: before every block. Once a step has computed all blocks, what it says may depend on nothing
     * before that step but now->total: a restored job knows no more. */
    struct verdict (*block)(const struct policy_now *now, const struct block_now *block, void *state);
    /* H5, after every step of the branch. May be NULL. */
    void (*observe)(const struct policy_now *now, const struct verdict *taken, void *state);
    /* H6. Weights over the history, newest first; NULL: the forecast's. */
    void (*weights)(const struct policy_now *now, double *weights, void *state);
    /* State that came with a checkpoint: can the hooks work with it? NULL: with any bytes. */
    bool (*sound)(const void *state);
};
enum { POLICY_STATE_BYTES = 512 };

/* All of them, NULL at the end: cache/registry.c. A new policy is one file and one row there. */
extern const struct policy *const policies[];

/* Steps of `first` .. computed anyway: for policies that protect both ends. */
static inline bool at_either_end(const struct policy_now *now, int first, int last)
{
    return policy_age(now) < first || now->step >= now->job->steps - last;
}

#endif
