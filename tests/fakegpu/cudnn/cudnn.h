/*
 * cudnn.h - the stand-in for cuDNN from the inside. It holds what the documentation of the graph interface demands, and
 * computes the one graph it knows, attention, plainly in float32 on the handle's stream. It says nothing about how the
 * real library chooses, rounds or how fast it is.
 *
 * Descriptors (descriptor.c) keep attributes as they were set and know which are required, of which type and count.
 * What they mean together is checked when they are finalized (graph.c) and executed (execute.c). A refused call tells why
 * on stderr and in cudnnGetLastErrorString. Descriptors are not locked: one thread
 * makes them.
 *
 * REFRAIN_FAKEGPU_CUDNN, words separated by commas, read at every call:
 *
 *     version=91200     what cudnnGetVersion says (91900)
 *     no-handle         cudnnCreate fails
 *     no-attention      the operation is refused
 *     no-engine         the heuristics know none
 *     no-plan           every engine's plan is refused
 *     no-execution      execution fails
 */
#ifndef REFRAIN_FAKEGPU_CUDNN_H
#define REFRAIN_FAKEGPU_CUDNN_H

#include <stdbool.h>
#include "kernels/cuda/cudnn_types.h"

#define EXPORT __attribute__((visibility("default")))

bool cudnn_told(const char *word);
/* Remembers and tells why; returns `code`. */
__attribute__((format(printf, 2, 3))) cudnnStatus_t cudnn_refuse(cudnnStatus_t code, const char *format, ...);

struct cudnnContext {
    cudaStream_t stream;
    bool has_stream;
};

/* --- descriptor.c ------------------------------------------------------------------------------------------------ */

enum { ATTRIBUTES_MAX = 12, ELEMENTS_MAX = 64 };

struct attribute {
    cudnnBackendAttributeName_t name;
    int64_t count;
    int64_t elements[ELEMENTS_MAX]; /* whatever their size, from the beginning */
};

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized, destroyed;
    int attributes;
    struct attribute attribute[ATTRIBUTES_MAX];
    struct descriptor
        *next; /* of all that were ever made: what is used after its end is told, not undefined */
};

/* NULL when it was not set. */
const struct attribute *attribute_of(const struct descriptor *d, cudnnBackendAttributeName_t name);
int64_t number_of(const struct descriptor *d, cudnnBackendAttributeName_t name, int64_t standard);
/* The finalized descriptor that the attribute names; NULL, told, when there is none. */
const struct descriptor *descriptor_of(const struct descriptor *d, cudnnBackendAttributeName_t name,
                                       cudnnBackendDescriptorType_t type);
void attribute_put(struct descriptor *d, cudnnBackendAttributeName_t name, int64_t count,
                   const void *elements, size_t bytes);
/* A descriptor of that type that was not destroyed; NULL, told, when it is none. */
struct descriptor *descriptor_check(cudnnBackendDescriptor_t handle, cudnnBackendDescriptorType_t type,
                                    const char *what);

/* --- graph.c ----------------------------------------------------------------------------------------------------- */

enum { AXES = 4 };

/* What configurations and engines keep beside the attributes that the interface names. */
#define ENGINE_PLACE ((cudnnBackendAttributeName_t)1)
#define ENGINE_GRAPH ((cudnnBackendAttributeName_t)2)

struct tensor {
    int64_t id, alignment, size[AXES], stride[AXES];
    cudnnDataType_t type;
    bool by_value, is_virtual;
};
struct tensor tensor_of(const struct descriptor *d);

/* What is set means something together. */
cudnnStatus_t meaning_check(const struct descriptor *d);
cudnnStatus_t heuristics_fill(const struct descriptor *d, int64_t requested, int64_t *count,
                              cudnnBackendDescriptor_t *configs);
/* Attributes that are known by asking. */
cudnnStatus_t engine_get(const struct descriptor *d, cudnnBackendAttributeName_t name, int64_t requested,
                         int64_t *count, void *elements);
int64_t plan_workspace(const struct descriptor *plan);

#endif
