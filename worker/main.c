/*
 * main.c - refrain-worker: one MPI rank. Starts MPI, the fabric, the control thread and the rank's loop.
 *
 * Threads: this one computes (with its team), the control thread talks to the coordinator, the courier's carries
 * checkpoints, the cache tier's reads its files, the fabric's I/O thread moves data. MPI maps ranks to hosts and is then left alone (unless it is the fabric), so that it is
 * not needed after something has failed.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "base/scratch.h"
#include "proto/keyfile.h"
#include "proto/validate.h"
#include "worker/bench.h"
#include "worker/courier.h"
#include "worker/footprint_report.h"
#include "worker/needs.h"
#include "worker/place.h"
#include "worker/rank.h"
#include "worker/speed.h"
#include "worker/tier.h"

struct settings {
    const char *coordinator, *group, *seat, *bind, *scratch, *key, *inspect, *bench, *size, *plan_memory,
        *cache;
    const char *tier_disk;
    int64_t tier_memory, tier_device, tier_disk_bytes; /* tier_device: -1 is not said */
    int64_t threads, orphan_ms, join_ms, largest_hop, ranks, jobs, steps, memory, decode_memory;
    int64_t stage_width, part_bytes;
    int fabric, backend, layout;
    bool json, version, help;
};

/* A checkpoint takes about a millisecond of CPU, rank and coordinator together: a hundredth. */
#define CHECKPOINT_PACE_NS (100 * MILLISECOND_NS)

enum { FABRIC_MPI = 1, FABRIC_NCCL };
static const char *const fabrics[] = {"zmq", "mpi", "nccl"};
static const char *const backends[] = {"auto", "ref", "cpu-avx2", "cpu-avx512", "cuda"};

static const struct option_spec specs[] = {
    {.help = "Where it belongs"},
    {"coordinator", 'c', OPTION_TEXT, offsetof(struct settings, coordinator), "ENDPOINT",
     .help = "the coordinator's address for workers", .standard = "tcp://127.0.0.1:5732",
     .env = "REFRAIN_WORKER_ENDPOINT"},
    {"key", 0, OPTION_TEXT, offsetof(struct settings, key), "FILE",
     .help = "CURVE key file with public-key, secret-key and the coordinator's server-key",
     .env = "REFRAIN_WORKER_KEY"},
    {"orphan-timeout", 0, OPTION_DURATION, offsetof(struct settings, orphan_ms), "TIME",
     .help = "how long to live without a coordinator", .standard = "60s", .min = 100, .max = 86400000},
    {"group", 0, OPTION_TEXT, offsetof(struct settings, group), "NAME",
     .help = "what this group of ranks is called; by default rank 0 makes a name"},
    {"seat", 0, OPTION_TEXT, offsetof(struct settings, seat), "RANK/RANKS",
     .help =
         "take this rank's place in a group that lost or never had it; of several ranks, the first one's"},
    {.help = "How it computes"},
    {"threads", 't', OPTION_INT, offsetof(struct settings, threads), "N",
     .help = "threads of this rank; 0: the host's cores divided by its ranks", .standard = "0", .min = 0,
     .max = TEAM_MAX_THREADS},
    {"backend", 0, OPTION_CHOICE, offsetof(struct settings, backend),
     .help = "what computes; auto: a GPU if there is one, else the processor's widest vectors",
     .standard = "auto", .choices = "auto|ref|cpu-avx2|cpu-avx512|cuda", .env = "REFRAIN_BACKEND"},
    {"decode-memory", 0, OPTION_BYTES, offsetof(struct settings, decode_memory), "BYTES",
     .help = "what the VAE may take while it decodes, or encodes what is compared: a video that needs more "
             "is made in "
             "bands of rows; by default a quarter of the GPU's memory, or of this rank's share of the host's",
     .env = "REFRAIN_DECODE_MEMORY", .min = 1 << 20, .max = 1e15},
    {"scratch", 0, OPTION_TEXT, offsetof(struct settings, scratch), "DIR",
     .help = "where files are made before they are sent", .env = "TMPDIR", .standard = "/tmp"},
    {.help = "How ranks talk to each other"},
    {"fabric", 'f', OPTION_CHOICE, offsetof(struct settings, fabric),
     .help = "zmq survives a lost rank, mpi is for fast networks, nccl is zmq with NCCL between GPUs",
     .standard = "zmq", .choices = "zmq|mpi|nccl"},
    {"fabric-bind", 0, OPTION_TEXT, offsetof(struct settings, bind), "ENDPOINT",
     .help = "zmq: where to listen, as tcp://ADDRESS:* or ipc://DIRECTORY (* for a private one); by default "
             "ipc when all ranks share a host, tcp on all addresses otherwise"},
    {"join-timeout", 0, OPTION_DURATION, offsetof(struct settings, join_ms), "TIME",
     .help = "how long members wait for each other", .standard = "15s", .min = 100, .max = 600000},
    {"largest-hop", 0, OPTION_BYTES, offsetof(struct settings, largest_hop), "BYTES",
     .help = "a message between ranks above this is not believed", .standard = "8G", .min = 65536,
     .max = 1e12},
    {"part-bytes", 0, OPTION_BYTES, offsetof(struct settings, part_bytes), "BYTES",
     .help = "what ranks of a wide stage exchange is not cut into messages smaller than this, the same on "
             "all ranks; by default 64 KiB, between GPUs 1 MiB",
     .min = 1, .max = 1e12, .env = "REFRAIN_PART_BYTES"},
    {.help = "What it keeps for later jobs"},
    {"tier-memory", 0, OPTION_BYTES, offsetof(struct settings, tier_memory), "BYTES",
     .help = "host memory of this rank for the cache tier; 0: no cache tier", .standard = "256M", .min = 0,
     .max = 1e12, .env = "REFRAIN_TIER_MEMORY"},
    {"tier-device", 0, OPTION_BYTES, offsetof(struct settings, tier_device), "BYTES",
     .help = "memory of this rank's GPU for the cache tier; 0: none; by default a 128th of it", .min = 0,
     .max = 1e12, .env = "REFRAIN_TIER_DEVICE"},
    {"tier-disk", 0, OPTION_TEXT, offsetof(struct settings, tier_disk), "DIR",
     .help = "where items that memory has no room for are kept, also over restarts; each rank makes a folder "
             "there",
     .env = "REFRAIN_TIER_DISK"},
    {"tier-disk-bytes", 0, OPTION_BYTES, offsetof(struct settings, tier_disk_bytes), "BYTES",
     .help = "that this rank's files there may take", .standard = "4G", .min = 0, .max = 1e15,
     .env = "REFRAIN_TIER_DISK_BYTES"},
    {.help = "Instead of serving"},
    {"inspect", 0, OPTION_TEXT, offsetof(struct settings, inspect), "DIR",
     .help = "check a checkpoint and print its card as JSON"},
    {"bench", 0, OPTION_TEXT, offsetof(struct settings, bench), "DIR",
     .help = "compute on command from standard input, for timing"},
    {"plan-memory", 0, OPTION_TEXT, offsetof(struct settings, plan_memory), "DIR",
     .help = "say how much memory each rank takes on GPUs, by a checkpoint that may be without its data"},
    {"size", 0, OPTION_TEXT, offsetof(struct settings, size), "WxHxF",
     .help = "video size of --bench and --plan-memory", .standard = "64x64x17"},
    {"ranks", 0, OPTION_INT, offsetof(struct settings, ranks), "N",
     .help = "of --plan-memory; 0: the fewest that fit in --memory", .standard = "1", .min = 0,
     .max = SPLIT_MAX_MEMBERS},
    {"layout", 0, OPTION_CHOICE, offsetof(struct settings, layout), .standard = "pipeline",
     .choices = "pipeline|cfg|pools|cfg-pools", .help = "of --plan-memory, as of refrain-coordinator"},
    {"stage-width", 0, OPTION_INT, offsetof(struct settings, stage_width), "N",
     .help = "of --plan-memory: ranks of a stage", .standard = "1", .min = 1, .max = 64},
    {"jobs", 0, OPTION_INT, offsetof(struct settings, jobs), "N",
     .help = "of --plan-memory: in flight at once", .standard = "1", .min = 1, .max = 64},
    {"steps", 0, OPTION_INT, offsetof(struct settings, steps), "N", .help = "of --plan-memory",
     .standard = "50", .min = 1, .max = 1000},
    {"cache", 0, OPTION_TEXT, offsetof(struct settings, cache), "POLICY", .help = "of --plan-memory",
     .standard = "off"},
    {"memory", 0, OPTION_BYTES, offsetof(struct settings, memory), "BYTES",
     .help = "of --plan-memory: what a GPU has for it", .min = 1, .max = 1e15},
    {"json", 0, OPTION_FLAG, offsetof(struct settings, json), .help = "--plan-memory prints JSON"},
    {"version", 0, OPTION_FLAG, offsetof(struct settings, version),
     .help = "print the version and the backends of this machine"},
    {"help", 'h', OPTION_FLAG, offsetof(struct settings, help), .help = "this text"},
};
static const struct option_table table = {"refrain-worker", specs, sizeof specs / sizeof *specs};

static int complain(const struct error *error)
{
    fprintf(stderr, "refrain-worker: %s\n", error->text);
    return error->status == STATUS_INVALID ? 2 : 1;
}

static int cores_allowed(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static int thread_count(const struct settings *settings, const struct place *place)
{
    if (settings->threads) return (int)settings->threads;
    int threads = cores_allowed() / place->local_ranks;
    return threads < 1 ? 1 : threads > TEAM_MAX_THREADS ? TEAM_MAX_THREADS : threads;
}

static uint64_t host_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

/* Of a host with several networks the others know the address that leads to the coordinator; one on this host tells nothing. */
static const char *way_out(const char *coordinator)
{
    static const char *const here[] = {"tcp://127.", "tcp://localhost:", "tcp://[::1]:"};
    if (strncmp(coordinator, "tcp://", strlen("tcp://")) != 0) return NULL;
    for (size_t i = 0; i < sizeof here / sizeof *here; i++)
        if (strncmp(coordinator, here[i], strlen(here[i])) == 0) return NULL;
    return coordinator;
}

static status_t open_fabric(const struct settings *settings, const struct place *place,
                            const struct scratch *scratch, struct engine *engine, struct error *error)
{
    engine->lends = settings->fabric == FABRIC_NCCL;
    engine->part_bytes = engine->lends ? ENGINE_PART_BYTES_LENT : ENGINE_PART_BYTES;
    if (settings->part_bytes > 0) engine->part_bytes = (size_t)settings->part_bytes;
    if (engine->lends && !engine->ops->locate)
        return error_set(
            error, STATUS_INVALID,
            "--fabric nccl: carries tensors between GPUs, and this rank computes with %s: give it "
            "--backend cuda, or use --fabric zmq",
            engine->ops->name);
    char ipc[SCRATCH_PATH_BYTES + 8];
    snprintf(ipc, sizeof ipc, "ipc://%s", scratch->path);
    bool private =
        settings->bind ? strcmp(settings->bind, "ipc://*") == 0 : place->local_ranks == place->ranks;
    const char *bind = private ? ipc : settings->bind ? settings->bind : "tcp://*:*";
    struct fabric_config config = {.kind = fabrics[settings->fabric],
                                   .bind = bind,
                                   .toward = way_out(settings->coordinator),
                                   .credits = ENGINE_CREDITS,
                                   .max_bytes = (uint64_t)settings->largest_hop};
    if (engine->lends) {
        struct location location;
        engine->ops->locate(engine->team, &location);
        config.device = location.device;
        config.stream = location.stream;
    }
    return fabric_open(&config, &engine->fabric, error);
}

static size_t decode_memory(const struct settings *settings, const struct place *place,
                            const struct engine *engine)
{
    if (settings->decode_memory) return (size_t)settings->decode_memory;
    if (!engine->ops->locate) return host_memory() / ENGINE_DECODE_PARTS / (uint64_t)place->local_ranks;
    struct location location;
    engine->ops->locate(engine->team, &location);
    return location.memory_bytes / ENGINE_DECODE_PARTS;
}

static uint64_t tier_device(const struct settings *settings, const struct engine *engine)
{
    struct location location;
    if (settings->tier_device >= 0) return (uint64_t)settings->tier_device;
    if (!engine->ops->locate || settings->tier_memory == 0) return 0;
    engine->ops->locate(engine->team, &location);
    uint64_t bytes = location.memory_bytes / TIER_DEVICE_PARTS;
    return bytes < TIER_MEMORY_LEAST ? 0 : bytes;
}

/* A rank that is started again finds what it kept: its folder has its number. */
static status_t open_tier(const struct settings *settings, const struct place *place, struct engine *engine,
                          struct error *error)
{
    char directory[PATH_MAX];
    struct tier_config config = {.memory_bytes = (uint64_t)settings->tier_memory,
                                 .device_bytes = tier_device(settings, engine),
                                 .disk_bytes = (uint64_t)settings->tier_disk_bytes,
                                 .ops = engine->ops,
                                 .team = engine->team};
    if (settings->tier_disk) {
        if (!*settings->tier_disk) return error_set(error, STATUS_INVALID, "--tier-disk: is empty");
        if (mkdir(settings->tier_disk, 0700) != 0 && errno != EEXIST)
            return error_set(error, STATUS_IO, "--tier-disk %s: cannot be made: %m", settings->tier_disk);
        int length = snprintf(directory, sizeof directory, "%s/rank-%d", settings->tier_disk, place->rank);
        if (length >= (int)sizeof directory)
            return error_set(error, STATUS_INVALID, "--tier-disk: is longer than %d bytes", PATH_MAX - 16);
        config.directory = directory;
    }
    return tier_open(&config, &engine->tier, error);
}

static void describe(const struct settings *settings, const struct place *place, const struct engine *engine,
                     struct keyfile *key, struct control_config *config)
{
    Refrain__Hello *hello = &config->hello;
    refrain__hello__init(hello);
    hello->has_rank = hello->has_ranks = hello->has_pid = hello->has_threads = hello->has_memory_bytes = 1;
    hello->group = (char *)(uintptr_t)place->group;
    hello->rank = (uint32_t)place->rank;
    hello->has_alone = 1;
    hello->alone = settings->seat != NULL;
    hello->ranks = (uint32_t)place->ranks;
    hello->host = (char *)(uintptr_t)place->host;
    hello->pid = (uint32_t)getpid();
    hello->backend = (char *)(uintptr_t)engine->ops->name;
    hello->threads = (uint32_t)team_threads(engine->team);
    hello->memory_bytes = host_memory();
    if (engine->ops->locate) {
        struct location location;
        engine->ops->locate(engine->team, &location);
        hello->gpu = (char *)(uintptr_t)location.kind;
        hello->memory_bytes = location.memory_bytes;
    }
    hello->fabric = (char *)(uintptr_t)fabrics[settings->fabric];
    hello->fabric_address = (char *)(uintptr_t)fabric_address(engine->fabric);
    hello->software = (char *)(uintptr_t)REFRAIN_VERSION;
    hello->has_decode_memory = 1;
    hello->decode_memory = engine->decode_memory;
    hello->has_tier_device = 1;
    hello->tier_device = tier_device(settings, engine);
    hello->has_gflops = speed_measure(engine->ops, engine->team, &hello->gflops, NULL) == STATUS_OK;
    config->coordinator = settings->coordinator;
    config->orphan_ns = settings->orphan_ms * MILLISECOND_NS;
    config->fabric = engine->fabric;
    config->progress = &engine->progress;
    config->block_token_ns = &engine->block_token_ns;
    config->paces = engine->paces;
    if (settings->key) {
        config->public_key = key->public_key;
        config->secret_key = key->secret_key;
        config->server_key = key->server_key;
    }
}

static status_t serve(const struct settings *settings, const struct place *place, struct error *error)
{
    struct engine engine = {.members = 1};
    struct control *control = NULL;
    struct courier *courier = NULL;
    struct scratch scratch;
    struct keyfile key;
    status_t status = ops_choose(backends[settings->backend], &engine.ops, error);
    if (status != STATUS_OK) {
        error_prefix(error, "--backend");
        return status;
    }
    if (settings->key) {
        status = keyfile_read(settings->key, &key, error);
        if (status != STATUS_OK) return status;
        if (!key.server_key[0] || !key.secret_key[0])
            return error_set(error, STATUS_INVALID, "--key %s: needs secret-key and server-key",
                             settings->key);
    }
    status = scratch_open(settings->scratch, "refrain-worker", &scratch, error);
    if (status != STATUS_OK) return status;
    status = team_create(thread_count(settings, place), &engine.team, error);
    if (status != STATUS_OK) goto err_scratch;
    status = engine.ops->open(engine.team, error);
    if (status == STATUS_OK) status = stretches_create(engine.ops, &engine.stretches, error);
    if (status == STATUS_OK) status = open_fabric(settings, place, &scratch, &engine, error);
    if (status != STATUS_OK) goto err_team;
    engine.decode_memory = decode_memory(settings, place, &engine);
    status = open_tier(settings, place, &engine, error);
    if (status != STATUS_OK) goto err_fabric;
    struct control_config control_config = {0};
    describe(settings, place, &engine, &key, &control_config);
    struct courier_config courier_config = {.coordinator = settings->coordinator,
                                            .pace_ns = CHECKPOINT_PACE_NS,
                                            .public_key = control_config.public_key,
                                            .secret_key = control_config.secret_key,
                                            .server_key = control_config.server_key};
    status = courier_open(&courier_config, &courier, error);
    if (status != STATUS_OK) goto err_tier;
    status = control_start(&control_config, &control, error);
    if (status != STATUS_OK) goto err_courier;
    struct rank_config rank = {.engine = &engine,
                               .control = control,
                               .courier = courier,
                               .directory = scratch.path,
                               .join_timeout_ns = settings->join_ms * MILLISECOND_NS};
    status = rank_run(&rank, error);
    control_stop(control);
err_courier:
    courier_close(courier);
err_tier:
    tier_close(engine.tier);
err_fabric:
    fabric_close(engine.fabric);
err_team:
    stretches_destroy(engine.stretches);
    engine.ops->close(engine.team);
    team_destroy(engine.team);
err_scratch:
    scratch_close(&scratch);
    return status;
}

/* Multiples are the model's to judge. */
static status_t read_size(const char *text, int *width, int *height, int *frames, struct error *error)
{
    int end = 0;
    if (sscanf(text, "%dx%dx%d%n", width, height, frames, &end) != 3 || text[end] || *width < 1 ||
        *height < 1 || *frames < 1)
        return error_set(error, STATUS_INVALID, "--size %s: must be WxHxF, such as 64x64x17", text);
    if (*width > LIMIT_SIZE || *height > LIMIT_SIZE || *frames > LIMIT_FRAMES ||
        (int64_t)*width * *height * *frames > LIMIT_VIDEO_PIXELS)
        return error_set(error, STATUS_INVALID,
                         "--size %s: a side is at most %d pixels, a video %d frames and %" PRId64 " pixels",
                         text, LIMIT_SIZE, LIMIT_FRAMES, LIMIT_VIDEO_PIXELS);
    return STATUS_OK;
}

static status_t run_bench(const struct settings *settings, struct error *error)
{
    struct bench_config config = {.directory = settings->bench,
                                  .backend = backends[settings->backend],
                                  .decode_memory = (size_t)settings->decode_memory,
                                  .threads = settings->threads ? (int)settings->threads : cores_allowed()};
    status_t status = read_size(settings->size, &config.width, &config.height, &config.frames, error);
    return status == STATUS_OK ? bench_run(&config, error) : status;
}

static status_t plan_memory(const struct settings *settings, struct error *error)
{
    struct footprint_wish wish = {.directory = settings->plan_memory,
                                  .cache = settings->cache,
                                  .steps = (int)settings->steps,
                                  .ranks = (int)settings->ranks,
                                  .jobs = (int)settings->jobs,
                                  .layout = (enum plan_layout)(PLAN_LAYOUT_PIPELINE + settings->layout),
                                  .stage_width = (int)settings->stage_width,
                                  .memory = (uint64_t)settings->memory,
                                  .decode_memory = (uint64_t)settings->decode_memory,
                                  .tier_device = settings->tier_device >= 0
                                                     ? (uint64_t)settings->tier_device
                                                     : (uint64_t)settings->memory / TIER_DEVICE_PARTS,
                                  .lands = settings->fabric == FABRIC_NCCL,
                                  .json = settings->json};
    status_t status = read_size(settings->size, &wish.width, &wish.height, &wish.frames, error);
    return status == STATUS_OK ? footprint_report(&wish, error) : status;
}

static int print_card(const char *directory)
{
    struct error error;
    char *card;
    if (needs_card(directory, &card, &error) != STATUS_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    puts(card);
    free(card);
    return 0;
}

static int print_version(void)
{
    const struct ops *cuda;
    struct error error;
    bool gpu = ops_choose("cuda", &cuda, &error) == STATUS_OK;
    printf("refrain-worker %s; backends here:", REFRAIN_VERSION);
    for (const struct ops *const *ops = ops_available(); *ops; ops++) printf(" %s", (*ops)->name);
    puts(gpu ? " cuda" : "");
    if (!gpu) printf("cuda: %s\n", error.text);
    return 0;
}

/* MPI is ended properly only in an undisturbed run: MPI_Finalize waits for every rank of this mpirun, and can
 * hang for ever once one was lost. Ranks of a launcher may have lost one that was replaced, without noticing.
 */
static void leave_mpi(status_t status, const struct settings *settings, const struct place *place)
{
    bool alone = settings->group && settings->fabric != FABRIC_MPI && place->world_ranks > 1;
    fflush(NULL);
    if (status != STATUS_OK) _exit(status == STATUS_PEER_LOST ? 0 : 1);
    if (alone) _exit(0);
    signal(SIGALRM, SIG_DFL);
    alarm(5);
    MPI_Finalize();
}

static status_t check_together(const struct settings *settings, struct place_wish *wish, struct error *error)
{
    status_t status = place_wish(settings->group, settings->seat, wish, error);
    if (status == STATUS_OK && settings->seat && settings->fabric == FABRIC_MPI)
        return error_set(error, STATUS_INVALID,
                         "--seat: with --fabric mpi no rank can be replaced; relaunch the group, or use zmq");
    return status;
}

/* MPI is up: everything until it is left again. */
static status_t take_place(const struct settings *settings, const struct place_wish *wish,
                           struct place *place, struct error *error)
{
    char who[64];
    status_t status = place_find(wish, place, error);
    if (status != STATUS_OK) return status;
    snprintf(who, sizeof who, "worker %d@%.40s", place->rank, place->host);
    log_identify(who);
    if (settings->fabric != FABRIC_MPI) place_settle();
    return serve(settings, place, error);
}

/* What is asked of the program alone, without becoming a rank; -1: nothing is. */
static int answer(const struct settings *settings, struct error *error)
{
    if (settings->help) {
        printf("refrain-worker - one rank of refrain; started by mpirun\n\n"
               "  mpirun -np 8 --hostfile hosts refrain-worker --coordinator tcp://head:5732\n\n");
        options_help(&table, 0, stdout);
        return 0;
    }
    if (settings->version) return print_version();
    if (settings->inspect) return print_card(settings->inspect);
    if (settings->bench) return run_bench(settings, error) == STATUS_OK ? 0 : complain(error);
    if (settings->plan_memory) return plan_memory(settings, error) == STATUS_OK ? 0 : complain(error);
    return -1;
}

static int be_a_rank(int argc, char **argv, struct settings *settings, struct error *error)
{
    struct place_wish wish;
    struct place place = {0};
    if (check_together(settings, &wish, error) != STATUS_OK) return complain(error);
    signal(SIGPIPE, SIG_IGN);
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
    status_t status = take_place(settings, &wish, &place, error);
    if (status != STATUS_OK) log_line(LOG_ERROR, "%s", error->text);
    leave_mpi(status, settings, &place);
    return 0;
}

int main(int argc, char **argv)
{
    struct settings settings = {.tier_device = -1};
    struct options *options;
    struct error error;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* first of all: a rank never outlives its launcher */
    if (options_parse(&table, 0, argc, argv, &settings, &options, &error) != STATUS_OK)
        return complain(&error);
    int code = answer(&settings, &error);
    if (code < 0) code = be_a_rank(argc, argv, &settings, &error);
    options_destroy(options);
    return code;
}
