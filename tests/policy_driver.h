/*
 * policy_driver.h - runs a policy's hooks over a scripted series of signals, in the engine's order and with
 * its guarantees, without any tensor.
 *
 *     struct driver d;
 *     driver_start(&d, &policy_fbcache, "threshold=0.1", &job);
 *     struct script s = {0};
 *     script_change(&s, SIGNAL_PROBE, 0.05);
 *     driver_step(&d, &s);                              decides, reuses or computes, observes
 *     assert_string_equal(d.actions, "C");              one letter per step: C computed, R reused
 *
 * One branch. References exist from the second step on, those to the last computed step but one from the
 * third computed step on; before that the scripted signal is not known to the hooks, whatever the script
 * says.
 */
#ifndef REFRAIN_TESTS_POLICY_DRIVER_H
#define REFRAIN_TESTS_POLICY_DRIVER_H

#include "cache/policy.h"

enum { DRIVER_STEPS = 256, DRIVER_BLOCKS = 64 };

/* What a step's measurements would give. */
struct script {
    unsigned scripted; /* bits */
    struct sums sums[SIGNALS];
};

/* The signal's relative change: sum |now - before| / sum |before|, of tensors whose sums are 1. */
void script_change(struct script *script, enum signal signal, double change);

struct driver {
    const struct policy *policy;
    double value[POLICY_PARAMETERS];
    struct policy_job job;
    struct policy_plan plan;
    struct history history;
    struct signals signals;
    _Alignas(16) unsigned char state[POLICY_STATE_BYTES];
    int step, run, total, computed;
    int block_run[DRIVER_BLOCKS], block_total[DRIVER_BLOCKS];
    char actions[DRIVER_STEPS + 1];    /* 'C', 'R' */
    enum reason reasons[DRIVER_STEPS]; /* of each step */
    float changes[DRIVER_STEPS];
    double weights[CACHE_SLOTS]; /* of the last reused step, of a policy that has its own */
};

/* The policy's defaults with "name=value,..." over them; an unknown name fails the running test. */
void driver_values(const struct policy *policy, const char *settings, double value[POLICY_PARAMETERS]);

/* The plan must be refused with a sentence that begins so. */
void driver_refused(const struct policy *policy, const char *settings, const struct policy_job *job,
                    const char *begins);

/* Plans and starts; a plan that is refused fails the running test. The job is copied, what it points at is
 * not. */
void driver_start(struct driver *driver, const struct policy *policy, const char *settings,
                  const struct policy_job *job);
/* One step. Not for SITE_BLOCKS. */
void driver_step(struct driver *driver, const struct script *script);
/* A step whose only signal changes by so much. */
void driver_change(struct driver *driver, enum signal signal, double change);

/* SITE_BLOCKS: one step, block by block. changes: [layers], of each block's input against its last
 * computation; letters: [layers + 1], 'C' or 'R' of each. Counts of reused steps are each block's own;
 * protected blocks compute and are not measured. */
void driver_blocks(struct driver *driver, const double *changes, char *letters);

#endif
