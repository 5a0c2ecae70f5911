/* blocks.c - see blocks.h. Compute thread of a rank; allocates only in blocks_create. */
#include "cache/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"

struct block {
    bool held;       /* here, and not protected */
    bool kept;       /* `residual` is that of an earlier step */
    int run, total;  /* steps reused in a row, and in all */
    float *input;    /* [tokens, hidden] at its last computation; only if the policy looks at it */
    float *residual; /* [tokens, hidden]; while the block runs, its input */
    _Alignas(16) unsigned char state[POLICY_STATE_BYTES];
};

struct blocks {
    struct cache_settings settings;
    struct cache_plan plan;
    struct policy_job job;
    const struct ops *ops;
    int64_t tokens, hidden;     /* tokens: here */
    struct blocks_rows rows;    /* join NULL: here are all */
    double *joined;             /* [rows.all][REDUCE_SUMS], of all members; NULL: `partials` are all */
    struct arena arena, shared; /* of the device, and of the partials */
    double *partials;           /* [tokens][REDUCE_SUMS] */
    float *changes;             /* [layers]: those measured in the step at work */
    int begun;                  /* first step of the expert whose blocks these are */
    struct block block[];
};

static void lay_out(struct blocks *c, struct arena *arena, struct arena *shared)
{
    size_t whole = (size_t)(c->tokens * c->hidden);
    bool signal = c->plan.policy.block_signal;
    for (int i = 0; i < c->job.layers; i++) {
        if (!c->block[i].held) continue;
        c->block[i].residual = arena_take(arena, whole, sizeof(float));
        if (signal) c->block[i].input = arena_take(arena, whole, sizeof(float));
    }
    if (signal) c->partials = arena_take(shared, (size_t)c->tokens * REDUCE_SUMS, sizeof(double));
}

status_t blocks_create(const struct cache_settings *settings, const struct policy_job *job, const bool *held,
                       int64_t tokens, const struct blocks_rows *rows, int64_t hidden, const struct ops *ops,
                       struct blocks **blocks, struct error *error)
{
    struct blocks *c = calloc(1, sizeof *c + (size_t)job->layers * sizeof *c->block);
    if (!c || !(c->changes = calloc((size_t)job->layers, sizeof *c->changes))) {
        free(c);
        return error_set(error, STATUS_NO_MEMORY, "no memory for caching by blocks");
    }
    c->settings = *settings;
    c->job = *job;
    c->job.tables = NULL;
    c->job.table_count = 0;
    c->ops = ops;
    c->tokens = tokens;
    c->hidden = hidden;
    c->rows = rows ? *rows : (struct blocks_rows){.all = tokens};
    status_t status = cache_settings_plan(settings, job, &c->plan, error);
    if (status == STATUS_OK && c->plan.policy.site != SITE_BLOCKS)
        status =
            error_set(error, STATUS_INVALID, "cache: %s does not decide by blocks", settings->policy->name);
    if (status == STATUS_OK) {
        const struct policy_plan *p = &c->plan.policy;
        if (c->plan.has_mask) c->job.mask = c->plan.mask;
        for (int i = p->head; i < job->layers - p->tail; i++) c->block[i].held = held[i];
        lay_out(c, &c->arena, &c->shared);
        status = memory_arena(ops, MEMORY_DEVICE, &c->arena, error);
        if (status == STATUS_OK) status = memory_arena(ops, MEMORY_SHARED, &c->shared, error);
        bool joins = c->rows.join && p->block_signal;
        if (joins && !(c->joined = malloc((size_t)c->rows.all * REDUCE_SUMS * sizeof *c->joined)))
            status = error_set(error, STATUS_NO_MEMORY, "no memory for caching by blocks");
    }
    if (status != STATUS_OK) {
        blocks_destroy(c);
        return status;
    }
    lay_out(c, &c->arena, &c->shared);
    *blocks = c;
    return STATUS_OK;
}

void blocks_destroy(struct blocks *c)
{
    if (!c) return;
    memory_give_back(c->ops, MEMORY_DEVICE, &c->arena);
    memory_give_back(c->ops, MEMORY_SHARED, &c->shared);
    free(c->joined);
    free(c->changes);
    free(c);
}

uint64_t blocks_bytes(const struct blocks *c)
{
    return c->arena.size;
}

/* Another expert's blocks have kept nothing yet. */
static void begin_expert(struct blocks *c, int step)
{
    int begun = policy_begun(&c->job, step);
    if (c->begun == begun) return;
    c->begun = begun;
    for (int i = 0; i < c->job.layers; i++) {
        struct block *b = &c->block[i];
        b->kept = false;
        b->run = b->total = 0;
        memset(b->state, 0, sizeof b->state);
    }
}

/* The changes already measured in this step, by blocks before this one, wherever they ran. */
static int gather(struct blocks *c, int block, const float *records)
{
    int seen = 0;
    for (int i = 0; i < block; i++)
        if (!isnan(records[i])) c->changes[seen++] = fabsf(records[i]);
    return seen;
}

/* The sums of all tokens, in their order; NULL: they are not known. */
static const double *gather_sums(struct blocks *c, struct team *team)
{
    if (c->ops->wait(team, NULL) != STATUS_OK) return NULL;
    if (!c->joined) return c->partials;
    bool all = c->rows.join(c->rows.context, c->partials, REDUCE_SUMS * sizeof *c->partials, c->joined);
    return all ? c->joined : NULL;
}

static bool measure(struct blocks *c, struct team *team, const struct block *b, const float *x,
                    struct sums *sums)
{
    if (!c->plan.policy.block_signal || !b->kept) return false;
    *sums = (struct sums){.count = c->rows.all * c->hidden};
    c->ops->reduce2(team, x, b->input, c->tokens, c->hidden, c->partials);
    const double *partials = gather_sums(c, team);
    if (!partials) {
        sums->difference = NAN;
        return true;
    }
    for (int64_t i = 0; i < c->rows.all; i++) {
        sums->difference += partials[i * REDUCE_SUMS + REDUCE_DIFFERENCE];
        sums->before += partials[i * REDUCE_SUMS + REDUCE_B];
    }
    return true;
}

bool blocks_reuse(struct blocks *c, struct team *team, int step, int block, float *x, float *records)
{
    struct block *b = &c->block[block];
    struct sums sums;
    if (!b->held) return false; /* protected: neither asked nor measured */
    begin_expert(c, step);
    if (!isnan(records[block])) b->total = (int)records[block];
    const struct history history = {.count = b->kept};
    const struct signals signals = {0};
    bool measured = measure(c, team, b, x, &sums);
    double change = measured ? relative_change(&sums) : NAN;
    struct policy_now now = {.value = c->settings.value,
                             .job = &c->job,
                             .step = step,
                             .run = b->run,
                             .total = b->total,
                             .history = &history,
                             .signals = &signals};
    struct block_now at = {.block = block,
                           .input = measured ? &sums : NULL,
                           .seen = gather(c, block, records),
                           .changes = c->changes};
    bool usable = b->kept && (!measured || isfinite(change));
    bool reuse = usable && c->settings.policy->block(&now, &at, b->state).action == ACTION_REUSE;
    records[block] = copysignf((float)(isfinite(change) ? change : NAN), reuse ? -1.0f : 1.0f);
    b->run = reuse ? b->run + 1 : 0;
    b->total += reuse;
    if (reuse)
        c->ops->lincomb(team, 2, (const float[]){1, 1}, (const float *[]){x, b->residual},
                        c->tokens * c->hidden, x);
    return reuse;
}

void blocks_enter(struct blocks *c, struct team *team, int block, const float *x)
{
    struct block *b = &c->block[block];
    size_t bytes = (size_t)(c->tokens * c->hidden) * sizeof *x;
    if (!b->held) return;
    c->ops->copy(team, b->residual, x, bytes);
    if (b->input) c->ops->copy(team, b->input, x, bytes);
}

void blocks_leave(struct blocks *c, struct team *team, int block, const float *x)
{
    struct block *b = &c->block[block];
    if (!b->held) return;
    c->ops->lincomb(team, 2, (const float[]){1, -1}, (const float *[]){x, b->residual}, c->tokens * c->hidden,
                    b->residual);
    b->kept = true;
}
