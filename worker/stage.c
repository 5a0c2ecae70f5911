/*
 * stage.c - see stage.h. Compute thread.
 *
 * Received tickets wait in a list in order of arrival; each holds its sender's credit until it is worked on,
 * so credits bound the list. A hop is computed in a buffer of the stage's own, lent to the fabric until it is
 * SENT.
 */
#include "worker/stage.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/circle.h"
#include "rules/share.h"
#include "worker/cargo.h"
#include "worker/ulysses.h"

enum {
    STAGE_JOBS =
        128, /* contexts per home: twice what a home holds, as a CLOSE may come after the next OPEN */
    STAGE_CLOSED = 256,
    STAGE_TURNS = ENGINE_CREDITS, /* the first member is never so far ahead */
};

/* Cookies beyond the buffers' numbers. */
enum { COOKIE_NOTHING = STAGE_BUFFERS, COOKIE_FAILURE };
_Static_assert((int)COOKIE_FAILURE < (int)STAGE_COOKIES, "a stage's cookies must not be taken for a job's");

struct buffer {
    struct cargo cargo; /* [6 + tokens, hidden], then block records */
    struct arena device, shared;
    size_t bytes; /* room */
    bool lent;    /* the fabric's until SENT */
};

/* A ticket received and not yet worked on. */
struct waiting {
    struct fabric_event event;
    struct waiting *next;
};

struct stage {
    struct engine *engine;
    struct engine_context *contexts; /* [count], room for [room] */
    int count, room;
    uint64_t closed[STAGE_CLOSED]; /* the latest contexts that ended: their late hops wait for no OPEN */
    unsigned closings;
    struct buffer buffers[STAGE_BUFFERS];
    struct waiting *places, *spare; /* [members * credits]; those not in use */
    struct waiting *oldest, **newest_end;
    struct ticket turns[STAGE_TURNS]; /* told and not begun, the oldest first */
    int turn_count;
    bool flooded;                   /* a peer sent more than its credits */
    char failure[ERROR_TEXT_BYTES]; /* payload of a FAILED ticket on its way home */
    bool failure_lent;
};

status_t stage_create(struct engine *engine, struct stage **stage, struct error *error)
{
    size_t places = (size_t)engine->members * FABRIC_MAX_CREDITS;
    struct stage *s = calloc(1, sizeof *s);
    if (s) s->places = calloc(places, sizeof *s->places);
    if (!s || !s->places) {
        free(s);
        return error_set(error, STATUS_NO_MEMORY, "no memory for the stage");
    }
    s->engine = engine;
    s->newest_end = &s->oldest;
    for (size_t i = 0; i < places; i++) {
        s->places[i].next = s->spare;
        s->spare = &s->places[i];
    }
    *stage = s;
    return STATUS_OK;
}

size_t stage_buffer_bytes(const struct stage *s, enum memory kind)
{
    size_t bytes = 0;
    for (int i = 0; i < STAGE_BUFFERS; i++)
        bytes += kind == MEMORY_DEVICE ? s->buffers[i].device.size : s->buffers[i].shared.size;
    return bytes;
}

static void buffer_clear(struct buffer *b, const struct ops *ops)
{
    memory_give_back(ops, MEMORY_DEVICE, &b->device);
    memory_give_back(ops, MEMORY_SHARED, &b->shared);
    b->bytes = 0;
}

void stage_destroy(struct stage *s)
{
    if (!s) return;
    for (struct waiting *w = s->oldest; w; w = w->next) fabric_release(s->engine->fabric, &w->event);
    stage_forget(s);
    for (int i = 0; i < STAGE_BUFFERS; i++) buffer_clear(&s->buffers[i], s->engine->ops);
    free(s->contexts);
    free(s->places);
    free(s);
}

/* ------------------------------------------------------------------------------------------------- events */

bool stage_concerns(const struct fabric_event *event)
{
    const struct ticket *t = &event->ticket;
    if (event->kind == FABRIC_SENT) return event->cookie < STAGE_COOKIES;
    return t->kind == TICKET_OPEN || t->kind == TICKET_CLOSE || t->kind == TICKET_TURN ||
           (t->kind == TICKET_HOP && !(t->flags & TICKET_DONE));
}

void stage_event(struct stage *s, const struct fabric_event *event)
{
    if (event->kind == FABRIC_SENT) {
        if (event->cookie < STAGE_BUFFERS) s->buffers[event->cookie].lent = false;
        if (event->cookie == COOKIE_FAILURE) s->failure_lent = false;
        return;
    }
    if (event->ticket.kind == TICKET_TURN) {
        struct fabric_event copy = *event;
        fabric_release(s->engine->fabric, &copy); /* its credit is for the parts */
        s->flooded |= s->turn_count == STAGE_TURNS;
        if (!s->flooded) s->turns[s->turn_count++] = event->ticket;
        return;
    }
    struct waiting *w = s->spare;
    if (!w) { /* the fabric loses a peer that breaks its credits before it comes to this */
        struct fabric_event copy = *event;
        fabric_release(s->engine->fabric, &copy);
        s->flooded = true;
        return;
    }
    s->spare = w->next;
    *w = (struct waiting){.event = *event};
    *s->newest_end = w;
    s->newest_end = &w->next;
}

/* ----------------------------------------------------------------------------------------------- contexts */

/* After a wait. */
static void context_drop(struct stage *s, struct engine_context *c)
{
    for (int b = 0; b < ENGINE_BRANCHES; b++) {
        for (int e = 0; e < MODEL_EXPERTS; e++) engine_drop_context(s->engine, c->branch[b][e]);
        blocks_destroy(c->blocks[b]);
    }
}

void stage_forget(struct stage *s)
{
    if (!s) return;
    engine_wait(s->engine, NULL);
    for (int i = 0; i < s->count; i++) context_drop(s, &s->contexts[i]);
    s->count = 0;
}

static struct engine_context *context_own(const struct stage *s, uint64_t id)
{
    for (int i = 0; i < s->count; i++)
        if (s->contexts[i].id == id) return &s->contexts[i];
    return NULL;
}

/* Is there such a branch and such an expert? */
static bool names_branch(const struct ticket *t)
{
    return t->branch < ENGINE_BRANCHES && t->expert < SPLIT_EXPERTS;
}

/* The context of a hop, with its branch open for its expert; NULL: it is not here. */
static const struct engine_context *context_of(const struct stage *s, const struct ticket *t)
{
    const struct engine_context *c = context_own(s, t->context);
    if (!c) c = engine_lent(s->engine, t->context);
    return c && c->attempt == t->attempt && c->branch[t->branch][t->expert] ? c : NULL;
}

static status_t context_add(struct stage *s, const struct ticket *t, struct engine_context **context,
                            struct error *error)
{
    if (s->count == STAGE_JOBS * s->engine->members)
        return error_set(error, STATUS_NO_MEMORY, "more than %d jobs are open", s->count);
    if (s->count == s->room) {
        int room = s->room ? 2 * s->room : 16;
        struct engine_context *more = realloc(s->contexts, (size_t)room * sizeof *more);
        if (!more) return error_set(error, STATUS_NO_MEMORY, "no memory for %d jobs", room);
        s->contexts = more;
        s->room = room;
    }
    *context = &s->contexts[s->count++];
    **context = (struct engine_context){
        .id = t->context, .attempt = t->attempt, .grid = {(int)t->grid[0], (int)t->grid[1], (int)t->grid[2]}};
    return STATUS_OK;
}

static void context_close(struct stage *s, uint64_t id)
{
    struct engine_context *c = context_own(s, id);
    s->closed[s->closings++ % STAGE_CLOSED] = id;
    if (!c) return;
    engine_wait(s->engine, NULL);
    context_drop(s, c);
    *c = s->contexts[--s->count];
}

/* Will the context of this hop not come any more? A CLOSE that waits behind the hop says so too. */
static bool context_over(const struct stage *s, const struct ticket *t)
{
    if (t->home == s->engine->self) return true; /* it would be lent */
    for (int i = 0; i < STAGE_CLOSED; i++)
        if (s->closed[i] == t->context) return true;
    for (const struct waiting *w = s->oldest; w; w = w->next)
        if (w->event.ticket.kind == TICKET_CLOSE && w->event.ticket.context == t->context) return true;
    return false;
}

/* What this member runs for a hop or an OPEN: its part of the chain that the branch takes. */
static int chain_of(const struct ticket *t, const struct model *m)
{
    return split_chain(&m->split, t->expert, t->branch);
}

static const struct chain_run *run_of(const struct ticket *t, const struct model *m)
{
    return &m->run[chain_of(t, m)];
}

/* ------------------------------------------------------------------------------------------- wide stages */

static int width_of(const struct stage *s)
{
    return s->engine->ulysses ? circle_count(s->engine->circle) : 1;
}

static int place_of(const struct stage *s)
{
    return s->engine->ulysses ? circle_place(s->engine->circle) : 0;
}

/* The first row that this member has of a hop, and how many. */
static uint32_t first_row(const struct stage *s, int tokens)
{
    return (uint32_t)shard_row(tokens, width_of(s), place_of(s));
}

static uint32_t row_count(const struct stage *s, int tokens)
{
    return (uint32_t)shard_row(tokens, width_of(s), place_of(s) + 1) - first_row(s, tokens);
}

/* The workspace, for all rows or this member's. */
static status_t prepare(const struct stage *s, const struct token_grid *grid, struct error *error)
{
    struct engine *e = s->engine;
    return e->ulysses ? engine_prepare_shard(e, grid, error) : engine_prepare(e, grid, error);
}

/* May the others be told? */
static bool can_tell(const struct stage *s)
{
    for (int i = 1; i < width_of(s); i++)
        if (!engine_reaches(s->engine, s->engine->self + i, WAY_BRIEF)) return false;
    return true;
}

/* The first member says which hop it begins. */
static status_t tell_turn(struct stage *s, const struct ticket *hop, struct error *error)
{
    for (int i = 1; i < width_of(s) && place_of(s) == 0; i++) {
        struct ticket turn = *hop;
        turn.kind = TICKET_TURN;
        turn.dtype = TICKET_NO_DATA;
        turn.bytes = turn.text_bytes = turn.flags = 0;
        status_t status = engine_post(s->engine, s->engine->self + i, &turn, NULL, COOKIE_NOTHING, error);
        if (status != STATUS_OK) return status;
    }
    return STATUS_OK;
}

static bool is_turn(const struct stage *s, const struct ticket *hop)
{
    const struct ticket *turn = &s->turns[0];
    return s->turn_count > 0 && hop->kind == TICKET_HOP && hop->context == turn->context &&
           hop->branch == turn->branch && hop->attempt == turn->attempt;
}

static void end_turn(struct stage *s)
{
    s->turn_count--;
    memmove(s->turns, s->turns + 1, (size_t)s->turn_count * sizeof *s->turns);
}

/* ------------------------------------------------------------------------------------------------ answers */

/* Tells home that a ticket's context is not here. */
static status_t answer_unknown(struct stage *s, const struct ticket *about, struct error *error)
{
    struct ticket answer = *about;
    answer.kind = TICKET_UNKNOWN_CONTEXT;
    answer.dtype = TICKET_NO_DATA;
    answer.bytes = answer.text_bytes = 0;
    return engine_post(s->engine, about->home, &answer, NULL, COOKIE_NOTHING, error);
}

static status_t answer_opened(struct stage *s, const struct ticket *about, struct error *error)
{
    struct ticket answer = *about;
    answer.kind = TICKET_OPENED;
    answer.dtype = TICKET_NO_DATA;
    answer.bytes = answer.text_bytes = 0;
    return engine_post(s->engine, about->home, &answer, NULL, COOKIE_NOTHING, error);
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
    answer.bytes = answer.text_bytes = 0;
    if (words) {
        memcpy(s->failure, why->text, sizeof s->failure);
        answer.bytes = strlen(s->failure);
        s->failure_lent = true;
    }
    return engine_post(s->engine, about->home, &answer, words ? s->failure : NULL,
                       words ? COOKIE_FAILURE : COOKIE_NOTHING, error);
}

/* ------------------------------------------------------------------------------------------------ buffers */

static int open_branches(const struct engine_context *c)
{
    int open = 0;
    for (int b = 0; b < ENGINE_BRANCHES; b++) open += c->branch[b][0] || c->branch[b][1];
    return open;
}

/* As many as branches are open here, also those that home lends: each has one hop here at a time. */
static int wanted_buffers(const struct stage *s)
{
    int wanted = 0;
    for (int i = 0; i < s->count; i++) wanted += open_branches(&s->contexts[i]);
    for (const struct engine_context *c = s->engine->lent; c; c = c->next) wanted += open_branches(c);
    return wanted < STAGE_BUFFERS ? wanted : STAGE_BUFFERS;
}

/* Of those that are wanted, even if it must be waited for: that one is still being read is a matter of time, of which the memory
 * that is taken shall not depend. */
static struct buffer *free_buffer(struct stage *s)
{
    int wanted = wanted_buffers(s);
    for (int i = 0; i < wanted; i++)
        if (!s->buffers[i].lent) return &s->buffers[i];
    return NULL;
}

static status_t buffer_fit(struct buffer *b, struct engine *e, size_t bytes, struct error *error)
{
    if (b->bytes >= bytes) return STATUS_OK;
    status_t status = engine_wait(e, error);
    if (status != STATUS_OK) return status;
    buffer_clear(b, e->ops);
    cargo_lay_out(&b->cargo, e->ops, &b->device, &b->shared, bytes);
    status = memory_arena(e->ops, MEMORY_DEVICE, &b->device, error);
    if (status == STATUS_OK) status = memory_arena(e->ops, MEMORY_SHARED, &b->shared, error);
    if (status != STATUS_OK) {
        buffer_clear(b, e->ops);
        error_prefix(error, "a hop of %.1f MB", (double)bytes / 1e6);
        return status;
    }
    cargo_lay_out(&b->cargo, e->ops, &b->device, &b->shared, bytes);
    b->bytes = bytes;
    return STATUS_OK;
}

/* Room for so many hops before the first of them comes: a job that does not fit here is refused before it has begun. Buffers that are
 * lent are seen to when they are used. */
static status_t buffers_fit(struct stage *s, int wanted, size_t bytes, struct error *error)
{
    status_t status = STATUS_OK;
    for (int i = 0; i < wanted && i < STAGE_BUFFERS && status == STATUS_OK; i++)
        if (!s->buffers[i].lent) status = buffer_fit(&s->buffers[i], s->engine, bytes, error);
    return status;
}

/* --------------------------------------------------------------------------------------------------- open */

/* The policy's text at the end of an OPEN, if there is one; `step` holds the number of steps, block_begin how many of
 * them the first expert makes. */
static status_t open_blocks(struct stage *s, const struct engine_context *c, const struct ticket *t, int peer,
                            const void *payload, struct blocks **made, struct error *error)
{
    char text[CACHE_TEXT_BYTES];
    struct cache_settings settings;
    *made = NULL;
    if (t->text_bytes == 0) return STATUS_OK;
    if (t->text_bytes >= sizeof text || t->step < 1 || t->step > CACHE_STEPS || t->block_begin > t->step)
        return error_set(error, STATUS_CORRUPT,
                         "an OPEN ticket of job %lu with a policy of %u bytes for %u steps",
                         (unsigned long)t->job, t->text_bytes, t->step);
    status_t status = cargo_read(s->engine, peer, (const char *)payload + t->bytes - t->text_bytes, text,
                                 t->text_bytes, error);
    if (status != STATUS_OK) return status;
    text[t->text_bytes] = 0;
    status = cache_settings_read(text, &settings, error);
    if (status == STATUS_OK && !settings.policy)
        status = error_set(error, STATUS_CORRUPT, "an OPEN ticket of job %lu with an empty policy",
                           (unsigned long)t->job);
    if (status == STATUS_OK)
        status = engine_run_blocks_create(s->engine, &settings, (int)t->step, (int)t->block_begin, &c->grid,
                                          t->branch, made, error);
    return status;
}

/* Does an OPEN fit the model, and is there something for this stage to do? Its payload is the text of one branch as one
 * expert sees it, [denoiser_text_rows(row_count), hidden], then the policy's text. */
static bool open_fits(const struct ticket *t, const struct model *m)
{
    int length = m->config.text_length, longest = m->config.denoiser.max_position;
    bool grid = true;
    for (int i = 0; i < 3; i++) grid = grid && t->grid[i] >= 1 && t->grid[i] <= (uint32_t)longest;
    return grid && t->expert < m->config.experts && run_of(t, m)->count > 0 && t->context != 0 &&
           t->row_count >= 1 && t->row_count <= (uint32_t)length &&
           t->bytes - t->text_bytes == (uint64_t)denoiser_text_rows((int)t->row_count, length) *
                                           (uint64_t)m->config.denoiser.hidden * sizeof(float);
}

/* Keys and values of a text that came as a payload, which the caller releases on return. */
static status_t make_keys(struct stage *s, const struct ticket *t, int peer, const void *payload,
                          struct denoiser_context **made, struct error *error)
{
    struct engine *e = s->engine;
    const void *text = payload;
    void *brought = NULL;
    size_t bytes = t->bytes - t->text_bytes;
    status_t status = STATUS_OK;
    if (!engine_direct(e, peer)) {
        status = e->ops->allocate(MEMORY_DEVICE, bytes, &brought, error);
        if (status != STATUS_OK) return status;
        e->ops->copy(e->team, brought, payload, bytes);
        text = brought;
    }
    status = engine_run_context_create(e, t->expert, t->branch, text, (int)t->row_count, made, error);
    status_t waited = engine_wait(e, status == STATUS_OK ? error : NULL);
    e->ops->release(MEMORY_DEVICE, brought);
    if (status == STATUS_OK && waited != STATUS_OK) denoiser_context_destroy(*made);
    return status == STATUS_OK ? waited : status;
}

/* An OPEN that comes again changes nothing: what the blocks have kept must not be lost. The workspace is taken here
 * too: a hop may come between two OPENs or after them, and what is taken at most shall not depend on it. */
static status_t open_context(struct stage *s, const struct ticket *t, int peer, const void *payload,
                             struct error *error)
{
    const struct model *m = s->engine->model;
    struct engine_context *c = context_own(s, t->context);
    struct denoiser_context *made;
    struct blocks *blocks = NULL;
    status_t status = STATUS_OK;
    if (!open_fits(t, m) || (c && c->attempt != t->attempt))
        return error_set(error, STATUS_CORRUPT, "an OPEN ticket of job %lu does not fit the model",
                         (unsigned long)t->job);
    if (!c) status = context_add(s, t, &c, error);
    if (status != STATUS_OK || c->branch[t->branch][t->expert]) return status;
    size_t hop = hop_bytes((int)row_count(s, token_count(&c->grid)), m->config.denoiser.hidden) +
                 (t->text_bytes ? (size_t)m->config.denoiser.layers * sizeof(float) : 0);
    status = prepare(s, &c->grid, error);
    bool open =
        c->branch[t->branch][0] || c->branch[t->branch][1]; /* a branch is with one expert at a time */
    if (status == STATUS_OK && !open) status = buffers_fit(s, wanted_buffers(s) + 1, hop, error);
    if (status != STATUS_OK) return status;
    if (!c->blocks[t->branch]) status = open_blocks(s, c, t, peer, payload, &blocks, error);
    if (status != STATUS_OK) return status;
    status = make_keys(s, t, peer, payload, &made, error);
    if (status != STATUS_OK) {
        blocks_destroy(blocks);
        return status;
    }
    c->branch[t->branch][t->expert] = made;
    if (blocks) c->blocks[t->branch] = blocks;
    return STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------------- hop */

/* Bytes of block records behind a hop's rows. */
static uint64_t record_bytes(const struct ticket *t, const struct model *m)
{
    return t->flags & TICKET_BLOCK_RECORDS ? (uint64_t)m->config.denoiser.layers * sizeof(float) : 0;
}

/* Does the hop fit its context, and is there something in it for this stage? */
static bool hop_fits(const struct stage *s, const struct ticket *t, const struct engine_context *c)
{
    const struct model *m = s->engine->model;
    int tokens = token_count(&c->grid);
    const struct chain_run *run = run_of(t, m);
    uint32_t first = (uint32_t)run->first, last = (uint32_t)(run->first + run->count);
    bool blocks = t->block_begin >= (uint32_t)m->split.head && t->block_begin < last &&
                  t->block_end > first && t->block_begin < t->block_end &&
                  t->block_end <= (uint32_t)(m->config.denoiser.layers - m->split.tail);
    bool records = (t->flags & TICKET_BLOCK_RECORDS) == 0 || c->blocks[t->branch];
    return run->count > 0 && blocks && records && t->grid[0] == (uint32_t)c->grid.frames &&
           t->grid[1] == (uint32_t)c->grid.height && t->grid[2] == (uint32_t)c->grid.width &&
           t->row_begin == first_row(s, tokens) && t->row_count == row_count(s, tokens) &&
           t->bytes == hop_bytes((int)t->row_count, m->config.denoiser.hidden) + record_bytes(t, m);
}

/* Behind the last block that a hop needs of this stage. */
static int last_here(const struct ticket *t, const struct model *m)
{
    return run_of(t, m)->first + run_of(t, m)->count;
}

/* Does a hop that fits go on to the next stage, or home? */
static bool goes_home(const struct ticket *t, const struct model *m)
{
    return t->block_end <= (uint32_t)last_here(t, m);
}

/* Its member that has the same rows. */
static int next_stage(const struct ticket *t, const struct model *m)
{
    return model_holder(m, chain_of(t, m), last_here(t, m)) + m->self - split_stage(&m->split, m->self);
}

/* Computes the hop's blocks that are held here and sends it on: to the member that holds the next one, or
 * home, rows (and records) alone. */
static status_t run_hop(struct stage *s, const struct engine_context *c, struct fabric_event *event,
                        struct error *error)
{
    struct engine *e = s->engine;
    const struct model *m = e->model;
    struct ticket t = event->ticket;
    struct buffer *b = free_buffer(s);
    int first = run_of(&t, m)->first, last = last_here(&t, m);
    int next = goes_home(&t, m) ? t.home : next_stage(&t, m);
    size_t modulation = 6 * (size_t)m->config.denoiser.hidden * sizeof(float), records = record_bytes(&t, m);
    const void *payload;
    /* Of jobs of this rank's own home no OPEN has told. */
    status_t status = buffers_fit(s, wanted_buffers(s), t.bytes, error);
    if (status == STATUS_OK) status = prepare(s, &c->grid, error);
    if (status == STATUS_OK) status = tell_turn(s, &t, error);
    if (status != STATUS_OK) return status;
    b->cargo.body = t.bytes - records;
    status = cargo_receive(&b->cargo, e, event->peer, 0, event->payload, records, error);
    fabric_release(e->fabric, event);
    if (status != STATUS_OK) return status;

    float *blocks = (float *)(void *)b->cargo.device, *x = blocks + modulation / sizeof(float);
    int begin = (int)t.block_begin > first ? (int)t.block_begin : first;
    int end = (int)t.block_end < last ? (int)t.block_end : last;
    engine_blocks(e, c->branch[t.branch][t.expert],
                  t.flags & TICKET_BLOCK_RECORDS ? c->blocks[t.branch] : NULL, (int)t.step, blocks, x, begin,
                  end, cargo_tail(&b->cargo));
    bool done = goes_home(&t, m);
    status = e->ulysses ? ulysses_end(e->ulysses, error) : STATUS_OK;
    if (status != STATUS_OK) return status;
    status = cargo_send(&b->cargo, e, next, done ? modulation : 0, records, &payload, error);
    if (status != STATUS_OK) return status;
    if (done) {
        t.bytes -= modulation;
        t.flags |= TICKET_DONE;
    }
    b->lent = true;
    status = engine_post(e, next, &t, payload, (uint64_t)(b - s->buffers), error);
    if (status != STATUS_OK) b->lent = false;
    return status;
}

/* ------------------------------------------------------------------------------------------------ advance */

/* Can it be worked on now? What is malformed can: it ends the epoch. Whatever may fail needs a way to tell
 * home. */
static bool ready(struct stage *s, const struct ticket *t)
{
    const struct engine *e = s->engine;
    if (!e->model || t->home >= e->members || !names_branch(t) || t->kind == TICKET_CLOSE) return true;
    if (!engine_reaches(e, t->home, t->kind == TICKET_OPEN && e->ulysses ? WAY_OPEN : WAY_BRIEF))
        return false;
    if (t->kind != TICKET_HOP) return true;
    const struct engine_context *c = context_of(s, t);
    if (!c) return context_over(s, t);
    if (!hop_fits(s, t, c)) return true;
    if (e->ulysses && place_of(s) == 0 && !can_tell(s)) return false;
    return free_buffer(s) && (goes_home(t, e->model) || engine_reaches(e, next_stage(t, e->model), WAY_HOP));
}

/* Is this the oldest ticket of its context? An OPEN does not stand behind hops: those that came before it,
 * from another member, wait for it. */
static bool leads(const struct stage *s, const struct waiting *ticket)
{
    const struct waiting *w = s->oldest;
    if (ticket->event.ticket.kind == TICKET_OPEN) return true;
    while (w->event.ticket.context != ticket->event.ticket.context) w = w->next;
    return w == ticket;
}

/* A fixed home has decided between its jobs by what it sent first. */
static bool goes_before(const struct stage *s, const struct ticket *a, const struct ticket *b)
{
    if (a->priority != b->priority) return a->priority > b->priority;
    return s->engine->model && s->engine->model->split.floating &&
           share_elder(a->age, b->age, (uint32_t)s->engine->members);
}

/* Where the next ticket hangs; NULL: none can be worked on. A wide stage's later members take the hop that they were told of, but between two
 * hops first what came before it, as the first one does: homes wait until all of them have answered an OPEN. */
static struct waiting **find_next(struct stage *s)
{
    struct waiting **best = NULL;
    for (struct waiting **at = &s->oldest; *at; at = &(*at)->next) {
        const struct ticket *t = &(*at)->event.ticket;
        if (place_of(s) > 0 && t->kind == TICKET_HOP) {
            if (!is_turn(s, t) || !ready(s, t)) continue;
            return best && !goes_before(s, t, &(*best)->event.ticket) ? best : at;
        }
        if (best && !goes_before(s, t, &(*best)->event.ticket)) continue;
        if (leads(s, *at) && ready(s, t)) best = at;
    }
    return best;
}

int stage_next(struct stage *s)
{
    struct waiting **next = find_next(s);
    bool refused = s->engine->circles && circles_check(s->engine->circles, NULL) != STATUS_OK;
    if (s->flooded || refused) return INT_MAX; /* to be said at once */
    return next ? (*next)->event.ticket.priority : -1;
}

/* Takes the next ticket out of the queue; false: none can be worked on. */
static bool take_next(struct stage *s, struct fabric_event *event)
{
    struct waiting **next = find_next(s);
    if (!next) return false;
    struct waiting *w = *next;
    *next = w->next;
    if (s->newest_end == &w->next) s->newest_end = next;
    *event = w->event;
    w->next = s->spare;
    s->spare = w;
    return true;
}

static status_t work_on(struct stage *s, struct fabric_event *event, struct error *error)
{
    const struct ticket *t = &event->ticket;
    const struct engine_context *c;
    if (!s->engine->model || t->home >= s->engine->members)
        return error_set(error, STATUS_CORRUPT, "a ticket of job %lu %s", (unsigned long)t->job,
                         s->engine->model ? "without a home" : "before a model is here");
    if (!names_branch(t))
        return error_set(error, STATUS_CORRUPT, "a ticket of job %lu for branch %d of expert %d",
                         (unsigned long)t->job, t->branch, t->expert);
    switch (t->kind) {
    case TICKET_OPEN: {
        status_t status = open_context(s, t, event->peer, event->payload, error);
        return status == STATUS_OK && s->engine->ulysses ? answer_opened(s, t, error) : status;
    }
    case TICKET_CLOSE:
        context_close(s, t->context);
        return STATUS_OK;
    case TICKET_HOP:
        if (place_of(s) > 0) end_turn(s);
        c = context_of(s, t);
        if (!c && s->engine->ulysses)
            return error_set(error, STATUS_CORRUPT,
                             "a hop of job %lu came before its OPEN or after its CLOSE",
                             (unsigned long)t->job);
        if (!c) return answer_unknown(s, t, error);
        if (!hop_fits(s, t, c))
            return error_set(error, STATUS_CORRUPT, "a hop of job %lu does not fit its context",
                             (unsigned long)t->job);
        return run_hop(s, c, event, error);
    default:
        return error_set(error, STATUS_CORRUPT, "a stage does not serve tickets of kind %d", t->kind);
    }
}

status_t stage_advance(struct stage *s, bool *worked, struct error *error)
{
    struct fabric_event event;
    struct error why = {0};
    *worked = false;
    if (s->flooded) return error_set(error, STATUS_CORRUPT, "a member sent more tickets than it has credits");
    if (s->engine->circles && circles_check(s->engine->circles, error) != STATUS_OK) return STATUS_CORRUPT;
    if (!take_next(s, &event)) return STATUS_OK;
    *worked = true;
    status_t status = work_on(s, &event, &why);
    /* In a wide stage the others would wait for this member. */
    bool alone = !s->engine->ulysses || event.ticket.kind == TICKET_OPEN;
    if (status == STATUS_NO_MEMORY && alone)
        status = answer_failed(s, &event.ticket, &why, error);
    else if (status != STATUS_OK && error)
        *error = why;
    fabric_release(s->engine->fabric, &event);
    return status;
}
