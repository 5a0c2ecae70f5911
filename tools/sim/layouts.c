/* layouts.c - see layouts.h. One thread. */
#include "tools/sim/layouts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tools/sim/hand.h"

#define BLOCK_NS (10 * MILLISECOND_NS)

struct split layout_split(const struct plan *plan)
{
    struct split split = {.members = (int)plan->ranks,
                          .head = (int)plan->head,
                          .tail = (int)plan->tail,
                          .spare = (int)plan->spare,
                          .floating = plan->floating,
                          .width = (int)plan_width(plan)};
    for (int e = 0; e < SPLIT_EXPERTS; e++)
        for (int b = 0; b < SPLIT_BRANCHES; b++) split.chain[e][b] = (int)plan->chain[e][b];
    for (uint32_t i = 0; i < plan_chains(plan) * plan->ranks; i++) split.run[i] = (int)plan->run[i];
    return split;
}

static status_t lay_out(const struct layout_case *w, struct plan *plan, struct error *error)
{
    struct plan_wish wish = {.layout = w->layout, .pool = (uint32_t)w->pool, .home = w->home};
    struct plan_request request = {
        .layers = (uint32_t)w->layers,
        .ranks = (uint32_t)w->ranks,
        .wish = &wish,
        .mix = {
            .branches = 2, .experts = (uint32_t)w->experts, .first_share = w->first_share, .hop = w->hop}};
    return plan_make(&request, plan, error);
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Nanoseconds for a step of one job, where so many are in flight all the time: from when as many have ended as began at
 * once, until no other waits. */
static status_t pace(const struct hand_job *jobs, int count, int in_flight, double *ns, struct error *error)
{
    int64_t ends[LAYOUT_MOST_JOBS];
    int steps = 0;
    for (int i = 0; i < count; i++) ends[i] = jobs[i].step_ns[jobs[i].steps - 1];
    qsort(ends, (size_t)count, sizeof *ends, by_time);
    if (count < 2 * in_flight + 1)
        return error_set(error, STATUS_INVALID, "%d jobs are too few for %d at once", count, in_flight);
    int64_t from = ends[in_flight - 1], to = ends[count - in_flight - 1];
    for (int i = 0; i < count; i++)
        for (int k = 0; k < jobs[i].steps; k++)
            steps += jobs[i].step_ns[k] > from && jobs[i].step_ns[k] <= to;
    *ns = (double)(to - from) / steps;
    return STATUS_OK;
}

status_t case_layout(struct lab *lab, const struct layout_case *w, struct layout_found *found,
                     struct error *error)
{
    char model[PATH_MAX];
    struct plan plan;
    struct hand_result result;
    struct hand_config config = {.model = model,
                                 .directory = lab->directory,
                                 .costs = {.block_ns = BLOCK_NS},
                                 .network = {.latency_ns = llrint(w->hop * (double)BLOCK_NS)},
                                 .end = HAND_STEPS,
                                 .in_flight = w->in_flight};
    if (w->jobs < 1 || w->jobs > LAYOUT_MOST_JOBS || w->steps < 2 || w->steps > HAND_MAX_STEPS)
        return error_set(error, STATUS_INVALID, "%d jobs of %d steps: must be 1 to %d, and 2 to %d", w->jobs,
                         w->steps, LAYOUT_MOST_JOBS, HAND_MAX_STEPS);
    struct hand_job *jobs = calloc((size_t)w->jobs, sizeof *jobs);
    status_t status =
        jobs ? lay_out(w, &plan, error) : error_set(error, STATUS_NO_MEMORY, "no memory for jobs");
    if (status == STATUS_OK) status = lab_model(lab, w->layers, model, error);
    if (status != STATUS_OK) goto out;
    config.split = layout_split(&plan);
    plan_describe(&plan, "", found->text, sizeof found->text);
    for (int i = 0; i < w->jobs; i++)
        jobs[i] = (struct hand_job){.steps = w->steps,
                                    .width = 32,
                                    .height = 32,
                                    .frames = 1,
                                    .seed = (uint64_t)i + 1,
                                    .guidance = 5,
                                    .shift = w->shift};
    status = hand_run(&config, jobs, w->jobs, &result, error);
    for (int i = 0; i < w->jobs && status == STATUS_OK; i++)
        if (jobs[i].failure[0])
            status = error_set(error, STATUS_INTERNAL, "job %d: %s", i + 1, jobs[i].failure);
    if (status != STATUS_OK) goto out;
    double ns = (double)(jobs[0].step_ns[w->steps - 1] - jobs[0].step_ns[0]) / (w->steps - 1);
    if (w->jobs > 1) status = pace(jobs, w->jobs, w->in_flight, &ns, error);
    found->predicted = w->jobs > 1 ? plan.cycle : plan.alone;
    found->simulated = ns / (double)BLOCK_NS;
out:
    free(jobs);
    return status;
}

/* ---------------------------------------------------------------------------------------- the planner's layouts */

/* Pieces of a block by its operations: a product for each of v, q and k, then attention; norms are small. */
static void to_pieces(const struct planner_request *r, double piece[COST_PIECES])
{
    double s = r->job.tokens, h = (double)r->model.heads * r->model.head_dim,
           all = planner_block_flops(&r->model, r->job.tokens);
    for (int i = COST_GIVE_V; i <= COST_GIVE_K; i++) piece[i] = 2 * s * h * h / all;
    piece[COST_HEADS] = 4 * s * s * h / all;
}

/* Thousands of rows, beside which tickets and a hop's six rows of modulation are nothing. */
static double weigh_rows(const struct ticket *t)
{
    if (t->kind == TICKET_PART) return (double)t->bytes;
    if (t->kind != TICKET_HOP) return 0;
    return (double)t->bytes * t->row_count / (t->row_count + (t->flags & TICKET_DONE ? 0 : 6));
}

static struct network_config to_network(const struct planner_machine *m)
{
    return (struct network_config){.per_node = (int)m->per_node,
                                   .latency_ns = llrint(m->latency * (double)SECOND_NS),
                                   .node_latency_ns = llrint(m->latency * (double)SECOND_NS),
                                   .bytes_per_second = m->inside,
                                   .node_bytes_per_second = m->between,
                                   .weigh = weigh_rows};
}

status_t case_planned(struct lab *lab, const struct planner_request *r, const struct planner_layout *layout,
                      struct planned_found *found, struct error *error)
{
    char model[PATH_MAX];
    struct plan plan;
    struct planner_option option;
    struct hand_result result;
    struct hand_config config = {.model = model,
                                 .directory = lab->directory,
                                 .costs = {.block_ns = llrint(r->machine.block_seconds * (double)SECOND_NS),
                                           .rows = (int)r->job.tokens},
                                 .network = to_network(&r->machine),
                                 .end = HAND_STEPS};
    int count = (int)((r->load.jobs + layout->replicas - 1) / layout->replicas),
        steps = (int)(r->job.steps[0] + r->job.steps[1]);
    planner_predict(r, layout, &option, &plan);
    if (!option.possible || count < 1 || count > LAYOUT_MOST_JOBS)
        return error_set(error, STATUS_INVALID, "%d jobs on a layout that is not possible", count);
    struct hand_job *jobs = calloc((size_t)count, sizeof *jobs);
    if (!jobs) return error_set(error, STATUS_NO_MEMORY, "no memory for jobs");
    config.split = layout_split(&plan);
    config.in_flight = (int)option.in_flight;
    to_pieces(r, config.costs.piece);
    plan_describe(&plan, "", found->text, sizeof found->text);
    for (int i = 0; i < count; i++)
        jobs[i] = (struct hand_job){.steps = steps,
                                    .width = (int)r->job.width,
                                    .height = (int)r->job.height,
                                    .frames = (int)r->job.frames,
                                    .seed = (uint64_t)i + 1,
                                    .guidance = r->job.branches > 1 ? 5 : 1,
                                    .shift = r->model.schedule.shift};
    status_t status = lab_model(lab, (int)r->model.layers, model, error);
    if (status == STATUS_OK) status = hand_run(&config, jobs, count, &result, error);
    for (int i = 0; i < count && status == STATUS_OK; i++)
        if (jobs[i].failure[0])
            status = error_set(error, STATUS_INTERNAL, "job %d: %s", i + 1, jobs[i].failure);
    if (status == STATUS_OK) {
        found->predicted = option.all_seconds;
        found->simulated = (double)(result.ended_ns - result.began_ns) / (double)SECOND_NS;
    }
    free(jobs);
    return status;
}
