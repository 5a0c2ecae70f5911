/*
 * math.h - exp and what is made of it, sixteen lanes at a time.
 *
 * Measured against double arithmetic over every third float: exp 8.5e-8 relative, gelu 5.2e-7 absolute below
 * |a| = 9. tests/test_ops.c holds SiLU, which is made of the same, to 3e-7 relative.
 */
#ifndef REFRAIN_KERNELS_CPU_MATH_H
#define REFRAIN_KERNELS_CPU_MATH_H

#include "kernels/cpu/simd.h"

/* e^x for every x: 0 below -87.3 (where floats turn subnormal), 2.4e38 above 88.37, NaN for NaN.
 *
 * x = n ln2 + r, |r| <= ln2 / 2; e^x = 2^n e^r. Adding 1.5 2^23 to a float rounds it to an integer; with 127
 * added as well, the sum's lowest bits are the exponent field of 2^n. ln2 is taken in two parts, the first
 * short enough for n ln2 to be exact. e^r - 1 - r is r^2 times a polynomial fitted for the least relative
 * error, 3.7e-9. */
INLINE v16 v16_exp(v16 x)
{
    const float smallest = -87.3f, largest = 88.37f, magic = 0x1.8p23f + 127;
    /* constant first: max and min return their second operand when either is NaN */
    v16 in_range = v16_min(v16_set1(largest), v16_max(v16_set1(smallest), x));
    v16 shifted = v16_fma(in_range, v16_set1(0x1.715476p+0f), v16_set1(magic));
    v16 n = v16_sub(shifted, v16_set1(magic));
    v16 r = v16_fnma(n, v16_set1(0x1.62e4p-1f), in_range);
    r = v16_fnma(n, v16_set1(0x1.7f7d1cp-20f), r);
    v16 p = v16_fma(v16_set1(0x1.6a23d0p-10f), r, v16_set1(0x1.123a20p-7f));
    p = v16_fma(p, r, v16_set1(0x1.5558f2p-5f));
    p = v16_fma(p, r, v16_set1(0x1.555492p-3f));
    p = v16_fma(p, r, v16_set1(0x1.fffffcp-2f));
    p = v16_fma(v16_mul(r, r), p, r);
    p = v16_add(p, v16_set1(1));
    return v16_zero_below(v16_mul(p, v16_exponent(shifted)), x, smallest);
}

/* a / (1 + exp(-t)) */
INLINE v16 v16_times_sigmoid(v16 a, v16 t)
{
    return v16_div(a, v16_add(v16_set1(1), v16_exp(v16_sub(v16_zero(), t))));
}

INLINE v16 v16_silu(v16 a)
{
    return v16_times_sigmoid(a, a);
}

/* The tanh form of GELU: 0.5 a (1 + tanh u) is a sigmoid(2u), with u = sqrt(2/pi) (a + 0.044715 a^3); this
 * way it keeps its relative accuracy where tanh is near -1. */
INLINE v16 v16_gelu(v16 a)
{
    v16 square = v16_mul(a, a);
    v16 inner = v16_fma(v16_mul(square, v16_set1(0.044715f)), a, a);
    return v16_times_sigmoid(a, v16_mul(inner, v16_set1(1.5957691216057308f)));
}

#endif
