/* tierview.c - see tierview.h. Runs on the coordinator's loop thread. */
#include "coordinator/tier/tierview.h"

#include <stdlib.h>
#include <string.h>
#include "coordinator/tier/directory.h"
#include "coordinator/orders.h"
#include "proto/tally.h"

enum { LISTED = 100 };

struct shown_figure {
    Refrain__CacheFigure figure;
    Refrain__TierTally told;
    struct tally tally;
};

struct shown_item {
    Refrain__CacheItem item;
    char key[KEY_LETTERS];
    uint32_t ranks[DIRECTORY_HOLDERS];
};

struct shown_rank {
    Refrain__CacheRank rank;
    uint64_t limits[LEVELS], used[LEVELS];
};

struct tierview {
    Refrain__CacheReply reply;
    struct shown_figure *figures; /* as are the pointers behind them: one allocation each */
    struct shown_rank *ranks;
    struct shown_item *items;
    /* The question. */
    uint64_t tenant;
    bool all;
    int kind; /* -1: any */
    size_t limit;
    const char *group; /* whose directory is being listed */
};

static const char *scope_of(const struct tierview *view, uint64_t tenant)
{
    return tenant == KEY_PUBLIC ? "public" : tenant == view->tenant ? "own" : "others";
}

/* --------------------------------------------------------------------------------------------------- figures */

static void add_figure(struct tierview *view, const struct group *group, uint32_t rank, uint32_t kind,
                       const uint64_t *tenant, const char *scope)
{
    struct shown_figure *shown = &view->figures[view->reply.n_figures];
    shown->tally = (struct tally){0};
    if (!figures_sum(&group->figures, group->members[rank].seat, kind, tenant, &shown->tally)) return;
    refrain__cache_figure__init(&shown->figure);
    tally_tell(&shown->tally, &shown->told);
    shown->figure.group = (char *)(uintptr_t)group->name;
    shown->figure.has_rank = 1;
    shown->figure.rank = group->members[rank].seat;
    shown->figure.kind = (char *)(uintptr_t)item_kind_name((enum item_kind)kind);
    shown->figure.scope = (char *)(uintptr_t)scope;
    shown->figure.tally = &shown->told;
    view->reply.figures[view->reply.n_figures++] = &shown->figure;
}

static void add_rank(struct tierview *view, const struct group *group, uint32_t rank)
{
    const struct member *member = &group->members[rank];
    struct shown_rank *shown = &view->ranks[view->reply.n_ranks];
    refrain__cache_rank__init(&shown->rank);
    memcpy(shown->limits, member->tier_limit, sizeof shown->limits);
    memcpy(shown->used, member->tier_used, sizeof shown->used);
    shown->rank.group = (char *)(uintptr_t)group->name;
    shown->rank.has_rank = 1;
    shown->rank.rank = member->seat;
    shown->rank.n_limit_bytes = LEVELS;
    shown->rank.limit_bytes = shown->limits;
    if (view->all) {
        shown->rank.n_used_bytes = LEVELS;
        shown->rank.used_bytes = shown->used;
        shown->rank.has_pinned_bytes = 1;
        shown->rank.pinned_bytes = member->tier_pinned;
    }
    view->reply.ranks[view->reply.n_ranks++] = &shown->rank;
}

static void add_group(struct tierview *view, const struct group *group)
{
    const uint64_t everybodys = KEY_PUBLIC;
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        if (!group->members[rank].here) continue;
        add_rank(view, group, rank);
        for (uint32_t kind = 0; kind < ITEM_KINDS; kind++) {
            if (view->kind >= 0 && (uint32_t)view->kind != kind) continue;
            if (view->all) {
                add_figure(view, group, rank, kind, NULL, "all");
                continue;
            }
            add_figure(view, group, rank, kind, &view->tenant, "own");
            add_figure(view, group, rank, kind, &everybodys, "public");
        }
    }
}

static status_t show(struct server *server, struct tierview *view, struct error *error)
{
    size_t ranks = 0;
    struct group *group;
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++) ranks += group->ranks;
    size_t figures = 2 * ranks * ITEM_KINDS;
    view->figures = calloc(figures + 1, sizeof *view->figures);
    view->ranks = calloc(ranks + 1, sizeof *view->ranks);
    view->reply.figures = calloc(figures + 1, sizeof *view->reply.figures);
    view->reply.ranks = calloc(ranks + 1, sizeof *view->reply.ranks);
    if (!view->figures || !view->ranks || !view->reply.figures || !view->reply.ranks)
        return error_set(error, STATUS_NO_MEMORY, "no memory for figures of %zu ranks", ranks);
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++) add_group(view, group);
    return STATUS_OK;
}

/* ----------------------------------------------------------------------------------------------------- list */

static bool add_item(void *context, const struct directory_item *item, const uint16_t *ranks, int count)
{
    struct tierview *view = context;
    uint64_t tenant = item->key.tenant;
    if (!view->all && tenant != view->tenant && tenant != KEY_PUBLIC) return true;
    if (view->kind >= 0 && item->key.kind != (uint32_t)view->kind) return true;
    if (view->reply.n_items == view->limit) {
        view->reply.has_more = view->reply.more = 1;
        return false;
    }
    struct shown_item *shown = &view->items[view->reply.n_items];
    refrain__cache_item__init(&shown->item);
    key_write(&item->key, shown->key);
    shown->item.key = shown->key;
    shown->item.scope = (char *)(uintptr_t)scope_of(view, tenant);
    shown->item.group = (char *)(uintptr_t)view->group;
    shown->item.has_bytes = shown->item.has_seconds = 1;
    shown->item.bytes = item->bytes;
    shown->item.seconds = (double)item->seconds;
    for (int i = 0; i < count; i++) shown->ranks[i] = ranks[i];
    shown->item.n_ranks = (size_t)count;
    shown->item.ranks = shown->ranks;
    view->reply.items[view->reply.n_items++] = &shown->item;
    return true;
}

static status_t list(struct server *server, struct tierview *view, struct error *error)
{
    struct group *group;
    view->items = calloc(view->limit, sizeof *view->items);
    view->reply.items = calloc(view->limit, sizeof *view->reply.items);
    if (!view->items || !view->reply.items)
        return error_set(error, STATUS_NO_MEMORY, "no memory for a list of %zu items", view->limit);
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++) {
        view->group = group->name;
        if (group->directory) directory_list(group->directory, add_item, view);
    }
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------------------- commands */

static void tell(struct server *server, struct tierview *view, Refrain__TierCommand *command)
{
    struct group *group;
    view->reply.has_told = 1;
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++)
        for (uint32_t rank = 0; rank < group->ranks; rank++) {
            if (!group->members[rank].here) continue;
            order_tier_command(server->outbox, &group->members[rank].peer, command);
            view->reply.told++;
        }
}

static status_t flush(struct server *server, struct tierview *view)
{
    Refrain__TierCommand command = REFRAIN__TIER_COMMAND__INIT;
    command.has_verb = 1;
    command.verb = REFRAIN__TIER_VERB__TIER_FORGET;
    command.has_kind = view->kind >= 0;
    command.kind = view->kind >= 0 ? (uint32_t)view->kind : 0;
    command.has_tenant = !view->all;
    command.tenant = view->tenant;
    tell(server, view, &command);
    return STATUS_OK;
}

/* Whose key it is, is in it: another's is no more than no key. */
static status_t command_one(struct server *server, struct tierview *view, const Refrain__CacheQuery *query,
                            const char **field, struct error *error)
{
    Refrain__TierCommand command = REFRAIN__TIER_COMMAND__INIT;
    struct key key;
    uint8_t wire[KEY_BYTES];
    *field = "item";
    if (key_read(query->item, &key, error) != STATUS_OK)
        return error_set(error, STATUS_INVALID, "item %s: is no item's name; `refrain cache list` shows them",
                         query->item);
    if (!view->all && key.tenant != view->tenant)
        return error_set(error, STATUS_NOT_FOUND, "item %s: there is no such item", query->item);
    key_encode(&key, wire);
    command.has_verb = command.has_key = 1;
    command.verb = query->verb == REFRAIN__CACHE_VERB__CACHE_FORGET ? REFRAIN__TIER_VERB__TIER_FORGET
                   : query->verb == REFRAIN__CACHE_VERB__CACHE_PIN  ? REFRAIN__TIER_VERB__TIER_PIN
                                                                    : REFRAIN__TIER_VERB__TIER_UNPIN;
    command.key = (ProtobufCBinaryData){KEY_BYTES, wire};
    tell(server, view, &command);
    return STATUS_OK;
}

static status_t read_kind(const char *name, int *kind, struct error *error)
{
    *kind = -1;
    if (!name) return STATUS_OK;
    for (int i = 0; i < ITEM_KINDS; i++)
        if (strcmp(name, item_kind_name((enum item_kind)i)) == 0) *kind = i;
    if (*kind >= 0) return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "kind %s: must be text, first-step, checkpoint, latent, table or residual", name);
}

static status_t answer(struct server *server, struct tierview *view, const struct tierview_caller *who,
                       const Refrain__CacheQuery *query, const char **field, struct error *error)
{
    *field = "all";
    if (query->all && !who->admin)
        return error_set(error, STATUS_DENIED, "all: everybody's items are an admin key's, %s is none",
                         who->tenant);
    *field = "kind";
    status_t status = read_kind(query->kind, &view->kind, error);
    if (status != STATUS_OK) return status;
    *field = NULL;
    view->all = query->all;
    view->limit = query->has_limit ? query->limit : LISTED;
    if ((status = key_tenant(who->tenant, &view->tenant, error)) != STATUS_OK) return status;
    switch (query->verb) {
    case REFRAIN__CACHE_VERB__CACHE_LIST:
        return list(server, view, error);
    case REFRAIN__CACHE_VERB__CACHE_FLUSH:
        return flush(server, view);
    case REFRAIN__CACHE_VERB__CACHE_FORGET:
    case REFRAIN__CACHE_VERB__CACHE_PIN:
    case REFRAIN__CACHE_VERB__CACHE_UNPIN:
        return command_one(server, view, query, field, error);
    default:
        return show(server, view, error);
    }
}

status_t tierview_make(struct server *server, const struct tierview_caller *who,
                       const Refrain__CacheQuery *query, struct tierview **view, const char **field,
                       struct error *error)
{
    struct tierview *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for an answer about the cache tier");
    refrain__cache_reply__init(&made->reply);
    status_t status = answer(server, made, who, query, field, error);
    if (status != STATUS_OK) {
        tierview_free(made);
        return status;
    }
    *view = made;
    return STATUS_OK;
}

Refrain__CacheReply *tierview_reply(struct tierview *view)
{
    return &view->reply;
}

void tierview_free(struct tierview *view)
{
    if (!view) return;
    free(view->figures);
    free(view->ranks);
    free(view->items);
    free(view->reply.figures);
    free(view->reply.ranks);
    free(view->reply.items);
    free(view);
}
