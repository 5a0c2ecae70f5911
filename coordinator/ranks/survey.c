/*
 * survey.c - see survey.h. One function for each message.
 */
#include "coordinator/ranks/survey.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"

/* SEATS_MOST: of all groups together in one answer, so that it fits a frame even with the longest names. */
/* LINKS_MOST: of a group in one answer, those of 64 ranks; of more the slowest and the fastest half. */
enum { SEATS_MOST = 4 * PLAN_MAX_RANKS, PLAN_TEXT_BYTES = 256, LINKS_MOST = 64 * 63 / 2 };

/* As many entries as there are seats, groups and slots now. */
struct survey {
    const struct server *server;
    const char *tenant;
    Refrain__StatsReply stats;
    Refrain__RankInfo *ranks, **rank_list; /* [seats] */
    Refrain__RankInfo **here;              /* [seats]: those of `ranks` that are taken */
    Refrain__RunningJob *jobs, **job_list; /* [slots] */
    Refrain__GroupInfo *groups, **group_list;
    char (*plans)[PLAN_TEXT_BYTES]; /* [groups] */
    Refrain__LinkInfo **links;      /* [groups]: of each, its list; NULL: none is known */
    size_t seats, rank_count, here_count, job_count, group_count;
};

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

/* -------------------------------------------------------------------------------------------------- ranks */

static double seconds_since(const struct server *server, int64_t then_ns)
{
    return (double)(server->now_ns - then_ns) / SECOND_NS;
}

/* The epoch a rank is in, as far as it has said so. */
static uint64_t epoch_of(const struct group *group, const struct member *member)
{
    bool in = group->state == GROUP_READY || group->state == GROUP_LOADING ||
              (group->state == GROUP_JOINING && member->answered);
    return member->here && in ? group->epoch : 0;
}

/* Guests wait behind the ranks (groups.h). */
static const char *state_of(const struct group *group, uint32_t rank)
{
    const struct member *member = &group->members[rank];
    if (rank >= group->ranks) return "joining";
    return !member->here ? "missing" : member->leaves ? "leaving" : "here";
}

/* A seat that nobody sits on has a number and a state, and nothing else that is true. */
static void fill_rank(const struct server *server, Refrain__RankInfo *info, const struct group *group,
                      uint32_t rank)
{
    const struct member *member = &group->members[rank];
    refrain__rank_info__init(info);
    SET(*info, rank, member->seat);
    SET(*info, replaced, member->replaced);
    info->state = (char *)state_of(group, rank);
    if (!member->here) return;
    SET(*info, pid, member->pid);
    SET(*info, threads, member->threads);
    SET(*info, first_block, member->first_block);
    SET(*info, blocks, member->blocks);
    SET(*info, weight_bytes, member->weight_bytes);
    SET(*info, seconds_since_heard, seconds_since(server, member->heard_ns));
    SET(*info, epoch, rank < group->ranks ? epoch_of(group, member) : 0);
    SET(*info, compute_progress, member->compute_progress);
    if (member->gflops > 0) SET(*info, gflops, member->gflops);
    if (member->progress_ns) SET(*info, seconds_since_progress, seconds_since(server, member->progress_ns));
    info->host = (char *)member->host;
    info->backend = (char *)member->backend;
}

static void fill_drained(const struct server *server, Refrain__RankInfo *info, const struct group *group,
                         uint32_t seat)
{
    bool returns = groups_seat(server->groups, group->name, seat) == SEAT_RETURNING;
    refrain__rank_info__init(info);
    SET(*info, rank, seat);
    info->state = (char *)(returns ? "returning" : "drained");
}

/* --------------------------------------------------------------------------------------------------- jobs */

static void fill_running(Refrain__RunningJob *info, const struct group *group, const struct slot *slot,
                         const struct job *job)
{
    refrain__running_job__init(info);
    SET(*info, job, slot->job);
    SET(*info, attempt, slot->attempt);
    SET(*info, home, group->members[slot->home].seat);
    SET(*info, phase, job->progress.phase);
    SET(*info, step, job->progress.step);
    SET(*info, steps, job->progress.steps);
    SET(*info, step_seconds, job->progress.step_seconds);
}

/* Jobs of other tenants are counted, not named. */
static void survey_jobs(struct survey *survey, const struct group *group, Refrain__GroupInfo *info)
{
    info->jobs = survey->job_list + survey->job_count;
    SET(*info, jobs_limit, (uint32_t)server_flight_limit(survey->server, group));
    SET(*info, jobs_in_flight, (uint32_t)group_in_flight(group));
    for (int i = 0; i < GROUP_SLOTS; i++) {
        const struct slot *slot = &group->slots[i];
        const struct job *job = slot->job ? jobs_find(survey->server->jobs, slot->job) : NULL;
        if (!job || strcmp(job->tenant, survey->tenant) != 0) continue;
        Refrain__RunningJob *entry = &survey->jobs[survey->job_count];
        fill_running(entry, group, slot, job);
        survey->job_list[survey->job_count++] = entry;
        info->n_jobs++;
    }
}

/* ------------------------------------------------------------------------------------------------- groups */

const char *survey_state(const struct group *group)
{
    static const char *const names[] = {[GROUP_GATHERING] = "gathering",
                                        [GROUP_COMPLETE] = "complete",
                                        [GROUP_JOINING] = "joining",
                                        [GROUP_READY] = "ready",
                                        [GROUP_LOADING] = "loading",
                                        [GROUP_BROKEN] = "broken",
                                        [GROUP_LOST] = "lost"};
    if (group->state == GROUP_READY && group->move.resting) return "moving";
    return group->state == GROUP_READY && group_in_flight(group) ? "running" : names[group->state];
}

/* The first group stands for all: with one mpirun, the usual case, it is the only one. */
static const char *group_state_name(const struct server *server)
{
    const struct group *group = groups_at(server->groups, 0);
    if (!group) return launch_running(server->launch) ? "starting" : "none";
    switch (group->state) {
    case GROUP_READY:
        return group_in_flight(group) ? "running" : "ready";
    case GROUP_LOADING:
        return "running";
    case GROUP_BROKEN:
    case GROUP_LOST:
        return "lost";
    default:
        return "starting";
    }
}

static void survey_ranks(struct survey *survey, const struct group *group, Refrain__GroupInfo *info)
{
    info->ranks = survey->rank_list + survey->rank_count;
    for (uint32_t seat = 0, rank; seat < group->seats && survey->rank_count < survey->seats; seat++) {
        Refrain__RankInfo *entry = &survey->ranks[survey->rank_count];
        bool serves = group_rank_of(group, seat, &rank), waits = !serves && group_guest_of(group, seat, &rank);
        bool free = !serves && !waits && groups_seat(survey->server->groups, group->name, seat) == SEAT_SERVES;
        if (free) continue; /* of a rank that came beside those it was started with, and is gone */
        if (serves || waits)
            fill_rank(survey->server, entry, group, rank);
        else
            fill_drained(survey->server, entry, group, seat);
        survey->rank_list[survey->rank_count++] = entry;
        info->n_ranks++;
        if (serves && group->members[rank].here && survey->here_count < PLAN_MAX_RANKS)
            survey->here[survey->here_count++] = entry;
    }
}

/* ------------------------------------------------------------------------------------------------- links */

static int slowest_first(const void *a, const void *b)
{
    const Refrain__LinkInfo *x = a, *y = b;
    return (x->bytes_per_second > y->bytes_per_second) - (x->bytes_per_second < y->bytes_per_second);
}

static size_t list_links(const struct group *group, Refrain__LinkInfo *list)
{
    size_t count = 0;
    struct link link;
    for (uint32_t a = 0; a < group->ranks; a++)
        for (uint32_t b = a + 1; b < group->ranks; b++) {
            uint32_t seat = group->members[a].seat, other = group->members[b].seat;
            if (!links_find(&group->links, seat, other, &link)) continue;
            Refrain__LinkInfo *info = &list[count++];
            refrain__link_info__init(info);
            SET(*info, rank, seat);
            SET(*info, peer, other);
            SET(*info, bytes_per_second, (double)link.bytes_per_second);
            SET(*info, latency, (double)link.latency);
        }
    qsort(list, count, sizeof *list, slowest_first);
    return count;
}

/* Without memory for them there are none to see. */
static void survey_links(struct survey *survey, const struct group *group, Refrain__GroupInfo *info)
{
    size_t pairs = (size_t)group->ranks * group->ranks / 2 + 1, shown;
    if (!group->links.link || group->ranks < 2) return;
    Refrain__LinkInfo *list = calloc(pairs, sizeof *list + sizeof(Refrain__LinkInfo *));
    if (!list) return;
    Refrain__LinkInfo **pointers = (Refrain__LinkInfo **)(void *)(list + pairs);
    size_t count = list_links(group, list);
    shown = count < LINKS_MOST ? count : LINKS_MOST;
    for (size_t i = 0; i < shown; i++) pointers[i] = &list[i < shown / 2 ? i : count - shown + i];
    info->links = pointers;
    info->n_links = shown;
    survey->links[survey->group_count] = list;
}

static void survey_group(struct survey *survey, const struct group *group)
{
    Refrain__GroupInfo *info = &survey->groups[survey->group_count];
    char *plan = survey->plans[survey->group_count];
    refrain__group_info__init(info);
    info->name = (char *)group->name;
    info->state = (char *)survey_state(group);
    info->fabric = (char *)group->fabric;
    if (group->failure[0]) info->message = (char *)group->failure;
    if (group->move.wanted) info->message = (char *)group->move.why;
    SET(*info, epoch, group->epoch);
    SET(*info, repairable, group->repairable);
    if (group->model[0]) {
        plan_describe(&group->plan, group->members[0].backend, plan, PLAN_TEXT_BYTES);
        info->model = (char *)group->model;
        info->plan = plan;
    }
    survey_ranks(survey, group, info);
    survey_jobs(survey, group, info);
    survey_links(survey, group, info);
    survey->group_list[survey->group_count++] = info;
}

/* ---------------------------------------------------------------------------------------------- the whole */

/* The counts are the caller's own; the ranks are everybody's. */
static void fill_counts(const uint64_t counts[JOB_STATES], Refrain__StatsReply *stats)
{
    SET(*stats, jobs_queued,
        counts[REFRAIN__JOB_STATE__JOB_ACCEPTED] + counts[REFRAIN__JOB_STATE__JOB_QUEUED]);
    SET(*stats, jobs_running,
        counts[REFRAIN__JOB_STATE__JOB_RUNNING] + counts[REFRAIN__JOB_STATE__JOB_CANCELLING]);
    SET(*stats, jobs_completed, counts[REFRAIN__JOB_STATE__JOB_COMPLETED]);
    SET(*stats, jobs_failed, counts[REFRAIN__JOB_STATE__JOB_FAILED]);
    SET(*stats, jobs_cancelled, counts[REFRAIN__JOB_STATE__JOB_CANCELLED]);
    SET(*stats, jobs_expired, counts[REFRAIN__JOB_STATE__JOB_EXPIRED]);
}

static void fill_service(const struct server *server, Refrain__StatsReply *stats)
{
    const struct group *group = groups_at(server->groups, 0);
    stats->version = (char *)REFRAIN_VERSION;
    stats->group_state = (char *)group_state_name(server);
    SET(*stats, epoch, group ? group->epoch : 0);
    SET(*stats, uptime_seconds, seconds_since(server, server->started_ns));
    SET(*stats, store_bytes, jobstore_bytes(server->store));
    SET(*stats, messages_refused, server->refused);
    SET(*stats, ranks_replaced, server->ranks_replaced);
    SET(*stats, steps_repeated, server->steps_repeated);
    struct vault_stats vault = {0};
    if (server->vault) vault_stats(server->vault, &vault);
    SET(*stats, checkpoint_bytes, vault.bytes);
    SET(*stats, checkpoints_saved, vault.saved);
    if (server->mean_step_seconds > 0) SET(*stats, mean_step_seconds, server->mean_step_seconds);
}

/* Never nothing: calloc may answer that with NULL. */
static struct survey *survey_room(const struct server *server)
{
    size_t seats = 1, groups = 1, slots;
    struct survey *survey = calloc(1, sizeof *survey);
    if (!survey) return NULL;
    for (; groups_at(server->groups, groups - 1); groups++)
        seats += groups_at(server->groups, groups - 1)->seats;
    if (seats > SEATS_MOST) seats = SEATS_MOST;
    slots = groups * GROUP_SLOTS;
    survey->seats = seats;
    survey->ranks = calloc(seats, sizeof *survey->ranks);
    survey->rank_list = calloc(seats, sizeof(Refrain__RankInfo *));
    survey->here = calloc(seats, sizeof(Refrain__RankInfo *));
    survey->jobs = calloc(slots, sizeof *survey->jobs);
    survey->job_list = calloc(slots, sizeof(Refrain__RunningJob *));
    survey->groups = calloc(groups, sizeof *survey->groups);
    survey->group_list = calloc(groups, sizeof(Refrain__GroupInfo *));
    survey->plans = calloc(groups, sizeof *survey->plans);
    survey->links = calloc(groups, sizeof(Refrain__LinkInfo *));
    if (survey->ranks && survey->rank_list && survey->here && survey->jobs && survey->job_list &&
        survey->groups && survey->group_list && survey->plans && survey->links)
        return survey;
    survey_free(survey);
    return NULL;
}

/* Other tenants' figures are not for the caller to know, not even in a sum. */
static void fill_tier(struct server *server, const char *tenant, Refrain__StatsReply *stats)
{
    uint64_t whose[2] = {0, KEY_PUBLIC};
    struct tally sum = {0};
    const struct group *group;
    if (key_tenant(tenant, &whose[0], NULL) != STATUS_OK) return;
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++)
        for (uint32_t rank = 0; rank < group->ranks; rank++)
            for (uint32_t kind = 0; kind < ITEM_KINDS; kind++)
                for (int k = 0; k < 2; k++)
                    figures_sum(&group->figures, group->members[rank].seat, kind, &whose[k], &sum);
    uint64_t hits = sum.fetched, misses = 0;
    for (int i = 0; i < LEVELS; i++) hits += sum.hits[i];
    for (int i = 0; i < MISSES; i++) misses += sum.misses[i];
    SET(*stats, tier_items, sum.items);
    SET(*stats, tier_hits, hits);
    SET(*stats, tier_misses, misses);
    SET(*stats, tier_seconds_saved, sum.seconds_saved);
}

status_t survey_make(struct server *server, const char *tenant, struct survey **made, struct error *error)
{
    uint64_t counts[JOB_STATES], result_bytes;
    status_t status = jobstore_count(server->store, tenant, counts, &result_bytes, error);
    if (status != STATUS_OK) return status;
    struct survey *survey = survey_room(server);
    if (!survey) return error_set(error, STATUS_NO_MEMORY, "no memory for a list of the ranks");
    survey->server = server;
    survey->tenant = tenant;
    for (size_t i = 0; groups_at(server->groups, i); i++) survey_group(survey, groups_at(server->groups, i));
    refrain__stats_reply__init(&survey->stats);
    fill_counts(counts, &survey->stats);
    fill_service(server, &survey->stats);
    fill_tier(server, tenant, &survey->stats);
    SET(survey->stats, result_bytes, result_bytes);
    survey->stats.ranks = survey->here;
    survey->stats.n_ranks = survey->here_count;
    survey->stats.groups = survey->group_list;
    survey->stats.n_groups = survey->group_count;
    *made = survey;
    return STATUS_OK;
}

Refrain__StatsReply *survey_stats(struct survey *survey)
{
    return &survey->stats;
}

void survey_free(struct survey *survey)
{
    if (!survey) return;
    for (size_t i = 0; survey->links && i < survey->group_count; i++) free(survey->links[i]);
    free(survey->links);
    free(survey->ranks);
    free(survey->rank_list);
    free(survey->here);
    free(survey->jobs);
    free(survey->job_list);
    free(survey->groups);
    free(survey->group_list);
    free(survey->plans);
    free(survey);
}
