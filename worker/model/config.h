/*
 * config.h - what the JSON files of a pipeline directory say, with the classes' defaults for keys that are
 * missing.
 *
 *     struct model_config config;
 *     model_config_read("models/reference", &config, &error);
 *
 * Every number is range-checked here and the components are checked against each other, so that code behind
 * this function can size buffers from it without checking again. Plain values; copy freely.
 */
#ifndef REFRAIN_WORKER_MODEL_CONFIG_H
#define REFRAIN_WORKER_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

enum { VAE_MAX_LEVELS = 8, VAE_MAX_CHANNELS = 128, SOLVER_MAX_DISABLED = 16, MODEL_EXPERTS = 2 };

/* WanTransformer3DModel */
struct denoiser_config {
    int layers, heads, head_dim, hidden; /* hidden = heads * head_dim */
    int ffn_dim, in_channels, out_channels, text_dim, freq_dim;
    int patch_t, patch_y, patch_x;
    int max_position; /* rope_max_seq_len: patches along any axis */
    float eps;
    bool cross_attn_norm;
};

/* UMT5EncoderModel */
struct text_config {
    int layers, heads, head_dim, width, ffn_dim, vocabulary;
    int buckets, max_distance; /* of the relative position bias */
    float eps;
};

/* AutoencoderKLWan (the 2.1 kind) */
struct vae_config {
    int base, decoder_base, latent_channels, in_channels, out_channels, levels, resnets;
    int multiplier[VAE_MAX_LEVELS];
    bool temporal_down[VAE_MAX_LEVELS];                  /* [levels - 1] */
    float mean[VAE_MAX_CHANNELS], std[VAE_MAX_CHANNELS]; /* [latent_channels] */
    int scale_t, scale_y; /* frames per latent frame, pixels per latent pixel */
};

enum solver_kind { SOLVER_UNIPC, SOLVER_EULER };

struct solver_config {
    enum solver_kind kind;       /* the class in scheduler_config.json */
    double shift;                /* flow_shift (UniPC) or shift (Euler) */
    int train_steps;             /* 1000 */
    int order;                   /* UniPC: 1..3 */
    bool lower_order_final, bh1; /* UniPC: bh1 when solver_type is "bh1" (else "bh2", the default) */
    bool final_sigma_min;  /* UniPC: final_sigmas_type "sigma_min" repeats the last sigma; "zero" ends at 0 */
    double shift_terminal; /* both: the schedule is stretched to end at this sigma; 0 when null or absent */
    int disable_corrector[SOLVER_MAX_DISABLED]; /* UniPC: corrector is left out after these steps, ... */
    int disabled_correctors;                    /* ... so many of them */
    /* Keys of the two classes whose other values change results and are not carried, to be refused when they
     * are read: UniPC prediction_type other than "flow_prediction", use_flow_sigmas false, predict_x0 false,
     * thresholding, solver_p, and for both use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas,
     * use_dynamic_shifting; Euler invert_sigmas, stochastic_sampling. Betas, timestep_spacing, steps_offset,
     * time_shift_type and the sigma_min / sigma_max bounds have no effect on flow sigmas. */
};

/* The clip a request without a size asks for: WanPipeline's own, or what the model's directory says in
 * `refrain.json` (ours; other programs ignore it): {"width": 64, "height": 64, "frames": 17}. For models
 * trained on another size. */
struct clip_config {
    int width, height, frames;
};

struct model_config {
    char pipeline[64]; /* "WanPipeline" */
    /* "transformer", expert 0. Of a model with two experts it makes the steps at high noise, and `second`,
     * "transformer_2", the rest; all sizes are the same in both, so what is said of `denoiser` holds for either. */
    struct denoiser_config denoiser, second;
    int experts; /* 1 or 2 */
    double
        boundary; /* boundary_ratio: the timestep, as part of train_steps, down to which expert 0 works; 0 with one */
    struct text_config text;
    struct vae_config vae;
    struct solver_config solver;
    struct clip_config clip;
    int text_length; /* rows of text the denoiser attends to: 512 */
};

/* Errors name the file, the key, its value and what is supported. */
status_t model_config_read(const char *directory, struct model_config *config, struct error *error);

/* Component ("transformer", "transformer_2") and configuration of an expert, 0 <= expert < config->experts. */
const char *model_expert_name(int expert);
const struct denoiser_config *model_expert_config(const struct model_config *config, int expert);
/* Which one makes the step at a timestep, 0..train_steps (cache/schedule.h). Timesteps fall, so a run changes over once
 * at most. */
int model_expert_at(const struct model_config *config, float timestep);

/* One component by itself; directory is its own ("…/vae"). */
status_t vae_config_read(const char *directory, struct vae_config *config, struct error *error);

#endif
