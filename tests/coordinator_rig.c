/*
 * coordinator_rig.c - see coordinator_rig.h.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/clock.h"
#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

enum { READY_MS = 60000, ANSWER_MS = 30000, CHUNK = 300 << 10 };

static const char inspecting_worker[] =
    "#!/bin/sh\n"
    "case \"$2\" in *broken*) echo \"$2/transformer: shard 2 of 5 is missing\" >&2; exit 1;; esac\n"
    "echo '{" RIG_CARD "}'\n";

/* -------------------------------------------------------------------------------------------- the process */

static void path_of(const struct rig *rig, const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%s", rig->directory, name);
}

void rig_prepare(struct rig *rig)
{
    char path[PATH_MAX];
    const char *tmp = getenv("TMPDIR");
    snprintf(rig->directory, sizeof rig->directory, "%.40s/refrain-test.XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(rig->directory));
    path_of(rig, "data", path);
    assert_int_equal(mkdir(path, 0700), 0);
    path_of(rig, "worker", path);
    FILE *script = fopen(path, "w");
    assert_non_null(script);
    fputs(rig->worker_script ? rig->worker_script : inspecting_worker, script);
    assert_int_equal(fclose(script), 0);
    assert_int_equal(chmod(path, 0700), 0);
    rig->context = zmq_ctx_new();
    assert_non_null(rig->context);
    strcpy(rig->endpoint, "tcp://127.0.0.1:*");
    strcpy(rig->worker_endpoint, "tcp://127.0.0.1:*");
}

/* The coordinator that was built with this test: build/tests/test_x stands beside build/refrain-coordinator.
 */
static void find_coordinator(char path[PATH_MAX])
{
    char self[PATH_MAX - 32];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(path, PATH_MAX, "%s/../refrain-coordinator", self);
}

static void become_coordinator(const struct rig *rig)
{
    char program[PATH_MAX], data[PATH_MAX], worker[PATH_MAX], note[PATH_MAX];
    const char *argv[48];
    int n = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    find_coordinator(program);
    path_of(rig, "data", data);
    path_of(rig, "worker", worker);
    path_of(rig, "endpoints", note);
    if (rig->small_disk &&
        (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
         mount("tmpfs", data, "tmpfs", 0, "size=40m") != 0))
        _exit(77);
    if (rig->quiet && !freopen("/dev/null", "w", stderr)) _exit(1);
    argv[n++] = program;
    argv[n++] = "--data", argv[n++] = data;
    argv[n++] = "--worker-binary", argv[n++] = worker;
    argv[n++] = "--endpoint-file", argv[n++] = note;
    argv[n++] = "--endpoint", argv[n++] = rig->endpoint;
    argv[n++] = "--worker-endpoint", argv[n++] = rig->worker_endpoint;
    for (int i = 0; rig->options && rig->options[i]; i++) argv[n++] = rig->options[i];
    argv[n] = NULL;
    if (!getenv("REFRAIN_LOG")) setenv("REFRAIN_LOG", "error", 1);
    execv(program, (char *const *)argv);
    perror(program);
    _exit(127);
}

static void read_endpoints(struct rig *rig, const char *path)
{
    json_t *note = json_load_file(path, 0, NULL);
    assert_non_null(note);
    snprintf(rig->endpoint, sizeof rig->endpoint, "%s", json_string_value(json_object_get(note, "endpoint")));
    snprintf(rig->worker_endpoint, sizeof rig->worker_endpoint, "%s",
             json_string_value(json_object_get(note, "worker_endpoint")));
    const char *metrics = json_string_value(json_object_get(note, "metrics"));
    snprintf(rig->metrics, sizeof rig->metrics, "%s", metrics ? metrics : "");
    json_decref(note);
}

bool rig_launch(struct rig *rig)
{
    char note[PATH_MAX];
    path_of(rig, "endpoints", note);
    unlink(note);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) become_coordinator(rig);
    rig->coordinator = pid;
    for (int waited_ms = 0; waited_ms < READY_MS; waited_ms += 5) {
        if (access(note, R_OK) == 0) {
            read_endpoints(rig, note);
            return true;
        }
        if (waitpid(pid, NULL, WNOHANG) == pid) {
            rig->coordinator = 0;
            return false;
        }
        usleep(5000);
    }
    fail_msg("the coordinator was not ready within %d ms", READY_MS);
    return false;
}

void rig_start(struct rig *rig, const char *const *options)
{
    rig->options = options;
    rig_prepare(rig);
    assert_true(rig_launch(rig));
}

void rig_kill(struct rig *rig)
{
    assert_int_equal(kill(rig->coordinator, SIGKILL), 0);
    assert_int_equal(waitpid(rig->coordinator, NULL, 0), rig->coordinator);
    rig->coordinator = 0;
}

void rig_restart(struct rig *rig)
{
    if (rig->coordinator) rig_kill(rig);
    assert_true(rig_launch(rig));
}

void rig_stop(struct rig *rig)
{
    char command[PATH_MAX];
    if (rig->coordinator) {
        int status = -1;
        kill(rig->coordinator, SIGTERM);
        for (int waited_ms = 0; waited_ms < READY_MS + 5000; waited_ms += 10) {
            if (waitpid(rig->coordinator, &status, WNOHANG) == rig->coordinator) break;
            usleep(10000);
        }
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    zmq_ctx_term(rig->context);
    snprintf(command, sizeof command, "rm -rf '%s'", rig->directory);
    assert_int_equal(system(command), 0);
    *rig = (struct rig){0};
}

/* ------------------------------------------------------------------------------------------------ clients */

static void *connect_dealer(struct rig *rig, const char *endpoint)
{
    int no_linger = 0, backlog = 0; /* no limit */
    void *dealer = zmq_socket(rig->context, ZMQ_DEALER);
    assert_non_null(dealer);
    zmq_setsockopt(dealer, ZMQ_LINGER, &no_linger, sizeof no_linger);
    zmq_setsockopt(dealer, ZMQ_SNDHWM, &backlog, sizeof backlog);
    zmq_setsockopt(dealer, ZMQ_RCVHWM, &backlog, sizeof backlog);
    assert_int_equal(zmq_connect(dealer, endpoint), 0);
    return dealer;
}

void *rig_client(struct rig *rig)
{
    return connect_dealer(rig, rig->endpoint);
}

void rig_send(void *client, Refrain__Request *request)
{
    static uint64_t id; /* tests are one thread */
    wire_stamp(*request);
    SET(*request, id, ++id);
    assert_int_equal(wire_send(client, NULL, &request->base, NULL), STATUS_OK);
}

static bool wait_readable(void *socket, int timeout_ms)
{
    zmq_pollitem_t item = {.socket = socket, .events = ZMQ_POLLIN};
    return zmq_poll(&item, 1, timeout_ms) > 0;
}

Refrain__Reply *rig_reply(void *client, int timeout_ms)
{
    zmq_msg_t frame;
    Refrain__Reply *reply = NULL;
    struct error error;
    if (!wait_readable(client, timeout_ms)) return NULL;
    assert_int_equal(wire_receive(client, NULL, &frame, &error), STATUS_OK);
    assert_int_equal(wire_unpack_reply(zmq_msg_data(&frame), zmq_msg_size(&frame), &reply, &error),
                     STATUS_OK);
    zmq_msg_close(&frame);
    return reply;
}

Refrain__Reply *rig_call(void *client, Refrain__Request *request)
{
    rig_send(client, request);
    for (;;) {
        Refrain__Reply *reply = rig_reply(client, ANSWER_MS);
        assert_non_null(reply);
        if (reply->id == request->id) return reply;
        refrain__reply__free_unpacked(reply, NULL); /* of a watch */
    }
}

void rig_add_model(struct rig *rig, const char *name)
{
    void *client = rig_client(rig);
    Refrain__ModelAdd add = REFRAIN__MODEL_ADD__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    add.name = (char *)name;
    add.directory = (char *)"/models/small";
    request.body_case = REFRAIN__REQUEST__BODY_MODEL_ADD;
    request.model_add = &add;
    Refrain__Reply *reply = rig_call(client, &request);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_MODEL);
    assert_string_equal(reply->model->name, name);
    refrain__reply__free_unpacked(reply, NULL);
    zmq_close(client);
}

Refrain__Reply *rig_submit_spec(void *client, const Refrain__JobSpec *spec, const char *key)
{
    Refrain__Submit submit = REFRAIN__SUBMIT__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    submit.spec = (Refrain__JobSpec *)(uintptr_t)spec;
    submit.idempotency_key = (char *)key;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    return rig_call(client, &request);
}

uint64_t rig_submit(void *client, const char *prompt)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.prompt = (char *)prompt;
    SET(spec, steps, 3);
    Refrain__Reply *reply = rig_submit_spec(client, &spec, NULL);
    if (reply->body_case == REFRAIN__REPLY__BODY_ERROR) fail_msg("%s", reply->error->message);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
    uint64_t job = reply->job->job;
    refrain__reply__free_unpacked(reply, NULL);
    return job;
}

void rig_watch(void *client, uint64_t job, uint64_t from)
{
    Refrain__Watch body = REFRAIN__WATCH__INIT;
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    SET(body, job, job);
    SET(body, from_sequence, from);
    request.body_case = REFRAIN__REQUEST__BODY_WATCH;
    request.watch = &body;
    rig_send(client, &request);
}

Refrain__Reply *rig_about_job(void *client, Refrain__Request__BodyCase kind, uint64_t job)
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

Refrain__Reply *rig_status(void *client, uint64_t job)
{
    return rig_about_job(client, REFRAIN__REQUEST__BODY_STATUS, job);
}

Refrain__Reply *rig_submit_keyed(void *client, const char *prompt, const char *key, uint64_t deadline_ms)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.prompt = (char *)prompt;
    if (deadline_ms) SET(spec, deadline_ms, deadline_ms);
    return rig_submit_spec(client, &spec, key);
}

uint64_t rig_job_of(Refrain__Reply *reply)
{
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
    uint64_t job = reply->job->job;
    refrain__reply__free_unpacked(reply, NULL);
    return job;
}

void rig_expect_error(Refrain__Reply *reply, status_t status, const char *part)
{
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_ERROR);
    if (!strstr(reply->error->message, part))
        fail_msg("\"%s\" does not say \"%s\"", reply->error->message, part);
    assert_int_equal(reply->error->status, status);
    refrain__reply__free_unpacked(reply, NULL);
}

void rig_await(void *client, uint64_t job, Refrain__JobState state)
{
    int last = -1;
    for (int64_t end_ns = clock_now_ns() + 10 * SECOND_NS; clock_now_ns() < end_ns; usleep(10000)) {
        Refrain__Reply *reply = rig_status(client, job);
        assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
        last = (int)reply->job->state;
        refrain__reply__free_unpacked(reply, NULL);
        if (last == (int)state) return;
    }
    fail_msg("job %lu is in state %d, not %d", (unsigned long)job, last, (int)state);
}

/* ------------------------------------------------------------------------------------------- fake workers */

void fake_worker_connect(struct fake_worker *worker, struct rig *rig, const char *group, uint32_t rank,
                         uint32_t ranks)
{
    /* Process 1 always lives and is never "ours": the coordinator does not take the rank for dead. */
    *worker = (struct fake_worker){.group = group, .rank = rank, .ranks = ranks, .pid = 1};
    worker->socket = connect_dealer(rig, rig->worker_endpoint);
}

void fake_worker_open(struct fake_worker *worker, struct rig *rig, const char *group, uint32_t rank,
                      uint32_t ranks)
{
    fake_worker_connect(worker, rig, group, rank, ranks);
    fake_worker_hello(worker);
}

void fake_worker_close(struct fake_worker *worker)
{
    if (worker->socket) zmq_close(worker->socket);
    worker->socket = NULL;
}

void fake_worker_report(struct fake_worker *worker, Refrain__WorkerReport *report)
{
    wire_stamp(*report);
    assert_int_equal(wire_send(worker->socket, NULL, &report->base, NULL), STATUS_OK);
}

/* A report of the given kind with its body in place. */
#define REPORT(worker, kind, member, pointer)                                                                \
    do {                                                                                                     \
        Refrain__WorkerReport report_ = REFRAIN__WORKER_REPORT__INIT;                                        \
        report_.body_case = REFRAIN__WORKER_REPORT__BODY_##kind;                                             \
        report_.member = (pointer);                                                                          \
        fake_worker_report(worker, &report_);                                                                \
    } while (0)

void fake_worker_goodbye(struct fake_worker *worker, const char *message)
{
    Refrain__Goodbye goodbye = REFRAIN__GOODBYE__INIT;
    goodbye.message = (char *)(uintptr_t)message;
    REPORT(worker, GOODBYE, goodbye, &goodbye);
}

void fake_launcher_open(struct fake_worker *launcher, struct rig *rig, const char *group, uint32_t ranks)
{
    Refrain__Launcher body = REFRAIN__LAUNCHER__INIT;
    *launcher = (struct fake_worker){.group = group, .ranks = ranks, .pid = 1};
    launcher->socket = connect_dealer(rig, rig->worker_endpoint);
    body.group = (char *)(uintptr_t)group;
    body.host = (char *)"somewhere";
    body.fabric = (char *)"zmq";
    SET(body, ranks, ranks);
    SET(body, pid, launcher->pid);
    REPORT(launcher, LAUNCHER, launcher, &body);
    Refrain__WorkerOrder *order = fake_worker_order(launcher, REFRAIN__WORKER_ORDER__BODY_WELCOME, ANSWER_MS);
    assert_non_null(order);
    refrain__worker_order__free_unpacked(order, NULL);
}

void fake_worker_hello(struct fake_worker *worker)
{
    char address[64];
    Refrain__RunningJob running = REFRAIN__RUNNING_JOB__INIT, *list[1] = {&running};
    Refrain__Hello hello = REFRAIN__HELLO__INIT;
    snprintf(address, sizeof address, "tcp://127.0.0.1:%u", 20000 + worker->rank);
    hello.group = (char *)worker->group;
    SET(hello, rank, worker->rank);
    SET(hello, ranks, worker->ranks);
    SET(hello, pid, worker->pid);
    SET(hello, threads, 1);
    SET(hello, epoch, worker->epoch);
    SET(hello, epoch_members, worker->epoch_members);
    SET(hello, last_epoch, worker->last_epoch);
    hello.host = (char *)(worker->host ? worker->host : "somewhere");
    hello.backend = (char *)"cpu-fake";
    hello.fabric = (char *)(worker->fabric ? worker->fabric : "zmq");
    hello.fabric_address = (char *)(worker->address ? worker->address : address);
    SET(hello, alone, worker->alone);
    hello.model = (char *)worker->model;
    hello.gpu = (char *)worker->gpu;
    SET(hello, memory_bytes, worker->memory);
    SET(hello, tier_device, worker->tier_device);
    SET(running, job, worker->running_job);
    SET(running, attempt, worker->running_attempt);
    hello.n_running = worker->running_job ? 1 : 0;
    hello.running = list;
    REPORT(worker, HELLO, hello, &hello);
}

Refrain__WorkerOrder *fake_worker_order(struct fake_worker *worker, Refrain__WorkerOrder__BodyCase kind,
                                        int timeout_ms)
{
    for (int64_t end_ns = clock_now_ns() + timeout_ms * MILLISECOND_NS;;) {
        zmq_msg_t frame;
        Refrain__WorkerOrder *order;
        struct error error;
        if (!wait_readable(worker->socket, clock_poll_ms(end_ns))) return NULL;
        assert_int_equal(wire_receive(worker->socket, NULL, &frame, &error), STATUS_OK);
        assert_int_equal(wire_unpack_order(zmq_msg_data(&frame), zmq_msg_size(&frame), &order, &error),
                         STATUS_OK);
        zmq_msg_close(&frame);
        if (order->body_case == kind) return order;
        refrain__worker_order__free_unpacked(order, NULL);
    }
}

static Refrain__WorkerOrder *need_order(struct fake_worker *worker, Refrain__WorkerOrder__BodyCase kind)
{
    Refrain__WorkerOrder *order = fake_worker_order(worker, kind, ANSWER_MS);
    if (!order) fail_msg("rank %u: no order of kind %d came", worker->rank, (int)kind);
    return order;
}

void fake_workers_join(struct fake_worker *workers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        Refrain__WorkerOrder *order = need_order(&workers[i], REFRAIN__WORKER_ORDER__BODY_EPOCH);
        Refrain__EpochReady ready = REFRAIN__EPOCH_READY__INIT;
        assert_int_equal(order->epoch->self, i);
        assert_int_equal(order->epoch->n_members, count);
        assert_int_equal(order->epoch->token.len, 32);
        assert_true(order->epoch->epoch > workers[i].epoch);
        workers[i].epoch = order->epoch->epoch;
        SET(ready, epoch, workers[i].epoch);
        REPORT(&workers[i], EPOCH_READY, epoch_ready, &ready);
        refrain__worker_order__free_unpacked(order, NULL);
    }
}

void fake_workers_open(struct fake_worker *workers, uint32_t count, struct rig *rig, const char *group)
{
    for (uint32_t rank = 0; rank < count; rank++) fake_worker_open(&workers[rank], rig, group, rank, count);
    fake_workers_join(workers, count);
}

void fake_workers_close(struct fake_worker *workers, uint32_t count)
{
    for (uint32_t rank = 0; rank < count; rank++) fake_worker_close(&workers[rank]);
}

void fake_workers_load(struct fake_worker *workers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        Refrain__WorkerOrder *order = need_order(&workers[i], REFRAIN__WORKER_ORDER__BODY_LOAD);
        Refrain__Loaded loaded = REFRAIN__LOADED__INIT;
        assert_string_equal(order->load->directory, "/models/small");
        assert_int_equal(order->load->split->n_run, count);
        SET(loaded, epoch, workers[i].epoch);
        SET(loaded, blocks, 8 / count);
        loaded.model = order->load->model;
        workers[i].model = "small";
        REPORT(&workers[i], LOADED, loaded, &loaded);
        refrain__worker_order__free_unpacked(order, NULL);
    }
}

void fake_worker_take(struct fake_worker *worker, uint64_t *job, uint32_t *attempt)
{
    Refrain__WorkerOrder *order = need_order(worker, REFRAIN__WORKER_ORDER__BODY_ASSIGN);
    assert_non_null(order->assign->spec);
    worker->running_job = *job = order->assign->job;
    worker->running_attempt = *attempt = order->assign->attempt;
    refrain__worker_order__free_unpacked(order, NULL);
}

void fake_worker_progress(struct fake_worker *worker, uint64_t job, uint32_t attempt, uint32_t step)
{
    Refrain__Progress progress = REFRAIN__PROGRESS__INIT;
    Refrain__JobProgress report = REFRAIN__JOB_PROGRESS__INIT;
    SET(progress, phase, REFRAIN__PHASE__PHASE_DENOISE);
    SET(progress, step, step);
    SET(progress, steps, 3);
    SET(progress, step_seconds, 0.25);
    SET(report, job, job);
    SET(report, attempt, attempt);
    report.progress = &progress;
    REPORT(worker, PROGRESS, progress, &report);
}

void fake_bytes(uint64_t seed, uint64_t offset, uint8_t *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) out[i] = (uint8_t)((offset + i) * 31 + ((offset + i) >> 9) + seed);
}

/* Sends the chunk at `offset` and returns how many bytes the coordinator holds after it. */
static uint64_t send_chunk(struct fake_worker *worker, Refrain__UploadChunk *chunk, uint64_t offset,
                           uint64_t bytes)
{
    chunk->data.len = bytes - offset < CHUNK ? bytes - offset : CHUNK;
    SET(*chunk, offset, offset);
    chunk->data.data += offset;
    REPORT(worker, UPLOAD, upload, chunk);
    chunk->data.data -= offset;
    Refrain__WorkerOrder *order = need_order(worker, REFRAIN__WORKER_ORDER__BODY_UPLOAD_ACK);
    assert_string_equal(order->upload_ack->file, chunk->file);
    uint64_t held = order->upload_ack->received;
    refrain__worker_order__free_unpacked(order, NULL);
    return held;
}

void fake_worker_upload(struct fake_worker *worker, uint64_t job, uint32_t attempt, const char *file,
                        uint64_t bytes, uint64_t seed, uint64_t *xxh64)
{
    uint8_t *data = malloc(bytes);
    Refrain__UploadChunk chunk = REFRAIN__UPLOAD_CHUNK__INIT;
    assert_non_null(data);
    fake_bytes(seed, 0, data, bytes);
    *xxh64 = XXH64(data, bytes, 0);
    SET(chunk, job, job);
    SET(chunk, attempt, attempt);
    SET(chunk, total, bytes);
    SET(chunk, xxh64, *xxh64);
    SET(chunk, data, ((ProtobufCBinaryData){0, data}));
    chunk.file = (char *)file;
    for (uint64_t offset = 0; offset < bytes;) offset = send_chunk(worker, &chunk, offset, bytes);
    free(data);
}

void fake_worker_done(struct fake_worker *worker, uint64_t job, uint32_t attempt, const char *name,
                      uint64_t bytes, uint64_t xxh64)
{
    Refrain__ResultFile file = REFRAIN__RESULT_FILE__INIT, *files[1] = {&file};
    Refrain__JobDone done = REFRAIN__JOB_DONE__INIT;
    file.name = (char *)name;
    SET(file, bytes, bytes);
    SET(file, xxh64, xxh64);
    SET(done, job, job);
    SET(done, attempt, attempt);
    done.n_files = 1;
    done.files = files;
    REPORT(worker, DONE, done, &done);
    Refrain__WorkerOrder *order = need_order(worker, REFRAIN__WORKER_ORDER__BODY_NOTED);
    assert_int_equal(order->noted->job, job);
    refrain__worker_order__free_unpacked(order, NULL);
    worker->running_job = 0;
}
