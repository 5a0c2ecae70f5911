/* joining.c - see joining.h. Runs on the coordinator's loop thread; keeps nothing. */
#include "coordinator/ranks/joining.h"

#include <string.h>
#include "base/log.h"
#include "coordinator/orders.h"

static status_t find_group(const struct server *server, const char *name, struct group **group,
                           struct error *error)
{
    bool several;
    if (!group_text_fits(name, GROUP_NAME_BYTES))
        return error_set(error, STATUS_INVALID, "--join: must be 1 to %d letters of a group's name",
                         GROUP_NAME_BYTES - 1);
    *group = groups_called(server->groups, name, strlen(name), &several);
    if (*group) return STATUS_OK;
    return error_set(error, STATUS_NOT_FOUND, "--join %s: %s; `refrain ranks` shows those that are there",
                     name, several ? "several groups' names begin so" : "no group's name begins so");
}

static status_t check(const struct group *group, const Refrain__Launcher *message, uint32_t first,
                      struct error *error)
{
    const char *fabric = message->fabric ? message->fabric : "";
    if (strcmp(group->fabric, "mpi") == 0)
        return error_set(error, STATUS_UNSUPPORTED,
                         "--join %.8s: over the fabric mpi a group has the ranks that it was started with; "
                         "start one with more",
                         group->name);
    if (strcmp(group->fabric, fabric) != 0)
        return error_set(error, STATUS_UNSUPPORTED,
                         "--join %.8s: its ranks are over the fabric %s: --fabric %s", group->name,
                         group->fabric, group->fabric);
    if (!group->formed || group->state == GROUP_LOST)
        return error_set(error, STATUS_CONFLICT,
                         "--join %.8s: %u of its %u ranks are there; try again when all are", group->name,
                         group->here, group->ranks);
    if (first > PLAN_MAX_RANKS || message->ranks > PLAN_MAX_RANKS - first)
        return error_set(error, STATUS_CONFLICT,
                         "--join %.8s: %u ranks beside the %u that have a seat: at most %d form a group",
                         group->name, message->ranks, first, PLAN_MAX_RANKS);
    return STATUS_OK;
}

static bool all_near(const struct group *group)
{
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if (!member_is_near(group->members[rank].address)) return false;
    return true;
}

status_t joining_place(struct server *server, const Refrain__Launcher *message, Refrain__Launcher *known,
                       bool *near, struct error *error)
{
    struct group *group;
    status_t status = find_group(server, message->group, &group, error);
    if (status != STATUS_OK) return status;
    uint32_t end = launchers_end(server->launchers, group->name);
    uint32_t first = end > group->seats ? end : group->seats;
    if ((status = check(group, message, first, error)) != STATUS_OK) return status;
    *known = *message;
    known->group = group->name;
    known->has_first = 1;
    known->first = first;
    *near = all_near(group);
    group->reserved = first + message->ranks;
    log_line(LOG_INFO, "group %.8s: %u ranks are being started on %.60s to join it, from rank %u on",
             group->name, message->ranks, message->host ? message->host : "?", first);
    return STATUS_OK;
}

void joining_end(struct server *server, const char *group, const char *why)
{
    struct launcher *launcher;
    for (size_t i = 0; (launcher = launchers_at(server->launchers, i)); i++)
        if (launcher->joins && strcmp(launcher->group, group) == 0)
            order_shutdown(server->outbox, &launcher->peer, why);
}
