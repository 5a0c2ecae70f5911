/*
 * joblist.h - a list of borrowed jobs, sorted by number.
 *
 * Numbers only grow, so new jobs go to the end and nothing moves; the head is taken off without moving the
 * rest. A job's place in the list (how many are before it) is a binary search. One thread.
 */
#ifndef REFRAIN_COORDINATOR_JOBS_JOBLIST_H
#define REFRAIN_COORDINATOR_JOBS_JOBLIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct job;

struct joblist {
    struct job **slots; /* [capacity]; jobs are slots[begin .. begin + count) */
    size_t begin, count, capacity;
};

void joblist_free(struct joblist *list);                    /* the list, not the jobs */
bool joblist_reserve(struct joblist *list);                 /* room for one more; false without memory */
void joblist_insert(struct joblist *list, struct job *job); /* after joblist_reserve: cannot fail */
void joblist_remove(struct joblist *list, const struct job *job);  /* fine if it is not there */
size_t joblist_rank(const struct joblist *list, uint64_t id);      /* jobs with a smaller number */
struct job *joblist_find(const struct joblist *list, uint64_t id); /* or NULL */
struct job *joblist_at(const struct joblist *list, size_t index);

#endif
