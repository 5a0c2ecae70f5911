/* fiber.c - see fiber.h. One thread. */
#include "tools/sim/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

enum { STACK_BYTES = 1 << 20, GUARD_BYTES = 1 << 12 }; /* memory is taken as it is touched */

struct fiber {
    ucontext_t here, resumer;
    void (*work)(void *context);
    void *context;
    char *stack; /* the guard first */
    /* What the sanitizers keep of both stacks. */
    void *frames, *thread, *resumer_frames, *resumer_thread;
    const void *resumer_bottom;
    size_t resumer_bytes;
};

/* The first thing on a stack after a switch to it; frames: what it left behind. */
static void arrived(void *frames, const void **from, size_t *bytes)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(frames, from, bytes);
#endif
}

/* makecontext passes numbers of 32 bits. */
static void begin(unsigned high, unsigned low)
{
    struct fiber *f = (struct fiber *)(((uintptr_t)high << 32) | low); /* NOLINT: it was one */
    arrived(NULL, &f->resumer_bottom, &f->resumer_bytes);
    f->work(f->context);
    abort();
}

status_t fiber_open(void (*work)(void *context), void *context, struct fiber **fiber, struct error *error)
{
    struct fiber *f = calloc(1, sizeof *f);
    if (!f) return error_set(error, STATUS_NO_MEMORY, "no memory for a fiber");
    f->stack = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (f->stack == MAP_FAILED || mprotect(f->stack, GUARD_BYTES, PROT_NONE) != 0 ||
        getcontext(&f->here) != 0) {
        if (f->stack != MAP_FAILED) munmap(f->stack, GUARD_BYTES + STACK_BYTES);
        free(f);
        return error_set(error, STATUS_NO_MEMORY, "no memory for a fiber's stack: %m");
    }
    f->work = work;
    f->context = context;
    f->here.uc_stack.ss_sp = f->stack + GUARD_BYTES;
    f->here.uc_stack.ss_size = STACK_BYTES;
    makecontext(&f->here, (void (*)(void))begin, 2, (unsigned)((uintptr_t)f >> 32), (unsigned)(uintptr_t)f);
#if defined(__SANITIZE_THREAD__)
    f->thread = __tsan_create_fiber(0);
#endif
    *fiber = f;
    return STATUS_OK;
}

void fiber_close(struct fiber *f)
{
    if (!f) return;
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(f->thread);
#endif
    munmap(f->stack, GUARD_BYTES + STACK_BYTES);
    free(f);
}

void fiber_resume(struct fiber *f)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&f->resumer_frames, f->stack + GUARD_BYTES, STACK_BYTES);
#elif defined(__SANITIZE_THREAD__)
    f->resumer_thread = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(f->thread, 0);
#endif
    swapcontext(&f->resumer, &f->here);
    arrived(f->resumer_frames, NULL, NULL);
}

void fiber_pause(struct fiber *f)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&f->frames, f->resumer_bottom, f->resumer_bytes);
#elif defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(f->resumer_thread, 0);
#endif
    swapcontext(&f->here, &f->resumer);
    arrived(f->frames, &f->resumer_bottom, &f->resumer_bytes);
}
