/*
 * moving.h - a stand (service_fixture.h) whose ranks come and go while its jobs run: what tests of that wait for and compare.
 *
 *     moving_submit("--steps 120 ...", number);
 *     moving_wait_step(number, 3);
 *     shell_run(text, "refrain drain 1");
 *     moving_wait_ranks("drained", 1);
 *     moving_fetch(number, "fewer");                  stand_directory/fewer.mp4, when it is done
 *     moving_expect_equal("fewer", "calm");
 *
 * Every function fails the cmocka test it runs in when something is not as it should be, or does not come true in time.
 */
#ifndef REFRAIN_TESTS_MOVING_H
#define REFRAIN_TESTS_MOVING_H

#include "tests/service_fixture.h"

enum { MOVING_NUMBER_BYTES = 16 };

/* options: of `refrain submit`, of the model `reference`. */
void moving_submit(const char *options, char number[MOVING_NUMBER_BYTES]);
void moving_fetch(const char *number, const char *name);
void moving_expect_equal(const char *name, const char *other);

/* Until the job has made so many steps; one that is done by then was too quick for the test. */
void moving_wait_step(const char *number, int step);
int moving_attempts(const char *number);
/* Until the job is in that attempt or a later one, which it returns. */
int moving_wait_attempt(const char *number, int attempt);

/* Ranks of all groups whose state `refrain ranks` gives as that; "here": of any in which they serve. */
int moving_ranks(const char *state);
void moving_wait_ranks(const char *state, int count);

#endif
