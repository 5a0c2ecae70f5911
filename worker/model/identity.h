/*
 * identity.h - which checkpoint this is: a number that is another one when anything of it is.
 *
 *     static const char *const parts[] = {"text_encoder", "tokenizer", NULL};
 *     uint64_t which = identity_of("models/reference", parts);         0: it cannot be told
 *
 * Everything is read but weights: of a safetensors file the number covers name, size, time of change (ns) and head, that
 * is names, types, shapes and places of all tensors. Who writes other weights of the same shapes changes the time; who
 * copies a checkpoint and keeps times (cp -p, rsync -a, tar) has the same one on every host. Two copies with other times
 * count as two. Stateless; any thread; reads a few megabytes.
 */
#ifndef REFRAIN_WORKER_MODEL_IDENTITY_H
#define REFRAIN_WORKER_MODEL_IDENTITY_H

#include <stdint.h>

/* parts: folders of the pipeline's directory, up to NULL; those that are not there count as such. */
uint64_t identity_of(const char *directory, const char *const *parts);

#endif
