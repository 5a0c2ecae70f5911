/* model.c - see model.h. Runs on the compute thread, once per model. */
#include "worker/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Do the parts of a split add up to the model, with nothing out of range on the way? */
static bool adds_up(const struct split *split, int self, int layers, int *total)
{
    *total = 0;
    if (split->members < 1 || split->members > SPLIT_MAX_MEMBERS || self < 0 || self >= split->members)
        return false;
    if (split->head < 0 || split->head > layers || split->tail < 0 || split->tail > layers) return false;
    *total = split->head + split->tail;
    for (int i = 0; i < split->members; i++) {
        if (split->run[i] < 0 || split->run[i] > layers) return false;
        *total += split->run[i];
    }
    if (split->spare < 0 || split->spare > layers - split->head - split->tail - split->run[0]) return false;
    return *total == layers && (split->spare == 0 || !split->floating);
}

/* The member's share of a split that adds up: sets the numbers, not the weights. */
static void place(struct model *m, const struct split *split, int self)
{
    int layers = m->config.denoiser.layers, block = 0;
    int home = split_home(split, self) ? self : 0; /* a stage sees the caps at member 0 */
    m->split = *split;
    m->self = self;
    m->head = split_home(split, self) ? split->head : 0;
    m->tail = split_home(split, self) ? split->tail : 0;
    while (block < split->head) m->holder[block++] = home;
    for (int i = 0; i < split->members; i++) {
        if (i == self) m->first = block;
        for (int k = 0; k < split->run[i]; k++) m->holder[block++] = i;
    }
    m->count = split->run[self];
    while (block < layers) m->holder[block++] = home;
}

/* Those that a fixed home holds of other members'. */
static bool is_spare(const struct split *split, int self, int block)
{
    int first = split->head + split->run[0];
    return self == 0 && block >= first && block < first + split->spare;
}

/* held: [layers], the blocks of that member. */
static void list_blocks(const struct split *split, int self, int layers, bool *held)
{
    int before = split->head;
    bool home = split_home(split, self);
    for (int i = 0; i < self; i++) before += split->run[i];
    for (int i = 0; i < layers; i++)
        held[i] = (home && (i < split->head || i >= layers - split->tail)) ||
                  (i >= before && i < before + split->run[self]) || is_spare(split, self, i);
}

bool model_rearrange(struct model *m, const struct split *split, int self)
{
    int layers = m->config.denoiser.layers, total;
    if (!adds_up(split, self, layers, &total) || split_home(split, self) != split_home(&m->split, m->self))
        return false;
    bool *now = calloc(2 * (size_t)layers, sizeof *now), *then = now + layers;
    if (!now) return false;
    list_blocks(&m->split, m->self, layers, now);
    list_blocks(split, self, layers, then);
    bool same = memcmp(now, then, (size_t)layers * sizeof *now) == 0;
    free(now);
    if (same) place(m, split, self);
    return same;
}

static status_t load_home(struct model *m, const char *directory, struct error *error)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer", directory);
    status_t status = tokenizer_open(path, &m->tokenizer, error);
    if (status != STATUS_OK) return status;
    if (tokenizer_vocabulary(m->tokenizer) > m->config.text.vocabulary)
        return error_set(error, STATUS_INVALID,
                         "%s: knows %d ids, but text_encoder/config.json says vocab_size %d", path,
                         tokenizer_vocabulary(m->tokenizer), m->config.text.vocabulary);
    snprintf(path, sizeof path, "%s/text_encoder", directory);
    status = text_encoder_load(path, &m->config.text, m->ops, m->team, &m->text_encoder, error);
    if (status != STATUS_OK) return status;
    snprintf(m->vae_directory, sizeof m->vae_directory, "%s/vae", directory);
    return vae_load(m->vae_directory, &m->config.vae, m->ops, m->team, VAE_DECODER, &m->vae, error);
}

status_t model_encoder(struct model *m, struct vae **encoder, struct error *error)
{
    status_t status = STATUS_OK;
    if (!m->encoder)
        status = vae_load(m->vae_directory, &m->config.vae, m->ops, m->team, VAE_ENCODER, &m->encoder, error);
    if (status == STATUS_OK) *encoder = m->encoder;
    return status;
}

int model_holder(const struct model *m, int block)
{
    return m->holder[block];
}

int model_held_until(const struct model *m, int block)
{
    int layers = m->config.denoiser.layers;
    if (m->holder[block] != m->self) return layers - m->split.tail;
    while (block < layers && m->holder[block] == m->self) block++;
    return block;
}

bool model_spares(const struct model *m, int block)
{
    return is_spare(&m->split, m->self, block);
}

status_t model_load(const char *directory, const struct ops *ops, struct team *team,
                    const struct split *split, int self, struct model **model, struct error *error)
{
    char path[4096];
    bool *wanted = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m) return error_set(error, STATUS_NO_MEMORY, "no memory for a model");
    m->ops = ops;
    m->team = team;
    m->rotary.config = &m->config.denoiser;
    m->rotary.ops = ops;
    status_t status = model_config_read(directory, &m->config, error);
    if (status != STATUS_OK) goto err_model;
    int layers = m->config.denoiser.layers, total;
    if (!adds_up(split, self, layers, &total)) {
        status = error_set(
            error, STATUS_INVALID,
            "a split of %d blocks and %d spare ones over %d members does not fit a model of %d layers", total,
            split->spare, split->members, layers);
        goto err_model;
    }
    wanted = calloc((size_t)layers, sizeof *wanted);
    m->holder = calloc((size_t)layers, sizeof *m->holder);
    if (!wanted || !m->holder) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for a model");
        goto err_model;
    }
    place(m, split, self);
    list_blocks(split, self, layers, wanted);
    bool home = split_home(split, self);
    struct denoiser_part part = {.wanted = wanted, .ends = home};
    for (int e = 0; e < m->config.experts && status == STATUS_OK; e++) {
        snprintf(path, sizeof path, "%s/%s", directory, model_expert_name(e));
        status =
            denoiser_load(path, model_expert_config(&m->config, e), ops, team, &part, &m->denoiser[e], error);
    }
    if (status == STATUS_OK && home) status = load_home(m, directory, error);
    if (status != STATUS_OK) goto err_model;
    free(wanted);
    *model = m;
    return STATUS_OK;
err_model:
    free(wanted);
    model_destroy(m);
    return status;
}

size_t model_bytes(const struct model *m)
{
    size_t bytes =
        (m->text_encoder ? text_encoder_bytes(m->text_encoder) : 0) + (m->vae ? vae_bytes(m->vae) : 0);
    for (int e = 0; e < m->config.experts; e++) bytes += denoiser_bytes(m->denoiser[e]);
    return bytes;
}

void model_destroy(struct model *m)
{
    if (!m) return;
    vae_destroy(m->encoder);
    vae_destroy(m->vae);
    text_encoder_destroy(m->text_encoder);
    tokenizer_close(m->tokenizer);
    for (int e = 0; e < MODEL_EXPERTS; e++) denoiser_destroy(m->denoiser[e]);
    rotary_clear(&m->rotary);
    free(m->holder);
    free(m);
}
