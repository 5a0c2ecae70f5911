/* pair.c - see pair.h. */
#include "tools/bench/pair.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"

enum { MB = 1 << 20, LARGE = PAIR_LARGE };
enum { ECHO = TICKET_OPEN, ANSWER = TICKET_CLOSE, ROW = TICKET_HOP }; /* what the ranks say beside the tier */

struct pair_rank pair[PAIR];
_Atomic int pair_computing;
float pair_waits[PAIR_WAITS];
_Atomic int pair_wait_count;
static pid_t coordinator_process;

void pair_stop(const char *what, const struct error *error)
{
    fprintf(stderr, "%s: %s\n", what, error->text);
    exit(1);
}

/* ---------------------------------------------------------------------------------------------------- a rank */

static void post(struct pair_rank *r, uint16_t kind, uint64_t bytes, uint64_t wanted)
{
    struct error error;
    struct ticket ticket = {
        .kind = kind, .dtype = bytes ? TICKET_RAW : TICKET_NO_DATA, .bytes = bytes, .trace = wanted};
    status_t status;
    while ((status = engine_post(&r->engine, 1 - r->engine.self, &ticket, r->bytes, 1, &error)) ==
           STATUS_AGAIN)
        usleep(50);
    if (status != STATUS_OK) pair_stop("post", &error);
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

void pair_send_hop(struct pair_rank *r)
{
    atomic_fetch_add(&r->hops, 1);
    post(r, ROW, PAIR_HOP, (uint64_t)clock_now_ns());
}

static void take_hop(struct pair_rank *r, struct fabric_event *event)
{
    int64_t now_ns = clock_now_ns();
    int place = atomic_fetch_add(&pair_wait_count, 1);
    if (place < PAIR_WAITS) pair_waits[place] = (float)(now_ns - (int64_t)event->ticket.trace) * 1e-9f;
    if (atomic_load(&pair_computing) == PAIR_DEVICES && r->queued < PAIR_HOPS) {
        int64_t free_ns = r->queued ? r->done_ns[r->queued - 1] : now_ns;
        r->queue[r->queued] = *event;
        r->done_ns[r->queued++] = (free_ns > now_ns ? free_ns : now_ns) + PAIR_COMPUTE_NS;
        return;
    }
    bool computes = atomic_load(&pair_computing) == PAIR_PROCESSORS;
    if (computes) compute(PAIR_COMPUTE_NS);
    fabric_release(r->engine.fabric, event);
    if (computes) pair_send_hop(r);
}

/* What the device has done; *deadline_ns: when it has done the next. */
static bool tend_device(struct pair_rank *r, int64_t *deadline_ns)
{
    bool some = false;
    for (; r->queued && r->done_ns[0] <= clock_now_ns(); some = true) {
        fabric_release(r->engine.fabric, &r->queue[0]);
        r->queued--;
        memmove(r->queue, r->queue + 1, (size_t)r->queued * sizeof *r->queue);
        memmove(r->done_ns, r->done_ns + 1, (size_t)r->queued * sizeof *r->done_ns);
        if (atomic_load(&pair_computing) != PAIR_NOBODY) pair_send_hop(r);
    }
    if (r->queued && r->done_ns[0] < *deadline_ns) *deadline_ns = r->done_ns[0];
    return some;
}

static void take_event(struct pair_rank *r, struct fabric_event *event)
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

static void join(struct pair_rank *r, const Refrain__Epoch *order)
{
    const char *addresses[PAIR];
    struct error error;
    if (order->n_members != PAIR) return;
    for (int i = 0; i < PAIR; i++) addresses[i] = order->members[i]->address;
    struct fabric_membership m = {
        .epoch = order->epoch, .self = (int)order->self, .count = PAIR, .addresses = addresses};
    memcpy(m.token, order->token.data, sizeof m.token);
    if (fabric_join(r->engine.fabric, &m, clock_now_ns() + 10 * SECOND_NS, &error) != STATUS_OK)
        pair_stop("join", &error);
    r->engine.self = m.self;
    r->engine.members = PAIR;
    r->engine.epoch = order->epoch;
    tier_join(r->tier, &r->engine);
    Refrain__EpochReady ready = REFRAIN__EPOCH_READY__INIT;
    ready.has_epoch = 1;
    ready.epoch = order->epoch;
    control_report(r->control, REFRAIN__WORKER_REPORT__BODY_EPOCH_READY, &ready);
    atomic_store(&r->ready, true);
}

/* One turn, as rank.c makes them. */
void pair_turn(struct pair_rank *r, int wait_ms)
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
    struct pair_rank *r = argument;
    prctl(PR_SET_TIMERSLACK, 1);
    while (!atomic_load(&r->stop)) pair_turn(r, 20);
    return NULL;
}

static void open_rank(int index, const char *scratch, const char *coordinator)
{
    struct pair_rank *r = &pair[index];
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
        pair_stop("open", &error);
    struct tier_config tier = {.memory_bytes = 512u * MB, .ops = r->engine.ops};
    if (tier_open(&tier, &r->tier, &error) != STATUS_OK) pair_stop("tier_open", &error);
    r->engine.tier = r->tier;
    refrain__hello__init(hello);
    hello->has_rank = hello->has_ranks = hello->has_pid = hello->has_threads = 1;
    hello->group = (char *)(uintptr_t) "bench";
    hello->rank = (uint32_t)index;
    hello->ranks = PAIR;
    hello->pid = 1; /* always lives, and is not ours to be watched */
    hello->threads = 1;
    hello->host = (char *)(uintptr_t) "elsewhere";
    hello->backend = (char *)(uintptr_t) "ref";
    hello->fabric = (char *)(uintptr_t) "zmq";
    hello->fabric_address = (char *)(uintptr_t)fabric_address(r->engine.fabric);
    hello->software = (char *)(uintptr_t)REFRAIN_VERSION;
    control.progress = &r->engine.progress;
    if (control_start(&control, &r->control, &error) != STATUS_OK) pair_stop("control", &error);
}

static void close_rank(struct pair_rank *r)
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

struct key pair_key(uint64_t number)
{
    return (struct key){.tenant = 1,
                        .low = number * UINT64_C(0x9e3779b97f4a7c15),
                        .high = number,
                        .kind = ITEM_CHECKPOINT,
                        .format = KEY_FORMAT};
}

/* By the thread that serves it; the holder's turns are its own, so this is done before it starts, or between. */
void pair_put(struct pair_rank *r, uint64_t number, uint64_t bytes)
{
    struct draft draft;
    struct error error;
    struct key key = pair_key(number);
    if (tier_reserve(r->tier, 1, &key, bytes, 1000, &draft, &error) != STATUS_OK) pair_stop("put", &error);
    memset(draft.bytes, (int)number, bytes);
    tier_commit(r->tier, &draft);
}

/* Seconds from the question, and from the lease, to the view. False: it was a miss. */
bool pair_fetch(struct pair_rank *r, uint64_t number, double *asked, double *leased)
{
    struct view view;
    struct tier_query query = {
        .key = pair_key(number), .tenant = 1, .deadline_ns = clock_now_ns() + 5 * SECOND_NS};
    int64_t began_ns = clock_now_ns();
    status_t status;
    while ((status = tier_ask(r->tier, &query, &view)) == STATUS_AGAIN) pair_turn(r, 100);
    int64_t now_ns = clock_now_ns();
    if (status != STATUS_OK) return false;
    *asked = (double)(now_ns - began_ns) * 1e-9;
    *leased = (double)(now_ns - r->leased_ns) * 1e-9;
    tier_release(r->tier, &view);
    struct key key = pair_key(number);
    store_forget(tier_store(r->tier), &(struct store_match){.key = &key}); /* so that it is fetched again */
    return true;
}

double pair_cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)used.ru_utime.tv_sec + (double)used.ru_utime.tv_usec * 1e-6 +
           (double)used.ru_stime.tv_sec + (double)used.ru_stime.tv_usec * 1e-6;
}

double pair_message(struct pair_rank *r, uint64_t there, uint64_t back)
{
    int64_t began_ns = clock_now_ns();
    uint64_t answers = r->answers;
    post(r, ECHO, there, back);
    while (r->answers == answers) pair_turn(r, 100);
    return (double)(clock_now_ns() - began_ns) * 1e-9;
}

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

bool pair_open(const char *build, const char *scratch)
{
    char endpoint[SCRATCH_PATH_BYTES + 32];
    coordinator_process = start_coordinator(build, scratch, endpoint);
    for (int i = 0; i < PAIR; i++) open_rank(i, scratch, endpoint);
    return coordinator_process > 0;
}

bool pair_start(void)
{
    if (pthread_create(&pair[1].thread, NULL, serve, &pair[1]) != 0) return false;
    int64_t until_ns = clock_now_ns() + 20 * SECOND_NS;
    while ((!atomic_load(&pair[0].ready) || !atomic_load(&pair[1].ready)) && clock_now_ns() < until_ns)
        pair_turn(&pair[0], 20);
    for (int i = 0; i < 20; i++) pair_turn(&pair[0], 20); /* what was put is told */
    return atomic_load(&pair[0].ready);
}

void pair_close(void)
{
    atomic_store(&pair[1].stop, true);
    pthread_join(pair[1].thread, NULL);
    for (int i = 0; i < PAIR; i++) close_rank(&pair[i]);
    kill(coordinator_process, SIGTERM);
    waitpid(coordinator_process, NULL, 0);
}
