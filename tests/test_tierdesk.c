/*
 * test_tierdesk.c - the cache tier through the real coordinator process: what ranks say and ask, what clients are shown,
 * and that no tenant learns anything of another's items. Ranks are scripted (tests/coordinator_rig.h).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cache/tier/key.h"
#include "cache/tier/miss.h"
#include "proto/keyfile.h"
#include "tests/coordinator_rig.h"
#include "tests/tier_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

enum { ANSWER_MS = 5000, RANKS = 2 };

/* -------------------------------------------------------------------------------------------------- ranks */

static bool are_dear; /* what is reported from now on */

static void report_items(struct fake_worker *worker, const struct key *keys, size_t count, bool whole,
                         bool gone)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__TierChanges changes = REFRAIN__TIER_CHANGES__INIT;
    Refrain__TierItem items[8], *pointers[8];
    uint8_t wire[8][KEY_BYTES];
    for (size_t i = 0; i < count; i++) {
        refrain__tier_item__init(&items[i]);
        key_encode(&keys[i], wire[i]);
        SET(items[i], key, ((ProtobufCBinaryData){KEY_BYTES, wire[i]}));
        SET(items[i], bytes, 1000 + i);
        SET(items[i], xxh3, 5);
        SET(items[i], seconds, 2.5);
        SET(items[i], gone, gone);
        SET(items[i], dear, are_dear);
        pointers[i] = &items[i];
    }
    SET(changes, whole, whole);
    changes.n_items = count;
    changes.items = pointers;
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_CHANGES;
    report.tier_changes = &changes;
    fake_worker_report(worker, &report);
}

static void report_tally(struct fake_worker *worker, uint64_t tenant, uint32_t kind, uint64_t items,
                         uint64_t hits)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__TierFigures figures = REFRAIN__TIER_FIGURES__INIT;
    Refrain__TierTally tally = REFRAIN__TIER_TALLY__INIT, *pointer = &tally;
    uint64_t by_level[3] = {0, hits, 0}, limits[3] = {0, 1 << 20, 0}, misses[MISSES] = {[MISS_LATE] = 3};
    SET(tally, tenant, tenant);
    SET(tally, kind, kind);
    SET(tally, items, items);
    SET(tally, seconds_saved, (double)hits);
    tally.hits = by_level;
    tally.n_hits = 3;
    tally.misses = misses;
    tally.n_misses = MISSES;
    figures.tallies = &pointer;
    figures.n_tallies = 1;
    figures.limit_bytes = figures.used_bytes = limits;
    figures.n_limit_bytes = figures.n_used_bytes = 3;
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_FIGURES;
    report.tier_figures = &figures;
    fake_worker_report(worker, &report);
}

/* The holder named, -1: nobody. *lease: its number. */
static int ask(struct fake_worker *worker, const struct key *key, uint64_t *lease)
{
    static uint64_t asked;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__TierAsk question = REFRAIN__TIER_ASK__INIT;
    uint8_t wire[KEY_BYTES];
    key_encode(key, wire);
    SET(question, epoch, worker->epoch);
    SET(question, ask, ++asked);
    SET(question, key, ((ProtobufCBinaryData){KEY_BYTES, wire}));
    SET(question, patience_ms, 1000);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_ASK;
    report.tier_ask = &question;
    fake_worker_report(worker, &report);
    Refrain__WorkerOrder *order =
        fake_worker_order(worker, REFRAIN__WORKER_ORDER__BODY_TIER_LEASE, ANSWER_MS);
    assert_non_null(order);
    assert_int_equal(order->tier_lease->ask, asked);
    int holder = order->tier_lease->has_holder ? (int)order->tier_lease->holder : -1;
    if (lease) *lease = order->tier_lease->lease;
    refrain__worker_order__free_unpacked(order, NULL);
    return holder;
}

static void end_lease(struct fake_worker *worker, uint64_t lease, bool stale)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__TierEnded ended = REFRAIN__TIER_ENDED__INIT;
    SET(ended, lease, lease);
    SET(ended, stale, stale);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_ENDED;
    report.tier_ended = &ended;
    fake_worker_report(worker, &report);
}

/* ------------------------------------------------------------------------------------------------- clients */

static Refrain__Reply *query(void *client, Refrain__CacheVerb verb, const char *operand, bool all)
{
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__CacheQuery body = REFRAIN__CACHE_QUERY__INIT;
    SET(body, verb, verb);
    SET(body, all, all);
    if (verb >= REFRAIN__CACHE_VERB__CACHE_FORGET)
        body.item = (char *)(uintptr_t)operand;
    else
        body.kind = (char *)(uintptr_t)operand;
    request.body_case = REFRAIN__REQUEST__BODY_CACHE;
    request.cache = &body;
    return rig_call(client, &request);
}

#define VERB(name) REFRAIN__CACHE_VERB__CACHE_##name

static void expect_error(Refrain__Reply *reply, status_t status, const char *part)
{
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_ERROR);
    assert_int_equal(reply->error->status, status);
    if (!strstr(reply->error->message, part))
        fail_msg("\"%s\" does not say \"%s\"", reply->error->message, part);
    refrain__reply__free_unpacked(reply, NULL);
}

/* Until that many figures, or items, of a scope are shown; its items and hits in all. */
static uint64_t await_figures(void *client, bool all, const char *scope, size_t count, uint64_t *hits)
{
    for (int tries = 0; tries < 1500; tries++) {
        Refrain__Reply *reply = query(client, VERB(SHOW), NULL, all);
        if (reply->body_case == REFRAIN__REPLY__BODY_ERROR) fail_msg("%s", reply->error->message);
        size_t found = 0;
        uint64_t items = 0;
        *hits = 0;
        for (size_t i = 0; i < reply->cache->n_figures; i++) {
            const Refrain__CacheFigure *one = reply->cache->figures[i];
            if (strcmp(one->scope, scope) != 0) continue;
            found++;
            items += one->tally->items;
            *hits += one->tally->hits[1];
        }
        refrain__reply__free_unpacked(reply, NULL);
        if (found == count) return items;
        usleep(20000);
    }
    fail_msg("there are not %zu figures of scope %s", count, scope);
    return 0;
}

static size_t listed(void *client, bool all, const char *scope)
{
    Refrain__Reply *reply = query(client, VERB(LIST), NULL, all);
    size_t found = 0;
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_CACHE);
    for (size_t i = 0; i < reply->cache->n_items; i++)
        found += !scope || strcmp(reply->cache->items[i]->scope, scope) == 0;
    refrain__reply__free_unpacked(reply, NULL);
    return found;
}

static Refrain__TierCommand *commanded(struct fake_worker *worker, Refrain__WorkerOrder **order)
{
    *order = fake_worker_order(worker, REFRAIN__WORKER_ORDER__BODY_TIER_COMMAND, ANSWER_MS);
    assert_non_null(*order);
    return (*order)->tier_command;
}

/* --------------------------------------------------------------------------------------------------- tests */

static void a_rank_is_told_who_has_what_another_said_it_has(void **state)
{
    struct rig rig;
    struct fake_worker workers[RANKS];
    struct key keys[3];
    uint64_t lease, other;
    rig_start(&rig, NULL);
    fake_workers_open(workers, RANKS, &rig, "group");
    for (uint64_t i = 0; i < 3; i++) keys[i] = tier_rig_key(i, ITEM_TEXT, 1);
    assert_int_equal(ask(&workers[0], &keys[0], NULL), -1);
    report_items(&workers[1], keys, 2, true, false);
    assert_int_equal(ask(&workers[1], &keys[0], NULL), -1); /* comes after what it said; it has it itself */
    assert_int_equal(ask(&workers[0], &keys[0], &lease), 1);
    assert_int_equal(ask(&workers[0], &keys[1], &other), 1);
    assert_true(lease && other && lease != other);
    assert_int_equal(ask(&workers[0], &keys[2], NULL), -1);
    /* Whatever it said goes when it says everything anew, or that it has gone, or was found not to have it. */
    report_items(&workers[1], &keys[2], 1, true, false);
    assert_int_equal(ask(&workers[1], &keys[2], NULL), -1);
    assert_int_equal(ask(&workers[0], &keys[0], NULL), -1);
    assert_int_equal(ask(&workers[0], &keys[2], &lease), 1);
    end_lease(&workers[0], lease, true);
    assert_int_equal(ask(&workers[0], &keys[2], NULL), -1);
    report_items(&workers[1], &keys[0], 1, false, false);
    report_items(&workers[1], &keys[0], 1, false, true);
    assert_int_equal(ask(&workers[1], &keys[0], NULL), -1);
    assert_int_equal(ask(&workers[0], &keys[0], NULL), -1);
    fake_workers_close(workers, RANKS);
    rig_stop(&rig);
}

static void another_epoch_s_question_is_answered_with_nobody(void **state)
{
    struct rig rig;
    struct fake_worker workers[RANKS];
    struct key key = tier_rig_key(1, ITEM_TEXT, 1);
    rig_start(&rig, NULL);
    fake_workers_open(workers, RANKS, &rig, "group");
    report_items(&workers[1], &key, 1, true, false);
    assert_int_equal(ask(&workers[1], &key, NULL), -1);
    assert_int_equal(ask(&workers[0], &key, NULL), 1);
    workers[0].epoch++;
    assert_int_equal(ask(&workers[0], &key, NULL), -1);
    fake_workers_close(workers, RANKS);
    rig_stop(&rig);
}

static void after_a_restart_nothing_is_known_until_ranks_say_it_again(void **state)
{
    struct rig rig;
    struct fake_worker workers[RANKS];
    struct key key = tier_rig_key(1, ITEM_TEXT, 1);
    rig_start(&rig, NULL);
    fake_workers_open(workers, RANKS, &rig, "group");
    report_items(&workers[1], &key, 1, true, false);
    assert_int_equal(ask(&workers[1], &key, NULL), -1);
    assert_int_equal(ask(&workers[0], &key, NULL), 1);
    rig_kill(&rig);
    rig_restart(&rig);
    for (int i = 0; i < RANKS; i++) {
        fake_worker_hello(&workers[i]);
        Refrain__WorkerOrder *order =
            fake_worker_order(&workers[i], REFRAIN__WORKER_ORDER__BODY_WELCOME, ANSWER_MS);
        assert_non_null(order);
        refrain__worker_order__free_unpacked(order, NULL);
    }
    assert_int_equal(ask(&workers[0], &key, NULL), -1);
    fake_workers_close(workers, RANKS);
    rig_stop(&rig);
}

/* To the rank that does not have it, once it has said what it may keep. */
static void another_rank_is_told_to_fetch_what_is_dear(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[RANKS];
    struct key key = tier_rig_key(1, ITEM_TEXT, 7), got;
    rig_start(&rig, (const char *[]){NULL});
    fake_workers_open(workers, RANKS, &rig, "group");
    report_tally(&workers[0], 7, ITEM_TEXT, 1, 1);
    are_dear = true;
    report_items(&workers[1], &key, 1, false, false);
    are_dear = false;
    Refrain__WorkerOrder *order =
        fake_worker_order(&workers[0], REFRAIN__WORKER_ORDER__BODY_TIER_COMMAND, ANSWER_MS);
    assert_non_null(order);
    assert_int_equal(order->tier_command->verb, REFRAIN__TIER_VERB__TIER_COPY);
    assert_int_equal(order->tier_command->key.len, KEY_BYTES);
    assert_int_equal(key_decode(order->tier_command->key.data, &got, NULL), STATUS_OK);
    assert_true(key_equal(&got, &key));
    refrain__worker_order__free_unpacked(order, NULL);
    report_items(&workers[0], &key, 1, false, false); /* it has come */
    are_dear = true;
    report_items(&workers[1], &key, 1, false, false); /* used again: two have it */
    are_dear = false;
    assert_null(fake_worker_order(&workers[0], REFRAIN__WORKER_ORDER__BODY_TIER_COMMAND, 500));
    fake_workers_close(workers, RANKS);
    rig_stop(&rig);
}

static void garbage_in_reports_is_counted_and_does_no_harm(void **state)
{
    struct rig rig;
    struct fake_worker workers[RANKS];
    struct key key = tier_rig_key(1, ITEM_TEXT, 1);
    rig_start(&rig, NULL);
    fake_workers_open(workers, RANKS, &rig, "group");
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__TierChanges changes = REFRAIN__TIER_CHANGES__INIT;
    Refrain__TierItem item = REFRAIN__TIER_ITEM__INIT, *pointer = &item;
    Refrain__TierAsk question = REFRAIN__TIER_ASK__INIT;
    uint8_t junk[KEY_BYTES];
    memset(junk, 0xee, sizeof junk);
    SET(item, key, ((ProtobufCBinaryData){sizeof junk, junk}));
    changes.items = &pointer;
    changes.n_items = 1;
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_CHANGES;
    report.tier_changes = &changes;
    fake_worker_report(&workers[1], &report);
    item.key.len = 3;
    fake_worker_report(&workers[1], &report);
    item.key.len = 0;
    fake_worker_report(&workers[1], &report);
    SET(question, key, ((ProtobufCBinaryData){sizeof junk, junk}));
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_ASK;
    report.tier_ask = &question;
    fake_worker_report(&workers[1], &report);
    end_lease(&workers[1], UINT64_MAX, true);
    report_tally(&workers[1], 1, 99, 1, 1);
    report_items(&workers[1], &key, 1, false, false);
    assert_int_equal(ask(&workers[1], &key, NULL), -1);
    assert_int_equal(ask(&workers[0], &key, NULL), 1);
    fake_workers_close(workers, RANKS);
    rig_stop(&rig);
}

/* The furthest that is known of a rank's store. */
static uint32_t seek(struct fake_worker *worker, const struct key *run, uint32_t after, uint32_t steps,
                     bool durable)
{
    static uint64_t asked;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__TierSeek question = REFRAIN__TIER_SEEK__INIT;
    uint8_t wire[KEY_BYTES];
    key_encode(run, wire);
    SET(question, ask, ++asked);
    SET(question, run, ((ProtobufCBinaryData){KEY_BYTES, wire}));
    SET(question, after, after);
    SET(question, steps, steps);
    SET(question, durable, durable);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_SEEK;
    report.tier_seek = &question;
    fake_worker_report(worker, &report);
    Refrain__WorkerOrder *order =
        fake_worker_order(worker, REFRAIN__WORKER_ORDER__BODY_TIER_FOUND, ANSWER_MS);
    assert_non_null(order);
    assert_int_equal(order->tier_found->ask, asked);
    assert_null(order->tier_found->checkpoint);
    uint32_t step = order->tier_found->step;
    assert_true((step > 0) == (order->tier_found->seconds > 0));
    refrain__worker_order__free_unpacked(order, NULL);
    return step;
}

/* Of the run that is asked about, further than the asker, and gone when it is gone. */
static void the_furthest_step_of_a_run_is_found(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[RANKS];
    struct key run = tier_rig_key(1, ITEM_LATENT, 5), other = tier_rig_key(2, ITEM_LATENT, 5), early, late;
    rig_start(&rig, NULL);
    fake_workers_open(workers, RANKS, &rig, "group");
    assert_int_equal(key_of_checkpoint(&run, 10, &early, NULL), STATUS_OK);
    assert_int_equal(key_of_checkpoint(&run, 20, &late, NULL), STATUS_OK);
    assert_int_equal(seek(&workers[0], &run, 0, 50, false), 0);
    report_items(&workers[1], &early, 1, false, false);
    report_items(&workers[1], &late, 1, false, false);
    assert_int_equal(seek(&workers[1], &run, 0, 50, false), 20); /* its own store counts */
    assert_int_equal(seek(&workers[1], &run, 19, 50, false), 20);
    assert_int_equal(seek(&workers[1], &run, 20, 50, false), 0);
    assert_int_equal(seek(&workers[1], &run, 0, 19, false), 10);
    assert_int_equal(seek(&workers[1], &run, 0, 50, true), 0);
    assert_int_equal(seek(&workers[1], &other, 0, 50, false), 0);
    report_items(&workers[1], &run, 1, false, false);
    assert_int_equal(seek(&workers[1], &run, 0, 50, false), 50);
    report_items(&workers[1], &run, 1, false, true);
    report_items(&workers[1], &late, 1, false, true);
    assert_int_equal(seek(&workers[1], &run, 0, 50, false), 10);
    fake_workers_close(workers, RANKS);
    rig_stop(&rig);
}

static void make_key(const char *keys, const char *name, const char *role, struct keyfile *key)
{
    char self[PATH_MAX], command[2 * PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(command, sizeof command,
             "'%s/../refrain-coordinator' --keys '%s' --make-key %s --role %s >/dev/null", self, keys, name,
             role);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "%s/%s.secret", keys, name);
    assert_int_equal(keyfile_read(command, key, NULL), STATUS_OK);
}

static void *keyed_socket(struct rig *rig, const char *endpoint, const struct keyfile *key)
{
    int no_linger = 0;
    void *made = zmq_socket(rig->context, ZMQ_DEALER);
    zmq_setsockopt(made, ZMQ_LINGER, &no_linger, sizeof no_linger);
    assert_int_equal(keyfile_apply_client(key, made, NULL), STATUS_OK);
    assert_int_equal(zmq_connect(made, endpoint), 0);
    return made;
}

static void tenants_see_and_touch_their_own_and_public_items_and_admins_all(void **state)
{
    struct rig rig = {0};
    struct keyfile key[4];
    static const char *const names[4] = {"ann", "bob", "boss", "node"};
    static const char *const roles[4] = {"client", "client", "admin", "worker"};
    char keys[256], name[KEY_LETTERS], bobs_name[KEY_LETTERS];
    uint64_t ann, bob, hits;
    Refrain__WorkerOrder *order;
    rig_prepare(&rig);
    snprintf(keys, sizeof keys, "%s/keys", rig.directory);
    for (int i = 0; i < 4; i++) make_key(keys, names[i], roles[i], &key[i]);
    rig.options = (const char *[]){"--keys", keys, NULL};
    assert_true(rig_launch(&rig));
    void *a = keyed_socket(&rig, rig.endpoint, &key[0]), *b = keyed_socket(&rig, rig.endpoint, &key[1]),
         *admin = keyed_socket(&rig, rig.endpoint, &key[2]);
    struct fake_worker worker = {.socket = keyed_socket(&rig, rig.worker_endpoint, &key[3]),
                                 .group = "group",
                                 .ranks = 1,
                                 .pid = (uint32_t)getpid()};
    fake_worker_hello(&worker);
    assert_int_equal(key_tenant("ann", &ann, NULL), STATUS_OK);
    assert_int_equal(key_tenant("bob", &bob, NULL), STATUS_OK);
    struct key items[4] = {tier_rig_key(1, ITEM_TEXT, ann), tier_rig_key(2, ITEM_LATENT, ann),
                           tier_rig_key(3, ITEM_TEXT, bob), tier_rig_key(4, ITEM_TABLE, KEY_PUBLIC)};
    report_items(&worker, items, 4, true, false);
    report_tally(&worker, ann, ITEM_TEXT, 1, 10);
    report_tally(&worker, ann, ITEM_LATENT, 1, 20);
    report_tally(&worker, bob, ITEM_TEXT, 1, 300);
    report_tally(&worker, KEY_PUBLIC, ITEM_TABLE, 1, 4000);

    /* Figures, in both directions. */
    assert_int_equal(await_figures(a, false, "own", 2, &hits), 2);
    assert_int_equal(hits, 30);
    assert_int_equal(await_figures(b, false, "own", 1, &hits), 1);
    assert_int_equal(hits, 300);
    assert_int_equal(await_figures(b, false, "public", 1, &hits), 1);
    assert_int_equal(hits, 4000);
    await_figures(a, false, "all", 0, &hits);
    await_figures(admin, true, "all", 3, &hits);
    assert_int_equal(hits, 4330);
    expect_error(query(a, VERB(SHOW), NULL, true), STATUS_DENIED, "admin key");
    expect_error(query(b, VERB(FLUSH), NULL, true), STATUS_DENIED, "admin key");

    /* The sums in Stats are each caller's own, and public. */
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__Stats stats = REFRAIN__STATS__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_STATS;
    request.stats = &stats;
    Refrain__Reply *told = rig_call(a, &request);
    assert_int_equal(told->stats->tier_items, 3);
    assert_int_equal(told->stats->tier_hits, 30 + 4000);
    assert_int_equal(told->stats->tier_misses, 3 * 3);
    refrain__reply__free_unpacked(told, NULL);
    told = rig_call(b, &request);
    assert_int_equal(told->stats->tier_hits, 300 + 4000);
    refrain__reply__free_unpacked(told, NULL);

    /* Lists. */
    assert_int_equal(listed(a, false, "own"), 2);
    assert_int_equal(listed(a, false, NULL), 3);
    assert_int_equal(listed(b, false, "own"), 1);
    assert_int_equal(listed(b, false, NULL), 2);
    assert_int_equal(listed(admin, false, NULL), 1);
    assert_int_equal(listed(admin, true, NULL), 4);

    /* Commands: a tenant's reach no further than his items. */
    Refrain__Reply *reply = query(a, VERB(FLUSH), "text", false);
    assert_int_equal(reply->cache->told, 1);
    refrain__reply__free_unpacked(reply, NULL);
    Refrain__TierCommand *command = commanded(&worker, &order);
    assert_true(command->verb == REFRAIN__TIER_VERB__TIER_FORGET && command->has_tenant && command->has_kind);
    assert_true(command->tenant == ann && command->kind == ITEM_TEXT && !command->has_key);
    refrain__worker_order__free_unpacked(order, NULL);
    key_write(&items[0], name);
    key_write(&items[2], bobs_name);
    expect_error(query(a, VERB(FORGET), bobs_name, false), STATUS_NOT_FOUND, "no such item");
    expect_error(query(b, VERB(PIN), name, false), STATUS_NOT_FOUND, "no such item");
    expect_error(query(a, VERB(PIN), "nonsense", false), STATUS_INVALID, "no item's name");
    expect_error(query(a, VERB(FORGET), NULL, false), STATUS_INVALID, "item");
    expect_error(query(a, VERB(FLUSH), "sandwich", false), STATUS_INVALID, "must be text");
    refrain__reply__free_unpacked(query(a, VERB(PIN), name, false), NULL);
    command = commanded(&worker, &order);
    assert_true(command->verb == REFRAIN__TIER_VERB__TIER_PIN && command->has_key);
    refrain__worker_order__free_unpacked(order, NULL);
    refrain__reply__free_unpacked(query(admin, VERB(FORGET), bobs_name, true), NULL);
    command = commanded(&worker, &order);
    assert_true(command->verb == REFRAIN__TIER_VERB__TIER_FORGET && command->has_key);
    refrain__worker_order__free_unpacked(order, NULL);
    refrain__reply__free_unpacked(query(admin, VERB(FLUSH), NULL, true), NULL);
    command = commanded(&worker, &order);
    assert_true(!command->has_tenant && !command->has_key && !command->has_kind);
    refrain__worker_order__free_unpacked(order, NULL);
    fake_worker_close(&worker);
    zmq_close(a);
    zmq_close(b);
    zmq_close(admin);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_is_told_who_has_what_another_said_it_has),
        cmocka_unit_test(another_epoch_s_question_is_answered_with_nobody),
        cmocka_unit_test(after_a_restart_nothing_is_known_until_ranks_say_it_again),
        cmocka_unit_test(another_rank_is_told_to_fetch_what_is_dear),
        cmocka_unit_test(garbage_in_reports_is_counted_and_does_no_harm),
        cmocka_unit_test(the_furthest_step_of_a_run_is_found),
        cmocka_unit_test(tenants_see_and_touch_their_own_and_public_items_and_admins_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
