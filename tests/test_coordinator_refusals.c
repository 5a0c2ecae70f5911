/*
 * test_coordinator_refusals.c - the real coordinator process: garbage, what cannot be had, and who is let in.
 *
 * Workers are scripted (tests/coordinator_rig.h) but speak the real protocol over real sockets.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "proto/keyfile.h"
#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

enum { ANSWER_MS = 5000 };

#define STATE(name) REFRAIN__JOB_STATE__JOB_##name

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
    rig_expect_error(reply, STATUS_UNSUPPORTED, "version 2: this side speaks protocol version 1");
    rig_add_model(&rig, "small");
    char *prompt = malloc((1 << 20) + 1);
    assert_non_null(prompt);
    memset(prompt, 'x', 1 << 20);
    prompt[1 << 20] = '\0';
    rig_expect_error(rig_submit_keyed(client, prompt, NULL, 0), STATUS_INVALID,
                     "prompt of 1048576 bytes: at most 16384");
    rig_expect_error(rig_submit_keyed(client, "\xff", NULL, 0), STATUS_INVALID,
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
    rig_expect_error(rig_call(client, &request), STATUS_INVALID,
                     "/models/broken/transformer: shard 2 of 5 is missing");
    rig_expect_error(rig_submit_keyed(client, "x", NULL, 0), STATUS_NOT_FOUND, "there is none yet");
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
    fake_workers_open(workers, 2, &rig, "one");
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
    fake_workers_close(workers, 2);
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
    spec.has_resume_from = 1;
    spec.resume_from = job;
    return rig_submit_spec(client, &spec, NULL);
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
    Refrain__Reply *reply = rig_submit_spec(client, &spec, NULL);
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
    rig_expect_error(rig_call(a, &request), STATUS_DENIED, "admin key");
    refrain__reply__free_unpacked(rig_call(admin, &request), NULL);

    uint64_t job = rig_job_of(rig_submit_keyed(a, "ann's", "key", 0));
    rig_expect_error(rig_status(b, job), STATUS_NOT_FOUND, "no such job");
    rig_expect_error(rig_about_job(b, REFRAIN__REQUEST__BODY_CANCEL, job), STATUS_NOT_FOUND, "no such job");
    rig_expect_error(rig_about_job(b, REFRAIN__REQUEST__BODY_DELETE, job), STATUS_NOT_FOUND, "no such job");
    rig_watch(b, job, 0);
    rig_expect_error(rig_reply(b, ANSWER_MS), STATUS_NOT_FOUND, "no such job");
    rig_expect_error(submit_branch(b, job), STATUS_NOT_FOUND, "no such job");
    rig_expect_error(submit_branch(a, job), STATUS_NOT_FOUND, "no checkpoints");
    assert_true(rig_job_of(rig_submit_keyed(b, "bob's", "key", 0)) != job); /* keys are each tenant's own */

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
    rig_expect_error(rig_call(named, &request), STATUS_DENIED, "routing id");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nonsense_is_refused_with_a_sentence_and_the_service_stays),
        cmocka_unit_test(a_model_that_cannot_be_read_gives_the_worker_s_sentence),
        cmocka_unit_test(a_full_disk_fails_the_job_with_a_sentence),
        cmocka_unit_test(what_a_rank_s_cache_tier_holds_of_its_gpu_is_no_job_s),
        cmocka_unit_test(a_key_is_a_tenant_and_tenants_do_not_see_each_other),
        cmocka_unit_test(without_keys_other_machines_are_not_served),
        cmocka_unit_test(a_second_coordinator_on_the_same_data_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
