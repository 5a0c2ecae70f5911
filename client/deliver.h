/*
 * deliver.h - where a job's files go on this side, checked before the job is submitted and filled after it.
 *
 *     struct delivery delivery;
 *     status = delivery_plan(&delivery, settings, 7, &error);        can these files be written?
 *     ...                                                             submit, wait
 *     status = delivery_fetch(&delivery, cli, job, &error);
 *     delivery_print(&delivery, cli, seconds);
 */
#ifndef REFRAIN_CLIENT_DELIVER_H
#define REFRAIN_CLIENT_DELIVER_H

#include "client/cli.h"

#include <limits.h>

enum { DELIVERY_FILES = 6 };

struct delivery {
    /* For each file of a job: where it goes; "" for not wanted. Video, contact sheet, latents, frames, and
     * the comparison's video and sheet. */
    struct delivery_file {
        const char *name; /* REFRAIN_VIDEO, ... */
        char path[PATH_MAX];
        bool fetched;
    } files[DELIVERY_FILES];
    bool fresh;     /* runs/<number>.mp4 with a number that was free: must not replace anything */
    bool resumable; /* keep what has come of an interrupted fetch; for the caller to set */
    bool compares;  /* the job compares: there are two more files */
    bool in_runs;   /* video and what goes beside it go to runs/, which is made if need be */
};

#define DELIVERY_FREE_NUMBER UINT64_C(0) /* the first run whose files are not there yet */
#define DELIVERY_NO_DEFAULT  UINT64_MAX  /* only what the options name */

/* --output, --save-latents and --save-frames; without --output the video goes to runs/<number>.mp4. The
 * contact sheet goes beside the video, and of a job that compares FILE.compare.mp4 and .png. INVALID or IO,
 * with a sentence that names the option, unless all of them can be written. */
status_t delivery_plan(struct delivery *delivery, const struct settings *settings, uint64_t number,
                       struct error *error);

/* Whether the options name any file. */
bool delivery_named(const struct settings *settings);

/* Fetches what was planned from a completed job; what has arrived stays when a later file fails. */
status_t delivery_fetch(struct delivery *delivery, struct cli *cli, const struct refrain_job *job,
                        struct error *error);

/* "done     runs/1.mp4  runs/1.png   1.4 s", or an object with --json, or with --quiet the video's name. */
void delivery_print(const struct delivery *delivery, const struct cli *cli, double seconds);

#endif
