/*
 * unigram.c - the vocabulary as a hash table, and the Viterbi search over it.
 *
 * Immutable after loading; no locks. The search is the one of sentencepiece's unigram_model.cc
 * (EncodeOptimized) as the tokenizers library has it: left to right, each position keeps its best path; a
 * later path must be strictly better; an unknown character costs 10 more than the rarest piece.
 */
#include "worker/model/unigram.h"

#include <float.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const double unknown_penalty = 10.0;

struct entry {
    size_t at;       /* of its text in `text` */
    uint32_t length; /* bytes */
    uint32_t hash;
    double score;
};

struct unigram {
    struct entry *entries; /* [count], room for capacity */
    size_t count, capacity;
    char *text; /* all pieces one after another */
    size_t text_bytes, text_capacity;
    int32_t *slots;   /* [slot_mask + 1] ids or -1, open addressing */
    size_t slot_mask; /* at least twice as many slots as pieces */
    uint32_t longest; /* bytes of the longest piece */
    double worst;     /* least score */
};

/* The best path that ends at a byte of the word. */
struct unigram_node {
    double score;
    int32_t id;
    int32_t from; /* where its last piece begins; -1: nothing ends here */
};

enum { FNV_START = 0x811c9dc5, FNV_PRIME = 0x01000193 };

/* FNV-1a, so that the hash of a longer prefix continues that of a shorter one. */
static uint32_t hash_more(uint32_t hash, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * FNV_PRIME;
    return hash;
}

/* FNV's low bits alone would make neighbours of similar pieces. */
static uint32_t spread(uint32_t hash)
{
    return hash ^ hash >> 15;
}

/* The slot that holds the piece, or the empty one where it would go. There is always an empty one. */
static int32_t *slot_of(const struct unigram *u, uint32_t hash, const char *text, size_t length)
{
    for (size_t i = spread(hash) & u->slot_mask;; i = (i + 1) & u->slot_mask) {
        int32_t id = u->slots[i];
        if (id < 0) return &u->slots[i];
        const struct entry *e = &u->entries[id];
        if (e->hash == hash && e->length == length && memcmp(u->text + e->at, text, length) == 0)
            return &u->slots[i];
    }
}

status_t unigram_create(size_t pieces, struct unigram **unigram, struct error *error)
{
    if (pieces < 1 || pieces > 1 << 24)
        return error_set(error, STATUS_INVALID, "vocabulary of %zu pieces: must be 1 to %d", pieces, 1 << 24);
    struct unigram *u = calloc(1, sizeof *u);
    if (u == NULL) goto no_memory;
    size_t slots = 4;
    while (slots < 2 * pieces) slots *= 2;
    u->slot_mask = slots - 1;
    u->capacity = pieces;
    u->worst = DBL_MAX;
    u->entries = calloc(pieces, sizeof *u->entries);
    u->slots = malloc(slots * sizeof *u->slots);
    if (u->entries == NULL || u->slots == NULL) goto no_memory;
    memset(u->slots, 0xff, slots * sizeof *u->slots);
    *unigram = u;
    return STATUS_OK;

no_memory:
    unigram_destroy(u);
    return error_set(error, STATUS_NO_MEMORY, "a vocabulary of %zu pieces does not fit in memory", pieces);
}

void unigram_destroy(struct unigram *unigram)
{
    if (unigram == NULL) return;
    free(unigram->entries);
    free(unigram->text);
    free(unigram->slots);
    free(unigram);
}

status_t unigram_add(struct unigram *u, const char *text, size_t length, double score, struct error *error)
{
    if (u->count == u->capacity)
        return error_set(error, STATUS_INTERNAL, "vocabulary: more than the %zu pieces announced",
                         u->capacity);
    if (length > UINT16_MAX)
        return error_set(error, STATUS_INVALID, "piece %zu of the vocabulary has %zu bytes", u->count,
                         length);
    if (u->text == NULL || u->text_bytes + length > u->text_capacity) {
        size_t capacity = 2 * (u->text_bytes + length) + 4096;
        char *grown = realloc(u->text, capacity);
        if (grown == NULL) return error_set(error, STATUS_NO_MEMORY, "the vocabulary does not fit in memory");
        u->text = grown;
        u->text_capacity = capacity;
    }
    uint32_t hash = hash_more(FNV_START, text, length);
    int32_t *slot = slot_of(u, hash, text, length);
    memcpy(u->text + u->text_bytes, text, length);
    u->entries[u->count] = (struct entry){u->text_bytes, (uint32_t)length, hash, score};
    *slot = (int32_t)u->count++;
    u->text_bytes += length;
    if (length > u->longest) u->longest = (uint32_t)length;
    if (score < u->worst) u->worst = score;
    return STATUS_OK;
}

int32_t unigram_count(const struct unigram *u)
{
    return (int32_t)u->count;
}

int32_t unigram_find(const struct unigram *u, const char *text, size_t length)
{
    return *slot_of(u, hash_more(FNV_START, text, length), text, length);
}

/* ------------------------------------------------------------------------------------------------- search */

void unigram_path_free(struct unigram_path *path)
{
    free(path->pieces);
    free(path->nodes);
}

/* A word of n bytes has at most n pieces and n + 1 places between them. */
static status_t path_reserve(struct unigram_path *path, size_t length, struct error *error)
{
    if (length <= path->capacity && path->nodes != NULL) return STATUS_OK;
    size_t capacity = length + 64;
    struct unigram_piece *pieces = realloc(path->pieces, capacity * sizeof *pieces);
    if (pieces != NULL) path->pieces = pieces;
    struct unigram_node *nodes = realloc(path->nodes, (capacity + 1) * sizeof *nodes);
    if (nodes != NULL) path->nodes = nodes;
    if (pieces == NULL || nodes == NULL)
        return error_set(error, STATUS_NO_MEMORY, "a word of %zu bytes does not fit in memory", length);
    path->capacity = capacity;
    return STATUS_OK;
}

static size_t character_bytes(char first)
{
    return (size_t)utf8proc_utf8class[(unsigned char)first];
}

/* One way to reach `end`, kept if it is the first or strictly better. */
static void offer(struct unigram_node *nodes, size_t begin, size_t end, int32_t id, double score)
{
    struct unigram_node *node = &nodes[end];
    if (node->from < 0 || score > node->score) *node = (struct unigram_node){score, id, (int32_t)begin};
}

/* All pieces that begin at `begin`, from short to long. */
static void extend(const struct unigram *u, const char *word, size_t length, size_t begin, int32_t unknown,
                   struct unigram_node *nodes)
{
    double before = nodes[begin].score;
    size_t first = character_bytes(word[begin]), end = begin;
    uint32_t hash = FNV_START;
    bool known = false;
    while (end < length && end - begin < u->longest) {
        size_t n = character_bytes(word[end]);
        hash = hash_more(hash, word + end, n);
        end += n;
        int32_t id = *slot_of(u, hash, word + begin, end - begin);
        if (id < 0) continue;
        offer(nodes, begin, end, id, before + u->entries[id].score);
        known = known || end - begin == first;
    }
    if (!known) offer(nodes, begin, begin + first, unknown, before + (u->worst - unknown_penalty));
}

status_t unigram_segment(const struct unigram *u, const char *word, size_t length, int32_t unknown,
                         struct unigram_path *path, struct error *error)
{
    status_t status = path_reserve(path, length, error);
    if (status != STATUS_OK) return status;
    struct unigram_node *nodes = path->nodes;
    for (size_t i = 0; i <= length; i++) nodes[i].from = -1;
    nodes[0] = (struct unigram_node){0.0, -1, 0};
    for (size_t i = 0; i < length; i += character_bytes(word[i])) extend(u, word, length, i, unknown, nodes);

    /* Back from the end; then the order is turned round. */
    size_t count = 0;
    for (size_t end = length; end > 0;) {
        size_t begin = (size_t)nodes[end].from;
        struct unigram_piece *last = count > 0 ? &path->pieces[count - 1] : NULL;
        if (last != NULL && last->id == unknown && nodes[end].id == unknown) {
            last->begin = (uint32_t)begin;
            last->length += (uint32_t)(end - begin);
        } else {
            path->pieces[count++] =
                (struct unigram_piece){nodes[end].id, (uint32_t)begin, (uint32_t)(end - begin)};
        }
        end = begin;
    }
    for (size_t i = 0; i < count / 2; i++) {
        struct unigram_piece swap = path->pieces[i];
        path->pieces[i] = path->pieces[count - 1 - i];
        path->pieces[count - 1 - i] = swap;
    }
    path->count = count;
    return STATUS_OK;
}
