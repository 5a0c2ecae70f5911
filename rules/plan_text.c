/*
 * plan_text.c - wishes as they are written on a command line, and layouts as people are told of them; see plan.h. Pure
 * functions.
 */
#include "rules/plan.h"
#include "base/line.h"

#include <stdio.h>
#include <string.h>

/* Reads "N" of at most four digits and what follows it, which must be `next`; NULL if it is not so. Digits
 * only: strtoul would take signs and blanks. */
static const char *read_number(const char *text, uint32_t *number)
{
    *number = 0;
    for (int digits = 0; digits < 5; digits++, text++) {
        if (*text < '0' || *text > '9') return digits > 0 ? text : NULL;
        *number = 10 * *number + (uint32_t)(*text - '0');
    }
    return NULL; /* too long */
}

status_t plan_read_fold(const char *text, struct plan_wish *wish, struct error *error)
{
    uint32_t head, tail;
    const char *at = read_number(text, &head);
    if (at) at = *at == ',' ? read_number(at + 1, &tail) : NULL;
    if (!at || *at)
        return error_set(error, STATUS_INVALID, "--fold '%.40s': must be HEAD,TAIL in blocks, such as 1,0",
                         text);
    wish->has_fold = true;
    wish->fold_head = head;
    wish->fold_tail = tail;
    return STATUS_OK;
}

status_t plan_read_split(const char *text, struct plan_wish *wish, struct error *error)
{
    const char *at = text;
    uint32_t count = 0, run[PLAN_MAX_RANKS];
    for (;;) {
        at = count < PLAN_MAX_RANKS ? read_number(at, &run[count++]) : NULL;
        if (!at || *at != ',') break;
        at++;
    }
    if (!at || *at)
        return error_set(
            error, STATUS_INVALID,
            "--split '%.40s': must be the blocks of each rank, home's first, such as 9,10,10,11 (at most %d)",
            text, PLAN_MAX_RANKS);
    memcpy(wish->run, run, count * sizeof *run);
    wish->runs = count;
    return STATUS_OK;
}

status_t plan_read_pools(const char *text, struct plan_wish *wish, struct error *error)
{
    uint32_t first = 0, second = 0;
    const char *at = read_number(text, &first);
    if (at) at = *at == '+' ? read_number(at + 1, &second) : NULL;
    if (!at || *at || first == 0 || second == 0)
        return error_set(
            error, STATUS_INVALID,
            "--pools '%.40s': must be the ranks of each expert, the first one's and home first, such as 5+3",
            text);
    wish->pool = first;
    wish->second_pool = second;
    return STATUS_OK;
}

static void describe_chains(const struct plan *plan, struct line *line)
{
    static const char *const what[] = {"branches", "experts", "experts' branches"};
    uint32_t caps = plan->head + plan->tail;
    bool cfg = plan->chain[0][1] != plan->chain[0][0], pools = plan->chain[1][0] != plan->chain[0][0];
    if (caps > 0)
        line_put(line, "%u block%s %s, ", caps, caps == 1 ? "" : "s",
                 plan->floating ? "everywhere" : "at home");
    else if (plan->floating)
        line_put(line, "homes everywhere, ");
    for (uint32_t c = 0, chains = plan_chains(plan); c < chains; c++) {
        line_put(line, "%s", c == 0 ? what[cfg && pools ? 2 : pools] : c + 1 < chains ? "," : " and");
        for (uint32_t i = 0; i < plan->ranks; i++)
            line_put(line, "%c%u", i == 0 ? ' ' : '+', plan_run(plan, c, i));
    }
}

const char *plan_kind(const struct plan *plan)
{
    static const char *const names[] = {"pipeline",
                                        "cfg",
                                        "pools",
                                        "cfg-pools",
                                        "wide stages",
                                        "cfg with wide stages",
                                        "pools with wide stages",
                                        "cfg-pools with wide stages"};
    bool branches = plan->chain[0][0] != plan->chain[0][1], experts = plan->chain[0][0] != plan->chain[1][0];
    return names[branches + 2 * experts + 4 * (plan_width(plan) > 1)];
}

void plan_describe(const struct plan *plan, const char *backend, char *text, size_t bytes)
{
    struct line line = {text, bytes, 0};
    uint32_t caps = plan->head + plan->tail;
    struct plan stages;
    line_put(&line, "%u rank%s", plan->ranks, plan->ranks == 1 ? "" : "s");
    if (plan_width(plan) > 1) {
        line_put(&line, " in stages of %u", plan->width);
        stages = plan_wide_stages(plan);
        if (plan_chains(plan) == 1) stages.head = stages.run[0], stages.run[0] = 0; /* as of one rank */
        plan = &stages;
    }
    line_put(&line, ", ");
    if (plan_chains(plan) > 1) {
        describe_chains(plan, &line);
        line_put(&line, ", %s", backend);
        return;
    }
    if (plan->floating) {
        if (caps > 0)
            line_put(&line, "%u block%s everywhere, %u", caps, caps == 1 ? "" : "s", plan->run[0]);
        else
            line_put(&line, "homes everywhere, blocks %u", plan->run[0]);
        for (uint32_t i = 1; i < plan->ranks; i++) line_put(&line, "+%u", plan->run[i]);
        line_put(&line, caps > 0 ? " around, %s" : ", %s", backend);
        return;
    }
    line_put(&line, "blocks %u", plan->head);
    if (plan->run[0] > 0) line_put(&line, "+%u", plan->run[0]);
    if (plan->spare > 0) line_put(&line, "(+%u spare)", plan->spare);
    for (uint32_t i = 1; i < plan->ranks; i++)
        if (plan->run[i] > 0) line_put(&line, "%c%u", plan->run[0] > 0 ? ' ' : '+', plan->run[i]);
    if (plan->tail > 0) line_put(&line, "(+%u)", plan->tail);
    line_put(&line, ", %s", backend);
}

status_t plan_wish_takes(const struct plan_wish *wish, uint32_t ranks, bool left, struct error *error)
{
    char there[64];
    snprintf(there, sizeof there, left ? "%u would be left" : "the group has %u", ranks);
    if (wish->runs && wish->runs != ranks)
        return error_set(error, STATUS_CONFLICT, "--split names %u ranks: %s", wish->runs, there);
    if (wish->second_pool && wish->pool + wish->second_pool != ranks)
        return error_set(error, STATUS_CONFLICT, "--pools %u+%u names %u ranks: %s", wish->pool,
                         wish->second_pool, wish->pool + wish->second_pool, there);
    if (wish->width > 1 && ranks % wish->width)
        return error_set(error, STATUS_CONFLICT, "--stage-width %u, of ranks in whole stages: %s",
                         wish->width, there);
    return STATUS_OK;
}
