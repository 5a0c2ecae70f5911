/*
 * test_refrain.c - the `refrain` command's verbs against a scripted coordinator, how things look, and the
 * keeper that lets nothing outlive `refrain generate`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/clock.h"
#include "client/cli.h"
#include "client/keeper.h"
#include "client/records.h"
#include "tests/client_fixture.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* --------------------------------------------------------------------------------------- verbs */

static void submit_with_an_output_waits_shows_plain_lines_and_writes_the_video(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[4096], video[128];
    snprintf(video, sizeof video, "%s/star.mp4", fixture->directory);
    const char *words[] = {"--model", "reference", "--prompt", "a red star", "--output", video, NULL};
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    fake_stop(fake);
    client_assert_file(video, fixture->video, CLIENT_VIDEO_BYTES);
    client_assert_file(client_path(fixture, "star.png"), (const unsigned char *)"sheet", 5);
    assert_non_null(strstr(output, "job 1 queued\n"));
    assert_non_null(strstr(output, "denoise 2/4"));
    assert_non_null(strstr(output, "star.mp4"));
    for (const char *c = output; *c; c++) assert_true((unsigned char)*c >= 0x20 || *c == '\n'); /* a pipe */
}

/* With the same options as submit, and a file at the end as ever. */
static void generate_goes_on_from_a_job_where_that_is(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[4096], video[128];
    snprintf(video, sizeof video, "%s/other.mp4", fixture->directory);
    const char *words[] = {
        "--resume-from",     "7", "--at-step", "2",   "--guidance", "6", "--priority", "high",
        "--idempotency-key", "k", "--output",  video, NULL};
    assert_int_equal(client_run_verb(verb_generate, VERB_GENERATE, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    struct fake_seen seen = fake_stop(fake);
    client_assert_file(video, fixture->video, CLIENT_VIDEO_BYTES);
    assert_int_equal(seen.submits, 1);
    assert_int_equal(seen.resume_from, 7);
    assert_int_equal(seen.at_step, 2);
    assert_true(seen.has_guidance && seen.guidance == 6);
    assert_false(seen.has_model); /* the other job's */
    assert_int_equal(seen.priority, 2);
    assert_string_equal(seen.key, "k");
    assert_non_null(strstr(output, "denoise"));
}

/* Nothing of it is left out silently. */
static void generate_says_what_means_nothing_where_it_runs(void **state)
{
    struct client_fixture *fixture = *state;
    char output[4096];
    static const char *const named[][5] = {{"--resume-from", "7", "--ranks", "3", NULL},
                                           {"--prompt", "x", "--threads", "2", NULL},
                                           {"--prompt", "x", "--fabric", "mpi", NULL}};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        assert_int_equal(
            client_run_verb(verb_generate, VERB_GENERATE, fixture, output, sizeof output, named[i]),
            EXIT_CODE_USAGE);
    static const char *const own[][8] = {{"refrain", "--prompt", "x", "--priority", "high", NULL},
                                         {"refrain", "--prompt", "x", "--idempotency-key", "k", NULL},
                                         {"refrain", "--prompt", "x", "--deadline", "9m", "--strict", NULL},
                                         {"refrain", "--prompt", "x", "--at-step", "3", NULL}};
    setenv("REFRAIN_COORDINATOR", fixture->endpoint, 1); /* that alone does not send it there */
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        struct cli cli = {.signal_fd = -1};
        int count = 0;
        while (own[i][count]) count++;
        assert_int_equal(options_parse(settings_table(), VERB_GENERATE, count, (char **)(uintptr_t)own[i],
                                       &cli.settings, &cli.options, &fixture->error),
                         STATUS_OK);
        assert_int_equal(verb_generate(&cli), EXIT_CODE_USAGE);
        options_destroy(cli.options);
    }
    unsetenv("REFRAIN_COORDINATOR");
}

static void submit_json_is_an_object_on_each_line(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = {.steps = 2, .end = REFRAIN_FAILED, .message = "no"};
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[8192];
    const char *words[] = {"--model", "reference", "--prompt", "x", "--wait", "--json", NULL};
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_FAILED);
    fake_stop(fake);
    for (char *line = strtok(output, "\n"); line; line = strtok(NULL, "\n")) {
        assert_int_equal(line[0], '{');
        assert_int_equal(line[strlen(line) - 1], '}');
    }
}

static void a_model_directory_is_added_under_its_name_or_with_a_hash(void **state)
{
    struct client_fixture *fixture = *state;
    char output[4096], directory[128];
    snprintf(directory, sizeof directory, "%s/my model", fixture->directory);
    assert_int_equal(mkdir(directory, 0777), 0);
    const char *words[] = {"--model", directory, "--prompt", "x", NULL};
    struct fake_script script = {.steps = 2};
    struct fake *fake = fake_start(fixture->endpoint, &script);
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    struct fake_seen seen = fake_stop(fake);
    assert_string_equal(seen.model, "my-model");
    assert_string_equal(seen.directory, directory);

    script.refuse_model = STATUS_CONFLICT;
    fake = fake_start(fixture->endpoint, &script);
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    seen = fake_stop(fake);
    assert_int_equal(seen.model_adds, 2);
    assert_int_equal(strlen(seen.model), strlen("my-model") + 9);

    script.refuse_model = STATUS_DENIED;
    fake = fake_start(fixture->endpoint, &script);
    assert_int_equal(client_run_verb(verb_submit, VERB_SUBMIT, fixture, output, sizeof output, words),
                     EXIT_CODE_REFUSED);
    assert_int_equal(fake_stop(fake).submits, 0);
}

static void list_has_a_row_for_each_job(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    char output[4096];
    const char *words[] = {NULL};
    assert_int_equal(client_run_verb(verb_list, VERB_LIST, fixture, output, sizeof output, words),
                     EXIT_CODE_OK);
    fake_stop(fake);
    assert_non_null(strstr(output, "queued (1st)"));
    assert_non_null(strstr(output, "completed"));
    assert_non_null(strstr(output, "██████████"));
    assert_non_null(strstr(output, "a large red star"));
}

static void exit_codes_tell_what_happened(void **state)
{
    struct client_fixture *fixture = *state;
    char output[4096];
    const char *unknown[] = {"404", NULL}, *job[] = {"1", NULL}, *quick[] = {"1", "--timeout", "100ms", NULL};
    assert_int_equal(client_run_verb(verb_status, VERB_STATUS, fixture, output, sizeof output, quick),
                     EXIT_CODE_UNREACHABLE);
    struct fake *fake =
        fake_start(fixture->endpoint, &(struct fake_script){.steps = 1, .end = REFRAIN_CANCELLED});
    assert_int_equal(client_run_verb(verb_status, VERB_STATUS, fixture, output, sizeof output, unknown),
                     EXIT_CODE_REFUSED);
    assert_int_equal(client_run_verb(verb_watch, VERB_WATCH, fixture, output, sizeof output, job),
                     EXIT_CODE_ENDED);
    assert_int_equal(client_run_verb(verb_result, VERB_RESULT, fixture, output, sizeof output, job),
                     EXIT_CODE_REFUSED);
    assert_int_equal(client_run_verb(verb_cancel, VERB_CANCEL, fixture, output, sizeof output, job),
                     EXIT_CODE_OK);
    fake_stop(fake);
}

static void a_wrong_option_is_blamed_by_its_own_name(void **state)
{
    struct client_fixture *fixture = *state;
    static const char *const cases[][3] = {
        {"--width", "100", "width"},       {"--frames", "16", "frames"},     {"--height", "0", "height"},
        {"--shift", "0", "shift"},         {"--size", "832x480", "size"},    {"--size", "832x0x81", "size"},
        {"--size", "8208x480x81", "size"}, {"--size", "100x480x81", "width"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *argv[] = {"submit", "--prompt", "x", cases[i][0], cases[i][1], NULL};
        struct settings settings = {0};
        struct settings_loaded loaded = {0};
        struct options *options = NULL;
        struct refrain_spec spec;
        const char *field = NULL;
        assert_int_equal(options_parse(settings_table(), VERB_SUBMIT, 5, (char **)(uintptr_t)argv, &settings,
                                       &options, &fixture->error),
                         STATUS_OK);
        assert_int_equal(settings_spec(&settings, options, &loaded, &spec, &field, &fixture->error),
                         STATUS_INVALID);
        assert_string_equal(field, cases[i][2]);
        settings_loaded_free(&loaded);
        options_destroy(options);
    }
    assert_string_equal(settings_flag_of("negative_prompt"), "negative");
    assert_string_equal(settings_flag_of("deadline_ms"), "deadline");
    assert_string_equal(settings_flag_of("guidance_scale_2"), "guidance-2");
    char out[128];
    assert_string_equal(
        cli_flag_sentence("deadline_ms", "deadline_ms 1500: the job is late", out, sizeof out),
        "--deadline 1.5s: the job is late");
    assert_string_equal(cli_flag_sentence("deadline_ms", "deadline_ms: must be given", out, sizeof out),
                        "--deadline: must be given");
    assert_null(settings_flag_of("nothing"));
}

static void a_size_is_width_height_and_frames_in_one(void **state)
{
    struct client_fixture *fixture = *state;
    const char *argv[] = {"submit", "--prompt", "x", "--size", "48x32x9", "--height", "32", NULL};
    for (int words = 5; words <= 7; words += 2) {
        struct settings settings = {0};
        struct settings_loaded loaded = {0};
        struct options *options = NULL;
        struct refrain_spec spec;
        const char *field = NULL;
        assert_int_equal(options_parse(settings_table(), VERB_SUBMIT, words, (char **)(uintptr_t)argv,
                                       &settings, &options, &fixture->error),
                         STATUS_OK);
        status_t status = settings_spec(&settings, options, &loaded, &spec, &field, &fixture->error);
        if (words == 5) {
            assert_int_equal(status, STATUS_OK);
            assert_true(spec.width == 48 && spec.height == 32 && spec.frames == 9);
        } else {
            assert_int_equal(status, STATUS_INVALID);
            assert_string_equal(field, "size");
            assert_string_equal(fixture->error.text,
                                "size 48x32x9: says the height as well: leave --height out");
        }
        settings_loaded_free(&loaded);
        options_destroy(options);
    }
}

static void a_job_has_checkpoints_as_often_as_was_said_and_none_is_said_by_zero(void **state)
{
    struct client_fixture *fixture = *state;
    static const struct {
        const char *said;
        bool sent;
        unsigned value;
        status_t status;
    } cases[] = {{NULL, false, 0, STATUS_OK},        {"0", true, 0, STATUS_OK},
                 {"25", true, 25, STATUS_OK},        {"1000", true, 1000, STATUS_OK},
                 {"1001", false, 0, STATUS_INVALID}, {"-1", false, 0, STATUS_INVALID}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *argv[] = {"submit", "--prompt", "x", "--checkpoint-every", cases[i].said, NULL};
        struct settings settings = {0};
        struct settings_loaded loaded = {0};
        struct options *options = NULL;
        struct refrain_spec spec;
        Refrain__JobSpec wire;
        const char *field = NULL;
        status_t status = options_parse(settings_table(), VERB_SUBMIT, cases[i].said ? 5 : 3,
                                        (char **)(uintptr_t)argv, &settings, &options, &fixture->error);
        assert_int_equal(status, cases[i].status);
        if (status == STATUS_OK) {
            assert_int_equal(settings_spec(&settings, options, &loaded, &spec, &field, &fixture->error),
                             STATUS_OK);
            assert_int_equal(record_spec_to_wire(&spec, &wire, &fixture->error), STATUS_OK);
            assert_int_equal(wire.has_checkpoint_every, cases[i].sent);
            assert_int_equal(wire.checkpoint_every, cases[i].value);
            record_wire_free(&wire);
        }
        settings_loaded_free(&loaded);
        options_destroy(options);
    }
    assert_string_equal(settings_flag_of("checkpoint_every"), "checkpoint-every");
}

/* --------------------------------------------------------------------------------------- looks */

static void text_fits_its_column_whatever_is_in_it(void **state)
{
    (void)state;
    struct show_style style = {.unicode = true, .columns = 80};
    char out[SHOW_TEXT_BYTES];
    assert_string_equal(show_fit(&style, "abcdef", 6, out), "abcdef");
    assert_string_equal(show_fit(&style, "abcdefg", 6, out), "abcde…");
    assert_string_equal(show_fit(&style, "a\nb\033[31mc", 20, out), "a b[31mc");
    assert_string_equal(show_fit(&style, NULL, 6, out), "");
    assert_string_equal(show_fit(&style, "\xff\xc3", 6, out), "??");
    assert_string_equal(show_column(&style, "ab", 4, out), "ab  ");
    show_locale();
    assert_string_equal(show_fit(&style, "星が回る", 5, out), "星が…"); /* two columns each */
    assert_int_equal(show_width("星×"), 3);
}

static void durations_and_sizes_read_well(void **state)
{
    (void)state;
    struct show_style style = {.unicode = true};
    char out[SHOW_BYTES], bar[4 * SHOW_BYTES];
    assert_string_equal(show_duration(&style, 0.42, out), "0.4 s");
    assert_string_equal(show_duration(&style, 48.2, out), "48 s");
    assert_string_equal(show_duration(&style, 130, out), "2m 10s");
    assert_string_equal(show_duration(&style, 11100, out), "3h 05m");
    assert_string_equal(show_duration(&style, NAN, out), "—");
    assert_string_equal(show_step_time(0.0182, out), "18.2 ms a step");
    assert_string_equal(show_step_time(1.38, out), "1.38 s a step");
    assert_string_equal(show_bytes(19400000, out), "19.4 MB");
    assert_string_equal(show_bytes(999, out), "999 B");
    assert_string_equal(show_bar(&style, 31, 40, 10, bar), "███████▌──");
    assert_string_equal(show_bar(&style, 5, 0, 3, bar), "───");
}

/* -------------------------------------------------------------------------------------- keeper */

/* Processes whose command line holds `mark`. */
static int processes_with(const char *mark)
{
    char command[256];
    snprintf(command, sizeof command, "grep -alz '%s' /proc/[0-9]*/environ 2>/dev/null | wc -l", mark);
    FILE *pipe = popen(command, "r");
    int count = -1;
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

/* A client that starts a keeper whose program leaves children in sessions of their own and ignores SIGTERM,
 * then is killed outright. */
static void nothing_outlives_a_client_that_was_killed(void **state)
{
    struct client_fixture *fixture = *state;
    char kept[128], mark[64], log[192];
    snprintf(kept, sizeof kept, "%s/kept", fixture->directory);
    snprintf(log, sizeof log, "%s/log", kept);
    snprintf(mark, sizeof mark, "KEEPER_MARK=%d", getpid());
    assert_int_equal(mkdir(kept, 0777), 0);
    pid_t client = fork();
    if (client == 0) {
        int life[2], ended[2];
        if (pipe2(life, O_CLOEXEC) || pipe2(ended, O_CLOEXEC)) _exit(1);
        if (fork() == 0) {
            close(life[1]);
            close(ended[0]);
            const char *command[] = {"/bin/sh", "-c",
                                     "setsid sh -c 'trap \"\" TERM; sleep 100; :' & "
                                     "(setsid sleep 100 &) ; wait",
                                     NULL};
            putenv(mark);
            struct keeper_plan plan = {command, kept, log, life[0], ended[1]};
            keeper_run(&plan);
        }
        close(life[0]);
        pause();
        _exit(0);
    }
    int64_t deadline_ns = clock_now_ns() + 20 * SECOND_NS;
    while (processes_with(mark) < 3 && clock_now_ns() < deadline_ns) usleep(20000);
    assert_true(processes_with(mark) >= 3);
    kill(client, SIGKILL);
    waitpid(client, NULL, 0);
    deadline_ns = clock_now_ns() + 20 * SECOND_NS;
    while (access(kept, F_OK) == 0 && clock_now_ns() < deadline_ns) usleep(20000);
    assert_int_not_equal(access(kept, F_OK), 0);
    assert_int_equal(processes_with(mark), 0);
}

int main(void)
{
    /* What the person at the keyboard has set is not part of the test. */
    unsetenv("REFRAIN_KEY");
    unsetenv("REFRAIN_SERVER_KEY");
    unsetenv("REFRAIN_MODEL");
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(submit_with_an_output_waits_shows_plain_lines_and_writes_the_video),
        TEST(generate_goes_on_from_a_job_where_that_is),
        TEST(generate_says_what_means_nothing_where_it_runs),
        TEST(submit_json_is_an_object_on_each_line),
        TEST(a_model_directory_is_added_under_its_name_or_with_a_hash),
        TEST(list_has_a_row_for_each_job),
        TEST(exit_codes_tell_what_happened),
        TEST(a_wrong_option_is_blamed_by_its_own_name),
        TEST(a_size_is_width_height_and_frames_in_one),
        TEST(a_job_has_checkpoints_as_often_as_was_said_and_none_is_said_by_zero),
        TEST(text_fits_its_column_whatever_is_in_it),
        TEST(durations_and_sizes_read_well),
        TEST(nothing_outlives_a_client_that_was_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
