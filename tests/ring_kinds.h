/*
 * ring_kinds.h - jobs of seven kinds (three sizes, with and without guidance, policies of every site that home and
 * stages share), each made once on a single member: whatever ring they run on must give the same latents.
 *
 *     cmocka_run_group_tests(tests, kinds_run_alone, kinds_free)
 *     kinds_run((struct split){.members = 2, ...}, 3, 0);     three jobs at every home, all at once
 */
#ifndef REFRAIN_TESTS_RING_KINDS_H
#define REFRAIN_TESTS_RING_KINDS_H

#include "tests/ring_rig.h"

enum { KINDS = 7, KIND_STEPS = 6 };

/* Its `job` is kind + 1, by which kinds_expect knows it. */
struct job_order kinds_order(int kind);

int kinds_run_alone(void **state);
int kinds_free(void **state);

/* Fails unless every job of the ring was completed, with the latents of its kind. */
void kinds_expect(const struct ring_run *ring);
/* `each` jobs at every home, kinds mixed, all at once; credits as in ring_run. */
void kinds_run(struct split split, int each, int credits);

#endif
