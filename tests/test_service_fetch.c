/*
 * test_service_fetch.c - ranks of a whole service that are killed in the middle of a fetch: coordinator, launcher, ranks under
 * mpirun and the client as real processes. Whoever dies, wherever the parts are, jobs end with the same bits, and no rank keeps a
 * byte of memory for a fetch that is over. The moment is found by a preloaded library (tests/faults/deadly.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "cluster/envelope.h"
#include "cluster/ticket.h"
#include "tests/service_jobs.h"

enum { TRIES = 12, WAIT_US = 3000 };
/* Its text has more bytes than go beside a ticket; the item of a first step at the larger size has two chunks. %d: makes it another
 * one in each try. */
#define PROMPT                                                                                               \
    "--prompt 'a red star and a blue ring and a green square and a white circle and a cyan star and a teal " \
    "ring and a yellow square and a navy circle moving right, then left, then up, then down, %d times' "
#define TEXT       "--width 32 --height 32 --frames 9 --steps 10 --seed 5 "
#define FIRST_STEP "--width 304 --height 304 --frames 9 --steps 2 --seed 5 "
#define BUSY       LARGE "--steps 40 --recompute "

static char armed[PATH_BYTES + 16];

static void prepare(struct stand *s, const char *name, const char *options)
{
    char program[PATH_BYTES], library[PATH_BYTES + 32];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0);
    program[length] = 0;
    *strrchr(program, '/') = 0;
    snprintf(library, sizeof library, "%s/libdeadly.so", program);
    snprintf(armed, sizeof armed, "%s/armed", stand_directory);
    assert_true(file_exists(library));
    unsetenv("REFRAIN_RECOMPUTE");
    setenv("REFRAIN_DEADLY", armed, 1);
    setenv("LD_PRELOAD", library, 1);
    stand_start(s, name, 2, options);
    unsetenv("LD_PRELOAD");
    shell_run(stand_text, "refrain models add ref models/reference");
}

/* The next rank that sends such a head dies, so long after. */
static void arm(unsigned envelope_kind, unsigned ticket_kind, unsigned wait_us)
{
    char part[sizeof armed + 8];
    snprintf(part, sizeof part, "%s.part", armed);
    FILE *file = fopen(part, "w");
    assert_non_null(file);
    fprintf(file, "%u %u %u\n", envelope_kind, ticket_kind, wait_us);
    fclose(file);
    assert_int_equal(rename(part, armed), 0);
}

/* Bytes of memory that all ranks have in use, as they told last; -1: one has not told anything. */
static double memory_in_use(void)
{
    double sum = 0;
    shell_run(stand_text, "refrain cache --all --json");
    json_t *all = stand_object(), *ranks = json_object_get(all, "ranks");
    assert_true(json_array_size(ranks) > 0);
    for (size_t i = 0; i < json_array_size(ranks) && sum >= 0; i++) {
        json_t *used = json_object_get(json_object_get(json_array_get(ranks, i), "used_bytes"), "host");
        sum = json_is_number(used) ? sum + json_number_value(used) : -1;
    }
    json_decref(all);
    return sum;
}

/* Nothing is kept: no item, no draft of one that did not come, no view of one that was sent. */
static void expect_nothing_kept(void)
{
    double left = 0;
    for (int i = 0; i < 300; i++, usleep(100000)) {
        shell_run(stand_text, "refrain cache flush --all");
        left = memory_in_use();
        if (left == 0) return;
    }
    fail_msg("%g bytes are in use, with all items forgotten: %s", left, stand_text);
}

struct killing {
    const char
        *size; /* of what is made; with another guidance it takes the same texts, and the same first step */
    unsigned envelope_kind, ticket_kind, wait_us;
};

/* One home makes it. While that is at work on something else, the other makes it with another guidance, and fetches what is there.
 * True: somebody died of it. */
static bool make_on_the_other(const struct killing *k, const char *words)
{
    stand_make("made", "%s --guidance 4", words);
    pid_t client = stand_begin("busy", BUSY);
    stand_wait_step(stand_begun("busy"), 1);
    arm(k->envelope_kind, k->ticket_kind, k->wait_us);
    stand_make("taken", "%s --guidance 5", words);
    program_wait(client, 120);
    return unlink(armed) != 0;
}

static void kill_in(const char *name, const struct killing *k)
{
    struct stand s;
    char words[1024];
    bool died = false;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* their runtimes want to be loaded first */
#endif
    prepare(&s, name, "--threads 1");
    for (int try = 1; try <= TRIES && !died;
         try++) { /* an answer may be too late on a machine that is at work */
        snprintf(words, sizeof words, PROMPT "%s", try, k->size);
        died = make_on_the_other(k, words);
    }
    if (!died) fail_msg("in %d tries nothing was fetched", TRIES);
    stand_make("alone", "%s --guidance 5 --recompute", words);
    assert_true(latents_are_equal("taken", "alone"));
    stand_make("busy-alone", BUSY);
    assert_true(latents_are_equal("busy", "busy-alone"));
    expect_nothing_kept();
    stand_stop(&s);
}

static void a_holder_killed_before_the_text_has_left(void **state)
{
    kill_in("before", &(struct killing){TEXT, ENVELOPE_DATA, TICKET_ITEM, 0});
}

static void a_holder_killed_with_half_a_first_step_on_the_way(void **state)
{
    kill_in("half", &(struct killing){FIRST_STEP, ENVELOPE_YIELDS, 0, WAIT_US});
}

static void an_asker_killed_when_it_has_asked(void **state)
{
    kill_in("asker", &(struct killing){TEXT, ENVELOPE_DATA, TICKET_FETCH, WAIT_US});
}

int main(int count, char **arguments)
{
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_holder_killed_before_the_text_has_left),
        cmocka_unit_test(a_holder_killed_with_half_a_first_step_on_the_way),
        cmocka_unit_test(an_asker_killed_when_it_has_asked),
    };
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
