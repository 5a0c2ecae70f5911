/* schedule.c - see schedule.h. */
#include "cache/schedule.h"

#include <math.h>

/* numpy.linspace(from, to, points)[index], rounding included: the last point is `to` itself. */
static double linspace(double from, double to, int points, int index)
{
    if (points == 1) return from;
    if (index == points - 1) return to;
    return index * ((to - from) / (points - 1)) + from;
}

/* Moves steps towards the noisy end (Esser et al. 2024, section 5.3.2). */
static double shifted(double shift, double sigma)
{
    return shift * sigma / (1 + (shift - 1) * sigma);
}

/* Stretches sigmas [steps] so that the last becomes `terminal`; 0 leaves them alone. */
static status_t stretch(double terminal, double *sigmas, int steps, struct error *error)
{
    if (terminal == 0) return STATUS_OK;
    double scale = (1 - sigmas[steps - 1]) / (1 - terminal);
    if (!(scale > 0))
        return error_set(error, STATUS_INVALID, "shift_terminal %g: needs more than %d steps", terminal,
                         steps);
    for (int i = 0; i < steps; i++) sigmas[i] = 1 - (1 - sigmas[i]) / scale;
    return STATUS_OK;
}

static status_t make_unipc(const struct schedule *s, int steps, double *exact, float *timesteps,
                           float *sigmas, struct error *error)
{
    int train = s->train_steps;
    for (int i = 0; i < steps; i++)
        exact[i] = shifted(s->shift, linspace(1.0, 1.0 / train, steps + 1, i));
    status_t status = stretch(s->terminal, exact, steps, error);
    if (status != STATUS_OK) return status;
    if (fabs(exact[0] - 1) < 1e-6) exact[0] -= 1e-6; /* ln(1 - sigma) must be finite */
    for (int i = 0; i < steps; i++) {
        sigmas[i] = (float)exact[i];
        timesteps[i] = (float)trunc(exact[i] * train); /* an integer: 999 first, not 1000 */
        if (!(sigmas[i] > 0 && sigmas[i] < (i == 0 ? 1.0f : sigmas[i - 1])))
            return error_set(error, STATUS_INVALID, "shift %g with %d steps: sigma does not fall at step %d",
                             s->shift, steps, i);
    }
    sigmas[steps] = s->final_sigma_min ? sigmas[steps - 1] : 0.0f;
    return STATUS_OK;
}

/* A shifted end point as the class's constructor leaves it: all float32. step: 1..train_steps. */
static double end_point(double shift, int step, int train_steps)
{
    float sigma = (float)step / (float)train_steps;
    return (float)shift * sigma / (1.0f + (float)(shift - 1) * sigma);
}

/* The class's peculiarities included: the end points are shifted (in float32, in the constructor there) and every
 * point between them is shifted once more. */
static status_t make_euler(const struct schedule *s, int steps, double *exact, float *timesteps,
                           float *sigmas, struct error *error)
{
    int train = s->train_steps;
    double first = end_point(s->shift, train, train) * train, last = end_point(s->shift, 1, train) * train;
    for (int i = 0; i < steps; i++) exact[i] = shifted(s->shift, linspace(first, last, steps, i) / train);
    status_t status = stretch(s->terminal, exact, steps, error);
    if (status != STATUS_OK) return status;
    for (int i = 0; i < steps; i++) {
        sigmas[i] = (float)exact[i];
        timesteps[i] = sigmas[i] * (float)train;
    }
    sigmas[steps] = 0;
    return STATUS_OK;
}

status_t schedule_make(const struct schedule *s, int steps, float *timesteps, float *sigmas,
                       struct error *error)
{
    double exact[SCHEDULE_STEPS];
    if (steps < 1 || steps > SCHEDULE_STEPS)
        return error_set(error, STATUS_INVALID, "steps %d: must be 1 to %d", steps, SCHEDULE_STEPS);
    return (s->kind == SCHEDULE_EULER ? make_euler : make_unipc)(s, steps, exact, timesteps, sigmas, error);
}

bool schedule_beyond(double boundary, int train_steps, float timestep)
{
    return timestep < (float)(boundary * train_steps);
}

int schedule_switch(const struct schedule *s, double boundary, int steps)
{
    float timesteps[SCHEDULE_STEPS], sigmas[SCHEDULE_STEPS + 1];
    int first = 0;
    if (schedule_make(s, steps, timesteps, sigmas, NULL) != STATUS_OK) return steps;
    while (first < steps && !schedule_beyond(boundary, s->train_steps, timesteps[first])) first++;
    return first;
}
