/*
 * model.h - everything of one checkpoint that one rank holds.
 *
 *     model_load("models/reference", ops, &split, self, &model, &error);
 *
 * Home (member 0) holds text encoder, tokenizer, VAE decoder, the denoiser's ends, its first `head` and its
 * last `tail` blocks; every other member only its run of blocks between. Weights only, no per-job state;
 * freed by model_destroy.
 */
#ifndef REFRAIN_WORKER_MODEL_MODEL_H
#define REFRAIN_WORKER_MODEL_MODEL_H

#include "worker/model/denoiser.h"
#include "worker/model/text_encoder.h"
#include "worker/model/tokenizer.h"
#include "worker/model/vae.h"

enum { SPLIT_MAX_MEMBERS = 1024 };

/* Blocks of each member. Home runs [0, head) before the ring and [layers - tail, layers) after it; member i holds
 * run[i] blocks of the ring between, in order. Home is member 0, or with `floating` every member: then all hold
 * head and tail, and each job has a home of its own. */
struct split {
    int members; /* home included */
    int head, tail;
    bool floating;
    int run[SPLIT_MAX_MEMBERS]; /* [members] */
};

struct model {
    struct model_config config;
    const struct ops *ops;
    int first, count; /* this member's blocks in the ring: home's head, or a stage's run */
    int tail;         /* home: further blocks at the end */
    struct split split;
    struct denoiser *denoiser;
    /* Home only, NULL elsewhere: */
    struct tokenizer *tokenizer;
    struct text_encoder *text_encoder;
    struct vae *vae;
    struct vae *encoder; /* loaded when a job first compares videos */
    char vae_directory[4096];
};

/* Refuses a split that does not add up to the model's layers. directory: the pipeline's. */
status_t model_load(const char *directory, const struct ops *ops, const struct split *split, int self,
                    struct model **model, struct error *error);
void model_destroy(struct model *model); /* NULL is fine */
/* The VAE's encoder; home only. Reads the checkpoint the first time. */
status_t model_encoder(struct model *model, struct vae **encoder, struct error *error);

/* Which member runs a block, and where its run of blocks ends. 0 <= block < layers. */
int model_holder(const struct model *model, int block);
int model_held_until(const struct model *model, int block);
size_t model_bytes(const struct model *model);

#endif
