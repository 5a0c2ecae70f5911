/*
 * home.c - see home.h. Compute thread of member 0.
 *
 * A slot holds a job from Assign until its files are with the coordinator. Whose job moves next is
 * rules/turn.h's word, asked anew for every piece. Between two steps a job's checkpoint is handed to the
 * courier; a job that goes on from one waits in its slot, without a turn, until the courier has brought it.
 */
#include "worker/home.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "proto/caching.h"
#include "proto/validate.h"
#include "rules/turn.h"
#include "worker/caching_report.h"
#include "worker/job.h"
#include "worker/upload.h"

#define MARKS_PATIENCE_NS (10 * SECOND_NS)

enum { HOME_SLOTS = PRESENCE_MAX_JOBS, DIRECTORY_BYTES = 4096 };
_Static_assert((int)HOME_SLOTS <= (int)TURN_ACCOUNTS, "each job may be another tenant's");

/* How a job ended, as reported; the report is repeated until the coordinator has noted it. */
enum ending { ENDING_NONE, ENDING_DONE, ENDING_FAILED, ENDING_CANCELLED };

struct slot {
    struct job *job;       /* NULL: free */
    struct upload *upload; /* once the files are made */
    enum ending ending;
    struct error failure; /* of ENDING_FAILED */
    bool over;            /* noted or dropped: only waits for the fabric to give buffers back */
    bool dropped;         /* nobody wants to hear of it any more */
    uint64_t revision;    /* of the last progress reported */
    int previewed;        /* the step of the last preview reported */
    uint64_t arrival;     /* earlier is smaller */
    int account;          /* of its tenant, in home's turn */
    int every;            /* steps between checkpoints; 0: none are made */
    int saved;            /* the step of the last checkpoint made or left out, or gone on from */
    int sent;             /* the step of the last one that the courier has, or gone on from */
    bool rested;          /* said so */
    int mark;      /* checkpoints of steps that it divides are made beside the courier's pace; 0: none */
    bool fetching; /* a checkpoint to go on from is on its way */
    bool taking;   /* ... that another job made, and this one can do without */
    struct checkpoint_name resume, origin; /* origin.bytes 0: it has none */
    int64_t began_ns, load_ns;
    int64_t marks_until_ns; /* all else is done; 0: not yet */
    int64_t home_ns;        /* work for it but the blocks of the ring; of that: */
    int64_t text_ns, decode_ns, files_ns;
    char directory[DIRECTORY_BYTES];
};

struct home {
    struct engine *engine;
    struct control *control;
    struct courier *courier; /* NULL: no checkpoints */
    const char *directory;
    struct turn turn;
    uint64_t arrivals;
    int64_t rest_until_ns; /* until then no job begins a step; 0: they may */
    struct slot slots[HOME_SLOTS];
};

status_t home_create(struct engine *engine, struct control *control, struct courier *courier,
                     const char *directory, struct home **home, struct error *error)
{
    struct home *h = calloc(1, sizeof *h);
    if (!h) return error_set(error, STATUS_NO_MEMORY, "no memory for home");
    h->engine = engine;
    h->control = control;
    h->courier = courier;
    h->directory = directory;
    *home = h;
    return STATUS_OK;
}

/* A job's files: only the names we make are removed. */
static void remove_directory(const char *directory)
{
    char path[DIRECTORY_BYTES + 32];
    for (int i = 0; i < UPLOAD_MAX_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, upload_names[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void slot_free(struct home *home, struct slot *slot)
{
    if (!slot->job) return;
    turn_leave(&home->turn, slot->account);
    upload_destroy(slot->upload);
    job_destroy(slot->job);
    remove_directory(slot->directory);
    memset(slot, 0, sizeof *slot);
}

void home_destroy(struct home *home)
{
    if (!home) return;
    for (int i = 0; i < HOME_SLOTS; i++) {
        struct slot *slot = &home->slots[i];
        if (slot->job && home->courier) courier_forget(home->courier, job_number(slot->job));
        slot_free(home, slot);
    }
    free(home);
}

void home_keep(struct home *home)
{
    for (int i = 0; home && i < HOME_SLOTS; i++)
        if (home->slots[i].job && !home->slots[i].over) job_keep_residuals(home->slots[i].job);
}

/* ---------------------------------------------------------------------------------------------- reporting */

static void report_failed(struct home *home, uint64_t job, uint32_t attempt, const struct error *why)
{
    Refrain__JobFailed failed = REFRAIN__JOB_FAILED__INIT;
    failed.has_job = failed.has_attempt = failed.has_status = 1;
    failed.job = job;
    failed.attempt = attempt;
    failed.status = (uint32_t)why->status;
    failed.message = (char *)(uintptr_t)why->text;
    log_line(LOG_WARN, "job %lu: %s", (unsigned long)job, why->text);
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_FAILED, &failed);
}

static void report_cancelled(struct home *home, const struct slot *slot)
{
    Refrain__JobCancelled cancelled = REFRAIN__JOB_CANCELLED__INIT;
    cancelled.has_job = cancelled.has_attempt = 1;
    cancelled.job = job_number(slot->job);
    cancelled.attempt = job_attempt(slot->job);
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_CANCELLED, &cancelled);
}

/* Once. */
static void add_preview(struct slot *slot, Refrain__Progress *progress)
{
    const uint8_t *png;
    size_t bytes;
    int step = job_preview(slot->job, &png, &bytes);
    if (step == slot->previewed || bytes > LIMIT_PREVIEW_BYTES) return;
    slot->previewed = step;
    progress->has_preview = progress->has_preview_step = 1;
    progress->preview = (ProtobufCBinaryData){bytes, (uint8_t *)(uintptr_t)png};
    progress->preview_step = (uint32_t)step;
}

static void report_progress(struct home *home, struct slot *slot, Refrain__Phase phase)
{
    const struct job_status *now = job_status(slot->job);
    Refrain__JobProgress message = REFRAIN__JOB_PROGRESS__INIT;
    Refrain__Progress progress = REFRAIN__PROGRESS__INIT;
    message.has_job = message.has_attempt = progress.has_phase = progress.has_step = progress.has_steps = 1;
    message.job = job_number(slot->job);
    message.attempt = job_attempt(slot->job);
    message.progress = &progress;
    progress.phase = phase;
    progress.step = (uint32_t)now->done;
    progress.steps = (uint32_t)now->of;
    progress.has_step_seconds = now->step_seconds > 0;
    progress.step_seconds = now->step_seconds;
    progress.has_seconds_left = now->seconds_left >= 0;
    progress.seconds_left = now->seconds_left;
    progress.has_steps_reused = progress.has_reused_seconds = now->steps_reused > 0;
    progress.steps_reused = (uint32_t)now->steps_reused;
    progress.reused_seconds = now->reused_seconds;
    uint8_t strip[CACHE_STEPS];
    caching_progress(slot->job, strip, &progress);
    add_preview(slot, &progress);
    slot->revision = now->revision;
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_PROGRESS, &message);
}

static void report_done(struct home *home, struct slot *slot)
{
    struct upload_file files[UPLOAD_MAX_FILES];
    Refrain__ResultFile results[UPLOAD_MAX_FILES], *pointers[UPLOAD_MAX_FILES];
    const struct job_status *status = job_status(slot->job);
    Refrain__JobDone done = REFRAIN__JOB_DONE__INIT;
    Refrain__JobTimes times = REFRAIN__JOB_TIMES__INIT;
    done.has_job = done.has_attempt = 1;
    done.job = job_number(slot->job);
    done.attempt = job_attempt(slot->job);
    done.n_files = (size_t)upload_files(slot->upload, files);
    done.files = pointers;
    for (size_t i = 0; i < done.n_files; i++) {
        refrain__result_file__init(&results[i]);
        results[i].name = (char *)(uintptr_t)files[i].name;
        results[i].has_bytes = results[i].has_xxh64 = 1;
        results[i].bytes = files[i].bytes;
        results[i].xxh64 = files[i].xxh64;
        pointers[i] = &results[i];
    }
    times.has_text = times.has_denoise = times.has_decode = times.has_encode = times.has_total = 1;
    times.text = status->text_seconds;
    times.denoise = status->denoise_seconds;
    times.decode = status->decode_seconds;
    times.encode = status->encode_seconds;
    times.has_home = 1;
    times.home = (double)slot->home_ns / (double)SECOND_NS;
    times.has_home_text = times.has_home_decode = times.has_home_files = 1;
    times.home_text = (double)slot->text_ns / (double)SECOND_NS;
    times.home_decode = (double)slot->decode_ns / (double)SECOND_NS;
    times.home_files = (double)slot->files_ns / (double)SECOND_NS;
    times.has_texts_reused = times.has_first_steps_reused = times.has_reused_seconds =
        times.has_steps_taken_over = times.has_steps_reused = 1;
    times.texts_reused = (uint32_t)status->texts_reused;
    times.first_steps_reused = (uint32_t)status->first_steps_reused;
    times.reused_seconds = status->reused_seconds;
    times.steps_taken_over = (uint32_t)status->steps_taken_over;
    times.steps_reused = (uint32_t)status->steps_reused;
    times.total = (double)(clock_now_ns() - slot->began_ns) / (double)SECOND_NS;
    done.times = &times;
    struct caching_report caching;
    done.cache = caching_report(slot->job, &caching);
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_DONE, &done);
}

static void report_ending(struct home *home, struct slot *slot)
{
    switch (slot->ending) {
    case ENDING_NONE:
        break;
    case ENDING_DONE:
        report_done(home, slot);
        break;
    case ENDING_FAILED:
        report_failed(home, job_number(slot->job), job_attempt(slot->job), &slot->failure);
        break;
    case ENDING_CANCELLED:
        report_cancelled(home, slot);
        break;
    }
}

static void end(struct home *home, struct slot *slot, enum ending ending)
{
    slot->ending = ending;
    slot->over = slot->dropped;
    if (home->courier) courier_forget(home->courier, job_number(slot->job));
    if (!slot->dropped) report_ending(home, slot);
}

/* ------------------------------------------------------------------------------------------------- orders */

static struct slot *slot_of(struct home *home, uint64_t job, uint32_t attempt)
{
    for (int i = 0; i < HOME_SLOTS; i++) {
        struct slot *s = &home->slots[i];
        if (s->job && !s->over && job_number(s->job) == job && job_attempt(s->job) == attempt) return s;
    }
    return NULL;
}

/* The wire's numbers are checked again where they become sizes: a worker believes nobody. */
static status_t read_order(const Refrain__Assign *assign, const struct model *model, struct job_order *order,
                           struct error *error)
{
    const Refrain__JobSpec *spec = assign->spec;
    if (!spec) return error_set(error, STATUS_CORRUPT, "an assignment without a job");
    if (spec->steps < 1 || spec->steps > 1000)
        return error_set(error, STATUS_INVALID, "steps %u: must be 1 to 1000", spec->steps);
    if (spec->width > 16384 || spec->height > 16384 || spec->frames > 65536)
        return error_set(error, STATUS_INVALID, "size %ux%ux%u: too large", spec->width, spec->height,
                         spec->frames);
    if (!isfinite(spec->guidance))
        return error_set(error, STATUS_INVALID, "guidance: must be a finite number");
    if (spec->has_guidance_scale_2 && (!isfinite(spec->guidance_scale_2) || model->config.experts < 2))
        return error_set(error, STATUS_INVALID,
                         "guidance_scale_2: must be a finite number, for a model of two experts");
    if (spec->fps < 1 || spec->fps > 1000)
        return error_set(error, STATUS_INVALID, "fps %u: must be 1 to 1000", spec->fps);
    if (spec->checkpoint_every > LIMIT_CHECKPOINT_EVERY)
        return error_set(error, STATUS_INVALID, "checkpoint_every %u: must be 0 to %d",
                         spec->checkpoint_every, LIMIT_CHECKPOINT_EVERY);
    if (spec->preview_every > LIMIT_STEPS)
        return error_set(error, STATUS_INVALID, "preview_every %u: must be 0 to %d", spec->preview_every,
                         LIMIT_STEPS);
    if (spec->resume_from && (spec->at_step < 1 || spec->at_step > spec->steps))
        return error_set(error, STATUS_INVALID, "at_step %u: must be 1 to %u", spec->at_step, spec->steps);
    if (assign->deadline_at_ms > INT64_MAX)
        return error_set(error, STATUS_INVALID, "deadline_at_ms: too large");
    *order = (struct job_order){.job = assign->job,
                                .attempt = assign->attempt,
                                .prompt = spec->prompt,
                                .negative = spec->negative_prompt,
                                .seed = spec->seed,
                                .steps = (int)spec->steps,
                                .width = (int)spec->width,
                                .height = (int)spec->height,
                                .frames = (int)spec->frames,
                                .fps = (int)spec->fps,
                                .guidance = spec->guidance,
                                .guides_apart = spec->has_guidance_scale_2,
                                .guidance_2 = spec->guidance_scale_2,
                                .shift = spec->has_shift ? spec->shift : model->config.solver.shift,
                                .solver = model->config.solver.kind,
                                .save_latents = spec->save_latents,
                                .save_frames = spec->save_frames,
                                .cache = spec->cache,
                                .compare = spec->compare,
                                .tenant = assign->tenant,
                                .priority = spec->has_priority ? (int)spec->priority
                                                               : REFRAIN__PRIORITY__PRIORITY_NORMAL,
                                .deadline_ms = (int64_t)assign->deadline_at_ms,
                                .age = assign->age,
                                .preview_every = (int)spec->preview_every,
                                .recompute = spec->recompute,
                                .origin = spec->resume_from,
                                .origin_step = (int)spec->at_step,
                                .checkpoint_every = spec->has_checkpoint_every ? (int)spec->checkpoint_every
                                                                               : DEFAULT_CHECKPOINT_EVERY};
    if (spec->solver == REFRAIN__SOLVER__SOLVER_UNIPC) order->solver = SOLVER_UNIPC;
    if (spec->solver == REFRAIN__SOLVER__SOLVER_EULER) order->solver = SOLVER_EULER;
    if (!isfinite(order->shift) || order->shift <= 0)
        return error_set(error, STATUS_INVALID, "shift %g: must be a finite number above 0", order->shift);
    return STATUS_OK;
}

static struct checkpoint_name name_of(uint64_t job, const Refrain__Checkpoint *checkpoint)
{
    return (struct checkpoint_name){.job = job,
                                    .attempt = checkpoint->attempt,
                                    .step = checkpoint->step,
                                    .bytes = checkpoint->bytes,
                                    .xxh64 = checkpoint->xxh64};
}

/* The job goes on from there: until that is here it has no turn. */
static void fetch_checkpoint(struct home *home, struct slot *slot, const struct checkpoint_name *from)
{
    slot->resume = *from;
    slot->fetching = true;
    courier_fetch(home->courier, from);
}

/* What is left of an earlier attempt; or where another job was; or nothing, and the job begins from the start. */
static void find_beginning(struct home *home, struct slot *slot, const Refrain__Assign *assign)
{
    struct error error;
    if (assign->origin) slot->origin = name_of(assign->job, assign->origin);
    if (home->courier && assign->resume) {
        struct checkpoint_name own = name_of(assign->job, assign->resume);
        fetch_checkpoint(home, slot, &own);
    } else if (home->courier && slot->origin.bytes) {
        fetch_checkpoint(home, slot, &slot->origin);
    } else if (assign->spec->resume_from) {
        error_set(&error, STATUS_NOT_FOUND, "the checkpoint of job %lu after step %u cannot be had",
                  (unsigned long)assign->spec->resume_from, assign->spec->at_step);
        job_refuse(slot->job, &error);
    }
}

static status_t start_job(struct home *home, struct slot *slot, const Refrain__Assign *assign,
                          struct error *error)
{
    struct job_order order;
    struct cache_table tables[LIMIT_JOB_TABLES];
    if (!home->engine->model) return error_set(error, STATUS_CONFLICT, "no model is loaded");
    status_t status = read_order(assign, home->engine->model, &order, error);
    if (status == STATUS_OK)
        status = caching_check_tables("cache_tables", assign->spec->cache_tables,
                                      assign->spec->n_cache_tables, LIMIT_JOB_TABLES, error);
    if (status != STATUS_OK) return status;
    order.tables = tables;
    order.table_count = (int)assign->spec->n_cache_tables;
    for (int i = 0; i < order.table_count; i++) caching_table(assign->spec->cache_tables[i], &tables[i]);
    snprintf(slot->directory, sizeof slot->directory, "%s/job-%lu-%u", home->directory,
             (unsigned long)order.job, order.attempt);
    if (mkdir(slot->directory, 0700) != 0)
        return error_set(error, STATUS_IO, "%s: cannot be made: %m", slot->directory);
    slot->began_ns = clock_now_ns();
    status = job_create(home->engine, &order, slot->directory, &slot->job, error);
    if (status != STATUS_OK) {
        rmdir(slot->directory);
        return status;
    }
    slot->arrival = ++home->arrivals;
    slot->account = turn_join(&home->turn, job_tenant(slot->job));
    slot->every = home->courier ? order.checkpoint_every : 0;
    slot->mark = assign->mark_every <= LIMIT_STEPS ? (int)assign->mark_every : 0;
    find_beginning(home, slot, assign);
    return STATUS_OK;
}

void home_assign(struct home *home, const Refrain__Assign *assign)
{
    struct error error;
    struct slot *slot = NULL;
    if (assign->epoch != home->engine->epoch || slot_of(home, assign->job, assign->attempt)) return;
    for (int i = 0; i < HOME_SLOTS && !slot; i++)
        if (!home->slots[i].job) slot = &home->slots[i];
    status_t status = slot ? start_job(home, slot, assign, &error)
                           : error_set(&error, STATUS_NO_MEMORY, "more than %d jobs at once", HOME_SLOTS);
    if (status != STATUS_OK) {
        report_failed(home, assign->job, assign->attempt, &error);
        return;
    }
    log_line(LOG_INFO, "job %lu: attempt %u begins", (unsigned long)assign->job, assign->attempt);
}

void home_cancel(struct home *home, uint64_t job, uint32_t attempt)
{
    struct slot *slot = slot_of(home, job, attempt);
    if (!slot) return;
    slot->fetching = slot->taking = false;
    job_cancel(slot->job);
}

void home_noted(struct home *home, uint64_t job, uint32_t attempt)
{
    struct slot *slot = slot_of(home, job, attempt);
    if (slot && slot->ending != ENDING_NONE) slot->over = true;
}

void home_ack(struct home *home, const Refrain__UploadAck *ack)
{
    struct slot *slot = slot_of(home, ack->job, ack->attempt);
    if (slot && slot->upload && ack->file) upload_ack(slot->upload, ack->file, ack->received);
}

void home_welcome(struct home *home, const Refrain__Welcome *welcome)
{
    home->rest_until_ns = 0; /* whoever asked for it may be gone; it asks again */
    for (int i = 0; i < HOME_SLOTS; i++) {
        struct slot *s = &home->slots[i];
        bool adopted = false;
        if (!s->job) continue;
        for (size_t k = 0; k < welcome->n_adopted; k++)
            adopted |= welcome->adopted[k]->job == job_number(s->job) &&
                       welcome->adopted[k]->attempt == job_attempt(s->job);
        if (!adopted) {
            s->dropped = true;
            s->over |= s->ending != ENDING_NONE;
            s->fetching = s->taking = false;
            job_cancel(s->job);
        } else if (s->ending != ENDING_NONE) {
            report_ending(home, s);
        } else if (s->upload) {
            upload_restart(s->upload);
        }
    }
}

void home_event(struct home *home, struct fabric_event *event)
{
    uint64_t context = event->kind == FABRIC_SENT ? event->cookie / JOB_COOKIES : event->ticket.context;
    for (int i = 0; i < HOME_SLOTS; i++) {
        struct slot *s = &home->slots[i];
        if (s->job && job_context(s->job) == context) {
            job_event(s->job, event);
            break;
        }
    }
    if (event->kind == FABRIC_RECEIVED) fabric_release(home->engine->fabric, event);
}

/* ------------------------------------------------------------------------------------------------ advance */

/* The job came to its end: files on their way, or a sentence. */
static void settle_outcome(struct home *home, struct slot *slot)
{
    struct error error = {0};
    status_t status = job_outcome(slot->job, &error);
    if (status == STATUS_OK) status = upload_create(slot->directory, &slot->upload, &error);
    if (status == STATUS_OK && !slot->dropped) {
        report_progress(home, slot, REFRAIN__PHASE__PHASE_UPLOAD);
        return;
    }
    if (status != STATUS_OK) slot->failure = error;
    end(home, slot, status == STATUS_ABORTED ? ENDING_CANCELLED : ENDING_FAILED);
}

/* Who is told that the job is done may go on from its checkpoints at once: they are given a while to become durable.
 * They were sent before decoding began, so this hardly ever waits. */
static bool awaits_marks(struct home *home, struct slot *slot)
{
    if (!home->courier || !courier_has_marks(home->courier, job_number(slot->job))) return false;
    if (!slot->marks_until_ns) slot->marks_until_ns = clock_now_ns() + MARKS_PATIENCE_NS;
    return clock_now_ns() < slot->marks_until_ns;
}

/* Sends chunks while the window allows; reports the job done when the coordinator holds everything. */
static bool advance_upload(struct home *home, struct slot *slot)
{
    struct error error = {0};
    struct upload_chunk chunk;
    bool worked = false;
    status_t status;
    while ((status = upload_next(slot->upload, &chunk, &error)) == STATUS_OK) {
        Refrain__UploadChunk message = REFRAIN__UPLOAD_CHUNK__INIT;
        message.has_job = message.has_attempt = message.has_offset = message.has_total = message.has_data = 1;
        message.job = job_number(slot->job);
        message.attempt = job_attempt(slot->job);
        message.file = (char *)(uintptr_t)chunk.file;
        message.offset = chunk.offset;
        message.total = chunk.total;
        message.data = (ProtobufCBinaryData){chunk.bytes, (uint8_t *)(uintptr_t)chunk.data};
        message.has_xxh64 = chunk.offset + chunk.bytes == chunk.total;
        message.xxh64 = chunk.xxh64;
        control_report(home->control, REFRAIN__WORKER_REPORT__BODY_UPLOAD, &message);
        worked = true;
    }
    if (status != STATUS_AGAIN) {
        slot->failure = error;
        end(home, slot, ENDING_FAILED);
        worked = true;
    } else if (upload_complete(slot->upload) && !awaits_marks(home, slot)) {
        end(home, slot, ENDING_DONE);
        worked = true;
    }
    return worked;
}

/* -------------------------------------------------------------------------------------------- checkpoints */

/* Hands what the job needs to go on from here to the courier, which carries it while the job does. now: whatever the
 * step and the courier's pace. */
static void save_checkpoint(struct home *home, struct slot *slot, bool now)
{
    int step;
    if (!slot->every || !job_between_steps(slot->job, &step) || step == slot->sent) return;
    if (step == slot->saved && !now) return;
    bool last = step == job_steps(slot->job), mark = now || (slot->mark && (last || step % slot->mark == 0));
    if (step % slot->every != 0 && !last && !mark) return;
    slot->saved = step;
    size_t bytes = job_save_bytes(slot->job);
    void *buffer = bytes ? courier_buffer(home->courier, job_number(slot->job), bytes, mark) : NULL;
    if (!buffer) return; /* the next one will do */
    struct checkpoint_name name = {.job = job_number(slot->job),
                                   .attempt = job_attempt(slot->job),
                                   .step = (uint32_t)step,
                                   .bytes = bytes,
                                   .point = job_run_point(slot->job)};
    if (job_save(slot->job, buffer, bytes, NULL) != STATUS_OK) return; /* the epoch ends, worker/engine.h */
    courier_send(home->courier, buffer, &name);
    slot->sent = step;
    if (mark) job_give_checkpoint(slot->job);
}

static struct slot *slot_fetching(struct home *home, const struct checkpoint_name *name)
{
    for (int i = 0; i < HOME_SLOTS; i++) {
        struct slot *s = &home->slots[i];
        if (s->job && s->fetching && s->resume.job == name->job && s->resume.attempt == name->attempt &&
            s->resume.step == name->step)
            return s;
    }
    return NULL;
}

/* A job whose checkpoint is not to be had begins from the start, or where its origin was: its video is the same, only
 * later. One whose origin is not to be had would make another video, and fails. */
static void begin_elsewhere(struct home *home, struct slot *slot, const struct error *why)
{
    struct error error = *why;
    unsigned long job = (unsigned long)slot->resume.job;
    if (!slot->origin.bytes) {
        log_line(LOG_WARN, "job %lu: begins from the start, not after step %u: %s", job, slot->resume.step,
                 why->text);
    } else if (slot->resume.attempt) {
        log_line(LOG_WARN, "job %lu: begins where its origin was, not after step %u: %s", job,
                 slot->resume.step, why->text);
        fetch_checkpoint(home, slot, &slot->origin);
    } else {
        error_prefix(&error, "the checkpoint it was to go on from cannot be used");
        job_refuse(slot->job, &error);
    }
}

static void resume(struct home *home, struct slot *slot, const struct courier_arrival *arrival)
{
    struct error error = arrival->error;
    status_t status = arrival->bytes ? job_restore(slot->job, arrival->bytes, arrival->name.bytes, &error)
                                     : STATUS_NOT_FOUND;
    slot->fetching = false;
    if (status == STATUS_OK) {
        slot->saved = slot->sent = (int)slot->resume.step;
        log_line(LOG_INFO, "job %lu: goes on after step %d", (unsigned long)slot->resume.job, slot->saved);
    } else {
        begin_elsewhere(home, slot, &error);
    }
}

/* Of an equal run. */
static void fetch_wanted(struct home *home, struct slot *slot)
{
    const struct checkpoint_name *wanted = job_wants(slot->job);
    if (!wanted) return;
    if (!home->courier) {
        job_bring(slot->job, NULL, 0);
        return;
    }
    slot->taking = true;
    fetch_checkpoint(home, slot, wanted);
}

static void end_taking(struct slot *slot, const void *bytes, size_t size)
{
    slot->fetching = slot->taking = false;
    job_bring(slot->job, bytes, size);
}

static bool take_arrivals(struct home *home)
{
    struct courier_arrival arrival;
    bool took = false;
    while (home->courier && courier_take(home->courier, &arrival)) {
        struct slot *slot = slot_fetching(home, &arrival.name);
        if (slot && slot->taking)
            end_taking(slot, arrival.bytes, arrival.name.bytes);
        else if (slot)
            resume(home, slot, &arrival);
        courier_free(&arrival);
        took = true;
    }
    return took;
}

/* ------------------------------------------------------------------------------------------------- resting */

static bool is_resting(const struct home *home)
{
    return home->rest_until_ns && clock_now_ns() < home->rest_until_ns;
}

/* Between two steps, and another attempt could go on from here: where caching by blocks cannot be saved it goes on until
 * it can. One that never makes checkpoints begins anew wherever it stops. */
static bool rests(const struct home *home, const struct slot *slot)
{
    int step;
    if (!is_resting(home) || !job_between_steps(slot->job, &step)) return false;
    return step < job_steps(slot->job) && (step == 0 || !slot->every || job_save_bytes(slot->job) > 0);
}

/* All steps are made: what follows goes on, for the ranks may stay as they are until it is done. */
static bool is_past_steps(const struct slot *slot)
{
    int step;
    const struct job_status *status = job_status(slot->job);
    return status->phase > JOB_PHASE_DENOISE ||
           (job_between_steps(slot->job, &step) && step == job_steps(slot->job));
}

static void rest(struct home *home, struct slot *slot)
{
    Refrain__Rested rested = REFRAIN__RESTED__INIT;
    if (!is_resting(home) || slot->rested || slot->ending != ENDING_NONE || slot->fetching) return;
    if (!rests(home, slot) && !is_past_steps(slot)) return;
    save_checkpoint(home, slot, true);
    rested.has_job = rested.has_attempt = rested.has_step = 1;
    rested.job = job_number(slot->job);
    rested.attempt = job_attempt(slot->job);
    rested.step = (uint32_t)slot->sent;
    slot->rested = true;
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_RESTED, &rested);
}

void home_rest(struct home *home, const Refrain__Rest *order)
{
    if (order->epoch != home->engine->epoch) return;
    int64_t patience_ns = (int64_t)order->patience_ms * MILLISECOND_NS;
    home->rest_until_ns = patience_ns ? clock_now_ns() + patience_ns : 0;
    for (int i = 0; i < HOME_SLOTS; i++) {
        home->slots[i].rested = false;
        if (home->slots[i].job && !home->slots[i].over) rest(home, &home->slots[i]);
    }
}

/* -------------------------------------------------------------------------------------------------- turns */

/* What a slot has to do beside its job: files on their way, the end. False: nothing. */
static bool tend(struct home *home, struct slot *slot)
{
    if (slot->over) {
        if (!job_settled(slot->job)) return false;
        slot_free(home, slot);
        return true;
    }
    if (slot->ending != ENDING_NONE || !slot->upload)
        return false; /* until it is noted; or the job is at work */
    if (slot->dropped) return slot->over = true;
    return advance_upload(home, slot);
}

/* A preview is beside what every job has to have. */
static void charge_time(struct slot *slot, enum job_piece piece, bool preview, int64_t ns)
{
    slot->home_ns += ns;
    if (piece == PIECE_TEXT) slot->text_ns += ns;
    if (piece == PIECE_DECODE && !preview) slot->decode_ns += ns;
    if (piece == PIECE_FILES) slot->files_ns += ns;
}

/* One piece of the job, or its preview. */
static void advance_job(struct home *home, struct slot *slot, const struct candidate *candidate, bool preview)
{
    uint64_t before = job_work(slot->job);
    int64_t began_ns = clock_now_ns();
    enum job_result result = JOB_ADVANCED;
    if (preview)
        job_preview_make(slot->job);
    else
        result = job_advance(slot->job);
    bool ring = candidate->piece == PIECE_BLOCKS || candidate->piece == PIECE_SPARE;
    if (!ring) charge_time(slot, candidate->piece, preview, clock_now_ns() - began_ns);
    turn_charge(&home->turn, candidate, job_work(slot->job) - before);
    if (result == JOB_FINISHED) {
        settle_outcome(home, slot);
        return;
    }
    if (slot->dropped) return;
    save_checkpoint(home, slot, false);
    rest(home, slot);
    if (job_status(slot->job)->revision != slot->revision)
        report_progress(home, slot, (Refrain__Phase)job_status(slot->job)->phase);
}

static bool has_turns(const struct slot *slot)
{
    return slot->job && !slot->over && slot->ending == ENDING_NONE && !slot->upload && !slot->fetching;
}

/* What could be done now: a job's own next piece, and its preview beside it. */
struct choice {
    struct candidate candidates[2 * HOME_SLOTS];
    int slots[2 * HOME_SLOTS];
    bool previews[2 * HOME_SLOTS];
    int count;
};

static void add_choice(struct choice *choice, const struct home *home, int slot, enum job_piece piece,
                       bool preview)
{
    const struct slot *s = &home->slots[slot];
    int64_t due_ms = job_due_ms(s->job);
    if (piece == PIECE_NONE) return;
    choice->slots[choice->count] = slot;
    choice->previews[choice->count] = preview;
    choice->candidates[choice->count++] = (struct candidate){.piece = piece,
                                                             .priority = job_priority(s->job),
                                                             .due_ms = due_ms > clock_wall_ms() ? due_ms : 0,
                                                             .arrival = s->arrival,
                                                             .account = s->account};
}

/* Who could move now, and when somebody who waits must be looked at again. */
static void list_choices(const struct home *home, struct choice *choice, int64_t *deadline_ns)
{
    choice->count = 0;
    for (int i = 0; i < HOME_SLOTS; i++) {
        const struct slot *s = &home->slots[i];
        if (s->job && s->marks_until_ns && s->ending == ENDING_NONE && s->marks_until_ns < *deadline_ns)
            *deadline_ns = s->marks_until_ns;
        if (!has_turns(s) && !s->taking) continue;
        bool resting = !s->taking && rests(home, s);
        int64_t deadline = resting ? home->rest_until_ns : job_deadline_ns(s->job);
        if (deadline < *deadline_ns) *deadline_ns = deadline;
        if (s->taking) continue;
        add_choice(choice, home, i, resting ? PIECE_NONE : job_next(s->job), false);
        add_choice(choice, home, i, job_preview_waits(s->job) ? PIECE_DECODE : PIECE_NONE, true);
    }
}

void home_sweep(struct home *home)
{
    for (int i = 0; i < HOME_SLOTS; i++)
        if (home->slots[i].over) slot_free(home, &home->slots[i]);
}

bool home_tend(struct home *home)
{
    bool moved = take_arrivals(home);
    for (int i = 0; i < HOME_SLOTS; i++) {
        struct slot *slot = &home->slots[i];
        if (!slot->job) continue;
        moved |= tend(home, slot);
        if (slot->taking && clock_now_ns() >= job_deadline_ns(slot->job)) end_taking(slot, NULL, 0);
        if (!has_turns(slot)) continue;
        job_tend(slot->job);
        fetch_wanted(home, slot);
        save_checkpoint(home, slot,
                        false); /* all steps may have been there: others can go on from it all the same */
    }
    return moved;
}

/* The choice that is next; negative: all jobs wait. */
static int choose(const struct home *home, struct choice *choice, int64_t *deadline_ns)
{
    *deadline_ns = CLOCK_NEVER;
    list_choices(home, choice, deadline_ns);
    return turn_choose(&home->turn, choice->candidates, choice->count);
}

enum job_piece home_next(const struct home *home, int *priority, int64_t *deadline_ns)
{
    struct choice choice;
    int next = choose(home, &choice, deadline_ns);
    if (next < 0) return PIECE_NONE;
    *priority = choice.candidates[next].priority;
    return choice.candidates[next].piece;
}

void home_advance(struct home *home)
{
    struct choice choice;
    int64_t deadline_ns;
    int next = choose(home, &choice, &deadline_ns);
    if (next < 0) return;
    advance_job(home, &home->slots[choice.slots[next]], &choice.candidates[next], choice.previews[next]);
}

void home_present(const struct home *home, struct presence *presence)
{
    presence->jobs = 0;
    for (int i = 0; i < HOME_SLOTS; i++) {
        const struct slot *s = &home->slots[i];
        if (!s->job || s->over) continue;
        presence->running[presence->jobs].job = job_number(s->job);
        presence->running[presence->jobs++].attempt = job_attempt(s->job);
    }
}
