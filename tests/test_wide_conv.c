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

#include "kernels/ops.h"
#include "tests/golden.h"

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

static float *random_floats(int64_t count, float scale, uint32_t seed)
{
    float *floats = malloc((size_t)count * sizeof *floats);
    assert_non_null(floats);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        floats[i] = scale * ((float)(seed >> 8) / (1 << 23) - 1.0f);
    }
    return floats;
}

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
    float *x = random_floats(
        (int64_t)(c->frames + c->kernel_t - 1) * (c->height + 2) * (c->width + 2) * c->in, 1, 3);
    float *y = random_floats(floats_of(c) + GUARD, 1, 4);
    for (int i = 0; i < GUARD; i++) y[floats_of(c) + i] = GUARD_VALUE;

    struct conv *conv;
    struct team *team;
    const struct conv_shape shape = {c->out, c->in, c->kernel_t, 3, 3, 1, 1, 1, false};
    assert_int_equal(team_create(threads, &team, NULL), STATUS_OK);
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
    for (int i = 0; i < GUARD; i++) assert_true(y[floats_of(c) + i] == GUARD_VALUE);
    ops->conv_destroy(conv);
    team_destroy(team);
    free(w), free(bias), free(x);
    return y;
}

static void wide_convolutions_equal_ref(void **state)
{
    for (int i = 0; i < CASE_COUNT; i++) {
        float *wanted = run(&CASES[i], ops_find("ref"), 2, 99);
        for (const struct ops *const *ops = ops_available() + 1; *ops; ops++) {
            float *found = run(&CASES[i], *ops, 2, 99);
            double distance = golden_relative_l2(found, wanted, floats_of(&CASES[i]));
            if (!(distance < 1e-6)) fail_msg("%s, case %d: relative L2 %.2e", (*ops)->name, i, distance);
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
        for (const struct ops *const *ops = ops_available() + 1; *ops; ops++)
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
        free(first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wide_convolutions_equal_ref),
        cmocka_unit_test(their_bits_depend_on_neither_threads_nor_frames_nor_instruction_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
