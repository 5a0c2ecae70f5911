/*
 * key.h - what the items of the tier are, and their names: everything that could change the bytes, nothing else.
 *
 *     struct text_facts text = {.encoder = digest, .tokenizer = other, .text = prompt, .bytes = length, .rows = 512,
 *                               .numerics = fingerprint, .element = ELEMENT_BF16};
 *     struct key key;
 *     key_of_text("ann", &text, &key, &error);              NULL for "ann": public
 *     if (store_get(store, &key, LEVEL_HOST, &view) == STATUS_OK) ...
 *
 * A key is made from facts alone: never from addresses, ranks, jobs' numbers, or places in a batch, so that whoever
 * knows the same facts finds the same item, on any rank, after any restart. Two keys are equal when kind, tenant and
 * facts are (XXH3, 128 bits of the facts; the tenant has 64 bits of its own, so that no tenant can make up facts whose
 * key is another tenant's).
 *
 * Digests (`weights`, `tables`, ...) are the caller's: 64 bits of everything that the name says, 0 for none. `numerics`
 * is the fingerprint of how numbers are made: backend and its kernels, types of weights and sums, and the layout of
 * ranks where it changes bits (not with our CPU kernels). Texts are exact bytes, after any rewriting.
 *
 * Public is only what depends on a model alone: embeddings of texts that come with it, calibration tables. Pure
 * functions; any thread.
 */
#ifndef REFRAIN_CACHE_TIER_KEY_H
#define REFRAIN_CACHE_TIER_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

/* The numbers are stored and travel: append only. */
enum item_kind {
    ITEM_TEXT = 0,       /* what the text encoder made of one text */
    ITEM_FIRST_STEP = 1, /* one branch's output of a run's first step, computed in full */
    ITEM_CHECKPOINT = 2, /* a run after so many steps: latent, the solver's and the policy's state */
    ITEM_LATENT = 3,     /* a run's last latent */
    ITEM_TABLE = 4,      /* a calibration: a run that measured what tables are made from, with its records */
    ITEM_RESIDUAL = 5,   /* what skipped blocks would have added: a moving job's */
    ITEM_KINDS
};
const char *item_kind_name(enum item_kind kind); /* "text", "first-step", ...; never NULL */

/* 32 bytes without gaps: equal keys are equal bytes. */
struct key {
    uint64_t tenant; /* of its name; KEY_PUBLIC: everybody's */
    uint64_t low, high;
    uint32_t kind;   /* enum item_kind */
    uint32_t format; /* KEY_FORMAT: other rules for facts give other keys */
};

#define KEY_PUBLIC UINT64_C(0)
enum {
    KEY_FORMAT = 1,
    KEY_BYTES = 32,
    KEY_LETTERS = 64, /* of its text, with the end */
    KEY_TENANT_MAX = 255,
    KEY_TEXT_MAX = 1 << 20, /* bytes of one text */
    KEY_STEPS_MAX = 10000,
    KEY_SIDE_MAX = 65536, /* pixels, and frames */
};

enum element { ELEMENT_F32 = 1, ELEMENT_BF16 = 2, ELEMENT_F16 = 3 };

struct text_facts {
    uint64_t encoder, tokenizer; /* weights and configuration; vocabulary and its rules */
    uint64_t numerics;
    const char *text; /* [bytes], not terminated */
    size_t bytes;
    uint32_t rows;    /* that the encoder's answer is padded or cut to */
    uint32_t element; /* enum element of the item */
};

/* The size after any rounding. */
struct picture_facts {
    uint32_t width, height, frames;
    uint64_t image; /* what the video is conditioned on, and how that was prepared */
};

struct noise_facts {
    uint64_t seed;
    uint32_t generator; /* which one, and its version */
};

/* Does not say how many steps there are, nor guidance, solver, or which branch: none of them changes the output. */
struct first_step_facts {
    uint64_t weights, adapters; /* of the denoiser that runs first; LoRA set with strengths */
    uint64_t numerics;
    struct text_facts text; /* of this branch */
    struct picture_facts picture;
    struct noise_facts noise;
    double sigma, timestep; /* of the first step */
    uint32_t element;
};

/* Everything that a run depends on. Without guidance (1 or less) neither its scale nor the negative text counts; after
 * `origin`, noise does not. */
struct run_facts {
    uint64_t weights, adapters; /* of all denoisers, with their configuration and the scheduler's */
    uint64_t numerics;
    struct text_facts positive, negative;
    struct picture_facts picture;
    struct noise_facts noise;
    uint32_t solver, order;
    double shift;
    uint32_t steps;
    double guidance, guidance_2; /* guidance_2: of a second expert's steps; 0: there is none */
    const char *policy;          /* complete text of cache/settings.h, "" for none */
    uint64_t tables;             /* that the policy decides by */
    const struct key *
        origin; /* the run (its latent's key) that it went on from with other facts; NULL: it began with noise */
    uint32_t origin_step;
    uint32_t element;
};

/* How far a run has come, as its checkpoint says. */
struct run_point {
    struct key run; /* all zeros: it has no name */
    uint32_t step;  /* finished */
    double seconds; /* that the steps took */
};

/* What a run's step added to the hidden state in these blocks. */
struct residual_facts {
    uint32_t step, branch;
    uint32_t block_begin, block_end;
};

struct table_facts {
    uint64_t weights, adapters, numerics;
    const char *method; /* "teacache", ... */
    uint64_t prompts;   /* texts and seeds it was measured with, and what encoded them */
    struct picture_facts picture;
    uint32_t solver, order, steps;
    double shift, guidance, guidance_2; /* guidance_2: as in run_facts */
};

/* STATUS_INVALID names the fact that is out of range; STATUS_DENIED: this kind cannot be public. */
status_t key_of_text(const char *tenant, const struct text_facts *facts, struct key *key,
                     struct error *error);
status_t key_of_first_step(const char *tenant, const struct first_step_facts *facts, struct key *key,
                           struct error *error);
/* Names the run, too. */
status_t key_of_latent(const char *tenant, const struct run_facts *facts, struct key *key,
                       struct error *error);
/* Of the run that has this name, and its tenant; of a public run (a calibration) there are none. step: finished steps,
 * 1..KEY_STEPS_MAX. */
status_t key_of_checkpoint(const struct key *run, uint32_t step, struct key *key, struct error *error);
status_t key_of_residual(const struct key *run, const struct residual_facts *residual, struct key *key,
                         struct error *error);
status_t key_of_table(const char *tenant, const struct table_facts *facts, struct key *key,
                      struct error *error);

/* The tenant's part of a key, as statistics and store_forget take it. */
status_t key_tenant(const char *tenant, uint64_t *number, struct error *error);

bool key_is_run(const struct key *key); /* a last latent's, or a calibration's */
bool key_equal(const struct key *a, const struct key *b);

/* On wire and disk; STATUS_CORRUPT: no key. */
void key_encode(const struct key *key, uint8_t wire[KEY_BYTES]);
status_t key_decode(const uint8_t wire[KEY_BYTES], struct key *key, struct error *error);
/* For people and file names: KIND-TENANT-DIGEST, digits hexadecimal. STATUS_INVALID: no such text. */
void key_write(const struct key *key, char text[KEY_LETTERS]);
status_t key_read(const char *text, struct key *key, struct error *error);

#endif
