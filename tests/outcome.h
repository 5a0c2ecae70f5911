/*
 * outcome.h - a program run to its end, and what it said.
 *
 *     struct outcome o = outcome_of((const char *[]){"build/faults", "early_return", NULL},
 *                                   (const char *[]){"SEED=3", NULL});
 *     assert_true(o.signal == SIGABRT && outcome_says(&o, "ended while"));
 *     outcome_free(&o);
 *
 * stdout and stderr come together. A program that is not done after a minute is killed. Fails the cmocka test
 * when the program cannot be started.
 */
#ifndef REFRAIN_TESTS_OUTCOME_H
#define REFRAIN_TESTS_OUTCOME_H

#include <stdbool.h>

struct outcome {
    int status, signal; /* exit status, or the signal that ended it */
    char *text;
};

/* program: path and arguments; environment: additions to ours, NAME=VALUE; both end with NULL. */
struct outcome outcome_of(const char *const program[], const char *const environment[]);
bool outcome_says(const struct outcome *outcome, const char *text);
void outcome_free(struct outcome *outcome);

#endif
