/*
 * main.c - refrain-launch: starts the ranks of a group with mpirun, and replaces those that are lost.
 *
 * Runs where mpirun can be run: on a host of the cluster, inside a Slurm allocation, or beside the
 * coordinator, which starts it for `--launch N`. The main thread does everything; ZeroMQ has threads of its
 * own.
 */
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "base/scratch.h"
#include "base/signals.h"
#include "cluster/launcher/crew.h"
#include "cluster/launcher/launcher.h"
#include "cluster/launcher/litter.h"
#include "proto/keyfile.h"

struct settings {
    const char *coordinator, *key, *worker, *hostfile, *scratch, *join;
    int64_t ranks, threads, orphan_ms, order_ms;
    int fabric;
    bool tie, version, help;
};

static const char *const fabrics[] = {"zmq", "mpi", "nccl"};

static const struct option_spec specs[] = {
    {.help = "Where it belongs"},
    {"coordinator", 'c', OPTION_TEXT, offsetof(struct settings, coordinator), "ENDPOINT",
     .help = "the coordinator's address for workers", .standard = "tcp://127.0.0.1:5732",
     .env = "REFRAIN_WORKER_ENDPOINT"},
    {"key", 0, OPTION_TEXT, offsetof(struct settings, key), "FILE",
     .help = "CURVE key file of a worker, for this program and its ranks", .env = "REFRAIN_WORKER_KEY"},
    {"orphan-timeout", 0, OPTION_DURATION, offsetof(struct settings, orphan_ms), "TIME",
     .help = "how long to live without a coordinator", .standard = "60s", .min = 100, .max = 86400000},
    {"tie", 0, OPTION_FLAG, offsetof(struct settings, tie),
     .help = "end with the process that started this one"},
    {.help = "What it starts"},
    {"ranks", 'n', OPTION_INT, offsetof(struct settings, ranks), "N", .help = "how many ranks form the group",
     .standard = "1", .min = 1, .max = CREW_MAX_RANKS},
    {"join", 'j', OPTION_TEXT, offsetof(struct settings, join), "GROUP",
     .help = "they come to a group that is there, named as `refrain ranks` does, while its jobs run"},
    {"hostfile", 0, OPTION_TEXT, offsetof(struct settings, hostfile), "FILE",
     .help = "mpirun's list of hosts; by default this host, or what the batch system gave"},
    {"threads", 't', OPTION_INT, offsetof(struct settings, threads), "N",
     .help = "of each rank; 0: the worker decides", .standard = "0", .max = CREW_MAX_THREADS},
    {"fabric", 'f', OPTION_CHOICE, offsetof(struct settings, fabric),
     .help = "zmq survives a lost rank, with mpi all are started anew, nccl is zmq with GPUs",
     .standard = "zmq", .choices = "zmq|mpi|nccl"},
    {"worker-binary", 0, OPTION_TEXT, offsetof(struct settings, worker), "FILE",
     .help = "the refrain-worker to start (default: beside this program); the same path on every host"},
    {"scratch", 0, OPTION_TEXT, offsetof(struct settings, scratch), "DIR",
     .help = "where mpirun's own files are, until the end", .env = "TMPDIR", .standard = "/tmp"},
    {"order-timeout", 0, OPTION_DURATION, offsetof(struct settings, order_ms), "TIME",
     .help =
         "when no rank is left, how long to wait for the coordinator's orders before all are started anew",
     .standard = "30s", .min = 100, .max = 3600000},
    {.help = "More"},
    {"help", 'h', OPTION_FLAG, offsetof(struct settings, help), .help = "this text"},
    {"version", 0, OPTION_FLAG, offsetof(struct settings, version), .help = "print the version"},
};
static const struct option_table table = {"refrain-launch", specs, sizeof specs / sizeof *specs};

static int complain(const struct error *error)
{
    fprintf(stderr, "refrain-launch: %s\n", error->text);
    return error->status == STATUS_INVALID ? 2 : 1;
}

static void print_help(void)
{
    printf("usage: refrain-launch [options] [-- options of refrain-worker]\n\n"
           "Starts ranks of refrain-worker with mpirun, and a lost one anew when the coordinator asks for "
           "it.\n\n"
           "  refrain-launch -n 8 --hostfile hosts --coordinator tcp://head:5732\n"
           "  refrain-launch -n $SLURM_NTASKS --coordinator tcp://head:5732 -- --backend cpu-avx2\n"
           "  refrain-launch --join 40d6ff9d -n 2 --hostfile more --coordinator tcp://head:5732\n\n");
    options_help(&table, 0, stdout);
    printf(
        "\nEnds on SIGTERM and SIGINT, when the coordinator says so, and when there is none for too long;\n"
        "its ranks end with it. Exit status: 0 ended as asked, 1 failed, 2 wrong usage.\n");
}

/* --worker-binary, or refrain-worker in this program's directory. */
static status_t find_worker(const char *said, char path[PATH_MAX], struct error *error)
{
    if (said && !realpath(said, path))
        return error_set(error, STATUS_NOT_FOUND, "--worker-binary %s: %m", said);
    if (!said) {
        ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 32);
        if (length < 0) return error_set(error, STATUS_IO, "/proc/self/exe: %m");
        path[length] = '\0';
        strcpy(strrchr(path, '/') + 1, "refrain-worker");
    }
    if (access(path, X_OK) != 0)
        return error_set(error, STATUS_NOT_FOUND, "%s: %m; name another with --worker-binary", path);
    return STATUS_OK;
}

/* Does mpirun itself know of more hosts than this one? */
static bool in_an_allocation(void)
{
    static const char *const signs[] = {"SLURM_JOB_ID", "PBS_NODEFILE", "PE_HOSTFILE", "LSB_HOSTS",
                                        "LSB_MCPU_HOSTS"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (getenv(signs[i])) return true;
    return false;
}

/* Under mpirun or srun ourselves, say: what was meant for this process would mislead our own mpiruns. */
static void forget_outer_mpi(void)
{
    static const char *const prefixes[] = {"OMPI_COMM_WORLD_", "OMPI_UNIVERSE", "PMIX_", "PMI_"};
    char name[256];
    for (char **at = environ; *at;) {
        bool outer = false;
        for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
            outer = outer || strncmp(*at, prefixes[i], strlen(prefixes[i])) == 0;
        size_t length = strcspn(*at, "=");
        if (outer && length < sizeof name) {
            snprintf(name, sizeof name, "%.*s", (int)length, *at);
            unsetenv(name); /* moves the rest up */
        } else
            at++;
    }
}

static status_t read_key(const struct settings *settings, struct keyfile *key, struct uplink_config *uplink,
                         struct error *error)
{
    if (!settings->key) return STATUS_OK;
    status_t status = keyfile_read(settings->key, key, error);
    if (status != STATUS_OK) return status;
    if (!key->server_key[0] || !key->secret_key[0])
        return error_set(error, STATUS_INVALID, "--key %s: needs secret-key and server-key", settings->key);
    uplink->public_key = key->public_key;
    uplink->secret_key = key->secret_key;
    uplink->server_key = key->server_key;
    return STATUS_OK;
}

/* Files of a launcher that was killed are removed by the next one here. */
static status_t launch(const struct settings *settings, const struct mpirun_plan *plan, struct error *error)
{
    struct scratch scratch;
    struct keyfile key;
    struct launcher_config config = {.plan = plan,
                                     .join = settings->join,
                                     .uplink = {.endpoint = settings->coordinator},
                                     .directory = scratch.path,
                                     .orphan_ns = settings->orphan_ms * MILLISECOND_NS,
                                     .order_ns = settings->order_ms * MILLISECOND_NS};
    status_t status = read_key(settings, &key, &config.uplink, error);
    if (status != STATUS_OK) return status;
    litter_sweep();
    status = scratch_open(settings->scratch, "refrain-launch", &scratch, error);
    if (status != STATUS_OK) return status;
    status = launcher_run(&config, error);
    scratch_close(&scratch);
    return status;
}

static status_t make_plan(const struct settings *settings, const struct options *options,
                          char worker[PATH_MAX], struct mpirun_plan *plan, struct error *error)
{
    status_t status = find_worker(settings->worker, worker, error);
    if (status != STATUS_OK) return status;
    if (settings->hostfile && access(settings->hostfile, R_OK) != 0)
        return error_set(error, STATUS_INVALID, "--hostfile %s: %m", settings->hostfile);
    if (settings->join && strcmp(fabrics[settings->fabric], "mpi") == 0)
        return error_set(error, STATUS_INVALID,
                         "--join: a group over the fabric mpi has the ranks that it was started with");
    int more = options_operand_count(options);
    bool several_hosts = settings->hostfile || in_an_allocation();
    *plan = (struct mpirun_plan){.worker = worker,
                                 .endpoint = settings->coordinator,
                                 .key_file = settings->key,
                                 .hostfile = settings->hostfile,
                                 .fabric = fabrics[settings->fabric],
                                 .several_hosts = several_hosts,
                                 .near = !several_hosts,
                                 .ranks = (int)settings->ranks,
                                 .threads = (int)settings->threads,
                                 .more_count = more};
    const char **words = calloc((size_t)more + 1, sizeof *words); /* lives as long as the program */
    if (!words) return error_set(error, STATUS_NO_MEMORY, "no memory for the command line");
    for (int i = 0; i < more; i++) words[i] = options_operand(options, i);
    plan->more = words;
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    struct settings settings = {0};
    struct mpirun_plan plan;
    struct options *options;
    struct error error;
    char worker[PATH_MAX];
    pid_t parent = getppid();
    if (options_parse(&table, 0, argc, argv, &settings, &options, &error) != STATUS_OK)
        return complain(&error);
    if (settings.help) {
        print_help();
        return 0;
    }
    if (settings.version) {
        printf("refrain-launch %s\n", REFRAIN_VERSION);
        return 0;
    }
    signals_block();
    if (settings.tie && !signals_tie(parent)) return 1;
    log_identify("launch");
    forget_outer_mpi();
    status_t status = make_plan(&settings, options, worker, &plan, &error);
    if (status == STATUS_OK) {
        status = launch(&settings, &plan, &error);
        free((void *)(uintptr_t)plan.more);
    }
    options_destroy(options);
    return status == STATUS_OK ? 0 : complain(&error);
}
