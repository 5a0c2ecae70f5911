/*
 * vault.h - the coordinator's durable checkpoints: files, and the thread and socket that ranks reach them by.
 *
 *     vault_open(&config, &vault, &error);                  makes the directory, finds what is in it
 *     vault_allow(vault, job, attempt);                     from now on only this attempt may save
 *     if (vault_latest(vault, job, &checkpoint)) ...        the newest whole one, of any attempt
 *     poll on vault_descriptor(vault); while (vault_saved(vault, &checkpoint)) ...
 *     vault_retire(vault, job);                             the job is over: some of its files stay for others
 *     vault_lend(vault, job, step, other, &error);          another job may begin from one of them
 *     vault_drop(vault, job);                               the job is deleted: its files go
 *
 * <directory>/<job>/<step>-<attempt>: a head of fixed size (magic, format, job, attempt, step, bytes, hash),
 * then the worker's bytes. Written under a hidden name, hashed, fsynced, renamed, the directory fsynced: a
 * crash at any moment leaves whole files only, and a file whose head or size does not fit is removed at
 * start. Kept are the `keep` best of a job (most steps, then latest attempt), and its *marks*: checkpoints of steps that
 * its stride divides, from which other jobs may go on, also when it is over; then the best is a mark, too. In all
 * they take at most `limit` bytes: beyond it the oldest mark goes first, then the oldest that is not its job's
 * best, then a new one is refused. So it is when the disk is full but for a reserve. Marks by themselves take at most
 * `mark_bytes` (each counted as 64 KiB at least, so that their number has a bound): beyond it the oldest goes. A file
 * whose hash is wrong when a rank asks for it is spoiled on the spot.
 *
 * With each checkpoint the run is kept that it is of (cache/tier/key.h), so that another job which is the same in
 * everything is told how far that run has come: the vault is the last level of the cache tier.
 *
 * A job that begins from another's checkpoint has it as its own, of attempt 0, by a hard link made when it is
 * submitted: whatever becomes of the other job, it stays until this one is over.
 *
 * The vault's thread owns its ROUTER socket and the files; it never touches the job store. All functions here
 * are called by the coordinator's loop thread; `lock` guards the index, and no disk or socket is touched
 * under it.
 */
#ifndef REFRAIN_COORDINATOR_VAULT_VAULT_H
#define REFRAIN_COORDINATOR_VAULT_VAULT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "cache/tier/key.h"

struct vault;

struct checkpoint {
    uint64_t job;
    uint32_t attempt, step;
    uint64_t bytes, xxh64;
};

struct vault_config {
    void *context;         /* ZeroMQ, borrowed */
    const char *bind;      /* tcp://HOST:PORT, port * takes a free one */
    const char *directory; /* made if it is not there */
    uint64_t limit_bytes;  /* of all checkpoints */
    uint64_t job_bytes;    /* of one checkpoint, at most */
    uint64_t mark_bytes;   /* of all marks; 0: none are kept */
    int keep;              /* of one job, 1.. */
    /* Makes the socket a CURVE server before it binds, or does nothing. */
    status_t (*secure)(void *argument, void *socket, struct error *error);
    void *secure_argument;
};

status_t vault_open(const struct vault_config *config, struct vault **vault, struct error *error);
void vault_close(struct vault *vault); /* NULL is fine; waits for a file that is being made durable */
const char *vault_endpoint(const struct vault *vault); /* as bound */

/* Attempts are fenced here: chunks of any other attempt of the job are answered with STATUS_ABORTED. */
void vault_allow(struct vault *vault, uint64_t job, uint32_t attempt);
/* Nobody may save for the job until vault_allow. What it has stays. */
void vault_forbid(struct vault *vault, uint64_t job);
void vault_drop(struct vault *vault, uint64_t job);
/* From now on checkpoints of steps that stride divides stay; 0: none do. */
void vault_mark(struct vault *vault, uint64_t job, uint32_t stride);
/* The job is over, whatever it became. Marks that its last attempt had sent may still come. */
void vault_retire(struct vault *vault, uint64_t job);
/* Steps of the job's checkpoints that another job can begin from, least first; how many there are, of which at most
 * `room` are written. */
size_t vault_steps(const struct vault *vault, uint64_t job, uint32_t *steps, size_t room);
/* The job's checkpoint of that step becomes `borrower`'s of attempt 0, durably. STATUS_NOT_FOUND: it is not there
 * (any more). Touches the disk. */
status_t vault_lend(struct vault *vault, uint64_t job, uint32_t step, uint64_t borrower, struct error *error);
/* What was lent to the job; false: nothing. */
bool vault_origin(const struct vault *vault, uint64_t job, struct checkpoint *checkpoint);
/* At start: removes the files of jobs that are not to be kept. */
void vault_sweep(struct vault *vault, bool (*keep)(void *context, uint64_t job), void *context);

/* The job's own checkpoint that the most steps went into; among those the latest attempt's. */
bool vault_latest(const struct vault *vault, uint64_t job, struct checkpoint *checkpoint);
/* Of whatever job, the checkpoint of that run which the most steps went into, if they are more than `after`; the name
 * has the tenant in it. It counts as used. Looks at everything held. */
bool vault_find_run(struct vault *vault, const struct key *run, uint32_t after, struct checkpoint *checkpoint,
                    struct run_point *point);
/* A checkpoint that a rank could not use (it does not fit, its hash is wrong): it goes, the one before it
 * counts. */
void vault_spoil(struct vault *vault, const struct checkpoint *checkpoint);

int vault_descriptor(const struct vault *vault); /* readable while vault_saved has something */
/* The newest that became durable of some job, once; false: of none. */
bool vault_saved(struct vault *vault, struct checkpoint *checkpoint);

struct vault_stats {
    uint64_t bytes;         /* held */
    uint64_t marks;         /* bytes of that */
    uint64_t saved, loaded; /* checkpoints, since it was opened */
    uint64_t refused;       /* checkpoints, and messages that were none */
};
void vault_stats(const struct vault *vault, struct vault_stats *stats);

#endif
