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

#include "tests/golden.h"
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
    assert_int_equal(model_config_read(golden_path(path, sizeof path, model), &f->config, &error), STATUS_OK);
    snprintf(part, sizeof part, "%s/transformer", path);
    if (denoiser_load(part, &f->config.denoiser, ops, &(struct denoiser_part){.ends = true}, &f->denoiser,
                      &error) != STATUS_OK)
        fail_msg("%s", error.text);
    assert_int_equal(team_create(threads, &f->team, &error), STATUS_OK);
    denoiser_work_lay_out(&f->arena, &f->config.denoiser, token_count(grid), &f->work);
    assert_int_equal(arena_allocate(&f->arena, &error), STATUS_OK);
    denoiser_work_lay_out(&f->arena, &f->config.denoiser, token_count(grid), &f->work);
    const struct rotary *rotary;
    f->tables.config = &f->config.denoiser;
    assert_int_equal(rotary_find(&f->tables, grid, &rotary, &error), STATUS_OK);
    f->work.grid = *grid;
    f->work.cosines = rotary->cosines;
    f->work.sines = rotary->sines;
}

static void forward_close(struct forward *f)
{
    rotary_clear(&f->tables);
    arena_free(&f->arena);
    team_destroy(f->team);
    denoiser_destroy(f->denoiser);
}

/* The lattice of a golden's latent [1, C, T, h, w] in patches of 1x2x2. */
static struct token_grid golden_grid(struct golden *g)
{
    int64_t shape[8];
    assert_int_equal(golden_shape(g, "latent", shape), 5);
    return (struct token_grid){(int)shape[2], (int)shape[3] / 2, (int)shape[4] / 2};
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
    float *text = malloc((size_t)kept * (size_t)f->config.denoiser.hidden * sizeof *text);
    assert_int_equal(denoiser_text(f->denoiser, f->team, rows, (int)ids, f->config.text_length, text, &error),
                     STATUS_OK);
    snprintf(name, sizeof name, "%s.text", branch);
    if (golden_has(g, name)) golden_expect(g, name, text, (int64_t)kept * f->config.denoiser.hidden, LIMIT);
    assert_int_equal(denoiser_context_create(f->denoiser, f->team, text, (int)ids, f->config.text_length,
                                             &context, &error),
                     STATUS_OK);
    free(text);
    return context;
}

static float *run_forward(struct forward *f, struct golden *g, const struct denoiser_context *context,
                          float timestep, const char *hidden_prefix)
{
    char name[96];
    int hidden = f->config.denoiser.hidden, rows = token_count(&f->work.grid);
    float *modulation = malloc((size_t)hidden * 7 * sizeof *modulation);
    float *x = aligned_alloc(64, ((size_t)rows * (size_t)hidden * sizeof *x + 63) / 64 * 64);
    struct denoiser_modulation m = {modulation, modulation + hidden};
    int64_t count;
    const float *latent = golden_f32(g, "latent", &count);
    float *velocity = malloc((size_t)count * sizeof *velocity);
    denoiser_time(f->denoiser, f->team, timestep, &m);
    denoiser_embed(f->denoiser, f->team, &f->work, latent, x);
    for (int i = 0; i < f->config.denoiser.layers; i++) {
        denoiser_blocks(f->denoiser, f->team, &f->work, context, m.blocks, x, i, 1, NULL);
        snprintf(name, sizeof name, "%s.hidden.%d", hidden_prefix, i);
        if (golden_has(g, name)) golden_expect(g, name, x, (int64_t)rows * hidden, LIMIT);
    }
    denoiser_output(f->denoiser, f->team, &f->work, m.output, x, velocity);
    f->latent_count = count;
    free(x);
    free(modulation);
    return velocity;
}

static void check_model(const char *model, const char *golden_name)
{
    static const char *const branches[] = {"cond", "uncond", "long"};
    struct golden *g = golden_open(golden_name);
    struct token_grid grid = golden_grid(g);
    int64_t steps;
    const float *timesteps = golden_f32(g, "timesteps", &steps);
    for (const struct ops *const *ops = ops_available(); *ops; ops++) {
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
    forward_open(&f, "tests/models/tiny-a", ops_find("auto"), 1, &grid);
    int hidden = f.config.denoiser.hidden;
    float *modulation = malloc((size_t)hidden * 7 * sizeof *modulation);
    for (int64_t t = 0; t < steps; t++) {
        char name[64];
        denoiser_time(f.denoiser, f.team, timesteps[t],
                      &(struct denoiser_modulation){modulation, modulation + hidden});
        snprintf(name, sizeof name, "t%d.modulation.output", (int)t);
        golden_expect(g, name, modulation, hidden, LIMIT);
        snprintf(name, sizeof name, "t%d.modulation.blocks", (int)t);
        golden_expect(g, name, modulation + hidden, 6 * hidden, LIMIT);
    }
    free(modulation);
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
        forward_open(&f, "models/reference", ops_find("auto"), threads, &grid);
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
    bool wanted[8] = {[3] = true, [4] = true};
    const struct ops *ops = ops_find("auto");
    assert_int_equal(
        denoiser_load(part, &config.denoiser, ops, &(struct denoiser_part){.ends = true}, &all, &error), 0);
    assert_int_equal(
        denoiser_load(part, &config.denoiser, ops, &(struct denoiser_part){wanted, false}, &two, &error), 0);
    assert_true(denoiser_bytes(two) * 3 < denoiser_bytes(all));
    denoiser_destroy(two);
    denoiser_destroy(all);
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
