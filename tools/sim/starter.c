/* starter.c - see starter.h. One thread. */
#include "tools/sim/starter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/sim/office.h"
#include "tools/sim/world.h"

enum { MOST_STARTED = 1024 };

#define BEAT_NS (200 * MILLISECOND_NS)

struct starter {
    struct starter_config config;
    struct control *line;
    char group[65];
    uint32_t groups; /* so far */
    bool over;
    struct seat *seats[SEAT_MAX_RANKS]; /* current */
    bool replaced[SEAT_MAX_RANKS];      /* by a process of its own, whose end is reported */
    struct seat
        *first[SEAT_MAX_RANKS]; /* those that the group began with: one mpirun, which ends with the last */
    bool ended;                 /* ... and that was reported */
    struct seat *all[MOST_STARTED]; /* [started] */
    int started;
};

static void say_launcher(struct starter *s)
{
    Refrain__Launcher message = REFRAIN__LAUNCHER__INIT;
    message.has_ranks = message.has_pid = 1;
    message.group = s->group;
    message.ranks = (uint32_t)s->config.ranks;
    message.host = (char *)(uintptr_t) "virtual";
    message.pid = 1;
    message.fabric = (char *)(uintptr_t) "zmq";
    message.software = (char *)(uintptr_t)REFRAIN_VERSION;
    control_report(s->line, REFRAIN__WORKER_REPORT__BODY_LAUNCHER, &message);
}

/* rank -1: the mpirun. */
static void say_ended(struct starter *s, int rank)
{
    Refrain__SeatEnded message = REFRAIN__SEAT_ENDED__INIT;
    message.group = s->group;
    message.has_rank = rank >= 0;
    message.rank = (uint32_t)(rank < 0 ? 0 : rank);
    message.message = (char *)(uintptr_t)(rank < 0 ? "the ranks ended" : "a replacement ended");
    control_report(s->line, REFRAIN__WORKER_REPORT__BODY_SEAT_ENDED, &message);
}

/* What became of its children, each once. */
static void say_ends(struct starter *s)
{
    bool any = false;
    for (int i = 0; i < s->config.ranks; i++) {
        any |= !s->first[i] || seat_alive(s->first[i]);
        if (!s->replaced[i] || seat_alive(s->seats[i])) continue;
        s->replaced[i] = false;
        say_ended(s, i);
    }
    if (!any && !s->ended) say_ended(s, -1);
    s->ended |= !any;
}

static void beat(void *context, uint64_t unused)
{
    struct starter *s = context;
    if (s->over) return;
    Refrain__Heartbeat heartbeat = REFRAIN__HEARTBEAT__INIT;
    control_report(s->line, REFRAIN__WORKER_REPORT__BODY_HEARTBEAT, &heartbeat);
    say_ends(s);
    world_at(world_now_ns() + BEAT_NS, WORLD_ARRIVES, beat, s, 0);
}

/* Value: the rank, and above it the group it was started for. */
static void start_seat(void *context, uint64_t value)
{
    struct starter *s = context;
    struct error error;
    int rank = (int)(value % SEAT_MAX_RANKS);
    struct seat_config config = s->config.seat;
    bool first = !s->first[rank];
    if (s->over || value / SEAT_MAX_RANKS != s->groups || s->started == MOST_STARTED) return;
    if (s->seats[rank]) seat_kill(s->seats[rank]);
    config.group = s->group;
    config.rank = rank;
    config.ranks = s->config.ranks;
    config.alone = !first;
    config.speed = s->config.speeds ? s->config.speeds[rank] : 1;
    if (seat_open(&config, &s->seats[rank], &error) != STATUS_OK) abort();
    s->all[s->started++] = s->seats[rank];
    if (first)
        s->first[rank] = s->seats[rank];
    else
        s->replaced[rank] = true;
}

static void start_all(struct starter *s)
{
    s->groups++;
    s->ended = false;
    snprintf(s->group, sizeof s->group, "virtual-%u", s->groups);
    for (int i = 0; i < s->config.ranks; i++) {
        if (s->seats[i]) seat_kill(s->seats[i]);
        s->replaced[i] = false;
        s->first[i] = NULL;
        world_at(world_now_ns() + s->config.start_ns, WORLD_ARRIVES, start_seat, s,
                 (uint64_t)i + (uint64_t)s->groups * SEAT_MAX_RANKS);
    }
    if (!s->config.silent) say_launcher(s);
}

static void replace(struct starter *s, const Refrain__Replace *order)
{
    if (!order->group || strcmp(order->group, s->group) != 0 || order->rank >= (uint32_t)s->config.ranks)
        return;
    if (s->seats[order->rank]) seat_kill(s->seats[order->rank]);
    world_at(world_now_ns() + s->config.start_ns, WORLD_ARRIVES, start_seat, s,
             order->rank + (uint64_t)s->groups * SEAT_MAX_RANKS);
}

/* Another coordinator knows nothing of what the last one was told. */
static void retell(struct starter *s)
{
    s->ended = false;
    for (int i = 0; i < s->config.ranks; i++) s->replaced[i] = s->seats[i] && s->seats[i] != s->first[i];
    say_ends(s);
}

static void take_order(void *context, const Refrain__WorkerOrder *order)
{
    struct starter *s = context;
    if (s->over) return;
    switch (order->body_case) {
    case REFRAIN__WORKER_ORDER__BODY_REHELLO:
        say_launcher(s);
        retell(s);
        break;
    case REFRAIN__WORKER_ORDER__BODY_REPLACE:
        replace(s, order->replace);
        break;
    case REFRAIN__WORKER_ORDER__BODY_RELAUNCH:
        if (order->relaunch->group && strcmp(order->relaunch->group, s->group) == 0) start_all(s);
        break;
    default:
        break;
    }
}

status_t starter_open(const struct starter_config *config, struct starter **starter, struct error *error)
{
    if (config->ranks < 1 || config->ranks > SEAT_MAX_RANKS)
        return error_set(error, STATUS_INVALID, "%d ranks: must be 1 to %d", config->ranks, SEAT_MAX_RANKS);
    struct starter *s = calloc(1, sizeof *s);
    if (!s) return error_set(error, STATUS_NO_MEMORY, "no memory for a virtual launcher");
    s->config = *config;
    status_t status = office_line(take_order, s, &s->line, error);
    if (status != STATUS_OK) {
        free(s);
        return status;
    }
    start_all(s);
    if (!config->silent) world_at(world_now_ns() + BEAT_NS, WORLD_ARRIVES, beat, s, 0);
    *starter = s;
    return STATUS_OK;
}

void starter_close(struct starter *s)
{
    if (!s) return;
    s->over = true;
    for (int i = 0; i < s->started; i++) seat_close(s->all[i]);
    control_stop(s->line);
    free(s);
}

struct seat *starter_seat(const struct starter *s, int rank)
{
    return s->seats[rank];
}

int starter_started(const struct starter *s)
{
    return s->started;
}
