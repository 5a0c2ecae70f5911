/* hand.c - see hand.h. One thread. */
#include "tools/sim/hand.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/sim/keeper.h"
#include "tools/sim/office.h"
#include "tools/sim/world.h"

#define REPORT_DELAY_NS (MILLISECOND_NS / 100)
#define PATIENCE_NS     (100000 * SECOND_NS) /* of the virtual clock */

struct hand {
    const struct hand_config *config;
    struct hand_job *jobs;
    int count, open, given; /* jobs; not over yet; assigned */
    int members;
    struct team *team;
    struct seat *seats[SEAT_MAX_RANKS];
    struct wire_peer peers[SEAT_MAX_RANKS];
    char addresses[SEAT_MAX_RANKS][FABRIC_ADDRESS_BYTES];
    bool here[SEAT_MAX_RANKS];
    int ready, loaded;
    int64_t began_ns;
    struct error failure;
};

static void order(struct hand *h, int rank, Refrain__WorkerOrder__BodyCase body, void *message)
{
    Refrain__WorkerOrder o = REFRAIN__WORKER_ORDER__INIT;
    wire_stamp(o);
    o.body_case = body;
    o.welcome = message; /* the members of the union are all pointers */
    size_t size = refrain__worker_order__get_packed_size(&o);
    uint8_t *bytes = malloc(size);
    if (!bytes) abort();
    refrain__worker_order__pack(&o, bytes);
    office_order(&h->peers[rank], bytes, size);
    free(bytes);
}

/* --------------------------------------------------------------------------------------------- the orders */

static void order_epoch(struct hand *h)
{
    Refrain__Member members[SEAT_MAX_RANKS], *pointers[SEAT_MAX_RANKS];
    uint8_t token[FABRIC_TOKEN_BYTES] = "by hand";
    for (int i = 0; i < h->members; i++) {
        refrain__member__init(&members[i]);
        members[i].has_rank = 1;
        members[i].rank = (uint32_t)i;
        members[i].address = h->addresses[i];
        pointers[i] = &members[i];
    }
    for (int i = 0; i < h->members; i++) {
        Refrain__Epoch epoch = REFRAIN__EPOCH__INIT;
        epoch.has_epoch = epoch.has_self = epoch.has_token = 1;
        epoch.epoch = 1;
        epoch.self = (uint32_t)i;
        epoch.n_members = (size_t)h->members;
        epoch.members = pointers;
        epoch.token = (ProtobufCBinaryData){sizeof token, token};
        order(h, i, REFRAIN__WORKER_ORDER__BODY_EPOCH, &epoch);
    }
}

static void order_load(struct hand *h)
{
    const struct split *s = &h->config->split;
    Refrain__Split split = REFRAIN__SPLIT__INIT;
    Refrain__Load load = REFRAIN__LOAD__INIT;
    uint32_t run[SPLIT_CHAINS * SEAT_MAX_RANKS], chains[SPLIT_CHAINS];
    for (int i = 0; i < split_chains(s) * h->members; i++) run[i] = (uint32_t)s->run[i];
    for (int i = 0; i < SPLIT_CHAINS; i++)
        chains[i] = (uint32_t)s->chain[i / SPLIT_BRANCHES][i % SPLIT_BRANCHES];
    split.has_head = split.has_tail = split.has_floating = 1;
    split.head = (uint32_t)s->head;
    split.tail = (uint32_t)s->tail;
    split.floating = s->floating;
    split.has_spare = split.has_width = 1;
    split.spare = (uint32_t)s->spare;
    split.width = (uint32_t)split_width(s);
    split.n_chains = SPLIT_CHAINS;
    split.chains = chains;
    split.n_run = (size_t)(split_chains(s) * h->members);
    split.run = run;
    load.has_epoch = 1;
    load.epoch = 1;
    load.model = (char *)(uintptr_t) "tiny";
    load.directory = (char *)(uintptr_t)h->config->model;
    load.split = &split;
    for (int i = 0; i < h->members; i++) order(h, i, REFRAIN__WORKER_ORDER__BODY_LOAD, &load);
}

static void order_job(struct hand *h, int index)
{
    const struct hand_job *job = &h->jobs[index];
    Refrain__Assign assign = REFRAIN__ASSIGN__INIT;
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.has_seed = spec.has_steps = spec.has_guidance = spec.has_width = spec.has_height = spec.has_frames =
        spec.has_fps = spec.has_save_latents = spec.has_checkpoint_every = 1;
    spec.model = (char *)(uintptr_t) "tiny";
    spec.prompt = (char *)(uintptr_t)(job->prompt ? job->prompt : "a red fox in the snow");
    spec.seed = job->seed;
    spec.steps = (uint32_t)job->steps;
    spec.guidance = job->guidance;
    spec.has_shift = job->shift > 0;
    spec.shift = job->shift;
    spec.width = (uint32_t)job->width;
    spec.height = (uint32_t)job->height;
    spec.frames = (uint32_t)job->frames;
    spec.fps = 16;
    spec.save_latents = h->config->end == HAND_FILES;
    spec.cache = (char *)(uintptr_t)job->cache;
    assign.has_epoch = assign.has_job = assign.has_attempt = 1;
    assign.epoch = 1;
    assign.job = (uint64_t)index + 1;
    assign.attempt = 1;
    assign.has_age = 1;
    assign.age = (uint64_t)(h->members + index); /* as of a coordinator's first jobs */
    assign.spec = &spec;
    assign.tenant = (char *)(uintptr_t) "";
    order(h, h->config->split.floating ? index % h->members : 0, REFRAIN__WORKER_ORDER__BODY_ASSIGN, &assign);
}

/* -------------------------------------------------------------------------------------------- the reports */

static void fail(struct hand *h, const char *who, const char *why)
{
    if (h->failure.status == STATUS_OK)
        error_set(&h->failure, STATUS_PEER_LOST, "%s: %s", who, why ? why : "");
}

static struct hand_job *job_of(struct hand *h, uint64_t number)
{
    return number >= 1 && number <= (uint64_t)h->count ? &h->jobs[number - 1] : NULL;
}

/* As many jobs as may be in flight. */
static void order_jobs(struct hand *h)
{
    int most = h->config->in_flight ? h->config->in_flight : h->count, over = h->count - h->open;
    while (h->given < h->count && h->given - over < most) order_job(h, h->given++);
}

static void finish(struct hand *h, struct hand_job *job)
{
    if (!job->done) h->open--;
    job->done = true;
    order_jobs(h);
}

static void take_hello(struct hand *h, const Refrain__Hello *hello, const struct wire_peer *peer)
{
    uint32_t rank = hello->rank;
    bool all = true;
    if (rank >= (uint32_t)h->members || h->here[rank]) return;
    h->here[rank] = true;
    h->peers[rank] = *peer;
    snprintf(h->addresses[rank], sizeof h->addresses[rank], "%s", hello->fabric_address);
    Refrain__Welcome welcome = REFRAIN__WELCOME__INIT;
    order(h, (int)rank, REFRAIN__WORKER_ORDER__BODY_WELCOME, &welcome);
    for (int i = 0; i < h->members; i++) all = all && h->here[i];
    if (all) order_epoch(h);
}

static void take_loaded(struct hand *h)
{
    if (++h->loaded < h->members) return;
    h->began_ns = world_now_ns();
    order_jobs(h);
}

static void take_progress(struct hand *h, const Refrain__JobProgress *message, int64_t said_ns)
{
    struct hand_job *job = job_of(h, message->job);
    const Refrain__Progress *p = message->progress;
    if (!job || p->phase != REFRAIN__PHASE__PHASE_DENOISE || p->step > HAND_MAX_STEPS) return;
    while (job->steps_done < (int)p->step) job->step_ns[job->steps_done++] = said_ns;
    if (h->config->end == HAND_FILES || job->steps_done < job->steps) return;
    finish(h, job);
    if (h->config->end == HAND_FIRST) h->open = 0;
}

static void take_upload(struct hand *h, int rank, const Refrain__UploadChunk *chunk)
{
    struct hand_job *job = job_of(h, chunk->job);
    if (job && strcmp(chunk->file, "latents.safetensors") == 0) {
        if (!job->latents && !(job->latents = malloc(chunk->total))) abort();
        if (chunk->offset + chunk->data.len <= chunk->total)
            memcpy((char *)job->latents + chunk->offset, chunk->data.data, chunk->data.len);
        job->latent_bytes = chunk->total;
    }
    Refrain__UploadAck ack = REFRAIN__UPLOAD_ACK__INIT;
    ack.has_job = ack.has_attempt = ack.has_received = 1;
    ack.job = chunk->job;
    ack.attempt = chunk->attempt;
    ack.file = chunk->file;
    ack.received = chunk->offset + chunk->data.len;
    order(h, rank, REFRAIN__WORKER_ORDER__BODY_UPLOAD_ACK, &ack);
}

/* However a job ended, home may forget it. */
static void take_ending(struct hand *h, int rank, uint64_t number, uint32_t attempt, const char *failure)
{
    struct hand_job *job = job_of(h, number);
    Refrain__JobNoted noted = REFRAIN__JOB_NOTED__INIT;
    noted.has_job = noted.has_attempt = 1;
    noted.job = number;
    noted.attempt = attempt;
    order(h, rank, REFRAIN__WORKER_ORDER__BODY_NOTED, &noted);
    if (!job) return;
    if (failure) snprintf(job->failure, sizeof job->failure, "%s", failure);
    finish(h, job);
}

static int rank_of(const struct hand *h, const struct wire_peer *peer)
{
    for (int i = 0; i < h->members; i++)
        if (h->here[i] && wire_peer_equal(&h->peers[i], peer)) return i;
    return -1;
}

static void take_report(void *context, const struct wire_peer *peer, const void *bytes, size_t size,
                        int64_t said_ns)
{
    struct hand *h = context;
    struct error error;
    Refrain__WorkerReport *r;
    if (wire_unpack_report(bytes, size, &r, &error) != STATUS_OK) {
        fail(h, "a report", error.text);
        return;
    }
    int rank = rank_of(h, peer);
    switch (r->body_case) {
    case REFRAIN__WORKER_REPORT__BODY_HELLO:
        take_hello(h, r->hello, peer);
        break;
    case REFRAIN__WORKER_REPORT__BODY_EPOCH_READY:
        if (++h->ready == h->members) order_load(h);
        break;
    case REFRAIN__WORKER_REPORT__BODY_LOADED:
        take_loaded(h);
        break;
    case REFRAIN__WORKER_REPORT__BODY_PROGRESS:
        take_progress(h, r->progress, said_ns);
        break;
    case REFRAIN__WORKER_REPORT__BODY_UPLOAD:
        take_upload(h, rank, r->upload);
        break;
    case REFRAIN__WORKER_REPORT__BODY_DONE:
        take_ending(h, rank, r->done->job, r->done->attempt, NULL);
        break;
    case REFRAIN__WORKER_REPORT__BODY_FAILED:
        take_ending(h, rank, r->failed->job, r->failed->attempt, r->failed->message);
        break;
    case REFRAIN__WORKER_REPORT__BODY_LOAD_FAILED:
        fail(h, "a rank could not load", r->load_failed->message);
        break;
    case REFRAIN__WORKER_REPORT__BODY_EPOCH_LOST:
        fail(h, "the epoch was lost", r->epoch_lost->message);
        break;
    default:
        break;
    }
    refrain__worker_report__free_unpacked(r, NULL);
}

static void see_ticket(void *context, int from, int to, const struct ticket *ticket)
{
    struct hand *h = context;
    struct hand_job *job = job_of(h, ticket->job);
    if (job && ticket->kind == TICKET_HOP && ticket->step < HAND_MAX_STEPS) job->hops[ticket->step]++;
}

/* ---------------------------------------------------------------------------------------------------- run */

static status_t open_seats(struct hand *h, struct error *error)
{
    const struct hand_config *config = h->config;
    status_t status = team_create(1, &h->team, error);
    for (int i = 0; i < h->members && status == STATUS_OK; i++) {
        struct seat_config seat = {.group = "hand",
                                   .rank = i,
                                   .ranks = h->members,
                                   .speed = config->speeds ? config->speeds[i] : 1,
                                   .team = h->team,
                                   .directory = config->directory,
                                   .credits = config->credits,
                                   .orphan_ns = PATIENCE_NS,
                                   .join_ns = 30 * SECOND_NS};
        status = seat_open(&seat, &h->seats[i], error);
    }
    return status;
}

static void add_up(const struct hand *h, struct hand_result *result)
{
    *result =
        (struct hand_result){.began_ns = h->began_ns, .ended_ns = world_now_ns(), .events = world_events()};
    for (int i = 0; i < h->members; i++) {
        result->busy_ns[i] = seat_busy_ns(h->seats[i]);
        for (int k = 0; k < h->members; k++)
            result->bytes += network_traffic(seat_port(h->seats[i]), seat_port(h->seats[k])).bytes;
    }
}

status_t hand_run(const struct hand_config *config, struct hand_job *jobs, int count,
                  struct hand_result *result, struct error *error)
{
    struct hand h = {
        .config = config, .jobs = jobs, .count = count, .open = count, .members = config->split.members};
    struct network_config network = config->network;
    network.seen = see_ticket;
    network.argument = &h;
    int64_t patience_ns = config->patience_ns ? config->patience_ns : PATIENCE_NS;
    if (h.members < 1 || h.members > SEAT_MAX_RANKS)
        return error_set(error, STATUS_INVALID, "%d ranks: must be 1 to %d", h.members, SEAT_MAX_RANKS);
    status_t status = world_open(error);
    if (status == STATUS_OK) status = network_open(&network, error);
    if (status == STATUS_OK) status = office_open(&(struct office_config){REPORT_DELAY_NS}, error);
    if (status == STATUS_OK) status = keeper_open(&(struct keeper_config){0}, error);
    costs_set(&config->costs);
    office_listen(take_report, &h);
    if (status == STATUS_OK) status = open_seats(&h, error);
    while (status == STATUS_OK && h.open && h.failure.status == STATUS_OK && world_now_ns() < patience_ns)
        if (!world_step()) break;
    if (status == STATUS_OK && h.failure.status != STATUS_OK)
        status = error_set(error, h.failure.status, "%s", h.failure.text);
    else if (status == STATUS_OK && h.open)
        status = error_set(error, STATUS_DEADLINE, "%d of %d jobs do not end", h.open, count);
    if (status == STATUS_OK) add_up(&h, result);
    office_listen(NULL, NULL);
    for (int i = 0; i < h.members; i++) seat_close(h.seats[i]);
    team_destroy(h.team);
    keeper_close();
    office_close();
    network_close();
    world_close();
    return status;
}

void hand_free(struct hand_job *jobs, int count)
{
    for (int i = 0; i < count; i++) {
        free(jobs[i].latents);
        jobs[i].latents = NULL;
    }
}
