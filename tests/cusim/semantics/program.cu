/* program.cu - a program as users build it: by nvcc, against the real headers and libraries.
 * tests/test_cuda_nvcc.c runs it over the stand-ins, unchanged. Prints what it found; status 0 when all of it
 * was right. */
#include "kernels/cuda/gpu.h"
#include "tests/cusim/semantics/semantics.h"
#include <cublasLt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A kernel of this file, with a device variable and an argument that is a struct. */
__device__ float offset = 4;

__global__ void shift(float *x, int n, float2 by)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += by.x * by.y + offset;
}

static bool right = true;

static void tell(const char *what, bool holds)
{
    printf("%s: %s\n", what, holds ? "right" : "wrong");
    right = right && holds;
}

static void check(const char *what, cudaError_t error)
{
    if (!error) return;
    printf("%s: %s\n", what, cudaGetErrorString(error));
    exit(3);
}

static void run_kernels(cudaStream_t stream)
{
    const int n = 4096;
    float *x, *sum, *host = (float *)malloc(n * sizeof(float));
    check("cudaMalloc", cudaMalloc(&x, n * sizeof(float)));
    check("cudaMalloc", cudaMalloc(&sum, sizeof(float)));
    for (int i = 0; i < n; i++) host[i] = (float)(i % 7);
    check("cudaMemcpyAsync", cudaMemcpyAsync(x, host, n * sizeof(float), cudaMemcpyHostToDevice, stream));
    check("cudaMemsetAsync", cudaMemsetAsync(sum, 0, sizeof(float), stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check("cudaStreamBeginCapture", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    check("scale", semantics_scale(stream, x, n, 2));
    GPU_LAUNCH(shift, n / 64, 64, 0, stream, x, n, make_float2(3, 0.5f));
    check("shift", cudaGetLastError());
    check("cudaStreamEndCapture", cudaStreamEndCapture(stream, &graph));
    check("cudaGraphInstantiate", cudaGraphInstantiate(&exec, graph, 0));
    check("cudaGraphLaunch", cudaGraphLaunch(exec, stream));
    check("cudaGraphLaunch", cudaGraphLaunch(exec, stream));
    check("sum", semantics_sum(stream, x, sum, n, 3, 128));
    float got = 0, expected = 0;
    for (int i = 0; i < n; i++) expected += (host[i] * 2 + 5.5f) * 2 + 5.5f;
    check("cudaMemcpyAsync", cudaMemcpyAsync(&got, sum, sizeof(float), cudaMemcpyDeviceToHost, stream));
    check("cudaStreamSynchronize", cudaStreamSynchronize(stream));
    tell("kernels in a graph", got == expected);
    cudaGraphDestroy(graph), cudaGraphExecDestroy(exec);
    cudaFree(x), cudaFree(sum), free(host);
}

/* The same product by our kernel on tensor cores and by cuBLASLt. */
static void run_products(cudaStream_t stream)
{
    const int m = 64, n = 128, k = 96;
    uint16_t *a, *b, *host = (uint16_t *)malloc((m + n) * k * sizeof(uint16_t));
    float *own, *library, *made = (float *)malloc(2 * m * n * sizeof(float));
    check("cudaMalloc", cudaMalloc(&a, m * k * sizeof(uint16_t)));
    check("cudaMalloc", cudaMalloc(&b, n * k * sizeof(uint16_t)));
    check("cudaMalloc", cudaMalloc(&own, m * n * sizeof(float)));
    check("cudaMalloc", cudaMalloc(&library, m * n * sizeof(float)));
    for (int i = 0; i < (m + n) * k; i++) host[i] = __bfloat16_as_ushort(__float2bfloat16(sinf((float)i)));
    check("cudaMemcpy", cudaMemcpy(a, host, m * k * sizeof(uint16_t), cudaMemcpyHostToDevice));
    check("cudaMemcpy", cudaMemcpy(b, host + m * k, n * k * sizeof(uint16_t), cudaMemcpyHostToDevice));
    check("gemm", semantics_gemm(stream, a, b, own, m, n, k));

    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t la, lb, lc;
    cublasOperation_t transpose = CUBLAS_OP_T;
    float one = 1, zero = 0;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose);
    cublasLtMatrixLayoutCreate(&lb, CUDA_R_16BF, k, n, k);
    cublasLtMatrixLayoutCreate(&la, CUDA_R_16BF, k, m, k);
    cublasLtMatrixLayoutCreate(&lc, CUDA_R_32F, n, m, n);
    cublasStatus_t status = cublasLtMatmul(handle, desc, &one, b, lb, a, la, &zero, library, lc, library, lc,
                                           NULL, NULL, 0, stream);
    tell("cublasLtMatmul returns success", status == CUBLAS_STATUS_SUCCESS);
    check("cudaStreamSynchronize", cudaStreamSynchronize(stream));
    check("cudaMemcpy", cudaMemcpy(made, own, m * n * sizeof(float), cudaMemcpyDeviceToHost));
    check("cudaMemcpy", cudaMemcpy(made + m * n, library, m * n * sizeof(float), cudaMemcpyDeviceToHost));
    float worst = 0;
    for (int i = 0; i < m * n; i++) worst = fmaxf(worst, fabsf(made[i] - made[m * n + i]));
    tell("our product equals cuBLASLt's", worst < 1e-4f && made[0] != 0);
    cublasLtMatrixLayoutDestroy(la), cublasLtMatrixLayoutDestroy(lb), cublasLtMatrixLayoutDestroy(lc);
    cublasLtMatmulDescDestroy(desc), cublasLtDestroy(handle);
    cudaFree(a), cudaFree(b), cudaFree(own), cudaFree(library), free(host), free(made);
}

#ifndef REFRAIN_CUSIM
int main()
{
    int devices = -1;
    check("cudaGetDeviceCount", cudaGetDeviceCount(&devices));
    cudaDeviceProp properties;
    check("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, 0));
    printf("%s, %zu MiB, %d multiprocessors\n", properties.name, properties.totalGlobalMem >> 20,
           properties.multiProcessorCount);
    cudaStream_t stream;
    check("cudaStreamCreate", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    run_kernels(stream);
    run_products(stream);
    check("cudaStreamDestroy", cudaStreamDestroy(stream));
    return right ? 0 : 1;
}
#endif
