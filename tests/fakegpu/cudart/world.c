/* world.c - the machine that the environment describes; README has the list. Read once. */
#include "tests/fakegpu/fakegpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct world the_world;

static long number(const char *name, long usual)
{
    const char *text = getenv(name);
    return text && *text ? strtol(text, NULL, 10) : usual;
}

/* Element `index` of a comma-separated list, the last one when the list is shorter; `usual` when it is not
 * set. */
static const char *element(const char *name, int index, const char *usual, char text[static 64])
{
    const char *list = getenv(name);
    if (!list || !*list) list = usual;
    for (; index > 0; index--) {
        const char *comma = strchr(list, ',');
        if (!comma) break;
        list = comma + 1;
    }
    snprintf(text, 64, "%.*s", (int)strcspn(list, ","), list);
    return text;
}

static int rank(void)
{
    static const char *const names[] = {"REFRAIN_FAKEGPU_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK",
                                        "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return atoi(getenv(names[i]));
    return 0;
}

/* Figures of the cards of that capability (CUDA programming guide, "Technical specifications per compute
 * capability"). */
static struct gpu gpu_of(int identity, int index)
{
    char text[64];
    struct gpu gpu = {.identity = identity, .major = 9, .minor = 0};
    sscanf(element("REFRAIN_FAKEGPU_CAPABILITY", index, "9.0", text), "%d.%d", &gpu.major, &gpu.minor);
    gpu.memory_bytes = (size_t)strtoul(element("REFRAIN_FAKEGPU_MEMORY_MB", index, "4096", text), NULL, 10)
                       << 20;
    int capability = gpu.major * 10 + gpu.minor;
    gpu.multiprocessors = capability == 80 ? 108 : capability == 90 ? 132 : capability == 100 ? 148 : 84;
    gpu.shared_optin_bytes = capability < 80                         ? 64 << 10
                             : capability == 80                      ? 163 << 10
                             : capability == 90 || capability == 100 ? 227 << 10
                                                                     : 99 << 10;
    return gpu;
}

static unsigned lints(void)
{
    const char *text = getenv("REFRAIN_FAKEGPU_LINT");
    if (!text) return 0;
    return (strstr(text, "default-stream") ? LINT_DEFAULT_STREAM : 0) |
           (strstr(text, "pageable") ? LINT_PAGEABLE : 0) | (strstr(text, "leaks") ? LINT_LEAKS : 0);
}

static void read_world(void)
{
    struct world *w = &the_world;
    int physical = (int)number("REFRAIN_FAKEGPU_DEVICES", 1);
    w->rank = rank();
    w->driver_version = (int)number("REFRAIN_FAKEGPU_DRIVER", 13000);
    w->runtime_version = (int)number("REFRAIN_FAKEGPU_RUNTIME", 13000);
    w->lints = lints();
    w->protect = number("REFRAIN_FAKEGPU_PROTECT", 0) != 0;
    const char *kernels = getenv("REFRAIN_FAKEGPU_KERNELS");
    w->kernels_path = kernels && *kernels ? kernels : NULL;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    for (int i = 0; w->devices < DEVICES_MAX; i++) {
        int identity = i;
        if (visible) {
            char *end;
            identity = (int)strtol(visible, &end, 10);
            if (end == visible || identity < 0)
                break; /* as CUDA does: the list ends at the first that is none */
            visible = *end == ',' ? end + 1 : end;
        }
        if (identity >= physical) break;
        /* A machine of several devices is described by device, machines of one device by rank. */
        w->gpu[w->devices++] = gpu_of(identity, physical > 1 ? identity : w->rank);
    }
}

const struct world *world(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_world);
    return &the_world;
}
