/* ring_rig.c - see ring_rig.h. */
#include "tests/ring_rig.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/counting.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "worker/stage.h"
#include "worker/upload.h"

enum { MOST_JOBS = 32, PATIENCE_S = 120 };

struct member {
    struct ring_run *run;
    struct engine engine;
    const char **addresses, *model, *directory;
    atomic_int *open;            /* jobs of all members that have not ended */
    struct job *jobs[MOST_JOBS]; /* [run->count]; NULL: of another home, or refused */
    struct stage *stage;
    struct error error;
    pthread_t thread;
};

static void job_path(const struct member *m, int index, char path[600])
{
    snprintf(path, 600, "%s/%d", m->directory, index);
}

static status_t set_up(struct member *m)
{
    struct fabric_membership group = {.epoch = 1,
                                      .self = m->engine.self,
                                      .count = m->engine.members,
                                      .addresses = m->addresses,
                                      .token = "for tests"};
    status_t status = team_create(1, &m->engine.team, &m->error);
    if (status == STATUS_OK) status = m->engine.ops->open(m->engine.team, &m->error);
    if (status == STATUS_OK)
        status = model_load(m->model, m->engine.ops, m->engine.team, &m->run->split, m->engine.self,
                            &m->engine.model, &m->error);
    if (status == STATUS_OK) status = engine_form_stage(&m->engine, &m->error);
    if (status == STATUS_OK)
        status = fabric_join(m->engine.fabric, &group, clock_now_ns() + 30 * SECOND_NS, &m->error);
    if (status == STATUS_OK) status = stage_create(&m->engine, &m->stage, &m->error);
    return status;
}

static void create_jobs(struct member *m)
{
    char path[600];
    for (int i = 0; i < m->run->count; i++) {
        struct ring_job *job = &m->run->jobs[i];
        if (job->home != m->engine.self) continue;
        job_path(m, i, path);
        job->outcome = job_create(&m->engine, &job->order, path, &m->jobs[i], &job->error);
        if (job->outcome == STATUS_OK)
            job->outcome = STATUS_AGAIN;
        else
            atomic_fetch_sub(m->open, 1);
    }
}

static void deliver(struct member *m)
{
    struct fabric_event event;
    while (engine_next(&m->engine, &event)) {
        if (event.kind == FABRIC_LOST && atomic_exchange(m->open, 0) > 0)
            print_message("member %d lost member %d\n", m->engine.self, event.peer);
        if (event.kind != FABRIC_SENT && event.kind != FABRIC_RECEIVED) continue;
        if (stage_concerns(&event)) {
            stage_event(m->stage, &event);
            continue;
        }
        uint64_t context = event.kind == FABRIC_SENT ? event.cookie / JOB_COOKIES : event.ticket.context;
        for (int i = 0; i < m->run->count; i++)
            if (m->jobs[i] && job_context(m->jobs[i]) == context) job_event(m->jobs[i], &event);
        if (event.kind == FABRIC_RECEIVED) fabric_release(m->engine.fabric, &event);
    }
}

static void take_verdicts(struct ring_job *run, const struct job *job)
{
    struct job_cache cache;
    if (!job_cache(job, &cache)) return;
    run->computed = cache.report.computed;
    run->reused = cache.report.reused + cache.report.forecast;
}

/* One piece of each job that lives here. */
static bool advance_jobs(struct member *m)
{
    bool worked = false;
    for (int i = 0; i < m->run->count; i++) {
        struct ring_job *run = &m->run->jobs[i];
        struct job *job = m->jobs[i];
        if (!job || run->outcome != STATUS_AGAIN) continue;
        enum job_result result = job_advance(job);
        if (run->cancel_at && job_status(job)->done >= run->cancel_at) job_cancel(job);
        worked |= result != JOB_WAITS;
        if (result != JOB_FINISHED) continue;
        run->outcome = job_outcome(job, &run->error);
        take_verdicts(run, job);
        atomic_fetch_sub(m->open, 1);
    }
    return worked;
}

static void run_member(struct member *m)
{
    int64_t deadline_ns = clock_now_ns() + PATIENCE_S * SECOND_NS;
    struct error error = {0};
    create_jobs(m);
    while (atomic_load(m->open) > 0 && clock_now_ns() < deadline_ns) {
        bool worked = false;
        deliver(m);
        if (stage_advance(m->stage, &worked, &error) != STATUS_OK) {
            m->error = error;
            if (atomic_exchange(m->open, 0) > 0) print_message("member %d: %s\n", m->engine.self, error.text);
            break;
        }
        worked |= advance_jobs(m);
        if (!worked && !m->engine.loops)
            fabric_wait(m->engine.fabric, clock_now_ns() + 20 * MILLISECOND_NS, NULL);
    }
}

static void tear_down(struct member *m)
{
    fabric_leave(m->engine.fabric);
    engine_drop_events(&m->engine);
    for (int i = 0; i < m->run->count; i++) {
        if (!m->jobs[i]) continue;
        struct ring_job *run = &m->run->jobs[i];
        if (run->outcome == STATUS_AGAIN)
            run->outcome = error_set(&run->error, STATUS_DEADLINE, "member %d: the job did not end: %s",
                                     m->engine.self, m->error.text);
        job_destroy(m->jobs[i]);
    }
    stage_destroy(m->stage);
    engine_clear(&m->engine);
    model_destroy(m->engine.model);
    m->engine.ops->close(m->engine.team);
    team_destroy(m->engine.team);
}

static void *member_main(void *argument)
{
    struct member *m = argument;
    if (m->run->ledgers) counting_enter(&m->run->ledgers[m->engine.self]);
    m->engine.ops = m->run->ops ? m->run->ops : guarded_or(NULL);
    m->engine.decode_memory = m->run->decode_memory;
    m->engine.epoch = 1;
    if (set_up(m) == STATUS_OK) {
        m->error.text[0] = 0;
        run_member(m);
    } else {
        print_message("member %d: %s\n", m->engine.self, m->error.text);
        atomic_store(m->open, 0);
    }
    m->run->tickets[m->engine.self] = m->engine.sequence;
    tear_down(m);
    return NULL;
}

static void take_files(struct ring_job *job, const char *parent, int index)
{
    char directory[256], path[600];
    snprintf(directory, sizeof directory, "%s/%d", parent, index);
    if (job->outcome == STATUS_OK) {
        snprintf(path, sizeof path, "%s/latents.safetensors", directory);
        struct golden *g = golden_open_path(path);
        const float *values = golden_f32(g, "latents", &job->latent_count);
        job->latents = malloc((size_t)job->latent_count * sizeof *values);
        memcpy(job->latents, values, (size_t)job->latent_count * sizeof *values);
        golden_close(g);
    }
    for (int i = 0; i < UPLOAD_MAX_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, upload_names[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void make_directories(struct ring_run *run, char *directory)
{
    char path[128];
    assert_true(run->count <= MOST_JOBS && run->split.members <= RING_MEMBERS);
    assert_non_null(mkdtemp(directory));
    for (int i = 0; i < run->count; i++) {
        run->jobs[i].order.save_latents = true;
        run->jobs[i].outcome = STATUS_DEADLINE;
        snprintf(path, sizeof path, "%s/%d", directory, i);
        assert_int_equal(mkdir(path, 0700), 0);
    }
}

void ring_execute(struct ring_run *run)
{
    char directory[] = "/tmp/refrain-test-XXXXXX", model[512], bind[64];
    static struct member members[RING_MEMBERS];
    const char *addresses[RING_MEMBERS];
    struct error error;
    atomic_int open = run->count;
    int count = run->split.members;
    make_directories(run, directory);
    golden_path(model, sizeof model, run->model);
    snprintf(bind, sizeof bind, "ipc://%s", directory);
    memset(members, 0, sizeof members);
    for (int i = 0; i < count; i++) {
        struct fabric_config config = {.kind = "zmq",
                                       .bind = bind,
                                       .credits = run->credits ? run->credits : ENGINE_CREDITS,
                                       .max_bytes = 1 << 30};
        members[i] = (struct member){
            .run = run, .addresses = addresses, .model = model, .directory = directory, .open = &open};
        members[i].engine.self = i;
        members[i].engine.members = count;
        if (fabric_open(&config, &members[i].engine.fabric, &error) != STATUS_OK) fail_msg("%s", error.text);
        addresses[i] = fabric_address(members[i].engine.fabric);
    }
    for (int i = 0; i < count; i++)
        assert_int_equal(pthread_create(&members[i].thread, NULL, member_main, &members[i]), 0);
    for (int i = 0; i < count; i++) pthread_join(members[i].thread, NULL);
    for (int i = 0; i < count; i++) fabric_close(members[i].engine.fabric);
    for (int i = 0; i < run->count; i++) take_files(&run->jobs[i], directory, i);
    rmdir(directory);
}

void ring_free(struct ring_run *run)
{
    for (int i = 0; i < run->count; i++) {
        free(run->jobs[i].latents);
        run->jobs[i].latents = NULL;
    }
}
