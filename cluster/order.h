/*
 * order.h - one order of transfers over all communicators of all devices, agreed upon pair by pair.
 *
 *     sender                                               receiver
 *           ---- the message's header ------------------->  finds memory for the payload
 *                                                          order_propose(&order, place, sender);
 *           <--- place->stamp ----------------------------
 *     order_accept(&order, place, self, proposal);
 *           ---- place->stamp --------------------------->
 *                                                          order_settle(&order, place, stamp);
 *     while ((place = order_next(&order))) issue it            likewise
 *
 * A device may run communication kernels one after the other, in the order in which they were issued; if two
 * devices issued two common transfers in opposite orders each would wait for the other for ever. So every
 * transfer gets a stamp, and each device issues in the order of stamps. A stamp is a Lamport clock's reading:
 * the receiver proposes one, the sender answers with a later one that holds (Skeen's algorithm, as in Birman
 * and Joseph, "Reliable communication in the presence of failures", 1987, for two destinations of which one
 * is the sender). A transfer is issued once nothing can come before it: what comes later gets a later stamp,
 * and of own proposals that are not answered yet the answer will be later than the proposal.
 *
 * So what others wait for is one answer, and a sender gives that at once, whatever its device does. It is the
 * receiver that proposes because it may have to wait for memory first, and making room waits for the device:
 * if the sender's proposal stood open meanwhile, devices could wait for each other's memory in a circle.
 *
 * Plain values, no I/O; the fabric's I/O thread.
 */
#ifndef REFRAIN_CLUSTER_ORDER_H
#define REFRAIN_CLUSTER_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#define ORDER_LAST_STAMP (UINT64_C(1) << 62) /* no honest clock comes there */

/* A transfer's place in the order. The caller's memory, from propose or accept until next or withdraw. */
struct order_place {
    struct order_place *next;
    uint64_t stamp; /* proposed, or settled */
    int sender;     /* tells equal stamps apart */
    bool settled;
};

struct order {
    uint64_t clock;
    struct order_place *first; /* by stamp; of equal ones the settled first, by sender */
};

void order_propose(struct order *order, struct order_place *place, int sender);
/* False: the proposal cannot be one. */
bool order_accept(struct order *order, struct order_place *place, int sender, uint64_t proposal);
/* False: the answer does not fit the proposal. */
bool order_settle(struct order *order, struct order_place *place, uint64_t stamp);
/* Takes out the next transfer to be issued; NULL: none may be now. */
struct order_place *order_next(struct order *order);
void order_withdraw(struct order *order, struct order_place *place);

#endif
