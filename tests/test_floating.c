/*
 * test_floating.c - homes on every member: whoever is home of a job, whatever the split, the same bits, and
 * nothing on the wire for what is reused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/ring_kinds.h"

static void jobs_homed_at_two_members_give_the_bits_of_one(void **state)
{
    kinds_run((struct split){.members = 2, .floating = true, .head = 1, .tail = 1, .run = {3, 3}}, 3, 0);
    kinds_run((struct split){.members = 2, .floating = true, .head = 3, .tail = 0, .run = {0, 5}}, 3, 0);
}

static void jobs_homed_at_three_members_give_the_bits_of_one(void **state)
{
    kinds_run((struct split){.members = 3, .floating = true, .head = 1, .tail = 1, .run = {2, 2, 2}}, 2, 0);
    kinds_run((struct split){.members = 3, .floating = true, .head = 0, .tail = 2, .run = {3, 0, 3}}, 2, 0);
}

static void jobs_homed_at_four_and_five_members_give_the_bits_of_one(void **state)
{
    kinds_run((struct split){.members = 4, .floating = true, .head = 1, .tail = 1, .run = {2, 1, 2, 1}}, 2,
              0);
    kinds_run((struct split){.members = 5, .floating = true, .head = 2, .tail = 1, .run = {1, 1, 1, 1, 1}}, 2,
              0);
}

static void a_fixed_home_may_hold_a_part_of_the_ring(void **state)
{
    kinds_run((struct split){.members = 2, .head = 1, .tail = 1, .run = {2, 4}}, 6, 0);
    kinds_run((struct split){.members = 3, .head = 1, .tail = 0, .run = {1, 0, 6}}, 6, 0);
}

static void a_fixed_home_may_hold_blocks_of_the_next_member_too(void **state)
{
    kinds_run((struct split){.members = 2, .head = 1, .tail = 1, .spare = 1, .run = {2, 4}}, 12, 0);
    kinds_run((struct split){.members = 3, .head = 1, .tail = 0, .spare = 1, .run = {1, 3, 3}}, 12, 2);
    kinds_run((struct split){.members = 4, .head = 1, .tail = 0, .spare = 3, .run = {0, 2, 3, 2}}, 12, 4);
}

/* Two homes whose jobs fill all credits both ways: what comes home must not wait for what goes out. */
static void more_hops_than_credits_do_not_lock_the_ring(void **state)
{
    kinds_run((struct split){.members = 2, .floating = true, .head = 1, .tail = 1, .run = {3, 3}}, 10, 2);
    kinds_run((struct split){.members = 4, .floating = true, .head = 0, .tail = 0, .run = {2, 2, 2, 2}}, 6,
              2);
}

static void a_cancelled_neighbour_changes_nothing(void **state)
{
    struct ring_job jobs[6] = {0};
    struct ring_run ring = {.model = "models/reference",
                            .split = {.members = 3, .floating = true, .head = 1, .tail = 1, .run = {2, 2, 2}},
                            .jobs = jobs,
                            .count = 6};
    for (int i = 0; i < 6; i++)
        jobs[i] = (struct ring_job){
            .order = kinds_order(i < 3 ? i : i - 3), .home = i % 3, .cancel_at = i < 3 ? 0 : i - 2};
    ring_execute(&ring);
    for (int i = 3; i < 6; i++) assert_int_equal(jobs[i].outcome, STATUS_ABORTED);
    ring.count = 3;
    kinds_expect(&ring);
    ring.count = 6;
    ring_free(&ring);
}

/* Messages on the wire of one job alone: OPEN and CLOSE, and of each computed branch of a step the way from
 * home through the ring and back. */
static void count_tickets(const char *cache, int home, int hops)
{
    struct ring_job job = {.order = kinds_order(0), .home = home};
    struct ring_run ring = {
        .model = "models/reference",
        .split = {.members = 4, .floating = true, .head = 1, .tail = 1, .run = {2, 1, 2, 1}},
        .jobs = &job,
        .count = 1};
    uint64_t sent = 0;
    job.order.cache = cache;
    ring_execute(&ring);
    if (job.outcome != STATUS_OK) fail_msg("%s", job.error.text);
    for (int i = 0; i < 4; i++) sent += ring.tickets[i];
    int computed = cache ? job.computed : 2 * KIND_STEPS;
    if (cache) assert_true(job.computed > 0 && job.computed < 2 * KIND_STEPS);
    assert_int_equal(sent, 2 * 3 + 3 + computed * hops);
    ring_free(&ring);
}

static void hits_send_nothing_and_a_computed_branch_goes_once_around(void **state)
{
    static const char cached[] = "interval:N=3,first=1,forecast=reuse";
    count_tickets(NULL, 0, 4); /* home has the first run: 1, 2, 3, home */
    count_tickets(NULL, 1, 5); /* 0, 1, 2, 3, home */
    count_tickets(NULL, 3, 4); /* 0, 1, 2, 3, and home is there */
    count_tickets(cached, 0, 4);
    count_tickets(cached, 1, 5);
    count_tickets(cached, 3, 4);
    count_tickets("dbcache:F=1,B=1,W=1,threshold=0.5", 2, 5); /* 0, 1, 2, 3, home */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_homed_at_two_members_give_the_bits_of_one),
        cmocka_unit_test(jobs_homed_at_three_members_give_the_bits_of_one),
        cmocka_unit_test(jobs_homed_at_four_and_five_members_give_the_bits_of_one),
        cmocka_unit_test(a_fixed_home_may_hold_a_part_of_the_ring),
        cmocka_unit_test(a_fixed_home_may_hold_blocks_of_the_next_member_too),
        cmocka_unit_test(more_hops_than_credits_do_not_lock_the_ring),
        cmocka_unit_test(a_cancelled_neighbour_changes_nothing),
        cmocka_unit_test(hits_send_nothing_and_a_computed_branch_goes_once_around),
    };
    return cmocka_run_group_tests(tests, kinds_run_alone, kinds_free);
}
