/*
 * job.h - one video on its way through home: a state machine that runs until it must wait.
 *
 *     job_create(&engine, &order, directory, &job, &error);
 *     for (;;) switch (job_advance(job)) {
 *         case JOB_ADVANCED: continue;                  did one piece of work
 *         case JOB_WAITS:    ... job_event(job, &event) ...   until a ticket comes back or credits do
 *         case JOB_FINISHED: ... job_outcome(job, &error) ...
 *     }
 *     job_destroy(job);
 *
 * The step loop is in job_step.c, on one page. All of a job's memory is taken when it is created; advancing
 * does not allocate (the text encoder and the video writer, which are outside the step loop, do). Compute
 * thread of home only.
 */
#ifndef REFRAIN_WORKER_JOB_H
#define REFRAIN_WORKER_JOB_H

#include "cache/reuse.h"
#include "rules/piece.h"
#include "worker/courier.h"
#include "worker/engine.h"
#include "worker/model/solver.h"
#include "worker/quality.h"

struct job;

/* What to make: the fields of the wire's JobSpec, complete, as plain values. Strings are borrowed for
 * job_create. */
struct job_order {
    uint64_t job;
    uint32_t attempt;
    const char *prompt, *negative;
    uint64_t seed;
    int steps, width, height, frames, fps;
    double guidance, shift;
    bool guides_apart; /* the steps of the second of two experts, with: */
    double guidance_2; /* otherwise `guidance` holds for all */
    enum solver_kind solver;
    bool save_latents, save_frames;
    const char *cache;                /* text of cache/settings.h; NULL: off */
    const struct cache_table *tables; /* [table_count], copied */
    int table_count;
    bool compare;         /* also make it without caching, and measure the difference */
    const char *tenant;   /* among tenants the ranks are shared fairly; NULL: "" */
    int priority;         /* 0..2, the numbers of enum Priority in refrain.proto */
    int64_t deadline_ms;  /* wall clock; 0: none */
    uint64_t age;         /* the smaller, the longer it has been with the ranks */
    int checkpoint_every; /* steps; 0: never */
    int preview_every;    /* steps; 0: none are made */
    bool recompute;       /* takes no steps from others; gives its own all the same */
    uint64_t origin;      /* the job from whose checkpoint it begins; 0: it begins with noise */
    int origin_step;      /* of that job: finished when the checkpoint was made */
};

enum job_result { JOB_ADVANCED, JOB_WAITS, JOB_FINISHED };

/* The numbers of enum Phase in refrain.proto. */
enum job_phase { JOB_PHASE_TEXT = 2, JOB_PHASE_DENOISE = 3, JOB_PHASE_DECODE = 4, JOB_PHASE_ENCODE = 5 };

struct job_status {
    uint64_t revision; /* grows whenever something below changed */
    enum job_phase phase;
    int done,
        of; /* steps, or latent frames of bands in JOB_PHASE_DECODE; fewer again where the job has to begin anew */
    double step_seconds;
    double seconds_left; /* negative while unknown */
    double text_seconds, denoise_seconds, decode_seconds, encode_seconds;
    int texts_reused, first_steps_reused; /* branches whose text, first step came from the cache tier */
    int steps_reused;                     /* steps, over all passes, that an equal run had made */
    double reused_seconds;                /* that making those took somebody else */
    int steps_taken_over;                 /* made by the job that this one went on from */
};

/* What a job's caching did. */
struct job_cache {
    const char *policy; /* complete text */
    struct reuse_report report;
    double computed_seconds,
        reused_seconds;   /* mean times of a step wholly computed, wholly reused; 0: none */
    double seconds_saved; /* of denoising; an estimate unless the job compared */
    uint64_t bytes;       /* of features, over all ranks */
    bool compared;
    struct quality quality;
    double cached_seconds, uncached_seconds; /* of denoising, if it compared */
};
/* The decoded video [frames, 3, height, width] in 0..1, from JOB_PHASE_ENCODE on; NULL before. */
const float *job_frames(const struct job *job);

/* False: caching is off. Pointers live as long as the job. */
bool job_cache(const struct job *job, struct job_cache *cache);

/* directory: an existing, private place for the job's files; borrowed text. Sizes are checked against the
 * model. */
status_t job_create(struct engine *engine, const struct job_order *order, const char *directory,
                    struct job **job, struct error *error);
/* Only when job_settled(), or after fabric_leave. NULL is fine. */
void job_destroy(struct job *job);

enum job_result job_advance(struct job *job);
/* Asks the cache tier; next to no work. Also what has been asked before may have an answer now. */
void job_tend(struct job *job);

/* What job_advance would do now, so that home can choose between its jobs. Other than PIECE_NONE is a promise:
 * job_advance then does not answer JOB_WAITS. */
enum job_piece job_next(const struct job *job);
/* A preview waits to be decoded. It is a PIECE_DECODE beside what job_next says: job_preview_make does it, whatever the
 * job's steps are at. */
bool job_preview_waits(const struct job *job);
void job_preview_make(struct job *job);
/* The newest preview, a PNG of the job's, and the finished steps it was predicted at; 0: there is none yet. */
int job_preview(const struct job *job, const uint8_t **png, size_t *bytes);
int job_priority(const struct job *job);
int64_t job_due_ms(const struct job *job); /* order.deadline_ms */
const char *job_tenant(const struct job *job);
/* Rows times blocks computed for the job so far, on all ranks: what tenants are charged for. What is not a block
 * counts as the blocks that take about as long. Grows when home does the piece, for a hop when it is sent. */
uint64_t job_work(const struct job *job);

/* ---------------------------------------------------------------------------------------- checkpoints */

/* Of all passes. */
int job_steps(const struct job *job);
/* True between two steps: then *step is how many have been finished, over all passes, and job_save may be
 * called. After the last step it stays true until decoding begins. A restored job gets there once it has made
 * again what its checkpoint left out; *step is then the checkpoint's. */
bool job_between_steps(const struct job *job, int *step);
/* Bytes that job_save would write now; 0: the job cannot be saved now (caching by blocks, SITE_BLOCKS, more than
 * REUSE_BLOCKS_PAST steps after the last one that computed all blocks). */
size_t job_save_bytes(const struct job *job);
/* Everything another process needs to go on from here, on any number of ranks, with the same bits: the
 * latent, the solver's history, the policy's and the forecast's bytes, the log of verdicts, and the latents
 * of the steps whose features the rings hold. Only between steps; size: job_save_bytes. `bytes` need not be
 * aligned; they are whole on return, or worth nothing where the device failed. */
status_t job_save(const struct job *job, void *bytes, size_t size, struct error *error);
/* Before the first job_advance: the job then encodes its text, makes the steps again whose features its rings
 * held, and goes on after the checkpoint's step; one whose steps are all done decodes at once. Nothing is
 * changed on failure: STATUS_CORRUPT (not a checkpoint, cut off, sizes that do not fit), STATUS_UNSUPPORTED
 * (another format), STATUS_CONFLICT (of another job, model, order or kind of backend; or the job has begun).
 * The job may then begin from the start, unless it has an origin.
 *
 * The checkpoint may also be order.origin's, made after order.origin_step. If prompts, guidance and caching are that
 * job's, too, everything is restored, and the result is that job's. If one of them is another, latent and solver's
 * history are taken over and what caching knows is not: its rings begin empty, as if this were the first step, and the
 * next steps are computed. Times are this job's own. */
status_t job_restore(struct job *job, const void *bytes, size_t size, struct error *error);

/* The same of the pass at work alone, as a job that does not compare has it: for whoever makes that run again. */
size_t job_save_run_bytes(const struct job *job);
status_t job_save_run(const struct job *job, void *bytes, size_t size, struct error *error);
/* The checkpoint of a run that is this job's, in its name and hence in everything that changes a bit, made by whatever
 * job; before the text is encoded. It must be further than the job is. The job is then as if it had made those steps: what
 * it reports of its caching is the run's. Nothing is changed on failure, as with job_restore. */
status_t job_adopt(struct job *job, const void *bytes, size_t size, struct error *error);

/* The epoch ends, and this rank lives: what the job's caching keeps of computed steps goes into the rank's store, for
 * whoever goes on with the job. Also in the middle of a step. */
void job_keep_residuals(struct job *job);

/* A checkpoint in the vault that the job waits for, of whatever job; NULL: none. It is brought with job_bring, or NULL
 * where it is not to be had (in time: job_deadline_ns). */
const struct checkpoint_name *job_wants(const struct job *job);
void job_bring(struct job *job, const void *bytes, size_t size);
/* Between two steps: how far its run has come, for whoever keeps its checkpoint; and the checkpoint for the cache tier. */
struct run_point job_run_point(const struct job *job);
void job_give_checkpoint(struct job *job);

/* A SENT or RECEIVED event whose cookie or ticket names this job's context. A received payload is copied: the
 * caller releases it. */
void job_event(struct job *job, const struct fabric_event *event);

/* Ends the job with this sentence before its first piece: it has an origin and could not be restored. */
void job_refuse(struct job *job, const struct error *why);

/* Ends the job before its next piece, also in the middle of a step; it then finishes with STATUS_ABORTED. */
void job_cancel(struct job *job);

uint64_t job_context(const struct job *job); /* names it in tickets and, shifted, in cookies */
uint64_t job_number(const struct job *job);
uint32_t job_attempt(const struct job *job);
const struct job_status *job_status(const struct job *job);
/* When a waiting job gives up or must be looked at again; CLOCK_NEVER when it does not wait. */
int64_t job_deadline_ns(const struct job *job);

/* After JOB_FINISHED: STATUS_OK, or why not. */
status_t job_outcome(const struct job *job, struct error *error);
/* No buffer of the job is with the fabric any more. */
bool job_settled(const struct job *job);

/* Cookies of a job's posts: context * JOB_COOKIES + something below. */
enum { JOB_COOKIES = 16 };

#endif
