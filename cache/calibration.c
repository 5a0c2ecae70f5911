/* calibration.c - see calibration.h. */
#include "cache/calibration.h"

#include <string.h>

const char *const calibration_prompts[] = {
    "a large red star spinning on a navy background",
    "a green square moving right on a white background",
    "waves rolling onto a pebble beach at dusk, seen from above",
    "a crowded market street in the rain, people with umbrellas walking past",
    NULL,
};

bool calibration_is_standard(const char *prompt, const char *negative, uint64_t seed)
{
    bool known = false;
    for (int i = 0; calibration_prompts[i] && !known; i++)
        known = strcmp(prompt, calibration_prompts[i]) == 0;
    return known && !*negative && seed == 0;
}
