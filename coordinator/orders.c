/*
 * orders.c - see orders.h. Runs on the coordinator's loop thread; keeps nothing.
 */
#include "coordinator/orders.h"

#include <sys/random.h>
#include "base/log.h"

enum { TOKEN_BYTES = 32 };

/* An order of the given kind with its body in place, sent to one worker. */
#define SEND(outbox, peer, kind, member, body_pointer)                                                       \
    do {                                                                                                     \
        Refrain__WorkerOrder order_ = REFRAIN__WORKER_ORDER__INIT;                                           \
        order_.body_case = REFRAIN__WORKER_ORDER__BODY_##kind;                                               \
        order_.member = (body_pointer);                                                                      \
        outbox_order(outbox, peer, &order_);                                                                 \
    } while (0)

/* Sets a number together with its has_ flag. */
#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

void order_shutdown(struct outbox *outbox, const struct wire_peer *peer, const char *reason)
{
    Refrain__Shutdown body = REFRAIN__SHUTDOWN__INIT;
    body.reason = (char *)(uintptr_t)reason;
    SEND(outbox, peer, SHUTDOWN, shutdown, &body);
}

void order_shutdown_group(struct outbox *outbox, const struct group *group, const char *reason)
{
    for (uint32_t rank = 0; rank < group->ranks + group->guests; rank++)
        if (group->members[rank].here) order_shutdown(outbox, &group->members[rank].peer, reason);
}

void order_rehello(struct outbox *outbox, const struct wire_peer *peer)
{
    Refrain__Rehello body = REFRAIN__REHELLO__INIT;
    SEND(outbox, peer, REHELLO, rehello, &body);
}

void order_welcome(struct outbox *outbox, const struct wire_peer *peer, Refrain__Welcome *welcome)
{
    SEND(outbox, peer, WELCOME, welcome, welcome);
}

void order_epoch(struct outbox *outbox, const struct group *group)
{
    uint8_t token[TOKEN_BYTES]; /* the epoch's secret: the fabrics listen to nobody without it */
    Refrain__Member members[PLAN_MAX_RANKS], *pointers[PLAN_MAX_RANKS];
    if (getrandom(token, sizeof token, 0) != sizeof token) {
        log_line(LOG_ERROR,
                 "no random numbers for an epoch: %m"); /* the join times out, and it is tried again */
        return;
    }
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        refrain__member__init(&members[rank]);
        SET(members[rank], rank, rank);
        members[rank].address = group->members[rank].address;
        pointers[rank] = &members[rank];
    }
    for (uint32_t rank = 0; rank < group->ranks; rank++) {
        Refrain__Epoch body = REFRAIN__EPOCH__INIT;
        SET(body, epoch, group->epoch);
        SET(body, self, rank);
        SET(body, seats, group->seats);
        SET(body, token, ((ProtobufCBinaryData){sizeof token, token}));
        body.n_members = group->ranks;
        body.members = pointers;
        SEND(outbox, &group->members[rank].peer, EPOCH, epoch, &body);
    }
}

void order_load(struct outbox *outbox, struct group *group, const struct model *model)
{
    Refrain__Split split = REFRAIN__SPLIT__INIT;
    Refrain__Load body = REFRAIN__LOAD__INIT;
    SET(split, head, group->plan.head);
    SET(split, tail, group->plan.tail);
    uint32_t chains = plan_chains(&group->plan);
    split.n_run = chains * group->ranks;
    split.run = group->plan.run;
    if (chains > 1) {
        split.n_chains = PLAN_CHAINS;
        split.chains = &group->plan.chain[0][0];
    }
    SET(split, floating, group->plan.floating);
    if (group->plan.spare) SET(split, spare, group->plan.spare);
    if (plan_width(&group->plan) > 1) SET(split, width, group->plan.width);
    SET(body, epoch, group->epoch);
    body.model = model->card->name;
    body.directory = model->directory;
    body.split = &split;
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        SEND(outbox, &group->members[rank].peer, LOAD, load, &body);
}

/* NULL stays NULL. */
static Refrain__Checkpoint *to_wire(const struct checkpoint *checkpoint, Refrain__Checkpoint *wire)
{
    if (!checkpoint) return NULL;
    refrain__checkpoint__init(wire);
    SET(*wire, job, checkpoint->job);
    SET(*wire, attempt, checkpoint->attempt);
    SET(*wire, step, checkpoint->step);
    SET(*wire, bytes, checkpoint->bytes);
    SET(*wire, xxh64, checkpoint->xxh64);
    return wire;
}

void order_assign(struct outbox *outbox, const struct group *group, const struct slot *slot,
                  const struct job *job, Refrain__JobSpec *spec, const struct beginning *beginning)
{
    Refrain__Assign body = REFRAIN__ASSIGN__INIT;
    Refrain__Checkpoint resume, origin;
    SET(body, epoch, group->epoch);
    SET(body, job, slot->job);
    SET(body, attempt, slot->attempt);
    body.spec = spec;
    body.tenant = (char *)(uintptr_t)job->tenant;
    if (job->deadline_at_ms) SET(body, deadline_at_ms, (uint64_t)job->deadline_at_ms);
    body.resume = to_wire(beginning->resume, &resume);
    body.origin = to_wire(beginning->origin, &origin);
    SET(body, age, job->age);
    if (beginning->mark_every) SET(body, mark_every, beginning->mark_every);
    SEND(outbox, &group->members[slot->home].peer, ASSIGN, assign, &body);
}

void order_cancel(struct outbox *outbox, const struct group *group, const struct slot *slot)
{
    Refrain__CancelJob body = REFRAIN__CANCEL_JOB__INIT;
    SET(body, job, slot->job);
    SET(body, attempt, slot->attempt);
    SEND(outbox, &group->members[slot->home].peer, CANCEL, cancel, &body);
}

void order_rest(struct outbox *outbox, const struct group *group, uint32_t rank, uint32_t patience_ms)
{
    Refrain__Rest body = REFRAIN__REST__INIT;
    SET(body, epoch, group->epoch);
    SET(body, patience_ms, patience_ms);
    SEND(outbox, &group->members[rank].peer, REST, rest, &body);
}

void order_upload_ack(struct outbox *outbox, const struct group *group, const struct slot *slot,
                      const char *file, uint64_t held)
{
    Refrain__UploadAck body = REFRAIN__UPLOAD_ACK__INIT;
    SET(body, job, slot->job);
    SET(body, attempt, slot->attempt);
    SET(body, received, held);
    body.file = (char *)(uintptr_t)file;
    SEND(outbox, &group->members[slot->home].peer, UPLOAD_ACK, upload_ack, &body);
}

void order_replace(struct outbox *outbox, const struct wire_peer *launcher, const struct group *group,
                   uint32_t seat, const char *host, uint32_t threads)
{
    Refrain__Replace body = REFRAIN__REPLACE__INIT;
    body.group = (char *)(uintptr_t)group->name;
    SET(body, rank, seat);
    SET(body, ranks, group->seats);
    SET(body, threads, threads);
    if (*host) body.host = (char *)(uintptr_t)host;
    SEND(outbox, launcher, REPLACE, replace, &body);
}

void order_joined(struct outbox *outbox, const struct wire_peer *launcher, const char *group, uint32_t first,
                  bool near)
{
    Refrain__Joined body = REFRAIN__JOINED__INIT;
    body.group = (char *)(uintptr_t)group;
    SET(body, first, first);
    SET(body, near, near);
    SEND(outbox, launcher, JOINED, joined, &body);
}

void order_stay(struct outbox *outbox, const struct wire_peer *launcher, const char *group)
{
    Refrain__Stay body = REFRAIN__STAY__INIT;
    body.group = (char *)(uintptr_t)group;
    SEND(outbox, launcher, STAY, stay, &body);
}

void order_relaunch(struct outbox *outbox, const struct wire_peer *launcher, const char *group,
                    const char *reason)
{
    Refrain__Relaunch body = REFRAIN__RELAUNCH__INIT;
    body.group = (char *)(uintptr_t)group;
    body.reason = (char *)(uintptr_t)reason;
    SEND(outbox, launcher, RELAUNCH, relaunch, &body);
}

void order_noted(struct outbox *outbox, const struct wire_peer *peer, uint64_t job, uint32_t attempt)
{
    Refrain__JobNoted body = REFRAIN__JOB_NOTED__INIT;
    SET(body, job, job);
    SET(body, attempt, attempt);
    SEND(outbox, peer, NOTED, noted, &body);
}

void order_probe(struct outbox *outbox, const struct group *group, uint32_t rank, uint32_t peer)
{
    Refrain__Probe body = REFRAIN__PROBE__INIT;
    SET(body, epoch, group->epoch);
    SET(body, peer, peer);
    SEND(outbox, &group->members[rank].peer, PROBE, probe, &body);
}

void order_tier_found(struct outbox *outbox, const struct wire_peer *peer, Refrain__TierFound *found,
                      const struct checkpoint *checkpoint)
{
    Refrain__Checkpoint name;
    found->checkpoint = to_wire(checkpoint, &name);
    SEND(outbox, peer, TIER_FOUND, tier_found, found);
}

void order_tier_lease(struct outbox *outbox, const struct wire_peer *peer, Refrain__TierLease *lease)
{
    SEND(outbox, peer, TIER_LEASE, tier_lease, lease);
}

void order_tier_command(struct outbox *outbox, const struct wire_peer *peer, Refrain__TierCommand *command)
{
    SEND(outbox, peer, TIER_COMMAND, tier_command, command);
}
