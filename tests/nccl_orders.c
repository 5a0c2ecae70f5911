/* nccl_orders.c - see nccl_orders.h. One thread. */
#include "tests/nccl_orders.h"

#include <glob.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A line of a log: one end of a transfer. */
struct call {
    uint64_t epoch, number, bytes, stamp; /* number: which of its edge */
    int from, to, member, process, place; /* place: in its process's log */
    int transfer;                         /* both ends have the same */
    bool done;
};

struct orders {
    struct call *calls;
    int count, room, processes, transfers;
};

static struct {
    int transfers, processes;
} seen;

static int compare_ends(const void *a, const void *b)
{
    const struct call *x = a, *y = b;
    if (x->epoch != y->epoch) return x->epoch < y->epoch ? -1 : 1;
    if (x->from != y->from) return x->from - y->from;
    if (x->to != y->to) return x->to - y->to;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    return x->member - y->member;
}

static int compare_places(const void *a, const void *b)
{
    const struct call *x = a, *y = b;
    return x->process != y->process ? x->process - y->process : x->place - y->place;
}

static bool same_transfer(const struct call *x, const struct call *y)
{
    return x->epoch == y->epoch && x->from == y->from && x->to == y->to && x->number == y->number;
}

/* Which call of its edge, among those of its process. */
static uint64_t number_of(const struct orders *o, const struct call *call)
{
    for (int i = o->count - 1; i >= 0; i--) {
        const struct call *c = &o->calls[i];
        if (c->process != call->process) break;
        if (c->epoch == call->epoch && c->from == call->from && c->to == call->to) return c->number + 1;
    }
    return 0;
}

static bool add_call(struct orders *o, struct call call)
{
    if (o->count == o->room) {
        o->room = o->room ? 2 * o->room : 256;
        struct call *more = realloc(o->calls, (size_t)o->room * sizeof *more);
        if (!more) return false;
        o->calls = more;
    }
    call.number = number_of(o, &call);
    o->calls[o->count++] = call;
    return true;
}

/* The call of that edge, process and stamp, if it is not done; NULL: there is none. *count: how many of the edge are not. */
static struct call *outstanding_call(struct orders *o, const struct call *like, int *count)
{
    struct call *found = NULL;
    *count = 0;
    for (int i = o->count - 1; i >= 0 && o->calls[i].process == like->process; i--) {
        struct call *c = &o->calls[i];
        if (c->done || c->epoch != like->epoch || c->from != like->from || c->to != like->to) continue;
        if (c->stamp == like->stamp && c->bytes == like->bytes) found = c;
        ++*count;
    }
    return found;
}

/* A line: a call, or the end of one. NULL, or what is wrong with it. */
static const char *take_line(struct orders *o, const struct call *line, const char *verb)
{
    bool outward = line->member == line->from, done = strcmp(verb, outward ? "sent" : "received") == 0;
    int outstanding;
    struct call *call = outstanding_call(o, line, &outstanding);
    if (line->member != line->from && line->member != line->to) return "is of neither end";
    if (!done && strcmp(verb, outward ? "send" : "receive") != 0) return "does not fit its end";
    if (done && !call) return "ends a transfer that was not called";
    if (done) call->done = true;
    if (!done && outstanding == NCCL_ORDERS_MOST)
        return "makes more transfers outstanding at once than allowed";
    return done || add_call(o, *line) ? NULL : "does not fit into memory";
}

/* The last line of a killed process may be cut off: it is ignored. */
static bool read_log(struct orders *o, const char *path, char *why, size_t bytes)
{
    char line[256], verb[16];
    FILE *file = fopen(path, "re");
    int place = 0;
    const char *wrong = file ? NULL : "cannot be opened";
    while (!wrong && fgets(line, sizeof line, file) && strchr(line, '\n')) {
        struct call c = {.process = o->processes, .place = place++};
        bool whole = sscanf(line, "%" SCNu64 " %d %15s %d %d %" SCNu64 " %" SCNu64, &c.epoch, &c.member, verb,
                            &c.from, &c.to, &c.bytes, &c.stamp) == 7;
        wrong = whole ? take_line(o, &c, verb) : "cannot be read";
    }
    if (wrong) snprintf(why, bytes, "%s: line %d %s", path, place, wrong);
    if (file) fclose(file);
    o->processes++;
    return !wrong;
}

/* Numbers the transfers, and compares both ends of each. */
static bool pair_ends(struct orders *o, char *why, size_t bytes)
{
    qsort(o->calls, (size_t)o->count, sizeof *o->calls, compare_ends);
    for (int i = 0; i < o->count; i++) {
        struct call *c = &o->calls[i], *other = i > 0 ? c - 1 : NULL;
        bool second = other && same_transfer(c, other);
        c->transfer = second ? other->transfer : o->transfers++;
        if (second && (c->bytes != other->bytes || c->stamp != other->stamp || c->member == other->member)) {
            snprintf(why, bytes,
                     "epoch %" PRIu64 ", transfer %" PRIu64 " from %d to %d: %" PRIu64
                     " bytes with stamp %" PRIu64 " on member %d, %" PRIu64 " bytes with stamp %" PRIu64
                     " on member %d",
                     c->epoch, c->number, c->from, c->to, other->bytes, other->stamp, other->member, c->bytes,
                     c->stamp, c->member);
            return false;
        }
    }
    return true;
}

/* Takes away transfers that nothing comes before, until none is left (Kahn, 1962). */
static bool find_no_cycle(struct orders *o, char *why, size_t bytes)
{
    qsort(o->calls, (size_t)o->count, sizeof *o->calls, compare_places);
    int *before = calloc((size_t)o->transfers + 1, sizeof *before), left = o->transfers;
    bool *gone = calloc((size_t)o->transfers + 1, sizeof *gone), moved = true;
    bool well = before && gone;
#define FOLLOWS(i) ((i) + 1 < o->count && o->calls[i].process == o->calls[(i) + 1].process)
    for (int i = 0; well && i < o->count; i++)
        if (FOLLOWS(i)) before[o->calls[i + 1].transfer]++;
    while (well && left > 0 && moved) {
        moved = false;
        for (int i = 0; i < o->count; i++) {
            int t = o->calls[i].transfer;
            if (gone[t] || before[t] > 0) continue;
            gone[t] = moved = true;
            left--;
            for (int k = 0; k < o->count; k++)
                if (o->calls[k].transfer == t && FOLLOWS(k)) before[o->calls[k + 1].transfer]--;
        }
    }
#undef FOLLOWS
    for (int i = 0; well && left > 0 && i < o->count; i++) {
        const struct call *c = &o->calls[i];
        if (gone[c->transfer]) continue;
        snprintf(why, bytes,
                 "%d transfers wait for each other in a circle, one is epoch %" PRIu64
                 ", %d to %d, number %" PRIu64,
                 left, c->epoch, c->from, c->to, c->number);
        well = false;
    }
    free(before);
    free(gone);
    return well;
}

bool nccl_orders_check(const char *directory, char *why, size_t bytes)
{
    struct orders o = {0};
    char pattern[512];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/orders.*", directory);
    snprintf(why, bytes, "%s: there are no logs of orders", directory);
    if (glob(pattern, 0, NULL, &found) != 0) return false;
    bool well = true;
    for (size_t i = 0; well && i < found.gl_pathc; i++) well = read_log(&o, found.gl_pathv[i], why, bytes);
    globfree(&found);
    if (o.count > 0) well = well && pair_ends(&o, why, bytes) && find_no_cycle(&o, why, bytes);
    seen.transfers = o.transfers;
    seen.processes = o.processes;
    free(o.calls);
    return well;
}

void nccl_orders_seen(int *transfers, int *processes)
{
    *transfers = seen.transfers;
    *processes = seen.processes;
}
