/*
 * fabric_steps.h - what many scenarios of a group do: payloads that can be told apart, beginning and ending together.
 */
#ifndef REFRAIN_TESTS_FABRIC_STEPS_H
#define REFRAIN_TESTS_FABRIC_STEPS_H

#include "tests/fabric_group.h"

#define LARGE_BYTES ((uint64_t)32 << 20)

/* Writes bytes that say whose message this is and which one into memory of member_memory, up to LARGE_BYTES. */
void member_fill(struct member *member, uint8_t *memory, uint64_t bytes, uint64_t sequence);
/* Is the payload what member `from` filled in? */
bool member_is_filled(struct member *member, const struct fabric_event *event, int from, uint64_t sequence);

/* The event that tells of a lost peer; what came before it is released on the way. */
struct fabric_event member_next_lost(struct member *member);
/* The next message, SENT events aside. */
struct fabric_event member_next_received(struct member *member);

/* Each member sends the next one some payloads, one after the other, and looks at those it gets. */
void member_go_round(struct member *member, uint64_t rounds, uint64_t bytes);
/* What ended the epoch, in words. */
const char *member_reason(struct member *member);

/* Joins, and waits until the others have, too: a member that is lost while they still join fails their join. Uses the
 * marks from 8 on. */
void member_join_together(struct member *member, uint64_t epoch);
/* Ends together: nobody leaves before everybody has done what it had to. Uses the marks from 16 on. */
void member_part_together(struct member *member);

#endif
