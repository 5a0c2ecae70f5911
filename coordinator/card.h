/* card.h - the JSON object of `refrain-worker --inspect` as a ModelCard. Pure function. */
#ifndef REFRAIN_COORDINATOR_CARD_H
#define REFRAIN_COORDINATOR_CARD_H

#include <stddef.h>
#include "base/status.h"
#include "proto/refrain.pb-c.h"

/* The name is left to the caller. */
status_t card_from_json(const char *text, size_t bytes, Refrain__ModelCard **card, struct error *error);

#endif
