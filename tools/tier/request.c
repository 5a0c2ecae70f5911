/* request.c - see request.h: costs, and the file format. */
#include "tools/tier/request.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    TEXT_ROWS = 512,
    TEXT_WIDTH = 4096,
    LATENT_CHANNELS = 16,
    SIDE_MOST = 16384,
    STEPS_MOST = 1000,
    LINE_BYTES = 65536
};

const struct model models[] = {{"wan-14b", 40, 5120, 13824}, {"wan-1.3b", 30, 1536, 8960}, {0}};

/* Operations of an H100 in a second on these models, and of the text encoder with its weights brought in from the host
 * (11.4 GB at 50 GB/s, then 12 ms). */
static const double rate = 600e12, text_seconds = 0.24;

struct costs request_costs(const struct request *request)
{
    const struct model *model = request->model;
    double frames = 1 + (request->frames - 1) / 4, d = model->width, layers = model->layers;
    double latent = LATENT_CHANNELS * frames * (request->height / 8) * (request->width / 8);
    double tokens = frames * (request->height / 16) * (request->width / 16);
    double linear = (12 * d * d + 4 * d * model->ffn) * layers * tokens;
    double attention = 4 * d * layers * tokens * (tokens + TEXT_ROWS), text = 4 * TEXT_ROWS * d * d * layers;
    return (struct costs){.text_s = text_seconds,
                          .forward_s = (linear + attention + text) / rate,
                          .text_bytes = TEXT_ROWS * TEXT_WIDTH * 2,
                          .output_bytes = (uint64_t)latent * 4,
                          .checkpoint_bytes = (uint64_t)latent * 4 * 4,
                          .latent_bytes = (uint64_t)latent * 2};
}

void trace_add(struct trace *trace, const struct request *request)
{
    if (trace->count == trace->room) {
        trace->room = trace->room ? 2 * trace->room : 1024;
        trace->request = realloc(trace->request, trace->room * sizeof *trace->request);
        if (!trace->request) abort();
    }
    trace->request[trace->count++] = *request;
}

/* ------------------------------------------------------------------------------------------------- reading */

static double number_of(const json_t *object, const char *name, double missing)
{
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : missing;
}

/* A text, or a number. */
static uint64_t hash_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (json_is_integer(value)) return (uint64_t)json_integer_value(value);
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    return XXH3_64bits(text, strlen(text));
}

static bool in(double value, double least, double most)
{
    return value >= least && value <= most;
}

static status_t read_request(const json_t *object, size_t line, double before, struct request *request,
                             struct error *error)
{
    const char *model = json_string_value(json_object_get(object, "model"));
    const char *tenant = json_string_value(json_object_get(object, "tenant"));
    double width = number_of(object, "width", 0), height = number_of(object, "height", 0);
    double frames = number_of(object, "frames", 0), steps = number_of(object, "steps", 0);
    double from = number_of(object, "from", -1), at = number_of(object, "at", 0);
    *request = (struct request){.t = number_of(object, "t", -1),
                                .prompt = hash_of(object, "prompt"),
                                .negative = hash_of(object, "negative"),
                                .seed = hash_of(object, "seed"),
                                .guidance = number_of(object, "guidance", 5)};
    for (const struct model *one = models; one->name; one++)
        if (model && strcmp(model, one->name) == 0) request->model = one;
    if (!request->model)
        return error_set(error, STATUS_INVALID, "line %zu: model is '%s': wan-14b and wan-1.3b are known",
                         line, model ? model : "");
    if (!tenant || strlen(tenant) >= sizeof request->tenant)
        return error_set(error, STATUS_INVALID, "line %zu: tenant is missing or longer than 31 bytes", line);
    if (!in(request->t, before, 1e12))
        return error_set(error, STATUS_INVALID, "line %zu: t is %g: times are 0 or more and do not go back",
                         line, request->t);
    if (!in(width, 16, SIDE_MOST) || !in(height, 16, SIDE_MOST) || !in(frames, 1, SIDE_MOST) ||
        !in(steps, 1, STEPS_MOST))
        return error_set(error, STATUS_INVALID,
                         "line %zu: width, height, frames are 16, 16, 1 to %d, steps 1 to %d", line,
                         SIDE_MOST, STEPS_MOST);
    if (!in(from, -1, (double)line - 1) || (from >= 0 && !in(at, 1, steps - 1)))
        return error_set(error, STATUS_INVALID,
                         "line %zu: from is an earlier line, at a step before the last", line);
    memcpy(request->tenant, tenant, strlen(tenant));
    request->width = (uint32_t)width, request->height = (uint32_t)height, request->frames = (uint32_t)frames;
    request->steps = (uint32_t)steps, request->from = (int64_t)from, request->at = (uint32_t)at;
    return STATUS_OK;
}

status_t trace_read(FILE *file, struct trace *trace, struct error *error)
{
    static char line[LINE_BYTES];
    double before = 0;
    for (size_t number = 0; fgets(line, sizeof line, file); number++) {
        struct request request;
        json_error_t why;
        json_t *object = json_loads(line, 0, &why);
        if (!object) return error_set(error, STATUS_INVALID, "line %zu: no JSON: %s", number, why.text);
        status_t status = read_request(object, number, before, &request, error);
        json_decref(object);
        if (status != STATUS_OK) return status;
        before = request.t;
        trace_add(trace, &request);
    }
    return STATUS_OK;
}

void trace_write(const struct trace *trace, FILE *file)
{
    for (size_t i = 0; i < trace->count; i++) {
        const struct request *r = &trace->request[i];
        fprintf(
            file,
            "{\"t\": %.1f, \"tenant\": \"%s\", \"model\": \"%s\", \"width\": %u, \"height\": %u, \"frames\": "
            "%u, "
            "\"steps\": %u, \"prompt\": \"%llx\", \"negative\": \"%llx\", \"seed\": %llu, \"guidance\": %g",
            r->t, r->tenant, r->model->name, r->width, r->height, r->frames, r->steps,
            (unsigned long long)r->prompt, (unsigned long long)r->negative, (unsigned long long)r->seed,
            r->guidance);
        if (r->from >= 0) fprintf(file, ", \"from\": %lld, \"at\": %u", (long long)r->from, r->at);
        fprintf(file, "}\n");
    }
}
