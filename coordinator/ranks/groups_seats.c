/*
 * groups_seats.c - see groups.h: a group's seats, who may sit there, and who comes to them: Hello, guests, ranks that are
 * dismissed. Runs on the coordinator's loop thread; holds no locks, sends nothing.
 */
#include "coordinator/ranks/groups_core.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/tier/directory.h"

/* ---------------------------------------------------------------------------------------------- drained seats */

static struct drained *find_drained(const struct groups *groups, const char *name, uint32_t seat)
{
    for (size_t i = 0; i < groups->drained_count; i++)
        if (groups->drained[i].seat == seat && strcmp(groups->drained[i].group, name) == 0)
            return &groups->drained[i];
    return NULL;
}

enum seat_state groups_seat(const struct groups *groups, const char *name, uint32_t seat)
{
    const struct drained *drained = find_drained(groups, name, seat);
    return drained ? drained->state : SEAT_SERVES;
}

const char *groups_seat_host(const struct groups *groups, const char *name, uint32_t seat)
{
    const struct drained *drained = find_drained(groups, name, seat);
    return drained ? drained->host : "";
}

void groups_serve_all(struct groups *groups)
{
    groups->drained_count = 0;
}

status_t groups_mark_seat(struct groups *groups, const char *name, uint32_t seat, enum seat_state state,
                          const char *host, struct error *error)
{
    struct drained *drained = find_drained(groups, name, seat);
    if (state == SEAT_SERVES) {
        if (drained) *drained = groups->drained[--groups->drained_count];
        return STATUS_OK;
    }
    if (!drained && groups->drained_count == groups->drained_room) {
        size_t room = 2 * groups->drained_room + 16;
        struct drained *more = realloc(groups->drained, room * sizeof *more);
        if (!more) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu drained ranks", room);
        groups->drained = more;
        groups->drained_room = room;
    }
    if (!drained) drained = &groups->drained[groups->drained_count++];
    *drained = (struct drained){.seat = seat, .state = state};
    snprintf(drained->group, sizeof drained->group, "%s", name);
    snprintf(drained->host, sizeof drained->host, "%s", host);
    return STATUS_OK;
}

bool group_rank_of(const struct group *group, uint32_t seat, uint32_t *rank)
{
    for (uint32_t i = 0; i < group->ranks; i++) {
        if (group->members[i].seat != seat) continue;
        *rank = i;
        return true;
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------ joining */

static struct group *find_name(struct groups *groups, const char *name)
{
    for (size_t i = 0; i < groups->count; i++)
        if (strcmp(groups->list[i]->name, name) == 0) return groups->list[i];
    return NULL;
}

/* Without this a straggler of a lost group would found it anew and wait for ranks that are gone. */
static bool was_given_up(const struct groups *groups, const char *name)
{
    for (size_t i = 0; i < REMEMBERED; i++)
        if (strcmp(groups->gone[i], name) == 0) return true;
    return false;
}

bool group_text_fits(const char *text, size_t bytes)
{
    return text && *text && strlen(text) < bytes;
}

/* A rank's texts are kept in fixed fields and shown to clients: checked once, here. */
static status_t check_hello(const Refrain__Hello *hello, struct error *error)
{
    if (!group_text_fits(hello->group, GROUP_NAME_BYTES))
        return error_set(error, STATUS_INVALID, "group: must be a name of 1 to %d bytes",
                         GROUP_NAME_BYTES - 1);
    if (hello->ranks < 1 || hello->ranks > PLAN_MAX_RANKS || hello->rank >= hello->ranks)
        return error_set(error, STATUS_INVALID, "rank %u of %u: at most %d ranks form a group", hello->rank,
                         hello->ranks, PLAN_MAX_RANKS);
    if (hello->gpu && strlen(hello->gpu) >= MEMBER_TEXT_BYTES)
        return error_set(error, STATUS_INVALID, "gpu: must be at most %d bytes", MEMBER_TEXT_BYTES - 1);
    if (!group_text_fits(hello->host, MEMBER_TEXT_BYTES) ||
        !group_text_fits(hello->backend, MEMBER_TEXT_BYTES) ||
        !group_text_fits(hello->fabric_address, MEMBER_TEXT_BYTES) ||
        !group_text_fits(hello->fabric, sizeof((struct group *)0)->fabric))
        return error_set(error, STATUS_INVALID,
                         "host, backend, fabric and fabric_address must be given, at most %d bytes each",
                         MEMBER_TEXT_BYTES - 1);
    return STATUS_OK;
}

bool group_guest_of(const struct group *group, uint32_t seat, uint32_t *rank)
{
    for (uint32_t i = group->ranks; i < people(group); i++) {
        if (group->members[i].seat != seat) continue;
        *rank = i;
        return true;
    }
    return false;
}

/* A vacant seat, in its place among the others. */
static void add_member(struct group *group, const struct member *added)
{
    uint32_t rank = 0;
    while (rank < group->ranks && group->members[rank].seat < added->seat) rank++;
    struct member *member = &group->members[rank];
    memmove(member + 1, member, (people(group) - rank) * sizeof *member);
    *member = *added;
    group->ranks++;
}

static struct member vacant(uint32_t seat, int64_t now_ns)
{
    return (struct member){.seat = seat, .pidfd = -1, .vacant_ns = now_ns, .ask_ns = CLOCK_NEVER};
}

/* Room for a seat that it did not have. */
static status_t grow(struct group *group, uint32_t seats, struct error *error)
{
    struct member *more = realloc(group->members, seats * sizeof *more);
    if (!more) return error_set(error, STATUS_NO_MEMORY, "no memory for a group of %u ranks", seats);
    group->members = more;
    group->seats = seats;
    links_close(&group->links); /* kept by so many seats; measured anew */
    return STATUS_OK;
}

static status_t make_group(struct groups *groups, const Refrain__Hello *hello, int64_t now_ns,
                           struct group **group, struct error *error)
{
    if (groups->count == MAX_GROUPS)
        return error_set(error, STATUS_NO_MEMORY, "there are %d groups of ranks already", MAX_GROUPS);
    struct group *made = calloc(1, sizeof *made);
    if (made) made->members = calloc(hello->ranks, sizeof *made->members);
    if (!made || !made->members) {
        free(made);
        return error_set(error, STATUS_NO_MEMORY, "no memory for a group of %u ranks", hello->ranks);
    }
    snprintf(made->name, sizeof made->name, "%s", hello->group);
    snprintf(made->fabric, sizeof made->fabric, "%s", hello->fabric);
    made->seats = hello->ranks;
    made->suspect = -1;
    for (uint32_t seat = 0; seat < made->seats; seat++)
        if (groups_seat(groups, made->name, seat) == SEAT_SERVES) {
            struct member member = vacant(seat, now_ns);
            add_member(made, &member);
        }
    group_enter(made, GROUP_GATHERING, now_ns);
    groups->list[groups->count++] = made;
    *group = made;
    return STATUS_OK;
}

/* Before a group was complete all its ranks must agree how many they are. Later others may come; those that were there before
 * a restart of ours may not know that yet. */
static bool has_lived(const struct group *group, const Refrain__Hello *hello)
{
    bool lived = group->formed || hello->last_epoch > 0;
    for (uint32_t rank = 0; rank < group->ranks; rank++) lived |= group->members[rank].last_epoch > 0;
    return lived && strcmp(group->fabric, "mpi") != 0;
}

/* Seats have no gaps, so that a coordinator that restarts knows from any of the ranks how many there are. */
static uint32_t next_seat(const struct group *group)
{
    return group->reserved > group->seats ? group->reserved : group->seats;
}

/* Unix sockets are of one host. */
static const struct member *out_of_reach(const struct group *group, const Refrain__Hello *hello)
{
    bool near = member_is_near(hello->fabric_address);
    for (uint32_t rank = 0; rank < people(group); rank++) {
        const struct member *member = &group->members[rank];
        bool unix_socket = near || member_is_near(member->address);
        if (member->here && unix_socket && strcmp(member->host, hello->host) != 0) return member;
    }
    return NULL;
}

/* Does this rank fit into the group it names? */
static status_t check_place(const struct group *group, const Refrain__Hello *hello, struct error *error)
{
    uint32_t rank;
    bool known = group_rank_of(group, hello->rank, &rank) || group_guest_of(group, hello->rank, &rank);
    const struct member *member = known ? &group->members[rank] : NULL;
    if ((hello->ranks != group->seats && !has_lived(group, hello)) ||
        strcmp(hello->fabric, group->fabric) != 0)
        return error_set(error, STATUS_CONFLICT, "rank %u says %u ranks on fabric %s, the group has %u on %s",
                         hello->rank, hello->ranks, hello->fabric, group->seats, group->fabric);
    if (hello->rank > next_seat(group))
        return error_set(error, STATUS_CONFLICT, "rank %u: the next one of this group is rank %u",
                         hello->rank, next_seat(group));
    if (member && member->here && member->pid != hello->pid)
        return error_set(error, STATUS_CONFLICT, "rank %u is taken by process %u on %s", hello->rank,
                         member->pid, member->host);
    if (group->state == GROUP_LOST)
        return error_set(error, STATUS_PEER_LOST, "the group is lost: %s", group->failure);
    const struct member *unreached = out_of_reach(group, hello);
    if (unreached)
        return error_set(error, STATUS_CONFLICT,
                         "rank %u on %s and rank %u on %s talk over Unix sockets and cannot reach each "
                         "other: give all ranks "
                         "--fabric-bind tcp://*:*",
                         hello->rank, hello->host, unreached->seat, unreached->host);
    return STATUS_OK;
}

/* A process of this host is watched by the kernel; -1 for others, and without permission. */
static int watch_process(const struct groups *groups, const Refrain__Hello *hello)
{
    bool ours = groups->host[0] && strcmp(hello->host, groups->host) == 0 && hello->pid > 1;
    return ours ? (int)syscall(SYS_pidfd_open, (pid_t)hello->pid, 0) : -1;
}

static void fill_member(const struct groups *groups, struct group *group, struct member *member,
                        const struct wire_peer *peer, const Refrain__Hello *hello, int64_t now_ns)
{
    if (strcmp(member->host, hello->host) != 0) links_forget(&group->links, member->seat);
    if (!member->here) member->pidfd = watch_process(groups, hello);
    member->here = true;
    member->gflops = hello->gflops > 0 && isfinite(hello->gflops) ? hello->gflops : 0;
    member->last_epoch = hello->last_epoch;
    member->alone = hello->alone;
    member->peer = *peer;
    member->pid = hello->pid;
    member->threads = hello->threads;
    member->memory_bytes = hello->memory_bytes;
    member->decode_memory = hello->decode_memory;
    member->tier_device = hello->tier_device < hello->memory_bytes ? hello->tier_device : 0;
    snprintf(member->gpu, sizeof member->gpu, "%s", hello->gpu ? hello->gpu : "");
    member->epoch = hello->epoch;
    member->epoch_members = hello->epoch_members;
    member->heard_ns = now_ns;
    snprintf(member->host, sizeof member->host, "%s", hello->host);
    snprintf(member->backend, sizeof member->backend, "%s", hello->backend);
    snprintf(member->address, sizeof member->address, "%s", hello->fabric_address);
    snprintf(member->model, sizeof member->model, "%s", hello->model ? hello->model : "");
    if (hello->has_blocks) { /* what it still holds, for a coordinator that restarted */
        member->first_block = hello->first_block;
        member->blocks = hello->blocks;
        member->weight_bytes = hello->weight_bytes;
    }
}

static const char *kind_of(const struct member *member)
{
    return member->gpu[0] ? member->gpu : member->backend;
}

/* In an epoch of these ranks alone? When the coordinator that is no more had begun to take others out, it is not. */
static bool in_own_epoch(const struct group *group, const struct member *member)
{
    return member->epoch != 0 && (member->epoch_members == 0 || member->epoch_members == group->ranks);
}

/* The last rank arrived. Ranks that come from an earlier life of the coordinator already share an epoch: go
 * on with it. */
static void all_here(struct group *group, int64_t now_ns)
{
    const struct member *home = &group->members[0];
    group->formed = true;
    bool same_epoch = in_own_epoch(group, home), same_model = true;
    for (uint32_t rank = 1; rank < group->ranks; rank++) {
        const struct member *member = &group->members[rank];
        same_epoch = same_epoch && member->epoch == home->epoch && in_own_epoch(group, member);
        same_model = same_model && strcmp(member->model, home->model) == 0;
        if (strcmp(member->gpu, home->gpu) != 0) {
            group_lose(
                group, now_ns,
                "rank %u on %.60s computes with %s, rank %u on %.60s with %s: their results would differ; "
                "start a group for each kind",
                home->seat, home->host, kind_of(home), member->seat, member->host, kind_of(member));
            return;
        }
        if (strcmp(member->backend, home->backend) != 0)
            log_line(LOG_WARN,
                     "group %.8s: rank %u computes with %s, rank %u with %s: results depend on who computes",
                     group->name, member->seat, member->backend, home->seat, home->backend);
    }
    if (!same_epoch) {
        group_enter(group, GROUP_COMPLETE, now_ns);
        return;
    }
    group->epoch = home->epoch;
    snprintf(group->model, sizeof group->model, "%.64s", same_model ? home->model : "");
    group_enter(group, GROUP_READY, now_ns);
    log_line(LOG_INFO, "group %.8s: came back with epoch %lu, %u ranks", group->name,
             (unsigned long)group->epoch, group->ranks);
}

/* Whether or not the others are in an epoch, its membership is not theirs any more. */
void group_forget_seats(const struct groups *groups, struct group *group)
{
    uint32_t rank, last;
    for (; group->seats > 1; group->seats--) {
        last = group->seats - 1;
        if (group_rank_of(group, last, &rank) || group_guest_of(group, last, &rank) ||
            groups_seat(groups, group->name, last) != SEAT_SERVES)
            return;
    }
}

void group_dismiss(struct group *group, uint32_t rank, int64_t now_ns)
{
    struct member *member = &group->members[rank];
    log_line(LOG_INFO, "group %.8s: goes on without rank %u", group->name, member->seat);
    close_pidfd(member);
    if (group->directory) directory_drop(group->directory, member->seat);
    figures_drop(&group->figures, member->seat);
    group->here -= member->here;
    group->ranks--;
    memmove(member, member + 1, (people(group) - rank) * sizeof *member);
    group->suspect = -1;
    for (uint32_t i = 0; i < group->ranks; i++) group->members[i].epoch = 0;
    if (group->state == GROUP_LOST) return;
    group_enter(group, GROUP_GATHERING, now_ns);
    if (group->ranks == 0)
        group_lose(group, now_ns, "all its ranks were drained");
    else if (group->here == group->ranks)
        all_here(group, now_ns);
}

/* A rank says Hello again: is the epoch to be begun anew? Yes when orders of its old connection may be lost,
 * as it would never answer them; and yes when it is not in the epoch any more that everybody had joined.
 * Within one connection reports keep their order, so what Hello says then is later than the rank's
 * EpochReady. */
static bool lost_touch(const struct group *group, const struct member *member, const struct wire_peer *peer,
                       const Refrain__Hello *hello)
{
    bool waits_for_answer = group->state == GROUP_JOINING || group->state == GROUP_LOADING;
    bool joined = group->state == GROUP_READY || group->state == GROUP_LOADING;
    return (waits_for_answer && !wire_peer_equal(&member->peer, peer)) ||
           (joined && hello->epoch != group->epoch);
}

/* Somebody comes to a seat that was drained, or that there was none of. */
static status_t add_guest(struct group *group, uint32_t seat, int64_t now_ns, struct error *error)
{
    status_t status = seat >= group->seats ? grow(group, seat + 1, error) : STATUS_OK;
    if (status != STATUS_OK) return status;
    group->members[people(group)] = vacant(seat, now_ns);
    group->guests++;
    group->guest_ns = now_ns;
    log_line(LOG_INFO, "group %.8s: rank %u came, and joins it at the next occasion", group->name, seat);
    return STATUS_OK;
}

void group_admit(struct groups *groups, struct group *group, int64_t now_ns)
{
    if (group->guests == 0 || group->state == GROUP_LOST) return;
    while (group->guests > 0) {
        struct member guest = group->members[people(group) - 1];
        group->guests--;
        groups_mark_seat(groups, group->name, guest.seat, SEAT_SERVES, "", NULL);
        add_member(group, &guest);
        group->here++;
        log_line(LOG_INFO, "group %.8s: rank %u joins it", group->name, guest.seat);
    }
    for (uint32_t rank = 0; rank < group->ranks; rank++) group->members[rank].epoch = 0;
    group->suspect = -1;
    group_enter(group, GROUP_GATHERING, now_ns);
    if (group->here == group->ranks) all_here(group, now_ns);
}

status_t groups_hello(struct groups *groups, const struct wire_peer *peer, const Refrain__Hello *hello,
                      int64_t now_ns, struct group **group, uint32_t *rank, struct error *error)
{
    status_t status = check_hello(hello, error);
    if (status != STATUS_OK) return status;
    if (was_given_up(groups, hello->group))
        return error_set(error, STATUS_PEER_LOST, "this group of ranks was given up");
    if (groups_seat(groups, hello->group, hello->rank) == SEAT_DRAINED)
        return error_set(error, STATUS_DENIED, "rank %u of this group was drained", hello->rank);
    struct group *found = find_name(groups, hello->group);
    if (!found) status = make_group(groups, hello, now_ns, &found, error);
    if (status == STATUS_OK) status = check_place(found, hello, error);
    if (status != STATUS_OK) return status;

    uint32_t place;
    bool member_of = group_rank_of(found, hello->rank, &place);
    if (!member_of && !group_guest_of(found, hello->rank, &place)) {
        if ((status = add_guest(found, hello->rank, now_ns, error)) != STATUS_OK) return status;
        place = people(found) - 1;
    }
    struct member *member = &found->members[place];
    bool new_here = member_of && !member->here;
    bool again = member_of && !new_here && lost_touch(found, member, peer, hello);
    if (new_here && found->formed) {
        member->replaced++;
        log_line(LOG_INFO, "group %.8s: rank %u is taken by process %u on %s, %.0f ms after it was lost",
                 found->name, hello->rank, hello->pid, hello->host,
                 (double)(now_ns - member->vacant_ns) / MILLISECOND_NS);
    }
    fill_member(groups, found, member, peer, hello, now_ns);
    found->here += new_here;
    if (new_here && found->here == found->ranks) all_here(found, now_ns);
    if (again) group_enter(found, GROUP_COMPLETE, now_ns);
    *group = found;
    *rank = place;
    return STATUS_OK;
}
