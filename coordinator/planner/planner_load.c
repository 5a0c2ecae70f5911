/* planner_load.c - see planner_load.h. */
#include "coordinator/planner/planner_load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* MOST_STEPS: of a job. MOST_MOVES: of hops and home's pieces that are played, about; a play of so many takes a few milliseconds.
 * LEAST_STEPS: of each job that are played nevertheless. TEXT_PIECES: home takes jobs' texts between others' steps, so that jobs which
 * come together do not begin together; what the texts take is in `beside`. PERIODS: from which the pace of many jobs is taken. */
enum {
    MOST_STEPS = 1000,
    SKIP_BYTES = MOST_STEPS / 8 + 1,
    MOST_MOVES = 32768,
    MOVES_AT_HOME = 3,
    LEAST_STEPS = 8,
    TEXT_PIECES = 4,
    PERIODS = 2,
};

static struct crew_job job_of(const struct planner_play *p)
{
    uint32_t steps = p->steps[0] + p->steps[1];
    return (struct crew_job){
        .home = -1,
        .tokens = p->tokens,
        .branches = p->branches,
        .phase = CREW_TEXT,
        .steps = steps,
        .first_steps = p->steps[0],
        .cached = p->hit_rate > 0,
        .head = p->head,
        .tail = p->tail,
        .block = p->block,
        .begin = p->ends / 2,
        .end = p->ends / 2,
        .text = {.count = TEXT_PIECES},
        .frames = {.count = p->beside > 0 ? p->latents : 0, .seconds = p->beside / fmax(1, p->latents)}};
}

/* Steps that hit, as many as the rate says, but for an expert's first; which, is chance, of each job another. */
static void draw_hits(const struct planner_play *p, uint64_t job, uint8_t *skips)
{
    uint32_t steps = p->steps[0] + p->steps[1], hits = (uint32_t)(p->hit_rate * steps + 0.5);
    uint64_t state = job * 0x9E3779B97F4A7C15u + 1;
    memset(skips, 0, SKIP_BYTES);
    for (uint32_t i = 1; i < steps; i++) {
        if (i == p->steps[0]) continue;
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        if ((state >> 33) % (steps - i) >= hits) continue;
        skips[i / 8] |= (uint8_t)(1 << i % 8);
        hits--;
    }
}

/* ended: [jobs] when each is done, the first to end first. skips: room for [jobs]. */
static bool play_with(const struct planner_play *p, uint32_t jobs, uint32_t in_flight, uint32_t grain,
                      uint8_t (*skips)[SKIP_BYTES], double *ended)
{
    struct plan stages = plan_wide_stages(p->plan);
    /* So that the first job is the first of those that share alike. */
    const uint64_t newest = p->plan->ranks - 1;
    const struct crew_layout layout = {.plan = &stages,
                                       .wide = plan_width(p->plan) > 1,
                                       .exact = true,
                                       .hop = p->hop,
                                       .links = p->links,
                                       .newest = newest};
    struct crew *crew = crew_open(&layout, grain);
    struct crew_job job = job_of(p);
    uint32_t done = 0;
    if (!crew) return false;
    while (done < jobs) {
        uint64_t number;
        while (job.number < jobs && job.number < done + in_flight) {
            if (job.cached) draw_hits(p, job.number, skips[job.number]);
            job.skips = skips[job.number++];
            crew_add(crew, &job, crew_now(crew));
        }
        if (!(crew_next(crew) < INFINITY)) break;
        if (crew_step(crew, &number)) ended[done++] = crew_now(crew);
    }
    crew_close(crew);
    return done == jobs;
}

static bool play(const struct planner_play *p, uint32_t jobs, uint32_t in_flight, uint32_t grain,
                 double *ended)
{
    uint8_t(*skips)[SKIP_BYTES] = calloc(jobs, sizeof *skips);
    bool played = skips && play_with(p, jobs, in_flight, grain, skips, ended);
    free(skips);
    return played;
}

static double moves_of_job(const struct planner_play *p)
{
    double stages = p->plan->ranks / plan_width(p->plan), steps = p->steps[0] + p->steps[1];
    return steps * p->branches * (stages + MOVES_AT_HOME);
}

static uint32_t choose_grain(const struct planner_play *p, uint32_t jobs)
{
    uint32_t steps = p->steps[0] + p->steps[1];
    return (uint32_t)fmax(1, fmin(ceil(jobs * moves_of_job(p) / MOST_MOVES), steps / LEAST_STEPS));
}

/* The same with steps of twice the size: what jobs are apart at the ends of a load is so many times too much as steps are too
 * large, and is taken off. */
static bool play_finely(const struct planner_play *p, uint32_t jobs, uint32_t in_flight, double *ended)
{
    uint32_t grain = choose_grain(p, jobs);
    if (!play(p, jobs, in_flight, grain, ended)) return false;
    if (grain == 1) return true;
    double *coarse = calloc(jobs, sizeof *coarse);
    bool played = coarse && play(p, jobs, in_flight, 2 * grain, coarse);
    for (uint32_t i = 0; i < jobs && played; i++) ended[i] -= (coarse[i] - ended[i]) * (grain - 1) / grain;
    free(coarse);
    return played;
}

/* What one more of many takes: while as many are in flight as can be, and over whole periods. */
static double pace_of(const double *ended, uint32_t jobs, uint32_t in_flight, uint32_t period)
{
    uint32_t between = (jobs - 2 * in_flight) / period * period;
    return (ended[in_flight - 1 + between] - ended[in_flight - 1]) / between;
}

bool planner_load_seconds(const struct planner_play *p, uint32_t jobs, uint32_t in_flight, uint32_t period,
                          double *seconds)
{
    uint32_t fewest = 2 * in_flight + PERIODS * period, more = 0;
    uint32_t played = (uint32_t)fmax(fewest, floor(MOST_MOVES / moves_of_job(p)));
    if (in_flight > CREW_JOBS || p->steps[0] + p->steps[1] > MOST_STEPS) return false;
    if (jobs > played + period) more = (jobs - played) / period * period;
    jobs -= more;
    double *ended = calloc(jobs, sizeof *ended);
    if (!ended || !play_finely(p, jobs, in_flight, ended)) {
        free(ended);
        return false;
    }
    *seconds = ended[jobs - 1];
    if (more > 0) *seconds += more * pace_of(ended, jobs, in_flight, period);
    free(ended);
    return true;
}
