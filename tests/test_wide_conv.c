/*
 * test_wide_conv.c - 3x3 convolutions of many channels, over whole images, as a VAE uses them: against ref,
 * and bits.
 *
 * A backend may compute these in patches of several pixels, so images are never cut here: only threads,
 * frames and instruction sets vary. test_ops.c has all other convolutions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/device.h"
#include "tests/golden.h"
#include "tests/trial.h"

enum { GUARD = 64 };
static const float GUARD_VALUE = 12345.0f;

struct conv_case {
    int in, out, kernel_t, frames, height, width;
    bool residual; /* in place */
};

/* Odd sides, widths that are no multiple of any vector, one pixel, few and many patches. */
static const struct conv_case CASES[] = {
    {48, 48, 3, 2, 5, 7, true},   {64, 96, 3, 1, 1, 1, false},  {50, 70, 1, 3, 2, 9, true},
    {96, 48, 3, 4, 8, 6, false},  {70, 49, 3, 1, 3, 16, true},  {192, 64, 3, 1, 12, 10, false},
    {384, 384, 3, 1, 2, 3, true}, {64, 64, 3, 2, 31, 33, true}, {500, 48, 1, 1, 4, 4, false},
};
enum { CASE_COUNT = sizeof CASES / sizeof *CASES };

static struct volume dense(float *data, int frames, int height, int width, int channels)
{
    return (struct volume){data,
                           frames,
                           height,
                           width,
                           channels,
                           (int64_t)height * width * channels,
                           (int64_t)width * channels,
                           channels};
}

static int64_t floats_of(const struct conv_case *c)
{
    return (int64_t)c->frames * c->height * c->width * c->out;
}

/* The case on one backend and so many threads, `at_once` frames a call; the caller frees. */
static float *run(const struct conv_case *c, const struct ops *ops, int threads, int at_once)
{
    int k = c->in * c->kernel_t * 9;
    float *w = random_floats((int64_t)c->out * k, 0.1f, 1), *bias = random_floats(c->out, 1, 2);
    int64_t x_count = (int64_t)(c->frames + c->kernel_t - 1) * (c->height + 2) * (c->width + 2) * c->in;
    int64_t y_count = floats_of(c) + GUARD;
    float *x_values = random_floats(x_count, 1, 3), *y_values = random_floats(y_count, 1, 4);
    for (int i = 0; i < GUARD; i++) y_values[floats_of(c) + i] = GUARD_VALUE;

    struct conv *conv;
    struct team *team = device_team(ops, threads);
    float *x = device_floats(ops, team, x_values, x_count), *y = device_floats(ops, team, y_values, y_count);
    const struct conv_shape shape = {c->out, c->in, c->kernel_t, 3, 3, 1, 1, 1, false};
    assert_int_equal(ops->conv_create(&shape, &(struct matrix){w, DTYPE_F32, c->out, k},
                                      &(struct matrix){bias, DTYPE_F32, c->out, 1}, &conv, NULL),
                     STATUS_OK);
    for (int t = 0; t < c->frames; t += at_once) {
        int frames = c->frames - t < at_once ? c->frames - t : at_once;
        struct volume from = dense(x, c->frames, c->height + 2, c->width + 2, c->in);
        struct volume to = dense(y, frames, c->height, c->width, c->out);
        from.data += t * from.stride_t;
        to.data += t * to.stride_t;
        ops->conv(team, conv, &from, c->residual ? &to : NULL, &to);
    }
    float *result = device_fetch(ops, team, y, y_count);
    for (int i = 0; i < GUARD; i++) assert_true(result[floats_of(c) + i] == GUARD_VALUE);
    ops->conv_destroy(conv);
    device_free(ops, team, x), device_free(ops, team, y);
    device_team_free(ops, team);
    free(w), free(bias), free(x_values), free(y_values);
    return result;
}

static void wide_convolutions_equal_ref(void **state)
{
    for (int i = 0; i < CASE_COUNT; i++) {
        float *wanted = run(&CASES[i], ops_find("ref"), 2, 99);
        for (const struct ops *const *ops = trial_backends() + 1; *ops; ops++) {
            float *found = run(&CASES[i], *ops, 2, 99);
            double distance = golden_relative_l2(found, wanted, floats_of(&CASES[i]));
            double bound = (*ops)->local ? 1e-6 : 3.5e-4; /* a GPU multiplies in tf32 */
            if (!(distance < bound)) fail_msg("%s, case %d: relative L2 %.2e", (*ops)->name, i, distance);
            free(found);
        }
        free(wanted);
    }
}

static void their_bits_depend_on_neither_threads_nor_frames_nor_instruction_set(void **state)
{
    static const int threads[] = {1, 2, 3, 5};
    for (int i = 0; i < CASE_COUNT; i++) {
        float *first = NULL;
        for (const struct ops *const *ops = trial_backends() + 1; *ops; ops++) {
            if (!(*ops)->local) free(first), first = NULL; /* other bits than the processor's */
            for (int j = 0; j < 8; j++) {
                float *found = run(&CASES[i], *ops, threads[j % 4], j < 4 ? 99 : 1);
                if (!first) {
                    first = found;
                    continue;
                }
                if (memcmp(first, found, (size_t)floats_of(&CASES[i]) * sizeof *found) != 0)
                    fail_msg("%s, case %d, %d threads: other bits", (*ops)->name, i, threads[j % 4]);
                free(found);
            }
        }
        free(first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wide_convolutions_equal_ref),
        cmocka_unit_test(their_bits_depend_on_neither_threads_nor_frames_nor_instruction_set),
    };
    setenv("REFRAIN_GPU", "0", 0);
    trial_backends(); /* what is missing is said before anything runs */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
