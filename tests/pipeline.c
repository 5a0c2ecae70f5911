/*
 * pipeline.c - see pipeline.h. Each member runs the product's own loops: job_advance on home, in the order
 * rules/turn.h says, stage_advance elsewhere; only the coordinator is missing.
 */
#include "tests/pipeline.h"

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
#include "rules/turn.h"
#include "tests/counting.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "worker/stage.h"
#include "worker/tier.h"
#include "worker/upload.h"

enum { MOST_MEMBERS = 8 };

struct member {
    struct pipeline_run *run;
    struct engine engine;
    const char **addresses;
    const char *model, *directory;
    atomic_bool *finished;
    struct error error;
    pthread_t thread;
};

static void set_up(struct member *m)
{
    struct split alone = {.members = 1};
    struct model_config config;
    const struct split *split = &m->run->split;
    status_t status = model_config_read(m->model, &config, &m->error);
    if (split->members <= 1) {
        alone.head = config.denoiser.layers;
        split = &alone;
    }
    if (m->run->ledgers) counting_enter(&m->run->ledgers[m->engine.self]);
    m->engine.ops = m->run->ops ? m->run->ops : guarded_or(NULL);
    m->engine.epoch = 1;
    m->engine.decode_memory = m->run->decode_memory;
    if (m->engine.self == 0) m->engine.tier = m->run->tier;
    if (status == STATUS_OK)
        status = team_create(m->run->threads ? m->run->threads : 1, &m->engine.team, &m->error);
    if (status == STATUS_OK) status = m->engine.ops->open(m->engine.team, &m->error);
    if (status == STATUS_OK) status = stretches_create(m->engine.ops, &m->engine.stretches, &m->error);
    if (status == STATUS_OK)
        status = model_load(m->model, m->engine.ops, m->engine.team, split, m->engine.self, &m->engine.model,
                            &m->error);
    if (status == STATUS_OK && m->engine.fabric) {
        struct fabric_membership group = {.epoch = 1,
                                          .self = m->engine.self,
                                          .count = m->engine.members,
                                          .addresses = m->addresses,
                                          .token = "for tests"};
        status = fabric_join(m->engine.fabric, &group, clock_now_ns() + 10 * SECOND_NS, &m->error);
    }
    m->error.status = status;
}

static void run_stage(struct member *m)
{
    struct stage *stage;
    struct fabric_event event;
    bool worked;
    if (stage_create(m->engine.ops ? &m->engine : NULL, &stage, &m->error) != STATUS_OK) return;
    while (!atomic_load(m->finished)) {
        while (fabric_next(m->engine.fabric, &event) == STATUS_OK)
            if (event.kind == FABRIC_SENT || event.kind == FABRIC_RECEIVED) stage_event(stage, &event);
        if (stage_advance(stage, &worked, &m->error) != STATUS_OK) {
            m->run->broken = m->error;
            atomic_store(m->finished, true);
            break;
        }
        if (!worked) fabric_wait(m->engine.fabric, clock_now_ns() + 20 * MILLISECOND_NS, NULL);
    }
    fabric_leave(m->engine.fabric);
    stage_destroy(stage);
}

static void *copy(const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    memcpy(to, from, bytes);
    return to;
}

static void take_cache(struct pipeline_run *run, const struct job *job)
{
    if (!job_cache(job, &run->cache)) return;
    const struct reuse_report *r = &run->cache.report;
    size_t cells = (size_t)r->steps * (size_t)r->branches;
    run->actions = copy(r->actions, cells);
    run->reasons = copy(r->reasons, cells);
    run->changes = copy(r->changes, cells * sizeof *r->changes);
}

/* Jobs in flight on home, as worker/home.c has them. A job is NULL before it comes. */
struct jobs {
    struct turn turn;
    struct job *job[PIPELINE_JOBS];
    struct pipeline_run *run[PIPELINE_JOBS];
    int account[PIPELINE_JOBS];
    int count, open, ended;
};

static void deliver(struct jobs *jobs, struct engine *engine)
{
    struct fabric_event event;
    while (engine->fabric && fabric_next(engine->fabric, &event) == STATUS_OK) {
        uint64_t context = event.kind == FABRIC_SENT ? event.cookie / JOB_COOKIES : event.ticket.context;
        for (int i = 0; i < jobs->count && (event.kind == FABRIC_SENT || event.kind == FABRIC_RECEIVED); i++)
            if (jobs->job[i] && job_context(jobs->job[i]) == context) job_event(jobs->job[i], &event);
        if (event.kind == FABRIC_RECEIVED) fabric_release(engine->fabric, &event);
    }
}

static void end(struct jobs *jobs, int i, status_t outcome)
{
    struct pipeline_run *run = jobs->run[i];
    run->outcome = outcome;
    run->place = ++jobs->ended;
    jobs->open--;
    if (!jobs->job[i]) return;
    take_cache(run, jobs->job[i]);
    turn_leave(&jobs->turn, jobs->account[i]);
}

/* Jobs whose time has come. */
static void arrive(struct jobs *jobs, struct member *m)
{
    for (int i = 0; i < jobs->count; i++) {
        struct pipeline_run *run = jobs->run[i];
        char directory[600];
        if (jobs->job[i] || run->outcome != STATUS_AGAIN) continue;
        if (i && run->begins_at && jobs->run[0]->outcome == STATUS_AGAIN &&
            (job_status(jobs->job[0])->phase == JOB_PHASE_TEXT ||
             job_status(jobs->job[0])->done < run->begins_at))
            continue;
        snprintf(directory, sizeof directory, "%s/%d", m->directory, i);
        status_t status = job_create(&m->engine, &run->order, directory, &jobs->job[i], &run->error);
        if (status != STATUS_OK)
            end(jobs, i, status);
        else
            jobs->account[i] = turn_join(&jobs->turn, job_tenant(jobs->job[i]));
    }
}

/* One piece of the job whose turn it is; false when all of them wait. */
static bool advance(struct jobs *jobs)
{
    struct candidate candidates[PIPELINE_JOBS];
    for (int i = 0; i < jobs->count; i++) {
        bool here = jobs->job[i] && jobs->run[i]->outcome == STATUS_AGAIN;
        candidates[i] = (struct candidate){.piece = here ? job_next(jobs->job[i]) : PIECE_NONE,
                                           .priority = jobs->run[i]->order.priority,
                                           .due_ms = jobs->run[i]->order.deadline_ms,
                                           .arrival = (uint64_t)i,
                                           .account = jobs->account[i]};
    }
    int i = turn_choose(&jobs->turn, candidates, jobs->count);
    if (i < 0) return false;
    struct pipeline_run *run = jobs->run[i];
    uint64_t before = job_work(jobs->job[i]);
    enum job_result result = job_advance(jobs->job[i]);
    turn_charge(&jobs->turn, &candidates[i], job_work(jobs->job[i]) - before);
    if (run->cancel_at && job_status(jobs->job[i])->done >= run->cancel_at) job_cancel(jobs->job[i]);
    if (result == JOB_WAITS) /* job_next promised a piece */
        end(jobs, i,
            error_set(&run->error, STATUS_INTERNAL, "a piece of kind %d was not done", candidates[i].piece));
    if (result == JOB_FINISHED) end(jobs, i, job_outcome(jobs->job[i], &run->error));
    return true;
}

static void run_home(struct member *m)
{
    struct jobs jobs = {0};
    for (struct pipeline_run *run = m->run; run; run = run->beside) {
        run->outcome = STATUS_AGAIN;
        jobs.run[jobs.count++] = run;
    }
    jobs.open = jobs.count;
    int64_t began_ns = clock_now_ns(), deadline_ns = began_ns + 120 * SECOND_NS;
    while (jobs.open && clock_now_ns() < deadline_ns && !atomic_load(m->finished)) {
        int64_t ignored = CLOCK_NEVER;
        arrive(&jobs, m);
        tier_tend(m->engine.tier, &ignored);
        if (jobs.open && !advance(&jobs) && m->engine.fabric)
            fabric_wait(m->engine.fabric, clock_now_ns() + 20 * MILLISECOND_NS, NULL);
        deliver(&jobs, &m->engine);
    }
    m->run->seconds = (double)(clock_now_ns() - began_ns) / (double)SECOND_NS;
    if (m->engine.fabric) fabric_leave(m->engine.fabric);
    for (int i = 0; i < jobs.count; i++) {
        if (jobs.run[i]->outcome == STATUS_AGAIN)
            jobs.run[i]->outcome = error_set(&jobs.run[i]->error, STATUS_DEADLINE, "the job did not end");
        job_destroy(jobs.job[i]);
    }
}

static void *member_main(void *argument)
{
    struct member *m = argument;
    set_up(m);
    if (m->error.status == STATUS_OK) {
        if (m->engine.self == 0)
            run_home(m);
        else
            run_stage(m);
    } else if (m->engine.self == 0) {
        m->run->outcome = m->error.status;
        m->run->error = m->error;
    }
    if (m->engine.self == 0) atomic_store(m->finished, true);
    m->run->tickets[m->engine.self] = m->engine.sequence;
    engine_clear(&m->engine);
    m->run->stretches[m->engine.self] = stretches_counts(m->engine.stretches);
    stretches_destroy(m->engine.stretches);
    model_destroy(m->engine.model);
    m->engine.ops->close(m->engine.team);
    team_destroy(m->engine.team);
    return NULL;
}

static float *take(const char *directory, const char *file, const char *tensor, int64_t *count)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    struct golden *g = golden_open_path(path);
    const float *values = golden_f32(g, tensor, count);
    float *copy = malloc((size_t)*count * sizeof *copy);
    memcpy(copy, values, (size_t)*count * sizeof *copy);
    golden_close(g);
    return copy;
}

static void take_files(struct pipeline_run *run, const char *parent, int index)
{
    char directory[256], path[320];
    snprintf(directory, sizeof directory, "%s/%d", parent, index);
    if (run->outcome == STATUS_OK) {
        run->latents = take(directory, "latents.safetensors", "latents", &run->latent_count);
        run->frames = take(directory, "frames.safetensors", "frames", &run->frame_count);
    }
    for (int i = 0; i < UPLOAD_MAX_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, upload_names[i]);
        unlink(path);
    }
    rmdir(directory);
}

void pipeline_execute(struct pipeline_run *run)
{
    char directory[] = "/tmp/refrain-test-XXXXXX", model[512], bind[64], path[128];
    struct member members[MOST_MEMBERS] = {0};
    const char *addresses[MOST_MEMBERS];
    atomic_bool finished = false;
    struct error error;
    int count = run->split.members > 1 ? run->split.members : 1;
    assert_true(count <= MOST_MEMBERS);
    assert_non_null(mkdtemp(directory));
    snprintf(bind, sizeof bind, "ipc://%s", directory);
    golden_path(model, sizeof model, run->model);
    int jobs = 0;
    for (struct pipeline_run *job = run; job; job = job->beside, jobs++) {
        assert_true(jobs < PIPELINE_JOBS);
        job->order.save_latents = job->order.save_frames = true;
        snprintf(path, sizeof path, "%s/%d", directory, jobs);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    for (int i = 0; i < count; i++) {
        members[i] = (struct member){.run = run,
                                     .addresses = addresses,
                                     .model = model,
                                     .directory = directory,
                                     .finished = &finished};
        members[i].engine.self = i;
        members[i].engine.members = count;
        if (count == 1) break;
        struct fabric_config config = {
            .kind = "zmq", .bind = bind, .credits = ENGINE_CREDITS, .max_bytes = 1 << 30};
        if (fabric_open(&config, &members[i].engine.fabric, &error) != STATUS_OK) fail_msg("%s", error.text);
        addresses[i] = fabric_address(members[i].engine.fabric);
    }
    for (int i = 0; i < count; i++)
        assert_int_equal(pthread_create(&members[i].thread, NULL, member_main, &members[i]), 0);
    for (int i = 0; i < count; i++) pthread_join(members[i].thread, NULL);
    for (int i = 0; i < count; i++) fabric_close(members[i].engine.fabric);
    for (int i = 1; i < count; i++)
        if (members[i].error.status != STATUS_OK) print_message("member %d: %s\n", i, members[i].error.text);
    jobs = 0;
    for (struct pipeline_run *job = run; job; job = job->beside, jobs++) take_files(job, directory, jobs);
    rmdir(directory);
}

void pipeline_free(struct pipeline_run *run)
{
    free(run->latents);
    free(run->frames);
    free(run->actions);
    free(run->reasons);
    free(run->changes);
    run->latents = run->frames = run->changes = NULL;
    run->actions = run->reasons = NULL;
}
