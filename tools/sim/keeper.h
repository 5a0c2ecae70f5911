/*
 * keeper.h - checkpoints on the virtual clock: worker/courier.h and coordinator/vault/vault.h without sockets, threads and
 * files.
 *
 *     keeper_open(&(struct keeper_config){.delay_ns = 200000, .bytes_per_second = 1e9}, &error);
 *     courier_open(...), keeper_notify(courier, wake, seat);       a rank
 *     vault_open(...), vault_close(...)                            the coordinator: what it kept outlives it
 *     keeper_close();
 *
 * Links in place of worker/courier.o and coordinator/vault/vault.o. A checkpoint takes its time to travel and counts once it
 * has arrived; an attempt that may not save is refused then. One vault at a time; its directory does not matter.
 */
#ifndef REFRAIN_TOOLS_SIM_KEEPER_H
#define REFRAIN_TOOLS_SIM_KEEPER_H

#include "coordinator/vault/vault.h"
#include "worker/courier.h"

struct keeper_config {
    int64_t delay_ns;        /* of each message, and to make it durable */
    double bytes_per_second; /* 0: no time at all */
};

status_t keeper_open(const struct keeper_config *config, struct error *error);
void keeper_close(void); /* after the last courier_close and vault_close */

void keeper_notify(struct courier *courier, void (*wake)(void *context), void *context);
/* SIGKILL: what had not left is not sent. Close it as ever. */
void keeper_kill(struct courier *courier);

#endif
