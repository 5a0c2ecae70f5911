/* drain.c - see drain.h. Runs on the coordinator's loop thread; keeps nothing: groups.c and the store do. */
#include "coordinator/ranks/drain.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "coordinator/orders.h"
#include "coordinator/ranks/repair.h"

enum { SHOWN_LETTERS = 8 }; /* of a group's name */

/* Who is meant: one seat, or all of a host. */
struct aim {
    const struct group *group; /* NULL: of any */
    uint32_t seat;
    const char *host; /* NULL: that seat */
};

/* ------------------------------------------------------------------------------------------------- who is meant */

static bool is_number(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits >= 1 && digits <= 4 && text[digits] == '\0';
}

/* A number, with or without a group before it, is a rank; anything else a host. */
static status_t read_aim(const struct server *server, const char *who, struct aim *aim, struct error *error)
{
    const char *slash = strrchr(who, '/'), *number = slash ? slash + 1 : who;
    bool several;
    *aim = (struct aim){0};
    if (!is_number(number)) {
        if (slash) return error_set(error, STATUS_INVALID, "who %s: must be GROUP/RANK, RANK or a host", who);
        aim->host = who;
        return STATUS_OK;
    }
    aim->seat = (uint32_t)atoi(number);
    aim->group = groups_called(server->groups, who, slash ? (size_t)(slash - who) : 0, &several);
    if (!aim->group && !groups_at(server->groups, 0))
        return error_set(error, STATUS_NOT_FOUND, "there are no ranks");
    if (!aim->group)
        return error_set(error, STATUS_NOT_FOUND,
                         "who %s: %s; say GROUP/RANK, with names as `refrain ranks` shows them", who,
                         several ? "there are several such groups" : "no group's name begins so");
    if (aim->seat >= aim->group->seats)
        return error_set(error, STATUS_NOT_FOUND, "who %s: group %.*s has ranks 0 to %u", who, SHOWN_LETTERS,
                         aim->group->name, aim->group->seats - 1);
    return STATUS_OK;
}

static bool means_member(const struct aim *aim, const struct group *group, const struct member *member)
{
    if (aim->host) return strcmp(member->host, aim->host) == 0;
    return group == aim->group && member->seat == aim->seat;
}

/* ------------------------------------------------------------------------------------------------------- drain */

/* leaves: [ranks + guests]: who is meant and was not drained before. */
static uint32_t choose(const struct server *server, const struct aim *aim, const struct group *group,
                       bool *leaves)
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < group->ranks + group->guests; rank++) {
        const struct member *member = &group->members[rank];
        leaves[rank] = means_member(aim, group, member) &&
                       groups_seat(server->groups, group->name, member->seat) != SEAT_DRAINED;
        count += leaves[rank];
    }
    return count;
}

/* Can the group go on without them, and those that are about to leave already, or end? *ends: it ends. */
static status_t check(const struct server *server, const struct group *group, const bool *leaves, bool *ends,
                      struct error *error)
{
    bool gone[PLAN_MAX_RANKS];
    uint32_t count = 0, new = 0;
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        gone[rank] = leaves[rank] || group->members[rank].resigns ||
                     groups_seat(server->groups, group->name, group->members[rank].seat) == SEAT_DRAINED;
        count += gone[rank];
        new += leaves[rank];
    }
    if (new == 0) return STATUS_OK; /* guests need no leave */
    *ends |= count == group->ranks;
    if (count < group->ranks && strcmp(group->fabric, "mpi") == 0)
        return error_set(error, STATUS_UNSUPPORTED,
                         "group %.*s: over the fabric mpi its %u ranks go on together or not at all",
                         SHOWN_LETTERS, group->name, group->ranks);
    if (count == group->ranks && group->launch && group->launch == launch_number(server->launch))
        return error_set(
            error, STATUS_CONFLICT,
            "group %.*s: these are all the ranks that the coordinator was told to launch, and it would "
            "start them again; end it, or leave one",
            SHOWN_LETTERS, group->name);
    return count < group->ranks ? server_check_without(server, group, gone, error) : STATUS_OK;
}

/* What follows is move.c's business: it goes by the marks. */
static status_t mark(struct server *server, struct group *group, const bool *leaves, struct error *error)
{
    status_t status = STATUS_OK;
    for (uint32_t rank = 0; rank < group->ranks + group->guests && status == STATUS_OK; rank++) {
        const struct member *member = &group->members[rank];
        if (!leaves[rank]) continue;
        status = jobstore_drain_seat(server->store, group->name, member->seat, member->host, error);
        if (status == STATUS_OK)
            status = groups_mark_seat(server->groups, group->name, member->seat, SEAT_DRAINED, member->host,
                                      error);
    }
    return status;
}

status_t drain_ranks(struct server *server, const char *who, char *text, size_t bytes, struct error *error)
{
    struct aim aim;
    bool leaves[PLAN_MAX_RANKS], ends = false;
    struct group *group;
    uint32_t count, ranks = 0;
    status_t status = read_aim(server, who, &aim, error);
    for (size_t i = 0; status == STATUS_OK && (group = groups_at(server->groups, i)); i++) {
        if ((count = choose(server, &aim, group, leaves)) == 0) continue;
        status = check(server, group, leaves, &ends, error);
        ranks += count;
    }
    if (status != STATUS_OK) return status;
    if (ranks == 0)
        return error_set(
            error, STATUS_NOT_FOUND,
            aim.host ? "who %s: no rank is on a host of that name" : "who %s: is drained already", who);
    for (size_t i = 0; status == STATUS_OK && (group = groups_at(server->groups, i)); i++)
        if (choose(server, &aim, group, leaves)) status = mark(server, group, leaves, error);
    const char *verb = ranks == 1 ? " is" : "s are", *whom = ranks == 1 ? "it" : "them";
    if (ends)
        snprintf(text, bytes,
                 "%u rank%s drained, the last of a group: it ends, and its jobs wait for another", ranks,
                 verb);
    else
        snprintf(text, bytes,
                 "%u rank%s drained; the jobs in flight go on without %s after the steps they are at", ranks,
                 verb, whom);
    return status;
}

/* -------------------------------------------------------------------------------------------------------- undo */

/* Its rank has not left yet, and need not. */
static status_t keep_seat(struct server *server, const struct group *group, uint32_t seat, char *text,
                          size_t bytes, struct error *error)
{
    status_t status = jobstore_serve_seat(server->store, group->name, seat, error);
    if (status == STATUS_OK)
        status = groups_mark_seat(server->groups, group->name, seat, SEAT_SERVES, "", error);
    if (status == STATUS_OK) snprintf(text, bytes, "rank %u stays: it had not left yet", seat);
    return status;
}

/* One seat that is to be filled again; without a launcher by whoever reads the sentence. */
static status_t bring_back(struct server *server, const struct group *group, uint32_t seat, char *text,
                           size_t bytes, struct error *error)
{
    const struct launcher *launcher = launchers_for(server->launchers, group->name, seat);
    char host[MEMBER_TEXT_BYTES];
    uint32_t rank, threads = group->ranks ? group->members[0].threads : 0;
    if (group_rank_of(group, seat, &rank)) return keep_seat(server, group, seat, text, bytes, error);
    if (group_guest_of(group, seat, &rank)) {
        snprintf(text, bytes, "rank %u is back already, and joins at the next step of the jobs in flight",
                 seat);
        return STATUS_OK;
    }
    snprintf(host, sizeof host, "%s", groups_seat_host(server->groups, group->name, seat));
    status_t status = jobstore_serve_seat(server->store, group->name, seat, error);
    if (status == STATUS_OK)
        status = groups_mark_seat(server->groups, group->name, seat, SEAT_RETURNING, host, error);
    if (status != STATUS_OK) return status;
    log_line(LOG_INFO, "group %.8s: rank %u may serve again", group->name, seat);
    if (launcher && strcmp(group->fabric, "mpi") != 0) {
        order_replace(server->outbox, &launcher->peer, group, seat, host, threads);
        snprintf(text, bytes, "rank %u is being started again", seat);
    } else {
        snprintf(text, bytes,
                 "rank %u may come back; nobody starts it: mpirun -np 1 refrain-worker --group %s --seat "
                 "%u/%u ...",
                 seat, group->name, seat, group->seats);
    }
    return STATUS_OK;
}

status_t drain_undo(struct server *server, const char *who, char *text, size_t bytes, struct error *error)
{
    struct aim aim;
    const struct group *group;
    bool found = false;
    status_t status = read_aim(server, who, &aim, error);
    for (size_t i = 0; status == STATUS_OK && (group = groups_at(server->groups, i)); i++)
        for (uint32_t seat = 0; seat < group->seats && status == STATUS_OK; seat++) {
            if (groups_seat(server->groups, group->name, seat) == SEAT_SERVES) continue;
            bool meant = aim.host ? strcmp(groups_seat_host(server->groups, group->name, seat), aim.host) == 0
                                  : group == aim.group && seat == aim.seat;
            if (!meant) continue;
            found = true;
            status = bring_back(server, group, seat, text, bytes, error);
        }
    if (status == STATUS_OK && !found)
        return error_set(error, STATUS_NOT_FOUND, "who %s: no rank of that name is drained", who);
    return status;
}

/* ------------------------------------------------------------------------------------------------------- others */

void drain_launcher(struct server *server, const struct group *group)
{
    const struct launcher *launcher = launchers_of(server->launchers, group->name);
    if (launcher) order_shutdown(server->outbox, &launcher->peer, "all its ranks were drained");
}

static status_t keep(void *context, const char *group, uint32_t seat, const char *host)
{
    struct server *server = context;
    return groups_mark_seat(server->groups, group, seat, SEAT_DRAINED, host, NULL);
}

status_t drain_load(struct server *server, struct error *error)
{
    groups_serve_all(server->groups);
    status_t status = jobstore_drained(server->store, keep, server, error);
    if (status == STATUS_NO_MEMORY) error_set(error, status, "no memory for the list of drained ranks");
    return status;
}
