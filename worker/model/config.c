/*
 * config.c - see config.h: model_index.json and the four components' JSON, one function each, then what must
 * agree between them. No state; any thread.
 *
 * Defaults are those of the classes in diffusers 0.42 and transformers 5; a published file may leave keys
 * out. Keys that would make the reference compute something that is not built here are refused, never
 * dropped.
 */
#include "worker/model/config.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cache/schedule.h"
#include "worker/model/json_fields.h"

/* Rows of text a Wan pipeline gives to the denoiser (max_sequence_length of its call). */
enum { TEXT_LENGTH = 512 };

/* Widest layers: bounds for buffer arithmetic, and what the attention op takes as one head (the VAE's
 * middle). */
enum { VAE_MAX_WIDTH = 1024, VAE_MAX_MIDDLE = 512, DENOISER_MAX_WIDTH = 65536 };

static status_t open_component(const char *directory, const char *file, const char *class_name,
                               struct json_fields *fields, struct error *error)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, file) >= sizeof path)
        return error_set(error, STATUS_INVALID, "%s: the path is longer than %d bytes", directory, PATH_MAX);
    status_t status = json_fields_open(path, fields, error);
    if (status == STATUS_OK && class_name) json_must_be_text(fields, "_class_name", class_name, class_name);
    return status;
}

/* ------------------------------------------------------------------------------------- model_index.json */

/* The class in a ["library", "Class"] pair; NULL when the component is absent ([null, null], null or no key).
 */
static const char *component_class(struct json_fields *f, const char *component)
{
    const json_t *pair = json_object_get(f->root, component);
    return json_string_value(json_array_get(pair, 1));
}

static void need_class(struct json_fields *f, const char *component, const char *wanted)
{
    const char *found = component_class(f, component);
    if (!found || strcmp(found, wanted) != 0)
        json_refuse(f, STATUS_UNSUPPORTED, "%s is %s; only %s is supported", component,
                    found ? found : "missing", wanted);
}

static void need_absent(struct json_fields *f, const char *component, const char *meaning)
{
    const char *found = component_class(f, component);
    if (found)
        json_refuse(f, STATUS_UNSUPPORTED, "%s is %s (%s); only text-to-video is supported", component, found,
                    meaning);
}

/* The reference with one of the two keys alone fails in the middle of a run, or never looks at the second one. */
static void read_experts(struct json_fields *f, struct model_config *config)
{
    const char *second = component_class(f, "transformer_2");
    config->boundary = json_number(f, "boundary_ratio", 0, 0, 1);
    config->experts = second ? 2 : 1;
    if (second) need_class(f, "transformer_2", "WanTransformer3DModel");
    if (second && config->boundary == 0)
        json_refuse(
            f, STATUS_INVALID,
            "transformer_2 is %s, but boundary_ratio is missing: it says from which timestep on the second "
            "transformer works",
            second);
    if (!second && config->boundary != 0)
        json_refuse(
            f, STATUS_INVALID,
            "boundary_ratio is %g, but transformer_2 is missing: there is no transformer for the timesteps "
            "below it",
            config->boundary);
}

static status_t read_index(const char *directory, struct model_config *config, struct error *error)
{
    struct json_fields f;
    status_t status = open_component(directory, "model_index.json", NULL, &f, error);
    if (status != STATUS_OK) return status;

    json_must_be_text(&f, "_class_name", "(missing)", "WanPipeline");
    need_class(&f, "transformer", "WanTransformer3DModel");
    need_class(&f, "text_encoder", "UMT5EncoderModel");
    need_class(&f, "vae", "AutoencoderKLWan");
    need_absent(&f, "image_encoder", "image conditioning");
    read_experts(&f, config);
    json_must_be_bool(&f, "expand_timesteps", false, false, "a timestep per token");
    if (!component_class(&f, "tokenizer")) json_refuse(&f, STATUS_UNSUPPORTED, "tokenizer is missing");

    const char *solver = component_class(&f, "scheduler");
    if (solver && strcmp(solver, "UniPCMultistepScheduler") == 0)
        config->solver.kind = SOLVER_UNIPC;
    else if (solver && strcmp(solver, "FlowMatchEulerDiscreteScheduler") == 0)
        config->solver.kind = SOLVER_EULER;
    else
        json_refuse(
            &f, STATUS_UNSUPPORTED,
            "scheduler is %s; only UniPCMultistepScheduler and FlowMatchEulerDiscreteScheduler are supported",
            solver ? solver : "missing");
    snprintf(config->pipeline, sizeof config->pipeline, "%s", json_text(&f, "_class_name", ""));
    return json_fields_close(&f);
}

/* ------------------------------------------------------------------------------------------ transformer */

static void read_patch(struct json_fields *f, struct denoiser_config *d)
{
    int patch[3] = {1, 2, 2};
    int count = json_int_list(f, "patch_size", 3, 1, 8, patch);
    /* Two frames per token would need an even number of latent frames, and there are 1 + n. */
    if ((count >= 0 && count != 3) || patch[0] != 1 || patch[1] != patch[2])
        json_refuse(f, STATUS_UNSUPPORTED, "patch_size must be [1, n, n]");
    d->patch_t = patch[0];
    d->patch_y = patch[1];
    d->patch_x = patch[2];
}

static status_t read_denoiser(const char *directory, int expert, struct denoiser_config *d,
                              struct error *error)
{
    struct json_fields f;
    char file[64];
    snprintf(file, sizeof file, "%s/config.json", model_expert_name(expert));
    status_t status = open_component(directory, file, "WanTransformer3DModel", &f, error);
    if (status != STATUS_OK) return status;

    read_patch(&f, d);
    d->layers = json_int(&f, "num_layers", 40, 1, 1000);
    d->heads = json_int(&f, "num_attention_heads", 40, 1, 1024);
    d->head_dim = json_int(&f, "attention_head_dim", 128, 2, 256);
    d->hidden = d->heads * d->head_dim;
    d->in_channels = json_int(&f, "in_channels", 16, 1, VAE_MAX_CHANNELS);
    bool says_out = json_object_get(f.root, "out_channels"); /* a null means in_channels, a missing key 16 */
    d->out_channels = json_int(&f, "out_channels", says_out ? d->in_channels : 16, 1, VAE_MAX_CHANNELS);
    d->text_dim = json_int(&f, "text_dim", 4096, 1, DENOISER_MAX_WIDTH);
    d->freq_dim = json_int(&f, "freq_dim", 256, 2, 65536);
    d->ffn_dim = json_int(&f, "ffn_dim", 13824, 1, 4 * DENOISER_MAX_WIDTH);
    d->max_position = json_int(&f, "rope_max_seq_len", 1024, 1, 65536);
    d->eps = (float)json_number(&f, "eps", 1e-6, 0, 0.1);
    d->cross_attn_norm = json_bool(&f, "cross_attn_norm", true);
    json_must_be_text(&f, "qk_norm", "rms_norm_across_heads", "rms_norm_across_heads");
    json_must_be_null(&f, "image_dim", "image conditioning");
    json_must_be_null(&f, "added_kv_proj_dim", "image conditioning");
    json_must_be_null(&f, "pos_embed_seq_len", "image conditioning");
    if (d->head_dim % 2 != 0)
        json_refuse(&f, STATUS_INVALID, "attention_head_dim is %d; must be even (rotary pairs)", d->head_dim);
    if (d->freq_dim % 2 != 0)
        json_refuse(&f, STATUS_INVALID, "freq_dim is %d; must be even (cosines and sines)", d->freq_dim);
    if (d->hidden > DENOISER_MAX_WIDTH)
        json_refuse(&f, STATUS_INVALID, "num_attention_heads x attention_head_dim is %d; must be at most %d",
                    d->hidden, DENOISER_MAX_WIDTH);
    return json_fields_close(&f);
}

/* ----------------------------------------------------------------------------------------- text_encoder */

static status_t read_text(const char *directory, struct text_config *t, struct error *error)
{
    struct json_fields f;
    status_t status = open_component(directory, "text_encoder/config.json", NULL, &f, error);
    if (status != STATUS_OK) return status;

    json_must_be_text(&f, "model_type", "umt5", "umt5");
    t->layers = json_int(&f, "num_layers", 8, 1, 1000);
    t->heads = json_int(&f, "num_heads", 6, 1, 1024);
    t->head_dim = json_int(&f, "d_kv", 64, 1, 256);
    t->width = json_int(&f, "d_model", 512, 1, DENOISER_MAX_WIDTH);
    t->ffn_dim = json_int(&f, "d_ff", 1024, 1, 4 * DENOISER_MAX_WIDTH);
    t->vocabulary = json_int(&f, "vocab_size", 250112, 1, 1 << 24);
    t->buckets = json_int(&f, "relative_attention_num_buckets", 32, 4, 4096);
    t->max_distance = json_int(&f, "relative_attention_max_distance", 128, 2, 1 << 20);
    t->eps = (float)json_number(&f, "layer_norm_epsilon", 1e-6, 0, 0.1);
    json_must_be_text(&f, "feed_forward_proj", "gated-gelu", "gated-gelu");
    json_must_be_text(&f, "dense_act_fn", "gelu_new", "gelu_new");
    json_must_be_bool(&f, "is_gated_act", true, true, "a feed-forward without gate");
    /* A quarter of the buckets stands for one distance each; the rest grows logarithmically up to
     * max_distance. */
    if (t->max_distance <= t->buckets / 4)
        json_refuse(&f, STATUS_INVALID,
                    "relative_attention_max_distance is %d; must be above a quarter of the %d buckets",
                    t->max_distance, t->buckets);
    return json_fields_close(&f);
}

/* -------------------------------------------------------------------------------------------------- vae */

/* The normalisation of the published Wan 2.1 VAE, the class's default. */
static const float DEFAULT_MEAN[16] = {-0.7571f, -0.7089f, -0.9113f, 0.1075f,  -0.1745f, 0.9653f,
                                       -0.1517f, 1.5508f,  0.4134f,  -0.0715f, 0.5517f,  -0.3632f,
                                       -0.1922f, -0.9497f, 0.2503f,  -0.2921f};
static const float DEFAULT_STD[16] = {2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f,
                                      3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f};

static void read_latent_scaling(struct json_fields *f, struct vae_config *v)
{
    memcpy(v->mean, DEFAULT_MEAN, sizeof DEFAULT_MEAN);
    memcpy(v->std, DEFAULT_STD, sizeof DEFAULT_STD);
    int means = json_number_list(f, "latents_mean", VAE_MAX_CHANNELS, -HUGE_VAL, v->mean);
    int stds = json_number_list(f, "latents_std", VAE_MAX_CHANNELS, 0, v->std);
    if (means < 0) means = 16;
    if (stds < 0) stds = 16;
    if (means != v->latent_channels || stds != v->latent_channels)
        json_refuse(f, STATUS_INVALID, "latents_mean has %d and latents_std %d values; z_dim is %d", means,
                    stds, v->latent_channels);
}

/* Levels, what happens between them, and the factors that follow. */
static void read_levels(struct json_fields *f, struct vae_config *v)
{
    static const int multiplier[] = {1, 2, 4, 4};
    static const bool down[] = {false, true, true};
    memcpy(v->multiplier, multiplier, sizeof multiplier);
    memcpy(v->temporal_down, down, sizeof down);
    v->levels = json_int_list(f, "dim_mult", VAE_MAX_LEVELS, 1, 64, v->multiplier);
    int flags = json_bool_list(f, "temperal_downsample", VAE_MAX_LEVELS, v->temporal_down);
    if (v->levels < 0) v->levels = 4;
    if (flags < 0) flags = 3;
    if (v->levels == 0 || flags != v->levels - 1) {
        json_refuse(f, STATUS_INVALID,
                    "temperal_downsample has %d values; dim_mult has %d, one more is needed there", flags,
                    v->levels);
        return;
    }
    v->scale_y = 1 << (v->levels - 1);
    v->scale_t = 1;
    for (int i = 0; i < flags; i++) v->scale_t <<= v->temporal_down[i];
    int scale_y = json_int(f, "scale_factor_spatial", 8, 1, 1 << VAE_MAX_LEVELS);
    int scale_t = json_int(f, "scale_factor_temporal", 4, 1, 1 << VAE_MAX_LEVELS);
    if (scale_y != v->scale_y)
        json_refuse(f, STATUS_INVALID, "scale_factor_spatial is %d; %d levels give %d", scale_y, v->levels,
                    v->scale_y);
    if (scale_t != v->scale_t)
        json_refuse(f, STATUS_INVALID, "scale_factor_temporal is %d; temperal_downsample gives %d", scale_t,
                    v->scale_t);

    int narrow = v->base < v->decoder_base ? v->base : v->decoder_base;
    int wide = v->base > v->decoder_base ? v->base : v->decoder_base;
    for (int i = 0; i < v->levels; i++) {
        int limit = i == v->levels - 1 ? VAE_MAX_MIDDLE : VAE_MAX_WIDTH;
        int least = narrow * v->multiplier[i], most = wide * v->multiplier[i];
        /* An upsampler halves the channels and must leave one. */
        if (least < 2 || most > limit)
            json_refuse(f, STATUS_INVALID, "base_dim x dim_mult[%d] is %d; must be 2 to %d", i,
                        least < 2 ? least : most, limit);
    }
}

status_t vae_config_read(const char *directory, struct vae_config *out, struct error *error)
{
    struct json_fields f;
    struct vae_config config = {0}, *v = &config;
    status_t status = open_component(directory, "config.json", "AutoencoderKLWan", &f, error);
    if (status != STATUS_OK) return status;

    json_must_be_bool(&f, "is_residual", false, false, "the Wan 2.2 VAE");
    json_must_be_null(&f, "patch_size", "the Wan 2.2 VAE");
    json_must_be_empty(&f, "attn_scales", "attention between levels");
    v->base = json_int(&f, "base_dim", 96, 1, VAE_MAX_WIDTH);
    v->decoder_base = json_int(&f, "decoder_base_dim", v->base, 1, VAE_MAX_WIDTH);
    v->latent_channels = json_int(&f, "z_dim", 16, 1, VAE_MAX_CHANNELS);
    v->resnets = json_int(&f, "num_res_blocks", 2, 1, 16);
    v->in_channels = json_int(&f, "in_channels", 3, 3, 3);
    v->out_channels = json_int(&f, "out_channels", 3, 3, 3);
    read_levels(&f, v);
    read_latent_scaling(&f, v);
    status = json_fields_close(&f);
    if (status == STATUS_OK) *out = config;
    return status;
}

static status_t read_vae(const char *directory, struct vae_config *config, struct error *error)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/vae", directory) >= sizeof path)
        return error_set(error, STATUS_INVALID, "%s: the path is longer than %d bytes", directory, PATH_MAX);
    return vae_config_read(path, config, error);
}

/* -------------------------------------------------------------------------------------------- scheduler */

/* Keys of UniPC alone. */
static void read_unipc(struct json_fields *f, struct solver_config *s)
{
    json_must_be_text(f, "prediction_type", "epsilon", "flow_prediction");
    json_must_be_bool(f, "use_flow_sigmas", false, true, "not a flow model");
    json_must_be_bool(f, "predict_x0", true, true, "a noise-predicting solver");
    json_must_be_bool(f, "thresholding", false, false, "dynamic thresholding");
    json_must_be_null(f, "solver_p", "another predictor");
    s->shift = json_number(f, "flow_shift", 1.0, 0, 1000);
    s->order = json_int(f, "solver_order", 2, 1, 3);
    s->lower_order_final = json_bool(f, "lower_order_final", true);
    s->disabled_correctors =
        json_int_list(f, "disable_corrector", SOLVER_MAX_DISABLED, 0, 1000, s->disable_corrector);
    if (s->disabled_correctors < 0) s->disabled_correctors = 0;

    const char *type = json_text(f, "solver_type", "bh2"), *last = json_text(f, "final_sigmas_type", "zero");
    s->bh1 = strcmp(type, "bh1") == 0;
    if (!s->bh1 && strcmp(type, "bh2") != 0)
        json_refuse(f, STATUS_UNSUPPORTED, "solver_type is \"%s\"; only \"bh1\" and \"bh2\" are supported",
                    type);
    s->final_sigma_min = strcmp(last, "sigma_min") == 0;
    if (!s->final_sigma_min && strcmp(last, "zero") != 0)
        json_refuse(f, STATUS_UNSUPPORTED,
                    "final_sigmas_type is \"%s\"; only \"zero\" and \"sigma_min\" are supported", last);
}

/* Keys of Euler alone; the fields of UniPC keep that class's defaults, in case a job asks for it. */
static void read_euler(struct json_fields *f, struct solver_config *s)
{
    json_must_be_bool(f, "invert_sigmas", false, false, "a schedule from clean to noise");
    json_must_be_bool(f, "stochastic_sampling", false, false, "noise in each step");
    s->shift = json_number(f, "shift", 1.0, 0, 1000);
    s->order = 2;
    s->lower_order_final = true;
}

static status_t read_solver(const char *directory, struct solver_config *s, struct error *error)
{
    static const char *const classes[] = {
        [SOLVER_UNIPC] = "UniPCMultistepScheduler", [SOLVER_EULER] = "FlowMatchEulerDiscreteScheduler"};
    struct json_fields f;
    status_t status =
        open_component(directory, "scheduler/scheduler_config.json", classes[s->kind], &f, error);
    if (status != STATUS_OK) return status;

    json_must_be_bool(&f, "use_karras_sigmas", false, false, "another schedule");
    json_must_be_bool(&f, "use_exponential_sigmas", false, false, "another schedule");
    json_must_be_bool(&f, "use_beta_sigmas", false, false, "another schedule");
    json_must_be_bool(&f, "use_dynamic_shifting", false, false, "a shift that depends on the size");
    s->train_steps = json_int(&f, "num_train_timesteps", 1000, 1, 1000000);
    s->shift_terminal = json_number(&f, "shift_terminal", 0, 0, 0.999);
    if (s->kind == SOLVER_UNIPC)
        read_unipc(&f, s);
    else
        read_euler(&f, s);
    return json_fields_close(&f);
}

/* --------------------------------------------------------------------------------------------- together */

/* What shapes tokens, blocks and what travels between ranks must be the same in both experts. */
static status_t check_experts(const char *directory, const struct model_config *c, struct error *error)
{
    const struct denoiser_config *a = &c->denoiser, *b = &c->second;
    const struct {
        const char *key;
        int first, second;
    } sizes[] = {{"num_layers", a->layers, b->layers},
                 {"num_attention_heads", a->heads, b->heads},
                 {"attention_head_dim", a->head_dim, b->head_dim},
                 {"ffn_dim", a->ffn_dim, b->ffn_dim},
                 {"in_channels", a->in_channels, b->in_channels},
                 {"out_channels", a->out_channels, b->out_channels},
                 {"text_dim", a->text_dim, b->text_dim},
                 {"freq_dim", a->freq_dim, b->freq_dim},
                 {"patch_size[1]", a->patch_y, b->patch_y},
                 {"rope_max_seq_len", a->max_position, b->max_position}};
    if (c->experts < 2) return STATUS_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].first != sizes[i].second)
            return error_set(
                error, STATUS_UNSUPPORTED,
                "%s: transformer_2/config.json has %s %d, transformer/config.json %d; only experts of "
                "the same sizes are supported",
                directory, sizes[i].key, sizes[i].second, sizes[i].first);
    return STATUS_OK;
}

static status_t check_together(const char *directory, const struct model_config *c, struct error *error)
{
    if (c->text.width != c->denoiser.text_dim)
        return error_set(
            error, STATUS_INVALID,
            "%s: text_encoder/config.json has d_model %d, transformer/config.json text_dim %d; must be equal",
            directory, c->text.width, c->denoiser.text_dim);
    if (c->denoiser.in_channels != c->vae.latent_channels ||
        c->denoiser.out_channels != c->vae.latent_channels)
        return error_set(
            error, STATUS_INVALID,
            "%s: transformer/config.json has in_channels %d and out_channels %d, vae/config.json z_dim %d; "
            "must be equal",
            directory, c->denoiser.in_channels, c->denoiser.out_channels, c->vae.latent_channels);
    return STATUS_OK;
}

static status_t read_clip(const char *directory, struct clip_config *clip, struct error *error)
{
    char path[PATH_MAX];
    struct json_fields f;
    *clip = (struct clip_config){.width = 832, .height = 480, .frames = 81}; /* pipeline_wan.py */
    if (snprintf(path, sizeof path, "%s/refrain.json", directory) >= (int)sizeof path ||
        access(path, F_OK) != 0)
        return STATUS_OK;
    status_t status = json_fields_open(path, &f, error);
    if (status != STATUS_OK) return status;
    clip->width = json_int(&f, "width", clip->width, 16, 16384);
    clip->height = json_int(&f, "height", clip->height, 16, 16384);
    clip->frames = json_int(&f, "frames", clip->frames, 1, 65536);
    return json_fields_close(&f);
}

status_t model_config_read(const char *directory, struct model_config *out, struct error *error)
{
    struct model_config config = {.text_length = TEXT_LENGTH};
    status_t status = read_index(directory, &config, error);
    if (status == STATUS_OK) status = read_denoiser(directory, 0, &config.denoiser, error);
    if (status == STATUS_OK && config.experts > 1)
        status = read_denoiser(directory, 1, &config.second, error);
    if (status == STATUS_OK) status = read_text(directory, &config.text, error);
    if (status == STATUS_OK) status = read_vae(directory, &config.vae, error);
    if (status == STATUS_OK) status = read_solver(directory, &config.solver, error);
    if (status == STATUS_OK) status = read_clip(directory, &config.clip, error);
    if (status == STATUS_OK) status = check_together(directory, &config, error);
    if (status == STATUS_OK) status = check_experts(directory, &config, error);
    if (status == STATUS_OK) *out = config;
    return status;
}

/* ---------------------------------------------------------------------------------------------- experts */

const char *model_expert_name(int expert)
{
    return expert == 0 ? "transformer" : "transformer_2";
}

const struct denoiser_config *model_expert_config(const struct model_config *config, int expert)
{
    return expert == 0 ? &config->denoiser : &config->second;
}

int model_expert_at(const struct model_config *config, float timestep)
{
    return config->experts > 1 && schedule_beyond(config->boundary, config->solver.train_steps, timestep);
}
