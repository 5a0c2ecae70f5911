/*
 * turn.h - which of its jobs a home advances next: values in, an index out. No tensors, no clock, no
 * allocation.
 *
 *     struct turn turn = {0};
 *     int account = turn_join(&turn, "tenant");                     for each job that comes
 *     int i = turn_choose(&turn, candidates, count);                -1: all of them wait
 *     ... one piece of job i ...
 *     turn_charge(&turn, &candidates[i], work);
 *     turn_leave(&turn, account);                                   for each job that goes
 *
 * The rules, first to last; a later one only speaks where those before it leave a choice:
 *
 * 1. What is given to the fabric (PIECE_SEND): it costs home nothing and keeps the stages busy. A block that
 *    home runs in another member's place (PIECE_SPARE) goes last of all, whosever it is: that member gets it if
 *    home does not come to it.
 * 2. The higher priority, strictly: a job of lower priority moves only while none above it can. A job is
 *    preempted by not being chosen, also in the middle of a step: its hops just stay where they landed.
 * 3. A deadline that can still be met before none, the earlier before the later. Across tenants, for a job
 *    that is late is work thrown away; but it is charged like any other work.
 * 4. The tenant that was charged least (start-time fair queueing: Goyal, Vin, Cheng 1996). Work is counted in
 *    rows times blocks, on all ranks. A tenant that had no job here starts where the least charged one
 *    stands, so nobody saves up time; one that left ahead of it stays ahead.
 * 5. Among a tenant's jobs: LIGHT pieces (a hit is made of nothing else, those of a miss feed the stages),
 *    but at most TURN_LIGHT in a row while a heavier piece waits. Of the heavier ones: text, decode and files
 *    on the one hand and BLOCKS on the other, in turn. Text, decode and files take at most half of home's
 *    time: after one of them, pieces of steps worth as much work go first, if there are any (and beside the hops
 *    of a stage on the same rank far less: rules/share.h). Files before decode before text: who is nearly done
 *    gives its memory back.
 * 6. Of BLOCKS those of the job that had the last ones: a branch leaves when its last block is done, and while
 *    two branches are half done the stages have nothing to do.
 * 7. The job that came first. Jobs of one kind then finish one after another rather than all at once, and one
 *    decodes while the others keep the stages busy.
 */
#ifndef REFRAIN_RULES_TURN_H
#define REFRAIN_RULES_TURN_H

#include <stdbool.h>
#include <stdint.h>
#include "rules/piece.h"

enum { TURN_ACCOUNTS = 64, TURN_LIGHT = 8, TURN_NAME_BYTES = 160 };

/* What one job could do now. */
struct candidate {
    enum job_piece piece;
    int priority;
    int64_t due_ms;   /* 0: none, or it has passed */
    uint64_t arrival; /* earlier is smaller; no two are equal */
    int account;      /* of its tenant */
};

struct turn_account {
    char tenant[TURN_NAME_BYTES];
    int jobs;
    uint64_t charged; /* rows * blocks */
    uint64_t debt;    /* step work that goes before the next piece of text, decode or files */
    int light;        /* light pieces in a row */
    bool beside;      /* the last piece that was not light was text, decode or files */
};

struct turn {
    uint64_t begun; /* arrival of the job whose blocks were the last */
    uint64_t
        floor; /* where a tenant that comes begins: as much as the least charged one had when last asked */
    struct turn_account account[TURN_ACCOUNTS];
};

/* The tenant's account, for one job more. At most TURN_ACCOUNTS jobs may be here at a time. */
int turn_join(struct turn *turn, const char *tenant);
void turn_leave(struct turn *turn, int account);

int turn_choose(const struct turn *turn, const struct candidate *candidates, int count);
/* The chosen one did its piece. work: what it was charged for, job_work's growth. */
void turn_charge(struct turn *turn, const struct candidate *chosen, uint64_t work);

#endif
