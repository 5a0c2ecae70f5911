/* launchers.c - see launchers.h. Runs on the coordinator's loop thread; holds no locks. */
#include "coordinator/ranks/launchers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAUNCHERS = 64 };

struct launchers {
    struct launcher list[MAX_LAUNCHERS]; /* [count] */
    size_t count;
};

status_t launchers_open(struct launchers **launchers, struct error *error)
{
    *launchers = calloc(1, sizeof **launchers);
    return *launchers ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for the list of launchers");
}

void launchers_close(struct launchers *launchers)
{
    free(launchers);
}

static struct launcher *find(struct launchers *launchers, const struct wire_peer *peer)
{
    for (size_t i = 0; i < launchers->count; i++)
        if (wire_peer_equal(&launchers->list[i].peer, peer)) return &launchers->list[i];
    return NULL;
}

static bool is_of(const struct launcher *launcher, const char *group)
{
    return strcmp(launcher->group, group) == 0;
}

/* The same one over a new connection. */
static struct launcher *find_again(struct launchers *launchers, const Refrain__Launcher *message)
{
    for (size_t i = 0; i < launchers->count; i++) {
        struct launcher *launcher = &launchers->list[i];
        bool same = launcher->joins == message->joins && launcher->first == message->first;
        if (is_of(launcher, message->group) && same) return launcher;
    }
    return NULL;
}

status_t launchers_hello(struct launchers *launchers, const struct wire_peer *peer,
                         const Refrain__Launcher *message, int64_t now_ns, struct error *error)
{
    if (!group_text_fits(message->group, GROUP_NAME_BYTES) ||
        !group_text_fits(message->host, MEMBER_TEXT_BYTES) ||
        !group_text_fits(message->fabric, sizeof((struct launcher *)0)->fabric) || message->ranks < 1 ||
        message->ranks > PLAN_MAX_RANKS || message->first > PLAN_MAX_RANKS - message->ranks)
        return error_set(error, STATUS_INVALID,
                         "a launcher must give its group, host and fabric, and 1 to %d ranks",
                         PLAN_MAX_RANKS);
    struct launcher *launcher = find(launchers, peer);
    if (!launcher) launcher = find_again(launchers, message);
    if (!launcher && launchers->count == MAX_LAUNCHERS)
        return error_set(error, STATUS_NO_MEMORY, "there are %d launchers already", MAX_LAUNCHERS);
    if (!launcher) {
        launcher = &launchers->list[launchers->count++];
        *launcher = (struct launcher){0};
    }
    launcher->peer = *peer;
    launcher->joins = message->joins;
    launcher->first = message->first;
    launcher->ranks = message->ranks;
    launcher->pid = message->pid;
    launcher->heard_ns = now_ns;
    snprintf(launcher->group, sizeof launcher->group, "%s", message->group);
    snprintf(launcher->host, sizeof launcher->host, "%s", message->host);
    snprintf(launcher->fabric, sizeof launcher->fabric, "%s", message->fabric);
    return STATUS_OK;
}

struct launcher *launchers_heard(struct launchers *launchers, const struct wire_peer *peer, int64_t now_ns)
{
    struct launcher *launcher = find(launchers, peer);
    if (launcher) launcher->heard_ns = now_ns;
    return launcher;
}

static void forget(struct launchers *launchers, size_t index)
{
    launchers->list[index] = launchers->list[--launchers->count];
}

void launchers_check(struct launchers *launchers, int64_t now_ns, int64_t silence_ns)
{
    for (size_t i = launchers->count; i-- > 0;)
        if (now_ns - launchers->list[i].heard_ns > silence_ns) forget(launchers, i);
}

void launchers_forgive(struct launchers *launchers, int64_t now_ns)
{
    for (size_t i = 0; i < launchers->count; i++) launchers->list[i].heard_ns = now_ns;
}

struct launcher *launchers_of(struct launchers *launchers, const char *group)
{
    for (size_t i = 0; i < launchers->count; i++)
        if (!launchers->list[i].joins && !launchers->list[i].ends && is_of(&launchers->list[i], group))
            return &launchers->list[i];
    return NULL;
}

static bool has_seat(const struct launcher *launcher, const char *group, uint32_t seat)
{
    return is_of(launcher, group) && seat >= launcher->first && seat - launcher->first < launcher->ranks;
}

struct launcher *launchers_for(struct launchers *launchers, const char *group, uint32_t seat)
{
    for (size_t i = 0; i < launchers->count; i++)
        if (!launchers->list[i].ends && has_seat(&launchers->list[i], group, seat))
            return &launchers->list[i];
    return NULL;
}

bool launchers_resign(struct launchers *launchers, const char *group, uint32_t seat)
{
    for (size_t i = 0; i < launchers->count; i++) {
        const struct launcher *launcher = &launchers->list[i];
        if (launcher->joins && launcher->ends && has_seat(launcher, group, seat)) return true;
    }
    return false;
}

uint32_t launchers_end(struct launchers *launchers, const char *group)
{
    uint32_t end = 0;
    for (size_t i = 0; i < launchers->count; i++) {
        const struct launcher *launcher = &launchers->list[i];
        if (is_of(launcher, group) && launcher->first + launcher->ranks > end)
            end = launcher->first + launcher->ranks;
    }
    return end;
}

struct launcher *launchers_at(struct launchers *launchers, size_t index)
{
    return index < launchers->count ? &launchers->list[index] : NULL;
}
