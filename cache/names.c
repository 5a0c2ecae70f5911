/*
 * names.c - see names.h.
 */
#include "cache/names.h"

#include <string.h>

enum { FAR = 3 };

const struct policy *policy_find(const char *name)
{
    for (int i = 0; policies[i] != NULL; i++)
        if (strcmp(policies[i]->name, name) == 0) return policies[i];
    return NULL;
}

const struct forecast *forecast_find(const char *name)
{
    for (int i = 0; forecasts[i] != NULL; i++)
        if (strcmp(forecasts[i]->name, name) == 0) return forecasts[i];
    return NULL;
}

const struct cache_preset *preset_find(const char *name)
{
    for (int i = 0; cache_presets[i].name != NULL; i++)
        if (strcmp(cache_presets[i].name, name) == 0) return &cache_presets[i];
    return NULL;
}

const char *forecast_names(char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; forecasts[i] != NULL && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i > 0 ? ", " : "", forecasts[i]->name);
    return text;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Letters to insert, delete or replace (Levenshtein); FAR for long words. */
static int distance(const char *a, const char *b)
{
    int row[NAME_BYTES + 1], m = (int)strnlen(a, NAME_BYTES + 1), n = (int)strnlen(b, NAME_BYTES + 1);
    if (m > NAME_BYTES || n > NAME_BYTES) return FAR;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; i <= m; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = smaller(replaced, 1 + smaller(row[j], row[j - 1]));
        }
    }
    return row[n];
}

static void keep_nearer(const char *name, const char *candidate, const char **nearest, int *best)
{
    int d = distance(name, candidate);
    if (d >= *best || d >= (int)strlen(candidate)) return;
    *best = d;
    *nearest = candidate;
}

const char *did_you_mean(const char *name, char *text, size_t bytes)
{
    const char *nearest = NULL;
    int best = FAR;
    for (int i = 0; policies[i] != NULL; i++) keep_nearer(name, policies[i]->name, &nearest, &best);
    for (int i = 0; cache_presets[i].name != NULL; i++)
        keep_nearer(name, cache_presets[i].name, &nearest, &best);
    if (nearest == NULL)
        text[0] = 0;
    else
        snprintf(text, bytes, "; did you mean %s?", nearest);
    return text;
}
