/*
 * keyfile.c - see keyfile.h. Stateless.
 */
#include "proto/keyfile.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { KEYFILE_MAX_BYTES = 4096 };

static const char *const role_names[] = {"client", "admin", "worker"};

const char *key_role_name(enum key_role role)
{
    return role_names[role];
}

static status_t read_whole(const char *path, char text[KEYFILE_MAX_BYTES + 1], mode_t *mode,
                           struct error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: cannot be opened: %m",
                         path);
    struct stat about;
    ssize_t length = fstat(fd, &about) == 0 ? read(fd, text, KEYFILE_MAX_BYTES + 1) : -1;
    int code = errno;
    close(fd);
    errno = code;
    if (length < 0) return error_set(error, STATUS_IO, "%s: cannot be read: %m", path);
    if (length > KEYFILE_MAX_BYTES || memchr(text, 0, (size_t)length))
        return error_set(error, STATUS_INVALID, "%s: is not a key file", path);
    text[length] = '\0';
    *mode = about.st_mode;
    return STATUS_OK;
}

/* Splits `name = "value"` in place; the quotes may be missing. False for a line that is none. */
static bool split_line(char *line, char **name, char **value)
{
    char *equals = strchr(line, '=');
    if (!equals) return false;
    *equals = '\0';
    *name = line + strspn(line, " \t");
    (*name)[strcspn(*name, " \t")] = '\0';
    *value = equals + 1 + strspn(equals + 1, " \t");
    if (**value == '"') {
        char *quote = strchr(++*value, '"');
        if (!quote) return false;
        *quote = '\0';
    } else {
        (*value)[strcspn(*value, " \t\r")] = '\0';
    }
    return true;
}

static bool take_key(char out[KEY_TEXT_BYTES], const char *value)
{
    uint8_t bytes[32];
    if (strlen(value) != KEY_TEXT_BYTES - 1 || !zmq_z85_decode(bytes, value)) return false;
    memcpy(out, value, KEY_TEXT_BYTES);
    return true;
}

static bool take_role(enum key_role *role, const char *value)
{
    for (int i = ROLE_CLIENT; i <= ROLE_WORKER; i++)
        if (strcmp(value, role_names[i]) == 0) return *role = (enum key_role)i, true;
    return false;
}

/* Strict about everything, because a key file with a typing error must not let in the wrong one. */
status_t keyfile_read(const char *path, struct keyfile *key, struct error *error)
{
    char text[KEYFILE_MAX_BYTES + 1];
    mode_t mode = 0;
    struct keyfile made = {.role = ROLE_CLIENT};
    status_t status = read_whole(path, text, &mode, error);
    if (status != STATUS_OK) return status;
    int number = 0;
    for (char *line, *rest = text; (line = strsep(&rest, "\n"));) {
        char *name, *value;
        number++;
        line += strspn(line, " \t\r");
        if (*line == '\0' || *line == '#') continue;
        bool fine = split_line(line, &name, &value);
        if (fine && strcmp(name, "public-key") == 0)
            fine = take_key(made.public_key, value);
        else if (fine && strcmp(name, "secret-key") == 0)
            fine = take_key(made.secret_key, value);
        else if (fine && strcmp(name, "server-key") == 0)
            fine = take_key(made.server_key, value);
        else if (fine && strcmp(name, "role") == 0)
            fine = take_role(&made.role, value);
        else
            fine = false;
        if (!fine) /* without quoting the line: it may be a secret */
            return error_set(error, STATUS_INVALID,
                             "%s line %d: must be a key or a role as `name = \"value\"`", path, number);
    }
    if (!*made.public_key) return error_set(error, STATUS_INVALID, "%s: has no public-key", path);
    if (*made.secret_key && (mode & 077))
        return error_set(error, STATUS_DENIED, "%s: holds a secret that others may read; run `chmod 600 %s`",
                         path, path);
    *key = made;
    return STATUS_OK;
}

/* O_EXCL: a key that is in use is never overwritten, and a link is not followed. */
status_t keyfile_write(const char *path, const struct keyfile *key, struct error *error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return error_set(error, STATUS_CONFLICT, "%s: exists already; remove it first to make a new key",
                         path);
    if (fd < 0) return error_set(error, STATUS_IO, "%s: cannot be made: %m", path);
    FILE *file = fdopen(fd, "w");
    if (!file) {
        close(fd);
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory to write it", path);
    }
    fprintf(file, "# refrain %s key%s\n", role_names[key->role], *key->secret_key ? ": keep it secret" : "");
    fprintf(file, "public-key = \"%s\"\n", key->public_key);
    if (*key->secret_key) fprintf(file, "secret-key = \"%s\"\n", key->secret_key);
    if (*key->server_key) fprintf(file, "server-key = \"%s\"\n", key->server_key);
    fprintf(file, "role = \"%s\"\n", role_names[key->role]);
    bool written = fflush(file) == 0 && fsync(fd) == 0;
    if (fclose(file) != 0 || !written) {
        error_set(error, STATUS_IO, "%s: cannot be written: %m", path);
        unlink(path);
        return STATUS_IO;
    }
    return STATUS_OK;
}

status_t keyfile_generate(struct keyfile *key, struct error *error)
{
    if (zmq_curve_keypair(key->public_key, key->secret_key) != 0)
        return error_set(error, STATUS_UNSUPPORTED, "this libzmq was built without CURVE");
    return STATUS_OK;
}

status_t keyfile_apply_client(const struct keyfile *key, void *socket, struct error *error)
{
    if (!*key->secret_key || !*key->server_key)
        return error_set(error, STATUS_INVALID,
                         "key file: %s is missing; use the .secret file the coordinator made",
                         *key->secret_key ? "server-key" : "secret-key");
    if (zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, key->server_key, KEY_TEXT_BYTES) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, key->public_key, KEY_TEXT_BYTES) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, key->secret_key, KEY_TEXT_BYTES) != 0)
        return error_set(error, STATUS_UNSUPPORTED, "CURVE keys cannot be set: %s", zmq_strerror(errno));
    return STATUS_OK;
}
