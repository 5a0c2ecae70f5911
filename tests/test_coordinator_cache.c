/*
 * test_coordinator_cache.c - caching through the real coordinator process: specs in, live actions and reports
 * out, tables of models, an older store.
 *
 * Workers are scripted (tests/coordinator_rig.h) but speak the real protocol over real sockets.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cache/settings.h"
#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))
#define STATE(name)                REFRAIN__JOB_STATE__JOB_##name

enum { FILE_BYTES = 1000, STEPS = 3, ANSWER_MS = 5000 };

/* ------------------------------------------------------------------------------------------ small helpers */

static Refrain__Reply *submit(void *client, const char *cache, bool compare)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Submit body = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    spec.prompt = (char *)"a lighthouse";
    spec.cache = (char *)cache;
    SET(spec, steps, STEPS);
    if (compare) SET(spec, compare, 1);
    body.spec = &spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &body;
    return rig_call(client, &request);
}

static uint64_t job_of(Refrain__Reply *reply)
{
    if (reply->body_case == REFRAIN__REPLY__BODY_ERROR) fail_msg("%s", reply->error->message);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
    uint64_t job = reply->job->job;
    refrain__reply__free_unpacked(reply, NULL);
    return job;
}

static void assert_refused(Refrain__Reply *reply, const char *field, const char *part)
{
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_ERROR);
    if (!strstr(reply->error->message, part))
        fail_msg("\"%s\" does not say \"%s\"", reply->error->message, part);
    assert_string_equal(reply->error->field, field);
    refrain__reply__free_unpacked(reply, NULL);
}

/* One rank with one job of `cache` under way. */
static void begin(struct rig *rig, void **client, struct fake_worker *worker, const char *cache,
                  uint64_t *job, uint32_t *attempt)
{
    rig_start(rig, NULL);
    rig_add_model(rig, "small");
    *client = rig_client(rig);
    uint64_t submitted = job_of(submit(*client, cache, false));
    fake_worker_open(worker, rig, "group", 0, 1);
    fake_workers_join(worker, 1);
    fake_workers_load(worker, 1);
    fake_worker_take(worker, job, attempt);
    assert_int_equal(*job, submitted);
}

static void end(struct rig *rig, void *client, struct fake_worker *worker)
{
    fake_worker_close(worker);
    zmq_close(client);
    rig_stop(rig);
}

static void send_progress(struct fake_worker *worker, uint64_t job, uint32_t attempt, const uint8_t *actions,
                          size_t count)
{
    Refrain__Progress progress = REFRAIN__PROGRESS__INIT;
    Refrain__JobProgress body = REFRAIN__JOB_PROGRESS__INIT;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    SET(progress, phase, REFRAIN__PHASE__PHASE_DENOISE);
    SET(progress, step, (uint32_t)count);
    SET(progress, steps, STEPS);
    SET(progress, largest_reused, 0.113);
    SET(progress, cache_actions, ((ProtobufCBinaryData){count, (uint8_t *)actions}));
    SET(body, job, job);
    SET(body, attempt, attempt);
    body.progress = &progress;
    report.body_case = REFRAIN__WORKER_REPORT__BODY_PROGRESS;
    report.progress = &body;
    fake_worker_report(worker, &report);
}

/* Uploads the files and ends the job with the report. */
static void send_done(struct fake_worker *worker, uint64_t job, uint32_t attempt, const char *const *names,
                      Refrain__CacheReport *cache)
{
    Refrain__ResultFile files[8], *pointers[8];
    Refrain__JobDone done = REFRAIN__JOB_DONE__INIT;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    for (; names[done.n_files]; done.n_files++) {
        Refrain__ResultFile *file = pointers[done.n_files] = &files[done.n_files];
        refrain__result_file__init(file);
        file->name = (char *)names[done.n_files];
        SET(*file, bytes, FILE_BYTES);
        file->has_xxh64 = 1;
        fake_worker_upload(worker, job, attempt, file->name, FILE_BYTES, job, &file->xxh64);
    }
    SET(done, job, job);
    SET(done, attempt, attempt);
    done.files = pointers;
    done.cache = cache;
    report.body_case = REFRAIN__WORKER_REPORT__BODY_DONE;
    report.done = &done;
    fake_worker_report(worker, &report);
    Refrain__WorkerOrder *order = fake_worker_order(worker, REFRAIN__WORKER_ORDER__BODY_NOTED, ANSWER_MS);
    assert_non_null(order);
    refrain__worker_order__free_unpacked(order, NULL);
}

static const char *const video_only[] = {"video.mp4", NULL};

/* What a policy did in a job of 3 steps and 2 branches. */
struct did {
    uint8_t actions[2 * STEPS], reasons[2 * STEPS];
    float changes[2 * STEPS];
};
static const struct did did = {
    {0, 0, 0, 0, 1, 1}, {1, 1, 5, 5, 4, 4}, {-1, -1, 0.5f, 0.5f, 0.0625f, 0.0625f}};

static Refrain__CacheReport make_report(struct did *values)
{
    Refrain__CacheReport report = REFRAIN__CACHE_REPORT__INIT;
    *values = did;
    report.policy = (char *)"dbcache:threshold=0.12";
    SET(report, branches, 2);
    SET(report, computed, 4);
    SET(report, reused, 2);
    SET(report, forecast, 0);
    SET(report, actions, ((ProtobufCBinaryData){sizeof values->actions, values->actions}));
    SET(report, reasons, ((ProtobufCBinaryData){sizeof values->reasons, values->reasons}));
    report.n_changes = sizeof values->changes / sizeof *values->changes;
    report.changes = values->changes;
    SET(report, seconds_saved, 1.5);
    SET(report, bytes, 12345);
    return report;
}

static void assert_reported(void *client, uint64_t job)
{
    Refrain__Reply *reply = rig_status(client, job);
    const Refrain__CacheReport *report = reply->job->cache;
    assert_non_null(report);
    assert_string_equal(report->policy, "dbcache:threshold=0.12");
    assert_int_equal(report->reused, 2);
    assert_int_equal(report->actions.len, sizeof did.actions);
    assert_memory_equal(report->actions.data, did.actions, sizeof did.actions);
    assert_memory_equal(report->reasons.data, did.reasons, sizeof did.reasons);
    assert_int_equal(report->n_changes, 6);
    assert_memory_equal(report->changes, did.changes, sizeof did.changes);
    assert_true(report->seconds_saved == 1.5);
    assert_int_equal(report->bytes, 12345);
    refrain__reply__free_unpacked(reply, NULL);
}

/* --------------------------------------------------------------------------------------------- submitting */

static void a_job_is_refused_at_submit_or_stored_with_every_parameter(void **state)
{
    struct rig rig = {0};
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    assert_refused(submit(client, "nosuchpolicy", false), "cache", "nosuchpolicy");
    assert_refused(submit(client, "dbcache:F9B0", false), "cache", "cache");
    assert_refused(submit(client, "off", true), "compare", "cache is off");
    Refrain__Reply *reply = submit(client, "dbcache:F1B0,R0.2", true);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
    assert_non_null(strstr(reply->job->spec->cache, "threshold=0.2"));
    assert_non_null(strstr(reply->job->spec->cache, "forecast="));
    assert_true(reply->job->spec->compare);
    refrain__reply__free_unpacked(reply, NULL);
    reply = submit(client, NULL, false);
    assert_string_equal(reply->job->spec->cache, "off");
    refrain__reply__free_unpacked(reply, NULL);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_job_that_would_keep_more_than_allowed_is_refused(void **state)
{
    struct rig rig = {0};
    rig_start(&rig, (const char *[]){"--cache-memory", "1M", NULL});
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Submit body = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    spec.prompt = (char *)"a lighthouse";
    spec.cache = (char *)"dbcache:F1B0";
    SET(spec, width, 512);
    SET(spec, height, 512);
    body.spec = &spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &body;
    assert_refused(rig_call(client, &request), "cache", "at most 1.0 MiB is allowed");
    job_of(submit(client, "dbcache:F1B0", false)); /* 64x64 fits */
    zmq_close(client);
    rig_stop(&rig);
}

/* ------------------------------------------------------------------------------------------ live progress */

static void a_watcher_sees_the_actions_of_the_steps_so_far(void **state)
{
    struct rig rig = {0};
    struct fake_worker worker;
    void *client;
    uint64_t job;
    uint32_t attempt;
    static const uint8_t actions[] = {0, 1, 3}, nonsense[] = {0, 1, 4};
    begin(&rig, &client, &worker, "dbcache:F1B0", &job, &attempt);
    send_progress(&worker, job, attempt, actions, 3);

    Refrain__Watch watch = REFRAIN__WATCH__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    SET(watch, job, job);
    SET(watch, from_sequence, 0);
    request.body_case = REFRAIN__REQUEST__BODY_WATCH;
    request.watch = &watch;
    rig_send(client, &request);
    for (bool seen = false; !seen;) { /* the history, then live notes */
        Refrain__Reply *reply = rig_reply(client, ANSWER_MS);
        assert_non_null(reply);
        const Refrain__Event *event = reply->event;
        seen = event->job->progress && event->job->progress->has_cache_actions;
        if (!seen && event->job->state == STATE(RUNNING)) send_progress(&worker, job, attempt, actions, 3);
        if (seen) {
            assert_int_equal(event->job->progress->cache_actions.len, 3);
            assert_memory_equal(event->job->progress->cache_actions.data, actions, 3);
            assert_true(event->job->progress->largest_reused == 0.113);
        }
        refrain__reply__free_unpacked(reply, NULL);
    }
    /* Bytes that are no actions are left out; the rest of the progress counts. */
    void *other = rig_client(&rig);
    send_progress(&worker, job, attempt, nonsense, 3);
    for (bool gone = false; !gone;) {
        Refrain__Reply *reply = rig_status(other, job);
        assert_int_equal(reply->job->progress->step, 3);
        gone = !reply->job->progress->has_cache_actions;
        refrain__reply__free_unpacked(reply, NULL);
    }
    /* A cancelling job still shows how far it is. */
    Refrain__Cancel cancel = REFRAIN__CANCEL__INIT;
    send_progress(&worker, job, attempt, actions, 2);
    SET(cancel, job, job);
    request.body_case = REFRAIN__REQUEST__BODY_CANCEL;
    request.cancel = &cancel;
    for (bool shown = false; !shown;) {
        Refrain__Reply *reply = rig_call(other, &request);
        assert_int_equal(reply->job->state, STATE(CANCELLING));
        shown = reply->job->progress && reply->job->progress->cache_actions.len == 2;
        refrain__reply__free_unpacked(reply, NULL);
    }
    zmq_close(other);
    end(&rig, client, &worker);
}

/* ------------------------------------------------------------------------------------------------ reports */

static void what_the_policy_did_is_stored_with_the_job_and_survives_a_restart(void **state)
{
    struct rig rig = {0};
    struct fake_worker worker;
    void *client;
    uint64_t job;
    uint32_t attempt;
    struct did values;
    begin(&rig, &client, &worker, "dbcache:F1B0", &job, &attempt);
    Refrain__CacheReport report = make_report(&values);
    static const char *const names[] = {"video.mp4", "comparison.mp4", "comparison.png", "trace.json", NULL};
    send_done(&worker, job, attempt, names, &report);
    rig_await(client, job, STATE(COMPLETED));
    assert_reported(client, job);
    zmq_close(client);
    fake_worker_close(&worker);
    rig_restart(&rig);
    client = rig_client(&rig);
    assert_reported(client, job);
    Refrain__Reply *reply = rig_status(client, job);
    assert_int_equal(reply->job->n_files, 4);
    refrain__reply__free_unpacked(reply, NULL);

    /* The moments before the end do not have it yet. */
    Refrain__Watch watch = REFRAIN__WATCH__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    SET(watch, job, job);
    request.body_case = REFRAIN__REQUEST__BODY_WATCH;
    request.watch = &watch;
    rig_send(client, &request);
    for (bool last = false; !last;) {
        reply = rig_reply(client, ANSWER_MS);
        assert_non_null(reply);
        last = reply->event->last;
        assert_true((reply->event->job->cache != NULL) == last);
        refrain__reply__free_unpacked(reply, NULL);
    }
    zmq_close(client);
    rig_stop(&rig);
}

/* A job's report after `spoil`, or none. */
static void assert_kept(const char *cache, void (*spoil)(Refrain__CacheReport *), bool kept)
{
    struct rig rig = {.quiet = true};
    struct fake_worker worker;
    void *client;
    uint64_t job;
    uint32_t attempt;
    struct did values;
    begin(&rig, &client, &worker, cache, &job, &attempt);
    Refrain__CacheReport report = make_report(&values);
    spoil(&report);
    send_done(&worker, job, attempt, video_only, &report);
    rig_await(client, job, STATE(COMPLETED));
    Refrain__Reply *reply = rig_status(client, job);
    assert_int_equal(reply->job->n_files, 1);
    assert_true((reply->job->cache != NULL) == kept);
    if (kept) assert_true(reply->job->cache->changes[4] == -1);
    refrain__reply__free_unpacked(reply, NULL);
    end(&rig, client, &worker);
}

static void make_not_a_number(Refrain__CacheReport *report)
{
    report->changes[4] = NAN;
}

static void leave_one_out(Refrain__CacheReport *report)
{
    report->actions.len--;
}

static void a_report_that_does_not_fit_costs_nobody_the_video(void **state)
{
    assert_kept("dbcache:F1B0", leave_one_out, false);
    assert_kept("off", make_not_a_number, false); /* of a job that had no policy */
    assert_kept("dbcache:F1B0", make_not_a_number, true);
}

/* ------------------------------------------------------------------------------------------------- tables */

#define CARD_START                                                                                           \
    "#!/bin/sh\n"                                                                                            \
    "echo '{" RIG_CARD ","                                                                                   \
    "\"tables\":[{\"kind\":\"magcache\",\"name\":\"here\",\"layers\":8,\"heads\":3,\"head_dim\":40,"         \
    "\"ffn_dim\":256,\"latent_channels\":16,\"steps\":3,\"shift\":3.0,\"width\":1,\"values\":["
#define CARD_END "]}]}'\n"

static void a_models_table_goes_to_the_ranks_with_the_job_but_not_into_lists(void **state)
{
    struct rig rig = {.worker_script = CARD_START "1,0.1,1.0000000000000002" CARD_END};
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    uint64_t job = job_of(submit(client, "magcache", false));
    struct fake_worker worker;
    fake_worker_open(&worker, &rig, "group", 0, 1);
    fake_workers_join(&worker, 1);
    fake_workers_load(&worker, 1);
    Refrain__WorkerOrder *order = fake_worker_order(&worker, REFRAIN__WORKER_ORDER__BODY_ASSIGN, ANSWER_MS);
    assert_non_null(order);
    assert_int_equal(order->assign->job, job);
    assert_int_equal(order->assign->spec->n_cache_tables, 1);
    const Refrain__CacheTable *table = order->assign->spec->cache_tables[0];
    assert_string_equal(table->name, "here");
    assert_int_equal(table->n_values, 3);
    assert_true(table->values[1] == 0.1 && table->values[2] == 1.0000000000000002);
    refrain__worker_order__free_unpacked(order, NULL);

    Refrain__ModelList models = REFRAIN__MODEL_LIST__INIT;
    Refrain__List list = REFRAIN__LIST__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_MODEL_LIST;
    request.model_list = &models;
    Refrain__Reply *reply = rig_call(client, &request);
    assert_int_equal(reply->models->models[0]->n_tables, 1);
    assert_string_equal(reply->models->models[0]->tables[0]->kind, "magcache");
    assert_int_equal(reply->models->models[0]->tables[0]->n_values, 0);
    refrain__reply__free_unpacked(reply, NULL);
    request.body_case = REFRAIN__REQUEST__BODY_LIST;
    request.list = &list;
    reply = rig_call(client, &request);
    assert_int_equal(reply->jobs->jobs[0]->spec->n_cache_tables, 0);
    assert_non_null(strstr(reply->jobs->jobs[0]->spec->cache, "magcache"));
    refrain__reply__free_unpacked(reply, NULL);
    end(&rig, client, &worker);
}

static void a_card_of_megabytes_is_read_and_kept(void **state)
{
    enum { VALUES = 200000 };
    char *script = malloc(sizeof CARD_START + sizeof CARD_END + 24 * VALUES);
    struct rig rig = {.worker_script = script};
    size_t used = (size_t)sprintf(script, CARD_START);
    for (int i = 0; i < VALUES; i++)
        used += (size_t)sprintf(script + used, "%s%.17g", i ? "," : "", 1 + i / 3.0);
    sprintf(script + used, CARD_END);
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    rig_restart(&rig); /* from the store again */
    void *client = rig_client(&rig);
    Refrain__ModelList models = REFRAIN__MODEL_LIST__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_MODEL_LIST;
    request.model_list = &models;
    Refrain__Reply *reply = rig_call(client, &request);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_MODELS);
    assert_int_equal(reply->models->models[0]->n_tables, 1);
    refrain__reply__free_unpacked(reply, NULL);
    zmq_close(client);
    rig_stop(&rig);
    free(script);
}

/* -------------------------------------------------------------------------------------------------- times */

static void send_pace(struct fake_worker *worker)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__Heartbeat beat = REFRAIN__HEARTBEAT__INIT;
    beat.has_compute_progress = beat.has_block_token_ns = 1;
    beat.compute_progress = 1;
    beat.block_token_ns = 1e7;
    report.body_case = REFRAIN__WORKER_REPORT__BODY_HEARTBEAT;
    report.heartbeat = &beat;
    fake_worker_report(worker, &report);
}

/* Every step of it is made with the policy, half of them hits, and once more without. */
static void a_comparison_is_expected_to_take_its_uncached_pass_as_well(void **state)
{
    struct rig rig = {0};
    struct fake_worker worker;
    void *client;
    uint64_t job, plain, compared;
    uint32_t attempt;
    double seconds[2];
    begin(&rig, &client, &worker, "off", &job, &attempt);
    send_done(&worker, job, attempt, video_only, NULL);
    rig_await(client, job, STATE(COMPLETED));
    send_pace(&worker); /* from now on there is a speed to go by */
    plain = job_of(submit(client, "dbcache:F1B0", false)); /* taken by the rank */
    fake_worker_take(&worker, &job, &attempt);
    assert_int_equal(job, plain);
    plain = job_of(submit(client, "dbcache:F1B0", false));
    Refrain__Reply *reply = rig_status(client, plain);
    assert_true(reply->job->progress && reply->job->progress->has_seconds_left);
    seconds[0] = reply->job->progress->seconds_left;
    refrain__reply__free_unpacked(reply, NULL);
    compared = job_of(submit(client, "dbcache:F1B0", true)); /* waits for the plain one as well */
    reply = rig_status(client, compared);
    seconds[1] = reply->job->progress->seconds_left - seconds[0];
    refrain__reply__free_unpacked(reply, NULL);
    /* The first two are equal; half of a pass is between a half and all of one. */
    assert_true(seconds[0] > 1);
    assert_true(seconds[1] > 2 * seconds[0] / 2 && seconds[1] < 4 * seconds[0] / 2);
    end(&rig, client, &worker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_is_refused_at_submit_or_stored_with_every_parameter),
        cmocka_unit_test(a_job_that_would_keep_more_than_allowed_is_refused),
        cmocka_unit_test(a_watcher_sees_the_actions_of_the_steps_so_far),
        cmocka_unit_test(what_the_policy_did_is_stored_with_the_job_and_survives_a_restart),
        cmocka_unit_test(a_report_that_does_not_fit_costs_nobody_the_video),
        cmocka_unit_test(a_models_table_goes_to_the_ranks_with_the_job_but_not_into_lists),
        cmocka_unit_test(a_card_of_megabytes_is_read_and_kept),
        cmocka_unit_test(a_comparison_is_expected_to_take_its_uncached_pass_as_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
