/*
 * test_waiting.c - what a queued job is said to wait for (coordinator/jobs/waiting.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/coordinator_rig.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

enum { TRIES = 600, PAUSE_US = 50000, BACKEND = 400000000, ROOM = 300000000 };

/* Until it says so: a moment passes before a group has heard of its ranks. */
static void expect_waits(void *client, uint64_t job, const char *words)
{
    char last[300] = "";
    for (int i = 0; i < TRIES; i++, usleep(PAUSE_US)) {
        Refrain__Reply *reply = rig_status(client, job);
        snprintf(last, sizeof last, "%s", reply->job->waits ? reply->job->waits : "(nothing)");
        refrain__reply__free_unpacked(reply, NULL);
        if (strstr(last, words)) return;
    }
    fail_msg("job %lu waits for \"%s\", should be \"%s\"", (unsigned long)job, last, words);
}

/* A group that takes the first job. memory: of a GPU that each rank has; 0: it has none. */
static void take_first(struct rig *rig, struct fake_worker *workers, int count, uint64_t memory)
{
    uint64_t job;
    uint32_t attempt;
    for (int i = 0; i < count; i++) {
        fake_worker_open(&workers[i], rig, "one", (uint32_t)i, (uint32_t)count);
        workers[i].memory = memory;
        workers[i].gpu = memory ? "a GPU" : NULL;
        fake_worker_hello(&workers[i]);
    }
    fake_workers_join(workers, count);
    fake_workers_load(workers, count);
    fake_worker_take(&workers[0], &job, &attempt);
}

static void a_job_without_ranks_says_so_and_how_many_are_missing(void **state)
{
    struct rig rig = {0};
    struct fake_worker worker = {0};
    rig_start(&rig, (const char *[]){"--silence", "20s", NULL});
    void *client = rig_client(&rig);
    rig_add_model(&rig, "small");
    uint64_t job = rig_submit(client, "one");
    expect_waits(client, job, "ranks: none have come yet, or all were drained");
    fake_worker_open(&worker, &rig, "one", 0, 2);
    fake_worker_hello(&worker);
    expect_waits(client, job, "ranks: 1 of 2 are here");
    fake_worker_close(&worker);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_deadline_that_nobody_can_judge_is_taken_and_said_so(void **state)
{
    struct rig rig = {0};
    rig_start(&rig, (const char *[]){"--silence", "20s", NULL});
    void *client = rig_client(&rig);
    rig_add_model(&rig, "small");
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.prompt = (char *)(uintptr_t) "one";
    spec.has_deadline_ms = spec.has_deadline_strict = spec.deadline_strict = 1;
    spec.deadline_ms = 60000;
    Refrain__Reply *reply = rig_submit_spec(client, &spec, NULL);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_JOB);
    assert_non_null(reply->job->warning);
    assert_string_equal(reply->job->warning,
                        "deadline_ms 60000: nobody can say yet whether it will be met: the job waits for "
                        "ranks: none have come yet, or all were drained");
    refrain__reply__free_unpacked(reply, NULL);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_job_behind_others_says_how_many_and_the_first_what_for(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2] = {0};
    rig_start(&rig, (const char *[]){"--silence", "20s", "--in-flight", "1", NULL});
    void *client = rig_client(&rig);
    rig_add_model(&rig, "small");
    uint64_t first = rig_submit(client, "one");
    take_first(&rig, workers, 2, 0);
    uint64_t second = rig_submit(client, "two"), third = rig_submit(client, "three"),
             fourth = rig_submit(client, "four");
    expect_waits(client, first, "(nothing)");
    expect_waits(client, second, "a place: 1 job is in flight");
    expect_waits(client, third, "1 job before it");
    expect_waits(client, fourth, "2 jobs before it");
    for (int i = 0; i < 2; i++) fake_worker_close(&workers[i]);
    zmq_close(client);
    rig_stop(&rig);
}

static void a_job_that_waits_for_memory_says_how_much(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2] = {0};
    rig_start(&rig, (const char *[]){"--silence", "20s", "--flight-memory", "1", NULL});
    void *client = rig_client(&rig);
    rig_add_model(&rig, "small");
    rig_submit(client, "one"); /* alone it is taken, whatever the limit */
    take_first(&rig, workers, 2, 0);
    uint64_t second = rig_submit(client, "two");
    expect_waits(client, second, "memory within --flight-memory (needs ");
    expect_waits(client, second, " GB, 0 GB free)");
    for (int i = 0; i < 2; i++) fake_worker_close(&workers[i]);
    zmq_close(client);
    rig_stop(&rig);
}

/* The GPU has 400 MB for its backend and 300 for jobs, of which each takes 200: 100 for a branch. */
static void a_job_that_does_not_fit_beside_another_says_on_which_rank(void **state)
{
    struct rig rig = {
        .worker_script =
            "#!/bin/sh\n"
            "echo '{" RIG_CARD ","
            "\"need_block\":1000,\"need_home\":1000,\"need_backend\":400000000,\"need_work\":1000,"
            "\"need_branch\":100000000}'\n"};
    struct fake_worker worker = {0};
    rig_start(&rig, (const char *[]){"--silence", "20s", "--in-flight", "4", NULL});
    void *client = rig_client(&rig);
    rig_add_model(&rig, "small");
    uint64_t first = rig_submit(client, "one");
    take_first(&rig, &worker, 1, BACKEND + ROOM);
    uint64_t second = rig_submit(client, "two"), third = rig_submit(client, "three");
    expect_waits(client, first, "(nothing)");
    expect_waits(client, second, "memory on rank 0 (needs 0.2 GB, 0.1 GB free)");
    expect_waits(client, third, "1 job before it");
    fake_worker_close(&worker);
    zmq_close(client);
    rig_stop(&rig);
}

/* Of a rank that keeps things for others, though nothing yet. */
static void report_store(struct fake_worker *worker)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__TierChanges changes = REFRAIN__TIER_CHANGES__INIT;
    SET(changes, whole, 1);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_CHANGES;
    report.tier_changes = &changes;
    fake_worker_report(worker, &report);
}

/* Each rank does: whoever is not its home is not believed. */
static void report_decoding(struct fake_worker *workers, int count, uint64_t job)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__JobProgress progress = REFRAIN__JOB_PROGRESS__INIT;
    Refrain__Progress step = REFRAIN__PROGRESS__INIT;
    SET(step, phase, REFRAIN__PHASE__PHASE_DECODE);
    SET(step, steps, 5);
    SET(progress, job, job);
    SET(progress, attempt, 1);
    progress.progress = &step;
    report.body_case = REFRAIN__WORKER_REPORT__BODY_PROGRESS;
    report.progress = &progress;
    for (int i = 0; i < count; i++) fake_worker_report(&workers[i], &report);
}

static void a_job_whose_steps_are_being_made_waits_for_them_and_no_other_does(void **state)
{
    struct rig rig = {0};
    struct fake_worker workers[2] = {0};
    rig_start(&rig, (const char *[]){"--silence", "20s", "--in-flight", "16", NULL});
    void *client = rig_client(&rig);
    rig_add_model(&rig, "small");
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.prompt = (char *)(uintptr_t) "one";
    SET(spec, steps, 3);
    uint64_t first = rig_job_of(rig_submit_spec(client, &spec, NULL));
    take_first(&rig, workers, 2, 0);
    uint64_t beside = rig_job_of(rig_submit_spec(client, &spec, NULL)); /* nobody keeps anything */
    expect_waits(client, beside, "(nothing)");
    report_store(&workers[1]);
    Refrain__JobSpec fps = spec, low = spec, kept = spec, label = spec, high = spec, seed = spec, steps = spec,
                     guidance = spec, anew = spec, compare = spec, words = spec;
    SET(fps, fps, 24);
    SET(low, priority, REFRAIN__PRIORITY__PRIORITY_LOW);
    SET(kept, save_latents, 1);
    SET(kept, preview_every, 2);
    SET(kept, checkpoint_every, 2);
    SET(kept, deadline_ms, 600000);
    label.label = (char *)(uintptr_t) "mine";
    SET(high, priority, REFRAIN__PRIORITY__PRIORITY_HIGH);
    SET(seed, seed, 1);
    SET(steps, steps, 4);
    SET(guidance, guidance, 1.5);
    SET(anew, recompute, 1);
    SET(compare, compare, 1);
    compare.cache = (char *)(uintptr_t) "balanced";
    words.negative_prompt = (char *)(uintptr_t) "two";
    const Refrain__JobSpec *same[] = {&spec, &fps, &low, &kept, &label};
    const Refrain__JobSpec *others[] = {&high, &seed, &steps, &guidance, &anew, &compare, &words};
    uint64_t waiting[sizeof same / sizeof *same], beyond[sizeof others / sizeof *others];
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        waiting[i] = rig_job_of(rig_submit_spec(client, same[i], NULL));
        expect_waits(client, waiting[i], "which makes the same steps");
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        beyond[i] = rig_job_of(rig_submit_spec(client, others[i], NULL));
        expect_waits(client, beyond[i], "(nothing)");
    }
    report_decoding(workers, 2, first);
    report_decoding(workers, 2, beside);
    expect_waits(client, waiting[0], "which makes the same steps"); /* the urgent one does, too */
    report_decoding(workers, 2, beyond[0]);
    static const size_t turns[] = {3, 0, 1, 4, 2}; /* with a deadline first, the low one last; and each makes them until it says so */
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        expect_waits(client, waiting[turns[i]], "(nothing)");
        report_decoding(workers, 2, waiting[turns[i]]);
    }
    for (int i = 0; i < 2; i++) fake_worker_close(&workers[i]);
    zmq_close(client);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_without_ranks_says_so_and_how_many_are_missing),
        cmocka_unit_test(a_deadline_that_nobody_can_judge_is_taken_and_said_so),
        cmocka_unit_test(a_job_behind_others_says_how_many_and_the_first_what_for),
        cmocka_unit_test(a_job_that_waits_for_memory_says_how_much),
        cmocka_unit_test(a_job_that_does_not_fit_beside_another_says_on_which_rank),
        cmocka_unit_test(a_job_whose_steps_are_being_made_waits_for_them_and_no_other_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
