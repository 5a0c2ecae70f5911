/*
 * vault_core.h - what vault.c (the index, called by the loop) and vault_serve.c (the vault's thread) share.
 * Nobody else includes this.
 *
 * Slots are made by either side and freed by the thread alone, after the loop dropped them: a slot that the
 * thread found stays while it works on it, without the lock.
 */
#ifndef REFRAIN_COORDINATOR_VAULT_VAULT_CORE_H
#define REFRAIN_COORDINATOR_VAULT_VAULT_CORE_H

#include <pthread.h>
#include <xxhash.h>
#include "coordinator/vault/vault.h"
#include "proto/wire.h"

enum { VAULT_BATCH = 16 }; /* checkpoints made durable together */
#define STRIDE_UNKNOWN UINT32_MAX

/* A whole file, in the index or on the list of those to be removed. */
struct held {
    struct held *next;
    struct checkpoint checkpoint;
    struct run_point point;
    int64_t age; /* grows from one that was saved to the next; at start: from the files' times */
    bool mark;   /* the job itself does not need it (any more) */
};

/* A checkpoint that is arriving. The thread's. */
struct incoming {
    struct wire_peer peer;
    struct held *entry; /* what it will be in the index; entry->checkpoint is what was announced */
    uint64_t got;       /* bytes */
    int file;
    XXH64_state_t *hash;
    int64_t touched_ns;
};

struct slot {
    uint64_t job;
    /* Under the lock. */
    uint32_t attempt; /* that may save; 0: none */
    uint32_t stride;  /* of its marks; 0: none stay; STRIDE_UNKNOWN: all do, until it is said */
    bool over;
    int64_t over_ns;   /* since when */
    struct held *held; /* best first: most steps, then latest attempt */
    struct checkpoint news;
    bool has_news;
    struct slot *next; /* in the list of news, or of those that are gone */
    /* The thread's. */
    int directory;             /* -1: not open */
    struct incoming *incoming; /* NULL: none */
    bool in_batch;             /* it is complete and waits to be made durable */
};

struct vault {
    uint64_t limit_bytes, job_bytes, mark_bytes;
    int keep;
    int root;     /* directory */
    int wake;     /* eventfd: the loop left something for the thread */
    int saved;    /* eventfd: vault_saved has something */
    void *socket; /* the thread's, once that runs */
    char endpoint[256];
    pthread_t thread;
    bool thread_runs;

    pthread_mutex_t lock; /* guards what follows */
    struct slot **slots;  /* [slot_count], by job */
    size_t slot_count, slot_room;
    struct slot *gone;    /* dropped: to be removed and freed by the thread */
    struct held *surplus; /* no longer in the index: files to be removed by the thread */
    struct slot *news, **news_end;
    uint64_t arriving; /* bytes of what is arriving: their room is taken */
    uint64_t marked;   /* what marks count for */
    int64_t newest;    /* age */
    struct vault_stats stats;
    bool stop;

    /* The thread's. */
    struct slot *batch[VAULT_BATCH];
    int batch_count, open_directories;
    size_t incoming_count;
    int64_t next_look_ns; /* for what stopped arriving */
    uint8_t *buffer;      /* [WIRE_CHUNK_MAX] */
};

/* vault_serve.c */
void *vault_serve(void *vault);

/* vault.c; under the lock, all of them. */
struct slot *vault_find(const struct vault *vault, uint64_t job);
/* Puts a whole file into the index and what it makes superfluous on `surplus`. */
void vault_index(struct vault *vault, struct slot *slot, struct held *entry);
/* Takes a file out of the index and puts it on `surplus`. False: it was not in it. */
bool vault_unindex(struct vault *vault, struct slot *slot, const struct checkpoint *checkpoint);
/* The same for the oldest mark, or for the oldest file that is not its job's best. False: there is none. */
bool vault_evict(struct vault *vault);
/* True: it is no mark and there are `keep` better ones of the job, or it is one that is there. */
bool vault_superfluous(const struct vault *vault, const struct slot *slot,
                       const struct checkpoint *checkpoint);
void vault_announce(struct vault *vault, struct slot *slot, const struct checkpoint *checkpoint);

#endif
