/* foresight.c - see foresight.h. The loop thread. */
#include "coordinator/foresight/foresight.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/clock.h"
#include "coordinator/foresight/finish.h"
#include "coordinator/foresight/lessons.h"
#include "coordinator/planner/planner.h"
#include "proto/caching.h"
#include "rules/piece.h"

/* MOST_JOBS: predicted at once; those behind them are not. LOOK_NS: a queue may be long. */
enum { MOST_JOBS = 4096, FEW_JOBS = 256, MOST_EXPECTED = 48 };
/* MOST_TAKES: plays of a queue, if it has few moves. REST: so many times as long as a look takes the next one waits. */
enum { MOST_TAKES = 5, MOST_MOVES = 8000, REST = 10 };
#define LOOK_NS         (100 * MILLISECOND_NS)
#define FIRST_GUESS     0.5 /* of the speed that a matrix product was measured at: blocks before any was timed */
#define HOP_SECONDS     1e-4 /* of a message between two ranks, as it is on one host */
#define NEXT_TO_NOTHING 1e-6
#define UNSURE          0.05 /* of a block's time: how much plays differ in it */

/* ------------------------------------------------------------------------------------------------ what is known */

static uint64_t name_of(const char *model)
{
    uint64_t key = XXH64(model, strlen(model), 0);
    return key ? key : 1;
}

/* The terms of planner_block_flops, which is a square of tokens. */
static void find_flops(const Refrain__ModelCard *card, double flops[PACE_TERMS])
{
    struct planner_model shape = {.layers = card->layers,
                                  .heads = card->heads,
                                  .head_dim = card->head_dim,
                                  .ffn = card->ffn_dim,
                                  .text_tokens = card->text_length};
    double none = planner_block_flops(&shape, 0), one = planner_block_flops(&shape, 1),
           two = planner_block_flops(&shape, 2);
    flops[0] = none;
    flops[2] = (two - 2 * one + none) / 2;
    flops[1] = one - none - flops[2];
}

void foresight_note(struct server *server, struct job *job, const Refrain__JobSpec *spec,
                    const Refrain__ModelCard *card)
{
    struct outlook *o = &job->outlook;
    uint32_t passes = spec->compare ? 2 : 1;
    *o = (struct outlook){.model = name_of(job->model),
                          .steps = spec->steps * passes,
                          .frames = spec->frames,
                          .begins = spec->at_step,
                          .latent_frames = passes * ((spec->frames - 1) / card->frame_multiple + 1)};
    struct caching_outlook caching;
    o->certain = hitrates_of(&server->rates, spec, card, &o->mix, &caching);
    o->by_step = caching.by_step && !spec->compare;
    for (uint32_t i = 0; o->by_step && i < spec->steps; i++)
        o->skips[i / 8] |= (uint8_t)(caching.skips[i] << i % 8);
    o->first_steps = o->mix.experts > 1 && !spec->compare ? caching_switch(spec, card) : o->steps;
    o->tokens = (double)caching_tokens(spec, card);
    find_flops(card, o->flops);
    if (!job->run) job->run = jobs_run(job->tenant, spec); /* of before a restart */
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

/* Seconds of a block on one rank: what it measured; before any of its group did, half of the speed of a matrix product. */
static double block_on(const struct member *member, const struct outlook *o, bool measured)
{
    double ns = paces_block(&member->paces, o->tokens, o->flops);
    if (ns <= 0) ns = member->block_token_ns * o->tokens;
    if (measured) return ns / SECOND_NS;
    return member->gflops > 0 ? pace_flops(o->flops, o->tokens) / (FIRST_GUESS * member->gflops * 1e9) : 0;
}

bool foresight_measured(const struct group *group)
{
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if (group->members[rank].block_token_ns > 0) return true;
    return false;
}

double foresight_block(const struct group *group, const struct outlook *o)
{
    double sum = 0;
    uint32_t known = 0;
    bool measured = foresight_measured(group);
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        double block = block_on(&group->members[rank], o, measured);
        sum += block;
        known += block > 0;
    }
    /* What ranks of a wide stage measured is of their part. */
    return known ? sum / known * (measured ? plan_width(&group->plan) : 1) : 0;
}

double foresight_tail(struct server *server, const struct outlook *o)
{
    const struct learnt *l = lessons_of(server, o->model);
    return l->text * o->mix.branches + (l->decode + l->files) * o->tokens;
}

/* ---------------------------------------------------------------------------------------------------- crews */

/* A group, as it is or would be laid out for a model. */
struct stage_plan {
    uint64_t model; /* 0: for none yet */
    bool good;
    uint32_t width;   /* ranks of a stage */
    struct plan plan; /* of stages */
    double *pace;     /* [ranks], of the latest size; owned */
    double tokens;    /* that size */
    double block;     /* seconds of a block on a stage, usually */
};

struct prospect {
    struct server *server;
    struct group *group[FINISH_GROUPS];
    struct finish_group stand[FINISH_GROUPS];
    struct stage_plan *laid; /* [FINISH_GROUPS] */
    int groups;
    struct job **jobs;           /* [count] */
    struct finish_job *finishes; /* [count] */
    size_t count;                /* of them, those behind `known` are only expected */
    size_t known;
    size_t *maker; /* [count]: the job before it that makes its steps too; itself: none does */
    uint32_t take; /* of the plays */
};

static const struct model *find_model(const struct server *server, uint64_t name)
{
    const struct model *m;
    for (size_t i = 0; (m = models_at(server->models, i)); i++)
        if (name_of(m->card->name) == name) return m;
    return NULL;
}

/* The layout that there is, or the one that the group would get for such a job. */
static void lay(struct prospect *v, int g, const struct outlook *o)
{
    struct stage_plan *s = &v->laid[g];
    struct group *group = v->group[g];
    const struct model *model = find_model(v->server, o->model);
    bool there = v->stand[g].model == o->model && group->plan.ranks == group->ranks && model &&
                 group->plan.layers == model->card->layers;
    s->model = o->model;
    s->tokens = 0;
    s->good = there;
    if (!model) return;
    if (there) s->plan = group->plan;
    if (!there) {
        struct plan_seat *seats = calloc(group->ranks, sizeof *seats);
        if (!seats) return;
        struct plan_request request = server_describe_layout(v->server, group, model->card, NULL, seats);
        request.mix = o->mix;
        s->good = plan_make(&request, &s->plan, NULL) == STATUS_OK;
        free(seats);
    }
    if (!s->good) return;
    s->width = plan_width(&s->plan);
    if (s->width > 1) s->plan = plan_wide_stages(&s->plan);
}

/* How much longer than on the others a block of that size takes on each stage, whose slowest rank counts. */
static void find_paces(struct prospect *v, int g, const struct outlook *o)
{
    struct stage_plan *s = &v->laid[g];
    const struct group *group = v->group[g];
    uint32_t width = s->width, stages = s->plan.ranks;
    bool measured = foresight_measured(group);
    double sum = 0;
    s->tokens = o->tokens;
    s->block = foresight_block(group, o) / width;
    for (uint32_t i = 0; i < stages * width; i++) {
        double block = block_on(&group->members[i], o, measured);
        if (i % width == 0) s->pace[i / width] = 0;
        s->pace[i / width] = fmax(s->pace[i / width], block);
    }
    for (uint32_t i = 0; i < stages; i++) sum += s->pace[i] / stages;
    for (uint32_t i = 0; i < stages; i++) s->pace[i] = sum > 0 && s->pace[i] > 0 ? s->pace[i] / sum : 1;
}

/* Pieces, each of so much; nothing takes no time at all. */
static struct crew_pieces pieces(uint32_t count, double seconds)
{
    count = count > 0 ? count : 1;
    return (struct crew_pieces){count, fmax(seconds / count, NEXT_TO_NOTHING)};
}

/* Steps that it takes over from another job, or has kept from an earlier attempt. */
static uint32_t begins_after(const struct job *job)
{
    uint32_t kept = job->kept > job->outlook.begins ? job->kept : job->outlook.begins;
    return kept < job->outlook.steps ? kept : job->outlook.steps;
}

/* What a job is made of, from its beginning. */
static void describe_whole(struct prospect *v, int g, const struct job *job, struct crew_job *work)
{
    const struct outlook *o = &job->outlook;
    const struct learnt *l = lessons_of(v->server, o->model);
    double stretch = lessons_stretch(v->group[g]);
    double step = l->step * o->tokens * stretch;
    uint32_t films = (o->frames + FILM_FRAMES - 1) / FILM_FRAMES + 1;
    work->tokens = (uint32_t)o->tokens;
    work->branches = o->mix.branches;
    work->steps = o->steps;
    work->done = begins_after(job);
    work->first_steps = o->first_steps;
    work->cached = o->mix.hit_rate > 0;
    work->head = o->mix.head;
    work->tail = o->mix.tail;
    bool apart = o->mix.experts > 1 && (o->mix.expert_hits[0] > 0 || o->mix.expert_hits[1] > 0);
    for (int e = 0; e < PLAN_EXPERTS; e++) work->hits[e] = apart ? o->mix.expert_hits[e] : o->mix.hit_rate;
    work->skips = o->by_step ? o->skips : NULL;
    work->block = v->laid[g].block * stretch;
    work->begin = work->end = fmax(step / 2, NEXT_TO_NOTHING);
    work->text = pieces(o->mix.branches, l->text * o->mix.branches * stretch);
    work->frames = pieces(o->latent_frames, l->decode * o->tokens * stretch);
    work->files = pieces(films, l->files * o->tokens * stretch);
}

/* Hits come as policies have them: as many as were foreseen, or as many as there were so far; the truth is between. Where
 * they were foreseen exactly there is nothing to correct. Each expert's by as much as those that were its own. */
static void correct_hits(const struct job *job, struct crew_job *work)
{
    const Refrain__Progress *p = &job->progress;
    uint32_t expert = work->done >= work->first_steps, from = expert ? work->first_steps : 0, hits = 0;
    if (!work->cached || job->outlook.certain || !p->has_cache_actions) return;
    for (size_t i = from; i < p->cache_actions.len && i < work->done; i++) {
        uint8_t action = p->cache_actions.data[i];
        hits +=
            action == REFRAIN__CACHE_ACTION__CACHE_REUSED || action == REFRAIN__CACHE_ACTION__CACHE_FORECAST;
    }
    double done = work->done - from, all = (expert ? work->steps : work->first_steps) - from;
    if (done < 1 || done >= all) return;
    double foreseen = fmax(0, (work->hits[expert] * all - hits) / (all - done)), seen = hits / done;
    work->hits[expert] = fmin(1, (foreseen + seen) / 2);
}

/* Where a job that runs stands. */
static void describe_progress(const struct job *job, struct crew_job *work)
{
    const Refrain__Progress *p = &job->progress;
    if (!p->has_phase || p->phase <= REFRAIN__PHASE__PHASE_TEXT) return;
    work->phase = CREW_STEPS;
    if (p->phase == REFRAIN__PHASE__PHASE_DENOISE) {
        work->done = p->step < work->steps ? p->step : work->steps;
        correct_hits(job, work);
        return;
    }
    work->done = work->steps;
    work->phase = CREW_DECODE;
    if (p->phase == REFRAIN__PHASE__PHASE_DECODE) {
        work->frames.count -= p->step < work->frames.count ? p->step : work->frames.count;
        return;
    }
    work->phase = CREW_FILES;
    if (p->phase > REFRAIN__PHASE__PHASE_ENCODE) work->files = pieces(1, 0);
}

/* finish_describe_fn */
static bool describe(void *context, size_t index, int g, struct crew_layout *layout, struct crew_job *work)
{
    struct prospect *v = context;
    const struct job *job = v->jobs[index];
    const struct outlook *o = &job->outlook;
    struct stage_plan *s = &v->laid[g];
    struct slot *slot = v->finishes[index].group >= 0 ? group_slot(v->group[g], job->id) : NULL;
    if (s->model != o->model) lay(v, g, o);
    if (!s->good) return false;
    if (s->tokens != o->tokens) find_paces(v, g, o);
    *layout = (struct crew_layout){.plan = &s->plan,
                                   .wide = s->width > 1,
                                   .pace = s->pace,
                                   .hop = HOP_SECONDS,
                                   .newest = v->server->newest_age};
    describe_whole(v, g, job, work);
    if (v->maker[index] != index) work->done = work->steps;
    if (slot) {
        work->home = (int)slot->home;
        work->age = job->age;
        describe_progress(job, work);
    }
    if (v->take) work->block *= 1 + UNSURE * (XXH64(&job->id, sizeof job->id, v->take) % 1001 / 500.0 - 1);
    work->tenant = job->tenant;
    work->due = job->deadline_at_ms ? fmax(0, (double)(job->deadline_at_ms - v->server->now_ms) / 1000) : 0;
    return s->block > 0;
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
    struct server *server = v->server;
    int g = v->groups;
    if (!(v->laid[g].pace = calloc(group->ranks, sizeof *v->laid[g].pace))) return;
    v->groups++;
    v->group[g] = group;
    v->stand[g] = (struct finish_group){.limit = (uint32_t)server_flight_limit(server, group),
                                        .ranks = group->ranks,
                                        .ready = ready_in(server, group),
                                        .load = group->load_seconds,
                                        .model = group->model[0] ? name_of(group->model) : 0};
}

static void describe_amount(const struct job *job, uint32_t steps, struct finish_job *amount)
{
    const struct outlook *o = &job->outlook;
    amount->moves = (double)steps * o->mix.branches;
    amount->work = amount->moves * (1 - o->mix.hit_rate) * o->tokens;
}

/* group: that it runs on; negative: it waits. */
static void add_job(struct prospect *v, struct job *job, int group)
{
    struct finish_job *f = &v->finishes[v->count];
    *f = (struct finish_job){.group = group, .priority = job->priority, .model = job->outlook.model};
    describe_amount(job, job->outlook.steps - begins_after(job), f);
    v->maker[v->count] = v->count;
    v->jobs[v->count++] = job;
}

/* Of jobs that are one run those that come later take its steps, where there is one group, whose ranks keep them: on several
 * each may have one at work on it. */
static void find_makers(struct prospect *v)
{
    size_t places = 1;
    while (places < 2 * v->count) places *= 2;
    if (v->groups != 1 || !v->group[0]->directory) return;
    size_t *first = calloc(places, sizeof *first); /* of a run, from 1 on */
    for (size_t i = 0; first && i < v->count; i++) {
        uint64_t run = v->jobs[i]->run;
        size_t at = run & (places - 1);
        if (!run) continue;
        while (first[at] && v->jobs[first[at] - 1]->run != run) at = (at + 1) & (places - 1);
        if (!first[at]) first[at] = i + 1;
        size_t maker = first[at] - 1;
        if (v->finishes[i].group >= 0 || v->jobs[maker]->priority < v->jobs[i]->priority) continue;
        v->maker[i] = maker;
        if (maker != i) describe_amount(v->jobs[i], 1, &v->finishes[i]); /* as much as a step, for its frames */
    }
    free(first);
}

/* What was taken before a restart has none any more, and was taken in the order of its numbers. */
static int by_age(const void *a, const void *b)
{
    const struct job *const *x = a, *const *y = b;
    if ((*x)->age != (*y)->age) return (*x)->age < (*y)->age ? -1 : 1;
    return (*x)->id < (*y)->id ? -1 : (*x)->id > (*y)->id;
}

/* Those in flight on a group, the oldest first. */
static void add_flight(struct prospect *v, int g)
{
    struct job *jobs[GROUP_SLOTS];
    int count = 0;
    for (int i = 0; i < GROUP_SLOTS; i++) {
        uint64_t number = v->group[g]->slots[i].job;
        struct job *job = number ? jobs_find(v->server->jobs, number) : NULL;
        if (job && know(v->server, job)) jobs[count++] = job;
    }
    qsort(jobs, (size_t)count, sizeof *jobs, by_age);
    for (int i = 0; i < count; i++) add_job(v, jobs[i], g);
}

static void close_prospect(struct prospect *v)
{
    for (int i = 0; i < v->groups; i++) free(v->laid[i].pace);
    free(v->laid);
    free(v->jobs);
    free(v->finishes);
    free(v->maker);
}

/* Jobs come in streams: more of the kind that came last are expected, as many as could share ranks with those that are there. */
static void add_expected(struct prospect *v)
{
    int64_t gap_ns;
    const struct server *server = v->server;
    size_t all = jobs_count(server->jobs), places = 0;
    size_t more = stream_expected(&server->stream, server->now_ns, &gap_ns);
    for (int g = 0; g < v->groups; g++) places += 2 * v->stand[g].limit;
    if (more > all) more = all;
    if (more > places) more = places;
    if (more > MOST_EXPECTED) more = MOST_EXPECTED;
    for (size_t i = 0; i < more; i++) {
        struct job *like = jobs_at(server->jobs, all - more + i);
        int64_t after_ns = server->stream.last_ns + (int64_t)(i + 1) * gap_ns - server->now_ns;
        if (like->outlook.tokens <= 0) continue;
        add_job(v, like, -1);
        v->finishes[v->count - 1].from = fmax(0, (double)after_ns / SECOND_NS);
    }
}

/* extra: a job that is not in the queue yet; NULL: none. False: there is nothing to predict with. */
static bool open_prospect(struct server *server, struct job *extra, struct prospect *v)
{
    struct job **queue = malloc(MOST_JOBS * sizeof *queue);
    *v = (struct prospect){.server = server, .laid = calloc(FINISH_GROUPS, sizeof *v->laid)};
    for (size_t i = 0; v->laid && groups_at(server->groups, i) && v->groups < FINISH_GROUPS; i++)
        if (can_work(groups_at(server->groups, i))) add_group(v, groups_at(server->groups, i));
    size_t most = (size_t)v->groups * GROUP_SLOTS + MOST_JOBS + MOST_EXPECTED;
    v->jobs = malloc(most * sizeof *v->jobs);
    v->finishes = malloc(most * sizeof *v->finishes);
    v->maker = malloc(most * sizeof *v->maker);
    bool good = queue && v->groups > 0 && v->jobs && v->finishes && v->maker;
    for (int g = 0; good && g < v->groups; g++) add_flight(v, g);
    size_t waiting = good ? jobs_order(server->jobs, extra, queue, MOST_JOBS) : 0;
    for (size_t i = 0; i < waiting; i++)
        if (queue[i] == extra || know(server, queue[i])) add_job(v, queue[i], -1);
    free(queue);
    v->known = v->count;
    if (good) find_makers(v);
    if (good && !extra) add_expected(v);
    if (!good) close_prospect(v);
    return good;
}

/* Ranks have timed blocks, and a job of its model has ended. */
static bool is_measured(struct prospect *v, const struct outlook *o)
{
    bool timed = false;
    for (int g = 0; g < v->groups; g++) timed |= foresight_measured(v->group[g]);
    return timed && lessons_of(v->server, o->model)->known;
}

/* Which job gets ahead of which may hang on next to nothing: who is done first leaves its home to the next. What would come of slightly other
 * times is as likely, and the mean of all is nearer to each of them than another one is. For what nobody asked for
 * one is enough. */
static void play(struct prospect *v, bool fresh)
{
    double moves = 1, *sum = calloc(v->count + 1, sizeof *sum);
    if (!sum) return; /* never done */
    for (size_t i = 0; i < v->count; i++) moves += v->finishes[i].moves;
    uint32_t takes = fresh ? (uint32_t)fmin(MOST_TAKES, 1 + MOST_MOVES / moves) : 1;
    for (v->take = 0; v->take < takes; v->take++) {
        finish_play(v->stand, v->groups, v->finishes, v->count, describe, v);
        for (size_t i = 0; i < v->count; i++) sum[i] += v->finishes[i].done / takes;
    }
    for (size_t i = 0; i < v->count; i++) v->finishes[i].done = fmax(sum[i], sum[v->maker[i]]);
    free(sum);
}

/* A prediction that is asked for is made anew, unless there is one of a moment ago, so that looking takes little of the loop's time however often one
 * asks; but a job that has come since must have one. */
static int64_t pause_before(const struct server *server, bool fresh)
{
    size_t jobs = jobs_count(server->jobs);
    int64_t pause_ns = LOOK_NS * (1 + (int64_t)jobs / FEW_JOBS);
    if (!fresh || jobs > FEW_JOBS) return pause_ns;
    if (server->stream.last_ns > server->foreseen_ns) return 0;
    return REST * server->look_ns < pause_ns ? REST * server->look_ns : pause_ns;
}

void foresight_look(struct server *server, bool fresh)
{
    struct prospect v;
    int64_t began_ns = clock_now_ns();
    if (server->foreseen_ns && server->now_ns - server->foreseen_ns < pause_before(server, fresh)) return;
    server->foreseen_ns = server->now_ns;
    for (size_t i = 0; jobs_at(server->jobs, i); i++) jobs_at(server->jobs, i)->finish_ms = 0;
    jobs_foreseen(server->jobs, server->now_ms);
    if (!jobs_at(server->jobs, 0) || !open_prospect(server, NULL, &v)) return;
    play(&v, fresh);
    for (size_t i = 0; i < v.known; i++) {
        struct job *job = v.jobs[i];
        if (isfinite(v.finishes[i].done)) job->finish_ms = server->now_ms + llrint(1000 * v.finishes[i].done);
        job->measured = job->finish_ms > 0 && is_measured(&v, &job->outlook);
    }
    close_prospect(&v);
    server->look_ns = clock_now_ns() - began_ns;
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
        play(&v, true);
        for (size_t i = 0; i < v.count; i++)
            if (v.jobs[i] == extra && isfinite(v.finishes[i].done)) seconds = v.finishes[i].done;
        close_prospect(&v);
    }
    jobs_drop_sketch(server->jobs, extra);
    return seconds;
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
