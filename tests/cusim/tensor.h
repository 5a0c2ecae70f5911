/*
 * tensor.h - tensor core instructions and asynchronous copies. Memory is touched here, in the kernel's own
 * object, and not by the emulator, so that the sanitizers see it with the kernel's source line.
 */
#ifndef REFRAIN_CUSIM_TENSOR_H
#define REFRAIN_CUSIM_TENSOR_H

#include "tests/cusim/lane.h"

static inline void cusim_ldmatrix(const cusim_warp_op &op, int lanes, uint32_t *out, const void *row,
                                  cusim_site site)
{
    ldmatrix_lane lane = {{0, 0, 0, 0}, out};
    if (cusim_self->linear % 32 < lanes) {
        uint4 loaded = *(const uint4 *)row;
        memcpy(lane.row, &loaded, sizeof loaded);
    }
    cusim_warp(&op, CUSIM_FULL_WARP, &lane, site);
}
static inline void gpu_ldmatrix_x4(uint32_t out[4], const void *row, CUSIM_CALLER)
{
    cusim_ldmatrix(cusim_ldmatrix_x4, 32, out, row, CUSIM_SITE);
}
static inline void gpu_ldmatrix_x4_trans(uint32_t out[4], const void *row, CUSIM_CALLER)
{
    cusim_ldmatrix(cusim_ldmatrix_x4_trans, 32, out, row, CUSIM_SITE);
}
static inline void gpu_ldmatrix_x2(uint32_t out[2], const void *row, CUSIM_CALLER)
{
    cusim_ldmatrix(cusim_ldmatrix_x2, 16, out, row, CUSIM_SITE);
}
static inline void gpu_ldmatrix_x2_trans(uint32_t out[2], const void *row, CUSIM_CALLER)
{
    cusim_ldmatrix(cusim_ldmatrix_x2_trans, 16, out, row, CUSIM_SITE);
}

static inline void gpu_mma_bf16_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2],
                                         const float c[4], CUSIM_CALLER)
{
    mma_lane lane = {d, a, b, c};
    cusim_warp(&cusim_mma_bf16, CUSIM_FULL_WARP, &lane, CUSIM_SITE);
}
static inline void gpu_mma_tf32_m16n8k8(float d[4], const uint32_t a[4], const uint32_t b[2],
                                        const float c[4], CUSIM_CALLER)
{
    mma_lane lane = {d, a, b, c};
    cusim_warp(&cusim_mma_tf32, CUSIM_FULL_WARP, &lane, CUSIM_SITE);
}

static inline void cusim_copy_land(const cusim_copy &copy)
{
    *(uint4 *)copy.to = copy.valid ? *(const uint4 *)copy.from : uint4{0, 0, 0, 0};
}
static inline void gpu_cp_async16(void *shared, const void *global, bool valid, CUSIM_CALLER)
{
    cusim_copy copy = {shared, global, valid};
    if (cusim_copy_issue(&copy, CUSIM_SITE)) cusim_copy_land(copy);
}
static inline void gpu_cp_async_commit()
{
    cusim_copy_commit();
}
template <int N> static inline void gpu_cp_async_wait()
{
    cusim_copy copy;
    while (cusim_copy_due(N, &copy)) cusim_copy_land(copy);
}

#endif
