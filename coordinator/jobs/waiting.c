/* waiting.c - see waiting.h. */
#include "coordinator/jobs/waiting.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Groups by what they could do for a job. */
struct seen {
    uint32_t groups, ready, ranks, here;
    bool loading, moves;
    const struct group *full, *other, *held; /* without a place; at work on another model; that held it up */
    const struct job *maker;                 /* of the same steps */
};

static const char *plural(uint32_t count)
{
    return count == 1 ? "" : "s";
}

/* job: NULL: none in particular. */
static struct seen look(const struct server *server, const struct job *job)
{
    struct seen seen = {0};
    const struct group *group;
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++) {
        seen.groups++;
        seen.ranks += group->ranks;
        seen.here += group->here;
        seen.loading |= group->state == GROUP_LOADING || group->state == GROUP_JOINING;
        if (group->state != GROUP_READY) continue;
        if (!job) {
            seen.ready++;
            continue;
        }
        seen.ready++;
        seen.moves |= group->move.resting;
        if (!seen.maker) seen.maker = server_maker(server, group, job);
        bool other = group_in_flight(group) > 0 && strcmp(group->model, job->model) != 0;
        if (other)
            seen.other = group;
        else if (group->held.job == job->id)
            seen.held = group;
        else if (!server_has_room(server, group, job))
            seen.full = group;
    }
    return seen;
}

static void say_no_ranks(const struct server *server, const struct seen *seen, char *text)
{
    if (seen->loading)
        snprintf(text, WAITING_BYTES, "ranks: they are loading");
    else if (seen->groups && seen->here < seen->ranks)
        snprintf(text, WAITING_BYTES, "ranks: %u of %u are here", seen->here, seen->ranks);
    else if (seen->groups)
        snprintf(text, WAITING_BYTES, "ranks: they are finding each other");
    else
        snprintf(text, WAITING_BYTES, "ranks: %s",
                 server->settings->launch ? "they are being started"
                                          : "none have come yet, or all were drained");
}

static void say_held(const struct server *server, const struct group *group, char *text)
{
    struct error error = {0};
    const struct held *h = &group->held;
    double needs = (double)h->needs / 1e9, room = (double)h->free / 1e9;
    if (h->by == HELD_BY_MEMORY)
        snprintf(text, WAITING_BYTES, "memory on rank %u (needs %.3g GB, %.3g GB free)", h->seat, needs,
                 room);
    else if (h->by == HELD_BY_LIMIT)
        snprintf(text, WAITING_BYTES, "memory within --flight-memory (needs %.3g GB, %.3g GB free)", needs,
                 room);
    else if (h->by == HELD_BY_RANKS && plan_wish_takes(&server->settings->wish, group->ranks, false, &error))
        snprintf(text, WAITING_BYTES, "other ranks: %.80s", error.text);
    else
        snprintf(text, WAITING_BYTES, "the ranks to be empty: they are laid out anew for it");
}

/* Of one whose turn it is. */
static void say_first(const struct server *server, const struct seen *seen, const struct job *job, char *text)
{
    const struct group *full = seen->full;
    uint32_t count = full ? (uint32_t)group_in_flight(full) : 0;
    if (seen->moves)
        snprintf(text, WAITING_BYTES, "the ranks: they are laid out anew");
    else if (seen->held)
        say_held(server, seen->held, text);
    else if (full && jobs_suspect(job))
        snprintf(text, WAITING_BYTES, "ranks for itself alone, as it lost %u", job->losses);
    else if (full)
        snprintf(text, WAITING_BYTES, "a place: %u job%s in flight", count, count == 1 ? " is" : "s are");
    else if (seen->other)
        snprintf(text, WAITING_BYTES, "a group that has %s, or none: the ranks work on %s", job->model,
                 seen->other->model);
    else
        snprintf(text, WAITING_BYTES, "its turn");
}

bool waiting_for_ranks(const struct server *server, char text[WAITING_BYTES])
{
    struct seen seen = look(server, NULL);
    if (seen.ready == 0) say_no_ranks(server, &seen, text);
    return seen.ready == 0;
}

bool waiting_for(const struct server *server, const struct job *job, char text[WAITING_BYTES])
{
    if (job->state != REFRAIN__JOB_STATE__JOB_QUEUED) return false;
    struct seen seen = look(server, job);
    size_t ahead = jobs_ahead(server->jobs, job);
    if (seen.ready == 0)
        say_no_ranks(server, &seen, text);
    else if (seen.maker)
        snprintf(text, WAITING_BYTES, "job %" PRIu64 ", which makes the same steps", seen.maker->id);
    else if (ahead > 0)
        snprintf(text, WAITING_BYTES, "%zu job%s before it", ahead, plural((uint32_t)ahead));
    else
        say_first(server, &seen, job, text);
    bool late = job->deadline_at_ms && job->finish_ms > job->deadline_at_ms;
    size_t used = strlen(text);
    if (late) snprintf(text + used, WAITING_BYTES - used, "; expected after its deadline");
    return true;
}
