/* courier.c - placeholder */
#include "worker/courier.h"
status_t courier_open(const struct courier_config *config, struct courier **courier, struct error *error)
{
    return error_set(error, STATUS_UNSUPPORTED, "no courier");
}
void courier_close(struct courier *courier)
{
}
