/*
 * attention.cu - softmax(q k^T) v on tensor cores: bf16 in and out, float32 sums, no row of logits ever in memory.
 *
 * A block has one head and ROWS q rows; each of its four warps has 16 ROW_TILES of them to itself: their logits against
 * a tile of KV kv rows, their weights, their output, all in registers. k and v pass through shared memory, each in a
 * buffer of its own: while logits are computed v of this tile arrives, while weights and output are computed k of the
 * next. (FlashAttention-2, arXiv:2307.08691; online softmax, arXiv:1805.02867.)
 *
 * Order of sums of one output row, whatever else is computed: kv rows in tiles from row 0; in a tile logits are chains
 * over the head in steps of 16; the new maximum rescales what was summed before; four threads sum the weights of the
 * columns they hold (two of every eight), folded at the end; p v adds the tile's rows in steps of 16. So a row's bits
 * depend on kv_rows and the device's kind, and not on q_rows.
 *
 * Shared memory: rows of 16-byte chunks, chunk c of row r at place c ^ (r mod 8): eight rows that ldmatrix or a warp's
 * copies touch at once lie in different banks.
 */
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/launch.h"

typedef __nv_bfloat16 bf16;

enum {
    THREADS = 128,
    WARPS = THREADS / 32,
    CHUNK = 8 /* elements of 16 bytes */,
    MMA_FLOPS = 2 * 16 * 8 * 16
};

/* Where chunk `chunk` of row `row` is in a tile of D columns, in elements. */
template <int D> static __device__ __forceinline__ int place(int row, int chunk)
{
    return row * D + (chunk ^ (row & 7)) * CHUNK;
}

/* Where chunk 2 i + (0 or 1) is, when chunk 0 (or 1) of that row is at `at`: places differ by one exclusive or. */
static __device__ __forceinline__ int pair_place(int at, int i)
{
    return at ^ i * 2 * CHUNK;
}

/* Starts copying rows [first, first + ROWS) of a head; rows from `rows` on and columns from `columns` on become zeros. */
template <int ROWS, int D>
static __device__ __forceinline__ void load_tile(bf16 *to, const bf16 *from, int64_t stride, int first,
                                                 int rows, int columns)
{
    constexpr int CHUNKS = D / CHUNK, STEP = THREADS / CHUNKS; /* rows the block copies at once */
    int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const bf16 *at = from + (first + row) * stride + chunk * CHUNK;
    bf16 *place_at = to + place<D>(row, chunk); /* STEP is a multiple of 4: only its parity moves the place */
    GPU_UNROLL for (int i = 0; i < ROWS / STEP; i++)
    {
        bool valid = first + row + i * STEP < rows && chunk * CHUNK < columns;
        bf16 *here = STEP % 8 == 0 ? place_at + i * STEP * D : to + place<D>(row + i * STEP, chunk);
        gpu_cp_async16(here, valid ? at + i * STEP * stride : from, valid);
        GPU_COUNT_READ(valid ? 16 : 0);
    }
}

/* What a warp knows of its rows: lane l holds rows l / 4 and l / 4 + 8 of every 16. */
template <int D, int KV, int ROW_TILES> struct attention_rows {
    float out[ROW_TILES][D / 8][4];     /* not yet divided by the sum */
    float logits[ROW_TILES][KV / 8][4]; /* of the current tile, then weights */
    float largest[ROW_TILES]
                 [2]; /* running maxima of scaled logits in powers of two, the same in a row's lanes */
    float total[ROW_TILES][2]; /* running sums of this lane's weights */
};

/* logits = q k^T of a warp's rows, which begin at `q`. */
template <int D, int KV, int ROW_TILES>
static __device__ __forceinline__ void attention_logits(attention_rows<D, KV, ROW_TILES> &rows, const bf16 *q,
                                                        const bf16 *k)
{
    int lane = threadIdx.x % 32;
    int q_at = place<D>(lane % 16, lane / 16), k_at = place<D>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    GPU_UNROLL for (int m = 0; m < ROW_TILES; m++) GPU_UNROLL for (int n = 0; n < KV / 8; n++)
        GPU_UNROLL for (int i = 0; i < 4; i++) rows.logits[m][n][i] = 0;
    GPU_UNROLL for (int step = 0; step < D / 16; step++)
    {
        uint32_t a[ROW_TILES][4];
        GPU_UNROLL for (int m = 0; m < ROW_TILES; m++)
            gpu_ldmatrix_x4(a[m], q + m * 16 * D + pair_place(q_at, step));
        GPU_UNROLL for (int n = 0; n < KV / 16; n++)
        {
            uint32_t b[4]; /* two columns of tiles, two halves of the step */
            gpu_ldmatrix_x4(b, k + n * 16 * D + pair_place(k_at, step));
            GPU_UNROLL for (int m = 0; m < ROW_TILES; m++)
            {
                gpu_mma_bf16_m16n8k16(rows.logits[m][2 * n], a[m], b, rows.logits[m][2 * n]);
                gpu_mma_bf16_m16n8k16(rows.logits[m][2 * n + 1], a[m], b + 2, rows.logits[m][2 * n + 1]);
                GPU_COUNT_FLOPS(2 * MMA_FLOPS / 32);
            }
        }
    }
}

/* The last tile: logits are scaled here, the last row has its extra, and beyond it there is nothing. */
template <int D, int KV, int ROW_TILES>
static __device__ __forceinline__ void attention_end(attention_rows<D, KV, ROW_TILES> &rows, int kv_rows,
                                                     float scale, float last_logit)
{
    int lane = threadIdx.x % 32;
    GPU_UNROLL for (int n = 0; n < KV / 8; n++) GPU_UNROLL for (int i = 0; i < 4; i++)
    {
        int column = n * 8 + lane % 4 * 2 + i % 2;
        GPU_UNROLL for (int m = 0; m < ROW_TILES; m++)
        {
            float logit = rows.logits[m][n][i] * scale;
            if (column == kv_rows - 1) logit += last_logit;
            rows.logits[m][n][i] = column < kv_rows ? logit : -INFINITY;
        }
    }
}

/* Logits, times scale, become weights; what was summed before is rescaled to the new maximum. */
template <int D, int KV, int ROW_TILES>
static __device__ __forceinline__ void attention_weigh(attention_rows<D, KV, ROW_TILES> &rows, float scale)
{
    GPU_UNROLL for (int m = 0; m < ROW_TILES; m++) GPU_UNROLL for (int half = 0; half < 2; half++)
    {
        float largest = -INFINITY;
        GPU_UNROLL for (int n = 0; n < KV / 8; n++) largest =
            fmaxf(largest, fmaxf(rows.logits[m][n][half * 2], rows.logits[m][n][half * 2 + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        largest = fmaxf(rows.largest[m][half], largest * scale);
        float rescale = gpu_exp2(rows.largest[m][half] - largest);
        rows.largest[m][half] = largest;

        float sum = rows.total[m][half] * rescale;
        GPU_UNROLL for (int n = 0; n < KV / 8; n++) GPU_UNROLL for (int i = half * 2; i < half * 2 + 2; i++)
        {
            float weight = gpu_exp2(fmaf(rows.logits[m][n][i], scale, -largest));
            rows.logits[m][n][i] = weight;
            sum += weight;
        }
        rows.total[m][half] = sum;
        GPU_UNROLL for (int n = 0; n < D / 8; n++)
        {
            rows.out[m][n][half * 2] *= rescale;
            rows.out[m][n][half * 2 + 1] *= rescale;
        }
    }
}

/* out += weights v */
template <int D, int KV, int ROW_TILES>
static __device__ __forceinline__ void attention_add(attention_rows<D, KV, ROW_TILES> &rows, const bf16 *v)
{
    int lane = threadIdx.x % 32, v_at = place<D>(lane % 16, lane / 16);
    GPU_UNROLL for (int step = 0; step < KV / 16; step++)
    {
        uint32_t a[ROW_TILES][4];
        GPU_UNROLL for (int m = 0; m < ROW_TILES; m++) GPU_UNROLL for (int i = 0; i < 4; i++)
        {
            const float *pair = rows.logits[m][2 * step + i / 2] + i % 2 * 2;
            a[m][i] = gpu_pack_bf16(pair[0], pair[1]);
        }
        GPU_UNROLL for (int n = 0; n < D / 16; n++)
        {
            uint32_t b[4];
            gpu_ldmatrix_x4_trans(b, v + step * 16 * D + pair_place(v_at, n));
            GPU_UNROLL for (int m = 0; m < ROW_TILES; m++)
            {
                gpu_mma_bf16_m16n8k16(rows.out[m][2 * n], a[m], b, rows.out[m][2 * n]);
                gpu_mma_bf16_m16n8k16(rows.out[m][2 * n + 1], a[m], b + 2, rows.out[m][2 * n + 1]);
                GPU_COUNT_FLOPS(2 * MMA_FLOPS / 32);
            }
        }
    }
}

/* Divides by the sums and writes a warp's rows, the first of which is `first`, by way of `shared`, where its q was (read
 * last before the last barrier): each store of the warp is of whole chunks. */
template <int D, int KV, int ROW_TILES>
static __device__ __forceinline__ void attention_store(attention_rows<D, KV, ROW_TILES> &rows, bf16 *shared,
                                                       const struct attention &a, int first)
{
    int lane = threadIdx.x % 32;
    GPU_UNROLL for (int m = 0; m < ROW_TILES; m++) GPU_UNROLL for (int half = 0; half < 2; half++)
    {
        float total = rows.total[m][half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        float inverse = 1.0f / total;
        int row = m * 16 + half * 8 + lane / 4;
        GPU_UNROLL for (int n = 0; n < D / 8; n++) * (uint32_t *)(shared + place<D>(row, n) + lane % 4 * 2) =
            gpu_pack_bf16(rows.out[m][n][half * 2] * inverse, rows.out[m][n][half * 2 + 1] * inverse);
    }
    __syncwarp();
    bf16 *out = (bf16 *)a.out + (int64_t)blockIdx.y * a.head_dim;
    for (int i = lane; i < ROW_TILES * 16 * (D / CHUNK); i += 32) {
        int row = i / (D / CHUNK), chunk = i % (D / CHUNK);
        if (first + row >= a.q_rows || chunk * CHUNK >= a.head_dim) continue;
        *(uint4 *)(out + (first + row) * a.out_stride + chunk * CHUNK) =
            *(const uint4 *)(shared + place<D>(row, chunk));
        GPU_COUNT_WRITE(16);
    }
}

/* Blocks of a head follow each other: they read the same k and v at about the same time. */
template <int D, int KV, int ROW_TILES>
__global__ void __launch_bounds__(THREADS, 2) attention_flash(struct attention a)
{
    constexpr int ROWS = WARPS * ROW_TILES * 16;
    GPU_DYN_SMEM(bf16, q);
    bf16 *k = q + ROWS * D, *v = k + KV * D;
    const bf16 *k_head = (const bf16 *)a.k + (int64_t)blockIdx.y * a.head_dim;
    const bf16 *v_head = (const bf16 *)a.v + (int64_t)blockIdx.y * a.head_dim;
    int warp_row = threadIdx.x / 32 * ROW_TILES * 16, tiles = (a.kv_rows + KV - 1) / KV;
    const float log2_e = 1.44269504088896341f;

    attention_rows<D, KV, ROW_TILES> rows;
    GPU_UNROLL for (int m = 0; m < ROW_TILES; m++)
    {
        GPU_UNROLL for (int half = 0; half < 2; half++) rows.largest[m][half] = -INFINITY,
                                                        rows.total[m][half] = 0;
        GPU_UNROLL for (int n = 0; n < D / 8; n++) GPU_UNROLL for (int i = 0; i < 4; i++) rows.out[m][n][i] =
            0;
    }

    load_tile<ROWS, D>(q, (const bf16 *)a.q + (int64_t)blockIdx.y * a.head_dim, a.q_stride, blockIdx.x * ROWS,
                       a.q_rows, a.head_dim);
    load_tile<KV, D>(k, k_head, a.k_stride, 0, a.kv_rows, a.head_dim);
    gpu_cp_async_commit();
    for (int tile = 0; tile < tiles; tile++) {
        gpu_cp_async_wait<0>();
        __syncthreads(); /* k is there, and nobody needs the last v */
        load_tile<KV, D>(v, v_head, a.v_stride, tile * KV, a.kv_rows, a.head_dim);
        gpu_cp_async_commit();
        attention_logits<D, KV, ROW_TILES>(rows, q + warp_row * D, k);

        gpu_cp_async_wait<0>();
        __syncthreads(); /* v is there, and nobody needs this k */
        if (tile + 1 < tiles) load_tile<KV, D>(k, k_head, a.k_stride, (tile + 1) * KV, a.kv_rows, a.head_dim);
        gpu_cp_async_commit();
        float scale = a.scale * log2_e;
        if (tile == tiles - 1) {
            attention_end(rows, a.kv_rows - tile * KV, scale, a.last_logit * log2_e);
            scale = 1;
        }
        attention_weigh(rows, scale);
        attention_add(rows, v);
    }
    attention_store(rows, q + warp_row * D, a, blockIdx.x * ROWS + warp_row);
}

/* ------------------------------------------------------------------------------------------------------ launches */

template <int D, int KV, int ROW_TILES> static int launch(cudaStream_t stream, const struct attention *a)
{
    constexpr int ROWS = WARPS * ROW_TILES * 16, BYTES = (ROWS + 2 * KV) * D * (int)sizeof(bf16);
    unsigned blocks = (unsigned)((a->q_rows + ROWS - 1) / ROWS);
    cudaFuncSetAttribute(attention_flash<D, KV, ROW_TILES>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         BYTES);
    GPU_LAUNCH((attention_flash<D, KV, ROW_TILES>), dim3(blocks, (unsigned)a->heads), THREADS, BYTES, stream,
               *a);
    return (int)cudaGetLastError();
}

/* Whether two blocks with kv tiles of 64 rows of 128 columns fit a multiprocessor: 164 KB and more (sm_80, 90, 100) do,
 * 100 KB (sm_86, 89, 120) do not. */
static bool has_large_shared_memory(void)
{
    enum { BLOCK_KB = 64 + 1, BLOCKS = 2 };
    int device = 0, bytes = 0;
    if (cudaGetDevice(&device) ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device))
        return false;
    return bytes >= BLOCKS * BLOCK_KB * 1024;
}

static bool in_chunks(const void *data, int64_t stride)
{
    return (uintptr_t)data % 16 == 0 && stride % CHUNK == 0;
}

extern "C" int cuda_attention(void *stream, const struct attention *a)
{
    bool suits = a->dtype == DTYPE_BF16 && !a->bias && a->scale >= 0 && a->head_dim <= 256 &&
                 a->head_dim % CHUNK == 0 && in_chunks(a->q, a->q_stride) && in_chunks(a->k, a->k_stride) &&
                 in_chunks(a->v, a->v_stride) && in_chunks(a->out, a->out_stride);
    if (!suits) return cuda_attention_any(stream, a);
    if (a->q_rows < 1) return 0;
    if (a->head_dim <= 64) return launch<64, 64, 2>((cudaStream_t)stream, a);
    if (a->head_dim > 128) return launch<256, 32, 1>((cudaStream_t)stream, a);
    return has_large_shared_memory() ? launch<128, 64, 2>((cudaStream_t)stream, a)
                                     : launch<128, 32, 2>((cudaStream_t)stream, a);
}
