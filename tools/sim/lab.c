/* lab.c - see lab.h. One thread. */
#include "tools/sim/lab.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tools/sim/tiny.h"

status_t lab_open(const char *source, struct lab *lab, struct error *error)
{
    static const char *const places[] = {"/dev/shm", "/tmp"};
    *lab = (struct lab){.source = source};
    for (int i = 0; i < 2; i++) {
        snprintf(lab->directory, sizeof lab->directory, "%s/refrain-sim-XXXXXX", places[i]);
        if (mkdtemp(lab->directory)) return STATUS_OK;
    }
    return error_set(error, STATUS_IO, "%s: %m", lab->directory);
}

static void model_path(const struct lab *lab, int layers, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/model-%d", lab->directory, layers);
}

void lab_close(struct lab *lab)
{
    char path[PATH_MAX];
    for (int i = 0; i < lab->count; i++) {
        model_path(lab, lab->layers[i], path);
        tiny_remove(path);
    }
    rmdir(lab->directory);
}

status_t lab_model(struct lab *lab, int layers, char directory[PATH_MAX], struct error *error)
{
    model_path(lab, layers, directory);
    for (int i = 0; i < lab->count; i++)
        if (lab->layers[i] == layers) return STATUS_OK;
    if (lab->count == LAB_MODELS)
        return error_set(error, STATUS_NO_MEMORY, "more than %d models", LAB_MODELS);
    lab->layers[lab->count++] = layers;
    const struct tiny_shape shape = {.layers = layers, .heads = lab->heads, .head_dim = lab->head_dim};
    return tiny_make(lab->source, directory, &shape, error);
}
