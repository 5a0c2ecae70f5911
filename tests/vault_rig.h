/*
 * vault_rig.h - a real vault with a directory of its own, and ranks that speak its protocol piece by piece.
 *
 *     struct vault_rig rig;
 *     vault_rig_start(&rig);                              limits may be set before it, 0 takes a default
 *     void *rank = vault_rig_rank(&rig);
 *     vault_allow(rig.vault, 7, 1);
 *     struct checkpoint checkpoint = vault_rig_checkpoint(7, 1, 3, 150000);     bytes made from its name
 *     assert_int_equal(vault_rig_save(rank, &checkpoint), STATUS_OK);
 *     vault_rig_restart(&rig);                            the same port and directory
 *     vault_rig_stop(&rig);
 *
 * Everything here fails the running test by cmocka's assertions.
 */
#ifndef REFRAIN_TESTS_VAULT_RIG_H
#define REFRAIN_TESTS_VAULT_RIG_H

#include "coordinator/vault/vault.h"
#include "proto/wire.h"

enum { VAULT_RIG_ANSWER_MS = 10000, VAULT_RIG_PATH = 128 };

struct vault_rig {
    void *context;
    struct vault *vault;
    char directory[64], endpoint[256];
    uint64_t limit_bytes, job_bytes;
    uint64_t mark_bytes; /* 0: no marks */
    int keep;
    status_t (*secure)(void *argument, void *socket, struct error *error);
    void *secure_argument;
};

void vault_rig_start(struct vault_rig *rig);
void vault_rig_open(struct vault_rig *rig);
void vault_rig_shut(struct vault_rig *rig); /* the vault alone; the directory stays */
void vault_rig_restart(struct vault_rig *rig);
void vault_rig_stop(struct vault_rig *rig);

void *vault_rig_rank(struct vault_rig *rig); /* a DEALER; zmq_close it */

/* The bytes of a checkpoint, made from its name; the caller frees them. */
uint8_t *vault_rig_bytes(const struct checkpoint *checkpoint);
struct checkpoint vault_rig_checkpoint(uint64_t job, uint32_t attempt, uint32_t step, uint64_t bytes);

/* Sends data[offset, offset + bytes) of the checkpoint without waiting for anything. */
void vault_rig_send(void *rank, const struct checkpoint *checkpoint, const uint8_t *data, uint64_t offset,
                    size_t bytes);
/* What is sent from now on is of that run; NULL: of none that has a name. Borrowed. */
void vault_rig_name_run(const struct run_point *point);
/* The next answer; NULL when none came in time. The caller frees it. */
Refrain__VaultReply *vault_rig_answer(void *rank, int timeout_ms);
/* Saves it in pieces of 1 MiB and returns what the vault says of it. */
status_t vault_rig_save(void *rank, const struct checkpoint *checkpoint);
/* Loads it in pieces of 1 MiB; with STATUS_OK it came with its hash. */
status_t vault_rig_load(void *rank, const struct checkpoint *checkpoint);

bool vault_rig_same(const struct checkpoint *a, const struct checkpoint *b);
/* That is what the job would go on from. */
void vault_rig_assert_latest(const struct vault_rig *rig, const struct checkpoint *expected);

/* `name` below the vault's directory. */
void vault_rig_path(const struct vault_rig *rig, const char *name, char path[VAULT_RIG_PATH]);
bool vault_rig_exists(const struct vault_rig *rig, const char *name);
/* Entries of the job's directory, hidden ones included; -1: there is none. */
int vault_rig_files(const struct vault_rig *rig, uint64_t job);
/* Waits until there are so many (removing is the vault's thread's). */
void vault_rig_await_files(const struct vault_rig *rig, uint64_t job, int count);

#endif
