/*
 * table.c - the cuda backend's op table, and the plug-in it is found in. Contracts: kernels/ops.h.
 */
#include <stdio.h>

#include "kernels/cuda/convolution.h"
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/lane.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/passes.h"
#include "kernels/cuda/upload.h"
#include "kernels/plugin.h"

/* ------------------------------------------------------------------------------------------- execution and memory */

static status_t cuda_open(struct team *team, struct error *error)
{
    struct lane *lane;
    status_t status = upload_open(error);
    if (status != STATUS_OK) return status;
    status = lane_open(true, &lane, error);
    if (status != STATUS_OK) {
        upload_close();
        return status;
    }
    team_set_device(team, lane);
    return STATUS_OK;
}

static void cuda_close(struct team *team)
{
    struct lane *lane = team_device(team);
    if (!lane) return;
    lane_wait(lane, NULL);
    lane_close(lane);
    upload_close();
    team_set_device(team, NULL);
}

static status_t cuda_wait(struct team *team, struct error *error)
{
    return lane_wait(team_device(team), error);
}

static void cuda_locate(const struct team *team, struct location *location)
{
    const struct lane *lane = team_device(team);
    static _Thread_local char kind[DEVICE_NAME_BYTES + 64];
    struct device_identity identity;
    device_describe(&identity);
    int length = snprintf(kind, sizeof kind, "%s, sm_%d", identity.name, identity.capability);
    int cudnn = cudnn_version(lane->cudnn, lane->stream);
    if (cudnn)
        snprintf(kind + length, sizeof kind - (size_t)length, ", cuDNN %d.%d.%d", cudnn / 10000,
                 cudnn / 100 % 100, cudnn % 100);
    *location = (struct location){kind, device_number(), lane->stream, identity.memory_bytes};
}

static status_t cuda_allocate(enum memory kind, size_t bytes, void **memory, struct error *error)
{
    void *made;
    status_t status = upload_open(error);
    if (status != STATUS_OK) return status;
    status = device_allocate(kind, bytes, &made, error);
    if (status == STATUS_OK) {
        status = upload_zero(made, bytes, error);
        if (status == STATUS_OK)
            *memory = made;
        else
            device_release(kind, made);
    }
    upload_close();
    return status;
}

static void run_copy(struct team *team, void *to, const void *from, size_t bytes)
{
    lane_copy(team_device(team), to, from, bytes);
}

static void run_copy_rows(struct team *team, void *to, size_t to_stride, const void *from, size_t from_stride,
                          size_t row_bytes, int64_t rows)
{
    lane_copy_rows(team_device(team), to, to_stride, from, from_stride, row_bytes, rows);
}

static void run_zero(struct team *team, void *memory, size_t bytes)
{
    lane_zero(team_device(team), memory, bytes);
}

/* ------------------------------------------------------------------------------------------------------------- ops */

/* One launch: on the team's stream, its refusal noted. */
#define LAUNCH(op, call)                                                                                     \
    do {                                                                                                     \
        struct lane *lane = team_device(team);                                                               \
        if (lane_begin(lane, op)) device_try(op, call);                                                      \
    } while (0)

static void run_linear(struct team *team, const struct linear *linear, const void *x, int64_t x_stride,
                       int rows, const struct epilogue *epilogue, void *y, int64_t y_stride)
{
    linear_run(team_device(team), linear, x, x_stride, rows, epilogue, y, y_stride);
}

static void run_layer_norm(struct team *team, const float *x, int64_t x_stride, int rows, int width,
                           float eps, float base, const float *scale, const float *shift, void *y,
                           int64_t y_stride, dtype_t y_dtype)
{
    LAUNCH("layer_norm", cuda_layer_norm(lane->stream, x, x_stride, rows, width, eps, base, scale, shift, y,
                                         y_stride, y_dtype));
}

static void run_rms_norm(struct team *team, const void *x, int64_t x_stride, int rows, int width, float eps,
                         const float *weight, void *y, int64_t y_stride, dtype_t dtype)
{
    const struct rms_norm norm = {.x = x,
                                  .y = y,
                                  .x_stride = x_stride,
                                  .y_stride = y_stride,
                                  .rows = rows,
                                  .width = width,
                                  .eps = eps,
                                  .weight = weight,
                                  .dtype = dtype};
    LAUNCH("rms_norm", cuda_rms_norm(lane->stream, &norm));
}

static void run_rms_norm_rope(struct team *team, void *x, int64_t x_stride, int rows, int heads, int head_dim,
                              float eps, const float *weight, const float *cosines, const float *sines,
                              dtype_t dtype)
{
    const struct rms_norm norm = {x,        x,   x_stride, x_stride, rows,  heads * head_dim,
                                  head_dim, eps, weight,   cosines,  sines, dtype};
    LAUNCH("rms_norm_rope", cuda_rms_norm(lane->stream, &norm));
}

static void run_cut_patches(struct team *team, const struct patching *patching, const float *latent,
                            void *rows, dtype_t dtype)
{
    LAUNCH("cut_patches", cuda_cut_patches(lane->stream, patching, latent, rows, dtype));
}

static void run_join_patches(struct team *team, const struct patching *patching, const float *rows,
                             float *latent)
{
    LAUNCH("join_patches", cuda_join_patches(lane->stream, patching, rows, latent));
}

static void run_attention(struct team *team, const struct attention *a)
{
    struct lane *lane = team_device(team);
    if (lane_begin(lane, "attention") && !cudnn_attention(lane, a))
        device_try("attention", cuda_attention(lane->stream, a));
}

static void run_conv(struct team *team, const struct conv *conv, const struct volume *x,
                     const struct volume *residual, const struct volume *y)
{
    LAUNCH("conv", convolution_run(lane->stream, conv, x, residual, y));
}

static void run_channel_norm(struct team *team, const struct volume *x, const float *gamma, bool silu,
                             const struct volume *y)
{
    LAUNCH("channel_norm", cuda_channel_norm(lane->stream, x, gamma, silu, y));
}

static void run_lincomb(struct team *team, int terms, const float *weights, const float *const *x,
                        int64_t count, float *y)
{
    LAUNCH("lincomb", cuda_lincomb(lane->stream, terms, weights, x, count, y));
}

static void run_lincomb_rows(struct team *team, int terms, const float *weights, const unsigned char *group,
                             const float *const *x, int64_t rows, int64_t width, float *y)
{
    LAUNCH("lincomb_rows", cuda_lincomb_rows(lane->stream, terms, weights, group, x, rows, width, y));
}

static void run_reduce2(struct team *team, const float *a, const float *b, int64_t rows, int64_t width,
                        double *partials)
{
    LAUNCH("reduce2", cuda_reduce2(lane->stream, a, b, rows, width, partials));
}

static void run_mix(struct team *team, const float *matrix, int64_t outer, int n, int64_t inner,
                    const float *x, float *y)
{
    LAUNCH("mix", cuda_mix(lane->stream, matrix, outer, n, inner, x, y));
}

static void run_silu(struct team *team, const float *x, int64_t count, float *y)
{
    LAUNCH("silu", cuda_silu(lane->stream, x, count, y));
}

static status_t run_record(struct team *team, struct error *error)
{
    return lane_record(team_device(team), error);
}

static status_t run_recorded(struct team *team, struct stretch **stretch, struct error *error)
{
    return lane_recorded(team_device(team), stretch, error);
}

static void run_replay(struct team *team, const struct stretch *stretch)
{
    lane_replay(team_device(team), stretch);
}

static const struct ops ops_cuda = {
    .name = "cuda",
    .operand = DTYPE_BF16,
    .open = cuda_open,
    .close = cuda_close,
    .wait = cuda_wait,
    .locate = cuda_locate,
    .allocate = cuda_allocate,
    .release = device_release,
    .copy = run_copy,
    .copy_rows = run_copy_rows,
    .zero = run_zero,
    .copy_now = upload_copy,
    .linear_create = linear_make,
    .linear_destroy = linear_drop,
    .linear_bytes = linear_size,
    .linear_part = linear_cut,
    .linear = run_linear,
    .layer_norm = run_layer_norm,
    .rms_norm = run_rms_norm,
    .rms_norm_rope = run_rms_norm_rope,
    .cut_patches = run_cut_patches,
    .join_patches = run_join_patches,
    .attention = run_attention,
    .conv_create = convolution_make,
    .conv_destroy = convolution_drop,
    .conv_bytes = convolution_size,
    .conv = run_conv,
    .channel_norm = run_channel_norm,
    .lincomb = run_lincomb,
    .lincomb_rows = run_lincomb_rows,
    .reduce2 = run_reduce2,
    .mix = run_mix,
    .silu = run_silu,
    .record = run_record,
    .recorded = run_recorded,
    .replay = run_replay,
    .forget = lane_forget,
};

/* The one symbol this object exports. */
extern const struct gpu_plugin refrain_gpu;
__attribute__((visibility("default"))) const struct gpu_plugin refrain_gpu = {
    .version = REFRAIN_VERSION,
    .ops_bytes = sizeof(struct ops),
    .ops = &ops_cuda,
    .usable = device_usable,
};
