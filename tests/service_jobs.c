/* service_jobs.c - see service_jobs.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <jansson.h>

#include "tests/service_jobs.h"

#define FILES          "--output %s/%s.mp4 --save-latents %s/%s.safetensors"
#define FILES_OF(name) stand_directory, name, stand_directory, name

char stand_text[TEXT_BYTES];

bool stand_says(const char *words)
{
    return strstr(stand_text, words) != NULL;
}

/* The last object that the latest command printed. */
json_t *stand_object(void)
{
    size_t length = strlen(stand_text);
    while (length && stand_text[length - 1] == '\n') stand_text[--length] = 0;
    const char *line = strrchr(stand_text, '\n');
    json_t *object = json_loads(line ? line + 1 : stand_text, 0, NULL);
    if (!object) fail_msg("not an object: %s", stand_text);
    return object;
}

json_t *stand_job(int number)
{
    shell_run(stand_text, "refrain status %d --json", number);
    return stand_object();
}

const char *string_at(const json_t *object, const char *key)
{
    const char *string = json_string_value(json_object_get(object, key));
    return string ? string : "";
}

double number_at(const json_t *object, const char *key)
{
    json_t *number = json_object_get(object, key);
    if (!json_is_number(number)) fail_msg("%s is missing", key);
    return json_number_value(number);
}

/* Has a job made and its latents fetched into NAME.safetensors; the job's number. */
int stand_make(const char *name, const char *format, ...)
{
    char words[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    shell_run(stand_text, "timeout 240 refrain submit --model ref %s --quiet " FILES, words, FILES_OF(name));
    int job = atoi(stand_text);
    assert_true(job > 0);
    return job;
}

/* The same, but goes on while the client waits for it; its events come into NAME.log. */
pid_t stand_begin(const char *name, const char *words)
{
    char log[PATH_BYTES + 64];
    snprintf(log, sizeof log, "%s/%s.log", stand_directory, name);
    unlink(log); /* an earlier job's: stand_begun would take its number */
    return program_start("refrain submit --model ref %s --json " FILES " >%s/%s.log 2>&1", words,
                         FILES_OF(name), stand_directory, name);
}

/* The number of the job of stand_begin(NAME), as soon as it has one. */
int stand_begun(const char *name)
{
    for (int i = 0; i < 3000; i++, usleep(20000)) {
        shell(stand_text, "head -n 1 %s/%s.log", stand_directory, name);
        const char *number = strstr(stand_text, "\"job\":");
        if (number && strchr(number, '\n')) return atoi(number + strlen("\"job\":"));
    }
    fail_msg("%s: there is no job", name);
    return 0;
}

bool latents_are_equal(const char *a, const char *b)
{
    return shell(stand_text, "cmp %s/%s.safetensors %s/%s.safetensors", stand_directory, a, stand_directory,
                 b) == 0;
}

/* The report of a completed job, for json_decref. */
json_t *stand_report(int job)
{
    json_t *object = stand_job(job), *cache = json_object_get(object, "cache");
    if (!cache) fail_msg("job %d has no report: %s", job, stand_text);
    json_incref(cache);
    json_decref(object);
    return cache;
}

/* Everything of two reports but times, and but bytes where the layouts differ. */
void expect_equal_verdicts(const json_t *a, const json_t *b, const char *what)
{
    static const char *const keys[] = {"policy",  "branches", "computed",       "reused",       "forecast",
                                       "actions", "reasons",  "block_computed", "block_reused", "changes"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *left = json_object_get(a, keys[i]), *right = json_object_get(b, keys[i]);
        if (!left && !right) continue;
        if (!left || !right || !json_equal(left, right)) fail_msg("%s: other %s", what, keys[i]);
    }
}

/* Lists of the right sizes, counts that fit them, and no more said than was measured. */
void expect_complete(const json_t *cache, size_t steps, size_t branches)
{
    json_t *actions = json_object_get(cache, "actions"), *reasons = json_object_get(cache, "reasons"),
           *changes = json_object_get(cache, "changes");
    size_t computed = 0, forecast = 0;
    assert_int_equal(number_at(cache, "branches"), branches);
    assert_int_equal(json_array_size(actions), steps);
    assert_int_equal(json_array_size(reasons), steps);
    assert_int_equal(json_array_size(changes), steps);
    for (size_t i = 0; i < steps; i++) {
        assert_int_equal(json_array_size(json_array_get(actions, i)), branches);
        assert_int_equal(json_array_size(json_array_get(reasons, i)), branches);
        assert_int_equal(json_array_size(json_array_get(changes, i)), branches);
        for (size_t b = 0; b < branches; b++) {
            const char *action = json_string_value(json_array_get(json_array_get(actions, i), b));
            json_t *change = json_array_get(json_array_get(changes, i), b);
            assert_true(json_is_null(change) || json_number_value(change) >= 0);
            assert_non_null(json_string_value(json_array_get(json_array_get(reasons, i), b)));
            computed += strcmp(action, "computed") == 0;
            forecast += strcmp(action, "forecast") == 0;
        }
    }
    assert_int_equal(computed, number_at(cache, "computed"));
    assert_int_equal(forecast, number_at(cache, "forecast"));
    /* what is computed only in part counts as reused */
    assert_int_equal(steps * branches - computed - forecast, number_at(cache, "reused"));
    assert_true(number_at(cache, "bytes") >= 0);
    assert_true(isfinite(number_at(cache, "seconds_saved")));
}

void stand_wait_links(int count)
{
    for (int i = 0; i < 300; i++, usleep(100000)) {
        shell_run(stand_text, "refrain ranks --json");
        json_t *all = stand_object(), *group = json_array_get(json_object_get(all, "groups"), 0);
        bool known = (int)json_array_size(json_object_get(group, "links")) == count;
        json_decref(all);
        if (known) return;
    }
    fail_msg("not %d links:\n%s", count, stand_text);
}

/* Waits until a job has denoised so many steps. */
void stand_wait_step(int job, int step)
{
    for (int i = 0; i < 1200; i++, usleep(20000)) {
        json_t *object = stand_job(job);
        bool there = strcmp(string_at(object, "phase"), "denoise") == 0 && number_at(object, "step") >= step;
        bool over = json_object_get(object, "finished_ms") != NULL;
        json_decref(object);
        if (there) return;
        if (over) fail_msg("job %d has ended too early", job);
    }
    fail_msg("job %d does not get to step %d", job, step);
}
