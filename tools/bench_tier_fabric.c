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
 *                   fifth of the fabric's bandwidth, turn and turn about: once with devices that compute (the ranks' processors
 *                   are free, as with GPUs), where hops a second and what each waited count; once with processors, where
 *                   the processor's time of a hop counts, which other programs do not change much
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
#include <sys/prctl.h>
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

enum { KB = 1 << 10, MB = 1 << 20, RANKS = 2, SMALL = 4 * KB, LARGE = 16 * MB, HOP = MB, MOST = 4000 };
enum {
    HOPS = 4,
    COMPUTE_NS = 4000000, /* of a hop */
    WAITS = 1 << 16
}; /* in the ring at once: two for each rank, so that nobody waits for one; remembered */
enum { ECHO = TICKET_OPEN, ANSWER = TICKET_CLOSE, ROW = TICKET_HOP }; /* what the ranks say beside the tier */

struct rank {
    struct engine engine;
    struct control *control;
    struct tier *tier;
    char directory[SCRATCH_PATH_BYTES + 16];
    pthread_t thread;
    _Atomic bool ready, stop;
    int64_t leased_ns;
    uint8_t *bytes; /* [LARGE]: payloads */
    uint64_t answers;
    _Atomic uint64_t hops;
    /* Hops on the device, one after the other. */
    struct fabric_event queue[HOPS];
    int64_t done_ns[HOPS]; /* when each is computed */
    int queued;
};

enum computing { NOBODY, DEVICES, PROCESSORS };
static _Atomic int computing;

/* What hops took from one rank to the other, seconds. */
static float waits[WAITS];
static _Atomic int wait_count;

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

static int64_t thread_cpu_ns(void)
{
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return used.tv_sec * SECOND_NS + used.tv_nsec;
}

/* So much of this thread's own time, whoever else has the processor meanwhile. */
static void compute(int64_t ns)
{
    for (int64_t until = thread_cpu_ns() + ns; thread_cpu_ns() < until;) continue;
}

static void send_on(struct rank *r)
{
    atomic_fetch_add(&r->hops, 1);
    post(r, ROW, HOP, (uint64_t)clock_now_ns());
}

static void take_hop(struct rank *r, struct fabric_event *event)
{
    int64_t now_ns = clock_now_ns();
    int place = atomic_fetch_add(&wait_count, 1);
    if (place < WAITS) waits[place] = (float)(now_ns - (int64_t)event->ticket.trace) * 1e-9f;
    if (atomic_load(&computing) == DEVICES && r->queued < HOPS) {
        int64_t free_ns = r->queued ? r->done_ns[r->queued - 1] : now_ns;
        r->queue[r->queued] = *event;
        r->done_ns[r->queued++] = (free_ns > now_ns ? free_ns : now_ns) + COMPUTE_NS;
        return;
    }
    bool computes = atomic_load(&computing) == PROCESSORS;
    if (computes) compute(COMPUTE_NS);
    fabric_release(r->engine.fabric, event);
    if (computes) send_on(r);
}

/* What the device has done; *deadline_ns: when it has done the next. */
static bool tend_device(struct rank *r, int64_t *deadline_ns)
{
    bool some = false;
    for (; r->queued && r->done_ns[0] <= clock_now_ns(); some = true) {
        fabric_release(r->engine.fabric, &r->queue[0]);
        r->queued--;
        memmove(r->queue, r->queue + 1, (size_t)r->queued * sizeof *r->queue);
        memmove(r->done_ns, r->done_ns + 1, (size_t)r->queued * sizeof *r->done_ns);
        if (atomic_load(&computing) != NOBODY) send_on(r);
    }
    if (r->queued && r->done_ns[0] < *deadline_ns) *deadline_ns = r->done_ns[0];
    return some;
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
    if (kind == ROW) {
        take_hop(r, event);
        return;
    }
    fabric_release(r->engine.fabric, event);
    if (kind == ECHO) post(r, ANSWER, wanted, 0);
    if (kind == ANSWER) r->answers++;
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
    some |= tend_device(r, &deadline_ns);
    some |= tier_tend(r->tier, &deadline_ns);
    if (some) return;
    struct pollfd wait[] = {
        {.fd = control_descriptor(r->control), .events = POLLIN},
        {.fd = r->engine.epoch ? fabric_descriptor(r->engine.fabric) : -1, .events = POLLIN},
        {.fd = tier_descriptor(r->tier), .events = POLLIN}};
    int64_t left_ns = deadline_ns - clock_now_ns();
    if (left_ns < 0) left_ns = 0;
    ppoll(wait, 3, &(struct timespec){left_ns / SECOND_NS, left_ns % SECOND_NS}, NULL);
}

static void *serve(void *argument)
{
    struct rank *r = argument;
    prctl(PR_SET_TIMERSLACK, 1);
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

/* Bytes a second of the fabric's own messages; *cpu_of_byte: what an item takes of processors. */
static double beside_messages(struct rank *r, uint64_t bytes, bool there, int count, const char *name,
                              double *cpu_of_byte)
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
    *cpu_of_byte = MEDIAN(item_cpu) / (double)bytes;
    return (double)bytes / round_trip;
}

/* --------------------------------------------------------------------------------------------------- slowdown */

/* One turn of the ring, without items or with some. */
struct spell {
    double hops, cpu, fetched; /* a second each */
    double cpu_of_hop;
    double wait, long_wait; /* of a hop from rank to rank: the median, and what one in a hundred exceeds */
};

/* Items of LARGE bytes come in at `rate` bytes a second meanwhile. */
static struct spell ring(struct rank *r, double seconds, double rate)
{
    int64_t began_ns = clock_now_ns(), until_ns = began_ns + (int64_t)(seconds * 1e9), now_ns;
    uint64_t before = atomic_load(&ranks[0].hops) + atomic_load(&ranks[1].hops);
    double cpu = cpu_seconds(), fetched = 0;
    struct view view;
    struct tier_query query = {.key = key_number(LARGE), .tenant = 1};
    bool asking = false;
    atomic_store(&wait_count, 0);
    while ((now_ns = clock_now_ns()) < until_ns) {
        double due = rate * (double)(now_ns - began_ns) * 1e-9;
        if (!asking && fetched < due) query.deadline_ns = now_ns + 5 * SECOND_NS;
        asking |= fetched < due;
        status_t status = asking ? tier_ask(r->tier, &query, &view) : STATUS_AGAIN;
        if (status == STATUS_OK) {
            fetched += LARGE;
            tier_release(r->tier, &view);
            store_forget(tier_store(r->tier), &(struct store_match){.key = &query.key});
        }
        asking &= status == STATUS_AGAIN;
        turn(r, 1);
    }
    double took = (double)(clock_now_ns() - began_ns) * 1e-9;
    double hops = (double)(atomic_load(&ranks[0].hops) + atomic_load(&ranks[1].hops) - before);
    int count = atomic_load(&wait_count) < WAITS ? atomic_load(&wait_count) : WAITS;
    static double sorted[WAITS];
    for (int i = 0; i < count; i++) sorted[i] = (double)waits[i];
    double middle = median(sorted, count);
    cpu = cpu_seconds() - cpu;
    return (struct spell){.hops = hops / took,
                          .cpu = cpu / took,
                          .fetched = fetched / took,
                          .cpu_of_hop = hops > 0 ? cpu / hops : 0,
                          .wait = middle,
                          .long_wait = count ? sorted[count - 1 - count / 100] : 0};
}

enum { SPELLS = 14 };

/* The median over the spells, of a field, of what is there beside and alone: their ratio. */
static double ratio_of(const struct spell *beside, const struct spell *alone, size_t field)
{
    double values[SPELLS];
    for (int i = 0; i < SPELLS; i++)
        values[i] = *(const double *)((const char *)&beside[i] + field) /
                    *(const double *)((const char *)&alone[i] + field);
    return median(values, SPELLS);
}

static double spells_of(const struct spell *spells, size_t field)
{
    double values[SPELLS];
    for (int i = 0; i < SPELLS; i++) values[i] = *(const double *)((const char *)&spells[i] + field);
    return median(values, SPELLS);
}

static void run_spells(struct rank *r, enum computing how, double rate, struct spell *alone,
                       struct spell *beside)
{
    const double seconds = 0.4;
    atomic_store(&computing, how);
    for (int i = 0; i < HOPS; i++) send_on(r);
    ring(r, seconds, rate);
    for (int i = 0; i < SPELLS; i++) {
        alone[i] = ring(r, seconds, 0);
        beside[i] = ring(r, seconds, rate);
    }
    atomic_store(&computing, NOBODY);
    for (int i = 0; i < 50; i++) turn(r, 5);
}

#define OF(spells, field) spells_of(spells, offsetof(struct spell, field))

static void print_spells(const char *name, const struct spell *spells)
{
    printf(
        "  %-26s %6.0f hops a second, each %4.0f us on its way, one in a hundred above %5.0f us; %.2f CPU\n",
        name, OF(spells, hops), OF(spells, wait) * 1e6, OF(spells, long_wait) * 1e6, OF(spells, cpu));
}

/* `cpu_of_byte`: of the tier, measured with nothing beside it. */
static void slowdown(struct rank *r, double bandwidth, double cpu_of_byte)
{
    static struct spell alone[SPELLS], beside[SPELLS];
    char name[64];
    prctl(PR_SET_TIMERSLACK, 1);
    run_spells(r, DEVICES, 0.2 * bandwidth, alone, beside);
    double fetched = OF(beside, fetched);
    snprintf(name, sizeof name, "and %.2f GB/s of items", fetched * 1e-9);
    printf("two ranks whose devices compute %d ms for each hop of %d KB, %d turns\n", COMPUTE_NS / 1000000,
           HOP / KB, SPELLS);
    print_spells("alone", alone);
    print_spells(name, beside);
    printf("  items at %.0f %% of the link: %.1f %% fewer hops (the bar: 2 %%, and what the tier takes of "
           "processors: %.1f %% of two)\n",
           100 * fetched / bandwidth, 100 * (1 - ratio_of(beside, alone, offsetof(struct spell, hops))),
           100 * (OF(beside, cpu) - OF(alone, cpu)) / RANKS);
    run_spells(r, PROCESSORS, 0.2 * bandwidth, alone, beside);
    fetched = OF(beside, fetched);
    double items = fetched * cpu_of_byte / OF(beside, hops);
    snprintf(name, sizeof name, "and %.2f GB/s of items", fetched * 1e-9);
    printf("two ranks whose processors do\n");
    print_spells("alone", alone);
    print_spells(name, beside);
    printf("  items at %.0f %% of the link: %.3f ms of CPU a hop, not %.3f; items by themselves take %.3f of "
           "that: %.1f %% more than both (the "
           "bar: 2 %%)\n",
           100 * fetched / bandwidth, OF(beside, cpu_of_hop) * 1e3, OF(alone, cpu_of_hop) * 1e3, items * 1e3,
           100 * (ratio_of(beside, alone, offsetof(struct spell, cpu_of_hop)) - 1 -
                  items / OF(alone, cpu_of_hop)));
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
    double cpu_of_byte;
    beside_messages(asker, SMALL, false, rounds, "4 KB", &cpu_of_byte);
    double bandwidth = beside_messages(asker, LARGE, true, rounds / 5 + 1, "16 MB", &cpu_of_byte);
    slowdown(asker, bandwidth, cpu_of_byte);
    directory();
    atomic_store(&ranks[1].stop, true);
    pthread_join(ranks[1].thread, NULL);
    for (int i = 0; i < RANKS; i++) close_rank(&ranks[i]);
    kill(child, SIGTERM);
    waitpid(child, NULL, 0);
    scratch_close(&scratch);
    return 0;
}
