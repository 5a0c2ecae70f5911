/*
 * conv.c - convolutions over channels-last volumes, as matrix products that read the image in place.
 *
 * Twelve neighbouring pixels of a row are the rows of a tile, at a distance of stride_x; for one tap the
 * channels of a pixel are a run of k, and taps that follow each other along x are one longer run where pixels
 * are packed. Nothing is copied ("im2col") and padding is whatever memory the caller keeps around the image.
 *
 * Weights: [part][panel of 32 output channels][tap][in channel][32], the last panel of a part perhaps 16
 * wide.
 *
 * Order of sums of one output, whatever else is computed: taps in order of t, y, x, channels ascending, cut
 * into blocks of at least TILE_BLOCK terms; inside a block one chain of fused multiply-adds; blocks added in
 * order; then the bias; then the residual.
 *
 * Doubling (upsample2): the doubled image repeats every pixel, so a 3x3 kernel meets only 2x2 different
 * pixels. Which taps fall on the same pixel depends on the parity of the output's row and column: four
 * convolutions ("parts") with kernel 2x2 and summed weights do the work of one 3x3, with 4/9 of the
 * multiplications and without the doubled image.
 */
#include <stdlib.h>
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/winograd.h"
#include "kernels/weights.h"

enum {
    TASK_TILES = 24,      /* at most: bounds what scratch holds, and what one panel of weights is used for */
    TASKS_PER_THREAD = 8, /* wished for */
    TASK_WORTH = 1 << 20, /* fused multiply-adds a task should have */
    PIECE_CHANNELS = 384, /* a tap with more channels than this is cut into even pieces */
    MAX_PARTS = 4,
};

/* A run of channels of one tap. */
struct piece {
    int tap_t, tap_y, tap_x;
    int channel, length;
    bool ends_block;
};

struct conv {
    struct conv_shape shape;
    int parts;              /* 1, or 4 with upsample2 */
    int kernel_y, kernel_x; /* of a part: 2 with upsample2, where shape says 3 */
    bool narrow;            /* computed by narrow.h */
    int steps;              /* terms of one output: taps of a part times channels */
    struct piece *pieces;   /* [piece_count], the same for all parts */
    int piece_count;
    float *panels[MAX_PARTS]; /* see above */
    float *bias;              /* [out rounded up to a panel] */
    struct winograd
        *winograd; /* where the shape suits: does the work and holds the weights, and panels are NULL */
};

struct conv_scratch {
    float sums[TASK_TILES][TILE_ROWS][TILE_COLUMNS];
    /* Of one block: it ends as soon as it has TILE_BLOCK terms, and each piece has one at least. */
    struct segment segments[TILE_BLOCK];
};
_Static_assert(sizeof(struct conv_scratch) <= TEAM_SCRATCH_BYTES, "a task of conv must fit its scratch");

/* ----------------------------------------------------------------------------------------- the weights */

static int panel_columns(int out, int panel)
{
    return out - panel * TILE_COLUMNS > LANES ? TILE_COLUMNS : LANES;
}

static int panel_count(const struct conv *conv)
{
    return divide_up(conv->shape.out_channels, TILE_COLUMNS);
}

static int tap_count(const struct conv *conv)
{
    return conv->shape.kernel_t * conv->kernel_y * conv->kernel_x;
}

static size_t part_elements(const struct conv *conv)
{
    if (conv->narrow) {
        int vectors = divide_up(conv->shape.in_channels, LANES) * conv->shape.out_channels;
        return (size_t)tap_count(conv) * (size_t)vectors * LANES;
    }
    return (size_t)divide_up(conv->shape.out_channels, LANES) * LANES * (size_t)conv->steps;
}

void FOR_ISA(conv_destroy)(struct conv *conv)
{
    if (!conv) return;
    for (int part = 0; part < MAX_PARTS; part++) free(conv->panels[part]);
    FOR_ISA(winograd_destroy)(conv->winograd);
    free(conv->pieces);
    free(conv->bias);
    free(conv);
}

size_t FOR_ISA(conv_bytes)(const struct conv *conv)
{
    size_t bias = (size_t)panel_count(conv) * TILE_COLUMNS * sizeof(float);
    if (conv->winograd) return bias + FOR_ISA(winograd_bytes)(conv->winograd);
    return bias + (size_t)conv->parts * part_elements(conv) * sizeof(float);
}

/* Which of the kernel's three taps along an axis fall on tap `tap` of a part: [*first, *first + *count).
 * Output 2p sees pixels p-1, p, p of the small image and output 2p+1 sees p, p, p+1. */
static void merged_taps(const struct conv *conv, int parity, int tap, int *first, int *count)
{
    *first = tap;
    *count = 1;
    if (!conv->shape.upsample2) return;
    *first = tap == 0 ? 0 : parity == 0 ? 1 : 2;
    *count = tap == parity ? 1 : 2;
}

/* The weight of one tap of a part; taps that fall together are summed before they are rounded. */
static float part_weight(const struct conv *conv, const struct matrix *w, int part, int out, int in, int t,
                         int y, int x)
{
    const struct conv_shape *s = &conv->shape;
    int first_y, rows, first_x, columns;
    merged_taps(conv, part / 2, y, &first_y, &rows);
    merged_taps(conv, part % 2, x, &first_x, &columns);
    double sum = 0;
    for (int b = first_y; b < first_y + rows; b++)
        for (int c = first_x; c < first_x + columns; c++) {
            int64_t at = (((int64_t)out * s->in_channels + in) * s->kernel_t + t) * s->kernel_y + b;
            sum += weights_get(w->data, w->dtype, at * s->kernel_x + c);
        }
    return (float)sum;
}

/* Where the weight of (out, tap, in) lies in a part. */
static size_t packed_at(const struct conv *conv, int out, int tap, int in)
{
    size_t outputs = (size_t)conv->shape.out_channels, channels = (size_t)conv->shape.in_channels;
    if (conv->narrow) {
        size_t vector =
            (size_t)tap * (size_t)divide_up(conv->shape.in_channels, LANES) + (size_t)(in / LANES);
        return (vector * outputs + (size_t)out) * LANES + (size_t)(in % LANES);
    }
    int panel = out / TILE_COLUMNS;
    size_t columns = (size_t)panel_columns(conv->shape.out_channels, panel);
    size_t step = (size_t)tap * channels + (size_t)in;
    return (size_t)panel * TILE_COLUMNS * (size_t)conv->steps + step * columns + (size_t)(out % TILE_COLUMNS);
}

static void pack_part(const struct conv *conv, const struct matrix *w, int part)
{
    for (int out = 0; out < conv->shape.out_channels; out++)
        for (int tap = 0; tap < tap_count(conv); tap++)
            for (int in = 0; in < conv->shape.in_channels; in++) {
                int x = tap % conv->kernel_x, line = tap / conv->kernel_x;
                conv->panels[part][packed_at(conv, out, tap, in)] =
                    part_weight(conv, w, part, out, in, line / conv->kernel_y, line % conv->kernel_y, x);
            }
}

/* Lists the pieces of a part in order of summation, and where blocks end; NULL: only counts them. */
static int list_pieces(const struct conv *conv, struct piece *pieces)
{
    int channels = conv->shape.in_channels, per_tap = divide_up(channels, PIECE_CHANNELS), count = 0,
        terms = 0;
    for (int t = 0; t < conv->shape.kernel_t; t++)
        for (int y = 0; y < conv->kernel_y; y++)
            for (int x = 0; x < conv->kernel_x; x++)
                for (int i = 0; i < per_tap; i++, count++) {
                    int begin = share_begin(channels, per_tap, i),
                        length = share_begin(channels, per_tap, i + 1) - begin;
                    terms += length;
                    bool ends = terms >= TILE_BLOCK;
                    if (pieces) pieces[count] = (struct piece){t, y, x, begin, length, ends};
                    if (ends) terms = 0;
                }
    if (pieces) pieces[count - 1].ends_block = true;
    return count;
}

status_t FOR_ISA(conv_create)(const struct conv_shape *shape, const struct matrix *w,
                              const struct matrix *bias, struct conv **result, struct error *error)
{
    status_t status = weights_check_conv(shape, w, bias, error);
    if (status) return status;

    struct conv *conv = calloc(1, sizeof *conv);
    if (!conv) goto no_memory;
    conv->shape = *shape;
    conv->parts = shape->upsample2 ? MAX_PARTS : 1;
    conv->kernel_y = shape->upsample2 ? 2 : shape->kernel_y;
    conv->kernel_x = shape->upsample2 ? 2 : shape->kernel_x;
    conv->steps = tap_count(conv) * shape->in_channels;
    conv->narrow =
        !shape->upsample2 && shape->out_channels <= NARROW_OUTPUTS && shape->in_channels >= NARROW_INPUTS;
    conv->piece_count = list_pieces(conv, NULL);
    conv->pieces = calloc((size_t)conv->piece_count, sizeof *conv->pieces);
    conv->bias = weights_alloc((size_t)panel_count(conv) * TILE_COLUMNS * sizeof(float));
    if (!conv->pieces || !conv->bias) goto no_memory;
    list_pieces(conv, conv->pieces);
    bool winograd = FOR_ISA(winograd_suits)(shape);
    if (winograd && (status = FOR_ISA(winograd_create)(shape, w, &conv->winograd, error))) goto fail;
    for (int part = 0; !winograd && part < conv->parts; part++) {
        conv->panels[part] = weights_alloc(part_elements(conv) * sizeof(float));
        if (!conv->panels[part]) goto no_memory;
        pack_part(conv, w, part);
    }
    for (int i = 0; bias && i < shape->out_channels; i++)
        conv->bias[i] = weights_get(bias->data, bias->dtype, i);
    *result = conv;
    return STATUS_OK;

no_memory:
    status = error_set(error, STATUS_NO_MEMORY, "no memory for a convolution of %d -> %d channels",
                       shape->in_channels, shape->out_channels);
fail:
    FOR_ISA(conv_destroy)(conv);
    return status;
}

/* ----------------------------------------------------------------------------------------- the product */

struct conv_run {
    const struct conv *conv;
    struct volume x, y, residual; /* residual.data NULL for none */
    int64_t pixel_x;              /* floats from one output pixel's first tap to its neighbour's */
    int height, width;            /* of one part's output */
    int line_tiles;               /* tiles of a row of pixels */
    int tiles, strips, panels;    /* tiles of a part; strips of tiles; tasks are strips x panels x parts */
};

/* Up to twelve output pixels of one row of a part. */
struct span {
    int t, y, x, pixels;
};

static struct span span_of(const struct conv_run *run, int tile)
{
    int line = tile / run->line_tiles, i = tile % run->line_tiles;
    struct span s = {
        .t = line / run->height, .y = line % run->height, .x = share_begin(run->width, run->line_tiles, i)};
    s.pixels = share_begin(run->width, run->line_tiles, i + 1) - s.x;
    return s;
}

/* What a task works on. */
struct strip {
    const struct conv_run *run;
    struct conv_scratch *scratch;
    int part, panel, columns, tile_begin, tile_end;
};

/* Offsets into x of the pieces [begin, *end) of one block; pieces that lie together become one segment. */
static int block_segments(const struct strip *s, int begin, int *end, int *steps)
{
    const struct conv *conv = s->run->conv;
    const struct volume *x = &s->run->x;
    struct segment *segments = s->scratch->segments;
    int count = 0, i = begin;
    *steps = 0;
    for (bool last = false; !last; i++) {
        const struct piece *p = &conv->pieces[i];
        int64_t offset =
            p->tap_t * x->stride_t + p->tap_y * x->stride_y + p->tap_x * x->stride_x + p->channel;
        if (count > 0 && segments[count - 1].offset + segments[count - 1].length == offset)
            segments[count - 1].length += p->length;
        else
            segments[count++] = (struct segment){offset, p->length};
        *steps += p->length;
        last = p->ends_block;
    }
    *end = i;
    return count;
}

/* First tap of a span in x. A part with odd parity begins one small pixel further. */
static const float *span_input(const struct strip *s, const struct span *span)
{
    const struct volume *x = &s->run->x;
    const struct conv_shape *shape = &s->run->conv->shape;
    int y = span->y * shape->stride_y + s->part / 2, column = span->x * shape->stride_x + s->part % 2;
    return x->data + span->t * shape->stride_t * x->stride_t + y * x->stride_y + column * x->stride_x;
}

/* Adds the bias and the residual and writes the pixels of one span. */
static void store_span(const struct strip *s, const struct span *span, const float (*sums)[TILE_COLUMNS])
{
    const struct volume *y = &s->run->y, *residual = &s->run->residual;
    int scale = s->run->conv->shape.upsample2 ? 2 : 1;
    int row = span->y * scale + s->part / 2, column = span->x * scale + s->part % 2;
    int begin = s->panel * TILE_COLUMNS, end = s->run->conv->shape.out_channels;
    if (end > begin + TILE_COLUMNS) end = begin + TILE_COLUMNS;
    float *to = y->data + span->t * y->stride_t + row * y->stride_y + column * y->stride_x;
    const float *from = residual->data;
    if (from) from += span->t * residual->stride_t + row * residual->stride_y + column * residual->stride_x;
    for (int i = 0; i < span->pixels; i++)
        for (int at = begin; at < end; at += LANES) {
            v16 value = v16_add(v16_load(sums[i] + at - begin), v16_load(s->run->conv->bias + at));
            if (from)
                value = v16_add(value, v16_load_n(from + i * scale * residual->stride_x + at, end - at));
            v16_store_n(to + i * scale * y->stride_x + at, value, end - at);
        }
}

/* A strip of a narrow layer: there is one panel, and each span is finished at once. */
static void narrow_strip(const struct strip *s)
{
    const struct conv *conv = s->run->conv;
    const struct volume *x = &s->run->x;
    float(*sums)[TILE_COLUMNS] = s->scratch->sums[0];
    for (int i = s->tile_begin; i < s->tile_end; i++) {
        struct span span = span_of(s->run, i);
        struct narrow narrow = {
            .outputs = conv->shape.out_channels,
            .channels = conv->shape.in_channels,
            .taps_t = conv->shape.kernel_t,
            .taps_y = conv->kernel_y,
            .taps_x = conv->kernel_x,
            .weights = conv->panels[0],
            .x = span_input(s, &span),
            .x_t = x->stride_t,
            .x_y = x->stride_y,
            .x_x = x->stride_x,
            .pixel = s->run->pixel_x,
            .pixels = span.pixels,
            .sums = sums[0],
            .sums_pixel = TILE_COLUMNS,
        };
        FOR_ISA(narrow_run)(&narrow);
        store_span(s, &span, sums);
    }
}

/* Panels are the inner index: tasks that follow each other read the same pixels. In a task a block of weights
 * is used for all its tiles before the next block is touched. */
static void conv_task(void *arguments, int task, void *memory)
{
    const struct conv_run *run = arguments;
    const struct conv *conv = run->conv;
    int strip = task / run->panels / conv->parts;
    struct strip s = {.run = run,
                      .scratch = memory,
                      .panel = task % run->panels,
                      .part = task / run->panels % conv->parts,
                      .tile_begin = share_begin(run->tiles, run->strips, strip),
                      .tile_end = share_begin(run->tiles, run->strips, strip + 1)};
    if (conv->narrow) {
        narrow_strip(&s);
        return;
    }
    s.columns = panel_columns(conv->shape.out_channels, s.panel);
    const float *weights = conv->panels[s.part] + (size_t)s.panel * TILE_COLUMNS * (size_t)conv->steps;

    for (int piece = 0, next, steps; piece < conv->piece_count; piece = next) {
        int segment_count = block_segments(&s, piece, &next, &steps);
        struct tile tile = {
            .columns = s.columns,
            .a_row = run->pixel_x,
            .segments = s.scratch->segments,
            .segment_count = segment_count,
            .b = weights,
            .b_step = s.columns,
            .c_row = TILE_COLUMNS,
            .mode = piece == 0 ? TILE_STORE : TILE_ADD,
        };
        for (int i = s.tile_begin; i < s.tile_end; i++) {
            struct span span = span_of(run, i);
            float(*sums)[TILE_COLUMNS] = s.scratch->sums[i - s.tile_begin];
            tile.rows = span.pixels;
            tile.a = span_input(&s, &span);
            tile.c = sums[0];
            FOR_ISA(tile_run)(&tile);
            if (next == conv->piece_count) store_span(&s, &span, sums);
        }
        weights += (size_t)steps * (size_t)s.columns;
    }
}

/* Strips as long as scratch allows, then shorter until every thread has several tasks. */
static void plan_tasks(struct conv_run *run, int threads)
{
    const struct conv *conv = run->conv;
    run->line_tiles = divide_up(run->width, TILE_ROWS);
    run->tiles = run->y.frames * run->height * run->line_tiles;
    run->panels = panel_count(conv);
    int64_t tile_work = (int64_t)TILE_ROWS * TILE_COLUMNS * conv->steps;
    int length = TASK_TILES;
    while (threads > 1 && length > 1 && length * tile_work >= 2 * TASK_WORTH &&
           (int64_t)divide_up(run->tiles, length) * run->panels * conv->parts < TASKS_PER_THREAD * threads)
        length = divide_up(length, 2);
    run->strips = divide_up(run->tiles, length);
}

void FOR_ISA(conv)(struct team *team, const struct conv *conv, const struct volume *x,
                   const struct volume *residual, const struct volume *y)
{
    if (conv->winograd) {
        FOR_ISA(winograd)(team, conv->winograd, conv->bias, x, residual, y);
        return;
    }
    struct conv_run run = {.conv = conv, .x = *x, .y = *y, .pixel_x = conv->shape.stride_x * x->stride_x};
    if (residual) run.residual = *residual;
    int scale = conv->shape.upsample2 ? 2 : 1;
    run.height = y->height / scale;
    run.width = y->width / scale;
    if (y->frames < 1 || run.height < 1 || run.width < 1) return;
    plan_tasks(&run, team_threads(team));
    team_run(team, run.strips * run.panels * conv->parts, conv_task, &run);
}
