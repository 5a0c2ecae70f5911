/*
 * tiny.h - a checkpoint in diffusers' layout with as many blocks as an experiment wants, made of a small one.
 *
 *     tiny_make("tests/models/tiny-a", "/dev/shm/x/model-40", &(struct tiny_shape){.layers = 40}, &error);
 *     tiny_remove("/dev/shm/x/model-40");
 *
 * Text encoder, tokenizer, VAE and scheduler are links to the small one's. Block i of the new transformer is block
 * i mod n of the small one with its weights shrunk a little differently for each i: so a block that is left out, run
 * twice or out of its place changes the latents. Fewer or narrower heads have the first rows and columns of its matrices.
 */
#ifndef REFRAIN_TOOLS_SIM_TINY_H
#define REFRAIN_TOOLS_SIM_TINY_H

#include "base/status.h"

struct tiny_shape {
    int layers, heads, head_dim; /* 0: the source's; heads * head_dim at most its own */
};

/* source must be an unsharded transformer; directory must not exist. */
status_t tiny_make(const char *source, const char *directory, const struct tiny_shape *shape,
                   struct error *error);
void tiny_remove(const char *directory);

#endif
