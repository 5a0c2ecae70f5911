/*
 * table.c - the cpu backend's op table for one instruction set.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/backends.h"
#include "kernels/local.h"

#define STRINGIFY(x) #x
#define STRING_OF(x) STRINGIFY(x)

const struct ops FOR_ISA(ops_cpu) = {
    .name = "cpu-" STRING_OF(ISA),
    LOCAL_OPS,
    .linear_create = FOR_ISA(linear_create),
    .linear_destroy = FOR_ISA(linear_destroy),
    .linear_bytes = FOR_ISA(linear_bytes),
    .linear_part = FOR_ISA(linear_part),
    .linear = FOR_ISA(linear),
    .layer_norm = FOR_ISA(layer_norm),
    .rms_norm = FOR_ISA(rms_norm),
    .rms_norm_rope = FOR_ISA(rms_norm_rope),
    .attention = FOR_ISA(attention),
    .conv_create = FOR_ISA(conv_create),
    .conv_destroy = FOR_ISA(conv_destroy),
    .conv_bytes = FOR_ISA(conv_bytes),
    .conv = FOR_ISA(conv),
    .channel_norm = FOR_ISA(channel_norm),
    .lincomb = FOR_ISA(lincomb),
    .lincomb_rows = FOR_ISA(lincomb_rows),
    .reduce2 = FOR_ISA(reduce2),
    .mix = FOR_ISA(mix),
    .silu = FOR_ISA(silu),
};
