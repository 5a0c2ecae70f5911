/* metrics.c - see metrics.h. Jobs, ranks and the process; the cache tier is in metrics_tier.c. */
#include "coordinator/metrics/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "cache/policy.h"
#include "coordinator/metrics/metrics_tier.h"
#include "coordinator/metrics/scrape.h"

static void gauge(struct exposition *out, const char *name, const char *help, double value)
{
    exposition_family(out, name, EXPOSED_GAUGE, help);
    exposition_value(out, value, NO_LABELS);
}

static void counter(struct exposition *out, const char *name, const char *help, double value)
{
    exposition_family(out, name, EXPOSED_COUNTER, help);
    exposition_value(out, value, NO_LABELS);
}

/* ----------------------------------------------------------------------------------------------------- jobs */

/* What is seen in one look at all unfinished jobs. */
struct queue_view {
    uint64_t states[JOB_STATES], waiting[3]; /* by priority */
    double oldest_seconds, left_seconds;     /* of those that wait; until all that are foreseen are done */
    double lag_steps, lag_seconds;           /* of checkpoints: the largest */
};

/* Steps that would be made again if every rank were lost now. */
static void look_at_lag(const struct server *server, const struct job *job, struct queue_view *view)
{
    struct checkpoint saved = {0};
    const Refrain__Progress *progress = &job->progress;
    if (!progress->has_phase || progress->phase != REFRAIN__PHASE__PHASE_DENOISE) return;
    if (!server->vault ||
        (!vault_latest(server->vault, job->id, &saved) && !vault_origin(server->vault, job->id, &saved)))
        saved.step = 0;
    double steps = progress->step > saved.step ? progress->step - saved.step : 0;
    view->lag_steps = fmax(view->lag_steps, steps);
    if (progress->has_step_seconds && isfinite(progress->step_seconds))
        view->lag_seconds = fmax(view->lag_seconds, steps * progress->step_seconds);
}

static struct queue_view look_at_queue(const struct server *server)
{
    struct queue_view view = {0};
    const struct job *job;
    for (size_t i = 0; (job = jobs_at(server->jobs, i)); i++) {
        view.states[job->state]++;
        if (job->finish_ms > 0)
            view.left_seconds = fmax(view.left_seconds, (double)(job->finish_ms - server->now_ms) / 1000);
        if (job->state == REFRAIN__JOB_STATE__JOB_QUEUED) {
            view.waiting[job->priority]++;
            view.oldest_seconds =
                fmax(view.oldest_seconds, (double)(server->now_ms - job->submitted_ms) / 1000);
        }
        if (job->state == REFRAIN__JOB_STATE__JOB_RUNNING) look_at_lag(server, job, &view);
    }
    return view;
}

static void write_queue(const struct queue_view *view, struct exposition *out)
{
    static const char *const priorities[] = {"low", "normal", "high"};
    exposition_family(out, "refrain_jobs", EXPOSED_GAUGE, "Unfinished jobs by state.");
    exposition_value(out, (double)view->states[REFRAIN__JOB_STATE__JOB_QUEUED], LABELS({"state", "queued"}));
    exposition_value(out, (double)view->states[REFRAIN__JOB_STATE__JOB_RUNNING],
                     LABELS({"state", "running"}));
    exposition_value(out, (double)view->states[REFRAIN__JOB_STATE__JOB_CANCELLING],
                     LABELS({"state", "cancelling"}));
    exposition_family(out, "refrain_queue_jobs", EXPOSED_GAUGE, "Jobs that wait, by priority.");
    for (int i = 0; i < 3; i++)
        exposition_value(out, (double)view->waiting[i], LABELS({"priority", priorities[i]}));
    gauge(out, "refrain_queue_oldest_seconds", "Since the oldest job that waits was submitted.",
          view->oldest_seconds);
    gauge(out, "refrain_queue_left_seconds",
          "Until the last unfinished job is expected to be done; 0 while nothing can be foreseen.",
          view->left_seconds);
    gauge(out, "refrain_checkpoint_lag_steps",
          "Steps that the job furthest ahead of its latest durable checkpoint would make again.",
          view->lag_steps);
    gauge(out, "refrain_checkpoint_lag_seconds", "The most that a job would have to compute again.",
          view->lag_seconds);
}

static void write_ends(const struct server *server, struct exposition *out)
{
    const uint64_t *entered = jobs_entered(server->jobs);
    uint64_t accepted = entered[REFRAIN__JOB_STATE__JOB_ACCEPTED],
             queued = entered[REFRAIN__JOB_STATE__JOB_QUEUED];
    counter(out, "refrain_jobs_submitted_total", "Jobs that were accepted.", (double)accepted);
    counter(out, "refrain_jobs_requeued_total", "Times that a job went back to the queue, its ranks lost.",
            (double)(queued - accepted));
    exposition_family(out, "refrain_jobs_finished_total", EXPOSED_COUNTER, "Jobs that ended, by how.");
    exposition_value(out, (double)entered[REFRAIN__JOB_STATE__JOB_COMPLETED], LABELS({"state", "completed"}));
    exposition_value(out, (double)entered[REFRAIN__JOB_STATE__JOB_FAILED], LABELS({"state", "failed"}));
    exposition_value(out, (double)entered[REFRAIN__JOB_STATE__JOB_CANCELLED], LABELS({"state", "cancelled"}));
    exposition_value(out, (double)entered[REFRAIN__JOB_STATE__JOB_EXPIRED], LABELS({"state", "expired"}));
}

/* What there was something of. */
static bool is_used(const struct counted_model *model)
{
    return *model->name && (model->steps || model->frames);
}

static void write_model_histogram(const struct counts *counts, struct exposition *out, const char *name,
                                  const char *help, size_t offset)
{
    exposition_family(out, name, EXPOSED_HISTOGRAM, help);
    for (int i = 0; i <= COUNTED_MODELS; i++) {
        const struct counted_model *model = &counts->models[i];
        if (is_used(model))
            exposition_histogram(out, (const struct histogram *)(const void *)((const char *)model + offset),
                                 LABELS({"model", model->name}));
    }
}

static void write_model_counter(const struct counts *counts, struct exposition *out, const char *name,
                                const char *help, size_t offset)
{
    exposition_family(out, name, EXPOSED_COUNTER, help);
    for (int i = 0; i <= COUNTED_MODELS; i++) {
        const struct counted_model *model = &counts->models[i];
        if (is_used(model))
            exposition_value(out, (double)*(const uint64_t *)(const void *)((const char *)model + offset),
                             LABELS({"model", model->name}));
    }
}

static void write_phases(const struct counts *counts, struct exposition *out)
{
    static const char *const phases[COUNTED_PHASES] = {"text", "denoise", "decode", "encode"};
    exposition_family(out, "refrain_job_phase_seconds_total", EXPOSED_COUNTER,
                      "Where the time of completed jobs went.");
    for (int i = 0; i <= COUNTED_MODELS; i++)
        for (int phase = 0; phase < COUNTED_PHASES && is_used(&counts->models[i]); phase++)
            exposition_value(out, counts->models[i].phase_seconds[phase],
                             LABELS({"model", counts->models[i].name}, {"phase", phases[phase]}));
}

static void write_times(const struct counts *counts, struct exposition *out)
{
    write_model_histogram(counts, out, "refrain_job_queue_seconds",
                          "From a job's submission until it first began, of completed jobs.",
                          offsetof(struct counted_model, queued));
    write_model_histogram(counts, out, "refrain_job_run_seconds",
                          "From a job's first beginning to its end, of completed jobs.",
                          offsetof(struct counted_model, total));
    write_model_histogram(counts, out, "refrain_step_seconds",
                          "Of a denoising step, as its rank told; a running mean.",
                          offsetof(struct counted_model, step));
    write_phases(counts, out);
    write_model_counter(counts, out, "refrain_steps_total", "Denoising steps made, also such as were lost.",
                        offsetof(struct counted_model, steps));
    write_model_counter(counts, out, "refrain_frames_total", "Frames of completed jobs' videos.",
                        offsetof(struct counted_model, frames));
    exposition_family(out, "refrain_finish_error_ratio", EXPOSED_HISTOGRAM,
                      "How far finish times foretold at half of a job's steps were off, by what was left.");
    exposition_histogram(out, &counts->finish_error, NO_LABELS);
}

static void write_reuse(const struct counts *counts, struct exposition *out)
{
    counter(out, "refrain_reused_texts_total", "Prompts that completed jobs took from the cache tier.",
            (double)counts->texts_reused);
    counter(out, "refrain_reused_first_steps_total",
            "First steps that completed jobs took from the cache tier.", (double)counts->first_steps_reused);
    counter(out, "refrain_reused_steps_total", "Steps of completed jobs that an equal run had made.",
            (double)counts->steps_reused);
    counter(out, "refrain_continued_steps_total",
            "Steps that completed jobs took over from the job they went on from.",
            (double)counts->steps_taken_over);
    counter(out, "refrain_reused_seconds_total", "What making those texts, first steps and runs had taken.",
            counts->reused_seconds);
}

static const char *policy_label(const struct counted_policy *place)
{
    return place->policy ? place->policy->name : "off";
}

static bool is_counted(const struct counts *counts, int place)
{
    return place == 0 || counts->policies[place].policy;
}

static void write_policies(const struct counts *counts, struct exposition *out)
{
    static const char *const actions[COUNTED_ACTIONS] = {"computed", "reused", "forecast"};
    exposition_family(out, "refrain_policy_jobs_total", EXPOSED_COUNTER,
                      "Completed jobs by caching policy, off without.");
    for (int i = 0; i < COUNTED_POLICIES; i++)
        if (is_counted(counts, i))
            exposition_value(out, (double)counts->policies[i].jobs,
                             LABELS({"policy", policy_label(&counts->policies[i])}));
    exposition_family(out, "refrain_policy_branch_steps_total", EXPOSED_COUNTER,
                      "Steps of completed jobs, each guidance branch counted, by what the policy did.");
    for (int i = 0; i < COUNTED_POLICIES; i++)
        for (int action = 0; is_counted(counts, i) && action < (i ? COUNTED_ACTIONS : 1); action++)
            exposition_value(
                out, (double)counts->policies[i].branch_steps[action],
                LABELS({"policy", policy_label(&counts->policies[i])}, {"action", actions[action]}));
    exposition_family(out, "refrain_policy_saved_seconds_total", EXPOSED_COUNTER,
                      "Denoising that caching saved, as completed jobs estimated.");
    for (int i = 1; i < COUNTED_POLICIES; i++)
        if (is_counted(counts, i))
            exposition_value(out, counts->policies[i].seconds_saved,
                             LABELS({"policy", policy_label(&counts->policies[i])}));
}

/* ---------------------------------------------------------------------------------------------------- ranks */

enum rank_state { RANK_HERE, RANK_MISSING, RANK_DRAINED, RANK_RETURNING, RANK_STATES };

static void count_ranks(const struct server *server, uint64_t states[RANK_STATES])
{
    const struct group *group;
    uint32_t rank;
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++)
        for (uint32_t seat = 0; seat < group->seats; seat++) {
            if (group_rank_of(group, seat, &rank))
                states[group->members[rank].here ? RANK_HERE : RANK_MISSING]++;
            else
                states[groups_seat(server->groups, group->name, seat) == SEAT_RETURNING ? RANK_RETURNING
                                                                                        : RANK_DRAINED]++;
        }
}

static void write_ranks(const struct server *server, struct exposition *out)
{
    static const char *const names[RANK_STATES] = {"here", "missing", "drained", "returning"};
    uint64_t states[RANK_STATES] = {0}, groups = 0, ready = 0, flights = 0, limit = 0;
    const struct group *group;
    count_ranks(server, states);
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++, groups++) {
        ready += group->state == GROUP_READY;
        flights += (uint64_t)group_in_flight(group);
        limit += (uint64_t)server_flight_limit(server, group);
    }
    exposition_family(out, "refrain_ranks", EXPOSED_GAUGE, "Ranks by state.");
    for (int i = 0; i < RANK_STATES; i++)
        exposition_value(out, (double)states[i], LABELS({"state", names[i]}));
    gauge(out, "refrain_groups", "Groups of ranks.", (double)groups);
    gauge(out, "refrain_groups_ready", "Groups whose ranks are all here and joined.", (double)ready);
    gauge(out, "refrain_jobs_in_flight", "Jobs that groups work on.", (double)flights);
    gauge(out, "refrain_jobs_in_flight_limit", "Jobs that groups would take at once.", (double)limit);
    counter(out, "refrain_ranks_replaced_total", "New processes that took a lost rank's place.",
            (double)server->ranks_replaced);
    counter(out, "refrain_steps_repeated_total", "Steps made again after ranks were lost.",
            (double)server->steps_repeated);
}

/* ---------------------------------------------------------------------------------------- vault and process */

static void write_vault(const struct server *server, struct exposition *out)
{
    struct vault_stats stats = {0};
    if (server->vault) vault_stats(server->vault, &stats);
    gauge(out, "refrain_vault_bytes", "Checkpoints kept by the coordinator.", (double)stats.bytes);
    gauge(out, "refrain_vault_mark_bytes", "Of these, such as stay for other jobs.", (double)stats.marks);
    gauge(out, "refrain_vault_limit_bytes", "What checkpoints may take; 0: none are kept.",
          server->vault ? (double)server->settings->checkpoint_limit : 0);
    counter(out, "refrain_checkpoints_saved_total", "Checkpoints made durable.", (double)stats.saved);
    counter(out, "refrain_checkpoints_loaded_total", "Checkpoints handed to ranks.", (double)stats.loaded);
    counter(out, "refrain_checkpoints_refused_total", "Checkpoints, and messages about them, not taken.",
            (double)stats.refused);
}

/* By the names that every exporter uses. */
static void write_process(const struct server *server, struct exposition *out)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                 1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    double up = (double)(clock_now_ns() - server->started_ns) / SECOND_NS;
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm && fscanf(statm, "%*d %ld", &pages) != 1) pages = 0;
    if (statm) fclose(statm);
    counter(out, "process_cpu_seconds_total", "User and system time of the coordinator.", cpu);
    gauge(out, "process_resident_memory_bytes", "Memory of the coordinator.",
          (double)pages * (double)sysconf(_SC_PAGESIZE));
    gauge(out, "process_start_time_seconds", "Since 1970.", floor((double)clock_wall_ms() / 1000 - up));
}

static void write_service(const struct server *server, struct exposition *out)
{
    exposition_family(out, "refrain_build_info", EXPOSED_GAUGE, "Always 1; what runs is in the labels.");
    exposition_value(out, 1, LABELS({"version", REFRAIN_VERSION}));
    gauge(out, "refrain_store_bytes", "Of the jobs' database.", (double)jobstore_bytes(server->store));
    counter(out, "refrain_messages_refused_total", "Messages that made no sense.", (double)server->refused);
}

void metrics_write(const struct server *server, struct exposition *out)
{
    struct queue_view queue = look_at_queue(server);
    write_service(server, out);
    write_queue(&queue, out);
    write_ends(server, out);
    write_times(&server->counts, out);
    write_policies(&server->counts, out);
    write_reuse(&server->counts, out);
    write_ranks(server, out);
    write_vault(server, out);
    metrics_write_tier(server, out);
    write_process(server, out);
}

void metrics_tend(struct server *server)
{
    struct exposition out = {0};
    if (!server->scrape || !scrape_wanted(server->scrape)) return;
    metrics_write(server, &out);
    if (out.failed) {
        log_line(LOG_ERROR, "no memory for metrics");
        exposition_free(&out);
        return;
    }
    scrape_give(server->scrape, out.text, out.bytes);
}
