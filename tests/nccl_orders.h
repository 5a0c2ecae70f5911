/*
 * nccl_orders.h - proves from the logs of all ranks that their orders of NCCL calls do not contradict each other, and that
 * of a direction between two ranks no more than NCCL_ORDERS_MOST transfers were outstanding at once, at either end.
 *
 *     char why[512];
 *     if (!nccl_orders_check("/tmp/orders", why, sizeof why)) puts(why);
 *
 * Reads the files orders.* that processes wrote because REFRAIN_NCCL_ORDERS named their directory, a line per
 * call: epoch, member, "send" or "receive", from, to, bytes, stamp; and one when it was seen to be done: the same with "sent"
 * or "received". The Nth send of an epoch's edge and its Nth
 * receive are the same transfer. If "A was issued before B" on any rank, taken over all ranks, has no cycle,
 * there is one order that all have kept: then devices that run transfers one after the other cannot wait for each
 * other in a circle. Stamps are not used for that; they are compared between the two ends.
 */
#ifndef REFRAIN_TESTS_NCCL_ORDERS_H
#define REFRAIN_TESTS_NCCL_ORDERS_H

#include <stdbool.h>
#include <stddef.h>

enum { NCCL_ORDERS_MOST = 2 };

/* False: they contradict each other, or cannot be read; `why` names the transfers. */
bool nccl_orders_check(const char *directory, char *why, size_t bytes);
/* Of the latest check: how many transfers were seen, and from how many processes. */
void nccl_orders_seen(int *transfers, int *processes);

#endif
