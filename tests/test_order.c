/*
 * test_order.c - the order of transfers: agreed upon by messages of any delay, the same on every device; and the
 * checker that proves it from logs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/order.h"
#include "tests/nccl_orders.h"

enum { DEVICES = 5, TRANSFERS = 60, MESSAGES = 4 * TRANSFERS };

/* -------------------------------------------------------------------------------------- a world of devices */

/* One transfer, with its place on either side. */
struct transfer {
    int from, to;
    struct order_place out, in;
};

/* A header, a proposal or an answer on its way; those from one device to another arrive in order. */
struct message {
    enum { HEADER, PROPOSAL, ANSWER } kind;
    int from, to, transfer;
    uint64_t stamp;
};

struct world {
    unsigned random;
    bool agree; /* false: both ends issue as soon as they can, as if there was no order */
    struct order orders[DEVICES];
    struct transfer transfers[TRANSFERS];
    struct message messages[MESSAGES];
    int message_count;
    int issued[DEVICES][2 * TRANSFERS]; /* transfers, in the order of issue */
    uint64_t stamps[DEVICES][2 * TRANSFERS];
    int issued_count[DEVICES];
};

static unsigned draw(struct world *w, unsigned below)
{
    w->random = w->random * 1664525u + 1013904223u;
    return (w->random >> 8) % below;
}

static void send_message(struct world *w, struct message message)
{
    assert_true(w->message_count < MESSAGES);
    w->messages[w->message_count++] = message;
}

static void issue(struct world *w, int device, int transfer, uint64_t stamp)
{
    int at = w->issued_count[device]++;
    w->issued[device][at] = transfer;
    w->stamps[device][at] = stamp;
}

static int transfer_of(struct world *w, const struct order_place *place)
{
    for (int i = 0; i < TRANSFERS; i++)
        if (&w->transfers[i].out == place || &w->transfers[i].in == place) return i;
    fail();
    return -1;
}

static void issue_ready(struct world *w, int device)
{
    for (struct order_place *place; (place = order_next(&w->orders[device])) != NULL;)
        issue(w, device, transfer_of(w, place), place->stamp);
}

static void take(struct world *w, struct message m)
{
    struct transfer *t = &w->transfers[m.transfer];
    struct order *order = &w->orders[m.to];
    if (!w->agree) {
        issue(w, m.to, m.transfer, 0);
        return;
    }
    switch (m.kind) {
    case HEADER:
        order_propose(order, &t->in, t->from);
        send_message(w, (struct message){PROPOSAL, t->to, t->from, m.transfer, t->in.stamp});
        break;
    case PROPOSAL:
        assert_true(order_accept(order, &t->out, t->from, m.stamp));
        send_message(w, (struct message){ANSWER, t->from, t->to, m.transfer, t->out.stamp});
        break;
    case ANSWER:
        assert_true(order_settle(order, &t->in, m.stamp));
        break;
    }
    issue_ready(w, m.to);
}

/* Lets one message arrive: any, but the oldest between its two devices. */
static void deliver_one(struct world *w)
{
    int at = (int)draw(w, (unsigned)w->message_count);
    for (int i = 0; i < at; i++)
        if (w->messages[i].from == w->messages[at].from && w->messages[i].to == w->messages[at].to) at = i;
    struct message m = w->messages[at];
    w->message_count--;
    memmove(&w->messages[at], &w->messages[at + 1], (size_t)(w->message_count - at) * sizeof m);
    take(w, m);
}

static void run_world(struct world *w, unsigned seed, bool agree)
{
    *w = (struct world){.random = seed, .agree = agree};
    for (int begun = 0; begun < TRANSFERS || w->message_count > 0;) {
        bool begins = begun < TRANSFERS && (w->message_count == 0 || draw(w, 3) == 0);
        if (!begins) {
            deliver_one(w);
            continue;
        }
        struct transfer *t = &w->transfers[begun];
        t->from = (int)draw(w, DEVICES);
        t->to = (t->from + 1 + (int)draw(w, DEVICES - 1)) % DEVICES;
        if (!agree) issue(w, t->from, begun, 0);
        send_message(w, (struct message){HEADER, t->from, t->to, begun, 0});
        begun++;
    }
}

/* Devices that run what was issued one after the other, a transfer only together with its other end: true when
 * all come through. */
static bool devices_come_through(const struct world *w)
{
    int at[DEVICES] = {0}, left = TRANSFERS;
    for (bool moved = true; moved;) {
        moved = false;
        for (int d = 0; d < DEVICES; d++) {
            if (at[d] == w->issued_count[d]) continue;
            const struct transfer *t = &w->transfers[w->issued[d][at[d]]];
            int other = t->from == d ? t->to : t->from;
            if (at[other] == w->issued_count[other] || w->issued[other][at[other]] != w->issued[d][at[d]])
                continue;
            at[d]++;
            at[other]++;
            left--;
            moved = true;
        }
    }
    return left == 0;
}

static void devices_that_agree_issue_everything_in_the_order_of_stamps(void **state)
{
    static struct world w;
    for (unsigned seed = 1; seed <= 400; seed++) {
        run_world(&w, seed, true);
        int issued = 0;
        for (int d = 0; d < DEVICES; d++) {
            issued += w.issued_count[d];
            assert_null(w.orders[d].first);
            for (int i = 1; i < w.issued_count[d]; i++) assert_true(w.stamps[d][i - 1] <= w.stamps[d][i]);
        }
        assert_int_equal(issued, 2 * TRANSFERS);
    }
}

static void serial_devices_that_agree_never_wait_in_a_circle(void **state)
{
    static struct world w;
    for (unsigned seed = 1; seed <= 400; seed++) {
        run_world(&w, seed, true);
        assert_true(devices_come_through(&w));
    }
}

/* So the test above can fail. */
static void serial_devices_that_do_not_agree_do_wait_in_circles(void **state)
{
    static struct world w;
    int stuck = 0;
    for (unsigned seed = 1; seed <= 100; seed++) {
        run_world(&w, seed, false);
        stuck += !devices_come_through(&w);
    }
    assert_true(stuck > 50);
}

static void stamps_that_cannot_be_are_refused(void **state)
{
    struct order order = {.clock = 10};
    struct order_place mine, theirs;
    assert_false(order_accept(&order, &theirs, 0, 0));
    assert_false(order_accept(&order, &theirs, 0, ORDER_LAST_STAMP));
    order_propose(&order, &mine, 1);
    assert_int_equal(mine.stamp, 11);
    assert_false(order_settle(&order, &mine, 11)); /* not later than proposed */
    assert_false(order_settle(&order, &mine, 3));
    assert_false(order_settle(&order, &mine, ORDER_LAST_STAMP));
    assert_null(order_next(&order));
    assert_true(order_settle(&order, &mine, 12));
    assert_ptr_equal(order_next(&order), &mine);
}

static void what_is_not_answered_holds_back_what_could_come_after_it_alone(void **state)
{
    struct order order = {0};
    struct order_place open, before, after;
    assert_true(order_accept(&order, &before, 0, 4)); /* 5 */
    order_propose(&order, &open, 1);                  /* 6, or later */
    assert_true(order_accept(&order, &after, 0, 8));  /* 9 */
    assert_ptr_equal(order_next(&order), &before);
    assert_null(order_next(&order));
    order_withdraw(&order, &open);
    assert_ptr_equal(order_next(&order), &after);
}

/* --------------------------------------------------------------------------------------------- the checker */

static char directory[64];

static void write_log(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/orders.%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int make_directory(void **state)
{
    snprintf(directory, sizeof directory, "/tmp/refrain-orders-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static void orders_that_fit_are_accepted(void **state)
{
    char why[256] = "";
    int transfers, processes;
    write_log("1", "1 0 send 0 1 100 3\n1 0 receive 1 0 200 5\n2 0 send 0 1 7 2\n");
    write_log("2", "1 1 receive 0 1 100 3\n1 1 send 1 0 200 5\n2 1 receive 0 1 7 2\n2 1 rec");
    assert_true(nccl_orders_check(directory, why, sizeof why));
    nccl_orders_seen(&transfers, &processes);
    assert_int_equal(transfers, 3);
    assert_int_equal(processes, 2);
}

static void a_circle_over_three_ranks_is_found(void **state)
{
    char why[256] = "";
    write_log("1", "1 0 send 0 1 100 3\n1 0 receive 2 0 100 5\n");
    write_log("2", "1 1 send 1 2 100 4\n1 1 receive 0 1 100 3\n");
    write_log("3", "1 2 send 2 0 100 5\n1 2 receive 1 2 100 4\n");
    assert_false(nccl_orders_check(directory, why, sizeof why));
    assert_non_null(strstr(why, "3 transfers wait for each other in a circle"));
    /* Without the third rank's contradiction there is none. */
    write_log("3", "1 2 receive 1 2 100 4\n1 2 send 2 0 100 5\n");
    assert_true(nccl_orders_check(directory, why, sizeof why));
}

static void more_than_two_outstanding_of_one_direction_are_found(void **state)
{
    char why[256] = "";
    const char *other =
        "1 1 receive 0 1 8 1\n1 1 received 0 1 8 1\n1 1 receive 0 1 8 2\n1 1 receive 0 1 8 4\n";
    write_log("2", other);
    write_log("1", "1 0 send 0 1 8 1\n1 0 send 0 1 8 2\n1 0 send 0 1 8 4\n");
    assert_false(nccl_orders_check(directory, why, sizeof why));
    assert_non_null(strstr(why, "orders.1: line 3 makes more transfers outstanding at once than allowed"));
    /* One was done before; the other direction has its own two, and so has another epoch. */
    write_log("1",
              "1 0 send 0 1 8 1\n1 0 send 0 1 8 2\n1 0 sent 0 1 8 1\n1 0 receive 1 0 8 3\n1 0 send 0 1 8 4\n"
              "2 0 send 0 1 8 1\n");
    assert_true(nccl_orders_check(directory, why, sizeof why));
    write_log("1", "1 0 send 0 1 8 1\n1 0 send 0 1 8 2\n1 0 sent 0 1 8 2\n1 0 sent 0 1 8 2\n");
    assert_false(nccl_orders_check(directory, why, sizeof why));
    assert_non_null(strstr(why, "line 4 ends a transfer that was not called"));
    write_log("1", "1 0 receive 0 1 8 1\n");
    assert_false(nccl_orders_check(directory, why, sizeof why));
    assert_non_null(strstr(why, "does not fit its end"));
}

static void ends_that_do_not_fit_are_found(void **state)
{
    char why[256] = "";
    write_log("1", "1 0 send 0 1 100 3\n");
    write_log("2", "1 1 receive 0 1 101 3\n");
    assert_false(nccl_orders_check(directory, why, sizeof why));
    assert_non_null(strstr(why, "101 bytes"));
    write_log("2", "1 1 receive 0 1 100 4\n");
    assert_false(nccl_orders_check(directory, why, sizeof why));
    assert_non_null(strstr(why, "stamp 4"));
    write_log("2", "nonsense\n");
    assert_false(nccl_orders_check(directory, why, sizeof why));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_that_agree_issue_everything_in_the_order_of_stamps),
        cmocka_unit_test(serial_devices_that_agree_never_wait_in_a_circle),
        cmocka_unit_test(serial_devices_that_do_not_agree_do_wait_in_circles),
        cmocka_unit_test(stamps_that_cannot_be_are_refused),
        cmocka_unit_test(what_is_not_answered_holds_back_what_could_come_after_it_alone),
        cmocka_unit_test_setup_teardown(orders_that_fit_are_accepted, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_circle_over_three_ranks_is_found, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(more_than_two_outstanding_of_one_direction_are_found, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(ends_that_do_not_fit_are_found, make_directory, remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
