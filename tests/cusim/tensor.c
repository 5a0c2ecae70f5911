/* tensor.c - ldmatrix and mma.sync for a whole warp, in the fragment layouts of the PTX manual ("Matrix
 * fragments for mma.m16n8k16 with floating point type", "... mma.m16n8k8", "ldmatrix"). Sums in float32, k
 * ascending: a tensor core adds in another order, so compare with tolerances. */
#include "tests/cusim/block.h"
#include "tests/cusim/lane.h"
#include <string.h>

enum { FULL_WARP = -1 };

static void check_warp(unsigned mask, const char *name)
{
    if (mask != (unsigned)FULL_WARP) report("%s needs all 32 lanes, the block has a short warp", name);
}

/* --- ldmatrix: matrix i is in the rows that lanes 8 i ... 8 i + 7 brought ------------------------------- */

static void ldmatrix(void *lanes[32], unsigned mask, int matrices, bool transposed)
{
    check_warp(mask, "ldmatrix");
    uint16_t element[4][8][8];
    for (int i = 0; i < matrices * 8; i++)
        memcpy(element[i / 8][i % 8], ((struct ldmatrix_lane *)lanes[i])->row, 16);
    for (int lane = 0; lane < WARP; lane++) {
        int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < matrices; i++) {
            uint16_t low = transposed ? element[i][column][row] : element[i][row][column];
            uint16_t high = transposed ? element[i][column + 1][row] : element[i][row][column + 1];
            ((struct ldmatrix_lane *)lanes[lane])->out[i] = (uint32_t)low | (uint32_t)high << 16;
        }
    }
}

static void resolve_x4(void *lanes[32], unsigned mask)
{
    ldmatrix(lanes, mask, 4, false);
}
static void resolve_x4_trans(void *lanes[32], unsigned mask)
{
    ldmatrix(lanes, mask, 4, true);
}
static void resolve_x2(void *lanes[32], unsigned mask)
{
    ldmatrix(lanes, mask, 2, false);
}
static void resolve_x2_trans(void *lanes[32], unsigned mask)
{
    ldmatrix(lanes, mask, 2, true);
}

const struct cusim_warp_op cusim_ldmatrix_x4 = {"ldmatrix.x4", resolve_x4};
const struct cusim_warp_op cusim_ldmatrix_x4_trans = {"ldmatrix.x4.trans", resolve_x4_trans};
const struct cusim_warp_op cusim_ldmatrix_x2 = {"ldmatrix.x2", resolve_x2};
const struct cusim_warp_op cusim_ldmatrix_x2_trans = {"ldmatrix.x2.trans", resolve_x2_trans};

/* --- mma: a [16, k], b [k, 8], d = a b + c [16, 8] ------------------------------------------------------ */

static float bf16_low(uint32_t pair)
{
    uint32_t bits = pair << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static float bf16_high(uint32_t pair)
{
    uint32_t bits = pair & 0xffff0000u;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
/* The hardware ignores the lower 13 bits of a tf32 operand. */
static float tf32(uint32_t bits)
{
    bits &= ~0x1fffu;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Lane 4 g + t holds rows g and g + 8, columns 2 t and 2 t + 1 of c and d. c is read before d is written, in
 * all lanes: they may be the same registers. */
static void multiply(void *lanes[32], int depth, const float a[16][16], const float b[16][8])
{
    float sum[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const float *c = ((struct mma_lane *)lanes[lane])->c;
        float *low = &sum[lane / 4][lane % 4 * 2], *high = &sum[lane / 4 + 8][lane % 4 * 2];
        low[0] = c[0], low[1] = c[1], high[0] = c[2], high[1] = c[3];
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < depth; k++)
            for (int j = 0; j < 8; j++) sum[i][j] += a[i][k] * b[k][j];
    for (int lane = 0; lane < WARP; lane++) {
        float *d = ((struct mma_lane *)lanes[lane])->d;
        const float *low = &sum[lane / 4][lane % 4 * 2], *high = &sum[lane / 4 + 8][lane % 4 * 2];
        d[0] = low[0], d[1] = low[1], d[2] = high[0], d[3] = high[1];
    }
}

static void resolve_bf16(void *lanes[32], unsigned mask)
{
    check_warp(mask, "mma.m16n8k16");
    float a[16][16], b[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const struct mma_lane *m = lanes[lane];
        int group = lane / 4, at = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            int row = group + i % 2 * 8, column = at + i / 2 * 8;
            a[row][column] = bf16_low(m->a[i]);
            a[row][column + 1] = bf16_high(m->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            b[at + i * 8][group] = bf16_low(m->b[i]);
            b[at + i * 8 + 1][group] = bf16_high(m->b[i]);
        }
    }
    multiply(lanes, 16, (const float(*)[16])a, (const float(*)[8])b);
}

static void resolve_tf32(void *lanes[32], unsigned mask)
{
    check_warp(mask, "mma.m16n8k8");
    float a[16][16], b[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const struct mma_lane *m = lanes[lane];
        int group = lane / 4, at = lane % 4;
        for (int i = 0; i < 4; i++) a[group + i % 2 * 8][at + i / 2 * 4] = tf32(m->a[i]);
        for (int i = 0; i < 2; i++) b[at + i * 4][group] = tf32(m->b[i]);
    }
    multiply(lanes, 8, (const float(*)[16])a, (const float(*)[8])b);
}

const struct cusim_warp_op cusim_mma_bf16 = {"mma.m16n8k16", resolve_bf16};
const struct cusim_warp_op cusim_mma_tf32 = {"mma.m16n8k8", resolve_tf32};
