/*
 * text_encoder.h - UMT5 encoder: ids -> one vector per id.
 *
 *     text_encoder_load(dir, &config.text, ops, team, &encoder, &error);
 *     text_encoder_encode(encoder, team, ids, count, rows, &error);      rows: [count, width] float32, the device's
 * or, so that other work fits between the layers:
 *     text_encoder_begin(encoder, team, ids, count, rows, &run, &error);
 *     while (!text_encoder_layer(run, team)) ...
 *     ops->wait(team, &error);                                           rows are complete
 *     text_encoder_end(run);
 *
 * Only the real ids are run: the reference masks its padding completely, so this is exact. Rows beyond count
 * are zero in the reference; whoever attends to them knows that (one pad row stands for all).
 */
#ifndef REFRAIN_WORKER_MODEL_TEXT_ENCODER_H
#define REFRAIN_WORKER_MODEL_TEXT_ENCODER_H

#include <stdbool.h>

#include "kernels/ops.h"
#include "worker/model/config.h"

struct text_encoder;

/* directory: the component's own ("…/text_encoder"). */
status_t text_encoder_load(const char *directory, const struct text_config *config, const struct ops *ops,
                           struct team *team, struct text_encoder **encoder, struct error *error);
void text_encoder_destroy(struct text_encoder *encoder);       /* after wait; NULL is fine */
size_t text_encoder_bytes(const struct text_encoder *encoder); /* weights held */

/* Checks every tensor's name, shape and type, reads no data. */
status_t text_encoder_inspect(const char *directory, const struct text_config *config, struct error *error);

/* One prompt on its way through the layers. Runs of one encoder do not know of each other. */
struct text_run;

/* ids: [count], 1 <= count <= 512, each below the vocabulary; not needed afterwards. rows: borrowed until
 * text_encoder_end. Allocates the run's working memory. */
status_t text_encoder_begin(const struct text_encoder *encoder, struct team *team, const int32_t *ids,
                            int count, float *rows, struct text_run **run, struct error *error);
/* The next layer; with the last one the closing norm too. True: that was it, and it is not called again. */
bool text_encoder_layer(struct text_run *run, struct team *team);
void text_encoder_end(struct text_run *run); /* at any point, after wait; NULL is fine */

/* All of it at once, wait included. */
status_t text_encoder_encode(const struct text_encoder *encoder, struct team *team, const int32_t *ids,
                             int count, float *rows, struct error *error);

#endif
