/*
 * planner.h - which layout to take: how many ranks work on how many jobs, cut by what, and what that is worth.
 *
 *     struct planner_request request = {.model = planner_preset("wan2.2-t2v-14b"), .machine = {...}, .load = {.jobs = 4}};
 *     planner_size(&request.model, 1280, 720, 81, &request.job, &error);
 *     planner_steps(&request.model, 40, 2, &request.job);
 *     planner_choose(&request, &answer, &error);
 *     ... answer.option[0] is the choice, the others say in `why` what speaks against them ...
 *     planner_free(&answer);
 *
 * A layout is replicas x ways x stages x width: groups of ranks that share no job; chains of a group, one for each guidance
 * branch; ranks that a chain's blocks are cut over; ranks that share a stage's tokens (Ulysses: a divisor of the heads).
 * A model of two experts may have a pool of stages for each instead of slices of both on every rank. How the blocks
 * of a ring are dealt, and whether homes float, is plan.h's business, which is asked for every layout. Cost models and where
 * they come from: docs/planner.md.
 *
 * Plain values, pure functions; no ranks, sockets, files or tensors.
 */
#ifndef REFRAIN_COORDINATOR_PLANNER_PLANNER_H
#define REFRAIN_COORDINATOR_PLANNER_PLANNER_H

#include "cache/schedule.h"
#include "coordinator/planner/needs.h"
#include "rules/plan.h"

enum { PLANNER_MAX_RANKS = PLAN_MAX_RANKS, PLANNER_NAME_BYTES = 96, PLANNER_WORDS_BYTES = 240 };

/* What the model's configuration says. */
struct planner_model {
    char name[65];
    uint32_t layers, heads, head_dim, ffn, experts; /* experts: 1 or 2 */
    uint32_t text_tokens;
    uint32_t pixels_per_token, pixels_per_frame_token; /* along an axis of a frame, and along time */
    struct schedule schedule;
    double boundary;          /* where the second expert takes over (schedule_switch) */
    uint64_t parameter_bytes; /* 2 as published */
    uint64_t home_bytes;      /* weights that only a home holds: text encoder, decoder, ends */
    uint64_t decode_bytes;    /* while decoding, per pixel of a frame */
};

/* One job. */
struct planner_job {
    uint32_t width, height, frames, tokens;
    uint32_t steps[2]; /* of each expert; of one alone: {steps, 0} */
    uint32_t branches; /* 1 or 2 */
};

/* The ranks, for jobs of this size. */
struct planner_machine {
    uint32_t ranks, per_node;
    uint64_t memory_bytes;  /* of each rank; 0: unknown, no limit */
    double flops;           /* a rank sustains per second; used where block_seconds is 0 */
    double block_seconds;   /* one branch through one block on one rank, at the job's size; 0: from flops */
    double ends_seconds;    /* embedding and output of a branch-step */
    double home_seconds;    /* text and decoding of a job */
    double inside, between; /* bytes a second: of a rank to others of its node; of a node to the others */
    double latency;         /* seconds of a message */
    double crowd; /* how much longer a block takes while all ranks of a node compute; 0: as long as alone */
    uint32_t operand_bytes; /* of an element inside a block: 2 on GPUs, 4 on CPUs */
    uint32_t state_bytes;   /* of an element of a hop: 4 here, 2 in others' systems */
};

/* How ranks reach each other, as measured: the slowest of each kind. */
struct planner_links {
    double inside, between; /* bytes a second between two ranks of a host, and of two hosts; 0: unknown */
    double latency;         /* seconds of an empty message, the longest */
    uint32_t per_node;      /* ranks of each host, which stand together; 1 where hosts differ or are mixed */
};
void planner_add_link(struct planner_links *links, bool same_host, double bytes_per_second, double latency);
/* With what is known: what is not known of one kind is that of the other. False: nothing is. */
bool planner_take_links(const struct planner_links *links, struct planner_machine *machine);

/* The queue. */
struct planner_load {
    uint32_t jobs;       /* at once, all alike */
    double unequal_jobs; /* of planner_rate: all there are, in the work of one; 0: `jobs` */
    double hit_rate;     /* 0 to below 1: of branch-steps that skip the ring */
    uint32_t head, tail; /* blocks a hit still runs */
    double deadline;     /* seconds from its start in which one job must be done beside the others; 0: none */
};

struct planner_request {
    struct planner_model model;
    struct planner_job job;
    struct planner_machine machine;
    struct planner_load load;
    uint32_t most_replicas, most_ways, most_width; /* of layouts to look at; 0: any */
    bool no_pools;
    const struct needs
        *needs; /* what one job takes of a rank, where the model was measured on paper; NULL: formulas */
    const struct plan_request
        *real; /* of planner_rate: what is known of the ranks that there are, and the jobs' mix */
};

struct planner_layout {
    uint32_t replicas, ways, width;
    uint32_t stages[2]; /* of a chain; pools: of each expert's, otherwise {stages, 0} */
    bool floating;
};

/* What a layout would waste most of its time with. */
enum planner_bound {
    BOUND_COMPUTE,
    BOUND_MEMORY,
    BOUND_FILL,
    BOUND_LINK,
    BOUND_EXCHANGE,
    BOUND_POOLS,
    BOUND_IDLE
};

struct planner_option {
    struct planner_layout layout;
    uint32_t ranks;      /* that it uses */
    bool fits, possible; /* possible: plan.h takes it */
    enum planner_bound bound;
    uint32_t in_flight, saturate;       /* jobs of a replica: at once, and that keep it busy */
    double step_seconds;                /* a step of one job alone, mean over experts and hits */
    double job_seconds;                 /* one job alone, from text to frames */
    double loaded_seconds;              /* one job beside the others in flight */
    double all_seconds;                 /* until the last of the load's jobs is done */
    double jobs_per_hour;               /* with as many jobs as keep it busy */
    double busy;                        /* share of the ranks' time that the load's jobs need at least */
    uint64_t memory_bytes, stage_bytes; /* of the fullest rank; of the fullest that is no home */
    double hop_bytes, exchange_bytes;   /* per step of a job, on all links */
    double node_bytes;                  /* per step of a job in each replica, out of the busiest node */
    char why[PLANNER_WORDS_BYTES];
};

struct planner_answer {
    struct planner_option *option; /* [count]: the choice, then others, the best first */
    size_t count;
    bool late; /* no layout keeps the deadline: the choice is the one that comes nearest */
};

/* Published sizes by name; NULL: none of that name. */
const struct planner_model *planner_preset(const char *name);
const struct planner_model *planner_preset_at(size_t index); /* NULL past the end */

/* Tokens of a video; INVALID, with the field and the limit, for sizes the model cannot have. */
status_t planner_size(const struct planner_model *model, uint32_t width, uint32_t height, uint32_t frames,
                      struct planner_job *job, struct error *error);
/* Steps of each expert, as the workers' solvers share them (cache/schedule.h). */
void planner_steps(const struct planner_model *model, uint32_t steps, uint32_t branches,
                   struct planner_job *job);

/* Floating-point operations of one branch through one block (parallelism: 8Sh2 + 4S2h + 4Sh2 + 4Th2 + 4STh + 4Shf). */
double planner_block_flops(const struct planner_model *model, uint32_t tokens);
uint64_t planner_block_bytes(const struct planner_model *model); /* its weights */

/* INVALID, with the field and the limit, for a request that makes no sense; NO_MEMORY: nothing fits, and by how much. */
status_t planner_choose(const struct planner_request *request, struct planner_answer *answer,
                        struct error *error);
void planner_free(struct planner_answer *answer);

/* One layout: all but `why`. *plan (NULL: not wanted) is the ring of one replica's first chain. */
void planner_predict(const struct planner_request *request, const struct planner_layout *layout,
                     struct planner_option *option, struct plan *plan);

/* The same of a plan that was made for the request's real ranks, of one replica. Not possible: it is of another model or
 * number of ranks. */
void planner_rate(const struct planner_request *request, const struct plan *plan,
                  struct planner_option *option);
/* What ranks of stages so wide wait for each other in a block, in seconds: the slowest stage of ranks [0, count). */
double planner_exchange(const struct planner_request *request, uint32_t width, uint32_t count);

/* Is it worth to stop, move and go on? Gain: what remains now, in seconds, less what would remain then; it must exceed the
 * cost of moving by half, and be a twentieth of what remains, so that noise moves nothing to and fro. */
bool planner_worth_moving(double remaining_now, double remaining_then, double move_seconds);

/* "2 replicas of 2 branches x 2 stages x 2 wide, floating homes" */
void planner_describe(const struct planner_layout *layout, char text[PLANNER_NAME_BYTES]);

#endif
