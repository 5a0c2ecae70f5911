/*
 * groups.c - see groups.h: the list of groups, their states, and who is alive. Runs on the coordinator's loop thread; holds no
 * locks, sends nothing.
 */
#include "coordinator/ranks/groups_core.h"

#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/tier/directory.h"

enum { MAX_BROKEN_EPOCHS = 3 };

/* After a lost epoch: long enough for a dead rank to be noticed, short enough not to keep jobs waiting. */
#define BROKEN_GRACE_NS (2500 * MILLISECOND_NS)
#define BROKEN_HEARD_NS (1500 * MILLISECOND_NS)
#define SUSPECT_NS      (700 * MILLISECOND_NS) /* three heartbeats */

status_t groups_open(const struct group_limits *limits, struct groups **groups, struct error *error)
{
    struct groups *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the list of groups");
    made->limits = *limits;
    if (gethostname(made->host, sizeof made->host - 1) != 0) made->host[0] = '\0';
    *groups = made;
    return STATUS_OK;
}

static void group_free(struct group *group)
{
    for (uint32_t rank = 0; rank < people(group); rank++) close_pidfd(&group->members[rank]);
    directory_close(group->directory);
    figures_free(&group->figures);
    free(group->copies);
    links_close(&group->links);
    free(group->members);
    free(group);
}

void groups_close(struct groups *groups)
{
    if (!groups) return;
    for (size_t i = 0; i < groups->count; i++) group_free(groups->list[i]);
    free(groups->drained);
    free(groups);
}

/* ------------------------------------------------------------------------------------------------- states */

/* Entering a state also begins its clocks and forgets who answered in the one before. */
void group_enter(struct group *group, enum group_state state, int64_t now_ns)
{
    group->state = state;
    group->since_ns = now_ns;
    group->progress_ns = now_ns;
    for (uint32_t i = 0; i < group->ranks; i++) group->members[i].answered = false;
}

void group_lose(struct group *group, int64_t now_ns, const char *format, ...)
{
    if (group->state == GROUP_LOST) return; /* the first reason is the cause */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(group->failure, sizeof group->failure, format, arguments);
    va_end(arguments);
    group_enter(group, GROUP_LOST, now_ns);
}

/* So much is left that replacing the rest is quicker than starting anew: survivors keep their weights. */
static bool worth_repairing(const struct group *group)
{
    bool drained = group->ranks < group->seats; /* a new group would have these again */
    return group->repairable && (drained || (2 * group->here >= group->ranks && group->here > 0));
}

/* The group never counted on it. */
static void lose_guest(struct group *group, uint32_t rank)
{
    struct member *guest = &group->members[rank];
    log_line(LOG_WARN, "group %.8s: rank %u, which was to join it, is gone", group->name, guest->seat);
    close_pidfd(guest);
    if (group->directory) directory_drop(group->directory, guest->seat);
    figures_drop(&group->figures, guest->seat);
    group->guests--;
    memmove(guest, guest + 1, (people(group) - rank) * sizeof *guest);
}

void group_vacate(struct group *group, uint32_t rank, int64_t now_ns, const char *format, ...)
{
    struct member *member = &group->members[rank];
    va_list arguments;
    if (rank >= group->ranks) {
        lose_guest(group, rank);
        return;
    }
    if (group->state == GROUP_LOST || !member->here) return;
    va_start(arguments, format);
    vsnprintf(group->failure, sizeof group->failure, format, arguments);
    va_end(arguments);
    log_line(LOG_WARN, "group %.8s: %s", group->name, group->failure);
    close_pidfd(member);
    member->here = false;
    member->outcast = true;
    member->epoch = 0;
    member->model[0] = '\0';
    if (group->directory) directory_drop(group->directory, member->seat);
    figures_drop(&group->figures, member->seat);
    member->compute_progress = 0;
    member->progress_ns = 0;
    member->vacant_ns = member->ask_ns = now_ns;
    group->here--;
    group->disturbed = true;
    group->suspect = -1;
    /* One that was about to leave need not be replaced, and one that came later took nobody along. */
    bool dispensable = member->leaves || (member->alone && member->seat >= group->own);
    bool goes_on = worth_repairing(group) || (dispensable && group->here > 0);
    group_enter(group, goes_on ? GROUP_GATHERING : GROUP_LOST, now_ns);
}

struct slot *group_slot(struct group *group, uint64_t job)
{
    for (int i = 0; i < GROUP_SLOTS; i++)
        if (group->slots[i].job == job) return &group->slots[i];
    return NULL;
}

int group_in_flight(const struct group *group)
{
    int count = 0;
    for (int i = 0; i < GROUP_SLOTS; i++) count += group->slots[i].job != 0;
    return count;
}

static bool all_answered(const struct group *group)
{
    for (uint32_t i = 0; i < group->ranks; i++)
        if (!group->members[i].answered) return false;
    return true;
}

void group_epoch_ready(struct group *group, uint32_t rank, uint64_t epoch, int64_t now_ns)
{
    if (group->state != GROUP_JOINING || epoch != group->epoch) return;
    group->members[rank].answered = true;
    group->members[rank].epoch = epoch;
    if (!all_answered(group)) return;
    group_enter(group, GROUP_READY, now_ns);
    log_line(LOG_INFO, "group %.8s: epoch %lu is ready, %u ranks, %s", group->name,
             (unsigned long)group->epoch, group->ranks, group->members[0].backend);
}

/* Only an epoch that is the current one can be lost; a report about an older one was overtaken by its
 * successor. */
void group_epoch_lost(struct group *group, uint32_t rank, const Refrain__EpochLost *lost, int64_t now_ns)
{
    if (lost->epoch != group->epoch || group->state < GROUP_JOINING || group->state > GROUP_LOADING) return;
    uint32_t seat = group->members[rank].seat,
             other = lost->peer < group->ranks ? group->members[lost->peer].seat : lost->peer;
    snprintf(group->failure, sizeof group->failure, "rank %u lost rank %u%s%s", seat, other,
             lost->message ? ": " : "", lost->message ? lost->message : "");
    log_line(LOG_WARN, "group %.8s: epoch %lu is over: %s", group->name, (unsigned long)group->epoch,
             group->failure);
    group->disturbed = true;
    group->suspect = lost->peer < group->ranks && lost->peer != rank ? (int)lost->peer : -1;
    group_enter(group, GROUP_BROKEN, now_ns);
}

/* The first load of a model reads all of it; later ones may find most of it in place, and say nothing. */
static void learn_load(struct group *group)
{
    uint32_t most = 1;
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if (plan_blocks(&group->plan, rank) > most) most = plan_blocks(&group->plan, rank);
    double seconds = group->load_seconds / most;
    bool same = strcmp(group->load_model, group->model) == 0;
    if (same && seconds <= group->load_block_seconds) return;
    memcpy(group->load_model, group->model, sizeof group->load_model);
    group->load_block_seconds = seconds;
}

/* LOADING is over when everybody answered, well or badly: only then may the next order be given. */
static void load_answered(struct group *group, uint32_t rank, int64_t now_ns)
{
    group->members[rank].answered = true;
    if (!all_answered(group)) return;
    double seconds = (double)(now_ns - group->since_ns) / SECOND_NS;
    group->load_seconds = seconds;
    group->loaded_ns = now_ns;
    if (group->load_status == STATUS_OK) learn_load(group);
    if (group->load_status == STATUS_OK)
        log_line(LOG_INFO, "group %.8s: model %s loaded in %.2f s", group->name, group->model, seconds);
    else
        log_line(LOG_ERROR, "group %.8s: model %s cannot be loaded: %s", group->name, group->model,
                 group->failure);
    group_enter(group, GROUP_READY, now_ns);
}

/* What a rank holds now is noted for stats only; which blocks it should hold is the plan's business. */
void group_loaded(struct group *group, uint32_t rank, const Refrain__Loaded *loaded, int64_t now_ns)
{
    if (group->state != GROUP_LOADING || loaded->epoch != group->epoch) return;
    struct member *member = &group->members[rank];
    snprintf(member->model, sizeof member->model, "%s", group->model);
    member->first_block = loaded->first_block;
    member->blocks = loaded->blocks;
    member->weight_bytes = loaded->weight_bytes;
    load_answered(group, rank, now_ns);
}

void group_load_failed(struct group *group, uint32_t rank, const Refrain__LoadFailed *failed, int64_t now_ns)
{
    if (group->state != GROUP_LOADING || failed->epoch != group->epoch) return;
    if (group->load_status == STATUS_OK) { /* the first sentence is the cause */
        group->load_status = failed->status ? (status_t)failed->status : STATUS_INTERNAL;
        snprintf(group->failure, sizeof group->failure, "%s",
                 failed->message ? failed->message : "the model failed to load");
    }
    group->members[rank].model[0] = '\0';
    load_answered(group, rank, now_ns);
}

/* That it spoke was noted where the message arrived; here it is whether it also gets on with its work. */
void group_heartbeat(struct group *group, uint32_t rank, const Refrain__Heartbeat *heartbeat, int64_t now_ns)
{
    struct member *member = &group->members[rank];
    if (heartbeat->compute_progress != member->compute_progress)
        group->progress_ns = member->progress_ns = now_ns;
    member->compute_progress = heartbeat->compute_progress;
    if (heartbeat->block_token_ns > 0 && isfinite(heartbeat->block_token_ns))
        member->block_token_ns = heartbeat->block_token_ns;
    paces_hear(&member->paces, heartbeat, now_ns);
}

/* ------------------------------------------------------------------------------------------- who is alive */

/* A rank of this host whose process has ended, reaped or not. Says no where it cannot know. */
static bool process_gone(const struct member *member)
{
    struct pollfd ended = {.fd = member->pidfd, .events = POLLIN};
    return member->here && member->pidfd >= 0 && poll(&ended, 1, 0) == 1;
}

/* A process' end is known within milliseconds, its silence only after seconds. */
void groups_drop_dead(struct groups *groups, int64_t now_ns)
{
    for (size_t i = 0; i < groups->count; i++)
        for (uint32_t rank = people(groups->list[i]); rank-- > 0;) /* guests leave the list */
            if (process_gone(&groups->list[i]->members[rank]))
                group_vacate(groups->list[i], rank, now_ns, "rank %u died",
                             groups->list[i]->members[rank].seat);
}

int groups_descriptors(const struct groups *groups, int *descriptors, int most)
{
    int count = 0;
    for (size_t i = 0; i < groups->count; i++)
        for (uint32_t rank = 0; rank < people(groups->list[i]) && count < most; rank++) {
            int pidfd = groups->list[i]->members[rank].pidfd;
            if (pidfd >= 0) descriptors[count++] = pidfd;
        }
    return count;
}

void groups_drop_launch(struct groups *groups, uint64_t launch, int64_t now_ns)
{
    for (size_t i = 0; launch && i < groups->count; i++) {
        struct group *group = groups->list[i];
        if (group->launch != launch) continue;
        group->blameless = true;
        group_lose(group, now_ns, "its launcher ended");
    }
}

/* Nobody could be heard while the loop stood still: the time counts from now. */
void groups_forgive(struct groups *groups, int64_t now_ns)
{
    for (size_t i = 0; i < groups->count; i++) {
        groups->list[i]->progress_ns = now_ns;
        for (uint32_t rank = 0; rank < people(groups->list[i]); rank++)
            groups->list[i]->members[rank].heard_ns = now_ns;
    }
}

/* Silence is the one sign of loss that works across hosts, for hung hosts and for stopped processes. */
static void check_members(const struct groups *groups, struct group *group, int64_t now_ns)
{
    for (uint32_t rank = people(group); rank-- > 0;) { /* guests leave the list */
        const struct member *member = &group->members[rank];
        if (member->here && now_ns - member->heard_ns > groups->limits.silence_ns)
            group_vacate(group, rank, now_ns, "rank %u on %s said nothing for %.1f s", member->seat,
                         member->host, (double)(now_ns - member->heard_ns) / SECOND_NS);
    }
}

/* The epoch is over; who is missing? Of processes of this host groups_drop_dead knows. Of the others the silence
 * since then decides, and the one that its neighbours lost needs to be silent for less long. */
static void check_broken(struct group *group, int64_t now_ns)
{
    char cause[ERROR_TEXT_BYTES];
    snprintf(cause, sizeof cause, "%s", group->failure);
    int64_t waited_ns = now_ns - group->since_ns;
    for (uint32_t rank = 0; rank < group->ranks && group->state == GROUP_BROKEN; rank++) {
        const struct member *member = &group->members[rank];
        int64_t patience_ns = (int)rank == group->suspect ? SUSPECT_NS : BROKEN_HEARD_NS;
        if (waited_ns > patience_ns && now_ns - member->heard_ns > patience_ns)
            group_vacate(group, rank, now_ns, "rank %u is gone (%s)", member->seat, cause);
    }
    if (group->state != GROUP_BROKEN || waited_ns <= BROKEN_GRACE_NS) return;
    if (++group->broken_epochs >= MAX_BROKEN_EPOCHS)
        group_lose(group, now_ns, "%d epochs in a row broke (%s)", group->broken_epochs, cause);
    else
        group_enter(group, GROUP_COMPLETE, now_ns);
}

/* Each waiting state has its own time limit, so that no lost message can hold a group for ever. */
void group_check(struct groups *groups, struct group *group, int64_t now_ns)
{
    const struct group_limits *limits = &groups->limits;
    int64_t in_state = now_ns - group->since_ns;
    check_members(groups, group, now_ns);
    switch (group->state) {
    case GROUP_GATHERING:
        if (in_state > limits->gather_ns && !(group->repairable && group->formed))
            group_lose(group, now_ns, "only %u of %u ranks came", group->here, group->ranks);
        break;
    case GROUP_JOINING:
        if (in_state > limits->join_ns) group_lose(group, now_ns, "the ranks could not reach each other");
        break;
    case GROUP_BROKEN:
        check_broken(group, now_ns);
        break;
    case GROUP_READY:
        if (limits->hang_ns && group_in_flight(group) && now_ns - group->progress_ns > limits->hang_ns)
            group_lose(group, now_ns, "no rank made progress for %lld s",
                       (long long)(limits->hang_ns / SECOND_NS));
        break;
    default:
        break;
    }
}

/* A linear search: even a thousand ranks that speak twice a second make it a few microseconds each. */
bool groups_find(struct groups *groups, const struct wire_peer *peer, struct group **group, uint32_t *rank)
{
    for (size_t i = 0; i < groups->count; i++)
        for (uint32_t r = 0; r < people(groups->list[i]); r++) {
            const struct member *member = &groups->list[i]->members[r];
            if (!member->here || !wire_peer_equal(&member->peer, peer)) continue;
            *group = groups->list[i];
            *rank = r;
            return true;
        }
    return false;
}

const char *groups_host(const struct groups *groups)
{
    return groups->host;
}

struct group *groups_called(const struct groups *groups, const char *name, size_t letters, bool *several)
{
    struct group *found = NULL;
    *several = false;
    for (size_t i = 0; i < groups->count; i++) {
        if (strncmp(groups->list[i]->name, name, letters) != 0) continue;
        *several = found != NULL;
        if (found) return NULL;
        found = groups->list[i];
    }
    return found;
}

struct group *groups_at(struct groups *groups, size_t index)
{
    return index < groups->count ? groups->list[index] : NULL;
}

struct slot *groups_slot(struct groups *groups, uint64_t job, struct group **group)
{
    for (size_t i = 0; i < groups->count; i++) {
        struct slot *slot = group_slot(groups->list[i], job);
        if (!slot) continue;
        if (group) *group = groups->list[i];
        return slot;
    }
    return NULL;
}

void groups_remove(struct groups *groups, struct group *group)
{
    for (size_t i = 0; i < groups->count; i++) {
        if (groups->list[i] != group) continue;
        memmove(groups->list + i, groups->list + i + 1, (groups->count - i - 1) * sizeof *groups->list);
        groups->count--;
        memcpy(groups->gone[groups->gone_next++ % REMEMBERED], group->name, GROUP_NAME_BYTES);
        for (uint32_t seat = 0; seat < group->seats; seat++)
            groups_mark_seat(groups, group->name, seat, SEAT_SERVES, "", NULL);
        group_free(group);
        return;
    }
}
