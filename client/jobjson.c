/* jobjson.c - see jobjson.h. Any thread. */
#include "client/jobjson.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Sets a text that may be missing; what is not UTF-8 is left out. */
static void set_text(json_t *object, const char *key, const char *text)
{
    if (text) json_object_set_new(object, key, json_string(text));
}

static void set_whole(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

/* JSON has no NaN: what is not finite, or negative where that means unknown, is left out. */
static void set_real(json_t *object, const char *key, double value)
{
    if (isfinite(value) && value >= 0) json_object_set_new(object, key, json_real(value));
}

/* The tables' headings: the numbers themselves are many, and in the file they came from. */
static void set_tables(json_t *object, const char *key, const struct refrain_cache_table *tables,
                       size_t count)
{
    if (count == 0) return;
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *table = json_object();
        set_text(table, "kind", tables[i].kind);
        set_text(table, "name", tables[i].name);
        if (tables[i].steps) set_whole(table, "steps", tables[i].steps);
        if (tables[i].shift > 0) set_real(table, "shift", tables[i].shift);
        set_whole(table, "width", tables[i].width);
        set_whole(table, "value_count", tables[i].count);
        json_array_append_new(array, table);
    }
    json_object_set_new(object, key, array);
}

static json_t *spec_json(const struct refrain_spec *spec)
{
    json_t *object = json_object();
    set_text(object, "model", spec->model);
    set_text(object, "prompt", spec->prompt);
    set_text(object, "negative", spec->negative_prompt);
    /* A seed is any 64-bit number; JSON readers keep 53 bits, so large ones travel as text. */
    if (spec->seed >> 53) {
        char seed[24];
        snprintf(seed, sizeof seed, "%" PRIu64, spec->seed);
        set_text(object, "seed", seed);
    } else {
        set_whole(object, "seed", spec->seed);
    }
    set_whole(object, "steps", spec->steps);
    set_real(object, "guidance", spec->guidance);
    if (spec->guidance_scale_2 != REFRAIN_GUIDANCE_DEFAULT)
        set_real(object, "guidance_scale_2", spec->guidance_scale_2);
    set_whole(object, "width", spec->width);
    set_whole(object, "height", spec->height);
    set_whole(object, "frames", spec->frames);
    set_text(object, "solver", refrain_solver_name(spec->solver));
    set_real(object, "shift", spec->shift);
    set_whole(object, "fps", spec->fps);
    json_object_set_new(object, "save_latents", json_boolean(spec->save_latents));
    json_object_set_new(object, "save_frames", json_boolean(spec->save_frames));
    set_text(object, "priority", refrain_priority_name(spec->priority));
    if (spec->deadline_ms) set_whole(object, "deadline_ms", spec->deadline_ms);
    if (spec->deadline_strict) json_object_set_new(object, "deadline_strict", json_true());
    set_text(object, "label", spec->label);
    set_text(object, "cache", spec->cache);
    set_tables(object, "cache_tables", spec->cache_tables, spec->cache_table_count);
    if (spec->compare) json_object_set_new(object, "compare", json_true());
    if (spec->checkpoint_every >= 0) set_whole(object, "checkpoint_every", (uint64_t)spec->checkpoint_every);
    if (spec->resume_from) {
        set_whole(object, "resume_from", spec->resume_from);
        set_whole(object, "at_step", spec->at_step);
    }
    if (spec->preview_every) set_whole(object, "preview_every", spec->preview_every);
    if (spec->recompute) json_object_set_new(object, "recompute", json_true());
    return object;
}

/* ------------------------------------------------------------------------------------- caching */

static json_t *action_json(const struct refrain_cache_report *report, size_t at)
{
    return json_string(refrain_action_name((enum refrain_action)report->actions[at]));
}

static json_t *reason_json(const struct refrain_cache_report *report, size_t at)
{
    return json_string(refrain_reason_name(report->reasons[at]));
}

static json_t *change_json(const struct refrain_cache_report *report, size_t at)
{
    double change = report->changes[at];
    return isfinite(change) && change >= 0 ? json_real(change) : json_null();
}

/* [steps][branches] */
static json_t *verdicts_json(const struct refrain_cache_report *report,
                             json_t *(*entry)(const struct refrain_cache_report *, size_t at))
{
    json_t *steps = json_array();
    for (size_t step = 0; step < report->steps; step++) {
        json_t *branches = json_array();
        for (size_t branch = 0; branch < report->branches; branch++)
            json_array_append_new(branches, entry(report, step * report->branches + branch));
        json_array_append_new(steps, branches);
    }
    return steps;
}

static json_t *counts_json(const uint32_t *counts, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(array, json_integer(counts[i]));
    return array;
}

json_t *jobjson_comparison(const struct refrain_comparison *comparison)
{
    json_t *object = json_object();
    set_real(object, "psnr", comparison->psnr);
    set_real(object, "psnr_worst", comparison->psnr_worst);
    set_real(object, "ssim", comparison->ssim);
    set_real(object, "perceptual", comparison->perceptual);
    set_real(object, "cached_seconds", comparison->cached_seconds);
    set_real(object, "uncached_seconds", comparison->uncached_seconds);
    return object;
}

static json_t *cache_json(const struct refrain_cache_report *report)
{
    json_t *object = json_object();
    set_text(object, "policy", report->policy);
    set_whole(object, "branches", report->branches);
    set_whole(object, "computed", report->computed);
    set_whole(object, "reused", report->reused);
    set_whole(object, "forecast", report->forecast);
    if (report->actions) json_object_set_new(object, "actions", verdicts_json(report, action_json));
    if (report->reasons) json_object_set_new(object, "reasons", verdicts_json(report, reason_json));
    if (report->changes) json_object_set_new(object, "changes", verdicts_json(report, change_json));
    if (report->computed_seconds > 0) set_real(object, "computed_seconds", report->computed_seconds);
    if (report->reused_seconds > 0) set_real(object, "reused_seconds", report->reused_seconds);
    if (report->run_seconds > 0) set_real(object, "run_seconds", report->run_seconds);
    if (isfinite(report->seconds_saved)) /* less than 0: it did not pay */
        json_object_set_new(object, "seconds_saved", json_real(report->seconds_saved));
    set_whole(object, "bytes", report->bytes);
    if (report->switch_at) set_whole(object, "switch_at", report->switch_at);
    if (report->blocks) {
        json_object_set_new(object, "block_computed", counts_json(report->block_computed, report->blocks));
        json_object_set_new(object, "block_reused", counts_json(report->block_reused, report->blocks));
    }
    if (report->comparison) json_object_set_new(object, "comparison", jobjson_comparison(report->comparison));
    return object;
}

/* --------------------------------------------------------------------------------------- jobs */

static json_t *times_json(const struct refrain_times *times)
{
    json_t *object = json_object();
    set_real(object, "queued", times->queued);
    set_real(object, "load", times->load);
    set_real(object, "text", times->text);
    set_real(object, "denoise", times->denoise);
    set_real(object, "decode", times->decode);
    set_real(object, "encode", times->encode);
    set_real(object, "total", times->total);
    set_whole(object, "texts_reused", times->texts_reused);
    set_whole(object, "first_steps_reused", times->first_steps_reused);
    set_real(object, "reused_seconds", times->reused_seconds);
    set_whole(object, "steps_taken_over", times->steps_taken_over);
    set_whole(object, "steps_reused", times->steps_reused);
    return object;
}

static json_t *files_json(const struct refrain_job *job)
{
    json_t *array = json_array();
    for (size_t i = 0; i < job->file_count; i++) {
        char hash[17];
        snprintf(hash, sizeof hash, "%016" PRIx64, job->files[i].xxh64);
        json_t *object = json_object();
        set_text(object, "name", job->files[i].name);
        set_whole(object, "bytes", job->files[i].bytes);
        set_text(object, "xxh64", hash);
        json_array_append_new(array, object);
    }
    return array;
}

static void set_progress(json_t *object, const struct refrain_progress *progress)
{
    if (progress->phase == REFRAIN_PHASE_NONE) return;
    set_text(object, "phase", refrain_phase_name(progress->phase));
    set_whole(object, "step", progress->step);
    set_whole(object, "steps", progress->steps);
    set_real(object, "seconds_left", progress->seconds_left);
    if (progress->step_seconds > 0) set_real(object, "step_seconds", progress->step_seconds);
    if (progress->preview_bytes) set_whole(object, "preview_step", progress->preview_step);
    if (progress->steps_reused) {
        set_whole(object, "steps_reused", progress->steps_reused);
        set_real(object, "reused_seconds", progress->reused_seconds);
    }
    if (progress->action_count == 0) return;
    json_t *actions = json_array();
    for (size_t i = 0; i < progress->action_count; i++)
        json_array_append_new(actions,
                              json_string(refrain_action_name((enum refrain_action)progress->actions[i])));
    json_object_set_new(object, "actions", actions);
    set_real(object, "largest_reused", progress->largest_reused);
}

json_t *jobjson_job(const struct refrain_job *job)
{
    json_t *object = json_object();
    set_whole(object, "job", job->number);
    set_text(object, "state", refrain_state_name(job->state));
    set_whole(object, "sequence", job->sequence);
    set_whole(object, "attempt", job->attempt);
    if (!refrain_state_is_final(job->state)) set_progress(object, &job->progress);
    if (job->state == REFRAIN_QUEUED) set_whole(object, "ahead", job->ahead);
    set_text(object, "message", job->message);
    set_text(object, "plan", job->plan);
    json_object_set_new(object, "spec", spec_json(&job->spec));
    if (job->file_count) json_object_set_new(object, "files", files_json(job));
    if (job->submitted_ms) set_whole(object, "submitted_ms", job->submitted_ms);
    if (job->started_ms) set_whole(object, "started_ms", job->started_ms);
    if (job->finished_ms) set_whole(object, "finished_ms", job->finished_ms);
    if (job->finish_ms) set_whole(object, "finish_ms", job->finish_ms);
    if (job->warning) set_text(object, "warning", job->warning);
    if (job->waits) set_text(object, "waits", job->waits);
    if (job->times.total > 0) json_object_set_new(object, "times", times_json(&job->times));
    if (job->cache) json_object_set_new(object, "cache", cache_json(job->cache));
    return object;
}

json_t *jobjson_event(const struct refrain_event *event)
{
    json_t *object = json_object();
    set_text(object, "event", event->progress_only ? "progress" : "state");
    if (event->progress_only) {
        set_whole(object, "job", event->job.number);
        set_text(object, "state", refrain_state_name(event->job.state));
        set_progress(object, &event->job.progress);
        if (event->job.state == REFRAIN_QUEUED) set_whole(object, "ahead", event->job.ahead);
        return object;
    }
    json_t *job = jobjson_job(&event->job);
    json_object_update(object, job);
    json_decref(job);
    set_whole(object, "sequence", event->sequence);
    return object;
}

json_t *jobjson_model(const struct refrain_model *model)
{
    json_t *object = json_object();
    set_text(object, "name", model->name);
    set_text(object, "pipeline", model->pipeline);
    set_whole(object, "layers", model->layers);
    set_whole(object, "heads", model->heads);
    set_whole(object, "head_dim", model->head_dim);
    set_whole(object, "ffn_dim", model->ffn_dim);
    set_whole(object, "parameters", model->parameter_count);
    set_whole(object, "weight_bytes", model->weight_bytes);
    set_text(object, "solver", refrain_solver_name(model->solver));
    set_real(object, "shift", model->shift);
    set_whole(object, "width", model->default_width);
    set_whole(object, "height", model->default_height);
    set_whole(object, "frames", model->default_frames);
    set_whole(object, "size_multiple", model->size_multiple);
    set_whole(object, "frame_multiple", model->frame_multiple);
    set_whole(object, "text_length", model->text_length);
    if (model->latent_channels) set_whole(object, "latent_channels", model->latent_channels);
    if (model->experts > 1) {
        set_whole(object, "experts", model->experts);
        set_real(object, "boundary", model->boundary);
    }
    set_tables(object, "cache_tables", model->tables, model->table_count);
    return object;
}

static json_t *rank_json(const struct refrain_rank *rank)
{
    json_t *object = json_object();
    set_whole(object, "rank", rank->rank);
    set_text(object, "state", rank->state);
    if (strcmp(rank->state, "missing") == 0) return object;
    set_text(object, "host", rank->host);
    set_whole(object, "pid", rank->pid);
    set_text(object, "backend", rank->backend);
    set_whole(object, "threads", rank->threads);
    set_whole(object, "first_block", rank->first_block);
    set_whole(object, "blocks", rank->blocks);
    set_whole(object, "weight_bytes", rank->weight_bytes);
    set_real(object, "seconds_since_heard", rank->seconds_since_heard);
    set_whole(object, "epoch", rank->epoch);
    set_whole(object, "compute_progress", rank->compute_progress);
    set_real(object, "seconds_since_progress", rank->seconds_since_progress);
    if (rank->gflops > 0) set_real(object, "gflops", rank->gflops);
    set_whole(object, "replaced", rank->replaced);
    return object;
}

static json_t *ranks_json(const struct refrain_rank *ranks, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(array, rank_json(&ranks[i]));
    return array;
}

static json_t *running_json(const struct refrain_running *running)
{
    json_t *object = json_object();
    set_whole(object, "job", running->job);
    set_whole(object, "attempt", running->attempt);
    set_whole(object, "home", running->home);
    if (running->phase != REFRAIN_PHASE_NONE) set_text(object, "phase", refrain_phase_name(running->phase));
    set_whole(object, "step", running->step);
    set_whole(object, "steps", running->steps);
    if (running->step_seconds > 0) set_real(object, "step_seconds", running->step_seconds);
    return object;
}

static json_t *links_json(const struct refrain_link *links, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_pack("{s:i,s:i,s:f,s:f}", "rank", (int)links[i].rank, "peer",
                                               (int)links[i].peer, "bytes_per_second",
                                               links[i].bytes_per_second, "latency", links[i].latency));
    return array;
}

static json_t *group_json(const struct refrain_group *group)
{
    json_t *object = json_object(), *jobs = json_array();
    set_text(object, "group", group->name);
    set_text(object, "state", group->state);
    set_whole(object, "epoch", group->epoch);
    set_text(object, "fabric", group->fabric);
    if (*group->model) set_text(object, "model", group->model);
    if (*group->plan) set_text(object, "plan", group->plan);
    set_text(object, "message", group->message);
    json_object_set_new(object, "repairable", json_boolean(group->repairable));
    set_whole(object, "jobs_in_flight", group->jobs_in_flight);
    set_whole(object, "jobs_limit", group->jobs_limit);
    for (size_t i = 0; i < group->job_count; i++) json_array_append_new(jobs, running_json(&group->jobs[i]));
    json_object_set_new(object, "jobs", jobs);
    json_object_set_new(object, "ranks", ranks_json(group->ranks, group->rank_count));
    json_object_set_new(object, "links", links_json(group->links, group->link_count));
    return object;
}

static json_t *groups_json(const struct refrain_stats *stats)
{
    json_t *array = json_array();
    for (size_t i = 0; i < stats->group_count; i++)
        json_array_append_new(array, group_json(&stats->groups[i]));
    return array;
}

json_t *jobjson_groups(const struct refrain_stats *stats)
{
    json_t *object = json_object();
    set_whole(object, "ranks_replaced", stats->ranks_replaced);
    json_object_set_new(object, "groups", groups_json(stats));
    return object;
}

json_t *jobjson_stats(const struct refrain_stats *stats)
{
    json_t *object = json_object();
    set_text(object, "version", stats->version);
    set_real(object, "uptime_seconds", stats->uptime_seconds);
    set_whole(object, "queued", stats->queued);
    set_whole(object, "running", stats->running);
    set_whole(object, "completed", stats->completed);
    set_whole(object, "failed", stats->failed);
    set_whole(object, "cancelled", stats->cancelled);
    set_whole(object, "expired", stats->expired);
    set_whole(object, "epoch", stats->epoch);
    set_text(object, "group_state", stats->group_state);
    json_object_set_new(object, "ranks", ranks_json(stats->ranks, stats->rank_count));
    json_object_set_new(object, "groups", groups_json(stats));
    if (stats->mean_step_seconds > 0) set_real(object, "mean_step_seconds", stats->mean_step_seconds);
    set_whole(object, "store_bytes", stats->store_bytes);
    set_whole(object, "result_bytes", stats->result_bytes);
    set_whole(object, "checkpoint_bytes", stats->checkpoint_bytes);
    set_whole(object, "checkpoints_saved", stats->checkpoints_saved);
    set_whole(object, "ranks_replaced", stats->ranks_replaced);
    set_whole(object, "steps_repeated", stats->steps_repeated);
    set_whole(object, "tier_items", stats->tier_items);
    set_whole(object, "tier_hits", stats->tier_hits);
    set_whole(object, "tier_misses", stats->tier_misses);
    set_real(object, "tier_seconds_saved", stats->tier_seconds_saved);
    return object;
}

static json_t *levels_json(const uint64_t bytes[REFRAIN_CACHE_LEVELS])
{
    static const char *const levels[REFRAIN_CACHE_LEVELS] = {"device", "host", "disk"};
    json_t *object = json_object();
    for (int i = 0; i < REFRAIN_CACHE_LEVELS; i++) set_whole(object, levels[i], bytes[i]);
    return object;
}

static json_t *cache_figure_json(const struct refrain_cache_figure *figure)
{
    json_t *object = json_object(), *misses = json_object();
    set_text(object, "group", figure->group);
    set_whole(object, "rank", figure->rank);
    set_text(object, "kind", figure->kind);
    set_text(object, "scope", figure->scope);
    set_whole(object, "items", figure->items);
    json_object_set_new(object, "bytes", levels_json(figure->bytes));
    json_object_set_new(object, "hits", levels_json(figure->hits));
    set_whole(object, "fetched", figure->fetched);
    set_whole(object, "lent", figure->lent);
    set_whole(object, "copied", figure->copied);
    for (size_t i = 0; i < figure->miss_count; i++)
        if (figure->misses[i]) set_whole(misses, refrain_cache_miss(i), figure->misses[i]);
    json_object_set_new(object, "misses", misses);
    set_real(object, "seconds_saved", figure->seconds_saved);
    set_whole(object, "published", figure->published);
    set_whole(object, "refused", figure->refused);
    json_object_set_new(object, "evictions", levels_json(figure->evictions));
    return object;
}

static json_t *cache_rank_json(const struct refrain_cache_rank *rank)
{
    json_t *object = json_object();
    set_text(object, "group", rank->group);
    set_whole(object, "rank", rank->rank);
    json_object_set_new(object, "limit_bytes", levels_json(rank->limit_bytes));
    if (rank->has_used) json_object_set_new(object, "used_bytes", levels_json(rank->used_bytes));
    if (rank->has_used) set_whole(object, "pinned_bytes", rank->pinned_bytes);
    return object;
}

static json_t *cache_item_json(const struct refrain_cache_item *item)
{
    json_t *object = json_object(), *ranks = json_array();
    set_text(object, "key", item->key);
    set_text(object, "scope", item->scope);
    set_text(object, "group", item->group);
    set_whole(object, "bytes", item->bytes);
    set_real(object, "seconds", item->seconds);
    for (size_t i = 0; i < item->rank_count; i++) json_array_append_new(ranks, json_integer(item->ranks[i]));
    json_object_set_new(object, "ranks", ranks);
    return object;
}

json_t *jobjson_cache(const struct refrain_cache *cache)
{
    json_t *object = json_object(), *figures = json_array(), *ranks = json_array(), *items = json_array();
    for (size_t i = 0; i < cache->figure_count; i++)
        json_array_append_new(figures, cache_figure_json(&cache->figures[i]));
    for (size_t i = 0; i < cache->rank_count; i++)
        json_array_append_new(ranks, cache_rank_json(&cache->ranks[i]));
    for (size_t i = 0; i < cache->item_count; i++)
        json_array_append_new(items, cache_item_json(&cache->items[i]));
    json_object_set_new(object, "ranks", ranks);
    json_object_set_new(object, "figures", figures);
    json_object_set_new(object, "items", items);
    json_object_set_new(object, "more", json_boolean(cache->more));
    set_whole(object, "told", cache->told);
    return object;
}

void jobjson_print(json_t *object)
{
    if (!object) return;
    json_dumpf(object, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    json_decref(object);
    putchar('\n');
    fflush(stdout);
}
