/* paper.c - see paper.h. The state is which ledger this thread counts in. */
#include "kernels/paper.h"

#include <stdlib.h>
#include <sys/mman.h>
#include "kernels/cuda/sizes.h"
#include "kernels/weights.h"

enum { PAGE = 4096 }; /* in front of a piece of memory: what is known of it */

static _Thread_local struct ledger *current;

struct piece {
    struct ledger *ledger;
    size_t bytes, mapped;
};

struct linear {
    struct ledger *ledger;
    size_t bytes;
};

struct conv {
    struct ledger *ledger;
    size_t bytes;
};

void paper_enter(struct ledger *ledger)
{
    current = ledger;
}

size_t paper_own_bytes(enum memory kind)
{
    const char *text = getenv("REFRAIN_GPU_WORKSPACE_MB");
    long megabytes = text ? strtol(text, NULL, 10) : 0;
    if (megabytes < 1) megabytes = LANE_PIECE_MEGABYTES;
    /* the second set of pinned buffers is for loading */
    return kind == MEMORY_DEVICE ? LANE_CUBLAS_BYTES + ((size_t)megabytes << 20)
                                 : 2 * (size_t)LANE_STAGES * LANE_STAGE_BYTES;
}

/* ------------------------------------------------------------------------------------------- execution and memory */

static status_t paper_open(struct team *team, struct error *error)
{
    return STATUS_OK;
}

static void paper_close(struct team *team) {}

static status_t paper_wait(struct team *team, struct error *error)
{
    return STATUS_OK;
}

static status_t paper_allocate(enum memory kind, size_t bytes, void **memory, struct error *error)
{
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    void *made = whole < bytes ? MAP_FAILED
                               : mmap(NULL, whole, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED)
        return error_set(error, STATUS_NO_MEMORY, "%.1f MB of addresses cannot be had", (double)bytes / 1e6);
    if (kind == MEMORY_DEVICE && mprotect((char *)made + PAGE, whole - PAGE, PROT_NONE) != 0) {
        munmap(made, whole);
        return error_set(error, STATUS_NO_MEMORY, "memory on paper cannot be made: %m");
    }
    *(struct piece *)made = (struct piece){current, bytes, whole};
    ledger_take(current, (enum ledger_kind)kind, bytes);
    *memory = (char *)made + PAGE;
    return STATUS_OK;
}

static void paper_release(enum memory kind, void *memory)
{
    if (!memory) return;
    struct piece *piece = (struct piece *)(void *)((char *)memory - PAGE);
    ledger_give(piece->ledger, (enum ledger_kind)kind, piece->bytes);
    munmap(piece, piece->mapped);
}

static void paper_copy(struct team *team, void *to, const void *from, size_t bytes) {}

static void paper_copy_rows(struct team *team, void *to, size_t to_stride, const void *from,
                            size_t from_stride, size_t row_bytes, int64_t rows)
{
}

static void paper_zero(struct team *team, void *memory, size_t bytes) {}

static status_t paper_copy_now(void *to, const void *from, size_t bytes, struct error *error)
{
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------------------ weights */

static status_t paper_linear_create(const struct matrix *w, const struct matrix *bias, struct linear **linear,
                                    struct error *error)
{
    status_t status = weights_check_linear(w, bias, error);
    if (status != STATUS_OK) return status;
    struct linear *made = malloc(sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for a weight on paper");
    *made = (struct linear){current, cuda_linear_sizes(w->rows, w->columns).bytes};
    ledger_take(current, LEDGER_WEIGHTS, made->bytes);
    *linear = made;
    return STATUS_OK;
}

static status_t paper_linear_part(const struct linear *whole, int first, int count, struct linear **part,
                                  struct error *error)
{
    struct linear *made = malloc(sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for a part of a weight on paper");
    *made = (struct linear){.ledger = whole->ledger};
    *part = made;
    return STATUS_OK;
}

static void paper_linear_destroy(struct linear *linear)
{
    if (linear) ledger_give(linear->ledger, LEDGER_WEIGHTS, linear->bytes);
    free(linear);
}

static size_t paper_linear_bytes(const struct linear *linear)
{
    return linear->bytes;
}

static status_t paper_conv_create(const struct conv_shape *shape, const struct matrix *w,
                                  const struct matrix *bias, struct conv **conv, struct error *error)
{
    status_t status = weights_check_conv(shape, w, bias, error);
    if (status != STATUS_OK) return status;
    struct conv *made = malloc(sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for a convolution on paper");
    *made = (struct conv){current, cuda_conv_size(shape) * sizeof(float)};
    ledger_take(current, LEDGER_WEIGHTS, made->bytes);
    *conv = made;
    return STATUS_OK;
}

static void paper_conv_destroy(struct conv *conv)
{
    if (conv) ledger_give(conv->ledger, LEDGER_WEIGHTS, conv->bytes);
    free(conv);
}

static size_t paper_conv_bytes(const struct conv *conv)
{
    return conv->bytes;
}

/* ---------------------------------------------------------------------------------------------- ops, which do nothing */

static void paper_linear(struct team *team, const struct linear *linear, const void *x, int64_t x_stride,
                         int rows, const struct epilogue *epilogue, void *y, int64_t y_stride)
{
}

static void paper_layer_norm(struct team *team, const float *x, int64_t x_stride, int rows, int width,
                             float eps, float base, const float *scale, const float *shift, void *y,
                             int64_t y_stride, dtype_t y_dtype)
{
}

static void paper_rms_norm(struct team *team, const void *x, int64_t x_stride, int rows, int width, float eps,
                           const float *weight, void *y, int64_t y_stride, dtype_t dtype)
{
}

static void paper_rms_norm_rope(struct team *team, void *x, int64_t x_stride, int rows, int heads,
                                int head_dim, float eps, const float *weight, const float *cosines,
                                const float *sines, dtype_t dtype)
{
}

static void paper_cut_patches(struct team *team, const struct patching *patching, const float *latent,
                              void *rows, dtype_t dtype)
{
}

static void paper_join_patches(struct team *team, const struct patching *patching, const float *rows,
                               float *latent)
{
}

static void paper_attention(struct team *team, const struct attention *a) {}

static void paper_conv(struct team *team, const struct conv *conv, const struct volume *x,
                       const struct volume *residual, const struct volume *y)
{
}

static void paper_channel_norm(struct team *team, const struct volume *x, const float *gamma, bool silu,
                               const struct volume *y)
{
}

static void paper_lincomb(struct team *team, int terms, const float *weights, const float *const *x,
                          int64_t count, float *y)
{
}

static void paper_lincomb_rows(struct team *team, int terms, const float *weights, const unsigned char *group,
                               const float *const *x, int64_t rows, int64_t width, float *y)
{
}

static void paper_reduce2(struct team *team, const float *a, const float *b, int64_t rows, int64_t width,
                          double *partials)
{
}

static void paper_mix(struct team *team, const float *matrix, int64_t outer, int n, int64_t inner,
                      const float *x, float *y)
{
}

static void paper_silu(struct team *team, const float *x, int64_t count, float *y) {}

const struct ops *paper_ops(void)
{
    static const struct ops ops = {
        .name = "paper",
        .paper = true,
        .operand = DTYPE_BF16,
        .open = paper_open,
        .close = paper_close,
        .wait = paper_wait,
        .allocate = paper_allocate,
        .release = paper_release,
        .copy = paper_copy,
        .copy_rows = paper_copy_rows,
        .zero = paper_zero,
        .copy_now = paper_copy_now,
        .linear_create = paper_linear_create,
        .linear_destroy = paper_linear_destroy,
        .linear_bytes = paper_linear_bytes,
        .linear_part = paper_linear_part,
        .linear = paper_linear,
        .layer_norm = paper_layer_norm,
        .rms_norm = paper_rms_norm,
        .rms_norm_rope = paper_rms_norm_rope,
        .cut_patches = paper_cut_patches,
        .join_patches = paper_join_patches,
        .attention = paper_attention,
        .conv_create = paper_conv_create,
        .conv_destroy = paper_conv_destroy,
        .conv_bytes = paper_conv_bytes,
        .conv = paper_conv,
        .channel_norm = paper_channel_norm,
        .lincomb = paper_lincomb,
        .lincomb_rows = paper_lincomb_rows,
        .reduce2 = paper_reduce2,
        .mix = paper_mix,
        .silu = paper_silu,
    };
    return &ops;
}
