/* tier_thread.c - the tier's thread: reads items from disk, hashes and commits large ones, and tells the coordinator (tier_tell.c).
 * `lock` is held to move a task. */
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "worker/tier_core.h"

static void work_on(struct tier *tier, struct tier_task *task)
{
    struct error error;
    task->reason = MISSES;
    if (task->kind == TASK_READ) {
        store_get(tier->store, &task->key, LEVEL_HOST, &task->view, &task->reason);
        return;
    }
    if (task->kind == TASK_LEND) {
        store_lend(tier->store, &task->key, true, &task->view, &task->reason);
        return;
    }
    if (store_commit(tier->store, &task->draft, NULL, &error) != STATUS_OK)
        log_line(LOG_WARN, "%s", error.text);
}

/* Under the lock, which is let go meanwhile: first what the coordinator is to know, as that is quickly said. */
static void tell(struct tier *tier, bool figures)
{
    struct control *control = tier->control;
    bool anew = tier->anew;
    tier->tell = tier->anew = false;
    tier->telling = true;
    pthread_mutex_unlock(&tier->lock);
    tier_tell_changes(tier, control, anew);
    if (figures || anew) tier_tell_figures(tier, control, anew);
    pthread_mutex_lock(&tier->lock);
    tier->telling = false;
    pthread_cond_broadcast(&tier->quiet);
}

static void work_next(struct tier *tier)
{
    uint64_t one = 1;
    struct tier_task task = tier->todo[tier->todo_first];
    tier->todo_first = (tier->todo_first + 1) % TIER_TASKS;
    tier->todo_count--;
    pthread_mutex_unlock(&tier->lock);
    work_on(tier, &task);
    pthread_mutex_lock(&tier->lock);
    tier->done[(tier->done_first + tier->done_count++) % TIER_TASKS] = task;
    tier->tell = true;
    ssize_t written = write(tier->arrived, &one, sizeof one);
    (void)written; /* a full counter is readable all the same */
}

static void *tier_loop(void *argument)
{
    struct tier *tier = argument;
    int64_t figures_ns = clock_now_ns();
    pthread_mutex_lock(&tier->lock);
    while (tier->todo_count || !tier->stop) {
        int64_t now_ns = clock_now_ns();
        bool due = now_ns >= figures_ns;
        if (tier->control && (tier->tell || due)) {
            if (due) figures_ns = now_ns + TIER_TELL_MS * MILLISECOND_NS;
            tell(tier, due);
        } else if (tier->todo_count) {
            work_next(tier);
        } else if (tier->control) {
            struct timespec until = {figures_ns / SECOND_NS, figures_ns % SECOND_NS};
            pthread_cond_timedwait(&tier->work, &tier->lock, &until);
        } else {
            pthread_cond_wait(&tier->work, &tier->lock);
        }
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

void tier_tell(struct tier *tier)
{
    pthread_mutex_lock(&tier->lock);
    tier->tell = true;
    if (tier->control) pthread_cond_signal(&tier->work);
    pthread_mutex_unlock(&tier->lock);
}

void tier_welcome(struct tier *tier, struct control *control)
{
    if (!tier) return;
    pthread_mutex_lock(&tier->lock);
    while (tier->telling) pthread_cond_wait(&tier->quiet, &tier->lock);
    tier->control = control;
    tier->tell = tier->anew = control != NULL;
    pthread_cond_signal(&tier->work);
    pthread_mutex_unlock(&tier->lock);
}
