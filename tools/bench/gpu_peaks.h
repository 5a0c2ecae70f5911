/*
 * gpu_peaks.h - what a GPU can do at most, as a benchmark compares with it: from NVIDIA's data sheets and architecture
 * papers, for products by name, else for the first product of a compute capability.
 */
#ifndef REFRAIN_TOOLS_BENCH_GPU_PEAKS_H
#define REFRAIN_TOOLS_BENCH_GPU_PEAKS_H

struct gpu_peak {
    const char *name;   /* what the name of the GPU holds; NULL: any of that capability */
    int capability;     /* compute capability times 10 */
    double tflops, gbs; /* dense bf16 with sums in float32 (tf32 is half of it); memory */
};

/* kind: as ops->locate tells it, "NAME, sm_90". NULL: nothing is known. */
const struct gpu_peak *gpu_peak_find(const char *kind);

#endif
