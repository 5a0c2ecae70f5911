/*
 * bench_gpu.c - how fast each op of the cuda backend runs on this machine's GPU, as a share of what the GPU can do.
 *
 *     bench_gpu [--only TEXT] [--seconds S] [--tflops N --gbs N] [--tiny]
 *
 * One line per op and shape of Wan 1.3B at 480p and 14B at 720p, 81 frames: the median of several turns after a warm-up,
 * each of as many calls as last S seconds in all and timed until `wait` returns; TFLOP/s or GB/s; and the share of the
 * peak. Then the median share of each kind of op. Peaks are those of dense bf16 (convolutions: tf32, half of it) and of
 * the memory, from NVIDIA's data sheets by the GPU's name, or by its compute capability where the name is not known; or
 * what --tflops and --gbs say. A shape that does not fit the GPU's memory is named and left out. --tiny: sizes that a GPU
 * emulated on the CPU can do, to see that all of this runs; its rates mean nothing.
 *
 * The plug-in is that of $REFRAIN_PLUGINS (tools/bench_gpu.sh sets it). Exit 77, after a sentence, where there is no GPU. Not a
 * test: nothing here asserts a time.
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "kernels/ops.h"
#include "tools/bench/gpu_peaks.h"

enum { TURNS = 9, LINES = 99, BUFFERS = 8, SKIPPED = 77, MEGABYTE = 1000000 };

/* What a line is measured against. */
enum peak { PEAK_BF16, PEAK_TF32, PEAK_MEMORY };

struct bench {
    const struct ops *ops;
    struct team *team;
    const char *only, *kind; /* kind: of op, for the summary */
    double seconds;          /* per line */
    double tflops, gbs;
    uint64_t budget; /* bytes of the device a shape may take */
    bool tiny;
    void *buffers[BUFFERS]; /* of the shape at hand */
    int buffer_count;
    struct {
        const char *kind;
        double share;
    } lines[LINES];
    int line_count;
};

static void die(const struct error *error)
{
    fprintf(stderr, "bench_gpu: %s\n", error->text);
    exit(1);
}

static void wait_for_all(const struct bench *b)
{
    struct error error;
    if (b->ops->wait(b->team, &error) != STATUS_OK) die(&error);
}

/* ---------------------------------------------------------------------------------------------------------- peaks */

static void choose_peak(struct bench *b, const struct location *gpu)
{
    const struct gpu_peak *found = gpu_peak_find(gpu->kind);
    const char *source = found && found->name ? "data sheet"
                         : found              ? "of a GPU of that compute capability: see --tflops, --gbs"
                                              : "unknown: see --tflops, --gbs";
    if (b->tflops > 0 && b->gbs > 0) source = "as given";
    if (b->tflops <= 0) b->tflops = found ? found->tflops : 0;
    if (b->gbs <= 0) b->gbs = found ? found->gbs : 0;
    printf("%s, %.1f GB; peak %g TFLOP/s in bf16, %g GB/s (%s)\n", gpu->kind,
           (double)gpu->memory_bytes * 1e-9, b->tflops, b->gbs, source);
}

static double share_of(const struct bench *b, enum peak peak, double rate)
{
    double most = peak == PEAK_MEMORY ? b->gbs * 1e9 : b->tflops * (peak == PEAK_TF32 ? 0.5e12 : 1e12);
    return most > 0 ? rate / most : 0;
}

/* --------------------------------------------------------------------------------------------------------- memory */

/* A shape begins: whether it is wanted and fits; `bytes`: of all its buffers and weights. */
static bool begin(struct bench *b, const char *name, double bytes)
{
    if (b->only && !strstr(name, b->only)) return false;
    if (bytes < (double)b->budget) return true;
    printf("%-52s left out: %.1f GB of memory, and there are %.1f\n", name, bytes * 1e-9,
           (double)b->budget * 1e-9);
    return false;
}

static void end(struct bench *b)
{
    wait_for_all(b);
    while (b->buffer_count > 0) b->ops->release(MEMORY_DEVICE, b->buffers[--b->buffer_count]);
}

/* Numbers of the host in [-1, 1), as the type has them: arithmetic on zeros takes less power, and is faster. */
static void *random_numbers(int64_t count, dtype_t dtype)
{
    char *data = malloc((size_t)count * dtype_bytes(dtype));
    if (!data) abort();
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        float value = (float)(int32_t)state * 0x1p-31f;
        char bits[4];
        memcpy(bits, &value, 4);
        size_t size = dtype_bytes(dtype); /* bf16 is the upper half */
        memcpy(data + (size_t)i * size, bits + 4 - size, size);
    }
    return data;
}

/* Of the device, full of such numbers; until `end`. A piece of the host's, doubled until all is full. */
static void *filled(struct bench *b, int64_t count, dtype_t dtype)
{
    struct error error;
    char *memory;
    size_t bytes = (size_t)count * dtype_bytes(dtype);
    size_t done = bytes < MEGABYTE ? bytes : MEGABYTE / 256 * 256;
    if (b->ops->allocate(MEMORY_DEVICE, bytes, (void **)&memory, &error) != STATUS_OK) die(&error);
    b->buffers[b->buffer_count++] = memory;
    void *numbers = random_numbers((int64_t)(done / dtype_bytes(dtype)), dtype);
    b->ops->copy(b->team, memory, numbers, done);
    wait_for_all(b);
    free(numbers);
    for (size_t piece; done < bytes; done += piece) {
        piece = done < bytes - done ? done : bytes - done;
        b->ops->copy(b->team, memory + done, memory, piece);
    }
    return memory;
}

/* ------------------------------------------------------------------------------------------------------ measuring */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double seconds_of(const struct bench *b, int repeats, void (*call)(const struct bench *, void *),
                         void *arguments)
{
    int64_t began_ns = clock_now_ns();
    for (int i = 0; i < repeats; i++) call(b, arguments);
    wait_for_all(b);
    return (double)(clock_now_ns() - began_ns) / SECOND_NS / repeats;
}

/* Times `call` and prints a line; work in FLOP or bytes of one call. */
static void measure(struct bench *b, const char *name, double work, enum peak peak,
                    void (*call)(const struct bench *, void *), void *arguments)
{
    double seconds[TURNS];
    seconds_of(b, 1, call, arguments); /* an algorithm is chosen, clocks rise */
    double once = seconds_of(b, 1, call, arguments);
    int repeats = (int)fmin(1e5, fmax(1, b->seconds / TURNS / once));
    for (int i = 0; i < TURNS; i++) seconds[i] = seconds_of(b, repeats, call, arguments);
    qsort(seconds, TURNS, sizeof seconds[0], by_value);
    double median = seconds[TURNS / 2], share = share_of(b, peak, work / median);
    printf("%-52s %10.1f us  %9.3f %s", name, median * 1e6,
           work / median * (peak == PEAK_MEMORY ? 1e-9 : 1e-12), peak == PEAK_MEMORY ? "GB/s   " : "TFLOP/s");
    if (share > 0) printf("  %5.1f %% of peak, best %.1f", 100 * share, 100 * share * median / seconds[0]);
    printf("\n");
    fflush(stdout);
    if (b->line_count < LINES) {
        b->lines[b->line_count].kind = b->kind;
        b->lines[b->line_count++].share = share;
    }
}

static void summary(const struct bench *b)
{
    for (int first = 0, next; first < b->line_count; first = next) {
        double shares[LINES];
        int count = 0;
        next = first;
        do shares[count++] = b->lines[next++].share;
        while (next < b->line_count && b->lines[next].kind == b->lines[first].kind);
        qsort(shares, (size_t)count, sizeof *shares, by_value);
        printf("%-52s %5.1f %% of peak, the median of %d; from %.1f to %.1f\n", b->lines[first].kind,
               100 * shares[count / 2], count, 100 * shares[0], 100 * shares[count - 1]);
    }
}

/* A size, or what an emulated GPU can do of it. */
static int size(const struct bench *b, int full, int tiny)
{
    return b->tiny && full > tiny ? tiny : full;
}

/* --------------------------------------------------------------------------------------------------- dense layers */

struct linear_call {
    struct linear *linear;
    void *x, *y;
    struct epilogue epilogue;
    int rows, n, k;
};

static void call_linear(const struct bench *b, void *arguments)
{
    struct linear_call *c = arguments;
    b->ops->linear(b->team, c->linear, c->x, c->k, c->rows, &c->epilogue, c->y, c->n);
}

/* Operands in; out too, but where a residual is added: there it is float32, in place. One row: float32. */
static void bench_linear(struct bench *b, int rows, int n, int k, enum epilogue_kind kind)
{
    static const char *const epilogues[] = {"", " gelu", " silu", " multiply", " add", " gated add"};
    rows = size(b, rows, 40), n = size(b, n, 96), k = size(b, k, 64);
    dtype_t in = rows > 1 ? b->ops->operand : DTYPE_F32;
    dtype_t out = rows > 1 && kind < EPILOGUE_MULTIPLY ? b->ops->operand : DTYPE_F32;
    char name[80];
    snprintf(name, sizeof name, "linear %dx%dx%d%s", rows, k, n, epilogues[kind]);
    double weights = 2.0 * n * k;
    if (!begin(b, name,
               weights + (double)rows * k * (double)dtype_bytes(in) +
                   (double)rows * n * (double)dtype_bytes(out)))
        return;
    struct error error;
    struct linear_call c = {.rows = rows, .n = n, .k = k};
    void *w = random_numbers((int64_t)n * k, DTYPE_BF16);
    if (b->ops->linear_create(&(struct matrix){w, DTYPE_BF16, n, k}, NULL, &c.linear, &error) != STATUS_OK)
        die(&error);
    free(w);
    c.x = filled(b, (int64_t)rows * k, in);
    c.y = filled(b, (int64_t)rows * n, out);
    c.epilogue = (struct epilogue){.kind = kind, .x_dtype = in, .y_dtype = out};
    if (kind >= EPILOGUE_MULTIPLY) c.epilogue.other = c.y, c.epilogue.other_stride = n;
    if (kind == EPILOGUE_GATE_ADD) c.epilogue.gate = filled(b, n, DTYPE_F32);
    if (rows == 1)
        measure(b, name, weights, PEAK_MEMORY, call_linear, &c);
    else
        measure(b, name, 2.0 * rows * n * k, PEAK_BF16, call_linear, &c);
    end(b);
    b->ops->linear_destroy(c.linear);
}

static void bench_dense(struct bench *b)
{
    static const int models[][3] = {{32760, 1536, 8960}, {75600, 5120, 13824}}; /* rows, hidden, ffn */
    b->kind = "dense layers";
    for (int i = 0; i < 2; i++) {
        int rows = models[i][0], hidden = models[i][1], ffn = models[i][2];
        bench_linear(b, rows, 3 * hidden, hidden, EPILOGUE_NONE);
        bench_linear(b, rows, hidden, hidden, EPILOGUE_GATE_ADD);
        bench_linear(b, rows, ffn, hidden, EPILOGUE_GELU);
        bench_linear(b, rows, hidden, ffn, EPILOGUE_GATE_ADD);
    }
    bench_linear(b, 512, 5120, 5120, EPILOGUE_NONE);
    b->kind = "dense layers of one row";
    bench_linear(b, 1, 30720, 5120, EPILOGUE_NONE);
}

/* ------------------------------------------------------------------------------------------------------ attention */

static void call_attention(const struct bench *b, void *arguments)
{
    b->ops->attention(b->team, arguments);
}

/* repeated: rows that the last one of k and v stands for. */
static void bench_attention(struct bench *b, int heads, int q_rows, int kv_rows, int head_dim, int repeated)
{
    char name[80];
    heads = size(b, heads, 2), q_rows = size(b, q_rows, 70), kv_rows = size(b, kv_rows, 90);
    snprintf(name, sizeof name, "attention %d heads of %d, %dx%d%s", heads, head_dim, q_rows, kv_rows,
             repeated ? ", padded" : "");
    int64_t width = (int64_t)heads * head_dim;
    dtype_t dtype = b->ops->operand;
    if (!begin(b, name, 2.0 * (q_rows + kv_rows) * (double)width * (double)dtype_bytes(dtype))) return;
    struct attention a = {.dtype = dtype,
                          .q_stride = width,
                          .k_stride = width,
                          .v_stride = width,
                          .out_stride = width,
                          .q_rows = q_rows,
                          .kv_rows = kv_rows,
                          .heads = heads,
                          .head_dim = head_dim,
                          .scale = 1 / sqrtf((float)head_dim),
                          .last_logit = repeated ? logf((float)repeated) : 0};
    a.q = filled(b, q_rows * width, dtype), a.out = filled(b, q_rows * width, dtype);
    a.k = filled(b, kv_rows * width, dtype), a.v = filled(b, kv_rows * width, dtype);
    measure(b, name, 4.0 * q_rows * kv_rows * (double)width, PEAK_BF16, call_attention, &a);
    end(b);
}

static void bench_attentions(struct bench *b)
{
    b->kind = "self-attention";
    bench_attention(b, 40, 75600, 75600, 128, 0);
    bench_attention(b, 40, 18900, 75600, 128,
                    0); /* a quarter of the rows: one of four GPUs that share a sequence */
    bench_attention(b, 12, 32760, 32760, 128, 0);
    bench_attention(b, 12, 8192, 8192, 128, 0);
    bench_attention(b, 24, 8192, 8192, 64, 0);
    bench_attention(b, 12, 1024, 1024, 128, 0);
    b->kind = "cross-attention";
    bench_attention(b, 40, 75600, 512, 128, 0);
    bench_attention(b, 40, 75600, 65, 128, 448);
    bench_attention(b, 12, 32760, 65, 128, 448);
}

/* ----------------------------------------------------------------------------------------------------- rows and sums */

struct rows_call {
    const float *terms[LINCOMB_TERMS];
    float *y;
    void *operand;
    const float *weight;
    double *partials;
    const unsigned char *group;
    int rows, heads, head_dim, width, count;
};

static const float weights[LINCOMB_GROUPS * LINCOMB_TERMS] = {0.5f, 0.25f, 0.125f};

static void call_layer_norm(const struct bench *b, void *arguments)
{
    struct rows_call *c = arguments;
    b->ops->layer_norm(b->team, c->terms[0], c->width, c->rows, c->width, 1e-6f, 1, c->weight, c->weight,
                       c->operand, c->width, b->ops->operand);
}

static void call_rms_norm(const struct bench *b, void *arguments)
{
    struct rows_call *c = arguments;
    b->ops->rms_norm(b->team, c->operand, c->width, c->rows, c->width, 1e-6f, c->weight, c->operand, c->width,
                     b->ops->operand);
}

/* y holds more than the cosines and sines of all rows. */
static void call_rope(const struct bench *b, void *arguments)
{
    struct rows_call *c = arguments;
    b->ops->rms_norm_rope(b->team, c->operand, c->width, c->rows, c->heads, c->head_dim, 1e-6f, c->weight,
                          c->y, c->y + (int64_t)c->rows * c->head_dim / 2, b->ops->operand);
}

static void call_lincomb(const struct bench *b, void *arguments)
{
    struct rows_call *c = arguments;
    b->ops->lincomb(b->team, c->count, weights, c->terms, (int64_t)c->rows * c->width, c->y);
}

static void call_lincomb_rows(const struct bench *b, void *arguments)
{
    struct rows_call *c = arguments;
    b->ops->lincomb_rows(b->team, c->count, weights, c->group, c->terms, c->rows, c->width, c->y);
}

static void call_reduce2(const struct bench *b, void *arguments)
{
    struct rows_call *c = arguments;
    b->ops->reduce2(b->team, c->terms[0], c->terms[1], c->rows, c->width, c->partials);
}

static void call_silu(const struct bench *b, void *arguments)
{
    struct rows_call *c = arguments;
    b->ops->silu(b->team, c->terms[0], (int64_t)c->rows * c->width, c->y);
}

static void call_copy(const struct bench *b, void *arguments)
{
    struct rows_call *c = arguments;
    b->ops->copy(b->team, c->y, c->terms[0], (size_t)c->rows * (size_t)c->width * sizeof(float));
}

static void bench_rows(struct bench *b, int rows, int heads, int head_dim)
{
    struct rows_call c = {.rows = size(b, rows, 20), .heads = size(b, heads, 2), .head_dim = head_dim};
    c.width = c.heads * head_dim;
    int64_t count = (int64_t)c.rows * c.width;
    double all = (double)count, floats = 4 * all, operands = (double)dtype_bytes(b->ops->operand) * all;
    struct {
        const char *name;
        double bytes; /* read and written */
        int terms;
        void (*call)(const struct bench *, void *);
    } ops[] = {
        {"copy", 2 * floats, 1, call_copy},
        {"layer_norm to bf16", floats + operands, 1, call_layer_norm},
        {"rms_norm in bf16", 2 * operands, 1, call_rms_norm},
        {"rms_norm_rope in bf16", 2 * operands + 4.0 * c.rows * head_dim, 1, call_rope},
        {"lincomb of 2", 3 * floats, 2, call_lincomb},
        {"lincomb of 3", 4 * floats, 3, call_lincomb},
        {"lincomb_rows of 3", 4 * floats, 3, call_lincomb_rows},
        {"reduce2", 2 * floats, 2, call_reduce2},
        {"silu", 2 * floats, 1, call_silu},
    };
    b->kind = "norms, sums and verdicts";
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        char name[80];
        snprintf(name, sizeof name, "%s %dx%d", ops[i].name, c.rows, c.width);
        if (!begin(b, name, (ops[i].terms + 1) * floats + operands + 64.0 * c.rows)) continue;
        for (int j = 0; j < ops[i].terms; j++) c.terms[j] = filled(b, count, DTYPE_F32);
        c.count = ops[i].terms;
        c.y = filled(b, count, DTYPE_F32);
        c.operand = filled(b, count, b->ops->operand);
        c.weight = filled(b, c.width, DTYPE_F32);
        c.partials = filled(b, 2 * (int64_t)c.rows * REDUCE_SUMS, DTYPE_F32);
        unsigned char *group = filled(b, c.rows, DTYPE_F32);
        b->ops->zero(b->team, group, (size_t)c.rows); /* all rows of the first group */
        c.group = group;
        measure(b, name, ops[i].bytes, PEAK_MEMORY, ops[i].call, &c);
        end(b);
    }
}

/* ----------------------------------------------------------------------------------------------------------- the VAE */

struct conv_call {
    struct conv *conv;
    struct volume x, y;
    const float *gamma;
};

static void call_conv(const struct bench *b, void *arguments)
{
    struct conv_call *c = arguments;
    b->ops->conv(b->team, c->conv, &c->x, NULL, &c->y);
}

static void call_channel_norm(const struct bench *b, void *arguments)
{
    struct conv_call *c = arguments;
    b->ops->channel_norm(b->team, &c->x, c->gamma, true, &c->y);
}

static struct volume packed_volume(int frames, int height, int width, int channels)
{
    return (struct volume){NULL,
                           frames,
                           height,
                           width,
                           channels,
                           (int64_t)height * width * channels,
                           (int64_t)width * channels,
                           channels};
}

static int64_t volume_floats(const struct volume *v)
{
    return v->stride_t * v->frames;
}

/* 3x3x3 to [frames, height, width], or 3x3 after doubling an image of half its sides. */
static void bench_conv(struct bench *b, int in, int out, int frames, int height, int width, bool upsample2)
{
    char name[80];
    in = size(b, in, 16), out = size(b, out, 16), height = size(b, height, 6), width = size(b, width, 8);
    snprintf(name, sizeof name, "conv %s %d->%d on %dx%dx%d", upsample2 ? "doubled 3x3" : "3x3x3", in, out,
             frames, height, width);
    int taps = upsample2 ? 9 : 27, shrink = upsample2 ? 2 : 1;
    struct conv_shape shape = {out, in, taps / 9, 3, 3, 1, 1, 1, upsample2};
    struct conv_call c = {
        .x = packed_volume(frames + taps / 9 - 1, height / shrink + 2, width / shrink + 2, in),
        .y = packed_volume(frames, height, width, out)};
    int64_t x_count = volume_floats(&c.x), y_count = volume_floats(&c.y);
    if (!begin(b, name, 4.0 * (double)(x_count + y_count) + 8.0 * in * out * taps)) return;
    struct error error;
    void *w = random_numbers((int64_t)in * out * taps, DTYPE_F32);
    if (b->ops->conv_create(&shape, &(struct matrix){w, DTYPE_F32, out, in * taps}, NULL, &c.conv, &error) !=
        STATUS_OK)
        die(&error);
    free(w);
    c.x.data = filled(b, x_count, DTYPE_F32), c.y.data = filled(b, y_count, DTYPE_F32);
    measure(b, name, 2.0 * taps * in * (double)y_count, PEAK_TF32, call_conv, &c);
    end(b);
    b->ops->conv_destroy(c.conv);
}

static void bench_channel_norm(struct bench *b, int channels, int height, int width)
{
    char name[80];
    channels = size(b, channels, 16), height = size(b, height, 6), width = size(b, width, 8);
    snprintf(name, sizeof name, "channel_norm+silu %d on 4x%dx%d", channels, height, width);
    struct conv_call c = {.x = packed_volume(4, height, width, channels),
                          .y = packed_volume(4, height, width, channels)};
    int64_t count = volume_floats(&c.x);
    if (!begin(b, name, 8.0 * (double)count)) return;
    c.x.data = filled(b, count, DTYPE_F32), c.y.data = filled(b, count, DTYPE_F32);
    c.gamma = filled(b, channels, DTYPE_F32);
    measure(b, name, 8.0 * (double)count, PEAK_MEMORY, call_channel_norm, &c);
    end(b);
}

/* Wan's decoder at 720p: four frames of pixels from one of the latent. */
static void bench_vae(struct bench *b)
{
    b->kind = "convolutions";
    bench_conv(b, 16, 384, 1, 90, 160, false);
    bench_conv(b, 384, 384, 1, 90, 160, false);
    bench_conv(b, 384, 384, 2, 180, 320, false);
    bench_conv(b, 192, 192, 4, 360, 640, false);
    bench_conv(b, 96, 96, 4, 720, 1280, false);
    bench_conv(b, 96, 3, 4, 720, 1280, false);
    bench_conv(b, 192, 96, 4, 720, 1280, true);
    b->kind = "channel norm";
    bench_channel_norm(b, 384, 180, 320);
    bench_channel_norm(b, 96, 720, 1280);
}

/* ------------------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"only", required_argument, NULL, 'o'},   {"seconds", required_argument, NULL, 's'},
        {"tflops", required_argument, NULL, 'f'}, {"gbs", required_argument, NULL, 'g'},
        {"tiny", no_argument, NULL, 't'},         {NULL, 0, NULL, 0}};
    struct bench b = {.seconds = 2};
    struct error error;
    struct location gpu;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'o') b.only = optarg;
        if (option == 's') b.seconds = atof(optarg);
        if (option == 'f') b.tflops = atof(optarg);
        if (option == 'g') b.gbs = atof(optarg);
        if (option == 't') b.tiny = true, b.seconds = 0;
        if (option == '?') {
            fprintf(stderr, "usage: bench_gpu [--only TEXT] [--seconds S] [--tflops N --gbs N] [--tiny]\n");
            return 2;
        }
    }
    if (ops_choose("cuda", &b.ops, &error) != STATUS_OK) {
        fprintf(stderr, "%s\n", error.text);
        return SKIPPED;
    }
    if (team_create(1, &b.team, &error) != STATUS_OK || b.ops->open(b.team, &error) != STATUS_OK) die(&error);
    b.ops->locate(b.team, &gpu);
    b.budget = gpu.memory_bytes / 10 * 8;
    choose_peak(&b, &gpu);
    bench_dense(&b);
    bench_attentions(&b);
    bench_rows(&b, 32760, 12, 128);
    bench_rows(&b, 75600, 40, 128);
    bench_vae(&b);
    summary(&b);
    b.ops->close(b.team);
    team_destroy(b.team);
    return 0;
}
