/*
 * test_fabric_nccl.c - what the fabric promises about device memory and NCCL alone; what it shares with the others is
 * in test_fabric.c, which runs over nccl too.
 *
 * Real processes, stand-ins for libcudart and libnccl (tests/fakegpu). A scenario tells the stand-ins by the
 * environment what is to go wrong before it opens its fabric. Every group's orders of NCCL calls are proven
 * free of circles when it ends (tests/nccl_orders.h).
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cluster/fabric_lane.h"
#include "tests/fabric_group.h"
#include "tests/fabric_steps.h"
#include "tests/gpu_memory.h"
#include "tests/rerun.h"

#define MEGABYTE ((uint64_t)1 << 20)

static void say(const char *name, const char *value)
{
    setenv(name, value, 1);
}

/* ----------------------------------------------------------------------------------------- memory and order */

/* Payloads in host and in device memory, and none, to the same member. */
static void mix_memories(struct member *m)
{
    enum { COUNT = 60, BYTES = 300000 };
    static uint8_t here[BYTES];
    uint8_t *there = member_memory(m, BYTES);
    member_open(m, 6, BYTES);
    member_join(m, 1);
    if (m->self == 0) {
        member_fill(m, there, BYTES, 5);
        memcpy(here, member_read(m, there, BYTES), BYTES);
        for (uint64_t i = 0, sent = 0; sent < COUNT;) {
            uint64_t bytes = i % 5 == 4 ? 0 : i * 4001 % BYTES + 1;
            if (i < COUNT && fabric_can_post(m->fabric, 1)) {
                member_post(m, 1, i, i % 2 ? there : here, bytes);
                i++;
                continue;
            }
            CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
            struct fabric_event event;
            while (fabric_next(m->fabric, &event) == STATUS_OK) sent += event.kind == FABRIC_SENT;
        }
    } else {
        for (uint64_t i = 0; i < COUNT; i++) {
            struct fabric_event event = member_next_received(m);
            bool device = event.ticket.flags & TICKET_ON_DEVICE;
            CHECK(m, event.ticket.sequence == i);
            CHECK(m, device == (i % 2 == 1 && i % 5 != 4));
            CHECK(m, member_is_filled(m, &event, 0, 5));
            fabric_release(m->fabric, &event);
        }
    }
    member_part_together(m);
}

static void sleep_long(void *unused)
{
    (void)unused;
    group_pause_ms(80);
}

static void mark_read(void *member)
{
    member_mark(member, 2);
}

/* The payload is still being computed when it is posted, and still being read when it is released. */
static void post_and_release_early(struct member *m)
{
    enum { BYTES = 1 << 20 };
    static uint8_t here[BYTES], copy[BYTES];
    uint8_t *there = member_memory(m, BYTES);
    member_open(m, 1, BYTES);
    member_join(m, 1);
    if (m->self == 0) {
        for (uint64_t i = 1; i <= 2; i++) {
            memset(here, (int)i, BYTES);
            gpu_memory_later(sleep_long, NULL);
            gpu_memory_put_later(there, here, BYTES);
            while (!fabric_can_post(m->fabric, 1))
                CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
            if (i == 2) CHECK(m, atomic_load(&m->board->marks[2])); /* the credit came when it was read */
            member_post(m, 1, i, there, BYTES);
            CHECK(m, member_next(m).kind == FABRIC_SENT);
        }
    } else {
        struct fabric_event event = member_next_received(m);
        gpu_memory_later(sleep_long, NULL);
        gpu_memory_get_later(copy, event.payload, BYTES);
        gpu_memory_later(mark_read, m);
        fabric_release(m->fabric, &event);
        gpu_memory_wait();
        event = member_next_received(m);
        for (int i = 0; i < BYTES; i++) CHECK(m, copy[i] == 1);
        const uint8_t *second = member_payload(m, &event);
        for (int i = 0; i < BYTES; i++) CHECK(m, second[i] == 2);
        fabric_release(m->fabric, &event);
    }
    member_part_together(m);
}

struct flood {
    uint64_t posted[GROUP_MEMBERS], sent[GROUP_MEMBERS], received[GROUP_MEMBERS];
};

/* Everybody to everybody, as much as credits allow, sizes from one byte to several buffers of NCCL. */
static void flood(struct member *m, uint64_t messages)
{
    static const uint64_t sizes[] = {1, 3 * MEGABYTE, 70000, 1500000, 256, 2 * MEGABYTE + 1};
    struct flood f = {0};
    uint8_t *mine = member_memory(m, 3 * MEGABYTE);
    member_fill(m, mine, 3 * MEGABYTE, 77);
    for (uint64_t left = 2 * messages * (uint64_t)(m->count - 1); left > 0;) {
        struct fabric_event event;
        while (fabric_next(m->fabric, &event) == STATUS_OK) {
            CHECK(m, event.kind == FABRIC_SENT || event.kind == FABRIC_RECEIVED);
            left--;
            if (event.kind == FABRIC_SENT) continue;
            CHECK(m, event.ticket.sequence == f.received[event.peer]++);
            CHECK(m, member_is_filled(m, &event, event.peer, 77));
            fabric_release(m->fabric, &event);
        }
        for (int peer = 0; peer < m->count; peer++) {
            if (peer == m->self) continue;
            while (f.posted[peer] < messages && fabric_can_post(m->fabric, peer)) {
                uint64_t i = f.posted[peer]++;
                member_post(m, peer, i, mine, sizes[(i + (uint64_t)m->self) % 6]);
            }
        }
        if (left > 0)
            CHECK(m, fabric_wait(m->fabric, clock_now_ns() + 10 * SECOND_NS, &m->error) == STATUS_OK);
    }
}

/* A device that runs transfers one after the other in the order of the calls: any contradiction of orders is a
 * deadlock there. */
static void flood_serial_devices(struct member *m)
{
    say("REFRAIN_FAKENCCL_SERIAL", "1");
    member_open(m, 4, 3 * MEGABYTE);
    member_join(m, 1);
    flood(m, 12);
    member_part_together(m);
}

static void flood_slow_calls(struct member *m)
{
    say("REFRAIN_FAKENCCL_LATE_US", "1500");
    say("REFRAIN_FAKENCCL_LINK", "200,2000");
    member_open(m, 4, 3 * MEGABYTE);
    member_join(m, 1);
    flood(m, 4);
    member_part_together(m);
}

/* With device memory for the largest payload and little more: what was for smaller ones is given back. */
static void grow(struct member *m)
{
    say("REFRAIN_FAKEGPU_MEMORY_MB", "56");
    member_open(m, 2, 32 * MEGABYTE);
    member_join(m, 1);
    for (uint64_t size = 4; size <= 24; size += 4) {
        if (m->self == 0) {
            uint8_t *mine = gpu_memory_new(size * MEGABYTE);
            struct ticket ticket = {
                .kind = TICKET_HOP, .dtype = TICKET_F32, .flags = TICKET_ON_DEVICE, .bytes = size * MEGABYTE};
            CHECK(m, fabric_post(m->fabric, 1, &ticket, mine, 0, &m->error) == STATUS_OK);
            CHECK(m, member_next(m).kind == FABRIC_SENT);
            gpu_memory_free(mine);
        } else {
            struct fabric_event event = member_next_received(m);
            CHECK(m, event.ticket.bytes == size * MEGABYTE);
            fabric_release(m->fabric, &event);
        }
    }
    member_part_together(m);
}

/* Closing gives back whatever the device was asked for; the stand-in tells at exit what was not. */
static void give_everything_back(struct member *m)
{
    say("REFRAIN_FAKEGPU_LINT", "leaks,default-stream");
    uint8_t *mine = gpu_memory_new(MEGABYTE);
    member_open(m, 2, MEGABYTE);
    for (uint64_t epoch = 1; epoch <= 2; epoch++) {
        member_join(m, epoch);
        struct ticket ticket = {
            .kind = TICKET_HOP, .dtype = TICKET_F32, .flags = TICKET_ON_DEVICE, .bytes = MEGABYTE};
        CHECK(m, fabric_post(m->fabric, 1 - m->self, &ticket, mine, 0, &m->error) == STATUS_OK);
        CHECK(m, fabric_post(m->fabric, 1 - m->self, &ticket, mine, 0, &m->error) == STATUS_OK);
        struct fabric_event event = member_next_received(m);
        fabric_release(m->fabric, &event);
        member_mark(m, 2 * (int)epoch + m->self);
        member_await(m, 2 * (int)epoch + 1 - m->self);
        fabric_leave(m->fabric);
    }
    fabric_close(m->fabric);
    gpu_memory_free(mine);
    gpu_memory_close();
    atomic_store(&m->board->results[m->self], 1);
    exit(0);
}

/* ------------------------------------------------------------------------------------------------ the tests */

static void payloads_in_host_and_device_memory_keep_one_order(void **state)
{
    group_all_well("nccl", 2, "", mix_memories);
}

static void a_payload_is_read_when_it_is_made_and_overwritten_when_it_is_read(void **state)
{
    group_all_well("nccl", 2, "", post_and_release_early);
}

static void devices_that_run_transfers_one_by_one_do_not_wait_in_circles(void **state)
{
    group_all_well("nccl", 3, "", flood_serial_devices);
}

static void four_serial_devices_do_not_either(void **state)
{
    group_all_well("nccl", 4, "", flood_serial_devices);
}

static void nothing_is_issued_while_a_call_is_under_way(void **state)
{
    group_all_well("nccl", 3, "", flood_slow_calls);
}

static void memory_for_smaller_payloads_makes_room_for_larger_ones(void **state)
{
    group_all_well("nccl", 2, "", grow);
}

static void closing_gives_back_all_that_the_device_gave(void **state)
{
    struct group *group = group_start("nccl", 2, "", give_everything_back);
    group_expect_exit(group, 0, 0);
    group_expect_exit(group, 1, 0);
    group_end(group);
}

/* What is wrong with this machine, in one sentence; each in a process of its own, as libraries stay. */
static void machines_that_cannot_are_refused_with_a_sentence(void **state)
{
    static const struct {
        const char *name, *value;
        int device;
        const char *words;
    } cases[] = {
        {"REFRAIN_FAKENCCL_VERSION", "21602", 0, "NCCL 2.16 is installed, 2.19 or newer is needed"},
        {"REFRAIN_FAKEGPU_DEVICES", "0", 0, "no GPU can be used"},
        {"REFRAIN_FAKEGPU_DEVICES", "2", 2, "GPU 2 was asked for, this process sees 2"},
        {"REFRAIN_NCCL_ORDERS", "/no/such/directory", 0, "/no/such/directory"},
        {"REFRAIN_FAKEGPU_FAIL", "cudaSetDevice:1", 0, "GPU 0 cannot be used"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct fabric *fabric;
            struct error error = {0};
            struct fabric_config config = {.kind = "nccl",
                                           .bind = "tcp://127.0.0.1:*",
                                           .credits = 1,
                                           .max_bytes = 1,
                                           .device = cases[i].device};
            setenv(cases[i].name, cases[i].value, 1);
            bool refused = fabric_open(&config, &fabric, &error) != STATUS_OK;
            bool said = refused && strstr(error.text, cases[i].words);
            if (!said) fprintf(stderr, "case %zu: %s\n", i, error.text);
            _exit(said ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}

/* In a process of its own: what opening says. */
static int open_alone(void)
{
    struct fabric *fabric;
    struct error error = {0};
    struct fabric_config config = {.kind = "nccl", .bind = "tcp://127.0.0.1:*", .credits = 1, .max_bytes = 1};
    status_t status = fabric_open(&config, &fabric, &error);
    printf("%s: %s\n", status_name(status), error.text);
    return 0;
}

/* Libraries that are not there, or not what they should be: found before the machine's own. */
static void libraries_that_do_not_fit_are_told_by_name(void **state)
{
    static const struct {
        const char *make, *says;
    } cases[] = {
        {"echo nonsense > libnccl.so.2", "unsupported: fabric nccl: NCCL cannot be loaded: "},
        {"echo nonsense > libnccl.so.2", "; install it, or use zmq"},
        {"echo 'int ncclGetVersion;' | cc -shared -fPIC -x c - -o libnccl.so.2",
         "fabric nccl: the installed library has no ncclGetUniqueId: it is too old"},
        {"echo nonsense > libcudart.so.13 && echo nonsense > libcudart.so.12",
         "fabric nccl: no CUDA runtime is installed (libcudart.so.13 or .12); install it, or use zmq"},
    };
    char directory[] = "/tmp/refrain-nccl-XXXXXX", command[512], path[2048], text[RERUN_TEXT];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "LD_LIBRARY_PATH=%s:%s", directory, getenv("LD_LIBRARY_PATH"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(command, sizeof command, "cd %s && rm -f * && %s", directory, cases[i].make);
        assert_int_equal(system(command), 0);
        RERUN(text, "--open", "alone", path);
        SAYS(text, cases[i].says);
    }
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

int main(int count, char **arguments)
{
    rerun_program = arguments[0];
    if (count == 3) return open_alone();
    group_find_gpu(arguments);
    setenv("REFRAIN_LOG", "error", 0); /* losses are what is tested */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(payloads_in_host_and_device_memory_keep_one_order),
        cmocka_unit_test(a_payload_is_read_when_it_is_made_and_overwritten_when_it_is_read),
        cmocka_unit_test(devices_that_run_transfers_one_by_one_do_not_wait_in_circles),
        cmocka_unit_test(four_serial_devices_do_not_either),
        cmocka_unit_test(nothing_is_issued_while_a_call_is_under_way),
        cmocka_unit_test(memory_for_smaller_payloads_makes_room_for_larger_ones),
        cmocka_unit_test(closing_gives_back_all_that_the_device_gave),
        cmocka_unit_test(machines_that_cannot_are_refused_with_a_sentence),
        cmocka_unit_test(libraries_that_do_not_fit_are_told_by_name),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    group_end_unfinished();
    return failed;
}
