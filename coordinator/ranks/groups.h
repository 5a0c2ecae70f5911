/*
 * groups.h - who is there to work: ranks, the groups they form, the epochs of a group.
 *
 *     struct groups *groups;
 *     groups_open(&limits, &groups, &error);
 *     groups_hello(groups, &peer, hello, now_ns, &group, &index, &error);     a rank said who it is
 *     group_check(group, now_ns);                                            silence, hangs, time-outs
 *     switch (group->state) { case GROUP_COMPLETE: ... }                     what is to be done: schedule.c
 *
 * A group has a fixed number of seats, one per rank. It is GATHERING until every seat is taken (its rank said
 * Hello), then COMPLETE; once an epoch was ordered it is JOINING, and READY when every fabric is joined;
 * LOADING while the ranks read a model. An epoch that a rank reports lost makes it BROKEN: if every rank
 * still lives shortly after, it is COMPLETE again. A rank that died, fell silent or left vacates its seat:
 * the group is GATHERING again, the others keep their weights, and a launcher is asked for a replacement;
 * where nobody can make one, or most ranks are gone, the group is LOST, which is final. A seat can be drained: the group
 * goes on in a new epoch of fewer ranks. Whoever comes later, to such a seat or to one that the group did not have, is its
 * guest until a new epoch begins (move.h).
 *
 * Plain state, no sockets: what is to be sent is decided in schedule.c from the states. One thread (the
 * loop). Pointers to groups are valid until groups_remove.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_GROUPS_H
#define REFRAIN_COORDINATOR_RANKS_GROUPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/status.h"
#include "coordinator/tier/figures.h"
#include "coordinator/planner/links.h"
#include "coordinator/planner/needs.h"
#include "coordinator/foresight/pace.h"
#include "proto/wire.h"
#include "rules/plan.h"

enum { GROUP_NAME_BYTES = 65, MEMBER_TEXT_BYTES = 257, GROUP_SLOTS = 64, GROUP_RATIOS = 24 };

enum group_state {
    GROUP_GATHERING, /* waiting for Hello from every rank */
    GROUP_COMPLETE,  /* everybody is here: an epoch is to be ordered */
    GROUP_JOINING,   /* waiting for EpochReady from every rank */
    GROUP_READY,     /* can load and run */
    GROUP_LOADING,   /* waiting for Loaded or LoadFailed from every rank */
    GROUP_BROKEN,    /* the epoch is over; who still lives? */
    GROUP_LOST,      /* to be told and removed */
};

struct member {
    uint32_t seat; /* the number it was started with, as people and launchers know it */
    bool here;     /* said Hello; false: the seat is vacant */
    bool alone;    /* started by an mpirun of its own */
    bool leaves;   /* its seat was drained, or it resigns: the next epoch is without it */
    bool resigns;  /* its launcher is about to end it */
    bool answered; /* what the state waits for: EpochReady, Loaded, LoadFailed */
    struct wire_peer peer;
    uint32_t pid, threads, first_block, blocks;
    uint64_t decode_memory;                     /* the most its decoder takes; 0: unknown */
    uint64_t tier_device;                       /* of its GPU's memory, taken by its cache tier */
    uint64_t weight_bytes, memory_bytes, epoch; /* epoch: the one its last Hello named */
    uint64_t last_epoch;                        /* the latest its process was ever in */
    uint32_t epoch_members;                     /* of that epoch; 0: it did not say */
    int64_t heard_ns;                           /* monotonic */
    uint64_t compute_progress;
    double block_token_ns; /* mean time of one block and token; 0: unknown */
    struct paces paces;    /* the same, by size */
    double gflops;         /* measured by it; 0: unknown */
    int pidfd;             /* of a process on this host; -1 */
    uint64_t tier_limit[LEVELS], tier_used[LEVELS], tier_pinned; /* bytes of its store (cache/tier) */
    bool outcast;        /* the process that sat here last is to be told that it is not counted any more */
    int64_t vacant_ns;   /* since when, while the seat is vacant */
    int64_t ask_ns;      /* when a replacement is to be asked for (again); CLOCK_NEVER: nobody asks */
    int asked;           /* so often in a row, without anybody coming to stay */
    uint32_t replaced;   /* new processes that took the seat */
    int64_t progress_ns; /* when it last grew; 0: not yet */
    /* gpu: its kind, and memory_bytes is that GPU's; "": none, and the ranks of a host share its memory */
    char host[MEMBER_TEXT_BYTES], backend[MEMBER_TEXT_BYTES], gpu[MEMBER_TEXT_BYTES],
        address[MEMBER_TEXT_BYTES], model[MEMBER_TEXT_BYTES];
};

/* Whoever has such an address talks over Unix sockets: no other host reaches it. */
static inline bool member_is_near(const char *address)
{
    return strncmp(address, "ipc:", 4) == 0;
}

/* A job in flight on a group. */
struct slot {
    uint64_t job; /* 0: free */
    uint32_t attempt;
    uint32_t home;      /* member where its loop lives */
    bool assigned;      /* home was told */
    bool cancel_told;   /* ... and told to stop */
    uint32_t from;      /* the step that this attempt began after */
    bool rested;        /* home said that it begins no other step, */
    uint32_t rested_at; /* and which one its last checkpoint is of; 0: there is none */
    struct needs needs;
};

/* Why the group did not take the job whose turn it was (waiting.h). */
struct held {
    uint64_t job; /* 0: none was held up */
    enum held_by { HELD_BY_LAYOUT, HELD_BY_RANKS, HELD_BY_LIMIT, HELD_BY_MEMORY } by;
    uint32_t seat;        /* HELD_BY_MEMORY: of the first rank where it does not fit; */
    uint64_t needs, free; /* bytes. HELD_BY_LIMIT: of the operator's limit */
};

/* A group that is to be laid out anew while it works (move.h). */
struct move {
    bool wanted;  /* for `why` */
    bool resting; /* the jobs were told to rest, until until_ns */
    bool planned; /* `plan` was chosen for what runs; otherwise other ranks are to be laid out as they come */
    int64_t since_ns, until_ns;
    struct plan plan;
    char why[128]; /* a sentence for people */
};

struct group {
    char name[GROUP_NAME_BYTES], fabric[16];
    enum group_state state;
    int64_t since_ns;     /* of the state */
    uint32_t seats;       /* ranks it was started with, and those that came since */
    uint32_t ranks, here; /* of them, those not drained; ranks that said Hello */
    uint32_t own;         /* the seats that its own launcher can fill */
    uint32_t
        reserved; /* ... and any launcher; nobody may have come to the last of them yet (schedule.c, too) */
    uint32_t guests;        /* ranks that came while it works and wait for the next epoch */
    int64_t guest_ns;       /* when the latest of them came */
    struct member *members; /* [ranks], by seat: a rank is its place here; 0 is home. Behind them [guests] */
    uint64_t epoch;         /* 0: none yet */
    int broken_epochs;      /* in a row without a finished job */
    char model[65];         /* loaded on every rank, or being loaded; "" none */
    struct plan plan;       /* of that model */
    char failure[ERROR_TEXT_BYTES]; /* why it is LOST or BROKEN, or why the load failed */
    status_t load_status;
    double load_seconds; /* the latest load */
    int64_t loaded_ns;   /* when it was over */
    double home_work;    /* mean over the model's jobs: plan_mix; 0: unknown */
    int64_t laid_ns;     /* since when the plan is this one */
    struct move move;
    int64_t weighed_ns; /* when it was last asked whether a move pays */
    int64_t still_ns;   /* until then no move is begun that jobs could do without: one could not be made */
    bool
        planned; /* the plan was chosen for the jobs that were moved, and is not chosen again for one of them */
    char load_model[65]; /* of load_block_seconds */
    double
        load_block_seconds; /* the longest load of that model, for each block of the fullest rank; 0: unknown */
    double ratio
        [GROUP_RATIOS]; /* of its latest jobs: how much longer the second half took than was foreseen (lessons.c) */
    uint32_t ratios; /* that there were */
    struct slot slots[GROUP_SLOTS];
    struct held held;
    uint64_t launch;     /* launch_number() of the launcher of ours it came from; 0: somebody else's */
    int64_t progress_ns; /* when any compute_progress last grew */
    bool repairable;     /* its own launcher can start replacements (schedule.c keeps it true) */
    bool disturbed;      /* the epoch ended: what was in flight is to be given back */
    bool blameless;      /* ... through no fault of any job's */
    bool formed;         /* every seat was taken once */
    int suspect;         /* the rank the others lost; -1 */
    struct directory *directory; /* of its ranks' items of the cache tier; NULL: nothing was noted */
    struct figures figures;
    struct copies *copies; /* second copies of such items; NULL: none was wanted */
    struct links links;    /* between its ranks, by seats */
};

struct group_limits {
    int64_t silence_ns; /* a rank that said nothing for this long is lost */
    int64_t gather_ns;  /* from the first Hello to the last */
    int64_t join_ns;    /* from Epoch to the last EpochReady */
    int64_t hang_ns;    /* a working group without compute progress is lost; 0: never */
};

struct groups;

/* What a rank or a launcher says of itself is kept in fields of so many bytes: there, not empty, not too long. */
bool group_text_fits(const char *text, size_t bytes);

status_t groups_open(const struct group_limits *limits, struct groups **groups, struct error *error);
void groups_close(struct groups *groups); /* NULL is fine */

/* A rank joins, or says again who it is over a new connection. Failure (a sentence to shut the rank down
 * with): the group was given up before, its values do not fit the others', its place is taken. */
status_t groups_hello(struct groups *groups, const struct wire_peer *peer, const Refrain__Hello *hello,
                      int64_t now_ns, struct group **group, uint32_t *rank, struct error *error);

/* Whose connection it is, a rank's or a guest's (*rank >= group->ranks); false: nobody's. */
bool groups_find(struct groups *groups, const struct wire_peer *peer, struct group **group, uint32_t *rank);
const char *groups_host(const struct groups *groups); /* ours; "": it has no name */
/* The one group whose name begins with so many letters; NULL: none or *several. */
struct group *groups_called(const struct groups *groups, const char *name, size_t letters, bool *several);
struct group *groups_at(struct groups *groups, size_t index); /* NULL past the end */
/* The slot that holds a job, and its group; NULL: nobody works on it. */
struct slot *groups_slot(struct groups *groups, uint64_t job, struct group **group);
/* What became of a seat. DRAINED: whoever sits there is sent away, and nobody is asked for. RETURNING: the same, but a new
 * process is welcome. */
enum seat_state { SEAT_SERVES, SEAT_DRAINED, SEAT_RETURNING };
enum seat_state groups_seat(const struct groups *groups, const char *name, uint32_t seat);
const char *groups_seat_host(const struct groups *groups, const char *name,
                             uint32_t seat); /* "": none is noted */
/* Whether or not a group of that name is known yet; SEAT_SERVES forgets. host: where it was. */
status_t groups_mark_seat(struct groups *groups, const char *name, uint32_t seat, enum seat_state state,
                          const char *host, struct error *error);
void groups_serve_all(struct groups *groups); /* forgets all marks */
/* The group goes on without that rank in a new epoch; the jobs in flight are the caller's to give back. Ranks behind it
 * move up. With the last one the group is LOST. */
void group_dismiss(struct group *group, uint32_t rank, int64_t now_ns);
/* Its last seats, if nobody sits there or is to come back: of ranks that came beside those it was started with, and are gone. */
void group_forget_seats(const struct groups *groups, struct group *group);
/* Its guests are ranks from now on, in a new epoch; the jobs in flight are the caller's to give back. */
void group_admit(struct groups *groups, struct group *group, int64_t now_ns);
/* The rank that sits there, or would; false: there is none, the seat is drained or free. */
bool group_rank_of(const struct group *group, uint32_t seat, uint32_t *rank);
/* The same of a guest: *rank is at least group->ranks. */
bool group_guest_of(const struct group *group, uint32_t seat, uint32_t *rank);
/* Ends a LOST group; its name is remembered, so that stragglers are not taken for a new one. */
void groups_remove(struct groups *groups, struct group *group);
/* Every rank of this host whose process is gone vacates its seat at once. */
void groups_drop_dead(struct groups *groups, int64_t now_ns);
/* The launcher they came from has ended: they have, or will in a moment. */
void groups_drop_launch(struct groups *groups, uint64_t launch, int64_t now_ns);
/* Descriptors that become readable when a process of this host ends, for poll(): at most `most`. */
int groups_descriptors(const struct groups *groups, int *descriptors, int most);
/* After the loop itself was held up: nobody is silent before having had the chance to be heard. */
void groups_forgive(struct groups *groups, int64_t now_ns);

void group_enter(struct group *group, enum group_state state, int64_t now_ns);
void group_lose(struct group *group, int64_t now_ns, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The rank is gone: its seat is vacant, or the group LOST if it cannot be repaired; of a guest nothing stays. The sentence:
 * why. */
void group_vacate(struct group *group, uint32_t rank, int64_t now_ns, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
struct slot *group_slot(struct group *group, uint64_t job); /* 0: a free one; NULL: none */
int group_in_flight(const struct group *group);
void group_check(struct groups *groups, struct group *group, int64_t now_ns);

/* What a rank reports; anything of another epoch or state is ignored. */
void group_epoch_ready(struct group *group, uint32_t rank, uint64_t epoch, int64_t now_ns);
void group_epoch_lost(struct group *group, uint32_t rank, const Refrain__EpochLost *lost, int64_t now_ns);
void group_loaded(struct group *group, uint32_t rank, const Refrain__Loaded *loaded, int64_t now_ns);
void group_load_failed(struct group *group, uint32_t rank, const Refrain__LoadFailed *failed, int64_t now_ns);
void group_heartbeat(struct group *group, uint32_t rank, const Refrain__Heartbeat *heartbeat, int64_t now_ns);

#endif
