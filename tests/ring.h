/*
 * ring.h - ranks that stay while a test runs one job after the other on them: home in the test's thread, the
 * stages in threads of their own, a real fabric between them.
 *
 *     struct ring *ring = ring_start("models/reference", &split, 1);
 *     job_create(ring_engine(ring), &order, ".", &job, &error);
 *     while (job_advance(job) ...) ring_deliver(ring, job, wait);
 *     ring_end(ring);
 *
 * Whatever fails, fails the test with a sentence.
 */
#ifndef REFRAIN_TESTS_RING_H
#define REFRAIN_TESTS_RING_H

#include "worker/job.h"

struct ring;

/* threads: of each member. */
struct ring *ring_start(const char *model, const struct split *split, int threads);
struct engine *ring_engine(struct ring *ring); /* home's */
/* Gives the job what has arrived; wait: until something has. */
void ring_deliver(struct ring *ring, struct job *job, bool wait);
/* Only when no job is left. */
void ring_end(struct ring *ring);

#endif
