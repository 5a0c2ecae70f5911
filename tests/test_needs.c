/* test_needs.c - what the coordinator thinks jobs take, from a model's card, against the worker on paper at other sizes than those
 * that the card was measured at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "coordinator/planner/needs.h"
#include "proto/caching.h"
#include "kernels/paper.h"
#include "tests/golden.h"
#include "worker/footprint.h"
#include "worker/needs.h"

/* Of coordinator/models.h, which has a `struct model` of its own. */
status_t card_from_json(const char *text, size_t bytes, Refrain__ModelCard **made, struct error *error);

enum { LAYERS = 8 };

static Refrain__ModelCard *card;

static int read_card(void **state)
{
    char path[512], *text;
    struct error error = {0};
    if (needs_card(golden_path(path, sizeof path, "models/reference"), &text, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    if (card_from_json(text, strlen(text), &card, &error) != STATUS_OK) fail_msg("%s", error.text);
    free(text);
    return 0;
}

static int free_card(void **state)
{
    refrain__model_card__free_unpacked(card, NULL);
    return 0;
}

static Refrain__JobSpec spec_of(const struct job_order *order)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.width = (uint32_t)order->width;
    spec.height = (uint32_t)order->height;
    spec.frames = (uint32_t)order->frames;
    spec.steps = (uint32_t)order->steps;
    spec.guidance = order->guidance;
    return spec;
}

/* Never less than the rank takes, and not much more. */
static struct job_order order_of(int width, int height, int frames, double guidance)
{
    return (struct job_order){.job = 1,
                              .attempt = 1,
                              .prompt = "a",
                              .negative = "a",
                              .steps = 2,
                              .width = width,
                              .height = height,
                              .frames = frames,
                              .fps = 16,
                              .guidance = guidance,
                              .shift = 3};
}

static void expect_near(uint64_t thought, size_t taken, const char *what)
{
    print_message("  %-16s %.1f MB, taken %.1f\n", what, (double)thought / 1e6, (double)taken / 1e6);
    assert_true(thought >= taken);
    assert_true((double)thought < 1.15 * (double)taken + (double)card->need_decode);
}

static void ranks_take_no_more_than_the_coordinator_thinks_and_little_less(void **state)
{
    static const struct {
        int width, height, frames, blocks;
        double guidance;
        size_t decode_memory;
    } cases[] = {{640, 384, 17, 3, 4, 0},
                 {1280, 720, 33, 0, 4, 0},
                 {1280, 720, 9, 5, 1, 0},
                 {832, 480, 81, 2, 4, 300 << 20}};
    char model[512];
    golden_path(model, sizeof model, "models/reference");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct job_order order =
            order_of(cases[i].width, cases[i].height, cases[i].frames, cases[i].guidance);
        const struct split split = {
            .members = 2, .head = cases[i].blocks, .run = {0, LAYERS - cases[i].blocks}};
        struct footprint ranks[2];
        struct needs needs;
        struct error error;
        const struct needs *job = &needs;
        const Refrain__JobSpec spec = spec_of(&order);
        const struct footprint_task task = {
            .order = &order, .jobs = 1, .decode_memory = cases[i].decode_memory};
        if (footprint_measure(model, &split, &task, ranks, &error) != STATUS_OK) fail_msg("%s", error.text);
        needs_of(card, &spec, &(struct needs_rank){.gpu = true, .decode_memory = cases[i].decode_memory},
                 &needs);
        uint32_t home = (uint32_t)cases[i].blocks, stage = LAYERS - home;
        expect_near(needs.home + home * needs.block + needs_at(&job, 1, NULL, 0, home),
                    ranks[0].most.most_device + paper_own_bytes(MEMORY_DEVICE), "home");
        expect_near(stage * needs.block + needs_at(NULL, 0, &job, 1, stage),
                    ranks[1].most.most_device + paper_own_bytes(MEMORY_DEVICE), "stage");
    }
}

/* Of a whole pass each rank has its rows' workspace, which is counted for all of them: more than is taken, never less. */
static void so_it_is_with_two_ranks_wide_stages(void **state)
{
    static const int frames[] = {5, 33, 81};
    char model[512];
    golden_path(model, sizeof model, "models/reference");
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        const struct job_order order = order_of(832, 480, frames[i], 4);
        const struct split split = {.members = 2, .width = 2, .run = {LAYERS, LAYERS}};
        struct footprint ranks[2];
        struct needs needs;
        struct error error;
        const struct needs *job = &needs;
        const Refrain__JobSpec spec = spec_of(&order);
        const struct footprint_task task = {.order = &order, .jobs = 1};
        if (footprint_measure(model, &split, &task, ranks, &error) != STATUS_OK) fail_msg("%s", error.text);
        needs_of(card, &spec, &(struct needs_rank){.gpu = true}, &needs);
        needs_widen(&needs, (uint64_t)caching_tokens(&spec, card) * card->heads * card->head_dim, 2);
        uint64_t home = needs.home + LAYERS * needs.block + needs_at(&job, 1, NULL, 0, LAYERS);
        uint64_t stage = LAYERS * needs.block + needs_at(NULL, 0, &job, 1, LAYERS);
        size_t own = paper_own_bytes(MEMORY_DEVICE);
        print_message("  home %.1f MB, taken %.1f; other %.1f, taken %.1f\n", (double)home / 1e6,
                      (double)(ranks[0].most.most_device + own) / 1e6, (double)stage / 1e6,
                      (double)(ranks[1].most.most_device + own) / 1e6);
        assert_true(home >= ranks[0].most.most_device + own && stage >= ranks[1].most.most_device + own);
        assert_true(home < 2 * ranks[0].most.most_device + card->need_decode);
    }
}

static void one_job_decodes_while_the_others_are_at_their_steps(void **state)
{
    const struct needs a = {.job = 10, .text = 1, .finish = 50, .work = 5, .film = 3},
                       b = {.job = 20, .text = 2, .finish = 10, .work = 7, .film = 4};
    const struct needs *const jobs[] = {&a, &b};
    assert_int_equal(needs_at(jobs, 2, NULL, 0, 4), 7 + (3 + 4) + (20 + 4 * 2) + 50);
    assert_int_equal(needs_at(jobs + 1, 1, NULL, 0, 4), 7 + 4 + (20 + 4 * 2));
}

static void a_stage_has_at_most_four_hops(void **state)
{
    const struct needs a = {.hop = 10, .text = 1, .branches = 2, .backend = 2};
    const struct needs *const jobs[] = {&a, &a, &a};
    assert_int_equal(needs_at(NULL, 0, jobs, 1, 4), 2 + 4 + 20);
    assert_int_equal(needs_at(NULL, 0, jobs, 3, 4), 2 + 12 + 40);
}

static void comparing_takes_the_encoders_and_on_a_cpu_two_films(void **state)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    struct needs plain, compared;
    spec.width = 640;
    spec.height = 384;
    spec.frames = 5;
    spec.steps = 4;
    needs_of(card, &spec, &(struct needs_rank){0}, &plain);
    spec.compare = 1;
    needs_of(card, &spec, &(struct needs_rank){0}, &compared);
    assert_int_equal(compared.film, 2 * plain.film);
    assert_int_equal(plain.film, 640 * 384 * 5 * 3 * 4);
    assert_true(compared.finish > plain.finish);
    assert_true(compared.finish >= card->need_encode + 640 * 384 * card->need_encode_pixel);
}

static void a_card_without_sizes_gives_weights_as_they_are_stored(void **state)
{
    Refrain__ModelCard bare = REFRAIN__MODEL_CARD__INIT;
    struct needs needs;
    bare.layers = 2;
    bare.heads = bare.head_dim = 10;
    bare.ffn_dim = 100;
    bare.parameter_count = 1000000;
    bare.weight_bytes = 2000000;
    needs_of(&bare, NULL, &(struct needs_rank){.gpu = true}, &needs);
    assert_false(needs.sized);
    assert_int_equal(needs.block, 2 * (8 * 100 * 100 + 2 * 100 * 100));
    assert_int_equal(needs.home, 2000000 - 2 * needs.block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_take_no_more_than_the_coordinator_thinks_and_little_less),
        cmocka_unit_test(so_it_is_with_two_ranks_wide_stages),
        cmocka_unit_test(one_job_decodes_while_the_others_are_at_their_steps),
        cmocka_unit_test(a_stage_has_at_most_four_hops),
        cmocka_unit_test(comparing_takes_the_encoders_and_on_a_cpu_two_films),
        cmocka_unit_test(a_card_without_sizes_gives_weights_as_they_are_stored),
    };
    return cmocka_run_group_tests(tests, read_card, free_card);
}
