/*
 * bench_tier_fabric.c - items from rank to rank beside the fabric's own messages, in one run, turn and turn about.
 *
 *     bench_tier_fabric BUILD [rounds]        BUILD: where refrain-coordinator is
 *
 * Two ranks are two threads of this process (tools/bench/pair.h). What is measured:
 *
 *     latency       an item of 4 KB: from the question to the view; of that from the lease on; beside a message there and
 *                   4 KB back
 *     bandwidth     an item of 16 MB, from the lease on, beside a message of 16 MB and its acknowledgement
 *     slowdown      a ring of two ranks that hand hops to each other and compute, alone and while items are fetched at a
 *                   fifth of the fabric's bandwidth, turn and turn about: once with devices that compute (the ranks' processors
 *                   are free, as with GPUs), where hops a second and what each waited count; once with processors, where
 *                   the processor's time of a hop counts, which other programs do not change much
 *     directory     a million items: memory, look-ups
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include "base/clock.h"
#include "coordinator/tier/directory.h"
#include "tools/bench/pair.h"

enum { KB = 1 << 10, SMALL = 4 * KB, LARGE = PAIR_LARGE, MOST = 4000 };

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_size);
    return count ? values[count / 2] : 0;
}

/* What one round took: seconds, and the processor's time of both ranks. Turn and turn about, so that what else runs on the machine
 * disturbs both alike; ratios are those of the medians. */
struct round {
    double message, message_cpu, asked, leased, item_cpu;
};

/* The number in a struct that many have. */
static double field_of(const void *from, size_t field)
{
    double value;
    memcpy(&value, (const char *)from + field, sizeof value);
    return value;
}

static double median_of(const struct round *rounds, int count, size_t field)
{
    static double values[MOST];
    for (int i = 0; i < count; i++) values[i] = field_of(&rounds[i], field);
    return median(values, count);
}

/* Bytes a second of the fabric's own messages; *cpu_of_byte: what an item takes of processors. */
static double beside_messages(struct pair_rank *r, uint64_t bytes, bool there, int count, const char *name,
                              double *cpu_of_byte)
{
    static struct round rounds[MOST];
    int got = 0;
    for (int i = 0; i < count && i < MOST; i++) {
        struct round *one = &rounds[got];
        double cpu = pair_cpu_seconds();
        one->message = there ? pair_message(r, bytes, 0) : pair_message(r, 64, bytes);
        one->message_cpu = pair_cpu_seconds() - cpu;
        cpu = pair_cpu_seconds();
        got += pair_fetch(r, bytes, &one->asked, &one->leased);
        one->item_cpu = pair_cpu_seconds() - cpu;
    }
#define MEDIAN(field) median_of(rounds, got, offsetof(struct round, field))
    double round_trip = MEDIAN(message), whole = MEDIAN(asked), held = MEDIAN(leased);
    printf("%s: %d of %d fetched\n", name, got, count);
    printf("  the fabric's own           %9.1f us %7.2f GB/s   %.3f ms of CPU\n", round_trip * 1e6,
           (double)bytes / round_trip * 1e-9, MEDIAN(message_cpu) * 1e3);
    printf(
        "  with a lease in hand       %9.1f us %7.2f GB/s   %.2f times the time, %.0f %% of the bandwidth\n",
        held * 1e6, (double)bytes / held * 1e-9, held / round_trip, 100 * round_trip / held);
    printf("  with the directory asked   %9.1f us %7.2f GB/s   %.2f times; %.3f ms of CPU, %.2f times\n",
           whole * 1e6, (double)bytes / whole * 1e-9, whole / round_trip, MEDIAN(item_cpu) * 1e3,
           MEDIAN(item_cpu) / MEDIAN(message_cpu));
    *cpu_of_byte = MEDIAN(item_cpu) / (double)bytes;
    return (double)bytes / round_trip;
}

/* --------------------------------------------------------------------------------------------------- slowdown */

/* One turn of the ring, without items or with some. */
struct spell {
    double hops, cpu, fetched; /* a second each */
    double cpu_of_hop;
    double wait, long_wait; /* of a hop from rank to rank: the median, and what one in a hundred exceeds */
};

/* Items of LARGE bytes come in at `rate` bytes a second meanwhile. */
static struct spell ring(struct pair_rank *r, double seconds, double rate)
{
    int64_t began_ns = clock_now_ns(), until_ns = began_ns + (int64_t)(seconds * 1e9), now_ns;
    uint64_t before = atomic_load(&pair[0].hops) + atomic_load(&pair[1].hops);
    double cpu = pair_cpu_seconds(), fetched = 0;
    struct view view;
    struct tier_query query = {.key = pair_key(LARGE), .tenant = 1};
    bool asking = false;
    atomic_store(&pair_wait_count, 0);
    while ((now_ns = clock_now_ns()) < until_ns) {
        double due = rate * (double)(now_ns - began_ns) * 1e-9;
        if (!asking && fetched < due) query.deadline_ns = now_ns + 5 * SECOND_NS;
        asking |= fetched < due;
        status_t status = asking ? tier_ask(r->tier, &query, &view) : STATUS_AGAIN;
        if (status == STATUS_OK) {
            fetched += LARGE;
            tier_release(r->tier, &view);
            store_forget(tier_store(r->tier), &(struct store_match){.key = &query.key});
        }
        asking &= status == STATUS_AGAIN;
        pair_turn(r, 1);
    }
    double took = (double)(clock_now_ns() - began_ns) * 1e-9;
    double hops = (double)(atomic_load(&pair[0].hops) + atomic_load(&pair[1].hops) - before);
    int count = atomic_load(&pair_wait_count) < PAIR_WAITS ? atomic_load(&pair_wait_count) : PAIR_WAITS;
    static double sorted[PAIR_WAITS];
    for (int i = 0; i < count; i++) sorted[i] = (double)pair_waits[i];
    double middle = median(sorted, count);
    cpu = pair_cpu_seconds() - cpu;
    return (struct spell){.hops = hops / took,
                          .cpu = cpu / took,
                          .fetched = fetched / took,
                          .cpu_of_hop = hops > 0 ? cpu / hops : 0,
                          .wait = middle,
                          .long_wait = count ? sorted[count - 1 - count / 100] : 0};
}

enum { SPELLS = 14 };

/* The median over the spells, of a field, of what is there beside and alone: their ratio. */
static double ratio_of(const struct spell *beside, const struct spell *alone, size_t field)
{
    double values[SPELLS];
    for (int i = 0; i < SPELLS; i++) values[i] = field_of(&beside[i], field) / field_of(&alone[i], field);
    return median(values, SPELLS);
}

static double spells_of(const struct spell *spells, size_t field)
{
    double values[SPELLS];
    for (int i = 0; i < SPELLS; i++) values[i] = field_of(&spells[i], field);
    return median(values, SPELLS);
}

static void run_spells(struct pair_rank *r, enum pair_computing how, double rate, struct spell *alone,
                       struct spell *beside)
{
    const double seconds = 0.4;
    atomic_store(&pair_computing, how);
    for (int i = 0; i < PAIR_HOPS; i++) pair_send_hop(r);
    ring(r, seconds, rate);
    for (int i = 0; i < SPELLS; i++) {
        alone[i] = ring(r, seconds, 0);
        beside[i] = ring(r, seconds, rate);
    }
    atomic_store(&pair_computing, PAIR_NOBODY);
    for (int i = 0; i < 50; i++) pair_turn(r, 5);
}

#define OF(spells, field) spells_of(spells, offsetof(struct spell, field))

static void print_spells(const char *name, const struct spell *spells)
{
    printf(
        "  %-26s %6.0f hops a second, each %4.0f us on its way, one in a hundred above %5.0f us; %.2f CPU\n",
        name, OF(spells, hops), OF(spells, wait) * 1e6, OF(spells, long_wait) * 1e6, OF(spells, cpu));
}

/* `cpu_of_byte`: of the tier, measured with nothing beside it. */
static void slowdown(struct pair_rank *r, double bandwidth, double cpu_of_byte)
{
    static struct spell alone[SPELLS], beside[SPELLS];
    char name[64];
    prctl(PR_SET_TIMERSLACK, 1);
    run_spells(r, PAIR_DEVICES, 0.2 * bandwidth, alone, beside);
    double fetched = OF(beside, fetched);
    snprintf(name, sizeof name, "and %.2f GB/s of items", fetched * 1e-9);
    printf("two ranks whose devices compute %d ms for each hop of %d KB, %d turns\n",
           PAIR_COMPUTE_NS / 1000000, PAIR_HOP / KB, SPELLS);
    print_spells("alone", alone);
    print_spells(name, beside);
    printf("  items at %.0f %% of the link: %.1f %% fewer hops (the bar: 2 %%, and what the tier takes of "
           "processors: %.1f %% of two)\n",
           100 * fetched / bandwidth, 100 * (1 - ratio_of(beside, alone, offsetof(struct spell, hops))),
           100 * (OF(beside, cpu) - OF(alone, cpu)) / PAIR);
    run_spells(r, PAIR_PROCESSORS, 0.2 * bandwidth, alone, beside);
    fetched = OF(beside, fetched);
    double items = fetched * cpu_of_byte / OF(beside, hops);
    snprintf(name, sizeof name, "and %.2f GB/s of items", fetched * 1e-9);
    printf("two ranks whose processors do\n");
    print_spells("alone", alone);
    print_spells(name, beside);
    printf("  items at %.0f %% of the link: %.3f ms of CPU a hop, not %.3f; items by themselves take %.3f of "
           "that: %.1f %% more than both (the "
           "bar: 2 %%)\n",
           100 * fetched / bandwidth, OF(beside, cpu_of_hop) * 1e3, OF(alone, cpu_of_hop) * 1e3, items * 1e3,
           100 * (ratio_of(beside, alone, offsetof(struct spell, cpu_of_hop)) - 1 -
                  items / OF(alone, cpu_of_hop)));
}

/* -------------------------------------------------------------------------------------------------- directory */

static void directory(void)
{
    enum { ITEMS = 1000000 };
    struct directory *d;
    struct directory_stats stats;
    struct directory_lease lease;
    struct error error;
    if (directory_open(8, DIRECTORY_ITEMS, &d, &error) != STATUS_OK) pair_stop("directory", &error);
    int64_t began_ns = clock_now_ns();
    for (uint64_t i = 0; i < ITEMS; i++)
        directory_note(d, i % 8,
                       &(struct directory_item){.key = pair_key(i), .bytes = 1, .xxh3 = i, .seconds = 1});
    double note = (double)(clock_now_ns() - began_ns) / ITEMS;
    began_ns = clock_now_ns();
    for (uint64_t i = 0; i < ITEMS; i++) {
        struct key key = pair_key((i * 7919) % ITEMS);
        if (directory_lease(d, &key, 9, 0, SECOND_NS, &lease)) directory_end(d, lease.number, false);
    }
    double found = (double)(clock_now_ns() - began_ns) / ITEMS;
    began_ns = clock_now_ns();
    for (uint64_t i = 0; i < ITEMS; i++) {
        struct key key = pair_key(ITEMS + i);
        directory_lease(d, &key, 9, 0, SECOND_NS, &lease);
    }
    double absent = (double)(clock_now_ns() - began_ns) / ITEMS;
    directory_stats(d, &stats);
    began_ns = clock_now_ns();
    directory_drop(d, 3);
    double drop = (double)(clock_now_ns() - began_ns) * 1e-6;
    printf("directory of %" PRIu64 " items, of 8 ranks: %.1f bytes an item\n", stats.items,
           (double)stats.bytes / (double)stats.items);
    printf("  note %.0f ns, lease and its end %.0f ns, nobody has it %.0f ns, a rank is lost %.1f ms\n", note,
           found, absent, drop);
    directory_close(d);
}

/* ------------------------------------------------------------------------------------------------------- main */

int main(int count, char **words)
{
    struct scratch scratch;
    struct error error;
    int rounds = count > 2 ? atoi(words[2]) : 300;
    if (count < 2 || rounds < 1) {
        fprintf(stderr, "usage: bench_tier_fabric BUILD [rounds]\n");
        return 2;
    }
    if (scratch_open("/tmp", "refrain-bench-tier", &scratch, &error) != STATUS_OK)
        pair_stop("scratch", &error);
    bool open = pair_open(words[1], scratch.path);
    pair_put(&pair[1], SMALL, SMALL);
    pair_put(&pair[1], LARGE, LARGE);
    if (!open || !pair_start()) {
        fprintf(stderr, "bench_tier_fabric: the ranks do not come together\n");
        return 1;
    }
    double cpu_of_byte;
    beside_messages(&pair[0], SMALL, false, rounds, "4 KB", &cpu_of_byte);
    double bandwidth = beside_messages(&pair[0], LARGE, true, rounds / 5 + 1, "16 MB", &cpu_of_byte);
    slowdown(&pair[0], bandwidth, cpu_of_byte);
    directory();
    pair_close();
    scratch_close(&scratch);
    return 0;
}
