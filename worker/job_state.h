/*
 * job_state.h - the inside of a job, shared by the files that advance it: job.c (its life), job_text.c
 * (text), job_step.c (the step loop), job_finish.c (decode and files), job_save.c (checkpoints), job_run.c,
 * job_residual.c and job_reuse.c (what others have made). Compute thread of home.
 */
#ifndef REFRAIN_WORKER_JOB_STATE_H
#define REFRAIN_WORKER_JOB_STATE_H

#include "base/clock.h"
#include "cache/blocks.h"
#include "cache/reuse.h"
#include "cluster/circle.h"
#include "worker/cargo.h"
#include "worker/comparison.h"
#include "worker/job.h"
#include "worker/tier.h"

enum { BRANCHES = 2, PASSES = 2 };

/* A hop that has not come back after this long, though this rank had nothing else to do either, will not: the
 * ranks' own silence is noticed within two seconds, so this only bounds a rank that is alive and stuck. */
#define HOP_TIMEOUT_NS (600 * SECOND_NS)

enum cookie { COOKIE_HOP_0, COOKIE_HOP_1, COOKIE_OPEN, COOKIE_CLOSE };

enum life { LIFE_TEXT, LIFE_OPEN, LIFE_STEP, LIFE_CLOSE, LIFE_DECODE, LIFE_FILES, LIFE_FINISHED };

enum branch_state {
    BRANCH_NEW,  /* nothing of this step has been done */
    BRANCH_HERE, /* x is at home, about to enter block `at` */
    BRANCH_AWAY, /* with the stages, until block `until` */
    BRANCH_DONE, /* its velocity is there */
};

struct branch {
    enum branch_state state;
    int at, until;      /* blocks */
    int chain;          /* that its hop is on */
    enum action action; /* what the policy said so far */
    bool asked;         /* the span's verdict has been taken */
    bool inside;        /* a computed span was entered and not left yet */
    int lent;           /* posts of `hop` not yet SENT */
    int parts;          /* answers to it that have not come: one of each member of a wide stage */
    bool came_back;     /* RECEIVED arrived before SENT: becomes HERE with it */
    int ids;            /* tokens of its prompt */
    struct cargo
        text[MODEL_EXPERTS]; /* [denoiser_text_rows(ids), hidden], as each expert sees the prompt: what the
                                         stages' OPEN carries, then the policy's text */
    struct cargo hop; /* modulation [6, hidden], then x [tokens, hidden], then block records [layers] */
    struct cargo
        shard[CIRCLE_MEMBERS]; /* [stages' width], if that is above 1: modulation and one member's rows */
    float *velocity;           /* [latent], on the device */
    struct denoiser_context *context[MODEL_EXPERTS];
    struct blocks *blocks; /* home's own blocks, for policies that decide by blocks */
    struct blocks
        *shard_blocks; /* of blocks that decide by themselves on home's wide stage; others' are `blocks` */
};

/* A question to the cache tier, job_reuse.c. */
struct ask {
    enum { ASK_MISSED, ASK_WAITS, ASK_HERE } state;
    bool keyed; /* query.key is one: what is computed may be given under it */
    struct tier_query query;
    struct view view; /* ASK_HERE: the job's */
};

/* What one pass of a job is, whoever makes it: job_run.c. */
struct run {
    bool keyed;     /* it has a name */
    struct key key; /* its last latent's, which names it */
};

/* job_residual.c: what a step that would have to be made again added, from who made it. */
struct residual {
    struct ask ask;
    int step;
};

/* job_preview.c. Steps are counted as finished ones; 0: none. */
struct preview {
    float *clean;           /* shared, [latent]: predicted at the step at work, if `predicted` */
    float *latent, *pixels; /* the host's: its first frame [channels, 1, h, w]; [3, height, width] */
    bool predicted;
    int waiting; /* the step of `latent`, which is to be decoded */
    int step;    /* of png */
    uint8_t *png;
    size_t bytes;
};

struct job {
    struct engine *engine;
    struct job_order order;
    char *prompt[BRANCHES];
    char directory[4096];
    uint64_t context;
    enum life life;
    bool cancelled;
    struct error failure; /* status STATUS_OK: none */
    struct job_status status;
    int64_t phase_began_ns, step_began_ns, step_ended_ns;
    int64_t deadline_ns;  /* CLOCK_NEVER: it waits for nobody */
    uint64_t waits_since; /* the engine's progress when the wait began */
    uint64_t work;        /* see job_work */
    char *tenant;

    struct token_grid grid;
    int latent_frames, latent_height, latent_width;
    int opened;           /* OPENs answered by wide stages */
    int64_t latent_count; /* in_channels * frames * height * width */
    /* Expert 0 makes the steps below switch_at, the other one the rest: a run of one expert has them all on one side.
     * Text and contexts are those of the experts whose turn is still to come, first_expert .. last_expert. */
    int switch_at, first_expert, last_expert;
    int branches, step, told, outstanding; /* told: see told_next in job.c; outstanding: posts not yet SENT */
    bool step_begun;
    struct branch branch[BRANCHES];
    struct arena device, shared, host;
    float *velocity, *output_modulation; /* on the device */
    float *latent, *wave;                /* shared: read after the wait that ends a step; see denoiser_time */
    float *frames;                       /* the host's */
    struct engine_context lent;          /* to the stage of home's own rank */
    /* Text, one layer a call. */
    struct text_run *text_run; /* of branch text_branch; NULL between branches */
    void *text_rows;           /* [ids, width], on the device */
    int text_branch;

    struct run run[PASSES];
    struct {
        bool known; /* with these numerics */
        struct key key;
        bool changed;   /* not everything is as in that run */
    } from_run;         /* of the checkpoint that the job was restored from */
    double run_seconds; /* that the steps of the pass took so far, whoever made them */
    enum taking { TAKING_NOTHING, TAKING_SEEKS, TAKING_ITEM, TAKING_VAULT } taking; /* others' steps */
    struct tier_seek seek;
    struct tier_query run_query;
    struct residual residuals[BRANCHES][CACHE_SLOTS];
    int residual_count[BRANCHES], residuals_taken;
    struct ask text_ask[BRANCHES], step_ask[BRANCHES];
    bool named, asked;     /* its runs; for texts and first steps */
    int64_t text_began_ns; /* of text_branch */
    struct preview preview;
    /* After the steps. */
    bool lean; /* what only steps need has been given back */
    struct video *film;
    int filmed; /* frames */
    struct comparison *comparison;
    bool shown;            /* comparison.* are written */
    int decoding, decoded; /* which of the passes' videos, and pieces of it */

    /* Caching. A job that compares makes its steps twice: first without the policy. */
    struct cache_settings settings;
    char policy[CACHE_TEXT_BYTES];
    struct cache_table *tables; /* [order.table_count], with their own values */
    double *sigmas;             /* [steps + 1] */
    struct reuse *cache;        /* NULL: off */
    struct reuse *reuse;        /* the cache in this pass; NULL: none */
    int span_begin, span_end;   /* of the span that may be skipped; both `layers`: there is none */
    bool velocity_reused;       /* SITE_VELOCITY: of this step */
    uint64_t cache_bytes;
    int passes, pass;
    struct solver *solver[PASSES];
    float *uncached_latent, *uncached_frames; /* of the first of two passes; shared, the host's */
    double pass_seconds[PASSES];
    int64_t pass_began_ns;
    struct quality_run *quality;
    struct job_cache report; /* times, and what was compared */
    int computed_steps, reused_steps;

    /* A job that goes on from a checkpoint. Steps whose features it had are made again first. */
    bool resumed, replaying;
    int resume_step;                                    /* of the pass */
    int inherited;                                      /* steps that its origin made; 0: none */
    double resumed_text, resumed_denoise, resumed_pass; /* seconds */
};

/* The expert that makes the step at work. */
static inline int job_expert(const struct job *j)
{
    return j->step >= j->switch_at;
}

/* Floats of block records that travel with a hop. */
static inline int record_count(const struct job *j)
{
    return j->reuse && reuse_plan(j->reuse)->policy.site == SITE_BLOCKS
               ? j->engine->model->config.denoiser.layers
               : 0;
}

/* Of the stages; 1: each has all rows. */
static inline int job_width(const struct job *j)
{
    return split_width(&j->engine->model->split);
}

/* Is a hop of it with wide stages? They work on it together, so that nothing may be closed before it is back. */
static inline bool job_is_out(const struct job *j)
{
    int parts = 0;
    for (int b = 0; b < j->branches && job_width(j) > 1; b++) parts += j->branch[b].parts;
    return parts > 0;
}

/* The chain that a branch takes at this step. */
static inline int job_chain(const struct job *j, int branch)
{
    return split_chain(&j->engine->model->split, job_expert(j), branch);
}

/* A branch's modulation and hidden state on the device, and its block records on the host. */
static inline float *branch_modulation(const struct branch *b)
{
    return (float *)(void *)b->hop.device;
}

static inline float *branch_rows(const struct job *j, const struct branch *b)
{
    return branch_modulation(b) + 6 * j->engine->model->config.denoiser.hidden;
}

static inline float *branch_records(const struct branch *b)
{
    return cargo_tail(&b->hop);
}

double job_seconds_since(int64_t ns);
/* Of the policy's text that goes with OPEN; 0: stages need none. */
size_t job_policy_bytes(const struct job *job);
/* The stages owe an answer from now on. */
void job_await(struct job *job);
/* Whatever is still with the stages will not be missed. */
void job_forget_hops(struct job *job);
/* Tells the stages that it was that. */
void job_close(struct job *job);
/* Ends the job with this sentence, through CLOSE where stages hold its contexts. */
enum job_result job_fail(struct job *job, const struct error *why);
/* Gives back what only steps need: hops, keys and values, histories, features. After a wait; all hops are back, and nothing of
 * the job is with the fabric any more. */
void job_shed(struct job *job);
void job_enter_phase(struct job *job, enum life life, enum job_phase phase, int of);

/* job_step.c: the step loop. */
enum job_result job_advance_step(struct job *job);
enum job_piece job_next_in_step(const struct job *job);
/* Noise, solver and policy as at the start of a run over all steps. */
void job_begin_pass(struct job *job, int pass);
/* Which caching and which blocks that is. */
void job_enter_pass(struct job *job, int pass);
void job_receive(struct job *job, const struct fabric_event *event);
void job_sent(struct job *job, int branch);

/* job_save.c: in place of the first pass's beginning, and of the end of a step that was made again. */
void job_resume(struct job *job);
void job_replayed(struct job *job);

/* job_text.c: a layer of the text encoder, or what follows the last one. *done: it was the last branch's. */
status_t job_encode_text(struct job *job, bool *done, struct error *error);

/* job_run.c: names the runs, asks for what has been made of them, and takes it. Waits: an answer may still come in time;
 * when that is over. */
void job_tend_run(struct job *job);
bool job_run_waits(const struct job *job);
int64_t job_run_deadline_ns(const struct job *job);
void job_run_end(struct job *job);
/* What a text of the job depends on. */
struct text_facts job_text_facts(const struct job *job, int branch);
/* The pass's last latent, for others. */
void job_give_latent(struct job *job);

/* job_residual.c: asks for what the steps that would be made again added. Waits, until: as with a run. */
void job_seek_residuals(struct job *job);
void job_tend_residuals(struct job *job);
bool job_residuals_wait(const struct job *job);
int64_t job_residuals_deadline_ns(const struct job *job);
/* True: it stands for the blocks of the branch in the step that is made again. Used: after the wait. */
bool job_take_residual(struct job *job, int branch);
void job_residuals_used(struct job *job);
void job_residuals_end(struct job *job);
/* All steps are made: they are of no more use. */
void job_forget_residuals(struct job *job);

/* job_save.c: what caching decides by, as a number. 0: nothing. */
uint64_t job_tables_hash(const struct job *job);

/* job_reuse.c. An answer about the run, or about the text of text_branch, may still come in time; when that is over. */
bool job_reuse_waits(const struct job *job);
int64_t job_reuse_deadline_ns(const struct job *job);
/* True: the answer is there and text_rows is on its way, or *status says why not. job_text_used: nothing reads the
 * answer any more. */
bool job_take_text(struct job *job, struct error *error, status_t *status);
void job_text_used(struct job *job);
/* What was made of text_branch, in so many seconds, for others. */
status_t job_give_text(struct job *job, double seconds, struct error *error);
/* True: the branch's velocity is on its way. */
bool job_take_first_step(struct job *job, int branch);
/* After the wait that ended a step, before it is counted. */
status_t job_give_first_step(struct job *job, double seconds, struct error *error);
void job_reuse_end(struct job *job);

/* job_preview.c. Before the solver's step: the clean latent, if one is due; after the wait: what is to be decoded. */
void job_preview_lay_out(struct job *job, struct arena *shared, struct arena *host);
void job_preview_predict(struct job *job);
void job_preview_take(struct job *job);

/* job_finish.c: decoding begins with giving back what only steps needed. What decoding a latent frame, measuring it or
 * encoding some frames is charged as. */
uint64_t job_frame_work(const struct job *job);
enum job_result job_advance_decode(struct job *job);
enum job_result job_advance_files(struct job *job);

#endif
