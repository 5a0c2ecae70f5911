/*
 * lab.h - where experiments are made: a private directory, and tiny models with as many blocks as they need.
 *
 *     struct lab lab;
 *     lab_open("tests/models/tiny-a", &lab, &error);
 *     lab_model(&lab, 40, directory, &error);
 *     lab_close(&lab);
 */
#ifndef REFRAIN_TOOLS_SIM_LAB_H
#define REFRAIN_TOOLS_SIM_LAB_H

#include <limits.h>
#include "base/status.h"

enum { LAB_MODELS = 8 };

/* A private directory with the models that were made so far; all in memory where the system has /dev/shm. */
struct lab {
    char directory[256];
    const char *source; /* the small checkpoint they are made of */
    int heads, head_dim; /* of the models, as in tools/sim/tiny.h; 0: the source's */
    int count, layers[LAB_MODELS];
};

status_t lab_open(const char *source, struct lab *lab, struct error *error);
void lab_close(struct lab *lab);
/* The checkpoint with so many blocks: its directory. */
status_t lab_model(struct lab *lab, int layers, char directory[PATH_MAX], struct error *error);

#endif
