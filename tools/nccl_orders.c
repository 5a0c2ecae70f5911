/*
 * nccl_orders.c - `build/tools/nccl_orders DIR`: do the logs that ranks wrote with REFRAIN_NCCL_ORDERS=DIR prove one
 * order of transfers? For a cluster that hangs; the logs of all hosts belong into DIR.
 */
#include <stdio.h>

#include "tests/nccl_orders.h"

int main(int count, char **arguments)
{
    char why[512];
    int transfers, processes;
    if (count != 2) {
        fprintf(stderr, "usage: nccl_orders DIR\n");
        return 2;
    }
    if (!nccl_orders_check(arguments[1], why, sizeof why)) {
        fprintf(stderr, "nccl_orders: %s\n", why);
        return 1;
    }
    nccl_orders_seen(&transfers, &processes);
    printf("%d transfers of %d processes: one order\n", transfers, processes);
    return 0;
}
