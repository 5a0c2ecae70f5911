/*
 * courier.h - carries checkpoints between this rank and the coordinator's vault, on a thread and a socket of
 * its own: the compute thread copies bytes and goes on, hops and reports never wait for it.
 *
 *     courier_open(&config, &courier, &error);
 *     courier_connect(courier, welcome->vault);                   as soon as the coordinator said where it is
 *     if ((bytes = courier_buffer(courier, job, size, false))) {  NULL: not now; the next step tries again
 *         job_save(job, bytes, size);
 *         courier_send(courier, bytes, &name);
 *     }
 *     courier_fetch(courier, &name);
 *     poll on courier_descriptor(courier);
 *     while (courier_take(courier, &arrival)) { ...; courier_free(&arrival); }
 *
 * Of a job at most one checkpoint is on its way and one waits; a newer one takes the place of the one that
 * waits, unless that is a mark (courier_buffer). What cannot be delivered within its deadline is dropped with a log line: a checkpoint is a
 * convenience, a job never fails for want of one. Buffers are used again; after the first checkpoints nothing
 * is allocated.
 *
 * courier_open and courier_close: any thread, once. The others: the compute thread.
 */
#ifndef REFRAIN_WORKER_COURIER_H
#define REFRAIN_WORKER_COURIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cache/tier/key.h"

struct courier;

enum { COURIER_JOBS = 64 }; /* at once, as many as a rank may be at work on */

struct courier_config {
    const char *coordinator; /* where this rank reaches it; NULL: a vault at `*` cannot be reached */
    const char *public_key, *secret_key, *server_key; /* CURVE, Z85; NULL for none; borrowed until close */
    int64_t patience_ns;                              /* for one checkpoint; 0: 60 s */
    int64_t pace_ns; /* at least between two checkpoints, of all jobs in turn; 0: as they come */
};

/* Names one checkpoint. step: steps finished when it was made, over all passes of a job that compares. */
struct checkpoint_name {
    uint64_t job;
    uint32_t attempt; /* that made it */
    uint32_t step;
    uint64_t bytes, xxh64;  /* of a fetch: what the coordinator says it has */
    struct run_point point; /* of one that is sent: which run it is of, if that has a name */
};

status_t courier_open(const struct courier_config *config, struct courier **courier, struct error *error);
void courier_close(
    struct courier *courier); /* NULL is fine; what has not been sent is dropped; at most 1 s */

/* Where the vault is, a `*` in place of the coordinator's host; NULL or "": nobody keeps checkpoints. Calling it again with the same endpoint changes
 * nothing. */
void courier_connect(struct courier *courier, const char *endpoint);

/* Memory for a checkpoint of that job, the caller's until courier_send, courier_forget or the next
 * courier_buffer of the job. NULL: no vault, no memory, sooner than the pace allows, or COURIER_JOBS others
 * were not forgotten. A checkpoint of the job that waits is given up for it.
 * mark: one that others may want to go on from. The pace does not hold for it, none takes its place as long as a job's
 * waiting marks are not more than COURIER_MARKS bytes (then the oldest goes), and it is sent though the job was
 * forgotten. */
enum { COURIER_MARKS = 64 << 20 };
void *courier_buffer(struct courier *courier, uint64_t job, size_t bytes, bool mark);
/* Takes the buffer back and sends name->bytes of it; the hash is made on the courier's thread. */
void courier_send(struct courier *courier, void *buffer, const struct checkpoint_name *name);
/* Marks of the job are on their way, or wait. When the last one is settled, courier_descriptor is readable. */
bool courier_has_marks(const struct courier *courier, uint64_t job);
/* The job is over here: what waits is dropped, what is under way may still arrive. To be called for every job
 * that courier_buffer was called for. */
void courier_forget(struct courier *courier, uint64_t job);

struct courier_arrival {
    struct checkpoint_name name;
    void *bytes; /* [name.bytes]; NULL: it could not be had, error says why */
    struct error error;
};
/* Asks for a checkpoint; exactly one arrival follows, at the latest after the courier's patience (60 s). At
 * most COURIER_JOBS at once. */
void courier_fetch(struct courier *courier, const struct checkpoint_name *name);
bool courier_take(struct courier *courier, struct courier_arrival *arrival);
void courier_free(struct courier_arrival *arrival);
int courier_descriptor(const struct courier *courier); /* readable while courier_take has something */

struct courier_counts {
    uint64_t saved, dropped, bytes; /* durable; replaced or undeliverable; of the durable ones */
};
void courier_counts(const struct courier *courier, struct courier_counts *counts);

#endif
