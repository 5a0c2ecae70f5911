/*
 * tier_move.c - items from other ranks, and to them. Compute thread.
 *
 *     asker                    coordinator                 holder
 *       -- TierAsk ----------------->
 *       <- TierLease ----------------   who has it, its size and hash
 *       -- FETCH ------------------------------------------->  pins it (from disk: through the tier's thread)
 *       <- ITEM, ITEM, ... ----------------------------------  parts in order, or GONE
 *       hashed as they come; committed if it fits
 *       -- TierEnded --------------->
 *
 * Parts are tickets of 4 MiB that yield (cluster/fabric.h): the fabric sends them while nothing else is to be sent, and has 1 MiB of
 * them under way, so that is what a hop finds before it. A rank has two parts posted at a time, to whomever, and one item coming in
 * (the next begins when it is complete or stands still). They leave hops two messages of each edge (engine_reaches), and are taken in when they are received:
 * no part ever waits, holding a credit, for anything. Second copies (`spare`), which nobody waits for, stand behind all of that: their
 * parts of 64 KiB go one at a time, when no other item is on its way. A part is read where it lies, in the store, and lands where it belongs,
 * in the draft: the fabric is told that (a place), and takes only what comes next and fits. Its I/O thread hashes what has landed.
 *
 * Whatever goes wrong is a miss with a reason, at the latest by the fetch's deadline. What ends a transfer gives back the
 * draft or the view at once, but for a part that the fabric still reads, or writes.
 */
#include <math.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "cluster/wire.h"
#include "worker/control.h"
#include "worker/engine.h"
#include "worker/tier_core.h"

static status_t post(struct tier *tier, int peer, struct ticket *ticket, const void *payload, uint64_t cookie)
{
    struct error error;
    if (!engine_reaches(tier->engine, peer, WAY_ITEM)) return STATUS_AGAIN;
    ticket->dtype = ticket->bytes ? TICKET_RAW : TICKET_NO_DATA;
    return engine_post(tier->engine, peer, ticket, payload, cookie, &error);
}

/* -------------------------------------------------------------------------------------------------- fetching */

bool tier_reaches_others(const struct tier *tier)
{
    return tier->engine && tier->control;
}

static void report_ended(struct tier *tier, struct tier_fetch *fetch, bool stale)
{
    Refrain__TierEnded ended = REFRAIN__TIER_ENDED__INIT;
    if (fetch->lease && tier->control) {
        ended.has_lease = ended.has_stale = 1;
        ended.lease = fetch->lease;
        ended.stale = stale;
        control_report(tier->control, REFRAIN__WORKER_REPORT__BODY_TIER_ENDED, &ended);
    }
    fetch->lease = 0;
}

static struct tier_landing *free_landing(struct tier *tier)
{
    for (int i = 0; i < TIER_LANDINGS; i++)
        if (!tier->landings[i].taken) return &tier->landings[i];
    return NULL;
}

bool tier_settle_landings(struct tier *tier)
{
    bool still = true;
    for (int i = 0; i < TIER_LANDINGS; i++) {
        struct tier_landing *landing = &tier->landings[i];
        if (!landing->abandoned) continue;
        if (fabric_withdraw(landing->fabric, &landing->place)) {
            XXH3_freeState(landing->hash);
            store_abort(tier->store, &landing->draft);
            *landing = (struct tier_landing){.taken = false};
        } else {
            still = false;
        }
    }
    return still;
}

bool tier_is_abandoned(const struct tier *tier, const struct key *key)
{
    for (int i = 0; i < TIER_LANDINGS; i++)
        if (tier->landings[i].abandoned && key_equal(&tier->landings[i].key, key)) return true;
    return false;
}

/* Is over without the item: what it holds goes back. */
static void fail(struct tier *tier, struct tier_fetch *fetch, enum miss reason)
{
    struct ticket stop = {.kind = TICKET_STOP, .context = fetch->number};
    if (fetch->state == FETCH_MOVING) {
        fetch->landing->abandoned = true;
        tier_settle_landings(tier);
        if (tier->engine && reason != MISS_LOST && reason != MISS_STALE)
            post(tier, fetch->holder, &stop, NULL, TIER_COOKIE); /* without it, the holder's patience ends */
    }
    report_ended(tier, fetch, reason == MISS_STALE);
    tier_fetch_miss(tier, fetch, reason);
}

static void ask_directory(struct tier *tier, struct tier_fetch *fetch, int64_t now_ns)
{
    uint8_t key[KEY_BYTES];
    Refrain__TierAsk ask = REFRAIN__TIER_ASK__INIT;
    int64_t left_ms = (fetch->until_ns - now_ns) / MILLISECOND_NS + 1;
    key_encode(&fetch->key, key);
    fetch->state = FETCH_ASKING;
    fetch->number = ++tier->numbers;
    ask.has_epoch = ask.has_ask = ask.has_key = ask.has_patience_ms = 1;
    ask.epoch = tier->engine->epoch;
    ask.ask = fetch->number;
    ask.key = (ProtobufCBinaryData){KEY_BYTES, key};
    ask.patience_ms = left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX;
    control_report(tier->control, REFRAIN__WORKER_REPORT__BODY_TIER_ASK, &ask);
}

void tier_begin_asking(struct tier *tier, struct tier_fetch *fetch, int64_t deadline_ns)
{
    fetch->until_ns = fetch->asked_until_ns = deadline_ns;
    ask_directory(tier, fetch, clock_now_ns());
}

void tier_lease(struct tier *tier, const Refrain__TierLease *lease)
{
    struct tier_fetch *fetch = NULL;
    if (!tier || !tier->engine) return;
    for (int i = 0; i < TIER_FETCHES && !fetch; i++)
        if (tier->fetches[i].state == FETCH_ASKING && tier->fetches[i].number == lease->ask)
            fetch = &tier->fetches[i];
    if (!fetch) return; /* too late: the lease ends by itself */
    fetch->lease = lease->lease;
    if (!lease->has_holder) {
        fail(tier, fetch, MISS_ABSENT);
    } else if (lease->holder >= (uint32_t)tier->engine->members || (int)lease->holder == tier->engine->self) {
        fail(tier, fetch, MISS_STALE);
    } else {
        fetch->state = FETCH_LEASED;
        fetch->holder = (int)lease->holder;
        fetch->bytes = lease->bytes;
        fetch->xxh3 = lease->xxh3;
        fetch->seconds = lease->seconds;
    }
}

static struct tier_question *free_question(struct tier *tier)
{
    for (int i = 0; i < TIER_QUESTIONS; i++)
        if (!tier->questions[i].under_way) return &tier->questions[i];
    return NULL;
}

/* False: not now. */
static bool ask_holder(struct tier *tier, const struct tier_fetch *fetch, int64_t now_ns)
{
    struct ticket ticket = {
        .kind = TICKET_FETCH, .context = fetch->number, .step = fetch->spare, .bytes = TIER_QUESTION_BYTES};
    struct tier_question *question = free_question(tier);
    if (!question) return false;
    key_encode(&fetch->key, question->wire);
    wire_put64(question->wire + KEY_BYTES, fetch->xxh3);
    wire_put64(question->wire + KEY_BYTES + 8, fetch->bytes);
    wire_put64(question->wire + KEY_BYTES + 16, (uint64_t)((fetch->until_ns - now_ns) / MILLISECOND_NS + 1));
    uint64_t cookie = TIER_COOKIE_QUESTION + (uint64_t)(question - tier->questions);
    question->under_way = post(tier, fetch->holder, &ticket, question->wire, cookie) == STATUS_OK;
    return question->under_way;
}

/* The fabric's I/O thread: what has just landed is still in its cache. */
static void hash_landed(void *listener, const uint8_t *bytes, uint64_t count)
{
    struct tier_landing *landing = listener;
    XXH3_64bits_update(landing->hash, bytes, count);
    atomic_fetch_add_explicit(&landing->landed, count, memory_order_relaxed);
}

/* Room for it in the store, which the fabric is told of. False: not here; *reason says why. */
static bool make_landing(struct tier *tier, struct tier_fetch *fetch, struct tier_landing *landing,
                         enum miss *reason)
{
    struct item item = {.bytes = fetch->bytes, .seconds = fetch->seconds, .spare = fetch->spare};
    struct error error;
    *landing = (struct tier_landing){.key = fetch->key, .fabric = tier->engine->fabric};
    status_t status = store_reserve(tier->store, &fetch->key, &item, LEVEL_HOST, &landing->draft, &error);
    /* A job makes it, or has made it; or everything here is worth more. */
    *reason = status == STATUS_CONFLICT ? MISS_UNFINISHED : MISS_NO_ROOM;
    if (status != STATUS_OK) return false;
    landing->hash = XXH3_createState();
    if (!landing->hash) {
        store_abort(tier->store, &landing->draft);
        return false;
    }
    XXH3_64bits_reset(landing->hash);
    landing->taken = true;
    landing->place = (struct fabric_place){.peer = fetch->holder,
                                           .kind = TICKET_ITEM,
                                           .context = fetch->number,
                                           .bytes = landing->draft.bytes,
                                           .size = fetch->bytes,
                                           .landed = hash_landed,
                                           .listener = landing};
    fabric_offer(landing->fabric, &landing->place);
    fetch->landing = landing;
    return true;
}

/* Room for it, and the holder is told to send. Does nothing while there are no credits. */
static void begin_moving(struct tier *tier, struct tier_fetch *fetch, int64_t now_ns)
{
    struct tier_landing *landing = free_landing(tier);
    enum miss reason;
    if (!landing || !engine_reaches(tier->engine, fetch->holder, WAY_ITEM) || !free_question(tier)) return;
    if (!make_landing(tier, fetch, landing, &reason)) {
        fail(tier, fetch, reason);
        return;
    }
    fetch->state = FETCH_MOVING;
    fetch->received = fetch->landed = 0;
    fetch->moved_ns = now_ns;
    if (!ask_holder(tier, fetch, now_ns)) fail(tier, fetch, MISS_LOST);
}

/* All parts are here. */
static void complete(struct tier *tier, struct tier_fetch *fetch)
{
    struct view view;
    enum miss reason;
    struct error error;
    struct draft draft = fetch->landing->draft;
    report_ended(tier, fetch, false);
    fabric_withdraw(fetch->landing->fabric, &fetch->landing->place); /* full: nothing else lands there */
    uint64_t hash = XXH3_64bits_digest(fetch->landing->hash);
    XXH3_freeState(fetch->landing->hash);
    *fetch->landing = (struct tier_landing){.taken = false};
    if (store_commit_hashed(tier->store, &draft, hash, &fetch->xxh3, &error) != STATUS_OK) {
        log_line(LOG_WARN, "%s", error.text);
        tier_fetch_miss(tier, fetch, MISS_SPOILED);
    } else if (fetch->spare) {
        fetch->state = FETCH_FREE;
    } else if (store_fetched(tier->store, &fetch->key, LEVEL_HOST, &view, &reason) == STATUS_OK) {
        tier_fetch_here(fetch, &view);
    } else { /* forgotten at once */
        tier_fetch_miss(tier, fetch, MISS_ABSENT);
    }
    tier_tell(tier);
}

static struct tier_fetch *moving(struct tier *tier, const struct fabric_event *event)
{
    for (int i = 0; i < TIER_FETCHES; i++) {
        struct tier_fetch *fetch = &tier->fetches[i];
        if (fetch->state == FETCH_MOVING && fetch->number == event->ticket.context &&
            fetch->holder == event->peer)
            return fetch;
    }
    return NULL; /* given up meanwhile */
}

static void take_part(struct tier *tier, const struct fabric_event *event)
{
    const struct ticket *t = &event->ticket;
    struct tier_fetch *fetch = moving(tier, event);
    if (!fetch) return;
    const uint8_t *place = (const uint8_t *)fetch->landing->draft.bytes + fetch->received;
    /* What is not in its place did not come next, or does not fit. */
    if (t->trace != fetch->received || t->bytes == 0 || t->bytes > fetch->bytes - fetch->received ||
        event->payload != place) {
        fail(tier, fetch, MISS_TORN);
        return;
    }
    fetch->received += t->bytes;
    fetch->moved_ns = clock_now_ns();
    if (fetch->received == fetch->bytes) complete(tier, fetch);
}

/* The holder will not send it: perhaps another one does. */
static void take_gone(struct tier *tier, const struct fabric_event *event)
{
    struct tier_fetch *fetch = moving(tier, event);
    enum miss reason = event->ticket.step < MISSES ? (enum miss)event->ticket.step : MISS_STALE;
    if (!fetch) return;
    fail(tier, fetch, reason);
    int64_t now_ns = clock_now_ns();
    if (fetch->state == FETCH_FREE || reason != MISS_STALE || ++fetch->tries == TIER_TRIES ||
        now_ns >= fetch->asked_until_ns || !tier_reaches_others(tier))
        return;
    fetch->until_ns = fetch->asked_until_ns;
    ask_directory(tier, fetch, now_ns);
}

/* Parts take long behind hops: what counts is whether anything lands. */
static void note_progress(struct tier_fetch *fetch, int64_t now_ns)
{
    uint64_t landed = atomic_load_explicit(&fetch->landing->landed, memory_order_relaxed);
    if (landed != fetch->landed) fetch->moved_ns = now_ns;
    fetch->landed = landed;
}

/* Which one of two that are leased is to move first: those that jobs wait for, in their order. */
static bool is_before(const struct tier_fetch *one, const struct tier_fetch *other)
{
    return one->spare != other->spare ? other->spare : one->number < other->number;
}

static void move_fetches(struct tier *tier, int64_t now_ns, int64_t *deadline_ns)
{
    struct tier_fetch *next = NULL;
    int64_t stalls_ns[2] = {0}; /* when what moves now counts as standing still: for jobs; spare */
    for (int i = 0; i < TIER_FETCHES; i++) {
        struct tier_fetch *fetch = &tier->fetches[i];
        if (fetch->state < FETCH_ASKING || fetch->state > FETCH_MOVING) continue;
        if (now_ns >= fetch->until_ns) {
            fail(tier, fetch, MISS_LATE);
            continue;
        }
        if (fetch->until_ns < *deadline_ns) *deadline_ns = fetch->until_ns;
        if (fetch->state == FETCH_MOVING) note_progress(fetch, now_ns);
        int64_t *stall_ns = &stalls_ns[fetch->spare];
        if (fetch->state == FETCH_MOVING && fetch->moved_ns + TIER_STALL_MS * MILLISECOND_NS > *stall_ns)
            *stall_ns = fetch->moved_ns + TIER_STALL_MS * MILLISECOND_NS;
        if (fetch->state == FETCH_LEASED && (!next || is_before(fetch, next))) next = fetch;
    }
    /* What a job waits for does not wait for a spare one. */
    int64_t stall_ns = next && next->spare && stalls_ns[1] > stalls_ns[0] ? stalls_ns[1] : stalls_ns[0];
    if (next && now_ns < stall_ns && stall_ns < *deadline_ns) *deadline_ns = stall_ns;
    if (next && now_ns >= stall_ns) begin_moving(tier, next, now_ns);
}

/* --------------------------------------------------------------------------------------------------- serving */

static void end_serving(struct tier *tier, struct tier_serving *serving)
{
    if (serving->state == SERVING_READING) {
        serving->state = SERVING_ABANDONED;
    } else if (serving->parts > 0) {
        serving->state = SERVING_ENDING;
    } else {
        if (serving->state == SERVING_SENDING || serving->state == SERVING_ENDING)
            store_release(tier->store, &serving->view);
        serving->state = SERVING_FREE;
    }
}

static void refuse(struct tier *tier, struct tier_serving *serving, enum miss reason)
{
    struct ticket gone = {.kind = TICKET_GONE, .context = serving->transfer, .step = reason};
    serving->reason = reason;
    serving->state =
        post(tier, serving->peer, &gone, NULL, TIER_COOKIE) == STATUS_AGAIN ? SERVING_REFUSING : SERVING_FREE;
}

/* A view of it is there. Never sent as something else than what was asked for. */
static void begin_sending(struct tier *tier, struct tier_serving *serving, uint64_t bytes, uint64_t xxh3)
{
    if (serving->view.size == bytes && serving->view.xxh3 == xxh3) {
        serving->state = SERVING_SENDING;
        return;
    }
    store_release(tier->store, &serving->view);
    refuse(tier, serving, MISS_STALE);
}

static void take_fetch(struct tier *tier, const struct fabric_event *event)
{
    const uint8_t *wire = event->payload;
    struct tier_serving *serving = NULL, refused = {.peer = event->peer, .transfer = event->ticket.context};
    struct key key;
    struct error error;
    if (event->ticket.bytes != TIER_QUESTION_BYTES || key_decode(wire, &key, &error) != STATUS_OK) {
        log_line(LOG_WARN, "member %d asked for an item of the cache tier that has no key", event->peer);
        return;
    }
    uint64_t patience_ms = wire_get64(wire + KEY_BYTES + 16);
    for (int i = 0; i < TIER_SERVINGS && !serving; i++)
        if (tier->servings[i].state == SERVING_FREE) serving = &tier->servings[i];
    if (!serving) {
        refuse(tier, &refused, MISS_BUSY);
        return;
    }
    if (patience_ms > UINT32_MAX) patience_ms = UINT32_MAX;
    *serving = (struct tier_serving){.peer = event->peer,
                                     .transfer = event->ticket.context,
                                     .spare = event->ticket.step != 0,
                                     .xxh3 = wire_get64(wire + KEY_BYTES),
                                     .bytes = wire_get64(wire + KEY_BYTES + 8),
                                     .until_ns = clock_now_ns() + (int64_t)patience_ms * MILLISECOND_NS};
    struct tier_task task = {.kind = TASK_LEND, .place = (int)(serving - tier->servings), .key = key};
    status_t status = store_lend(tier->store, &key, false, &serving->view, &serving->reason);
    if (status == STATUS_OK)
        begin_sending(tier, serving, serving->bytes, serving->xxh3);
    else if (status == STATUS_AGAIN && tier_give(tier, &task))
        serving->state = SERVING_READING;
    else
        refuse(tier, serving, status == STATUS_AGAIN ? MISS_BUSY : MISS_STALE);
}

void tier_lent(struct tier *tier, struct tier_task *task)
{
    struct tier_serving *serving = &tier->servings[task->place];
    if (serving->state == SERVING_ABANDONED) {
        if (task->reason == MISSES) store_release(tier->store, &task->view);
        serving->state = SERVING_FREE;
    } else if (task->reason == MISSES) {
        serving->view = task->view;
        begin_sending(tier, serving, serving->bytes, serving->xxh3);
    } else { /* damaged, unreadable: it is gone from here */
        refuse(tier, serving,
               task->reason == MISS_NO_ROOM || task->reason == MISS_LATE ? task->reason : MISS_STALE);
    }
}

static void take_stop(struct tier *tier, const struct fabric_event *event)
{
    for (int i = 0; i < TIER_SERVINGS; i++) {
        struct tier_serving *serving = &tier->servings[i];
        if (serving->state != SERVING_FREE && serving->peer == event->peer &&
            serving->transfer == event->ticket.context)
            end_serving(tier, serving);
    }
}

/* False: not now. */
static bool send_part(struct tier *tier, int place, uint64_t most)
{
    struct tier_serving *serving = &tier->servings[place];
    uint64_t left = serving->view.size - serving->sent;
    struct ticket ticket = {.kind = TICKET_ITEM,
                            .flags = TICKET_YIELDS,
                            .context = serving->transfer,
                            .trace = serving->sent,
                            .bytes = left < most ? left : most};
    const uint8_t *bytes = (const uint8_t *)serving->view.bytes + serving->sent;
    if (post(tier, serving->peer, &ticket, bytes, TIER_COOKIE_PART + (uint64_t)place) != STATUS_OK)
        return false;
    serving->sent += ticket.bytes;
    serving->parts++;
    tier->parts++;
    if (serving->sent == serving->view.size) serving->state = SERVING_ENDING;
    return true;
}

/* Parts, of one serving after the other, as many as may be under way. */
static void send_parts(struct tier *tier)
{
    for (int i = 1; i <= TIER_SERVINGS && tier->parts < TIER_PARTS; i++) {
        int place = (tier->serving + 1) % TIER_SERVINGS;
        struct tier_serving *serving = &tier->servings[place];
        tier->serving = place;
        if (serving->state == SERVING_SENDING && !serving->spare && send_part(tier, place, TIER_PART))
            i = 0; /* all others, and then this one again */
    }
}

/* One part of a second copy, where nothing else of the tier is on its way. */
static void send_spare_part(struct tier *tier)
{
    for (int i = 0; i < TIER_SERVINGS && tier->parts == 0; i++) {
        const struct tier_serving *serving = &tier->servings[i];
        if (serving->state == SERVING_SENDING && serving->spare) send_part(tier, i, TIER_SPARE_PART);
    }
}

static void part_sent(struct tier *tier, int place)
{
    struct tier_serving *serving = &tier->servings[place];
    tier->parts--;
    serving->parts--;
    if (serving->state == SERVING_ENDING) end_serving(tier, serving);
}

static void move_servings(struct tier *tier, int64_t now_ns, int64_t *deadline_ns)
{
    for (int i = 0; i < TIER_SERVINGS; i++) {
        struct tier_serving *serving = &tier->servings[i];
        if (serving->state == SERVING_REFUSING) refuse(tier, serving, serving->reason);
        bool waits = serving->state == SERVING_READING || serving->state == SERVING_SENDING ||
                     serving->state == SERVING_REFUSING;
        if (waits && now_ns >= serving->until_ns)
            end_serving(tier, serving); /* nobody waits for it any more */
        else if (waits && serving->until_ns < *deadline_ns)
            *deadline_ns = serving->until_ns;
    }
    send_parts(tier);
    send_spare_part(tier);
}

/* ----------------------------------------------------------------------------------------------------- epoch */

void tier_move(struct tier *tier, int64_t now_ns, int64_t *deadline_ns)
{
    tier_settle_landings(tier);
    if (!tier->engine) return;
    move_fetches(tier, now_ns, deadline_ns);
    move_servings(tier, now_ns, deadline_ns);
}

void tier_join(struct tier *tier, struct engine *engine)
{
    if (tier && engine->members > 1 && engine->fabric) tier->engine = engine;
}

void tier_leave(struct tier *tier)
{
    if (!tier || !tier->engine) return;
    tier->engine = NULL;
    tier->parts = 0; /* what the fabric read is ours again */
    for (int i = 0; i < TIER_QUESTIONS; i++) tier->questions[i].under_way = false;
    for (int i = 0; i < TIER_FETCHES; i++) {
        struct tier_fetch *fetch = &tier->fetches[i];
        if (fetch->state >= FETCH_ASKING && fetch->state <= FETCH_MOVING) fail(tier, fetch, MISS_LOST);
    }
    for (int i = 0; i < TIER_SERVINGS; i++) {
        tier->servings[i].parts = 0;
        if (tier->servings[i].state != SERVING_FREE && tier->servings[i].state != SERVING_ABANDONED)
            end_serving(tier, &tier->servings[i]);
    }
}

bool tier_concerns(const struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT) return event->cookie >= TIER_COOKIE_PART;
    return event->kind == FABRIC_RECEIVED && event->ticket.kind >= TICKET_FETCH &&
           event->ticket.kind <= TICKET_STOP;
}

void tier_event(struct engine *engine, struct fabric_event *event)
{
    struct tier *tier = engine->tier;
    if (tier && tier->engine && event->kind == FABRIC_SENT) {
        if (event->cookie < TIER_COOKIE_QUESTION)
            part_sent(tier, (int)(event->cookie - TIER_COOKIE_PART));
        else if (event->cookie < TIER_COOKIE)
            tier->questions[event->cookie - TIER_COOKIE_QUESTION].under_way = false;
    } else if (tier && tier->engine && !(event->ticket.flags & TICKET_ON_DEVICE)) {
        if (event->ticket.kind == TICKET_FETCH) take_fetch(tier, event);
        if (event->ticket.kind == TICKET_ITEM) take_part(tier, event);
        if (event->ticket.kind == TICKET_GONE) take_gone(tier, event);
        if (event->ticket.kind == TICKET_STOP) take_stop(tier, event);
    }
    if (event->kind == FABRIC_RECEIVED) fabric_release(engine->fabric, event);
}
