/* test_identity.c - what makes a checkpoint another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include <limits.h>

#include "base/scratch.h"
#include "worker/model/identity.h"

static const char *const parts[] = {"transformer", "transformer_2", NULL};

static struct scratch scratch;

/* In the scratch directory. */
static void run(const char *line)
{
    char command[8192];
    snprintf(command, sizeof command, "cd '%s' && %s", scratch.path, line);
    if (system(command) != 0) fail_msg("%s", command);
}

static uint64_t identity(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", scratch.path, name);
    return identity_of(path, parts);
}

static int set_up(void **state)
{
    struct error error;
    char here[PATH_MAX], line[PATH_MAX + 64];
    if (scratch_open("/tmp", "refrain-test-identity", &scratch, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    if (!realpath("models/reference", here)) return 1;
    snprintf(line, sizeof line, "mkdir a && cp -pr '%s'/transformer a", here);
    run(line);
    return 0;
}

static int tear_down(void **state)
{
    run("rm -rf ./*");
    scratch_close(&scratch);
    return 0;
}

static void a_copy_with_its_times_is_the_same_checkpoint(void **state)
{
    assert_true(identity("a") != 0);
    assert_true(identity("a") == identity("a"));
    run("rm -rf b && cp -pr a b");
    assert_true(identity("a") == identity("b"));
    run("mkdir b/other && echo x >b/other/x"); /* no part of it */
    assert_true(identity("a") == identity("b"));
}

static void whatever_changes_makes_another_one(void **state)
{
    static const char *const changes[] = {
        "sed -i 's/\"eps\"/\"epz\"/' b/transformer/config.json",
        "touch -d '2001-01-01' b/transformer/*.safetensors",
        "f=$(ls b/transformer/*.safetensors | head -n 1); touch -r $f t; printf x >>$f; touch -r t $f",
        "f=$(ls b/transformer/*.safetensors | head -n 1); touch -r $f t; printf '\\377' | dd of=$f bs=1 "
        "seek=20 "
        "conv=notrunc status=none; touch -r t $f",
        "echo 1 >b/transformer/more",
        "mv b/transformer/config.json b/transformer/config",
        "cp -pr b/transformer b/transformer_2",
        "mv b/transformer b/transformer_2",
    };
    uint64_t seen[sizeof changes / sizeof *changes + 1] = {identity("a")};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        run("rm -rf b && cp -pr a b");
        run(changes[i]);
        uint64_t other = identity("b");
        for (size_t k = 0; k <= i; k++)
            if (other == seen[k]) fail_msg("not told apart: %s", changes[i]);
        seen[i + 1] = other;
    }
}

static void what_is_no_checkpoint_has_no_identity(void **state)
{
    run("rm -rf b && cp -pr a b");
    run("printf short >b/transformer/short.safetensors");
    assert_true(identity("b") == 0);
    assert_true(identity("a") != identity("nowhere"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_with_its_times_is_the_same_checkpoint),
        cmocka_unit_test(whatever_changes_makes_another_one),
        cmocka_unit_test(what_is_no_checkpoint_has_no_identity),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
