/* strip.c - see strip.h. */
#include "client/strip.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Two branches, or two steps in one cell: what both became, or that something was computed and something not.
 */
static unsigned char together(unsigned char a, unsigned char b)
{
    if (a == b) return a;
    bool computed =
        a == REFRAIN_COMPUTED || b == REFRAIN_COMPUTED || a == REFRAIN_PARTLY || b == REFRAIN_PARTLY;
    return computed ? REFRAIN_PARTLY : REFRAIN_FORECAST;
}

static void add_step(struct strip *strip, unsigned char action)
{
    if (strip->count >= STRIP_STEPS || action >= STRIP_ACTIONS) return;
    strip->actions[strip->count++] = action;
    strip->counts[action]++;
}

static void add_report(struct strip *strip, const struct refrain_job *job)
{
    const struct refrain_cache_report *report = job->cache;
    size_t branches = report->branches;
    double run = report->run_seconds > 0 ? report->run_seconds : job->times.denoise;
    for (size_t step = 0; step < report->steps; step++) {
        const unsigned char *of = report->actions + step * branches;
        unsigned char action = of[0];
        for (size_t branch = 1; branch < branches; branch++) action = together(action, of[branch]);
        add_step(strip, action);
        for (size_t branch = 0; branch < branches && report->changes; branch++) {
            double change = report->changes[step * branches + branch];
            if (of[branch] != REFRAIN_COMPUTED && change > strip->largest) strip->largest = change;
        }
    }
    const struct refrain_comparison *both = report->comparison;
    strip->measured = both && both->cached_seconds > 0 && both->uncached_seconds > 0;
    if (strip->measured)
        strip->faster = both->uncached_seconds / both->cached_seconds;
    else if (run > 0)
        strip->faster = (run + report->seconds_saved) / run;
}

struct strip strip_of(const struct refrain_job *job)
{
    struct strip strip = {.ended = refrain_state_is_final(job->state), .largest = -1};
    char policy[SHOW_BYTES];
    if (strcmp(strip_policy(job->spec.cache, policy), "calibrate") == 0)
        return strip; /* nothing, on purpose */
    if (job->cache && job->cache->actions) {
        add_report(&strip, job);
        return strip;
    }
    for (size_t i = 0; i < job->progress.action_count; i++) add_step(&strip, job->progress.actions[i]);
    strip.largest = job->progress.largest_reused;
    return strip;
}

const char *strip_cells(const struct show_style *style, const struct strip *strip, int cells,
                        char out[STRIP_BYTES])
{
    static const char *const blocks[STRIP_ACTIONS] = {"█", "▒", "▓", "▓"};
    static const char *const plain[STRIP_ACTIONS] = {"#", "-", "+", "+"};
    const char *const *glyphs = style->unicode ? blocks : plain;
    size_t room = cells > STRIP_CELLS ? STRIP_CELLS : cells > 0 ? (size_t)cells : 0;
    if (room > strip->count) room = strip->count;
    char *at = out;
    *at = 0;
    for (size_t cell = 0; cell < room; cell++) {
        size_t step = cell * strip->count / room, end = (cell + 1) * strip->count / room;
        unsigned char action = strip->actions[step];
        while (++step < end) action = together(action, strip->actions[step]);
        at = stpcpy(at, glyphs[action]);
    }
    return out;
}

const char *strip_words(const struct show_style *style, const struct strip *strip, char out[SHOW_TEXT_BYTES])
{
    static const char *const names[STRIP_ACTIONS] = {"computed", "reused", "forecast", "partly computed"};
    size_t used = 0;
    out[0] = 0;
    if (strip->count == 0) return out;
    if (strip->ended && strip->counts[REFRAIN_COMPUTED] == strip->count) {
        snprintf(out, SHOW_TEXT_BYTES, "never reused a step: all %zu computed", strip->count);
        return out;
    }
    for (int i = 0; i < STRIP_ACTIONS; i++)
        if (strip->counts[i] || i == REFRAIN_COMPUTED)
            used += (size_t)snprintf(out + used, SHOW_TEXT_BYTES - used, "%s%u %s", used ? ", " : "",
                                     strip->counts[i], names[i]);
    if (strip->ended && strip->faster > 0 && isfinite(strip->faster))
        snprintf(out + used, SHOW_TEXT_BYTES - used, ": %.2g%s %s than without%s",
                 strip->faster >= 1 ? strip->faster : 1 / strip->faster, style->unicode ? "×" : "x",
                 strip->faster >= 1 ? "faster" : "slower", strip->measured ? "" : " (estimate)");
    return out;
}

const char *strip_policy(const char *text, char out[SHOW_BYTES])
{
    if (!text || !*text) text = "off";
    snprintf(out, SHOW_BYTES, "%.*s", (int)strcspn(text, ":"), text);
    return out;
}
