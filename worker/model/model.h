/*
 * model.h - everything of one checkpoint that one rank holds, of all its experts.
 *
 *     model_load("models/reference", ops, team, &split, self, &model, &error);
 *
 * A home (member 0, or every member when homes float) holds the caps: text encoder, tokenizer, VAE decoder,
 * the denoiser's ends, its first `head` and its last `tail` blocks. Beside that every member holds its run of
 * the blocks between, the ring; a fixed home also the first `spare` of the next run. Weights, and tables made from the model's numbers; no per-job state. Freed by
 * model_destroy.
 */
#ifndef REFRAIN_WORKER_MODEL_MODEL_H
#define REFRAIN_WORKER_MODEL_MODEL_H

#include "worker/model/denoiser.h"
#include "worker/model/rotary.h"
#include "worker/model/text_encoder.h"
#include "worker/model/tokenizer.h"
#include "worker/model/vae.h"

enum { SPLIT_MAX_MEMBERS = 1024 };

/* Blocks of each member. Home runs [0, head) before the ring and [layers - tail, layers) after it; member i
 * holds run[i] blocks of the ring between, in order. Home is member 0, or with `floating` every member: then
 * all hold head and tail, and each job has a home of its own. */
struct split {
    int members; /* home included */
    int head, tail;
    int spare; /* of a fixed home alone: the ring's first blocks that others hold, held by home as well, for when
                  it has time (worker/turn.h, rule 1) */
    bool floating;
    int run[SPLIT_MAX_MEMBERS]; /* [members] */
};

struct model {
    struct model_config config;
    const struct ops *ops;
    struct team *team; /* that loads; the rank's only one */
    struct split split;
    int self;         /* this member */
    int head, tail;   /* blocks of the caps held here: the split's on a home, else 0 */
    int first, count; /* this member's run of the ring */
    int *holder;      /* [layers]: which member runs a block of a job whose home this member is */
    struct rotary_shelf rotary;
    struct denoiser *denoiser[MODEL_EXPERTS]; /* [config.experts], each with the same blocks */
    /* Homes only, NULL elsewhere: */
    struct tokenizer *tokenizer;
    struct text_encoder *text_encoder;
    struct vae *vae;
    struct vae *encoder; /* loaded when a job first compares videos */
    char vae_directory[4096];
};

/* Refuses a split that does not add up to the model's layers. directory: the pipeline's. */
status_t model_load(const char *directory, const struct ops *ops, struct team *team,
                    const struct split *split, int self, struct model **model, struct error *error);
void model_destroy(struct model *model); /* after wait; NULL is fine */
/* Takes on another split, or another place in the same one, if that needs no other weights than those held
 * here; false: it does, nothing was changed. Only while no job or context is alive. */
bool model_rearrange(struct model *model, const struct split *split, int self);
/* The VAE's encoder; homes only. Reads the checkpoint the first time. */
status_t model_encoder(struct model *model, struct vae **encoder, struct error *error);

/* Is a member of that split a home? */
static inline bool split_home(const struct split *split, int member)
{
    return member == 0 || split->floating;
}

/* For a job whose home is this member: which member runs a block, and up to which block a branch that has
 * come to it needs nothing else from home: to the end of what is held here, or, once it is sent away, to the
 * end of the ring (a run of home's own on the way is computed as the hop comes by). Within the ring the
 * holder is the same from every member's view. 0 <= block < layers. */
int model_holder(const struct model *model, int block);
int model_held_until(const struct model *model, int block);
/* May home run this block in its holder's place, as it holds the weights too? */
bool model_spares(const struct model *model, int block);
size_t model_bytes(const struct model *model);

#endif
