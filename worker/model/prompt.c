/*
 * prompt.c - the reference's prompt cleaning: ftfy.fix_text, html.unescape twice, white space made single
 * spaces.
 *
 * Pure functions, any thread. Text is an array of code points while it is worked on; every step reads one
 * array and writes another. docs/models.md lists what of ftfy 6.3 is carried; in one sentence: everything
 * except the repair of text that was decoded with the wrong encoding. Sources of the rules: ftfy's
 * __init__.py, fixes.py, chardata.py, Python's html/__init__.py, and diffusers' pipelines/wan/pipeline_wan.py
 * (prompt_clean).
 */
#include "worker/model/tokenizer_parts.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "worker/model/entities.h"

/* Far above what the encoder reads (512 ids); bounds the repeated passes over nested references. */
enum { PROMPT_MAX_BYTES = 1 << 15 };

enum { REPLACEMENT = 0xFFFD };

/* -------------------------------------------------------------------------------------------- code points */

/* at: [count] code points, malloc'ed. `failed` is set when memory ran out and looked at once, at the end: so
 * a step reads like the rule it carries, and not like error handling. */
struct text {
    int32_t *at;
    size_t count, capacity;
    bool failed;
};

static void text_push(struct text *t, int32_t point)
{
    if (t->count == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 256;
        int32_t *grown = realloc(t->at, capacity * sizeof *grown);
        if (grown == NULL) {
            t->failed = true;
            return;
        }
        t->at = grown;
        t->capacity = capacity;
    }
    t->at[t->count++] = point;
}

/* text: valid UTF-8, NUL-terminated. */
static void text_push_utf8(struct text *t, const char *text)
{
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    while (*bytes) {
        utf8proc_int32_t point;
        bytes += utf8proc_iterate(bytes, -1, &point);
        text_push(t, point);
    }
}

static void text_swap(struct text *a, struct text *b)
{
    struct text c = *a;
    *a = *b;
    *b = c;
}

static bool text_equal(const struct text *a, const struct text *b)
{
    return a->count == b->count && (a->count == 0 || memcmp(a->at, b->at, a->count * sizeof *a->at) == 0);
}

static void text_free(struct text *t)
{
    free(t->at);
}

/* A step of the cleaning: reads `in`, appends to the empty `out`. */
typedef void step_fn(const struct text *in, struct text *out);

/* ----------------------------------------------------------------------------------- character references */

/* Bytes 0x80-0x9F as Windows-1252, which is what HTML and ftfy take C1 controls for; holes stay as they are.
 */
static const uint16_t windows_1252[32] = {0x20AC, 0x81,   0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021,
                                          0x2C6,  0x2030, 0x160,  0x2039, 0x152,  0x8D,   0x17D,  0x8F,
                                          0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                          0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0x9D,   0x17E,  0x178};

static bool is_digit(int32_t c)
{
    return c >= '0' && c <= '9';
}
static bool is_letter(int32_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int hex_value(int32_t c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* name: [length] ASCII code points. NULL if there is no such name. */
static const struct entity *entity_find(const int32_t *name, size_t length)
{
    char key[ENTITY_NAME_MAX + 1];
    if (length > ENTITY_NAME_MAX) return NULL;
    for (size_t i = 0; i < length; i++) {
        if (name[i] >= 0x80) return NULL;
        key[i] = (char)name[i];
    }
    key[length] = 0;
    size_t low = 0, high = ENTITY_COUNT;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(key, entities[middle].name);
        if (order == 0) return &entities[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* What a numeric reference stands for: the standard's repairs, U+FFFD where there is no character, nothing
 * (-1) for code points that text may not hold. */
static int32_t reference_value(int64_t number)
{
    if (number == 0) return REPLACEMENT;
    if (number == '\r') return '\r';
    if (number >= 0x80 && number <= 0x9F) return windows_1252[number - 0x80];
    if ((number >= 0xD800 && number <= 0xDFFF) || number > 0x10FFFF) return REPLACEMENT;
    bool control = number < 0x20 && number != '\t' && number != '\n' && number != '\f';
    bool noncharacter = (number & 0xFFFE) == 0xFFFE || (number >= 0xFDD0 && number <= 0xFDEF);
    if (control || noncharacter || number == 0x7F) return -1;
    return (int32_t)number;
}

/* Parses "#123" or "#x1f" at `at` (behind the &). Returns its length without semicolon, 0 if it is none. */
static size_t number_parse(const int32_t *at, size_t left, int64_t *number)
{
    if (left < 2 || at[0] != '#') return 0;
    int base = at[1] == 'x' || at[1] == 'X' ? 16 : 10;
    size_t first = base == 16 ? 2 : 1, i = first;
    int64_t value = 0;
    for (; i < left; i++) {
        int digit = hex_value(at[i]);
        if (digit < 0 || digit >= base) break;
        if (value <= 0x10FFFF) value = value * base + digit; /* larger ones are all the same */
    }
    if (i == first) return 0;
    *number = value;
    return i;
}

/* Python's html.unescape for the name at `at`: whole, or its longest known beginning. Returns how many code
 * points of the match are used up; 0: it stays as it is. */
static size_t name_unescape(const int32_t *at, size_t left, struct text *out)
{
    size_t length = 0;
    while (length < left && length < 32 &&
           strchr("\t\n\f <&#;", at[length] < 0x80 ? at[length] : 'x') == NULL)
        length++;
    if (length < left && length > 0 && at[length] == ';') {
        const struct entity *found = entity_find(at, length);
        if (found != NULL && found->kind != ENTITY_CAPITALS) {
            text_push_utf8(out, found->text);
            return length + 1;
        }
    }
    for (size_t n = length; n > 1; n--) {
        const struct entity *found = entity_find(at, n);
        if (found != NULL && found->kind == ENTITY_BARE) {
            text_push_utf8(out, found->text);
            return n;
        }
    }
    return 0;
}

/* The same for a numeric reference, whose semicolon is optional. */
static size_t number_unescape(const int32_t *at, size_t left, struct text *out)
{
    int64_t number;
    size_t used = number_parse(at, left, &number);
    if (used == 0) return 0;
    int32_t value = reference_value(number);
    if (value >= 0) text_push(out, value);
    return used + (used < left && at[used] == ';');
}

/* html.unescape: references with and without semicolon. */
static void html_unescape(const struct text *in, struct text *out)
{
    for (size_t i = 0, used; i < in->count; i += 1 + used) {
        const int32_t *rest = in->at + i + 1;
        size_t left = in->count - i - 1;
        bool reference = in->at[i] == '&';
        used = reference ? number_unescape(rest, left, out) : 0;
        if (reference && used == 0) used = name_unescape(rest, left, out);
        if (used == 0) text_push(out, in->at[i]);
    }
}

/* ftfy reads more carefully: a whole reference of at most 24 letters and digits that ends in a semicolon, and
 * a number must be all of it and not be the semicolon itself. Returns what is used up, 0: it stays. */
static size_t ftfy_reference(const int32_t *at, size_t left, struct text *out)
{
    size_t hash = left > 0 && at[0] == '#', length = hash;
    while (length < left && length - hash < 24 && (is_digit(at[length]) || is_letter(at[length]))) length++;
    if (length == hash || length == left || at[length] != ';') return 0;
    if (hash) {
        int64_t number;
        if (number_parse(at, left, &number) != length || number == ';') return 0;
        return number_unescape(at, left, out);
    }
    const struct entity *found = entity_find(at, length);
    if (found == NULL) return 0;
    text_push_utf8(out, found->text);
    return length + 1;
}

static void ftfy_unescape(const struct text *in, struct text *out)
{
    for (size_t i = 0, used; i < in->count; i += 1 + used) {
        used = in->at[i] == '&' ? ftfy_reference(in->at + i + 1, in->count - i - 1, out) : 0;
        if (used == 0) text_push(out, in->at[i]);
    }
}

/* --------------------------------------------------------------------------------- ftfy's character fixes */

/* Letters in one code point that were meant as two or three: typesetters' ligatures and Croatian digraphs. */
static const struct {
    int32_t point;
    const char *letters;
} ligatures[] = {
    {0x132, "IJ"},       {0x133, "ij"},  {0x149, "\u02bcn"}, {0x1C4, "D\u017d"}, {0x1C5, "D\u017e"},
    {0x1C6, "d\u017e"},  {0x1C7, "LJ"},  {0x1C8, "Lj"},      {0x1C9, "lj"},      {0x1CA, "NJ"},
    {0x1CB, "Nj"},       {0x1CC, "nj"},  {0x1F1, "DZ"},      {0x1F2, "Dz"},      {0x1F3, "dz"},
    {0xFB00, "ff"},      {0xFB01, "fi"}, {0xFB02, "fl"},     {0xFB03, "ffi"},    {0xFB04, "ffl"},
    {0xFB05, "\u017ft"}, {0xFB06, "st"},
};

static void fix_c1_and_ligatures(const struct text *in, struct text *out)
{
    for (size_t i = 0; i < in->count; i++) {
        int32_t c = in->at[i];
        const char *letters = NULL;
        if (c >= 0x80 && c <= 0x9F) c = windows_1252[c - 0x80];
        for (size_t k = 0; c >= 0x132 && k < sizeof ligatures / sizeof *ligatures; k++)
            if (ligatures[k].point == c) letters = ligatures[k].letters;
        if (letters != NULL)
            text_push_utf8(out, letters);
        else
            text_push(out, c);
    }
}

/* Full-width Latin, half-width Katakana and Hangul, the ideographic space: their NFKC forms. */
static void fix_width(const struct text *in, struct text *out)
{
    for (size_t i = 0; i < in->count; i++) {
        int32_t c = in->at[i], wide[8];
        int boundary = 0;
        if (c == 0x3000) {
            text_push(out, ' ');
        } else if (c >= 0xFF01 && c <= 0xFFEF) {
            utf8proc_ssize_t n =
                utf8proc_decompose_char(c, wide, 8, UTF8PROC_COMPAT | UTF8PROC_COMPOSE, &boundary);
            if (n < 1 || n > 8) n = 1, wide[0] = c;
            n = utf8proc_normalize_utf32(wide, n, UTF8PROC_COMPAT | UTF8PROC_COMPOSE | UTF8PROC_STABLE);
            for (utf8proc_ssize_t k = 0; k < n; k++) text_push(out, wide[k]);
        } else {
            text_push(out, c);
        }
    }
}

static void fix_quotes_and_line_breaks(const struct text *in, struct text *out)
{
    for (size_t i = 0; i < in->count; i++) {
        int32_t c = in->at[i];
        if (c >= 0x201C && c <= 0x201F)
            c = '"';
        else if (c == 0x2BC || (c >= 0x2018 && c <= 0x201B))
            c = '\'';
        else if (c == 0x2028 || c == 0x2029)
            c = '\n';
        else if (c == '\r') {
            if (i + 1 < in->count && in->at[i + 1] == '\n') continue;
            c = '\n';
        }
        text_push(out, c);
    }
}

static bool is_control(int32_t c)
{
    if (c < 0x20) return c != '\t' && c != '\n' && c != '\f' && c != '\r';
    return c == 0x7F || (c >= 0x206A && c <= 0x206F) || c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFC);
}

/* Terminal colours, ESC [ digits and semicolons, a letter; then characters without any visible effect. */
static void remove_escapes_and_controls(const struct text *in, struct text *out)
{
    for (size_t i = 0; i < in->count; i++) {
        if (in->at[i] == 0x1B && i + 1 < in->count && in->at[i + 1] == '[') {
            size_t end = i + 2;
            while (end < in->count &&
                   (in->at[end] == ';' || utf8proc_category(in->at[end]) == UTF8PROC_CATEGORY_ND))
                end++;
            if (end < in->count && is_letter(in->at[end])) {
                i = end;
                continue;
            }
        }
        if (!is_control(in->at[i])) text_push(out, in->at[i]);
    }
}

/* Canonical composition (NFC). Nothing below U+0300 composes with anything below it. */
static void compose(const struct text *in, struct text *out)
{
    bool inert = true;
    for (size_t i = 0; i < in->count; i++) inert = inert && in->at[i] < 0x300;
    if (inert) {
        for (size_t i = 0; i < in->count; i++) text_push(out, in->at[i]);
        return;
    }
    /* utf8proc decomposes and orders whole strings only from UTF-8. */
    utf8proc_uint8_t *bytes = malloc(4 * in->count), *composed = NULL;
    utf8proc_ssize_t length = 0;
    if (bytes != NULL) {
        for (size_t i = 0; i < in->count; i++) length += utf8proc_encode_char(in->at[i], bytes + length);
        length = utf8proc_map(bytes, length, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    }
    out->failed = out->failed || composed == NULL;
    for (utf8proc_ssize_t i = 0; composed != NULL && i < length;) {
        utf8proc_int32_t point;
        i += utf8proc_iterate(composed + i, length - i, &point);
        text_push(out, point);
    }
    free(composed);
    free(bytes);
}

/* fix_text_segment: all fixes in ftfy's order, again and again until nothing changes. `a` is changed in
 * place. */
static void fix_segment(struct text *a, bool unescape)
{
    static step_fn *const fixes[] = {ftfy_unescape,
                                     fix_c1_and_ligatures,
                                     fix_width,
                                     fix_quotes_and_line_breaks,
                                     remove_escapes_and_controls,
                                     compose};
    struct text before = {0}, b = {0};
    do {
        before.count = 0;
        for (size_t i = 0; i < a->count; i++) text_push(&before, a->at[i]);
        for (size_t k = unescape ? 0 : 1; k < sizeof fixes / sizeof *fixes; k++) {
            b.count = 0;
            fixes[k](a, &b);
            text_swap(a, &b);
        }
        a->failed = a->failed || b.failed || before.failed;
    } while (!a->failed && !text_equal(a, &before));
    text_free(&before);
    text_free(&b);
}

/* fix_text: line by line. From the first line with a '<' on, the text counts as HTML and references are left
 * to html.unescape. */
static void fix_text(const struct text *in, struct text *out)
{
    bool unescape = true;
    for (size_t begin = 0, end; begin < in->count && !out->failed; begin = end) {
        struct text segment = {0};
        for (end = begin; end < in->count; end++) {
            text_push(&segment, in->at[end]);
            if (in->at[end] == '<') unescape = false;
            if (in->at[end] == '\n') {
                end++;
                break;
            }
        }
        fix_segment(&segment, unescape);
        for (size_t i = 0; i < segment.count; i++) text_push(out, segment.at[i]);
        out->failed = out->failed || segment.failed;
        text_free(&segment);
    }
}

/* ----------------------------------------------------------------------------------------------- the rest */

bool prompt_is_space(int32_t c)
{
    return (c >= 0x9 && c <= 0xD) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

static void collapse_spaces(const struct text *in, struct text *out)
{
    bool gap = false;
    for (size_t i = 0; i < in->count; i++) {
        if (prompt_is_space(in->at[i])) {
            gap = out->count > 0;
        } else {
            if (gap) text_push(out, ' ');
            gap = false;
            text_push(out, in->at[i]);
        }
    }
}

static status_t decode(const char *text, struct text *out, struct error *error)
{
    size_t length = strnlen(text, PROMPT_MAX_BYTES + 1);
    if (length > PROMPT_MAX_BYTES)
        return error_set(error, STATUS_INVALID, "prompt is longer than %d bytes", PROMPT_MAX_BYTES);
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(length - i), &point);
        if (n < 1)
            return error_set(error, STATUS_INVALID, "prompt is not valid UTF-8: byte %zu is 0x%02x", i,
                             (unsigned char)text[i]);
        text_push(out, point);
        i += (size_t)n;
    }
    return STATUS_OK;
}

/* Returns a malloc'ed, NUL-terminated string, or NULL. */
static char *encode(const struct text *in)
{
    char *text = malloc(4 * in->count + 1);
    if (text == NULL) return NULL;
    size_t length = 0;
    for (size_t i = 0; i < in->count; i++)
        length += (size_t)utf8proc_encode_char(in->at[i], (utf8proc_uint8_t *)text + length);
    text[length] = 0;
    return text;
}

status_t prompt_clean(const char *text, char **cleaned, struct error *error)
{
    static step_fn *const steps[] = {fix_text, html_unescape, html_unescape, collapse_spaces};
    struct text a = {0}, b = {0};
    status_t status = decode(text, &a, error);
    if (status != STATUS_OK) goto done;
    for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
        b.count = 0;
        steps[k](&a, &b);
        text_swap(&a, &b);
    }
    char *result = a.failed || b.failed ? NULL : encode(&a);
    if (result == NULL) {
        status =
            error_set(error, STATUS_NO_MEMORY, "a prompt of %zu characters does not fit in memory", a.count);
        goto done;
    }
    *cleaned = result;
done:
    text_free(&a);
    text_free(&b);
    return status;
}
