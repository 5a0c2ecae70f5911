/*
 * reuse.h - one job's caching at home: measures what its policy wants to see, asks it, keeps the history,
 * puts the forecast in place of what is skipped, and remembers every verdict.
 *
 *     reuse_create(&settings, &shape, ops, team, &reuse, &error);              all memory, exactly as planned
 *     for each step:
 *         reuse_step(reuse, team, step)
 *         for each branch:
 *             switch (reuse_begin(reuse, team, b, &seen))                      H2
 *             ACTION_REUSE with SITE_OUTPUT:  reuse_output(reuse, team, b, latent, velocity)
 *             ACTION_PROBE: run blocks [0, head), then reuse_probe(reuse, team, b, x)       H3
 *             ACTION_COMPUTE: reuse_enter(x) before block `head`, reuse_leave(x) before block layers - tail
 *             ACTION_REUSE:   reuse_apply(x) instead
 *             reuse_tail_begin(x), tail blocks, reuse_tail_end(x), velocity
 *             reuse_observe(reuse, team, b, latent, velocity)                   H5
 *         ops->wait(team, &error)
 *
 * Tensors are float32 in memory of the backend: x [tokens, hidden], latent and velocity [latent]; what is done
 * to them is under way when a function returns. A hook that needs what was measured waits, once. If that fails, the step
 * is computed; whoever waits at its end learns why (kernels/ops.h). Sums are added in token order in
 * double, so that a verdict depends neither on threads nor on ranks. State is per branch; with `tied` branch
 * 0 decides for both. Where the second of two experts takes over (job.switch_at), reuse_remember forgets all but the
 * log, so that the state is per expert as well, and its first step is computed. Nothing is allocated after
 * reuse_create. Compute thread of home.
 */
#ifndef REFRAIN_CACHE_REUSE_H
#define REFRAIN_CACHE_REUSE_H

#include "cache/settings.h"
#include "kernels/ops.h"

struct reuse;

enum { REUSE_BRANCHES = 2 };

struct reuse_shape {
    struct policy_job job;     /* sigmas and tables stay with the caller, for the life of the reuse */
    int frames, height, width; /* of the token lattice */
    int64_t hidden;
    int64_t latent_rows, latent_width; /* elements of the latent are their product */
};

/* settings->policy must not be NULL. STATUS_INVALID: what cache_settings_plan says; STATUS_NO_MEMORY. */
status_t reuse_create(const struct cache_settings *settings, const struct reuse_shape *shape,
                      const struct ops *ops, struct team *team, struct reuse **reuse, struct error *error);
void reuse_destroy(struct reuse *reuse); /* after wait; NULL is fine */
const struct cache_plan *reuse_plan(const struct reuse *reuse);
/* After the last step, and after wait: tensors go, the report and the trace stay. */
void reuse_give_back(struct reuse *reuse);
uint64_t reuse_bytes(const struct reuse *reuse); /* of tensors */

void reuse_step(struct reuse *reuse, struct team *team, int step);

/* With `tied`, a branch above 0 may only begin once branch 0 has decided. */
bool reuse_may_begin(const struct reuse *reuse, int branch);

/* `begin` wants the modulated input of block 0: then embed first. */
bool reuse_wants_input(const struct reuse *reuse);

struct reuse_seen {
    const float *latent;     /* entering the step */
    const float *time;       /* [hidden] */
    const float *projection; /* [6, hidden] */
    const float *embedding;  /* [tokens, hidden]; NULL unless wanted */
    const float *input;      /* modulated input of block 0 [tokens, hidden]; NULL unless wanted */
};
enum action reuse_begin(struct reuse *reuse, struct team *team, int branch, const struct reuse_seen *seen);

/* After embedding, when the plan has probe signals; x is kept. */
void reuse_embedded(struct reuse *reuse, struct team *team, int branch, const float *x);
enum action reuse_probe(struct reuse *reuse, struct team *team, int branch, const float *x);

void reuse_enter(struct reuse *reuse, struct team *team, int branch, const float *x);
void reuse_leave(struct reuse *reuse, struct team *team, int branch, const float *x);
void reuse_apply(struct reuse *reuse, struct team *team, int branch, float *x);
void reuse_tail_begin(struct reuse *reuse, struct team *team, int branch, const float *x);
void reuse_tail_end(struct reuse *reuse, struct team *team, int branch, const float *x);

/* SITE_OUTPUT and SITE_VELOCITY: velocity from the history. */
void reuse_output(struct reuse *reuse, struct team *team, int branch, const float *latent, float *velocity);

/* The branch's velocity is there, computed or not; SITE_VELOCITY: the guided one, branch 0. `latent` as in
 * begin. */
void reuse_observe(struct reuse *reuse, struct team *team, int branch, const float *latent,
                   const float *velocity);

/* SITE_BLOCKS: what was decided for each block of a step: [layers], the change of its input (NAN: not
 * measured); the sign bit is set for reused ones. */
void reuse_blocks(struct reuse *reuse, int branch, const float *records);
/* What a block's record is before its step begins: NAN; in the first step that is made again, how often the block
 * had been reused before it. */
float reuse_block_record(const struct reuse *reuse, int branch, int block);

/* ---------------------------------------------------------------------------------------- checkpoints
 *
 *     reuse_remember(reuse, team, latent);                      ends a step: the latent that entered it
 *     reuse_save(reuse, team, steps, bytes);                    between steps; steps: finished; then wait
 *
 *     reuse_restore(reuse, team, steps, bytes, size, &error);   into one that has not seen a step
 *     for (step = reuse_replay(reuse, -1); step < steps; step = reuse_replay(reuse, step))
 *         make it again from reuse_past(reuse)
 *
 * A step is made again with the hooks from reuse_step to reuse_tail_end, without those of velocities; a
 * branch whose step was reused is done when reuse_probe has answered. After that everything is as it was, bit
 * by bit.
 */

void reuse_remember(struct reuse *reuse, struct team *team, const float *latent);
/* 0: it cannot be saved now: SITE_BLOCKS, and so many steps are over since the last one that computed all blocks. */
enum { REUSE_BLOCKS_PAST = 16 };
size_t reuse_save_bytes(struct reuse *reuse, int steps);
void reuse_save(struct reuse *reuse, struct team *team, int steps, void *bytes);
/* STATUS_CORRUPT: not what reuse_save writes for these settings and steps; then nothing has changed. */
status_t reuse_restore(struct reuse *reuse, struct team *team, int steps, const void *bytes, size_t size,
                       struct error *error);
/* Instead of that: the steps before `step` were made by another job, with other settings. Nothing of them is known here,
 * and they count as neither computed nor reused: the next steps are computed until there is something to reuse. Also
 * before the reuse_restore of a checkpoint of a job that began so, or in place of one that was restored before. */
void reuse_begin_at(struct reuse *reuse, int step);
int reuse_first(const struct reuse *reuse); /* that step; 0: it began at the beginning */
/* The next step after `after` that must be made again. The restored one: no more, hooks decide again. */
int reuse_replay(struct reuse *reuse, int after);
/* Of the step that is made again: does the branch take part? And the latent that entered it. */
bool reuse_replays(const struct reuse *reuse, int branch);
const float *reuse_past(struct reuse *reuse);

/* ------------------------------------------------------------------------------------------- residuals
 *
 * What computed steps added to the hidden state of the span, as the rings hold it. A restored job that is given one puts it
 * where its step would be made again: from reuse_step to reuse_probe as ever, then reuse_put in place of everything from
 * reuse_enter to reuse_tail_end.
 */

/* Of one; 0: the policy keeps none, or more than them. */
size_t reuse_residual_bytes(const struct reuse *reuse);
/* Those of a branch, newest first: tensors of the backend's, good until the next hook, and the steps that made them.
 * Returns how many. Also in the middle of a step. */
int reuse_residuals(const struct reuse *reuse, int branch, const float *tensors[CACHE_SLOTS],
                    int steps[CACHE_SLOTS]);
/* Would the restored job have to make that step again for its residual? */
bool reuse_needs_residual(const struct reuse *reuse, int step, int branch);
void reuse_put(struct reuse *reuse, struct team *team, int branch, const float *residual);

/* --------------------------------------------------------------------------------------------- report */

/* Numbers of enum CacheAction in refrain.proto. */
enum reuse_action { REUSE_COMPUTED, REUSE_REUSED, REUSE_FORECAST, REUSE_PARTLY };

struct reuse_report {
    int steps, branches, layers;
    int switch_at;                                 /* of the job's */
    const unsigned char *actions, *reasons;        /* [steps, branches] */
    const float *changes;                          /* [steps, branches]; CHANGE_NONE */
    int computed, reused, forecast;                /* branch-steps so far */
    float largest_reused;                          /* largest change let through; CHANGE_NONE */
    const uint32_t *block_computed, *block_reused; /* [layers]; NULL unless SITE_BLOCKS */
};
void reuse_describe(const struct reuse *reuse, struct reuse_report *report);

/* With plan.trace: what a calibration is made from. */
struct reuse_record {
    int step, branch, lag;                                  /* of `step` against step - lag */
    struct sums residual, output, latent, time, projection; /* time, projection: lag 1 only, else zeros */
};
const struct reuse_record *reuse_trace(const struct reuse *reuse, int *count);

#endif
