/*
 * cudnn_plan.h - attention described to cuDNN, and the engine of its that computes one shape of it.
 *
 *     cudnn_plan_make(&library, &(struct cudnn_target){.handle = handle}, &shape, workspace_bytes, &plan, &error);
 *     cudnn_plan_run(&library, handle, plan, attention, workspace, &error);
 *     cudnn_plan_destroy(&library, plan);
 *
 * The description is one operation, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR, of four tensors [1, heads, rows, head_dim]
 * in bf16, whose strides are those of our views, and the scale, a float32 of the host. What it has to be is learned from
 * cudnn_graph.h and from NVIDIA's cudnn-frontend (UnifiedSDPANode). Engines come from cuDNN's heuristics, best first; those
 * that are noted as nondeterministic, or want more workspace than there is, are passed over.
 *
 * Making a plan compiles or loads code for the device: half a second, perhaps. One thread at a time.
 */
#ifndef REFRAIN_KERNELS_CUDA_CUDNN_PLAN_H
#define REFRAIN_KERNELS_CUDA_CUDNN_PLAN_H

#include "kernels/cuda/cudnn_library.h"
#include "kernels/ops.h"

enum { CUDNN_ALIGNMENT = 16 }; /* bytes, of every pointer */

/* Everything a plan depends on. Compared byte by byte: no padding between the members. */
struct attention_shape {
    int64_t q_stride, k_stride, v_stride, out_stride; /* elements */
    int q_rows, kv_rows, heads, head_dim;
};

/* What the plan is made for: the device of a handle, or one that is only described (CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR). */
struct cudnn_target {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t properties; /* where there is no handle */
};

struct cudnn_plan;

struct cudnn_choice {
    int64_t engine, workspace_bytes;
};

status_t cudnn_plan_make(const struct cudnn_library *library, const struct cudnn_target *target,
                         const struct attention_shape *shape, size_t workspace_bytes,
                         struct cudnn_plan **plan, struct error *error);
void cudnn_plan_destroy(const struct cudnn_library *library, struct cudnn_plan *plan); /* NULL is fine */

struct cudnn_choice cudnn_plan_choice(const struct cudnn_plan *plan);

/* Starts it on the handle's stream: `a` has the plan's shape. */
status_t cudnn_plan_run(const struct cudnn_library *library, cudnnHandle_t handle,
                        const struct cudnn_plan *plan, const struct attention *a, void *workspace,
                        struct error *error);

#endif
