/* heartbeat.c - see heartbeat.h. Control thread. */
#include "worker/heartbeat.h"

/* An entry that changes hands while it is read is left out: its time belongs to one of two sizes. */
void heartbeat_paces(const struct engine_pace *engine, struct heartbeat_paces *paces,
                     Refrain__Heartbeat *heartbeat)
{
    heartbeat->paces = paces->list;
    heartbeat->n_paces = 0;
    for (int i = 0; engine && i < ENGINE_PACES; i++) {
        uint32_t tokens = atomic_load(&engine[i].tokens);
        double block_ns = atomic_load(&engine[i].block_ns);
        if (tokens == 0 || !(block_ns > 0) || atomic_load(&engine[i].tokens) != tokens) continue;
        Refrain__BlockPace *pace = &paces->pace[heartbeat->n_paces];
        refrain__block_pace__init(pace);
        pace->has_tokens = pace->has_block_ns = 1;
        pace->tokens = tokens;
        pace->block_ns = block_ns;
        paces->list[heartbeat->n_paces++] = pace;
    }
}
