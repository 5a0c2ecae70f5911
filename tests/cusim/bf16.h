/*
 * bf16.h - the bfloat16 of cuda_bf16.h, for machines without CUDA. Same names and layout (the names are part
 * of mangled kernel names), round to nearest even, NaN stays NaN. Only what kernels of ours use.
 */
#ifndef REFRAIN_CUSIM_BF16_H
#define REFRAIN_CUSIM_BF16_H

struct __attribute__((aligned(2))) __nv_bfloat16 {
    unsigned short __x;

    __nv_bfloat16() = default;
    __nv_bfloat16(float value);
    operator float() const;
};

struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    __nv_bfloat16 b;
    b.__x = bits;
    return b;
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b)
{
    return b.__x;
}

static inline float __bfloat162float(__nv_bfloat16 b)
{
    uint32_t bits = (uint32_t)b.__x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline __nv_bfloat16 __float2bfloat16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return __ushort_as_bfloat16(0x7fff);
    return __ushort_as_bfloat16((unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16));
}
static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return __float2bfloat16(f);
}

inline __nv_bfloat16::__nv_bfloat16(float value) : __x(__float2bfloat16(value).__x) {}
inline __nv_bfloat16::operator float() const
{
    return __bfloat162float(*this);
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high)
{
    __nv_bfloat162 pair;
    pair.x = __float2bfloat16(low);
    pair.y = __float2bfloat16(high);
    return pair;
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 pair)
{
    return __floats2bfloat162_rn(pair.x, pair.y);
}
static inline float2 __bfloat1622float2(__nv_bfloat162 pair)
{
    return float2{__bfloat162float(pair.x), __bfloat162float(pair.y)};
}
static inline float __low2float(__nv_bfloat162 pair)
{
    return __bfloat162float(pair.x);
}
static inline float __high2float(__nv_bfloat162 pair)
{
    return __bfloat162float(pair.y);
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high)
{
    __nv_bfloat162 pair;
    pair.x = low;
    pair.y = high;
    return pair;
}
static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 both)
{
    return __halves2bfloat162(both, both);
}

static inline uint32_t gpu_pack_bf16(float low, float high)
{
    return (uint32_t)__float2bfloat16(low).__x | (uint32_t)__float2bfloat16(high).__x << 16;
}

#endif
