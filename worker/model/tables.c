/* tables.c - see tables.h. */
#include "worker/model/tables.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/caching.h"
#include "proto/validate.h"
#include "worker/model/json_fields.h"

enum { TABLES_MAX_BYTES = 16 << 20 };

/* The file as JSON; *root stays NULL when there is none. */
static status_t load(const char *path, json_t **root, struct error *error)
{
    struct stat info;
    json_error_t reason;
    if (stat(path, &info) != 0) {
        if (errno == ENOENT) return STATUS_OK;
        return error_set(error, STATUS_IO, "%s: cannot be read: %m", path);
    }
    if (!S_ISREG(info.st_mode) || info.st_size > TABLES_MAX_BYTES)
        return error_set(error, STATUS_CORRUPT, "%s: is not a file of at most %d bytes", path,
                         TABLES_MAX_BYTES);
    json_t *read = json_load_file(path, JSON_REJECT_DUPLICATES, &reason);
    if (!read) return error_set(error, STATUS_CORRUPT, "%s: line %d: %s", path, reason.line, reason.text);
    if (!json_is_array(json_object_get(read, "tables"))) {
        json_decref(read);
        return error_set(error, STATUS_CORRUPT, "%s: has no list \"tables\"", path);
    }
    *root = read;
    return STATUS_OK;
}

/* Present or not, it must be the model's. */
static void fill_architecture(struct json_fields *f, const char *key, int of_model)
{
    int given = json_int(f, key, of_model, 0, 1 << 30);
    if (given != of_model)
        json_refuse(f, STATUS_INVALID, "%s is %d, and the model has %d: the table is of another model", key,
                    given, of_model);
    json_object_set_new(f->root, key, json_integer(of_model));
}

static void check_kind(struct json_fields *f)
{
    char kinds[128];
    const char *kind = json_text(f, "kind", "missing"), *name = json_text(f, "name", "");
    if (!caching_kind_known(kind))
        json_refuse(f, STATUS_INVALID, "kind is %.32s; must be one of %s", kind,
                    caching_kinds(kinds, sizeof kinds));
    if (strlen(name) > LIMIT_LABEL_BYTES)
        json_refuse(f, STATUS_INVALID, "name of %zu bytes: at most %d bytes are allowed", strlen(name),
                    LIMIT_LABEL_BYTES);
}

/* Adds to *count. JSON has no infinities and no NaN, and jansson refuses what overflows: numbers are finite.
 */
static void check_values(struct json_fields *f, size_t *count)
{
    json_t *values = json_object_get(f->root, "values");
    size_t length = json_array_size(values), width = (size_t)json_int(f, "width", 1, 1, LIMIT_TABLE_VALUES);
    json_object_set_new(f->root, "width", json_integer((json_int_t)width));
    if (length == 0 || length % width != 0)
        json_refuse(f, STATUS_INVALID, "values must be a list of numbers in rows of %zu (it has %zu)", width,
                    length);
    for (size_t i = 0; i < length && f->status == STATUS_OK; i++)
        if (!json_is_number(json_array_get(values, i)))
            json_refuse(f, STATUS_INVALID, "values[%zu] is not a number", i);
    *count += length;
}

/* One entry, completed in place. `path` names it in sentences. */
static status_t check_table(const char *path, json_t *table, const struct model_config *config, size_t *count,
                            struct error *error)
{
    const struct denoiser_config *d = &config->denoiser;
    struct json_fields f = {.root = table, .error = error, .status = STATUS_OK};
    if (snprintf(f.path, sizeof f.path, "%s", path) >= (int)sizeof f.path || !json_is_object(table))
        return error_set(error, STATUS_CORRUPT, "%s: is not a JSON object", path);
    check_kind(&f);
    json_int(&f, "steps", 0, 0, LIMIT_STEPS);
    json_t *shift = json_object_get(table, "shift");
    if (!json_is_number(shift) || json_number_value(shift) != 0) /* 0: made for any */
        json_number(&f, "shift", 0, 0, LIMIT_SHIFT);
    fill_architecture(&f, "layers", d->layers);
    fill_architecture(&f, "heads", d->heads);
    fill_architecture(&f, "head_dim", d->head_dim);
    fill_architecture(&f, "ffn_dim", d->ffn_dim);
    fill_architecture(&f, "latent_channels", d->in_channels);
    if (config->experts > 1 || json_object_get(table, "experts"))
        fill_architecture(&f, "experts", config->experts);
    check_values(&f, count);
    return f.status;
}

static status_t check_tables(const char *path, json_t *tables, const struct model_config *config,
                             struct error *error)
{
    char where[PATH_MAX + 32];
    size_t values = 0, count = json_array_size(tables);
    status_t status = STATUS_OK;
    if (count > LIMIT_CARD_TABLES)
        return error_set(error, STATUS_INVALID, "%s: has %zu tables, at most %d are allowed", path, count,
                         LIMIT_CARD_TABLES);
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        snprintf(where, sizeof where, "%s: tables[%zu]", path, i);
        status = check_table(where, json_array_get(tables, i), config, &values, error);
    }
    if (status == STATUS_OK && values > LIMIT_TABLE_VALUES)
        status = error_set(error, STATUS_INVALID, "%s: has %zu values in all, at most %d are allowed", path,
                           values, LIMIT_TABLE_VALUES);
    return status;
}

status_t tables_read(const char *directory, const struct model_config *config, json_t **tables,
                     struct error *error)
{
    char path[PATH_MAX];
    json_t *root = NULL;
    if (snprintf(path, sizeof path, "%s/refrain-tables.json", directory) >= (int)sizeof path)
        return error_set(error, STATUS_INVALID, "%s: the path is longer than %d bytes", directory, PATH_MAX);
    status_t status = load(path, &root, error);
    json_t *list = json_object_get(root, "tables");
    if (status == STATUS_OK && list) status = check_tables(path, list, config, error);
    if (status == STATUS_OK) {
        json_t *made = list ? json_incref(list) : json_array();
        if (made)
            *tables = made;
        else
            status = error_set(error, STATUS_NO_MEMORY, "no memory for calibration tables");
    }
    json_decref(root);
    return status;
}
