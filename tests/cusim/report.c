/* report.c - what is told when a kernel does what CUDA forbids. The first fault ends the process: after it
 * nothing that the kernel computes means anything. */
#include "tests/cusim/block.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *site_text(struct cusim_site site, char text[static 128])
{
    const char *slash = strrchr(site.file, '/');
    snprintf(text, 128, "%s:%d", slash ? slash + 1 : site.file, site.line);
    return text;
}

void report(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (cusim_self) {
        const struct block *block = (const struct block *)cusim_self->block;
        uint3 b = block->place.index, t = cusim_self->index;
        fprintf(stderr, "cusim: kernel %s, block (%u,%u,%u), thread (%u,%u,%u): %s\n", block->kernel->name,
                b.x, b.y, b.z, t.x, t.y, t.z, text);
    } else {
        fprintf(stderr, "cusim: %s\n", text);
    }
    abort();
}

static bool same_wait(const struct thread *a, const struct thread *b)
{
    return a->waits_at == b->waits_at && site_same(a->site, b->site);
}

void report_deadlock(const struct block *block)
{
    uint3 b = block->place.index;
    fprintf(stderr,
            "cusim: kernel %s, block (%u,%u,%u): deadlock, %d of %d threads wait and none can go on\n",
            block->kernel->name, b.x, b.y, b.z, block->alive, block->threads);
    for (int i = 0; i < block->threads; i++) {
        const struct thread *first = &block->thread[i];
        if (first->state != THREAD_WAITING) continue;
        int alike = 0;
        bool told = false;
        for (int j = 0; j < block->threads; j++) {
            const struct thread *other = &block->thread[j];
            if (other->state != THREAD_WAITING || !same_wait(first, other)) continue;
            told |= j < i;
            alike++;
        }
        char where[128];
        if (!told)
            fprintf(stderr, "cusim:   %d at %s (%s), the first is thread (%u,%u,%u)\n", alike,
                    first->waits_at, site_text(first->site, where), first->place.index.x,
                    first->place.index.y, first->place.index.z);
    }
    abort();
}
