/* plugin.c - see plugin.h. */
#include "kernels/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const struct gpu_plugin *loaded;

/* Where it should be: PLUGIN_FILE in $REFRAIN_PLUGINS, or in the directory of this program. */
static void find(char path[PATH_MAX])
{
    const char *directory = getenv("REFRAIN_PLUGINS");
    if (directory && *directory) {
        snprintf(path, PATH_MAX, "%s/" PLUGIN_FILE, directory);
        return;
    }
    char program[PATH_MAX - sizeof PLUGIN_FILE];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash) *slash = 0;
    snprintf(path, PATH_MAX, "%s/" PLUGIN_FILE, slash ? program : ".");
}

/* dlerror names the library that could not be found, at the beginning of its sentence. */
static status_t explain(const char *path, const char *reason, struct error *error)
{
    static const char *const libraries[] = {"libcudart", "libcublasLt", "libnccl"};
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++)
        if (strncmp(reason, libraries[i], strlen(libraries[i])) == 0)
            return error_set(
                error, STATUS_UNSUPPORTED,
                "%s needs %.*s, which is not found: install CUDA's runtime libraries of that version, or "
                "add their directory to LD_LIBRARY_PATH",
                path, (int)strcspn(reason, ": "), reason);
    return error_set(error, STATUS_UNSUPPORTED, "%s cannot be loaded: %s", path, reason);
}

static status_t load(const char *path, struct error *error)
{
    if (access(path, F_OK) != 0)
        return error_set(error, STATUS_NOT_FOUND, "built without CUDA: there is no %s; make CUDA=1 makes it",
                         path);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object) return explain(path, dlerror(), error);
    const struct gpu_plugin *plugin = dlsym(object, PLUGIN_SYMBOL);
    if (!plugin || strcmp(plugin->version, REFRAIN_VERSION) != 0 || plugin->ops_bytes != sizeof(struct ops)) {
        error_set(error, STATUS_UNSUPPORTED,
                  "%s is of another build (%s, this program is %s): make CUDA=1 again", path,
                  plugin ? plugin->version : "no " PLUGIN_SYMBOL, REFRAIN_VERSION);
        dlclose(object);
        return STATUS_UNSUPPORTED;
    }
    loaded = plugin;
    return STATUS_OK;
}

status_t plugin_load(const struct gpu_plugin **plugin, struct error *error)
{
    char path[PATH_MAX];
    status_t status = STATUS_OK;
    pthread_mutex_lock(&mutex);
    if (!loaded) {
        find(path);
        status = load(path, error);
    }
    if (status == STATUS_OK) *plugin = loaded;
    pthread_mutex_unlock(&mutex);
    return status;
}
