/*
 * card.h - what a checkpoint allows, for a coordinator that knows no tensors: `refrain-worker --inspect DIR`.
 *
 *     char *json;
 *     if (model_card_json("models/reference", &json, &error) == STATUS_OK) { puts(json); free(json); }
 *
 * One line of JSON with the fields of message ModelCard in proto/refrain.proto, names alike; `solver` is the
 * number of enum Solver; `tables` are those of worker/model/tables.h. Reads the configuration, opens the
 * tokenizer, and checks every tensor's name, shape and type without reading data. Any thread.
 */
#ifndef REFRAIN_WORKER_MODEL_CARD_H
#define REFRAIN_WORKER_MODEL_CARD_H

#include "base/status.h"

/* directory: the pipeline's. *json is malloc'ed. */
status_t model_card_json(const char *directory, char **json, struct error *error);

#endif
