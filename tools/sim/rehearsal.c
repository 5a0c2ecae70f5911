/* rehearsal.c - see rehearsal.h. One thread, but for the coordinator's own sync thread (results.c). */
#include "tools/sim/rehearsal.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/server.h"
#include "coordinator/ranks/survey.h"
#include "kernels/team.h"
#include "tools/sim/keeper.h"
#include "tools/sim/office.h"
#include "tools/sim/world.h"
#include "worker/model/card.h"

enum { ASKED = 1 << 20 /* ids of questions are above */, SYNC_PATIENCE_MS = 2000 };

#define DELAY_NS  (MILLISECOND_NS / 10) /* of a message to or from the coordinator */
#define ORPHAN_NS (60 * SECOND_NS)
#define JOIN_NS   (10 * SECOND_NS)

/* A message for the coordinator's next turn. */
struct letter {
    struct letter *next;
    struct wire_peer peer;
    bool of_worker;
    size_t size;
    uint8_t bytes[];
};

struct rehearsal {
    struct rehearsal_config config;
    struct settings settings;
    struct server *server; /* NULL while there is no coordinator */
    struct starter *starter;
    struct team *team;
    struct letter *inbox, **inbox_end;
    int64_t turn_ns; /* when the next turn is due; CLOCK_NEVER: none is */
    struct rehearsal_job jobs[REHEARSAL_MAX_JOBS];
    int count;
    struct error refusal; /* of the request under way */
    bool acknowledged;    /* it was */
    char ranks_directory[PATH_MAX], data[PATH_MAX];
};

/* -------------------------------------------------------------------------------------------------- turns */

static void take_turn(void *context, uint64_t when_ns);

static void turn_at(struct rehearsal *s, int64_t when_ns)
{
    if (when_ns >= s->turn_ns) return;
    s->turn_ns = when_ns;
    world_at(when_ns, WORLD_WORKS, take_turn, s, (uint64_t)when_ns);
}

static void put_letter(struct rehearsal *s, const struct wire_peer *peer, bool of_worker, const void *bytes,
                       size_t size)
{
    struct letter *letter = malloc(sizeof *letter + size);
    if (!letter) abort();
    *letter = (struct letter){.peer = *peer, .of_worker = of_worker, .size = size};
    memcpy(letter->bytes, bytes, size);
    *s->inbox_end = letter;
    s->inbox_end = &letter->next;
    turn_at(s, world_now_ns());
}

/* office_report_fn */
static void take_report(void *context, const struct wire_peer *peer, const void *bytes, size_t size,
                        int64_t said_ns)
{
    put_letter(context, peer, true, bytes, size);
}

/* The call that says whether a file is being made durable on the coordinator's own thread: --wrap, as in costs.c. */
__typeof__(results_chunk) __real_results_chunk, __wrap_results_chunk;
static bool syncing;

status_t __wrap_results_chunk(struct results *results, const Refrain__UploadChunk *chunk, uint64_t *held,
                              struct error *error)
{
    status_t status = __real_results_chunk(results, chunk, held, error);
    syncing |= status == STATUS_AGAIN;
    return status;
}

static void deliver(struct rehearsal *s, struct letter *letter)
{
    zmq_msg_t frame;
    zmq_msg_init_size(&frame, letter->size);
    memcpy(zmq_msg_data(&frame), letter->bytes, letter->size);
    (letter->of_worker ? server_report : server_request)(s->server, &letter->peer, &frame);
    zmq_msg_close(&frame);
}

/* The one thread that is not ours works in real time: it is given the time it needs at this moment of the virtual
 * clock, so that a run is the same every time. */
static void wait_for_sync(struct rehearsal *s)
{
    struct pollfd done = {.fd = results_descriptor(s->server->results), .events = POLLIN};
    poll(&done, 1, SYNC_PATIENCE_MS);
}

static void take_turn(void *context, uint64_t when_ns)
{
    struct rehearsal *s = context;
    if (s->turn_ns != (int64_t)when_ns) return; /* another one was made for an earlier moment */
    s->turn_ns = CLOCK_NEVER;
    if (!s->server) return;
    syncing = false;
    server_begin_turn(s->server);
    for (struct letter *letter; !syncing && (letter = s->inbox);) {
        if (!(s->inbox = letter->next)) s->inbox_end = &s->inbox;
        deliver(s, letter);
        free(letter);
    }
    if (syncing) wait_for_sync(s);
    server_end_turn(s->server);
    turn_at(s, s->inbox ? world_now_ns() : world_now_ns() + SERVER_TURN_MS * MILLISECOND_NS);
}

/* ------------------------------------------------------------------------------------------------ clients */

static const struct wire_peer client = {.identity = "client", .length = 6};

static struct rehearsal_job *job_of(struct rehearsal *s, uint64_t id)
{
    for (int i = 0; i < s->count; i++)
        if (s->jobs[i].id == id) return &s->jobs[i];
    return NULL;
}

static bool is_end(Refrain__JobState state)
{
    return state == REFRAIN__JOB_STATE__JOB_COMPLETED || state == REFRAIN__JOB_STATE__JOB_FAILED ||
           state == REFRAIN__JOB_STATE__JOB_CANCELLED || state == REFRAIN__JOB_STATE__JOB_EXPIRED;
}

static struct rehearsal_told told_now(const Refrain__Job *job)
{
    int64_t left_ms = (int64_t)job->finish_ms - clock_wall_ms(), now_ns = clock_now_ns();
    if (!job->has_finish_ms) return (struct rehearsal_told){0};
    return (struct rehearsal_told){now_ns, now_ns + left_ms * MILLISECOND_NS};
}

static void watch_bar(struct rehearsal_job *job, const Refrain__Progress *progress)
{
    if (!progress || !progress->steps || progress->phase > REFRAIN__PHASE__PHASE_DENOISE) return;
    if (job->shown - (int)progress->step > job->set_back) job->set_back = job->shown - (int)progress->step;
    job->shown = (int)progress->step;
}

static void take_job(struct rehearsal *s, const Refrain__Job *now)
{
    struct rehearsal_job *job = job_of(s, now->job);
    if (!job) return;
    watch_bar(job, now->progress);
    bool denoising = now->progress && now->progress->phase == REFRAIN__PHASE__PHASE_DENOISE;
    int steps = denoising ? (int)now->progress->step : 0;
    if (steps > job->steps_done || now->attempt != job->attempt) {
        job->steps_reported +=
            steps > job->steps_done && now->attempt == job->attempt ? steps - job->steps_done : 0;
        job->steps_done = steps;
    }
    for (int quarters = 1; quarters <= 2; quarters++)
        if (denoising && !job->told[quarters].at_ns && 4 * steps >= quarters * job->steps)
            job->told[quarters] = told_now(now);
    job->state = now->state;
    job->attempt = now->attempt;
    if (now->plan) snprintf(job->plan, sizeof job->plan, "%s", now->plan);
    if (now->message) snprintf(job->message, sizeof job->message, "%s", now->message);
    if (now->state == REFRAIN__JOB_STATE__JOB_RUNNING && !job->started_ns) job->started_ns = clock_now_ns();
    if (is_end(now->state) && !job->ended) {
        job->ended = true;
        job->ended_ns = clock_now_ns();
    }
}

static void ask(struct rehearsal *s, Refrain__Request *request)
{
    wire_stamp(*request);
    request->has_id = 1;
    size_t size = refrain__request__get_packed_size(request);
    uint8_t *bytes = malloc(size);
    if (!bytes) abort();
    refrain__request__pack(request, bytes);
    put_letter(s, &client, false, bytes, size);
    free(bytes);
}

static void watch(struct rehearsal *s, uint64_t id)
{
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__Watch body = REFRAIN__WATCH__INIT;
    body.has_job = 1;
    body.job = id;
    request.body_case = REFRAIN__REQUEST__BODY_WATCH;
    request.watch = &body;
    ask(s, &request);
}

/* The answer to a submit carries the submit's id, which is the place it gets in `jobs`, from 1. */
static void take_reply(struct rehearsal *s, const Refrain__Reply *reply)
{
    switch (reply->body_case) {
    case REFRAIN__REPLY__BODY_JOB:
        if (reply->id > ASKED && reply->id <= ASKED + (uint64_t)s->count)
            s->jobs[reply->id - ASKED - 1].asked = told_now(reply->job);
        if (reply->id != (uint64_t)s->count + 1 || s->count == REHEARSAL_MAX_JOBS) break;
        s->jobs[s->count++] = (struct rehearsal_job){.id = reply->job->job,
                                                     .state = reply->job->state,
                                                     .submitted_ns = clock_now_ns(),
                                                     .told = {told_now(reply->job)},
                                                     .steps = (int)reply->job->spec->steps};
        if (reply->job->warning)
            snprintf(s->jobs[s->count - 1].message, sizeof s->jobs->message, "%s", reply->job->warning);
        watch(s, reply->job->job);
        break;
    case REFRAIN__REPLY__BODY_EVENT:
        if (reply->event->job) take_job(s, reply->event->job);
        break;
    case REFRAIN__REPLY__BODY_ACK:
        s->acknowledged = true;
        break;
    case REFRAIN__REPLY__BODY_ERROR:
        error_set(&s->refusal, (status_t)reply->error->status, "%s",
                  reply->error->message ? reply->error->message : "");
        break;
    default:
        break;
    }
}

/* outbox_send_fn */
static status_t send_frame(void *context, bool to_worker, const struct wire_peer *peer, zmq_msg_t *frame,
                           struct error *error)
{
    struct rehearsal *s = context;
    Refrain__Reply *reply = NULL;
    if (to_worker)
        office_order(peer, zmq_msg_data(frame), zmq_msg_size(frame));
    else if (wire_unpack_reply(zmq_msg_data(frame), zmq_msg_size(frame), &reply, error) == STATUS_OK)
        take_reply(s, reply);
    if (reply) refrain__reply__free_unpacked(reply, NULL);
    zmq_msg_close(frame);
    return STATUS_OK;
}

status_t rehearsal_submit(struct rehearsal *s, Refrain__JobSpec *spec, int *job, struct error *error)
{
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__Submit body = REFRAIN__SUBMIT__INIT;
    int before = s->count;
    body.spec = spec;
    request.id = (uint64_t)before + 1;
    request.body_case = REFRAIN__REQUEST__BODY_SUBMIT;
    request.submit = &body;
    s->refusal = (struct error){0};
    ask(s, &request);
    while (s->count == before && s->refusal.status == STATUS_OK && s->server)
        if (!world_step()) break;
    if (s->count > before) {
        *job = before;
        return STATUS_OK;
    }
    return error_set(error, s->refusal.status ? s->refusal.status : STATUS_PEER_LOST, "%s",
                     s->refusal.status ? s->refusal.text : "there is no coordinator");
}

status_t rehearsal_drain(struct rehearsal *s, int rank, bool back, struct error *error)
{
    char who[16];
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__Drain body = REFRAIN__DRAIN__INIT;
    snprintf(who, sizeof who, "%d", rank);
    body.who = who;
    body.has_back = 1;
    body.back = back;
    request.body_case = REFRAIN__REQUEST__BODY_DRAIN;
    request.drain = &body;
    s->refusal = (struct error){0};
    s->acknowledged = false;
    ask(s, &request);
    while (!s->acknowledged && s->refusal.status == STATUS_OK && s->server)
        if (!world_step()) break;
    if (s->acknowledged) return STATUS_OK;
    return error_set(error, s->refusal.status ? s->refusal.status : STATUS_PEER_LOST, "%s",
                     s->refusal.status ? s->refusal.text : "there is no coordinator");
}

void rehearsal_ask(struct rehearsal *s, int job)
{
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__Status body = REFRAIN__STATUS__INIT;
    body.has_job = 1;
    body.job = s->jobs[job].id;
    request.id = ASKED + (uint64_t)job + 1;
    request.body_case = REFRAIN__REQUEST__BODY_STATUS;
    request.status = &body;
    ask(s, &request);
}

const struct rehearsal_job *rehearsal_job(const struct rehearsal *s, int job)
{
    return &s->jobs[job];
}

status_t rehearsal_latents(const struct rehearsal *s, int job, void **bytes, size_t *size,
                           struct error *error)
{
    char path[PATH_MAX];
    struct stat about;
    snprintf(path, sizeof path, "%.4000s/results/%lu/latents.safetensors", s->data,
             (unsigned long)s->jobs[job].id);
    FILE *file = fopen(path, "rb");
    if (!file) return error_set(error, STATUS_NOT_FOUND, "%s: %m", path);
    void *read = fstat(fileno(file), &about) == 0 ? malloc((size_t)about.st_size + 1) : NULL;
    bool whole = read && fread(read, 1, (size_t)about.st_size, file) == (size_t)about.st_size;
    fclose(file);
    if (!whole) {
        free(read);
        return error_set(error, STATUS_IO, "%s: cannot be read", path);
    }
    *bytes = read;
    *size = (size_t)about.st_size;
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------- the coordinator */

static status_t read_settings(struct rehearsal *s, struct error *error)
{
    const char *arguments[REHEARSAL_MAX_OPTIONS + 8] = {
        "refrain-coordinator", "--data", s->data, "--worker-binary", "/bin/true", "--heartbeat", "500ms"};
    int count = 7;
    for (int i = 0; i < REHEARSAL_MAX_OPTIONS && s->config.options[i]; i++)
        arguments[count++] = s->config.options[i];
    return settings_read(count, (char **)(uintptr_t)arguments, &s->settings, error);
}

/* As `refrain models add` would, without the process that inspects it. */
static status_t add_model(struct rehearsal *s, struct error *error)
{
    char *json = NULL;
    Refrain__ModelCard *card = NULL;
    status_t status = model_card_json(s->config.model, &json, error);
    if (status == STATUS_OK) status = card_from_json(json, strlen(json), &card, error);
    free(json);
    if (status != STATUS_OK) return status;
    free(card->name);
    card->name = strdup("tiny");
    status = jobstore_put_model(s->server->store, card, s->config.model, error);
    if (status == STATUS_OK) status = jobstore_commit(s->server->store, error);
    if (status == STATUS_OK) status = models_reload(s->server->models, error);
    refrain__model_card__free_unpacked(card, NULL);
    return status;
}

static status_t open_coordinator(struct rehearsal *s, struct error *error)
{
    status_t status = server_open_core(&s->settings, send_frame, s, &s->server, error);
    if (status != STATUS_OK) return status;
    office_listen(take_report, s);
    turn_at(s, world_now_ns());
    return status;
}

static void drop_inbox(struct rehearsal *s)
{
    for (struct letter *letter; (letter = s->inbox);) {
        s->inbox = letter->next;
        free(letter);
    }
    s->inbox_end = &s->inbox;
}

static void come_back(void *context, uint64_t unused)
{
    struct rehearsal *s = context;
    struct error error;
    if (open_coordinator(s, &error) != STATUS_OK) abort(); /* its own store */
    for (int i = 0; i < s->count; i++)
        if (!s->jobs[i].ended) watch(s, s->jobs[i].id);
}

void rehearsal_lose_coordinator(struct rehearsal *s, int64_t away_ns)
{
    if (!s->server) return;
    office_listen(NULL, NULL);
    server_close(s->server);
    s->server = NULL;
    drop_inbox(s);
    world_at(world_now_ns() + away_ns, WORLD_ARRIVES, come_back, s, 0);
}

/* --------------------------------------------------------------------------------------------------- life */

static status_t open_world(struct rehearsal *s, struct error *error)
{
    status_t status = world_open(error);
    if (status == STATUS_OK) status = network_open(&s->config.network, error);
    if (status == STATUS_OK) status = office_open(&(struct office_config){DELAY_NS}, error);
    if (status == STATUS_OK) status = keeper_open(&(struct keeper_config){.delay_ns = DELAY_NS}, error);
    costs_set(&s->config.costs);
    return status;
}

status_t rehearsal_open(const struct rehearsal_config *config, struct rehearsal **rehearsal,
                        struct error *error)
{
    struct rehearsal *s = calloc(1, sizeof *s);
    if (!s) return error_set(error, STATUS_NO_MEMORY, "no memory for a virtual service");
    s->config = *config;
    s->inbox_end = &s->inbox;
    s->turn_ns = CLOCK_NEVER;
    snprintf(s->data, sizeof s->data, "%.4000s/data", config->directory);
    snprintf(s->ranks_directory, sizeof s->ranks_directory, "%.4000s/ranks", config->directory);
    status_t status = open_world(s, error);
    if (status == STATUS_OK) status = read_settings(s, error);
    if (status == STATUS_OK && mkdir(s->ranks_directory, 0700) != 0)
        status = error_set(error, STATUS_IO, "%s: cannot be made: %m", s->ranks_directory);
    if (status == STATUS_OK) status = team_create(1, &s->team, error);
    if (status == STATUS_OK) status = open_coordinator(s, error);
    if (status == STATUS_OK) status = add_model(s, error);
    struct starter_config starter = {.ranks = config->ranks,
                                     .speeds = config->speeds,
                                     .start_ns = config->start_ns,
                                     .silent = config->no_launcher,
                                     .seat = {.team = s->team,
                                              .directory = s->ranks_directory,
                                              .orphan_ns = ORPHAN_NS,
                                              .join_ns = JOIN_NS,
                                              .checkpoints = true}};
    if (status == STATUS_OK) status = starter_open(&starter, &s->starter, error);
    if (status != STATUS_OK) {
        rehearsal_close(s);
        return status;
    }
    *rehearsal = s;
    return STATUS_OK;
}

static void remove_tree(const char *path)
{
    char inner[PATH_MAX];
    struct dirent *entry;
    DIR *open = opendir(path);
    while (open && (entry = readdir(open))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(inner, sizeof inner, "%.3000s/%.255s", path, entry->d_name);
        if (unlink(inner) != 0) remove_tree(inner);
    }
    if (open) closedir(open);
    rmdir(path);
}

void rehearsal_close(struct rehearsal *s)
{
    if (!s) return;
    starter_close(s->starter);
    office_listen(NULL, NULL);
    server_close(s->server);
    if (s->settings.options) settings_free(&s->settings);
    team_destroy(s->team);
    drop_inbox(s);
    keeper_close();
    office_close();
    network_close();
    world_close();
    remove_tree(s->data);
    remove_tree(s->ranks_directory);
    free(s);
}

int64_t rehearsal_now_ns(const struct rehearsal *s)
{
    return world_now_ns();
}

void rehearsal_run(struct rehearsal *s, int64_t until_ns)
{
    world_run(until_ns);
}

static int count_open(const struct rehearsal *s)
{
    int open = 0;
    for (int i = 0; i < s->count; i++) open += !s->jobs[i].ended;
    return open;
}

status_t rehearsal_finish(struct rehearsal *s, int64_t limit_ns, struct error *error)
{
    int64_t end_ns = world_now_ns() + limit_ns;
    while (count_open(s) && world_now_ns() < end_ns)
        if (!world_step()) break;
    if (!count_open(s)) return STATUS_OK;
    return error_set(error, STATUS_DEADLINE, "%d of %d jobs have not ended after %.1f s", count_open(s),
                     s->count, (double)limit_ns / SECOND_NS);
}

void rehearsal_kill(struct rehearsal *s, int rank)
{
    struct seat *seat = starter_seat(s->starter, rank);
    if (seat) seat_kill(seat);
}

void rehearsal_stop(struct rehearsal *s, int rank)
{
    struct seat *seat = starter_seat(s->starter, rank);
    if (seat) seat_stop(seat);
}

void rehearsal_continue(struct rehearsal *s, int rank)
{
    struct seat *seat = starter_seat(s->starter, rank);
    if (seat) seat_continue(seat);
}

int64_t rehearsal_busy_ns(const struct rehearsal *s, int rank)
{
    const struct seat *seat = starter_seat(s->starter, rank);
    return seat ? seat_busy_ns(seat) : 0;
}

void rehearsal_counts(const struct rehearsal *s, struct rehearsal_counts *counts)
{
    struct vault_stats vault = {0};
    const struct group *group = s->server ? groups_at(s->server->groups, 0) : NULL;
    if (s->server && s->server->vault) vault_stats(s->server->vault, &vault);
    *counts = (struct rehearsal_counts){.processes = starter_started(s->starter),
                                        .ranks = group ? (int)group->ranks : 0,
                                        .state = group ? survey_state(group) : "",
                                        .epoch = group ? group->epoch : 0,
                                        .steps_repeated = s->server ? s->server->steps_repeated : 0,
                                        .checkpoints = vault.saved,
                                        .events = world_events()};
}
