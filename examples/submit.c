/*
 * submit.c - one prompt to one video through a running coordinator, from C, with librefrain.
 *
 *     examples/submit tcp://127.0.0.1:5731 reference ["a prompt" [video.mp4]]
 */
#include "client/librefrain.h"

#include <stdio.h>

/* Shows what happens to the job until it has ended. */
static status_t watch(struct refrain *refrain, uint64_t number, struct error *error)
{
    struct refrain_watch *watch = NULL;
    status_t status = refrain_watch_open(refrain, number, 0, &watch, error);
    for (bool last = false; !status && !last;) {
        struct refrain_event *event = NULL;
        status = refrain_watch_next(watch, 300000, &event, error);
        if (status) break;
        const struct refrain_progress *progress = &event->job.progress;
        printf("job %llu: %s %s %u/%u\n", (unsigned long long)number, refrain_state_name(event->job.state),
               refrain_phase_name(progress->phase), progress->step, progress->steps);
        last = event->last;
        refrain_free(event);
    }
    refrain_watch_close(watch);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s ENDPOINT MODEL [PROMPT [FILE.mp4]]\n", argv[0]);
        return 2;
    }
    const char *output = argc > 4 ? argv[4] : "video.mp4";
    struct refrain *refrain = NULL;
    struct refrain_job *job = NULL;
    struct error error;
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    spec.model = argv[2];
    spec.prompt = argc > 3 ? argv[3] : "a large red star spinning on a navy background";
    spec.seed = 7;
    spec.steps = 10;
    spec.cache = "balanced"; /* may reuse work between steps; NULL: computes them all */

    /* Better to hear now that the file cannot be written than when the video is there. */
    status_t status = refrain_output_check(output, &error);
    if (!status) status = refrain_connect(argv[1], NULL, 2000, &refrain, &error);
    if (!status) status = refrain_submit(refrain, &spec, NULL, 10000, &job, &error);
    if (!status) status = watch(refrain, job->number, &error);
    if (!status)
        status = refrain_wait(refrain, &job, 10000, &error); /* the job as it ended, with its files */
    if (!status && job->state != REFRAIN_COMPLETED)
        status = error_set(&error, STATUS_ABORTED, "job %llu %s: %s", (unsigned long long)job->number,
                           refrain_state_name(job->state), job->message ? job->message : "");
    if (!status && job->cache)
        printf("%s: %u computed, %u reused or forecast, of %u steps of %u branches\n", job->cache->policy,
               job->cache->computed, job->cache->reused + job->cache->forecast, job->cache->steps,
               job->cache->branches);
    if (!status) status = refrain_fetch(refrain, job, REFRAIN_VIDEO, output, 0, 60000, &error);
    if (status)
        fprintf(stderr, "%s\n", error.text);
    else
        printf("%s\n", output);
    refrain_free(job);
    refrain_close(refrain);
    return status != STATUS_OK;
}
