/*
 * costs.h - the timed backend: what each piece of a model's work takes on the virtual clock.
 *
 *     costs_set(&(struct costs){.block_ns = 10 * MILLISECOND_NS, .rows = 8});
 *
 * The numbers themselves are computed by the real kernels on a tiny model; only their time is made up. The linker
 * turns the calls that costs.c names into calls of its functions (--wrap), which charge the world's clock and then do
 * the real work: so a block costs exactly a block's time, whatever a kernel does inside. On a rank that has a part of the rows
 * (worker/ulysses.h) a block's time is charged in pieces, between what it gives to others and what it waits for.
 */
#ifndef REFRAIN_TOOLS_SIM_COSTS_H
#define REFRAIN_TOOLS_SIM_COSTS_H

#include <stdint.h>

/* Pieces of a block, as its parts leave and come: before the first part leaves, between that and the next ones, the attention
 * over all rows (each group of heads has its share), and what comes after it. */
enum { COST_GIVE_V, COST_GIVE_Q, COST_GIVE_K, COST_HEADS, COST_PIECES };

struct costs {
    int64_t block_ns;  /* of one block of the denoiser, one branch */
    int64_t square_ns; /* of it, what grows with the square of its tokens: attention; besides block_ns */
    int64_t embed_ns;  /* latent to hidden state, one branch */
    int64_t output_ns; /* hidden state to velocity, one branch */
    int64_t text_ns;   /* one layer of the text encoder */
    int64_t frame_ns;  /* one latent frame through the VAE's decoder */
    int64_t film_ns;   /* one frame of a film encoded */
    int rows;          /* tokens that block, embed and output are meant for, others in proportion; 0: any */
    double piece[COST_PIECES]; /* shares of a block's time before each; the rest follows */
};

void costs_set(const struct costs *costs);
/* For what stands in place of the film's encoder. */
void costs_charge_film(void);

#endif
