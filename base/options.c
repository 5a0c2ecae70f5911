/*
 * options.c - see options.h. Runs on the main thread before anything else is started; holds no locks.
 *
 * Values are read in the order of weakness: defaults, configuration file, environment, flags. Flags are
 * looked at first all the same, because one of them may name the file: the first pass only collects them.
 */
#include "base/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONG_OPTION_BASE = 256, CONFIG_MAX_BYTES = 1 << 20, HELP_COLUMN = 30, HELP_WIDTH = 100 };

struct options {
    const struct option_table *table;
    bool *given; /* [table->count] */
    const char *
        *flags;      /* [table->count] what the command line said, borrowed from argv; "" for a bare flag */
    char **operands; /* borrowed from argv */
    int operand_count;
    char *config; /* the configuration file's text; values point into it */
};

/* ---------------------------------------------------------------------------------------- reading a value */

static status_t out_of_range(const char *name, const char *text, double min, double max, struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s %s: must be %.15g to %.15g", name, text, min, max);
}

static bool has_range(double min, double max)
{
    return min != 0 || max != 0;
}

status_t option_read_int(const char *name, const char *text, double min, double max, int64_t *value,
                         struct error *error)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end || isspace((unsigned char)*text))
        return error_set(error, STATUS_INVALID, "%s '%s': must be a whole number", name, text);
    bool fits = errno == 0 && (!has_range(min, max) || ((double)number >= min && (double)number <= max));
    if (!fits && has_range(min, max)) return out_of_range(name, text, min, max, error);
    if (!fits) return error_set(error, STATUS_INVALID, "%s %s: too large", name, text);
    *value = number;
    return STATUS_OK;
}

static status_t read_uint64(const char *name, const char *text, uint64_t *value, struct error *error)
{
    char *end;
    errno = 0;
    /* strtoull would take "-1" and wrap it. */
    if (!isdigit((unsigned char)*text))
        return error_set(error, STATUS_INVALID, "%s '%s': must be a whole number from 0 up", name, text);
    unsigned long long number = strtoull(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
    if (*end)
        return error_set(error, STATUS_INVALID, "%s '%s': must be a whole number from 0 up", name, text);
    if (errno) return error_set(error, STATUS_INVALID, "%s %s: must be below 2^64", name, text);
    *value = number;
    return STATUS_OK;
}

status_t option_read_real(const char *name, const char *text, double min, double max, double *value,
                          struct error *error)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || isspace((unsigned char)*text))
        return error_set(error, STATUS_INVALID, "%s '%s': must be a number", name, text);
    if (!isfinite(number)) return error_set(error, STATUS_INVALID, "%s %s: must be finite", name, text);
    if (has_range(min, max) && (number < min || number > max))
        return out_of_range(name, text, min, max, error);
    *value = number;
    return STATUS_OK;
}

/* Milliseconds of a unit; 0 for text that is none. *length: characters the unit takes. */
static int64_t duration_unit(const char *text, size_t *length)
{
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        *length = strlen(units[i].name);
        if (strncmp(text, units[i].name, *length) == 0) return units[i].ms;
    }
    return 0;
}

status_t option_read_duration(const char *name, const char *text, int64_t *milliseconds, struct error *error)
{
    static const double limit_ms = 1e15; /* thirty thousand years: far inside int64 */
    double sum = 0;
    const char *at = text;
    do {
        char *end = (char *)at;
        /* Digits only at the start of each part: no sign, no "inf". */
        double number = isdigit((unsigned char)*at) ? strtod(at, &end) : NAN;
        size_t length = 0;
        int64_t unit = isnan(number) ? 0 : *end ? duration_unit(end, &length) : at == text ? 1000 : 0;
        if (unit == 0)
            return error_set(error, STATUS_INVALID, "%s '%s': must be a duration such as 90s, 10m or 1h30m",
                             name, text);
        sum += number * (double)unit;
        at = end + (*end ? length : 0);
    } while (*at);
    if (sum > limit_ms) return error_set(error, STATUS_INVALID, "%s %s: too long", name, text);
    *milliseconds = (int64_t)llround(sum);
    return STATUS_OK;
}

static status_t read_bytes(const char *name, const char *text, int64_t *bytes, struct error *error)
{
    static const char suffixes[] = "KMGT";
    char *end = (char *)text;
    double number = isdigit((unsigned char)*text) ? strtod(text, &end) : NAN;
    const char *suffix = !isnan(number) && *end ? strchr(suffixes, *end) : NULL;
    if (suffix) end++;
    if (isnan(number) || *end)
        return error_set(error, STATUS_INVALID, "%s '%s': must be bytes such as 512M or 4G", name, text);
    if (suffix) number = ldexp(number, 10 * (int)(suffix - suffixes + 1));
    if (number > 0x1p62) return error_set(error, STATUS_INVALID, "%s %s: too large", name, text);
    *bytes = (int64_t)number;
    return STATUS_OK;
}

static status_t read_choice(const char *name, const char *text, const char *choices, int *value,
                            struct error *error)
{
    size_t length = strlen(text);
    int index = 0;
    for (const char *at = choices; length > 0; index++) {
        size_t width = strcspn(at, "|");
        if (width == length && memcmp(at, text, width) == 0) {
            *value = index;
            return STATUS_OK;
        }
        if (at[width] == '\0') break;
        at += width + 1;
    }
    return error_set(error, STATUS_INVALID, "%s '%s': must be one of %s", name, text, choices);
}

static status_t read_flag(const char *name, const char *text, bool *value, struct error *error)
{
    bool yes = !*text || strcmp(text, "yes") == 0 || strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    bool no = strcmp(text, "no") == 0 || strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
    if (!yes && !no) return error_set(error, STATUS_INVALID, "%s '%s': must be yes or no", name, text);
    *value = yes;
    return STATUS_OK;
}

/* name: how a person sees the option there: "--steps", "REFRAIN_STEPS", "file: steps". */
static status_t store_value(const struct option_spec *spec, const char *name, const char *text, void *values,
                            struct error *error)
{
    void *field = (char *)values + spec->offset;
    int64_t whole = 0;
    status_t status = STATUS_OK;
    switch (spec->type) {
    case OPTION_FLAG:
        return read_flag(name, text, field, error);
    case OPTION_INT:
        return option_read_int(name, text, spec->min, spec->max, field, error);
    case OPTION_UINT64:
        return read_uint64(name, text, field, error);
    case OPTION_REAL:
        return option_read_real(name, text, spec->min, spec->max, field, error);
    case OPTION_CHOICE:
        return read_choice(name, text, spec->choices, field, error);
    case OPTION_DURATION:
        status = option_read_duration(name, text, &whole, error);
        break;
    case OPTION_BYTES:
        status = read_bytes(name, text, &whole, error);
        break;
    case OPTION_TEXT:
    case OPTION_CONFIG:
        *(const char **)field = text;
        return STATUS_OK;
    case OPTION_HEADING:
        return STATUS_OK;
    }
    if (status != STATUS_OK) return status;
    if (has_range(spec->min, spec->max) && ((double)whole < spec->min || (double)whole > spec->max)) {
        if (spec->type == OPTION_BYTES) return out_of_range(name, text, spec->min, spec->max, error);
        return error_set(error, STATUS_INVALID, "%s %s: must be %.15g to %.15g seconds", name, text,
                         spec->min / 1000, spec->max / 1000);
    }
    *(int64_t *)field = whole;
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------------- the sources */

static bool applies(const struct option_spec *spec, unsigned group)
{
    return spec->name && (spec->groups == 0 || group == 0 || (spec->groups & group));
}

static int find_option(const struct option_table *table, const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (table->specs[i].name && strcmp(table->specs[i].name, name) == 0) return (int)i;
    return -1;
}

/* What getopt_long refused: an unknown flag, or one whose value is missing. */
static status_t refuse_flag(int code, char **argv, struct error *error)
{
    if (code == ':') return error_set(error, STATUS_INVALID, "%s: needs a value", argv[optind - 1]);
    if (optopt > 0 && optopt < LONG_OPTION_BASE)
        return error_set(error, STATUS_INVALID, "-%c: no such option; see --help", optopt);
    if (optopt >= LONG_OPTION_BASE)
        return error_set(error, STATUS_INVALID, "%s: takes no value", argv[optind - 1]);
    return error_set(error, STATUS_INVALID, "%s: no such option; see --help", argv[optind - 1]);
}

/* First pass: what the command line says, as text. getopt_long moves operands to the end of argv. */
static status_t collect_flags(struct options *options, unsigned group, int argc, char **argv,
                              struct error *error)
{
    const struct option_table *table = options->table;
    struct option *longs = calloc(table->count + 1, sizeof *longs);
    char *shorts = calloc(2 * table->count + 2, 1);
    status_t status = STATUS_OK;
    if (!longs || !shorts) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for the command line");
        goto out;
    }
    size_t long_count = 0;
    char *letter = shorts;
    *letter++ = ':'; /* makes a missing value distinguishable, and getopt silent */
    for (size_t i = 0; i < table->count; i++) {
        const struct option_spec *spec = &table->specs[i];
        if (!applies(spec, group)) continue;
        bool bare = spec->type == OPTION_FLAG;
        longs[long_count++] = (struct option){.name = spec->name,
                                              .has_arg = bare ? no_argument : required_argument,
                                              .val = LONG_OPTION_BASE + (int)i};
        if (spec->letter) *letter++ = spec->letter;
        if (spec->letter && !bare) *letter++ = ':';
    }
    optind = 0; /* GNU: start anew, also when somebody parsed before */
    opterr = 0;
    for (int code; (code = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
        if (code == '?' || code == ':') {
            status = refuse_flag(code, argv, error);
            goto out;
        }
        size_t index = (size_t)(code - LONG_OPTION_BASE);
        if (code < LONG_OPTION_BASE)
            for (index = 0; !applies(&table->specs[index], group) || table->specs[index].letter != code;)
                index++;
        options->flags[index] = optarg ? optarg : "";
    }
    options->operands = argv + optind;
    options->operand_count = argc - optind;
out:
    free(shorts);
    free(longs);
    return status;
}

static status_t read_text_file(const char *path, char **text, struct error *error)
{
    FILE *file = fopen(path, "re");
    if (!file) return error_set(error, STATUS_IO, "%s: cannot be opened: %m", path);
    status_t status = STATUS_OK;
    char *bytes = malloc(CONFIG_MAX_BYTES + 1);
    size_t length = bytes ? fread(bytes, 1, CONFIG_MAX_BYTES + 1, file) : 0;
    if (!bytes)
        status = error_set(error, STATUS_NO_MEMORY, "%s: no memory to read it", path);
    else if (ferror(file))
        status = error_set(error, STATUS_IO, "%s: cannot be read: %m", path);
    else if (length > CONFIG_MAX_BYTES)
        status = error_set(error, STATUS_INVALID, "%s: larger than 1 MiB", path);
    else if (memchr(bytes, 0, length))
        status = error_set(error, STATUS_INVALID, "%s: is not a text file", path);
    fclose(file);
    if (status != STATUS_OK) {
        free(bytes);
        return status;
    }
    bytes[length] = '\0';
    *text = bytes;
    return STATUS_OK;
}

/* Cuts blanks (and a pair of quotes) from both ends, in place. */
static char *trimmed(char *text)
{
    while (isspace((unsigned char)*text)) text++;
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1])) length--;
    if (length >= 2 && text[0] == '"' && text[length - 1] == '"') text++, length -= 2;
    text[length] = '\0';
    return text;
}

static status_t apply_config(struct options *options, unsigned group, const char *path, void *values,
                             struct error *error)
{
    status_t status = read_text_file(path, &options->config, error);
    int line_number = 0;
    for (char *line, *rest = options->config; status == STATUS_OK && (line = strsep(&rest, "\n"));) {
        line_number++;
        line = trimmed(line);
        if (*line == '\0' || *line == '#') continue;
        char *equals = strchr(line, '=');
        if (equals) *equals = '\0';
        char *name = trimmed(line);
        int index = find_option(options->table, name);
        if (!equals)
            status = error_set(error, STATUS_INVALID, "'%s': must be a line `name = value`", name);
        else if (index < 0)
            status = error_set(error, STATUS_INVALID, "%s: no such option", name);
        else if (applies(&options->table->specs[index], group)) {
            status = store_value(&options->table->specs[index], name, trimmed(equals + 1), values, error);
            options->given[index] = true;
        } /* an option of another verb may stand in a shared file */
        if (status != STATUS_OK) error_prefix(error, "%s line %d", path, line_number);
    }
    return status;
}

static const char *config_path(const struct options *options, unsigned group)
{
    for (size_t i = 0; i < options->table->count; i++) {
        const struct option_spec *spec = &options->table->specs[i];
        if (spec->type != OPTION_CONFIG || !applies(spec, group)) continue;
        const char *env = spec->env ? getenv(spec->env) : NULL;
        return options->flags[i] ? options->flags[i] : env && *env ? env : spec->standard;
    }
    return NULL;
}

/* Second pass: defaults, then file, then environment, then flags, each overwriting the one before. */
static status_t apply_sources(struct options *options, unsigned group, void *values, struct error *error)
{
    const struct option_table *table = options->table;
    status_t status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < table->count; i++)
        if (applies(&table->specs[i], group) && table->specs[i].standard)
            status =
                store_value(&table->specs[i], table->specs[i].name, table->specs[i].standard, values, error);

    const char *config = config_path(options, group);
    if (status == STATUS_OK && config) status = apply_config(options, group, config, values, error);

    for (size_t i = 0; status == STATUS_OK && i < table->count; i++) {
        const struct option_spec *spec = &table->specs[i];
        if (!applies(spec, group)) continue;
        const char *env = spec->env ? getenv(spec->env) : NULL;
        if (env && *env) {
            options->given[i] = true;
            if (!options->flags[i]) status = store_value(spec, spec->env, env, values, error);
        }
        if (!options->flags[i] || status != STATUS_OK) continue;
        char name[64];
        snprintf(name, sizeof name, "--%s", spec->name);
        options->given[i] = true;
        status = store_value(spec, name, options->flags[i], values, error);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------ the API */

status_t options_parse(const struct option_table *table, unsigned group, int argc, char **argv, void *values,
                       struct options **options, struct error *error)
{
    status_t status;
    struct options *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the command line");
    made->table = table;
    made->given = calloc(table->count + 1, sizeof *made->given);
    made->flags = calloc(table->count + 1, sizeof *made->flags);
    if (!made->given || !made->flags) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for the command line");
        goto fail;
    }
    if ((status = collect_flags(made, group, argc, argv, error)) != STATUS_OK) goto fail;
    if ((status = apply_sources(made, group, values, error)) != STATUS_OK) goto fail;
    *options = made;
    return STATUS_OK;
fail:
    options_destroy(made);
    return status;
}

void options_destroy(struct options *options)
{
    if (!options) return;
    free(options->config);
    free(options->flags);
    free(options->given);
    free(options);
}

bool options_given(const struct options *options, const char *name)
{
    int index = find_option(options->table, name);
    return index >= 0 && options->given[index];
}

bool options_flagged(const struct options *options, const char *name)
{
    int index = find_option(options->table, name);
    return index >= 0 && options->flags[index];
}

int options_operand_count(const struct options *options)
{
    return options->operand_count;
}

const char *options_operand(const struct options *options, int index)
{
    return options->operands[index];
}

/* --------------------------------------------------------------------------------------------------- help */

static const char *argument_name(const struct option_spec *spec)
{
    if (spec->argument) return spec->argument;
    switch (spec->type) {
    case OPTION_INT:
    case OPTION_UINT64:
        return "N";
    case OPTION_REAL:
        return "X";
    case OPTION_DURATION:
        return "TIME";
    case OPTION_BYTES:
        return "BYTES";
    case OPTION_CHOICE:
        return spec->choices;
    case OPTION_CONFIG:
        return "FILE";
    default:
        return "TEXT";
    }
}

/* "(1 to 1000; default 50; also REFRAIN_STEPS)", or nothing. */
static void describe_limits(const struct option_spec *spec, char *text, size_t size)
{
    char range[64] = "", standard[160] = "", env[96] = "";
    if (has_range(spec->min, spec->max) && (spec->type == OPTION_INT || spec->type == OPTION_REAL))
        snprintf(range, sizeof range, "; %.15g to %.15g", spec->min, spec->max);
    if (spec->standard && *spec->standard)
        snprintf(standard, sizeof standard, "; default %s", spec->standard);
    if (spec->env) snprintf(env, sizeof env, "; also %s", spec->env);
    *text = '\0';
    if (*range || *standard || *env) {
        snprintf(text, size, " (%s%s%s", range, standard, env);
        size_t length = strlen(text);
        memmove(text + 2, text + 4, length - 3); /* the first "; " */
        if (length - 2 + 1 < size) strcat(text, ")");
    }
}

/* Prints `text` from HELP_COLUMN on, breaking at blanks; the cursor stands at `column`. */
static void print_wrapped(FILE *out, const char *text, int column)
{
    if (column >= HELP_COLUMN) fprintf(out, "\n"), column = 0;
    fprintf(out, "%*s", HELP_COLUMN - column, "");
    column = HELP_COLUMN;
    while (*text) {
        int word = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + word > HELP_WIDTH) {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        bool first = column == HELP_COLUMN;
        fprintf(out, "%s%.*s", first ? "" : " ", word, text);
        column += word + !first;
        text += word;
        while (*text == ' ') text++;
    }
    fprintf(out, "\n");
}

void options_help(const struct option_table *table, unsigned group, FILE *out)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct option_spec *spec = &table->specs[i];
        if (!spec->name && (spec->groups == 0 || group == 0 || (spec->groups & group)))
            fprintf(out, "%s%s:\n", i ? "\n" : "", spec->help);
        if (!applies(spec, group)) continue;
        int column = spec->letter ? fprintf(out, "  -%c, --%s", spec->letter, spec->name)
                                  : fprintf(out, "  --%s", spec->name);
        if (spec->type != OPTION_FLAG) column += fprintf(out, " %s", argument_name(spec));
        char limits[320], line[1024];
        describe_limits(spec, limits, sizeof limits);
        snprintf(line, sizeof line, "%s%s", spec->help ? spec->help : "", limits);
        print_wrapped(out, line, column);
    }
}
