/*
 * test_tokenizer.c - prompt cleaning and ids against diffusers and transformers (tests/golden/text, made by
 * tools/golden_text.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "tests/golden.h"
#include "worker/model/tokenizer.h"

enum { LIMIT = 512, PATH_BYTES = 512 };

static int setup(void **state)
{
    char path[PATH_BYTES];
    json_error_t why;
    *state = json_load_file(golden_path(path, sizeof path, "tests/golden/text/prompts.json"), 0, &why);
    if (*state == NULL) print_error("%s: %s\n", path, why.text);
    return *state == NULL;
}

static int teardown(void **state)
{
    json_decref(*state);
    return 0;
}

static const json_t *part(void **state, const char *key)
{
    const json_t *found = json_object_get(*state, key);
    assert_non_null(found);
    return found;
}

static struct tokenizer *open_tokenizer(const char *relative)
{
    char path[PATH_BYTES];
    struct tokenizer *tokenizer;
    struct error error;
    if (tokenizer_open(golden_path(path, sizeof path, relative), &tokenizer, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return tokenizer;
}

/* ----------------------------------------------------------------------------------------------- cleaning */

static void prompts_are_cleaned_as_the_pipeline_does(void **state)
{
    const json_t *prompts = part(state, "prompts"), *cleaned = part(state, "cleaned");
    assert_true(json_array_size(prompts) >= 300);
    size_t index;
    json_t *prompt;
    json_array_foreach((json_t *)prompts, index, prompt)
    {
        const char *text = json_string_value(prompt),
                   *want = json_string_value(json_array_get(cleaned, index));
        char *ours;
        assert_int_equal(prompt_clean(text, &ours, NULL), STATUS_OK);
        assert_string_equal(ours, want != NULL ? want : text); /* null in the file: unchanged */
        free(ours);
    }
}

static void cleaning_twice_changes_nothing_more_in_plain_prompts(void **state)
{
    (void)state;
    const char *text = "  \u201cA cat\u201d\u3000\uff21\uff22 &eacute;t\u00e9 \ufb01n\r\n";
    char *once, *twice;
    assert_int_equal(prompt_clean(text, &once, NULL), STATUS_OK);
    assert_string_equal(once, "\"A cat\" AB \u00e9t\u00e9 fin");
    assert_int_equal(prompt_clean(once, &twice, NULL), STATUS_OK);
    assert_string_equal(once, twice);
    free(once);
    free(twice);
}

static void invalid_utf8_is_refused_with_the_byte(void **state)
{
    (void)state;
    const char *const texts[] = {"red \xff star",    "\xc3",     "a\xe2\x82", "\xed\xa0\x80",
                                 "\xf4\x90\x80\x80", "\xc0\xaf", "\x80"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct error error;
        char *cleaned = NULL;
        assert_int_equal(prompt_clean(texts[i], &cleaned, &error), STATUS_INVALID);
        assert_null(cleaned);
        assert_non_null(strstr(error.text, "UTF-8"));
    }
}

static void a_prompt_of_a_megabyte_is_refused(void **state)
{
    (void)state;
    char *text = malloc((1 << 20) + 1), *cleaned;
    assert_non_null(text);
    memset(text, 'x', 1 << 20);
    text[1 << 20] = 0;
    struct error error;
    assert_int_equal(prompt_clean(text, &cleaned, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "32768 bytes"));
    free(text);
}

/* ---------------------------------------------------------------------------------------------------- ids */

static void expect_ids(void **state, const char *name, const char *directory)
{
    const json_t *prompts = part(state, "prompts"), *all = json_object_get(part(state, "ids"), name);
    struct tokenizer *tokenizer = open_tokenizer(directory);
    size_t index;
    json_t *prompt;
    json_array_foreach((json_t *)prompts, index, prompt)
    {
        const json_t *want = json_array_get(all, index);
        int32_t ids[LIMIT];
        int count = 0;
        struct error error;
        if (tokenizer_encode(tokenizer, json_string_value(prompt), LIMIT, ids, &count, &error) != STATUS_OK)
            fail_msg("prompt %zu: %s", index, error.text);
        bool same = (size_t)count == json_array_size(want);
        for (int i = 0; same && i < count; i++) {
            same = ids[i] == json_integer_value(json_array_get(want, (size_t)i));
            assert_true(ids[i] >= 0 && ids[i] < tokenizer_vocabulary(tokenizer));
        }
        if (!same) fail_msg("%s: other ids for prompt %zu: %.200s", name, index, json_string_value(prompt));
    }
    tokenizer_close(tokenizer);
}

static void ids_of_the_reference_model_equal_transformers(void **state)
{
    expect_ids(state, "reference", "models/reference/tokenizer");
}

static void ids_from_spiece_model_equal_transformers(void **state)
{
    expect_ids(state, "t5", "tests/golden/text/t5");
}

static void ids_from_tokenizer_json_equal_transformers(void **state)
{
    expect_ids(state, "umt5", "tests/golden/text/umt5");
}

static void ids_of_a_tokenizer_json_used_as_written_equal_transformers(void **state)
{
    expect_ids(state, "generic", "tests/golden/text/generic");
}

static void a_limit_cuts_the_text_and_keeps_the_end_token(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_tokenizer("tests/golden/text/t5");
    int32_t whole[LIMIT], cut[LIMIT];
    int length, count;
    const char *text = "A large red star is spinning slowly </s> on a navy background.";
    assert_int_equal(tokenizer_encode(tokenizer, text, LIMIT, whole, &length, NULL), STATUS_OK);
    for (int limit = 1; limit <= length; limit++) {
        cut[limit] = -7;
        assert_int_equal(tokenizer_encode(tokenizer, text, limit, cut, &count, NULL), STATUS_OK);
        assert_int_equal(count, limit);
        assert_memory_equal(cut, whole, (size_t)(limit - 1) * sizeof *cut);
        assert_int_equal(cut[limit - 1], whole[length - 1]);
        if (limit < LIMIT) assert_int_equal(cut[limit], -7);
    }
    assert_int_equal(tokenizer_encode(tokenizer, text, 0, cut, &count, NULL), STATUS_INVALID);
    tokenizer_close(tokenizer);
}

/* ----------------------------------------------------------------------------------------------- refusals */

struct broken {
    const char *config, *file; /* contents; NULL: no such file */
    const char *spiece;
    size_t spiece_bytes;
    status_t status;
    const char *says;
};

static void write_file(const char *directory, const char *name, const char *text, size_t bytes)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
}

static void remove_all(const char *directory)
{
    static const char *const names[] = {"tokenizer_config.json", "tokenizer.json", "spiece.model"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void broken_tokenizers_are_refused_with_a_sentence(void **state)
{
    (void)state;
    static const char t5[] = "{\"tokenizer_class\":\"T5Tokenizer\"}";
    static const struct broken cases[] = {
        {t5, NULL, NULL, 0, STATUS_NOT_FOUND, "spiece.model"},
        {t5, "{", NULL, 0, STATUS_CORRUPT, "line 1"},
        {t5, "{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", NULL, 0, STATUS_UNSUPPORTED, "Unigram"},
        {t5, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", NULL, 0, STATUS_INVALID, "0 pieces"},
        {t5, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[1,2]]}}", NULL, 0, STATUS_CORRUPT, "vocab[0]"},
        {t5, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}", NULL, 0, STATUS_CORRUPT, "</s>"},
        {t5, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"</s>\",0]]}}", NULL, 0, STATUS_CORRUPT,
         "1 pieces"},
        {t5,
         "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!\"},"
         "\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"</s>\",0]]}}",
         NULL, 0, STATUS_CORRUPT, "base64"},
        {t5,
         "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AP///wAAAAA=\"},"
         "\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"</s>\",0]]}}",
         NULL, 0, STATUS_CORRUPT, "precompiled_charsmap"},
        {"{\"tokenizer_class\":\"LlamaTokenizer\"}", "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", NULL,
         0, STATUS_UNSUPPORTED, "LlamaTokenizer"},
        {"{\"tokenizer_class\":\"TokenizersBackend\"}",
         "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}", NULL, 0, STATUS_UNSUPPORTED,
         "pre_tokenizer"},
        {t5, NULL, "", 0, STATUS_CORRUPT, "0 bytes"},
        {t5, NULL, "\x0a\x7f", 2, STATUS_CORRUPT, "SentencePiece"},
        {t5, NULL, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, STATUS_CORRUPT, "SentencePiece"},
        {t5, NULL, "\x0a\x03\x0a\x05z", 5, STATUS_CORRUPT, "piece"},
        {t5, NULL, "\x0a\x03\x0a\x01z\x12\x02\x18\x02", 9, STATUS_UNSUPPORTED, "model type 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char directory[] = "/tmp/refrain-tokenizer-XXXXXX";
        assert_non_null(mkdtemp(directory));
        const struct broken *c = &cases[i];
        if (c->config) write_file(directory, "tokenizer_config.json", c->config, strlen(c->config));
        if (c->file) write_file(directory, "tokenizer.json", c->file, strlen(c->file));
        if (c->spiece) write_file(directory, "spiece.model", c->spiece, c->spiece_bytes);
        struct tokenizer *tokenizer = NULL;
        struct error error = {0};
        status_t status = tokenizer_open(directory, &tokenizer, &error);
        remove_all(directory);
        if (status != c->status || strstr(error.text, c->says) == NULL)
            fail_msg("case %zu: status %s, says: %s", i, status_name(status), error.text);
        assert_null(tokenizer);
    }
}

/* Every prefix of a real file, and the file with bytes overturned, either opens or is refused; nothing else.
 */
static void a_damaged_spiece_model_never_does_harm(void **state)
{
    (void)state;
    char path[PATH_BYTES], directory[] = "/tmp/refrain-tokenizer-XXXXXX";
    FILE *file = fopen(golden_path(path, sizeof path, "tests/golden/text/t5/spiece.model"), "rb");
    assert_non_null(file);
    static char bytes[1 << 20], damaged[1 << 20];
    size_t size = fread(bytes, 1, sizeof bytes, file), opened = 0;
    fclose(file);
    assert_non_null(mkdtemp(directory));
    unsigned random = 1;
    for (int i = 0; i < 60; i++) {
        size_t length = i % 2 ? size : (random = random * 1664525u + 1013904223u) % size;
        memcpy(damaged, bytes, size);
        for (int k = 0; k < i; k++) {
            random = random * 1664525u + 1013904223u;
            damaged[(random >> 8) % size] = (char)(random >> 3);
        }
        write_file(directory, "spiece.model", damaged, length);
        struct tokenizer *tokenizer = NULL;
        int32_t ids[64];
        int count;
        if (tokenizer_open(directory, &tokenizer, NULL) != STATUS_OK) continue;
        status_t status = tokenizer_encode(tokenizer, "\uff21 red \u00bd e\u0301 \u65e5\u672c\u8a9e ...", 64,
                                           ids, &count, NULL);
        assert_true(status == STATUS_OK && count >= 1 && count <= 64);
        tokenizer_close(tokenizer);
        opened++;
    }
    remove_all(directory);
    print_message("%zu of 60 damaged files still opened\n", opened);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_cleaned_as_the_pipeline_does),
        cmocka_unit_test(cleaning_twice_changes_nothing_more_in_plain_prompts),
        cmocka_unit_test(invalid_utf8_is_refused_with_the_byte),
        cmocka_unit_test(a_prompt_of_a_megabyte_is_refused),
        cmocka_unit_test(ids_of_the_reference_model_equal_transformers),
        cmocka_unit_test(ids_from_spiece_model_equal_transformers),
        cmocka_unit_test(ids_from_tokenizer_json_equal_transformers),
        cmocka_unit_test(ids_of_a_tokenizer_json_used_as_written_equal_transformers),
        cmocka_unit_test(a_limit_cuts_the_text_and_keeps_the_end_token),
        cmocka_unit_test(broken_tokenizers_are_refused_with_a_sentence),
        cmocka_unit_test(a_damaged_spiece_model_never_does_harm),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
