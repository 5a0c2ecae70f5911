/*
 * status.h - how every function of refrain says that it failed.
 *
 *     status_t load(const char *path, struct thing *out, struct error *error)
 *     {
 *         int fd = open(path, O_RDONLY | O_CLOEXEC);
 *         if (fd < 0) return error_set(error, STATUS_IO, "%s: cannot be opened: %m", path);
 *         ...
 *         return STATUS_OK;
 *     }
 *
 * A function that can fail returns a status_t and writes its outputs only on success. Where a person may read
 * the reason, the last parameter is a `struct error *` (NULL is allowed): the function that first notices the
 * failure writes one sentence there (what, which field or file, which value, which limit); callers pass it up
 * untouched. Nothing here is global: each request, job or thread has an error of its own.
 */
#ifndef REFRAIN_BASE_STATUS_H
#define REFRAIN_BASE_STATUS_H

#include <stddef.h>

/* The numbers travel in messages and are process exit codes' source: append only. */
typedef enum status {
    STATUS_OK = 0,
    STATUS_AGAIN = 1,       /* nothing to do now; not an error */
    STATUS_INVALID = 2,     /* the caller's value is outside what is allowed */
    STATUS_NOT_FOUND = 3,   /* no such job, model, tensor, file */
    STATUS_CONFLICT = 4,    /* exists already, or the state does not allow it */
    STATUS_DENIED = 5,      /* this tenant may not */
    STATUS_CORRUPT = 6,     /* a file or message that does not fit itself */
    STATUS_UNSUPPORTED = 7, /* well-formed, but not something this build can do */
    STATUS_IO = 8,          /* the system refused: disk, socket, memory map */
    STATUS_NO_MEMORY = 9,   /* allocation failed or a byte budget is used up */
    STATUS_DEADLINE = 10,   /* waited as long as allowed */
    STATUS_PEER_LOST = 11,  /* a rank, the coordinator or a client went away */
    STATUS_ABORTED = 12,    /* somebody asked for it to end */
    STATUS_INTERNAL = 13,   /* a bug: say so, stay up */
} status_t;

enum { ERROR_TEXT_BYTES = 512 };

struct error {
    status_t status;
    char text[ERROR_TEXT_BYTES]; /* one sentence, no newline, always terminated */
};

/* Writes the sentence (cut to fit, control characters replaced) and returns `status`, so that it can be
 * returned at once. `error` may be NULL. %m works. */
status_t error_set(struct error *error, status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the sentence that is there; used to add the file or the job an inner function cannot
 * know. */
void error_prefix(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A short lower-case name: "invalid", "not found", ... Never NULL. */
const char *status_name(status_t status);

#endif
