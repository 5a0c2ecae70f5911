/*
 * unigram.h - a unigram vocabulary and the most probable way to cut a word into its pieces.
 *
 *     unigram_create(count, &u, &error);
 *     unigram_add(u, "\u2581red", 6, -2.5);                 once per piece, in the order of the ids
 *     unigram_segment(u, word, length, unknown, &path);     path.pieces[0 .. path.count)
 *
 * Why not SentencePiece's own: it adds scores in float32, and the reference (tokenizers,
 * models/unigram/model.rs) in float64. Where several segmentations are equally good, as in any run of one
 * character, rounding then decides, and the ids differ. Reading is thread-safe; a path belongs to one caller.
 */
#ifndef REFRAIN_WORKER_MODEL_UNIGRAM_H
#define REFRAIN_WORKER_MODEL_UNIGRAM_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

struct unigram;

struct unigram_piece {
    int32_t id;
    uint32_t begin, length; /* bytes of the word */
};

/* Result and working memory of unigram_segment, reused from word to word. Start with {0}. */
struct unigram_path {
    struct unigram_piece *pieces; /* [count] */
    size_t count;
    struct unigram_node *nodes; /* [capacity + 1] */
    size_t capacity;
};

void unigram_path_free(struct unigram_path *path);

status_t unigram_create(size_t pieces, struct unigram **unigram, struct error *error);
void unigram_destroy(struct unigram *unigram); /* NULL is fine */

/* The next id. text: [length], copied; at most as many pieces as announced. A piece that is there twice is
 * found under its last id. */
status_t unigram_add(struct unigram *unigram, const char *text, size_t length, double score,
                     struct error *error);

int32_t unigram_count(const struct unigram *unigram);
int32_t unigram_find(const struct unigram *unigram, const char *text, size_t length); /* -1: not there */

/* word: [length] valid UTF-8. A character that is no piece gets the id `unknown`; neighbouring unknowns are
 * one piece. STATUS_NO_MEMORY is all that can go wrong. */
status_t unigram_segment(const struct unigram *unigram, const char *word, size_t length, int32_t unknown,
                         struct unigram_path *path, struct error *error);

#endif
