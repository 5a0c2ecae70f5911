/*
 * test_links_service.c - links between real ranks: measured before and between jobs, over both fabrics, seen by `refrain
 * ranks`, and known again after a rank was replaced. No figure is tested but for its sense.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/service_jobs.h"

/* How many links of the only group are known; each of different ranks and of a speed that can be. */
static int count_links(void)
{
    shell_run(stand_text, "refrain ranks --json");
    json_t *all = stand_object(), *group = json_array_get(json_object_get(all, "groups"), 0),
           *links = json_object_get(group, "links"), *link;
    size_t i;
    json_array_foreach(links, i, link)
    {
        assert_true(number_at(link, "rank") < number_at(link, "peer"));
        assert_true(number_at(link, "bytes_per_second") > 1e6 && number_at(link, "bytes_per_second") < 1e12);
        assert_true(number_at(link, "latency") >= 0 && number_at(link, "latency") < 1);
    }
    int count = (int)json_array_size(links);
    json_decref(all);
    return count;
}

static void all_links_are_measured_and_a_job_comes_first(void **state)
{
    struct stand s;
    stand_start(&s, "zmq", 3, "--threads 1");
    shell_run(stand_text, "refrain models add ref models/reference");
    stand_make("early", SMALL "--steps 4 --guidance 4");
    stand_wait_links(3);
    shell_run(stand_text, "refrain ranks");
    assert_true(stand_says("GB/s and"));
    stand_make("late", SMALL "--steps 4 --guidance 4");
    assert_true(latents_are_equal("early", "late"));
    assert_int_equal(count_links(), 3);
    assert_int_equal(kill(stand_last_rank(), SIGKILL), 0);
    stand_make("repaired", SMALL "--steps 4 --guidance 4");
    assert_true(latents_are_equal("early", "repaired"));
    assert_int_equal(count_links(), 3); /* on the same host the links are the same */
    stand_stop(&s);
}

static void the_mpi_fabric_has_links_as_well(void **state)
{
    struct stand s;
    stand_start(&s, "mpi", 2, "--threads 1 --fabric mpi");
    stand_wait_links(1);
    stand_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_links_are_measured_and_a_job_comes_first),
        cmocka_unit_test(the_mpi_fabric_has_links_as_well),
    };
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
