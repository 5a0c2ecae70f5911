/*
 * test_plan_verb.c - `refrain plan` and `refrain measure` as a person runs them: what they read, print and refuse.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tests/outcome.h"

static char refrain[PATH_MAX], worker[PATH_MAX];

static char times[] = "/tmp/refrain-times-XXXXXX";

static struct outcome run(const char *const program[])
{
    struct outcome o = outcome_of(program, (const char *[]){NULL});
    assert_int_equal(o.signal, 0);
    return o;
}

#define RUN(...) run((const char *const[]){refrain, __VA_ARGS__, NULL})

static void expect_refused(struct outcome o, const char *needle)
{
    if (o.status != 2 || !outcome_says(&o, needle))
        fail_msg("status %d, \"%s\" is not in: %s", o.status, needle, o.text);
    outcome_free(&o);
}

static void a_directory_of_json_files_is_planned(void **state)
{
    struct outcome o = RUN("plan", "--model", "models/reference", "--ranks", "4", "--jobs", "3");
    assert_int_equal(o.status, 0);
    assert_true(outcome_says(&o, "reference, 64x64x17: 80 tokens, 50 steps, 2 branches; 3 jobs"));
    assert_true(outcome_says(&o, "4 ranks, 4 a node"));
    assert_true(outcome_says(&o, "others, of"));
    outcome_free(&o);
    o = RUN("plan", "--model", "models/reference", "--ranks", "4", "--guidance", "1", "--explain");
    assert_true(outcome_says(&o, "1 branch;"));
    assert_true(outcome_says(&o, "a block ") && outcome_says(&o, "at the stated rate"));
    outcome_free(&o);
}

static void each_line_of_json_is_a_layout_and_the_first_is_the_choice(void **state)
{
    struct outcome o = RUN("plan", "--model", "wan2.2-t2v-a14b", "--ranks", "8", "--memory", "80", "--json");
    int lines = 0, pools = 0;
    assert_int_equal(o.status, 0);
    for (char *line = strtok(o.text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        json_t *object = json_loads(line, 0, NULL);
        assert_non_null(object);
        assert_int_equal(json_is_true(json_object_get(object, "chosen")), lines == 0);
        assert_true(json_real_value(json_object_get(object, "job_seconds")) > 0);
        pools += json_object_get(object, "stages_second") != NULL;
        json_decref(object);
    }
    assert_true(lines > 10 && pools > 3);
    outcome_free(&o);
}

/* One by one or in one, as of a video; solver and shift say which expert makes which step. */
static void a_size_and_a_schedule_are_said_as_for_a_video(void **state)
{
    struct outcome o =
        RUN("plan", "--model", "wan2.2-t2v-a14b", "--size", "832x480x81", "--steps", "40", "--ranks", "2");
    assert_true(outcome_says(&o, "832x480x81: 32760 tokens, 26 + 14 steps"));
    outcome_free(&o);
    o = RUN("plan", "--model", "wan2.2-t2v-a14b", "--width", "832", "--height", "480", "--steps", "40",
            "--ranks", "2", "--shift", "5");
    assert_true(outcome_says(&o, "832x480x81: 32760 tokens, 17 + 23 steps"));
    outcome_free(&o);
    o = RUN("plan", "--model", "wan2.2-t2v-a14b", "--steps", "40", "--ranks", "2", "--solver", "euler");
    assert_true(outcome_says(&o, "25 + 15 steps"));
    outcome_free(&o);
}

static void what_was_measured_is_what_is_planned_with(void **state)
{
    struct outcome o = RUN("measure", "--model", "models/reference", "--size", "64x64x5,32x32x5", "--threads",
                           "1", "--ranks", "2", "--output", times);
    if (o.status != 0) fail_msg("%s", o.text);
    assert_true(outcome_says(&o, "64x64x5: text ") && outcome_says(&o, "32x32x5: text "));
    outcome_free(&o);
    json_t *file = json_load_file(times, 0, NULL);
    const json_t *first = json_array_get(json_object_get(file, "times"), 0),
                 *links = json_object_get(file, "links");
    double forward = json_real_value(json_object_get(first, "forward")), alone = 0;
    double text = json_real_value(json_object_get(first, "text")),
           decode = json_real_value(json_object_get(first, "decode"));
    double blocks = json_real_value(json_object_get(first, "blocks"));
    double inside = json_real_value(json_object_get(links, "inside"));
    assert_true(blocks > 0 && json_real_value(json_object_get(first, "crowded")) > 0);
    assert_int_equal(json_integer_value(json_object_get(first, "ranks")), 2);
    assert_true(inside > 1e6 && inside < 1e12 && json_real_value(json_object_get(links, "latency")) < 1);
    assert_null(json_object_get(links, "between")); /* of one host */
    assert_int_equal(json_array_size(json_object_get(file, "times")), 2);
    json_decref(file);
    o = RUN("plan", "--model", "models/reference", "--size", "64x64x5", "--steps", "10", "--ranks", "1",
            "--measured", times, "--json");
    assert_int_equal(o.status, 0);
    json_t *object = json_loads(o.text, JSON_DISABLE_EOF_CHECK, NULL);
    alone = json_real_value(json_object_get(object, "job_seconds"));
    assert_float_equal(alone / (20 * fmax(forward, blocks) + 2 * text + decode), 1, 1e-6);
    json_decref(object);
    outcome_free(&o);
    /* The links are those that were measured, unless the command says others. */
    char measured[64];
    snprintf(measured, sizeof measured, ", %g GB/s inside", inside / 1e9);
    o = RUN("plan", "--model", "models/reference", "--ranks", "2", "--measured", times);
    assert_true(outcome_says(&o, measured));
    outcome_free(&o);
    o = RUN("plan", "--model", "models/reference", "--ranks", "2", "--measured", times, "--link-inside", "7");
    assert_true(outcome_says(&o, ", 7 GB/s inside"));
    outcome_free(&o);
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--measured", times),
                   "heads is 4, the model's is 40");
}

static void what_makes_no_sense_is_refused_with_a_sentence(void **state)
{
    expect_refused(RUN("plan"), "--model: must be given");
    expect_refused(RUN("plan", "--model", "nobody"), "none of the published sizes wan2.1-t2v-1.3b");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--size", "33x16x1"),
                   "width 33 must be a multiple of 16");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--size", "832x480"),
                   "must be WIDTHxHEIGHTxFRAMES");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--caps", "1"), "must be F,B in blocks");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--caps", "30,11"), "must be 0 to 40");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--hit-rate", "1.5"), "must be 0 to 1");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--hit-rate", "1"),
                   "--hit-rate 1: must be at least 0 and below 1");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--size", "832x480x81", "--frames", "81"),
                   "--size 832x480x81: says the frames as well: leave --frames out");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--shift", "0"), "--shift 0: must be above 0");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--caps", "1", "--json"), "\"field\":\"caps\"");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--ranks", "0"), "must be 1 to 1024");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--measured", "/nowhere"), "cannot be read");
    expect_refused(RUN("plan", "--model", "wan2.1-t2v-14b", "--measured", "README.md"), "is not JSON");
    expect_refused(RUN("measure", "--model", "wan2.1-t2v-14b"), "must be a directory with weights");
    struct outcome o = RUN("plan", "--model", "wan2.1-t2v-14b", "--ranks", "2", "--memory", "24");
    assert_int_equal(o.status, 1);
    assert_true(outcome_says(&o, "no layout fits"));
    outcome_free(&o);
}

/* The worker's own planner of memory: sizes are whole words, and within what a job may have. */
static void what_is_no_size_is_no_size_for_memory_either(void **state)
{
    static const char *const sizes[][2] = {{"64x64", "must be WxHxF"},
                                           {"64x64x17x9", "must be WxHxF"},
                                           {"64x64x0", "must be WxHxF"},
                                           {"8208x64x17", "a side is at most 8192 pixels"},
                                           {"8192x8192x81", "2147483648 pixels"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        expect_refused(run((const char *const[]){worker, "--plan-memory", "models/reference", "--size",
                                                 sizes[i][0], NULL}),
                       sizes[i][1]);
    /* Ranks that add up what changed of their rows do so on no paper. */
    struct outcome o = run((const char *const[]){worker, "--plan-memory", "models/reference", "--ranks", "2",
                                                 "--stage-width", "2", "--cache", "dbprune:F1B0", NULL});
    if (o.status != 0) fail_msg("%s", o.text);
    outcome_free(&o);
}

/* The programs lie beside this one's folder. */
static int find_program(void)
{
    char self[PATH_MAX - 32];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0) return 1;
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(worker, sizeof worker, "%s/../refrain-worker", self);
    return snprintf(refrain, sizeof refrain, "%s/../refrain", self) < 0;
}

static int make_file(void **state)
{
    if (find_program()) return 1;
    int file = mkstemp(times);
    return file < 0 ? 1 : close(file);
}

static int remove_file(void **state)
{
    return unlink(times);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_directory_of_json_files_is_planned),
        cmocka_unit_test(each_line_of_json_is_a_layout_and_the_first_is_the_choice),
        cmocka_unit_test(a_size_and_a_schedule_are_said_as_for_a_video),
        cmocka_unit_test(what_was_measured_is_what_is_planned_with),
        cmocka_unit_test(what_makes_no_sense_is_refused_with_a_sentence),
        cmocka_unit_test(what_is_no_size_is_no_size_for_memory_either),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
