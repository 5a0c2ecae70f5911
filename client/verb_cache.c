/*
 * verb_cache.c - `refrain cache`: what the ranks keep for later jobs.
 *
 *      RANK  KIND        SCOPE    ITEMS    MEMORY      DISK    HITS  FETCHED  COPIED  MISSES     SAVED  EVICTED
 *         0  text        own          3    2.1 MB    2.1 MB      12        1       2       3    14.2 s        0   absent 3
 *
 * Main thread.
 */
#include "client/cli.h"
#include "client/jobjson.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { DEVICE, HOST, DISK };

static uint64_t sum(const uint64_t *values, size_t count)
{
    uint64_t all = 0;
    for (size_t i = 0; i < count; i++) all += values[i];
    return all;
}

static void print_reasons(const struct refrain_cache_figure *figure)
{
    const char *between = "   ";
    for (size_t i = 0; i < figure->miss_count; i++) {
        if (!figure->misses[i]) continue;
        printf("%s%s %" PRIu64, between, refrain_cache_miss(i), figure->misses[i]);
        between = ", ";
    }
}

/* Nobody is told of GPUs where there are none. */
static bool has_device(const struct refrain_cache *cache)
{
    for (size_t i = 0; i < cache->rank_count; i++)
        if (cache->ranks[i].limit_bytes[DEVICE]) return true;
    return false;
}

static void print_figures(const struct cli *cli, const struct refrain_cache *cache)
{
    char device[SHOW_BYTES], here[SHOW_BYTES], disk[SHOW_BYTES], saved[SHOW_BYTES];
    bool gpus = has_device(cache);
    printf("%s %4s  %-10s  %-6s %7s", show_colour(&cli->style, SHOW_DIM), "RANK", "KIND", "SCOPE", "ITEMS");
    if (gpus) printf(" %9s", "GPU");
    printf(" %9s %9s %7s %8s %7s %7s %9s %8s%s\n", "MEMORY", "DISK", "HITS", "FETCHED", "COPIED", "MISSES",
           "SAVED", "EVICTED", show_colour(&cli->style, SHOW_PLAIN));
    for (size_t i = 0; i < cache->figure_count; i++) {
        const struct refrain_cache_figure *one = &cache->figures[i];
        printf(" %4u  %-10s  %-6s %7" PRIu64, one->rank, one->kind, one->scope, one->items);
        if (gpus) printf(" %9s", show_bytes(one->bytes[DEVICE], device));
        printf(" %9s %9s %7" PRIu64 " %8" PRIu64 " %7" PRIu64 " %7" PRIu64 " %9s %8" PRIu64,
               show_bytes(one->bytes[HOST], here), show_bytes(one->bytes[DISK], disk),
               sum(one->hits, REFRAIN_CACHE_LEVELS), one->fetched, one->copied,
               sum(one->misses, one->miss_count), show_duration(&cli->style, one->seconds_saved, saved),
               sum(one->evictions, REFRAIN_CACHE_LEVELS));
        print_reasons(one);
        putchar('\n');
    }
}

static void print_limits(const struct refrain_cache *cache)
{
    char device[SHOW_BYTES], memory[SHOW_BYTES], disk[SHOW_BYTES], used[SHOW_BYTES], written[SHOW_BYTES],
        pinned[SHOW_BYTES];
    for (size_t i = 0; i < cache->rank_count; i++) {
        const struct refrain_cache_rank *one = &cache->ranks[i];
        if (!sum(one->limit_bytes, REFRAIN_CACHE_LEVELS)) {
            printf(" rank %-7u keeps nothing: its cache tier is off, or it has not reported yet\n",
                   one->rank);
            continue;
        }
        printf(" rank %-7u may keep ", one->rank);
        if (one->limit_bytes[DEVICE]) printf("%s on its GPU, ", show_bytes(one->limit_bytes[DEVICE], device));
        printf("%s in memory, %s on disk", show_bytes(one->limit_bytes[HOST], memory),
               show_bytes(one->limit_bytes[DISK], disk));
        if (one->has_used && one->limit_bytes[DEVICE])
            printf("; in use %s, %s and %s, %s pinned", show_bytes(one->used_bytes[DEVICE], device),
                   show_bytes(one->used_bytes[HOST], used), show_bytes(one->used_bytes[DISK], written),
                   show_bytes(one->pinned_bytes, pinned));
        else if (one->has_used)
            printf("; %s and %s are in use, %s pinned", show_bytes(one->used_bytes[HOST], used),
                   show_bytes(one->used_bytes[DISK], written), show_bytes(one->pinned_bytes, pinned));
        putchar('\n');
    }
}

static void print_items(const struct cli *cli, const struct refrain_cache *cache)
{
    char bytes[SHOW_BYTES], saves[SHOW_BYTES];
    for (size_t i = 0; i < cache->item_count; i++) {
        const struct refrain_cache_item *one = &cache->items[i];
        printf(" %s  %-6s %9s %9s  ranks", one->key, one->scope, show_bytes(one->bytes, bytes),
               show_duration(&cli->style, one->seconds, saves));
        for (size_t k = 0; k < one->rank_count; k++) printf(" %u", one->ranks[k]);
        putchar('\n');
    }
    if (cache->more) printf("more; --limit shows up to 1000\n");
    if (!cache->item_count) printf("no items\n");
}

static void print(const struct cli *cli, enum refrain_cache_verb verb, const struct refrain_cache *cache)
{
    if (cli->settings.json) {
        jobjson_print(jobjson_cache(cache));
    } else if (verb == REFRAIN_CACHE_SHOW) {
        print_limits(cache);
        if (cache->figure_count) print_figures(cli, cache);
        if (!cache->rank_count) printf("no ranks are there\n");
    } else if (verb == REFRAIN_CACHE_LIST) {
        print_items(cli, cache);
    } else if (!cli->settings.quiet) {
        printf("%u ranks were told\n", cache->told);
    }
}

static status_t read_operands(const struct cli *cli, struct refrain_cache_query *query, struct error *error)
{
    static const struct {
        const char *name;
        enum refrain_cache_verb verb;
        int least, most; /* operands behind it */
    } actions[] = {{"show", REFRAIN_CACHE_SHOW, 0, 0},   {"list", REFRAIN_CACHE_LIST, 0, 1},
                   {"flush", REFRAIN_CACHE_FLUSH, 0, 1}, {"forget", REFRAIN_CACHE_FORGET, 1, 1},
                   {"pin", REFRAIN_CACHE_PIN, 1, 1},     {"unpin", REFRAIN_CACHE_UNPIN, 1, 1}};
    const char *action = options_operand_count(cli->options) ? options_operand(cli->options, 0) : "show";
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(action, actions[i].name) != 0) continue;
        status_t status =
            cli_operands(cli, actions[i].least ? 2 : 0, 1 + actions[i].most,
                         actions[i].least ? "forget KEY, pin KEY or unpin KEY" : "[ACTION [KIND]]", error);
        const char *operand =
            options_operand_count(cli->options) > 1 ? options_operand(cli->options, 1) : NULL;
        query->verb = actions[i].verb;
        if (actions[i].least)
            query->key = operand;
        else
            query->kind = operand;
        return status;
    }
    return error_set(error, STATUS_INVALID, "cache '%s': must be show, list, flush, forget, pin or unpin",
                     action);
}

int verb_cache(struct cli *cli)
{
    struct error error;
    struct refrain_cache *cache = NULL;
    struct refrain_cache_query query = {
        .all = cli->settings.all,
        .limit = options_given(cli->options, "limit") ? (unsigned)cli->settings.limit : 0};
    status_t status = read_operands(cli, &query, &error);
    if (!status) status = cli_connect(cli, &error);
    if (!status) status = refrain_cache(cli->refrain, &query, CALL_MS, &cache, &error);
    if (status) return cli_fail(cli, status, &error);
    print(cli, query.verb, cache);
    refrain_free(cache);
    return EXIT_CODE_OK;
}
