/*
 * tierview.h - what clients ask about the cache tier: figures, lists, and to have items forgotten or pinned.
 *
 *     tierview_make(server, &who, query, &view, &field, &error);       and does what the query says
 *     ... tierview_reply(view) goes into a reply ...
 *     tierview_free(view);
 *
 * A tenant sees figures and items of his own and public ones, and has his own forgotten or pinned; of others not even
 * that they are there. An admin who says `all` sees and does it with everybody's. What ranks are told is an order; that
 * they did it shows in the figures a second later. The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_TIER_TIERVIEW_H
#define REFRAIN_COORDINATOR_TIER_TIERVIEW_H

#include "coordinator/server.h"

struct tierview;

struct tierview_caller {
    const char *tenant;
    bool admin;
};

/* STATUS_DENIED: `all` without an admin key, or a key that is not the caller's; STATUS_INVALID names the field. */
status_t tierview_make(struct server *server, const struct tierview_caller *who,
                       const Refrain__CacheQuery *query, struct tierview **view, const char **field,
                       struct error *error);
Refrain__CacheReply *tierview_reply(struct tierview *view);
void tierview_free(struct tierview *view); /* NULL is fine */

#endif
