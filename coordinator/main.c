/*
 * main.c - refrain-coordinator: reads its options, makes keys or serves.
 *
 * The main thread runs the loop (server.c). Signals are blocked before any other thread is made, so that they
 * arrive at the loop's signalfd and nowhere else.
 */
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/signals.h"
#include "coordinator/server.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

static int fail(const struct error *error)
{
    fprintf(stderr, "refrain-coordinator: %s\n", error->text);
    return error->status == STATUS_INVALID ? EXIT_USAGE : EXIT_FAILED;
}

static int make_key(const struct settings *settings)
{
    struct error error;
    if (curve_make_key(settings->keys, settings->make_key, (enum key_role)settings->role, &error) !=
        STATUS_OK)
        return fail(&error);
    printf("made %s/%s.secret: give it to %s, over a safe way, and keep no copy\n"
           "made %s/%s.pub: lets it in, as %s; remove it to lock it out\n",
           settings->keys, settings->make_key, settings->make_key, settings->keys, settings->make_key,
           key_role_name((enum key_role)settings->role));
    return 0;
}

static int serve(const struct settings *settings)
{
    struct error error;
    struct server *server;
    signals_block();
    if (settings->tie && !signals_tie(getppid())) return EXIT_FAILED;
    if (server_open(settings, &server, &error) != STATUS_OK) return fail(&error);
    status_t status = server_run(server, &error);
    server_close(server);
    return status == STATUS_OK ? 0 : fail(&error);
}

int main(int argc, char **argv)
{
    struct error error;
    struct settings settings;
    log_identify("coordinator");
    umask(077); /* jobs, results, keys and ipc sockets are nobody else's */
    if (settings_read(argc, argv, &settings, &error) != STATUS_OK) {
        fail(&error);
        return EXIT_USAGE;
    }
    int code = 0;
    if (settings.help)
        settings_help(stdout);
    else if (settings.version)
        printf("refrain-coordinator %s\n", REFRAIN_VERSION);
    else if (settings.make_key)
        code = make_key(&settings);
    else
        code = serve(&settings);
    settings_free(&settings);
    return code;
}
