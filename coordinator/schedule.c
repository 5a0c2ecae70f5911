/*
 * schedule.c - brings groups and jobs together: epochs, loading, assigning, cancelling, losses.
 *
 * Level-triggered: once per turn of the loop it looks at what is (states of groups, slots, jobs) and does the
 * next thing that follows from it. Reports only change states (groups.c, reports.c), so nothing is lost by
 * their order, by a restart or by a commit that failed. Vacant seats and lost groups: repair.c. Runs on the
 * coordinator's loop thread.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/ranks/drain.h"
#include "coordinator/foresight/foresight.h"
#include "coordinator/planner/layout.h"
#include "coordinator/ranks/move.h"
#include "coordinator/orders.h"
#include "coordinator/ranks/repair.h"
#include "coordinator/server.h"
#include "coordinator/ranks/wiring.h"
#include "proto/caching.h"

/* More jobs than are taken in a millisecond; and the first job on any number of ranks up to ten is the first of those that share alike
 * (rules/share.h, share_elder). */
enum { AGES_A_MS = 2520 };
#define WORTH_A_LOAD 0.9 /* of the time now: another layout costs a pause and a load */

/* -------------------------------------------------------------------------------------------- small steps */

static void log_failed(const char *what, const struct error *error)
{
    log_line(LOG_ERROR, "%s: %s", what, error->text);
}

/* The job in a slot, as long as the slot's attempt is the one that counts; NULL once it expired or was moved
 * on. */
struct job *server_slot_job(const struct server *server, const struct slot *slot)
{
    struct job *job = slot->job ? jobs_find(server->jobs, slot->job) : NULL;
    bool live =
        job && job->attempt == slot->attempt &&
        (job->state == REFRAIN__JOB_STATE__JOB_RUNNING || job->state == REFRAIN__JOB_STATE__JOB_CANCELLING);
    return live ? job : NULL;
}

/* The step that the job's next attempt begins after; what it made beyond that is the cost of a loss. */
static uint32_t count_repeated(struct server *server, const struct job *job)
{
    struct checkpoint checkpoint = {0};
    if (server->vault && !vault_latest(server->vault, job->id, &checkpoint))
        vault_origin(server->vault, job->id, &checkpoint);
    bool steps = job->progress.phase == REFRAIN__PHASE__PHASE_DENOISE && job->progress.step > checkpoint.step;
    if (steps) server->steps_repeated += job->progress.step - checkpoint.step;
    return checkpoint.step;
}

void server_give_back(struct server *server, struct slot *slot, enum jobs_loss loss, const char *why)
{
    struct error error;
    struct job *job = server_slot_job(server, slot);
    if (slot->job) results_drop(server->results, slot->job);
    if (job) {
        log_line(LOG_WARN, "job %" PRIu64 ": back in the queue: %s", job->id, why);
        job->kept = count_repeated(server, job);
        if (server->vault) vault_forbid(server->vault, job->id);
        if (!slot->assigned) loss = LOSS_NONE; /* the ranks never heard of it */
        if (jobs_requeue(server->jobs, job, loss, why, server->now_ms, &error) != STATUS_OK)
            log_failed("requeue", &error);
    }
    *slot = (struct slot){0};
}

/* Also for a queued job that cannot even be planned: then it has no slot. */
static void fail_job(struct server *server, struct slot *slot, struct job *job, const char *why)
{
    struct error error;
    log_line(LOG_ERROR, "job %" PRIu64 ": failed: %s", job->id, why);
    if (jobs_finish(server->jobs, job, REFRAIN__JOB_STATE__JOB_FAILED, why, NULL, server->now_ms, &error) !=
        STATUS_OK)
        log_failed("job", &error);
    if (slot) *slot = (struct slot){0};
}

/* Numbers grow over everything any member has seen, also over a job store that was started afresh. */
static void begin_epoch(struct server *server, struct group *group)
{
    uint64_t above = group->epoch;
    struct error error;
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        const struct member *member = &group->members[rank];
        if (member->epoch > above) above = member->epoch;
        if (member->last_epoch > above) above = member->last_epoch;
    }
    repair_give_back(server, group, "the ranks had to find each other again");
    if (jobstore_next_epoch(server->store, above, &group->epoch, &error) != STATUS_OK) {
        log_failed("epoch", &error);
        return;
    }
    /* A new epoch begins with a Load; ranks that hold what it asks for answer at once. */
    group->model[0] = '\0';
    order_epoch(server->outbox, group);
    group_enter(group, GROUP_JOINING, server->now_ns);
}

/* ------------------------------------------------------------------------------------------------- layout */

/* Ranks of one make are as fast as each other: what their measurements differ by is noise. */
static uint64_t make_of(const struct member *member)
{
    XXH64_state_t *state = XXH64_createState();
    if (!state) return 0;
    XXH64_reset(state, 0);
    XXH64_update(state, member->host, strlen(member->host) + 1);
    XXH64_update(state, member->backend, strlen(member->backend) + 1);
    XXH64_update(state, &member->threads, sizeof member->threads);
    uint64_t make = XXH64_digest(state);
    XXH64_freeState(state);
    return make ? make : 1;
}

/* What a rank has for itself; 0: unknown. Ranks of one host share its memory. */
static uint64_t memory_of(const struct group *group, const struct member *member)
{
    uint64_t count = 0;
    if (member->gpu[0]) return member->memory_bytes - member->tier_device;
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        count += strcmp(group->members[rank].host, member->host) == 0;
    return member->memory_bytes / (count ? count : 1);
}

static struct needs_rank needs_rank_of(const struct member *member)
{
    return (struct needs_rank){.gpu = member->gpu[0] != 0, .decode_memory = member->decode_memory};
}

/* What a rank has for weights beside what a job takes there; 0 stays 0. */
static uint64_t memory_beside(uint64_t memory, uint64_t taken)
{
    return memory > taken ? memory - taken : memory > 0;
}

/* The ranks have room for the weights of blocks and what the job keeps for each; a home has what it holds besides, whatever
 * the blocks. */
struct plan_request server_describe_layout(const struct server *server, const struct group *group,
                                           const Refrain__ModelCard *card, const Refrain__JobSpec *spec,
                                           struct plan_seat *seats)
{
    struct needs needs;
    const struct needs *job = &needs;
    const struct needs_rank home = needs_rank_of(&group->members[0]);
    needs_of(card, spec, &home, &needs);
    uint64_t any = needs.backend + needs.work, stage = needs_at(NULL, 0, &job, 1, 0);
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        const struct member *member = &group->members[rank];
        uint64_t memory = memory_of(group, member);
        seats[rank] = (struct plan_seat){.speed = member->gflops,
                                         .make = make_of(member),
                                         .memory_bytes = memory_beside(memory, rank ? stage : any)};
    }
    return (struct plan_request){.layers = card->layers,
                                 .ranks = group->ranks,
                                 .seats = seats,
                                 .wish = &server->settings->wish,
                                 .heads = card->heads,
                                 .block_bytes = needs.block + needs.text,
                                 .home_bytes = needs.home + needs_at(&job, 1, NULL, 0, 0) - any};
}

/* In front of what the plan says of weights: what of the memory the job itself takes. */
static void name_sizes(const struct group *group, const Refrain__ModelCard *card,
                       const Refrain__JobSpec *spec, struct error *error)
{
    struct needs needs;
    const struct needs *job = &needs;
    const struct needs_rank home = needs_rank_of(&group->members[0]);
    needs_of(card, spec, &home, &needs);
    error_prefix(
        error,
        "%ux%ux%u takes %.1f GB at home and %.1f GB on any other rank, of %.1f GB a rank; what is left",
        spec->width, spec->height, spec->frames, (double)needs_at(&job, 1, NULL, 0, 0) / 1e9,
        (double)needs_at(NULL, 0, &job, 1, 0) / 1e9, (double)memory_of(group, &group->members[0]) / 1e9);
}

/* Every rank loads its own blocks; the state ends when all have answered, well or badly. */
static void begin_load(struct server *server, struct group *group, struct slot *slot, struct job *job)
{
    struct error error;
    const struct model *model;
    if (models_find(server->models, job->model, &model, &error) != STATUS_OK) {
        fail_job(server, slot, job, error.text);
        return;
    }
    job->progress.has_phase = 1;
    job->progress.phase = REFRAIN__PHASE__PHASE_LOAD;
    snprintf(group->model, sizeof group->model, "%s", job->model);
    group->load_status = STATUS_OK;
    order_load(server->outbox, group, model);
    group_enter(group, GROUP_LOADING, server->now_ns);
}

/* ---------------------------------------------------------------------------------------------- one slot */

/* The spec comes from the store, where every default was filled in at submission: a default that changed
 * since does not change a job that waits. */
static void assign(struct server *server, struct group *group, struct slot *slot, struct job *job)
{
    Refrain__Job *stored;
    struct error error;
    struct checkpoint checkpoint, origin;
    struct beginning beginning = {0};
    if (jobstore_get(server->store, NULL, job->id, &stored, &error) != STATUS_OK) {
        fail_job(server, slot, job, error.text);
        return;
    }
    slot->assigned = true;
    if (server->vault) {
        beginning.mark_every = server_mark_every(server, stored->spec);
        vault_mark(server->vault, job->id, beginning.mark_every);
        vault_allow(server->vault, job->id, job->attempt);
        if (vault_latest(server->vault, job->id, &checkpoint)) beginning.resume = &checkpoint;
        if (stored->spec->resume_from && vault_origin(server->vault, job->id, &origin))
            beginning.origin = &origin;
    }
    order_assign(server->outbox, group, slot, job, stored->spec, &beginning);
    refrain__job__free_unpacked(stored, NULL);
    group->progress_ns = server->now_ns;
    const struct checkpoint *from = beginning.resume ? beginning.resume : beginning.origin;
    slot->from = from ? from->step : 0;
    if (from)
        log_line(LOG_INFO, "job %" PRIu64 ": attempt %u on group %.8s, from step %u", job->id, job->attempt,
                 group->name, from->step);
    else
        log_line(LOG_INFO, "job %" PRIu64 ": attempt %u on group %.8s", job->id, job->attempt, group->name);
}

/* A job that was started here but not sent to home yet: it waits for the model. */
static void advance_waiting(struct server *server, struct group *group, struct slot *slot)
{
    struct error error;
    struct job *job = server_slot_job(server, slot);
    if (!job) { /* expired meanwhile */
        *slot = (struct slot){0};
    } else if (job->state == REFRAIN__JOB_STATE__JOB_CANCELLING) {
        if (jobs_finish(server->jobs, job, REFRAIN__JOB_STATE__JOB_CANCELLED, NULL, NULL, server->now_ms,
                        &error))
            log_failed("cancel", &error);
        *slot = (struct slot){0};
    } else if (strcmp(group->model, job->model) != 0) {
        begin_load(server, group, slot, job);
    } else if (group->load_status != STATUS_OK) {
        group->model[0] = '\0';
        group->load_status = STATUS_OK;
        fail_job(server, slot, job, group->failure);
    } else {
        assign(server, group, slot, job);
    }
}

/* What can be done about a job in its slot now. */
static void advance_slot(struct server *server, struct group *group, struct slot *slot)
{
    if (!slot->assigned) {
        if (!group->move.resting) advance_waiting(server, group, slot);
        return;
    }
    const struct job *job = server_slot_job(server, slot);
    if (slot->cancel_told || (job && job->state == REFRAIN__JOB_STATE__JOB_RUNNING)) return;
    order_cancel(server->outbox, group,
                 slot); /* cancelled, or expired: home stops at the next step and says so */
    slot->cancel_told = true;
}

/* ----------------------------------------------------------------------------------------------- one more */

int server_flight_limit(const struct server *server, const struct group *group)
{
    if (server->settings->in_flight) return (int)server->settings->in_flight;
    int wanted = group->ranks == 1 ? 1 : (int)group->plan.jobs_to_saturate + 1;
    return wanted < 1 ? 1 : wanted > GROUP_SLOTS / 4 ? GROUP_SLOTS / 4 : wanted;
}

/* Jobs of lower priority do not keep one of higher priority waiting: home lets them rest. */
bool server_has_room(const struct server *server, const struct group *group, const struct job *job)
{
    int equals = 0;
    bool alone = false;
    for (int i = 0; i < GROUP_SLOTS; i++) {
        const struct slot *slot = &group->slots[i];
        if (!slot->job) continue;
        const struct job *other = jobs_find(server->jobs, slot->job);
        equals += !other || other->priority >= job->priority;
        alone |= other && jobs_suspect(other); /* until it gets further than where it lost its ranks */
    }
    bool fits = equals < server_flight_limit(server, group) && group_in_flight(group) < GROUP_SLOTS;
    return fits && !alone && !(jobs_suspect(job) && group_in_flight(group));
}

/* With a floating home the member with the fewest jobs; otherwise the first. */
static uint32_t choose_home(const struct group *group)
{
    uint32_t best = 0, least = UINT32_MAX;
    for (uint32_t rank = 0; group->plan.floating && rank < group->ranks; rank++) {
        uint32_t jobs = 0;
        for (int i = 0; i < GROUP_SLOTS; i++) jobs += group->slots[i].job && group->slots[i].home == rank;
        if (jobs < least) best = rank, least = jobs;
    }
    return best;
}

/* With an operator's limit it alone counts, as before the layout is known: what the jobs keep at their homes. */
static bool within_limit(const struct server *server, const struct group *group, const struct needs *needs,
                         struct held *held)
{
    uint64_t used = 0, limit = (uint64_t)server->settings->flight_memory;
    for (int i = 0; i < GROUP_SLOTS; i++)
        if (group->slots[i].job) used += group->slots[i].needs.job + group->slots[i].needs.film;
    held->by = HELD_BY_LIMIT;
    held->needs = needs->job + needs->film;
    held->free = limit > used ? limit - used : 0;
    return held->needs <= held->free;
}

/* Do the weights and jobs of that rank fit it, with one job more? That job's home is `home`. */
static bool fits_rank(const struct group *group, const struct needs *needs, uint32_t home, uint32_t rank,
                      struct held *held)
{
    const struct needs *homes[GROUP_SLOTS + 1], *stages[GROUP_SLOTS + 1];
    uint32_t at_home = 0, at_stage = 0, blocks = plan_blocks(&group->plan, rank);
    uint64_t memory = memory_of(group, &group->members[rank]);
    bool holds_home = rank == 0 || group->plan.floating;
    for (int i = 0; i < GROUP_SLOTS; i++) {
        const struct slot *slot = &group->slots[i];
        if (!slot->job) continue;
        if (slot->home == rank)
            homes[at_home++] = &slot->needs;
        else
            stages[at_stage++] = &slot->needs;
    }
    uint64_t before = needs_at(homes, at_home, stages, at_stage, blocks);
    if (rank == home)
        homes[at_home++] = needs;
    else
        stages[at_stage++] = needs;
    uint64_t after = needs_at(homes, at_home, stages, at_stage, blocks);
    bool pools = group->plan.chain[0][0] != group->plan.chain[1][0];
    uint64_t weights = blocks * needs->block * (pools ? 1 : needs->experts) + (holds_home ? needs->home : 0);
    held->by = HELD_BY_MEMORY;
    held->seat = group->members[rank].seat;
    held->needs = after - before;
    held->free = memory > weights + before ? memory - weights - before : 0;
    return memory == 0 || weights + after <= memory;
}

/* The first job is the layout's business: it was made for it, or refused. */
static bool fits_memory(const struct server *server, const struct group *group, const struct needs *needs,
                        struct held *held)
{
    uint32_t home = choose_home(group);
    if (group_in_flight(group) == 0) return true;
    if (server->settings->flight_memory) return within_limit(server, group, needs, held);
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if (!fits_rank(group, needs, home, rank, held)) return false;
    return true;
}

/* One whose run is made already goes straight to decoding, and keeps nobody. */
static bool makes_steps(const struct job *job)
{
    const Refrain__Progress *p = &job->progress;
    return job->state == REFRAIN__JOB_STATE__JOB_RUNNING &&
           (!p->has_phase || p->phase <= REFRAIN__PHASE__PHASE_DENOISE);
}

/* Those in flight on a group whose steps others could take; none where ranks keep nothing. */
struct makers {
    const struct job *job[GROUP_SLOTS];
    int count;
};

static void find_makers(const struct server *server, const struct group *group, struct makers *makers)
{
    makers->count = 0;
    for (int i = 0; group->directory && i < GROUP_SLOTS; i++) {
        const struct job *job = server_slot_job(server, &group->slots[i]);
        if (job && job->run && makes_steps(job)) makers->job[makers->count++] = job;
    }
}

static const struct job *maker_for(const struct makers *makers, const struct job *job)
{
    for (int i = 0; i < makers->count; i++)
        if (makers->job[i]->run == job->run && makers->job[i]->priority >= job->priority)
            return makers->job[i];
    return NULL;
}

const struct job *server_maker(const struct server *server, const struct group *group, const struct job *job)
{
    struct makers makers;
    if (!job->run) return NULL;
    find_makers(server, group, &makers);
    return maker_for(&makers, job);
}

/* Whose steps would be made twice does not go now. The queue may be long: who makes which is looked up once. */
struct choice {
    const struct group *group;
    struct makers makers;
    bool loaded; /* only of the model that the group has */
};

static bool may_go(void *context, const struct job *job)
{
    const struct choice *c = context;
    if (c->loaded && strcmp(c->group->model, job->model) != 0) return false;
    return !maker_for(&c->makers, job);
}

/* Another group stands ready for that model, or for any. */
static bool elsewhere(const struct server *server, const struct group *here, const char *model)
{
    const struct group *group;
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++)
        if (group != here && group->state == GROUP_READY &&
            (strcmp(group->model, model) == 0 || group_in_flight(group) == 0))
            return true;
    return false;
}

/* The job this group is to take now; NULL: none. While it works on one model, the turn of another makes it
 * take nothing more, unless another group can serve that one. */
static struct job *choose_job(const struct server *server, struct group *group)
{
    struct choice choice = {.group = group};
    find_makers(server, group, &choice.makers);
    struct job *job = jobs_next(server->jobs, may_go, &choice);
    choice.loaded = true;
    if (job && group_in_flight(group) && strcmp(group->model, job->model) != 0)
        job = elsewhere(server, group, job->model) ? jobs_next(server->jobs, may_go, &choice) : NULL;
    return job && server_has_room(server, group, job) ? job : NULL;
}

static bool wished(const struct plan_wish *wish)
{
    return wish->width > 1 || wish->has_fold || wish->runs > 0 || wish->home != PLAN_HOME_AUTO ||
           wish->layout > PLAN_LAYOUT_PIPELINE;
}

/* What ranks measured since it was made shows that another layout would be this much better, or the jobs that wait are
 * worth another kind (layout.h). */
static bool much_better(const struct server *server, const struct group *group,
                        const struct plan_request *request, const struct plan *plan)
{
    bool settled = server->now_ns - group->laid_ns > server->settings->settle_ms * MILLISECOND_NS;
    if (!settled || plan_equal(plan, &group->plan)) return false;
    return plan_chains(plan) != plan_chains(&group->plan) || plan_width(plan) != plan_width(&group->plan) ||
           plan->cycle < WORTH_A_LOAD * plan_cycle(&group->plan, request);
}

/* What a layout has to serve: this job and those behind it. */
static struct layout_load describe_load(const struct server *server, const struct group *group,
                                        const Refrain__ModelCard *card, const struct job *job, bool loaded)
{
    size_t jobs = jobs_count(server->jobs);
    double left = (double)(job->deadline_at_ms - server->now_ms) / 1000;
    struct layout_load load = {.jobs = jobs < GROUP_SLOTS ? (double)jobs : GROUP_SLOTS,
                               .steps = job->outlook.steps,
                               .block_seconds = foresight_block(group, &job->outlook),
                               .move_seconds = loaded ? group->load_seconds : 0,
                               .least_seconds = (double)server->settings->settle_ms / 2000,
                               .deadline = job->deadline_at_ms && left > 0 ? left : 0};
    wiring_describe(group, card, &job->outlook, &load);
    return load;
}

/* The plan was chosen for the jobs that were moved, all of them together: they are not asked one by one whether it suits them.
 * That is over when somebody else comes to an empty group. */
static bool keep_planned(struct group *group, const struct job *job, const struct plan_request *request)
{
    bool here = !group->model[0] || strcmp(group->model, job->model) == 0;
    bool stands = group->plan.ranks == group->ranks && group->plan.layers == request->layers;
    if (group->planned && (!stands || (job->attempt == 0 && group_in_flight(group) == 0)))
        group->planned = false;
    return group->planned && here && job->attempt > 0;
}

/* The layout for this job: the one that is there, unless it is of another model, unknown (ranks that outlived
 * another coordinator), would make the job slower than without its caching, or proved to be a bad one. *fits: the
 * job can be taken now; otherwise the group takes nothing until it is empty, and is then laid out anew. */
static status_t prepare_layout(struct server *server, struct group *group, const struct model *model,
                               const Refrain__JobSpec *spec, const struct job *job, bool *fits,
                               struct error *error)
{
    struct plan_seat seats[PLAN_MAX_RANKS];
    struct plan plan;
    struct plan_request request = server_describe_layout(server, group, model->card, spec, seats);
    bool loaded = strcmp(group->model, model->card->name) == 0, known = group->plan.ranks == group->ranks;
    request.mix = job->outlook.mix;
    /* What an operator wished for is judged by the model alone: it must not be refused for a measurement. */
    if (loaded && !wished(request.wish)) request.mix.home_work = group->home_work;
    struct layout_load load = describe_load(server, group, model->card, job, loaded);
    bool takes = request.wish->width > 1 || layout_takes(&group->plan, &load);
    bool stands = keep_planned(group, job, &request);
    if ((*fits = stands && takes)) return STATUS_OK;
    if (foresight_measured(group) && known)
        load.block_seconds = layout_block_seconds(&group->plan, &request, &load);
    status_t status = layout_choose(&request, &load, loaded && known ? &group->plan : NULL, &plan, error);
    if (status == STATUS_NO_MEMORY) name_sizes(group, model->card, spec, error);
    if (status != STATUS_OK) return status;
    bool busy = group_in_flight(group) > 0;
    /* While it works, whether another layout pays is move.c's question, for all its jobs and not this one. */
    bool good = known && takes && plan_check(&group->plan, &request, &request.mix, NULL) == STATUS_OK &&
                (busy || !much_better(server, group, &request, &plan));
    *fits = loaded && (good || (busy && !known));
    if (*fits || busy) return STATUS_OK;
    if (!plan_equal(&plan, &group->plan)) group->model[0] = '\0'; /* to be loaded */
    if (!loaded) group->home_work = 0;
    group->plan = plan;
    group->laid_ns = server->now_ns;
    *fits = true;
    return STATUS_OK;
}

status_t server_check_without(const struct server *server, const struct group *group, const bool *leaves,
                              struct error *error)
{
    struct plan_seat seats[PLAN_MAX_RANKS];
    struct plan plan;
    const struct model *model;
    uint32_t left = 0;
    for (uint32_t rank = 0; rank < group->ranks; rank++) left += !leaves[rank];
    status_t status = plan_wish_takes(&server->settings->wish, left, true, error);
    if (status != STATUS_OK) return status;
    if (!group->model[0] || models_find(server->models, group->model, &model, NULL) != STATUS_OK)
        return STATUS_OK;
    struct plan_request request = server_describe_layout(server, group, model->card, NULL, seats);
    for (uint32_t rank = 0, kept = 0; rank < group->ranks; rank++)
        if (!leaves[rank]) seats[kept++] = seats[rank];
    request.ranks = left;
    request.mix.branches = 2;
    status = plan_make(&request, &plan, error);
    if (status != STATUS_OK) error_prefix(error, "with %u rank%s", left, left == 1 ? "" : "s");
    return status;
}

status_t server_check_room(struct server *server, const Refrain__ModelCard *card,
                           const Refrain__JobSpec *spec, struct error *error)
{
    status_t status = STATUS_OK;
    const struct group *group;
    for (size_t i = 0; (group = groups_at(server->groups, i)); i++) {
        struct plan_seat seats[PLAN_MAX_RANKS];
        struct plan plan;
        if (group->here != group->ranks) continue;
        struct plan_request request = server_describe_layout(server, group, card, spec, seats);
        hitrates_of(&server->rates, spec, card, &request.mix, NULL);
        status = plan_make(&request, &plan, error);
        if (status != STATUS_NO_MEMORY) return STATUS_OK; /* what else is wrong shows when it is its turn */
        name_sizes(group, card, spec, error);
    }
    return status;
}

/* Of a job on the group as it is laid out. */
static void needs_here(const struct group *group, const Refrain__ModelCard *card,
                       const Refrain__JobSpec *spec, struct needs *needs)
{
    const struct needs_rank home = needs_rank_of(&group->members[0]);
    uint64_t elements = (uint64_t)caching_tokens(spec, card) * card->heads * card->head_dim;
    needs_of(card, spec, &home, needs);
    needs_widen(needs, elements, plan_width(&group->plan));
}

/* One more from job to job. It begins with the clock: what is taken after a restart is younger than what was taken before it. */
static uint64_t next_age(struct server *server)
{
    if (server->newest_age == 0) server->newest_age = AGES_A_MS * (uint64_t)server->now_ms - 1;
    return ++server->newest_age;
}

/* The layout that was wished for is of more ranks or fewer: some left, or have not come yet. That is no fault of a job's. */
static bool lacks_ranks(const struct server *server, const struct group *group)
{
    return plan_wish_takes(&server->settings->wish, group->ranks, false, NULL) != STATUS_OK;
}

/* Takes the next job of the queue onto the group; false when there is none, or none can be started. */
static bool take_next(struct server *server, struct group *group)
{
    char text[ERROR_TEXT_BYTES];
    struct error error;
    const struct model *model;
    Refrain__Job *stored = NULL;
    struct job *job = server->stopping || group->move.resting ? NULL : choose_job(server, group);
    struct slot *slot = group_slot(group, 0);
    if (!job || !slot) return false;
    status_t status = models_find(server->models, job->model, &model, &error);
    if (status == STATUS_OK) status = jobstore_get(server->store, NULL, job->id, &stored, &error);
    bool fits = false, waits = false;
    if (status == STATUS_OK) foresight_note(server, job, stored->spec, model->card);
    if (status == STATUS_OK && server_maker(server, group, job)) { /* of before a restart: now its run is known */
        refrain__job__free_unpacked(stored, NULL);
        return true;
    }
    if (status == STATUS_OK) {
        status = prepare_layout(server, group, model, stored->spec, job, &fits, &error);
        waits = status != STATUS_OK && lacks_ranks(server, group);
    }
    struct needs needs = {0};
    if (status == STATUS_OK) needs_here(group, model->card, stored->spec, &needs);
    if (stored) refrain__job__free_unpacked(stored, NULL);
    if (waits) {
        group->held = (struct held){.job = job->id, .by = HELD_BY_RANKS};
        return false;
    }
    if (status != STATUS_OK) {
        fail_job(server, NULL, job, error.text);
        return true; /* the next one may be fine */
    }
    group->held = (struct held){.job = job->id, .by = HELD_BY_LAYOUT};
    if (!fits || !fits_memory(server, group, &needs, &group->held)) return false;
    group->held.job = 0;
    plan_describe(&group->plan, group->members[0].backend, text, sizeof text);
    if (jobs_start(server->jobs, job, text, server->now_ms, &error) != STATUS_OK) {
        log_failed("start", &error);
        return false;
    }
    if (!job->age) job->age = next_age(server);
    *slot =
        (struct slot){.job = job->id, .attempt = job->attempt, .home = choose_home(group), .needs = needs};
    return true;
}

/* Runs until nothing more can be done now, so that a group never waits for the next turn. */
static void serve(struct server *server, struct group *group)
{
    do {
        for (int i = 0; i < GROUP_SLOTS && group->state == GROUP_READY; i++)
            if (group->slots[i].job) advance_slot(server, group, &group->slots[i]);
    } while (group->state == GROUP_READY && take_next(server, group));
}

/* ----------------------------------------------------------------------------------------------- the turn */

/* Links are measured while nobody waits for anything. */
static void measure_links(struct server *server, struct group *group)
{
    struct error error;
    uint32_t seat[PLAN_MAX_RANKS], peer;
    bool ready = group->state == GROUP_READY;
    if (ready && group->links.epoch != group->epoch) {
        for (uint32_t rank = 0; rank < group->ranks; rank++) seat[rank] = group->members[rank].seat;
        if (links_begin(&group->links, group->seats, seat, group->ranks, group->epoch, server->now_ns,
                        &error) != STATUS_OK)
            log_failed("links", &error);
    }
    if (!links_turn(&group->links, ready && group_in_flight(group) == 0, server->now_ns)) return;
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if (links_asks(&group->links, rank, &peer)) order_probe(server->outbox, group, rank, peer);
}

static void drive(struct server *server, struct group *group)
{
    if (group->disturbed) repair_give_back(server, group, group->failure);
    move_turn(server, group);
    switch (group->state) {
    case GROUP_GATHERING:
        repair_seats(server, group);
        break;
    case GROUP_COMPLETE:
        if (!group->launch && server->settings->launch == group->seats)
            group->launch = launch_number(server->launch);
        begin_epoch(server, group);
        break;
    case GROUP_READY:
        repair_settled(server, group);
        serve(server, group);
        measure_links(server, group);
        break;
    case GROUP_LOST:
        repair_end_group(server, group);
        break; /* frees it */
    default:
        measure_links(server, group);
        break;
    }
}

/* Jobs the store calls running that no group works on: after a restart their ranks get time to come back,
 * then they are queued again. That is no fault of theirs and does not count as an attempt lost. */
static void requeue_orphans(struct server *server)
{
    struct error error;
    if (server->orphans_until_ns == CLOCK_NEVER) return;
    /* Nobody is left who could come back. */
    bool hopeless = server->settings->launch > 0 && !launch_inherited(server->launch);
    if (server->now_ns < server->orphans_until_ns && !hopeless) return;
    server->orphans_until_ns = CLOCK_NEVER;
    for (size_t i = 0; jobs_at(server->jobs, i); i++) {
        struct job *job = jobs_at(server->jobs, i);
        if (job->state != REFRAIN__JOB_STATE__JOB_RUNNING && job->state != REFRAIN__JOB_STATE__JOB_CANCELLING)
            continue;
        if (groups_slot(server->groups, job->id, NULL)) continue;
        bool ends = job->state == REFRAIN__JOB_STATE__JOB_CANCELLING;
        log_line(LOG_INFO, "job %" PRIu64 ": %s", job->id,
                 ends ? "cancelled" : "back in the queue after a restart");
        if (jobs_requeue(server->jobs, job, LOSS_NONE, "the coordinator was restarted", server->now_ms,
                         &error) != STATUS_OK)
            log_failed("requeue", &error);
        else if (ends)
            i--; /* it left the list */
    }
}

/* Our ranks were started, or are said to live on from earlier, and nobody came. */
static void check_launch(struct server *server)
{
    const struct settings *settings = server->settings;
    int64_t limit_ms = launch_inherited(server->launch) ? settings->reconnect_ms : settings->gather_ms;
    if (groups_at(server->groups, 0) || launchers_at(server->launchers, 0)) return;
    if (!launch_overdue(server->launch, server->now_ns, limit_ms * MILLISECOND_NS)) return;
    log_line(LOG_WARN, "no rank came within %.1f s of its start", (double)limit_ms / 1000);
    launch_stop(server->launch, server->now_ns, 0);
}

/* Nothing new is begun for a second after a failed commit: each try would fail, and cost a fsync. */
void server_schedule(struct server *server)
{
    struct error error;
    if (server->now_ns < server->store_retry_ns) return;
    if (jobs_expire(server->jobs, server->now_ms, &error) != STATUS_OK) log_failed("deadlines", &error);
    repair_launchers(server);
    groups_drop_dead(server->groups, server->now_ns);
    for (size_t i = 0; groups_at(server->groups, i);) {
        struct group *group = groups_at(server->groups, i);
        repair_look(server, group);
        group_check(server->groups, group, server->now_ns);
        bool leaves = group->state == GROUP_LOST;
        drive(server, group);
        i += !leaves;
    }
    requeue_orphans(server);
    check_launch(server);
}

/* For the coordinator's own end: jobs go back to the queue without counting it as a loss. */
void server_release_ranks(struct server *server, const char *reason)
{
    for (size_t i = 0; groups_at(server->groups, i); i++) {
        struct group *group = groups_at(server->groups, i);
        for (int k = 0; k < GROUP_SLOTS; k++)
            if (group->slots[k].job) server_give_back(server, &group->slots[k], LOSS_NONE, reason);
        order_shutdown_group(server->outbox, group, reason);
    }
    const struct launcher *launcher;
    for (size_t i = 0; (launcher = launchers_at(server->launchers, i)); i++)
        order_shutdown(server->outbox, &launcher->peer, reason);
    server->orphans_until_ns = server->now_ns;
    requeue_orphans(server);
}

/* The store is the truth; what memory believed beyond it is given up. */
void server_recover(struct server *server)
{
    struct error error;
    server->store_retry_ns = server->now_ns + SECOND_NS;
    server->orphans_until_ns = server->store_retry_ns;
    server->deleted_count = 0;
    /* Orders of this turn were dropped and nobody knows which jobs they were about: a new epoch ends all
     * doubt. */
    for (size_t i = 0; groups_at(server->groups, i); i++) {
        struct group *group = groups_at(server->groups, i);
        if (group->state < GROUP_JOINING || group->state > GROUP_LOADING) continue;
        if (group->state == GROUP_READY && !group_in_flight(group)) continue;
        for (int k = 0; k < GROUP_SLOTS; k++)
            if (group->slots[k].job) results_drop(server->results, group->slots[k].job);
        memset(group->slots, 0, sizeof group->slots);
        group->move = (struct move){0};
        group_enter(group, GROUP_COMPLETE, server->now_ns);
    }
    if (jobs_reload(server->jobs, &error) != STATUS_OK ||
        models_reload(server->models, &error) != STATUS_OK || drain_load(server, &error) != STATUS_OK)
        log_failed("reading the job store again", &error);
}
