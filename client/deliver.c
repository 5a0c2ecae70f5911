/* deliver.c - see deliver.h. Main thread. */
#include "client/deliver.h"

#include "client/jobjson.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VIDEO, SHEET, LATENTS, FRAMES, COMPARISON, COMPARISON_SHEET };
#define RUNS "runs"

static const char *const file_names[DELIVERY_FILES] = {REFRAIN_VIDEO,      REFRAIN_SHEET,
                                                       REFRAIN_LATENTS,    REFRAIN_FRAMES,
                                                       REFRAIN_COMPARISON, REFRAIN_COMPARISON_SHEET};
static const char *const flag_names[DELIVERY_FILES] = {"--output",      "--output", "--save-latents",
                                                       "--save-frames", "--output", "--output"};
/* Beside the video, under its name with another ending. */
static const char *const endings[DELIVERY_FILES] = {
    [SHEET] = ".png", [COMPARISON] = ".compare.mp4", [COMPARISON_SHEET] = ".compare.png"};
/* For an immediate fetch; without a byte for so long it is given up, and can be resumed. */
enum { FETCH_MS = 60000 };

/* ----------------------------------------------------------------------------------- planning */

static status_t set_path(struct delivery *delivery, int file, const char *path, struct error *error)
{
    if ((size_t)snprintf(delivery->files[file].path, PATH_MAX, "%s", path) < PATH_MAX) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s: longer than %d bytes", flag_names[file], PATH_MAX - 1);
}

/* The name of a file beside the video: the video's with another ending instead of .mp4. */
static status_t set_beside(struct delivery *delivery, int file, struct error *error)
{
    char path[PATH_MAX];
    const char *video = delivery->files[VIDEO].path;
    size_t length = strlen(video);
    if (length > 4 && strcmp(video + length - 4, ".mp4") == 0) length -= 4;
    if ((size_t)snprintf(path, sizeof path, "%.*s%s", (int)length, video, endings[file]) >= sizeof path)
        return error_set(error, STATUS_INVALID, "--output: longer than %d bytes", PATH_MAX - 13);
    return set_path(delivery, file, path, error);
}

static status_t set_all_beside(struct delivery *delivery, struct error *error)
{
    status_t status = set_beside(delivery, SHEET, error);
    if (!status && delivery->compares) status = set_beside(delivery, COMPARISON, error);
    if (!status && delivery->compares) status = set_beside(delivery, COMPARISON_SHEET, error);
    return status;
}

/* One above the highest number in runs/: numbers are not used twice while any later run is there. */
static uint64_t free_number(void)
{
    uint64_t highest = 0;
    DIR *directory = opendir(RUNS);
    if (!directory) return 1;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char *end;
        uint64_t number = strtoull(entry->d_name, &end, 10);
        bool ours = end != entry->d_name && (strcmp(end, ".mp4") == 0 || strcmp(end, ".png") == 0);
        if (ours && number > highest && number < UINT64_MAX) highest = number;
    }
    closedir(directory);
    return highest + 1;
}

static status_t set_runs_paths(struct delivery *delivery, uint64_t number, struct error *error)
{
    char path[64];
    snprintf(path, sizeof path, RUNS "/%" PRIu64 ".mp4", number);
    status_t status = set_path(delivery, VIDEO, path, error);
    return status ? status : set_all_beside(delivery, error);
}

/* Two files of one name would overwrite each other. */
static status_t check_distinct(const struct delivery *delivery, struct error *error)
{
    for (int a = 0; a < DELIVERY_FILES; a++)
        for (int b = a + 1; b < DELIVERY_FILES; b++)
            if (*delivery->files[a].path && strcmp(delivery->files[a].path, delivery->files[b].path) == 0)
                return error_set(error, STATUS_INVALID, "%s and %s: both would write %s", flag_names[a],
                                 flag_names[b], delivery->files[a].path);
    return STATUS_OK;
}

/* runs/ is made when there is something to put there; until then its place must allow that. */
static status_t check_writable(const struct delivery *delivery, struct error *error)
{
    bool runs_missing = delivery->in_runs && access(RUNS, F_OK) != 0;
    for (int i = 0; i < DELIVERY_FILES; i++) {
        if (!*delivery->files[i].path) continue;
        bool in_runs = delivery->in_runs && (i == VIDEO || endings[i]);
        status_t status =
            refrain_output_check(in_runs && runs_missing ? "./" RUNS : delivery->files[i].path, error);
        if (status) error_prefix(error, "%s", flag_names[i]);
        if (status) return status;
    }
    return STATUS_OK;
}

status_t delivery_plan(struct delivery *delivery, const struct settings *settings, uint64_t number,
                       struct error *error)
{
    *delivery = (struct delivery){.compares = settings->compare};
    for (int i = 0; i < DELIVERY_FILES; i++) delivery->files[i].name = file_names[i];
    status_t status = STATUS_OK;
    if (settings->output) {
        status = set_path(delivery, VIDEO, settings->output, error);
        if (!status && !*settings->output)
            status = error_set(error, STATUS_INVALID, "--output: an empty file name");
        if (!status) status = set_all_beside(delivery, error);
    } else if (number != DELIVERY_NO_DEFAULT) {
        delivery->in_runs = true;
        delivery->fresh = number == DELIVERY_FREE_NUMBER;
        status = set_runs_paths(delivery, delivery->fresh ? free_number() : number, error);
    }
    if (!status && settings->save_latents)
        status = set_path(delivery, LATENTS, settings->save_latents, error);
    if (!status && settings->save_frames) status = set_path(delivery, FRAMES, settings->save_frames, error);
    if (!status) status = check_distinct(delivery, error);
    return status ? status : check_writable(delivery, error);
}

bool delivery_named(const struct settings *settings)
{
    return settings->output || settings->save_latents || settings->save_frames;
}

/* ----------------------------------------------------------------------------------- fetching */

/* A video of a fresh number moves on to the next one if somebody took that in the meantime. */
static status_t fetch_one(struct delivery *delivery, int file, struct cli *cli, const struct refrain_job *job,
                          struct error *error)
{
    bool renumber = delivery->fresh && file == VIDEO;
    unsigned flags =
        (renumber ? REFRAIN_FETCH_NEW : 0) | (delivery->resumable ? REFRAIN_FETCH_KEEP_PARTIAL : 0);
    for (;;) {
        status_t status = refrain_fetch(cli->refrain, job, delivery->files[file].name,
                                        delivery->files[file].path, flags, FETCH_MS, error);
        if (status != STATUS_CONFLICT || !renumber || access(delivery->files[file].path, F_OK)) {
            delivery->files[file].fetched = status == STATUS_OK;
            return status;
        }
        status = set_runs_paths(delivery, free_number(), error);
        if (status) return status;
    }
}

static bool has_file(const struct refrain_job *job, const char *name)
{
    for (size_t i = 0; i < job->file_count; i++)
        if (strcmp(job->files[i].name, name) == 0) return true;
    return false;
}

static status_t fetch_files(struct delivery *delivery, struct cli *cli, const struct refrain_job *job,
                            struct error *error)
{
    for (int i = 0; i < DELIVERY_FILES; i++) {
        if (!*delivery->files[i].path) continue;
        if (endings[i] && !has_file(job, file_names[i])) continue; /* nobody asked for it by name */
        status_t status = fetch_one(delivery, i, cli, job, error);
        if (status) return status;
    }
    return STATUS_OK;
}

status_t delivery_fetch(struct delivery *delivery, struct cli *cli, const struct refrain_job *job,
                        struct error *error)
{
    bool made_runs = delivery->in_runs && mkdir(RUNS, 0777) == 0;
    status_t status = fetch_files(delivery, cli, job, error);
    if (status && made_runs) rmdir(RUNS); /* refuses if anything came after all */
    return status;
}

void delivery_print(const struct delivery *delivery, const struct cli *cli, double seconds)
{
    char total[SHOW_BYTES];
    if (cli->settings.json) {
        json_t *object = json_object(), *files = json_object();
        for (int i = 0; i < DELIVERY_FILES; i++)
            if (delivery->files[i].fetched)
                json_object_set_new(files, delivery->files[i].name, json_string(delivery->files[i].path));
        json_object_set_new(object, "event", json_string("done"));
        json_object_set_new(object, "files", files);
        json_object_set_new(object, "seconds", json_real(seconds));
        jobjson_print(object);
        return;
    }
    if (cli->settings.quiet) {
        if (delivery->files[VIDEO].fetched) printf("%s\n", delivery->files[VIDEO].path);
        return;
    }
    printf("%sdone%s    ", show_colour(&cli->style, SHOW_GREEN), show_colour(&cli->style, SHOW_PLAIN));
    for (int i = 0; i < DELIVERY_FILES; i++)
        if (delivery->files[i].fetched) printf(" %s ", delivery->files[i].path);
    printf("  %s\n", show_duration(&cli->style, seconds, total));
}
