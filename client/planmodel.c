/* planmodel.c - see planmodel.h. */
#include "client/planmodel.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "worker/model/config.h"

enum { FILE_BYTES = 1 << 20, MOST_TIMES = 1000, BYTES_16_BITS = 2 };

/* A home on a GPU of the published VAE's width, and per channel of it: docs/gpu.md. */
#define DECODE_BYTES_A_CHANNEL 175

/* ------------------------------------------------------------------------------------------------- the model */

/* Parameters of what only a home holds: the text encoder's layers (its table of words is mapped), the decoder (two thirds of
 * the VAE: 9 c2 for each of its convolutions), embedding, time and output of the denoiser. */
static double home_parameters(const struct model_config *c)
{
    const struct text_config *t = &c->text;
    const struct denoiser_config *d = &c->denoiser;
    const struct vae_config *v = &c->vae;
    double attention = 4.0 * t->width * t->heads * t->head_dim,
           text = t->layers * (attention + 3.0 * t->width * t->ffn_dim);
    double decoder = 0, hidden = d->hidden;
    for (int i = 0; i < v->levels; i++) {
        double channels = (double)v->decoder_base * v->multiplier[i];
        decoder += 2.0 * (v->resnets + 1) * 27 * channels * channels;
    }
    double ends =
        7 * hidden * hidden + (double)d->freq_dim * hidden + (double)d->text_dim * hidden + hidden * hidden;
    return text + decoder + ends;
}

static struct schedule schedule_of(const struct solver_config *c)
{
    return (struct schedule){.kind = c->kind == SOLVER_EULER ? SCHEDULE_EULER : SCHEDULE_UNIPC,
                             .shift = c->shift,
                             .terminal = c->shift_terminal,
                             .train_steps = c->train_steps,
                             .final_sigma_min = c->final_sigma_min};
}

static void describe(const struct model_config *c, const char *name, struct planner_model *model)
{
    *model = (struct planner_model){.layers = (uint32_t)c->denoiser.layers,
                                    .heads = (uint32_t)c->denoiser.heads,
                                    .head_dim = (uint32_t)c->denoiser.head_dim,
                                    .ffn = (uint32_t)c->denoiser.ffn_dim,
                                    .experts = (uint32_t)c->experts,
                                    .boundary = c->boundary,
                                    .text_tokens = (uint32_t)c->text_length,
                                    .pixels_per_token = (uint32_t)(c->vae.scale_y * c->denoiser.patch_y),
                                    .pixels_per_frame_token = (uint32_t)c->vae.scale_t,
                                    .schedule = schedule_of(&c->solver),
                                    .parameter_bytes = BYTES_16_BITS,
                                    .home_bytes = (uint64_t)(BYTES_16_BITS * home_parameters(c)),
                                    .decode_bytes =
                                        (uint64_t)DECODE_BYTES_A_CHANNEL * (uint64_t)c->vae.decoder_base};
    snprintf(model->name, sizeof model->name, "%s", name);
}

/* The last part of a path, without slashes at its end. */
static void short_name(const char *path, char name[65])
{
    size_t end = strlen(path), begin;
    while (end > 1 && path[end - 1] == '/') end--;
    for (begin = end; begin > 0 && path[begin - 1] != '/'; begin--) continue;
    size_t length = end - begin < 64 ? end - begin : 64;
    memcpy(name, path + begin, length);
    name[length] = '\0';
}

static status_t no_model(const char *name, struct error *error)
{
    char list[ERROR_TEXT_BYTES / 2] = "";
    for (size_t i = 0; planner_preset_at(i); i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "",
                 planner_preset_at(i)->name);
    return error_set(error, STATUS_INVALID,
                     "model %.100s: is no directory here and none of the published sizes %s", name, list);
}

status_t planmodel_find(const char *name, struct planner_model *model, struct planmodel_clip *clip,
                        struct error *error)
{
    struct model_config config;
    struct stat there;
    char last[65];
    const struct planner_model *preset = planner_preset(name);
    if (stat(name, &there) == 0 && S_ISDIR(there.st_mode)) {
        status_t status = model_config_read(name, &config, error);
        if (status != STATUS_OK) return status;
        short_name(name, last);
        describe(&config, last, model);
        *clip = (struct planmodel_clip){(uint32_t)config.clip.width, (uint32_t)config.clip.height,
                                        (uint32_t)config.clip.frames};
        return STATUS_OK;
    }
    if (!preset) return no_model(name, error);
    *model = *preset;
    *clip = (struct planmodel_clip){1280, 720, 81};
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------- the sizes */

const char *planmodel_number(const char *text, uint32_t *value)
{
    char *end;
    if (text[0] < '0' || text[0] > '9') return NULL;
    unsigned long number = strtoul(text, &end, 10);
    if (number > 99999) return NULL;
    *value = (uint32_t)number;
    return end;
}

status_t planmodel_sizes(const char *text, struct planmodel_clip *sizes, size_t most, size_t *count,
                         struct error *error)
{
    const char *at = text;
    for (*count = 0; at && *count < most; ++*count) {
        struct planmodel_clip *size = &sizes[*count];
        at = planmodel_number(at, &size->width);
        if (at) at = *at == 'x' ? planmodel_number(at + 1, &size->height) : NULL;
        if (at) at = *at == 'x' ? planmodel_number(at + 1, &size->frames) : NULL;
        if (!at || *at != ',') break;
        at++;
    }
    ++*count;
    if (at && *at == '\0' && *count <= most) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "size '%.60s': must be %s, such as 832x480x81", text,
                     most > 1 ? "WIDTHxHEIGHTxFRAMES, or up to 32 of them with commas between"
                              : "WIDTHxHEIGHTxFRAMES");
}

/* ------------------------------------------------------------------------------------------------- the times */

static status_t load(const char *path, json_t **root, struct error *error)
{
    struct stat there;
    json_error_t where;
    if (stat(path, &there) != 0)
        return error_set(error, STATUS_INVALID, "measured %s: cannot be read: %m", path);
    if (!S_ISREG(there.st_mode) || there.st_size > FILE_BYTES)
        return error_set(error, STATUS_INVALID, "measured %s: must be a file of at most %d bytes", path,
                         FILE_BYTES);
    *root = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (*root) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "measured %s: is not JSON: %s (line %d)", path, where.text,
                     where.line);
}

static status_t check_shape(const json_t *root, const struct planner_model *model, struct error *error)
{
    const struct {
        const char *key;
        uint32_t value;
    } shape[] = {{"heads", model->heads}, {"head_dim", model->head_dim}, {"ffn", model->ffn}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        const json_t *found = json_object_get(root, shape[i].key);
        if (!json_is_integer(found))
            return error_set(error, STATUS_INVALID, "measured: %s must be a whole number", shape[i].key);
        if (json_integer_value(found) != shape[i].value)
            return error_set(error, STATUS_INVALID,
                             "measured: %s is %lld, the model's is %u: measure a model of this shape",
                             shape[i].key, (long long)json_integer_value(found), shape[i].value);
    }
    return STATUS_OK;
}

static status_t read_seconds(const json_t *entry, const char *key, double *seconds, struct error *error)
{
    const json_t *value = json_object_get(entry, key);
    *seconds = json_number_value(value);
    if (json_is_number(value) && *seconds >= 0 && *seconds < 1e6) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "measured: times: %s must be seconds, from 0 to 1000000", key);
}

/* Of a file that a rank alone made there is none. */
static status_t read_if_there(const json_t *entry, const char *key, double *seconds, struct error *error)
{
    *seconds = 0;
    return json_object_get(entry, key) ? read_seconds(entry, key, seconds, error) : STATUS_OK;
}

static status_t read_entry(const json_t *entry, const struct planner_model *model, struct planner_job *job,
                           struct planmodel_time *time, struct error *error)
{
    uint32_t size[3];
    const char *const keys[3] = {"width", "height", "frames"};
    for (int i = 0; i < 3; i++) {
        json_int_t value = json_integer_value(json_object_get(entry, keys[i]));
        if (value < 1 || value > 1 << 20)
            return error_set(error, STATUS_INVALID,
                             "measured: times: %s must be a whole number of pixels or frames", keys[i]);
        size[i] = (uint32_t)value;
    }
    status_t status = planner_size(model, size[0], size[1], size[2], job, error);
    if (status != STATUS_OK) error_prefix(error, "measured");
    if (status == STATUS_OK) status = read_seconds(entry, "text", &time->text, error);
    if (status == STATUS_OK) status = read_seconds(entry, "forward", &time->forward, error);
    if (status == STATUS_OK) status = read_seconds(entry, "decode", &time->decode, error);
    if (status == STATUS_OK) status = read_if_there(entry, "blocks", &time->blocks, error);
    if (status == STATUS_OK) status = read_if_there(entry, "crowded", &time->crowded, error);
    if (status == STATUS_OK && time->forward <= 0)
        status = error_set(error, STATUS_INVALID, "measured: times: forward must be above 0");
    return status;
}

/* Where blocks were not timed by themselves a forward pass is its blocks: embedding and output are less than a hundredth of it at
 * any size that matters. They grow with the tokens. */
static void apply(const struct planner_model *model, uint32_t layers, const struct planner_job *job,
                  const struct planner_job *measured, const struct planmodel_time *time,
                  struct planner_machine *machine)
{
    double flops = planner_block_flops(model, job->tokens) / planner_block_flops(model, measured->tokens);
    double pixels = (double)job->width * job->height * job->frames /
                    ((double)measured->width * measured->height * measured->frames);
    double blocks = time->blocks > 0 ? time->blocks : time->forward;
    machine->block_seconds = blocks / layers * flops;
    machine->home_seconds = job->branches * time->text + time->decode * pixels;
    machine->ends_seconds = fmax(0, time->forward - blocks) * job->tokens / measured->tokens;
    machine->crowd = time->crowded > blocks ? time->crowded / blocks : 0;
}

static status_t read_links(const json_t *root, struct planner_machine *machine, struct error *error)
{
    const json_t *object = json_object_get(root, "links");
    struct planner_links links = {.inside = json_number_value(json_object_get(object, "inside")),
                                  .between = json_number_value(json_object_get(object, "between")),
                                  .latency = json_number_value(json_object_get(object, "latency"))};
    const double values[] = {links.inside, links.between, links.latency};
    for (int i = 0; i < 3; i++)
        if (!(values[i] >= 0 && values[i] < 1e16))
            return error_set(
                error, STATUS_INVALID,
                "measured: links: inside, between and latency must be bytes a second and seconds");
    planner_take_links(&links, machine);
    return STATUS_OK;
}

static status_t read_times(const json_t *root, const struct planner_model *model,
                           const struct planner_job *job, struct planner_machine *machine,
                           struct error *error)
{
    const json_t *list = json_object_get(root, "times");
    size_t count = json_array_size(list);
    json_int_t layers = json_integer_value(json_object_get(root, "layers"));
    double nearest = INFINITY;
    if (layers < 1 || layers > 1000)
        return error_set(error, STATUS_INVALID, "measured: layers must be 1 to 1000");
    if (count < 1 || count > MOST_TIMES)
        return error_set(error, STATUS_INVALID, "measured: times must be a list of 1 to %d", MOST_TIMES);
    for (size_t i = 0; i < count; i++) {
        struct planmodel_time time;
        struct planner_job measured;
        status_t status = read_entry(json_array_get(list, i), model, &measured, &time, error);
        if (status != STATUS_OK) return status;
        double far = fabs(log((double)measured.tokens / job->tokens));
        if (far >= nearest) continue;
        nearest = far;
        apply(model, (uint32_t)layers, job, &measured, &time, machine);
    }
    return STATUS_OK;
}

status_t planmodel_times(const char *path, const struct planner_model *model, const struct planner_job *job,
                         struct planner_machine *machine, struct error *error)
{
    json_t *root = NULL;
    struct planner_machine read = *machine;
    status_t status = load(path, &root, error);
    if (status == STATUS_OK) status = check_shape(root, model, error);
    if (status == STATUS_OK) status = read_times(root, model, job, &read, error);
    if (status == STATUS_OK) status = read_links(root, &read, error);
    json_decref(root);
    if (status == STATUS_OK) *machine = read;
    return status;
}

static json_t *time_json(const struct planmodel_time *time)
{
    json_t *object = json_pack("{s:i,s:i,s:i,s:f,s:f,s:f,s:f,s:s,s:i}", "width", (int)time->width, "height",
                               (int)time->height, "frames", (int)time->frames, "text", time->text, "forward",
                               time->forward, "blocks", time->blocks, "decode", time->decode, "backend",
                               time->backend, "threads", time->threads);
    if (object && time->crowded > 0) {
        json_object_set_new(object, "crowded", json_real(time->crowded));
        json_object_set_new(object, "ranks", json_integer(time->ranks));
    }
    return object;
}

/* Those that are known. */
static json_t *links_json(const struct planner_links *links)
{
    json_t *object = json_object();
    if (links->inside > 0) json_object_set_new(object, "inside", json_real(links->inside));
    if (links->between > 0) json_object_set_new(object, "between", json_real(links->between));
    if (links->latency > 0) json_object_set_new(object, "latency", json_real(links->latency));
    return object;
}

status_t planmodel_write(const char *path, const struct planner_model *model,
                         const struct planmodel_time *times, size_t count, const struct planner_links *links,
                         struct error *error)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(list, time_json(&times[i]));
    json_t *root = json_pack("{s:s,s:i,s:i,s:i,s:i,s:o,s:o}", "model", model->name, "layers",
                             (int)model->layers, "heads", (int)model->heads, "head_dim", (int)model->head_dim,
                             "ffn", (int)model->ffn, "times", list, "links", links_json(links));
    status_t status = STATUS_OK;
    if (!root)
        status = error_set(error, STATUS_NO_MEMORY, "no memory for the times");
    else if (json_dump_file(root, path, JSON_INDENT(1)) != 0)
        status = error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
    json_decref(root);
    return status;
}
