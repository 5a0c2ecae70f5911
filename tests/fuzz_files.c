/*
 * fuzz_files.c - libFuzzer over the files that people hand to the programs: calibration tables, measured times, traces, keys,
 * configuration. Each is refused with a sentence, or what was read can be worked with.
 *
 * The first byte chooses the reader, the rest is the file.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/options.h"
#include "client/planmodel.h"
#include "client/tablefile.h"
#include "client/trace.h"
#include "proto/keyfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static status_t read_table(const char *path, struct error *error)
{
    struct tablefile file;
    status_t status = tablefile_read(path, &file, error);
    if (status != STATUS_OK) return status;
    for (size_t i = 0; i < file.count; i++)
        if (!file.tables[i].kind || !file.tables[i].count || file.tables[i].count % file.tables[i].width)
            abort();
    tablefile_keep(&file, "magcache", NULL);
    tablefile_free(&file);
    return STATUS_OK;
}

/* The planner works with what was measured: it must be numbers that times can be. */
static status_t read_times(const char *path, struct error *error)
{
    struct planner_job job = {.branches = 2};
    struct planner_machine machine = {.ranks = 2, .per_node = 2, .inside = 1e9, .between = 1e9};
    const struct planner_model *model = planner_preset("wan2.1-t2v-1.3b");
    if (!model || planner_size(model, 832, 480, 81, &job, error) != STATUS_OK) abort();
    status_t status = planmodel_times(path, model, &job, &machine, error);
    if (status != STATUS_OK) return status;
    const double seconds[] = {machine.block_seconds, machine.home_seconds, machine.ends_seconds,
                              machine.inside,        machine.between,      machine.latency,
                              machine.crowd};
    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++)
        if (!(seconds[i] >= 0 && isfinite(seconds[i]))) abort();
    return STATUS_OK;
}

static status_t read_trace(const char *path, struct error *error)
{
    struct trace *trace;
    status_t status = trace_read(path, &trace, error);
    if (status == STATUS_OK) trace_free(trace);
    return status;
}

static status_t read_key(const char *path, struct error *error)
{
    struct keyfile key;
    status_t status = keyfile_read(path, &key, error);
    if (status == STATUS_OK && strlen(key.public_key) != KEY_TEXT_BYTES - 1) abort();
    return status;
}

struct values {
    bool flag;
    const char *text, *config;
    int64_t number, time_ms, bytes;
    uint64_t seed;
    double real;
    int choice;
};

static status_t read_options(const char *path, struct error *error)
{
    static const struct option_spec specs[] = {
        {"flag", 0, OPTION_FLAG, offsetof(struct values, flag)},
        {"text", 0, OPTION_TEXT, offsetof(struct values, text)},
        {"number", 0, OPTION_INT, offsetof(struct values, number), .min = -5, .max = 1e6},
        {"seed", 0, OPTION_UINT64, offsetof(struct values, seed)},
        {"real", 0, OPTION_REAL, offsetof(struct values, real), .min = 0, .max = 100},
        {"time", 0, OPTION_DURATION, offsetof(struct values, time_ms), .min = 1, .max = 1e9},
        {"bytes", 0, OPTION_BYTES, offsetof(struct values, bytes), .min = 0, .max = 1e15},
        {"choice", 0, OPTION_CHOICE, offsetof(struct values, choice), .choices = "one|two|three"},
        {"config", 0, OPTION_CONFIG, offsetof(struct values, config)},
    };
    static const struct option_table table = {"fuzz", specs, sizeof specs / sizeof *specs};
    struct values values = {.time_ms = 1};
    struct options *options;
    char *arguments[] = {(char *)(uintptr_t) "fuzz", (char *)(uintptr_t) "--config", (char *)(uintptr_t)path,
                         NULL};
    status_t status = options_parse(&table, 0, 3, arguments, &values, &options, error);
    if (status != STATUS_OK) return status;
    if (values.number < -5 || values.number > 1000000 || !(values.real >= 0 && values.real <= 100) ||
        values.time_ms < 1 || values.bytes < 0 || values.choice < 0 || values.choice > 2)
        abort();
    options_destroy(options);
    return STATUS_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static status_t (*const readers[])(const char *, struct error *) = {read_table, read_times, read_trace,
                                                                        read_key, read_options};
    struct error error = {0};
    char path[64];
    if (size == 0) return 0;
    int file = memfd_create("fuzz", MFD_CLOEXEC);
    if (file < 0 || fchmod(file, 0600) != 0 || write(file, data + 1, size - 1) != (ssize_t)(size - 1))
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    status_t status = readers[data[0] % (sizeof readers / sizeof *readers)](path, &error);
    if (status != STATUS_OK && error.text[0] == 0) abort(); /* refused without a reason */
    close(file);
    return 0;
}
