/*
 * worth.h - how soon items of a kind are asked for again: learned from what happens, told as a rate.
 *
 *     worth_reused(&worth, habit_of(&key, uses), age, &counted);      asked for again, `age` seconds after the last time
 *     worth_waited(&worth, habit_of(&key, uses), age, &counted);      not asked for, so far
 *     seconds * worth_rate(&worth, habit, age) / bytes                the value density that eviction goes by
 *
 * For each kind and number of earlier uses there is a table over age (octaves of seconds): how many items got as old
 * as that, and how many of them were used again at that age. From it follows, for an item of some age, the largest
 * number of uses a second that keeping it for any while is expected to bring:
 *
 *     rate(age) = max over T of  E[uses in (age, age + T)] / E[time it lies there until used or T]
 *
 * (the index of Gittins 1979 for an item that pays when it is used; "hit density" of Beckmann et al., NSDI 2018, with
 * T chosen instead of taken from the past). Where chances fall with age this is recency, where earlier uses foretell
 * later ones it is frequency, and a kind that nobody comes back for stops taking room. What an octave has not shown
 * itself yet it leans on the one before it for, the first one on all that the kind has shown, and with nothing seen at all the
 * chance is the same at every age and for all kinds; with few earlier uses, a table leans on the one before it.
 *
 * How a tenant's items of a kind do beside everybody's of that kind is a factor on the rate: their uses, over those that
 * the tables would have let expect (drawn towards 1 while few were expected). People who come back for finished clips
 * and people who never do are told apart by it.
 *
 * Items that were evicted, or not let in, are remembered for a while as ghosts (a number and a time), so that what was
 * asked for in vain counts as well. Without that, a kind kept out would never show that it should be let in. Not
 * locked.
 */
#ifndef REFRAIN_CACHE_TIER_WORTH_H
#define REFRAIN_CACHE_TIER_WORTH_H

#include <stdbool.h>
#include <stdint.h>
#include "cache/tier/key.h"

enum { WORTH_AGES = 26, WORTH_USES = 5 }; /* octaves of seconds; 0, 1, 2-3, 4-7, 8 and more uses */

enum { WORTH_TENANTS = 1024 }; /* told apart, by hash */

/* What decides which table and factor an item goes by. */
struct habit {
    uint16_t tenant;
    uint8_t kind;
    uint32_t uses;
};
static inline struct habit habit_of(const struct key *key, uint32_t uses)
{
    return (struct habit){(uint16_t)(key->tenant % WORTH_TENANTS), (uint8_t)key->kind, uses};
}

struct ghost {
    uint32_t name; /* 0: none */
    float last;    /* seconds, on the store's clock */
    uint16_t tenant, uses;
    uint8_t kind, counted;
};

struct factor {
    float used, expected;
};

struct worth {
    float used[ITEM_KINDS][WORTH_USES][WORTH_AGES];    /* again, at that age */
    float reached[ITEM_KINDS][WORTH_USES][WORTH_AGES]; /* that age without a use */
    float chance[ITEM_KINDS][WORTH_USES][WORTH_AGES];  /* of a use at that age, having reached it */
    float rate[ITEM_KINDS][WORTH_USES][WORTH_AGES];    /* log2 of uses a second, entering that age */
    struct factor (*factors)[ITEM_KINDS];              /* [WORTH_TENANTS] */
    uint32_t changes[ITEM_KINDS]; /* of the tables, that `chance` and `rate` do not know of */
    struct ghost *ghosts;         /* [ghost_count], a power of two */
    uint32_t ghost_count;
    uint32_t hand; /* the ghost that worth_look looks at next */
};

status_t worth_open(struct worth *worth, uint32_t ghosts, struct error *error);
void worth_close(struct worth *worth);

/* counted: up to which age the item is in the tables already; 0 in a new item and after each use. */
void worth_reused(struct worth *worth, struct habit habit, double age, uint8_t *counted);
void worth_waited(struct worth *worth, struct habit habit, double age, uint8_t *counted);

/* Uses a second. */
double worth_rate(const struct worth *worth, struct habit habit, double age);

int worth_class(uint32_t uses); /* 0..WORTH_USES-1 */
double worth_factor(const struct worth *worth, struct habit habit);

/* An item has gone, or was not let in. */
void worth_remember(struct worth *worth, const struct key *key, uint32_t uses, double last, double now,
                    uint8_t counted);
/* It was asked for in vain. */
void worth_missed(struct worth *worth, const struct key *key, double now);
/* Counts how long one ghost has been waiting: call it once per operation, so that all are looked at in turn. */
void worth_look(struct worth *worth, double now);
/* It is here (again): how often it was used before; the ghost goes. */
uint32_t worth_recall(struct worth *worth, const struct key *key);

#endif
