/*
 * sim_lab.h - the laboratory of a test of the simulator, for cmocka_run_group_tests(tests, open_lab, close_lab) or
 * open_wide_lab.
 *
 * In a header, as the simulator is linked into its own tests alone.
 */
#ifndef REFRAIN_TESTS_SIM_LAB_H
#define REFRAIN_TESTS_SIM_LAB_H

#include "tools/sim/lab.h"

static struct lab lab;

static inline int open_lab(void **state)
{
    struct error error;
    if (lab_open("tests/models/tiny-a", &lab, &error) != STATUS_OK) fail_msg("%s", error.text);
    return 0;
}

enum { WIDE_HEADS = 8, WIDE_HEAD_DIM = 2 };

/* Of two experts, with heads for stages of eight. */
static inline int open_wide_lab(void **state)
{
    struct error error;
    if (lab_open("tests/models/tiny-d", &lab, &error) != STATUS_OK) fail_msg("%s", error.text);
    lab.heads = WIDE_HEADS;
    lab.head_dim = WIDE_HEAD_DIM;
    return 0;
}

static inline int close_lab(void **state)
{
    lab_close(&lab);
    return 0;
}

#endif
