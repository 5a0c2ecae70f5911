/* verb_plan.c - `refrain plan`: which layout to take. Asks no coordinator. */
#include "client/cli.h"
#include "client/jobjson.h"
#include "client/planmodel.h"
#include "client/planneeds.h"

#include <stdio.h>
#include <string.h>

enum { SHOWN = 8, NAME_COLUMNS = 40, BRANCHES = 2, STEPS = 50 };

#define LATENCY 20e-6 /* of a message between ranks, seconds */

static status_t read_caps(const char *text, struct planner_load *load, struct error *error)
{
    const char *at = planmodel_number(text, &load->head);
    if (at) at = *at == ',' ? planmodel_number(at + 1, &load->tail) : NULL;
    if (at && *at == '\0') return STATUS_OK;
    return error_set(error, STATUS_INVALID, "caps '%.40s': must be F,B in blocks, such as 1,0", text);
}

/* ------------------------------------------------------------------------------------------------ the request */

/* Another solver than the model's own has its class's schedule (worker/model/solver.c). */
static void take_schedule(const struct cli *cli, struct schedule *schedule)
{
    const struct settings *s = &cli->settings;
    const enum schedule_kind kinds[] = {SCHEDULE_UNIPC, SCHEDULE_EULER};
    if (options_given(cli->options, "solver") && kinds[s->solver] != schedule->kind)
        *schedule = (struct schedule){
            .kind = kinds[s->solver], .shift = schedule->shift, .train_steps = schedule->train_steps};
    if (options_given(cli->options, "shift")) schedule->shift = s->shift;
}

static status_t read_request(struct cli *cli, struct planner_request *r, struct error *error)
{
    const struct settings *s = &cli->settings;
    struct planmodel_clip clip;
    if (!s->model)
        return error_set(error, STATUS_INVALID,
                         "model: must be given, as a directory or a name such as wan2.1-t2v-14b");
    status_t status = planmodel_find(s->model, &r->model, &clip, error);
    if (status == STATUS_OK) status = settings_clip(s, cli->options, &clip, &cli->field, error);
    if (status == STATUS_OK && options_given(cli->options, "shift") && !(s->shift > 0))
        status = error_set(error, STATUS_INVALID, "shift %g: must be above 0", s->shift);
    if (status == STATUS_OK)
        status = planner_size(&r->model, clip.width, clip.height, clip.frames, &r->job, error);
    if (status != STATUS_OK) return status;
    take_schedule(cli, &r->model.schedule);
    bool guided = !options_given(cli->options, "guidance") || s->guidance > 1;
    planner_steps(&r->model, s->steps ? (uint32_t)s->steps : STEPS, guided ? BRANCHES : 1, &r->job);
    r->machine = (struct planner_machine){.ranks = (uint32_t)s->ranks,
                                          .per_node = (uint32_t)(s->per_node ? s->per_node : s->ranks),
                                          .memory_bytes = (uint64_t)(s->memory * 1e9),
                                          .flops = s->tflops * 1e12,
                                          .inside = s->link_inside * 1e9,
                                          .between = s->link * 1e9,
                                          .latency = LATENCY,
                                          .operand_bytes = 2,
                                          .state_bytes = 4};
    r->load = (struct planner_load){
        .jobs = (uint32_t)s->jobs, .hit_rate = s->hit_rate, .deadline = (double)s->deadline_ms / 1000};
    r->most_replicas = (uint32_t)s->replicas;
    if (s->caps) status = read_caps(s->caps, &r->load, error);
    if (status == STATUS_OK && s->measured)
        status = planmodel_times(s->measured, &r->model, &r->job, &r->machine, error);
    /* What was said counts before what was measured. */
    if (options_given(cli->options, "link")) r->machine.between = s->link * 1e9;
    if (options_given(cli->options, "link-inside")) r->machine.inside = s->link_inside * 1e9;
    return status;
}

/* -------------------------------------------------------------------------------------------------- the table */

static void print_request(const struct planner_request *r)
{
    printf("%s, %ux%ux%u: %u tokens, %u", r->model.name, r->job.width, r->job.height, r->job.frames,
           r->job.tokens, r->job.steps[0]);
    if (r->job.steps[1] > 0) printf(" + %u", r->job.steps[1]);
    printf(" steps, %u branch%s", r->job.branches, r->job.branches > 1 ? "es" : "");
    if (r->load.hit_rate > 0)
        printf(", %.0f %% of steps skipped but for %u + %u blocks", 100 * r->load.hit_rate, r->load.head,
               r->load.tail);
    printf("; %u job%s\n", r->load.jobs, r->load.jobs == 1 ? "" : "s");
    printf("%u rank%s, %u a node, ", r->machine.ranks, r->machine.ranks == 1 ? "" : "s", r->machine.per_node);
    if (r->machine.memory_bytes) printf("%g GB each, ", (double)r->machine.memory_bytes / 1e9);
    printf("%g GB/s out of a node, %g GB/s inside\n\n", r->machine.between / 1e9, r->machine.inside / 1e9);
}

static void print_inputs(const struct planner_request *r)
{
    double flops = planner_block_flops(&r->model, r->job.tokens);
    double block = r->machine.block_seconds > 0 ? r->machine.block_seconds : flops / r->machine.flops;
    printf("\na block         %.4g TFLOP, %.4g ms on one rank (%s)\n", flops / 1e12, 1000 * block,
           r->machine.block_seconds > 0 ? "measured" : "at the stated rate");
    printf("a forward pass  %.4g s on one rank, one branch\n", block * r->model.layers);
    if (r->machine.block_seconds > 0)
        printf("text, decoding  %.4g s a job (measured)\n", r->machine.home_seconds);
    else
        printf("text, decoding  not counted: nothing is measured (--measured)\n");
    printf("weights         %.3g GB a block and expert, %u expert%s; %.3g GB at a home\n",
           (double)(r->needs ? r->needs->block : planner_block_bytes(&r->model)) / 1e9, r->model.experts,
           r->model.experts > 1 ? "s" : "", (double)(r->needs ? r->needs->home : r->model.home_bytes) / 1e9);
    printf("memory          %s\n",
           r->needs ? "as this model was measured on paper" : "by formulas: within a tenth");
    printf("a hidden state  %.3g GB\n",
           (double)r->job.tokens * r->model.heads * r->model.head_dim * r->machine.state_bytes / 1e9);
}

static void print_option(const struct cli *cli, const struct planner_option *o, bool chosen)
{
    char name[PLANNER_NAME_BYTES], job[SHOW_BYTES], beside[SHOW_BYTES], all[SHOW_BYTES], rate[SHOW_BYTES];
    planner_describe(&o->layout, name);
    show_duration(&cli->style, o->job_seconds, job);
    show_duration(&cli->style, o->loaded_seconds, beside);
    show_duration(&cli->style, o->all_seconds, all);
    snprintf(rate, sizeof rate, o->jobs_per_hour < 100 ? "%.1f" : "%.0f", o->jobs_per_hour);
    printf("%s %-*s %9s %9s %9s %7s %7.1f %8.2f %8.2f  %s%s\n",
           chosen ? show_colour(&cli->style, SHOW_BOLD) : "", NAME_COLUMNS, name, job, beside, all, rate,
           (double)o->memory_bytes / 1e9, (o->hop_bytes + o->exchange_bytes) / 1e9, o->node_bytes / 1e9,
           o->why, chosen ? show_colour(&cli->style, SHOW_PLAIN) : "");
}

static void print_table(const struct cli *cli, const struct planner_request *r,
                        const struct planner_answer *a)
{
    size_t shown = cli->settings.explain || a->count < SHOWN ? a->count : SHOWN;
    print_request(r);
    printf("%s %-*s %9s %9s %9s %7s %7s %8s %8s%s\n", show_colour(&cli->style, SHOW_DIM), NAME_COLUMNS,
           "LAYOUT", "ALONE", "BESIDE", "ALL JOBS", "JOBS/H", "GB", "GB/STEP", "OFF NODE",
           show_colour(&cli->style, SHOW_PLAIN));
    for (size_t i = 0; i < shown; i++) print_option(cli, &a->option[i], i == 0);
    if (shown < a->count) printf(" and %zu others, of %zu: --explain\n", a->count - shown, a->count);
    if (cli->settings.explain) print_inputs(r);
}

static json_t *option_json(const struct planner_option *o, bool chosen)
{
    char name[PLANNER_NAME_BYTES];
    planner_describe(&o->layout, name);
    json_t *object = json_pack("{s:s,s:b,s:i,s:i,s:i,s:i,s:b,s:i,s:b}", "layout", name, "chosen", chosen,
                               "replicas", (int)o->layout.replicas, "branches", (int)o->layout.ways, "stages",
                               (int)o->layout.stages[0], "width", (int)o->layout.width, "floating",
                               o->layout.floating, "ranks", (int)o->ranks, "fits", o->fits);
    if (o->layout.stages[1] > 0)
        json_object_set_new(object, "stages_second", json_integer(o->layout.stages[1]));
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"job_seconds", o->job_seconds},         {"loaded_seconds", o->loaded_seconds},
                   {"all_seconds", o->all_seconds},         {"step_seconds", o->step_seconds},
                   {"jobs_per_hour", o->jobs_per_hour},     {"memory_bytes", (double)o->memory_bytes},
                   {"stage_bytes", (double)o->stage_bytes}, {"hop_bytes", o->hop_bytes},
                   {"exchange_bytes", o->exchange_bytes},   {"node_bytes", o->node_bytes}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set_new(object, numbers[i].key, json_real(numbers[i].value));
    json_object_set_new(object, "in_flight", json_integer(o->in_flight));
    json_object_set_new(object, "jobs_to_saturate", json_integer(o->saturate));
    json_object_set_new(object, "why", json_string(o->why));
    return object;
}

int verb_plan(struct cli *cli)
{
    struct error error;
    struct planner_request request = {0};
    struct planner_answer answer;
    struct needs needs;
    status_t status = cli_operands(cli, 0, 0, "", &error);
    if (status == STATUS_OK) status = read_request(cli, &request, &error);
    if (status == STATUS_OK && !planner_preset(cli->settings.model) &&
        planneeds_find(cli->settings.model, &request.job, &request.machine, &needs, NULL) == STATUS_OK)
        request.needs = &needs;
    if (status == STATUS_OK) status = planner_choose(&request, &answer, &error);
    if (status != STATUS_OK) {
        cli->field = settings_blamed(error.text);
        return cli_fail(cli, status, &error);
    }
    if (cli->settings.json)
        for (size_t i = 0; i < answer.count; i++) jobjson_print(option_json(&answer.option[i], i == 0));
    else
        print_table(cli, &request, &answer);
    planner_free(&answer);
    return EXIT_CODE_OK;
}
