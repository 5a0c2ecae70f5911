/*
 * bench_fabric.c - what the fabric adds to the library it runs on.
 *
 *     build/tools/bench_fabric              zmq over ipc, zmq over tcp on loopback, then mpi (starts mpirun)
 *     build/tools/bench_fabric ipc|tcp      one of the first two
 *     mpirun -np 2 --host A,B build/tools/bench_fabric mpi                          mpi between two hosts
 *
 * Two processes. For each size: ping-pong (half a round trip, "one way") and a stream in one direction; raw
 * library and fabric take turns in the same run, the median of the turns counts. Raw means the plainest
 * program one would write: blocking zmq_msg_recv and zero-copy zmq_msg_send on a PAIR, blocking MPI_Send and
 * MPI_Recv. It neither notices a dead peer nor lets the caller compute meanwhile.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "base/clock.h"
#include "cluster/fabric.h"

enum { TURNS = 5, CREDITS = 4, PATIENCE_S = 30 };

static const struct {
    size_t bytes;
    const char *name;
    int pings, streamed;
} sizes[] = {{64, "64 B", 2000, 20000},
             {65536, "64 KiB", 1000, 2000},
             {1 << 20, "1 MiB", 200, 200},
             {32 << 20, "32 MiB", 8, 8}};

enum { SIZES = sizeof sizes / sizeof *sizes };

struct bench {
    const char *kind; /* "ipc", "tcp" or "mpi" */
    int self;         /* 0 measures, 1 answers */
    uint8_t *payload; /* [32 MiB] */
    void *raw;        /* zmq PAIR */
    struct fabric *fabric;
    char (*addresses)[FABRIC_ADDRESS_BYTES]; /* [2], shared by the processes (zmq) */
};

static void fail(const char *what, const struct error *error)
{
    fprintf(stderr, "bench_fabric: %s: %s\n", what, error ? error->text : "failed");
    _exit(1);
}

/* ------------------------------------------------------------------------------------------ raw libraries */

static void keep(void *data, void *hint)
{
    (void)data, (void)hint; /* the payload stays the bench's */
}

static void raw_send(struct bench *b, size_t bytes)
{
    if (!b->raw) {
        MPI_Send(b->payload, (int)bytes, MPI_BYTE, 1 - b->self, 1, MPI_COMM_WORLD);
        return;
    }
    zmq_msg_t message;
    zmq_msg_init_data(&message, b->payload, bytes, keep, NULL);
    if (zmq_msg_send(&message, b->raw, 0) < 0) fail("zmq_msg_send", NULL);
}

static void raw_receive(struct bench *b, uint8_t *into, size_t bytes)
{
    if (!b->raw) {
        MPI_Recv(into, (int)bytes, MPI_BYTE, 1 - b->self, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        return;
    }
    zmq_msg_t message;
    zmq_msg_init(&message);
    if (zmq_msg_recv(&message, b->raw, 0) < 0) fail("zmq_msg_recv", NULL);
    zmq_msg_close(&message);
}

static double raw_pings(struct bench *b, uint8_t *into, size_t bytes, int count)
{
    int64_t before = clock_now_ns();
    for (int i = 0; i < count; i++) {
        if (b->self == 0) raw_send(b, bytes);
        raw_receive(b, into, bytes);
        if (b->self == 1) raw_send(b, bytes);
    }
    return (double)(clock_now_ns() - before) / count / 2;
}

static double raw_stream(struct bench *b, uint8_t *into, size_t bytes, int count)
{
    int64_t before = clock_now_ns();
    for (int i = 0; i < count; i++) {
        if (b->self == 0) raw_send(b, bytes);
        if (b->self == 1) raw_receive(b, into, bytes);
        /* As the fabric's credits do: the receiver says that it keeps up. */
        if (i % CREDITS != CREDITS - 1) continue;
        if (b->self == 0) raw_receive(b, into, 1);
        if (b->self == 1) raw_send(b, 1);
    }
    return (double)bytes * count / (double)(clock_now_ns() - before);
}

/* --------------------------------------------------------------------------------------------- the fabric */

static void fabric_send(struct bench *b, size_t bytes)
{
    struct ticket ticket = {.kind = TICKET_HOP, .dtype = TICKET_F32, .bytes = bytes};
    struct error error;
    status_t status;
    while ((status = fabric_post(b->fabric, 1 - b->self, &ticket, b->payload, 0, &error)) == STATUS_AGAIN) {
        struct fabric_event event;
        if (fabric_next(b->fabric, &event) == STATUS_OK)
            continue; /* a SENT; nothing is received while sending */
        if (fabric_wait(b->fabric, clock_now_ns() + PATIENCE_S * SECOND_NS, &error) != STATUS_OK)
            fail("wait", &error);
    }
    if (status != STATUS_OK) fail("post", &error);
}

static void fabric_receive(struct bench *b)
{
    struct fabric_event event;
    struct error error;
    do {
        while (fabric_next(b->fabric, &event) == STATUS_AGAIN)
            if (fabric_wait(b->fabric, clock_now_ns() + PATIENCE_S * SECOND_NS, &error) != STATUS_OK)
                fail("wait", &error);
    } while (event.kind == FABRIC_SENT);
    if (event.kind != FABRIC_RECEIVED) fail("the other process was lost", NULL);
    fabric_release(b->fabric, &event);
}

static double fabric_pings(struct bench *b, size_t bytes, int count)
{
    int64_t before = clock_now_ns();
    for (int i = 0; i < count; i++) {
        if (b->self == 0) fabric_send(b, bytes);
        fabric_receive(b);
        if (b->self == 1) fabric_send(b, bytes);
    }
    return (double)(clock_now_ns() - before) / count / 2;
}

static double fabric_stream(struct bench *b, size_t bytes, int count)
{
    int64_t before = clock_now_ns();
    for (int i = 0; i < count; i++) {
        if (b->self == 0) fabric_send(b, bytes);
        if (b->self == 1) fabric_receive(b);
    }
    if (b->self == 0) fabric_receive(b); /* "all here" */
    if (b->self == 1) fabric_send(b, 1);
    return (double)bytes * count / (double)(clock_now_ns() - before);
}

/* The one that measures leaves first: whoever leaves drops what the other did not get yet. */
static void close_fabric(struct bench *b)
{
    struct fabric_event event = {0};
    while (b->self == 1 && event.kind != FABRIC_LOST)
        if (fabric_next(b->fabric, &event) == STATUS_AGAIN &&
            fabric_wait(b->fabric, clock_now_ns() + PATIENCE_S * SECOND_NS, NULL) != STATUS_OK)
            fail("the end did not come", NULL);
    fabric_close(b->fabric);
}

/* Both processes are at the same point. With MPI only while no fabric is open. */
static void meet(struct bench *b)
{
    raw_send(b, 1);
    uint8_t byte;
    raw_receive(b, &byte, 1);
}

static void open_fabric(struct bench *b, uint64_t epoch)
{
    static const char *const binds[] = {"ipc:///tmp", "tcp://127.0.0.1:*"};
    bool mpi = strcmp(b->kind, "mpi") == 0;
    struct fabric_config config = {.kind = mpi ? "mpi" : "zmq",
                                   .bind = binds[strcmp(b->kind, "tcp") == 0],
                                   .credits = CREDITS,
                                   .max_bytes = 32 << 20};
    struct error error;
    if (fabric_open(&config, &b->fabric, &error) != STATUS_OK) fail("open", &error);
    const char *addresses[2] = {"mpi:0", "mpi:1"};
    if (!mpi) {
        strcpy(b->addresses[b->self], fabric_address(b->fabric));
        meet(b);
        for (int i = 0; i < 2; i++) addresses[i] = b->addresses[i];
    }
    struct fabric_membership membership = {
        .epoch = epoch, .self = b->self, .count = 2, .addresses = addresses};
    if (fabric_join(b->fabric, &membership, clock_now_ns() + PATIENCE_S * SECOND_NS, &error) != STATUS_OK)
        fail("join", &error);
}

/* ---------------------------------------------------------------------------------------------- the table */

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double turns[TURNS])
{
    qsort(turns, TURNS, sizeof *turns, by_size);
    return turns[TURNS / 2];
}

static void measure(struct bench *b)
{
    static double raw_ns[SIZES][TURNS], fabric_ns[SIZES][TURNS], raw_gb[SIZES][TURNS],
        fabric_gb[SIZES][TURNS];
    uint8_t *into = malloc(32 << 20);
    memset(into, 1, 32 << 20);
    for (int turn = 0; turn < TURNS; turn++) {
        for (int s = 0; s < SIZES; s++) {
            raw_pings(b, into, sizes[s].bytes, sizes[s].pings / 8 + 1); /* not counted */
            raw_ns[s][turn] = raw_pings(b, into, sizes[s].bytes, sizes[s].pings);
            raw_gb[s][turn] = raw_stream(b, into, sizes[s].bytes, sizes[s].streamed);
        }
        open_fabric(b, (uint64_t)turn + 1);
        for (int s = 0; s < SIZES; s++) {
            fabric_pings(b, sizes[s].bytes, sizes[s].pings / 8 + 1);
            fabric_ns[s][turn] = fabric_pings(b, sizes[s].bytes, sizes[s].pings);
            fabric_gb[s][turn] = fabric_stream(b, sizes[s].bytes, sizes[s].streamed);
        }
        close_fabric(b);
        meet(b);
    }
    free(into);
    if (b->self == 1) return;
    printf("%-4s %8s  %24s  %24s\n", b->kind, "", "one way, us: raw, fabric", "stream GB/s: raw, fabric");
    for (int s = 0; s < SIZES; s++) {
        double raw = median(raw_ns[s]) / 1e3, own = median(fabric_ns[s]) / 1e3;
        double raw_rate = median(raw_gb[s]), own_rate = median(fabric_gb[s]);
        printf("%-4s %8s  %9.1f %9.1f %5.2fx  %9.3f %9.3f %5.2fx\n", b->kind, sizes[s].name, raw, own,
               own / raw, raw_rate, own_rate, own_rate / raw_rate);
    }
    fflush(stdout);
}

/* One of the two zmq processes. */
static void run_zmq(struct bench *b)
{
    void *context = zmq_ctx_new();
    b->raw = zmq_socket(context, ZMQ_PAIR);
    char endpoint[96];
    if (strcmp(b->kind, "ipc") == 0)
        snprintf(endpoint, sizeof endpoint, "ipc:///tmp/refrain-bench-%d", (int)getpgrp());
    else
        snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", 20000 + (int)getpgrp() % 10000);
    int failed = b->self == 0 ? zmq_bind(b->raw, endpoint) : zmq_connect(b->raw, endpoint);
    if (failed) fail(endpoint, NULL);
    measure(b);
    zmq_close(b->raw);
    zmq_ctx_term(context);
    if (b->self == 0 && strcmp(b->kind, "ipc") == 0) unlink(endpoint + strlen("ipc://"));
}

static void fork_pair(struct bench *b)
{
    pid_t pids[2];
    for (b->self = 0; b->self < 2; b->self++) {
        pids[b->self] = fork();
        if (pids[b->self] == 0) {
            run_zmq(b);
            _exit(0);
        }
    }
    for (int i = 0; i < 2; i++) waitpid(pids[i], NULL, 0);
}

static int run_mpirun(const char *self)
{
    char command[512];
    snprintf(command, sizeof command,
             "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1 "
             "mpirun --oversubscribe --bind-to none -np 2 %s mpi",
             self);
    return system(command);
}

int main(int count, char **arguments)
{
    struct bench b = {.payload = malloc(32 << 20)};
    if (!b.payload) return 1;
    memset(b.payload, 7, 32 << 20);
    if (count == 2 && strcmp(arguments[1], "mpi") == 0) {
        int threads;
        MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &threads);
        MPI_Comm_rank(MPI_COMM_WORLD, &b.self);
        b.kind = "mpi";
        measure(&b);
        MPI_Finalize();
        return 0;
    }
    b.addresses = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b.addresses == MAP_FAILED) return 1;
    static const char *const kinds[] = {"ipc", "tcp"};
    for (int i = 0; i < 2; i++) {
        b.kind = kinds[i];
        if (count < 2 || strcmp(arguments[1], b.kind) == 0) fork_pair(&b);
    }
    if (count > 1) return 0;
    return run_mpirun(arguments[0]) != 0;
}
