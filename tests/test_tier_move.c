/*
 * test_tier_move.c - items on their way from rank to rank: whole ones, and everything that can go wrong on the way. Each
 * of those is a miss with its reason by the deadline, and leaves neither a view, nor a draft, nor half an item.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "cluster/fabric_core.h"
#include "tests/tier_ranks.h"
#include "tests/tier_rig.h"

enum { MB = 1 << 20, ANN = 1, BOB = 2, LONG_MS = 20000, LARGE = 9 * MB + 77 };

static struct key key_of(uint64_t number)
{
    return tier_rig_key(number, ITEM_CHECKPOINT, ANN);
}

static struct tier_ranks *ranks_of(void **state)
{
    return *state;
}

static int setup_ranks(void **state, int count, uint64_t disk)
{
    struct tier_ranks *g = calloc(1, sizeof *g);
    g->count = count;
    g->disk = disk;
    tier_ranks_open(g);
    *state = g;
    return 0;
}

static int setup(void **state)
{
    return setup_ranks(state, 2, 0);
}

static int setup_three(void **state)
{
    return setup_ranks(state, 3, 0);
}

static int setup_disks(void **state)
{
    return setup_ranks(state, 2, 256 * MB);
}

static int teardown(void **state)
{
    tier_ranks_close(*state);
    free(*state);
    return 0;
}

/* On rank 0, and the directory knows. */
static struct key put(struct tier_ranks *g, uint64_t number, uint64_t bytes)
{
    struct key key = key_of(number);
    tier_ranks_put(g, 0, &key, bytes);
    tier_ranks_await(g, &key, 1);
    return key;
}

static int here(struct tier_ranks *g, int rank, const struct key *key)
{
    return (int)store_list(tier_store(g->rank[rank].engine.tier), &(struct store_match){.key = key}, NULL,
                           NULL);
}

static void an_item_of_any_size_is_fetched_and_then_both_have_it(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    static const uint64_t sizes[] = {
        1,         100,           4096,          TIER_SMALL, TIER_SMALL + 1, TIER_PART - 1,
        TIER_PART, TIER_PART + 1, 3 * TIER_PART, LARGE};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct key key = put(g, i, sizes[i]);
        assert_int_equal(tier_ranks_get(g, 1, &key, sizes[i], LONG_MS), MISSES);
        tier_ranks_await(g, &key, 2);
        assert_int_equal(tier_ranks_get(g, 1, &key, sizes[i], 0), MISSES); /* without asking anybody */
    }
    struct tally asker = tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT);
    struct tally holder = tier_ranks_tally(g, 0, ANN, ITEM_CHECKPOINT);
    assert_int_equal(asker.fetched, 10);
    assert_int_equal(asker.hits[LEVEL_HOST], 10);
    assert_int_equal(asker.misses[MISS_ABSENT], 0);
    assert_int_equal(holder.lent, 10);
    assert_int_equal(holder.hits[LEVEL_HOST], 0);
    assert_true(holder.seconds_saved == 0 && asker.seconds_saved > 0);
}

static void what_nobody_has_is_a_miss_once_the_directory_said_so(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = key_of(1);
    assert_int_equal(tier_ranks_get(g, 1, &key, 1, LONG_MS), MISS_ABSENT);
    assert_int_equal(g->asks, 1);
    assert_int_equal(tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT).misses[MISS_ABSENT], 1);
}

static void many_asked_for_at_once_all_come(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct tier_query queries[12];
    struct view view;
    int open = 12;
    for (int i = 0; i < 12; i++) put(g, (uint64_t)i, MB + (uint64_t)i);
    for (int i = 0; i < 12; i++)
        queries[i] = (struct tier_query){.key = key_of((uint64_t)i),
                                         .tenant = ANN,
                                         .deadline_ns = clock_now_ns() + LONG_MS * MILLISECOND_NS};
    bool done[12] = {false};
    while (open) {
        for (int i = 0; i < 12; i++) {
            if (done[i]) continue;
            status_t status = tier_ask(g->rank[1].engine.tier, &queries[i], &view);
            if (status == STATUS_AGAIN) continue;
            assert_int_equal(status, STATUS_OK);
            assert_int_equal(view.size, MB + i);
            assert_true(tier_rig_fits(&queries[i].key, view.bytes, view.size));
            tier_release(g->rank[1].engine.tier, &view);
            done[i] = true;
            open--;
        }
        tier_ranks_turn(g);
    }
}

static void an_item_that_is_only_on_the_holder_s_disk_is_read_and_sent(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, LARGE);
    store_settle(tier_store(g->rank[0].engine.tier));
    for (uint64_t i = 100; i < 140; i++) {
        put(g, i, MB);
        store_settle(tier_store(g->rank[0].engine.tier));
    }
    assert_int_equal(tier_ranks_get(g, 1, &key, LARGE, LONG_MS), MISSES);
}

/* ------------------------------------------------------------------------------------------------- replicas */

static void another_holder_is_asked_when_the_first_has_it_no_more(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, LARGE);
    assert_int_equal(tier_ranks_get(g, 1, &key, LARGE, LONG_MS), MISSES);
    tier_ranks_await(g, &key, 2);
    /* The directory still believes in both. */
    store_forget(tier_store(g->rank[0].engine.tier), &(struct store_match){.key = &key});
    assert_int_equal(tier_ranks_get(g, 2, &key, LARGE, LONG_MS), MISSES);
    assert_int_equal(g->asks, 1 + 2);
    assert_int_equal(g->stale, 1);
}

static void what_no_holder_has_any_more_is_a_stale_miss(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, 4096);
    store_forget(tier_store(g->rank[0].engine.tier), &(struct store_match){.key = &key});
    assert_int_equal(tier_ranks_get(g, 1, &key, 4096, LONG_MS),
                     MISS_ABSENT); /* after the only one was struck out */
    assert_int_equal(g->stale, 1);
}

static void an_item_that_is_not_the_announced_one_is_not_sent(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, 4096);
    directory_note(g->book, 0,
                   &(struct directory_item){.key = key, .bytes = 4096, .xxh3 = 1, .seconds = 1000});
    assert_int_equal(tier_ranks_get(g, 1, &key, 4096, LONG_MS), MISS_ABSENT);
    assert_int_equal(g->stale, 1);
    assert_int_equal(g->rank[1].parts, 0);
}

/* ------------------------------------------------------------------------------------------------- tampering */

static int count;

static bool is_part(const struct fabric_event *event)
{
    return event->kind == FABRIC_RECEIVED && event->ticket.kind == TICKET_ITEM;
}

static void flip_in_store(void *context, const struct store_entry *entry)
{
    struct store *store = context;
    struct view view;
    if (store_try(store, &entry->key, LEVEL_HOST, &view, NULL) != STATUS_OK) return;
    ((uint8_t *)(uintptr_t)view.bytes)[view.size / 2] ^= 4;
    store_release(store, &view);
}

/* At the holder, just before it sends. */
static bool flip_a_bit(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    struct store *store = tier_store(g->rank[rank].engine.tier);
    if (event->kind == FABRIC_RECEIVED && event->ticket.kind == TICKET_FETCH)
        store_list(store, &(struct store_match){0}, flip_in_store, store);
    return false;
}

static bool lose_the_second(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    return is_part(event) && ++count == 2;
}

static bool repeat_the_first(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    if (is_part(event) && ++count == 2) event->ticket.trace = 0;
    return false;
}

static bool announce_too_much(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    if (is_part(event) && event->ticket.bytes < TIER_PART) event->ticket.bytes = TIER_PART;
    return false;
}

static bool send_nothing(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    if (is_part(event)) event->ticket.bytes = 0;
    return false;
}

static bool expect_it_from_another(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    for (int i = 0; is_part(event) && i < TIER_FETCHES; i++) g->rank[rank].engine.tier->fetches[i].holder = 2;
    return false;
}

static bool of_another_transfer(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    if (is_part(event)) event->ticket.context += 1000;
    return false;
}

static bool garble_the_question(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    if (event->kind == FABRIC_RECEIVED && event->ticket.kind == TICKET_FETCH)
        ((uint8_t *)(uintptr_t)event->payload)[25] = 99; /* a kind that there is not */
    return false;
}

static bool cut_the_question(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    if (event->kind == FABRIC_RECEIVED && event->ticket.kind == TICKET_FETCH) event->ticket.bytes = 10;
    return false;
}

static bool hold_the_answer_back(struct tier_ranks *g, int rank, struct fabric_event *event)
{
    return is_part(event);
}

static void whatever_happens_to_the_parts_no_wrong_item_is_made(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    static const struct {
        bool (*tamper)(struct tier_ranks *, int, struct fabric_event *);
        enum miss expected;
        int ms;
    } cases[] = {
        {flip_a_bit, MISS_SPOILED, LONG_MS},    {lose_the_second, MISS_TORN, LONG_MS},
        {repeat_the_first, MISS_TORN, LONG_MS}, {announce_too_much, MISS_TORN, LONG_MS},
        {send_nothing, MISS_TORN, LONG_MS},     {expect_it_from_another, MISS_LATE, 150},
        {of_another_transfer, MISS_LATE, 150},  {garble_the_question, MISS_LATE, 150},
        {cut_the_question, MISS_LATE, 150},     {hold_the_answer_back, MISS_LATE, 150},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct key key = put(g, i, LARGE);
        count = 0;
        g->tamper = cases[i].tamper;
        assert_int_equal(tier_ranks_get(g, 1, &key, LARGE, cases[i].ms), cases[i].expected);
        assert_int_equal(tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT).items, 0);
        tier_ranks_await_idle(g); /* while it goes on */
        assert_int_equal(here(g, 1, &key), 0);
        g->tamper = NULL;
        store_forget(tier_store(g->rank[0].engine.tier), &(struct store_match){.key = &key});
    }
    struct key key = put(g, 99, LARGE);
    assert_int_equal(tier_ranks_get(g, 1, &key, LARGE, LONG_MS), MISSES);
}

static void small_items_are_checked_as_well(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, 1000);
    g->tamper = flip_a_bit;
    assert_int_equal(tier_ranks_get(g, 1, &key, 1000, LONG_MS), MISS_SPOILED);
    assert_int_equal(tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT).spoiled, 1);
    assert_int_equal(tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT).misses[MISS_SPOILED], 1);
}

/* --------------------------------------------------------------------------------------------- deadlines, losses */

/* What could not be fetched is looked for again after a while. */
static void pause_for(struct tier_ranks *g, int ms)
{
    for (int64_t until = clock_now_ns() + ms * MILLISECOND_NS; clock_now_ns() < until;) tier_ranks_turn(g);
}

static struct tier_query begin(struct tier_ranks *g, const struct key *key, int ms)
{
    struct view view;
    struct tier_query query = {
        .key = *key, .tenant = key->tenant, .deadline_ns = clock_now_ns() + ms * MILLISECOND_NS};
    assert_int_equal(tier_ask(g->rank[1].engine.tier, &query, &view), STATUS_AGAIN);
    return query;
}

static bool sends(const struct tier *tier)
{
    bool some = false;
    for (int i = 0; i < TIER_SERVINGS; i++) some |= tier->servings[i].sent > 0;
    return some;
}

/* Turns until the asker's fetch of it is in that state, and so many of its parts have come. The holder posts no more than it may at
 * once (TIER_PARTS) meanwhile, so that the rest is not there. */
static void advance(struct tier_ranks *g, enum tier_fetch_state state, int parts)
{
    const struct tier_fetch *fetch = &g->rank[1].engine.tier->fetches[0];
    bool still = g->rank[0].still, there = false;
    for (int64_t until = clock_now_ns() + LONG_MS * MILLISECOND_NS; !there && clock_now_ns() < until;) {
        there = fetch->state == state && g->rank[1].parts >= parts;
        g->rank[0].still |= sends(g->rank[0].engine.tier);
        if (!there) tier_ranks_turn(g);
    }
    g->rank[0].still = still;
    if (!there) fail_msg("the fetch does not come to state %d", state);
}

/* Turns until that fetch of the asker's is in that state. */
static void await_fetch(struct tier_ranks *g, int index, enum tier_fetch_state state)
{
    const struct tier_fetch *fetch = &g->rank[1].engine.tier->fetches[index];
    for (int64_t until = clock_now_ns() + LONG_MS * MILLISECOND_NS; fetch->state != state;) {
        if (clock_now_ns() >= until) fail_msg("fetch %d does not come to state %d", index, state);
        tier_ranks_turn(g);
    }
}

static enum miss finish(struct tier_ranks *g, struct tier_query *query)
{
    struct view view;
    status_t status;
    while ((status = tier_ask(g->rank[1].engine.tier, query, &view)) == STATUS_AGAIN) tier_ranks_turn(g);
    if (status == STATUS_OK) tier_release(g->rank[1].engine.tier, &view);
    return status == STATUS_OK ? MISSES : query->reason;
}

static void a_holder_that_does_nothing_costs_the_deadline_and_no_more(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, LARGE);
    g->rank[0].still = true;
    int64_t began_ns = clock_now_ns();
    assert_int_equal(tier_ranks_get(g, 1, &key, LARGE, 100), MISS_LATE);
    assert_true(clock_now_ns() - began_ns >= 100 * MILLISECOND_NS);
    g->rank[0].still = false;
    tier_ranks_await_idle(g); /* what it sends now is for nobody */
    assert_int_equal(here(g, 1, &key), 0);
    pause_for(g, TIER_ABSENT_MS + 10);
    assert_int_equal(tier_ranks_get(g, 1, &key, LARGE, LONG_MS), MISSES);
}

/* As if the fabric had begun to write a part there, or had ended it. */
static void write_half_way(struct tier_ranks *g, struct tier_landing *landing, int change)
{
    pthread_mutex_lock(&g->rank[1].engine.fabric->lock);
    landing->place.landing += change;
    pthread_mutex_unlock(&g->rank[1].engine.fabric->lock);
}

static void a_draft_is_given_back_when_nothing_is_written_to_it_any_more(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, 20 * MB);
    struct tier_query query = begin(g, &key, LONG_MS);
    struct tier *tier = g->rank[1].engine.tier;
    struct store_stats stats;
    advance(g, FETCH_MOVING, 1);
    write_half_way(g, tier->fetches[0].landing, 1);
    g->tamper = send_nothing;
    assert_int_equal(finish(g, &query), MISS_TORN); /* is told at once */
    g->tamper = NULL;
    advance(g, FETCH_FREE, 0); /* that is not remembered any more */
    store_stats(tier_store(tier), NULL, &stats);
    assert_int_equal(stats.drafts, 1);
    query.deadline_ns = clock_now_ns() + LONG_MS * MILLISECOND_NS;
    assert_int_equal(finish(g, &query), MISS_UNFINISHED); /* its place is taken as long */
    write_half_way(g, &tier->landings[0], -1);
    tier_ranks_await_idle(g);
    assert_false(tier->landings[0].taken);
    pause_for(g, TIER_ABSENT_MS + 10);
    assert_int_equal(tier_ranks_get(g, 1, &key, 20 * MB, LONG_MS), MISSES);
}

static void a_holder_that_stands_still_does_not_hold_up_others(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key slow = put(g, 1, LARGE), quick = key_of(2);
    tier_ranks_put(g, 2, &quick, LARGE);
    tier_ranks_await(g, &quick, 1);
    g->rank[0].still = true;
    struct tier_query query = begin(g, &slow, 2 * LONG_MS);
    advance(g, FETCH_MOVING, 0);
    assert_int_equal(tier_ranks_get(g, 1, &quick, LARGE, LONG_MS), MISSES);
    assert_int_equal(g->rank[1].engine.tier->fetches[0].state, FETCH_MOVING); /* all that time */
    query.deadline_ns = clock_now_ns();
    assert_int_equal(finish(g, &query), MISS_LATE);
}

static void the_holder_s_end_in_every_phase_is_a_miss(void **state)
{
    static const enum tier_fetch_state phases[] = {FETCH_ASKING, FETCH_LEASED, FETCH_MOVING, FETCH_MOVING};
    (void)state;
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        struct tier_ranks g = {.count = 2};
        tier_ranks_open(&g);
        struct key key = put(&g, 1, 20 * MB);
        struct tier_query query = begin(&g, &key, LONG_MS);
        if (phases[i] == FETCH_LEASED) /* it is known who has it, and nothing was sent yet */
            for (bool leased = false; !leased;) {
                g.rank[1].engine.tier->fetches[0].moved_ns = 0;
                tier_ranks_turn(&g);
                leased = g.rank[1].engine.tier->fetches[0].state >= FETCH_LEASED;
            }
        else
            advance(&g, phases[i], i == 3 ? 1 : 0);
        tier_ranks_kill(&g, 0);
        enum miss reason = finish(&g, &query);
        assert_true(reason == MISS_LOST || (phases[i] == FETCH_ASKING && reason == MISS_ABSENT));
        assert_true(g.rank[1].lost);
        tier_ranks_await_idle(&g);
        assert_int_equal(here(&g, 1, &key), 0);
        tier_ranks_close(&g);
    }
}

static void the_asker_s_end_in_every_phase_leaves_the_holder_free(void **state)
{
    static const int parts[] = {0, 1, 2};
    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct tier_ranks g = {.count = 2};
        tier_ranks_open(&g);
        struct key key = put(&g, 1, 20 * MB);
        begin(&g, &key, LONG_MS);
        advance(&g, FETCH_MOVING, parts[i]);
        tier_ranks_kill(&g, 1); /* closes its store: no draft may be left in it */
        tier_ranks_await_idle(&g);
        assert_true(g.rank[0].lost || g.rank[0].in_epoch);
        tier_ranks_close(&g);
    }
}

static void an_epoch_s_end_drops_transfers_and_the_next_one_has_them_again(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, 20 * MB);
    struct tier_query query = begin(g, &key, LONG_MS);
    advance(g, FETCH_MOVING, 1);
    tier_ranks_join(g);
    assert_int_equal(finish(g, &query), MISS_LOST);
    pause_for(g, TIER_ABSENT_MS + 10);
    assert_int_equal(tier_ranks_get(g, 1, &key, 20 * MB, LONG_MS), MISSES);
}

static void without_a_coordinator_asking_ends_by_the_deadline_and_what_is_leased_comes(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key first = put(g, 1, 20 * MB), second = put(g, 2, 4096);
    struct tier_query query = begin(g, &first, LONG_MS);
    advance(g, FETCH_MOVING, 1);
    g->deaf = true;
    assert_int_equal(finish(g, &query), MISSES);
    assert_int_equal(tier_ranks_get(g, 1, &second, 4096, 100), MISS_LATE);
}

static void a_restarted_coordinator_hears_everything_anew(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key keys[20];
    uint32_t holders[TIER_RANKS];
    for (uint64_t i = 0; i < 20; i++) keys[i] = put(g, i, 4096);
    assert_int_equal(tier_ranks_get(g, 1, &keys[3], 4096, LONG_MS), MISSES);
    tier_ranks_await(g, &keys[3], 2);
    g->deaf = true;
    assert_int_equal(tier_ranks_get(g, 1, &keys[4], 4096, 50), MISS_LATE);
    tier_ranks_restart(g);
    assert_int_equal(directory_holders(g->book, &keys[0], holders, TIER_RANKS, NULL), 0);
    for (int i = 0; i < 20; i++) tier_ranks_await(g, &keys[i], i == 3 ? 2 : 1);
    for (int i = 5; i < 20; i++) assert_int_equal(tier_ranks_get(g, 1, &keys[i], 4096, LONG_MS), MISSES);
}

/* ---------------------------------------------------------------------------------------------------- tenants */

/* -------------------------------------------------------------------------------------------- second copies */

/* Used here once more: the coordinator hears that it is dear. */
static void use(struct tier_ranks *g, const struct key *key, uint64_t bytes)
{
    int before = g->dear;
    assert_int_equal(tier_ranks_get(g, 0, key, bytes, 0), MISSES);
    for (int64_t until = clock_now_ns() + LONG_MS * MILLISECOND_NS; g->dear == before;) {
        assert_true(clock_now_ns() < until);
        tier_ranks_turn(g);
    }
}

static void a_second_copy_outlives_the_rank_that_made_it(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, LARGE);
    assert_int_equal(g->dear, 0);
    use(g, &key, LARGE);
    tier_ranks_copy(g, 1, &key);
    tier_ranks_await(g, &key, 2);
    tier_ranks_copy(g, 1, &key); /* it is there already */
    tier_ranks_await_idle(g);
    struct tally tally = tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT);
    assert_int_equal(tally.copied, 1);
    assert_int_equal(tally.fetched + tally.hits[LEVEL_HOST], 0);
    assert_int_equal(tally.misses[MISS_ABSENT] + tally.misses[MISS_LATE], 0);
    tier_ranks_kill(g, 0);
    assert_int_equal(tier_ranks_get(g, 1, &key, LARGE, 0), MISSES);
    assert_int_equal(tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT).hits[LEVEL_HOST], 1);
}

static void a_second_copy_waits_behind_what_jobs_ask_for(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key spare = put(g, 1, LARGE), wanted = put(g, 2, MB);
    tier_ranks_copy(g, 1, &spare);
    advance(g, FETCH_MOVING, 1);
    g->rank[0].still = true; /* until it is asked for the other one */
    struct tier_query query = begin(g, &wanted, LONG_MS);
    await_fetch(g, 1, FETCH_MOVING);
    g->rank[0].still = false;
    assert_int_equal(finish(g, &query), MISSES);
    const struct tier_fetch *fetch = &g->rank[1].engine.tier->fetches[0];
    assert_true(fetch->state == FETCH_MOVING && fetch->spare && fetch->received < LARGE / 2);
    tier_ranks_await(g, &spare, 2);
}

/* From then on it is an item like any: the job gets it, and it counts as one from another rank. */
static void a_job_takes_over_a_second_copy_on_its_way(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key key = put(g, 1, LARGE);
    tier_ranks_copy(g, 1, &key);
    advance(g, FETCH_MOVING, 1);
    assert_int_equal(tier_ranks_get(g, 1, &key, LARGE, LONG_MS), MISSES);
    assert_int_equal(tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT).fetched, 1);
    assert_int_equal(g->asks, 1);
}

/* Nobody has it, it is not let in, its holder goes: no job ever hears of it. */
static void a_second_copy_that_fails_is_no_miss(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    struct key none = key_of(77), key = put(g, 1, LARGE);
    tier_ranks_copy(g, 1, &none);
    while (g->asks == 0) tier_ranks_turn(g);
    tier_ranks_copy(g, 1, &key);
    advance(g, FETCH_MOVING, 1);
    tier_ranks_kill(g, 0);
    while (!g->rank[1].lost) tier_ranks_turn(g);
    tier_ranks_await_idle(g);
    for (int i = 0; i < TIER_FETCHES; i++)
        assert_int_equal(g->rank[1].engine.tier->fetches[i].state, FETCH_FREE);
    struct tally tally = tier_ranks_tally(g, 1, ANN, ITEM_CHECKPOINT);
    for (int i = 0; i < MISSES; i++) assert_int_equal(tally.misses[i], 0);
    assert_int_equal(tally.copied, 0);
}

static void one_tenant_s_items_are_never_found_by_another_and_public_ones_by_all(void **state)
{
    struct tier_ranks *g = ranks_of(state);
    for (int turn = 0; turn < 2; turn++) { /* both directions */
        uint64_t owner = turn ? BOB : ANN, other = turn ? ANN : BOB;
        struct key own = tier_rig_key(7, ITEM_TEXT, owner), same = tier_rig_key(7, ITEM_TEXT, other);
        struct view view;
        tier_ranks_put(g, 0, &own, 4096);
        tier_ranks_await(g, &own, 1);
        /* The same facts, asked for by another: another key. */
        assert_int_equal(tier_ranks_get(g, 1, &same, 4096, LONG_MS), MISS_ABSENT);
        /* The owner's key, in the hands of another: nobody is even asked. */
        int asks = g->asks;
        struct tier_query query = {
            .key = own, .tenant = other, .deadline_ns = clock_now_ns() + LONG_MS * MILLISECOND_NS};
        assert_int_equal(tier_ask(g->rank[1].engine.tier, &query, &view), STATUS_NOT_FOUND);
        assert_int_equal(query.reason, MISS_FOREIGN);
        assert_int_equal(tier_ask(g->rank[0].engine.tier, &query, &view), STATUS_NOT_FOUND);
        for (int i = 0; i < 50; i++) tier_ranks_turn(g);
        assert_int_equal(g->asks, asks);
        assert_int_equal(tier_ranks_tally(g, 1, other, ITEM_TEXT).hits[LEVEL_HOST], 0);
        assert_int_equal(tier_ranks_tally(g, 1, other, ITEM_TEXT).fetched, 0);
        store_forget(tier_store(g->rank[0].engine.tier), &(struct store_match){0});
        pause_for(g, TIER_ABSENT_MS + 10);
    }
    struct key open = tier_rig_key(8, ITEM_TABLE, KEY_PUBLIC);
    tier_ranks_put(g, 0, &open, 4096);
    tier_ranks_await(g, &open, 1);
    struct tier_query query = {
        .key = open, .tenant = BOB, .deadline_ns = clock_now_ns() + LONG_MS * MILLISECOND_NS};
    assert_int_equal(finish(g, &query), MISSES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_item_of_any_size_is_fetched_and_then_both_have_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_nobody_has_is_a_miss_once_the_directory_said_so, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(many_asked_for_at_once_all_come, setup, teardown),
        cmocka_unit_test_setup_teardown(an_item_that_is_only_on_the_holder_s_disk_is_read_and_sent,
                                        setup_disks, teardown),
        cmocka_unit_test_setup_teardown(another_holder_is_asked_when_the_first_has_it_no_more, setup_three,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_no_holder_has_any_more_is_a_stale_miss, setup, teardown),
        cmocka_unit_test_setup_teardown(an_item_that_is_not_the_announced_one_is_not_sent, setup, teardown),
        cmocka_unit_test_setup_teardown(whatever_happens_to_the_parts_no_wrong_item_is_made, setup_three,
                                        teardown),
        cmocka_unit_test_setup_teardown(small_items_are_checked_as_well, setup, teardown),
        cmocka_unit_test_setup_teardown(a_holder_that_does_nothing_costs_the_deadline_and_no_more, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_draft_is_given_back_when_nothing_is_written_to_it_any_more, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_holder_that_stands_still_does_not_hold_up_others, setup_three,
                                        teardown),
        cmocka_unit_test(the_holder_s_end_in_every_phase_is_a_miss),
        cmocka_unit_test(the_asker_s_end_in_every_phase_leaves_the_holder_free),
        cmocka_unit_test_setup_teardown(an_epoch_s_end_drops_transfers_and_the_next_one_has_them_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            without_a_coordinator_asking_ends_by_the_deadline_and_what_is_leased_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_restarted_coordinator_hears_everything_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_copy_outlives_the_rank_that_made_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_copy_waits_behind_what_jobs_ask_for, setup, teardown),
        cmocka_unit_test_setup_teardown(a_job_takes_over_a_second_copy_on_its_way, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_copy_that_fails_is_no_miss, setup, teardown),
        cmocka_unit_test_setup_teardown(one_tenant_s_items_are_never_found_by_another_and_public_ones_by_all,
                                        setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
