/*
 * planmodel.h - what `refrain plan` reads: a model's shape from its directory or by the name of a published size, and times
 * that `refrain measure` wrote.
 *
 *     planmodel_find("./Wan2.1-T2V-14B-Diffusers", &model, &clip, &error);       or "wan2.1-t2v-14b"
 *     planmodel_times("times.json", &request.model, &request.job, &request.machine, &error);
 *
 * Reads JSON files, no weights. Main thread.
 */
#ifndef REFRAIN_CLIENT_PLANMODEL_H
#define REFRAIN_CLIENT_PLANMODEL_H

#include "coordinator/planner/planner.h"

/* Video a request without a size asks for. */
struct planmodel_clip {
    uint32_t width, height, frames;
};

/* INVALID or NOT_FOUND: neither a directory with a supported configuration nor a name there is. */
status_t planmodel_find(const char *name, struct planner_model *model, struct planmodel_clip *clip,
                        struct error *error);

/* "832x480x81", or up to `most` of them with commas between; *count >= 1. INVALID. */
status_t planmodel_sizes(const char *text, struct planmodel_clip *sizes, size_t most, size_t *count,
                         struct error *error);
/* A number of at most five digits, and what follows it; NULL: there is none. */
const char *planmodel_number(const char *text, uint32_t *value);

/* Block, ends, home and crowd for the job's size, and links: the measured size that is nearest, by FLOPs, frames and pixels. The file is
 * of blocks of the same shape, or INVALID. What it does not say of links stays. */
status_t planmodel_times(const char *path, const struct planner_model *model, const struct planner_job *job,
                         struct planner_machine *machine, struct error *error);

/* One measured size. */
struct planmodel_time {
    uint32_t width, height, frames;
    double text, forward, decode; /* seconds, of one rank */
    double blocks;                /* of a forward pass, its blocks alone; 0: unknown */
    double crowded;               /* the same while so many ranks of the machine compute; 0: unknown */
    int ranks;
    char backend[64];
    int threads;
};
/* Writes such a file, with links where they are known. IO. */
status_t planmodel_write(const char *path, const struct planner_model *model,
                         const struct planmodel_time *times, size_t count, const struct planner_links *links,
                         struct error *error);

#endif
