/* movejobs.c - see movejobs.h. Runs on the coordinator's loop thread; keeps nothing. */
#include "coordinator/ranks/movejobs.h"

#include <math.h>
#include <string.h>
#include "coordinator/foresight/foresight.h"
#include "coordinator/ranks/wiring.h"

/* Of a job that caches: steps whose features its history holds, and which the next attempt makes again. Two is the most that any
 * preset keeps, four that any forecast does. */
#define REPLAYED_STEPS 2

static Refrain__Phase phase_of(const struct job *job)
{
    return job->progress.has_phase ? job->progress.phase : REFRAIN__PHASE__PHASE_NONE;
}

bool movejobs_nearly_done(const struct job *job)
{
    const Refrain__Progress *p = &job->progress;
    if (phase_of(job) == REFRAIN__PHASE__PHASE_DECODE) return 2 * p->step >= p->steps;
    return phase_of(job) > REFRAIN__PHASE__PHASE_DECODE;
}

/* -------------------------------------------------------------------------------------------------- the jobs */

static double deadline_of(const struct server *server, const struct job *job)
{
    double left = (double)(job->deadline_at_ms - server->now_ms) / 1000;
    return job->deadline_at_ms && left > 0 ? left : 0;
}

/* Steps done, whatever became of the progress that was reported. */
static double steps_done(const struct slot *slot, const struct job *job)
{
    Refrain__Phase phase = phase_of(job);
    if (phase < REFRAIN__PHASE__PHASE_DENOISE) return slot->from;
    return phase == REFRAIN__PHASE__PHASE_DENOISE ? job->progress.step : job->outlook.steps;
}

/* What a move takes from it. The features of a job that caches could come from the cache tier one day; here they are made
 * again. */
static double again(struct server *server, const struct group *group, const struct slot *slot,
                    const struct job *job, double step_seconds)
{
    struct checkpoint newest = {0};
    struct move_loss loss = {.step = step_seconds};
    const Refrain__Progress *p = &job->progress;
    if (server->vault && !vault_latest(server->vault, job->id, &newest))
        vault_origin(server->vault, job->id, &newest);
    if (phase_of(job) < REFRAIN__PHASE__PHASE_DENOISE) return 0;
    loss.steps = fmax(0, steps_done(slot, job) - newest.step);
    loss.replayed =
        job->outlook.mix.hit_rate > 0 && phase_of(job) == REFRAIN__PHASE__PHASE_DENOISE ? REPLAYED_STEPS : 0;
    loss.bytes = (double)newest.bytes;
    wiring_way(group, slot->home, groups_host(server->groups), &loss.way);
    double tail = foresight_tail(server, &job->outlook);
    if (phase_of(job) == REFRAIN__PHASE__PHASE_DECODE)
        loss.tail = tail * (p->steps ? (double)p->step / p->steps : 1);
    else if (phase_of(job) > REFRAIN__PHASE__PHASE_DECODE)
        loss.tail = tail;
    return movecost_again(&loss);
}

static void add_running(struct server *server, const struct group *group, const struct slot *slot,
                        const struct job *job, struct movejobs *jobs)
{
    double block = foresight_block(group, &job->outlook);
    double cycle = group->plan.cycle > 0 ? group->plan.cycle : group->plan.layers;
    jobs->ids[jobs->count] = job->id;
    jobs->jobs[jobs->count++] =
        (struct move_job){.steps = fmax(0, job->outlook.steps - steps_done(slot, job)),
                          .block = block,
                          .branches = job->outlook.mix.branches,
                          .again = again(server, group, slot, job, cycle * block),
                          .deadline = deadline_of(server, job)};
}

/* Other groups take their part of the queue. */
static bool is_ours(const struct server *server, const struct group *group, int turn)
{
    int groups = 0, place = 0;
    for (size_t i = 0; groups_at(server->groups, i); i++) {
        const struct group *other = groups_at(server->groups, i);
        if (other == group) place = groups;
        groups += other->state == GROUP_READY && strcmp(other->model, group->model) == 0;
    }
    return groups < 2 || turn % groups == place;
}

static void add_waiting(struct server *server, const struct group *group, struct movejobs *jobs)
{
    int turn = 0;
    for (size_t i = 0; jobs_at(server->jobs, i) && jobs->count < 2 * GROUP_SLOTS; i++) {
        struct job *job = jobs_at(server->jobs, i);
        bool waits = job->state == REFRAIN__JOB_STATE__JOB_QUEUED && strcmp(job->model, group->model) == 0;
        if (!waits || job->outlook.tokens <= 0 || !is_ours(server, group, turn++)) continue;
        jobs->ids[jobs->count] = job->id;
        jobs->jobs[jobs->count++] =
            (struct move_job){.steps = fmax(0, job->outlook.steps - (double)job->kept),
                              .block = foresight_block(group, &job->outlook),
                              .branches = job->outlook.mix.branches,
                              .deadline = deadline_of(server, job)};
    }
}

bool movejobs_gather(struct server *server, const struct group *group, struct movejobs *jobs)
{
    jobs->count = jobs->in_flight = 0;
    foresight_look(server, false); /* reads again what a restart forgot */
    for (int i = 0; i < GROUP_SLOTS; i++) {
        const struct slot *slot = &group->slots[i];
        const struct job *job = server_slot_job(server, slot);
        if (!job) continue;
        if (job->outlook.tokens <= 0) return false;
        add_running(server, group, slot, job, jobs);
    }
    jobs->in_flight = jobs->count;
    add_waiting(server, group, jobs);
    return jobs->in_flight > 0 && movecost_longest(jobs->jobs, jobs->count) >= 0;
}

double movejobs_again(const struct movejobs *jobs)
{
    double seconds = 0;
    for (int i = 0; i < jobs->in_flight; i++) seconds += jobs->jobs[i].again;
    return seconds;
}

/* --------------------------------------------------------------------------------------------------- weighing */

/* For its weights, as far as is known. */
static double load_seconds(const struct group *group, const struct plan *plan)
{
    uint32_t most = 0;
    for (uint32_t rank = 0; rank < plan->ranks; rank++)
        most = plan_blocks(plan, rank) > most ? plan_blocks(plan, rank) : most;
    return group->load_block_seconds * most;
}

/* A layout has to take all of them, whichever is the longest. */
static void meet_all(const struct server *server, const struct movejobs *jobs, struct layout_load *load)
{
    for (int i = 0; i < jobs->count; i++) {
        const struct job *job = jobs_find(server->jobs, jobs->ids[i]);
        if (!job) continue;
        load->fewest_tokens = (uint32_t)fmin(load->fewest_tokens, job->outlook.tokens);
    }
}

/* The jobs as one load, for a move to ranks whose weights take so long to be read. */
static void make_load(const struct group *group, const struct movejobs *jobs, const struct plan_request *here,
                      double seconds, struct layout_load *load)
{
    movecost_load(jobs->jobs, jobs->count, seconds, load);
    if (foresight_measured(group)) load->block_seconds = layout_block_seconds(&group->plan, here, load);
}

bool movejobs_weigh(struct server *server, const struct group *group, const struct movejobs *jobs,
                    struct plan *plan, struct move_worth *worth)
{
    struct plan_seat seats[PLAN_MAX_RANKS], all_seats[PLAN_MAX_RANKS];
    const struct model *model;
    Refrain__Job *stored;
    struct group all = *group; /* the ranks there would be: guests stand behind the others */
    struct layout_load load = {.least_seconds = (double)server->settings->settle_ms / 2000};
    int longest = movecost_longest(jobs->jobs, jobs->count);
    const struct job *job = jobs_find(server->jobs, jobs->ids[longest]);
    *worth = (struct move_worth){0};
    all.ranks += all.guests;
    if (!job || group->plan.ranks != group->ranks ||
        models_find(server->models, job->model, &model, NULL) != STATUS_OK ||
        jobstore_get(server->store, NULL, job->id, &stored, NULL) != STATUS_OK)
        return false;
    struct plan_request here = server_describe_layout(server, group, model->card, stored->spec, seats);
    struct plan_request there = server_describe_layout(server, &all, model->card, stored->spec, all_seats);
    refrain__job__free_unpacked(stored, NULL);
    wiring_describe(&all, model->card, &job->outlook, &load);
    here.mix = job->outlook.mix;
    here.mix.home_work = group->home_work;
    meet_all(server, jobs, &load);
    there.mix = here.mix;
    make_load(group, jobs, &here, load_seconds(group, &group->plan), &load);
    if (layout_choose(&there, &load, all.ranks == group->ranks ? &group->plan : NULL, plan, NULL) !=
            STATUS_OK ||
        plan_equal(plan, &group->plan))
        return false;
    make_load(group, jobs, &here, load_seconds(group, plan), &load);
    return movecost_pays(&(struct move_place){&group->plan, &here}, &(struct move_place){plan, &there},
                         jobs->jobs, jobs->count, &load, worth);
}
