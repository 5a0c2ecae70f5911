/*
 * test_experts.c - models of two experts against diffusers' WanPipeline (tests/golden/experts.json): every latent on
 * both sides of the boundary, the guidance of each, any number of ranks.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <jansson.h>

#include "tests/golden.h"
#include "tests/pipeline.h"
#include "proto/caching.h"
#include "tests/saved_run.h"
#include "worker/model/card.h"

/* Of one latent, and of the last of up to 50 of them. */
#define LATENT_LIMIT 5e-5
#define FRAME_PSNR   60

/* ------------------------------------------------------------------------------------------ golden runs */

static json_t *load_runs(void)
{
    char path[512];
    json_error_t problem;
    json_t *root = json_load_file(golden_path(path, sizeof path, "tests/golden/experts.json"), 0, &problem);
    if (!root) fail_msg("experts.json: %s", problem.text);
    return root;
}

static const char *text_of(json_t *run, const char *key)
{
    return json_string_value(json_object_get(run, key));
}

static int whole_of(json_t *run, const char *key)
{
    return (int)json_integer_value(json_object_get(run, key));
}

static double real_of(json_t *run, const char *key)
{
    return json_number_value(json_object_get(run, key));
}

static struct job_order read_order(json_t *run)
{
    return (struct job_order){.job = 1,
                              .attempt = 1,
                              .fps = 16,
                              .prompt = text_of(run, "prompt"),
                              .negative = text_of(run, "negative"),
                              .seed = (uint64_t)json_integer_value(json_object_get(run, "seed")),
                              .steps = whole_of(run, "steps"),
                              .width = whole_of(run, "width"),
                              .height = whole_of(run, "height"),
                              .frames = whole_of(run, "frames"),
                              .guidance = real_of(run, "guidance"),
                              .guides_apart = json_is_number(json_object_get(run, "guidance_2")),
                              .guidance_2 = real_of(run, "guidance_2"),
                              .shift = real_of(run, "shift"),
                              .solver =
                                  strcmp(text_of(run, "solver"), "euler") == 0 ? SOLVER_EULER : SOLVER_UNIPC};
}

static json_t *find_run(json_t *root, const char *name)
{
    json_t *run;
    size_t index;
    json_array_foreach(json_object_get(root, "runs"), index,
                       run) if (strcmp(text_of(run, "name"), name) == 0) return run;
    fail_msg("experts.json has no run %s", name);
    return NULL;
}

static struct split whole(const char *model)
{
    return (struct split){.members = 1, .head = strstr(model, "tiny-d") ? 8 : 3};
}

/* Latent after latent of one run; the boundary is the run's own. */
static void check_steps(struct ring *ring, json_t *description, struct golden *g)
{
    const char *name = text_of(description, "name");
    struct engine *engine = ring_engine(ring);
    struct job_order order = read_order(description);
    struct job *job;
    struct error error = {0};
    double worst = 0;
    engine->model->config.boundary = real_of(description, "boundary");
    if (job_create(engine, &order, "/nowhere", &job, &error) != STATUS_OK)
        fail_msg("%s: %s", name, error.text);
    assert_int_equal(job->switch_at, whole_of(description, "high_steps"));
    int seen = 0;
    while (job->life < LIFE_DECODE) {
        int step;
        if (job_between_steps(job, &step) && step > seen) {
            char tensor[32];
            int64_t count;
            snprintf(tensor, sizeof tensor, "step%d.latent", seen);
            if (step == order.steps) snprintf(tensor, sizeof tensor, "latents");
            seen = step;
            if (golden_has(g, tensor)) {
                const float *latent = golden_f32(g, tensor, &count);
                assert_int_equal(count, job->latent_count);
                double distance = golden_relative_l2(job->latent, latent, count);
                if (!(distance <= LATENT_LIMIT))
                    fail_msg("%s: step %d differs by %.2e", name, step, distance);
                if (distance > worst) worst = distance;
            }
        }
        ring_deliver(ring, job, job_advance(job) == JOB_WAITS);
    }
    if (job_outcome(job, &error) != STATUS_OK) fail_msg("%s: %s", name, error.text);
    assert_int_equal(seen, order.steps);
    print_message("%-12s %2d + %2d steps, latents within %.1e\n", name, job->switch_at,
                  order.steps - job->switch_at, worst);
    job_cancel(job);
    while (job_advance(job) != JOB_FINISHED) ring_deliver(ring, job, false);
    job_destroy(job);
}

static void every_latent_on_both_sides_of_the_boundary_equals_diffusers(void **state)
{
    static const char *const models[] = {"tests/models/tiny-d", "tests/models/tiny-e"};
    json_t *root = load_runs(), *run;
    size_t index;
    for (int i = 0; i < 2; i++) {
        struct split split = whole(models[i]);
        struct ring *ring = ring_start(models[i], &split, 1);
        json_array_foreach(json_object_get(root, "runs"), index, run)
        {
            if (strcmp(text_of(run, "model"), models[i]) != 0) continue;
            struct golden *g = golden_open(text_of(run, "golden"));
            check_steps(ring, run, g);
            golden_close(g);
        }
        ring_end(ring);
    }
    assert_true(index >= 10);
    json_decref(root);
}

/* ------------------------------------------------------------------------------------------------- bits */

static void run_on(struct pipeline_run *run, json_t *description, const struct split *split, int threads)
{
    *run = (struct pipeline_run){.model = text_of(description, "model"),
                                 .order = read_order(description),
                                 .split = *split,
                                 .threads = threads};
    pipeline_execute(run);
    if (run->outcome != STATUS_OK) fail_msg("%d members: %s", split->members, run->error.text);
}

/* Ranks, split, floating homes and threads may not change a bit, on either side of the boundary. */
static void check_bits(json_t *description, const struct split *splits, int count)
{
    struct pipeline_run alone, run;
    run_on(&alone, description, &(struct split){.members = 1}, 1);
    struct golden *g = golden_open(text_of(description, "golden"));
    int64_t floats;
    if (golden_has(g, "frames")) {
        double psnr = golden_psnr(alone.frames, golden_f32(g, "frames", &floats), alone.frame_count);
        assert_int_equal(floats, alone.frame_count);
        if (!(psnr >= FRAME_PSNR)) fail_msg("frames at %.1f dB", psnr);
    }
    golden_close(g);
    for (int i = 0; i < count; i++) {
        run_on(&run, description, &splits[i], 1 + i % 3);
        assert_int_equal(run.latent_count, alone.latent_count);
        assert_memory_equal(run.latents, alone.latents, (size_t)alone.latent_count * sizeof(float));
        assert_memory_equal(run.frames, alone.frames, (size_t)alone.frame_count * sizeof(float));
        pipeline_free(&run);
    }
    pipeline_free(&alone);
}

static void any_number_of_ranks_and_threads_makes_the_same_bits(void **state)
{
    static const struct split eight[] =
        {{.members = 1, .head = 8},
         {.members = 2, .head = 4, .run = {0, 4}},
         {.members = 3, .head = 1, .tail = 1, .run = {0, 3, 3}},
         {.members = 3, .head = 2, .run = {1, 2, 3}},
         {.members = 2, .head = 2, .tail = 1, .spare = 2, .run = {0, 5}},
         /* a chain for each expert, for each branch, for each of both */
         {.members = 3, .head = 1, .tail = 1, .chain = {{0, 0}, {1, 1}}, .run = {0, 6, 0, 0, 0, 6}},
         {.members = 3, .head = 1, .chain = {{0, 1}, {0, 1}}, .run = {1, 6, 0, 0, 0, 7}},
         {.members = 5, .head = 1, .tail = 1, .chain = {{0, 1}, {2, 3}}, .run = {0, 6, 0, 0, 0, 0, 0,
                                                                                 6, 0, 0, 0, 0, 0, 6,
                                                                                 0, 0, 0, 0, 0, 6}}},
                              three[] = {{.members = 2, .head = 1, .tail = 1, .run = {0, 1}},
                                         {.members = 3, .head = 1, .run = {0, 1, 1}}};
    json_t *root = load_runs();
    check_bits(find_run(root, "d-unipc"), eight, 8);
    check_bits(find_run(root, "d-same"), eight, 3);
    check_bits(find_run(root, "e-euler"), three, 2);
    json_decref(root);
}

/* ---------------------------------------------------------------------------------------------- caching */

enum { HIGH = 5 }; /* of STEPS, in saved_order() of this model */

/* Random weights see a time embedding change more than trained ones do. */
static const char *setting(int i)
{
    if (strncmp(saved_settings[i], "teacache", 8) != 0) return saved_settings[i];
    return strstr(saved_settings[i], "retention") ? "teacache:threshold=9,retention=1,first=2"
                                                  : "teacache:threshold=9";
}

static int start_rings(void **state)
{
    saved_start_rings_of("tests/models/tiny-d");
    return 0;
}

/* What the coordinator has of the model. */
static Refrain__ModelCard card_of(const char *model)
{
    char path[512], *text;
    struct error error = {0};
    Refrain__ModelCard card = REFRAIN__MODEL_CARD__INIT;
    if (model_card_json(golden_path(path, sizeof path, model), &text, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    json_t *json = json_loads(text, 0, NULL);
    card.layers = (uint32_t)whole_of(json, "layers");
    card.heads = (uint32_t)whole_of(json, "heads");
    card.head_dim = (uint32_t)whole_of(json, "head_dim");
    card.ffn_dim = (uint32_t)whole_of(json, "ffn_dim");
    card.latent_channels = (uint32_t)whole_of(json, "latent_channels");
    card.solver = (Refrain__Solver)whole_of(json, "solver");
    card.experts = (uint32_t)whole_of(json, "experts");
    card.boundary = real_of(json, "boundary");
    card.train_steps = (uint32_t)whole_of(json, "train_steps");
    json_decref(json);
    free(text);
    return card;
}

/* Without tensors, from the card alone, the coordinator knows where each job switches. */
static void the_coordinator_knows_where_the_second_expert_takes_over(void **state)
{
    const Refrain__ModelCard card = card_of("tests/models/tiny-d");
    struct engine *engine = ring_engine(saved_rings[0]);
    for (int steps = 1; steps <= 60; steps++)
        for (int shift = 1; shift <= 12; shift += 3)
            for (int euler = 0; euler < 2; euler++) {
                Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
                struct job_order order = saved_order(NULL);
                struct job *job;
                struct error error;
                order.steps = steps;
                order.shift = shift;
                order.solver = euler ? SOLVER_EULER : SOLVER_UNIPC;
                spec.has_steps = spec.has_shift = spec.has_solver = 1;
                spec.steps = (uint32_t)steps;
                spec.shift = shift;
                spec.solver = euler ? REFRAIN__SOLVER__SOLVER_EULER : REFRAIN__SOLVER__SOLVER_UNIPC;
                if (job_create(engine, &order, "/nowhere", &job, &error) != STATUS_OK)
                    fail_msg("%s", error.text);
                assert_int_equal(job->switch_at, caching_switch(&spec, &card));
                job_destroy(job);
            }
}

/* What decides by the number of the step alone is foreseen exactly, the forced steps of the switch included. */
static void a_rehearsal_says_what_a_job_of_two_experts_then_does(void **state)
{
    static const char *const texts[] = {"interval:N=3",
                                        "interval:N=3,first=4,last=2,forecast=taylor1",
                                        "mask:mask=11100001000100",
                                        "zeus:first=3,late=0",
                                        "layers:every=3,begin=2,end=6",
                                        "magcache:threshold=0.5"};
    const Refrain__ModelCard card = card_of("tests/models/tiny-d");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct job_order order = saved_order(texts[i]);
        struct saved_run run = saved_run(saved_rings[0], &order, NULL, false);
        Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
        Refrain__CacheTable table = REFRAIN__CACHE_TABLE__INIT, *tables = &table;
        struct caching_outlook outlook;
        struct error error;
        int skipped = 0, of_expert[2] = {0}, cells_of[2] = {0}, branches = run.cells / STEPS;
        spec.has_steps = spec.has_guidance = spec.has_shift = spec.has_width = 1;
        spec.steps = STEPS;
        spec.guidance = order.guidance;
        spec.shift = order.shift;
        spec.cache = (char *)(uintptr_t)texts[i];
        table.kind = (char *)(uintptr_t)order.tables[0].kind;
        table.name = (char *)(uintptr_t)order.tables[0].name;
        table.has_width = table.width = 1;
        table.values = (double *)(uintptr_t)order.tables[0].values;
        table.n_values = STEPS;
        spec.cache_tables = &tables;
        spec.n_cache_tables = 1;
        if (caching_foresee(&spec, &card, &outlook, &error) != STATUS_OK) fail_msg("%s", error.text);
        assert_true(outlook.certain);
        for (int cell = 0; cell < run.cells; cell++) {
            int expert = (uint32_t)(cell / branches) >= caching_switch(&spec, &card);
            bool skips = run.actions[cell] != REUSE_COMPUTED;
            skipped += skips;
            of_expert[expert] += skips;
            cells_of[expert]++;
        }
        if (fabs(outlook.share - (double)skipped / run.cells) > 1e-9)
            fail_msg("%s: %g was rehearsed, %g was skipped", texts[i], outlook.share,
                     (double)skipped / run.cells);
        for (int e = 0; e < 2; e++)
            if (fabs(outlook.expert_share[e] - (double)of_expert[e] / cells_of[e]) > 1e-9)
                fail_msg("%s, expert %d: %g was rehearsed, %g was skipped", texts[i], e, outlook.expert_share[e],
                         (double)of_expert[e] / cells_of[e]);
        saved_free(&run);
    }
}

/* From any step of any caching, on the one side or the other. */
static void jobs_go_on_from_either_side_of_the_boundary_with_the_same_bits(void **state)
{
    for (int i = 0; i < SAVED_SETTINGS; i++) {
        struct job_order order = saved_order(setting(i));
        order.guides_apart = i % 2;
        order.guidance_2 = 2.5;
        assert_int_equal(saved_check_every_step(&order, saved_rings[1 + i % 2], false), STEPS + 1);
    }
    struct job_order order = saved_order(NULL);
    assert_int_equal(saved_check_every_step(&order, saved_rings[2], false), STEPS + 1);
}

static void the_second_expert_begins_with_a_computed_step_whatever_the_caching(void **state)
{
    int reused_before = 0, reused_after = 0;
    for (int i = 0; i < SAVED_SETTINGS; i++) {
        struct job_order order = saved_order(setting(i));
        struct saved_run run = saved_run(saved_rings[i % SAVED_RINGS], &order, NULL, false);
        int branches = run.cells / STEPS;
        for (int cell = 0; cell < run.cells; cell++) {
            bool computed = run.actions[cell] == REUSE_COMPUTED;
            if (cell / branches == HIGH && !computed) fail_msg("%s: reused across the boundary", setting(i));
            reused_before += cell / branches < HIGH && !computed;
            reused_after += cell / branches > HIGH && !computed;
        }
        saved_free(&run);
    }
    assert_true(reused_before > 50 && reused_after > 200);
}

static void a_warm_up_is_each_experts_own(void **state)
{
    struct job_order order = saved_order("dbcache:F1B0,W3,threshold=1");
    struct saved_run run = saved_run(saved_rings[0], &order, NULL, false);
    for (int step = 0; step < STEPS; step++) {
        int age = step < HIGH ? step : step - HIGH;
        assert_int_equal(run.actions[2 * step] == REUSE_COMPUTED, age < 3);
        assert_int_equal(run.reasons[2 * step], age < 3 ? REASON_WARMUP : REASON_BELOW);
    }
    saved_free(&run);
}

/* What may be reused in all, and in a row, is counted anew. */
static void counts_are_each_experts_own(void **state)
{
    struct job_order order = saved_order("dbcache:F1B0,W1,M=2,threshold=1");
    struct saved_run run = saved_run(saved_rings[0], &order, NULL, false);
    for (int step = 0; step < STEPS; step++) {
        int age = step < HIGH ? step : step - HIGH;
        assert_int_equal(run.actions[2 * step] == REUSE_COMPUTED, age == 0 || age > 2);
    }
    saved_free(&run);
}

int main(void)
{
    const struct CMUnitTest caching[] = {
        cmocka_unit_test(the_second_expert_begins_with_a_computed_step_whatever_the_caching),
        cmocka_unit_test(the_coordinator_knows_where_the_second_expert_takes_over),
        cmocka_unit_test(a_rehearsal_says_what_a_job_of_two_experts_then_does),
        cmocka_unit_test(a_warm_up_is_each_experts_own),
        cmocka_unit_test(counts_are_each_experts_own),
        cmocka_unit_test(jobs_go_on_from_either_side_of_the_boundary_with_the_same_bits),
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_latent_on_both_sides_of_the_boundary_equals_diffusers),
        cmocka_unit_test(any_number_of_ranks_and_threads_makes_the_same_bits),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed + cmocka_run_group_tests(caching, start_rings, saved_end_rings);
}
