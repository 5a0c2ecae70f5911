/*
 * tokenizer_load.c - a tokenizer directory as diffusers checkpoints have it.
 *
 * Two recipes, chosen by tokenizer_class as transformers 5 does:
 *
 *   T5Tokenizer (all published Wan models): the vocabulary and the normalisation table come from
 *   tokenizer.json, or from spiece.model where there is none; everything else is the class's own: words at
 *   white space, id 2 for unknown characters whatever the file says, no byte fallback
 *   (transformers, models/t5/tokenization_t5.py).
 *
 *   TokenizersBackend or PreTrainedTokenizerFast: tokenizer.json as it stands, where its steps are among
 *   those below.
 *
 * Everything read here comes from outside; what does not fit is refused with the file and the key.
 */
#include "worker/model/tokenizer_parts.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "worker/model/spiece.h"

enum { T5_UNKNOWN = 2, T5_EXTRA_IDS = 100, MAX_EXTRA_IDS = 4096, MAX_ADDED = 1 << 16, MAX_ID = 1 << 24 };

/* ------------------------------------------------------------------------------------------------- pieces */

/* The string under `key`, NULL where there is none. Like all of jansson's getters it takes NULL and wrong
 * types, so that a path of them needs one test at its end. */
static const char *text_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static bool is_type(const json_t *object, const char *type)
{
    const char *found = text_at(object, "type");
    return found != NULL && strcmp(found, type) == 0;
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* text: [length] base64. out: [length / 4 * 3]. Returns the bytes written, -1 if it is not base64. */
static ptrdiff_t base64_decode(const char *text, size_t length, unsigned char *out)
{
    size_t written = 0;
    uint32_t bits = 0;
    if (length % 4 != 0) return -1;
    while (length > 0 && text[length - 1] == '=') length--;
    for (size_t i = 0; i < length; i++) {
        int value = base64_value(text[i]);
        if (value < 0) return -1;
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 != 0) out[written++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
    }
    return (ptrdiff_t)written;
}

/* [[piece, score], ...] */
static status_t load_vocabulary(struct tokenizer *t, const json_t *vocabulary, size_t extra,
                                struct error *error)
{
    status_t status = unigram_create(json_array_size(vocabulary) + extra, &t->pieces, error);
    size_t index;
    json_t *item;
    json_array_foreach(vocabulary, index, item)
    {
        if (status != STATUS_OK) break;
        const json_t *text = json_array_get(item, 0), *score = json_array_get(item, 1);
        if (!json_is_string(text) || !json_is_number(score))
            return error_set(error, STATUS_CORRUPT, "tokenizer.json: model.vocab[%zu] is not [piece, score]",
                             index);
        status = unigram_add(t->pieces, json_string_value(text), json_string_length(text),
                             json_number_value(score), error);
    }
    return status;
}

/* normalizer: one step of type Precompiled; null in it means no table. */
static status_t load_charsmap(struct tokenizer *t, const json_t *normalizer, struct error *error)
{
    const json_t *encoded = json_object_get(normalizer, "precompiled_charsmap");
    if (!json_is_string(encoded)) return STATUS_OK;
    size_t length = json_string_length(encoded);
    unsigned char *blob = malloc(length + 1);
    if (blob == NULL)
        return error_set(error, STATUS_NO_MEMORY, "tokenizer.json: the normaliser does not fit in memory");
    ptrdiff_t bytes = base64_decode(json_string_value(encoded), length, blob);
    status_t status = STATUS_OK;
    if (bytes < 0)
        status =
            error_set(error, STATUS_CORRUPT, "tokenizer.json: normalizer.precompiled_charsmap is not base64");
    else if (bytes > 0)
        status = charsmap_create(blob, (size_t)bytes, &t->charsmap, error);
    free(blob);
    return status;
}

/* ------------------------------------------------------------------------------------------- added tokens */

/* id < 0: that of the piece with this text; a token that is neither is left out (the encoder has no row for
 * it). */
static status_t add_token(struct tokenizer *t, const char *text, size_t length, int64_t id,
                          const json_t *flags, struct error *error)
{
    if (json_is_true(json_object_get(flags, "single_word")))
        return error_set(error, STATUS_UNSUPPORTED,
                         "tokenizer: added token \"%s\" has single_word, which is not carried", text);
    if (id < 0) id = unigram_find(t->pieces, text, length);
    if (id < 0 || length == 0) return STATUS_OK;
    if (id > MAX_ID || t->added_count >= MAX_ADDED)
        return error_set(error, STATUS_CORRUPT,
                         "tokenizer: added token \"%s\" with id %lld: at most %d tokens up to %d", text,
                         (long long)id, MAX_ADDED, MAX_ID);
    for (size_t i = 0; i < t->added_count; i++)
        if (t->added[i].length == length && memcmp(t->added[i].text, text, length) == 0) return STATUS_OK;

    struct added_token *grown = realloc(t->added, (t->added_count + 1) * sizeof *grown);
    if (grown != NULL) t->added = grown;
    char *copy = malloc(length + 1);
    if (grown == NULL || copy == NULL) {
        free(copy);
        return error_set(error, STATUS_NO_MEMORY, "tokenizer: its added tokens do not fit in memory");
    }
    memcpy(copy, text, length);
    copy[length] = 0;
    t->added[t->added_count++] = (struct added_token){
        .text = copy,
        .length = length,
        .id = (int32_t)id,
        .eats_left = json_is_true(json_object_get(flags, "lstrip")),
        .eats_right = json_is_true(json_object_get(flags, "rstrip")),
    };
    return STATUS_OK;
}

/* item: "text" or {"content": "text", "lstrip": false, ...}. id < 0: that of the piece with this text. */
static status_t add_token_json(struct tokenizer *t, const json_t *item, int64_t id, struct error *error)
{
    const json_t *text = json_is_object(item) ? json_object_get(item, "content") : item;
    if (!json_is_string(text)) return STATUS_OK; /* null: no such token */
    return add_token(t, json_string_value(text), json_string_length(text), id,
                     json_is_object(item) ? item : NULL, error);
}

/* What tokenizer.json lists, with the ids given there. */
static status_t add_from_file(struct tokenizer *t, const json_t *file, struct error *error)
{
    status_t status = STATUS_OK;
    size_t index;
    json_t *item;
    json_array_foreach(json_object_get(file, "added_tokens"), index, item)
    {
        const json_t *id = json_object_get(item, "id");
        if (status == STATUS_OK)
            status = add_token_json(t, item, json_is_integer(id) ? json_integer_value(id) : -1, error);
    }
    return status;
}

/* What tokenizer_config.json lists and names, as far as the vocabulary has it. */
static status_t add_from_config(struct tokenizer *t, json_t *config, struct error *error)
{
    static const char *const lists[] = {"extra_special_tokens", "additional_special_tokens"};
    static const char *const names[] = {"eos_token", "pad_token", "unk_token", "bos_token"};
    status_t status = STATUS_OK;
    const char *key;
    size_t index;
    json_t *item;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, item)
    {
        if (status == STATUS_OK) status = add_token_json(t, item, -1, error);
    }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        json_array_foreach(json_object_get(config, lists[i]), index, item)
        {
            if (status == STATUS_OK) status = add_token_json(t, item, -1, error);
        }
    }
    for (size_t i = 0; i < sizeof names / sizeof *names && status == STATUS_OK; i++)
        status = add_token_json(t, json_object_get(config, names[i]), -1, error);
    return status;
}

static int32_t find_token(const struct tokenizer *t, const char *text)
{
    for (size_t i = 0; i < t->added_count; i++)
        if (strcmp(t->added[i].text, text) == 0) return t->added[i].id;
    return unigram_find(t->pieces, text, strlen(text));
}

/* ---------------------------------------------------------------------------------- the class T5Tokenizer */

/* How many sentinels; the class has 100 where nothing is said. */
static int extra_ids(const json_t *config)
{
    const json_t *value = json_object_get(config, "extra_ids");
    if (!json_is_number(value)) return T5_EXTRA_IDS;
    double number = json_number_value(value);
    return number < 0 ? 0 : number > MAX_EXTRA_IDS ? MAX_EXTRA_IDS : (int)number;
}

/* The sentinels "<extra_id_0>" ...: at the end of the vocabulary, the last one first. */
static status_t t5_sentinels(struct tokenizer *t, int count, bool append, struct error *error)
{
    status_t status = STATUS_OK;
    char name[32];
    for (int i = count - 1; i >= 0 && status == STATUS_OK; i--) {
        int length = snprintf(name, sizeof name, "<extra_id_%d>", i);
        if (append)
            status = unigram_add(t->pieces, name, (size_t)length, 0.0, error);
        else
            status = add_token(t, name, (size_t)length, -1, NULL, error);
    }
    return status;
}

/* Control pieces ("</s>") and user-defined ones are found in raw text; all others only inside words. */
static status_t t5_from_spiece(struct tokenizer *t, const char *path, int extra, struct error *error)
{
    struct spiece model = {0};
    status_t status = spiece_read(path, &model, error);
    if (status != STATUS_OK) return status;
    status = unigram_create(model.count + (size_t)extra, &t->pieces, error);
    for (size_t i = 0; i < model.count && status == STATUS_OK; i++)
        status = unigram_add(t->pieces, model.pieces[i].text, model.pieces[i].length,
                             (double)model.pieces[i].score, error);
    if (status == STATUS_OK) status = t5_sentinels(t, extra, true, error);
    for (size_t i = 0; i < model.count && status == STATUS_OK; i++) {
        const struct spiece_piece *p = &model.pieces[i];
        if (p->type == SPIECE_CONTROL || p->type == SPIECE_USER_DEFINED)
            status = add_token(t, p->text, p->length, (int64_t)i, NULL, error);
    }
    if (status == STATUS_OK && model.charsmap != NULL)
        status = charsmap_create(model.charsmap, model.charsmap_bytes, &t->charsmap, error);
    spiece_free(&model);
    return status;
}

/* Of all the steps of the normaliser the class takes over only the table. */
static status_t t5_from_json(struct tokenizer *t, const json_t *file, struct error *error)
{
    status_t status = load_vocabulary(t, json_object_get(json_object_get(file, "model"), "vocab"), 0, error);
    const json_t *normalizer = json_object_get(file, "normalizer");
    if (status != STATUS_OK) return status;
    if (!is_type(normalizer, "Sequence")) return load_charsmap(t, normalizer, error);
    size_t index;
    json_t *item;
    json_array_foreach(json_object_get(normalizer, "normalizers"), index, item)
    {
        if (is_type(item, "Precompiled")) return load_charsmap(t, item, error);
    }
    return STATUS_OK;
}

static status_t load_t5(struct tokenizer *t, const json_t *file, const char *spiece, json_t *config,
                        struct error *error)
{
    int extra = extra_ids(config);
    status_t status = file != NULL ? t5_from_json(t, file, error) : t5_from_spiece(t, spiece, extra, error);
    /* A list in the configuration replaces the one in tokenizer.json. */
    if (status == STATUS_OK && json_object_get(config, "added_tokens_decoder") == NULL)
        status = add_from_file(t, file, error);
    if (status == STATUS_OK) status = add_from_config(t, config, error);
    if (status == STATUS_OK) status = t5_sentinels(t, extra, false, error);
    static const char *const defaults[][2] = {
        {"eos_token", "</s>"}, {"pad_token", "<pad>"}, {"unk_token", "<unk>"}};
    for (size_t i = 0; i < 3 && status == STATUS_OK; i++)
        if (json_object_get(config, defaults[i][0]) == NULL)
            status = add_token(t, defaults[i][1], strlen(defaults[i][1]), -1, NULL, error);
    if (status != STATUS_OK) return status;

    const json_t *named = json_object_get(config, "eos_token");
    const char *end = json_is_object(named) ? text_at(named, "content") : json_string_value(named);
    t->end = find_token(t, end != NULL ? end : "</s>");
    if (t->end < 0)
        return error_set(error, STATUS_CORRUPT, "tokenizer: the vocabulary has no %s", end ? end : "</s>");
    if (unigram_count(t->pieces) <= T5_UNKNOWN)
        return error_set(error, STATUS_CORRUPT, "tokenizer: the vocabulary has only %d pieces",
                         unigram_count(t->pieces));
    t->unknown = T5_UNKNOWN;
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------- tokenizer.json as it is */

/* Words: WhitespaceSplit then Metaspace; or Metaspace alone behind the normalisers that strip and join
 * spaces, which comes to the same except that only U+0020 counts. */
static status_t generic_steps(struct tokenizer *t, const json_t *file, struct error *error)
{
    const json_t *normalizer = json_object_get(file, "normalizer"),
                 *words = json_object_get(file, "pre_tokenizer");
    const json_t *list = json_object_get(normalizer, "normalizers");
    bool sequence = is_type(normalizer, "Sequence"), strips = false, joins = false, splits = false;
    status_t status = STATUS_OK;
    for (size_t i = 0;
         i < (sequence ? json_array_size(list) : !json_is_null(normalizer) && normalizer != NULL); i++) {
        const json_t *step = sequence ? json_array_get(list, i) : normalizer;
        const char *pattern = text_at(json_object_get(step, "pattern"), "Regex");
        const char *content = text_at(step, "content");
        bool joining = is_type(step, "Replace") && pattern && content && strcmp(pattern, " {2,}") == 0 &&
                       strcmp(content, "\u2581") == 0;
        if (i == 0 && is_type(step, "Precompiled"))
            status = load_charsmap(t, step, error);
        else if (is_type(step, "Strip"))
            strips = true;
        else if (joining)
            joins = true;
        else
            status =
                error_set(error, STATUS_UNSUPPORTED, "tokenizer.json: normalizer step %zu is not carried", i);
        if (status != STATUS_OK) return status;
    }
    const json_t *parts = json_object_get(words, "pretokenizers");
    if (is_type(words, "Sequence") && json_array_size(parts) == 2 &&
        is_type(json_array_get(parts, 0), "WhitespaceSplit")) {
        splits = true;
        words = json_array_get(parts, 1);
    }
    const char *mark = text_at(words, "replacement"), *prepend = text_at(words, "prepend_scheme");
    bool fits = is_type(words, "Metaspace") && mark && strcmp(mark, "\u2581") == 0 &&
                (prepend == NULL || strcmp(prepend, "always") == 0) &&
                !json_is_false(json_object_get(words, "split"));
    if (!fits || !(splits || (strips && joins)))
        return error_set(error, STATUS_UNSUPPORTED,
                         "tokenizer.json: its pre_tokenizer is not carried; known are "
                         "WhitespaceSplit with Metaspace, and Metaspace behind Strip and Replace");
    t->spaces_only = !splits;
    return STATUS_OK;
}

/* The template must be: the text, then one special token. */
static status_t generic_end(struct tokenizer *t, const json_t *file, struct error *error)
{
    const json_t *after = json_object_get(file, "post_processor"), *single = json_object_get(after, "single");
    const json_t *special = json_object_get(json_array_get(single, 1), "SpecialToken");
    const char *name = text_at(special, "id");
    const json_t *token = name ? json_object_get(json_object_get(after, "special_tokens"), name) : NULL;
    const json_t *id = json_array_get(json_object_get(token, "ids"), 0);
    if (!is_type(after, "TemplateProcessing") || json_array_size(single) != 2 ||
        json_object_get(json_array_get(single, 0), "Sequence") == NULL || !json_is_integer(id) ||
        json_integer_value(id) < 0 || json_integer_value(id) > MAX_ID)
        return error_set(error, STATUS_UNSUPPORTED,
                         "tokenizer.json: post_processor must be a template of the text and one end token");
    t->end = (int32_t)json_integer_value(id);
    return STATUS_OK;
}

static status_t load_generic(struct tokenizer *t, const json_t *file, json_t *config, struct error *error)
{
    const json_t *model = json_object_get(file, "model"), *unknown = json_object_get(model, "unk_id");
    status_t status = load_vocabulary(t, json_object_get(model, "vocab"), 0, error);
    if (status == STATUS_OK) status = generic_steps(t, file, error);
    if (status == STATUS_OK) status = generic_end(t, file, error);
    if (status == STATUS_OK) status = add_from_file(t, file, error);
    if (status == STATUS_OK) status = add_from_config(t, config, error);
    if (status != STATUS_OK) return status;
    if (!json_is_integer(unknown) || json_integer_value(unknown) < 0 ||
        json_integer_value(unknown) >= unigram_count(t->pieces))
        return error_set(error, STATUS_CORRUPT, "tokenizer.json: model.unk_id is no id of the vocabulary");
    t->unknown = (int32_t)json_integer_value(unknown);
    t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    for (int i = 0; i < 256 && t->byte_fallback; i++) {
        char name[8];
        int length = snprintf(name, sizeof name, "<0x%02X>", i);
        t->bytes[i] = unigram_find(t->pieces, name, (size_t)length);
    }
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------- directory */

/* *root: owned by the caller, NULL where there is no such file. flags: jansson's. */
static status_t read_json(const char *directory, const char *name, size_t flags, json_t **root,
                          struct error *error)
{
    char path[PATH_MAX];
    json_error_t why;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    *root = NULL;
    if (access(path, F_OK) != 0) return STATUS_OK;
    *root = json_load_file(path, flags, &why);
    if (*root == NULL) return error_set(error, STATUS_CORRUPT, "%s: line %d: %s", path, why.line, why.text);
    return STATUS_OK;
}

static bool is_one_of(const char *text, const char *a, const char *b)
{
    return strcmp(text, a) == 0 || strcmp(text, b) == 0;
}

static status_t load(const char *directory, const json_t *file, json_t *config, struct tokenizer *t,
                     struct error *error)
{
    char spiece[PATH_MAX];
    snprintf(spiece, sizeof spiece, "%s/spiece.model", directory);
    const char *class = text_at(config, "tokenizer_class");
    if (class == NULL) class = "T5Tokenizer";
    const json_t *model = json_object_get(file, "model");
    if (file != NULL && (!is_type(model, "Unigram") || !json_is_array(json_object_get(model, "vocab"))))
        return error_set(error, STATUS_UNSUPPORTED, "tokenizer.json: model.type must be Unigram");
    if (file == NULL && access(spiece, F_OK) != 0)
        return error_set(error, STATUS_NOT_FOUND, "neither tokenizer.json nor spiece.model is there");
    if (is_one_of(class, "T5Tokenizer", "T5TokenizerFast")) return load_t5(t, file, spiece, config, error);
    if (!is_one_of(class, "TokenizersBackend", "PreTrainedTokenizerFast"))
        return error_set(error, STATUS_UNSUPPORTED,
                         "tokenizer_config.json: tokenizer_class %s is not carried", class);
    if (file == NULL)
        return error_set(error, STATUS_UNSUPPORTED,
                         "tokenizer_class %s without a tokenizer.json is not carried", class);
    return load_generic(t, file, config, error);
}

status_t tokenizer_load(const char *directory, struct tokenizer *tokenizer, struct error *error)
{
    json_t *file = NULL, *config = NULL;
    /* model_max_length is 10^30 in published files: too large for an integer. */
    status_t status = read_json(directory, "tokenizer_config.json", JSON_DECODE_INT_AS_REAL, &config, error);
    if (status == STATUS_OK) status = read_json(directory, "tokenizer.json", JSON_ALLOW_NUL, &file, error);
    if (status == STATUS_OK) {
        status = load(directory, file, config, tokenizer, error);
        if (status != STATUS_OK) error_prefix(error, "%s", directory);
    }
    json_decref(file);
    json_decref(config);
    return status;
}
