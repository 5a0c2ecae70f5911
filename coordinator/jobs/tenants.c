/* tenants.c - see tenants.h. Runs on the coordinator's loop thread. */
#include "coordinator/jobs/tenants.h"

#include <stdlib.h>
#include <string.h>

static double least_served(const struct tenants *tenants)
{
    double least = 0;
    for (const struct tenant *t = tenants->first; t; t = t->next)
        if (t == tenants->first || t->served < least) least = t->served;
    return least;
}

struct tenant *tenants_join(struct tenants *tenants, const char *name)
{
    for (struct tenant *t = tenants->first; t; t = t->next) {
        if (strcmp(t->name, name) != 0) continue;
        t->jobs++;
        return t;
    }
    size_t bytes = strlen(name) + 1;
    struct tenant *made = malloc(sizeof *made + bytes);
    if (!made) return NULL;
    *made = (struct tenant){.next = tenants->first, .served = least_served(tenants), .jobs = 1};
    memcpy(made->name, name, bytes);
    return tenants->first = made;
}

void tenants_leave(struct tenants *tenants, struct tenant *tenant)
{
    if (!tenant || --tenant->jobs > 0) return;
    struct tenant **at = &tenants->first;
    while (*at != tenant) at = &(*at)->next;
    *at = tenant->next;
    free(tenant);
}

void tenants_charge(struct tenant *tenant, double work)
{
    tenant->served += work;
}
