/*
 * engine.h - what a rank computes with: a model's weights, a team of threads, its place in the ring.
 *
 * One per rank, owned by the compute thread. Jobs (home) and contexts (stages) borrow it. A new epoch changes
 * fabric membership, a Load changes the model; both only while no job or context is alive.
 *
 *     engine_post(engine, peer, &ticket, payload, cookie, &error);   to another member, or to this one itself
 *     while (engine_next(engine, &event)) ... home_event or stage_event ...
 *
 * Ops may still be at work when a function returns (kernels/ops.h); engine_wait is where the worker waits, and
 * where it learns that the device has failed: `failure` says so from then on, and nothing computed here is
 * worth anything any more.
 *
 * Where homes float, a rank is home and stage at once. They speak to each other as to any member: what is
 * posted to one's own number comes back as RECEIVED without a copy, then as SENT, at once: the rows that a home posts
 * to its own stage stay where they are until the hop has come back. The stage computes its rank's own jobs in the
 * contexts that home lends it, and no others: of a job that ended meanwhile it touches nothing.
 *
 * Credits. What lies at its receiver and waits for something holds its sender's credit, and whoever needs that credit waits with
 * it. So who may wait for whom is settled by how many messages of which kind an edge may carry (engine_reaches):
 *
 * Stages of one rank. An edge carries ENGINE_QUEUE messages, and where homes float all but one of hops and OPENs: the last is kept
 * for tickets on their way home, which a home takes in at once. Then hops only ever wait for stages further along their chain, all chains
 * go from lower to higher members, and what comes home waits for nobody. (With one home no edge carries both.)
 *
 * Wide stages (struct split). Their members work on a hop together and wait for each other inside it
 * (worker/ulysses.h), also home, which is one of them, and while it does it takes in nothing that comes home. So no hop, no TURN
 * and no part may ever wait for a credit that depends on one who is inside a hop. This holds for H hops (engine_wide_hops) if
 *
 *     H + ENGINE_PARTS + FABRIC_UNTOLD < C, the credits of an edge
 *
 * (1) A hop on its way passes each edge once, and is not sent again before all of it is home: at most H messages of an edge are
 * hops, those that come home included. (2) Whatever else may wait at its receiver (OPEN, CLOSE, OPENED, items) is posted only
 * where no more than C - H - ENGINE_PARTS messages are then on the edge, so at most so many of it are. (3) Therefore
 * ENGINE_PARTS credits of every edge are left to TURNs and parts at any time, and a hop finds one of H whatever its receiver
 * does. One would do: a TURN is taken in when its receiver leaves the hop before, for which it has all parts, and the oldest part
 * there is what its receiver waits for, or will. Each stage's members take hops in one order; of the hops that have begun
 * anywhere the one that began first finds all its parts, so it ends, and so do all. (4) With the fabric's word being late for
 * FABRIC_UNTOLD messages, what waits under (2) is let through once the edge is empty; with one hop more it might never be.
 */
#ifndef REFRAIN_WORKER_ENGINE_H
#define REFRAIN_WORKER_ENGINE_H

#include <stdatomic.h>

#include "cache/blocks.h"
#include "cluster/circle.h"
#include "cluster/fabric.h"
#include "kernels/memory.h"
#include "rules/piece.h"
#include "worker/model/model.h"
#include "worker/stretches.h"

enum { PRIORITIES = 3 }; /* of jobs: enum Priority in refrain.proto */
/* ENGINE_LOOPS: tickets on their way from this rank to itself. ENGINE_CREDITS: of the fabric. ENGINE_QUEUE: messages that an edge
 * carries where stages are single ranks; ENGINE_LANDINGS: the same where hops land on the GPU, each in memory as
 * large as the largest hop. ENGINE_PARTS: credits of an edge for what a wide stage's members give each other: as many exchanges as
 * can be under way. */
enum {
    ENGINE_BRANCHES = SPLIT_BRANCHES,
    ENGINE_LOOPS = 8,
    ENGINE_CREDITS = FABRIC_MAX_CREDITS,
    ENGINE_QUEUE = 8,
    ENGINE_LANDINGS = 4,
    ENGINE_PARTS = CIRCLE_ROUNDS,
};
_Static_assert((int)WIDE_HOPS_MOST + (int)ENGINE_PARTS + (int)FABRIC_UNTOLD < (int)ENGINE_CREDITS,
               "hops of wide stages would wait for credits");
/* engine.part_bytes, over the host and from GPU to GPU (docs/decisions.md, 80). */
enum { ENGINE_PART_BYTES = 64 << 10, ENGINE_PART_BYTES_LENT = 1 << 20 };
/* Of a rank's memory the decoder may take a quarter, where nobody says another limit: the rest is for weights and steps. */
enum { ENGINE_DECODE_PARTS = 4 };

/* What the blocks of one job need on one rank. */
struct engine_context {
    uint64_t id; /* 0: none */
    uint32_t attempt;
    struct token_grid grid;
    struct denoiser_context *branch[ENGINE_BRANCHES][MODEL_EXPERTS];
    struct blocks *blocks[ENGINE_BRANCHES]; /* NULL: the policy does not decide by blocks */
    struct engine_context *next;            /* among those lent */
};

struct engine_loop {
    struct fabric_event event; /* RECEIVED */
    uint64_t cookie;
    bool taken; /* RECEIVED was told, SENT is next */
};

/* What a block takes for a number of tokens, read by the control thread: while the entry is made for another, block_ns is 0. */
enum { ENGINE_PACES = 8 };
struct engine_pace {
    _Atomic uint32_t tokens; /* 0: free */
    _Atomic double block_ns; /* a running mean; where a stage is wide, of this member's part */
    uint64_t used;           /* larger: later */
};

/* Takes tickets in place of the fabric, always: where a ring is laid out on paper (worker/footprint.h). */
struct engine_carrier {
    void (*carry)(struct engine_carrier *carrier, int from, int peer, const struct ticket *ticket,
                  const void *payload, uint64_t cookie);
};

struct ulysses;

/* The decoder of a rank: beside the weights the largest thing there is, so that one job has it at a time. */
struct engine_decoder {
    struct vae_stream *stream; /* NULL: nobody decodes */
    const void *job;
    int priority; /* of the job */
};

struct engine {
    const struct ops *ops;
    struct team *team;
    struct fabric *fabric;          /* NULL in a process of its own (benchmarks): then members is 1 */
    struct engine_carrier *carrier; /* NULL but on paper */
    size_t part_bytes; /* a wide stage's members cut what they exchange into no smaller parts; alike on all */
    bool lends;        /* the fabric carries memory of the device (nccl), so hops and OPENs stay there */
    struct tier *tier; /* NULL: off; borrowed (worker/tier.h) */
    double text_seconds; /* that encoding a prompt took lately; 0: none was encoded yet */
    struct model *model; /* NULL until loaded */
    int self, members;   /* place in the ring; home is 0, or with a floating split everybody */
    uint64_t epoch;
    uint64_t sequence;           /* of the last ticket sent to another member */
    uint64_t contexts;           /* number of the last job context made here */
    struct engine_context *lent; /* by home's jobs to the stage of this rank */
    _Atomic uint64_t progress; /* grows with every piece of work: read by the control thread for heartbeats */
    _Atomic double block_token_ns; /* mean time of one block and token, likewise; 0: nothing computed yet */
    struct engine_pace paces[ENGINE_PACES];
    uint64_t paced; /* times that one of them was noted */
    int hops[SPLIT_CHAINS]
            [PRIORITIES]; /* of jobs at home here, with a chain's stages now, by the jobs' priority */
    struct arena arena;   /* of `work`, on the device */
    int rows;             /* that `work` has room for */
    size_t decode_memory; /* bytes that the decoder may take; 0: no limit */
    struct engine_decoder decoder;
    struct denoiser_work work;   /* for the grid at work */
    struct stretches *stretches; /* NULL: ops are called one by one */
    struct error failure;        /* of the device; STATUS_OK: none */
    uint64_t waits;              /* made so far */
    /* Blocks called since the last wait, where ops are not local. */
    int64_t called_ns; /* when the first of them was */
    int called;
    double called_rows; /* times blocks */
    int called_tokens;  /* of each, if they are all alike; -1: they are not */
    struct engine_loop loop[ENGINE_LOOPS];
    int loop_first, loops;
    /* Of a wide stage; NULL: this member's is not. */
    struct circles *circles;
    struct circle *circle; /* of the stage's members */
    struct ulysses *ulysses;
};

/* Waits for all that was called. */
status_t engine_wait(struct engine *engine, struct error *error);

/* Makes `work` fit the grid. Allocates only for a grid larger than any before, or one whose tables are not on
 * the model's shelf. */
status_t engine_prepare(struct engine *engine, const struct token_grid *grid, struct error *error);
/* The same for this member's part of the rows, where its stage is wide, with what attention over all of them needs. */
status_t engine_prepare_shard(struct engine *engine, const struct token_grid *grid, struct error *error);
/* After a model has come or was laid out anew, on every member of the epoch before any of them has work: the members of a wide
 * stage find together. */
status_t engine_form_stage(struct engine *engine, struct error *error);
/* Does home send hops to stages of several members? How many may be with them then. */
static inline bool engine_wide(const struct engine *engine)
{
    return engine->model && split_width(&engine->model->split) > 1;
}
static inline int engine_wide_hops(const struct engine *engine)
{
    return wide_hops(engine->members / split_width(&engine->model->split));
}
/* Waits, and gives the workspace back: before the model goes. */
void engine_clear(struct engine *engine);

/* May the job decode now? Of two with the same priority the one that came first decodes to its end. */
bool engine_may_decode(const struct engine *engine, const void *job, int priority);
/* The job's decoder for that latent; *fresh: it was made just now, and has not seen any of the video's pieces. A job of
 * lower priority loses its own, and makes its frames again once it gets one. Only when engine_may_decode. */
status_t engine_decoder(struct engine *engine, const void *job, int priority, int latent_height,
                        int latent_width, struct vae_stream **stream, bool *fresh, struct error *error);
void engine_end_decoder(struct engine *engine, const void *job); /* fine if it has none */

/* A number for a job's context that no other home of the epoch gives. */
uint64_t engine_new_context(struct engine *engine);
/* Home shows the stage of its own rank a job's contexts, until withdrawn; the caller keeps the memory. */
void engine_lend(struct engine *engine, struct engine_context *context);
void engine_withdraw(struct engine *engine, struct engine_context *context); /* fine if it was not lent */
const struct engine_context *engine_lent(const struct engine *engine, uint64_t id);

/* Sends a ticket to a member, filling in what every ticket of this engine shares. STATUS_AGAIN: no credit
 * now. */
status_t engine_post(struct engine *engine, int peer, struct ticket *ticket, const void *payload,
                     uint64_t cookie, struct error *error);
/* Ways to a member, by what is on it: hops towards the stages; OPEN, CLOSE and whatever else may wait at its receiver; what its
 * receiver takes in at once, on its way home or to the other members of a wide stage; items of the tier, which leave room to all. */
enum engine_way { WAY_HOP, WAY_OPEN, WAY_BRIEF, WAY_ITEM };
/* Would engine_post take such a ticket now? If not, the fabric tells when that may have changed. */
bool engine_reaches(const struct engine *engine, int peer, enum engine_way way);
/* Are payloads of hops and OPENs to and from that member in the memory where ops compute? Otherwise they are
 * the host's. */
bool engine_direct(const struct engine *engine, int peer);
/* The next event, of this rank's own tickets or of the fabric; false: there is none. */
bool engine_next(struct engine *engine, struct fabric_event *event);
/* Forgets tickets to itself, and the members of its stage; with fabric_leave. */
void engine_drop_events(struct engine *engine);

/* Runs blocks begin .. end - 1, all held here, on x [tokens, hidden] in place; an asynchronous device is not
 * left behind by more than about half a second. With `cache`, each block is
 * first asked about, and records [layers], the host's, says what came of it (cache/blocks.h). The workspace must be
 * prepared. */
void engine_blocks(struct engine *engine, const struct denoiser_context *context, struct blocks *cache,
                   int step, const float *modulation, float *x, int begin, int end, float *records);

/* denoiser_embed, denoiser_first_input, denoiser_output, in the prepared workspace. The context is that of the branch: what
 * is recorded of them is forgotten with it. */
void engine_embed(struct engine *engine, const struct denoiser_context *context, const float *latent,
                  float *x);
void engine_first_input(struct engine *engine, const struct denoiser_context *context,
                        const float *modulation, const float *x);
void engine_output(struct engine *engine, const struct denoiser_context *context, const float *modulation,
                   const float *x, float *velocity);
/* After a wait, in place of denoiser_context_destroy. NULL is fine. */
void engine_drop_context(struct engine *engine, struct denoiser_context *context);

/* One branch's caching by blocks: for all blocks that this rank runs as its job's home, or for its run of the chains
 * that the branch takes, alone. steps, switch_at: as in struct policy_job. */
status_t engine_blocks_create(struct engine *engine, const struct cache_settings *settings, int steps,
                              int switch_at, const struct token_grid *grid, int branch, struct blocks **cache,
                              struct error *error);
status_t engine_run_blocks_create(struct engine *engine, const struct cache_settings *settings, int steps,
                                  int switch_at, const struct token_grid *grid, int branch,
                                  struct blocks **cache, struct error *error);

/* One branch's keys and values of a text under an expert (denoiser_context_create), for the blocks that this rank runs
 * of it: as its job's home, spare ones included, or as a stage its run of the chain alone. */
status_t engine_context_create(struct engine *engine, int expert, int branch, const float *text, int n,
                               struct denoiser_context **context, struct error *error);
status_t engine_run_context_create(struct engine *engine, int expert, int branch, const float *text, int n,
                                   struct denoiser_context **context, struct error *error);

/* Bytes of the largest hop a model can have at a number of tokens: modulation [6, hidden] and rows [tokens,
 * hidden]. */
static inline uint64_t hop_bytes(int tokens, int hidden)
{
    return ((uint64_t)tokens + 6) * (uint64_t)hidden * sizeof(float);
}

#endif
