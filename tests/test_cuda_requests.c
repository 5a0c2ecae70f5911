/*
 * test_cuda_requests.c - whole requests on GPUs that are not there: coordinator, ranks under mpirun and client as real
 * processes, the plug-in over the stand-ins for CUDA's libraries and NCCL (docs/gpu.md). What comes out is what the
 * processor makes, within bf16; the same bits on any number of GPUs and over either fabric; and a GPU or a rank that
 * fails changes nothing.
 *
 * The plug-in is the emulated one; with REFRAIN_TEST_CUDA=all also the one that nvcc made, where `make CUDA=1` did. With
 * REFRAIN_TEST_GPU=N (`make test-gpu`) it is the latter, on N real GPUs of this machine, of which two are used at most.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/golden.h"
#include "tests/service_jobs.h"

#define TINY "--prompt 'a red star' --seed 3 --width 32 --height 32 --frames 5 --guidance 2 "
#define BOUND                                                                                                \
    3e-2 /* relative L2 of latents: bf16 has 8 bits, four steps and guidance add up to a few of its steps */

/* Of this machine, for the tests; 0: there are none but stand-ins. */
static int real_gpus(void)
{
    const char *wanted = getenv("REFRAIN_TEST_GPU");
    return wanted ? atoi(wanted) : 0;
}

/* The environment of a machine with so many GPUs; 0: of one without CUDA. Of real ones it is there. */
static void set_gpus(const char *plugins, int gpus)
{
    char program[PATH_BYTES], path[2 * PATH_BYTES], number[16];
    setenv("REFRAIN_BACKEND", gpus ? "cuda" : "cpu-avx2", 1);
    if (real_gpus()) return;
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0);
    program[length] = 0;
    const char *build = dirname(dirname(program));
    snprintf(path, sizeof path, "%s/%s", build, plugins);
    setenv("REFRAIN_PLUGINS", path, 1);
    snprintf(path, sizeof path, "%s/fakegpu", build);
    setenv("LD_LIBRARY_PATH", path, 1);
    snprintf(path, sizeof path, "%s/fakegpu/libkernels.so", build);
    setenv("REFRAIN_FAKEGPU_KERNELS", path, 1);
    setenv("REFRAIN_FAKENCCL_OUTSTANDING", "2", 1);
    snprintf(number, sizeof number, "%d", gpus);
    setenv("REFRAIN_FAKEGPU_DEVICES", number, 1);
    setenv("REFRAIN_GPU_LOCKS", stand_directory, 1); /* these GPUs are nobody else's */
}

static void generate_by(const char *model, const char *name, const char *words)
{
    shell_run(stand_text,
              "refrain generate --model tests/models/%s " TINY
              "%s --output %s/%s.mp4 --save-latents %s/%s.safetensors",
              model, words, stand_directory, name, stand_directory, name);
}

static void generate(const char *name, const char *words)
{
    generate_by("tiny-a", name, words);
}

static double distance(const char *a, const char *b)
{
    char path[2 * PATH_BYTES];
    int64_t count, others;
    snprintf(path, sizeof path, "%s/%s.safetensors", stand_directory, a);
    struct golden *first = golden_open_path(path);
    snprintf(path, sizeof path, "%s/%s.safetensors", stand_directory, b);
    struct golden *second = golden_open_path(path);
    const float *x = golden_f32(first, "latents", &count), *y = golden_f32(second, "latents", &others);
    assert_int_equal(count, others);
    double found = golden_relative_l2(x, y, count);
    golden_close(first);
    golden_close(second);
    return found;
}

/* ---------------------------------------------------------------------------------------------------- requests */

/* A plan by the number of the step: verdicts do not hang on the last bit. */
static const char *const policies[] = {"", "--cache interval:N=2,forecast=taylor1",
                                       "--cache layers:every=2,begin=0,end=1"};
enum { POLICIES = sizeof policies / sizeof *policies };

static void check_requests(const char *plugins, int gpus)
{
    static const char *const stands[] = {"--ranks 1", "--ranks 2 --fabric zmq", "--ranks 2 --fabric nccl"};
    char words[256], name[32], one[32], processor[32];
    for (int policy = 0; policy < POLICIES; policy++) {
        snprintf(processor, sizeof processor, "processor%d", policy);
        set_gpus(plugins, 0);
        snprintf(words, sizeof words, "--steps 4 %s", policies[policy]);
        generate(processor, words);
        for (int stand = 0; stand < (gpus > 1 ? 3 : 1); stand++) {
            set_gpus(plugins, gpus);
            setenv("REFRAIN_GPU_RECORD", stand % 2 ? "always" : "auto",
                   1); /* recorded or not: the same bits */
            snprintf(words, sizeof words, "--steps 4 %s %s", policies[policy], stands[stand]);
            snprintf(name, sizeof name, "gpu%d-%d", policy, stand);
            snprintf(one, sizeof one, "gpu%d-0", policy);
            generate(name, words);
            unsetenv("REFRAIN_GPU_RECORD");
            double found = distance(name, processor);
            if (!(found > 0 && found < BOUND))
                fail_msg("%s %s: differs by %g from the processor", plugins, words, found);
            if (!latents_are_equal(name, one)) fail_msg("%s %s: other bits than on one GPU", plugins, words);
        }
    }
}

static void requests_equal_the_processors_within_bf16_and_each_other_bit_by_bit(void **state)
{
    check_requests("emulated", 2);
}

/* The plug-in that nvcc made, where there is one and it is to be tested. */
static void need_nvcc(void)
{
    const char *wanted = getenv("REFRAIN_TEST_CUDA");
    set_gpus(".", 2);
    if (!wanted || strcmp(wanted, "all") != 0 ||
        shell(stand_text, "refrain-worker --version | grep -q ' cuda$'") != 0)
        skip();
}

static void so_they_do_with_the_plugin_that_nvcc_made(void **state)
{
    need_nvcc();
    check_requests(".", 2);
}

/* Where it is demanded, not to use it is an error; its stand-in sums in another order than our kernel, so the bits tell. */
static void so_they_do_with_attention_by_cudnn(void **state)
{
    need_nvcc();
    setenv("REFRAIN_ATTENTION", "own", 1);
    generate_by("tiny-b", "own", "--steps 3 --ranks 1");
    setenv("REFRAIN_ATTENTION", "cudnn", 1);
    generate_by("tiny-b", "cudnn", "--steps 3 --ranks 1");
    setenv("REFRAIN_GPU_RECORD", "always", 1);
    generate_by("tiny-b", "cudnn-two", "--steps 3 --ranks 2 --fabric nccl");
    unsetenv("REFRAIN_GPU_RECORD");
    unsetenv("REFRAIN_ATTENTION");
    double found = distance("own", "cudnn");
    if (!(found > 0 && found < BOUND)) fail_msg("differs by %g from our own attention", found);
    assert_true(latents_are_equal("cudnn", "cudnn-two"));
}

static void requests_on_real_gpus_equal_the_processors_within_bf16(void **state)
{
    check_requests("the machine's", real_gpus() > 1 ? 2 : 1);
}

/* ---------------------------------------------------------------------------------------------------- failures */

static void undisturbed(const char *name)
{
    struct stand s;
    set_gpus("emulated", 2);
    stand_start(&s, name, 2, "--threads 1 --fabric nccl");
    shell_run(stand_text, "refrain models add ref tests/models/tiny-a");
    stand_make(name, TINY "--steps 30");
    stand_stop(&s);
}

static void a_killed_rank_is_replaced_and_the_bits_stay(void **state)
{
    struct stand s;
    if (real_gpus() == 1) skip(); /* each of two ranks needs its own */
    undisturbed("calm");
    stand_start(&s, "killed", 2, "--threads 1 --fabric nccl");
    shell_run(stand_text, "refrain models add ref tests/models/tiny-a");
    pid_t client = stand_begin("killed", TINY "--steps 30");
    int job = stand_begun("killed");
    stand_wait_step(job, 5);
    assert_int_equal(kill(stand_last_rank(), SIGKILL), 0);
    program_wait(client, 60);
    json_t *told = stand_job(job);
    assert_string_equal(string_at(told, "state"), "completed");
    json_decref(told);
    assert_true(latents_are_equal("killed", "calm"));
    stand_stop(&s);
}

/* part_bytes: REFRAIN_PART_BYTES, or NULL. */
static void make_wide(const char *model, const char *name, const char *fabric, const char *part_bytes)
{
    struct stand s;
    char options[64];
    set_gpus("emulated", 2);
    if (part_bytes) setenv("REFRAIN_PART_BYTES", part_bytes, 1);
    snprintf(options, sizeof options, "--threads 1 --stage-width 2 --fabric %s", fabric);
    stand_start(&s, name, 2, options);
    unsetenv("REFRAIN_PART_BYTES");
    shell_run(stand_text, "refrain models add ref tests/models/%s", model);
    stand_make(name, TINY "--steps 4");
    shell_run(stand_text, "refrain ranks");
    assert_true(stand_says("2 ranks in stages of 2"));
    stand_stop(&s);
}

/* Rows for heads between two GPUs, from memory to memory and through the hosts: matrix products of other shapes may round
 * otherwise than one GPU's, so within bf16 of the processor's; but the same whatever carries the parts. With one head each, and with
 * two, whose parts are cut or not. */
static void a_stage_of_two_gpus_equals_the_processor_within_bf16(void **state)
{
    static const struct {
        const char *model, *name, *fabric, *part_bytes, *like;
    } rows[] = {{"tiny-a", "a-nccl", "nccl", NULL, "a-nccl"},
                {"tiny-a", "a-zmq", "zmq", NULL, "a-nccl"},
                {"tiny-c", "c-nccl", "nccl", NULL, "c-nccl"},
                {"tiny-c", "c-cut", "nccl", "1", "c-nccl"},
                {"tiny-c", "c-zmq", "zmq", "1", "c-nccl"}};
    if (real_gpus() == 1) skip();
    set_gpus("emulated", 0);
    generate_by("tiny-a", "tiny-a", "--steps 4");
    generate_by("tiny-c", "tiny-c", "--steps 4");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        make_wide(rows[i].model, rows[i].name, rows[i].fabric, rows[i].part_bytes);
        double found = distance(rows[i].name, rows[i].model);
        if (!(found > 0 && found < BOUND)) fail_msg("%s: differs by %g", rows[i].name, found);
        if (!latents_are_equal(rows[i].name, rows[i].like))
            fail_msg("%s: other bits than %s", rows[i].name, rows[i].like);
    }
}

/* The second rank's GPU fails in its 400th kernel, and so does each that takes its place: the job gets further every
 * time, and is done at last. */
static void a_gpu_that_fails_costs_its_rank_and_not_the_job(void **state)
{
    struct stand s;
    undisturbed("sound");
    setenv("REFRAIN_FAKEGPU_FAIL", "1/kernel:400", 1);
    stand_start(&s, "failing", 2, "--threads 1 --fabric nccl");
    shell_run(stand_text, "refrain models add ref tests/models/tiny-a");
    stand_make("failing", TINY "--steps 30");
    unsetenv("REFRAIN_FAKEGPU_FAIL");
    assert_true(latents_are_equal("failing", "sound"));
    shell_run(stand_text, "refrain ranks --json");
    assert_null(strstr(stand_text, "\"epoch\": 1,"));
    stand_stop(&s);
}

static void too_little_memory_is_a_sentence_before_anything_is_computed(void **state)
{
    set_gpus("emulated", 1);
    setenv("REFRAIN_FAKEGPU_MEMORY_MB", "162", 1);
    int code =
        shell(stand_text,
              "refrain generate --model models/reference " SMALL "--steps 2 --ranks 1 --output %s/x.mp4",
              stand_directory);
    unsetenv("REFRAIN_FAKEGPU_MEMORY_MB");
    assert_int_not_equal(code, 0);
    if (!stand_says("do not fit 1 rank with") || !stand_says("add ranks")) fail_msg("%s", stand_text);
    expect_nothing_left();
}

/* The ranks are there, and say what memory they have: nothing is stored of what they could never make. */
static void a_job_that_no_gpu_has_room_for_is_refused_at_submission(void **state)
{
    struct stand s;
    set_gpus("emulated", 1);
    setenv("REFRAIN_FAKEGPU_MEMORY_MB", "700", 1);
    stand_start(&s, "narrow-memory", 1, "--threads 1");
    unsetenv("REFRAIN_FAKEGPU_MEMORY_MB");
    for (int i = 0; i < 100 && (shell(stand_text, "refrain ranks") || !stand_says("idle")); i++) usleep(100000);
    shell_run(stand_text, "refrain models add ref models/reference");
    assert_int_not_equal(
        shell(stand_text, "refrain submit --model ref --prompt x --width 2048 --height 2048 --frames 81"), 0);
    if (!stand_says("2048x2048x81 takes") || !stand_says("GB at home") || !stand_says("of 0.7 GB a rank"))
        fail_msg("%s", stand_text);
    shell_run(stand_text, "refrain list --json");
    assert_false(stand_says("2048"));
    shell_run(stand_text, "refrain submit --wait --quiet --model ref --steps 2 --width 32 --height 32 --frames 5 "
                          "--prompt x");
    stand_stop(&s);
}

static void gpus_of_two_kinds_are_not_one_group(void **state)
{
    struct stand s;
    set_gpus("emulated", 2);
    setenv("REFRAIN_FAKEGPU_CAPABILITY", "9.0,8.0", 1);
    stand_start(&s, "mixed", 2, "--threads 1");
    for (int i = 0; i < 100 && shell(stand_text, "grep -q 'start a group for each kind' %s.log", s.data) != 0;
         i++)
        usleep(100000);
    unsetenv("REFRAIN_FAKEGPU_CAPABILITY");
    shell_run(stand_text, "grep 'start a group for each kind' %s.log", s.data);
    assert_true(stand_says("sm_90") && stand_says("sm_80"));
    stand_stop(&s);
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_equal_the_processors_within_bf16_and_each_other_bit_by_bit),
        cmocka_unit_test(so_they_do_with_the_plugin_that_nvcc_made),
        cmocka_unit_test(so_they_do_with_attention_by_cudnn),
        cmocka_unit_test(a_killed_rank_is_replaced_and_the_bits_stay),
        cmocka_unit_test(a_stage_of_two_gpus_equals_the_processor_within_bf16),
        cmocka_unit_test(a_gpu_that_fails_costs_its_rank_and_not_the_job),
        cmocka_unit_test(too_little_memory_is_a_sentence_before_anything_is_computed),
        cmocka_unit_test(a_job_that_no_gpu_has_room_for_is_refused_at_submission),
        cmocka_unit_test(gpus_of_two_kinds_are_not_one_group),
    };
    const struct CMUnitTest on_real_gpus[] = {
        cmocka_unit_test(requests_on_real_gpus_equal_the_processors_within_bf16),
        cmocka_unit_test(a_killed_rank_is_replaced_and_the_bits_stay),
        cmocka_unit_test(a_stage_of_two_gpus_equals_the_processor_within_bf16),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    if (real_gpus()) return cmocka_run_group_tests(on_real_gpus, stand_set_up, stand_tear_down);
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
