/* movecost.c - see movecost.h. Pure functions. */
#include "coordinator/planner/movecost.h"

#include <math.h>

/* Of a checkpoint's way, where nobody has measured it: a network of 1 Gb/s. */
#define BYTES_A_SECOND 125e6
/* For ranks to leave an epoch and find each other in the next one, and the requests about it. */
#define EPOCH_SECONDS 0.5

static double work_of(const struct move_job *job)
{
    return job->steps * job->block * job->branches;
}

int movecost_longest(const struct move_job *jobs, int count)
{
    int longest = -1;
    for (int i = 0; i < count; i++)
        if (work_of(&jobs[i]) > (longest < 0 ? 0 : work_of(&jobs[longest]))) longest = i;
    return longest;
}

bool movecost_load(const struct move_job *jobs, int count, double load_seconds, struct layout_load *load)
{
    int longest = movecost_longest(jobs, count);
    double work = 0, least = 0;
    if (longest < 0) return false;
    load->move_seconds = load_seconds + EPOCH_SECONDS;
    for (int i = 0; i < count; i++) {
        work += work_of(&jobs[i]);
        load->move_seconds += jobs[i].again;
        if (jobs[i].deadline > 0 && (least <= 0 || jobs[i].deadline < least)) least = jobs[i].deadline;
    }
    load->jobs = work / work_of(&jobs[longest]);
    load->steps = jobs[longest].steps;
    load->block_seconds = jobs[longest].block;
    load->deadline = least;
    return true;
}

/* All jobs at one pace, which is the most that any of them may take. */
static double seconds_of(const struct move_job *job, const struct move_job *longest, double seconds)
{
    return seconds * work_of(job) / work_of(longest);
}

/* One that is kept as it is would be missed. A job that is late either way does not count. */
static bool misses_deadline(const struct move_job *jobs, int count, const struct move_worth *worth)
{
    const struct move_job *longest = &jobs[movecost_longest(jobs, count)];
    for (int i = 0; i < count; i++) {
        double now = seconds_of(&jobs[i], longest, worth->now);
        double then = seconds_of(&jobs[i], longest, worth->then) + worth->cost;
        if (jobs[i].deadline > 0 && now <= jobs[i].deadline && then > jobs[i].deadline) return true;
    }
    return false;
}

bool movecost_pays(const struct move_place *here, const struct move_place *there, const struct move_job *jobs,
                   int count, const struct layout_load *load, struct move_worth *worth)
{
    *worth = (struct move_worth){.now = layout_seconds(here->plan, here->request, load),
                                 .then = layout_seconds(there->plan, there->request, load),
                                 .cost = load->move_seconds};
    if (worth->now <= 0 || worth->then <= 0) return false; /* jobs that run are not moved on a guess */
    return layout_pays(worth->now, worth->then, load) && !misses_deadline(jobs, count, worth);
}

double movecost_again(const struct move_loss *loss)
{
    bool measured = loss->way.bytes_per_second > 0;
    double way = measured ? loss->bytes / (double)loss->way.bytes_per_second + (double)loss->way.latency
                          : loss->bytes / BYTES_A_SECOND;
    return (loss->steps + loss->replayed) * loss->step + loss->tail + 2 * way; /* there and back */
}
