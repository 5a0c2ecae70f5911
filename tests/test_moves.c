/*
 * test_moves.c - the real coordinator process and scripted ranks (tests/coordinator_rig.h): what is said, and in which order,
 * when ranks leave and come while a job runs; and what happens when somebody does not answer.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))
#define STATE(name)                REFRAIN__JOB_STATE__JOB_##name
#define ORDER(name)                REFRAIN__WORKER_ORDER__BODY_##name

/* LONG_MS: more than the coordinator waits for jobs to rest. */
enum { ANSWER_MS = 5000, LONG_MS = 15000, QUIET_MS = 300, RANKS = 3 };

/* Three ranks at work on a job that has made a step. Rank `i` sits in ranks[i]; after a drain the array is as before. */
struct bench {
    struct rig rig;
    void *client;
    struct fake_worker ranks[RANKS], launcher;
    uint64_t job;
};

static void begin(struct bench *b)
{
    uint64_t job;
    uint32_t attempt;
    *b = (struct bench){0};
    rig_start(&b->rig, NULL);
    rig_add_model(&b->rig, "small");
    b->client = rig_client(&b->rig);
    fake_launcher_open(&b->launcher, &b->rig, "one", RANKS);
    for (uint32_t rank = 0; rank < RANKS; rank++)
        fake_worker_open(&b->ranks[rank], &b->rig, "one", rank, RANKS);
    fake_workers_join(b->ranks, RANKS);
    b->job = rig_submit(b->client, "x");
    fake_workers_load(b->ranks, RANKS);
    fake_worker_take(&b->ranks[0], &job, &attempt);
    fake_worker_progress(&b->ranks[0], b->job, 1, 1);
}

static void end(struct bench *b)
{
    for (int rank = 0; rank < RANKS; rank++) fake_worker_close(&b->ranks[rank]);
    fake_worker_close(&b->launcher);
    zmq_close(b->client);
    rig_stop(&b->rig);
}

/* The sentence that a person reads. */
static void drain(struct bench *b, const char *who, bool back, const char *sentence)
{
    Refrain__Drain body = REFRAIN__DRAIN__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    body.who = (char *)(uintptr_t)who;
    SET(body, back, back);
    request.body_case = REFRAIN__REQUEST__BODY_DRAIN;
    request.drain = &body;
    Refrain__Reply *reply = rig_call(b->client, &request);
    if (reply->body_case != REFRAIN__REPLY__BODY_ACK) fail_msg("%s", reply->error->message);
    if (!strstr(reply->ack->message, sentence)) fail_msg("%s", reply->ack->message);
    refrain__reply__free_unpacked(reply, NULL);
}

static void expect(struct fake_worker *worker, Refrain__WorkerOrder__BodyCase kind, int timeout_ms)
{
    Refrain__WorkerOrder *order = fake_worker_order(worker, kind, timeout_ms);
    if (!order) fail_msg("rank %u: no order of kind %d came", worker->rank, (int)kind);
    refrain__worker_order__free_unpacked(order, NULL);
}

static void expect_quiet(struct fake_worker *worker, Refrain__WorkerOrder__BodyCase kind)
{
    assert_null(fake_worker_order(worker, kind, QUIET_MS));
}

/* Jobs are to rest, or may go on. */
static void expect_rest(struct bench *b, bool rests, int timeout_ms)
{
    Refrain__WorkerOrder *order = fake_worker_order(&b->ranks[0], ORDER(REST), timeout_ms);
    assert_non_null(order);
    assert_int_equal(order->rest->epoch, b->ranks[0].epoch);
    assert_int_equal(order->rest->patience_ms > 0, rests);
    refrain__worker_order__free_unpacked(order, NULL);
}

static void say_rested(struct bench *b, uint32_t attempt)
{
    Refrain__Rested rested = REFRAIN__RESTED__INIT;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    SET(rested, job, b->job);
    SET(rested, attempt, attempt);
    SET(rested, step, 0); /* there is no vault in this play */
    report.body_case = REFRAIN__WORKER_REPORT__BODY_RESTED;
    report.rested = &rested;
    fake_worker_report(&b->ranks[0], &report);
}

static void expect_assigned(struct bench *b, uint32_t attempt)
{
    uint64_t job;
    uint32_t which;
    fake_worker_take(&b->ranks[0], &job, &which);
    assert_int_equal(job, b->job);
    assert_int_equal(which, attempt);
}

static void leave(struct bench *b, uint32_t attempt)
{
    expect(&b->ranks[2], ORDER(SHUTDOWN), ANSWER_MS);
    fake_workers_join(b->ranks, 2);
    fake_workers_load(b->ranks, 2);
    expect_assigned(b, attempt);
}

/* ------------------------------------------------------------------------------------------------------------------ */

static void a_rank_leaves_when_the_job_rests_and_not_before(void **state)
{
    struct bench b;
    begin(&b);
    drain(&b, "2", false, "1 rank is drained");
    expect_rest(&b, true, ANSWER_MS);
    expect_quiet(&b.ranks[2], ORDER(SHUTDOWN));
    say_rested(&b, 1);
    leave(&b, 2);
    end(&b);
}

static void a_rank_that_comes_back_joins_when_the_job_rests(void **state)
{
    struct bench b;
    begin(&b);
    drain(&b, "2", false, "1 rank is drained");
    expect_rest(&b, true, ANSWER_MS);
    say_rested(&b, 1);
    leave(&b, 2);
    drain(&b, "2", true, "rank 2 is being started again");
    expect(&b.launcher, ORDER(REPLACE), ANSWER_MS);
    fake_worker_close(&b.ranks[2]);
    fake_worker_open(&b.ranks[2], &b.rig, "one", 2, RANKS);
    expect(&b.ranks[2], ORDER(WELCOME), ANSWER_MS);
    /* Not before the job got on since the last time. */
    expect_quiet(&b.ranks[0], ORDER(REST));
    fake_worker_progress(&b.ranks[0], b.job, 2, 1);
    expect_rest(&b, true, ANSWER_MS);
    say_rested(&b, 2);
    fake_workers_join(b.ranks, RANKS);
    fake_workers_load(b.ranks, RANKS);
    expect_assigned(&b, 3);
    end(&b);
}

static void a_drain_that_is_taken_back_in_time_moves_nothing(void **state)
{
    struct bench b;
    begin(&b);
    drain(&b, "2", false, "1 rank is drained");
    expect_rest(&b, true, ANSWER_MS);
    drain(&b, "2", true, "rank 2 stays: it had not left yet");
    expect_rest(&b, false, ANSWER_MS);
    expect_quiet(&b.ranks[0], ORDER(EPOCH));
    rig_await(b.client, b.job, STATE(RUNNING));
    end(&b);
}

/* Home is hung, say. Who must leave leaves all the same. */
static void a_job_that_does_not_rest_keeps_no_rank_from_leaving(void **state)
{
    struct bench b;
    begin(&b);
    drain(&b, "2", false, "1 rank is drained");
    expect_rest(&b, true, ANSWER_MS);
    for (int i = 0; i < LONG_MS / 1000; i++) { /* signs of life, and of nothing else */
        for (int rank = 0; rank < RANKS; rank++) {
            Refrain__Heartbeat beat = REFRAIN__HEARTBEAT__INIT;
            Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
            report.body_case = REFRAIN__WORKER_REPORT__BODY_HEARTBEAT;
            report.heartbeat = &beat;
            fake_worker_report(&b.ranks[rank], &report);
        }
        Refrain__WorkerOrder *order = fake_worker_order(&b.ranks[2], ORDER(SHUTDOWN), 1000);
        if (!order) continue;
        refrain__worker_order__free_unpacked(order, NULL);
        fake_workers_join(b.ranks, 2);
        end(&b);
        return;
    }
    fail_msg("rank 2 was not told to leave");
}

static void a_home_that_says_hello_again_is_told_again(void **state)
{
    struct bench b;
    begin(&b);
    drain(&b, "2", false, "1 rank is drained");
    expect_rest(&b, true, ANSWER_MS);
    fake_worker_hello(&b.ranks[0]);
    expect(&b.ranks[0], ORDER(WELCOME), ANSWER_MS);
    expect_rest(&b, true, ANSWER_MS);
    say_rested(&b, 1);
    leave(&b, 2);
    end(&b);
}

/* What is drained is known to the next coordinator; the job was given back to nobody in between. The ranks are still in the epoch of
 * all of them, with which those that stay cannot go on. */
static void a_coordinator_that_dies_while_jobs_rest_leaves_nothing_undone(void **state)
{
    struct bench b;
    begin(&b);
    drain(&b, "2", false, "1 rank is drained");
    expect_rest(&b, true, ANSWER_MS);
    rig_kill(&b.rig);
    rig_restart(&b.rig);
    zmq_close(b.client);
    b.client = rig_client(&b.rig);
    fake_worker_close(&b.launcher);
    fake_launcher_open(&b.launcher, &b.rig, "one", RANKS);
    for (int rank = 0; rank < RANKS; rank++) {
        struct fake_worker *worker = &b.ranks[rank];
        uint64_t epoch = worker->epoch;
        fake_worker_close(worker);
        *worker = (struct fake_worker){0};
        fake_worker_connect(worker, &b.rig, "one", (uint32_t)rank, RANKS);
        worker->epoch = worker->last_epoch = epoch;
        worker->epoch_members = RANKS;
        worker->running_job = rank ? 0 : b.job;
        worker->running_attempt = 1;
        fake_worker_hello(worker);
    }
    expect(&b.ranks[2], ORDER(SHUTDOWN), ANSWER_MS);
    fake_workers_join(b.ranks, 2);
    fake_workers_load(b.ranks, 2);
    expect_assigned(&b, 2);
    end(&b);
}

static void the_last_ranks_take_the_group_with_them(void **state)
{
    struct bench b;
    begin(&b);
    drain(&b, "somewhere", false,
          "3 ranks are drained, the last of a group: it ends, and its jobs wait for another");
    expect_rest(&b, true, ANSWER_MS);
    say_rested(&b, 1);
    for (int rank = 0; rank < RANKS; rank++) expect(&b.ranks[rank], ORDER(SHUTDOWN), ANSWER_MS);
    expect(&b.launcher, ORDER(SHUTDOWN), ANSWER_MS);
    rig_await(b.client, b.job, STATE(QUEUED));
    end(&b);
}

/* On a seat that the group never had; when it dies nobody replaces it. */
static void a_rank_more_than_there_were_joins_and_may_go_again(void **state)
{
    struct bench b;
    struct fake_worker more[RANKS + 1];
    begin(&b);
    memcpy(more, b.ranks, sizeof b.ranks);
    fake_worker_open(&more[RANKS], &b.rig, "one", RANKS + 1, RANKS + 2); /* seats have no gaps */
    expect(&more[RANKS], ORDER(SHUTDOWN), ANSWER_MS);
    fake_worker_close(&more[RANKS]);
    fake_worker_open(&more[RANKS], &b.rig, "one", RANKS, RANKS + 1);
    expect_rest(&b, true, ANSWER_MS);
    say_rested(&b, 1);
    fake_workers_join(more, RANKS + 1);
    fake_workers_load(more, RANKS + 1);
    b.ranks[0].epoch = more[0].epoch;
    expect_assigned(&b, 2);
    fake_worker_goodbye(&more[RANKS], "for a test");
    fake_workers_join(more, RANKS);
    fake_workers_load(more, RANKS);
    expect_assigned(&b, 3);
    expect_quiet(&b.launcher, ORDER(REPLACE));
    fake_worker_close(&more[RANKS]);
    end(&b);
}

/* A new group would have the drained ones as well, whom somebody took out for a reason. */
static void the_last_rank_that_was_not_drained_is_replaced_when_it_is_lost(void **state)
{
    struct bench b;
    begin(&b);
    drain(&b, "1", false, "1 rank is drained");
    expect_rest(&b, true, ANSWER_MS);
    say_rested(&b, 1);
    expect(&b.ranks[1], ORDER(SHUTDOWN), ANSWER_MS);
    drain(&b, "2", false, "1 rank is drained");
    expect(&b.ranks[2], ORDER(SHUTDOWN), ANSWER_MS);
    fake_worker_goodbye(&b.ranks[0], "for a test");
    Refrain__WorkerOrder *order = fake_worker_order(&b.launcher, ORDER(REPLACE), ANSWER_MS);
    assert_non_null(order);
    assert_int_equal(order->replace->rank, 0);
    refrain__worker_order__free_unpacked(order, NULL);
    fake_worker_close(&b.ranks[0]);
    fake_worker_open(&b.ranks[0], &b.rig, "one", 0, RANKS);
    fake_workers_join(b.ranks, 1);
    end(&b);
}

/* Ranks that an operator named are not there yet, or not any more: no job fails for that. */
static void a_job_waits_for_as_many_ranks_as_were_named(void **state)
{
    struct bench b = {0};
    uint64_t job;
    uint32_t attempt;
    rig_start(&b.rig, (const char *[]){"--split", "3,3,2", NULL});
    rig_add_model(&b.rig, "small");
    b.client = rig_client(&b.rig);
    for (uint32_t rank = 0; rank < 2; rank++) fake_worker_open(&b.ranks[rank], &b.rig, "one", rank, 2);
    fake_workers_join(b.ranks, 2);
    b.job = rig_submit(b.client, "x");
    expect_quiet(&b.ranks[0], ORDER(LOAD));
    Refrain__Reply *reply = rig_status(b.client, b.job);
    assert_int_equal(reply->job->state, STATE(QUEUED));
    assert_string_equal(reply->job->waits, "other ranks: --split names 3 ranks: the group has 2");
    refrain__reply__free_unpacked(reply, NULL);
    fake_worker_connect(&b.ranks[2], &b.rig, "one", 2, 3);
    b.ranks[2].alone = true;
    fake_worker_hello(&b.ranks[2]);
    fake_workers_join(b.ranks, 3);
    fake_workers_load(b.ranks, 3);
    fake_worker_take(&b.ranks[0], &job, &attempt);
    assert_true(job == b.job);
    fake_worker_goodbye(&b.ranks[2], "for a test");
    fake_workers_join(b.ranks, 2);
    rig_await(b.client, b.job, STATE(QUEUED));
    expect_quiet(&b.ranks[0], ORDER(LOAD));
    rig_await(b.client, b.job, STATE(QUEUED));
    end(&b);
}

/* It could not be reached, and would cost the others their epoch, and then the group. */
static void a_rank_that_unix_sockets_cannot_reach_is_sent_away(void **state)
{
    struct bench b;
    struct fake_worker stranger;
    begin(&b);
    fake_worker_connect(&stranger, &b.rig, "one", RANKS, RANKS + 1);
    stranger.host = "elsewhere";
    stranger.address = "ipc:///tmp/here";
    fake_worker_hello(&stranger);
    Refrain__WorkerOrder *order = fake_worker_order(&stranger, ORDER(SHUTDOWN), ANSWER_MS);
    assert_non_null(order);
    assert_non_null(strstr(order->shutdown->reason, "talk over Unix sockets and cannot reach each other"));
    refrain__worker_order__free_unpacked(order, NULL);
    expect_quiet(&b.ranks[0], ORDER(REST));
    fake_worker_close(&stranger);
    end(&b);
}

/* Where nobody can start anybody again, a rank that came by itself is no part of those that end together. */
static void a_rank_that_came_by_hand_may_be_lost_to_a_group_without_a_launcher(void **state)
{
    struct bench b = {0};
    rig_start(&b.rig, NULL);
    b.client = rig_client(&b.rig);
    fake_worker_open(&b.ranks[0], &b.rig, "one", 0, 1);
    fake_workers_join(b.ranks, 1);
    fake_worker_connect(&b.ranks[1], &b.rig, "one", 1, 2);
    b.ranks[1].alone = true;
    fake_worker_hello(&b.ranks[1]);
    fake_workers_join(b.ranks, 2);
    fake_worker_goodbye(&b.ranks[1], "for a test");
    fake_workers_join(b.ranks, 1);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_leaves_when_the_job_rests_and_not_before),
        cmocka_unit_test(a_rank_that_comes_back_joins_when_the_job_rests),
        cmocka_unit_test(a_drain_that_is_taken_back_in_time_moves_nothing),
        cmocka_unit_test(a_job_that_does_not_rest_keeps_no_rank_from_leaving),
        cmocka_unit_test(a_home_that_says_hello_again_is_told_again),
        cmocka_unit_test(a_coordinator_that_dies_while_jobs_rest_leaves_nothing_undone),
        cmocka_unit_test(the_last_ranks_take_the_group_with_them),
        cmocka_unit_test(a_rank_more_than_there_were_joins_and_may_go_again),
        cmocka_unit_test(the_last_rank_that_was_not_drained_is_replaced_when_it_is_lost),
        cmocka_unit_test(a_job_waits_for_as_many_ranks_as_were_named),
        cmocka_unit_test(a_rank_that_unix_sockets_cannot_reach_is_sent_away),
        cmocka_unit_test(a_rank_that_came_by_hand_may_be_lost_to_a_group_without_a_launcher),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
