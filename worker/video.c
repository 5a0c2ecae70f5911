/* video.c - see video.h. No threads of its own: libx264 is told to use one, so that a file's bytes are
 * reproducible. */
#include "worker/video.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <math.h>
#include <stdlib.h>

struct video {
    struct video_size size;
    const char *path; /* for sentences; owned */
    AVFormatContext *format;
    AVCodecContext *codec;
    AVStream *stream;
    AVFrame *rgb, *yuv;
    AVPacket *packet;
    struct SwsContext *scaler;
    int64_t next; /* frame number */
};

/* One sentence for a libav failure. */
static status_t av_fail(struct error *error, const char *path, const char *what, int code)
{
    char reason[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(code, reason, sizeof reason);
    return error_set(error, code == AVERROR(ENOMEM) ? STATUS_NO_MEMORY : STATUS_IO, "%s: %s: %s", path, what,
                     reason);
}

/* Planar floats [3, height, width] to interleaved bytes. */
static void to_rgb24(const float *frame, int width, int height, uint8_t *rows, int stride)
{
    int64_t plane = (int64_t)width * height;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++) {
                float value = frame[c * plane + (int64_t)y * width + x];
                value = value > 0 ? (value < 1 ? value : 1) : 0; /* NaN becomes 0 */
                rows[(int64_t)y * stride + 3 * x + c] = (uint8_t)lrintf(value * 255);
            }
}

/* All of it is zero: the scaler and the encoder look at what lies beside the picture too, and a file's bytes must not
 * depend on what was in that memory before. */
static AVFrame *new_frame(enum AVPixelFormat format, int width, int height)
{
    AVFrame *frame = av_frame_alloc();
    if (!frame) return NULL;
    frame->format = format;
    frame->width = width;
    frame->height = height;
    if (av_frame_get_buffer(frame, 0) < 0) av_frame_free(&frame);
    for (int i = 0; frame && i < AV_NUM_DATA_POINTERS && frame->buf[i]; i++)
        memset(frame->buf[i]->data, 0, frame->buf[i]->size);
    return frame;
}

/* -------------------------------------------------------------------------------------------------- video */

static status_t open_codec(struct video *v, struct error *error)
{
    const AVCodec *encoder = avcodec_find_encoder_by_name("libx264");
    if (!encoder) encoder = avcodec_find_encoder(AV_CODEC_ID_H264);
    if (!encoder)
        return error_set(error, STATUS_UNSUPPORTED, "%s: this libavcodec has no H.264 encoder", v->path);
    v->codec = avcodec_alloc_context3(encoder);
    if (!v->codec) return error_set(error, STATUS_NO_MEMORY, "%s: no memory for the encoder", v->path);
    v->codec->width = v->size.width;
    v->codec->height = v->size.height;
    v->codec->pix_fmt = AV_PIX_FMT_YUV420P;
    v->codec->time_base = (AVRational){1, v->size.fps};
    v->codec->framerate = (AVRational){v->size.fps, 1};
    v->codec->thread_count = 1;
    if (v->format->oformat->flags & AVFMT_GLOBALHEADER) v->codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    av_opt_set(v->codec->priv_data, "preset", "medium", 0);
    av_opt_set(v->codec->priv_data, "crf", "16", 0);
    /* Errors only: the log is ours. Without macroblock trees: for narrow videos libx264 (164) reads them beyond their end,
     * and the file then depends on what was in that memory before. */
    av_opt_set(v->codec->priv_data, "x264-params", "log=0:mbtree=0", 0);
    int code = avcodec_open2(v->codec, encoder, NULL);
    return code < 0 ? av_fail(error, v->path, "the H.264 encoder refused", code) : STATUS_OK;
}

status_t video_open(const char *path, const struct video_size *size, struct video **video,
                    struct error *error)
{
    struct video *v = calloc(1, sizeof *v);
    char *copy = av_strdup(path);
    if (!v || !copy) {
        free(v);
        av_free(copy);
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory for the writer", path);
    }
    v->size = *size;
    v->path = copy;
    av_log_set_level(AV_LOG_WARNING); /* libx264 would write its settings to the log for every video */
    int code = avformat_alloc_output_context2(&v->format, NULL, "mp4", path);
    status_t status = code < 0 ? av_fail(error, path, "no MP4 writer", code) : open_codec(v, error);
    if (status != STATUS_OK) goto err_video;

    status = STATUS_NO_MEMORY;
    error_set(error, status, "%s: no memory for the writer", path);
    if (!(v->stream = avformat_new_stream(v->format, NULL))) goto err_video;
    if (!(v->rgb = new_frame(AV_PIX_FMT_RGB24, size->width, size->height))) goto err_video;
    if (!(v->yuv = new_frame(AV_PIX_FMT_YUV420P, size->width, size->height))) goto err_video;
    if (!(v->packet = av_packet_alloc())) goto err_video;
    v->scaler = sws_getContext(size->width, size->height, AV_PIX_FMT_RGB24, size->width, size->height,
                               AV_PIX_FMT_YUV420P, SWS_BICUBIC | SWS_ACCURATE_RND, NULL, NULL, NULL);
    if (!v->scaler) goto err_video;

    v->stream->time_base = v->codec->time_base;
    code = avcodec_parameters_from_context(v->stream->codecpar, v->codec);
    if (code >= 0) code = avio_open(&v->format->pb, path, AVIO_FLAG_WRITE);
    if (code >= 0) code = avformat_write_header(v->format, NULL);
    if (code < 0) {
        status = av_fail(error, path, "cannot be written", code);
        goto err_video;
    }
    *video = v;
    return STATUS_OK;
err_video:
    video_drop(v);
    return status;
}

/* Hands a frame (NULL: the end) to the encoder and writes the packets that are ready. */
static status_t encode(struct video *v, AVFrame *frame, struct error *error)
{
    int code = avcodec_send_frame(v->codec, frame);
    while (code >= 0) {
        code = avcodec_receive_packet(v->codec, v->packet);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return STATUS_OK;
        if (code < 0) break;
        av_packet_rescale_ts(v->packet, v->codec->time_base, v->stream->time_base);
        v->packet->stream_index = v->stream->index;
        v->packet->duration = v->stream->time_base.den / ((int64_t)v->stream->time_base.num * v->size.fps);
        code = av_interleaved_write_frame(v->format, v->packet);
    }
    return av_fail(error, v->path, "cannot be written", code);
}

status_t video_add(struct video *v, const float *frame, struct error *error)
{
    int code = av_frame_make_writable(v->yuv);
    if (code < 0) return av_fail(error, v->path, "no memory for a frame", code);
    to_rgb24(frame, v->size.width, v->size.height, v->rgb->data[0], v->rgb->linesize[0]);
    sws_scale(v->scaler, (const uint8_t *const *)v->rgb->data, v->rgb->linesize, 0, v->size.height,
              v->yuv->data, v->yuv->linesize);
    v->yuv->pts = v->next++;
    return encode(v, v->yuv, error);
}

status_t video_close(struct video *v, struct error *error)
{
    status_t status = encode(v, NULL, error);
    if (status == STATUS_OK) {
        int code = av_write_trailer(v->format);
        if (code >= 0) code = avio_closep(&v->format->pb);
        if (code < 0) status = av_fail(error, v->path, "cannot be finished", code);
    }
    video_drop(v);
    return status;
}

void video_drop(struct video *v)
{
    if (!v) return;
    sws_freeContext(v->scaler);
    av_packet_free(&v->packet);
    av_frame_free(&v->yuv);
    av_frame_free(&v->rgb);
    avcodec_free_context(&v->codec);
    if (v->format && v->format->pb) avio_closep(&v->format->pb);
    avformat_free_context(v->format);
    av_free((void *)(uintptr_t)v->path);
    free(v);
}

/* -------------------------------------------------------------------------------------------------- sheet */

enum { SHEET_FRAMES = 8, SHEET_COLUMNS = 4, SHEET_GAP = 4, THUMB_WIDTH = 240 };

/* Compresses one picture as PNG into an empty packet. name: for the sentence. */
static status_t encode_png(const char *name, AVFrame *picture, AVPacket *packet, struct error *error)
{
    const AVCodec *encoder = avcodec_find_encoder(AV_CODEC_ID_PNG);
    AVCodecContext *codec = encoder ? avcodec_alloc_context3(encoder) : NULL;
    if (!codec) return error_set(error, STATUS_NO_MEMORY, "%s: no PNG encoder or no memory", name);
    codec->width = picture->width;
    codec->height = picture->height;
    codec->pix_fmt = AV_PIX_FMT_RGB24;
    codec->time_base = (AVRational){1, 1};
    int code = avcodec_open2(codec, encoder, NULL);
    if (code >= 0) code = avcodec_send_frame(codec, picture);
    if (code >= 0) code = avcodec_send_frame(codec, NULL);
    if (code >= 0) code = avcodec_receive_packet(codec, packet);
    avcodec_free_context(&codec);
    return code < 0 ? av_fail(error, name, "the PNG encoder refused", code) : STATUS_OK;
}

static status_t write_png(const char *path, AVFrame *picture, struct error *error)
{
    AVPacket *packet = av_packet_alloc();
    if (!packet) return error_set(error, STATUS_NO_MEMORY, "%s: no memory", path);
    status_t status = encode_png(path, picture, packet, error);
    FILE *file = status == STATUS_OK ? fopen(path, "wbe") : NULL;
    if (status == STATUS_OK &&
        (!file || fwrite(packet->data, 1, (size_t)packet->size, file) != (size_t)packet->size))
        status = error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
    if (file && fclose(file) != 0) status = error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
    av_packet_free(&packet);
    return status;
}

/* Whole-number enlargement keeps the pixels of small videos visible; large ones shrink to the width. */
static struct SwsContext *fit_width(const struct video_size *size, int most, int *width, int *height)
{
    int grow = most / size->width;
    *width = grow >= 1 ? size->width * grow : most;
    *height = grow >= 1 ? size->height * grow : (size->height * most + size->width / 2) / size->width;
    if (*height < 1) *height = 1;
    return sws_getContext(size->width, size->height, AV_PIX_FMT_RGB24, *width, *height, AV_PIX_FMT_RGB24,
                          grow >= 1 ? SWS_POINT : SWS_AREA, NULL, NULL, NULL);
}

status_t thumbnail_make(const struct video_size *size, const float *frame, uint8_t **png, size_t *bytes,
                        struct error *error)
{
    int width, height;
    struct SwsContext *scaler = fit_width(size, THUMBNAIL_WIDTH, &width, &height);
    AVFrame *one = new_frame(AV_PIX_FMT_RGB24, size->width, size->height),
            *small = new_frame(AV_PIX_FMT_RGB24, width, height);
    AVPacket *packet = av_packet_alloc();
    uint8_t *made = NULL;
    status_t status = error_set(error, STATUS_NO_MEMORY, "no memory for a thumbnail");
    if (!scaler || !one || !small || !packet) goto out;
    to_rgb24(frame, size->width, size->height, one->data[0], one->linesize[0]);
    sws_scale(scaler, (const uint8_t *const *)one->data, one->linesize, 0, size->height, small->data,
              small->linesize);
    status = encode_png("thumbnail", small, packet, error);
    if (status != STATUS_OK) goto out;
    if (!(made = malloc((size_t)packet->size))) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for a thumbnail");
        goto out;
    }
    memcpy(made, packet->data, (size_t)packet->size);
    *png = made;
    *bytes = (size_t)packet->size;
out:
    av_packet_free(&packet);
    sws_freeContext(scaler);
    av_frame_free(&one);
    av_frame_free(&small);
    return status;
}

status_t sheet_write(const char *path, const struct video_size *size, const float *frames,
                     struct error *error)
{
    int count = size->frames < SHEET_FRAMES ? size->frames : SHEET_FRAMES;
    int columns = count < SHEET_COLUMNS ? count : SHEET_COLUMNS, rows = (count + columns - 1) / columns;
    int width, height;
    struct SwsContext *scaler = fit_width(size, THUMB_WIDTH, &width, &height);
    AVFrame *sheet = new_frame(AV_PIX_FMT_RGB24, columns * (width + SHEET_GAP) + SHEET_GAP,
                               rows * (height + SHEET_GAP) + SHEET_GAP);
    AVFrame *one = new_frame(AV_PIX_FMT_RGB24, size->width, size->height);
    status_t status = STATUS_NO_MEMORY;
    error_set(error, status, "%s: no memory for a sheet of %d frames", path, count);
    if (!sheet || !one || !scaler) goto out;
    memset(sheet->data[0], 255, (size_t)sheet->linesize[0] * (size_t)sheet->height);
    for (int i = 0; i < count; i++) {
        int source = count == 1 ? 0 : (int)((int64_t)i * (size->frames - 1) / (count - 1));
        int left = SHEET_GAP + i % columns * (width + SHEET_GAP),
            top = SHEET_GAP + i / columns * (height + SHEET_GAP);
        to_rgb24(frames + (int64_t)source * 3 * size->width * size->height, size->width, size->height,
                 one->data[0], one->linesize[0]);
        uint8_t *to[4] = {sheet->data[0] + (int64_t)top * sheet->linesize[0] + 3 * left};
        sws_scale(scaler, (const uint8_t *const *)one->data, one->linesize, 0, size->height, to,
                  sheet->linesize);
    }
    status = write_png(path, sheet, error);
out:
    sws_freeContext(scaler);
    av_frame_free(&one);
    av_frame_free(&sheet);
    return status;
}
