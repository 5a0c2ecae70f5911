/* tier_thread.c - the tier's thread: reads items from disk, hashes and commits large ones. It calls the store, and
 * nothing else; `lock` is held to move a task. */
#include <unistd.h>
#include "worker/tier_core.h"

static void work_on(struct tier *tier, struct tier_task *task)
{
    struct error error;
    task->reason = MISSES;
    if (task->kind == TASK_READ) {
        store_get(tier->store, &task->key, LEVEL_HOST, &task->view, &task->reason);
        return;
    }
    const uint64_t *announced = task->fetch >= 0 ? &task->announced : NULL;
    if (store_commit(tier->store, &task->draft, announced, &error) != STATUS_OK)
        task->reason = MISS_SPOILED;
    else if (announced)
        store_fetched(tier->store, &task->key, LEVEL_HOST, &task->view, &task->reason);
}

static void *tier_loop(void *argument)
{
    struct tier *tier = argument;
    uint64_t one = 1;
    pthread_mutex_lock(&tier->lock);
    for (;;) {
        if (!tier->todo_count && tier->stop) break;
        if (!tier->todo_count) {
            pthread_cond_wait(&tier->work, &tier->lock);
            continue;
        }
        struct tier_task task = tier->todo[tier->todo_first];
        tier->todo_first = (tier->todo_first + 1) % TIER_TASKS;
        tier->todo_count--;
        pthread_mutex_unlock(&tier->lock);
        work_on(tier, &task);
        pthread_mutex_lock(&tier->lock);
        tier->done[(tier->done_first + tier->done_count++) % TIER_TASKS] = task;
        ssize_t written = write(tier->arrived, &one, sizeof one);
        (void)written; /* a full counter is readable all the same */
    }
    pthread_mutex_unlock(&tier->lock);
    return NULL;
}

status_t tier_thread_start(struct tier *tier, struct error *error)
{
    if (pthread_create(&tier->thread, NULL, tier_loop, tier) != 0)
        return error_set(error, STATUS_NO_MEMORY, "the cache tier's thread cannot be made");
    tier->thread_runs = true;
    return STATUS_OK;
}

void tier_thread_stop(struct tier *tier)
{
    if (!tier->thread_runs) return;
    pthread_mutex_lock(&tier->lock);
    tier->stop = true;
    pthread_cond_signal(&tier->work);
    pthread_mutex_unlock(&tier->lock);
    pthread_join(tier->thread, NULL);
    tier->thread_runs = false;
}

bool tier_give(struct tier *tier, const struct tier_task *task)
{
    if (tier->tasks == TIER_TASKS) return false;
    tier->tasks++;
    pthread_mutex_lock(&tier->lock);
    tier->todo[(tier->todo_first + tier->todo_count++) % TIER_TASKS] = *task;
    pthread_cond_signal(&tier->work);
    pthread_mutex_unlock(&tier->lock);
    return true;
}

bool tier_take(struct tier *tier, struct tier_task *task)
{
    pthread_mutex_lock(&tier->lock);
    bool some = tier->done_count > 0;
    if (some) {
        *task = tier->done[tier->done_first];
        tier->done_first = (tier->done_first + 1) % TIER_TASKS;
        tier->done_count--;
        tier->tasks--;
    }
    pthread_mutex_unlock(&tier->lock);
    return some;
}
