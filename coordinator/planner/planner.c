/*
 * planner.c - see planner.h: which layouts there are, which one is taken, and what speaks against the others. Pure functions.
 */
#include "coordinator/planner/planner.h"

#include "base/line.h"
#include "proto/validate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AS_FAST  1.01 /* within so much of the fastest a layout is as fast: then what it moves decides */
#define WORTH    1.5  /* moving must bring so many times what it costs, */
#define WORTH_OF 0.05 /* and so much of what remains */

/* ------------------------------------------------------------------------------------------------- the job */

/* UMT5-XXL without its table of words (mapped, not loaded) and the decoder of Wan 2.1, in 16 bits; decoding as
 * `refrain-worker --plan-memory` counts it (docs/gpu.md). */
#define WAN_HOME_BYTES   10000000000u
#define WAN_DECODE_BYTES 16800

#define WAN_SCHEDULE(flow_shift)                                                                             \
    {                                                                                                        \
        .kind = SCHEDULE_UNIPC, .shift = flow_shift, .train_steps = 1000                                     \
    }

static const struct planner_model presets[] = {
    {"wan2.1-t2v-1.3b", 30, 12, 128, 8960, 1, 512, 16, 4, WAN_SCHEDULE(3), 0, 2, WAN_HOME_BYTES,
     WAN_DECODE_BYTES},
    {"wan2.1-t2v-14b", 40, 40, 128, 13824, 1, 512, 16, 4, WAN_SCHEDULE(3), 0, 2, WAN_HOME_BYTES,
     WAN_DECODE_BYTES},
    {"wan2.2-t2v-a14b", 40, 40, 128, 13824, 2, 512, 16, 4, WAN_SCHEDULE(12), 0.875, 2, WAN_HOME_BYTES,
     WAN_DECODE_BYTES},
    {"wan2.2-i2v-a14b", 40, 40, 128, 13824, 2, 512, 16, 4, WAN_SCHEDULE(5), 0.9, 2, WAN_HOME_BYTES,
     WAN_DECODE_BYTES},
};

const struct planner_model *planner_preset_at(size_t index)
{
    return index < sizeof presets / sizeof *presets ? &presets[index] : NULL;
}

const struct planner_model *planner_preset(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].name, name) == 0) return &presets[i];
    return NULL;
}

static status_t check_axis(const char *axis, uint32_t value, uint32_t multiple, struct error *error)
{
    if (value >= multiple && value <= LIMIT_SIZE && value % multiple == 0) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "size: %s %u must be a multiple of %u from %u to %d", axis, value,
                     multiple, multiple, LIMIT_SIZE);
}

status_t planner_size(const struct planner_model *m, uint32_t width, uint32_t height, uint32_t frames,
                      struct planner_job *job, struct error *error)
{
    status_t status = check_axis("width", width, m->pixels_per_token, error);
    if (status == STATUS_OK) status = check_axis("height", height, m->pixels_per_token, error);
    if (status != STATUS_OK) return status;
    if (frames < 1 || frames > LIMIT_FRAMES || (frames - 1) % m->pixels_per_frame_token != 0)
        return error_set(error, STATUS_INVALID, "size: frames %u must be %u n + 1, at most %d", frames,
                         m->pixels_per_frame_token, LIMIT_FRAMES);
    uint64_t tokens = (uint64_t)(width / m->pixels_per_token) * (height / m->pixels_per_token) *
                      ((frames - 1) / m->pixels_per_frame_token + 1);
    int64_t pixels = (int64_t)width * height * frames;
    if (pixels > LIMIT_VIDEO_PIXELS)
        return error_set(error, STATUS_INVALID,
                         "size: %ux%ux%u is %" PRId64 " pixels, at most %" PRId64 " are allowed", width,
                         height, frames, pixels, LIMIT_VIDEO_PIXELS);
    job->width = width;
    job->height = height;
    job->frames = frames;
    job->tokens = (uint32_t)tokens;
    return STATUS_OK;
}

void planner_steps(const struct planner_model *m, uint32_t steps, uint32_t branches, struct planner_job *job)
{
    uint32_t first = steps;
    if (m->experts > 1) first = (uint32_t)schedule_switch(&m->schedule, m->boundary, (int)steps);
    job->steps[0] = first;
    job->steps[1] = steps - first;
    job->branches = branches;
}

/* --------------------------------------------------------------------------------------------------- checks */

static status_t check_whole(const char *field, double value, double least, double most, struct error *error)
{
    if (value >= least && value <= most) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s %.0f: must be %.0f to %.0f", field, value, least, most);
}

static status_t check_real(const char *field, double value, double most, struct error *error)
{
    if (value >= 0 && value <= most) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s %g: must be 0 to %g", field, value, most);
}

static status_t check_above(const char *field, double value, double most, struct error *error)
{
    if (value > 0 && value <= most) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s %g: must be above 0 and at most %g", field, value, most);
}

static status_t check_request(const struct planner_request *r, struct error *error)
{
    const struct planner_model *m = &r->model;
    const struct planner_machine *a = &r->machine;
    const struct planner_load *l = &r->load;
    const struct {
        const char *field;
        double value, least, most;
    } wholes[] = {{"layers", m->layers, 1, 1000},
                  {"heads", m->heads, 1, 1024},
                  {"head_dim", m->head_dim, 1, 1024},
                  {"ffn", m->ffn, 1, 1 << 20},
                  {"experts", m->experts, 1, 2},
                  {"tokens", r->job.tokens, 1, 1 << 30},
                  {"steps", (double)r->job.steps[0] + r->job.steps[1], 1, 1000},
                  {"branches", r->job.branches, 1, 2},
                  {"ranks", a->ranks, 1, PLANNER_MAX_RANKS},
                  {"per-node", a->per_node, 1, PLANNER_MAX_RANKS},
                  {"jobs", l->jobs, 1, 1e6},
                  {"caps", (double)l->head + l->tail, 0, m->layers}};
    status_t status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < sizeof wholes / sizeof *wholes; i++)
        status = check_whole(wholes[i].field, wholes[i].value, wholes[i].least, wholes[i].most, error);
    if (status == STATUS_OK && !(l->hit_rate >= 0 && l->hit_rate < 1))
        status =
            error_set(error, STATUS_INVALID,
                      "hit-rate %g: must be at least 0 and below 1: the first step is computed", l->hit_rate);
    if (status == STATUS_OK) status = check_real("deadline", l->deadline, 1e9, error);
    if (status == STATUS_OK) status = check_real("latency", a->latency, 10, error);
    if (status == STATUS_OK) status = check_real("home seconds", a->home_seconds, 1e9, error);
    if (status == STATUS_OK) status = check_real("ends seconds", a->ends_seconds, 1e9, error);
    if (status == STATUS_OK) status = check_above("link inside a node", a->inside, 1e16, error);
    if (status == STATUS_OK) status = check_above("link between nodes", a->between, 1e16, error);
    if (status == STATUS_OK && a->block_seconds <= 0) status = check_above("FLOP/s", a->flops, 1e21, error);
    if (status == STATUS_OK) status = check_real("block seconds", a->block_seconds, 1e6, error);
    if (status == STATUS_OK) status = check_real("crowd", a->crowd, 1000, error);
    return status;
}

/* ---------------------------------------------------------------------------------------------------- links */

void planner_add_link(struct planner_links *links, bool same_host, double bytes_per_second, double latency)
{
    double *slowest = same_host ? &links->inside : &links->between;
    if (*slowest == 0 || bytes_per_second < *slowest) *slowest = bytes_per_second;
    links->latency = fmax(links->latency, latency);
}

bool planner_take_links(const struct planner_links *links, struct planner_machine *machine)
{
    double inside = links->inside > 0 ? links->inside : links->between,
           between = links->between > 0 ? links->between : links->inside;
    if (inside <= 0) return false;
    machine->inside = inside;
    machine->between = between;
    machine->latency = links->latency;
    if (links->per_node > 0) machine->per_node = links->per_node;
    return true;
}

/* ----------------------------------------------------------------------------------------------- candidates */

struct list {
    const struct planner_request *request;
    struct planner_option *option;
    size_t count, capacity;
    bool failed; /* no memory */
};

static void add(struct list *list, const struct planner_layout *layout)
{
    if (list->count == list->capacity) {
        size_t capacity = 2 * list->capacity + 64;
        struct planner_option *more = realloc(list->option, capacity * sizeof *more);
        if (!(list->failed = !more)) list->option = more, list->capacity = capacity;
    }
    if (list->failed) return;
    struct planner_option *o = &list->option[list->count];
    planner_predict(list->request, layout, o, NULL);
    list->count += o->possible;
}

/* Pools of every proportion, where there are two experts' steps. */
static void add_pools(struct list *list, const struct planner_layout *whole)
{
    const struct planner_request *r = list->request;
    uint32_t stages = whole->stages[0];
    if (r->no_pools || r->job.steps[0] == 0 || r->job.steps[1] == 0 || whole->ways > 1) return;
    for (uint32_t first = 1; first < stages; first++) {
        struct planner_layout pools = *whole;
        pools.stages[0] = first;
        pools.stages[1] = stages - first;
        pools.floating = false;
        if (pools.stages[0] <= r->model.layers && pools.stages[1] <= r->model.layers) add(list, &pools);
    }
}

/* replicas, ways and width given, as many stages as there are ranks for. */
static void add_shape(struct list *list, uint32_t replicas, uint32_t ways, uint32_t width)
{
    const struct planner_request *r = list->request;
    uint32_t stages = r->machine.ranks / (replicas * ways * width);
    struct planner_layout layout = {
        .replicas = replicas, .ways = ways, .width = width, .stages = {stages, 0}};
    if (stages == 0) return;
    add_pools(list, &layout);
    if (stages > r->model.layers) layout.stages[0] = r->model.layers;
    add(list, &layout);
    layout.floating = layout.stages[0] > 1 && ways == 1 && width == 1;
    if (layout.floating) add(list, &layout);
}

static uint32_t limit(uint32_t asked, uint32_t most)
{
    return asked > 0 && asked < most ? asked : most;
}

static void list_all(struct list *list)
{
    const struct planner_request *r = list->request;
    uint32_t ranks = r->machine.ranks, ways = limit(r->most_ways, r->job.branches),
             width = limit(r->most_width, ranks < r->job.tokens ? ranks : r->job.tokens);
    /* Of replicas that leave the same ranks to each only the most are worth a look. */
    for (uint32_t d = limit(r->most_replicas, ranks); d > 0; d--) {
        if (d < ranks && d < limit(r->most_replicas, ranks) && ranks / (d + 1) == ranks / d) continue;
        for (uint32_t c = 1; c <= ways; c++)
            for (uint32_t u = 1; u <= width; u++)
                if (r->model.heads % u == 0) add_shape(list, d, c, u);
    }
}

/* --------------------------------------------------------------------------------------------------- choice */

/* What is to be made small, given the load and the deadline. */
static bool is_late(const struct planner_request *r, const struct planner_option *o)
{
    return r->load.deadline > 0 && o->loaded_seconds > r->load.deadline;
}

static double compare_seconds(const struct planner_option *a, const struct planner_option *b)
{
    return a->all_seconds - b->all_seconds;
}

/* Among those as fast: what leaves a node, what is sent at all, what a rank holds. */
static bool is_lighter(const struct planner_option *a, const struct planner_option *b)
{
    if (a->node_bytes != b->node_bytes) return a->node_bytes < b->node_bytes;
    double sent_a = a->hop_bytes + a->exchange_bytes, sent_b = b->hop_bytes + b->exchange_bytes;
    if (sent_a != sent_b) return sent_a < sent_b;
    if (a->memory_bytes != b->memory_bytes) return a->memory_bytes < b->memory_bytes;
    return compare_seconds(a, b) < 0;
}

/* Index of the choice: of what fits and keeps the deadline, what is done first; of those as fast, the lightest. */
static size_t choose(const struct planner_request *r, const struct list *list, bool *late)
{
    size_t best = list->count;
    double least = INFINITY;
    *late = true;
    for (size_t i = 0; i < list->count; i++)
        if (list->option[i].fits && !is_late(r, &list->option[i])) *late = false;
    /* Nobody keeps it: who comes nearest. */
    for (size_t i = 0; i < list->count; i++) {
        const struct planner_option *o = &list->option[i];
        if (!o->fits || (!*late && is_late(r, o))) continue;
        least = fmin(least, *late ? o->loaded_seconds : o->all_seconds);
    }
    for (size_t i = 0; i < list->count; i++) {
        const struct planner_option *o = &list->option[i];
        if (!o->fits || (!*late && is_late(r, o))) continue;
        if ((*late ? o->loaded_seconds : o->all_seconds) > AS_FAST * least) continue;
        if (best == list->count || is_lighter(o, &list->option[best])) best = i;
    }
    return best;
}

static int best_first(const void *a, const void *b)
{
    const struct planner_option *x = a, *y = b;
    if (x->fits != y->fits) return x->fits ? -1 : 1;
    if (!x->fits && x->memory_bytes != y->memory_bytes) return x->memory_bytes < y->memory_bytes ? -1 : 1;
    double order = compare_seconds(x, y);
    return order < 0 ? -1 : order > 0;
}

/* ---------------------------------------------------------------------------------------------------- words */

void planner_describe(const struct planner_layout *l, char text[PLANNER_NAME_BYTES])
{
    struct line line = {text, PLANNER_NAME_BYTES, 0};
    const char *between = "";
    if (l->replicas > 1) line_put(&line, "%u replicas", l->replicas), between = " of ";
    if (l->ways > 1) line_put(&line, "%s%u branches", between, l->ways), between = " x ";
    if (l->stages[1] > 0)
        line_put(&line, "%spools of %u + %u stages", between, l->stages[0], l->stages[1]), between = " x ";
    else if (l->stages[0] > 1)
        line_put(&line, "%s%u stages", between, l->stages[0]), between = " x ";
    if (l->width > 1) line_put(&line, "%s%u wide", between, l->width);
    if (line.used == 0 || (l->ways == 1 && l->stages[0] == 1 && l->stages[1] == 0 && l->width == 1))
        line_put(&line, "%s1 rank", between);
    if (l->floating) line_put(&line, ", floating homes");
}

static double gb(double bytes)
{
    return bytes / 1e9;
}

static void say_bound(struct line *line, const struct planner_request *r, const struct planner_option *o)
{
    switch (o->bound) {
    case BOUND_IDLE:
        line_put(line, ": uses %u of %u ranks", o->ranks, r->machine.ranks);
        break;
    case BOUND_MEMORY:
        line_put(line, ": there is memory for %u job%s at once", o->in_flight, o->in_flight == 1 ? "" : "s");
        break;
    case BOUND_LINK:
        line_put(line, ": %.2f GB a step leave a node", gb(o->node_bytes));
        break;
    case BOUND_EXCHANGE:
        line_put(line, ": %.1f GB a step are exchanged", gb(o->exchange_bytes));
        break;
    case BOUND_FILL:
        line_put(line, ": it takes %u jobs to keep %s busy", o->layout.replicas * o->saturate,
                 o->layout.replicas > 1 ? "them" : "it");
        break;
    case BOUND_POOLS:
        line_put(line, ": one pool waits for the other");
        break;
    case BOUND_COMPUTE:
        break;
    }
}

static void explain_loser(const struct planner_request *r, bool late, const struct planner_option *best,
                          struct planner_option *o)
{
    struct line line = {o->why, sizeof o->why, 0};
    if (!o->fits) {
        line_put(&line, "does not fit: %.1f of %.1f GB", gb((double)o->memory_bytes),
                 gb((double)r->machine.memory_bytes));
    } else if (!late && is_late(r, o)) {
        line_put(&line, "late: a job takes %.4g s, it has %.4g", o->loaded_seconds, r->load.deadline);
        say_bound(&line, r, o);
    } else if (late ? o->loaded_seconds > AS_FAST * best->loaded_seconds
                    : o->all_seconds > AS_FAST * best->all_seconds) {
        double ratio = late ? o->loaded_seconds / best->loaded_seconds : o->all_seconds / best->all_seconds;
        if (ratio < 2)
            line_put(&line, "%.0f %% slower", 100 * (ratio - 1));
        else
            line_put(&line, "%.1f times as long", ratio);
        say_bound(&line, r, o);
    } else if (o->node_bytes > best->node_bytes) {
        line_put(&line, "as fast, but %.2f GB a step leave a node instead of %.2f", gb(o->node_bytes),
                 gb(best->node_bytes));
    } else if (o->hop_bytes + o->exchange_bytes > best->hop_bytes + best->exchange_bytes) {
        line_put(&line, "as fast, but sends %.2f GB a step instead of %.2f",
                 gb(o->hop_bytes + o->exchange_bytes), gb(best->hop_bytes + best->exchange_bytes));
    } else {
        line_put(&line, "as fast, but holds %.1f GB a rank instead of %.1f", gb((double)o->memory_bytes),
                 gb((double)best->memory_bytes));
    }
}

static void explain_choice(const struct planner_request *r, bool late, const struct list *list,
                           struct planner_option *o)
{
    struct line line = {o->why, sizeof o->why, 0};
    size_t fit = 0;
    for (size_t i = 0; i < list->count; i++) fit += list->option[i].fits;
    if (late)
        line_put(&line, "no layout keeps the deadline of %.4g s; this one comes nearest with %.4g s",
                 r->load.deadline, o->loaded_seconds);
    else if (fit == 1)
        line_put(&line, "the only layout that fits");
    else if (r->load.deadline > 0)
        line_put(&line,
                 "of the layouts that keep the deadline of %.4g s the one that is done first with %u job%s",
                 r->load.deadline, r->load.jobs, r->load.jobs == 1 ? "" : "s");
    else
        line_put(&line, "latency: nothing is done sooner with %u job%s", r->load.jobs,
                 r->load.jobs == 1 ? "" : "s");
    if (!late && r->load.deadline <= 0 && o->busy > 0.9 && r->load.jobs > 1) {
        line.used = 0;
        line_put(
            &line,
            "throughput: %u jobs keep the busiest rank at work for %.0f %% of the time, and nothing is done "
            "sooner",
            r->load.jobs, 100 * o->busy);
    }
}

/* --------------------------------------------------------------------------------------------- the contract */

static status_t nothing_fits(const struct planner_request *r, struct list *list, struct error *error)
{
    char text[PLANNER_NAME_BYTES];
    if (list->count == 0)
        return error_set(error, STATUS_INVALID, "no layout of %u ranks is possible", r->machine.ranks);
    qsort(list->option, list->count, sizeof *list->option, best_first);
    planner_describe(&list->option[0].layout, text);
    return error_set(
        error, STATUS_NO_MEMORY,
        "memory: no layout fits; %s needs the least, %.1f of %.1f GB a rank: take more ranks, a smaller "
        "size or ranks with more memory",
        text, gb((double)list->option[0].memory_bytes), gb((double)r->machine.memory_bytes));
}

status_t planner_choose(const struct planner_request *r, struct planner_answer *answer, struct error *error)
{
    struct list list = {.request = r};
    bool late;
    status_t status = check_request(r, error);
    if (status != STATUS_OK) return status;
    list_all(&list);
    size_t best = choose(r, &list, &late);
    if (list.failed)
        status = error_set(error, STATUS_NO_MEMORY, "no memory for %zu layouts", list.count);
    else if (best == list.count)
        status = nothing_fits(r, &list, error);
    if (status != STATUS_OK) {
        free(list.option);
        return status;
    }
    struct planner_option first = list.option[best];
    list.option[best] = list.option[0];
    list.option[0] = first;
    qsort(list.option + 1, list.count - 1, sizeof *list.option, best_first);
    explain_choice(r, late, &list, &list.option[0]);
    for (size_t i = 1; i < list.count; i++) explain_loser(r, late, &list.option[0], &list.option[i]);
    *answer = (struct planner_answer){.option = list.option, .count = list.count, .late = late};
    return STATUS_OK;
}

void planner_free(struct planner_answer *answer)
{
    free(answer->option);
    *answer = (struct planner_answer){0};
}

bool planner_worth_moving(double remaining_now, double remaining_then, double move_seconds)
{
    double gain = remaining_now - remaining_then;
    return gain > WORTH * move_seconds && gain > WORTH_OF * remaining_now;
}
