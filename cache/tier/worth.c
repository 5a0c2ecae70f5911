/* worth.c - see worth.h. The caller's lock. */
#include "cache/tier/worth.h"

#include <math.h>
#include <stdlib.h>

/* PRIOR_CHANCE: of a use within the next octave of age, believed as if PRIOR_SEEN items had shown it. Tables are
 * halved at MOST_SEEN, so that they follow what changes; rates are made anew every REFRESH changes. */
static const float PRIOR_CHANCE = 0.1F, PRIOR_SEEN = 6, MOST_SEEN = 4000;
enum { REFRESH = 64 };

status_t worth_open(struct worth *worth, uint32_t ghosts, struct error *error)
{
    *worth = (struct worth){.changes = REFRESH, .ghost_count = 1};
    while (worth->ghost_count < ghosts) worth->ghost_count *= 2;
    worth->ghosts = calloc(worth->ghost_count, sizeof *worth->ghosts);
    return worth->ghosts ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for %u ghosts", ghosts);
}

void worth_close(struct worth *worth)
{
    free(worth->ghosts);
    worth->ghosts = NULL;
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

void worth_waited(struct worth *worth, enum item_kind kind, uint32_t uses, double age, uint8_t *counted)
{
    int class = worth_class(uses), now = (int)octave(age);
    if (*counted > now) return;
    for (; *counted <= now; (*counted)++) worth->reached[kind][class][*counted]++;
    worth->changes++;
    if (worth->reached[kind][class][0] > MOST_SEEN) halve(worth, kind, class);
}

void worth_reused(struct worth *worth, enum item_kind kind, uint32_t uses, double age, uint8_t *counted)
{
    worth_waited(worth, kind, uses, age, counted);
    worth->used[kind][worth_class(uses)][(int)octave(age)]++;
    worth->changes++;
    *counted = 0;
}

/* The best ratio of uses to time from each age on, given the chance of a use within each octave. */
static void index_of(const float chance[WORTH_AGES], float rate[WORTH_AGES])
{
    for (int from = 0; from < WORTH_AGES; from++) {
        double waiting = 1, uses = 0, seconds = 0, best = 0;
        for (int age = from; age < WORTH_AGES; age++) {
            uses += waiting * chance[age];
            seconds += waiting * ldexp(1, age) * (1 - chance[age] / 2);
            if (uses / seconds > best) best = uses / seconds;
            waiting *= 1 - chance[age];
        }
        rate[from] = (float)log2(best);
    }
}

static void refresh(struct worth *worth)
{
    for (int kind = 0; kind < ITEM_KINDS; kind++) {
        float chance[WORTH_AGES];
        for (int age = 0; age < WORTH_AGES; age++) chance[age] = PRIOR_CHANCE;
        for (int class = 0; class < WORTH_USES; class ++) {
            for (int age = 0; age < WORTH_AGES; age++)
                chance[age] = (worth->used[kind][class][age] + PRIOR_SEEN * chance[age]) /
                              (worth->reached[kind][class][age] + PRIOR_SEEN);
            index_of(chance, worth->rate[kind][class]);
        }
    }
    worth->changes = 0;
}

double worth_rate(struct worth *worth, enum item_kind kind, uint32_t uses, double age)
{
    if (worth->changes >= REFRESH) refresh(worth);
    const float *rate = worth->rate[kind][worth_class(uses)];
    double at = octave(age);
    int below = (int)at;
    if (below == WORTH_AGES - 1) return exp2(rate[below]);
    return exp2(rate[below] + (at - below) * (rate[below + 1] - rate[below]));
}

/* -------------------------------------------------------------------------------------------------- ghosts */

static uint64_t name_of(const struct key *key)
{
    return (key->low ^ key->tenant) | 1;
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
        worth_waited(worth, ghost->kind, ghost->uses, now - ghost->last, &ghost->counted);
    *ghost = (struct ghost){.name = name_of(key),
                            .last = (float)last,
                            .uses = uses < UINT16_MAX ? (uint16_t)uses : UINT16_MAX,
                            .kind = (uint8_t)key->kind,
                            .counted = counted};
}

void worth_missed(struct worth *worth, const struct key *key, double now)
{
    struct ghost *ghost = place_of(worth, key);
    if (ghost->name != name_of(key)) return;
    worth_reused(worth, ghost->kind, ghost->uses, now - ghost->last, &ghost->counted);
    ghost->last = (float)now;
    if (ghost->uses < UINT16_MAX) ghost->uses++;
}

void worth_look(struct worth *worth, double now)
{
    struct ghost *ghost = &worth->ghosts[worth->hand++ & (worth->ghost_count - 1)];
    if (ghost->name) worth_waited(worth, ghost->kind, ghost->uses, now - ghost->last, &ghost->counted);
}

uint32_t worth_recall(struct worth *worth, const struct key *key)
{
    struct ghost *ghost = place_of(worth, key);
    if (ghost->name != name_of(key)) return 0;
    ghost->name = 0;
    return ghost->uses;
}
