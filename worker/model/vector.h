/*
 * vector.h - small tensors of a checkpoint that ops read as they are: norms, gates, modulation tables.
 *
 *     vector_load(ops, team, &tensor, &weight, &error);      float32 on the device, there on return
 *     ops->release(MEMORY_DEVICE, weight);
 */
#ifndef REFRAIN_WORKER_MODEL_VECTOR_H
#define REFRAIN_WORKER_MODEL_VECTOR_H

#include "kernels/ops.h"
#include "worker/model/checkpoint.h"

/* *vector: [tensor->count]. */
status_t vector_load(const struct ops *ops, struct team *team, const struct tensor *tensor, float **vector,
                     struct error *error);

#endif
