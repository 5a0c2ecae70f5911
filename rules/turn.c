/* turn.c - see turn.h. Compute thread of home. */
#include "rules/turn.h"

#include <stdio.h>
#include <string.h>

/* ----------------------------------------------------------------------------------------------- accounts */

static void raise_floor(struct turn *turn)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < TURN_ACCOUNTS; i++)
        if (turn->account[i].jobs && turn->account[i].charged < least) least = turn->account[i].charged;
    if (least != UINT64_MAX && least > turn->floor) turn->floor = least;
}

/* The tenant's own, or of those without jobs the one whose memory matters least. */
static struct turn_account *find_account(struct turn *turn, const char *tenant)
{
    struct turn_account *unused = NULL;
    for (int i = 0; i < TURN_ACCOUNTS; i++) {
        struct turn_account *a = &turn->account[i];
        if (strncmp(a->tenant, tenant, sizeof a->tenant - 1) == 0 && (a->jobs || a->charged)) return a;
        if (!a->jobs && (!unused || a->charged < unused->charged)) unused = a;
    }
    memset(unused, 0, sizeof *unused);
    snprintf(unused->tenant, sizeof unused->tenant, "%s", tenant);
    return unused;
}

int turn_join(struct turn *turn, const char *tenant)
{
    raise_floor(turn);
    struct turn_account *a = find_account(turn, tenant);
    if (!a->jobs && a->charged < turn->floor) a->charged = turn->floor;
    a->jobs++;
    return (int)(a - turn->account);
}

void turn_leave(struct turn *turn, int account)
{
    raise_floor(turn); /* while it still counts: the last one to go leaves its mark */
    turn->account[account].jobs--;
}

/* ------------------------------------------------------------------------------------------------- choice */

/* Rules 1 to 4: is a's group to be served before b's? Both have a piece. 0: they are of one group. */
static int compare_groups(const struct turn *turn, const struct candidate *a, const struct candidate *b)
{
    bool a_sends = a->piece == PIECE_SEND, b_sends = b->piece == PIECE_SEND;
    bool a_spare = a->piece == PIECE_SPARE, b_spare = b->piece == PIECE_SPARE;
    if (a_sends != b_sends) return a_sends ? -1 : 1;
    if (a_spare != b_spare) return b_spare ? -1 : 1;
    if (a->priority != b->priority) return a->priority > b->priority ? -1 : 1;
    if (a->due_ms != b->due_ms) {
        if (!a->due_ms || !b->due_ms) return a->due_ms ? -1 : 1;
        return a->due_ms < b->due_ms ? -1 : 1;
    }
    if (a->account == b->account) return 0;
    uint64_t a_charged = turn->account[a->account].charged, b_charged = turn->account[b->account].charged;
    if (a_charged != b_charged) return a_charged < b_charged ? -1 : 1;
    return a->account < b->account ? -1 : 1;
}

/* Rule 5: the place of each kind of piece in a tenant's row, given which kinds wait; smaller goes first. */
static void order_pieces(const struct turn_account *a, const bool waits[], int place[])
{
    bool steps = waits[PIECE_LIGHT] || waits[PIECE_BLOCKS];
    bool beside = waits[PIECE_TEXT] || waits[PIECE_DECODE] || waits[PIECE_FILES];
    bool beside_may = beside && !(steps && a->debt) && !(waits[PIECE_BLOCKS] && a->beside);
    bool light_may = a->light < TURN_LIGHT || !(waits[PIECE_BLOCKS] || beside_may);
    place[PIECE_SEND] = 0;
    place[PIECE_LIGHT] = light_may ? 1 : 7;
    place[PIECE_FILES] = beside_may ? 2 : 8;
    place[PIECE_DECODE] = beside_may ? 3 : 9;
    place[PIECE_TEXT] = beside_may ? 4 : 10;
    place[PIECE_BLOCKS] = 5;
    place[PIECE_SPARE] = 6;
}

enum { PIECES = PIECE_SPARE + 1 };

/* Rules 6 and 7: does a go before b? Both have the same kind of piece. */
static bool goes_on(const struct turn *turn, const struct candidate *a, const struct candidate *b)
{
    bool a_begun = a->piece == PIECE_BLOCKS && a->arrival == turn->begun;
    bool b_begun = b->piece == PIECE_BLOCKS && b->arrival == turn->begun;
    return a_begun != b_begun ? a_begun : a->arrival < b->arrival;
}

int turn_choose(const struct turn *turn, const struct candidate *candidates, int count)
{
    int group = -1, chosen = -1;
    bool waits[PIECES] = {false};
    int place[PIECES];
    for (int i = 0; i < count; i++) {
        const struct candidate *c = &candidates[i];
        if (c->piece == PIECE_NONE) continue;
        int order = group < 0 ? -1 : compare_groups(turn, c, &candidates[group]);
        if (order > 0) continue;
        if (order < 0) {
            group = i;
            memset(waits, 0, sizeof waits);
        }
        waits[c->piece] = true;
    }
    if (group < 0) return -1;
    order_pieces(&turn->account[candidates[group].account], waits, place);
    for (int i = 0; i < count; i++) {
        const struct candidate *c = &candidates[i];
        if (c->piece == PIECE_NONE || compare_groups(turn, c, &candidates[group]) != 0) continue;
        int ahead = chosen < 0 ? 1 : place[candidates[chosen].piece] - place[c->piece];
        if (ahead > 0 || (ahead == 0 && goes_on(turn, c, &candidates[chosen]))) chosen = i;
    }
    return chosen;
}

void turn_charge(struct turn *turn, const struct candidate *chosen, uint64_t work)
{
    struct turn_account *a = &turn->account[chosen->account];
    a->charged += work;
    if (chosen->piece == PIECE_BLOCKS) turn->begun = chosen->arrival;
    if (chosen->piece == PIECE_SEND) return; /* the stages work for it, not home */
    bool beside = piece_beside(chosen->piece);
    a->light = chosen->piece == PIECE_LIGHT ? a->light + 1 : 0;
    if (chosen->piece != PIECE_LIGHT) a->beside = beside;
    if (beside)
        a->debt = work;
    else
        a->debt -= work < a->debt ? work : a->debt;
}
