/*
 * saved_run.h - jobs that are saved after their steps and continued elsewhere, for tests: three rings that
 * stay, orders that have a table of every kind, and all that came of a job.
 *
 *     struct job_order order = saved_order("balanced");
 *     struct saved_run whole = saved_run(saved_rings[0], &order, NULL, true);            every step saved
 *     struct saved_run rest = saved_run(saved_rings[2], &order, &whole.at[6], false);    from the sixth on
 *     saved_expect_same("balanced", 6, &whole, &rest);
 *
 * Whatever fails, fails the test with a sentence.
 */
#ifndef REFRAIN_TESTS_SAVED_RUN_H
#define REFRAIN_TESTS_SAVED_RUN_H

#include "tests/ring.h"
#include "worker/job_state.h"

enum { STEPS = 14, MOST_STEPS = 2 * STEPS, SAVED_RINGS = 3, SAVED_SETTINGS = 36 };

/* Places in a checkpoint: the head's length; what is in it. */
enum { HEAD = 176, FORMAT_AT = 4, HASH_AT = 16, HASHED_FROM = 24, DENOISE_AT = 64, PASS_AT = 80 };

/* Of 1, 2 and 3 members; for cmocka's group. */
extern struct ring *saved_rings[SAVED_RINGS];
int saved_start_rings(void **state);          /* of the reference model */
void saved_start_rings_of(const char *model); /* one of eight blocks */
int saved_end_rings(void **state);

/* Each keeps something else or forecasts in another way, and all but `calibrate` skip something. */
extern const char *const saved_settings[SAVED_SETTINGS];
struct job_order saved_order(const char *cache);

struct saved_bytes {
    unsigned char *bytes; /* NULL: none */
    size_t size;
};

/* What came of a job. */
struct saved_run {
    float *latent, *uncached;
    int64_t count;
    int cells, computed;
    unsigned char *actions, *reasons;
    float *changes, largest;
    struct reuse_record *records;
    int record_count;
    struct saved_bytes at[MOST_STEPS + 1]; /* by steps finished */
    bool over;                             /* all steps were done when it was restored */
};

/* from: NULL, or a checkpoint to begin from; saving: after every step. Runs until all steps are done. */
struct saved_run saved_run(struct ring *ring, const struct job_order *order, const struct saved_bytes *from,
                           bool saving);
void saved_free(struct saved_run *run);
/* Bit by bit. step: where the second of them began, for the sentence. */
void saved_expect_same(const char *name, int step, const struct saved_run *a, const struct saved_run *b);

/* Saved on one ring, continued on the others, from each of the steps, with the same bits and checkpoints. Returns how
 * many checkpoints there were. skips: caching, if there is any, must have skipped something. */
int saved_check_every_step(const struct job_order *order, struct ring *saving, bool skips);

/* The same piece by piece. */
struct job *saved_create(struct ring *ring, const struct job_order *order);
/* Until `until` steps are done or there are no more. */
void saved_drive(struct ring *ring, struct job *job, int until, bool saving, struct saved_run *run);
void saved_take(const struct job *job, struct saved_run *run);
void saved_discard(struct ring *ring, struct job *job); /* wherever it is */

void *saved_copy(const void *from, size_t bytes);
/* Length and hash become what they should be. */
void saved_forge(const struct saved_bytes *bytes);

#endif
