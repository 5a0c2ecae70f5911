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
#include "rules/share.h"
#include "worker/home.h"
#include "worker/probe.h"
#include "worker/stage.h"
#include "worker/tier.h"

/* A member that goes because all were told to is no loss: our own order is a moment behind. */
enum { ORDER_PATIENCE_MS = 50 };

struct rank {
    const struct rank_config *config;
    struct engine *engine;
    struct home *home;   /* in an epoch, on member 0; where homes float, on every member */
    struct stage *stage; /* in an epoch, on every other member; where homes float, on every member */
    char model_name[72], model_directory[4096];
    uint64_t last_epoch; /* the latest it was told to enter */
    uint32_t seats;      /* of the group, as that said; 0: not yet */
    struct share share;  /* of home and stage, on a rank that is both */
    struct probe probe;  /* of the link to another member */
    bool joined, stop;
    int64_t order_patience_ns;
    struct error broken; /* why the epoch cannot go on; STATUS_OK: it can */
    int broken_peer;
    int64_t broken_until_ns; /* when that is said, unless an order ends the epoch before */
    bool disturbed;          /* an epoch was lost: MPI is not to be trusted any more */
};

/* Where this member's part of the ring begins: of the first chain that it has a part of. */
static int ring_begin(const struct model *m)
{
    for (int c = 0; c < m->chains; c++)
        if (m->run[c].count > 0) return m->run[c].first;
    return m->run[0].first;
}

/* Blocks as people are told them: the fixed home's begin with its head; floating homes, which all hold the
 * same caps, are told apart by their runs. */
static uint32_t first_block(const struct model *m)
{
    return (uint32_t)(m->split.floating ? ring_begin(m) : ring_begin(m) - m->head);
}

static uint32_t block_count(const struct model *m)
{
    return (uint32_t)(m->split.floating ? m->blocks - m->head - m->tail : m->blocks);
}

static void present(struct rank *r)
{
    struct presence p = {.epoch = r->engine->epoch,
                         .members = r->engine->epoch ? (uint32_t)r->engine->members : 0,
                         .last_epoch = r->last_epoch,
                         .ranks = r->seats};
    const struct model *m = r->engine->model;
    if (m) {
        memcpy(p.model, r->model_name, sizeof p.model);
        p.first_block = first_block(m);
        p.blocks = block_count(m);
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
    tier_leave(r->engine->tier);
    probe_leave(&r->probe, r->engine);
    r->joined = false;
    r->broken.status = STATUS_OK;
    engine_drop_events(r->engine);
    if (!r->stop && r->engine->failure.status == STATUS_OK) home_keep(r->home);
    home_destroy(r->home);
    stage_destroy(r->stage);
    r->home = NULL;
    r->stage = NULL;
    r->engine->epoch = 0;
    present(r);
}

/* The epoch cannot go on. Nothing is said yet. */
static void break_epoch(struct rank *r, int peer, const struct error *why)
{
    if (r->broken.status != STATUS_OK) return;
    r->broken = *why;
    r->broken_peer = peer;
    r->broken_until_ns = clock_now_ns() + r->order_patience_ns;
}

static void lose_epoch(struct rank *r)
{
    Refrain__EpochLost lost = REFRAIN__EPOCH_LOST__INIT;
    lost.has_epoch = lost.has_peer = 1;
    lost.epoch = r->engine->epoch;
    lost.peer = (uint32_t)r->broken_peer;
    lost.message = r->broken.text;
    log_line(LOG_ERROR, "epoch %lu is over: %s", (unsigned long)r->engine->epoch, r->broken.text);
    r->disturbed = true;
    control_report(r->config->control, REFRAIN__WORKER_REPORT__BODY_EPOCH_LOST, &lost);
    leave_epoch(r);
}

/* Home, stage, or both, as the member's place and the split want it. Called while no job is alive; yet the
 * fabric may still read buffers of a stage that is not needed any more, so that one stays. */
static status_t take_roles(struct rank *r, const struct split *split, struct error *error)
{
    struct engine *e = r->engine;
    bool home = split_home(split, e->self), stage = e->self != 0 || split->floating || split_width(split) > 1;
    status_t status = STATUS_OK;
    if (home && !r->home)
        status =
            home_create(e, r->config->control, r->config->courier, r->config->directory, &r->home, error);
    if (status == STATUS_OK && stage && !r->stage) status = stage_create(e, &r->stage, error);
    if (status != STATUS_OK) return status;
    if (!home) {
        home_destroy(r->home);
        r->home = NULL;
    }
    return STATUS_OK;
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
    tier_join(r->engine->tier, r->engine);
    r->share = (struct share){0};
    return take_roles(r, &(struct split){0}, error);
}

static void enter_epoch(struct rank *r, const Refrain__Epoch *order)
{
    struct error error;
    leave_epoch(r);
    r->engine->epoch = order->epoch;
    if (order->epoch > r->last_epoch) r->last_epoch = order->epoch;
    if (order->has_seats && order->seats <= FABRIC_MAX_MEMBERS) r->seats = order->seats;
    status_t status = join(r, order, &error);
    if (status == STATUS_ABORTED) { /* by an order that waits: it ends this epoch, nothing is lost */
        leave_epoch(r);
        return;
    }
    if (status != STATUS_OK) {
        break_epoch(r, (int)order->self, &error);
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
    const Refrain__Split *from = load->split;
    if (!from || members > SPLIT_MAX_MEMBERS || (from->n_chains != 0 && from->n_chains != SPLIT_CHAINS))
        return error_set(error, STATUS_CORRUPT, "a split that does not name each of %d members", members);
    for (size_t i = 0; i < from->n_chains; i++) {
        if (from->chains[i] >= SPLIT_CHAINS)
            return error_set(error, STATUS_CORRUPT, "a split with a chain %u", from->chains[i]);
        split->chain[i / SPLIT_BRANCHES][i % SPLIT_BRANCHES] = (int)from->chains[i];
    }
    if (from->n_run != (size_t)(members * split_chains(split)))
        return error_set(error, STATUS_CORRUPT, "a split that does not name each of %d members", members);
    split->head = (int)from->head;
    split->tail = (int)from->tail;
    split->spare = (int)from->spare;
    split->floating = from->floating;
    split->width = from->width > SPLIT_MAX_MEMBERS ? -1 : (int)from->width; /* -1: refused with the rest */
    for (size_t i = 0; i < from->n_run; i++) split->run[i] = (int)from->run[i];
    return STATUS_OK;
}

/* As the model's split says. */
static status_t take_places(struct rank *r, struct error *error)
{
    status_t status = engine_form_stage(r->engine, error);
    return status == STATUS_OK ? take_roles(r, &r->engine->model->split, error) : status;
}

static status_t load_model(struct rank *r, const Refrain__Load *load, struct error *error)
{
    struct split split;
    struct engine *e = r->engine;
    if (!load->model || !load->directory) return error_set(error, STATUS_CORRUPT, "an order to load nothing");
    status_t status = read_split(load, e->members, &split, error);
    if (status != STATUS_OK) return status;
    bool same = e->model && strcmp(r->model_directory, load->directory) == 0 &&
                strcmp(r->model_name, load->model) == 0 && model_rearrange(e->model, &split, e->self);
    if (same) return take_places(r, error);
    if (r->home) home_sweep(r->home); /* the note that a job is over may have come just before this */
    stage_forget(r->stage);
    engine_clear(e);
    model_destroy(e->model);
    e->model = NULL;
    status = model_load(load->directory, e->ops, e->team, &split, e->self, &e->model, error);
    if (status == STATUS_OK) status = take_places(r, error);
    if (status != STATUS_OK) return status;
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
    loaded.first_block = first_block(m);
    loaded.blocks = block_count(m);
    log_line(LOG_INFO,
             "%s: %d blocks of the ring from %d on, %d before and %d after it, %.1f MB of weights, %.2f s",
             load->model, m->blocks - m->head - m->tail, ring_begin(m), m->head, m->tail,
             (double)loaded.weight_bytes / 1e6, loaded.seconds);
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
        if (r->config->courier) courier_connect(r->config->courier, order->welcome->vault);
        tier_welcome(r->engine->tier, r->config->control);
        if (r->home) home_welcome(r->home, order->welcome);
        break;
    case REFRAIN__WORKER_ORDER__BODY_ASSIGN:
        if (r->home) home_assign(r->home, order->assign);
        break;
    case REFRAIN__WORKER_ORDER__BODY_CANCEL:
        if (r->home) home_cancel(r->home, order->cancel->job, order->cancel->attempt);
        break;
    case REFRAIN__WORKER_ORDER__BODY_REST:
        if (r->home) home_rest(r->home, order->rest);
        break;
    case REFRAIN__WORKER_ORDER__BODY_NOTED:
        if (r->home) home_noted(r->home, order->noted->job, order->noted->attempt);
        break;
    case REFRAIN__WORKER_ORDER__BODY_UPLOAD_ACK:
        if (r->home) home_ack(r->home, order->upload_ack);
        break;
    case REFRAIN__WORKER_ORDER__BODY_TIER_LEASE:
        tier_lease(r->engine->tier, order->tier_lease);
        return;
    case REFRAIN__WORKER_ORDER__BODY_PROBE:
        if (r->joined) probe_begin(&r->probe, r->engine, r->config->control, order->probe);
        return;
    case REFRAIN__WORKER_ORDER__BODY_TIER_FOUND:
        tier_found(r->engine->tier, order->tier_found);
        return;
    case REFRAIN__WORKER_ORDER__BODY_TIER_COMMAND:
        tier_command(r->engine->tier, order->tier_command);
        return;
    default:
        break;
    }
    if (r->home) present(r);
}

static void serve_orders(struct rank *r)
{
    Refrain__WorkerOrder *order;
    while (!r->stop && (order = control_take(r->config->control))) {
        serve_order(r, order);
        control_free(order);
    }
}

static void serve_fabric(struct rank *r)
{
    struct fabric_event event;
    while (r->joined && engine_next(r->engine, &event)) {
        struct error why;
        switch (event.kind) {
        case FABRIC_LOST:
            error_set(&why, STATUS_PEER_LOST, "member %d was lost", event.peer);
            break_epoch(r, event.peer, &why);
            break;
        case FABRIC_ABORTED:
            leave_epoch(r);
            break; /* an Epoch or Shutdown order is waiting */
        default:
            if (tier_concerns(&event))
                tier_event(r->engine, &event);
            else if (probe_concerns(&event))
                probe_event(&r->probe, r->engine, &event);
            else if (r->stage && (!r->home || stage_concerns(&event)))
                stage_event(r->stage, &event);
            else
                home_event(r->home, &event);
        }
    }
}

static void work_at_stage(struct rank *r)
{
    bool worked;
    struct error error = {0};
    int64_t began_ns = clock_now_ns();
    status_t status = stage_advance(r->stage, &worked, &error);
    share_charge_stage(&r->share, clock_now_ns() - began_ns);
    /* After a lost peer the fabric's own event tells more; everything else is said here. */
    if (status != STATUS_OK && status != STATUS_PEER_LOST && status != STATUS_ABORTED)
        break_epoch(r, r->engine->self, &error);
}

static void work_at_home(struct rank *r, enum job_piece piece)
{
    int64_t began_ns = clock_now_ns();
    home_advance(r->home);
    share_charge_home(&r->share, piece, clock_now_ns() - began_ns);
}

/* One piece, of home or of the stage. False: neither has one. */
static bool work(struct rank *r, int64_t *deadline_ns)
{
    int priority = 0;
    bool tended = tier_tend(r->engine->tier, deadline_ns);
    probe_tend(&r->probe, deadline_ns);
    tended |= r->home && home_tend(r->home);
    enum job_piece piece = r->home ? home_next(r->home, &priority, deadline_ns) : PIECE_NONE;
    int at_stage = r->stage ? stage_next(r->stage) : -1;
    if (piece == PIECE_NONE || at_stage < 0) share_settle(&r->share);
    if (share_home_first(&r->share, piece, priority, at_stage))
        work_at_home(r, piece);
    else if (at_stage >= 0)
        work_at_stage(r);
    else
        return tended;
    return true;
}

static void sleep_until(struct rank *r, int64_t deadline_ns)
{
    const struct rank_config *c = r->config;
    struct pollfd descriptors[] = {
        {.fd = control_descriptor(c->control), .events = POLLIN},
        {.fd = r->joined ? fabric_descriptor(r->engine->fabric) : -1, .events = POLLIN},
        {.fd = c->courier ? courier_descriptor(c->courier) : -1, .events = POLLIN},
        {.fd = tier_descriptor(r->engine->tier), .events = POLLIN}};
    poll(descriptors, 4, clock_poll_ms(deadline_ns));
}

status_t rank_open(const struct rank_config *config, struct rank **rank, struct error *error)
{
    struct rank *r = calloc(1, sizeof *r);
    if (!r) return error_set(error, STATUS_NO_MEMORY, "no memory for the rank");
    r->config = config;
    r->engine = config->engine;
    r->order_patience_ns =
        config->order_patience_ns ? config->order_patience_ns : ORDER_PATIENCE_MS * MILLISECOND_NS;
    *rank = r;
    return STATUS_OK;
}

bool rank_turn(struct rank *r, int64_t *deadline_ns)
{
    *deadline_ns = CLOCK_NEVER;
    serve_fabric(r);
    serve_orders(r);
    if (r->stop) return false;
    if (r->engine->failure.status != STATUS_OK) break_epoch(r, r->engine->self, &r->engine->failure);
    if (r->broken.status == STATUS_OK) return work(r, deadline_ns);
    *deadline_ns = r->broken_until_ns;
    if (clock_now_ns() < r->broken_until_ns) return false;
    lose_epoch(r);
    r->stop =
        r->engine->failure.status != STATUS_OK; /* another process may have better luck with the device */
    return true;
}

bool rank_over(const struct rank *r)
{
    return r->stop;
}

status_t rank_close(struct rank *r, struct error *error)
{
    leave_epoch(r);
    tier_welcome(r->engine->tier, NULL);
    engine_clear(r->engine);
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
