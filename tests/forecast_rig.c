/* forecast_rig.c - see forecast_rig.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "tests/forecast_rig.h"

const struct forecast *rig_find(const char *name, size_t length)
{
    for (int i = 0; forecasts[i] != NULL; i++)
        if (strlen(forecasts[i]->name) == length && memcmp(forecasts[i]->name, name, length) == 0)
            return forecasts[i];
    fail_msg("no forecast %.*s", (int)length, name);
    return NULL;
}

void rig_open(struct rig *rig, const char *text)
{
    memset(rig, 0, sizeof *rig);
    const char *at = text + strcspn(text, ":");
    rig->forecast = rig_find(text, (size_t)(at - text));
    rig->job = (struct policy_job){.steps = 50, .layers = 4, .branches = 2, .shift = 3};
    assert_true(rig->forecast->state_bytes <= sizeof rig->state);
    for (int i = 0; i < rig->forecast->parameter_count; i++)
        rig->value[i] = rig->forecast->parameters[i].standard;
    while (*at != '\0') {
        size_t length = strcspn(++at, "=");
        int i = 0;
        while (i < rig->forecast->parameter_count &&
               (strlen(rig->forecast->parameters[i].name) != length ||
                memcmp(rig->forecast->parameters[i].name, at, length) != 0))
            i++;
        if (i == rig->forecast->parameter_count) fail_msg("%s: no such parameter: %s", text, at);
        char *end;
        rig->value[i] = strtod(at + length + 1, &end);
        assert_in_range((long)(rig->value[i] * 1000), (long)(rig->forecast->parameters[i].min * 1000),
                        (long)(rig->forecast->parameters[i].max * 1000));
        at = end;
    }
}

void rig_compute(struct rig *rig, int step, const double *x)
{
    struct history *h = &rig->history;
    int slots = rig->forecast->slots(rig->value, &rig->job);
    assert_in_range(slots, 1, CACHE_SLOTS);
    int kept = h->count < slots ? h->count : slots - 1;
    memmove(rig->ring + 1, rig->ring, (size_t)kept * sizeof rig->ring[0]);
    memmove(h->step + 1, h->step, (size_t)kept * sizeof h->step[0]);
    memcpy(rig->ring[0], x, sizeof rig->ring[0]);
    h->step[0] = step;
    h->count = kept + 1;
    for (int i = 0; i < h->count; i++)
        for (int j = 0; j < h->count; j++) {
            h->gram[i][j] = 0;
            for (int k = 0; k < WIDTH; k++) h->gram[i][j] += rig->ring[i][k] * rig->ring[j][k];
        }
    struct forecast_now now = {rig->value, &rig->job, step, h};
    if (rig->forecast->observe != NULL) rig->forecast->observe(&now, rig->state);
}

void rig_weights(struct rig *rig, int step)
{
    for (int set = 0; set < FORECAST_SETS; set++)
        for (int j = 0; j < CACHE_SLOTS; j++) rig->weights[set][j] = j < rig->history.count ? NAN : 0;
    struct forecast_now now = {rig->value, &rig->job, step, &rig->history};
    rig->forecast->weights(&now, rig->weights, rig->state);
}

double rig_said(const struct rig *rig, int set, int dimension)
{
    double sum = 0;
    for (int j = 0; j < rig->history.count; j++) sum += rig->weights[set][j] * rig->ring[j][dimension];
    return sum;
}

int rig_sets(const struct rig *rig)
{
    if (rig->forecast->bands == 2) return 2;
    return rig->forecast->groups > 1 ? rig->forecast->groups : 1;
}

void rig_series(struct rig *rig, const char *text, const int *steps, int count, double (*f)(double))
{
    rig_open(rig, text);
    for (int i = 0; i < count; i++) {
        double x[WIDTH];
        for (int k = 0; k < WIDTH; k++) x[k] = f(steps[i]);
        rig_compute(rig, steps[i], x);
    }
}
