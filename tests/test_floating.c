/*
 * test_floating.c - homes on every member: whoever is home of a job, whatever the split, the same bits, and
 * nothing on the wire for what is reused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/pipeline.h"
#include "tests/ring_rig.h"

enum { KINDS = 7, STEPS = 6 };

/* Jobs of three sizes, with and without guidance, under policies of every site that home and stages share. */
static struct job_order order_of(int kind)
{
    static const char *const caches[KINDS] = {
        NULL,
        "dbcache:F=1,B=1,W=1,threshold=0.3,forecast=taylor1",
        "layers:begin=1,end=7,every=2",
        "interval:N=2,first=1,forecast=reuse",
        "dbprune:F=1,B=1,W=1,threshold=0.2",
        "dbcache:F=3,B=0,W=2,threshold=0.3",          /* its probe ends inside the ring */
        "seacache:threshold=0.9,first=1,forecast=reuse", /* looks at the input of block 0, wherever that is */
    };
    static const int sizes[3][3] = {{32, 32, 9}, {48, 32, 5}, {32, 64, 5}};
    return (struct job_order){.job = 1 + (uint64_t)kind,
                              .attempt = 1,
                              .prompt = "a small white ring bouncing on a teal background",
                              .negative = "a red square",
                              .seed = 7 + (uint64_t)kind,
                              .steps = STEPS,
                              .guidance = kind == 3 ? 1 : 4,
                              .shift = 3,
                              .width = sizes[kind % 3][0],
                              .height = sizes[kind % 3][1],
                              .frames = sizes[kind % 3][2],
                              .fps = 16,
                              .cache = caches[kind],
                              .priority = kind % 3};
}

/* What each kind gives on one member, alone. */
static struct pipeline_run alone[KINDS];

static int run_alone(void **state)
{
    for (int i = 0; i < KINDS; i++) {
        alone[i] = (struct pipeline_run){.model = "models/reference", .order = order_of(i)};
        pipeline_execute(&alone[i]);
        if (alone[i].outcome != STATUS_OK) fail_msg("kind %d: %s", i, alone[i].error.text);
        if (i > 0)
            assert_true(i == 2 || i == 4 ||
                        alone[i].cache.report.reused + alone[i].cache.report.forecast > 0);
    }
    return 0;
}

static int free_alone(void **state)
{
    for (int i = 0; i < KINDS; i++) pipeline_free(&alone[i]);
    return 0;
}

static void expect_same(const struct ring_run *ring)
{
    for (int i = 0; i < ring->count; i++) {
        const struct ring_job *job = &ring->jobs[i];
        const struct pipeline_run *like = &alone[job->order.job - 1];
        if (job->outcome != STATUS_OK)
            fail_msg("kind %d at home %d of %d: %s", (int)job->order.job - 1, job->home, ring->split.members,
                     job->error.text);
        assert_int_equal(job->latent_count, like->latent_count);
        if (memcmp(job->latents, like->latents, (size_t)job->latent_count * sizeof(float)) != 0)
            fail_msg("kind %d at home %d of %d: other latents", (int)job->order.job - 1, job->home,
                     ring->split.members);
    }
}

/* `each` jobs at every home, all kinds mixed, all at once. */
static void run_ring(struct split split, int each, int credits)
{
    struct ring_job jobs[32] = {0};
    struct ring_run ring = {.model = "models/reference", .split = split, .credits = credits, .jobs = jobs};
    for (int home = 0; home < (split.floating ? split.members : 1); home++)
        for (int i = 0; i < each; i++) {
            jobs[ring.count] = (struct ring_job){.order = order_of(ring.count % KINDS), .home = home};
            ring.count++;
        }
    ring_execute(&ring);
    expect_same(&ring);
    ring_free(&ring);
}

static void jobs_homed_at_two_members_give_the_bits_of_one(void **state)
{
    run_ring((struct split){.members = 2, .floating = true, .head = 1, .tail = 1, .run = {3, 3}}, 3, 0);
    run_ring((struct split){.members = 2, .floating = true, .head = 3, .tail = 0, .run = {0, 5}}, 3, 0);
}

static void jobs_homed_at_three_members_give_the_bits_of_one(void **state)
{
    run_ring((struct split){.members = 3, .floating = true, .head = 1, .tail = 1, .run = {2, 2, 2}}, 2, 0);
    run_ring((struct split){.members = 3, .floating = true, .head = 0, .tail = 2, .run = {3, 0, 3}}, 2, 0);
}

static void jobs_homed_at_four_and_five_members_give_the_bits_of_one(void **state)
{
    run_ring((struct split){.members = 4, .floating = true, .head = 1, .tail = 1, .run = {2, 1, 2, 1}}, 2, 0);
    run_ring((struct split){.members = 5, .floating = true, .head = 2, .tail = 1, .run = {1, 1, 1, 1, 1}}, 2,
             0);
}

static void a_fixed_home_may_hold_a_part_of_the_ring(void **state)
{
    run_ring((struct split){.members = 2, .head = 1, .tail = 1, .run = {2, 4}}, 6, 0);
    run_ring((struct split){.members = 3, .head = 1, .tail = 0, .run = {1, 0, 6}}, 6, 0);
}

static void a_fixed_home_may_hold_blocks_of_the_next_member_too(void **state)
{
    run_ring((struct split){.members = 2, .head = 1, .tail = 1, .spare = 1, .run = {2, 4}}, 12, 0);
    run_ring((struct split){.members = 3, .head = 1, .tail = 0, .spare = 1, .run = {1, 3, 3}}, 12, 2);
    run_ring((struct split){.members = 4, .head = 1, .tail = 0, .spare = 3, .run = {0, 2, 3, 2}}, 12, 4);
}

/* Two homes whose jobs fill all credits both ways: what comes home must not wait for what goes out. */
static void more_hops_than_credits_do_not_lock_the_ring(void **state)
{
    run_ring((struct split){.members = 2, .floating = true, .head = 1, .tail = 1, .run = {3, 3}}, 10, 2);
    run_ring((struct split){.members = 4, .floating = true, .head = 0, .tail = 0, .run = {2, 2, 2, 2}}, 6, 2);
}

static void a_cancelled_neighbour_changes_nothing(void **state)
{
    struct ring_job jobs[6] = {0};
    struct ring_run ring = {.model = "models/reference",
                            .split = {.members = 3, .floating = true, .head = 1, .tail = 1, .run = {2, 2, 2}},
                            .jobs = jobs,
                            .count = 6};
    for (int i = 0; i < 6; i++)
        jobs[i] = (struct ring_job){
            .order = order_of(i < 3 ? i : i - 3), .home = i % 3, .cancel_at = i < 3 ? 0 : i - 2};
    ring_execute(&ring);
    for (int i = 3; i < 6; i++) assert_int_equal(jobs[i].outcome, STATUS_ABORTED);
    ring.count = 3;
    expect_same(&ring);
    ring.count = 6;
    ring_free(&ring);
}

/* Messages on the wire of one job alone: OPEN and CLOSE, and of each computed branch of a step the way from
 * home through the ring and back. */
static void count_tickets(const char *cache, int home, int hops)
{
    struct ring_job job = {.order = order_of(0), .home = home};
    struct ring_run ring = {
        .model = "models/reference",
        .split = {.members = 4, .floating = true, .head = 1, .tail = 1, .run = {2, 1, 2, 1}},
        .jobs = &job,
        .count = 1};
    uint64_t sent = 0;
    job.order.cache = cache;
    ring_execute(&ring);
    if (job.outcome != STATUS_OK) fail_msg("%s", job.error.text);
    for (int i = 0; i < 4; i++) sent += ring.tickets[i];
    int computed = cache ? job.computed : 2 * STEPS;
    if (cache) assert_true(job.computed > 0 && job.computed < 2 * STEPS);
    assert_int_equal(sent, 2 * 3 + 3 + computed * hops);
    ring_free(&ring);
}

static void hits_send_nothing_and_a_computed_branch_goes_once_around(void **state)
{
    static const char cached[] = "interval:N=3,first=1,forecast=reuse";
    count_tickets(NULL, 0, 4); /* home has the first run: 1, 2, 3, home */
    count_tickets(NULL, 1, 5); /* 0, 1, 2, 3, home */
    count_tickets(NULL, 3, 4); /* 0, 1, 2, 3, and home is there */
    count_tickets(cached, 0, 4);
    count_tickets(cached, 1, 5);
    count_tickets(cached, 3, 4);
    count_tickets("dbcache:F=1,B=1,W=1,threshold=0.5", 2, 5); /* 0, 1, 2, 3, home */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_homed_at_two_members_give_the_bits_of_one),
        cmocka_unit_test(jobs_homed_at_three_members_give_the_bits_of_one),
        cmocka_unit_test(jobs_homed_at_four_and_five_members_give_the_bits_of_one),
        cmocka_unit_test(a_fixed_home_may_hold_a_part_of_the_ring),
        cmocka_unit_test(a_fixed_home_may_hold_blocks_of_the_next_member_too),
        cmocka_unit_test(more_hops_than_credits_do_not_lock_the_ring),
        cmocka_unit_test(a_cancelled_neighbour_changes_nothing),
        cmocka_unit_test(hits_send_nothing_and_a_computed_branch_goes_once_around),
    };
    return cmocka_run_group_tests(tests, run_alone, free_alone);
}
