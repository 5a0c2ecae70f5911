/* linear.c - see linear.h. */
#include "kernels/cuda/linear.h"

#include <stdlib.h>
#include <string.h>
#include "kernels/cuda/passes.h"
#include "kernels/cuda/plans.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda/upload.h"
#include "kernels/weights.h"

struct linear {
    int n, k, padded_n, padded_k;
    bool part; /* of a whole, whose memory it reads, from a group of outputs on; */
    int skip;  /* those of the group that are before the part */
    size_t bytes;
    char *weights;     /* [padded_n, padded_k] of bf16; then the biases, zeros where there are none */
    float *bias;       /* [padded_n] */
    char *narrow_bias; /* the same in bf16 */
};

/* ---------------------------------------------------------------------------------------------------------- weights */

/* Memory for both, and both in it. */
static status_t fill(struct linear *linear, const struct matrix *w, const struct matrix *bias,
                     struct error *error)
{
    const struct linear_sizes sizes = cuda_linear_sizes(w->rows, w->columns);
    void *memory;
    linear->bytes = sizes.bytes;
    status_t status = device_allocate(MEMORY_DEVICE, linear->bytes, &memory, error);
    if (status != STATUS_OK) return status;
    linear->weights = memory;
    linear->bias = (float *)(void *)(linear->weights + sizes.weights);
    linear->narrow_bias = linear->weights + sizes.weights + sizes.bias;
    status = upload_zero(memory, linear->bytes, error);
    if (status == STATUS_OK) status = upload_weights(w, linear->padded_k, DTYPE_BF16, memory, error);
    if (status == STATUS_OK && bias) status = upload_weights(bias, 1, DTYPE_F32, linear->bias, error);
    if (status == STATUS_OK && bias) status = upload_weights(bias, 1, DTYPE_BF16, linear->narrow_bias, error);
    return status;
}

status_t linear_make(const struct matrix *w, const struct matrix *bias, struct linear **result,
                     struct error *error)
{
    status_t status = weights_check_linear(w, bias, error);
    if (status != STATUS_OK) return status;
    struct linear *linear = malloc(sizeof *linear);
    if (!linear)
        return error_set(error, STATUS_NO_MEMORY, "no memory for a [%d, %d] weight", w->rows, w->columns);
    const struct linear_sizes sizes = cuda_linear_sizes(w->rows, w->columns);
    *linear = (struct linear){
        .n = w->rows, .k = w->columns, .padded_n = sizes.padded_n, .padded_k = sizes.padded_k};
    status = upload_open(error);
    if (status == STATUS_OK) {
        status = fill(linear, w, bias, error);
        upload_close();
    }
    if (status != STATUS_OK) {
        linear_drop(linear);
        return status;
    }
    *result = linear;
    return STATUS_OK;
}

void linear_drop(struct linear *linear)
{
    if (!linear) return;
    if (!linear->part) device_release(MEMORY_DEVICE, linear->weights);
    free(linear);
}

size_t linear_size(const struct linear *linear)
{
    return linear->bytes;
}

status_t linear_cut(const struct linear *whole, int first, int count, struct linear **result,
                    struct error *error)
{
    status_t status = weights_check_part(whole->n, first, count, error);
    if (status != STATUS_OK) return status;
    struct linear *part = malloc(sizeof *part);
    if (!part) return error_set(error, STATUS_NO_MEMORY, "no memory for a part of a weight");
    int skip = first % LINEAR_GROUP, begin = first - skip;
    *part = *whole;
    part->part = true;
    part->bytes = 0;
    part->n = count;
    part->padded_n = cuda_linear_sizes(skip + count, whole->k).padded_n;
    part->skip = skip;
    part->weights += (size_t)begin * (size_t)whole->padded_k * 2;
    part->bias += begin;
    part->narrow_bias += (size_t)begin * 2;
    *result = part;
    return STATUS_OK;
}

/* --------------------------------------------------------------------------------------------------------- products */

/* One call of the op. */
struct call {
    struct lane *lane;
    const struct linear *linear;
    const char *x;
    char *y;
    int64_t x_stride, y_stride;
    int rows;
    struct epilogue epilogue;
    bool round_x; /* x goes through the workspace */
    bool finish;  /* y does, and a pass of ours finishes it */
};

/* Whether cuBLASLt takes rows of `size` bytes an element from there, or puts them there. */
static bool fits(const void *pointer, int64_t stride, size_t size)
{
    return (uintptr_t)pointer % PLAN_ALIGNMENT == 0 && (uint64_t)stride * size % PLAN_ALIGNMENT == 0 &&
           lane_on_device(pointer);
}

/* Whether cuBLASLt can write y itself, if it has the epilogue. */
static bool writes_directly(const struct call *c)
{
    const struct epilogue *e = &c->epilogue;
    if (c->linear->n != c->linear->padded_n || !fits(c->y, c->y_stride, dtype_bytes(e->y_dtype)))
        return false;
    if (e->kind == EPILOGUE_ADD)
        return e->y_dtype == DTYPE_F32 && fits(e->other, e->other_stride, sizeof(float));
    return e->kind == EPILOGUE_NONE || e->kind == EPILOGUE_GELU;
}

/* How many rows at a time the workspace allows; all pieces alike but for the last, in whole tiles of cuBLASLt. */
static int piece_rows(const struct call *c)
{
    enum { TILE = 256 };
    size_t row_bytes = (c->round_x ? (size_t)c->linear->padded_k * 2 : 0) +
                       (c->finish ? (size_t)c->linear->padded_n * sizeof(float) : 0);
    if (row_bytes == 0) return c->rows;
    /* both parts begin at a multiple of 256 bytes */
    int64_t most = ((int64_t)c->lane->piece_bytes - 512) / (int64_t)row_bytes;
    if (most < 1) return 0;
    if (most >= c->rows) return c->rows;
    if (most < TILE) return (int)most;
    int64_t pieces = (c->rows + most / TILE * TILE - 1) / (most / TILE * TILE),
            rows = (c->rows + pieces - 1) / pieces;
    return (int)((rows + TILE - 1) / TILE * TILE);
}

static struct plan_shape shape_of(const struct call *c, int rows)
{
    const struct epilogue *e = &c->epilogue;
    struct plan_shape shape = {.rows = rows,
                               .n = c->linear->padded_n,
                               .k = c->linear->padded_k,
                               .x_stride = c->round_x ? c->linear->padded_k : c->x_stride,
                               .y_stride = c->finish ? c->linear->padded_n : c->y_stride,
                               .y_dtype = c->finish ? DTYPE_F32 : (int32_t)e->y_dtype,
                               .bias = !c->finish,
                               .gelu = !c->finish && e->kind == EPILOGUE_GELU,
                               .add = !c->finish && e->kind == EPILOGUE_ADD};
    if (shape.add) shape.other_stride = e->other_stride;
    return shape;
}

static bool multiply(const struct call *c, const struct plan *plan, const void *x, const void *other, void *y)
{
    const float one = 1, zero = 0;
    const void *bias =
        plan->shape.y_dtype == DTYPE_BF16 ? (void *)c->linear->narrow_bias : (void *)c->linear->bias;
    cublasStatus_t code = CUBLAS_STATUS_SUCCESS;
    if (plan->shape.bias)
        code = cublasLtMatmulDescSetAttribute(plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                              sizeof bias);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmul(plans_handle(c->lane->plans), plan->product, &one, c->linear->weights,
                              plan->layout[PLAN_W], x, plan->layout[PLAN_X], plan->shape.add ? &one : &zero,
                              plan->shape.add ? other : y, plan->layout[PLAN_OTHER], y, plan->layout[PLAN_Y],
                              &plan->algorithm, c->lane->workspace, LANE_CUBLAS_BYTES, c->lane->stream);
    if (code == CUBLAS_STATUS_SUCCESS) return true;
    device_fail(STATUS_IO, "linear: cuBLASLt refused a product of %d rows, %d to %d: status %d",
                plan->shape.rows, c->linear->k, c->linear->n, (int)code);
    return false;
}

/* Rows [first, first + rows). */
static bool run_piece(const struct call *c, int first, int rows)
{
    const struct linear *linear = c->linear;
    const struct plan_shape shape = shape_of(c, rows);
    struct plan *plan = plans_find(c->lane->plans, &shape, LANE_CUBLAS_BYTES);
    if (!plan) return false;
    if (!plan->found) {
        device_fail(STATUS_UNSUPPORTED,
                    "linear: cuBLASLt has no algorithm for a product of %d rows, %d to %d", rows, linear->k,
                    linear->n);
        return false;
    }
    struct epilogue e = c->epilogue;
    if (e.other) e.other += first * e.other_stride;
    const char *x = c->x + first * c->x_stride * (int64_t)dtype_bytes(e.x_dtype);
    char *y = c->y + first * c->y_stride * (int64_t)dtype_bytes(e.y_dtype), *at = c->lane->pieces;
    if (c->round_x) {
        if (!device_try("linear", cuda_round_rows(c->lane->stream, x, e.x_dtype, c->x_stride, rows, linear->k,
                                                  linear->padded_k, at)))
            return false;
        x = at;
        at += cuda_whole((size_t)rows * (size_t)linear->padded_k * 2);
    }
    if (!c->finish) return multiply(c, plan, x, e.other, y);
    return multiply(c, plan, x, NULL, at) &&
           device_try("linear",
                      cuda_finish_rows(c->lane->stream, (const float *)(const void *)at + linear->skip,
                                       linear->padded_n, linear->bias + linear->skip, &e, rows, linear->n, y,
                                       c->y_stride));
}

/* An epilogue that cuBLASLt has in general it may still lack for this shape and type. */
static bool has_epilogue(const struct call *c)
{
    const struct plan_shape shape = shape_of(c, c->round_x ? piece_rows(c) : c->rows);
    struct plan *plan = plans_find(c->lane->plans, &shape, LANE_CUBLAS_BYTES);
    return plan && plan->found;
}

static bool run_gemv(const struct call *c)
{
    const struct linear *linear = c->linear;
    const struct gemv gemv = {.weights =
                                  linear->weights + (size_t)linear->skip * (size_t)linear->padded_k * 2,
                              .bias = linear->bias + linear->skip,
                              .n = linear->n,
                              .k = linear->k,
                              .padded = linear->padded_k,
                              .x = (const float *)(const void *)c->x,
                              .x_stride = c->x_stride,
                              .rows = c->rows,
                              .epilogue = c->epilogue,
                              .y = c->y,
                              .y_stride = c->y_stride};
    return device_try("linear", cuda_gemv(c->lane->stream, &gemv));
}

void linear_run(struct lane *lane, const struct linear *linear, const void *x, int64_t x_stride, int rows,
                const struct epilogue *epilogue, void *y, int64_t y_stride)
{
    struct call c = {lane, linear, x, y, x_stride, y_stride, rows, *epilogue, false, false};
    if (rows < 1 || !lane_begin(lane, "linear")) return;
    if (epilogue->x_dtype == DTYPE_F32 && rows <= GEMV_ROWS) {
        run_gemv(&c);
        return;
    }
    c.round_x = epilogue->x_dtype != DTYPE_BF16 || linear->k != linear->padded_k || !fits(x, x_stride, 2);
    c.finish = !writes_directly(&c) || (piece_rows(&c) > 0 && !has_epilogue(&c));
    int step = piece_rows(&c);
    if (step < 1) {
        device_fail(STATUS_NO_MEMORY,
                    "linear: a row of a layer of %d to %d does not fit a workspace of %zu MB: set "
                    "REFRAIN_GPU_WORKSPACE_MB higher",
                    linear->k, linear->n, lane->piece_bytes >> 20);
        return;
    }
    for (int first = 0; first < rows; first += step)
        if (!run_piece(&c, first, rows - first < step ? rows - first : step)) return;
}
