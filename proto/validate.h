/*
 * validate.h - the limits on every field, the same on the client's side and the coordinator's.
 *
 *     struct error error;
 *     const char *field;
 *     status = validate_spec(spec, &field, &error);         field "width", sentence
 *                                                           "width 100: must be a multiple of 16 (96 or 112)"
 *     validate_spec_for_model(spec, card, &field, &error);  once the model is known
 *     validate_fill(spec, card, &error);                    every default filled in
 *
 * Sentences start with the field's name in the message (a command line puts "--" before it). `field` (NULL is
 * allowed) gets that name as a static string. Absent fields are fine everywhere: they take defaults. Pure
 * functions; any thread.
 */
#ifndef REFRAIN_PROTO_VALIDATE_H
#define REFRAIN_PROTO_VALIDATE_H

#include <stdbool.h>
#include <stddef.h>
#include "base/status.h"
#include "proto/refrain.pb-c.h"

enum {
    LIMIT_PROMPT_BYTES = 16384,
    LIMIT_STEPS = 1000,
    LIMIT_PREVIEW_BYTES = 512 << 10,
    LIMIT_GUIDANCE = 100,
    LIMIT_SHIFT = 100,
    LIMIT_SIZE = 8192, /* pixels, each side */
    LIMIT_SIZE_MULTIPLE = 16,
    LIMIT_FRAMES = 1025,
    LIMIT_FRAME_MULTIPLE = 4,
    LIMIT_FPS = 120,
    LIMIT_EXPERTS = 2,
    LIMIT_CHECKPOINT_EVERY = 1000, /* steps */
    LIMIT_NAME_BYTES = 64,
    LIMIT_WHO_BYTES = 320, /* a group's name and a rank, or a host */
    LIMIT_KEY_BYTES = 128,
    LIMIT_LABEL_BYTES = 128,
    LIMIT_DIRECTORY_BYTES = 4095,
    LIMIT_LIST = 1000,          /* jobs in one answer */
    LIMIT_CACHE_KEY_BYTES = 63, /* of an item's name, and of a kind's */
    DEFAULT_CHECKPOINT_EVERY = 1,
    DEFAULT_STEPS = 50, /* this and the guidance: the defaults of the reference's WanPipeline.__call__ */
};
#define DEFAULT_GUIDANCE   5.0
#define LIMIT_VIDEO_PIXELS (INT64_C(1) << 31)               /* width * height * frames */
#define LIMIT_DEADLINE_MS  (INT64_C(30) * 24 * 3600 * 1000) /* 30 days */

/* UTF-8 (no surrogates, nothing overlong, at most U+10FFFF) without zero bytes; text needs no terminator. */
status_t validate_text(const char *field, const char *text, size_t bytes, struct error *error);

/* 1..64 of [A-Za-z0-9._-], not starting with a dot: for models, tenants and result files (it names files,
 * too). */
status_t validate_name(const char *field, const char *name, struct error *error);

/* What can be said about a job without knowing its model. */
status_t validate_spec(const Refrain__JobSpec *spec, const char **field, struct error *error);
/* What the model adds: its own multiples, its positions, whether its caching can be planned
 * (proto/caching.h). spec must have passed validate_spec; absent sizes are fine. */
status_t validate_spec_for_model(const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                                 const char **field, struct error *error);
/* Gives every absent field its default, so that the job says everything; strings are malloc'ed as in an
 * unpacked message. STATUS_NO_MEMORY only. */
status_t validate_fill(Refrain__JobSpec *spec, const Refrain__ModelCard *card, struct error *error);

/* The fields of a whole request, whichever it is (for a Submit: the spec and its key). */
status_t validate_request(const Refrain__Request *request, const char **field, struct error *error);

/* A card as a worker made it: every number present and in a range that the checks above can count on. */
status_t validate_card(const Refrain__ModelCard *card, struct error *error);

#endif
