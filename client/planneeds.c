/* planneeds.c - see planneeds.h. */
#include "client/planneeds.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/child.h"
#include "base/clock.h"
#include "client/service.h"
#include "coordinator/card.h"

/* CARD_BYTES: with calibrations; DECODE_PARTS: of a rank's memory, as worker/engine.h has it. */
enum { CARD_BYTES = 1 << 20, DECODE_PARTS = 4 };
#define PATIENCE_NS (30 * SECOND_NS)

/* All that it says until it ends. */
static status_t read_all(int fd, char *text, size_t *length, struct error *error)
{
    int64_t until_ns = clock_now_ns() + PATIENCE_NS;
    for (*length = 0;;) {
        struct pollfd item = {.fd = fd, .events = POLLIN};
        int64_t left_ms = (until_ns - clock_now_ns()) / MILLISECOND_NS;
        if (left_ms <= 0) return error_set(error, STATUS_DEADLINE, "the worker did not end within 30 s");
        if (*length == CARD_BYTES) return error_set(error, STATUS_CORRUPT, "the worker says too much");
        if (poll(&item, 1, (int)left_ms) < 0 && errno != EINTR)
            return error_set(error, STATUS_IO, "the worker cannot be read: %m");
        ssize_t got = read(fd, text + *length, CARD_BYTES - *length);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (got <= 0) return STATUS_OK;
        *length += (size_t)got;
    }
}

static status_t inspect(const char *directory, char *text, size_t *length, struct error *error)
{
    char worker[PATH_MAX];
    int output;
    struct child child;
    status_t status = service_find_worker(worker, error);
    if (status != STATUS_OK) return status;
    const char *argv[] = {worker, "--inspect", directory, NULL};
    status =
        child_start(argv, &(struct child_options){.output = &output, .last_signal = SIGKILL}, &child, error);
    if (status != STATUS_OK) return status;
    status = read_all(output, text, length, error);
    close(output);
    if (status != STATUS_OK) kill(child.pid, SIGKILL);
    int code = child_reap(&child);
    if (status == STATUS_OK && code != 0)
        status = error_set(error, STATUS_INVALID, "%.*s", (int)(*length < 300 ? *length : 300), text);
    return status;
}

static status_t needs_from(const Refrain__ModelCard *card, const struct planner_job *job,
                           const struct planner_machine *machine, struct needs *needs, struct error *error)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    const struct needs_rank rank = {.gpu = true, .decode_memory = machine->memory_bytes / DECODE_PARTS};
    spec.width = job->width;
    spec.height = job->height;
    spec.frames = job->frames;
    spec.has_width = spec.has_height = spec.has_frames = 1;
    spec.steps = job->steps[0] + job->steps[1];
    spec.guidance = job->branches > 1 ? 5 : 1;
    spec.has_steps = spec.has_guidance = 1;
    spec.cache = (char *)"off";
    needs_of(card, &spec, &rank, needs);
    return needs->sized ? STATUS_OK
                        : error_set(error, STATUS_UNSUPPORTED, "its card does not say what jobs take");
}

status_t planneeds_find(const char *directory, const struct planner_job *job,
                        const struct planner_machine *machine, struct needs *needs, struct error *error)
{
    Refrain__ModelCard *card = NULL;
    size_t length;
    char *text = malloc(CARD_BYTES + 1);
    if (!text) return error_set(error, STATUS_NO_MEMORY, "no memory for a model's card");
    status_t status = inspect(directory, text, &length, error);
    if (status == STATUS_OK) {
        text[length] = 0;
        /* What was logged stands before it. */
        const char *object = text[0] == '{' ? text : strstr(text, "\n{");
        if (object)
            status = card_from_json(object, length - (size_t)(object - text), &card, error);
        else
            status = error_set(error, STATUS_CORRUPT, "the worker says no card");
    }
    if (status == STATUS_OK) status = needs_from(card, job, machine, needs, error);
    if (card) refrain__model_card__free_unpacked(card, NULL);
    free(text);
    return status;
}
