/*
 * masks.h - beside mask_resolve and mask_names of table.h: what the grammar and the help text need of masks.
 *
 * A mask is a published name ("scm-medium"), one digit per step ("1110100", 1: compute), or the steps
 * computed, ascending ("0-9+14+19"). Pure functions.
 */
#ifndef REFRAIN_CACHE_MASKS_H
#define REFRAIN_CACHE_MASKS_H

#include "cache/table.h"

/* Whether the text could be a mask of some job; STATUS_INVALID or STATUS_NOT_FOUND with the reason. */
status_t mask_check(const char *text, struct error *error);

/* For the published mask `index` (in the order of mask_names): one line about it, and the steps it was made
 * for; 0: any number. */
const char *mask_about(int index, int *steps);

#endif
