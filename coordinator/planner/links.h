/*
 * links.h - how fast the links between a group's ranks are, and when they are measured.
 *
 *     links_begin(&group->links, seats, seat, ranks, epoch, now_ns, &error);      a new epoch: what is unknown is to be measured
 *     if (links_turn(&group->links, idle, now_ns))                               once per turn; true: a round begins
 *         for (rank ...) if (links_asks(&group->links, rank, &peer)) ...         order it (worker/probe.h)
 *     links_answer(&group->links, rank, peer, bytes_per_second, latency);
 *     links_find(&group->links, seat, other, &link);                             what is known
 *
 * All pairs are measured in a tournament: in each round every rank has one partner at most, so that no two pairs share
 * one, and the next round begins when all have answered or LINKS_ROUND_NS are over. What is known is kept by seat, over
 * epochs and replacements, until a seat is on another host; it is measured again every LINKS_AGAIN_NS, and then counts for half.
 * While there is anything to do nothing is measured, and what comes from a round that was disturbed does not count.
 *
 * Plain state, no sockets; the loop thread.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_LINKS_H
#define REFRAIN_COORDINATOR_PLANNER_LINKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/clock.h"
#include "base/status.h"

#define LINKS_ROUND_NS (2 * SECOND_NS)
#define LINKS_RETRY_NS (10 * SECOND_NS) /* where some could not be measured */
#define LINKS_AGAIN_NS (300 * SECOND_NS)

struct link {
    float bytes_per_second; /* 0: unknown */
    float latency;          /* seconds of an empty message, one way */
};

struct links {
    uint32_t seats, ranks; /* that there are in all; of them, those in the epoch */
    uint64_t epoch;        /* 0: nothing was begun */
    struct link *link;     /* [seats (seats - 1) / 2]: of seat b and a < b at b (b - 1) / 2 + a */
    uint32_t *seat;        /* [ranks]: of each rank */
    bool *
        asked; /* [ranks]: its link to its partner is being measured, and it is the one to say how fast it is */
    uint32_t round;   /* of links_rounds */
    uint32_t waiting; /* that were asked and have not answered */
    bool all;         /* this pass measures those that are known as well */
    bool failed;      /* one of this pass could not be measured */
    int64_t round_ns; /* when the round began; 0: it has not */
    int64_t next_ns;  /* when the next pass begins */
};

/* seat: [ranks], increasing, below seats. STATUS_NO_MEMORY: nothing will be measured. */
status_t links_begin(struct links *links, uint32_t seats, const uint32_t *seat, uint32_t ranks,
                     uint64_t epoch, int64_t now_ns, struct error *error);
void links_close(struct links *links);

/* idle: no rank has anything to do. Ends rounds and begins others; true: one began. */
bool links_turn(struct links *links, bool idle, int64_t now_ns);
/* Is that rank to measure the link to *peer in this round? */
bool links_asks(const struct links *links, uint32_t rank, uint32_t *peer);
/* What a rank said; a bandwidth of 0: it could not. What was not asked for is ignored. */
void links_answer(struct links *links, uint32_t rank, uint32_t peer, double bytes_per_second, double latency);

/* By seats; false: unknown. */
bool links_find(const struct links *links, uint32_t seat, uint32_t other, struct link *link);
void links_forget(struct links *links, uint32_t seat); /* it is on another host */

/* A tournament of so many ranks, at least 2: its rounds, and the partner of a rank in one of them; `ranks`: it has none. Each
 * pair meets once. */
uint32_t links_rounds(uint32_t ranks);
uint32_t links_partner(uint32_t ranks, uint32_t round, uint32_t rank);

#endif
