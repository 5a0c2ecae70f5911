/*
 * test_strip.c - the strip of a job's steps on a terminal: what is drawn for jobs of any length is put on a
 * screen as narrow as people have them, and must neither wrap nor leave anything of what was drawn before.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "client/progress.h"
#include "client/strip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 64, COLUMNS = 200, OUTPUT_BYTES = 1 << 22 };

/* ----------------------------------------------------------------------------------------------- a screen */

struct screen {
    int columns, row, column, rows;   /* rows: that were ever written to */
    char cells[ROWS][COLUMNS + 1][4]; /* UTF-8, "" where nothing is */
};

static void erase_to_end(struct screen *s)
{
    for (int i = s->column; i < COLUMNS; i++) s->cells[s->row][i][0] = 0;
}

/* Takes one character or escape sequence; what comes after it. */
static const char *screen_take(struct screen *s, const char *at)
{
    if (*at == '\r') return s->column = 0, at + 1;
    if (*at == '\n') {
        s->column = 0; /* as terminals do in their usual mode */
        if (++s->row >= s->rows) s->rows = s->row + 1;
        assert_true(s->row < ROWS);
        return at + 1;
    }
    if (strncmp(at, "\033[K", 3) == 0) return erase_to_end(s), at + 3;
    if (strncmp(at, "\033[A", 3) == 0) {
        assert_true(s->row-- > 0);
        return at + 3;
    }
    if (*at == '\033') return strchr(at, 'm') + 1; /* a colour */
    size_t bytes = 1;
    while ((at[bytes] & 0xc0) == 0x80) bytes++;
    if (s->column >= s->columns) fail_msg("wraps after %d columns: %.40s", s->columns, at);
    memcpy(s->cells[s->row][s->column], at, bytes);
    s->cells[s->row][s->column++][bytes] = 0;
    return at + bytes;
}

/* A row's text, without blanks at its end; valid until the next call. */
static const char *screen_row(const struct screen *s, int row)
{
    static char text[4 * COLUMNS + 1];
    size_t used = 0, end = 0;
    for (int i = 0; i < s->columns; i++) {
        const char *cell = s->cells[row][i];
        used += (size_t)sprintf(text + used, "%s", *cell ? cell : " ");
        if (*cell && strcmp(cell, " ") != 0) end = used;
    }
    text[end] = 0;
    return text;
}

/* -------------------------------------------------------------------------------------------------- a job */

/* A job of so many steps that computes every third, from its first live note to its report, as it is drawn on
 * a terminal of so many columns. */
static void draw(struct screen *screen, int columns, bool unicode, unsigned steps)
{
    static unsigned char actions[STRIP_STEPS];
    static char output[OUTPUT_BYTES];
    struct show_style style = {.terminal = true, .unicode = unicode, .columns = columns};
    struct refrain_event event = {.progress_only = true};
    struct refrain_job *job = &event.job;
    FILE *file = tmpfile();
    fflush(stdout);
    int kept = dup(STDOUT_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    struct progress *progress = progress_new(&style, PROGRESS_PERSON);
    job->number = 1, job->attempt = 1, job->state = REFRAIN_RUNNING, job->spec.steps = steps;
    job->spec.cache = (char[]){"interval:N=3"};
    job->progress.phase = REFRAIN_PHASE_DENOISE, job->progress.steps = steps,
    job->progress.step_seconds = 0.0182;
    job->progress.actions = actions;
    for (unsigned step = 0; step <= steps; step++) {
        job->progress.step = step, job->progress.action_count = step;
        job->progress.seconds_left = 0.02 * (steps - step);
        progress_event(progress, &event);
        if (step < steps) actions[step] = step % 3 ? REFRAIN_REUSED : REFRAIN_COMPUTED;
    }
    struct refrain_cache_report report = {
        .steps = steps, .branches = 1, .actions = actions, .seconds_saved = 1.2};
    event.progress_only = false;
    job->state = REFRAIN_COMPLETED, job->cache = &report, job->times.denoise = 1;
    progress_event(progress, &event);
    progress_destroy(progress);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    rewind(file);
    output[fread(output, 1, sizeof output - 1, file)] = 0;
    fclose(file);
    *screen = (struct screen){.columns = columns, .rows = 1};
    for (const char *at = output; *at;) at = screen_take(screen, at);
}

static void a_short_job_has_strip_and_words_on_one_line(void **state)
{
    static struct screen screen;
    draw(&screen, 100, true, 6);
    assert_int_equal(screen.rows, 3); /* what the job did, its strip, and the line after it */
    assert_string_equal(
        screen_row(&screen, 1),
        "         computed █▒▒█▒▒   2 computed, 4 reused: 2.2× faster than without (estimate)");
    assert_string_equal(screen_row(&screen, 2), "");
}

static void a_job_of_fifty_steps_fits_80_columns(void **state)
{
    static struct screen screen;
    draw(&screen, 80, true, 50);
    assert_int_equal(screen.rows, 4);
    assert_non_null(strstr(screen_row(&screen, 0), "50/50"));
    assert_string_equal(screen_row(&screen, 1),
                        "         computed █▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒▒█▒");
    assert_string_equal(screen_row(&screen, 2),
                        "                  17 computed, 33 reused: 2.2× faster than without (estimate)");
}

/* Whatever is drawn while it runs: screen_take fails where a line would wrap. */
static void jobs_of_any_length_fit_terminals_of_any_width(void **state)
{
    static const int widths[] = {20, 32, 40, 72, 80, 132, 200};
    static const unsigned lengths[] = {1, 2, 17, 61, 62, 100, 1000};
    static struct screen screen;
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++)
            for (int unicode = 0; unicode <= 1; unicode++) {
                draw(&screen, widths[w], unicode, lengths[n]);
                /* Of the lines drawn one over the other, those of the last time are left, and no more. */
                assert_true(screen.rows <= 4);
                for (int row = 3; row < ROWS; row++) assert_string_equal(screen_row(&screen, row), "");
                if (widths[w] >= 72 && screen.rows == 4)
                    assert_non_null(strstr(screen_row(&screen, 2), "reused"));
            }
}

int main(void)
{
    show_locale();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_job_has_strip_and_words_on_one_line),
        cmocka_unit_test(a_job_of_fifty_steps_fits_80_columns),
        cmocka_unit_test(jobs_of_any_length_fit_terminals_of_any_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
