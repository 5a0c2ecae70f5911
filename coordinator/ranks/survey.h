/*
 * survey.h - what the service is doing at this moment: counts of jobs, groups, their ranks, what is in
 * flight.
 *
 *     struct survey *survey;
 *     survey_make(server, tenant, &survey, &error);
 *     ... survey_stats(survey) goes into a reply ...
 *     survey_free(survey);
 *
 * Ranks are shown to everybody: who waits for a job may know what it waits for. Jobs are those of one tenant;
 * of others' only how many are in flight is told. The message borrows texts of the server's state: it must be
 * packed before anything else happens. The loop thread.
 */
#ifndef REFRAIN_COORDINATOR_RANKS_SURVEY_H
#define REFRAIN_COORDINATOR_RANKS_SURVEY_H

#include "coordinator/server.h"

struct survey;

status_t survey_make(struct server *server, const char *tenant, struct survey **survey, struct error *error);
Refrain__StatsReply *survey_stats(struct survey *survey);
void survey_free(struct survey *survey); /* NULL is fine */

/* What the group does, in a word: "gathering", "running", "moving", ... */
const char *survey_state(const struct group *group);

#endif
