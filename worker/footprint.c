/* footprint.c - see footprint.h. One thread plays all ranks. */
#include "worker/footprint.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/paper.h"
#include "worker/stage.h"
#include "worker/ulysses.h"

enum { MOST_JOBS = 64 };

/* A rank on paper. */
struct seat {
    struct ledger ledger;
    struct engine engine;
    struct stage *stage; /* NULL at a home that is none */
};

/* A ticket on its way. */
struct parcel {
    struct parcel *next;
    int from, to;
    struct ticket ticket;
    const void *payload;
    uint64_t cookie;
};

struct ring {
    struct engine_carrier carrier; /* first: one cast leads back */
    struct parcel *first, **last;
    bool lost;          /* no memory even for a ticket */
    struct seat *seats; /* [members] */
    int members;
    struct job *jobs[MOST_JOBS];
    int job_count;
    struct footprint *ranks;
};

static struct footprint_part part_of(const struct ledger *l)
{
    return (struct footprint_part){ledger_device(l), l->now[LEDGER_SHARED]};
}

static struct footprint_part beyond(struct footprint_part now, struct footprint_part before)
{
    return (struct footprint_part){now.device - before.device, now.shared - before.shared};
}

static struct footprint_part most_of(const struct ledger *l)
{
    return (struct footprint_part){l->most_device, l->most_shared};
}

/* ------------------------------------------------------------------------------------------------ tickets */

static void carry(struct engine_carrier *carrier, int from, int peer, const struct ticket *ticket,
                  const void *payload, uint64_t cookie)
{
    struct ring *ring = (struct ring *)carrier;
    struct parcel *p = malloc(sizeof *p);
    if (!p) {
        ring->lost = true;
        return;
    }
    *p = (struct parcel){NULL, from, peer, *ticket, payload, cookie};
    *ring->last = p;
    ring->last = &p->next;
}

static void tell(struct ring *ring, int member, const struct fabric_event *event)
{
    struct seat *seat = &ring->seats[member];
    paper_enter(&seat->ledger);
    if (seat->stage && (member > 0 || stage_concerns(event))) {
        stage_event(seat->stage, event);
        return;
    }
    uint64_t context = event->kind == FABRIC_SENT ? event->cookie / JOB_COOKIES : event->ticket.context;
    for (int i = 0; i < ring->job_count; i++)
        if (job_context(ring->jobs[i]) == context) job_event(ring->jobs[i], event);
}

/* Tickets of home to the stage of its own rank, and back. */
static void tell_itself(struct ring *ring, struct seat *seat)
{
    struct fabric_event event;
    while (seat->engine.loops > 0 && engine_next(&seat->engine, &event))
        tell(ring, seat->engine.self, &event);
}

static status_t run_stage(struct ring *ring, struct seat *seat, struct error *error)
{
    bool worked = true;
    status_t status = STATUS_OK;
    tell_itself(ring, seat);
    paper_enter(&seat->ledger);
    while (seat->stage && worked && status == STATUS_OK) status = stage_advance(seat->stage, &worked, error);
    tell_itself(ring, seat);
    return status;
}

/* Everything on its way arrives and is worked on, until nothing is. */
static status_t deliver(struct ring *ring, struct error *error)
{
    status_t status = run_stage(ring, &ring->seats[0], error);
    while (ring->first && status == STATUS_OK) {
        struct parcel *p = ring->first;
        ring->first = p->next;
        if (!ring->first) ring->last = &ring->first;
        tell(ring, p->to,
             &(struct fabric_event){
                 .kind = FABRIC_RECEIVED, .peer = p->from, .ticket = p->ticket, .payload = p->payload});
        status = run_stage(ring, &ring->seats[p->to], error);
        tell(ring, p->from, &(struct fabric_event){.kind = FABRIC_SENT, .peer = p->to, .cookie = p->cookie});
        if (status == STATUS_OK) status = run_stage(ring, &ring->seats[p->from], error);
        free(p);
    }
    if (ring->lost) return error_set(error, STATUS_NO_MEMORY, "no memory for a ticket on paper");
    return status;
}

/* --------------------------------------------------------------------------------------------------- jobs */

/* How far the jobs are to go. */
enum mark { MARK_TEXT, MARK_STEP, MARK_STEPS };

static bool reached(const struct job *job, enum mark mark)
{
    const struct job_status *s = job_status(job);
    if (s->phase > JOB_PHASE_DENOISE || mark == MARK_STEPS) return s->phase > JOB_PHASE_DENOISE;
    return s->phase == JOB_PHASE_DENOISE && (mark == MARK_TEXT || s->done > 0);
}

/* One move of a job, and what follows from it on all ranks. */
static status_t advance(struct ring *ring, struct job *job, struct error *error)
{
    bool idle = !ring->first;
    paper_enter(&ring->seats[0].ledger);
    enum job_result result = job_advance(job);
    if (result == JOB_FINISHED) {
        status_t status = job_outcome(job, error);
        return status != STATUS_OK ? status : error_set(error, STATUS_INTERNAL, "a job on paper ended early");
    }
    if (result == JOB_WAITS && idle)
        return error_set(error, STATUS_INTERNAL, "a job on paper waits for nothing");
    return deliver(ring, error);
}

/* In step with each other, so that all are at the same time where most is taken. */
static status_t pass(struct ring *ring, enum mark mark, struct error *error)
{
    status_t status = STATUS_OK;
    for (bool moved = true; moved && status == STATUS_OK;) {
        moved = false;
        for (int i = 0; i < ring->job_count && status == STATUS_OK; i++) {
            if (reached(ring->jobs[i], mark)) continue;
            status = advance(ring, ring->jobs[i], error);
            moved = true;
        }
    }
    return status;
}

/* The first job's decoder is open; the other jobs have made their steps and wait for it. */
static status_t decode(struct ring *ring, struct error *error)
{
    struct footprint *home = &ring->ranks[0];
    const struct ledger *ledger = &ring->seats[0].ledger;
    home->stepping = ledger->most_device;
    status_t status = advance(ring, ring->jobs[0], error); /* gives back */
    if (status != STATUS_OK) return status;
    struct footprint_part before = part_of(ledger);
    status = advance(ring, ring->jobs[0], error);
    if (status == STATUS_OK) status = job_outcome(ring->jobs[0], error);
    home->decode = beyond(part_of(ledger), before);
    home->decoding = ledger_device(ledger);
    return status;
}

static status_t create_jobs(struct ring *ring, const struct footprint_task *task, struct error *error)
{
    status_t status = STATUS_OK;
    struct job_order wanted = *task->order;
    wanted.compare = false;
    paper_enter(&ring->seats[0].ledger);
    for (int i = 0; i < task->jobs && status == STATUS_OK; i++) {
        wanted.job = (uint64_t)i + 1;
        status = job_create(&ring->seats[0].engine, &wanted, ".", &ring->jobs[i], error);
        ring->job_count += status == STATUS_OK;
    }
    return status;
}

/* What the members' jobs take, as far as it is there: all that is neither weights nor work. */
static void note_jobs(struct ring *ring)
{
    for (int i = 0; i < ring->members; i++) {
        struct seat *seat = &ring->seats[i];
        struct footprint *f = &ring->ranks[i];
        if (seat->stage)
            f->buffers = (struct footprint_part){stage_buffer_bytes(seat->stage, MEMORY_DEVICE),
                                                 stage_buffer_bytes(seat->stage, MEMORY_SHARED)};
        f->work = (struct footprint_part){seat->engine.arena.size + seat->engine.model->rotary.bytes +
                                              ulysses_bytes(seat->engine.ulysses),
                                          0};
        f->jobs = beyond(beyond(beyond(part_of(&seat->ledger), f->weights), f->work), f->buffers);
    }
}

static void raise(size_t *most, size_t bytes)
{
    if (bytes > *most) *most = bytes;
}

/* Of several jobs one may be at its text while another decodes or all have made steps. `before`: then. */
static void bound_home(struct ring *ring, struct footprint_part before)
{
    struct footprint *home = &ring->ranks[0];
    struct ledger *l = &ring->seats[0].ledger;
    raise(&home->stepping, before.device + home->text.device);
    home->decoding += home->text.device;
    raise(&l->most_device, home->stepping > home->decoding ? home->stepping : home->decoding);
    raise(&l->most_shared, before.shared + home->text.shared + home->decode.shared);
}

static status_t run(struct ring *ring, const struct footprint_task *task, struct error *error)
{
    struct footprint *home = &ring->ranks[0];
    const struct ledger *ledger = &ring->seats[0].ledger;
    status_t status = create_jobs(ring, task, error);
    if (status == STATUS_OK) status = pass(ring, MARK_TEXT, error);
    if (status != STATUS_OK) return status;
    home->text = beyond(most_of(ledger), part_of(ledger));
    /* One after the other: the last one's OPENs find all that the others have. */
    for (int i = 0; i < task->jobs && status == STATUS_OK; i++)
        while (!reached(ring->jobs[i], MARK_STEP) && status == STATUS_OK)
            status = advance(ring, ring->jobs[i], error);
    if (status != STATUS_OK) return status;
    note_jobs(ring); /* before CLOSE ends the contexts of stages */
    status = pass(ring, MARK_STEPS, error);
    if (status != STATUS_OK) return status;
    struct footprint_part before = part_of(ledger);
    status = decode(ring, error);
    if (task->jobs > 1) bound_home(ring, before);
    return status;
}

/* --------------------------------------------------------------------------------------------------- ring */

static status_t seat_member(struct ring *ring, const char *directory, const struct split *split,
                            const struct footprint_task *task, int self, struct error *error)
{
    struct seat *seat = &ring->seats[self];
    struct engine *e = &seat->engine;
    *e = (struct engine){.ops = paper_ops(),
                         .carrier = &ring->carrier,
                         .self = self,
                         .members = split->members,
                         .epoch = 1,
                         .decode_memory = task->decode_memory};
    paper_enter(&seat->ledger);
    status_t status = team_create(1, &e->team, error);
    if (status == STATUS_OK) status = model_load(directory, e->ops, e->team, split, self, &e->model, error);
    if (status == STATUS_OK) status = engine_form_stage(e, error);
    if (status == STATUS_OK && (self > 0 || split_width(split) > 1))
        status = stage_create(e, &seat->stage, error);
    if (status != STATUS_OK) return status;
    ring->ranks[self] = (struct footprint){.blocks = e->model->blocks, .weights = part_of(&seat->ledger)};
    return STATUS_OK;
}

static void clear(struct ring *ring)
{
    while (ring->first) {
        struct parcel *p = ring->first;
        ring->first = p->next;
        free(p);
    }
    for (int i = 0; i < ring->job_count; i++) job_destroy(ring->jobs[i]);
    for (int i = 0; i < ring->members; i++) {
        struct seat *seat = &ring->seats[i];
        stage_destroy(seat->stage);
        engine_clear(&seat->engine);
        engine_drop_events(&seat->engine);
        model_destroy(seat->engine.model);
        team_destroy(seat->engine.team);
    }
}

status_t footprint_measure(const char *directory, const struct split *split,
                           const struct footprint_task *task, struct footprint *ranks, struct error *error)
{
    if (task->jobs < 1 || task->jobs > MOST_JOBS)
        return error_set(error, STATUS_INVALID, "%d jobs in flight: must be 1 to %d", task->jobs, MOST_JOBS);
    struct ring ring = {.carrier = {carry}, .members = split->members, .ranks = ranks};
    ring.last = &ring.first;
    ring.seats = calloc((size_t)split->members, sizeof *ring.seats);
    if (!ring.seats) return error_set(error, STATUS_NO_MEMORY, "no memory for %d ranks", split->members);
    status_t status = STATUS_OK;
    for (int i = 0; i < split->members && status == STATUS_OK; i++)
        status = seat_member(&ring, directory, split, task, i, error);
    if (status == STATUS_OK) status = run(&ring, task, error);
    struct seat *seats = ring.seats;
    clear(&ring);
    for (int i = 0; i < split->members; i++) {
        ranks[i].most = seats[i].ledger;
        if (i > 0) ranks[i].stepping = ranks[i].most.most_device;
    }
    free(seats);
    return status;
}

status_t footprint_caching(const char *directory, const struct split *split,
                           const struct footprint_task *task, struct footprint *ranks, struct error *error)
{
    struct job_order plain = *task->order;
    struct footprint_task uncached = *task;
    status_t status = footprint_measure(directory, split, task, ranks, error);
    if (status != STATUS_OK || !plain.cache || !*plain.cache) return status;
    struct footprint *without = calloc((size_t)split->members, sizeof *without);
    if (!without) return error_set(error, STATUS_NO_MEMORY, "no memory for %d ranks", split->members);
    plain.cache = NULL;
    uncached.order = &plain;
    status = footprint_measure(directory, split, &uncached, without, error);
    for (int i = 0; i < split->members && status == STATUS_OK; i++)
        ranks[i].caching = beyond(ranks[i].jobs, without[i].jobs);
    free(without);
    return status;
}

/* -------------------------------------------------------------------------------------------------- split */

/* A straight line: bytes without a block, and of each. */
struct line {
    double none, block;
};

/* What ranks take, as functions of their blocks: straight, since a block is weights, keys and values, and features. Of a
 * home the higher of two: it makes steps, then it decodes, without what only steps need. */
struct lines {
    int layers;
    struct line stepping, decoding, stage;
};

/* Through what `none` blocks and `all` take. */
static struct line line_through(size_t none, size_t all, int blocks)
{
    return (struct line){(double)none, blocks > 0 ? ((double)all - (double)none) / blocks : (double)all};
}

static double line_at(struct line line, int blocks)
{
    return line.none + blocks * line.block;
}

static double home_at(const struct lines *l, int blocks)
{
    double stepping = line_at(l->stepping, blocks), decoding = line_at(l->decoding, blocks);
    return stepping > decoding ? stepping : decoding;
}

static status_t draw_lines(const char *directory, const struct footprint_task *task, struct lines *lines,
                           struct error *error)
{
    struct model_config config;
    struct footprint f[3][2] = {0};
    status_t status = model_config_read(directory, &config, error);
    if (status != STATUS_OK) return status;
    int layers = config.denoiser.layers;
    struct split alone = {.members = 1, .head = layers}, all = {.members = 2, .run = {0, layers}},
                 one = {.members = 2, .head = layers - 1, .run = {0, 1}};
    status = footprint_measure(directory, &alone, task, f[0], error);
    if (status == STATUS_OK) status = footprint_measure(directory, &all, task, f[1], error);
    if (status == STATUS_OK) status = footprint_measure(directory, &one, task, f[2], error);
    if (status != STATUS_OK) return status;
    lines->layers = layers;
    lines->stepping = line_through(f[1][0].stepping, f[0][0].stepping, layers);
    lines->decoding = line_through(f[1][0].decoding, f[0][0].decoding, layers);
    lines->stage = line_through(f[2][1].stepping, f[1][1].stepping, layers - 1);
    lines->stage.none -= lines->stage.block; /* it was that of a stage of one */
    return STATUS_OK;
}

/* The fullest rank, with `blocks` at home and the others' shared among the stages. */
static double fullest(const struct lines *l, int ranks, int blocks)
{
    double home = home_at(l, blocks);
    if (ranks == 1) return home;
    double stage = line_at(l->stage, (l->layers - blocks + ranks - 2) / (ranks - 1));
    return home > stage ? home : stage;
}

static int best_home(const struct lines *l, int ranks)
{
    if (ranks == 1) return l->layers;
    int best = 0;
    for (int blocks = 1; blocks <= l->layers - (ranks - 1); blocks++)
        if (fullest(l, ranks, blocks) < fullest(l, ranks, best)) best = blocks;
    return best;
}

/* landing: of that room, what several ranks need for what they send each other. */
static status_t least_ranks(const struct lines *l, double room, double landing, int *ranks,
                            struct error *error)
{
    int most = l->layers + 1 < SPLIT_MAX_MEMBERS ? l->layers + 1 : SPLIT_MAX_MEMBERS;
    for (int n = 1; n <= most; n++)
        if (fullest(l, n, best_home(l, n)) <= room - (n > 1 ? landing : 0)) {
            *ranks = n;
            return STATUS_OK;
        }
    room -= landing;
    bool home = home_at(l, 0) > room;
    return error_set(
        error, STATUS_NO_MEMORY,
        "no number of ranks fits: %s takes %.2f GB, and there are %.2f GB beside what the backend takes",
        home ? "home without a block" : "a stage of one block",
        (home ? home_at(l, 0) : line_at(l->stage, 1)) / 1e9, room > 0 ? room / 1e9 : 0.0);
}

status_t footprint_split(const char *directory, const struct footprint_task *task, int ranks, size_t memory,
                         size_t beside, size_t landing, struct split *split, struct error *error)
{
    struct lines lines;
    status_t status = draw_lines(directory, task, &lines, error);
    if (status == STATUS_OK && ranks > lines.layers + 1)
        status = error_set(error, STATUS_INVALID, "%d ranks: a model of %d blocks has work for %d", ranks,
                           lines.layers, lines.layers + 1);
    if (status == STATUS_OK && ranks == 0)
        status = least_ranks(&lines, (double)memory - (double)beside, (double)landing, &ranks, error);
    if (status != STATUS_OK) return status;
    *split = (struct split){.members = ranks, .head = best_home(&lines, ranks)};
    for (int i = 1, left = lines.layers - split->head; i < ranks; i++) {
        split->run[i] = (left + ranks - i - 1) / (ranks - i);
        left -= split->run[i];
    }
    return STATUS_OK;
}
