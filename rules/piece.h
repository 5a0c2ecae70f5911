/*
 * piece.h - the kinds of work that home does for its jobs, one piece at a time: what the rules of turn.h and share.h choose
 * among.
 */
#ifndef REFRAIN_RULES_PIECE_H
#define REFRAIN_RULES_PIECE_H

#include <stdbool.h>

enum job_piece {
    PIECE_NONE, /* it waits */
    PIECE_SEND, /* gives a hop, an OPEN or a CLOSE to the fabric; gives memory back; or ends the job: next to no work */
    PIECE_LIGHT, /* home's own work of a step: embedding, head and tail blocks, probe, forecast, output, solver */
    PIECE_BLOCKS, /* one of home's share of the ring's blocks */
    PIECE_TEXT,   /* a layer of the text encoder */
    PIECE_DECODE, /* a latent frame of the VAE, of a band (worker/model/vae.h) */
    PIECE_FILES,  /* encodes some frames, or writes */
    PIECE_SPARE, /* a block of the next member's that home holds too: instead of waiting until the hop can go */
};

/* Nobody waits for it but the one job: it is beside the steps, which all ranks share. */
static inline bool piece_beside(enum job_piece piece)
{
    return piece == PIECE_TEXT || piece == PIECE_DECODE || piece == PIECE_FILES;
}

/* Hops with the stages, for each stage: one at work, and two that wait, so that a stage has work
 * while home decodes a frame. What is beyond that stays at home, where it can still be overtaken by what is
 * urgent and by older jobs. These then finish one after another, and one decodes while the others keep the
 * stages busy; with a long queue at the stages all jobs reach the decoder at once. Six jobs in flight on three
 * ranks with a fixed home compute .84 of the time with 3, .78 with 4 (`build/simulate flight`).
 * Floating homes, as many as there are stages, have their share each, and one more, as with them the blocks of
 * their own rank are hops too: four jobs of unequal length on two ranks .91 with 2 in all, .976 with 3, .977
 * with 4 or 6; hops as long as a stage's work, six cached jobs on four: .90 of the ideal with 3, .93 with 4. */
enum { HOPS_PER_STAGE = 3 };

/* With wide stages a home's hops on all chains together: for each stage one at work and one that is on its way to the next, and two
 * more, which home has or which wait for it. A home serves its own stage before it begins another branch, so where hops are short it has
 * no more than P + 2 out, and this does not bind. Eight stages of two ranks whose hops take as long as a stage's work: 0.55 of what the
 * stages could do with P + 2, 0.81 with 1.5 P + 2, 0.84 with these, and no more with three a stage. WIDE_HOPS_MOST: worker/engine.h,
 * Credits. */
enum { WIDE_HOPS_MOST = 48 };
static inline int wide_hops(int stages)
{
    return 2 * (stages + 1) < WIDE_HOPS_MOST ? 2 * (stages + 1) : WIDE_HOPS_MOST;
}

/* So many hops on their way to the next member, or waiting there, are enough to begin a spare block before one
 * more is sent. In simulation two to four are equally good; with one, hops as long as a stage's work leave the
 * stages idle. */
enum { SPARE_QUEUE = 3 };

/* What a stage has made and the fabric has not sent yet lies in one of these; while it has none it begins no hop. */
enum { STAGE_BUFFERS = 4 };

/* Frames of a film encoded a piece. */
enum { FILM_FRAMES = 4 };

/* Decoding a latent frame, measuring it or encoding some frames is charged as so many times its rows through all blocks. That is
 * what decoding costs on the reference model (22 ms against 2.7 ms); the decoder of a large model is lighter beside its blocks.
 * Too much is the safe side: steps keep the stages busy, frames can wait. */
enum { FRAME_PASSES = 8 };

/* Whatever home does in a step beside blocks is charged as one part in so many of a block, about what it costs, so that hits are not
 * free. */
enum { SMALL_PARTS = 16 };

#endif
