/*
 * child.h - starting a program with clean hands.
 *
 *     const char *argv[] = {"/usr/bin/refrain-worker", "--inspect", directory, NULL};
 *     struct child child;
 *     child_start(argv, &(struct child_options){.output = &fd}, &child, &error);
 *     ... poll(child.pidfd) ...
 *     int code = child_reap(&child);
 *
 * The child gets no signal mask, no descriptor and no terminal of ours, and ends
 * with us when asked to. One thread: with `last_signal`, the thread that starts it must live as long as the
 * program.
 */
#ifndef REFRAIN_BASE_CHILD_H
#define REFRAIN_BASE_CHILD_H

#include <stdbool.h>
#include <sys/types.h>
#include "base/status.h"

struct child {
    pid_t pid;
    int pidfd; /* readable once it ended; -1: none */
};

struct child_options {
    int *input;  /* non-NULL: a pipe to its standard input comes back here; otherwise it reads /dev/null */
    int *output; /* non-NULL: a pipe with its standard output and error comes back here, non-blocking */
    const char *log_path; /* non-NULL: both are appended to this file instead; neither: both go where our
                             error goes */
    bool new_session;     /* away from our terminal and process group: outlives us */
    int last_signal;      /* what it gets when the calling thread ends; 0: nothing */
    const char *const *environment; /* "NAME=VALUE" to add, NULL-terminated; or NULL */
};

/* argv[0] is searched in PATH when it has no slash. A program that cannot be executed is noticed here:
 * STATUS_NOT_FOUND or STATUS_IO. */
status_t child_start(const char *const *argv, const struct child_options *options, struct child *child,
                     struct error *error);

/* Waits for its end and closes pidfd: the exit status, 128 + the signal, or -1 when it was not our child. */
int child_reap(struct child *child);

#endif
