/*
 * server.c - see server.h. The loop, and what it opens and closes.
 *
 * Threads: this one runs everything here; ZeroMQ's own I/O threads, the sync thread of results.c and the ZAP
 * thread of curve.c meet it only through sockets and queues.
 */
#include "coordinator/server.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/signals.h"
#include "coordinator/ranks/drain.h"
#include "coordinator/metrics/metrics.h"
#include "coordinator/metrics/scrape.h"
#include "coordinator/tier/tierdesk.h"

enum {
    TURN_MESSAGES = 2048,  /* taken from a socket before a commit */
    QUEUED_MESSAGES = 512, /* held by ZeroMQ per connection, each way */
    MOST_WATCHED = 256, /* processes of this host whose end wakes the loop; others are looked at each turn */
    IDLE_MS = 1000,
    LAST_WORDS_MS = 300, /* at the end, for what is still to be sent */
    BEHIND_MS = 10,      /* until a slow receiver is tried again */
};

#define TURN_NS          (20 * MILLISECOND_NS) /* ... and for so long at most: replies wait for the commit */
#define HELD_UP_NS       (2 * SECOND_NS) /* a turn that began so late says nothing about the ranks' silence */
#define STOP_ASK_NS      (2 * SECOND_NS) /* for ranks to end after Shutdown */
#define STOP_PATIENCE_NS (10 * SECOND_NS)

/* ------------------------------------------------------------------------------------------------ opening */

/* mkdir -p */
static status_t make_directories(const char *path, struct error *error)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return error_set(error, STATUS_IO, "--data %s: %s cannot be made: %m", path, part);
    }
    return STATUS_OK;
}

/* Two coordinators on one store would both believe to be alone. */
static status_t lock_data(struct server *server, struct error *error)
{
    char path[PATH_MAX];
    const char *data = server->settings->data_path;
    snprintf(path, sizeof path, "%.*s/lock", PATH_MAX - 8, data);
    if ((server->data_lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
        return error_set(error, STATUS_IO, "%s: cannot be made: %m", path);
    if (flock(server->data_lock, LOCK_EX | LOCK_NB) == 0) return STATUS_OK;
    if (errno != EWOULDBLOCK) return error_set(error, STATUS_IO, "%s: cannot be locked: %m", path);
    return error_set(error, STATUS_CONFLICT, "--data %s: another coordinator is using it", data);
}

/* Asked once per directory at start: files without a row belong to a deletion or an upload that was cut
 * short. */
static bool keep_results(void *context, uint64_t job)
{
    struct jobstore *store = context;
    Refrain__Job *stored;
    if (jobstore_get(store, NULL, job, &stored, NULL) != STATUS_OK) return false;
    /* Unfinished ones stay, too: their ranks may come back. */
    refrain__job__free_unpacked(stored, NULL);
    return true;
}

/* The lock comes first: nothing may be read, let alone repaired, under another coordinator's feet. */
static status_t open_store(struct server *server, struct error *error)
{
    const struct settings *settings = server->settings;
    char jobs[PATH_MAX], results[PATH_MAX];
    snprintf(jobs, sizeof jobs, "%.*s/jobs.db", PATH_MAX - 16, settings->data_path);
    snprintf(results, sizeof results, "%.*s/results", PATH_MAX - 16, settings->data_path);
    status_t status = make_directories(settings->data_path, error);
    if (status == STATUS_OK) status = lock_data(server, error);
    if (status == STATUS_OK) status = jobstore_open(jobs, &server->store, error);
    if (status == STATUS_OK)
        status = jobs_open(server->store, (size_t)settings->max_jobs, &server->jobs, error);
    if (status == STATUS_OK)
        status = models_open(server->store, settings->worker_path, &server->models, error);
    if (status == STATUS_OK)
        status = results_open(results, (uint64_t)settings->result_limit, &server->results, error);
    if (status == STATUS_OK) status = results_sweep(server->results, keep_results, server->store, error);
    if (status == STATUS_OK) status = watches_open(&server->watches, error);
    return status;
}

/* Limits are set before binding, as libzmq takes them over at that moment. */
static status_t bind_socket(struct server *server, const char *option, const char *endpoint,
                            const char *domain, void **socket, char bound[256], struct error *error)
{
    int backlog = QUEUED_MESSAGES, no_linger = 0, yes = 1, ipv6 = strchr(endpoint, '[') != NULL;
    int64_t largest = WIRE_MAX_BYTES;
    size_t length = 256;
    status_t status = server->curve ? STATUS_OK : curve_check_loopback(option, endpoint, error);
    if (status != STATUS_OK) return status;
    if (!(*socket = zmq_socket(server->context, ZMQ_ROUTER)))
        return error_set(error, STATUS_IO, "socket: %s", zmq_strerror(errno));
    zmq_setsockopt(*socket, ZMQ_LINGER, &no_linger, sizeof no_linger);
    zmq_setsockopt(*socket, ZMQ_SNDHWM, &backlog, sizeof backlog);
    zmq_setsockopt(*socket, ZMQ_RCVHWM, &backlog, sizeof backlog);
    zmq_setsockopt(*socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest); /* larger ones end the connection */
    zmq_setsockopt(*socket, ZMQ_ROUTER_MANDATORY, &yes,
                   sizeof yes); /* so that a connection's end is noticed */
    zmq_setsockopt(*socket, ZMQ_IPV6, &ipv6, sizeof ipv6);
    if (server->curve && (status = curve_protect(server->curve, *socket, domain, error)) != STATUS_OK)
        return status;
    if (zmq_bind(*socket, endpoint) != 0) {
        const char *hint = errno == EADDRINUSE ? "; is another coordinator running?" : "";
        return error_set(error, STATUS_IO, "%s %s: cannot be bound: %s%s", option, endpoint,
                         zmq_strerror(errno), hint);
    }
    if (zmq_getsockopt(*socket, ZMQ_LAST_ENDPOINT, bound, &length) != 0)
        return error_set(error, STATUS_IO, "%s %s: %s", option, endpoint, zmq_strerror(errno));
    return STATUS_OK;
}

/* outbox_send_fn */
static status_t send_frame(void *argument, bool to_worker, const struct wire_peer *peer, zmq_msg_t *frame,
                           struct error *error)
{
    const struct server *server = argument;
    return wire_post(to_worker ? server->workers : server->clients, peer, frame, error);
}

static status_t open_sockets(struct server *server, struct error *error)
{
    const struct settings *settings = server->settings;
    if (!(server->context = zmq_ctx_new())) return error_set(error, STATUS_NO_MEMORY, "no memory for ZeroMQ");
    status_t status = STATUS_OK;
    if (settings->keys) status = curve_open(server->context, settings->keys, &server->curve, error);
    if (status == STATUS_OK)
        status = bind_socket(server, "--endpoint", settings->endpoint, "clients", &server->clients,
                             server->endpoint, error);
    if (status == STATUS_OK)
        status = bind_socket(server, "--worker-endpoint", settings->worker_endpoint, "workers",
                             &server->workers, server->worker_endpoint, error);
    if (status == STATUS_OK) status = outbox_open(send_frame, server, &server->outbox, error);
    return status;
}

/* A wildcard is no address to connect to: in its place, this host as others see it or as it sees itself. */
static void make_reachable(char endpoint[256], bool from_other_hosts)
{
    static const char *const wildcards[] = {"://0.0.0.0:", "://[::]:"};
    char host[128] = "127.0.0.1", port[32];
    if (from_other_hosts && gethostname(host, sizeof host - 1) != 0) strcpy(host, "127.0.0.1");
    for (size_t i = 0; i < sizeof wildcards / sizeof *wildcards; i++) {
        char *at = strstr(endpoint, wildcards[i]);
        if (!at) continue;
        snprintf(port, sizeof port, "%s", at + strlen(wildcards[i]));
        snprintf(at, 256 - (size_t)(at - endpoint), "://%s:%s", host, port);
    }
}

/* The launcher comes last: its ranks connect to sockets that are bound by then. */
static status_t open_ranks(struct server *server, struct error *error)
{
    const struct settings *settings = server->settings;
    struct group_limits limits = {.silence_ns = settings->silence_ms * MILLISECOND_NS,
                                  .gather_ns = settings->gather_ms * MILLISECOND_NS,
                                  .join_ns = settings->join_ms * MILLISECOND_NS,
                                  .hang_ns = settings->hang_ms * MILLISECOND_NS};
    struct launch_config config = {.data = settings->data_path,
                                   .launch_binary = settings->launch_path,
                                   .worker_binary = settings->worker_path,
                                   .worker_endpoint = server->worker_endpoint,
                                   .hostfile = settings->hostfile,
                                   .fabric = settings_fabric(settings),
                                   .ranks = settings->launch,
                                   .threads = settings->threads,
                                   .tied = settings->tie};
    make_reachable(server->endpoint, false);
    make_reachable(server->worker_endpoint, settings->hostfile != NULL);
    if (settings->hostfile && curve_check_loopback("", server->worker_endpoint, NULL) == STATUS_OK)
        log_line(LOG_WARN, "ranks on other hosts cannot reach %s; see --keys and --worker-endpoint",
                 server->worker_endpoint);
    status_t status = groups_open(&limits, &server->groups, error);
    if (status == STATUS_OK) status = drain_load(server, error);
    if (status == STATUS_OK) status = launchers_open(&server->launchers, error);
    if (status == STATUS_OK && settings->keys && settings->launch) {
        status = curve_worker_key(settings->keys, server->worker_key, sizeof server->worker_key, error);
        config.key_file = server->worker_key;
    }
    if (status == STATUS_OK && settings->launch && access(settings->worker_path, X_OK) != 0)
        status = error_set(error, STATUS_NOT_FOUND, "%s: %m; name another with --worker-binary",
                           settings->worker_path);
    return status == STATUS_OK ? launch_open(&config, &server->launch, error) : status;
}

/* Written whole and then renamed: whoever waits for the file never reads half of it. */
static status_t write_endpoint_file(const struct server *server, struct error *error)
{
    const char *path = server->settings->endpoint_file;
    char temporary[PATH_MAX];
    if (!path) return STATUS_OK;
    snprintf(temporary, sizeof temporary, "%.*s.new", PATH_MAX - 8, path);
    json_t *object = json_pack("{s:s, s:s, s:i, s:s*}", "endpoint", server->endpoint, "worker_endpoint",
                               server->worker_endpoint, "pid", (int)getpid(), "metrics",
                               server->scrape ? scrape_url(server->scrape) : NULL);
    bool written =
        object && json_dump_file(object, temporary, JSON_COMPACT) == 0 && rename(temporary, path) == 0;
    json_decref(object);
    return written ? STATUS_OK
                   : error_set(error, STATUS_IO, "--endpoint-file %s: cannot be written: %m", path);
}

/* Jobs that were running when an earlier coordinator ended: their ranks may still be at work on them. */
static void expect_ranks(struct server *server)
{
    size_t running = 0;
    const struct job *job;
    for (size_t i = 0; (job = jobs_at(server->jobs, i)); i++)
        running += job->state != REFRAIN__JOB_STATE__JOB_QUEUED;
    if (running) server->orphans_until_ns = server->now_ns + server->settings->reconnect_ms * MILLISECOND_NS;
}

static struct server *make_server(const struct settings *settings)
{
    struct server *made = calloc(1, sizeof *made);
    if (!made) return NULL;
    made->settings = settings;
    made->signals = made->data_lock = -1;
    made->now_ns = made->started_ns = clock_now_ns();
    made->orphans_until_ns = CLOCK_NEVER;
    counts_open(&made->counts);
    made->settled = made->counts;
    return made;
}

status_t server_open_core(const struct settings *settings, outbox_send_fn *send, void *argument,
                          struct server **server, struct error *error)
{
    struct server *made = make_server(settings);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the coordinator");
    status_t status = open_store(made, error);
    if (status == STATUS_OK) status = outbox_open(send, argument, &made->outbox, error);
    if (status == STATUS_OK) status = server_open_vault(made, error);
    if (status == STATUS_OK) status = open_ranks(made, error);
    if (status != STATUS_OK) {
        server_close(made);
        return status;
    }
    expect_ranks(made);
    *server = made;
    return STATUS_OK;
}

/* Each part is opened after those it needs; server_close takes what there is, in reverse. */
status_t server_open(const struct settings *settings, struct server **server, struct error *error)
{
    struct server *made = make_server(settings);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the coordinator");
    status_t status = signals_open(&made->signals, error);
    if (status == STATUS_OK) status = open_store(made, error);
    if (status == STATUS_OK) status = open_sockets(made, error);
    if (status == STATUS_OK) status = server_open_vault(made, error);
    if (status == STATUS_OK && settings->metrics)
        status = scrape_open(settings->metrics, &made->scrape, error);
    if (status == STATUS_OK) status = open_ranks(made, error);
    if (status == STATUS_OK) status = write_endpoint_file(made, error);
    if (status != STATUS_OK) {
        server_close(made);
        return status;
    }
    expect_ranks(made);
    log_line(LOG_INFO, "serving clients on %s, workers on %s, data in %s", made->endpoint,
             made->worker_endpoint, settings->data_path);
    if (made->scrape) log_line(LOG_INFO, "metrics at %s", scrape_url(made->scrape));
    *server = made;
    return STATUS_OK;
}

/* What was said last still goes out, unless the other side does not listen. */
static void close_socket(void *socket)
{
    int linger_ms = LAST_WORDS_MS;
    if (!socket) return;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_close(socket);
}

void server_close(struct server *server)
{
    if (!server) return;
    if (server->stopping && server->settings->endpoint_file) unlink(server->settings->endpoint_file);
    scrape_close(server->scrape);
    launch_close(server->launch);
    launchers_close(server->launchers);
    vault_close(server->vault);
    groups_close(server->groups);
    outbox_close(server->outbox);
    watches_close(server->watches);
    models_close(server->models);
    results_close(server->results);
    jobs_close(server->jobs);
    jobstore_close(server->store);
    close_socket(server->clients);
    close_socket(server->workers);
    curve_close(server->curve);
    if (server->context) zmq_ctx_term(server->context);
    if (server->signals >= 0) close(server->signals);
    if (server->data_lock >= 0) close(server->data_lock);
    free(server->deleted);
    free(server);
}

/* ----------------------------------------------------------------------------------------------- one turn */

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How long nothing needs doing, unless somebody calls. */
static long poll_timeout_ms(const struct server *server)
{
    int64_t now_ns = clock_now_ns(), wake_ns = now_ns + IDLE_MS * MILLISECOND_NS;
    int64_t deadline_ms = jobs_next_deadline_ms(server->jobs);
    if (groups_at(server->groups, 0) || server->stopping) wake_ns = now_ns + SERVER_TURN_MS * MILLISECOND_NS;
    if (watches_behind(server->watches) || outbox_behind(server->outbox))
        wake_ns = earlier(wake_ns, now_ns + BEHIND_MS * MILLISECOND_NS);
    wake_ns = earlier(wake_ns, launch_wake_ns(server->launch));
    wake_ns = earlier(wake_ns, models_deadline_ns(server->models));
    wake_ns = earlier(wake_ns, server->orphans_until_ns);
    if (deadline_ms != INT64_MAX)
        wake_ns = earlier(wake_ns, now_ns + (deadline_ms - clock_wall_ms()) * MILLISECOND_NS);
    return clock_poll_ms(wake_ns);
}

/* Sleeps until something happens; says whether our mpirun ended. */
static bool wait_for_events(const struct server *server)
{
    enum { CLIENTS, WORKERS, SIGNALS, RESULTS, LAUNCH, MODELS, RANKS = MODELS + MODELS_POLL_ITEMS };
    enum { ITEMS = RANKS + MOST_WATCHED + 1 };
    int ranks[MOST_WATCHED];
    zmq_pollitem_t items[ITEMS] = {
        [CLIENTS] = {.socket = server->clients, .events = ZMQ_POLLIN},
        [WORKERS] = {.socket = server->workers, .events = ZMQ_POLLIN},
        [SIGNALS] = {.fd = server->signals, .events = ZMQ_POLLIN},
        [RESULTS] = {.fd = results_descriptor(server->results), .events = ZMQ_POLLIN},
        [LAUNCH] = {.fd = launch_descriptor(server->launch), .events = ZMQ_POLLIN},
    };
    /* A launcher that is not there must not be polled: its place is given to the sync thread's descriptor
     * again. */
    if (launch_descriptor(server->launch) < 0) items[LAUNCH] = items[RESULTS];
    int count = MODELS + models_poll(server->models, items + MODELS);
    int watched = groups_descriptors(server->groups, ranks, MOST_WATCHED);
    for (int i = 0; i < watched; i++) items[count++] = (zmq_pollitem_t){.fd = ranks[i], .events = ZMQ_POLLIN};
    if (server->scrape)
        items[count++] = (zmq_pollitem_t){.fd = scrape_descriptor(server->scrape), .events = ZMQ_POLLIN};
    zmq_poll(items, count,
             poll_timeout_ms(server)); /* what it says about sockets is found out by receiving */
    return launch_descriptor(server->launch) >= 0 && (items[LAUNCH].revents & ZMQ_POLLIN);
}

/* Ranks are asked to end by themselves; stopped() sees to it that they do. */
static void begin_stop(struct server *server, const char *why)
{
    if (server->stopping) return;
    log_line(LOG_INFO, "ending: %s", why);
    server->stopping = true;
    server->stop_at_ns = server->now_ns + STOP_ASK_NS;
    launch_forbid(server->launch);
    server_release_ranks(server, "the coordinator is ending");
}

static void take_signals(struct server *server)
{
    struct signalfd_siginfo signal;
    while (read(server->signals, &signal, sizeof signal) == sizeof signal)
        begin_stop(server, strsignal((int)signal.ssi_signo));
}

/* Takes what has arrived at a socket, within one turn's measure. */
static void take_messages(struct server *server, void *socket,
                          void (*take)(struct server *, const struct wire_peer *, zmq_msg_t *))
{
    int64_t end_ns = clock_now_ns() + TURN_NS; /* of its own: one socket must not use up the other's time */
    for (int i = 0; i < TURN_MESSAGES && clock_now_ns() < end_ns; i++) {
        struct wire_peer peer;
        zmq_msg_t frame;
        struct error error;
        status_t status = wire_receive(socket, &peer, &frame, &error);
        if (status == STATUS_CORRUPT) server->refused++;
        if (status == STATUS_CORRUPT) continue;
        if (status != STATUS_OK) return;
        take(server, &peer, &frame);
        zmq_msg_close(&frame);
    }
}

/* Both answer somebody who waits, so they come before the commit of this turn. */
static void take_results(struct server *server)
{
    struct finished_file file;
    struct inspected inspected;
    while (results_finished(server->results, &file)) server_file_finished(server, &file);
    while (models_inspected(server->models, server->now_ns, &inspected)) server_inspected(server, &inspected);
}

/* The one fsync of a turn. Only now does anybody hear of what happened in it. */
static void commit(struct server *server)
{
    struct error error;
    const uint64_t *changed;
    if (jobstore_commit(server->store, &error) != STATUS_OK) {
        log_line(LOG_ERROR, "%s", error.text);
        outbox_refuse(server->outbox, &error);
        server->counts = server->settled;
        server_recover(server);
        return;
    }
    server->settled = server->counts;
    outbox_flush(server->outbox);
    for (size_t i = 0; i < server->deleted_count; i++) {
        results_delete(server->results, server->deleted[i]);
        server_drop_checkpoints(server, server->deleted[i]);
    }
    server->deleted_count = 0;
    size_t count = jobs_take_changed(server->jobs, &changed);
    for (size_t i = 0; i < count; i++) {
        watches_wake(server->watches, changed[i]);
        if (!jobs_find(server->jobs, changed[i]))
            server_retire_checkpoints(server, changed[i]); /* it ended */
    }
    watches_pump(server->watches, server->jobs, server->store, server->outbox);
}

/* Nobody could be heard while the loop stood still. */
static void forgive(struct server *server)
{
    groups_forgive(server->groups, server->now_ns);
    launchers_forgive(server->launchers, server->now_ns);
}

/* True once the ranks are gone, or patience is. */
static bool stopped(struct server *server)
{
    if (!launch_running(server->launch)) return true;
    if (server->now_ns >= server->stop_at_ns) launch_stop(server->launch, server->now_ns, 0);
    return server->now_ns >= server->stop_at_ns + STOP_PATIENCE_NS;
}

void server_begin_turn(struct server *server)
{
    server->before_ns = server->now_ns;
    server->now_ns = clock_now_ns();
    server->now_ms = clock_wall_ms();
}

void server_end_turn(struct server *server)
{
    take_results(server);
    server_take_saved(server);
    if (server->now_ns - server->before_ns > HELD_UP_NS) forgive(server);
    if (!server->stopping) server_schedule(server);
    if (!server->stopping) tierdesk_copy(server);
    commit(server);
}

status_t server_run(struct server *server, struct error *error)
{
    for (;;) {
        bool launcher_ended = wait_for_events(server);
        server_begin_turn(server);
        uint64_t launch = launch_number(server->launch);
        if (launch_tick(server->launch, launcher_ended, server->now_ns)) {
            groups_drop_dead(server->groups, server->now_ns);
            groups_drop_launch(server->groups, launch, server->now_ns);
        }
        if (launch_hopeless(server->launch))
            return error_set(error, STATUS_PEER_LOST,
                             "the ranks end as soon as they are started; see what they said above");
        take_signals(server);
        take_messages(server, server->workers, server_report);
        take_messages(server, server->clients, server_request);
        server_end_turn(server);
        metrics_tend(server);
        if (server->stopping && stopped(server)) return STATUS_OK;
    }
}
