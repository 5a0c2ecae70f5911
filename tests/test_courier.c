/*
 * test_courier.c - the courier against a real vault over TCP: what arrives, what is given up for newer ones,
 * and what restarts, fences, garbage and silence do to it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/clock.h"
#include "coordinator/curve.h"
#include "coordinator/vault/vaultfile.h"
#include "tests/vault_rig.h"
#include "worker/courier.h"

enum { SMALL = 150000, LARGE = (11 << 20) + 77, WAIT_MS = 20000 };

static struct courier *open_courier(const char *endpoint, int64_t patience_ns)
{
    struct courier *courier;
    struct error error;
    struct courier_config config = {.patience_ns = patience_ns};
    if (courier_open(&config, &courier, &error) != STATUS_OK) fail_msg("%s", error.text);
    courier_connect(courier, endpoint);
    return courier;
}

/* Hands a checkpoint made by vault_rig_bytes to the courier. */
static void hand_over(struct courier *courier, const struct checkpoint *checkpoint)
{
    struct checkpoint_name name = {.job = checkpoint->job,
                                   .attempt = checkpoint->attempt,
                                   .step = checkpoint->step,
                                   .bytes = checkpoint->bytes};
    uint8_t *bytes = vault_rig_bytes(checkpoint);
    void *buffer = courier_buffer(courier, checkpoint->job, checkpoint->bytes, false);
    assert_non_null(buffer);
    memcpy(buffer, bytes, checkpoint->bytes);
    courier_send(courier, buffer, &name);
    free(bytes);
}

static struct courier_counts counts_of(const struct courier *courier)
{
    struct courier_counts counts;
    courier_counts(courier, &counts);
    return counts;
}

#define AWAIT(what)                                                                                          \
    do {                                                                                                     \
        int waited_ms = 0;                                                                                   \
        for (; !(what) && waited_ms < WAIT_MS; waited_ms += 2) usleep(2000);                                 \
        if (waited_ms >= WAIT_MS) fail_msg("%s did not happen within %d ms", #what, WAIT_MS);                \
    } while (0)

static bool latest_is(const struct vault_rig *rig, const struct checkpoint *expected)
{
    struct checkpoint latest;
    return vault_latest(rig->vault, expected->job, &latest) && memcmp(&latest, expected, sizeof latest) == 0;
}

static struct checkpoint_name name_of(const struct checkpoint *checkpoint)
{
    return (struct checkpoint_name){.job = checkpoint->job,
                                    .attempt = checkpoint->attempt,
                                    .step = checkpoint->step,
                                    .bytes = checkpoint->bytes,
                                    .xxh64 = checkpoint->xxh64};
}

/* Field by field: the rest of the struct is gaps. */
static bool same_name(const struct checkpoint_name *a, const struct checkpoint_name *b)
{
    return a->job == b->job && a->attempt == b->attempt && a->step == b->step && a->bytes == b->bytes &&
           a->xxh64 == b->xxh64 && key_equal(&a->point.run, &b->point.run) &&
           a->point.step == b->point.step && a->point.seconds == b->point.seconds;
}

static void fetch(struct courier *courier, const struct checkpoint *checkpoint)
{
    struct checkpoint_name name = name_of(checkpoint);
    courier_fetch(courier, &name);
}

static struct courier_arrival arrival_of(struct courier *courier)
{
    struct courier_arrival arrival;
    struct pollfd readable = {.fd = courier_descriptor(courier), .events = POLLIN};
    assert_int_equal(poll(&readable, 1, WAIT_MS), 1);
    assert_true(courier_take(courier, &arrival));
    return arrival;
}

/* The next arrival is that checkpoint, bit for bit. */
static void assert_arrives(struct courier *courier, const struct checkpoint *checkpoint)
{
    struct checkpoint_name name = name_of(checkpoint);
    struct courier_arrival arrival = arrival_of(courier);
    if (!arrival.bytes) fail_msg("%s", arrival.error.text);
    uint8_t *bytes = vault_rig_bytes(checkpoint);
    assert_true(same_name(&arrival.name, &name));
    assert_memory_equal(arrival.bytes, bytes, checkpoint->bytes);
    courier_free(&arrival);
    assert_null(arrival.bytes);
    free(bytes);
}

static void assert_fails(struct courier *courier, status_t status, const char *sentence)
{
    struct courier_arrival arrival = arrival_of(courier);
    assert_null(arrival.bytes);
    assert_int_equal(arrival.error.status, status);
    if (!strstr(arrival.error.text, sentence)) fail_msg("%s: does not say %s", arrival.error.text, sentence);
    courier_free(&arrival);
}

/* -------------------------------------------------------------------------------------------- there, back */

static void what_was_sent_comes_back_bit_for_bit(void **state)
{
    static const uint64_t sizes[] = {1, SMALL, WIRE_CHUNK_MAX, WIRE_CHUNK_MAX + 1, LARGE};
    struct vault_rig rig = {0};
    struct courier_arrival none;
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    uint64_t total = 0;
    for (uint64_t job = 1; job <= 5; job++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, 3, sizes[job - 1]);
        vault_allow(rig.vault, job, 1);
        hand_over(courier, &checkpoint);
        total += checkpoint.bytes;
    }
    AWAIT(counts_of(courier).saved == 5);
    assert_int_equal(counts_of(courier).bytes, total);
    assert_int_equal(counts_of(courier).dropped, 0);
    assert_false(courier_take(courier, &none));
    for (uint64_t job = 1; job <= 5; job++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, 3, sizes[job - 1]);
        assert_true(latest_is(&rig, &checkpoint));
        fetch(courier, &checkpoint);
        assert_arrives(courier, &checkpoint);
    }
    for (int i = 0; i < 2; i++) /* two of the same, and another one, all at once */
        for (uint64_t job = 4; job <= 5; job++) {
            struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, 3, sizes[job - 1]);
            fetch(courier, &checkpoint);
        }
    for (int i = 0; i < 4; i++) {
        struct courier_arrival arrival = arrival_of(courier);
        assert_non_null(arrival.bytes);
        assert_true(XXH64(arrival.bytes, arrival.name.bytes, 0) == arrival.name.xxh64);
        courier_free(&arrival);
    }
    struct pollfd readable = {.fd = courier_descriptor(courier), .events = POLLIN};
    assert_int_equal(poll(&readable, 1, 0), 0);
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void of_many_steps_the_last_one_is_there_in_the_end(void **state)
{
    enum { JOBS = 8, STEPS = 60 };
    struct vault_rig rig = {0};
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    for (uint64_t job = 1; job <= JOBS; job++) vault_allow(rig.vault, job, 1);
    for (uint32_t step = 1; step <= STEPS; step++)
        for (uint64_t job = 1; job <= JOBS; job++) {
            struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, step, SMALL + 100 * step);
            hand_over(courier, &checkpoint);
        }
    for (uint64_t job = 1; job <= JOBS; job++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, STEPS, SMALL + 100 * STEPS);
        AWAIT(latest_is(&rig, &checkpoint));
    }
    AWAIT(counts_of(courier).saved + counts_of(courier).dropped ==
          JOBS * STEPS); /* each one is one or the other */
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void of_those_that_wait_the_newest_is_sent(void **state)
{
    struct vault_rig rig = {0};
    struct vault_stats stats;
    vault_rig_start(&rig);
    vault_allow(rig.vault, 7, 1);
    vault_rig_shut(&rig); /* so that all of them wait */
    struct courier *courier = open_courier(rig.endpoint, 0);
    for (uint32_t step = 1; step <= 9; step++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, step, LARGE);
        hand_over(courier, &checkpoint);
    }
    struct checkpoint last = vault_rig_checkpoint(7, 1, 9, LARGE);
    vault_rig_open(&rig);
    vault_allow(rig.vault, 7, 1);
    AWAIT(latest_is(&rig, &last));
    AWAIT(counts_of(courier).saved + counts_of(courier).dropped == 9);
    vault_stats(rig.vault, &stats);
    assert_in_range(stats.saved, 1, 2); /* the one that had begun, and the newest */
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void buffers_serve_again(void **state)
{
    struct vault_rig rig = {0};
    void *seen[8] = {NULL};
    int distinct = 0;
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    vault_allow(rig.vault, 7, 1);
    for (uint32_t step = 1; step <= 100; step++) {
        struct checkpoint_name name = {.job = 7, .attempt = 1, .step = step, .bytes = SMALL};
        void *buffer = courier_buffer(courier, 7, SMALL, false);
        assert_non_null(buffer);
        assert_int_equal((uintptr_t)buffer % 64, 0);
        int at = 0;
        while (at < distinct && seen[at] != buffer) at++;
        if (at == distinct) {
            assert_in_range(distinct, 0, 1); /* one is sent while the other is filled */
            seen[distinct++] = buffer;
        }
        memset(buffer, (int)step, SMALL);
        courier_send(courier, buffer, &name);
    }
    /* A buffer that was not sent is not lost, and asking twice is no leak. */
    assert_non_null(courier_buffer(courier, 7, SMALL, false));
    assert_non_null(courier_buffer(courier, 7, SMALL, false));
    courier_forget(courier, 7);
    courier_forget(courier, 7);
    courier_forget(courier, 8);
    courier_close(courier);
    vault_rig_stop(&rig);
}

/* Neither the pace, nor newer ones, nor the job's end keeps a mark from being saved. */
static void marks_are_saved_in_any_case(void **state)
{
    enum { STEPS = 40, STRIDE = 4 };
    struct vault_rig rig = {.mark_bytes = 64 << 20};
    struct courier *courier;
    struct error error;
    uint32_t steps[STEPS];
    vault_rig_start(&rig);
    struct courier_config config = {.pace_ns = 5000 * MILLISECOND_NS};
    if (courier_open(&config, &courier, &error) != STATUS_OK) fail_msg("%s", error.text);
    courier_connect(courier, rig.endpoint);
    vault_mark(rig.vault, 7, STRIDE);
    vault_allow(rig.vault, 7, 1);
    for (uint32_t step = 1; step <= STEPS; step++) {
        struct checkpoint_name name = {.job = 7, .attempt = 1, .step = step, .bytes = SMALL};
        void *buffer = courier_buffer(courier, 7, SMALL, step % STRIDE == 0);
        if (!buffer) continue; /* by the pace all but the first of the others */
        assert_true(step == 1 || step % STRIDE == 0);
        memset(buffer, (int)step, SMALL);
        courier_send(courier, buffer, &name);
    }
    courier_forget(courier, 7);
    vault_retire(rig.vault, 7);
    AWAIT(vault_steps(rig.vault, 7, steps, STEPS) >= STEPS / STRIDE);
    for (uint32_t i = 0; i < STEPS / STRIDE; i++) assert_int_equal(steps[i], (i + 1) * STRIDE);
    courier_close(courier);
    vault_rig_stop(&rig);
}

/* They may not take all memory: with no vault to be reached the oldest go. */
static void too_many_waiting_marks_give_up_the_oldest(void **state)
{
    struct courier *courier = open_courier("tcp://127.0.0.1:9", 0);
    uint64_t bytes = COURIER_MARKS / 4 + 1;
    for (uint32_t step = 1; step <= 8; step++) {
        struct checkpoint_name name = {.job = 7, .attempt = 1, .step = step, .bytes = bytes};
        void *buffer = courier_buffer(courier, 7, bytes, true);
        assert_non_null(buffer);
        courier_send(courier, buffer, &name);
    }
    assert_in_range(counts_of(courier).dropped, 4, 5); /* one is being sent, or none yet */
    courier_close(courier);
}

static void a_forgotten_job_makes_room_for_another(void **state)
{
    struct vault_rig rig = {0};
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    for (uint64_t job = 1; job <= COURIER_JOBS; job++)
        assert_non_null(courier_buffer(courier, job, 100, false));
    assert_null(courier_buffer(courier, COURIER_JOBS + 1, 100, false));
    courier_forget(courier, 5);
    assert_non_null(courier_buffer(courier, COURIER_JOBS + 1, 100, false));
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void jobs_take_turns_at_the_pace_that_was_set(void **state)
{
    struct vault_rig rig = {0};
    struct courier *courier;
    struct error error;
    struct courier_config config = {.pace_ns = 3600 * SECOND_NS};
    vault_rig_start(&rig);
    assert_int_equal(courier_open(&config, &courier, &error), STATUS_OK);
    courier_connect(courier, rig.endpoint);
    for (uint64_t job = 1; job <= 3; job++) {
        struct checkpoint checkpoint = vault_rig_checkpoint(job, 1, 1, SMALL);
        vault_allow(rig.vault, job, 1);
        hand_over(courier, &checkpoint);
        assert_null(courier_buffer(courier, job, SMALL, false));
    }
    AWAIT(counts_of(courier).saved == 3);
    assert_null(courier_buffer(courier, 1, SMALL, false));
    courier_forget(courier, 1); /* another attempt is another beginning */
    assert_non_null(courier_buffer(courier, 1, SMALL, false));
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void without_a_vault_nobody_waits(void **state)
{
    struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, 3, SMALL);
    struct courier *courier = open_courier(NULL, 0);
    assert_null(courier_buffer(courier, 7, SMALL, false));
    fetch(courier, &checkpoint);
    assert_fails(courier, STATUS_NOT_FOUND, "nobody keeps checkpoints");
    courier_connect(courier, "");
    assert_null(courier_buffer(courier, 7, SMALL, false));
    courier_connect(courier, "no such thing");
    AWAIT(!courier_buffer(courier, 7, SMALL, false));
    courier_close(courier);
    courier_close(NULL);
}

static void when_the_vault_is_taken_away_fetches_end(void **state)
{
    struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, 3, SMALL);
    struct courier *courier = open_courier("tcp://127.0.0.1:1", 0);
    hand_over(courier, &checkpoint);
    fetch(courier, &checkpoint);
    courier_connect(courier, NULL);
    assert_fails(courier, STATUS_NOT_FOUND, "nobody keeps checkpoints");
    AWAIT(counts_of(courier).dropped == 1);
    courier_close(courier);
}

/* ---------------------------------------------------------------------------------------- what goes wrong */

static void a_checkpoint_under_way_when_the_vault_restarts_is_sent_again(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint large = vault_rig_checkpoint(7, 1, 3, LARGE),
                      small = vault_rig_checkpoint(8, 1, 3, SMALL);
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    for (int i = 0; i < 8; i++) {
        vault_allow(rig.vault, 7, 1);
        vault_allow(rig.vault, 8, 1);
        large = vault_rig_checkpoint(7, 1, 10 + (uint32_t)i, LARGE);
        small = vault_rig_checkpoint(8, 1, 10 + (uint32_t)i, SMALL);
        hand_over(courier, &large);
        hand_over(courier, &small);
        usleep(1500 * (useconds_t)i); /* before, in and after the middle */
        vault_rig_shut(&rig);
        vault_rig_open(&rig);
        vault_allow(rig.vault, 7, 1);
        vault_allow(rig.vault, 8, 1);
        AWAIT(latest_is(&rig, &large) && latest_is(&rig, &small));
    }
    AWAIT(counts_of(courier).saved + counts_of(courier).dropped == 16);
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void a_fetch_under_way_when_the_vault_restarts_is_finished(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint large = vault_rig_checkpoint(7, 1, 3, LARGE);
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    vault_allow(rig.vault, 7, 1);
    hand_over(courier, &large);
    AWAIT(counts_of(courier).saved == 1);
    for (int i = 0; i < 6; i++) {
        fetch(courier, &large);
        usleep(1000 * (useconds_t)i);
        vault_rig_restart(&rig);
        assert_arrives(courier, &large);
    }
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void another_vault_takes_over_where_the_courier_is_told_so(void **state)
{
    struct vault_rig rig = {0}, other = {0};
    struct checkpoint large = vault_rig_checkpoint(7, 1, 3, LARGE);
    vault_rig_start(&other);
    vault_allow(other.vault, 7, 1);
    vault_rig_start(&rig);
    void *silent = zmq_socket(rig.context, ZMQ_ROUTER); /* takes it and says nothing */
    char endpoint[256];
    size_t length = sizeof endpoint;
    assert_int_equal(zmq_bind(silent, "tcp://127.0.0.1:*"), 0);
    zmq_getsockopt(silent, ZMQ_LAST_ENDPOINT, endpoint, &length);
    struct courier *courier = open_courier(endpoint, 0);
    hand_over(courier, &large);
    usleep(20000);
    courier_connect(courier, other.endpoint);
    AWAIT(latest_is(&other, &large));
    zmq_close(silent);
    courier_close(courier);
    vault_rig_stop(&rig);
    vault_rig_stop(&other);
}

static void an_attempt_that_is_over_saves_nothing_and_the_next_one_does(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint old = vault_rig_checkpoint(7, 1, 30, SMALL),
                      next = vault_rig_checkpoint(7, 2, 4, SMALL), latest;
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    vault_allow(rig.vault, 7, 2);
    hand_over(courier, &old);
    AWAIT(counts_of(courier).dropped == 1);
    assert_false(vault_latest(rig.vault, 7, &latest));
    courier_forget(courier, 7);
    hand_over(courier, &next);
    AWAIT(latest_is(&rig, &next));
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void what_the_vault_refuses_does_not_stop_the_next_one(void **state)
{
    struct vault_rig rig = {.job_bytes = 2 << 20};
    struct checkpoint large = vault_rig_checkpoint(7, 1, 1, LARGE),
                      small = vault_rig_checkpoint(7, 1, 2, SMALL);
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    vault_allow(rig.vault, 7, 1);
    hand_over(courier, &large);
    AWAIT(counts_of(courier).dropped == 1);
    hand_over(courier, &small);
    AWAIT(latest_is(&rig, &small));
    courier_close(courier);
    vault_rig_stop(&rig);
}

static void a_checkpoint_that_is_not_there_or_damaged_is_an_arrival_with_a_reason(void **state)
{
    struct vault_rig rig = {0};
    struct checkpoint good = vault_rig_checkpoint(7, 1, 3, LARGE), absent = good, nothing = good, huge = good;
    char path[128];
    vault_rig_start(&rig);
    struct courier *courier = open_courier(rig.endpoint, 0);
    vault_allow(rig.vault, 7, 1);
    hand_over(courier, &good);
    AWAIT(counts_of(courier).saved == 1);
    absent.step = 4;
    fetch(courier, &absent);
    assert_fails(courier, STATUS_NOT_FOUND, "no such checkpoint of step 4");
    nothing.bytes = 0;
    fetch(courier, &nothing);
    assert_fails(courier, STATUS_NO_MEMORY, "0 bytes");
    huge.bytes = UINT64_MAX;
    fetch(courier, &huge);
    assert_fails(courier, STATUS_NO_MEMORY, "no memory");
    snprintf(path, sizeof path, "%s/7/3-1", rig.directory);
    int file = open(path, O_WRONLY);
    assert_int_equal(pwrite(file, "x", 1, VAULTFILE_HEAD_BYTES + LARGE / 2), 1);
    close(file);
    fetch(courier, &good);
    assert_fails(courier, STATUS_CORRUPT, "damaged");
    courier_close(courier);
    vault_rig_stop(&rig);
}

/* A ROUTER that stands in for the vault. */
static void *false_vault(void *context, char endpoint[256])
{
    size_t length = 256;
    int no_linger = 0, backlog = 2;
    void *router = zmq_socket(context, ZMQ_ROUTER);
    assert_non_null(router);
    zmq_setsockopt(router, ZMQ_LINGER, &no_linger, sizeof no_linger);
    zmq_setsockopt(router, ZMQ_RCVHWM, &backlog, sizeof backlog);
    assert_int_equal(zmq_bind(router, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &length), 0);
    return router;
}

static void from_a_vault_that_never_answers_everything_comes_back_in_time(void **state)
{
    void *context = zmq_ctx_new();
    char endpoint[256];
    void *router = false_vault(context, endpoint);
    struct checkpoint large = vault_rig_checkpoint(7, 1, 3, 64 << 20),
                      small = vault_rig_checkpoint(8, 1, 3, SMALL);
    struct courier *courier = open_courier(endpoint, 300 * MILLISECOND_NS);
    hand_over(courier, &large); /* more than anybody holds on the way */
    hand_over(courier, &small);
    fetch(courier, &small);
    assert_fails(courier, STATUS_DEADLINE, "did not come within 0.3 s");
    AWAIT(counts_of(courier).dropped == 2);
    assert_int_equal(counts_of(courier).saved, 0);
    hand_over(courier, &small); /* and closing does not wait for this one */
    courier_close(courier);
    zmq_close(router);
    zmq_ctx_term(context);
}

static void where_nobody_listens_everything_comes_back_in_time(void **state)
{
    struct checkpoint small = vault_rig_checkpoint(8, 1, 3, SMALL);
    struct courier *courier = open_courier("tcp://127.0.0.1:1", 200 * MILLISECOND_NS);
    hand_over(courier, &small);
    fetch(courier, &small);
    assert_fails(courier, STATUS_DEADLINE, "did not come");
    AWAIT(counts_of(courier).dropped == 1);
    courier_close(courier);
}

static void reply_to(void *router, const struct wire_peer *peer, Refrain__VaultReply *reply)
{
    wire_stamp(*reply);
    assert_int_equal(wire_send(router, peer, &reply->base, NULL), STATUS_OK);
}

/* Waits for a request and drops it; *peer is who sent it. */
static void await_request(void *router, struct wire_peer *peer)
{
    zmq_pollitem_t item = {.socket = router, .events = ZMQ_POLLIN};
    zmq_msg_t frame;
    assert_int_equal(zmq_poll(&item, 1, WAIT_MS), 1);
    assert_int_equal(wire_receive(router, peer, &frame, NULL), STATUS_OK);
    zmq_msg_close(&frame);
}

static void answers_that_make_no_sense_are_not_believed(void **state)
{
    void *context = zmq_ctx_new();
    char endpoint[256];
    struct wire_peer peer;
    void *router = false_vault(context, endpoint);
    struct checkpoint small = vault_rig_checkpoint(8, 1, 3, SMALL);
    uint8_t *bytes = vault_rig_bytes(&small);
    struct courier *courier = open_courier(endpoint, 2 * SECOND_NS);
    hand_over(courier, &small);
    await_request(router, &peer);
    Refrain__VaultReply reply = REFRAIN__VAULT_REPLY__INIT;
    Refrain__Saved saved = REFRAIN__SAVED__INIT;
    Refrain__VaultChunk chunk = REFRAIN__VAULT_CHUNK__INIT;
    Refrain__Checkpoint name = REFRAIN__CHECKPOINT__INIT;
    zmq_send(router, peer.identity, peer.length, ZMQ_SNDMORE);
    zmq_send(router, "garbage", 7, 0);
    zmq_send(router, peer.identity, peer.length, ZMQ_SNDMORE);
    zmq_send(router, "two", 3, ZMQ_SNDMORE);
    zmq_send(router, "frames", 6, 0);
    reply_to(router, &peer, &reply); /* says nothing */
    reply.body_case = REFRAIN__VAULT_REPLY__BODY_SAVED;
    reply.saved = &saved;
    reply_to(router, &peer, &reply); /* of nothing */
    saved.has_job = saved.has_attempt = saved.has_step = saved.has_status = 1;
    saved.job = 8;
    saved.attempt = 1;
    saved.step = 2;
    reply_to(router, &peer, &reply); /* of another step */
    reply.body_case = REFRAIN__VAULT_REPLY__BODY_LOADED;
    reply.loaded = &chunk;
    reply_to(router, &peer, &reply); /* nobody asked */
    /* The piece that was asked for, but longer than asked, and then with other bytes. */
    fetch(courier, &small);
    await_request(router, &peer);
    assert_int_equal(counts_of(courier).saved + counts_of(courier).dropped, 0);
    name.has_job = name.has_attempt = name.has_step = 1;
    name.job = 8;
    name.attempt = 1;
    name.step = 3;
    chunk.checkpoint = &name;
    chunk.has_data = 1;
    chunk.data.len = SMALL + 1;
    chunk.data.data = bytes;
    reply_to(router, &peer, &reply);
    assert_fails(courier, STATUS_CORRUPT, "does not fit");
    fetch(courier, &small);
    await_request(router, &peer);
    bytes[SMALL / 2] ^= 1;
    chunk.data.len = SMALL;
    reply_to(router, &peer, &reply);
    assert_fails(courier, STATUS_CORRUPT, "its hash is another");
    /* A status no version of us has. */
    saved.step = 3;
    saved.status = 4000;
    reply.body_case = REFRAIN__VAULT_REPLY__BODY_SAVED;
    reply.saved = &saved;
    reply_to(router, &peer, &reply);
    AWAIT(counts_of(courier).dropped == 1);
    assert_int_equal(counts_of(courier).saved, 0);
    courier_close(courier);
    free(bytes);
    zmq_close(router);
    zmq_ctx_term(context);
}

static status_t protect(void *argument, void *socket, struct error *error)
{
    return curve_protect(argument, socket, "workers", error);
}

static void with_a_workers_key_checkpoints_travel_encrypted(void **state)
{
    struct vault_rig rig = {0};
    struct curve *curve;
    struct keyfile key;
    struct error error;
    struct courier *courier;
    char keys[96], path[PATH_MAX], command[128];
    struct checkpoint large = vault_rig_checkpoint(7, 1, 3, LARGE);
    strcpy(rig.directory, "/tmp/refrain-vault.XXXXXX");
    assert_non_null(mkdtemp(rig.directory));
    snprintf(keys, sizeof keys, "%s.keys", rig.directory);
    assert_int_equal(curve_worker_key(keys, path, sizeof path, &error), STATUS_OK);
    assert_int_equal(keyfile_read(path, &key, &error), STATUS_OK);
    rig.context = zmq_ctx_new();
    assert_int_equal(curve_open(rig.context, keys, &curve, &error), STATUS_OK);
    rig.secure = protect;
    rig.secure_argument = curve;
    vault_rig_start(&rig);
    vault_allow(rig.vault, 7, 1);
    struct courier_config config = {
        .public_key = key.public_key, .secret_key = key.secret_key, .server_key = key.server_key};
    assert_int_equal(courier_open(&config, &courier, &error), STATUS_OK);
    courier_connect(courier, rig.endpoint);
    hand_over(courier, &large);
    AWAIT(latest_is(&rig, &large));
    fetch(courier, &large);
    assert_arrives(courier, &large);
    courier_close(courier);
    vault_rig_shut(&rig);
    curve_close(curve);
    snprintf(command, sizeof command, "rm -rf '%s'", keys);
    assert_int_equal(system(command), 0);
    vault_rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_sent_comes_back_bit_for_bit),
        cmocka_unit_test(of_many_steps_the_last_one_is_there_in_the_end),
        cmocka_unit_test(of_those_that_wait_the_newest_is_sent),
        cmocka_unit_test(buffers_serve_again),
        cmocka_unit_test(marks_are_saved_in_any_case),
        cmocka_unit_test(too_many_waiting_marks_give_up_the_oldest),
        cmocka_unit_test(a_forgotten_job_makes_room_for_another),
        cmocka_unit_test(jobs_take_turns_at_the_pace_that_was_set),
        cmocka_unit_test(without_a_vault_nobody_waits),
        cmocka_unit_test(when_the_vault_is_taken_away_fetches_end),
        cmocka_unit_test(a_checkpoint_under_way_when_the_vault_restarts_is_sent_again),
        cmocka_unit_test(a_fetch_under_way_when_the_vault_restarts_is_finished),
        cmocka_unit_test(another_vault_takes_over_where_the_courier_is_told_so),
        cmocka_unit_test(an_attempt_that_is_over_saves_nothing_and_the_next_one_does),
        cmocka_unit_test(what_the_vault_refuses_does_not_stop_the_next_one),
        cmocka_unit_test(a_checkpoint_that_is_not_there_or_damaged_is_an_arrival_with_a_reason),
        cmocka_unit_test(from_a_vault_that_never_answers_everything_comes_back_in_time),
        cmocka_unit_test(where_nobody_listens_everything_comes_back_in_time),
        cmocka_unit_test(answers_that_make_no_sense_are_not_believed),
        cmocka_unit_test(with_a_workers_key_checkpoints_travel_encrypted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
