/* signals.c - see signals.h. */
#include "base/signals.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

static sigset_t those_that_end(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    return signals;
}

void signals_block(void)
{
    const sigset_t signals = those_that_end();
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
}

status_t signals_open(int *descriptor, struct error *error)
{
    const sigset_t signals = those_that_end();
    *descriptor = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return *descriptor < 0 ? error_set(error, STATUS_IO, "signalfd: %m") : STATUS_OK;
}

bool signals_tie(pid_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == parent;
}
