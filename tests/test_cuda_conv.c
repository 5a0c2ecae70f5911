/*
 * test_cuda_conv.c - the VAE's CUDA kernels against `ref`: convolutions of any channels, kernels, strides and layout, and
 * the channel norm; orders of execution, company of a pixel, what is written where, costs.
 *
 * Error bounds. The kernel multiplies in tf32, which has 10 bits of fraction. Numbers that fit are multiplied exactly, and
 * the bound of float32 sums remains. Of others both factors are rounded, together 3e-4 of a result's norm; to cut them
 * off, as tensor cores do by themselves, would be above 4e-4.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/cuda/conv.h"
#include "kernels/cuda/launch.h"
#include "tests/cusim/cusim.h"
#include "tests/gpu/array.h"
#include "tests/trial.h"

static const double exact_bound = 1.5e-6, rounding_bound = 3.5e-4, norm_bound = 5e-7;

enum { SEEDS = 3 };
static const uint64_t seeds[SEEDS] = {0, 1, 7};

/* Pixels are the rows of an array. One column more than the op is told of, which it must not touch. */
struct lattice {
    struct array pixels;
    int frames, height, width;
};

static struct array lattice_shape(int frames, int height, int width, int channels, int gap)
{
    return (struct array){.rows = frames * height * (width + 1),
                          .width = channels,
                          .stride = channels + gap,
                          .dtype = DTYPE_F32};
}

static struct volume volume_at(const struct lattice *l, float *data, int64_t stride)
{
    return (struct volume){.data = data,
                           .frames = l->frames,
                           .height = l->height,
                           .width = l->width,
                           .channels = l->pixels.width,
                           .stride_t = stride * (l->width + 1) * l->height,
                           .stride_y = stride * (l->width + 1),
                           .stride_x = stride};
}

static struct volume on_device(const struct lattice *l)
{
    return volume_at(l, array_at(&l->pixels), l->pixels.stride);
}

static struct volume on_host(const struct lattice *l)
{
    return volume_at(l, l->pixels.host, l->pixels.width);
}

static struct lattice lattice_random(int frames, int height, int width, int channels, int gap, uint64_t seed)
{
    struct lattice l = {.frames = frames, .height = height, .width = width};
    l.pixels = array_random(lattice_shape(frames, height, width, channels, gap), 1, seed);
    return l;
}

static void fill_with_nan(float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++) values[i] = NAN;
}

static struct lattice lattice_empty(int frames, int height, int width, int channels, int gap)
{
    struct lattice l = {.frames = frames, .height = height, .width = width};
    l.pixels = array_empty(lattice_shape(frames, height, width, channels, gap));
    fill_with_nan(l.pixels.host, (int64_t)l.pixels.rows * channels);
    return l;
}

/* ||got - want|| / ||want|| over what was to be written; what was not is still NaN. */
static void check_lattice(const struct lattice *got, const struct lattice *want, double bound,
                          const char *what)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < (int64_t)got->pixels.rows * got->pixels.width; i++) {
        double x = got->pixels.host[i], y = want->pixels.host[i];
        if (isnan(x) != isnan(y))
            fail_msg("%s: element %d %s", what, (int)i, isnan(y) ? "written" : "not written");
        if (isnan(y)) continue;
        difference += (x - y) * (x - y);
        size += y * y;
    }
    double error = sqrt(difference) / (sqrt(size) + 1e-30);
    if (!(error <= bound)) fail_msg("%s: error %g above %g", what, error, bound);
}

/* A box of pixels: [t, y, x] from `first`, `size` many. */
struct box {
    int first[3], size[3];
};

static void same_bits_in_box(const struct lattice *a, const struct lattice *b, const struct box *box,
                             const char *what)
{
    for (int t = box->first[0]; t < box->first[0] + box->size[0]; t++)
        for (int y = box->first[1]; y < box->first[1] + box->size[1]; y++)
            for (int x = box->first[2]; x < box->first[2] + box->size[2]; x++) {
                int64_t at = (int64_t)((t * a->height + y) * (a->width + 1) + x) * a->pixels.width;
                if (memcmp(a->pixels.host + at, b->pixels.host + at,
                           (size_t)a->pixels.width * sizeof(float)) != 0)
                    fail_msg("%s: pixel %d, %d, %d has other bits", what, t, y, x);
            }
}

/* ---------------------------------------------------------------------------------------- convolutions */

struct problem {
    struct conv_shape shape;
    int frames, height, width; /* of the output */
    dtype_t dtype;             /* of the weights */
    bool residual, in_place, any_numbers, no_bias;
    int gap; /* floats between pixels */
};

struct setting {
    struct problem p;
    struct matrix w, bias;
    void *weights_memory, *bias_memory;
    float *packed; /* of the device */
    struct lattice x, residual, want;
    char name[160];
};

/* Multiples of 1/64 fit every type, and so do sums of four. */
static void *few_bits(int64_t count, dtype_t dtype, uint64_t seed)
{
    float *values = random_floats(count, 1, seed);
    char *data = malloc((size_t)(count + 1) * dtype_bytes(dtype));
    assert_non_null(data);
    for (int64_t i = 0; i < count; i++) {
        float value = rintf(values[i] * 64) / 64;
        _Float16 small = (_Float16)value;
        uint32_t bits;
        memcpy(&bits, &value, 4);
        uint16_t half = (uint16_t)(bits >> 16);
        memcpy(data + (size_t)(i + 1) * dtype_bytes(dtype),
               dtype == DTYPE_F32    ? (void *)&bits
               : dtype == DTYPE_BF16 ? (void *)&half
                                     : (void *)&small,
               dtype_bytes(dtype));
    }
    free(values);
    return data; /* the weights begin one element in, as matrix_of has them */
}

static void cut_to_tf32(struct array *a)
{
    for (int64_t i = 0; i < (int64_t)a->rows * a->width; i++) {
        uint32_t bits;
        memcpy(&bits, a->host + i, 4);
        bits &= ~0x1fffu;
        memcpy(a->host + i, &bits, 4);
    }
    array_upload(a);
}

static void run_ref(struct setting *s)
{
    const struct ops *ref = ops_find("ref");
    struct conv *conv = NULL;
    struct volume x = on_host(&s->x), residual = on_host(&s->residual), want = on_host(&s->want);
    assert_int_equal(ref->conv_create(&s->p.shape, &s->w, s->p.no_bias ? NULL : &s->bias, &conv, NULL),
                     STATUS_OK);
    ref->conv(trial_team(0), conv, &x, s->p.residual ? &residual : NULL, &want);
    ref->conv_destroy(conv);
}

static struct setting setting_new(struct problem p)
{
    struct conv_shape c = p.shape;
    int shrink = c.upsample2 ? 2 : 1, k = c.in_channels * c.kernel_t * c.kernel_y * c.kernel_x;
    struct setting s = {.p = p};
    snprintf(s.name, sizeof s.name, "conv %d->%d, kernel %dx%dx%d, stride %dx%dx%d, %dx%dx%d%s",
             c.in_channels, c.out_channels, c.kernel_t, c.kernel_y, c.kernel_x, c.stride_t, c.stride_y,
             c.stride_x, p.frames, p.height, p.width, c.upsample2 ? ", doubled" : "");
    int64_t count = (int64_t)c.out_channels * k;
    s.weights_memory = p.any_numbers ? random_weights(count, p.dtype, 1, 51) : few_bits(count, p.dtype, 51);
    s.bias_memory = random_weights(c.out_channels, p.dtype, 1, 52);
    s.w = matrix_of(s.weights_memory, p.dtype, c.out_channels, k);
    s.bias = matrix_of(s.bias_memory, p.dtype, c.out_channels, 1);
    float *packed = malloc(cuda_conv_floats(&c) * sizeof *packed);
    assert_non_null(packed);
    cuda_conv_pack(&c, &s.w, p.no_bias ? NULL : &s.bias, packed);
    s.packed = gpu_copy(packed, cuda_conv_floats(&c) * sizeof *packed);
    free(packed);
    s.x = lattice_random((p.frames - 1) * c.stride_t + c.kernel_t,
                         (p.height / shrink - 1) * c.stride_y + c.kernel_y,
                         (p.width / shrink - 1) * c.stride_x + c.kernel_x, c.in_channels, p.gap, 53);
    if (!p.any_numbers) cut_to_tf32(&s.x.pixels);
    s.residual = lattice_random(p.frames, p.height, p.width, c.out_channels, p.gap, 54);
    s.want = lattice_empty(p.frames, p.height, p.width, c.out_channels, 0);
    run_ref(&s);
    return s;
}

static void setting_free(struct setting *s)
{
    free(s->weights_memory), free(s->bias_memory), gpu_free(s->packed);
    array_free(&s->x.pixels), array_free(&s->residual.pixels), array_free(&s->want.pixels);
}

/* Computes the pixels of a box alone. */
static struct lattice run_box(const struct setting *s, const struct box *box)
{
    const struct conv_shape *c = &s->p.shape;
    int shrink = c->upsample2 ? 2 : 1;
    struct lattice out = lattice_empty(s->p.frames, s->p.height, s->p.width, c->out_channels, s->p.gap);
    struct volume x = on_device(&s->x), residual = on_device(&s->residual), y = on_device(&out);
    if (s->p.in_place) {
        memcpy(out.pixels.host, s->residual.pixels.host,
               (size_t)out.pixels.rows * (size_t)out.pixels.width * sizeof(float));
        array_upload(&out.pixels);
        residual = y;
    }
    y.frames = box->size[0], y.height = box->size[1], y.width = box->size[2];
    int64_t to = box->first[0] * y.stride_t + box->first[1] * y.stride_y + box->first[2] * y.stride_x;
    y.data += to, residual.data += to;
    x.data += box->first[0] * c->stride_t * x.stride_t + box->first[1] / shrink * c->stride_y * x.stride_y +
              box->first[2] / shrink * c->stride_x * x.stride_x;
    assert_int_equal(cuda_conv(NULL, c, s->packed, &x, s->p.residual ? &residual : NULL, &y), 0);
    array_download(&out.pixels);
    /* the column beyond has what was put there: as if it were not written */
    for (int line = 0; s->p.in_place && line < out.frames * out.height; line++)
        fill_with_nan(out.pixels.host + (int64_t)(line * (out.width + 1) + out.width) * out.pixels.width,
                      out.pixels.width);
    return out;
}

static void check(struct problem p, double bound)
{
    struct setting s = setting_new(p);
    struct box all = {{0}, {p.frames, p.height, p.width}};
    struct lattice whole = run_box(&s, &all);
    check_lattice(&whole, &s.want, bound, s.name);
    for (int i = 1; i < SEEDS && !trial_small(); i++) {
        cusim_set_seed(seeds[i]);
        struct lattice again = run_box(&s, &all);
        same_bits_in_box(&again, &whole, &all, "another order of threads");
        array_free(&again.pixels);
    }
    int step = p.shape.upsample2 ? 2 : 1;
    struct box parts[] = {{{p.frames - 1, 0, 0}, {1, step, p.width}},
                          {{0, p.height - step, 0}, {p.frames, step, step}},
                          {{0, 0, p.width - step}, {1, p.height, step}}};
    for (int i = 0; i < 3 && !trial_small(); i++) {
        struct lattice part = run_box(&s, &parts[i]);
        same_bits_in_box(&part, &whole, &parts[i], "other company");
        array_free(&part.pixels);
    }
    array_free(&whole.pixels);
    setting_free(&s);
}

static const struct conv_shape kernel_1 = {0, 0, 1, 1, 1, 1, 1, 1, false},
                               kernel_2 = {0, 0, 2, 1, 3, 1, 1, 1, false},
                               kernel_3 = {0, 0, 3, 3, 3, 1, 1, 1, false};

static struct conv_shape with_channels(struct conv_shape s, int in, int out)
{
    s.in_channels = in;
    s.out_channels = out;
    return s;
}

static void conv_equals_ref_for_any_channels(void **state)
{
    static const int channels[][2] = {{1, 1},    {3, 16},   {16, 3},   {5, 24},  {24, 33},
                                      {16, 16},  {48, 96},  {100, 20}, {17, 97}, {12, 128},
                                      {20, 200}, {36, 160}, {4, 64}};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i += trial_small() ? 2 : 1)
        check((struct problem){.shape = with_channels(kernel_2, channels[i][0], channels[i][1]),
                               .frames = 2,
                               .height = 3,
                               .width = 13,
                               .dtype = (dtype_t)(i % 3),
                               .residual = i % 2,
                               .in_place = i % 4 == 1,
                               .no_bias = i % 5 == 4,
                               .gap = i % 3 == 2 ? 3 : i % 3 * 4},
              exact_bound);
}

static void conv_of_more_pixels_than_a_block_equals_ref(void **state)
{
    check((struct problem){.shape = with_channels(kernel_3, 32, 16),
                           .frames = 2,
                           .height = 12,
                           .width = 22,
                           .residual = true},
          exact_bound);
    if (trial_small()) return;
    check(
        (struct problem){.shape = with_channels(kernel_1, 200, 100), .frames = 1, .height = 16, .width = 32},
        exact_bound);
}

static void conv_equals_ref_for_any_kernel_and_stride(void **state)
{
    for (int i = 0; i < 27; i += trial_small() ? 8 : 1) {
        int t = 1 + i / 9, y = 1 + i / 3 % 3, x = 1 + i % 3, stride = 1 + i % 2;
        check((struct problem){.shape = {8, 8 + i % 5 % 2, t, y, x, stride, 3 - stride, stride, false},
                               .frames = 2,
                               .height = 4,
                               .width = 5,
                               .residual = stride == 2,
                               .gap = y},
              exact_bound);
    }
    check((struct problem){.shape = {7, 4, 7, 7, 7, 1, 2, 3, false}, .frames = 1, .height = 2, .width = 3},
          exact_bound);
}

static void conv_of_a_doubled_image_equals_ref(void **state)
{
    struct conv_shape flat = {0, 0, 1, 3, 3, 1, 1, 1, true}, deep = flat;
    deep.kernel_t = 3;
    check((struct problem){.shape = with_channels(flat, 5, 7), .frames = 1, .height = 2, .width = 2},
          exact_bound);
    check((struct problem){.shape = with_channels(flat, 16, 8),
                           .frames = 3,
                           .height = 6,
                           .width = 26,
                           .dtype = DTYPE_BF16,
                           .residual = true},
          exact_bound);
    check((struct problem){.shape = with_channels(flat, 40, 66),
                           .frames = 1,
                           .height = 8,
                           .width = 10,
                           .residual = true,
                           .in_place = true,
                           .gap = 2},
          exact_bound);
    check(
        (struct problem){
            .shape = with_channels(deep, 20, 17), .frames = 2, .height = 4, .width = 12, .dtype = DTYPE_F16},
        exact_bound);
}

static void conv_of_any_numbers_is_within_the_rounding_of_tf32(void **state)
{
    struct conv_shape doubled = {24, 32, 1, 3, 3, 1, 1, 1, true};
    check((struct problem){.shape = with_channels(kernel_3, 64, 96),
                           .frames = 1,
                           .height = 5,
                           .width = 9,
                           .any_numbers = true},
          rounding_bound);
    check((struct problem){.shape = doubled, .frames = 1, .height = 4, .width = 8, .any_numbers = true},
          rounding_bound);
}

static void costs_are_those_of_the_formula_and_no_banks_conflict(void **state)
{
    enum { PIXELS = 256 };
    static const struct conv_shape shapes[] = {{200, 32, 3, 3, 3, 1, 1, 1, false},
                                               {96, 20, 1, 3, 3, 1, 1, 1, true},
                                               {3, 16, 3, 1, 1, 1, 2, 2, false}};
    static const char *const names[] = {"conv_product<128>", "conv_product<96>", "conv_product<16>"};
    for (int i = trial_small() ? 2 : 0; i < 3; i++) {
        const struct conv_shape *c = &shapes[i];
        struct setting s = setting_new((struct problem){
            .shape = *c, .frames = 2, .height = 12, .width = 14, .residual = true, .in_place = true});
        struct conv_layout l = conv_layout_of(c);
        cusim_reset_counts();
        struct lattice out = run_box(&s, &(struct box){{0}, {2, 12, 14}});
        struct cusim_counts counts = cusim_counted(names[i]);
        int64_t outputs = 2 * 12 * 14 * c->out_channels, pixels = 2 * 12 * 14 / l.parts;
        int64_t blocks = (pixels + PIXELS - 1) / PIXELS * l.column_blocks * l.parts;
        int64_t taps = l.kernel_t * l.kernel_y * l.kernel_x;
        assert_int_equal(counts.launches, 1);
        assert_int_equal(counts.flops, blocks * PIXELS * l.columns * l.steps * CONV_STEP * 2);
        assert_int_equal(counts.read_bytes, 4 * (blocks * PIXELS * taps * c->in_channels +
                                                 blocks * l.columns * l.steps * CONV_STEP + outputs));
        assert_int_equal(counts.written_bytes, 4 * outputs);
        assert_int_equal(counts.bank_conflicts, 0);
        array_free(&out.pixels);
        setting_free(&s);
    }
}

/* ------------------------------------------------------------------------------------------- channel norm */

static void check_norm(int channels, bool silu, bool in_place, int gap)
{
    struct lattice x = lattice_random(2, 3, 7, channels, gap, 72), y = lattice_empty(2, 3, 7, channels, gap);
    struct lattice want = lattice_empty(2, 3, 7, channels, 0);
    float *gamma = random_floats(channels, 1, 71),
          *gamma_there = gpu_copy(gamma, (size_t)channels * sizeof *gamma);
    struct volume x_host = on_host(&x), x_there = on_device(&x), want_host = on_host(&want),
                  y_there = on_device(&y);
    ops_find("ref")->channel_norm(trial_team(0), &x_host, gamma, silu, &want_host);
    for (int i = 0; i < (trial_small() ? 1 : SEEDS); i++) {
        cusim_set_seed(seeds[i]);
        cusim_reset_counts();
        assert_int_equal(cuda_channel_norm(NULL, &x_there, gamma_there, silu, &y_there), 0);
        array_download(&y.pixels);
        check_lattice(&y, &want, norm_bound, "channel norm");
        struct cusim_counts counts = cusim_counted(channels <= 128 ? "channel_norm<8>" : "channel_norm<32>");
        assert_int_equal(counts.read_bytes, 2 * 3 * 7 * channels * 4);
        assert_int_equal(counts.written_bytes, 2 * 3 * 7 * channels * 4);
    }
    struct box all = {{0}, {2, 3, 7}}, one = {{1, 1, 3}, {1, 1, 1}};
    struct volume pixel = x_there;
    pixel.frames = pixel.height = pixel.width = 1;
    pixel.data += x_there.stride_t + x_there.stride_y + 3 * x_there.stride_x;
    struct lattice alone = lattice_empty(2, 3, 7, channels, gap);
    struct volume to = on_device(&alone);
    to.data += to.stride_t + to.stride_y + 3 * to.stride_x;
    assert_int_equal(cuda_channel_norm(NULL, &pixel, gamma_there, silu, &to), 0);
    array_download(&alone.pixels);
    same_bits_in_box(&alone, &y, &one, "other company");
    array_free(&alone.pixels);
    if (in_place) {
        assert_int_equal(cuda_channel_norm(NULL, &x_there, gamma_there, silu, &x_there), 0);
        array_download(&x.pixels);
        same_bits_in_box(&x, &y, &all, "in place");
    }
    free(gamma), gpu_free(gamma_there);
    array_free(&x.pixels), array_free(&y.pixels), array_free(&want.pixels);
}

static void channel_norm_equals_ref(void **state)
{
    static const int channels[] = {1, 3, 16, 17, 24, 64, 96, 100, 128, 192, 384, 1100};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++)
        for (int silu = trial_small(); silu < 2; silu++) check_norm(channels[i], silu, i % 2, silu ? 3 : 4);
}

static void channel_norm_of_zeros_is_zero(void **state)
{
    struct lattice x = lattice_empty(1, 1, 2, 20, 0), y = lattice_empty(1, 1, 2, 20, 0);
    float gamma[20];
    for (int i = 0; i < 20; i++) gamma[i] = 1;
    memset(x.pixels.host, 0, (size_t)(x.pixels.rows * 20) * sizeof(float));
    array_upload(&x.pixels);
    float *gamma_there = gpu_copy(gamma, sizeof gamma);
    struct volume x_there = on_device(&x), y_there = on_device(&y);
    assert_int_equal(cuda_channel_norm(NULL, &x_there, gamma_there, true, &y_there), 0);
    array_download(&y.pixels);
    for (int i = 0; i < 2 * 20; i++) assert_true(y.pixels.host[i] == 0);
    gpu_free(gamma_there);
    array_free(&x.pixels), array_free(&y.pixels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conv_equals_ref_for_any_channels),
        cmocka_unit_test(conv_of_more_pixels_than_a_block_equals_ref),
        cmocka_unit_test(conv_equals_ref_for_any_kernel_and_stride),
        cmocka_unit_test(conv_of_a_doubled_image_equals_ref),
        cmocka_unit_test(conv_of_any_numbers_is_within_the_rounding_of_tf32),
        cmocka_unit_test(costs_are_those_of_the_formula_and_no_banks_conflict),
        cmocka_unit_test(channel_norm_equals_ref),
        cmocka_unit_test(channel_norm_of_zeros_is_zero),
    };
    cmocka_set_test_filter(getenv("REFRAIN_TEST_FILTER")); /* a pattern of names: for slow checkers */
    return cmocka_run_group_tests(tests, trial_make_teams, trial_drop_teams);
}
