/* crew.c - see crew.h. Holds no locks. */
#include "cluster/launcher/crew.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/scratch.h"
#include "cluster/launcher/census.h"
#include "cluster/launcher/litter.h"

#define FAR_TRIAL_NS                                                                                         \
    (60 * SECOND_NS) /* a process on another host that is given up so soon never came up there */
#define KILL_AFTER_NS (2 * SECOND_NS) /* mpirun obeys within milliseconds, or not at all */

enum { PATH_BYTES = 4096 };

enum hold { HELD_BY_ALL, HELD_BY_ONE, EMPTY };

struct seat {
    enum hold hold;
    bool untold; /* empty, and the coordinator does not know */
    bool
        far_failed; /* its last process was sent to another host and did not come up: the next one stays here */
    char message[CREW_TEXT_BYTES]; /* why it is empty */
};

/* One running mpirun. */
struct hand {
    struct child child;
    uint64_t number; /* which of the crew's mpiruns */
    int rank;        /* CREW_ALL: the group's own */
    bool outdated;   /* its seat went to another one */
    bool far;        /* it was told a host */
    int64_t began_ns;
};

struct crew {
    const struct mpirun_plan *plan;
    const char *directory;
    char name[CREW_NAME_BYTES], host[256];
    struct seat *seats; /* [plan->ranks], from plan->first on */
    struct hand hands[CREW_POLL_ITEMS];
    int hand_count;
    uint64_t started; /* mpiruns so far */
    bool rest_untold; /* the group's own mpirun ended, with seats, and the coordinator does not know */
    char rest_message[CREW_TEXT_BYTES];
    bool ending, asked, made; /* ending: to end; SIGTERM was sent; SIGKILL was */
    int64_t ask_ns, make_ns;
};

/* ----------------------------------------------------------------------------------------------- starting */

static void make_name(char name[CREW_NAME_BYTES])
{
    uint8_t random[16];
    if (getrandom(random, sizeof random, 0) != sizeof random) memset(random, 0, sizeof random);
    for (size_t i = 0; i < sizeof random; i++) snprintf(name + 2 * i, 3, "%02x", random[i]);
}

/* Where that mpirun has its files. Names of groups are long and do not come twice; a part is enough to tell
 * this launcher's groups apart, and paths of sockets are short by law. */
static void name_directory(const struct crew *crew, uint64_t number, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%.3000s/%.8s-%" PRIu64, crew->directory, crew->name, number);
}

static status_t start_hand(struct crew *crew, const struct crew_seat *seat, struct error *error)
{
    char directory[PATH_BYTES];
    struct hand *hand = &crew->hands[crew->hand_count];
    struct mpirun_job job = {.group = crew->name, .directory = directory};
    if (crew->hand_count == CREW_POLL_ITEMS)
        return error_set(error, STATUS_CONFLICT, "%d mpiruns have not ended yet: no more are started",
                         crew->hand_count);
    name_directory(crew, ++crew->started, directory);
    if (mkdir(directory, 0700) != 0) return error_set(error, STATUS_IO, "%s: cannot be made: %m", directory);
    if (seat) {
        job.single = true;
        job.seat = seat->rank;
        job.threads = seat->threads;
        job.host = seat->host;
    }
    status_t status = mpirun_start(crew->plan, &job, &hand->child, error);
    if (status != STATUS_OK) return status;
    hand->number = crew->started;
    hand->rank = seat ? seat->rank : CREW_ALL;
    hand->outdated = false;
    hand->far = job.host != NULL;
    hand->began_ns = clock_now_ns();
    crew->hand_count++;
    return STATUS_OK;
}

status_t crew_start(const struct mpirun_plan *plan, const char *directory, struct crew **crew,
                    struct error *error)
{
    struct crew *made = calloc(1, sizeof *made);
    if (made) made->seats = calloc((size_t)plan->ranks, sizeof *made->seats);
    if (!made || !made->seats) {
        free(made);
        return error_set(error, STATUS_NO_MEMORY, "no memory for %d ranks", plan->ranks);
    }
    made->plan = plan;
    made->directory = directory;
    if (plan->group)
        snprintf(made->name, sizeof made->name, "%s", plan->group);
    else
        make_name(made->name);
    gethostname(made->host, sizeof made->host - 1);
    status_t status = start_hand(made, NULL, error);
    if (status == STATUS_OK)
        *crew = made;
    else
        crew_free(made);
    return status;
}

void crew_free(struct crew *crew)
{
    if (!crew) return;
    for (int i = 0; i < crew->hand_count; i++) {
        kill(crew->hands[i].child.pid, SIGKILL);
        child_reap(&crew->hands[i].child);
    }
    census_kill(crew->name, crew->plan->first,
                crew->plan->ranks); /* who lost their mpirun in an odd moment */
    free(crew->seats);
    free(crew);
}

/* -------------------------------------------------------------------------------------------------- seats */

const char *crew_name(const struct crew *crew)
{
    return crew->name;
}

bool crew_empty(const struct crew *crew)
{
    for (int i = 0; i < crew->plan->ranks; i++)
        if (crew->seats[i].hold != EMPTY) return false;
    return true;
}

static struct seat *seat_of(const struct crew *crew, int rank)
{
    return &crew->seats[rank - crew->plan->first];
}

static void leave_seat(struct seat *seat, const char *message)
{
    seat->hold = EMPTY;
    seat->untold = true;
    snprintf(seat->message, sizeof seat->message, "%s", message);
}

/* The one who held it is gone or to be gone. In the group's own mpirun there is no order for one rank only,
 * and a stopped process hears none: it is looked for by name. On other hosts it is left to the coordinator,
 * who refuses it. */
static void clear_seat(struct crew *crew, int rank)
{
    for (int i = 0; i < crew->hand_count; i++) {
        struct hand *hand = &crew->hands[i];
        if (hand->rank != rank || hand->outdated) continue;
        hand->outdated = true;
        seat_of(crew, rank)->far_failed = hand->far && clock_now_ns() - hand->began_ns < FAR_TRIAL_NS;
        kill(hand->child.pid, SIGKILL); /* its rank dies with it */
    }
    int killed = census_kill(crew->name, rank, 1);
    if (killed) log_line(LOG_INFO, "rank %d: an older process was still there and was killed", rank);
}

/* NULL: here. Where all ranks share this host, whatever name it goes by is this host. */
static const char *far_host(const struct crew *crew, const struct crew_seat *seat)
{
    if (!seat->host || !seat->host[0] || !crew->plan->several_hosts) return NULL;
    if (strcmp(seat->host, crew->host) == 0 || seat_of(crew, seat->rank)->far_failed) return NULL;
    return seat->host;
}

status_t crew_replace(struct crew *crew, const struct crew_seat *wanted, struct error *error)
{
    struct crew_seat seat = *wanted;
    int first = crew->plan->first, last = first + crew->plan->ranks - 1;
    if (seat.rank < first || seat.rank > last)
        return error_set(error, STATUS_INVALID, "rank %d: here are ranks %d to %d", seat.rank, first, last);
    if (!mpirun_mends(crew->plan))
        return error_set(error, STATUS_UNSUPPORTED,
                         "rank %d: with fabric mpi a group is relaunched as a whole", seat.rank);
    clear_seat(crew, seat.rank);
    seat.host = far_host(crew, wanted);
    seat_of(crew, seat.rank)->far_failed = false; /* once: then the host gets its next chance */
    status_t status = start_hand(crew, &seat, error);
    if (status == STATUS_OK)
        seat_of(crew, seat.rank)->hold = HELD_BY_ONE;
    else
        leave_seat(seat_of(crew, seat.rank), error->text);
    return status;
}

/* -------------------------------------------------------------------------------------------------- ends */

int crew_poll(const struct crew *crew, zmq_pollitem_t items[CREW_POLL_ITEMS])
{
    for (int i = 0; i < crew->hand_count; i++)
        items[i] = (zmq_pollitem_t){.fd = crew->hands[i].child.pidfd, .events = ZMQ_POLLIN};
    return crew->hand_count;
}

static void take_end(struct crew *crew, const struct hand *hand, int code, const char *message)
{

    log_line(crew->ending || hand->outdated ? LOG_DEBUG : LOG_WARN, "%s: %s",
             hand->rank == CREW_ALL ? "the group's mpirun" : "a replacement", message);
    if (hand->outdated) return;
    if (hand->rank != CREW_ALL) {
        seat_of(crew, hand->rank)->far_failed = hand->far && !mpirun_ran(code);
        leave_seat(seat_of(crew, hand->rank), message);
        return;
    }
    for (int i = 0; i < crew->plan->ranks; i++) { /* those who were replaced live on */
        if (crew->seats[i].hold != HELD_BY_ALL) continue;
        leave_seat(&crew->seats[i], message);
        crew->seats[i].untold = false;
        crew->rest_untold = true;
    }
    if (crew->rest_untold) snprintf(crew->rest_message, sizeof crew->rest_message, "%s", message);
}

void crew_reap(struct crew *crew)
{
    for (int i = 0; i < crew->hand_count;) {
        struct hand hand = crew->hands[i];
        struct pollfd ended = {.fd = hand.child.pidfd, .events = POLLIN};
        if (poll(&ended, 1, 0) != 1) {
            i++;
            continue;
        }
        char message[CREW_TEXT_BYTES], directory[PATH_BYTES];
        name_directory(crew, hand.number, directory);
        scratch_remove(directory); /* a killed one could not do it */
        if (crew->plan->several_hosts) litter_session(hand.child.pid);
        int code = child_reap(&hand.child);
        mpirun_explain(code, message, sizeof message);
        crew->hands[i] = crew->hands[--crew->hand_count];
        take_end(crew, &hand, code, message);
    }
}

bool crew_news(struct crew *crew, struct crew_end *end)
{
    if (crew->rest_untold) {
        crew->rest_untold = false;
        end->rank = CREW_ALL;
        snprintf(end->message, sizeof end->message, "%s", crew->rest_message);
        return true;
    }
    for (int i = 0; i < crew->plan->ranks; i++) {
        struct seat *seat = &crew->seats[i];
        if (!seat->untold) continue;
        seat->untold = false;
        end->rank = crew->plan->first + i;
        snprintf(end->message, sizeof end->message, "%s", seat->message);
        return true;
    }
    return false;
}

void crew_retell(struct crew *crew)
{
    crew->rest_untold = crew_empty(crew);
    for (int i = 0; i < crew->plan->ranks; i++)
        crew->seats[i].untold = !crew->rest_untold && crew->seats[i].hold == EMPTY;
}

/* ------------------------------------------------------------------------------------------------- ending */

void crew_end(struct crew *crew, int64_t now_ns, int64_t grace_ns)
{
    int64_t ask_ns = now_ns + grace_ns;
    if (crew->ending && crew->ask_ns <= ask_ns) return;
    crew->ending = true;
    crew->ask_ns = ask_ns;
    crew->make_ns = ask_ns + KILL_AFTER_NS;
}

static void signal_hands(const struct crew *crew, int number)
{
    for (int i = 0; i < crew->hand_count; i++) kill(crew->hands[i].child.pid, number);
}

void crew_tick(struct crew *crew, int64_t now_ns)
{
    if (!crew->ending) return;
    if (!crew->asked && now_ns >= crew->ask_ns) {
        signal_hands(crew, SIGTERM);
        crew->asked = true;
    }
    if (!crew->made && now_ns >= crew->make_ns) {
        if (crew->hand_count) log_line(LOG_WARN, "mpirun does not end, it is killed");
        signal_hands(crew, SIGKILL);
        crew->made = true;
    }
}

int64_t crew_wake_ns(const struct crew *crew)
{
    if (!crew->ending || crew->made) return CLOCK_NEVER;
    return crew->asked ? crew->make_ns : crew->ask_ns;
}

bool crew_over(const struct crew *crew)
{
    return crew->hand_count == 0;
}
