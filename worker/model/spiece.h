/*
 * spiece.h - what a spiece.model file holds, as far as a unigram tokenizer needs it.
 *
 *     struct spiece model;
 *     spiece_read("tokenizer/spiece.model", &model, &error);
 *     ... model.pieces[id].text, .score ...
 *     spiece_free(&model);
 */
#ifndef REFRAIN_WORKER_MODEL_SPIECE_H
#define REFRAIN_WORKER_MODEL_SPIECE_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

/* ModelProto.SentencePiece.Type */
enum spiece_type {
    SPIECE_NORMAL = 1,
    SPIECE_UNKNOWN = 2,
    SPIECE_CONTROL = 3,
    SPIECE_USER_DEFINED = 4,
    SPIECE_UNUSED = 5,
    SPIECE_BYTE = 6,
};

struct spiece_piece {
    const char *text; /* [length], into the file's bytes, not terminated */
    size_t length;
    float score;
    int type; /* enum spiece_type, or what a newer file says */
};

/* A whole model in memory. */
struct spiece {
    uint8_t *file;               /* owned: spiece_free */
    struct spiece_piece *pieces; /* [count], in the order of the ids; owned */
    size_t count;
    const uint8_t *charsmap; /* [charsmap_bytes], into `file`; NULL: none */
    size_t charsmap_bytes;
};

/* STATUS_CORRUPT where the file does not fit itself, STATUS_UNSUPPORTED where it is no unigram model. On
 * failure there is nothing to free. */
status_t spiece_read(const char *path, struct spiece *model, struct error *error);
void spiece_free(struct spiece *model); /* {0} is fine */

#endif
