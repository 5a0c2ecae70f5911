/* show.c - see show.h. No state of its own besides the process's locale. */
#include "client/show.h"

#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

enum { COLUMNS_ELSEWHERE = 100, MAX_BAR_CELLS = 40 };

void show_locale(void)
{
    static const char *const variables[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") == 0) return;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *value = getenv(variables[i]);
        if (value && *value) return; /* somebody wants it so */
    }
    setlocale(LC_CTYPE, "C.UTF-8"); /* containers say nothing and mean UTF-8 */
}

struct show_style show_style_of(int fd)
{
    struct show_style style = {.terminal = isatty(fd) == 1, .columns = COLUMNS_ELSEWHERE};
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    bool dumb = term && strcmp(term, "dumb") == 0;
    if (dumb) style.terminal = false;
    style.colour = style.terminal && !(no_color && *no_color);
    style.unicode = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    struct winsize window;
    if (style.terminal && ioctl(fd, TIOCGWINSZ, &window) == 0 && window.ws_col >= 20)
        style.columns = window.ws_col;
    return style;
}

/* ------------------------------------------------------------------------------------ numbers */

const char *show_duration(const struct show_style *style, double seconds, char out[SHOW_BYTES])
{
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e10)
        snprintf(out, SHOW_BYTES, "%s", style->unicode ? "—" : "-");
    else if (seconds < 9.95)
        snprintf(out, SHOW_BYTES, "%.1f s", seconds);
    else if (seconds < 59.5)
        snprintf(out, SHOW_BYTES, "%.0f s", seconds);
    else {
        long whole = lround(seconds);
        if (whole < 3600)
            snprintf(out, SHOW_BYTES, "%ldm %02lds", whole / 60, whole % 60);
        else if (whole < 86400)
            snprintf(out, SHOW_BYTES, "%ldh %02ldm", whole / 3600, whole % 3600 / 60);
        else
            snprintf(out, SHOW_BYTES, "%ldd %02ldh", whole / 86400, whole % 86400 / 3600);
    }
    return out;
}

const char *show_step_time(double seconds, char out[SHOW_BYTES])
{
    out[0] = 0;
    if (!isfinite(seconds) || seconds <= 0 || seconds > 1e6) return out;
    if (seconds < 0.9995)
        snprintf(out, SHOW_BYTES, "%.3g ms a step", seconds * 1e3);
    else
        snprintf(out, SHOW_BYTES, "%.3g s a step", seconds);
    return out;
}

const char *show_bytes(uint64_t bytes, char out[SHOW_BYTES])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 999.5) value /= 1000, unit++;
    snprintf(out, SHOW_BYTES, unit && value < 99.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}

const char *show_size(const struct show_style *style, const struct refrain_spec *spec, char out[SHOW_BYTES])
{
    const char *times = style->unicode ? "×" : "x";
    snprintf(out, SHOW_BYTES, "%u%s%u%s%u", spec->width, times, spec->height, times, spec->frames);
    return out;
}

const char *show_moment(uint64_t wall_ms, char out[SHOW_BYTES])
{
    time_t moment = (time_t)(wall_ms / 1000), now = time(NULL);
    struct tm parts;
    out[0] = 0;
    if (wall_ms == 0 || !localtime_r(&moment, &parts)) return out;
    strftime(out, SHOW_BYTES, llabs((long long)(now - moment)) < 86400 ? "%H:%M:%S" : "%Y-%m-%d %H:%M", &parts);
    return out;
}

const char *show_bar(const struct show_style *style, uint64_t done, uint64_t total, int cells,
                     char out[4 * SHOW_BYTES])
{
    if (cells > MAX_BAR_CELLS) cells = MAX_BAR_CELLS;
    if (done > total) done = total;
    /* In half cells, so that a short bar still moves. */
    int halves = total ? (int)((double)done / (double)total * 2 * cells) : 0;
    char *at = out;
    for (int cell = 0; cell < cells; cell++) {
        int fill = halves - 2 * cell;
        const char *glyph = style->unicode ? (fill >= 2   ? "█"
                                              : fill == 1 ? "▌"
                                                          : "─")
                                           : (fill >= 1 ? "#" : "-");
        at = stpcpy(at, glyph);
    }
    *at = 0;
    return out;
}

/* --------------------------------------------------------------------------------------- text */

/* The code point at *text, which moves on; U+FFFD and one byte for what is not UTF-8. */
static uint32_t next_code_point(const char **text)
{
    const unsigned char *at = (const unsigned char *)*text;
    int length = at[0] < 0x80 ? 1 : at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : at[0] >= 0xc2 ? 2 : 0;
    uint32_t point = length < 2 ? at[0] : at[0] & (0xffu >> (length + 1));
    for (int i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            length = 0;
        else
            point = point << 6 | (at[i] & 0x3f);
        if (length == 0) break;
    }
    *text += length ? length : 1;
    return length ? point : 0xfffd;
}

/* Columns of a code point; -1 for what must not reach a terminal: controls, and marks that reverse the
 * direction of the text around them. */
static int point_width(uint32_t point)
{
    if (point < 0x20 || (point >= 0x7f && point < 0xa0)) return -1;
    if ((point >= 0x202a && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069)) return -1;
    return point < 0x7f ? 1 : wcwidth((wchar_t)point);
}

/* Copies as much of `text` as fits; tells columns used, and whether all of it fitted. */
static char *copy_fitting(const char *text, int columns, char *at, const char *end, int *used, bool *all)
{
    *used = 0;
    while (*text) {
        const char *start = text;
        uint32_t point = next_code_point(&text);
        int width = point_width(point);
        size_t bytes = (size_t)(text - start);
        bool blank = point == '\n' || point == '\t' || point == '\r';
        if (width < 0 && !blank && point < 0x80) continue;
        bool plain = width < 0 || point == 0xfffd; /* stands for what cannot be shown here */
        if (plain) width = 1, bytes = 1;
        if (*used + width > columns || at + bytes >= end) {
            *all = false;
            return at;
        }
        if (plain)
            *at = blank ? ' ' : '?';
        else
            memcpy(at, start, bytes);
        at += bytes;
        *used += width;
    }
    *all = true;
    return at;
}

static char *fit(const struct show_style *style, const char *text, int columns, char *out, int *used)
{
    const char *mark = style->unicode ? "…" : "...";
    int mark_width = style->unicode ? 1 : 3;
    const char *end = out + SHOW_TEXT_BYTES - 8; /* room for the mark */
    bool all;
    char *at = copy_fitting(text ? text : "", columns, out, end, used, &all);
    if (!all && columns >= mark_width) {
        at = copy_fitting(text, columns - mark_width, out, end, used, &all);
        at = stpcpy(at, mark);
        *used += mark_width;
    }
    *at = 0;
    return at;
}

const char *show_fit(const struct show_style *style, const char *text, int columns, char out[SHOW_TEXT_BYTES])
{
    int used;
    fit(style, text, columns, out, &used);
    return out;
}

const char *show_column(const struct show_style *style, const char *text, int columns,
                        char out[SHOW_TEXT_BYTES])
{
    int used;
    char *at = fit(style, text, columns, out, &used);
    while (used++ < columns && at < out + SHOW_TEXT_BYTES - 1) *at++ = ' ';
    *at = 0;
    return out;
}

int show_width(const char *text)
{
    int width = 0;
    while (*text) {
        int columns = point_width(next_code_point(&text));
        if (columns > 0) width += columns;
    }
    return width;
}

/* ------------------------------------------------------------------------------------ colours */

const char *show_colour(const struct show_style *style, enum show_colour colour)
{
    static const char *const escapes[] = {"\033[0m",  "\033[2m",  "\033[1m",
                                          "\033[31m", "\033[32m", "\033[36m"};
    return style->colour ? escapes[colour] : "";
}

enum show_colour show_state_colour(enum refrain_state state)
{
    switch (state) {
    case REFRAIN_RUNNING:
    case REFRAIN_CANCELLING:
        return SHOW_CYAN;
    case REFRAIN_COMPLETED:
        return SHOW_GREEN;
    case REFRAIN_FAILED:
    case REFRAIN_EXPIRED:
        return SHOW_RED;
    case REFRAIN_CANCELLED:
        return SHOW_DIM;
    default:
        return SHOW_PLAIN;
    }
}
