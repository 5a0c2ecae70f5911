/*
 * reports.c - what workers say: who they are, how far they are, what they made.
 *
 * A report changes states and files; what follows from it is decided in schedule.c. Whatever does not fit the
 * present (an older epoch, another attempt, an unknown connection) is ignored or answered with Rehello, never
 * an error. Runs on the coordinator's loop thread.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/foresight/foresight.h"
#include "coordinator/foresight/lessons.h"
#include "coordinator/ranks/move.h"
#include "coordinator/orders.h"
#include "coordinator/ranks/repair.h"
#include "coordinator/server.h"
#include "coordinator/tier/tierdesk.h"
#include "proto/caching.h"
#include "proto/validate.h"

struct sender {
    struct group *group;
    struct member *member;
    uint32_t rank;
};

/* -------------------------------------------------------------------------------------------------- Hello */

/* A job home says it is working on: is that what the store says, too? Then this group goes on with it. */
static bool adopt(struct server *server, struct group *group, uint32_t rank,
                  const Refrain__RunningJob *running)
{
    struct slot *slot = group_slot(group, running->job);
    if (running->job == 0) return false;
    if (slot) return slot->attempt == running->attempt && slot->home == rank;
    const struct job *job = jobs_find(server->jobs, running->job);
    slot = group_slot(group, 0);
    if (!slot || !job || job->attempt != running->attempt || groups_slot(server->groups, job->id, NULL))
        return false;
    if (job->state != REFRAIN__JOB_STATE__JOB_RUNNING && job->state != REFRAIN__JOB_STATE__JOB_CANCELLING)
        return false;
    *slot = (struct slot){.job = job->id, .attempt = job->attempt, .home = rank, .assigned = true};
    if (server->vault) vault_allow(server->vault, job->id, job->attempt);
    log_line(LOG_INFO, "job %" PRIu64 ": its ranks are still at work on it", job->id);
    return true;
}

static bool names(const Refrain__Hello *hello, const struct slot *slot)
{
    for (size_t i = 0; i < hello->n_running; i++)
        if (hello->running[i]->job == slot->job && hello->running[i]->attempt == slot->attempt) return true;
    return false;
}

/* Home came back without jobs we think it has: the order or the report got lost with its old connection. */
static void miss_jobs(struct server *server, struct group *group, uint32_t rank, const Refrain__Hello *hello)
{
    for (int i = 0; i < GROUP_SLOTS; i++) {
        struct slot *slot = &group->slots[i];
        if (slot->job && slot->assigned && slot->home == rank && !names(hello, slot))
            server_give_back(server, slot, LOSS_NONE, "the ranks did not know it any more");
    }
}

/* Only homes speak for jobs. That a job is adopted is decided here, before all ranks are back: if one does
 * not come, the group is lost like any other and the job queued again. */
static void welcome(struct server *server, struct group *group, uint32_t rank, const Refrain__Hello *hello)
{
    Refrain__Welcome body = REFRAIN__WELCOME__INIT;
    Refrain__RunningJob *adopted[GROUP_SLOTS];
    body.has_heartbeat_ms = body.has_silence_ms = 1;
    body.heartbeat_ms = (uint32_t)server->settings->heartbeat_ms;
    body.silence_ms = (uint32_t)server->settings->silence_ms;
    body.adopted = adopted;
    body.vault = server->vault ? (char *)(uintptr_t)server->vault_endpoint : NULL;
    for (size_t i = 0; i < hello->n_running && body.n_adopted < GROUP_SLOTS; i++)
        if (adopt(server, group, rank, hello->running[i])) adopted[body.n_adopted++] = hello->running[i];
    miss_jobs(server, group, rank, hello);
    order_welcome(server->outbox, &group->members[rank].peer, &body);
    move_retell(server, group, rank);
}

/* Who is sent away is told why, in the words its log will show. */
static void take_hello(struct server *server, const struct wire_peer *peer, const Refrain__Hello *hello)
{
    struct group *group;
    uint32_t rank;
    struct error error;
    status_t status = groups_hello(server->groups, peer, hello, server->now_ns, &group, &rank, &error);
    if (status != STATUS_OK) {
        log_line(LOG_WARN, "a worker was sent away: %s", error.text);
        order_shutdown(server->outbox, peer, error.text);
        return;
    }
    log_line(LOG_DEBUG, "group %.8s: rank %u of %u is here, %s on %s", group->name, hello->rank, group->seats,
             hello->backend, hello->host);
    welcome(server, group, rank, hello);
}

/* ----------------------------------------------------------------------------------------- jobs under way */

/* The slot a report is about, whether or not its job still counts; NULL if the report is from the past. */
static struct slot *reported_slot(const struct sender *sender, uint64_t id, uint32_t attempt)
{
    struct slot *slot = id ? group_slot(sender->group, id) : NULL;
    return slot && slot->attempt == attempt && slot->home == sender->rank ? slot : NULL;
}

/* The job a report is about, if it is the one this group works on; NULL if the report is from the past. */
static struct job *reported_job(const struct server *server, const struct sender *sender, uint64_t id,
                                uint32_t attempt)
{
    const struct slot *slot = reported_slot(sender, id, attempt);
    if (!slot || !slot->assigned) return NULL;
    struct job *job = jobs_find(server->jobs, id);
    return job && job->attempt == attempt ? job : NULL;
}

/* Kept in memory only: after a restart the next report brings it again. */
/* Pictures are for watchers alone, and only what looks like one. Lent to the note. */
static void lend_preview(Refrain__Progress *note, const Refrain__Progress *report)
{
    static const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    const ProtobufCBinaryData *preview = &report->preview;
    bool fits = report->has_preview && report->has_preview_step && preview->len > sizeof png &&
                preview->len <= LIMIT_PREVIEW_BYTES && memcmp(preview->data, png, sizeof png) == 0;
    if (!fits) return;
    note->has_preview = note->has_preview_step = 1;
    note->preview = *preview;
    note->preview_step = report->preview_step;
}

static void take_progress(struct server *server, const struct sender *sender,
                          const Refrain__JobProgress *report)
{
    struct job *job = reported_job(server, sender, report->job, report->attempt);
    if (!job || !report->progress) return;
    Refrain__Progress *progress = &job->progress;
    counts_progress(&server->counts, job, report->progress);
    jobs_note_progress(job, report->progress);
    if (progress->has_step_seconds && progress->step_seconds > 0)
        server->mean_step_seconds = progress->step_seconds;
    foresight_heard(server, job);
    sender->group->progress_ns = server->now_ns;
    if (!watches_any(server->watches, job->id)) return;
    foresight_look(server, false);
    Refrain__Job *described;
    if (jobs_describe(server->jobs, NULL, job->id, &described, NULL) != STATUS_OK) return;
    jobs_drop_tables(described);
    if (described->progress) lend_preview(described->progress, report->progress);
    watches_progress(server->watches, server->outbox, described);
    if (described->progress) described->progress->preview = (ProtobufCBinaryData){0, NULL};
    refrain__job__free_unpacked(described, NULL);
}

/* Ends the running attempt for good, without a result. */
static void finish(struct server *server, struct job *job, Refrain__JobState state, const char *message)
{
    struct error error;
    uint64_t id = job->id;
    results_drop(server->results, id);
    if (jobs_finish(server->jobs, job, state, message, NULL, server->now_ms, &error) != STATUS_OK)
        log_line(LOG_ERROR, "%s", error.text);
    else if (state == REFRAIN__JOB_STATE__JOB_FAILED)
        log_line(LOG_ERROR, "job %" PRIu64 ": failed: %s", id, message);
    else
        log_line(LOG_INFO, "job %" PRIu64 ": cancelled", id);
}

/* A result that cannot be kept: the job fails now; home is told to stop by the scheduler, as the slot's job
 * is over. */
static void fail_upload(struct server *server, struct job *job, const struct error *error)
{
    finish(server, job, REFRAIN__JOB_STATE__JOB_FAILED, error->text);
}

/* Idempotent: a repeated chunk is answered with what is held, a file that is complete with its size. */
static void take_upload(struct server *server, const struct sender *sender, const Refrain__UploadChunk *chunk)
{
    struct error error;
    uint64_t held = 0, bytes, hash;
    struct job *job = reported_job(server, sender, chunk->job, chunk->attempt);
    const struct slot *slot = reported_slot(sender, chunk->job, chunk->attempt);
    if (!chunk->file) return;
    if (!job) { /* it expired or failed: take the bytes as read, so that home comes to its end and is free
                   again */
        if (slot) order_upload_ack(server->outbox, sender->group, slot, chunk->file, chunk->total);
        return;
    }
    /* Complete already: the answer was lost with the old connection. */
    status_t status =
        jobstore_find_file(server->store, job->id, job->attempt, chunk->file, &bytes, &hash, &error);
    if (status == STATUS_OK)
        held = bytes;
    else
        status = results_chunk(server->results, chunk, &held, &error);
    sender->group->progress_ns = server->now_ns;
    if (status == STATUS_OK)
        order_upload_ack(server->outbox, sender->group, slot, chunk->file, held);
    else if (status != STATUS_AGAIN)
        fail_upload(server, job, &error);
}

/* The acknowledgement waits for the row as well as for the file: JobDone relies on both. */
void server_file_finished(struct server *server, const struct finished_file *file)
{
    struct error error = file->error;
    struct group *group;
    const struct slot *slot = groups_slot(server->groups, file->job, &group);
    struct job *job = jobs_find(server->jobs, file->job);
    if (!slot || !job || job->attempt != file->attempt || slot->attempt != file->attempt) return;
    status_t status = file->error.status;
    if (status == STATUS_OK)
        status = jobstore_add_file(server->store, file->job, file->attempt, file->name, file->bytes,
                                   file->xxh64, &error);
    if (status == STATUS_OK)
        order_upload_ack(server->outbox, group, slot, file->name, file->bytes);
    else
        fail_upload(server, job, &error);
}

static void take_rested(const struct sender *sender, const Refrain__Rested *rested)
{
    struct slot *slot = reported_slot(sender, rested->job, rested->attempt);
    if (slot) move_take_rested(slot, rested);
}

/* --------------------------------------------------------------------------------------------- ended jobs */

/* Everything home says it made is here, as it says. */
static status_t check_files(struct server *server, const struct job *job, const Refrain__JobDone *done,
                            struct error *error)
{
    if (done->n_files == 0) return error_set(error, STATUS_INTERNAL, "the ranks finished without a result");
    for (size_t i = 0; i < done->n_files; i++) {
        const Refrain__ResultFile *file = done->files[i];
        uint64_t bytes, hash;
        if (!file->name) return error_set(error, STATUS_INTERNAL, "the ranks made a file without a name");
        status_t status =
            jobstore_find_file(server->store, job->id, job->attempt, file->name, &bytes, &hash, error);
        if (status != STATUS_OK) return status;
        if (bytes != file->bytes || hash != file->xxh64)
            return error_set(error, STATUS_CORRUPT, "file %s: is not what the ranks made", file->name);
    }
    return STATUS_OK;
}

/* How much of home's time a job takes beside the ring's blocks: the next layout takes it into account. */
static void learn_home_work(struct server *server, struct group *group, const struct slot *slot,
                            const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                            const Refrain__JobTimes *times)
{
    struct plan_mix mix = {0};
    hitrates_of(&server->rates, spec, card, &mix, NULL);
    double block_ns = group->members[slot->home].block_token_ns * (double)caching_tokens(spec, card);
    double branch_steps = (spec->steps - spec->at_step) * (spec->guidance > 1 ? 2.0 : 1.0);
    if (branch_steps <= 0) return; /* it only made files */
    if (!times || !(times->home > 0) || !isfinite(times->home) || block_ns <= 0 || spec->compare) return;
    /* Blocks that run at every step are home's work, too, but counted by themselves. */
    double work = fmax(0, times->home * SECOND_NS / block_ns / branch_steps - mix.head - mix.tail);
    group->home_work = group->home_work > 0 ? 0.8 * group->home_work + 0.2 * work : work;
}

/* What the job's policy did, if it had one and the report can be believed. A video is not thrown away for
 * numbers about it that make no sense. What it teaches is kept for later plans, and counted. times: of the whole job. */
static const Refrain__CacheReport *learn(struct server *server, const struct sender *sender,
                                         const struct job *job, const Refrain__JobDone *done,
                                         const Refrain__JobTimes *times)
{
    Refrain__Job *stored;
    struct error error;
    const struct model *model;
    const struct slot *slot = reported_slot(sender, job->id, job->attempt);
    if (!slot || jobstore_get(server->store, NULL, job->id, &stored, &error) != STATUS_OK) return NULL;
    bool known = models_find(server->models, job->model, &model, NULL) == STATUS_OK;
    status_t status = STATUS_AGAIN; /* nothing to keep */
    if (done->cache && caching_on(stored->spec))
        status = caching_check_report(done->cache, stored->spec, &error);
    known =
        known && !(done->times && done->times->steps_reused); /* what it took says nothing of a job like it */
    if (status == STATUS_OK && known) hitrates_learn(&server->rates, stored->spec, model->card, done->cache);
    if (known) learn_home_work(server, sender->group, slot, stored->spec, model->card, done->times);
    if (known) lessons_take(server, sender->group, job, stored->spec, done->times);
    counts_completed(&server->counts, stored->spec, times, status == STATUS_OK ? done->cache : NULL);
    refrain__job__free_unpacked(stored, NULL);
    if (status == STATUS_CORRUPT) log_line(LOG_WARN, "job %" PRIu64 ": %s", job->id, error.text);
    return status == STATUS_OK ? done->cache : NULL;
}

static void complete(struct server *server, struct job *job, const Refrain__JobTimes *times,
                     const Refrain__CacheReport *report)
{
    struct error error;
    uint64_t id = job->id;
    if (jobs_complete(server->jobs, job, times, report, server->now_ms, &error) == STATUS_OK)
        log_line(LOG_INFO, "job %" PRIu64 ": completed", id);
    else
        log_line(LOG_ERROR, "%s", error.text);
}

/* Seconds in which a job that had been started waited for its group to load the model. */
static double load_of(const struct server *server, const struct group *group, const struct job *job)
{
    double loaded = (double)(server->now_ns - group->loaded_ns) / SECOND_NS; /* seconds ago, as all here */
    double started = (double)(server->now_ms - job->started_ms) / 1000;
    return fmax(0, fmin(started - loaded, group->load_seconds));
}

/* Completed only if everything it names is here; a result one cannot fetch is no result. */
static void take_done(struct server *server, const struct sender *sender, const Refrain__JobDone *done)
{
    struct error error;
    struct job *job = reported_job(server, sender, done->job, done->attempt);
    if (job && check_files(server, job, done, &error) != STATUS_OK) {
        finish(server, job, REFRAIN__JOB_STATE__JOB_FAILED, error.text);
    } else if (job) {
        Refrain__JobTimes times = REFRAIN__JOB_TIMES__INIT;
        if (done->times) times = *done->times;
        times.has_queued = times.has_load = 1;
        times.load = load_of(server, sender->group, job);
        times.queued = (double)(job->started_ms - job->submitted_ms) / 1000;
        if (!times.has_total) times.total = (double)(server->now_ms - job->started_ms) / 1000;
        times.has_total = 1;
        complete(server, job, &times, learn(server, sender, job, done, &times));
        sender->group->broken_epochs = 0;
    }
}

/* The sentence goes to the client as it is: the rank that failed knows best. */
static void take_failed(struct server *server, const struct sender *sender, const Refrain__JobFailed *failed)
{
    struct error error;
    const char *message = failed->message && *failed->message ? failed->message : "the ranks gave no reason";
    struct job *job = reported_job(server, sender, failed->job, failed->attempt);
    if (!job) return;
    /* The ranks' fault, not the job's. */
    bool lost = failed->status == STATUS_PEER_LOST || failed->status == STATUS_ABORTED;
    if (!lost) {
        finish(server, job, REFRAIN__JOB_STATE__JOB_FAILED, message);
        return;
    }
    results_drop(server->results, job->id);
    if (jobs_requeue(server->jobs, job, LOSS_COMPANY, message, server->now_ms, &error) != STATUS_OK)
        log_line(LOG_ERROR, "%s", error.text);
}

/* A rank that drops a job nobody cancelled has not ended it: the job is queued again, as after a loss. */
static void take_cancelled(struct server *server, const struct sender *sender,
                           const Refrain__JobCancelled *cancelled)
{
    struct error error;
    struct job *job = reported_job(server, sender, cancelled->job, cancelled->attempt);
    if (!job) return;
    if (job->state == REFRAIN__JOB_STATE__JOB_CANCELLING)
        finish(server, job, REFRAIN__JOB_STATE__JOB_CANCELLED, NULL);
    else if (jobs_requeue(server->jobs, job, LOSS_COMPANY, "the ranks dropped it", server->now_ms, &error) !=
             STATUS_OK)
        log_line(LOG_ERROR, "%s", error.text);
}

/* A job's last report: whatever it was, and whether or not it still counted, home is free again and may
 * forget it. */
static void take_last(struct server *server, const struct sender *sender, const Refrain__WorkerReport *report)
{
    uint64_t job;
    uint32_t attempt;
    if (report->body_case == REFRAIN__WORKER_REPORT__BODY_DONE) {
        job = report->done->job, attempt = report->done->attempt;
        take_done(server, sender, report->done);
    } else if (report->body_case == REFRAIN__WORKER_REPORT__BODY_FAILED) {
        job = report->failed->job, attempt = report->failed->attempt;
        take_failed(server, sender, report->failed);
    } else {
        job = report->cancelled->job, attempt = report->cancelled->attempt;
        take_cancelled(server, sender, report->cancelled);
    }
    struct slot *slot = reported_slot(sender, job, attempt);
    if (slot) *slot = (struct slot){0};
    order_noted(server->outbox, &sender->member->peer, job, attempt);
}

/* ----------------------------------------------------------------------------------------------- dispatch */

/* An announced end spares everybody the wait for silence. */
static void take_goodbye(struct server *server, const struct sender *sender, const Refrain__Goodbye *goodbye)
{
    group_vacate(sender->group, sender->rank, server->now_ns, "rank %u left%s%s", sender->member->seat,
                 goodbye->message ? ": " : "", goodbye->message ? goodbye->message : "");
}

/* A rank that waits to be let in is in no epoch and has no jobs. */
static bool is_for_guests(Refrain__WorkerReport__BodyCase kind)
{
    return kind == REFRAIN__WORKER_REPORT__BODY_HEARTBEAT || kind == REFRAIN__WORKER_REPORT__BODY_GOODBYE ||
           kind == REFRAIN__WORKER_REPORT__BODY_TIER_CHANGES ||
           kind == REFRAIN__WORKER_REPORT__BODY_TIER_FIGURES;
}

/* What does not fit the present state is ignored inside each function; what is unknown is counted. */
static void dispatch(struct server *server, const struct sender *sender, const Refrain__WorkerReport *report)
{
    struct group *group = sender->group;
    if (sender->rank >= group->ranks && !is_for_guests(report->body_case)) return;
    switch (report->body_case) {
    case REFRAIN__WORKER_REPORT__BODY_EPOCH_READY:
        group_epoch_ready(group, sender->rank, report->epoch_ready->epoch, server->now_ns);
        break;
    case REFRAIN__WORKER_REPORT__BODY_EPOCH_LOST:
        group_epoch_lost(group, sender->rank, report->epoch_lost, server->now_ns);
        break;
    case REFRAIN__WORKER_REPORT__BODY_LOADED:
        group_loaded(group, sender->rank, report->loaded, server->now_ns);
        break;
    case REFRAIN__WORKER_REPORT__BODY_LOAD_FAILED:
        group_load_failed(group, sender->rank, report->load_failed, server->now_ns);
        break;
    case REFRAIN__WORKER_REPORT__BODY_HEARTBEAT:
        group_heartbeat(group, sender->rank, report->heartbeat, server->now_ns);
        break;
    case REFRAIN__WORKER_REPORT__BODY_RESTED:
        take_rested(sender, report->rested);
        break;
    case REFRAIN__WORKER_REPORT__BODY_PROGRESS:
        take_progress(server, sender, report->progress);
        break;
    case REFRAIN__WORKER_REPORT__BODY_UPLOAD:
        take_upload(server, sender, report->upload);
        break;
    case REFRAIN__WORKER_REPORT__BODY_DONE:
    case REFRAIN__WORKER_REPORT__BODY_FAILED:
    case REFRAIN__WORKER_REPORT__BODY_CANCELLED:
        take_last(server, sender, report);
        break;
    case REFRAIN__WORKER_REPORT__BODY_GOODBYE:
        take_goodbye(server, sender, report->goodbye);
        break;
    case REFRAIN__WORKER_REPORT__BODY_LINK_MEASURED:
        if (report->link_measured->epoch == group->links.epoch)
            links_answer(&group->links, sender->rank, report->link_measured->peer,
                         report->link_measured->bytes_per_second, report->link_measured->latency);
        break;
    case REFRAIN__WORKER_REPORT__BODY_TIER_CHANGES:
        tierdesk_changes(server, group, sender->rank, report->tier_changes);
        break;
    case REFRAIN__WORKER_REPORT__BODY_TIER_SEEK:
        tierdesk_seek(server, group, sender->rank, report->tier_seek);
        break;
    case REFRAIN__WORKER_REPORT__BODY_TIER_ASK:
        tierdesk_ask(server, group, sender->rank, report->tier_ask);
        break;
    case REFRAIN__WORKER_REPORT__BODY_TIER_ENDED:
        tierdesk_ended(group, report->tier_ended);
        break;
    case REFRAIN__WORKER_REPORT__BODY_TIER_FIGURES:
        tierdesk_figures(server, group, sender->rank, report->tier_figures);
        break;
    default:
        server->refused++;
        break;
    }
}

void server_report(struct server *server, const struct wire_peer *peer, zmq_msg_t *frame)
{
    if (server->stopping) return; /* ranks that end as told have nothing to say that counts */
    Refrain__WorkerReport *report;
    struct error error;
    struct sender sender;
    struct launcher *launcher;
    status_t status = wire_unpack_report(zmq_msg_data(frame), zmq_msg_size(frame), &report, &error);
    if (status != STATUS_OK) {
        server->refused++;
        log_line(LOG_WARN, "a worker sent something else: %s", error.text);
        if (status == STATUS_UNSUPPORTED) order_shutdown(server->outbox, peer, error.text);
        return;
    }
    if (report->body_case == REFRAIN__WORKER_REPORT__BODY_HELLO) {
        take_hello(server, peer, report->hello);
    } else if (report->body_case == REFRAIN__WORKER_REPORT__BODY_LAUNCHER) {
        repair_take_launcher(server, peer, report->launcher);
    } else if ((launcher = launchers_heard(server->launchers, peer, server->now_ns))) {
        if (report->body_case == REFRAIN__WORKER_REPORT__BODY_SEAT_ENDED)
            repair_take_seat_ended(server, launcher, report->seat_ended);
        if (report->body_case == REFRAIN__WORKER_REPORT__BODY_GOODBYE) launcher->ends = true;
    } else if (groups_find(server->groups, peer, &sender.group, &sender.rank)) {
        sender.member = &sender.group->members[sender.rank];
        sender.member->heard_ns = server->now_ns;
        dispatch(server, &sender, report);
    } else if (report->body_case != REFRAIN__WORKER_REPORT__BODY_GOODBYE) {
        order_rehello(server->outbox, peer);
    }
    refrain__worker_report__free_unpacked(report, NULL);
}
