/*
 * settings.c - see settings.h. The table below is the whole command line, its help and its limits.
 */
#include "coordinator/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "coordinator/metrics/scrape.h"

#define AT(field) offsetof(struct settings, field)

static const char *const fabric_names[] = {"zmq", "mpi", "nccl"};

static const struct option_spec specs[] = {
    {.help = "Where things are"},
    {"data", 'd', OPTION_TEXT, AT(data), "DIR", .env = "REFRAIN_DATA",
     .help =
         "where jobs and results are kept; one coordinator per directory (default ~/.local/share/refrain, "
         "following XDG_DATA_HOME)"},
    {"worker-binary", 0, OPTION_TEXT, AT(worker_binary), "FILE",
     .help = "the refrain-worker to start and to inspect models with (default: beside this program)"},
    {"launch-binary", 0, OPTION_TEXT, AT(launch_binary), "FILE",
     .help = "the refrain-launch to start ranks with (default: beside this program)"},
    {"config", 0, OPTION_CONFIG, AT(config), "FILE", .env = "REFRAIN_COORDINATOR_CONFIG",
     .help = "read options from lines `name = value`"},

    {.help = "Who may connect"},
    {"endpoint", 'e', OPTION_TEXT, AT(endpoint), "ENDPOINT", .standard = "tcp://127.0.0.1:5731",
     .help = "for clients; port * takes a free one"},
    {"worker-endpoint", 0, OPTION_TEXT, AT(worker_endpoint), "ENDPOINT", .standard = "tcp://127.0.0.1:5732",
     .help = "for workers; port * takes a free one"},
    {"vault-endpoint", 0, OPTION_TEXT, AT(vault_endpoint), "ENDPOINT",
     .help = "for workers' checkpoints (default: beside the worker endpoint, on a free port)"},
    {"endpoint-file", 0, OPTION_TEXT, AT(endpoint_file), "FILE",
     .help = "once ready, write both endpoints there as JSON"},
    {"metrics", 0, OPTION_TEXT, AT(metrics), "ADDRESS:PORT",
     .help = "tell a Prometheus about queue, ranks and caches at http://ADDRESS:PORT/metrics (default: no; "
             "without ADDRESS "
             "this machine only)"},
    {"keys", 0, OPTION_TEXT, AT(keys), "DIR",
     .help = "allow only the CURVE keys in DIR, one tenant each; without it only this machine is served"},
    {"make-key", 0, OPTION_TEXT, AT(make_key), "NAME",
     .help = "make a key pair in the --keys directory and end"},
    {"role", 0, OPTION_CHOICE, AT(role), .help = "of that key", .standard = "client",
     .choices = "client|admin|worker"},

    {.help = "Ranks"},
    {"launch", 'n', OPTION_INT, AT(launch), "N", .max = PLAN_MAX_RANKS,
     .help = "start N ranks (refrain-launch) and keep them going; otherwise they are started by hand, with "
             "refrain-launch or mpirun"},
    {"hostfile", 0, OPTION_TEXT, AT(hostfile), "FILE", .help = "mpirun's list of hosts"},
    {"threads", 't', OPTION_INT, AT(threads), "N", .help = "of each rank (default: the worker decides)",
     .max = 4096},
    {"fabric", 0, OPTION_CHOICE, AT(fabric), .help = "what carries tensors between the ranks",
     .choices = "zmq|mpi|nccl"},
    {"fold", 0, OPTION_TEXT, AT(fold_text), "HEAD,TAIL",
     .help = "blocks of rank 0, first and last ones, and no others (default: computed, docs/scheduling.md)"},
    {"split", 0, OPTION_TEXT, AT(split_text), "B0,B1,...",
     .help = "blocks of each rank, rank 0 first (default: computed from speeds, memory and hit rates)"},
    {"home", 0, OPTION_CHOICE, AT(home), .standard = "auto", .choices = "auto|fixed|floating",
     .help = "where jobs' step loops live: on rank 0, or each on a rank of its own, which then all hold the "
             "blocks that every step runs"},
    {"layout", 0, OPTION_CHOICE, AT(layout), .standard = "auto",
     .choices = "auto|pipeline|cfg|pools|cfg-pools",
     .help =
         "chains that the blocks lie in: one for all, the best for a queue (pipeline); one for each guidance "
         "branch, so that both are computed at once, the best for a job alone (cfg); one for each expert "
         "(pools); auto: by the jobs that wait"},
    {"pools", 0, OPTION_TEXT, AT(pools_text), "FIRST+SECOND",
     .help = "ranks of each expert of a model that has two, such as 5+3 (default: computed from steps and "
             "hit rates)"},
    {"stage-width", 0, OPTION_INT, AT(stage_width), "N", .standard = "1", .min = 1, .max = 64,
     .help = "ranks that hold the same blocks and share the tokens of each job, and in attention its heads: "
             "good for a job alone, not for a queue"},
    {"settle", 0, OPTION_DURATION, AT(settle_ms), "TIME", .standard = "10s", .max = 86400000,
     .help = "a layout lasts at least so long, and another one must bring at least three quarters of it"},
    {"tie", 0, OPTION_FLAG, AT(tie),
     .help = "end with the process that started this one, and end the ranks with us"},

    {"in-flight", 0, OPTION_INT, AT(in_flight), "N", .max = GROUP_SLOTS,
     .help = "jobs at once on a group of ranks (default: as many as keep every rank busy)"},
    {"flight-memory", 0, OPTION_BYTES, AT(flight_memory), "BYTES", .max = 1e15,
     .help =
         "what the jobs on a group may keep at their homes (default: what the ranks have beside weights)"},

    {.help = "Limits"},
    {"max-jobs", 0, OPTION_INT, AT(max_jobs), "N", .help = "unfinished jobs at most", .standard = "100000",
     .min = 1, .max = 10000000},
    {"result-limit", 0, OPTION_BYTES, AT(result_limit), "BYTES", .help = "of one result file",
     .standard = "64G", .min = 1 << 20, .max = 1e15},
    {"cache-memory", 0, OPTION_BYTES, AT(cache_memory), "BYTES",
     .help = "features one job's caching may keep, over all its ranks", .standard = "8G", .min = 1 << 20,
     .max = 1e15},
    {"checkpoint-limit", 0, OPTION_BYTES, AT(checkpoint_limit), "BYTES", .standard = "16G", .max = 1e15,
     .help = "of all checkpoints; 0: none are kept, a job whose ranks are lost starts over"},
    {"checkpoint-keep", 0, OPTION_INT, AT(checkpoint_keep), "N", .standard = "2", .min = 1, .max = 1000,
     .help = "checkpoints of a job, for itself"},
    {"marks", 0, OPTION_INT, AT(marks), "N", .standard = "10", .max = 1000,
     .help = "checkpoints of a job, spread over its steps, that stay when it has ended, so that other jobs "
             "can go on "
             "from them (refrain submit --resume-from); 0: none"},
    {"marks-limit", 0, OPTION_BYTES, AT(mark_limit), "BYTES", .standard = "4G", .max = 1e15,
     .help = "of all those, beyond it the oldest go; counted in --checkpoint-limit, too"},
    {"heartbeat", 0, OPTION_DURATION, AT(heartbeat_ms), "TIME", .help = "between a rank's signs of life",
     .standard = "200ms", .min = 50, .max = 60000},
    {"silence", 0, OPTION_DURATION, AT(silence_ms), "TIME",
     .help = "a rank that said nothing for so long is lost", .standard = "5s", .min = 200, .max = 3600000},
    {"gather", 0, OPTION_DURATION, AT(gather_ms), "TIME",
     .help = "from the first rank's arrival to the last's", .standard = "120s", .min = 1000, .max = 3600000},
    {"join", 0, OPTION_DURATION, AT(join_ms), "TIME", .help = "for the ranks to reach each other",
     .standard = "30s", .min = 500, .max = 3600000},
    {"hang", 0, OPTION_DURATION, AT(hang_ms), "TIME", .standard = "10m",
     .help = "a working group without progress for so long is lost; 0: never"},
    {"reconnect", 0, OPTION_DURATION, AT(reconnect_ms), "TIME", .standard = "15s", .max = 3600000,
     .help = "after a restart, wait so long for ranks that are still at work"},

    {.help = "More"},
    {"help", 'h', OPTION_FLAG, AT(help), .help = "this text"},
    {"version", 0, OPTION_FLAG, AT(version), .help = "print the version"},
};

static const struct option_table table = {"refrain-coordinator", specs, sizeof specs / sizeof *specs};

void settings_help(FILE *out)
{
    fprintf(out, "usage: refrain-coordinator [options]\n\n"
                 "Takes jobs from clients, keeps them safe, and has them done by ranks of refrain-worker.\n\n"
                 "  refrain-coordinator --launch 2              a service on this machine, with two ranks\n"
                 "  refrain-coordinator --keys K --make-key ann make K/ann.secret for a user called ann\n"
                 "  refrain-coordinator --keys K --endpoint 'tcp://*:5731' --worker-endpoint 'tcp://*:5732'\n"
                 "                                              a service for other machines\n\n");
    options_help(&table, 0, out);
    fprintf(out,
            "\nEnds cleanly on SIGTERM and SIGINT; jobs stay stored and go on when it is started again.\n"
            "Exit status: 0 ended as asked, 1 failed, 2 wrong usage.\n");
}

/* --data, or where the XDG base directory specification puts it. */
static status_t find_data(struct settings *settings, struct error *error)
{
    const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char *path = settings->data_path;
    size_t bytes = sizeof settings->data_path;
    int length = settings->data           ? snprintf(path, bytes, "%s", settings->data)
                 : xdg && xdg[0] == '/'   ? snprintf(path, bytes, "%s/refrain", xdg)
                 : home && home[0] == '/' ? snprintf(path, bytes, "%s/.local/share/refrain", home)
                                          : 0;
    if (length == 0) return error_set(error, STATUS_INVALID, "--data: must be given, as there is no HOME");
    /* Paths below it must fit as well. */
    if (length > PATH_MAX - 512) return error_set(error, STATUS_INVALID, "--data: is too long a path");
    return STATUS_OK;
}

/* The file said, or `name` in the directory this program was started from. */
static status_t find_program(const char *option, const char *said, const char *name, char path[PATH_MAX],
                             struct error *error)
{
    if (said) {
        if (!realpath(said, path)) return error_set(error, STATUS_NOT_FOUND, "--%s %s: %m", option, said);
        return STATUS_OK;
    }
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) return error_set(error, STATUS_IO, "/proc/self/exe: %m");
    self[length] = '\0';
    char *slash = strrchr(self, '/');
    int used = slash ? snprintf(path, PATH_MAX, "%.*s%s", (int)(slash + 1 - self), self, name) : -1;
    if (used < 0 || used >= PATH_MAX) return error_set(error, STATUS_INVALID, "--%s: must be given", option);
    return STATUS_OK;
}

static status_t check_together(const struct settings *settings, struct error *error)
{
    if (options_operand_count(settings->options) > 0)
        return error_set(error, STATUS_INVALID, "%s: is not an option; see --help",
                         options_operand(settings->options, 0));
    if (settings->make_key && !settings->keys)
        return error_set(error, STATUS_INVALID, "--make-key: needs --keys DIR");
    if (settings->silence_ms < 3 * settings->heartbeat_ms)
        return error_set(error, STATUS_INVALID, "--silence: must be at least three times --heartbeat");
    if (settings->hostfile && settings->launch == 0)
        return error_set(error, STATUS_INVALID, "--hostfile: needs --launch N");
    if (settings->hostfile && access(settings->hostfile, R_OK) != 0)
        return error_set(error, STATUS_INVALID, "--hostfile %s: %m", settings->hostfile);
    return settings->metrics ? scrape_check(settings->metrics, error) : STATUS_OK;
}

/* Pools are a layout, so naming them asks for it. */
static status_t read_pools(struct settings *settings, struct error *error)
{
    struct plan_wish *wish = &settings->wish;
    status_t status = plan_read_pools(settings->pools_text, wish, error);
    if (status != STATUS_OK) return status;
    if (wish->layout == PLAN_LAYOUT_AUTO) wish->layout = PLAN_LAYOUT_POOLS;
    if (wish->layout != PLAN_LAYOUT_POOLS && wish->layout != PLAN_LAYOUT_CFG_POOLS)
        return error_set(error, STATUS_INVALID,
                         "--pools: goes with --layout pools or cfg-pools: leave one of them out");
    if (settings->launch > 0 && (int64_t)wish->pool + wish->second_pool != settings->launch)
        return error_set(error, STATUS_INVALID, "--pools %u+%u: --launch starts %" PRId64 " ranks",
                         wish->pool, wish->second_pool, settings->launch);
    return STATUS_OK;
}

/* Before a model is there: do the ranks that will be stand in whole stages? */
static status_t check_stages(const struct settings *settings, struct error *error)
{
    const struct plan_wish *wish = &settings->wish;
    uint32_t ranks = settings->launch > 0 ? (uint32_t)settings->launch
                     : wish->runs > 0     ? wish->runs
                                          : wish->pool + wish->second_pool;
    if (wish->width < 2) return STATUS_OK;
    if (ranks == 0) ranks = wish->width; /* they come by themselves */
    return plan_wide_wish(&(struct plan_request){.ranks = ranks, .wish = wish}, error);
}

/* How blocks are laid over the ranks, where the operator knows better. */
static status_t read_wish(struct settings *settings, struct error *error)
{
    status_t status = STATUS_OK;
    if (settings->fold_text) status = plan_read_fold(settings->fold_text, &settings->wish, error);
    if (status == STATUS_OK && settings->split_text)
        status = plan_read_split(settings->split_text, &settings->wish, error);
    settings->wish.home = (enum plan_home)settings->home;
    settings->wish.width = (uint32_t)settings->stage_width;
    settings->wish.layout = (enum plan_layout)settings->layout;
    if (status == STATUS_OK && settings->pools_text) status = read_pools(settings, error);
    if (status == STATUS_OK && settings->wish.runs > 0 && settings->wish.layout > PLAN_LAYOUT_PIPELINE)
        return error_set(error, STATUS_INVALID,
                         "--split: says nothing of several chains: leave it out, or --layout");
    if (status == STATUS_OK && settings->launch > 0 && settings->wish.runs > 0 &&
        settings->wish.runs != settings->launch)
        return error_set(error, STATUS_INVALID, "--split: names %u ranks, --launch starts %" PRId64,
                         settings->wish.runs, settings->launch);
    return status == STATUS_OK ? check_stages(settings, error) : status;
}

status_t settings_read(int argc, char **argv, struct settings *settings, struct error *error)
{
    *settings = (struct settings){0};
    status_t status = options_parse(&table, 0, argc, argv, settings, &settings->options, error);
    if (status != STATUS_OK || settings->help || settings->version) return status;
    if ((status = check_together(settings, error)) != STATUS_OK) goto fail;
    if ((status = find_data(settings, error)) != STATUS_OK) goto fail;
    status = find_program("worker-binary", settings->worker_binary, "refrain-worker", settings->worker_path,
                          error);
    if (status == STATUS_OK)
        status = find_program("launch-binary", settings->launch_binary, "refrain-launch",
                              settings->launch_path, error);
    if (status != STATUS_OK) goto fail;
    if ((status = read_wish(settings, error)) != STATUS_OK) goto fail;
    settings->fabric_given = options_given(settings->options, "fabric");
    return STATUS_OK;
fail:
    settings_free(settings);
    return status;
}

void settings_free(struct settings *settings)
{
    options_destroy(settings->options);
    settings->options = NULL;
}

const char *settings_fabric(const struct settings *settings)
{
    return settings->fabric_given ? fabric_names[settings->fabric] : NULL;
}
