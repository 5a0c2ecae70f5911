/* grid.c - a launch: its blocks one after another, or shared out over the OS threads of a crew that stays.
 * One launch at a time has the crew; others that run meanwhile (on other streams) do without. */
#include "tests/cusim/block.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { CREW_MAX = 64 };

struct launch {
    struct cusim_kernel *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    const void *arguments;
    uint64_t seed;
    unsigned shares; /* block i is of share i % shares: fixed, so that a race shows every time */
};

static _Atomic uint64_t seed;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int hands;                   /* OS threads, without those that launch */
    bool busy;                   /* somebody's launch has the crew */
    const struct launch *launch; /* what to work on */
    uint64_t number;             /* of that launch: each hand takes its share once */
    int working;                 /* hands that are not done with it */
    _Atomic int waited_for;      /* hands that have not begun */
} crew = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* --- blocks --------------------------------------------------------------------------------------------- */

static void run_blocks(const struct launch *launch, unsigned share)
{
    struct block *block = block_here();
    block->place.dim = launch->block;
    block->place.grid = launch->grid;
    block->kernel = launch->kernel;
    block->arguments = launch->arguments;
    block->seed = launch->seed;
    shared_prepare(block, launch->shared_bytes);
    dim3 grid = launch->grid;
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i = share; i < blocks; i += launch->shares) {
        uint64_t at = launch->seed == 1 ? blocks - 1 - i : i;
        block_run(block, (uint3){(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y),
                                 (unsigned)(at / grid.x / grid.y)});
    }
    kernels_gather(launch->kernel, block);
}

/* --- the crew ------------------------------------------------------------------------------------------- */

static void *hand_main(void *number)
{
    unsigned share = (unsigned)(uintptr_t)number;
    uint64_t done = 0;
    pthread_mutex_lock(&crew.lock);
    for (;;) {
        while (crew.number == done) pthread_cond_wait(&crew.changed, &crew.lock);
        const struct launch *launch = crew.launch;
        done = crew.number;
        pthread_mutex_unlock(&crew.lock);
        crew.waited_for--;
        run_blocks(launch, share);
        pthread_mutex_lock(&crew.lock);
        crew.working--;
        pthread_cond_broadcast(&crew.changed);
    }
    return NULL;
}

static void read_settings(void)
{
    const char *text = getenv("REFRAIN_CUSIM_SEED");
    if (text) seed = strtoull(text, NULL, 10);
    text = getenv("REFRAIN_CUSIM_THREADS");
    int hands = text ? atoi(text) - 1 : 0;
    pthread_t thread;
    while (crew.hands < hands && crew.hands < CREW_MAX) {
        void *share = (void *)(uintptr_t)(crew.hands + 1);
        if (pthread_create(&thread, NULL, hand_main, share) != 0) break;
        pthread_detach(thread);
        crew.hands++;
    }
}

static void settle(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_settings);
}

/* Returns when every hand has begun. From there to the end of the blocks nobody takes the lock: the race
 * checker would take that for an order of the kernel's. */
static bool crew_call(struct launch *launch)
{
    pthread_mutex_lock(&crew.lock);
    bool ours = !crew.busy && crew.hands > 0;
    if (ours) {
        launch->shares = (unsigned)crew.hands + 1;
        crew.busy = true;
        crew.launch = launch;
        crew.number++;
        crew.waited_for = crew.working = crew.hands;
        pthread_cond_broadcast(&crew.changed);
    }
    pthread_mutex_unlock(&crew.lock);
    while (ours && crew.waited_for) sched_yield();
    return ours;
}

static void crew_dismiss(void)
{
    pthread_mutex_lock(&crew.lock);
    while (crew.working) pthread_cond_wait(&crew.changed, &crew.lock);
    crew.busy = false;
    pthread_mutex_unlock(&crew.lock);
}

/* --- the calls ------------------------------------------------------------------------------------------ */

void cusim_set_seed(uint64_t to)
{
    settle();
    seed = to;
}

void cusim_run(struct cusim_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes, const void *arguments)
{
    settle();
    statics_find(kernel);
    struct launch launch = {kernel, grid, block, shared_bytes, arguments, seed, 1};
    bool helped = (uint64_t)grid.x * grid.y * grid.z > 1 && crew_call(&launch);
    run_blocks(&launch, 0);
    if (helped) crew_dismiss();
    kernels_launched(kernel);
}
