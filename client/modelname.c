/* modelname.c - see modelname.h. Main thread. */
#include "client/modelname.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

enum { HASH_BYTES = 9 }; /* a hyphen and eight digits */

/* The last part of the path, in the characters a model's name may have. */
static void name_of(const char *directory, char name[MODEL_NAME_BYTES])
{
    const char *slash = strrchr(directory, '/'), *base = slash ? slash + 1 : directory;
    size_t length = 0;
    while (*base == '.') base++;
    for (; *base && length < MODEL_NAME_BYTES - 1 - HASH_BYTES; base++) {
        unsigned char c = (unsigned char)*base;
        bool allowed =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("._-", c);
        name[length++] = allowed ? (char)c : '-';
    }
    name[length] = 0;
    if (length == 0) strcpy(name, "model");
}

status_t modelname_add(struct cli *cli, const char *directory, char name[MODEL_NAME_BYTES],
                       struct refrain_model_list **card, struct error *error)
{
    name_of(directory, name);
    status_t status = refrain_model_add(cli->refrain, name, directory, MODEL_ADD_MS, card, error);
    if (status != STATUS_CONFLICT) return status;
    size_t length = strlen(name);
    snprintf(name + length, MODEL_NAME_BYTES - length, "-%08x",
             (unsigned)(XXH64(directory, strlen(directory), 0) & 0xffffffffu));
    return refrain_model_add(cli->refrain, name, directory, MODEL_ADD_MS, card, error);
}

static status_t add_directory(struct cli *cli, const char *said, char name[MODEL_NAME_BYTES],
                              struct error *error)
{
    char directory[PATH_MAX];
    if (!realpath(said, directory)) {
        /* It may still be there on the coordinator's host, but only an absolute path means something there.
         */
        if (said[0] != '/' || strlen(said) >= sizeof directory)
            return error_set(error, STATUS_INVALID, "--model %s: %s", said,
                             errno == ENOENT ? "no such directory" : strerror(errno));
        snprintf(directory, sizeof directory, "%s", said);
    }
    struct refrain_model_list *card;
    status_t status = modelname_add(cli, directory, name, &card, error);
    if (!status) refrain_free(card);
    if (status == STATUS_DENIED) {
        error_prefix(error, "--model %s", said);
        char sentence[ERROR_TEXT_BYTES];
        snprintf(sentence, sizeof sentence, "%s", error->text);
        error_set(error, status, "%s. Ask whoever runs the coordinator to add it, then name it: --model NAME",
                  sentence);
    }
    return status;
}

/* Without --model: right if there is just one to choose. */
static status_t only_model(struct cli *cli, char name[MODEL_NAME_BYTES], struct error *error)
{
    struct refrain_model_list *list;
    status_t status = refrain_models(cli->refrain, CALL_MS, &list, error);
    if (status) return status;
    if (list->count == 1) {
        snprintf(name, MODEL_NAME_BYTES, "%s", list->models[0].name);
    } else if (list->count == 0) {
        status = error_set(
            error, STATUS_INVALID,
            "--model: the coordinator knows no model yet; name a directory, or `refrain models add`");
    } else {
        status = error_set(error, STATUS_INVALID, "--model: must be given; the coordinator knows %s, %s%s",
                           list->models[0].name, list->models[1].name, list->count > 2 ? " and others" : "");
    }
    refrain_free(list);
    return status;
}

status_t modelname_resolve(struct cli *cli, const char *said, char name[MODEL_NAME_BYTES],
                           struct error *error)
{
    if (!said) return only_model(cli, name, error);
    struct stat there;
    bool directory = stat(said, &there) == 0 && S_ISDIR(there.st_mode);
    if (directory || strchr(said, '/')) return add_directory(cli, said, name, error);
    if ((size_t)snprintf(name, MODEL_NAME_BYTES, "%s", said) < MODEL_NAME_BYTES) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "--model: names have at most %d bytes", MODEL_NAME_BYTES - 1);
}
