/*
 * ops.h - the op table: everything that computes, behind one struct of functions.
 *
 *     const struct ops *ops = ops_find("auto");          cpu-avx512, cpu-avx2 or ref: what this machine has
 *     struct linear *w;
 *     ops->linear_create(&(struct matrix){data, DTYPE_BF16, n, k}, bias, &w, &error);
 *     ops->linear(team, w, x, k, rows, &(struct epilogue){.kind = EPILOGUE_GELU}, y, n);
 *
 * Backends: `ref` is scalar C and defines what is right; `cpu-avx2` and `cpu-avx512` are the same source
 * compiled twice; `cuda` is in a plug-in (docs/gpu.md). Activations are row-major and float32, but for what dense layers
 * and attention of a denoiser hand to each other: that is of the backend's type `operand`, float32 on CPUs and bf16 on a GPU.
 * Where an argument has a dtype it is one of these two. Weights keep the width they have in the checkpoint, or are rounded to the
 * operand's.
 *
 * The contract every backend keeps, tested op by op: **the bits of an output row depend neither on how many
 * rows are computed with it, nor on the number of threads, nor on which rank computes it.** So: tiles have
 * fixed sizes, a sum over k is never split by the number of rows or threads, and sums run in one documented
 * order. The two cpu backends also agree with each other bit for bit (same 16-lane arithmetic, explicit fused
 * multiply-add).
 *
 * Ops do not allocate and do not fail: sizes are checked when a model is loaded or a job is planned. Tensors
 * and vectors they get are MEMORY_DEVICE or MEMORY_SHARED, and `copy` alone takes memory of the host's own;
 * structs, and arrays of numbers or pointers where it is said, are the host's and not looked at after the return. Outputs
 * may not overlap inputs unless said. A team is used by one op at a time. Ops of a team run in the order in which they were
 * called, and may still be running when they return: what the host is to see needs `wait` first, and so does
 * memory it is to change or give back.
 */
#ifndef REFRAIN_KERNELS_OPS_H
#define REFRAIN_KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "kernels/team.h"

typedef enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16 } dtype_t;

/* Bytes of one element. */
static inline size_t dtype_bytes(dtype_t dtype)
{
    return dtype == DTYPE_F32 ? 4 : 2;
}

/* A weight as a checkpoint stores it: `data` is [rows, columns], contiguous, not necessarily aligned;
 * borrowed. */
struct matrix {
    const void *data;
    dtype_t dtype;
    int rows, columns;
};

/* What happens to the accumulator a[m,n] = sum_k x[m,k] w[n,k] + bias[n] before it is stored. */
enum epilogue_kind {
    EPILOGUE_NONE,     /* y = a */
    EPILOGUE_GELU,     /* y = gelu_tanh(a) */
    EPILOGUE_SILU,     /* y = a / (1 + exp(-a)) */
    EPILOGUE_MULTIPLY, /* y = a * other[m,n]              (gated feed-forward) */
    EPILOGUE_ADD,      /* y = other[m,n] + a              (residual) */
    EPILOGUE_GATE_ADD, /* y = other[m,n] + a * gate[n]    (gated residual) */
};

struct epilogue {
    enum epilogue_kind kind;
    const float
        *other; /* [rows, n] with row stride `other_stride` floats; may be y itself if that is float32 */
    int64_t other_stride;
    const float *gate;        /* [n] */
    dtype_t x_dtype, y_dtype; /* of the layer's input and output; 0 is float32 */
};

/* A device beside the host. */
struct location {
    const char
        *kind;  /* "NVIDIA H100 80GB HBM3, sm_90, cuDNN 9.19.0": ranks of other kinds compute other bits */
    int device; /* CUDA's number of it */
    void *
        stream; /* the cudaStream_t of the ops, for who moves the device's memory beside them (the nccl fabric) */
    uint64_t memory_bytes;
};

/* Where ops find what they read and write. Weights are wherever the backend put them. */
enum memory {
    MEMORY_DEVICE, /* touched by ops and `copy` alone: activations */
    MEMORY_SHARED, /* the host may touch it as well, while no op that uses it runs: latents, sums for a verdict */
};

/* How a latent [channels, frames * patch_t, height * patch_y, width * patch_x] is cut into tokens. */
struct patching {
    int channels, frames, height, width; /* the last three in tokens */
    int patch_t, patch_y, patch_x;
};

struct linear; /* weights in a backend's own layout */
struct conv;   /* likewise for a convolution */
struct stretch;

/* A channels-last view: element (t, y, x, c) is data[t*stride_t + y*stride_y + x*stride_x + c]; strides in
 * floats. */
struct volume {
    float *data;
    int frames, height, width, channels;
    int64_t stride_t, stride_y, stride_x;
};

/* Shape of a convolution kernel, its strides, and how the output lattice relates to the input. */
struct conv_shape {
    int out_channels, in_channels;
    int kernel_t, kernel_y, kernel_x;
    int stride_t, stride_y, stride_x;
    bool upsample2; /* the input is first doubled in y and x by repetition (nearest); strides 1, kernel 3 in y
                       and x */
};

struct attention {
    const void *q, *k, *v; /* [rows, heads * head_dim] views; head h starts at h * head_dim */
    void *out;             /* [q_rows, heads * head_dim] view */
    dtype_t dtype;         /* of all four; 0 is float32 */
    int64_t q_stride, k_stride, v_stride, out_stride; /* elements between rows */
    int q_rows, kv_rows, heads, head_dim;             /* head_dim 1..512: a VAE has one head */
    float scale;                                      /* multiplies q.k */
    float
        last_logit; /* added to the logit of the last kv row: ln(n) makes it stand for n equal rows; else 0 */
    const float *bias; /* added to the scaled logits by distance: head h, query i, key j gets
                          bias[h * (q_rows + kv_rows - 1) + j - i + q_rows - 1]; NULL for none */
};

enum { LINCOMB_TERMS = 20, LINCOMB_GROUPS = 3 };

/* Of rows a and b: see `reduce2`. */
enum reduce_sum {
    REDUCE_DIFFERENCE,  /* sum |a - b| */
    REDUCE_A,           /* sum |a| */
    REDUCE_B,           /* sum |b| */
    REDUCE_PRODUCT,     /* sum a b */
    REDUCE_A2,          /* sum a^2 */
    REDUCE_B2,          /* sum b^2 */
    REDUCE_DIFFERENCE2, /* sum (a - b)^2 */
    REDUCE_SUMS
};

struct ops {
    const char *name;
    bool
        local; /* memory of the device is the host's, and an op is done when it returns: payloads need no copies */
    bool
        paper; /* memory is only counted: neither weights nor payloads are there to be read (kernels/paper.h) */
    dtype_t operand;

    /* --- execution and memory ----------------------------------------------------------------------------- */

    /* Before a team's first op, and after its last: attaches the team to the device. An error says what is
     * missing and what to do. */
    status_t (*open)(struct team *team, struct error *error);
    void (*close)(struct team *team); /* of a team that was opened, or not */

    /* Returns when everything called so far is done. After an error of the device every later wait fails with the
     * same sentence, and what was computed since is worth nothing. */
    status_t (*wait)(struct team *team, struct error *error);

    /* Where a team's ops run. NULL where the backend is local. */
    void (*locate)(const struct team *team, struct location *location);

    /* Zeroed, 256-byte aligned. bytes > 0. */
    status_t (*allocate)(enum memory kind, size_t bytes, void **memory, struct error *error);
    void (*release)(enum memory kind, void *memory); /* NULL is fine */

    /* In order with the team's ops, like one of them. Either side may be any memory, the host's own included;
     * the host's own must stay as it is until `wait`. */
    void (*copy)(struct team *team, void *to, const void *from, size_t bytes);
    /* rows of row_bytes, with strides in bytes. */
    void (*copy_rows)(struct team *team, void *to, size_t to_stride, const void *from, size_t from_stride,
                      size_t row_bytes, int64_t rows);
    void (*zero)(struct team *team, void *memory, size_t bytes);

    /* Outside any team's order, and done when it returns: for memory that no op writes meanwhile, nor reads if it is `to`.
     * Either side may be any memory. Any thread, while a team is open; a device's error as of `wait`. */
    status_t (*copy_now)(void *to, const void *from, size_t bytes, struct error *error);

    /* --- dense layers ----------------------------------------------------------------------------------- */

    /* Takes a copy of w [n, k] and bias [n] (any dtype of `struct matrix`; NULL for none; bias->rows must be
     * n and columns 1). 16-bit weights stay 16 bits wide. */
    status_t (*linear_create)(const struct matrix *w, const struct matrix *bias, struct linear **linear,
                              struct error *error);
    void (*linear_destroy)(struct linear *linear); /* NULL is fine */
    size_t (*linear_bytes)(const struct linear *linear);

    /* Outputs [first, first + count) of a whole layer as a layer of their own, which reads the whole's weights (it has no bytes
     * itself) and must go before it. Its results are the whole's: the same bits where a product is not planned by its
     * shape (cuda: within the operand's rounding). Of a part there are no parts. */
    status_t (*linear_part)(const struct linear *whole, int first, int count, struct linear **part,
                            struct error *error);

    /* y[m, n] = epilogue(x[m, k] w^T + bias); x and y have row strides in elements. y may be epilogue->other.
     */
    void (*linear)(struct team *team, const struct linear *linear, const void *x, int64_t x_stride, int rows,
                   const struct epilogue *epilogue, void *y, int64_t y_stride);

    /* --- rows: statistics in float32 over the whole row ------------------------------------------------- */

    /* y = (x - mean) / sqrt(var + eps) * (base + scale) + shift, var the population variance. scale and shift
     * are [width]. base 1: modulation (adaLN); base 0: affine weights. scale and shift NULL: plain
     * normalisation. y may be x if both are float32. */
    void (*layer_norm)(struct team *team, const float *x, int64_t x_stride, int rows, int width, float eps,
                       float base, const float *scale, const float *shift, void *y, int64_t y_stride,
                       dtype_t y_dtype);

    /* y = x / sqrt(mean(x^2) + eps) * weight. weight [width]. x and y are of `dtype`; y may be x. */
    void (*rms_norm)(struct team *team, const void *x, int64_t x_stride, int rows, int width, float eps,
                     const float *weight, void *y, int64_t y_stride, dtype_t dtype);

    /* In place: rms_norm over the whole row, then rotate adjacent pairs of every head:
     * (a, b) -> (a c - b s, a s + b c). cosines, sines: [rows, head_dim / 2], the same for every head. */
    void (*rms_norm_rope)(struct team *team, void *x, int64_t x_stride, int rows, int heads, int head_dim,
                          float eps, const float *weight, const float *cosines, const float *sines,
                          dtype_t dtype);

    /* --- tokens ----------------------------------------------------------------------------------------- */

    /* rows [tokens, channels * patch_t * patch_y * patch_x]: what is inside each patch, ordered channel, t, y, x. */
    void (*cut_patches)(struct team *team, const struct patching *patching, const float *latent, void *rows,
                        dtype_t dtype);
    /* The way back, from rows ordered t, y, x, channel. */
    void (*join_patches)(struct team *team, const struct patching *patching, const float *rows,
                         float *latent);

    /* --- attention -------------------------------------------------------------------------------------- */

    /* out = softmax(scale q k^T + bias) v per head, no mask. No head's result depends on another. */
    void (*attention)(struct team *team, const struct attention *a);

    /* --- convolution ------------------------------------------------------------------------------------ */

    /* w is [out, in, kt, ky, kx] flattened to rows = out; bias [out] or NULL. Copied, held as float32. */
    status_t (*conv_create)(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias,
                            struct conv **conv, struct error *error);
    void (*conv_destroy)(struct conv *conv);
    size_t (*conv_bytes)(const struct conv *conv);

    /* y[t,y,x,o] = bias[o] + sum w[o,i,a,b,c] x[t*st + a, y*sy + b, x*sx + c, i] (+ residual[t,y,x,o] if not
     * NULL). `x->data` points at the first tap of output (0,0,0): padding is real memory of the caller, zeros
     * or a cached frame; x's own sizes are not read. With upsample2, y is [frames, 2h, 2w], x->data points at
     * pixel (-1, -1) of the *small* image [frames, h, w], which has one zero pixel all around. residual may
     * be y. Of 3x3 kernels with stride 1, a backend may compute 2x2 patches of pixels at once: a pixel's bits
     * then depend on its place in the image being even or odd, so whoever cuts an image cuts at even rows and
     * columns. */
    void (*conv)(struct team *team, const struct conv *conv, const struct volume *x,
                 const struct volume *residual, const struct volume *y);

    /* y = x / max(||x||_2, 1e-12) * sqrt(channels) * gamma over the channels of each pixel, then SiLU if
     * wanted. gamma [channels]. Sizes from x; y may be x. */
    void (*channel_norm)(struct team *team, const struct volume *x, const float *gamma, bool silu,
                         const struct volume *y);

    /* --- element-wise ----------------------------------------------------------------------------------- */

    /* y[i] = sum_j weights[j] * x[j][i], summed in order of j, each term rounded (no fused multiply-add),
     * terms 1..LINCOMB_TERMS. Guidance, solver steps and every forecast are this. y may be one of x. weights and
     * the array x are the host's, done with when this returns. */
    void (*lincomb)(struct team *team, int terms, const float *weights, const float *const *x, int64_t count,
                    float *y);

    /* The same with a set of weights for each group of rows: row r of x[j], y [rows, width] uses
     * weights[group[r] * terms + j]. y may be one of x. `group` is memory like x[j]; the array x and weights
     * [LINCOMB_GROUPS, terms], all of them there, are the host's. */
    void (*lincomb_rows)(struct team *team, int terms, const float *weights, const unsigned char *group,
                         const float *const *x, int64_t rows, int64_t width, float *y);

    /* --- caching ---------------------------------------------------------------------------------------- */

    /* Row by row of a and b [rows, width], the sums a verdict is made of: partials [rows][REDUCE_SUMS] in the
     * order of enum reduce_sum. A row's sums are made of 16 lanes in float32 (lane = column % 16) over at
     * most 1024 columns at a time, the lanes then widened and added in double in a fixed tree, blocks in
     * order: so they depend neither on threads nor on ranks nor on the instruction set. The caller adds rows
     * in token order; where it does that on the host, partials are MEMORY_SHARED. */
    void (*reduce2)(struct team *team, const float *a, const float *b, int64_t rows, int64_t width,
                    double *partials);

    /* y[o, i, c] = sum_k matrix[i, k] x[o, k, c], k in order: a linear map along one axis of a token lattice
     * (cosine transforms, spectral filters). x, y: [outer, n, inner]; matrix: [n, n]. y may not be x. */
    void (*mix)(struct team *team, const float *matrix, int64_t outer, int n, int64_t inner, const float *x,
                float *y);

    /* y = x / (1 + exp(-x)); y may be x. */
    void (*silu)(struct team *team, const float *x, int64_t count, float *y);

    /* --- recorded stretches: NULL where ops are local ------------------------------------------------------ */

    /* Ops called between the two are recorded and not run; replaying a stretch is calling them again, with the same
     * arguments, for the price of one. Not allowed in between: waiting, copies from or to the host's own memory, and
     * shapes that this team has not computed before. Numbers of the host (weights of sums, scales) are recorded as well;
     * tensors are read when it is replayed. An error of the two says why nothing was recorded: the device is none the
     * worse for it (or has failed, and waiting says so), and the ops may be called as ever. */
    status_t (*record)(struct team *team, struct error *error);
    status_t (*recorded)(struct team *team, struct stretch **stretch, struct error *error);
    void (*replay)(struct team *team, const struct stretch *stretch);
    void (*forget)(struct stretch *stretch); /* NULL is fine; not while it runs */
};

/* "ref", "cpu-avx2", "cpu-avx512", "cuda" or "auto" (a GPU where there is a usable one, else the fastest processor
 * backend). An error says what this machine lacks, and what to do. */
status_t ops_choose(const char *name, const struct ops **ops, struct error *error);

/* The same; NULL: unknown, or not on this machine. */
const struct ops *ops_find(const char *name);

/* The backends this machine's processor can run, "ref" first, NULL at the end. */
const struct ops *const *ops_available(void);

#endif
