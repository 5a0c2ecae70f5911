/*
 * fuzz_coordinator.c - libFuzzer over what ranks and clients may say to a coordinator, in any order: it has two ranks in an
 * epoch with a model, and a job that is assigned to one of them; then come messages of any fields. It goes on.
 *
 * A byte says who speaks, or that a turn is over; a message is made from what follows it.
 */
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/card.h"
#include "coordinator/server.h"
#include "tests/message_maker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RANKS = 2, MOST_MESSAGES = 40, TURNS_TO_BEGIN = 8 };

/* Ranks are 0 and 1, 2 is nobody's yet, 3 and 4 are clients. */
static const struct wire_peer peers[] = {{.identity = "rank0", .length = 5},
                                         {.identity = "rank1", .length = 5},
                                         {.identity = "rank?", .length = 5},
                                         {.identity = "ann", .length = 3},
                                         {.identity = "bob", .length = 3}};
enum { PEERS = sizeof peers / sizeof *peers, FIRST_CLIENT = 3 };

static struct server *server;
static struct told {
    uint64_t epoch, job, attempt;
    bool joins, loads;
} told[RANKS]; /* to the ranks, and not yet answered */

/* --------------------------------------------------------------------------------------------- what it sends */

static void take_order(struct told *rank, const Refrain__WorkerOrder *order)
{
    switch (order->body_case) {
    case REFRAIN__WORKER_ORDER__BODY_EPOCH:
        rank->epoch = order->epoch->epoch;
        rank->joins = true;
        break;
    case REFRAIN__WORKER_ORDER__BODY_LOAD:
        rank->loads = true;
        break;
    case REFRAIN__WORKER_ORDER__BODY_ASSIGN:
        rank->job = order->assign->job;
        rank->attempt = order->assign->attempt;
        break;
    default:
        break;
    }
}

/* Whatever it says can be read. */
static status_t send_frame(void *context, bool to_worker, const struct wire_peer *peer, zmq_msg_t *frame,
                           struct error *error)
{
    Refrain__WorkerOrder *order;
    Refrain__Reply *reply;
    const void *bytes = zmq_msg_data(frame);
    size_t size = zmq_msg_size(frame);
    if (to_worker) {
        if (wire_unpack_order(bytes, size, &order, error) != STATUS_OK) abort();
        for (int i = 0; i < RANKS; i++)
            if (wire_peer_equal(peer, &peers[i])) take_order(&told[i], order);
        refrain__worker_order__free_unpacked(order, NULL);
    } else {
        if (wire_unpack_reply(bytes, size, &reply, error) != STATUS_OK) abort();
        refrain__reply__free_unpacked(reply, NULL);
    }
    zmq_msg_close(frame);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------- what it is told */

static void say(int who, const uint8_t *bytes, size_t size)
{
    zmq_msg_t frame;
    if (zmq_msg_init_size(&frame, size) != 0) abort();
    if (size) memcpy(zmq_msg_data(&frame), bytes, size);
    (who < FIRST_CLIENT ? server_report : server_request)(server, &peers[who], &frame);
    zmq_msg_close(&frame);
}

static void report(int rank, Refrain__WorkerReport__BodyCase what, void *body)
{
    uint8_t bytes[1024];
    Refrain__WorkerReport message = REFRAIN__WORKER_REPORT__INIT;
    wire_stamp(message);
    message.body_case = what;
    message.hello = body; /* the members of the union are all pointers */
    say(rank, bytes, refrain__worker_report__pack(&message, bytes));
}

static void hello(int rank)
{
    Refrain__Hello body = REFRAIN__HELLO__INIT;
    char address[] = "tcp://127.0.0.1:1";
    body.group = (char *)(uintptr_t) "0123456789abcdef";
    body.host = (char *)(uintptr_t) "here";
    body.backend = (char *)(uintptr_t) "ref";
    body.fabric = (char *)(uintptr_t) "zmq";
    body.software = (char *)(uintptr_t)REFRAIN_VERSION;
    body.fabric_address = address;
    body.has_rank = body.has_ranks = body.has_pid = body.has_threads = body.has_memory_bytes = 1;
    body.rank = (uint32_t)rank;
    body.ranks = RANKS;
    body.pid = 1000 + (uint32_t)rank;
    body.threads = 1;
    body.memory_bytes = UINT64_C(1) << 33;
    address[sizeof address - 2] += (char)rank;
    report(rank, REFRAIN__WORKER_REPORT__BODY_HELLO, &body);
}

/* What ranks do that are well. */
static void answer(void)
{
    for (int i = 0; i < RANKS; i++) {
        Refrain__EpochReady ready = REFRAIN__EPOCH_READY__INIT;
        Refrain__Loaded loaded = REFRAIN__LOADED__INIT;
        ready.has_epoch = loaded.has_epoch = loaded.has_seconds = 1;
        ready.epoch = loaded.epoch = told[i].epoch;
        loaded.model = (char *)(uintptr_t) "small";
        if (told[i].joins) report(i, REFRAIN__WORKER_REPORT__BODY_EPOCH_READY, &ready);
        if (told[i].loads) report(i, REFRAIN__WORKER_REPORT__BODY_LOADED, &loaded);
        told[i].joins = told[i].loads = false;
    }
}

static void turn(void)
{
    server_end_turn(server);
    server_begin_turn(server);
    answer();
}

static void submit(int who)
{
    uint8_t bytes[1024];
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__Submit body = REFRAIN__SUBMIT__INIT;
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    wire_stamp(request);
    spec.prompt = (char *)(uintptr_t) "a large red star";
    body.spec = &spec;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &body;
    say(who, bytes, refrain__request__pack(&request, bytes));
}

/* -------------------------------------------------------------------------------------------------- its life */

/* As refrain-worker --inspect describes it. */
static const char described[] =
    "{\"name\":\"small\",\"pipeline\":\"WanPipeline\",\"layers\":8,\"heads\":4,\"head_dim\":64,\"ffn_dim\":"
    "1024,"
    "\"size_multiple\":16,\"frame_multiple\":4,\"text_length\":512,\"solver\":1,\"shift\":3.0,\"parameter_"
    "count\":12022403,"
    "\"weight_bytes\":29497740,\"default_width\":64,\"default_height\":64,\"default_frames\":17,\"max_"
    "position\":1024,"
    "\"vae_scale\":8,\"patch\":2,\"latent_channels\":16,\"experts\":1,\"boundary\":0.0,\"train_steps\":1000,"
    "\"shift_terminal\":0.0}";

static void add_model(void)
{
    Refrain__ModelCard *card;
    if (card_from_json(described, sizeof described - 1, &card, NULL) != STATUS_OK ||
        jobstore_put_model(server->store, card, "models/reference", NULL) != STATUS_OK ||
        jobstore_commit(server->store, NULL) != STATUS_OK || models_reload(server->models, NULL) != STATUS_OK)
        abort();
    refrain__model_card__free_unpacked(card, NULL);
}

static void begin(const struct settings *settings)
{
    struct error error = {0};
    memset(told, 0, sizeof told);
    if (server_open_core(settings, send_frame, NULL, &server, &error) != STATUS_OK) abort();
    add_model();
    server_begin_turn(server);
    for (int i = 0; i < RANKS; i++) hello(i);
    submit(FIRST_CLIENT);
    for (int i = 0; i < TURNS_TO_BEGIN; i++) turn();
    if (!told[0].job && !told[1].job) abort(); /* it runs */
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    return remove(path);
}

static void end(const char *directory)
{
    server_end_turn(server);
    server_close(server);
    nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t frame[MESSAGE_FRAME_BYTES];
    char directory[] = "/dev/shm/refrain-fuzz-XXXXXX"; /* nothing is ever waited for there */
    struct settings settings;
    struct error error = {0};
    if (!mkdtemp(directory)) abort();
    const char *arguments[] = {
        "fuzz", "--data", directory, "--worker-binary", "/bin/true", "--checkpoint-limit", "0", NULL};
    if (settings_read(7, (char **)(uintptr_t)arguments, &settings, &error) != STATUS_OK) abort();
    begin(&settings);
    struct message_source source = {.at = data, .end = data + size, .knows = 4};
    for (int i = 0; i < MOST_MESSAGES && source.at < source.end; i++) {
        int who = message_byte(&source) % (PEERS + 1);
        const struct told *home = &told[told[0].job ? 0 : 1];
        memcpy(source.known, (uint64_t[]){told[0].epoch, home->job, home->attempt, 1}, 4 * sizeof(uint64_t));
        if (who < PEERS)
            say(who, frame,
                message_make(&source,
                             who < FIRST_CLIENT ? &refrain__worker_report__descriptor
                                                : &refrain__request__descriptor,
                             frame));
        else
            turn();
    }
    turn();
    end(directory);
    settings_free(&settings);
    return 0;
}
