/*
 * needs.h - the card of a model with what its jobs take, in numbers that need no tensors: for a coordinator, which asks
 * before anything is allocated whether a job fits.
 *
 *     char *card;
 *     needs_card("models/reference", &card, &error);       model_card_json, and the fields need_* of a ModelCard
 *     free(card);
 *
 * Measured on paper (worker/footprint.h) at two sizes: what grows with a video grows with its tokens, or with the pixels of
 * a frame. Any thread, once at a time.
 */
#ifndef REFRAIN_WORKER_NEEDS_H
#define REFRAIN_WORKER_NEEDS_H

#include "base/status.h"

status_t needs_card(const char *directory, char **card, struct error *error);

#endif
