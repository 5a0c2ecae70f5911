/*
 * crew_links.c - what is under way between the ranks of a crew, and when it is there: rows on links that carry one after the other, in
 * buffers that a stage waits for; the word that a job begins; and the heap of all that will happen.
 */
#include <math.h>
#include <string.h>
#include "coordinator/foresight/crew_core.h"

/* ------------------------------------------------------------------------------------------------------ events */

/* So that sums of the same times in another order are no other moment. */
static double moment(double at)
{
    return rint(at * NANOSECONDS) / NANOSECONDS;
}

static bool is_sooner(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

/* Room is for all that can be: each rank becomes free once and is woken once, each branch is on its way once, and a job's word to each wide
 * stage. */
void crew_put(struct crew *c, double after, enum event_kind kind, uint32_t rank, struct hop hop)
{
    struct event event = {moment(c->now + after), ++c->orders, kind, rank, hop};
    int at = c->event_count++;
    for (; at > 0 && is_sooner(&event, &c->events[(at - 1) / 2]); at = (at - 1) / 2)
        c->events[at] = c->events[(at - 1) / 2];
    c->events[at] = event;
}

struct event crew_take(struct crew *c)
{
    struct event first = c->events[0], last = c->events[--c->event_count];
    int at = 0;
    for (int child; (child = 2 * at + 1) < c->event_count; at = child) {
        if (child + 1 < c->event_count && is_sooner(&c->events[child + 1], &c->events[child])) child++;
        if (!is_sooner(&c->events[child], &last)) break;
        c->events[at] = c->events[child];
    }
    c->events[at] = last;
    return first;
}

/* ------------------------------------------------------------------------------------------------------- links */

void crew_come(struct crew *c, uint32_t number, struct hop hop)
{
    struct rank *r = &c->ranks[number];
    r->queue[r->queued++] = hop;
}

/* When a link will have carried so much more; *free: when it has nothing to carry. */
static double carry(const struct crew *c, double *free, double seconds)
{
    if (seconds > 0) *free = fmax(*free, c->now) + seconds;
    return seconds > 0 ? *free - c->now : 0;
}

/* Rows leave one after the other: when the last of them are where they belong, from now. behind: seconds of a node's link for what leaves
 * behind its first rank's. */
static double leave_by(struct crew *c, uint32_t from, const struct crew_way *way, double behind)
{
    struct rank *r = &c->ranks[from];
    double near = carry(c, &r->link, way->near), far = carry(c, &r->far_link, way->far);
    r->behind = behind;
    return fmax(near, far) + c->links.latency;
}

/* What a stage has made leaves all its ranks, until then from a buffer. seconds: when the last of it has left, from now. */
static void lend(const struct crew *c, struct rank *r, double seconds, double behind)
{
    memmove(r->lent, r->lent + 1, (STAGE_BUFFERS - 1) * sizeof *r->lent);
    r->lent[STAGE_BUFFERS - 1] =
        (struct lent){.first = moment(c->now + seconds - behind), .all = c->now + seconds};
}

/* Rows that a stage has made: when they are where they belong. */
static double give_by(struct crew *c, uint32_t from, const struct crew_way *way)
{
    double behind = way->far * c->links.behind, seconds = leave_by(c, from, way, behind);
    lend(c, &c->ranks[from], seconds - c->links.latency, behind);
    return seconds;
}

/* The same of something without rows, which goes behind those that its rank has given before. */
static double word_by(const struct crew *c, uint32_t from, const struct crew_way *way)
{
    const struct rank *r = &c->ranks[from];
    if (!way) return c->hop;
    double near = way->near > 0 ? r->link : 0, far = way->far > 0 ? r->far_link - r->behind : 0;
    return fmax(0, fmax(near, far) - c->now) + c->links.latency;
}

/* Home's rows to a stage, one rank's behind the other's, or a stage's to the next one. What a rank gives itself is there at once: before home
 * chooses again. */
void crew_send(struct crew *c, struct hop hop, uint32_t from, uint32_t to, bool first)
{
    const struct crew_links *l = &c->links;
    double seconds = c->hop, behind = 0;
    if (l->deal && first) {
        seconds = leave_by(c, from, &l->deal[to], 0);
        behind = fmax(l->deal[to].near, l->deal[to].far) * l->behind;
    } else if (l->deal) {
        seconds = give_by(c, from, &l->on[from]);
        behind = l->on[from].far * l->behind;
    }
    hop.ready = c->now + (l->deal ? seconds : 0);
    if (from == to) {
        crew_come(c, to, hop);
        return;
    }
    c->ranks[to].coming++;
    crew_put(c, seconds - behind, AT_STAGE, to, hop);
}

/* How long rows are on their way home. own: from the others of home's stage, while home's own link deals. */
double crew_home_in(struct crew *c, uint32_t from, bool own)
{
    const struct crew_way *way = c->links.collect ? &c->links.collect[from] : NULL;
    struct rank *r = &c->ranks[from];
    if (!way) return c->hop;
    if (!own) return give_by(c, from, way);
    r->others_link = c->now + way->near;
    lend(c, r, fmax(way->near, way->far), way->far * c->links.behind);
    return fmax(way->near, way->far) + c->links.latency;
}

/* Has a stage blocks of a job? */
static bool serves(const struct crew *c, const struct job *j, uint32_t rank)
{
    uint32_t blocks = 0;
    for (uint32_t e = 0; e < PLAN_EXPERTS; e++)
        for (uint32_t b = 0; b < j->of.branches; b++) blocks += plan_run(&c->plan, c->plan.chain[e][b], rank);
    return blocks > 0;
}

/* All of them get the word at once, those of home's own stage as well. */
void crew_open_stages(struct crew *c, struct job *j)
{
    uint32_t home = (uint32_t)j->of.home;
    struct hop hop = {.job = (uint8_t)(j - c->jobs), .opens = true};
    for (uint32_t i = 0; i < c->plan.ranks; i++) {
        if (!serves(c, j, i)) continue;
        j->opening++;
        double seconds = word_by(c, home, c->links.deal ? &c->links.deal[i] : NULL);
        if (i == home) {
            crew_put(c, 2 * seconds, AT_HOME, home, hop);
            continue;
        }
        c->ranks[i].coming++;
        crew_put(c, seconds, AT_STAGE, i, hop);
    }
}

void crew_answer(struct crew *c, struct hop hop, uint32_t from)
{
    double seconds = word_by(c, from, c->links.collect ? &c->links.collect[from] : NULL);
    crew_put(c, seconds, AT_HOME, (uint32_t)c->jobs[hop.job].of.home, hop);
}

/* What was made in the oldest buffer must have left. */
bool crew_has_buffer(struct crew *c, uint32_t number)
{
    struct rank *r = &c->ranks[number];
    if (r->queued == 0 || r->lent[0].first <= c->now) return true;
    if (!r->waits) crew_put(c, r->lent[0].first - c->now, SENT, number, (struct hop){0});
    r->waits = true;
    return false;
}

/* Its other ranks begin when they are told, have their rows and a free buffer, and what all of them exchange leaves behind the rows on their
 * links. */
double crew_wait(const struct crew *c, const struct rank *r, const struct hop *hop)
{
    double others = fmax(c->now + c->links.turn, fmax(hop->ready, r->lent[0].all));
    double links = fmax(r->link, r->others_link);
    return fmax(0, fmax(others - c->links.slack, links - c->links.products) - c->now);
}
