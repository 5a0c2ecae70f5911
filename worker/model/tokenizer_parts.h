/*
 * tokenizer_parts.h - a loaded tokenizer, shared by tokenizer_load.c, which fills it, and tokenizer.c, which
 * uses it.
 */
#ifndef REFRAIN_WORKER_MODEL_TOKENIZER_PARTS_H
#define REFRAIN_WORKER_MODEL_TOKENIZER_PARTS_H

#include <stdbool.h>
#include "worker/model/charsmap.h"
#include "worker/model/tokenizer.h"
#include "worker/model/unigram.h"

/* A string that is found in the raw text before anything else happens to it, such as "</s>". */
struct added_token {
    char *text; /* [length], owned */
    size_t length;
    int32_t id;
    bool eats_left, eats_right; /* white space beside it belongs to it (lstrip, rstrip) */
};

struct tokenizer {
    struct unigram *pieces;
    struct charsmap *charsmap; /* NULL: text stays as it is */
    struct added_token *added; /* [added_count] */
    size_t added_count;
    int32_t unknown, end; /* ids */
    bool spaces_only;     /* only U+0020 ends a word, and literal marks are words */
    bool byte_fallback;   /* an unknown piece becomes its bytes' ids */
    int32_t bytes[256];   /* ids of "<0x00>" ... where byte_fallback; -1: not there */
};

/* Unicode's White_Space: what \s means to the reference's cleaning, and what ends a word. */
bool prompt_is_space(int32_t point);

/* Fills an empty tokenizer; what it leaves on failure is for tokenizer_close. directory: with
 * tokenizer_config.json (may be missing) and tokenizer.json or spiece.model. */
status_t tokenizer_load(const char *directory, struct tokenizer *tokenizer, struct error *error);

#endif
