/*
 * launchers.h - who can start ranks: the launchers (refrain-launch) that are connected.
 *
 *     launchers_hello(launchers, &peer, message, now_ns, &error);
 *     struct launcher *launcher = launchers_of(launchers, group->name);      NULL: nobody can start it anew
 *     launcher = launchers_for(launchers, group->name, seat);                NULL: nobody can fill that seat
 *     launchers_heard(launchers, &peer, now_ns);                             NULL: not a launcher
 *
 * Plain state, sends nothing. One thread (the loop). Pointers are valid until launchers_check.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_LAUNCHERS_H
#define REFRAIN_COORDINATOR_RANKS_LAUNCHERS_H

#include "coordinator/ranks/groups.h"

struct launcher {
    struct wire_peer peer;
    char group[GROUP_NAME_BYTES], host[MEMBER_TEXT_BYTES], fabric[16];
    bool joins;            /* its ranks came to a group that was there; otherwise they are its first ones */
    bool ends;             /* it said Goodbye: it starts nobody any more, and its ranks end when it does */
    uint32_t first, ranks; /* the seats that it can fill */
    uint32_t pid;
    int64_t heard_ns;
    int64_t lonely_ns; /* since when none of its ranks is here; 0: some are */
    bool relaunched;   /* it was told to start anew by us */
};

struct launchers;

status_t launchers_open(struct launchers **launchers, struct error *error);
void launchers_close(struct launchers *launchers); /* NULL is fine */

/* A launcher says what it has, its seats known; again after every change. STATUS_INVALID, STATUS_NO_MEMORY (64 are there). */
status_t launchers_hello(struct launchers *launchers, const struct wire_peer *peer,
                         const Refrain__Launcher *message, int64_t now_ns, struct error *error);
/* Whose connection it is; NULL: no launcher's. */
struct launcher *launchers_heard(struct launchers *launchers, const struct wire_peer *peer, int64_t now_ns);
/* Forgets those that said nothing for so long. */
void launchers_check(struct launchers *launchers, int64_t now_ns, int64_t silence_ns);
void launchers_forgive(struct launchers *launchers, int64_t now_ns);

/* The one that started the group, and the one that can fill a seat of it; none that ends. */
struct launcher *launchers_of(struct launchers *launchers, const char *group);
struct launcher *launchers_for(struct launchers *launchers, const char *group, uint32_t seat);
/* The seat is of one that came to the group, and ends. */
bool launchers_resign(struct launchers *launchers, const char *group, uint32_t seat);
uint32_t launchers_end(struct launchers *launchers,
                       const char *group); /* behind the last seat of any; 0: none is there */
struct launcher *launchers_at(struct launchers *launchers, size_t index); /* NULL past the end */

#endif
