/* gpu_peaks.c - see gpu_peaks.h. */
#include "tools/bench/gpu_peaks.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* The first that fits. */
static const struct gpu_peak peaks[] = {
    {"A100-SXM4-80GB", 80, 312, 2039},
    {"A100 80GB PCIe", 80, 312, 1935},
    {"A100", 80, 312, 1555},
    {"A30", 80, 165, 933},
    {"A40", 86, 149.7, 696},
    {"A10", 86, 125, 600},
    {"RTX 3090", 86, 71, 936},
    {"L40S", 89, 362, 864},
    {"L40", 89, 181, 864},
    {"L4", 89, 121, 300},
    {"RTX 4090", 89, 165.2, 1008},
    {"GH200", 90, 989, 4000},
    {"H200", 90, 989, 4800},
    {"H100 NVL", 90, 835, 3900},
    {"H100 PCIe", 90, 756, 2000},
    {"H100", 90, 989, 3350},
    {"B200", 100, 2250, 8000},
    {"RTX 5090", 120, 209.5, 1792},
    {NULL, 80, 312, 1555},
    {NULL, 86, 71, 936},
    {NULL, 89, 165.2, 1008},
    {NULL, 90, 989, 3350},
    {NULL, 100, 2250, 8000},
    {NULL, 120, 209.5, 1792},
};

const struct gpu_peak *gpu_peak_find(const char *kind)
{
    const char *capability = strstr(kind, ", sm_");
    for (size_t i = 0; i < sizeof peaks / sizeof *peaks; i++)
        if (capability && atoi(capability + 5) == peaks[i].capability &&
            (!peaks[i].name || strstr(kind, peaks[i].name)))
            return &peaks[i];
    return NULL;
}
