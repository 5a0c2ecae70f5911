/*
 * show.h - how things look to a person: durations, sizes, bars, text that fits a column.
 *
 *     struct show_style style = show_style_of(STDOUT_FILENO);
 *     char left[SHOW_BYTES], prompt[SHOW_TEXT_BYTES];
 *     printf("%s  %s\n", show_duration(&style, 130, left), show_fit(&style, job->spec.prompt, 40, prompt));
 *
 * Each function writes into the caller's buffer and returns it. What comes from outside (prompts, labels,
 * host names) passes through show_fit, which lets no control character through to the terminal. Any thread;
 * the locale of LC_CTYPE must have been set once before (show_locale).
 */
#ifndef REFRAIN_CLIENT_SHOW_H
#define REFRAIN_CLIENT_SHOW_H

#include "client/librefrain.h"

enum { SHOW_BYTES = 64, SHOW_TEXT_BYTES = 1024 };

struct show_style {
    bool terminal; /* lines may be redrawn */
    bool colour;   /* a terminal, and NO_COLOR (no-color.org) is not set */
    bool unicode;  /* blocks and ticks; otherwise plain ASCII */
    int columns;   /* of the terminal, 100 elsewhere */
};

/* Sets LC_CTYPE from the environment; where that says nothing at all, UTF-8 is assumed. Once, from main. */
void show_locale(void);

struct show_style show_style_of(int fd);

/* "0.4 s", "48 s", "2m 10s", "3h 05m"; a dash for what is negative or not finite. */
const char *show_duration(const struct show_style *style, double seconds, char out[SHOW_BYTES]);

/* "18.2 ms a step", "1.38 s a step"; "" if unknown. */
const char *show_step_time(double seconds, char out[SHOW_BYTES]);

/* "19.4 MB" (powers of 1000). */
const char *show_bytes(uint64_t bytes, char out[SHOW_BYTES]);

/* "64×64×17" */
const char *show_size(const struct show_style *style, const struct refrain_spec *spec, char out[SHOW_BYTES]);

/* "12:31:07" for less than a day ago or ahead, otherwise "2026-03-01 12:31"; local time; "" for 0. */
const char *show_moment(uint64_t wall_ms, char out[SHOW_BYTES]);

/* A bar of `cells` columns (at most 40) that is full when done == total. */
const char *show_bar(const struct show_style *style, uint64_t done, uint64_t total, int cells,
                     char out[4 * SHOW_BYTES]);

/* `text` (UTF-8, NULL: "") on one line in at most `columns` columns, cut with an ellipsis. */
const char *show_fit(const struct show_style *style, const char *text, int columns,
                     char out[SHOW_TEXT_BYTES]);

/* The same, filled up with blanks to exactly `columns`. */
const char *show_column(const struct show_style *style, const char *text, int columns,
                        char out[SHOW_TEXT_BYTES]);

/* Columns that `text`, as made by the functions above, takes on the terminal. */
int show_width(const char *text);

enum show_colour { SHOW_PLAIN, SHOW_DIM, SHOW_BOLD, SHOW_RED, SHOW_GREEN, SHOW_CYAN };

/* The escape sequence, or "" where there are no colours. */
const char *show_colour(const struct show_style *style, enum show_colour colour);
enum show_colour show_state_colour(enum refrain_state state);

#endif
