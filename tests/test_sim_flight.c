/*
 * test_sim_flight.c - a queue of jobs through the whole service on the virtual clock, from text to files: the ranks
 * compute nearly all the time (tools/sim/flight.h), and no home's jobs get ahead of the others'.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/sim_lab.h"
#include "tools/sim/flight.h"
#include "tools/sim/hand.h"

enum { JOBS = 4, STEPS = 20, LAYERS = 8 };

static struct flight_found fly(struct flight_case c)
{
    struct flight_found found;
    struct error error;
    c.in_flight = 2 * c.ranks;
    if (flight_run(&lab, &c, &found, &error) != STATUS_OK) fail_msg("%s", error.text);
    return found;
}

static void expect_share(double found, double least, const char *what)
{
    if (found < least) fail_msg("%s: ranks compute %.3f of the time, less than %.3f", what, found, least);
}

static void two_ranks_with_four_jobs_in_flight_do_nearly_what_two_ranks_apart_would(void **state)
{
    expect_share(fly((struct flight_case){.ranks = 2, .jobs = 12}).share, 0.96, "12 jobs");
    expect_share(fly((struct flight_case){.ranks = 2, .jobs = 36}).share, 0.97, "36 jobs");
}

/* They end when they end, so that hardly ever two ranks have a film to decode at the same time. */
static void the_same_with_jobs_of_unequal_length(void **state)
{
    expect_share(fly((struct flight_case){.ranks = 2, .jobs = 12, .mixed = true}).queued, 0.96, "12 jobs");
    expect_share(fly((struct flight_case){.ranks = 2, .jobs = 36, .mixed = true}).share, 0.95, "36 jobs");
}

static void the_same_with_jobs_that_are_cached(void **state)
{
    struct flight_case c = {.ranks = 2, .jobs = 36, .cache = "interval:N=3,F=1", .home = "floating"};
    expect_share(fly(c).share, 0.94, "36 jobs");
}

static void four_ranks_with_eight_jobs_in_flight_compute_most_of_the_time(void **state)
{
    expect_share(fly((struct flight_case){.ranks = 4, .jobs = 36}).share, 0.92, "36 jobs");
    expect_share(fly((struct flight_case){.ranks = 4, .jobs = 36, .mixed = true}).queued, 0.93,
                 "36 unequal jobs");
}

/* One of each home began together with the others' (rules/share.h, share_elder). */
static void jobs_of_all_homes_advance_at_one_pace(void **state)
{
    char model[PATH_MAX];
    struct hand_job jobs[JOBS];
    struct hand_result result;
    struct error error;
    struct hand_config config = {.model = model,
                                 .directory = lab.directory,
                                 .split = {.members = 2, .floating = true, .run = {4, 4}},
                                 .costs = {.block_ns = 2 * MILLISECOND_NS},
                                 .end = HAND_FIRST};
    for (int i = 0; i < JOBS; i++)
        jobs[i] = (struct hand_job){
            .steps = STEPS, .width = 32, .height = 32, .frames = 1, .seed = (uint64_t)i, .guidance = 5};
    if (lab_model(&lab, LAYERS, model, &error) != STATUS_OK ||
        hand_run(&config, jobs, JOBS, &result, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    for (int i = 0; i < config.split.members; i++)
        if (jobs[i].steps_done < STEPS - 2)
            fail_msg("job %d of home %d has done %d steps when another has done all %d", i, i % 2,
                     jobs[i].steps_done, STEPS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_ranks_with_four_jobs_in_flight_do_nearly_what_two_ranks_apart_would),
        cmocka_unit_test(the_same_with_jobs_of_unequal_length),
        cmocka_unit_test(the_same_with_jobs_that_are_cached),
        cmocka_unit_test(four_ranks_with_eight_jobs_in_flight_compute_most_of_the_time),
        cmocka_unit_test(jobs_of_all_homes_advance_at_one_pace),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
