/*
 * keyfile.h - CURVE keys as text files, for clients, workers and the coordinator.
 *
 *     struct keyfile key;
 *     keyfile_read("alice.secret", &key, &error);
 *     keyfile_apply_client(&key, dealer, &error);          before zmq_connect
 *
 * A file has lines `name = "value"`, # starts a comment:
 *
 *     public-key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"      Z85, 40 characters
 *     secret-key = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"      only in a .secret file (mode 0600)
 *     server-key = "..."                                           the coordinator's public key, for who
 *                                                                  connects to it
 *     role = "client"                                              client, admin or worker: only believed in
 *                                                                  the coordinator's own key directory
 *
 * Stateless; any thread.
 */
#ifndef REFRAIN_PROTO_KEYFILE_H
#define REFRAIN_PROTO_KEYFILE_H

#include "base/status.h"

enum { KEY_TEXT_BYTES = 41 }; /* Z85 of 32 bytes, terminated */

enum key_role { ROLE_CLIENT, ROLE_ADMIN, ROLE_WORKER };

struct keyfile {
    char public_key[KEY_TEXT_BYTES]; /* always there */
    char secret_key[KEY_TEXT_BYTES]; /* "" when the file does not hold it */
    char server_key[KEY_TEXT_BYTES]; /* "" when the file does not name it */
    enum key_role role;              /* ROLE_CLIENT when the file does not say */
};

/* Unknown names, malformed keys and files above 4 KiB are refused; so is a secret others may read. */
status_t keyfile_read(const char *path, struct keyfile *key, struct error *error);
/* Made anew with mode 0600; STATUS_CONFLICT when the file exists. Empty members are left out. */
status_t keyfile_write(const char *path, const struct keyfile *key, struct error *error);
/* A fresh pair; server_key and role are left as they are. */
status_t keyfile_generate(struct keyfile *key, struct error *error);

/* Sets the three CURVE options of a connecting socket; needs all three keys. */
status_t keyfile_apply_client(const struct keyfile *key, void *socket, struct error *error);

const char *key_role_name(enum key_role role);

#endif
