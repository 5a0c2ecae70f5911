/*
 * tenants.h - fair shares: which tenant is to be served next.
 *
 *     struct tenant *tenant = tenants_join(tenants, "ann");       one more unfinished job of hers
 *     tenants_charge(tenant, work);                               a job of hers begins
 *     tenants_leave(tenants, tenant);                             a job of hers is over
 *
 * Start-time fair queueing: whoever was charged least is next. A tenant who comes back after a pause is put
 * where the least served of those present stands, so that idle time earns nothing. One thread (the loop).
 */
#ifndef REFRAIN_COORDINATOR_JOBS_TENANTS_H
#define REFRAIN_COORDINATOR_JOBS_TENANTS_H

#include <stdint.h>

struct tenant {
    struct tenant *next;
    double served; /* work charged, on a scale of its own */
    double planned; /* the same, as jobs_order looks ahead */
    uint64_t jobs; /* unfinished */
    char name[];
};

struct tenants {
    struct tenant *first;
};

struct tenant *tenants_join(struct tenants *tenants, const char *name); /* NULL: no memory */
void tenants_leave(struct tenants *tenants,
                   struct tenant *tenant); /* frees it with its last job; NULL is fine */
void tenants_charge(struct tenant *tenant, double work);

#endif
