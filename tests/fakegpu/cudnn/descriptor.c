/* descriptor.c - making, setting, finalizing and reading descriptors; handles, version, words for errors. */
#include "tests/fakegpu/cudnn/cudnn.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char reason[256];
static struct descriptor *all;

bool cudnn_told(const char *word)
{
    const char *text = getenv("REFRAIN_FAKEGPU_CUDNN");
    size_t length = strlen(word);
    for (const char *at = text ? strstr(text, word) : NULL; at; at = strstr(at + 1, word))
        if ((at == text || at[-1] == ',') && (at[length] == ',' || !at[length])) return true;
    return false;
}

cudnnStatus_t cudnn_refuse(cudnnStatus_t code, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(reason, sizeof reason, format, list);
    va_end(list);
    fprintf(stderr, "fakegpu: cuDNN: %s\n", reason);
    return code;
}

EXPORT size_t cudnnGetVersion(void)
{
    const char *text = getenv("REFRAIN_FAKEGPU_CUDNN"), *at = text ? strstr(text, "version=") : NULL;
    return at ? (size_t)atol(at + strlen("version=")) : 91900;
}

EXPORT const char *cudnnGetErrorString(cudnnStatus_t status)
{
    switch (status / 1000 * 1000) {
    case 0:
        return "CUDNN_STATUS_SUCCESS";
    case 1000:
        return "CUDNN_STATUS_NOT_INITIALIZED";
    case CUDNN_STATUS_BAD_PARAM:
        return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED:
        return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_EXECUTION_FAILED:
        return "CUDNN_STATUS_EXECUTION_FAILED";
    default:
        return "CUDNN_STATUS_INTERNAL_ERROR";
    }
}

EXPORT void cudnnGetLastErrorString(char *message, size_t max_size)
{
    snprintf(message, max_size, "%s", reason);
    *reason = 0;
}

/* --------------------------------------------------------------------------------------------------------- handles */

EXPORT cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    int devices;
    void *memory;
    if (cudnn_told("no-handle") || cudaGetDeviceCount(&devices) != cudaSuccess)
        return cudnn_refuse(CUDNN_STATUS_NOT_INITIALIZED, "cudnnCreate: there is no device");
    if (cudaMalloc(&memory, 256) != cudaSuccess) /* as the real one: forbidden while work is recorded */
        return cudnn_refuse(CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, "cudnnCreate: no memory");
    cudaFree(memory);
    *handle = calloc(1, sizeof **handle);
    return *handle ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
}

EXPORT cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    free(handle);
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    if (!handle) return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "cudnnSetStream: no handle");
    handle->stream = stream;
    handle->has_stream = true;
    return CUDNN_STATUS_SUCCESS;
}

/* ----------------------------------------------------------------------------------------------------------- rules */

/* What an attribute has to be like; required: before its descriptor is finalized. */
static const struct rule {
    cudnnBackendDescriptorType_t of;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t least, most; /* elements */
    bool required;
    cudnnBackendDescriptorType_t refers_to;
} rules[] = {
#define TENSOR CUDNN_BACKEND_TENSOR_DESCRIPTOR
    {TENSOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, 1, true, 0},
    {TENSOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, true, 0},
    {TENSOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, 1, true, 0},
    {TENSOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, AXES, AXES, true, 0},
    {TENSOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, AXES, AXES, true, 0},
    {TENSOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, 1, false, 0},
    {TENSOR, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, 1, false, 0},
#define SDPA(which, required)                                                                                \
    {                                                                                                        \
        CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR, CUDNN_ATTR_OPERATION_SDPA_FWD_##which,                  \
            CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, required, TENSOR                                            \
    }
    SDPA(QDESC, true),
    SDPA(KDESC, true),
    SDPA(VDESC, true),
    SDPA(ODESC, true),
    SDPA(SCALEDESC, false),
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, true,
     0},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
     1, true, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1, true, 0},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, true,
     0},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 1,
     ELEMENTS_MAX, true, 0},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 1,
     ELEMENTS_MAX, true, 0},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1,
     false, 0},
};
enum { RULES = sizeof rules / sizeof *rules };

static const struct rule *rule_of(cudnnBackendDescriptorType_t type, cudnnBackendAttributeName_t name)
{
    for (int i = 0; i < RULES; i++)
        if (rules[i].of == type && rules[i].name == name) return &rules[i];
    return NULL;
}

static size_t bytes_of(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    case CUDNN_TYPE_DATA_TYPE:
    case CUDNN_TYPE_HEUR_MODE:
        return sizeof(int);
    default:
        return sizeof(int64_t);
    }
}

/* ----------------------------------------------------------------------------------------------------- descriptors */

struct descriptor *descriptor_check(cudnnBackendDescriptor_t handle, cudnnBackendDescriptorType_t type,
                                    const char *what)
{
    for (struct descriptor *d = all; d; d = d->next) {
        if (d != handle) continue;
        if (d->destroyed)
            cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "%s: the descriptor was destroyed", what);
        else if (type && d->type != type)
            cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "%s: a descriptor of type %d, not %d", what, d->type, type);
        else
            return d;
        return NULL;
    }
    cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "%s: not a descriptor", what);
    return NULL;
}

const struct attribute *attribute_of(const struct descriptor *d, cudnnBackendAttributeName_t name)
{
    for (int i = 0; i < d->attributes; i++)
        if (d->attribute[i].name == name) return &d->attribute[i];
    return NULL;
}

int64_t number_of(const struct descriptor *d, cudnnBackendAttributeName_t name, int64_t standard)
{
    const struct attribute *a = attribute_of(d, name);
    return a ? a->elements[0] : standard;
}

const struct descriptor *descriptor_of(const struct descriptor *d, cudnnBackendAttributeName_t name,
                                       cudnnBackendDescriptorType_t type)
{
    const struct attribute *a = attribute_of(d, name);
    struct descriptor *found = a ? descriptor_check((void *)a->elements[0], type, "a reference") : NULL;
    if (found && found->finalized) return found;
    if (found) cudnn_refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "attribute %d is not finalized", name);
    return NULL;
}

void attribute_put(struct descriptor *d, cudnnBackendAttributeName_t name, int64_t count,
                   const void *elements, size_t bytes)
{
    struct attribute *a = (struct attribute *)attribute_of(d, name);
    if (!a) {
        if (d->attributes == ATTRIBUTES_MAX) abort();
        a = &d->attribute[d->attributes++];
    }
    *a = (struct attribute){.name = name, .count = count};
    memcpy(a->elements, elements, bytes);
}

EXPORT cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                                  cudnnBackendDescriptor_t *descriptor)
{
    bool known = type == CUDNN_BACKEND_ENGINE_DESCRIPTOR || type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR;
    for (int i = 0; i < RULES; i++) known |= rules[i].of == type;
    if (!known)
        return cudnn_refuse(CUDNN_STATUS_NOT_SUPPORTED, "descriptors of type %d are not known here", type);
    struct descriptor *d = calloc(1, sizeof *d);
    if (!d) return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
    d->type = type;
    d->next = all;
    all = d;
    *descriptor = d;
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor)
{
    struct descriptor *d = descriptor_check(descriptor, 0, "cudnnBackendDestroyDescriptor");
    if (!d) return CUDNN_STATUS_BAD_PARAM;
    d->destroyed = true;
    if (d->type == CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR) { /* one an execution, and nothing refers to it */
        struct descriptor **link = &all;
        while (*link != d) link = &(*link)->next;
        *link = d->next;
        free(d);
    }
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                              cudnnBackendAttributeName_t name,
                                              cudnnBackendAttributeType_t type, int64_t count,
                                              const void *elements)
{
    struct descriptor *d = descriptor_check(descriptor, 0, "cudnnBackendSetAttribute");
    if (!d || !elements) return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    const struct rule *rule = rule_of(d->type, name);
    if (d->finalized)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "attribute %d of a finalized descriptor", name);
    if (!rule)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "descriptors of type %d have no attribute %d", d->type,
                            name);
    if (type != rule->type)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d is of type %d, not %d", name,
                            rule->type, type);
    if (count < rule->least || count > rule->most)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "attribute %d with %ld elements", name, (long)count);
    attribute_put(d, name, count, elements, (size_t)count * bytes_of(type));
    if (rule->refers_to && !descriptor_of(d, name, rule->refers_to)) {
        d->attributes--;
        return CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED;
    }
    return CUDNN_STATUS_SUCCESS;
}

EXPORT cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor)
{
    struct descriptor *d = descriptor_check(descriptor, 0, "cudnnBackendFinalize");
    if (!d) return CUDNN_STATUS_BAD_PARAM;
    if (d->finalized) return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "finalized twice");
    for (int i = 0; i < RULES; i++)
        if (rules[i].of == d->type && rules[i].required && !attribute_of(d, rules[i].name))
            return cudnn_refuse(CUDNN_STATUS_BAD_PARAM, "finalized without attribute %d", rules[i].name);
    cudnnStatus_t code = meaning_check(d);
    d->finalized = code == CUDNN_STATUS_SUCCESS;
    return code;
}

EXPORT cudnnStatus_t cudnnBackendGetAttribute(const cudnnBackendDescriptor_t descriptor,
                                              cudnnBackendAttributeName_t name,
                                              cudnnBackendAttributeType_t type, int64_t requested,
                                              int64_t *count, void *elements)
{
    struct descriptor *d = descriptor_check(descriptor, 0, "cudnnBackendGetAttribute");
    if (!d) return CUDNN_STATUS_BAD_PARAM;
    if (!d->finalized)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "read before it is finalized");
    bool right = (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && type == CUDNN_TYPE_BACKEND_DESCRIPTOR) ||
                 (name == CUDNN_ATTR_ENGINECFG_ENGINE && type == CUDNN_TYPE_BACKEND_DESCRIPTOR) ||
                 (name == CUDNN_ATTR_ENGINE_GLOBAL_INDEX && type == CUDNN_TYPE_INT64) ||
                 (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && type == CUDNN_TYPE_NUMERICAL_NOTE) ||
                 (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE && type == CUDNN_TYPE_INT64);
    if (!right)
        return cudnn_refuse(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d read as type %d", name,
                            type);
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS)
        return heuristics_fill(d, requested, count, (cudnnBackendDescriptor_t *)elements);
    return engine_get(d, name, requested, count, elements);
}
