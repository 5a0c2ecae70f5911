/* card.c - see card.h. */
#include "worker/model/card.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "proto/refrain.pb-c.h"
#include "worker/model/checkpoint.h"
#include "worker/model/denoiser.h"
#include "worker/model/tables.h"
#include "worker/model/text_encoder.h"
#include "worker/model/tokenizer.h"
#include "worker/model/vae.h"

/* The step WanPipeline's sizes always have (pipeline_wan.py). */
enum { PIPELINE_SIZE_MULTIPLE = 16 };

struct weights {
    uint64_t elements, bytes;
};

static status_t component_path(const char *directory, const char *component, char path[PATH_MAX],
                               struct error *error)
{
    if (snprintf(path, PATH_MAX, "%s/%s", directory, component) < PATH_MAX) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s: the path is longer than %d bytes", directory, PATH_MAX);
}

static status_t count_weights(const char *directory, struct weights *weights, struct error *error)
{
    struct checkpoint *checkpoint;
    status_t status = checkpoint_open(directory, &checkpoint, error);
    if (status != STATUS_OK) return status;
    weights->elements += checkpoint_elements(checkpoint);
    weights->bytes += checkpoint_bytes(checkpoint);
    checkpoint_close(checkpoint);
    return STATUS_OK;
}

static status_t inspect_tokenizer(const char *directory, const struct model_config *config,
                                  struct error *error)
{
    struct tokenizer *tokenizer;
    status_t status = tokenizer_open(directory, &tokenizer, error);
    if (status != STATUS_OK) return status;
    if (tokenizer_vocabulary(tokenizer) > config->text.vocabulary)
        status = error_set(error, STATUS_INVALID,
                           "%s: has ids up to %d, text_encoder/config.json a vocab_size of %d", directory,
                           tokenizer_vocabulary(tokenizer) - 1, config->text.vocabulary);
    tokenizer_close(tokenizer);
    return status;
}

/* Every component, checked against the configuration and counted. */
static status_t inspect(const char *directory, const struct model_config *config, struct weights *weights,
                        struct error *error)
{
    char path[PATH_MAX];
    status_t status = component_path(directory, "tokenizer", path, error);
    if (status == STATUS_OK) status = inspect_tokenizer(path, config, error);

    if (status == STATUS_OK) status = component_path(directory, "text_encoder", path, error);
    if (status == STATUS_OK) status = text_encoder_inspect(path, &config->text, error);
    if (status == STATUS_OK) status = count_weights(path, weights, error);

    for (int e = 0; e < config->experts; e++) {
        if (status == STATUS_OK) status = component_path(directory, model_expert_name(e), path, error);
        if (status == STATUS_OK) status = denoiser_inspect(path, model_expert_config(config, e), error);
        if (status == STATUS_OK) status = count_weights(path, weights, error);
    }

    if (status == STATUS_OK) status = component_path(directory, "vae", path, error);
    if (status == STATUS_OK) status = vae_inspect(path, &config->vae, error);
    if (status == STATUS_OK) status = count_weights(path, weights, error);
    return status;
}

static int common_multiple(int a, int b)
{
    int multiple = a;
    while (multiple % b != 0) multiple += a;
    return multiple;
}

/* The wanted size, or the largest one the rotary tables reach. */
static int default_size(int wanted, int multiple, int max_position, int pixels_per_position)
{
    int64_t reach = (int64_t)max_position * pixels_per_position;
    if (wanted > reach) wanted = (int)reach;
    return wanted < multiple ? multiple : wanted / multiple * multiple;
}

/* "models/reference/" -> "reference". */
static void base_name(const char *directory, char *name, size_t bytes)
{
    size_t end = strlen(directory);
    while (end > 1 && directory[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && directory[begin - 1] != '/') begin--;
    snprintf(name, bytes, "%.*s", (int)(end - begin), directory + begin);
}

/* Takes over `tables`. */
static json_t *make_card(const char *name, const struct model_config *c, const struct weights *weights,
                         json_t *tables)
{
    const struct denoiser_config *d = &c->denoiser;
    const struct vae_config *v = &c->vae;
    int token_pixels = v->scale_y * d->patch_y,
        size_multiple = common_multiple(PIPELINE_SIZE_MULTIPLE, token_pixels);
    int latent_frames = (c->clip.frames - 1) / v->scale_t + 1;
    if (latent_frames > d->max_position) latent_frames = d->max_position;
    int solver =
        c->solver.kind == SOLVER_UNIPC ? REFRAIN__SOLVER__SOLVER_UNIPC : REFRAIN__SOLVER__SOLVER_EULER;
    return json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:i,"
        " s:i, s:i, s:f, s:i, s:f, s:o}",
        "name", name, "pipeline", c->pipeline, "layers", d->layers, "heads", d->heads, "head_dim",
        d->head_dim, "ffn_dim", d->ffn_dim, "size_multiple", size_multiple, "frame_multiple", v->scale_t,
        "text_length", c->text_length, "solver", solver, "shift", c->solver.shift, "parameter_count",
        (json_int_t)weights->elements, "weight_bytes", (json_int_t)weights->bytes, "default_width",
        default_size(c->clip.width, size_multiple, d->max_position, token_pixels), "default_height",
        default_size(c->clip.height, size_multiple, d->max_position, token_pixels), "default_frames",
        (latent_frames - 1) * v->scale_t + 1, "max_position", d->max_position, "vae_scale", v->scale_y,
        "patch", d->patch_y, "latent_channels", d->in_channels, "experts", c->experts, "boundary",
        c->boundary, "train_steps", c->solver.train_steps, "shift_terminal", c->solver.shift_terminal,
        "tables", tables);
}

status_t model_card_json(const char *directory, char **json, struct error *error)
{
    struct model_config config;
    struct weights weights = {0};
    char name[NAME_MAX + 1];
    json_t *tables;
    status_t status = model_config_read(directory, &config, error);
    if (status == STATUS_OK) status = inspect(directory, &config, &weights, error);
    if (status == STATUS_OK) status = tables_read(directory, &config, &tables, error);
    if (status != STATUS_OK) return status;

    base_name(directory, name, sizeof name);
    json_t *card = make_card(name, &config, &weights, tables);
    char *text =
        card ? json_dumps(card, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL; /* doubles as they are */
    json_decref(card);
    if (!text)
        return error_set(error, STATUS_INVALID, "%s: its name is not UTF-8, or out of memory", directory);
    *json = text;
    return STATUS_OK;
}
