/* rerun.c - see rerun.h. */
#include "tests/rerun.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

const char *rerun_program;

void rerun(char text[RERUN_TEXT], const char *option, const char *value, const char *const *settings)
{
    int channel[2], status;
    assert_int_equal(pipe(channel), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(channel[1], STDOUT_FILENO);
        dup2(channel[1], STDERR_FILENO);
        close(channel[0]);
        close(channel[1]);
        for (; *settings; settings++) putenv((char *)(uintptr_t)*settings);
        alarm(RERUN_SECONDS);
        execl(rerun_program, rerun_program, option, value, (char *)NULL);
        _exit(127);
    }
    close(channel[1]);
    size_t length = 0;
    for (ssize_t got; (got = read(channel[0], text + length, RERUN_TEXT - 1 - length)) > 0;)
        length += (size_t)got;
    text[length] = 0;
    close(channel[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("%s %s ended with %#x: %s", option, value, (unsigned)status, text);
}
