/*
 * client_fixture.h - what the client's tests share: a directory and an endpoint of their own, and a video
 * that does not fit one chunk.
 *
 *     cmocka_unit_test_setup_teardown(test, client_set_up, client_tear_down)
 */
#ifndef REFRAIN_TESTS_CLIENT_FIXTURE_H
#define REFRAIN_TESTS_CLIENT_FIXTURE_H

#include "client/cli.h"
#include "tests/fake_coordinator.h"

enum { CLIENT_CALL_MS = 5000, CLIENT_VIDEO_BYTES = 3 * 512 * 1024 + 1234 };

struct client_fixture {
    char directory[64], endpoint[96];
    unsigned char *video; /* [CLIENT_VIDEO_BYTES] */
    struct error error;
};

int client_set_up(void **state);
int client_tear_down(void **state);

/* A connection to the fixture's endpoint, where a fake must listen. */
struct refrain *client_connect(struct client_fixture *fixture);

/* A path in the fixture's directory; valid until the next call. */
const char *client_path(const struct client_fixture *fixture, const char *name);

/* How many entries a directory has, hidden ones too. */
int client_entries(const char *directory);

/* A job that completes with a video, a contact sheet of "sheet", and empty latents. */
struct fake_script client_script(const struct client_fixture *fixture);

/* Fails unless the file holds exactly these bytes. */
void client_assert_file(const char *path, const unsigned char *bytes, size_t size);

/* Runs `verb` as the command line would, on the fixture's endpoint and with standard output in a file;
 * returns the exit code. words: what comes after the verb, NULL at the end; output: [size], what it printed.
 */
int client_run_verb(int (*verb)(struct cli *), unsigned bit, struct client_fixture *fixture, char *output,
                    size_t size, const char *const *words);

#endif
