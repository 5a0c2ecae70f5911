/* worth.c - see worth.h. The caller's lock. */
#include "cache/tier/worth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* PRIOR_CHANCE: of a use within the next octave of age, believed as if PRIOR_SEEN items had shown it. Tables are
 * halved at MOST_SEEN, so that they follow what changes; rates are made anew every REFRESH changes. */
static const float PRIOR_CHANCE = 0.1F, PRIOR_SEEN = 6, LEAST_CHANCE = 1e-6F, MOST_SEEN = 4000;
/* A tenant's factor leans on 1 as if so many uses had been expected and seen; and is halved at MOST_EXPECTED. */
static const float ONE_EXPECTED = 1, MOST_EXPECTED = 100;
static const double LEAST_RATE = 1e-30;
enum { REFRESH = 64 };

/* The best ratio of uses to time from each age on, given the chance of a use within each octave. */
static void index_of(const float chance[WORTH_AGES], float rate[WORTH_AGES])
{
    double first = 1; /* seconds of the octave */
    for (int from = 0; from < WORTH_AGES; from++) {
        double waiting = 1, uses = 0, seconds = 0, best = LEAST_RATE, width = first;
        for (int age = from; age < WORTH_AGES; age++, width *= 2) {
            uses += waiting * chance[age];
            seconds += waiting * width * (1 - chance[age] / 2);
            if (uses > best * seconds) best = uses / seconds;
            waiting *= 1 - chance[age];
        }
        first *= 2;
        rate[from] = (float)log2(best);
    }
}

/* What few items have shown leans on the octave before it and, after some uses, on those with fewer: the larger of the
 * two. The first of all leans on what the kind has shown at any age, and no chance is believed to be nothing. */
static void refresh(struct worth *worth, int kind)
{
    float chance[WORTH_AGES] = {0}, used = PRIOR_SEEN * PRIOR_CHANCE, reached = PRIOR_SEEN;
    for (int class = 0; class < WORTH_USES; class ++)
        for (int age = 0; age < WORTH_AGES; age++) {
            used += worth->used[kind][class][age];
            reached += worth->reached[kind][class][age];
        }
    for (int class = 0; class < WORTH_USES; class ++) {
        float before = class ? 0 : used / reached;
        for (int age = 0; age < WORTH_AGES; age++) {
            float prior = fmaxf(LEAST_CHANCE, fmaxf(chance[age], before));
            chance[age] = before = (worth->used[kind][class][age] + PRIOR_SEEN * prior) /
                                   (worth->reached[kind][class][age] + PRIOR_SEEN);
        }
        memcpy(worth->chance[kind][class], chance, sizeof chance);
        index_of(chance, worth->rate[kind][class]);
    }
    worth->changes[kind] = 0;
}

status_t worth_open(struct worth *worth, uint32_t ghosts, struct error *error)
{
    *worth = (struct worth){.ghost_count = 1};
    for (int kind = 0; kind < ITEM_KINDS; kind++) refresh(worth, kind);
    while (worth->ghost_count < ghosts) worth->ghost_count *= 2;
    worth->ghosts = calloc(worth->ghost_count, sizeof *worth->ghosts);
    worth->factors = calloc(WORTH_TENANTS, sizeof *worth->factors);
    if (worth->ghosts && worth->factors) return STATUS_OK;
    return error_set(error, STATUS_NO_MEMORY, "no memory for %u ghosts", ghosts);
}

void worth_close(struct worth *worth)
{
    free(worth->ghosts);
    free(worth->factors);
}

int worth_class(uint32_t uses)
{
    if (uses == 0) return 0;
    int power = 32 - __builtin_clz(uses);
    return power < WORTH_USES ? power : WORTH_USES - 1;
}

/* Octave 0: below 1 s; n: from 2^n - 1 s on. The fraction tells how much of it is over. */
static double octave(double age)
{
    double at = log2(1 + (age > 0 ? age : 0));
    return at < WORTH_AGES - 1 ? at : WORTH_AGES - 1;
}

static void halve(struct worth *worth, int kind, int class)
{
    for (int age = 0; age < WORTH_AGES; age++) {
        worth->used[kind][class][age] /= 2;
        worth->reached[kind][class][age] /= 2;
    }
}

void worth_waited(struct worth *worth, struct habit habit, double age, uint8_t *counted)
{
    int class = worth_class(habit.uses), now = (int)octave(age);
    struct factor *factor = &worth->factors[habit.tenant][habit.kind];
    if (*counted > now) return;
    if (worth->changes[habit.kind] >= REFRESH) refresh(worth, habit.kind);
    for (; *counted <= now; (*counted)++) {
        worth->reached[habit.kind][class][*counted]++;
        factor->expected += worth->chance[habit.kind][class][*counted];
    }
    worth->changes[habit.kind]++;
    if (worth->reached[habit.kind][class][0] > MOST_SEEN) halve(worth, habit.kind, class);
    if (factor->expected > MOST_EXPECTED) factor->expected /= 2, factor->used /= 2;
}

void worth_reused(struct worth *worth, struct habit habit, double age, uint8_t *counted)
{
    worth_waited(worth, habit, age, counted);
    worth->used[habit.kind][worth_class(habit.uses)][(int)octave(age)]++;
    worth->factors[habit.tenant][habit.kind].used++;
    worth->changes[habit.kind]++;
    *counted = 0;
}

double worth_factor(const struct worth *worth, struct habit habit)
{
    const struct factor *factor = &worth->factors[habit.tenant][habit.kind];
    return (factor->used + ONE_EXPECTED) / (factor->expected + ONE_EXPECTED);
}

double worth_rate(const struct worth *worth, struct habit habit, double age)
{
    const float *rate = worth->rate[habit.kind][worth_class(habit.uses)];
    double at = octave(age), factor = worth_factor(worth, habit);
    int below = (int)at;
    if (below == WORTH_AGES - 1) return factor * exp2(rate[below]);
    return factor * exp2(rate[below] + (at - below) * (rate[below + 1] - rate[below]));
}

/* -------------------------------------------------------------------------------------------------- ghosts */

static uint32_t name_of(const struct key *key)
{
    return (uint32_t)(key->low ^ key->tenant) | 1;
}

static struct habit habit_of_ghost(const struct ghost *ghost)
{
    return (struct habit){ghost->tenant, ghost->kind, ghost->uses};
}

static struct ghost *place_of(const struct worth *worth, const struct key *key)
{
    return &worth->ghosts[key->high & (worth->ghost_count - 1)];
}

/* The ghost that has to go says how long it waited. */
void worth_remember(struct worth *worth, const struct key *key, uint32_t uses, double last, double now,
                    uint8_t counted)
{
    struct ghost *ghost = place_of(worth, key);
    if (ghost->name && ghost->name != name_of(key))
        worth_waited(worth, habit_of_ghost(ghost), now - ghost->last, &ghost->counted);
    *ghost = (struct ghost){.name = name_of(key),
                            .last = (float)last,
                            .tenant = habit_of(key, uses).tenant,
                            .uses = uses < UINT16_MAX ? (uint16_t)uses : UINT16_MAX,
                            .kind = (uint8_t)key->kind,
                            .counted = counted};
}

void worth_missed(struct worth *worth, const struct key *key, double now)
{
    struct ghost *ghost = place_of(worth, key);
    if (ghost->name != name_of(key)) return;
    worth_reused(worth, habit_of_ghost(ghost), now - ghost->last, &ghost->counted);
    ghost->last = (float)now;
    if (ghost->uses < UINT16_MAX) ghost->uses++;
}

void worth_look(struct worth *worth, double now)
{
    struct ghost *ghost = &worth->ghosts[worth->hand++ & (worth->ghost_count - 1)];
    if (ghost->name) worth_waited(worth, habit_of_ghost(ghost), now - ghost->last, &ghost->counted);
}

uint32_t worth_recall(struct worth *worth, const struct key *key)
{
    struct ghost *ghost = place_of(worth, key);
    if (ghost->name != name_of(key)) return 0;
    ghost->name = 0;
    return ghost->uses;
}
