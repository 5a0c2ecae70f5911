/* copies.c - cp.async. A copy may land at any time from its issue to the wait that covers it; we choose the two ends:
 * at the wait (a forgotten wait then shows as poison) or at once (a buffer that others still read then shows as a wrong
 * result). The seed says which. */
#include "tests/cusim/block.h"
#include <string.h>

bool cusim_copy_issue(const struct cusim_copy *copy, struct cusim_site site)
{
    struct thread *self = block_thread();
    char where[128];
    if ((uintptr_t)copy->to % 16 || (copy->valid && (uintptr_t)copy->from % 16))
        report("cp.async of 16 bytes from %p to %p: both must be 16-byte aligned (%s)", copy->from, copy->to,
               site_text(site, where));
    if (self->copies == COPIES_MAX)
        report("more than %d cp.async under way in one thread (%s)", COPIES_MAX, site_text(site, where));
    bool early = block_here()->seed % 2 == 1;
    self->copy_groups[self->copies] = self->group;
    self->copy[self->copies] = *copy;
    if (early) self->copy[self->copies].to = NULL; /* only the wait for it is outstanding */
    self->copies++;
    self->copy_site = site;
    return early;
}

void cusim_copy_commit(void)
{
    block_thread()->group++;
}

bool cusim_copy_due(int groups, struct cusim_copy *copy)
{
    struct thread *self = block_thread();
    while (self->copies && self->copy_groups[0] < self->group - groups) {
        *copy = self->copy[0];
        self->copies--;
        memmove(self->copy, self->copy + 1, (size_t)self->copies * sizeof *self->copy);
        memmove(self->copy_groups, self->copy_groups + 1, (size_t)self->copies * sizeof *self->copy_groups);
        if (copy->to) return true;
    }
    return false;
}
