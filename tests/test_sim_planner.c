/*
 * test_sim_planner.c - what the planner predicts of chains of single ranks, against the service's own ranks on the virtual
 * clock, 2 to 64 of them. Wide stages and pools: test_sim_wide.c; the choice: test_sim_choice.c.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "coordinator/planner/planner.h"
#include "tests/sim_lab.h"
#include "tools/sim/cases.h"

#define BLOCK_SECONDS 0.01 /* as in tools/sim/cases.c */
#define WITHIN        0.05

enum { MOST_JOBS = 64 }; /* that the simulator takes */

/* A model of so many blocks whose time on one rank is known, on ranks whose hops take so many stage times of an even split. */
static struct planner_request make_request(uint32_t ranks, uint32_t layers, uint32_t branches, uint32_t jobs,
                                           double hop)
{
    struct planner_request r = {.model = {.layers = layers,
                                          .heads = 8,
                                          .head_dim = 8,
                                          .ffn = 64,
                                          .experts = 1,
                                          .text_tokens = 8,
                                          .parameter_bytes = 2},
                                .job = {.tokens = 4, .steps = {100, 0}, .branches = branches},
                                .machine = {.ranks = ranks,
                                            .per_node = ranks,
                                            .block_seconds = BLOCK_SECONDS,
                                            .inside = 1e15,
                                            .between = 1e15,
                                            .latency = hop * BLOCK_SECONDS * layers / ranks,
                                            .operand_bytes = 4,
                                            .state_bytes = 4},
                                .load = {.jobs = jobs}};
    return r;
}

static struct split to_split(const struct plan *plan)
{
    struct split split = {.members = (int)plan->ranks,
                          .head = (int)plan->head,
                          .tail = (int)plan->tail,
                          .spare = (int)plan->spare,
                          .floating = plan->floating};
    for (int e = 0; e < SPLIT_EXPERTS; e++)
        for (int b = 0; b < SPLIT_BRANCHES; b++) split.chain[e][b] = (int)plan->chain[e][b];
    for (uint32_t c = 0; c < plan_chains(plan); c++)
        for (uint32_t i = 0; i < plan->ranks; i++) split.run[c * plan->ranks + i] = (int)plan_run(plan, c, i);
    return split;
}

/* Seconds of a step of each of the jobs: simulated, all of them in flight. hit_rate: what the steps had that were measured. */
static double simulate(const struct planner_request *r, const struct plan *plan, double hop, double *hit_rate)
{
    struct split split = to_split(plan);
    struct cached_case c = {.ranks = (int)r->machine.ranks,
                            .jobs = (int)r->load.jobs,
                            .branches = (int)r->job.branches,
                            .layers = (int)r->model.layers,
                            .head = (int)r->load.head,
                            .tail = (int)r->load.tail,
                            .percent = (int)lrint(100 * r->load.hit_rate),
                            .hop = hop};
    struct cached_found found;
    struct error error;
    if (case_laid(&lab, &c, &split, &found, &error) != STATUS_OK) fail_msg("%s", error.text);
    *hit_rate = found.hit_rate;
    return r->load.jobs * BLOCK_SECONDS * r->model.layers / found.simulated;
}

/* The same by the planner, for the layout and the hits that were simulated, while all jobs are in flight. */
static double predict(struct planner_request r, uint32_t ways, bool floating, struct plan *plan)
{
    struct planner_option o;
    struct planner_layout layout = {
        .replicas = 1, .ways = ways, .stages = {r.machine.ranks / ways, 0}, .width = 1, .floating = floating};
    planner_predict(&r, &layout, &o, plan);
    assert_true(o.possible);
    return o.loaded_seconds * fmax(1, (double)r.load.jobs / o.in_flight) / (r.job.steps[0] + r.job.steps[1]);
}

static void expect_predicted(struct planner_request r, uint32_t ways, bool floating, double hop)
{
    struct plan plan;
    double hit_rate;
    predict(r, ways, floating, &plan);
    double simulated = simulate(&r, &plan, hop, &hit_rate);
    r.load.hit_rate = hit_rate;
    double predicted = predict(r, ways, floating, NULL);
    if (!(fabs(predicted / simulated - 1) <= WITHIN))
        fail_msg("%u ranks, %u chains, %u blocks, %u jobs, %u branches, hop %g, %.0f %% hits, %s: predicted "
                 "%.4f s, "
                 "simulated %.4f",
                 r.machine.ranks, ways, r.model.layers, r.load.jobs, r.job.branches, hop, 100 * hit_rate,
                 floating ? "floating" : "fixed", predicted, simulated);
}

static void pipelines_of_2_to_64_ranks_take_what_is_predicted(void **state)
{
    static const struct {
        uint32_t ranks, layers;
    } sizes[] = {{2, 8}, {3, 40}, {4, 40}, {8, 40}, {16, 64}, {64, 64}};
    static const double hops[] = {0, 0.3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (uint32_t branches = 1; branches <= 2; branches++)
            for (int h = 0; h < 2; h++) {
                uint32_t full = (sizes[i].ranks + branches) / branches;
                const uint32_t jobs[] = {1, (full + 1) / 2, full < MOST_JOBS ? full + 1 : MOST_JOBS};
                if (sizes[i].ranks > 8 && (branches == 1 || h == 0))
                    continue; /* they take long to simulate */
                for (int j = 0; j < 3; j++)
                    expect_predicted(
                        make_request(sizes[i].ranks, sizes[i].layers, branches, jobs[j], hops[h]), 1, false,
                        hops[h]);
            }
}

static void cached_pipelines_take_what_is_predicted(void **state)
{
    static const uint32_t ranks[] = {2, 4, 8};
    static const double rates[] = {0.3, 0.54, 0.7};
    for (size_t p = 0; p < 3; p++)
        for (int rate = 0; rate < 3; rate++)
            for (int floating = 0; floating <= 1; floating++)
                for (uint32_t jobs = ranks[p]; jobs <= 2 * ranks[p]; jobs += ranks[p]) {
                    struct planner_request r = make_request(ranks[p], 40, 2, jobs, 0.1);
                    r.load.head = 1;
                    r.load.hit_rate = rates[rate];
                    expect_predicted(r, 1, floating, 0.1);
                }
}

/* Eight first blocks that every step runs are more than home's share of forty on eight ranks: they lie on two, and hits go there
 * as well. */
static void caps_that_home_does_not_hold_take_what_is_predicted(void **state)
{
    static const double rates[] = {0.3, 0.7};
    for (int rate = 0; rate < 2; rate++)
        for (uint32_t jobs = 1; jobs <= 9; jobs += 8) {
            struct planner_request r = make_request(8, 40, 2, jobs, 0.1);
            r.load.head = 8;
            r.load.hit_rate = rates[rate];
            expect_predicted(r, 1, false, 0.1);
        }
}

static void branches_side_by_side_take_what_is_predicted(void **state)
{
    static const uint32_t ranks[] = {2, 4, 8};
    static const double hops[] = {0, 0.1};
    for (size_t p = 0; p < 3; p++)
        for (int h = 0; h < 2; h++)
            for (uint32_t jobs = 1; jobs <= 2 * ranks[p]; jobs += ranks[p] - 1)
                expect_predicted(make_request(ranks[p], 40, 2, jobs, hops[h]), 2, false, hops[h]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelines_of_2_to_64_ranks_take_what_is_predicted),
        cmocka_unit_test(cached_pipelines_take_what_is_predicted),
        cmocka_unit_test(caps_that_home_does_not_hold_take_what_is_predicted),
        cmocka_unit_test(branches_side_by_side_take_what_is_predicted),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
