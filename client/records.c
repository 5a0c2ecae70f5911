/* records.c - see records.h. Pure functions of a reply; any thread. */
#include "client/records.h"

#include <assert.h>
#include <stdlib.h>

/* The public enums are the wire's. */
static_assert((int)REFRAIN_SOLVER_EULER == (int)REFRAIN__SOLVER__SOLVER_EULER, "solvers");
static_assert((int)REFRAIN_PRIORITY_HIGH == (int)REFRAIN__PRIORITY__PRIORITY_HIGH, "priorities");
static_assert((int)REFRAIN_REJECTED == (int)REFRAIN__JOB_STATE__JOB_REJECTED, "states");
static_assert((int)REFRAIN_PHASE_UPLOAD == (int)REFRAIN__PHASE__PHASE_UPLOAD, "phases");

/* What precedes every public record in memory. */
struct record {
    Refrain__Reply *reply; /* owned: the record's strings are in it */
    _Alignas(max_align_t) unsigned char body[];
};

/* Takes `reply`; the body is zeroed. */
static void *record_new(Refrain__Reply *reply, size_t bytes, struct error *error)
{
    struct record *record = calloc(1, sizeof *record + bytes);
    if (!record) {
        refrain__reply__free_unpacked(reply, NULL);
        error_set(error, STATUS_NO_MEMORY, "no memory for an answer");
        return NULL;
    }
    record->reply = reply;
    return record->body;
}

void refrain_free(const void *body)
{
    if (!body) return;
    struct record *record =
        (struct record *)((unsigned char *)(uintptr_t)body - offsetof(struct record, body));
    refrain__reply__free_unpacked(record->reply, NULL);
    free(record);
}

static status_t incomplete(Refrain__Reply *reply, struct error *error)
{
    refrain__reply__free_unpacked(reply, NULL);
    return error_set(error, STATUS_CORRUPT, "the coordinator's answer lacks its content");
}

/* --------------------------------------------------------------------------------------- jobs */

static struct refrain_spec spec_of(const Refrain__JobSpec *wire)
{
    if (!wire) return (struct refrain_spec)REFRAIN_SPEC_INIT;
    return (struct refrain_spec){
        .model = wire->model,
        .prompt = wire->prompt,
        .negative_prompt = wire->negative_prompt,
        .seed = wire->seed,
        .steps = wire->steps,
        .guidance = wire->has_guidance ? wire->guidance : REFRAIN_GUIDANCE_DEFAULT,
        .width = wire->width,
        .height = wire->height,
        .frames = wire->frames,
        .solver = (enum refrain_solver)wire->solver,
        .shift = wire->shift,
        .fps = wire->fps,
        .save_latents = wire->save_latents,
        .save_frames = wire->save_frames,
        .priority = wire->has_priority ? (enum refrain_priority)wire->priority : REFRAIN_PRIORITY_NORMAL,
        .deadline_ms = wire->deadline_ms,
        .label = wire->label,
    };
}

static struct refrain_progress progress_of(const Refrain__Progress *wire)
{
    if (!wire) return (struct refrain_progress){.seconds_left = -1};
    return (struct refrain_progress){
        .phase = (enum refrain_phase)wire->phase,
        .step = wire->step,
        .steps = wire->steps,
        .seconds_left = wire->has_seconds_left ? wire->seconds_left : -1,
        .step_seconds = wire->step_seconds,
    };
}

static struct refrain_times times_of(const Refrain__JobTimes *wire)
{
    if (!wire) return (struct refrain_times){0};
    return (struct refrain_times){wire->queued, wire->load,   wire->text, wire->denoise,
                                  wire->decode, wire->encode, wire->total};
}

/* files: room for wire->n_files of them, in the record. */
static struct refrain_job job_of(const Refrain__Job *wire, struct refrain_file *files)
{
    for (size_t i = 0; i < wire->n_files; i++) {
        const Refrain__ResultFile *file = wire->files[i];
        files[i] = (struct refrain_file){file->name ? file->name : "", file->bytes, file->xxh64};
    }
    return (struct refrain_job){
        .number = wire->job,
        .spec = spec_of(wire->spec),
        .state = (enum refrain_state)wire->state,
        .sequence = wire->sequence,
        .attempt = wire->attempt,
        .progress = progress_of(wire->progress),
        .message = wire->message && *wire->message ? wire->message : NULL,
        .files = files,
        .file_count = wire->n_files,
        .submitted_ms = wire->submitted_ms,
        .started_ms = wire->started_ms,
        .finished_ms = wire->finished_ms,
        .ahead = wire->ahead,
        .times = times_of(wire->times),
        .plan = wire->plan && *wire->plan ? wire->plan : NULL,
    };
}

status_t record_job(Refrain__Reply *reply, struct refrain_job **job, struct error *error)
{
    struct body {
        struct refrain_job job;
        struct refrain_file files[];
    } *body = record_new(reply, sizeof *body + reply->job->n_files * sizeof(struct refrain_file), error);
    if (!body) return STATUS_NO_MEMORY;
    body->job = job_of(reply->job, body->files);
    *job = &body->job;
    return STATUS_OK;
}

status_t record_event(Refrain__Reply *reply, struct refrain_event **event, struct error *error)
{
    const Refrain__Event *wire = reply->event;
    if (!wire->job) return incomplete(reply, error);
    struct body {
        struct refrain_event event;
        struct refrain_file files[];
    } *body = record_new(reply, sizeof *body + wire->job->n_files * sizeof(struct refrain_file), error);
    if (!body) return STATUS_NO_MEMORY;
    body->event = (struct refrain_event){wire->sequence, wire->progress_only, wire->last,
                                         job_of(wire->job, body->files)};
    *event = &body->event;
    return STATUS_OK;
}

status_t record_job_list(Refrain__Reply *reply, struct refrain_job_list **list, struct error *error)
{
    const Refrain__JobList *wire = reply->jobs;
    size_t files_bytes = 0;
    for (size_t i = 0; i < wire->n_jobs; i++)
        files_bytes += wire->jobs[i]->n_files * sizeof(struct refrain_file);
    struct body {
        struct refrain_job_list list;
        struct refrain_job jobs[];
    } *body =
        record_new(reply, sizeof *body + wire->n_jobs * sizeof(struct refrain_job) + files_bytes, error);
    if (!body) return STATUS_NO_MEMORY;
    struct refrain_file *files = (struct refrain_file *)(body->jobs + wire->n_jobs);
    for (size_t i = 0; i < wire->n_jobs; i++) {
        body->jobs[i] = job_of(wire->jobs[i], files);
        files += wire->jobs[i]->n_files;
    }
    body->list = (struct refrain_job_list){body->jobs, wire->n_jobs, wire->more};
    *list = &body->list;
    return STATUS_OK;
}

void record_spec_to_wire(const struct refrain_spec *spec, Refrain__JobSpec *wire)
{
    refrain__job_spec__init(wire);
    /* The generated struct has no const; the strings are only read while packing. */
    wire->model = (char *)(uintptr_t)spec->model;
    wire->prompt = (char *)(uintptr_t)spec->prompt;
    wire->negative_prompt = (char *)(uintptr_t)spec->negative_prompt;
    wire->label = (char *)(uintptr_t)spec->label;
    wire->seed = spec->seed, wire->has_seed = 1;
    wire->steps = spec->steps, wire->has_steps = spec->steps != 0;
    wire->guidance = spec->guidance, wire->has_guidance = spec->guidance != REFRAIN_GUIDANCE_DEFAULT;
    wire->width = spec->width, wire->has_width = spec->width != 0;
    wire->height = spec->height, wire->has_height = spec->height != 0;
    wire->frames = spec->frames, wire->has_frames = spec->frames != 0;
    wire->solver = (Refrain__Solver)spec->solver, wire->has_solver = spec->solver != REFRAIN_SOLVER_DEFAULT;
    wire->shift = spec->shift, wire->has_shift = spec->shift != 0;
    wire->fps = spec->fps, wire->has_fps = spec->fps != 0;
    wire->save_latents = spec->save_latents, wire->has_save_latents = 1;
    wire->save_frames = spec->save_frames, wire->has_save_frames = 1;
    wire->priority = (Refrain__Priority)spec->priority, wire->has_priority = 1;
    wire->deadline_ms = spec->deadline_ms, wire->has_deadline_ms = spec->deadline_ms != 0;
}

/* ------------------------------------------------------------------------------------ service */

static struct refrain_rank rank_of(const Refrain__RankInfo *wire)
{
    return (struct refrain_rank){
        .rank = wire->rank,
        .pid = wire->pid,
        .threads = wire->threads,
        .first_block = wire->first_block,
        .blocks = wire->blocks,
        .host = wire->host ? wire->host : "",
        .backend = wire->backend ? wire->backend : "",
        .weight_bytes = wire->weight_bytes,
        .seconds_since_heard = wire->seconds_since_heard,
    };
}

status_t record_stats(Refrain__Reply *reply, struct refrain_stats **stats, struct error *error)
{
    const Refrain__StatsReply *wire = reply->stats;
    struct body {
        struct refrain_stats stats;
        struct refrain_rank ranks[];
    } *body = record_new(reply, sizeof *body + wire->n_ranks * sizeof(struct refrain_rank), error);
    if (!body) return STATUS_NO_MEMORY;
    for (size_t i = 0; i < wire->n_ranks; i++) body->ranks[i] = rank_of(wire->ranks[i]);
    body->stats = (struct refrain_stats){
        .version = wire->version ? wire->version : "",
        .uptime_seconds = wire->uptime_seconds,
        .queued = wire->jobs_queued,
        .running = wire->jobs_running,
        .completed = wire->jobs_completed,
        .failed = wire->jobs_failed,
        .cancelled = wire->jobs_cancelled,
        .expired = wire->jobs_expired,
        .epoch = wire->epoch,
        .group_state = wire->group_state ? wire->group_state : "",
        .ranks = body->ranks,
        .rank_count = wire->n_ranks,
        .mean_step_seconds = wire->mean_step_seconds,
        .store_bytes = wire->store_bytes,
        .result_bytes = wire->result_bytes,
    };
    *stats = &body->stats;
    return STATUS_OK;
}

static struct refrain_model model_of(const Refrain__ModelCard *wire)
{
    return (struct refrain_model){
        .name = wire->name ? wire->name : "",
        .pipeline = wire->pipeline ? wire->pipeline : "",
        .layers = wire->layers,
        .heads = wire->heads,
        .head_dim = wire->head_dim,
        .ffn_dim = wire->ffn_dim,
        .size_multiple = wire->size_multiple,
        .frame_multiple = wire->frame_multiple,
        .text_length = wire->text_length,
        .solver = (enum refrain_solver)wire->solver,
        .shift = wire->shift,
        .parameter_count = wire->parameter_count,
        .weight_bytes = wire->weight_bytes,
        .default_width = wire->default_width,
        .default_height = wire->default_height,
        .default_frames = wire->default_frames,
    };
}

status_t record_model_list(Refrain__Reply *reply, struct refrain_model_list **list, struct error *error)
{
    bool one = reply->body_case == REFRAIN__REPLY__BODY_MODEL;
    size_t count = one ? 1 : reply->models->n_models;
    Refrain__ModelCard **cards = one ? &reply->model : reply->models->models;
    struct body {
        struct refrain_model_list list;
        struct refrain_model models[];
    } *body = record_new(reply, sizeof *body + count * sizeof(struct refrain_model), error);
    if (!body) return STATUS_NO_MEMORY;
    for (size_t i = 0; i < count; i++) body->models[i] = model_of(cards[i]);
    body->list = (struct refrain_model_list){body->models, count};
    *list = &body->list;
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------- names */

static const char *name_at(const char *const *names, size_t count, int index, const char *otherwise)
{
    return index >= 0 && (size_t)index < count ? names[index] : otherwise;
}

#define NAME_AT(names, index, otherwise)                                                                     \
    name_at(names, sizeof(names) / sizeof *(names), (int)(index), otherwise)

bool refrain_state_is_final(enum refrain_state state)
{
    return state >= REFRAIN_COMPLETED;
}

const char *refrain_state_name(enum refrain_state state)
{
    static const char *const names[] = {"accepted", "queued",    "running", "cancelling", "completed",
                                        "failed",   "cancelled", "expired", "rejected"};
    return NAME_AT(names, state, "unknown");
}

const char *refrain_phase_name(enum refrain_phase phase)
{
    static const char *const names[] = {"", "load", "text", "denoise", "decode", "encode", "upload"};
    return NAME_AT(names, phase, "");
}

const char *refrain_solver_name(enum refrain_solver solver)
{
    static const char *const names[] = {"default", "unipc", "euler"};
    return NAME_AT(names, solver, "unknown");
}

const char *refrain_priority_name(enum refrain_priority priority)
{
    static const char *const names[] = {"low", "normal", "high"};
    return NAME_AT(names, priority, "unknown");
}
