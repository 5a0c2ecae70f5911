/* joblist.c - see joblist.h. Plain data, no thread of its own. */
#include "coordinator/jobs/joblist.h"

#include <stdlib.h>
#include <string.h>
#include "coordinator/jobs/jobs.h"

void joblist_free(struct joblist *list)
{
    free(list->slots);
    *list = (struct joblist){0};
}

struct job *joblist_at(const struct joblist *list, size_t index)
{
    return list->slots[list->begin + index];
}

/* Binary search: also says how many jobs are ahead. */
size_t joblist_rank(const struct joblist *list, uint64_t id)
{
    size_t low = 0, high = list->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (joblist_at(list, middle)->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct job *joblist_find(const struct joblist *list, uint64_t id)
{
    size_t rank = joblist_rank(list, id);
    return rank < list->count && joblist_at(list, rank)->id == id ? joblist_at(list, rank) : NULL;
}

/* Separate from insertion, so that a job changes its state in the store only when its place in memory is
 * sure. */
bool joblist_reserve(struct joblist *list)
{
    if (list->begin + list->count < list->capacity) return true;
    if (list->begin > list->count) { /* more than half was taken off the head: move down instead of growing */
        memmove(list->slots, list->slots + list->begin, list->count * sizeof *list->slots);
        list->begin = 0;
        return true;
    }
    size_t capacity = list->capacity ? 2 * list->capacity : 64;
    struct job **slots = realloc(list->slots, capacity * sizeof *slots);
    if (!slots) return false;
    list->slots = slots;
    list->capacity = capacity;
    return true;
}

/* Mostly at the end; a job that comes back after a loss goes to its old place near the front. */
void joblist_insert(struct joblist *list, struct job *job)
{
    size_t rank = joblist_rank(list, job->id);
    struct job **at = list->slots + list->begin + rank;
    memmove(at + 1, at, (list->count - rank) * sizeof *at);
    *at = job;
    list->count++;
}

/* Mostly at the front, which moves nothing. */
void joblist_remove(struct joblist *list, const struct job *job)
{
    size_t rank = joblist_rank(list, job->id);
    if (rank == list->count || joblist_at(list, rank) != job) return;
    struct job **at = list->slots + list->begin + rank;
    list->count--;
    if (rank == 0)
        list->begin++;
    else
        memmove(at, at + 1, (list->count - rank) * sizeof *at);
}
