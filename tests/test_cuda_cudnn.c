/*
 * test_cuda_cudnn.c - attention by cuDNN over the stand-in for it (tests/fakegpu/cudnn): our description of attention is
 * complete and means attention, in our strides; every way in which cuDNN can be missing or refuse ends with our own kernel
 * or with a sentence; and the stand-in holds its rules. It proves nothing about the real library (docs/gpu.md).
 *
 * Failures are seen in processes of their own, this program called as `test_cuda_cudnn attend`.
 */
#include <dlfcn.h>
#include <libgen.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/cudnn_plan.h"
#include "kernels/plugin.h"
#include "kernels/team.h"
#include "tests/gpu/array.h"
#include "tests/outcome.h"
#include "tests/trial.h"

extern const struct gpu_plugin refrain_gpu;
#define OPS           (refrain_gpu.ops)
#define CUDNN_LIBRARY "libcudnn-emulated.so.9"

static const double bound = 3e-3; /* test_cuda_attention.c: weights and results rounded to bf16 */

static char self[512];

/* Found by its name from then on. */
static void load_stand_in(void)
{
    char path[640], folder[sizeof self];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) abort();
    self[length] = 0;
    memcpy(folder, self, sizeof folder);
    snprintf(path, sizeof path, "%s/../emulated/libcudnn-emulated.so.9", dirname(folder));
    if (!getenv("REFRAIN_TEST_NO_CUDNN") && !dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
}

/* --------------------------------------------------------------------------------------------------------- settings */

struct problem {
    int q_rows, kv_rows, heads, head_dim;
    dtype_t dtype;
    int gap, shift; /* elements between rows, and by which arrays miss alignment */
    float last_logit;
    bool bias;
};

struct setting {
    struct array q, k, v, out, want;
    float *host_bias, *bias;
    struct attention a;
};

static struct setting setting_new(struct problem p)
{
    int width = p.heads * p.head_dim, distances = p.heads * (p.q_rows + p.kv_rows - 1);
    struct array q = {p.q_rows, width, p.shift, width + p.gap, p.dtype, NULL, NULL}, kv = q;
    kv.rows = p.kv_rows;
    struct array v = kv;
    v.stride += 16; /* so that no two of them can be confused */
    struct setting s = {.q = array_random(q, 1, 21),
                        .k = array_random(kv, 1, 22),
                        .v = array_random(v, 1, 23),
                        .out = array_empty(q),
                        .want = array_empty((struct array){.rows = p.q_rows, .width = width})};
    if (p.bias) {
        s.host_bias = random_floats(distances, 2, 24);
        s.bias = gpu_copy(s.host_bias, (size_t)distances * sizeof(float));
    }
    s.a = (struct attention){.q = array_at(&s.q),
                             .k = array_at(&s.k),
                             .v = array_at(&s.v),
                             .out = array_at(&s.out),
                             .dtype = p.dtype,
                             .q_stride = s.q.stride,
                             .k_stride = s.k.stride,
                             .v_stride = s.v.stride,
                             .out_stride = s.out.stride,
                             .q_rows = p.q_rows,
                             .kv_rows = p.kv_rows,
                             .heads = p.heads,
                             .head_dim = p.head_dim,
                             .scale = 1 / sqrtf((float)p.head_dim),
                             .last_logit = p.last_logit,
                             .bias = s.bias};
    struct attention a = s.a;
    a.dtype = DTYPE_F32;
    a.q = s.q.host, a.k = s.k.host, a.v = s.v.host, a.out = s.want.host, a.bias = s.host_bias;
    a.q_stride = a.k_stride = a.v_stride = a.out_stride = width;
    ops_find("ref")->attention(trial_team(0), &a);
    gpu_wait(); /* filling memory is work of another stream than the team's */
    return s;
}

static void setting_free(struct setting *s)
{
    array_free(&s->q), array_free(&s->k), array_free(&s->v), array_free(&s->out), array_free(&s->want);
    free(s->host_bias);
    if (s->bias) gpu_free(s->bias);
}

static struct team *open_team(void)
{
    struct team *team;
    struct error error;
    assert_int_equal(team_create(1, &team, &error), STATUS_OK);
    if (OPS->open(team, &error) != STATUS_OK) fail_msg("%s", error.text);
    return team;
}

static void close_team(struct team *team)
{
    OPS->close(team);
    team_destroy(team);
}

static struct cudnn_choices choices_of(struct team *team)
{
    return cudnn_choices(((const struct lane *)team_device(team))->cudnn);
}

static void wait_for(struct team *team)
{
    struct error error;
    if (OPS->wait(team, &error) != STATUS_OK) fail_msg("%s", error.text);
}

/* Right, whoever computed it. */
static void check(struct team *team, struct problem p)
{
    struct setting s = setting_new(p);
    OPS->attention(team, &s.a);
    wait_for(team);
    array_download(&s.out);
    double error = array_error(&s.out, &s.want);
    if (!(error <= bound))
        fail_msg("%dx%d, %d heads of %d: error %g", p.q_rows, p.kv_rows, p.heads, p.head_dim, error);
    setting_free(&s);
}

/* ------------------------------------------------------------------------------------------------------------ cuDNN */

static void attention_by_cudnn_is_that_of_ref_in_our_strides(void **state)
{
    static const struct problem problems[] = {{1, 1, 1, 8, DTYPE_BF16, 0, 0, 0, false},
                                              {3, 70, 2, 16, DTYPE_BF16, 24, 0, 0, false},
                                              {65, 33, 3, 64, DTYPE_BF16, 0, 8, 0, false},
                                              {40, 130, 2, 128, DTYPE_BF16, 512, 0, 0, false},
                                              {128, 128, 1, 96, DTYPE_BF16, 8, 0, 0, false}};
    enum { PROBLEMS = sizeof problems / sizeof *problems };
    struct team *team = open_team();
    for (int i = 0; i < PROBLEMS; i++) {
        check(team, problems[i]);
        assert_int_equal(choices_of(team).planned, i + 1);
    }
    for (int i = 0; i < PROBLEMS; i++) check(team, problems[i]); /* from the plans kept */
    assert_int_equal(choices_of(team).planned, PROBLEMS);
    assert_int_equal(choices_of(team).refused, 0);
    assert_int_equal(choices_of(team).version, 91900);
    close_team(team);
}

/* q, k and v of one projection: three parts of each row. */
static void parts_of_one_array_are_read_where_they_are(void **state)
{
    enum { ROWS = 37, HEADS = 2, HEAD = 64, WIDTH = HEADS * HEAD };
    struct array all =
        array_random((struct array){.rows = ROWS, .width = 3 * WIDTH, .dtype = DTYPE_BF16}, 1, 5);
    struct array out = array_empty((struct array){.rows = ROWS, .width = WIDTH, .dtype = DTYPE_BF16}),
                 want = array_empty((struct array){.rows = ROWS, .width = WIDTH});
    struct team *team = open_team();
    gpu_wait();
    struct attention a = {.q = array_at(&all),
                          .k = (char *)array_at(&all) + WIDTH * 2,
                          .v = (char *)array_at(&all) + 2 * WIDTH * 2,
                          .out = array_at(&out),
                          .dtype = DTYPE_BF16,
                          .q_stride = all.stride,
                          .k_stride = all.stride,
                          .v_stride = all.stride,
                          .out_stride = out.stride,
                          .q_rows = ROWS,
                          .kv_rows = ROWS,
                          .heads = HEADS,
                          .head_dim = HEAD,
                          .scale = 0.3f};
    OPS->attention(team, &a);
    wait_for(team);
    array_download(&out);
    assert_int_equal(choices_of(team).planned, 1);
    a.dtype = DTYPE_F32;
    a.q = all.host, a.k = all.host + WIDTH, a.v = all.host + 2 * WIDTH, a.out = want.host;
    a.q_stride = a.k_stride = a.v_stride = 3 * WIDTH, a.out_stride = WIDTH;
    ops_find("ref")->attention(trial_team(0), &a);
    assert_true(array_error(&out, &want) <= bound);
    close_team(team);
    array_free(&all), array_free(&out), array_free(&want);
}

static void what_does_not_suit_is_computed_by_our_own_kernel(void **state)
{
    static const struct problem problems[] = {
        {5, 9, 2, 64, DTYPE_F32, 0, 0, 0, false},  {5, 9, 2, 64, DTYPE_BF16, 0, 0, 2.5f, false},
        {5, 9, 2, 64, DTYPE_BF16, 0, 0, 0, true},  {5, 9, 1, 256, DTYPE_BF16, 0, 0, 0, false},
        {5, 9, 2, 20, DTYPE_BF16, 0, 0, 0, false}, {5, 9, 2, 64, DTYPE_BF16, 4, 0, 0, false},
        {5, 9, 2, 64, DTYPE_BF16, 0, 1, 0, false}};
    struct team *team = open_team();
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) check(team, problems[i]);
    assert_int_equal(choices_of(team).planned + choices_of(team).refused, 0);
    close_team(team);
}

static void engines_that_repeat_nothing_or_want_too_much_are_passed_over(void **state)
{
    struct cudnn_library library;
    struct cudnn_plan *plan;
    struct error error;
    cudnnHandle_t handle;
    const struct attention_shape shape = {128, 128, 128, 128, 10, 12, 2, 64};
    assert_int_equal(cudnn_library_load(CUDNN_LIBRARY, &library, &error), STATUS_OK);
    assert_int_equal(library.create(&handle), CUDNN_STATUS_SUCCESS);
    const struct cudnn_target target = {.handle = handle};
    assert_int_equal(cudnn_plan_make(&library, &target, &shape, 1 << 20, &plan, &error), STATUS_OK);
    assert_int_equal(cudnn_plan_choice(plan).engine, 8); /* 11 is nondeterministic, 9 wants 1 TB */
    assert_int_equal(cudnn_plan_choice(plan).workspace_bytes, 4096);
    cudnn_plan_destroy(&library, plan);
    assert_int_equal(cudnn_plan_make(&library, &target, &shape, 4095, &plan, &error), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, "no deterministic engine"));
    library.destroy(handle);
}

static void choices_are_told_whatever_their_order(void **state)
{
    static const struct problem first = {5, 9, 2, 64, DTYPE_BF16, 0, 0, 0, false},
                                second = {6, 9, 2, 64, DTYPE_BF16, 0, 0, 0, false},
                                third = {6, 9, 2, 64, DTYPE_BF16, 8, 0, 0, false};
    const struct problem orders[3][2] = {{first, second}, {second, first}, {first, third}};
    uint64_t fingerprint[3];
    for (int i = 0; i < 3; i++) {
        struct team *team = open_team();
        check(team, orders[i][0]), check(team, orders[i][1]);
        fingerprint[i] = choices_of(team).fingerprint;
        close_team(team);
    }
    assert_true(fingerprint[0] == fingerprint[1]);
    assert_true(fingerprint[0] != fingerprint[2]);
}

static void a_shape_may_occur_first_while_ops_are_recorded(void **state)
{
    struct team *team = open_team();
    struct setting s = setting_new((struct problem){11, 13, 2, 64, DTYPE_BF16, 0, 0, 0, false});
    struct stretch *stretch;
    struct error error;
    wait_for(team);
    assert_int_equal(OPS->record(team, &error), STATUS_OK);
    OPS->attention(team, &s.a);
    if (OPS->recorded(team, &stretch, &error) != STATUS_OK) fail_msg("%s", error.text);
    assert_int_equal(choices_of(team).planned, 1);
    OPS->replay(team, stretch);
    wait_for(team);
    array_download(&s.out);
    assert_true(array_error(&s.out, &s.want) <= bound);
    OPS->forget(stretch);
    close_team(team);
    setting_free(&s);
}

/* --------------------------------------------------------------------------------------------------------- failures */

/* Two attentions of one shape, on two teams each; says what came of them. */
static int attend(void)
{
    struct error error;
    void *state = NULL;
    if (trial_make_teams(&state) != 0) return 2; /* it opens the backend too */
    for (int turn = 0; turn < 2; turn++) {
        struct team *team;
        if (team_create(1, &team, &error) != STATUS_OK || OPS->open(team, &error) != STATUS_OK) {
            printf("failed: %s\n", error.text);
            return 2;
        }
        struct setting s = setting_new((struct problem){5, 9, 2, 64, DTYPE_BF16, 0, 0, 0, false});
        OPS->attention(team, &s.a);
        OPS->attention(team, &s.a);
        if (OPS->wait(team, &error) != STATUS_OK) {
            printf("failed: %s\n", error.text);
            return 2;
        }
        array_download(&s.out);
        struct cudnn_choices choices = choices_of(team);
        printf("%s, %d planned, %d refused\n", array_error(&s.out, &s.want) <= bound ? "right" : "wrong",
               choices.planned, choices.refused);
        fflush(stdout);
        close_team(team);
        setting_free(&s);
    }
    return 0;
}

static int count_of(const char *text, const char *word)
{
    int count = 0;
    for (const char *at = strstr(text, word); at; at = strstr(at + 1, word)) count++;
    return count;
}

enum { SAID = 4 };

static void all_said(const struct outcome *o, const char *const *said)
{
    for (int i = 0; i < SAID && said[i]; i++)
        if (!outcome_says(o, said[i])) fail_msg("not said: %s\nbut: %s", said[i], o->text);
}

/* Where cuDNN is not demanded, our own kernel computes, rightly, and the reason is told `lines` times. */
static void falls_back(const char *const environment[], int lines, const char *const said[SAID])
{
    struct outcome o = outcome_of((const char *[]){self, "attend", NULL}, environment);
    all_said(&o, said);
    if (o.status != 0 || count_of(o.text, "right, ") != 2 || count_of(o.text, "our own kernel") != lines)
        fail_msg("%s", o.text);
    outcome_free(&o);
}

static void fails(const char *const environment[], const char *const said[SAID])
{
    struct outcome o = outcome_of((const char *[]){self, "attend", NULL}, environment);
    all_said(&o, said);
    if (o.status != 2 || count_of(o.text, "our own kernel") > 0) fail_msg("%s", o.text);
    outcome_free(&o);
}

#define ENVIRONMENT(...) ((const char *const[]){__VA_ARGS__, NULL})
#define SAYS(...)        ((const char *const[SAID]){__VA_ARGS__})

static void without_cudnn_our_own_kernel_computes_and_the_log_says_so_once(void **state)
{
    falls_back(ENVIRONMENT("REFRAIN_TEST_NO_CUDNN=1"), 1,
               SAYS("cuDNN cannot be loaded: ", "0 planned, 0 refused"));
    falls_back(ENVIRONMENT("REFRAIN_FAKEGPU_CUDNN=version=91300"), 1,
               SAYS("cuDNN 9.13.0 is installed, 9.13.1 is the oldest"));
    falls_back(ENVIRONMENT("REFRAIN_FAKEGPU_CUDNN=no-handle"), 1,
               SAYS("cuDNN refused to start: CUDNN_STATUS_NOT_INITIALIZED: cudnnCreate: there is no device"));
}

static void a_shape_that_cudnn_refuses_is_ours_and_the_log_says_so_once_a_team(void **state)
{
    falls_back(ENVIRONMENT("REFRAIN_FAKEGPU_CUDNN=no-attention"), 2,
               SAYS("attention of 5 rows to 9, 2 heads of 64 is computed by our own kernel",
                    "cuDNN refused attention of these sizes: CUDNN_STATUS_NOT_SUPPORTED", "1 refused"));
    falls_back(ENVIRONMENT("REFRAIN_FAKEGPU_CUDNN=no-engine"), 2,
               SAYS("cuDNN has no deterministic engine for it", "0 planned, 1 refused"));
    falls_back(ENVIRONMENT("REFRAIN_FAKEGPU_CUDNN=no-plan"), 2,
               SAYS("cuDNN refused a plan of the best engine: CUDNN_STATUS_NOT_SUPPORTED", "1 refused"));
}

static void where_cudnn_is_demanded_what_keeps_it_away_is_an_error(void **state)
{
    const char *const demanded = "REFRAIN_ATTENTION=cudnn";
    fails(ENVIRONMENT(demanded, "REFRAIN_TEST_NO_CUDNN=1"),
          SAYS("failed: attention: cuDNN cannot be loaded: ", "(REFRAIN_ATTENTION=cudnn)"));
    fails(ENVIRONMENT(demanded, "REFRAIN_FAKEGPU_CUDNN=version=90800"),
          SAYS("failed: attention: cuDNN 9.8.0 is installed"));
    fails(ENVIRONMENT(demanded, "REFRAIN_FAKEGPU_CUDNN=no-handle"),
          SAYS("failed: attention: cuDNN refused to start"));
    fails(ENVIRONMENT(demanded, "REFRAIN_FAKEGPU_CUDNN=no-plan"),
          SAYS("failed: attention of 5 rows to 9, 2 heads of 64: cuDNN refused a plan of the best engine"));
}

static void execution_that_fails_is_an_error(void **state)
{
    fails(ENVIRONMENT("REFRAIN_FAKEGPU_CUDNN=no-execution"),
          SAYS("failed: attention: cuDNN refused to run attention: CUDNN_STATUS_EXECUTION_FAILED",
               "this rank has to be started again"));
    fails(ENVIRONMENT("REFRAIN_FAKEGPU_FAIL=library:1=719"), SAYS("failed: attention"));
}

static void the_environment_chooses(void **state)
{
    falls_back(ENVIRONMENT("REFRAIN_LOG=debug"), 0,
               SAYS("engine 8 of cuDNN 9.19.0, 4096 bytes of workspace", "right, 1 planned, 0 refused"));
    falls_back(ENVIRONMENT("REFRAIN_ATTENTION=own"), 0, SAYS("right, 0 planned, 0 refused"));
    falls_back(ENVIRONMENT("REFRAIN_ATTENTION=auto"), 0, SAYS("right, 1 planned, 0 refused"));
    falls_back(ENVIRONMENT("REFRAIN_FAKEGPU_CAPABILITY=8.0"), 0, SAYS("right, 0 planned, 0 refused"));
    falls_back(ENVIRONMENT("REFRAIN_FAKEGPU_CAPABILITY=8.0", "REFRAIN_ATTENTION=cudnn"), 0,
               SAYS("right, 1 planned, 0 refused"));
    fails(ENVIRONMENT("REFRAIN_ATTENTION=fast"), SAYS("REFRAIN_ATTENTION=fast: must be own, cudnn or auto"));
}

/* ----------------------------------------------------------------------------------------------------- the stand-in */

static cudnnBackendDescriptor_t create(const struct cudnn_library *c, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t made;
    assert_int_equal(c->descriptor_create(type, &made), CUDNN_STATUS_SUCCESS);
    return made;
}

/* Attributes of a tensor [1, 1, 4, 64], without the one of that place. */
static cudnnBackendDescriptor_t tensor_without(const struct cudnn_library *c, int missing, int64_t id)
{
    static const int64_t sizes[] = {1, 1, 4, 64}, strides[] = {256, 64, 64, 1}, alignment = 16;
    const cudnnDataType_t type = CUDNN_DATA_BFLOAT16;
    const struct {
        cudnnBackendAttributeName_t name;
        cudnnBackendAttributeType_t type;
        int64_t count;
        const void *elements;
    } attributes[] = {{CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id},
                      {CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type},
                      {CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment},
                      {CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, sizes},
                      {CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides}};
    cudnnBackendDescriptor_t tensor = create(c, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    for (int i = 0; i < 5; i++)
        if (i != missing)
            assert_int_equal(c->set(tensor, attributes[i].name, attributes[i].type, attributes[i].count,
                                    attributes[i].elements),
                             CUDNN_STATUS_SUCCESS);
    return tensor;
}

static void the_stand_in_refuses_what_is_incomplete_or_of_another_type(void **state)
{
    struct cudnn_library c;
    struct error error;
    const int64_t number = 1;
    int64_t count, read;
    assert_int_equal(cudnn_library_load(CUDNN_LIBRARY, &c, &error), STATUS_OK);
    for (int missing = 0; missing < 5; missing++)
        assert_int_equal(c.finalize(tensor_without(&c, missing, 1)), CUDNN_STATUS_BAD_PARAM);
    cudnnBackendDescriptor_t tensor = tensor_without(&c, -1, 1);
    assert_int_equal(c.set(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_INT64, 1, &number),
                     CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
    assert_int_equal(c.set(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 3, &number),
                     CUDNN_STATUS_BAD_PARAM);
    assert_int_equal(c.set(tensor, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &number),
                     CUDNN_STATUS_BAD_PARAM);
    assert_int_equal(c.get(tensor, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count, &read),
                     CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
    cudnnBackendDescriptor_t operation = create(&c, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    assert_int_equal(
        c.set(operation, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &tensor),
        CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
    assert_int_equal(c.finalize(tensor), CUDNN_STATUS_SUCCESS);
    assert_int_equal(c.set(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &number),
                     CUDNN_STATUS_BAD_PARAM);
    assert_int_equal(c.finalize(operation), CUDNN_STATUS_BAD_PARAM); /* no q */
}

static void the_stand_in_refuses_two_tensors_of_one_number_and_destroyed_ones(void **state)
{
    static const cudnnBackendAttributeName_t names[] = {
        CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
        CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC};
    static const struct {
        int64_t ids[4];
        int destroyed;
        cudnnStatus_t want;
    } cases[] = {{{1, 2, 3, 4}, -1, CUDNN_STATUS_SUCCESS},
                 {{1, 2, 3, 1}, -1, CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES},
                 {{1, 2, 3, 4}, 2, CUDNN_STATUS_BAD_PARAM}};
    struct cudnn_library c;
    struct error error;
    assert_int_equal(cudnn_library_load(CUDNN_LIBRARY, &c, &error), STATUS_OK);
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        cudnnBackendDescriptor_t operation = create(&c, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
        for (int i = 0; i < 4; i++) {
            cudnnBackendDescriptor_t tensor = tensor_without(&c, -1, cases[n].ids[i]);
            assert_int_equal(c.finalize(tensor), CUDNN_STATUS_SUCCESS);
            assert_int_equal(c.set(operation, names[i], CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &tensor),
                             CUDNN_STATUS_SUCCESS);
            if (i == cases[n].destroyed) c.descriptor_destroy(tensor);
        }
        assert_int_equal(c.finalize(operation), cases[n].want);
    }
}

/* The product's plan, executed wrongly: each is told, and nothing runs. */
static void the_stand_in_refuses_pointers_that_are_misaligned_outside_or_missing(void **state)
{
    struct cudnn_library c;
    struct cudnn_plan *plan;
    struct error error;
    cudnnHandle_t handle;
    cudaStream_t stream;
    struct setting s = setting_new((struct problem){5, 9, 2, 64, DTYPE_BF16, 0, 0, 0, false});
    const struct attention_shape shape = {128, 128, 144, 128, 5, 9, 2, 64};
    char *workspace = gpu_bytes(4096);
    assert_int_equal(cudnn_library_load(CUDNN_LIBRARY, &c, &error), STATUS_OK);
    assert_int_equal(c.create(&handle), CUDNN_STATUS_SUCCESS);
    const struct cudnn_target target = {.handle = handle};
    assert_int_equal(cudnn_plan_make(&c, &target, &shape, 4096, &plan, &error), STATUS_OK);
    assert_int_equal(cudnn_plan_run(&c, handle, plan, &s.a, workspace, &error), STATUS_IO);
    assert_non_null(strstr(error.text, "without a stream"));
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(c.set_stream(handle, stream), CUDNN_STATUS_SUCCESS);
    assert_int_equal(cudnn_plan_run(&c, handle, plan, &s.a, workspace, &error), STATUS_OK);
    assert_int_equal(cudnn_plan_run(&c, handle, plan, &s.a, workspace + 1, &error), STATUS_IO);
    assert_non_null(strstr(error.text, "the workspace does not have"));
    struct attention wrong = s.a;
    wrong.k = (const char *)s.a.k + 2;
    assert_int_equal(cudnn_plan_run(&c, handle, plan, &wrong, workspace, &error), STATUS_IO);
    assert_non_null(strstr(error.text, "is not aligned to 16 bytes"));
    wrong.k = (const char *)s.a.k + 4096;
    assert_int_equal(cudnn_plan_run(&c, handle, plan, &wrong, workspace, &error), STATUS_IO);
    assert_non_null(strstr(error.text, "leaves its memory"));
    wrong.k = NULL;
    assert_int_equal(cudnn_plan_run(&c, handle, plan, &wrong, workspace, &error), STATUS_IO);
    assert_non_null(strstr(error.text, "is not bound"));
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    cudnn_plan_destroy(&c, plan);
    c.destroy(handle);
    cudaStreamDestroy(stream);
    gpu_free(workspace);
    setting_free(&s);
}

int main(int count, char **arguments)
{
    load_stand_in();
    if (count == 2 && strcmp(arguments[1], "attend") == 0) return attend();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_by_cudnn_is_that_of_ref_in_our_strides),
        cmocka_unit_test(parts_of_one_array_are_read_where_they_are),
        cmocka_unit_test(what_does_not_suit_is_computed_by_our_own_kernel),
        cmocka_unit_test(engines_that_repeat_nothing_or_want_too_much_are_passed_over),
        cmocka_unit_test(choices_are_told_whatever_their_order),
        cmocka_unit_test(a_shape_may_occur_first_while_ops_are_recorded),
        cmocka_unit_test(without_cudnn_our_own_kernel_computes_and_the_log_says_so_once),
        cmocka_unit_test(a_shape_that_cudnn_refuses_is_ours_and_the_log_says_so_once_a_team),
        cmocka_unit_test(where_cudnn_is_demanded_what_keeps_it_away_is_an_error),
        cmocka_unit_test(execution_that_fails_is_an_error),
        cmocka_unit_test(the_environment_chooses),
        cmocka_unit_test(the_stand_in_refuses_what_is_incomplete_or_of_another_type),
        cmocka_unit_test(the_stand_in_refuses_two_tensors_of_one_number_and_destroyed_ones),
        cmocka_unit_test(the_stand_in_refuses_pointers_that_are_misaligned_outside_or_missing)};
    return cmocka_run_group_tests(tests, trial_make_teams, trial_drop_teams);
}
