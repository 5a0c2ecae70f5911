/*
 * clock.h - monotonic time and deadlines.
 *
 *     int64_t deadline_ns = clock_now_ns() + 2 * SECOND_NS;
 *     poll(&fd, 1, clock_poll_ms(deadline_ns));
 *
 * The two clocks are functions of a file of their own, so that a simulation can link another one.
 */
#ifndef REFRAIN_BASE_CLOCK_H
#define REFRAIN_BASE_CLOCK_H

#include <stdint.h>

#define MILLISECOND_NS INT64_C(1000000)
#define SECOND_NS      INT64_C(1000000000)
#define CLOCK_NEVER    INT64_MAX /* a deadline that does not come */

/* Nanoseconds since some fixed moment; never goes back. */
int64_t clock_now_ns(void);

/* Milliseconds since 1970, for what is stored and shown. */
int64_t clock_wall_ms(void);

/* What is left until `deadline_ns` in poll's unit: -1 for never, 0 once passed, otherwise rounded up. */
static inline int clock_poll_ms(int64_t deadline_ns)
{
    if (deadline_ns == CLOCK_NEVER) return -1;
    int64_t left = deadline_ns - clock_now_ns();
    if (left <= 0) return 0;
    int64_t ms = (left + MILLISECOND_NS - 1) / MILLISECOND_NS;
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

#endif
