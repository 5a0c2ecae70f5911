/* finish.c - see finish.h. */
#include "coordinator/foresight/finish.h"

#include <math.h>
#include <stdlib.h>

/* So many moves are played, about: some milliseconds. A branch makes as many in a step as there are ranks, and MOVES_AT_HOME. */
enum { MOST_MOVES = 16384, MOVES_AT_HOME = 3 };

struct stand {
    struct crew *crew; /* NULL: it had no job yet */
    uint32_t limit;
    double ready, load;
    uint64_t model;
};

struct play {
    struct stand stand[FINISH_GROUPS];
    int stands;
    struct finish_job *jobs;
    size_t count, next; /* next: of those that wait, the first that was not taken */
    bool *taken;        /* [count] */
    uint32_t grain;
    finish_describe_fn *describe;
    void *context;
    double now, last; /* last: when a job was taken last */
};

/* A job that cannot be described, or a crew without memory: it is never done. */
static void put(struct play *play, int stand, size_t job)
{
    struct stand *s = &play->stand[stand];
    struct crew_layout layout = {0};
    struct crew_job work = {.home = -1};
    play->last = play->now;
    play->taken[job] = true;
    if (!play->describe(play->context, job, stand, &layout, &work)) return;
    if (!s->crew) s->crew = crew_open(&layout, play->grain);
    work.number = job + 1;
    work.priority = play->jobs[job].priority;
    if (s->crew) crew_add(s->crew, &work, play->now);
}

static uint32_t in_flight(const struct stand *s)
{
    return s->crew ? crew_count(s->crew) : 0;
}

/* Jobs of lower priority keep nobody waiting (schedule.c, has_room). */
static bool has_place(const struct stand *s, const struct finish_job *job)
{
    uint32_t equals = s->crew ? crew_urgent(s->crew, job->priority) : 0;
    return equals < s->limit && in_flight(s) < CREW_JOBS;
}

static bool takes(struct play *play, struct stand *s, const struct finish_job *job)
{
    if (s->ready > play->now || !has_place(s, job) || (in_flight(s) > 0 && s->model != job->model))
        return false;
    if (s->model != job->model) { /* loads first, and is laid out for it */
        crew_close(s->crew);
        s->crew = NULL;
        s->ready = play->now + s->load;
        s->model = job->model;
        return s->load <= 0;
    }
    return true;
}

/* The first of the highest priority that is there; `count`: none is. */
static size_t next_job(struct play *play)
{
    size_t best = play->count;
    while (play->next < play->count && play->taken[play->next]) play->next++;
    for (size_t i = play->next; i < play->count; i++) {
        const struct finish_job *job = &play->jobs[i];
        if (play->taken[i] || job->from > play->now) continue;
        if (best == play->count || job->priority > play->jobs[best].priority) best = i;
    }
    return best;
}

/* To the group with the fewest jobs, as long as one takes the next. */
static void take_waiting(struct play *play)
{
    for (size_t job; (job = next_job(play)) < play->count;) {
        int best = -1;
        for (int i = 0; i < play->stands; i++)
            if (takes(play, &play->stand[i], &play->jobs[job]) &&
                (best < 0 || in_flight(&play->stand[i]) < in_flight(&play->stand[best])))
                best = i;
        if (best < 0) return;
        put(play, best, job);
    }
}

/* When the next job comes. */
static double next_arrival(const struct play *play)
{
    double when = INFINITY;
    for (size_t i = play->next; i < play->count; i++)
        if (play->jobs[i].from > play->now) when = fmin(when, play->jobs[i].from);
    return when;
}

/* The stand where something happens next; -1: nowhere. */
static int next_stand(const struct play *play, double *when)
{
    int best = -1;
    *when = INFINITY;
    for (int i = 0; i < play->stands; i++) {
        const struct stand *s = &play->stand[i];
        double at = s->ready > play->now ? s->ready : s->crew ? crew_next(s->crew) : INFINITY;
        if (at < *when) best = i, *when = at;
    }
    return best;
}

static void run(struct play *play)
{
    take_waiting(play);
    for (double arrival = next_arrival(play), when;;) {
        int at = next_stand(play, &when);
        bool arrives = arrival < when, ended = false;
        uint64_t number;
        if (arrives) when = arrival;
        if (!(when < INFINITY)) return;
        struct stand *s = arrives ? NULL : &play->stand[at];
        bool became_ready = s && s->ready > play->now;
        play->now = when;
        if (s && !became_ready) ended = crew_step(s->crew, &number);
        if (ended) play->jobs[number - 1].done = play->now;
        if (ended || became_ready || arrives) take_waiting(play);
        if (arrives) arrival = next_arrival(play);
    }
}

/* Jobs behind those that were played: as long as more came, work was done at a rate, and that goes on. */
static void follow(struct play *play, size_t count)
{
    double work = 0, rate;
    for (size_t i = 0; i < play->count; i++)
        if (play->jobs[i].done <= play->last) work += play->jobs[i].work;
    rate = play->last > 0 ? work / play->last : 0;
    if (rate <= 0) return;
    work = 0;
    for (size_t i = 0; i < play->count; i++) work += play->jobs[i].work;
    double late = 0; /* what a job takes beyond the work up to it */
    const struct finish_job *last = &play->jobs[play->count - 1];
    if (isfinite(last->done)) late = last->done - work / rate;
    for (size_t i = play->count; i < count; i++) {
        work += play->jobs[i].work;
        play->jobs[i].done = work / rate + late;
    }
}

static uint32_t choose_grain(const struct play *play, const struct finish_group *groups)
{
    double moves = 0, most = 1;
    for (int i = 0; i < play->stands; i++) most = fmax(most, groups[i].ranks);
    for (size_t i = 0; i < play->count; i++) moves += play->jobs[i].moves * (most + MOVES_AT_HOME);
    return 1 + (uint32_t)fmin(1000, moves / MOST_MOVES);
}

void finish_play(const struct finish_group *groups, int group_count, struct finish_job *jobs, size_t count,
                 finish_describe_fn *describe, void *context)
{
    struct play play = {.jobs = jobs, .describe = describe, .context = context};
    play.stands = group_count < FINISH_GROUPS ? group_count : FINISH_GROUPS;
    size_t flying = 0;
    while (flying < count && jobs[flying].group >= 0) flying++;
    play.count = count < FINISH_PLAYED ? count : FINISH_PLAYED > flying ? FINISH_PLAYED : flying;
    play.grain = choose_grain(&play, groups);
    for (int i = 0; i < play.stands; i++)
        play.stand[i] = (struct stand){.limit = groups[i].limit,
                                       .ready = groups[i].ready,
                                       .load = groups[i].load,
                                       .model = groups[i].model};
    for (size_t i = 0; i < count; i++) jobs[i].done = INFINITY;
    if (play.count == 0 || !(play.taken = calloc(play.count, sizeof *play.taken))) return;
    for (; play.next < flying; play.next++)
        if (jobs[play.next].group < play.stands) put(&play, jobs[play.next].group, play.next);
    run(&play);
    if (play.count < count) follow(&play, count);
    free(play.taken);
    for (int i = 0; i < play.stands; i++) crew_close(play.stand[i].crew);
}
