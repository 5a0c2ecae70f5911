/*
 * test_jobstore.c - what must survive, and the states, order and deadlines of jobs over it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "coordinator/jobs/jobs.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))
#define STATE(name)                REFRAIN__JOB_STATE__JOB_##name
#define GOOD(call)                                                                                           \
    do {                                                                                                     \
        if ((call) != STATUS_OK) fail_msg("%s: %s", #call, error.text);                                      \
    } while (0)

/* A store in a directory of its own, and the jobs over it. */
struct bench {
    char directory[64], path[96];
    struct jobstore *store;
    struct jobs *jobs;
};

static void open_bench(struct bench *bench)
{
    struct error error;
    GOOD(jobstore_open(bench->path, &bench->store, &error));
    GOOD(jobs_open(bench->store, 1000, &bench->jobs, &error));
}

static void close_bench(struct bench *bench)
{
    jobs_close(bench->jobs);
    jobstore_close(bench->store);
    bench->jobs = NULL;
    bench->store = NULL;
}

static void reopen(struct bench *bench)
{
    close_bench(bench);
    open_bench(bench);
}

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct bench *bench = calloc(1, sizeof *bench);
    snprintf(bench->directory, sizeof bench->directory, "%.40s/refrain-store.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(bench->directory)) return -1;
    snprintf(bench->path, sizeof bench->path, "%s/jobs.db", bench->directory);
    open_bench(bench);
    *state = bench;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *bench = *state;
    char command[128];
    close_bench(bench);
    snprintf(command, sizeof command, "rm -rf '%s'", bench->directory);
    int code = system(command);
    free(bench);
    return code;
}

/* A complete spec; the caller keeps it. */
static Refrain__JobSpec whole_spec(void)
{
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.model = (char *)"small";
    spec.prompt = (char *)"a lighthouse in a storm";
    spec.negative_prompt = (char *)"";
    SET(spec, steps, 10);
    SET(spec, width, 64);
    SET(spec, height, 64);
    SET(spec, frames, 17);
    SET(spec, priority, REFRAIN__PRIORITY__PRIORITY_NORMAL);
    return spec;
}

static struct job *submit(struct bench *bench, const char *tenant, Refrain__Priority priority,
                          uint64_t deadline_ms, int64_t now_ms)
{
    struct error error;
    uint64_t id;
    Refrain__JobSpec spec = whole_spec();
    spec.priority = priority;
    spec.deadline_ms = deadline_ms;
    struct submission submission = {.tenant = tenant, .spec = &spec};
    GOOD(jobs_hash_spec(&spec, submission.hash, &error));
    GOOD(jobs_submit(bench->jobs, &submission, now_ms, &id, &error));
    return jobs_find(bench->jobs, id);
}

static struct job *submit_one(struct bench *bench)
{
    return submit(bench, "local", REFRAIN__PRIORITY__PRIORITY_NORMAL, 0, 1000);
}

static Refrain__Job *get(struct bench *bench, uint64_t id)
{
    struct error error;
    Refrain__Job *job;
    GOOD(jobs_describe(bench->jobs, NULL, id, &job, &error));
    return job;
}

static void assert_state(struct bench *bench, uint64_t id, Refrain__JobState state)
{
    Refrain__Job *job = get(bench, id);
    assert_int_equal(job->state, state);
    refrain__job__free_unpacked(job, NULL);
}

/* ---------------------------------------------------------------------------------------------- the store */

static void what_was_committed_is_there_again_and_what_was_not_is_gone(void **state)
{
    struct bench *bench = *state;
    struct error error;
    uint64_t kept = submit_one(bench)->id;
    GOOD(jobstore_commit(bench->store, &error));
    uint64_t lost = submit_one(bench)->id;
    reopen(bench);
    Refrain__Job *job = get(bench, kept), *none;
    assert_string_equal(job->spec->prompt, "a lighthouse in a storm");
    assert_int_equal(job->state, STATE(QUEUED));
    assert_int_equal(job->sequence, 2);
    refrain__job__free_unpacked(job, NULL);
    assert_int_equal(jobstore_get(bench->store, NULL, lost, &none, &error), STATUS_NOT_FOUND);
    assert_non_null(jobs_find(bench->jobs, kept));
}

static void a_process_killed_in_mid_write_leaves_a_readable_store(void **state)
{
    struct bench *bench = *state;
    struct error error;
    for (int round = 0; round < 8; round++) {
        int acknowledge[2];
        uint64_t last = 0, id;
        close_bench(bench);
        assert_int_equal(pipe(acknowledge), 0);
        pid_t pid = fork();
        if (pid == 0) { /* commits one by one and says so, until it is killed */
            open_bench(bench);
            for (;;) {
                id = submit_one(bench)->id;
                if (jobs_find(bench->jobs, id) && jobstore_commit(bench->store, &error) == STATUS_OK &&
                    write(acknowledge[1], &id, sizeof id) != sizeof id)
                    _exit(1);
                if (bench->jobs && id % 500 == 499) reopen(bench);
            }
        }
        close(acknowledge[1]);
        usleep((useconds_t)(15000 + 3000 * round));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (read(acknowledge[0], &id, sizeof id) == sizeof id) last = id;
        close(acknowledge[0]);
        open_bench(bench); /* checks integrity */
        if (last) assert_state(bench, last, STATE(QUEUED));
    }
}

/* Without room to write the store fails, says why, and works again once there is room. */
static void a_write_that_fails_undoes_its_whole_batch_and_nothing_else(void **state)
{
    struct bench *bench = *state;
    struct error error;
    struct rlimit all, little = {.rlim_cur = 256 << 10};
    uint64_t kept = submit_one(bench)->id, id = 0;
    GOOD(jobstore_commit(bench->store, &error));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &all), 0);
    little.rlim_max = all.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    status_t status = STATUS_OK;
    size_t stored = 0;
    for (int i = 0; i < 500 && status == STATUS_OK; i++) { /* the log grows until it may not */
        Refrain__JobSpec spec = whole_spec();
        struct submission submission = {.tenant = "local", .spec = &spec};
        status = jobs_submit(bench->jobs, &submission, 1000, &id, &error);
        if (status == STATUS_OK) status = jobstore_commit(bench->store, &error);
        if (status == STATUS_OK) stored++;
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
    assert_int_equal(status, STATUS_IO);
    jobstore_rollback(bench->store);
    GOOD(jobs_reload(bench->jobs, &error));
    assert_state(bench, kept, STATE(QUEUED));
    for (size_t i = 0; i <= stored; i++) assert_non_null(jobs_at(bench->jobs, i));
    assert_null(jobs_at(bench->jobs, stored + 1));
    submit_one(bench);
    GOOD(jobstore_commit(bench->store, &error));
    reopen(bench);
    assert_non_null(jobs_at(bench->jobs, stored + 1));
}

static void a_store_of_a_newer_schema_or_of_another_program_is_refused(void **state)
{
    struct bench *bench = *state;
    struct error error;
    struct jobstore *store;
    sqlite3 *db;
    char path[128];
    close_bench(bench);
    assert_int_equal(sqlite3_open(bench->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(jobstore_open(bench->path, &store, &error), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, "has schema 99, this build knows up to 3"));
    assert_int_equal(sqlite3_open(bench->path, &db), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA user_version = 3", NULL, NULL, NULL);
    sqlite3_close(db);
    snprintf(path, sizeof path, "%s/other.db", bench->directory);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE t (x)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(jobstore_open(path, &store, &error), STATUS_CORRUPT);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 1000; i++) fputs("this is no database\n", file);
    fclose(file);
    assert_int_equal(jobstore_open(path, &store, &error), STATUS_CORRUPT);
    open_bench(bench);
}

static void tenants_are_told_apart_in_every_read(void **state)
{
    struct bench *bench = *state;
    struct error error;
    Refrain__Job *job;
    uint64_t id = submit(bench, "ann", REFRAIN__PRIORITY__PRIORITY_NORMAL, 0, 1000)->id, counts[JOB_STATES],
             bytes;
    assert_int_equal(jobstore_get(bench->store, "bob", id, &job, &error), STATUS_NOT_FOUND);
    GOOD(jobstore_get(bench->store, "ann", id, &job, &error));
    refrain__job__free_unpacked(job, NULL);
    GOOD(jobstore_count(bench->store, "bob", counts, &bytes, &error));
    assert_int_equal(counts[STATE(QUEUED)], 0);
    GOOD(jobstore_count(bench->store, "ann", counts, &bytes, &error));
    assert_int_equal(counts[STATE(QUEUED)], 1);
}

static void epochs_only_grow_also_over_restarts(void **state)
{
    struct bench *bench = *state;
    struct error error;
    uint64_t first, second;
    GOOD(jobstore_next_epoch(bench->store, 0, &first, &error));
    GOOD(jobstore_commit(bench->store, &error));
    reopen(bench);
    GOOD(jobstore_next_epoch(bench->store, 0, &second, &error));
    assert_true(second > first);
    GOOD(jobstore_next_epoch(bench->store, 70, &second, &error));
    assert_int_equal(second, 71);
}

static void a_deleted_job_s_number_is_not_given_again(void **state)
{
    struct bench *bench = *state;
    struct error error;
    struct job *job = submit_one(bench);
    uint64_t id = job->id;
    GOOD(jobs_cancel(bench->jobs, job, 1001, &error));
    GOOD(jobstore_delete(bench->store, id, &error));
    GOOD(jobstore_commit(bench->store, &error));
    reopen(bench);
    assert_true(submit_one(bench)->id > id);
}

/* --------------------------------------------------------------------------------------- states and order */

static void only_legal_transitions_happen(void **state)
{
    struct bench *bench = *state;
    struct error error;
    struct job *job = submit_one(bench);
    uint64_t id = job->id;
    assert_int_equal(jobs_finish(bench->jobs, job, STATE(COMPLETED), NULL, NULL, 1001, &error),
                     STATUS_CONFLICT);
    assert_non_null(strstr(error.text, "is queued and cannot become completed"));
    GOOD(jobs_start(bench->jobs, job, "1 rank", 1002, &error));
    assert_int_equal(jobs_start(bench->jobs, job, "1 rank", 1002, &error), STATUS_CONFLICT);
    assert_int_equal(jobs_finish(bench->jobs, job, STATE(CANCELLED), NULL, NULL, 1003, &error),
                     STATUS_CONFLICT);
    GOOD(jobs_cancel(bench->jobs, job, 1003, &error));
    assert_int_equal(jobs_finish(bench->jobs, job, STATE(EXPIRED), NULL, NULL, 1004, &error),
                     STATUS_CONFLICT);
    GOOD(jobs_cancel(bench->jobs, job, 1004, &error)); /* asked twice */
    GOOD(jobs_finish(bench->jobs, job, STATE(CANCELLED), NULL, NULL, 1005, &error));
    assert_null(jobs_find(bench->jobs, id));
    assert_state(bench, id, STATE(CANCELLED));
    GOOD(jobstore_commit(bench->store, &error));
}

struct history {
    Refrain__JobState states[16];
    uint32_t attempts[16];
    size_t count;
};

static bool note_history(void *context, Refrain__Job *job)
{
    struct history *history = context;
    assert_int_equal(job->sequence, history->count + 1);
    history->states[history->count] = job->state;
    history->attempts[history->count++] = job->attempt;
    refrain__job__free_unpacked(job, NULL);
    return true;
}

static void history_tells_every_state_in_order_and_each_start_is_an_attempt(void **state)
{
    static const Refrain__JobState expected[] = {STATE(ACCEPTED), STATE(QUEUED),  STATE(RUNNING),
                                                 STATE(QUEUED),   STATE(RUNNING), STATE(COMPLETED)};
    struct bench *bench = *state;
    struct error error;
    struct history history = {.count = 0};
    struct job *job = submit_one(bench);
    uint64_t id = job->id;
    GOOD(jobs_start(bench->jobs, job, NULL, 1001, &error));
    GOOD(jobs_requeue(bench->jobs, job, LOSS_ALONE, "a rank died", 1002, &error));
    GOOD(jobs_start(bench->jobs, job, NULL, 1003, &error));
    GOOD(jobs_finish(bench->jobs, job, STATE(COMPLETED), NULL, NULL, 1004, &error));
    GOOD(jobstore_history(bench->store, id, 0, note_history, &history, &error));
    assert_int_equal(history.count, 6);
    for (size_t i = 0; i < 6; i++) assert_int_equal(history.states[i], expected[i]);
    assert_int_equal(history.attempts[2], 1);
    assert_int_equal(history.attempts[5], 2);
    history.count = 4;
    GOOD(jobstore_history(bench->store, id, 4, note_history, &history, &error)); /* from a sequence on */
    assert_int_equal(history.count, 6);
}

static void the_third_lost_group_fails_the_job_but_restarts_do_not_count(void **state)
{
    struct bench *bench = *state;
    struct error error;
    struct job *job = submit_one(bench);
    uint64_t id = job->id;
    for (int i = 0; i < 5; i++) {
        GOOD(jobs_start(bench->jobs, job, NULL, 1001, &error));
        GOOD(jobs_requeue(bench->jobs, job, LOSS_NONE, "restarted", 1002, &error));
    }
    for (int i = 0; i < 2; i++) {
        GOOD(jobs_start(bench->jobs, job, NULL, 1003, &error));
        GOOD(jobs_requeue(bench->jobs, job, LOSS_ALONE, "a rank died", 1004, &error));
        assert_state(bench, id, STATE(QUEUED));
    }
    GOOD(jobs_start(bench->jobs, job, NULL, 1005, &error));
    GOOD(jobs_requeue(bench->jobs, job, LOSS_ALONE, "a rank died", 1006, &error));
    assert_state(bench, id, STATE(FAILED));
    Refrain__Job *failed = get(bench, id);
    assert_string_equal(failed->message, "given up after its ranks were lost 3 times in a row at the same place, the last time because a rank died");
    refrain__job__free_unpacked(failed, NULL);
}

static void priority_then_submission_decides_and_a_returning_job_takes_its_old_place(void **state)
{
    struct bench *bench = *state;
    struct error error;
    struct job *low = submit(bench, "a", REFRAIN__PRIORITY__PRIORITY_LOW, 0, 1),
               *first = submit(bench, "b", REFRAIN__PRIORITY__PRIORITY_NORMAL, 0, 2),
               *second = submit(bench, "a", REFRAIN__PRIORITY__PRIORITY_NORMAL, 0, 3),
               *high = submit(bench, "b", REFRAIN__PRIORITY__PRIORITY_HIGH, 0, 4);
    assert_ptr_equal(jobs_next(bench->jobs, NULL, NULL), high);
    assert_int_equal(jobs_ahead(bench->jobs, low), 3);
    assert_int_equal(jobs_ahead(bench->jobs, second), 2);
    GOOD(jobs_start(bench->jobs, high, NULL, 5, &error));
    GOOD(jobs_start(bench->jobs, first, NULL, 5, &error));
    assert_ptr_equal(jobs_next(bench->jobs, NULL, NULL), second);
    GOOD(jobs_requeue(bench->jobs, first, LOSS_ALONE, "lost", 6, &error));
    assert_ptr_equal(jobs_next(bench->jobs, NULL, NULL), first);
    reopen(bench); /* and undone, as nothing was committed */
    assert_null(jobs_next(bench->jobs, NULL, NULL));
}

static void jobs_expire_at_their_deadline_unless_they_end_before(void **state)
{
    struct bench *bench = *state;
    struct error error;
    uint64_t soon = submit(bench, "a", REFRAIN__PRIORITY__PRIORITY_NORMAL, 100, 1000)->id;
    struct job *running = submit(bench, "a", REFRAIN__PRIORITY__PRIORITY_NORMAL, 200, 1000);
    uint64_t never = submit_one(bench)->id, run = running->id;
    GOOD(jobs_start(bench->jobs, running, NULL, 1001, &error));
    GOOD(jobs_expire(bench->jobs, 1099, &error));
    assert_state(bench, soon, STATE(QUEUED));
    assert_int_equal(jobs_next_deadline_ms(bench->jobs), 1100);
    GOOD(jobs_expire(bench->jobs, 1100, &error));
    assert_state(bench, soon, STATE(EXPIRED));
    assert_int_equal(jobs_next_deadline_ms(bench->jobs), 1200);
    GOOD(jobs_expire(bench->jobs, 5000, &error));
    assert_state(bench, run, STATE(EXPIRED));
    assert_state(bench, never, STATE(QUEUED));
    assert_int_equal(jobs_next_deadline_ms(bench->jobs), INT64_MAX);
}

static void the_list_of_waiting_jobs_has_a_limit(void **state)
{
    struct bench *bench = *state;
    struct error error;
    uint64_t id;
    Refrain__JobSpec spec = whole_spec();
    struct submission submission = {.tenant = "local", .spec = &spec};
    for (int i = 0; i < 1000; i++) submit_one(bench);
    assert_int_equal(jobs_submit(bench->jobs, &submission, 1, &id, &error), STATUS_NO_MEMORY);
    GOOD(jobs_cancel(bench->jobs, jobs_at(bench->jobs, 500), 2, &error));
    GOOD(jobs_submit(bench->jobs, &submission, 3, &id, &error));
    assert_int_equal(jobs_ahead(bench->jobs, jobs_find(bench->jobs, id)), 999);
}

static void every_change_is_told_once(void **state)
{
    struct bench *bench = *state;
    struct error error;
    const uint64_t *ids;
    struct job *job = submit_one(bench);
    assert_int_equal(jobs_take_changed(bench->jobs, &ids), 1);
    assert_int_equal(ids[0], job->id);
    assert_int_equal(jobs_take_changed(bench->jobs, &ids), 0);
    GOOD(jobs_start(bench->jobs, job, NULL, 1001, &error));
    GOOD(jobs_cancel(bench->jobs, job, 1002, &error));
    assert_int_equal(jobs_take_changed(bench->jobs, &ids), 2);
}

#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(what_was_committed_is_there_again_and_what_was_not_is_gone),
        STORE_TEST(a_process_killed_in_mid_write_leaves_a_readable_store),
        STORE_TEST(a_write_that_fails_undoes_its_whole_batch_and_nothing_else),
        STORE_TEST(a_store_of_a_newer_schema_or_of_another_program_is_refused),
        STORE_TEST(tenants_are_told_apart_in_every_read),
        STORE_TEST(epochs_only_grow_also_over_restarts),
        STORE_TEST(a_deleted_job_s_number_is_not_given_again),
        STORE_TEST(only_legal_transitions_happen),
        STORE_TEST(history_tells_every_state_in_order_and_each_start_is_an_attempt),
        STORE_TEST(the_third_lost_group_fails_the_job_but_restarts_do_not_count),
        STORE_TEST(priority_then_submission_decides_and_a_returning_job_takes_its_old_place),
        STORE_TEST(jobs_expire_at_their_deadline_unless_they_end_before),
        STORE_TEST(the_list_of_waiting_jobs_has_a_limit),
        STORE_TEST(every_change_is_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
