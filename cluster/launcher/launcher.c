/*
 * launcher.c - see launcher.h. One loop, one thread, no locks.
 *
 * Level-triggered like the coordinator: orders, signals and ended children change the state, and once per
 * turn follow() does what comes next.
 */
#include "cluster/launcher/launcher.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <zmq.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/signals.h"
#include "cluster/launcher/crew.h"
#include "proto/wire.h"

enum { SOCKET, MONITOR, SIGNALS, FIXED_ITEMS };

#define HEARTBEAT_NS      (500 * MILLISECOND_NS) /* until a Welcome says otherwise */
#define FIRST_PAUSE_NS    (500 * MILLISECOND_NS)
#define LAST_PAUSE_NS     (30 * SECOND_NS)
#define SETTLED_NS        (60 * SECOND_NS) /* a group that lived so long does not make the next pause longer */
#define ASK_GRACE_NS      SECOND_NS        /* for ranks that were told to end by the coordinator */
#define PARTING_NS        (20 * SECOND_NS) /* for jobs to go on without ranks that came to their group */
#define ANNOUNCE_EVERY_NS (200 * MILLISECOND_NS) /* at most: a coordinator may ask after each message */

enum state {
    ASKING,   /* none yet: which seats of the group are they to have? */
    AT_WORK,  /* there is a crew */
    CHANGING, /* it is ending, another one follows */
    PAUSING,  /* none: the next one starts at start_ns */
    LEAVING,  /* it is ending, and so are we */
};

struct launcher {
    const struct launcher_config *config;
    struct mpirun_plan plan; /* the config's; of a group that was joined, with its name and our first seat */
    struct uplink *uplink;
    struct crew *crew; /* NULL: ASKING, PAUSING, or left */
    enum state state;
    char group[CREW_NAME_BYTES], host[256]; /* group: of the latest crew; while ASKING what was typed */
    bool stays;                             /* without ranks: they were drained */
    char why[ERROR_TEXT_BYTES];             /* of an outcome that is none */
    int signals, failures;                  /* failures: groups in a row that did not live long */
    status_t outcome;
    bool announce; /* Launcher is due */
    int64_t announced_ns, heartbeat_ns, next_heartbeat_ns;
    int64_t began_ns; /* the crew */
    int64_t start_ns; /* the next one */
    int64_t order_ns; /* CLOCK_NEVER, or nobody is left: then we act without an order */
};

/* ------------------------------------------------------------------------------------------------- saying */

/* A coordinator that is not there hears it all again when it is back. */
static void report(struct launcher *l, Refrain__WorkerReport__BodyCase body, void *message)
{
    struct error error;
    Refrain__WorkerReport whole = REFRAIN__WORKER_REPORT__INIT;
    if (uplink_away_ns(l->uplink, clock_now_ns())) return;
    wire_stamp(whole);
    whole.body_case = body;
    whole.hello = message; /* the members of the union are all pointers */
    status_t status = wire_send(uplink_socket(l->uplink), NULL, &whole.base, &error);
    if (status != STATUS_OK && status != STATUS_AGAIN)
        log_line(LOG_WARN, "a report was not sent: %s", error.text);
}

static void say_launcher(struct launcher *l)
{
    Refrain__Launcher message = REFRAIN__LAUNCHER__INIT;
    message.group = l->group;
    message.has_ranks = message.has_pid = 1;
    message.ranks = (uint32_t)l->plan.ranks;
    message.pid = (uint32_t)getpid();
    message.host = l->host;
    message.fabric = (char *)(uintptr_t)l->plan.fabric;
    message.has_joins = 1;
    message.joins = l->config->join != NULL;
    message.has_first = l->plan.group != NULL;
    message.first = (uint32_t)l->plan.first;
    message.software = (char *)REFRAIN_VERSION;
    report(l, REFRAIN__WORKER_REPORT__BODY_LAUNCHER, &message);
}

static void say_ends(struct launcher *l)
{
    struct crew_end end;
    while (l->crew && crew_news(l->crew, &end)) {
        Refrain__SeatEnded message = REFRAIN__SEAT_ENDED__INIT;
        message.group = l->group;
        message.has_rank = end.rank != CREW_ALL;
        message.rank = message.has_rank ? (uint32_t)end.rank : 0;
        message.message = end.message;
        report(l, REFRAIN__WORKER_REPORT__BODY_SEAT_ENDED, &message);
    }
}

/* From now on it is not to be counted on, nor are its ranks, some of which may not have come yet. */
static void say_goodbye(struct launcher *l)
{
    Refrain__Goodbye message = REFRAIN__GOODBYE__INIT;
    report(l, REFRAIN__WORKER_REPORT__BODY_GOODBYE, &message);
}

static void announce(struct launcher *l, int64_t now_ns)
{
    if (!l->announce || l->state == LEAVING || now_ns < l->announced_ns + ANNOUNCE_EVERY_NS) return;
    l->announce = false;
    l->announced_ns = now_ns;
    say_launcher(l);
    if (l->crew && l->state == AT_WORK) crew_retell(l->crew);
}

static void beat(struct launcher *l, int64_t now_ns)
{
    Refrain__Heartbeat message = REFRAIN__HEARTBEAT__INIT;
    if (now_ns < l->next_heartbeat_ns) return;
    l->next_heartbeat_ns = now_ns + l->heartbeat_ns;
    report(l, REFRAIN__WORKER_REPORT__BODY_HEARTBEAT, &message);
}

/* --------------------------------------------------------------------------------------------- doing */

static void leave(struct launcher *l, status_t outcome, int64_t now_ns, int64_t grace_ns)
{
    if (l->state != LEAVING) l->outcome = outcome;
    l->state = LEAVING;
    if (l->crew) crew_end(l->crew, now_ns, grace_ns);
}

static void fail(struct launcher *l, status_t outcome, int64_t now_ns, int64_t grace_ns, const char *why)
{
    if (l->state != LEAVING) snprintf(l->why, sizeof l->why, "%s", why);
    leave(l, outcome, now_ns, grace_ns);
}

/* Jobs go on without ranks that came to their group, at the end of their steps, and then the coordinator ends these. */
static void part(struct launcher *l, int64_t now_ns)
{
    bool awaited = l->config->join && l->state == AT_WORK && !uplink_away_ns(l->uplink, now_ns);
    if (l->state != LEAVING) say_goodbye(l);
    leave(l, STATUS_OK, now_ns, awaited ? PARTING_NS : 0);
}

/* The first time at once; when it keeps happening, after pauses that double. */
static void plan_next(struct launcher *l, int64_t now_ns)
{
    l->failures = now_ns - l->began_ns > SETTLED_NS ? 1 : l->failures + 1;
    int64_t pause_ns = l->failures > 1 ? FIRST_PAUSE_NS : 0;
    for (int i = 2; i < l->failures && pause_ns < LAST_PAUSE_NS; i++) pause_ns *= 2;
    l->start_ns = now_ns + (pause_ns < LAST_PAUSE_NS ? pause_ns : LAST_PAUSE_NS);
    if (pause_ns)
        log_line(LOG_WARN, "the next group starts in %.1f s", (double)(l->start_ns - now_ns) / SECOND_NS);
}

static void change(struct launcher *l, int64_t now_ns)
{
    l->state = CHANGING;
    l->order_ns = CLOCK_NEVER;
    crew_end(l->crew, now_ns, 0);
}

static status_t start(struct launcher *l, int64_t now_ns, struct error *error)
{
    l->began_ns = now_ns;
    status_t status = crew_start(&l->plan, l->config->directory, &l->crew, error);
    if (status != STATUS_OK) return status;
    snprintf(l->group, sizeof l->group, "%s", crew_name(l->crew));
    l->state = AT_WORK;
    l->order_ns = CLOCK_NEVER;
    l->announce = true;
    log_line(LOG_INFO, "group %.8s: started %d ranks%s", l->group, l->plan.ranks,
             l->plan.group ? " that are to join it" : "");
    return STATUS_OK;
}

static status_t ask(struct launcher *l, int64_t now_ns, struct error *error)
{
    if (!*l->config->join || strlen(l->config->join) >= sizeof l->group)
        return error_set(error, STATUS_INVALID, "--join: must be 1 to %zu letters of a group's name",
                         sizeof l->group - 1);
    snprintf(l->group, sizeof l->group, "%s", l->config->join);
    l->state = ASKING;
    l->announce = true;
    l->order_ns = now_ns + l->config->order_ns;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------- hearing */

static bool is_ours(const struct launcher *l, const char *group, const char *what)
{
    if (l->state == AT_WORK && group && strcmp(group, l->group) == 0) return true;
    log_line(LOG_INFO, "%s of group %.8s: not the one that runs here now", what, group ? group : "?");
    return false;
}

static void take_replace(struct launcher *l, const Refrain__Replace *order)
{
    struct error error;
    struct crew_seat seat = {.rank = order->rank < CREW_MAX_RANKS ? (int)order->rank : CREW_ALL,
                             .host = order->host,
                             .threads = order->threads < CREW_MAX_THREADS ? (int)order->threads : 0};
    if (!is_ours(l, order->group, "replacement")) {
        l->announce = true;
        return;
    }
    status_t status = crew_replace(l->crew, &seat, &error);
    if (status == STATUS_OK)
        log_line(LOG_INFO, "group %.8s: rank %d is started anew", l->group, seat.rank);
    else
        log_line(LOG_ERROR, "%s", error.text);
    l->order_ns = CLOCK_NEVER;
    l->stays = false;
}

static void take_joined(struct launcher *l, const Refrain__Joined *order, int64_t now_ns)
{
    struct error error;
    if (l->state != ASKING) return;
    if (!order->group || strlen(order->group) >= sizeof l->group || order->first >= CREW_MAX_RANKS) {
        fail(l, STATUS_CORRUPT, now_ns, 0, "--join: the coordinator's answer makes no sense");
        return;
    }
    snprintf(l->group, sizeof l->group, "%s", order->group);
    l->plan.group = l->group;
    l->plan.first = (int)order->first;
    l->plan.near = l->plan.near && order->near;
    if (start(l, now_ns, &error) != STATUS_OK) fail(l, error.status, now_ns, 0, error.text);
}

static void take_shutdown(struct launcher *l, const char *reason, int64_t now_ns)
{
    if (l->state == ASKING) {
        fail(l, STATUS_DENIED, now_ns, 0, reason);
        return;
    }
    log_line(LOG_INFO, "ending: %s", reason);
    leave(l, STATUS_OK, now_ns, ASK_GRACE_NS);
}

static void take_relaunch(struct launcher *l, const Refrain__Relaunch *order, int64_t now_ns)
{
    if (!is_ours(l, order->group, "relaunch")) {
        l->announce = true;
        return;
    }
    log_line(LOG_WARN, "group %.8s is relaunched: %s", l->group,
             order->reason ? order->reason : "as ordered");
    change(l, now_ns);
}

static void take_order(struct launcher *l, const Refrain__WorkerOrder *order, int64_t now_ns)
{
    switch (order->body_case) {
    case REFRAIN__WORKER_ORDER__BODY_WELCOME:
        if (order->welcome->heartbeat_ms) l->heartbeat_ns = order->welcome->heartbeat_ms * MILLISECOND_NS;
        break;
    case REFRAIN__WORKER_ORDER__BODY_REHELLO:
        l->announce = true;
        break;
    case REFRAIN__WORKER_ORDER__BODY_REPLACE:
        take_replace(l, order->replace);
        break;
    case REFRAIN__WORKER_ORDER__BODY_RELAUNCH:
        take_relaunch(l, order->relaunch, now_ns);
        break;
    case REFRAIN__WORKER_ORDER__BODY_JOINED:
        take_joined(l, order->joined, now_ns);
        break;
    case REFRAIN__WORKER_ORDER__BODY_STAY:
        l->stays = l->stays || is_ours(l, order->stay->group, "word");
        break;
    case REFRAIN__WORKER_ORDER__BODY_SHUTDOWN:
        take_shutdown(l, order->shutdown->reason ? order->shutdown->reason : "as ordered", now_ns);
        break;
    default:
        break; /* for ranks */
    }
}

static void take_orders(struct launcher *l, int64_t now_ns)
{
    zmq_msg_t frame;
    struct error error;
    status_t status;
    while ((status = wire_receive(uplink_socket(l->uplink), NULL, &frame, &error)) != STATUS_AGAIN) {
        if (status == STATUS_CORRUPT) continue;
        if (status != STATUS_OK) return;
        Refrain__WorkerOrder *order;
        if (wire_unpack_order(zmq_msg_data(&frame), zmq_msg_size(&frame), &order, &error) == STATUS_OK) {
            take_order(l, order, now_ns);
            refrain__worker_order__free_unpacked(order, NULL);
        } else
            log_line(LOG_WARN, "an order was not understood: %s", error.text);
        zmq_msg_close(&frame);
    }
}

/* The first asks, the second insists. */
static void take_signals(struct launcher *l, int64_t now_ns)
{
    struct signalfd_siginfo signal;
    while (read(l->signals, &signal, sizeof signal) == sizeof signal) {
        bool again = l->state == LEAVING;
        log_line(LOG_INFO, "ending: %s", strsignal((int)signal.ssi_signo));
        part(l, now_ns);
        if (again) {
            crew_free(l->crew);
            l->crew = NULL;
        }
    }
}

/* -------------------------------------------------------------------------------------------- following */

/* Nobody is left. With zmq the coordinator says what comes next, if it is there; an MPI world that broke has
 * only one future. */
static void follow_emptiness(struct launcher *l, int64_t now_ns)
{
    if (l->state != AT_WORK || l->stays || !crew_empty(l->crew)) return;
    if (l->order_ns == CLOCK_NEVER) l->order_ns = now_ns + (mpirun_mends(&l->plan) ? l->config->order_ns : 0);
    if (now_ns < l->order_ns) return;
    if (uplink_away_ns(l->uplink, now_ns)) { /* nothing to do for them without one */
        l->order_ns = now_ns + SECOND_NS;
        return;
    }
    if (l->plan.group) {
        fail(l, STATUS_PEER_LOST, now_ns, 0, "none of the ranks that were to join the group is left");
        return;
    }
    log_line(LOG_WARN, "group %.8s: no rank is left; it is relaunched", l->group);
    change(l, now_ns);
}

static void follow_question(struct launcher *l, int64_t now_ns)
{
    if (l->state != ASKING || now_ns < l->order_ns) return;
    if (uplink_away_ns(l->uplink, now_ns))
        l->order_ns = now_ns + SECOND_NS; /* follow_orphan has a patience of its own */
    else
        fail(l, STATUS_DEADLINE, now_ns, 0, "--join: the coordinator does not answer");
}

static void follow_end(struct launcher *l, int64_t now_ns)
{
    if (!l->crew || !crew_over(l->crew) || l->state == AT_WORK) return;
    crew_free(l->crew);
    l->crew = NULL;
    if (l->state != CHANGING) return;
    l->state = PAUSING;
    plan_next(l, now_ns);
}

/* A failure to start (no mpirun, no memory) is retried like a group that ended: the machine may be mended. */
static void follow_pause(struct launcher *l, int64_t now_ns)
{
    struct error error;
    if (l->state != PAUSING || now_ns < l->start_ns || start(l, now_ns, &error) == STATUS_OK) return;
    log_line(LOG_ERROR, "%s", error.text);
    plan_next(l, now_ns);
}

static void follow_orphan(struct launcher *l, int64_t now_ns)
{
    if (l->state == LEAVING || uplink_away_ns(l->uplink, now_ns) < l->config->orphan_ns) return;
    log_line(LOG_ERROR, "no coordinator at %s for %d s: ending", l->config->uplink.endpoint,
             (int)(l->config->orphan_ns / SECOND_NS));
    fail(l, STATUS_PEER_LOST, now_ns, 0, "ended without a coordinator");
}

/* What time and the states bring about; the order matters only for how soon. */
static void follow(struct launcher *l, int64_t now_ns)
{
    if (l->crew) {
        crew_reap(l->crew);
        crew_tick(l->crew, now_ns);
    }
    announce(l, now_ns);
    if (l->state == AT_WORK) say_ends(l);
    beat(l, now_ns);
    follow_orphan(l, now_ns);
    follow_question(l, now_ns);
    follow_emptiness(l, now_ns);
    follow_end(l, now_ns);
    follow_pause(l, now_ns);
}

/* ----------------------------------------------------------------------------------------------- the loop */

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t wake_ns(const struct launcher *l)
{
    int64_t at_ns = earlier(l->next_heartbeat_ns, l->order_ns);
    if (l->announce) at_ns = earlier(at_ns, l->announced_ns + ANNOUNCE_EVERY_NS);
    if (l->state == PAUSING) at_ns = earlier(at_ns, l->start_ns);
    return l->crew ? earlier(at_ns, crew_wake_ns(l->crew)) : at_ns;
}

static void wait_for_events(struct launcher *l)
{
    zmq_pollitem_t items[FIXED_ITEMS + CREW_POLL_ITEMS] = {
        [SOCKET] = {.socket = uplink_socket(l->uplink), .events = ZMQ_POLLIN},
        [MONITOR] = {.socket = uplink_monitor(l->uplink), .events = ZMQ_POLLIN},
        [SIGNALS] = {.fd = l->signals, .events = ZMQ_POLLIN},
    };
    int count = FIXED_ITEMS + (l->crew ? crew_poll(l->crew, items + FIXED_ITEMS) : 0);
    zmq_poll(items, count, clock_poll_ms(wake_ns(l))); /* what happened is found out by looking */
}

static void turn(struct launcher *l)
{
    wait_for_events(l);
    int64_t now_ns = clock_now_ns();
    enum uplink_change change = uplink_change(l->uplink, now_ns);
    if (change == UPLINK_BACK) l->announce = true;
    if (change == UPLINK_GONE)
        log_line(LOG_WARN, "the coordinator went away; waiting up to %d s for it",
                 (int)(l->config->orphan_ns / SECOND_NS));
    take_signals(l, now_ns);
    take_orders(l, now_ns);
    follow(l, now_ns);
}

status_t launcher_run(const struct launcher_config *config, struct error *error)
{
    struct launcher l = {.config = config,
                         .plan = *config->plan,
                         .outcome = STATUS_OK,
                         .heartbeat_ns = HEARTBEAT_NS,
                         .order_ns = CLOCK_NEVER};
    int64_t now_ns = clock_now_ns();
    gethostname(l.host, sizeof l.host - 1);
    status_t status = signals_open(&l.signals, error);
    if (status != STATUS_OK) return status;
    status = uplink_open(&config->uplink, now_ns, &l.uplink, error);
    if (status == STATUS_OK) status = config->join ? ask(&l, now_ns, error) : start(&l, now_ns, error);
    while (status == STATUS_OK && (l.state != LEAVING || l.crew)) turn(&l);
    if (status == STATUS_OK && l.outcome != STATUS_OK) status = error_set(error, l.outcome, "%s", l.why);
    crew_free(l.crew);
    uplink_close(l.uplink);
    close(l.signals);
    return status;
}
