/* guarded_state.h - what guarded.c (memory, order, waiting) gives to guarded_ops.c (what is computed). */
#ifndef REFRAIN_TESTS_GUARDED_STATE_H
#define REFRAIN_TESTS_GUARDED_STATE_H

#include "tests/guarded.h"

struct lane; /* of one team: the ops that wait, and the thread that runs them */

/* One op with its arguments, which follow. */
struct command {
    void (*run)(struct command *command, struct team *team);
    struct command *next;
    void *release; /* freed with it */
};

enum use { READS, WRITES }; /* WRITES: reads as well, maybe */

struct lane *guarded_lane(struct team *team, const char *op);
void *guarded_command(size_t bytes, void (*run)(struct command *command, struct team *team));
void guarded_enqueue(struct lane *lane, void *command);

/* Where that memory really is; dies if it is not memory of the backend, all of it. NULL stays NULL. */
void *guarded_at(struct lane *lane, const char *op, const void *memory, size_t bytes, enum use use);
/* The host's backend inside. */
const struct ops *guarded_inner(void);
void guarded_die(const char *op, const char *what) __attribute__((noreturn));

/* guarded_ops.c, guarded_maps.c: fill in what computes. */
void guarded_fill(struct ops *ops);
void guarded_fill_maps(struct ops *ops);

#endif
