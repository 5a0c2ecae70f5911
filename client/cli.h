/*
 * cli.h - what the verbs of the `refrain` command share: options, the connection, how errors and exit codes
 * come about.
 *
 *     int verb_cancel(struct cli *cli)
 *     {
 *         struct error error;
 *         status_t status = cli_connect(cli, &error);
 *         if (!status) status = refrain_cancel(cli->refrain, number, CALL_MS, &error);
 *         return status ? cli_fail(cli, status, &error) : EXIT_CODE_OK;
 *     }
 *
 * Main thread only. main() frees what a verb leaves in `struct cli`.
 */
#ifndef REFRAIN_CLIENT_CLI_H
#define REFRAIN_CLIENT_CLI_H

#include "client/librefrain.h"
#include "client/settings.h"
#include "client/show.h"

/* Listed in `refrain help` and docs/client.md. */
enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_FAILED = 1,      /* the job failed, or something on this machine did */
    EXIT_CODE_USAGE = 2,       /* a value or option is wrong; nothing was started */
    EXIT_CODE_UNREACHABLE = 3, /* no coordinator, or it does not answer */
    EXIT_CODE_REFUSED = 4,     /* not found, in conflict with what is there, or not allowed */
    EXIT_CODE_ENDED = 5,       /* the job was cancelled or expired */
    EXIT_CODE_SIGNAL = 128,    /* plus the signal's number: 130 for Ctrl-C */
};

enum {
    CALL_MS = 30000,       /* for an answer from a coordinator that is there */
    MODEL_ADD_MS = 120000, /* it opens the checkpoint first */
};

struct cli {
    struct settings settings;
    struct options *options; /* the verb's operands are its operands */
    struct show_style style; /* of standard output */
    struct refrain *refrain; /* NULL until cli_connect */
    int signal_fd;           /* readable once SIGINT, SIGTERM or SIGHUP came; -1 until cli_catch_signals */
    const char *field; /* to blame for the latest failure, "" or NULL: none; static or the connection's */
};

/* Connects as the options say, and makes signals end waits with STATUS_ABORTED from then on. */
status_t cli_connect(struct cli *cli, struct error *error);

/* From now on SIGINT, SIGTERM and SIGHUP do not kill but make cli->signal_fd readable. */
status_t cli_catch_signals(struct cli *cli, struct error *error);

/* "width 100: must ..." is about --width where that is the field and an option, and a deadline's milliseconds are said as a
 * person says them; otherwise `text`. out: [size]. */
const char *cli_flag_sentence(const char *field, const char *text, char *out, size_t size);

/* Tells the person what went wrong, on standard error, and returns the exit code. A sentence about a field
 * becomes one about the option that set it. */
int cli_fail(struct cli *cli, status_t status, struct error *error);

/* The exit code of a status, taking the signal that came into account. */
int cli_exit_code(struct cli *cli, status_t status);

/* The exit code of a job in a final state. */
int cli_job_exit_code(const struct refrain_job *job);

/* INVALID unless the verb has between min and max operands; `what` names them: "JOB...". */
status_t cli_operands(const struct cli *cli, int min, int max, const char *what, struct error *error);

/* The verbs; each returns the process's exit code. */
int verb_generate(struct cli *cli);
int verb_submit(struct cli *cli);
int verb_status(struct cli *cli);
int verb_watch(struct cli *cli);
int verb_cancel(struct cli *cli);
int verb_list(struct cli *cli);
int verb_result(struct cli *cli);
int verb_delete(struct cli *cli);
int verb_stats(struct cli *cli);
int verb_ranks(struct cli *cli);
int verb_drain(struct cli *cli);
int verb_models(struct cli *cli);
int verb_cache(struct cli *cli);
int verb_keygen(struct cli *cli);
int verb_compare(struct cli *cli);
int verb_calibrate(struct cli *cli);
int verb_policies(struct cli *cli);
int verb_plan(struct cli *cli);
int verb_measure(struct cli *cli);

#endif
