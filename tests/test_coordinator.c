/*
 * test_coordinator.c - the real coordinator process: jobs, ranks, losses, restarts. What it refuses:
 * test_coordinator_refusals.c.
 *
 * Workers are scripted (tests/coordinator_rig.h) but speak the real protocol over real sockets; one test
 * starts real mpirun with this very program as the worker.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

enum { ANSWER_MS = 5000, FILE_BYTES = 1000000 };

#define STATE(name) REFRAIN__JOB_STATE__JOB_##name

/* ------------------------------------------------------------------------------------------ small helpers */

static Refrain__Event *next_event(void *client, Refrain__Reply **reply)
{
    *reply = rig_reply(client, ANSWER_MS);
    assert_non_null(*reply);
    assert_int_equal((*reply)->body_case, REFRAIN__REPLY__BODY_EVENT);
    return (*reply)->event;
}

static void run_job(struct fake_worker *home, uint64_t job, uint32_t attempt)
{
    uint64_t hash;
    fake_worker_progress(home, job, attempt, 1);
    fake_worker_upload(home, job, attempt, "video.mp4", FILE_BYTES, job, &hash);
    fake_worker_done(home, job, attempt, "video.mp4", FILE_BYTES, hash);
}

static void check_file(void *client, uint64_t job)
{
    uint8_t *expected = malloc(FILE_BYTES);
    size_t got = 0;
    assert_non_null(expected);
    fake_bytes(job, 0, expected, FILE_BYTES);
    while (got < FILE_BYTES) {
        Refrain__Fetch fetch = REFRAIN__FETCH__INIT;
        Refrain__Request request = REFRAIN__REQUEST__INIT;
        SET(fetch, job, job);
        SET(fetch, offset, got);
        fetch.file = (char *)"video.mp4";
        request.body_case = REFRAIN__REQUEST__BODY_FETCH;
        request.fetch = &fetch;
        Refrain__Reply *reply = rig_call(client, &request);
        assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_CHUNK);
        assert_int_equal(reply->chunk->total, FILE_BYTES);
        assert_true(reply->chunk->data.len > 0);
        assert_memory_equal(reply->chunk->data.data, expected + got, reply->chunk->data.len);
        got += reply->chunk->data.len;
        refrain__reply__free_unpacked(reply, NULL);
    }
    free(expected);
}

/* -------------------------------------------------------------------------------------------- a whole job */

static void a_job_runs_on_two_ranks_and_its_file_comes_back_whole(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job, assigned;
    uint32_t attempt;
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    fake_workers_open(workers, 2, &rig, "one");
    job = rig_submit(client, "a lighthouse in a storm");
    rig_watch(client, job, 0);
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &assigned, &attempt);
    assert_int_equal(assigned, job);
    assert_int_equal(attempt, 1);
    run_job(&workers[0], job, attempt);

    uint64_t sequence = 0;
    bool progressed = false;
    for (bool last = false; !last;) {
        Refrain__Reply *reply;
        Refrain__Event *event = next_event(client, &reply);
        last = event->last;
        if (event->progress_only)
            progressed = true;
        else
            assert_int_equal(event->sequence, ++sequence);
        if (last) {
            assert_int_equal(event->job->state, STATE(COMPLETED));
            assert_string_equal(event->job->plan, "2 ranks, blocks 4+4, cpu-fake");
            assert_int_equal(event->job->n_files, 1);
            assert_int_equal(event->job->files[0]->bytes, FILE_BYTES);
        }
        refrain__reply__free_unpacked(reply, NULL);
    }
    assert_int_equal(sequence, 4); /* accepted, queued, running, completed */
    assert_true(progressed);
    check_file(client, job);

    refrain__reply__free_unpacked(rig_about_job(client, REFRAIN__REQUEST__BODY_DELETE, job), NULL);
    rig_expect_error(rig_status(client, job), STATUS_NOT_FOUND, "no such job");
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_load_counts_for_the_job_that_waited_for_it(void **state)
{
    enum { LOAD_MS = 300 };
    struct rig rig = {0};
    struct fake_worker workers[2];
    double loads[2];
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    fake_workers_open(workers, 2, &rig, "one");
    for (int i = 0; i < 2; i++) {
        uint64_t job = rig_submit(client, "x"), assigned;
        uint32_t attempt;
        if (i == 0) {
            usleep(LOAD_MS * 1000);
            fake_workers_load(workers, 2);
        }
        fake_worker_take(&workers[0], &assigned, &attempt);
        run_job(&workers[0], job, attempt);
        rig_await(client, job, STATE(COMPLETED));
        Refrain__Reply *reply = rig_status(client, job);
        loads[i] = reply->job->times->load;
        refrain__reply__free_unpacked(reply, NULL);
    }
    assert_true(loads[0] >= LOAD_MS / 1000.0 - 0.05 && loads[0] < 5);
    assert_true(loads[1] == 0);
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_watch_continues_from_a_sequence_number_also_after_the_end(void **state)
{
    struct rig rig = {0};
    Refrain__Reply *reply;
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    uint64_t job = rig_submit(client, "x");
    refrain__reply__free_unpacked(rig_about_job(client, REFRAIN__REQUEST__BODY_CANCEL, job), NULL);
    rig_watch(client, job, 2); /* has seen accepted and queued */
    Refrain__Event *event = next_event(client, &reply);
    assert_int_equal(event->sequence, 3);
    assert_int_equal(event->job->state, STATE(CANCELLED));
    assert_true(event->last);
    refrain__reply__free_unpacked(reply, NULL);
    rig_watch(client, job, 3); /* has seen it all: is told so, and does not wait for ever */
    event = next_event(client, &reply);
    assert_int_equal(event->sequence, 3);
    assert_true(event->last);
    refrain__reply__free_unpacked(reply, NULL);
    zmq_close(client);
    rig_stop(&rig);
}

static void cancelling_a_running_job_waits_for_its_step(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job;
    uint32_t attempt;
    rig_start(&rig, (const char *[]){"--in-flight", "1", NULL});
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    fake_workers_open(workers, 2, &rig, "one");
    rig_submit(client, "first");
    uint64_t second = rig_submit(client, "second");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    refrain__reply__free_unpacked(rig_about_job(client, REFRAIN__REQUEST__BODY_CANCEL, job), NULL);
    rig_await(client, job, STATE(CANCELLING));
    Refrain__WorkerOrder *order =
        fake_worker_order(&workers[0], REFRAIN__WORKER_ORDER__BODY_CANCEL, ANSWER_MS);
    assert_non_null(order);
    assert_int_equal(order->cancel->job, job);
    refrain__worker_order__free_unpacked(order, NULL);

    Refrain__JobCancelled cancelled = REFRAIN__JOB_CANCELLED__INIT;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    SET(cancelled, job, job);
    SET(cancelled, attempt, attempt);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_CANCELLED;
    report.cancelled = &cancelled;
    fake_worker_report(&workers[0], &report);
    rig_await(client, job, STATE(CANCELLED));
    fake_worker_take(&workers[0], &job, &attempt); /* and the next one follows, without another load */
    assert_int_equal(job, second);
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

static void higher_priority_runs_first_and_deadlines_expire(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job;
    uint32_t attempt;
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    uint64_t late = rig_job_of(rig_submit_keyed(client, "late", NULL, 150));
    rig_submit(client, "normal");
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.prompt = (char *)"urgent";
    SET(spec, priority, REFRAIN__PRIORITY__PRIORITY_HIGH);
    uint64_t urgent = rig_job_of(rig_submit_spec(client, &spec, NULL));
    rig_await(client, late, STATE(EXPIRED));
    fake_workers_open(workers, 2, &rig, "one");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    assert_int_equal(job, urgent);
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

static void the_same_key_is_the_same_job_and_another_wish_a_conflict(void **state)
{
    struct rig rig = {0};
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    uint64_t job = rig_job_of(rig_submit_keyed(client, "one", "key", 0));
    assert_int_equal(rig_job_of(rig_submit_keyed(client, "one", "key", 0)), job);
    rig_expect_error(rig_submit_keyed(client, "two", "key", 0), STATUS_CONFLICT, "asked for something else");
    assert_true(rig_job_of(rig_submit_keyed(client, "one", "other", 0)) != job);
    zmq_close(client);
    rig_stop(&rig);
}

/* ------------------------------------------------------------------------------------------------- losses */

static void a_job_goes_on_after_two_lost_groups_and_fails_after_the_third(void **state)
{
    static const char *const groups[] = {"one", "two", "three"};
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job, assigned;
    uint32_t attempt;
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    job = rig_submit(client, "x");
    for (int i = 0; i < 3; i++) {
        fake_workers_open(workers, 2, &rig, groups[i]);
        fake_workers_load(workers, 2);
        fake_worker_take(&workers[0], &assigned, &attempt);
        assert_int_equal(assigned, job);
        assert_int_equal(attempt, i + 1);
        fake_worker_goodbye(&workers[1], "told to");
        rig_await(client, job, i < 2 ? STATE(QUEUED) : STATE(FAILED));
        fake_workers_close(workers, 2);
    }
    Refrain__Reply *reply = rig_status(client, job);
    assert_non_null(strstr(reply->job->message, "given up after its ranks were lost 3 times"));
    refrain__reply__free_unpacked(reply, NULL);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_silent_rank_loses_the_group_and_survivors_are_told(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job;
    uint32_t attempt;
    rig_start(&rig, (const char *[]){"--heartbeat", "500ms", "--silence", "2s", NULL});
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    uint64_t submitted = rig_submit(client, "x");
    fake_workers_open(workers, 2, &rig, "one");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    rig_await(client, submitted, STATE(QUEUED)); /* nobody sends heartbeats */
    Refrain__WorkerOrder *order =
        fake_worker_order(&workers[0], REFRAIN__WORKER_ORDER__BODY_SHUTDOWN, ANSWER_MS);
    assert_non_null(order);
    assert_non_null(strstr(order->shutdown->reason, "said nothing"));
    refrain__worker_order__free_unpacked(order, NULL);
    fake_worker_hello(&workers[0]); /* a straggler is not taken for a new group */
    assert_non_null(order = fake_worker_order(&workers[0], REFRAIN__WORKER_ORDER__BODY_SHUTDOWN, ANSWER_MS));
    refrain__worker_order__free_unpacked(order, NULL);
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_lost_epoch_with_living_ranks_is_followed_by_another(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job;
    uint32_t attempt;
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    rig_submit(client, "x");
    fake_workers_open(workers, 2, &rig, "one");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    Refrain__EpochLost lost = REFRAIN__EPOCH_LOST__INIT;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    SET(lost, epoch, workers[0].epoch);
    SET(lost, peer, 1);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_EPOCH_LOST;
    report.epoch_lost = &lost;
    fake_worker_report(&workers[0], &report);
    for (int i = 0; i < 27; i++) { /* both live: 2.5 s of heartbeats */
        Refrain__Heartbeat beat = REFRAIN__HEARTBEAT__INIT;
        Refrain__WorkerReport alive = REFRAIN__WORKER_REPORT__INIT;
        alive.body_case = REFRAIN__WORKER_REPORT__BODY_HEARTBEAT;
        alive.heartbeat = &beat;
        for (int rank = 0; rank < 2; rank++) fake_worker_report(&workers[rank], &alive);
        usleep(100000);
    }
    fake_workers_join(workers, 2);
    fake_workers_load(workers, 2); /* every epoch begins with a load */
    fake_worker_take(&workers[0], &job, &attempt);
    assert_int_equal(attempt, 2);
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

static void weights_that_do_not_load_fail_the_job_and_the_group_stays(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    uint64_t job = rig_submit(client, "x");
    fake_workers_open(workers, 2, &rig, "one");
    for (int rank = 0; rank < 2; rank++) {
        Refrain__LoadFailed failed = REFRAIN__LOAD_FAILED__INIT;
        Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
        Refrain__WorkerOrder *order =
            fake_worker_order(&workers[rank], REFRAIN__WORKER_ORDER__BODY_LOAD, ANSWER_MS);
        assert_non_null(order);
        refrain__worker_order__free_unpacked(order, NULL);
        SET(failed, epoch, workers[rank].epoch);
        SET(failed, status, STATUS_CORRUPT);
        failed.message = (char *)"blocks.3.ffn.0.weight: is not a number at 17";
        report.body_case = REFRAIN__WORKER_REPORT__BODY_LOAD_FAILED;
        report.load_failed = &failed;
        fake_worker_report(&workers[rank], &report);
    }
    rig_await(client, job, STATE(FAILED));
    Refrain__Reply *reply = rig_status(client, job);
    assert_string_equal(reply->job->message, "blocks.3.ffn.0.weight: is not a number at 17");
    refrain__reply__free_unpacked(reply, NULL);
    rig_submit(client, "y");
    fake_workers_load(workers, 2); /* still there, asked to load anew */
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

/* ----------------------------------------------------------------------------------------------- restarts */

static void ranks_that_reconnect_to_a_restarted_coordinator_keep_their_job(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job, hash;
    uint32_t attempt;
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    rig_submit(client, "x");
    fake_workers_open(workers, 2, &rig, "one");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    fake_worker_upload(&workers[0], job, attempt, "video.mp4", FILE_BYTES, job, &hash);
    rig_restart(&rig);
    for (int rank = 0; rank < 2; rank++) {
        fake_worker_progress(&workers[rank], job, attempt, 2); /* not known any more */
        Refrain__WorkerOrder *order =
            fake_worker_order(&workers[rank], REFRAIN__WORKER_ORDER__BODY_REHELLO, ANSWER_MS);
        assert_non_null(order);
        refrain__worker_order__free_unpacked(order, NULL);
        fake_worker_hello(&workers[rank]);
        order = fake_worker_order(&workers[rank], REFRAIN__WORKER_ORDER__BODY_WELCOME, ANSWER_MS);
        assert_non_null(order);
        assert_int_equal(order->welcome->n_adopted, rank == 0 ? 1 : 0);
        refrain__worker_order__free_unpacked(order, NULL);
    }
    /* The file it already has is not asked for again. */
    fake_worker_done(&workers[0], job, attempt, "video.mp4", FILE_BYTES, hash);
    rig_await(client, job, STATE(COMPLETED));
    check_file(client, job);
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_running_job_whose_ranks_do_not_return_is_queued_again(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2];
    uint64_t job;
    uint32_t attempt;
    rig_start(&rig, (const char *[]){"--reconnect", "300ms", NULL});
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    rig_submit(client, "x");
    fake_workers_open(workers, 2, &rig, "one");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    fake_workers_close(workers, 2);
    rig_restart(&rig);
    rig_await(client, job, STATE(QUEUED));
    fake_workers_open(workers, 2, &rig, "two");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    assert_int_equal(attempt, 2);
    run_job(&workers[0], job, attempt);
    rig_await(client, job, STATE(COMPLETED));
    fake_workers_close(workers, 2);
    zmq_close(client);
    rig_stop(&rig);
}

/* Keeps submitting until the coordinator is killed under it, so long after the first one was acknowledged; returns how many were. */
static size_t submit_until_killed(struct rig *rig, uint64_t *acknowledged, size_t limit,
                                  int64_t kill_after_ns)
{
    void *client = rig_client(rig);
    size_t count = 0;
    int64_t kill_ns = clock_now_ns() + 20 * SECOND_NS; /* if none ever is */
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Submit submit = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    spec.prompt = (char *)"a lighthouse in a storm";
    submit.spec = &spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    while (clock_now_ns() < kill_ns) {
        for (int i = 0; i < 20; i++) rig_send(client, &request);
        for (Refrain__Reply *reply; count < limit && (reply = rig_reply(client, 1));) {
            assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
            if (count == 0) kill_ns = clock_now_ns() + kill_after_ns;
            acknowledged[count++] = reply->job->job;
            refrain__reply__free_unpacked(reply, NULL);
        }
    }
    rig_kill(rig);
    for (Refrain__Reply *reply;
         count < limit && (reply = rig_reply(client, 20));) { /* on their way at that moment */
        acknowledged[count++] = reply->job->job;
        refrain__reply__free_unpacked(reply, NULL);
    }
    zmq_close(client);
    return count;
}

static void every_acknowledged_job_survives_a_kill_at_any_moment(void **state)
{
    enum { ROUNDS = 6, LIMIT = 100000 };
    struct rig rig = {0};
    uint64_t *jobs = malloc(LIMIT * sizeof *jobs);
    assert_non_null(jobs);
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    for (int round = 0; round < ROUNDS; round++) {
        size_t count = submit_until_killed(&rig, jobs, LIMIT, (40 + 17 * round) * MILLISECOND_NS);
        assert_true(count > 0);
        rig_restart(&rig);
        void *client = rig_client(&rig);
        for (size_t i = 0; i < count; i += 1 + count / 200) {
            Refrain__Reply *reply = rig_status(client, jobs[i]);
            assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
            assert_int_equal(reply->job->state, STATE(QUEUED));
            refrain__reply__free_unpacked(reply, NULL);
        }
        zmq_close(client);
    }
    free(jobs);
    rig_stop(&rig);
}

/* ------------------------------------------------------------------------------------- launched by itself */

/* This program as `refrain-worker`: says Hello, joins epochs, sends heartbeats until told to end. */
static int be_a_rank(int argc, char **argv)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *size = getenv("OMPI_COMM_WORLD_SIZE"), *group = NULL;
    struct rig rig = {.context = zmq_ctx_new()};
    struct fake_worker worker;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--coordinator") == 0)
            snprintf(rig.worker_endpoint, sizeof rig.worker_endpoint, "%s", argv[i + 1]);
        if (strcmp(argv[i], "--group") == 0) group = argv[i + 1];
    }
    if (!rank || !size || !group) return 1;
    fake_worker_open(&worker, &rig, group, (uint32_t)atoi(rank), (uint32_t)atoi(size));
    for (;;) {
        Refrain__Heartbeat beat = REFRAIN__HEARTBEAT__INIT;
        Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
        Refrain__WorkerOrder *order = fake_worker_order(&worker, REFRAIN__WORKER_ORDER__BODY_EPOCH, 100);
        report.body_case = REFRAIN__WORKER_REPORT__BODY_HEARTBEAT;
        report.heartbeat = &beat;
        fake_worker_report(&worker, &report);
        if (!order) continue;
        Refrain__EpochReady ready = REFRAIN__EPOCH_READY__INIT;
        SET(ready, epoch, order->epoch->epoch);
        report.body_case = REFRAIN__WORKER_REPORT__BODY_EPOCH_READY;
        report.epoch_ready = &ready;
        fake_worker_report(&worker, &report);
        refrain__worker_order__free_unpacked(order, NULL);
    }
}

/* Waits for a ready group with an epoch above the given one, and returns its epoch. */
static uint64_t await_epoch(void *client, uint64_t above)
{
    Refrain__Stats stats = REFRAIN__STATS__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_STATS;
    request.stats = &stats;
    for (int64_t end_ns = clock_now_ns() + 20 * SECOND_NS; clock_now_ns() < end_ns; usleep(20000)) {
        Refrain__Reply *reply = rig_call(client, &request);
        uint64_t epoch = reply->stats->epoch;
        bool ready = strcmp(reply->stats->group_state, "ready") == 0 && reply->stats->n_ranks == 2;
        refrain__reply__free_unpacked(reply, NULL);
        if (ready && epoch > above) return epoch;
    }
    fail_msg("no group became ready");
    return 0;
}

static pid_t launcher_of(const struct rig *rig)
{
    char path[PATH_MAX];
    int pid = 0;
    snprintf(path, sizeof path, "%s/data/launcher", rig->directory);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &pid), 1);
    fclose(file);
    return pid;
}

static void launched_ranks_outlive_the_coordinator_are_replaced_when_lost_and_end_with_it(void **state)
{
    struct rig rig = {0};
    char script[PATH_MAX + 64], self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    snprintf(script, sizeof script, "#!/bin/sh\nREFRAIN_TEST_RANK=1 exec '%s' \"$@\"\n", self);
    rig.worker_script = script;
    rig_start(&rig, (const char *[]){"--launch", "2", NULL});
    void *client = rig_client(&rig);
    uint64_t first = await_epoch(client, 0);
    pid_t launcher = launcher_of(&rig);
    rig_restart(&rig); /* killed: the ranks stay */
    assert_int_equal(launcher_of(&rig), launcher);
    uint64_t second = await_epoch(client, first - 1);
    assert_true(second >= first);
    assert_int_equal(kill(launcher, SIGKILL), 0);
    await_epoch(client, second); /* a new group came by itself */
    launcher = launcher_of(&rig);
    zmq_close(client);
    rig_stop(&rig);
    assert_int_equal(kill(launcher, 0), -1); /* nothing is left behind */
}

int main(int argc, char **argv)
{
    if (getenv("REFRAIN_TEST_RANK")) return be_a_rank(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_runs_on_two_ranks_and_its_file_comes_back_whole),
        cmocka_unit_test(a_load_counts_for_the_job_that_waited_for_it),
        cmocka_unit_test(a_watch_continues_from_a_sequence_number_also_after_the_end),
        cmocka_unit_test(cancelling_a_running_job_waits_for_its_step),
        cmocka_unit_test(higher_priority_runs_first_and_deadlines_expire),
        cmocka_unit_test(the_same_key_is_the_same_job_and_another_wish_a_conflict),
        cmocka_unit_test(a_job_goes_on_after_two_lost_groups_and_fails_after_the_third),
        cmocka_unit_test(a_silent_rank_loses_the_group_and_survivors_are_told),
        cmocka_unit_test(a_lost_epoch_with_living_ranks_is_followed_by_another),
        cmocka_unit_test(weights_that_do_not_load_fail_the_job_and_the_group_stays),
        cmocka_unit_test(ranks_that_reconnect_to_a_restarted_coordinator_keep_their_job),
        cmocka_unit_test(a_running_job_whose_ranks_do_not_return_is_queued_again),
        cmocka_unit_test(every_acknowledged_job_survives_a_kill_at_any_moment),
        cmocka_unit_test(launched_ranks_outlive_the_coordinator_are_replaced_when_lost_and_end_with_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
