/* cudnn_plan.c - see cudnn_plan.h. */
#include "kernels/cuda/cudnn_plan.h"

#include <stdlib.h>

enum { TENSOR_Q, TENSOR_K, TENSOR_V, TENSOR_OUT, TENSOR_SCALE, TENSORS, AXES = 4, MOST_CONFIGS = 16 };

/* Whatever a finalized descriptor refers to is kept as long as it. */
struct cudnn_plan {
    cudnnBackendDescriptor_t tensor[TENSORS], operation, graph, config, plan;
    struct cudnn_choice choice;
};

/* A description being made: after the first refusal nothing more is asked. */
struct maker {
    const struct cudnn_library *library;
    cudnnStatus_t code;
    struct error error; /* the refusal, told at once: the library forgets its reason with the next call */
};

static void check(struct maker *m, const char *what, cudnnStatus_t code)
{
    if (m->code != CUDNN_STATUS_SUCCESS || code == CUDNN_STATUS_SUCCESS) return;
    m->code = code;
    cudnn_library_refused(m->library, what, code, &m->error);
}

static cudnnBackendDescriptor_t make(struct maker *m, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t descriptor = NULL;
    if (m->code == CUDNN_STATUS_SUCCESS)
        check(m, "a descriptor", m->library->descriptor_create(type, &descriptor));
    return descriptor;
}

static void set(struct maker *m, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *elements)
{
    if (m->code == CUDNN_STATUS_SUCCESS)
        check(m, "an attribute", m->library->set(descriptor, name, type, count, elements));
}

static void set_descriptor(struct maker *m, cudnnBackendDescriptor_t descriptor,
                           cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value)
{
    set(m, descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finalize(struct maker *m, cudnnBackendDescriptor_t descriptor, const char *what)
{
    if (m->code == CUDNN_STATUS_SUCCESS) check(m, what, m->library->finalize(descriptor));
}

/* How many elements were written. */
static int64_t get(struct maker *m, cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                   cudnnBackendAttributeType_t type, int64_t most, void *elements)
{
    int64_t count = 0;
    if (m->code == CUDNN_STATUS_SUCCESS)
        check(m, "an attribute to be read", m->library->get(descriptor, name, type, most, &count, elements));
    return m->code == CUDNN_STATUS_SUCCESS ? count < most ? count : most : 0;
}

static void drop(const struct cudnn_library *library, cudnnBackendDescriptor_t descriptor)
{
    if (descriptor) library->descriptor_destroy(descriptor);
}

/* ---------------------------------------------------------------------------------------------------- description */

static cudnnBackendDescriptor_t make_tensor(struct maker *m, int64_t id, cudnnDataType_t type,
                                            const int64_t *sizes, const int64_t *strides, bool by_value)
{
    int64_t alignment = by_value ? (int64_t)sizeof(float) : CUDNN_ALIGNMENT;
    cudnnBackendDescriptor_t tensor = make(m, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(m, tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    set(m, tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(m, tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(m, tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, AXES, sizes);
    set(m, tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, AXES, strides);
    set(m, tensor, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    finalize(m, tensor, "a tensor");
    return tensor;
}

static cudnnBackendDescriptor_t make_view(struct maker *m, int64_t id, const struct attention_shape *s,
                                          int rows, int64_t stride)
{
    const int64_t sizes[AXES] = {1, s->heads, rows, s->head_dim},
                  strides[AXES] = {rows * stride, s->head_dim, stride, 1};
    return make_tensor(m, id, CUDNN_DATA_BFLOAT16, sizes, strides, false);
}

static void describe(struct maker *m, const struct cudnn_target *target, const struct attention_shape *s,
                     struct cudnn_plan *plan)
{
    static const int64_t one[AXES] = {1, 1, 1, 1};
    static const cudnnBackendAttributeName_t names[TENSORS] = {
        CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
        CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC,
        CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC};
    plan->tensor[TENSOR_Q] = make_view(m, TENSOR_Q, s, s->q_rows, s->q_stride);
    plan->tensor[TENSOR_K] = make_view(m, TENSOR_K, s, s->kv_rows, s->k_stride);
    plan->tensor[TENSOR_V] = make_view(m, TENSOR_V, s, s->kv_rows, s->v_stride);
    plan->tensor[TENSOR_OUT] = make_view(m, TENSOR_OUT, s, s->q_rows, s->out_stride);
    plan->tensor[TENSOR_SCALE] = make_tensor(m, TENSOR_SCALE, CUDNN_DATA_FLOAT, one, one, true);

    plan->operation = make(m, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    for (int i = 0; i < TENSORS; i++) set_descriptor(m, plan->operation, names[i], plan->tensor[i]);
    finalize(m, plan->operation, "attention of these sizes");

    plan->graph = make(m, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (target->handle)
        set(m, plan->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target->handle);
    set_descriptor(m, plan->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, plan->operation);
    finalize(m, plan->graph, "the graph of attention");
}

/* -------------------------------------------------------------------------------------------------------- choice */

/* The configurations that the heuristics of `mode` propose, best first; the caller's to drop, all [MOST_CONFIGS]. */
static int propose(struct maker *m, const struct cudnn_target *target, const struct cudnn_plan *plan,
                   cudnnBackendHeurMode_t mode, cudnnBackendDescriptor_t *configs)
{
    cudnnBackendDescriptor_t heuristics = make(m, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(m, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, plan->graph);
    set(m, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (!target->handle) set_descriptor(m, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, target->properties);
    finalize(m, heuristics, "the question for an engine");
    for (int i = 0; i < MOST_CONFIGS; i++) configs[i] = make(m, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    int64_t count = get(m, heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                        MOST_CONFIGS, configs);
    drop(m->library, heuristics);
    return (int)count;
}

/* Whether it gives equal bits for equal inputs; learns which engine it is. */
static bool admit(struct maker *m, cudnnBackendDescriptor_t config, struct cudnn_choice *choice)
{
    enum { MOST_NOTES = 32 };
    cudnnBackendNumericalNote_t notes[MOST_NOTES];
    cudnnBackendDescriptor_t engine = make(m, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    get(m, config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
    get(m, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &choice->engine);
    int64_t count =
        get(m, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, MOST_NOTES, notes);
    drop(m->library, engine);
    bool admitted = m->code == CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; i < count; i++) admitted &= notes[i] != CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    return admitted;
}

/* A plan of one configuration, in plan->plan; false when it cannot be used. */
static bool realize(struct maker *m, const struct cudnn_target *target, cudnnBackendDescriptor_t config,
                    size_t workspace_bytes, struct cudnn_plan *plan)
{
    struct cudnn_choice choice = {.engine = -1, .workspace_bytes = -1};
    if (!admit(m, config, &choice)) return false;
    cudnnBackendDescriptor_t made = make(m, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (target->handle)
        set(m, made, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target->handle);
    else
        set_descriptor(m, made, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, target->properties);
    set_descriptor(m, made, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    finalize(m, made, "a plan of the best engine");
    get(m, made, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &choice.workspace_bytes);
    if (m->code == CUDNN_STATUS_SUCCESS && choice.workspace_bytes <= (int64_t)workspace_bytes) {
        plan->plan = made;
        plan->choice = choice;
        return true;
    }
    drop(m->library, made);
    return false;
}

/* The first configuration that will do; what keeps one out, keeps not the next. */
static void choose(struct maker *m, const struct cudnn_target *target, size_t workspace_bytes,
                   struct cudnn_plan *plan)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    struct maker best = *m; /* why the best one was kept out */
    for (size_t mode = 0; mode < sizeof modes / sizeof *modes && !plan->plan; mode++) {
        cudnnBackendDescriptor_t configs[MOST_CONFIGS] = {NULL};
        struct maker asking = *m;
        int count = propose(&asking, target, plan, modes[mode], configs);
        if (best.code == CUDNN_STATUS_SUCCESS) best = asking;
        for (int i = 0; i < count && !plan->plan; i++) {
            struct maker trying = *m;
            if (realize(&trying, target, configs[i], workspace_bytes, plan)) {
                plan->config = configs[i];
                configs[i] = NULL;
            } else if (best.code == CUDNN_STATUS_SUCCESS) {
                best = trying;
            }
        }
        for (int i = 0; i < MOST_CONFIGS; i++) drop(m->library, configs[i]);
    }
    if (!plan->plan) *m = best;
}

status_t cudnn_plan_make(const struct cudnn_library *library, const struct cudnn_target *target,
                         const struct attention_shape *shape, size_t workspace_bytes,
                         struct cudnn_plan **result, struct error *error)
{
    struct maker m = {.library = library, .code = CUDNN_STATUS_SUCCESS};
    struct cudnn_plan *plan = calloc(1, sizeof *plan);
    if (!plan) return error_set(error, STATUS_NO_MEMORY, "no memory for a plan of attention");
    describe(&m, target, shape, plan);
    if (m.code == CUDNN_STATUS_SUCCESS) choose(&m, target, workspace_bytes, plan);
    if (m.code == CUDNN_STATUS_SUCCESS && plan->plan) {
        *result = plan;
        return STATUS_OK;
    }
    cudnn_plan_destroy(library, plan);
    if (m.code != CUDNN_STATUS_SUCCESS) return error_set(error, m.error.status, "%s", m.error.text);
    return error_set(error, STATUS_UNSUPPORTED,
                     "cuDNN has no deterministic engine for it that needs at most %zu MB of workspace",
                     workspace_bytes >> 20);
}

void cudnn_plan_destroy(const struct cudnn_library *library, struct cudnn_plan *plan)
{
    if (!plan) return;
    drop(library, plan->plan);
    drop(library, plan->config);
    drop(library, plan->graph);
    drop(library, plan->operation);
    for (int i = 0; i < TENSORS; i++) drop(library, plan->tensor[i]);
    free(plan);
}

struct cudnn_choice cudnn_plan_choice(const struct cudnn_plan *plan)
{
    return plan->choice;
}

/* ------------------------------------------------------------------------------------------------------ execution */

status_t cudnn_plan_run(const struct cudnn_library *library, cudnnHandle_t handle,
                        const struct cudnn_plan *plan, const struct attention *a, void *workspace,
                        struct error *error)
{
    static const int64_t ids[TENSORS] = {TENSOR_Q, TENSOR_K, TENSOR_V, TENSOR_OUT, TENSOR_SCALE};
    float scale = a->scale;
    const void *pointers[TENSORS] = {a->q, a->k, a->v, a->out, &scale};
    struct maker m = {.library = library, .code = CUDNN_STATUS_SUCCESS};
    cudnnBackendDescriptor_t pack = make(&m, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(&m, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, TENSORS, ids);
    set(&m, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, TENSORS, pointers);
    set(&m, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    finalize(&m, pack, "the tensors of attention");
    if (m.code == CUDNN_STATUS_SUCCESS)
        check(&m, "to run attention", library->execute(handle, plan->plan, pack));
    drop(library, pack);
    return m.code == CUDNN_STATUS_SUCCESS ? STATUS_OK : error_set(error, m.error.status, "%s", m.error.text);
}
