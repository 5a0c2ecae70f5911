/*
 * fabric_group.h - a group of real processes, one fabric each, for tests that kill and stop them.
 *
 *     static void say_hello(struct member *m)
 *     {
 *         member_open(m, 4, 1 << 20);
 *         member_join(m, 1);
 *         ...
 *         CHECK(m, x == 3);
 *     }
 *
 *     struct group *g = group_start("zmq-ipc", 3, "hello", say_hello);   forks three members (mpi: mpirun
 *                                                                        starts them)
 *     group_signal(g, 1, SIGKILL);
 *     group_expect(g, 0);
 *     group_expect(g, 2);                                                both ended well, or the test fails
 *     group_end(g);                                                      nobody is left behind
 *
 * Members and test share a board: a mapped file with addresses, results and marks. With mpi the members are
 * new processes of the same program, `PROGRAM --member SCENARIO BOARD`; main() has to hand those to
 * group_serve. With nccl payloads lie in device memory, and group_end proves from the members' logs that
 * their orders of transfers do not contradict each other. The libraries are the stand-ins that main() found by
 * group_find_gpu.
 */
#ifndef REFRAIN_TESTS_FABRIC_GROUP_H
#define REFRAIN_TESTS_FABRIC_GROUP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "cluster/fabric.h"

enum { GROUP_MEMBERS = 8, GROUP_MARKS = 32 };

struct board {
    char kind[16];
    char directory[64]; /* for ipc sockets */
    atomic_int count;
    atomic_uint job; /* mpi: mpirun's number of it, which names its shared memory */
    atomic_int pids[GROUP_MEMBERS];
    atomic_int opened[GROUP_MEMBERS];
    char addresses[GROUP_MEMBERS][FABRIC_ADDRESS_BYTES];
    atomic_int results[GROUP_MEMBERS]; /* 0 at work, 1 well, 2 failed */
    char texts[GROUP_MEMBERS][1024];   /* why it failed */
    atomic_int failed_first;           /* 1 + index of the member that failed first; 0: none */
    atomic_int marks[GROUP_MARKS];     /* what scenarios agree on */
    atomic_llong moments[GROUP_MARKS]; /* clock_now_ns() at ... */
};

struct member {
    struct board *board;
    int self, count;
    bool mpi, nccl;
    int64_t transfer_ms, abort_ms; /* nccl: of the fabric's configuration, to be set before member_open */
    struct fabric *fabric;
    struct error error;
};

typedef void (*scenario)(struct member *member);

/* ---------------------------------------------------------------------------------------- the test's side */

struct group;

struct group *group_start(const char *kind, int count, const char *name, scenario run);
struct board *group_board(struct group *group);
void group_add(struct group *group, int index, scenario run); /* a replacement; zmq only */
void group_signal(struct group *group, int index, int number);
void group_await(struct group *group, int mark); /* until that mark is set */
void group_expect(struct group *group, int index);
void group_end(struct group *group);
/* A whole test: everybody does it, and it works for everybody. */
void group_all_well(const char *kind, int count, const char *name, scenario run);
void group_end_unfinished(void); /* at the program's end: of a test that failed */
/* The member ended by exit(status), and not well. */
void group_expect_exit(struct group *group, int index, int status);
/* The first thing in main(): starts the program anew where the dynamic linker finds the stand-ins of the CUDA
 * libraries, which lie beside the tests. */
void group_find_gpu(char **arguments);
/* Shall every test over nccl run (make test-cuda), or those few that tell most (make test)? */
bool group_tests_all(void);
/* Those over this kind, or only those over the kind that REFRAIN_TEST_KIND names? */
bool group_tests_kind(const char *kind);
/* How many of an array of tests over a kind failed; none where another kind is to be tested. */
#define GROUP_RUN(kind, name, tests)                                                                         \
    (group_tests_kind(kind) ? cmocka_run_group_tests_name(name, tests, NULL, NULL) : 0)

/* -------------------------------------------------------------------------------------- the members' side */

struct group_scenario {
    const char *name; /* as in group_start */
    scenario run;
};

/* In main(), behind group_find_gpu: where mpirun started the program for a member (--member NAME BOARD) this runs the
 * scenario of that name, one of [count], and does not return. */
void group_serve(int argc, char **argv, const struct group_scenario *scenarios, size_t count);

/* Opens the fabric, tells its address, and waits until all have told theirs. */
void member_open(struct member *member, int credits, uint64_t max_bytes);
/* Everybody on the board, within 10 s. */
void member_join(struct member *member, uint64_t epoch);
status_t member_try_join(struct member *member, uint64_t epoch, int64_t timeout_ms);
/* Members from[0..count) only; self is looked up among them. */
status_t member_join_some(struct member *member, uint64_t epoch, const int *from, int count,
                          int64_t timeout_ms);

/* A payload's memory: in nccl groups on the device. It lasts as long as the process. */
uint8_t *member_memory(struct member *member, uint64_t bytes);
void member_write(struct member *member, uint8_t *memory, const void *from, uint64_t bytes);
/* What lies there, here: valid until the next call. */
const uint8_t *member_read(struct member *member, const void *memory, uint64_t bytes);
/* A received payload, here, wherever it lies. */
const uint8_t *member_payload(struct member *member, const struct fabric_event *event);

/* The next event, or a failure after 10 s. */
struct fabric_event member_next(struct member *member);
void member_post(struct member *member, int peer, uint64_t sequence, const void *payload, uint64_t bytes);
status_t member_try_post(struct member *member, int peer, uint64_t sequence, const void *payload,
                         uint64_t bytes);
void member_mark(struct member *member, int mark);
void member_await(struct member *member, int mark);
void member_fail(struct member *member, const char *file, int line, const char *what)
    __attribute__((noreturn));

#define CHECK(member, condition)                                                                             \
    do {                                                                                                     \
        if (!(condition)) member_fail(member, __FILE__, __LINE__, #condition);                               \
    } while (0)

/* Sleeps. */
void group_pause_ms(int64_t ms);

#endif
