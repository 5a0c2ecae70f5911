/* trace.c - see trace.h. Compute thread of home. */
#include "worker/trace.h"

#include <jansson.h>
#include <math.h>

/* The numbers of struct sums, in its order; what is not finite (a row ratio over empty rows) is null. */
static json_t *sums_json(const struct sums *s)
{
    const double values[] = {s->difference, s->now,         s->before,    s->product,      s->now2,
                             s->before2,    s->difference2, s->row_ratio, (double)s->count};
    json_t *array = json_array();
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_array_append_new(array, isfinite(values[i]) ? json_real(values[i]) : json_null());
    return array;
}

static json_t *record_json(const struct reuse_record *r)
{
    json_t *object = json_pack("{s:i, s:i, s:i, s:o, s:o, s:o}", "step", r->step, "branch", r->branch, "lag",
                               r->lag, "residual", sums_json(&r->residual), "output", sums_json(&r->output),
                               "latent", sums_json(&r->latent));
    if (object && r->lag == 1) {
        json_object_set_new(object, "time", sums_json(&r->time));
        json_object_set_new(object, "projection", sums_json(&r->projection));
    }
    return object;
}

status_t trace_write(const char *path, const struct reuse *reuse, const double *sigmas, double shift,
                     const struct model_config *config, struct error *error)
{
    struct reuse_report report;
    int count;
    const struct reuse_record *records = reuse_trace(reuse, &count);
    reuse_describe(reuse, &report);
    json_t *list = json_array(), *schedule = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(list, record_json(&records[i]));
    for (int i = 0; i <= report.steps; i++) json_array_append_new(schedule, json_real(sigmas[i]));
    json_t *trace = json_pack(
        "{s:i, s:i, s:i, s:f, s:i, s:o, s:{s:i, s:i, s:i, s:i, s:i, s:i}, s:o}", "version", 1, "steps",
        report.steps, "branches", report.branches, "shift", shift, "lags", reuse_plan(reuse)->slots, "sigmas",
        schedule, "model", "layers", config->denoiser.layers, "heads", config->denoiser.heads, "head_dim",
        config->denoiser.head_dim, "ffn_dim", config->denoiser.ffn_dim, "latent_channels",
        config->vae.latent_channels, "experts", config->experts, "records", list);
    status_t status = STATUS_OK;
    if (!trace || json_dump_file(trace, path, JSON_COMPACT) != 0)
        status = error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
    json_decref(trace);
    return status;
}
