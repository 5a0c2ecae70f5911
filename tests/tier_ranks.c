/* tier_ranks.c - see tier_ranks.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>
#include "base/clock.h"
#include "proto/wire.h"
#include "tests/tier_ranks.h"
#include "tests/tier_rig.h"

enum { PATIENCE_MS = 20000 };

/* --------------------------------------------------------------------------------------------- coordinator */

static void send_order(struct tier_ranks *g, int rank, Refrain__WorkerOrder__BodyCase what, void *message)
{
    uint8_t bytes[1024];
    Refrain__WorkerOrder order = REFRAIN__WORKER_ORDER__INIT;
    wire_stamp(order);
    order.body_case = what;
    order.welcome = message; /* the members of the union are all pointers */
    size_t size = refrain__worker_order__pack(&order, bytes);
    zmq_send(g->socket, g->rank[rank].identity, g->rank[rank].identity_bytes, ZMQ_SNDMORE);
    zmq_send(g->socket, bytes, size, 0);
}

static void take_hello(struct tier_ranks *g, int rank)
{
    Refrain__Welcome welcome = REFRAIN__WELCOME__INIT;
    welcome.has_heartbeat_ms = 1;
    welcome.heartbeat_ms = 500;
    send_order(g, rank, REFRAIN__WORKER_ORDER__BODY_WELCOME, &welcome);
    g->welcomes++;
}

static void take_changes(struct tier_ranks *g, int rank, const Refrain__TierChanges *changes)
{
    if (changes->whole) directory_drop(g->book, (uint32_t)rank);
    for (size_t i = 0; i < changes->n_items; i++) {
        const Refrain__TierItem *told = changes->items[i];
        struct directory_item item = {
            .bytes = told->bytes, .xxh3 = told->xxh3, .seconds = (float)told->seconds};
        assert_int_equal(told->key.len, KEY_BYTES);
        assert_int_equal(key_decode(told->key.data, &item.key, NULL), STATUS_OK);
        if (told->gone)
            directory_gone(g->book, (uint32_t)rank, &item.key);
        else
            directory_note(g->book, (uint32_t)rank, &item);
        g->dear += told->dear;
    }
}

static void take_ask(struct tier_ranks *g, int rank, const Refrain__TierAsk *ask)
{
    struct key key;
    struct directory_lease lease;
    Refrain__TierLease answer = REFRAIN__TIER_LEASE__INIT;
    assert_int_equal(key_decode(ask->key.data, &key, NULL), STATUS_OK);
    g->asks++;
    answer.has_ask = 1;
    answer.ask = ask->ask;
    if (ask->epoch == g->epoch && directory_lease(g->book, &key, (uint32_t)rank, clock_now_ns(),
                                                  ask->patience_ms * MILLISECOND_NS, &lease)) {
        answer.has_lease = answer.has_holder = answer.has_bytes = answer.has_xxh3 = answer.has_seconds = 1;
        answer.lease = lease.number;
        answer.holder = lease.holder;
        answer.bytes = lease.item.bytes;
        answer.xxh3 = lease.item.xxh3;
        answer.seconds = (double)lease.item.seconds;
    }
    send_order(g, rank, REFRAIN__WORKER_ORDER__BODY_TIER_LEASE, &answer);
}

static void take_report(struct tier_ranks *g, int rank, const Refrain__WorkerReport *report)
{
    switch (report->body_case) {
    case REFRAIN__WORKER_REPORT__BODY_HELLO:
        take_hello(g, rank);
        break;
    case REFRAIN__WORKER_REPORT__BODY_TIER_CHANGES:
        take_changes(g, rank, report->tier_changes);
        break;
    case REFRAIN__WORKER_REPORT__BODY_TIER_ASK:
        take_ask(g, rank, report->tier_ask);
        break;
    case REFRAIN__WORKER_REPORT__BODY_TIER_ENDED:
        directory_end(g->book, report->tier_ended->lease, report->tier_ended->stale);
        g->ends++;
        g->stale += report->tier_ended->stale;
        break;
    default:
        break;
    }
}

static int sender_of(struct tier_ranks *g, const unsigned char *identity, size_t bytes,
                     const Refrain__WorkerReport *report)
{
    if (report->body_case == REFRAIN__WORKER_REPORT__BODY_HELLO) {
        struct tier_rank *r = &g->rank[report->hello->rank % TIER_RANKS];
        memcpy(r->identity, identity, bytes);
        r->identity_bytes = bytes;
    }
    for (int i = 0; i < g->count; i++)
        if (g->rank[i].identity_bytes == bytes && memcmp(g->rank[i].identity, identity, bytes) == 0) return i;
    return -1;
}

static bool listen_once(struct tier_ranks *g)
{
    unsigned char identity[16];
    zmq_msg_t message;
    int bytes = zmq_recv(g->socket, identity, sizeof identity, ZMQ_DONTWAIT);
    if (bytes < 0) return false;
    zmq_msg_init(&message);
    assert_true(zmq_msg_recv(&message, g->socket, 0) >= 0);
    Refrain__WorkerReport *report;
    struct error error;
    if (wire_unpack_report(zmq_msg_data(&message), zmq_msg_size(&message), &report, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    int rank = sender_of(g, identity, (size_t)bytes, report);
    if (rank >= 0 && !g->deaf) take_report(g, rank, report);
    refrain__worker_report__free_unpacked(report, NULL);
    zmq_msg_close(&message);
    return true;
}

/* --------------------------------------------------------------------------------------------------- ranks */

static void open_rank(struct tier_ranks *g, int index, const char *endpoint)
{
    struct tier_rank *r = &g->rank[index];
    struct error error;
    char bind[sizeof r->directory + 8], items[sizeof r->directory + 8];
    snprintf(r->directory, sizeof r->directory, "%s/%d", g->scratch.path, index);
    snprintf(bind, sizeof bind, "ipc://%s", r->directory);
    snprintf(items, sizeof items, "%s/items", r->directory);
    assert_int_equal(mkdir(r->directory, 0700), 0);
    assert_int_equal(ops_choose("ref", &r->engine.ops, &error), STATUS_OK);
    struct fabric_config fabric = {
        .kind = g->kind ? g->kind : "zmq", .bind = bind, .credits = ENGINE_CREDITS, .max_bytes = 1 << 26};
    struct control_config control = {.coordinator = endpoint, .orphan_ns = 600 * SECOND_NS};
    struct tier_config tier = {.memory_bytes = g->memory ? g->memory : TIER_RANK_BYTES,
                               .directory = g->disk ? items : NULL,
                               .disk_bytes = g->disk,
                               .ops = r->engine.ops};
    r->engine.members = 1;
    if (fabric_open(&fabric, &r->engine.fabric, &error) != STATUS_OK ||
        tier_open(&tier, &r->engine.tier, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    refrain__hello__init(&control.hello);
    control.hello.has_rank = 1;
    control.hello.rank = (uint32_t)index;
    control.progress = &r->engine.progress;
    if (control_start(&control, &r->control, &error) != STATUS_OK) fail_msg("%s", error.text);
}

static void leave(struct tier_rank *r)
{
    if (r->in_epoch) fabric_leave(r->engine.fabric);
    tier_leave(r->engine.tier);
    r->in_epoch = false;
}

static bool turn_of(struct tier_ranks *g, int index)
{
    struct tier_rank *r = &g->rank[index];
    struct fabric_event event;
    Refrain__WorkerOrder *order;
    int64_t deadline_ns = CLOCK_NEVER;
    bool some = false;
    if (!r->engine.tier || r->still) return false;
    for (; r->in_epoch && engine_next(&r->engine, &event); some = true) {
        if (event.kind == FABRIC_LOST || event.kind == FABRIC_ABORTED) {
            r->lost = true;
            leave(r);
        } else {
            assert_true(tier_concerns(&event));
            r->parts += event.kind == FABRIC_RECEIVED && event.ticket.kind == TICKET_ITEM;
            if (g->tamper && g->tamper(g, index, &event))
                fabric_release(r->engine.fabric, &event);
            else
                tier_event(&r->engine, &event);
        }
    }
    for (; (order = control_take(r->control)); some = true) {
        if (order->body_case == REFRAIN__WORKER_ORDER__BODY_WELCOME) tier_welcome(r->engine.tier, r->control);
        if (order->body_case == REFRAIN__WORKER_ORDER__BODY_TIER_LEASE)
            tier_lease(r->engine.tier, order->tier_lease);
        if (order->body_case == REFRAIN__WORKER_ORDER__BODY_TIER_COMMAND)
            tier_command(r->engine.tier, order->tier_command);
        control_free(order);
    }
    return tier_tend(r->engine.tier, &deadline_ns) || some;
}

void tier_ranks_turn(struct tier_ranks *g)
{
    bool some = false;
    while (listen_once(g)) some = true;
    for (int i = 0; i < g->count; i++) some |= turn_of(g, i);
    if (!some) usleep(200);
}

struct joining {
    struct tier_ranks *g;
    int self;
    status_t status;
    struct error error;
};

static void *join_one(void *argument)
{
    struct joining *j = argument;
    const char *addresses[TIER_RANKS];
    for (int i = 0; i < j->g->count; i++) addresses[i] = fabric_address(j->g->rank[i].engine.fabric);
    struct fabric_membership m = {
        .epoch = j->g->epoch, .self = j->self, .count = j->g->count, .addresses = addresses, .token = {7}};
    j->status =
        fabric_join(j->g->rank[j->self].engine.fabric, &m, clock_now_ns() + 20 * SECOND_NS, &j->error);
    return NULL;
}

void tier_ranks_join(struct tier_ranks *g)
{
    struct joining joining[TIER_RANKS];
    pthread_t threads[TIER_RANKS];
    g->epoch++;
    for (int i = 0; i < g->count; i++) {
        leave(&g->rank[i]);
        joining[i] = (struct joining){.g = g, .self = i};
    }
    for (int i = 0; i < g->count; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, join_one, &joining[i]), 0);
    for (int i = 0; i < g->count; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < g->count; i++) {
        struct engine *e = &g->rank[i].engine;
        if (joining[i].status != STATUS_OK) fail_msg("%s", joining[i].error.text);
        e->self = i;
        e->members = g->count;
        e->epoch = g->epoch;
        g->rank[i].in_epoch = true;
        g->rank[i].lost = false;
        tier_join(e->tier, e);
    }
}

void tier_ranks_open(struct tier_ranks *g)
{
    char endpoint[SCRATCH_PATH_BYTES + 32];
    struct error error;
    if (scratch_open("/tmp", "refrain-test-tier", &g->scratch, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/coordinator", g->scratch.path);
    g->zmq = zmq_ctx_new();
    g->socket = zmq_socket(g->zmq, ZMQ_ROUTER);
    assert_int_equal(zmq_bind(g->socket, endpoint), 0);
    assert_int_equal(directory_open(TIER_RANKS, 1 << 12, &g->book, NULL), STATUS_OK);
    for (int i = 0; i < g->count; i++) open_rank(g, i, endpoint);
    tier_ranks_join(g);
    for (int64_t until = clock_now_ns() + PATIENCE_MS * MILLISECOND_NS; clock_now_ns() < until;) {
        bool all = true;
        tier_ranks_turn(g);
        for (int i = 0; i < g->count; i++) all &= g->rank[i].engine.tier->control != NULL;
        if (all) return;
    }
    fail_msg("not every rank was welcomed");
}

void tier_ranks_kill(struct tier_ranks *g, int index)
{
    struct tier_rank *r = &g->rank[index];
    leave(r);
    tier_welcome(r->engine.tier, NULL);
    tier_close(r->engine.tier);
    control_stop(r->control);
    fabric_close(r->engine.fabric);
    r->engine.tier = NULL;
    r->control = NULL;
    r->engine.fabric = NULL;
    directory_drop(g->book, (uint32_t)index);
}

void tier_ranks_restart(struct tier_ranks *g)
{
    Refrain__Rehello rehello = REFRAIN__REHELLO__INIT;
    directory_close(g->book);
    assert_int_equal(directory_open(TIER_RANKS, 1 << 12, &g->book, NULL), STATUS_OK);
    while (g->deaf && listen_once(g)) continue; /* what was said to the old one */
    g->deaf = false;
    for (int i = 0; i < g->count; i++) send_order(g, i, REFRAIN__WORKER_ORDER__BODY_REHELLO, &rehello);
}

void tier_ranks_close(struct tier_ranks *g)
{
    for (int i = 0; i < g->count; i++) g->rank[i].still = false;
    g->tamper = NULL;
    tier_ranks_await_idle(g);
    for (int i = 0; i < g->count; i++)
        if (g->rank[i].engine.tier) tier_ranks_kill(g, i);
    zmq_close(g->socket);
    zmq_ctx_term(g->zmq);
    directory_close(g->book);
    scratch_close(&g->scratch);
}

void tier_ranks_copy(struct tier_ranks *g, int rank, const struct key *key)
{
    Refrain__TierCommand command = REFRAIN__TIER_COMMAND__INIT;
    uint8_t wire[KEY_BYTES];
    key_encode(key, wire);
    command.has_verb = command.has_key = 1;
    command.verb = REFRAIN__TIER_VERB__TIER_COPY;
    command.key = (ProtobufCBinaryData){KEY_BYTES, wire};
    send_order(g, rank, REFRAIN__WORKER_ORDER__BODY_TIER_COMMAND, &command);
}

/* --------------------------------------------------------------------------------------------------- items */

void tier_ranks_put(struct tier_ranks *g, int rank, const struct key *key, uint64_t bytes)
{
    struct draft draft;
    struct error error;
    struct tier *tier = g->rank[rank].engine.tier;
    if (tier_reserve(tier, key->tenant, key, bytes, 1000, &draft, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    tier_rig_fill(key, draft.bytes, bytes);
    tier_commit(tier, &draft);
}

enum miss tier_ranks_get(struct tier_ranks *g, int rank, const struct key *key, uint64_t bytes, int ms)
{
    struct tier *tier = g->rank[rank].engine.tier;
    struct view view;
    struct tier_query query = {
        .key = *key, .tenant = key->tenant, .deadline_ns = clock_now_ns() + ms * MILLISECOND_NS};
    status_t status;
    while ((status = tier_ask(tier, &query, &view)) == STATUS_AGAIN) tier_ranks_turn(g);
    if (status != STATUS_OK) return query.reason;
    assert_int_equal(view.size, bytes);
    assert_true(tier_rig_fits(key, view.bytes, bytes));
    tier_release(tier, &view);
    return MISSES;
}

void tier_ranks_await(struct tier_ranks *g, const struct key *key, int holders)
{
    uint32_t ranks[TIER_RANKS];
    for (int64_t until = clock_now_ns() + PATIENCE_MS * MILLISECOND_NS; clock_now_ns() < until;) {
        if (directory_holders(g->book, key, ranks, TIER_RANKS, NULL) == holders) return;
        tier_ranks_turn(g);
    }
    fail_msg("the directory knows of %d holders, not of %d",
             directory_holders(g->book, key, ranks, TIER_RANKS, NULL), holders);
}

void tier_ranks_await_idle(struct tier_ranks *g)
{
    uint64_t taken = 1;
    for (int64_t until = clock_now_ns() + PATIENCE_MS * MILLISECOND_NS; taken && clock_now_ns() < until;) {
        taken = 0;
        for (int i = 0; i < g->count; i++) {
            struct store_stats stats;
            if (!g->rank[i].engine.tier) continue;
            store_stats(tier_store(g->rank[i].engine.tier), NULL, &stats);
            taken += stats.views + stats.drafts;
        }
        tier_ranks_turn(g);
    }
    assert_int_equal(taken, 0);
}

struct tally tier_ranks_tally(struct tier_ranks *g, int rank, uint64_t tenant, enum item_kind kind)
{
    struct store_stats stats;
    store_stats(tier_store(g->rank[rank].engine.tier), &tenant, &stats);
    return stats.kinds[kind];
}
