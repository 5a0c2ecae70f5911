/*
 * home.c - see home.h. Compute thread of member 0.
 *
 * A slot holds a job from Assign until its files are with the coordinator. Whose job moves next is rules/turn.h's word,
 * asked anew for every piece: home_advance, at the end of this file, is called as long as there is one. What a job then
 * does of a step is in job_step.c.
 */
#include "worker/home_core.h"

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

#define MARKS_PATIENCE_NS (10 * SECOND_NS)

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

void home_sweep(struct home *home)
{
    for (int i = 0; i < HOME_SLOTS; i++)
        if (home->slots[i].over) slot_free(home, &home->slots[i]);
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
    home_checkpoint_begin(home, slot, assign);
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
        home_report_failed(home, assign->job, assign->attempt, &error);
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
            home_report_ending(home, s);
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

/* ------------------------------------------------------------------------------------------------ endings */

static void end(struct home *home, struct slot *slot, enum ending ending)
{
    slot->ending = ending;
    slot->over = slot->dropped;
    if (home->courier) courier_forget(home->courier, job_number(slot->job));
    if (!slot->dropped) home_report_ending(home, slot);
}

/* The job came to its end: files on their way, or a sentence. */
static void settle_outcome(struct home *home, struct slot *slot)
{
    struct error error = {0};
    status_t status = job_outcome(slot->job, &error);
    if (status == STATUS_OK) status = upload_create(slot->directory, &slot->upload, &error);
    if (status == STATUS_OK && !slot->dropped) {
        home_report_progress(home, slot, REFRAIN__PHASE__PHASE_UPLOAD);
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
        home_report_chunk(home, slot, &chunk);
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
    if (!is_resting(home) || slot->rested || slot->ending != ENDING_NONE || slot->fetching) return;
    if (!rests(home, slot) && !is_past_steps(slot)) return;
    home_checkpoint_save(home, slot, true);
    slot->rested = true;
    home_report_rested(home, slot);
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
    home_checkpoint_save(home, slot, false);
    rest(home, slot);
    if (job_status(slot->job)->revision != slot->revision)
        home_report_progress(home, slot, (Refrain__Phase)job_status(slot->job)->phase);
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

bool home_tend(struct home *home)
{
    bool moved = home_checkpoint_arrivals(home);
    for (int i = 0; i < HOME_SLOTS; i++) {
        struct slot *slot = &home->slots[i];
        if (!slot->job) continue;
        moved |= tend(home, slot);
        if (slot->taking && clock_now_ns() >= job_deadline_ns(slot->job))
            home_checkpoint_bring(slot, NULL, 0);
        if (!has_turns(slot)) continue;
        job_tend(slot->job);
        home_checkpoint_want(home, slot);
        /* All steps may have been there: others can go on from it all the same. */
        home_checkpoint_save(home, slot, false);
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
