/*
 * test_chaos.c - for two minutes jobs of mixed policies, sizes and solvers come in while random processes of the
 * service are killed or stopped; every job must end completed, with the latents of its undisturbed run.
 *
 * REFRAIN_CHAOS_SECONDS: how long (120). REFRAIN_CHAOS_SEED: which faults (printed, to repeat a run).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "client/librefrain.h"
#include "tests/service_fixture.h"

enum { RANKS = 3, MOST_JOBS = 4000, MOST_VICTIMS = 64, AHEAD = 6, SETTLE_SECONDS = 240, ANSWER_MS = 20000 };

/* What is made again and again. */
static const struct kind {
    unsigned side, frames, steps;
    const char *cache; /* NULL: off */
    enum refrain_solver solver;
    double guidance;
    bool compare;
} kinds[] = {
    {32, 9, 12, NULL, REFRAIN_SOLVER_UNIPC, 5, false},
    {64, 17, 14, NULL, REFRAIN_SOLVER_UNIPC, 5, false},
    {64, 17, 20, "balanced", REFRAIN_SOLVER_UNIPC, 5, false},
    {64, 17, 16, "fbcache:threshold=0.2", REFRAIN_SOLVER_UNIPC, 5, false},
    {64, 17, 18, "interval:N=3,forecast=taylor", REFRAIN_SOLVER_UNIPC, 5, false},
    {32, 9, 12, "layers", REFRAIN_SOLVER_UNIPC, 5, false},
    {32, 9, 20, "zeus", REFRAIN_SOLVER_UNIPC, 5, false},
    {32, 9, 18, "specache", REFRAIN_SOLVER_UNIPC, 5, false},
    {32, 9, 10, NULL, REFRAIN_SOLVER_EULER, 1, false},
    {32, 17, 12, "fast", REFRAIN_SOLVER_EULER, 5, true},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

struct made {
    uint64_t number;
    int kind;
};

static struct stand stand;
static struct refrain *client;
static const char options[] = "--threads 1 --in-flight 4";
static char text[TEXT_BYTES];
static uint64_t reference[KINDS]; /* jobs */
static struct made jobs[MOST_JOBS];
static int job_count;

/* ------------------------------------------------------------------------------------------------ victims */

struct victim {
    pid_t pid;
    char name[32];
};

/* Processes of this run by their program's name: they carry its directory in their environment. */
static int find_victims(const char *program, struct victim *victims)
{
    int count = 0;
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    assert_non_null(proc);
    while ((entry = readdir(proc)) && count < MOST_VICTIMS) {
        static char environment[65536];
        char path[300], name[32] = "";
        long pid = strtol(entry->d_name, NULL, 10);
        if (pid <= 1 || pid == getpid()) continue;
        snprintf(path, sizeof path, "/proc/%ld/comm", pid);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        if (fgets(name, sizeof name, file)) name[strcspn(name, "\n")] = 0;
        fclose(file);
        if (strncmp(name, program, strlen(program)) != 0) continue;
        snprintf(path, sizeof path, "/proc/%ld/environ", pid);
        if (!(file = fopen(path, "r"))) continue;
        size_t got = fread(environment, 1, sizeof environment - 1, file);
        fclose(file);
        environment[got] = 0;
        if (!memmem(environment, got, stand_directory, strlen(stand_directory))) continue;
        victims[count].pid = (pid_t)pid;
        snprintf(victims[count++].name, sizeof victims->name, "%s", name);
    }
    closedir(proc);
    return count;
}

static unsigned random_below(unsigned below)
{
    return (unsigned)random() % below;
}

static bool strike_one(const char *program, int number)
{
    struct victim victims[MOST_VICTIMS];
    int count = find_victims(program, victims);
    if (count == 0) return false;
    const struct victim *victim = &victims[random_below((unsigned)count)];
    print_message("  %s %s (process %d)\n", number == SIGKILL ? "kill" : "stop", victim->name, (int)victim->pid);
    return kill(victim->pid, number) == 0;
}

/* The coordinator comes back as its supervisor would bring it back. */
static void strike_coordinator(void)
{
    print_message("  kill the coordinator\n");
    kill(stand.coordinator, SIGKILL);
    waitpid(stand.coordinator, NULL, 0);
    usleep(1000 * random_below(1500));
    stand_start(&stand, "chaos", RANKS, options);
}

static void wake_coordinator_later(void)
{
    print_message("  stop the coordinator for a moment\n");
    kill(stand.coordinator, SIGSTOP);
    usleep(1000 * (200 + random_below(2500)));
    kill(stand.coordinator, SIGCONT);
}

/* Most faults hit a rank, as in life; the others hit what holds the ranks together. */
static void strike(void)
{
    unsigned dice = random_below(20);
    if (dice < 9) {
        strike_one("refrain-worker", SIGKILL);
    } else if (dice < 12) {
        strike_one("refrain-worker", SIGSTOP);
    } else if (dice < 14) {
        strike_one("refrain-worker", SIGKILL);
        strike_one("refrain-worker", SIGKILL);
    } else if (dice < 16) {
        strike_one("mpirun", SIGKILL);
    } else if (dice < 17) {
        strike_one("refrain-launch", SIGKILL);
    } else if (dice < 19) {
        strike_coordinator();
    } else {
        wake_coordinator_later();
    }
    if (random_below(6) == 0) { /* and something else at once */
        strike_one("refrain-worker", SIGKILL);
        if (random_below(2)) strike_coordinator();
    }
}

/* --------------------------------------------------------------------------------------------------- jobs */

static size_t unfinished(void)
{
    struct error error;
    struct refrain_job_list *list;
    if (refrain_list(client, 0, 0, true, ANSWER_MS, &list, &error) != STATUS_OK) fail_msg("%s", error.text);
    size_t count = list->count;
    refrain_free(list);
    return count;
}

static unsigned submitted;

/* Half of the jobs may take what others have made, half may not. */
static uint64_t submit(int kind)
{
    const struct kind *k = &kinds[kind];
    struct error error;
    struct refrain_job *job;
    struct refrain_spec spec = REFRAIN_SPEC_INIT;
    spec.model = "ref";
    spec.prompt = "a red star spinning";
    spec.seed = 5;
    spec.width = spec.height = k->side;
    spec.frames = k->frames;
    spec.steps = k->steps;
    spec.cache = k->cache;
    spec.solver = k->solver;
    spec.guidance = k->guidance;
    spec.compare = k->compare;
    spec.save_latents = true;
    spec.recompute = submitted++ % 2;
    if (refrain_submit(client, &spec, NULL, ANSWER_MS, &job, &error) != STATUS_OK) fail_msg("%s", error.text);
    uint64_t number = job->number;
    refrain_free(job);
    return number;
}

/* The undisturbed run of each kind, alone on the same ranks. */
static void make_references(void)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct error error;
        struct refrain_job *job;
        reference[kind] = submit(kind);
        status_t status = refrain_status(client, reference[kind], ANSWER_MS, &job, &error);
        if (status == STATUS_OK) status = refrain_wait(client, &job, 120000, &error);
        if (status != STATUS_OK) fail_msg("%s", error.text);
        if (job->state != REFRAIN_COMPLETED) fail_msg("the undisturbed job %d failed: %s", kind, job->message);
        refrain_free(job);
    }
}

/* False: it did not complete. */
static bool compare(const struct made *made)
{
    struct error error;
    struct refrain_job *job;
    char a[PATH_BYTES + 64], b[PATH_BYTES + 64];
    if (refrain_status(client, made->number, ANSWER_MS, &job, &error) != STATUS_OK) fail_msg("%s", error.text);
    bool completed = job->state == REFRAIN_COMPLETED;
    if (!completed)
        print_message("job %lu, kind %d: %s, %s\n", (unsigned long)made->number, made->kind,
                      refrain_state_name(job->state), job->message ? job->message : "");
    refrain_free(job);
    if (!completed) return false;
    snprintf(a, sizeof a, "%s/results/%lu/latents.safetensors", stand.data, (unsigned long)made->number);
    snprintf(b, sizeof b, "%s/results/%lu/latents.safetensors", stand.data, (unsigned long)reference[made->kind]);
    expect_equal_files(a, b);
    return true;
}

static int seconds_wanted(void)
{
    const char *given = getenv("REFRAIN_CHAOS_SECONDS");
    return given ? atoi(given) : 120;
}

static void wait_for_all(void)
{
    for (int64_t end_ns = clock_now_ns() + SETTLE_SECONDS * SECOND_NS; unfinished() != 0; usleep(200000))
        if (clock_now_ns() > end_ns) {
            shell(text, "refrain list --active; refrain stats; tail -40 %s.log", stand.data);
            fail_msg("jobs do not end: %s", text);
        }
}

static void disturb(int seconds)
{
    int faults = 0;
    int64_t end_ns = clock_now_ns() + seconds * SECOND_NS, strike_ns = clock_now_ns() + SECOND_NS;
    while (clock_now_ns() < end_ns) {
        for (size_t i = unfinished(); i < AHEAD && job_count < MOST_JOBS; i++) {
            int kind = (int)random_below(KINDS);
            jobs[job_count++] = (struct made){submit(kind), kind};
        }
        if (clock_now_ns() >= strike_ns) {
            strike();
            faults++;
            strike_ns = clock_now_ns() + (500 + random_below(5000)) * MILLISECOND_NS;
        }
        usleep(100000);
    }
    print_message("%d faults, %d jobs\n", faults, job_count);
}

static void jobs_survive_everything_with_the_same_bits(void **state)
{
    const char *seed_text = getenv("REFRAIN_CHAOS_SEED");
    unsigned seed = seed_text ? (unsigned)atoi(seed_text) : (unsigned)time(NULL);
    struct error error;
    int completed = 0;
    srandom(seed);
    stand_start(&stand, "chaos", RANKS, options);
    shell_run(text, "refrain models add ref models/reference");
    if (refrain_connect(stand.endpoint, NULL, ANSWER_MS, &client, &error) != STATUS_OK) fail_msg("%s", error.text);
    make_references();
    print_message("seed %u\n", seed);
    disturb(seconds_wanted());
    wait_for_all();
    for (int i = 0; i < job_count; i++) completed += compare(&jobs[i]);
    assert_int_equal(completed, job_count);
    assert_true(job_count > 0);
    refrain_close(client);
    stand_stop(&stand);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(jobs_survive_everything_with_the_same_bits)};
    return cmocka_run_group_tests(tests, stand_set_up, stand_tear_down);
}
