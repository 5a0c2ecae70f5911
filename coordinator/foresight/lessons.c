/* lessons.c - see lessons.h. */
#include "coordinator/foresight/lessons.h"

#include <math.h>
#include <stdlib.h>
#include "coordinator/foresight/foresight.h"

#define NEWEST 0.25    /* of a mean of what was learnt */
enum { BELIEVED = 4 }; /* jobs that took as long as was foreseen, before there were any */

/* Added where there is none, in place of the one that was used least recently. */
struct learnt *lessons_of(struct server *server, uint64_t model)
{
    struct learnt *oldest = server->learnt;
    for (int i = 0; i < SERVER_LEARNT; i++) {
        struct learnt *l = &server->learnt[i];
        if (l->model == model) {
            l->used_ns = server->now_ns;
            return l;
        }
        if (l->used_ns < oldest->used_ns) oldest = l;
    }
    *oldest = (struct learnt){.model = model, .used_ns = server->now_ns};
    return oldest;
}

static void follow(bool known, double *mean, double value)
{
    if (!isfinite(value)) return;
    *mean = known ? *mean + NEWEST * (fmax(0, value) - *mean) : fmax(0, value);
}

/* Does home run a block in a step of the first branch? */
static bool at_home(const struct plan *plan, uint32_t block)
{
    uint32_t run = plan->floating ? 0 : plan_run(plan, 0, 0);
    return block < plan->head + run || block >= plan->layers - plan->tail;
}

/* Blocks of a branch-step that home counts as its own work: those that the policy runs always, as far as home holds them. */
static uint32_t caps_at_home(const struct plan *plan, const struct plan_mix *mix)
{
    uint32_t caps = 0;
    if (mix->hit_rate <= 0 || plan->layers < mix->head + mix->tail) return 0;
    for (uint32_t i = 0; i < mix->head; i++) caps += at_home(plan, i);
    for (uint32_t i = 0; i < mix->tail; i++) caps += at_home(plan, plan->layers - 1 - i);
    return caps;
}

/* Home's work but for blocks. Where it ran some of a policy's, what is left of its time is a small difference of two large ones, and is taken
 * for want of anything better only. */
static void learn_home(struct server *server, const struct group *group, const struct outlook *o,
                       const Refrain__JobSpec *spec, const Refrain__JobTimes *times)
{
    double block = foresight_block(group, o), made = (double)spec->steps - spec->at_step;
    if (times) made -= times->steps_reused;
    uint32_t caps = caps_at_home(&group->plan, &o->mix);
    struct learnt *l = lessons_of(server, o->model);
    if (!times || !(times->home > 0) || block <= 0 || made < 1) return;
    double beside = times->home_text + times->home_decode + times->home_files;
    double steps = times->home - beside - caps * block * made * o->mix.branches;
    follow(l->known, &l->text, times->home_text / o->mix.branches);
    if (caps == 0 || l->step <= 0)
        follow(l->step > 0, &l->step, steps / (made * o->mix.branches * o->tokens));
    follow(l->known, &l->decode, times->home_decode / o->tokens);
    follow(l->known, &l->files, times->home_files / o->tokens);
    l->known = true;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The median: jobs that overtake each other make one late and the other early, and some have accidents. At first it is believed that
 * nothing was missed. */
double lessons_stretch(const struct group *group)
{
    double ratios[GROUP_RATIOS + BELIEVED];
    uint32_t count = group->ratios < GROUP_RATIOS ? group->ratios : GROUP_RATIOS;
    for (uint32_t i = 0; i < count; i++) ratios[i] = group->ratio[i];
    for (uint32_t i = count; i < count + BELIEVED; i++) ratios[i] = 1;
    count += BELIEVED;
    qsort(ratios, count, sizeof *ratios, by_size);
    return (ratios[count / 2] + ratios[(count - 1) / 2]) / 2;
}

void lessons_take(struct server *server, struct group *group, const struct job *job,
                  const Refrain__JobSpec *spec, const Refrain__JobTimes *times)
{
    if (job->outlook.tokens <= 0 || spec->compare) return;
    learn_home(server, group, &job->outlook, spec, times);
    /* From the middle of its steps: who comes along later is known by then, and most is still to be done. */
    double told = (double)(job->foretold_ms - job->middle_ms),
           took = (double)(server->now_ms - job->middle_ms);
    if (job->foretold_ms == 0 || told <= 0 || took <= 0) return;
    counts_foretold(&server->counts, told, took);
    group->ratio[group->ratios++ % GROUP_RATIOS] = fmin(4, fmax(0.25, lessons_stretch(group) * took / told));
}
