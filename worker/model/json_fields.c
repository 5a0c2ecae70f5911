/* json_fields.c - see json_fields.h. */
#include "worker/model/json_fields.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_MAX_BYTES = 1 << 20, VALUE_TEXT_BYTES = 64 };

status_t json_fields_open(const char *path, struct json_fields *fields, struct error *error)
{
    struct stat info;
    if (strlen(path) >= sizeof fields->path)
        return error_set(error, STATUS_INVALID, "%.100s...: the path is longer than %d bytes", path,
                         PATH_MAX);
    if (stat(path, &info) != 0)
        return error_set(error, errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
                         "%s: cannot be read: %m", path);
    if (!S_ISREG(info.st_mode) || info.st_size > CONFIG_MAX_BYTES)
        return error_set(error, STATUS_CORRUPT, "%s: is not a file of at most %d bytes", path,
                         CONFIG_MAX_BYTES);
    json_error_t reason;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &reason);
    if (!root) return error_set(error, STATUS_CORRUPT, "%s: line %d: %s", path, reason.line, reason.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(error, STATUS_CORRUPT, "%s: is not a JSON object", path);
    }
    fields->root = root;
    fields->error = error;
    fields->status = STATUS_OK;
    strcpy(fields->path, path);
    return STATUS_OK;
}

status_t json_fields_close(struct json_fields *fields)
{
    json_decref(fields->root);
    return fields->status;
}

void json_refuse(struct json_fields *fields, status_t status, const char *format, ...)
{
    if (fields->status != STATUS_OK) return;
    char sentence[ERROR_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    fields->status = error_set(fields->error, status, "%s: %s", fields->path, sentence);
}

/* The value as JSON, cut to fit: for sentences. */
static const char *value_text(const json_t *value, char text[VALUE_TEXT_BYTES])
{
    char *full = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    snprintf(text, VALUE_TEXT_BYTES, "%s", full ? full : "(unreadable)");
    free(full);
    return text;
}

/* The value of a key, NULL when missing, null, or something is already wrong. */
static const json_t *get(const struct json_fields *fields, const char *key)
{
    if (fields->status != STATUS_OK) return NULL;
    const json_t *value = json_object_get(fields->root, key);
    return json_is_null(value) ? NULL : value;
}

static bool in_range(const json_t *value, int min, int max)
{
    return json_is_integer(value) && json_integer_value(value) >= min && json_integer_value(value) <= max;
}

int json_int(struct json_fields *fields, const char *key, int fallback, int min, int max)
{
    const json_t *value = get(fields, key);
    if (!value) return fallback;
    if (in_range(value, min, max)) return (int)json_integer_value(value);
    char text[VALUE_TEXT_BYTES];
    json_refuse(fields, STATUS_INVALID, "%s is %s; must be a whole number %d to %d", key,
                value_text(value, text), min, max);
    return fallback;
}

double json_number(struct json_fields *fields, const char *key, double fallback, double above, double max)
{
    const json_t *value = get(fields, key);
    if (!value) return fallback;
    double number = json_number_value(value);
    if (json_is_number(value) && number > above && number <= max) return number;
    char text[VALUE_TEXT_BYTES];
    json_refuse(fields, STATUS_INVALID, "%s is %s; must be a number above %g, at most %g", key,
                value_text(value, text), above, max);
    return fallback;
}

bool json_bool(struct json_fields *fields, const char *key, bool fallback)
{
    const json_t *value = get(fields, key);
    if (!value) return fallback;
    if (json_is_boolean(value)) return json_is_true(value);
    char text[VALUE_TEXT_BYTES];
    json_refuse(fields, STATUS_INVALID, "%s is %s; must be true or false", key, value_text(value, text));
    return fallback;
}

const char *json_text(struct json_fields *fields, const char *key, const char *fallback)
{
    const json_t *value = get(fields, key);
    if (!value) return fallback;
    if (json_is_string(value)) return json_string_value(value);
    char text[VALUE_TEXT_BYTES];
    json_refuse(fields, STATUS_INVALID, "%s is %s; must be a text", key, value_text(value, text));
    return fallback;
}

/* The list under a key, or NULL; sets *count. */
static const json_t *get_list(struct json_fields *fields, const char *key, int limit, int *count)
{
    const json_t *value = get(fields, key);
    *count = -1;
    if (!value) return NULL;
    if (!json_is_array(value) || json_array_size(value) > (size_t)limit) {
        json_refuse(fields, STATUS_INVALID, "%s must be a list of at most %d values", key, limit);
        return NULL;
    }
    *count = (int)json_array_size(value);
    return value;
}

static void refuse_item(struct json_fields *fields, const char *key, int index, const json_t *value,
                        const char *wanted)
{
    char text[VALUE_TEXT_BYTES];
    json_refuse(fields, STATUS_INVALID, "%s[%d] is %s; must be %s", key, index, value_text(value, text),
                wanted);
}

int json_int_list(struct json_fields *fields, const char *key, int limit, int min, int max, int *out)
{
    int count;
    const json_t *list = get_list(fields, key, limit, &count);
    for (int i = 0; i < count; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        char wanted[VALUE_TEXT_BYTES];
        snprintf(wanted, sizeof wanted, "a whole number %d to %d", min, max);
        if (in_range(value, min, max))
            out[i] = (int)json_integer_value(value);
        else
            refuse_item(fields, key, i, value, wanted);
    }
    return count;
}

int json_bool_list(struct json_fields *fields, const char *key, int limit, bool *out)
{
    int count;
    const json_t *list = get_list(fields, key, limit, &count);
    for (int i = 0; i < count; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        if (json_is_boolean(value))
            out[i] = json_is_true(value);
        else
            refuse_item(fields, key, i, value, "true or false");
    }
    return count;
}

int json_number_list(struct json_fields *fields, const char *key, int limit, double above, float *out)
{
    int count;
    const json_t *list = get_list(fields, key, limit, &count);
    for (int i = 0; i < count; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        float number = (float)json_number_value(value); /* float32, as the reference holds them */
        if (json_is_number(value) && isfinite(number) && number > above)
            out[i] = number;
        else
            refuse_item(fields, key, i, value, above >= 0 ? "a number above 0" : "a finite number");
    }
    return count;
}

void json_must_be_null(struct json_fields *fields, const char *key, const char *meaning)
{
    const json_t *value = get(fields, key);
    char text[VALUE_TEXT_BYTES];
    if (value)
        json_refuse(fields, STATUS_UNSUPPORTED, "%s is %s (%s); only null is supported", key,
                    value_text(value, text), meaning);
}

void json_must_be_bool(struct json_fields *fields, const char *key, bool fallback, bool wanted,
                       const char *meaning)
{
    bool value = json_bool(fields, key, fallback);
    if (value != wanted)
        json_refuse(fields, STATUS_UNSUPPORTED, "%s is %s%s (%s); only %s is supported", key,
                    value ? "true" : "false", get(fields, key) ? "" : " by default", meaning,
                    wanted ? "true" : "false");
}

void json_must_be_text(struct json_fields *fields, const char *key, const char *fallback, const char *wanted)
{
    const char *value = json_text(fields, key, fallback);
    if (strcmp(value, wanted) != 0)
        json_refuse(fields, STATUS_UNSUPPORTED, "%s is \"%s\"%s; only \"%s\" is supported", key, value,
                    get(fields, key) ? "" : " by default", wanted);
}

void json_must_be_empty(struct json_fields *fields, const char *key, const char *meaning)
{
    const json_t *value = get(fields, key);
    char text[VALUE_TEXT_BYTES];
    if (value && json_array_size(value) != 0)
        json_refuse(fields, STATUS_UNSUPPORTED, "%s is %s (%s); only [] is supported", key,
                    value_text(value, text), meaning);
}
