/*
 * progress.h - a job's way through the service, for whoever looks on: a line that redraws itself on a
 * terminal, plain lines in a pipe, objects with --json, nothing with --quiet.
 *
 *     struct progress *progress = progress_new(&style, PROGRESS_PERSON, job_number);
 *     progress_event(progress, event);
 *     progress_away(progress, true);           the coordinator is gone for now
 *     progress_destroy(progress);              ends the line
 *
 * Writes to standard output. One thread.
 */
#ifndef REFRAIN_CLIENT_PROGRESS_H
#define REFRAIN_CLIENT_PROGRESS_H

#include "client/librefrain.h"
#include "client/show.h"

enum progress_form { PROGRESS_PERSON, PROGRESS_JSON, PROGRESS_NONE };

struct progress;

/* NULL when memory is short; every other function takes NULL and then does nothing. */
struct progress *progress_new(const struct show_style *style, enum progress_form form);
void progress_destroy(struct progress *progress);

void progress_event(struct progress *progress, const struct refrain_event *event);

/* Whether the coordinator cannot be heard at the moment. */
void progress_away(struct progress *progress, bool away);

/* Ends the line that is being redrawn, so that something else can be printed. */
void progress_pause(struct progress *progress);

/* "job 4127 "a lighthouse ..."   seed 7, 30 steps, 64x64x17": one line, for a person. */
void progress_header(const struct show_style *style, uint64_t number, const struct refrain_spec *spec);

#endif
