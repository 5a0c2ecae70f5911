/* plans.c - which algorithm of cuBLASLt computes which shape; see plans.h. */
#include "kernels/cuda/plans.h"

#include <stdlib.h>
#include <string.h>
#include "kernels/cuda/linear.h"

/* More shapes than this and the oldest is asked for anew: a rank that serves for months sees many sizes of video. */
enum { MOST_PLANS = 1024 };

struct linear_plans {
    cublasLtHandle_t handle;
    struct plan *plan[MOST_PLANS];
    int count, next; /* next: to be replaced */
    int asked;
};

status_t linear_plans_create(struct linear_plans **result, struct error *error)
{
    struct linear_plans *plans = calloc(1, sizeof *plans);
    if (!plans) return error_set(error, STATUS_NO_MEMORY, "no memory for plans of dense layers");
    cublasStatus_t code = cublasLtCreate(&plans->handle);
    if (code != CUBLAS_STATUS_SUCCESS) {
        free(plans);
        return error_set(error, STATUS_IO, "cuBLASLt cannot be started: status %d", (int)code);
    }
    *result = plans;
    return STATUS_OK;
}

static void plan_destroy(struct plan *plan)
{
    if (!plan) return;
    for (int i = 0; i < PLAN_LAYOUTS; i++)
        if (plan->layout[i]) cublasLtMatrixLayoutDestroy(plan->layout[i]);
    if (plan->product) cublasLtMatmulDescDestroy(plan->product);
    free(plan);
}

void linear_plans_destroy(struct linear_plans *plans)
{
    if (!plans) return;
    for (int i = 0; i < plans->count; i++) plan_destroy(plans->plan[i]);
    cublasLtDestroy(plans->handle);
    free(plans);
}

cublasLtHandle_t plans_handle(const struct linear_plans *plans)
{
    return plans->handle;
}

/* In cuBLASLt's terms matrices are column-major: it computes y^T [n, rows] = w [n, k] x^T. */
static cublasStatus_t describe(struct plan *plan, cublasLtMatmulPreference_t preference,
                               size_t workspace_bytes)
{
    const struct plan_shape *s = &plan->shape;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint32_t epilogue = s->gelu   ? CUBLASLT_EPILOGUE_GELU_BIAS
                              : s->bias ? CUBLASLT_EPILOGUE_BIAS
                                        : CUBLASLT_EPILOGUE_DEFAULT;
    const cudaDataType_t y = s->y_dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const int32_t bias = y;
    /* Sums of parts of k would be added in an order of their own; pointers are aligned as linear.c sees to. */
    const uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = PLAN_ALIGNMENT;
    const uint64_t workspace = workspace_bytes;
    cublasStatus_t code = cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
#define TRY(call)                                                                                            \
    if (code == CUBLAS_STATUS_SUCCESS) code = call
    TRY(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof transposed));
    TRY(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                       sizeof epilogue));
    if (s->bias)
        TRY(cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias,
                                           sizeof bias));
    TRY(cublasLtMatrixLayoutCreate(&plan->layout[PLAN_W], CUDA_R_16BF, (uint64_t)s->k, (uint64_t)s->n, s->k));
    TRY(cublasLtMatrixLayoutCreate(&plan->layout[PLAN_X], CUDA_R_16BF, (uint64_t)s->k, (uint64_t)s->rows,
                                   s->x_stride));
    TRY(cublasLtMatrixLayoutCreate(&plan->layout[PLAN_OTHER], y, (uint64_t)s->n, (uint64_t)s->rows,
                                   s->add ? s->other_stride : s->y_stride));
    TRY(cublasLtMatrixLayoutCreate(&plan->layout[PLAN_Y], y, (uint64_t)s->n, (uint64_t)s->rows, s->y_stride));
    TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                             sizeof workspace));
    TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                             &no_reduction, sizeof no_reduction));
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++)
        TRY(cublasLtMatmulPreferenceSetAttribute(preference, alignments[i], &alignment, sizeof alignment));
#undef TRY
    return code;
}

/* An algorithm for a plan whose shape is set; plan->found tells whether there is one. */
static cublasStatus_t ask(struct linear_plans *plans, struct plan *plan, size_t workspace_bytes)
{
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t best;
    int count = 0;
    cublasStatus_t code = cublasLtMatmulPreferenceCreate(&preference);
    if (code != CUBLAS_STATUS_SUCCESS) return code;
    code = describe(plan, preference, workspace_bytes);
    if (code == CUBLAS_STATUS_SUCCESS) {
        plans->asked++;
        code = cublasLtMatmulAlgoGetHeuristic(plans->handle, plan->product, plan->layout[PLAN_W],
                                              plan->layout[PLAN_X], plan->layout[PLAN_OTHER],
                                              plan->layout[PLAN_Y], preference, 1, &best, &count);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    if (code == CUBLAS_STATUS_NOT_SUPPORTED) return CUBLAS_STATUS_SUCCESS;
    if (code != CUBLAS_STATUS_SUCCESS) return code;
    plan->found = count > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    if (plan->found) plan->algorithm = best.algo;
    return CUBLAS_STATUS_SUCCESS;
}

struct plan *plans_find(struct linear_plans *plans, const struct plan_shape *shape, size_t workspace_bytes)
{
    for (int i = 0; i < plans->count; i++)
        if (memcmp(&plans->plan[i]->shape, shape, sizeof *shape) == 0) return plans->plan[i];

    struct plan *plan = calloc(1, sizeof *plan);
    if (!plan) {
        device_fail(STATUS_NO_MEMORY, "linear: no memory for a plan of its shape");
        return NULL;
    }
    plan->shape = *shape;
    cublasStatus_t code = ask(plans, plan, workspace_bytes);
    if (code != CUBLAS_STATUS_SUCCESS) {
        plan_destroy(plan);
        device_fail(STATUS_IO, "linear: cuBLASLt cannot plan a product of %d rows, %d to %d: status %d",
                    shape->rows, shape->k, shape->n, (int)code);
        return NULL;
    }
    if (plans->count < MOST_PLANS) {
        plans->plan[plans->count++] = plan;
    } else {
        plan_destroy(plans->plan[plans->next]);
        plans->plan[plans->next] = plan;
        plans->next = (plans->next + 1) % MOST_PLANS;
    }
    return plan;
}

/* FNV-1a */
static uint64_t mix_bytes(uint64_t hash, const void *bytes, size_t count)
{
    for (const unsigned char *at = bytes; count--; at++) hash = (hash ^ *at) * UINT64_C(0x100000001b3);
    return hash;
}

struct linear_choices linear_plans_choices(const struct linear_plans *plans)
{
    struct linear_choices choices = {.shapes = plans->count, .asked = plans->asked};
    for (int i = 0; i < plans->count; i++) {
        const struct plan *plan = plans->plan[i];
        uint64_t hash = mix_bytes(UINT64_C(0xcbf29ce484222325), &plan->shape, sizeof plan->shape);
        choices.fingerprint ^= mix_bytes(hash, &plan->algorithm, sizeof plan->algorithm);
    }
    return choices;
}
