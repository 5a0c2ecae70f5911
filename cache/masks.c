/*
 * masks.c - published step masks, and masks as people write them. See masks.h and table.h.
 *
 * LeMiCa (arXiv 2511.00090, code UnicomAI/LeMiCa): steps chosen offline for one model and number of steps;
 * the authors do not stretch them, so neither do we. SCM (steps computation mask, vipshop/cache-dit): runs of
 * computed and cached steps made for 28 steps; stretched and cut as cache-dit 1.5.3 does, which
 * tests/golden/cache/masks.json checks.
 */
#include "cache/masks.h"

#include <ctype.h>
#include <string.h>
#include "cache/policy.h"

struct published {
    const char *name;
    int steps;            /* 0: any */
    const char *computed; /* NULL: a recipe of SCM, the part of the name after "scm-" */
};

/* clang-format off */
#define PUBLISHED_MASKS(MASK) \
    MASK("lemica-wan2.1-1.3b-25", 50, "0-12+14+16+18+21+24+29+35+40+44+47-49")          \
    MASK("lemica-wan2.1-1.3b-20", 50, "0-9+11+13+16+20+26+33+40+45+48+49")              \
    MASK("lemica-wan2.1-1.3b-17", 50, "0-8+10+13+18+25+32+39+46+49")                    \
    MASK("lemica-wan2.1-1.3b-14", 50, "0-5+7+10+16+23+30+37+44+49")                     \
    MASK("lemica-wan2.1-14b-25", 50, "0-11+13+15+18+21+25+29+34+38+42+45+47-49")        \
    MASK("lemica-wan2.1-14b-20", 50, "0-9+11+14+18+23+29+36+42+46+48+49")               \
    MASK("lemica-wan2.1-14b-17", 50, "0-7+9+12+16+22+29+36+43+47+49")                   \
    MASK("lemica-wan2.1-14b-14", 50, "0-5+7+10+17+24+31+38+45+49")                      \
    MASK("lemica-wan2.1-i2v-25", 40, "0-10+12+14+16+18+21+24+27+30+32+34+36-39")        \
    MASK("lemica-wan2.1-i2v-20", 40, "0-6+8+10+12+15+18+21+25+29+32+35+37-39")          \
    MASK("lemica-wan2.1-i2v-17", 40, "0-5+7+9+12+15+19+24+29+33+36+38+39")              \
    MASK("lemica-wan2.1-i2v-14", 40, "0-4+6+8+11+15+22+29+34+37+39")                    \
    MASK("lemica-flux.1-dev-26", 50, "0-10+12+15+18+20+25+30+35+39+42+44-49")           \
    MASK("lemica-flux.1-dev-20", 50, "0-7+9+12+15+19+24+31+38+43+46-49")                \
    MASK("lemica-flux.1-dev-15", 50, "0-5+7+10+15+20+27+34+41+47+49")                   \
    MASK("lemica-flux.1-dev-10", 50, "0+1+3+7+14+21+28+35+42+49")                       \
    MASK("lemica-flux.2-dev-26", 50, "0-20+27+34+41+47+49")                             \
    MASK("lemica-flux.2-dev-20", 50, "0-14+21+28+35+42+49")                             \
    MASK("lemica-flux.2-dev-15", 50, "0-5+8+9+15+21+27+33+39+45+49")                    \
    MASK("lemica-flux.2-klein-26", 50, "0-20+25+35+43+47+49")                           \
    MASK("lemica-flux.2-klein-20", 50, "0-14+22+32+42+47+49")                           \
    MASK("lemica-flux.2-klein-15", 50, "0-9+17+25+33+41+49")                            \
    MASK("lemica-flux.2-klein-10", 50, "0+1+4+5+9+17+25+33+41+49")                      \
    MASK("lemica-qwen-image-25", 50, "0-19+26+33+36+42+49")                             \
    MASK("lemica-qwen-image-17", 50, "0-10+15+22+29+36+42+49")                          \
    MASK("lemica-qwen-image-10", 50, "0+1+3+7+14+21+28+35+42+49")                       \
    MASK("lemica-qwen-image-2512-slow", 50, "0-10+12+14+16+19+23+28+34+39+42+44+46-49") \
    MASK("lemica-qwen-image-2512-medium", 50, "0-7+9+12+19+26+33+40+46+48+49")          \
    MASK("lemica-qwen-image-2512-fast", 50, "0+2+4+8+15+22+29+36+43+49")                \
    MASK("lemica-hunyuanvideo-1.5-25", 50, "0-13+15+17+19+21+24+28+33+39+45+48+49")     \
    MASK("lemica-hunyuanvideo-1.5-20", 50, "0-11+13+15+18+22+28+36+44+49")              \
    MASK("lemica-hunyuanvideo-1.5-15", 50, "0-6+8+10+13+17+25+33+41+49")                \
    MASK("lemica-hunyuanvideo-1.5-10", 50, "0+1+3+5+9+17+25+33+41+49")                  \
    MASK("lemica-ernie-image-25", 50, "0-16+22+31+38+43+46-49")                         \
    MASK("lemica-ernie-image-17", 50, "0-10+17+27+37+44+48+49")                         \
    MASK("lemica-ernie-image-10", 50, "0+1+3+7+14+21+28+35+42+49")                      \
    MASK("lemica-z-image-8", 10, "0+1+2+3+5+7+8+9")                                     \
    MASK("lemica-z-image-7", 10, "0+1+2+4+6+8+9")                                       \
    MASK("lemica-z-image-6", 10, "0+1+2+5+8+9")                                         \
    MASK("scm-slow", 0, NULL)                                                           \
    MASK("scm-medium", 0, NULL)                                                         \
    MASK("scm-fast", 0, NULL)                                                           \
    MASK("scm-ultra", 0, NULL)
#define AS_ROW(name, steps, computed) {name, steps, computed},
#define AS_NAME(name, steps, computed) name,
static const struct published published[] = {PUBLISHED_MASKS(AS_ROW)};
static const char *const names[] = {PUBLISHED_MASKS(AS_NAME) NULL};
/* clang-format on */

const char *const *mask_names(void)
{
    return names;
}

static const struct published *find_published(const char *name)
{
    for (size_t i = 0; i < sizeof published / sizeof *published; i++)
        if (strcmp(published[i].name, name) == 0) return &published[i];
    return NULL;
}

const char *mask_about(int index, int *steps)
{
    *steps = published[index].steps;
    if (published[index].computed == NULL)
        return "cache-dit's steps computation mask, stretched from 28 steps";
    return published[index].computed;
}

/* ------------------------------------------------------------------------------------------------- SCM */

enum { BINS = 6, SCM_STEPS = 28, SCM_RECIPES = 4 };

/* Runs of computed and of cached steps in turn: computed[0], cached[0], computed[1], ... */
struct bins {
    int computed[BINS], cached[BINS];
    int computed_count, cached_count;
};

static const char *const scm_names[SCM_RECIPES] = {"scm-slow", "scm-medium", "scm-fast", "scm-ultra"};

static const struct bins scm_28[SCM_RECIPES] = {
    {{8, 3, 3, 2, 1, 1}, {1, 2, 2, 2, 3}, 6, 5},
    {{6, 2, 2, 2, 2, 1}, {1, 3, 3, 3, 3}, 6, 5},
    {{6, 1, 1, 1, 1, 1}, {1, 3, 4, 5, 4}, 6, 5},
    {{4, 1, 1, 1, 1}, {2, 5, 6, 7}, 5, 4},
};
/* For models distilled to few steps. */
static const struct bins scm_15[SCM_RECIPES] = {
    {{4, 2, 2, 2, 1}, {1, 1, 1, 1}, 5, 4},
    {{4, 2, 1, 1, 1}, {1, 1, 2, 2}, 5, 4},
    {{3, 1, 1, 1, 1}, {1, 2, 2, 3}, 5, 4},
    {{2, 1, 1, 1, 1}, {1, 2, 3, 3}, 5, 4},
};
static const struct bins scm_9[SCM_RECIPES] = {
    {{5, 2, 1}, {1}, 3, 1},
    {{5, 1, 1}, {1, 1}, 3, 2},
    {{4, 1, 1}, {1, 2}, 3, 2},
    {{3, 1, 1}, {2, 2}, 3, 2},
};
static const struct bins scm_8[SCM_RECIPES] = {
    {{5, 1, 1}, {1}, 3, 1},
    {{4, 1, 1}, {1, 1}, 3, 2},
    {{3, 1, 1}, {1, 2}, 3, 2},
    {{2, 1, 1}, {2, 2}, 3, 2},
};
static const struct bins scm_6 = {{3, 1}, {2}, 2, 1};
static const struct bins scm_4 = {{2, 1}, {1}, 2, 1};

static int sum(const struct bins *bins)
{
    int steps = 0;
    for (int i = 0; i < bins->computed_count; i++) steps += bins->computed[i];
    for (int i = 0; i < bins->cached_count; i++) steps += bins->cached[i];
    return steps;
}

static int growth(int original, int steps)
{
    int more = (int)(original * ((double)steps / SCM_STEPS * 0.5));
    return more > 1 ? more : 1;
}

/* Runs grow one after the other, from the front, until they cover `steps`. */
static void stretch(struct bins *bins, int steps)
{
    const struct bins original = *bins;
    int pairs = bins->cached_count < bins->computed_count ? bins->cached_count : bins->computed_count;
    while (sum(bins) < steps) {
        for (int i = 0; i < pairs; i++) {
            bins->computed[i] += growth(original.computed[i], steps);
            if (sum(bins) >= steps) return;
            bins->cached[i] += growth(original.cached[i], steps);
            if (sum(bins) >= steps) return;
        }
        bins->computed[bins->computed_count - 1]++;
    }
}

static void shorten(int *runs, int *count)
{
    if (*count == 0) return;
    if (--runs[*count - 1] == 0) --*count;
}

/* One step less at the end of the cached runs, then of the computed ones, in turn. */
static void cut(struct bins *bins, int steps)
{
    while (sum(bins) > steps) {
        shorten(bins->cached, &bins->cached_count);
        if (sum(bins) <= steps) return;
        shorten(bins->computed, &bins->computed_count);
    }
}

static status_t scm_bins(int recipe, int steps, struct bins *bins, struct error *error)
{
    if (steps >= 16)
        *bins = scm_28[recipe];
    else if (steps > 9)
        *bins = scm_15[recipe];
    else if (steps >= 8)
        *bins = steps == 9 ? scm_9[recipe] : scm_8[recipe];
    else if (steps == 6 || steps == 4)
        *bins = steps == 6 ? scm_6 : scm_4;
    else
        return error_set(error, STATUS_INVALID,
                         "mask %s: is made for 4, 6 or at least 8 steps, the job has %d", scm_names[recipe],
                         steps);
    stretch(bins, steps);
    cut(bins, steps);
    return STATUS_OK;
}

static status_t resolve_scm(const char *name, int steps, unsigned char *mask, struct error *error)
{
    int recipe = 0;
    while (strcmp(scm_names[recipe], name) != 0) recipe++;
    struct bins bins = {0};
    status_t status = scm_bins(recipe, steps, &bins, error);
    if (status != STATUS_OK) return status;
    int at = 0;
    for (int i = 0; i < BINS; i++) {
        for (int n = i < bins.computed_count ? bins.computed[i] : 0; n > 0; n--) mask[at++] = 1;
        for (int n = i < bins.cached_count ? bins.cached[i] : 0; n > 0; n--) mask[at++] = 0;
    }
    mask[steps - 1] = 1;
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------- as text */

/* Digits only and 0 or 1 each: a digit per step. */
static bool is_digits(const char *text)
{
    return *text != 0 && text[strspn(text, "01")] == 0;
}

/* A step index at *at, which moves behind it; -1: none, or above what any job has. */
static int read_step(const char **at)
{
    int step = 0;
    if (!isdigit((unsigned char)**at)) return -1;
    for (; isdigit((unsigned char)**at); ++*at) {
        step = step * 10 + (**at - '0');
        if (step >= CACHE_STEPS) return -1;
    }
    return step;
}

/* "0-9+14+19" into mask [steps]; NULL: only looks whether it can be read. Steps must ascend. */
static status_t read_list(const char *text, int steps, unsigned char *mask, struct error *error)
{
    const char *at = text;
    int next = 0;
    for (;;) {
        const char *from = at;
        int first = read_step(&at), last = first;
        if (first >= 0 && *at == '-') {
            at++;
            last = read_step(&at);
        }
        if (first < next || last < first || (*at != 0 && *at != '+'))
            return error_set(
                error, STATUS_INVALID,
                "mask: '%.40s': must be 0/1 for each step, steps in order such as 0-9+14+19, or a "
                "published name (scm-slow, ...: `refrain policies masks`)",
                from);
        if (mask != NULL && last >= steps)
            return error_set(error, STATUS_INVALID, "mask has step %d, the last of the job is %d", last,
                             steps - 1);
        for (int step = first; mask != NULL && step <= last; step++) mask[step] = 1;
        next = last + 1;
        if (*at++ == 0) return STATUS_OK;
    }
}

status_t mask_check(const char *text, struct error *error)
{
    if (find_published(text) != NULL || is_digits(text)) return STATUS_OK;
    return read_list(text, 0, NULL, error);
}

status_t mask_resolve(const char *text, int steps, unsigned char *mask, struct error *error)
{
    unsigned char read[CACHE_STEPS] = {0};
    status_t status = STATUS_OK;
    if (steps < 1 || steps > CACHE_STEPS)
        return error_set(error, STATUS_INVALID, "mask: a job of %d steps: must be 1 to %d", steps,
                         CACHE_STEPS);
    const struct published *named = find_published(text);
    if (named != NULL && named->computed == NULL) {
        status = resolve_scm(text, steps, read, error);
    } else if (named != NULL && named->steps != steps) {
        return error_set(error, STATUS_INVALID, "mask %s: is made for %d steps, the job has %d", text,
                         named->steps, steps);
    } else if (named == NULL && is_digits(text)) {
        if (strlen(text) != (size_t)steps)
            return error_set(error, STATUS_INVALID, "mask has %zu steps, the job %d", strlen(text), steps);
        for (int i = 0; i < steps; i++) read[i] = text[i] == '1';
    } else {
        status = read_list(named != NULL ? named->computed : text, steps, read, error);
    }
    if (status == STATUS_OK) memcpy(mask, read, (size_t)steps);
    return status;
}
