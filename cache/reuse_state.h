/*
 * reuse_state.h - the inside of reuse.h, shared by the files that make it: reuse.c (hooks, verdicts, report),
 * reuse_signals.c (what is measured), reuse_history.c (what is kept, and forecasts from it), reuse_save.c (as
 * bytes and back).
 */
#ifndef REFRAIN_CACHE_REUSE_STATE_H
#define REFRAIN_CACHE_REUSE_STATE_H

#include "base/arena.h"
#include "cache/reuse.h"

enum { SCRATCH = 3 };

/* Measured between two waits at most: what one hook wants to see. */
enum { MEASUREMENTS = 4 };

/* Which signals a hook may ask for; a bad value among them forces a computed step. */
#define BEGIN_SIGNALS                                                                                        \
    (SIGNAL_BIT(SIGNAL_TIME) | SIGNAL_BIT(SIGNAL_PROJECTION) | SIGNAL_BIT(SIGNAL_LATENT) |                   \
     SIGNAL_BIT(SIGNAL_DRIFT) | SIGNAL_BIT(SIGNAL_INPUT) | SIGNAL_BIT(SIGNAL_FILTERED) |                     \
     SIGNAL_BIT(SIGNAL_EMBED))
#define PROBE_SIGNALS                                                                                        \
    (SIGNAL_BIT(SIGNAL_PROBE_STEP) | SIGNAL_BIT(SIGNAL_PROBE) | SIGNAL_BIT(SIGNAL_PROBE_OLDER))
#define PROBE_RESIDUALS                                                                                      \
    (SIGNAL_BIT(SIGNAL_PROBE) | SIGNAL_BIT(SIGNAL_PROBE_OLDER) | SIGNAL_BIT(SIGNAL_PROBE_HISTORY))

struct ring {
    float *slot[CACHE_SLOTS + 1]; /* newest first */
    int size, count;
};

struct branch {
    _Alignas(16) unsigned char policy_state[POLICY_STATE_BYTES];
    unsigned char *forecast_state;
    struct history history; /* stamps of `ring` */
    struct ring ring, tail, probe, outputs, latents;
    float *reference[SIGNALS];
    bool has_reference[SIGNALS];
    float *embedding, *forecast_tail;
    double weights[FORECAST_SETS][CACHE_SLOTS]; /* of the latest reused step */
    unsigned char *group, *group_made;          /* [tokens]; as ops see it, as the host makes it */
    struct signals signals;
    int run, total;
    bool decided;
    struct verdict taken;
};

/* The latent that entered a step which a restored job would have to make again. */
struct past {
    int step; /* -1: none */
    float *latent;
};
enum { MOST_PAST = REUSE_BRANCHES * CACHE_SLOTS + 1 };

/* How often each block of a branch was reused: so far, and before the last step that computed all of them. */
struct block_counts {
    uint32_t *now, *before; /* [layers] each; NULL unless SITE_BLOCKS */
};

/* Called, and added up at the next wait. */
struct measurement {
    struct sums *to;
    int64_t rows, width;
};

struct reuse {
    struct cache_settings settings;
    struct cache_plan plan;
    struct reuse_shape shape;
    const struct ops *ops;
    struct arena arena, shared;     /* of the device, and what the host sees of it */
    int64_t tokens, hidden, latent; /* elements: tokens * hidden, and of the latent */
    int branches;                   /* with state of their own: 1 for SITE_VELOCITY */
    int step;
    struct branch branch[REUSE_BRANCHES];
    double *partials; /* shared: [places][max(tokens, latent_rows)][REDUCE_SUMS] */
    int64_t most_rows;
    struct measurement measured[MEASUREMENTS];
    int places, measurements; /* room in partials; called so far */
    float *scratch[SCRATCH];
    double *curvature;             /* shared */
    float *filter[3];              /* SeaCache's matrices along frames, height, width, made at every step */
    float *filter_made[3];         /* shared: as the host makes them */
    float *cosine[3], *inverse[3]; /* FreqCa's, made once */
    unsigned char *keep;           /* [tokens]: in the low band */

    unsigned char *actions, *reasons;
    float *changes;
    uint32_t *block_computed, *block_reused;
    struct block_counts block_counts[REUSE_BRANCHES];
    float largest;
    int counts[REUSE_PARTLY + 1];
    struct reuse_record *records;
    int record_count, record_capacity;

    struct past past[MOST_PAST];
    int past_size;
    struct arena past_arena; /* apart: these are not features */
    int first;               /* steps before it were another job's: nothing of them is here */
    int restored;            /* the step that a checkpoint was of */
    bool replaying;          /* hooks answer what was logged, and log nothing */
};

/* Branch 0 decides for this one. */
static inline bool reuse_led(const struct reuse *r, int branch)
{
    return r->plan.policy.tied && branch > 0;
}

static inline bool reuse_wants(const struct reuse *r, enum signal signal)
{
    return r->plan.policy.signals & SIGNAL_BIT(signal);
}

static inline struct policy_now reuse_moment(const struct reuse *r, const struct branch *b)
{
    return (struct policy_now){.value = r->settings.value,
                               .job = &r->shape.job,
                               .step = r->step,
                               .run = b->run,
                               .total = b->total,
                               .history = &b->history,
                               .signals = &b->signals};
}

/* Sums over now and before [rows, width], rows added in order: `to` holds them after reuse_settle. */
void reuse_measure(struct reuse *r, struct team *team, const float *now, const float *before, int64_t rows,
                   int64_t width, struct sums *to);
/* Waits, if anything is being measured, and adds it up. NaN where the device failed. */
void reuse_settle(struct reuse *r, struct team *team);
/* Measures a signal, which makes it known at this step. */
void reuse_note(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                const float *before, int64_t rows, int64_t width);
/* Notes a signal against its reference, if there is one yet; keep: `now` becomes the reference; follow: both,
 * for signals that are planned and go from step to step. */
void reuse_compare(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                   int64_t rows, int64_t width);
void reuse_keep(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                int64_t elements);
void reuse_follow(struct reuse *r, struct team *team, struct branch *b, enum signal signal, const float *now,
                  int64_t rows, int64_t width);
/* SeaCache's filter: its matrices for this step's sigma, and the filtered modulated input (in scratch 0). */
void reuse_prepare_filter(struct reuse *r, struct team *team);
const float *reuse_filter(struct reuse *r, struct team *team, const float *input);
/* None of these signals is NaN or infinite. */
bool reuse_finite(const struct reuse *r, const struct branch *b, unsigned which);
/* The last slot becomes the first. */
void ring_rotate(struct ring *ring);
/* The tensor in the ring's last slot is this step's: stamps, inner products, rotation. */
void reuse_push(struct reuse *r, struct team *team, struct branch *b);
/* Sorts the tokens by the curvature of the last three residuals. */
void reuse_group_tokens(struct reuse *r, struct team *team, struct branch *b);
/* Makes this step's sets of weights; true: more than plain reuse of the newest. */
bool reuse_weigh(struct reuse *r, struct branch *b);
/* y = base + sum_j w_j slot_j; base may be NULL. */
void reuse_combine(struct reuse *r, struct team *team, const double *weights, const struct ring *ring,
                   int count, const float *base, int64_t elements, float *y);
/* x += the forecast, by frequency band or by token group. */
void reuse_apply_bands(struct reuse *r, struct team *team, const struct branch *b, float *x);
void reuse_apply_groups(struct reuse *r, struct team *team, const struct branch *b, float *x);
/* y = x, elements of a tensor. */
void reuse_copy(struct reuse *r, struct team *team, float *y, const float *x, int64_t elements);
/* What is known of the steps so far is gone, but for the log: as at the beginning. */
void reuse_forget(struct reuse *r);
/* Slots for the latents of steps that may have to be made again. */
void reuse_lay_out_past(struct reuse *r, struct arena *arena);
/* reuse_begin of a step that is made again. */
enum action reuse_repeat(struct reuse *r, struct team *team, int branch, const struct reuse_seen *seen);

#endif
