/* planner_load.c - see planner_load.h. Pure functions. */
#include "coordinator/planner/planner_load.h"

#include <math.h>

/* Jobs that are followed one by one; more of them go through at the pace of the busiest rank. */
enum { FOLLOWED = 160 };

#define NONE_LEFT 1e-9 /* steps */
#define SAME      1e-6 /* hops */

struct course {
    int phase;   /* PLANNER_PHASES: done */
    double left; /* steps of the phase */
    double rate; /* steps a second, now */
};

/* Jobs that fill the ranks in a phase; for a tenth of one no other is begun. */
static uint32_t filling(const struct planner_pace *pace, int phase)
{
    double jobs = pace->cycle[phase] > 0 ? pace->alone[phase] / pace->cycle[phase] : 1;
    return jobs > 1 ? (uint32_t)fmin(ceil(jobs - 0.1), FOLLOWED) : 1;
}

static void enter(const struct planner_pace *pace, struct course *job, int phase)
{
    while (phase < PLANNER_PHASES && pace->steps[phase] <= 0) phase++;
    *job = (struct course){.phase = phase, .left = phase < PLANNER_PHASES ? pace->steps[phase] : 0};
}

/* Seconds of a step of the oldest of so many jobs: of one alone, in whole hops once there always is another one's. */
static double oldest_step(const struct planner_pace *pace, int phase, uint32_t jobs)
{
    double alone = pace->alone[phase];
    bool full = phase == 0 && pace->hop > 0 && jobs * pace->cycle[phase] > alone;
    return full ? ceil(pace->away / pace->hop - SAME) * pace->hop : alone;
}

/* Shares a phase's ranks out to its jobs, which stand in the order of their age. */
static void set_rates(const struct planner_pace *pace, int phase, struct course *jobs, uint32_t count)
{
    uint32_t here = 0, given = 0, group = filling(pace, phase);
    for (uint32_t i = 0; i < count; i++) here += jobs[i].phase == phase;
    double alone = 1 / fmax(oldest_step(pace, phase, here), 1e-12),
           left = 1 / fmax(pace->cycle[phase], 1e-12);
    uint32_t most = pace->groups[phase] ? group : here;
    double even = pace->groups[phase] || (here <= group && pace->even[phase] > 0) ? 1 : pace->even[phase];
    double alike = fmin(alone, left / fmax(1, fmin(here, most)));
    for (uint32_t i = 0; i < count; i++) {
        if (jobs[i].phase != phase) continue;
        double first = fmin(alone, left);
        left -= first;
        jobs[i].rate = (given++ < most ? even * alike : 0) + (1 - even) * first;
    }
}

/* Of jobs that are all in flight: until the first of them has done its phase. */
static double go_on(const struct planner_pace *pace, struct course *jobs, uint32_t count)
{
    double seconds = INFINITY;
    for (int phase = 0; phase < PLANNER_PHASES; phase++) set_rates(pace, phase, jobs, count);
    for (uint32_t i = 0; i < count; i++)
        if (jobs[i].rate > 0) seconds = fmin(seconds, jobs[i].left / jobs[i].rate);
    for (uint32_t i = 0; i < count; i++) {
        jobs[i].left -= jobs[i].rate * seconds;
        if (jobs[i].left <= NONE_LEFT) enter(pace, &jobs[i], jobs[i].phase + 1);
    }
    return seconds;
}

/* The jobs that are not done stay, in their order. */
static uint32_t drop_done(struct course *jobs, uint32_t count)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < count; i++)
        if (jobs[i].phase < PLANNER_PHASES) jobs[left++] = jobs[i];
    return left;
}

double planner_load_apart(const struct planner_pace *pace, uint32_t jobs)
{
    int last = pace->steps[1] > 0;
    return fmin((jobs - 1) * pace->cycle[last], fmax(0, pace->alone[last] - pace->cycle[last]));
}

/* Jobs that are left at the end, and begin a step one after the other. */
static uint32_t last_ones(const struct planner_pace *pace, uint32_t jobs)
{
    uint32_t group = filling(pace, 0);
    bool whole = pace->hop > 0 && pace->steps[1] <= 0; /* those that go at the pace of the oldest one */
    if (whole) group = (uint32_t)fmax(1, oldest_step(pace, 0, jobs) / pace->cycle[0] + SAME);
    if (pace->groups[0] || whole) return (jobs - 1) % group + 1;
    return jobs <= group ? jobs : 1;
}

double planner_load_seconds(const struct planner_pace *pace, uint32_t jobs, uint32_t in_flight)
{
    struct course course[FOLLOWED];
    int busiest = pace->steps[1] * pace->cycle[1] > pace->steps[0] * pace->cycle[0];
    uint32_t group = filling(pace, busiest), count = 0;
    double seconds = planner_load_apart(pace, last_ones(pace, jobs));
    if (jobs > FOLLOWED / 2) { /* whole groups of them, so that as many are left over as without them */
        uint32_t more = (jobs - FOLLOWED / 2) / group * group;
        seconds += more * pace->steps[busiest] * pace->cycle[busiest];
        jobs -= more;
    }
    while (jobs > 0 || count > 0) {
        while (jobs > 0 && count < in_flight && count < FOLLOWED) enter(pace, &course[count++], 0), jobs--;
        seconds += go_on(pace, course, count);
        count = drop_done(course, count);
    }
    return seconds;
}
