/* tier_device.c - see tier_device.h. */
#include "tests/tier_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/counting.h"
#include "tests/device.h"
#include "tests/pipeline.h"
#include "tests/tier_rig.h"
#include "worker/tier.h"

enum { DEVICE_BYTES = 1 << 20, HOST_BYTES = 8 << 20, ITEMS = 4 /* two texts, two first steps */ };

struct place {
    const struct ops *ops;
    struct team *team;
    struct tier *tier;
    float guidance; /* of the latest job */
};

static struct pipeline_run run(const struct place *place, struct tier *tier)
{
    struct pipeline_run run = {.model = "tests/models/tiny-a",
                               .ops = place->ops,
                               .order = {.job = 1,
                                         .attempt = 1,
                                         .prompt = "a red square drifting right",
                                         .negative = "blurred",
                                         .tenant = "ann",
                                         .seed = 3,
                                         .steps = 2,
                                         .width = 32,
                                         .height = 32,
                                         .frames = 5,
                                         .fps = 8,
                                         .guidance = place->guidance,
                                         .shift = 3},
                               .tier = tier};
    struct ledger ledger = {0};
    run.ledgers = &ledger;
    pipeline_execute(&run);
    run.ledgers = NULL;
    if (run.outcome != STATUS_OK) fail_msg("%s", run.error.text);
    return run;
}

/* A job through the tier: its bits are those of one without. Each time with another guidance, as otherwise it would take the
 * last latent, and nothing else. */
static void expect_same(struct place *place)
{
    place->guidance++;
    struct pipeline_run made = run(place, place->tier), plain = run(place, NULL);
    assert_int_equal(made.latent_count, plain.latent_count);
    assert_memory_equal(made.latents, plain.latents, (size_t)made.latent_count * sizeof(float));
    assert_memory_equal(made.frames, plain.frames, (size_t)made.frame_count * sizeof(float));
    pipeline_free(&made);
    pipeline_free(&plain);
}

static bool is_for_ops(enum item_kind kind)
{
    return kind == ITEM_TEXT || kind == ITEM_FIRST_STEP;
}

/* Until what was made is whole and everything in the background is done. */
static struct tally settled(const struct place *place)
{
    struct store_stats stats;
    struct tally sum = {0};
    int64_t ignored = CLOCK_NEVER, until_ns = clock_now_ns() + 20 * SECOND_NS;
    do {
        usleep(1000);
        tier_tend(place->tier, &ignored);
        store_stats(tier_store(place->tier), NULL, &stats);
    } while (stats.drafts && clock_now_ns() < until_ns);
    assert_int_equal(stats.drafts, 0);
    store_settle(tier_store(place->tier));
    store_stats(tier_store(place->tier), NULL, &stats);
    for (int kind = 0; kind < ITEM_KINDS; kind++)
        for (int level = 0; level < LEVELS && is_for_ops((enum item_kind)kind); level++) {
            sum.hits[level] += stats.kinds[kind].hits[level];
            sum.bytes[level] += stats.kinds[kind].bytes[level];
        }
    return sum;
}

static void note_copies(void *context, const struct store_entry *entry)
{
    int *count = context;
    if (!is_for_ops((enum item_kind)entry->key.kind)) return;
    if (entry->copies & 1 << LEVEL_DEVICE) count[LEVEL_DEVICE]++;
    if (entry->copies & 1 << LEVEL_HOST) count[LEVEL_HOST]++;
}

static void expect_copies(const struct place *place, int on_device, int on_host)
{
    int count[LEVELS] = {0};
    store_list(tier_store(place->tier), &(struct store_match){0}, note_copies, count);
    assert_int_equal(count[LEVEL_DEVICE], on_device);
    assert_int_equal(count[LEVEL_HOST], on_host);
}

/* Pushes everything off the device: one item as large as it, which nobody asks for. */
static void crowd(const struct place *place)
{
    struct key key = tier_rig_key(1, ITEM_RESIDUAL, 9);
    struct store_match match = {.by_kind = true, .kind = ITEM_RESIDUAL};
    struct draft draft;
    struct error error;
    if (tier_reserve_device(place->tier, 9, &key, DEVICE_BYTES, 1000, &draft, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    assert_int_equal(draft.level, LEVEL_DEVICE);
    place->ops->zero(place->team, draft.bytes, draft.size);
    device_wait(place->ops, place->team);
    tier_commit(place->tier, &draft);
    settled(place);
    expect_copies(place, 0, ITEMS);
    assert_int_equal(store_forget(tier_store(place->tier), &match), 1);
}

void tier_device_check(const struct ops *ops)
{
    struct ledger ledger = {0};
    struct error error;
    struct place place = {.ops = counting_ops(ops), .guidance = 3};
    counting_enter(&ledger);
    place.team = device_team(place.ops, 1);
    struct tier_config config = {
        .memory_bytes = HOST_BYTES, .device_bytes = DEVICE_BYTES, .ops = place.ops, .team = place.team};
    if (tier_open(&config, &place.tier, &error) != STATUS_OK) fail_msg("%s", error.text);
    assert_int_equal(ledger_device(&ledger), DEVICE_BYTES);

    expect_same(&place);
    struct tally tally = settled(&place);
    expect_copies(&place, ITEMS, ITEMS);
    assert_true(tally.bytes[LEVEL_DEVICE] > 0 && tally.bytes[LEVEL_DEVICE] == tally.bytes[LEVEL_HOST]);
    assert_int_equal(tally.hits[LEVEL_DEVICE] + tally.hits[LEVEL_HOST], 0);

    expect_same(&place);
    tally = settled(&place);
    assert_int_equal(tally.hits[LEVEL_DEVICE], ITEMS);
    assert_int_equal(tally.hits[LEVEL_HOST], 0);

    crowd(&place);
    expect_same(&place); /* the host's copies serve, and go to the device for the next time */
    tally = settled(&place);
    assert_int_equal(tally.hits[LEVEL_HOST], ITEMS);
    expect_copies(&place, ITEMS, ITEMS);
    expect_same(&place);
    assert_int_equal(settled(&place).hits[LEVEL_DEVICE], 2 * ITEMS);

    tier_close(place.tier);
    counting_enter(&ledger);
    device_team_free(place.ops, place.team);
    assert_int_equal(ledger_device(&ledger), 0);
}
