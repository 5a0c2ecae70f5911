/*
 * rank.c - see rank.h. Compute thread.
 *
 * An epoch is one incarnation of the group: members, their order, a secret. It begins with an Epoch order and
 * ends with the next one, with a lost peer, or with Shutdown. Jobs and contexts live inside an epoch; the
 * model outlives it.
 */
#include "worker/rank.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/home.h"
#include "worker/stage.h"

enum { SHUTDOWN_PATIENCE_MS = 50 };

struct rank {
    const struct rank_config *config;
    struct engine *engine;
    struct home *home;   /* member 0, in an epoch */
    struct stage *stage; /* any other member, in an epoch */
    struct split split;  /* of the model loaded */
    char model_name[72], model_directory[4096];
    bool joined, stop;
    bool disturbed; /* an epoch was lost: MPI is not to be trusted any more */
};

static void present(struct rank *r)
{
    struct presence p = {.epoch = r->engine->epoch};
    const struct model *m = r->engine->model;
    if (m) {
        memcpy(p.model, r->model_name, sizeof p.model);
        p.first_block = (uint32_t)m->first;
        p.blocks = (uint32_t)(m->count + m->tail);
        p.weight_bytes = model_bytes(m);
    }
    if (r->home) home_present(r->home, &p);
    control_present(r->config->control, &p);
}

/* -------------------------------------------------------------------------------------------------------------
 * epoch */

static void leave_epoch(struct rank *r)
{
    if (r->joined) fabric_leave(r->engine->fabric);
    r->joined = false;
    home_destroy(r->home);
    stage_destroy(r->stage);
    r->home = NULL;
    r->stage = NULL;
    r->engine->epoch = 0;
    present(r);
}

static void lose_epoch(struct rank *r, int peer, const char *why)
{
    Refrain__EpochLost lost = REFRAIN__EPOCH_LOST__INIT;
    lost.has_epoch = lost.has_peer = 1;
    lost.epoch = r->engine->epoch;
    lost.peer = (uint32_t)peer;
    lost.message = (char *)(uintptr_t)why;
    log_line(LOG_ERROR, "epoch %lu is over: %s", (unsigned long)r->engine->epoch, why);
    r->disturbed = true;
    control_report(r->config->control, REFRAIN__WORKER_REPORT__BODY_EPOCH_LOST, &lost);
    leave_epoch(r);
}

static status_t join(struct rank *r, const Refrain__Epoch *order, struct error *error)
{
    const char *addresses[FABRIC_MAX_MEMBERS];
    if (order->n_members < 1 || order->n_members > FABRIC_MAX_MEMBERS || order->self >= order->n_members)
        return error_set(error, STATUS_CORRUPT, "an epoch of %zu members", order->n_members);
    for (size_t i = 0; i < order->n_members; i++) addresses[i] = order->members[i]->address;
    struct fabric_membership m = {.epoch = order->epoch,
                                  .self = (int)order->self,
                                  .count = (int)order->n_members,
                                  .addresses = addresses};
    if (order->token.len != sizeof m.token)
        return error_set(error, STATUS_CORRUPT, "an epoch without its token");
    memcpy(m.token, order->token.data, sizeof m.token);
    status_t status = fabric_join(r->engine->fabric, &m, clock_now_ns() + r->config->join_timeout_ns, error);
    if (status != STATUS_OK) return status;
    r->joined = true;
    r->engine->self = m.self;
    r->engine->members = m.count;
    return m.self == 0 ? home_create(r->engine, r->config->control, r->config->courier, r->config->directory,
                                     &r->home, error)
                       : stage_create(r->engine, &r->stage, error);
}

static void enter_epoch(struct rank *r, const Refrain__Epoch *order)
{
    struct error error;
    leave_epoch(r);
    r->engine->epoch = order->epoch;
    if (join(r, order, &error) != STATUS_OK) {
        lose_epoch(r, (int)order->self, error.text);
        return;
    }
    log_line(LOG_INFO, "epoch %lu: member %d of %d", (unsigned long)order->epoch, r->engine->self,
             r->engine->members);
    present(r);
    Refrain__EpochReady ready = REFRAIN__EPOCH_READY__INIT;
    ready.has_epoch = 1;
    ready.epoch = order->epoch;
    control_report(r->config->control, REFRAIN__WORKER_REPORT__BODY_EPOCH_READY, &ready);
}

/* -------------------------------------------------------------------------------------------------------------
 * model */

static status_t read_split(const Refrain__Load *load, int members, struct split *split, struct error *error)
{
    memset(split, 0, sizeof *split);
    split->members = members;
    if (!load->split || load->split->n_run != (size_t)members || members > SPLIT_MAX_MEMBERS)
        return error_set(error, STATUS_CORRUPT, "a split that does not name each of %d members", members);
    split->head = (int)load->split->head;
    split->tail = (int)load->split->tail;
    split->floating = load->split->floating;
    for (size_t i = 0; i < load->split->n_run; i++) split->run[i] = (int)load->split->run[i];
    return STATUS_OK;
}

static status_t load_model(struct rank *r, const Refrain__Load *load, struct error *error)
{
    struct split split;
    struct engine *e = r->engine;
    if (!load->model || !load->directory) return error_set(error, STATUS_CORRUPT, "an order to load nothing");
    status_t status = read_split(load, e->members, &split, error);
    if (status != STATUS_OK) return status;
    bool same = e->model && strcmp(r->model_directory, load->directory) == 0 &&
                memcmp(&split, &r->split, sizeof split) == 0 && strcmp(r->model_name, load->model) == 0;
    if (same) return STATUS_OK;
    arena_free(&e->arena);
    model_destroy(e->model);
    e->model = NULL;
    status = model_load(load->directory, e->ops, &split, e->self, &e->model, error);
    if (status != STATUS_OK) return status;
    r->split = split;
    snprintf(r->model_name, sizeof r->model_name, "%s", load->model);
    snprintf(r->model_directory, sizeof r->model_directory, "%s", load->directory);
    return STATUS_OK;
}

static void serve_load(struct rank *r, const Refrain__Load *load)
{
    struct error error;
    if (!r->joined || load->epoch != r->engine->epoch) return;
    int64_t began_ns = clock_now_ns();
    status_t status = load_model(r, load, &error);
    present(r);
    if (status != STATUS_OK) {
        Refrain__LoadFailed failed = REFRAIN__LOAD_FAILED__INIT;
        failed.has_epoch = failed.has_status = 1;
        failed.epoch = load->epoch;
        failed.model = load->model;
        failed.status = (uint32_t)status;
        failed.message = error.text;
        log_line(LOG_ERROR, "%s", error.text);
        control_report(r->config->control, REFRAIN__WORKER_REPORT__BODY_LOAD_FAILED, &failed);
        return;
    }
    const struct model *m = r->engine->model;
    Refrain__Loaded loaded = REFRAIN__LOADED__INIT;
    loaded.has_epoch = loaded.has_weight_bytes = loaded.has_seconds = loaded.has_first_block =
        loaded.has_blocks = 1;
    loaded.epoch = load->epoch;
    loaded.model = load->model;
    loaded.weight_bytes = model_bytes(m);
    loaded.seconds = (double)(clock_now_ns() - began_ns) / (double)SECOND_NS;
    loaded.first_block = (uint32_t)m->first;
    loaded.blocks = (uint32_t)(m->count + m->tail);
    log_line(LOG_INFO, "%s: blocks %d to %d, %.1f MB of weights, %.2f s", load->model, m->first,
             m->first + m->count - 1, (double)loaded.weight_bytes / 1e6, loaded.seconds);
    control_report(r->config->control, REFRAIN__WORKER_REPORT__BODY_LOADED, &loaded);
}

/* --------------------------------------------------------------------------------------------------------------
 * loop */

static void serve_order(struct rank *r, const Refrain__WorkerOrder *order)
{
    switch (order->body_case) {
    case REFRAIN__WORKER_ORDER__BODY_EPOCH:
        enter_epoch(r, order->epoch);
        break;
    case REFRAIN__WORKER_ORDER__BODY_LOAD:
        serve_load(r, order->load);
        break;
    case REFRAIN__WORKER_ORDER__BODY_SHUTDOWN:
        r->stop = true;
        break;
    case REFRAIN__WORKER_ORDER__BODY_WELCOME:
        if (r->home) home_welcome(r->home, order->welcome);
        break;
    case REFRAIN__WORKER_ORDER__BODY_ASSIGN:
        if (r->home) home_assign(r->home, order->assign);
        break;
    case REFRAIN__WORKER_ORDER__BODY_CANCEL:
        if (r->home) home_cancel(r->home, order->cancel->job, order->cancel->attempt);
        break;
    case REFRAIN__WORKER_ORDER__BODY_NOTED:
        if (r->home) home_noted(r->home, order->noted->job, order->noted->attempt);
        break;
    case REFRAIN__WORKER_ORDER__BODY_UPLOAD_ACK:
        if (r->home) home_ack(r->home, order->upload_ack);
        break;
    default:
        break;
    }
    if (r->home) present(r);
}

/* Takes the orders that are there, waiting for the first at most `patience_ms`. */
static void serve_orders(struct rank *r, int patience_ms)
{
    struct pollfd descriptor = {.fd = control_descriptor(r->config->control), .events = POLLIN};
    Refrain__WorkerOrder *order;
    if (patience_ms) poll(&descriptor, 1, patience_ms);
    while (!r->stop && (order = control_take(r->config->control))) {
        serve_order(r, order);
        control_free(order);
    }
}

static void serve_fabric(struct rank *r)
{
    struct fabric_event event;
    uint64_t epoch = r->engine->epoch;
    while (r->joined && r->engine->epoch == epoch && fabric_next(r->engine->fabric, &event) == STATUS_OK) {
        char why[64];
        switch (event.kind) {
        case FABRIC_LOST:
            /* A member that goes because all were told to is no loss: our own order is a moment behind. */
            serve_orders(r, SHUTDOWN_PATIENCE_MS);
            snprintf(why, sizeof why, "member %d was lost", event.peer);
            if (r->joined && !r->stop && r->engine->epoch == epoch) lose_epoch(r, event.peer, why);
            break;
        case FABRIC_ABORTED:
            leave_epoch(r);
            break; /* an Epoch or Shutdown order is waiting */
        default:
            if (r->home)
                home_event(r->home, &event);
            else
                stage_event(r->stage, &event);
        }
    }
}

static bool work(struct rank *r, int64_t *deadline_ns)
{
    bool worked = false;
    struct error error;
    *deadline_ns = CLOCK_NEVER;
    if (r->home) {
        home_advance(r->home, &worked, deadline_ns);
    } else if (r->stage && stage_advance(r->stage, &worked, &error) != STATUS_OK) {
        /* After a lost peer the fabric's own event tells more; everything else is said here. */
        if (error.status != STATUS_PEER_LOST && error.status != STATUS_ABORTED)
            lose_epoch(r, r->engine->self, error.text);
    }
    return worked;
}

static void sleep_until(struct rank *r, int64_t deadline_ns)
{
    struct pollfd descriptors[] = {
        {.fd = control_descriptor(r->config->control), .events = POLLIN},
        {.fd = r->joined ? fabric_descriptor(r->engine->fabric) : -1, .events = POLLIN}};
    poll(descriptors, 2, clock_poll_ms(deadline_ns));
}

status_t rank_open(const struct rank_config *config, struct rank **rank, struct error *error)
{
    struct rank *r = calloc(1, sizeof *r);
    if (!r) return error_set(error, STATUS_NO_MEMORY, "no memory for the rank");
    r->config = config;
    r->engine = config->engine;
    *rank = r;
    return STATUS_OK;
}

bool rank_turn(struct rank *r, int64_t *deadline_ns)
{
    *deadline_ns = CLOCK_NEVER;
    serve_fabric(r);
    serve_orders(r, 0);
    return !r->stop && work(r, deadline_ns);
}

bool rank_over(const struct rank *r)
{
    return r->stop;
}

status_t rank_close(struct rank *r, struct error *error)
{
    leave_epoch(r);
    arena_free(&r->engine->arena);
    model_destroy(r->engine->model);
    r->engine->model = NULL;
    status_t status =
        r->disturbed ? error_set(error, STATUS_PEER_LOST, "ended after a lost epoch") : STATUS_OK;
    free(r);
    return status;
}

status_t rank_run(const struct rank_config *config, struct error *error)
{
    struct rank *r;
    int64_t deadline_ns;
    status_t status = rank_open(config, &r, error);
    if (status != STATUS_OK) return status;
    while (!rank_over(r))
        if (!rank_turn(r, &deadline_ns) && !rank_over(r)) sleep_until(r, deadline_ns);
    return rank_close(r, error);
}
