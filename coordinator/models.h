/*
 * models.h - the models jobs may name: name -> directory and card.
 *
 *     struct models *models;
 *     models_open(store, "/usr/bin/refrain-worker", &models, &error);
 *     models_add(models, &peer, request, "wan", "/models/Wan2.1-T2V-1.3B", &error);
 *                                                                starts or queues an inspection
 *     n = models_poll(models, items);                            beside the loop's own descriptors
 *     while (models_inspected(models, now_ns, &inspected)) ...   stored, or why not
 *
 * What a model allows is not for the coordinator to read: `refrain-worker --inspect DIR` does it in a process
 * of its own, watched by the loop, with a deadline. It prints one JSON object with the fields of ModelCard
 * and exits 0, or one sentence on standard error and exits otherwise; the sentence goes to the client
 * unchanged. One thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_MODELS_H
#define REFRAIN_COORDINATOR_MODELS_H

#include <stdbool.h>
#include <zmq.h>
#include "base/status.h"
#include "coordinator/card.h"
#include "coordinator/jobs/jobstore.h"
#include "proto/wire.h"

enum { MODELS_POLL_ITEMS = 2 };

struct models;

struct model {
    Refrain__ModelCard *card;  /* with the name filled in; owned by models */
    Refrain__ModelCard *shown; /* for clients: tables without their values, so that a list fits a frame */
    char *directory;
};

/* worker_binary: borrowed for the life of `models`. */
status_t models_open(struct jobstore *store, const char *worker_binary, struct models **models,
                     struct error *error);
void models_close(struct models *models); /* NULL is fine; ends a running inspection */
/* After a failed commit: back to what the store has. */
status_t models_reload(struct models *models, struct error *error);

/* name NULL or "": the only model there is. The sentence names what there is. */
status_t models_find(const struct models *models, const char *name, const struct model **model,
                     struct error *error);
const struct model *models_at(const struct models *models, size_t index); /* NULL past the end */

/* The same name with the same directory is inspected again; with another directory it is STATUS_CONFLICT. The
 * answer to the request comes with models_inspected. */
status_t models_add(struct models *models, const struct wire_peer *peer, uint64_t request, const char *name,
                    const char *directory, struct error *error);
status_t models_remove(struct models *models, const char *name, struct error *error);

struct inspected {
    struct wire_peer peer;
    uint64_t request;
    const struct model *model; /* NULL: error says why */
    struct error error;
};
int models_poll(const struct models *models, zmq_pollitem_t items[MODELS_POLL_ITEMS]); /* number of items */
int64_t models_deadline_ns(const struct models *models);                               /* CLOCK_NEVER: none */
bool models_inspected(struct models *models, int64_t now_ns, struct inspected *inspected);

#endif
