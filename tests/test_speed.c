/* test_speed.c - a rank's speed: a number for every backend, and a smaller one for the slower. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "tests/device.h"
#include "tests/guarded.h"
#include "worker/speed.h"

static double measure(const char *backend, int threads)
{
    struct error error = {0};
    struct team *team;
    double gflops = -1;
    const struct ops *ops = guarded_or(backend);
    assert_non_null(ops);
    team = device_team(ops, threads);
    if (speed_measure(ops, team, &gflops, &error) != STATUS_OK) fail_msg("%s: %s", backend, error.text);
    device_team_free(ops, team);
    return gflops;
}

static void every_backend_has_a_speed(void **state)
{
    static const char *const backends[] = {"auto", "ref"};
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        for (int threads = 1; threads <= 3; threads++) {
            double gflops = measure(backends[i], threads);
            print_message("%s, %d threads: %.2f GFLOP/s\n", backends[i], threads, gflops);
            assert_true(isfinite(gflops) && gflops > 0.001 && gflops < 1e6);
        }
}

/* What it is for: telling a fast rank from a slow one. Scalar C is many times slower than any vector unit. */
static void a_slower_backend_is_measured_slower(void **state)
{
    if (ops_find("auto") == ops_find("ref")) skip();
    assert_true(measure("auto", 1) > measure("ref", 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_backend_has_a_speed),
        cmocka_unit_test(a_slower_backend_is_measured_slower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
