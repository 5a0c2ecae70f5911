/*
 * progress.c - see progress.h.
 *
 * The redrawn line holds the whole story, so that it is still worth reading when the job is done; with
 * caching there is a second one:
 *
 *     text ✓  denoise ████████████████████████ 30/30  18.2 ms a step   decode ✓
 *     computed ██▒▒█▒▒▒█▒▒▒█▒▒▒█▒▒▒█▒▒▒██████   13 computed, 17 reused: 1.9× faster than without
 *
 * A pipe gets a line for each phase, about ten of them for the denoising, and no control characters:
 *
 *     denoise 12/30  18.2 ms a step   0.3 s left
 */
#include "client/progress.h"

#include "client/jobjson.h"
#include "client/strip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INDENT = 9, BAR_CELLS = 24, LINE_BYTES = 2048, PIPE_COLUMNS = 250 };

struct progress {
    struct show_style style;
    enum progress_form form;
    int drawn;        /* lines that may be redrawn; the cursor stands at the end of the last */
    bool away;        /* the coordinator cannot be heard */
    unsigned attempt; /* the one that is shown */
    unsigned steps;   /* of the denoising, once known */
    unsigned step;    /* of the denoising, the latest */
    double step_seconds;
    unsigned steps_reused; /* of an equal run; then what they, and other things not made again, had taken */
    double reused_seconds;
    enum refrain_phase reached;    /* the latest phase of this attempt */
    enum refrain_state told_state; /* pipe: what the latest line was about */
    enum refrain_phase told_phase;
    unsigned told_part; /* and how many tenths of that phase */
    bool told_reused;
    struct strip strip; /* what caching made of the steps so far; the last notes may come without it */
};

struct progress *progress_new(const struct show_style *style, enum progress_form form)
{
    struct progress *progress = calloc(1, sizeof *progress);
    if (!progress) return NULL;
    progress->style = *style;
    progress->form = form;
    return progress;
}

void progress_destroy(struct progress *progress)
{
    progress_pause(progress);
    free(progress);
}

void progress_pause(struct progress *progress)
{
    if (!progress || !progress->drawn) return;
    fputc('\n', stdout);
    fflush(stdout);
    progress->drawn = 0;
}

/* Clears the lines that may be redrawn; the cursor is at the start of the first then. */
static void erase(struct progress *progress)
{
    printf("\r\033[K");
    for (; progress->drawn > 1; progress->drawn--) printf("\033[A\033[K");
    progress->drawn = 0;
}

void progress_header(const struct show_style *style, uint64_t number, const struct refrain_spec *spec)
{
    char head[SHOW_BYTES], size[SHOW_BYTES], facts[4 * SHOW_BYTES], prompt[SHOW_TEXT_BYTES];
    snprintf(head, sizeof head, "job %llu", (unsigned long long)number);
    int length =
        snprintf(facts, sizeof facts, "seed %llu, %u steps", (unsigned long long)spec->seed, spec->steps);
    if (spec->width)
        snprintf(facts + length, sizeof facts - (size_t)length, ", %s", show_size(style, spec, size));
    int room = style->columns - INDENT - 5 - show_width(facts);
    if (room < 16) room = 16;
    printf("%-*s \"%s\"   %s%s%s\n", INDENT - 1, head, show_fit(style, spec->prompt, room, prompt),
           show_colour(style, SHOW_DIM), facts, show_colour(style, SHOW_PLAIN));
    fflush(stdout);
}

/* ---------------------------------------------------------------------------------- the facts */

/* Learns from an event what later lines still show. */
static void note(struct progress *progress, const struct refrain_job *job)
{
    const struct refrain_progress *now = &job->progress;
    if (job->attempt != progress->attempt) {
        progress->attempt = job->attempt;
        progress->reached = REFRAIN_PHASE_NONE; /* the steps stay until the new attempt says where it goes on */
        progress->steps_reused = 0;
        progress->strip.count = 0;
    }
    struct strip strip = strip_of(job);
    if (strip.count) progress->strip = strip;
    if (job->spec.steps) progress->steps = job->spec.steps;
    if (job->state != REFRAIN_RUNNING && job->state != REFRAIN_CANCELLING && job->state != REFRAIN_COMPLETED)
        return;
    if (now->phase > progress->reached) progress->reached = now->phase;
    if (now->steps_reused) {
        progress->steps_reused = now->steps_reused;
        progress->reused_seconds = now->reused_seconds;
    }
    if (now->phase == REFRAIN_PHASE_DENOISE) {
        progress->step = now->step;
        if (now->steps) progress->steps = now->steps;
        if (now->step_seconds > 0) progress->step_seconds = now->step_seconds;
    }
    if (job->state != REFRAIN_COMPLETED) return;
    /* The final record is exact where the last live note was an estimate. */
    progress->reached = REFRAIN_PHASE_UPLOAD;
    progress->step = progress->steps;
    progress->steps_reused = job->times.steps_reused;
    progress->reused_seconds = job->times.reused_seconds;
    if (progress->steps > progress->steps_reused && job->times.denoise > 0)
        progress->step_seconds = job->times.denoise / (progress->steps - progress->steps_reused);
}

/* Where a job is that waits or has ended without completing. */
static void describe_state(const struct progress *progress, const struct refrain_job *job, char *line)
{
    char left[SHOW_BYTES], reason[SHOW_TEXT_BYTES];
    const struct show_style *style = &progress->style;
    char *at = line + sprintf(line, "%s", refrain_state_name(job->state));
    if (job->state == REFRAIN_QUEUED && job->ahead) at += sprintf(at, " (%u ahead", job->ahead);
    if (job->state == REFRAIN_QUEUED && job->ahead && job->progress.seconds_left > 0)
        at += sprintf(at, ", about %s", show_duration(style, job->progress.seconds_left, left));
    if (job->state == REFRAIN_QUEUED && job->ahead) at += sprintf(at, ")");
    if (job->message) sprintf(at, ": %s", show_fit(style, job->message, 400, reason));
}

static const char *tick(const struct progress *progress)
{
    return progress->style.unicode ? "✓" : "ok";
}

static char *describe_reused(const struct progress *progress, char *at)
{
    char seconds[SHOW_BYTES];
    return at + sprintf(at, "%u step%s of an equal run (%s saved)", progress->steps_reused,
                        progress->steps_reused > 1 ? "s" : "",
                        show_duration(&progress->style, progress->reused_seconds, seconds));
}

/* The part of the line about one phase, if it was reached. `cells` of bar, 0: none. */
static char *describe_denoise(const struct progress *progress, int cells, char *at)
{
    char bar[4 * SHOW_BYTES], time[SHOW_BYTES];
    at += sprintf(at, "  denoise ");
    if (progress->steps_reused && progress->step_seconds <= 0) return describe_reused(progress, at);
    if (cells > 0)
        at += sprintf(at, "%s ", show_bar(&progress->style, progress->step, progress->steps, cells, bar));
    at += sprintf(at, "%u/%u", progress->step, progress->steps);
    show_step_time(progress->step_seconds, time);
    at += sprintf(at, "%s%s", *time ? "  " : "", time);
    if (!progress->steps_reused) return at;
    return describe_reused(progress, at + sprintf(at, ", "));
}

static void describe_phases(const struct progress *progress, const struct refrain_job *job, int cells,
                            char *line)
{
    const struct refrain_progress *now = &job->progress;
    char left[SHOW_BYTES], bar[4 * SHOW_BYTES];
    enum refrain_phase reached = progress->reached;
    bool done = job->state == REFRAIN_COMPLETED;
    char *at = line;
    *at = 0;
    if (reached <= REFRAIN_PHASE_LOAD) at += sprintf(at, "load model");
    if (reached >= REFRAIN_PHASE_TEXT)
        at += sprintf(at, "text%s%s", reached > REFRAIN_PHASE_TEXT ? " " : "",
                      reached > REFRAIN_PHASE_TEXT ? tick(progress) : "");
    if (reached >= REFRAIN_PHASE_DENOISE || progress->step) at = describe_denoise(progress, cells, at);
    if (reached >= REFRAIN_PHASE_DECODE) at += sprintf(at, "   decode");
    if (reached == REFRAIN_PHASE_DECODE && now->steps)
        at +=
            sprintf(at, " %s%s%u/%u", cells ? show_bar(&progress->style, now->step, now->steps, 8, bar) : "",
                    cells ? " " : "", now->step, now->steps);
    if (reached > REFRAIN_PHASE_DECODE) at += sprintf(at, " %s", tick(progress));
    if (reached == REFRAIN_PHASE_ENCODE) at += sprintf(at, "  encode");
    if (reached == REFRAIN_PHASE_UPLOAD && !done) at += sprintf(at, "  upload");
    if (!done && now->seconds_left >= 0.05 && isfinite(now->seconds_left))
        at += sprintf(at, "   %s left", show_duration(&progress->style, now->seconds_left, left));
    if (job->state == REFRAIN_CANCELLING) sprintf(at, "   cancelling");
}

/* LINE_BYTES of room in `line`. */
static void describe(const struct progress *progress, const struct refrain_job *job, int cells, char *line)
{
    bool moving =
        job->state == REFRAIN_RUNNING || job->state == REFRAIN_CANCELLING || job->state == REFRAIN_COMPLETED;
    if (moving)
        describe_phases(progress, job, cells, line);
    else
        describe_state(progress, job, line);
}

/* --------------------------------------------------------------------------------- the drawing */

/* The lines about caching: how many there are, LINE_BYTES of room each. Where strip and words do not fit
 * beside each other the words get a line of their own. */
static int describe_caching(const struct progress *progress, int room, char lines[2][LINE_BYTES])
{
    enum { LABEL = 9, GAP = 3 };
    char cells[STRIP_BYTES], words[SHOW_TEXT_BYTES];
    const struct strip *strip = &progress->strip;
    if (strip->count == 0) return 0;
    strip_words(&progress->style, strip, words);
    bool beside = (int)strip->count <= room - LABEL - GAP - show_width(words);
    strip_cells(&progress->style, strip, room - LABEL, cells);
    snprintf(lines[0], LINE_BYTES, "computed %s%s%s", cells, beside ? "   " : "", beside ? words : "");
    snprintf(lines[1], LINE_BYTES, "%*s%s", LABEL, "", words);
    return beside ? 1 : 2;
}

/* Redraws the line; the bar gives way first when the terminal is narrow. */
static void draw(struct progress *progress, const struct refrain_job *job)
{
    char line[LINE_BYTES], caching[2][LINE_BYTES], fitted[SHOW_TEXT_BYTES];
    int room = progress->style.columns - INDENT - 1;
    describe(progress, job, BAR_CELLS, line);
    int over = show_width(line) - room;
    if (over > 0) describe(progress, job, over < BAR_CELLS - 4 ? BAR_CELLS - over : 0, line);
    erase(progress);
    printf("%*s%s", INDENT, "", show_fit(&progress->style, line, room, fitted));
    progress->drawn = 1;
    int count = describe_caching(progress, room, caching);
    for (int i = 0; i < count; i++, progress->drawn++)
        printf("\n%*s%s", INDENT, "", show_fit(&progress->style, caching[i], room, fitted));
    fflush(stdout);
    if (job->state == REFRAIN_QUEUED && job->attempt)
        progress_pause(progress); /* why it starts again stays readable */
}

/* The phase a job is in, without what came before it. */
static void describe_moment(const struct progress *progress, const struct refrain_job *job, char *line)
{
    char time[SHOW_BYTES], left[SHOW_BYTES];
    const struct refrain_progress *now = &job->progress;
    if (job->state != REFRAIN_RUNNING) {
        describe_state(progress, job, line);
        return;
    }
    char *at = line + sprintf(line, "%s", refrain_phase_name(now->phase));
    if (now->steps && (now->phase == REFRAIN_PHASE_DENOISE || now->phase == REFRAIN_PHASE_DECODE))
        at += sprintf(at, " %u/%u", now->step, now->steps);
    if (now->phase == REFRAIN_PHASE_DENOISE && *show_step_time(now->step_seconds, time))
        at += sprintf(at, "  %s", time);
    if (now->seconds_left >= 0.05 && isfinite(now->seconds_left))
        sprintf(at, "   %s left", show_duration(&progress->style, now->seconds_left, left));
}

/* A pipe gets a line when a phase or state begins, and for each tenth of a phase's steps. */
static void tell(struct progress *progress, const struct refrain_job *job)
{
    char line[LINE_BYTES], caching[2][LINE_BYTES];
    const struct refrain_progress *now = &job->progress;
    unsigned part = now->steps ? 10 * now->step / now->steps : 0;
    if (job->state != progress->told_state || now->phase != progress->told_phase) {
        progress->told_part = 0;
    } else if (part <= progress->told_part || job->state != REFRAIN_RUNNING) {
        return;
    }
    progress->told_state = job->state;
    progress->told_phase = now->phase;
    if (part > progress->told_part) progress->told_part = part;
    if (job->state == REFRAIN_RUNNING && now->phase == REFRAIN_PHASE_NONE) return; /* no news in it yet */
    if (progress->steps_reused && !progress->told_reused) {
        describe_reused(progress, line);
        printf("%*sdenoise %s\n", INDENT, "", line);
        progress->told_reused = true;
    }
    describe_moment(progress, job, line);
    printf("%*s%s\n", INDENT, "", line);
    int count = job->state == REFRAIN_COMPLETED ? describe_caching(progress, PIPE_COLUMNS, caching) : 0;
    for (int i = 0; i < count; i++) printf("%*s%s\n", INDENT, "", caching[i]);
    fflush(stdout);
}

void progress_event(struct progress *progress, const struct refrain_event *event)
{
    if (!progress || progress->form == PROGRESS_NONE) return;
    if (progress->form == PROGRESS_JSON) {
        jobjson_print(jobjson_event(event));
        return;
    }
    note(progress, &event->job);
    if (event->job.state == REFRAIN_ACCEPTED) return; /* passes at once into the queue */
    if (progress->style.terminal)
        draw(progress, &event->job);
    else
        tell(progress, &event->job);
}

void progress_away(struct progress *progress, bool away)
{
    if (!progress || progress->away == away || progress->form != PROGRESS_PERSON) return;
    progress->away = away;
    if (progress->style.terminal) erase(progress);
    printf("%*s%s\n", INDENT, "",
           away ? "the coordinator is away; waiting for it" : "the coordinator is back");
    fflush(stdout);
    progress->drawn = 0;
}
