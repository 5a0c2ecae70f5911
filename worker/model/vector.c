/* vector.c - see vector.h. Compute thread. */
#include "worker/model/vector.h"

#include <stdlib.h>

status_t vector_load(const struct ops *ops, struct team *team, const struct tensor *tensor, float **vector,
                     struct error *error)
{
    size_t bytes = (size_t)tensor->count * sizeof(float);
    void *memory;
    float *values = malloc(bytes);
    if (!values) return error_set(error, STATUS_NO_MEMORY, "no memory for a vector of %zu bytes", bytes);
    tensor_to_f32(tensor, values);
    status_t status = ops->allocate(MEMORY_DEVICE, bytes, &memory, error);
    if (status == STATUS_OK) {
        ops->copy(team, memory, values, bytes);
        status = ops->wait(team, error);
        if (status == STATUS_OK)
            *vector = memory;
        else
            ops->release(MEMORY_DEVICE, memory);
    }
    free(values);
    return status;
}
