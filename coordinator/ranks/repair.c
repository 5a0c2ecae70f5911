/* repair.c - see repair.h. Runs on the coordinator's loop thread; keeps nothing. */
#include "coordinator/ranks/repair.h"

#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/ranks/drain.h"
#include "coordinator/ranks/joining.h"
#include "coordinator/orders.h"

enum { MOST_ASKS = 4 };

#define SEAT_PATIENCE_NS  (30 * SECOND_NS) /* from asking for a replacement to its Hello */
#define FIRST_PAUSE_NS    (500 * MILLISECOND_NS)
#define RETURN_NS         (2 * SECOND_NS) /* after our own restart: for ranks that were there before */
#define LAUNCHER_GRACE_NS SECOND_NS       /* for a launcher to notice by itself */

/* A world of MPI that lost a rank cannot be mended. */
static bool is_mendable(const struct group *group)
{
    return strcmp(group->fabric, "mpi") != 0;
}

void repair_look(struct server *server, struct group *group)
{
    const struct launcher *launcher = launchers_of(server->launchers, group->name);
    group->repairable = is_mendable(group) && launcher;
    group->own = launcher ? launcher->ranks : 0;
    group->reserved = launchers_end(server->launchers, group->name);
    for (uint32_t rank = 0; rank < group->ranks + group->guests; rank++) {
        struct member *member = &group->members[rank];
        member->resigns = launchers_resign(server->launchers, group->name, member->seat);
    }
}

void repair_give_back(struct server *server, struct group *group, const char *why)
{
    char text[ERROR_TEXT_BYTES + 32];
    enum jobs_loss loss = group->blameless              ? LOSS_NONE
                          : group_in_flight(group) == 1 ? LOSS_ALONE
                                                        : LOSS_COMPANY;
    snprintf(text, sizeof text, "%s%s", group->blameless ? "" : "the ranks were lost: ", why);
    for (int i = 0; i < GROUP_SLOTS; i++)
        if (group->slots[i].job) server_give_back(server, &group->slots[i], loss, text);
    group->disturbed = group->blameless = false;
    /* Should a rank that fell silent wake up, it finds this. */
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        struct member *member = &group->members[rank];
        if (member->outcast && !member->here) order_shutdown(server->outbox, &member->peer, text);
        member->outcast = false;
    }
}

/* ---------------------------------------------------------------------------------------------- launchers */

static struct group *find_group(struct server *server, const char *name)
{
    struct group *group;
    for (size_t i = 0; name && (group = groups_at(server->groups, i)); i++)
        if (strcmp(group->name, name) == 0) return group;
    return NULL;
}

static void relaunch(struct server *server, struct launcher *launcher, const char *why)
{
    order_relaunch(server->outbox, &launcher->peer, launcher->group, why);
    launcher->relaunched = true;
    launcher->lonely_ns = server->now_ns;
}

/* None of a launcher's ranks has come for so long: they hang, or never got this far. */
static void check_lonely(struct server *server, struct launcher *launcher)
{
    const struct settings *settings = server->settings;
    bool inherited = launch_inherited(server->launch) && !launcher->relaunched;
    int64_t limit_ms = inherited ? settings->reconnect_ms : settings->gather_ms;
    if (find_group(server, launcher->group)) {
        launcher->lonely_ns = 0;
    } else if (launcher->lonely_ns == 0) {
        launcher->lonely_ns = server->now_ns;
    } else if (server->now_ns - launcher->lonely_ns <= limit_ms * MILLISECOND_NS) {
        return;
    } else if (launcher->joins) {
        order_shutdown(server->outbox, &launcher->peer, "the group that its ranks were to join is gone");
    } else {
        log_line(LOG_WARN, "no rank came within %.1f s of its start", (double)limit_ms / 1000);
        relaunch(server, launcher, "no rank of it came");
    }
}

void repair_launchers(struct server *server)
{
    struct launcher *launcher;
    launchers_check(server->launchers, server->now_ns, server->settings->silence_ms * MILLISECOND_NS);
    for (size_t i = 0; (launcher = launchers_at(server->launchers, i)); i++)
        if (!launcher->ends) check_lonely(server, launcher);
}

/* ------------------------------------------------------------------------------------------- single seats */

/* The coordinator was restarted, and these ranks were together before: who is missing does not come any more.
 */
static bool was_formed(const struct group *group)
{
    bool before = group->formed;
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        before |= group->members[rank].here && group->members[rank].last_epoch > 0;
    return before;
}

/* Nobody can start it again, or not any more; a group does without those that came to it. */
static void give_up_seat(struct server *server, struct group *group, uint32_t rank, const char *why)
{
    const struct member *member = &group->members[rank];
    if (member->seat >= group->own && (group->repairable || member->alone))
        group_dismiss(group, rank, server->now_ns);
    else if (group->formed)
        group_lose(group, server->now_ns, "%s", why);
}

void repair_seats(struct server *server, struct group *group)
{
    char why[ERROR_TEXT_BYTES];
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        struct member *member = &group->members[rank];
        if (member->here) continue;
        const struct launcher *launcher = launchers_for(server->launchers, group->name, member->seat);
        if (!launcher || !is_mendable(group)) {
            if (!group->formed && server->now_ns - group->since_ns < RETURN_NS)
                continue; /* it may be on its way */
            snprintf(why, sizeof why, "%.400s; no launcher is there to replace it", group->failure);
            give_up_seat(server, group, rank, why);
            return;
        }
        if (member->ask_ns == CLOCK_NEVER && was_formed(group)) member->ask_ns = group->since_ns + RETURN_NS;
        if (server->now_ns < member->ask_ns) continue;
        if (member->asked >= MOST_ASKS) {
            snprintf(why, sizeof why, "rank %u could not be replaced %d times", member->seat, member->asked);
            give_up_seat(server, group, rank, why);
            return;
        }
        member->asked++;
        member->ask_ns = server->now_ns + SEAT_PATIENCE_NS;
        order_replace(server->outbox, &launcher->peer, group, member->seat, member->host, member->threads);
        log_line(LOG_INFO, "group %.8s: a replacement for rank %u is being started", group->name,
                 member->seat);
    }
}

/* Ready again: whoever took a seat has come to stay. */
void repair_settled(struct server *server, struct group *group)
{
    launch_settled(server->launch);
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        struct member *member = &group->members[rank];
        server->ranks_replaced += member->asked > 0;
        member->asked = 0;
        member->ask_ns = CLOCK_NEVER;
    }
}

/* A replacement ended before it had said Hello: again after a pause that doubles. If somebody sits there, it
 * was about an older process. */
static void seat_ended(struct server *server, struct group *group, uint32_t rank)
{
    struct member *member = &group->members[rank];
    if (member->here) return;
    int64_t pause_ns = FIRST_PAUSE_NS;
    for (int i = 1; i < member->asked; i++) pause_ns *= 2;
    if (member->ask_ns != CLOCK_NEVER && member->asked) member->ask_ns = server->now_ns + pause_ns;
}

/* The mpirun that started the group: all that nobody replaced since are gone with it. */
static void group_ended(struct server *server, struct group *group)
{
    group->blameless = is_mendable(group); /* there one dead rank does not end the others */
    if (!group->formed) group_lose(group, server->now_ns, "mpirun ended");
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if (group->members[rank].here && group->members[rank].replaced == 0 && !group->members[rank].alone)
            group_vacate(group, rank, server->now_ns, "rank %u ended with its mpirun",
                         group->members[rank].seat);
}

/* Nobody of them ever came: the launcher is to try again, and its patience grows. */
static void start_failed(struct server *server, const char *name)
{
    struct launcher *launcher = name ? launchers_of(server->launchers, name) : NULL;
    if (!launcher) return;
    launch_failed(server->launch);
    relaunch(server, launcher, "its ranks ended before they had come here");
}

/* They were drained: then their end is no loss, and one of them may be wanted again. */
static bool was_drained(const struct server *server, const struct launcher *launcher)
{
    for (uint32_t seat = launcher->first; seat < launcher->first + launcher->ranks; seat++)
        if (groups_seat(server->groups, launcher->group, seat) == SEAT_DRAINED) return true;
    return false;
}

/* The ranks of a launcher's first mpirun are gone; of those that came to a group others hear by themselves. */
static void first_ended(struct server *server, const struct launcher *launcher, struct group *group)
{
    if (was_drained(server, launcher)) order_stay(server->outbox, &launcher->peer, launcher->group);
    if (!launcher->joins) group_ended(server, group);
}

void repair_take_seat_ended(struct server *server, const struct launcher *launcher,
                            const Refrain__SeatEnded *message)
{
    struct group *group = find_group(server, message->group);
    uint32_t rank;
    log_line(LOG_WARN, "launcher: %s", message->message ? message->message : "ranks ended");
    if (!group) {
        if (!message->has_rank && !launcher->joins) start_failed(server, message->group);
    } else if (!message->has_rank) {
        first_ended(server, launcher, group);
    } else if (group_rank_of(group, message->rank, &rank)) {
        seat_ended(server, group, rank);
    }
}

/* ------------------------------------------------------------------------------------------- whole groups */

void repair_take_launcher(struct server *server, const struct wire_peer *peer,
                          const Refrain__Launcher *message)
{
    struct error error;
    Refrain__Welcome welcome = REFRAIN__WELCOME__INIT;
    Refrain__Launcher known = *message;
    bool asks = message->joins && !message->has_first, near;
    status_t status = asks ? joining_place(server, message, &known, &near, &error) : STATUS_OK;
    if (status == STATUS_OK)
        status = launchers_hello(server->launchers, peer, &known, server->now_ns, &error);
    if (status != STATUS_OK) {
        log_line(LOG_WARN, "a launcher was sent away: %s", error.text);
        order_shutdown(server->outbox, peer, error.text);
        return;
    }
    welcome.has_heartbeat_ms = welcome.has_silence_ms = 1;
    welcome.heartbeat_ms = (uint32_t)server->settings->heartbeat_ms;
    welcome.silence_ms = (uint32_t)server->settings->silence_ms;
    order_welcome(server->outbox, peer, &welcome);
    if (asks) order_joined(server->outbox, peer, known.group, known.first, near);
}

/* Ours without a word from its launcher, or of somebody who has none: there is only its whole mpirun to end.
 */
static void start_anew(struct server *server, const struct group *group)
{
    struct launcher *launcher = launchers_of(server->launchers, group->name);
    if (!group->formed) launch_failed(server->launch);
    if (launcher) {
        relaunch(server, launcher, group->failure);
    } else if (group->launch && group->launch == launch_number(server->launch)) {
        launch_stop(server->launch, server->now_ns, LAUNCHER_GRACE_NS);
    }
}

/* If the commit fails, the job is found running without ranks and queued again later, and the ranks hear of
 * it when they speak next: nothing here needs to be undone. */
void repair_end_group(struct server *server, struct group *group)
{
    char why[ERROR_TEXT_BYTES + 32];
    struct error error;
    snprintf(why, sizeof why, "the ranks were lost: %s", group->failure);
    log_line(LOG_ERROR, "group %.8s of %u ranks is lost: %s", group->name, group->ranks, group->failure);
    repair_give_back(server, group, group->failure);
    order_shutdown_group(server->outbox, group, why);
    joining_end(server, group->name, why);
    if (group->ranks)
        start_anew(server, group);
    else
        drain_launcher(server, group);
    if (jobstore_serve_seats(server->store, group->name, &error) != STATUS_OK)
        log_line(LOG_ERROR, "group %.8s: %s", group->name, error.text);
    groups_remove(server->groups, group);
}
