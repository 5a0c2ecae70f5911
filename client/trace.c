/* trace.c - see trace.h. */
#include "client/trace.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRACE_VERSION = 1, SUM_COUNT = 9 };

struct trace *trace_new(int steps, int branches, int lags)
{
    size_t records = (size_t)branches * (size_t)steps * (size_t)(lags + 1);
    struct trace *trace = calloc(1, sizeof *trace + records * sizeof(struct trace_record));
    if (!trace) return NULL;
    trace->steps = steps;
    trace->branches = branches;
    trace->lags = lags;
    return trace;
}

void trace_free(struct trace *trace)
{
    free(trace);
}

struct trace_record *trace_record(const struct trace *trace, int branch, int step, int lag)
{
    size_t row = (size_t)branch * (size_t)trace->steps + (size_t)step;
    return (struct trace_record *)(uintptr_t)&trace->records[row * (size_t)(trace->lags + 1) + (size_t)lag];
}

const struct sums *trace_at(const struct trace *trace, enum trace_tensor tensor, int branch, int step,
                            int lag)
{
    if (branch < 0 || branch >= trace->branches || step < 0 || step >= trace->steps || lag < 0 ||
        lag > trace->lags)
        return NULL;
    const struct trace_record *record = trace_record(trace, branch, step, lag);
    return record->known[tensor] ? &record->sums[tensor] : NULL;
}

/* ------------------------------------------------------------------------------------ reading */

static status_t read_whole(const json_t *object, const char *key, int min, int max, int *value,
                           struct error *error)
{
    const json_t *found = json_object_get(object, key);
    json_int_t number = json_integer_value(found);
    if (!json_is_integer(found) || number < min || number > max)
        return error_set(error, STATUS_CORRUPT, "%s: must be %d to %d", key, min, max);
    *value = (int)number;
    return STATUS_OK;
}

/* A number that was not finite is written as null; it comes back as NaN, and whoever fits leaves it out. */
static double number_of(const json_t *value)
{
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static status_t read_sums(const json_t *record, const char *key, struct trace_record *to,
                          enum trace_tensor tensor, struct error *error)
{
    const json_t *array = json_object_get(record, key);
    double numbers[SUM_COUNT];
    if (!array) return STATUS_OK;
    if (json_array_size(array) != SUM_COUNT)
        return error_set(error, STATUS_CORRUPT, "%s: must be a list of %d numbers", key, SUM_COUNT);
    for (size_t i = 0; i < SUM_COUNT; i++) numbers[i] = number_of(json_array_get(array, i));
    to->known[tensor] = true;
    to->sums[tensor] = (struct sums){
        .difference = numbers[0],
        .now = numbers[1],
        .before = numbers[2],
        .product = numbers[3],
        .now2 = numbers[4],
        .before2 = numbers[5],
        .difference2 = numbers[6],
        .row_ratio = numbers[7],
        .count = numbers[8] >= 0 && numbers[8] < 9e15 ? (int64_t)numbers[8] : 0,
    };
    return STATUS_OK;
}

static status_t read_record(const json_t *object, const struct trace *trace, struct error *error)
{
    static const char *const keys[TRACE_TENSORS] = {"residual", "output", "latent", "time", "projection"};
    int step, branch, lag;
    status_t status = read_whole(object, "step", 0, trace->steps - 1, &step, error);
    if (!status) status = read_whole(object, "branch", 0, trace->branches - 1, &branch, error);
    if (!status) status = read_whole(object, "lag", 0, step < trace->lags ? step : trace->lags, &lag, error);
    for (int i = 0; !status && i < TRACE_TENSORS; i++)
        status =
            read_sums(object, keys[i], trace_record(trace, branch, step, lag), (enum trace_tensor)i, error);
    return status;
}

static status_t read_model(const json_t *root, struct trace *trace, struct error *error)
{
    const json_t *model = json_object_get(root, "model");
    const char *name = json_string_value(json_object_get(model, "name"));
    enum { MOST = 1 << 30 };
    status_t status = read_whole(model, "layers", 0, MOST, &trace->model.layers, error);
    if (!status) status = read_whole(model, "heads", 0, MOST, &trace->model.heads, error);
    if (!status) status = read_whole(model, "head_dim", 0, MOST, &trace->model.head_dim, error);
    if (!status) status = read_whole(model, "ffn_dim", 0, MOST, &trace->model.ffn_dim, error);
    if (!status) status = read_whole(model, "latent_channels", 0, MOST, &trace->model.latent_channels, error);
    if (!status && json_object_get(model, "experts"))
        status = read_whole(model, "experts", 1, 2, &trace->model.experts, error);
    if (status) error_prefix(error, "model");
    if (!status && name) snprintf(trace->name, sizeof trace->name, "%s", name);
    return status;
}

static status_t read_sigmas(const json_t *root, struct trace *trace, struct error *error)
{
    const json_t *sigmas = json_object_get(root, "sigmas"), *shift = json_object_get(root, "shift");
    if (json_array_size(sigmas) != (size_t)trace->steps + 1)
        return error_set(error, STATUS_CORRUPT, "sigmas: must be a list of %d numbers", trace->steps + 1);
    for (int i = 0; i <= trace->steps; i++) {
        trace->sigmas[i] = number_of(json_array_get(sigmas, (size_t)i));
        if (!isfinite(trace->sigmas[i]))
            return error_set(error, STATUS_CORRUPT, "sigmas: number %d is not finite", i);
    }
    trace->shift = number_of(shift);
    if (!isfinite(trace->shift)) return error_set(error, STATUS_CORRUPT, "shift: must be a number");
    return STATUS_OK;
}

static status_t read_trace(const json_t *root, struct trace **out, struct error *error)
{
    int version, steps, branches, lags;
    status_t status = read_whole(root, "version", TRACE_VERSION, TRACE_VERSION, &version, error);
    if (!status) status = read_whole(root, "steps", 1, CACHE_STEPS, &steps, error);
    if (!status) status = read_whole(root, "branches", 1, 2, &branches, error);
    if (!status) status = read_whole(root, "lags", 1, TRACE_LAGS, &lags, error);
    if (status) return status;
    struct trace *trace = trace_new(steps, branches, lags);
    if (!trace) return error_set(error, STATUS_NO_MEMORY, "no memory for a trace of %d steps", steps);
    status = read_sigmas(root, trace, error);
    if (!status) status = read_model(root, trace, error);
    const json_t *records = json_object_get(root, "records");
    size_t count = json_array_size(records);
    if (!status && count == 0) status = error_set(error, STATUS_CORRUPT, "records: must be a list");
    for (size_t i = 0; !status && i < count; i++) {
        status = read_record(json_array_get(records, i), trace, error);
        if (status) error_prefix(error, "record %zu", i);
    }
    if (status)
        trace_free(trace);
    else
        *out = trace;
    return status;
}

status_t trace_read(const char *path, struct trace **trace, struct error *error)
{
    json_error_t where;
    json_t *root = json_load_file(path, 0, &where);
    if (!root) return error_set(error, STATUS_CORRUPT, "%s: %s (line %d)", path, where.text, where.line);
    status_t status = read_trace(root, trace, error);
    if (status) error_prefix(error, "%s", path);
    json_decref(root);
    return status;
}
