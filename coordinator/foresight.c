/* foresight.c - see foresight.h. The loop thread. */
#include "coordinator/foresight.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/clock.h"
#include "coordinator/finish.h"
#include "coordinator/planner.h"
#include "proto/caching.h"

/* MOST_JOBS: predicted at once; those behind them are not. LOOK_NS: a queue may be long. */
enum { MOST_JOBS = 4096, FEW_JOBS = 256 };
#define LOOK_NS      (100 * MILLISECOND_NS)
#define NEWEST       0.25 /* of a mean of what was learnt */
#define CORRECTION   0.1  /* of a group's stretch, by each job */
#define PACE_SECONDS 10.0
#define FIRST_GUESS  0.5 /* of the speed that a matrix product was measured at: blocks before any was timed */

/* ------------------------------------------------------------------------------------------------ what is known */

static uint64_t name_of(const char *model)
{
    uint64_t key = XXH64(model, strlen(model), 0);
    return key ? key : 1;
}

/* Of a model; added where there is none, in place of the one that was used least recently. */
static struct learnt *find_learnt(struct server *server, uint64_t model)
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

void foresight_note(struct server *server, struct job *job, const Refrain__JobSpec *spec,
                    const Refrain__ModelCard *card)
{
    struct outlook *o = &job->outlook;
    *o = (struct outlook){.model = name_of(job->model), .steps = spec->steps * (spec->compare ? 2 : 1)};
    hitrates_of(&server->rates, spec, card, &o->mix);
    o->tokens = (double)caching_tokens(spec, card);
    struct planner_model shape = {.layers = card->layers,
                                  .heads = card->heads,
                                  .head_dim = card->head_dim,
                                  .ffn = card->ffn_dim,
                                  .text_tokens = card->text_length};
    o->block_flops = planner_block_flops(&shape, (uint32_t)o->tokens);
}

/* From the store, for jobs of before a restart. */
static bool know(struct server *server, struct job *job)
{
    Refrain__Job *stored;
    const struct model *model;
    if (job->outlook.tokens > 0) return true;
    if (models_find(server->models, job->model, &model, NULL) != STATUS_OK ||
        jobstore_get(server->store, NULL, job->id, &stored, NULL) != STATUS_OK)
        return false;
    foresight_note(server, job, stored->spec, model->card);
    refrain__job__free_unpacked(stored, NULL);
    return true;
}

/* The ranks' own means are of their last ten blocks or so, which another process on the machine may have disturbed: here they
 * are smoothed over seconds. */
static void follow_pace(const struct server *server, struct group *group)
{
    double sum = 0, seconds = (double)(server->now_ns - group->paced_ns) / SECOND_NS;
    uint32_t known = 0;
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        sum += group->members[rank].block_token_ns;
        known += group->members[rank].block_token_ns > 0;
    }
    if (known == 0) return;
    double now = sum / known;
    if (group->pace_ns > 0)
        now = group->pace_ns + (1 - exp(-seconds / PACE_SECONDS)) * (now - group->pace_ns);
    group->pace_ns = now;
    group->paced_ns = server->now_ns;
}

double foresight_block(const struct group *group, const struct outlook *o)
{
    double gflops = 0;
    if (group->pace_ns > 0) return group->pace_ns * o->tokens / SECOND_NS;
    for (uint32_t rank = 0; rank < group->ranks; rank++) gflops += group->members[rank].gflops / group->ranks;
    return gflops > 0 ? o->block_flops / (FIRST_GUESS * gflops * 1e9) : 0;
}

double foresight_tail(struct server *server, const struct outlook *o)
{
    return find_learnt(server, o->model)->home_token_seconds * o->tokens;
}

/* ---------------------------------------------------------------------------------------------------- costs */

struct prospect {
    struct server *server;
    struct group *group[FINISH_GROUPS];
    struct finish_group stand[FINISH_GROUPS];
    struct plan_seat *seats[FINISH_GROUPS]; /* [ranks], those of the group's model */
    struct plan_request request[FINISH_GROUPS];
    int groups;
    struct job **jobs;           /* [count] */
    struct finish_job *finishes; /* [count] */
    size_t count;
    /* Jobs come in kinds: the costs of the latest. */
    struct finish_cost latest[FINISH_GROUPS];
    struct outlook latest_of[FINISH_GROUPS];
};

static bool same_work(const struct outlook *a, const struct outlook *b)
{
    return a->model == b->model && a->tokens == b->tokens && a->steps == b->steps &&
           memcmp(&a->mix, &b->mix, sizeof a->mix) == 0;
}

/* What is known of the ranks, for a model; false: it is there no more. */
static bool find_request(struct prospect *v, int g, uint64_t model, struct plan_request *request)
{
    const struct model *m;
    *request = v->request[g];
    if (v->stand[g].model == model) return true;
    for (size_t i = 0; (m = models_at(v->server->models, i)); i++) {
        if (name_of(m->card->name) != model) continue;
        *request = server_describe_layout(v->server, v->group[g], m->card, NULL, v->seats[g]);
        return true;
    }
    return false;
}

/* For a layout that is made for the group: the one there is, or the one it would get. */
static void lay_costs(struct prospect *v, int g, const struct outlook *o, struct finish_cost *cost)
{
    struct group *group = v->group[g];
    struct plan_request request;
    struct plan made, *plan = &group->plan;
    *cost = (struct finish_cost){0};
    if (!find_request(v, g, o->model, &request)) return;
    double block = foresight_block(group, o), homes = 1;
    double tail = foresight_tail(v->server, o);
    double branch_steps = fmax(1, (double)o->steps * o->mix.branches);
    request.mix = o->mix;
    request.mix.home_work = block > 0 ? tail / block / branch_steps : 0;
    double cycle =
        group->plan.ranks == group->ranks && v->stand[g].model == o->model ? plan_cycle(plan, &request) : 0;
    if (cycle <= 0 && plan_make(&request, &made, NULL) == STATUS_OK) {
        plan = &made;
        cycle = plan_cycle(plan, &request);
    }
    if (plan->floating) homes = group->ranks;
    /* plan.h's cycle has the tail in it, and its walk at every step what comes at the end. */
    request.mix.home_work = 0;
    double alone = plan_alone(plan, &request), steps_cycle = plan_cycle(plan, &request);
    double stretch = group->stretch > 0 ? group->stretch : 1;
    cost->alone = alone * block * stretch;
    cost->cycle = steps_cycle * block * stretch;
    cost->tail_alone = tail * stretch;
    /* Of the busiest rank's time; of one with time to spare it takes what that has less. */
    cost->tail_cycle = fmin(tail / homes, fmax(0, (cycle - steps_cycle) * block * o->steps)) * stretch;
}

/* finish_cost_fn */
static void cost_of(void *context, size_t job, int g, struct finish_cost *cost)
{
    struct prospect *v = context;
    const struct outlook *o = &v->jobs[job]->outlook;
    if (!same_work(o, &v->latest_of[g])) {
        lay_costs(v, g, o, &v->latest[g]);
        v->latest_of[g] = *o;
    }
    *cost = v->latest[g];
}

/* ------------------------------------------------------------------------------------------------------ the jobs */

static bool can_work(const struct group *group)
{
    return group->state == GROUP_READY || group->state == GROUP_LOADING || group->state == GROUP_JOINING ||
           group->state == GROUP_COMPLETE;
}

/* What is left of a load or a join that has begun. */
static double ready_in(const struct server *server, const struct group *group)
{
    double since = (double)(server->now_ns - group->since_ns) / SECOND_NS;
    return group->state == GROUP_LOADING ? fmax(0, group->load_seconds - since) : 0;
}

static void add_group(struct prospect *v, struct group *group)
{
    const struct model *model;
    struct server *server = v->server;
    const char *name = group->model;
    struct plan_seat *seats = calloc(group->ranks, sizeof *seats);
    if (!seats) return;
    int g = v->groups++;
    follow_pace(server, group);
    v->group[g] = group;
    v->seats[g] = seats;
    if (!name[0] && models_at(server->models, 0)) name = models_at(server->models, 0)->card->name;
    if (models_find(server->models, name, &model, NULL) == STATUS_OK)
        v->request[g] = server_describe_layout(server, group, model->card, NULL, seats);
    v->stand[g] = (struct finish_group){.limit = (uint32_t)server_flight_limit(server, group),
                                        .even = group->plan.floating,
                                        .ready = ready_in(server, group),
                                        .load = group->load_seconds,
                                        .model = group->model[0] ? name_of(group->model) : 0};
}

/* Hits come as policies have them: as many as were foreseen, or as many as there were so far; the truth is between. */
static void look_at_hits(struct job *job, uint32_t done)
{
    struct outlook *o = &job->outlook;
    const Refrain__Progress *p = &job->progress;
    uint32_t hits = 0;
    if (o->mix.hit_rate <= 0 || !p->has_cache_actions || done == 0 || done >= o->steps) return;
    for (size_t i = 0; i < p->cache_actions.len; i++) {
        uint8_t action = p->cache_actions.data[i];
        hits +=
            action == REFRAIN__CACHE_ACTION__CACHE_REUSED || action == REFRAIN__CACHE_ACTION__CACHE_FORECAST;
    }
    double foreseen = (o->mix.hit_rate * o->steps - hits) / (o->steps - done), seen = (double)hits / done;
    double left = fmax(0, fmin(1, (fmax(0, foreseen) + seen) / 2));
    /* Of steps as a whole: those that are left, in the mean of all. */
    o->hits_left = left;
    o->hits_known = true;
}

static void add_running(struct prospect *v, struct job *job, int group)
{
    const Refrain__Progress *p = &job->progress;
    struct finish_job *f = &v->finishes[v->count];
    struct outlook *o = &job->outlook;
    double done = p->has_phase && p->phase == REFRAIN__PHASE__PHASE_DENOISE ? p->step : job->kept, tail = 1;
    if (p->has_phase && p->phase > REFRAIN__PHASE__PHASE_DENOISE) done = o->steps;
    if (p->has_phase && p->phase == REFRAIN__PHASE__PHASE_DECODE && p->steps > 0)
        tail = 1 - (double)p->step / p->steps;
    if (p->has_phase && p->phase > REFRAIN__PHASE__PHASE_DECODE) tail = 0.1;
    double steps = fmax(0, o->steps - done);
    look_at_hits(job, (uint32_t)done);
    if (o->hits_known && steps > 0) { /* as many mean steps as take so long */
        double ring = 1 - o->mix.hit_rate, left = 1 - o->hits_left;
        if (ring > 0.01) steps *= left / ring;
    }
    *f = (struct finish_job){
        .group = group, .priority = job->priority, .model = o->model, .steps = steps, .tail = tail};
    v->jobs[v->count++] = job;
}

static void add_waiting(struct prospect *v, struct job *job)
{
    const struct outlook *o = &job->outlook;
    v->finishes[v->count] = (struct finish_job){
        .group = -1, .priority = job->priority, .model = o->model, .steps = fmax(0, o->steps - (double)job->kept), .tail = 1};
    v->jobs[v->count++] = job;
}

static int by_number(const void *a, const void *b)
{
    const struct slot *const *x = a, *const *y = b;
    return (*x)->job < (*y)->job ? -1 : (*x)->job > (*y)->job;
}

/* Those in flight on a group, the first first. */
static void add_flight(struct prospect *v, int g)
{
    struct slot *slots[GROUP_SLOTS];
    int count = 0;
    for (int i = 0; i < GROUP_SLOTS; i++)
        if (v->group[g]->slots[i].job) slots[count++] = &v->group[g]->slots[i];
    qsort(slots, (size_t)count, sizeof *slots, by_number);
    for (int i = 0; i < count; i++) {
        struct job *job = jobs_find(v->server->jobs, slots[i]->job);
        if (job && know(v->server, job)) add_running(v, job, g);
    }
}

static void close_prospect(struct prospect *v)
{
    for (int i = 0; i < v->groups; i++) free(v->seats[i]);
    free(v->jobs);
    free(v->finishes);
}

/* extra: a job that is not in the queue yet; NULL: none. False: there is nothing to predict with. */
static bool open_prospect(struct server *server, struct job *extra, struct prospect *v)
{
    struct job **queue = malloc(MOST_JOBS * sizeof *queue);
    *v = (struct prospect){.server = server};
    for (size_t i = 0; groups_at(server->groups, i) && v->groups < FINISH_GROUPS; i++)
        if (can_work(groups_at(server->groups, i))) add_group(v, groups_at(server->groups, i));
    size_t most = (size_t)v->groups * GROUP_SLOTS + MOST_JOBS;
    v->jobs = malloc(most * sizeof *v->jobs);
    v->finishes = malloc(most * sizeof *v->finishes);
    bool good = queue && v->groups > 0 && v->jobs && v->finishes;
    for (int g = 0; good && g < v->groups; g++) add_flight(v, g);
    size_t waiting = good ? jobs_order(server->jobs, extra, queue, MOST_JOBS) : 0;
    for (size_t i = 0; i < waiting; i++)
        if (queue[i] == extra || know(server, queue[i])) add_waiting(v, queue[i]);
    free(queue);
    if (!good) close_prospect(v);
    return good;
}

/* Ranks have timed blocks, and a job of its model has ended. */
static bool is_measured(struct prospect *v, const struct outlook *o)
{
    bool timed = false;
    for (int g = 0; g < v->groups; g++) timed |= v->group[g]->pace_ns > 0;
    return timed && find_learnt(v->server, o->model)->home_token_seconds > 0;
}

/* Something is known of every rank that would do it. */
static bool is_known(const struct prospect *v, size_t index)
{
    for (int g = 0; g < v->groups; g++)
        if (foresight_block(v->group[g], &v->jobs[index]->outlook) > 0)
            return isfinite(v->finishes[index].done);
    return false;
}

void foresight_look(struct server *server, bool fresh)
{
    struct prospect v;
    size_t jobs = jobs_count(server->jobs);
    int64_t pause_ns = fresh && jobs <= FEW_JOBS ? 0 : LOOK_NS * (1 + (int64_t)jobs / FEW_JOBS);
    if (server->foreseen_ns && server->now_ns - server->foreseen_ns < pause_ns) return;
    server->foreseen_ns = server->now_ns;
    for (size_t i = 0; jobs_at(server->jobs, i); i++) jobs_at(server->jobs, i)->finish_ms = 0;
    jobs_foreseen(server->jobs, server->now_ms);
    if (!jobs_at(server->jobs, 0) || !open_prospect(server, NULL, &v)) return;
    finish_play(v.stand, v.groups, v.finishes, v.count, cost_of, &v);
    for (size_t i = 0; i < v.count; i++) {
        struct job *job = v.jobs[i];
        if (is_known(&v, i)) job->finish_ms = server->now_ms + llrint(1000 * v.finishes[i].done);
        job->measured = job->finish_ms > 0 && is_measured(&v, &job->outlook);
    }
    close_prospect(&v);
}

double foresight_ask(struct server *server, const char *tenant, const Refrain__JobSpec *spec,
                     const Refrain__ModelCard *card)
{
    struct prospect v;
    double seconds = -1;
    struct job *extra = jobs_sketch(server->jobs, tenant, spec, server->now_ms);
    if (!extra) return -1;
    foresight_note(server, extra, spec, card);
    if (open_prospect(server, extra, &v)) {
        finish_play(v.stand, v.groups, v.finishes, v.count, cost_of, &v);
        for (size_t i = 0; i < v.count; i++)
            if (v.jobs[i] == extra && is_known(&v, i)) seconds = v.finishes[i].done;
        close_prospect(&v);
    }
    jobs_drop_sketch(server->jobs, extra);
    return seconds;
}

/* ------------------------------------------------------------------------------------------------------ learning */

static double follow(double mean, double value)
{
    return mean > 0 ? mean + NEWEST * (value - mean) : value;
}

/* Home's work but for blocks. */
static void learn_home(struct server *server, const struct group *group, const struct outlook *o,
                       const Refrain__JobTimes *times)
{
    double block = foresight_block(group, o);
    double caps = fmin(o->mix.head, group->plan.head) + fmin(o->mix.tail, group->plan.tail);
    struct learnt *l = find_learnt(server, o->model);
    if (!times || !(times->home > 0) || !isfinite(times->home) || block <= 0) return;
    double seconds = fmax(0, times->home - caps * block * o->steps * o->mix.branches);
    l->home_token_seconds = follow(l->home_token_seconds, seconds / o->tokens);
}

void foresight_learn(struct server *server, struct group *group, const struct job *job,
                     const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                     const Refrain__JobTimes *times)
{
    if (job->outlook.tokens <= 0 || spec->compare) return;
    learn_home(server, group, &job->outlook, times);
    /* From the middle of its steps: who comes along later is known by then, and most is still to be done. */
    double told = (double)(job->foretold_ms - job->middle_ms),
           took = (double)(server->now_ms - job->middle_ms);
    if (job->foretold_ms == 0 || told <= 0 || took <= 0) return;
    counts_foretold(&server->counts, told, took);
    double ratio = fmin(2, fmax(0.5, took / told));
    double weight = fmax(CORRECTION, 1.0 / (4 + group->stretched++)); /* the first ones say most */
    group->stretch = fmin(4, fmax(0.25, (group->stretch > 0 ? group->stretch : 1) * pow(ratio, weight)));
}

void foresight_heard(struct server *server, struct job *job)
{
    const Refrain__Progress *p = &job->progress;
    bool middle = p->has_phase && p->phase == REFRAIN__PHASE__PHASE_DENOISE && 2 * p->step >= p->steps;
    if (!middle || job->middle_ms) return;
    job->middle_ms = server->now_ms;
    foresight_look(server, true); /* from this very step */
    job->foretold_ms = job->measured ? job->finish_ms : 0;
}
