/*
 * warp.h - shuffles, votes and reductions over the lanes of a warp. A lane brings its arguments to
 * cusim_warp; the last lane of the mask works all results out.
 *
 * What CUDA leaves undefined gives a value that shows: a shuffle from a lane outside the mask reads
 * 0xDEAD....
 */
#ifndef REFRAIN_CUSIM_WARP_H
#define REFRAIN_CUSIM_WARP_H

#include "tests/cusim/lane.h"

#define CUSIM_FULL_WARP 0xffffffffu

template <class T>
static inline T cusim_shuffle(const cusim_warp_op &op, unsigned mask, T value, int argument, int width,
                              cusim_site site)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move up to 8 bytes");
    struct lane lane = {0, 0, argument, width};
    memcpy(&lane.value, &value, sizeof value);
    cusim_warp(&op, mask, &lane, site);
    T result;
    memcpy(&result, &lane.result, sizeof result);
    return result;
}

template <class T> static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUSIM_CALLER)
{
    return cusim_shuffle(cusim_shfl, mask, value, lane, width, CUSIM_SITE);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, CUSIM_CALLER)
{
    return cusim_shuffle(cusim_shfl_up, mask, value, by, width, CUSIM_SITE);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, CUSIM_CALLER)
{
    return cusim_shuffle(cusim_shfl_down, mask, value, by, width, CUSIM_SITE);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, CUSIM_CALLER)
{
    return cusim_shuffle(cusim_shfl_xor, mask, value, with, width, CUSIM_SITE);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, CUSIM_CALLER)
{
    return (unsigned)cusim_shuffle<uint64_t>(cusim_ballot, mask, predicate != 0, 0, 32, CUSIM_SITE);
}
static inline int __any_sync(unsigned mask, int predicate, CUSIM_CALLER)
{
    return __ballot_sync(mask, predicate, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, CUSIM_CALLER)
{
    return __ballot_sync(mask, !predicate, file, line) == 0;
}
template <class T> static inline unsigned __match_any_sync(unsigned mask, T value, CUSIM_CALLER)
{
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return (unsigned)cusim_shuffle<uint64_t>(cusim_match_any, mask, bits, 0, 32, CUSIM_SITE);
}
static inline void __syncwarp(unsigned mask = CUSIM_FULL_WARP, CUSIM_CALLER)
{
    cusim_shuffle<int>(cusim_syncwarp, mask, 0, 0, 32, CUSIM_SITE);
}
static inline unsigned __activemask()
{
    return cusim_active_mask();
}

/* Integer reductions (sm_80): every lane of the mask sends to every other. */
template <class T, class Combine>
static inline T cusim_reduce(unsigned mask, T value, Combine combine, cusim_site site)
{
    bool first = true;
    T result = value;
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        T other = cusim_shuffle(cusim_shfl, mask, value, lane, 32, site);
        result = first ? other : combine(result, other);
        first = false;
    }
    return result;
}
template <class T> static inline T __reduce_add_sync(unsigned mask, T value, CUSIM_CALLER)
{
    return cusim_reduce(
        mask, value, [](T a, T b) { return a + b; }, CUSIM_SITE);
}
template <class T> static inline T __reduce_max_sync(unsigned mask, T value, CUSIM_CALLER)
{
    return cusim_reduce(
        mask, value, [](T a, T b) { return a > b ? a : b; }, CUSIM_SITE);
}
template <class T> static inline T __reduce_min_sync(unsigned mask, T value, CUSIM_CALLER)
{
    return cusim_reduce(
        mask, value, [](T a, T b) { return a < b ? a : b; }, CUSIM_SITE);
}

#endif
