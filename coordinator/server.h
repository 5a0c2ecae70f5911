/*
 * server.h - the coordinator: its sockets, its loop, and what the loop works with.
 *
 *     struct server *server;
 *     server_open(&settings, &server, &error);
 *     server_run(server, &error);                 until SIGTERM or SIGINT
 *     server_close(server);
 *
 * One thread runs all of it. Each turn of the loop takes what has arrived (reports.c, requests.c), decides
 * (schedule.c), commits once, and only then lets messages go out. The parts:
 *
 *     jobstore  what must survive    jobs     unfinished jobs, in memory         groups  ranks and epochs
 *     models    names and cards      results  files                              launch  our own launcher
 *     watches   who wants to know    outbox   messages waiting for the commit    curve   keys and tenants
 *     counts    what jobs did        scrape   the port that metrics are fetched from
 */
#ifndef REFRAIN_COORDINATOR_SERVER_H
#define REFRAIN_COORDINATOR_SERVER_H

#include "coordinator/metrics/counts.h"
#include "coordinator/curve.h"
#include "coordinator/ranks/groups.h"
#include "coordinator/foresight/hitrate.h"
#include "coordinator/jobs/jobs.h"
#include "coordinator/ranks/launch.h"
#include "coordinator/ranks/launchers.h"
#include "coordinator/models.h"
#include "coordinator/outbox.h"
#include "coordinator/jobs/results.h"
#include "coordinator/settings.h"
#include "coordinator/foresight/stream.h"
#include "coordinator/vault/vault.h"
#include "coordinator/watches.h"

enum { SERVER_LEARNT = 32 };

/* What jobs of a model taught about their work beside blocks (foresight.h). */
struct learnt {
    uint64_t model; /* by number; 0: free */
    int64_t used_ns;
    bool known;
    double text;   /* seconds of a branch's */
    double step;   /* of a branch of a step and a token: before and after the blocks */
    double decode; /* of a token */
    double files;  /* of a token */
};

struct server {
    const struct settings *settings; /* borrowed */
    void *context, *clients, *workers;
    struct jobstore *store;
    struct jobs *jobs;
    struct groups *groups;
    struct models *models;
    struct results *results;
    struct launch *launch;
    struct launchers *launchers;
    struct vault *vault; /* NULL: checkpoints are off */
    struct watches *watches;
    struct outbox *outbox;
    struct curve *curve;   /* NULL: no keys */
    struct scrape *scrape; /* NULL: no --metrics */
    int signals;           /* signalfd */
    int data_lock;         /* one coordinator per data directory */
    char endpoint[256], worker_endpoint[256], vault_endpoint[256], worker_key[PATH_MAX];

    int64_t now_ns, now_ms; /* monotonic and wall clock at the start of this turn */
    int64_t before_ns;      /* start of the turn before it */
    int64_t started_ns;
    int64_t orphans_until_ns; /* jobs the store calls running wait so long for their ranks; CLOCK_NEVER: there
                                 are none */
    double mean_step_seconds;
    uint64_t ranks_replaced, steps_repeated;
    struct counts counts, settled; /* settled: as of the last commit */
    struct hitrates rates;
    struct learnt learnt[SERVER_LEARNT];
    struct stream stream; /* of submissions */
    uint64_t newest_age;  /* of the job that was taken from the queue last */
    int64_t foreseen_ns,
        look_ns;            /* when finish times were last predicted, 0: never; and how long that took */
    uint64_t refused;       /* messages that made no sense */
    int64_t store_retry_ns; /* after a failed commit: nothing new is begun before */
    uint64_t *deleted;      /* [deleted_count]: jobs whose files go once the commit is done */
    size_t deleted_count, deleted_capacity;
    bool stopping;
    int64_t stop_at_ns; /* when stopping: end of patience */
};

status_t server_open(const struct settings *settings, struct server **server, struct error *error);
/* STATUS_OK when asked to end; otherwise what made it impossible to go on. */
status_t server_run(struct server *server, struct error *error);
void server_close(struct server *server); /* NULL is fine */

/* For who has a loop and a clock of his own, such as a simulation: the same parts without sockets and signals.
 * What would be sent is given to `send`; nothing is launched. A turn is: server_begin_turn, server_report and
 * server_request for what has arrived, server_end_turn. Turns are due when something arrived, and every
 * SERVER_TURN_MS. */
enum { SERVER_TURN_MS = 100 }; /* with ranks about, look after them this often */
status_t server_open_core(const struct settings *settings, outbox_send_fn *send, void *argument,
                          struct server **server, struct error *error);
void server_begin_turn(struct server *server);
void server_end_turn(struct server *server);

/* requests.c: one message of a client. */
void server_request(struct server *server, const struct wire_peer *peer, zmq_msg_t *frame);
/* requests.c: the answer to a ModelAdd whose inspection ended. */
void server_inspected(struct server *server, const struct inspected *inspected);
/* reports.c: one message of a worker. */
void server_report(struct server *server, const struct wire_peer *peer, zmq_msg_t *frame);
/* checkpoints.c */
status_t server_open_vault(struct server *server, struct error *error);
void server_take_saved(struct server *server);
void server_retire_checkpoints(struct server *server, uint64_t job); /* it is over */
void server_drop_checkpoints(struct server *server, uint64_t job);   /* it is deleted */
/* Steps between the checkpoints of a job that stay for others; 0: none do. */
uint32_t server_mark_every(const struct server *server, const Refrain__JobSpec *spec);
/* reports.c: a result file is durable, or could not be made so. */
void server_file_finished(struct server *server, const struct finished_file *file);
/* schedule.c: a slot's job, if it still counts, waits in the queue again; the slot is free. */
void server_give_back(struct server *server, struct slot *slot, enum jobs_loss loss, const char *why);
/* schedule.c: the slot's job, as long as its attempt is the one that counts; NULL once it expired or was moved on, or the slot
 * is free. */
struct job *server_slot_job(const struct server *server, const struct slot *slot);
/* schedule.c: has the group a place for that job, whatever it needs? */
bool server_has_room(const struct server *server, const struct group *group, const struct job *job);
/* schedule.c: the job in flight on the group that makes the very steps this one needs, which waits for them rather than have them made
 * twice; NULL: none, or it may be put off for this one, or the ranks keep nothing for others. */
const struct job *server_maker(const struct server *server, const struct group *group, const struct job *job);
/* schedule.c: jobs a group takes at once. */
int server_flight_limit(const struct server *server, const struct group *group);
/* schedule.c: what is known of a group's ranks and a model, for plans; the mix is the caller's to fill in.
 * seats: [ranks], borrowed by the request; their memory is what is left for weights beside a job of that spec (NULL: none). */
struct plan_request server_describe_layout(const struct server *server, const struct group *group,
                                           const Refrain__ModelCard *card, const Refrain__JobSpec *spec,
                                           struct plan_seat *seats);
/* schedule.c: could the group go on without those ranks [group->ranks]: would the wished layout and the loaded model's
 * weights fit the others? STATUS_CONFLICT, STATUS_NO_MEMORY. */
status_t server_check_without(const struct server *server, const struct group *group, const bool *leaves,
                              struct error *error);
/* schedule.c: could a group that is there now take the job, alone and laid out for it? STATUS_NO_MEMORY, with the sizes of the last
 * one, where there are groups and none has the memory. */
status_t server_check_room(struct server *server, const Refrain__ModelCard *card,
                           const Refrain__JobSpec *spec, struct error *error);
/* schedule.c: brings groups and jobs together; called once per turn. */
void server_schedule(struct server *server);
/* schedule.c: the ranks are told to end, running jobs go back to the queue. */
void server_release_ranks(struct server *server, const char *reason);
/* After a failed commit: memory becomes what the store says. */
void server_recover(struct server *server);

#endif
