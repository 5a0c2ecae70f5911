/*
 * tierdesk.h - what a group's ranks say about the cache tier, and ask of it: its directory and its figures.
 *
 *     tierdesk_changes(server, group, rank, changes);     ... and so on: one function for each report
 *
 * All of it may be lost: ranks tell everything anew after each Welcome. What a rank said goes with its seat
 * (group_vacate). The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_TIER_TIERDESK_H
#define REFRAIN_COORDINATOR_TIER_TIERDESK_H

#include "coordinator/server.h"

void tierdesk_changes(struct server *server, struct group *group, uint32_t rank,
                      const Refrain__TierChanges *changes);
void tierdesk_ask(struct server *server, struct group *group, uint32_t rank, const Refrain__TierAsk *ask);
void tierdesk_seek(struct server *server, struct group *group, uint32_t rank, const Refrain__TierSeek *seek);
void tierdesk_ended(struct group *group, const Refrain__TierEnded *ended);
/* Once a turn: ranks are told to fetch second copies of what is dear. */
void tierdesk_copy(struct server *server);
void tierdesk_figures(struct server *server, struct group *group, uint32_t rank,
                      const Refrain__TierFigures *figures);

#endif
