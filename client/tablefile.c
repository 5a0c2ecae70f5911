/* tablefile.c - see tablefile.h. */
#include "client/tablefile.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* As much as a coordinator takes of a model's directory. */
enum { FILE_BYTES = 16 << 20, MOST_TABLES = 1000 };

/* ------------------------------------------------------------------------------------ reading */

static status_t load(const char *path, json_t **root, struct error *error)
{
    struct stat there;
    json_error_t where;
    if (stat(path, &there) != 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: cannot be read: %m",
                         path);
    if (!S_ISREG(there.st_mode)) return error_set(error, STATUS_INVALID, "%s: is not a file", path);
    if (there.st_size > FILE_BYTES)
        return error_set(error, STATUS_INVALID, "%s: larger than %d bytes", path, FILE_BYTES);
    *root = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (*root) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s: is not JSON: %s (line %d)", path, where.text, where.line);
}

static status_t read_whole(const json_t *object, const char *key, unsigned *value, struct error *error)
{
    const json_t *found = json_object_get(object, key);
    if (!found) return STATUS_OK;
    json_int_t number = json_integer_value(found);
    if (!json_is_integer(found) || number < 0 || number > 1 << 30)
        return error_set(error, STATUS_INVALID, "%s: must be a whole number from 0 up", key);
    *value = (unsigned)number;
    return STATUS_OK;
}

static status_t read_text(const json_t *object, const char *key, const char **text, struct error *error)
{
    *text = json_string_value(json_object_get(object, key));
    return *text && **text ? STATUS_OK : error_set(error, STATUS_INVALID, "%s: must be a text", key);
}

static status_t read_values(const json_t *object, struct refrain_cache_table *table, struct error *error)
{
    const json_t *array = json_object_get(object, "values");
    size_t count = json_array_size(array);
    if (count == 0) return error_set(error, STATUS_INVALID, "values: must be a list of numbers");
    if (table->width == 0 || count % table->width)
        return error_set(error, STATUS_INVALID, "width %u: %zu values do not make rows of it", table->width,
                         count);
    double *values = malloc(count * sizeof *values);
    if (!values) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu values", count);
    table->values = values;
    table->count = count;
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, i);
        values[i] = json_number_value(value);
        if (!json_is_number(value) || !isfinite(values[i]))
            return error_set(error, STATUS_INVALID, "values: number %zu is not a finite number", i);
    }
    return STATUS_OK;
}

static status_t read_table(const json_t *object, struct refrain_cache_table *table, struct error *error)
{
    table->width = 1;
    const struct {
        const char *key;
        unsigned *value;
    } wholes[] = {{"layers", &table->layers},
                  {"heads", &table->heads},
                  {"head_dim", &table->head_dim},
                  {"ffn_dim", &table->ffn_dim},
                  {"latent_channels", &table->latent_channels},
                  {"experts", &table->experts},
                  {"steps", &table->steps},
                  {"width", &table->width}};
    status_t status = read_text(object, "kind", &table->kind, error);
    if (!status) status = read_text(object, "name", &table->name, error);
    for (size_t i = 0; !status && i < sizeof wholes / sizeof *wholes; i++)
        status = read_whole(object, wholes[i].key, wholes[i].value, error);
    const json_t *shift = json_object_get(object, "shift");
    table->shift = json_number_value(shift);
    if (!status && shift && !(json_is_number(shift) && table->shift >= 0 && isfinite(table->shift)))
        status = error_set(error, STATUS_INVALID, "shift: must be a number from 0 up");
    return status ? status : read_values(object, table, error);
}

static status_t read_tables(const json_t *array, struct tablefile *file, struct error *error)
{
    size_t count = json_array_size(array);
    if (!json_is_array(array)) return error_set(error, STATUS_INVALID, "tables: must be a list");
    if (count > MOST_TABLES)
        return error_set(error, STATUS_INVALID, "tables: %zu of them, at most %d", count, MOST_TABLES);
    file->tables = calloc(count + 1, sizeof *file->tables);
    if (!file->tables) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu tables", count);
    for (; file->count < count; file->count++) {
        struct refrain_cache_table *table = &file->tables[file->count];
        status_t status = read_table(json_array_get(array, file->count), table, error);
        if (!status) continue;
        error_prefix(error, "table %zu", file->count + 1);
        free((double *)(uintptr_t)table->values);
        return status;
    }
    return STATUS_OK;
}

status_t tablefile_read(const char *path, struct tablefile *file, struct error *error)
{
    json_t *root = NULL;
    *file = (struct tablefile){0};
    status_t status = load(path, &root, error);
    if (status) return status;
    file->source = root;
    status = read_tables(json_object_get(root, "tables"), file, error);
    if (status) error_prefix(error, "%s", path);
    if (status) tablefile_free(file);
    return status;
}

void tablefile_free(struct tablefile *file)
{
    for (size_t i = 0; i < file->count; i++) free((double *)(uintptr_t)file->tables[i].values);
    free(file->tables);
    json_decref(file->source);
    *file = (struct tablefile){0};
}

/* "teacache" and its variant "teacache-retention" are of one kind. */
static bool kind_is(const char *kind, const char *base)
{
    size_t length = base ? strlen(base) : 0;
    return base && strncmp(kind, base, length) == 0 && (kind[length] == 0 || kind[length] == '-');
}

void tablefile_keep(struct tablefile *file, const char *kind, const char *other_kind)
{
    size_t kept = 0;
    for (size_t i = 0; i < file->count; i++) {
        const char *of = file->tables[i].kind;
        if (kind_is(of, kind) || kind_is(of, other_kind))
            file->tables[kept++] = file->tables[i];
        else
            free((double *)(uintptr_t)file->tables[i].values);
    }
    file->count = kept;
}

/* ------------------------------------------------------------------------------------ writing */

static json_t *table_json(const struct refrain_cache_table *table)
{
    json_t *object = json_object(), *values = json_array();
    for (size_t i = 0; i < table->count; i++) json_array_append_new(values, json_real(table->values[i]));
    json_object_set_new(object, "kind", json_string(table->kind));
    json_object_set_new(object, "name", json_string(table->name));
    json_object_set_new(object, "layers", json_integer(table->layers));
    json_object_set_new(object, "heads", json_integer(table->heads));
    json_object_set_new(object, "head_dim", json_integer(table->head_dim));
    json_object_set_new(object, "ffn_dim", json_integer(table->ffn_dim));
    json_object_set_new(object, "latent_channels", json_integer(table->latent_channels));
    if (table->experts) json_object_set_new(object, "experts", json_integer(table->experts));
    json_object_set_new(object, "steps", json_integer(table->steps));
    json_object_set_new(object, "shift", json_real(table->shift));
    json_object_set_new(object, "width", json_integer(table->width));
    json_object_set_new(object, "values", values);
    return object;
}

/* Whether a table of a file is replaced by this one. */
static bool same_place(const json_t *object, const struct refrain_cache_table *table)
{
    const char *kind = json_string_value(json_object_get(object, "kind")),
               *name = json_string_value(json_object_get(object, "name"));
    return kind && name && strcmp(kind, table->kind) == 0 && strcmp(name, table->name) == 0 &&
           json_integer_value(json_object_get(object, "steps")) == (json_int_t)table->steps &&
           json_number_value(json_object_get(object, "shift")) == table->shift;
}

static void put_table(json_t *array, const struct refrain_cache_table *table)
{
    for (size_t i = json_array_size(array); i-- > 0;)
        if (same_place(json_array_get(array, i), table)) json_array_remove(array, i);
    json_array_append_new(array, table_json(table));
}

/* Beside its place first, then renamed. */
static status_t save(const char *path, const json_t *root, struct error *error)
{
    char partial[PATH_MAX];
    if ((size_t)snprintf(partial, sizeof partial, "%s.XXXXXX", path) >= sizeof partial)
        return error_set(error, STATUS_INVALID, "%s: longer than %d bytes", path, PATH_MAX - 8);
    int fd = mkstemp(partial);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    bool ok =
        file && json_dumpf(root, file, JSON_COMPACT | JSON_REAL_PRECISION(12) | JSON_PRESERVE_ORDER) == 0;
    ok = ok && fputc('\n', file) == '\n' && fflush(file) == 0 && fchmod(fd, 0644) == 0 && fsync(fd) == 0;
    if (file && fclose(file) != 0) ok = false;
    ok = ok && rename(partial, path) == 0;
    status_t status = ok ? STATUS_OK : error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
    if (!ok && fd >= 0) unlink(partial);
    return status;
}

status_t tablefile_merge(const char *path, const struct refrain_cache_table *tables, size_t count,
                         struct error *error)
{
    json_t *root = NULL;
    struct tablefile checked; /* what is there must be such a file, or somebody's other work would be lost */
    status_t status = tablefile_read(path, &checked, error);
    if (!status) {
        tablefile_free(&checked);
        status = load(path, &root, error);
    } else if (status == STATUS_NOT_FOUND) {
        root = json_pack("{s:[]}", "tables");
        status = root ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for tables");
    }
    if (status) return status;
    for (size_t i = 0; i < count; i++) put_table(json_object_get(root, "tables"), &tables[i]);
    status = save(path, root, error);
    json_decref(root);
    return status;
}
