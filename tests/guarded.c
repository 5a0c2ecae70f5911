/*
 * guarded.c - see guarded.h: memory, the order of ops, waiting.
 *
 * Threads: a lane's ops are called by one thread and run by the lane's own. One lock for everything; commands run
 * without it.
 */
#include "tests/guarded.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/guarded_state.h"

enum { MOST_LANES = 64, HELD = 300, POISON = 0xff };

/* Of each byte of shared memory. */
enum state { HOSTS, READ_BY_OPS, WRITTEN_BY_OPS };

struct block {
    enum memory kind;
    char *given, *real; /* what the program has, where ops work */
    size_t bytes, mapped;
    unsigned char *state; /* MEMORY_SHARED: [bytes] */
    size_t from, to;      /* states outside are HOSTS */
    struct lane *lane;    /* that used it last, and in which of its rounds */
    long round;
    struct block *next;
};

struct lane {
    struct team *team, *inner;
    struct command *first, **last;
    int waiting;
    bool hurry, stop;
    long round; /* grows with every wait */
    pthread_t thread;
    pthread_cond_t changed;
};

const char guarded_sentence[] = "the device fell off its bus";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;
static struct lane lanes[MOST_LANES];
static int fail_after = -1, refuse_after = -1;
static bool failed;
static long waits;

void guarded_die(const char *op, const char *what)
{
    fprintf(stderr, "guarded: %s: %s\n", op, what);
    abort();
}

const struct ops *guarded_inner(void)
{
    return ops_find("auto");
}

void guarded_fail_after(int ops)
{
    pthread_mutex_lock(&lock);
    fail_after = ops;
    failed = false;
    pthread_mutex_unlock(&lock);
}

void guarded_refuse_after(int allocations)
{
    pthread_mutex_lock(&lock);
    refuse_after = allocations;
    pthread_mutex_unlock(&lock);
}

long guarded_waits(void)
{
    pthread_mutex_lock(&lock);
    long count = waits;
    pthread_mutex_unlock(&lock);
    return count;
}

/* ---------------------------------------------------------------------------------------------------- memory */

static status_t allocate(enum memory kind, size_t bytes, void **memory, struct error *error)
{
    if (bytes == 0) guarded_die("allocate", "nothing is wanted");
    pthread_mutex_lock(&lock);
    bool refused = refuse_after == 0;
    if (refuse_after > 0) refuse_after--;
    pthread_mutex_unlock(&lock);
    if (refused)
        return error_set(error, STATUS_NO_MEMORY, "%.1f MB of the device's memory cannot be had",
                         (double)bytes / 1e6);
    struct block *b = calloc(1, sizeof *b);
    size_t whole = (bytes + 4095) / 4096 * 4096;
    *b = (struct block){.kind = kind, .bytes = bytes, .mapped = whole, .from = bytes};
    b->real = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(b->real, 0, bytes);
    if (kind == MEMORY_DEVICE) {
        b->given = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    } else {
        b->given = aligned_alloc(256, (bytes + 255) / 256 * 256);
        memset(b->given, 0, bytes);
        b->state = calloc(bytes, 1);
    }
    pthread_mutex_lock(&lock);
    b->next = blocks;
    blocks = b;
    pthread_mutex_unlock(&lock);
    *memory = b->given;
    return STATUS_OK;
}

static void release(enum memory kind, void *memory)
{
    if (!memory) return;
    pthread_mutex_lock(&lock);
    struct block **at = &blocks;
    while (*at && (*at)->given != memory) at = &(*at)->next;
    struct block *b = *at;
    if (!b || b->kind != kind) guarded_die("release", "no memory of that kind begins there");
    if (b->lane && b->lane->round == b->round) guarded_die("release", "ops may still use the memory");
    *at = b->next;
    pthread_mutex_unlock(&lock);
    if (kind == MEMORY_DEVICE)
        munmap(b->given, b->mapped);
    else
        free(b->given);
    free(b->state);
    free(b->real);
    free(b);
}

/* The block that holds the first byte; NULL: the host's own. Locked. */
static struct block *block_of(const void *memory)
{
    const char *p = memory;
    struct block *b = blocks;
    while (b && !(p >= b->given && p < b->given + b->bytes)) b = b->next;
    return b;
}

/* What the host has written reaches the ops; what they will write is hidden from the host. Locked. */
static void take_shared(struct block *b, const char *op, size_t at, size_t bytes, enum use use)
{
    if (at < b->from) b->from = at;
    if (at + bytes > b->to) b->to = at + bytes;
    for (size_t i = at; i < at + bytes; i++) {
        if (b->state[i] == HOSTS) b->real[i] = b->given[i];
        if (b->state[i] == READ_BY_OPS && b->given[i] != b->real[i])
            guarded_die(op, "shared memory was changed while an op reads it");
        if (use == WRITES && b->state[i] != WRITTEN_BY_OPS) b->given[i] = (char)POISON;
        if (b->state[i] != WRITTEN_BY_OPS) b->state[i] = use == WRITES ? WRITTEN_BY_OPS : READ_BY_OPS;
    }
}

/* Everything is done: the host sees it. Locked. */
static void give_shared(struct block *b)
{
    for (size_t i = b->from; i < b->to; i++) {
        char expected = b->state[i] == WRITTEN_BY_OPS ? (char)POISON : b->real[i];
        if (b->state[i] != HOSTS && b->given[i] != expected)
            guarded_die("wait", "shared memory was changed while ops used it");
        if (b->state[i] != HOSTS) b->given[i] = b->real[i];
        b->state[i] = HOSTS;
    }
    b->from = b->bytes;
    b->to = 0;
}

static void *locate(struct lane *lane, const char *op, const void *memory, size_t bytes, enum use use,
                    bool host_too)
{
    if (!memory) return NULL;
    pthread_mutex_lock(&lock);
    struct block *b = block_of(memory);
    if (!b) {
        pthread_mutex_unlock(&lock);
        if (!host_too) guarded_die(op, "an argument is not memory of the backend");
        return NULL;
    }
    size_t at = (size_t)((const char *)memory - b->given);
    if (bytes > b->bytes - at) guarded_die(op, "an argument is larger than its memory");
    b->lane = lane;
    b->round = lane->round;
    if (b->kind == MEMORY_SHARED) take_shared(b, op, at, bytes, use);
    pthread_mutex_unlock(&lock);
    return b->real + at;
}

void *guarded_at(struct lane *lane, const char *op, const void *memory, size_t bytes, enum use use)
{
    return locate(lane, op, memory, bytes, use, false);
}

/* ----------------------------------------------------------------------------------------------------- lanes */

/* Locked. */
static struct lane *lane_of(const struct team *team)
{
    struct lane *lane = lanes;
    while (lane < lanes + MOST_LANES && lane->team != team) lane++;
    return lane < lanes + MOST_LANES ? lane : NULL;
}

struct lane *guarded_lane(struct team *team, const char *op)
{
    pthread_mutex_lock(&lock);
    struct lane *lane = team ? lane_of(team) : NULL;
    pthread_mutex_unlock(&lock);
    if (!lane) guarded_die(op, "the team was not opened");
    return lane;
}

void *guarded_command(size_t bytes, void (*run)(struct command *command, struct team *team))
{
    struct command *command = calloc(1, bytes);
    command->run = run;
    return command;
}

void guarded_enqueue(struct lane *lane, void *added)
{
    struct command *command = added;
    pthread_mutex_lock(&lock);
    if (fail_after == 0) failed = true;
    if (fail_after > 0) fail_after--;
    *lane->last = command;
    lane->last = &command->next;
    lane->waiting++;
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lock);
}

static void *lane_main(void *argument)
{
    struct lane *lane = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!lane->stop && !(lane->waiting > (lane->hurry ? 0 : HELD)))
            pthread_cond_wait(&lane->changed, &lock);
        struct command *command = lane->first;
        if (!command) break;
        bool dead = failed;
        lane->first = command->next;
        if (!lane->first) lane->last = &lane->first;
        pthread_mutex_unlock(&lock);
        if (!dead) command->run(command, lane->inner);
        free(command->release);
        free(command);
        pthread_mutex_lock(&lock);
        lane->waiting--;
        pthread_cond_broadcast(&lane->changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static status_t open_lane(struct team *team, struct error *error)
{
    struct team *inner;
    status_t status = team_create(1, &inner, error);
    if (status != STATUS_OK) return status;
    pthread_mutex_lock(&lock);
    struct lane *lane = lane_of(NULL);
    if (!lane || lane_of(team)) guarded_die("open", "too many teams, or one that is open");
    lane->team = team;
    lane->inner = inner;
    lane->first = NULL;
    lane->last = &lane->first;
    lane->waiting = 0;
    lane->hurry = lane->stop = false;
    pthread_cond_init(&lane->changed, NULL);
    pthread_create(&lane->thread, NULL, lane_main, lane);
    pthread_mutex_unlock(&lock);
    return STATUS_OK;
}

static void close_lane(struct team *team)
{
    pthread_mutex_lock(&lock);
    struct lane *lane = team ? lane_of(team) : NULL;
    if (lane) {
        lane->stop = true;
        pthread_cond_broadcast(&lane->changed);
    }
    pthread_mutex_unlock(&lock);
    if (!lane) return;
    pthread_join(lane->thread, NULL);
    team_destroy(lane->inner);
    pthread_mutex_lock(&lock);
    pthread_cond_destroy(&lane->changed);
    lane->team = NULL;
    lane->round++;
    pthread_mutex_unlock(&lock);
}

static status_t wait_for_all(struct team *team, struct error *error)
{
    struct lane *lane = guarded_lane(team, "wait");
    pthread_mutex_lock(&lock);
    waits += lane->waiting > 0;
    lane->hurry = true;
    pthread_cond_broadcast(&lane->changed);
    while (lane->waiting > 0) pthread_cond_wait(&lane->changed, &lock);
    lane->hurry = false;
    for (struct block *b = blocks; b; b = b->next)
        if (b->lane == lane && b->kind == MEMORY_SHARED) give_shared(b);
    lane->round++;
    bool dead = failed;
    pthread_mutex_unlock(&lock);
    return dead ? error_set(error, STATUS_INTERNAL, "%s", guarded_sentence) : STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------------- copies */

struct copy {
    struct command command;
    char *to;
    const char *from, *expected; /* expected: what the host's own held; NULL: it is not the host's */
    size_t to_stride, from_stride, row_bytes;
    int64_t rows;
};

static void run_copy(struct command *command, struct team *team)
{
    struct copy *c = (struct copy *)command;
    for (int64_t row = 0; row < c->rows; row++) {
        const char *from = c->from + (size_t)row * c->from_stride;
        if (c->expected && memcmp(from, c->expected + (size_t)row * c->row_bytes, c->row_bytes) != 0)
            guarded_die("copy", "the host's memory was changed before it was waited for");
        memcpy(c->to + (size_t)row * c->to_stride, from, c->row_bytes);
    }
}

static void copy_rows(struct team *team, void *to, size_t to_stride, const void *from, size_t from_stride,
                      size_t row_bytes, int64_t rows)
{
    struct lane *lane = guarded_lane(team, "copy");
    if (rows < 1 || row_bytes == 0) return;
    struct copy *c = guarded_command(sizeof *c, run_copy);
    size_t last = (size_t)(rows - 1);
    *c = (struct copy){.command = c->command,
                       .to_stride = to_stride,
                       .from_stride = from_stride,
                       .row_bytes = row_bytes,
                       .rows = rows};
    c->from = locate(lane, "copy", from, last * from_stride + row_bytes, READS, true);
    if (!c->from) {
        char *expected = malloc((size_t)rows * row_bytes);
        for (int64_t row = 0; row < rows; row++)
            memcpy(expected + (size_t)row * row_bytes, (const char *)from + (size_t)row * from_stride,
                   row_bytes);
        c->from = from;
        c->expected = c->command.release = expected;
    }
    c->to = locate(lane, "copy", to, last * to_stride + row_bytes, WRITES, true);
    if (!c->to) {
        c->to = to;
        for (int64_t row = 0; row < rows; row++) memset(c->to + (size_t)row * to_stride, POISON, row_bytes);
    }
    guarded_enqueue(lane, c);
}

static void copy(struct team *team, void *to, const void *from, size_t bytes)
{
    copy_rows(team, to, bytes, from, bytes, bytes, 1);
}

struct zero {
    struct command command;
    void *memory;
    size_t bytes;
};

static void run_zero(struct command *command, struct team *team)
{
    struct zero *z = (struct zero *)command;
    memset(z->memory, 0, z->bytes);
}

static void zero(struct team *team, void *memory, size_t bytes)
{
    struct lane *lane = guarded_lane(team, "zero");
    struct zero *z = guarded_command(sizeof *z, run_zero);
    z->memory = guarded_at(lane, "zero", memory, bytes, WRITES);
    z->bytes = bytes;
    guarded_enqueue(lane, z);
}

/* Outside the lanes' order: what an op that waits is still to write is not there yet. */
static status_t copy_now(void *to, const void *from, size_t bytes, struct error *error)
{
    pthread_mutex_lock(&lock);
    const struct block *source = block_of(from), *target = block_of(to);
    bool dead = failed;
    if ((source && source->kind != MEMORY_DEVICE) || (target && target->kind != MEMORY_DEVICE))
        guarded_die("copy_now", "shared memory, which the host can read and write itself");
    if ((source && bytes > source->bytes - (size_t)((const char *)from - source->given)) ||
        (target && bytes > target->bytes - (size_t)((char *)to - target->given)))
        guarded_die("copy_now", "an argument is larger than its memory");
    if (source) from = source->real + ((const char *)from - source->given);
    if (target) to = target->real + ((char *)to - target->given);
    pthread_mutex_unlock(&lock);
    if (dead) return error_set(error, STATUS_INTERNAL, "%s", guarded_sentence);
    memcpy(to, from, bytes);
    return STATUS_OK;
}

/* ----------------------------------------------------------------------------------------------------- table */

const struct ops *guarded_ops(dtype_t operand)
{
    static struct ops made[2];
    struct ops *ops = &made[operand != DTYPE_F32];
    pthread_mutex_lock(&lock);
    if (!ops->name) {
        guarded_fill(ops);
        ops->operand = operand;
        ops->open = open_lane;
        ops->close = close_lane;
        ops->wait = wait_for_all;
        ops->allocate = allocate;
        ops->release = release;
        ops->copy = copy;
        ops->copy_rows = copy_rows;
        ops->zero = zero;
        ops->copy_now = copy_now;
        ops->name = operand == DTYPE_F32 ? "guarded" : "guarded-bf16";
    }
    pthread_mutex_unlock(&lock);
    return ops;
}

const struct ops *guarded_or(const char *name)
{
    const char *wanted = getenv("REFRAIN_GUARDED");
    if (wanted) return guarded_ops(strcmp(wanted, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32);
    return ops_find(name ? name : "auto");
}

const struct ops *const *guarded_or_all(void)
{
    static const struct ops *only[2];
    if (!getenv("REFRAIN_GUARDED")) return ops_available();
    only[0] = guarded_or(NULL);
    return only;
}
