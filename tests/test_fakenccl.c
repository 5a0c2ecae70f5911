/*
 * test_fakenccl.c - the stand-in for NCCL: does it hang where NCCL would, and say what NCCL would not?
 *
 * Two processes, ranks 0 and 1 of one or two communicators. A rank's result is its exit status.
 */
#include <dlfcn.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cluster/nccl.h"
#include "tests/fabric_group.h"
#include "tests/gpu_memory.h"

#define BYTES ((size_t)3 << 20) /* more than the stand-in's rings hold */

enum { INVALID_USAGE = 5, REMOTE_ERROR = 6, HUNG = 42 };

struct rank {
    int self;
    struct nccl nccl;
    void *comm[2], *stream[2], *done;
    uint8_t *memory[2]; /* [BYTES] */
    int (*group_start)(void);
    int (*group_end)(void);
    const char *(*last_error)(void *);
};

static struct nccl_id *ids; /* [2], shared */

static void must(bool well, const char *what)
{
    if (well) return;
    fprintf(stderr, "%s\n", what);
    _exit(99);
}

static void find(const char *name, void *pointer)
{
    void *found = dlsym(dlopen("libnccl.so.2", RTLD_NOW), name);
    must(found, name);
    memcpy(pointer, &found, sizeof found);
}

static int state_of(struct rank *r, int which)
{
    int state = -1;
    r->nccl.comm_state(r->comm[which], &state);
    return state;
}

static void connect(struct rank *r, int which)
{
    struct nccl_config config;
    nccl_config_init(&config);
    must(r->nccl.comm_init(&r->comm[which], 2, ids[which], r->self, &config) == NCCL_IN_PROGRESS, "init");
    must(r->nccl.stream_create(&r->stream[which], CUDA_STREAM_NON_BLOCKING) == 0, "stream");
    r->memory[which] = gpu_memory_new(BYTES);
}

static void open_rank(struct rank *r)
{
    struct error error;
    must(nccl_load(&r->nccl, &error) == STATUS_OK, error.text);
    find("ncclGroupStart", &r->group_start);
    find("ncclGroupEnd", &r->group_end);
    find("ncclGetLastError", &r->last_error);
    must(r->nccl.event_create(&r->done, CUDA_EVENT_DISABLE_TIMING) == 0, "event");
    for (int i = 0; i < 2; i++) connect(r, i);
    for (int i = 0; i < 2; i++)
        while (state_of(r, i) == NCCL_IN_PROGRESS) usleep(100);
}

static void send_to_other(struct rank *r, int which, size_t bytes)
{
    int result =
        r->nccl.send(r->memory[which], bytes, NCCL_UINT8, 1 - r->self, r->comm[which], r->stream[which]);
    must(result == NCCL_SUCCESS, "send");
}

static void receive_from_other(struct rank *r, int which, size_t bytes)
{
    int result =
        r->nccl.receive(r->memory[which], bytes, NCCL_UINT8, 1 - r->self, r->comm[which], r->stream[which]);
    must(result == NCCL_SUCCESS, "receive");
}

/* 0: the stream came through; HUNG, or what the communicator says. */
static int await_stream(struct rank *r, int which, int ms)
{
    int64_t until = clock_now_ns() + ms * MILLISECOND_NS;
    must(r->nccl.event_record(r->done, r->stream[which]) == 0, "record");
    while (r->nccl.event_query(r->done) == CUDA_NOT_READY) {
        if (state_of(r, which) != NCCL_SUCCESS) return state_of(r, which);
        if (clock_now_ns() > until) return HUNG;
        usleep(200);
    }
    return 0;
}

/* What ranks left behind that ended while a communicator was being made. */
static void sweep(void)
{
    char pattern[64];
    glob_t found;
    snprintf(pattern, sizeof pattern, "/dev/shm/fakenccl-test-%d-*", (int)getpid());
    if (glob(pattern, 0, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc; i++) unlink(found.gl_pathv[i]);
    globfree(&found);
}

/* Runs both ranks and looks at how they end; -SIGNAL: killed by it. */
static void expect(int (*run)(struct rank *), int status0, int status1)
{
    const int wanted[] = {status0, status1};
    pid_t pids[2];
    /* ncclGetUniqueId would load the library here, before its processes are forked. */
    for (int i = 0; i < 2; i++)
        snprintf(ids[i].internal, sizeof ids[i].internal, "%d-%d-%lld", (int)getpid(), i,
                 (long long)clock_now_ns());
    for (int i = 0; i < 2; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i]) continue;
        struct rank rank = {.self = i};
        setenv("REFRAIN_FAKENCCL_NAME", "test", 1);
        if (wanted[i] == -SIGABRT && !freopen("/dev/null", "w", stderr)) _exit(98);
        open_rank(&rank);
        _exit(run(&rank));
    }
    for (int k = 0; k < 2;
         k++) { /* whoever ends first: a process that nobody waited for does not count as dead */
        int status, i = wait(&status) == pids[1];
        int ended = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
        assert_int_equal(ended, wanted[i]);
    }
    sweep();
}

static int exchange_in_a_group(struct rank *r)
{
    uint8_t first = (uint8_t)(r->self + 1), got = 0;
    gpu_memory_put(r->memory[0], &first, 1);
    r->group_start();
    r->nccl.send(r->memory[0], BYTES, NCCL_UINT8, 1 - r->self, r->comm[0], r->stream[0]);
    r->nccl.receive(r->memory[1], BYTES, NCCL_UINT8, 1 - r->self, r->comm[0], r->stream[0]);
    must(r->group_end() == NCCL_SUCCESS, "group");
    int result = await_stream(r, 0, 5000);
    gpu_memory_get(&got, r->memory[1], 1);
    return result == 0 && got != 2 - r->self ? 97 : result;
}

static void sends_and_receives_of_a_group_progress_together(void **state)
{
    expect(exchange_in_a_group, 0, 0);
}

static int cross_sends(struct rank *r)
{
    send_to_other(r, 0, BYTES);
    receive_from_other(r, 0, BYTES);
    int result = await_stream(r, 0, 300);
    r->nccl.comm_abort(r->comm[0]);
    /* An abort frees the stream, whose thread comes to the event then. */
    for (int i = 0; i < 1000 && r->nccl.event_query(r->done) == CUDA_NOT_READY; i++) usleep(5000);
    return r->nccl.event_query(r->done) == CUDA_NOT_READY ? 97 : result;
}

static void crossing_sends_outside_a_group_hang_until_they_are_aborted(void **state)
{
    expect(cross_sends, HUNG, HUNG);
}

static int send_other_counts(struct rank *r)
{
    if (r->self == 0) {
        send_to_other(r, 0, 100);
        return await_stream(r, 0, 500);
    }
    receive_from_other(r, 0, 101);
    int result = await_stream(r, 0, 5000);
    bool said =
        strstr(r->last_error(r->comm[0]), "101 bytes") && strstr(r->last_error(r->comm[0]), "100 bytes");
    return said ? result : 97;
}

static void counts_that_do_not_match_are_reported_with_both_sides(void **state)
{
    expect(send_other_counts, 0, INVALID_USAGE);
}

static int cross_communicators(struct rank *r)
{
    /* Rank 0 sends over 0 and receives over 1, rank 1 the other way round. */
    if (r->self == 0) send_to_other(r, 0, BYTES), receive_from_other(r, 1, BYTES);
    if (r->self == 1) send_to_other(r, 1, BYTES), receive_from_other(r, 0, BYTES);
    return await_stream(r, 0, 500);
}

static void contradicting_orders_hang_serial_devices_alone(void **state)
{
    expect(cross_communicators, 0, 0);
    setenv("REFRAIN_FAKENCCL_SERIAL", "1", 1);
    expect(cross_communicators, HUNG, HUNG);
    unsetenv("REFRAIN_FAKENCCL_SERIAL");
}

static int lose_the_other(struct rank *r)
{
    if (r->self == 1) kill(getpid(), SIGKILL);
    receive_from_other(r, 0, 100);
    return await_stream(r, 0, 700);
}

static void a_death_is_silent_or_an_error_as_told(void **state)
{
    expect(lose_the_other, HUNG, -SIGKILL);
    setenv("REFRAIN_FAKENCCL_ON_DEATH", "error", 1);
    expect(lose_the_other, REMOTE_ERROR, -SIGKILL);
    unsetenv("REFRAIN_FAKENCCL_ON_DEATH");
}

static int call_too_early(struct rank *r)
{
    if (r->self == 1) return 0;
    connect(r, 0); /* a second time: the other rank is not coming */
    send_to_other(r, 0, 100);
    return 0;
}

static void a_call_on_a_communicator_that_is_being_made_ends_the_process(void **state)
{
    expect(call_too_early, -SIGABRT, 0);
}

static int abort_in_a_group(struct rank *r)
{
    r->group_start();
    r->nccl.comm_abort(r->comm[0]);
    return 0;
}

static void an_abort_inside_a_group_ends_the_process(void **state)
{
    expect(abort_in_a_group, -SIGABRT, -SIGABRT);
}

int main(int count, char **arguments)
{
    group_find_gpu(arguments);
    ids = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_and_receives_of_a_group_progress_together),
        cmocka_unit_test(crossing_sends_outside_a_group_hang_until_they_are_aborted),
        cmocka_unit_test(counts_that_do_not_match_are_reported_with_both_sides),
        cmocka_unit_test(contradicting_orders_hang_serial_devices_alone),
        cmocka_unit_test(a_death_is_silent_or_an_error_as_told),
        cmocka_unit_test(a_call_on_a_communicator_that_is_being_made_ends_the_process),
        cmocka_unit_test(an_abort_inside_a_group_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
