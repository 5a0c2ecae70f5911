/* test_forecasts.c - forecasts by formula: exactness, closed forms, noise, sums of weights, fall-backs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "tests/forecast_rig.h"

static double constant(double t)
{
    return 3;
}
static double identity(double t)
{
    return t - 12;
}
static double parabola(double t)
{
    return (t - 12) * (t - 12);
}
static double wave(double t)
{
    return cos((t - 12) / 8);
}
static double line(double t)
{
    return 2 - 0.75 * t;
}
static double quadratic(double t)
{
    return 1 + 0.5 * t - 0.25 * t * t;
}
static double cubic(double t)
{
    return t * t * t - 20 * t * t + 3;
}

/* -------------------------------------------------------------------------------------------------- tests */

static const int even[] = {0, 6, 12}, uneven[] = {0, 1, 3, 7, 12};

/* The vectors of appendix C of our survey of methods: anchors at 0, -6, -12 and target +5. */
static void forecasts_of_the_surveys_four_trajectories_are_its_numbers(void **state)
{
    static const struct {
        double (*f)(double);
        double reuse, linear, taylor2, newton2, hermite, hermite_half_root;
    } rows[] = {{constant, 3, 3, 3, 3, 3, 3},
                {identity, 0, 5, 5, 5, 2.5, 5},
                {parabola, 0, -30, -5, 25, -9.25, -6},
                {wave, 1, 1.2236, 1.0873, 0.9237, 1.0804, 1.0927}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct {
            const char *text;
            double want;
        } columns[] = {{"reuse", rows[i].reuse},
                       {"taylor:order=1", rows[i].linear},
                       {"taylor:order=2", rows[i].taylor2},
                       {"newton:order=2", rows[i].newton2},
                       {"hermite", rows[i].hermite},
                       {"hermite:contraction=0.70710678118654752", rows[i].hermite_half_root}};
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
            struct rig rig;
            rig_series(&rig, columns[c].text, even, 3, rows[i].f);
            rig_weights(&rig, 17);
            assert_near(rig_said(&rig, 0, 0), columns[c].want, 6e-5);
        }
    }
}

static void weights_on_even_spacing_are_the_closed_forms(void **state)
{
    for (int n = 1; n <= 9; n++)
        for (int d = 1; d < 12; d++) {
            const int steps[] = {0, n, 2 * n};
            double a = (double)d / n, b = (double)d * d / (2.0 * n * n),
                   c = d * (double)(d + n) / (2.0 * n * n);
            double s = 0.5, ha = 2 * s * s * a, hb = s * s * (4 * s * s * d * d - 2) / (2.0 * n * n);
            const struct {
                const char *text;
                double w[3];
            } rows[] = {{"reuse", {1, 0, 0}},
                        {"taylor:order=1", {1 + a, -a, 0}},
                        {"taylor:order=2", {1 + a + b, -a - 2 * b, b}},
                        {"newton:order=1", {1 + a, -a, 0}},
                        {"newton:order=2", {1 + a + c, -a - 2 * c, c}},
                        {"ab:order=2", {1 + a, -a, 0}},
                        {"ab:order=3", {1 + a + c, -a - 2 * c, c}},
                        {"hermite", {1 + ha + hb, -ha - 2 * hb, hb}}};
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                struct rig rig;
                rig_series(&rig, rows[i].text, steps, 3, identity);
                rig_weights(&rig, 2 * n + d);
                for (int j = 0; j < rig.history.count; j++)
                    assert_near(rig.weights[0][j], rows[i].w[j], 1e-12 * (1 + fabs(rows[i].w[j])));
            }
        }
}

static void noise_is_amplified_as_tabulated(void **state)
{
    static const struct {
        int n;
        double linear, taylor2, newton2, hermite, hermite71;
    } rows[] = {{3, 2.33, 3.22, 4.56, 1.78, 3.02},
                {5, 2.60, 3.88, 5.48, 2.08, 3.83},
                {6, 2.67, 4.06, 5.72, 2.15, 4.04},
                {9, 2.78, 4.36, 6.14, 2.27, 4.37}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int n = rows[i].n, steps[] = {0, n, 2 * n};
        const struct {
            const char *text;
            double want;
        } columns[] = {{"taylor", rows[i].linear},
                       {"taylor:order=2", rows[i].taylor2},
                       {"newton", rows[i].newton2},
                       {"hermite", rows[i].hermite},
                       {"hermite:contraction=0.71", rows[i].hermite71}};
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
            struct rig rig;
            rig_series(&rig, columns[c].text, steps, 3, identity);
            rig_weights(&rig, 3 * n - 1);
            double sum = 0;
            for (int j = 0; j < rig.history.count; j++) sum += fabs(rig.weights[0][j]);
            assert_near(sum, columns[c].want, 6e-3);
        }
    }
}

static void expect_exact(const char *text, int set, double (*f)(double), double limit)
{
    struct rig rig;
    rig_series(&rig, text, uneven, 5, f);
    for (int step = 13; step < 20; step++) {
        rig_weights(&rig, step);
        double want = f(step);
        if (fabs(rig_said(&rig, set, 3) - want) > limit * (1 + fabs(want)))
            fail_msg("%s at step %d: %.12g, not %.12g", text, step, rig_said(&rig, set, 3), want);
    }
}

static void straight_lines_on_uneven_steps_are_continued_exactly(void **state)
{
    const char *all[] = {
        "taylor:order=1",  "taylor:order=2",      "taylor:order=4",
        "newton:order=1",  "newton:order=3",      "ab:order=2",
        "ab:order=3",      "ab:order=2,slopes=1", "ab:order=3,slopes=1",
        "foca:horizon=50", "spectrum:blend=0",    "hermite:order=1,contraction=0.70710678118654752"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) expect_exact(all[i], 0, line, 1e-6);
    expect_exact("spectrum:ridge=0.000000001,blend=1,degree=3", 0, line,
                 1e-4); /* nearly: that is the ridge */
    expect_exact("worldcache:reach=4", 1, line, 1e-12);
    expect_exact("worldcache:reach=4", 2, line, 1e-12);
    expect_exact("freqca:order=1,contraction=0.70710678118654752", 1, line, 1e-12);
}

static void polynomials_are_exact_to_the_degree_that_is_claimed(void **state)
{
    expect_exact("newton:order=2", 0, quadratic, 1e-12);
    expect_exact("ab:order=3", 0, quadratic, 1e-12);
    expect_exact("newton:order=3", 0, cubic, 1e-12);
}

static void taylor_of_order_2_brings_only_part_of_the_curvature(void **state)
{
    struct rig rig;
    rig_series(&rig, "taylor:order=2", even, 3, parabola);
    rig_weights(&rig, 17);
    double line_says = -30, truth = 25;
    assert_near((rig_said(&rig, 0, 0) - line_says) / (truth - line_says), 5.0 / 11, 1e-12);
}

/* Of AB's weights: 3/2, -1/2 and 23/12, -16/12, 5/12 on slopes one step apart. */
static void ab_on_slopes_has_the_textbook_weights_and_lets_a_turn_fade(void **state)
{
    const int steps[] = {0, 1, 2, 3};
    struct rig rig;
    rig_series(&rig, "ab:order=3,slopes=1", steps, 4, identity);
    rig_weights(&rig, 4);
    const double want[] = {1 + 23.0 / 12, -23.0 / 12 - 16.0 / 12, 16.0 / 12 + 5.0 / 12, -5.0 / 12};
    for (int j = 0; j < 4; j++) assert_near(rig.weights[0][j], want[j], 1e-12);

    /* Order 2: the slope's change halves at every further step. */
    rig_series(&rig, "ab:order=2,slopes=1", steps, 4, parabola);
    double said[6] = {parabola(3)};
    for (int d = 1; d < 6; d++) {
        rig_weights(&rig, 3 + d);
        said[d] = rig_said(&rig, 0, 0);
    }
    for (int d = 3; d < 6; d++)
        assert_near((said[d] - 2 * said[d - 1] + said[d - 2]) * 2,
                    said[d - 1] - 2 * said[d - 2] + said[d - 3], 1e-9);
}

/* Wherever constants must come out unchanged. */
static void weights_add_up_to_one_where_constants_are_kept(void **state)
{
    const char *all[] = {"reuse",
                         "taylor:order=4",
                         "newton:order=3",
                         "hermite:order=4",
                         "ab:order=3",
                         "ab:order=3,slopes=1",
                         "foca",
                         "foca:spacing=0",
                         "foca:slots=2",
                         "spectrum",
                         "spectrum:blend=1,slots=5",
                         "freqca:low=1",
                         "worldcache",
                         "worldcache:reach=5"};
    static const int mask[] = {0, 1, 2, 3, 6, 7, 11, 15, 20, 21, 27, 33, 34, 39, 42, 45, 46, 49};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct rig rig;
        rig_open(&rig, all[i]);
        for (int step = 0, next = 0; step < 50; step++) {
            if (step == mask[next]) {
                rig_compute(&rig, step, (const double[WIDTH]){step});
                next++;
                continue;
            }
            rig_weights(&rig, step);
            for (int set = 0; set < rig_sets(&rig); set++) {
                double sum = 0;
                for (int j = 0; j < rig.history.count; j++) sum += rig.weights[set][j];
                if (!(fabs(sum - 1) < 1e-9))
                    fail_msg("%s, step %d, set %d: sum %.12g", all[i], step, set, sum);
            }
        }
    }
}

static void the_constant_penalised_as_by_spectrums_authors_loses_amplitude(void **state)
{
    static const int mask[] = {0, 1, 2, 3, 4, 6, 11, 19, 30, 44};
    struct rig rig;
    rig_series(&rig, "spectrum:penalise=1,blend=1", mask, 10, constant);
    rig_weights(&rig, 48);
    double sum = 0;
    for (int j = 0; j < 10; j++) sum += rig.weights[0][j];
    assert_true(sum > 0.65 && sum < 0.96);
}

static void with_one_two_or_three_steps_computed_forecasts_fall_back(void **state)
{
    const char *all[] = {"taylor:order=4",
                         "newton:order=3",
                         "hermite:order=3,contraction=0.70710678118654752",
                         "ab:order=3",
                         "ab:order=3,slopes=1",
                         "foca:horizon=50",
                         "spectrum:blend=0",
                         "dmd",
                         "freqca",
                         "worldcache"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct rig rig;
        rig_series(&rig, all[i], uneven, 1, line);
        rig_weights(&rig, 2);
        for (int set = 0; set < rig_sets(&rig); set++) assert_near(rig.weights[set][0], 1, 1e-12);
        if (rig.forecast->bands == 2) continue;
        rig_series(&rig, all[i], uneven + 2, 2, line);
        rig_weights(&rig, 9);
        for (int set = 0; set < rig_sets(&rig); set++)
            if (fabs(rig_said(&rig, set, 0) - line(9)) > 1e-9)
                fail_msg("%s with two steps: not a line", all[i]);
    }
    struct rig rig;
    rig_series(&rig, "newton:order=3", uneven, 3, quadratic);
    rig_weights(&rig, 6);
    assert_near(rig_said(&rig, 0, 0), quadratic(6), 1e-12);
}

static void taylor_forms_no_differences_before_the_step_it_is_told(void **state)
{
    static const int steps[] = {0, 1, 2, 3};
    struct rig rig;
    rig_series(&rig, "taylor:order=2,from=3", steps, 3, identity);
    rig_weights(&rig, 3);
    assert_near(rig.weights[0][0], 1, 0); /* as cache-dit in its first video: step 2 has none */
    rig_series(&rig, "taylor:order=2,from=3", steps, 4, identity);
    rig_weights(&rig, 4);
    assert_near(rig.weights[0][2], 0, 0);
    assert_near(rig.weights[0][0], 2, 0);
}

static void foca_with_a_short_ring_stays_near_the_untruncated(void **state)
{
    struct rig full, cut;
    rig_open(&full, "foca:slots=16");
    rig_open(&cut, "foca:slots=4");
    for (int step = 0; step < 40; step++) {
        double x[WIDTH];
        for (int k = 0; k < WIDTH; k++) x[k] = sin(0.08 * step + k);
        if (step % 3 == 0) {
            rig_compute(&full, step, x);
            rig_compute(&cut, step, x);
            continue;
        }
        rig_weights(&full, step);
        rig_weights(&cut, step);
        assert_near(rig_said(&cut, 0, 0), rig_said(&full, 0, 0), 0.02);
        if (step > 6) assert_near(rig_said(&full, 0, 0), x[0], 0.1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forecasts_of_the_surveys_four_trajectories_are_its_numbers),
        cmocka_unit_test(weights_on_even_spacing_are_the_closed_forms),
        cmocka_unit_test(noise_is_amplified_as_tabulated),
        cmocka_unit_test(straight_lines_on_uneven_steps_are_continued_exactly),
        cmocka_unit_test(polynomials_are_exact_to_the_degree_that_is_claimed),
        cmocka_unit_test(taylor_of_order_2_brings_only_part_of_the_curvature),
        cmocka_unit_test(ab_on_slopes_has_the_textbook_weights_and_lets_a_turn_fade),
        cmocka_unit_test(weights_add_up_to_one_where_constants_are_kept),
        cmocka_unit_test(the_constant_penalised_as_by_spectrums_authors_loses_amplitude),
        cmocka_unit_test(with_one_two_or_three_steps_computed_forecasts_fall_back),
        cmocka_unit_test(taylor_forms_no_differences_before_the_step_it_is_told),
        cmocka_unit_test(foca_with_a_short_ring_stays_near_the_untruncated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
