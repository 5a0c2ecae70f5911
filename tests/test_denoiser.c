/*
 * test_denoiser.c - the transformer against diffusers' own forward (tests/golden/denoiser_*.safetensors), in
 * float32, for every backend this machine has; and the promise that a forward's bits depend on nothing but
 * its inputs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/memory.h"
#include "tests/device.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "worker/model/denoiser.h"
#include "worker/model/model.h"
#include "worker/model/rotary.h"

#define LIMIT 2e-5 /* relative L2 against the reference in float32 */

struct forward {
    struct model_config config;
    const struct ops *ops;
    struct team *team;
    struct denoiser *denoiser;
    struct arena arena;
    float *wave; /* shared */
    struct rotary_shelf tables;
    struct denoiser_work work;
    int64_t latent_count;
};

static void forward_open(struct forward *f, const char *model, const struct ops *ops, int threads,
                         const struct token_grid *grid)
{
    char path[512], part[600];
    struct error error = {0};
    memset(f, 0, sizeof *f);
    f->ops = ops;
    f->team = device_team(ops, threads);
    assert_int_equal(model_config_read(golden_path(path, sizeof path, model), &f->config, &error), STATUS_OK);
    snprintf(part, sizeof part, "%s/transformer", path);
    if (denoiser_load(part, &f->config.denoiser, ops, f->team, &(struct denoiser_part){.ends = true},
                      &f->denoiser, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    denoiser_work_lay_out(&f->arena, &f->config.denoiser, ops->operand, token_count(grid), &f->work);
    assert_int_equal(memory_arena(ops, MEMORY_DEVICE, &f->arena, &error), STATUS_OK);
    denoiser_work_lay_out(&f->arena, &f->config.denoiser, ops->operand, token_count(grid), &f->work);
    f->wave = device_shared(ops, f->config.denoiser.freq_dim);
    const struct rotary *rotary;
    f->tables.config = &f->config.denoiser;
    f->tables.ops = ops;
    assert_int_equal(rotary_find(&f->tables, f->team, grid, &rotary, &error), STATUS_OK);
    f->work.grid = *grid;
    f->work.rows = token_count(grid);
    f->work.cosines = rotary->cosines;
    f->work.sines = rotary->sines;
}

static void forward_close(struct forward *f)
{
    device_wait(f->ops, f->team);
    rotary_clear(&f->tables);
    memory_give_back(f->ops, MEMORY_DEVICE, &f->arena);
    device_free_shared(f->ops, f->team, f->wave);
    denoiser_destroy(f->denoiser);
    device_team_free(f->ops, f->team);
}

/* The lattice of a golden's latent [1, C, T, h, w] in patches of 1x2x2. */
static struct token_grid golden_grid(struct golden *g)
{
    int64_t shape[8];
    assert_int_equal(golden_shape(g, "latent", shape), 5);
    return (struct token_grid){(int)shape[2], (int)shape[3] / 2, (int)shape[4] / 2};
}

/* A tensor of the device, where the golden has one of that name. */
static void expect(const struct forward *f, struct golden *g, const char *name, const float *x, int64_t count)
{
    if (!golden_has(g, name)) return;
    float *values = device_fetch(f->ops, f->team, x, count);
    golden_expect(g, name, values, count, LIMIT);
    free(values);
}

/* Text of one branch: our rows from the reference's text rows, compared with the reference's text embedding.
 */
static struct denoiser_context *check_text(struct forward *f, struct golden *g, const char *branch)
{
    char name[64];
    int64_t ids, count;
    struct error error = {0};
    struct denoiser_context *context;
    snprintf(name, sizeof name, "%s.ids", branch);
    golden_i64(g, name, &ids);
    snprintf(name, sizeof name, "%s.rows", branch);
    const float *rows = golden_f32(g, name, &count);
    assert_int_equal(count, ids * f->config.denoiser.text_dim);
    int kept = denoiser_text_rows((int)ids, f->config.text_length);
    int64_t floats = (int64_t)kept * f->config.denoiser.hidden;
    float *given = device_floats(f->ops, f->team, rows, count),
          *text = device_floats(f->ops, f->team, NULL, floats);
    assert_int_equal(
        denoiser_text(f->denoiser, f->team, given, (int)ids, f->config.text_length, text, &error), STATUS_OK);
    snprintf(name, sizeof name, "%s.text", branch);
    expect(f, g, name, text, floats);
    assert_int_equal(denoiser_context_create(f->denoiser, f->team, text, (int)ids, f->config.text_length,
                                             &context, &error),
                     STATUS_OK);
    device_free(f->ops, f->team, given);
    device_free(f->ops, f->team, text);
    return context;
}

static float *run_forward(struct forward *f, struct golden *g, const struct denoiser_context *context,
                          float timestep, const char *hidden_prefix)
{
    char name[96];
    int hidden = f->config.denoiser.hidden, rows = token_count(&f->work.grid);
    float *modulation = device_floats(f->ops, f->team, NULL, (int64_t)hidden * 7);
    float *x = device_floats(f->ops, f->team, NULL, (int64_t)rows * hidden);
    struct denoiser_modulation m = {.wave = f->wave, .output = modulation, .blocks = modulation + hidden};
    int64_t count;
    const float *values = golden_f32(g, "latent", &count);
    float *latent = device_floats(f->ops, f->team, values, count);
    float *velocity = device_floats(f->ops, f->team, NULL, count);
    denoiser_time(f->denoiser, f->team, timestep, &m);
    denoiser_embed(f->denoiser, f->team, &f->work, latent, x);
    for (int i = 0; i < f->config.denoiser.layers; i++) {
        denoiser_blocks(f->denoiser, f->team, &f->work, context, m.blocks, x, i, 1, NULL);
        snprintf(name, sizeof name, "%s.hidden.%d", hidden_prefix, i);
        expect(f, g, name, x, (int64_t)rows * hidden);
    }
    denoiser_output(f->denoiser, f->team, &f->work, m.output, x, velocity);
    f->latent_count = count;
    float *result = device_fetch(f->ops, f->team, velocity, count);
    device_free(f->ops, f->team, x);
    device_free(f->ops, f->team, modulation);
    device_free(f->ops, f->team, latent);
    device_free(f->ops, f->team, velocity);
    return result;
}

static void check_model(const char *model, const char *golden_name)
{
    static const char *const branches[] = {"cond", "uncond", "long"};
    struct golden *g = golden_open(golden_name);
    struct token_grid grid = golden_grid(g);
    int64_t steps;
    const float *timesteps = golden_f32(g, "timesteps", &steps);
    for (const struct ops *const *ops = guarded_or_all(); *ops; ops++) {
        struct forward f;
        forward_open(&f, model, *ops, 2, &grid);
        for (size_t b = 0; b < 3; b++) {
            char name[96];
            snprintf(name, sizeof name, "%s.rows", branches[b]);
            if (!golden_has(g, name)) continue;
            struct denoiser_context *context = check_text(&f, g, branches[b]);
            for (int64_t t = 0; t < steps; t++) {
                snprintf(name, sizeof name, "t%d.%s", (int)t, branches[b]);
                float *velocity = run_forward(&f, g, context, timesteps[t], name);
                snprintf(name, sizeof name, "t%d.%s.velocity", (int)t, branches[b]);
                if (golden_has(g, name)) golden_expect(g, name, velocity, f.latent_count, LIMIT);
                free(velocity);
            }
            device_wait(f.ops, f.team);
            denoiser_context_destroy(context);
        }
        forward_close(&f);
    }
    golden_close(g);
}

static void the_reference_model_equals_diffusers(void **state)
{
    check_model("models/reference", "denoiser_reference");
}
static void two_heads_of_12_equal_diffusers(void **state)
{
    check_model("tests/models/tiny-a", "denoiser_tiny-a");
}
static void three_heads_of_40_equal_diffusers(void **state)
{
    check_model("tests/models/tiny-b", "denoiser_tiny-b");
}
static void a_single_layer_equals_diffusers(void **state)
{
    check_model("tests/models/tiny-c", "denoiser_tiny-c");
}

static void time_modulation_equals_diffusers(void **state)
{
    struct golden *g = golden_open("denoiser_tiny-a");
    struct token_grid grid = golden_grid(g);
    struct forward f;
    int64_t steps;
    const float *timesteps = golden_f32(g, "timesteps", &steps);
    forward_open(&f, "tests/models/tiny-a", guarded_or(NULL), 1, &grid);
    int hidden = f.config.denoiser.hidden;
    float *modulation = device_floats(f.ops, f.team, NULL, (int64_t)hidden * 7);
    for (int64_t t = 0; t < steps; t++) {
        char name[64];
        denoiser_time(f.denoiser, f.team, timesteps[t],
                      &(struct denoiser_modulation){
                          .wave = f.wave, .output = modulation, .blocks = modulation + hidden});
        snprintf(name, sizeof name, "t%d.modulation.output", (int)t);
        assert_true(golden_has(g, name));
        expect(&f, g, name, modulation, hidden);
        snprintf(name, sizeof name, "t%d.modulation.blocks", (int)t);
        assert_true(golden_has(g, name));
        expect(&f, g, name, modulation + hidden, 6 * hidden);
    }
    device_free(f.ops, f.team, modulation);
    forward_close(&f);
    golden_close(g);
}

static void threads_do_not_change_a_bit(void **state)
{
    struct golden *g = golden_open("denoiser_reference");
    struct token_grid grid = golden_grid(g);
    float *first = NULL;
    for (int threads = 1; threads <= 5; threads += 2) {
        struct forward f;
        forward_open(&f, "models/reference", guarded_or(NULL), threads, &grid);
        struct denoiser_context *context = check_text(&f, g, "cond");
        float *velocity = run_forward(&f, g, context, 721, "none");
        if (first) assert_memory_equal(first, velocity, (size_t)f.latent_count * sizeof *velocity);
        if (first)
            free(velocity);
        else
            first = velocity;
        denoiser_context_destroy(context);
        forward_close(&f);
    }
    free(first);
    golden_close(g);
}

static void a_rank_holds_only_its_blocks(void **state)
{
    char path[512], part[600];
    struct model_config config;
    struct error error;
    struct denoiser *all, *two;
    assert_int_equal(model_config_read(golden_path(path, sizeof path, "models/reference"), &config, &error),
                     STATUS_OK);
    snprintf(part, sizeof part, "%s/transformer", path);
    struct team *team;
    bool wanted[8] = {[3] = true, [4] = true};
    const struct ops *ops = guarded_or(NULL);
    team = device_team(ops, 1);
    assert_int_equal(
        denoiser_load(part, &config.denoiser, ops, team, &(struct denoiser_part){.ends = true}, &all, &error),
        0);
    assert_int_equal(denoiser_load(part, &config.denoiser, ops, team, &(struct denoiser_part){wanted, false},
                                   &two, &error),
                     0);
    assert_true(denoiser_bytes(two) * 3 < denoiser_bytes(all));
    denoiser_destroy(two);
    denoiser_destroy(all);
    device_team_free(ops, team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_modulation_equals_diffusers),
        cmocka_unit_test(the_reference_model_equals_diffusers),
        cmocka_unit_test(two_heads_of_12_equal_diffusers),
        cmocka_unit_test(three_heads_of_40_equal_diffusers),
        cmocka_unit_test(a_single_layer_equals_diffusers),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(a_rank_holds_only_its_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
