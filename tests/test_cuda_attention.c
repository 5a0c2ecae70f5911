/*
 * test_cuda_attention.c - the CUDA attention kernels against `ref`: odd shapes, orders of execution, company of a row,
 * bias, strides, the last row's logit, and what is written where.
 *
 * Error bounds. Inputs are rounded to the kernel's type first, so that what is bounded is arithmetic. bf16 rounds within
 * 2^-8 of a number's power of two, 1.7e-3 of a result's norm. Tensor cores round weights and results: together 2.4e-3.
 * The bounds, 2e-3 and 3e-3, are a little above; float32 has the CPU's.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>
#include "kernels/cuda/launch.h"
#include "tests/cusim/cusim.h"
#include "tests/gpu/array.h"
#include "tests/trial.h"

static const double tensor_bound = 3e-3, float_bound = 2e-6, rounding_bound = 2e-3;

enum { SEEDS = 3 };
static const uint64_t seeds[SEEDS] = {0, 1, 7};

struct problem {
    int q_rows, kv_rows, heads, head_dim;
    dtype_t dtype;
    int gap, shift; /* elements between rows, and by which arrays miss alignment */
    bool bias;
    float last_logit, size; /* size: of the elements of q and k; 0 is 1 */
};

struct setting {
    struct problem p;
    struct array q, k, v, out, want;
    float *host_bias, *bias; /* the latter of the device */
    double bound;
};

static struct attention attention_of(const struct setting *s)
{
    return (struct attention){.q = array_at(&s->q),
                              .k = array_at(&s->k),
                              .v = array_at(&s->v),
                              .out = array_at(&s->out),
                              .dtype = s->p.dtype,
                              .q_stride = s->q.stride,
                              .k_stride = s->k.stride,
                              .v_stride = s->v.stride,
                              .out_stride = s->out.stride,
                              .q_rows = s->p.q_rows,
                              .kv_rows = s->p.kv_rows,
                              .heads = s->p.heads,
                              .head_dim = s->p.head_dim,
                              .scale = 1 / sqrtf((float)s->p.head_dim),
                              .last_logit = s->p.last_logit,
                              .bias = s->bias};
}

static struct setting setting_new(struct problem p)
{
    int width = p.heads * p.head_dim, distances = p.heads * (p.q_rows + p.kv_rows - 1);
    struct array q = {.rows = p.q_rows,
                      .width = width,
                      .shift = p.shift,
                      .stride = width + p.gap,
                      .dtype = p.dtype},
                 kv = q;
    kv.rows = p.kv_rows;
    struct setting s = {.p = p};
    s.q = array_random(q, p.size ? p.size : 1, 21);
    s.k = array_random(kv, p.size ? p.size : 1, 22);
    s.v = array_random(kv, 1, 23);
    s.out = array_empty(q);
    s.want = array_empty((struct array){.rows = p.q_rows, .width = width});
    if (p.bias) {
        s.host_bias = random_floats(distances, 2, 24);
        s.bias = gpu_copy(s.host_bias, (size_t)distances * sizeof(float));
    }
    struct attention a = attention_of(&s);
    a.dtype = DTYPE_F32;
    a.q = s.q.host, a.k = s.k.host, a.v = s.v.host, a.out = s.want.host, a.bias = s.host_bias;
    a.q_stride = a.k_stride = a.v_stride = a.out_stride = width;
    ops_find("ref")->attention(trial_team(0), &a);
    return s;
}

static void setting_free(struct setting *s)
{
    array_free(&s->q), array_free(&s->k), array_free(&s->v), array_free(&s->out), array_free(&s->want);
    free(s->host_bias);
    if (s->bias) gpu_free(s->bias);
}

static void check_bound(const struct setting *s, double bound)
{
    double error = array_error(&s->out, &s->want), largest = array_largest_error(&s->out, &s->want);
    /* v is within 1: one element may be as wrong as a weight and a result at once */
    if (!(error <= bound && largest <= 4 * bound))
        fail_msg("%dx%d, %d heads of %d: error %g above %g, or largest %g above %g", s->p.q_rows,
                 s->p.kv_rows, s->p.heads, s->p.head_dim, error, bound, largest, 4 * bound);
}

/* The first rows of out alone: a part of the q rows, with the part of the bias that is theirs. */
static void check_company(const struct setting *s, int first, int count)
{
    int part = count + s->p.kv_rows - 1, whole = s->p.q_rows + s->p.kv_rows - 1;
    struct attention a = attention_of(s);
    struct array shape = s->out;
    shape.rows = count;
    struct array some = array_empty(shape);
    float *bias = malloc((size_t)(s->p.heads * part) * sizeof *bias), *on_device = NULL;
    assert_non_null(bias);
    for (int head = 0; s->bias && head < s->p.heads; head++)
        memcpy(bias + head * part, s->host_bias + head * whole + s->p.q_rows - count - first,
               (size_t)part * sizeof *bias);
    if (s->bias) a.bias = on_device = gpu_copy(bias, (size_t)(s->p.heads * part) * sizeof *bias);
    a.q = (const char *)a.q + (size_t)first * (size_t)a.q_stride * dtype_bytes(s->p.dtype);
    a.q_rows = count;
    a.out = array_at(&some);
    assert_int_equal(cuda_attention(NULL, &a), 0);
    array_download(&some);
    array_same_bits(&some, &s->out, first, count, "other company");
    array_free(&some), free(bias);
    if (on_device) gpu_free(on_device);
}

static void check(struct problem p, double bound)
{
    struct setting s = setting_new(p);
    struct attention a = attention_of(&s);
    struct array first = array_empty((struct array){.rows = p.q_rows, .width = s.out.width});
    for (int i = 0; i < (trial_small() ? 1 : SEEDS); i++) {
        cusim_set_seed(seeds[i]);
        assert_int_equal(cuda_attention(NULL, &a), 0);
        array_download(&s.out);
        check_bound(&s, bound);
        if (i) array_same_bits(&s.out, &first, 0, p.q_rows, "another order of threads");
        memcpy(first.host, s.out.host, (size_t)p.q_rows * (size_t)s.out.width * sizeof(float));
        array_upload(&s.q); /* and not what a kernel may have left there */
    }
    for (int begin = 0, n = 0; begin < p.q_rows && !trial_small(); begin += p.q_rows / 3 + 1, n++) {
        int count = n % 2 ? p.q_rows - begin : 1;
        check_company(&s, begin, count);
    }
    array_free(&first);
    setting_free(&s);
}

static void tensor_cores_equal_ref_over_odd_shapes(void **state)
{
    static const int shapes[][4] = {/* q rows, kv rows, heads, head_dim */
                                    {1, 1, 1, 64},    {5, 3, 2, 64},     {130, 65, 1, 64},  {129, 200, 2, 64},
                                    {40, 64, 1, 128}, {131, 63, 2, 128}, {37, 129, 1, 128}, {33, 100, 2, 40},
                                    {20, 70, 1, 96},  {3, 17, 3, 8},     {65, 100, 1, 256}, {20, 31, 2, 192}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i += trial_small() ? 3 : 1)
        check((struct problem){.q_rows = shapes[i][0],
                               .kv_rows = shapes[i][1],
                               .heads = shapes[i][2],
                               .head_dim = shapes[i][3],
                               .dtype = DTYPE_BF16,
                               .gap = i % 2 ? 8 : 0},
              tensor_bound);
}

/* Device 1 is one whose multiprocessor has too little for two blocks with tiles of 64 rows. */
static void tensor_cores_beside_little_shared_memory_equal_ref(void **state)
{
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    cusim_reset_counts();
    check((struct problem){.q_rows = 70, .kv_rows = 45, .heads = 2, .head_dim = 128, .dtype = DTYPE_BF16},
          tensor_bound);
    check((struct problem){.q_rows = 3, .kv_rows = 97, .heads = 1, .head_dim = 72, .dtype = DTYPE_BF16},
          tensor_bound);
    assert_true(cusim_counted("attention_flash<128, 32, 2>").launches > 0);
    assert_int_equal(cusim_counted("attention_flash<128, 64, 2>").launches, 0);
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
}

static void tensor_cores_with_sharp_logits_equal_ref(void **state)
{
    for (int head_dim = 64; head_dim <= 256; head_dim *= 2)
        check((struct problem){.q_rows = 20,
                               .kv_rows = 150,
                               .heads = 1,
                               .head_dim = head_dim,
                               .dtype = DTYPE_BF16,
                               .last_logit = 3,
                               .size = 6},
              tensor_bound);
}

static void float_arithmetic_equals_ref_over_odd_shapes(void **state)
{
    static const int shapes[][4] = {{1, 1, 1, 1},    {5, 3, 2, 12},     {13, 17, 3, 40},
                                    {40, 80, 2, 64}, {37, 130, 1, 100}, {33, 65, 1, 256},
                                    {20, 31, 2, 17}, {35, 70, 1, 384},  {7, 20, 1, 512}};
    for (size_t i = trial_small(); i < sizeof shapes / sizeof shapes[0]; i += trial_small() ? 3 : 1)
        for (int bias = 0; bias < 2; bias++)
            check((struct problem){.q_rows = shapes[i][0],
                                   .kv_rows = shapes[i][1],
                                   .heads = shapes[i][2],
                                   .head_dim = shapes[i][3],
                                   .gap = bias ? 3 : 0,
                                   .bias = bias,
                                   .last_logit = bias ? 0.5f : 0},
                  float_bound);
}

static void bf16_that_tensor_cores_do_not_suit_equals_ref(void **state)
{
    check(
        (struct problem){
            .q_rows = 33, .kv_rows = 40, .heads = 2, .head_dim = 64, .dtype = DTYPE_BF16, .bias = true},
        rounding_bound);
    check(
        (struct problem){
            .q_rows = 9, .kv_rows = 70, .heads = 1, .head_dim = 64, .dtype = DTYPE_BF16, .gap = 1},
        rounding_bound);
    check(
        (struct problem){
            .q_rows = 9, .kv_rows = 7, .heads = 1, .head_dim = 128, .dtype = DTYPE_BF16, .shift = 1},
        rounding_bound);
    check((struct problem){.q_rows = 5, .kv_rows = 30, .heads = 3, .head_dim = 20, .dtype = DTYPE_BF16},
          rounding_bound);
    check((struct problem){.q_rows = 5, .kv_rows = 30, .heads = 1, .head_dim = 320, .dtype = DTYPE_BF16},
          rounding_bound);
}

/* ln(n) on the last row stands for n equal rows: the rule that lets one pad row replace hundreds. */
static void last_logit_stands_for_repeated_rows(void **state)
{
    enum { KV = 70, REPEATS = 200 };
    for (int wide = trial_small(); wide < 2; wide++)
        for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
            struct problem p = {
                .q_rows = 9, .kv_rows = KV - 1 + REPEATS, .heads = 2, .head_dim = wide ? 128 : 64};
            p.dtype = (dtype_t)dtype;
            struct setting s = setting_new(p);
            for (int row = KV; row < p.kv_rows; row++) {
                size_t width = (size_t)s.k.width;
                memcpy(s.k.host + (size_t)row * width, s.k.host + (KV - 1) * width, width * sizeof(float));
                memcpy(s.v.host + (size_t)row * width, s.v.host + (KV - 1) * width, width * sizeof(float));
            }
            array_upload(&s.k), array_upload(&s.v);
            struct attention a = attention_of(&s);
            assert_int_equal(cuda_attention(NULL, &a), 0);
            array_download(&s.out);
            memcpy(s.want.host, s.out.host, (size_t)s.out.rows * (size_t)s.out.width * sizeof(float));
            a.kv_rows = KV, a.last_logit = logf(REPEATS);
            assert_int_equal(cuda_attention(NULL, &a), 0);
            array_download(&s.out);
            check_bound(&s, dtype == DTYPE_F32 ? float_bound : 2 * tensor_bound);
            setting_free(&s);
        }
}

static void bias_of_minus_infinity_masks(void **state)
{
    enum { KV = 200, FIRST = 150 }; /* two kv tiles are masked as a whole */
    struct setting s = setting_new((struct problem){
        .q_rows = 1, .kv_rows = KV, .heads = 1, .head_dim = 48, .bias = true, .last_logit = 1});
    struct attention a = attention_of(&s);
    for (int i = 0; i < KV; i++) s.host_bias[i] = i < FIRST ? -INFINITY : 0;
    gpu_free(s.bias);
    a.bias = s.bias = gpu_copy(s.host_bias, KV * sizeof(float));
    assert_int_equal(cuda_attention(NULL, &a), 0);
    array_download(&s.out);
    a.bias = NULL, a.kv_rows = KV - FIRST;
    a.k = (const float *)a.k + FIRST * a.k_stride, a.v = (const float *)a.v + FIRST * a.v_stride;
    memcpy(s.want.host, s.out.host, (size_t)s.out.width * sizeof(float));
    assert_int_equal(cuda_attention(NULL, &a), 0);
    array_download(&s.out);
    check_bound(&s, float_bound);
    setting_free(&s);
}

static void check_counts(const char *name, struct problem p, int rows, int tile, int width,
                         int64_t extra_read)
{
    struct setting s = setting_new(p);
    struct attention a = attention_of(&s);
    int64_t row_bytes = (int64_t)p.head_dim * (int64_t)dtype_bytes(p.dtype);
    int64_t blocks = (p.q_rows + rows - 1) / rows, tiles = (p.kv_rows + tile - 1) / tile;
    cusim_reset_counts();
    assert_int_equal(cuda_attention(NULL, &a), 0);
    array_download(&s.out);
    struct cusim_counts counts = cusim_counted(name);
    assert_int_equal(counts.launches, 1);
    assert_int_equal(counts.flops, 4 * p.heads * blocks * rows * tiles * tile * width);
    assert_int_equal(counts.read_bytes,
                     p.heads * (p.q_rows + blocks * 2 * p.kv_rows) * row_bytes + extra_read);
    assert_int_equal(counts.written_bytes, p.heads * p.q_rows * row_bytes);
    assert_int_equal(counts.bank_conflicts, 0);
    setting_free(&s);
}

static void costs_are_those_of_the_formula_and_no_banks_conflict(void **state)
{
    struct problem p = {.q_rows = 150, .kv_rows = 130, .heads = 2, .head_dim = 64, .dtype = DTYPE_BF16};
    check_counts("attention_flash<64, 64, 2>", p, 128, 64, 64, 0);
    p.head_dim = 128;
    check_counts("attention_flash<128, 64, 2>", p, 128, 64, 128, 0);
    p.head_dim = 200;
    check_counts("attention_flash<256, 32, 1>", p, 64, 32, 256, 0);
    p.dtype = DTYPE_F32, p.bias = true;
    check_counts("attention_any<float, 256>", p, 32, 64, 256, 4 * p.heads * p.q_rows * p.kv_rows);
}

int main(void)
{
    setenv("REFRAIN_FAKEGPU_DEVICES", "2", 1);
    setenv("REFRAIN_FAKEGPU_CAPABILITY", "9.0,12.0", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensor_cores_equal_ref_over_odd_shapes),
        cmocka_unit_test(tensor_cores_beside_little_shared_memory_equal_ref),
        cmocka_unit_test(tensor_cores_with_sharp_logits_equal_ref),
        cmocka_unit_test(float_arithmetic_equals_ref_over_odd_shapes),
        cmocka_unit_test(bf16_that_tensor_cores_do_not_suit_equals_ref),
        cmocka_unit_test(last_logit_stands_for_repeated_rows),
        cmocka_unit_test(bias_of_minus_infinity_masks),
        cmocka_unit_test(costs_are_those_of_the_formula_and_no_banks_conflict),
    };
    cmocka_set_test_filter(getenv("REFRAIN_TEST_FILTER")); /* a pattern of names: for slow checkers */
    return cmocka_run_group_tests(tests, trial_make_teams, trial_drop_teams);
}
