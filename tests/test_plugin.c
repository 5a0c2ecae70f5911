/*
 * test_plugin.c - the GPU backend as programs find it: a shared object that is there or not, of this build or not, whose
 * libraries are there or not; and the sentences of machines without a usable GPU. The object is the emulated one
 * (docs/gpu.md).
 */
#include <setjmp.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>
#include <cmocka.h>
#include "kernels/ops.h"
#include "tests/rerun.h"

static char here[RERUN_TEXT]; /* REFRAIN_PLUGINS=the directory of the emulated plug-in */
static char locks[RERUN_TEXT], lock_directory[] = "/tmp/refrain-locks-XXXXXX";

/* The name of the backend that `name` gives, opened, or the sentence. */
static int print_choice(const char *name)
{
    struct error error;
    const struct ops *ops;
    struct team *team;
    if (ops_choose(name, &ops, &error) != STATUS_OK) return puts(error.text) < 0;
    if (team_create(1, &team, NULL) != STATUS_OK) return 1;
    puts(ops->open(team, &error) == STATUS_OK ? ops->name : error.text);
    ops->close(team);
    team_destroy(team);
    return 0;
}

static void a_usable_gpu_is_chosen_first_and_by_name(void **state)
{
    char text[RERUN_TEXT];
    RERUN(text, "--choose", "cuda", here, locks);
    assert_string_equal(text, "cuda\n");
    RERUN(text, "--choose", "auto", here, locks);
    assert_string_equal(text, "cuda\n");
    RERUN(text, "--choose", "ref", here);
    assert_string_equal(text, "ref\n");
}

static void without_a_plugin_the_sentence_says_how_it_is_made(void **state)
{
    char text[RERUN_TEXT];
    RERUN(text, "--choose", "cuda", "REFRAIN_PLUGINS=/nonexistent");
    SAYS(text, "built without CUDA");
    SAYS(text, "/nonexistent/refrain-cuda.so");
    SAYS(text, "make CUDA=1");
    RERUN(text, "--choose", "auto", "REFRAIN_PLUGINS=/nonexistent");
    assert_null(strstr(text, "cuda"));
    RERUN(text, "--choose", "cuda", "REFRAIN_PLUGINS="); /* looked for beside this program */
    SAYS(text, "tests/refrain-cuda.so");
}

static void run(const char *format, const char *directory)
{
    char command[RERUN_TEXT];
    snprintf(command, sizeof command, "cd %s && %s", directory, format);
    if (system(command) != 0) fail_msg("%s", command);
}

static void a_plugin_that_does_not_fit_is_refused_with_the_reason(void **state)
{
    char directory[] = "/tmp/refrain-plugin-XXXXXX", setting[RERUN_TEXT], text[RERUN_TEXT];
    assert_non_null(mkdtemp(directory));
    snprintf(setting, sizeof setting, "REFRAIN_PLUGINS=%s", directory);

    run("echo 'struct { const char *version; long bytes; } refrain_gpu = {\"0.0.0\", 8};' |"
        " cc -shared -fPIC -x c - -o refrain-cuda.so",
        directory);
    RERUN(text, "--choose", "cuda", setting);
    SAYS(text, "is of another build (0.0.0");
    SAYS(text, "make CUDA=1 again");

    run("echo 'int other;' | cc -shared -fPIC -x c - -o refrain-cuda.so", directory);
    RERUN(text, "--choose", "cuda", setting);
    SAYS(text, "no refrain_gpu");

    run("echo 'int it;' | cc -shared -fPIC -x c - -Wl,-soname,libcudart.so.99 -o libcudart.so.99 &&"
        " echo 'extern int it; int *refrain_gpu = &it;' | cc -shared -fPIC -x c - -x none ./libcudart.so.99 "
        "-o refrain-cuda.so &&"
        " rm libcudart.so.99",
        directory);
    RERUN(text, "--choose", "cuda", setting, "LD_LIBRARY_PATH=");
    SAYS(text, "needs libcudart.so.99");
    SAYS(text, "LD_LIBRARY_PATH");

    run("echo nonsense > refrain-cuda.so", directory);
    RERUN(text, "--choose", "cuda", setting);
    SAYS(text, "cannot be loaded");
    run("rm refrain-cuda.so", directory);
    rmdir(directory);
}

static void a_machine_without_a_usable_gpu_is_told_what_is_missing(void **state)
{
    static const struct {
        const char *setting, *says, *does;
    } cases[] = {
        {"REFRAIN_FAKEGPU_DRIVER=0", "no NVIDIA driver", "install one"},
        {"REFRAIN_FAKEGPU_DRIVER=12020", "driver is made for CUDA 12.2, older than this build's 13.0",
         "update the driver"},
        {"REFRAIN_FAKEGPU_RUNTIME=12080", "runtime found is 12.8, but the plug-in was built for 13.0",
         "libcudart.so.13"},
        {"REFRAIN_FAKEGPU_DEVICES=0", "no GPU is visible", "nvidia-smi"},
        {"CUDA_VISIBLE_DEVICES=", "no GPU is visible to this process (CUDA_VISIBLE_DEVICES=)", "nvidia-smi"},
        {"REFRAIN_FAKEGPU_CAPABILITY=7.5", "compute capability 7.5, and 8.0 is the oldest", "A100"},
    };
    char text[RERUN_TEXT];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        RERUN(text, "--choose", "cuda", here, locks, cases[i].setting);
        SAYS(text, cases[i].says);
        SAYS(text, cases[i].does);
        RERUN(text, "--choose", "auto", here, locks, cases[i].setting); /* goes on without */
        assert_null(strstr(text, "cuda"));
    }
}

static void a_gpu_that_cannot_be_opened_is_told_with_its_name(void **state)
{
    char text[RERUN_TEXT];
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_FAKEGPU_FAIL=cudaSetDevice:1=46");
    SAYS(text, "GPU 0 (stand-in GPU sm_90) is busy: another process holds it in exclusive mode");
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_FAKEGPU_MEMORY_MB=64");
    SAYS(text, "out of memory: 167.8 MB needed, ");
    SAYS(text, "of 67.1 MB free");
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_FAKEGPU_FAIL=cudaHostAlloc:1");
    SAYS(text, "pinned host memory cannot be allocated");
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_GPU=3");
    SAYS(text, "REFRAIN_GPU=3: must be a number from 0 to 0");
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_GPU_WAIT=soon");
    SAYS(text, "REFRAIN_GPU_WAIT=soon: must be a number");
}

/* A rank's GPU is the one of its local number, or the next that nobody holds: so that a rank that takes a lost one's
 * place gets what became free. */
static void ranks_of_a_host_do_not_share_a_gpu_unasked(void **state)
{
    char text[RERUN_TEXT], command[RERUN_TEXT], name[256], path[RERUN_TEXT];
    run("rm -f *", lock_directory);
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_FAKEGPU_DEVICES=2");
    assert_string_equal(text, "cuda\n");
    snprintf(command, sizeof command, "ls %s", lock_directory); /* one file: the first GPU's */
    FILE *list = popen(command, "r");
    assert_non_null(list);
    assert_int_equal(fscanf(list, "%255s", name), 1);
    assert_int_equal(fscanf(list, "%255s", command), EOF);
    pclose(list);
    snprintf(path, sizeof path, "%s/%s", lock_directory, name);
    int held = open(path, O_RDONLY);
    assert_int_equal(flock(held, LOCK_EX | LOCK_NB), 0);
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_FAKEGPU_DEVICES=1");
    SAYS(text, "all 1 GPUs of this host are held by other ranks");
    SAYS(text, "REFRAIN_GPU");
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_FAKEGPU_DEVICES=2");
    assert_string_equal(text, "cuda\n"); /* the second */
    RERUN(text, "--choose", "cuda", here, locks, "REFRAIN_FAKEGPU_DEVICES=1", "REFRAIN_GPU=0");
    assert_string_equal(text, "cuda\n"); /* asked for */
    close(held);
}

int main(int argc, char **argv)
{
    rerun_program = argv[0];
    if (argc == 3) return print_choice(argv[2]);
    const char *end = strstr(argv[0], "tests/test_plugin");
    snprintf(here, sizeof here, "REFRAIN_PLUGINS=%.*semulated", end ? (int)(end - argv[0]) : 0, argv[0]);
    if (!mkdtemp(lock_directory)) return 1;
    snprintf(locks, sizeof locks, "REFRAIN_GPU_LOCKS=%s", lock_directory);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_usable_gpu_is_chosen_first_and_by_name),
        cmocka_unit_test(without_a_plugin_the_sentence_says_how_it_is_made),
        cmocka_unit_test(a_plugin_that_does_not_fit_is_refused_with_the_reason),
        cmocka_unit_test(a_machine_without_a_usable_gpu_is_told_what_is_missing),
        cmocka_unit_test(a_gpu_that_cannot_be_opened_is_told_with_its_name),
        cmocka_unit_test(ranks_of_a_host_do_not_share_a_gpu_unasked),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[RERUN_TEXT];
    snprintf(command, sizeof command, "rm -r %s", lock_directory);
    return system(command) != 0 || failed;
}
