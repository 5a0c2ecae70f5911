/*
 * traces.c - made-up traces, see request.h. Nobody has published how video prompts repeat; these are the ways of working
 * that a service is built for, with numbers chosen by us:
 *
 *     iterate   people at work on one clip each: other seeds, other guidance, a variation from some step, the same
 *               again; some come back to an earlier one
 *     many      hundreds of tenants, prompts by Zipf's law, few repeats, often the default seed
 *     bursts    quiet work, and now and then a team that makes a hundred clips of one prompt and never comes back
 *     archive   most requests are new; some ask again for a finished clip, rather one of late (1/x)
 *     mixed     all four at once
 *
 * A trace is made of sources, each with its own clock; the earliest speaks next. Deterministic for a seed.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "tools/tier/request.h"

const char *const trace_names[] = {"iterate", "many", "bursts", "archive", "mixed", NULL};

enum { SOURCES = 64, DAYS = 4, SIZES = 3 };

struct chance {
    uint64_t state;
};

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t next(struct chance *chance)
{
    uint64_t z = chance->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static double uniform(struct chance *chance)
{
    return (double)(next(chance) >> 11) * 0x1p-53;
}

static double waiting(struct chance *chance, double mean)
{
    return -mean * log(1 - uniform(chance));
}

/* 1..most, the n-th with weight n^-s, s < 1. */
static uint64_t zipf(struct chance *chance, double most, double s)
{
    return 1 + (uint64_t)floor(pow(uniform(chance), 1 / (1 - s)) * most);
}

struct source {
    void (*speak)(struct source *source, struct trace *trace);
    struct chance chance;
    double t;
    struct request last; /* the one it works from */
    int64_t line;        /* of it */
    int left;            /* requests of this sitting or burst */
    int number;
};

static const struct {
    const char *model;
    uint32_t width, height, frames, steps;
} sizes[SIZES] = {
    {"wan-14b", 1280, 720, 81, 50}, {"wan-14b", 832, 480, 81, 50}, {"wan-1.3b", 832, 480, 81, 50}};

static void set_size(struct request *request, int size)
{
    for (const struct model *model = models; model->name; model++)
        if (strcmp(model->name, sizes[size].model) == 0) request->model = model;
    request->width = sizes[size].width;
    request->height = sizes[size].height;
    request->frames = sizes[size].frames;
    request->steps = sizes[size].steps;
}

static int some_size(struct chance *chance)
{
    double u = uniform(chance);
    return u < 0.2 ? 0 : u < 0.5 ? 1 : 2;
}

static void emit(struct source *source, struct trace *trace)
{
    source->last.t = source->t;
    source->line = (int64_t)trace->count;
    trace_add(trace, &source->last);
}

static void fresh(struct source *source, const char *kind)
{
    struct request *request = &source->last;
    *request = (struct request){.from = -1, .guidance = 5, .negative = 1, .prompt = next(&source->chance)};
    snprintf(request->tenant, sizeof request->tenant, "%s%d", kind, source->number);
    set_size(request, some_size(&source->chance));
    request->seed = uniform(&source->chance) < 0.5 ? 42 : next(&source->chance) % 1000;
}

/* The request of that tenant, so many of his before the newest. */
static bool find_back(const struct trace *trace, const char *tenant, int64_t back, struct request *found)
{
    for (size_t i = trace->count; i-- > 0;)
        if (strcmp(trace->request[i].tenant, tenant) == 0 && --back == 0) {
            *found = trace->request[i];
            return true;
        }
    return false;
}

/* One person: a session on one clip, a pause, the next session. */
static void iterate(struct source *source, struct trace *trace)
{
    struct chance *chance = &source->chance;
    struct request *request = &source->last;
    double u = uniform(chance);
    if (source->left-- <= 0) {
        char tenant[sizeof request->tenant];
        snprintf(tenant, sizeof tenant, "person%d", source->number);
        source->left = 4 + (int)(waiting(chance, 12));
        /* every fourth begins where an earlier one was */
        if (u >= 0.25 || !find_back(trace, tenant, 1 + (int64_t)(uniform(chance) * 100), request))
            fresh(source, "person");
    } else if (u < 0.35) { /* another seed */
        request->from = -1;
        request->seed = next(chance) % 1000;
    } else if (u < 0.6) { /* the same noise, other guidance */
        request->from = -1;
        request->guidance = 3 + floor(uniform(chance) * 9) / 2;
    } else if (u < 0.75) { /* a variation of the last one */
        request->from = source->line;
        request->at = 10 * (1 + (uint32_t)(uniform(chance) * 4));
        request->guidance = 3 + floor(uniform(chance) * 9) / 2;
    } else if (u < 0.8) { /* the same again, for another container: nothing changes */
    } else {              /* other words */
        request->from = -1;
        request->prompt = next(chance);
    }
    emit(source, trace);
    source->t += 120 + waiting(chance, 400) + (source->left <= 0 ? waiting(chance, 6 * 3600) : 0);
}

/* A crowd: any of 200 tenants, any of 5000 prompts. */
static void many(struct source *source, struct trace *trace)
{
    struct chance *chance = &source->chance;
    source->number = (int)(next(chance) % 200);
    fresh(source, "crowd");
    source->last.prompt = zipf(chance, 5000, 0.6) * 7919;
    emit(source, trace);
    source->t += waiting(chance, 60);
}

/* A team: single clips, then a hundred of one prompt within the hour. */
static void bursts(struct source *source, struct trace *trace)
{
    struct chance *chance = &source->chance;
    bool in_burst = source->left-- > 0;
    if (!in_burst) {
        fresh(source, "team");
        if (uniform(chance) < 0.05) source->left = 60 + (int)(uniform(chance) * 80);
    } else {
        source->last.seed = next(chance);
        if (uniform(chance) < 0.3) source->last.seed = 42;
        source->last.guidance = 4 + floor(uniform(chance) * 3);
    }
    emit(source, trace);
    source->t += waiting(chance, source->left > 0 ? 30 : 900);
}

/* New clips, and finished ones asked for again; the later ones rather. */
static void archive(struct source *source, struct trace *trace)
{
    struct chance *chance = &source->chance;
    static const double again = 0.3, farthest = 2000;
    int64_t back = (int64_t)pow(farthest, uniform(chance)); /* as often 1 to 10 as 10 to 100 */
    bool found = uniform(chance) < again && find_back(trace, "studio0", back, &source->last);
    if (!found) fresh(source, "studio");
    emit(source, trace);
    source->t += waiting(chance, 120);
}

static const struct {
    const char *name;
    void (*speak)(struct source *source, struct trace *trace);
    int alone, mixed; /* sources of it */
} ways[] = {
    {"iterate", iterate, 24, 12}, {"many", many, 1, 1}, {"bursts", bursts, 6, 3}, {"archive", archive, 1, 1}};

bool trace_make(const char *name, uint64_t seed, struct trace *trace)
{
    struct source sources[SOURCES] = {0};
    int count = 0;
    bool mixed = strcmp(name, "mixed") == 0;
    for (size_t way = 0; way < sizeof ways / sizeof *ways; way++)
        for (int i = 0; i < (mixed                               ? ways[way].mixed
                             : strcmp(name, ways[way].name) == 0 ? ways[way].alone
                                                                 : 0);
             i++) {
            sources[count] = (struct source){.speak = ways[way].speak, .number = i, .line = -1};
            sources[count].chance.state = seed * 1000003 + (uint64_t)count * 7919 + way;
            sources[count].t = uniform(&sources[count].chance) * 3600;
            count++;
        }
    while (count) {
        struct source *first = &sources[0];
        for (int i = 1; i < count; i++)
            if (sources[i].t < first->t) first = &sources[i];
        if (first->t > DAYS * 86400.0) break;
        first->speak(first, trace);
    }
    return count > 0;
}
