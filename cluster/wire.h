/*
 * wire.h - little-endian numbers in byte buffers, spelled out so that wire formats do not depend on the
 * machine.
 *
 * Compilers turn each of these into one load or store. The caller has checked that the bytes are there.
 */
#ifndef REFRAIN_CLUSTER_WIRE_H
#define REFRAIN_CLUSTER_WIRE_H

#include <stdint.h>
#include <string.h>

static inline void wire_put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void wire_put32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (8 * i));
}

static inline void wire_put64(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++) at[i] = (uint8_t)(value >> (8 * i));
}

static inline uint16_t wire_get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static inline uint32_t wire_get32(const uint8_t *at)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) value |= (uint32_t)at[i] << (8 * i);
    return value;
}

static inline uint64_t wire_get64(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* IEEE-754 binary32, bits as they are: NaN payloads and signed zeros survive. */
static inline void wire_put_float(uint8_t *at, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    wire_put32(at, bits);
}

static inline float wire_get_float(const uint8_t *at)
{
    uint32_t bits = wire_get32(at);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
