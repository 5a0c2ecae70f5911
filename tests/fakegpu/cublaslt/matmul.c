/* matmul.c - cublasLtMatmul: what is asked is checked as the real library checks it, then put on the stream.
 *
 * There are two algorithms. Number 1 needs no workspace; number 2 sums k in two halves and needs one: its
 * results differ in the last bits, so a program that relies on equal bits must keep to one algorithm per
 * shape, as on a GPU. */
#include "tests/fakegpu/cublaslt/matmul.h"
#include "tests/fakegpu/fakegpu.h"
#include <stdio.h>
#include <string.h>

enum { ALGORITHMS = 2, SPLIT_WORKSPACE_BYTES = 4 << 20, VECTOR_BYTES = 16 };
static const uint64_t algorithm_mark =
    0x666b6c74; /* in data[0] of an algorithm of ours; its number is in data[1] */

/* --- algorithms ----------------------------------------------------------------------------------------- */

static int number_of(const cublasLtMatmulAlgo_t *algo)
{
    if (!algo) return 1;
    return algo->data[0] == algorithm_mark && algo->data[1] >= 1 && algo->data[1] <= ALGORITHMS
               ? (int)algo->data[1]
               : 0;
}

static size_t workspace_of(int number)
{
    return number == 2 ? SPLIT_WORKSPACE_BYTES : 0;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                           cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                           void *value, size_t bytes, size_t *written)
{
    int number = number_of(algo);
    int32_t answer = 0;
    if (!algo || !number) return CUBLAS_STATUS_INVALID_VALUE;
    switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID:
        answer = number;
        break;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
        answer = number;
        break;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
        answer = number == 2 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE;
        break;
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
        break;
    default:
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (written) *written = sizeof answer;
    if (!value || bytes < sizeof answer) return value ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
    memcpy(value, &answer, sizeof answer);
    return CUBLAS_STATUS_SUCCESS;
}

/* --- checks: types and shapes first, then memory -------------------------------------------------------- */

static cublasStatus_t refuse_product(cublasStatus_t status, const char *why)
{
    fprintf(stderr, "fakegpu: cublasLtMatmul: %s\n", why);
    return status;
}

static bool known_type(uint32_t type)
{
    return type == CUDA_R_32F || type == CUDA_R_16BF;
}

static int64_t type_bytes(uint32_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

/* The table of supported types in cuBLAS' documentation of cublasLtMatmul, as far as we use it: bf16 x bf16
 * to bf16 or float32, float32 x float32 to float32; the bias has the type of D. */
static cublasStatus_t check_types(const struct matmul_desc *desc, const struct matrix_layout *a,
                                  const struct matrix_layout *b, const struct matrix_layout *c,
                                  const struct matrix_layout *d)
{
    bool compute =
        desc->compute == CUBLAS_COMPUTE_32F || desc->compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
        ((desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32 || desc->compute == CUBLAS_COMPUTE_32F_FAST_16BF) &&
         a->type == CUDA_R_32F);
    if (!compute || desc->scale != CUDA_R_32F || !known_type(a->type) || a->type != b->type ||
        c->type != d->type || !known_type(d->type) || (a->type == CUDA_R_32F && d->type != CUDA_R_32F))
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "no kernel for this combination of types");
    bool epilogue = desc->epilogue == CUBLASLT_EPILOGUE_DEFAULT || desc->epilogue == CUBLASLT_EPILOGUE_BIAS ||
                    desc->epilogue == CUBLASLT_EPILOGUE_GELU || desc->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
    if (!epilogue) return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "no kernel for this epilogue");
    if (desc->epilogue & CUBLASLT_EPILOGUE_BIAS && desc->bias_type >= 0 &&
        (uint32_t)desc->bias_type != d->type)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "the bias must have the type of D");
    if (a->order | b->order | c->order | d->order)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "matrices are column-major");
    if (a->batches != 1 || b->batches != 1 || c->batches != 1 || d->batches != 1)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "batches are not known here");
    if (desc->transpose_c || desc->transpose_a > CUBLAS_OP_C || desc->transpose_b > CUBLAS_OP_C)
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_shapes(const struct matmul_desc *desc, const struct matrix_layout *a,
                                   const struct matrix_layout *b, const struct matrix_layout *c,
                                   const struct matrix_layout *d)
{
    uint64_t m = desc->transpose_a ? a->columns : a->rows, k = desc->transpose_a ? a->rows : a->columns;
    uint64_t n = desc->transpose_b ? b->rows : b->columns, k_b = desc->transpose_b ? b->columns : b->rows;
    if (!m || !n || !k || k != k_b || d->rows != m || d->columns != n || c->rows != m || c->columns != n)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "the shapes of A, B, C and D do not fit together");
    const struct matrix_layout *all[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if (all[i]->ld < (int64_t)all[i]->rows)
            return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "a leading dimension is less than the rows");
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check(cublasLtHandle_t handle, const struct matmul_desc *desc,
                            const struct matrix_layout *a, const struct matrix_layout *b,
                            const struct matrix_layout *c, const struct matrix_layout *d)
{
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!desc || !a || !b || !c || !d) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = check_types(desc, a, b, c, d);
    return status ? status : check_shapes(desc, a, b, c, d);
}

static bool in_device(const void *pointer, int64_t bytes)
{
    return fakegpu_device_memory(pointer, (size_t)bytes);
}

static int64_t layout_bytes(const struct matrix_layout *l)
{
    return ((int64_t)(l->columns - 1) * l->ld + (int64_t)l->rows) * type_bytes(l->type);
}

static bool misaligned(const void *pointer, const struct matrix_layout *l)
{
    return l->type == CUDA_R_16BF && (uintptr_t)pointer % VECTOR_BYTES;
}

/* --- heuristics ----------------------------------------------------------------------------------------- */

EXPORT cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              const cublasLtMatmulAlgo_t *algo,
                                              cublasLtMatmulHeuristicResult_t *result)
{
    cublasStatus_t status =
        check(handle, (struct matmul_desc *)desc, (struct matrix_layout *)a, (struct matrix_layout *)b,
              (struct matrix_layout *)c, (struct matrix_layout *)d);
    int number = number_of(algo);
    if (status) return status;
    if (!algo || !number) return CUBLAS_STATUS_INVALID_VALUE;
    *result = (cublasLtMatmulHeuristicResult_t){
        .algo = *algo, .workspaceSize = workspace_of(number), .wavesCount = 1};
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                                     cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                     cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                     cublasLtMatmulPreference_t preference, int requested,
                                                     cublasLtMatmulHeuristicResult_t results[], int *found)
{
    const struct matmul_preference *p = (struct matmul_preference *)preference;
    if (!p || requested < 1 || !results || !found) return CUBLAS_STATUS_INVALID_VALUE;
    *found = 0;
    /* The best guess first: the one that may use the workspace. */
    for (int number = ALGORITHMS; number >= 1 && *found < requested; number--) {
        cublasLtMatmulAlgo_t algo = {.data = {algorithm_mark, (uint64_t)number}};
        cublasStatus_t status = cublasLtMatmulAlgoCheck(handle, desc, a, b, c, d, &algo, &results[*found]);
        if (status) return status;
        bool split = p->reduction_schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        if (workspace_of(number) <= p->workspace_bytes && (number == 1 || split)) ++*found;
    }
    return *found ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* --- the product ---------------------------------------------------------------------------------------- */

static struct operand operand(const void *data, const struct matrix_layout *l, bool rows_are_k)
{
    return (struct operand){data, (cudaDataType_t)l->type, rows_are_k ? l->ld : 1, rows_are_k ? 1 : l->ld};
}

EXPORT cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                                     const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                                     cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                                     cublasLtMatrixLayout_t c_layout, void *d,
                                     cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                                     void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    const struct matmul_desc *ds = (struct matmul_desc *)desc;
    const struct matrix_layout *al = (struct matrix_layout *)a_layout, *bl = (struct matrix_layout *)b_layout;
    const struct matrix_layout *cl = (struct matrix_layout *)c_layout, *dl = (struct matrix_layout *)d_layout;
    int due = fakegpu_fault("cublasLtMatmul", CUBLAS_STATUS_EXECUTION_FAILED);
    if (due) return due == FAULT_HANG ? CUBLAS_STATUS_EXECUTION_FAILED : (cublasStatus_t)due;
    cublasStatus_t status = check(handle, ds, al, bl, cl, dl);
    if (status) return status;
    int number = number_of(algo);
    bool bias = ds->epilogue & CUBLASLT_EPILOGUE_BIAS,
         on_device = ds->pointer_mode == CUBLASLT_POINTER_MODE_DEVICE;
    if (!alpha || !beta || !a || !b || !d || !number || (bias && !ds->bias))
        return CUBLAS_STATUS_INVALID_VALUE;
    bool uses_c = on_device || *(const float *)beta != 0;
    if (uses_c && !c) return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_of(number) > workspace_bytes || (workspace_of(number) && !workspace))
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "the algorithm needs a larger workspace");
    if (misaligned(a, al) || misaligned(b, bl) || misaligned(d, dl) || (uses_c && misaligned(c, cl)))
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "bf16 matrices must be aligned to 16 bytes");
    if (!in_device(a, layout_bytes(al)) || !in_device(b, layout_bytes(bl)) ||
        !in_device(d, layout_bytes(dl)) || (uses_c && !in_device(c, layout_bytes(cl))) ||
        (bias && !in_device(ds->bias, (int64_t)dl->rows * type_bytes(dl->type))) ||
        (workspace_of(number) && !in_device(workspace, (int64_t)workspace_of(number))))
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "an operand is not device memory, or leaves its allocation");

    struct product p = {
        .m = (int64_t)dl->rows,
        .n = (int64_t)dl->columns,
        .k = (int64_t)(ds->transpose_a ? al->rows : al->columns),
        .a = operand(a, al, ds->transpose_a),
        .b = operand(b, bl, !ds->transpose_b),
        .c = uses_c ? c : NULL,
        .bias = bias ? ds->bias : NULL,
        .d = d,
        .c_ld = cl->ld,
        .d_ld = dl->ld,
        .c_type = (cudaDataType_t)cl->type,
        .d_type = (cudaDataType_t)dl->type,
        .bias_type = (cudaDataType_t)dl->type,
        .epilogue = ds->epilogue,
        .tf32 = ds->compute == CUBLAS_COMPUTE_32F_FAST_TF32,
        .splits = number,
    };
    if (on_device)
        p.device_alpha = alpha, p.device_beta = beta;
    else
        p.alpha = *(const float *)alpha, p.beta = *(const float *)beta;
    cudaError_t error = fakegpu_submit(stream, "cublasLtMatmul", product_run, &p, sizeof p);
    return error ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
