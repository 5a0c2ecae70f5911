/*
 * json_fields.h - typed, range-checked fields of one JSON object file, with a sentence for each that does not
 * fit.
 *
 *     struct json_fields f;
 *     json_fields_open("…/config.json", &f, &error);
 *     int layers = json_int(&f, "num_layers", 40, 1, 1000);    40 if the key is missing
 *     json_must_be_null(&f, "image_dim", "image conditioning");
 *     status = json_fields_close(&f);                          the first thing that was wrong, or STATUS_OK
 *
 * The first failure sticks and later reads return their fallback, so that a list of fields reads like a list.
 * Fallbacks are what the reference's class uses for a missing key. One thread.
 */
#ifndef REFRAIN_WORKER_MODEL_JSON_FIELDS_H
#define REFRAIN_WORKER_MODEL_JSON_FIELDS_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include "base/status.h"

struct json_fields {
    json_t *root;
    char path[PATH_MAX];
    struct error *error;
    status_t status;
};

/* Fails when the file is missing, too large, not JSON or not an object; then there is nothing to close. */
status_t json_fields_open(const char *path, struct json_fields *fields, struct error *error);
status_t json_fields_close(struct json_fields *fields);

int json_int(struct json_fields *fields, const char *key, int fallback, int min, int max);
/* min < value <= max. */
double json_number(struct json_fields *fields, const char *key, double fallback, double above, double max);
bool json_bool(struct json_fields *fields, const char *key, bool fallback);
/* Borrowed from the file or the fallback. A null reads as missing. */
const char *json_text(struct json_fields *fields, const char *key, const char *fallback);

/* Lists; a missing key leaves `out` and returns -1. Otherwise the length, at most `limit`. */
int json_int_list(struct json_fields *fields, const char *key, int limit, int min, int max, int *out);
int json_bool_list(struct json_fields *fields, const char *key, int limit, bool *out);
int json_number_list(struct json_fields *fields, const char *key, int limit, double above, float *out);

/* What must hold for refrain to compute the same as the reference. `meaning`: what another value would ask
 * for. */
void json_must_be_null(struct json_fields *fields, const char *key, const char *meaning);
void json_must_be_bool(struct json_fields *fields, const char *key, bool fallback, bool wanted,
                       const char *meaning);
void json_must_be_text(struct json_fields *fields, const char *key, const char *fallback, const char *wanted);
void json_must_be_empty(struct json_fields *fields, const char *key, const char *meaning);

/* Marks the file as wrong: "path: sentence". */
void json_refuse(struct json_fields *fields, status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
