/* layout.c - see layout.h. Pure functions. */
#include "coordinator/layout.h"

#include <math.h>
#include "coordinator/planner.h"

double layout_seconds(const struct plan *plan, const struct plan_request *request,
                      const struct layout_load *load)
{
    double cycle = plan_cycle(plan, request), alone = plan_alone(plan, request);
    return load->block_seconds * load->steps * fmax(alone, load->jobs * cycle);
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

status_t layout_choose(const struct plan_request *request, const struct layout_load *load,
                       const struct plan *now, struct plan *plan, struct error *error)
{
    static const enum plan_layout others[] = {PLAN_LAYOUT_CFG, PLAN_LAYOUT_POOLS, PLAN_LAYOUT_CFG_POOLS};
    struct plan_request asked = *request;
    struct plan_wish wish = request->wish ? *request->wish : (struct plan_wish){0};
    struct plan made, best;
    status_t status = plan_make(request, &best, error);
    if (status != STATUS_OK || wish.layout != PLAN_LAYOUT_AUTO || wish.runs > 0 || wish.width > 1 ||
        load->block_seconds <= 0) {
        if (status == STATUS_OK) *plan = best;
        return status;
    }
    /* Which of the single chains is better is for what was measured to say (schedule.c). */
    double least = layout_seconds(&best, request, load);
    double here = now && plan_chains(now) > 1 ? layout_seconds(now, request, load) : 0;
    if (here > 0 && !layout_pays(here, least, load)) {
        best = *now;
        least = here;
    }
    asked.wish = &wish;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        bool parts = others[i] == PLAN_LAYOUT_CFG ? request->mix.branches > 1
                     : request->mix.experts > 1 ? others[i] == PLAN_LAYOUT_POOLS || request->mix.branches > 1
                                                : false;
        wish.layout = others[i];
        if (!parts || request->ranks < 2 || plan_make(&asked, &made, NULL) != STATUS_OK) continue;
        double seconds = layout_seconds(&made, request, load);
        if (seconds <= 0 || !layout_pays(least, seconds, load)) continue;
        best = made;
        least = seconds;
    }
    *plan = best;
    return STATUS_OK;
}
