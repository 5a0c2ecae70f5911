/*
 * ops.c - which backends this machine can run. Any thread; the only state is what the processor says, and the plug-in.
 */
#include "kernels/ops.h"
#include <string.h>
#include "kernels/backends.h"
#include "kernels/plugin.h"

enum { BACKENDS = 3 };

/* The compiler's run-time library asks CPUID, and whether the operating system saves the wide registers. */
static bool runs_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

static bool runs_avx512(void)
{
#if defined(__x86_64__)
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

const struct ops *const *ops_available(void)
{
    /* Slowest first; each level includes the ones before, so that a machine's list is a prefix. */
    static const struct ops *const up_to_ref[] = {&ops_ref, NULL};
    static const struct ops *const up_to_avx2[] = {&ops_ref, &ops_cpu_avx2, NULL};
    static const struct ops *const up_to_avx512[BACKENDS + 1] = {&ops_ref, &ops_cpu_avx2, &ops_cpu_avx512,
                                                                 NULL};
    if (runs_avx512()) return up_to_avx512;
    if (runs_avx2()) return up_to_avx2;
    return up_to_ref;
}

status_t ops_choose(const char *name, const struct ops **ops, struct error *error)
{
    const struct ops *const *all = ops_available();
    const struct ops *found = NULL;
    const struct gpu_plugin *gpu;
    bool fastest = strcmp(name, "auto") == 0, cuda = strcmp(name, "cuda") == 0, on_gpu = false;
    if (cuda || fastest) {
        status_t status = plugin_load(&gpu, cuda ? error : NULL);
        if (status == STATUS_OK) status = gpu->usable(cuda ? error : NULL);
        on_gpu = status == STATUS_OK;
        if (on_gpu) found = gpu->ops;
        if (cuda && status != STATUS_OK) return status;
    }
    for (int i = 0; all[i] && !on_gpu; i++)
        if (fastest || strcmp(name, all[i]->name) == 0) found = all[i];
    if (!found) return error_set(error, STATUS_UNSUPPORTED, "backend %s: this machine cannot run it", name);
    *ops = found;
    return STATUS_OK;
}

const struct ops *ops_find(const char *name)
{
    const struct ops *ops = NULL;
    return ops_choose(name, &ops, NULL) == STATUS_OK ? ops : NULL;
}
