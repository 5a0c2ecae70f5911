/*
 * test_planner_memory.c - what the planner says that ranks hold, where a model's card says what its jobs take, beside what the worker
 * allocates on paper (worker/footprint.h): no less, and hardly more.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/card.h"
#include "coordinator/planner/planner.h"
#include "kernels/paper.h"
#include "tests/footprint_rig.h"
#include "tests/golden.h"
#include "worker/footprint.h"
#include "worker/needs.h"

enum { MOST_RANKS = 8, STEPS = 20 };

/* Of a rank without a decoder; of one with it, whose constant for small videos, which pass through it several frames at a time, is a
 * bound (docs/gpu.md): 190 MB of this small model. */
#define STAGE_SLACK 1.05
#define LARGE_SLACK 1.1
#define SMALL_SLACK 2

static struct planner_model model_of(const Refrain__ModelCard *card)
{
    return (struct planner_model){.layers = card->layers,
                                  .heads = card->heads,
                                  .head_dim = card->head_dim,
                                  .ffn = card->ffn_dim,
                                  .experts = card->experts > 1 ? 2 : 1,
                                  .text_tokens = card->text_length,
                                  .pixels_per_token = card->size_multiple,
                                  .pixels_per_frame_token = card->frame_multiple,
                                  .schedule = {.shift = card->shift, .train_steps = 1000},
                                  .boundary = card->boundary,
                                  .parameter_bytes = 2};
}

static struct needs needs_for(const Refrain__ModelCard *card, const struct planner_job *job)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    struct needs needs;
    spec.width = job->width, spec.height = job->height, spec.frames = job->frames;
    spec.has_width = spec.has_height = spec.has_frames = spec.has_steps = spec.has_guidance = 1;
    spec.steps = STEPS;
    spec.guidance = 4;
    spec.cache = (char *)"off";
    needs_of(card, &spec, &(struct needs_rank){.gpu = true}, &needs);
    assert_true(needs.sized);
    return needs;
}

static struct split split_of(const struct plan *plan)
{
    struct split split = {.members = (int)plan->ranks,
                          .head = (int)plan->head,
                          .tail = (int)plan->tail,
                          .spare = (int)plan->spare,
                          .width = (int)plan_width(plan)};
    for (int e = 0; e < PLAN_EXPERTS; e++)
        for (int b = 0; b < PLAN_BRANCHES; b++) split.chain[e][b] = (int)plan->chain[e][b];
    for (uint32_t i = 0; i < plan_chains(plan) * plan->ranks; i++) split.run[i] = (int)plan->run[i];
    return split;
}

/* The fullest rank from `first` on, on paper, with what its backend takes. */
static double fullest(const struct footprint *ranks, int first, int count)
{
    size_t most = 0;
    for (int i = first; i < count; i++)
        if (ranks[i].most.most_device > most) most = ranks[i].most.most_device;
    return (double)(most + paper_own_bytes(MEMORY_DEVICE));
}

static void allocate(const char *directory, const struct split *split, const struct planner_job *job,
                     struct footprint *ranks)
{
    struct error error;
    const struct job_order order = footprint_order(&(struct footprint_case){
        .width = (int)job->width, .height = (int)job->height, .frames = (int)job->frames, .guidance = 4});
    const struct footprint_task task = {.order = &order, .jobs = 1};
    if (footprint_measure(directory, split, &task, ranks, &error) != STATUS_OK) fail_msg("%s", error.text);
}

static void expect_covered(const char *what, double said, double found, double slack)
{
    if (!(said >= 0.999 * found && said <= slack * found))
        fail_msg("%s: %.0f bytes were said, %.0f are allocated", what, said, found);
}

static void check(const char *name, uint32_t width, uint32_t height, uint32_t frames,
                  struct planner_layout layout, double slack)
{
    char directory[512], *text;
    Refrain__ModelCard *card;
    struct error error;
    struct planner_request r = {.machine = {.per_node = MOST_RANKS,
                                            .block_seconds = 1,
                                            .inside = 1e12,
                                            .between = 1e12,
                                            .operand_bytes = 2,
                                            .state_bytes = 4},
                                .load = {.jobs = 1}};
    struct planner_option option;
    struct plan plan;
    golden_path(directory, sizeof directory, name);
    assert_int_equal(needs_card(directory, &text, &error), STATUS_OK);
    assert_int_equal(card_from_json(text, strlen(text), &card, &error), STATUS_OK);
    r.model = model_of(card);
    if (planner_size(&r.model, width, height, frames, &r.job, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    planner_steps(&r.model, STEPS, 2, &r.job);
    const struct needs needs = needs_for(card, &r.job);
    r.needs = &needs;
    r.machine.ranks = layout.ways * (layout.stages[0] + layout.stages[1]) * layout.width;
    planner_predict(&r, &layout, &option, &plan);
    assert_true(option.possible);
    struct split split = split_of(&plan);
    struct footprint ranks[MOST_RANKS];
    char what[128];
    snprintf(what, sizeof what, "%s %ux%ux%u, %u ranks in %u ways", name, width, height, frames,
             r.machine.ranks, layout.ways);
    allocate(directory, &split, &r.job, ranks);
    expect_covered(what, (double)option.memory_bytes, fullest(ranks, 0, split.members), slack);
    if (split.members > 1)
        expect_covered(what, (double)option.stage_bytes, fullest(ranks, 1, split.members), STAGE_SLACK);
    refrain__model_card__free_unpacked(card, NULL);
    free(text);
}

static void chains_hold_what_was_said(void **state)
{
    for (uint32_t stages = 1; stages <= 4; stages++) {
        const struct planner_layout chain = {.replicas = 1, .ways = 1, .stages = {stages, 0}, .width = 1};
        check("models/reference", 128, 128, 17, chain, SMALL_SLACK);
        check("models/reference", 512, 512, 33, chain, LARGE_SLACK);
    }
}

static void branches_apart_hold_what_was_said(void **state)
{
    for (uint32_t stages = 1; stages <= 2; stages++) {
        const struct planner_layout ways = {.replicas = 1, .ways = 2, .stages = {stages, 0}, .width = 1};
        check("models/reference", 512, 512, 33, ways, LARGE_SLACK);
    }
}

static void wide_stages_hold_what_was_said(void **state)
{
    for (uint32_t width = 2; width <= 4; width += 2)
        for (uint32_t stages = 1; stages <= 2; stages++) {
            const struct planner_layout wide = {
                .replicas = 1, .ways = 1, .stages = {stages, 0}, .width = width};
            check("models/reference", 512, 512, 33, wide, LARGE_SLACK);
        }
}

static void two_experts_hold_what_was_said(void **state)
{
    check("tests/models/tiny-d", 64, 64, 17,
          (struct planner_layout){.replicas = 1, .ways = 1, .stages = {1, 0}, .width = 1}, SMALL_SLACK);
    check("tests/models/tiny-d", 64, 64, 17,
          (struct planner_layout){.replicas = 1, .ways = 1, .stages = {2, 1}, .width = 1}, SMALL_SLACK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_hold_what_was_said),
        cmocka_unit_test(branches_apart_hold_what_was_said),
        cmocka_unit_test(wide_stages_hold_what_was_said),
        cmocka_unit_test(two_experts_hold_what_was_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
