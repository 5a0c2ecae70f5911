/*
 * home_core.h - what the files of a home share: home.c holds jobs and picks the next one that can advance,
 * home_checkpoint.c is what they leave behind and go on from, home_report.c what the coordinator is told of them. Nobody else
 * includes this.
 */
#ifndef REFRAIN_WORKER_HOME_CORE_H
#define REFRAIN_WORKER_HOME_CORE_H

#include "rules/turn.h"
#include "worker/home.h"
#include "worker/upload.h"

enum { HOME_SLOTS = PRESENCE_MAX_JOBS, DIRECTORY_BYTES = 4096 };
_Static_assert((int)HOME_SLOTS <= (int)TURN_ACCOUNTS, "each job may be another tenant's");

/* How a job ended, as reported; the report is repeated until the coordinator has noted it. */
enum ending { ENDING_NONE, ENDING_DONE, ENDING_FAILED, ENDING_CANCELLED };

struct slot {
    struct job *job;       /* NULL: free */
    struct upload *upload; /* once the files are made */
    enum ending ending;
    struct error failure; /* of ENDING_FAILED */
    bool over;            /* noted or dropped: only waits for the fabric to give buffers back */
    bool dropped;         /* nobody wants to hear of it any more */
    uint64_t revision;    /* of the last progress reported */
    int previewed;        /* the step of the last preview reported */
    uint64_t arrival;     /* earlier is smaller */
    int account;          /* of its tenant, in home's turn */
    int every;            /* steps between checkpoints; 0: none are made */
    int saved;            /* the step of the last checkpoint made or left out, or gone on from */
    int sent;             /* the step of the last one that the courier has, or gone on from */
    bool rested;          /* said so */
    int mark;      /* checkpoints of steps that it divides are made beside the courier's pace; 0: none */
    bool fetching; /* a checkpoint to go on from is on its way */
    bool taking;   /* ... that another job made, and this one can do without */
    struct checkpoint_name resume, origin; /* origin.bytes 0: it has none */
    int64_t began_ns, load_ns;
    int64_t marks_until_ns; /* all else is done; 0: not yet */
    int64_t home_ns;        /* work for it but the blocks of the ring; of that: */
    int64_t text_ns, decode_ns, files_ns;
    char directory[DIRECTORY_BYTES];
};

struct home {
    struct engine *engine;
    struct control *control;
    struct courier *courier; /* NULL: no checkpoints */
    const char *directory;
    struct turn turn;
    uint64_t arrivals;
    int64_t rest_until_ns; /* until then no job begins a step; 0: they may */
    struct slot slots[HOME_SLOTS];
};

/* ---------------------------------------------------------------------------------------------- reporting */

void home_report_failed(struct home *home, uint64_t job, uint32_t attempt, const struct error *why);
void home_report_progress(struct home *home, struct slot *slot, Refrain__Phase phase);
/* How it ended, if it has: done, failed, cancelled. */
void home_report_ending(struct home *home, struct slot *slot);
void home_report_rested(struct home *home, const struct slot *slot);
void home_report_chunk(struct home *home, const struct slot *slot, const struct upload_chunk *chunk);

/* -------------------------------------------------------------------------------------------- checkpoints */

/* What is left of an earlier attempt; or where another job was; or nothing, and the job begins from the start. */
void home_checkpoint_begin(struct home *home, struct slot *slot, const Refrain__Assign *assign);
/* Hands what the job needs to go on from here to the courier, which carries it while the job does. now: whatever the
 * step and the courier's pace. */
void home_checkpoint_save(struct home *home, struct slot *slot, bool now);
/* Asks for the checkpoint of an equal run that the job could go on from, if there is one. */
void home_checkpoint_want(struct home *home, struct slot *slot);
/* Such a one is there; bytes NULL: it is not waited for any more. */
void home_checkpoint_bring(struct slot *slot, const void *bytes, size_t size);
/* What the courier brought. True: there was something. */
bool home_checkpoint_arrivals(struct home *home);

#endif
