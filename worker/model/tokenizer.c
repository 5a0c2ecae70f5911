/*
 * tokenizer.c - text to ids, as the reference's tokenizers library does it.
 *
 * Read-only once open, so any number of threads may encode. The order matters: clean the prompt; cut out
 * added tokens
 * ("</s>" typed by a person is the real thing there, too); normalise what lies between them; split it into
 * words, each marked with U+2581 in front; cut every word into pieces; end with </s>.
 */
#include "worker/model/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const char mark[] = "\u2581"; /* stands for the space before a word */
enum { MARK_BYTES = sizeof mark - 1 };

/* One call's working memory. */
struct encoder {
    const struct tokenizer *tokenizer;
    struct bytes section; /* normalised text between two added tokens */
    struct bytes word;    /* with its mark */
    struct unigram_path path;
    int32_t *ids;     /* [limit], the caller's */
    int count, limit; /* room is kept for </s>: count < limit */
};

status_t tokenizer_open(const char *directory, struct tokenizer **tokenizer, struct error *error)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return error_set(error, STATUS_NO_MEMORY, "%s: a tokenizer does not fit in memory", directory);
    status_t status = tokenizer_load(directory, t, error);
    if (status != STATUS_OK) {
        tokenizer_close(t);
        return status;
    }
    *tokenizer = t;
    return STATUS_OK;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL) return;
    for (size_t i = 0; i < tokenizer->added_count; i++) free(tokenizer->added[i].text);
    free(tokenizer->added);
    charsmap_destroy(tokenizer->charsmap);
    unigram_destroy(tokenizer->pieces);
    free(tokenizer);
}

int tokenizer_vocabulary(const struct tokenizer *tokenizer)
{
    int32_t largest = unigram_count(tokenizer->pieces) - 1;
    for (size_t i = 0; i < tokenizer->added_count; i++)
        if (tokenizer->added[i].id > largest) largest = tokenizer->added[i].id;
    return largest + 1;
}

/* -------------------------------------------------------------------------------------------------- words */

/* Bytes of the white space character at `at` (left > 0 bytes), 0 if it is none. */
static size_t space_bytes(const char *at, size_t left)
{
    utf8proc_int32_t point;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)at, (utf8proc_ssize_t)left, &point);
    return n > 0 && prompt_is_space(point) ? (size_t)n : 0;
}

/* The end of text[begin..end) without the white space at its end. */
static size_t trim_right(const char *text, size_t begin, size_t end)
{
    for (size_t i = begin, kept = begin;; i++) {
        if (i == end) return kept;
        size_t n = space_bytes(text + i, end - i);
        if (n == 0)
            kept = i + 1;
        else
            i += n - 1;
    }
}

/* Ids beyond the limit are dropped: the reference encodes everything and cuts afterwards, with the same
 * result. */
static void put(struct encoder *e, int32_t id)
{
    if (e->count < e->limit - 1) e->ids[e->count++] = id;
}

static bool is_full(const struct encoder *e)
{
    return e->count >= e->limit - 1;
}

/* The bytes of an unknown piece, if each of them has an id of its own. */
static bool put_bytes(struct encoder *e, const char *text, size_t length)
{
    const int32_t *bytes = e->tokenizer->bytes;
    for (size_t i = 0; i < length; i++)
        if (bytes[(unsigned char)text[i]] < 0) return false;
    for (size_t i = 0; i < length; i++) put(e, bytes[(unsigned char)text[i]]);
    return true;
}

/* word: [length], beginning with its mark. Byte ids stand in only for text that is no piece: the id for
 * unknown may be one, too. */
static status_t encode_marked(struct encoder *e, const char *word, size_t length, struct error *error)
{
    const struct tokenizer *t = e->tokenizer;
    status_t status = unigram_segment(t->pieces, word, length, t->unknown, &e->path, error);
    for (size_t i = 0; i < e->path.count && status == STATUS_OK; i++) {
        const struct unigram_piece *p = &e->path.pieces[i];
        bool unknown = p->id == t->unknown && t->byte_fallback &&
                       unigram_find(t->pieces, word + p->begin, p->length) < 0;
        if (!unknown || !put_bytes(e, word + p->begin, p->length)) put(e, p->id);
    }
    return status;
}

static bool begins_with_mark(const char *text, size_t length)
{
    return length >= MARK_BYTES && memcmp(text, mark, MARK_BYTES) == 0;
}

/* e->word begins with a mark; every further one begins a word of its own. */
static status_t encode_marked_words(struct encoder *e, struct error *error)
{
    if (e->word.failed) return error_set(error, STATUS_NO_MEMORY, "tokenizer: a word does not fit in memory");
    status_t status = STATUS_OK;
    const char *at = e->word.at, *end = at + e->word.count;
    while (at < end && status == STATUS_OK && !is_full(e)) {
        const char *next = memmem(at + MARK_BYTES, (size_t)(end - at) - MARK_BYTES, mark, MARK_BYTES);
        if (next == NULL) next = end;
        status = encode_marked(e, at, (size_t)(next - at), error);
        at = next;
    }
    return status;
}

/* Words end at white space. text: [length], normalised. A mark that is in the text already serves. */
static status_t encode_split(struct encoder *e, const char *text, size_t length, struct error *error)
{
    status_t status = STATUS_OK;
    for (size_t begin = 0, end; begin < length && status == STATUS_OK && !is_full(e); begin = end) {
        end = begin + space_bytes(text + begin, length - begin);
        if (end > begin) continue;
        while (end < length && space_bytes(text + end, length - end) == 0) end++;
        e->word.count = 0;
        if (!begins_with_mark(text + begin, end - begin)) bytes_append(&e->word, mark, MARK_BYTES);
        bytes_append(&e->word, text + begin, end - begin);
        status = encode_marked_words(e, error);
    }
    return status;
}

/* Every run of U+0020 becomes a mark, so that a mark in the text counts beside it. text: [length],
 * normalised. */
static status_t encode_joined(struct encoder *e, const char *text, size_t length, struct error *error)
{
    length = trim_right(text, 0, length);
    if (length == 0) return STATUS_OK;
    e->word.count = 0;
    if (*text != ' ' && !begins_with_mark(text, length)) bytes_append(&e->word, mark, MARK_BYTES);
    for (size_t i = 0; i < length; i++) {
        if (text[i] != ' ')
            bytes_append(&e->word, text + i, 1);
        else if (text[i + 1] != ' ')
            bytes_append(&e->word, mark, MARK_BYTES); /* trimmed: i + 1 < length */
    }
    return encode_marked_words(e, error);
}

/* text: [length] raw text without added tokens. */
static status_t encode_section(struct encoder *e, const char *text, size_t length, struct error *error)
{
    struct bytes *s = &e->section;
    s->count = 0;
    charsmap_apply(e->tokenizer->charsmap, text, length, s);
    if (s->failed)
        return error_set(error, STATUS_NO_MEMORY, "tokenizer: %zu bytes of text do not fit in memory",
                         length);
    if (e->tokenizer->spaces_only) return encode_joined(e, s->at, s->count, error);
    return encode_split(e, s->at, s->count, error);
}

/* ------------------------------------------------------------------------------------------- added tokens */

/* The longest added token that text [length] begins with, or NULL. */
static const struct added_token *token_at(const struct tokenizer *t, const char *text, size_t length)
{
    const struct added_token *best = NULL;
    for (size_t i = 0; i < t->added_count; i++) {
        const struct added_token *a = &t->added[i];
        if (a->text[0] != *text || a->length > length || (best != NULL && a->length <= best->length))
            continue;
        if (memcmp(a->text, text, a->length) == 0) best = a;
    }
    return best;
}

/* Added tokens are looked for in the text as it was typed, from left to right. */
static status_t encode_text(struct encoder *e, const char *text, struct error *error)
{
    size_t length = strlen(text), begin = 0, n;
    status_t status = STATUS_OK;
    for (size_t i = 0; i < length && status == STATUS_OK && !is_full(e);) {
        const struct added_token *token = token_at(e->tokenizer, text + i, length - i);
        if (token == NULL) {
            i++;
            continue;
        }
        size_t end = token->eats_left ? trim_right(text, begin, i) : i;
        status = encode_section(e, text + begin, end - begin, error);
        put(e, token->id);
        i += token->length;
        while (token->eats_right && i < length && (n = space_bytes(text + i, length - i)) > 0) i += n;
        begin = i;
    }
    if (status == STATUS_OK) status = encode_section(e, text + begin, length - begin, error);
    return status;
}

status_t tokenizer_encode(const struct tokenizer *tokenizer, const char *text, int limit, int32_t *ids,
                          int *count, struct error *error)
{
    if (limit < 1) return error_set(error, STATUS_INVALID, "tokenizer: limit %d: must be at least 1", limit);
    char *cleaned;
    status_t status = prompt_clean(text, &cleaned, error);
    if (status != STATUS_OK) return status;

    struct encoder e = {.tokenizer = tokenizer, .ids = ids, .limit = limit};
    status = encode_text(&e, cleaned, error);
    if (status == STATUS_OK) {
        ids[e.count] = tokenizer->end;
        *count = e.count + 1;
    }
    unigram_path_free(&e.path);
    free(e.section.at);
    free(e.word.at);
    free(cleaned);
    return status;
}
