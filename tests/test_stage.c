/*
 * test_stage.c - what a stage takes next, and what it does not believe. One stage, member 1 of three; the
 * test speaks for home (member 0) and for the next stage (member 2), over a real fabric.
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/device.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "worker/stage.h"

enum { MEMBERS = 3, HOME = 0, NEXT = 2, ROWS = 3 };

static const struct split split = {.members = MEMBERS, .head = 1, .tail = 1, .run = {0, 3, 3}};
static const struct token_grid grid = {1, 2, 2}, wide_grid = {2, 3, 2};

static char directory[] = "/tmp/refrain-stage-XXXXXX";
static struct engine engine; /* the stage's; its model is loaded once */
static struct fabric *fabrics[MEMBERS];
static const char *addresses[MEMBERS];
static uint64_t epoch;
static struct stage *stage;
static float *zeros; /* payloads to send: nothing of them counts but the size */

/* ------------------------------------------------------------------------------------------------ setting */

static int load(void **state)
{
    char path[512];
    struct error error;
    engine.ops = guarded_or(NULL);
    engine.self = 1;
    engine.members = MEMBERS;
    engine.team = device_team(engine.ops, 1);
    if (model_load(golden_path(path, sizeof path, "models/reference"), engine.ops, engine.team, &split, 1,
                   &engine.model, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    zeros = calloc(1 << 20, sizeof *zeros);
    return mkdtemp(directory) ? 0 : -1;
}

static int unload(void **state)
{
    free(zeros);
    engine_clear(&engine);
    model_destroy(engine.model);
    device_team_free(engine.ops, engine.team);
    return rmdir(directory);
}

static void *join(void *argument)
{
    int self = (int)((struct fabric **)argument - fabrics);
    struct fabric_membership m = {
        .epoch = epoch, .self = self, .count = MEMBERS, .addresses = addresses, .token = "for tests"};
    struct error error;
    if (fabric_join(fabrics[self], &m, clock_now_ns() + 20 * SECOND_NS, &error) != STATUS_OK)
        print_message("member %d: %s\n", self, error.text);
    return NULL;
}

static void open_group(int credits)
{
    char bind[64];
    pthread_t threads[MEMBERS];
    struct error error;
    snprintf(bind, sizeof bind, "ipc://%s", directory);
    struct fabric_config config = {.kind = "zmq", .bind = bind, .credits = credits, .max_bytes = 1 << 24};
    epoch++;
    for (int i = 0; i < MEMBERS; i++) {
        if (fabric_open(&config, &fabrics[i], &error) != STATUS_OK) fail_msg("%s", error.text);
        addresses[i] = fabric_address(fabrics[i]);
    }
    for (int i = 0; i < MEMBERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, join, &fabrics[i]), 0);
    for (int i = 0; i < MEMBERS; i++) pthread_join(threads[i], NULL);
    engine.fabric = fabrics[1];
    engine.epoch = epoch;
    assert_int_equal(stage_create(&engine, &stage, &error), STATUS_OK);
}

static int set_up(void **state)
{
    open_group(8);
    return 0;
}

static int tear_down(void **state)
{
    for (int i = 0; i < MEMBERS; i++) fabric_leave(fabrics[i]);
    stage_destroy(stage);
    for (int i = 0; i < MEMBERS; i++) fabric_close(fabrics[i]);
    return 0;
}

/* ------------------------------------------------------------------------------------------------ tickets */

static struct ticket ticket(enum ticket_kind kind, uint64_t context, const struct token_grid *size)
{
    return (struct ticket){.kind = (uint16_t)kind,
                           .job = context,
                           .context = context,
                           .attempt = 1,
                           .grid = {(uint32_t)size->frames, (uint32_t)size->height, (uint32_t)size->width}};
}

static struct ticket opening(uint64_t context, const struct token_grid *size)
{
    struct ticket t = ticket(TICKET_OPEN, context, size);
    t.dtype = TICKET_F32;
    t.row_count = ROWS;
    t.bytes = (uint64_t)denoiser_text_rows(ROWS, engine.model->config.text_length) *
              (uint64_t)engine.model->config.denoiser.hidden * sizeof(float);
    return t;
}

/* A hop through blocks that end at this stage, or at the next. `step` tells hops apart. */
static struct ticket hop(uint64_t context, const struct token_grid *size, uint32_t step, bool on)
{
    struct ticket t = ticket(TICKET_HOP, context, size);
    t.dtype = TICKET_F32;
    t.step = step;
    t.row_count = (uint32_t)token_count(size);
    t.bytes = hop_bytes(token_count(size), engine.model->config.denoiser.hidden);
    t.block_begin = 1;
    t.block_end = on ? 7 : 4;
    return t;
}

/* Posts and waits until the stage has it in its queue, so that tickets of several members arrive in this
 * order. */
static void send(int from, struct ticket t)
{
    struct fabric_event event;
    struct error error;
    status_t status = fabric_post(fabrics[from], 1, &t, zeros, 1, &error);
    if (status != STATUS_OK)
        fail_msg("a ticket was not taken: %s", status == STATUS_AGAIN ? "no credit" : error.text);
    for (int64_t until = clock_now_ns() + 10 * SECOND_NS; clock_now_ns() < until;) {
        fabric_wait(fabrics[1], until, NULL);
        while (engine_next(&engine, &event)) {
            stage_event(stage, &event);
            if (event.kind == FABRIC_RECEIVED) return;
        }
    }
    fail_msg("a ticket did not arrive");
}

static bool advance(void)
{
    struct fabric_event event;
    struct error error;
    bool worked;
    while (engine_next(&engine, &event)) stage_event(stage, &event);
    if (stage_advance(stage, &worked, &error) != STATUS_OK) fail_msg("%s", error.text);
    return worked;
}

/* The same, but for a buffer that a hop before may still be read from. */
static void advance_soon(void)
{
    int64_t until = clock_now_ns() + 60 * SECOND_NS;
    while (!advance()) {
        if (clock_now_ns() > until) fail_msg("nothing can be worked on");
        fabric_wait(fabrics[1], clock_now_ns() + 20 * MILLISECOND_NS, NULL);
    }
}

static void expect_broken(const char *what)
{
    struct error error;
    bool worked;
    assert_int_equal(stage_advance(stage, &worked, &error), STATUS_CORRUPT);
    if (!strstr(error.text, what)) fail_msg("\"%s\" does not say \"%s\"", error.text, what);
}

/* The next message that the stage sent to a member. */
static struct ticket answer(int member)
{
    struct fabric_event event;
    for (int64_t until = clock_now_ns() + 10 * SECOND_NS; clock_now_ns() < until;) {
        while (fabric_next(fabrics[member], &event) == STATUS_OK) {
            if (event.kind != FABRIC_RECEIVED) continue;
            struct ticket t = event.ticket;
            fabric_release(fabrics[member], &event);
            return t;
        }
        fabric_wait(fabrics[member], until, NULL);
    }
    fail_msg("member %d was told nothing", member);
    return (struct ticket){0};
}

static void expect_hop_home(uint64_t context, uint32_t step)
{
    struct ticket t = answer(HOME);
    if (t.kind != TICKET_HOP || t.context != context || t.step != step || !(t.flags & TICKET_DONE))
        fail_msg("kind %d of context %lu, step %u; expected hop of %lu, step %u", t.kind,
                 (unsigned long)t.context, t.step, (unsigned long)context, step);
}

static void open_context(uint64_t context, const struct token_grid *size)
{
    send(HOME, opening(context, size));
    assert_true(advance());
}

/* -------------------------------------------------------------------------------------------------- order */

static void the_highest_priority_goes_first_then_the_oldest(void **state)
{
    static const uint16_t priorities[] = {0, 1, 0, 2, 1, 2};
    static const uint32_t expected[] = {3, 5, 1, 4, 0, 2};
    for (uint64_t i = 0; i < 6; i++) open_context(1 + i, &grid);
    for (uint32_t i = 0; i < 6; i++) {
        struct ticket t = hop(1 + i, &grid, i, false);
        t.priority = priorities[i];
        send(HOME, t);
    }
    for (int i = 0; i < 6; i++) {
        assert_true(advance());
        expect_hop_home(1 + expected[i], expected[i]);
    }
    assert_false(advance());
}

static void of_floating_homes_jobs_that_began_earlier_go_first_whenever_their_hops_came(void **state)
{
    static const uint64_t ages[] = {3 * MEMBERS, MEMBERS, 0, 2 * MEMBERS, 2 * MEMBERS + 1, 1};
    static const uint32_t expected[] = {2, 5, 1, 3, 4, 0};
    for (uint64_t i = 0; i < 6; i++) open_context(1 + i, &grid);
    for (uint32_t i = 0; i < 6; i++) {
        struct ticket t = hop(1 + i, &grid, i, false);
        t.age = ages[i];
        send(HOME, t);
    }
    engine.model->split.floating = true;
    for (int i = 0; i < 6; i++) {
        assert_true(advance());
        expect_hop_home(1 + expected[i], expected[i]);
    }
    engine.model->split.floating = false;
    assert_false(advance());
}

static void a_ticket_never_overtakes_an_older_one_of_its_context(void **state)
{
    open_context(1, &grid);
    struct ticket urgent = hop(1, &grid, 2, false), close = ticket(TICKET_CLOSE, 1, &grid);
    urgent.priority = close.priority = 2;
    send(HOME, hop(1, &grid, 1, false));
    send(HOME, urgent);
    send(HOME, close);
    for (int i = 0; i < 3; i++) advance_soon();
    expect_hop_home(1, 1);
    expect_hop_home(1, 2);
    send(HOME, hop(1, &grid, 3, false));
    assert_true(advance());
    assert_int_equal(answer(HOME).kind, TICKET_UNKNOWN_CONTEXT);
}

static void a_hop_that_cannot_be_sent_on_lets_another_pass(void **state)
{
    open_context(1, &grid);
    open_context(2, &grid);
    for (uint32_t i = 0; i < 8;
         i++) { /* as many as there are credits towards the next stage, which gives none back */
        send(HOME, hop(1, &grid, i, true));
        advance_soon();
    }
    send(HOME, hop(1, &grid, 8, true));
    send(HOME, hop(2, &grid, 9, false));
    advance_soon();
    expect_hop_home(2, 9);
    assert_false(advance());
    for (uint32_t i = 0; i < 8; i++) assert_int_equal(answer(NEXT).step, i);
    advance_soon();
    assert_int_equal(answer(NEXT).step, 8);
}

/* Everything that credits allow may wait at once. */
static void as_many_tickets_as_there_are_credits_can_wait(void **state)
{
    tear_down(state);
    open_group(FABRIC_MAX_CREDITS);
    open_context(1, &grid);
    for (uint32_t i = 0; i < FABRIC_MAX_CREDITS - 2; i++) send(HOME, hop(1, &grid, i, false));
    for (uint32_t i = 0; i < FABRIC_MAX_CREDITS; i++) send(NEXT, hop(1, &grid, 1000 + i, false));
    for (uint32_t i = 0; i < 2 * FABRIC_MAX_CREDITS - 2; i++) {
        advance_soon();
        expect_hop_home(1, i < FABRIC_MAX_CREDITS - 2 ? i : 1000 + i - (FABRIC_MAX_CREDITS - 2));
    }
    assert_false(advance());
}

/* ----------------------------------------------------------------------------------------------- contexts */

static void a_hop_waits_for_the_open_that_comes_another_way(void **state)
{
    send(NEXT, hop(7, &grid, 1, false));
    assert_false(advance());
    send(HOME, opening(7, &grid));
    assert_true(advance());
    assert_true(advance());
    expect_hop_home(7, 1);
}

static void a_hop_of_a_context_that_was_closed_is_unknown(void **state)
{
    open_context(7, &grid);
    send(HOME, ticket(TICKET_CLOSE, 7, &grid));
    assert_true(advance());
    send(NEXT, hop(7, &grid, 1, false));
    assert_true(advance());
    struct ticket t = answer(HOME);
    assert_true(t.kind == TICKET_UNKNOWN_CONTEXT && t.context == 7 && t.step == 1 && t.bytes == 0);

    send(NEXT, hop(8, &grid, 2, false)); /* never opened: its CLOSE, behind it, says that it will not be */
    assert_false(advance());
    send(HOME, ticket(TICKET_CLOSE, 8, &grid));
    assert_true(advance());
    t = answer(HOME);
    assert_true(t.kind == TICKET_UNKNOWN_CONTEXT && t.context == 8);
    assert_true(advance());
    assert_false(advance());
}

/* What blocks keep of earlier steps must survive: a context that is open stays as it is. */
static void an_open_that_comes_again_changes_nothing(void **state)
{
    open_context(7, &grid);
    open_context(7, &grid);
    send(HOME, hop(7, &grid, 1, false));
    assert_true(advance());
    expect_hop_home(7, 1);
}

static void a_ticket_that_does_not_fit_ends_the_epoch(void **state)
{
    struct ticket t;
    send(HOME, ticket(TICKET_FAILED, 1, &grid));
    expect_broken("kind 5");
    t = opening(1, &grid);
    t.bytes -= 4;
    send(HOME, t);
    expect_broken("OPEN");
    t = opening(1, &grid);
    t.grid[1] = 0;
    send(HOME, t);
    expect_broken("OPEN");
    open_context(1, &grid);
    t = hop(1, &grid, 1, false);
    t.home = MEMBERS;
    send(HOME, t);
    expect_broken("without a home");
    t = hop(1, &grid, 1, false);
    t.branch = 2;
    send(HOME, t);
    expect_broken("for branch 2 of expert 0");
    t = hop(1, &grid, 1, false);
    t.expert = 2;
    send(HOME, t);
    expect_broken("for branch 0 of expert 2");
    t = hop(1, &wide_grid, 1, false);
    send(HOME, t);
    expect_broken("does not fit");
    t = hop(1, &grid, 1, false);
    t.bytes += 4;
    send(HOME, t);
    expect_broken("does not fit");
    static const uint32_t blocks[][2] = {{0, 4}, {1, 8}, {4, 7}, {2, 2}, {3, 2}, {UINT32_MAX, UINT32_MAX}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        t = hop(1, &grid, 1, false);
        t.block_begin = blocks[i][0];
        t.block_end = blocks[i][1];
        send(HOME, t);
        expect_broken("does not fit");
    }
    t = hop(1, &grid, 1, false);
    t.flags = TICKET_BLOCK_RECORDS; /* of a job whose blocks do not decide */
    t.bytes += 8 * sizeof(float);
    send(HOME, t);
    expect_broken("does not fit");
}

/* --------------------------------------------------------------------------------------------- workspaces */

/* Jobs of three sizes take turns: after the first round nothing is allocated, and the bits are those of a
 * size alone. */
static void alternating_grids_allocate_nothing_and_keep_their_bits(void **state)
{
    static const struct token_grid grids[3] = {{1, 2, 2}, {3, 4, 4}, {2, 3, 5}};
    const struct ops *ops = engine.ops;
    struct team *team = engine.team;
    int hidden = engine.model->config.denoiser.hidden;
    float *text = device_floats(ops, team, NULL, (ROWS + 1) * hidden);
    float *modulation = device_floats(ops, team, NULL, 6 * hidden),
          *x = device_floats(ops, team, NULL, 48 * hidden);
    float *values = malloc(48 * (size_t)hidden * sizeof *values), *first[3];
    struct denoiser_context *context;
    struct error error;
    assert_int_equal(denoiser_context_create(engine.model->denoiser[0], engine.team, text, ROWS,
                                             engine.model->config.text_length, &context, &error),
                     STATUS_OK);
    unsigned char *base = NULL;
    uint64_t made = 0;
    for (int turn = 0; turn < 30; turn++) {
        int g = turn % 3, count = token_count(&grids[g]) * hidden;
        for (int i = 0; i < count; i++) values[i] = (float)sin(i * 0.37 + g);
        ops->copy(team, x, values, (size_t)count * sizeof *x);
        if (turn < 3) engine_clear(&engine); /* its first time each grid has a workspace of its own */
        assert_int_equal(engine_prepare(&engine, &grids[g], &error), STATUS_OK);
        engine_blocks(&engine, context, NULL, 0, modulation, x, 1, 4, NULL);
        float *result = device_fetch(ops, team, x, count);
        if (turn < 3) first[g] = result;
        assert_memory_equal(first[g], result, (size_t)count * sizeof *x);
        if (turn >= 3) free(result);
        if (turn == 5) {
            base = engine.arena.base;
            made = engine.model->rotary.made;
        }
        if (turn > 5) {
            assert_ptr_equal(engine.arena.base, base);
            assert_int_equal(engine.model->rotary.made, made);
        }
    }
    for (int g = 0; g < 3; g++) free(first[g]);
    denoiser_context_destroy(context);
    device_free(ops, team, modulation);
    device_free(ops, team, x);
    device_free(ops, team, text);
    free(values);
}

static void the_shelf_of_tables_keeps_those_asked_for_last(void **state)
{
    struct rotary_shelf shelf = {.config = &engine.model->config.denoiser, .ops = engine.ops};
    const struct rotary *rotary;
    struct error error;
    for (int i = 1; i <= ROTARY_GRIDS + 4; i++) {
        assert_int_equal(rotary_find(&shelf, engine.team, &(struct token_grid){1, 1, i}, &rotary, &error),
                         STATUS_OK);
        assert_int_equal(rotary_find(&shelf, engine.team, &(struct token_grid){1, 1, 1}, &rotary, &error),
                         STATUS_OK);
        assert_int_equal(rotary->grid.width, 1);
    }
    assert_int_equal(shelf.count, ROTARY_GRIDS);
    assert_int_equal(shelf.made, ROTARY_GRIDS + 4);
    rotary_clear(&shelf);
    assert_int_equal(shelf.bytes, 0);
}

#define STAGE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STAGE_TEST(the_highest_priority_goes_first_then_the_oldest),
        STAGE_TEST(of_floating_homes_jobs_that_began_earlier_go_first_whenever_their_hops_came),
        STAGE_TEST(a_ticket_never_overtakes_an_older_one_of_its_context),
        STAGE_TEST(a_hop_that_cannot_be_sent_on_lets_another_pass),
        STAGE_TEST(as_many_tickets_as_there_are_credits_can_wait),
        STAGE_TEST(a_hop_waits_for_the_open_that_comes_another_way),
        STAGE_TEST(a_hop_of_a_context_that_was_closed_is_unknown),
        STAGE_TEST(an_open_that_comes_again_changes_nothing),
        STAGE_TEST(a_ticket_that_does_not_fit_ends_the_epoch),
        cmocka_unit_test(alternating_grids_allocate_nothing_and_keep_their_bits),
        cmocka_unit_test(the_shelf_of_tables_keeps_those_asked_for_last),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
