/*
 * test_sim_choice.c - is another layout of the same ranks faster than the one the planner takes? All that it lists are run by the
 * service's own ranks on the virtual clock.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/sim_lab.h"
#include "tools/sim/layouts.h"

enum { LAYERS = 8, TOKENS = 16 };

#define AS_GOOD 1.03

struct load {
    uint32_t ranks, per_node, jobs, branches;
    double inside, between, latency; /* a block takes 0.01 s on one rank, its exchange on two 2 kB */
};

static struct planner_request request_of(const struct load *load, uint32_t steps)
{
    struct planner_request r = {.model = {.layers = LAYERS,
                                          .heads = WIDE_HEADS,
                                          .head_dim = WIDE_HEAD_DIM,
                                          .ffn = 56,
                                          .experts = 2,
                                          .text_tokens = 8,
                                          .schedule = {.shift = 12, .train_steps = 1000},
                                          .boundary = 0.875,
                                          .parameter_bytes = 2},
                                .job = {.width = 64, .height = 64, .frames = 1, .tokens = TOKENS},
                                .machine = {.ranks = load->ranks,
                                            .per_node = load->per_node,
                                            .block_seconds = 0.01,
                                            .inside = load->inside,
                                            .between = load->between,
                                            .latency = load->latency,
                                            .operand_bytes = 4,
                                            .state_bytes = 4},
                                .load = {.jobs = load->jobs}};
    planner_steps(&r.model, steps, load->branches, &r.job);
    return r;
}

static double simulate(const struct planner_request *r, const struct planner_layout *layout)
{
    struct planned_found found;
    struct error error;
    if (case_planned(&lab, r, layout, &found, &error) != STATUS_OK) fail_msg("%s", error.text);
    return found.simulated;
}

static void expect_good(const struct load *load)
{
    const struct planner_request r = request_of(load, 6);
    struct planner_answer answer;
    struct error error;
    char chosen[PLANNER_NAME_BYTES], better[PLANNER_NAME_BYTES];
    if (planner_choose(&r, &answer, &error) != STATUS_OK) fail_msg("%s", error.text);
    planner_describe(&answer.option[0].layout, chosen);
    double taken = simulate(&r, &answer.option[0].layout), best = taken;
    for (size_t i = 1; i < answer.count; i++) {
        double seconds = simulate(&r, &answer.option[i].layout);
        if (seconds >= best) continue;
        best = seconds;
        planner_describe(&answer.option[i].layout, better);
    }
    planner_free(&answer);
    if (taken > AS_GOOD * best)
        fail_msg(
            "%u ranks, %u a node, %u jobs of %u branches, links %g and %g, latency %g: %s take %.4f s, %s "
            "%.4f",
            load->ranks, load->per_node, load->jobs, load->branches, load->inside, load->between,
            load->latency, chosen, taken, better, best);
}

/* Fast: an exchange is 1 % of a block; medium: a third; slow: as long as the block. */
static const double links[] = {1e7, 6e5, 2e5};

static void no_layout_of_four_ranks_is_more_than_3_percent_better_than_the_choice(void **state)
{
    static const uint32_t jobs[] = {1, 2, 3, 5};
    for (int link = 0; link < 3; link++)
        for (int j = 0; j < 4; j++)
            expect_good(&(struct load){.ranks = 4,
                                       .per_node = j % 2 ? 2 : 4,
                                       .jobs = jobs[j],
                                       .branches = 1 + (j + link) % 2,
                                       .inside = j % 2 ? links[0] : links[link],
                                       .between = links[link],
                                       .latency = 0.00002});
}

static void no_layout_of_eight_ranks_is_more_than_3_percent_better_than_the_choice(void **state)
{
    static const uint32_t jobs[] = {1, 5};
    for (int link = 0; link < 3; link++)
        for (int j = 0; j < 2; j++)
            expect_good(&(struct load){.ranks = 8,
                                       .per_node = j % 2 ? 4 : 8,
                                       .jobs = jobs[j],
                                       .branches = 2,
                                       .inside = j % 2 ? links[0] : links[link],
                                       .between = links[link],
                                       .latency = 0.00002});
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_layout_of_four_ranks_is_more_than_3_percent_better_than_the_choice),
        cmocka_unit_test(no_layout_of_eight_ranks_is_more_than_3_percent_better_than_the_choice),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    return cmocka_run_group_tests(tests, open_wide_lab, close_lab);
}
