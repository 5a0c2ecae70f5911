/*
 * vae_blocks.c - see vae_layers.h: tapes, residual blocks, the middle. Run by the stream's thread with its
 * team.
 *
 * Formulas: WanResidualBlock, WanAttentionBlock, WanCausalConv3d in diffusers' autoencoder_kl_wan.py.
 */
#include "worker/model/vae_layers.h"

#include <math.h>

struct volume volume_of(float *data, int frames, int height, int width, int channels)
{
    int64_t row = (int64_t)width * channels;
    return (struct volume){.data = data,
                           .frames = frames,
                           .height = height,
                           .width = width,
                           .channels = channels,
                           .stride_t = height * row,
                           .stride_y = row,
                           .stride_x = channels};
}

struct volume volume_frames(const struct volume *volume, int first, int count)
{
    struct volume part = *volume;
    part.data += first * volume->stride_t;
    part.frames = count;
    return part;
}

struct volume volume_below(struct volume volume, int rows)
{
    volume.data += rows * volume.stride_y;
    volume.height -= rows;
    return volume;
}

/* ------------------------------------------------------------------------------------------------ tapes */

/* The whole buffer, border and history included. */
static struct volume tape_whole(const struct tape *tape)
{
    int border = tape->before + tape->after;
    return volume_of(tape->data, tape->history + tape->capacity, tape->height + border, tape->width + border,
                     tape->channels);
}

struct volume tape_inside(const struct tape *tape, int first, int count)
{
    struct volume v = tape_whole(tape);
    v.data += (tape->history + first) * v.stride_t + tape->before * (v.stride_y + v.stride_x);
    v.frames = count;
    v.height = tape->height;
    v.width = tape->width;
    return v;
}

struct volume tape_taps(const struct tape *tape, int first)
{
    struct volume v = tape_inside(tape, 0, tape->capacity - first);
    v.data = tape_whole(tape).data + first * v.stride_t;
    return v;
}

/* Oldest frame first: with one new frame, the younger history frame is source before it is destination. */
void tape_advance(const struct tape *tape, const struct ops *ops, struct team *team, int frames)
{
    int64_t floats = tape_whole(tape).stride_t;
    for (int i = 0; i < tape->history; i++)
        ops->copy(team, tape->data + i * floats, tape->data + (i + frames) * floats,
                  (size_t)floats * sizeof *tape->data);
}

/* ----------------------------------------------------------------------------------------------- blocks */

void vae_run_resnet(struct vae_stream *stream, struct team *team, const struct vae_resnet *resnet,
                    const struct tape tapes[2], const struct volume *x, const struct volume *out)
{
    const struct ops *ops = stream->vae->ops;
    struct volume hidden = volume_of(stream->hidden, x->frames, x->height, x->width, resnet->out_channels);
    struct volume inside = tape_inside(&tapes[0], 0, x->frames), taps = tape_taps(&tapes[0], 0);

    ops->channel_norm(team, x, resnet->gamma1, true, &inside);
    ops->conv(team, resnet->conv1, &taps, NULL, &hidden);
    tape_advance(&tapes[0], ops, team, x->frames);

    inside = tape_inside(&tapes[1], 0, x->frames);
    taps = tape_taps(&tapes[1], 0);
    ops->channel_norm(team, &hidden, resnet->gamma2, true, &inside);
    if (resnet->shortcut) ops->conv(team, resnet->shortcut, x, NULL, out);
    ops->conv(team, resnet->conv2, &taps, resnet->shortcut ? out : x, out);
    tape_advance(&tapes[1], ops, team, x->frames);
}

void vae_run_resnets(struct vae_stream *stream, struct team *team, const struct vae_level *level,
                     const struct vae_level_buffers *buffers, const struct volume *x,
                     const struct volume *out)
{
    struct volume state = *x;
    for (int i = 0; i < level->resnet_count; i++) {
        const struct vae_resnet *resnet = &level->resnets[i];
        struct volume next = state; /* in place, unless the block changes the width or is the last */
        if (i == level->resnet_count - 1)
            next = *out;
        else if (resnet->shortcut)
            next = volume_of(stream->x[1], x->frames, x->height, x->width, resnet->out_channels);
        vae_run_resnet(stream, team, resnet, buffers->resnets[i], &state, &next);
        state = next;
    }
}

/* x += proj(attention(norm(x))) over the pixels of one frame. x is contiguous. */
static void run_attention(struct vae_stream *stream, struct team *team, const struct vae_attention *layer,
                          const struct volume *x)
{
    const struct ops *ops = stream->vae->ops;
    int pixels = x->height * x->width, c = layer->channels;
    struct volume norm = volume_of(stream->norm, 1, x->height, x->width, c);

    ops->channel_norm(team, x, layer->gamma, false, &norm);
    ops->linear(team, layer->qkv, stream->norm, c, pixels, &(struct epilogue){.kind = EPILOGUE_NONE},
                stream->qkv, 3 * c);
    ops->attention(team, &(struct attention){.q = stream->qkv,
                                             .k = stream->qkv + c,
                                             .v = stream->qkv + 2 * c,
                                             .out = stream->attended,
                                             .q_stride = 3 * c,
                                             .k_stride = 3 * c,
                                             .v_stride = 3 * c,
                                             .out_stride = c,
                                             .q_rows = pixels,
                                             .kv_rows = pixels,
                                             .heads = 1,
                                             .head_dim = c,
                                             .scale = 1.0f / sqrtf((float)c)});
    ops->linear(team, layer->proj, stream->attended, c, pixels,
                &(struct epilogue){.kind = EPILOGUE_ADD, .other = x->data, .other_stride = c}, x->data, c);
}

void vae_run_middle(struct vae_stream *stream, struct team *team, const struct vae_coder *coder,
                    const struct volume *x)
{
    vae_run_resnet(stream, team, &coder->middle[0], stream->middle[0], x, x);
    run_attention(stream, team, &coder->attention, x);
    vae_run_resnet(stream, team, &coder->middle[1], stream->middle[1], x, x);
}
