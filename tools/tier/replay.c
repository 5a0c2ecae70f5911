/* replay.c - see replay.h. */
#include "tools/tier/replay.h"

#include <stdlib.h>
#include <string.h>
#include "tools/tier/rival.h"

enum { GENERATOR = 1, SOLVER = 1, ORDER = 2, ENCODER = 5, TOKENIZER = 6, NUMERICS = 7 };

/* What will be published when. */
struct due {
    double t;
    uint64_t number; /* of two at the same time the first one made is the first */
    struct key key;
    struct item item;
};

struct replay {
    const struct trace *trace;
    const struct replay_settings *settings;
    struct replay_result *result;
    struct store *store; /* one of these three */
    struct rival *rival;
    struct bound *bound;
    size_t request;
    bool perhaps;    /* foreseeing: what was just asked for may be there, and then it takes no time */
    struct due *due; /* a heap, the earliest first */
    size_t due_count, due_room;
    uint64_t due_made;
    int64_t now_ns;
};

static int64_t virtual_now(void *clock)
{
    return ((const struct replay *)clock)->now_ns;
}

/* ------------------------------------------------------------------------------------------ what comes later */

static bool earlier(const struct due *a, const struct due *b)
{
    return a->t != b->t ? a->t < b->t : a->number < b->number;
}

static void due_add(struct replay *replay, double t, const struct key *key, uint64_t bytes, double seconds)
{
    if (replay->bound) {
        bound_made(replay->bound, key, t, bytes, seconds);
        return;
    }
    if (replay->due_count == replay->due_room) {
        replay->due_room = replay->due_room ? 2 * replay->due_room : 256;
        replay->due = realloc(replay->due, replay->due_room * sizeof *replay->due);
        if (!replay->due) abort();
    }
    struct due made = {
        .t = t, .number = replay->due_made++, .key = *key, .item = {.bytes = bytes, .seconds = seconds}};
    size_t at = replay->due_count++;
    for (; at > 0 && earlier(&made, &replay->due[(at - 1) / 2]); at = (at - 1) / 2)
        replay->due[at] = replay->due[(at - 1) / 2];
    replay->due[at] = made;
}

static struct due due_take(struct replay *replay)
{
    struct due first = replay->due[0], last = replay->due[--replay->due_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < replay->due_count; at = child) {
        if (child + 1 < replay->due_count && earlier(&replay->due[child + 1], &replay->due[child])) child++;
        if (!earlier(&replay->due[child], &last)) break;
        replay->due[at] = replay->due[child];
    }
    replay->due[at] = last;
    return first;
}

/* ----------------------------------------------------------------------------------------- the store's side */

static uint64_t word(const struct key *key, uint64_t at)
{
    return key->low + at * 0x9e3779b9;
}

/* The store gets an item whose bytes follow from its key. */
static void publish(struct replay *replay, const struct due *due)
{
    struct draft draft;
    struct item item = due->item;
    replay->result->published_bytes += item.bytes;
    item.bytes = item.bytes / replay->settings->scale / 8 * 8;
    if (item.bytes == 0) item.bytes = 8;
    if (replay->rival) {
        rival_put(replay->rival, &due->key, &item);
        return;
    }
    if (store_reserve(replay->store, &due->key, &item, LEVEL_HOST, &draft, NULL) != STATUS_OK) return;
    for (uint64_t at = 0; at < draft.size / 8; at++) ((uint64_t *)draft.bytes)[at] = word(&due->key, at);
    store_commit(replay->store, &draft, NULL, NULL);
    store_settle(replay->store);
}

/* Seconds saved, 0: a miss. */
static double look_up(struct replay *replay, const struct key *key)
{
    struct view view;
    double saved;
    if (replay->bound) {
        replay->perhaps = bound_asked(replay->bound, key, (double)replay->now_ns * 1e-9, replay->request,
                                      key->kind == ITEM_LATENT);
        return 0;
    }
    replay->result->lookups++;
    if (replay->rival) {
        if (!rival_get(replay->rival, key, &saved)) return 0;
        replay->result->hits++;
        replay->result->saved_s += saved;
        return saved;
    }
    if (store_get(replay->store, key, LEVEL_HOST, &view, NULL) != STATUS_OK) return 0;
    replay->result->hits++;
    double seconds = view.seconds;
    for (uint64_t at = 0; at < view.size / 8; at++)
        if (((const uint64_t *)view.bytes)[at] != word(key, at)) {
            replay->result->wrong++;
            break;
        }
    store_release(replay->store, &view);
    replay->result->saved_s += seconds;
    return seconds;
}

/* ------------------------------------------------------------------------------------------------- requests */

/* Keys of a request; made by the product's rules. */
struct names {
    struct text_facts positive, negative;
    struct first_step_facts first;
    struct run_facts run;
    struct key origin, begin; /* the run, and its checkpoint, that it goes on from */
    uint64_t weights;
};

static void must(status_t status)
{
    if (status != STATUS_OK) abort();
}

static void name_request(const struct replay *replay, const struct request *request, struct names *names)
{
    names->weights = (uint64_t)request->model->width;
    names->positive = (struct text_facts){.encoder = ENCODER,
                                          .tokenizer = TOKENIZER,
                                          .numerics = NUMERICS,
                                          .text = (const char *)&request->prompt,
                                          .bytes = sizeof request->prompt,
                                          .rows = 512,
                                          .element = ELEMENT_BF16};
    names->negative = names->positive;
    names->negative.text = (const char *)&request->negative;
    struct picture_facts picture = {
        .width = request->width, .height = request->height, .frames = request->frames};
    names->first = (struct first_step_facts){.weights = names->weights,
                                             .numerics = NUMERICS,
                                             .picture = picture,
                                             .noise = {request->seed, GENERATOR},
                                             .sigma = 1,
                                             .timestep = 1000,
                                             .element = ELEMENT_F32};
    names->run = (struct run_facts){.weights = names->weights,
                                    .numerics = NUMERICS,
                                    .positive = names->positive,
                                    .negative = names->negative,
                                    .picture = picture,
                                    .noise = {request->seed, GENERATOR},
                                    .solver = SOLVER,
                                    .order = ORDER,
                                    .shift = 5,
                                    .steps = request->steps,
                                    .guidance = request->guidance,
                                    .policy = "",
                                    .element = ELEMENT_F32};
    if (request->from < 0) return;
    struct names before;
    name_request(replay, &replay->trace->request[request->from], &before);
    if (key_of_latent(request->tenant, &before.run, &names->origin, NULL) != STATUS_OK) abort();
    must(key_of_checkpoint(&names->origin, request->at, &names->begin, NULL));
    names->run.origin = &names->origin;
    names->run.origin_step = request->at;
}

/* The text encodings that a job needs; returns when they are there. */
static double texts(struct replay *replay, const struct request *request, const struct names *names, double t)
{
    const struct text_facts *facts[] = {&names->positive, &names->negative};
    struct costs costs = request_costs(request);
    int count = request->guidance > 1 ? 2 : 1;
    struct key key;
    for (int i = 0; i < count; i++) {
        must(key_of_text(request->tenant, facts[i], &key, NULL));
        replay->result->asked_s += costs.text_s;
        if (look_up(replay, &key) > 0) continue;
        due_add(replay, t + costs.text_s, &key, costs.text_bytes, costs.text_s);
        if (!replay->perhaps) t += costs.text_s;
    }
    return t;
}

/* The first step's outputs; returns when they are there. */
static double first_step(struct replay *replay, const struct request *request, struct names *names, double t)
{
    const struct text_facts *facts[] = {&names->positive, &names->negative};
    struct costs costs = request_costs(request);
    int count = request->guidance > 1 ? 2 : 1;
    struct key key;
    for (int i = 0; i < count; i++) {
        names->first.text = *facts[i];
        must(key_of_first_step(request->tenant, &names->first, &key, NULL));
        if (look_up(replay, &key) > 0) continue;
        due_add(replay, t + costs.forward_s, &key, costs.output_bytes, costs.forward_s);
        if (!replay->perhaps) t += costs.forward_s;
    }
    return t;
}

/* Its steps from `done` on, with checkpoints at the cadence, and the last latent. */
static void steps(struct replay *replay, const struct request *request, const struct names *names,
                  uint32_t done, double t)
{
    struct costs costs = request_costs(request);
    double step_s = costs.forward_s * (request->guidance > 1 ? 2 : 1);
    struct key key, run;
    must(key_of_latent(request->tenant, &names->run, &run, NULL));
    for (uint32_t step = done + 1; step < request->steps; step++) {
        t += step_s;
        if (step % replay->settings->cadence || step <= names->run.origin_step) continue;
        must(key_of_checkpoint(&run, step, &key, NULL));
        due_add(replay, t, &key, costs.checkpoint_bytes, step * step_s);
    }
    due_add(replay, t + step_s, &run, costs.latent_bytes, request->steps * step_s);
}

static void serve(struct replay *replay, const struct request *request)
{
    struct names names = {0};
    struct costs costs = request_costs(request);
    double step_s = costs.forward_s * (request->guidance > 1 ? 2 : 1);
    struct key key;
    name_request(replay, request, &names);
    replay->result->requests++;
    replay->result->asked_s += request->steps * step_s;
    must(key_of_latent(request->tenant, &names.run, &key, NULL));
    if (look_up(replay, &key) > 0) return;
    double t = texts(replay, request, &names, request->t);
    uint32_t done = request->from >= 0 && look_up(replay, &names.begin) > 0 ? request->at : 0;
    if (done == 0 && request->from >= 0) { /* what it goes on from has to be made again */
        double made = t + request->at * step_s;
        due_add(replay, made, &names.begin, costs.checkpoint_bytes, request->at * step_s);
        if (!replay->perhaps) t = made;
        done = request->at;
    } else if (done == 0) {
        t = first_step(replay, request, &names, t);
        done = 1;
    }
    steps(replay, request, &names, done, t);
}

static void advance(struct replay *replay, double t)
{
    while (replay->due_count && replay->due[0].t <= t) {
        struct due due = due_take(replay);
        replay->now_ns = (int64_t)(due.t * 1e9);
        publish(replay, &due);
    }
    replay->now_ns = (int64_t)(t * 1e9);
}

status_t replay_run(const struct trace *trace, const struct replay_settings *settings,
                    struct replay_result *result, struct error *error)
{
    struct replay replay = {.trace = trace, .settings = settings, .result = result};
    struct store_config config = {.directory = settings->directory,
                                  .items = settings->items,
                                  .eviction = settings->eviction,
                                  .now_ns = virtual_now,
                                  .clock = &replay};
    for (int level = 0; level < LEVELS; level++) {
        static const double usual[LEVELS] = {20e9, 5e9, 1e9};
        config.limit_bytes[level] = settings->limit_bytes[level] / settings->scale;
        config.bytes_per_second[level] = usual[level] / settings->scale;
    }
    *result = (struct replay_result){0};
    if (settings->rival)
        replay.rival = rival_open(settings->rival, config.limit_bytes[LEVEL_HOST]);
    else if (store_open(&config, &replay.store, error) != STATUS_OK)
        return error->status;
    for (size_t i = 0; i < trace->count; i++) {
        advance(&replay, trace->request[i].t);
        serve(&replay, &trace->request[i]);
    }
    if (replay.store) store_stats(replay.store, NULL, &result->stats);
    store_close(replay.store);
    if (replay.rival) rival_close(replay.rival);
    free(replay.due);
    return STATUS_OK;
}

void replay_foresee(const struct trace *trace, const struct replay_settings *settings, struct bound *bound)
{
    struct replay_result ignored = {0};
    struct replay replay = {.trace = trace, .settings = settings, .result = &ignored, .bound = bound};
    for (; replay.request < trace->count; replay.request++) {
        replay.now_ns = (int64_t)(trace->request[replay.request].t * 1e9);
        serve(&replay, &trace->request[replay.request]);
    }
}
