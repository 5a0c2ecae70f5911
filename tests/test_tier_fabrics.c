/*
 * test_tier_fabrics.c - items between real processes, over every fabric; and what is left when one of them is killed while
 * an item is on its way. Who has it is known beforehand: there is no coordinator.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/clock.h"
#include "tests/fabric_group.h"
#include "tests/tier_rig.h"
#include "worker/engine.h"
#include "worker/tier_core.h"

enum { MB = 1 << 20, MEMBERS = 2, ITEMS = 4, TENANT = 1 };
enum { MARK_DONE, MARK_MOVING, MARK_PUBLISHED };

static const uint64_t sizes[ITEMS] = {1000, TIER_PART + 1, 5 * MB + 77, 24 * MB};

static struct key key_of(int item)
{
    return tier_rig_key((uint64_t)item, ITEM_CHECKPOINT, TENANT);
}

static void begin(struct member *m, struct engine *e)
{
    struct tier_config config = {.memory_bytes = 64 * MB};
    *e = (struct engine){.members = 1};
    CHECK(m, ops_choose("ref", &e->ops, &m->error) == STATUS_OK);
    config.ops = e->ops;
    member_open(m, 4, 32 * MB);
    CHECK(m, tier_open(&config, &e->tier, &m->error) == STATUS_OK);
    member_join(m, 1);
    e->fabric = m->fabric;
    e->self = m->self;
    e->members = m->count;
    e->epoch = 1;
    tier_join(e->tier, e);
}

static void publish_all(struct member *m, struct engine *e)
{
    for (int i = 0; i < ITEMS; i++) {
        struct draft draft;
        struct key key = key_of(i);
        CHECK(m, tier_reserve(e->tier, TENANT, &key, sizes[i], 1000, &draft, &m->error) == STATUS_OK);
        tier_rig_fill(&key, draft.bytes, sizes[i]);
        tier_commit(e->tier, &draft);
    }
    struct store_stats stats = {.drafts = 1};
    while (stats.drafts) { /* large ones are hashed by the tier's thread */
        group_pause_ms(2);
        store_stats(tier_store(e->tier), NULL, &stats);
    }
    member_mark(m, MARK_PUBLISHED);
}

/* False: the epoch is over. */
static bool turn(struct member *m, struct engine *e)
{
    struct fabric_event event;
    int64_t deadline_ns = clock_now_ns() + 2 * MILLISECOND_NS;
    while (engine_next(e, &event)) {
        if (event.kind == FABRIC_LOST || event.kind == FABRIC_ABORTED) return false;
        CHECK(m, tier_concerns(&event));
        tier_event(e, &event);
    }
    if (!tier_tend(e->tier, &deadline_ns)) fabric_wait(m->fabric, deadline_ns, &m->error);
    return true;
}

static void end(struct member *m, struct engine *e)
{
    struct store_stats stats;
    fabric_leave(m->fabric);
    tier_leave(e->tier);
    store_stats(tier_store(e->tier), NULL, &stats);
    CHECK(m, stats.drafts == 0);
    CHECK(m, stats.views == 0);
    tier_close(e->tier);
}

/* As if the coordinator had been asked, and had named member 0. */
static struct tier_fetch *ask(struct member *m, struct engine *e, int item)
{
    Refrain__TierLease lease = REFRAIN__TIER_LEASE__INIT;
    struct key key = key_of(item);
    uint8_t *bytes = malloc(sizes[item]);
    struct tier_fetch *fetch = tier_fetch_new(e->tier, &key);
    tier_rig_fill(&key, bytes, sizes[item]);
    fetch->state = FETCH_ASKING;
    fetch->number = ++e->tier->numbers;
    fetch->until_ns = fetch->asked_until_ns = clock_now_ns() + 20 * SECOND_NS;
    lease.has_holder = 1;
    lease.ask = fetch->number;
    lease.holder = 0;
    lease.bytes = sizes[item];
    lease.xxh3 = XXH3_64bits(bytes, sizes[item]);
    lease.seconds = 1000;
    free(bytes);
    tier_lease(e->tier, &lease);
    CHECK(m, fetch->state == FETCH_LEASED);
    return fetch;
}

static void hand_over(struct member *m)
{
    struct engine e;
    begin(m, &e);
    if (m->self == 0) {
        publish_all(m, &e);
        while (!atomic_load(&m->board->marks[MARK_DONE]) && turn(m, &e)) continue;
        end(m, &e);
        return;
    }
    member_await(m, MARK_PUBLISHED);
    for (int i = 0; i < ITEMS; i++) {
        struct tier_query query = {
            .key = key_of(i), .tenant = TENANT, .deadline_ns = clock_now_ns() + 20 * SECOND_NS};
        struct view view;
        ask(m, &e, i);
        status_t status;
        while ((status = tier_ask(e.tier, &query, &view)) == STATUS_AGAIN) CHECK(m, turn(m, &e));
        CHECK(m, status == STATUS_OK);
        CHECK(m, view.size == sizes[i] && tier_rig_fits(&query.key, view.bytes, view.size));
        tier_release(e.tier, &view);
    }
    member_mark(m, MARK_DONE);
    end(m, &e);
}

/* The largest; says when it is on its way, and stands still until the other one is gone. */
static void be_hurt(struct member *m)
{
    struct engine e;
    begin(m, &e);
    if (m->self == 0) {
        publish_all(m, &e);
        while (turn(m, &e)) continue;
        end(m, &e);
        return;
    }
    member_await(m, MARK_PUBLISHED);
    struct tier_fetch *fetch = ask(m, &e, ITEMS - 1);
    bool told = false, lives = true;
    while (lives && fetch->state != FETCH_HERE) {
        lives = turn(m, &e);
        if (!told && fetch->state == FETCH_MOVING && fetch->received > 0) {
            told = true;
            member_mark(m, MARK_MOVING);
            group_pause_ms(300);
        }
    }
    CHECK(m, !lives);
    end(m, &e);
}

static void items_travel_whole(void **state)
{
    group_all_well(*state, MEMBERS, "hand_over", hand_over);
}

static void a_killed_holder_leaves_nothing_at_the_asker(void **state)
{
    struct group *g = group_start(*state, MEMBERS, "be_hurt", be_hurt);
    group_await(g, MARK_MOVING);
    group_signal(g, 0, SIGKILL);
    group_expect(g, 1);
    group_end(g);
}

static void a_killed_asker_leaves_nothing_at_the_holder(void **state)
{
    struct group *g = group_start(*state, MEMBERS, "be_hurt", be_hurt);
    group_await(g, MARK_MOVING);
    group_signal(g, 1, SIGKILL);
    group_expect(g, 0);
    group_end(g);
}

static const struct group_scenario scenarios[] = {{"hand_over", hand_over}};

int main(int count, char **arguments)
{
    static char ipc[] = "zmq-ipc", tcp[] = "zmq-tcp", mpi[] = "mpi", nccl[] = "nccl";
    group_find_gpu(arguments);
    group_serve(count, arguments, scenarios, sizeof scenarios / sizeof *scenarios);
    setenv("REFRAIN_LOG", "error", 0); /* losses are what is tested */
    const struct CMUnitTest tests[] = {
        {"items_travel_whole over zmq, ipc", items_travel_whole, NULL, NULL, ipc},
        {"items_travel_whole over zmq, tcp", items_travel_whole, NULL, NULL, tcp},
        {"items_travel_whole over mpi", items_travel_whole, NULL, NULL, mpi},
        {"items_travel_whole over nccl", items_travel_whole, NULL, NULL, nccl},
        {"a_killed_holder_leaves_nothing_at_the_asker", a_killed_holder_leaves_nothing_at_the_asker, NULL,
         NULL, ipc},
        {"a_killed_asker_leaves_nothing_at_the_holder", a_killed_asker_leaves_nothing_at_the_holder, NULL,
         NULL, ipc},
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    group_end_unfinished();
    return failed;
}
