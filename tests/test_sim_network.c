/*
 * test_sim_network.c - the simulator's fabric keeps the promises of cluster/fabric.h, on the virtual clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tools/sim/network.h"
#include "tools/sim/world.h"

enum { CREDITS = 3, MEMBERS = 3 };

#define LATENCY_NS (5 * MILLISECOND_NS)
#define DEATH_NS   (2 * MILLISECOND_NS)
#define JOIN_NS    (10 * SECOND_NS)
#define BYTES_A_MS 1000.0                /* of a member */
#define MESSAGE    (1000 - TICKET_BYTES) /* takes a millisecond with its ticket */

static struct fabric *members[MEMBERS];
static int woken;

static void count_wake(void *context)
{
    woken++;
}

static int open_members_of(const struct network_config *network)
{
    const struct fabric_config config = {
        .kind = "zmq", .bind = "virtual", .credits = CREDITS, .max_bytes = 4096};
    assert_int_equal(world_open(NULL), STATUS_OK);
    assert_int_equal(network_open(network, NULL), STATUS_OK);
    for (int i = 0; i < MEMBERS; i++) assert_int_equal(fabric_open(&config, &members[i], NULL), STATUS_OK);
    return 0;
}

static int open_members(void **state)
{
    return open_members_of(&(struct network_config){
        .latency_ns = LATENCY_NS, .bytes_per_second = BYTES_A_MS * 1000, .death_ns = DEATH_NS});
}

static int close_members(void **state)
{
    for (int i = 0; i < MEMBERS; i++) fabric_close(members[i]);
    network_close();
    world_close();
    return 0;
}

static void join(int member, uint64_t epoch)
{
    const char *addresses[MEMBERS];
    for (int i = 0; i < MEMBERS; i++) addresses[i] = fabric_address(members[i]);
    struct fabric_membership group = {
        .epoch = epoch, .self = member, .count = MEMBERS, .addresses = addresses, .token = "test"};
    assert_int_equal(fabric_join(members[member], &group, world_now_ns() + JOIN_NS, NULL), STATUS_OK);
}

static void join_all(uint64_t epoch)
{
    for (int i = 0; i < MEMBERS; i++) join(i, epoch);
}

static status_t post(int from, int to, uint64_t job)
{
    static char payload[MESSAGE] = "what is said";
    struct ticket ticket = {.kind = TICKET_HOP, .dtype = TICKET_F32, .job = job, .bytes = MESSAGE};
    return fabric_post(members[from], to, &ticket, payload, job, NULL);
}

/* Lets things happen until the member has an event of that kind; says when, after `began_ns`. */
static struct fabric_event expect(int member, enum fabric_event_kind kind, double ms, int64_t began_ns)
{
    struct fabric_event event;
    while (fabric_next(members[member], &event) != STATUS_OK)
        if (!world_step()) fail_msg("member %d never had an event of kind %d", member, (int)kind);
    assert_int_equal(event.kind, kind);
    if (ms >= 0) assert_int_equal(world_now_ns() - began_ns, (int64_t)(ms * MILLISECOND_NS));
    return event;
}

static void a_message_takes_its_bytes_to_leave_and_the_latency_to_arrive(void **state)
{
    join_all(1);
    int64_t began_ns = world_now_ns();
    assert_int_equal(post(0, 1, 7), STATUS_OK);
    assert_int_equal(expect(0, FABRIC_SENT, 1, began_ns).cookie, 7);
    struct fabric_event event = expect(1, FABRIC_RECEIVED, 6, began_ns);
    assert_int_equal(event.ticket.job, 7);
    assert_int_equal(event.ticket.epoch, 1);
    assert_string_equal(event.payload, "what is said");
    fabric_release(members[1], &event);
}

static void messages_of_one_member_leave_one_after_the_other_whoever_they_are_for(void **state)
{
    join_all(1);
    int64_t began_ns = world_now_ns();
    post(0, 1, 1);
    post(0, 1, 2);
    post(0, 2, 3);
    post(1, 2, 4);
    expect(1, FABRIC_SENT, 1, began_ns);
    expect(1, FABRIC_RECEIVED, 6, began_ns);
    struct fabric_event other = expect(2, FABRIC_RECEIVED, 6, began_ns);
    assert_int_equal(other.ticket.job, 4);
    struct fabric_event second = expect(1, FABRIC_RECEIVED, 7, began_ns);
    assert_int_equal(second.ticket.job, 2);
    struct fabric_event third = expect(2, FABRIC_RECEIVED, 8, began_ns);
    assert_int_equal(third.ticket.job, 3);
    assert_int_equal(network_traffic(0, 1).bytes, 2 * MESSAGE);
}

/* Members 0 and 1 are a node, 2 is another one's. */
static int open_two_nodes(void **state)
{
    return open_members_of(&(struct network_config){.per_node = 2,
                                                    .latency_ns = LATENCY_NS,
                                                    .node_latency_ns = 3 * LATENCY_NS,
                                                    .bytes_per_second = BYTES_A_MS * 1000,
                                                    .node_bytes_per_second = BYTES_A_MS * 250,
                                                    .death_ns = DEATH_NS});
}

static void a_nodes_members_share_its_way_to_other_nodes(void **state)
{
    join_all(1);
    int64_t began_ns = world_now_ns();
    world_enter(1);
    world_charge(MILLISECOND_NS);
    post(1, 2, 1); /* said first, but later on the clock */
    world_leave();
    post(0, 2, 2);
    post(0, 1, 3);
    expect(1, FABRIC_RECEIVED, 6, began_ns); /* another way */
    struct fabric_event first = expect(2, FABRIC_RECEIVED, 4 + 15, began_ns);
    assert_int_equal(first.ticket.job, 2);
    struct fabric_event second = expect(2, FABRIC_RECEIVED, 8 + 15, began_ns);
    assert_int_equal(second.ticket.job, 1);
}

/* Somebody who waits in the middle of his work: here the clock goes on by itself until he is woken. */
static void let_time_go_on(void *context, int64_t deadline_ns)
{
    int before = woken;
    while (woken == before && world_now_ns() < deadline_ns && world_step()) {
    }
}

static void who_waits_is_woken_by_what_arrives_or_at_the_deadline(void **state)
{
    struct fabric_event event;
    join_all(1);
    assert_int_equal(fabric_wait(members[1], world_now_ns() + SECOND_NS, NULL), STATUS_DEADLINE);
    network_notify(members[1], count_wake, let_time_go_on, NULL);
    int64_t began_ns = world_now_ns();
    post(0, 1, 4);
    assert_int_equal(fabric_wait(members[1], began_ns + SECOND_NS, NULL), STATUS_OK);
    assert_int_equal(world_now_ns() - began_ns, 6 * MILLISECOND_NS);
    assert_int_equal(fabric_wait(members[1], began_ns, NULL), STATUS_OK); /* it is still there */
    assert_int_equal(fabric_next(members[1], &event), STATUS_OK);
    fabric_abort(members[0]);
    fabric_leave(members[0]);
    assert_int_equal(fabric_wait(members[1], began_ns + SECOND_NS, NULL), STATUS_OK);
    assert_int_equal(fabric_next(members[1], &event), STATUS_OK);
    assert_int_equal(event.kind, FABRIC_LOST);
    assert_int_equal(fabric_wait(members[1], began_ns + SECOND_NS, NULL), STATUS_PEER_LOST);
}

static void nothing(void *context, uint64_t value) {}

/* Until all that is on its way is there. */
static void settle(void)
{
    int64_t until_ns = world_now_ns() + 100 * MILLISECOND_NS;
    world_at(until_ns, WORLD_ARRIVES, nothing, NULL, 0);
    while (world_now_ns() < until_ns) assert_true(world_step());
}

static void send_and_release(int from, int to)
{
    assert_int_equal(post(from, to, 1), STATUS_OK);
    settle();
    struct fabric_event event = expect(to, FABRIC_RECEIVED, -1, 0);
    fabric_release(members[to], &event);
    expect(from, FABRIC_SENT, -1, 0);
    settle();
}

/* As cluster/fabric_send.c does: not each by itself. */
static void a_credit_is_told_when_more_comes_or_with_what_goes_there_anyway(void **state)
{
    join_all(1);
    send_and_release(0, 1);
    assert_int_equal(fabric_in_flight(members[0], 1), FABRIC_UNTOLD);
    send_and_release(0, 1);
    assert_int_equal(fabric_in_flight(members[0], 1), FABRIC_UNTOLD);
    assert_false(fabric_has_room(members[0], 1, 1));
    assert_true(fabric_has_room(members[0], 1, 1 + FABRIC_UNTOLD));
    send_and_release(1, 0);
    assert_int_equal(fabric_in_flight(members[0], 1), 0);
    assert_true(fabric_has_room(members[0], 1, 1));
}

static void beyond_the_credits_nothing_is_taken_until_the_receiver_released(void **state)
{
    join_all(1);
    for (int i = 0; i < CREDITS; i++) assert_int_equal(post(0, 1, (uint64_t)i), STATUS_OK);
    assert_false(fabric_can_post(members[0], 1));
    assert_true(fabric_can_post(members[0], 2));
    assert_int_equal(post(0, 1, 9), STATUS_AGAIN);
    struct fabric_event event = expect(1, FABRIC_RECEIVED, -1, 0);
    world_run(world_now_ns() + SECOND_NS);
    assert_false(fabric_can_post(members[0], 1)); /* it was received, not released */
    fabric_release(members[1], &event);
    assert_false(fabric_can_post(members[0], 1)); /* the credit is on its way back */
    network_notify(members[0], count_wake, NULL, NULL);
    woken = 0;
    world_run(world_now_ns() + LATENCY_NS);
    assert_int_equal(woken, 1);
    assert_int_equal(post(0, 1, 9), STATUS_OK);
}

static void what_somebody_computes_leaves_when_he_is_done(void **state)
{
    join_all(1);
    int64_t began_ns = world_now_ns();
    world_enter(2);
    world_charge(20 * MILLISECOND_NS); /* he is twice as fast */
    post(0, 1, 1);
    assert_int_equal(clock_now_ns() - began_ns, 10 * MILLISECOND_NS);
    world_leave();
    assert_int_equal(clock_now_ns(), began_ns);
    expect(1, FABRIC_RECEIVED, 16, began_ns);
}

static void a_killed_member_is_missed_and_what_it_had_not_sent_never_comes(void **state)
{
    join_all(1);
    int64_t began_ns = world_now_ns();
    post(0, 1, 1);
    world_enter(1);
    world_charge(20 * MILLISECOND_NS);
    post(0, 1, 2);
    world_leave();
    network_kill(0);
    assert_int_equal(expect(1, FABRIC_LOST, 2, began_ns).peer, 0);
    assert_int_equal(post(1, 2, 5), STATUS_PEER_LOST);
    fabric_leave(members[1]);
    fabric_leave(members[2]);
    world_run(world_now_ns() + SECOND_NS);
    join(1, 2);
    assert_int_equal(fabric_next(members[1], &(struct fabric_event){0}), STATUS_AGAIN);
}

static void a_stopped_member_is_missed_after_two_seconds_and_not_before(void **state)
{
    join_all(1);
    int64_t began_ns = world_now_ns();
    network_stop(2);
    world_run(began_ns + SECOND_NS);
    network_continue(2);
    world_run(began_ns + 10 * SECOND_NS);
    assert_int_equal(fabric_next(members[0], &(struct fabric_event){0}), STATUS_AGAIN);
    began_ns = world_now_ns();
    network_stop(2);
    assert_int_equal(expect(0, FABRIC_LOST, FABRIC_LOST_MS, began_ns).peer, 2);
    fabric_leave(members[0]);
    fabric_leave(members[1]);
    network_continue(2); /* and finds that the others have gone */
    expect(2, FABRIC_LOST, -1, 0);
}

static void a_member_that_never_joins_is_lost_at_the_deadline(void **state)
{
    int64_t began_ns = world_now_ns();
    join(0, 1);
    join(1, 1);
    assert_int_equal(post(0, 2, 1), STATUS_OK);
    assert_int_equal(expect(0, FABRIC_SENT, -1, 0).cookie, 1);
    assert_int_equal(expect(0, FABRIC_LOST, 10000, began_ns).peer, 2);
}

static void what_came_before_the_receiver_joined_waits_for_it(void **state)
{
    join(0, 1);
    post(0, 1, 1);
    post(0, 1, 2);
    world_run(world_now_ns() + SECOND_NS);
    join(1, 1);
    assert_int_equal(expect(1, FABRIC_RECEIVED, -1, 0).ticket.job, 1);
    assert_int_equal(expect(1, FABRIC_RECEIVED, -1, 0).ticket.job, 2);
}

static void an_abort_ends_the_epoch_and_nothing_of_it_is_seen_in_the_next(void **state)
{
    join_all(1);
    post(0, 1, 1);
    fabric_abort(members[1]);
    expect(1, FABRIC_ABORTED, -1, 0);
    assert_int_equal(post(1, 0, 2), STATUS_ABORTED);
    for (int i = 0; i < MEMBERS; i++) fabric_leave(members[i]);
    join_all(2);
    world_run(world_now_ns() + SECOND_NS);
    assert_int_equal(fabric_next(members[1], &(struct fabric_event){0}), STATUS_AGAIN);
    assert_int_equal(post(0, 1, 3), STATUS_OK);
    assert_int_equal(expect(1, FABRIC_RECEIVED, -1, 0).ticket.job, 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_members, close_members)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_message_takes_its_bytes_to_leave_and_the_latency_to_arrive),
        TEST(messages_of_one_member_leave_one_after_the_other_whoever_they_are_for),
        cmocka_unit_test_setup_teardown(a_nodes_members_share_its_way_to_other_nodes, open_two_nodes,
                                        close_members),
        TEST(who_waits_is_woken_by_what_arrives_or_at_the_deadline),
        TEST(a_credit_is_told_when_more_comes_or_with_what_goes_there_anyway),
        TEST(beyond_the_credits_nothing_is_taken_until_the_receiver_released),
        TEST(what_somebody_computes_leaves_when_he_is_done),
        TEST(a_killed_member_is_missed_and_what_it_had_not_sent_never_comes),
        TEST(a_stopped_member_is_missed_after_two_seconds_and_not_before),
        TEST(a_member_that_never_joins_is_lost_at_the_deadline),
        TEST(what_came_before_the_receiver_joined_waits_for_it),
        TEST(an_abort_ends_the_epoch_and_nothing_of_it_is_seen_in_the_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
