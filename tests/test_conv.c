/*
 * test_conv.c - convolutions and the VAE's channel norm of every backend this machine can run; how: trial.h.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/trial.h"

/* ---------------------------------------------------------------------------------------- convolutions */

/* Of both factors, in ||.||; test_cuda_conv.c says more. */
static const double rounded_to_tf32 = 3.5e-4;

struct conv_inputs {
    struct conv_shape shape;
    struct matrix w, bias;
    struct volume x, y, residual; /* y: sizes only; residual.data NULL for none */
    bool in_place;
};

static void *conv_make(const struct ops *ops, const void *inputs)
{
    const struct conv_inputs *in = inputs;
    struct conv *conv = NULL;
    assert_int_equal(ops->conv_create(&in->shape, &in->w, &in->bias, &conv, NULL), STATUS_OK);
    assert_true(ops->conv_bytes(conv) > 0);
    return conv;
}

static void conv_drop(const struct ops *ops, void *made)
{
    ops->conv_destroy(made);
}

/* Items are rows (t, y) of pixels, or pairs of them where the image is doubled: a sheet row is [lines, width,
 * out]. Whole frames go into one call, parts of a frame into calls of their own. */
static void conv_run(const struct ops *ops, void *made, struct team *team, const void *inputs, int first,
                     int count, const struct sheet *out)
{
    const struct conv_inputs *in = inputs;
    int step = in->shape.upsample2 ? 2 : 1, per_frame = in->y.height / step;
    const float *there = trial_floats(ops, team, in->x.data, in->x.stride_t * in->x.frames);
    const float *residual_there =
        trial_floats(ops, team, in->residual.data, in->residual.stride_t * in->residual.frames);
    for (int item = first, end = first + count; item < end;) {
        int t = item / per_frame, begin = item % per_frame, items = per_frame - begin, frames = 1;
        if (items > end - item) items = end - item;
        if (items == per_frame) frames = (end - item) / per_frame;
        struct volume x = in->x, y = in->y, residual = in->residual;
        x.data = (float *)(uintptr_t)there;
        residual.data = (float *)(uintptr_t)residual_there;
        y.data = out->at + item * out->stride;
        y.frames = frames;
        y.height = items * step;
        y.stride_x = in->shape.out_channels;
        y.stride_y = out->stride / step;
        y.stride_t = out->stride * per_frame;
        x.data += t * in->shape.stride_t * x.stride_t + begin * in->shape.stride_y * x.stride_y;
        residual.data += residual.data ? t * residual.stride_t + begin * step * residual.stride_y : 0;
        for (int line = 0; in->in_place && line < frames * y.height; line++)
            ops->copy(team, y.data + line / y.height * y.stride_t + line % y.height * y.stride_y,
                      residual.data + line / y.height * residual.stride_t +
                          line % y.height * residual.stride_y,
                      (size_t)(y.width * y.channels) * sizeof(float));
        ops->conv(team, made, &x, !residual.data ? NULL : in->in_place ? &y : &residual, &y);
        item += frames * items;
    }
}

/* A convolution to [frames, height, width, out]; slack: extra floats between pixels and rows of x. */
static void check_conv(struct conv_shape s, int frames, int height, int width, dtype_t dtype, bool residual,
                       bool in_place, int slack)
{
    int shrink = s.upsample2 ? 2 : 1, k = s.in_channels * s.kernel_t * s.kernel_y * s.kernel_x;
    int in_frames = (frames - 1) * s.stride_t + s.kernel_t,
        in_height = (height / shrink - 1) * s.stride_y + s.kernel_y;
    int in_width = (width / shrink - 1) * s.stride_x + s.kernel_x;
    void *w = random_weights((int64_t)s.out_channels * k, dtype, 1, 51),
         *bias = random_weights(s.out_channels, dtype, 1, 52);
    struct conv_inputs in = {.shape = s,
                             .w = matrix_of(w, dtype, s.out_channels, k),
                             .in_place = in_place,
                             .bias = matrix_of(bias, dtype, s.out_channels, 1)};
    in.x = (struct volume){
        .frames = in_frames, .height = in_height, .width = in_width, .channels = s.in_channels};
    in.x.stride_x = s.in_channels + slack;
    in.x.stride_y = in.x.stride_x * in_width + slack;
    in.x.stride_t = in.x.stride_y * in_height;
    in.x.data = random_floats(in.x.stride_t * in_frames, 1, 53);
    in.y = (struct volume){.frames = frames, .height = height, .width = width, .channels = s.out_channels};
    if (residual)
        in.residual = (struct volume){random_floats((int64_t)frames * height * width * s.out_channels, 1, 54),
                                      frames,
                                      height,
                                      width,
                                      s.out_channels,
                                      (int64_t)height * width * s.out_channels,
                                      (int64_t)width * s.out_channels,
                                      s.out_channels};
    char name[120];
    snprintf(name, sizeof name, "conv %d->%d, kernel %dx%dx%d, stride %dx%dx%d, %dx%dx%d%s", s.in_channels,
             s.out_channels, s.kernel_t, s.kernel_y, s.kernel_x, s.stride_t, s.stride_y, s.stride_x, frames,
             height, width, s.upsample2 ? ", doubled" : "");
    trial_check(&(struct trial){.name = name,
                                .items = frames * height / shrink,
                                .width = width * s.out_channels * shrink,
                                .gap = s.upsample2 ? 0 : 5,
                                .run = conv_run,
                                .make = conv_make,
                                .drop = conv_drop,
                                .inputs = &in,
                                .tolerance = 1e-6,
                                .rounded_tolerance = rounded_to_tf32});
    free(w), free(bias), free(in.x.data), free(in.residual.data);
}

static const struct conv_shape kernel_1 = {0, 0, 1, 1, 1, 1, 1, 1, false},
                               kernel_3 = {0, 0, 3, 3, 3, 1, 1, 1, false};

static struct conv_shape with_channels(struct conv_shape s, int in, int out)
{
    s.in_channels = in;
    s.out_channels = out;
    return s;
}

static void conv_equals_ref_for_any_channels(void **state)
{
    static const int channels[][2] = {{1, 1},    {3, 16},  {16, 3}, {5, 24},  {24, 33}, {16, 16}, {48, 40},
                                      {100, 20}, {17, 96}, {24, 2}, {100, 4}, {17, 1},  {12, 3}};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        check_conv(with_channels(kernel_3, channels[i][0], channels[i][1]), 2, 3, 13, (dtype_t)(i % 3), i % 2,
                   i % 4 == 1, i % 3 == 2 ? 3 : 0);
}

static void conv_of_many_channels_in_pieces_equals_ref(void **state)
{
    check_conv(with_channels(kernel_3, 400, 18), 1, 2, 5, DTYPE_F32, false, false, 0);
    check_conv(with_channels(kernel_1, 1024, 20), 1, 3, 25, DTYPE_BF16, true, false, 0);
}

static void conv_equals_ref_for_any_kernel_and_stride(void **state)
{
    for (int t = 1; t <= 3; t++)
        for (int y = 1; y <= 3; y++)
            for (int x = 1; x <= 3; x++)
                for (int stride = 1; stride <= 2; stride++)
                    check_conv((struct conv_shape){9, 7, t, y, x, stride, 3 - stride, stride, false}, 2, 4, 5,
                               DTYPE_F32, stride == 2, false, y);
}

static void conv_equals_ref_for_any_width(void **state)
{
    static const int widths[] = {1, 2, 4, 8, 11, 12, 24, 25, 64};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        check_conv(with_channels(kernel_3, 6, 17), 1, 3, widths[i], DTYPE_F32, true, true, 0);
}

static void conv_cut_into_many_tasks_has_the_same_bits(void **state)
{
    check_conv(with_channels(kernel_3, 32, 64), 2, 12, 30, DTYPE_F32, false, false, 0);
}

static void conv_of_a_doubled_image_equals_ref(void **state)
{
    struct conv_shape flat = {0, 0, 1, 3, 3, 1, 1, 1, true}, deep = flat;
    deep.kernel_t = 3;
    check_conv(with_channels(flat, 5, 7), 1, 2, 2, DTYPE_F32, false, false, 0);
    check_conv(with_channels(flat, 16, 8), 3, 6, 26, DTYPE_BF16, true, false, 0);
    check_conv(with_channels(flat, 40, 33), 1, 8, 10, DTYPE_F32, true, true, 2);
    check_conv(with_channels(deep, 20, 17), 2, 4, 12, DTYPE_F16, false, false, 0);
}

static void conv_pixels_have_the_same_bits_in_a_narrower_image(void **state)
{
    enum { IN = 20, OUT = 18, WIDTH = 40, HEIGHT = 4 };
    struct conv_shape s = {OUT, IN, 1, 3, 3, 1, 1, 1, false};
    float *w = random_floats(OUT * IN * 9, 1, 61), *x = random_floats((WIDTH + 2) * (HEIGHT + 2) * IN, 1, 62);
    struct sheet whole = sheet_new(HEIGHT, WIDTH * OUT, WIDTH * OUT),
                 part = sheet_new(HEIGHT, WIDTH * OUT, WIDTH * OUT);
    for (const struct ops *const *ops = ops_available() + 1; *ops; ops++) {
        struct conv *conv;
        assert_int_equal(
            (*ops)->conv_create(&s, &(struct matrix){w, DTYPE_F32, OUT, IN * 9}, NULL, &conv, NULL),
            STATUS_OK);
        struct volume in = {x, 1, HEIGHT + 2, WIDTH + 2, IN, 0, (WIDTH + 2) * IN, IN};
        struct volume out = {whole.at, 1, HEIGHT, WIDTH, OUT, 0, WIDTH * OUT, OUT};
        (*ops)->conv(trial_team(0), conv, &in, NULL, &out);
        for (int first = 0, count = 1; first < WIDTH; first += count, count = count * 2 + 1) {
            if (count > WIDTH - first) count = WIDTH - first;
            struct volume narrow_in = in, narrow_out = out;
            narrow_in.data += first * IN;
            narrow_out.data = part.at + first * OUT;
            narrow_out.width = count;
            (*ops)->conv(trial_team(2), conv, &narrow_in, NULL, &narrow_out);
        }
        sheet_same_bits(&part, &whole, 0, HEIGHT, "a narrower image");
        (*ops)->conv_destroy(conv);
    }
    sheet_free(&whole), sheet_free(&part), free(w), free(x);
}

static void conv_of_a_shape_that_does_not_fit_is_refused(void **state)
{
    float data[64] = {0};
    struct conv_shape good = {2, 3, 1, 3, 3, 1, 1, 1, false}, wide = good, fast = good, doubled = good;
    wide.kernel_x = 100;
    fast.stride_y = 0;
    doubled.upsample2 = true;
    doubled.stride_x = 2;
    struct matrix w = {data, DTYPE_F32, 2, 27}, small = {data, DTYPE_F32, 2, 26};
    for (const struct ops *const *ops = ops_available(); *ops; ops++) {
        struct conv *conv = NULL;
        assert_int_equal((*ops)->conv_create(&wide, &w, NULL, &conv, NULL), STATUS_UNSUPPORTED);
        assert_int_equal((*ops)->conv_create(&fast, &w, NULL, &conv, NULL), STATUS_UNSUPPORTED);
        assert_int_equal((*ops)->conv_create(&doubled, &w, NULL, &conv, NULL), STATUS_UNSUPPORTED);
        assert_int_equal((*ops)->conv_create(&good, &small, NULL, &conv, NULL), STATUS_INVALID);
        assert_null(conv);
        (*ops)->conv_destroy(NULL);
    }
}

/* ------------------------------------------------------------------------------------------- channel norm */

struct channel_inputs {
    struct volume x; /* one frame a line: [lines, 1, width, channels] */
    const float *gamma;
    bool silu, in_place;
};

static void channel_run(const struct ops *ops, void *made, struct team *team, const void *inputs, int first,
                        int count, const struct sheet *out)
{
    const struct channel_inputs *in = inputs;
    struct volume x = in->x, y;
    const float *gamma = trial_floats(ops, team, in->gamma, x.channels);
    x.data = (float *)(uintptr_t)trial_floats(ops, team, x.data, x.height * x.stride_y) + first * x.stride_y;
    x.height = count;
    y = x;
    y.data = out->at + first * out->stride;
    y.stride_x = x.channels;
    y.stride_y = out->stride;
    y.stride_t = 0;
    for (int i = 0; in->in_place && i < count * x.width; i++)
        ops->copy(team, y.data + i / x.width * y.stride_y + i % x.width * y.stride_x,
                  x.data + i / x.width * x.stride_y + i % x.width * x.stride_x,
                  (size_t)x.channels * sizeof(float));
    ops->channel_norm(team, in->in_place ? &y : &x, gamma, in->silu, &y);
}

static void channel_norm_equals_ref(void **state)
{
    static const int channels[] = {1, 3, 16, 17, 24, 64, 96, 100, 384};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        for (int silu = 0; silu < 2; silu++) {
            int c = channels[i], width = 7, lines = 9;
            float *gamma = random_floats(c, 1, 71);
            struct volume x = {random_floats(lines * (width * (c + 2) + 1), 2, 72),
                               1,
                               lines,
                               width,
                               c,
                               0,
                               width * (c + 2) + 1,
                               c + 2};
            struct channel_inputs in = {x, gamma, silu, i % 2};
            trial_check(&(struct trial){.name = "channel_norm",
                                        .items = lines,
                                        .width = width * c,
                                        .gap = 5,
                                        .run = channel_run,
                                        .inputs = &in,
                                        .tolerance = 1e-6});
            free(gamma), free(x.data);
        }
}

static void channel_norm_of_zeros_is_zero(void **state)
{
    float zeros[20] = {0}, gamma[20], out[20];
    for (int i = 0; i < 20; i++) gamma[i] = 1, out[i] = 1;
    for (const struct ops *const *ops = ops_available(); *ops; ops++) {
        struct volume x = {zeros, 1, 1, 1, 20, 20, 20, 20}, y = {out, 1, 1, 1, 20, 20, 20, 20};
        (*ops)->channel_norm(trial_team(0), &x, gamma, true, &y);
        assert_memory_equal(out, zeros, sizeof out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conv_equals_ref_for_any_channels),
        cmocka_unit_test(conv_of_many_channels_in_pieces_equals_ref),
        cmocka_unit_test(conv_equals_ref_for_any_kernel_and_stride),
        cmocka_unit_test(conv_equals_ref_for_any_width),
        cmocka_unit_test(conv_cut_into_many_tasks_has_the_same_bits),
        cmocka_unit_test(conv_of_a_doubled_image_equals_ref),
        cmocka_unit_test(conv_pixels_have_the_same_bits_in_a_narrower_image),
        cmocka_unit_test(conv_of_a_shape_that_does_not_fit_is_refused),
        cmocka_unit_test(channel_norm_equals_ref),
        cmocka_unit_test(channel_norm_of_zeros_is_zero),
    };
    return cmocka_run_group_tests(tests, trial_make_teams, trial_drop_teams);
}
