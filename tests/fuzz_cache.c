/*
 * fuzz_cache.c - libFuzzer on a job's caching as text: whatever is accepted must read back the same, and
 * planning it must either work or say why.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "cache/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct policy_job jobs[] = {
    {.steps = 50, .layers = 30, .branches = 2, .shift = 3, .model = {30, 12, 128, 8960, 16}},
    {.steps = 7, .layers = 3, .branches = 1},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cache_settings settings, again;
    static struct cache_plan plan;
    char text[CACHE_TEXT_BYTES];
    char *given = malloc(size + 1);
    if (given == NULL) return 0;
    memcpy(given, data, size);
    given[size] = 0;
    status_t status = cache_settings_read(given, &settings, NULL);
    free(given);
    if (status != STATUS_OK) return 0;
    cache_settings_text(&settings, text, sizeof text);
    if (cache_settings_read(text, &again, NULL) != STATUS_OK) abort();
    if (settings.policy != again.policy || strcmp(settings.mask, again.mask) != 0) abort();
    if (memcmp(settings.value, again.value, sizeof settings.value) != 0) abort();
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
        if (cache_settings_plan(&settings, &jobs[i], &plan, NULL) == STATUS_OK)
            cache_plan_bytes(&settings, &plan, &jobs[i], 1000, 1000, 1000);
    return 0;
}
