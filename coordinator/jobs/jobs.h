/*
 * jobs.h - the jobs that are not finished: their states, their order, their deadlines. In memory, over the
 * store.
 *
 *     struct jobs *jobs;
 *     jobs_open(store, limit, &jobs, &error);                       loads what the store has
 *     jobs_submit(jobs, &submission, now_ms, &id, &error);          accepted, then queued
 *     struct job *job = jobs_next(jobs, may_start, context);        whose turn it is
 *     jobs_start(jobs, job, "2 ranks, blocks 4+4", now_ms, &error); queued > running, attempt + 1
 *     jobs_complete(jobs, job, &times, report, now_ms, &error);
 *
 * Every function that moves a job writes to the store first and to memory only when that worked. Nothing is
 * durable before jobstore_commit; when a commit failed, call jobs_reload. Only legal transitions happen:
 * anything else is STATUS_CONFLICT with a sentence. `struct job` pointers are borrowed and end with the job's
 * final state and with jobs_reload. One thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_JOBS_JOBS_H
#define REFRAIN_COORDINATOR_JOBS_JOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "coordinator/jobs/jobstore.h"
#include "coordinator/foresight/pace.h"
#include "coordinator/jobs/tenants.h"
#include "proto/validate.h"
#include "rules/plan.h"

/* Ranks a job may lose in a row without getting any further, before it fails. The last ones it must lose while
 * nothing runs beside it, so that no job fails for what another did, or for bad luck. */
enum { JOB_MAX_LOSSES = 3, JOB_LOSSES_ALONE = 2 };

/* What a job's spec says of its work (foresight.h). */
struct outlook {
    uint64_t model; /* by number */
    uint32_t steps;
    struct plan_mix mix;
    uint32_t first_steps;     /* that the first of two experts makes; `steps`: there is one */
    double tokens;            /* 0: nothing is known */
    double flops[PACE_TERMS]; /* of a block (pace.h) */
    uint32_t latent_frames, frames;
    uint32_t begins; /* steps that it takes over from another job */
    bool certain;    /* mix.hit_rate is what will be, */
    bool by_step;    /* and these are the steps: a bit each */
    uint8_t skips[(LIMIT_STEPS + 7) / 8];
};

struct job {
    uint64_t id, sequence;
    struct tenant *share;
    const char *tenant; /* share->name */
    char *model;        /* owned */
    Refrain__JobState state;
    Refrain__Priority priority;
    uint32_t attempt, losses;
    uint32_t alone; /* of those losses, while nothing ran beside it; not stored */
    int64_t submitted_ms, started_ms, deadline_at_ms; /* wall clock; 0: none */
    uint64_t
        age; /* grows in the order in which jobs were first taken from the queue; 0: not yet; not stored */
    double work;                /* jobstore_work */
    uint64_t run;               /* jobs_run; not stored: 0 after a restart, until somebody reads its spec */
    Refrain__Progress progress; /* of the running attempt; not stored. Set by jobs_note_progress, owned */
    uint32_t kept; /* steps that its checkpoint holds, from when it was queued again; not stored */
    char *again;   /* why it was; NULL: it was not. Owned, not stored */
    uint64_t reached,
        loss_reached; /* the furthest this attempt came, and any attempt that was lost: phase and step */
    struct outlook outlook;
    int64_t finish_ms;   /* wall clock: when it is expected to be done; 0: unknown */
    bool measured;       /* ... from what was measured, not guessed */
    int64_t middle_ms;   /* when half of its steps were done; 0: not yet */
    int64_t foretold_ms; /* what finish_ms was then; 0: nothing was measured */
};

struct jobs;

status_t jobs_open(struct jobstore *store, size_t limit, struct jobs **jobs, struct error *error);
void jobs_close(struct jobs *jobs); /* NULL is fine */
status_t jobs_reload(struct jobs *jobs, struct error *error);

/* What decides whether two requests are the same: the hash of the spec as the client sent it. */
status_t jobs_hash_spec(const Refrain__JobSpec *spec, uint8_t hash[REQUEST_HASH_BYTES], struct error *error);
/* Two jobs with the same one make the same steps, and a tenant's jobs take them from each other (docs/tier.md). 0: nobody
 * else makes these, or they are to be made; also without memory. */
uint64_t jobs_run(const char *tenant, const Refrain__JobSpec *spec);
/* The job an earlier submission with this key made: STATUS_NOT_FOUND, or STATUS_CONFLICT when it asked for
 * something else. */
status_t jobs_find_same(struct jobs *jobs, const char *tenant, const char *key,
                        const uint8_t hash[REQUEST_HASH_BYTES], uint64_t *id, struct error *error);

struct submission {
    const char *tenant;
    const char *idempotency_key; /* NULL: none */
    uint8_t hash[REQUEST_HASH_BYTES];
    const Refrain__JobSpec *spec; /* complete */
};
/* STATUS_NO_MEMORY when as many jobs as allowed are waiting. */
status_t jobs_submit(struct jobs *jobs, const struct submission *submission, int64_t now_ms, uint64_t *id,
                     struct error *error);

struct job *jobs_find(const struct jobs *jobs, uint64_t id); /* unfinished ones only; NULL otherwise */
/* The queued job whose turn it is, of those that may start (NULL: all may): the highest priority; of it a job
 * that lost its ranks; then of the tenant served least the one with the earliest deadline, then the oldest.
 */
struct job *jobs_next(const struct jobs *jobs, bool (*may)(void *context, const struct job *job),
                      void *context);
struct job *jobs_at(const struct jobs *jobs,
                    size_t index);          /* any unfinished one, by number; NULL past the end */
size_t jobs_count(const struct jobs *jobs); /* unfinished ones */
size_t jobs_ahead(const struct jobs *jobs, const struct job *job); /* queued before it */
/* The first `most` of those that wait, in the order in which they will be taken if nobody else comes, with one more among
 * them (NULL: none); how many. */
size_t jobs_order(struct jobs *jobs, struct job *extra, struct job **order, size_t most);
/* A job as it would be, for jobs_order, with nothing stored; NULL: no memory. */
struct job *jobs_sketch(struct jobs *jobs, const char *tenant, const Refrain__JobSpec *spec, int64_t now_ms);
void jobs_drop_sketch(struct jobs *jobs, struct job *sketch);
/* The jobs' finish_ms are of that moment. */
void jobs_foreseen(struct jobs *jobs, int64_t now_ms);
bool jobs_use_model(const struct jobs *jobs, const char *model);

/* plan: for people. */
status_t jobs_start(struct jobs *jobs, struct job *job, const char *plan, int64_t now_ms,
                    struct error *error);
enum jobs_loss {
    LOSS_NONE,    /* no fault of its: nothing is counted */
    LOSS_COMPANY, /* a rank was lost while other jobs were in flight too: it may have been any of them */
    LOSS_ALONE,   /* ... and nothing else was: the last one of JOB_MAX_LOSSES in a row makes it fail */
};
/* running > queued, or failed. message: why. */
status_t jobs_requeue(struct jobs *jobs, struct job *job, enum jobs_loss loss, const char *message,
                      int64_t now_ms, struct error *error);
/* It has lost so many ranks that it must run alone. */
bool jobs_suspect(const struct job *job);
/* What a client asks for: a queued job is cancelled at once, a running one becomes cancelling. */
status_t jobs_cancel(struct jobs *jobs, struct job *job, int64_t now_ms, struct error *error);
/* Into a final state; the job is gone from memory afterwards. message, times may be NULL. */
status_t jobs_finish(struct jobs *jobs, struct job *job, Refrain__JobState state, const char *message,
                     const Refrain__JobTimes *times, int64_t now_ms, struct error *error);

/* jobs_finish as completed, with what the job's caching did (NULL: it had none). */
status_t jobs_complete(struct jobs *jobs, struct job *job, const Refrain__JobTimes *times,
                       const Refrain__CacheReport *cache, int64_t now_ms, struct error *error);

/* Takes a copy; bytes that are no actions and a change that is not finite are left out. */
void jobs_note_progress(struct job *job, const Refrain__Progress *progress);

/* Expires what is past its deadline. */
status_t jobs_expire(struct jobs *jobs, int64_t now_ms, struct error *error);
int64_t jobs_next_deadline_ms(const struct jobs *jobs); /* wall clock; INT64_MAX: none */

/* The stored job with what only memory knows: progress, jobs ahead, an estimate. */
status_t jobs_describe(struct jobs *jobs, const char *tenant, uint64_t id, Refrain__Job **out,
                       struct error *error);
void jobs_decorate(const struct jobs *jobs, Refrain__Job *job); /* the same for a message already read */

/* Takes the calibration tables out of a job's spec: lists and live progress do without their bulk. */
void jobs_drop_tables(Refrain__Job *job);

/* Numbers of jobs that changed state since the last call, for whoever tells watchers: call it after each commit. The array
 * is valid until the next change. */
size_t jobs_take_changed(struct jobs *jobs, const uint64_t **ids);

/* How often a job came into each state since jobs_open, [JOB_STATES]; what a failed commit undid is not counted. */
const uint64_t *jobs_entered(const struct jobs *jobs);

#endif
