/* crew.c - see crew.h. Pure but for its memory. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/foresight/crew_core.h"

/* Pieces that home's own blocks are cut into where there are more of them. */
enum { OWN_PARTS = 16 };

#define LEAST 1e-9 /* seconds of a piece: what takes no time ends none */
#define FINE  0.01 /* of the time so far that a step takes by itself: finer than that is not played */

/* ------------------------------------------------------------------------------------------------------ blocks */

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t expert_of(const struct job *j)
{
    return j->of.done >= j->of.first_steps;
}

static uint32_t chain_of(const struct crew *c, const struct job *j, int branch)
{
    return c->plan.chain[expert_of(j)][branch];
}

static uint32_t run_begin(const struct crew *c, uint32_t chain, uint32_t rank)
{
    return c->first[chain * c->plan.ranks + rank];
}

static uint32_t run_end(const struct crew *c, uint32_t chain, uint32_t rank)
{
    return run_begin(c, chain, rank) + plan_run(&c->plan, chain, rank);
}

static bool is_cap(const struct crew *c, uint32_t block)
{
    return block < c->plan.head || block >= c->plan.layers - c->plan.tail;
}

/* The rank whose run has a block of the ring. */
static uint32_t holder_of(const struct crew *c, uint32_t chain, uint32_t block)
{
    uint32_t rank = 0;
    while (rank + 1 < c->plan.ranks && run_end(c, chain, rank) <= block) rank++;
    return rank;
}

static bool is_hop(const struct crew *c, uint32_t chain, uint32_t block, uint32_t home)
{
    return !is_cap(c, block) && (c->whole || holder_of(c, chain, block) != home);
}

/* What a policy may skip begins and ends there. */
static uint32_t span_end(const struct crew *c, const struct job *j)
{
    return c->plan.layers - smaller(j->of.tail, c->plan.layers);
}

static bool has_span(const struct crew *c, const struct job *j)
{
    return j->of.cached && j->of.head < span_end(c, j);
}

/* Up to where a branch needs nothing else: the policy's word, or the end. */
static uint32_t next_stop(const struct crew *c, const struct job *j, uint32_t at)
{
    if (!has_span(c, j)) return c->plan.layers;
    return at < j->of.head ? j->of.head : at < span_end(c, j) ? span_end(c, j) : c->plan.layers;
}

/* Blocks [from, to) of the steps that this one stands for. */
static double blocks_seconds(const struct crew *c, const struct job *j, uint32_t from, uint32_t to)
{
    uint32_t all = to - from, skipped = 0;
    if (has_span(c, j)) {
        uint32_t begin = from > j->of.head ? from : j->of.head, end = smaller(to, span_end(c, j));
        skipped = end > begin ? end - begin : 0;
    }
    return j->of.block * ((all - skipped) * (double)j->made + skipped * (double)j->missed);
}

/* How many blocks home takes a branch through before it is sent to another rank; `layers`: it is not. */
static uint32_t blocks_to_hop(const struct crew *c, const struct job *j, int branch)
{
    const struct branch *b = &j->branch[branch];
    uint32_t chain = chain_of(c, j, branch), home = (uint32_t)j->of.home, from = b->state == NEW ? 0 : b->at;
    uint32_t block = from > c->plan.head ? from : c->plan.head, end = c->plan.layers - c->plan.tail;
    if (block >= run_begin(c, chain, home) && block < run_end(c, chain, home))
        block = run_end(c, chain, home);
    return block < end && from < end ? block - from : c->plan.layers;
}

/* ------------------------------------------------------------------------------------------------------- moves */

/* So many hops of this priority and above a home has out: worker/job_step.c, window_open. */
static bool window_open(const struct crew *c, const struct job *j, uint32_t chain)
{
    const struct rank *home = &c->ranks[j->of.home];
    uint32_t out = 0, stages = 0;
    if (c->wide) {
        for (uint32_t k = 0; k < PLAN_CHAINS; k++)
            for (int p = 0; p < PRIORITIES; p++) out += home->out[k][p];
        return out < (uint32_t)wide_hops((int)c->plan.ranks); /* each of which stands for a stage */
    }
    for (int p = j->of.priority; p < PRIORITIES; p++) out += home->out[chain][p];
    if (c->plan.floating) return out < HOPS_PER_STAGE + 1;
    for (uint32_t i = 1; i < c->plan.ranks; i++) stages += plan_run(&c->plan, chain, i) > 0;
    return out < HOPS_PER_STAGE * stages;
}

static struct move branch_act(int branch, enum job_piece piece, enum act act)
{
    return (struct move){.piece = piece, .act = act, .branch = branch};
}

/* Of a branch whose next block is for the stages. */
static struct move away_move(const struct crew *c, const struct job *j, int branch)
{
    const struct branch *b = &j->branch[branch];
    uint32_t chain = chain_of(c, j, branch);
    bool open = window_open(c, j, chain);
    if (c->plan.spare > 0 && b->at < run_end(c, chain, 0) + c->plan.spare) {
        const struct rank *stage = &c->ranks[holder_of(c, chain, b->at)];
        bool full = stage->coming + (uint32_t)stage->queued >= SPARE_QUEUE;
        if (full || !open) return branch_act(branch, PIECE_SPARE, ACT_BLOCKS);
    }
    return branch_act(branch, open ? PIECE_SEND : PIECE_NONE, ACT_SEND);
}

static struct move branch_move(const struct crew *c, const struct job *j, int branch)
{
    const struct branch *b = &j->branch[branch];
    if (b->state == AWAY || b->state == DONE) return branch_act(branch, PIECE_NONE, ACT_SEND);
    if (b->state == NEW) return branch_act(branch, PIECE_LIGHT, ACT_BEGIN);
    if (b->inside && b->at == span_end(c, j)) return branch_act(branch, PIECE_LIGHT, ACT_LEAVE);
    if (b->at == c->plan.layers) return branch_act(branch, PIECE_LIGHT, ACT_OUTPUT);
    bool span = has_span(c, j);
    if (span && b->at == j->of.head && !b->asked) return branch_act(branch, PIECE_LIGHT, ACT_ENTER);
    if (is_hop(c, chain_of(c, j, branch), b->at, (uint32_t)j->of.home)) return away_move(c, j, branch);
    bool always = span && (b->at < j->of.head || b->at >= span_end(c, j));
    return branch_act(branch, always ? PIECE_LIGHT : PIECE_BLOCKS, ACT_BLOCKS);
}

/* worker/job_step.c, urgency: what brings a hop to another rank nearest. */
static uint32_t urgency(const struct crew *c, const struct job *j, const struct move *move)
{
    if (move->piece == PIECE_NONE || move->piece == PIECE_SPARE) return move->piece == PIECE_SPARE;
    return 2 + 2 * (c->plan.layers - blocks_to_hop(c, j, move->branch)) + (move->piece == PIECE_SEND);
}

static struct move step_move(const struct crew *c, const struct job *j)
{
    struct move best = {.piece = PIECE_NONE};
    uint32_t most = 0, done = 0, away = 0;
    if (j->opening > 0) return best;
    if (!j->begun) return branch_act(0, PIECE_LIGHT, ACT_STEP);
    for (uint32_t b = 0; b < j->of.branches; b++) {
        done += j->branch[b].state == DONE;
        away += j->branch[b].state == AWAY;
    }
    if (done == j->of.branches) return branch_act(0, PIECE_LIGHT, ACT_FINISH);
    if (away + done == j->of.branches) return best;
    for (uint32_t b = 0; b < j->of.branches; b++) {
        struct move move = branch_move(c, j, (int)b);
        uint32_t wanted = urgency(c, j, &move);
        if (wanted > most) best = move, most = wanted;
    }
    return best;
}

static struct move job_move(const struct crew *c, const struct job *j)
{
    int other = c->ranks[j->of.home].decodes;
    switch (j->of.phase) {
    case CREW_TEXT:
        return branch_act(0, PIECE_TEXT, ACT_PIECE);
    case CREW_STEPS:
        return step_move(c, j);
    case CREW_DECODE: {
        bool free = other < 0 || &c->jobs[other] == j || j->of.priority > c->jobs[other].of.priority;
        return branch_act(0, free ? PIECE_DECODE : PIECE_NONE, ACT_PIECE);
    }
    default:
        return branch_act(0, PIECE_FILES, ACT_PIECE);
    }
}

/* What a move takes, of the one that is chosen. */
struct effort {
    double seconds;
    uint64_t work;
    uint32_t blocks;
};

/* How far home takes a branch in one piece. */
static uint32_t own_end(const struct crew *c, const struct job *j, const struct move *move)
{
    uint32_t at = j->branch[move->branch].at, end = at + (c->exact ? 0 : c->plan.layers / OWN_PARTS) + 1;
    if (move->piece == PIECE_SPARE) return at + 1;
    if (!is_cap(c, at))
        end = smaller(end, run_end(c, chain_of(c, j, move->branch), (uint32_t)j->of.home));
    else
        end = smaller(end, at < c->plan.head ? c->plan.head : c->plan.layers);
    return smaller(end, next_stop(c, j, at));
}

/* A frame, or some of a film: what worker/job_finish.c charges. */
static uint64_t frame_work(const struct crew *c, const struct job *j)
{
    return (uint64_t)FRAME_PASSES * (j->of.tokens / j->frames) * c->plan.layers;
}

static struct effort effort_of(const struct crew *c, const struct job *j, const struct move *move)
{
    const struct branch *b = &j->branch[move->branch];
    uint64_t small = ((uint64_t)j->of.tokens / SMALL_PARTS + 1) * j->made;
    switch (move->act) {
    case ACT_BEGIN:
        return (struct effort){.seconds = j->of.begin * j->made, .work = small};
    case ACT_OUTPUT:
        return (struct effort){.seconds = j->of.end * j->made, .work = small};
    case ACT_BLOCKS: {
        uint32_t end = own_end(c, j, move);
        return (struct effort){.seconds = blocks_seconds(c, j, b->at, end) * c->ranks[j->of.home].pace,
                               .blocks = end - b->at,
                               .work = (uint64_t)j->of.tokens * (end - b->at) * j->made};
    }
    case ACT_PIECE:
        if (move->piece == PIECE_TEXT) return (struct effort){.seconds = j->of.text.seconds, .work = 1};
        return (struct effort){.seconds =
                                   move->piece == PIECE_DECODE ? j->of.frames.seconds : j->of.files.seconds,
                               .work = frame_work(c, j)};
    default: /* next to nothing */
        return (struct effort){.work = small};
    }
}

/* The next piece at home, of job *job; PIECE_NONE: its jobs wait. */
static struct move choose_move(const struct crew *c, const struct rank *rank, int *job,
                               struct candidate *chosen)
{
    struct candidate candidates[CREW_JOBS];
    struct move moves[CREW_JOBS];
    int jobs[CREW_JOBS], count = 0;
    for (int i = 0; i < rank->jobs; i++) {
        const struct job *j = &c->jobs[rank->at_home[i]];
        struct move move = job_move(c, j);
        if (move.piece == PIECE_NONE) continue;
        moves[count] = move;
        jobs[count] = rank->at_home[i];
        candidates[count++] =
            (struct candidate){.piece = move.piece,
                               .priority = j->of.priority,
                               .due_ms = j->of.due > c->now ? (int64_t)(1000 * j->of.due) + 1 : 0,
                               .arrival = j->arrival,
                               .account = j->account};
    }
    int best = turn_choose(rank->turn, candidates, count);
    if (best < 0) return (struct move){.piece = PIECE_NONE};
    *chosen = candidates[best];
    *job = jobs[best];
    return moves[best];
}

/* --------------------------------------------------------------------------------------------------- a job goes on */

static uint32_t count_missed(const struct job *j)
{
    uint32_t missed = 0;
    for (uint32_t i = j->of.done; i < j->of.done + j->made; i++) missed += !(j->of.skips[i / 8] >> i % 8 & 1);
    return missed;
}

/* Spread evenly; but at first there is nothing to reuse. */
static uint32_t guess_missed(struct job *j, uint32_t expert)
{
    j->owed += j->made * (1 - j->of.hits[expert]);
    uint32_t missed = (uint32_t)fmax(j->of.done == 0 || j->of.done == j->of.first_steps,
                                     fmin(j->made, floor(j->owed + 0.5)));
    j->owed -= missed;
    return missed;
}

/* The later it is, the less a step is of the time that it took to come there. */
static uint32_t grain_of(const struct crew *c, const struct job *j)
{
    double step = j->of.block * c->plan.layers * j->of.branches;
    double fine = step > 0 ? FINE * c->now / step : 0;
    return c->grain > fine ? c->grain : (uint32_t)fmin(fine, 1000);
}

/* As many steps as the grain has, and of one expert. */
static void begin_step(const struct crew *c, struct job *j)
{
    uint32_t expert = expert_of(j),
             left = (expert ? j->of.steps : smaller(j->of.first_steps, j->of.steps)) - j->of.done;
    j->made = smaller(left, grain_of(c, j));
    j->missed = j->made;
    if (j->of.cached) j->missed = j->of.skips ? count_missed(j) : guess_missed(j, expert);
    j->begun = true;
    for (uint32_t b = 0; b < j->of.branches; b++) j->branch[b] = (struct branch){.state = NEW};
}

/* What the policy says: the branch is taken through, or goes on behind what is skipped. */
static void enter_span(const struct crew *c, struct job *j, struct branch *b)
{
    b->asked = true;
    b->inside = j->missed > 0;
    if (!b->inside) b->at = span_end(c, j);
}

static void enter_phase(struct crew *c, struct job *j)
{
    bool text = j->of.phase == CREW_TEXT;
    if (j->of.phase == CREW_TEXT && j->of.text.count == 0) j->of.phase = CREW_STEPS;
    if (j->of.phase == CREW_STEPS && j->of.done >= j->of.steps) j->of.phase = CREW_DECODE;
    if (j->of.phase == CREW_DECODE && j->of.frames.count == 0) j->of.phase = CREW_FILES;
    if (c->wide && text && j->of.phase == CREW_STEPS) crew_open_stages(c, j);
}

static void end_step(struct crew *c, struct job *j)
{
    j->begun = false;
    j->of.done += j->made;
    enter_phase(c, j);
}

/* One piece of text, decoding or files. True: it was the job's last. */
static bool end_piece(struct crew *c, struct job *j)
{
    struct rank *home = &c->ranks[j->of.home];
    if (j->of.phase == CREW_FILES) return j->of.files.count <= 1 || (j->of.files.count--, false);
    struct crew_pieces *pieces = j->of.phase == CREW_TEXT ? &j->of.text : &j->of.frames;
    if (--pieces->count > 0) return false;
    if (j->of.phase == CREW_DECODE) home->decodes = -1;
    enter_phase(c, j);
    return false;
}

static void leave(struct crew *c, struct job *j)
{
    struct rank *home = &c->ranks[j->of.home];
    int at = 0;
    turn_leave(home->turn, j->account);
    while (home->at_home[at] != j - c->jobs) at++;
    home->at_home[at] = home->at_home[--home->jobs];
    j->of.number = 0;
    c->count--;
}

/* ------------------------------------------------------------------------------------------------------ ranks at work */

static void come_home(struct crew *c, struct hop hop)
{
    struct job *j = &c->jobs[hop.job];
    if (hop.opens) {
        j->opening--;
        return;
    }
    uint32_t chain = chain_of(c, j, hop.branch);
    c->ranks[j->of.home].out[chain][j->of.priority]--;
    j->branch[hop.branch].state = HERE;
}

static void send_first(struct crew *c, int job, const struct move *move, struct candidate *chosen)
{
    struct job *j = &c->jobs[job];
    struct branch *b = &j->branch[move->branch];
    uint32_t chain = chain_of(c, j, move->branch), home = (uint32_t)j->of.home;
    b->until = smaller(next_stop(c, j, b->at), c->plan.layers - c->plan.tail);
    b->state = AWAY;
    c->ranks[home].out[chain][j->of.priority]++;
    turn_charge(c->ranks[home].turn, chosen, (uint64_t)j->of.tokens * (b->until - b->at) * j->made);
    crew_send(c, (struct hop){.job = (uint8_t)job, .branch = (uint8_t)move->branch}, home,
              holder_of(c, chain, b->at), true);
}

static bool end_move(struct crew *c, struct rank *r, uint64_t *ended);

/* What takes no time is done at once. */
static void begin_move(struct crew *c, struct rank *r, uint32_t number, int job, const struct move *move,
                       struct candidate *chosen)
{
    struct effort effort = effort_of(c, &c->jobs[job], move);
    if (move->piece == PIECE_DECODE) r->decodes = job;
    turn_charge(r->turn, chosen, effort.work);
    int64_t ns = effort.seconds > LEAST ? (int64_t)(NANOSECONDS * effort.seconds) : 0;
    share_charge_home(&r->share, move->piece, ns);
    r->job = job;
    r->move = *move;
    r->blocks = effort.blocks;
    if (effort.seconds <= 0) {
        end_move(c, r, NULL);
        return;
    }
    r->busy = true;
    r->at_stage = false;
    crew_put(c, effort.seconds, FREE, number, (struct hop){0});
}

/* worker/stage.c, goes_before. */
static bool goes_before(const struct crew *c, const struct job *a, const struct job *b)
{
    if (a->of.priority != b->of.priority) return a->of.priority > b->of.priority;
    return c->plan.floating && share_elder(a->of.age, b->of.age, c->plan.ranks);
}

static int next_hop(const struct crew *c, const struct rank *r)
{
    int best = -1;
    for (int i = 0; i < r->queued; i++)
        if (best < 0 || goes_before(c, &c->jobs[r->queue[i].job], &c->jobs[r->queue[best].job])) best = i;
    return best;
}

static void begin_hop(struct crew *c, struct rank *r, uint32_t number, int at)
{
    struct hop hop = r->queue[at];
    memmove(&r->queue[at], &r->queue[at + 1], (size_t)(--r->queued - at) * sizeof *r->queue);
    if (hop.opens) {
        crew_answer(c, hop, number);
        return;
    }
    struct job *j = &c->jobs[hop.job];
    struct branch *b = &j->branch[hop.branch];
    uint32_t end = smaller(b->until, run_end(c, chain_of(c, j, hop.branch), number));
    double seconds = blocks_seconds(c, j, b->at, end) * r->pace;
    seconds += crew_wait(c, r, &hop);
    share_charge_stage(&r->share, (int64_t)(NANOSECONDS * seconds));
    r->busy = r->at_stage = true;
    r->hop = hop;
    crew_put(c, seconds, FREE, number, hop);
}

/* What a rank that is free does next, as worker/rank.c has it. */
static void go_on(struct crew *c, uint32_t number)
{
    struct rank *r = &c->ranks[number];
    while (!r->busy) {
        struct candidate chosen;
        struct move move = {.piece = PIECE_NONE};
        int job = 0;
        if (r->home) move = choose_move(c, r, &job, &chosen);
        int hop = crew_has_buffer(c, number) ? next_hop(c, r) : -1;
        int at_stage = hop < 0 ? -1 : c->jobs[r->queue[hop].job].of.priority;
        if (move.piece == PIECE_NONE || at_stage < 0) share_settle(&r->share);
        if (share_home_first(&r->share, move.piece, move.piece == PIECE_NONE ? 0 : chosen.priority,
                             at_stage)) {
            if (move.act == ACT_SEND)
                send_first(c, job, &move, &chosen);
            else
                begin_move(c, r, number, job, &move, &chosen);
        } else if (at_stage >= 0) {
            begin_hop(c, r, number, hop);
        } else {
            return;
        }
    }
}

static void end_hop(struct crew *c, struct rank *r, uint32_t number)
{
    struct hop hop = r->hop;
    struct job *j = &c->jobs[hop.job];
    struct branch *b = &j->branch[hop.branch];
    uint32_t chain = chain_of(c, j, hop.branch), home = (uint32_t)j->of.home;
    b->at = smaller(b->until, run_end(c, chain, number));
    if (b->at < b->until)
        crew_send(c, hop, number, holder_of(c, chain, b->at), false);
    else if (number == home && !c->wide)
        come_home(c, hop);
    else
        crew_put(c, crew_home_in(c, number, number == home), AT_HOME, home, hop);
}

/* True: a job ended. */
static bool end_move(struct crew *c, struct rank *r, uint64_t *ended)
{
    struct move *move = &r->move;
    struct job *j = &c->jobs[r->job];
    struct branch *b = &j->branch[move->branch];
    switch (move->act) {
    case ACT_STEP:
        begin_step(c, j);
        return false;
    case ACT_BEGIN:
        b->state = HERE;
        return false;
    case ACT_ENTER:
        enter_span(c, j, b);
        return false;
    case ACT_BLOCKS:
        b->at += r->blocks;
        return false;
    case ACT_LEAVE:
        b->inside = false;
        return false;
    case ACT_OUTPUT:
        b->state = DONE;
        return false;
    case ACT_FINISH:
        end_step(c, j);
        return false;
    default:
        if (!end_piece(c, j)) return false;
        *ended = j->of.number;
        leave(c, j);
        return true;
    }
}

/* What comes at the same time comes before the choice: a rank looks at what has arrived first. */
static void let_go_on(struct crew *c, uint32_t number)
{
    struct rank *r = &c->ranks[number];
    if (!r->idle) c->idle[c->idle_count++] = number;
    r->idle = true;
    if (c->event_count > 0 && c->events[0].at <= c->now) return;
    uint32_t count = c->idle_count;
    c->idle_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        c->ranks[c->idle[i]].idle = false;
        go_on(c, c->idle[i]);
    }
}

bool crew_step(struct crew *c, uint64_t *number)
{
    struct event event = crew_take(c);
    struct rank *r = &c->ranks[event.rank];
    bool ended = false;
    c->now = event.at;
    if (event.kind == AT_STAGE) {
        r->coming--;
        crew_come(c, event.rank, event.hop);
    } else if (event.kind == AT_HOME) {
        come_home(c, event.hop);
    } else if (event.kind == SENT) {
        r->waits = false;
    } else {
        r->busy = false;
        if (r->at_stage)
            end_hop(c, r, event.rank);
        else
            ended = end_move(c, r, number);
    }
    let_go_on(c, event.rank);
    return ended;
}

/* ------------------------------------------------------------------------------------------------------- life */

/* Each run's first block, chain by chain. */
static void find_runs(struct crew *c)
{
    for (uint32_t chain = 0; chain < plan_chains(&c->plan); chain++) {
        uint32_t at = c->plan.head;
        for (uint32_t i = 0; i < c->plan.ranks; i++) {
            c->first[chain * c->plan.ranks + i] = at;
            at += plan_run(&c->plan, chain, i);
        }
    }
}

struct crew *crew_open(const struct crew_layout *layout, uint32_t grain)
{
    struct crew *c = calloc(1, sizeof *c);
    uint32_t ranks = layout->plan->ranks;
    if (!c) return NULL;
    c->plan = *layout->plan;
    c->wide = layout->wide;
    c->whole = layout->wide || c->plan.floating;
    c->exact = layout->exact;
    c->hop = layout->hop;
    if (layout->links) c->links = *layout->links;
    c->newest = layout->newest;
    c->grain = grain;
    c->first = calloc((size_t)ranks * PLAN_CHAINS, sizeof *c->first);
    c->ranks = calloc(ranks, sizeof *c->ranks);
    c->events =
        calloc(2 * (size_t)ranks + HOPS + (layout->wide ? (size_t)ranks * CREW_JOBS : 0), sizeof *c->events);
    c->idle = calloc(ranks, sizeof *c->idle);
    if (!c->first || !c->ranks || !c->events || !c->idle) goto fail;
    find_runs(c);
    for (uint32_t i = 0; i < ranks; i++) {
        struct rank *r = &c->ranks[i];
        r->pace = layout->pace ? layout->pace[i] : 1;
        r->home = i == 0 || c->plan.floating;
        r->decodes = -1;
        if (r->home && !(r->turn = calloc(1, sizeof *r->turn))) goto fail;
    }
    return c;
fail:
    crew_close(c);
    return NULL;
}

void crew_close(struct crew *c)
{
    if (!c) return;
    for (uint32_t i = 0; c->ranks && i < c->plan.ranks; i++) free(c->ranks[i].turn);
    free(c->first);
    free(c->ranks);
    free(c->events);
    free(c->idle);
    free(c);
}

/* coordinator/schedule.c, choose_home. */
static int choose_home(const struct crew *c)
{
    uint32_t best = 0, least = UINT32_MAX;
    for (uint32_t rank = 0; c->plan.floating && rank < c->plan.ranks; rank++) {
        uint32_t jobs = (uint32_t)c->ranks[rank].jobs;
        if (jobs < least) best = rank, least = jobs;
    }
    return (int)best;
}

bool crew_add(struct crew *c, const struct crew_job *job, double now)
{
    struct job *j = NULL;
    for (int i = 0; i < CREW_JOBS && !j; i++)
        if (c->jobs[i].of.number == 0) j = &c->jobs[i];
    if (!j) return false;
    c->now = now;
    *j = (struct job){
        .of = *job, .arrival = ++c->arrivals, .frames = job->frames.count > 0 ? job->frames.count : 1};
    struct crew_job *of = &j->of;
    if (of->home < 0 || (uint32_t)of->home >= c->plan.ranks || !c->ranks[of->home].home)
        of->home = choose_home(c);
    of->priority = of->priority < 0 ? 0 : of->priority < PRIORITIES ? of->priority : PRIORITIES - 1;
    of->branches = of->branches < BRANCHES ? 1 : BRANCHES;
    of->head = smaller(of->head, c->plan.layers);
    of->tail = smaller(of->tail, c->plan.layers - of->head);
    struct rank *home = &c->ranks[of->home];
    home->at_home[home->jobs++] = (uint8_t)(j - c->jobs);
    of->text.seconds = fmax(of->text.seconds, LEAST);
    of->frames.seconds = fmax(of->frames.seconds, LEAST);
    of->files.seconds = fmax(of->files.seconds, LEAST);
    if (of->age == 0) of->age = c->newest + 1;
    if (of->age > c->newest) c->newest = of->age;
    j->account = turn_join(c->ranks[of->home].turn, job->tenant ? job->tenant : "");
    c->count++;
    enter_phase(c, j);
    go_on(c, (uint32_t)of->home);
    return true;
}

uint32_t crew_count(const struct crew *c)
{
    return c->count;
}

uint32_t crew_urgent(const struct crew *c, int priority)
{
    uint32_t count = 0;
    for (int i = 0; i < CREW_JOBS; i++)
        count += c->jobs[i].of.number != 0 && c->jobs[i].of.priority >= priority;
    return count;
}

double crew_next(const struct crew *c)
{
    return c->event_count > 0 ? c->events[0].at : INFINITY;
}

double crew_now(const struct crew *c)
{
    return c->now;
}
