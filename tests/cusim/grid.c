/* grid.c - a launch: its blocks one after another, or shared out over the OS threads of a crew that stays.
 * One launch at a time has the crew; others that run meanwhile (on other streams) do without. */
#include "tests/cusim/block.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { CREW_MAX = 64 };

struct launch {
    struct cusim_kernel *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    const void *arguments;
    uint64_t seed;
    _Atomic uint64_t taken; /* blocks */
};

static _Atomic uint64_t seed;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int hands;             /* OS threads, without those that launch */
    bool busy;             /* somebody's launch has the crew */
    struct launch *launch; /* what to work on */
    uint64_t number;       /* of that launch: each hand takes part once */
    int working;
} crew = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* --- blocks --------------------------------------------------------------------------------------------- */

static void run_blocks(struct launch *launch)
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
    for (uint64_t i; (i = launch->taken++) < blocks;) {
        uint64_t at = launch->seed == 1 ? blocks - 1 - i : i;
        block_run(block, (uint3){(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y),
                                 (unsigned)(at / grid.x / grid.y)});
    }
    kernels_gather(launch->kernel, block);
}

/* --- the crew ------------------------------------------------------------------------------------------- */

static void *hand_main(void *unused)
{
    uint64_t done = 0;
    (void)unused;
    pthread_mutex_lock(&crew.lock);
    for (;;) {
        while (!crew.launch || crew.number == done) pthread_cond_wait(&crew.changed, &crew.lock);
        struct launch *launch = crew.launch;
        done = crew.number;
        crew.working++;
        pthread_mutex_unlock(&crew.lock);
        run_blocks(launch);
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
    while (crew.hands < hands && crew.hands < CREW_MAX &&
           pthread_create(&thread, NULL, hand_main, NULL) == 0) {
        pthread_detach(thread);
        crew.hands++;
    }
}

static void settle(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_settings);
}

static bool crew_call(struct launch *launch)
{
    pthread_mutex_lock(&crew.lock);
    bool ours = !crew.busy && crew.hands > 0;
    if (ours) {
        crew.busy = true;
        crew.launch = launch;
        crew.number++;
        pthread_cond_broadcast(&crew.changed);
    }
    pthread_mutex_unlock(&crew.lock);
    return ours;
}

/* A hand that has not begun by now finds no blocks left, and need not come. */
static void crew_dismiss(void)
{
    pthread_mutex_lock(&crew.lock);
    crew.launch = NULL;
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
    struct launch launch = {kernel, grid, block, shared_bytes, arguments, seed, 0};
    bool helped = (uint64_t)grid.x * grid.y * grid.z > 1 && crew_call(&launch);
    run_blocks(&launch);
    if (helped) crew_dismiss();
    kernels_launched(kernel);
}
