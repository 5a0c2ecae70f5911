/* execute.c - a plan on a stream: everything it needs is bound, where it may be, and then attention, plainly. */
#include "tests/fakegpu/cudnn/cudnn.h"
#include "tests/fakegpu/fakegpu.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OPERAND_Q, OPERAND_K, OPERAND_V, OPERAND_OUT, OPERAND_SCALE, OPERANDS };

struct work {
    struct tensor tensor[OPERANDS];
    uint16_t *data[OPERAND_SCALE];
    float scale;
    char *workspace;
    size_t workspace_bytes;
};

static float widen(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t *row_of(const struct work *w, int operand, int64_t head, int64_t row)
{
    const int64_t *stride = w->tensor[operand].stride;
    return w->data[operand] + head * stride[1] + row * stride[2];
}

static void attend(const struct work *w, int64_t head, int64_t row, float *weights, float *sums)
{
    int64_t rows = w->tensor[OPERAND_K].size[2], width = w->tensor[OPERAND_Q].size[3];
    const uint16_t *q = row_of(w, OPERAND_Q, head, row);
    float largest = -INFINITY, total = 0;
    for (int64_t j = 0; j < rows; j++) {
        const uint16_t *k = row_of(w, OPERAND_K, head, j);
        weights[j] = 0;
        for (int64_t c = 0; c < width; c++) weights[j] += widen(q[c]) * widen(k[c]);
        weights[j] *= w->scale;
        if (weights[j] > largest) largest = weights[j];
    }
    memset(sums, 0, (size_t)width * sizeof *sums);
    for (int64_t j = 0; j < rows; j++) {
        const uint16_t *v = row_of(w, OPERAND_V, head, j);
        float weight = expf(weights[j] - largest);
        total += weight;
        for (int64_t c = 0; c < width; c++) sums[c] += weight * widen(v[c]);
    }
    uint16_t *out = row_of(w, OPERAND_OUT, head, row);
    for (int64_t c = 0; c < width; c++) out[c] = narrow(sums[c] / total);
}

static void run(void *data)
{
    const struct work *w = data;
    const struct tensor *q = &w->tensor[OPERAND_Q];
    float *weights = malloc((size_t)w->tensor[OPERAND_K].size[2] * sizeof(float)),
          *sums = malloc((size_t)q->size[3] * sizeof(float));
    if (!weights || !sums) abort();
    memset(w->workspace, 0x5a, w->workspace_bytes);
    for (int64_t head = 0; head < q->size[1]; head++)
        for (int64_t row = 0; row < q->size[2]; row++) attend(w, head, row, weights, sums);
    free(weights);
    free(sums);
}

/* ---------------------------------------------------------------------------------------------------------- binding */

/* Whether the device may use all of it: of the device inside one allocation, or pinned memory. */
static bool reachable(const void *pointer, size_t bytes)
{
    struct cudaPointerAttributes attributes;
    if (fakegpu_device_memory(pointer, bytes)) return true;
    return cudaPointerGetAttributes(&attributes, pointer) == cudaSuccess &&
           attributes.type == cudaMemoryTypeHost;
}

static cudnnStatus_t bind(const struct descriptor *pack, struct work *w)
{
    const struct attribute *ids = attribute_of(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS),
                           *pointers = attribute_of(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    if (ids->count != OPERANDS)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "the graph has %d tensors, %ld are bound", OPERANDS,
                            (long)ids->count);
    for (int i = 0; i < OPERANDS; i++) {
        const struct tensor *t = &w->tensor[i];
        void *pointer = NULL;
        for (int64_t j = 0; j < ids->count; j++)
            if (ids->elements[j] == t->id) pointer = (void *)pointers->elements[j];
        if (!pointer) return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "tensor %ld is not bound", (long)t->id);
        if ((uintptr_t)pointer % (uintptr_t)t->alignment)
            return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER,
                                "tensor %ld is not aligned to %ld bytes", (long)t->id, (long)t->alignment);
        if (i == OPERAND_SCALE) {
            memcpy(&w->scale, pointer, sizeof w->scale);
            continue;
        }
        int64_t last = (t->size[1] - 1) * t->stride[1] + (t->size[2] - 1) * t->stride[2] + t->size[3];
        if (!reachable(pointer, (size_t)last * sizeof(uint16_t)))
            return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "tensor %ld leaves its memory", (long)t->id);
        w->data[i] = pointer;
    }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t understand(const struct descriptor *plan, struct work *w)
{
    static const cudnnBackendAttributeName_t names[OPERANDS] = {
        CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
        CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC,
        CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC};
    const struct descriptor *at =
        descriptor_of(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (at) at = descriptor_of(at, ENGINE_GRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (at)
        at = descriptor_of(at, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    for (int i = 0; at && i < OPERANDS; i++) {
        const struct descriptor *tensor = descriptor_of(at, names[i], CUDNN_BACKEND_TENSOR_DESCRIPTOR);
        if (!tensor) return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "attention without tensor %d", i);
        w->tensor[i] = tensor_of(tensor);
    }
    return at ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

EXPORT cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan_handle,
                                         cudnnBackendDescriptor_t variant_pack)
{
    struct work w = {0};
    const struct descriptor *plan =
        descriptor_check(plan_handle, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "the plan");
    const struct descriptor *pack =
        descriptor_check(variant_pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "the variant pack");
    if (!handle || !handle->has_stream)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "executed on a handle without a stream");
    if (!plan || !pack) return CUDNN_STATUS_BAD_PARAM;
    if (!plan->finalized || !pack->finalized)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "executed before it is finalized");
    cudnnStatus_t code = understand(plan, &w);
    if (code == CUDNN_STATUS_SUCCESS) code = bind(pack, &w);
    if (code != CUDNN_STATUS_SUCCESS) return code;
    w.workspace = (char *)number_of(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, 0);
    w.workspace_bytes = (size_t)plan_workspace(plan);
    if (!fakegpu_device_memory(w.workspace, w.workspace_bytes))
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "the workspace does not have %zu bytes",
                            w.workspace_bytes);
    if (cudnn_told("no-execution") ||
        fakegpu_submit(handle->stream, "cudnnBackendExecute", run, &w, sizeof w) != cudaSuccess)
        return cudnn_refuse(CUDNN_STATUS_EXECUTION_FAILED, "the work cannot be started");
    return CUDNN_STATUS_SUCCESS;
}
