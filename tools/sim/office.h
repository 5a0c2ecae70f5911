/*
 * office.h - the line between virtual ranks and whoever gives orders: worker/control.h on the virtual clock.
 *
 *     office_open(&(struct office_config){.delay_ns = 200000}, &error);
 *     office_listen(take_report, coordinator);          from now on reports arrive there
 *     control_start(...), office_notify(control, wake, seat);       a rank: says Hello
 *     office_order(&peer, bytes, size);                  arrives with the rank after the delay
 *     office_listen(NULL, NULL);                         the coordinator is gone: what ranks say waits for the next
 *     office_close();
 *
 * Links in place of worker/control.o, and does what that file's thread does: Hello, heartbeats with the progress of
 * the computation, Hello again when asked, the end of the epoch before the order that ends it, Shutdown when there is
 * no coordinator for too long. Messages are the real ones, packed.
 */
#ifndef REFRAIN_TOOLS_SIM_OFFICE_H
#define REFRAIN_TOOLS_SIM_OFFICE_H

#include <stddef.h>
#include "proto/wire.h"
#include "worker/control.h"

struct office_config {
    int64_t delay_ns; /* of each message, either way */
};

/* A report has arrived: packed, valid for the call. said_ns: when it was said. */
typedef void office_report_fn(void *argument, const struct wire_peer *peer, const void *bytes, size_t size,
                              int64_t said_ns);

status_t office_open(const struct office_config *config, struct error *error);
void office_close(void); /* after the last control_stop */

/* Connections are new ones for each listener. */
void office_listen(office_report_fn *listener, void *argument);
/* To whom a peer's connection leads; nobody any more: the order is dropped. */
void office_order(const struct wire_peer *peer, const void *bytes, size_t size);

void office_notify(struct control *control, void (*wake)(void *context), void *context);
/* A line that is nobody's rank, such as a launcher's: it says nothing by itself, and `take` is called with each order
 * as it arrives. Ends with control_stop. */
typedef void office_order_fn(void *argument, const Refrain__WorkerOrder *order);
status_t office_line(office_order_fn *take, void *argument, struct control **line, struct error *error);

/* SIGKILL: nothing is said and nothing heard any more. Stop it as ever. */
void office_kill(struct control *control);
/* SIGSTOP and SIGCONT: what arrives meanwhile waits. */
void office_stop(struct control *control, bool stopped);

#endif
