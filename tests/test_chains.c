/*
 * test_chains.c - branches on chains of their own: the same bits on any number of members, OPENs for those alone who
 * serve the branch, and both branches under way at the same time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/ring_kinds.h"

/* The unconditional branch has a chain of its own; of a second expert too. */
#define BY_BRANCH .chain = {{0, 1}, {0, 1}}
#define BY_EXPERT .chain = {{0, 0}, {1, 1}}
#define BY_BOTH   .chain = {{0, 1}, {2, 3}}

static void a_chain_for_each_branch_on_two_members_gives_the_bits_of_one(void **state)
{
    kinds_run((struct split){.members = 2, BY_BRANCH, .run = {8, 0, 0, 8}}, 7, 0);
    kinds_run((struct split){.members = 2, BY_BRANCH, .head = 1, .tail = 1, .run = {5, 1, 0, 6}}, 7, 0);
    kinds_run((struct split){.members = 2, BY_BRANCH, .head = 3, .run = {5, 0, 0, 5}}, 14, 0);
}

static void uneven_chains_on_three_members_give_the_bits_of_one(void **state)
{
    /* The second member ends one chain and begins the other. */
    kinds_run((struct split){.members = 3, BY_BRANCH, .run = {5, 3, 0, 0, 2, 6}}, 7, 0);
    kinds_run((struct split){.members = 3, BY_BRANCH, .head = 1, .run = {3, 4, 0, 0, 1, 6}}, 7, 0);
    kinds_run((struct split){.members = 3, BY_BRANCH, .tail = 1, .run = {7, 0, 0, 0, 4, 3}}, 7, 2);
}

static void chains_of_several_stages_give_the_bits_of_one(void **state)
{
    kinds_run((struct split){.members = 4, BY_BRANCH, .run = {4, 4, 0, 0, 0, 0, 4, 4}}, 7, 0);
    kinds_run((struct split){.members = 4, BY_BRANCH, .head = 1, .tail = 1, .run = {2, 4, 0, 0, 0, 0, 3, 3}},
              14, 2);
    kinds_run((struct split){.members = 6, BY_BRANCH, .head = 1, .run = {2, 3, 2, 0, 0, 0, 0, 0, 0, 2, 3, 2}},
              7, 0);
}

static void homes_may_float_over_chains(void **state)
{
    kinds_run(
        (struct split){.members = 2, .floating = true, BY_BRANCH, .head = 1, .tail = 1, .run = {6, 0, 0, 6}},
        7, 0);
    kinds_run((struct split){.members = 3, .floating = true, BY_BRANCH, .head = 1, .run = {5, 2, 0, 0, 2, 5}},
              4, 2);
    kinds_run((struct split){.members = 4, .floating = true, BY_BRANCH, .run = {4, 4, 0, 0, 0, 0, 4, 4}}, 4,
              0);
}

static void chains_of_a_second_expert_do_not_disturb_the_first(void **state)
{
    kinds_run((struct split){.members = 3, BY_EXPERT, .head = 1, .run = {3, 4, 0, 0, 0, 7}}, 7, 0);
    kinds_run((struct split){.members = 4, BY_BOTH, .run = {8, 0, 0, 0, 0, 8, 0, 0, 0, 0, 8, 0, 0, 0, 0, 8}},
              7, 0);
}

/* Tickets on the wire of one job alone. */
static uint64_t count_tickets(struct split split, double guidance, const char *cache, int *computed)
{
    struct ring_job job = {.order = kinds_order(0)};
    struct ring_run ring = {.model = "models/reference", .split = split, .jobs = &job, .count = 1};
    uint64_t sent = 0;
    job.order.guidance = guidance;
    job.order.cache = cache;
    ring_execute(&ring);
    if (job.outcome != STATUS_OK) fail_msg("%s", job.error.text);
    for (int i = 0; i < split.members; i++) sent += ring.tickets[i];
    *computed = job.computed;
    ring_free(&ring);
    return sent;
}

static void a_branch_is_opened_on_its_chain_alone(void **state)
{
    const struct split two = {.members = 2, BY_BRANCH, .run = {8, 0, 0, 8}},
                       four = {.members = 4, BY_BRANCH, .run = {4, 4, 0, 0, 0, 0, 4, 4}};
    int computed;
    /* OPEN and CLOSE of one branch, and its way there and back at each step. */
    assert_int_equal(count_tickets(two, 4, NULL, &computed), 1 + 1 + KIND_STEPS * 2);
    /* Without guidance the other chain learns of nothing. */
    assert_int_equal(count_tickets(two, 1, NULL, &computed), 0);
    assert_int_equal(count_tickets(four, 4, NULL, &computed), 3 + 3 + KIND_STEPS * (2 + 3));
    assert_int_equal(count_tickets(four, 1, NULL, &computed), 1 + 1 + KIND_STEPS * 2);
}

static void hits_send_nothing_on_either_chain(void **state)
{
    const struct split split = {.members = 2, BY_BRANCH, .head = 1, .run = {7, 0, 0, 7}};
    int computed;
    uint64_t sent = count_tickets(split, 4, "interval:N=3,first=1,forecast=reuse", &computed);
    assert_true(computed > 0 && computed < 2 * KIND_STEPS);
    assert_int_equal(sent, 1 + 1 + computed / 2 * 2); /* of each computed step one branch travels */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chain_for_each_branch_on_two_members_gives_the_bits_of_one),
        cmocka_unit_test(uneven_chains_on_three_members_give_the_bits_of_one),
        cmocka_unit_test(chains_of_several_stages_give_the_bits_of_one),
        cmocka_unit_test(homes_may_float_over_chains),
        cmocka_unit_test(chains_of_a_second_expert_do_not_disturb_the_first),
        cmocka_unit_test(a_branch_is_opened_on_its_chain_alone),
        cmocka_unit_test(hits_send_nothing_on_either_chain),
    };
    return cmocka_run_group_tests(tests, kinds_run_alone, kinds_free);
}
