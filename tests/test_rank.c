/*
 * test_rank.c - the loop of a rank: three of them in threads, with a coordinator that is the test. Orders go
 * over ZeroMQ as in the service, hops over a real fabric.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <zmq.h>

#include "base/clock.h"
#include "proto/wire.h"
#include "tests/guarded.h"
#include "tests/golden.h"
#include "tests/pipeline.h"
#include "worker/rank.h"

enum { RANKS = 3, PATIENCE_S = 60, LATENT_BYTES = 1 << 20 };

struct seat {
    struct engine engine;
    struct control *control;
    char directory[64];
    status_t ended;
    pthread_t thread;
    bool stopped;
    /* What the coordinator knows of it. */
    unsigned char identity[16];
    size_t identity_bytes;
    uint64_t last_epoch, lost; /* of its Hello; EpochLost reports */
    uint32_t lost_peer;
    char lost_message[ERROR_TEXT_BYTES],
        failed[ERROR_TEXT_BYTES]; /* EpochLost's; JobFailed's, where it may */
    double block_token_ns;
    int ready, loaded, done;
    uint8_t *latents; /* the file [latent_bytes], as it comes */
    size_t latent_bytes;
};

static struct seat seats[RANKS];
static const struct ops *ops;     /* NULL: guarded_or(NULL) */
static int64_t order_patience_ns; /* 0: the product's */
static void *context, *sock;
static char home[] = "/tmp/refrain-rank-XXXXXX", endpoint[64], model[64]; /* model: a link to it */

/* -------------------------------------------------------------------------------------------------- ranks */

static void *rank_main(void *argument)
{
    struct seat *s = argument;
    struct error error;
    struct rank_config config = {.engine = &s->engine,
                                 .control = s->control,
                                 .directory = s->directory,
                                 .join_timeout_ns = PATIENCE_S * SECOND_NS,
                                 .order_patience_ns = order_patience_ns};
    s->ended = rank_run(&config, &error);
    return NULL;
}

static void start_rank(int index)
{
    struct seat *s = &seats[index];
    struct error error;
    char bind[80];
    memset(s, 0, sizeof *s);
    snprintf(s->directory, sizeof s->directory, "%s/%d", home, index);
    snprintf(bind, sizeof bind, "ipc://%s", s->directory);
    assert_int_equal(mkdir(s->directory, 0700), 0);
    struct fabric_config fabric = {
        .kind = "zmq", .bind = bind, .credits = ENGINE_CREDITS, .max_bytes = 1 << 24};
    struct control_config control = {.coordinator = endpoint, .orphan_ns = PATIENCE_S * SECOND_NS};
    s->engine.ops = ops ? ops : guarded_or(NULL);
    s->engine.members = 1;
    if (team_create(1, &s->engine.team, &error) != STATUS_OK ||
        s->engine.ops->open(s->engine.team, &error) != STATUS_OK ||
        fabric_open(&fabric, &s->engine.fabric, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    refrain__hello__init(&control.hello);
    control.hello.has_rank = 1;
    control.hello.rank = (uint32_t)index;
    control.fabric = s->engine.fabric;
    control.progress = &s->engine.progress;
    control.block_token_ns = &s->engine.block_token_ns;
    if (control_start(&control, &s->control, &error) != STATUS_OK) fail_msg("%s", error.text);
    s->latents = malloc(LATENT_BYTES);
    assert_int_equal(pthread_create(&s->thread, NULL, rank_main, s), 0);
}

static void end_rank(int index)
{
    struct seat *s = &seats[index];
    pthread_join(s->thread, NULL);
    control_stop(s->control);
    fabric_close(s->engine.fabric);
    s->engine.ops->close(s->engine.team);
    team_destroy(s->engine.team);
    free(s->latents);
    rmdir(s->directory);
    s->stopped = true;
}

/* -------------------------------------------------------------------------------------------- coordinator */

static void send_order(int index, Refrain__WorkerOrder__BodyCase what, void *message)
{
    uint8_t bytes[4096];
    Refrain__WorkerOrder order = REFRAIN__WORKER_ORDER__INIT;
    wire_stamp(order);
    order.body_case = what;
    order.welcome = message; /* the members of the union are all pointers */
    assert_true(refrain__worker_order__get_packed_size(&order) <= sizeof bytes);
    size_t size = refrain__worker_order__pack(&order, bytes);
    zmq_send(sock, seats[index].identity, seats[index].identity_bytes, ZMQ_SNDMORE);
    zmq_send(sock, bytes, size, 0);
}

static void take_chunk(int index, const Refrain__UploadChunk *chunk)
{
    struct seat *s = &seats[index];
    Refrain__UploadAck ack = REFRAIN__UPLOAD_ACK__INIT;
    if (strcmp(chunk->file, "latents.safetensors") == 0) {
        assert_true(chunk->offset + chunk->data.len <= LATENT_BYTES);
        memcpy(s->latents + chunk->offset, chunk->data.data, chunk->data.len);
        s->latent_bytes = chunk->offset + chunk->data.len;
    }
    ack.has_job = ack.has_attempt = ack.has_received = 1;
    ack.job = chunk->job;
    ack.attempt = chunk->attempt;
    ack.file = chunk->file;
    ack.received = chunk->offset + chunk->data.len;
    send_order(index, REFRAIN__WORKER_ORDER__BODY_UPLOAD_ACK, &ack);
}

static void take_report(int index, const Refrain__WorkerReport *report)
{
    struct seat *s = &seats[index];
    Refrain__JobNoted noted = REFRAIN__JOB_NOTED__INIT;
    switch (report->body_case) {
    case REFRAIN__WORKER_REPORT__BODY_HELLO:
        s->last_epoch = report->hello->last_epoch;
        break;
    case REFRAIN__WORKER_REPORT__BODY_HEARTBEAT:
        if (report->heartbeat->has_block_token_ns) s->block_token_ns = report->heartbeat->block_token_ns;
        break;
    case REFRAIN__WORKER_REPORT__BODY_EPOCH_READY:
        s->ready = (int)report->epoch_ready->epoch;
        break;
    case REFRAIN__WORKER_REPORT__BODY_EPOCH_LOST:
        s->lost = report->epoch_lost->epoch;
        s->lost_peer = report->epoch_lost->peer;
        snprintf(s->lost_message, sizeof s->lost_message, "%s", report->epoch_lost->message);
        break;
    case REFRAIN__WORKER_REPORT__BODY_LOADED:
        s->loaded = (int)report->loaded->epoch;
        break;
    case REFRAIN__WORKER_REPORT__BODY_LOAD_FAILED:
        fail_msg("member %d: %s", index, report->load_failed->message);
        break;
    case REFRAIN__WORKER_REPORT__BODY_UPLOAD:
        take_chunk(index, report->upload);
        break;
    case REFRAIN__WORKER_REPORT__BODY_FAILED:
        fail_msg("member %d: %s", index, report->failed->message);
        break;
    case REFRAIN__WORKER_REPORT__BODY_DONE:
        s->done++;
        noted.has_job = noted.has_attempt = 1;
        noted.job = report->done->job;
        noted.attempt = report->done->attempt;
        send_order(index, REFRAIN__WORKER_ORDER__BODY_NOTED, &noted);
        break;
    default:
        break;
    }
}

/* A rank is known by the address its Hello came from. */
static int seat_of(const unsigned char *identity, size_t bytes, const Refrain__WorkerReport *report)
{
    if (report->body_case == REFRAIN__WORKER_REPORT__BODY_HELLO) {
        struct seat *s = &seats[report->hello->rank % RANKS];
        memcpy(s->identity, identity, bytes);
        s->identity_bytes = bytes;
    }
    for (int i = 0; i < RANKS; i++)
        if (seats[i].identity_bytes == bytes && memcmp(seats[i].identity, identity, bytes) == 0) return i;
    return -1;
}

static void listen_once(int ms)
{
    zmq_pollitem_t item = {.socket = sock, .events = ZMQ_POLLIN};
    unsigned char identity[16];
    zmq_msg_t message;
    if (zmq_poll(&item, 1, ms) <= 0) return;
    int bytes = zmq_recv(sock, identity, sizeof identity, 0);
    zmq_msg_init(&message);
    zmq_msg_recv(&message, sock, 0);
    Refrain__WorkerReport *report =
        refrain__worker_report__unpack(NULL, zmq_msg_size(&message), zmq_msg_data(&message));
    assert_non_null(report);
    int index = seat_of(identity, (size_t)bytes, report);
    if (index >= 0) take_report(index, report);
    refrain__worker_report__free_unpacked(report, NULL);
    zmq_msg_close(&message);
}

#define AWAIT(condition)                                                                                     \
    do {                                                                                                     \
        int64_t until = clock_now_ns() + PATIENCE_S * SECOND_NS;                                             \
        while (!(condition) && clock_now_ns() < until) listen_once(20);                                      \
        assert_true(condition);                                                                              \
    } while (0)

static void listen_for(int ms)
{
    int64_t until = clock_now_ns() + ms * MILLISECOND_NS;
    while (clock_now_ns() < until) listen_once(5);
}

/* Orders the first `count` ranks into an epoch, one after the other with a pause, and waits for all. */
static void form_epoch(uint64_t epoch, int count, int pause_ms)
{
    Refrain__Member members[RANKS], *pointers[RANKS];
    Refrain__Epoch order = REFRAIN__EPOCH__INIT;
    uint8_t token[FABRIC_TOKEN_BYTES] = "for tests";
    for (int i = 0; i < count; i++) {
        refrain__member__init(&members[i]);
        members[i].address = (char *)(uintptr_t)fabric_address(seats[i].engine.fabric);
        pointers[i] = &members[i];
    }
    order.has_epoch = order.has_self = order.has_token = 1;
    order.epoch = epoch;
    order.n_members = (size_t)count;
    order.members = pointers;
    order.token = (ProtobufCBinaryData){sizeof token, token};
    for (int i = 0; i < count; i++) {
        order.self = (uint32_t)i;
        send_order(i, REFRAIN__WORKER_ORDER__BODY_EPOCH, &order);
        if (pause_ms) listen_for(pause_ms);
    }
    for (int i = 0; i < count; i++) AWAIT(seats[i].ready == (int)epoch);
}

static void load(uint64_t epoch, int count, const struct split *split)
{
    uint32_t runs[SPLIT_CHAINS * RANKS], chains[SPLIT_CHAINS];
    Refrain__Load order = REFRAIN__LOAD__INIT;
    Refrain__Split parts = REFRAIN__SPLIT__INIT;
    parts.has_head = parts.has_tail = parts.has_floating = order.has_epoch = 1;
    parts.head = (uint32_t)split->head;
    parts.tail = (uint32_t)split->tail;
    parts.floating = split->floating;
    parts.n_run = (size_t)(split_chains(split) * count);
    for (size_t i = 0; i < parts.n_run; i++) runs[i] = (uint32_t)split->run[i];
    for (int i = 0; i < SPLIT_CHAINS; i++)
        chains[i] = (uint32_t)split->chain[i / SPLIT_BRANCHES][i % SPLIT_BRANCHES];
    if (split_chains(split) > 1) parts.n_chains = SPLIT_CHAINS;
    parts.chains = chains;
    parts.run = runs;
    order.epoch = epoch;
    order.model = (char *)(uintptr_t) "reference";
    order.directory = model;
    order.split = &parts;
    for (int i = 0; i < count; i++) send_order(i, REFRAIN__WORKER_ORDER__BODY_LOAD, &order);
    for (int i = 0; i < count; i++) AWAIT(seats[i].loaded == (int)epoch);
}

static const char prompt[] = "a small white ring bouncing on a teal background";

static void assign(uint64_t epoch, int index, uint64_t job)
{
    Refrain__Assign order = REFRAIN__ASSIGN__INIT;
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.prompt = (char *)(uintptr_t)prompt;
    spec.has_seed = spec.has_steps = spec.has_guidance = spec.has_width = spec.has_height = 1;
    spec.has_frames = spec.has_shift = spec.has_fps = spec.has_save_latents = 1;
    spec.seed = 5;
    spec.steps = 4;
    spec.guidance = 4;
    spec.width = spec.height = 32;
    spec.frames = 9;
    spec.shift = 3;
    spec.fps = 16;
    spec.save_latents = 1;
    order.has_epoch = order.has_job = order.has_attempt = 1;
    order.epoch = epoch;
    order.job = job;
    order.attempt = 1;
    order.spec = &spec;
    send_order(index, REFRAIN__WORKER_ORDER__BODY_ASSIGN, &order);
}

static void shut_down(int index)
{
    Refrain__Shutdown order = REFRAIN__SHUTDOWN__INIT;
    send_order(index, REFRAIN__WORKER_ORDER__BODY_SHUTDOWN, &order);
}

/* The same job made by one member alone. */
static void expect_latents_of_one_member(int index)
{
    struct pipeline_run alone = {.model = "models/reference",
                                 .order = {.job = 1,
                                           .attempt = 1,
                                           .prompt = prompt,
                                           .seed = 5,
                                           .steps = 4,
                                           .guidance = 4,
                                           .shift = 3,
                                           .width = 32,
                                           .height = 32,
                                           .frames = 9,
                                           .fps = 16}};
    size_t bytes;
    pipeline_execute(&alone);
    assert_int_equal(alone.outcome, STATUS_OK);
    bytes = (size_t)alone.latent_count * sizeof(float);
    assert_true(seats[index].latent_bytes > bytes); /* behind the file's header */
    assert_memory_equal(seats[index].latents + seats[index].latent_bytes - bytes, alone.latents, bytes);
    pipeline_free(&alone);
}

/* -------------------------------------------------------------------------------------------------- tests */

static void link_model(void)
{
    char path[512], *whole = realpath(golden_path(path, sizeof path, "models/reference"), NULL);
    assert_non_null(whole);
    snprintf(model, sizeof model, "%s/model", home);
    assert_int_equal(symlink(whole, model), 0);
    free(whole);
}

static int set_up(void **state)
{
    strcpy(home + sizeof home - 7, "XXXXXX");
    assert_non_null(mkdtemp(home));
    link_model();
    snprintf(endpoint, sizeof endpoint, "ipc://%s/coordinator", home);
    context = zmq_ctx_new();
    sock = zmq_socket(context, ZMQ_ROUTER);
    assert_int_equal(zmq_bind(sock, endpoint), 0);
    for (int i = 0; i < RANKS; i++) start_rank(i);
    for (int i = 0; i < RANKS; i++) AWAIT(seats[i].identity_bytes > 0);
    return 0;
}

static int tear_down(void **state)
{
    char path[128];
    for (int i = 0; i < RANKS; i++)
        if (!seats[i].stopped) shut_down(i);
    for (int i = 0; i < RANKS; i++)
        if (!seats[i].stopped) end_rank(i);
    zmq_close(sock);
    zmq_ctx_term(context);
    snprintf(path, sizeof path, "%s/coordinator", home);
    unlink(path);
    unlink(model);
    return rmdir(home);
}

static void ranks_with_floating_homes_make_jobs_at_every_member(void **state)
{
    form_epoch(1, RANKS, 0);
    load(1, RANKS, &(struct split){.floating = true, .head = 1, .tail = 1, .run = {2, 2, 2}});
    for (int i = 0; i < RANKS; i++) assign(1, i, 1 + (uint64_t)i);
    for (int i = 0; i < RANKS; i++) AWAIT(seats[i].done == 1);
    for (int i = 0; i < RANKS; i++) expect_latents_of_one_member(i);
    for (int i = 0; i < RANKS; i++) AWAIT(seats[i].block_token_ns > 0);
}

static void a_group_may_go_from_floating_homes_to_a_fixed_one_and_back(void **state)
{
    form_epoch(1, RANKS, 0);
    load(1, RANKS, &(struct split){.floating = true, .head = 1, .tail = 1, .run = {2, 2, 2}});
    for (int i = 0; i < RANKS; i++) seats[i].loaded = 0;
    load(1, RANKS, &(struct split){.head = 1, .tail = 1, .run = {2, 2, 2}});
    assign(1, 0, 1);
    AWAIT(seats[0].done == 1);
    expect_latents_of_one_member(0);
    for (int i = 0; i < RANKS; i++) seats[i].loaded = 0;
    load(1, RANKS, &(struct split){.floating = true, .head = 2, .run = {2, 2, 2}});
    assign(1, 2, 2);
    AWAIT(seats[2].done == 1);
    expect_latents_of_one_member(2);
}

static void a_group_may_take_on_chains_for_branches_and_lay_them_off(void **state)
{
    static const struct split splits[] = {
        {.head = 1, .tail = 1, .run = {2, 2, 2}},
        {.chain = {{0, 1}, {0, 1}}, .head = 1, .tail = 1, .run = {4, 2, 0, 0, 2, 4}},
        {.chain = {{0, 1}, {0, 1}}, .floating = true, .run = {8, 0, 0, 0, 4, 4}},
        {.floating = true, .head = 2, .run = {2, 2, 2}},
    };
    form_epoch(1, RANKS, 0);
    for (int i = 0; i < 4; i++) {
        struct split split = splits[i];
        split.members = RANKS;
        for (int r = 0; r < RANKS; r++) seats[r].loaded = 0;
        load(1, RANKS, &split);
        assign(1, 0, 1 + (uint64_t)i);
        AWAIT(seats[0].done == 1 + i);
        expect_latents_of_one_member(0);
    }
}

static int set_up_patient(void **state)
{
    order_patience_ns = 2 * PATIENCE_S * SECOND_NS; /* longer than any order takes on a busy machine */
    return set_up(state);
}

static int tear_down_patient(void **state)
{
    order_patience_ns = 0;
    return tear_down(state);
}

/* The first to be told leaves the others, who hear of the end later. A loss would have been reported before what is waited for
 * here, and is remembered in how a rank ends. */
static void an_epoch_that_an_order_ends_is_not_reported_lost(void **state)
{
    Refrain__Rehello rehello = REFRAIN__REHELLO__INIT;
    for (uint64_t epoch = 1; epoch < 6; epoch++) form_epoch(epoch, RANKS, 10);
    load(5, RANKS, &(struct split){.floating = true, .head = 1, .tail = 1, .run = {2, 2, 2}});
    assign(5, 0, 1);
    AWAIT(seats[0].done == 1); /* no rank thinks that this one was broken */
    for (int i = 0; i < RANKS; i++) send_order(i, REFRAIN__WORKER_ORDER__BODY_REHELLO, &rehello);
    for (int i = 0; i < RANKS; i++) AWAIT(seats[i].last_epoch == 5);
    for (int i = 0; i < RANKS; i++) assert_int_equal(seats[i].lost, 0);
    for (int i = 0; i < RANKS; i++) {
        shut_down(i);
        listen_for(10);
    }
    for (int i = 0; i < RANKS; i++) {
        end_rank(i);
        assert_int_equal(seats[i].ended, STATUS_OK);
    }
}

static void survivors_of_a_lost_member_go_on_in_the_next_epoch(void **state)
{
    form_epoch(1, RANKS, 0);
    load(1, RANKS, &(struct split){.floating = true, .head = 1, .tail = 1, .run = {3, 3, 0}});
    assign(1, 0, 1);
    shut_down(2);
    end_rank(2);
    for (int i = 0; i < 2; i++) AWAIT(seats[i].lost == 1);
    assert_int_equal(seats[0].lost_peer, 2);
    form_epoch(2, 2, 0);
    assert_int_equal(unlink(model), 0); /* the same blocks: nothing is read again */
    load(2, 2, &(struct split){.floating = true, .head = 1, .tail = 1, .run = {3, 3}});
    int before = seats[0].done;
    assign(2, 0, 2);
    assign(2, 1, 3);
    for (int i = 0; i < 2; i++) AWAIT(seats[i].done == 1 + (i == 0 ? before : 0));
    for (int i = 0; i < 2; i++) expect_latents_of_one_member(i);
}

static int set_up_guarded(void **state)
{
    ops = guarded_ops(DTYPE_F32);
    return set_up(state);
}

static int tear_down_guarded(void **state)
{
    ops = NULL;
    guarded_fail_after(-1);
    return tear_down(state);
}

/* Nothing it computes is worth anything any more. Its jobs are for others to make. */
static void a_rank_whose_device_fails_says_so_and_goes(void **state)
{
    form_epoch(1, 1, 0);
    load(1, 1, &(struct split){.head = 8});
    guarded_fail_after(500);
    assign(1, 0, 1);
    AWAIT(seats[0].lost == 1);
    assert_string_equal(seats[0].lost_message, guarded_sentence);
    end_rank(0); /* nobody told it to */
    assert_int_equal(seats[0].ended, STATUS_PEER_LOST);
}

#define RANK_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RANK_TEST(ranks_with_floating_homes_make_jobs_at_every_member),
        RANK_TEST(a_group_may_go_from_floating_homes_to_a_fixed_one_and_back),
        RANK_TEST(a_group_may_take_on_chains_for_branches_and_lay_them_off),
        cmocka_unit_test_setup_teardown(an_epoch_that_an_order_ends_is_not_reported_lost, set_up_patient,
                                        tear_down_patient),
        RANK_TEST(survivors_of_a_lost_member_go_on_in_the_next_epoch),
        cmocka_unit_test_setup_teardown(a_rank_whose_device_fails_says_so_and_goes, set_up_guarded,
                                        tear_down_guarded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
