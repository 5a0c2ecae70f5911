/*
 * fabric_place.c - memory of the owner's that payloads land in: see struct fabric_place in fabric.h.
 *
 * fabric_offer and fabric_withdraw run on the owner's thread, the rest on the I/O thread. The list and the counts are
 * guarded by fabric->lock; the bytes are not: they belong to a message from the moment it is given its room until it is
 * complete, or dropped with its epoch, and `landing` says that there is one.
 */
#include "cluster/fabric_core.h"

void fabric_offer(struct fabric *fabric, struct fabric_place *place)
{
    pthread_mutex_lock(&fabric->lock);
    place->epoch = fabric->epoch;
    place->begun = 0;
    place->landing = 0;
    place->next = fabric->places;
    fabric->places = place;
    pthread_mutex_unlock(&fabric->lock);
}

bool fabric_withdraw(struct fabric *fabric, struct fabric_place *place)
{
    pthread_mutex_lock(&fabric->lock);
    struct fabric_place **at = &fabric->places;
    while (*at && *at != place) at = &(*at)->next;
    if (*at) *at = place->next;
    bool still = place->landing == 0;
    pthread_mutex_unlock(&fabric->lock);
    return still;
}

/* Only what comes next, and fits: so no byte is written twice, whatever a peer sends. */
static bool takes(const struct fabric *fabric, const struct fabric_place *place, int peer,
                  const struct ticket *ticket)
{
    return place->epoch == fabric->epoch && place->peer == peer && place->kind == ticket->kind &&
           place->context == ticket->context && place->begun == ticket->trace && ticket->bytes > 0 &&
           ticket->bytes <= place->size - place->begun;
}

bool fabric_place_take(struct fabric *fabric, int peer, const struct ticket *ticket,
                       struct fabric_place **place, uint8_t **bytes)
{
    pthread_mutex_lock(&fabric->lock);
    struct fabric_place *at = fabric->places;
    while (at && !takes(fabric, at, peer, ticket)) at = at->next;
    if (at) {
        *place = at;
        *bytes = at->bytes + at->begun;
        at->begun += ticket->bytes;
        at->landing++;
    }
    pthread_mutex_unlock(&fabric->lock);
    return at != NULL;
}

void fabric_place_done(struct parcel *parcel)
{
    if (parcel->place) parcel->place->landing--;
    parcel->place = NULL;
}

/* As far as nothing of it is missing. */
void fabric_place_tell(struct parcel *parcel)
{
    const struct fabric_place *place = parcel->place; /* set and cleared by this thread */
    if (!place || !place->landed || parcel->pending > 0 || parcel->filled == parcel->told) return;
    place->landed(place->listener, parcel->target + parcel->told, parcel->filled - parcel->told);
    parcel->told = parcel->filled;
}
