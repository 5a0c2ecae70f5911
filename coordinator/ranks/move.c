/* move.c - see move.h. Runs on the coordinator's loop thread; keeps nothing but group->move. */
#include "coordinator/ranks/move.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/ranks/movejobs.h"
#include "coordinator/orders.h"
#include "coordinator/ranks/repair.h"

/* For jobs to rest and their checkpoints to arrive, beside three of their steps. */
#define PATIENCE_NS         (5 * SECOND_NS)
#define LONGEST_PATIENCE_NS (600 * SECOND_NS)
#define HOME_MARGIN         2                /* so much longer homes wait for what we do then */
#define TAIL_NS             (30 * SECOND_NS) /* for jobs that are nearly done; ranks that came wait no longer */
#define STILL_NS            (60 * SECOND_NS) /* after a move that was called off */
#define WEIGH_NS            SECOND_NS
#define LITTLE_SECONDS      5.0 /* of work to be done again, for ranks that have waited long enough */
#define MORE_NS             (2 * SECOND_NS) /* for others that were told to come back, too */

/* ------------------------------------------------------------------------------------------------ small steps */

static bool is_at_work(const struct group *group)
{
    return group->state == GROUP_READY && group_in_flight(group) > 0;
}

static uint32_t count_leaving(const struct server *server, struct group *group)
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        struct member *member = &group->members[rank];
        member->leaves =
            member->resigns || groups_seat(server->groups, group->name, member->seat) == SEAT_DRAINED;
        count += member->leaves;
    }
    return count;
}

static void tell_homes(struct server *server, const struct group *group, int64_t patience_ns)
{
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if ((rank == 0 || group->plan.floating) && group->members[rank].here)
            order_rest(server->outbox, group, rank, (uint32_t)(patience_ns / MILLISECOND_NS));
}

void move_retell(struct server *server, const struct group *group, uint32_t rank)
{
    int64_t left_ns = HOME_MARGIN * (group->move.until_ns - server->now_ns);
    if (group->move.resting && rank < group->ranks && left_ns > 0)
        order_rest(server->outbox, group, rank, (uint32_t)(left_ns / MILLISECOND_NS));
}

void move_take_rested(struct slot *slot, const Refrain__Rested *rested)
{
    slot->rested = true;
    slot->rested_at = rested->step;
}

/* What an operator wished for is of so many ranks, or of whole stages. */
static bool guests_fit(const struct server *server, const struct group *group, uint32_t leaving,
                       struct error *error)
{
    uint32_t ranks = group->ranks - leaving + group->guests;
    return plan_wish_takes(&server->settings->wish, ranks, false, error) == STATUS_OK;
}

/* -------------------------------------------------------------------------------------------------- the move */

/* Every job in flight can be taken away: it rests, and its checkpoint is durable; or it has none to make. */
static bool is_at_rest(const struct server *server, const struct slot *slot)
{
    struct checkpoint newest;
    const struct job *job = server_slot_job(server, slot);
    bool begun = job && job->progress.has_phase && job->progress.phase >= REFRAIN__PHASE__PHASE_DENOISE;
    if (!slot->assigned || !begun || job->state == REFRAIN__JOB_STATE__JOB_CANCELLING) return true;
    if (!slot->rested || slot->rested_at == 0 || !server->vault) return slot->rested;
    return vault_latest(server->vault, slot->job, &newest) && newest.step >= slot->rested_at;
}

static bool all_at_rest(const struct server *server, const struct group *group)
{
    for (int i = 0; i < GROUP_SLOTS; i++)
        if (group->slots[i].job && !is_at_rest(server, &group->slots[i])) return false;
    return true;
}

static int64_t patience_of(const struct server *server, const struct group *group)
{
    double longest = 0;
    for (int i = 0; i < GROUP_SLOTS; i++) {
        const struct job *job = server_slot_job(server, &group->slots[i]);
        if (job && job->progress.has_step_seconds && isfinite(job->progress.step_seconds))
            longest = fmax(longest, job->progress.step_seconds);
    }
    double patience = PATIENCE_NS + 3 * fmin(longest, 1e4) * SECOND_NS;
    return (int64_t)fmin(patience, LONGEST_PATIENCE_NS);
}

static void begin_rest(struct server *server, struct group *group)
{
    int64_t patience_ns = patience_of(server, group);
    for (int i = 0; i < GROUP_SLOTS; i++) group->slots[i].rested = false;
    group->move.resting = true;
    group->move.until_ns = server->now_ns + patience_ns;
    tell_homes(server, group, HOME_MARGIN * patience_ns);
    log_line(LOG_INFO, "group %.8s: %s; %d jobs are to rest at the end of their steps", group->name,
             group->move.why, group_in_flight(group));
}

static void call_off(struct server *server, struct group *group)
{
    log_line(LOG_WARN, "group %.8s: stays as it is (%s): the jobs did not come to rest within %.0f s",
             group->name, group->move.why, (double)(server->now_ns - group->move.since_ns) / SECOND_NS);
    tell_homes(server, group, 0);
    group->move = (struct move){0};
    group->still_ns = server->now_ns + STILL_NS;
}

static void send_away(struct server *server, struct group *group)
{
    for (uint32_t rank = group->ranks; rank-- > 0;) {
        const struct member *member = &group->members[rank];
        if (!member->leaves) continue;
        const char *why = member->resigns ? "its launcher ends" : "this rank was drained";
        if (member->here) order_shutdown(server->outbox, &member->peer, why);
        group_dismiss(group, rank, server->now_ns);
    }
}

/* The epoch ends here; the next one begins in this turn, with the ranks there are then. */
static void carry_out(struct server *server, struct group *group)
{
    struct move move = group->move;
    bool at_work = is_at_work(group);
    group->move = (struct move){0};
    group->blameless = true;
    repair_give_back(server, group, move.why);
    snprintf(group->failure, sizeof group->failure, "%s", move.why);
    send_away(server, group);
    if (guests_fit(server, group, 0, NULL)) group_admit(server->groups, group, server->now_ns);
    group->planned = false;
    if (move.planned && at_work) {
        group->plan = move.plan;
        group->planned = true;
        group_enter(group, GROUP_COMPLETE, server->now_ns);
    }
    group->laid_ns = server->now_ns;
}

/* ---------------------------------------------------------------------------------------------------- wanting */

/* Every job that was moved got on since; so that nothing is moved to and fro without a step being made. */
static bool all_got_on(const struct server *server, const struct group *group)
{
    for (int i = 0; i < GROUP_SLOTS; i++) {
        const struct slot *slot = &group->slots[i];
        const struct job *job = server_slot_job(server, slot);
        if (!job || slot->attempt < 2) continue;
        Refrain__Phase phase = job->progress.has_phase ? job->progress.phase : REFRAIN__PHASE__PHASE_NONE;
        if (phase < REFRAIN__PHASE__PHASE_DENOISE) return false;
        if (phase == REFRAIN__PHASE__PHASE_DENOISE && job->progress.step <= slot->from) return false;
    }
    return true;
}

static bool may_move(const struct server *server, const struct group *group)
{
    return server->now_ns >= group->still_ns && all_got_on(server, group);
}

static void want(struct server *server, struct group *group, const char *why)
{
    struct move *move = &group->move;
    if (strcmp(move->why, why) != 0) log_line(LOG_DEBUG, "group %.8s: %s", group->name, why);
    snprintf(move->why, sizeof move->why, "%s", why);
    if (!move->wanted) move->since_ns = server->now_ns;
    move->wanted = true;
}

/* "rank 1 was drained", "ranks 1 and 3 joined"... by their seats, guests or those that leave. */
static void name_ranks(const struct group *group, uint32_t from, uint32_t to, bool leaving, const char *what,
                       char *text, size_t bytes)
{
    uint32_t count = 0, named = 0;
    for (uint32_t rank = from; rank < to; rank++) count += !leaving || group->members[rank].leaves;
    size_t used = (size_t)snprintf(text, bytes, "rank%s", count == 1 ? "" : "s");
    for (uint32_t rank = from; rank < to && used + 32 < bytes; rank++) {
        if (leaving && !group->members[rank].leaves) continue;
        const char *before = named == 0 ? " " : named + 1 == count ? " and " : ", ";
        used += (size_t)snprintf(text + used, bytes - used, "%s%u", before, group->members[rank].seat);
        named++;
    }
    if (used < bytes) snprintf(text + used, bytes - used, "%s %s", named < count ? "..." : "", what);
}

static const char *how_they_leave(const struct group *group, uint32_t leaving)
{
    bool drained = false;
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        drained |= group->members[rank].leaves && !group->members[rank].resigns;
    if (!drained) return leaving == 1 ? "leaves" : "leave";
    return leaving == 1 ? "was drained" : "were drained";
}

static void want_change(struct server *server, struct group *group, uint32_t leaving, bool joins)
{
    char gone[96], came[96], why[sizeof group->move.why];
    name_ranks(group, 0, group->ranks, true, how_they_leave(group, leaving), gone, sizeof gone);
    name_ranks(group, group->ranks, group->ranks + group->guests, false, "joined", came, sizeof came);
    if (leaving && joins)
        snprintf(why, sizeof why, "%.60s, %.60s", gone, came);
    else
        snprintf(why, sizeof why, "%s", leaving ? gone : came);
    want(server, group, why);
}

/* Another one was told to come, too: one move is enough for both. */
static bool awaits_more(const struct server *server, const struct group *group)
{
    uint32_t rank, seats = group->reserved > group->seats ? group->reserved : group->seats;
    if (server->now_ns - group->guest_ns > MORE_NS) return false;
    for (uint32_t seat = 0; seat < seats; seat++) {
        enum seat_state state = groups_seat(server->groups, group->name, seat);
        bool awaited = state == SEAT_RETURNING || (state == SEAT_SERVES && seat >= group->own);
        if (awaited && !group_rank_of(group, seat, &rank) && !group_guest_of(group, seat, &rank)) return true;
    }
    return false;
}

/* Ranks that came are let in where that brings anything at all; and after a while, unless a job would lose much by it. */
static bool guests_may_join(struct server *server, struct group *group)
{
    struct movejobs jobs;
    struct plan plan;
    struct move_worth worth;
    if (!is_at_work(group) || group->move.resting) return true;
    if (!may_move(server, group) || awaits_more(server, group)) return false;
    if (server->now_ns - group->weighed_ns < WEIGH_NS) return group->move.wanted;
    group->weighed_ns = server->now_ns;
    if (!movejobs_gather(server, group, &jobs)) return true; /* nothing is known: a step is little */
    bool waited = server->now_ns - group->guest_ns > TAIL_NS;
    if (waited && movejobs_again(&jobs) < LITTLE_SECONDS) return true;
    movejobs_weigh(server, group, &jobs, &plan, &worth);
    log_line(LOG_DEBUG, "group %.8s: with its guests %.1f s instead of %.1f s, and %.1f s for the move",
             group->name, worth.then, worth.now, worth.cost);
    return worth.now <= 0 || worth.now - worth.then > worth.cost;
}

/* An operator's layout stays; where homes are is not what a layout is chosen by. */
static bool is_open(const struct plan_wish *wish)
{
    return wish->layout == PLAN_LAYOUT_AUTO && !wish->runs && !wish->has_fold && wish->width < 2;
}

static void want_layout(struct server *server, struct group *group)
{
    struct movejobs jobs;
    struct plan plan;
    struct move_worth worth;
    char why[sizeof group->move.why];
    bool settled = server->now_ns - group->laid_ns >= server->settings->settle_ms * MILLISECOND_NS;
    if (!is_at_work(group) || !settled || server->now_ns - group->weighed_ns < WEIGH_NS ||
        !may_move(server, group))
        return;
    group->weighed_ns = server->now_ns;
    if (!is_open(&server->settings->wish) || !movejobs_gather(server, group, &jobs)) return;
    bool pays = movejobs_weigh(server, group, &jobs, &plan, &worth);
    log_line(LOG_DEBUG, "group %.8s: %.1f s instead of %.1f s with another layout, and %.1f s for the move",
             group->name, worth.then, worth.now, worth.cost);
    if (!pays) return;
    snprintf(why, sizeof why, "laid out anew: %s, %.0f s expected gain, %.0f s cost", plan_kind(&plan),
             worth.now - worth.then, worth.cost);
    want(server, group, why);
    group->move.planned = true;
    group->move.plan = plan;
}

/* A job that is nearly done would have to decode again: it is waited for, though not for ever. */
static bool waits_for_ends(const struct server *server, const struct group *group)
{
    if (server->now_ns - group->move.since_ns > TAIL_NS) return false;
    for (int i = 0; i < GROUP_SLOTS; i++) {
        const struct job *job = server_slot_job(server, &group->slots[i]);
        if (job && movejobs_nearly_done(job)) return true;
    }
    return false;
}

/* Guests whose seat was drained meanwhile, or whose launcher ends, never get in. */
static void send_guests_away(struct server *server, struct group *group)
{
    for (uint32_t rank = group->ranks + group->guests; rank-- > group->ranks;) {
        const struct member *guest = &group->members[rank];
        bool drained = groups_seat(server->groups, group->name, guest->seat) == SEAT_DRAINED;
        if (!drained && !guest->resigns) continue;
        const char *why = drained ? "this rank was drained" : "its launcher ends";
        order_shutdown(server->outbox, &guest->peer, why);
        group_vacate(group, rank, server->now_ns, "%s", why);
    }
}

/* What is wanted now; what was wanted may have lost its reason. */
static void look_for_reasons(struct server *server, struct group *group, uint32_t leaving)
{
    struct move *move = &group->move;
    struct error error;
    bool fit = group->guests && guests_fit(server, group, leaving, &error), changes = leaving || fit;
    if (group->guests && !fit && group->guest_ns == server->now_ns)
        log_line(LOG_INFO, "group %.8s: the ranks that came wait for others, as with them %s", group->name,
                 error.text);
    if (move->wanted && (move->planned ? changes || !is_at_work(group) : !changes)) {
        if (move->resting && is_at_work(group)) tell_homes(server, group, 0);
        *move = (struct move){0};
    }
    if (leaving || (fit && guests_may_join(server, group)))
        want_change(server, group, leaving, fit);
    else if (!changes && !move->wanted)
        want_layout(server, group);
}

void move_turn(struct server *server, struct group *group)
{
    struct move *move = &group->move;
    if (group->state == GROUP_LOST || group->state == GROUP_BROKEN) return; /* who lives is not known yet */
    send_guests_away(server, group);
    group_forget_seats(server->groups, group);
    uint32_t leaving = count_leaving(server, group);
    look_for_reasons(server, group, leaving);
    if (!move->wanted) return;
    if (!is_at_work(group)) {
        carry_out(server, group);
    } else if (!move->resting) {
        if (!waits_for_ends(server, group)) begin_rest(server, group);
    } else if (all_at_rest(server, group) || (leaving && server->now_ns > move->until_ns)) {
        carry_out(server, group);
    } else if (server->now_ns > move->until_ns) {
        call_off(server, group);
    }
}
