/*
 * test_wiring.c - what a group's measured links say of the way to the coordinator (coordinator/ranks/wiring.h).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include "coordinator/ranks/wiring.h"

enum { RANKS = 4 };

static struct member members[RANKS];
static struct group group = {.ranks = RANKS, .members = members, .fabric = "zmq"};

/* Two ranks on `a`, one on `b` and one on `c`; no link is known. */
static int put_ranks(void **state)
{
    static const char *const hosts[RANKS] = {"a", "a", "b", "c"};
    uint32_t seat[RANKS];
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        members[rank].seat = seat[rank] = rank;
        snprintf(members[rank].host, sizeof members[rank].host, "%s", hosts[rank]);
    }
    snprintf(group.fabric, sizeof group.fabric, "zmq");
    return links_begin(&group.links, RANKS, seat, RANKS, 1, 0, NULL);
}

static int take_away(void **state)
{
    links_close(&group.links);
    return 0;
}

static void know(uint32_t a, uint32_t b, float bytes_per_second)
{
    uint32_t low = a < b ? a : b, high = a < b ? b : a;
    group.links.link[high * (high - 1) / 2 + low] = (struct link){bytes_per_second, 0.001f};
}

static void expect_way(uint32_t rank, const char *host, float bytes_per_second)
{
    struct link way = {0};
    assert_true(wiring_way(&group, rank, host, &way) == (bytes_per_second > 0));
    assert_true(way.bytes_per_second == bytes_per_second);
}

static void a_link_to_a_rank_of_that_host_is_the_way(void **state)
{
    know(0, 1, 9e9f);
    know(0, 2, 1e9f);
    know(0, 3, 2e9f);
    expect_way(0, "b", 1e9f);
    expect_way(0, "c", 2e9f);
    expect_way(0, "a", 9e9f); /* both are there */
    expect_way(2, "a", 1e9f);
}

static void elsewhere_the_slowest_link_between_hosts_stands_for_it(void **state)
{
    know(0, 1, 1e3f);
    know(0, 2, 3e9f);
    know(0, 3, 2e9f);
    expect_way(0, "head", 2e9f);
    expect_way(3, "head", 2e9f);
}

static void what_was_not_measured_or_is_no_socket_says_nothing(void **state)
{
    expect_way(0, "head", 0);
    know(0, 1, 9e9f);
    expect_way(0, "head", 0); /* inside a host */
    know(0, 2, 3e9f);
    expect_way(2, "b", 0); /* to itself */
    expect_way(RANKS, "head", 0);
    snprintf(group.fabric, sizeof group.fabric, "nccl");
    expect_way(0, "head", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_link_to_a_rank_of_that_host_is_the_way, put_ranks, take_away),
        cmocka_unit_test_setup_teardown(elsewhere_the_slowest_link_between_hosts_stands_for_it, put_ranks,
                                        take_away),
        cmocka_unit_test_setup_teardown(what_was_not_measured_or_is_no_socket_says_nothing, put_ranks,
                                        take_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
