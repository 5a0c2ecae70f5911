/* counting.c - see counting.h. One lock for the list of what was taken, and for the ledgers. */
#include "tests/counting.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct taken {
    const void *what; /* memory, or a weight */
    enum ledger_kind kind;
    size_t bytes;
    struct ledger *ledger;
    struct taken *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct taken *all;
static const struct ops *backend;
static _Thread_local struct ledger *current;

void counting_enter(struct ledger *ledger)
{
    current = ledger;
}

static void take(const void *what, enum ledger_kind kind, size_t bytes)
{
    struct taken *t = malloc(sizeof *t);
    if (!t || !current) abort();
    pthread_mutex_lock(&lock);
    *t = (struct taken){what, kind, bytes, current, all};
    all = t;
    ledger_take(current, kind, bytes);
    pthread_mutex_unlock(&lock);
}

static void give(const void *what, enum ledger_kind kind)
{
    if (!what) return;
    pthread_mutex_lock(&lock);
    struct taken **at = &all;
    while (*at && !((*at)->what == what && (*at)->kind == kind)) at = &(*at)->next;
    struct taken *t = *at;
    if (!t) {
        fprintf(stderr, "counting: what is given back was not taken\n");
        abort();
    }
    *at = t->next;
    ledger_give(t->ledger, kind, t->bytes);
    pthread_mutex_unlock(&lock);
    free(t);
}

static status_t allocate(enum memory kind, size_t bytes, void **memory, struct error *error)
{
    status_t status = backend->allocate(kind, bytes, memory, error);
    if (status == STATUS_OK) take(*memory, (enum ledger_kind)kind, bytes);
    return status;
}

static void release(enum memory kind, void *memory)
{
    give(memory, (enum ledger_kind)kind);
    backend->release(kind, memory);
}

static status_t linear_create(const struct matrix *w, const struct matrix *bias, struct linear **linear,
                              struct error *error)
{
    status_t status = backend->linear_create(w, bias, linear, error);
    if (status == STATUS_OK) take(*linear, LEDGER_WEIGHTS, backend->linear_bytes(*linear));
    return status;
}

static status_t linear_part(const struct linear *whole, int first, int count, struct linear **part,
                            struct error *error)
{
    status_t status = backend->linear_part(whole, first, count, part, error);
    if (status == STATUS_OK) take(*part, LEDGER_WEIGHTS, backend->linear_bytes(*part));
    return status;
}

static void linear_destroy(struct linear *linear)
{
    give(linear, LEDGER_WEIGHTS);
    backend->linear_destroy(linear);
}

static status_t conv_create(const struct conv_shape *shape, const struct matrix *w, const struct matrix *bias,
                            struct conv **conv, struct error *error)
{
    status_t status = backend->conv_create(shape, w, bias, conv, error);
    if (status == STATUS_OK) take(*conv, LEDGER_WEIGHTS, backend->conv_bytes(*conv));
    return status;
}

static void conv_destroy(struct conv *conv)
{
    give(conv, LEDGER_WEIGHTS);
    backend->conv_destroy(conv);
}

const struct ops *counting_ops(const struct ops *inner)
{
    static struct ops ops;
    backend = inner;
    ops = *inner;
    ops.allocate = allocate;
    ops.release = release;
    ops.linear_create = linear_create;
    ops.linear_part = linear_part;
    ops.linear_destroy = linear_destroy;
    ops.conv_create = conv_create;
    ops.conv_destroy = conv_destroy;
    return &ops;
}
