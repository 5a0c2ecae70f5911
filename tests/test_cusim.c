/*
 * test_cusim.c - CUDA's rules as the emulator keeps them: each kernel of tests/cusim/semantics against what
 * the programming guide says, under several orders of threads, on one OS thread and on several.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/cusim/cusim.h"
#include "tests/cusim/semantics/semantics.h"
#include "tests/trial.h"

enum { SEEDS = 5 };
#ifdef __SANITIZE_THREAD__ /* a fiber is dear to the race checker */
enum { BLOCK_MAX = 128 };
static const char os_threads[] = "2";
#else
enum { BLOCK_MAX = 1024 };
static const char os_threads[] = "3";
#endif

static cudaStream_t stream;

static int begin(void **state)
{
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
}

static int end(void **state)
{
    return cudaStreamDestroy(stream);
}

/* Pinned memory, which host and kernels reach; filled with 0xff. */
static void *memory(size_t bytes)
{
    void *pointer;
    assert_int_equal(cudaHostAlloc(&pointer, bytes, cudaHostAllocDefault), cudaSuccess);
    return pointer;
}

static void finish(cudaError_t launched)
{
    assert_int_equal(launched, cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
}

static uint16_t bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* [count] numbers that bf16 holds exactly, as both. */
static void bf16_numbers(int count, uint64_t seed, uint16_t *narrow, float *wide)
{
    float *x = random_floats(count, 1, seed);
    for (int i = 0; i < count; i++) wide[i] = from_bf16(narrow[i] = bf16(x[i]));
    free(x);
}

static void a_sum_through_shared_memory_is_right_for_every_seed_and_shape(void **state)
{
    enum { N = 5000 };
    float *x = memory(N * sizeof *x), *out = memory(sizeof *out);
    for (int i = 0; i < N; i++) x[i] = (float)(i % 13);
    float right = 0;
    for (int i = 0; i < N; i++) right += x[i];
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        for (int threads = 32; threads <= BLOCK_MAX; threads *= 2) {
            cusim_set_seed(seed);
            *out = 0;
            finish(semantics_sum(stream, x, out, N, 7, threads));
            assert_true(*out == right);
        }
    cudaFreeHost(x), cudaFreeHost(out);
}

static void every_thread_of_every_block_runs_once_with_its_own_indices(void **state)
{
    unsigned grid[3] = {3, 2, 4}, block[3] = {5, 3, 2};
    size_t blocks = 24, threads = 30;
    uint64_t *out = memory(blocks * threads * sizeof *out);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        cusim_set_seed(seed);
        memset(out, 0xff, blocks * threads * sizeof *out);
        finish(semantics_places(stream, out, grid, block));
        for (size_t b = 0; b < blocks; b++)
            for (size_t t = 0; t < threads; t++) {
                unsigned of_block[3] = {(unsigned)b % 3, (unsigned)b / 3 % 2, (unsigned)b / 6};
                unsigned of_thread[3] = {(unsigned)t % 5, (unsigned)t / 5 % 3, (unsigned)t / 15};
                assert_int_equal(out[b * threads + t], semantics_place(of_block, of_thread));
            }
    }
    cudaFreeHost(out);
}

/* The lane a shuffle reads, by the programming guide, "Warp shuffle functions". */
static int shuffle_source(enum shuffle shuffle, int lane, int by, int width)
{
    int base = lane / width * width, source = lane;
    if (shuffle == SHUFFLE_INDEX) return base + by % width;
    if (shuffle == SHUFFLE_UP) source = lane - by;
    if (shuffle == SHUFFLE_DOWN) source = lane + by;
    if (shuffle == SHUFFLE_XOR) source = lane ^ by;
    if (shuffle == SHUFFLE_UP) return source < base ? lane : source;
    return source >= base + width ? lane : source;
}

static void shuffles_read_the_lane_the_guide_says(void **state)
{
    float *value = memory(32 * sizeof *value), *out = memory(SHUFFLES * 32 * sizeof *out);
    for (int i = 0; i < 32; i++) value[i] = 100.0f + (float)i;
    for (int width = 2; width <= 32; width *= 2)
        for (int by = 0; by < 32; by++) {
            cusim_set_seed((uint64_t)by % SEEDS);
            finish(semantics_shuffles(stream, value, out, by, width));
            for (int s = 0; s < SHUFFLES; s++)
                for (int lane = 0; lane < 32; lane++)
                    assert_true(out[s * 32 + lane] ==
                                value[shuffle_source((enum shuffle)s, lane, by, width)]);
        }
    cudaFreeHost(value), cudaFreeHost(out);
}

static void votes_of_a_warp_see_every_lane(void **state)
{
    int *value = memory(32 * sizeof *value);
    unsigned *out = memory(5 * 32 * sizeof *out), ballot = 0, sum = 0;
    for (int i = 0; i < 32; i++) {
        value[i] = i * i % 5;
        ballot |= (unsigned)(value[i] != 0) << i;
        sum += (unsigned)value[i];
    }
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        cusim_set_seed(seed);
        finish(semantics_votes(stream, value, out));
        for (int lane = 0; lane < 32; lane++) {
            unsigned alike = 0;
            for (int i = 0; i < 32; i++) alike |= (unsigned)(value[i] == value[lane]) << i;
            assert_int_equal(out[lane], ballot);
            assert_int_equal(out[32 + lane], 1);
            assert_int_equal(out[64 + lane], 1);
            assert_int_equal(out[96 + lane], alike);
            assert_int_equal(out[128 + lane], sum);
        }
    }
    cudaFreeHost(value), cudaFreeHost(out);
}

static void votes_at_a_barrier_see_every_thread_even_of_short_warps(void **state)
{
    enum { THREADS = 100 };
    int *value = memory(THREADS * sizeof *value), *out = memory(3 * THREADS * sizeof *out);
    for (int set = 0; set <= THREADS; set += 25) {
        for (int i = 0; i < THREADS; i++) value[i] = i < set;
        cusim_set_seed((uint64_t)set % SEEDS);
        finish(semantics_block_votes(stream, value, out, THREADS));
        for (int i = 0; i < THREADS; i++) {
            assert_int_equal(out[i], set);
            assert_int_equal(out[THREADS + i], set == THREADS);
            assert_int_equal(out[2 * THREADS + i], set > 0);
        }
    }
    cudaFreeHost(value), cudaFreeHost(out);
}

static void named_barriers_hand_a_buffer_over_and_back(void **state)
{
    enum { ROUNDS = 9 };
    int *x = memory(ROUNDS * 32 * sizeof *x), *out = memory(ROUNDS * 32 * sizeof *out);
    for (int i = 0; i < ROUNDS * 32; i++) x[i] = 3 * i + 1;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        cusim_set_seed(seed);
        memset(out, 0xff, ROUNDS * 32 * sizeof *out);
        finish(semantics_handover(stream, x, out, ROUNDS));
        for (int i = 0; i < ROUNDS * 32; i++) assert_int_equal(out[i], 2 * x[i / 32 * 32 + 31 - i % 32]);
    }
    cudaFreeHost(x), cudaFreeHost(out);
}

static void ldmatrix_gives_each_lane_its_pair_and_trans_that_of_the_transposed(void **state)
{
    uint16_t *rows = memory(32 * 8 * sizeof *rows);
    uint32_t *plain = memory(4 * 32 * sizeof *plain), *transposed = memory(4 * 32 * sizeof *transposed);
    for (int i = 0; i < 32 * 8; i++) rows[i] = (uint16_t)i;
    finish(semantics_ldmatrix(stream, rows, plain, transposed));
    for (int matrix = 0; matrix < 4; matrix++)
        for (int lane = 0; lane < 32; lane++) {
            int row = lane / 4, column = lane % 4 * 2;
            const uint16_t *m = rows + matrix * 64;
            assert_int_equal(plain[matrix * 32 + lane],
                             m[row * 8 + column] | (uint32_t)m[row * 8 + column + 1] << 16);
            assert_int_equal(transposed[matrix * 32 + lane],
                             m[column * 8 + row] | (uint32_t)m[(column + 1) * 8 + row] << 16);
        }
    cudaFreeHost(rows), cudaFreeHost(plain), cudaFreeHost(transposed);
}

/* d - c against a plain product in double; a and b are element (i, k) and (k, j). */
static void check_product(const float *d, const float *c, const float *a, int a_stride, const float *b,
                          int b_k, int b_j, int depth)
{
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            double sum = c[i * 8 + j];
            for (int k = 0; k < depth; k++) sum += (double)a[i * a_stride + k] * b[k * b_k + j * b_j];
            assert_true(fabs(sum - d[i * 8 + j]) < 1e-5);
        }
}

static void mma_of_fragments_is_the_plain_product(void **state)
{
    uint16_t *a = memory(256 * sizeof *a), *b = memory(128 * sizeof *b);
    float *c = memory(128 * sizeof *c), *d = memory(128 * sizeof *d), wide_a[256], wide_b[128];
    bf16_numbers(256, 1, a, wide_a);
    bf16_numbers(128, 2, b, wide_b);
    float *start = random_floats(128, 1, 3);
    memcpy(c, start, 128 * sizeof *c);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        cusim_set_seed(seed);
        finish(semantics_mma_bf16(stream, a, b, c, d, 0));
        check_product(d, c, wide_a, 16, wide_b, 8, 1, 16);
        finish(semantics_mma_bf16(stream, a, b, c, d, 1));
        check_product(d, c, wide_a, 16, wide_b, 1, 16, 16);
    }
    free(start);
    cudaFreeHost(a), cudaFreeHost(b), cudaFreeHost(c), cudaFreeHost(d);
}

static void mma_of_tf32_rounds_its_operands_to_ten_bits(void **state)
{
    float *a = memory(128 * sizeof *a), *b = memory(64 * sizeof *b), *c = memory(128 * sizeof *c);
    float *d = memory(128 * sizeof *d), *numbers = random_floats(320, 1, 4);
    memcpy(a, numbers, 128 * sizeof *a);
    memcpy(b, numbers + 128, 64 * sizeof *b);
    memcpy(c, numbers + 192, 128 * sizeof *c);
    finish(semantics_mma_tf32(stream, a, b, c, d));
    float rounded[192];
    for (int i = 0; i < 192; i++) { /* to 1/1024 of the power of two below, ties away from zero */
        int exponent;
        float fraction = frexpf(numbers[i], &exponent);
        rounded[i] = ldexpf(roundf(fraction * 2048), exponent - 11);
    }
    check_product(d, c, rounded, 8, rounded + 128, 8, 1, 8);
    free(numbers);
    cudaFreeHost(a), cudaFreeHost(b), cudaFreeHost(c), cudaFreeHost(d);
}

static void asynchronous_copies_arrive_by_their_wait_and_are_zero_where_not_valid(void **state)
{
    enum { N = 512 * 5 };
    float *x = memory(N * sizeof *x), *y = memory(N * sizeof *y);
    for (int i = 0; i < N; i++) x[i] = (float)(i + 1);
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        for (int valid = 0; valid <= N; valid += 620) {
            cusim_set_seed(seed);
            finish(semantics_copy(stream, x, y, N, valid));
            for (int i = 0; i < N; i++) {
                int from = i / 512 * 512 + 511 - i % 512;
                assert_true(y[i] == (from < valid ? x[from] : 0));
            }
        }
    cudaFreeHost(x), cudaFreeHost(y);
}

static void shared_memory_nobody_wrote_is_poison_in_every_block(void **state)
{
    uint32_t *out = memory(2 * 6 * sizeof *out);
    finish(semantics_unwritten(stream, out, 6));
    for (int i = 0; i < 12; i++) assert_int_equal(out[i], 0xa5a5a5a5);
    cudaFreeHost(out);
}

static void atomics_lose_nothing(void **state)
{
    int *counters = memory(5 * sizeof *counters);
    float *sum = memory(sizeof *sum);
    double *precise = memory(sizeof *precise);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        cusim_set_seed(seed);
        memset(counters, 0, 5 * sizeof *counters);
        *sum = 0, *precise = 0;
        finish(semantics_atomics(stream, counters, sum, precise, 9, 70));
        assert_int_equal(counters[0], 630 * 629 / 2);
        assert_int_equal(counters[1], 629);
        assert_int_equal(counters[2], -629);
        assert_int_equal(counters[3], counters[4]);
        assert_true(*sum == 315);
        assert_true(*precise == 157.5);
    }
    cudaFreeHost(counters), cudaFreeHost(sum), cudaFreeHost(precise);
}

/* Of the two bf16 neighbours of x the nearer one, the even one of two equally near. */
static void bf16_is_rounded_to_nearest_even_and_keeps_infinities_and_nan(void **state)
{
    enum { N = 70000 };
    float *x = memory(N * sizeof *x), *back = memory(N * sizeof *back);
    uint16_t *out = memory(N * sizeof *out);
    for (int i = 0; i < N; i++) {
        uint32_t bits = (uint32_t)i * 61681u + (i % 3 ? 0 : 0x8000); /* all exponents, many ties */
        if (i % 3 == 0) bits &= ~0x7fffu;
        memcpy(&x[i], &bits, sizeof bits);
    }
    x[0] = INFINITY, x[1] = -INFINITY, x[2] = NAN, x[3] = 3.4e38f;
    finish(semantics_bf16(stream, x, out, back, N));
    for (int i = 0; i < N; i++) {
        assert_true(back[i] == from_bf16(out[i]) || isnan(back[i]));
        if (isnan(x[i]) || isinf(x[i])) {
            assert_true(isnan(x[i]) ? isnan(back[i]) : back[i] == x[i]);
            continue;
        }
        double here = from_bf16(out[i]), error = fabs(here - x[i]);
        if (isinf(here)) {
            assert_true(fabsf(x[i]) >= 0x1.ffp127f);
            continue;
        }
        double below = from_bf16((uint16_t)(out[i] - 1)), above = from_bf16((uint16_t)(out[i] + 1));
        if (out[i] & 0x7fff) assert_true(error <= fabs(below - x[i]));
        if (isfinite(above)) assert_true(error <= fabs(above - x[i]));
        bool tie = (out[i] & 0x7fff && error == fabs(below - x[i])) || error == fabs(above - x[i]);
        if (tie) assert_int_equal(out[i] & 1, 0);
    }
    cudaFreeHost(x), cudaFreeHost(out), cudaFreeHost(back);
}

static void a_tensor_core_product_is_right_and_has_the_same_bits_for_every_seed(void **state)
{
    enum { M = 128, N = 192, K = 96 };
    uint16_t *a = memory(M * K * sizeof *a), *b = memory(N * K * sizeof *b);
    float *c = memory(M * N * sizeof *c), *wide_a = malloc(M * K * sizeof *wide_a);
    float *wide_b = malloc(N * K * sizeof *wide_b), *first = malloc(M * N * sizeof *first);
    bf16_numbers(M * K, 5, a, wide_a);
    bf16_numbers(N * K, 6, b, wide_b);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        cusim_set_seed(seed);
        memset(c, 0xff, M * N * sizeof *c);
        finish(semantics_gemm(stream, a, b, c, M, N, K));
        if (seed == 0) memcpy(first, c, M * N * sizeof *c);
        assert_memory_equal(c, first, M * N * sizeof *c);
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += (double)wide_a[i * K + k] * wide_b[j * K + k];
            assert_true(fabs(sum - c[i * N + j]) < 1e-4);
        }
    free(wide_a), free(wide_b), free(first);
    cudaFreeHost(a), cudaFreeHost(b), cudaFreeHost(c);
}

static void counters_are_exact_and_kept_by_the_name_of_the_kernel(void **state)
{
    enum { N = 1000 };
    float *x = memory(N * sizeof *x), *out = memory(sizeof *out);
    for (int i = 0; i < N; i++) x[i] = 1;
    *out = 0;
    cusim_reset_counts();
    finish(semantics_sum(stream, x, out, N, 3, 64));
    finish(semantics_scale(stream, x, N, 2));
    finish(semantics_scale(stream, x, N, 2));
    assert_true(x[N - 1] == 4);
    struct cusim_counts sum = cusim_counted("sum_kernel"), scale = cusim_counted("scale_kernel<64, true>");
    assert_int_equal(sum.launches, 1);
    assert_int_equal(sum.read_bytes, 4 * N);
    assert_int_equal(sum.flops, N);
    assert_int_equal(sum.written_bytes, 0);
    assert_int_equal(scale.launches, 2);
    assert_int_equal(scale.written_bytes, 2 * 4 * N);
    assert_int_equal(cusim_counted("no such kernel").launches, 0);
    cudaFreeHost(x), cudaFreeHost(out);
}

int main(void)
{
    setenv("REFRAIN_CUSIM_THREADS", os_threads, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sum_through_shared_memory_is_right_for_every_seed_and_shape),
        cmocka_unit_test(every_thread_of_every_block_runs_once_with_its_own_indices),
        cmocka_unit_test(shuffles_read_the_lane_the_guide_says),
        cmocka_unit_test(votes_of_a_warp_see_every_lane),
        cmocka_unit_test(votes_at_a_barrier_see_every_thread_even_of_short_warps),
        cmocka_unit_test(named_barriers_hand_a_buffer_over_and_back),
        cmocka_unit_test(ldmatrix_gives_each_lane_its_pair_and_trans_that_of_the_transposed),
        cmocka_unit_test(mma_of_fragments_is_the_plain_product),
        cmocka_unit_test(mma_of_tf32_rounds_its_operands_to_ten_bits),
        cmocka_unit_test(asynchronous_copies_arrive_by_their_wait_and_are_zero_where_not_valid),
        cmocka_unit_test(shared_memory_nobody_wrote_is_poison_in_every_block),
        cmocka_unit_test(atomics_lose_nothing),
        cmocka_unit_test(bf16_is_rounded_to_nearest_even_and_keeps_infinities_and_nan),
        cmocka_unit_test(a_tensor_core_product_is_right_and_has_the_same_bits_for_every_seed),
        cmocka_unit_test(counters_are_exact_and_kept_by_the_name_of_the_kernel),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
