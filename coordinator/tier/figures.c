/* figures.c - see figures.h. Runs on the coordinator's loop thread. */
#include "coordinator/tier/figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct figure *find(struct figures *figures, uint32_t rank, uint32_t kind, uint64_t tenant)
{
    for (uint32_t i = 0; i < figures->count; i++) {
        struct figure *one = &figures->list[i];
        if (one->tenant == tenant && one->rank == rank && one->kind == kind) return one;
    }
    return NULL;
}

static struct figure *make(struct figures *figures, uint32_t rank, uint32_t kind, uint64_t tenant)
{
    if (figures->count == figures->room) {
        uint32_t room = figures->room ? 2 * figures->room : 64;
        struct figure *grown = room <= FIGURES_MAX ? realloc(figures->list, room * sizeof *grown) : NULL;
        if (!grown) return NULL;
        figures->list = grown;
        figures->room = room;
    }
    struct figure *made = &figures->list[figures->count++];
    *made = (struct figure){.tenant = tenant, .rank = rank, .kind = kind};
    return made;
}

static void copy(uint64_t *to, size_t most, const uint64_t *from, size_t count)
{
    for (size_t i = 0; i < most; i++) to[i] = i < count ? from[i] : 0;
}

bool figures_take(struct figures *figures, uint32_t rank, const Refrain__TierTally *told)
{
    if (told->kind >= ITEM_KINDS || !isfinite(told->seconds_saved) || told->seconds_saved < 0) return false;
    struct figure *figure = find(figures, rank, told->kind, told->tenant);
    if (!figure) figure = make(figures, rank, told->kind, told->tenant);
    if (!figure) return false;
    struct tally *tally = &figure->tally;
    tally->items = told->items;
    tally->published = told->published;
    tally->refused = told->refused;
    tally->fetched = told->fetched;
    tally->lent = told->lent;
    tally->copied = told->copied;
    tally->seconds_saved = told->seconds_saved;
    copy(tally->bytes, LEVELS, told->bytes, told->n_bytes);
    copy(tally->hits, LEVELS, told->hits, told->n_hits);
    copy(tally->evictions, LEVELS, told->evictions, told->n_evictions);
    copy(tally->misses, MISSES, told->misses, told->n_misses);
    return true;
}

void figures_drop(struct figures *figures, uint32_t rank)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < figures->count; i++)
        if (figures->list[i].rank != rank) figures->list[kept++] = figures->list[i];
    figures->count = kept;
}

void figures_free(struct figures *figures)
{
    free(figures->list);
    *figures = (struct figures){0};
}

void figures_add(struct tally *sum, const struct tally *one)
{
    sum->items += one->items;
    sum->published += one->published;
    sum->refused += one->refused;
    sum->fetched += one->fetched;
    sum->lent += one->lent;
    sum->copied += one->copied;
    sum->seconds_saved += one->seconds_saved;
    for (int i = 0; i < LEVELS; i++) {
        sum->bytes[i] += one->bytes[i];
        sum->hits[i] += one->hits[i];
        sum->evictions[i] += one->evictions[i];
    }
    for (int i = 0; i < MISSES; i++) sum->misses[i] += one->misses[i];
}

bool figures_sum(const struct figures *figures, uint32_t rank, uint32_t kind, const uint64_t *tenant,
                 struct tally *sum)
{
    bool some = false;
    for (uint32_t i = 0; i < figures->count; i++) {
        const struct figure *one = &figures->list[i];
        if (one->rank != rank || one->kind != kind || (tenant && *tenant != one->tenant)) continue;
        figures_add(sum, &one->tally);
        some = true;
    }
    return some;
}
