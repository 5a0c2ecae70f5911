/*
 * mailbox.h - messages from one thread to another, with a descriptor to sleep on.
 *
 *     mailbox_put(box, bytes, size, &error);          copies; any thread
 *     poll on mailbox_descriptor(box); then
 *     while ((letter = mailbox_take(box))) { ...; free(letter); }
 *
 * Order is kept. A lock is held only to link or unlink a letter.
 */
#ifndef REFRAIN_WORKER_MAILBOX_H
#define REFRAIN_WORKER_MAILBOX_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

struct mailbox;

struct letter {
    struct letter *next; /* the mailbox's */
    size_t size;
    uint8_t bytes[];
};

status_t mailbox_create(struct mailbox **box, struct error *error);
void mailbox_destroy(struct mailbox *box); /* NULL is fine; drops what is inside */
status_t mailbox_put(struct mailbox *box, const void *bytes, size_t size, struct error *error);
struct letter *mailbox_take(struct mailbox *box); /* NULL when empty; the caller frees it */
int mailbox_descriptor(const struct mailbox *box);

#endif
