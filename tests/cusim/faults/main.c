/* main.c - runs one kernel with a planted fault and prints the n numbers it made: faults NAME N. A program of
 * its own, built three times (bare, asan, tsan), since most faults end it. */
#include "tests/cusim/faults/faults.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **arguments)
{
    int n = count > 2 ? atoi(arguments[2]) : 0, *in, *out, *host = malloc(512 * sizeof *host);
    cudaStream_t stream;
    if (n < 1 || n > 512 || !host || cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) ||
        cudaMalloc((void **)&in, 512 * sizeof *in) || cudaMalloc((void **)&out, (size_t)n * sizeof *out))
        return 2;
    for (int i = 0; i < 512; i++) host[i] = i;
    cudaMemcpy(in, host, 512 * sizeof *in, cudaMemcpyHostToDevice);
    cudaMemsetAsync(out, 0, (size_t)n * sizeof *out, stream);
    if (!fault_launch(arguments[1], stream, in, out, n)) return 2;
    if (cudaGetLastError() || cudaStreamSynchronize(stream)) return 3;
    cudaMemcpy(host, out, (size_t)n * sizeof *out, cudaMemcpyDeviceToHost);
    for (int i = 0; i < n; i++) printf("%d ", host[i]);
    cudaFree(in);
    cudaFree(out);
    cudaStreamDestroy(stream);
    free(host);
    return 0;
}
