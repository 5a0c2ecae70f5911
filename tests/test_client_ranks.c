/* test_client_ranks.c - `refrain ranks` and what it is made of, against a scripted coordinator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "tests/client_fixture.h"

enum { OUTPUT_BYTES = 8192 };

static const struct refrain_rank three_ranks[] = {
    {.rank = 0,
     .state = "here",
     .host = "node1",
     .pid = 41207,
     .backend = "cpu-avx512",
     .threads = 8,
     .blocks = 9,
     .weight_bytes = 31200000,
     .seconds_since_heard = 0.1,
     .epoch = 12,
     .compute_progress = 77,
     .seconds_since_progress = 0.2,
     .gflops = 412.4,
     .replaced = 1},
    {.rank = 1, .state = "missing", .host = "", .backend = "", .seconds_since_progress = -1},
    {.rank = 2,
     .state = "here",
     .host = "node3",
     .pid = 7,
     .backend = "cpu-avx2",
     .threads = 2,
     .first_block = 19,
     .blocks = 11,
     .seconds_since_heard = 4,
     .seconds_since_progress = -1},
};
static const struct refrain_running one_job[] = {{.job = 4126,
                                                  .attempt = 2,
                                                  .home = 2,
                                                  .phase = REFRAIN_PHASE_DENOISE,
                                                  .step = 31,
                                                  .steps = 40,
                                                  .step_seconds = 0.0182}};
static const struct refrain_link three_links[] = {
    {.rank = 0, .peer = 2, .bytes_per_second = 1.21e9, .latency = 85e-6},
    {.rank = 1, .peer = 2, .bytes_per_second = 3e9, .latency = 20e-6},
    {.rank = 0, .peer = 1, .bytes_per_second = 1.2e10, .latency = 4.2e-6},
};
static const struct refrain_group two_groups[] = {
    {.name = "3fa9c2e1d00d",
     .state = "gathering",
     .fabric = "zmq",
     .model = "reference",
     .plan = "3 ranks, blocks 1+8 10 11, cpu-avx512",
     .message = "rank 1 on node2 fell \033[31msilent",
     .epoch = 12,
     .ranks = three_ranks,
     .rank_count = 3,
     .jobs = one_job,
     .job_count = 1,
     .jobs_in_flight = 5,
     .jobs_limit = 8,
     .links = three_links,
     .link_count = 3,
     .repairable = true},
    {.name = "b",
     .state = "ready",
     .fabric = "mpi",
     .model = "",
     .plan = "",
     .ranks = three_ranks,
     .rank_count = 1,
     .jobs_limit = 8},
};
static const struct refrain_stats two = {.groups = two_groups,
                                         .group_count = 2,
                                         .ranks_replaced = 3,
                                         .checkpoint_bytes = 1000,
                                         .checkpoints_saved = 4,
                                         .steps_repeated = 5};

/* What `refrain ranks` prints about `stats`. */
static const char *print_ranks(struct client_fixture *fixture, const struct refrain_stats *stats,
                               const char *const *words)
{
    static char output[OUTPUT_BYTES];
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.stats = stats});
    assert_int_equal(client_run_verb(verb_ranks, VERB_RANKS, fixture, output, sizeof output, words), 0);
    fake_stop(fake);
    return output;
}

static void expect_part(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" is not in:\n%s", part, text);
}

static void groups_come_back_as_plain_numbers(void **state)
{
    struct client_fixture *fixture = *state;
    struct fake *fake = fake_start(fixture->endpoint, &(struct fake_script){.stats = &two});
    struct refrain *refrain = client_connect(fixture);
    struct refrain_stats *stats = NULL;
    assert_int_equal(refrain_stats(refrain, CLIENT_CALL_MS, &stats, &fixture->error), STATUS_OK);
    assert_int_equal(stats->group_count, 2);
    assert_int_equal(stats->ranks_replaced, 3);
    assert_int_equal(stats->checkpoint_bytes, 1000);
    assert_int_equal(stats->checkpoints_saved, 4);
    assert_int_equal(stats->steps_repeated, 5);
    const struct refrain_group *group = &stats->groups[0];
    assert_string_equal(group->plan, two_groups[0].plan);
    assert_int_equal(group->rank_count, 3);
    assert_int_equal(group->jobs_in_flight, 5);
    assert_int_equal(group->jobs[0].step, 31);
    assert_int_equal(group->jobs[0].home, 2);
    assert_int_equal(group->ranks[0].compute_progress, 77);
    assert_true(group->ranks[0].gflops == 412.4);
    assert_string_equal(group->ranks[1].state, "missing");
    assert_true(group->ranks[2].seconds_since_progress < 0);
    assert_null(stats->groups[1].message);
    assert_int_equal(group->link_count, 3);
    assert_int_equal(group->links[1].peer, 2);
    assert_true(group->links[2].bytes_per_second == 1.2e10 && group->links[2].latency == 4.2e-6);
    assert_int_equal(stats->groups[1].link_count, 0);
    assert_int_equal(stats->groups[1].job_count, 0);
    refrain_free(stats);
    refrain_close(refrain);
    fake_stop(fake);
}

static void a_table_shows_who_computes_and_who_is_missing(void **state)
{
    const char *text = print_ranks(*state, &two, (const char *const[]){NULL});
    expect_part(text, "group 3fa9c2e1");
    expect_part(text, "gathering, epoch 12, over zmq, 5 of 8 jobs in flight; lost ranks are replaced");
    expect_part(text, "reference: 3 ranks, blocks 1+8 10 11");
    expect_part(text, "     0  computing  node1");
    expect_part(text, "     1  missing    -\n");
    expect_part(text, "     2  silent     node3");
    expect_part(text, "0...8");
    expect_part(text, "19...29");
    expect_part(text, "412");
    expect_part(text, "never");
    expect_part(text, "job 4126");
    expect_part(text, "denoise 31/40, 18.2 ms a step, home on rank 2, attempt 2");
    expect_part(text, "nobody replaces lost ranks");
    expect_part(text, "because");
    expect_part(text, "links            1.21 GB/s and 85 us between 0 and 2 to 12 GB/s and 4.2 us between 0 and 1\n");
    assert_null(strchr(text, '\033')); /* what a rank said does not reach the terminal as it is */
}

static void scripts_get_one_object(void **state)
{
    const char *text = print_ranks(*state, &two, (const char *const[]){"--json", NULL});
    json_t *object = json_loads(text, JSON_DISABLE_EOF_CHECK, NULL);
    json_t *group = json_array_get(json_object_get(object, "groups"), 0),
           *ranks = json_object_get(group, "ranks");
    assert_int_equal(json_array_size(json_object_get(object, "groups")), 2);
    const json_t *link = json_array_get(json_object_get(group, "links"), 1);
    assert_int_equal(json_integer_value(json_object_get(link, "rank")), 1);
    assert_true(json_real_value(json_object_get(link, "bytes_per_second")) == 3e9);
    assert_int_equal(json_array_size(ranks), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(ranks, 1), "state")), "missing");
    assert_null(json_object_get(json_array_get(ranks, 1), "host"));
    assert_int_equal(json_integer_value(json_object_get(json_array_get(ranks, 0), "replaced")), 1);
    assert_true(json_is_true(json_object_get(group, "repairable")));
    json_t *job = json_array_get(json_object_get(group, "jobs"), 0);
    assert_int_equal(json_integer_value(json_object_get(job, "step")), 31);
    assert_string_equal(json_string_value(json_object_get(job, "phase")), "denoise");
    assert_ptr_equal(strchr(text, '\n') + 1, text + strlen(text)); /* one line */
    json_decref(object);
}

static void without_ranks_it_says_how_they_come(void **state)
{
    const struct refrain_stats none = {0};
    expect_part(print_ranks(*state, &none, (const char *const[]){NULL}), "--launch N");
    assert_string_equal(print_ranks(*state, &none, (const char *const[]){"--json", NULL}),
                        "{\"ranks_replaced\":0,\"groups\":[]}\n");
}

static void quiet_leaves_the_headings_out(void **state)
{
    const char *text = print_ranks(*state, &two, (const char *const[]){"--quiet", NULL});
    assert_null(strstr(text, "BACKEND"));
    expect_part(text, "computing");
}

#define CLIENT_TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLIENT_TEST(groups_come_back_as_plain_numbers),
        CLIENT_TEST(a_table_shows_who_computes_and_who_is_missing),
        CLIENT_TEST(scripts_get_one_object),
        CLIENT_TEST(without_ranks_it_says_how_they_come),
        CLIENT_TEST(quiet_leaves_the_headings_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
