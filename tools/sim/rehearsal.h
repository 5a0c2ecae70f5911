/*
 * rehearsal.h - the whole service on the virtual clock: the real coordinator on a real job store, virtual ranks, a
 * virtual launcher, and clients that submit and watch.
 *
 *     rehearsal_open(&(struct rehearsal_config){.model = dir, .directory = dir, .ranks = 4, .costs = {...}}, &s, &error);
 *     rehearsal_submit(s, &spec, &job, &error);
 *     rehearsal_run(s, rehearsal_now_ns(s) + 3 * SECOND_NS);
 *     rehearsal_kill(s, 2);  rehearsal_lose_coordinator(s, 2 * SECOND_NS);
 *     rehearsal_finish(s, 1000 * SECOND_NS, &error);             until all jobs have ended
 *     rehearsal_latents(s, job, &bytes, &size)
 *     rehearsal_close(s);
 *
 * The coordinator's turn takes no time; messages take theirs.
 */
#ifndef REFRAIN_TOOLS_SIM_REHEARSAL_H
#define REFRAIN_TOOLS_SIM_REHEARSAL_H

#include "proto/refrain.pb-c.h"
#include "tools/sim/costs.h"
#include "tools/sim/network.h"
#include "tools/sim/starter.h"

struct rehearsal;

enum { REHEARSAL_MAX_JOBS = 256, REHEARSAL_MAX_OPTIONS = 32 };

struct rehearsal_config {
    const char *model;     /* a checkpoint's directory; jobs call it "tiny" */
    const char *directory; /* private: the coordinator's data, the ranks' files */
    int ranks;
    const double *speeds; /* [ranks]; NULL: all 1 */
    struct costs costs;
    struct network_config network;
    int64_t start_ns;                           /* of a rank's process */
    bool no_launcher;                           /* ranks are started once, by hand */
    const char *options[REHEARSAL_MAX_OPTIONS]; /* further ones of refrain-coordinator, NULL at the end */
};

/* When it was said to be done, and at which moment; 0: it was not said. */
struct rehearsal_told {
    int64_t at_ns, finish_ns;
};

/* What a client knows of a job, from its events. */
struct rehearsal_job {
    uint64_t id;
    Refrain__JobState state;
    bool ended;
    uint32_t attempt;
    int64_t submitted_ns, started_ns, ended_ns; /* as the client hears of it; 0: not yet */
    int steps_done;                             /* of the latest progress */
    int shown, set_back; /* steps as a bar would show them; the most that it ever went back */
    int steps_reported; /* over all attempts: what was computed more than once counts twice */
    struct rehearsal_told told[3]; /* at submission; when a quarter, and when half of its steps were done */
    struct rehearsal_told asked;   /* when rehearsal_ask last asked */
    int steps;
    char plan[128]; /* the layout it ran on last */
    char message[ERROR_TEXT_BYTES]; /* also the warning of a submission */
};

status_t rehearsal_open(const struct rehearsal_config *config, struct rehearsal **rehearsal,
                        struct error *error);
void rehearsal_close(struct rehearsal *rehearsal); /* NULL is fine */

/* The spec's model, sizes and so on as any client's. *job: index for rehearsal_job. */
status_t rehearsal_submit(struct rehearsal *rehearsal, Refrain__JobSpec *spec, int *job, struct error *error);
const struct rehearsal_job *rehearsal_job(const struct rehearsal *rehearsal, int job);
/* Asks for the job's status; the answer is in `asked` once time has gone on. */
void rehearsal_ask(struct rehearsal *rehearsal, int job);
/* The file latents.safetensors of a completed job that asked for it; malloc'ed. */
status_t rehearsal_latents(const struct rehearsal *rehearsal, int job, void **bytes, size_t *size,
                           struct error *error);

int64_t rehearsal_now_ns(const struct rehearsal *rehearsal);
void rehearsal_run(struct rehearsal *rehearsal, int64_t until_ns);
/* STATUS_DEADLINE: after `limit_ns` of virtual time some job has not ended. */
status_t rehearsal_finish(struct rehearsal *rehearsal, int64_t limit_ns, struct error *error);

void rehearsal_kill(struct rehearsal *rehearsal, int rank);
void rehearsal_stop(struct rehearsal *rehearsal, int rank);
void rehearsal_continue(struct rehearsal *rehearsal, int rank);
/* `refrain drain RANK`, and with --back; what the coordinator refuses is in *error. */
status_t rehearsal_drain(struct rehearsal *rehearsal, int rank, bool back, struct error *error);
/* SIGKILL of the coordinator: what it had not committed is gone; another one opens its store so much later. */
void rehearsal_lose_coordinator(struct rehearsal *rehearsal, int64_t away_ns);

/* Time that the rank's present process spent computing so far. */
int64_t rehearsal_busy_ns(const struct rehearsal *rehearsal, int rank);

struct rehearsal_counts {
    int processes; /* of ranks that were started */
    int ranks;     /* in the first group */
    const char *state; /* of the group: "running", "moving", ... as refrain ranks has it; "": there is none */
    uint64_t epoch, checkpoints, events;
    uint64_t steps_repeated; /* by what the coordinator knows, since its start */
};
void rehearsal_counts(const struct rehearsal *rehearsal, struct rehearsal_counts *counts);

#endif
