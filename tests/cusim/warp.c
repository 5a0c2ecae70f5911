/* warp.c - operations of a warp: every lane of the mask comes, the last one resolves them. */
#include "tests/cusim/block.h"
#include "tests/cusim/lane.h"
#include <string.h>

/* Lanes that must come: those of the mask that the block has (the last warp may be short). */
static unsigned lanes_of(const struct block *block, int warp, unsigned mask)
{
    int lanes = block->threads - warp * WARP;
    return lanes < WARP ? mask & ((1u << lanes) - 1) : mask;
}

static void check_agreement(const struct thread *self, const struct thread *other)
{
    char here[128], there[128];
    if (other->op == self->op && other->mask == self->mask && site_same(other->site, self->site)) return;
    report("lanes of a warp disagree: %s with mask %08x (%s), lane %d came to %s with mask %08x (%s)",
           self->op->name, self->mask, site_text(self->site, here), other->place.linear % WARP,
           other->op->name, other->mask, site_text(other->site, there));
}

static void resolve(struct block *block, struct thread *self, struct warp *warp, unsigned lanes)
{
    struct thread *first = self - self->place.linear % WARP;
    void *argument[WARP] = {0};
    for (int lane = 0; lane < WARP; lane++) {
        if (!(lanes >> lane & 1)) continue;
        check_agreement(self, &first[lane]);
        token_acquire(&first[lane].arrive_token);
        argument[lane] = first[lane].lane;
    }
    warp->arrived &= ~lanes;
    self->op->resolve(argument, lanes);
    for (int lane = 0; lane < WARP; lane++) {
        if (!(lanes >> lane & 1)) continue;
        token_release(&first[lane].leave_token);
        if (&first[lane] != self) block_wake(block, first[lane].place.linear);
    }
}

void cusim_warp(const struct cusim_warp_op *op, unsigned mask, void *lane, struct cusim_site site)
{
    struct thread *self = block_thread();
    struct block *block = block_of(self);
    int index = self->place.linear / WARP, number = self->place.linear % WARP;
    struct warp *warp = &block->warp[index];
    unsigned lanes = lanes_of(block, index, mask);
    char where[128];
    if (!(mask >> number & 1))
        report("%s: lane %d is not in its own mask %08x (%s)", op->name, number, mask,
               site_text(site, where));
    self->op = op;
    self->mask = mask;
    self->lane = lane;
    self->site = site;
    warp->arrived |= 1u << number;
    token_release(&self->arrive_token);
    if ((warp->arrived & lanes) == lanes) {
        resolve(block, self, warp, lanes);
    } else {
        if (warp->ended & lanes)
            report("%s: mask %08x names lanes %08x, which have ended (%s)", op->name, mask,
                   warp->ended & lanes, site_text(site, where));
        block_wait(block, self, op->name, site);
    }
    token_acquire(&self->leave_token);
}

void warp_left(struct block *block, const struct thread *thread)
{
    int number = thread->place.linear % WARP;
    struct warp *warp = &block->warp[thread->place.linear / WARP];
    const struct thread *first = thread - number;
    warp->ended |= 1u << number;
    if (!warp->arrived) return;
    for (int lane = 0; lane < WARP; lane++) {
        char where[128];
        if (warp->arrived >> lane & 1 && first[lane].mask >> number & 1)
            report("ended while lane %d of its warp waits for it at %s with mask %08x (%s)", lane,
                   first[lane].op->name, first[lane].mask, site_text(first[lane].site, where));
    }
}

unsigned cusim_active_mask(void)
{
    struct block *block = block_of(block_thread());
    int warp = cusim_self->linear / WARP;
    return lanes_of(block, warp, ~block->warp[warp].ended);
}

/* --- shuffles and votes --------------------------------------------------------------------------------- */

static const uint64_t undefined =
    0xdeaddeaddeaddeadu; /* a NaN as float, double and bf16 alike would be quiet: this shows */

/* Source lanes as in the programming guide: inside the group of `width` lanes, else the own lane. */
static void shuffle(void *lanes[32], unsigned mask,
                    int (*source)(int lane, int base, const struct lane *argument))
{
    for (int i = 0; i < WARP; i++) {
        if (!(mask >> i & 1)) continue;
        struct lane *lane = lanes[i];
        int from = source(i, i & ~(lane->width - 1), lane);
        lane->result = mask >> from & 1 ? ((const struct lane *)lanes[from])->value : undefined;
    }
}

static int from_index(int lane, int base, const struct lane *argument)
{
    (void)lane;
    return base + (argument->argument & (argument->width - 1));
}
static int from_below(int lane, int base, const struct lane *argument)
{
    return lane - argument->argument < base ? lane : lane - argument->argument;
}
static int from_above(int lane, int base, const struct lane *argument)
{
    return lane + argument->argument >= base + argument->width ? lane : lane + argument->argument;
}
static int from_xor(int lane, int base, const struct lane *argument)
{
    int from = lane ^ argument->argument;
    return from >= base + argument->width ? lane : from;
}

static void resolve_shfl(void *lanes[32], unsigned mask)
{
    shuffle(lanes, mask, from_index);
}
static void resolve_shfl_up(void *lanes[32], unsigned mask)
{
    shuffle(lanes, mask, from_below);
}
static void resolve_shfl_down(void *lanes[32], unsigned mask)
{
    shuffle(lanes, mask, from_above);
}
static void resolve_shfl_xor(void *lanes[32], unsigned mask)
{
    shuffle(lanes, mask, from_xor);
}

static void resolve_ballot(void *lanes[32], unsigned mask)
{
    unsigned ballot = 0;
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1) ballot |= (unsigned)(((struct lane *)lanes[i])->value != 0) << i;
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1) ((struct lane *)lanes[i])->result = ballot;
}

static void resolve_match_any(void *lanes[32], unsigned mask)
{
    for (int i = 0; i < WARP; i++) {
        if (!(mask >> i & 1)) continue;
        struct lane *lane = lanes[i];
        lane->result = 0;
        for (int j = 0; j < WARP; j++)
            if (mask >> j & 1 && ((struct lane *)lanes[j])->value == lane->value) lane->result |= 1u << j;
    }
}

static void resolve_syncwarp(void *lanes[32], unsigned mask)
{
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1) ((struct lane *)lanes[i])->result = 0;
}

const struct cusim_warp_op cusim_shfl = {"__shfl_sync", resolve_shfl};
const struct cusim_warp_op cusim_shfl_up = {"__shfl_up_sync", resolve_shfl_up};
const struct cusim_warp_op cusim_shfl_down = {"__shfl_down_sync", resolve_shfl_down};
const struct cusim_warp_op cusim_shfl_xor = {"__shfl_xor_sync", resolve_shfl_xor};
const struct cusim_warp_op cusim_ballot = {"a vote of the warp", resolve_ballot};
const struct cusim_warp_op cusim_match_any = {"__match_any_sync", resolve_match_any};
const struct cusim_warp_op cusim_syncwarp = {"__syncwarp", resolve_syncwarp};
