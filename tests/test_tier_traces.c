/*
 * test_tier_traces.c - eviction by worth against oldest-first, over the real store: more is saved on the mixed trace, and
 * nowhere noticeably less. And: traces as files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tools/tier/replay.h"
#include "tools/tier/rival.h"

static struct replay_result replay_by(const struct trace *trace, double gb, enum eviction eviction,
                                      const char *rival)
{
    struct replay_result result;
    struct error error = {0};
    struct replay_settings settings = {.limit_bytes[LEVEL_HOST] = (uint64_t)(gb * 1e9),
                                       .eviction = eviction,
                                       .rival = rival,
                                       .scale = 1024,
                                       .cadence = 10,
                                       .items = 1 << 17};
    if (replay_run(trace, &settings, &result, &error) != STATUS_OK) fail_msg("%s", error.text);
    assert_int_equal(result.wrong, 0);
    return result;
}

static struct replay_result replay(const struct trace *trace, double gb, enum eviction eviction)
{
    return replay_by(trace, gb, eviction, NULL);
}

static double ratio(const struct trace *trace, double gb)
{
    struct replay_result worth = replay(trace, gb, EVICT_LEAST_WORTH),
                         oldest = replay(trace, gb, EVICT_OLDEST);
    assert_true(worth.asked_s > 0 && worth.asked_s == worth.asked_s);
    return oldest.saved_s > 0 ? worth.saved_s / oldest.saved_s : 1;
}

static void on_the_mixed_trace_worth_saves_a_third_more_than_age(void **state)
{
    static const double gb[] = {2, 5, 10};
    struct trace trace = {0};
    assert_true(trace_make("mixed", 1, &trace));
    for (size_t i = 0; i < sizeof gb / sizeof *gb; i++) {
        double found = ratio(&trace, gb[i]);
        if (found < 1.3) fail_msg("at %g GB: %.3f", gb[i], found);
    }
    free(trace.request);
}

/* And no more than can be saved. */
static void worth_saves_more_than_other_policies_do(void **state)
{
    static const char *const names[] = {"iterate", "archive", NULL};
    for (const char *const *name = names; *name; name++) {
        struct trace trace = {0};
        struct bound *bound = bound_open();
        double least, most;
        assert_true(trace_make(*name, 3, &trace));
        double saved = replay(&trace, 5, EVICT_LEAST_WORTH).saved_s;
        replay_foresee(&trace, &(struct replay_settings){.scale = 1, .cadence = 10}, bound);
        bound_at(bound, 5e9, &least, &most);
        assert_true(least > 0 && least <= most * 1.0001);
        if (saved > most) fail_msg("%s: %.0f s, of %.0f at most", *name, saved, most);
        for (const char *const *rival = rival_names; *rival; rival++) {
            double other = replay_by(&trace, 5, EVICT_OLDEST, *rival).saved_s;
            if (other > most) fail_msg("%s, %s: %.0f s, of %.0f at most", *name, *rival, other, most);
            if (saved < 1.01 * other) fail_msg("%s: %.0f s, and %.0f by worth", *rival, other, saved);
        }
        bound_close(bound);
        free(trace.request);
    }
}

/* Two items of 10 bytes, one place for one of them: both are asked for again, one of them for more, and later. */
static void a_bound_is_what_fits(void **state)
{
    struct bound *bound = bound_open();
    struct key keys[3] = {
        {.low = 1, .kind = ITEM_TEXT}, {.low = 2, .kind = ITEM_TEXT}, {.low = 3, .kind = ITEM_LATENT}};
    double least, most;
    for (int i = 0; i < 2; i++) assert_false(bound_asked(bound, &keys[i], 0, 0, false));
    bound_made(bound, &keys[0], 0, 10, 5);
    bound_made(bound, &keys[1], 0, 10, 8);
    assert_true(bound_asked(bound, &keys[0], 100, 1, false));
    assert_true(bound_asked(bound, &keys[1], 100, 2, false));
    bound_at(bound, 10, &least, &most);
    assert_true(least == 8 && most >= 8 && most < 8.01);
    bound_at(bound, 15, &least, &most);
    assert_true(least == 8 && most > 10.4 && most < 10.6); /* half of the other one */
    bound_at(bound, 20, &least, &most);
    assert_true(least == 13 && most == 13);
    bound_made(bound, &keys[2], 100, 10, 50); /* all that a request takes, parts of which are there */
    assert_true(bound_asked(bound, &keys[0], 200, 3, false));
    assert_true(bound_asked(bound, &keys[2], 200, 3, true));
    bound_at(bound, 1000, &least, &most);
    assert_true(least == 13 + 50 && most == 13 + 50);
    bound_close(bound);
}

static void on_no_trace_worth_saves_much_less_than_age(void **state)
{
    static const double gb[] = {1, 10, 100};
    for (const char *const *name = trace_names; *name; name++) {
        struct trace trace = {0};
        assert_true(trace_make(*name, 2, &trace));
        for (size_t i = 0; i < sizeof gb / sizeof *gb; i++) {
            double found = ratio(&trace, gb[i]);
            if (found < 0.98) fail_msg("%s at %g GB: %.3f", *name, gb[i], found);
        }
        free(trace.request);
    }
}

/* Equal items, each asked for again after a number of others that has no memory: what least-recently-used is best at. */
static void where_age_is_all_that_counts_worth_finds_it_out(void **state)
{
    enum { REQUESTS = 3000, KNOWN = 400 };
    struct trace trace = {0};
    uint64_t stack[KNOWN] = {0}, fresh = 1, chance = 7;
    for (int i = 0; i < REQUESTS; i++) {
        struct request request = {.t = i * 100.0,
                                  .tenant = "ann",
                                  .model = &models[1],
                                  .width = 832,
                                  .height = 480,
                                  .frames = 81,
                                  .steps = 50,
                                  .guidance = 5,
                                  .from = -1};
        int depth = 0;
        while (depth < KNOWN - 1 &&
               (chance = chance * UINT64_C(6364136223846793005) + 1442695040888963407) >> 58)
            depth++; /* one of 64 ends it */
        uint64_t prompt = stack[depth] ? stack[depth] : fresh++;
        memmove(stack + 1, stack, (size_t)depth * sizeof *stack);
        stack[0] = request.prompt = prompt;
        trace_add(&trace, &request);
    }
    static const double gb[] = {1, 3, 10, 30};
    for (size_t i = 0; i < sizeof gb / sizeof *gb; i++) {
        double found = ratio(&trace, gb[i]);
        if (found < 0.98) fail_msg("at %g GB: %.3f", gb[i], found);
    }
    free(trace.request);
}

static void a_trace_survives_its_file(void **state)
{
    struct trace made = {0}, read = {0};
    struct error error = {0};
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_true(trace_make("iterate", 3, &made));
    trace_write(&made, file);
    rewind(file);
    if (trace_read(file, &read, &error) != STATUS_OK) fail_msg("%s", error.text);
    fclose(file);
    assert_int_equal(read.count, made.count);
    assert_true(read.count > 1000);
    double before = replay(&made, 5, EVICT_OLDEST).saved_s, after = replay(&read, 5, EVICT_OLDEST).saved_s;
    assert_true(after > 0.99 * before &&
                after < 1.01 * before); /* times are written to a tenth of a second */
    free(made.request);
    free(read.request);
}

static void a_trace_that_makes_no_sense_is_refused_by_line(void **state)
{
    static const char good[] = "\"tenant\": \"a\", \"model\": \"wan-14b\", \"width\": 832, \"height\": 480, "
                               "\"frames\": 81, \"steps\": 50, \"prompt\": \"p\"";
    const struct {
        const char *line, *says;
    } cases[] = {
        {"no json\n", "line 1: no JSON"},
        {"{\"t\": 5}\n", "line 1: model is ''"},
        {"{\"t\": 0.5, %s}\n", "line 1: t is 0.5"},
        {"{\"t\": 5, %s, \"from\": 1, \"at\": 3}\n", "line 1: from is an earlier line"},
        {"{\"t\": 5, %s, \"from\": 0, \"at\": 50}\n", "line 1: from is an earlier line"},
        {"{\"t\": 5, %s, \"steps\": 5000}\n", "line 1: width, height, frames"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct trace trace = {0};
        struct error error = {0};
        FILE *file = tmpfile();
        assert_non_null(file);
        const char *gap = strstr(cases[i].line, "%s");
        fprintf(file, "{\"t\": 1, %s}\n", good);
        if (gap)
            fprintf(file, "%.*s%s%s", (int)(gap - cases[i].line), cases[i].line, good, gap + 2);
        else
            fputs(cases[i].line, file);
        rewind(file);
        assert_int_equal(trace_read(file, &trace, &error), STATUS_INVALID);
        if (!strstr(error.text, cases[i].says)) fail_msg("'%s' does not say '%s'", error.text, cases[i].says);
        fclose(file);
        free(trace.request);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_the_mixed_trace_worth_saves_a_third_more_than_age),
        cmocka_unit_test(worth_saves_more_than_other_policies_do),
        cmocka_unit_test(a_bound_is_what_fits),
        cmocka_unit_test(on_no_trace_worth_saves_much_less_than_age),
        cmocka_unit_test(where_age_is_all_that_counts_worth_finds_it_out),
        cmocka_unit_test(a_trace_survives_its_file),
        cmocka_unit_test(a_trace_that_makes_no_sense_is_refused_by_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
