/* moving.c - see moving.h. */
#include "tests/moving.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TRIES = 3000, PAUSE_US = 40000 };

static char text[TEXT_BYTES];

static int number_after(const char *name)
{
    const char *at = strstr(text, name);
    return at ? atoi(at + strlen(name)) : 0;
}

void moving_submit(const char *options, char number[MOVING_NUMBER_BYTES])
{
    shell_run(text, "refrain submit --quiet --model reference %s", options);
    snprintf(number, MOVING_NUMBER_BYTES, "%lu", strtoul(text, NULL, 10));
}

void moving_fetch(const char *number, const char *name)
{
    shell_run(text, "refrain watch %s --quiet", number);
    shell_run(text, "refrain result %s --output %s/%s.mp4", number, stand_directory, name);
}

void moving_expect_equal(const char *name, const char *other)
{
    char a[PATH_BYTES + 32], b[PATH_BYTES + 32];
    snprintf(a, sizeof a, "%s/%s.mp4", stand_directory, name);
    snprintf(b, sizeof b, "%s/%s.mp4", stand_directory, other);
    expect_equal_files(a, b);
}

void moving_wait_step(const char *number, int step)
{
    for (int i = 0; i < TRIES; i++, usleep(PAUSE_US)) {
        shell_run(text, "refrain status %s --json", number);
        if (strstr(text, "\"state\":\"completed\"")) fail_msg("job %s was too quick", number);
        if (number_after("\"step\":") >= step) return;
    }
    fail_msg("job %s makes no way", number);
}

int moving_attempts(const char *number)
{
    shell_run(text, "refrain status %s --json", number);
    return number_after("\"attempt\":");
}

int moving_wait_attempt(const char *number, int attempt)
{
    int now = 0;
    for (int i = 0; i < TRIES && now < attempt; i++, usleep(PAUSE_US)) now = moving_attempts(number);
    if (now < attempt) fail_msg("job %s is in attempt %d, not %d", number, now, attempt);
    return now;
}

int moving_ranks(const char *state)
{
    shell_run(text, "refrain ranks --json | tr ',' '\\n' | grep -c '\"state\":\"%s\"' || true", state);
    return atoi(text);
}

void moving_wait_ranks(const char *state, int count)
{
    for (int i = 0; i < TRIES && moving_ranks(state) != count; i++) usleep(PAUSE_US);
    if (moving_ranks(state) != count) fail_msg("%d ranks are %s, not %d", moving_ranks(state), state, count);
}
