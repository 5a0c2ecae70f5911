/*
 * channel_norm.cu - the VAE's norm over the channels of each pixel, with SiLU. Bound by memory: a pixel is read once
 * from it (and again from the cache) and written once, by 16 bytes.
 *
 * A group of 8 or 32 lanes has a pixel. Order of a pixel's sum, whatever else is computed: each lane adds the squares of
 * four neighbouring channels at a time, the lanes are folded by halves.
 */
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/launch.h"

enum { THREADS = 256, NARROW = 8, WIDE = 32, NARROW_CHANNELS = 128 };

/* Four channels from c on, zeros beyond the last. */
static __device__ __forceinline__ float4 load(const float *pixel, int c, int channels, bool chunked)
{
    if (chunked) return *(const float4 *)(pixel + c);
    return make_float4(pixel[c], c + 1 < channels ? pixel[c + 1] : 0, c + 2 < channels ? pixel[c + 2] : 0,
                       c + 3 < channels ? pixel[c + 3] : 0);
}

static __device__ __forceinline__ float finish(float value, float factor, float gamma, bool silu)
{
    value = value * factor * gamma;
    return silu ? value / (1.0f + expf(-value)) : value;
}

template <int LANES>
__global__ void __launch_bounds__(THREADS)
    channel_norm(struct volume x, const float *gamma, bool silu, struct volume y, bool chunked)
{
    int lane = threadIdx.x % LANES;
    int64_t pixel = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES;
    bool inside = pixel < (int64_t)x.frames * x.height * x.width; /* if not, stays for the shuffles */
    if (!inside) pixel = 0;
    int64_t line = pixel / x.width;
    int64_t t = line / x.height, row = line % x.height, column = pixel % x.width;
    const float *in = x.data + t * x.stride_t + row * x.stride_y + column * x.stride_x;
    float *out = y.data + t * y.stride_t + row * y.stride_y + column * y.stride_x;
    int channels = inside ? x.channels : 0;

    float squares = 0;
    GPU_UNROLL_BY(4) for (int c = lane * 4; c < channels; c += LANES * 4)
    {
        float4 v = load(in, c, channels, chunked);
        squares = fmaf(v.x, v.x, squares);
        squares = fmaf(v.y, v.y, squares);
        squares = fmaf(v.z, v.z, squares);
        squares = fmaf(v.w, v.w, squares);
        GPU_COUNT_READ(4 * min(4, channels - c));
    }
    GPU_UNROLL for (int step = LANES / 2; step; step /= 2) squares +=
        __shfl_xor_sync(0xffffffffu, squares, step);
    float factor = sqrtf((float)x.channels) / fmaxf(sqrtf(squares), 1e-12f);

    GPU_UNROLL_BY(4) for (int c = lane * 4; c < channels; c += LANES * 4)
    {
        float4 v = load(in, c, channels, chunked);
        float values[4] = {v.x, v.y, v.z, v.w};
        GPU_UNROLL for (int i = 0; i < 4; i++) values[i] =
            finish(values[i], factor, c + i < channels ? gamma[c + i] : 0, silu);
        if (chunked) {
            *(float4 *)(out + c) = make_float4(values[0], values[1], values[2], values[3]);
        } else {
            GPU_UNROLL for (int i = 0; i < 4; i++) if (c + i < channels) out[c + i] = values[i];
        }
        GPU_COUNT_WRITE(4 * min(4, channels - c));
    }
}

/* ------------------------------------------------------------------------------------------------------ launches */

static bool in_chunks(const struct volume *v)
{
    return (uintptr_t)v->data % 16 == 0 && v->stride_t % 4 == 0 && v->stride_y % 4 == 0 &&
           v->stride_x % 4 == 0;
}

extern "C" int cuda_channel_norm(void *stream, const struct volume *x, const float *gamma, bool silu,
                                 const struct volume *y)
{
    int64_t pixels = (int64_t)x->frames * x->height * x->width;
    bool chunked = x->channels % 4 == 0 && in_chunks(x) && in_chunks(y);
    int lanes = x->channels <= NARROW_CHANNELS ? NARROW : WIDE;
    unsigned blocks = (unsigned)((pixels * lanes + THREADS - 1) / THREADS);
    if (pixels < 1) return 0;
    if (lanes == NARROW)
        GPU_LAUNCH((channel_norm<NARROW>), blocks, THREADS, 0, (cudaStream_t)stream, *x, gamma, silu, *y,
                   chunked);
    else
        GPU_LAUNCH((channel_norm<WIDE>), blocks, THREADS, 0, (cudaStream_t)stream, *x, gamma, silu, *y,
                   chunked);
    return (int)cudaGetLastError();
}
