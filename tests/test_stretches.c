/*
 * test_stretches.c - which ops are called, recorded and replayed, and when what was recorded is forgotten: over a backend that
 * keeps a diary and computes nothing. That bits stay the same is in test_cuda_stretches.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "worker/stretches.h"

struct stretch {
    int number;
};

/* Of the backend. */
static struct {
    int calls, recordings, replays, forgotten, waits, alive;
    bool recording;
    bool refuse_begin, refuse_end;
} diary;

static status_t note_wait(struct team *team, struct error *error)
{
    assert_false(diary.recording);
    diary.waits++;
    return STATUS_OK;
}

static status_t note_record(struct team *team, struct error *error)
{
    assert_false(diary.recording);
    if (diary.refuse_begin) return error_set(error, STATUS_UNSUPPORTED, "not now");
    diary.recording = true;
    return STATUS_OK;
}

static status_t note_recorded(struct team *team, struct stretch **stretch, struct error *error)
{
    assert_true(diary.recording);
    diary.recording = false;
    if (diary.refuse_end) return error_set(error, STATUS_UNSUPPORTED, "not this");
    *stretch = malloc(sizeof **stretch);
    (*stretch)->number = diary.recordings++;
    diary.alive++;
    return STATUS_OK;
}

static void note_replay(struct team *team, const struct stretch *stretch)
{
    assert_non_null(stretch);
    diary.replays++;
}

static void note_forget(struct stretch *stretch)
{
    diary.forgotten += stretch != NULL;
    diary.alive -= stretch != NULL;
    free(stretch);
}

static const struct ops recorder = {.name = "diary",
                                    .wait = note_wait,
                                    .record = note_record,
                                    .recorded = note_recorded,
                                    .replay = note_replay,
                                    .forget = note_forget};
static const struct ops no_recorder = {.name = "local", .local = true};

static struct stretches *fresh(const char *wish)
{
    struct stretches *s = NULL;
    struct error error;
    memset(&diary, 0, sizeof diary);
    setenv("REFRAIN_GPU_RECORD", wish, 1);
    assert_int_equal(stretches_create(&recorder, &s, &error), STATUS_OK);
    return s;
}

static const char owners[4];

static struct stretch_key key_of(int number, int owner)
{
    return (struct stretch_key){.kind = STRETCH_BLOCKS, .owner = &owners[owner], .begin = number};
}

/* How often the ops were called for themselves: while nothing was recorded. */
static int run(struct stretches *s, const struct stretch_key *key, bool worth)
{
    int called = 0;
    for (bool call = stretches_begin(s, NULL, key, worth); call; call = stretches_end(s, NULL))
        called += !diary.recording;
    assert_false(diary.recording);
    return called;
}

static void ops_are_called_then_recorded_then_replayed(void **state)
{
    struct stretches *s = fresh("auto");
    struct stretch_key key = key_of(0, 0);
    assert_int_equal(run(s, &key, true), 1);
    assert_int_equal(diary.recordings, 0);
    for (int i = 1; i < 5; i++) {
        assert_int_equal(run(s, &key, true), 0);
        assert_int_equal(diary.recordings, 1);
        assert_int_equal(diary.replays, i);
    }
    assert_int_equal(stretches_counts(s).replayed, 4);
    stretches_destroy(s);
    assert_int_equal(diary.alive, 0);
}

static void keys_that_differ_anywhere_are_other_stretches(void **state)
{
    struct stretches *s = fresh("auto");
    struct stretch_key keys[9];
    for (int i = 0; i < 9; i++) keys[i] = key_of(0, 0);
    keys[1].kind = STRETCH_OUTPUT;
    keys[2].owner = &owners[1];
    keys[3].end = 1;
    keys[4].grid.width = 1;
    for (int i = 0; i < STRETCH_TENSORS; i++) keys[5 + i].tensor[i] = &diary;
    for (int turn = 0; turn < 3; turn++)
        for (int i = 0; i < 9; i++) assert_int_equal(run(s, &keys[i], true), turn == 0);
    assert_int_equal(diary.recordings, 9);
    assert_int_equal(diary.replays, 18);
    stretches_destroy(s);
}

static void what_is_not_worth_it_is_called_unless_always_was_said(void **state)
{
    struct stretch_key key = key_of(0, 0);
    struct stretches *s = fresh("auto");
    for (int i = 0; i < 4; i++) assert_int_equal(run(s, &key, false), 1);
    assert_int_equal(run(s, &key, true), 1);
    assert_int_equal(run(s, &key, false), 1);
    assert_int_equal(run(s, &key, true), 0);
    assert_int_equal(run(s, &key, false), 0); /* it is there now */
    stretches_destroy(s);
    s = fresh("always");
    assert_int_equal(run(s, &key, false), 1);
    assert_int_equal(run(s, &key, false), 0);
    stretches_destroy(s);
}

static void refused_recordings_are_calls_then_and_later(void **state)
{
    for (int end = 0; end < 2; end++) {
        struct stretches *s = fresh("auto");
        struct stretch_key key = key_of(0, 0), other = key_of(1, 0);
        diary.refuse_begin = !end;
        diary.refuse_end = end;
        for (int i = 0; i < 4; i++) assert_int_equal(run(s, &key, true), 1);
        diary.refuse_begin = diary.refuse_end = false;
        assert_int_equal(run(s, &key, true), 1); /* not tried again */
        assert_int_equal(run(s, &other, true) + run(s, &other, true), 1);
        assert_int_equal(stretches_counts(s).refused, 1);
        assert_int_equal(diary.replays, 1);
        stretches_destroy(s);
        assert_int_equal(diary.alive, 0);
    }
}

static void an_owner_takes_its_stretches_along(void **state)
{
    struct stretches *s = fresh("auto");
    for (int turn = 0; turn < 2; turn++)
        for (int i = 0; i < 6; i++) run(s, &(struct stretch_key){.owner = &owners[i % 3], .begin = i}, true);
    assert_int_equal(stretches_counts(s).held, 6);
    stretches_forget(s, &owners[1]);
    assert_int_equal(stretches_counts(s).held, 4);
    assert_int_equal(diary.forgotten, 2);
    struct stretch_key key = {.owner = &owners[1], .begin = 1};
    assert_int_equal(run(s, &key, true), 1); /* as if it had never been */
    stretches_forget(s, NULL);
    assert_int_equal(stretches_counts(s).held, 0);
    assert_int_equal(diary.alive, 0);
    stretches_destroy(s);
}

/* More in use than there are places for: those without are called, and nobody is pushed out. */
static void places_are_bounded_and_those_in_use_are_kept(void **state)
{
    struct stretches *s = fresh("auto");
    enum { ALL = STRETCHES + 20 };
    for (int turn = 0; turn < 12; turn++)
        for (int i = 0; i < ALL; i++) {
            struct stretch_key key = key_of(i, 0);
            assert_int_equal(run(s, &key, true), turn == 0 || i >= STRETCHES);
        }
    assert_int_equal(diary.alive, STRETCHES);
    assert_int_equal(diary.forgotten, 0);
    stretches_destroy(s);
}

static void what_was_not_used_for_long_makes_room_after_a_wait(void **state)
{
    struct stretches *s = fresh("auto");
    struct stretch_key old = key_of(-1, 1);
    for (int i = 0; i < 2; i++) run(s, &old, true);
    for (int turn = 0; turn < 12; turn++)
        for (int i = 0; i < STRETCHES; i++) {
            struct stretch_key key = key_of(i, 0);
            run(s, &key, true);
        }
    assert_int_equal(diary.forgotten, 1);
    assert_int_equal(diary.waits, 1);
    assert_int_equal(diary.alive, STRETCHES);
    assert_int_equal(run(s, &old, true), 1);
    stretches_destroy(s);
}

static void without_recording_ops_are_just_called(void **state)
{
    struct stretches *s = (struct stretches *)&diary;
    struct stretch_key key = key_of(0, 0);
    struct error error;
    memset(&diary, 0, sizeof diary);
    setenv("REFRAIN_GPU_RECORD", "always", 1);
    assert_int_equal(stretches_create(&no_recorder, &s, &error), STATUS_OK);
    assert_null(s);
    for (int i = 0; i < 3; i++) assert_int_equal(run(s, &key, true), 1);
    stretches_forget(s, NULL);
    stretches_destroy(s);
    s = fresh("never");
    assert_null(s);
    setenv("REFRAIN_GPU_RECORD", "sometimes", 1);
    assert_int_equal(stretches_create(&recorder, &s, &error), STATUS_INVALID);
    assert_string_equal(error.text, "REFRAIN_GPU_RECORD=sometimes: must be auto, always or never");
}

int main(void)
{
    setenv("REFRAIN_LOG", "error", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_are_called_then_recorded_then_replayed),
        cmocka_unit_test(keys_that_differ_anywhere_are_other_stretches),
        cmocka_unit_test(what_is_not_worth_it_is_called_unless_always_was_said),
        cmocka_unit_test(refused_recordings_are_calls_then_and_later),
        cmocka_unit_test(an_owner_takes_its_stretches_along),
        cmocka_unit_test(places_are_bounded_and_those_in_use_are_kept),
        cmocka_unit_test(what_was_not_used_for_long_makes_room_after_a_wait),
        cmocka_unit_test(without_recording_ops_are_just_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
