/* ulysses.c - see ulysses.h. Compute thread. */
#include "worker/ulysses.h"

#include <stdlib.h>

#include "base/clock.h"
#include "kernels/memory.h"
#include "worker/engine.h"

/* What a member that is alive may take for its part: a bound for one that is stuck, as for hops (worker/job_state.h). */
#define PART_TIMEOUT_NS (600 * SECOND_NS)

/* Exchanges of a block in the order in which they begin, which is also what they are for: v, q, then k and what was attended to
 * for each group of heads. */
enum { V, Q, K, BACK = K + ULYSSES_GROUPS, EXCHANGES = BACK + ULYSSES_GROUPS };
_Static_assert((int)EXCHANGES <= (int)CIRCLE_ROUNDS, "a block's exchanges may all be under way");

/* What is exchanged between rows' ranks and heads' ranks: of each row, for each place, some of that place's heads. */
struct crossing {
    int first, count; /* of a place's heads */
    char *packed;     /* device: what is given, a block for each place */
    char *sent;       /* what the fabric reads: the same, or its copy on the host */
    char *heads;      /* device: [tokens, own heads * head_dim], where it lands; NULL on the way back */
    struct exchange *exchange; /* under way; NULL: none */
    bool landed[CIRCLE_MEMBERS];
};

/* Memory for v, q, k, each at its number, and for the way back. Groups of heads divide it. */
enum { BUFFER_BACK = K + 1, BUFFERS };
struct buffer {
    char *packed, *sent, *heads; /* as in a crossing */
};

struct ulysses {
    struct engine *engine;
    struct circle *circle;
    int width, place;
    bool staged; /* the fabric cannot read the device's memory */
    size_t element;
    int heads, head_dim; /* own heads */
    struct arena device, shared;
    int room, tokens, groups;
    struct buffer buffer[BUFFERS];
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

/* Bytes of a row of so many heads. */
static size_t bytes_of(const struct ulysses *u, int heads)
{
    return (size_t)heads * (size_t)u->head_dim * u->element;
}

/* The attended rows of own heads are given from where attention writes them, the rest from where it is packed. */
static void lay_out(struct ulysses *u, int tokens)
{
    size_t all = (size_t)tokens, own = (size_t)(tokens / u->width + 1) * (size_t)u->width,
           row = bytes_of(u, u->heads);
    for (int i = 0; i < BUFFERS; i++) {
        struct buffer *b = &u->buffer[i];
        bool back = i == BUFFER_BACK;
        size_t rows = back ? all : own;
        b->packed = arena_take(&u->device, rows, row);
        b->heads = back ? NULL : arena_take(&u->device, all, row);
        b->sent = u->staged ? arena_take(&u->shared, rows, row) : b->packed;
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

/* Two groups, unless their parts would be too small to be worth a message each; the same everywhere in the circle. */
static int groups_of(const struct ulysses *u)
{
    size_t least = (size_t)(u->tokens / u->width) * bytes_of(u, u->heads / 2);
    return u->heads >= 2 && least >= u->engine->part_bytes ? 2 : 1;
}

/* Heads [first, next) of each place's. rows: that the buffer has packed for all places. */
static struct crossing cut(const struct ulysses *u, const struct buffer *buffer, size_t rows, int first,
                           int next)
{
    size_t before = rows * bytes_of(u, first);
    return (struct crossing){.first = first,
                             .count = next - first,
                             .packed = buffer->packed + before,
                             .sent = buffer->sent + before,
                             .heads = buffer->heads};
}

void ulysses_begin(struct ulysses *u, int tokens)
{
    u->tokens = tokens;
    u->groups = groups_of(u);
    size_t rows = (size_t)rows_of(u, u->place) * (size_t)u->width;
    for (int i = V; i <= Q; i++) u->crossing[i] = cut(u, &u->buffer[i], rows, 0, u->heads);
    for (int g = 0; g < u->groups; g++) {
        int first = u->heads * g / u->groups, next = u->heads * (g + 1) / u->groups;
        u->crossing[K + g] = cut(u, &u->buffer[K], rows, first, next);
        u->crossing[BACK + g] = cut(u, &u->buffer[BUFFER_BACK], (size_t)tokens, first, next);
    }
    for (int g = u->groups; g < ULYSSES_GROUPS; g++)
        u->crossing[K + g] = u->crossing[BACK + g] = (struct crossing){0};
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
    for (int p = 0; p < u->width; p++) {
        give[p] = c->sent + begin[p];
        c->landed[p] = p == u->place;
    }
    const struct circle_parts parts = {.purpose = (uint32_t)purpose,
                                       .dtype = e->ops->operand == DTYPE_F32 ? TICKET_F32 : TICKET_BF16,
                                       .on_device = e->lends,
                                       .give = give,
                                       .give_bytes = give_bytes,
                                       .take_bytes = take_bytes};
    circle_begin(u->circle, &parts, &c->exchange, &u->failure);
}

/* Memory that the fabric lent on the device is free in the order of ops, the host's once it was read. */
static void put_back(struct ulysses *u, struct fabric_event *event)
{
    if (u->staged) engine_wait(u->engine, &u->failure);
    fabric_release(u->engine->fabric, event);
}

/* Puts the parts of an exchange that have come where they belong: heads' rows, or, on the way back, rows' heads in `rows` with a
 * stride in bytes. wait: until all have come. */
static void land(struct ulysses *u, struct team *team, struct crossing *c, void *rows, size_t stride,
                 bool wait)
{
    size_t row = bytes_of(u, u->heads), wide = bytes_of(u, c->count), before = bytes_of(u, c->first);
    struct fabric_event event;
    for (int p = 0; p < u->width && c->exchange; p++) {
        if (c->landed[p] || (!wait && !exchange_ready(c->exchange, p))) continue;
        if (ulysses_failed(u) || exchange_take(c->exchange, p, deadline(), &event, &u->failure) != STATUS_OK)
            return;
        size_t at = c->heads ? (size_t)shard_row(u->tokens, u->width, p) * row : (size_t)p * row;
        u->engine->ops->copy_rows(team, (c->heads ? c->heads : (char *)rows) + at + before,
                                  c->heads ? row : stride, event.payload, wide, wide,
                                  rows_of(u, c->heads ? p : u->place));
        c->landed[p] = true;
        put_back(u, &event);
    }
}

static void give_heads(struct ulysses *u, struct team *team, int purpose, const char *rows, size_t stride)
{
    struct crossing *c = &u->crossing[purpose];
    size_t row = bytes_of(u, u->heads), wide = bytes_of(u, c->count), before = bytes_of(u, c->first);
    size_t begin[CIRCLE_MEMBERS];
    int own = rows_of(u, u->place);
    uint64_t give_bytes[CIRCLE_MEMBERS], take_bytes[CIRCLE_MEMBERS];
    finish(u, c);
    if (ulysses_failed(u)) return;
    for (int p = 0; p < u->width; p++) {
        bool mine = p == u->place;
        begin[p] = (size_t)p * (size_t)own * wide;
        give_bytes[p] = (size_t)own * wide;
        take_bytes[p] = (size_t)rows_of(u, p) * wide;
        char *to =
            mine ? c->heads + (size_t)shard_row(u->tokens, u->width, p) * row + before : c->packed + begin[p];
        u->engine->ops->copy_rows(team, to, mine ? row : wide, rows + (size_t)p * row + before, stride, wide,
                                  own);
    }
    send(u, purpose, begin, give_bytes, take_bytes);
}

/* What has come meanwhile makes room for what is still to come. */
void ulysses_give(struct ulysses *u, struct team *team, enum ulysses_kind kind, const void *rows,
                  int64_t stride)
{
    int first = kind == ULYSSES_V ? V : kind == ULYSSES_Q ? Q : K;
    int last = kind == ULYSSES_K ? K + u->groups - 1 : first;
    for (int i = first; i <= last; i++) give_heads(u, team, i, rows, (size_t)stride * u->element);
    for (int i = V; i < first; i++) land(u, team, &u->crossing[i], NULL, 0, false);
}

int ulysses_groups(const struct ulysses *u)
{
    return u->groups;
}

void ulysses_heads(struct ulysses *u, struct team *team, int group, struct attention *a)
{
    const int wanted[] = {V, Q, K + group}; /* as they come: each holds a credit until it has landed */
    struct crossing *back = &u->crossing[BACK + group];
    for (int i = 0; i < 3; i++) land(u, team, &u->crossing[wanted[i]], NULL, 0, true);
    finish(u, back);
    size_t before = bytes_of(u, back->first);
    a->q = u->crossing[Q].heads + before;
    a->k = u->crossing[K + group].heads + before;
    a->v = u->crossing[V].heads + before;
    a->out = back->packed;
    a->q_stride = a->k_stride = a->v_stride = (int64_t)u->heads * u->head_dim;
    a->out_stride = (int64_t)back->count * u->head_dim;
    a->q_rows = a->kv_rows = u->tokens;
    a->heads = back->count;
}

void ulysses_back(struct ulysses *u, int group)
{
    size_t wide = bytes_of(u, u->crossing[BACK + group].count), begin[CIRCLE_MEMBERS];
    uint64_t give_bytes[CIRCLE_MEMBERS], take_bytes[CIRCLE_MEMBERS];
    if (ulysses_failed(u)) return;
    for (int p = 0; p < u->width; p++) {
        begin[p] = (size_t)shard_row(u->tokens, u->width, p) * wide;
        give_bytes[p] = (size_t)rows_of(u, p) * wide;
        take_bytes[p] = (size_t)rows_of(u, u->place) * wide;
    }
    send(u, BACK + group, begin, give_bytes, take_bytes);
}

void ulysses_rows(struct ulysses *u, struct team *team, void *rows, int64_t stride)
{
    size_t bytes = (size_t)stride * u->element, own = (size_t)shard_row(u->tokens, u->width, u->place);
    for (int g = 0; g < u->groups; g++) {
        struct crossing *c = &u->crossing[BACK + g];
        size_t wide = bytes_of(u, c->count);
        char *mine = (char *)rows + (size_t)u->place * bytes_of(u, u->heads) + bytes_of(u, c->first);
        u->engine->ops->copy_rows(team, mine, bytes, c->packed + own * wide, wide, wide,
                                  rows_of(u, u->place));
        land(u, team, c, rows, bytes, true);
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
