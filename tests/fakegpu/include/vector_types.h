/*
 * vector_types.h - the small vectors of CUDA, for machines without its headers. Layout, alignment and names
 * as CUDA has them: the names are part of a kernel's mangled name.
 */
#ifndef REFRAIN_FAKEGPU_VECTOR_TYPES_H
#define REFRAIN_FAKEGPU_VECTOR_TYPES_H

#define FAKEGPU_VECTOR(type, name, bytes)                                                                    \
    struct __attribute__((aligned(2 * bytes))) name##2                                                       \
    {                                                                                                        \
        type x, y;                                                                                           \
    };                                                                                                       \
    struct name##3                                                                                           \
    {                                                                                                        \
        type x, y, z;                                                                                        \
    };                                                                                                       \
    struct __attribute__((aligned(4 * bytes))) name##4                                                       \
    {                                                                                                        \
        type x, y, z, w;                                                                                     \
    };                                                                                                       \
    typedef struct name##2 name##2;                                                                          \
    typedef struct name##3 name##3;                                                                          \
    typedef struct name##4 name##4;

FAKEGPU_VECTOR(signed char, char, 1)
FAKEGPU_VECTOR(unsigned char, uchar, 1)
FAKEGPU_VECTOR(short, short, 2)
FAKEGPU_VECTOR(unsigned short, ushort, 2)
FAKEGPU_VECTOR(int, int, 4)
FAKEGPU_VECTOR(unsigned int, uint, 4)
FAKEGPU_VECTOR(float, float, 4)

struct __attribute__((aligned(16))) longlong2 {
    long long x, y;
};
struct __attribute__((aligned(16))) ulonglong2 {
    unsigned long long x, y;
};
struct __attribute__((aligned(16))) double2 {
    double x, y;
};
typedef struct longlong2 longlong2;
typedef struct ulonglong2 ulonglong2;
typedef struct double2 double2;

struct dim3 {
    unsigned int x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned int vx = 1, unsigned int vy = 1, unsigned int vz = 1) : x(vx), y(vy), z(vz) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
#endif
};
typedef struct dim3 dim3;

#endif
