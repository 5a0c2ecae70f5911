/* fake_coordinator.c - see fake_coordinator.h. One thread per fake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/fake_coordinator.h"

#include "proto/wire.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct fake {
    struct fake_script script;
    struct fake_seen seen;
    char endpoint[512];
    void *context, *socket;
    pthread_t thread;
    atomic_bool stop;
    bool model_refused;
};

static void open_socket(struct fake *fake)
{
    int zero = 0, one = 1, tries = 0;
    fake->socket = zmq_socket(fake->context, ZMQ_ROUTER);
    assert_non_null(fake->socket);
    zmq_setsockopt(fake->socket, ZMQ_LINGER, &zero, sizeof zero);
    if (fake->script.server_secret) {
        zmq_setsockopt(fake->socket, ZMQ_CURVE_SERVER, &one, sizeof one);
        zmq_setsockopt(fake->socket, ZMQ_CURVE_SECRETKEY, fake->script.server_secret, 41);
    }
    /* A socket that was just closed lets go of its address a little later. */
    while (zmq_bind(fake->socket, fake->endpoint) != 0 && tries++ < 2000) usleep(10000);
    assert_true(tries < 2000);
}

static void reply(struct fake *fake, const struct wire_peer *peer, uint64_t id, Refrain__Reply *message)
{
    wire_stamp(*message);
    if (fake->script.version) message->version = fake->script.version;
    message->has_id = 1, message->id = id;
    struct error error;
    if (wire_send(fake->socket, peer, &message->base, &error) != STATUS_OK)
        fprintf(stderr, "fake: %s\n", error.text);
}

static void reply_error(struct fake *fake, const struct wire_peer *peer, uint64_t id, status_t status,
                        const char *sentence, const char *field)
{
    Refrain__Error body = REFRAIN__ERROR__INIT;
    body.has_status = 1, body.status = status;
    body.message = (char *)(uintptr_t)sentence;
    body.field = (char *)(uintptr_t)field;
    Refrain__Reply message = REFRAIN__REPLY__INIT;
    message.body_case = REFRAIN__REPLY__BODY_ERROR, message.error = &body;
    reply(fake, peer, id, &message);
}

/* ------------------------------------------------------------------------------------ the job */

/* The job of the script, with storage for what it points to. */
struct fake_job {
    Refrain__Job job;
    Refrain__JobSpec spec;
    Refrain__Progress progress;
    Refrain__JobTimes times;
    Refrain__CacheReport report;
    Refrain__Comparison comparison;
    Refrain__ResultFile files[FAKE_FILES], *file_pointers[FAKE_FILES];
};

static void fill_report(const struct fake_caching *caching, unsigned steps, struct fake_job *out)
{
    size_t count = (size_t)steps * caching->branches;
    const struct refrain_comparison *both = caching->comparison;
    refrain__cache_report__init(&out->report);
    out->report.policy = out->spec.cache;
    out->report.has_branches = 1, out->report.branches = caching->branches;
    out->report.has_actions = out->report.has_reasons = 1;
    out->report.actions = (ProtobufCBinaryData){count, (uint8_t *)(uintptr_t)caching->actions};
    out->report.reasons = (ProtobufCBinaryData){count, (uint8_t *)(uintptr_t)caching->reasons};
    out->report.changes = (float *)(uintptr_t)caching->changes;
    out->report.n_changes = caching->changes ? count : 0;
    out->report.has_seconds_saved = 1, out->report.seconds_saved = caching->seconds_saved;
    out->report.has_bytes = 1, out->report.bytes = 19400000;
    out->times.has_denoise = 1, out->times.denoise = 1;
    out->job.cache = &out->report;
    if (!both) return;
    refrain__comparison__init(&out->comparison);
    out->comparison.has_psnr = isfinite(both->psnr) != 0, out->comparison.psnr = both->psnr;
    out->comparison.has_psnr_worst = isfinite(both->psnr_worst) != 0,
    out->comparison.psnr_worst = both->psnr_worst;
    out->comparison.has_ssim = 1, out->comparison.ssim = both->ssim;
    out->comparison.has_perceptual = 1, out->comparison.perceptual = both->perceptual;
    out->comparison.has_cached_seconds = 1, out->comparison.cached_seconds = both->cached_seconds;
    out->comparison.has_uncached_seconds = 1, out->comparison.uncached_seconds = both->uncached_seconds;
    out->report.comparison = &out->comparison;
}

static void fill_job(const struct fake *fake, uint64_t number, enum refrain_state state, struct fake_job *out)
{
    refrain__job__init(&out->job);
    refrain__job_spec__init(&out->spec);
    refrain__progress__init(&out->progress);
    refrain__job_times__init(&out->times);
    out->spec.model = (char *)(uintptr_t) "reference";
    out->spec.prompt = (char *)(uintptr_t) "a large red star";
    out->spec.has_steps = 1, out->spec.steps = fake->script.steps;
    out->spec.has_width = out->spec.has_height = out->spec.has_frames = 1;
    out->spec.width = out->spec.height = 64, out->spec.frames = 17;
    out->spec.cache = (char *)(uintptr_t)fake->script.cache;
    out->job.has_job = 1, out->job.job = number;
    out->job.has_state = 1, out->job.state = (Refrain__JobState)state;
    out->job.spec = &out->spec;
    out->job.progress = &out->progress;
    out->job.times = &out->times;
    out->times.has_total = 1, out->times.total = 1.5;
    if (state < REFRAIN_COMPLETED) return;
    if (fake->script.caching.branches) fill_report(&fake->script.caching, fake->script.steps, out);
    out->job.message = (char *)(uintptr_t)fake->script.message;
    out->job.files = out->file_pointers;
    for (size_t i = 0; i < FAKE_FILES && fake->script.files[i].name; i++) {
        const struct fake_file *file = &fake->script.files[i];
        refrain__result_file__init(&out->files[i]);
        out->files[i].name = (char *)(uintptr_t)file->name;
        out->files[i].has_bytes = 1, out->files[i].bytes = file->size;
        out->files[i].has_xxh64 = 1, out->files[i].xxh64 = XXH64(file->bytes, file->size, 0);
        out->file_pointers[out->job.n_files++] = &out->files[i];
    }
}

static void reply_job(struct fake *fake, const struct wire_peer *peer, uint64_t id, uint64_t number,
                      enum refrain_state state)
{
    struct fake_job job;
    fill_job(fake, number, state, &job);
    Refrain__Reply message = REFRAIN__REPLY__INIT;
    message.body_case = REFRAIN__REPLY__BODY_JOB, message.job = &job.job;
    reply(fake, peer, id, &message);
}

/* sequence 0: a note of progress. */
static void send_event(struct fake *fake, const struct wire_peer *peer, uint64_t id, uint64_t number,
                       enum refrain_state state, uint64_t sequence, enum refrain_phase phase, unsigned step)
{
    struct fake_job job;
    fill_job(fake, number, state, &job);
    job.job.has_sequence = 1, job.job.sequence = sequence;
    job.progress.has_phase = 1, job.progress.phase = (Refrain__Phase)phase;
    job.progress.has_step = job.progress.has_steps = 1;
    job.progress.step = step, job.progress.steps = fake->script.steps;
    if (fake->script.caching.branches == 1) { /* live notes take the branches together: here there is one */
        job.progress.has_cache_actions = 1;
        job.progress.cache_actions =
            (ProtobufCBinaryData){step, (uint8_t *)(uintptr_t)fake->script.caching.actions};
    }
    Refrain__Event event = REFRAIN__EVENT__INIT;
    event.has_sequence = 1, event.sequence = sequence;
    event.has_progress_only = 1, event.progress_only = sequence == 0;
    event.has_last = 1, event.last = sequence > 0 && state >= REFRAIN_COMPLETED;
    event.job = &job.job;
    Refrain__Reply message = REFRAIN__REPLY__INIT;
    message.body_case = REFRAIN__REPLY__BODY_EVENT, message.event = &event;
    reply(fake, peer, id, &message);
}

/* History: 1 queued, 2 running, 3 the end; between 2 and 3 the live notes. */
static void play(struct fake *fake, const struct wire_peer *peer, uint64_t id, const Refrain__Watch *watch)
{
    if (watch->from_sequence < 1)
        send_event(fake, peer, id, watch->job, REFRAIN_QUEUED, 1, REFRAIN_PHASE_NONE, 0);
    if (watch->from_sequence < 2)
        send_event(fake, peer, id, watch->job, REFRAIN_RUNNING, 2, REFRAIN_PHASE_NONE, 0);
    send_event(fake, peer, id, watch->job, REFRAIN_RUNNING, 0, REFRAIN_PHASE_TEXT, 0);
    for (unsigned step = 1; step <= fake->script.steps; step++)
        send_event(fake, peer, id, watch->job, REFRAIN_RUNNING, 0, REFRAIN_PHASE_DENOISE, step);
    if (fake->script.end && watch->from_sequence < 3)
        send_event(fake, peer, id, watch->job, fake->script.end, 3, REFRAIN_PHASE_NONE, 0);
}

/* ------------------------------------------------------------------------------------ answers */

static void answer_submit(struct fake *fake, const struct wire_peer *peer, uint64_t id,
                          const Refrain__Submit *submit)
{
    fake->seen.submits++;
    snprintf(fake->seen.key, sizeof fake->seen.key, "%s", submit->idempotency_key);
    snprintf(fake->seen.prompt, sizeof fake->seen.prompt, "%s", submit->spec->prompt);
    snprintf(fake->seen.model, sizeof fake->seen.model, "%s", submit->spec->model ? submit->spec->model : "");
    fake->seen.has_model = submit->spec->model != NULL;
    fake->seen.resume_from = submit->spec->resume_from;
    fake->seen.at_step = submit->spec->at_step;
    fake->seen.priority = submit->spec->priority;
    fake->seen.has_guidance = submit->spec->has_guidance;
    fake->seen.guidance = submit->spec->guidance;
    fake->seen.has_steps = submit->spec->has_steps;
    fake->seen.width = submit->spec->width;
    snprintf(fake->seen.cache, sizeof fake->seen.cache, "%s", submit->spec->cache ? submit->spec->cache : "");
    fake->seen.compare = submit->spec->compare;
    fake->seen.tables = (unsigned)submit->spec->n_cache_tables;
    if (fake->seen.tables) {
        const Refrain__CacheTable *table = submit->spec->cache_tables[0];
        snprintf(fake->seen.table_kind, sizeof fake->seen.table_kind, "%s", table->kind);
        fake->seen.table_sum = 0;
        for (size_t i = 0; i < table->n_values; i++) fake->seen.table_sum += table->values[i];
    }
    if (fake->script.refuse_field) {
        char sentence[128];
        snprintf(sentence, sizeof sentence, "%s 7: must be something else", fake->script.refuse_field);
        reply_error(fake, peer, id, STATUS_INVALID, sentence, fake->script.refuse_field);
        return;
    }
    reply_job(fake, peer, id, 1, REFRAIN_QUEUED);
}

static void answer_fetch(struct fake *fake, const struct wire_peer *peer, uint64_t id,
                         const Refrain__Fetch *fetch)
{
    const struct fake_file *file = fake->script.files;
    if (fake->seen.fetches++ == 0) fake->seen.first_fetch_offset = fetch->offset;
    while (strcmp(file->name, fetch->file) != 0) file++;
    size_t limit = fake->script.chunk_limit && fake->script.chunk_limit < fetch->bytes
                       ? fake->script.chunk_limit
                       : fetch->bytes;
    size_t left = fetch->offset < file->size ? file->size - fetch->offset : 0;
    Refrain__FileChunk chunk = REFRAIN__FILE_CHUNK__INIT;
    chunk.has_job = chunk.has_offset = chunk.has_total = chunk.has_data = 1;
    chunk.job = fetch->job, chunk.file = fetch->file;
    chunk.offset = fetch->offset, chunk.total = file->size;
    chunk.data.len = left < limit ? left : limit;
    chunk.data.data = malloc(chunk.data.len + 1);
    memcpy(chunk.data.data, file->bytes + fetch->offset, chunk.data.len);
    if (fake->script.wrong_bytes) fake->script.wrong_bytes--, chunk.data.data[0] ^= 1;
    Refrain__Reply message = REFRAIN__REPLY__INIT;
    message.body_case = REFRAIN__REPLY__BODY_CHUNK, message.chunk = &chunk;
    reply(fake, peer, id, &message);
    free(chunk.data.data);
}

static void answer_model_add(struct fake *fake, const struct wire_peer *peer, uint64_t id,
                             const Refrain__ModelAdd *add)
{
    fake->seen.model_adds++;
    snprintf(fake->seen.model, sizeof fake->seen.model, "%s", add->name);
    snprintf(fake->seen.directory, sizeof fake->seen.directory, "%s", add->directory);
    if (fake->script.refuse_model && !fake->model_refused) {
        fake->model_refused = true;
        reply_error(fake, peer, id, fake->script.refuse_model, "name: not like this", "name");
        return;
    }
    Refrain__ModelCard card = REFRAIN__MODEL_CARD__INIT;
    card.name = add->name;
    Refrain__Reply message = REFRAIN__REPLY__INIT;
    message.body_case = REFRAIN__REPLY__BODY_MODEL, message.model = &card;
    reply(fake, peer, id, &message);
}

static void answer_list(struct fake *fake, const struct wire_peer *peer, uint64_t id)
{
    struct fake_job jobs[2];
    Refrain__Job *pointers[2] = {&jobs[0].job, &jobs[1].job};
    fill_job(fake, 2, REFRAIN_QUEUED, &jobs[0]);
    fill_job(fake, 1, REFRAIN_COMPLETED, &jobs[1]);
    Refrain__JobList list = REFRAIN__JOB_LIST__INIT;
    list.jobs = pointers, list.n_jobs = 2;
    Refrain__Reply message = REFRAIN__REPLY__INIT;
    message.body_case = REFRAIN__REPLY__BODY_JOBS, message.jobs = &list;
    reply(fake, peer, id, &message);
}

static void answer_ack(struct fake *fake, const struct wire_peer *peer, uint64_t id)
{
    Refrain__Ack body = REFRAIN__ACK__INIT;
    Refrain__Reply message = REFRAIN__REPLY__INIT;
    message.body_case = REFRAIN__REPLY__BODY_ACK, message.ack = &body;
    reply(fake, peer, id, &message);
}

/* The opposite of client/records.c. Entries for all groups. */
struct fake_groups {
    Refrain__GroupInfo groups[FAKE_GROUPS], *group_list[FAKE_GROUPS];
    Refrain__RankInfo ranks[FAKE_GROUPS][FAKE_RANKS], *rank_list[FAKE_GROUPS][FAKE_RANKS];
    Refrain__RunningJob jobs[FAKE_GROUPS][FAKE_RANKS], *job_list[FAKE_GROUPS][FAKE_RANKS];
    Refrain__LinkInfo links[FAKE_GROUPS][FAKE_RANKS], *link_list[FAKE_GROUPS][FAKE_RANKS];
};

#define GIVE(message, field, number) ((message)->has_##field = 1, (message)->field = (number))

static void give_rank(Refrain__RankInfo *wire, const struct refrain_rank *rank)
{
    refrain__rank_info__init(wire);
    GIVE(wire, rank, rank->rank);
    wire->state = (char *)(uintptr_t)rank->state;
    wire->host = (char *)(uintptr_t)rank->host;
    wire->backend = (char *)(uintptr_t)rank->backend;
    GIVE(wire, pid, rank->pid);
    GIVE(wire, threads, rank->threads);
    GIVE(wire, first_block, rank->first_block);
    GIVE(wire, blocks, rank->blocks);
    GIVE(wire, weight_bytes, rank->weight_bytes);
    GIVE(wire, seconds_since_heard, rank->seconds_since_heard);
    GIVE(wire, epoch, rank->epoch);
    GIVE(wire, compute_progress, rank->compute_progress);
    GIVE(wire, gflops, rank->gflops);
    GIVE(wire, replaced, rank->replaced);
    if (rank->seconds_since_progress >= 0) GIVE(wire, seconds_since_progress, rank->seconds_since_progress);
}

static void give_job(Refrain__RunningJob *wire, const struct refrain_running *job)
{
    refrain__running_job__init(wire);
    GIVE(wire, job, job->job);
    GIVE(wire, attempt, job->attempt);
    GIVE(wire, home, job->home);
    GIVE(wire, phase, (Refrain__Phase)job->phase);
    GIVE(wire, step, job->step);
    GIVE(wire, steps, job->steps);
    GIVE(wire, step_seconds, job->step_seconds);
}

static void give_link(Refrain__LinkInfo *wire, const struct refrain_link *link)
{
    refrain__link_info__init(wire);
    GIVE(wire, rank, link->rank);
    GIVE(wire, peer, link->peer);
    GIVE(wire, bytes_per_second, link->bytes_per_second);
    GIVE(wire, latency, link->latency);
}

static void give_group(struct fake_groups *all, size_t index, const struct refrain_group *group)
{
    Refrain__GroupInfo *wire = all->group_list[index] = &all->groups[index];
    refrain__group_info__init(wire);
    wire->name = (char *)(uintptr_t)group->name;
    wire->state = (char *)(uintptr_t)group->state;
    wire->fabric = (char *)(uintptr_t)group->fabric;
    wire->model = (char *)(uintptr_t)group->model;
    wire->plan = (char *)(uintptr_t)group->plan;
    wire->message = (char *)(uintptr_t)group->message;
    GIVE(wire, epoch, group->epoch);
    GIVE(wire, repairable, group->repairable);
    GIVE(wire, jobs_in_flight, group->jobs_in_flight);
    GIVE(wire, jobs_limit, group->jobs_limit);
    wire->ranks = all->rank_list[index], wire->n_ranks = group->rank_count;
    wire->jobs = all->job_list[index], wire->n_jobs = group->job_count;
    wire->links = all->link_list[index], wire->n_links = group->link_count;
    for (size_t i = 0; i < group->link_count; i++)
        give_link(all->link_list[index][i] = &all->links[index][i], &group->links[i]);
    for (size_t i = 0; i < group->rank_count; i++)
        give_rank(all->rank_list[index][i] = &all->ranks[index][i], &group->ranks[i]);
    for (size_t i = 0; i < group->job_count; i++)
        give_job(all->job_list[index][i] = &all->jobs[index][i], &group->jobs[i]);
}

static void answer_stats(struct fake *fake, const struct wire_peer *peer, uint64_t id)
{
    const struct refrain_stats *stats = fake->script.stats;
    struct fake_groups groups;
    Refrain__StatsReply body = REFRAIN__STATS_REPLY__INIT;
    body.version = (char *)(uintptr_t) "0.0";
    if (stats) {
        for (size_t i = 0; i < stats->group_count; i++) give_group(&groups, i, &stats->groups[i]);
        body.groups = groups.group_list, body.n_groups = stats->group_count;
        GIVE(&body, ranks_replaced, stats->ranks_replaced);
        GIVE(&body, checkpoint_bytes, stats->checkpoint_bytes);
        GIVE(&body, checkpoints_saved, stats->checkpoints_saved);
        GIVE(&body, steps_repeated, stats->steps_repeated);
    }
    Refrain__Reply message = REFRAIN__REPLY__INIT;
    message.body_case = REFRAIN__REPLY__BODY_STATS, message.stats = &body;
    reply(fake, peer, id, &message);
}

static void answer(struct fake *fake, const struct wire_peer *peer, uint64_t id,
                   const Refrain__Request *request)
{
    if (request->body_case == REFRAIN__REQUEST__BODY_STATS) {
        answer_stats(fake, peer, id);
        return;
    }
    if (fake->script.silent) return;
    switch (request->body_case) {
    case REFRAIN__REQUEST__BODY_SUBMIT:
        answer_submit(fake, peer, id, request->submit);
        break;
    case REFRAIN__REQUEST__BODY_STATUS:
        if (request->status->job == FAKE_NO_SUCH_JOB)
            reply_error(fake, peer, id, STATUS_NOT_FOUND, "job 404: there is no such job", "job");
        else
            reply_job(fake, peer, id, request->status->job,
                      fake->script.end ? fake->script.end : REFRAIN_RUNNING);
        break;
    case REFRAIN__REQUEST__BODY_WATCH:
        fake->seen.watches++;
        fake->seen.watch_from = request->watch->from_sequence;
        play(fake, peer, id, request->watch);
        break;
    case REFRAIN__REQUEST__BODY_FETCH:
        answer_fetch(fake, peer, id, request->fetch);
        break;
    case REFRAIN__REQUEST__BODY_CANCEL:
        fake->seen.cancels++;
        reply_job(fake, peer, id, request->cancel->job, REFRAIN_CANCELLING);
        break;
    case REFRAIN__REQUEST__BODY_DELETE:
        if (fake->seen.deletes++)
            reply_error(fake, peer, id, STATUS_NOT_FOUND, "job 1: there is no such job", "job");
        else
            answer_ack(fake, peer, id);
        break;
    case REFRAIN__REQUEST__BODY_LIST:
        answer_list(fake, peer, id);
        break;
    case REFRAIN__REQUEST__BODY_MODEL_ADD:
        answer_model_add(fake, peer, id, request->model_add);
        break;
    default:
        reply_error(fake, peer, id, STATUS_UNSUPPORTED, "the fake does not know this", NULL);
    }
}

/* ---------------------------------------------------------------------------------- the thread */

static void handle_one(struct fake *fake)
{
    struct wire_peer peer;
    zmq_msg_t frame;
    struct error error;
    if (wire_receive(fake->socket, &peer, &frame, &error) != STATUS_OK) return;
    Refrain__Request *request = NULL;
    uint64_t id = 0;
    status_t status = wire_unpack_request(zmq_msg_data(&frame), zmq_msg_size(&frame), &request, &id, &error);
    zmq_msg_close(&frame);
    if (status) return;
    fake->seen.requests++;
    if (fake->seen.requests == fake->script.gone_at_request) {
        int linger_ms = 1000; /* what it said before is still heard */
        zmq_setsockopt(fake->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        zmq_close(fake->socket);
        fake->socket = NULL;
    } else if (fake->seen.requests == fake->script.restart_at_request) {
        /* It did what was asked for, but nobody will hear of it. */
        if (request->body_case == REFRAIN__REQUEST__BODY_DELETE) fake->seen.deletes++;
        zmq_close(fake->socket);
        usleep(50000);
        open_socket(fake);
    } else {
        answer(fake, &peer, id, request);
    }
    refrain__request__free_unpacked(request, NULL);
}

static void *run(void *argument)
{
    struct fake *fake = argument;
    while (fake->socket && !atomic_load(&fake->stop)) {
        zmq_pollitem_t item = {.socket = fake->socket, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, 10) > 0) handle_one(fake);
    }
    return NULL;
}

struct fake *fake_start(const char *endpoint, const struct fake_script *script)
{
    struct fake *fake = calloc(1, sizeof *fake);
    assert_non_null(fake);
    fake->script = *script;
    snprintf(fake->endpoint, sizeof fake->endpoint, "%s", endpoint);
    fake->context = zmq_ctx_new();
    open_socket(fake);
    assert_int_equal(pthread_create(&fake->thread, NULL, run, fake), 0);
    return fake;
}

struct fake_seen fake_stop(struct fake *fake)
{
    atomic_store(&fake->stop, true);
    pthread_join(fake->thread, NULL);
    if (fake->socket) zmq_close(fake->socket);
    zmq_ctx_term(fake->context);
    struct fake_seen seen = fake->seen;
    free(fake);
    return seen;
}
