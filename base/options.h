/*
 * options.h - one table of options per program: it drives flags, environment, configuration file, --help and
 * checking.
 *
 *     struct settings { const char *data; int64_t launch; double guidance; int solver; bool json; };
 *     static const struct option_spec specs[] = {
 *         {.help = "Where things are"},                                       a heading: no name
 *         {"data", 0, OPTION_TEXT, offsetof(struct settings, data), "DIR", .help = "where jobs are kept"},
 *         {"launch", 0, OPTION_INT, offsetof(struct settings, launch), "N", .min = 1, .max = 1024,
 *          .help = "ranks"},
 *         {"solver", 0, OPTION_CHOICE, offsetof(struct settings, solver), .choices = "unipc|euler",
 *          .help = "..."},
 *     };
 *     static const struct option_table table = {"refrain-coordinator", specs, sizeof specs / sizeof *specs};
 *
 *     struct settings settings = {0};
 *     struct options *options;
 *     if (options_parse(&table, 0, argc, argv, &settings, &options, &error) != STATUS_OK) ...
 *     if (options_given(options, "guidance")) ...           said by somebody, not only the default
 *     for (int i = 0; i < options_operand_count(options); i++) use(options_operand(options, i));
 *     options_destroy(options);                             after this the strings in `settings` may be gone
 *
 * Who wins: flag over environment over configuration file over the table's default. A file has lines `name =
 * value`, with # for comments, and is named by the option of type OPTION_CONFIG. Every value is checked
 * completely (whole text used, range, finite) wherever it came from; the sentence names that place.
 *
 * getopt_long keeps its position in globals, so parse from one thread at a time.
 */
#ifndef REFRAIN_BASE_OPTIONS_H
#define REFRAIN_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "base/status.h"

/* The type of the field behind `offset` is in the comment. */
enum option_type {
    OPTION_HEADING,  /* no value: `help` is printed as a heading */
    OPTION_FLAG,     /* bool; takes no argument as a flag, yes/no elsewhere */
    OPTION_TEXT,     /* const char *, borrowed: from argv, the environment or `struct options` */
    OPTION_INT,      /* int64_t within [min, max] */
    OPTION_UINT64,   /* uint64_t, decimal or 0x…; the whole range */
    OPTION_REAL,     /* double, finite, within [min, max] */
    OPTION_DURATION, /* int64_t milliseconds: 500ms, 90s, 10m, 1h30m, 2d; a bare number is seconds; [min, max]
                        in ms */
    OPTION_BYTES,    /* int64_t: 512, 64K, 16M, 4G, 1T (powers of 1024) within [min, max] */
    OPTION_CHOICE,   /* int: index into `choices` */
    OPTION_CONFIG,   /* const char *: the configuration file to read */
};

struct option_spec {
    const char *name; /* without dashes; NULL makes a heading */
    char letter;      /* -l, or 0 */
    enum option_type type;
    size_t offset;        /* of the field in the caller's struct */
    const char *argument; /* its name in --help: "N", "FILE"; NULL: made from the type */
    const char *help;     /* one sentence, lower case, no full stop */
    const char *standard; /* the default as text, checked like any other value; NULL: field stays as the
                             caller set it */
    const char *env;      /* environment variable, or NULL */
    const char *choices;  /* OPTION_CHOICE: "one|two|three" */
    double min, max;      /* inclusive; both 0: no limit (integers beyond 2^53 are not needed as limits) */
    unsigned groups;      /* bit mask of the verbs that take it; 0: all */
};

struct option_table {
    const char *program;
    const struct option_spec *specs; /* [count], static */
    size_t count;
};

struct options; /* what was given where, the operands, the text of the configuration file */

/* Reads argv[1..argc-1]. group: bit of the verb (0: a program without verbs). values: the caller's struct,
 * changed only as far as options were read when this fails. Failure is STATUS_INVALID (a value, an unknown
 * option), STATUS_IO (the configuration file) or STATUS_NO_MEMORY. */
status_t options_parse(const struct option_table *table, unsigned group, int argc, char **argv, void *values,
                       struct options **options, struct error *error);
void options_destroy(struct options *options); /* NULL is fine */

/* True when a flag, the environment or a file said it. False for a name the table does not have. */
bool options_given(const struct options *options, const char *name);
/* True when a flag did: for what a person asks for here and now, whatever the environment is set to. */
bool options_flagged(const struct options *options, const char *name);

int options_operand_count(const struct options *options);
const char *options_operand(const struct options *options, int index); /* borrowed from argv */

/* The options of a verb, wrapped for an 100-column terminal, with ranges, defaults and environment variables.
 */
void options_help(const struct option_table *table, unsigned group, FILE *out);

/* The readers on their own, for values that arrive another way. The sentence starts with `name`. */
status_t option_read_int(const char *name, const char *text, double min, double max, int64_t *value,
                         struct error *error);
status_t option_read_real(const char *name, const char *text, double min, double max, double *value,
                          struct error *error);
status_t option_read_duration(const char *name, const char *text, int64_t *milliseconds, struct error *error);

#endif
