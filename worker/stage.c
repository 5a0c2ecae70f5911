/*
 * stage.c - see stage.h. Compute thread of a rank that is not home.
 *
 * Received tickets wait in a queue in order of arrival; a hop is computed in a buffer of the stage's own
 * (there are as many as credits towards the next member, so a hop is begun only when it can also be sent).
 */
#include "worker/stage.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum { STAGE_QUEUE = 128, STAGE_BUFFERS = 4, STAGE_CONTEXTS = 256, BRANCHES = 2 };

struct context {
    uint64_t id; /* 0: free */
    uint64_t job;
    uint32_t attempt;
    struct token_grid grid;
    struct denoiser_context *branch[BRANCHES];
    struct blocks *blocks[BRANCHES]; /* NULL: the policy does not decide by blocks */
};

struct buffer {
    float *data; /* [6 + tokens, hidden] */
    size_t bytes;
    bool lent; /* the fabric's until SENT */
};

struct stage {
    struct engine *engine;
    struct context contexts[STAGE_CONTEXTS];
    struct buffer buffers[STAGE_BUFFERS];
    struct fabric_event queue[STAGE_QUEUE]; /* received, not yet worked on */
    int first, waiting;
    char failure[ERROR_TEXT_BYTES]; /* payload of a FAILED ticket on its way home */
    bool failure_lent;
};

/* Cookies beyond the buffers' numbers. */
enum { COOKIE_NOTHING = STAGE_BUFFERS, COOKIE_FAILURE };

status_t stage_create(struct engine *engine, struct stage **stage, struct error *error)
{
    struct stage *s = calloc(1, sizeof *s);
    if (!s) return error_set(error, STATUS_NO_MEMORY, "no memory for the stage");
    s->engine = engine;
    *stage = s;
    return STATUS_OK;
}

static void context_forget(struct context *c)
{
    for (int b = 0; b < BRANCHES; b++) {
        denoiser_context_destroy(c->branch[b]);
        blocks_destroy(c->blocks[b]);
    }
    memset(c, 0, sizeof *c);
}

void stage_destroy(struct stage *s)
{
    if (!s) return;
    for (; s->waiting; s->waiting--, s->first = (s->first + 1) % STAGE_QUEUE)
        fabric_release(s->engine->fabric, &s->queue[s->first]);
    for (int i = 0; i < STAGE_CONTEXTS; i++) context_forget(&s->contexts[i]);
    for (int i = 0; i < STAGE_BUFFERS; i++) free(s->buffers[i].data);
    free(s);
}

void stage_event(struct stage *s, const struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT) {
        if (event->cookie < STAGE_BUFFERS) s->buffers[event->cookie].lent = false;
        if (event->cookie == COOKIE_FAILURE) s->failure_lent = false;
        return;
    }
    /* Credits bound what peers can have in flight, far below the queue's size; a peer that breaks them is not
     * heard. */
    struct fabric_event copy = *event;
    if (s->waiting == STAGE_QUEUE) {
        log_line(LOG_WARN, "more tickets than credits from member %d: dropped one", event->peer);
        fabric_release(s->engine->fabric, &copy);
        return;
    }
    s->queue[(s->first + s->waiting++) % STAGE_QUEUE] = copy;
}

static struct context *context_find(struct stage *s, uint64_t id)
{
    for (int i = 0; i < STAGE_CONTEXTS; i++)
        if (s->contexts[i].id == id) return &s->contexts[i];
    return NULL;
}

/* Tells home that a ticket's context is not here. */
static status_t answer_unknown(struct stage *s, const struct ticket *about, struct error *error)
{
    struct ticket answer = *about;
    answer.kind = TICKET_UNKNOWN_CONTEXT;
    answer.dtype = TICKET_NO_DATA;
    answer.bytes = 0;
    return engine_post(s->engine, 0, &answer, NULL, COOKIE_NOTHING, error);
}

/* Tells home that a job cannot be served here, with the sentence; other jobs go on. One sentence is on its
 * way at a time: a second failure before the first was sent goes without words. */
static status_t answer_failed(struct stage *s, const struct ticket *about, const struct error *why,
                              struct error *error)
{
    struct ticket answer = *about;
    bool words = !s->failure_lent;
    answer.kind = TICKET_FAILED;
    answer.dtype = words ? TICKET_TEXT : TICKET_NO_DATA;
    answer.bytes = 0;
    if (words) {
        memcpy(s->failure, why->text, sizeof s->failure);
        answer.bytes = strlen(s->failure);
        s->failure_lent = true;
    }
    return engine_post(s->engine, 0, &answer, words ? s->failure : NULL,
                       words ? COOKIE_FAILURE : COOKIE_NOTHING, error);
}

/* ------------------------------------------------------------------------------------------------------------
 * open */

/* The policy's text at the end of an OPEN, if there is one; `step` holds the number of steps. */
static status_t open_blocks(struct stage *s, struct context *c, const struct ticket *t, const void *payload,
                            struct error *error)
{
    char text[CACHE_TEXT_BYTES];
    struct cache_settings settings;
    struct blocks *made;
    if (t->text_bytes == 0) return STATUS_OK;
    if (t->text_bytes >= sizeof text || t->step < 1 || t->step > CACHE_STEPS)
        return error_set(error, STATUS_CORRUPT,
                         "an OPEN ticket of job %lu with a policy of %u bytes for %u steps",
                         (unsigned long)t->job, t->text_bytes, t->step);
    memcpy(text, (const char *)payload + t->bytes - t->text_bytes, t->text_bytes);
    text[t->text_bytes] = 0;
    status_t status = cache_settings_read(text, &settings, error);
    if (status == STATUS_OK && !settings.policy)
        status = error_set(error, STATUS_CORRUPT, "an OPEN ticket of job %lu with an empty policy",
                           (unsigned long)t->job);
    if (status == STATUS_OK)
        status = engine_blocks_create(s->engine, &settings, (int)t->step, &c->grid, &made, error);
    if (status != STATUS_OK) return status;
    blocks_destroy(c->blocks[t->branch]);
    c->blocks[t->branch] = made;
    return STATUS_OK;
}

/* OPEN: payload is the text of one branch, [denoiser_text_rows(row_count), hidden], then the policy's text.
 */
static status_t open_context(struct stage *s, const struct ticket *t, const float *text, struct error *error)
{
    const struct model *m = s->engine->model;
    int length = m->config.text_length;
    if (t->branch >= BRANCHES || t->row_count < 1 || t->row_count > (uint32_t)length || t->context == 0 ||
        t->bytes - t->text_bytes !=
            (uint64_t)denoiser_text_rows((int)t->row_count, length) * (uint64_t)m->config.denoiser.hidden * 4)
        return error_set(error, STATUS_CORRUPT, "an OPEN ticket of job %lu does not fit the model",
                         (unsigned long)t->job);
    struct context *c = context_find(s, t->context);
    if (!c) c = context_find(s, 0);
    if (!c) return error_set(error, STATUS_NO_MEMORY, "more than %d jobs are open", STAGE_CONTEXTS);
    struct denoiser_context *made;
    status_t status =
        denoiser_context_create(m->denoiser, s->engine->team, text, (int)t->row_count, length, &made, error);
    if (status != STATUS_OK) return status;
    denoiser_context_destroy(c->branch[t->branch]);
    c->branch[t->branch] = made;
    c->id = t->context;
    c->job = t->job;
    c->attempt = t->attempt;
    c->grid = (struct token_grid){(int)t->grid[0], (int)t->grid[1], (int)t->grid[2]};
    status = open_blocks(s, c, t, text, error);
    if (status != STATUS_OK) { /* half a context would be taken for a broken peer by the next hop */
        denoiser_context_destroy(c->branch[t->branch]);
        c->branch[t->branch] = NULL;
    }
    return status;
}

/* -------------------------------------------------------------------------------------------------------------
 * hop */

/* Floats of block records behind a hop's rows. */
static uint64_t record_bytes(const struct ticket *t, const struct model *m)
{
    return t->flags & TICKET_BLOCK_RECORDS ? (uint64_t)m->config.denoiser.layers * sizeof(float) : 0;
}

static bool hop_fits(const struct ticket *t, const struct context *c, const struct model *m)
{
    int hidden = m->config.denoiser.hidden;
    bool blocks = t->block_begin >= (uint32_t)m->split.head && t->block_begin < t->block_end &&
                  t->block_end <= (uint32_t)(m->config.denoiser.layers - m->split.tail);
    bool records = (t->flags & TICKET_BLOCK_RECORDS) == 0 || c->blocks[t->branch % BRANCHES];
    return blocks && records && t->branch < BRANCHES && c->branch[t->branch] &&
           t->grid[0] == (uint32_t)c->grid.frames && t->grid[1] == (uint32_t)c->grid.height &&
           t->grid[2] == (uint32_t)c->grid.width && t->row_begin == 0 &&
           t->row_count == (uint32_t)token_count(&c->grid) &&
           t->bytes == hop_bytes((int)t->row_count, hidden) + record_bytes(t, m);
}

static struct buffer *free_buffer(struct stage *s, size_t bytes)
{
    for (int i = 0; i < STAGE_BUFFERS; i++) {
        struct buffer *b = &s->buffers[i];
        if (b->lent) continue;
        if (b->bytes < bytes) {
            free(b->data);
            b->data = aligned_alloc(64, (bytes + 63) / 64 * 64);
            b->bytes = b->data ? bytes : 0;
        }
        return b->data ? b : NULL;
    }
    return NULL;
}

/* Computes the hop's blocks that are held here and sends it on: to the next member while there are more, else
 * home, rows (and records) alone. */
static status_t run_hop(struct stage *s, struct context *c, struct fabric_event *event, struct error *error)
{
    struct engine *e = s->engine;
    const struct model *m = e->model;
    int hidden = m->config.denoiser.hidden, last = m->first + m->count;
    struct ticket t = event->ticket;
    int begin = (int)t.block_begin > m->first ? (int)t.block_begin : m->first;
    int end = (int)t.block_end < last ? (int)t.block_end : last;
    int next = (int)t.block_end > last ? engine_next_member(e) : 0;
    struct buffer *b = free_buffer(s, t.bytes);
    if (!b)
        return error_set(error, STATUS_NO_MEMORY, "no memory for a hop of %.1f MB", (double)t.bytes / 1e6);
    status_t status = engine_prepare(e, &c->grid, error);
    if (status != STATUS_OK) return status;
    memcpy(b->data, event->payload, t.bytes);
    fabric_release(e->fabric, event);
    event->hold = NULL;

    float *modulation = b->data, *x = modulation + 6 * hidden;
    float *records = x + (int64_t)t.row_count * hidden;
    engine_blocks(e, c->branch[t.branch], t.flags & TICKET_BLOCK_RECORDS ? c->blocks[t.branch] : NULL,
                  (int)t.step, modulation, x, begin, end, records);
    const float *payload = modulation;
    if (next == 0) {
        payload = x;
        t.bytes -= 6 * (uint64_t)hidden * sizeof(float);
    }
    b->lent = true;
    status = engine_post(e, next, &t, payload, (uint64_t)(b - s->buffers), error);
    if (status != STATUS_OK) b->lent = false;
    return status;
}

/* ----------------------------------------------------------------------------------------------------------
 * advance */

static bool can_work_on(const struct stage *s, const struct fabric_event *event)
{
    const struct fabric *fabric = s->engine->fabric;
    if (event->ticket.kind != TICKET_HOP) return true;
    bool room = false;
    for (int i = 0; i < STAGE_BUFFERS; i++) room |= !s->buffers[i].lent;
    return room && fabric_can_post(fabric, engine_next_member(s->engine)) && fabric_can_post(fabric, 0);
}

static status_t work_on(struct stage *s, struct fabric_event *event, struct error *error)
{
    const struct ticket *t = &event->ticket;
    struct context *c = t->context ? context_find(s, t->context) : NULL;
    switch (t->kind) {
    case TICKET_OPEN:
        return open_context(s, t, event->payload, error);
    case TICKET_CLOSE:
        if (c) context_forget(c);
        return STATUS_OK;
    case TICKET_HOP:
        if (!c || c->attempt != t->attempt || !c->branch[t->branch % BRANCHES])
            return answer_unknown(s, t, error);
        if (!hop_fits(t, c, s->engine->model))
            return error_set(error, STATUS_CORRUPT, "a hop of job %lu does not fit its context",
                             (unsigned long)t->job);
        return run_hop(s, c, event, error);
    default:
        return error_set(error, STATUS_CORRUPT, "a stage does not serve tickets of kind %d", t->kind);
    }
}

status_t stage_advance(struct stage *s, bool *worked, struct error *error)
{
    *worked = false;
    if (!s->waiting || !can_work_on(s, &s->queue[s->first])) return STATUS_OK;
    struct fabric_event event = s->queue[s->first];
    s->first = (s->first + 1) % STAGE_QUEUE;
    s->waiting--;
    *worked = true;
    struct error why = {0};
    status_t status = work_on(s, &event, &why);
    if (status == STATUS_NO_MEMORY)
        status = answer_failed(s, &event.ticket, &why, error);
    else if (status != STATUS_OK && error)
        *error = why;
    if (event.hold) fabric_release(s->engine->fabric, &event);
    return status;
}
