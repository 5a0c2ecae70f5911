/*
 * test_survey.c - what Stats says of groups, ranks and jobs in flight, by the real coordinator process.
 * Workers are scripted (tests/coordinator_rig.h).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <zmq.h>
#include "base/clock.h"
#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

static Refrain__Reply *ask(void *client)
{
    Refrain__Stats body = REFRAIN__STATS__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_STATS;
    request.stats = &body;
    Refrain__Reply *reply = rig_call(client, &request);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_STATS);
    return reply;
}

/* Asks until the first group is in that state, for 10 s. */
static Refrain__Reply *ask_until(void *client, const char *group_state)
{
    for (int64_t end_ns = clock_now_ns() + 10 * SECOND_NS; clock_now_ns() < end_ns;) {
        Refrain__Reply *reply = ask(client);
        if (reply->stats->n_groups && strcmp(reply->stats->groups[0]->state, group_state) == 0) return reply;
        refrain__reply__free_unpacked(reply, NULL);
        zmq_poll(NULL, 0, 20);
    }
    fail_msg("no group came to be %s", group_state);
    return NULL;
}

static void beat(struct fake_worker *worker, uint64_t progress)
{
    Refrain__Heartbeat body = REFRAIN__HEARTBEAT__INIT;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    SET(body, epoch, worker->epoch);
    SET(body, compute_progress, progress);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_HEARTBEAT;
    report.heartbeat = &body;
    fake_worker_report(worker, &report);
}

static void a_seat_that_is_not_taken_is_missing(void **state)
{
    struct rig rig = {0};
    struct fake_worker worker;
    rig_start(&rig, NULL);
    void *client = rig_client(&rig);
    Refrain__Reply *reply = ask(client);
    assert_int_equal(reply->stats->n_groups, 0);
    refrain__reply__free_unpacked(reply, NULL);

    fake_worker_open(&worker, &rig, "group", 1, 2);
    reply = ask_until(client, "gathering");
    const Refrain__GroupInfo *group = reply->stats->groups[0];
    assert_string_equal(group->name, "group");
    assert_null(group->model);
    assert_null(group->plan);
    assert_int_equal(group->n_ranks, 2);
    assert_string_equal(group->ranks[0]->state, "missing");
    assert_null(group->ranks[0]->host);
    assert_false(group->ranks[0]->has_pid);
    assert_string_equal(group->ranks[1]->state, "here");
    assert_string_equal(group->ranks[1]->backend, "cpu-fake");
    assert_int_equal(group->ranks[1]->rank, 1);
    assert_int_equal(group->ranks[1]->epoch, 0);
    assert_false(group->ranks[1]->has_seconds_since_progress);
    assert_int_equal(reply->stats->n_ranks, 1); /* that list has only those that are here */
    refrain__reply__free_unpacked(reply, NULL);
    fake_worker_close(&worker);
    zmq_close(client);
    rig_stop(&rig);
}

static void what_is_in_flight_is_shown_with_its_step(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job;
    uint32_t attempt;
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    for (uint32_t i = 0; i < 2; i++) fake_worker_open(&workers[i], &rig, "group", i, 2);
    fake_workers_join(workers, 2);
    Refrain__Reply *reply = ask_until(client, "ready");
    assert_int_equal(reply->stats->groups[0]->jobs_in_flight, 0);
    assert_true(reply->stats->groups[0]->jobs_limit >= 1);
    assert_int_equal(reply->stats->groups[0]->n_jobs, 0);
    uint64_t epoch = reply->stats->groups[0]->epoch;
    assert_true(epoch > 0);
    assert_int_equal(reply->stats->groups[0]->ranks[1]->epoch, epoch);
    refrain__reply__free_unpacked(reply, NULL);

    uint64_t submitted = rig_submit(client, "a lighthouse");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    assert_int_equal(job, submitted);
    fake_worker_progress(&workers[0], job, attempt, 2);
    beat(&workers[0], 7);
    for (int tries = 0;; tries++) { /* reports and requests come by different sockets */
        reply = ask_until(client, "running");
        const Refrain__GroupInfo *group = reply->stats->groups[0];
        bool all_told = group->n_jobs && group->jobs[0]->step == 2 && group->ranks[0]->compute_progress == 7;
        if (all_told) break;
        refrain__reply__free_unpacked(reply, NULL);
        if (tries > 200) fail_msg("the step was never shown");
        zmq_poll(NULL, 0, 20);
    }
    const Refrain__GroupInfo *group = reply->stats->groups[0];
    assert_string_equal(group->model, "small");
    assert_string_equal(group->plan, "2 ranks, blocks 4+4, cpu-fake");
    assert_int_equal(group->jobs_in_flight, 1);
    assert_int_equal(group->n_jobs, 1);
    assert_int_equal(group->jobs[0]->job, job);
    assert_int_equal(group->jobs[0]->attempt, attempt);
    assert_int_equal(group->jobs[0]->steps, 3);
    assert_int_equal(group->jobs[0]->phase, REFRAIN__PHASE__PHASE_DENOISE);
    assert_true(group->ranks[0]->has_seconds_since_progress);
    assert_true(group->ranks[0]->seconds_since_progress >= 0);
    assert_false(group->ranks[1]->has_seconds_since_progress); /* it has computed nothing yet */
    refrain__reply__free_unpacked(reply, NULL);
    for (int i = 0; i < 2; i++) fake_worker_close(&workers[i]);
    zmq_close(client);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seat_that_is_not_taken_is_missing),
        cmocka_unit_test(what_is_in_flight_is_shown_with_its_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
