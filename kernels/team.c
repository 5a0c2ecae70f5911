/*
 * team.c - a fork-join team of threads: tasks from an atomic counter, a short spin, then sleep in a futex.
 *
 * Threads: team_run belongs to one caller at a time; the workers run worker_main and nothing else. No locks:
 * one 64-bit word, `state`, holds the generation (which team_run) and how many of its tasks nobody has taken
 * yet. A task is taken by a compare-and-swap on the whole word, so a worker that wakes up late can never take
 * a task of a later run with the arguments of an earlier one, and the caller never has to wait for workers
 * that slept through a run.
 *
 * The arguments of a run are written before its generation is published and stay until its last task has
 * ended; a worker may read torn ones in between, but then its compare-and-swap fails and it throws them away.
 */
#include "kernels/team.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How often an idle thread looks before it sleeps. A pause is 40 to 140 cycles: 20 to 60 us in all, longer
 * than the gap between two ops of a step and much shorter than the time slice of a thread that wants this
 * core. */
enum { SPIN_LOOKS = 2000, CACHE_LINE = 64 };

struct worker {
    struct team *team;
    pthread_t thread;
    void *scratch;
};

struct team {
    int threads;
    int spin_looks; /* 0 where there are more threads than cores: spinning would keep the others from working
                     */
    void *scratch;  /* [threads][TEAM_SCRATCH_BYTES]; the caller's is the first */
    struct worker *workers; /* [threads - 1] */
    int started;            /* how many of them run */
    void *device;           /* a backend's own */

    /* written by the caller before each run */
    _Atomic(team_task_fn *) run;
    _Atomic(void *) arguments;
    atomic_int tasks;
    atomic_bool stop;

    /* shared by all, each on a line of its own */
    _Alignas(CACHE_LINE) _Atomic uint64_t state; /* generation << 32 | tasks not yet taken */
    _Alignas(CACHE_LINE) _Atomic uint32_t done;  /* tasks that have ended; the caller sleeps on it */
    atomic_bool caller_sleeps;
    _Alignas(CACHE_LINE) _Atomic uint32_t bell; /* workers sleep on it; rung only while some do */
    atomic_int sleepers;
};

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static inline uint32_t generation_of(uint64_t state)
{
    return (uint32_t)(state >> 32);
}

/* Takes and runs tasks of `generation` until none is left. Task numbers rise, so neighbours share what they
 * read. */
static void run_tasks(struct team *team, uint32_t generation, void *scratch)
{
    uint64_t state = atomic_load_explicit(&team->state, memory_order_acquire);
    while (generation_of(state) == generation && (uint32_t)state > 0) {
        team_task_fn *run = atomic_load_explicit(&team->run, memory_order_relaxed);
        void *arguments = atomic_load_explicit(&team->arguments, memory_order_relaxed);
        uint32_t tasks = (uint32_t)atomic_load_explicit(&team->tasks, memory_order_relaxed);
        uint32_t left = (uint32_t)state;
        if (!atomic_compare_exchange_weak_explicit(&team->state, &state, state - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        run(arguments, (int)(tasks - left), scratch);
        /* Both sides of the sleeping protocol are sequentially consistent: either the caller sees this count,
         * or this thread sees that the caller sleeps. */
        if (atomic_fetch_add(&team->done, 1) + 1 == tasks && atomic_load(&team->caller_sleeps))
            futex_wake_all(&team->done);
        state = atomic_load_explicit(&team->state, memory_order_acquire);
    }
}

/* Returns the generation that follows `seen`, spinning first and sleeping then. */
static uint32_t await_generation(struct team *team, uint32_t seen)
{
    for (int look = 0; look < team->spin_looks; look++) {
        uint32_t now = generation_of(atomic_load_explicit(&team->state, memory_order_acquire));
        if (now != seen) return now;
        pause_briefly();
    }
    atomic_fetch_add(&team->sleepers, 1);
    uint32_t now;
    for (;;) {
        uint32_t bell =
            atomic_load(&team->bell); /* before the look: a ring in between makes the wait return */
        now = generation_of(atomic_load(&team->state));
        if (now != seen) break;
        futex_wait(&team->bell, bell);
    }
    atomic_fetch_sub(&team->sleepers, 1);
    return now;
}

static void *worker_main(void *argument)
{
    struct worker *self = argument;
    struct team *team = self->team;
    for (uint32_t seen = 0;;) {
        seen = await_generation(team, seen);
        if (atomic_load_explicit(&team->stop, memory_order_acquire)) return NULL;
        run_tasks(team, seen, self->scratch);
    }
}

/* Opens a new generation with `tasks` tasks and returns its number; wakes whoever sleeps. */
static uint32_t publish(struct team *team, int tasks)
{
    uint32_t generation = generation_of(atomic_load_explicit(&team->state, memory_order_relaxed)) + 1;
    atomic_store(&team->state, (uint64_t)generation << 32 | (uint32_t)tasks);
    if (atomic_load(&team->sleepers) > 0) {
        atomic_fetch_add(&team->bell, 1);
        futex_wake_all(&team->bell);
    }
    return generation;
}

static void await_done(struct team *team, uint32_t tasks)
{
    for (int look = 0; look < team->spin_looks; look++) {
        if (atomic_load_explicit(&team->done, memory_order_acquire) == tasks) return;
        pause_briefly();
    }
    atomic_store(&team->caller_sleeps, true);
    uint32_t done;
    while ((done = atomic_load(&team->done)) != tasks) futex_wait(&team->done, done);
    atomic_store(&team->caller_sleeps, false);
}

void team_run(struct team *team, int tasks, team_task_fn *run, void *arguments)
{
    if (team->threads == 1 || tasks <= 1) {
        for (int task = 0; task < tasks; task++) run(arguments, task, team->scratch);
        return;
    }
    atomic_store_explicit(&team->run, run, memory_order_relaxed);
    atomic_store_explicit(&team->arguments, arguments, memory_order_relaxed);
    atomic_store_explicit(&team->tasks, tasks, memory_order_relaxed);
    atomic_store_explicit(&team->done, 0, memory_order_relaxed);
    uint32_t generation = publish(team, tasks);
    run_tasks(team, generation, team->scratch);
    await_done(team, (uint32_t)tasks);
}

int team_threads(const struct team *team)
{
    return team->threads;
}

void team_set_device(struct team *team, void *device)
{
    team->device = device;
}

void *team_device(const struct team *team)
{
    return team->device;
}

/* Cores this process may run on; a container or mpirun's binding may allow fewer than the machine has. */
static int cores_allowed(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return INT_MAX; /* more than 1024 cores: surely enough */
    return CPU_COUNT(&set);
}

/* Workers take no signals: those belong to the threads that wait for them. */
static int start_worker(struct worker *worker)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&worker->thread, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

status_t team_create(int threads, struct team **result, struct error *error)
{
    if (threads < 1 || threads > TEAM_MAX_THREADS)
        return error_set(error, STATUS_INVALID, "threads: %d is not in 1..%d", threads, TEAM_MAX_THREADS);

    struct team *team = aligned_alloc(CACHE_LINE, sizeof *team);
    if (!team) goto no_memory;
    *team = (struct team){.threads = threads, .spin_looks = threads > cores_allowed() ? 0 : SPIN_LOOKS};

    /* Aligned to its size, so that a thread's scratch can be one huge page: tiles hop through all of it. */
    size_t bytes = (size_t)threads * TEAM_SCRATCH_BYTES;
    team->scratch = aligned_alloc(TEAM_SCRATCH_BYTES, bytes);
    if (!team->scratch) goto no_memory;
    madvise(team->scratch, bytes, MADV_HUGEPAGE); /* a wish; nothing depends on it */

    team->workers = calloc((size_t)threads, sizeof *team->workers);
    if (!team->workers) goto no_memory;
    for (int i = 0; i < threads - 1; i++) {
        team->workers[i].team = team;
        team->workers[i].scratch = (char *)team->scratch + (size_t)(i + 1) * TEAM_SCRATCH_BYTES;
        int failed = start_worker(&team->workers[i]);
        if (failed) {
            team_destroy(team);
            return error_set(error, STATUS_NO_MEMORY, "thread %d of %d could not be started: error %d", i + 2,
                             threads, failed);
        }
        team->started++;
    }
    *result = team;
    return STATUS_OK;

no_memory:
    team_destroy(team);
    return error_set(error, STATUS_NO_MEMORY, "no memory for a team of %d threads", threads);
}

void team_destroy(struct team *team)
{
    if (!team) return;
    if (team->started > 0) {
        atomic_store(&team->stop, true);
        publish(team, 0);
        for (int i = 0; i < team->started; i++) pthread_join(team->workers[i].thread, NULL);
    }
    free(team->workers);
    free(team->scratch);
    free(team);
}
