/*
 * bench_ops.c - how fast each op runs on this machine, next to what the machine can do.
 *
 *     bench_ops [--threads N] [--backend NAME] [--only TEXT] [--seconds S] [--cpu-time]
 *
 * One line per op and shape: the best and the median of several runs, GFLOP/s (or GB/s where memory is the
 * limit), and the share of the peak that a loop of fused multiply-adds on registers reached in this same run,
 * with as many threads. Not a test: nothing here asserts a time.
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#include "kernels/ops.h"

enum { RUNS = 15, MAX_THREADS = TEAM_MAX_THREADS };

struct bench {
    const struct ops *ops;
    struct team *team;
    const char *only;
    double seconds; /* per line */
    bool cpu_time;  /* count the seconds a core worked, for one thread on a machine that is busy otherwise */
    double peak;    /* GFLOP/s of all threads, 0 where unknown */
};

static float *filled(int64_t count)
{
    float *x = aligned_alloc(64, (size_t)(count + 16) / 16 * 64);
    if (!x) abort();
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)state * 0x1p-31f;
    }
    return x;
}

static double now_s(const struct bench *b)
{
    struct timespec now;
    clock_gettime(b->cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Times `call` and prints a line; work in FLOP (unit "GFLOP/s") or bytes (unit "GB/s"). */
static void measure(const struct bench *b, const char *name, double work, const char *unit,
                    void (*call)(void *), void *arguments)
{
    if (b->only && !strstr(name, b->only)) return;
    call(arguments); /* pages touched, threads awake */
    double begin = now_s(b);
    call(arguments);
    double once = now_s(b) - begin;
    int repeats = (int)fmin(1e6, fmax(1, b->seconds / RUNS / once));
    double seconds[RUNS];
    for (int run = 0; run < RUNS; run++) {
        begin = now_s(b);
        for (int i = 0; i < repeats; i++) call(arguments);
        seconds[run] = (now_s(b) - begin) / repeats;
    }
    qsort(seconds, RUNS, sizeof seconds[0], by_value);
    double best = work / seconds[0] * 1e-9, median = work / seconds[RUNS / 2] * 1e-9;
    printf("%-44s %10.1f us   best %7.1f  median %7.1f %s", name, seconds[RUNS / 2] * 1e6, best, median,
           unit);
    if (b->peak > 0 && strcmp(unit, "GFLOP/s") == 0) printf("  %3.0f %% of peak", 100 * best / b->peak);
    printf("\n");
    fflush(stdout);
}

/* ------------------------------------------------------------------------------------------------ peak */

#define UNROLL _Pragma("GCC unroll 12")

enum { PEAK_STEPS = 200000, PEAK_SUMS = 12 };

#ifdef __x86_64__

__attribute__((target("avx512f"), optimize("O3"))) static void peak_avx512(void *arguments, int task,
                                                                           void *scratch)
{
    __m512 sums[PEAK_SUMS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < PEAK_SUMS; i++) sums[i] = _mm512_set1_ps((float)i);
    for (int step = 0; step < PEAK_STEPS; step++)
        for (int i = 0; i < PEAK_SUMS; i++) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
    for (int i = 1; i < PEAK_SUMS; i++) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    _mm512_storeu_ps(scratch, sums[0]);
}

__attribute__((target("avx2,fma"), optimize("O3"))) static void peak_avx2(void *arguments, int task,
                                                                          void *scratch)
{
    __m256 sums[PEAK_SUMS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
    for (int i = 0; i < PEAK_SUMS; i++) sums[i] = _mm256_set1_ps((float)i);
    for (int step = 0; step < PEAK_STEPS; step++)
        for (int i = 0; i < PEAK_SUMS; i++) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
    for (int i = 1; i < PEAK_SUMS; i++) sums[0] = _mm256_add_ps(sums[0], sums[i]);
    _mm256_storeu_ps(scratch, sums[0]);
}

/* GFLOP/s of fused multiply-adds that touch no memory. */
static double measure_peak(const struct bench *b)
{
    bool wide = strcmp(b->ops->name, "cpu-avx512") == 0;
    if (strcmp(b->ops->name, "ref") == 0) return 0;
    int threads = team_threads(b->team), tasks = 16 * threads;
    double best = 0, flops = 2.0 * PEAK_STEPS * PEAK_SUMS * (wide ? 16 : 8) * tasks;
    for (int run = 0; run < RUNS; run++) {
        double begin = now_s(b);
        team_run(b->team, tasks, wide ? peak_avx512 : peak_avx2, NULL);
        best = fmax(best, flops / (now_s(b) - begin) * 1e-9);
    }
    return best;
}

#else

static double measure_peak(const struct bench *b)
{
    return 0;
}

#endif

/* --------------------------------------------------------------------------------------------- the ops */

static void nothing(void *arguments, int task, void *scratch) {}

static void call_team(void *arguments)
{
    struct team *team = arguments;
    team_run(team, team_threads(team), nothing, NULL);
}

struct linear_call {
    const struct bench *b;
    struct linear *linear;
    float *x, *y;
    int rows, n, k;
    enum epilogue_kind kind;
};

static void call_linear(void *arguments)
{
    struct linear_call *c = arguments;
    struct epilogue e = {.kind = c->kind};
    c->b->ops->linear(c->b->team, c->linear, c->x, c->k, c->rows, &e, c->y, c->n);
}

static void bench_linear(const struct bench *b, int rows, int n, int k, dtype_t dtype,
                         enum epilogue_kind kind)
{
    static const char *const types[] = {"f32", "bf16", "f16"};
    char name[80];
    snprintf(name, sizeof name, "linear %dx%dx%d %s%s", rows, k, n, types[dtype],
             kind == EPILOGUE_GELU ? " gelu" : "");
    if (b->only && !strstr(name, b->only)) return;
    float *w = filled((int64_t)n * k);
    struct linear_call c = {b, NULL, filled((int64_t)rows * k), filled((int64_t)rows * n), rows, n, k, kind};
    if (b->ops->linear_create(&(struct matrix){w, dtype, n, k}, NULL, &c.linear, NULL) == STATUS_OK) {
        if (rows < 4)
            measure(b, name, (double)n * k * (double)dtype_bytes(dtype), "GB/s", call_linear, &c);
        else
            measure(b, name, 2.0 * rows * n * k, "GFLOP/s", call_linear, &c);
    }
    b->ops->linear_destroy(c.linear);
    free(w), free(c.x), free(c.y);
}

struct attention_call {
    const struct bench *b;
    struct attention a;
};

static void call_attention(void *arguments)
{
    struct attention_call *c = arguments;
    c->b->ops->attention(c->b->team, &c->a);
}

static void bench_attention(const struct bench *b, int heads, int q_rows, int kv_rows, int head_dim)
{
    char name[80];
    snprintf(name, sizeof name, "attention %d heads, %dx%d, %d", heads, q_rows, kv_rows, head_dim);
    if (b->only && !strstr(name, b->only)) return;
    int width = heads * head_dim;
    float *q = filled((int64_t)q_rows * width), *k = filled((int64_t)kv_rows * width);
    float *v = filled((int64_t)kv_rows * width), *out = filled((int64_t)q_rows * width);
    struct attention_call c = {b,
                               {.q = q,
                                .k = k,
                                .v = v,
                                .out = out,
                                .q_stride = width,
                                .k_stride = width,
                                .v_stride = width,
                                .out_stride = width,
                                .q_rows = q_rows,
                                .kv_rows = kv_rows,
                                .heads = heads,
                                .head_dim = head_dim,
                                .scale = 1 / sqrtf((float)head_dim)}};
    measure(b, name, 4.0 * heads * q_rows * kv_rows * head_dim, "GFLOP/s", call_attention, &c);
    free(q), free(k), free(v), free(out);
}

struct conv_call {
    const struct bench *b;
    struct conv *conv;
    struct volume x, y;
    const float *gamma;
};

static void call_conv(void *arguments)
{
    struct conv_call *c = arguments;
    c->b->ops->conv(c->b->team, c->conv, &c->x, NULL, &c->y);
}

static struct volume packed_volume(int frames, int height, int width, int channels)
{
    struct volume v = {NULL,
                       frames,
                       height,
                       width,
                       channels,
                       (int64_t)height * width * channels,
                       (int64_t)width * channels,
                       channels};
    v.data = filled(v.stride_t * frames);
    return v;
}

/* 3x3x3 over [frames, size, size], or 3x3 after doubling [frames, size/2, size/2]. */
static void bench_conv(const struct bench *b, int in, int out, int frames, int size, bool upsample2)
{
    char name[80];
    snprintf(name, sizeof name, "conv %s %d->%d on %dx%dx%d", upsample2 ? "doubled 3x3" : "3x3x3", in, out,
             frames, size, size);
    if (b->only && !strstr(name, b->only)) return;
    int taps = upsample2 ? 9 : 27, padded = (upsample2 ? size / 2 : size) + 2;
    float *w = filled((int64_t)in * out * taps);
    struct conv_shape shape = {out, in, taps / 9, 3, 3, 1, 1, 1, upsample2};
    struct conv_call c = {.b = b,
                          .x = packed_volume(frames + taps / 9 - 1, padded, padded, in),
                          .y = packed_volume(frames, size, size, out)};
    if (b->ops->conv_create(&shape, &(struct matrix){w, DTYPE_F32, out, in * taps}, NULL, &c.conv, NULL) ==
        STATUS_OK)
        measure(b, name, 2.0 * taps * in * out * frames * size * size, "GFLOP/s", call_conv, &c);
    b->ops->conv_destroy(c.conv);
    free(w), free(c.x.data), free(c.y.data);
}

static void call_channel_norm(void *arguments)
{
    struct conv_call *c = arguments;
    c->b->ops->channel_norm(c->b->team, &c->x, c->gamma, true, &c->y);
}

static void bench_channel_norm(const struct bench *b, int channels, int size)
{
    char name[80];
    snprintf(name, sizeof name, "channel_norm+silu %d on 4x%dx%d", channels, size, size);
    if (b->only && !strstr(name, b->only)) return;
    float *gamma = filled(channels);
    struct conv_call c = {.b = b,
                          .x = packed_volume(4, size, size, channels),
                          .y = packed_volume(4, size, size, channels),
                          .gamma = gamma};
    measure(b, name, 8.0 * 4 * size * size * channels, "GB/s", call_channel_norm, &c);
    free(gamma), free(c.x.data), free(c.y.data);
}

struct rows_call {
    const struct bench *b;
    float *x, *y, *weights, *angles;
    int rows, heads, head_dim;
};

static void call_layer_norm(void *arguments)
{
    struct rows_call *c = arguments;
    int width = c->heads * c->head_dim;
    c->b->ops->layer_norm(c->b->team, c->x, width, c->rows, width, 1e-6f, 1, c->weights, c->weights, c->y,
                          width, DTYPE_F32);
}

static void call_rope(void *arguments)
{
    struct rows_call *c = arguments;
    c->b->ops->rms_norm_rope(c->b->team, c->y, c->heads * c->head_dim, c->rows, c->heads, c->head_dim, 1e-6f,
                             c->weights, c->angles, c->angles, DTYPE_F32);
}

static void call_lincomb(void *arguments)
{
    struct rows_call *c = arguments;
    c->b->ops->lincomb(c->b->team, 2, (float[]){0.5f, 0.5f}, (const float *[]){c->x, c->y},
                       (int64_t)c->rows * c->heads * c->head_dim, c->y);
}

static void bench_rows(const struct bench *b, int rows, int heads, int head_dim)
{
    int width = heads * head_dim;
    double bytes = 4.0 * rows * width;
    char name[80];
    struct rows_call c = {b,
                          filled((int64_t)rows * width),
                          filled((int64_t)rows * width),
                          filled(width),
                          filled((int64_t)rows * head_dim),
                          rows,
                          heads,
                          head_dim};
    snprintf(name, sizeof name, "layer_norm %dx%d", rows, width);
    measure(b, name, 2 * bytes, "GB/s", call_layer_norm, &c);
    snprintf(name, sizeof name, "rms_norm_rope %dx%d", rows, width);
    measure(b, name, 2 * bytes, "GB/s", call_rope, &c);
    snprintf(name, sizeof name, "lincomb 2 x %d", rows * width);
    measure(b, name, 3 * bytes, "GB/s", call_lincomb, &c);
    free(c.x), free(c.y), free(c.weights), free(c.angles);
}

static void bench_all(const struct bench *b)
{
    measure(b, "team_run of empty tasks", 0, "", call_team, b->team);
    static const int linears[][3] = {{80, 1024, 256},    {80, 256, 1024},    {80, 256, 256},
                                     {1280, 1536, 1536}, {1280, 8960, 1536}, {1280, 1536, 8960}};
    for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++)
        bench_linear(b, linears[i][0], linears[i][1], linears[i][2], DTYPE_F32, EPILOGUE_NONE);
    bench_linear(b, 80, 1024, 256, DTYPE_F32, EPILOGUE_GELU);
    bench_linear(b, 1280, 8960, 1536, DTYPE_BF16, EPILOGUE_GELU);
    for (int dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++)
        bench_linear(b, 1, 9216, 1536, (dtype_t)dtype, EPILOGUE_NONE);
    bench_attention(b, 4, 80, 80, 64);
    bench_attention(b, 12, 1280, 1280, 128);
    bench_attention(b, 12, 1280, 513, 128);
    static const int convs[][4] = {{16, 16, 4, 64}, {32, 32, 4, 32}, {64, 64, 4, 32},   {64, 64, 1, 8},
                                   {96, 96, 4, 32}, {96, 96, 4, 64}, {384, 384, 2, 32}, {96, 3, 4, 64}};
    for (size_t i = 0; i < sizeof convs / sizeof convs[0]; i++)
        bench_conv(b, convs[i][0], convs[i][1], convs[i][2], convs[i][3], false);
    bench_conv(b, 32, 16, 4, 64, true);
    bench_conv(b, 192, 96, 4, 64, true);
    bench_channel_norm(b, 16, 64);
    bench_channel_norm(b, 96, 64);
    bench_rows(b, 80, 4, 64);
    bench_rows(b, 1280, 12, 128);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'}, {"backend", required_argument, NULL, 'b'},
        {"only", required_argument, NULL, 'o'},    {"seconds", required_argument, NULL, 's'},
        {"cpu-time", no_argument, NULL, 'c'},      {NULL, 0, NULL, 0}};
    struct bench b = {.ops = ops_find("auto"), .seconds = 0.5};
    int threads = 1;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 't') threads = atoi(optarg);
        if (option == 'b') b.ops = ops_find(optarg);
        if (option == 'o') b.only = optarg;
        if (option == 'c') b.cpu_time = true;
        if (option == 's') b.seconds = atof(optarg);
        if (option == '?' || !b.ops) {
            fprintf(
                stderr,
                "usage: bench_ops [--threads N] [--backend NAME] [--only TEXT] [--seconds S] [--cpu-time]\n");
            return 2;
        }
    }
    struct error error;
    if (team_create(threads, &b.team, &error) != STATUS_OK) {
        fprintf(stderr, "bench_ops: %s\n", error.text);
        return 2;
    }
    b.peak = measure_peak(&b);
    printf("%s, %d threads, peak %.1f GFLOP/s\n", b.ops->name, threads, b.peak);
    bench_all(&b);
    team_destroy(b.team);
    return 0;
}
