/* order.c - see order.h. */
#include "cluster/order.h"

#include <stddef.h>

static bool before(const struct order_place *a, const struct order_place *b)
{
    if (a->stamp != b->stamp) return a->stamp < b->stamp;
    if (a->settled != b->settled) return a->settled; /* the other's answer will be later */
    return a->sender < b->sender;
}

static void insert(struct order *order, struct order_place *place)
{
    struct order_place **at = &order->first;
    while (*at && !before(place, *at)) at = &(*at)->next;
    place->next = *at;
    *at = place;
}

void order_withdraw(struct order *order, struct order_place *place)
{
    struct order_place **at = &order->first;
    while (*at && *at != place) at = &(*at)->next;
    if (*at) *at = place->next;
}

void order_propose(struct order *order, struct order_place *place, int sender)
{
    *place = (struct order_place){.stamp = ++order->clock, .sender = sender};
    insert(order, place);
}

bool order_accept(struct order *order, struct order_place *place, int sender, uint64_t proposal)
{
    if (proposal == 0 || proposal >= ORDER_LAST_STAMP) return false;
    if (order->clock < proposal) order->clock = proposal;
    *place = (struct order_place){.stamp = ++order->clock, .sender = sender, .settled = true};
    insert(order, place);
    return true;
}

bool order_settle(struct order *order, struct order_place *place, uint64_t stamp)
{
    if (stamp <= place->stamp || stamp >= ORDER_LAST_STAMP) return false;
    order_withdraw(order, place);
    if (order->clock < stamp) order->clock = stamp;
    place->stamp = stamp;
    place->settled = true;
    insert(order, place);
    return true;
}

struct order_place *order_next(struct order *order)
{
    struct order_place *place = order->first;
    if (!place || !place->settled) return NULL;
    order->first = place->next;
    return place;
}
