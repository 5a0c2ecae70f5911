/*
 * simulate_tier.c - what eviction by worth saves, beside least-recently-used and beside no tier at all.
 *
 *     simulate_tier                                          every trace, several limits
 *     simulate_tier --trace mixed --seed 3 --limits 50,200   one trace, limits in GB
 *     simulate_tier --trace FILE                             a recorded one (tools/tier/request.h)
 *     simulate_tier --trace mixed --write > mixed.jsonl      a made-up one as a file
 *     simulate_tier --disk 500                               a disk level of 500 GB below, real files
 *     simulate_tier --csv                                    for tools/plot_tier.py
 *     simulate_tier --kinds                                  what each kind of item did
 *     simulate_tier --rivals                                 beside other policies, and what knowing the future would save
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/scratch.h"
#include "tools/tier/replay.h"
#include "tools/tier/rival.h"

enum { LIMITS = 16, SCALE = 1024 };

struct request_line {
    const char *trace;
    uint64_t seed;
    double limit_gb[LIMITS], disk_gb;
    int limits;
    uint32_t cadence;
    bool write, csv, kinds, rivals;
};

static void stop(const struct error *error)
{
    fprintf(stderr, "simulate_tier: %s\n", error->text);
    exit(1);
}

static void get_trace(const struct request_line *line, const char *name, struct trace *trace)
{
    struct error error;
    *trace = (struct trace){0};
    if (trace_make(name, line->seed, trace)) return;
    FILE *file = fopen(name, "r");
    if (!file) {
        error_set(&error, STATUS_IO, "%s is neither a file nor one of the made-up traces: %m", name);
        stop(&error);
    }
    if (trace_read(file, trace, &error) != STATUS_OK) {
        error_prefix(&error, "%s", name);
        stop(&error);
    }
    fclose(file);
}

/* rival: NULL: the store, by `eviction`. */
static struct replay_result run(const struct trace *trace, const struct request_line *line, double gb,
                                enum eviction eviction, const char *rival)
{
    struct error error;
    struct scratch scratch = {0};
    char directory[SCRATCH_PATH_BYTES + 8];
    struct replay_result result;
    struct replay_settings settings = {
        .limit_bytes = {[LEVEL_HOST] = (uint64_t)(gb * 1e9), [LEVEL_DISK] = (uint64_t)(line->disk_gb * 1e9)},
        .eviction = eviction,
        .rival = rival,
        .scale = SCALE,
        .cadence = line->cadence,
        .items = 1 << 18};
    if (line->disk_gb > 0) {
        if (scratch_open("/tmp", "refrain-tier", &scratch, &error) != STATUS_OK) stop(&error);
        snprintf(directory, sizeof directory, "%s/items", scratch.path);
        settings.directory = directory;
    }
    if (replay_run(trace, &settings, &result, &error) != STATUS_OK) stop(&error);
    if (line->disk_gb > 0) scratch_close(&scratch);
    if (result.wrong) {
        error_set(&error, STATUS_CORRUPT, "%llu hits had other bytes than were published",
                  (unsigned long long)result.wrong);
        stop(&error);
    }
    return result;
}

static void print_kinds(const struct replay_result *result, const char *policy)
{
    for (int kind = 0; kind < ITEM_KINDS; kind++) {
        const struct tally *tally = &result->stats.kinds[kind];
        uint64_t hits = 0, misses = 0, evictions = 0, bytes = 0;
        for (int level = 0; level < LEVELS; level++)
            hits += tally->hits[level], evictions += tally->evictions[level], bytes += tally->bytes[level];
        for (int reason = 0; reason < MISSES; reason++) misses += tally->misses[reason];
        if (!hits && !misses && !tally->published) continue;
        printf("    %-6s %-11s %6llu items %8.1f GB  published %7llu  refused %7llu  evicted %7llu  hits "
               "%7llu of %7llu  "
               "saved %8.1f h\n",
               policy, item_kind_name((enum item_kind)kind), (unsigned long long)tally->items,
               (double)bytes * SCALE * 1e-9, (unsigned long long)tally->published,
               (unsigned long long)tally->refused, (unsigned long long)evictions, (unsigned long long)hits,
               (unsigned long long)(hits + misses), tally->seconds_saved / 3600);
    }
}

/* asked_s: of a run without a hit would be more; this is what the other shares are of. */
static void print_rivals(const struct trace *trace, const struct request_line *line, double gb,
                         double asked_s, struct bound *bound)
{
    double least, most;
    printf("    ");
    for (const char *const *rival = rival_names; *rival; rival++)
        printf("%s %.2f %%, ", *rival, 100 * run(trace, line, gb, EVICT_OLDEST, *rival).saved_s / asked_s);
    bound_at(bound, gb * 1e9, &least, &most);
    printf("who knows the future at least %.2f %%, nobody above %.2f %%\n", 100 * least / asked_s,
           100 * most / asked_s);
}

static void compare(const struct request_line *line, const char *name)
{
    struct trace trace;
    get_trace(line, name, &trace);
    if (line->write) {
        trace_write(&trace, stdout);
        free(trace.request);
        return;
    }
    struct bound *bound = bound_open();
    replay_foresee(&trace, &(struct replay_settings){.scale = 1, .cadence = line->cadence}, bound);
    for (int i = 0; i < line->limits; i++) {
        double gb = line->limit_gb[i];
        struct replay_result worth = run(&trace, line, gb, EVICT_LEAST_WORTH, NULL),
                             oldest = run(&trace, line, gb, EVICT_OLDEST, NULL);
        double ratio = oldest.saved_s > 0 ? worth.saved_s / oldest.saved_s : 1;
        double by_worth = worth.saved_s / worth.asked_s, by_age = oldest.saved_s / worth.asked_s;
        double published_gb = (double)worth.published_bytes * 1e-9, asked_h = worth.asked_s / 3600;
        if (line->csv)
            printf("%s,%g,%zu,%.1f,%.1f,%.4f,%.4f,%.3f\n", name, gb, trace.count, published_gb, asked_h,
                   by_worth, by_age, ratio);
        else
            printf("%-8s %6g GB  %6zu requests %9.1f GB published %9.1f h asked  saved: by worth %6.2f %%, "
                   "oldest first "
                   "%6.2f %%, ratio %.3f\n",
                   name, gb, trace.count, published_gb, asked_h, 100 * by_worth, 100 * by_age, ratio);
        fflush(stdout);
        if (line->rivals) print_rivals(&trace, line, gb, worth.asked_s, bound);
        if (line->kinds) print_kinds(&worth, "worth"), print_kinds(&oldest, "oldest");
    }
    bound_close(bound);
    free(trace.request);
}

static void read_limits(struct request_line *line, char *text)
{
    line->limits = 0;
    for (char *rest = NULL, *one = strtok_r(text, ",", &rest); one && line->limits < LIMITS;
         one = strtok_r(NULL, ",", &rest))
        line->limit_gb[line->limits++] = strtod(one, NULL);
}

int main(int count, char **words)
{
    static const struct option options[] = {
        {"trace", required_argument, NULL, 't'},   {"seed", required_argument, NULL, 's'},
        {"limits", required_argument, NULL, 'l'},  {"disk", required_argument, NULL, 'd'},
        {"cadence", required_argument, NULL, 'c'}, {"write", no_argument, NULL, 'w'},
        {"csv", no_argument, NULL, 'v'},           {"kinds", no_argument, NULL, 'k'},
        {"rivals", no_argument, NULL, 'r'},        {0}};
    struct request_line line = {.seed = 1, .limit_gb = {1, 5, 20, 50, 100, 200}, .limits = 6, .cadence = 10};
    for (int letter; (letter = getopt_long(count, words, "", options, NULL)) != -1;) switch (letter) {
        case 't':
            line.trace = optarg;
            break;
        case 's':
            line.seed = strtoull(optarg, NULL, 10);
            break;
        case 'l':
            read_limits(&line, optarg);
            break;
        case 'd':
            line.disk_gb = strtod(optarg, NULL);
            break;
        case 'c':
            line.cadence = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'w':
            line.write = true;
            break;
        case 'v':
            line.csv = true;
            break;
        case 'k':
            line.kinds = true;
            break;
        case 'r':
            line.rivals = true;
            break;
        default:
            return 2;
        }
    if (line.cadence == 0 || line.limits == 0) {
        fprintf(stderr, "simulate_tier: cadence and limits are 1 or more\n");
        return 2;
    }
    if (line.csv) printf("trace,gb,requests,published_gb,asked_h,worth,oldest,ratio\n");
    for (const char *const *name = trace_names; *name; name++)
        if (!line.trace || strcmp(line.trace, *name) == 0) compare(&line, *name);
    bool known = !line.trace;
    for (const char *const *name = trace_names; *name; name++)
        known |= line.trace && strcmp(line.trace, *name) == 0;
    if (!known) compare(&line, line.trace);
    return 0;
}
