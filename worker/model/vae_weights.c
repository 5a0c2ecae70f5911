/*
 * vae_weights.c - reads (or only checks) the weights of AutoencoderKLWan by their names in a published
 * checkpoint.
 *
 * One walk serves both: a reader without op table checks name, shape and type of every tensor and makes
 * nothing. The first failure sticks and the rest of the walk does nothing.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/model/checkpoint.h"
#include "worker/model/vae_layers.h"
#include "worker/model/vector.h"

enum { NAME_BYTES = 128 };

struct reader {
    struct checkpoint *file;
    const struct ops *ops; /* NULL: check only */
    struct team *team;
    size_t bytes; /* held so far */
    status_t status;
    struct error *error;
};

static bool find(struct reader *r, int rank, const int64_t *shape, struct tensor *tensor, const char *format,
                 ...) __attribute__((format(printf, 5, 6)));

/* The tensor of that name and shape; false once anything was wrong. */
static bool find(struct reader *r, int rank, const int64_t *shape, struct tensor *tensor, const char *format,
                 ...)
{
    if (r->status != STATUS_OK) return false;
    char name[NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    r->status = checkpoint_tensor(r->file, name, rank, shape, tensor, r->error);
    return r->status == STATUS_OK;
}

/* `rows` rows of a weight from `first` on. */
static struct matrix matrix_rows(const struct tensor *t, int first, int rows)
{
    int64_t columns = t->shape[0] ? t->count / t->shape[0] : 0;
    const char *data = (const char *)t->data + (size_t)(first * columns) * dtype_bytes(t->dtype);
    return (struct matrix){.data = data, .dtype = t->dtype, .rows = rows, .columns = (int)columns};
}

/* Makes a convolution of the output channels [first, first + shape->out_channels) of a stored one. */
static struct conv *make_conv(struct reader *r, const struct tensor *weight, const struct tensor *bias,
                              int first, const struct conv_shape *shape)
{
    struct conv *conv = NULL;
    if (r->status != STATUS_OK || !r->ops) return NULL;
    struct matrix w = matrix_rows(weight, first, shape->out_channels),
                  b = matrix_rows(bias, first, shape->out_channels);
    r->status = r->ops->conv_create(shape, &w, &b, &conv, r->error);
    if (r->status == STATUS_OK) r->bytes += r->ops->conv_bytes(conv);
    return conv;
}

static void forget(struct reader *r, const struct tensor *weight)
{
    if (r->status == STATUS_OK && r->ops) checkpoint_forget(r->file, weight);
}

/* A cube of side `kernel`, stride 1; the first `keep` of `out` channels. */
static struct conv *read_conv3(struct reader *r, const char *name, int in, int out, int keep, int kernel)
{
    struct tensor weight, bias;
    if (!find(r, 5, (int64_t[]){out, in, kernel, kernel, kernel}, &weight, "%s.weight", name) ||
        !find(r, 1, (int64_t[]){out}, &bias, "%s.bias", name))
        return NULL;
    struct conv *conv = make_conv(r, &weight, &bias, 0,
                                  &(struct conv_shape){.out_channels = keep,
                                                       .in_channels = in,
                                                       .kernel_t = kernel,
                                                       .kernel_y = kernel,
                                                       .kernel_x = kernel,
                                                       .stride_t = 1,
                                                       .stride_y = 1,
                                                       .stride_x = 1});
    forget(r, &weight);
    return conv;
}

static float *read_gamma(struct reader *r, const char *name, int channels, int rank)
{
    struct tensor t;
    float *gamma = NULL;
    if (!find(r, rank, (int64_t[]){channels, 1, 1, 1}, &t, "%s.gamma", name) || !r->ops) return NULL;
    r->status = vector_load(r->ops, r->team, &t, &gamma, r->error);
    if (r->status != STATUS_OK) error_prefix(r->error, "%s", name);
    r->bytes += (size_t)channels * sizeof *gamma;
    return gamma;
}

static void read_resnet(struct reader *r, const char *prefix, int in, int out, struct vae_resnet *resnet)
{
    char name[NAME_BYTES];
#define PART(part) (snprintf(name, sizeof name, "%s." part, prefix), name)
    resnet->in_channels = in;
    resnet->out_channels = out;
    resnet->gamma1 = read_gamma(r, PART("norm1"), in, 4);
    resnet->conv1 = read_conv3(r, PART("conv1"), in, out, out, 3);
    resnet->gamma2 = read_gamma(r, PART("norm2"), out, 4);
    resnet->conv2 = read_conv3(r, PART("conv2"), out, out, out, 3);
    if (in != out) resnet->shortcut = read_conv3(r, PART("conv_shortcut"), in, out, out, 1);
#undef PART
}

/* The attention's 1x1 convolutions are dense layers over pixels. */
static struct linear *read_dense(struct reader *r, const char *name, int in, int out)
{
    struct tensor weight, bias;
    struct linear *linear = NULL;
    if (!find(r, 4, (int64_t[]){out, in, 1, 1}, &weight, "%s.weight", name) ||
        !find(r, 1, (int64_t[]){out}, &bias, "%s.bias", name) || !r->ops)
        return NULL;
    struct matrix w = matrix_rows(&weight, 0, out), b = matrix_rows(&bias, 0, out);
    r->status = r->ops->linear_create(&w, &b, &linear, r->error);
    if (r->status == STATUS_OK) r->bytes += r->ops->linear_bytes(linear);
    forget(r, &weight);
    return linear;
}

static void read_middle(struct reader *r, const char *side, int channels, struct vae_coder *coder)
{
    char name[NAME_BYTES];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.mid_block.resnets.%d", side, i);
        read_resnet(r, name, channels, channels, &coder->middle[i]);
    }
    snprintf(name, sizeof name, "%s.mid_block.attentions.0", side);
    char part[NAME_BYTES + 8];
#define PART(suffix) (snprintf(part, sizeof part, "%s." suffix, name), part)
    coder->attention.channels = channels;
    coder->attention.gamma = read_gamma(r, PART("norm"), channels, 3);
    coder->attention.qkv = read_dense(r, PART("to_qkv"), channels, 3 * channels);
    coder->attention.proj = read_dense(r, PART("proj"), channels, channels);
#undef PART
}

/* resample.1 is a convolution of single frames: [out, in, 3, 3]. */
static struct conv *read_sample(struct reader *r, const char *prefix, int in, int out, bool up)
{
    struct tensor weight, bias;
    if (!find(r, 4, (int64_t[]){out, in, 3, 3}, &weight, "%s.resample.1.weight", prefix) ||
        !find(r, 1, (int64_t[]){out}, &bias, "%s.resample.1.bias", prefix))
        return NULL;
    int stride = up ? 1 : 2;
    struct conv *conv = make_conv(r, &weight, &bias, 0,
                                  &(struct conv_shape){.out_channels = out,
                                                       .in_channels = in,
                                                       .kernel_t = 1,
                                                       .kernel_y = 3,
                                                       .kernel_x = 3,
                                                       .stride_t = 1,
                                                       .stride_y = stride,
                                                       .stride_x = stride,
                                                       .upsample2 = up});
    forget(r, &weight);
    return conv;
}

/* time_conv sees single pixels. Going up it has twice the channels: output channel k * channels + c belongs
 * to frame 2t + k, so that each half is a convolution of its own. */
static void read_time(struct reader *r, const char *prefix, int channels, bool up, struct conv *time[2])
{
    struct tensor weight, bias;
    int halves = up ? 2 : 1, out = halves * channels;
    if (!find(r, 5, (int64_t[]){out, channels, 3, 1, 1}, &weight, "%s.time_conv.weight", prefix) ||
        !find(r, 1, (int64_t[]){out}, &bias, "%s.time_conv.bias", prefix))
        return;
    const struct conv_shape shape = {.out_channels = channels,
                                     .in_channels = channels,
                                     .kernel_t = 3,
                                     .kernel_y = 1,
                                     .kernel_x = 1,
                                     .stride_t = up ? 1 : 2,
                                     .stride_y = 1,
                                     .stride_x = 1};
    for (int i = 0; i < halves; i++) time[i] = make_conv(r, &weight, &bias, i * channels, &shape);
    forget(r, &weight);
}

static void read_resampling(struct reader *r, const char *prefix, int in, int out, bool up, bool temporal,
                            struct vae_level *level)
{
    level->resamples = true;
    level->temporal = temporal;
    level->sample = read_sample(r, prefix, in, out, up);
    if (temporal) read_time(r, prefix, in, up, level->time);
}

static void read_decoder(struct reader *r, const struct vae_config *config, struct vae_coder *coder)
{
    char name[NAME_BYTES];
    int z = config->latent_channels, last = config->levels - 1;
    int in = config->decoder_base * config->multiplier[last];
    coder->quant = read_conv3(r, "post_quant_conv", z, z, z, 1);
    coder->conv_in = read_conv3(r, "decoder.conv_in", z, in, in, 3);
    read_middle(r, "decoder", in, coder);
    for (int i = 0; i <= last; i++) {
        struct vae_level *level = &coder->levels[i];
        int out = config->decoder_base * config->multiplier[last - i];
        level->channels = out;
        level->resnet_count = config->resnets + 1;
        for (int j = 0; j < level->resnet_count; j++) {
            snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.%d", i, j);
            read_resnet(r, name, j == 0 ? in : out, out, &level->resnets[j]);
        }
        if (i == last) break;
        snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0", i);
        in = out / 2; /* rounding down, as the reference does for odd widths */
        read_resampling(r, name, out, in, true, config->temporal_down[last - 1 - i], level);
    }
    int out = coder->levels[last].channels;
    coder->gamma_out = read_gamma(r, "decoder.norm_out", out, 4);
    coder->conv_out = read_conv3(r, "decoder.conv_out", out, config->out_channels, config->out_channels, 3);
}

static void read_encoder(struct reader *r, const struct vae_config *config, struct vae_coder *coder)
{
    char name[NAME_BYTES];
    int z = config->latent_channels, last = config->levels - 1, index = 0, in = config->base;
    coder->conv_in = read_conv3(r, "encoder.conv_in", config->in_channels, in, in, 3);
    for (int i = 0; i <= last; i++) {
        struct vae_level *level = &coder->levels[i];
        int out = config->base * config->multiplier[i];
        level->channels = out;
        level->resnet_count = config->resnets;
        for (int j = 0; j < level->resnet_count;
             j++, in = out) { /* blocks and samplers share one numbering */
            snprintf(name, sizeof name, "encoder.down_blocks.%d", index++);
            read_resnet(r, name, in, out, &level->resnets[j]);
        }
        if (i == last) break;
        snprintf(name, sizeof name, "encoder.down_blocks.%d", index++);
        read_resampling(r, name, out, out, false, config->temporal_down[i], level);
    }
    read_middle(r, "encoder", in, coder);
    coder->gamma_out = read_gamma(r, "encoder.norm_out", in, 4);
    coder->conv_out = read_conv3(r, "encoder.conv_out", in, 2 * z, 2 * z, 3);
    coder->quant = read_conv3(r, "quant_conv", 2 * z, 2 * z, z, 1); /* the second half is the variance */
}

static void resnet_clear(const struct ops *ops, struct vae_resnet *resnet)
{
    ops->release(MEMORY_DEVICE, resnet->gamma1);
    ops->release(MEMORY_DEVICE, resnet->gamma2);
    ops->conv_destroy(resnet->conv1);
    ops->conv_destroy(resnet->conv2);
    ops->conv_destroy(resnet->shortcut);
}

static void coder_destroy(const struct ops *ops, struct vae_coder *coder)
{
    if (!coder) return;
    ops->conv_destroy(coder->quant);
    ops->conv_destroy(coder->conv_in);
    ops->conv_destroy(coder->conv_out);
    for (int i = 0; i < 2; i++) resnet_clear(ops, &coder->middle[i]);
    ops->release(MEMORY_DEVICE, coder->attention.gamma);
    ops->linear_destroy(coder->attention.qkv);
    ops->linear_destroy(coder->attention.proj);
    for (int i = 0; i < VAE_MAX_LEVELS; i++) {
        struct vae_level *level = &coder->levels[i];
        for (int j = 0; j < level->resnet_count; j++) resnet_clear(ops, &level->resnets[j]);
        ops->conv_destroy(level->sample);
        for (int j = 0; j < 2; j++) ops->conv_destroy(level->time[j]);
    }
    ops->release(MEMORY_DEVICE, coder->gamma_out);
    free(coder);
}

/* Both coders are read when asked for; on a reader without ops they are only shapes. */
static status_t read_parts(struct reader *r, const struct vae_config *config, int parts, struct vae *vae)
{
    vae->decoder = parts & VAE_DECODER ? calloc(1, sizeof *vae->decoder) : NULL;
    vae->encoder = parts & VAE_ENCODER ? calloc(1, sizeof *vae->encoder) : NULL;
    if ((parts & VAE_DECODER && !vae->decoder) || (parts & VAE_ENCODER && !vae->encoder))
        return error_set(r->error, STATUS_NO_MEMORY, "VAE: out of memory");
    if (vae->decoder) read_decoder(r, config, vae->decoder);
    if (vae->encoder) read_encoder(r, config, vae->encoder);
    return r->status;
}

status_t vae_load(const char *directory, const struct vae_config *config, const struct ops *ops,
                  struct team *team, int parts, struct vae **out, struct error *error)
{
    struct reader r = {.ops = ops, .team = team, .error = error};
    struct vae *vae = calloc(1, sizeof *vae);
    if (!vae) return error_set(error, STATUS_NO_MEMORY, "VAE: out of memory");
    vae->config = *config;
    vae->ops = ops;
    status_t status = checkpoint_open(directory, &r.file, error);
    if (status == STATUS_OK) status = read_parts(&r, config, parts, vae);
    checkpoint_close(r.file);
    if (status != STATUS_OK) {
        vae_destroy(vae);
        return status;
    }
    vae->bytes = r.bytes;
    *out = vae;
    return STATUS_OK;
}

void vae_destroy(struct vae *vae)
{
    if (!vae) return;
    coder_destroy(vae->ops, vae->decoder);
    coder_destroy(vae->ops, vae->encoder);
    free(vae);
}

size_t vae_bytes(const struct vae *vae)
{
    return vae->bytes;
}

status_t vae_inspect(const char *directory, const struct vae_config *config, struct error *error)
{
    struct reader r = {.error = error};
    struct vae shapes = {.config = *config};
    status_t status = checkpoint_open(directory, &r.file, error);
    if (status == STATUS_OK) status = read_parts(&r, config, VAE_DECODER | VAE_ENCODER, &shapes);
    checkpoint_close(r.file);
    free(shapes.decoder); /* without ops nothing hangs below them */
    free(shapes.encoder);
    return status;
}
