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
#include "worker/model/card.h"

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
    assert_true(number(card, "parameter_count") > 11000000);
    assert_true(number(card, "weight_bytes") > 2 * number(card, "parameter_count"));
    json_decref(card);
    free(text);
}

static void every_field_is_one_of_the_message(void **state)
{
    char path[512], *text;
    assert_int_equal(model_card_json(golden_path(path, sizeof path, "models/reference"), &text, NULL),
                     STATUS_OK);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_model_describes_itself),
        cmocka_unit_test(every_field_is_one_of_the_message),
        cmocka_unit_test(a_missing_shard_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
