/* copies.c - cp.async. A copy may land at any time from its issue to the wait that covers it; we choose the
 * two ends: at the wait (a forgotten wait then shows as poison) or at once (a buffer that others still read
 * then shows as a wrong result). The seed says which. */
#include "tests/cusim/block.h"

bool cusim_copy_issue(const struct cusim_copy *copy, struct cusim_site site)
{
    struct thread *self = block_thread();
    char where[128];
    if ((uintptr_t)copy->to % 16 || (copy->valid && (uintptr_t)copy->from % 16))
        report("cp.async of 16 bytes from %p to %p: both must be 16-byte aligned (%s)", copy->from, copy->to,
               site_text(site, where));
    if (self->copies == COPIES_MAX)
        report("more than %d cp.async under way in one thread (%s)", COPIES_MAX, site_text(site, where));
    bool early = block_of(self)->seed % 2 == 1;
    int place = (self->first_copy + self->copies++) % COPIES_MAX;
    self->copy_groups[place] = self->group;
    self->copy[place] = *copy;
    if (early) self->copy[place].to = NULL; /* only the wait for it is outstanding */
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
    while (self->copies && self->copy_groups[self->first_copy] < self->group - groups) {
        *copy = self->copy[self->first_copy];
        self->first_copy = (self->first_copy + 1) % COPIES_MAX;
        self->copies--;
        if (copy->to) return true;
    }
    return false;
}
