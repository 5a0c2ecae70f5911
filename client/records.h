/*
 * records.h - replies of the wire as the plain structs of librefrain.h. Inside of the library.
 *
 *     struct refrain_job *job;
 *     status_t status = record_job(reply, &job, error);     takes `reply`, also on failure
 *     ...
 *     refrain_free(job);
 *
 * Nothing is copied: the strings of a record are those of the reply, which lives as long as the record does.
 */
#ifndef REFRAIN_CLIENT_RECORDS_H
#define REFRAIN_CLIENT_RECORDS_H

#include "client/librefrain.h"
#include "proto/refrain.pb-c.h"

/* Each takes `reply`, whose body must be of the named kind. CORRUPT: parts are missing; NO_MEMORY. */
status_t record_job(Refrain__Reply *reply, struct refrain_job **job, struct error *error);
status_t record_event(Refrain__Reply *reply, struct refrain_event **event, struct error *error);
status_t record_job_list(Refrain__Reply *reply, struct refrain_job_list **list, struct error *error);
status_t record_stats(Refrain__Reply *reply, struct refrain_stats **stats, struct error *error);

/* Body `models` or, as a list of one, `model`. */
status_t record_model_list(Refrain__Reply *reply, struct refrain_model_list **list, struct error *error);
status_t record_cache(Refrain__Reply *reply, struct refrain_cache **cache, struct error *error);

/* The other way: fields at their "default" value stay absent. Strings and numbers are borrowed: `spec` must
 * outlive `wire`, whose list of tables is given back with record_wire_free. NO_MEMORY. */
status_t record_spec_to_wire(const struct refrain_spec *spec, Refrain__JobSpec *wire, struct error *error);
void record_wire_free(Refrain__JobSpec *wire);

#endif
