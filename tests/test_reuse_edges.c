/*
 * test_reuse_edges.c - the caching engine where little is left to decide: one or two steps, one branch, rings
 * of one slot, every policy with every forecast; and that memory is what the plan said.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cache/blocks.h"
#include "cache/reuse.h"
#include "tests/device.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "tests/pipeline.h"

enum { STEPS = 12, LAYERS = 8, HIDDEN = 16, FRAMES = 2, HEIGHT = 3, WIDTH = 5, LATENT_ROWS = 8 };
enum { TOKENS = FRAMES * HEIGHT * WIDTH, LATENT = LATENT_ROWS * 4 * HEIGHT * WIDTH };

/* Tables that fit any model. */
static double ratios[STEPS], sensitivities[2 * STEPS], products[STEPS * STEPS];
static const double polynomial[] = {0, 0, 0, 1, 0};
static struct cache_table tables[] = {
    {.kind = "teacache", .name = "t", .width = 5, .count = 5, .values = polynomial},
    {.kind = "magcache", .name = "m", .width = 1, .values = ratios},
    {.kind = "sencache", .name = "s", .width = 2, .values = sensitivities},
    {.kind = "l2p", .name = "l", .values = products},
};
enum { TABLES = sizeof tables / sizeof *tables };

static void fit_tables(int steps)
{
    for (int i = 0; i < steps; i++) {
        ratios[i] = 1;
        sensitivities[2 * i] = sensitivities[2 * i + 1] = 0.001;
        for (int k = 0; k < steps; k++) products[i * steps + k] = 1 + (i == k);
    }
    tables[1].count = steps;
    tables[2].count = 2 * steps;
    tables[3].count = steps * steps;
    tables[3].width = steps;
}

static struct pipeline_run small_run(const char *cache, int steps, double guidance)
{
    fit_tables(steps);
    return (struct pipeline_run){.model = "models/reference",
                                 .order = {.job = 1,
                                           .attempt = 1,
                                           .prompt = "a green circle growing on a black background",
                                           .seed = 5,
                                           .steps = steps,
                                           .width = 32,
                                           .height = 32,
                                           .frames = 5,
                                           .fps = 8,
                                           .guidance = guidance,
                                           .shift = 3,
                                           .cache = cache,
                                           .tables = tables,
                                           .table_count = TABLES}};
}

static void execute(struct pipeline_run *run)
{
    pipeline_execute(run);
    if (run->outcome != STATUS_OK)
        fail_msg("%s, %d steps, guidance %g: %s", run->order.cache, run->order.steps, run->order.guidance,
                 run->error.text);
}

/* What each needs to be taken at any number of steps. */
static void text_of(const struct policy *policy, int steps, char text[128])
{
    char ones[STEPS + 1] = {0};
    memset(ones, '1', (size_t)steps);
    if (steps > 1) ones[steps - 1] = '0';
    bool masked = strcmp(policy->name, "mask") == 0 || strcmp(policy->name, "meancache") == 0;
    bool deep = strcmp(policy->name, "dbcache") == 0 || strcmp(policy->name, "dbprune") == 0;
    snprintf(text, 128, "%s%s%s%s", policy->name, masked ? ":mask=" : "", masked ? ones : "",
             deep ? ":F1B0" : "");
}

/* Two jobs at a time, so that the model is loaded once for both. */
static void every_policy_makes_videos_of_one_and_two_steps_with_one_branch_or_two(void **state)
{
    for (int p = 0; policies[p]; p++) {
        char one[128], two[128];
        text_of(policies[p], 1, one);
        text_of(policies[p], 2, two);
        struct pipeline_run run = small_run(one, 1, 1), beside = small_run(two, 2, 4);
        bool fitted = strcmp(policies[p]->name, "sencache") == 0; /* its table is for 2 steps now */
        if (fitted) run.order.steps = 2;
        beside.order.job = 2;
        run.beside = &beside;
        execute(&run);
        if (beside.outcome != STATUS_OK) fail_msg("%s: %s", two, beside.error.text);
        assert_int_equal(run.actions[0], REUSE_COMPUTED); /* nothing could stand in for it */
        assert_int_equal(beside.actions[0], REUSE_COMPUTED);
        pipeline_free(&run);
        pipeline_free(&beside);
    }
}

/* Skips the same steps as `cache` did: a mask and the same forecast must then give the same bits. */
static void assert_equals_its_mask(const char *cache, const char *forecast)
{
    struct pipeline_run run = small_run(cache, STEPS, 1);
    char text[256], mask[STEPS + 1] = {0};
    int skipped = 0;
    execute(&run);
    for (int i = 0; i < STEPS; i++) {
        mask[i] = run.actions[i] == REUSE_COMPUTED ? '1' : '0';
        skipped += mask[i] == '0';
    }
    if (skipped == 0) fail_msg("%s: skipped nothing", cache);
    snprintf(text, sizeof text, "mask:mask=%s,forecast=%s", mask, forecast);
    struct pipeline_run same = small_run(text, STEPS, 1);
    execute(&same);
    assert_memory_equal(run.actions, same.actions, STEPS);
    if (memcmp(run.latents, same.latents, (size_t)run.latent_count * sizeof(float)) != 0)
        fail_msg("%s: other latents than %s", cache, text);
    pipeline_free(&run);
    pipeline_free(&same);
}

static void what_stands_in_does_not_depend_on_who_decided(void **state)
{
    assert_equals_its_mask("seacache:threshold=0.3,forecast=freqca", "freqca");
    assert_equals_its_mask("seacache:threshold=0.3,forecast=worldcache", "worldcache");
    assert_equals_its_mask("teacache:threshold=4,forecast=freqca", "freqca");
    assert_equals_its_mask("interval:N=3,first=3,forecast=taylor2", "taylor2");
}

/* ---------------------------------------------------------------------------------------------- memory */

static double sigmas[STEPS + 1];

static struct reuse_shape small_shape(int branches)
{
    fit_tables(STEPS);
    for (int i = 0; i <= STEPS; i++) sigmas[i] = 1 - (double)i / STEPS;
    return (struct reuse_shape){.job = {.steps = STEPS,
                                        .layers = LAYERS,
                                        .branches = branches,
                                        .shift = 3,
                                        .sigmas = sigmas,
                                        .tables = tables,
                                        .table_count = TABLES},
                                .frames = FRAMES,
                                .height = HEIGHT,
                                .width = WIDTH,
                                .hidden = HIDDEN,
                                .latent_rows = LATENT_ROWS,
                                .latent_width = LATENT / LATENT_ROWS};
}

/* Besides tensors of features: a group by token, matrices of the lattice's sides; and every piece may be rounded
 * up to 64 bytes. */
static uint64_t beside_tensors(const struct reuse_shape *shape)
{
    uint64_t sides = FRAMES * FRAMES + HEIGHT * HEIGHT + WIDTH * WIDTH, pieces = 2 * 80;
    return TOKENS * 4 + 3 * sides * sizeof(float) + pieces * 64;
}

static uint64_t taken(const struct cache_settings *settings, const struct reuse_shape *shape,
                      const struct cache_plan *plan)
{
    struct error error;
    struct reuse *reuse;
    const struct ops *ops = guarded_or("ref");
    struct team *team = device_team(ops, 1);
    if (reuse_create(settings, shape, ops, team, &reuse, &error) != STATUS_OK) fail_msg("%s", error.text);
    uint64_t bytes = reuse_bytes(reuse);
    reuse_destroy(reuse);
    device_team_free(ops, team);
    for (int b = 0; b < shape->job.branches && plan->policy.site == SITE_BLOCKS; b++)
        for (int half = 0; half < 2; half++) { /* as two ranks hold them */
            bool held[LAYERS];
            struct blocks *blocks;
            for (int i = 0; i < LAYERS; i++) held[i] = (i < LAYERS / 2) == (half == 0);
            if (blocks_create(settings, &shape->job, held, TOKENS, NULL, HIDDEN, ops, &blocks, &error) != STATUS_OK)
                fail_msg("%s", error.text);
            bytes += blocks_bytes(blocks);
            blocks_destroy(blocks);
        }
    return bytes;
}

static void memory_is_what_the_plan_said_for_every_policy_and_forecast(void **state)
{
    struct error error;
    int compared = 0;
    for (int branches = 1; branches <= 2; branches++)
        for (int p = 0; policies[p]; p++)
            for (int f = 0; forecasts[f]; f++) {
                struct reuse_shape shape = small_shape(branches);
                struct cache_settings settings;
                struct cache_plan plan;
                char policy[128], text[256];
                text_of(policies[p], STEPS, policy);
                snprintf(text, sizeof text, "%s%sforecast=%s", policy, strchr(policy, ':') ? "," : ":",
                         forecasts[f]->name);
                if (cache_settings_read(text, &settings, &error) != STATUS_OK ||
                    cache_settings_plan(&settings, &shape.job, &plan, &error) != STATUS_OK) {
                    if (f > 0) continue; /* it cannot be combined, which other tests look at */
                    if (cache_settings_read(policy, &settings, &error) != STATUS_OK ||
                        cache_settings_plan(&settings, &shape.job, &plan, &error) != STATUS_OK)
                        fail_msg("%s: %s", policy, error.text);
                }
                uint64_t planned = cache_plan_bytes(&settings, &plan, &shape.job, TOKENS, HIDDEN, LATENT);
                uint64_t bytes = taken(&settings, &shape, &plan);
                if (bytes < planned || bytes > planned + 4 * beside_tensors(&shape))
                    fail_msg("%s: takes %lu bytes, planned were %lu", text, (unsigned long)bytes,
                             (unsigned long)planned);
                compared++;
            }
    assert_true(compared > 200);
}

/* ------------------------------------------------------------------------------------- policies to be */

static struct policy_plan wanted;
static int known, observed;

static status_t plan_wanted(const double *value, const struct policy_job *job, struct policy_plan *plan,
                            struct error *error)
{
    *plan = wanted;
    return STATUS_OK;
}

static struct verdict compute(const struct policy_now *now, void *state)
{
    return verdict(ACTION_COMPUTE, REASON_MASK, CHANGE_NONE);
}

static void count_residuals(const struct policy_now *now, const struct verdict *taken, void *state)
{
    observed++;
    known += (now->signals->known & SIGNAL_BIT(SIGNAL_RESIDUAL)) != 0;
}

static struct policy new_policy = {.name = "new", .plan = plan_wanted, .begin = compute};

static struct cache_settings new_settings(struct policy_plan plan)
{
    struct cache_settings settings;
    struct error error;
    wanted = plan;
    assert_int_equal(cache_settings_read("interval", &settings, &error), STATUS_OK); /* forecast: reuse */
    settings.policy = &new_policy;
    return settings;
}

static void a_residual_is_measured_at_every_site_even_if_one_would_do_for_the_forecast(void **state)
{
    static float hidden[TOKENS * HIDDEN], output[LATENT];
    const enum reuse_site sites[] = {SITE_SPAN, SITE_OUTPUT, SITE_VELOCITY};
    struct error error;
    const struct ops *ops = guarded_or("ref");
    struct team *team = device_team(ops, 1);
    for (int i = 0; i < TOKENS * HIDDEN; i++) hidden[i] = (float)i;
    for (int i = 0; i < LATENT; i++) output[i] = (float)i;
    float *x = device_floats(ops, team, hidden, TOKENS * HIDDEN),
          *time = device_floats(ops, team, NULL, 7 * HIDDEN);
    float *latent = device_floats(ops, team, NULL, LATENT),
          *velocity = device_floats(ops, team, output, LATENT);
    new_policy.observe = count_residuals;
    for (size_t s = 0; s < sizeof sites / sizeof *sites; s++) {
        struct reuse_shape shape = small_shape(1);
        struct cache_settings settings =
            new_settings((struct policy_plan){.site = sites[s], .signals = SIGNAL_BIT(SIGNAL_RESIDUAL)});
        struct reuse_seen seen = {.latent = latent, .time = time, .projection = time + HIDDEN};
        struct reuse *reuse;
        known = observed = 0;
        if (reuse_create(&settings, &shape, ops, team, &reuse, &error) != STATUS_OK)
            fail_msg("%s", error.text);
        for (int step = 0; step < 4; step++) {
            reuse_step(reuse, team, step);
            assert_int_equal(reuse_begin(reuse, team, 0, &seen), ACTION_COMPUTE);
            if (sites[s] == SITE_SPAN) {
                reuse_enter(reuse, team, 0, latent);
                reuse_leave(reuse, team, 0, x);
            }
            reuse_observe(reuse, team, 0, latent, velocity);
            device_wait(ops, team);
        }
        assert_int_equal(observed, 4);
        assert_int_equal(known, 3); /* all but the first step */
        reuse_destroy(reuse);
    }
    new_policy.observe = NULL;
    device_free(ops, team, x);
    device_free(ops, team, time);
    device_free(ops, team, latent);
    device_free(ops, team, velocity);
    device_team_free(ops, team);
}

/* A mistake in a policy is a sentence, not a crash and not a policy that never fires. */
static void a_policy_that_asks_for_what_its_site_never_sees_is_refused(void **state)
{
    const struct policy_plan wrong[] = {
        {.site = SITE_OUTPUT, .signals = SIGNAL_BIT(SIGNAL_INPUT)},
        {.site = SITE_VELOCITY, .signals = SIGNAL_BIT(SIGNAL_FILTERED)},
        {.site = SITE_OUTPUT, .signals = SIGNAL_BIT(SIGNAL_PROBE), .head = 1},
        {.site = SITE_VELOCITY, .trace = true},
        {.site = SITE_BLOCKS},
        {.site = SITE_SPAN, .signals = SIGNAL_BIT(SIGNAL_PROBE)},
        {.site = SITE_SPAN, .signals = SIGNAL_BIT(SIGNAL_VERIFY)},
        {.site = SITE_SPAN, .head = 1, .probe_slots = 3, .signals = SIGNAL_BIT(SIGNAL_PROBE)},
    };
    struct reuse_shape shape = small_shape(2);
    struct error error;
    struct cache_plan plan;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct cache_settings settings = new_settings(wrong[i]);
        assert_int_equal(cache_settings_plan(&settings, &shape.job, &plan, &error), STATUS_UNSUPPORTED);
        assert_non_null(strstr(error.text, "cache: policy new "));
    }
}

/* -------------------------------------------------------------------------------------------- failures */

/* The OPEN of a policy by blocks carries the number of steps where a hop carries its step. */
static void a_stage_that_has_no_memory_for_a_policy_fails_the_job_with_its_sentence(void **state)
{
    static const char sentence[] = "no memory for caching by blocks";
    struct engine engine = {.ops = guarded_or(NULL), .members = 1, .epoch = 1};
    struct split alone = {.members = 1, .head = LAYERS};
    struct pipeline_run run = small_run("dbprune:F1B0", STEPS, 4);
    struct error error;
    struct job *job;
    char path[512];
    golden_path(path, sizeof path, "models/reference");
    engine.team = device_team(engine.ops, 1);
    if (model_load(path, engine.ops, engine.team, &alone, 0, &engine.model, &error) != STATUS_OK ||
        job_create(&engine, &run.order, "/nonexistent", &job, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    while (job_status(job)->phase == JOB_PHASE_TEXT) assert_int_equal(job_advance(job), JOB_ADVANCED);
    struct fabric_event refused = {.kind = FABRIC_RECEIVED,
                                   .peer = 1,
                                   .ticket = {.kind = TICKET_FAILED,
                                              .dtype = TICKET_TEXT,
                                              .context = job_context(job),
                                              .job = 1,
                                              .attempt = 1,
                                              .step = STEPS,
                                              .bytes = sizeof sentence - 1},
                                   .payload = sentence};
    job_event(job, &refused);
    while (job_advance(job) == JOB_ADVANCED) {
    }
    assert_int_equal(job_outcome(job, &error), STATUS_NO_MEMORY);
    assert_string_equal(error.text, "member 1: no memory for caching by blocks");
    job_destroy(job);
    engine_clear(&engine);
    model_destroy(engine.model);
    device_team_free(engine.ops, engine.team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_makes_videos_of_one_and_two_steps_with_one_branch_or_two),
        cmocka_unit_test(what_stands_in_does_not_depend_on_who_decided),
        cmocka_unit_test(memory_is_what_the_plan_said_for_every_policy_and_forecast),
        cmocka_unit_test(a_residual_is_measured_at_every_site_even_if_one_would_do_for_the_forecast),
        cmocka_unit_test(a_policy_that_asks_for_what_its_site_never_sees_is_refused),
        cmocka_unit_test(a_stage_that_has_no_memory_for_a_policy_fails_the_job_with_its_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
