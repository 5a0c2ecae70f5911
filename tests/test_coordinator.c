/*
 * test_coordinator.c - the real coordinator process: jobs, ranks, losses, restarts, keys, garbage.
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
#include "proto/keyfile.h"
#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

enum { ANSWER_MS = 5000, FILE_BYTES = 1000000 };

#define STATE(name) REFRAIN__JOB_STATE__JOB_##name

/* ------------------------------------------------------------------------------------------ small helpers */

static Refrain__Reply *about_job(void *client, Refrain__Request__BodyCase kind, uint64_t job)
{
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__Cancel cancel = REFRAIN__CANCEL__INIT;
    Refrain__Delete removal = REFRAIN__DELETE__INIT;
    Refrain__Status status = REFRAIN__STATUS__INIT;
    SET(cancel, job, job);
    SET(removal, job, job);
    SET(status, job, job);
    request.body_case = kind;
    if (kind == REFRAIN__REQUEST__BODY_CANCEL)
        request.cancel = &cancel;
    else if (kind == REFRAIN__REQUEST__BODY_DELETE)
        request.delete_ = &removal;
    else
        request.status = &status;
    return rig_call(client, &request);
}

static void assert_error(Refrain__Reply *reply, status_t status, const char *part)
{
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_ERROR);
    if (!strstr(reply->error->message, part))
        fail_msg("\"%s\" does not say \"%s\"", reply->error->message, part);
    assert_int_equal(reply->error->status, status);
    refrain__reply__free_unpacked(reply, NULL);
}

static void watch(void *client, uint64_t job, uint64_t from)
{
    Refrain__Watch body = REFRAIN__WATCH__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    SET(body, job, job);
    SET(body, from_sequence, from);
    request.body_case = REFRAIN__REQUEST__BODY_WATCH;
    request.watch = &body;
    rig_send(client, &request);
}

static Refrain__Event *next_event(void *client, Refrain__Reply **reply)
{
    *reply = rig_reply(client, ANSWER_MS);
    assert_non_null(*reply);
    assert_int_equal((*reply)->body_case, REFRAIN__REPLY__BODY_EVENT);
    return (*reply)->event;
}

/* A submit with a key; the reply is the caller's. */
static Refrain__Reply *submit_keyed(void *client, const char *prompt, const char *key, uint64_t deadline_ms)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Submit submit = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    spec.prompt = (char *)prompt;
    if (deadline_ms) SET(spec, deadline_ms, deadline_ms);
    submit.spec = &spec;
    submit.idempotency_key = (char *)key;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    return rig_call(client, &request);
}

static uint64_t job_of(Refrain__Reply *reply)
{
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
    uint64_t job = reply->job->job;
    refrain__reply__free_unpacked(reply, NULL);
    return job;
}

/* Two ranks that are ready to work. */
static void open_ranks(struct rig *rig, struct fake_worker workers[2], const char *group)
{
    for (uint32_t rank = 0; rank < 2; rank++) fake_worker_open(&workers[rank], rig, group, rank, 2);
    fake_workers_join(workers, 2);
}

static void close_ranks(struct fake_worker workers[2])
{
    for (uint32_t rank = 0; rank < 2; rank++) fake_worker_close(&workers[rank]);
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
    open_ranks(&rig, workers, "one");
    job = rig_submit(client, "a lighthouse in a storm");
    watch(client, job, 0);
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

    refrain__reply__free_unpacked(about_job(client, REFRAIN__REQUEST__BODY_DELETE, job), NULL);
    assert_error(rig_status(client, job), STATUS_NOT_FOUND, "no such job");
    close_ranks(workers);
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
    open_ranks(&rig, workers, "one");
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
    close_ranks(workers);
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
    refrain__reply__free_unpacked(about_job(client, REFRAIN__REQUEST__BODY_CANCEL, job), NULL);
    watch(client, job, 2); /* has seen accepted and queued */
    Refrain__Event *event = next_event(client, &reply);
    assert_int_equal(event->sequence, 3);
    assert_int_equal(event->job->state, STATE(CANCELLED));
    assert_true(event->last);
    refrain__reply__free_unpacked(reply, NULL);
    watch(client, job, 3); /* has seen it all: is told so, and does not wait for ever */
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
    open_ranks(&rig, workers, "one");
    rig_submit(client, "first");
    uint64_t second = rig_submit(client, "second");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    refrain__reply__free_unpacked(about_job(client, REFRAIN__REQUEST__BODY_CANCEL, job), NULL);
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
    close_ranks(workers);
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
    uint64_t late = job_of(submit_keyed(client, "late", NULL, 150));
    rig_submit(client, "normal");
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Submit submit = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    spec.prompt = (char *)"urgent";
    SET(spec, priority, REFRAIN__PRIORITY__PRIORITY_HIGH);
    submit.spec = &spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    uint64_t urgent = job_of(rig_call(client, &request));
    rig_await(client, late, STATE(EXPIRED));
    open_ranks(&rig, workers, "one");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    assert_int_equal(job, urgent);
    close_ranks(workers);
    zmq_close(client);
    rig_stop(&rig);
}

static void the_same_key_is_the_same_job_and_another_wish_a_conflict(void **state)
{
    struct rig rig = {0};
    rig_start(&rig, NULL);
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    uint64_t job = job_of(submit_keyed(client, "one", "key", 0));
    assert_int_equal(job_of(submit_keyed(client, "one", "key", 0)), job);
    assert_error(submit_keyed(client, "two", "key", 0), STATUS_CONFLICT, "asked for something else");
    assert_true(job_of(submit_keyed(client, "one", "other", 0)) != job);
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
        open_ranks(&rig, workers, groups[i]);
        fake_workers_load(workers, 2);
        fake_worker_take(&workers[0], &assigned, &attempt);
        assert_int_equal(assigned, job);
        assert_int_equal(attempt, i + 1);
        fake_worker_goodbye(&workers[1], "told to");
        rig_await(client, job, i < 2 ? STATE(QUEUED) : STATE(FAILED));
        close_ranks(workers);
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
    open_ranks(&rig, workers, "one");
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
    close_ranks(workers);
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
    open_ranks(&rig, workers, "one");
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
    close_ranks(workers);
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
    open_ranks(&rig, workers, "one");
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
    close_ranks(workers);
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
    open_ranks(&rig, workers, "one");
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
    close_ranks(workers);
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
    open_ranks(&rig, workers, "one");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    close_ranks(workers);
    rig_restart(&rig);
    rig_await(client, job, STATE(QUEUED));
    open_ranks(&rig, workers, "two");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    assert_int_equal(attempt, 2);
    run_job(&workers[0], job, attempt);
    rig_await(client, job, STATE(COMPLETED));
    close_ranks(workers);
    zmq_close(client);
    rig_stop(&rig);
}

/* Keeps submitting until the coordinator is killed under it; returns how many were acknowledged. */
static size_t submit_until_killed(struct rig *rig, uint64_t *acknowledged, size_t limit,
                                  int64_t kill_after_ns)
{
    void *client = rig_client(rig);
    size_t count = 0;
    int64_t kill_ns = clock_now_ns() + kill_after_ns;
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

/* -------------------------------------------------------------------------------------- hostile and wrong */

static void nonsense_is_refused_with_a_sentence_and_the_service_stays(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
    } nonsense[] = {{"", 0},
                    {"garbage", 7},
                    {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11},
                    {"\x08\x01", 2},
                    {"\x08\x01\x52\x7f", 4}};
    struct rig rig = {0};
    rig_start(&rig, NULL);
    void *client = rig_client(&rig), *worker = zmq_socket(rig.context, ZMQ_DEALER);
    int no_linger = 0;
    zmq_setsockopt(worker, ZMQ_LINGER, &no_linger, sizeof no_linger);
    assert_int_equal(zmq_connect(worker, rig.worker_endpoint), 0);
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        zmq_send(client, nonsense[i].bytes, nonsense[i].length, 0);
        zmq_send(worker, nonsense[i].bytes, nonsense[i].length, 0);
        zmq_send(client, "two", 3, ZMQ_SNDMORE);
        zmq_send(client, "frames", 6, 0);
    }
    char *large = calloc(1, 5 << 20); /* above ZMQ_MAXMSGSIZE: the connection ends, and is made anew */
    assert_non_null(large);
    zmq_send(worker, large, 5 << 20, 0);
    free(large);
    zmq_send(client, "\x08\x02\x10\x07", 4, 0); /* version 2, id 7 */
    Refrain__Reply *reply;
    do assert_non_null(reply = rig_reply(client, ANSWER_MS));
    while (reply->id != 7 && (refrain__reply__free_unpacked(reply, NULL), true));
    assert_error(reply, STATUS_UNSUPPORTED, "version 2: this side speaks protocol version 1");
    rig_add_model(&rig, "small");
    char *prompt = malloc((1 << 20) + 1);
    assert_non_null(prompt);
    memset(prompt, 'x', 1 << 20);
    prompt[1 << 20] = '\0';
    assert_error(submit_keyed(client, prompt, NULL, 0), STATUS_INVALID,
                 "prompt of 1048576 bytes: at most 16384");
    assert_error(submit_keyed(client, "\xff", NULL, 0), STATUS_INVALID,
                 "prompt: byte 0 (0xff) is not valid UTF-8");
    free(prompt);
    rig_submit(client, "and on it goes");
    zmq_close(worker);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_model_that_cannot_be_read_gives_the_worker_s_sentence(void **state)
{
    struct rig rig = {0};
    Refrain__ModelAdd add = REFRAIN__MODEL_ADD__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    rig_start(&rig, NULL);
    void *client = rig_client(&rig);
    add.name = (char *)"wan";
    add.directory = (char *)"/models/broken";
    request.body_case = REFRAIN__REQUEST__BODY_MODEL_ADD;
    request.model_add = &add;
    assert_error(rig_call(client, &request), STATUS_INVALID,
                 "/models/broken/transformer: shard 2 of 5 is missing");
    assert_error(submit_keyed(client, "x", NULL, 0), STATUS_NOT_FOUND, "there is none yet");
    zmq_close(client);
    rig_stop(&rig);
}

static void a_full_disk_fails_the_job_with_a_sentence(void **state)
{
    struct rig rig = {.small_disk = true};
    struct fake_worker workers[2];
    uint64_t job;
    uint32_t attempt;
    rig_prepare(&rig);
    if (!rig_launch(&rig)) { /* no privilege to make a small disk */
        rig_stop(&rig);
        skip();
    }
    rig_add_model(&rig, "small");
    void *client = rig_client(&rig);
    rig_submit(client, "x");
    open_ranks(&rig, workers, "one");
    fake_workers_load(workers, 2);
    fake_worker_take(&workers[0], &job, &attempt);
    uint8_t data[1000] = {0};
    Refrain__UploadChunk chunk = REFRAIN__UPLOAD_CHUNK__INIT;
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    SET(chunk, job, job);
    SET(chunk, attempt, attempt);
    SET(chunk, offset, 0);
    SET(chunk, total, 20 << 20);
    SET(chunk, data, ((ProtobufCBinaryData){sizeof data, data}));
    chunk.file = (char *)"frames.safetensors";
    report.body_case = REFRAIN__WORKER_REPORT__BODY_UPLOAD;
    report.upload = &chunk;
    fake_worker_report(&workers[0], &report);
    rig_await(client, job, STATE(FAILED));
    Refrain__Reply *reply = rig_status(client, job);
    assert_non_null(strstr(reply->job->message, "the disk is full"));
    refrain__reply__free_unpacked(reply, NULL);
    Refrain__WorkerOrder *order =
        fake_worker_order(&workers[0], REFRAIN__WORKER_ORDER__BODY_CANCEL, ANSWER_MS);
    assert_non_null(order); /* home need not go on with it ... */
    refrain__worker_order__free_unpacked(order, NULL);
    fake_worker_report(&workers[0], &report); /* ... and if it does, is not kept waiting */
    order = fake_worker_order(&workers[0], REFRAIN__WORKER_ORDER__BODY_UPLOAD_ACK, ANSWER_MS);
    assert_non_null(order);
    assert_int_equal(order->upload_ack->received, chunk.total);
    refrain__worker_order__free_unpacked(order, NULL);
    close_ranks(workers);
    zmq_close(client);
    rig_stop(&rig);
}

/* --------------------------------------------------------------------------------------------------- keys */

static void make_key(const char *keys, const char *name, const char *role, struct keyfile *key)
{
    char self[PATH_MAX], command[2 * PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(command, sizeof command,
             "'%s/../refrain-coordinator' --keys '%s' --make-key %s --role %s >/dev/null", self, keys, name,
             role);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "%s/%s.secret", keys, name);
    assert_int_equal(keyfile_read(command, key, NULL), STATUS_OK);
}

static void *keyed_client(struct rig *rig, const struct keyfile *key, const char *routing_id)
{
    int no_linger = 0;
    void *client = zmq_socket(rig->context, ZMQ_DEALER);
    zmq_setsockopt(client, ZMQ_LINGER, &no_linger, sizeof no_linger);
    if (key) assert_int_equal(keyfile_apply_client(key, client, NULL), STATUS_OK);
    if (routing_id) zmq_setsockopt(client, ZMQ_ROUTING_ID, routing_id, strlen(routing_id));
    assert_int_equal(zmq_connect(client, rig->endpoint), 0);
    return client;
}

static Refrain__Reply *submit_branch(void *client, uint64_t job)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Submit submit = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    spec.has_resume_from = 1;
    spec.resume_from = job;
    submit.spec = &spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    return rig_call(client, &request);
}

static void say_hello_again(struct fake_worker *worker)
{
    fake_worker_hello(worker);
    Refrain__WorkerOrder *order = fake_worker_order(worker, REFRAIN__WORKER_ORDER__BODY_WELCOME, 5000);
    assert_non_null(order);
    refrain__worker_order__free_unpacked(order, NULL);
}

/* A card that says 400 MB for the backend, and a GPU of 600 MB: with and without 300 MB of it for the cache tier. */
static void what_a_rank_s_cache_tier_holds_of_its_gpu_is_no_job_s(void **state)
{
    struct rig rig = {
        .worker_script =
            "#!/bin/sh\n"
            "echo '{" RIG_CARD ","
            "\"need_block\":1000,\"need_home\":1000,\"need_backend\":400000000,\"need_work\":1000}'\n"};
    struct fake_worker worker;
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Submit submit = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    rig_start(&rig, (const char *[]){NULL});
    rig_add_model(&rig, "ref");
    void *client = rig_client(&rig);
    fake_worker_open(&worker, &rig, "gpus", 0, 1);
    fake_workers_join(&worker, 1);
    worker.gpu = "a GPU";
    worker.memory = 600000000;
    worker.tier_device = 300000000;
    say_hello_again(&worker);
    spec.prompt = (char *)"a red star";
    SET(spec, steps, 3);
    submit.spec = &spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    Refrain__Reply *reply = rig_call(client, &request);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_ERROR);
    if (!strstr(reply->error->message, "of 0.3 GB a rank")) fail_msg("%s", reply->error->message);
    refrain__reply__free_unpacked(reply, NULL);
    worker.tier_device = 0;
    say_hello_again(&worker);
    rig_submit(client, "a red star");
    fake_worker_close(&worker);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_key_is_a_tenant_and_tenants_do_not_see_each_other(void **state)
{
    struct rig rig = {0};
    struct keyfile ann, bob, boss, worker;
    char keys[PATH_MAX];
    rig_prepare(&rig);
    snprintf(keys, sizeof keys, "%s/keys", rig.directory);
    make_key(keys, "ann", "client", &ann);
    make_key(keys, "bob", "client", &bob);
    make_key(keys, "boss", "admin", &boss);
    make_key(keys, "node7", "worker", &worker);
    rig.options = (const char *[]){"--keys", keys, NULL};
    assert_true(rig_launch(&rig));
    void *a = keyed_client(&rig, &ann, NULL), *b = keyed_client(&rig, &bob, NULL),
         *admin = keyed_client(&rig, &boss, NULL);

    Refrain__ModelAdd add = REFRAIN__MODEL_ADD__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    add.name = (char *)"small";
    add.directory = (char *)"/models/small";
    request.body_case = REFRAIN__REQUEST__BODY_MODEL_ADD;
    request.model_add = &add;
    assert_error(rig_call(a, &request), STATUS_DENIED, "admin key");
    refrain__reply__free_unpacked(rig_call(admin, &request), NULL);

    uint64_t job = job_of(submit_keyed(a, "ann's", "key", 0));
    assert_error(rig_status(b, job), STATUS_NOT_FOUND, "no such job");
    assert_error(about_job(b, REFRAIN__REQUEST__BODY_CANCEL, job), STATUS_NOT_FOUND, "no such job");
    assert_error(about_job(b, REFRAIN__REQUEST__BODY_DELETE, job), STATUS_NOT_FOUND, "no such job");
    watch(b, job, 0);
    assert_error(rig_reply(b, ANSWER_MS), STATUS_NOT_FOUND, "no such job");
    assert_error(submit_branch(b, job), STATUS_NOT_FOUND, "no such job");
    assert_error(submit_branch(a, job), STATUS_NOT_FOUND, "no checkpoints");
    assert_true(job_of(submit_keyed(b, "bob's", "key", 0)) != job); /* keys are each tenant's own */

    /* No key, and a worker's key at the clients' door: no answer at all. A chosen name: refused. */
    void *nobody = keyed_client(&rig, NULL, NULL), *node = keyed_client(&rig, &worker, NULL);
    void *named = keyed_client(&rig, &ann, "me");
    Refrain__Stats stats = REFRAIN__STATS__INIT;
    request.body_case = REFRAIN__REQUEST__BODY_STATS;
    request.stats = &stats;
    rig_send(nobody, &request);
    rig_send(node, &request);
    assert_null(rig_reply(nobody, 300));
    assert_null(rig_reply(node, 10));
    assert_error(rig_call(named, &request), STATUS_DENIED, "routing id");
    void *all[] = {a, b, admin, nobody, node, named};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) zmq_close(all[i]);
    rig_stop(&rig);
}

static void without_keys_other_machines_are_not_served(void **state)
{
    struct rig rig = {.quiet = true};
    rig_prepare(&rig);
    strcpy(rig.endpoint, "tcp://0.0.0.0:*");
    assert_false(rig_launch(&rig));
    rig_stop(&rig);
}

static void a_second_coordinator_on_the_same_data_is_refused(void **state)
{
    struct rig rig = {0};
    rig_start(&rig, NULL);
    struct rig second = rig;
    second.quiet = true;
    strcpy(second.endpoint, "tcp://127.0.0.1:*");
    strcpy(second.worker_endpoint, "tcp://127.0.0.1:*");
    assert_false(rig_launch(&second));
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
        cmocka_unit_test(nonsense_is_refused_with_a_sentence_and_the_service_stays),
        cmocka_unit_test(a_model_that_cannot_be_read_gives_the_worker_s_sentence),
        cmocka_unit_test(a_full_disk_fails_the_job_with_a_sentence),
        cmocka_unit_test(what_a_rank_s_cache_tier_holds_of_its_gpu_is_no_job_s),
        cmocka_unit_test(a_key_is_a_tenant_and_tenants_do_not_see_each_other),
        cmocka_unit_test(without_keys_other_machines_are_not_served),
        cmocka_unit_test(a_second_coordinator_on_the_same_data_is_refused),
        cmocka_unit_test(launched_ranks_outlive_the_coordinator_are_replaced_when_lost_and_end_with_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
