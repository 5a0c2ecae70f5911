/* tierdesk.c - see tierdesk.h. Runs on the coordinator's loop thread. Directory and figures know ranks by their seats,
 * which stay when others are drained. */
#include "coordinator/tier/tierdesk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/tier/copies.h"
#include "coordinator/tier/directory.h"
#include "coordinator/orders.h"
#include "proto/validate.h"

enum { LONGEST_PATIENCE_MS = 600000 };

/* Made with the first thing to be noted. NULL: no memory; then nothing is found elsewhere, and computed. */
static struct directory *directory_of(struct group *group)
{
    struct error error;
    if (!group->directory &&
        directory_open(DIRECTORY_RANKS_MAX, DIRECTORY_ITEMS, &group->directory, &error) != STATUS_OK)
        log_line(LOG_ERROR, "group %.8s: %s", group->name, error.text);
    return group->directory;
}

static bool read_key(const ProtobufCBinaryData *bytes, struct key *key)
{
    struct error error;
    return bytes->len == KEY_BYTES && key_decode(bytes->data, key, &error) == STATUS_OK;
}

static void want_copy(struct group *group, const struct key *key)
{
    if (!group->copies) group->copies = calloc(1, sizeof *group->copies);
    if (group->copies) copies_want(group->copies, key);
}

void tierdesk_changes(struct server *server, struct group *group, uint32_t rank,
                      const Refrain__TierChanges *changes)
{
    struct directory *directory = directory_of(group);
    uint32_t seat = group->members[rank].seat;
    if (!directory) return;
    if (changes->whole) directory_drop(directory, seat);
    for (size_t i = 0; i < changes->n_items; i++) {
        const Refrain__TierItem *told = changes->items[i];
        struct directory_item item = {
            .bytes = told->bytes, .xxh3 = told->xxh3, .seconds = (float)told->seconds};
        if (!read_key(&told->key, &item.key) || (!told->gone && told->bytes == 0) ||
            !isfinite(item.seconds) || item.seconds < 0) {
            server->refused++;
            continue;
        }
        if (told->gone)
            directory_gone(directory, seat, &item.key);
        else
            directory_note(directory, seat, &item);
        if (told->dear && !told->gone) want_copy(group, &item.key);
    }
}

/* A holder that has left is in the directory no more; of another epoch no rank could be reached. */
void tierdesk_ask(struct server *server, struct group *group, uint32_t rank, const Refrain__TierAsk *ask)
{
    struct key key;
    struct directory_lease lease;
    uint32_t seat = group->members[rank].seat, holder;
    Refrain__TierLease answer = REFRAIN__TIER_LEASE__INIT;
    uint32_t patience_ms = ask->patience_ms < LONGEST_PATIENCE_MS ? ask->patience_ms : LONGEST_PATIENCE_MS;
    if (!read_key(&ask->key, &key)) {
        server->refused++;
        return;
    }
    answer.has_ask = 1;
    answer.ask = ask->ask;
    if (group->directory && ask->epoch == group->epoch &&
        directory_lease(group->directory, &key, seat, server->now_ns, patience_ms * MILLISECOND_NS, &lease) &&
        group_rank_of(group, lease.holder, &holder)) {
        answer.has_lease = answer.has_holder = answer.has_bytes = answer.has_xxh3 = answer.has_seconds = 1;
        answer.lease = lease.number;
        answer.holder = holder;
        answer.bytes = lease.item.bytes;
        answer.xxh3 = lease.item.xxh3;
        answer.seconds = (double)lease.item.seconds;
    }
    order_tier_lease(server->outbox, &group->members[rank].peer, &answer);
}

/* The furthest that a rank of the group has of the run: its last latent, or a checkpoint. 0: nothing. */
static uint32_t seek_in_stores(const struct group *group, const struct key *run, uint32_t after,
                               uint32_t steps, double *seconds)
{
    struct key key = *run;
    struct directory_item item;
    for (uint32_t step = steps; group->directory && step > after; step--) {
        if (step < steps && key_of_checkpoint(run, step, &key, NULL) != STATUS_OK) continue;
        if (!directory_knows(group->directory, &key, &item)) continue;
        *seconds = (double)item.seconds;
        return step;
    }
    return 0;
}

/* A rank's store is nearer than the vault. */
void tierdesk_seek(struct server *server, struct group *group, uint32_t rank, const Refrain__TierSeek *seek)
{
    struct key run;
    struct checkpoint checkpoint;
    struct run_point point = {.step = 0};
    Refrain__TierFound answer = REFRAIN__TIER_FOUND__INIT;
    uint32_t after = seek->after;
    if (!read_key(&seek->run, &run) || !key_is_run(&run) || seek->steps > LIMIT_STEPS) {
        server->refused++;
        return;
    }
    answer.has_ask = answer.has_step = answer.has_seconds = 1;
    answer.ask = seek->ask;
    if (!seek->durable) answer.step = seek_in_stores(group, &run, after, seek->steps, &answer.seconds);
    if (answer.step > after) after = answer.step;
    if (server->vault && vault_find_run(server->vault, &run, after, &checkpoint, &point) &&
        point.step <= seek->steps) {
        answer.step = point.step;
        answer.seconds = point.seconds;
    } else {
        point.step = 0;
    }
    order_tier_found(server->outbox, &group->members[rank].peer, &answer, point.step ? &checkpoint : NULL);
}

void tierdesk_ended(struct group *group, const Refrain__TierEnded *ended)
{
    if (group->directory) directory_end(group->directory, ended->lease, ended->stale);
}

static void copy_group(struct server *server, struct group *group)
{
    struct copies_rank ranks[DIRECTORY_RANKS_MAX];
    struct copies_order order;
    uint8_t wire[KEY_BYTES];
    if (!group->copies || !group->directory || group->ranks > DIRECTORY_RANKS_MAX) return;
    for (uint32_t i = 0; i < group->ranks; i++)
        ranks[i] = (struct copies_rank){.seat = group->members[i].seat,
                                        .host = group->members[i].host,
                                        .limit_bytes = group->members[i].tier_limit[LEVEL_HOST],
                                        .used_bytes = group->members[i].tier_used[LEVEL_HOST]};
    if (copies_next(group->copies, group->directory, ranks, group->ranks, server->now_ns, &order)) {
        Refrain__TierCommand command = REFRAIN__TIER_COMMAND__INIT;
        key_encode(&order.key, wire);
        command.has_verb = command.has_key = 1;
        command.verb = REFRAIN__TIER_VERB__TIER_COPY;
        command.key = (ProtobufCBinaryData){KEY_BYTES, wire};
        order_tier_command(server->outbox, &group->members[order.rank].peer, &command);
    }
}

void tierdesk_copy(struct server *server)
{
    for (size_t i = 0; groups_at(server->groups, i); i++) {
        struct group *group = groups_at(server->groups, i);
        if (group->state == GROUP_READY || group->state == GROUP_LOADING) copy_group(server, group);
    }
}

void tierdesk_figures(struct server *server, struct group *group, uint32_t rank,
                      const Refrain__TierFigures *figures)
{
    struct member *member = &group->members[rank];
    for (size_t i = 0; i < figures->n_tallies; i++)
        if (!figures_take(&group->figures, member->seat, figures->tallies[i])) server->refused++;
    for (size_t i = 0; i < LEVELS && i < figures->n_limit_bytes; i++)
        member->tier_limit[i] = figures->limit_bytes[i];
    for (size_t i = 0; i < LEVELS && i < figures->n_used_bytes; i++)
        member->tier_used[i] = figures->used_bytes[i];
    member->tier_pinned = figures->pinned_bytes;
}
