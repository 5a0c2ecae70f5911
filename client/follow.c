/* follow.c - see follow.h. Main thread. */
#include "client/follow.h"

#include "base/clock.h"
#include "client/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TICK_MS = 1000, PATH_BYTES = 4200 };
static const int64_t AWAY_NS = 60 * SECOND_NS; /* longer than a coordinator takes to restart */

static enum progress_form form_of(const struct settings *settings)
{
    return settings->json ? PROGRESS_JSON : settings->quiet ? PROGRESS_NONE : PROGRESS_PERSON;
}

/* Keeps track of how long the coordinator has been away. */
static status_t check_away(struct cli *cli, struct progress *progress, int64_t *away_since,
                           struct error *error)
{
    bool away = !refrain_connected(cli->refrain);
    if (!away)
        *away_since = 0;
    else if (*away_since == 0)
        *away_since = clock_now_ns();
    progress_away(progress, away);
    if (!away || clock_now_ns() - *away_since < AWAY_NS) return STATUS_OK;
    return error_set(error, STATUS_PEER_LOST,
                     "the coordinator at %s has been away for a minute. If it comes back the job goes on",
                     refrain_endpoint(cli->refrain));
}

/* Whole or not at all, for a viewer that reads it again and again. That it cannot be written is said once. */
static void keep_preview(struct cli *cli, const struct refrain_job *job, bool *complained)
{
    char partial[PATH_BYTES];
    const char *path = cli->settings.preview;
    const struct refrain_progress *progress = &job->progress;
    if (!path || !progress->preview_bytes) return;
    bool fits = (size_t)snprintf(partial, sizeof partial, "%s.partial", path) < sizeof partial;
    FILE *file = fits ? fopen(partial, "wbe") : NULL;
    bool written =
        file && fwrite(progress->preview, 1, progress->preview_bytes, file) == progress->preview_bytes;
    if (file && fclose(file) != 0) written = false;
    if (written && rename(partial, path) == 0) return;
    if (!*complained)
        fprintf(stderr, "refrain: --preview %s: cannot be written: %s\n", path, strerror(errno));
    *complained = true;
    if (file) unlink(partial);
}

status_t follow_job(struct cli *cli, uint64_t number, uint64_t from_sequence,
                    status_t (*check)(void *context, const struct refrain_job *latest, struct error *error),
                    void *context, struct refrain_job **job, struct error *error)
{
    struct refrain_watch *watch = NULL;
    struct refrain_event *latest = NULL;
    int64_t away_since = 0, checked_ns = clock_now_ns();
    bool complained = false;
    struct progress *progress = progress_new(&cli->style, form_of(&cli->settings));
    status_t status = refrain_watch_open(cli->refrain, number, from_sequence, &watch, error);
    for (bool last = false; !status && !last;) {
        struct refrain_event *event = NULL;
        status = refrain_watch_next(watch, TICK_MS, &event, error);
        if (status == STATUS_DEADLINE) status = check_away(cli, progress, &away_since, error);
        if (event) {
            progress_away(progress, false);
            progress_event(progress, event);
            keep_preview(cli, &event->job, &complained);
            refrain_free(latest);
            latest = event;
            last = event->last || refrain_state_is_final(event->job.state);
        }
        if (status || last || !check || clock_now_ns() - checked_ns < TICK_MS * MILLISECOND_NS) continue;
        checked_ns = clock_now_ns();
        status = check(context, latest ? &latest->job : NULL, error);
    }
    progress_destroy(progress);
    refrain_watch_close(watch);
    refrain_free(latest);
    return status ? status : refrain_status(cli->refrain, number, CALL_MS, job, error);
}

void follow_report(const struct cli *cli, const struct refrain_job *job)
{
    char total[SHOW_BYTES], reason[SHOW_TEXT_BYTES];
    if (cli->settings.json) return;
    if (job->state != REFRAIN_COMPLETED) {
        fflush(stdout);
        fprintf(stderr, "refrain: job %" PRIu64 " %s%s%s\n", job->number,
                job->state == REFRAIN_CANCELLED ? "was cancelled" : refrain_state_name(job->state),
                job->message ? ": " : "", show_fit(&cli->style, job->message, 900, reason));
    } else if (!cli->settings.quiet) {
        printf("done     job %" PRIu64 "  %s; `refrain result %" PRIu64 "` fetches its files\n", job->number,
               show_duration(&cli->style, job->times.total, total), job->number);
    }
}
