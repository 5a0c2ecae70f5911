/*
 * winograd.c - 3x3 convolutions of many channels with 16 instead of 36 multiplications for 2x2 pixels.
 *
 * Winograd's F(2x2, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015): with d
 * the 4x4 input pixels of a 2x2 output patch and g the 3x3 kernel,
 *
 *     Y = A' [ (G g G') * (B' d B) ] A      B' = 1  0 -1  0     G = 1    0    0      A' = 1  1  1  0
 *                                                0  1  1  0         1/2  1/2  1/2         0  1 -1 -1
 *                                                0 -1  1  0         1/2 -1/2  1/2
 *                                                0  1  0 -1         0    0    1
 *
 * The product inside is a sum over channels (and over the kernel's frames), so for each of its 16 places it
 * is a matrix product of patches and channels: tile.h. The matrices hold only 0, 1 and 1/2, which keeps
 * rounding errors near those of the direct sum; larger patches would save more and lose a digit.
 *
 * Order of sums of one place: frames of the kernel ascending, channels ascending, cut into blocks of whole
 * frames of the kernel with about BLOCK_TERMS terms; inside a block one chain of fused multiply-adds; blocks
 * added in order. Patches begin at even rows and columns of the image: a pixel's bits depend on its place
 * there and on nothing else.
 */
#include <stdlib.h>

#include "kernels/cpu/tile.h"
#include "kernels/cpu/winograd.h"
#include "kernels/weights.h"

enum {
    PLACES = 16,       /* of a patch: 4x4 */
    MIN_CHANNELS = 48, /* below, moving data costs what multiplications save */
    BLOCK_TERMS = 384,
    PATCH_BYTES = 1 << 20, /* of transformed input a task holds: about a second-level cache */
    MAX_PATCHES = 48,
    TASKS_PER_THREAD = 6,
};

struct winograd {
    struct conv_shape shape;
    int terms;      /* kernel_t * in_channels: of one place's sum */
    int block;      /* terms of a block */
    int patches;    /* of a task: a multiple of TILE_ROWS */
    int panels;     /* of 32 output channels, the last perhaps 16 */
    float *weights; /* [panel][place][term][32 or 16] */
};

bool FOR_ISA(winograd_suits)(const struct conv_shape *s)
{
    return s->kernel_y == 3 && s->kernel_x == 3 && s->stride_t == 1 && s->stride_y == 1 && s->stride_x == 1 &&
           !s->upsample2 && s->in_channels >= MIN_CHANNELS && s->out_channels >= MIN_CHANNELS &&
           (size_t)(s->kernel_t * s->in_channels) * PLACES * TILE_ROWS * sizeof(float) <=
               TEAM_SCRATCH_BYTES - sizeof(float[PLACES][MAX_PATCHES][TILE_COLUMNS]);
}

/* ------------------------------------------------------------------------------------------------ weights */

static int panel_columns(const struct winograd *g, int panel)
{
    return g->shape.out_channels - panel * TILE_COLUMNS > LANES ? TILE_COLUMNS : LANES;
}

static float *panel_weights(const struct winograd *g, int panel)
{
    return g->weights + (size_t)panel * PLACES * (size_t)g->terms * TILE_COLUMNS;
}

static size_t weight_count(const struct winograd *g)
{
    size_t columns = (size_t)divide_up(g->shape.out_channels, LANES) * LANES;
    return columns * PLACES * (size_t)g->terms;
}

/* U = G g G' of one input and output channel, in double; k: [3][3], places: [16] at a distance of `step`. */
static void transform_kernel(const double k[9], float *places, size_t step)
{
    double half[4][3];
    for (int x = 0; x < 3; x++) {
        half[0][x] = k[x];
        half[1][x] = 0.5 * (k[x] + k[3 + x] + k[6 + x]);
        half[2][x] = 0.5 * (k[x] - k[3 + x] + k[6 + x]);
        half[3][x] = k[6 + x];
    }
    for (int y = 0; y < 4; y++) {
        const double *h = half[y];
        const double row[4] = {h[0], 0.5 * (h[0] + h[1] + h[2]), 0.5 * (h[0] - h[1] + h[2]), h[2]};
        for (int x = 0; x < 4; x++) places[(size_t)(y * 4 + x) * step] = (float)row[x];
    }
}

static void pack_weights(struct winograd *g, const struct matrix *w)
{
    const struct conv_shape *s = &g->shape;
    for (int out = 0; out < s->out_channels; out++) {
        int panel = out / TILE_COLUMNS, columns = panel_columns(g, panel);
        float *to = panel_weights(g, panel) + out % TILE_COLUMNS;
        for (int t = 0; t < s->kernel_t; t++)
            for (int in = 0; in < s->in_channels; in++, to += columns) {
                double kernel[9];
                int64_t at = (((int64_t)out * s->in_channels + in) * s->kernel_t + t) * 9;
                for (int i = 0; i < 9; i++) kernel[i] = weights_get(w->data, w->dtype, at + i);
                transform_kernel(kernel, to, (size_t)g->terms * (size_t)columns);
            }
    }
}

status_t FOR_ISA(winograd_create)(const struct conv_shape *shape, const struct matrix *w,
                                  struct winograd **out, struct error *error)
{
    struct winograd *g = calloc(1, sizeof *g);
    if (!g) goto no_memory;
    g->shape = *shape;
    g->terms = shape->kernel_t * shape->in_channels;
    int frames = BLOCK_TERMS / shape->in_channels;
    g->block = shape->in_channels * (frames < 1 ? 1 : frames);
    g->panels = divide_up(shape->out_channels, TILE_COLUMNS);
    size_t patch = (size_t)g->terms * PLACES * sizeof(float);
    int tiles = (int)(PATCH_BYTES / (patch * TILE_ROWS));
    g->patches = TILE_ROWS * (tiles < 1 ? 1 : tiles);
    if (g->patches > MAX_PATCHES) g->patches = MAX_PATCHES;
    g->weights = weights_alloc(weight_count(g) * sizeof(float));
    if (!g->weights) goto no_memory;
    pack_weights(g, w);
    *out = g;
    return STATUS_OK;

no_memory:
    FOR_ISA(winograd_destroy)(g);
    return error_set(error, STATUS_NO_MEMORY, "no memory for a convolution of %d -> %d channels",
                     shape->in_channels, shape->out_channels);
}

void FOR_ISA(winograd_destroy)(struct winograd *g)
{
    if (!g) return;
    free(g->weights);
    free(g);
}

size_t FOR_ISA(winograd_bytes)(const struct winograd *g)
{
    return weight_count(g) * sizeof(float);
}

/* -------------------------------------------------------------------------------------------- the product */

struct winograd_run {
    const struct winograd *winograd;
    const float *bias;
    struct volume x, y, residual; /* residual.data NULL for none */
    int across, down;             /* patches of a row and of a column of one frame */
    int patches, tiles;           /* all patches, and tiles of TILE_ROWS of them */
    int strips, groups;           /* tasks: strips of tiles times groups of panels */
};

/* Scratch of a task: input [place][patch][term], then sums [place][patch][32]. */
struct strip {
    const struct winograd_run *run;
    float *input;
    float (*sums)[MAX_PATCHES][TILE_COLUMNS];
    int begin, count; /* patches */
};

struct patch {
    int t, y, x; /* of its first output pixel */
};

static struct patch patch_of(const struct winograd_run *run, int index)
{
    int row = index / run->across;
    return (struct patch){row / run->down, row % run->down * 2, index % run->across * 2};
}

/* V = B' d B of 16 (or n) channels. `pixel`: the 16 input pixels; to: places at a distance of `step` floats.
 */
INLINE void transform_pixels(const float *const pixel[PLACES], int channel, int n, float *to, int64_t step)
{
    v16 half[4][4];
    UNROLL for (int y = 0; y < 4; y++)
    {
        v16 a = v16_load_n(pixel[y * 4] + channel, n), b = v16_load_n(pixel[y * 4 + 1] + channel, n);
        v16 c = v16_load_n(pixel[y * 4 + 2] + channel, n), d = v16_load_n(pixel[y * 4 + 3] + channel, n);
        half[y][0] = v16_sub(a, c);
        half[y][1] = v16_add(b, c);
        half[y][2] = v16_sub(c, b);
        half[y][3] = v16_sub(b, d);
    }
    UNROLL for (int x = 0; x < 4; x++)
    {
        v16_store_n(to + (0 + x) * step, v16_sub(half[0][x], half[2][x]), n);
        v16_store_n(to + (4 + x) * step, v16_add(half[1][x], half[2][x]), n);
        v16_store_n(to + (8 + x) * step, v16_sub(half[2][x], half[1][x]), n);
        v16_store_n(to + (12 + x) * step, v16_sub(half[1][x], half[3][x]), n);
    }
}

/* The input of all patches of a strip. Where the image has an odd side, the last patch's fourth row or column
 * lies outside: any pixel will do, since only outputs that are not stored depend on it. */
static void load_strip(const struct strip *s)
{
    const struct winograd_run *run = s->run;
    const struct winograd *g = run->winograd;
    const struct volume *x = &run->x;
    int channels = g->shape.in_channels;
    int64_t step = (int64_t)s->count * g->terms;
    for (int i = 0; i < s->count; i++) {
        struct patch p = patch_of(run, s->begin + i);
        for (int t = 0; t < g->shape.kernel_t; t++) {
            const float *pixel[PLACES], *frame = x->data + (p.t + t) * x->stride_t;
            for (int j = 0; j < PLACES; j++) {
                int row = p.y + j / 4, column = p.x + j % 4;
                if (row > run->y.height + 1) row = run->y.height + 1;
                if (column > run->y.width + 1) column = run->y.width + 1;
                pixel[j] = frame + row * x->stride_y + column * x->stride_x;
            }
            float *to = s->input + (int64_t)i * g->terms + t * channels;
            int c = 0;
            for (; c + LANES <= channels; c += LANES) transform_pixels(pixel, c, LANES, to + c, step);
            if (c < channels) transform_pixels(pixel, c, channels - c, to + c, step);
        }
    }
}

/* The 16 matrix products of one panel into s->sums. A block of weights serves all patches before the next is
 * read. */
static void multiply_panel(const struct strip *s, int panel)
{
    const struct winograd *g = s->run->winograd;
    int columns = panel_columns(g, panel);
    const float *weights = panel_weights(g, panel);
    for (int place = 0; place < PLACES; place++) {
        const float *input = s->input + (int64_t)place * s->count * g->terms;
        for (int term = 0; term < g->terms; term += g->block) {
            int length = g->terms - term < g->block ? g->terms - term : g->block;
            struct tile tile = {.columns = columns,
                                .a_row = g->terms,
                                .segments = &(struct segment){term, length},
                                .segment_count = 1,
                                .b = weights,
                                .b_step = columns,
                                .c_row = TILE_COLUMNS,
                                .mode = term == 0 ? TILE_STORE : TILE_ADD};
            for (int first = 0; first < s->count; first += TILE_ROWS) {
                tile.rows = s->count - first < TILE_ROWS ? s->count - first : TILE_ROWS;
                tile.a = input + (int64_t)first * g->terms;
                tile.c = s->sums[place][first];
                FOR_ISA(tile_run)(&tile);
            }
            weights += (size_t)length * (size_t)columns;
        }
    }
}

/* Bias and residual of one pixel's 16 (or n) channels, and out. */
INLINE void store_pixel(const struct winograd_run *run, int t, int y, int x, int channel, int n, v16 value)
{
    const struct volume *out = &run->y, *residual = &run->residual;
    value = v16_add(value, v16_load(run->bias + channel));
    if (residual->data) {
        const float *from =
            residual->data + t * residual->stride_t + y * residual->stride_y + x * residual->stride_x;
        value = v16_add(value, v16_load_n(from + channel, n));
    }
    v16_store_n(out->data + t * out->stride_t + y * out->stride_y + x * out->stride_x + channel, value, n);
}

/* Y = A' M A of one patch and 16 (or n) channels of a panel. */
static void store_patch(const struct strip *s, int i, const struct patch *p, int column, int channel, int n)
{
    const struct winograd_run *run = s->run;
    v16 half[2][4];
    UNROLL for (int x = 0; x < 4; x++)
    {
        v16 a = v16_load(s->sums[x][i] + column), b = v16_load(s->sums[4 + x][i] + column);
        v16 c = v16_load(s->sums[8 + x][i] + column), d = v16_load(s->sums[12 + x][i] + column);
        half[0][x] = v16_add(v16_add(a, b), c);
        half[1][x] = v16_sub(v16_sub(b, c), d);
    }
    int rows = run->y.height - p->y < 2 ? 1 : 2;
    bool two = run->y.width - p->x >= 2;
    for (int y = 0; y < rows; y++) {
        const v16 *h = half[y];
        store_pixel(run, p->t, p->y + y, p->x, channel, n, v16_add(v16_add(h[0], h[1]), h[2]));
        if (two) store_pixel(run, p->t, p->y + y, p->x + 1, channel, n, v16_sub(v16_sub(h[1], h[2]), h[3]));
    }
}

static void store_panel(const struct strip *s, int panel)
{
    int channels = s->run->winograd->shape.out_channels, begin = panel * TILE_COLUMNS;
    for (int i = 0; i < s->count; i++) {
        struct patch p = patch_of(s->run, s->begin + i);
        for (int column = 0; column < TILE_COLUMNS && begin + column < channels; column += LANES)
            store_patch(s, i, &p, column, begin + column,
                        channels - begin - column < LANES ? channels - begin - column : LANES);
    }
}

static void winograd_task(void *arguments, int task, void *scratch)
{
    const struct winograd_run *run = arguments;
    int strip = task / run->groups, group = task % run->groups;
    struct strip s = {
        .run = run, .sums = scratch, .begin = TILE_ROWS * share_begin(run->tiles, run->strips, strip)};
    s.count = TILE_ROWS * share_begin(run->tiles, run->strips, strip + 1) - s.begin;
    if (s.count > run->patches - s.begin) s.count = run->patches - s.begin;
    s.input = s.sums[PLACES][0];
    load_strip(&s);
    int end = share_begin(run->winograd->panels, run->groups, group + 1);
    for (int panel = share_begin(run->winograd->panels, run->groups, group); panel < end; panel++) {
        multiply_panel(&s, panel);
        store_panel(&s, panel);
    }
}

void FOR_ISA(winograd)(struct team *team, const struct winograd *g, const float *bias, const struct volume *x,
                       const struct volume *residual, const struct volume *y)
{
    struct winograd_run run = {.winograd = g, .bias = bias, .x = *x, .y = *y};
    if (residual) run.residual = *residual;
    run.across = divide_up(y->width, 2);
    run.down = divide_up(y->height, 2);
    run.patches = y->frames * run.down * run.across;
    if (run.patches < 1) return;
    run.tiles = divide_up(run.patches, TILE_ROWS);
    run.strips = divide_up(run.tiles, g->patches / TILE_ROWS);
    /* Small images: threads share the panels, each transforming the same pixels. */
    int wanted = team_threads(team) == 1 ? 1 : TASKS_PER_THREAD * team_threads(team);
    run.groups = run.strips >= wanted ? 1 : divide_up(wanted, run.strips);
    if (run.groups > g->panels) run.groups = g->panels;
    team_run(team, run.strips * run.groups, winograd_task, &run);
}
