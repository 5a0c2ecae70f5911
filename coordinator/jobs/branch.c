/* branch.c - see branch.h. Runs on the coordinator's loop thread. */
#include "coordinator/jobs/branch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "proto/validate.h"

enum { STEPS_LISTED = 24 };

static status_t refuse(const char **field, const char *name, status_t status)
{
    *field = name;
    return status;
}

/* ---------------------------------------------------------------------------------------------- what is taken over */

static bool same_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

static status_t copy_text(char **to, const char *from)
{
    if (*to || !from) return STATUS_OK;
    return (*to = strdup(from)) ? STATUS_OK : STATUS_NO_MEMORY;
}

#define KEPT "a job that goes on from another keeps its model, seed, steps, size, solver and shift"

/* Given and another: refused. Not given: taken over. */
#define KEEP(name, format)                                                                                   \
    do {                                                                                                     \
        if (spec->has_##name && spec->name != from->name)                                                    \
            return refuse(field, #name,                                                                      \
                          error_set(error, STATUS_INVALID,                                                   \
                                    #name " " format ": job %" PRIu64 " has " format "; " KEPT, spec->name,  \
                                    spec->resume_from, from->name));                                         \
        spec->has_##name = 1;                                                                                \
        spec->name = from->name;                                                                             \
    } while (0)

static status_t keep_frame(Refrain__JobSpec *spec, const Refrain__JobSpec *from, const char **field,
                           struct error *error)
{
    if (spec->model && !same_text(spec->model, from->model))
        return refuse(field, "model",
                      error_set(error, STATUS_INVALID, "model %s: job %" PRIu64 " has %s; " KEPT, spec->model,
                                spec->resume_from, from->model));
    if (copy_text(&spec->model, from->model) != STATUS_OK)
        return error_set(error, STATUS_NO_MEMORY, "no memory for the job");
    if (spec->solver == REFRAIN__SOLVER__SOLVER_MODEL_DEFAULT) spec->has_solver = 0;
    KEEP(seed, "%" PRIu64);
    KEEP(steps, "%u");
    KEEP(width, "%u");
    KEEP(height, "%u");
    KEEP(frames, "%u");
    KEEP(solver, "%u");
    KEEP(shift, "%g");
    return STATUS_OK;
}

static status_t copy_tables(Refrain__JobSpec *spec, const Refrain__JobSpec *from)
{
    spec->cache_tables = calloc(from->n_cache_tables + 1, sizeof *spec->cache_tables);
    if (!spec->cache_tables) return STATUS_NO_MEMORY;
    for (size_t i = 0; i < from->n_cache_tables; i++) { /* a copy that the library's own functions free */
        size_t bytes = refrain__cache_table__get_packed_size(from->cache_tables[i]);
        uint8_t *packed = malloc(bytes ? bytes : 1);
        if (!packed) return STATUS_NO_MEMORY;
        refrain__cache_table__pack(from->cache_tables[i], packed);
        Refrain__CacheTable *copy = refrain__cache_table__unpack(NULL, bytes, packed);
        free(packed);
        if (!copy) return STATUS_NO_MEMORY;
        spec->cache_tables[spec->n_cache_tables++] = copy;
    }
    return STATUS_OK;
}

#define TAKE(name)                                                                                           \
    do {                                                                                                     \
        if (!spec->has_##name) spec->has_##name = 1, spec->name = from->name;                                \
    } while (0)

/* What may be another from the step on. */
static status_t take_rest(Refrain__JobSpec *spec, const Refrain__JobSpec *from, struct error *error)
{
    status_t status = STATUS_OK;
    bool tables = !spec->cache && !spec->n_cache_tables;
    if (!spec->has_guidance && from->has_guidance_scale_2)
        TAKE(guidance_scale_2); /* otherwise it follows the guidance that was said */
    TAKE(guidance);
    TAKE(fps);
    TAKE(checkpoint_every);
    status = copy_text(&spec->prompt, from->prompt);
    if (status == STATUS_OK) status = copy_text(&spec->negative_prompt, from->negative_prompt);
    if (status == STATUS_OK) status = copy_text(&spec->cache, from->cache);
    if (status == STATUS_OK && tables) status = copy_tables(spec, from);
    return status == STATUS_OK ? status : error_set(error, status, "no memory for the job");
}

/* --------------------------------------------------------------------------------------------------- which step */

/* After the last step nothing that changes it can be said. */
static status_t check_end(const Refrain__JobSpec *spec, const Refrain__JobSpec *from, const char **field,
                          struct error *error)
{
    const char *other = NULL;
    if (spec->has_guidance && spec->guidance != from->guidance) other = "guidance";
    if (spec->has_guidance_scale_2 && spec->guidance_scale_2 != from->guidance_scale_2)
        other = "guidance_scale_2";
    if (spec->prompt && !same_text(spec->prompt, from->prompt)) other = "prompt";
    if (spec->negative_prompt && !same_text(spec->negative_prompt, from->negative_prompt))
        other = "negative_prompt";
    if (spec->cache && !same_text(spec->cache, from->cache)) other = "cache";
    if (!other) return STATUS_OK;
    return refuse(field, other,
                  error_set(error, STATUS_INVALID,
                            "%s: all %u steps of job %" PRIu64
                            " are taken over, none is left that it could change; give "
                            "at_step",
                            other, from->steps, spec->resume_from));
}

/* Of a job that compares only the second run, the one with caching, can be gone on from. */
static uint32_t steps_before(const Refrain__JobSpec *from)
{
    return from->compare ? from->steps : 0;
}

static status_t check_step(const struct server *server, const Refrain__JobSpec *spec,
                           const Refrain__JobSpec *from, const char **field, struct error *error)
{
    uint32_t steps[LIMIT_STEPS * 2], before = steps_before(from);
    char list[256] = "";
    size_t length = 0, listed = 0, room = sizeof steps / sizeof *steps, count = 0;
    if (server->vault) count = vault_steps(server->vault, spec->resume_from, steps, room);
    if (count > room) count = room;
    for (size_t i = 0; i < count; i++) {
        if (steps[i] == before + spec->at_step) return STATUS_OK;
        if (steps[i] <= before || listed++ >= STEPS_LISTED) continue;
        length += (size_t)snprintf(list + length, sizeof list - length, "%s%u", length ? ", " : "",
                                   steps[i] - before);
    }
    return refuse(
        field, "at_step",
        length
            ? error_set(error, STATUS_NOT_FOUND,
                        "at_step %u: job %" PRIu64 " has no checkpoint of that step; it has %s%s",
                        spec->at_step, spec->resume_from, list, listed > STEPS_LISTED ? ", ..." : "")
            : error_set(error, STATUS_NOT_FOUND, "at_step %u: job %" PRIu64 " has no checkpoints (any more)",
                        spec->at_step, spec->resume_from));
}

static status_t fill(const struct server *server, Refrain__JobSpec *spec, const Refrain__JobSpec *from,
                     const char **field, struct error *error)
{
    status_t status = keep_frame(spec, from, field, error);
    if (status != STATUS_OK) return status;
    if (!spec->has_at_step) spec->has_at_step = 1, spec->at_step = from->steps;
    if (spec->at_step > from->steps)
        return refuse(field, "at_step",
                      error_set(error, STATUS_INVALID, "at_step %u: job %" PRIu64 " has %u steps",
                                spec->at_step, spec->resume_from, from->steps));
    if (spec->at_step == from->steps) status = check_end(spec, from, field, error);
    if (status == STATUS_OK) status = check_step(server, spec, from, field, error);
    return status == STATUS_OK ? take_rest(spec, from, error) : status;
}

status_t branch_fill(struct server *server, const char *tenant, Refrain__JobSpec *spec, const char **field,
                     struct error *error)
{
    Refrain__Job *from;
    if (!spec->resume_from) return STATUS_OK;
    status_t status = jobstore_get(server->store, tenant, spec->resume_from, &from, error);
    if (status != STATUS_OK) return refuse(field, "resume_from", status);
    status = fill(server, spec, from->spec, field, error);
    refrain__job__free_unpacked(from, NULL);
    return status;
}

status_t branch_lend(struct server *server, uint64_t id, const Refrain__JobSpec *spec, struct error *error)
{
    Refrain__Job *from;
    struct error ignored;
    if (!spec->resume_from) return STATUS_OK;
    status_t status = jobstore_get(server->store, NULL, spec->resume_from, &from, error);
    if (status == STATUS_OK) {
        status =
            vault_lend(server->vault, spec->resume_from, steps_before(from->spec) + spec->at_step, id, error);
        refrain__job__free_unpacked(from, NULL);
    }
    struct job *job = status == STATUS_OK ? NULL : jobs_find(server->jobs, id);
    if (job)
        jobs_finish(server->jobs, job, REFRAIN__JOB_STATE__JOB_FAILED, error->text, NULL, server->now_ms,
                    &ignored);
    return status;
}
