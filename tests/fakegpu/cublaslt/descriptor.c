/* descriptor.c - handles, descriptors, layouts and preferences of the stand-in: kept in the opaque memory of
 * the real types, with the real defaults; an attribute that is not known here, or of another size, is
 * refused. */
#include "tests/fakegpu/cublaslt/matmul.h"
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

_Static_assert(sizeof(struct matmul_desc) <= sizeof(cublasLtMatmulDescOpaque_t), "fits");
_Static_assert(sizeof(struct matrix_layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits");
_Static_assert(sizeof(struct matmul_preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "fits");

EXPORT size_t cublasLtGetVersion(void)
{
    return 130100;
}

EXPORT size_t cublasLtGetCudartVersion(void)
{
    return CUDART_VERSION;
}

EXPORT const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR:
        return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "CUBLAS_STATUS_UNKNOWN";
}

EXPORT const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}

EXPORT cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    int devices;
    if (cudaGetDeviceCount(&devices) != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = malloc(1);
    return *handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

EXPORT cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

/* Opaque memory holding `bytes` of `content`. */
static cublasStatus_t create(void *out, size_t opaque_bytes, const void *content, size_t bytes)
{
    void *memory = calloc(1, opaque_bytes);
    if (!memory) return CUBLAS_STATUS_ALLOC_FAILED;
    memcpy(memory, content, bytes);
    memcpy(out, &memory, sizeof memory);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *field, size_t field_bytes, const void *value, size_t bytes)
{
    if (!value || bytes != field_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
#define SET(field) set(&(field), sizeof(field), value, bytes)

static cublasStatus_t destroy(void *memory)
{
    if (!memory) return CUBLAS_STATUS_INVALID_VALUE;
    free(memory);
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                                 uint64_t rows, uint64_t columns, int64_t ld)
{
    struct matrix_layout content = {
        .type = type, .order = CUBLASLT_ORDER_COL, .rows = rows, .columns = columns, .ld = ld, .batches = 1};
    return create(layout, sizeof **layout, &content, sizeof content);
}

EXPORT cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy(layout);
}

EXPORT cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                       cublasLtMatrixLayoutAttribute_t attribute,
                                                       const void *value, size_t bytes)
{
    struct matrix_layout *l = (struct matrix_layout *)layout;
    if (!l) return CUBLAS_STATUS_INVALID_VALUE;
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return SET(l->type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return SET(l->order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return SET(l->rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return SET(l->columns);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return SET(l->ld);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return SET(l->batches);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return SET(l->batch_stride);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

EXPORT cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                               cudaDataType_t scale)
{
    struct matmul_desc content = {
        .compute = compute, .scale = scale, .epilogue = CUBLASLT_EPILOGUE_DEFAULT, .bias_type = -1};
    return create(desc, sizeof **desc, &content, sizeof content);
}

EXPORT cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return destroy(desc);
}

EXPORT cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                                     cublasLtMatmulDescAttributes_t attribute,
                                                     const void *value, size_t bytes)
{
    struct matmul_desc *d = (struct matmul_desc *)desc;
    int32_t ignored;
    int8_t ignored_flag;
    if (!d) return CUBLAS_STATUS_INVALID_VALUE;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        return SET(d->compute);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return SET(d->scale);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return SET(d->pointer_mode);
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return SET(d->transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return SET(d->transpose_b);
    case CUBLASLT_MATMUL_DESC_TRANSC:
        return SET(d->transpose_c);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return SET(d->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return SET(d->bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return SET(d->bias_type);
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET:
        return SET(ignored);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
        return SET(ignored_flag);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    struct matmul_preference content = {.reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK};
    return create(preference, sizeof **preference, &content, sizeof content);
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return destroy(preference);
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                           cublasLtMatmulPreferenceAttributes_t attribute,
                                                           const void *value, size_t bytes)
{
    struct matmul_preference *p = (struct matmul_preference *)preference;
    uint32_t ignored;
    if (!p) return CUBLAS_STATUS_INVALID_VALUE;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return SET(p->workspace_bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return SET(p->reduction_schemes);
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return SET(ignored);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}
