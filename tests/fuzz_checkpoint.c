/*
 * fuzz_checkpoint.c - libFuzzer over checkpoints: of a job under any caching, after any step, with bytes changed, cut off or
 * put behind it, and a head that says so. It is refused with a sentence, or the job goes on from it.
 *
 * Two bytes choose the caching and the step, then four a change: where (a place of its head, of what caching knows, or of all),
 * how, with what.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/saved_run.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHANGE_BYTES = 4, STEPS_AFTER = 2, MOST_ADDED = 4096 };

static struct saved_run undisturbed[SAVED_SETTINGS]; /* with all its checkpoints, once made */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    saved_start_rings_of("models/reference");
    return 0;
}

static size_t latent_bytes(const struct saved_run *run)
{
    return (size_t)run->count * sizeof(float);
}

/* Where a change is made. */
static size_t place_of(const struct saved_run *run, const struct saved_bytes *c, const uint8_t *change)
{
    size_t far = (size_t)change[1] << 8 | change[2], caching = HEAD + latent_bytes(run);
    switch (change[0] % 4) {
    case 0:
        return far % HEAD;
    case 1:
        return far % c->size;
    case 2:
        return c->size - 1 - far % c->size;
    default:
        return (caching + far) % c->size;
    }
}

static void apply(const struct saved_run *run, struct saved_bytes *c, const uint8_t *change)
{
    size_t place = place_of(run, c, change);
    switch (change[0] / 4 % 4) {
    case 0:
        c->bytes[place] = change[3];
        break;
    case 1:
        memset(c->bytes + place, change[3], c->size - place < 8 ? c->size - place : 8);
        break;
    case 2:
        if (place > 0) c->size = place;
        break;
    default: /* behind it, at most MOST_ADDED: there is room */
        memset(c->bytes + c->size, change[3], change[2]);
        c->size += change[2];
    }
}

static void go_on(struct ring *ring, struct job *job, int steps)
{
    int step, until = job->step + steps;
    while (job->life < LIFE_DECODE && !(job_between_steps(job, &step) && step >= until))
        ring_deliver(ring, job, job_advance(job) == JOB_WAITS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    int setting = data[0] % SAVED_SETTINGS;
    struct saved_run *run = &undisturbed[setting];
    struct job_order order = saved_order(saved_settings[setting]);
    if (!run->latent) *run = saved_run(saved_rings[0], &order, NULL, true);
    const struct saved_bytes *whole = &run->at[data[1] % (STEPS + 1)];
    if (!whole->bytes) return 0;

    struct saved_bytes changed = {malloc(whole->size + MOST_ADDED), whole->size};
    if (!changed.bytes) abort();
    memcpy(changed.bytes, whole->bytes, whole->size);
    for (size_t at = 2; at + CHANGE_BYTES <= size && changed.size + UINT8_MAX <= whole->size + MOST_ADDED;
         at += CHANGE_BYTES)
        apply(run, &changed, data + at);
    saved_forge(&changed);

    struct saved_bytes given = {malloc(changed.size), changed.size}; /* to the byte */
    if (!given.bytes) abort();
    memcpy(given.bytes, changed.bytes, changed.size);
    struct error error = {0};
    struct job *job = saved_create(saved_rings[0], &order);
    status_t status = job_restore(job, given.bytes, given.size, &error);
    free(given.bytes);
    free(changed.bytes);
    if (status != STATUS_OK && error.text[0] == 0) abort();
    if (status == STATUS_OK) go_on(saved_rings[0], job, data[0] & 128 ? STEPS_AFTER : 0);
    saved_discard(saved_rings[0], job);
    return 0;
}
