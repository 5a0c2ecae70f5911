/*
 * test_plan.c - layouts: against a search through all of them, against the predictions of the theory, and
 * with unequal ranks, little memory and wishes.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "rules/plan.h"

#define GOOD(call) assert_int_equal((call), STATUS_OK)
#define GB         1000000000ull

static struct plan make(const struct plan_request *request)
{
    struct error error = {0};
    struct plan plan;
    status_t status = plan_make(request, &plan, &error);
    if (status != STATUS_OK) fail_msg("%s", error.text);
    return plan;
}

static void expect(status_t status, const struct plan_request *request, const char *needle)
{
    struct error error = {0};
    struct plan plan;
    assert_int_equal(plan_make(request, &plan, &error), status);
    if (!strstr(error.text, needle)) fail_msg("\"%s\" is not in: %s", needle, error.text);
}

static void expect_text(const struct plan *plan, const char *expected)
{
    char text[160];
    plan_describe(plan, "x", text, sizeof text);
    assert_string_equal(text, expected);
}

/* Every block is on one rank, or, as a cap, on every home. */
static void expect_complete(const struct plan *plan)
{
    uint32_t sum = plan->head + plan->tail;
    for (uint32_t i = 0; i < plan->ranks; i++) sum += plan->run[i];
    assert_int_equal(sum, plan->layers);
}

/* Steps of a job in the time of one branch through all blocks on one rank, as the theory counts. */
static double throughput(const struct plan *plan)
{
    return plan->layers / plan->cycle;
}

/* A rank's time, written down anew: block by block. taken: how often home runs rank 1's first block for it, 0..1. */
static double time_of(const struct plan_request *request, const double *speed, const struct plan *plan,
                      uint32_t rank, double taken)
{
    const struct plan_mix *mix = &request->mix;
    double work = 0, share = plan->floating ? 1.0 / request->ranks : rank == 0;
    uint32_t first = plan->head, spare = plan->head + plan->run[0];
    for (uint32_t i = 0; i < rank; i++) first += plan->run[i];
    for (uint32_t block = 0; block < request->layers; block++) {
        bool always = block < mix->head || block >= request->layers - mix->tail;
        bool cap = block < plan->head || block >= request->layers - plan->tail;
        double once = always ? 1 : 1 - mix->hit_rate;
        if (cap) work += once * share;
        if (block >= first && block < first + plan->run[rank]) work += once;
        if (block == spare && rank < 2) work += once * (rank == 0 ? taken : -taken);
    }
    return mix->branches * (work + mix->home_work * share) / speed[rank];
}

static double busiest(const struct plan_request *request, const double *speed, const struct plan *plan,
                      double taken)
{
    double most = 0;
    for (uint32_t rank = 0; rank < request->ranks; rank++)
        most = fmax(most, time_of(request, speed, plan, rank, taken));
    return most;
}

/* The same with the spare block taken as often as is best: never, always, or until home and rank 1 are equal. */
static double shared(const struct plan_request *request, const double *speed, const struct plan *plan)
{
    double least = busiest(request, speed, plan, 0), difference[2];
    if (plan->spare == 0) return least;
    for (int taken = 0; taken < 2; taken++)
        difference[taken] = time_of(request, speed, plan, 1, taken) - time_of(request, speed, plan, 0, taken);
    double equal = difference[0] / (difference[0] - difference[1]);
    if (equal > 0 && equal < 1) least = fmin(least, busiest(request, speed, plan, equal));
    return fmin(least, busiest(request, speed, plan, 1));
}

/* The shortest cycle over all ways to deal `left` blocks to the ranks from `rank` on; with a spare block over those
 * that are no longer than `limit` without it. */
static double search(const struct plan_request *request, const double *speed, struct plan *plan,
                     uint32_t rank, uint32_t left, double limit)
{
    double best = INFINITY;
    if (rank + 1 == request->ranks) {
        plan->run[rank] = left;
        if (plan->spare && (plan->run[1] == 0 || busiest(request, speed, plan, 0) > limit + 1e-9))
            return INFINITY;
        return shared(request, speed, plan);
    }
    for (uint32_t run = 0; run <= left; run++) {
        plan->run[rank] = run;
        best = fmin(best, search(request, speed, plan, rank + 1, left - run, limit));
    }
    return best;
}

static void no_layout_is_faster_than_the_one_chosen(void **state)
{
    static const double speeds[][4] = {{1, 1, 1, 1}, {1, 0.5, 1, 0.25}, {0.3, 1, 0.6, 0.6}};
    for (uint32_t layers = 1; layers <= 12; layers++)
        for (uint32_t ranks = 1; ranks <= 4; ranks++)
            for (int s = 0; s < 3; s++)
                for (uint32_t head = 0; head < 4 && head < layers; head++)
                    for (int rate = 0; rate <= 10; rate += 5)
                        for (int home = PLAN_HOME_FIXED; home <= PLAN_HOME_FLOATING; home++) {
                            struct plan_seat seats[4];
                            double speed[4], fastest = 0;
                            for (uint32_t i = 0; i < ranks; i++) fastest = fmax(fastest, speeds[s][i]);
                            for (uint32_t i = 0; i < ranks; i++) {
                                seats[i] = (struct plan_seat){.speed = 70 * speeds[s][i]};
                                speed[i] = speeds[s][i] / fastest;
                            }
                            struct plan_wish wish = {.home = (enum plan_home)home};
                            struct plan_request request = {.layers = layers,
                                                           .ranks = ranks,
                                                           .seats = seats,
                                                           .mix = {.branches = 2,
                                                                   .head = head,
                                                                   .hit_rate = rate / 10.0,
                                                                   .home_work = 0.3},
                                                           .wish = &wish};
                            struct plan plan, tried = {.layers = layers, .ranks = ranks};
                            if (plan_make(&request, &plan, NULL) != STATUS_OK) continue; /* a loss: below */
                            expect_complete(&plan);
                            assert_true(fabs(plan.cycle - shared(&request, speed, &plan)) < 1e-9);
                            if (ranks > 1) assert_int_equal(plan.floating, home == PLAN_HOME_FLOATING);
                            tried.floating = plan.floating;
                            tried.head = head;
                            double best = search(&request, speed, &tried, 0, layers - head, 0);
                            bool folded = false;
                            tried.head = 0;
                            if (!plan.floating) { /* the even layout is what a loss is measured by */
                                struct plan_request uncached = request;
                                uncached.mix.hit_rate = 0;
                                double even = search(&uncached, speed, &tried, 0, layers, 0);
                                assert_true(fabs(plan.cycle_uncached - even) < 1e-9);
                                folded = rate > 0 && best <= even + 1e-9;
                                if (best > even + 1e-9) best = busiest(&request, speed, &plan, 0);
                                if (rate == 0) best = even;
                                assert_true(plan.cycle <= even + 1e-9);
                            }
                            if (ranks == 1) continue;
                            assert_true(fabs(busiest(&request, speed, &plan, 0) - best) < 1e-9);
                            if (plan.floating) continue;
                            tried.spare = 1;
                            tried.head = folded ? head : 0;
                            double finer = search(&request, speed, &tried, 0, layers - tried.head, best);
                            bool worth = finer * 1.01 < best - 1e-9;
                            assert_true(plan.spare == 0 || plan.cycle * 1.01 < best);
                            if (!folded) continue;
                            assert_int_equal(plan.spare, worth);
                            assert_true(!worth || fabs(plan.cycle - finer) < 1e-9);
                        }
}

static const struct plan_mix f1b0 = {.branches = 2, .head = 1, .hit_rate = 0.54},
                             f8b0 = {.branches = 2, .head = 8, .hit_rate = 0.54};

static struct plan predicted(const struct plan_mix *mix, const struct plan_wish *wish)
{
    return make(&(struct plan_request){.layers = 40, .ranks = 4, .mix = *mix, .wish = wish});
}

/* parallelism.md 7.2: L 40, P 4, G 2, hit rate 0.54; the theory deals fractions of blocks, we deal whole
 * ones. */
static void one_protected_block_is_worth_what_the_theory_says(void **state)
{
    struct plan fixed = predicted(&f1b0, &(struct plan_wish){.home = PLAN_HOME_FIXED}),
                floating = predicted(&f1b0, &(struct plan_wish){.home = PLAN_HOME_FLOATING}),
                even = predicted(&f1b0, &(struct plan_wish){.runs = 4, .run = {11, 10, 10, 9}});
    double ideal = 4 / (2 * (1 / 40.0 + 39 / 40.0 * 0.46));
    assert_true(fabs(ideal - 4.22) < 0.01);
    assert_true(fabs(fixed.cycle_uncached - 20) < 1e-9);
    expect_text(&fixed, "4 ranks, blocks 1+8(+1 spare) 11 10 10, x");
    /* Home and rank 1 share what both have: 4.11. */
    assert_true(fabs(throughput(&fixed) - 40 / (2 * (1 + 19 * 0.46) / 2)) < 1e-9);
    expect_text(&floating, "4 ranks, 1 block everywhere, 9+10+10+10 around, x");
    assert_true(fabs(throughput(&floating) - 40 / (2 * (0.25 + 10 * 0.46))) < 1e-9); /* 4.12 of 4.17 */
    assert_true(throughput(&floating) > 0.97 * ideal && throughput(&fixed) > 0.97 * ideal);
    assert_true(fabs(throughput(&even) - 40 / (2 * (1 + 10 * 0.46))) < 1e-9); /* 3.57 of 3.65 */
    assert_true(plan_equal(
        &floating,
        &(struct plan){.ranks = 4, .layers = 40, .head = 1, .floating = true, .run = {9, 10, 10, 10}}));
}

/* With the blocks fine enough whole ones are as good as fractions. */
static void a_deep_model_reaches_the_theory_with_a_fixed_home(void **state)
{
    struct plan_mix mix = {.branches = 2, .head = 10, .hit_rate = 0.54};
    struct plan plan = make(&(struct plan_request){.layers = 400, .ranks = 4, .mix = mix});
    assert_false(plan.floating);
    assert_true(throughput(&plan) / 4.22 > 0.98);
    assert_true(fabs((double)plan.run[0] / 390 - 0.20) < 0.01); /* home keeps 20 % of the ring */
}

static void eight_protected_blocks_need_floating_homes(void **state)
{
    struct error error;
    struct plan fixed = predicted(&f8b0, &(struct plan_wish){.home = PLAN_HOME_FIXED}),
                floating = predicted(&f8b0, &(struct plan_wish){.home = PLAN_HOME_FLOATING}),
                chosen = predicted(&f8b0, NULL);
    assert_true(fabs(throughput(&fixed) - 2.5) < 1e-9); /* simulated: 2.49 */
    assert_int_equal(fixed.run[0], 0);
    assert_true(fabs(throughput(&floating) - 3.52) < 0.01); /* the ideal; simulated 3.26 */
    expect_text(&floating, "4 ranks, 8 blocks everywhere, 8+8+8+8 around, x");
    assert_true(plan_equal(&chosen, &floating));
    /* The even split of the ring: 1.71 cached, 2.0 uncached. */
    struct plan_wish even = {.runs = 4, .run = {16, 8, 8, 8}};
    struct plan_request request = {.layers = 40, .ranks = 4, .mix = f8b0, .wish = &even};
    expect(STATUS_INVALID, &request, "would take 23.4 block times, and 20.0");
    expect(STATUS_INVALID, &request, "--home floating");
    expect(STATUS_INVALID, &request, "8 + 0 blocks always run and 54 % hits");
    request.mix = f1b0;
    struct plan made = make(&request); /* slow, but no loss */
    assert_int_equal(plan_check(&made, &request, &f8b0, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "23.4 block times, and 20.0"));
    assert_non_null(strstr(error.text, "lay the ranks out anew"));
    GOOD(plan_check(&made, &request, &f1b0, &error));
    GOOD(plan_check(&floating, &request, &f1b0, &error));
    GOOD(plan_check(&floating, &request, &f8b0, &error));
}

static void a_layout_made_for_hits_still_takes_jobs_without_caching(void **state)
{
    struct error error;
    struct plan_request request = {.layers = 40, .ranks = 4, .mix = f1b0};
    struct plan plan = predicted(&f1b0, &(struct plan_wish){.home = PLAN_HOME_FIXED});
    GOOD(plan_check(&plan, &request, &(struct plan_mix){.branches = 2}, &error)); /* 22 instead of 20 */
    struct plan_mix hits = {.branches = 2, .head = 1, .hit_rate = 0.9};
    plan = predicted(&hits, &(struct plan_wish){.home = PLAN_HOME_FIXED});
    assert_true(plan.run[0] < 4);
    assert_int_equal(plan_check(&plan, &request, &(struct plan_mix){.branches = 2}, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "a step uncached would take"));
    assert_int_equal(plan_check(&plan, &(struct plan_request){.layers = 30, .ranks = 4}, &f1b0, &error),
                     STATUS_INVALID);
}

/* Twenty always-run blocks of forty are too many for one home; without memory for them everywhere, the blocks
 * lie as without caching. */
static void where_both_homes_fail_the_even_layout_remains(void **state)
{
    struct plan_seat seats[4];
    for (int i = 0; i < 4; i++) seats[i] = (struct plan_seat){.memory_bytes = 12 * GB};
    struct plan_request request = {
        .layers = 40, .ranks = 4, .block_bytes = GB, .mix = {.branches = 2, .head = 20, .hit_rate = 0.5}};
    assert_true(make(&request).floating);
    request.seats = seats;
    struct plan plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 10+10+10+10, x");
    assert_true(plan.cycle <= plan.cycle_uncached);
    request.wish = &(struct plan_wish){.home = PLAN_HOME_FLOATING};
    expect(STATUS_NO_MEMORY, &request, "--home floating");
}

static void blocks_are_split_evenly_and_every_block_once(void **state)
{
    struct plan_wish fold = {.has_fold = true, .fold_head = 1, .fold_tail = 2};
    for (uint32_t layers = 1; layers <= 41; layers += 4)
        for (uint32_t ranks = 1; ranks <= 9; ranks++)
            for (int folded = 0; folded < 2; folded++) {
                struct plan plan = make(&(struct plan_request){
                    .layers = layers, .ranks = ranks, .wish = folded ? &fold : NULL, .mix = {.branches = 2}});
                uint32_t least = UINT32_MAX, most = 0;
                bool ended = false;
                expect_complete(&plan);
                assert_int_equal(plan.run[0], 0);
                for (uint32_t i = 1; i < ranks; i++) {
                    assert_false(ended && plan.run[i]); /* those without blocks stand last */
                    ended = ended || plan.run[i] == 0;
                    if (plan.run[i] && plan.run[i] < least) least = plan.run[i];
                    if (plan.run[i] > most) most = plan.run[i];
                }
                assert_true(most == 0 || most - least <= 1);
                if (!folded && ranks > 1 && layers >= ranks)
                    assert_true(plan.head == least || plan.head + 1 == most);
            }
}

static void a_fold_is_all_that_home_holds(void **state)
{
    struct plan_wish fold = {.has_fold = true, .fold_head = 1};
    struct plan_request request = {.layers = 40, .ranks = 4, .mix = f1b0, .wish = &fold};
    struct plan plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 1+13+13+13, x");
    request.mix = (struct plan_mix){.branches = 1};
    plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 1+13+13+13, x");
    fold.home = PLAN_HOME_FLOATING;
    plan = make(&request);
    expect_text(&plan, "4 ranks, 1 block everywhere, 9+10+10+10 around, x");
    fold = (struct plan_wish){.has_fold = true, .fold_head = 30};
    request.mix = f1b0;
    request.mix.head = 30;
    expect(STATUS_INVALID, &request, "--fold: a step");
}

static void blocks_follow_the_speeds(void **state)
{
    struct plan_seat seats[3] = {{.speed = 200}, {.speed = 100}, {.speed = 100}};
    struct plan_request request = {.layers = 40, .ranks = 3, .seats = seats, .mix = {.branches = 2}};
    struct plan plan = make(&request);
    expect_text(&plan, "3 ranks, blocks 20+10+10, x");
    assert_true(fabs(plan.cycle - 40) < 1e-9);
    seats[0].speed = 0; /* unknown: as the mean of the others */
    plan = make(&request);
    expect_text(&plan, "3 ranks, blocks 13(+1 spare)+14+13, x");
    seats[0].speed = NAN;
    assert_true(plan_equal(&plan, &(struct plan[1]){make(&request)}[0]));
}

static void equal_machines_get_equal_blocks_whatever_was_measured(void **state)
{
    static const double measured[][4] = {
        {100, 100, 100, 100}, {92, 100, 97, 95}, {100, 86, 99, 90}, {0, 97, 100, 0}};
    for (size_t i = 0; i < sizeof measured / sizeof *measured; i++) {
        struct plan_seat seats[4];
        for (int rank = 0; rank < 4; rank++) seats[rank] = (struct plan_seat){.speed = measured[i][rank]};
        struct plan plan =
            make(&(struct plan_request){.layers = 32, .ranks = 4, .seats = seats, .mix = {.branches = 2}});
        expect_text(&plan, "4 ranks, blocks 8+8+8+8, x");
        assert_true(fabs(plan.cycle - 16) < 1e-9);
    }
}

static void ranks_of_one_make_count_as_the_fastest_of_them(void **state)
{
    struct plan_seat seats[4] = {
        {.speed = 38, .make = 1}, {.speed = 100, .make = 1}, {.make = 1}, {.speed = 50, .make = 2}};
    struct plan_request request = {.layers = 35, .ranks = 4, .seats = seats, .mix = {.branches = 2}};
    struct plan plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 10+10+10+5, x");
    seats[2].make = 0; /* unknown: the mean of 100, 100 and 50 */
    plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 10(+1 spare)+11+9+5, x");
}

static void weights_stay_within_the_memory(void **state)
{
    struct plan_seat seats[4] = {{.memory_bytes = 12 * GB},
                                 {.memory_bytes = 5 * GB},
                                 {.memory_bytes = 0}, /* unknown: no limit */
                                 {.memory_bytes = 8 * GB + 5}};
    struct plan_request request = {.layers = 30,
                                   .ranks = 4,
                                   .seats = seats,
                                   .block_bytes = GB,
                                   .home_bytes = 6 * GB,
                                   .mix = {.branches = 2}};
    struct plan plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 6+5+11+8, x");
    for (uint32_t i = 0; i < 4; i++)
        if (seats[i].memory_bytes)
            assert_true(plan_blocks(&plan, i) * GB + (i == 0 ? 6 * GB : 0) <= seats[i].memory_bytes);
    /* Rank 1 has no room for the text encoder, so no home can be there. */
    request.mix = f8b0;
    request.mix.head = 4;
    assert_false(make(&request).floating);
    seats[2].memory_bytes = 10 * GB;
    expect(STATUS_NO_MEMORY, &request,
           "30 blocks of 1 GB, and 6 GB for a home, do not fit 4 ranks with 35 GB");
    request.wish = &(struct plan_wish){.runs = 4, .run = {6, 6, 9, 9}};
    seats[2].memory_bytes = 0;
    expect(STATUS_NO_MEMORY, &request, "--split: 6 blocks of 1.0 GB do not fit rank 1 with 5.0 GB");
}

/* Without caching both homes are worth the same: memory decides. */
static void where_memory_does_not_matter_homes_float(void **state)
{
    struct plan_seat seats[4];
    struct plan_request request = {.layers = 40, .ranks = 4, .seats = seats, .mix = {.branches = 2}};
    request.block_bytes = GB / 10;
    request.home_bytes = 4 * GB;
    for (int i = 0; i < 4; i++) seats[i] = (struct plan_seat){.speed = 1, .memory_bytes = 64 * GB};
    struct plan plan = make(&request);
    assert_true(plan.floating);
    expect_complete(&plan);
    seats[2].memory_bytes = 63 * GB; /* the model takes more than an eighth of one rank's */
    assert_false(make(&request).floating);
    seats[2].memory_bytes = 0; /* unknown */
    assert_false(make(&request).floating);
    request.wish = &(struct plan_wish){.home = PLAN_HOME_FIXED};
    seats[2].memory_bytes = 64 * GB;
    assert_false(make(&request).floating);
}

static void a_split_is_taken_as_it_is_given(void **state)
{
    struct plan_wish wish = {0};
    struct plan_request request = {.layers = 30, .ranks = 4, .mix = {.branches = 2}, .wish = &wish};
    GOOD(plan_read_split("3,9,9,9", &wish, NULL));
    struct plan plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 3+9+9+9, x");
    assert_true(fabs(plan.cycle - 18) < 1e-9 && fabs(plan.cycle_uncached - 16) < 1e-9);
    request.mix = (struct plan_mix){.branches = 2, .head = 1, .tail = 1, .hit_rate = 0.5};
    plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 1+1 9 9 9(+1), x");
    request.mix.head = 5; /* more than home has: they stay where they are */
    plan = make(&request);
    expect_text(&plan, "4 ranks, blocks 3+9+9+9, x");
    GOOD(plan_read_split("3,9,0,18", &wish, NULL));
    request.mix = (struct plan_mix){.branches = 1};
    plan = make(&request);
    assert_int_equal(plan_blocks(&plan, 2), 0);
    GOOD(plan_read_split("3,9,9", &wish, NULL));
    expect(STATUS_INVALID, &request, "--split: names 3 ranks, the group has 4");
    GOOD(plan_read_split("3,9,9,8", &wish, NULL));
    expect(STATUS_INVALID, &request, "--split: adds up to 29 blocks, must be 30");
    wish.home = PLAN_HOME_FLOATING;
    request.mix = (struct plan_mix){.branches = 2, .head = 1, .hit_rate = 0.5};
    plan = make(&request);
    expect_text(&plan, "4 ranks, 1 block everywhere, 3+9+9+8 around, x");
    wish.home = PLAN_HOME_AUTO;
    GOOD(plan_read_split("3,9,9,9", &wish, NULL));
    GOOD(plan_read_fold("1,0", &wish, NULL));
    expect(STATUS_INVALID, &request, "--fold 1,0 gives it 1");
}

/* parallelism.md 5.2. */
static void enough_jobs_fill_the_ring(void **state)
{
    static const struct {
        uint32_t ranks, branches;
        double hop; /* in times of a stage */
        uint32_t jobs;
    } table[] = {{2, 2, 0, 2}, {4, 2, 0, 3},   {8, 2, 0, 5}, {4, 1, 0, 4},
                 {8, 1, 0, 8}, {8, 2, 0.4, 7}, {1, 2, 0, 1}, {4, 2, 0.4, 4}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        uint32_t ranks = table[i].ranks;
        struct plan_mix mix = {.branches = table[i].branches, .hop = table[i].hop * 40 / ranks};
        struct plan plan = make(&(struct plan_request){.layers = 40, .ranks = ranks, .mix = mix});
        assert_int_equal(plan.jobs_to_saturate, table[i].jobs);
    }
    /* Simulated: 96 % with three jobs of a fixed home, eight of floating ones. */
    assert_int_equal(predicted(&f1b0, &(struct plan_wish){.home = PLAN_HOME_FIXED}).jobs_to_saturate, 3);
    assert_int_equal(predicted(&f8b0, NULL).jobs_to_saturate, 8);
}

static void a_plan_says_what_it_is(void **state)
{
    struct plan plan = make(&(struct plan_request){.layers = 8, .ranks = 2});
    char text[16];
    expect_text(&plan, "2 ranks, blocks 4+4, x");
    plan_describe(&plan, "cpu-avx512", text, sizeof text); /* cut off, not beyond */
    assert_string_equal(text, "2 ranks, blocks");
    plan = make(&(struct plan_request){.layers = 8, .ranks = 1, .mix = f1b0});
    expect_text(&plan, "1 rank, blocks 8, x");
    struct plan_wish fold;
    memset(&fold, 0, sizeof fold);
    GOOD(plan_read_fold("1,2", &fold, NULL));
    plan = make(&(struct plan_request){.layers = 30, .ranks = 4, .wish = &fold});
    expect_text(&plan, "4 ranks, blocks 1+9+9+9(+2), x");
    plan = make(&(struct plan_request){.layers = 3, .ranks = 5});
    expect_text(&plan, "5 ranks, blocks 1+1+1, x");
    /* Home's run of the ring is more head to it. */
    assert_true(plan_equal(&(struct plan){.ranks = 2, .layers = 8, .head = 1, .run = {3, 4}},
                           &(struct plan){.ranks = 2, .layers = 8, .head = 4, .run = {0, 4}}));
    assert_false(
        plan_equal(&(struct plan){.ranks = 2, .layers = 8, .head = 1, .run = {3, 4}, .floating = true},
                   &(struct plan){.ranks = 2, .layers = 8, .head = 4, .run = {0, 4}, .floating = true}));
}

static void what_is_no_fold_split_or_size_is_refused(void **state)
{
    static const char *const folds[] = {"",      "1",    "1,",  ",1",      "-1,0",
                                        "1,2,3", "1, 2", "a,b", "99999,1", "1 ,2"};
    static const char *const splits[] = {"",     ",", "1,",    ",1",  "1,,2", "-1,2",
                                         "1, 2", "a", "99999", "4+4", "4,4 "};
    struct plan_wish wish = {0};
    struct error error;
    struct plan plan;
    for (size_t i = 0; i < sizeof folds / sizeof *folds; i++)
        assert_int_equal(plan_read_fold(folds[i], &wish, &error), STATUS_INVALID);
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++)
        assert_int_equal(plan_read_split(splits[i], &wish, &error), STATUS_INVALID);
    static const char *const pools[] = {"", "5", "5+", "+3", "0+3", "5+0", "5+3+1", "5,3", "5 +3", "-5+3", "5+99999"};
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++)
        assert_int_equal(plan_read_pools(pools[i], &wish, &error), STATUS_INVALID);
    assert_false(wish.has_fold || wish.runs || wish.pool || wish.second_pool);
    char many[2 * PLAN_MAX_RANKS + 3] = "1";
    while (strlen(many) < 2 * PLAN_MAX_RANKS - 1) strcat(many, ",1");
    GOOD(plan_read_split(many, &wish, &error));
    assert_int_equal(wish.runs, PLAN_MAX_RANKS);
    assert_int_equal(plan_read_split(strcat(many, ",1"), &wish, &error), STATUS_INVALID);
    assert_int_equal(plan_make(&(struct plan_request){.ranks = 1}, &plan, &error), STATUS_INVALID);
    assert_int_equal(plan_make(&(struct plan_request){.layers = 8}, &plan, &error), STATUS_INVALID);
    assert_int_equal(
        plan_make(&(struct plan_request){.layers = 8, .ranks = PLAN_MAX_RANKS + 1}, &plan, &error),
        STATUS_INVALID);
}

/* ------------------------------------------------------------------------------------------------ wide stages */

static void wide_stages_share_blocks_evenly_and_say_so(void **state)
{
    struct plan_wish wish = {.width = 2};
    struct plan_request request = {
        .layers = 30, .ranks = 4, .wish = &wish, .heads = 12, .mix = {.branches = 2}};
    struct plan plan = make(&request);
    expect_text(&plan, "4 ranks in stages of 2, blocks 15+15, x");
    for (int i = 0; i < 4; i++) assert_int_equal(plan.run[i], 15);
    assert_true(plan.head == 0 && plan.tail == 0 && plan.spare == 0 && !plan.floating && plan.width == 2);
    assert_true(fabs(plan.cycle - 2 * 30.0 / 4) < 1e-9); /* as any even layout of four ranks */
    assert_int_equal(plan_blocks(&plan, 3), 15);
    wish.width = 4;
    struct plan other = make(&request);
    expect_text(&other, "4 ranks in stages of 4, blocks 30, x");
    assert_int_equal(other.jobs_to_saturate, 1); /* one job keeps all four at work */
    assert_false(plan_equal(&plan, &other));
    wish = (struct plan_wish){.width = 2, .runs = 4, .run = {10, 10, 20, 20}};
    other = make(&request);
    expect_text(&other, "4 ranks in stages of 2, blocks 10+20, x");
    wish = (struct plan_wish){.width = 2, .layout = PLAN_LAYOUT_CFG};
    other = make(&request);
    expect_text(&other, "4 ranks in stages of 2, branches 30+0 and 0+30, x");
    assert_true(other.alone < plan.alone);
    assert_int_equal(plan_blocks(&other, 3), 30);
    /* What a policy always runs is shared as well: home keeps nothing. */
    request.mix = (struct plan_mix){.branches = 2, .head = 1, .tail = 1, .hit_rate = 0.5};
    wish = (struct plan_wish){.width = 2};
    plan = make(&request);
    assert_true(plan.head == 0 && plan.tail == 0);
}

static void widths_that_do_not_fit_are_refused(void **state)
{
    struct plan_wish wish = {.width = 5};
    struct plan_request request = {
        .layers = 30, .ranks = 5, .wish = &wish, .heads = 12, .mix = {.branches = 2}};
    expect(STATUS_INVALID, &request, "--stage-width 5: 12 attention heads cannot be dealt to 5 ranks");
    wish.width = 2;
    expect(STATUS_INVALID, &request, "--stage-width 2: 5 ranks cannot stand in stages of 2");
    request.ranks = 1;
    expect(STATUS_INVALID, &request, "--stage-width 2: 1 ranks cannot stand in stages of 2");
    request.ranks = 4;
    wish = (struct plan_wish){.width = 2, .home = PLAN_HOME_FLOATING};
    expect(STATUS_INVALID, &request, "leave --home floating out");
    wish = (struct plan_wish){.width = 2, .has_fold = true, .fold_head = 1};
    expect(STATUS_INVALID, &request, "leave --fold out");
    wish = (struct plan_wish){.width = 2, .runs = 4, .run = {15, 14, 15, 15}};
    expect(STATUS_INVALID, &request, "--split: ranks 0 and 1 are one stage");
    wish = (struct plan_wish){.width = 2, .runs = 4, .run = {14, 14, 15, 15}};
    expect(STATUS_INVALID, &request, "adds up to 29 blocks, must be 30");
    const struct plan_seat seats[4] = {{.memory_bytes = 16 * GB},
                                       {.memory_bytes = 16 * GB},
                                       {.memory_bytes = 16 * GB},
                                       {.memory_bytes = 9 * GB}};
    request.seats = seats;
    request.block_bytes = GB;
    wish = (struct plan_wish){.width = 2};
    expect(STATUS_NO_MEMORY, &request, "do not fit");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wide_stages_share_blocks_evenly_and_say_so),
        cmocka_unit_test(widths_that_do_not_fit_are_refused),
        cmocka_unit_test(no_layout_is_faster_than_the_one_chosen),
        cmocka_unit_test(one_protected_block_is_worth_what_the_theory_says),
        cmocka_unit_test(a_deep_model_reaches_the_theory_with_a_fixed_home),
        cmocka_unit_test(eight_protected_blocks_need_floating_homes),
        cmocka_unit_test(a_layout_made_for_hits_still_takes_jobs_without_caching),
        cmocka_unit_test(where_both_homes_fail_the_even_layout_remains),
        cmocka_unit_test(blocks_are_split_evenly_and_every_block_once),
        cmocka_unit_test(a_fold_is_all_that_home_holds),
        cmocka_unit_test(blocks_follow_the_speeds),
        cmocka_unit_test(equal_machines_get_equal_blocks_whatever_was_measured),
        cmocka_unit_test(ranks_of_one_make_count_as_the_fastest_of_them),
        cmocka_unit_test(weights_stay_within_the_memory),
        cmocka_unit_test(where_memory_does_not_matter_homes_float),
        cmocka_unit_test(a_split_is_taken_as_it_is_given),
        cmocka_unit_test(enough_jobs_fill_the_ring),
        cmocka_unit_test(a_plan_says_what_it_is),
        cmocka_unit_test(what_is_no_fold_split_or_size_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
