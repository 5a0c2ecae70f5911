/* test_client.c - librefrain against a scripted coordinator on a real socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/client_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

/* --------------------------------------------------------------------------------- connecting */

static void nobody_there_is_a_sentence_with_the_endpoint(void **state)
{
    struct client_fixture *fixture = *state;
    struct refrain *refrain = NULL;
    assert_int_equal(refrain_connect(fixture->endpoint, NULL, 200, &refrain, &fixture->error),
                     STATUS_PEER_LOST);
    assert_null(refrain);
    assert_non_null(strstr(fixture->error.text, fixture->endpoint));
    assert_non_null(strstr(fixture->error.text, "waited 0.2 s"));
}

static void what_is_not_an_endpoint_is_refused_at_once(void **state)
{
    struct client_fixture *fixture = *state;
    static const char *const wrong[] = {"localhost", "tcp://nowhere", "http://a:1", "ipc://",
                                        "tcp://a:b:c:99999999"};
    struct refrain *refrain = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(refrain_connect(wrong[i], NULL, 100, &refrain, &fixture->error), STATUS_INVALID);
}

static void another_protocol_version_is_named(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.version = 7});
    struct refrain *refrain = NULL;
    assert_int_equal(refrain_connect(fixture->endpoint, NULL, CLIENT_CALL_MS, &refrain, &fixture->error),
                     STATUS_UNSUPPORTED);
    assert_non_null(strstr(fixture->error.text, "7"));
    fake_stop(fake);
}

static void keys_that_were_made_can_be_loaded_and_open_the_door(void **state)
{
    struct client_fixture *fixture = *state;
    char mine[128], theirs[128], public_key[41];
    struct refrain_keys keys, server;
    snprintf(mine, sizeof mine, "%s/mine", fixture->directory);
    snprintf(theirs, sizeof theirs, "%s/theirs", fixture->directory);
    assert_int_equal(refrain_keys_make(mine, public_key, &fixture->error), STATUS_OK);
    assert_int_equal(refrain_keys_make(mine, public_key, &fixture->error), STATUS_CONFLICT);
    assert_int_equal(refrain_keys_make(theirs, public_key, &fixture->error), STATUS_OK);
    struct stat info;
    assert_int_equal(stat(mine, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(refrain_keys_load(theirs, theirs, &server, &fixture->error), STATUS_OK);
    strcat(theirs, ".pub");
    assert_int_equal(refrain_keys_load(mine, theirs, &keys, &fixture->error), STATUS_OK);
    assert_string_equal(keys.server_key, server.public_key);
    assert_int_equal(refrain_keys_load(theirs, theirs, &keys, &fixture->error),
                     STATUS_INVALID); /* no secret half */

    struct fake *fake =
        fake_start(fixture->endpoint, &(struct fake_script){.server_secret = server.secret_key});
    assert_int_equal(refrain_keys_load(mine, theirs, &keys, &fixture->error), STATUS_OK);
    struct refrain *refrain = NULL;
    assert_int_equal(refrain_connect(fixture->endpoint, &keys, CLIENT_CALL_MS, &refrain, &fixture->error),
                     STATUS_OK);
    refrain_close(refrain);
    refrain = NULL;
    /* Without a key: told so, and not after the whole time. */
    int64_t start_ns = clock_now_ns();
    assert_int_equal(refrain_connect(fixture->endpoint, NULL, CLIENT_CALL_MS, &refrain, &fixture->error),
                     STATUS_DENIED);
    assert_true(clock_now_ns() - start_ns < CLIENT_CALL_MS * MILLISECOND_NS);
    fake_stop(fake);
}

/* ------------------------------------------------------------------------------------- calling */

static void submit_sends_what_was_said_and_leaves_the_rest_to_the_model(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.steps = 4});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    struct refrain_job *job = NULL;
    spec.model = "reference", spec.prompt = "a red star", spec.width = 96, spec.guidance = 0;
    assert_int_equal(refrain_submit(refrain, &spec, NULL, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    assert_int_equal(job->number, 1);
    assert_int_equal(job->state, REFRAIN_QUEUED);
    assert_int_equal(job->spec.steps, 4);
    assert_string_equal(job->spec.prompt, "a large red star");
    refrain_free(job);
    refrain_close(refrain);
    struct fake_seen seen = fake_stop(fake);
    assert_string_equal(seen.prompt, "a red star");
    assert_int_equal(strlen(seen.key), 32);
    assert_int_equal(seen.width, 96);
    assert_true(seen.has_guidance); /* 0 is a guidance */
    assert_true(seen.guidance == 0);
    assert_false(seen.has_steps);
}

static void a_bad_request_is_refused_before_it_is_sent(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){0});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    struct refrain_job *job = NULL;
    spec.model = "reference", spec.prompt = "x", spec.width = 100;
    assert_int_equal(refrain_submit(refrain, &spec, NULL, CLIENT_CALL_MS, &job, &fixture->error),
                     STATUS_INVALID);
    assert_string_equal(refrain_error_field(refrain), "width");
    assert_string_equal(fixture->error.text, "width 100: must be a multiple of 16 (96 or 112)");
    spec.width = 0, spec.guidance = NAN;
    assert_int_equal(refrain_submit(refrain, &spec, NULL, CLIENT_CALL_MS, &job, &fixture->error),
                     STATUS_INVALID);
    assert_string_equal(refrain_error_field(refrain), "guidance");
    spec.guidance = 5, spec.prompt = "\xff";
    assert_int_equal(refrain_submit(refrain, &spec, NULL, CLIENT_CALL_MS, &job, &fixture->error),
                     STATUS_INVALID);
    refrain_close(refrain);
    assert_int_equal(fake_stop(fake).submits, 0);
}

static void a_refusal_brings_status_sentence_and_field(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.refuse_field = "steps"});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    struct refrain_job *job = NULL;
    spec.model = "reference", spec.prompt = "x";
    assert_int_equal(refrain_submit(refrain, &spec, "key", CLIENT_CALL_MS, &job, &fixture->error),
                     STATUS_INVALID);
    assert_string_equal(fixture->error.text, "steps 7: must be something else");
    assert_string_equal(refrain_error_field(refrain), "steps");
    assert_int_equal(refrain_status(refrain, FAKE_NO_SUCH_JOB, CLIENT_CALL_MS, &job, &fixture->error),
                     STATUS_NOT_FOUND);
    refrain_close(refrain);
    fake_stop(fake);
}

static void a_coordinator_that_does_not_answer_ends_a_call_at_its_deadline(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.silent = true});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_job *job = NULL;
    int64_t start_ns = clock_now_ns();
    assert_int_equal(refrain_status(refrain, 1, 150, &job, &fixture->error), STATUS_DEADLINE);
    assert_true(clock_now_ns() - start_ns >= 150 * MILLISECOND_NS);
    refrain_close(refrain);
    fake_stop(fake);
}

static void a_readable_stop_descriptor_ends_a_wait(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.silent = true});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_job *job = NULL;
    int stop = eventfd(1, EFD_CLOEXEC);
    refrain_stop_on(refrain, stop);
    assert_int_equal(refrain_status(refrain, 1, REFRAIN_FOREVER, &job, &fixture->error), STATUS_ABORTED);
    refrain_close(refrain);
    close(stop);
    fake_stop(fake);
}

static void a_request_lost_with_the_connection_is_sent_again(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake =
        fake_start(fixture->endpoint, &(struct fake_script){.steps = 4, .restart_at_request = 2});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    struct refrain_job *job = NULL;
    spec.model = "reference", spec.prompt = "x";
    assert_int_equal(refrain_submit(refrain, &spec, NULL, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    refrain_free(job);
    refrain_close(refrain);
    struct fake_seen seen = fake_stop(fake);
    assert_int_equal(seen.submits, 1);
    assert_int_equal(seen.requests, 3); /* hello, the lost one, the same again */
}

static void a_deletion_whose_answer_was_lost_is_a_deletion(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.restart_at_request = 2});
    struct refrain *refrain = client_connect(fixture);
    assert_int_equal(refrain_delete(refrain, 1, CLIENT_CALL_MS, &fixture->error), STATUS_OK);
    assert_int_equal(refrain_delete(refrain, 1, CLIENT_CALL_MS, &fixture->error), STATUS_NOT_FOUND);
    refrain_close(refrain);
    fake_stop(fake);
}

/* ------------------------------------------------------------------------------------ watching */

static void a_watch_tells_each_change_of_state_once_even_over_a_restart(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake =
        fake_start(fixture->endpoint, &(struct fake_script){.steps = 3, .restart_at_request = 3});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_watch *watch = NULL;
    struct refrain_job *job = NULL;
    assert_int_equal(refrain_watch_open(refrain, 1, 0, &watch, &fixture->error), STATUS_OK);
    struct refrain_event *event = NULL;
    uint64_t told[8] = {0};
    for (int states = 0; states < 2;) {
        assert_int_equal(refrain_watch_next(watch, CLIENT_CALL_MS, &event, &fixture->error), STATUS_OK);
        if (!event->progress_only) told[states++] = event->sequence;
        refrain_free(event);
    }
    assert_int_equal(told[0], 1);
    assert_int_equal(told[1], 2);
    /* The third request takes the coordinator down; the library asks again for both. */
    assert_int_equal(refrain_status(refrain, 1, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    refrain_free(job);
    status_t status;
    while (!(status = refrain_watch_next(watch, 300, &event, &fixture->error))) {
        assert_true(event->progress_only);
        refrain_free(event);
    }
    assert_int_equal(status, STATUS_DEADLINE);
    refrain_watch_close(watch);
    refrain_close(refrain);
    struct fake_seen seen = fake_stop(fake);
    assert_int_equal(seen.watches, 2);
    assert_int_equal(seen.watch_from, 2);
}

static void notes_of_progress_that_nobody_read_are_replaced_by_newer_ones(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake =
        fake_start(fixture->endpoint, &(struct fake_script){.steps = 500, .end = REFRAIN_COMPLETED});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_watch *watch = NULL;
    struct refrain_job *job = NULL;
    struct refrain_event *event = NULL;
    assert_int_equal(refrain_watch_open(refrain, 1, 0, &watch, &fixture->error), STATUS_OK);
    assert_int_equal(refrain_status(refrain, 1, CLIENT_CALL_MS, &job, &fixture->error),
                     STATUS_OK); /* reads all that came */
    refrain_free(job);
    int events = 0;
    for (bool last = false; !last; events++) {
        assert_int_equal(refrain_watch_next(watch, CLIENT_CALL_MS, &event, &fixture->error), STATUS_OK);
        last = event->last;
        if (event->progress_only) assert_int_equal(event->job.progress.step, 500);
        refrain_free(event);
    }
    assert_int_equal(events, 4); /* queued, running, the latest note, completed */
    refrain_watch_close(watch);
    refrain_close(refrain);
    fake_stop(fake);
}

static void wait_returns_the_job_as_it_ended(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake =
        fake_start(fixture->endpoint,
                   &(struct fake_script){.steps = 2, .end = REFRAIN_FAILED, .message = "step 1: not finite"});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    struct refrain_job *job = NULL;
    spec.model = "reference", spec.prompt = "x";
    assert_int_equal(refrain_submit(refrain, &spec, NULL, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    assert_int_equal(refrain_wait(refrain, &job, CLIENT_CALL_MS, &fixture->error), STATUS_OK);
    assert_int_equal(job->state, REFRAIN_FAILED);
    assert_string_equal(job->message, "step 1: not finite");
    refrain_free(job);
    refrain_close(refrain);
    fake_stop(fake);
}

/* ------------------------------------------------------------------------------------ fetching */

static status_t fetch_video(struct client_fixture *fixture, const struct fake_script *script, unsigned flags,
                            int timeout_ms, struct fake_seen *seen)
{
    char path[128];
    mkdir(client_path(fixture, "out"), 0777);
    snprintf(path, sizeof path, "%s/out/video.mp4", fixture->directory);
    struct fake *fake = fake_start(fixture->endpoint, script);
    struct refrain *refrain = client_connect(fixture);
    struct refrain_job *job = NULL;
    assert_int_equal(refrain_status(refrain, 1, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    status_t status = refrain_fetch(refrain, job, REFRAIN_VIDEO, path, flags, timeout_ms, &fixture->error);
    refrain_free(job);
    refrain_close(refrain);
    *seen = fake_stop(fake);
    return status;
}

static void a_file_arrives_whole_and_replaces_what_was_there(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake_seen seen;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(fetch_video(fixture, &script, 0, CLIENT_CALL_MS, &seen), STATUS_OK);
        client_assert_file(client_path(fixture, "out/video.mp4"), fixture->video, CLIENT_VIDEO_BYTES);
        assert_int_equal(client_entries(client_path(fixture, "out")), 1);
    }
    assert_int_equal(fetch_video(fixture, &script, REFRAIN_FETCH_NEW, CLIENT_CALL_MS, &seen),
                     STATUS_CONFLICT);
    assert_int_equal(client_entries(client_path(fixture, "out")), 1);
}

static void smaller_chunks_than_asked_for_make_the_same_file(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake_seen seen;
    script.chunk_limit = 100001;
    assert_int_equal(fetch_video(fixture, &script, 0, CLIENT_CALL_MS, &seen), STATUS_OK);
    client_assert_file(client_path(fixture, "out/video.mp4"), fixture->video, CLIENT_VIDEO_BYTES);
}

static void a_restart_in_the_middle_of_a_file_is_not_noticed(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake_seen seen;
    script.chunk_limit = 100001;
    script.restart_at_request = 9;
    assert_int_equal(fetch_video(fixture, &script, 0, CLIENT_CALL_MS, &seen), STATUS_OK);
    client_assert_file(client_path(fixture, "out/video.mp4"), fixture->video, CLIENT_VIDEO_BYTES);
}

static void one_wrong_bit_is_fetched_again_and_twice_is_an_error(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake_seen seen;
    script.wrong_bytes = 100;
    assert_int_equal(fetch_video(fixture, &script, REFRAIN_FETCH_KEEP_PARTIAL, CLIENT_CALL_MS, &seen),
                     STATUS_CORRUPT);
    assert_int_equal(client_entries(client_path(fixture, "out")), 0);
    script.wrong_bytes = 1;
    assert_int_equal(fetch_video(fixture, &script, 0, CLIENT_CALL_MS, &seen), STATUS_OK);
    client_assert_file(client_path(fixture, "out/video.mp4"), fixture->video, CLIENT_VIDEO_BYTES);
}

static void an_interrupted_fetch_goes_on_where_it_stopped(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake_seen seen;
    script.gone_at_request = 6; /* the fourth chunk */
    assert_int_equal(fetch_video(fixture, &script, REFRAIN_FETCH_KEEP_PARTIAL, 1000, &seen),
                     STATUS_PEER_LOST);
    assert_int_equal(client_entries(client_path(fixture, "out")), 1); /* the hidden file */
    script.gone_at_request = 0;
    assert_int_equal(fetch_video(fixture, &script, 0, CLIENT_CALL_MS, &seen), STATUS_OK);
    assert_true(seen.first_fetch_offset > 0);
    assert_int_equal(client_entries(client_path(fixture, "out")), 1);
    client_assert_file(client_path(fixture, "out/video.mp4"), fixture->video, CLIENT_VIDEO_BYTES);
}

static void an_empty_file_and_a_missing_one_are_told_apart(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake_script script = client_script(fixture);
    struct fake *fake = fake_start(fixture->endpoint, &script);
    struct refrain *refrain = client_connect(fixture);
    struct refrain_job *job = NULL;
    assert_int_equal(refrain_status(refrain, 1, CLIENT_CALL_MS, &job, &fixture->error), STATUS_OK);
    const char *path = client_path(fixture, "latents");
    assert_int_equal(refrain_fetch(refrain, job, REFRAIN_LATENTS, path, 0, CLIENT_CALL_MS, &fixture->error),
                     STATUS_OK);
    client_assert_file(path, (const unsigned char *)"", 0);
    assert_int_equal(refrain_fetch(refrain, job, REFRAIN_FRAMES, path, 0, CLIENT_CALL_MS, &fixture->error),
                     STATUS_NOT_FOUND);
    refrain_free(job);
    refrain_close(refrain);
    fake_stop(fake);
}

static void an_output_that_cannot_be_written_is_found_beforehand(void **state)
{
    struct client_fixture *fixture = *state;
    struct error *error = &fixture->error;
    assert_int_equal(refrain_output_check(client_path(fixture, "a.mp4"), error), STATUS_OK);
    assert_int_equal(refrain_output_check(client_path(fixture, "no/a.mp4"), error), STATUS_INVALID);
    assert_int_equal(refrain_output_check(fixture->directory, error), STATUS_INVALID);
    assert_int_equal(refrain_output_check("/dev/null", error), STATUS_INVALID);
    assert_int_equal(refrain_output_check("", error), STATUS_INVALID);
    assert_int_not_equal(refrain_output_check("/proc/a.mp4", error), STATUS_OK);
    assert_int_equal(client_entries(fixture->directory), 0); /* asking leaves nothing behind */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nobody_there_is_a_sentence_with_the_endpoint),
        TEST(what_is_not_an_endpoint_is_refused_at_once),
        TEST(another_protocol_version_is_named),
        TEST(keys_that_were_made_can_be_loaded_and_open_the_door),
        TEST(submit_sends_what_was_said_and_leaves_the_rest_to_the_model),
        TEST(a_bad_request_is_refused_before_it_is_sent),
        TEST(a_refusal_brings_status_sentence_and_field),
        TEST(a_coordinator_that_does_not_answer_ends_a_call_at_its_deadline),
        TEST(a_readable_stop_descriptor_ends_a_wait),
        TEST(a_request_lost_with_the_connection_is_sent_again),
        TEST(a_deletion_whose_answer_was_lost_is_a_deletion),
        TEST(a_watch_tells_each_change_of_state_once_even_over_a_restart),
        TEST(notes_of_progress_that_nobody_read_are_replaced_by_newer_ones),
        TEST(wait_returns_the_job_as_it_ended),
        TEST(a_file_arrives_whole_and_replaces_what_was_there),
        TEST(smaller_chunks_than_asked_for_make_the_same_file),
        TEST(a_restart_in_the_middle_of_a_file_is_not_noticed),
        TEST(one_wrong_bit_is_fetched_again_and_twice_is_an_error),
        TEST(an_interrupted_fetch_goes_on_where_it_stopped),
        TEST(an_empty_file_and_a_missing_one_are_told_apart),
        TEST(an_output_that_cannot_be_written_is_found_beforehand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
