/* wiring.c - see wiring.h. */
#include "coordinator/ranks/wiring.h"

#include <string.h>

static bool same_host(const struct group *group, uint32_t a, uint32_t b)
{
    return strcmp(group->members[a].host, group->members[b].host) == 0;
}

/* Ranks of each host, where all have as many and they stand together; otherwise 1. */
static uint32_t ranks_of_hosts(const struct group *group)
{
    uint32_t count = 1;
    while (count < group->ranks && same_host(group, 0, count)) count++;
    if (group->ranks % count) return 1;
    for (uint32_t rank = 0; rank < group->ranks; rank++)
        if (!same_host(group, rank, rank - rank % count) ||
            (rank >= count && rank % count == 0 && same_host(group, rank, rank - 1)))
            return 1;
    return count;
}

bool wiring_of(const struct group *group, struct planner_links *links)
{
    struct planner_links found = {0};
    struct link link;
    *links = found;
    if (group->ranks < 2) return false;
    for (uint32_t a = 0; a < group->ranks; a++)
        for (uint32_t b = a + 1; b < group->ranks; b++) {
            if (!links_find(&group->links, group->members[a].seat, group->members[b].seat, &link))
                return false;
            planner_add_link(&found, same_host(group, a, b), (double)link.bytes_per_second,
                             (double)link.latency);
        }
    found.per_node = ranks_of_hosts(group);
    *links = found;
    return true;
}

bool wiring_way(const struct group *group, uint32_t rank, const char *host, struct link *way)
{
    struct link slowest = {0}, link;
    if (strcmp(group->fabric, "zmq") != 0 || rank >= group->ranks) return false;
    bool here = strcmp(group->members[rank].host, host) == 0;
    for (uint32_t other = 0; other < group->ranks; other++) {
        if (!links_find(&group->links, group->members[rank].seat, group->members[other].seat, &link))
            continue;
        if (strcmp(group->members[other].host, host) == 0) {
            *way = link;
            return true;
        }
        if (here || same_host(group, rank, other)) continue;
        if (slowest.bytes_per_second > 0 && slowest.bytes_per_second <= link.bytes_per_second) continue;
        slowest = link;
    }
    if (slowest.bytes_per_second > 0) *way = slowest;
    return slowest.bytes_per_second > 0;
}

void wiring_describe(const struct group *group, const Refrain__ModelCard *card, const struct outlook *outlook,
                     struct layout_load *load)
{
    load->tokens = load->fewest_tokens = (uint32_t)outlook->tokens;
    load->head_dim = card->head_dim;
    load->ffn = card->ffn_dim;
    load->text_tokens = card->text_length;
    load->operand_bytes = group->members[0].gpu[0] ? 2 : 4; /* bf16, or float32 */
    wiring_of(group, &load->links);
}
