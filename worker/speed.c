/* speed.c - see speed.h. */
#include "worker/speed.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "kernels/memory.h"

/* WIDTH: weights of half a megabyte, in every core's second-level cache, as the tiles of a real layer are.
 * ROWS_MOST: enough that a machine of a hundred cores does not spend the run on waking them. */
enum { WIDTH = 512, ROWS_LEAST = 8, ROWS_MOST = 4096 };

/* A run is long against the clock and the threads' start, short against a time slice. */
#define RUN_NS   MILLISECOND_NS
#define TOTAL_NS (50 * MILLISECOND_NS) /* for all runs; the slowest backend, scalar C, takes a few */

struct product {
    const struct ops *ops;
    struct team *team;
    struct linear *linear; /* [WIDTH, WIDTH] */
    void *x, *y;           /* operands [ROWS_MOST, WIDTH], on the device */
    bool failed;
};

/* Values as weights have them: neither zeros nor denormals, which some machines multiply at another speed. */
static void fill(uint16_t *weights, dtype_t dtype, void *x)
{
    uint32_t state = 1;
    for (int i = 0; i < WIDTH * WIDTH; i++) {
        state = state * 1664525u + 1013904223u;
        weights[i] = (uint16_t)(0x3c00 + (state >> 16) % 0x100); /* bfloat16 of 0.008 to 0.03 */
    }
    for (int i = 0; i < ROWS_MOST * WIDTH; i++) {
        float value = 1.0f / (float)(1 + i % 17);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint16_t upper = (uint16_t)(bits >> 16); /* bfloat16, cut off */
        memcpy(memory_at(x, dtype, i), dtype == DTYPE_F32 ? (void *)&bits : (void *)&upper,
               dtype_bytes(dtype));
    }
}

static int64_t run(struct product *p, int rows)
{
    int64_t began_ns = clock_now_ns();
    dtype_t operand = p->ops->operand;
    p->ops->linear(p->team, p->linear, p->x, WIDTH, rows,
                   &(struct epilogue){.x_dtype = operand, .y_dtype = operand}, p->y, WIDTH);
    p->failed |= p->ops->wait(p->team, NULL) != STATUS_OK;
    return clock_now_ns() - began_ns;
}

/* Doubles the rows until a run is long enough to be timed (the first runs also wake the threads and warm the
 * caches), then takes the best of as many runs as there is time for: at a start, other ranks of the host
 * measure as well, and whatever disturbs a run only makes it slower. */
static double best_gflops(struct product *p)
{
    int64_t end_ns = clock_now_ns() + TOTAL_NS, best_ns = INT64_MAX;
    int rows = ROWS_LEAST;
    run(p, rows);
    while (rows < ROWS_MOST && run(p, rows) < RUN_NS) rows *= 2;
    do {
        int64_t took_ns = run(p, rows);
        if (took_ns < best_ns) best_ns = took_ns;
    } while (clock_now_ns() < end_ns && !p->failed);
    return 2.0 * rows * WIDTH * WIDTH / (double)(best_ns > 0 ? best_ns : 1);
}

status_t speed_measure(const struct ops *ops, struct team *team, double *gflops, struct error *error)
{
    struct product p = {.ops = ops, .team = team};
    size_t bytes = (size_t)ROWS_MOST * WIDTH * dtype_bytes(ops->operand);
    uint16_t *weights = malloc((size_t)WIDTH * WIDTH * sizeof *weights);
    void *x = malloc(bytes);
    status_t status = STATUS_OK;
    if (!weights || !x) status = error_set(error, STATUS_NO_MEMORY, "no memory to measure the speed");
    if (status == STATUS_OK) status = ops->allocate(MEMORY_DEVICE, bytes, &p.x, error);
    if (status == STATUS_OK) status = ops->allocate(MEMORY_DEVICE, bytes, &p.y, error);
    if (status == STATUS_OK) {
        fill(weights, ops->operand, x);
        struct matrix matrix = {weights, DTYPE_BF16, WIDTH, WIDTH};
        status = ops->linear_create(&matrix, NULL, &p.linear, error);
    }
    if (status == STATUS_OK) {
        ops->copy(team, p.x, x, bytes);
        *gflops = best_gflops(&p);
        status = ops->wait(team, error);
    }
    ops->linear_destroy(p.linear);
    ops->release(MEMORY_DEVICE, p.y);
    ops->release(MEMORY_DEVICE, p.x);
    free(x);
    free(weights);
    return status;
}
