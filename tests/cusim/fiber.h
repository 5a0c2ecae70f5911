/*
 * fiber.h - a stack that is switched to by hand, known to the sanitizer of the build.
 *
 *     struct fiber host = {0}, f;
 *     fiber_create(&f);
 *     fiber_start(&f, entry);          entry runs on f's stack when f is switched to; it never returns
 *     fiber_switch(&host, &f);         comes back when somebody switches to host
 *     fiber_destroy(&f);
 *
 * Fibers never leave the OS thread that made them. A switch costs some nanoseconds: six registers and the
 * stack pointer (ucontext makes two system calls and was five times slower). Below each stack lies an
 * inaccessible page.
 *
 * -DCUSIM_TSAN builds the runtime for kernels compiled with -fsanitize=thread; the runtime itself must not
 * be.
 */
#ifndef REFRAIN_CUSIM_FIBER_H
#define REFRAIN_CUSIM_FIBER_H

#include <stddef.h>

struct fiber {
    void *sp;                 /* while it does not run */
    char *stack;              /* lowest usable byte; NULL: the OS thread's own stack */
    void *asan_frames, *tsan; /* what the sanitizers keep of it */
    const void *bottom;       /* ASan's view of an OS thread's stack, learnt at the first switch away */
    size_t bottom_bytes;
};

void fiber_create(struct fiber *fiber); /* ends the process when there is no memory */
void fiber_destroy(struct fiber *fiber);
void fiber_start(struct fiber *fiber, void (*entry)(void));
void fiber_switch(struct fiber *from, struct fiber *to);

/* Two fibers change stacks; neither runs, or the one that runs keeps running on the stack it is on. */
void fiber_swap_stacks(struct fiber *a, struct fiber *b);

/* First thing in an entry function. */
void fiber_entered(void);

/* A synchronisation of the emulated program, told to the race checker: what happened before a release of a
 * token happens before what follows an acquire of it. */
#ifdef CUSIM_TSAN
#include <sanitizer/tsan_interface.h>
static inline void token_release(char *token)
{
    __tsan_release(token);
}
static inline void token_acquire(char *token)
{
    __tsan_acquire(token);
}
#else
static inline void token_release(char *token)
{
    (void)token;
}
static inline void token_acquire(char *token)
{
    (void)token;
}
#endif

#endif
