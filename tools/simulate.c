/*
 * simulate.c - the real service on a virtual clock: experiments of tools/sim/cases.h, as a table or as CSV.
 *
 *     build/simulate cycle                       jobs and branches as micro-batches, against the formula
 *     build/simulate cached --csv                caching on a fixed and on floating homes
 *     build/simulate flight                      jobs from text to files, the time ranks do not compute
 *     build/simulate finish --verbose            when jobs of mixed queues are said to be done, and when they are
 *     build/simulate storm --ranks 4 --seeds 50  ranks and coordinator killed at random, outputs compared
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/options.h"
#include "base/clock.h"
#include "tools/sim/cases.h"
#include "tools/sim/flight.h"
#include "tools/sim/foretold.h"
#include "tools/sim/layouts.h"
#include "tools/sim/storm.h"

struct settings {
    const char *model;
    int64_t ranks, jobs, percent, seed, seeds, pause_ms;
    double hop;
    const char *cache, *home;
    bool mixed, csv, verbose, help;
};

#define FIELD(name) offsetof(struct settings, name)

static const struct option_spec specs[] = {
    {.help = "Experiments"},
    {"model", 0, OPTION_TEXT, FIELD(model), "DIR", .standard = "tests/models/tiny-a",
     .help = "small checkpoint whose blocks are repeated"},
    {"ranks", 0, OPTION_INT, FIELD(ranks), "P", .min = 0, .max = SEAT_MAX_RANKS, .help = "ranks; 0: several",
     .standard = "0"},
    {"jobs", 0, OPTION_INT, FIELD(jobs), "J", .min = 0, .max = 64, .help = "jobs in flight; 0: several",
     .standard = "0"},
    {"percent", 0, OPTION_INT, FIELD(percent), "N", .min = 0, .max = 74, .help = "steps that are hits",
     .standard = "54"},
    {"hop", 0, OPTION_REAL, FIELD(hop), "C", .min = 0, .max = 10, .help = "time of one hop, in stage times",
     .standard = "0"},
    {"seed", 0, OPTION_INT, FIELD(seed), "N", .min = 0, .max = 1e9, .help = "of the first storm",
     .standard = "1"},
    {"seeds", 0, OPTION_INT, FIELD(seeds), "N", .min = 1, .max = 1e6, .help = "storms", .standard = "10"},
    {"pause", 0, OPTION_DURATION, FIELD(pause_ms), "TIME", .min = 1, .max = 1e6,
     .help = "between two disturbances, on average", .standard = "2s"},
    {"cache", 0, OPTION_TEXT, FIELD(cache), "POLICY", .help = "of jobs in `flight`"},
    {"home", 0, OPTION_TEXT, FIELD(home), "fixed|floating", .help = "where jobs live in `flight`"},
    {"mixed", 0, OPTION_FLAG, FIELD(mixed), .help = "jobs of 15 to 45 steps in `flight`"},
    {"csv", 0, OPTION_FLAG, FIELD(csv), .help = "comma-separated values instead of a table"},
    {"verbose", 0, OPTION_FLAG, FIELD(verbose), .help = "every job of a queue in `finish`"},
    {"help", 'h', OPTION_FLAG, FIELD(help), .help = "this text"},
};
static const struct option_table table = {"simulate", specs, sizeof specs / sizeof *specs};

static const char *const layouts[] = {[LAYOUT_SHIFTED] = "shifted",
                                      [LAYOUT_SPARE] = "spare",
                                      [LAYOUT_EVEN] = "even",
                                      [LAYOUT_FLOATING] = "floating"};

static status_t cycle_row(struct lab *lab, const struct settings *s, const struct cycle_case *c,
                          struct error *error)
{
    struct cycle_found found;
    status_t status = case_cycle(lab, c, &found, error);
    if (status != STATUS_OK) return status;
    printf(s->csv ? "%d,%d,%d,%g,%.4f,%.4f,%.4f\n" : "%5d %4d %8d %5g %10.3f %10.3f %8.3f\n", c->ranks,
           c->jobs, c->branches, c->hop, found.predicted, found.simulated, found.simulated / found.predicted);
    fflush(stdout);
    return STATUS_OK;
}

static status_t simulate_cycle(struct lab *lab, const struct settings *s, struct error *error)
{
    static const int several[] = {2, 4, 8};
    status_t status = STATUS_OK;
    puts(s->csv ? "ranks,jobs,branches,hop,predicted,simulated,ratio"
                : "ranks jobs branches   hop  predicted  simulated    ratio");
    for (size_t p = 0; p < sizeof several / sizeof *several; p++)
        for (int branches = 1; branches <= 2; branches++)
            for (int jobs = 1; jobs <= 10 && status == STATUS_OK; jobs++) {
                struct cycle_case c = {
                    .ranks = several[p], .jobs = jobs, .branches = branches, .hop = s->hop};
                bool asked = (!s->ranks || s->ranks == c.ranks) && (!s->jobs || s->jobs == jobs);
                if (asked) status = cycle_row(lab, s, &c, error);
            }
    return status;
}

static status_t cached_row(struct lab *lab, const struct settings *s, const struct cached_case *c,
                           struct error *error)
{
    struct cached_found f;
    status_t status = case_cached(lab, c, &f, error);
    if (status != STATUS_OK) return status;
    printf(s->csv ? "%s,%d,%d,%d,%d,%d,%.4f,%.4f,%.4f,%.4f,%.4f,%.3f,%.3f\n"
                  : "%-9s F%dB%d %4d %5d %4d %9.3f %9.3f %9.3f %9.3f %8.3f %6.2f %6.2f\n",
           layouts[c->layout], c->head, c->tail, c->percent, c->ranks, c->jobs, f.uncached, f.ideal,
           f.possible, f.simulated, f.simulated / f.ideal, f.hops, f.predicted_hops);
    fflush(stdout);
    return STATUS_OK;
}

static status_t simulate_cached(struct lab *lab, const struct settings *s, struct error *error)
{
    static const int heads[] = {1, 8};
    status_t status = STATUS_OK;
    puts(s->csv ? "layout,head,tail,percent,ranks,jobs,uncached,ideal,possible,simulated,ratio,hops,"
                  "predicted_hops"
                : "layout    caps hits ranks jobs  uncached     ideal  possible simulated    ratio   hops  "
                  "predicted");
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++)
        for (int layout = LAYOUT_SHIFTED; layout <= LAYOUT_FLOATING; layout++)
            for (int jobs = 6; jobs <= 10 && status == STATUS_OK; jobs += 2) {
                struct cached_case c = {.ranks = s->ranks ? (int)s->ranks : 4,
                                        .jobs = s->jobs ? (int)s->jobs : jobs,
                                        .branches = 2,
                                        .head = heads[h],
                                        .percent = (int)s->percent,
                                        .layout = (enum cached_layout)layout,
                                        .hop = s->hop};
                status = cached_row(lab, s, &c, error);
                if (s->jobs) break;
            }
    return status;
}

static status_t simulate_storm(struct lab *lab, const struct settings *s, struct error *error)
{
    struct calm calm = {.lab = lab};
    struct storm_found f;
    status_t status = STATUS_OK;
    puts(s->csv
             ? "seed,ranks,jobs,kills,stops,losses,processes,steps,wanted,seconds,failed,different,given_up"
             : " seed ranks jobs  kills stops losses  ranks-started  steps (of)   seconds  failed  different "
               " given-up");
    for (int64_t i = 0; i < s->seeds && status == STATUS_OK; i++) {
        struct storm_case c = {.ranks = s->ranks ? (int)s->ranks : 4,
                               .jobs = s->jobs ? (int)s->jobs : 8,
                               .seed = (uint64_t)(s->seed + i),
                               .pause_ns = s->pause_ms * MILLISECOND_NS,
                               .coordinator = true};
        status = storm_run(&calm, &c, &f, error);
        if (status != STATUS_OK) error_prefix(error, "seed %d", (int)(s->seed + i));
        if (status != STATUS_OK) break;
        printf(s->csv ? "%lu,%d,%d,%d,%d,%d,%d,%d,%d,%.2f,%d,%d,%d\n"
                      : "%5lu %5d %4d %6d %5d %6d %14d %6d %4d %9.2f %7d %10d %9d\n",
               (unsigned long)c.seed, c.ranks, c.jobs, f.kills, f.stops, f.losses, f.processes, f.steps,
               f.steps_wanted, f.seconds, f.failed, f.different, f.given_up);
        if (f.first[0]) fprintf(stderr, "seed %lu: %s\n", (unsigned long)c.seed, f.first);
        fflush(stdout);
    }
    calm_free(&calm);
    return status;
}

static status_t flight_row(struct lab *lab, const struct settings *s, const struct flight_case *c,
                           struct error *error)
{
    struct flight_found f;
    status_t status = flight_run(lab, c, &f, error);
    if (status != STATUS_OK) return status;
    printf(s->csv ? "%d,%d,%d,%.2f,%.4f,%.4f" : "%5d %9d %4d %8.2f %6.3f %7.3f  ", c->ranks, c->in_flight,
           c->jobs, f.seconds, f.share, f.queued);
    for (int i = 0; i < c->ranks; i++)
        printf(s->csv ? ",%.4f,%.4f" : "  %.3f+%.3f", f.rank[i].idle, f.rank[i].drain);
    putchar('\n');
    fflush(stdout);
    return STATUS_OK;
}

static status_t simulate_flight(struct lab *lab, const struct settings *s, struct error *error)
{
    static const int lengths[] = {12, 36};
    status_t status = STATUS_OK;
    puts(s->csv ? "ranks,in_flight,jobs,seconds,share,queued,idle and drain of each rank"
                : "ranks in-flight jobs  seconds  share  queued    idle+drain of each rank");
    for (int ranks = s->ranks ? (int)s->ranks : 2; ranks <= (s->ranks ? s->ranks : 4); ranks++)
        for (int i = 0; i < 2 && status == STATUS_OK; i++) {
            struct flight_case c = {.ranks = ranks,
                                    .jobs = lengths[i],
                                    .in_flight = s->jobs ? (int)s->jobs : 2 * ranks,
                                    .mixed = s->mixed,
                                    .cache = s->cache,
                                    .home = s->home};
            status = flight_row(lab, s, &c, error);
        }
    return status;
}

static void list_foretold(const struct foretold_found *f)
{
    puts("   job priority steps frames branches  cache                seconds   errors: submission  all "
         "there    quarter       half");
    for (int i = 0; i < f->jobs; i++) {
        const struct rehearsal_job *job = &f->job[i];
        printf("   %3d %8d %5d %6d %8d  %-18s %9.3f  ", i + 1, (int)f->priority[i], job->steps, f->frames[i],
               f->branches[i], f->cache[i], (double)(job->ended_ns - job->submitted_ns) / SECOND_NS);
        for (int moment = 0; moment < FORETOLD_MOMENTS; moment++) {
            double error;
            if (foretold_job_error(f, i, (enum foretold_moment)moment, false, &error))
                printf(" %+9.1f %%", 100 * error);
            else
                printf(" %11s", "-");
        }
        putchar('\n');
    }
}

static status_t foretold_row(struct lab *lab, const struct settings *s, const char *name,
                             const struct foretold_case *c, struct error *error)
{
    static struct foretold_found found;
    status_t status = foretold_run(lab, c, &found, error);
    if (status != STATUS_OK) return status;
    printf(s->csv ? "%s,%d,%s,%d" : "%-34s %5d %8s %4d", name, c->ranks, c->home ? c->home : "chosen",
           c->jobs);
    for (int m = 0; m < FORETOLD_MOMENTS; m++)
        printf(s->csv ? ",%.4f,%.4f,%.4f" : "   %5.1f %+5.1f %5.1f",
               100 * foretold_error(&found, (enum foretold_moment)m, false),
               100 * foretold_bias(&found, (enum foretold_moment)m, false),
               100 * foretold_error(&found, (enum foretold_moment)m, true));
    putchar('\n');
    if (s->verbose) list_foretold(&found);
    fflush(stdout);
    return STATUS_OK;
}

/* Medians of errors: of the whole time, signed, and of what was still to come. */
static status_t simulate_finish(struct lab *lab, const struct settings *s, struct error *error)
{
    static const struct {
        const char *name;
        struct foretold_case of;
    } queues[] = {
        {"mixed", {.jobs = 24}},
        {"12 jobs", {.jobs = 12}},
        {"40 jobs", {.jobs = 40}},
        {"one kind", {.jobs = 24, .one_kind = true}},
        {"policies that measure", {.jobs = 24, .measured = true}},
        {"priorities", {.jobs = 24, .priorities = true}},
        {"6 to 12 steps", {.jobs = 24, .least_steps = 6, .most_steps = 12}},
        {"50 to 100 steps", {.jobs = 24, .least_steps = 50, .most_steps = 100}},
        {"one each 0.3 s", {.jobs = 24, .gap_ns = 300 * MILLISECOND_NS}},
        {"one each 1 s", {.jobs = 24, .gap_ns = 1000 * MILLISECOND_NS}},
        {"attention is half", {.jobs = 24, .curve = 0.5}},
        {"everything",
         {.jobs = 40, .measured = true, .priorities = true, .curve = 0.5, .gap_ns = 300 * MILLISECOND_NS}}};
    static const struct {
        int ranks;
        const char *home, *layout;
    } places[] = {{1, NULL, NULL},  {2, NULL, NULL},       {2, "floating", NULL}, {2, "fixed", NULL},
                  {2, NULL, "cfg"}, {4, "floating", NULL}, {4, "fixed", NULL}};
    status_t status = STATUS_OK;
    puts(s->csv
             ? "queue,ranks,home,jobs,submission,bias,rest,there,bias,rest,quarter,bias,rest,half,bias,rest"
             : "queue                              ranks     home jobs   at submission       once all there  "
               "    "
               "at a quarter        at half");
    for (size_t q = 0; q < sizeof queues / sizeof *queues; q++)
        for (size_t p = 0; p < sizeof places / sizeof *places && status == STATUS_OK; p++) {
            struct foretold_case c = queues[q].of;
            if ((s->ranks && s->ranks != places[p].ranks) ||
                (s->home && (!places[p].home || strcmp(s->home, places[p].home) != 0)))
                continue;
            if (s->seed != 1 && (size_t)s->seed != q + 2) continue;
            c.ranks = places[p].ranks;
            c.home = places[p].home;
            c.layout = places[p].layout;
            status = foretold_row(lab, s, c.layout ? c.layout : queues[q].name, &c, error);
        }
    return status;
}

/* One layout: a job alone, and a queue. */
static status_t layout_row(struct lab *lab, const struct settings *s, struct layout_case c,
                           struct error *error)
{
    struct layout_found alone, queue;
    int in_flight = s->jobs ? (int)s->jobs : c.ranks + 4;
    c.jobs = 1;
    status_t status = case_layout(lab, &c, &alone, error);
    c.in_flight = in_flight;
    c.jobs = 3 * in_flight + 4 < LAYOUT_MOST_JOBS ? 3 * in_flight + 4 : LAYOUT_MOST_JOBS;
    if (status == STATUS_OK) status = case_layout(lab, &c, &queue, error);
    if (status != STATUS_OK) return status;
    printf(s->csv ? "%d,%d,%.3f,%.3f,%.3f,%.3f,\"%s\"\n" : "%5d %9d %10.2f %10.2f %10.2f %10.2f   %s\n",
           c.ranks, in_flight, alone.predicted, alone.simulated, queue.predicted, queue.simulated,
           alone.text);
    fflush(stdout);
    return STATUS_OK;
}

/* In block times; a model of two experts, where 26 of 40 steps are the first one's (shift 12), shows pools, too. */
static status_t simulate_layouts(struct lab *lab, const struct settings *s, struct error *error)
{
    static const int several[] = {2, 3, 4, 8};
    char second[PATH_MAX];
    snprintf(second, sizeof second, "%s/transformer_2", s->model);
    bool pools = access(second, F_OK) == 0;
    status_t status = STATUS_OK;
    puts(s->csv ? "ranks,in_flight,alone_predicted,alone_simulated,queue_predicted,queue_simulated,plan"
                : "ranks in-flight alone pred  simulated queue pred  simulated   plan");
    for (size_t p = 0; p < sizeof several / sizeof *several && status == STATUS_OK; p++)
        for (int layout = PLAN_LAYOUT_PIPELINE; layout <= (pools ? PLAN_LAYOUT_CFG_POOLS : PLAN_LAYOUT_CFG);
             layout++) {
            struct layout_case c = {.ranks = several[p],
                                    .layers = 40,
                                    .steps = 40,
                                    .layout = (enum plan_layout)layout,
                                    .home = PLAN_HOME_FIXED,
                                    .hop = s->hop,
                                    .experts = pools ? 2 : 1,
                                    .first_share = 0.65,
                                    .shift = pools ? 12 : 0};
            if (status == STATUS_OK && (!s->ranks || s->ranks == c.ranks))
                status = layout_row(lab, s, c, error);
        }
    return status;
}

static int complain(const struct error *error)
{
    fprintf(stderr, "simulate: %s\n", error->text);
    return 1;
}

int main(int argc, char **argv)
{
    struct settings settings = {0};
    struct options *options;
    struct error error;
    struct lab lab;
    if (options_parse(&table, 0, argc, argv, &settings, &options, &error) != STATUS_OK)
        return complain(&error);
    const char *verb = options_operand_count(options) == 1 ? options_operand(options, 0) : "";
    if (settings.help || !*verb) {
        puts("simulate - the service on a virtual clock\n\n  simulate cycle|cached|flight|layouts|storm "
             "[options]\n");
        options_help(&table, 0, stdout);
        options_destroy(options);
        return settings.help ? 0 : 1;
    }
    status_t status = lab_open(settings.model, &lab, &error);
    if (status == STATUS_OK) {
        if (strcmp(verb, "cycle") == 0)
            status = simulate_cycle(&lab, &settings, &error);
        else if (strcmp(verb, "cached") == 0)
            status = simulate_cached(&lab, &settings, &error);
        else if (strcmp(verb, "flight") == 0)
            status = simulate_flight(&lab, &settings, &error);
        else if (strcmp(verb, "layouts") == 0)
            status = simulate_layouts(&lab, &settings, &error);
        else if (strcmp(verb, "finish") == 0)
            status = simulate_finish(&lab, &settings, &error);
        else if (strcmp(verb, "storm") == 0)
            status = simulate_storm(&lab, &settings, &error);
        else
            status = error_set(&error, STATUS_INVALID,
                               "%s: there are cycle, cached, flight, layouts and storm", verb);
        lab_close(&lab);
    }
    options_destroy(options);
    return status == STATUS_OK ? 0 : complain(&error);
}
