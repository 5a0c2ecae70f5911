/* pace.c - see pace.h. Pure functions. */
#include "coordinator/foresight/pace.h"

#include <math.h>
#include "base/clock.h"

#define SMOOTH_SECONDS 10.0

static struct pace *find(struct paces *paces, uint32_t tokens)
{
    struct pace *oldest = paces->kept;
    for (int i = 0; i < PACES_KEPT; i++) {
        struct pace *p = &paces->kept[i];
        if (p->tokens == tokens) return p;
        if (p->tokens == 0 || (oldest->tokens != 0 && p->heard_ns < oldest->heard_ns)) oldest = p;
    }
    *oldest = (struct pace){.tokens = tokens};
    return oldest;
}

/* At first the mean of all, or a cold start would count for seconds. */
static void follow(struct pace *p, double block_ns, int64_t now_ns)
{
    double seconds = (double)(now_ns - p->heard_ns) / SECOND_NS;
    double weight = fmax(1 - exp(-seconds / SMOOTH_SECONDS), 1.0 / (p->times + 1));
    bool news = block_ns != p->told_ns;
    p->told_ns = block_ns;
    p->heard_ns = now_ns;
    if (!news) return; /* it has computed none of them since */
    p->block_ns += weight * (block_ns - p->block_ns);
    p->times++;
}

void paces_hear(struct paces *paces, const Refrain__Heartbeat *heartbeat, int64_t now_ns)
{
    for (size_t i = 0; i < heartbeat->n_paces && i < PACES_KEPT; i++) {
        const Refrain__BlockPace *told = heartbeat->paces[i];
        if (told->tokens == 0 || !(told->block_ns > 0) || !isfinite(told->block_ns)) continue;
        follow(find(paces, told->tokens), told->block_ns, now_ns);
    }
}

double paces_block(const struct paces *paces, double tokens, const double flops[PACE_TERMS])
{
    double nearest = INFINITY, block_ns = 0, wanted = pace_flops(flops, tokens);
    for (int i = 0; i < PACES_KEPT; i++) {
        const struct pace *p = &paces->kept[i];
        if (p->tokens == 0 || p->block_ns <= 0) continue;
        double known = pace_flops(flops, p->tokens), distance = fabs(log(p->tokens / tokens));
        if (distance >= nearest) continue;
        nearest = distance;
        block_ns = known > 0 && wanted > 0 ? p->block_ns * wanted / known : p->block_ns * tokens / p->tokens;
    }
    return block_ns;
}
