/* saved_tier.c - see saved_tier.h. */
#include "tests/saved_tier.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct tier *saved_tier;

void saved_tier_use(int ring, bool use)
{
    ring_engine(saved_rings[ring])->tier = use ? saved_tier : NULL;
}

void saved_tier_open(uint64_t bytes)
{
    struct error error;
    struct tier_config config = {.memory_bytes = bytes, .ops = ring_engine(saved_rings[0])->ops};
    if (tier_open(&config, &saved_tier, &error) != STATUS_OK) fail_msg("%s", error.text);
    for (int i = 0; i < SAVED_RINGS; i++) saved_tier_use(i, true);
}

void saved_tier_close(void)
{
    struct store_stats stats;
    store_stats(tier_store(saved_tier), NULL, &stats);
    assert_int_equal(stats.views, 0);
    assert_int_equal(stats.drafts, 0);
    for (int i = 0; i < SAVED_RINGS; i++) saved_tier_use(i, false);
    tier_close(saved_tier);
    saved_tier = NULL;
}

size_t saved_tier_count(enum item_kind kind)
{
    struct store_match match = {.by_kind = true, .kind = kind};
    return store_list(tier_store(saved_tier), &match, NULL, NULL);
}

void saved_tier_forget(enum item_kind kind)
{
    struct store_match match = {.by_kind = true, .kind = kind};
    store_forget(tier_store(saved_tier), &match);
}

/* Large items become whole on the tier's own thread. */
void saved_tier_settle(void)
{
    struct store_stats stats;
    int64_t ignored = CLOCK_NEVER;
    for (int i = 0; i < 20000; i++, usleep(1000)) {
        tier_tend(saved_tier, &ignored);
        store_stats(tier_store(saved_tier), NULL, &stats);
        if (stats.drafts == 0) return;
    }
    fail_msg("%lu items are not whole", (unsigned long)stats.drafts);
}

void saved_tier_put(const struct key *key, const void *bytes, size_t size)
{
    struct draft draft;
    struct error error;
    if (tier_reserve(saved_tier, key->tenant, key, size, 1000, &draft, &error)) fail_msg("%s", error.text);
    memcpy(draft.bytes, bytes, size);
    tier_commit(saved_tier, &draft);
    saved_tier_settle();
}
