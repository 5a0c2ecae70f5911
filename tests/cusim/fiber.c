/* fiber.c - stacks switched by hand; fiber.h. */
#include "tests/cusim/fiber.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define CUSIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUSIM_ASAN 1
#endif
#endif
#ifdef CUSIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "cusim switches stacks on x86-64 only"
#endif

enum { PAGE = 4096 };
#if defined(CUSIM_ASAN) || defined(CUSIM_TSAN)
enum { STACK_BYTES = 256 * 1024 };
#else
enum { STACK_BYTES = 64 * 1024 };
#endif

/* Saves the callee's registers and *save = rsp, then the other way round for `to`. The jump is indirect on
 * purpose: a ret would be predicted to return into the fiber we leave. */
void cusim_switch_stacks(void **save, void *to);
__asm__(".text\n"
        ".globl cusim_switch_stacks\n"
        ".hidden cusim_switch_stacks\n"
        ".type cusim_switch_stacks,@function\n"
        "cusim_switch_stacks:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    popq %rcx\n"
        "    jmp *%rcx\n"
        ".size cusim_switch_stacks, .-cusim_switch_stacks\n");

/* Stacks at equal offsets would share the same few sets of the first-level cache. */
static char *stack_top(const struct fiber *fiber)
{
    uintptr_t stagger = ((uintptr_t)fiber->stack / (STACK_BYTES + PAGE)) % 32 * 64;
    return fiber->stack + STACK_BYTES - stagger;
}

void fiber_create(struct fiber *fiber)
{
    *fiber = (struct fiber){0};
    char *memory = mmap(NULL, PAGE + STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, PAGE, PROT_NONE) != 0) {
        perror("cusim: no memory for the stack of a CUDA thread");
        abort();
    }
    fiber->stack = memory + PAGE;
#ifdef CUSIM_TSAN
    fiber->tsan = __tsan_create_fiber(0);
#endif
}

void fiber_destroy(struct fiber *fiber)
{
    if (!fiber->stack) return;
#ifdef CUSIM_TSAN
    __tsan_destroy_fiber(fiber->tsan);
#endif
    munmap(fiber->stack - PAGE, PAGE + STACK_BYTES);
    fiber->stack = NULL;
}

void fiber_start(struct fiber *fiber, void (*entry)(void))
{
    void **sp = (void **)((uintptr_t)stack_top(fiber) & ~(uintptr_t)15);
    *--sp = NULL; /* where entry would return to; keeps the stack aligned as after a call */
    *--sp = (void *)entry;
    for (int saved = 0; saved < 6; saved++) *--sp = NULL;
    fiber->sp = sp;
    fiber->asan_frames = NULL;
}

#ifdef CUSIM_ASAN
static __thread struct fiber *left; /* who switched last on this OS thread */
#endif

static void arrived(void *asan_frames)
{
#ifdef CUSIM_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(asan_frames, &bottom, &bytes);
    if (!left->stack) {
        left->bottom = bottom;
        left->bottom_bytes = bytes;
    }
#else
    (void)asan_frames;
#endif
}

void fiber_entered(void)
{
    arrived(NULL);
}

void fiber_switch(struct fiber *from, struct fiber *to)
{
#ifdef CUSIM_ASAN
    left = from;
    __sanitizer_start_switch_fiber(&from->asan_frames, to->stack ? to->stack : to->bottom,
                                   to->stack ? (size_t)STACK_BYTES : to->bottom_bytes);
#endif
#ifdef CUSIM_TSAN
    if (!from->tsan) from->tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    cusim_switch_stacks(&from->sp, to->sp);
    arrived(from->asan_frames);
}

void fiber_swap_stacks(struct fiber *a, struct fiber *b)
{
    char *stack = a->stack;
    a->stack = b->stack;
    b->stack = stack;
}
