/* mailbox.c - see mailbox.h. One mutex, never held across a system call that can block. */
#include "worker/mailbox.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mailbox {
    pthread_mutex_t lock;
    struct letter *first, **end;
    int event; /* readable while letters are inside */
};

status_t mailbox_create(struct mailbox **box, struct error *error)
{
    struct mailbox *b = calloc(1, sizeof *b);
    if (!b) return error_set(error, STATUS_NO_MEMORY, "no memory for a mailbox");
    b->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (b->event < 0) {
        free(b);
        return error_set(error, STATUS_IO, "eventfd: %m");
    }
    pthread_mutex_init(&b->lock, NULL);
    b->end = &b->first;
    *box = b;
    return STATUS_OK;
}

void mailbox_destroy(struct mailbox *box)
{
    if (!box) return;
    struct letter *letter;
    while ((letter = mailbox_take(box))) free(letter);
    close(box->event);
    pthread_mutex_destroy(&box->lock);
    free(box);
}

status_t mailbox_put(struct mailbox *box, const void *bytes, size_t size, struct error *error)
{
    struct letter *letter = malloc(sizeof *letter + size);
    if (!letter) return error_set(error, STATUS_NO_MEMORY, "no memory for a message of %zu bytes", size);
    letter->next = NULL;
    letter->size = size;
    memcpy(letter->bytes, bytes, size);
    pthread_mutex_lock(&box->lock);
    *box->end = letter;
    box->end = &letter->next;
    pthread_mutex_unlock(&box->lock);
    uint64_t one = 1;
    ssize_t written = write(box->event, &one, sizeof one);
    (void)written; /* a full counter is readable all the same */
    return STATUS_OK;
}

struct letter *mailbox_take(struct mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    struct letter *letter = box->first;
    if (letter && !(box->first = letter->next)) box->end = &box->first;
    if (!box->first) {
        /* Emptied under the lock: a put after this makes the descriptor readable again. */
        uint64_t count;
        ssize_t got = read(box->event, &count, sizeof count);
        (void)got;
    }
    pthread_mutex_unlock(&box->lock);
    return letter;
}

int mailbox_descriptor(const struct mailbox *box)
{
    return box->event;
}
