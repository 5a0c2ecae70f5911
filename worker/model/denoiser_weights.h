/* denoiser_weights.h - the weights of a denoiser, shared by denoiser.c (forward) and denoiser_weights.c
 * (loading). */
#ifndef REFRAIN_WORKER_MODEL_DENOISER_WEIGHTS_H
#define REFRAIN_WORKER_MODEL_DENOISER_WEIGHTS_H

#include "worker/model/denoiser.h"

/* One transformer block; every pointer is owned by the denoiser, vectors are on the device. */
struct block {
    float *table;                     /* scale_shift_table [6, hidden] */
    struct linear *qkv;               /* attn1: to_q, to_k, to_v stacked, [3 hidden, hidden] */
    struct linear *q, *k, *v;         /* its parts, for wide stages */
    float *norm_q, *norm_k;           /* attn1: [hidden] */
    struct linear *out;               /* attn1.to_out */
    float *norm_scale, *norm_shift;   /* norm2 [hidden]; NULL when the model has cross_attn_norm false */
    struct linear *text_q, *text_kv;  /* attn2: to_q; to_k, to_v stacked, [2 hidden, hidden] */
    float *text_norm_q, *text_norm_k; /* attn2: [hidden] */
    struct linear *text_result;       /* attn2.to_out */
    struct linear *up, *down;         /* ffn */
};

struct denoiser {
    struct denoiser_config config;
    const struct ops *ops;
    float attention_scale; /* 1 / sqrt(head_dim) */
    size_t bytes;
    /* The ends; NULL on ranks that are not home. */
    struct linear *patch_embed, *time_in, *time_out, *time_proj, *text_in, *text_out, *output;
    float *output_table;    /* scale_shift_table [2, hidden]: shift, scale */
    float *input_table;     /* that of block 0 [6, hidden]: a home need not hold block 0 to see its input */
    float *time_scratch;    /* [2 hidden] */
    struct block *blocks[]; /* [layers]; NULL for blocks held elsewhere */
};

struct denoiser_context {
    const struct denoiser *denoiser;
    int rows;         /* of text */
    float last_logit; /* raise of the padding row; 0 without one */
    void *memory;
    void *key_value
        []; /* [layers] of operands [rows, 2 hidden]: keys, values; NULL where the block is elsewhere */
};

#endif
