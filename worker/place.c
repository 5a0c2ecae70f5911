/* place.c - see place.h. Main thread. */
#include "worker/place.h"

#include <ctype.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cluster/fabric.h"

/* It stands in command lines, logs and messages: letters, digits and a few signs. */
static bool is_name(const char *text)
{
    size_t length = strlen(text);
    if (length == 0 || length >= PLACE_GROUP_BYTES) return false;
    for (const char *c = text; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c)) return false;
    return text[0] != '-';
}

status_t place_wish(const char *group, const char *seat, struct place_wish *wish, struct error *error)
{
    struct place_wish made = {.group = group};
    int read = 0;
    if (group && !is_name(group))
        return error_set(error, STATUS_INVALID,
                         "--group %s: must be 1 to %d letters, digits, '.', '_' or '-'", group,
                         PLACE_GROUP_BYTES - 1);
    if (seat) {
        if (!group) return error_set(error, STATUS_INVALID, "--seat: needs --group, the one it belongs to");
        bool fits = isdigit((unsigned char)seat[0]) && strlen(seat) < 16 &&
                    sscanf(seat, "%d/%d%n", &made.seat, &made.ranks, &read) == 2 && !seat[read];
        if (!fits || made.ranks < 1 || made.ranks > FABRIC_MAX_MEMBERS || made.seat >= made.ranks)
            return error_set(error, STATUS_INVALID,
                             "--seat %s: must be RANK/RANKS, with RANK below RANKS and at most %d RANKS",
                             seat, FABRIC_MAX_MEMBERS);
    }
    *wish = made;
    return STATUS_OK;
}

static void make_name(char name[PLACE_GROUP_BYTES])
{
    uint8_t random[16];
    if (getrandom(random, sizeof random, 0) != sizeof random) memset(random, 0, sizeof random);
    for (size_t i = 0; i < sizeof random; i++) snprintf(name + 2 * i, 3, "%02x", random[i]);
}

status_t place_find(const struct place_wish *wish, struct place *place, struct error *error)
{
    struct place found = {0};
    MPI_Comm here;
    MPI_Comm_rank(MPI_COMM_WORLD, &found.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &found.world_ranks);
    if (wish->ranks && found.world_ranks > wish->ranks - wish->seat)
        return error_set(error, STATUS_INVALID,
                         "--seat %d/%d: mpirun started %d ranks, for rank %d and those behind it", wish->seat,
                         wish->ranks, found.world_ranks, wish->seat);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_size(here, &found.local_ranks);
    MPI_Comm_free(&here);
    found.ranks = wish->ranks ? wish->ranks : found.world_ranks;
    if (wish->ranks) found.rank += wish->seat;
    gethostname(found.host, sizeof found.host - 1);
    if (wish->group)
        snprintf(found.group, sizeof found.group, "%s", wish->group);
    else
        make_name(found.group);
    MPI_Bcast(found.group, sizeof found.group, MPI_CHAR, 0, MPI_COMM_WORLD);
    *place = found;
    return STATUS_OK;
}

/* After the barrier every rank has mapped what it needs of its neighbours. The mappings stay, also for
 * MPI_Finalize. */
void place_settle(void)
{
    char line[4096 + 256];
    MPI_Barrier(MPI_COMM_WORLD);
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        char *path = strchr(line, '/');
        line[strcspn(line, "\n")] = '\0';
        /* vader: Open MPI 4; sm: its name in Open MPI 5. Who comes second finds it gone. */
        if (path && (strstr(path, "/vader_segment.") || strstr(path, "/sm_segment."))) unlink(path);
    }
    if (maps) fclose(maps);
}
