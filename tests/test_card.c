/*
 * test_card.c - the JSON that tells the coordinator what a checkpoint allows, and what it says of a broken
 * one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <jansson.h>

#include "proto/refrain.pb-c.h"
#include "tests/golden.h"
#include "coordinator/models.h"
#include "worker/model/card.h"
#include "worker/needs.h"

static json_int_t number(const json_t *card, const char *key)
{
    const json_t *value = json_object_get(card, key);
    if (!json_is_integer(value)) fail_msg("%s is not a whole number", key);
    return json_integer_value(value);
}

static void the_reference_model_describes_itself(void **state)
{
    char path[512], *text;
    struct error error = {0};
    if (model_card_json(golden_path(path, sizeof path, "models/reference/"), &text, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    json_t *card = json_loads(text, 0, NULL);
    assert_non_null(card);
    assert_null(strchr(text, '\n'));
    assert_string_equal(json_string_value(json_object_get(card, "name")), "reference");
    assert_string_equal(json_string_value(json_object_get(card, "pipeline")), "WanPipeline");
    assert_int_equal(number(card, "layers"), 8);
    assert_int_equal(number(card, "heads"), 4);
    assert_int_equal(number(card, "head_dim"), 64);
    assert_int_equal(number(card, "size_multiple"), 16);
    assert_int_equal(number(card, "frame_multiple"), 4);
    assert_int_equal(number(card, "text_length"), 512);
    assert_int_equal(number(card, "solver"), REFRAIN__SOLVER__SOLVER_UNIPC);
    assert_true(json_real_value(json_object_get(card, "shift")) == 3.0);
    assert_int_equal(number(card, "default_width"), 64);
    assert_int_equal(number(card, "default_height"), 64);
    assert_int_equal(number(card, "default_frames"), 17);
    assert_int_equal(number(card, "vae_scale"), 8);
    assert_int_equal(number(card, "patch"), 2);
    assert_int_equal(number(card, "ffn_dim"), 1024);
    assert_int_equal(number(card, "latent_channels"), 16);
    assert_true(json_is_array(json_object_get(card, "tables")));
    assert_true(number(card, "parameter_count") > 11000000);
    assert_true(number(card, "weight_bytes") > 2 * number(card, "parameter_count"));
    json_decref(card);
    free(text);
}

static void a_model_of_two_experts_says_so_and_counts_both(void **state)
{
    char path[512], directory[] = P_tmpdir "/refrain-card-XXXXXX", root[1024], command[2600], *text;
    struct error error = {0};
    if (model_card_json(golden_path(path, sizeof path, "tests/models/tiny-d"), &text, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    json_t *card = json_loads(text, 0, NULL);
    assert_int_equal(number(card, "experts"), 2);
    assert_int_equal(number(card, "layers"), 8);
    assert_int_equal(number(card, "train_steps"), 1000);
    assert_true(json_real_value(json_object_get(card, "boundary")) == 0.875);
    assert_int_equal(number(card, "parameter_count"), 2 * 77816 + 20064 + 31110); /* as diffusers counts */
    json_decref(card);
    free(text);

    text = NULL;
    assert_non_null(mkdtemp(directory));
    assert_non_null(realpath(path, root));
    snprintf(command, sizeof command,
             "cp -rs %s/. %s && rm %s/transformer_2/diffusion_pytorch_model.safetensors && "
             "ln -s %s/vae/diffusion_pytorch_model.safetensors %s/transformer_2/",
             root, directory, directory, root, directory);
    assert_int_equal(system(command), 0);
    assert_true(model_card_json(directory, &text, &error) != STATUS_OK);
    assert_non_null(strstr(error.text, "/transformer_2"));
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

static void every_field_is_one_of_the_message(void **state)
{
    char path[512], *text;
    assert_int_equal(needs_card(golden_path(path, sizeof path, "models/reference"), &text, NULL), STATUS_OK);
    json_t *card = json_loads(text, 0, NULL), *value;
    const char *key;
    assert_int_equal(json_object_size(card), refrain__model_card__descriptor.n_fields);
    json_object_foreach(card, key, value)
    {
        if (!protobuf_c_message_descriptor_get_field_by_name(&refrain__model_card__descriptor, key))
            fail_msg("message ModelCard has no field %s", key);
    }
    json_decref(card);
    free(text);
}

/* A copy of the reference model in links, with one file taken out. */
static void a_missing_shard_is_named(void **state)
{
    char directory[] = P_tmpdir "/refrain-card-XXXXXX", command[2048], model[512], root[1024], *text = NULL;
    struct error error = {0};
    assert_non_null(mkdtemp(directory));
    assert_non_null(realpath(golden_path(model, sizeof model, "models/reference"), root));
    snprintf(command, sizeof command,
             "cp -rs %s/. %s && rm %s/transformer/diffusion_pytorch_model-00002-of-00003.safetensors", root,
             directory, directory);
    assert_int_equal(system(command), 0);
    assert_int_equal(model_card_json(directory, &text, &error), STATUS_NOT_FOUND);
    assert_null(text);
    assert_non_null(strstr(error.text,
                           "/transformer: shard 2 of 3 is missing "
                           "(diffusion_pytorch_model-00002-of-00003.safetensors), named by the index file"));
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

/* ------------------------------------------------------------------------------------------------- tables */

/* The reference model in links, with a refrain-tables.json of its own. */
static void link_model(char *directory, const char *tables)
{
    char command[2048], model[512], root[1024], path[256];
    assert_non_null(mkdtemp(directory));
    assert_non_null(realpath(golden_path(model, sizeof model, "models/reference"), root));
    snprintf(command, sizeof command, "cp -rs %s/. %s && rm -f %s/refrain-tables.json", root, directory,
             directory);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/refrain-tables.json", directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(tables, file);
    assert_int_equal(fclose(file), 0);
}

static void unlink_model(const char *directory)
{
    char command[256];
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

static void tables_reach_the_coordinators_card_with_every_bit(void **state)
{
    char directory[] = P_tmpdir "/refrain-card-XXXXXX", *text;
    struct error error = {0};
    Refrain__ModelCard *card;
    link_model(directory, "{\"tables\": [{\"kind\": \"magcache\", \"name\": \"reference\", \"steps\": 3,"
                          "\"shift\": 3.0, \"values\": [1, 0.1, 1.0000000000000002]},"
                          "{\"kind\": \"sencache\", \"layers\": 8, \"shift\": 0, \"width\": 2,"
                          "\"values\": [-1e-300, 2, 3, 4]}]}");
    if (model_card_json(directory, &text, &error) != STATUS_OK) fail_msg("%s", error.text);
    if (card_from_json(text, strlen(text), &card, &error) != STATUS_OK) fail_msg("%s", error.text);
    assert_int_equal(card->latent_channels, 16);
    assert_int_equal(card->n_tables, 2);
    const Refrain__CacheTable *magcache = card->tables[0], *sencache = card->tables[1];
    assert_string_equal(magcache->kind, "magcache");
    assert_string_equal(magcache->name, "reference");
    assert_int_equal(magcache->layers, 8);
    assert_int_equal(magcache->heads, 4);
    assert_int_equal(magcache->head_dim, 64);
    assert_int_equal(magcache->ffn_dim, 1024);
    assert_int_equal(magcache->latent_channels, 16);
    assert_int_equal(magcache->steps, 3);
    assert_int_equal(magcache->width, 1);
    assert_int_equal(magcache->n_values, 3);
    assert_true(magcache->shift == 3);
    assert_true(magcache->values[0] == 1 && magcache->values[1] == 0.1);
    assert_true(magcache->values[2] == 1.0000000000000002);
    assert_int_equal(sencache->n_values, 4);
    assert_int_equal(sencache->width, 2);
    assert_true(sencache->values[0] == -1e-300);
    refrain__model_card__free_unpacked(card, NULL);
    free(text);
    unlink_model(directory);
}

static void a_bad_table_is_named_by_file_and_key(void **state)
{
    static const struct {
        const char *tables, *sentence;
    } bad[] = {
        {"[]", "/refrain-tables.json: has no list \"tables\""},
        {"{\"tables\": ", "/refrain-tables.json: line 1: "},
        {"{\"tables\": [7]}", "/refrain-tables.json: tables[0]: is not a JSON object"},
        {"{\"tables\": [{\"kind\": \"weather\", \"values\": [1]}]}",
         "/refrain-tables.json: tables[0]: kind is weather; must be one of "},
        {"{\"tables\": [{\"kind\": \"magcache\", \"values\": [1, 2, 3], \"width\": 2}]}",
         "/refrain-tables.json: tables[0]: values must be a list of numbers in rows of 2 (it has 3)"},
        {"{\"tables\": [{\"kind\": \"magcache\"}]}", "tables[0]: values must be a list of numbers"},
        {"{\"tables\": [{\"kind\": \"magcache\", \"values\": [1, \"2\"]}]}",
         "/refrain-tables.json: tables[0]: values[1] is not a number"},
        {"{\"tables\": [{\"kind\": \"magcache\", \"values\": [1e999]}]}", "line 1: real number overflow"},
        {"{\"tables\": [{\"kind\": \"magcache\", \"values\": [1], \"layers\": 30}]}",
         "tables[0]: layers is 30, and the model has 8: the table is of another model"},
        {"{\"tables\": [{\"kind\": \"magcache\", \"values\": [1], \"steps\": 1001}]}",
         "tables[0]: steps is 1001; must be a whole number 0 to 1000"},
        {"{\"tables\": [{\"kind\": \"magcache\", \"values\": [1], \"shift\": -1}]}",
         "tables[0]: shift is -1; must be a number above 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char directory[] = P_tmpdir "/refrain-card-XXXXXX", *text = NULL;
        struct error error = {0};
        link_model(directory, bad[i].tables);
        assert_int_not_equal(model_card_json(directory, &text, &error), STATUS_OK);
        assert_null(text);
        if (!strstr(error.text, bad[i].sentence)) fail_msg("%s: \"%s\"", bad[i].tables, error.text);
        unlink_model(directory);
    }
}

static void a_card_with_a_list_that_is_none_is_refused(void **state)
{
    static const char *const bad[] = {
        "{\"tables\":7}", "{\"tables\":[7]}", "{\"tables\":[{\"values\":\"1\"}]}",
        "{\"tables\":[{\"values\":[1,null]}]}", "{\"tables\":[{\"kind\":\"magcache\"},{\"steps\":-1}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error error;
        Refrain__ModelCard *card = NULL;
        assert_int_equal(card_from_json(bad[i], strlen(bad[i]), &card, &error), STATUS_CORRUPT);
        assert_null(card);
        assert_non_null(strstr(error.text, "model card: "));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_model_describes_itself),
        cmocka_unit_test(a_model_of_two_experts_says_so_and_counts_both),
        cmocka_unit_test(every_field_is_one_of_the_message),
        cmocka_unit_test(a_missing_shard_is_named),
        cmocka_unit_test(tables_reach_the_coordinators_card_with_every_bit),
        cmocka_unit_test(a_bad_table_is_named_by_file_and_key),
        cmocka_unit_test(a_card_with_a_list_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
