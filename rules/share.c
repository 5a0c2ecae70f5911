/* share.c - see share.h. Compute thread. */
#include "rules/share.h"

/* So many times what a piece took go to the others before the next one, if they have that much. */
enum { AFTER_STEPS = 4, AFTER_BESIDE = 24 };

bool share_home_first(const struct share *share, enum job_piece piece, int priority, int at_stage)
{
    if (piece == PIECE_NONE || at_stage < 0) return piece != PIECE_NONE;
    if (piece == PIECE_SEND) return true;
    if (priority != at_stage) return priority > at_stage;
    return piece_beside(piece) ? share->beside_ns == 0 : share->steps_ns < 0;
}

static void pay_off(struct share *share, int64_t ns)
{
    share->beside_ns -= ns < share->beside_ns ? ns : share->beside_ns;
}

void share_charge_home(struct share *share, enum job_piece piece, int64_t ns)
{
    if (piece_beside(piece)) {
        share->beside_ns = AFTER_BESIDE * ns;
    } else {
        share->steps_ns += AFTER_STEPS * ns;
        pay_off(share, ns);
    }
}

void share_charge_stage(struct share *share, int64_t ns)
{
    share->steps_ns -= ns;
    pay_off(share, ns);
}

void share_settle(struct share *share)
{
    share->steps_ns = 0;
}

bool share_elder(uint64_t a, uint64_t b, uint32_t ranks)
{
    return a / ranks < b / ranks;
}
