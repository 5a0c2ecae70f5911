/*
 * table.h - calibration tables: numbers measured on one model that a policy needs (MagCache's ratios,
 * TeaCache's polynomial, ...), and the published ones.
 *
 * A table belongs to an architecture and, where the method says so, to a number of steps and a flow shift; a
 * job that does not fit is refused, not approximated. Plain values. Pure functions.
 */
#ifndef REFRAIN_CACHE_TABLE_H
#define REFRAIN_CACHE_TABLE_H

#include <stdbool.h>
#include "base/status.h"

/* What identifies an architecture here. */
struct cache_model {
    int layers, heads, head_dim, ffn_dim, latent_channels;
    int experts; /* 2; any other number stands for 1 */
};

struct cache_table {
    const char *kind;         /* "teacache", "magcache", "sencache", "l2p" */
    const char *name;         /* where it comes from: "wan2.1-1.3b", or the model it was calibrated on */
    struct cache_model model; /* zeros: any */
    int steps;                /* made at so many; 0: any */
    double shift;             /* made at; 0: any */
    int width;                /* values per row */
    int count;                /* values in all */
    const double *values;     /* borrowed */
};

/* What a row of each kind is:
 *
 *     teacache  5 values: the polynomial, highest power first; kind teacache-retention, if there is one, is
 *               the same for retention mode (signal: the projected time embedding)
 *     magcache  1 value per step, the first is 1: mean over tokens of ||R_i|| / ||R_i-1||
 *     sencache  2 values per step: sensitivity of the output to the latent, to time
 *     l2p       `steps` values per step: the averaged, normalised Gram matrix of what is kept
 */

/* The published ones, kind NULL at the end; several may fit one model, the first is taken. */
extern const struct cache_table tables_published[];

/* Does it belong to this architecture? A table whose own is all zeros fits any. */
bool table_fits(const struct cache_table *table, const struct cache_model *model);

/* The table of a kind that fits the model: of those given first, of the published ones otherwise.
 * STATUS_NOT_FOUND with a sentence that says what there is and how to make one (`refrain calibrate`). */
status_t table_find(const char *kind, const struct cache_table *tables, int count,
                    const struct cache_model *model, const struct cache_table **table, struct error *error);

/* Published step masks by name ("lemica-wan2.1-1.3b-25", "scm-medium", ...) stretched to `steps` as their
 * authors do; and masks as text: "1110100…" of exactly `steps` digits, or computed steps as "0-9+14+19".
 * mask: [steps], 1: compute. */
status_t mask_resolve(const char *text, int steps, unsigned char *mask, struct error *error);
/* Names of the published masks, NULL at the end. */
const char *const *mask_names(void);

#endif
