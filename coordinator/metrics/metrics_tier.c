/*
 * metrics_tier.c - see metrics_tier.h. The figures of `refrain cache --all`, and a few of `refrain ranks`, rank by rank.
 */
#include "coordinator/metrics/metrics_tier.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"

static const char *const level_names[LEVELS] = {"device", "host", "disk"};

/* A rank, or all that there is no room for. */
struct shown {
    const char *group;
    char rank[16];
    const struct member *member; /* NULL: others */
    struct tally kinds[ITEM_KINDS];
    bool told[ITEM_KINDS]; /* something was counted */
};

struct rank_view {
    struct exposition *out;
    struct shown *list; /* [count] */
    size_t count;
};

/* --------------------------------------------------------------------------------------------------- looking */

static struct shown *shown_at(struct rank_view *view, size_t index)
{
    return &view->list[index < METRICS_RANKS ? index : METRICS_RANKS];
}

/* One look at each figure, of which there may be thousands. first: where the group's ranks begin. */
static void add_figures(struct rank_view *view, const struct group *group, size_t first)
{
    for (uint32_t i = 0; i < group->figures.count; i++) {
        const struct figure *figure = &group->figures.list[i];
        uint32_t rank;
        if (!group_rank_of(group, figure->rank, &rank)) continue;
        struct shown *shown = shown_at(view, first + rank);
        figures_add(&shown->kinds[figure->kind], &figure->tally);
        shown->told[figure->kind] = true;
    }
}

static void look(const struct server *server, struct rank_view *view)
{
    const struct group *group;
    size_t at = 0;
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++) {
        for (uint32_t rank = 0; rank < group->ranks; rank++) {
            struct shown *shown = shown_at(view, at + rank);
            bool others = at + rank >= METRICS_RANKS;
            shown->group = others ? "(others)" : group->name;
            shown->member = others ? NULL : &group->members[rank];
            snprintf(shown->rank, sizeof shown->rank, "%u", group->members[rank].seat);
            if (others) strcpy(shown->rank, "(others)");
        }
        add_figures(view, group, at);
        at += group->ranks;
    }
    view->count = at > METRICS_RANKS ? METRICS_RANKS + 1 : at;
}

/* -------------------------------------------------------------------------------------------------- of ranks */

static void write_member(const struct rank_view *view, const char *name, enum exposed type, const char *help,
                         double (*value)(const struct server *server, const struct member *member),
                         const struct server *server)
{
    exposition_family(view->out, name, type, help);
    for (size_t i = 0; i < view->count; i++) {
        const struct shown *shown = &view->list[i];
        if (!shown->member || !shown->member->here) continue;
        exposition_value(view->out, value(server, shown->member),
                         LABELS({"group", shown->group}, {"rank", shown->rank}));
    }
}

static double heard(const struct server *server, const struct member *member)
{
    return (double)(server->now_ns - member->heard_ns) / SECOND_NS;
}

static double progress(const struct server *server, const struct member *member)
{
    (void)server;
    return (double)member->compute_progress;
}

static double weights(const struct server *server, const struct member *member)
{
    (void)server;
    return (double)member->weight_bytes;
}

static void write_levels(const struct rank_view *view, const char *name, const char *help, bool used)
{
    exposition_family(view->out, name, EXPOSED_GAUGE, help);
    for (size_t i = 0; i < view->count; i++)
        for (int level = 0; level < LEVELS; level++) {
            const struct shown *shown = &view->list[i];
            if (!shown->member || !shown->member->here || !shown->member->tier_limit[level]) continue;
            const uint64_t *bytes = used ? shown->member->tier_used : shown->member->tier_limit;
            exposition_value(
                view->out, (double)bytes[level],
                LABELS({"group", shown->group}, {"rank", shown->rank}, {"level", level_names[level]}));
        }
}

/* ------------------------------------------------------------------------------------------------ of the tier */

/* One number of each tally, or several that another label tells apart. */
struct tally_family {
    const char *name, *help;
    enum exposed type;
    size_t offset;     /* in struct tally: uint64_t */
    const char *label; /* of the numbers; NULL: there is one */
    int numbers;
    const char *(*number_name)(int number);
};

static const char *level_name(int level)
{
    return level_names[level];
}

static const char *reason_name(int reason)
{
    return miss_name((enum miss)reason);
}

#define OF(field) offsetof(struct tally, field)

static const struct tally_family tally_families[] = {
    {"refrain_tier_items", "Items of the cache tier that are here now.", EXPOSED_GAUGE, OF(items), NULL, 1,
     NULL},
    {"refrain_tier_item_bytes", "What they take.", EXPOSED_GAUGE, OF(bytes), "level", LEVELS, level_name},
    {"refrain_tier_hits_total", "Items found on this rank, by where.", EXPOSED_COUNTER, OF(hits), "level",
     LEVELS, level_name},
    {"refrain_tier_fetched_total", "Items found on other ranks.", EXPOSED_COUNTER, OF(fetched), NULL, 1,
     NULL},
    {"refrain_tier_lent_total", "Items that other ranks found here.", EXPOSED_COUNTER, OF(lent), NULL, 1,
     NULL},
    {"refrain_tier_copied_total", "Second copies of other ranks' items taken in.", EXPOSED_COUNTER,
     OF(copied), NULL, 1, NULL},
    {"refrain_tier_misses_total", "Items asked for in vain, by why.", EXPOSED_COUNTER, OF(misses), "reason",
     MISSES, reason_name},
    {"refrain_tier_published_total", "Items made here.", EXPOSED_COUNTER, OF(published), NULL, 1, NULL},
    {"refrain_tier_refused_total", "Items not let in.", EXPOSED_COUNTER, OF(refused), NULL, 1, NULL},
    {"refrain_tier_evictions_total", "Copies that made room for others.", EXPOSED_COUNTER, OF(evictions),
     "level", LEVELS, level_name},
};

/* A level that a rank does not have stays away from its figures. */
static bool is_possible(const struct shown *shown, const struct tally_family *family, int number)
{
    bool by_level = family->number_name == level_name;
    return !by_level || (shown->member && shown->member->tier_limit[number] > 0);
}

static void write_numbers(const struct rank_view *view, const struct tally_family *family,
                          const struct shown *shown, int kind)
{
    const uint64_t *numbers =
        (const uint64_t *)(const void *)((const char *)&shown->kinds[kind] + family->offset);
    const char *name = item_kind_name((enum item_kind)kind);
    for (int i = 0; i < family->numbers; i++) {
        if (!family->label)
            exposition_value(view->out, (double)numbers[i],
                             LABELS({"group", shown->group}, {"rank", shown->rank}, {"kind", name}));
        else if (numbers[i] || is_possible(shown, family, i))
            exposition_value(view->out, (double)numbers[i],
                             LABELS({"group", shown->group}, {"rank", shown->rank}, {"kind", name},
                                    {family->label, family->number_name(i)}));
    }
}

static void write_tallies(const struct rank_view *view)
{
    for (size_t f = 0; f < sizeof tally_families / sizeof *tally_families; f++) {
        const struct tally_family *family = &tally_families[f];
        exposition_family(view->out, family->name, family->type, family->help);
        for (size_t i = 0; i < view->count; i++)
            for (int kind = 0; kind < ITEM_KINDS; kind++)
                if (view->list[i].told[kind]) write_numbers(view, family, &view->list[i], kind);
    }
    exposition_family(view->out, "refrain_tier_saved_seconds_total", EXPOSED_COUNTER,
                      "What making the items that were found had taken.");
    for (size_t i = 0; i < view->count; i++)
        for (int kind = 0; kind < ITEM_KINDS; kind++)
            if (view->list[i].told[kind])
                exposition_value(view->out, view->list[i].kinds[kind].seconds_saved,
                                 LABELS({"group", view->list[i].group}, {"rank", view->list[i].rank},
                                        {"kind", item_kind_name((enum item_kind)kind)}));
}

void metrics_write_tier(const struct server *server, struct exposition *out)
{
    struct rank_view view = {.out = out, .list = calloc(METRICS_RANKS + 1, sizeof *view.list)};
    if (!view.list) {
        out->failed = true;
        return;
    }
    look(server, &view);
    write_member(&view, "refrain_rank_heard_seconds", EXPOSED_GAUGE, "Since a rank last said something.",
                 heard, server);
    write_member(&view, "refrain_rank_progress_total", EXPOSED_COUNTER,
                 "Pieces of work: stands still while a rank computes nothing.", progress, server);
    write_member(&view, "refrain_rank_weight_bytes", EXPOSED_GAUGE, "Of the model that is loaded.", weights,
                 server);
    write_levels(&view, "refrain_tier_limit_bytes", "What a rank's store may take.", false);
    write_levels(&view, "refrain_tier_used_bytes", "What it takes, unfinished items included.", true);
    write_tallies(&view);
    free(view.list);
}
