/*
 * strip.h - what caching made of a job's steps, for a person: a strip with a cell for each step, and words.
 *
 *     struct strip strip = strip_of(job);
 *     char cells[STRIP_BYTES], words[SHOW_TEXT_BYTES];
 *     printf("%s   %s\n", strip_cells(&style, &strip, 60, cells), strip_words(&style, &strip, words));
 *
 *     ████▒▒█▒▒▒█▒▒▒█   6 computed, 9 reused: 2.1× faster than without (estimate)
 *
 * Full: computed; light: reused; in between: forecast, or only partly computed. Any thread.
 */
#ifndef REFRAIN_CLIENT_STRIP_H
#define REFRAIN_CLIENT_STRIP_H

#include "client/show.h"

enum { STRIP_STEPS = 1000, STRIP_CELLS = 160, STRIP_BYTES = 3 * STRIP_CELLS + 1, STRIP_ACTIONS = 4 };

struct strip {
    unsigned char actions[STRIP_STEPS]; /* [count] enum refrain_action, branches taken together */
    size_t count;                       /* 0: there is no caching, or nothing to tell yet */
    unsigned counts[STRIP_ACTIONS];     /* steps of each action */
    bool ended;                         /* all steps are in it */
    double faster;                      /* than without caching: factor; 0: unknown */
    bool measured;  /* the uncached run was made, too; otherwise `faster` is an estimate */
    double largest; /* largest change that was let through; negative: none */
};

/* Of the report of a job that has ended, otherwise of the live notes. */
struct strip strip_of(const struct refrain_job *job);

/* At most `cells` columns (and STRIP_CELLS): with more steps than that a cell stands for several. */
const char *strip_cells(const struct show_style *style, const struct strip *strip, int cells,
                        char out[STRIP_BYTES]);

/* "13 computed, 17 reused: 1.9× faster than without (estimate)"; "never reused a step". */
const char *strip_words(const struct show_style *style, const struct strip *strip, char out[SHOW_TEXT_BYTES]);

/* The name of the policy in a job's cache text: "dbcache"; "off". */
const char *strip_policy(const char *text, char out[SHOW_BYTES]);

#endif
