/*
 * scrape.c - see scrape.h. The thread's part: libmicrohttpd with our own poll, so that visits can wait for the loop, and
 * slow ones be ended.
 */
#include "coordinator/metrics/scrape.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"

enum { TICK_MS = 100, HEAD_BYTES = 8192, ADDRESS_BYTES = 256 };

#define FRESH_NS  (250 * MILLISECOND_NS) /* a text so old is told again */
#define ANSWER_NS (2 * SECOND_NS)        /* for the loop to give one */
#define HEAD_NS   (3 * SECOND_NS)        /* for a request to be said */
#define VISIT_NS  (10 * SECOND_NS)       /* for all of it */

/* A connection. The thread's. */
struct visit {
    struct visit *next;
    struct MHD_Connection *connection;
    int socket;
    int64_t began_ns, asked_ns; /* asked_ns: when its request had been said; 0: not yet */
    bool waits, ended;
};

struct scrape {
    struct MHD_Daemon *daemon;
    pthread_t thread;
    bool runs;
    int wanted; /* eventfd: for the loop */
    int given;  /* eventfd: for the thread */
    char url[ADDRESS_BYTES + 32];

    pthread_mutex_t lock; /* guards what follows */
    char *text;           /* given by the loop, not taken by the thread yet; NULL: none */
    size_t bytes;
    int64_t made_ns;
    bool asked, stop;

    /* The thread's. */
    struct visit *visits;
    struct MHD_Response *latest, *refusals[3]; /* latest: NULL until there is one */
    int64_t latest_ns;
    bool ends; /* nobody waits any more: a daemon with visits that wait cannot be stopped */
};

enum refusal { NOT_FOUND, NOT_ALLOWED, NO_ANSWER };

static void raise_event(int descriptor)
{
    uint64_t one = 1;
    while (write(descriptor, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static void clear_event(int descriptor)
{
    uint64_t many;
    while (read(descriptor, &many, sizeof many) < 0 && errno == EINTR) {
    }
}

/* ------------------------------------------------------------------------------------------------- requests */

static struct visit *visit_of(const struct scrape *scrape, const struct MHD_Connection *connection)
{
    struct visit *visit = scrape->visits;
    while (visit && visit->connection != connection) visit = visit->next;
    return visit;
}

static void ask_loop(struct scrape *scrape)
{
    pthread_mutex_lock(&scrape->lock);
    bool new = !scrape->asked;
    scrape->asked = true;
    pthread_mutex_unlock(&scrape->lock);
    if (new) raise_event(scrape->wanted);
}

static enum MHD_Result refuse(struct scrape *scrape, struct MHD_Connection *connection, enum refusal why)
{
    static const unsigned codes[] = {MHD_HTTP_NOT_FOUND, MHD_HTTP_METHOD_NOT_ALLOWED,
                                     MHD_HTTP_SERVICE_UNAVAILABLE};
    return MHD_queue_response(connection, codes[why], scrape->refusals[why]);
}

/* Called when a request's head has come, and again when a visit that waited is resumed. A body is never read: the
 * connection ends with the answer. */
static enum MHD_Result take_request(void *argument, struct MHD_Connection *connection, const char *url,
                                    const char *method, const char *version, const char *upload,
                                    size_t *upload_size, void **state)
{
    struct scrape *scrape = argument;
    struct visit *visit = visit_of(scrape, connection);
    int64_t now_ns = clock_now_ns();
    (void)version, (void)upload, (void)upload_size, (void)state;
    if (!visit) return MHD_NO;
    if (!visit->asked_ns) visit->asked_ns = now_ns;
    if (strcmp(url, "/metrics") != 0) return refuse(scrape, connection, NOT_FOUND);
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0) return refuse(scrape, connection, NOT_ALLOWED);
    if (scrape->latest && scrape->latest_ns >= visit->asked_ns - FRESH_NS)
        return MHD_queue_response(connection, MHD_HTTP_OK, scrape->latest);
    if (scrape->ends || now_ns - visit->asked_ns >= ANSWER_NS) return refuse(scrape, connection, NO_ANSWER);
    visit->waits = true;
    ask_loop(scrape);
    MHD_suspend_connection(connection);
    return MHD_YES;
}

static void begin_visit(struct scrape *scrape, struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct visit *visit = info ? calloc(1, sizeof *visit) : NULL;
    if (!visit) return; /* its request will find no visit, and end */
    visit->connection = connection;
    visit->socket = info->connect_fd;
    visit->began_ns = clock_now_ns();
    visit->next = scrape->visits;
    scrape->visits = visit;
}

static void end_visit(struct scrape *scrape, const struct MHD_Connection *connection)
{
    for (struct visit **at = &scrape->visits; *at; at = &(*at)->next) {
        struct visit *visit = *at;
        if (visit->connection != connection) continue;
        *at = visit->next;
        free(visit);
        return;
    }
}

static void note_connection(void *argument, struct MHD_Connection *connection, void **context,
                            enum MHD_ConnectionNotificationCode code)
{
    (void)context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        begin_visit(argument, connection);
    else
        end_visit(argument, connection);
}

/* ------------------------------------------------------------------------------------------------ the thread */

/* One request a connection, so that nobody keeps one of the few. */
static struct MHD_Response *make_response(char *text, size_t bytes, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(bytes, text, mode);
    if (!response) return NULL;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            "text/plain; version=0.0.4; charset=utf-8");
    return response;
}

static void take_given(struct scrape *scrape)
{
    pthread_mutex_lock(&scrape->lock);
    char *text = scrape->text;
    size_t bytes = scrape->bytes;
    int64_t made_ns = scrape->made_ns;
    scrape->ends = scrape->stop;
    scrape->text = NULL;
    pthread_mutex_unlock(&scrape->lock);
    if (!text) return;
    struct MHD_Response *response = make_response(text, bytes, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return;
    }
    if (scrape->latest) MHD_destroy_response(scrape->latest); /* who is being told it keeps it */
    scrape->latest = response;
    scrape->latest_ns = made_ns;
}

/* Visits that wait go on when there is a text for them, or no hope of one; those that take too long are over. */
static void tend_visits(struct scrape *scrape)
{
    int64_t now_ns = clock_now_ns();
    for (struct visit *visit = scrape->visits; visit; visit = visit->next) {
        int64_t most = visit->asked_ns ? VISIT_NS : HEAD_NS;
        bool answered = scrape->latest && scrape->latest_ns >= visit->asked_ns - FRESH_NS;
        if (visit->waits && (scrape->ends || answered || now_ns - visit->asked_ns >= ANSWER_NS)) {
            visit->waits = false;
            MHD_resume_connection(visit->connection);
        }
        if (!visit->ended && !visit->waits && now_ns - visit->began_ns >= most) {
            visit->ended = true;
            shutdown(visit->socket, SHUT_RDWR);
        }
    }
}

/* After a visit the daemon has to be run once more: with all its places taken it does not listen, and it is only when it
 * is run again that it sees that some are free. */
static int patience_ms(const struct scrape *scrape, bool visited)
{
    MHD_UNSIGNED_LONG_LONG left_ms;
    if (!visited && !scrape->visits) return -1;
    if (MHD_get_timeout(scrape->daemon, &left_ms) == MHD_YES && left_ms < TICK_MS) return (int)left_ms;
    return TICK_MS;
}

static void *serve(void *argument)
{
    struct scrape *scrape = argument;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(scrape->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct pollfd ready[2] = {{.fd = info->epoll_fd, .events = POLLIN},
                              {.fd = scrape->given, .events = POLLIN}};
    for (bool visited = false; !scrape->ends;) {
        poll(ready, 2, patience_ms(scrape, visited));
        if (ready[1].revents) clear_event(scrape->given);
        take_given(scrape);
        tend_visits(scrape);
        visited = scrape->visits != NULL;
        MHD_run(scrape->daemon);
    }
    return NULL;
}

/* -------------------------------------------------------------------------------------------------- opening */

/* ADDRESS and PORT of the option's text. */
static status_t split_address(const char *text, char host[ADDRESS_BYTES], char port[8], struct error *error)
{
    const char *colon = strrchr(text, ':'), *digits = colon ? colon + 1 : text;
    size_t length = colon ? (size_t)(colon - text) : 0;
    char *end = NULL;
    bool any = strcmp(digits, "*") == 0;
    unsigned long number = any ? 0 : strtoul(digits, &end, 10);
    if (!any && (!(*digits >= '0' && *digits <= '9') || *end || number > 65535))
        return error_set(error, STATUS_INVALID, "--metrics %s: must end with a port, as 127.0.0.1:9464",
                         text);
    bool bracketed = length >= 2 && text[0] == '[' && text[length - 1] == ']';
    if (length >= ADDRESS_BYTES || (!bracketed && memchr(text, ':', length)))
        return error_set(error, STATUS_INVALID,
                         "--metrics %s: must be ADDRESS:PORT, an IPv6 address in brackets", text);
    snprintf(host, ADDRESS_BYTES, "%.*s", (int)(bracketed ? length - 2 : length), text + bracketed);
    if (length == 0) strcpy(host, "127.0.0.1");
    snprintf(port, 8, "%lu", number);
    return STATUS_OK;
}

static void describe(struct scrape *scrape, int socket)
{
    struct sockaddr_storage bound;
    socklen_t length = sizeof bound;
    char host[ADDRESS_BYTES] = "", port[8] = "";
    getsockname(socket, (struct sockaddr *)&bound, &length);
    getnameinfo((struct sockaddr *)&bound, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    bool brackets = bound.ss_family == AF_INET6;
    snprintf(scrape->url, sizeof scrape->url, "http://%s%s%s:%s/metrics", brackets ? "[" : "", host,
             brackets ? "]" : "", port);
}

static bool is_loopback(const struct addrinfo *found)
{
    if (found->ai_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)found->ai_addr)->sin_addr.s_addr) >> 24 ==
               127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)found->ai_addr)->sin6_addr);
}

/* Numbers only: no name server is to be waited for. *found: for freeaddrinfo. */
static status_t find_address(const char *text, struct addrinfo **found, struct error *error)
{
    char host[ADDRESS_BYTES], port[8];
    struct addrinfo wish = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    status_t status = split_address(text, host, port, error);
    if (status != STATUS_OK) return status;
    if (getaddrinfo(host, port, &wish, found) == 0) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "--metrics %s: is no address of numbers", text);
}

status_t scrape_check(const char *address, struct error *error)
{
    struct addrinfo *found;
    status_t status = find_address(address, &found, error);
    if (status == STATUS_OK) freeaddrinfo(found);
    return status;
}

static status_t bind_address(const char *text, int *bound, struct error *error)
{
    struct addrinfo *found = NULL;
    int yes = 1;
    status_t status = find_address(text, &found, error);
    if (status != STATUS_OK) return status;
    int made = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made >= 0) setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (made < 0 || bind(made, found->ai_addr, found->ai_addrlen) != 0 || listen(made, SOMAXCONN) != 0) {
        status = error_set(error, STATUS_IO, "--metrics %s: cannot be bound: %m", text);
        if (made >= 0) close(made);
    } else {
        *bound = made;
        if (!is_loopback(found))
            log_line(LOG_WARN, "--metrics %s: other machines can read figures of all tenants' work", text);
    }
    freeaddrinfo(found);
    return status;
}

static bool make_refusals(struct scrape *scrape)
{
    static char not_found[] = "there is /metrics here and nothing else\n",
                not_allowed[] = "GET is all that can be done here\n",
                no_answer[] = "the coordinator did not answer in time\n";
    char *const texts[] = {not_found, not_allowed, no_answer};
    for (int i = 0; i < 3; i++)
        if (!(scrape->refusals[i] = make_response(texts[i], strlen(texts[i]), MHD_RESPMEM_PERSISTENT)))
            return false;
    MHD_add_response_header(scrape->refusals[NOT_ALLOWED], MHD_HTTP_HEADER_ALLOW, MHD_HTTP_METHOD_GET);
    return true;
}

static status_t start(struct scrape *scrape, int bound, struct error *error)
{
    describe(scrape, bound);
    scrape->wanted = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    scrape->given = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool whole = scrape->wanted >= 0 && scrape->given >= 0 && make_refusals(scrape);
    scrape->daemon =
        whole ? MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, take_request,
                                 scrape, MHD_OPTION_LISTEN_SOCKET, bound, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)SCRAPE_VISITS, MHD_OPTION_CONNECTION_TIMEOUT,
                                 (unsigned)(VISIT_NS / SECOND_NS), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                 (size_t)HEAD_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1,
                                 MHD_OPTION_NOTIFY_CONNECTION, note_connection, scrape, MHD_OPTION_END)
              : NULL;
    if (!scrape->daemon) {
        close(bound);
        return error_set(error, STATUS_IO, "--metrics: the HTTP server cannot be started");
    }
    int failure = pthread_create(&scrape->thread, NULL, serve, scrape);
    scrape->runs = failure == 0;
    return failure ? error_set(error, STATUS_IO, "--metrics: no thread: %s", strerror(failure)) : STATUS_OK;
}

status_t scrape_open(const char *address, struct scrape **scrape, struct error *error)
{
    int bound = -1;
    status_t status = bind_address(address, &bound, error);
    if (status != STATUS_OK) return status;
    struct scrape *made = calloc(1, sizeof *made);
    if (!made) {
        close(bound);
        return error_set(error, STATUS_NO_MEMORY, "no memory for --metrics");
    }
    made->wanted = made->given = -1;
    pthread_mutex_init(&made->lock, NULL);
    if ((status = start(made, bound, error)) != STATUS_OK) {
        scrape_close(made);
        return status;
    }
    *scrape = made;
    return STATUS_OK;
}

void scrape_close(struct scrape *scrape)
{
    if (!scrape) return;
    if (scrape->runs) {
        pthread_mutex_lock(&scrape->lock);
        scrape->stop = true;
        pthread_mutex_unlock(&scrape->lock);
        raise_event(scrape->given);
        pthread_join(scrape->thread, NULL);
    }
    if (scrape->daemon) MHD_stop_daemon(scrape->daemon); /* closes connections and the listening socket */
    if (scrape->latest) MHD_destroy_response(scrape->latest);
    for (int i = 0; i < 3; i++)
        if (scrape->refusals[i]) MHD_destroy_response(scrape->refusals[i]);
    if (scrape->wanted >= 0) close(scrape->wanted);
    if (scrape->given >= 0) close(scrape->given);
    free(scrape->text);
    pthread_mutex_destroy(&scrape->lock);
    free(scrape);
}

/* --------------------------------------------------------------------------------------------- for the loop */

const char *scrape_url(const struct scrape *scrape)
{
    return scrape->url;
}

int scrape_descriptor(const struct scrape *scrape)
{
    return scrape->wanted;
}

bool scrape_wanted(struct scrape *scrape)
{
    clear_event(scrape->wanted);
    pthread_mutex_lock(&scrape->lock);
    bool asked = scrape->asked;
    scrape->asked = false;
    pthread_mutex_unlock(&scrape->lock);
    return asked;
}

void scrape_give(struct scrape *scrape, char *text, size_t bytes)
{
    pthread_mutex_lock(&scrape->lock);
    char *unread = scrape->text;
    scrape->text = text;
    scrape->bytes = bytes;
    scrape->made_ns = clock_now_ns();
    pthread_mutex_unlock(&scrape->lock);
    free(unread);
    raise_event(scrape->given);
}
