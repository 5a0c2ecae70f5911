/* cases.c - see cases.h. One thread. */
#include "tools/sim/cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum {
    WIDTH = 32,
    HEIGHT = 32,
    FRAMES = 1,
    CYCLE_STEPS = 30,
    CACHED_STEPS = 100,
    WARMUP = 10,     /* steps that are not measured */
    LONGEST_RUN = 3, /* of hits, as real policies have it */
    CYCLE_LAYERS = 8,
    CACHED_LAYERS = 40,
    MOST_JOBS = 64,
};

#define BLOCK_NS (10 * MILLISECOND_NS)
#define GUIDANCE 5.0 /* any above 1: two branches */

static struct hand_job make_job(int index, int steps, int branches)
{
    return (struct hand_job){.steps = steps,
                             .width = WIDTH,
                             .height = HEIGHT,
                             .frames = FRAMES,
                             .seed = (uint64_t)index + 1,
                             .guidance = branches == 2 ? GUIDANCE : 1};
}

static status_t check_jobs(int jobs, int ranks, struct error *error)
{
    if (jobs < 1 || jobs > MOST_JOBS)
        return error_set(error, STATUS_INVALID, "%d jobs: must be 1 to %d", jobs, MOST_JOBS);
    if (ranks < 1 || ranks > SEAT_MAX_RANKS)
        return error_set(error, STATUS_INVALID, "%d ranks: must be 1 to %d", ranks, SEAT_MAX_RANKS);
    return STATUS_OK;
}

static status_t check_failures(const struct hand_job *jobs, int count, struct error *error)
{
    for (int i = 0; i < count; i++)
        if (jobs[i].failure[0])
            return error_set(error, STATUS_INTERNAL, "job %d: %s", i + 1, jobs[i].failure);
    return STATUS_OK;
}

/* While all jobs are in flight: from a step of the job that ends first to its last one. */
struct window {
    int64_t from_ns, to_ns;
};

static struct window find_window(const struct hand_job *jobs, int count)
{
    int first = 0;
    while (first < count - 1 && !jobs[first].done) first++;
    return (struct window){jobs[first].step_ns[WARMUP - 1], jobs[first].step_ns[jobs[first].steps - 1]};
}

static bool is_within(struct window w, const struct hand_job *job, int step)
{
    return step < job->steps_done && job->step_ns[step] > w.from_ns && job->step_ns[step] <= w.to_ns;
}

/* Steps per nanosecond of all jobs together. */
static double measure_rate(const struct hand_job *jobs, int count, struct window w)
{
    int steps = 0;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < jobs[i].steps_done; k++) steps += is_within(w, &jobs[i], k);
    return steps / (double)(w.to_ns - w.from_ns);
}

/* -------------------------------------------------------------------------------------------------- cycle */

static void cut_evenly(int blocks, int ranks, int *run)
{
    for (int i = 0; i < ranks; i++) run[i] = blocks / ranks + (i < blocks % ranks);
}

/* A hop of so many nanoseconds, as latency or as time on the link. */
static struct network_config make_network(double hop_ns, bool occupies, uint64_t bytes)
{
    if (!occupies) return (struct network_config){.latency_ns = llrint(hop_ns)};
    return (struct network_config){.bytes_per_second = (double)bytes / hop_ns * (double)SECOND_NS};
}

status_t case_cycle(struct lab *lab, const struct cycle_case *wanted, struct cycle_found *found,
                    struct error *error)
{
    char model[PATH_MAX];
    struct hand_result result;
    struct hand_config config = {
        .model = model, .directory = lab->directory, .costs = {.block_ns = BLOCK_NS}};
    int layers = wanted->layers ? wanted->layers : CYCLE_LAYERS;
    status_t status = check_jobs(wanted->jobs, wanted->ranks, error);
    if (status == STATUS_OK) status = lab_model(lab, layers, model, error);
    struct hand_job *jobs = calloc((size_t)wanted->jobs, sizeof *jobs);
    if (status != STATUS_OK || !jobs) goto out;
    double stage_ns = (double)BLOCK_NS * layers / wanted->ranks;
    config.split.members = wanted->ranks;
    cut_evenly(layers, wanted->ranks, config.split.run);
    /* A hop back home is a little shorter, so that the time on the link is that of the longest: modulation and rows
     * of 4 tokens, 24 features each. */
    config.network = make_network(wanted->hop * stage_ns, wanted->occupies, TICKET_BYTES + hop_bytes(4, 24));
    for (int i = 0; i < wanted->jobs; i++) jobs[i] = make_job(i, CYCLE_STEPS, wanted->branches);
    status = hand_run(&config, jobs, wanted->jobs, &result, error);
    if (status == STATUS_OK) status = check_failures(jobs, wanted->jobs, error);
    if (status != STATUS_OK) goto out;
    struct window window = find_window(jobs, wanted->jobs);
    double work = wanted->jobs * wanted->branches;
    double path = wanted->ranks + wanted->branches - 1 + wanted->ranks * wanted->hop;
    found->predicted = work > path ? work : path;
    found->simulated = wanted->jobs / (measure_rate(jobs, wanted->jobs, window) * stage_ns);
out:
    free(jobs);
    return status;
}

/* ------------------------------------------------------------------------------------------------- cached */

/* A step mask: so many hits in a hundred steps, in runs of at most three, the first step computed; another
 * one for each job. */
static void make_mask(int percent, uint64_t seed, char text[CACHED_STEPS + 1])
{
    uint64_t random = seed * 0x9E3779B97F4A7C15u + 1;
    int hits = 0;
    memset(text, '1', CACHED_STEPS);
    text[CACHED_STEPS] = '\0';
    for (int tries = 0; hits < percent * CACHED_STEPS / 100 && tries < 100000; tries++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        int step = 1 + (int)((random >> 33) % (CACHED_STEPS - 1)), before = 0, behind = 0;
        while (text[step - 1 - before] == '0') before++;
        while (text[step + 1 + behind] == '0') behind++;
        if (text[step] == '0' || before + 1 + behind > LONGEST_RUN) continue;
        text[step] = '0';
        hits++;
    }
}

/* Blocks that a rank runs for one branch-step, on average, if each runs its own. */
static double own_load(const struct split *s, double hit_rate, int rank)
{
    double miss = 1 - hit_rate, caps = s->head + s->tail;
    double share = s->floating ? 1.0 / s->members : rank == 0;
    return caps * share + miss * s->run[rank];
}

/* What home takes from the next one by its spare blocks at best: until both are equally busy. */
static double spared(const struct split *s, double hit_rate)
{
    if (s->spare == 0) return 0;
    double more = own_load(s, hit_rate, 1) - own_load(s, hit_rate, 0);
    return fmax(0, fmin(more / 2, s->spare * (1 - hit_rate)));
}

static double load(const struct split *s, double hit_rate, int rank)
{
    double moved = rank < 2 ? spared(s, hit_rate) : 0;
    return own_load(s, hit_rate, rank) + (rank == 0 ? moved : -moved);
}

/* Gives block after block to the rank that is least busy with it. */
static void shift_blocks(double hit_rate, int blocks, struct split *s)
{
    for (int given = 0; given < blocks; given++) {
        int least = 0;
        for (int i = 1; i < s->members; i++)
            if (own_load(s, hit_rate, i) + 1e-9 < own_load(s, hit_rate, least)) least = i;
        s->run[least]++;
    }
}

void split_blocks(const struct cached_case *w, struct split *s)
{
    int blocks = (w->layers ? w->layers : CACHED_LAYERS) - w->head - w->tail;
    *s = (struct split){
        .members = w->ranks, .head = w->head, .tail = w->tail, .floating = w->layout == LAYOUT_FLOATING};
    if (w->layout == LAYOUT_EVEN)
        cut_evenly(blocks, w->ranks, s->run);
    else
        shift_blocks(w->percent / 100.0, blocks, s);
    s->spare = w->layout == LAYOUT_SPARE;
}

static void predict(const struct cached_case *w, const struct split *s, struct cached_found *found)
{
    int layers = w->layers ? w->layers : CACHED_LAYERS;
    double all = 0, most = 0;
    for (int i = 0; i < s->members; i++) {
        double rank = load(s, found->hit_rate, i);
        all += rank;
        most = rank > most ? rank : most;
        found->run[i] = s->run[i];
    }
    double miss = 1 - found->hit_rate, ranks = w->ranks;
    found->ideal = ranks / (w->branches * all / layers);
    found->possible = 1 / (w->branches * most / layers);
    found->uncached = ranks / w->branches;
    found->predicted_hops = s->floating ? miss * (ranks - 1) * (1 + 2 / ranks) : miss * ranks;
}

/* Over the steps that were finished within the window. */
static void count_hops(const struct hand_job *jobs, char masks[][CACHED_STEPS + 1], int count, int branches,
                       struct window w, struct cached_found *found)
{
    double steps = 0, hits = 0, hops = 0;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < CACHED_STEPS; k++) {
            bool hit = masks[i][k] == '0';
            if (hit) found->hit_hops += jobs[i].hops[k];
            if (!is_within(w, &jobs[i], k)) continue;
            steps++;
            hits += hit;
            hops += (double)jobs[i].hops[k];
        }
    found->hit_rate = hits / steps;
    found->hops = hops / (steps * branches);
}

status_t case_cached(struct lab *lab, const struct cached_case *wanted, struct cached_found *found,
                     struct error *error)
{
    struct split split;
    split_blocks(wanted, &split);
    return case_laid(lab, wanted, &split, found, error);
}

status_t case_laid(struct lab *lab, const struct cached_case *wanted, const struct split *split,
                   struct cached_found *found, struct error *error)
{
    char model[PATH_MAX], masks[MOST_JOBS][CACHED_STEPS + 1], texts[MOST_JOBS][CACHED_STEPS + 64];
    struct hand_result result;
    struct hand_config config = {
        .model = model, .directory = lab->directory, .split = *split, .costs = {.block_ns = BLOCK_NS}};
    int layers = wanted->layers ? wanted->layers : CACHED_LAYERS;
    status_t status = check_jobs(wanted->jobs, wanted->ranks, error);
    if (status == STATUS_OK) status = lab_model(lab, layers, model, error);
    struct hand_job *jobs = calloc((size_t)wanted->jobs, sizeof *jobs);
    if (status != STATUS_OK || !jobs) goto out;
    *found = (struct cached_found){0};
    config.network = make_network(wanted->hop * (double)BLOCK_NS * layers / wanted->ranks, false, 0);
    for (int i = 0; i < wanted->jobs; i++) {
        jobs[i] = make_job(i, CACHED_STEPS, wanted->branches);
        make_mask(wanted->percent, jobs[i].seed, masks[i]);
        snprintf(texts[i], sizeof texts[i], "mask:F=%d,B=%d,mask=%.*s", wanted->head, wanted->tail,
                 CACHED_STEPS, masks[i]);
        if (wanted->percent) jobs[i].cache = texts[i];
    }
    status = hand_run(&config, jobs, wanted->jobs, &result, error);
    if (status == STATUS_OK) status = check_failures(jobs, wanted->jobs, error);
    if (status != STATUS_OK) goto out;
    struct window window = find_window(jobs, wanted->jobs);
    found->simulated = measure_rate(jobs, wanted->jobs, window) * (double)BLOCK_NS * layers;
    count_hops(jobs, masks, wanted->jobs, wanted->branches, window, found);
    predict(wanted, &config.split, found);
out:
    free(jobs);
    return status;
}
