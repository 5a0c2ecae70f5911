/*
 * model.h - everything of one checkpoint that one rank holds, of all its experts.
 *
 *     model_load("models/reference", ops, team, &split, self, &model, &error);
 *
 * A home (member 0, or every member when homes float) holds the caps: text encoder, tokenizer, VAE decoder,
 * the denoiser's ends, its first `head` and its last `tail` blocks. Beside that every member holds its run of
 * the blocks between, the ring, of each chain that it is part of; a fixed home also the first `spare` of the next run.
 * Weights, and tables made from the model's numbers; no per-job state. Freed by model_destroy.
 */
#ifndef REFRAIN_WORKER_MODEL_MODEL_H
#define REFRAIN_WORKER_MODEL_MODEL_H

#include "worker/model/denoiser.h"
#include "worker/model/rotary.h"
#include "worker/model/text_encoder.h"
#include "worker/model/tokenizer.h"
#include "worker/model/vae.h"

enum {
    SPLIT_MAX_MEMBERS = 1024,
    SPLIT_EXPERTS = MODEL_EXPERTS,
    SPLIT_BRANCHES = 2,
    SPLIT_CHAINS = SPLIT_EXPERTS * SPLIT_BRANCHES
};

/* Blocks of each member. Home runs [0, head) before the ring and [layers - tail, layers) after it. Home is member 0,
 * or with `floating` every member: then all hold head and tail, and each job has a home of its own.
 *
 * The blocks between, the ring, are held once, or several times over: a chain is a way through all of them, from
 * member to member in their order, and each branch of each expert takes the chain named in `chain`. With one chain
 * (all zeros) both branches follow each other over the same members; with a chain for each branch, on members of their
 * own, they are computed side by side; with a chain for each expert every expert has members of its own. A member may
 * be part of several chains; of an expert it holds what the expert's chains need. Member i holds run[c * members + i] blocks of chain c, in order.
 *
 * A stage may be `width` members wide: members [k width, (k + 1) width) hold the same blocks, and each has a part of the
 * tokens' rows (worker/ulysses.h). Member 0 is then of the first stage beside being home, and all blocks of the ring are
 * hops. For a fixed home without spare blocks. */
struct split {
    int members; /* home included */
    int head, tail;
    int spare; /* of a fixed home and a single chain alone: the ring's first blocks that others hold, held by home as
                  well, for when it has time (rules/turn.h, rule 1) */
    bool floating;
    int width; /* 0 counts as 1; it divides members, and the model's heads */
    int chain[SPLIT_EXPERTS][SPLIT_BRANCHES];
    int run[SPLIT_CHAINS * SPLIT_MAX_MEMBERS]; /* [chains][members] */
};

/* Blocks of the ring that a member runs for those who take a chain. */
struct chain_run {
    int first, count;
};

struct model {
    struct model_config config;
    const struct ops *ops;
    struct team *team; /* that loads; the rank's only one */
    struct split split;
    int self;       /* this member */
    int head, tail; /* blocks of the caps held here: the split's on a home, else 0 */
    int blocks;     /* whose weights are held here, of any expert, each counted once */
    int chains;
    struct chain_run run[SPLIT_CHAINS]; /* [chains]: this member's */
    int *holder; /* [chains][layers]: which member runs a block of a job whose home this member is */
    struct rotary_shelf rotary;
    struct denoiser *denoiser[MODEL_EXPERTS]; /* [config.experts], each with the same blocks */
    /* Homes only, NULL elsewhere: */
    struct tokenizer *tokenizer;
    struct text_encoder *text_encoder;
    struct vae *vae;
    struct vae *encoder; /* loaded when a job first compares videos */
    char vae_directory[4096];
    struct {
        uint64_t text_encoder, tokenizer, rest; /* worker/model/identity.h; homes only */
    } identity;
};

/* Refuses a split that does not add up to the model's layers. directory: the pipeline's. */
status_t model_load(const char *directory, const struct ops *ops, struct team *team,
                    const struct split *split, int self, struct model **model, struct error *error);
void model_destroy(struct model *model); /* after wait; NULL is fine */
/* Takes on another split, or another place in the same one, if that needs no other weights than those held
 * here; false: it does, nothing was changed. Only while no job or context is alive. */
bool model_rearrange(struct model *model, const struct split *split, int self);
/* The VAE's encoder; homes only. Reads the checkpoint the first time. */
status_t model_encoder(struct model *model, struct vae **encoder, struct error *error);

/* Is a member of that split a home? */
static inline bool split_home(const struct split *split, int member)
{
    return member == 0 || split->floating;
}

static inline int split_width(const struct split *split)
{
    return split->width > 1 ? split->width : 1;
}
/* The first member of a member's stage. */
static inline int split_stage(const struct split *split, int member)
{
    return member - member % split_width(split);
}

/* How many chains it has; which one a branch of an expert takes (0 <= expert < SPLIT_EXPERTS, 0 <= branch <
 * SPLIT_BRANCHES); how many blocks of it a member holds. */
int split_chains(const struct split *split);
static inline int split_chain(const struct split *split, int expert, int branch)
{
    return split->chain[expert][branch];
}
static inline int split_run(const struct split *split, int chain, int member)
{
    return split->run[chain * split->members + member];
}
/* Members other than `self` that are part of a chain. */
int split_stages(const struct split *split, int chain, int self);

/* For a job whose home is this member and a branch that takes the chain: which member runs a block, and up to which
 * block a branch that has come to it needs nothing else from home: to the end of what is held here, or, once it is
 * sent away, to the end of the ring (a run of home's own on the way is computed as the hop comes by). Within the ring
 * the holder is the same from every member's view. Of a wide stage it is the first member. 0 <= block < layers. */
int model_holder(const struct model *model, int chain, int block);
int model_held_until(const struct model *model, int chain, int block);
/* May home run this block in its holder's place, as it holds the weights too? */
bool model_spares(const struct model *model, int block);
/* Adds the blocks that this member runs for branches that take a chain: as home, all of them, or its run alone.
 * mask: [layers] */
void model_list_own(const struct model *model, int chain, bool *mask);
void model_list_run(const struct model *model, int chain, bool *mask);
size_t model_bytes(const struct model *model);

#endif
