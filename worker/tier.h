/*
 * tier.h - this rank's part of the cache tier, for its jobs: what was computed before, here or elsewhere, and what is
 * worth keeping for others. Nothing here waits: neither for a disk nor for another rank.
 *
 *     struct tier_query query = {.tenant = tenant, .deadline_ns = clock_now_ns() + 50 * MILLISECOND_NS};
 *     key_of_text(job_tenant, &facts, &query.key, &error);           facts.numerics = tier_numerics(tier)
 *     switch (tier_ask(tier, &query, &view)) {
 *     case STATUS_OK:    use(view.bytes, view.size); tier_release(tier, &view); break;
 *     case STATUS_AGAIN: it is being fetched: the job waits, and asks again with the same query, once tier_descriptor
 *                        is readable or query.deadline_ns has come; break;
 *     default:           a miss, and query.reason says why: compute it, then
 *         if (tier_reserve(tier, tenant, &query.key, bytes, seconds, &draft, &error) == STATUS_OK) {
 *             memcpy(draft.bytes, made, bytes);
 *             tier_commit(tier, &draft);
 *         }
 *     }
 *
 * A query is a plain value, and there is nothing to cancel: a job that ends forgets it. What was fetched for nobody is
 * let go by itself. Every query ends by its deadline at the latest, whatever happened to disks, ranks and coordinator;
 * choose it by what computing costs (a tenth of that is a good wait; what another job here is just making is waited for as well). A draft has to be committed or aborted by the
 * piece of work that reserved it; a view may be kept as long as the job runs, and keeps memory taken meanwhile. Both
 * may be used over the end of an epoch.
 *
 * Bytes are 256-byte aligned, and the host's; or the device's for who says that ops alone will touch them (`device` of a
 * query, tier_reserve_device) and is told so by `level`: what was made on the device is read there without the way over the
 * host. An item that is found is whole, has the hash it was published with, and
 * was made with these numerics for this tenant (or for everybody: weights alone). Whatever does not fit is a miss. What
 * is refused (tier_reserve: too large, not worth what would have to go, here already, sooner computed than copied) is
 * no failure: go on without.
 *
 * `tier` may be NULL everywhere: the tier is off, and each query a miss.
 *
 * Compute thread. Reading files and hashing what was made are done by the tier's own thread (docs/threads.md).
 */
#ifndef REFRAIN_WORKER_TIER_H
#define REFRAIN_WORKER_TIER_H

#include <stdbool.h>
#include <stdint.h>
#include "cache/tier/store.h"
#include "cluster/fabric.h"
#include "kernels/ops.h"
#include "proto/refrain.pb-c.h"
#include "worker/courier.h"

struct control;
struct engine;
struct tier;

enum {
    TIER_FETCHES = 64,           /* under way at once, for all jobs; more are misses (busy) */
    TIER_MEMORY_LEAST = 1 << 20, /* bytes, of host and device */
    TIER_DEVICE_PARTS = 128,     /* of a GPU's memory one is for the tier, if nobody says otherwise */
};

struct tier_config {
    uint64_t memory_bytes; /* of the host's level; 0: the tier is off */
    uint64_t device_bytes; /* of the device's, one arena of its memory; 0: none. Not where `ops` is local */
    const char *directory; /* of the disk level, this rank's alone; NULL: none. Borrowed for the call */
    uint64_t disk_bytes;
    const struct ops *ops; /* whose numbers they are: tier_numerics */
    const struct team *team;
};

/* *tier is NULL when it is off. STATUS_INVALID: a limit; STATUS_IO: the directory cannot be used; one that another
 * process holds is only warned of: then items are kept in memory. */
status_t tier_open(const struct tier_config *config, struct tier **tier, struct error *error);
void tier_close(struct tier *tier); /* no view and no draft may be out; writes what is to be on disk */

/* How this rank makes numbers, for the keys: this very program (and plug-in), the kind of backend and its device. Ranks
 * with equal fingerprints make equal bits, however they are laid out. 0: the tier is off. */
uint64_t tier_numerics(const struct tier *tier);

/* --------------------------------------------------------------------------------------------------- for jobs */

struct tier_query {
    struct key key;
    uint64_t tenant;     /* of key_tenant, the asking job's: the key must be that tenant's, or public */
    int64_t deadline_ns; /* when waiting is over; 0: do not wait */
    bool device;         /* the view may be the device's, for ops to read (view.level) */
    enum miss reason;    /* of STATUS_NOT_FOUND */
};

/* STATUS_OK: *view is the caller's until tier_release. STATUS_AGAIN; STATUS_NOT_FOUND: a miss. */
status_t tier_ask(struct tier *tier, struct tier_query *query, struct view *view);
void tier_release(struct tier *tier, struct view *view);

/* How far has somebody come with this run (the key of its last latent), of which the asker has made `after` of `steps`?
 *
 *     struct tier_seek seek = {.run = run, .tenant = tenant, .steps = 50, .deadline_ns = until};
 *     tier_seek(tier, &seek)       STATUS_OK: seek.step; AGAIN; NOT_FOUND: nobody, or the coordinator did not say by then
 *
 * Then the item is asked for by tier_run_key, or, if seek.vault.bytes, it is to be fetched from the vault. The question
 * must stay where it is until it is answered or tier_seek_end. */
struct tier_seek {
    struct key run;
    uint64_t tenant;
    uint32_t after, steps;
    bool durable; /* only of the vault */
    int64_t deadline_ns;
    uint32_t step;  /* the answer: more than `after` */
    double seconds; /* that those steps took */
    struct checkpoint_name vault;
    enum { SEEK_NEW, SEEK_ASKED, SEEK_ANSWERED } state; /* the tier's own, as what follows */
    uint64_t number;
    struct tier_seek *next;
};
status_t tier_seek(struct tier *tier, struct tier_seek *seek);
void tier_seek_end(struct tier *tier, struct tier_seek *seek);
/* Of the run after so many steps: its checkpoint's, or after all of them its last latent's. */
status_t tier_run_key(const struct key *run, uint32_t step, uint32_t steps, struct key *key);

/* What came from the vault, for this rank's store and for the asker: a hit as from another rank. Not STATUS_OK: the store
 * does not take it. */
status_t tier_bring(struct tier *tier, uint64_t tenant, const struct key *key, const void *bytes, size_t size,
                    double seconds, struct view *view);
/* All steps of the run are made: its checkpoints in this rank's store are of no more use. */
void tier_forget_steps(struct tier *tier, const struct key *run, uint32_t steps);

/* Room for an item that saves `seconds` of this rank's time whoever has it. As store_reserve; STATUS_UNSUPPORTED: off;
 * STATUS_DENIED: another tenant's key. */
status_t tier_reserve(struct tier *tier, uint64_t tenant, const struct key *key, uint64_t bytes,
                      double seconds, struct draft *draft, struct error *error);
/* The same for what ops write: on the device, if there is a level that has room, else on the host (draft->level). To be
 * committed after a wait. */
status_t tier_reserve_device(struct tier *tier, uint64_t tenant, const struct key *key, uint64_t bytes,
                             double seconds, struct draft *draft, struct error *error);
void tier_commit(struct tier *tier, struct draft *draft); /* whole from soon on; the draft is over */
void tier_abort(struct tier *tier, struct draft *draft);

/* Readable when something came that may answer a query that waits; what comes from other ranks is seen by the fabric's and
 * the control thread's descriptors. -1: off. */
int tier_descriptor(const struct tier *tier);

/* ----------------------------------------------------------------------------------------- for the rank's loop */

/* The coordinator is there and knows nothing of this store yet: everything is told anew, and changes from now on. NULL:
 * it is about to go; nothing is told to it after this returns. */
void tier_welcome(struct tier *tier, struct control *control);
/* The epoch has begun; and is over: after fabric_leave. */
void tier_join(struct tier *tier, struct engine *engine);
void tier_leave(struct tier *tier);
/* Is an event of the fabric the tier's? Then it takes it over. */
bool tier_concerns(const struct fabric_event *event);
void tier_event(struct engine *engine, struct fabric_event *event);
/* Orders of the coordinator. */
void tier_found(struct tier *tier, const Refrain__TierFound *found);
void tier_lease(struct tier *tier, const Refrain__TierLease *lease);
void tier_command(struct tier *tier, const Refrain__TierCommand *command);

/* Takes in what has come, and lets transfers go on. *deadline_ns: when to call again at the latest, if earlier. True:
 * there was something. */
bool tier_tend(struct tier *tier, int64_t *deadline_ns);

/* NULL: off. For statistics and lists. */
struct store *tier_store(struct tier *tier);

#endif
