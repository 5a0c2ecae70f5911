/*
 * registry.c - the tables of policies and forecasts: a new one is a file of its own and a row here.
 */
#include "cache/forecast.h"
#include "cache/policy.h"

extern const struct policy policy_interval, policy_mask, policy_magcache, policy_calibrate, policy_zeus,
    policy_meancache, policy_teacache, policy_fbcache, policy_dbcache, policy_easycache, policy_dicache,
    policy_seacache, policy_sencache, policy_dbprune, policy_layers, policy_specache;

const struct policy *const policies[] = {
    /* static */
    &policy_interval, &policy_mask, &policy_magcache,
    /* dynamic in time */
    &policy_teacache, &policy_fbcache, &policy_dbcache, &policy_easycache, &policy_dicache, &policy_seacache,
    &policy_sencache,
    /* dynamic in layers */
    &policy_dbprune, &policy_layers,
    /* speculative, solver level */
    &policy_specache, &policy_zeus, &policy_meancache,
    /* measuring */
    &policy_calibrate, NULL};

extern const struct forecast forecast_reuse, forecast_taylor, forecast_newton, forecast_hermite, forecast_ab,
    forecast_foca, forecast_spectrum, forecast_dmd, forecast_l2p, forecast_freqca, forecast_worldcache;

const struct forecast *const forecasts[] = {&forecast_reuse,    &forecast_taylor,     &forecast_newton,
                                            &forecast_hermite,  &forecast_ab,         &forecast_foca,
                                            &forecast_spectrum, &forecast_dmd,        &forecast_l2p,
                                            &forecast_freqca,   &forecast_worldcache, NULL};
