/* ulysses.c - see ulysses.h. Compute thread. */
#include "worker/ulysses.h"

#include <stdlib.h>

#include "base/clock.h"
#include "kernels/memory.h"
#include "worker/engine.h"

/* What a member that is alive may take for its part: a bound for one that is stuck, as for hops (worker/job_state.h). */
#define PART_TIMEOUT_NS (600 * SECOND_NS)

/* Purposes of exchanges: those of enum ulysses_kind, and the way back. */
enum { BACK = ULYSSES_KINDS, EXCHANGES };

/* One of q, k, v on its way to the heads' ranks, or what was attended to on its way back. */
struct crossing {
    char *packed;              /* device: what is given, a block for each place */
    char *sent;                /* what the fabric reads: the same, or its copy on the host */
    char *heads;               /* device: [tokens, own heads * head_dim]; NULL on the way back */
    struct exchange *exchange; /* under way; NULL: none */
};

struct ulysses {
    struct engine *engine;
    struct circle *circle;
    int width, place;
    bool staged; /* the fabric cannot read the device's memory */
    size_t element;
    int heads, head_dim; /* own heads */
    struct arena device, shared;
    int room, tokens;
    struct crossing crossing[EXCHANGES];
    struct error failure; /* status STATUS_OK: none */
};

status_t ulysses_create(struct engine *engine, struct circle *circle, struct ulysses **ulysses,
                        struct error *error)
{
    struct ulysses *u = calloc(1, sizeof *u);
    if (!u) return error_set(error, STATUS_NO_MEMORY, "no memory for a wide stage");
    u->engine = engine;
    u->circle = circle;
    u->width = circle_count(circle);
    u->place = circle_place(circle);
    u->staged = !engine->ops->local && !engine->lends;
    *ulysses = u;
    return STATUS_OK;
}

static void give_back(struct ulysses *u)
{
    memory_give_back(u->engine->ops, MEMORY_DEVICE, &u->device);
    memory_give_back(u->engine->ops, MEMORY_SHARED, &u->shared);
    u->room = 0;
}

void ulysses_destroy(struct ulysses *u)
{
    if (!u) return;
    give_back(u);
    free(u);
}

size_t ulysses_bytes(const struct ulysses *u)
{
    return u ? u->device.size : 0;
}

static int rows_of(const struct ulysses *u, int place)
{
    return shard_row(u->tokens, u->width, place + 1) - shard_row(u->tokens, u->width, place);
}

/* Bytes of a row of one place's heads. */
static size_t row_bytes(const struct ulysses *u)
{
    return (size_t)u->heads * (size_t)u->head_dim * u->element;
}

/* The attended rows of own heads are given from where attention writes them, the rest from where it is packed. */
static void lay_out(struct ulysses *u, int tokens)
{
    size_t all = (size_t)tokens, own = (size_t)(tokens / u->width + 1) * (size_t)u->width;
    for (int i = 0; i < EXCHANGES; i++) {
        struct crossing *c = &u->crossing[i];
        size_t rows = i == BACK ? all : own;
        c->packed = arena_take(&u->device, rows, row_bytes(u));
        c->heads = i == BACK ? NULL : arena_take(&u->device, all, row_bytes(u));
        c->sent = u->staged ? arena_take(&u->shared, rows, row_bytes(u)) : c->packed;
    }
}

status_t ulysses_fit(struct ulysses *u, const struct denoiser_config *config, int tokens, struct error *error)
{
    const struct ops *ops = u->engine->ops;
    if (tokens <= u->room) return STATUS_OK;
    status_t status = engine_wait(u->engine, error);
    if (status != STATUS_OK) return status;
    give_back(u);
    u->element = dtype_bytes(ops->operand);
    u->heads = config->heads / u->width;
    u->head_dim = config->head_dim;
    lay_out(u, tokens);
    status = memory_arena(ops, MEMORY_DEVICE, &u->device, error);
    if (status == STATUS_OK && u->staged) status = memory_arena(ops, MEMORY_SHARED, &u->shared, error);
    if (status != STATUS_OK) {
        error_prefix(error, "heads of %d tokens", tokens);
        give_back(u);
        return status;
    }
    lay_out(u, tokens);
    u->room = tokens;
    return STATUS_OK;
}

void ulysses_begin(struct ulysses *u, int tokens)
{
    u->tokens = tokens;
}

bool ulysses_failed(const struct ulysses *u)
{
    return u->failure.status != STATUS_OK;
}

static int64_t deadline(void)
{
    return clock_now_ns() + PART_TIMEOUT_NS;
}

/* Its memory is needed again. */
static void finish(struct ulysses *u, struct crossing *c)
{
    if (c->exchange && !ulysses_failed(u)) exchange_end(c->exchange, deadline(), &u->failure);
    c->exchange = NULL;
}

/* begin: [width] bytes at which each place's block lies in what is packed. */
static void send(struct ulysses *u, int purpose, const size_t *begin, const uint64_t *give_bytes,
                 const uint64_t *take_bytes)
{
    struct engine *e = u->engine;
    struct crossing *c = &u->crossing[purpose];
    const void *give[CIRCLE_MEMBERS];
    if (e->carrier) return; /* on paper nothing is computed that others could want */
    if (u->staged) {
        size_t bytes = begin[u->width - 1] + give_bytes[u->width - 1];
        e->ops->copy(e->team, c->sent, c->packed, bytes);
        if (engine_wait(e, &u->failure) != STATUS_OK) return;
    }
    for (int p = 0; p < u->width; p++) give[p] = c->sent + begin[p];
    const struct circle_parts parts = {.purpose = (uint32_t)purpose,
                                       .dtype = e->ops->operand == DTYPE_F32 ? TICKET_F32 : TICKET_BF16,
                                       .on_device = e->lends,
                                       .give = give,
                                       .give_bytes = give_bytes,
                                       .take_bytes = take_bytes};
    circle_begin(u->circle, &parts, &c->exchange, &u->failure);
}

void ulysses_give(struct ulysses *u, struct team *team, enum ulysses_kind kind, const void *rows,
                  int64_t stride)
{
    const struct ops *ops = u->engine->ops;
    struct crossing *c = &u->crossing[kind];
    size_t wide = row_bytes(u), begin[CIRCLE_MEMBERS];
    int own = rows_of(u, u->place);
    uint64_t give_bytes[CIRCLE_MEMBERS], take_bytes[CIRCLE_MEMBERS];
    finish(u, c);
    if (ulysses_failed(u)) return;
    for (int p = 0; p < u->width; p++) {
        begin[p] = (size_t)p * (size_t)own * wide;
        give_bytes[p] = (size_t)own * wide;
        take_bytes[p] = (size_t)rows_of(u, p) * wide;
        char *to = p == u->place ? c->heads + (size_t)shard_row(u->tokens, u->width, p) * wide
                                 : c->packed + begin[p];
        ops->copy_rows(team, to, wide, (const char *)rows + (size_t)p * wide, (size_t)stride * u->element,
                       wide, own);
    }
    send(u, kind, begin, give_bytes, take_bytes);
}

/* The part from a place, wherever it lies; `event` is to be given back after it was read. */
static bool take(struct ulysses *u, struct crossing *c, int place, struct fabric_event *event)
{
    return !u->engine->carrier && !ulysses_failed(u) &&
           exchange_take(c->exchange, place, deadline(), event, &u->failure) == STATUS_OK;
}

/* Memory that the fabric lent on the device is free in the order of ops, the host's once it was read. */
static void put_back(struct ulysses *u, struct fabric_event *event)
{
    if (u->staged) engine_wait(u->engine, &u->failure);
    fabric_release(u->engine->fabric, event);
}

void ulysses_heads(struct ulysses *u, struct team *team, struct attention *a)
{
    int64_t stride = (int64_t)u->heads * u->head_dim;
    struct fabric_event event;
    for (int i = 0; i < ULYSSES_KINDS; i++) {
        struct crossing *c = &u->crossing[i];
        for (int p = 0; p < u->width; p++) {
            char *to = c->heads + (size_t)shard_row(u->tokens, u->width, p) * row_bytes(u);
            if (p == u->place || !take(u, c, p, &event)) continue;
            u->engine->ops->copy(team, to, event.payload, event.ticket.bytes);
            put_back(u, &event);
        }
    }
    finish(u, &u->crossing[BACK]);
    a->q = u->crossing[ULYSSES_Q].heads;
    a->k = u->crossing[ULYSSES_K].heads;
    a->v = u->crossing[ULYSSES_V].heads;
    a->out = u->crossing[BACK].packed;
    a->q_stride = a->k_stride = a->v_stride = a->out_stride = stride;
    a->q_rows = a->kv_rows = u->tokens;
    a->heads = u->heads;
}

void ulysses_rows(struct ulysses *u, struct team *team, void *rows, int64_t stride)
{
    const struct ops *ops = u->engine->ops;
    struct crossing *c = &u->crossing[BACK];
    struct fabric_event event;
    size_t wide = row_bytes(u), begin[CIRCLE_MEMBERS];
    int own = rows_of(u, u->place);
    uint64_t give_bytes[CIRCLE_MEMBERS], take_bytes[CIRCLE_MEMBERS];
    if (ulysses_failed(u)) return;
    for (int p = 0; p < u->width; p++) {
        begin[p] = (size_t)shard_row(u->tokens, u->width, p) * wide;
        give_bytes[p] = (size_t)rows_of(u, p) * wide;
        take_bytes[p] = (size_t)own * wide;
    }
    send(u, BACK, begin, give_bytes, take_bytes);
    for (int p = 0; p < u->width; p++) {
        bool mine = p == u->place;
        if (!mine && !take(u, c, p, &event)) return;
        ops->copy_rows(team, (char *)rows + (size_t)p * wide, (size_t)stride * u->element,
                       mine ? c->packed + begin[p] : event.payload, wide, wide, own);
        if (!mine) put_back(u, &event);
    }
}

bool ulysses_join(struct ulysses *u, const void *own, size_t bytes, void *all)
{
    uint64_t each[CIRCLE_MEMBERS];
    if (u->engine->carrier) return false; /* on paper nothing was summed */
    /* Of those under way none would end while blocks are not computed. */
    for (int i = 0; i < EXCHANGES; i++) finish(u, &u->crossing[i]);
    if (ulysses_failed(u)) return false;
    for (int p = 0; p < u->width; p++) each[p] = (uint64_t)rows_of(u, p) * bytes;
    return circle_concatenate(u->circle, own, each, deadline(), all, &u->failure) == STATUS_OK;
}

status_t ulysses_end(struct ulysses *u, struct error *error)
{
    for (int i = 0; i < EXCHANGES; i++) finish(u, &u->crossing[i]);
    if (ulysses_failed(u) && error) *error = u->failure;
    return u->failure.status;
}
