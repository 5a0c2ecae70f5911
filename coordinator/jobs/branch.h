/*
 * branch.h - a job that goes on from another's checkpoint: what it takes over from that job, what may be another, and
 * the checkpoint itself.
 *
 *     branch_fill(server, tenant, spec, &field, &error);       before defaults are filled in; or a sentence
 *     jobs_submit(...);
 *     branch_lend(server, id, spec, &error);
 *
 * Both do nothing for a spec without resume_from. Loop thread.
 */
#ifndef REFRAIN_COORDINATOR_JOBS_BRANCH_H
#define REFRAIN_COORDINATOR_JOBS_BRANCH_H

#include "coordinator/server.h"

/* What the spec leaves out becomes what the other job has; at_step becomes all its steps. Refused with the field to
 * blame: a job that is not the tenant's (as one that does not exist), what cannot be changed (model, seed, steps, size,
 * solver, shift; once all steps are taken over also what they were made with), and a step that there is no checkpoint
 * of; the sentence lists those that there are. Nothing is stored. */
status_t branch_fill(struct server *server, const char *tenant, Refrain__JobSpec *spec, const char **field,
                     struct error *error);
/* The checkpoint is the job's from now on. When it cannot be had after all, the job fails and the sentence says so. */
status_t branch_lend(struct server *server, uint64_t job, const Refrain__JobSpec *spec, struct error *error);

#endif
