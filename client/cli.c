/* cli.c - see cli.h. */
#include "client/cli.h"

#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* --------------------------------------------------------------------------------- connection */

status_t cli_catch_signals(struct cli *cli, struct error *error)
{
    if (cli->signal_fd >= 0) return STATUS_OK;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    cli->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return cli->signal_fd >= 0 ? STATUS_OK : error_set(error, STATUS_IO, "no signal descriptor: %m");
}

status_t cli_connect(struct cli *cli, struct error *error)
{
    const struct settings *settings = &cli->settings;
    struct refrain_keys keys, *use = NULL;
    status_t status = STATUS_OK;
    if (settings->server_key && !settings->key)
        return error_set(error, STATUS_INVALID, "--server-key: needs --key as well, your own key pair");
    if (settings->key) {
        status = refrain_keys_load(settings->key, settings->server_key, &keys, error);
        if (status) return STATUS_INVALID;
        use = &keys;
    }
    status = refrain_connect(settings->coordinator, use, (int)settings->timeout_ms, &cli->refrain, error);
    explicit_bzero(&keys, sizeof keys);
    if (status == STATUS_PEER_LOST) {
        char sentence[ERROR_TEXT_BYTES];
        snprintf(sentence, sizeof sentence, "%s", error->text);
        error_set(
            error, status,
            "%s. Start one with `refrain-coordinator --launch 2`, or name another with --coordinator or "
            "REFRAIN_COORDINATOR.",
            sentence);
    }
    if (!status) status = cli_catch_signals(cli, error);
    if (!status) refrain_stop_on(cli->refrain, cli->signal_fd);
    return status;
}

/* ------------------------------------------------------------------------------------- errors */

int cli_exit_code(struct cli *cli, status_t status)
{
    switch (status) {
    case STATUS_OK:
        return EXIT_CODE_OK;
    case STATUS_INVALID:
        return EXIT_CODE_USAGE;
    case STATUS_PEER_LOST:
    case STATUS_DEADLINE:
        return EXIT_CODE_UNREACHABLE;
    case STATUS_NOT_FOUND:
    case STATUS_CONFLICT:
    case STATUS_DENIED:
        return EXIT_CODE_REFUSED;
    case STATUS_ABORTED: {
        struct signalfd_siginfo info = {0};
        if (cli->signal_fd >= 0 && read(cli->signal_fd, &info, sizeof info) == sizeof info)
            return EXIT_CODE_SIGNAL + (int)info.ssi_signo;
        return EXIT_CODE_FAILED;
    }
    default:
        return EXIT_CODE_FAILED;
    }
}

int cli_job_exit_code(const struct refrain_job *job)
{
    switch (job->state) {
    case REFRAIN_COMPLETED:
        return EXIT_CODE_OK;
    case REFRAIN_CANCELLED:
    case REFRAIN_EXPIRED:
        return EXIT_CODE_ENDED;
    default:
        return EXIT_CODE_FAILED;
    }
}

const char *cli_flag_sentence(const char *field, const char *text, char *out, size_t size)
{
    const char *flag = field && *field ? settings_flag_of(field) : NULL, *rest;
    size_t length = flag ? strlen(field) : 0;
    if (!flag || strncmp(text, field, length) != 0 || !strchr(" :", text[length])) return text;
    bool milliseconds = strcmp(field, "deadline_ms") == 0 && text[length] == ' ';
    if (milliseconds && (rest = strchr(text, ':')))
        snprintf(out, size, "--%s %gs%s", flag, strtod(text + length, NULL) / 1000, rest);
    else
        snprintf(out, size, "--%s%s", flag, text + length);
    return out;
}

static void print_json_error(status_t status, const char *field, const char *sentence)
{
    json_t *object = json_pack("{s:s, s:s}", "status", status_name(status), "message", sentence);
    if (object && field && *field) json_object_set_new(object, "field", json_string(field));
    json_t *outer = object ? json_pack("{s:o}", "error", object) : NULL;
    if (outer) json_dumpf(outer, stderr, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(outer);
    fputc('\n', stderr);
}

int cli_fail(struct cli *cli, status_t status, struct error *error)
{
    char buffer[ERROR_TEXT_BYTES + 32];
    const char *field = cli->field && *cli->field ? cli->field
                        : cli->refrain            ? refrain_error_field(cli->refrain)
                                                  : NULL;
    const char *sentence = cli_flag_sentence(field, error->text, buffer, sizeof buffer);
    fflush(stdout);
    if (cli->settings.json)
        print_json_error(status, field, sentence);
    else
        fprintf(stderr, "refrain: %s\n", sentence);
    return cli_exit_code(cli, status);
}

status_t cli_operands(const struct cli *cli, int min, int max, const char *what, struct error *error)
{
    int count = options_operand_count(cli->options);
    if (count >= min && count <= max) return STATUS_OK;
    if (count < min) return error_set(error, STATUS_INVALID, "missing: %s", what);
    if (max == 0)
        return error_set(error, STATUS_INVALID, "'%s' is one word too many; texts with blanks need quotes",
                         options_operand(cli->options, 0));
    return error_set(error, STATUS_INVALID, "'%s' is one word too many: only %s is expected",
                     options_operand(cli->options, max), what);
}
