/*
 * plugin.h - the GPU backend is a shared object, so that programs start where no CUDA is installed.
 *
 *     const struct gpu_plugin *gpu;
 *     if (plugin_load(&gpu, &error) != STATUS_OK) ...        the sentence says what is missing, and what to do
 *
 * refrain-cuda.so is made by `make CUDA=1` and looked for beside the program, or in $REFRAIN_PLUGINS. It exports one
 * symbol, `refrain_gpu`; it stays loaded once it was. Any thread.
 */
#ifndef REFRAIN_KERNELS_PLUGIN_H
#define REFRAIN_KERNELS_PLUGIN_H

#include "kernels/ops.h"

struct gpu_plugin {
    const char *version; /* REFRAIN_VERSION of its build: must be the program's */
    size_t ops_bytes;    /* sizeof(struct ops) likewise */
    const struct ops *ops;
    status_t (*usable)(struct error *error); /* whether this machine has a GPU that `open` could take */
};

#define PLUGIN_FILE   "refrain-cuda.so"
#define PLUGIN_SYMBOL "refrain_gpu"

status_t plugin_load(const struct gpu_plugin **plugin, struct error *error);

#endif
