/* fabric_group.c - see fabric_group.h. The test's side runs in the cmocka process, which never opens a fabric
 * while members are forked, so that it has one thread when it forks. */
#include "tests/fabric_group.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <mpi.h>

#include "base/clock.h"
#include "tests/gpu_memory.h"
#include "tests/nccl_orders.h"

enum { PATIENCE_S = 30 };

struct group {
    struct board *board;
    char directory[64], path[96];
    pid_t launcher; /* mpirun, or 0 */
};

void group_pause_ms(int64_t ms)
{
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * MILLISECOND_NS};
    nanosleep(&pause, NULL);
}

/* ---------------------------------------------------------------------------------------- the test's side */

static struct board *map_board(const char *path, int flags)
{
    int fd = open(path, flags, 0600);
    if (fd < 0 || ((flags & O_CREAT) && ftruncate(fd, sizeof(struct board)) != 0)) return NULL;
    struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return board == MAP_FAILED ? NULL : board;
}

static void run_member(struct board *board, int index, scenario run) __attribute__((noreturn));

static void run_member(struct board *board, int index, scenario run)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct member member = {.board = board, .self = index, .count = board->count};
    member.mpi = strcmp(board->kind, "mpi") == 0;
    member.nccl = strcmp(board->kind, "nccl") == 0;
    if (member.nccl) {
        setenv("REFRAIN_NCCL_ORDERS", board->directory, 1);
        setenv("REFRAIN_FAKENCCL_NAME", strrchr(board->directory, '-') + 1, 1);
    }
    atomic_store(&board->pids[index], (int)getpid());
    run(&member);
    atomic_store(&board->results[index], 1);
    /* Never through exit: after a loss MPI_Finalize would wait for the lost. */
    _exit(0);
}

void group_add(struct group *group, int index, scenario run)
{
    atomic_store(&group->board->opened[index], 0);
    atomic_store(&group->board->results[index], 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) run_member(group->board, index, run);
    atomic_store(&group->board->pids[index], (int)pid);
}

static void start_mpirun(struct group *group, int count, const char *name)
{
    char ranks[16];
    snprintf(ranks, sizeof ranks, "%d", count);
    group->launcher = fork();
    assert_true(group->launcher >= 0);
    if (group->launcher) return;
    /* It reports what it thinks of members that end without MPI_Finalize. */
    if (!freopen("/dev/null", "w", stderr)) _exit(126);
    char self[256];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = '\0';
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    /* Recovery: a killed rank does not make mpirun kill the others, so that they can be watched noticing it.
     */
    execlp("mpirun", "mpirun", "--enable-recovery", "--oversubscribe", "--bind-to", "none", "-np", ranks,
           self, "--member", name, group->path, (char *)NULL);
    perror("mpirun");
    _exit(127);
}

static struct group *unfinished; /* a test that fails jumps over its group_end */

static void end_group(struct group *group);

void group_end_unfinished(void)
{
    if (unfinished) end_group(unfinished);
}

struct group *group_start(const char *kind, int count, const char *name, scenario run)
{
    group_end_unfinished();
    struct group *group = calloc(1, sizeof *group);
    assert_non_null(group);
    unfinished = group;
    snprintf(group->directory, sizeof group->directory, "/tmp/refrain-test-XXXXXX");
    assert_non_null(mkdtemp(group->directory));
    snprintf(group->path, sizeof group->path, "%s/board", group->directory);
    group->board = map_board(group->path, O_RDWR | O_CREAT);
    assert_non_null(group->board);
    struct board *board = group->board;
    snprintf(board->kind, sizeof board->kind, "%s", kind);
    snprintf(board->directory, sizeof board->directory, "%s", group->directory);
    atomic_store(&board->count, count);
    if (strcmp(kind, "mpi") == 0)
        start_mpirun(group, count, name);
    else
        for (int i = 0; i < count; i++) group_add(group, i, run);
    return group;
}

struct board *group_board(struct group *group)
{
    return group->board;
}

void group_signal(struct group *group, int index, int number)
{
    pid_t pid = atomic_load(&group->board->pids[index]);
    assert_true(pid > 0);
    assert_int_equal(kill(pid, number), 0);
}

static void fail_if_any_failed(const struct group *group)
{
    int first = atomic_load(&group->board->failed_first) - 1;
    if (first >= 0) fail_msg("member %d: %s", first, group->board->texts[first]);
}

void group_await(struct group *group, int mark)
{
    int64_t limit = clock_now_ns() + PATIENCE_S * SECOND_NS;
    while (!atomic_load(&group->board->marks[mark])) {
        fail_if_any_failed(group);
        if (clock_now_ns() > limit) fail_msg("mark %d was not reached in %d s", mark, PATIENCE_S);
        group_pause_ms(1);
    }
}

void group_expect(struct group *group, int index)
{
    int64_t limit = clock_now_ns() + PATIENCE_S * SECOND_NS;
    while (atomic_load(&group->board->results[index]) == 0) {
        fail_if_any_failed(group);
        if (clock_now_ns() > limit) fail_msg("member %d did not end in %d s", index, PATIENCE_S);
        group_pause_ms(1);
    }
    fail_if_any_failed(group);
}

static void unlink_all(const char *pattern)
{
    glob_t found;
    if (glob(pattern, 0, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc; i++) unlink(found.gl_pathv[i]);
    globfree(&found);
}

/* Shared memory that killed ranks leave behind: Open MPI's, by the job's number, and the stand-in NCCL's. */
static void sweep_segments(const struct group *group)
{
    char pattern[128];
    unsigned job = atomic_load(&group->board->job);
    snprintf(pattern, sizeof pattern, "/dev/shm/vader_segment.*.%x.*", job);
    if (job) unlink_all(pattern);
    snprintf(pattern, sizeof pattern, "/dev/shm/fakenccl-%s-*", strrchr(group->directory, '-') + 1);
    unlink_all(pattern);
}

/* Only of tests that went well: a failed one has its own reason. */
static void check_orders(const struct group *group)
{
    char why[512];
    bool checked = strcmp(group->board->kind, "nccl") == 0 && atomic_load(&group->board->count) > 1;
    if (checked && !nccl_orders_check(group->directory, why, sizeof why)) fail_msg("%s", why);
}

static void end_group(struct group *group)
{
    for (int i = 0; i < GROUP_MEMBERS; i++) {
        pid_t pid = atomic_load(&group->board->pids[i]);
        if (pid <= 0) continue;
        /* Those that ended well are let end by themselves: a sanitizer may still have something to say. */
        if (atomic_load(&group->board->results[i]) != 1) kill(pid, SIGKILL);
        if (!group->launcher) waitpid(pid, NULL, 0);
    }
    if (group->launcher) {
        int64_t limit = clock_now_ns() + 2 * SECOND_NS;
        while (waitpid(group->launcher, NULL, WNOHANG) == 0 && clock_now_ns() < limit) group_pause_ms(5);
        if (clock_now_ns() >= limit && kill(group->launcher, SIGKILL) == 0) waitpid(group->launcher, NULL, 0);
    }
    sweep_segments(group);
    char command[160];
    snprintf(command, sizeof command, "rm -rf %s", group->directory);
    if (system(command) != 0) print_message("%s was left behind\n", group->directory);
    munmap(group->board, sizeof *group->board);
    free(group);
    unfinished = NULL;
}

void group_end(struct group *group)
{
    check_orders(group);
    end_group(group);
}

void group_all_well(const char *kind, int count, const char *name, scenario run)
{
    struct group *group = group_start(kind, count, name, run);
    for (int i = 0; i < count; i++) group_expect(group, i);
    group_end(group);
}

void group_expect_exit(struct group *group, int index, int status)
{
    int ended = 0;
    int64_t limit = clock_now_ns() + PATIENCE_S * SECOND_NS;
    pid_t pid = atomic_load(&group->board->pids[index]);
    while (waitpid(pid, &ended, WNOHANG) == 0) {
        fail_if_any_failed(group);
        if (clock_now_ns() > limit) fail_msg("member %d did not end in %d s", index, PATIENCE_S);
        group_pause_ms(1);
    }
    fail_if_any_failed(group);
    assert_true(WIFEXITED(ended));
    assert_int_equal(WEXITSTATUS(ended), status);
    atomic_store(&group->board->pids[index], 0);
}

bool group_tests_all(void)
{
    const char *which = getenv("REFRAIN_TEST_CUDA");
    return which && strcmp(which, "all") == 0;
}

bool group_tests_kind(const char *kind)
{
    const char *only = getenv("REFRAIN_TEST_KIND");
    return !only || strstr(kind, only);
}

void group_find_gpu(char **arguments)
{
    char self[512], path[1100];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    const char *present = getenv("LD_LIBRARY_PATH");
    if (length <= 0 || getenv("REFRAIN_TEST_GPU_FOUND")) return;
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(path, sizeof path, "%s/../fakegpu%s%s", self, present ? ":" : "", present ? present : "");
    setenv("LD_LIBRARY_PATH", path, 1);
    setenv("REFRAIN_TEST_GPU_FOUND", "1", 1);
    setenv("REFRAIN_FAKENCCL_OUTSTANDING", "2", 1); /* docs/fabric.md: of one direction at once */
    execv("/proc/self/exe", arguments);
    perror("execv");
    _exit(126);
}

/* -------------------------------------------------------------------------------------- the members' side */

static void run_mpi_member(const char *path, int rank, scenario run)
{
    struct board *board = map_board(path, O_RDWR);
    if (!board) _exit(3);
    const char *job = getenv("PMIX_NAMESPACE");
    if (job) atomic_store(&board->job, (unsigned)strtoul(job, NULL, 10));
    run_member(board, rank, run);
}

void group_serve(int argc, char **argv, const struct group_scenario *scenarios, size_t count)
{
    int threads, rank;
    if (argc != 4 || strcmp(argv[1], "--member") != 0) return;
    alarm(60);
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &threads);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (size_t i = 0; i < count; i++)
        if (strcmp(scenarios[i].name, argv[2]) == 0) run_mpi_member(argv[3], rank, scenarios[i].run);
    _exit(2);
}

void member_fail(struct member *member, const char *file, int line, const char *what)
{
    snprintf(member->board->texts[member->self], sizeof member->board->texts[0], "%s:%d: %s (last error: %s)",
             file, line, what, member->error.text);
    int none = 0; /* what fails first is the cause; the others then miss this member */
    atomic_compare_exchange_strong(&member->board->failed_first, &none, member->self + 1);
    atomic_store(&member->board->results[member->self], 2);
    _exit(1);
}

void member_mark(struct member *member, int mark)
{
    atomic_store(&member->board->moments[mark], clock_now_ns());
    atomic_store(&member->board->marks[mark], 1);
}

void member_await(struct member *member, int mark)
{
    int64_t limit = clock_now_ns() + PATIENCE_S * SECOND_NS;
    while (!atomic_load(&member->board->marks[mark])) {
        CHECK(member, clock_now_ns() < limit);
        group_pause_ms(1);
    }
}

void member_open(struct member *member, int credits, uint64_t max_bytes)
{
    struct board *board = member->board;
    char ipc[128];
    snprintf(ipc, sizeof ipc, "ipc://%s", board->directory);
    struct fabric_config config = {
        .kind = member->mpi    ? "mpi"
                : member->nccl ? "nccl"
                               : "zmq",
        .bind = strcmp(board->kind, "zmq-tcp") == 0 ? "tcp://127.0.0.1:*" : ipc,
        .credits = credits,
        .max_bytes = max_bytes,
        .stream = member->nccl ? gpu_memory_stream() : NULL,
        .transfer_ms = member->transfer_ms,
        .abort_ms = member->abort_ms,
    };
    CHECK(member, fabric_open(&config, &member->fabric, &member->error) == STATUS_OK);
    snprintf(board->addresses[member->self], FABRIC_ADDRESS_BYTES, "%s", fabric_address(member->fabric));
    atomic_store(&board->opened[member->self], 1);
    int64_t limit = clock_now_ns() + PATIENCE_S * SECOND_NS;
    for (int i = 0; i < member->count; i++) {
        while (!atomic_load(&board->opened[i])) {
            CHECK(member, clock_now_ns() < limit);
            group_pause_ms(1);
        }
    }
}

status_t member_join_some(struct member *member, uint64_t epoch, const int *from, int count,
                          int64_t timeout_ms)
{
    const char *addresses[GROUP_MEMBERS];
    struct fabric_membership membership = {
        .epoch = epoch, .self = -1, .count = count, .addresses = addresses};
    for (int i = 0; i < count; i++) {
        addresses[i] = member->board->addresses[from[i]];
        if (from[i] == member->self) membership.self = i;
    }
    memset(membership.token, (int)(epoch + 17), sizeof membership.token);
    return fabric_join(member->fabric, &membership, clock_now_ns() + timeout_ms * MILLISECOND_NS,
                       &member->error);
}

status_t member_try_join(struct member *member, uint64_t epoch, int64_t timeout_ms)
{
    static const int everybody[GROUP_MEMBERS] = {0, 1, 2, 3, 4, 5, 6, 7};
    return member_join_some(member, epoch, everybody, member->count, timeout_ms);
}

void member_join(struct member *member, uint64_t epoch)
{
    CHECK(member, member_try_join(member, epoch, 10000) == STATUS_OK);
}

struct fabric_event member_next(struct member *member)
{
    struct fabric_event event;
    int64_t limit = clock_now_ns() + 10 * SECOND_NS;
    while (fabric_next(member->fabric, &event) == STATUS_AGAIN)
        CHECK(member, fabric_wait(member->fabric, limit, &member->error) == STATUS_OK);
    return event;
}

/* Where member_memory gave memory on the device. */
static struct {
    const uint8_t *begin, *end;
} on_device[64];
static int on_device_count;

uint8_t *member_memory(struct member *member, uint64_t bytes)
{
    uint8_t *memory = member->nccl ? gpu_memory_new(bytes) : malloc(bytes ? bytes : 1);
    CHECK(member, memory && on_device_count < (int)(sizeof on_device / sizeof *on_device));
    if (member->nccl) {
        on_device[on_device_count].begin = memory;
        on_device[on_device_count++].end = memory + bytes;
    }
    return memory;
}

static bool is_on_device(const void *memory)
{
    for (int i = 0; i < on_device_count; i++)
        if ((const uint8_t *)memory >= on_device[i].begin && (const uint8_t *)memory < on_device[i].end)
            return true;
    return false;
}

void member_write(struct member *member, uint8_t *memory, const void *from, uint64_t bytes)
{
    if (member->nccl && bytes)
        gpu_memory_put(memory, from, bytes);
    else if (bytes)
        memcpy(memory, from, bytes);
}

const uint8_t *member_read(struct member *member, const void *memory, uint64_t bytes)
{
    static uint8_t *here;
    static uint64_t room;
    if (room < bytes) {
        free(here);
        here = malloc(bytes);
        room = bytes;
    }
    gpu_memory_get(here, memory, bytes);
    return here;
}

const uint8_t *member_payload(struct member *member, const struct fabric_event *event)
{
    bool device = event->ticket.flags & TICKET_ON_DEVICE;
    return device ? member_read(member, event->payload, event->ticket.bytes) : event->payload;
}

status_t member_try_post(struct member *member, int peer, uint64_t sequence, const void *payload,
                         uint64_t bytes)
{
    struct ticket ticket = {.kind = TICKET_HOP, .dtype = TICKET_F32, .sequence = sequence, .bytes = bytes};
    if (member->nccl && bytes && is_on_device(payload)) ticket.flags |= TICKET_ON_DEVICE;
    return fabric_post(member->fabric, peer, &ticket, payload, sequence, &member->error);
}

void member_post(struct member *member, int peer, uint64_t sequence, const void *payload, uint64_t bytes)
{
    CHECK(member, member_try_post(member, peer, sequence, payload, bytes) == STATUS_OK);
}
