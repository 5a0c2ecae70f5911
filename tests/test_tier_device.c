/* test_tier_device.c - a level of the cache tier on the device, where the host cannot touch it (tests/guarded.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/device.h"
#include "tests/guarded.h"
#include "tests/tier_device.h"
#include "worker/tier.h"

enum { MB = 1 << 20 };

static void jobs_find_on_the_device_what_was_made_there(void **state)
{
    tier_device_check(guarded_ops(DTYPE_F32));
}

static void so_they_do_with_operands_of_two_bytes(void **state)
{
    tier_device_check(guarded_ops(DTYPE_BF16));
}

/* What was to be copied is then lost, and nothing else is. */
static void a_device_that_fails_leaves_no_item_half_made(void **state)
{
    const struct ops *ops = guarded_ops(DTYPE_F32);
    struct team *team = device_team(ops, 1);
    struct tier_config config = {.memory_bytes = 4 * MB, .device_bytes = MB, .ops = ops, .team = team};
    struct tier *tier;
    struct draft draft;
    struct error error;
    struct store_stats stats;
    struct key key = {.tenant = 7, .low = 1, .kind = ITEM_TEXT, .format = KEY_FORMAT};
    assert_int_equal(tier_open(&config, &tier, &error), STATUS_OK);
    assert_int_equal(tier_reserve_device(tier, 7, &key, 100000, 10, &draft, &error), STATUS_OK);
    assert_int_equal(draft.level, LEVEL_DEVICE);
    guarded_fail_after(0);
    ops->zero(team, draft.bytes, draft.size);
    tier_commit(tier, &draft);
    for (int i = 0; i < 20000; i++, usleep(1000)) {
        store_stats(tier_store(tier), NULL, &stats);
        if (!stats.drafts) break;
    }
    assert_int_equal(stats.drafts, 0);
    assert_int_equal(stats.kinds[ITEM_TEXT].items, 0);
    assert_int_equal(stats.kinds[ITEM_TEXT].spoiled, 1);
    assert_int_equal(ops->wait(team, &error), STATUS_INTERNAL);
    tier_close(tier);
    device_team_free(ops, team);
    guarded_fail_after(-1);
}

static void expect_refusal(const struct tier_config *config, const char *says)
{
    struct tier *tier;
    struct error error;
    assert_int_equal(tier_open(config, &tier, &error), STATUS_INVALID);
    if (!strstr(error.text, says)) fail_msg("%s: '%s' was expected", error.text, says);
}

static void limits_that_cannot_be_are_refused_with_a_sentence(void **state)
{
    const struct ops *ops = guarded_ops(DTYPE_F32);
    struct tier_config config = {.memory_bytes = MB, .device_bytes = MB, .ops = ops_find("ref")};
    expect_refusal(&config, "ref computes in the host's memory");
    config = (struct tier_config){.memory_bytes = MB, .device_bytes = MB - 1, .ops = ops};
    expect_refusal(&config, "--tier-device 1048575: must be 0");
    config = (struct tier_config){.device_bytes = MB, .ops = ops};
    expect_refusal(&config, "--tier-memory 0: a level on the device");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_find_on_the_device_what_was_made_there),
        cmocka_unit_test(so_they_do_with_operands_of_two_bytes),
        cmocka_unit_test(a_device_that_fails_leaves_no_item_half_made),
        cmocka_unit_test(limits_that_cannot_be_are_refused_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
