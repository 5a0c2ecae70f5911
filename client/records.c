/* records.c - see records.h. Pure functions of a reply; any thread. */
#include "client/records.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "cache/tier/miss.h"

/* The public enums are the wire's. */
static_assert((int)REFRAIN_SOLVER_EULER == (int)REFRAIN__SOLVER__SOLVER_EULER, "solvers");
static_assert((int)REFRAIN_PRIORITY_HIGH == (int)REFRAIN__PRIORITY__PRIORITY_HIGH, "priorities");
static_assert((int)REFRAIN_REJECTED == (int)REFRAIN__JOB_STATE__JOB_REJECTED, "states");
static_assert((int)REFRAIN_PHASE_UPLOAD == (int)REFRAIN__PHASE__PHASE_UPLOAD, "phases");
static_assert((int)REFRAIN_PARTLY == (int)REFRAIN__CACHE_ACTION__CACHE_PARTLY, "actions");

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

/* Room for the arrays of a record, after its body: all of it is asked for at once, then handed out.
 * Everything in it is made of pointers and numbers of at most 8 bytes. */
struct room {
    unsigned char *at;
};

static void *take(struct room *room, size_t count, size_t bytes)
{
    void *taken = room->at;
    room->at += (count * bytes + 7) / 8 * 8;
    return taken;
}

/* ------------------------------------------------------------------------------------- caching */

static const struct refrain_cache_table *tables_of(Refrain__CacheTable *const *wire, size_t count,
                                                   struct room *room)
{
    struct refrain_cache_table *tables = take(room, count, sizeof *tables);
    for (size_t i = 0; i < count; i++)
        tables[i] = (struct refrain_cache_table){
            .kind = wire[i]->kind ? wire[i]->kind : "",
            .name = wire[i]->name ? wire[i]->name : "",
            .layers = wire[i]->layers,
            .heads = wire[i]->heads,
            .head_dim = wire[i]->head_dim,
            .ffn_dim = wire[i]->ffn_dim,
            .latent_channels = wire[i]->latent_channels,
            .experts = wire[i]->experts,
            .steps = wire[i]->steps,
            .shift = wire[i]->shift,
            .width = wire[i]->width,
            .values = wire[i]->values,
            .count = wire[i]->n_values,
        };
    return count ? tables : NULL;
}

static const struct refrain_comparison *comparison_of(const Refrain__Comparison *wire, struct room *room)
{
    if (!wire) return NULL;
    struct refrain_comparison *comparison = take(room, 1, sizeof *comparison);
    *comparison = (struct refrain_comparison){
        .psnr = wire->has_psnr ? wire->psnr : INFINITY, /* absent: not a pixel differs */
        .psnr_worst = wire->has_psnr_worst ? wire->psnr_worst : INFINITY,
        .ssim = wire->ssim,
        .perceptual = wire->perceptual,
        .cached_seconds = wire->cached_seconds,
        .uncached_seconds = wire->uncached_seconds,
    };
    return comparison;
}

/* Arrays that do not fit each other are left out rather than believed. */
static const struct refrain_cache_report *report_of(const Refrain__CacheReport *wire, struct room *room)
{
    if (!wire) return NULL;
    struct refrain_cache_report *report = take(room, 1, sizeof *report);
    size_t branches = wire->branches, count = wire->actions.len;
    bool fits = branches > 0 && count > 0 && count % branches == 0;
    *report = (struct refrain_cache_report){
        .policy = wire->policy ? wire->policy : "",
        .steps = fits ? (unsigned)(count / branches) : 0,
        .branches = wire->branches,
        .computed = wire->computed,
        .reused = wire->reused,
        .forecast = wire->forecast,
        .actions = fits ? wire->actions.data : NULL,
        .reasons = fits && wire->reasons.len == count ? wire->reasons.data : NULL,
        .changes = fits && wire->n_changes == count ? wire->changes : NULL,
        .computed_seconds = wire->computed_seconds,
        .reused_seconds = wire->reused_seconds,
        .seconds_saved = wire->seconds_saved,
        .run_seconds = wire->run_seconds,
        .bytes = wire->bytes,
        .switch_at = wire->switch_at,
        .comparison = comparison_of(wire->comparison, room),
    };
    if (wire->n_block_computed != wire->n_block_reused) return report;
    report->block_computed = wire->block_computed;
    report->block_reused = wire->block_reused;
    report->blocks = wire->n_block_computed;
    return report;
}

/* --------------------------------------------------------------------------------------- jobs */

static struct refrain_spec spec_of(const Refrain__JobSpec *wire, struct room *room)
{
    if (!wire) return (struct refrain_spec)REFRAIN_SPEC_INIT;
    return (struct refrain_spec){
        .model = wire->model,
        .prompt = wire->prompt,
        .negative_prompt = wire->negative_prompt,
        .seed = wire->seed,
        .steps = wire->steps,
        .guidance = wire->has_guidance ? wire->guidance : REFRAIN_GUIDANCE_DEFAULT,
        .guidance_scale_2 = wire->has_guidance_scale_2 ? wire->guidance_scale_2 : REFRAIN_GUIDANCE_DEFAULT,
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
        .deadline_strict = wire->deadline_strict,
        .label = wire->label,
        .cache = wire->cache,
        .cache_tables = tables_of(wire->cache_tables, wire->n_cache_tables, room),
        .cache_table_count = wire->n_cache_tables,
        .compare = wire->compare,
        .checkpoint_every =
            wire->has_checkpoint_every ? (int)wire->checkpoint_every : REFRAIN_CHECKPOINT_DEFAULT,
        .resume_from = wire->resume_from,
        .at_step = wire->at_step,
        .preview_every = wire->preview_every,
        .recompute = wire->recompute,
    };
}

static struct refrain_progress progress_of(const Refrain__Progress *wire)
{
    if (!wire) return (struct refrain_progress){.seconds_left = -1, .largest_reused = -1};
    return (struct refrain_progress){
        .phase = (enum refrain_phase)wire->phase,
        .step = wire->step,
        .steps = wire->steps,
        .seconds_left = wire->has_seconds_left ? wire->seconds_left : -1,
        .step_seconds = wire->step_seconds,
        .actions = wire->cache_actions.data,
        .action_count = wire->cache_actions.len,
        .largest_reused = wire->has_largest_reused ? wire->largest_reused : -1,
        .preview = wire->preview.data,
        .preview_bytes = wire->preview.len,
        .preview_step = wire->preview_step,
        .steps_reused = wire->steps_reused,
        .reused_seconds = wire->reused_seconds,
    };
}

static struct refrain_times times_of(const Refrain__JobTimes *wire)
{
    if (!wire) return (struct refrain_times){0};
    return (struct refrain_times){
        .queued = wire->queued,
        .load = wire->load,
        .text = wire->text,
        .denoise = wire->denoise,
        .decode = wire->decode,
        .encode = wire->encode,
        .total = wire->total,
        .texts_reused = wire->texts_reused,
        .first_steps_reused = wire->first_steps_reused,
        .reused_seconds = wire->reused_seconds,
        .steps_taken_over = wire->steps_taken_over,
        .steps_reused = wire->steps_reused,
    };
}

/* What job_of will take. */
static size_t job_room(const Refrain__Job *wire)
{
    return wire->n_files * sizeof(struct refrain_file) +
           (wire->spec ? wire->spec->n_cache_tables : 0) * sizeof(struct refrain_cache_table) +
           sizeof(struct refrain_cache_report) + sizeof(struct refrain_comparison);
}

static struct refrain_job job_of(const Refrain__Job *wire, struct room *room)
{
    struct refrain_file *files = take(room, wire->n_files, sizeof *files);
    for (size_t i = 0; i < wire->n_files; i++) {
        const Refrain__ResultFile *file = wire->files[i];
        files[i] = (struct refrain_file){file->name ? file->name : "", file->bytes, file->xxh64};
    }
    return (struct refrain_job){
        .number = wire->job,
        .spec = spec_of(wire->spec, room),
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
        .finish_ms = wire->finish_ms,
        .warning = wire->warning && *wire->warning ? wire->warning : NULL,
        .waits = wire->waits && *wire->waits ? wire->waits : NULL,
        .ahead = wire->ahead,
        .times = times_of(wire->times),
        .plan = wire->plan && *wire->plan ? wire->plan : NULL,
        .cache = report_of(wire->cache, room),
    };
}

status_t record_job(Refrain__Reply *reply, struct refrain_job **job, struct error *error)
{
    struct refrain_job *body = record_new(reply, sizeof *body + job_room(reply->job), error);
    if (!body) return STATUS_NO_MEMORY;
    struct room room = {(unsigned char *)(body + 1)};
    *body = job_of(reply->job, &room);
    *job = body;
    return STATUS_OK;
}

status_t record_event(Refrain__Reply *reply, struct refrain_event **event, struct error *error)
{
    const Refrain__Event *wire = reply->event;
    if (!wire->job) return incomplete(reply, error);
    struct refrain_event *body = record_new(reply, sizeof *body + job_room(wire->job), error);
    if (!body) return STATUS_NO_MEMORY;
    struct room room = {(unsigned char *)(body + 1)};
    *body = (struct refrain_event){wire->sequence, wire->progress_only, wire->last, job_of(wire->job, &room)};
    *event = body;
    return STATUS_OK;
}

status_t record_job_list(Refrain__Reply *reply, struct refrain_job_list **list, struct error *error)
{
    const Refrain__JobList *wire = reply->jobs;
    size_t bytes = wire->n_jobs * sizeof(struct refrain_job);
    for (size_t i = 0; i < wire->n_jobs; i++) bytes += job_room(wire->jobs[i]);
    struct refrain_job_list *body = record_new(reply, sizeof *body + bytes, error);
    if (!body) return STATUS_NO_MEMORY;
    struct room room = {(unsigned char *)(body + 1)};
    struct refrain_job *jobs = take(&room, wire->n_jobs, sizeof *jobs);
    for (size_t i = 0; i < wire->n_jobs; i++) jobs[i] = job_of(wire->jobs[i], &room);
    *body = (struct refrain_job_list){jobs, wire->n_jobs, wire->more};
    *list = body;
    return STATUS_OK;
}

/* The tables are borrowed, the list of them and their headings are one block of memory. */
static status_t tables_to_wire(const struct refrain_spec *spec, Refrain__JobSpec *wire, struct error *error)
{
    size_t count = spec->cache_table_count;
    if (count == 0) return STATUS_OK;
    Refrain__CacheTable **list = calloc(count, sizeof *list + sizeof **list);
    if (!list) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu tables", count);
    Refrain__CacheTable *tables = (Refrain__CacheTable *)(list + count);
    for (size_t i = 0; i < count; i++) {
        const struct refrain_cache_table *from = &spec->cache_tables[i];
        Refrain__CacheTable *to = list[i] = &tables[i];
        refrain__cache_table__init(to);
        to->kind = (char *)(uintptr_t)from->kind;
        to->name = (char *)(uintptr_t)from->name;
        to->layers = from->layers, to->has_layers = 1;
        to->heads = from->heads, to->has_heads = 1;
        to->head_dim = from->head_dim, to->has_head_dim = 1;
        to->ffn_dim = from->ffn_dim, to->has_ffn_dim = 1;
        to->latent_channels = from->latent_channels, to->has_latent_channels = 1;
        to->experts = from->experts, to->has_experts = from->experts != 0;
        to->steps = from->steps, to->has_steps = 1;
        to->shift = from->shift, to->has_shift = 1;
        to->width = from->width, to->has_width = 1;
        to->values = (double *)(uintptr_t)from->values;
        to->n_values = from->count;
    }
    wire->cache_tables = list;
    wire->n_cache_tables = count;
    return STATUS_OK;
}

void record_wire_free(Refrain__JobSpec *wire)
{
    free(wire->cache_tables);
    wire->cache_tables = NULL;
    wire->n_cache_tables = 0;
}

status_t record_spec_to_wire(const struct refrain_spec *spec, Refrain__JobSpec *wire, struct error *error)
{
    refrain__job_spec__init(wire);
    /* The generated struct has no const; the strings are only read while packing. */
    wire->model = (char *)(uintptr_t)spec->model;
    wire->prompt = (char *)(uintptr_t)spec->prompt;
    wire->negative_prompt = (char *)(uintptr_t)spec->negative_prompt;
    wire->label = (char *)(uintptr_t)spec->label;
    /* 0 is the default; one who goes on from another job does not ask for it. */
    wire->seed = spec->seed, wire->has_seed = spec->seed != 0 || !spec->resume_from;
    wire->steps = spec->steps, wire->has_steps = spec->steps != 0;
    wire->guidance = spec->guidance, wire->has_guidance = spec->guidance != REFRAIN_GUIDANCE_DEFAULT;
    wire->guidance_scale_2 = spec->guidance_scale_2;
    wire->has_guidance_scale_2 = spec->guidance_scale_2 != REFRAIN_GUIDANCE_DEFAULT;
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
    wire->deadline_strict = wire->has_deadline_strict = spec->deadline_strict;
    wire->cache = (char *)(uintptr_t)spec->cache;
    wire->compare = spec->compare, wire->has_compare = spec->compare;
    /* Any other negative number stays one that no limit allows. */
    wire->has_checkpoint_every = spec->checkpoint_every != REFRAIN_CHECKPOINT_DEFAULT;
    wire->checkpoint_every = wire->has_checkpoint_every ? (uint32_t)spec->checkpoint_every : 0;
    wire->resume_from = spec->resume_from, wire->has_resume_from = spec->resume_from != 0;
    wire->at_step = spec->at_step, wire->has_at_step = spec->at_step != 0;
    wire->preview_every = spec->preview_every, wire->has_preview_every = spec->preview_every != 0;
    wire->recompute = wire->has_recompute = spec->recompute;
    return tables_to_wire(spec, wire, error);
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
        .state = wire->state ? wire->state : "here",
        .epoch = wire->epoch,
        .compute_progress = wire->compute_progress,
        .seconds_since_progress = wire->has_seconds_since_progress ? wire->seconds_since_progress : -1,
        .gflops = wire->gflops,
        .replaced = wire->replaced,
    };
}

static const struct refrain_rank *ranks_of(Refrain__RankInfo *const *wire, size_t count, struct room *room)
{
    struct refrain_rank *ranks = take(room, count, sizeof *ranks);
    for (size_t i = 0; i < count; i++) ranks[i] = rank_of(wire[i]);
    return ranks;
}

static const struct refrain_running *running_of(Refrain__RunningJob *const *wire, size_t count,
                                                struct room *room)
{
    struct refrain_running *jobs = take(room, count, sizeof *jobs);
    for (size_t i = 0; i < count; i++)
        jobs[i] = (struct refrain_running){
            .job = wire[i]->job,
            .attempt = wire[i]->attempt,
            .home = wire[i]->home,
            .phase = (enum refrain_phase)wire[i]->phase,
            .step = wire[i]->step,
            .steps = wire[i]->steps,
            .step_seconds = wire[i]->step_seconds,
        };
    return jobs;
}

static const struct refrain_link *links_of(Refrain__LinkInfo *const *wire, size_t count, struct room *room)
{
    struct refrain_link *links = take(room, count, sizeof *links);
    for (size_t i = 0; i < count; i++)
        links[i] = (struct refrain_link){.rank = wire[i]->rank,
                                         .peer = wire[i]->peer,
                                         .bytes_per_second = wire[i]->bytes_per_second,
                                         .latency = wire[i]->latency};
    return links;
}

static struct refrain_group group_of(const Refrain__GroupInfo *wire, struct room *room)
{
    return (struct refrain_group){
        .name = wire->name ? wire->name : "",
        .state = wire->state ? wire->state : "",
        .fabric = wire->fabric ? wire->fabric : "",
        .model = wire->model ? wire->model : "",
        .plan = wire->plan ? wire->plan : "",
        .message = wire->message && *wire->message ? wire->message : NULL,
        .epoch = wire->epoch,
        .ranks = ranks_of(wire->ranks, wire->n_ranks, room),
        .rank_count = wire->n_ranks,
        .jobs = running_of(wire->jobs, wire->n_jobs, room),
        .job_count = wire->n_jobs,
        .jobs_in_flight = wire->jobs_in_flight,
        .jobs_limit = wire->jobs_limit,
        .repairable = wire->repairable,
        .links = links_of(wire->links, wire->n_links, room),
        .link_count = wire->n_links,
    };
}

/* What record_stats will take. */
static size_t stats_room(const Refrain__StatsReply *wire)
{
    size_t bytes =
        wire->n_ranks * sizeof(struct refrain_rank) + wire->n_groups * sizeof(struct refrain_group);
    for (size_t i = 0; i < wire->n_groups; i++)
        bytes += wire->groups[i]->n_ranks * sizeof(struct refrain_rank) +
                 wire->groups[i]->n_jobs * sizeof(struct refrain_running) +
                 wire->groups[i]->n_links * sizeof(struct refrain_link);
    return bytes;
}

status_t record_stats(Refrain__Reply *reply, struct refrain_stats **stats, struct error *error)
{
    const Refrain__StatsReply *wire = reply->stats;
    struct refrain_stats *body = record_new(reply, sizeof *body + stats_room(wire), error);
    if (!body) return STATUS_NO_MEMORY;
    struct room room = {(unsigned char *)(body + 1)};
    struct refrain_group *groups = take(&room, wire->n_groups, sizeof *groups);
    for (size_t i = 0; i < wire->n_groups; i++) groups[i] = group_of(wire->groups[i], &room);
    *body = (struct refrain_stats){
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
        .ranks = ranks_of(wire->ranks, wire->n_ranks, &room),
        .rank_count = wire->n_ranks,
        .groups = groups,
        .group_count = wire->n_groups,
        .mean_step_seconds = wire->mean_step_seconds,
        .store_bytes = wire->store_bytes,
        .result_bytes = wire->result_bytes,
        .checkpoint_bytes = wire->checkpoint_bytes,
        .checkpoints_saved = wire->checkpoints_saved,
        .ranks_replaced = wire->ranks_replaced,
        .steps_repeated = wire->steps_repeated,
        .tier_items = wire->tier_items,
        .tier_hits = wire->tier_hits,
        .tier_misses = wire->tier_misses,
        .tier_seconds_saved = wire->tier_seconds_saved,
    };
    *stats = body;
    return STATUS_OK;
}

static struct refrain_model model_of(const Refrain__ModelCard *wire, struct room *room)
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
        .latent_channels = wire->latent_channels,
        .experts = wire->experts ? wire->experts : 1,
        .boundary = wire->boundary,
        .tables = tables_of(wire->tables, wire->n_tables, room),
        .table_count = wire->n_tables,
    };
}

status_t record_model_list(Refrain__Reply *reply, struct refrain_model_list **list, struct error *error)
{
    bool one = reply->body_case == REFRAIN__REPLY__BODY_MODEL;
    size_t count = one ? 1 : reply->models->n_models;
    Refrain__ModelCard **cards = one ? &reply->model : reply->models->models;
    size_t bytes = count * sizeof(struct refrain_model);
    for (size_t i = 0; i < count; i++) bytes += cards[i]->n_tables * sizeof(struct refrain_cache_table);
    struct refrain_model_list *body = record_new(reply, sizeof *body + bytes, error);
    if (!body) return STATUS_NO_MEMORY;
    struct room room = {(unsigned char *)(body + 1)};
    struct refrain_model *models = take(&room, count, sizeof *models);
    for (size_t i = 0; i < count; i++) models[i] = model_of(cards[i], &room);
    *body = (struct refrain_model_list){models, count};
    *list = body;
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

const char *refrain_action_name(enum refrain_action action)
{
    static const char *const names[] = {"computed", "reused", "forecast", "partly"};
    return NAME_AT(names, action, "unknown");
}

const char *refrain_reason_name(unsigned reason)
{
    static const char *const names[] = {"off",        "warm-up",    "last",   "mask",  "below",
                                        "above",      "no-history", "run",    "total", "accumulated",
                                        "non-finite", "verify",     "blocks", "origin"};
    return NAME_AT(names, reason, "unknown");
}

/* ------------------------------------------------------------------------------ the cache tier */

const char *refrain_cache_miss(size_t i)
{
    return miss_name(i < MISSES ? (enum miss)i : MISSES);
}

/* A newer coordinator may tell more, an older one less. */
static void copy_levels(uint64_t to[REFRAIN_CACHE_LEVELS], const uint64_t *from, size_t count)
{
    memcpy(to, from, (count < REFRAIN_CACHE_LEVELS ? count : REFRAIN_CACHE_LEVELS) * sizeof *to);
}

static void figure_of(const Refrain__CacheFigure *wire, struct refrain_cache_figure *figure)
{
    static const Refrain__TierTally nothing = REFRAIN__TIER_TALLY__INIT;
    const Refrain__TierTally *tally = wire->tally ? wire->tally : &nothing;
    *figure = (struct refrain_cache_figure){.group = wire->group ? wire->group : "",
                                            .kind = wire->kind ? wire->kind : "",
                                            .scope = wire->scope ? wire->scope : "",
                                            .rank = wire->rank,
                                            .items = tally->items,
                                            .published = tally->published,
                                            .refused = tally->refused,
                                            .fetched = tally->fetched,
                                            .lent = tally->lent,
                                            .copied = tally->copied,
                                            .misses = tally->misses,
                                            .miss_count = tally->n_misses,
                                            .seconds_saved = tally->seconds_saved};
    copy_levels(figure->bytes, tally->bytes, tally->n_bytes);
    copy_levels(figure->hits, tally->hits, tally->n_hits);
    copy_levels(figure->evictions, tally->evictions, tally->n_evictions);
}

status_t record_cache(Refrain__Reply *reply, struct refrain_cache **cache, struct error *error)
{
    const Refrain__CacheReply *wire = reply->cache;
    size_t bytes = wire->n_figures * sizeof(struct refrain_cache_figure) +
                   wire->n_ranks * sizeof(struct refrain_cache_rank) +
                   wire->n_items * sizeof(struct refrain_cache_item);
    struct refrain_cache *body = record_new(reply, sizeof *body + bytes, error);
    if (!body) return STATUS_NO_MEMORY;
    struct room room = {(unsigned char *)(body + 1)};
    struct refrain_cache_figure *figures = take(&room, wire->n_figures, sizeof *figures);
    struct refrain_cache_rank *ranks = take(&room, wire->n_ranks, sizeof *ranks);
    struct refrain_cache_item *items = take(&room, wire->n_items, sizeof *items);
    for (size_t i = 0; i < wire->n_figures; i++) figure_of(wire->figures[i], &figures[i]);
    for (size_t i = 0; i < wire->n_ranks; i++) {
        const Refrain__CacheRank *one = wire->ranks[i];
        ranks[i] = (struct refrain_cache_rank){.group = one->group ? one->group : "",
                                               .rank = one->rank,
                                               .has_used = one->n_used_bytes > 0,
                                               .pinned_bytes = one->pinned_bytes};
        copy_levels(ranks[i].limit_bytes, one->limit_bytes, one->n_limit_bytes);
        copy_levels(ranks[i].used_bytes, one->used_bytes, one->n_used_bytes);
    }
    for (size_t i = 0; i < wire->n_items; i++) {
        const Refrain__CacheItem *one = wire->items[i];
        items[i] = (struct refrain_cache_item){.key = one->key ? one->key : "",
                                               .scope = one->scope ? one->scope : "",
                                               .group = one->group ? one->group : "",
                                               .bytes = one->bytes,
                                               .seconds = one->seconds,
                                               .ranks = one->ranks,
                                               .rank_count = one->n_ranks};
    }
    *body = (struct refrain_cache){.figures = figures,
                                   .figure_count = wire->n_figures,
                                   .ranks = ranks,
                                   .rank_count = wire->n_ranks,
                                   .items = items,
                                   .item_count = wire->n_items,
                                   .more = wire->more,
                                   .told = wire->told};
    *cache = body;
    return STATUS_OK;
}
