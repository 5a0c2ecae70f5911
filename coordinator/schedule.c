/*
 * schedule.c - brings groups and jobs together: epochs, loading, assigning, cancelling, losses.
 *
 * Level-triggered: once per turn of the loop it looks at what is (states of groups, slots, jobs) and does the
 * next thing that follows from it. Reports only change states (groups.c, reports.c), so nothing is lost by
 * their order, by a restart or by a commit that failed. Runs on the coordinator's loop thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/orders.h"
#include "coordinator/server.h"

#define LAUNCHER_GRACE_NS SECOND_NS /* for our mpirun to notice a lost rank by itself */

/* -------------------------------------------------------------------------------------------- small steps */

static void log_failed(const char *what, const struct error *error)
{
    log_line(LOG_ERROR, "%s: %s", what, error->text);
}

static void free_slot(struct group *group)
{
    group->slot = (struct slot){0};
}

/* The job in a slot, as long as the slot's attempt is the one that counts; NULL once it expired or was moved
 * on. */
static struct job *slot_job(const struct server *server, const struct slot *slot)
{
    struct job *job = slot->job ? jobs_find(server->jobs, slot->job) : NULL;
    bool live =
        job && job->attempt == slot->attempt &&
        (job->state == REFRAIN__JOB_STATE__JOB_RUNNING || job->state == REFRAIN__JOB_STATE__JOB_CANCELLING);
    return live ? job : NULL;
}

/* The group cannot go on with what it had: the job waits again. */
static void give_back(struct server *server, struct group *group, bool lost, const char *why)
{
    struct error error;
    struct job *job = slot_job(server, &group->slot);
    if (group->slot.job) results_drop(server->results, group->slot.job);
    if (job) {
        log_line(LOG_WARN, "job %" PRIu64 ": back in the queue: %s", job->id, why);
        if (jobs_requeue(server->jobs, job, lost, why, server->now_ms, &error) != STATUS_OK)
            log_failed("requeue", &error);
    }
    free_slot(group);
}

/* Also for a queued job that cannot even be planned: then the slot is empty already. */
static void fail_job(struct server *server, struct group *group, struct job *job, const char *why)
{
    struct error error;
    log_line(LOG_ERROR, "job %" PRIu64 ": failed: %s", job->id, why);
    if (jobs_finish(server->jobs, job, REFRAIN__JOB_STATE__JOB_FAILED, why, NULL, server->now_ms, &error) !=
        STATUS_OK)
        log_failed("job", &error);
    free_slot(group);
}

/* If the commit fails, the job is found running without ranks and queued again later, and the ranks hear of
 * it when they speak next: nothing here needs to be undone. */
static void end_group(struct server *server, struct group *group)
{
    char why[ERROR_TEXT_BYTES + 32];
    snprintf(why, sizeof why, "the ranks were lost: %s", group->failure);
    log_line(LOG_ERROR, "group %.8s of %u ranks is lost: %s", group->name, group->ranks, group->failure);
    give_back(server, group, true, why);
    order_shutdown_group(server->outbox, group, why);
    /* Our own mpirun is started anew as a whole; one started by hand is not ours to end. */
    if (group->launch && group->launch == launch_number(server->launch))
        launch_stop(server->launch, server->now_ns, LAUNCHER_GRACE_NS);
    groups_remove(server->groups, group);
}

/* Numbers grow over everything any member has seen, also over a job store that was started afresh. */
static void begin_epoch(struct server *server, struct group *group)
{
    uint64_t above = group->epoch;
    struct error error;
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if (group->members[rank].epoch > above) above = group->members[rank].epoch;
    if (group->slot.assigned) give_back(server, group, true, "the ranks had to find each other again");
    if (jobstore_next_epoch(server->store, above, &group->epoch, &error) != STATUS_OK) {
        log_failed("epoch", &error);
        return;
    }
    /* A new epoch begins with a Load; ranks that hold what it asks for answer at once. */
    group->model[0] = '\0';
    order_epoch(server->outbox, group);
    group_enter(group, GROUP_JOINING, server->now_ns);
}

/* ----------------------------------------------------------------------------------------------- one slot */

/* Every rank loads its own blocks; the state ends when all have answered, well or badly. */
static void begin_load(struct server *server, struct group *group, struct job *job)
{
    struct error error;
    const struct model *model;
    if (models_find(server->models, job->model, &model, &error) != STATUS_OK) {
        fail_job(server, group, job, error.text);
        return;
    }
    job->progress.has_phase = 1;
    job->progress.phase = REFRAIN__PHASE__PHASE_LOAD;
    snprintf(group->model, sizeof group->model, "%s", job->model);
    group->load_status = STATUS_OK;
    order_load(server->outbox, group, model);
    group_enter(group, GROUP_LOADING, server->now_ns);
}

/* The spec comes from the store, where every default was filled in at submission: a default that changed
 * since does not change a job that waits. */
static void assign(struct server *server, struct group *group, struct job *job)
{
    Refrain__Job *stored;
    struct error error;
    if (jobstore_get(server->store, NULL, job->id, &stored, &error) != STATUS_OK) {
        fail_job(server, group, job, error.text);
        return;
    }
    group->slot.assigned = true;
    order_assign(server->outbox, group, stored->spec);
    refrain__job__free_unpacked(stored, NULL);
    group->progress_ns = server->now_ns;
    log_line(LOG_INFO, "job %" PRIu64 ": attempt %u on group %.8s", job->id, job->attempt, group->name);
}

/* A job that was started here but not sent to home yet: it waits for the model. */
static void advance_waiting(struct server *server, struct group *group)
{
    struct error error;
    struct job *job = slot_job(server, &group->slot);
    if (!job) { /* expired meanwhile */
        free_slot(group);
    } else if (job->state == REFRAIN__JOB_STATE__JOB_CANCELLING) {
        if (jobs_finish(server->jobs, job, REFRAIN__JOB_STATE__JOB_CANCELLED, NULL, NULL, server->now_ms,
                        &error))
            log_failed("cancel", &error);
        free_slot(group);
    } else if (strcmp(group->model, job->model) != 0) {
        begin_load(server, group, job);
    } else if (group->load_status != STATUS_OK) {
        group->model[0] = '\0';
        group->load_status = STATUS_OK;
        fail_job(server, group, job, group->failure);
    } else {
        assign(server, group, job);
    }
}

/* Takes the next job of the queue onto the group; false when there is none, or none can be started. */
static bool take_next(struct server *server, struct group *group)
{
    char text[ERROR_TEXT_BYTES];
    struct error error;
    const struct model *model;
    struct job *job = server->stopping ? NULL : jobs_first(server->jobs);
    if (!job) return false;
    if (models_find(server->models, job->model, &model, &error) != STATUS_OK ||
        plan_make(&(struct plan_request){.layers = model->card->layers,
                                         .ranks = group->ranks,
                                         .wish = &server->settings->wish},
                  &group->plan, &error) != STATUS_OK) {
        fail_job(server, group, job, error.text);
        return true; /* the next one may be fine */
    }
    plan_describe(&group->plan, group->members[0].backend, text, sizeof text);
    if (jobs_start(server->jobs, job, text, server->now_ms, &error) != STATUS_OK) {
        log_failed("start", &error);
        return false;
    }
    group->slot = (struct slot){.job = job->id, .attempt = job->attempt};
    return true;
}

/* Runs until the slot is with home or nothing more can be done now, so a free group never waits for the
 * next turn. */
static void serve(struct server *server, struct group *group)
{
    struct slot *slot = &group->slot;
    while (group->state == GROUP_READY && !slot->assigned) {
        if (slot->job)
            advance_waiting(server, group);
        else if (!take_next(server, group))
            return;
    }
    if (group->state != GROUP_READY || slot->cancel_told) return;
    const struct job *job = slot_job(server, slot);
    if (job && job->state == REFRAIN__JOB_STATE__JOB_RUNNING) return;
    order_cancel(server->outbox, group); /* cancelled, or expired: home stops at the next step and says so */
    slot->cancel_told = true;
}

/* ----------------------------------------------------------------------------------------------- the turn */

static void drive(struct server *server, struct group *group)
{
    switch (group->state) {
    case GROUP_COMPLETE:
        if (!group->launch && server->settings->launch == group->ranks)
            group->launch = launch_number(server->launch);
        begin_epoch(server, group);
        break;
    case GROUP_READY:
        launch_settled(server->launch);
        serve(server, group);
        break;
    case GROUP_BROKEN:
        if (group->slot.job) give_back(server, group, true, group->failure);
        break;
    case GROUP_LOST:
        end_group(server, group);
        break; /* frees it */
    default:
        break;
    }
}

/* Jobs the store calls running that no group works on: after a restart their ranks get time to come back,
 * then they are queued again. That is no fault of theirs and does not count as an attempt lost. */
static void requeue_orphans(struct server *server)
{
    struct error error;
    if (server->orphans_until_ns == CLOCK_NEVER) return;
    /* Nobody is left who could come back. */
    bool hopeless = server->settings->launch > 0 && !launch_inherited(server->launch);
    if (server->now_ns < server->orphans_until_ns && !hopeless) return;
    server->orphans_until_ns = CLOCK_NEVER;
    for (size_t i = 0; jobs_at(server->jobs, i); i++) {
        struct job *job = jobs_at(server->jobs, i);
        if (job->state != REFRAIN__JOB_STATE__JOB_RUNNING && job->state != REFRAIN__JOB_STATE__JOB_CANCELLING)
            continue;
        if (groups_running(server->groups, job->id)) continue;
        bool ends = job->state == REFRAIN__JOB_STATE__JOB_CANCELLING;
        log_line(LOG_INFO, "job %" PRIu64 ": %s", job->id,
                 ends ? "cancelled" : "back in the queue after a restart");
        if (jobs_requeue(server->jobs, job, false, "the coordinator was restarted", server->now_ms, &error) !=
            STATUS_OK)
            log_failed("requeue", &error);
        else if (ends)
            i--; /* it left the list */
    }
}

/* Our ranks were started, or are said to live on from earlier, and nobody came. */
static void check_launch(struct server *server)
{
    const struct settings *settings = server->settings;
    int64_t limit_ms = launch_inherited(server->launch) ? settings->reconnect_ms : settings->gather_ms;
    if (groups_at(server->groups, 0)) return;
    if (!launch_overdue(server->launch, server->now_ns, limit_ms * MILLISECOND_NS)) return;
    log_line(LOG_WARN, "no rank came within %.1f s of its start", (double)limit_ms / 1000);
    launch_stop(server->launch, server->now_ns, 0);
}

/* Nothing new is begun for a second after a failed commit: each try would fail, and cost a fsync. */
void server_schedule(struct server *server)
{
    struct error error;
    if (server->now_ns < server->store_retry_ns) return;
    if (jobs_expire(server->jobs, server->now_ms, &error) != STATUS_OK) log_failed("deadlines", &error);
    for (size_t i = 0; groups_at(server->groups, i);) {
        struct group *group = groups_at(server->groups, i);
        group_check(server->groups, group, server->now_ns);
        bool leaves = group->state == GROUP_LOST;
        drive(server, group);
        i += !leaves;
    }
    requeue_orphans(server);
    check_launch(server);
}

/* For the coordinator's own end: jobs go back to the queue without counting it as a loss. */
void server_release_ranks(struct server *server, const char *reason)
{
    for (size_t i = 0; groups_at(server->groups, i); i++) {
        struct group *group = groups_at(server->groups, i);
        give_back(server, group, false, reason);
        order_shutdown_group(server->outbox, group, reason);
    }
    server->orphans_until_ns = server->now_ns;
    requeue_orphans(server);
}

/* The store is the truth; what memory believed beyond it is given up. */
void server_recover(struct server *server)
{
    struct error error;
    server->store_retry_ns = server->now_ns + SECOND_NS;
    server->orphans_until_ns = server->store_retry_ns;
    server->deleted_count = 0;
    /* Orders of this turn were dropped and nobody knows which jobs they were about: a new epoch ends all
     * doubt. */
    for (size_t i = 0; groups_at(server->groups, i); i++) {
        struct group *group = groups_at(server->groups, i);
        if (group->state < GROUP_JOINING || group->state > GROUP_LOADING) continue;
        if (group->state == GROUP_READY && !group->slot.job) continue;
        if (group->slot.job) results_drop(server->results, group->slot.job);
        free_slot(group);
        group_enter(group, GROUP_COMPLETE, server->now_ns);
    }
    if (jobs_reload(server->jobs, &error) != STATUS_OK || models_reload(server->models, &error) != STATUS_OK)
        log_failed("reading the job store again", &error);
}
