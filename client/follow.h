/*
 * follow.h - stays with a job until it has ended, showing its progress.
 *
 *     struct refrain_job *job;
 *     status_t status = follow_job(cli, number, 0, &job, &error);
 *     if (!status && job->state == REFRAIN_COMPLETED) ...
 *     refrain_free(job);
 */
#ifndef REFRAIN_CLIENT_FOLLOW_H
#define REFRAIN_CLIENT_FOLLOW_H

#include "client/cli.h"

/* Watches job `number` from `from_sequence` on and shows events as the options say; then the job as it ended,
 * which the caller frees. A coordinator that is away is waited for, a minute at most (PEER_LOST). ABORTED: a
 * signal came. `check` (NULL: none) is asked every second or so and ends it with what it returns unless OK.
 */
status_t follow_job(struct cli *cli, uint64_t number, uint64_t from_sequence,
                    status_t (*check)(void *context, const struct refrain_job *latest, struct error *error),
                    void *context, struct refrain_job **job, struct error *error);

/* One line on how a job ended, with its times; on standard error if it did not complete. */
void follow_report(const struct cli *cli, const struct refrain_job *job);

#endif
