/*
 * modelname.h - from what a person says with --model to a name that the coordinator knows.
 *
 *     char name[MODEL_NAME_BYTES];
 *     status_t status = modelname_resolve(cli, cli->settings.model, name, &error);
 */
#ifndef REFRAIN_CLIENT_MODELNAME_H
#define REFRAIN_CLIENT_MODELNAME_H

#include "client/cli.h"

enum { MODEL_NAME_BYTES = 65 };

/* `said` is a name, or a directory (it contains a slash, or is one here), which is then added under a name
 * made from its own; or NULL: the only model there is. Sentences start with --model. */
status_t modelname_resolve(struct cli *cli, const char *said, char name[MODEL_NAME_BYTES],
                           struct error *error);

/* Adds the checkpoint in `directory` (absolute), under its base name or, if that means another directory,
 * with a hash of the path after it. */
status_t modelname_add(struct cli *cli, const char *directory, char name[MODEL_NAME_BYTES],
                       struct refrain_model_list **card, struct error *error);

#endif
