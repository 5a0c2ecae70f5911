/*
 * noise.c - torch.randn on the CPU, bit for bit: mt19937, then Box-Muller in groups of sixteen.
 *
 * A pure function, any thread, no locks. What torch 2.x does (ATen/core/MT19937RNGEngine.h,
 * ATen/core/TransformationHelper.h, ATen/native/cpu/DistributionTemplates.h), checked against torch 2.15:
 *
 *   16 or more values: the whole buffer is filled with 24-bit uniforms, one draw each; then every full group
 *   of 16 becomes eight pairs (j, j + 8) of normals in float32. A remainder is handled by drawing the *last*
 *   16 values anew, which overwrites finished ones.
 *
 *   Fewer: pairs in float64 from 53-bit uniforms, rounded to float32.
 *
 * The float32 logarithm, sine and cosine of the first path are the Cephes polynomials (S. Moshier) as vector
 * code evaluates them, and their last bit depends on which multiply-adds are fused. So every fused one is
 * written as fmaf() here and the compiler fuses nothing (-ffp-contract=off): the bits are the same on every
 * machine. Hardware only decides the speed: 13 ns a value with FMA instructions, 40 ns where fmaf() is a
 * library call.
 */
#include "worker/model/noise.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------ the generator */

enum { MT_WORDS = 624, MT_SHIFT = 397 };

struct mersenne {
    uint32_t word[MT_WORDS];
    int next; /* MT_WORDS: the state must be advanced first */
};

/* Matsumoto and Nishimura's initialisation of 2002, as in torch: the upper half of the seed is dropped. */
static void mersenne_seed(struct mersenne *mt, uint64_t seed)
{
    mt->word[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < MT_WORDS; i++) {
        uint32_t before = mt->word[i - 1];
        mt->word[i] = UINT32_C(1812433253) * (before ^ (before >> 30)) + i;
    }
    mt->next = MT_WORDS;
}

static uint32_t mersenne_twist(uint32_t upper, uint32_t lower, uint32_t far)
{
    uint32_t mixed = (upper & UINT32_C(0x80000000)) | (lower & UINT32_C(0x7fffffff));
    return far ^ (mixed >> 1) ^ (lower & 1 ? UINT32_C(0x9908b0df) : 0);
}

static void mersenne_advance(struct mersenne *mt)
{
    uint32_t *w = mt->word;
    int i = 0;
    for (; i < MT_WORDS - MT_SHIFT; i++) w[i] = mersenne_twist(w[i], w[i + 1], w[i + MT_SHIFT]);
    for (; i < MT_WORDS - 1; i++) w[i] = mersenne_twist(w[i], w[i + 1], w[i + MT_SHIFT - MT_WORDS]);
    w[i] = mersenne_twist(w[i], w[0], w[MT_SHIFT - 1]);
    mt->next = 0;
}

static uint32_t mersenne_draw(struct mersenne *mt)
{
    if (mt->next == MT_WORDS) mersenne_advance(mt);
    uint32_t y = mt->word[mt->next++];
    y ^= y >> 11;
    y ^= (y << 7) & UINT32_C(0x9d2c5680);
    y ^= (y << 15) & UINT32_C(0xefc60000);
    return y ^ (y >> 18);
}

/* [0, 1) in steps of 2^-24, what float32 holds exactly. */
static float uniform24(struct mersenne *mt)
{
    return (float)(mersenne_draw(mt) & UINT32_C(0xffffff)) * 0x1p-24f;
}

/* [0, 1) in steps of 2^-53; the first draw is the upper half. */
static double uniform53(struct mersenne *mt)
{
    uint64_t high = mersenne_draw(mt);
    uint64_t both = high << 32 | mersenne_draw(mt);
    return (double)(both & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* ---------------------------------------------------------------------------- float32 Box-Muller, 8 pairs */

enum { PAIRS = 8, GROUP = 2 * PAIRS };

static inline uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Natural logarithm for normal positive x (Cephes logf): x = m 2^e with m in [sqrt(1/2), sqrt(2)), then a
 * polynomial in m - 1. ln 2 is split in two so that e ln 2 loses nothing. */
static inline float log_cephes(float x)
{
    uint32_t u = bits_of(x);
    float e = (float)((int32_t)(u >> 23) - 126);
    float m = float_of((u & UINT32_C(0x007fffff)) | UINT32_C(0x3f000000)); /* [0.5, 1) */
    float below = m < 0.707106781186547524f ? 1.0f : 0.0f;
    e -= below;
    x = (m - 1.0f) + m * below; /* m * 1 and m * 0 are exact */

    float y = 7.0376836292e-2f;
    y = fmaf(y, x, -1.1514610310e-1f);
    y = fmaf(y, x, 1.1676998740e-1f);
    y = fmaf(y, x, -1.2420140846e-1f);
    y = fmaf(y, x, 1.4249322787e-1f);
    y = fmaf(y, x, -1.6668057665e-1f);
    y = fmaf(y, x, 2.0000714765e-1f);
    y = fmaf(y, x, -2.4999993993e-1f);
    y = fmaf(y, x, 3.3333331174e-1f);
    float z = x * x;
    y = fmaf(y * x, z, e * -2.12194440e-4f);
    y = fmaf(-z, 0.5f, y);
    return fmaf(e, 0.693359375f, x + y);
}

/* Sine and cosine of 0 <= angle < 2 pi (Cephes sinf and cosf): the octant chooses between two polynomials on
 * [-pi/4, pi/4]; pi/4 is subtracted in three parts. */
static inline void sincos_cephes(float angle, float *sine, float *cosine)
{
    int32_t octant = ((int32_t)(angle * 1.27323954473516f) + 1) & ~1;
    float j = (float)octant;
    float x = fmaf(j, -0.78515625f, angle);
    x = fmaf(j, -2.4187564849853515625e-4f, x);
    x = fmaf(j, -3.77489497744594108e-8f, x);

    float z = x * x;
    float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f) * z;
    c = fmaf(c, z, -(0.5f * z)) + 1.0f;
    float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f) * z;
    s = fmaf(s, x, x);

    uint32_t swap = octant & 2 ? ~UINT32_C(0) : 0;
    uint32_t sine_sign = (uint32_t)(octant & 4) << 29;
    uint32_t cosine_sign = (uint32_t)(~(octant - 2) & 4) << 29;
    uint32_t sb = bits_of(s), cb = bits_of(c);
    *sine = float_of(((sb & ~swap) | (cb & swap)) ^ sine_sign);
    *cosine = float_of(((cb & ~swap) | (sb & swap)) ^ cosine_sign);
}

/* group: [16] uniforms in, normals out. */
static inline __attribute__((always_inline)) void normals_of(float *restrict group)
{
    for (int j = 0; j < PAIRS; j++) {
        float radius = sqrtf(-2.0f * log_cephes(1.0f - group[j])); /* 1 - u: never the logarithm of 0 */
        float sine, cosine;
        sincos_cephes(6.283185307179586f * group[j + PAIRS], &sine, &cosine);
        group[j] = radius * cosine;
        group[j + PAIRS] = radius * sine;
    }
}

static inline __attribute__((always_inline)) void normals_all(float *values, int64_t groups)
{
    for (int64_t g = 0; g < groups; g++) normals_of(values + g * GROUP);
}

/* The same source twice: fmaf() as an instruction where there is one, else the library's. */
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void normals_fma(float *values, int64_t groups)
{
    normals_all(values, groups);
}
#endif

static void normals_plain(float *values, int64_t groups)
{
    normals_all(values, groups);
}

static void normals(float *values, int64_t groups)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2")) {
        normals_fma(values, groups);
        return;
    }
#endif
    normals_plain(values, groups);
}

/* --------------------------------------------------------------------------------------------- both paths */

static void noise_few(struct mersenne *mt, float *out, int64_t count)
{
    for (int64_t i = 0; i < count; i += 2) {
        double u1 = uniform53(mt), u2 = uniform53(mt);
        double radius = sqrt(-2.0 * log1p(-u2)), angle = 2.0 * M_PI * u1;
        out[i] = (float)(radius * cos(angle));
        if (i + 1 < count) out[i + 1] = (float)(radius * sin(angle));
    }
}

void noise_fill(uint64_t seed, float *out, int64_t count)
{
    struct mersenne mt;
    mersenne_seed(&mt, seed);
    if (count < GROUP) {
        noise_few(&mt, out, count);
        return;
    }
    for (int64_t i = 0; i < count; i++) out[i] = uniform24(&mt);
    normals(out, count / GROUP);
    if (count % GROUP != 0) {
        float *last = out + count - GROUP;
        for (int i = 0; i < GROUP; i++) last[i] = uniform24(&mt);
        normals(last, 1);
    }
}
