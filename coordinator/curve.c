/*
 * curve.c - see curve.h.
 *
 * Two threads: the loop calls the functions of the header, the ZAP thread runs zap_thread and owns its socket
 * and the table of keys. They share nothing that changes; the thread ends when the context is shut down.
 */
#include "coordinator/curve.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/log.h"
#include "proto/validate.h"

enum { KEY_BYTES = 32, MAX_KEYS = 4096, ZAP_FRAMES = 7, ZAP_FRAME_BYTES = 256 };

#define COORDINATOR_NAME "coordinator"
#define WORKERS_NAME     "workers"
#define LOCAL_TENANT     "local"

struct allowed {
    uint8_t key[KEY_BYTES];
    char name[TENANT_BYTES];
    enum key_role role;
};

struct curve {
    void *context; /* borrowed */
    void *zap;     /* REP socket; made by the loop thread, then the ZAP thread's alone */
    char *directory;
    struct keyfile own;
    pthread_t thread;
    bool thread_runs;
    struct allowed *keys; /* [key_count], the ZAP thread's */
    size_t key_count;
    struct timespec read_at; /* modification time of the directory when the keys were read */
};

/* -------------------------------------------------------------------------------------- the table of keys */

/* NAME of NAME.pub; false for any other file. */
static bool public_file(const char *file, char name[TENANT_BYTES])
{
    size_t length = strlen(file);
    if (length <= 4 || length - 4 >= TENANT_BYTES || strcmp(file + length - 4, ".pub") != 0) return false;
    memcpy(name, file, length - 4);
    name[length - 4] = '\0';
    return validate_name("key", name, NULL) == STATUS_OK && strcmp(name, COORDINATOR_NAME) != 0;
}

/* A file that cannot be read or is no key lets nobody in, and says so; the others still count. */
static void read_key(struct curve *curve, const char *file)
{
    char path[PATH_MAX];
    struct allowed allowed;
    struct keyfile key;
    struct error error;
    if (!public_file(file, allowed.name)) return;
    snprintf(path, sizeof path, "%s/%s", curve->directory, file);
    if (keyfile_read(path, &key, &error) != STATUS_OK) {
        log_line(LOG_WARN, "%s: this key is not allowed in", error.text);
        return;
    }
    if (!zmq_z85_decode(allowed.key, key.public_key) || curve->key_count == MAX_KEYS) return;
    allowed.role = key.role;
    curve->keys[curve->key_count++] = allowed;
}

/* Reads the directory again when a file came or went since. A file that was changed in place counts once it
 * is replaced. */
static void refresh_keys(struct curve *curve)
{
    struct stat about;
    if (stat(curve->directory, &about) != 0) {
        curve->key_count = 0; /* no directory: nobody is allowed */
        return;
    }
    if (about.st_mtim.tv_sec == curve->read_at.tv_sec && about.st_mtim.tv_nsec == curve->read_at.tv_nsec)
        return;
    curve->key_count = 0;
    DIR *directory = opendir(curve->directory);
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) read_key(curve, entry->d_name);
    closedir(directory);
    curve->read_at = about.st_mtim;
}

/* ---------------------------------------------------------------------------------------------------- ZAP */

struct zap_request {
    size_t bytes[ZAP_FRAMES];
    char frames[ZAP_FRAMES]
               [ZAP_FRAME_BYTES]; /* version, id, domain, address, identity, mechanism, credentials */
};

/* False when the context ends. A request of another shape comes back with zeroed frames and is refused. */
static bool zap_receive(void *zap, struct zap_request *request)
{
    memset(request, 0, sizeof *request);
    int more = 1;
    for (int i = 0; more; i++) {
        char spare[ZAP_FRAME_BYTES];
        size_t more_bytes = sizeof more;
        int length = zmq_recv(zap, i < ZAP_FRAMES ? request->frames[i] : spare, ZAP_FRAME_BYTES, 0);
        if (length < 0 && errno == EINTR) {
            i--;
            continue;
        }
        if (length < 0) return false;
        if (i < ZAP_FRAMES) request->bytes[i] = (size_t)length;
        zmq_getsockopt(zap, ZMQ_RCVMORE, &more, &more_bytes);
    }
    return true;
}

/* Frames are counted bytes, not C strings. */
static bool frame_is(const struct zap_request *request, int frame, const char *text)
{
    return request->bytes[frame] == strlen(text) && memcmp(request->frames[frame], text, strlen(text)) == 0;
}

/* The entry of the caller's key, if its role fits the socket it came to. */
static const struct allowed *judge(struct curve *curve, const struct zap_request *request)
{
    if (!frame_is(request, 0, "1.0") || !frame_is(request, 5, "CURVE") || request->bytes[6] != KEY_BYTES)
        return NULL;
    bool workers = frame_is(request, 2, "workers");
    refresh_keys(curve);
    for (size_t i = 0; i < curve->key_count; i++) {
        const struct allowed *allowed = &curve->keys[i];
        if (memcmp(allowed->key, request->frames[6], KEY_BYTES) != 0) continue;
        return (allowed->role == ROLE_WORKER) == workers ? allowed : NULL;
    }
    return NULL;
}

/* RFC 27: version, request id, status, text, user id, metadata. The user id travels with every message of
 * the connection (curve_caller reads it): role and name in one, because only the name of the property is
 * fixed. */
static void zap_reply(void *zap, const struct zap_request *request, const struct allowed *allowed)
{
    char user[TENANT_BYTES + 16] = "";
    if (allowed) snprintf(user, sizeof user, "%s/%s", key_role_name(allowed->role), allowed->name);
    const char *code = allowed ? "200" : "400", *text = allowed ? "OK" : "this key is not allowed here";
    zmq_send(zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(zap, request->frames[1], request->bytes[1] < ZAP_FRAME_BYTES ? request->bytes[1] : 0,
             ZMQ_SNDMORE);
    zmq_send(zap, code, 3, ZMQ_SNDMORE);
    zmq_send(zap, text, strlen(text), ZMQ_SNDMORE);
    zmq_send(zap, user, strlen(user), ZMQ_SNDMORE);
    zmq_send(zap, "", 0, 0);
}

static void *zap_thread(void *argument)
{
    struct curve *curve = argument;
    struct zap_request request;
    while (zap_receive(curve->zap, &request)) {
        const struct allowed *allowed = judge(curve, &request);
        if (!allowed) {
            int length = (int)(request.bytes[3] < ZAP_FRAME_BYTES ? request.bytes[3] : 0);
            log_line(LOG_WARN, "a connection from %.*s was refused: its key is not allowed", length,
                     request.frames[3]);
        }
        zap_reply(curve->zap, &request, allowed);
    }
    zmq_close(curve->zap);
    return NULL;
}

/* --------------------------------------------------------------------------------------------------- keys */

static status_t key_path(const char *directory, const char *name, const char *suffix, char *path,
                         size_t bytes, struct error *error)
{
    if ((size_t)snprintf(path, bytes, "%s/%s.%s", directory, name, suffix) < bytes) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s: is too long a path", directory);
}

/* The coordinator's own pair, made when it is missing. */
static status_t own_key(const char *directory, struct keyfile *key, struct error *error)
{
    char path[PATH_MAX];
    if (mkdir(directory, 0700) != 0 && errno != EEXIST)
        return error_set(error, STATUS_IO, "%s: cannot be made: %m", directory);
    status_t status = key_path(directory, COORDINATOR_NAME, "secret", path, sizeof path, error);
    if (status == STATUS_OK) status = keyfile_read(path, key, error);
    if (status == STATUS_OK && !*key->secret_key)
        return error_set(error, STATUS_INVALID, "%s: has no secret-key", path);
    if (status != STATUS_NOT_FOUND) return status;
    *key = (struct keyfile){.role = ROLE_CLIENT};
    status = keyfile_generate(key, error);
    return status == STATUS_OK ? keyfile_write(path, key, error) : status;
}

/* The secret is written first: a public half alone would let in a key that nobody has. */
status_t curve_make_key(const char *directory, const char *name, enum key_role role, struct error *error)
{
    char public_path[PATH_MAX], secret_path[PATH_MAX];
    struct keyfile own, key = {.role = role};
    status_t status = validate_name("--make-key", name, error);
    if (status == STATUS_OK && strcmp(name, COORDINATOR_NAME) == 0)
        status = error_set(error, STATUS_INVALID, "--make-key %s: is the coordinator's own name", name);
    if (status == STATUS_OK) status = own_key(directory, &own, error);
    if (status == STATUS_OK)
        status = key_path(directory, name, "pub", public_path, sizeof public_path, error);
    if (status == STATUS_OK)
        status = key_path(directory, name, "secret", secret_path, sizeof secret_path, error);
    if (status == STATUS_OK) status = keyfile_generate(&key, error);
    if (status != STATUS_OK) return status;
    memcpy(key.server_key, own.public_key, sizeof key.server_key);
    if ((status = keyfile_write(secret_path, &key, error)) != STATUS_OK) return status;
    memset(key.secret_key, 0, sizeof key.secret_key);
    memset(key.server_key, 0, sizeof key.server_key);
    if ((status = keyfile_write(public_path, &key, error)) != STATUS_OK) remove(secret_path);
    return status;
}

/* Ranks we start ourselves share one key: they are one program, started by one person. */
status_t curve_worker_key(const char *directory, char *path, size_t bytes, struct error *error)
{
    struct keyfile key;
    status_t status = key_path(directory, WORKERS_NAME, "secret", path, bytes, error);
    if (status == STATUS_OK) status = keyfile_read(path, &key, error);
    return status == STATUS_NOT_FOUND ? curve_make_key(directory, WORKERS_NAME, ROLE_WORKER, error) : status;
}

/* ------------------------------------------------------------------------------------------------ the API */

status_t curve_open(void *context, const char *directory, struct curve **curve, struct error *error)
{
    status_t status;
    struct curve *made = calloc(1, sizeof *made);
    if (made) {
        made->context = context;
        made->directory = strdup(directory);
        made->keys = calloc(MAX_KEYS, sizeof *made->keys);
    }
    if (!made || !made->directory || !made->keys) {
        status = error_set(error, STATUS_NO_MEMORY, "no memory for keys");
        goto fail;
    }
    if ((status = own_key(directory, &made->own, error)) != STATUS_OK) goto fail;
    if (!(made->zap = zmq_socket(context, ZMQ_REP)) || zmq_bind(made->zap, "inproc://zeromq.zap.01") != 0) {
        status = error_set(error, STATUS_IO, "authentication: %s", zmq_strerror(errno));
        goto fail;
    }
    if ((errno = pthread_create(&made->thread, NULL, zap_thread, made)) != 0) {
        status = error_set(error, STATUS_IO, "the thread for authentication cannot be started: %m");
        goto fail;
    }
    made->thread_runs = true;
    *curve = made;
    return STATUS_OK;
fail:
    curve_close(made);
    return status;
}

void curve_close(struct curve *curve)
{
    if (!curve) return;
    if (curve->thread_runs) {
        zmq_ctx_shutdown(curve->context); /* ends its receive; it closes the socket */
        pthread_join(curve->thread, NULL);
    } else if (curve->zap) {
        zmq_close(curve->zap);
    }
    free(curve->keys);
    free(curve->directory);
    free(curve);
}

status_t curve_protect(struct curve *curve, void *socket, const char *domain, struct error *error)
{
    int yes = 1;
    if (zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &yes, sizeof yes) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, curve->own.secret_key, KEY_TEXT_BYTES) != 0 ||
        zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, domain, strlen(domain)) != 0)
        return error_set(error, STATUS_UNSUPPORTED, "CURVE: %s", zmq_strerror(errno));
    return STATUS_OK;
}

status_t curve_caller(const struct curve *curve, zmq_msg_t *frame, const struct wire_peer *peer,
                      struct caller *caller, struct error *error)
{
    if (!curve) {
        *caller = (struct caller){LOCAL_TENANT, true};
        return STATUS_OK;
    }
    const char *user = zmq_msg_gets(frame, "User-Id"), *slash = user ? strchr(user, '/') : NULL;
    if (!slash) return error_set(error, STATUS_DENIED, "this connection has no key");
    if (peer->identity[0] != 0) /* those ZeroMQ gives start with a zero byte */
        return error_set(error, STATUS_DENIED,
                         "this connection chose its own routing id; leave ZMQ_ROUTING_ID unset");
    caller->admin = strncmp(user, "admin/", 6) == 0;
    snprintf(caller->tenant, sizeof caller->tenant, "%s", slash + 1);
    return STATUS_OK;
}

/* By the text alone: a name that resolves to loopback today need not tomorrow, so only these forms pass. */
status_t curve_check_loopback(const char *option, const char *endpoint, struct error *error)
{
    static const char *const fine[] = {"tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://"};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
        if (strncmp(endpoint, fine[i], strlen(fine[i])) == 0) return STATUS_OK;
    return error_set(
        error, STATUS_DENIED,
        "%s %s: without --keys only this machine is served (tcp://127.0.0.1:PORT or ipc://PATH); make keys "
        "with --keys DIR --make-key NAME",
        option, endpoint);
}
