/*
 * test_cuda_device.c - the cuda backend beside its arithmetic (test_ops.c): memory and copies, recorded stretches, plans of
 * dense layers, what is told when something fails, and that nothing hangs then. Emulated; each failure is a process of
 * its own, told by its environment what is to fail (tests/fakegpu).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "kernels/cuda/device.h"
#include "kernels/cuda/lane.h"
#include "kernels/cuda/linear.h"
#include "kernels/plugin.h"
#include "tests/rerun.h"
#include "tests/trial.h"

extern const struct gpu_plugin refrain_gpu;

#define OPS  (refrain_gpu.ops)
#define TEAM (trial_team(0))

static void *allocate(enum memory kind, size_t bytes)
{
    struct error error;
    void *memory = NULL;
    if (OPS->allocate(kind, bytes, &memory, &error) != STATUS_OK) fail_msg("%s", error.text);
    return memory;
}

static void await_ops(void)
{
    struct error error;
    if (OPS->wait(TEAM, &error) != STATUS_OK) fail_msg("%s", error.text);
}

/* --------------------------------------------------------------------------------------------- memory and copies */

static void memory_is_zeroed_and_aligned_and_the_shared_kind_is_the_hosts_too(void **state)
{
    enum { BYTES = 100003 };
    for (int kind = MEMORY_DEVICE; kind <= MEMORY_SHARED; kind++) {
        unsigned char *memory = allocate((enum memory)kind, BYTES), *seen = malloc(BYTES);
        assert_non_null(seen);
        assert_int_equal((uintptr_t)memory % 256, 0);
        memset(seen, 1, BYTES);
        OPS->copy(TEAM, seen, memory, BYTES);
        await_ops();
        for (int i = 0; i < BYTES; i++) assert_int_equal(seen[i], 0);
        if (kind == MEMORY_SHARED) {
            memset(memory, 7, BYTES);
            OPS->zero(TEAM, memory + 1, BYTES - 2);
            await_ops();
            for (int i = 0; i < BYTES; i++) assert_int_equal(memory[i], i == 0 || i == BYTES - 1 ? 7 : 0);
        }
        free(seen);
        OPS->release((enum memory)kind, memory);
    }
    OPS->release(MEMORY_DEVICE, NULL);
}

/* The host's own memory goes through staging buffers of 2 MB, four of them: smaller, larger, and more than fit. */
static void copies_between_any_two_kinds_of_memory_arrive_whole_and_in_order(void **state)
{
    static const size_t sizes[] = {1, 4097, 2 << 20, (2 << 20) + 1, 11 << 20};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t bytes = sizes[s];
        unsigned char *from = malloc(bytes), *to = malloc(bytes);
        assert_true(from && to);
        char *device = allocate(MEMORY_DEVICE, bytes), *shared = allocate(MEMORY_SHARED, bytes),
             *other = allocate(MEMORY_DEVICE, bytes);
        for (size_t i = 0; i < bytes; i++) from[i] = (unsigned char)(i * 7 + i / 251);
        OPS->copy(TEAM, device, from, bytes);
        OPS->copy(TEAM, shared, device, bytes);
        OPS->copy(TEAM, other, shared, bytes);
        OPS->zero(TEAM, device, bytes); /* later than the copy from it */
        OPS->copy(TEAM, to, other, bytes);
        await_ops();
        assert_memory_equal(to, from, bytes);
        assert_memory_equal(shared, from, bytes);
        OPS->release(MEMORY_DEVICE, device), OPS->release(MEMORY_SHARED, shared),
            OPS->release(MEMORY_DEVICE, other);
        free(from), free(to);
    }
}

static void copied_rows_leave_the_gaps_between_them_alone(void **state)
{
    static const struct {
        size_t row, to_stride, from_stride;
        int rows;
    } cases[] = {{5, 7, 9, 100},
                 {40, 40, 40, 33},
                 {3000, 3001, 4000, 2000},
                 {(2 << 20) + 5, (2 << 20) + 9, (2 << 20) + 7, 3},
                 {8, 16, 8, 1},
                 {8, 8, 8, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t row = cases[c].row, rows = (size_t)cases[c].rows, to_bytes = rows * cases[c].to_stride + 1,
               from_bytes = rows * cases[c].from_stride + 1;
        unsigned char *from = malloc(from_bytes), *to = malloc(to_bytes), *back = malloc(from_bytes);
        assert_true(from && to && back);
        for (size_t i = 0; i < from_bytes; i++) from[i] = (unsigned char)(i * 13 + 1), back[i] = 0xee;
        memset(to, 0xee, to_bytes);
        char *device = allocate(MEMORY_DEVICE, to_bytes), *second = allocate(MEMORY_DEVICE, to_bytes);
        OPS->copy(TEAM, device, to, to_bytes);
        OPS->copy_rows(TEAM, device, cases[c].to_stride, from, cases[c].from_stride, row, cases[c].rows);
        OPS->copy(TEAM, to, device, to_bytes);
        OPS->copy_rows(TEAM, second, cases[c].to_stride, device, cases[c].to_stride, row, cases[c].rows);
        OPS->copy_rows(TEAM, back, cases[c].from_stride, second, cases[c].to_stride, row, cases[c].rows);
        await_ops();
        for (size_t i = 0; i < to_bytes; i++) {
            size_t at = i / cases[c].to_stride, column = i % cases[c].to_stride;
            unsigned char want = at < rows && column < row ? from[at * cases[c].from_stride + column] : 0xee;
            if (to[i] != want) fail_msg("case %zu: byte %zu", c, i);
        }
        for (size_t i = 0; i < from_bytes; i++)
            if (back[i] !=
                (i / cases[c].from_stride < rows && i % cases[c].from_stride < row ? from[i] : 0xee))
                fail_msg("case %zu, back: byte %zu", c, i);
        OPS->release(MEMORY_DEVICE, device), OPS->release(MEMORY_DEVICE, second);
        free(from), free(to), free(back);
    }
}

/* ---------------------------------------------------------------------------------------------------- other ops */

static void patches_are_cut_and_joined_as_ref_does(void **state)
{
    static const struct patching cases[] = {
        {16, 3, 4, 5, 1, 2, 2}, {3, 2, 3, 4, 2, 1, 3}, {1, 1, 1, 1, 1, 1, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const struct patching *p = &cases[c];
        int64_t width = p->channels * p->patch_t * p->patch_y * p->patch_x,
                count = width * p->frames * p->height * p->width;
        size_t bytes = (size_t)count * sizeof(float);
        float *latent = random_floats(count, 1, 5), *want = malloc(bytes), *got = malloc(bytes);
        assert_true(want && got);
        const struct ops *ref = ops_find("ref");
        for (int join = 0; join < 2; join++) {
            const float *from = trial_floats(OPS, TEAM, latent, count);
            float *to = trial_results(OPS, TEAM, got, bytes);
            if (join) {
                ref->join_patches(TEAM, p, latent, want);
                OPS->join_patches(TEAM, p, from, to);
            } else {
                ref->cut_patches(TEAM, p, latent, want, DTYPE_F32);
                OPS->cut_patches(TEAM, p, from, to, DTYPE_F32);
            }
            trial_fetch(OPS, TEAM, to, got, bytes);
            assert_memory_equal(got, want, bytes);
        }
        free(latent), free(want), free(got);
    }
}

/* Through the table; the kernels themselves: test_cuda_conv.c. */
static void a_convolution_and_a_channel_norm_reach_their_kernels(void **state)
{
    enum { IN = 5, OUT = 3, H = 4, W = 6, TAPS = 27 };
    struct conv_shape shape = {OUT, IN, 3, 3, 3, 1, 1, 1, false};
    struct volume x = {NULL, 3, H + 2, W + 2, IN, (H + 2) * (W + 2) * IN, (W + 2) * IN, IN};
    struct volume y = {NULL, 1, H, W, OUT, H * W * OUT, W * OUT, OUT};
    float *w = random_floats(OUT * IN * TAPS, 0.5f, 1), *bias = random_floats(OUT, 1, 2),
          *pixels = random_floats(3 * x.stride_t, 1, 3), *gamma = random_floats(OUT, 1, 4);
    struct matrix weight = {w, DTYPE_F32, OUT, IN * TAPS}, biases = {bias, DTYPE_F32, OUT, 1};
    float results[2][H * W * OUT];
    const struct ops *both[2] = {ops_find("ref"), OPS};
    for (int i = 0; i < 2; i++) {
        struct conv *conv = NULL;
        struct error error;
        if (both[i]->conv_create(&shape, &weight, &biases, &conv, &error) != STATUS_OK)
            fail_msg("%s", error.text);
        assert_true(both[i]->conv_bytes(conv) >= OUT * IN * TAPS * 4);
        x.data = (float *)(uintptr_t)trial_floats(both[i], TEAM, pixels, 3 * x.stride_t);
        y.data = trial_results(both[i], TEAM, results[i], sizeof results[i]);
        both[i]->conv(TEAM, conv, &x, NULL, &y);
        both[i]->channel_norm(TEAM, &y, trial_floats(both[i], TEAM, gamma, OUT), true, &y);
        trial_fetch(both[i], TEAM, y.data, results[i], sizeof results[i]);
        both[i]->conv_destroy(conv);
    }
    for (int i = 0; i < H * W * OUT; i++) assert_true(fabsf(results[0][i] - results[1][i]) < 5e-3f);
    free(w), free(bias), free(pixels), free(gamma);
    struct error error;
    struct conv *conv = NULL;
    shape.kernel_x = 9;
    assert_int_equal(OPS->conv_create(&shape, &weight, &biases, &conv, &error), STATUS_UNSUPPORTED);
}

/* ---------------------------------------------------------------------------------------------- plans and stretches */

static struct linear *make_linear(int n, int k)
{
    struct error error;
    struct linear *linear = NULL;
    float *w = random_floats((int64_t)n * k, 1, 1);
    struct matrix weight = {w, DTYPE_F32, n, k};
    if (OPS->linear_create(&weight, NULL, &linear, &error) != STATUS_OK) fail_msg("%s", error.text);
    free(w);
    return linear;
}

static void a_shape_is_asked_for_once_and_chosen_alike_whatever_the_order(void **state)
{
    enum { N = 24, K = 16, ROWS = 40 };
    struct linear *linear = make_linear(N, K);
    void *x = allocate(MEMORY_DEVICE, ROWS * K * 2), *y = allocate(MEMORY_DEVICE, ROWS * N * 2);
    struct linear_choices choices[2];
    struct team *teams[2] = {trial_team(1), trial_team(2)};
    struct epilogue e = {.x_dtype = DTYPE_BF16, .y_dtype = DTYPE_BF16};
    for (int t = 0; t < 2; t++) {
        const struct lane *lane = team_device(teams[t]);
        struct linear_choices before = linear_plans_choices(lane->plans);
        assert_int_equal(before.shapes, 0);
        for (int i = 0; i < 6; i++) {
            int rows = (t ? i % 3 : 2 - i % 3) * 8 + 8; /* three shapes, twice */
            OPS->linear(teams[t], linear, x, K, rows, &e, y, N);
        }
        assert_int_equal(OPS->wait(teams[t], NULL), STATUS_OK);
        choices[t] = linear_plans_choices(lane->plans);
        assert_int_equal(choices[t].shapes, 3);
        assert_int_equal(choices[t].asked, 3);
    }
    assert_true(choices[0].fingerprint == choices[1].fingerprint);
    e.kind = EPILOGUE_GELU;
    OPS->linear(teams[1], linear, x, K, 8, &e, y, N);
    assert_int_equal(OPS->wait(teams[1], NULL), STATUS_OK);
    assert_true(linear_plans_choices(((const struct lane *)team_device(teams[1]))->plans).fingerprint !=
                choices[0].fingerprint);
    OPS->linear_destroy(linear);
    OPS->release(MEMORY_DEVICE, x), OPS->release(MEMORY_DEVICE, y);
}

/* A stretch of ops as a block has them: norm, dense layer, norm with rotation, attention, gated residual. */
struct block {
    int rows;
    struct linear *up, *down;
    float *x, *scale, *gate, *angles;
    void *norm, *wide, *mixed;
};

enum { HIDDEN = 32, WIDE = 3 * HIDDEN, BLOCK_ROWS = 12 };

static void run_block(const struct block *b)
{
    struct epilogue plain = {.x_dtype = DTYPE_BF16, .y_dtype = DTYPE_BF16};
    struct epilogue gated = {.kind = EPILOGUE_GATE_ADD,
                             .other = b->x,
                             .other_stride = HIDDEN,
                             .gate = b->gate,
                             .x_dtype = DTYPE_BF16};
    OPS->layer_norm(TEAM, b->x, HIDDEN, b->rows, HIDDEN, 1e-6f, 1, b->scale, NULL, b->norm, HIDDEN,
                    DTYPE_BF16);
    OPS->linear(TEAM, b->up, b->norm, HIDDEN, b->rows, &plain, b->wide, WIDE);
    OPS->rms_norm_rope(TEAM, b->wide, WIDE, b->rows, 2, HIDDEN / 2, 1e-6f, b->scale, b->angles, b->angles,
                       DTYPE_BF16);
    OPS->attention(TEAM, &(struct attention){.q = b->wide,
                                             .k = (char *)b->wide + 2 * HIDDEN,
                                             .v = (char *)b->wide + 4 * HIDDEN,
                                             .out = b->mixed,
                                             .dtype = DTYPE_BF16,
                                             .q_stride = WIDE,
                                             .k_stride = WIDE,
                                             .v_stride = WIDE,
                                             .out_stride = HIDDEN,
                                             .q_rows = b->rows,
                                             .kv_rows = b->rows,
                                             .heads = 2,
                                             .head_dim = HIDDEN / 2,
                                             .scale = 0.25f});
    OPS->linear(TEAM, b->down, b->mixed, HIDDEN, b->rows, &gated, b->x, HIDDEN);
    OPS->lincomb(TEAM, 2, (const float[]){1, 0.5f}, (const float *const[]){b->x, b->x}, b->rows * HIDDEN,
                 b->x);
    OPS->zero(TEAM, b->mixed, 16);
}

static void *placed(int count, uint64_t seed)
{
    float *host = random_floats(count, 1, seed);
    void *memory = allocate(MEMORY_DEVICE, (size_t)count * sizeof *host);
    OPS->copy(TEAM, memory, host, (size_t)count * sizeof *host);
    await_ops();
    free(host);
    return memory;
}

static void a_recorded_stretch_computes_what_its_ops_do_and_as_often_as_it_is_replayed(void **state)
{
    enum { COUNT = BLOCK_ROWS * HIDDEN, TIMES = 3 };
    struct block b = {
        .rows = BLOCK_ROWS, .up = make_linear(WIDE, HIDDEN), .down = make_linear(HIDDEN, HIDDEN)};
    b.x = placed(COUNT, 1), b.scale = placed(HIDDEN, 2), b.gate = placed(HIDDEN, 3),
    b.angles = placed(COUNT, 4);
    b.norm = allocate(MEMORY_DEVICE, COUNT * 2), b.mixed = allocate(MEMORY_DEVICE, COUNT * 2);
    b.wide = allocate(MEMORY_DEVICE, (size_t)BLOCK_ROWS * WIDE * 2);
    float *start = random_floats(COUNT, 1, 1), called[COUNT], replayed[COUNT], untouched[COUNT];
    struct stretch *stretch = NULL;
    struct error error;
    for (int i = 0; i < TIMES; i++) run_block(&b);
    OPS->copy(TEAM, called, b.x, sizeof called);
    OPS->copy(TEAM, b.x, start, sizeof called);
    await_ops();

    if (OPS->record(TEAM, &error) != STATUS_OK) fail_msg("%s", error.text);
    run_block(&b);
    assert_int_equal(OPS->wait(TEAM, &error), STATUS_CONFLICT);
    assert_int_equal(OPS->record(TEAM, &error), STATUS_CONFLICT);
    if (OPS->recorded(TEAM, &stretch, &error) != STATUS_OK) fail_msg("%s", error.text);
    OPS->copy(TEAM, untouched, b.x, sizeof untouched);
    await_ops();
    assert_memory_equal(untouched, start, sizeof untouched); /* recording runs nothing */

    for (int i = 0; i < TIMES; i++) OPS->replay(TEAM, stretch);
    OPS->copy(TEAM, replayed, b.x, sizeof replayed);
    await_ops();
    assert_memory_equal(replayed, called, sizeof called);
    OPS->forget(stretch);
    OPS->forget(NULL);
    assert_int_equal(OPS->recorded(TEAM, &stretch, &error), STATUS_CONFLICT);
    OPS->linear_destroy(b.up), OPS->linear_destroy(b.down);
    void *all[] = {b.x, b.scale, b.gate, b.angles, b.norm, b.mixed, b.wide};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) OPS->release(MEMORY_DEVICE, all[i]);
    free(start);
}

/* --------------------------------------------------------------------------------------------------------- failures */

/* What a rank does, until something fails; prints how. In a process of its own. */
static int live(const char *what)
{
    enum { N = 24, K = 16, ROWS = 600 };
    struct team *team;
    struct linear *linear = NULL;
    struct error error = {0}, again = {0};
    void *x, *y, *shared;
    float w[N * K] = {1}, host[ROWS * K] = {1};
    struct matrix weight = {w, DTYPE_F32, N, K};
    if (team_create(1, &team, &error) != STATUS_OK) return 1;
    status_t status = OPS->open(team, &error);
    if (status == STATUS_OK) status = OPS->linear_create(&weight, NULL, &linear, &error);
    if (status == STATUS_OK) status = OPS->allocate(MEMORY_DEVICE, sizeof host, &x, &error);
    if (status == STATUS_OK) status = OPS->allocate(MEMORY_DEVICE, ROWS * N * 4, &y, &error);
    if (status == STATUS_OK) status = OPS->allocate(MEMORY_SHARED, 64, &shared, &error);
    if (status == STATUS_OK && strcmp(what, "much") == 0)
        status = OPS->allocate(MEMORY_DEVICE, (size_t)1 << 40, &shared, &error);
    if (status != STATUS_OK) goto out;
    if (strcmp(what, "record") == 0) status = OPS->record(team, &error);
    for (int i = 0; i < 3; i++) {
        OPS->copy(team, x, host, sizeof host);
        OPS->silu(team, x, ROWS * K, x);
        OPS->linear(team, linear, x, K, ROWS, &(struct epilogue){.kind = EPILOGUE_SILU}, y, N);
        OPS->copy(team, host, y, sizeof host);
    }
    if (strcmp(what, "record") == 0) {
        struct stretch *stretch = NULL;
        status = OPS->recorded(team, &stretch, &error);
        OPS->forget(stretch);
    } else {
        status = OPS->wait(team, &error);
    }
    if (status != STATUS_OK && strcmp(what, "record") == 0) { /* nothing was lost but the recording */
        OPS->silu(team, x, ROWS * K, x);
        puts(OPS->wait(team, &again) == STATUS_OK ? "the device goes on" : again.text);
    } else if (status != STATUS_OK) { /* it stays */
        OPS->silu(team, x, ROWS * K, x);
        if (OPS->wait(team, &again) != status || strcmp(again.text, error.text) != 0)
            puts("another sentence");
    }
    OPS->release(MEMORY_DEVICE, x);
    OPS->release(MEMORY_DEVICE, y);
    OPS->release(MEMORY_SHARED, shared);
out:
    printf("%s: %s\n", status_name(status), status == STATUS_OK ? "all went well" : error.text);
    OPS->linear_destroy(linear);
    OPS->close(team);
    team_destroy(team);
    return 0;
}

static void what_fails_is_told_by_the_next_wait_and_by_all_later_ones(void **state)
{
    static const struct {
        const char *setting, *says;
    } cases[] = {
        {"REFRAIN_GPU=0", "ok: all went well"},
        /* launches and calls that are refused name their op */
        {"REFRAIN_FAKEGPU_FAIL=cudaLaunchKernel:2=701", "silu: GPU 0 (stand-in GPU sm_90) failed:"},
        {"REFRAIN_FAKEGPU_FAIL=cudaLaunchKernel:3=701", "linear: GPU 0"},
        {"REFRAIN_FAKEGPU_FAIL=cudaMemcpy2DAsync:1+", "copy: GPU 0"},
        {"REFRAIN_FAKEGPU_FAIL=cudaEventRecord:3+", "failed:"},
        {"REFRAIN_FAKEGPU_FAIL=cublasLtMatmul:1", "linear: cuBLASLt refused a product of 600 rows, 16 to 24"},
        /* while it runs */
        {"REFRAIN_FAKEGPU_FAIL=kernel:1=700",
         ", or an op called before it: GPU 0 (stand-in GPU sm_90) failed: "},
        {"REFRAIN_FAKEGPU_FAIL=kernel:3=719", "(cudaErrorLaunchFailure); this rank has to be started again"},
        {"REFRAIN_FAKEGPU_FAIL=copy:4=214", "(cudaErrorECCUncorrectable)"},
        /* memory */
        {"REFRAIN_FAKEGPU_FAIL=cudaMalloc:1", "out of memory: GPU 0 (stand-in GPU sm_90) is out of memory: "},
        {"REFRAIN_FAKEGPU_FAIL=cudaMalloc:3", "use more ranks, a smaller video, or a larger GPU"},
        {"REFRAIN_FAKEGPU_FAIL=cudaHostAlloc:9", "pinned host memory cannot be allocated"},
        {"REFRAIN_FAKEGPU_FAIL=cudaStreamCreate:2", "opening: GPU 0"},
        {"REFRAIN_GPU_WORKSPACE_MB=none", "REFRAIN_GPU_WORKSPACE_MB=none: must be a number from 1 to 65536"},
    };
    char text[RERUN_TEXT];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        RERUN(text, "--live", "ordinary", cases[i].setting);
        if (!strstr(text, cases[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].setting, text, cases[i].says);
        if (strstr(text, "another sentence")) fail_msg("%s: \"%s\"", cases[i].setting, text);
        if (i > 0 && strstr(text, "ok:")) fail_msg("%s: \"%s\"", cases[i].setting, text);
    }
}

static void a_device_that_hangs_is_an_error_after_the_deadline(void **state)
{
    static const char *const settings[] = {"REFRAIN_FAKEGPU_FAIL=kernel:2=hang",
                                           "REFRAIN_FAKEGPU_FAIL=copy:4=hang"};
    char text[RERUN_TEXT];
    for (int i = 0; i < 2; i++) {
        RERUN(text, "--live", "ordinary", "REFRAIN_GPU_WAIT=1", settings[i]);
        SAYS(text, "deadline passed: the GPU has not finished within 1 s (REFRAIN_GPU_WAIT); the last op "
                   "called was ");
    }
}

static void too_much_memory_is_refused_and_host_memory_spoils_a_recording_and_nothing_else(void **state)
{
    char text[RERUN_TEXT];
    RERUN(text, "--live", "much", "REFRAIN_GPU=0");
    SAYS(text, "out of memory: GPU 0 (stand-in GPU sm_90) is out of memory: 1099511.6 MB needed, ");
    RERUN(text, "--live", "record", "REFRAIN_GPU=0");
    SAYS(text, "copy: the host's own memory cannot take part in recorded ops");
    SAYS(text, "the device goes on");
}

/* Pieces of rows, as a workspace that is small for the layer makes them, give what one piece does. */
static int pieces(const char *rows_text)
{
    enum { N = 1024, K = 64 };
    int rows = atoi(rows_text);
    struct team *team;
    struct linear *linear = NULL;
    struct error error;
    float *w = random_floats(N * K, 1, 1), *x = random_floats((int64_t)rows * K, 1, 2);
    struct matrix weight = {w, DTYPE_F32, N, K};
    double sum = 0;
    if (team_create(1, &team, &error) != STATUS_OK || OPS->open(team, &error) != STATUS_OK ||
        OPS->linear_create(&weight, NULL, &linear, &error) != STATUS_OK)
        return 1;
    float *y = malloc((size_t)rows * N * sizeof *y);
    void *to = NULL, *from = NULL;
    if (!y || OPS->allocate(MEMORY_DEVICE, (size_t)rows * N * 4, &to, &error) != STATUS_OK ||
        OPS->allocate(MEMORY_DEVICE, (size_t)rows * K * 4, &from, &error) != STATUS_OK)
        return 1;
    OPS->copy(team, from, x, (size_t)rows * K * 4);
    OPS->linear(team, linear, from, K, rows, &(struct epilogue){.kind = EPILOGUE_SILU}, to, N);
    OPS->copy(team, y, to, (size_t)rows * N * 4);
    if (OPS->wait(team, &error) != STATUS_OK) return puts(error.text) < 0;
    for (int64_t i = 0; i < (int64_t)rows * N; i++) sum += y[i] * (double)(i % 1013);
    printf("%d shapes, %.17g\n", linear_plans_choices(((struct lane *)team_device(team))->plans).shapes, sum);
    OPS->release(MEMORY_DEVICE, to), OPS->release(MEMORY_DEVICE, from);
    OPS->linear_destroy(linear);
    OPS->close(team);
    team_destroy(team);
    free(w), free(x), free(y);
    return 0;
}

static void a_layer_larger_than_the_workspace_is_computed_in_pieces(void **state)
{
    char whole[RERUN_TEXT], cut[RERUN_TEXT];
    RERUN(whole, "--pieces", "600", "REFRAIN_GPU=0");
    RERUN(cut, "--pieces", "600", "REFRAIN_GPU_WORKSPACE_MB=1");
    SAYS(whole, "1 shapes");
    SAYS(cut, "2 shapes"); /* the last piece is shorter */
    assert_string_equal(strchr(whole, ','), strchr(cut, ','));
    RERUN(whole, "--pieces", "6000", "REFRAIN_GPU=0");
    RERUN(cut, "--pieces", "6000", "REFRAIN_GPU_WORKSPACE_MB=2");
    SAYS(cut, "2 shapes");
    assert_string_equal(strchr(whole, ','), strchr(cut, ','));
}

int main(int argc, char **argv)
{
    rerun_program = argv[0];
    if (argc == 3) return strcmp(argv[1], "--live") == 0 ? live(argv[2]) : pieces(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_and_aligned_and_the_shared_kind_is_the_hosts_too),
        cmocka_unit_test(copies_between_any_two_kinds_of_memory_arrive_whole_and_in_order),
        cmocka_unit_test(copied_rows_leave_the_gaps_between_them_alone),
        cmocka_unit_test(patches_are_cut_and_joined_as_ref_does),
        cmocka_unit_test(a_convolution_and_a_channel_norm_reach_their_kernels),
        cmocka_unit_test(a_shape_is_asked_for_once_and_chosen_alike_whatever_the_order),
        cmocka_unit_test(a_recorded_stretch_computes_what_its_ops_do_and_as_often_as_it_is_replayed),
        cmocka_unit_test(what_fails_is_told_by_the_next_wait_and_by_all_later_ones),
        cmocka_unit_test(a_device_that_hangs_is_an_error_after_the_deadline),
        cmocka_unit_test(too_much_memory_is_refused_and_host_memory_spoils_a_recording_and_nothing_else),
        cmocka_unit_test(a_layer_larger_than_the_workspace_is_computed_in_pieces),
    };
    return cmocka_run_group_tests(tests, trial_make_teams, trial_drop_teams);
}
