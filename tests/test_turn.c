/* test_turn.c - the rules by which home chooses between its jobs (rules/turn.h), without any job. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "rules/turn.h"

enum { LOW, NORMAL, HIGH };

/* A small generator of our own: the same rounds everywhere. */
static uint32_t draw(uint64_t *state, uint32_t below)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33) % below;
}

static void when_all_wait_nobody_is_chosen(void **state)
{
    struct turn turn = {0};
    int tenant = turn_join(&turn, "a");
    const struct candidate candidates[] = {{PIECE_NONE, HIGH, 0, 1, tenant}, {PIECE_NONE, LOW, 9, 2, tenant}};
    assert_int_equal(turn_choose(&turn, candidates, 0), -1);
    assert_int_equal(turn_choose(&turn, candidates, 2), -1);
}

static void what_goes_to_the_stages_goes_first_whatever_its_priority(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a"), b = turn_join(&turn, "b");
    const struct candidate candidates[] = {
        {PIECE_LIGHT, HIGH, 5, 1, a}, {PIECE_SEND, LOW, 0, 2, b}, {PIECE_SEND, NORMAL, 0, 3, b}};
    turn_charge(&turn, &candidates[2], 1000);
    assert_int_equal(turn_choose(&turn, candidates, 3), 2);
    assert_int_equal(turn_choose(&turn, candidates, 2), 1);
}

static void what_another_member_could_do_as_well_goes_last_whatever_its_priority(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a"), b = turn_join(&turn, "b");
    const struct candidate candidates[] = {
        {PIECE_SPARE, LOW, 0, 1, a}, {PIECE_SPARE, HIGH, 5, 2, b}, {PIECE_BLOCKS, LOW, 0, 3, b}};
    turn_charge(&turn, &candidates[2], 1000);
    assert_int_equal(turn_choose(&turn, candidates, 3), 2);
    assert_int_equal(turn_choose(&turn, candidates, 2), 1);
    assert_int_equal(turn_choose(&turn, candidates, 1), 0);
}

static void a_lower_priority_moves_only_while_none_above_it_can(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a"), b = turn_join(&turn, "b");
    struct candidate candidates[] = {
        {PIECE_LIGHT, LOW, 1, 1, a}, {PIECE_TEXT, NORMAL, 0, 2, b}, {PIECE_BLOCKS, HIGH, 0, 3, b}};
    for (int i = 0; i < 1000; i++) {
        int chosen = turn_choose(&turn, candidates, 3);
        assert_int_equal(chosen, 2);
        turn_charge(&turn, &candidates[chosen], 1000);
    }
    candidates[2].piece = PIECE_NONE;
    assert_int_equal(turn_choose(&turn, candidates, 3), 1);
    candidates[1].piece = PIECE_NONE;
    assert_int_equal(turn_choose(&turn, candidates, 3), 0);
}

static void the_earlier_deadline_goes_first_and_any_before_none(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a"), b = turn_join(&turn, "b");
    struct candidate candidates[] = {
        {PIECE_LIGHT, NORMAL, 0, 1, a}, {PIECE_DECODE, NORMAL, 700, 2, b}, {PIECE_BLOCKS, NORMAL, 300, 3, b}};
    turn_charge(&turn, &candidates[1], 1000); /* that its tenant had more does not matter */
    assert_int_equal(turn_choose(&turn, candidates, 3), 2);
    candidates[2].piece = PIECE_NONE;
    assert_int_equal(turn_choose(&turn, candidates, 3), 1);
    candidates[1].due_ms = 0; /* it cannot be met any more */
    assert_int_equal(turn_choose(&turn, candidates, 3), 0);
}

static void the_tenant_that_was_charged_least_goes_first(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a"), b = turn_join(&turn, "b");
    const struct candidate candidates[] = {{PIECE_LIGHT, NORMAL, 0, 1, a}, {PIECE_TEXT, NORMAL, 0, 2, b}};
    turn_charge(&turn, &candidates[0], 30);
    assert_int_equal(turn_choose(&turn, candidates, 2), 1);
    turn_charge(&turn, &candidates[1], 31);
    assert_int_equal(turn_choose(&turn, candidates, 2), 0);
}

static void jobs_of_one_tenant_share_what_is_its(void **state)
{
    struct turn turn = {0};
    int many = turn_join(&turn, "many"), one = turn_join(&turn, "one"), served[5] = {0};
    assert_int_equal(turn_join(&turn, "many"), many);
    assert_int_equal(turn_join(&turn, "many"), many);
    const struct candidate candidates[] = {{PIECE_BLOCKS, NORMAL, 0, 1, many},
                                           {PIECE_BLOCKS, NORMAL, 0, 2, many},
                                           {PIECE_BLOCKS, NORMAL, 0, 3, many},
                                           {PIECE_BLOCKS, NORMAL, 0, 4, one}};
    for (int i = 0; i < 1000; i++) {
        int chosen = turn_choose(&turn, candidates, 4);
        served[chosen]++;
        turn_charge(&turn, &candidates[chosen], 10);
    }
    assert_int_equal(served[3], 500);
}

static void a_tenant_that_was_away_has_saved_up_nothing(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a"), b = turn_join(&turn, "b"), served = 0;
    struct candidate candidates[] = {{PIECE_BLOCKS, NORMAL, 0, 1, a}, {PIECE_BLOCKS, NORMAL, 0, 2, b}};
    turn_leave(&turn, b);
    turn_charge(&turn, &candidates[0], 100000);
    candidates[1].account = turn_join(&turn, "b");
    for (int i = 0; i < 100; i++) {
        int chosen = turn_choose(&turn, candidates, 2);
        served += chosen;
        turn_charge(&turn, &candidates[chosen], 10);
    }
    assert_in_range(served, 49, 51);
}

/* Coming and going is no way to be charged less. */
static void a_tenant_that_left_ahead_of_others_comes_back_ahead(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a"), b = turn_join(&turn, "b");
    struct candidate candidates[] = {{PIECE_BLOCKS, NORMAL, 0, 1, a}, {PIECE_BLOCKS, NORMAL, 0, 2, b}};
    turn_charge(&turn, &candidates[1], 500);
    turn_leave(&turn, b);
    candidates[1].account = turn_join(&turn, "b");
    for (int i = 0; i < 50; i++) {
        assert_int_equal(turn_choose(&turn, candidates, 2), 0);
        turn_charge(&turn, &candidates[0], 10);
    }
    turn_charge(&turn, &candidates[0], 1);
    assert_int_equal(turn_choose(&turn, candidates, 2), 1);
}

static void any_number_of_tenants_may_come_and_go(void **state)
{
    struct turn turn = {0};
    int accounts[TURN_ACCOUNTS];
    char name[32];
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < TURN_ACCOUNTS; i++) {
            snprintf(name, sizeof name, "tenant %d", round * TURN_ACCOUNTS + i);
            accounts[i] = turn_join(&turn, name);
            for (int k = 0; k < i; k++) assert_int_not_equal(accounts[k], accounts[i]);
            turn_charge(&turn, &(struct candidate){PIECE_BLOCKS, NORMAL, 0, 1, accounts[i]}, 1);
        }
        for (int i = 0; i < TURN_ACCOUNTS; i++) turn_leave(&turn, accounts[i]);
    }
    assert_true(turn.floor <= 100 * TURN_ACCOUNTS);
}

/* What three jobs of one tenant are given to do, one letter a turn. */
static void expect_turns(const enum job_piece pieces[3], uint64_t light_work, const char *letters)
{
    struct turn turn = {0};
    struct candidate candidates[3];
    for (int i = 0; i < 3; i++)
        candidates[i] = (struct candidate){pieces[i], NORMAL, 0, (uint64_t)i, turn_join(&turn, "somebody's")};
    for (const char *at = letters; *at; at++) {
        int chosen = turn_choose(&turn, candidates, 3);
        enum job_piece piece = candidates[chosen].piece;
        if ("-slbtdf"[piece] != *at)
            fail_msg("turn %d of %s: %c", (int)(at - letters), letters, "-slbtdf"[piece]);
        turn_charge(&turn, &candidates[chosen], piece == PIECE_LIGHT ? light_work : 100);
    }
}

static void hits_go_first_but_not_for_ever(void **state)
{
    expect_turns((enum job_piece[]){PIECE_BLOCKS, PIECE_LIGHT, PIECE_NONE}, 1, "llllllllbllllllllbllllllllb");
}

static void text_decode_and_files_take_half_of_the_time_at_most(void **state)
{
    /* As much work in steps as in a frame: 100 light pieces, or one of blocks. */
    expect_turns((enum job_piece[]){PIECE_NONE, PIECE_BLOCKS, PIECE_DECODE}, 1, "dbdbdbdb");
    expect_turns((enum job_piece[]){PIECE_NONE, PIECE_LIGHT, PIECE_DECODE}, 25,
                 "lllllllldlllllllldlllllllld");
    expect_turns((enum job_piece[]){PIECE_NONE, PIECE_LIGHT, PIECE_TEXT}, 5,
                 "lllllllltlllllllllllllllllllltl");
    expect_turns((enum job_piece[]){PIECE_LIGHT, PIECE_BLOCKS, PIECE_FILES}, 1,
                 "llllllllfllllllllbllllllllf");
}

static void text_decode_and_files_take_all_of_it_when_there_is_nothing_else(void **state)
{
    expect_turns((enum job_piece[]){PIECE_NONE, PIECE_NONE, PIECE_DECODE}, 1, "dddddddd");
}

static void who_is_nearly_done_goes_before_who_has_not_begun(void **state)
{
    expect_turns((enum job_piece[]){PIECE_TEXT, PIECE_DECODE, PIECE_FILES}, 1, "fff");
    expect_turns((enum job_piece[]){PIECE_TEXT, PIECE_DECODE, PIECE_NONE}, 1, "ddd");
}

static void a_branch_that_was_begun_is_finished_before_an_older_job_goes_on(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a");
    struct candidate candidates[] = {{PIECE_NONE, NORMAL, 0, 1, a}, {PIECE_BLOCKS, NORMAL, 0, 2, a}};
    turn_charge(&turn, &candidates[turn_choose(&turn, candidates, 2)], 10);
    candidates[0].piece = PIECE_BLOCKS; /* a hop of the older job came back */
    assert_int_equal(turn_choose(&turn, candidates, 2), 1);
    candidates[1].piece = PIECE_LIGHT;
    assert_int_equal(turn_choose(&turn, candidates, 2), 1);
    candidates[1].piece = PIECE_NONE; /* the branch has left */
    assert_int_equal(turn_choose(&turn, candidates, 2), 0);
    turn_charge(&turn, &candidates[0], 10);
    candidates[1].piece = PIECE_BLOCKS;
    assert_int_equal(turn_choose(&turn, candidates, 2), 0);
}

static void of_two_alike_the_one_that_came_first_goes_first(void **state)
{
    struct turn turn = {0};
    int a = turn_join(&turn, "a");
    const struct candidate candidates[] = {
        {PIECE_BLOCKS, NORMAL, 0, 8, a}, {PIECE_BLOCKS, NORMAL, 0, 3, a}, {PIECE_BLOCKS, NORMAL, 0, 5, a}};
    assert_int_equal(turn_choose(&turn, candidates, 3), 1);
}

/* ---------------------------------------------------------------------------------------------- at random */

enum { TENANTS = 4, JOBS = 16, ROUNDS = 20000 };

/* Rules 1 to 3, written down once more: may b be left standing when a is chosen? */
static bool may_precede(const struct candidate *a, const struct candidate *b)
{
    if (b->piece == PIECE_NONE) return true;
    if ((a->piece == PIECE_SEND) != (b->piece == PIECE_SEND)) return a->piece == PIECE_SEND;
    if (a->priority != b->priority) return a->priority > b->priority;
    if (!a->due_ms) return !b->due_ms;
    return !b->due_ms || a->due_ms <= b->due_ms;
}

static void strict_rules_hold_in_every_round(void **state)
{
    struct turn turn = {0};
    uint64_t random = 5;
    int accounts[TENANTS], none = 0;
    for (int i = 0; i < TENANTS; i++) accounts[i] = turn_join(&turn, (const char *[]){"a", "b", "c", "d"}[i]);
    for (int round = 0; round < ROUNDS; round++) {
        struct candidate candidates[JOBS];
        int count = (int)draw(&random, JOBS + 1);
        bool idle = true;
        for (int i = 0; i < count; i++) {
            bool waits = draw(&random, 2), dated = draw(&random, 3) == 0;
            candidates[i] = (struct candidate){
                waits ? PIECE_NONE : (enum job_piece)draw(&random, PIECE_FILES + 1), (int)draw(&random, 3),
                dated ? 1 + draw(&random, 9) : 0, (uint64_t)i, accounts[draw(&random, TENANTS)]};
            idle = idle && candidates[i].piece == PIECE_NONE;
        }
        int chosen = turn_choose(&turn, candidates, count);
        assert_true(idle == (chosen < 0));
        none += idle;
        if (idle) continue;
        assert_int_not_equal(candidates[chosen].piece, PIECE_NONE);
        for (int i = 0; i < count; i++) assert_true(may_precede(&candidates[chosen], &candidates[i]));
        turn_charge(&turn, &candidates[chosen], draw(&random, 100));
    }
    assert_in_range(none, 1, ROUNDS / 2);
}

/* Tenants with 1 to 7 jobs, each with something to do all the time: none is ever more than a piece behind
 * another. */
static void tenants_with_work_are_served_alike_however_many_jobs_they_have(void **state)
{
    struct turn turn = {0};
    uint64_t random = 11, work[TENANTS] = {0};
    static const int jobs_of[TENANTS] = {1, 2, 6, 7};
    struct candidate candidates[JOBS];
    int count = 0, largest = 0;
    for (int t = 0; t < TENANTS; t++)
        for (int k = 0; k < jobs_of[t]; k++, count++)
            candidates[count] = (struct candidate){PIECE_BLOCKS, NORMAL, 0, (uint64_t)count,
                                                   turn_join(&turn, (const char *[]){"a", "b", "c", "d"}[t])};
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < count; i++)
            candidates[i].piece = (enum job_piece)(2 + draw(&random, PIECE_FILES - 1));
        int chosen = turn_choose(&turn, candidates, count);
        int cost = 1 + (int)draw(&random, 500);
        if (cost > largest) largest = cost;
        work[candidates[chosen].account] += (uint64_t)cost;
        turn_charge(&turn, &candidates[chosen], (uint64_t)cost);
        for (int t = 0; t < TENANTS; t++)
            for (int k = 0; k < t; k++) assert_true(llabs((int64_t)work[t] - (int64_t)work[k]) <= largest);
    }
}

/* Of each kind of piece that one tenant has, whatever else waits: the longest wait is bounded. */
static void no_kind_of_piece_starves(void **state)
{
    struct turn turn = {0};
    int tenant = turn_join(&turn, "a"), since[PIECE_FILES + 1] = {0}, longest[PIECE_FILES + 1] = {0};
    static const int cost[] = {0, 0, 4, 16, 32, 160, 160};
    struct candidate candidates[4] = {{PIECE_LIGHT, NORMAL, 0, 1, tenant},
                                      {PIECE_BLOCKS, NORMAL, 0, 2, tenant},
                                      {PIECE_TEXT, NORMAL, 0, 3, tenant},
                                      {PIECE_LIGHT, NORMAL, 0, 4, tenant}};
    for (int round = 0; round < ROUNDS; round++) {
        int chosen = turn_choose(&turn, candidates, 4);
        enum job_piece piece = candidates[chosen].piece;
        for (int i = 0; i <= PIECE_FILES; i++) since[i]++;
        if (since[piece] > longest[piece]) longest[piece] = since[piece];
        since[piece] = 0;
        turn_charge(&turn, &candidates[chosen], (uint64_t)cost[piece]);
        if (piece == PIECE_TEXT || piece == PIECE_DECODE) /* it goes on to the next phase, for ever */
            candidates[chosen].piece = piece == PIECE_TEXT ? PIECE_DECODE : PIECE_TEXT;
    }
    assert_in_range(longest[PIECE_LIGHT], 1, 3);
    assert_in_range(longest[PIECE_BLOCKS], TURN_LIGHT + 1, 2 * (TURN_LIGHT + 1));
    assert_in_range(longest[PIECE_TEXT], 1, 100);
    assert_in_range(longest[PIECE_DECODE], 1, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(when_all_wait_nobody_is_chosen),
        cmocka_unit_test(what_goes_to_the_stages_goes_first_whatever_its_priority),
        cmocka_unit_test(what_another_member_could_do_as_well_goes_last_whatever_its_priority),
        cmocka_unit_test(a_lower_priority_moves_only_while_none_above_it_can),
        cmocka_unit_test(the_earlier_deadline_goes_first_and_any_before_none),
        cmocka_unit_test(the_tenant_that_was_charged_least_goes_first),
        cmocka_unit_test(jobs_of_one_tenant_share_what_is_its),
        cmocka_unit_test(a_tenant_that_was_away_has_saved_up_nothing),
        cmocka_unit_test(a_tenant_that_left_ahead_of_others_comes_back_ahead),
        cmocka_unit_test(any_number_of_tenants_may_come_and_go),
        cmocka_unit_test(hits_go_first_but_not_for_ever),
        cmocka_unit_test(text_decode_and_files_take_half_of_the_time_at_most),
        cmocka_unit_test(text_decode_and_files_take_all_of_it_when_there_is_nothing_else),
        cmocka_unit_test(who_is_nearly_done_goes_before_who_has_not_begun),
        cmocka_unit_test(a_branch_that_was_begun_is_finished_before_an_older_job_goes_on),
        cmocka_unit_test(of_two_alike_the_one_that_came_first_goes_first),
        cmocka_unit_test(strict_rules_hold_in_every_round),
        cmocka_unit_test(tenants_with_work_are_served_alike_however_many_jobs_they_have),
        cmocka_unit_test(no_kind_of_piece_starves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
