/*
 * calibrate_fit.h - from what runs measured (client/trace.h) to the tables that policies work with.
 *
 *     struct calibration calibration = {0};
 *     status_t status = calibration_add(&calibration, "magcache", traces, count, &error);
 *     if (!status) status = tablefile_merge(path, calibration.tables, calibration.count, &error);
 *     calibration_free(&calibration);
 *
 * Pure functions of their arguments: same traces, same tables.
 */
#ifndef REFRAIN_CLIENT_CALIBRATE_FIT_H
#define REFRAIN_CLIENT_CALIBRATE_FIT_H

#include "client/librefrain.h"
#include "client/trace.h"

enum { CALIBRATION_TABLES = 8, CALIBRATION_NAME_BYTES = TRACE_NAME_BYTES, CALIBRATION_NOTE_BYTES = 96 };

struct calibration {
    struct refrain_cache_table tables[CALIBRATION_TABLES]; /* values are owned */
    /* The tables point in here: do not move it. */
    char names[CALIBRATION_TABLES][CALIBRATION_NAME_BYTES];
    char notes[CALIBRATION_TABLES][CALIBRATION_NOTE_BYTES]; /* how good the fit is, for people */
    size_t count;
};

/* What there is, NULL at the end. */
extern const char *const calibration_kinds[];

/* Adds the table(s) of a kind. R is what the blocks added to the hidden state.
 *
 * magcache [steps]: gamma_i = mean over prompts and branches of mean over tokens of ||R_i|| / ||R_(i-1)||;
 * gamma_0 is 1 (MagCache, arXiv 2506.09045; one table for both branches, which differ by less than 0.01).
 *
 * teacache [5], highest power first: least squares of relL1(R_i, R_(i-1)) on relL1(s_i, s_(i-1)), s being the
 * time embedding; and teacache-retention, the same for its projection (TeaCache, arXiv 2411.19108).
 *
 * sencache [steps][2]: Jx, Jt >= 0 with ||v_i - v_c|| ~ Jx ||x_i - x_c|| + Jt |t_i - t_c| over i = c + 1 to
 * c + 10, of branch 0, t = 1000 sigma: the average sensitivities of SenCache (arXiv 2602.24208), but from
 * differences along the path instead of power iterations. The last step, after which nothing was measured,
 * repeats the one before.
 *
 * l2p [steps][steps], upper triangle: mean over runs of <R_i, R_j> / mean_k ||R_k||^2; 0 where not measured:
 * what the least squares of L2P (arXiv 2604.26365) are made of.
 *
 * count >= 1 traces of one model, step count and shift. INVALID: they differ, or lack what the kind needs. */
status_t calibration_add(struct calibration *calibration, const char *kind, const struct trace *const *traces,
                         size_t count, struct error *error);
void calibration_free(struct calibration *calibration);

#endif
