/*
 * test_cuda_cudnn_real.c - the installed cuDNN itself, without a GPU: it takes a device that is only described (an H100, in
 * the JSON that its own CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR reads), our description of attention, and goes as far as it can.
 * Without a driver its heuristics propose engines, none of which can be tried; with the driver's stub that comes with CUDA it
 * compiles the kernel and fails to load it. Skipped where cuDNN 9.13.1 or later is not installed.
 */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/cuda/cudnn_plan.h"

static const char h100[] =
    "{\"deviceName\": \"NVIDIA H100 80GB HBM3\", \"deviceVer\": 900, \"driverVer\": 13000, \"cudaDeviceId\": "
    "0, "
    "\"multiProcessorCount\": 132, \"maxGridSize\": [2147483647, 65535, 65535], \"maxBlockSize\": [1024, "
    "1024, "
    "64], \"warpSize\": 32, \"maxSharedMemoryPerBlock\": 49152, \"maxSharedMemoryPerBlockOptin\": 232448, "
    "\"reservedSharedMemoryPerBlock\": 1024, \"regsPerBlock\": 65536, \"maxRegistersPerSM\": 65536, "
    "\"maxCtasPerSM\": 32, \"maxThreadsPerBlock\": 1024, \"maxThreadsPerSM\": 2048, \"smClockRateKHz\": "
    "1980000, \"memClockRateKHz\": 2619000, \"l2CacheSize\": 52428800, \"pciDeviceId\": 0, \"isTccDriver\": "
    "0, "
    "\"supportCoopLaunch\": 1, \"totalGlobalMem\": 85017755648}";

static struct cudnn_library cudnn;
static struct cudnn_target target;
static bool driver, stub;

/* What came of a plan for this shape: a sentence, or "" for a plan. */
static struct error plan_of(struct attention_shape shape)
{
    struct cudnn_plan *plan;
    struct error error = {0};
    if (cudnn_plan_make(&cudnn, &target, &shape, 160 << 20, &plan, &error) == STATUS_OK)
        cudnn_plan_destroy(&cudnn, plan);
    if (*error.text) print_message("%s\n", error.text);
    return error;
}

/* As far as this machine allows. */
static void accepted(struct attention_shape shape)
{
    struct error error = plan_of(shape);
    if (driver)
        assert_string_equal(error.text, "");
    else
        assert_non_null(
            strstr(error.text, stub ? "cuLibraryLoadData returned error" : "no deterministic engine for it"));
}

static void attention_of_a_video_model_is_taken(void **state)
{
    const int64_t hidden = 5120;
    accepted((struct attention_shape){3 * hidden, 3 * hidden, 3 * hidden, hidden, 75600, 75600, 40, 128});
    accepted((struct attention_shape){hidden, 2 * hidden, 2 * hidden, hidden, 75600, 512, 40, 128});
}

static void attention_of_odd_sizes_is_taken(void **state)
{
    accepted((struct attention_shape){128, 128, 128, 128, 1, 1, 2, 64});
    accepted((struct attention_shape){136, 264, 264, 128, 333, 77, 2, 64});
    accepted((struct attention_shape){3 * 768, 3 * 768, 3 * 768, 768, 1001, 1001, 8, 96});
}

/* So that being taken means something. */
static void attention_that_cannot_be_is_refused(void **state)
{
    struct error error = plan_of((struct attention_shape){-128, 128, 128, 128, 5, 9, 2, 64});
    assert_non_null(strstr(error.text, "cuDNN refused a tensor: CUDNN_STATUS_BAD_PARAM"));
    error = plan_of((struct attention_shape){40, 40, 40, 40, 5, 9, 2, 20}); /* heads of 20 */
    assert_non_null(strstr(error.text, "no deterministic engine for it"));
}

static int describe(void **state)
{
    cudnnBackendDescriptor_t device;
    if (cudnn.descriptor_create(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &device) != CUDNN_STATUS_SUCCESS ||
        cudnn.set(device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, sizeof h100, h100) !=
            CUDNN_STATUS_SUCCESS ||
        cudnn.finalize(device) != CUDNN_STATUS_SUCCESS)
        return -1;
    target.properties = device;
    return 0;
}

int main(void)
{
    struct error error;
    driver = dlopen("libcuda.so.1", RTLD_NOW) != NULL;
    stub = !driver && *CUDA_STUB && dlopen(CUDA_STUB, RTLD_NOW); /* its name is libcuda.so.1 */
    if (cudnn_library_load(CUDNN_SONAME, &cudnn, &error) != STATUS_OK) {
        printf("%s\n", error.text);
        return 77;
    }
    printf("cuDNN %d, %s\n", cudnn.version,
           driver ? "a driver"
           : stub ? "the stub of a driver"
                  : "no driver");
    const struct CMUnitTest tests[] = {cmocka_unit_test(attention_of_a_video_model_is_taken),
                                       cmocka_unit_test(attention_of_odd_sizes_is_taken),
                                       cmocka_unit_test(attention_that_cannot_be_is_refused)};
    return cmocka_run_group_tests(tests, describe, NULL);
}
