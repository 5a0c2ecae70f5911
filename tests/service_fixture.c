/* service_fixture.c - see service_fixture.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <dirent.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/service_fixture.h"

enum { COMMAND_BYTES = 4096 };

char stand_directory[PATH_BYTES];

/* ------------------------------------------------------------------------------------------------ the run */

int stand_set_up(void **state)
{
    char program[PATH_BYTES], path[2 * PATH_BYTES + 64];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0);
    program[length] = 0;
    snprintf(stand_directory, sizeof stand_directory, "/tmp/refrain-service-XXXXXX");
    assert_non_null(mkdtemp(stand_directory));
    snprintf(path, sizeof path, "%s/..:%s", dirname(program), getenv("PATH"));
    setenv("PATH", path, 1);
    setenv("TMPDIR", stand_directory, 1);
    setenv("REFRAIN_RECOMPUTE", "1",
           1); /* the same job again is how most of them compare; who tests reuse takes it away */
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    return 0;
}

int stand_tear_down(void **state)
{
    static char text[TEXT_BYTES];
    shell(text, "rm -rf %s", stand_directory);
    return 0;
}

/* -------------------------------------------------------------------------------------------------- shell */

static int run_command(char *output, const char *command)
{
    char line[COMMAND_BYTES + 16];
    snprintf(line, sizeof line, "{ %s; } 2>&1", command);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    size_t got = fread(output, 1, TEXT_BYTES - 1, pipe);
    output[got] = 0;
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int shell(char *output, const char *format, ...)
{
    char command[COMMAND_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    return run_command(output, command);
}

void shell_run(char *output, const char *format, ...)
{
    char command[COMMAND_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    int code = run_command(output, command);
    if (code != 0) fail_msg("%s\nexit %d: %s", command, code, output);
}

pid_t program_start(const char *format, ...)
{
    char command[COMMAND_BYTES], line[COMMAND_BYTES + 16];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    snprintf(line, sizeof line, "exec %s", command);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing outlives a test that is stopped */
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    return pid;
}

void program_wait(pid_t pid, int seconds)
{
    int64_t deadline_ns = clock_now_ns() + seconds * SECOND_NS;
    while (waitpid(pid, NULL, WNOHANG) == 0) {
        if (clock_now_ns() > deadline_ns) fail_msg("process %d did not end within %d s", (int)pid, seconds);
        usleep(20000);
    }
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

void expect_equal_files(const char *a, const char *b)
{
    static char text[TEXT_BYTES];
    if (shell(text, "cmp %s %s", a, b) != 0) fail_msg("%s", text);
}

/* Processes of ours whose environment mentions this run's directory. */
static int processes_left(void)
{
    int count = 0;
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    assert_non_null(proc);
    while ((entry = readdir(proc))) {
        char path[300], text[4096];
        long pid = strtol(entry->d_name, NULL, 10);
        if (pid <= 0 || pid == getpid()) continue;
        snprintf(path, sizeof path, "/proc/%ld/environ", pid);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        size_t got = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        for (size_t i = 0; i < got; i++)
            if (!text[i]) text[i] = '\n';
        text[got] = 0;
        count += strstr(text, stand_directory) != NULL;
    }
    closedir(proc);
    return count;
}

void expect_nothing_left(void)
{
    for (int i = 0; i < 1500 && processes_left(); i++) usleep(20000); /* 30 s */
    if (processes_left()) fail_msg("%d processes are left behind", processes_left());
}

/* ------------------------------------------------------------------------------------------------ service */

void stand_start(struct stand *s, const char *name, int ranks, const char *options)
{
    char ready[PATH_BYTES + 64];
    snprintf(s->data, sizeof s->data, "%s/%s", stand_directory, name);
    snprintf(s->endpoint, sizeof s->endpoint, "ipc://%s.client", s->data);
    snprintf(ready, sizeof ready, "%s.ready", s->data);
    unlink(ready);
    s->coordinator =
        program_start("refrain-coordinator --data %s --launch %d --endpoint %s --worker-endpoint "
                      "ipc://%s.worker --endpoint-file %s %s 2>>%s.log",
                      s->data, ranks, s->endpoint, s->data, ready, options, s->data);
    setenv("REFRAIN_COORDINATOR", s->endpoint, 1);
    for (int i = 0; i < 3000 && !file_exists(ready); i++) usleep(20000);
    assert_true(file_exists(ready));
}

/* A rank that crashed is replaced so quickly that nobody would notice; Open MPI writes down how it ended, each line
 * behind the host and process. mpirun itself may crash while it ends after its ranks were killed (PMIx_Finalize of
 * Open MPI 4.1): its frames name it, and nothing of ours was in it. */
static void expect_no_crash(const struct stand *s)
{
    static char text[TEXT_BYTES];
    shell(text,
          "cat %s/workers.log* 2>/dev/null | awk '"
          "/Process received signal/ { crashed[$1] = 1 } "
          "$1 in crashed && / mpirun\\(/ { other[$1] = 1 } "
          "$1 in crashed { trace[$1] = trace[$1] $0 \"\\n\" } "
          "END { for (process in crashed) if (!(process in other)) printf \"%%s\", trace[process] }'",
          s->data);
    if (*text) fail_msg("a rank crashed: %s", text);
}

void stand_stop(struct stand *s)
{
    kill(s->coordinator, SIGTERM);
    program_wait(s->coordinator, 15);
    expect_nothing_left();
    expect_no_crash(s);
}

pid_t stand_last_rank(void)
{
    static char text[TEXT_BYTES];
    shell_run(text, "refrain stats --json");
    const char *found = NULL;
    for (const char *at = text; (at = strstr(at, "\"pid\":")); at++) found = at;
    assert_non_null(found);
    long pid = strtol(found + strlen("\"pid\":"), NULL, 10);
    assert_true(pid > 1);
    return (pid_t)pid;
}
