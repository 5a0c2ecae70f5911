/* finish.c - see finish.h. Pure functions. */
#include "coordinator/finish.h"

#include <math.h>

/* What tails get of a busy group's time while jobs make steps. Where homes float they wait for a rank without hops
 * (worker/share.h), which comes often enough for a fifth, as the simulator has it; a fixed home gives them half (worker/turn.h). */
#define TAIL_SHARE_EVEN  0.2
#define TAIL_SHARE_FIXED 0.5
#define NEVER_FULL       1e-9

/* A job on a group. */
struct place {
    size_t job;
    int priority;
    double steps, tail; /* left; the tail as a share */
    struct finish_cost cost;
    double rate; /* steps a second; of a job without steps, tails a second */
};

struct stand {
    struct place place[FINISH_FLIGHT];
    int count;
    uint32_t limit;
    bool even;
    double ready, load;
    uint64_t model;
};

struct play {
    struct stand stand[FINISH_GROUPS];
    int stands;
    struct finish_job *jobs;
    size_t count, next; /* next: the first that waits */
    finish_cost_fn *cost;
    void *context;
    double now;
};

/* ------------------------------------------------------------------------------------------------------ rates */

static bool in_tail(const struct place *p)
{
    return p->steps <= NEVER_FULL;
}

/* Tails of a priority, the first first; what is left of `free` afterwards. */
static double give_tails(struct stand *s, int priority, double most, double free)
{
    double left = fmin(most, free), given = left;
    for (int i = 0; i < s->count; i++) {
        struct place *p = &s->place[i];
        if (p->priority != priority || !in_tail(p)) continue;
        double share = p->cost.tail_cycle / p->cost.tail_alone;
        double more = fmin(1 - p->rate * p->cost.tail_alone, left / share);
        if (more <= 0) continue;
        p->rate += more / p->cost.tail_alone;
        left -= more * share;
    }
    return free - (given - left);
}

/* Steps at one pace: the pace that uses all there is, but none faster than it can. */
static double give_even(struct stand *s, int priority, double free)
{
    bool capped[FINISH_FLIGHT] = {false};
    for (bool again = true; again;) {
        double each = 0, left = free;
        again = false;
        for (int i = 0; i < s->count; i++) {
            const struct place *p = &s->place[i];
            if (p->priority != priority || in_tail(p)) continue;
            if (capped[i])
                left -= p->cost.cycle / p->cost.alone;
            else
                each += p->cost.cycle;
        }
        if (each <= 0) return fmax(0, left);
        double pace = fmax(0, left) / each;
        for (int i = 0; i < s->count; i++) {
            struct place *p = &s->place[i];
            if (p->priority != priority || in_tail(p) || capped[i]) continue;
            p->rate = fmin(pace, 1 / p->cost.alone);
            if (pace * p->cost.alone > 1) capped[i] = again = true;
        }
        if (!again) return 0;
    }
    return 0;
}

static double give_in_turn(struct stand *s, int priority, double free)
{
    for (int i = 0; i < s->count; i++) {
        struct place *p = &s->place[i];
        if (p->priority != priority || in_tail(p)) continue;
        p->rate = fmin(1 / p->cost.alone, free / p->cost.cycle);
        free -= p->rate * p->cost.cycle;
    }
    return fmax(0, free);
}

static int next_priority(const struct stand *s, int below)
{
    int best = below;
    bool found = false;
    for (int i = 0; i < s->count; i++)
        if (s->place[i].priority < below && (!found || s->place[i].priority > best))
            best = s->place[i].priority, found = true;
    return found ? best : below;
}

static void set_rates(struct stand *s)
{
    double free = 1;
    for (int i = 0; i < s->count; i++) s->place[i].rate = 0;
    for (int priority = next_priority(s, INT32_MAX), before = INT32_MAX; priority != before;
         before = priority, priority = next_priority(s, priority)) {
        free = give_tails(s, priority, free * (s->even ? TAIL_SHARE_EVEN : TAIL_SHARE_FIXED), free);
        free = s->even ? give_even(s, priority, free) : give_in_turn(s, priority, free);
        free = give_tails(s, priority, free, free);
    }
}

/* ------------------------------------------------------------------------------------------------------- time */

static double at_least(double seconds)
{
    return seconds > NEVER_FULL ? seconds : NEVER_FULL;
}

static void put(struct play *play, int stand, size_t job)
{
    struct stand *s = &play->stand[stand];
    const struct finish_job *j = &play->jobs[job];
    struct place *p = &s->place[s->count++];
    *p = (struct place){
        .job = job, .priority = j->priority, .steps = fmax(0, j->steps), .tail = fmax(0, j->tail)};
    play->cost(play->context, job, stand, &p->cost);
    p->cost.alone = at_least(p->cost.alone);
    p->cost.cycle = fmin(at_least(p->cost.cycle), p->cost.alone);
    p->cost.tail_alone = at_least(p->cost.tail_alone);
    p->cost.tail_cycle = fmin(at_least(p->cost.tail_cycle), p->cost.tail_alone);
}

/* Jobs of lower priority keep nobody waiting (schedule.c, has_room). */
static bool has_place(const struct stand *s, const struct finish_job *job)
{
    uint32_t equals = 0;
    for (int i = 0; i < s->count; i++) equals += s->place[i].priority >= job->priority;
    return equals < s->limit && s->count < FINISH_FLIGHT;
}

static bool takes(struct play *play, struct stand *s)
{
    const struct finish_job *job = &play->jobs[play->next];
    if (s->ready > play->now || !has_place(s, job) || (s->count > 0 && s->model != job->model)) return false;
    if (s->model != job->model) { /* loads first */
        s->ready = play->now + s->load;
        s->model = job->model;
        return s->load <= 0;
    }
    return true;
}

/* To the group with the fewest jobs, as long as one takes the next. */
static void take_waiting(struct play *play)
{
    for (bool took = true; took && play->next < play->count;) {
        int best = -1;
        for (int i = 0; i < play->stands; i++)
            if (takes(play, &play->stand[i]) && (best < 0 || play->stand[i].count < play->stand[best].count))
                best = i;
        took = best >= 0;
        if (took) put(play, best, play->next++);
    }
}

static double time_left(const struct place *p)
{
    if (p->rate <= 0) return INFINITY;
    return (in_tail(p) ? p->tail : p->steps) / p->rate;
}

/* Until something changes. */
static double next_change(struct play *play)
{
    double least = INFINITY;
    for (int i = 0; i < play->stands; i++) {
        struct stand *s = &play->stand[i];
        if (s->ready > play->now) {
            least = fmin(least, s->ready - play->now);
            continue;
        }
        set_rates(s);
        for (int k = 0; k < s->count; k++) least = fmin(least, time_left(&s->place[k]));
    }
    return least;
}

static void advance(struct play *play, struct stand *s, double seconds)
{
    int kept = 0;
    for (int k = 0; k < s->count; k++) {
        struct place *p = &s->place[k];
        bool ends = time_left(p) <= seconds * (1 + NEVER_FULL);
        if (in_tail(p))
            p->tail = ends ? 0 : p->tail - p->rate * seconds;
        else
            p->steps = ends ? 0 : p->steps - p->rate * seconds;
        if (in_tail(p) && p->tail <= NEVER_FULL)
            play->jobs[p->job].done = play->now;
        else
            s->place[kept++] = *p;
    }
    s->count = kept;
}

void finish_play(const struct finish_group *groups, int group_count, struct finish_job *jobs, size_t count,
                 finish_cost_fn *cost, void *context)
{
    struct play play = {.jobs = jobs, .count = count, .cost = cost, .context = context};
    play.stands = group_count < FINISH_GROUPS ? group_count : FINISH_GROUPS;
    for (int i = 0; i < play.stands; i++)
        play.stand[i] = (struct stand){.limit = groups[i].limit,
                                       .even = groups[i].even,
                                       .ready = groups[i].ready,
                                       .load = groups[i].load,
                                       .model = groups[i].model};
    for (size_t i = 0; i < count; i++) jobs[i].done = INFINITY;
    for (; play.next < count && jobs[play.next].group >= 0; play.next++) {
        int group = jobs[play.next].group;
        if (group < play.stands && play.stand[group].count < FINISH_FLIGHT) put(&play, group, play.next);
    }
    for (;;) {
        take_waiting(&play);
        double seconds = next_change(&play);
        if (!(seconds < INFINITY)) return;
        double before = play.now;
        play.now += seconds;
        for (int i = 0; i < play.stands; i++)
            if (play.stand[i].ready <= before) advance(&play, &play.stand[i], seconds);
    }
}
