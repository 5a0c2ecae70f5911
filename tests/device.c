/* device.c - see device.h. */
#include "tests/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

static void expect(status_t status, const struct error *error)
{
    if (status != STATUS_OK) fail_msg("%s", error->text);
}

struct team *device_team(const struct ops *ops, int threads)
{
    struct team *team;
    struct error error;
    expect(team_create(threads, &team, &error), &error);
    expect(ops->open(team, &error), &error);
    return team;
}

void device_team_free(const struct ops *ops, struct team *team)
{
    ops->close(team);
    team_destroy(team);
}

void device_wait(const struct ops *ops, struct team *team)
{
    struct error error;
    expect(ops->wait(team, &error), &error);
}

float *device_floats(const struct ops *ops, struct team *team, const float *values, int64_t count)
{
    void *memory;
    struct error error;
    size_t bytes = (size_t)count * sizeof *values;
    expect(ops->allocate(MEMORY_DEVICE, bytes, &memory, &error), &error);
    if (values) {
        ops->copy(team, memory, values, bytes);
        device_wait(ops, team);
    }
    return memory;
}

float *device_fetch(const struct ops *ops, struct team *team, const float *x, int64_t count)
{
    size_t bytes = (size_t)count * sizeof *x;
    float *values = malloc(bytes);
    assert_non_null(values);
    ops->copy(team, values, x, bytes);
    device_wait(ops, team);
    return values;
}

void device_free(const struct ops *ops, struct team *team, void *memory)
{
    device_wait(ops, team);
    ops->release(MEMORY_DEVICE, memory);
}

float *device_shared(const struct ops *ops, int64_t count)
{
    void *memory;
    struct error error;
    expect(ops->allocate(MEMORY_SHARED, (size_t)count * sizeof(float), &memory, &error), &error);
    return memory;
}

void device_free_shared(const struct ops *ops, struct team *team, void *memory)
{
    device_wait(ops, team);
    ops->release(MEMORY_SHARED, memory);
}
