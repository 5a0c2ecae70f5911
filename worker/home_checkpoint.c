/*
 * home_checkpoint.c - what a home's jobs leave behind and go on from. Compute thread.
 *
 * Between two steps a job's checkpoint is handed to the courier; a job that goes on from one waits in its slot, without a
 * turn, until the courier has brought it.
 */
#include "worker/home_core.h"

#include "base/log.h"

static struct checkpoint_name name_of(uint64_t job, const Refrain__Checkpoint *checkpoint)
{
    return (struct checkpoint_name){.job = job,
                                    .attempt = checkpoint->attempt,
                                    .step = checkpoint->step,
                                    .bytes = checkpoint->bytes,
                                    .xxh64 = checkpoint->xxh64};
}

/* The job goes on from there: until that is here it has no turn. */
static void fetch_checkpoint(struct home *home, struct slot *slot, const struct checkpoint_name *from)
{
    slot->resume = *from;
    slot->fetching = true;
    courier_fetch(home->courier, from);
}

void home_checkpoint_begin(struct home *home, struct slot *slot, const Refrain__Assign *assign)
{
    struct error error;
    if (assign->origin) slot->origin = name_of(assign->job, assign->origin);
    if (home->courier && assign->resume) {
        struct checkpoint_name own = name_of(assign->job, assign->resume);
        fetch_checkpoint(home, slot, &own);
    } else if (home->courier && slot->origin.bytes) {
        fetch_checkpoint(home, slot, &slot->origin);
    } else if (assign->spec->resume_from) {
        error_set(&error, STATUS_NOT_FOUND, "the checkpoint of job %lu after step %u cannot be had",
                  (unsigned long)assign->spec->resume_from, assign->spec->at_step);
        job_refuse(slot->job, &error);
    }
}

void home_checkpoint_save(struct home *home, struct slot *slot, bool now)
{
    int step;
    if (!slot->every || !job_between_steps(slot->job, &step) || step == slot->sent) return;
    if (step == slot->saved && !now) return;
    bool last = step == job_steps(slot->job), mark = now || (slot->mark && (last || step % slot->mark == 0));
    if (step % slot->every != 0 && !last && !mark) return;
    slot->saved = step;
    size_t bytes = job_save_bytes(slot->job);
    void *buffer = bytes ? courier_buffer(home->courier, job_number(slot->job), bytes, mark) : NULL;
    if (!buffer) return; /* the next one will do */
    struct checkpoint_name name = {.job = job_number(slot->job),
                                   .attempt = job_attempt(slot->job),
                                   .step = (uint32_t)step,
                                   .bytes = bytes,
                                   .point = job_run_point(slot->job)};
    if (job_save(slot->job, buffer, bytes, NULL) != STATUS_OK) return; /* the epoch ends, worker/engine.h */
    courier_send(home->courier, buffer, &name);
    slot->sent = step;
    if (mark) job_give_checkpoint(slot->job);
}

static struct slot *slot_fetching(struct home *home, const struct checkpoint_name *name)
{
    for (int i = 0; i < HOME_SLOTS; i++) {
        struct slot *s = &home->slots[i];
        if (s->job && s->fetching && s->resume.job == name->job && s->resume.attempt == name->attempt &&
            s->resume.step == name->step)
            return s;
    }
    return NULL;
}

/* A job whose checkpoint is not to be had begins from the start, or where its origin was: its video is the same, only
 * later. One whose origin is not to be had would make another video, and fails. */
static void begin_elsewhere(struct home *home, struct slot *slot, const struct error *why)
{
    struct error error = *why;
    unsigned long job = (unsigned long)slot->resume.job;
    if (!slot->origin.bytes) {
        log_line(LOG_WARN, "job %lu: begins from the start, not after step %u: %s", job, slot->resume.step,
                 why->text);
    } else if (slot->resume.attempt) {
        log_line(LOG_WARN, "job %lu: begins where its origin was, not after step %u: %s", job,
                 slot->resume.step, why->text);
        fetch_checkpoint(home, slot, &slot->origin);
    } else {
        error_prefix(&error, "the checkpoint it was to go on from cannot be used");
        job_refuse(slot->job, &error);
    }
}

static void resume(struct home *home, struct slot *slot, const struct courier_arrival *arrival)
{
    struct error error = arrival->error;
    status_t status = arrival->bytes ? job_restore(slot->job, arrival->bytes, arrival->name.bytes, &error)
                                     : STATUS_NOT_FOUND;
    slot->fetching = false;
    if (status == STATUS_OK) {
        slot->saved = slot->sent = (int)slot->resume.step;
        log_line(LOG_INFO, "job %lu: goes on after step %d", (unsigned long)slot->resume.job, slot->saved);
    } else {
        begin_elsewhere(home, slot, &error);
    }
}

void home_checkpoint_want(struct home *home, struct slot *slot)
{
    const struct checkpoint_name *wanted = job_wants(slot->job);
    if (!wanted) return;
    if (!home->courier) {
        job_bring(slot->job, NULL, 0);
        return;
    }
    slot->taking = true;
    fetch_checkpoint(home, slot, wanted);
}

void home_checkpoint_bring(struct slot *slot, const void *bytes, size_t size)
{
    slot->fetching = slot->taking = false;
    job_bring(slot->job, bytes, size);
}

bool home_checkpoint_arrivals(struct home *home)
{
    struct courier_arrival arrival;
    bool took = false;
    while (home->courier && courier_take(home->courier, &arrival)) {
        struct slot *slot = slot_fetching(home, &arrival.name);
        if (slot && slot->taking)
            home_checkpoint_bring(slot, arrival.bytes, arrival.name.bytes);
        else if (slot)
            resume(home, slot, &arrival);
        courier_free(&arrival);
        took = true;
    }
    return took;
}
