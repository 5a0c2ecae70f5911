/* policy_driver.c - see policy_driver.h. */
#include "tests/policy_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static const unsigned known_to_begin = SIGNAL_BIT(SIGNAL_PROBE_STEP) - 1;
static const unsigned known_to_probe = SIGNAL_BIT(SIGNAL_OUTPUT) - 1;
static const unsigned known_to_all = SIGNAL_BIT(SIGNALS) - 1;

void script_change(struct script *script, enum signal signal, double change)
{
    script->scripted |= SIGNAL_BIT(signal);
    script->sums[signal] = (struct sums){.difference = change, .now = 1, .before = 1, .count = 1};
}

void driver_values(const struct policy *policy, const char *settings, double value[POLICY_PARAMETERS])
{
    for (int i = 0; i < policy->parameter_count; i++) value[i] = policy->parameters[i].standard;
    while (*settings != '\0') {
        size_t name = strcspn(settings, "=");
        int i = 0;
        while (i < policy->parameter_count && (strlen(policy->parameters[i].name) != name ||
                                               strncmp(policy->parameters[i].name, settings, name) != 0))
            i++;
        if (i == policy->parameter_count || settings[name] == '\0')
            fail_msg("%s: no parameter '%s'", policy->name, settings);
        char *end;
        value[i] = strtod(settings + name + 1, &end);
        settings = *end == ',' ? end + 1 : end;
    }
}

void driver_refused(const struct policy *policy, const char *settings, const struct policy_job *job,
                    const char *begins)
{
    double value[POLICY_PARAMETERS];
    struct policy_plan plan = {0};
    struct error error = {0};
    driver_values(policy, settings, value);
    assert_int_not_equal(policy->plan(value, job, &plan, &error), STATUS_OK);
    if (strncmp(error.text, begins, strlen(begins)) != 0)
        fail_msg("'%s' does not begin '%s'", error.text, begins);
}

void driver_start(struct driver *d, const struct policy *policy, const char *settings,
                  const struct policy_job *job)
{
    struct error error = {0};
    memset(d, 0, sizeof *d);
    d->policy = policy;
    d->job = *job;
    driver_values(policy, settings, d->value);
    if (policy->plan(d->value, &d->job, &d->plan, &error) != STATUS_OK)
        fail_msg("%s: %s", policy->name, error.text);
    assert_true(policy->state_bytes <= POLICY_STATE_BYTES);
}

static struct policy_now now_of(struct driver *d, unsigned known)
{
    d->signals.known &= known;
    return (struct policy_now){.value = d->value,
                               .job = &d->job,
                               .step = d->step,
                               .run = d->run,
                               .total = d->total,
                               .history = &d->history,
                               .signals = &d->signals};
}

/* What has a reference: nothing at the first step; the older probes once two steps were computed. */
static unsigned measurable(const struct driver *d)
{
    unsigned older = SIGNAL_BIT(SIGNAL_PROBE_OLDER) | SIGNAL_BIT(SIGNAL_PROBE_HISTORY);
    if (d->step == 0) return 0;
    return d->computed < 2 ? d->plan.signals & ~older : d->plan.signals;
}

/* The engine's rule: a planned signal that is not finite, or whose reference is 0, computes. */
static bool non_finite(const struct driver *d, unsigned known)
{
    for (int i = 0; i < SIGNALS; i++)
        if (d->signals.known & known & SIGNAL_BIT(i) && !isfinite(relative_change(&d->signals.sums[i])))
            return true;
    return false;
}

static struct verdict decide(struct driver *d, unsigned measured)
{
    const struct verdict broken = {ACTION_COMPUTE, REASON_NON_FINITE, CHANGE_NONE};
    d->signals.known = measured;
    if (non_finite(d, known_to_begin)) return broken;
    struct policy_now now = now_of(d, known_to_begin);
    struct verdict v = d->policy->begin(&now, d->state);
    if (v.action == ACTION_PROBE) {
        assert_non_null(d->policy->probe);
        d->signals.known = measured;
        if (non_finite(d, known_to_probe)) return broken;
        now = now_of(d, known_to_probe);
        v = d->policy->probe(&now, d->state);
        assert_int_not_equal(v.action, ACTION_PROBE);
    }
    if (v.action == ACTION_REUSE && d->history.count == 0)
        v = (struct verdict){ACTION_COMPUTE, REASON_NO_HISTORY, CHANGE_NONE};
    return v;
}

static void push(struct driver *d)
{
    int slots = d->plan.slots > 0 ? d->plan.slots : 1;
    for (int j = slots - 1; j > 0; j--) {
        d->history.step[j] = d->history.step[j - 1];
        d->history.sigma[j] = d->history.sigma[j - 1];
    }
    d->history.step[0] = d->step;
    d->history.sigma[0] = d->job.sigmas != NULL ? d->job.sigmas[d->step] : 0;
    if (d->history.count < slots) d->history.count++;
}

static void finish(struct driver *d, unsigned measured, const struct verdict *taken)
{
    d->signals.known = measured;
    struct policy_now now = now_of(d, known_to_all);
    if (taken->action == ACTION_REUSE && d->policy->weights != NULL)
        d->policy->weights(&now, d->weights, d->state);
    if (d->policy->observe != NULL) d->policy->observe(&now, taken, d->state);
    bool reused = taken->action == ACTION_REUSE;
    d->actions[d->step] = reused ? 'R' : 'C';
    d->reasons[d->step] = taken->reason;
    d->changes[d->step] = taken->change;
    if (reused) {
        d->run++, d->total++;
    } else {
        push(d);
        d->run = 0, d->computed++;
    }
    d->step++;
}

void driver_step(struct driver *d, const struct script *script)
{
    unsigned measured = script->scripted & measurable(d);
    assert_true(d->step < d->job.steps && d->step < DRIVER_STEPS);
    memcpy(d->signals.sums, script->sums, sizeof d->signals.sums);
    struct verdict taken = decide(d, measured);
    finish(d, measured, &taken);
}

void driver_change(struct driver *d, enum signal signal, double change)
{
    struct script script = {0};
    script_change(&script, signal, change);
    driver_step(d, &script);
}

/* One block of a step; true: reused. */
static bool run_block(struct driver *d, int index, double change, float *measured, int *seen)
{
    struct sums input = {.difference = change, .now = 1, .before = 1, .count = 1};
    bool guarded = index < d->plan.head || index >= d->job.layers - d->plan.tail;
    bool looked = d->plan.block_signal && d->step > 0 && !guarded;
    struct block_now block = {
        .block = index, .input = looked ? &input : NULL, .seen = *seen, .changes = measured};
    struct policy_now now = now_of(d, 0);
    now.run = d->block_run[index];
    now.total = d->block_total[index];
    bool reuse = d->policy->block(&now, &block, d->state).action == ACTION_REUSE;
    if (looked && isfinite(change)) measured[(*seen)++] = (float)change;
    reuse = reuse && d->step > 0 && !guarded && (!looked || isfinite(change));
    d->block_run[index] = reuse ? d->block_run[index] + 1 : 0;
    d->block_total[index] += reuse;
    return reuse;
}

void driver_blocks(struct driver *d, const double *changes, char *letters)
{
    float measured[DRIVER_BLOCKS];
    int seen = 0;
    struct verdict taken = {ACTION_COMPUTE, REASON_BLOCKS, CHANGE_NONE};
    assert_true(d->job.layers <= DRIVER_BLOCKS);
    for (int b = 0; b < d->job.layers; b++) {
        bool reuse = run_block(d, b, changes[b], measured, &seen);
        letters[b] = reuse ? 'R' : 'C';
        if (reuse) taken.action = ACTION_REUSE;
    }
    letters[d->job.layers] = '\0';
    finish(d, 0, &taken);
}
