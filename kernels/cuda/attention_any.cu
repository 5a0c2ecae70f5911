/*
 * attention_any.cu - softmax(q k^T + bias) v in float32 arithmetic, for float32 or bf16 of any width up to 512 and any
 * alignment: the text encoder (with its bias by distance), the VAE's one wide head, odd shapes.
 *
 * A block of 128 threads has one head and 32 q rows, and goes through kv rows in tiles of 64. Threads stand 8 down and
 * 16 across: each has four rows (y, y + 8, ...) and of these four logits (columns x, x + 16, ...), then four columns of
 * every 64 of the output. k and v pass through one buffer of 64x64.
 *
 * Order of sums of one output row, whatever else is computed: kv rows in tiles from row 0; a logit is one chain of
 * fused multiply-adds over the head; each thread sums its four weights of a row, the 16 threads' sums are folded by
 * halves at the end; p v is one chain over all kv rows, rescaled at each tile.
 */
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/launch.h"

enum {
    DOWN = 8,
    ACROSS = 16,
    THREADS = DOWN * ACROSS,
    ROWS = 4 * DOWN,   /* of q in a block */
    TILE = 4 * ACROSS, /* kv rows of a tile; columns of a piece */
    PITCH = TILE + 4,  /* floats between rows of a piece: an odd number of 16-byte places */
};

/* A piece of k or v: rows [first, first + COUNT) and columns [column, column + 64) of a head as float32 rows `pitch` apart;
 * zeros outside [rows, columns]. */
template <class T, int COUNT>
static __device__ __forceinline__ void load_piece(float *to, int pitch, const T *from, int64_t stride,
                                                  int first, int rows, int column, int columns)
{
    GPU_UNROLL_BY(8) for (int i = threadIdx.x; i < COUNT * TILE; i += THREADS)
    {
        int row = i / TILE, c = i % TILE;
        bool valid = first + row < rows && column + c < columns;
        to[row * pitch + c] = valid ? (float)from[(first + row) * stride + column + c] : 0.0f;
        GPU_COUNT_READ(valid ? (int)sizeof(T) : 0);
    }
}

static __device__ __forceinline__ void multiply_add(float4 &sum, float a, const float4 &b)
{
    sum.x = fmaf(a, b.x, sum.x);
    sum.y = fmaf(a, b.y, sum.y);
    sum.z = fmaf(a, b.z, sum.z);
    sum.w = fmaf(a, b.w, sum.w);
}

/* D: the head's width rounded up to a template; q in shared memory has rows of D + 4 floats. */
template <class T, int D>
__global__ void __launch_bounds__(THREADS, D <= 128 ? 3 : 2) attention_any(struct attention a)
{
    GPU_DYN_SMEM(float, q);                /* [ROWS][D + 4] */
    float *piece = q + ROWS * (D + 4);     /* [TILE][PITCH] */
    float *weights = piece + TILE * PITCH; /* [ROWS][PITCH] */
    int x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS, head = blockIdx.y, first = blockIdx.x * ROWS;
    const T *k = (const T *)a.k + (int64_t)head * a.head_dim,
            *v = (const T *)a.v + (int64_t)head * a.head_dim;
    /* bias[row][column] is this plus column minus row */
    const float *bias = a.bias ? a.bias + (int64_t)head * (a.q_rows + a.kv_rows - 1) + a.q_rows - 1 : NULL;

    float largest[4], total[4];
    float4 out[4][D / TILE];
    GPU_UNROLL for (int i = 0; i < 4; i++)
    {
        largest[i] = -INFINITY, total[i] = 0;
        GPU_UNROLL for (int j = 0; j < D / TILE; j++) out[i][j] = make_float4(0, 0, 0, 0);
    }
    for (int column = 0; column < D; column += TILE)
        load_piece<T, ROWS>(q + column, D + 4, (const T *)a.q + (int64_t)head * a.head_dim, a.q_stride, first,
                            a.q_rows, column, a.head_dim);

    for (int tile = 0; tile < a.kv_rows; tile += TILE) {
        float logits[4][4];
        GPU_UNROLL for (int i = 0; i < 4; i++) GPU_UNROLL for (int j = 0; j < 4; j++) logits[i][j] = 0;
        for (int column = 0; column < a.head_dim; column += TILE) {
            __syncthreads(); /* q is there; nobody needs the last piece */
            load_piece<T, TILE>(piece, PITCH, k, a.k_stride, tile, a.kv_rows, column, a.head_dim);
            __syncthreads();
            GPU_UNROLL_BY(4) for (int d = 0; d < TILE; d += 4)
            {
                float4 q4[4];
                GPU_UNROLL for (int i = 0; i < 4; i++) q4[i] =
                    *(const float4 *)(q + (y + i * DOWN) * (D + 4) + column + d);
                GPU_UNROLL for (int j = 0; j < 4; j++)
                {
                    float4 k4 = *(const float4 *)(piece + (x + j * ACROSS) * PITCH + d);
                    GPU_UNROLL for (int i = 0; i < 4; i++)
                    {
                        logits[i][j] = fmaf(q4[i].x, k4.x, logits[i][j]);
                        logits[i][j] = fmaf(q4[i].y, k4.y, logits[i][j]);
                        logits[i][j] = fmaf(q4[i].z, k4.z, logits[i][j]);
                        logits[i][j] = fmaf(q4[i].w, k4.w, logits[i][j]);
                    }
                }
            }
            GPU_COUNT_FLOPS(2 * 4 * 4 * TILE);
        }

        GPU_UNROLL for (int i = 0; i < 4; i++)
        {
            int row = y + i * DOWN;
            float now = -INFINITY;
            GPU_UNROLL for (int j = 0; j < 4; j++)
            {
                int column = tile + x + j * ACROSS;
                bool inside = column < a.kv_rows && first + row < a.q_rows;
                float logit = logits[i][j] * a.scale;
                if (bias && inside) logit += bias[column - (first + row)];
                GPU_COUNT_READ(bias && inside ? 4 : 0);
                if (column == a.kv_rows - 1) logit += a.last_logit;
                logits[i][j] = column < a.kv_rows ? logit : -INFINITY;
                now = fmaxf(now, logits[i][j]);
            }
            GPU_UNROLL for (int step = ACROSS / 2; step; step /= 2) now =
                fmaxf(now, __shfl_xor_sync(0xffffffffu, now, step));
            now = fmaxf(now, largest[i]);
            /* a bias may have masked every kv row so far: all weights are 0 then, and not inf - inf */
            float against = now == -INFINITY ? 0 : now, rescale = expf(largest[i] - against);
            largest[i] = now;
            total[i] *= rescale;
            GPU_UNROLL for (int j = 0; j < 4; j++)
            {
                float weight = expf(logits[i][j] - against);
                weights[row * PITCH + x + j * ACROSS] = weight;
                total[i] += weight;
            }
            GPU_UNROLL for (int j = 0; j < D / TILE; j++)
            {
                out[i][j].x *= rescale, out[i][j].y *= rescale;
                out[i][j].z *= rescale, out[i][j].w *= rescale;
            }
        }

        GPU_UNROLL for (int j = 0; j < D / TILE; j++)
        {
            if (j * TILE >= a.head_dim) break;
            __syncthreads(); /* weights are there; nobody needs the last piece */
            load_piece<T, TILE>(piece, PITCH, v, a.v_stride, tile, a.kv_rows, j * TILE, a.head_dim);
            __syncthreads();
            GPU_UNROLL_BY(4) for (int kv = 0; kv < TILE; kv += 4)
            {
                float4 weight[4];
                GPU_UNROLL for (int i = 0; i < 4; i++) weight[i] =
                    *(const float4 *)(weights + (y + i * DOWN) * PITCH + kv);
                GPU_UNROLL for (int r = 0; r < 4; r++)
                {
                    float4 v4 = *(const float4 *)(piece + (kv + r) * PITCH + x * 4);
                    GPU_UNROLL for (int i = 0; i < 4; i++) multiply_add(out[i][j],
                                                                        r == 0   ? weight[i].x
                                                                        : r == 1 ? weight[i].y
                                                                        : r == 2 ? weight[i].z
                                                                                 : weight[i].w,
                                                                        v4);
                }
            }
            GPU_COUNT_FLOPS(2 * 4 * 4 * TILE);
        }
    }

    GPU_UNROLL for (int i = 0; i < 4; i++)
    {
        GPU_UNROLL for (int step = ACROSS / 2; step; step /= 2) total[i] +=
            __shfl_xor_sync(0xffffffffu, total[i], step);
        int row = first + y + i * DOWN;
        if (row >= a.q_rows) continue;
        T *to = (T *)a.out + row * a.out_stride + (int64_t)head * a.head_dim;
        float inverse = 1.0f / total[i];
        GPU_UNROLL for (int j = 0; j < D / TILE; j++)
        {
            float sums[4] = {out[i][j].x, out[i][j].y, out[i][j].z, out[i][j].w};
            GPU_UNROLL for (int c = 0; c < 4; c++) if (j * TILE + x * 4 + c < a.head_dim)
            {
                to[j * TILE + x * 4 + c] = (T)(sums[c] * inverse);
                GPU_COUNT_WRITE((int)sizeof(T));
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------------------ launches */

template <class T, int D> static int launch(cudaStream_t stream, const struct attention *a)
{
    constexpr int BYTES = (ROWS * (D + 4) + (TILE + ROWS) * PITCH) * (int)sizeof(float);
    unsigned blocks = (unsigned)((a->q_rows + ROWS - 1) / ROWS);
    cudaFuncSetAttribute(attention_any<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    GPU_LAUNCH((attention_any<T, D>), dim3(blocks, (unsigned)a->heads), THREADS, BYTES, stream, *a);
    return (int)cudaGetLastError();
}

template <class T> static int launch_width(cudaStream_t stream, const struct attention *a)
{
    if (a->q_rows < 1) return 0;
    if (a->head_dim <= 64) return launch<T, 64>(stream, a);
    if (a->head_dim <= 128) return launch<T, 128>(stream, a);
    if (a->head_dim <= 256) return launch<T, 256>(stream, a);
    return launch<T, 512>(stream, a);
}

extern "C" int cuda_attention_any(void *stream, const struct attention *a)
{
    return a->dtype == DTYPE_BF16 ? launch_width<__nv_bfloat16>((cudaStream_t)stream, a)
                                  : launch_width<float>((cudaStream_t)stream, a);
}
