/*
 * signals.h - the signals that ask a service to end, taken from a descriptor in its loop.
 *
 *     signals_block();                              first in main, before any thread is made
 *     if (tie && !signals_tie(parent)) return 1;    --tie: our starter's end is our SIGTERM
 *     signals_open(&fd, &error);                    poll it; read struct signalfd_siginfo
 *
 * They are SIGTERM, SIGINT and SIGHUP; SIGPIPE is ignored.
 */
#ifndef REFRAIN_BASE_SIGNALS_H
#define REFRAIN_BASE_SIGNALS_H

#include <stdbool.h>
#include <sys/types.h>
#include "base/status.h"

void signals_block(void);
status_t signals_open(int *descriptor, struct error *error);
/* parent: getppid() as it was at the start. False: it has ended already. */
bool signals_tie(pid_t parent);

#endif
