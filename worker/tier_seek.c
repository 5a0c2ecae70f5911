/*
 * tier_seek.c - how far somebody has come with a run; see tier.h. Compute thread.
 *
 * The coordinator knows what is in the stores of the ranks and in its vault, and answers with the furthest. Where there is
 * none to be asked, this rank's own store is all there is. A question is a job's own memory, in a list until it is
 * answered or withdrawn, so that there is no limit to be set.
 */
#include <math.h>
#include <string.h>
#include "base/clock.h"
#include "proto/validate.h"
#include "worker/control.h"
#include "worker/tier_core.h"

status_t tier_run_key(const struct key *run, uint32_t step, uint32_t steps, struct key *key)
{
    *key = *run;
    return step == steps ? STATUS_OK : key_of_checkpoint(run, step, key, NULL);
}

static void ask_coordinator(struct tier *tier, struct tier_seek *seek)
{
    uint8_t run[KEY_BYTES];
    Refrain__TierSeek message = REFRAIN__TIER_SEEK__INIT;
    key_encode(&seek->run, run);
    seek->number = ++tier->numbers;
    seek->state = SEEK_ASKED;
    seek->next = tier->seeks;
    tier->seeks = seek;
    message.has_ask = message.has_run = message.has_after = message.has_steps = message.has_durable = 1;
    message.ask = seek->number;
    message.run = (ProtobufCBinaryData){KEY_BYTES, run};
    message.after = seek->after;
    message.steps = seek->steps;
    message.durable = seek->durable;
    control_report(tier->control, REFRAIN__WORKER_REPORT__BODY_TIER_SEEK, &message);
}

static void note_seconds(void *seconds, const struct store_entry *entry)
{
    *(double *)seconds = entry->seconds;
}

static void look_here(struct tier *tier, struct tier_seek *seek)
{
    struct key key;
    struct store_match match = {.key = &key};
    seek->state = SEEK_ANSWERED;
    for (uint32_t step = seek->steps; step > seek->after && !seek->step && !seek->durable; step--)
        if (tier_run_key(&seek->run, step, seek->steps, &key) == STATUS_OK &&
            store_list(tier->store, &match, note_seconds, &seek->seconds))
            seek->step = step;
}

void tier_seek_end(struct tier *tier, struct tier_seek *seek)
{
    if (seek->state == SEEK_ASKED)
        for (struct tier_seek **link = &tier->seeks; *link; link = &(*link)->next)
            if (*link == seek) {
                *link = seek->next;
                break;
            }
    seek->state = SEEK_NEW;
}

status_t tier_seek(struct tier *tier, struct tier_seek *seek)
{
    bool foreign = seek->run.tenant != seek->tenant && seek->run.tenant != KEY_PUBLIC;
    if (!tier || foreign) return STATUS_NOT_FOUND;
    if (seek->state == SEEK_NEW) {
        seek->step = 0;
        seek->seconds = 0;
        seek->vault = (struct checkpoint_name){0};
        if (tier->control)
            ask_coordinator(tier, seek);
        else
            look_here(tier, seek);
    }
    if (seek->state == SEEK_ASKED && clock_now_ns() < seek->deadline_ns) return STATUS_AGAIN;
    bool late = seek->state == SEEK_ASKED;
    tier_seek_end(tier, seek);
    if (seek->step) return STATUS_OK;
    if (!seek->durable) store_missed(tier->store, &seek->run, late ? MISS_LATE : MISS_ABSENT);
    return STATUS_NOT_FOUND;
}

/* What cannot be is no answer: then nobody has it. */
void tier_found(struct tier *tier, const Refrain__TierFound *found)
{
    const Refrain__Checkpoint *checkpoint = found->checkpoint;
    struct tier_seek *seek = tier ? tier->seeks : NULL;
    while (seek && seek->number != found->ask) seek = seek->next;
    if (!seek) return; /* too late */
    tier_seek_end(tier, seek);
    seek->state = SEEK_ANSWERED;
    if (found->step <= seek->after || found->step > seek->steps || (seek->durable && !checkpoint)) return;
    if (checkpoint && (!checkpoint->job || !checkpoint->bytes)) return;
    seek->step = found->step;
    seek->seconds = isfinite(found->seconds) && found->seconds > 0 ? found->seconds : 0;
    if (checkpoint)
        seek->vault = (struct checkpoint_name){.job = checkpoint->job,
                                               .attempt = checkpoint->attempt,
                                               .step = checkpoint->step,
                                               .bytes = checkpoint->bytes,
                                               .xxh64 = checkpoint->xxh64};
}

status_t tier_bring(struct tier *tier, uint64_t tenant, const struct key *key, const void *bytes, size_t size,
                    double seconds, struct view *view)
{
    struct draft draft;
    enum miss reason;
    status_t status = tier_reserve(tier, tenant, key, size, seconds, &draft, NULL);
    if (status != STATUS_OK) return status;
    memcpy(draft.bytes, bytes, size);
    status = store_commit(tier->store, &draft, NULL, NULL);
    tier_tell(tier);
    return status == STATUS_OK ? store_fetched(tier->store, key, LEVEL_HOST, view, &reason) : status;
}

static void note_pinned(void *pinned, const struct store_entry *entry)
{
    *(bool *)pinned = entry->pinned;
}

void tier_forget_steps(struct tier *tier, const struct key *run, uint32_t steps)
{
    struct key key;
    struct store_match match = {.key = &key};
    size_t count = 0;
    for (uint32_t step = 1; step < steps; step++) {
        bool pinned = false;
        if (tier_run_key(run, step, steps, &key) != STATUS_OK) continue;
        store_list(tier->store, &match, note_pinned, &pinned);
        if (!pinned) count += store_forget(tier->store, &match);
    }
    if (count) tier_tell(tier);
}
