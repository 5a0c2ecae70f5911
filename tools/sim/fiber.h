/*
 * fiber.h - a stack of its own for somebody who may have to wait in the middle of what he does.
 *
 *     fiber_open(work, seat, &fiber, &error);       nothing runs yet
 *     fiber_resume(fiber);                          work(seat) runs, until it calls
 *     fiber_pause(fiber);                           ... which comes back with the next fiber_resume
 *     fiber_close(fiber);                           also while it is paused: what its stack held is forgotten
 *
 * `work` must not return. Resumed only from the one stack of the thread that has no fiber; not nested. Known to the
 * address and the thread sanitizer.
 */
#ifndef REFRAIN_TOOLS_SIM_FIBER_H
#define REFRAIN_TOOLS_SIM_FIBER_H

#include "base/status.h"

struct fiber;

status_t fiber_open(void (*work)(void *context), void *context, struct fiber **fiber, struct error *error);
void fiber_close(struct fiber *fiber); /* NULL is fine */
void fiber_resume(struct fiber *fiber);
void fiber_pause(struct fiber *fiber);

#endif
