/*
 * jobjson.h - what the commands print with --json: one object on one line each. The forms are listed in
 * docs/client.md; fields are only added, never renamed.
 *
 *     jobjson_print(jobjson_job(job));
 */
#ifndef REFRAIN_CLIENT_JOBJSON_H
#define REFRAIN_CLIENT_JOBJSON_H

#include "client/librefrain.h"

#include <jansson.h>

/* New references; NULL when memory is short. What is unknown is absent. */
json_t *jobjson_job(const struct refrain_job *job);
json_t *jobjson_event(const struct refrain_event *event);
json_t *jobjson_model(const struct refrain_model *model);
json_t *jobjson_comparison(const struct refrain_comparison *comparison);
json_t *jobjson_stats(const struct refrain_stats *stats);
json_t *jobjson_cache(const struct refrain_cache *cache);
json_t *jobjson_groups(const struct refrain_stats *stats); /* of `refrain ranks` */

/* Prints one line on standard output, flushed, and gives `object` up. */
void jobjson_print(json_t *object);

#endif
