/* faults.h - kernels with a planted fault, by name. */
#ifndef REFRAIN_CUSIM_FAULTS_H
#define REFRAIN_CUSIM_FAULTS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* in: [512]; out: [n]. False: there is no such kernel. */
bool fault_launch(const char *name, cudaStream_t stream, const int *in, int *out, int n);

#ifdef __cplusplus
}
#endif

#endif
