/* tier_tell.c - what the tier tells the coordinator: which items came and went, and figures. The tier's thread. */
#include <string.h>
#include <xxhash.h>
#include "proto/tally.h"
#include "worker/control.h"
#include "worker/tier_core.h"

enum { AT_ONCE = 512, TALLIES = 64 };

/* One report in the making. */
struct telling {
    struct control *control;
    Refrain__TierChanges changes;
    Refrain__TierItem items[AT_ONCE], *pointers[AT_ONCE];
    uint8_t keys[AT_ONCE][KEY_BYTES];
};

static void flush(struct telling *t)
{
    t->changes.items = t->pointers;
    control_report(t->control, REFRAIN__WORKER_REPORT__BODY_TIER_CHANGES, &t->changes);
    t->changes.n_items = 0;
    t->changes.has_whole = t->changes.whole = 0;
}

static void tell_entry(void *context, const struct store_entry *entry)
{
    struct telling *t = context;
    size_t at = t->changes.n_items++;
    Refrain__TierItem *item = t->pointers[at] = &t->items[at];
    refrain__tier_item__init(item);
    key_encode(&entry->key, t->keys[at]);
    item->has_key = 1;
    item->key = (ProtobufCBinaryData){KEY_BYTES, t->keys[at]};
    item->has_gone = item->gone = entry->copies == 0;
    if (!item->gone) {
        item->has_bytes = item->has_xxh3 = item->has_seconds = 1;
        item->bytes = entry->bytes;
        item->xxh3 = entry->xxh3;
        item->seconds = entry->seconds;
        item->has_dear = item->dear = entry->dear;
    }
    if (t->changes.n_items == AT_ONCE) flush(t);
}

void tier_tell_changes(struct tier *tier, struct control *control, bool anew)
{
    struct telling t = {.control = control, .changes = REFRAIN__TIER_CHANGES__INIT};
    struct store_entry changes[64];
    bool lost;
    size_t count;
    do {
        count = store_changes(tier->store, changes, sizeof changes / sizeof *changes, &lost);
        anew |= lost;
        for (size_t i = 0; i < count && !anew; i++) tell_entry(&t, &changes[i]);
    } while (count);
    if (anew) {
        /* Nothing gets lost between the two: what changes from here on is told the next time as well. */
        t.changes.n_items = 0;
        t.changes.has_whole = t.changes.whole = 1;
        store_list(tier->store, &(struct store_match){0}, tell_entry, &t);
    }
    if (t.changes.n_items || t.changes.whole) flush(&t);
}

/* ------------------------------------------------------------------------------------------------- figures */

struct figures {
    struct tier *tier;
    struct control *control;
    Refrain__TierFigures message;
    Refrain__TierTally tallies[TALLIES], *pointers[TALLIES];
    struct tally values[TALLIES];
};

static void flush_figures(struct figures *f)
{
    f->message.tallies = f->pointers;
    control_report(f->control, REFRAIN__WORKER_REPORT__BODY_TIER_FIGURES, &f->message);
    f->message.n_tallies = 0;
}

static void tell_tally(void *context, uint32_t place, uint64_t tenant, enum item_kind kind,
                       const struct tally *tally)
{
    struct figures *f = context;
    uint64_t hash = XXH3_64bits(tally, sizeof *tally);
    if (f->tier->told[place] == hash) return;
    f->tier->told[place] = hash;
    size_t at = f->message.n_tallies++;
    Refrain__TierTally *to = f->pointers[at] = &f->tallies[at];
    struct tally *from = &f->values[at];
    *from = *tally;
    tally_tell(from, to);
    to->has_tenant = to->has_kind = 1;
    to->tenant = tenant;
    to->kind = (uint32_t)kind;
    if (f->message.n_tallies == TALLIES) flush_figures(f);
}

void tier_tell_figures(struct tier *tier, struct control *control, bool anew)
{
    struct store_stats stats;
    struct figures f = {.tier = tier, .control = control, .message = REFRAIN__TIER_FIGURES__INIT};
    if (anew) memset(tier->told, 0, STORE_TALLIES * sizeof *tier->told);
    store_stats(tier->store, NULL, &stats);
    f.message.n_limit_bytes = f.message.n_used_bytes = LEVELS;
    f.message.limit_bytes = stats.limit_bytes;
    f.message.used_bytes = stats.used_bytes;
    f.message.has_pinned_bytes = 1;
    f.message.pinned_bytes = stats.pinned_bytes;
    store_tallies(tier->store, tell_tally, &f);
    if (f.message.n_tallies || anew) flush_figures(&f);
}
