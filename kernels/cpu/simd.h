/*
 * simd.h - sixteen floats at a time: one AVX-512 register, or two AVX2 registers that behave as one.
 *
 *     v16 sum = v16_zero();
 *     for (int i = 0; i < n; i += 16) sum = v16_fma(v16_load_n(x + i, n - i), v16_load_n(y + i, n - i), sum);
 *     float dot = v16_sum(sum);
 *
 * Both instruction sets give the same bits: every function here is one IEEE operation per lane, fused where
 * its name says so, and sums across lanes run in one fixed tree. Nothing approximate (rcp, rsqrt) is offered,
 * since processors differ there. The compiler must not fuse on its own: -ffp-contract=off.
 *
 * This header is included by the files of kernels/cpu only, which the Makefile compiles once per instruction
 * set with ISA and ISA_avx2 or ISA_avx512 defined.
 */
#ifndef REFRAIN_KERNELS_CPU_SIMD_H
#define REFRAIN_KERNELS_CPU_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include "kernels/ops.h"

/* Before a loop of constant length at most 12: no loop is left, and small arrays become registers. */
#define UNROLL _Pragma("GCC unroll 12")
#define INLINE static inline __attribute__((always_inline, unused))

/* name -> name_avx2 or name_avx512: what a file here exports has its instruction set in its name. */
#define ISA_PASTE(name, isa)  name##_##isa
#define ISA_EXPAND(name, isa) ISA_PASTE(name, isa)
#define FOR_ISA(name)         ISA_EXPAND(name, ISA)

enum { LANES = 16 };

#ifdef ISA_avx512

typedef __m512 v16;

INLINE v16 v16_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE v16 v16_set1(float a)
{
    return _mm512_set1_ps(a);
}
INLINE v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void v16_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}
INLINE v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}
INLINE v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}
INLINE v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}
INLINE v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}
INLINE v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}
INLINE v16 v16_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}
INLINE v16 v16_abs(v16 a)
{
    return _mm512_abs_ps(a);
}

/* a b + c and c - a b, rounded once */
INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

/* even lanes a b - c, odd lanes a b + c, rounded once */
INLINE v16 v16_fmaddsub(v16 a, v16 b, v16 c)
{
    return _mm512_fmaddsub_ps(a, b, c);
}

/* The first n lanes, 1 <= n (16 and more: all); the others read as 0 and are not touched in memory. */
INLINE __mmask16 v16_mask(int n)
{
    return n >= LANES ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}
INLINE v16 v16_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(v16_mask(n), p);
}
INLINE void v16_store_n(float *p, v16 a, int n)
{
    _mm512_mask_storeu_ps(p, v16_mask(n), a);
}

/* Keeps the first n lanes of a, the others become b's. */
INLINE v16 v16_first_n(v16 a, v16 b, int n)
{
    return _mm512_mask_mov_ps(b, v16_mask(n), a);
}

/* 16 values of 16 bits, widened exactly */
INLINE v16 v16_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
INLINE v16 v16_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

/* (b0, b1, b2, b3, ...) -> (b1, b0, b3, b2, ...) */
INLINE v16 v16_swap_pairs(v16 a)
{
    return _mm512_permute_ps(a, 0xb1);
}

/* The first n of 8 floats, each twice: (p0, p0, p1, p1, ...); the others read as 0. */
INLINE v16 v16_load_twice_n(const float *p, int n)
{
    __m512 eight = _mm512_maskz_loadu_ps((__mmask16)(n >= 8 ? 0xff : (1u << n) - 1), p);
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), eight);
}

/* 2^k for lanes whose lowest bits hold k + 127 (see v16_exp): those bits become the exponent. */
INLINE v16 v16_exponent(v16 a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23));
}

/* a where x >= limit, otherwise 0; NaN in x counts as not below */
INLINE v16 v16_zero_below(v16 a, v16 x, float limit)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), a);
}

INLINE __m256 v16_low(v16 a)
{
    return _mm512_castps512_ps256(a);
}
INLINE __m256 v16_high(v16 a)
{
    return _mm512_extractf32x8_ps(a, 1);
}

#else

typedef struct {
    __m256 lo, hi;
} v16;

/* One definition per operation: the same AVX2 instruction on both halves. */
#define V16_BINARY(name, op)                                                                                 \
    INLINE v16 name(v16 a, v16 b)                                                                            \
    {                                                                                                        \
        return (v16){op(a.lo, b.lo), op(a.hi, b.hi)};                                                        \
    }
#define V16_TERNARY(name, op)                                                                                \
    INLINE v16 name(v16 a, v16 b, v16 c)                                                                     \
    {                                                                                                        \
        return (v16){op(a.lo, b.lo, c.lo), op(a.hi, b.hi, c.hi)};                                            \
    }

INLINE v16 v16_zero(void)
{
    return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
INLINE v16 v16_set1(float a)
{
    return (v16){_mm256_set1_ps(a), _mm256_set1_ps(a)};
}
INLINE v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void v16_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
V16_BINARY(v16_add, _mm256_add_ps)
V16_BINARY(v16_sub, _mm256_sub_ps)
V16_BINARY(v16_mul, _mm256_mul_ps)
V16_BINARY(v16_div, _mm256_div_ps)
V16_BINARY(v16_max, _mm256_max_ps)
V16_BINARY(v16_min, _mm256_min_ps)
INLINE v16 v16_abs(v16 a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
V16_TERNARY(v16_fma, _mm256_fmadd_ps)
V16_TERNARY(v16_fnma, _mm256_fnmadd_ps)
V16_TERNARY(v16_fmaddsub, _mm256_fmaddsub_ps)

/* All ones in lanes below n - first. */
INLINE __m256i v16_mask(int n, int first)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - first), lane);
}
INLINE v16 v16_load_n(const float *p, int n)
{
    if (n >= LANES) return v16_load(p);
    return (v16){_mm256_maskload_ps(p, v16_mask(n, 0)), _mm256_maskload_ps(p + 8, v16_mask(n, 8))};
}
INLINE void v16_store_n(float *p, v16 a, int n)
{
    if (n >= LANES) {
        v16_store(p, a);
    } else {
        _mm256_maskstore_ps(p, v16_mask(n, 0), a.lo);
        _mm256_maskstore_ps(p + 8, v16_mask(n, 8), a.hi);
    }
}
INLINE v16 v16_first_n(v16 a, v16 b, int n)
{
    return (v16){_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(v16_mask(n, 0))),
                 _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(v16_mask(n, 8)))};
}

INLINE __m256 v8_from_bf16(__m128i a)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16));
}
INLINE v16 v16_load_bf16(const uint16_t *p)
{
    return (v16){v8_from_bf16(_mm_loadu_si128((const void *)p)),
                 v8_from_bf16(_mm_loadu_si128((const void *)(p + 8)))};
}
INLINE v16 v16_load_f16(const uint16_t *p)
{
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)))};
}

INLINE v16 v16_swap_pairs(v16 a)
{
    return (v16){_mm256_permute_ps(a.lo, 0xb1), _mm256_permute_ps(a.hi, 0xb1)};
}

INLINE v16 v16_load_twice_n(const float *p, int n)
{
    __m256 eight = _mm256_maskload_ps(p, v16_mask(n, 0));
    return (v16){_mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
                 _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
}

INLINE __m256 v8_exponent(__m256 a)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}
INLINE v16 v16_exponent(v16 a)
{
    return (v16){v8_exponent(a.lo), v8_exponent(a.hi)};
}

INLINE __m256 v8_zero_below(__m256 a, __m256 x, __m256 limit)
{
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), a);
}
INLINE v16 v16_zero_below(v16 a, v16 x, float limit)
{
    __m256 bound = _mm256_set1_ps(limit);
    return (v16){v8_zero_below(a.lo, x.lo, bound), v8_zero_below(a.hi, x.hi, bound)};
}

INLINE __m256 v16_low(v16 a)
{
    return a.lo;
}
INLINE __m256 v16_high(v16 a)
{
    return a.hi;
}

#endif

/* ((l + l+8) + l+4) + ...: halves are added until one lane is left, always in this order. */
INLINE float v16_sum(v16 a)
{
    __m256 eight = _mm256_add_ps(v16_low(a), v16_high(a));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The lanes widened first, then the same tree in double. */
INLINE double v16_sum_wide(v16 a)
{
    __m256 low = v16_low(a), high = v16_high(a);
    __m256d first = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(low)),
                                  _mm256_cvtps_pd(_mm256_castps256_ps128(high)));
    __m256d second = _mm256_add_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(low, 1)),
                                   _mm256_cvtps_pd(_mm256_extractf128_ps(high, 1)));
    __m256d four = _mm256_add_pd(first, second);
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

INLINE float v16_max_lane(v16 a)
{
    __m256 eight = _mm256_max_ps(v16_low(a), v16_high(a));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#endif
