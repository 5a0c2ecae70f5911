/* layout.c - see layout.h. Pure functions. */
#include "coordinator/planner/layout.h"

#include <math.h>
#include "coordinator/planner/needs.h"

/* Within so much of the best a simpler layout is as good. */
#define AS_GOOD 1.01

/* LEAST_ROWS: of a rank of a wide stage, worth an exchange. STEPS: that are predicted, for those that are left of any job.
 * HALVINGS: of a time, until it is known to a billionth. */
enum { LEAST_ROWS = 16, STEPS = 1000, HALVINGS = 30 };

/* What the planner is asked, of the ranks that there are. Links that are not known cost nothing: then no layout is wide. */
static struct planner_request describe(const struct plan_request *request, const struct layout_load *load)
{
    const struct plan_mix *mix = &request->mix;
    uint32_t first = mix->experts > 1 ? (uint32_t)lrint(mix->first_share * STEPS) : STEPS;
    struct planner_request asked = {.model = {.layers = request->layers,
                                              .heads = request->heads,
                                              .head_dim = load->head_dim,
                                              .ffn = load->ffn,
                                              .text_tokens = load->text_tokens,
                                              .experts = mix->experts > 1 ? PLAN_EXPERTS : 1},
                                    .job = {.tokens = load->tokens ? load->tokens : 1,
                                            .steps = {first, STEPS - first},
                                            .branches = mix->branches > 1 ? PLAN_BRANCHES : 1},
                                    .machine = {.ranks = request->ranks,
                                                .per_node = request->ranks,
                                                .block_seconds = load->block_seconds,
                                                .inside = INFINITY,
                                                .between = INFINITY,
                                                .operand_bytes = load->operand_bytes,
                                                .state_bytes = sizeof(float)},
                                    .load = {.jobs = load->jobs > 1 ? (uint32_t)ceil(load->jobs) : 1,
                                             .unequal_jobs = load->jobs,
                                             .hit_rate = mix->hit_rate,
                                             .head = mix->head,
                                             .tail = mix->tail},
                                    .real = request};
    planner_take_links(&load->links, &asked.machine);
    return asked;
}

double layout_seconds(const struct plan *plan, const struct plan_request *request,
                      const struct layout_load *load)
{
    struct planner_request asked = describe(request, load);
    struct planner_option option;
    if (load->block_seconds <= 0) return 0;
    planner_rate(&asked, plan, &option);
    return option.possible ? option.all_seconds / STEPS * load->steps : 0;
}

double layout_block_seconds(const struct plan *plan, const struct plan_request *request,
                            const struct layout_load *load)
{
    struct planner_request asked = describe(request, load);
    uint32_t width = plan_width(plan);
    double least = load->block_seconds / 2, most = load->block_seconds;
    if (plan->ranks == 0 || width == 1) return most;
    /* A rank has 1 / width of the rows: per row it waited for all of the exchange, which is less the longer it computed. Both
     * together grow with what it computed, so that is found by halving. */
    for (int i = 0; i < HALVINGS; i++) {
        asked.machine.block_seconds = (least + most) / 2;
        double waited = width * planner_exchange(&asked, width, plan->ranks);
        *(asked.machine.block_seconds + waited < load->block_seconds ? &least : &most) =
            asked.machine.block_seconds;
    }
    return most;
}

static uint32_t fewest_tokens(const struct layout_load *load)
{
    return load->fewest_tokens > 0 && load->fewest_tokens < load->tokens ? load->fewest_tokens : load->tokens;
}

bool layout_takes(const struct plan *plan, const struct layout_load *load)
{
    uint32_t width = plan_width(plan);
    return width == 1 || fewest_tokens(load) >= width;
}

/* One job, with so many others at once as there are. */
static bool is_late(double seconds, const struct layout_load *load)
{
    return load->deadline > 0 && seconds > load->deadline;
}

bool layout_pays(double now, double then, const struct layout_load *load)
{
    if (now <= 0) return then > 0; /* nothing is known of it */
    if (is_late(now, load) && !is_late(then + load->move_seconds, load)) return true;
    return planner_worth_moving(now, then, fmax(load->move_seconds, load->least_seconds));
}

/* The exchange is paid for by its bytes and by waiting: only what is known can be compared. */
static bool may_be_wide(const struct plan_request *request, const struct layout_load *load, uint32_t width)
{
    bool known = load->links.inside > 0 || load->links.between > 0;
    return known && request->heads > 0 && request->heads % width == 0 && request->ranks % width == 0 &&
           load->head_dim > 0 && load->operand_bytes > 0 && fewest_tokens(load) >= LEAST_ROWS * width;
}

static bool makes_sense(enum plan_layout layout, const struct plan_mix *mix)
{
    bool branches = mix->branches > 1, experts = mix->experts > 1;
    switch (layout) {
    case PLAN_LAYOUT_CFG:
        return branches;
    case PLAN_LAYOUT_POOLS:
        return experts;
    case PLAN_LAYOUT_CFG_POOLS:
        return branches && experts;
    default:
        return true;
    }
}

/* What width takes of memory beside what was counted for whole rows. seats: [ranks], for the request. */
static void take_width(const struct layout_load *load, uint32_t width, struct plan_request *asked,
                       struct plan_seat *seats)
{
    struct needs more = {.branches = (uint32_t)lrint(asked->mix.branches),
                         .operand_bytes = load->operand_bytes};
    needs_widen(&more, (uint64_t)load->tokens * asked->heads * load->head_dim, width);
    for (uint32_t i = 0; asked->seats && i < asked->ranks; i++) {
        double left = (double)asked->seats[i].memory_bytes - (double)more.work;
        seats[i] = asked->seats[i];
        if (seats[i].memory_bytes > 0) seats[i].memory_bytes = left > 1 ? (uint64_t)left : 1;
    }
    if (asked->seats) asked->seats = seats;
    if (asked->block_bytes > 0) asked->home_bytes += more.job;
}

/* Of all layouts there are beside one chain of single ranks the best, the simplest first; 0: there is none. */
static double find_best(const struct plan_request *request, const struct layout_load *load, struct plan *best)
{
    static const enum plan_layout layouts[] = {PLAN_LAYOUT_PIPELINE, PLAN_LAYOUT_CFG, PLAN_LAYOUT_POOLS,
                                               PLAN_LAYOUT_CFG_POOLS};
    struct plan_seat seats[PLAN_MAX_RANKS];
    struct plan_wish wish = request->wish ? *request->wish : (struct plan_wish){0};
    struct planner_request planner = describe(request, load);
    double least = 0;
    for (uint32_t width = 1; width <= request->ranks && width <= LAYOUT_MOST_WIDTH; width++) {
        if (width > 1 && (!may_be_wide(request, load, width) || wish.home == PLAN_HOME_FLOATING)) continue;
        struct plan_request asked = *request;
        asked.wish = &wish;
        wish.width = width;
        if (width > 1) take_width(load, width, &asked, seats);
        asked.mix.exchange = planner_exchange(&planner, width, request->ranks) / load->block_seconds;
        for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
            struct plan made;
            wish.layout = layouts[i];
            if (!makes_sense(layouts[i], &request->mix) ||
                (width == 1 && layouts[i] == PLAN_LAYOUT_PIPELINE) ||
                plan_make(&asked, &made, NULL) != STATUS_OK)
                continue;
            double seconds = layout_seconds(&made, request, load);
            if (seconds <= 0 || (least > 0 && seconds * AS_GOOD > least)) continue;
            *best = made;
            least = seconds;
        }
    }
    return least;
}

status_t layout_choose(const struct plan_request *request, const struct layout_load *load,
                       const struct plan *now, struct plan *plan, struct error *error)
{
    const struct plan_wish *wish = request->wish;
    struct plan simple, best;
    status_t status = plan_make(request, &simple, error);
    if (status != STATUS_OK) return status;
    *plan = simple;
    bool open =
        !wish || (wish->layout == PLAN_LAYOUT_AUTO && wish->runs == 0 && wish->width <= 1 && !wish->has_fold);
    if (!open || load->block_seconds <= 0 || request->ranks < 2) return STATUS_OK;
    /* Which of the single chains is better is for what was measured to say (schedule.c). */
    bool other = now && (plan_chains(now) > 1 || plan_width(now) > 1) && layout_takes(now, load);
    double least = layout_seconds(&simple, request, load),
           here = other ? layout_seconds(now, request, load) : 0;
    double found = find_best(request, load, &best);
    if (found > 0 && (least <= 0 || found * AS_GOOD < least))
        least = found;
    else
        best = simple;
    if (here > 0)
        *plan = layout_pays(here, least, load) ? best : *now;
    else if (layout_pays(layout_seconds(&simple, request, load), least, load))
        *plan = best;
    return STATUS_OK;
}
