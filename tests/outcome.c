/* outcome.c - see outcome.h. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/outcome.h"

enum { SECONDS_MAX = 60 };

static void become(const char *const program[], const char *const environment[], int output)
{
    alarm(SECONDS_MAX);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    for (int i = 0; environment && environment[i]; i++) putenv((char *)environment[i]);
    execv(program[0], (char *const *)program);
    _exit(127);
}

static char *read_all(int fd)
{
    size_t used = 0, room = 1 << 16;
    char *text = malloc(room);
    for (ssize_t got; text && (got = read(fd, text + used, room - used - 1)) > 0;) {
        used += (size_t)got;
        if (room - used < 2) text = realloc(text, room *= 2);
    }
    assert_non_null(text);
    text[used] = '\0';
    return text;
}

struct outcome outcome_of(const char *const program[], const char *const environment[])
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) become(program, environment, ends[1]);
    close(ends[1]);
    struct outcome outcome = {.text = read_all(ends[0])};
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
        outcome.signal = WTERMSIG(status);
    else
        outcome.status = WEXITSTATUS(status);
    if (outcome.status == 127) fail_msg("%s cannot be started", program[0]);
    return outcome;
}

bool outcome_says(const struct outcome *outcome, const char *text)
{
    if (strstr(outcome->text, text)) return true;
    print_message("status %d, signal %d, and not \"%s\" but:\n%s\n", outcome->status, outcome->signal, text,
                  outcome->text);
    return false;
}

void outcome_free(struct outcome *outcome)
{
    free(outcome->text);
    outcome->text = NULL;
}
