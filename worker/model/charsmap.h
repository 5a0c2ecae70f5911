/*
 * charsmap.h - the normalisation table a SentencePiece model carries ("precompiled_charsmap").
 *
 *     struct charsmap *map;
 *     charsmap_create(blob, bytes, &map, &error);
 *     charsmap_apply(map, text, length, &buffer);       buffer: the text as the vocabulary was trained on it
 *
 * Applied as the reference's tokenizers library does, which is not quite what SentencePiece does: see
 * charsmap.c. Thread-safe once created.
 */
#ifndef REFRAIN_WORKER_MODEL_CHARSMAP_H
#define REFRAIN_WORKER_MODEL_CHARSMAP_H

#include <stdbool.h>
#include <stddef.h>
#include "base/status.h"

/* Bytes that grow; owner frees `at`. `failed` is set when memory ran out, and then nothing more is appended.
 */
struct bytes {
    char *at;
    size_t count, capacity;
    bool failed;
};

void bytes_append(struct bytes *bytes, const char *from, size_t count);

struct charsmap;

/* blob: [bytes], copied. STATUS_CORRUPT if its parts do not fit each other. */
status_t charsmap_create(const void *blob, size_t bytes, struct charsmap **map, struct error *error);
void charsmap_destroy(struct charsmap *map); /* NULL is fine */

/* Appends text [length] (valid UTF-8), normalised, to `out`. map NULL: unchanged. */
void charsmap_apply(const struct charsmap *map, const char *text, size_t length, struct bytes *out);

#endif
