/*
 * world.h - the virtual clock, and everything that is still going to happen: discrete events on one thread.
 *
 *     world_open(&error);
 *     world_at(world_now_ns() + 5 * MILLISECOND_NS, WORLD_ARRIVES, arrive, message, 0);
 *     while (!finished && world_step()) {}
 *     world_close();
 *
 * Links in place of base/clock.o: clock_now_ns() and clock_wall_ms() are the world's. A process has one clock and so
 * one world; it is the only global state of the simulator.
 *
 * Computing takes time. Between world_enter and world_leave the clock is that of somebody who computes: it goes on
 * with every world_charge, while for everybody else it is still the moment at which he began. What he sends in
 * between leaves at his time.
 */
#ifndef REFRAIN_TOOLS_SIM_WORLD_H
#define REFRAIN_TOOLS_SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>
#include "base/clock.h"
#include "base/status.h"

/* Of two events at one moment this decides, then which was announced first: who begins to work knows all that has
 * arrived by then. */
enum world_rank { WORLD_ARRIVES, WORLD_WORKS };

typedef void world_event_fn(void *context, uint64_t value);

status_t world_open(struct error *error);
void world_close(
    void); /* events that have not happened are forgotten; whoever they would happen to frees himself */

/* A moment that has passed means now. */
void world_at(int64_t when_ns, enum world_rank rank, world_event_fn *happens, void *context, uint64_t value);
/* Lets the next event happen; false: there is none. */
bool world_step(void);
/* For as long as there are events before it; the clock then stands at `until_ns`. */
void world_run(int64_t until_ns);

/* The event's moment, whoever computes. */
int64_t world_now_ns(void);

/* speed: charged times are divided by it. Not nested. */
void world_enter(double speed);
void world_charge(int64_t ns); /* outside of enter and leave: free */
int64_t world_leave(void);     /* when the one who computed is done */

uint64_t world_events(void); /* that have happened so far */

#endif
