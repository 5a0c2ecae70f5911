/* stopwatch.c - see stopwatch.h. */
#include "client/stopwatch.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/child.h"
#include "base/clock.h"

/* Of a best at least so many runs, and as many more as take a moment. */
enum { LINE_BYTES = 1024, BEST_OF = 3, BEST_OF_MOST = 50 };
#define BEST_IN_SECONDS 0.5
#define PATIENCE_NS     (3600 * SECOND_NS)

struct stopwatch {
    int ranks, threads;
    char backend[STOPWATCH_NAME_BYTES];
    struct rank {
        struct child child;
        int input, output;
        char text[LINE_BYTES]; /* what has come of a line, and of others behind it */
        size_t length;
    } rank[STOPWATCH_MOST];
};

static int threads_of(const struct stopwatch_options *o)
{
    cpu_set_t set;
    if (o->threads > 0) return o->threads;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return cores > o->ranks ? cores / o->ranks : 1;
}

/* The next whole line, without its end; what does not fit is cut off. */
static status_t read_line(struct rank *r, char line[LINE_BYTES], struct error *error)
{
    int64_t until_ns = clock_now_ns() + PATIENCE_NS;
    for (;;) {
        char *end = memchr(r->text, '\n', r->length);
        size_t taken = end ? (size_t)(end - r->text) : r->length;
        if (end || r->length == sizeof r->text) {
            size_t fits = taken < LINE_BYTES ? taken : LINE_BYTES - 1;
            memcpy(line, r->text, fits);
            line[fits] = '\0';
            r->length -= end ? taken + 1 : taken;
            memmove(r->text, r->text + taken + (end != NULL), r->length);
            return STATUS_OK;
        }
        struct pollfd item = {.fd = r->output, .events = POLLIN};
        int64_t left_ms = (until_ns - clock_now_ns()) / MILLISECOND_NS;
        if (left_ms <= 0)
            return error_set(error, STATUS_DEADLINE, "measure: the worker did not answer within an hour");
        if (poll(&item, 1, (int)left_ms) < 0 && errno != EINTR)
            return error_set(error, STATUS_IO, "measure: the worker cannot be read: %m");
        ssize_t got = read(r->output, r->text + r->length, sizeof r->text - r->length);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (got <= 0) return STATUS_PEER_LOST;
        r->length += (size_t)got;
    }
}

/* The next JSON object; what else a worker says is why it ends, should it end. */
static status_t read_object(struct rank *r, json_t **object, struct error *error)
{
    char line[LINE_BYTES], last[LINE_BYTES] = "it ended without a word";
    status_t status;
    while ((status = read_line(r, line, error)) == STATUS_OK) {
        *object = line[0] == '{' ? json_loads(line, 0, NULL) : NULL;
        if (*object) return STATUS_OK;
        memcpy(last, line, sizeof last);
    }
    return status == STATUS_PEER_LOST ? error_set(error, STATUS_INVALID, "measure: %.400s", last) : status;
}

static status_t start(const struct stopwatch_options *o, struct stopwatch *w, struct error *error)
{
    char size[64], threads[16];
    snprintf(size, sizeof size, "%ux%ux%u", o->width, o->height, o->frames);
    snprintf(threads, sizeof threads, "%d", w->threads);
    const char *argv[] = {o->worker, "--bench", o->model, "--size", size, "--threads", threads, NULL};
    struct rank *r = &w->rank[w->ranks];
    status_t status = child_start(
        argv, &(struct child_options){.input = &r->input, .output = &r->output, .last_signal = SIGKILL},
        &r->child, error);
    w->ranks += status == STATUS_OK;
    return status;
}

static status_t await_ready(struct stopwatch *w, int rank, struct error *error)
{
    json_t *object;
    status_t status = read_object(&w->rank[rank], &object, error);
    if (status != STATUS_OK) return status;
    const char *backend = json_string_value(json_object_get(object, "backend"));
    snprintf(w->backend, sizeof w->backend, "%s", backend ? backend : "");
    json_decref(object);
    return STATUS_OK;
}

status_t stopwatch_open(const struct stopwatch_options *o, struct stopwatch **watch, struct error *error)
{
    status_t status = STATUS_OK;
    if (o->ranks < 1 || o->ranks > STOPWATCH_MOST)
        return error_set(error, STATUS_INVALID, "ranks %d: must be 1 to %d", o->ranks, STOPWATCH_MOST);
    struct stopwatch *w = calloc(1, sizeof *w);
    if (!w) return error_set(error, STATUS_NO_MEMORY, "no memory to measure with");
    w->threads = threads_of(o);
    for (int i = 0; status == STATUS_OK && i < o->ranks; i++) status = start(o, w, error);
    for (int i = 0; status == STATUS_OK && i < o->ranks; i++) status = await_ready(w, i, error);
    if (status == STATUS_OK)
        *watch = w;
    else
        stopwatch_close(w);
    return status;
}

void stopwatch_close(struct stopwatch *w)
{
    if (!w) return;
    for (int i = 0; i < w->ranks; i++) {
        close(w->rank[i].input);
        close(w->rank[i].output);
        kill(w->rank[i].child.pid, SIGKILL);
        child_reap(&w->rank[i].child);
    }
    free(w);
}

int stopwatch_threads(const struct stopwatch *w)
{
    return w->threads;
}

const char *stopwatch_backend(const struct stopwatch *w)
{
    return w->backend;
}

static status_t ask(struct rank *r, const char *what, struct error *error)
{
    char line[32];
    int length = snprintf(line, sizeof line, "%s\n", what);
    if (length < (int)sizeof line && write(r->input, line, (size_t)length) == length) return STATUS_OK;
    return error_set(error, STATUS_IO, "measure: the worker takes no orders: %m");
}

status_t stopwatch_time(struct stopwatch *w, const char *what, int ranks, double *seconds,
                        struct error *error)
{
    status_t status = STATUS_OK;
    double sum = 0;
    if (ranks < 1 || ranks > w->ranks)
        return error_set(error, STATUS_INVALID, "ranks %d of %d", ranks, w->ranks);
    for (int i = 0; status == STATUS_OK && i < ranks; i++) status = ask(&w->rank[i], what, error);
    for (int i = 0; status == STATUS_OK && i < ranks; i++) {
        json_t *object;
        status = read_object(&w->rank[i], &object, error);
        if (status != STATUS_OK) break;
        const json_t *took = json_object_get(object, "seconds");
        const char *failure = json_string_value(json_object_get(object, "error"));
        if (json_is_number(took))
            sum += json_number_value(took);
        else
            status =
                error_set(error, STATUS_INVALID, "measure: %.400s", failure ? failure : "no time came back");
        json_decref(object);
    }
    if (status == STATUS_OK) *seconds = sum / ranks;
    return status;
}

status_t stopwatch_best(struct stopwatch *w, const char *what, int ranks, double *seconds,
                        struct error *error)
{
    double took, best = 0, all = 0;
    status_t status = stopwatch_time(w, what, ranks, &took, error);
    for (int i = 0; status == STATUS_OK && (i < BEST_OF || (all < BEST_IN_SECONDS && i < BEST_OF_MOST));
         i++) {
        status = stopwatch_time(w, what, ranks, &took, error);
        if (i == 0 || took < best) best = took;
        all += took;
    }
    if (status == STATUS_OK) *seconds = best;
    return status;
}
