/*
 * bench_tier_fabric.c - items from rank to rank beside the fabric's own messages, in one run, turn and turn about.
 *
 *     bench_tier_fabric BUILD [rounds]        BUILD: where refrain-coordinator is
 *
 * Two ranks are two threads of this process, each with a fabric (zmq over ipc), a control thread and a tier; the
 * coordinator is the real one. What is measured:
 *
 *     latency       an item of 4 KB: from the question to the view; of that from the lease on; beside a message there and
 *                   4 KB back
 *     bandwidth     an item of 16 MB, from the lease on, beside a message of 16 MB and its acknowledgement
 *     slowdown      a ring of two ranks that hand hops to each other and compute, alone and while items are fetched at a
 *                   fifth of the fabric's bandwidth
 *     directory     a million items: memory, look-ups
 */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <poll.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/scratch.h"
#include "cluster/fabric.h"
#include "coordinator/directory.h"
#include "worker/control.h"
#include "worker/engine.h"
#include "worker/tier.h"

enum { KB = 1 << 10, MB = 1 << 20, RANKS = 2, SMALL = 4 * KB, LARGE = 16 * MB, HOP = 256 * KB, MOST = 4000 };
enum { ECHO = TICKET_OPEN, ANSWER = TICKET_CLOSE, ROW = TICKET_HOP }; /* what the ranks say beside the tier */

struct rank {
    struct engine engine;
    struct control *control;
    struct tier *tier;
    char directory[SCRATCH_PATH_BYTES + 16];
    pthread_t thread;
    _Atomic bool ready, stop, computes;
    int64_t leased_ns;
    uint8_t *bytes; /* [LARGE]: payloads */
    uint64_t answers, hops;
    int64_t compute_ns; /* of a hop */
};

static struct rank ranks[RANKS];

static void stop(const char *what, const struct error *error)
{
    fprintf(stderr, "bench_tier_fabric: %s: %s\n", what, error->text);
    exit(1);
}

/* ---------------------------------------------------------------------------------------------------- a rank */

static void post(struct rank *r, uint16_t kind, uint64_t bytes, uint64_t wanted)
{
    struct error error;
    struct ticket ticket = {
        .kind = kind, .dtype = bytes ? TICKET_RAW : TICKET_NO_DATA, .bytes = bytes, .trace = wanted};
    status_t status;
    while ((status = engine_post(&r->engine, 1 - r->engine.self, &ticket, r->bytes, 1, &error)) ==
           STATUS_AGAIN)
        usleep(50);
    if (status != STATUS_OK) stop("post", &error);
}

static void compute(int64_t ns)
{
    for (int64_t until = clock_now_ns() + ns; clock_now_ns() < until;) continue;
}

static void take_event(struct rank *r, struct fabric_event *event)
{
    if (tier_concerns(event)) {
        tier_event(&r->engine, event);
        return;
    }
    if (event->kind != FABRIC_RECEIVED) return;
    uint16_t kind = event->ticket.kind;
    uint64_t wanted = event->ticket.trace;
    fabric_release(r->engine.fabric, event);
    if (kind == ECHO) post(r, ANSWER, wanted, 0);
    if (kind == ANSWER) r->answers++;
    if (kind == ROW && atomic_load(&ranks[0].computes)) {
        compute(r->compute_ns);
        r->hops++;
        post(r, ROW, HOP, 0);
    }
}

static void join(struct rank *r, const Refrain__Epoch *order)
{
    const char *addresses[RANKS];
    struct error error;
    if (order->n_members != RANKS) return;
    for (int i = 0; i < RANKS; i++) addresses[i] = order->members[i]->address;
    struct fabric_membership m = {
        .epoch = order->epoch, .self = (int)order->self, .count = RANKS, .addresses = addresses};
    memcpy(m.token, order->token.data, sizeof m.token);
    if (fabric_join(r->engine.fabric, &m, clock_now_ns() + 10 * SECOND_NS, &error) != STATUS_OK)
        stop("join", &error);
    r->engine.self = m.self;
    r->engine.members = RANKS;
    r->engine.epoch = order->epoch;
    tier_join(r->tier, &r->engine);
    Refrain__EpochReady ready = REFRAIN__EPOCH_READY__INIT;
    ready.has_epoch = 1;
    ready.epoch = order->epoch;
    control_report(r->control, REFRAIN__WORKER_REPORT__BODY_EPOCH_READY, &ready);
    atomic_store(&r->ready, true);
}

/* One turn, as rank.c makes them. */
static void turn(struct rank *r, int wait_ms)
{
    struct fabric_event event;
    Refrain__WorkerOrder *order;
    int64_t deadline_ns = clock_now_ns() + wait_ms * MILLISECOND_NS;
    bool some = false;
    for (; r->engine.epoch && engine_next(&r->engine, &event); some = true) take_event(r, &event);
    for (; (order = control_take(r->control)); some = true) {
        if (order->body_case == REFRAIN__WORKER_ORDER__BODY_EPOCH) join(r, order->epoch);
        if (order->body_case == REFRAIN__WORKER_ORDER__BODY_WELCOME) tier_welcome(r->tier, r->control);
        if (order->body_case == REFRAIN__WORKER_ORDER__BODY_TIER_LEASE) {
            r->leased_ns = clock_now_ns();
            tier_lease(r->tier, order->tier_lease);
        }
        control_free(order);
    }
    some |= tier_tend(r->tier, &deadline_ns);
    if (some) return;
    struct pollfd wait[] = {
        {.fd = control_descriptor(r->control), .events = POLLIN},
        {.fd = r->engine.epoch ? fabric_descriptor(r->engine.fabric) : -1, .events = POLLIN},
        {.fd = tier_descriptor(r->tier), .events = POLLIN}};
    poll(wait, 3, clock_poll_ms(deadline_ns));
}

static void *serve(void *argument)
{
    struct rank *r = argument;
    while (!atomic_load(&r->stop)) turn(r, 20);
    return NULL;
}

static void open_rank(int index, const char *scratch, const char *coordinator)
{
    struct rank *r = &ranks[index];
    struct error error;
    char bind[sizeof r->directory + 8];
    snprintf(r->directory, sizeof r->directory, "%s/%d", scratch, index);
    snprintf(bind, sizeof bind, "ipc://%s", r->directory);
    struct fabric_config fabric = {.kind = "zmq", .bind = bind, .credits = 8, .max_bytes = 1 << 26};
    struct control_config control = {.coordinator = coordinator, .orphan_ns = 60 * SECOND_NS};
    Refrain__Hello *hello = &control.hello;
    r->engine.members = 1;
    r->bytes = malloc(LARGE);
    if (!r->bytes) exit(1);
    memset(r->bytes, 1,
           LARGE); /* or all of it would be the system's one page of zeros, which is always in the cache */
    if (mkdir(r->directory, 0700) != 0 || ops_choose("ref", &r->engine.ops, &error) != STATUS_OK ||
        fabric_open(&fabric, &r->engine.fabric, &error) != STATUS_OK)
        stop("open", &error);
    struct tier_config tier = {.memory_bytes = 512u * MB, .ops = r->engine.ops};
    if (tier_open(&tier, &r->tier, &error) != STATUS_OK) stop("tier_open", &error);
    r->engine.tier = r->tier;
    refrain__hello__init(hello);
    hello->has_rank = hello->has_ranks = hello->has_pid = hello->has_threads = 1;
    hello->group = (char *)(uintptr_t) "bench";
    hello->rank = (uint32_t)index;
    hello->ranks = RANKS;
    hello->pid = 1; /* always lives, and is not ours to be watched */
    hello->threads = 1;
    hello->host = (char *)(uintptr_t) "elsewhere";
    hello->backend = (char *)(uintptr_t) "ref";
    hello->fabric = (char *)(uintptr_t) "zmq";
    hello->fabric_address = (char *)(uintptr_t)fabric_address(r->engine.fabric);
    hello->software = (char *)(uintptr_t)REFRAIN_VERSION;
    control.progress = &r->engine.progress;
    if (control_start(&control, &r->control, &error) != STATUS_OK) stop("control", &error);
}

static void close_rank(struct rank *r)
{
    fabric_leave(r->engine.fabric);
    tier_leave(r->tier);
    tier_welcome(r->tier, NULL);
    control_stop(r->control);
    tier_close(r->tier);
    fabric_close(r->engine.fabric);
    free(r->bytes);
}

/* ----------------------------------------------------------------------------------------------------- items */

static struct key key_number(uint64_t number)
{
    return (struct key){.tenant = 1,
                        .low = number * UINT64_C(0x9e3779b97f4a7c15),
                        .high = number,
                        .kind = ITEM_CHECKPOINT,
                        .format = KEY_FORMAT};
}

/* By the thread that serves it; the holder's turns are its own, so this is done before it starts, or between. */
static void put(struct rank *r, uint64_t number, uint64_t bytes)
{
    struct draft draft;
    struct error error;
    struct key key = key_number(number);
    if (tier_reserve(r->tier, 1, &key, bytes, 1000, &draft, &error) != STATUS_OK) stop("put", &error);
    memset(draft.bytes, (int)number, bytes);
    tier_commit(r->tier, &draft);
}

/* Seconds from the question, and from the lease, to the view. False: it was a miss. */
static bool fetch(struct rank *r, uint64_t number, double *asked, double *leased)
{
    struct view view;
    struct tier_query query = {
        .key = key_number(number), .tenant = 1, .deadline_ns = clock_now_ns() + 5 * SECOND_NS};
    int64_t began_ns = clock_now_ns();
    status_t status;
    while ((status = tier_ask(r->tier, &query, &view)) == STATUS_AGAIN) turn(r, 100);
    int64_t now_ns = clock_now_ns();
    if (status != STATUS_OK) return false;
    *asked = (double)(now_ns - began_ns) * 1e-9;
    *leased = (double)(now_ns - r->leased_ns) * 1e-9;
    tier_release(r->tier, &view);
    struct key key = key_number(number);
    store_forget(tier_store(r->tier), &(struct store_match){.key = &key}); /* so that it is fetched again */
    return true;
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)used.ru_utime.tv_sec + (double)used.ru_utime.tv_usec * 1e-6 +
           (double)used.ru_stime.tv_sec + (double)used.ru_stime.tv_usec * 1e-6;
}

static double message(struct rank *r, uint64_t there, uint64_t back)
{
    int64_t began_ns = clock_now_ns();
    uint64_t answers = r->answers;
    post(r, ECHO, there, back);
    while (r->answers == answers) turn(r, 100);
    return (double)(clock_now_ns() - began_ns) * 1e-9;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_size);
    return count ? values[count / 2] : 0;
}

/* What one round took: seconds, and the processor's time of both ranks. Turn and turn about, so that what else runs on the machine
 * disturbs both alike; ratios are those of the medians. */
struct round {
    double message, message_cpu, asked, leased, item_cpu;
};

static double median_of(const struct round *rounds, int count, size_t field)
{
    static double values[MOST];
    for (int i = 0; i < count; i++) values[i] = *(const double *)((const char *)&rounds[i] + field);
    return median(values, count);
}

static double beside_messages(struct rank *r, uint64_t bytes, bool there, int count, const char *name)
{
    static struct round rounds[MOST];
    int got = 0;
    for (int i = 0; i < count && i < MOST; i++) {
        struct round *one = &rounds[got];
        double cpu = cpu_seconds();
        one->message = there ? message(r, bytes, 0) : message(r, 64, bytes);
        one->message_cpu = cpu_seconds() - cpu;
        cpu = cpu_seconds();
        got += fetch(r, bytes, &one->asked, &one->leased);
        one->item_cpu = cpu_seconds() - cpu;
    }
#define MEDIAN(field) median_of(rounds, got, offsetof(struct round, field))
    double round_trip = MEDIAN(message), whole = MEDIAN(asked), held = MEDIAN(leased);
    printf("%s: %d of %d fetched\n", name, got, count);
    printf("  the fabric's own           %9.1f us %7.2f GB/s   %.3f ms of CPU\n", round_trip * 1e6,
           (double)bytes / round_trip * 1e-9, MEDIAN(message_cpu) * 1e3);
    printf(
        "  with a lease in hand       %9.1f us %7.2f GB/s   %.2f times the time, %.0f %% of the bandwidth\n",
        held * 1e6, (double)bytes / held * 1e-9, held / round_trip, 100 * round_trip / held);
    printf("  with the directory asked   %9.1f us %7.2f GB/s   %.2f times; %.3f ms of CPU, %.2f times\n",
           whole * 1e6, (double)bytes / whole * 1e-9, whole / round_trip, MEDIAN(item_cpu) * 1e3,
           MEDIAN(item_cpu) / MEDIAN(message_cpu));
    return (double)bytes / round_trip;
}

/* --------------------------------------------------------------------------------------------------- slowdown */

/* Hops a second; items of LARGE bytes come in at `rate` bytes a second meanwhile. */
static double ring(struct rank *r, double seconds, double rate, double *fetched)
{
    int64_t began_ns = clock_now_ns(), until_ns = began_ns + (int64_t)(seconds * 1e9);
    uint64_t before = r->hops;
    struct view view;
    struct tier_query query = {.key = key_number(LARGE), .tenant = 1};
    bool asking = false;
    *fetched = 0;
    while (clock_now_ns() < until_ns) {
        double due = rate * (double)(clock_now_ns() - began_ns) * 1e-9;
        if (rate > 0 && !asking && *fetched < due) {
            asking = true;
            query.deadline_ns = clock_now_ns() + 5 * SECOND_NS;
        }
        status_t status = asking ? tier_ask(r->tier, &query, &view) : STATUS_AGAIN;
        if (asking && status != STATUS_AGAIN) {
            asking = false;
            if (status == STATUS_OK) {
                *fetched += LARGE;
                tier_release(r->tier, &view);
                store_forget(tier_store(r->tier), &(struct store_match){.key = &query.key});
            }
        }
        turn(r, 1);
    }
    return (double)(r->hops - before) / seconds;
}

static void slowdown(struct rank *r, double bandwidth)
{
    enum { TURNS = 5, PIECE = 1 };
    double alone = 0, beside = 0, cpu_alone = 0, cpu_beside = 0, bytes = 0, fetched;
    for (int i = 0; i < RANKS; i++) ranks[i].compute_ns = MILLISECOND_NS;
    atomic_store(&ranks[0].computes, true);
    for (int i = 0; i < 4; i++) post(r, ROW, HOP, 0);
    ring(r, 0.5, 0, &fetched);
    for (int i = 0; i < TURNS; i++) {
        double cpu = cpu_seconds();
        alone += ring(r, PIECE, 0, &fetched);
        cpu_alone += cpu_seconds() - cpu;
        cpu = cpu_seconds();
        beside += ring(r, PIECE, 0.2 * bandwidth, &fetched);
        cpu_beside += cpu_seconds() - cpu;
        bytes += fetched;
    }
    atomic_store(&ranks[0].computes, false);
    for (int i = 0; i < 100; i++) turn(r, 5);
    printf("two ranks that compute 1 ms for each hop of %d KB, %d s\n", HOP / KB, TURNS * PIECE);
    printf("  alone                      %9.0f hops a second, %.2f CPU\n", alone / TURNS,
           cpu_alone / TURNS / PIECE);
    printf("  and %6.2f GB/s of items   %9.0f hops a second, %.2f CPU   %.1f %% fewer hops\n",
           bytes / TURNS / PIECE * 1e-9, beside / TURNS, cpu_beside / TURNS / PIECE,
           100 * (1 - beside / alone));
}

/* -------------------------------------------------------------------------------------------------- directory */

static void directory(void)
{
    enum { ITEMS = 1000000 };
    struct directory *d;
    struct directory_stats stats;
    struct directory_lease lease;
    struct error error;
    if (directory_open(8, DIRECTORY_ITEMS, &d, &error) != STATUS_OK) stop("directory", &error);
    int64_t began_ns = clock_now_ns();
    for (uint64_t i = 0; i < ITEMS; i++)
        directory_note(d, i % 8,
                       &(struct directory_item){.key = key_number(i), .bytes = 1, .xxh3 = i, .seconds = 1});
    double note = (double)(clock_now_ns() - began_ns) / ITEMS;
    began_ns = clock_now_ns();
    for (uint64_t i = 0; i < ITEMS; i++) {
        struct key key = key_number((i * 7919) % ITEMS);
        if (directory_lease(d, &key, 9, 0, SECOND_NS, &lease)) directory_end(d, lease.number, false);
    }
    double found = (double)(clock_now_ns() - began_ns) / ITEMS;
    began_ns = clock_now_ns();
    for (uint64_t i = 0; i < ITEMS; i++) {
        struct key key = key_number(ITEMS + i);
        directory_lease(d, &key, 9, 0, SECOND_NS, &lease);
    }
    double absent = (double)(clock_now_ns() - began_ns) / ITEMS;
    directory_stats(d, &stats);
    began_ns = clock_now_ns();
    directory_drop(d, 3);
    double drop = (double)(clock_now_ns() - began_ns) * 1e-6;
    printf("directory of %" PRIu64 " items, of 8 ranks: %.1f bytes an item\n", stats.items,
           (double)stats.bytes / (double)stats.items);
    printf("  note %.0f ns, lease and its end %.0f ns, nobody has it %.0f ns, a rank is lost %.1f ms\n", note,
           found, absent, drop);
    directory_close(d);
}

/* ------------------------------------------------------------------------------------------------------- main */

static pid_t start_coordinator(const char *build, const char *scratch, char endpoint[SCRATCH_PATH_BYTES + 32])
{
    char program[4096], data[SCRATCH_PATH_BYTES + 32], clients[SCRATCH_PATH_BYTES + 32];
    snprintf(program, sizeof program, "%s/refrain-coordinator", build);
    snprintf(data, sizeof data, "%s/data", scratch);
    snprintf(clients, sizeof clients, "ipc://%s/clients", scratch);
    snprintf(endpoint, SCRATCH_PATH_BYTES + 32, "ipc://%s/workers", scratch);
    pid_t child = fork();
    if (child) return child;
    execl(program, program, "--data", data, "--endpoint", clients, "--worker-endpoint", endpoint, "--tie",
          NULL);
    _exit(127);
}

int main(int count, char **words)
{
    struct scratch scratch;
    struct error error;
    char coordinator[SCRATCH_PATH_BYTES + 32];
    int rounds = count > 2 ? atoi(words[2]) : 300;
    if (count < 2 || rounds < 1) {
        fprintf(stderr, "usage: bench_tier_fabric BUILD [rounds]\n");
        return 2;
    }
    if (scratch_open("/tmp", "refrain-bench-tier", &scratch, &error) != STATUS_OK) stop("scratch", &error);
    pid_t child = start_coordinator(words[1], scratch.path, coordinator);
    for (int i = 0; i < RANKS; i++) open_rank(i, scratch.path, coordinator);
    put(&ranks[1], SMALL, SMALL);
    put(&ranks[1], LARGE, LARGE);
    pthread_create(&ranks[1].thread, NULL, serve, &ranks[1]);
    struct rank *asker = &ranks[0];
    int64_t until_ns = clock_now_ns() + 20 * SECOND_NS;
    while ((!atomic_load(&ranks[0].ready) || !atomic_load(&ranks[1].ready)) && clock_now_ns() < until_ns)
        turn(asker, 20);
    if (!atomic_load(&ranks[0].ready)) {
        fprintf(stderr, "bench_tier_fabric: the ranks do not come together\n");
        return 1;
    }
    for (int i = 0; i < 20; i++) turn(asker, 20);
    beside_messages(asker, SMALL, false, rounds, "4 KB");
    double bandwidth = beside_messages(asker, LARGE, true, rounds / 5 + 1, "16 MB");
    slowdown(asker, bandwidth);
    directory();
    atomic_store(&ranks[1].stop, true);
    pthread_join(ranks[1].thread, NULL);
    for (int i = 0; i < RANKS; i++) close_rank(&ranks[i]);
    kill(child, SIGTERM);
    waitpid(child, NULL, 0);
    scratch_close(&scratch);
    return 0;
}
