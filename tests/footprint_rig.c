/* footprint_rig.c - see footprint_rig.h. */
#include "tests/footprint_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/counting.h"
#include "tests/golden.h"

enum { MOST_MEMBERS = 8 };

struct job_order footprint_order(const struct footprint_case *c)
{
    return (struct job_order){.job = 1,
                              .attempt = 1,
                              .prompt = c->prompt ? c->prompt : "a red star",
                              .negative = "blurred",
                              .seed = 5,
                              .steps = c->steps ? c->steps : 4,
                              .width = c->width,
                              .height = c->height,
                              .frames = c->frames,
                              .fps = 16,
                              .guidance = c->guidance,
                              .shift = 3,
                              .cache = c->cache};
}

size_t footprint_expect_equal(const struct footprint_case *c, const struct ops *backend, bool weights)
{
    struct ledger seen[MOST_MEMBERS] = {0};
    struct footprint paper[MOST_MEMBERS];
    struct error error;
    char model[512];
    struct pipeline_run run = {.model = c->model,
                               .ops = counting_ops(backend),
                               .order = footprint_order(c),
                               .split = c->split,
                               .threads = 1,
                               .decode_memory = c->decode_memory,
                               .ledgers = seen};
    golden_path(model, sizeof model, c->model);
    const struct footprint_task task = {.order = &run.order, .jobs = 1, .decode_memory = c->decode_memory};
    if (footprint_measure(model, &c->split, &task, paper, &error) != STATUS_OK)
        fail_msg("on paper: %s", error.text);
    pipeline_execute(&run);
    if (run.outcome != STATUS_OK) fail_msg("%s", run.error.text);
    pipeline_free(&run);
    for (int i = 0; i < c->split.members; i++) {
        const struct ledger *most = &paper[i].most;
        size_t here = weights ? 0 : seen[i].most_weights, there = weights ? 0 : most->most_weights;
        print_message("%s %dx%dx%d %s, rank %d of %d: device %zu, shared %zu\n", c->model, c->width,
                      c->height, c->frames, c->cache ? c->cache : "-", i, c->split.members,
                      most->most_device - there, most->most_shared);
        assert_true(most->most_device > 0 && most->most_shared > 0);
        assert_int_equal(most->most_device - there, seen[i].most_device - here);
        assert_int_equal(most->most_shared, seen[i].most_shared);
        if (weights) assert_int_equal(most->most_weights, seen[i].most_weights);
        for (int kind = 0; kind < LEDGER_KINDS; kind++) {
            assert_int_equal(most->now[kind], 0);
            assert_int_equal(seen[i].now[kind], 0);
        }
    }
    return paper[0].decode.device + paper[0].decode.shared;
}
