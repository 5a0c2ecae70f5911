/* cudnn_library.c - see cudnn_library.h. */
#include "kernels/cuda/cudnn_library.h"

#include <dlfcn.h>
#include <string.h>

static const struct {
    const char *name;
    size_t place; /* of its pointer in struct cudnn_library */
} calls[] = {
    {"cudnnGetVersion", offsetof(struct cudnn_library, get_version)},
    {"cudnnGetErrorString", offsetof(struct cudnn_library, error_string)},
    {"cudnnGetLastErrorString", offsetof(struct cudnn_library, last_error)},
    {"cudnnCreate", offsetof(struct cudnn_library, create)},
    {"cudnnDestroy", offsetof(struct cudnn_library, destroy)},
    {"cudnnSetStream", offsetof(struct cudnn_library, set_stream)},
    {"cudnnBackendCreateDescriptor", offsetof(struct cudnn_library, descriptor_create)},
    {"cudnnBackendDestroyDescriptor", offsetof(struct cudnn_library, descriptor_destroy)},
    {"cudnnBackendFinalize", offsetof(struct cudnn_library, finalize)},
    {"cudnnBackendSetAttribute", offsetof(struct cudnn_library, set)},
    {"cudnnBackendGetAttribute", offsetof(struct cudnn_library, get)},
    {"cudnnBackendExecute", offsetof(struct cudnn_library, execute)},
};

status_t cudnn_library_load(const char *name, struct cudnn_library *out, struct error *error)
{
    struct cudnn_library library = {0};
    void *object = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!object) return error_set(error, STATUS_UNSUPPORTED, "cuDNN cannot be loaded: %s", dlerror());
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        void *found = dlsym(object, calls[i].name);
        if (!found)
            return error_set(error, STATUS_UNSUPPORTED, "the cuDNN installed has no %s: it is too old",
                             calls[i].name);
        memcpy((char *)&library + calls[i].place, &found, sizeof found);
    }
    library.version = (int)library.get_version();
    if (library.version < CUDNN_OLDEST)
        return error_set(error, STATUS_UNSUPPORTED,
                         "cuDNN %d.%d.%d is installed, 9.13.1 is the oldest whose attention can be used",
                         library.version / 10000, library.version / 100 % 100, library.version % 100);
    *out = library;
    return STATUS_OK;
}

status_t cudnn_library_refused(const struct cudnn_library *library, const char *what, cudnnStatus_t code,
                               struct error *error)
{
    char reason[160] = "";
    library->last_error(reason, sizeof reason);
    for (char *c = reason; *c; c++)
        if (*c == '\n') *c = ' '; /* a sentence is a line */
    status_t status = code / 1000 * 1000 == CUDNN_STATUS_NOT_SUPPORTED ? STATUS_UNSUPPORTED : STATUS_IO;
    return error_set(error, status, "cuDNN refused %s: %s%s%s", what, library->error_string(code),
                     *reason ? ": " : "", reason);
}
