/*
 * names.h - policies, forecasts and presets by name, and the nearest name to one that does not exist.
 */
#ifndef REFRAIN_CACHE_NAMES_H
#define REFRAIN_CACHE_NAMES_H

#include "cache/settings.h"

enum { NAME_BYTES = 64 };

/* NULL: there is none. */
const struct policy *policy_find(const char *name);
const struct forecast *forecast_find(const char *name);
const struct cache_preset *preset_find(const char *name);

/* "reuse, taylor, ..." into text, which is returned. */
const char *forecast_names(char *text, size_t bytes);

/* "; did you mean dbcache?" into text for a policy or preset at most two letters away, else "". Returns text.
 */
const char *did_you_mean(const char *name, char *text, size_t bytes);

#endif
