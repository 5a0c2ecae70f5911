/*
 * intrinsics.h - CUDA's mathematics and atomics on the CPU. The fast approximations are the exact functions
 * here: results differ from a GPU's in the last bits, so tests compare with tolerances.
 */
#ifndef REFRAIN_CUSIM_INTRINSICS_H
#define REFRAIN_CUSIM_INTRINSICS_H

#include <algorithm>

using std::max;
using std::min;

/* glibc has declared these names for itself. */
#define __expf(x)                  expf(x)
#define __exp10f(x)                powf(10.0f, x)
#define __logf(x)                  logf(x)
#define __log2f(x)                 log2f(x)
#define __sinf(x)                  sinf(x)
#define __cosf(x)                  cosf(x)
#define __powf(x, y)               powf(x, y)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)

#define CUSIM_MATH(declaration, value)                                                                       \
    static inline declaration                                                                                \
    {                                                                                                        \
        return value;                                                                                        \
    }
CUSIM_MATH(float __fdividef(float a, float b), a / b)
CUSIM_MATH(float __fdiv_rn(float a, float b), a / b)
CUSIM_MATH(float __fadd_rn(float a, float b), a + b)
CUSIM_MATH(float __fsub_rn(float a, float b), a - b)
CUSIM_MATH(float __fmul_rn(float a, float b), a *b)
CUSIM_MATH(float __fmaf_rn(float a, float b, float c), fmaf(a, b, c))
CUSIM_MATH(float __frcp_rn(float x), 1.0f / x)
CUSIM_MATH(float __fsqrt_rn(float x), sqrtf(x))
CUSIM_MATH(float __frsqrt_rn(float x), 1.0f / sqrtf(x))
CUSIM_MATH(float rsqrtf(float x), 1.0f / sqrtf(x))
CUSIM_MATH(float gpu_exp2(float x), exp2f(x))
CUSIM_MATH(float __saturatef(float x), fminf(fmaxf(x, 0.0f), 1.0f))
CUSIM_MATH(int __float2int_rn(float x), (int)lrintf(x))
CUSIM_MATH(int __float2int_rz(float x), (int)x)
CUSIM_MATH(int __float2int_rd(float x), (int)floorf(x))
CUSIM_MATH(int __mul24(int a, int b), a *b)
CUSIM_MATH(unsigned __umulhi(unsigned a, unsigned b), (unsigned)((uint64_t)a *b >> 32))
CUSIM_MATH(int __popc(unsigned x), __builtin_popcount(x))
CUSIM_MATH(int __clz(int x), x ? __builtin_clz((unsigned)x) : 32)
CUSIM_MATH(int __ffs(int x), __builtin_ffs(x))
#undef CUSIM_MATH

#define CUSIM_REINTERPRET(name, from, to)                                                                    \
    static inline to name(from value)                                                                        \
    {                                                                                                        \
        to bits;                                                                                             \
        memcpy(&bits, &value, sizeof bits);                                                                  \
        return bits;                                                                                         \
    }
CUSIM_REINTERPRET(__float_as_uint, float, unsigned)
CUSIM_REINTERPRET(__float_as_int, float, int)
CUSIM_REINTERPRET(__uint_as_float, unsigned, float)
CUSIM_REINTERPRET(__int_as_float, int, float)
#undef CUSIM_REINTERPRET

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcg(const T *p)
{
    return *p;
}
template <class T> static inline void __stcs(T *p, T value)
{
    *p = value;
}
template <class T> static inline void __stcg(T *p, T value)
{
    *p = value;
}

/* ties away from zero, 10 bits of fraction: cvt.rna.tf32.f32 */
static inline uint32_t gpu_tf32(float x)
{
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
    return (bits + 0x1000u) & ~0x1fffu;
}

/* --- atomics: relaxed on a GPU, and so here for everything but their own word --------------------------- */

template <class T> static inline T atomicAdd(T *at, T value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

/* old = *at; *at = change(old), atomically; `Word` has the size of T. */
template <class Word, class T, class Change> static inline T cusim_exchange(T *at, Change change)
{
    static_assert(sizeof(Word) == sizeof(T), "the word has the size of the value");
    Word *word = (Word *)at, before = __atomic_load_n(word, __ATOMIC_RELAXED), after;
    T old, changed;
    do {
        memcpy(&old, &before, sizeof old);
        changed = change(old);
        memcpy(&after, &changed, sizeof after);
    } while (!__atomic_compare_exchange_n(word, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

template <> inline float atomicAdd(float *at, float value)
{
    return cusim_exchange<uint32_t>(at, [=](float old) { return old + value; });
}
template <> inline double atomicAdd(double *at, double value)
{
    return cusim_exchange<uint64_t>(at, [=](double old) { return old + value; });
}
static inline int atomicMax(int *at, int value)
{
    return cusim_exchange<uint32_t>(at, [=](int old) { return max(old, value); });
}
static inline unsigned atomicMax(unsigned *at, unsigned value)
{
    return cusim_exchange<uint32_t>(at, [=](unsigned old) { return max(old, value); });
}
static inline int atomicMin(int *at, int value)
{
    return cusim_exchange<uint32_t>(at, [=](int old) { return min(old, value); });
}
static inline unsigned atomicMin(unsigned *at, unsigned value)
{
    return cusim_exchange<uint32_t>(at, [=](unsigned old) { return min(old, value); });
}
static inline unsigned atomicInc(unsigned *at, unsigned limit)
{
    return cusim_exchange<uint32_t>(at, [=](unsigned old) { return old >= limit ? 0u : old + 1; });
}
template <class T> static inline T atomicOr(T *at, T value)
{
    return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
template <class T> static inline T atomicAnd(T *at, T value)
{
    return __atomic_fetch_and(at, value, __ATOMIC_RELAXED);
}
template <class T> static inline T atomicExch(T *at, T value)
{
    return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}
template <class T> static inline T atomicCAS(T *at, T expected, T value)
{
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

static inline void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void __threadfence_block()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#endif
