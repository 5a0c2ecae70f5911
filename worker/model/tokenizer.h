/*
 * tokenizer.h - from a prompt to the ids the text encoder was trained on.
 *
 *     struct tokenizer *t;
 *     tokenizer_open("models/reference/tokenizer", &t, &error);
 *     int32_t ids[512]; int count;
 *     tokenizer_encode(t, prompt, 512, ids, &count, &error);
 *
 * Reads tokenizer.json, or spiece.model where there is none, and gives the ids of transformers' tokenizer for
 * that directory. docs/models.md says why that is not the SentencePiece library's work. Thread-safe once
 * open.
 */
#ifndef REFRAIN_WORKER_MODEL_TOKENIZER_H
#define REFRAIN_WORKER_MODEL_TOKENIZER_H

#include <stdint.h>
#include "base/status.h"

struct tokenizer;

status_t tokenizer_open(const char *directory, struct tokenizer **tokenizer, struct error *error);
void tokenizer_close(struct tokenizer *tokenizer);           /* NULL is fine */
int tokenizer_vocabulary(const struct tokenizer *tokenizer); /* largest id + 1 */

/* The reference's prompt cleaning, then pieces, then </s>; at most `limit` ids including </s> (the rest is
 * cut, as the reference does). text: UTF-8, NUL-terminated; invalid UTF-8 is STATUS_INVALID. ids: [limit]. */
status_t tokenizer_encode(const struct tokenizer *tokenizer, const char *text, int limit, int32_t *ids,
                          int *count, struct error *error);

/* The cleaning alone (docs/models.md lists which part of ftfy it carries). The result is malloc'ed. */
status_t prompt_clean(const char *text, char **cleaned, struct error *error);

#endif
