/* ring.c - see ring.h. Members run the product's loops; only the coordinator is missing. */
#include "tests/ring.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/guarded.h"
#include "tests/golden.h"
#include "worker/stage.h"

enum { MOST_MEMBERS = 8 };

struct member {
    struct ring *ring;
    struct engine engine;
    struct error error; /* status STATUS_OK: none */
    pthread_t thread;
};

struct ring {
    char directory[32], model[512];
    struct split split;
    int threads;
    const char *addresses[MOST_MEMBERS];
    atomic_bool finished;
    struct member member[MOST_MEMBERS];
};

static status_t set_up(struct member *m)
{
    struct engine *e = &m->engine;
    struct ring *ring = m->ring;
    struct fabric_membership group = {
        .epoch = 1, .self = e->self, .count = e->members, .addresses = ring->addresses, .token = "for tests"};
    e->ops = guarded_or(NULL);
    e->epoch = 1;
    status_t status = team_create(ring->threads, &e->team, &m->error);
    if (status == STATUS_OK) status = e->ops->open(e->team, &m->error);
    if (status == STATUS_OK)
        status = model_load(ring->model, e->ops, e->team, &ring->split, e->self, &e->model, &m->error);
    if (status == STATUS_OK && e->fabric)
        status = fabric_join(e->fabric, &group, clock_now_ns() + 30 * SECOND_NS, &m->error);
    return status;
}

static void tear_down(struct member *m)
{
    if (m->engine.fabric) fabric_leave(m->engine.fabric);
    engine_clear(&m->engine);
    model_destroy(m->engine.model);
    m->engine.ops->close(m->engine.team);
    team_destroy(m->engine.team);
}

static void run_stage(struct member *m)
{
    struct fabric_event event;
    struct stage *stage = NULL;
    status_t status = stage_create(&m->engine, &stage, &m->error);
    bool worked = true;
    while (status == STATUS_OK && !atomic_load(&m->ring->finished)) {
        while (fabric_next(m->engine.fabric, &event) == STATUS_OK)
            if (event.kind == FABRIC_SENT || event.kind == FABRIC_RECEIVED) stage_event(stage, &event);
        status = stage_advance(stage, &worked, &m->error);
        if (!worked) fabric_wait(m->engine.fabric, clock_now_ns() + 20 * MILLISECOND_NS, NULL);
    }
    fabric_leave(m->engine.fabric);
    stage_destroy(stage);
}

static void *stage_main(void *argument)
{
    struct member *m = argument;
    if (set_up(m) == STATUS_OK) run_stage(m);
    if (m->error.status != STATUS_OK) print_message("member %d: %s\n", m->engine.self, m->error.text);
    tear_down(m);
    return NULL;
}

struct ring *ring_start(const char *model, const struct split *split, int threads)
{
    struct ring *ring = calloc(1, sizeof *ring);
    struct error error;
    char bind[64];
    assert_non_null(ring);
    assert_true(split->members <= MOST_MEMBERS);
    ring->split = *split;
    ring->threads = threads;
    golden_path(ring->model, sizeof ring->model, model);
    snprintf(ring->directory, sizeof ring->directory, "/tmp/refrain-ring-XXXXXX");
    assert_non_null(mkdtemp(ring->directory));
    snprintf(bind, sizeof bind, "ipc://%s", ring->directory);
    for (int i = 0; i < split->members; i++) {
        struct member *m = &ring->member[i];
        m->ring = ring;
        m->engine.self = i;
        m->engine.members = split->members;
        if (split->members == 1) break;
        struct fabric_config config = {
            .kind = "zmq", .bind = bind, .credits = ENGINE_CREDITS, .max_bytes = 1 << 30};
        if (fabric_open(&config, &m->engine.fabric, &error) != STATUS_OK) fail_msg("%s", error.text);
        ring->addresses[i] = fabric_address(m->engine.fabric);
    }
    for (int i = 1; i < split->members; i++)
        assert_int_equal(pthread_create(&ring->member[i].thread, NULL, stage_main, &ring->member[i]), 0);
    if (set_up(&ring->member[0]) != STATUS_OK) fail_msg("home: %s", ring->member[0].error.text);
    return ring;
}

struct engine *ring_engine(struct ring *ring)
{
    return &ring->member[0].engine;
}

void ring_deliver(struct ring *ring, struct job *job, bool wait)
{
    struct fabric *fabric = ring->member[0].engine.fabric;
    struct fabric_event event;
    if (!fabric) return;
    if (wait && fabric_wait(fabric, clock_now_ns() + 60 * SECOND_NS, NULL) != STATUS_OK)
        fail_msg("nothing came from the stages");
    while (fabric_next(fabric, &event) == STATUS_OK) {
        uint64_t context = event.kind == FABRIC_SENT ? event.cookie / JOB_COOKIES : event.ticket.context;
        bool ours =
            (event.kind == FABRIC_SENT || event.kind == FABRIC_RECEIVED) && context == job_context(job);
        if (ours) job_event(job, &event);
        if (event.kind == FABRIC_RECEIVED) fabric_release(fabric, &event);
    }
}

void ring_end(struct ring *ring)
{
    atomic_store(&ring->finished, true);
    tear_down(&ring->member[0]);
    for (int i = 1; i < ring->split.members; i++) pthread_join(ring->member[i].thread, NULL);
    for (int i = 0; i < ring->split.members; i++) fabric_close(ring->member[i].engine.fabric);
    rmdir(ring->directory);
    free(ring);
}
