/* graph.c - what descriptors mean: tensors, the operation, its graph, engines and plans. */
#include "tests/fakegpu/cudnn/cudnn.h"
#include <string.h>

/* Engines, in the order in which the heuristics propose them: the first two are traps. */
static const struct engine {
    int64_t index, workspace_bytes;
    bool nondeterministic;
} engines[] = {{11, 1 << 20, true}, {9, INT64_C(1) << 40, false}, {8, 4096, false}};
enum { ENGINES = sizeof engines / sizeof *engines };

struct tensor tensor_of(const struct descriptor *d)
{
    struct tensor t = {.id = number_of(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 0),
                       .alignment = number_of(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 0),
                       .type = (cudnnDataType_t)number_of(d, CUDNN_ATTR_TENSOR_DATA_TYPE, 0),
                       .by_value = number_of(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, 0),
                       .is_virtual = number_of(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, 0)};
    memcpy(t.size, attribute_of(d, CUDNN_ATTR_TENSOR_DIMENSIONS)->elements, sizeof t.size);
    memcpy(t.stride, attribute_of(d, CUDNN_ATTR_TENSOR_STRIDES)->elements, sizeof t.stride);
    return t;
}

static cudnnStatus_t check_tensor(const struct descriptor *d)
{
    struct tensor t = tensor_of(d);
    if (t.alignment < 1 || (t.alignment & (t.alignment - 1)))
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "an alignment of %ld bytes", (long)t.alignment);
    for (int i = 0; i < AXES; i++)
        if (t.size[i] < 1 || t.stride[i] < 1)
            return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "axis %d has size %ld, stride %ld", i,
                                (long)t.size[i], (long)t.stride[i]);
    return CUDNN_STATUS_SUCCESS;
}

static const cudnnBackendAttributeName_t operands[] = {
    CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
    CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC,
    CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC};
enum { VIEWS = 4, OPERANDS = 5 };

/* q and out, k and v are alike in size; all in bf16, elements of a head together; the scale is one float32 of the host. */
static cudnnStatus_t check_attention(const struct descriptor *d)
{
    struct tensor t[OPERANDS];
    int count = attribute_of(d, operands[VIEWS]) ? OPERANDS : VIEWS;
    if (cudnn_told("no-attention"))
        return cudnn_refuse(CUDNN_STATUS_NOT_SUPPORTED_SHAPE, "told to refuse attention of this shape");
    for (int i = 0; i < count; i++) {
        const struct descriptor *tensor = descriptor_of(d, operands[i], CUDNN_BACKEND_TENSOR_DESCRIPTOR);
        if (!tensor) return CUDNN_STATUS_BAD_PARAM;
        t[i] = tensor_of(tensor);
        for (int other = 0; other < i; other++)
            if (t[other].id == t[i].id)
                return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "two tensors are number %ld",
                                    (long)t[i].id);
    }
    for (int i = 0; i < VIEWS; i++) {
        bool same = t[i].size[0] == t[0].size[0] && t[i].size[1] == t[0].size[1] &&
                    t[i].size[2] == t[i == 2  ? 1
                                      : i % 3 ? i
                                              : 0]
                                        .size[2] &&
                    t[i].size[3] == t[0].size[3];
        if (!same)
            return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "tensor %d has another size", i);
        if (t[i].type != CUDNN_DATA_BFLOAT16 || t[i].by_value || t[i].is_virtual)
            return cudnn_refuse(CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE, "tensor %d is not bf16 of the device",
                                i);
        if (t[i].stride[3] != 1 || t[i].alignment < 16)
            return cudnn_refuse(CUDNN_STATUS_NOT_SUPPORTED_LAYOUT, "tensor %d has stride %ld, alignment %ld",
                                i, (long)t[i].stride[3], (long)t[i].alignment);
    }
    if (count == OPERANDS && (t[VIEWS].type != CUDNN_DATA_FLOAT || !t[VIEWS].by_value ||
                              t[VIEWS].size[0] * t[VIEWS].size[1] * t[VIEWS].size[2] * t[VIEWS].size[3] != 1))
        return cudnn_refuse(CUDNN_STATUS_NOT_SUPPORTED, "the scale is not one float32 by value");
    return CUDNN_STATUS_SUCCESS;
}

/* Loads code for the device, which calls what CUDA forbids while work is recorded. */
static cudnnStatus_t check_plan(const struct descriptor *d)
{
    void *memory;
    if (cudnn_told("no-plan")) return cudnn_refuse(CUDNN_STATUS_NOT_SUPPORTED, "told to refuse every plan");
    if (!descriptor_of(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
        return CUDNN_STATUS_BAD_PARAM;
    if (cudaMalloc(&memory, 256) != cudaSuccess)
        return cudnn_refuse(CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, "no memory for code");
    cudaFree(memory);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t check_pack(const struct descriptor *d)
{
    const struct attribute *ids = attribute_of(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    if (ids->count != attribute_of(d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)->count)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH,
                            "not as many pointers as numbers of tensors");
    for (int64_t i = 0; i < ids->count; i++)
        for (int64_t other = 0; other < i; other++)
            if (ids->elements[i] == ids->elements[other])
                return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "tensor %ld has two pointers",
                                    (long)ids->elements[i]);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t meaning_check(const struct descriptor *d)
{
    switch (d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
        return check_tensor(d);
    case CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR:
        return check_attention(d);
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        return check_plan(d);
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
        return check_pack(d);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
        return CUDNN_STATUS_SUCCESS;
    default:
        return cudnn_refuse(CUDNN_STATUS_NOT_SUPPORTED,
                            "descriptors of type %d are made by the heuristics alone", d->type);
    }
}

/* --------------------------------------------------------------------------------------------------------- engines */

/* Heads of a multiple of 8 up to 128. */
static bool computable(const struct descriptor *graph)
{
    const struct descriptor *operation =
        descriptor_of(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    const struct descriptor *q =
        operation ? descriptor_of(operation, operands[0], CUDNN_BACKEND_TENSOR_DESCRIPTOR) : NULL;
    int64_t head_dim = q ? tensor_of(q).size[3] : 0;
    return head_dim > 0 && head_dim % 8 == 0 && head_dim <= 128;
}

cudnnStatus_t heuristics_fill(const struct descriptor *d, int64_t requested, int64_t *count,
                              cudnnBackendDescriptor_t *configs)
{
    const struct descriptor *graph =
        descriptor_of(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (!graph) return CUDNN_STATUS_BAD_PARAM;
    *count = 0;
    if (cudnn_told("no-engine") || !computable(graph)) return CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; i < ENGINES && i < requested; i++) {
        struct descriptor *config =
            descriptor_check(configs[i], CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "a result");
        if (!config || config->finalized) return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "a result is not new");
        attribute_put(config, ENGINE_PLACE, 1, &i, sizeof i);
        attribute_put(config, ENGINE_GRAPH, 1, &graph, sizeof(void *));
        config->finalized = true;
        *count = i + 1;
    }
    return CUDNN_STATUS_SUCCESS;
}

int64_t plan_workspace(const struct descriptor *plan)
{
    const struct descriptor *config =
        descriptor_of(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    return config ? engines[number_of(config, ENGINE_PLACE, 0)].workspace_bytes : -1;
}

static cudnnStatus_t get_engine(const struct descriptor *config, int64_t *count, void *elements)
{
    cudnnBackendDescriptor_t handle;
    memcpy(&handle, elements, sizeof handle);
    struct descriptor *engine = descriptor_check(handle, CUDNN_BACKEND_ENGINE_DESCRIPTOR, "the engine");
    if (!engine) return CUDNN_STATUS_BAD_PARAM;
    int64_t place = number_of(config, ENGINE_PLACE, 0);
    attribute_put(engine, ENGINE_PLACE, 1, &place, sizeof place);
    engine->finalized = true;
    *count = 1;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t engine_get(const struct descriptor *d, cudnnBackendAttributeName_t name, int64_t requested,
                         int64_t *count, void *elements)
{
    const struct engine *engine = &engines[number_of(d, ENGINE_PLACE, 0)];
    if (requested < 1 || !elements)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "no place for attribute %d", name);
    if (name == CUDNN_ATTR_ENGINECFG_ENGINE && d->type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
        return get_engine(d, count, elements);
    *count = 1;
    if (name == CUDNN_ATTR_ENGINE_GLOBAL_INDEX && d->type == CUDNN_BACKEND_ENGINE_DESCRIPTOR) {
        memcpy(elements, &engine->index, sizeof engine->index);
    } else if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && d->type == CUDNN_BACKEND_ENGINE_DESCRIPTOR) {
        const cudnnBackendNumericalNote_t notes[] = {CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
                                                     CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC};
        *count = engine->nondeterministic ? 2 : 1; /* as the real one: how many there are */
        memcpy(elements, notes, sizeof *notes * (size_t)(*count < requested ? *count : requested));
    } else if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE &&
               d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
        int64_t bytes = plan_workspace(d);
        if (bytes < 0) return CUDNN_STATUS_BAD_PARAM;
        memcpy(elements, &bytes, sizeof bytes);
    } else {
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "descriptors of type %d have no attribute %d", d->type,
                            name);
    }
    return CUDNN_STATUS_SUCCESS;
}
