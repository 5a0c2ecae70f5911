/* needs.c - see needs.h. */
#include "worker/needs.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "kernels/paper.h"
#include "worker/footprint.h"
#include "worker/model/card.h"
#include "worker/model/vae_distance.h"

/* Of the larger size, and of the smaller one half of it: patches along an axis of a frame, and along time. */
enum { SIDE = 64, LATENT_FRAMES = 9, BRANCHES_HERE = 2 };

/* Home without a block, and a stage with all of them, at one size. */
struct sample {
    int64_t tokens;
    struct footprint ranks[2];
};

/* What grows with the pixels of a frame: bytes of each, and beyond that at most at any size, as small videos pass through the
 * layers several frames at a time. */
struct growing {
    size_t pixel, constant;
};

/* The decoder; and for comparing the encoder's weights, and two of its streams. */
struct coders {
    struct growing decoder, encoders;
    size_t encoder_weights;
};

static status_t take_sample(const char *directory, const struct model_config *c, int side, struct sample *s,
                            struct error *error)
{
    const int patch = c->vae.scale_y * c->denoiser.patch_y;
    if (side > c->denoiser.max_position) side = c->denoiser.max_position;
    const struct split split = {.members = 2, .run = {0, c->denoiser.layers}};
    const struct job_order order = {.job = 1,
                                    .attempt = 1,
                                    .prompt = "a",
                                    .negative = "a",
                                    .steps = 1,
                                    .width = side * patch,
                                    .height = side * patch,
                                    .frames = 1 + c->vae.scale_t * (LATENT_FRAMES * c->denoiser.patch_t - 1),
                                    .fps = 16,
                                    .guidance = 5,
                                    .shift = c->solver.shift,
                                    .solver = c->solver.kind};
    s->tokens = (int64_t)side * side * LATENT_FRAMES;
    return footprint_measure(directory, &split, &(struct footprint_task){.order = &order, .jobs = 1},
                             s->ranks, error);
}

static size_t coder_bytes(const struct vae *vae, enum vae_part part, int side)
{
    return part == VAE_DECODER ? vae_stream_bytes(vae, part, side, side)
                               : vae_distance_bytes(vae, side, side, LATENT_FRAMES);
}

static struct growing measure_coder(const struct vae *vae, const struct model_config *c, enum vae_part part)
{
    enum { LARGE = 2 * SIDE, STEP = 4 };
    const size_t area = (size_t)c->vae.scale_y * (size_t)c->vae.scale_y;
    struct growing g = {.pixel = coder_bytes(vae, part, LARGE) / (LARGE * LARGE * area) + 1};
    for (size_t side = STEP; side < LARGE; side += STEP) {
        size_t bytes = coder_bytes(vae, part, (int)side), known = g.pixel * side * side * area;
        if (bytes > known + g.constant) g.constant = bytes - known;
    }
    return g;
}

static status_t measure_coders(const char *directory, const struct model_config *c, struct coders *coders,
                               struct error *error)
{
    char path[PATH_MAX];
    struct ledger decoder = {0}, encoder = {0};
    struct vae *vae;
    if (snprintf(path, sizeof path, "%s/vae", directory) >= (int)sizeof path)
        return error_set(error, STATUS_INVALID, "%s: the path is too long", directory);
    paper_enter(&decoder);
    status_t status = vae_load(path, &c->vae, paper_ops(), NULL, VAE_DECODER, &vae, error);
    if (status != STATUS_OK) return status;
    coders->decoder = measure_coder(vae, c, VAE_DECODER);
    vae_destroy(vae);
    paper_enter(&encoder);
    status = vae_load(path, &c->vae, paper_ops(), NULL, VAE_ENCODER, &vae, error);
    if (status != STATUS_OK) return status;
    coders->encoder_weights = ledger_device(&encoder);
    coders->encoders = measure_coder(vae, c, VAE_ENCODER);
    vae_destroy(vae);
    return STATUS_OK;
}

/* Bytes per unit, rounded up: what is said is rather too much. */
static json_int_t each(size_t bytes, int64_t units)
{
    return (json_int_t)((bytes + (size_t)units - 1) / (size_t)units);
}

static json_int_t growth(size_t small, size_t large, int64_t units)
{
    return large > small ? each(large - small, units) : 0;
}

/* What is left at no tokens at all. */
static json_int_t constant(size_t bytes, json_int_t token, int64_t tokens)
{
    int64_t left = (int64_t)bytes - token * tokens;
    return left > 0 ? left : 0;
}

static json_t *needs_json(const struct model_config *c, const struct sample *small,
                          const struct sample *large, const struct coders *coders)
{
    const struct footprint *home = &large->ranks[0], *stage = &large->ranks[1];
    int64_t tokens = large->tokens - small->tokens, layers = c->denoiser.layers;
    /* A text that has come to a stage, until its keys and values are made. */
    size_t text = (size_t)c->text_length * (size_t)c->denoiser.hidden * sizeof(float);
    json_int_t work = growth(small->ranks[0].work.device, home->work.device, tokens);
    json_int_t branch = growth(small->ranks[0].jobs.device, home->jobs.device, BRANCHES_HERE * tokens);
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "need_block",
        each(stage->weights.device, layers * c->experts), "need_home", (json_int_t)home->weights.device,
        "need_backend", (json_int_t)(paper_own_bytes(MEMORY_DEVICE) + text), "need_work",
        constant(home->work.device, work, large->tokens), "need_work_token", work, "need_branch",
        constant(home->jobs.device / BRANCHES_HERE, branch, large->tokens), "need_branch_token", branch,
        "need_text", each(stage->jobs.device, layers * BRANCHES_HERE), "need_hop_token",
        each(stage->buffers.device, BRANCHES_HERE * large->tokens), "need_decode",
        (json_int_t)coders->decoder.constant, "need_decode_pixel", (json_int_t)coders->decoder.pixel,
        "need_encode", (json_int_t)(coders->encoder_weights + coders->encoders.constant), "need_encode_pixel",
        (json_int_t)coders->encoders.pixel);
}

static status_t measure(const char *directory, json_t **needs, struct error *error)
{
    struct model_config c;
    struct sample small, large;
    struct coders coders = {0};
    status_t status = model_config_read(directory, &c, error);
    if (status == STATUS_OK) status = take_sample(directory, &c, SIDE / 2, &small, error);
    if (status == STATUS_OK) status = take_sample(directory, &c, SIDE, &large, error);
    if (status == STATUS_OK && large.tokens == small.tokens)
        status = error_set(error, STATUS_UNSUPPORTED, "%s: positions up to %d are too few to measure",
                           directory, c.denoiser.max_position);
    if (status == STATUS_OK) status = measure_coders(directory, &c, &coders, error);
    if (status == STATUS_OK) *needs = needs_json(&c, &small, &large, &coders);
    return status;
}

status_t needs_card(const char *directory, char **card, struct error *error)
{
    char *plain;
    json_t *needs = NULL;
    status_t status = model_card_json(directory, &plain, error);
    if (status != STATUS_OK) return status;
    if (measure(directory, &needs, error) != STATUS_OK) {
        log_line(LOG_WARN, "%s: what its jobs take is not known: %s", directory, error->text);
        *card = plain;
        return STATUS_OK;
    }
    json_t *object = json_loads(plain, 0, NULL);
    free(plain);
    bool whole = needs && object && json_object_update(object, needs) == 0;
    char *text = whole ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(needs);
    json_decref(object);
    if (status == STATUS_OK && !text) status = error_set(error, STATUS_NO_MEMORY, "no memory for a card");
    if (status == STATUS_OK) *card = text;
    return status;
}
