/*
 * service_fixture.h - what tests of the three programs together share: a shell with the programs of this
 * build on its PATH, a directory for the run, a coordinator with ranks, and what must hold when they have
 * ended.
 *
 *     cmocka_run_group_tests(tests, stand_set_up, stand_tear_down)
 *
 *     struct stand s;
 *     stand_start(&s, "queue", 2, "");
 *     shell_run(text, "refrain submit --wait ...");
 *     stand_stop(&s);
 *
 * Every function fails the cmocka test it runs in when something is not as it should be.
 */
#ifndef REFRAIN_TESTS_SERVICE_FIXTURE_H
#define REFRAIN_TESTS_SERVICE_FIXTURE_H

#include <stdbool.h>
#include <sys/types.h>

enum { TEXT_BYTES = 262144, PATH_BYTES = 512 };

extern char stand_directory[PATH_BYTES]; /* of this run: data, results, TMPDIR */

int stand_set_up(void **state);
int stand_tear_down(void **state);

/* Runs a command line (the programs' directory is on its PATH) and returns its exit code; `output`
 * [TEXT_BYTES] holds both streams. */
int shell(char *output, const char *format, ...);

/* The same, expected to succeed. */
void shell_run(char *output, const char *format, ...);

/* Starts a program that goes on running; it does not outlive the test. */
pid_t program_start(const char *format, ...);
void program_wait(pid_t pid, int seconds);

bool file_exists(const char *path);
void expect_equal_files(const char *a, const char *b);

/* No process of this run is there after 5 s. */
void expect_nothing_left(void);

struct stand {
    pid_t coordinator;
    char data[PATH_BYTES + 16], endpoint[PATH_BYTES + 32];
};

/* A coordinator with its data in stand_directory/NAME, where REFRAIN_COORDINATOR then points; again with
 * the same name: restarted. options: more of its command line. */
void stand_start(struct stand *s, const char *name, int ranks, const char *options);
void stand_stop(struct stand *s);

/* The process of the last rank, as the service itself names it. */
pid_t stand_last_rank(void);

#endif
