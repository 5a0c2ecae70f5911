/*
 * conv.cu - convolutions over channels-last volumes on tensor cores: float32 in memory, tf32 products, float32 sums.
 *
 * An implicit matrix product (conv.h): a block of eight warps computes 256 output pixels by COLUMNS channels; pixels are
 * read where they lie, step by step, nothing is unfolded in memory, and padding is real memory of the caller. Four
 * stages of 16 channels pass through shared memory by cp.async: three are on their way while one is multiplied.
 * Pixels are rounded to tf32 (to nearest) on their way from shared memory to the tensor cores, weights were when packed.
 *
 * Order of sums of one output, whatever else is computed: steps in the order of conv.h, each in two products of eight
 * channels; then the bias; then the residual.
 *
 * Shared memory: rows of four 16-byte chunks, chunk c of row r at place c ^ (r / 2 mod 4), so that the eight rows
 * ldmatrix touches at once (32 bits being half of a pair of its 16) lie in different banks.
 */
#include "kernels/cuda/conv.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/launch.h"

enum {
    PIXELS = 256,
    WARPS_DOWN = 4, /* of a block: 4 x 64 pixels, 2 x half of the columns */
    WARPS_ACROSS = 2,
    THREADS = 32 * WARPS_DOWN * WARPS_ACROSS,
    PIXEL_TILES = PIXELS / WARPS_DOWN / 16,
    STAGES = 4,
    CHUNKS = CONV_STEP / 4,
    PASSES = PIXELS * CHUNKS / THREADS, /* pixels of a stage that one thread copies a chunk of */
    MMA_FLOPS = 2 * 16 * 8 * 8,
};

struct conv_arguments {
    struct volume x, y, residual; /* residual.data NULL for none */
    const float *weights, *bias;
    struct conv_layout layout;
    int in_channels, out_channels;
    int stride_t, stride_y, stride_x, doubling; /* doubling: 2 with upsample2, else 1 */
    int height, width;                          /* of one part's output */
    int64_t pixels;
    bool chunked; /* x can be copied by 16 bytes */
    bool pairs;   /* y and residual can be touched by 8 */
};

/* Floats. */
static __device__ __forceinline__ int place(int row, int chunk)
{
    return row * CONV_STEP + (chunk ^ (row / 2 & 3)) * 4;
}

struct conv_pixel {
    int t, y, x;
};

static __device__ __forceinline__ conv_pixel pixel_at(const conv_arguments &a, int64_t pixel)
{
    int64_t line = pixel / a.width;
    return {(int)(line / a.height), (int)(line % a.height), (int)(pixel % a.width)};
}

/* Walks through the steps: how far a tap's channels are from the first tap's, in floats, and which channel is first. */
struct conv_cursor {
    int64_t offset;
    int channel, t, y, x;
};

static __device__ __forceinline__ void cursor_next(conv_cursor &c, const conv_arguments &a)
{
    if (++c.x == a.layout.kernel_x) {
        c.x = 0;
        if (++c.y == a.layout.kernel_y) {
            c.y = 0;
            if (++c.t == a.layout.kernel_t) c.t = 0, c.channel += CONV_STEP;
        }
    }
    c.offset = c.t * a.x.stride_t + c.y * a.x.stride_y + c.x * a.x.stride_x + c.channel;
}

/* One chunk of a pixel where copies of 16 bytes are not possible: the odd channel counts of a first layer. */
static __device__ __forceinline__ void copy_floats(float *to, const float *from, int count)
{
    float values[4];
    GPU_UNROLL for (int i = 0; i < 4; i++)
    {
        values[i] = i < count ? from[i] : 0;
        GPU_COUNT_READ(i < count ? 4 : 0);
    }
    *(float4 *)to = make_float4(values[0], values[1], values[2], values[3]);
}

/* Starts copying a step's pixels and weights into a stage. */
template <int COLUMNS>
static __device__ __forceinline__ void load_stage(float *stage, const conv_arguments &a,
                                                  const conv_cursor &cursor,
                                                  const float *const pixels[PASSES], const float *weights)
{
    int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, channel = cursor.channel + chunk * 4;
    float *to = stage + place(row, chunk); /* the same place in every pass: rows are a multiple of 8 apart */
    GPU_UNROLL for (int i = 0; i < PASSES; i++)
    {
        const float *from = pixels[i] + cursor.offset;
        float *here = to + i * (THREADS / CHUNKS) * CONV_STEP;
        if (a.chunked) {
            bool valid = channel < a.in_channels;
            gpu_cp_async16_cached(here, valid ? from : pixels[i],
                                  valid); /* most come again for the next tap */
            GPU_COUNT_READ(valid ? 16 : 0);
        } else {
            copy_floats(here, from, a.in_channels - channel);
        }
    }
    float *panel = stage + PIXELS * CONV_STEP;
    GPU_UNROLL for (int i = threadIdx.x; i < COLUMNS * CHUNKS; i += THREADS)
    {
        gpu_cp_async16(panel + place(i / CHUNKS, i % CHUNKS), weights + i * 4, true);
        GPU_COUNT_READ(16);
    }
}

/* Adds a stage's products to a warp's sums. */
template <int COLUMNS>
static __device__ __forceinline__ void multiply(float sums[PIXEL_TILES][COLUMNS / 16][4], const float *stage)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float *pixels = stage, *panel = stage + PIXELS * CONV_STEP;
    int pixel = warp / WARPS_ACROSS * (PIXEL_TILES * 16), column = warp % WARPS_ACROSS * (COLUMNS / 2);
    uint32_t b[COLUMNS / 16][4]; /* two halves of the step, two of each half */
    GPU_UNROLL for (int n = 0; n < COLUMNS / 16; n++)
        gpu_ldmatrix_x4(b[n], panel + place(column + n * 8 + lane % 8, lane / 8));
    GPU_UNROLL for (int half = 0; half < 2; half++) GPU_UNROLL for (int m = 0; m < PIXEL_TILES; m++)
    {
        uint32_t a[4];
        gpu_ldmatrix_x4(a, pixels + place(pixel + m * 16 + lane % 16, half * 2 + lane / 16));
        GPU_UNROLL for (int i = 0; i < 4; i++) a[i] = gpu_tf32(__uint_as_float(a[i]));
        GPU_UNROLL for (int n = 0; n < COLUMNS / 16; n++)
        {
            gpu_mma_tf32_m16n8k8(sums[m][n], a, b[n] + half * 2, sums[m][n]);
            GPU_COUNT_FLOPS(MMA_FLOPS / 32);
        }
    }
}

/* Two neighbouring channels of one pixel; the second may not be there. */
static __device__ __forceinline__ void store_pair(const conv_arguments &a, const conv_pixel &p, int column,
                                                  float first, float second)
{
    float *to = a.y.data + p.t * a.y.stride_t + p.y * a.y.stride_y + p.x * a.y.stride_x + column;
    const float *from = a.residual.data;
    if (from)
        from += p.t * a.residual.stride_t + p.y * a.residual.stride_y + p.x * a.residual.stride_x + column;
    bool both = column + 1 < a.out_channels;
    first += a.bias[column], second += a.bias[column + 1];
    if (a.pairs && both) {
        if (from) {
            float2 other = *(const float2 *)from;
            first += other.x, second += other.y;
        }
        *(float2 *)to = make_float2(first, second);
    } else {
        to[0] = from ? first + from[0] : first;
        if (both) to[1] = from ? second + from[1] : second;
    }
    GPU_COUNT_READ(from ? both ? 8 : 4 : 0);
    GPU_COUNT_WRITE(both ? 8 : 4);
}

/* Column blocks of the same pixels follow each other. blockIdx.y is the part. */
template <int COLUMNS> __global__ void __launch_bounds__(THREADS, 1) conv_product(struct conv_arguments a)
{
    constexpr int STAGE = (PIXELS + COLUMNS) * CONV_STEP; /* floats */
    GPU_DYN_SMEM(float, stages);
    int block = blockIdx.x % a.layout.column_blocks, part = blockIdx.y;
    int64_t first = (int64_t)(blockIdx.x / a.layout.column_blocks) * PIXELS;
    const float *weights = a.weights + (part * a.layout.column_blocks + block) * a.layout.block_floats;

    const float *pixels[PASSES]; /* first tap of the pixels whose chunk this thread copies */
    GPU_UNROLL for (int i = 0; i < PASSES; i++)
    {
        int64_t pixel = first + threadIdx.x / CHUNKS + i * (THREADS / CHUNKS);
        conv_pixel p = pixel_at(a, pixel < a.pixels ? pixel : a.pixels - 1);
        pixels[i] = a.x.data + p.t * a.stride_t * a.x.stride_t +
                    (p.y * a.stride_y + part / 2) * a.x.stride_y +
                    (p.x * a.stride_x + part % 2) * a.x.stride_x + threadIdx.x % CHUNKS * 4;
    }
    float sums[PIXEL_TILES][COLUMNS / 16][4];
    GPU_UNROLL for (int m = 0; m < PIXEL_TILES; m++) GPU_UNROLL for (int n = 0; n < COLUMNS / 16; n++)
        GPU_UNROLL for (int i = 0; i < 4; i++) sums[m][n][i] = 0;

    conv_cursor cursor = {0, 0, 0, 0, 0};
    int loaded = 0;
    for (; loaded < STAGES - 1; loaded++) {
        if (loaded < a.layout.steps)
            load_stage<COLUMNS>(stages + loaded * STAGE, a, cursor, pixels,
                                weights + (int64_t)loaded * COLUMNS * CONV_STEP);
        cursor_next(cursor, a);
        gpu_cp_async_commit();
    }
    for (int step = 0; step < a.layout.steps; step++, loaded++) {
        gpu_cp_async_wait<STAGES - 2>();
        __syncthreads(); /* this step's stage is there, and nobody needs the last step's */
        if (loaded < a.layout.steps)
            load_stage<COLUMNS>(stages + loaded % STAGES * STAGE, a, cursor, pixels,
                                weights + (int64_t)loaded * COLUMNS * CONV_STEP);
        cursor_next(cursor, a);
        gpu_cp_async_commit();
        multiply<COLUMNS>(sums, stages + step % STAGES * STAGE);
    } /* every copy was waited for: the last groups are empty */

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int column = block * COLUMNS + warp % WARPS_ACROSS * (COLUMNS / 2) + lane % 4 * 2;
    GPU_UNROLL for (int m = 0; m < PIXEL_TILES; m++) GPU_UNROLL for (int half = 0; half < 2; half++)
    {
        int64_t pixel = first + warp / WARPS_ACROSS * (PIXEL_TILES * 16) + m * 16 + half * 8 + lane / 4;
        if (pixel >= a.pixels) continue;
        conv_pixel p = pixel_at(a, pixel);
        p.y = p.y * a.doubling + part / 2, p.x = p.x * a.doubling + part % 2;
        GPU_UNROLL for (int n = 0; n < COLUMNS / 16; n++) if (column + n * 8 < a.out_channels)
            store_pair(a, p, column + n * 8, sums[m][n][half * 2], sums[m][n][half * 2 + 1]);
    }
}

/* ------------------------------------------------------------------------------------------------------ launches */

template <int COLUMNS> static int launch(cudaStream_t stream, const struct conv_arguments *a)
{
    constexpr int BYTES = STAGES * (PIXELS + COLUMNS) * CONV_STEP * (int)sizeof(float);
    unsigned blocks = (unsigned)((a->pixels + PIXELS - 1) / PIXELS * a->layout.column_blocks);
    cudaFuncSetAttribute(conv_product<COLUMNS>, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    GPU_LAUNCH((conv_product<COLUMNS>), dim3(blocks, (unsigned)a->layout.parts), THREADS, BYTES, stream, *a);
    return (int)cudaGetLastError();
}

/* Whether every pixel's channels begin at a multiple of `floats` floats. */
static bool aligned(const struct volume *v, int floats)
{
    return (uintptr_t)v->data % ((size_t)floats * 4) == 0 && v->stride_t % floats == 0 &&
           v->stride_y % floats == 0 && v->stride_x % floats == 0;
}

extern "C" int cuda_conv(void *stream, const struct conv_shape *shape, const float *packed,
                         const struct volume *x, const struct volume *residual, const struct volume *y)
{
    struct conv_arguments a = {};
    a.x = *x, a.y = *y;
    if (residual) a.residual = *residual;
    a.layout = conv_layout_of(shape);
    a.weights = packed;
    a.bias = packed + conv_weight_floats(&a.layout);
    a.in_channels = shape->in_channels, a.out_channels = shape->out_channels;
    a.stride_t = shape->stride_t, a.stride_y = shape->stride_y, a.stride_x = shape->stride_x;
    a.doubling = shape->upsample2 ? 2 : 1;
    a.height = y->height / a.doubling, a.width = y->width / a.doubling;
    a.pixels = (int64_t)y->frames * a.height * a.width;
    a.chunked = aligned(x, 4) && shape->in_channels % 4 == 0;
    a.pairs = aligned(y, 2) && (!residual || aligned(residual, 2));
    if (a.pixels < 1) return 0;
    switch (a.layout.columns) {
    case 16:
        return launch<16>((cudaStream_t)stream, &a);
    case 64:
        return launch<64>((cudaStream_t)stream, &a);
    case 96:
        return launch<96>((cudaStream_t)stream, &a);
    default:
        return launch<128>((cudaStream_t)stream, &a);
    }
}
