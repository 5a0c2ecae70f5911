/*
 * test_cublaslt.c - the stand-in for cuBLASLt against a plain product in double, at odd sizes; and what it
 * refuses.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include "tests/trial.h"

static cudaStream_t stream;
static cublasLtHandle_t handle;

static int begin(void **state)
{
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) || cublasLtCreate(&handle);
}

static int end(void **state)
{
    return cudaStreamDestroy(stream) || cublasLtDestroy(handle);
}

static float from_bf16(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* [count] numbers in device memory, of a type, and as floats. */
struct numbers {
    void *device;
    float *host;
    cudaDataType type;
    size_t bytes;
};

static struct numbers numbers_new(int64_t count, cudaDataType type, uint64_t seed)
{
    struct numbers x = {.host = random_floats(count, 1, seed), .type = type};
    uint16_t *narrow = malloc((size_t)count * sizeof *narrow);
    x.bytes = (size_t)count * (type == CUDA_R_16BF ? 2 : 4);
    for (int64_t i = 0; i < count && type == CUDA_R_16BF; i++) {
        uint32_t bits;
        memcpy(&bits, &x.host[i], sizeof bits);
        x.host[i] = from_bf16(narrow[i] = (uint16_t)(bits >> 16));
    }
    assert_int_equal(cudaMalloc(&x.device, x.bytes), cudaSuccess);
    const void *from = type == CUDA_R_16BF ? (void *)narrow : x.host;
    assert_int_equal(cudaMemcpy(x.device, from, x.bytes, cudaMemcpyHostToDevice), cudaSuccess);
    free(narrow);
    return x;
}

/* What is in device memory now; the caller frees. */
static float *numbers_read(const struct numbers *x)
{
    size_t count = x->bytes / (x->type == CUDA_R_16BF ? 2 : 4);
    float *wide = malloc(count * sizeof *wide);
    uint16_t *narrow = malloc(x->bytes);
    void *to = x->type == CUDA_R_16BF ? (void *)narrow : wide;
    assert_int_equal(cudaMemcpy(to, x->device, x->bytes, cudaMemcpyDeviceToHost), cudaSuccess);
    for (size_t i = 0; i < count && x->type == CUDA_R_16BF; i++) wide[i] = from_bf16(narrow[i]);
    free(narrow);
    return wide;
}

static void numbers_free(struct numbers *x)
{
    cudaFree(x->device);
    free(x->host);
}

/* y[tokens, out] = epilogue(alpha x[tokens, in] w[out, in]^T + beta c), rows with gaps: as our linear layers
 * ask. */
struct layer {
    int tokens, in, out, gap;
    cudaDataType type, out_type;
    cublasComputeType_t compute;
    cublasLtEpilogue_t epilogue;
    float alpha, beta;
    struct numbers x, w, bias, c, y;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t x_layout, w_layout, y_layout;
};

static void layer_new(struct layer *l)
{
    cublasOperation_t transpose = CUBLAS_OP_T;
    if (!l->compute) l->compute = CUBLAS_COMPUTE_32F;
    l->x = numbers_new((int64_t)l->tokens * (l->in + l->gap), l->type, 1);
    l->w = numbers_new((int64_t)l->out * l->in, l->type, 2);
    l->bias = numbers_new(l->out, l->out_type, 3);
    l->c = numbers_new((int64_t)l->tokens * (l->out + l->gap), l->out_type, 4);
    l->y = numbers_new((int64_t)l->tokens * (l->out + l->gap), l->out_type, 5);
    assert_int_equal(cublasLtMatmulDescCreate(&l->desc, l->compute, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulDescSetAttribute(l->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose);
    cublasLtMatmulDescSetAttribute(l->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &l->epilogue, sizeof l->epilogue);
    cublasLtMatmulDescSetAttribute(l->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &l->bias.device,
                                   sizeof(void *));
    uint64_t in = (uint64_t)l->in, out = (uint64_t)l->out, tokens = (uint64_t)l->tokens;
    cublasLtMatrixLayoutCreate(&l->w_layout, l->type, in, out, l->in);
    cublasLtMatrixLayoutCreate(&l->x_layout, l->type, in, tokens, l->in + l->gap);
    cublasLtMatrixLayoutCreate(&l->y_layout, l->out_type, out, tokens, l->out + l->gap);
}

static cublasStatus_t layer_run(struct layer *l, const cublasLtMatmulAlgo_t *algo, void *workspace,
                                size_t bytes)
{
    return cublasLtMatmul(handle, l->desc, &l->alpha, l->w.device, l->w_layout, l->x.device, l->x_layout,
                          &l->beta, l->c.device, l->y_layout, l->y.device, l->y_layout, algo, workspace,
                          bytes, stream);
}

static void layer_free(struct layer *l)
{
    numbers_free(&l->x), numbers_free(&l->w), numbers_free(&l->bias), numbers_free(&l->c),
        numbers_free(&l->y);
    cublasLtMatmulDescDestroy(l->desc);
    cublasLtMatrixLayoutDestroy(l->x_layout), cublasLtMatrixLayoutDestroy(l->w_layout);
    cublasLtMatrixLayoutDestroy(l->y_layout);
}

static double expected(const struct layer *l, int token, int out)
{
    double sum = 0;
    for (int k = 0; k < l->in; k++)
        sum += (double)l->x.host[(int64_t)token * (l->in + l->gap) + k] * l->w.host[(int64_t)out * l->in + k];
    sum = l->alpha * sum + l->beta * l->c.host[(int64_t)token * (l->out + l->gap) + out];
    if (l->epilogue & CUBLASLT_EPILOGUE_BIAS) sum += l->bias.host[out];
    if (l->epilogue & CUBLASLT_EPILOGUE_GELU) /* Hendrycks and Gimpel 2016, the form with tanh */
        sum = 0.5 * sum * (1 + tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
    return sum;
}

/* Every element, and that the gaps between rows keep what they had. */
static void layer_check(struct layer *l, double tolerance)
{
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    float *y = numbers_read(&l->y);
    for (int t = 0; t < l->tokens; t++)
        for (int o = 0; o < l->out + l->gap; o++) {
            int64_t at = (int64_t)t * (l->out + l->gap) + o;
            double right = o < l->out ? expected(l, t, o) : l->y.host[at];
            if (!(fabs(y[at] - right) <= tolerance * (1 + fabs(right))))
                fail_msg("token %d of %d, output %d of %d: %g, expected %g", t, l->tokens, o, l->out, y[at],
                         right);
        }
    free(y);
}

static const struct {
    int tokens, in, out, gap;
} sizes[] = {{1, 1, 1, 0},     {3, 7, 5, 0},      {33, 129, 31, 3},
             {77, 256, 64, 0}, {300, 520, 97, 8}, {257, 300, 33, 1}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void check_sizes(cudaDataType type, cudaDataType out_type, cublasLtEpilogue_t epilogue, float alpha,
                        float beta, double tolerance)
{
    for (int i = 0; i < SIZES; i++) {
        struct layer l = {.tokens = sizes[i].tokens,
                          .in = sizes[i].in,
                          .out = sizes[i].out,
                          .gap = sizes[i].gap,
                          .type = type,
                          .out_type = out_type,
                          .epilogue = epilogue,
                          .alpha = alpha,
                          .beta = beta};
        layer_new(&l);
        assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_SUCCESS);
        layer_check(&l, tolerance);
        layer_free(&l);
    }
}

static void products_of_bf16_are_right_with_every_epilogue(void **state)
{
    cublasLtEpilogue_t epilogues[] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS,
                                      CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS};
    for (int i = 0; i < 4; i++) {
        check_sizes(CUDA_R_16BF, CUDA_R_16BF, epilogues[i], 1, 0, 1.0 / 256);
        check_sizes(CUDA_R_16BF, CUDA_R_32F, epilogues[i], 1, 0, 2e-5);
    }
}

static void products_of_float32_are_right_with_alpha_beta_and_c(void **state)
{
    check_sizes(CUDA_R_32F, CUDA_R_32F, CUBLASLT_EPILOGUE_BIAS, -0.5f, 2, 2e-5);
    check_sizes(CUDA_R_16BF, CUDA_R_32F, CUBLASLT_EPILOGUE_DEFAULT, 3, 1, 5e-5);
}

static void tf32_is_less_precise_than_float32_and_no_worse_than_ten_bits(void **state)
{
    struct layer l = {.tokens = 20,
                      .in = 200,
                      .out = 30,
                      .type = CUDA_R_32F,
                      .out_type = CUDA_R_32F,
                      .alpha = 1,
                      .compute = CUBLAS_COMPUTE_32F_FAST_TF32,
                      .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
    layer_new(&l);
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_SUCCESS);
    layer_check(&l, 5e-3);
    float *y = numbers_read(&l.y);
    double worst = 0;
    for (int i = 0; i < 20 * 30; i++) worst = fmax(worst, fabs(y[i] - expected(&l, i / 30, i % 30)));
    assert_true(worst > 1e-5);
    free(y);
    layer_free(&l);
}

static void a_row_has_the_same_bits_in_any_company(void **state)
{
    struct layer all = {.tokens = 300,
                        .in = 700,
                        .out = 80,
                        .type = CUDA_R_16BF,
                        .out_type = CUDA_R_32F,
                        .alpha = 1,
                        .epilogue = CUBLASLT_EPILOGUE_BIAS};
    struct layer one = all;
    one.tokens = 1;
    layer_new(&all);
    layer_new(&one); /* the first row is the same: the same seed */
    layer_run(&all, NULL, NULL, 0), layer_run(&one, NULL, NULL, 0);
    cudaStreamSynchronize(stream);
    float *of_all = numbers_read(&all.y), *of_one = numbers_read(&one.y);
    assert_memory_equal(of_all, of_one, 80 * sizeof(float));
    free(of_all), free(of_one);
    layer_free(&all), layer_free(&one);
}

static void heuristics_offer_several_algorithms_whose_bits_differ_and_respect_the_workspace(void **state)
{
    struct layer l = {.tokens = 40,
                      .in = 999,
                      .out = 50,
                      .type = CUDA_R_16BF,
                      .out_type = CUDA_R_32F,
                      .alpha = 1,
                      .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
    layer_new(&l);
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t results[8];
    int found = 0;
    uint64_t limit = 32 << 20;
    cublasLtMatmulPreferenceCreate(&preference);
    assert_int_equal(cublasLtMatmulAlgoGetHeuristic(handle, l.desc, l.w_layout, l.x_layout, l.y_layout,
                                                    l.y_layout, preference, 8, results, &found),
                     CUBLAS_STATUS_SUCCESS);
    assert_int_equal(found, 1);
    assert_int_equal(results[0].workspaceSize, 0);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit,
                                         sizeof limit);
    cublasLtMatmulAlgoGetHeuristic(handle, l.desc, l.w_layout, l.x_layout, l.y_layout, l.y_layout, preference,
                                   8, results, &found);
    assert_true(found >= 2 && results[0].workspaceSize > 0);
    void *workspace;
    cudaMalloc(&workspace, results[0].workspaceSize);
    float *made[2];
    for (int i = 0; i < 2; i++) {
        int32_t id = 0;
        size_t written;
        assert_int_equal(cublasLtMatmulAlgoConfigGetAttribute(&results[i].algo, CUBLASLT_ALGO_CONFIG_ID, &id,
                                                              sizeof id, &written),
                         CUBLAS_STATUS_SUCCESS);
        assert_int_equal(id, 2 - i);
        assert_int_equal(layer_run(&l, &results[i].algo, workspace, results[0].workspaceSize),
                         CUBLAS_STATUS_SUCCESS);
        layer_check(&l, 5e-5);
        made[i] = numbers_read(&l.y);
    }
    assert_memory_not_equal(made[0], made[1], 40 * 50 * sizeof(float));
    assert_int_equal(layer_run(&l, &results[0].algo, workspace, 16), CUBLAS_STATUS_INVALID_VALUE);
    free(made[0]), free(made[1]);
    cudaFree(workspace);
    cublasLtMatmulPreferenceDestroy(preference);
    layer_free(&l);
}

static void a_captured_product_runs_with_the_graph(void **state)
{
    struct layer l = {.tokens = 5,
                      .in = 16,
                      .out = 8,
                      .type = CUDA_R_16BF,
                      .out_type = CUDA_R_32F,
                      .alpha = 1,
                      .epilogue = CUBLASLT_EPILOGUE_BIAS};
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    layer_new(&l);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    float *before = numbers_read(&l.y);
    assert_memory_equal(before, l.y.host, l.y.bytes);
    cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphLaunch(exec, stream);
    layer_check(&l, 2e-5);
    free(before);
    cudaGraphDestroy(graph), cudaGraphExecDestroy(exec);
    layer_free(&l);
}

static void what_the_real_library_refuses_is_refused(void **state)
{
    struct layer l = {.tokens = 8,
                      .in = 16,
                      .out = 8,
                      .type = CUDA_R_16BF,
                      .out_type = CUDA_R_16BF,
                      .alpha = 1,
                      .epilogue = CUBLASLT_EPILOGUE_BIAS};
    layer_new(&l);
    int32_t value = 1;
    int64_t wide = 1;
    assert_int_equal(
        cublasLtMatmulDescSetAttribute(l.desc, (cublasLtMatmulDescAttributes_t)99, &value, sizeof value),
        CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(cublasLtMatmulDescSetAttribute(l.desc, CUBLASLT_MATMUL_DESC_TRANSB, &wide, sizeof wide),
                     CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(cublasLtMatmul(handle, l.desc, &l.alpha, l.w.device, NULL, l.x.device, l.x_layout,
                                    &l.beta, NULL, l.y_layout, l.y.device, l.y_layout, NULL, NULL, 0, stream),
                     CUBLAS_STATUS_INVALID_VALUE);
    void *right = l.x.device;
    l.x.device = (char *)right + 2;
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_NOT_SUPPORTED);
    l.x.device = (char *)right + 16; /* aligned, but leaves the allocation */
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_INVALID_VALUE);
    static uint16_t host[8 * 16] __attribute__((aligned(16)));
    l.x.device = host;
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_INVALID_VALUE);
    l.x.device = right;
    int32_t bias_type = CUDA_R_32F;
    cublasLtMatmulDescSetAttribute(l.desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type);
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_NOT_SUPPORTED);
    bias_type = -1;
    cublasLtMatmulDescSetAttribute(l.desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type);
    uint64_t columns = 9;
    cublasLtMatrixLayoutSetAttribute(l.y_layout, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns);
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_INVALID_VALUE);
    columns = 8;
    cublasLtMatrixLayoutSetAttribute(l.y_layout, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns);
    uint32_t type = CUDA_R_32F;
    cublasLtMatrixLayoutSetAttribute(l.x_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, &type, sizeof type);
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_NOT_SUPPORTED);
    type = CUDA_R_16BF;
    cublasLtMatrixLayoutSetAttribute(l.x_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, &type, sizeof type);
    assert_int_equal(layer_run(&l, NULL, NULL, 0), CUBLAS_STATUS_SUCCESS);
    layer_check(&l, 1.0 / 256);
    layer_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_bf16_are_right_with_every_epilogue),
        cmocka_unit_test(products_of_float32_are_right_with_alpha_beta_and_c),
        cmocka_unit_test(tf32_is_less_precise_than_float32_and_no_worse_than_ten_bits),
        cmocka_unit_test(a_row_has_the_same_bits_in_any_company),
        cmocka_unit_test(heuristics_offer_several_algorithms_whose_bits_differ_and_respect_the_workspace),
        cmocka_unit_test(a_captured_product_runs_with_the_graph),
        cmocka_unit_test(what_the_real_library_refuses_is_refused),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
