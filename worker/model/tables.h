/*
 * tables.h - a model's own calibration tables: `refrain-tables.json` in its directory (`refrain calibrate`
 * makes it; other programs ignore it).
 *
 *     {"tables": [{"kind": "magcache", "name": "reference", "steps": 50, "shift": 3.0, "width": 1,
 *                  "values": [1.0, 1.002, ...]}]}
 *
 *     json_t *tables;
 *     tables_read("models/reference", &config, &tables, &error);   each with the fields of message CacheTable
 *
 * Any thread.
 */
#ifndef REFRAIN_WORKER_MODEL_TABLES_H
#define REFRAIN_WORKER_MODEL_TABLES_H

#include <jansson.h>
#include "base/status.h"
#include "worker/model/config.h"

/* *tables: a new list, empty when there is no such file. Numbers that name the architecture are filled in
 * from the configuration; a file that gives others is of another model and refused. Errors name file and key.
 */
status_t tables_read(const char *directory, const struct model_config *config, json_t **tables,
                     struct error *error);

#endif
