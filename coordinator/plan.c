/*
 * plan.c - see plan.h. Pure functions.
 */
#include "coordinator/plan.h"

#include <stdio.h>
#include <string.h>

/* Blocks of part `index` when `blocks` are dealt to `parts` parts: sizes differ by one at most, the larger
 * ones last. */
static uint32_t share(uint32_t blocks, uint32_t parts, uint32_t index)
{
    return blocks / parts + (index >= parts - blocks % parts);
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* More ranks than blocks: the surplus gets none and stays in the epoch, ready for a larger model. */
status_t plan_make(const struct plan_request *request, struct plan *plan, struct error *error)
{
    uint32_t layers = request->layers, ranks = request->ranks;
    const struct plan_wish *wish = request->wish;
    if (layers < 1 || ranks < 1 || ranks > PLAN_MAX_RANKS)
        return error_set(error, STATUS_INVALID, "plan: %u blocks cannot be laid over %u ranks", layers,
                         ranks);
    memset(plan, 0, sizeof *plan);
    plan->layers = layers;
    plan->ranks = ranks;
    uint32_t stages = smaller(ranks, layers);
    if (stages == 1) {
        plan->head = layers;
    } else if (!wish || !wish->has_fold) {
        /* Home also embeds, decodes and drives the loop, so it is among those with the smaller share. */
        plan->head = share(layers, stages, 0);
        for (uint32_t i = 1; i < stages; i++) plan->run[i] = share(layers, stages, i);
    } else {
        plan->head = smaller(wish->fold_head, layers);
        plan->tail = smaller(wish->fold_tail, layers - plan->head);
        uint32_t rest = layers - plan->head - plan->tail, others = smaller(ranks - 1, rest);
        for (uint32_t i = 0; i < others; i++) plan->run[i + 1] = share(rest, others, i);
    }
    return STATUS_OK;
}

uint32_t plan_blocks(const struct plan *plan, uint32_t rank)
{
    return plan->run[rank] + (rank == 0 || plan->floating ? plan->head + plan->tail : 0);
}

bool plan_equal(const struct plan *a, const struct plan *b)
{
    return a->ranks == b->ranks && a->layers == b->layers && a->head == b->head && a->tail == b->tail &&
           a->floating == b->floating && memcmp(a->run, b->run, a->ranks * sizeof *a->run) == 0;
}

status_t plan_check(const struct plan *plan, const struct plan_request *request, const struct plan_mix *mix,
                    struct error *error)
{
    return STATUS_OK;
}

status_t plan_read_fold(const char *text, struct plan_wish *wish, struct error *error)
{
    uint32_t head, tail;
    int used = 0;
    /* Digits first: %u would take a sign. */
    if (text[0] < '0' || text[0] > '9' ||
        sscanf(text, "%4u,%n%4u%n", &head, &used, &tail, &used) != 2 || text[used] != '\0' ||
        !strchr(text, ',') || strpbrk(text, "+- "))
        return error_set(error, STATUS_INVALID, "--fold '%s': must be HEAD,TAIL in blocks, such as 1,0",
                         text);
    wish->has_fold = true;
    wish->fold_head = head;
    wish->fold_tail = tail;
    return STATUS_OK;
}

/* Ends early where the text is full: it is for people, and a thousand ranks do not fit a line. */
void plan_describe(const struct plan *plan, const char *backend, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "%u rank%s, blocks %u", plan->ranks,
                                   plan->ranks == 1 ? "" : "s", plan->head);
    for (uint32_t i = 1; i < plan->ranks && plan->run[i] > 0 && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "+%u", plan->run[i]);
    if (plan->tail > 0 && used < bytes)
        used += (size_t)snprintf(text + used, bytes - used, "(+%u)", plan->tail);
    if (used < bytes) snprintf(text + used, bytes - used, ", %s", backend);
}
