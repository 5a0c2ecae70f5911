/*
 * test_config.c - reading a pipeline's JSON: defaults, ranges, what is refused and in which words.
 *
 * Each case is a copy of models/reference with one file changed, in a temporary directory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <jansson.h>

#include "tests/golden.h"
#include "worker/model/config.h"

static const char *const FILES[] = {"model_index.json", "transformer/config.json", "text_encoder/config.json",
                                    "vae/config.json", "scheduler/scheduler_config.json"};
static const char *const FOLDERS[] = {"transformer", "text_encoder", "vae", "scheduler"};
enum { FILE_COUNT = 5, FOLDER_COUNT = 4 };

static char directory[] = P_tmpdir "/refrain-config-XXXXXX";

static const char *path_of(const char *file)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    return path;
}

static int make_directory(void **state)
{
    if (!mkdtemp(directory)) return -1;
    for (int i = 0; i < FOLDER_COUNT; i++)
        if (mkdir(path_of(FOLDERS[i]), 0700) != 0) return -1;
    return 0;
}

static int remove_directory(void **state)
{
    for (int i = 0; i < FILE_COUNT; i++) unlink(path_of(FILES[i]));
    for (int i = 0; i < FOLDER_COUNT; i++) rmdir(path_of(FOLDERS[i]));
    return rmdir(directory);
}

/* All five files as they are in the reference model. */
static int restore(void **state)
{
    char from[512], relative[256];
    for (int i = 0; i < FILE_COUNT; i++) {
        snprintf(relative, sizeof relative, "models/reference/%s", FILES[i]);
        json_t *root = json_load_file(golden_path(from, sizeof from, relative), 0, NULL);
        if (!root || json_dump_file(root, path_of(FILES[i]), 0) != 0) return -1;
        json_decref(root);
    }
    return 0;
}

/* Puts the keys of `changes` (JSON) into one file, after taking out the key `removed` (NULL: none). */
static void change(const char *file, const char *removed, const char *changes)
{
    json_t *root = json_load_file(path_of(file), 0, NULL), *update = json_loads(changes, 0, NULL);
    assert_non_null(root);
    assert_non_null(update);
    if (removed) json_object_del(root, removed);
    assert_int_equal(json_object_update(root, update), 0);
    assert_int_equal(json_dump_file(root, path_of(file), 0), 0);
    json_decref(root);
    json_decref(update);
}

static void read_well(struct model_config *config)
{
    struct error error = {0};
    if (model_config_read(directory, config, &error) != STATUS_OK) fail_msg("%s", error.text);
}

static void expect_refused(const char *part)
{
    struct error error = {0};
    struct model_config config;
    memset(&config, 0x5a, sizeof config);
    struct model_config before = config;
    status_t status = model_config_read(directory, &config, &error);
    if (status == STATUS_OK) fail_msg("accepted, but should say \"%s\"", part);
    if (!strstr(error.text, part)) fail_msg("\"%s\" does not say \"%s\"", error.text, part);
    if (!strstr(error.text, directory)) fail_msg("\"%s\" does not name the file", error.text);
    assert_memory_equal(&config, &before, sizeof config);
}

/* ----------------------------------------------------------------------------------------- what is read */

static void the_reference_model_reads_as_published(void **state)
{
    struct model_config c;
    read_well(&c);
    assert_string_equal(c.pipeline, "WanPipeline");
    assert_int_equal(c.text_length, 512);
    assert_int_equal(c.denoiser.layers, 8);
    assert_int_equal(c.denoiser.heads, 4);
    assert_int_equal(c.denoiser.hidden, 256);
    assert_int_equal(c.denoiser.ffn_dim, 1024);
    assert_int_equal(c.denoiser.patch_x, 2);
    assert_int_equal(c.text.width, 128);
    assert_int_equal(c.text.vocabulary, 136);
    assert_int_equal(c.vae.base, 16);
    assert_int_equal(c.vae.decoder_base, 16);
    assert_int_equal(c.vae.levels, 4);
    assert_int_equal(c.vae.scale_t, 4);
    assert_int_equal(c.vae.scale_y, 8);
    assert_true(c.vae.mean[0] == 1.0582653284072876f && c.vae.std[15] == 1.6716290712356567f);
    assert_int_equal(c.solver.kind, SOLVER_UNIPC);
    assert_true(c.solver.shift == 3.0 && c.solver.order == 2 && c.solver.lower_order_final && !c.solver.bh1);
}

static void missing_keys_take_the_defaults_of_the_classes(void **state)
{
    static const char *const gone[] = {"num_layers",       "qk_norm",    "eps",      "image_dim",
                                       "rope_max_seq_len", "patch_size", "freq_dim", "pos_embed_seq_len"};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) change("transformer/config.json", gone[i], "{}");
    static const char *const gone_vae[] = {
        "is_residual",     "patch_size",   "scale_factor_spatial", "scale_factor_temporal", "dim_mult",
        "num_res_blocks",  "latents_mean", "latents_std",          "temperal_downsample",   "base_dim",
        "decoder_base_dim"};
    for (size_t i = 0; i < sizeof gone_vae / sizeof *gone_vae; i++)
        change("vae/config.json", gone_vae[i], "{}");
    change("scheduler/scheduler_config.json", "flow_shift", "{}");
    change("model_index.json", "boundary_ratio", "{}");
    change("model_index.json", "transformer_2", "{\"unknown\":[1]}");
    struct model_config c;
    read_well(&c);
    assert_int_equal(c.denoiser.layers, 40);
    assert_int_equal(c.denoiser.max_position, 1024);
    assert_int_equal(c.vae.base, 96);
    assert_int_equal(c.vae.decoder_base, 96);
    assert_int_equal(c.vae.resnets, 2);
    assert_true(c.vae.temporal_down[1] && !c.vae.temporal_down[0]);
    assert_true(c.vae.mean[0] == -0.7571f && c.vae.std[15] == 1.9160f);
    assert_true(c.solver.shift == 1.0);
}

static void odd_sizes_are_fine(void **state)
{
    change("transformer/config.json", NULL,
           "{\"num_attention_heads\":3,\"attention_head_dim\":40,\"text_dim\":24}");
    change("text_encoder/config.json", NULL, "{\"d_model\":24,\"num_heads\":5,\"d_kv\":7}");
    change("vae/config.json", NULL,
           "{\"base_dim\":3,\"decoder_base_dim\":7,\"dim_mult\":[1,2,1],\"num_res_blocks\":3,"
           "\"temperal_downsample\":[true,false],\"scale_factor_spatial\":4,\"scale_factor_temporal\":2}");
    struct model_config c;
    read_well(&c);
    assert_int_equal(c.denoiser.hidden, 120);
    assert_int_equal(c.text.head_dim, 7);
    assert_int_equal(c.vae.scale_y, 4);
    assert_int_equal(c.vae.scale_t, 2);
    assert_int_equal(c.vae.levels, 3);
}

static void solver_keys_that_change_results_are_carried(void **state)
{
    change("scheduler/scheduler_config.json", NULL,
           "{\"solver_order\":3,\"solver_type\":\"bh1\",\"disable_corrector\":[0,2],\"final_sigmas_type\":"
           "\"sigma_min\","
           "\"lower_order_final\":false,\"shift_terminal\":0.02,\"flow_shift\":5}");
    struct model_config c;
    read_well(&c);
    assert_true(c.solver.bh1 && c.solver.final_sigma_min && !c.solver.lower_order_final);
    assert_int_equal(c.solver.order, 3);
    assert_int_equal(c.solver.disabled_correctors, 2);
    assert_int_equal(c.solver.disable_corrector[1], 2);
    assert_true(c.solver.shift == 5.0 && c.solver.shift_terminal == 0.02);

    restore(state);
    change("model_index.json", NULL, "{\"scheduler\":[\"diffusers\",\"FlowMatchEulerDiscreteScheduler\"]}");
    change("scheduler/scheduler_config.json", NULL,
           "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"shift\":7.0}");
    read_well(&c);
    assert_int_equal(c.solver.kind, SOLVER_EULER);
    assert_true(c.solver.shift == 7.0);
}

/* -------------------------------------------------------------------------------------- what is refused */

static void what_would_compute_something_else_is_refused_with_key_value_and_what_is_supported(void **state)
{
    static const struct {
        const char *file, *changes, *part;
    } cases[] = {
        {"model_index.json", "{\"_class_name\":\"FluxPipeline\"}",
         "_class_name is \"FluxPipeline\"; only \"WanPipeline\""},
        {"model_index.json", "{\"image_encoder\":[\"transformers\",\"CLIPVisionModel\"]}",
         "image_encoder is CLIPVisionModel (image conditioning); only text-to-video"},
        {"model_index.json", "{\"transformer_2\":[\"diffusers\",\"WanVACETransformer3DModel\"]}",
         "transformer_2 is WanVACETransformer3DModel; only WanTransformer3DModel"},
        {"model_index.json", "{\"transformer_2\":[\"diffusers\",\"WanTransformer3DModel\"]}",
         "transformer_2 is WanTransformer3DModel, but boundary_ratio is missing"},
        {"model_index.json", "{\"boundary_ratio\":0.875}",
         "boundary_ratio is 0.875, but transformer_2 is missing"},
        {"model_index.json", "{\"expand_timesteps\":true}", "expand_timesteps is true"},
        {"model_index.json", "{\"vae\":[\"diffusers\",\"AutoencoderKL\"]}",
         "vae is AutoencoderKL; only AutoencoderKLWan"},
        {"model_index.json", "{\"text_encoder\":[null,null]}", "text_encoder is missing"},
        {"model_index.json", "{\"scheduler\":[\"diffusers\",\"DDIMScheduler\"]}",
         "scheduler is DDIMScheduler"},
        {"model_index.json", "{\"scheduler\":[\"diffusers\",\"FlowMatchEulerDiscreteScheduler\"]}",
         "_class_name is \"UniPCMultistepScheduler\"; only \"FlowMatchEulerDiscreteScheduler\""},
        {"transformer/config.json", "{\"image_dim\":1280}",
         "image_dim is 1280 (image conditioning); only null"},
        {"transformer/config.json", "{\"added_kv_proj_dim\":64}", "added_kv_proj_dim is 64"},
        {"transformer/config.json", "{\"qk_norm\":\"rms_norm\"}",
         "qk_norm is \"rms_norm\"; only \"rms_norm_across_heads\""},
        {"transformer/config.json", "{\"patch_size\":[2,2,2]}", "patch_size must be [1, n, n]"},
        {"transformer/config.json", "{\"patch_size\":[1,2]}", "patch_size must be [1, n, n]"},
        {"transformer/config.json", "{\"_class_name\":\"FluxTransformer2DModel\"}",
         "_class_name is \"FluxTransformer2DModel\""},
        {"text_encoder/config.json", "{\"feed_forward_proj\":\"relu\"}",
         "feed_forward_proj is \"relu\"; only \"gated-gelu\""},
        {"text_encoder/config.json", "{\"model_type\":\"t5\"}", "model_type is \"t5\"; only \"umt5\""},
        {"vae/config.json", "{\"is_residual\":true}", "is_residual is true (the Wan 2.2 VAE); only false"},
        {"vae/config.json", "{\"patch_size\":2}", "patch_size is 2"},
        {"vae/config.json", "{\"attn_scales\":[0.5]}", "attn_scales is [0.5]"},
        {"vae/config.json", "{\"in_channels\":12}", "in_channels is 12"},
        {"scheduler/scheduler_config.json", "{\"prediction_type\":\"epsilon\"}",
         "prediction_type is \"epsilon\""},
        {"scheduler/scheduler_config.json", "{\"use_karras_sigmas\":true}", "use_karras_sigmas is true"},
        {"scheduler/scheduler_config.json", "{\"use_flow_sigmas\":false}", "use_flow_sigmas is false"},
        {"scheduler/scheduler_config.json", "{\"solver_type\":\"bh3\"}", "solver_type is \"bh3\""},
        {"scheduler/scheduler_config.json", "{\"solver_p\":{}}", "solver_p is {}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        restore(state);
        change(cases[i].file, NULL, cases[i].changes);
        expect_refused(cases[i].part);
    }
}

static void numbers_out_of_range_and_values_of_another_kind_are_refused(void **state)
{
    static const struct {
        const char *file, *changes, *part;
    } cases[] = {
        {"transformer/config.json", "{\"num_layers\":0}",
         "num_layers is 0; must be a whole number 1 to 1000"},
        {"transformer/config.json", "{\"num_layers\":8.0}", "num_layers is 8.0"},
        {"transformer/config.json", "{\"num_layers\":\"8\"}", "num_layers is \"8\""},
        {"transformer/config.json", "{\"num_layers\":9223372036854775807}",
         "num_layers is 9223372036854775807"},
        {"transformer/config.json", "{\"attention_head_dim\":63}", "attention_head_dim is 63; must be even"},
        {"transformer/config.json", "{\"attention_head_dim\":258}", "attention_head_dim is 258"},
        {"transformer/config.json", "{\"freq_dim\":255}", "freq_dim is 255; must be even"},
        {"transformer/config.json", "{\"eps\":0}", "eps is 0; must be a number above 0"},
        {"transformer/config.json", "{\"cross_attn_norm\":1}", "cross_attn_norm is 1; must be true or false"},
        {"text_encoder/config.json", "{\"relative_attention_max_distance\":8}",
         "relative_attention_max_distance is 8"},
        {"text_encoder/config.json", "{\"layer_norm_epsilon\":\"x\"}", "layer_norm_epsilon is \"x\""},
        {"vae/config.json", "{\"z_dim\":0}", "z_dim is 0"},
        {"vae/config.json", "{\"dim_mult\":[]}", "temperal_downsample has 3 values; dim_mult has 0"},
        {"vae/config.json", "{\"dim_mult\":[1,2,4,0]}", "dim_mult[3] is 0"},
        {"vae/config.json", "{\"dim_mult\":[1,2,4,4,4,4,4,4,4]}", "dim_mult must be a list of at most 8"},
        {"vae/config.json", "{\"temperal_downsample\":[true,true]}", "temperal_downsample has 2 values"},
        {"vae/config.json", "{\"temperal_downsample\":[1,0,1]}", "temperal_downsample[0] is 1"},
        {"vae/config.json", "{\"scale_factor_spatial\":16}", "scale_factor_spatial is 16; 4 levels give 8"},
        {"vae/config.json", "{\"scale_factor_temporal\":8}", "scale_factor_temporal is 8"},
        {"vae/config.json", "{\"base_dim\":1}", "base_dim x dim_mult[0] is 1"},
        {"vae/config.json", "{\"base_dim\":512}", "base_dim x dim_mult[2] is 2048"},
        {"vae/config.json", "{\"base_dim\":129}", "base_dim x dim_mult[3] is 516; must be 2 to 512"},
        {"vae/config.json", "{\"latents_mean\":[1.0]}",
         "latents_mean has 1 and latents_std 16 values; z_dim is 16"},
        {"scheduler/scheduler_config.json", "{\"flow_shift\":0.0}", "flow_shift is 0.0"},
        {"scheduler/scheduler_config.json", "{\"solver_order\":4}", "solver_order is 4"},
        {"scheduler/scheduler_config.json", "{\"disable_corrector\":[-1]}", "disable_corrector[0] is -1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        restore(state);
        change(cases[i].file, NULL, cases[i].changes);
        expect_refused(cases[i].part);
    }
    restore(state);
    change("transformer/config.json", NULL, "{\"num_attention_heads\":1024,\"attention_head_dim\":66}");
    expect_refused("num_attention_heads x attention_head_dim is 67584; must be at most 65536");
    restore(state);
    char stds[512] = "{\"latents_std\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0]}";
    change("vae/config.json", NULL, stds);
    expect_refused("latents_std[15] is 0; must be a number above 0");
}

static void components_that_do_not_fit_together_are_refused(void **state)
{
    change("transformer/config.json", NULL, "{\"text_dim\":64}");
    expect_refused("d_model 128, transformer/config.json text_dim 64; must be equal");
    restore(state);
    change("transformer/config.json", NULL, "{\"in_channels\":36}");
    expect_refused("in_channels 36 and out_channels 16, vae/config.json z_dim 16; must be equal");
}

/* The reference model with its own transformer as the second expert, but for `changes`. */
static void make_second(const char *ratio, const char *changes)
{
    char text[128];
    restore(NULL);
    snprintf(text, sizeof text,
             "{\"transformer_2\":[\"diffusers\",\"WanTransformer3DModel\"],\"boundary_ratio\":%s}", ratio);
    change("model_index.json", NULL, text);
    json_t *root = json_load_file(path_of("transformer/config.json"), 0, NULL),
           *update = json_loads(changes, 0, NULL);
    assert_non_null(update);
    json_object_update(root, update);
    mkdir(path_of("transformer_2"), 0700);
    assert_int_equal(json_dump_file(root, path_of("transformer_2/config.json"), 0), 0);
    json_decref(update);
    json_decref(root);
}

static int remove_second(void **state)
{
    unlink(path_of("transformer_2/config.json"));
    return rmdir(path_of("transformer_2"));
}

static void two_experts_share_the_steps_at_the_boundary(void **state)
{
    struct model_config c;
    make_second("0.875", "{\"eps\":1e-3,\"cross_attn_norm\":false}");
    read_well(&c);
    assert_int_equal(c.experts, 2);
    assert_int_equal(c.second.layers, 8);
    assert_true(c.second.eps == 1e-3f && !c.second.cross_attn_norm && c.denoiser.cross_attn_norm);
    assert_ptr_equal(model_expert_config(&c, 1), &c.second);
    assert_string_equal(model_expert_name(1), "transformer_2");
    assert_int_equal(model_expert_at(&c, 999), 0);
    assert_int_equal(model_expert_at(&c, 875), 0); /* t >= boundary */
    assert_int_equal(model_expert_at(&c, 874.9999f), 1);
    change("scheduler/scheduler_config.json", NULL, "{\"num_train_timesteps\":2000}");
    read_well(&c);
    assert_int_equal(model_expert_at(&c, 1749), 1);
    assert_int_equal(model_expert_at(&c, 1750), 0);
    make_second("0.9", "{}");
    read_well(&c);
    assert_int_equal(model_expert_at(&c, 900), 0);

    restore(NULL);
    read_well(&c);
    assert_int_equal(c.experts, 1);
    assert_int_equal(model_expert_at(&c, 0), 0);
}

static void experts_that_do_not_fit_together_are_refused(void **state)
{
    static const struct {
        const char *ratio, *changes, *part;
    } cases[] = {
        {"0.875", "{\"num_layers\":9}",
         "transformer_2/config.json has num_layers 9, transformer/config.json 8; only experts of the same "
         "sizes"},
        {"0.875", "{\"num_attention_heads\":2}", "num_attention_heads 2, transformer/config.json 4"},
        {"0.875", "{\"attention_head_dim\":32}", "attention_head_dim 32, transformer/config.json 64"},
        {"0.875", "{\"ffn_dim\":2048}", "ffn_dim 2048, transformer/config.json 1024"},
        {"0.875", "{\"in_channels\":36}", "in_channels 36, transformer/config.json 16"},
        {"0.875", "{\"out_channels\":8}", "out_channels 8, transformer/config.json 16"},
        {"0.875", "{\"text_dim\":64}", "text_dim 64, transformer/config.json 128"},
        {"0.875", "{\"patch_size\":[1,4,4]}", "patch_size[1] 4, transformer/config.json 2"},
        {"0.875", "{\"qk_norm\":\"rms_norm\"}", "transformer_2/config.json: qk_norm is \"rms_norm\""},
        {"0", "{}", "boundary_ratio is 0; must be a number above 0"},
        {"1.5", "{}", "boundary_ratio is 1.5; must be a number above 0, at most 1"},
        {"\"0.9\"", "{}", "boundary_ratio is \"0.9\"; must be a number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_second(cases[i].ratio, cases[i].changes);
        expect_refused(cases[i].part);
    }
    make_second("0.875", "{}");
    unlink(path_of("transformer_2/config.json"));
    expect_refused("transformer_2/config.json: cannot be read");
}

static void files_that_are_not_configurations_are_refused(void **state)
{
    assert_int_equal(unlink(path_of("vae/config.json")), 0);
    expect_refused("vae/config.json: cannot be read");
    assert_int_equal(mkdir(path_of("vae/config.json"), 0700), 0);
    expect_refused("vae/config.json: is not a file");
    assert_int_equal(rmdir(path_of("vae/config.json")), 0);

    static const struct {
        const char *text, *part;
    } cases[] = {{"", "line 1"},
                 {"[]", "not a JSON object"},
                 {"{\"base_dim\":NaN}", "line 1"},
                 {"{\"base_dim\":16,\"base_dim\":8}", "duplicate"},
                 {"{\"base_dim\":\"\xff\"}", "line 1"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        FILE *file = fopen(path_of("vae/config.json"), "wb");
        assert_non_null(file);
        fputs(cases[i].text, file);
        fclose(file);
        expect_refused(cases[i].part);
    }
    struct model_config config;
    struct error error = {0};
    assert_int_equal(model_config_read("/nonexistent", &config, &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(error.text, "/nonexistent/model_index.json: cannot be read"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_reference_model_reads_as_published, restore),
        cmocka_unit_test_setup(missing_keys_take_the_defaults_of_the_classes, restore),
        cmocka_unit_test_setup(odd_sizes_are_fine, restore),
        cmocka_unit_test_setup(solver_keys_that_change_results_are_carried, restore),
        cmocka_unit_test_setup(
            what_would_compute_something_else_is_refused_with_key_value_and_what_is_supported, restore),
        cmocka_unit_test_setup(numbers_out_of_range_and_values_of_another_kind_are_refused, restore),
        cmocka_unit_test_setup(components_that_do_not_fit_together_are_refused, restore),
        cmocka_unit_test_setup_teardown(two_experts_share_the_steps_at_the_boundary, restore, remove_second),
        cmocka_unit_test_setup_teardown(experts_that_do_not_fit_together_are_refused, restore, remove_second),
        cmocka_unit_test_setup(files_that_are_not_configurations_are_refused, restore),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
