/* client_fixture.c - see client_fixture.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/client_fixture.h"

#include "client/keeper.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int client_set_up(void **state)
{
    struct client_fixture *fixture = calloc(1, sizeof *fixture);
    strcpy(fixture->directory, "/tmp/test_client-XXXXXX");
    if (!mkdtemp(fixture->directory)) return -1;
    snprintf(fixture->endpoint, sizeof fixture->endpoint, "ipc://%s/socket", fixture->directory);
    fixture->video = malloc(CLIENT_VIDEO_BYTES);
    for (int i = 0; i < CLIENT_VIDEO_BYTES; i++) fixture->video[i] = (unsigned char)(i * 2654435761u >> 13);
    *state = fixture;
    return 0;
}

int client_tear_down(void **state)
{
    struct client_fixture *fixture = *state;
    keeper_remove_tree(fixture->directory);
    free(fixture->video);
    free(fixture);
    return 0;
}

struct refrain *client_connect(struct client_fixture *fixture)
{
    struct refrain *refrain = NULL;
    status_t status = refrain_connect(fixture->endpoint, NULL, CLIENT_CALL_MS, &refrain, &fixture->error);
    if (status) print_error("%s\n", fixture->error.text);
    assert_int_equal(status, STATUS_OK);
    return refrain;
}

const char *client_path(const struct client_fixture *fixture, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", fixture->directory, name);
    return path;
}

int client_entries(const char *directory)
{
    char command[300];
    snprintf(command, sizeof command, "ls -A %s | wc -l", directory);
    FILE *pipe = popen(command, "r");
    int count = -1;
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

struct fake_script client_script(const struct client_fixture *fixture)
{
    return (struct fake_script){.steps = 4,
                                .end = REFRAIN_COMPLETED,
                                .files = {{REFRAIN_VIDEO, fixture->video, CLIENT_VIDEO_BYTES},
                                          {REFRAIN_SHEET, (const unsigned char *)"sheet", 5},
                                          {REFRAIN_LATENTS, (const unsigned char *)"", 0}}};
}

void client_assert_file(const char *path, const unsigned char *bytes, size_t size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    unsigned char *read = malloc(size + 1);
    assert_int_equal(fread(read, 1, size + 1, file), size);
    assert_memory_equal(read, bytes, size);
    fclose(file);
    free(read);
}

/* Fetches the video of job 1 to "out/video.mp4" under a script; leaves what is in out/ for the caller to look
 * at. */

int client_run_verb(int (*verb)(struct cli *), unsigned bit, struct client_fixture *fixture, char *output,
                    size_t size, const char *const *words)
{
    const char *argv[32] = {"refrain"};
    int argc = 1;
    argv[argc++] = "--coordinator";
    argv[argc++] = fixture->endpoint;
    while (*words) argv[argc++] = *words++;
    struct cli cli = {.signal_fd = -1, .style = {.unicode = true, .columns = 100}};
    assert_int_equal(options_parse(settings_table(), bit, argc, (char **)(uintptr_t)argv, &cli.settings,
                                   &cli.options, &fixture->error),
                     STATUS_OK);
    fflush(stdout);
    char path[128];
    snprintf(path, sizeof path, "%s/stdout", fixture->directory);
    int kept = dup(STDOUT_FILENO), file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDOUT_FILENO);
    int code = verb(&cli);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    ssize_t length = pread(file, output, size - 1, 0);
    output[length > 0 ? length : 0] = 0;
    close(kept);
    close(file);
    unlink(path);
    refrain_close(cli.refrain);
    options_destroy(cli.options);
    if (cli.signal_fd >= 0) close(cli.signal_fd);
    return code;
}
