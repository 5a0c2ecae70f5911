/* seat.c - see seat.h. One thread. */
#include "tools/sim/seat.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "tools/sim/fiber.h"
#include "tools/sim/keeper.h"
#include "tools/sim/network.h"
#include "tools/sim/office.h"
#include "tools/sim/world.h"
#include "worker/rank.h"

enum { PIDS_FROM = 100000, DIRECTORY_BYTES = 512 };

struct seat {
    struct seat_config config;
    struct engine engine;
    struct control *control;
    struct courier *courier;
    struct rank *rank;
    struct rank_config rank_config;
    struct fiber *fiber; /* takes the turns: the rank may wait in the middle of one, for other ranks */
    bool killed, stopped, ended;
    bool in_turn, worked;      /* a turn is not over yet; it did something */
    int64_t again_ns, wait_ns; /* when the turn wants another one; when its wait is over */
    bool alarmed;              /* the end of a wait was announced, of this one or an earlier one */
    int64_t busy_until_ns, busy_ns;
    int64_t turn_ns; /* when it goes on; CLOCK_NEVER: somebody must wake it */
    char group[65], name[32];
    char directory[DIRECTORY_BYTES];
};

static void take_turn(void *context, uint64_t when_ns);

static void turn_at(struct seat *seat, int64_t when_ns)
{
    if (when_ns < seat->busy_until_ns) when_ns = seat->busy_until_ns;
    if (when_ns >= seat->turn_ns) return;
    seat->turn_ns = when_ns;
    world_at(when_ns, WORLD_WORKS, take_turn, seat, (uint64_t)when_ns);
}

static void wake(void *context)
{
    struct seat *seat = context;
    turn_at(seat, world_now_ns());
}

static void end(struct seat *seat)
{
    struct error error;
    seat->ended = true;
    rank_close(seat->rank, &error);
    seat->rank = NULL;
    fabric_leave(seat->engine.fabric);
    control_stop(seat->control);
    seat->control = NULL;
}

/* On its own stack, turn after turn. */
static void take_turns(void *context)
{
    struct seat *seat = context;
    for (;;) {
        seat->worked = rank_turn(seat->rank, &seat->again_ns);
        seat->in_turn = false;
        fiber_pause(seat->fiber);
    }
}

/* The rank waits for the fabric: it goes on when something arrives that it has not seen, or at the deadline. */
static void wait(void *context, int64_t deadline_ns)
{
    struct seat *seat = context;
    seat->wait_ns = deadline_ns;
    fiber_pause(seat->fiber);
}

/* Waits are many and their ends far away: one at a time is announced. */
static void alarm_seat(void *context, uint64_t unused);

static void set_alarm(struct seat *seat)
{
    if (seat->alarmed) return;
    seat->alarmed = true;
    world_at(seat->wait_ns, WORLD_WORKS, alarm_seat, seat, 0);
}

static void alarm_seat(void *context, uint64_t unused)
{
    struct seat *seat = context;
    seat->alarmed = false;
    if (!seat->in_turn || seat->killed) return;
    if (world_now_ns() < seat->wait_ns)
        set_alarm(seat);
    else
        wake(seat);
}

static void take_turn(void *context, uint64_t when_ns)
{
    struct seat *seat = context;
    if (seat->turn_ns != (int64_t)when_ns) return; /* another one was made for an earlier moment */
    seat->turn_ns = CLOCK_NEVER;
    if (seat->killed || seat->stopped || seat->ended) return;
    if (world_now_ns() < seat->busy_until_ns) { /* woken by what it did itself, while it was at it */
        turn_at(seat, seat->busy_until_ns);
        return;
    }
    log_identify(seat->name);
    world_enter(seat->config.speed);
    seat->in_turn = true;
    fiber_resume(seat->fiber);
    seat->busy_until_ns = world_leave();
    log_identify("coordinator");
    seat->busy_ns += seat->busy_until_ns - world_now_ns();
    if (seat->in_turn)
        set_alarm(seat);
    else if (rank_over(seat->rank))
        end(seat);
    else
        turn_at(seat, seat->worked ? seat->busy_until_ns : seat->again_ns);
}

/* --------------------------------------------------------------------------------------------------- life */

static void describe(const struct seat *seat, struct control_config *config)
{
    Refrain__Hello *hello = &config->hello;
    refrain__hello__init(hello);
    hello->has_rank = hello->has_ranks = hello->has_pid = hello->has_threads = hello->has_memory_bytes =
        hello->has_gflops = 1;
    hello->group = (char *)(uintptr_t)seat->group;
    hello->rank = (uint32_t)seat->config.rank;
    hello->ranks = (uint32_t)seat->config.ranks;
    hello->host = (char *)(uintptr_t) "virtual";
    hello->pid = (uint32_t)(PIDS_FROM + network_port(seat->engine.fabric));
    hello->backend = (char *)(uintptr_t)seat->engine.ops->name;
    hello->threads = 1;
    hello->has_alone = 1;
    hello->alone = seat->config.alone;
    hello->memory_bytes = (uint64_t)1 << 40;
    hello->gflops = 100 * seat->config.speed;
    hello->fabric = (char *)(uintptr_t) "zmq";
    hello->fabric_address = (char *)(uintptr_t)fabric_address(seat->engine.fabric);
    hello->software = (char *)(uintptr_t)REFRAIN_VERSION;
    config->coordinator = "virtual";
    config->orphan_ns = seat->config.orphan_ns;
    config->fabric = seat->engine.fabric;
    config->progress = &seat->engine.progress;
    config->block_token_ns = &seat->engine.block_token_ns;
    config->paces = seat->engine.paces;
}

status_t seat_open(const struct seat_config *config, struct seat **seat, struct error *error)
{
    const struct fabric_config fabric = {.kind = "zmq",
                                         .bind = "virtual",
                                         .credits = config->credits ? config->credits : ENGINE_CREDITS,
                                         .max_bytes = (uint64_t)1 << 30};
    struct control_config control = {0};
    struct seat *s = calloc(1, sizeof *s);
    if (!s) return error_set(error, STATUS_NO_MEMORY, "no memory for a seat");
    s->config = *config;
    snprintf(s->group, sizeof s->group, "%s", config->group);
    snprintf(s->name, sizeof s->name, "rank %d", config->rank);
    s->turn_ns = CLOCK_NEVER;
    s->engine.ops = ops_find("auto");
    s->engine.team = config->team;
    s->engine.members = 1;
    status_t status = fabric_open(&fabric, &s->engine.fabric, error);
    if (status != STATUS_OK) goto err_seat;
    snprintf(s->directory, sizeof s->directory, "%s/rank-%d", config->directory,
             network_port(s->engine.fabric));
    if (mkdir(s->directory, 0700) != 0) {
        status = error_set(error, STATUS_IO, "%s: cannot be made: %m", s->directory);
        goto err_fabric;
    }
    describe(s, &control);
    status = control_start(&control, &s->control, error);
    if (status == STATUS_OK && config->checkpoints)
        status = courier_open(&(struct courier_config){0}, &s->courier, error);
    s->rank_config = (struct rank_config){.engine = &s->engine,
                                          .control = s->control,
                                          .courier = s->courier,
                                          .directory = s->directory,
                                          .join_timeout_ns = config->join_ns};
    if (status == STATUS_OK) status = fiber_open(take_turns, s, &s->fiber, error);
    if (status == STATUS_OK) status = rank_open(&s->rank_config, &s->rank, error);
    if (status != STATUS_OK) goto err_control;
    network_notify(s->engine.fabric, wake, wait, s);
    office_notify(s->control, wake, s);
    if (s->courier) keeper_notify(s->courier, wake, s);
    *seat = s;
    return STATUS_OK;
err_control:
    fiber_close(s->fiber);
    courier_close(s->courier);
    control_stop(s->control);
err_fabric:
    fabric_close(s->engine.fabric);
err_seat:
    free(s);
    return status;
}

/* What a process leaves behind when it is killed: files of jobs. One level of folders. */
static void remove_files(const char *directory)
{
    char path[2 * DIRECTORY_BYTES];
    struct dirent *entry;
    DIR *open = opendir(directory);
    while (open && (entry = readdir(open))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%.500s/%.500s", directory, entry->d_name);
        if (unlink(path) != 0) remove_files(path);
    }
    if (open) closedir(open);
    rmdir(directory);
}

void seat_close(struct seat *seat)
{
    if (!seat) return;
    if (seat->rank) rank_close(seat->rank, &(struct error){0});
    fiber_close(seat->fiber);
    control_stop(seat->control);
    courier_close(seat->courier);
    fabric_close(seat->engine.fabric);
    remove_files(seat->directory);
    free(seat);
}

/* The rank's memory is kept until the end of the world, but nobody works in it any more. */
void seat_kill(struct seat *seat)
{
    if (!seat_alive(seat)) return;
    seat->killed = true;
    network_kill(network_port(seat->engine.fabric));
    office_kill(seat->control);
    if (seat->courier) keeper_kill(seat->courier);
}

void seat_stop(struct seat *seat)
{
    if (!seat_alive(seat)) return;
    seat->stopped = true;
    network_stop(network_port(seat->engine.fabric));
    office_stop(seat->control, true);
}

void seat_continue(struct seat *seat)
{
    if (!seat_alive(seat) || !seat->stopped) return;
    seat->stopped = false;
    network_continue(network_port(seat->engine.fabric));
    office_stop(seat->control, false);
    wake(seat);
}

bool seat_alive(const struct seat *seat)
{
    return !seat->killed && !seat->ended;
}

int seat_port(const struct seat *seat)
{
    return network_port(seat->engine.fabric);
}

int64_t seat_busy_ns(const struct seat *seat)
{
    return seat->busy_ns;
}
