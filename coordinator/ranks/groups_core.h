/*
 * groups_core.h - what groups.c and groups_seats.c share. Nobody else includes it.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_GROUPS_CORE_H
#define REFRAIN_COORDINATOR_RANKS_GROUPS_CORE_H

#include <unistd.h>
#include "coordinator/ranks/groups.h"

enum { MAX_GROUPS = 64, REMEMBERED = 64 };

struct drained {
    char group[GROUP_NAME_BYTES], host[MEMBER_TEXT_BYTES];
    uint32_t seat;
    enum seat_state state; /* not SEAT_SERVES */
};

struct groups {
    struct group_limits limits;
    struct group *list[MAX_GROUPS]; /* [count], in order of arrival */
    size_t count;
    char gone[REMEMBERED][GROUP_NAME_BYTES]; /* ring of the names given up */
    size_t gone_next;
    char host[MEMBER_TEXT_BYTES]; /* ours */
    struct drained *drained;      /* [drained_count], room for [drained_room] */
    size_t drained_count, drained_room;
};

static inline void close_pidfd(struct member *member)
{
    if (member->pidfd >= 0) close(member->pidfd);
    member->pidfd = -1;
}

/* Ranks and guests. */
static inline uint32_t people(const struct group *group)
{
    return group->ranks + group->guests;
}

#endif
