/* directory.c - see directory.h. Runs on the coordinator's loop thread. Entries are chained by the hash of their key. */
#include "coordinator/tier/directory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NOBODY   UINT16_MAX
#define NO_ENTRY UINT32_MAX

struct noted { /* a line of the processor's cache */
    struct key key;
    uint64_t bytes, xxh3;
    float seconds;
    uint32_t next;                       /* in its chain, or among the unused */
    uint16_t holders[DIRECTORY_HOLDERS]; /* the first ones; the rest is NOBODY. None: the entry is unused */
};
_Static_assert(sizeof(struct noted) == 64, "what docs/tier.md says an entry takes");

struct lease {
    uint64_t number; /* 0: free */
    int64_t until_ns;
    uint32_t holder, entry;
    struct key key; /* the entry may be another's by now */
};

struct directory {
    struct noted *entries; /* [items], mapped, touched as needed */
    uint32_t *chains;      /* [items]: entry + 1, 0 is empty; likewise */
    uint32_t items, fresh, unused, hand, live;
    uint64_t copies, asked, answered, overwritten;
    uint64_t leases_given;
    uint32_t ranks, leases_out;
    uint32_t *leased; /* [ranks]: leases out on each */
    struct lease leases[DIRECTORY_LEASES];
};

static void *map(size_t bytes)
{
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

status_t directory_open(uint32_t ranks, uint32_t items, struct directory **directory, struct error *error)
{
    struct directory *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for a directory of the cache tier");
    made->items = items;
    made->ranks = ranks;
    made->unused = NO_ENTRY;
    made->entries = map(items * sizeof *made->entries);
    made->chains = map(items * sizeof *made->chains);
    made->leased = calloc(ranks, sizeof *made->leased);
    if (!made->entries || !made->chains || !made->leased) {
        directory_close(made);
        return error_set(error, STATUS_NO_MEMORY, "no memory for a directory of %u items", items);
    }
    *directory = made;
    return STATUS_OK;
}

void directory_close(struct directory *d)
{
    if (!d) return;
    if (d->entries) munmap(d->entries, d->items * sizeof *d->entries);
    if (d->chains) munmap(d->chains, d->items * sizeof *d->chains);
    free(d->leased);
    free(d);
}

/* -------------------------------------------------------------------------------------------------- entries */

static uint32_t *chain_of(const struct directory *d, const struct key *key)
{
    /* low is a hash already; the tenant's is another. */
    return &d->chains[(key->low ^ key->tenant ^ key->kind) & (d->items - 1)];
}

static struct noted *find(const struct directory *d, const struct key *key)
{
    for (uint32_t at = *chain_of(d, key); at; at = d->entries[at - 1].next)
        if (key_equal(&d->entries[at - 1].key, key)) return &d->entries[at - 1];
    return NULL;
}

static void unlink_entry(struct directory *d, uint32_t index)
{
    struct noted *entry = &d->entries[index];
    uint32_t *at = chain_of(d, &entry->key);
    while (*at != index + 1) at = &d->entries[*at - 1].next;
    *at = entry->next;
    for (int i = 0; i < DIRECTORY_HOLDERS; i++) d->copies -= entry->holders[i] != NOBODY;
    for (int i = 0; i < DIRECTORY_HOLDERS; i++) entry->holders[i] = NOBODY;
    entry->next = d->unused;
    d->unused = index;
    d->live--;
}

static struct noted *add(struct directory *d, const struct directory_item *item)
{
    if (d->unused == NO_ENTRY && d->fresh == d->items) {
        /* Entries are given out and used again in turn: the hand is at the one noted longest ago, or near it. */
        unlink_entry(d, d->hand++ & (d->items - 1));
        d->overwritten++;
    }
    uint32_t index = d->unused;
    if (index == NO_ENTRY)
        index = d->fresh++;
    else
        d->unused = d->entries[index].next;
    struct noted *entry = &d->entries[index];
    uint32_t *chain = chain_of(d, &item->key);
    *entry = (struct noted){.key = item->key, .next = *chain};
    memset(entry->holders, 0xff, sizeof entry->holders);
    *chain = index + 1;
    d->live++;
    return entry;
}

void directory_note(struct directory *d, uint32_t rank, const struct directory_item *item)
{
    struct noted *entry = find(d, &item->key);
    if (rank >= d->ranks) return;
    if (!entry) entry = add(d, item);
    /* Of a new one nobody is a holder yet. */
    if (entry->xxh3 != item->xxh3 || entry->bytes != item->bytes) {
        for (int i = 0; i < DIRECTORY_HOLDERS; i++) d->copies -= entry->holders[i] != NOBODY;
        memset(entry->holders, 0xff, sizeof entry->holders);
    }
    entry->bytes = item->bytes;
    entry->xxh3 = item->xxh3;
    entry->seconds = item->seconds;
    for (int i = 0; i < DIRECTORY_HOLDERS; i++) {
        if (entry->holders[i] == rank) return;
        if (entry->holders[i] != NOBODY) continue;
        entry->holders[i] = (uint16_t)rank;
        d->copies++;
        return;
    }
}

/* True: the entry went with its last holder. */
static bool leave(struct directory *d, struct noted *entry, uint32_t rank)
{
    int last = DIRECTORY_HOLDERS - 1, at = 0;
    while (at <= last && entry->holders[at] != rank) at++;
    if (at > last) return false;
    while (last > at && entry->holders[last] == NOBODY) last--;
    if (last == 0) {
        unlink_entry(d, (uint32_t)(entry - d->entries));
        return true;
    }
    entry->holders[at] = entry->holders[last];
    entry->holders[last] = NOBODY;
    d->copies--;
    return false;
}

void directory_gone(struct directory *d, uint32_t rank, const struct key *key)
{
    struct noted *entry = find(d, key);
    if (entry) leave(d, entry, rank);
}

void directory_drop(struct directory *d, uint32_t rank)
{
    for (uint32_t i = 0; i < d->fresh; i++)
        if (d->entries[i].holders[0] != NOBODY) leave(d, &d->entries[i], rank);
}

/* --------------------------------------------------------------------------------------------------- leases */

static void lease_over(struct directory *d, struct lease *lease)
{
    if (!lease->number) return;
    d->leased[lease->holder]--;
    d->leases_out--;
    lease->number = 0;
}

bool directory_lease(struct directory *d, const struct key *key, uint32_t asker, int64_t now_ns,
                     int64_t patience_ns, struct directory_lease *lease)
{
    d->asked++;
    struct noted *entry = find(d, key);
    struct lease *place = &d->leases[(d->leases_given + 1) % DIRECTORY_LEASES];
    struct lease *next = &d->leases[(d->leases_given + 2) % DIRECTORY_LEASES];
    if (next->number && now_ns >= next->until_ns) lease_over(d, next);
    if (place->number && now_ns < place->until_ns) return false;
    lease_over(d, place);
    uint32_t best = NOBODY;
    for (int i = 0; entry && i < DIRECTORY_HOLDERS && entry->holders[i] != NOBODY; i++)
        if (entry->holders[i] != asker && (best == NOBODY || d->leased[entry->holders[i]] < d->leased[best]))
            best = entry->holders[i];
    if (best == NOBODY) return false;
    *place = (struct lease){.number = ++d->leases_given,
                            .until_ns = now_ns + patience_ns,
                            .holder = best,
                            .entry = (uint32_t)(entry - d->entries),
                            .key = *key};
    d->leased[best]++;
    d->leases_out++;
    d->answered++;
    *lease = (struct directory_lease){.number = place->number,
                                      .holder = best,
                                      .item = {entry->key, entry->bytes, entry->xxh3, entry->seconds}};
    return true;
}

void directory_end(struct directory *d, uint64_t number, bool stale)
{
    struct lease *lease = &d->leases[number % DIRECTORY_LEASES];
    if (number == 0 || lease->number != number) return;
    struct noted *entry = &d->entries[lease->entry];
    if (stale && entry->holders[0] != NOBODY && key_equal(&entry->key, &lease->key))
        leave(d, entry, lease->holder);
    lease_over(d, lease);
}

void directory_stats(const struct directory *d, struct directory_stats *stats)
{
    *stats = (struct directory_stats){.items = d->live,
                                      .copies = d->copies,
                                      .bytes = d->fresh * sizeof *d->entries +
                                               (uint64_t)d->items * sizeof *d->chains,
                                      .leases = d->leases_out,
                                      .asked = d->asked,
                                      .answered = d->answered,
                                      .overwritten = d->overwritten};
}

bool directory_knows(const struct directory *d, const struct key *key, struct directory_item *item)
{
    const struct noted *entry = find(d, key);
    if (entry) *item = (struct directory_item){entry->key, entry->bytes, entry->xxh3, entry->seconds};
    return entry != NULL;
}

int directory_holders(const struct directory *d, const struct key *key, uint32_t *ranks, int most,
                      uint64_t *bytes)
{
    const struct noted *entry = find(d, key);
    int count = 0;
    for (int i = 0; entry && i < DIRECTORY_HOLDERS && count < most && entry->holders[i] != NOBODY; i++)
        ranks[count++] = entry->holders[i];
    if (count && bytes) *bytes = entry->bytes;
    return count;
}

void directory_list(const struct directory *d,
                    bool (*told)(void *context, const struct directory_item *item, const uint16_t *ranks,
                                 int count),
                    void *context)
{
    for (uint32_t i = d->fresh; i-- > 0;) {
        const struct noted *entry = &d->entries[i];
        int count = 0;
        while (count < DIRECTORY_HOLDERS && entry->holders[count] != NOBODY) count++;
        struct directory_item item = {entry->key, entry->bytes, entry->xxh3, entry->seconds};
        if (count && !told(context, &item, entry->holders, count)) return;
    }
}
