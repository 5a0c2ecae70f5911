/* model.c - see model.h. Runs on the compute thread, once per model. */
#include "worker/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "worker/model/identity.h"

/* -------------------------------------------------------------------------------------------------- split */

int split_chains(const struct split *split)
{
    int last = 0;
    for (int e = 0; e < SPLIT_EXPERTS; e++)
        for (int b = 0; b < SPLIT_BRANCHES; b++)
            if (split->chain[e][b] > last) last = split->chain[e][b];
    return last + 1;
}

int split_stages(const struct split *split, int chain, int self)
{
    int stages = 0;
    for (int i = 0; i < split->members; i++) stages += i != self && split_run(split, chain, i) > 0;
    return stages;
}

/* Does a chain, and each part of it, fit between the caps? *total: its blocks. */
static bool chain_fits(const struct split *split, int chain, int layers, int *total)
{
    *total = split->head + split->tail;
    for (int i = 0; i < split->members; i++) {
        int count = split_run(split, chain, i), first = split_stage(split, i);
        if (count < 0 || count > layers || count != split_run(split, chain, first)) return false;
        if (i == first) *total += count;
    }
    return *total == layers;
}

/* Do the parts of a split add up to the model, with nothing out of range on the way? *total: blocks of the first chain
 * that does not, or of the last one. */
static bool adds_up(const struct split *split, int self, int layers, int *total)
{
    *total = 0;
    if (split->members < 1 || split->members > SPLIT_MAX_MEMBERS || self < 0 || self >= split->members)
        return false;
    if (split->head < 0 || split->head > layers || split->tail < 0 || split->tail > layers) return false;
    for (int e = 0; e < SPLIT_EXPERTS; e++)
        for (int b = 0; b < SPLIT_BRANCHES; b++)
            if (split->chain[e][b] < 0 || split->chain[e][b] >= SPLIT_CHAINS) return false;
    int chains = split_chains(split), width = split_width(split);
    if (split->width < 0 || split->members % width || (width > 1 && (split->floating || split->spare)))
        return false;
    for (int c = 0; c < chains; c++)
        if (!chain_fits(split, c, layers, total)) return false;
    if (split->spare == 0) return true;
    return split->spare > 0 && !split->floating && chains == 1 &&
           split->spare <= layers - split->head - split->tail - split->run[0];
}

static void place_chain(struct model *m, int chain, int home)
{
    const struct split *split = &m->split;
    int layers = m->config.denoiser.layers, block = 0, *holder = m->holder + (size_t)chain * (size_t)layers;
    while (block < split->head) holder[block++] = home;
    for (int i = 0; i < split->members; i += split_width(split)) {
        int count = split_run(split, chain, i);
        if (i == split_stage(split, m->self)) m->run[chain] = (struct chain_run){block, count};
        for (int k = 0; k < count; k++) holder[block++] = i;
    }
    while (block < layers) holder[block++] = home;
}

/* The member's share of a split that adds up: sets the numbers, not the weights. */
static void place(struct model *m, const struct split *split, int self)
{
    bool home = split_home(split, self);
    m->split = *split;
    m->self = self;
    m->head = home ? split->head : 0;
    m->tail = home ? split->tail : 0;
    m->chains = split_chains(split);
    for (int c = 0; c < m->chains; c++)
        place_chain(m, c, home ? self : 0); /* a stage sees the caps at member 0 */
}

/* Those that a fixed home holds of other members'. */
static bool is_spare(const struct split *split, int self, int block)
{
    int first = split->head + split->run[0];
    return self == 0 && block >= first && block < first + split->spare;
}

/* held: [layers], the expert's blocks of that member. */
static void list_blocks(const struct split *split, int self, int layers, int expert, bool *held)
{
    bool home = split_home(split, self);
    for (int i = 0; i < layers; i++)
        held[i] = (home && (i < split->head || i >= layers - split->tail)) || is_spare(split, self, i);
    for (int b = 0; b < SPLIT_BRANCHES; b++) {
        int first = split->head, chain = split_chain(split, expert, b);
        for (int i = 0; i < split_stage(split, self); i += split_width(split))
            first += split_run(split, chain, i);
        for (int i = 0; i < split_run(split, chain, self); i++) held[first + i] = true;
    }
}

bool model_rearrange(struct model *m, const struct split *split, int self)
{
    int layers = m->config.denoiser.layers, total;
    if (!adds_up(split, self, layers, &total) || split_home(split, self) != split_home(&m->split, m->self))
        return false;
    bool *now = calloc(2 * (size_t)layers, sizeof *now), *then = now + layers;
    if (!now) return false;
    bool same = true;
    for (int e = 0; e < m->config.experts; e++) {
        list_blocks(&m->split, m->self, layers, e, now);
        list_blocks(split, self, layers, e, then);
        same = same && memcmp(now, then, (size_t)layers * sizeof *now) == 0;
    }
    free(now);
    if (same) place(m, split, self);
    return same;
}

/* Before anything is mapped: what is replaced meanwhile has another time. */
static void identify(struct model *m, const char *directory)
{
    static const char *const text[] = {"text_encoder", NULL}, *const tokenizer[] = {"tokenizer", NULL},
                             *const rest[] = {".", "transformer", "transformer_2", "scheduler", "vae", NULL};
    m->identity.text_encoder = identity_of(directory, text);
    m->identity.tokenizer = identity_of(directory, tokenizer);
    m->identity.rest = identity_of(directory, rest);
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
    identify(m, directory);
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

int model_holder(const struct model *m, int chain, int block)
{
    return m->holder[chain * m->config.denoiser.layers + block];
}

int model_held_until(const struct model *m, int chain, int block)
{
    int layers = m->config.denoiser.layers;
    if (model_holder(m, chain, block) != m->self) return layers - m->split.tail;
    while (block < layers && model_holder(m, chain, block) == m->self) block++;
    return block;
}

void model_list_own(const struct model *m, int chain, bool *mask)
{
    for (int i = 0; i < m->config.denoiser.layers; i++) mask[i] |= model_holder(m, chain, i) == m->self;
}

void model_list_run(const struct model *m, int chain, bool *mask)
{
    const struct chain_run *run = &m->run[chain];
    for (int i = 0; i < m->config.denoiser.layers; i++)
        mask[i] |= i >= run->first && i < run->first + run->count;
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
        status =
            error_set(error, STATUS_INVALID,
                      "a split of %d blocks and %d spare ones over %d members in stages of %d does not fit "
                      "a model of %d layers",
                      total, split->spare, split->members, split_width(split), layers);
        goto err_model;
    }
    if (m->config.denoiser.heads % split_width(split)) {
        status =
            error_set(error, STATUS_INVALID,
                      "%d attention heads cannot be dealt to stages of %d ranks: the width must divide them",
                      m->config.denoiser.heads, split_width(split));
        goto err_model;
    }
    wanted = calloc((size_t)layers * MODEL_EXPERTS, sizeof *wanted); /* [experts][layers] */
    m->holder = calloc((size_t)SPLIT_CHAINS * (size_t)layers, sizeof *m->holder);
    if (!wanted || !m->holder) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for a model");
        goto err_model;
    }
    place(m, split, self);
    for (int e = 0; e < m->config.experts; e++) list_blocks(split, self, layers, e, wanted + e * layers);
    for (int i = 0; i < layers; i++) m->blocks += wanted[i] || wanted[layers + i];
    bool home = split_home(split, self);
    for (int e = 0; e < m->config.experts && status == STATUS_OK; e++) {
        struct denoiser_part part = {.wanted = wanted + e * layers, .ends = home};
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
