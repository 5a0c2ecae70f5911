/* test_solver.c - UniPC and Euler against diffusers (tests/golden/solver.json, made by
 * tools/golden_solver.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include "kernels/ops.h"
#include "kernels/team.h"
#include "tests/golden.h"
#include "worker/model/solver.h"

enum { ELEMENTS = 4, MAX_STEPS = 1000 };

static const float start[ELEMENTS] = {-1.5f, -0.5f, 0.25f, 1.0f};

struct fixture {
    json_t *cases;
    const struct ops *ops;
    struct team *team;
};

static int setup(void **state)
{
    static struct fixture fixture;
    char path[512];
    json_error_t why;
    fixture.cases = json_load_file(golden_path(path, sizeof path, "tests/golden/solver.json"), 0, &why);
    if (fixture.cases == NULL) print_error("solver.json: %s\n", why.text);
    fixture.ops = ops_find("ref");
    *state = &fixture;
    return fixture.cases == NULL || fixture.ops == NULL || team_create(1, &fixture.team, NULL) != STATUS_OK;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    json_decref(f->cases);
    team_destroy(f->team);
    return 0;
}

static const struct solver_config unipc_defaults = {
    .kind = SOLVER_UNIPC, .shift = 1, .train_steps = 1000, .order = 2, .lower_order_final = true};

/* The golden model, in the reference's precision: v = 0.3 x + 0.2 cos(3 x) + 0.1 t / 1000. */
static void fake_model(const float *x, float t, float *v)
{
    for (int i = 0; i < ELEMENTS; i++) v[i] = 0.3f * x[i] + 0.2f * cosf(3.0f * x[i]) + 0.1f * t / 1000.0f;
}

static bool is_text(const json_t *item, const char *key, const char *text)
{
    const char *found = json_string_value(json_object_get(item, key));
    return found != NULL && strcmp(found, text) == 0;
}

static struct solver_config config_of(const json_t *item)
{
    struct solver_config c = unipc_defaults;
    c.kind = is_text(item, "kind", "euler") ? SOLVER_EULER : SOLVER_UNIPC;
    if (json_object_get(item, "order")) c.order = (int)json_integer_value(json_object_get(item, "order"));
    c.bh1 = is_text(item, "solver_type", "bh1");
    c.final_sigma_min = is_text(item, "final_sigmas_type", "sigma_min");
    c.lower_order_final = !json_is_false(json_object_get(item, "lower_order_final"));
    c.shift_terminal = json_number_value(json_object_get(item, "shift_terminal"));
    const json_t *disabled = json_object_get(item, "disable_corrector");
    for (size_t i = 0; i < json_array_size(disabled); i++)
        c.disable_corrector[c.disabled_correctors++] = (int)json_integer_value(json_array_get(disabled, i));
    return c;
}

static double number(const json_t *array, size_t index)
{
    return json_number_value(json_array_get(array, index));
}

static struct solver *create(const struct fixture *f, const json_t *item, int *steps)
{
    struct solver_config config = config_of(item);
    struct error error;
    struct solver *solver;
    *steps = (int)json_integer_value(json_object_get(item, "steps"));
    double shift = json_number_value(json_object_get(item, "shift"));
    if (solver_create(&config, config.kind, *steps, shift, ELEMENTS, f->ops, &solver, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return solver;
}

static void schedules_equal_diffusers_exactly(void **state)
{
    struct fixture *f = *state;
    size_t index;
    json_t *item;
    json_array_foreach(f->cases, index, item)
    {
        int steps;
        struct solver *solver = create(f, item, &steps);
        for (int i = 0; i <= steps; i++)
            assert_true(solver_sigma(solver, i) == (float)number(json_object_get(item, "sigmas"), (size_t)i));
        for (int i = 0; i < steps; i++)
            assert_true(solver_timestep(solver, i) ==
                        (float)number(json_object_get(item, "timesteps"), (size_t)i));
        solver_destroy(solver);
    }
}

static void every_step_equals_diffusers_to_2e_6(void **state)
{
    struct fixture *f = *state;
    double worst = 0;
    size_t index;
    json_t *item;
    json_array_foreach(f->cases, index, item)
    {
        int steps;
        struct solver *solver = create(f, item, &steps);
        float x[ELEMENTS], v[ELEMENTS];
        memcpy(x, start, sizeof x);
        for (int i = 0; i < steps; i++) {
            fake_model(x, solver_timestep(solver, i), v);
            solver_step(solver, f->team, i, v, x);
            const json_t *expected = json_array_get(json_object_get(item, "latents"), (size_t)i);
            double difference = 0, norm = 0;
            for (int k = 0; k < ELEMENTS; k++) {
                double e = number(expected, (size_t)k);
                difference += (x[k] - e) * (x[k] - e);
                norm += e * e;
            }
            double relative = sqrt(difference / norm);
            if (relative > worst) worst = relative;
            if (relative > 2e-6) fail_msg("case %zu, step %d of %d: off by %.2g", index, i, steps, relative);
        }
        solver_destroy(solver);
    }
    print_message("largest relative difference %.2g over %zu runs\n", worst, json_array_size(f->cases));
}

/* There the product of an infinite B(h) and an empty sum is NaN; the limit is the clean latent, as with bh2.
 */
static void the_last_step_of_bh1_ends_at_the_clean_latent(void **state)
{
    struct fixture *f = *state;
    struct solver_config config = unipc_defaults;
    config.bh1 = true;
    struct solver *solver;
    assert_int_equal(solver_create(&config, SOLVER_UNIPC, 1, 3, ELEMENTS, f->ops, &solver, NULL), STATUS_OK);
    float x[ELEMENTS], v[ELEMENTS], clean[ELEMENTS];
    memcpy(x, start, sizeof x);
    fake_model(x, solver_timestep(solver, 0), v);
    for (int i = 0; i < ELEMENTS; i++) clean[i] = x[i] - solver_sigma(solver, 0) * v[i];
    solver_step(solver, f->team, 0, v, x);
    assert_memory_equal(x, clean, sizeof x);
    solver_destroy(solver);
}

static void another_kind_than_the_configured_one_gets_its_class_defaults(void **state)
{
    struct fixture *f = *state;
    struct solver_config euler = {.kind = SOLVER_EULER,
                                  .shift = 9,
                                  .train_steps = 1000,
                                  .order = 1,
                                  .lower_order_final = true,
                                  .shift_terminal = 0.3};
    struct solver *a, *b;
    assert_int_equal(solver_create(&euler, SOLVER_UNIPC, 7, 5, ELEMENTS, f->ops, &a, NULL), STATUS_OK);
    assert_int_equal(solver_create(&unipc_defaults, SOLVER_UNIPC, 7, 5, ELEMENTS, f->ops, &b, NULL),
                     STATUS_OK);
    float x[ELEMENTS], y[ELEMENTS], v[ELEMENTS];
    memcpy(x, start, sizeof x);
    memcpy(y, start, sizeof y);
    for (int i = 0; i < 7; i++) {
        fake_model(x, solver_timestep(a, i), v);
        solver_step(a, f->team, i, v, x);
        fake_model(y, solver_timestep(b, i), v);
        solver_step(b, f->team, i, v, y);
        assert_memory_equal(x, y, sizeof x);
    }
    solver_destroy(a);
    solver_destroy(b);
}

static void any_number_of_steps_up_to_a_thousand_stays_finite(void **state)
{
    struct fixture *f = *state;
    for (int order = 1; order <= 3; order++) {
        for (int steps = 1; steps <= MAX_STEPS; steps += steps < 60 ? 1 : 94) {
            struct solver_config config = unipc_defaults;
            config.order = order;
            struct solver *solver;
            struct error error;
            if (solver_create(&config, SOLVER_UNIPC, steps, 3, ELEMENTS, f->ops, &solver, &error) !=
                STATUS_OK)
                fail_msg("order %d, %d steps: %s", order, steps, error.text);
            float x[ELEMENTS], v[ELEMENTS];
            memcpy(x, start, sizeof x);
            for (int i = 0; i < steps; i++) {
                fake_model(x, solver_timestep(solver, i), v);
                solver_step(solver, f->team, i, v, x);
            }
            for (int k = 0; k < ELEMENTS; k++) assert_true(fabsf(x[k]) < 2);
            solver_destroy(solver);
        }
    }
}

static void impossible_settings_are_refused_with_a_sentence(void **state)
{
    struct fixture *f = *state;
    struct {
        struct solver_config config;
        int steps;
        double shift;
        status_t status;
        const char *says;
    } cases[] = {
        {unipc_defaults, 0, 3, STATUS_INVALID, "steps 0"},
        {unipc_defaults, 1001, 3, STATUS_INVALID, "steps 1001"},
        {unipc_defaults, 10, 0, STATUS_INVALID, "shift 0"},
        {unipc_defaults, 10, NAN, STATUS_INVALID, "shift nan"},
        {unipc_defaults, 10, INFINITY, STATUS_INVALID, "shift inf"},
        {unipc_defaults, 10, 1e7, STATUS_INVALID, "does not fall"},
        {unipc_defaults, 10, 3, STATUS_INVALID, "solver_order 4"},
        {unipc_defaults, 1, 3, STATUS_INVALID, "shift_terminal"},
        {unipc_defaults, 10, 3, STATUS_UNSUPPORTED, "lower_order_final"},
    };
    cases[6].config.order = 4;
    cases[7].config.shift_terminal = 0.1;
    cases[8].config.lower_order_final = false; /* a second-order step to an infinite lambda */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct solver *solver = NULL;
        struct error error = {0};
        status_t status = solver_create(&cases[i].config, SOLVER_UNIPC, cases[i].steps, cases[i].shift,
                                        ELEMENTS, f->ops, &solver, &error);
        assert_int_equal(status, cases[i].status);
        assert_null(solver);
        if (strstr(error.text, cases[i].says) == NULL) fail_msg("case %zu says: %s", i, error.text);
    }
}

/* Stopped before any step and continued by another solver, from bytes at an odd address. */
static void a_solver_goes_on_from_its_bytes(void **state)
{
    const struct fixture *f = *state;
    enum { STEPS = 9 };
    for (int order = 0; order <= 3; order++) { /* 0: Euler, which remembers nothing */
        struct solver_config config = unipc_defaults;
        if (order > 0) config.order = order;
        enum solver_kind kind = order > 0 ? SOLVER_UNIPC : SOLVER_EULER;
        for (int stop = 0; stop <= STEPS; stop++) {
            struct solver *whole, *rest;
            float x[ELEMENTS], y[ELEMENTS], v[ELEMENTS];
            unsigned char bytes[1 + 4 * sizeof x];
            assert_int_equal(solver_create(&config, kind, STEPS, 3, ELEMENTS, f->ops, &whole, NULL),
                             STATUS_OK);
            assert_int_equal(solver_create(&config, kind, STEPS, 3, ELEMENTS, f->ops, &rest, NULL),
                             STATUS_OK);
            memcpy(x, start, sizeof x);
            for (int i = 0; i <= STEPS; i++) {
                if (i == stop) {
                    int tensors = order == 0 || i == 0 ? 0 : 1 + (i < order ? i : order);
                    assert_int_equal(solver_save_bytes(whole, i), (size_t)tensors * sizeof x);
                    solver_save(whole, f->team, i, bytes + 1);
                    solver_restore(rest, f->team, i, bytes + 1);
                    memcpy(y, x, sizeof y);
                }
                if (i == STEPS) break;
                fake_model(x, solver_timestep(whole, i), v);
                solver_step(whole, f->team, i, v, x);
                if (i < stop) continue;
                fake_model(y, solver_timestep(rest, i), v);
                solver_step(rest, f->team, i, v, y);
            }
            assert_memory_equal(x, y, sizeof x);
            solver_destroy(whole);
            solver_destroy(rest);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_equal_diffusers_exactly),
        cmocka_unit_test(every_step_equals_diffusers_to_2e_6),
        cmocka_unit_test(the_last_step_of_bh1_ends_at_the_clean_latent),
        cmocka_unit_test(another_kind_than_the_configured_one_gets_its_class_defaults),
        cmocka_unit_test(any_number_of_steps_up_to_a_thousand_stays_finite),
        cmocka_unit_test(impossible_settings_are_refused_with_a_sentence),
        cmocka_unit_test(a_solver_goes_on_from_its_bytes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
