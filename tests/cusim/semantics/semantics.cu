/* semantics.cu - see semantics.h. Compiled by nvcc as well as for the emulator. */
#include "kernels/cuda/gpu.h"
#include "tests/cusim/semantics/semantics.h"

static __device__ float warp_sum(float x)
{
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__global__ void sum_kernel(const float *x, float *out, int n)
{
    GPU_DYN_SMEM(float, part);
    int thread = threadIdx.x, threads = blockDim.x;
    float sum = 0;
    for (int i = blockIdx.x * threads + thread; i < n; i += gridDim.x * threads) {
        sum += x[i];
        GPU_COUNT_READ(sizeof(float));
        GPU_COUNT_FLOPS(1);
    }
    part[thread] = sum;
    __syncthreads();
    for (int half = threads / 2; half >= 32; half /= 2) {
        if (thread < half) part[thread] += part[thread + half];
        __syncthreads();
    }
    if (thread >= 32) return;
    sum = warp_sum(part[thread]);
    if (thread == 0) atomicAdd(out, sum);
}

extern "C" cudaError_t semantics_sum(cudaStream_t stream, const float *x, float *out, int n, int blocks,
                                     int threads)
{
    GPU_LAUNCH(sum_kernel, blocks, threads, threads * sizeof(float), stream, x, out, n);
    return cudaGetLastError();
}

__global__ void places_kernel(uint64_t *out)
{
    unsigned block[3] = {blockIdx.x, blockIdx.y, blockIdx.z},
             thread[3] = {threadIdx.x, threadIdx.y, threadIdx.z};
    unsigned blocks = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned threads = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[blocks * blockDim.x * blockDim.y * blockDim.z + threads] = semantics_place(block, thread);
}

extern "C" cudaError_t semantics_places(cudaStream_t stream, uint64_t *out, const unsigned grid[3],
                                        const unsigned block[3])
{
    GPU_LAUNCH(places_kernel, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), 0, stream,
               out);
    return cudaGetLastError();
}

__global__ void shuffles_kernel(const float *value, float *out, int by, int width)
{
    int lane = threadIdx.x;
    float x = value[lane];
    out[SHUFFLE_INDEX * 32 + lane] = __shfl_sync(0xffffffffu, x, by, width);
    out[SHUFFLE_UP * 32 + lane] = __shfl_up_sync(0xffffffffu, x, by, width);
    out[SHUFFLE_DOWN * 32 + lane] = __shfl_down_sync(0xffffffffu, x, by, width);
    out[SHUFFLE_XOR * 32 + lane] = __shfl_xor_sync(0xffffffffu, x, by, width);
}

extern "C" cudaError_t semantics_shuffles(cudaStream_t stream, const float *value, float *out, int by,
                                          int width)
{
    GPU_LAUNCH(shuffles_kernel, 1, 32, 0, stream, value, out, by, width);
    return cudaGetLastError();
}

__global__ void votes_kernel(const int *value, unsigned *out)
{
    int lane = threadIdx.x, x = value[lane];
    out[lane] = __ballot_sync(0xffffffffu, x);
    out[32 + lane] = __any_sync(0xffffffffu, x > 2);
    out[64 + lane] = __all_sync(0xffffffffu, x >= 0);
    out[96 + lane] = __match_any_sync(0xffffffffu, x);
    out[128 + lane] = __reduce_add_sync(0xffffffffu, x);
}

extern "C" cudaError_t semantics_votes(cudaStream_t stream, const int *value, unsigned *out)
{
    GPU_LAUNCH(votes_kernel, 1, 32, 0, stream, value, out);
    return cudaGetLastError();
}

__global__ void block_votes_kernel(const int *value, int *out)
{
    int thread = threadIdx.x, threads = blockDim.x, x = value[thread];
    out[thread] = __syncthreads_count(x);
    out[threads + thread] = __syncthreads_and(x) != 0;
    out[2 * threads + thread] = __syncthreads_or(x) != 0;
}

extern "C" cudaError_t semantics_block_votes(cudaStream_t stream, const int *value, int *out, int threads)
{
    GPU_LAUNCH(block_votes_kernel, 1, threads, 0, stream, value, out);
    return cudaGetLastError();
}

/* Barrier 1: the buffer is full. Barrier 2: it is empty again. */
__global__ void handover_kernel(const int *x, int *out, int rounds)
{
    __shared__ int buffer[32];
    int lane = threadIdx.x % 32;
    for (int round = 0; round < rounds; round++) {
        if (threadIdx.x < 32) {
            if (round > 0) gpu_barrier_sync(2, 64);
            buffer[lane] = 2 * x[round * 32 + lane];
            gpu_barrier_arrive(1, 64);
        } else {
            gpu_barrier_sync(1, 64);
            out[round * 32 + lane] = buffer[31 - lane];
            if (round + 1 < rounds) gpu_barrier_arrive(2, 64);
        }
    }
}

extern "C" cudaError_t semantics_handover(cudaStream_t stream, const int *x, int *out, int rounds)
{
    GPU_LAUNCH(handover_kernel, 1, 64, 0, stream, x, out, rounds);
    return cudaGetLastError();
}

__global__ void mma_bf16_kernel(const uint16_t *a, const uint16_t *b, const float *c, float *d,
                                int b_transposed)
{
    __shared__ __align__(16) uint16_t sa[16 * 16];
    __shared__ __align__(16) uint16_t sb[16 * 8];
    int lane = threadIdx.x, row = lane / 4, column = lane % 4 * 2;
    for (int i = lane; i < 16 * 16; i += 32) sa[i] = a[i];
    for (int i = lane; i < 16 * 8; i += 32) sb[i] = b[i];
    __syncwarp();
    uint32_t fa[4], fb[2];
    gpu_ldmatrix_x4(fa, &sa[lane % 16 * 16 + lane / 16 * 8]);
    if (b_transposed)
        gpu_ldmatrix_x2(fb, &sb[lane % 8 * 16 + lane / 8 % 2 * 8]);
    else
        gpu_ldmatrix_x2_trans(fb, &sb[lane % 16 * 8]);
    float sum[4] = {c[row * 8 + column], c[row * 8 + column + 1], c[(row + 8) * 8 + column],
                    c[(row + 8) * 8 + column + 1]};
    gpu_mma_bf16_m16n8k16(sum, fa, fb, sum);
    d[row * 8 + column] = sum[0];
    d[row * 8 + column + 1] = sum[1];
    d[(row + 8) * 8 + column] = sum[2];
    d[(row + 8) * 8 + column + 1] = sum[3];
}

extern "C" cudaError_t semantics_mma_bf16(cudaStream_t stream, const uint16_t *a, const uint16_t *b,
                                          const float *c, float *d, int b_transposed)
{
    GPU_LAUNCH(mma_bf16_kernel, 1, 32, 0, stream, a, b, c, d, b_transposed);
    return cudaGetLastError();
}

__global__ void mma_tf32_kernel(const float *a, const float *b, const float *c, float *d)
{
    int lane = threadIdx.x, row = lane / 4, at = lane % 4, column = at * 2;
    uint32_t fa[4] = {gpu_tf32(a[row * 8 + at]), gpu_tf32(a[(row + 8) * 8 + at]),
                      gpu_tf32(a[row * 8 + at + 4]), gpu_tf32(a[(row + 8) * 8 + at + 4])};
    uint32_t fb[2] = {gpu_tf32(b[at * 8 + row]), gpu_tf32(b[(at + 4) * 8 + row])};
    float sum[4], start[4] = {c[row * 8 + column], c[row * 8 + column + 1], c[(row + 8) * 8 + column],
                              c[(row + 8) * 8 + column + 1]};
    gpu_mma_tf32_m16n8k8(sum, fa, fb, start);
    d[row * 8 + column] = sum[0];
    d[row * 8 + column + 1] = sum[1];
    d[(row + 8) * 8 + column] = sum[2];
    d[(row + 8) * 8 + column + 1] = sum[3];
}

extern "C" cudaError_t semantics_mma_tf32(cudaStream_t stream, const float *a, const float *b, const float *c,
                                          float *d)
{
    GPU_LAUNCH(mma_tf32_kernel, 1, 32, 0, stream, a, b, c, d);
    return cudaGetLastError();
}

__global__ void ldmatrix_kernel(const uint16_t *rows, uint32_t *plain, uint32_t *transposed)
{
    __shared__ __align__(16) uint16_t staged[32 * 8];
    int lane = threadIdx.x;
    for (int i = 0; i < 8; i++) staged[lane * 8 + i] = rows[lane * 8 + i];
    __syncwarp();
    uint32_t out[4];
    gpu_ldmatrix_x4(out, &staged[lane * 8]);
    for (int i = 0; i < 4; i++) plain[i * 32 + lane] = out[i];
    gpu_ldmatrix_x4_trans(out, &staged[lane * 8]);
    for (int i = 0; i < 4; i++) transposed[i * 32 + lane] = out[i];
}

extern "C" cudaError_t semantics_ldmatrix(cudaStream_t stream, const uint16_t *rows, uint32_t *plain,
                                          uint32_t *transposed)
{
    GPU_LAUNCH(ldmatrix_kernel, 1, 32, 0, stream, rows, plain, transposed);
    return cudaGetLastError();
}

__global__ void copy_kernel(const float *x, float *y, int n, int valid)
{
    __shared__ __align__(16) float stage[2][512];
    int thread = threadIdx.x, tiles = (n + 511) / 512;
    for (int tile = -1; tile < tiles; tile++) {
        int next = tile + 1, at = next * 512 + thread * 4;
        if (next < tiles) gpu_cp_async16(&stage[next % 2][thread * 4], x + at, at < valid);
        gpu_cp_async_commit();
        if (tile < 0) continue;
        gpu_cp_async_wait<1>();
        __syncthreads();
        for (int i = thread; i < 512; i += 128)
            if (tile * 512 + i < n) y[tile * 512 + i] = stage[tile % 2][511 - i];
        __syncthreads();
    }
}

extern "C" cudaError_t semantics_copy(cudaStream_t stream, const float *x, float *y, int n, int valid)
{
    GPU_LAUNCH(copy_kernel, 1, 128, 0, stream, x, y, n, valid);
    return cudaGetLastError();
}

__global__ void unwritten_kernel(uint32_t *out)
{
    __shared__ uint32_t fixed[8];
    GPU_DYN_SMEM(uint32_t, dynamic);
    out[blockIdx.x * 2] = fixed[3];
    out[blockIdx.x * 2 + 1] = dynamic[3];
    fixed[3] = dynamic[3] = 7;
}

extern "C" cudaError_t semantics_unwritten(cudaStream_t stream, uint32_t *out, int blocks)
{
    GPU_LAUNCH(unwritten_kernel, blocks, 1, 64, stream, out);
    return cudaGetLastError();
}

__global__ void atomics_kernel(int *counters, float *sum, double *precise)
{
    int id = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&counters[0], id);
    atomicMax(&counters[1], id);
    atomicMin(&counters[2], -id);
    if (atomicCAS(&counters[3], 0, id + 1) == 0) atomicExch(&counters[4], id + 1);
    atomicAdd(sum, 0.5f);
    atomicAdd(precise, 0.25);
}

extern "C" cudaError_t semantics_atomics(cudaStream_t stream, int *counters, float *sum, double *precise,
                                         int blocks, int threads)
{
    GPU_LAUNCH(atomics_kernel, blocks, threads, 0, stream, counters, sum, precise);
    return cudaGetLastError();
}

__global__ void bf16_kernel(const float *x, uint16_t *out, float *back, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    __nv_bfloat16 b = __float2bfloat16(x[i]);
    out[i] = __bfloat16_as_ushort(b);
    back[i] = __bfloat162float(b);
}

extern "C" cudaError_t semantics_bf16(cudaStream_t stream, const float *x, uint16_t *out, float *back, int n)
{
    GPU_LAUNCH(bf16_kernel, (n + 255) / 256, 256, 0, stream, x, out, back, n);
    return cudaGetLastError();
}

/* Tiles of 64 x 64 x 32, four warps of 32 x 32, two stages. PITCH keeps the eight rows of an ldmatrix in
 * different banks. */
template <int PITCH>
__global__ void __launch_bounds__(128)
    gemm_kernel(const uint16_t *a, const uint16_t *b, float *c, int n, int k)
{
    __shared__ __align__(16) uint16_t sa[2][64 * PITCH];
    __shared__ __align__(16) uint16_t sb[2][64 * PITCH];
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    int m0 = blockIdx.y * 64, n0 = blockIdx.x * 64, warp_m = warp % 2 * 32, warp_n = warp / 2 * 32;
    float sum[2][4][4] = {};
    for (int tile = -1; tile < k / 32; tile++) {
        int k0 = (tile + 1) * 32, stage = (tile + 1) % 2;
        for (int piece = thread; piece < 256 && k0 < k; piece += 128) {
            int row = piece / 4, column = piece % 4 * 8;
            gpu_cp_async16(&sa[stage][row * PITCH + column], a + (int64_t)(m0 + row) * k + k0 + column, true);
            gpu_cp_async16(&sb[stage][row * PITCH + column], b + (int64_t)(n0 + row) * k + k0 + column, true);
        }
        gpu_cp_async_commit();
        if (tile < 0) continue;
        gpu_cp_async_wait<1>();
        __syncthreads();
        const uint16_t *ta = sa[tile % 2], *tb = sb[tile % 2];
        for (int step = 0; step < 32; step += 16) {
            uint32_t fa[2][4], fb[2][4];
            for (int i = 0; i < 2; i++) {
                gpu_ldmatrix_x4(fa[i], &ta[(warp_m + i * 16 + lane % 16) * PITCH + step + lane / 16 * 8]);
                gpu_ldmatrix_x4(
                    fb[i],
                    &tb[(warp_n + i * 16 + lane % 8 + lane / 16 * 8) * PITCH + step + lane / 8 % 2 * 8]);
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++)
                    gpu_mma_bf16_m16n8k16(sum[i][j], fa[i], &fb[j / 2][j % 2 * 2], sum[i][j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int row = m0 + warp_m + i * 16 + e / 2 * 8 + lane / 4,
                    column = n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
                c[(int64_t)row * n + column] = sum[i][j][e];
            }
}

extern "C" cudaError_t semantics_gemm(cudaStream_t stream, const uint16_t *a, const uint16_t *b, float *c,
                                      int m, int n, int k)
{
    GPU_LAUNCH(gemm_kernel<40>, dim3(n / 64, m / 64), 128, 0, stream, a, b, c, n, k);
    return cudaGetLastError();
}

template <int THREADS, bool COUNTED> __global__ void scale_kernel(float *x, int n, float by)
{
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    x[i] *= by;
    if (COUNTED) GPU_COUNT_WRITE(sizeof(float));
}

extern "C" cudaError_t semantics_scale(cudaStream_t stream, float *x, int n, float by)
{
    GPU_LAUNCH((scale_kernel<64, true>), (n + 63) / 64, 64, 0, stream, x, n, by);
    return cudaGetLastError();
}
