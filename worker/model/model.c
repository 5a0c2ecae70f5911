/* model.c - see model.h. Runs on the compute thread, once per model. */
#include "worker/model/model.h"

#include <stdio.h>
#include <stdlib.h>

static status_t place_blocks(struct model *m, const struct split *split, int self, bool *wanted,
                             struct error *error)
{
    int layers = m->config.denoiser.layers, total = split->head + split->tail, before = split->head;
    bool sane =
        split->head >= 0 && split->tail >= 0 && split->members >= 1 && self >= 0 && self < split->members;
    for (int i = 0; sane && i < split->members; i++) {
        sane = split->run[i] >= 0 && split->run[i] <= layers;
        total += split->run[i];
        if (i < self) before += split->run[i];
    }
    if (!sane || total != layers)
        return error_set(error, STATUS_INVALID,
                         "a split of %d blocks over %d members does not fit a model of %d layers", total,
                         split->members, layers);
    m->first = self == 0 ? 0 : before;
    m->count = self == 0 ? split->head + split->run[0] : split->run[self];
    m->tail = self == 0 ? split->tail : 0;
    m->split = *split;
    for (int i = 0; i < m->count; i++) wanted[m->first + i] = true;
    for (int i = 0; i < m->tail; i++) wanted[layers - 1 - i] = true;
    return STATUS_OK;
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
    status = text_encoder_load(path, &m->config.text, m->ops, &m->text_encoder, error);
    if (status != STATUS_OK) return status;
    snprintf(m->vae_directory, sizeof m->vae_directory, "%s/vae", directory);
    return vae_load(m->vae_directory, &m->config.vae, m->ops, VAE_DECODER, &m->vae, error);
}

status_t model_encoder(struct model *m, struct vae **encoder, struct error *error)
{
    status_t status = STATUS_OK;
    if (!m->encoder)
        status = vae_load(m->vae_directory, &m->config.vae, m->ops, VAE_ENCODER, &m->encoder, error);
    if (status == STATUS_OK) *encoder = m->encoder;
    return status;
}

/* Walks the ring: home's head, the members between, home's tail. */
static int find_run(const struct model *m, int block, int *until)
{
    int end = m->split.head;
    for (int i = 0; i < m->split.members; i++) {
        end += m->split.run[i];
        if (block >= end) continue;
        *until = end;
        return i;
    }
    *until = m->config.denoiser.layers;
    return 0;
}

int model_holder(const struct model *m, int block)
{
    int until;
    return find_run(m, block, &until);
}

int model_held_until(const struct model *m, int block)
{
    int until, holder = find_run(m, block, &until), layers = m->config.denoiser.layers;
    /* The members between are one road: a hop visits them in turn before it comes back. */
    return holder == 0 ? until : layers - m->split.tail;
}

status_t model_load(const char *directory, const struct ops *ops, const struct split *split, int self,
                    struct model **model, struct error *error)
{
    char path[4096];
    bool *wanted = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m) return error_set(error, STATUS_NO_MEMORY, "no memory for a model");
    m->ops = ops;
    status_t status = model_config_read(directory, &m->config, error);
    if (status != STATUS_OK) goto err_model;
    wanted = calloc((size_t)m->config.denoiser.layers, sizeof *wanted);
    if (!wanted) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for a model");
        goto err_model;
    }
    status = place_blocks(m, split, self, wanted, error);
    if (status != STATUS_OK) goto err_model;
    snprintf(path, sizeof path, "%s/transformer", directory);
    struct denoiser_part part = {.wanted = wanted, .ends = self == 0};
    status = denoiser_load(path, &m->config.denoiser, ops, &part, &m->denoiser, error);
    if (status == STATUS_OK && self == 0) status = load_home(m, directory, error);
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
    return denoiser_bytes(m->denoiser) + (m->text_encoder ? text_encoder_bytes(m->text_encoder) : 0) +
           (m->vae ? vae_bytes(m->vae) : 0);
}

void model_destroy(struct model *m)
{
    if (!m) return;
    vae_destroy(m->encoder);
    vae_destroy(m->vae);
    text_encoder_destroy(m->text_encoder);
    tokenizer_close(m->tokenizer);
    denoiser_destroy(m->denoiser);
    free(m);
}
