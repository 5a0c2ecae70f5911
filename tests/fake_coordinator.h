/*
 * fake_coordinator.h - a coordinator without jobs, for tests of clients: it speaks the real protocol over a
 * real socket and does what the test tells it, mishaps included.
 *
 *     struct fake_script script = {.steps = 4, .restart_at_request = 3};
 *     struct fake *fake = fake_start(endpoint, &script);
 *     ... a client talks to `endpoint` ...
 *     struct fake_seen seen = fake_stop(fake);
 *
 * It runs in a thread of its own; script and files are not touched by the test while it runs. Any job number
 * except 404 exists. A job is queued, then runs through its phases, and completes; its files are those of the
 * script.
 */
#ifndef REFRAIN_TESTS_FAKE_COORDINATOR_H
#define REFRAIN_TESTS_FAKE_COORDINATOR_H

#include "client/librefrain.h"

enum { FAKE_FILES = 8, FAKE_NO_SUCH_JOB = 404, FAKE_GROUPS = 4, FAKE_RANKS = 8 };

struct fake_script {
    unsigned steps;              /* of the one job */
    enum refrain_state end;      /* how it ends; 0: it stays running */
    const char *message;         /* of the job, at its end */
    unsigned version;            /* of its replies; 0: the right one */
    unsigned restart_at_request; /* the n-th request (from 1) is lost, with the connection and all watches; 0:
                                    never */
    unsigned gone_at_request;    /* the n-th request finds it gone for good; 0: never */
    size_t chunk_limit;          /* bytes it gives at most in a chunk; 0: as many as asked for */
    unsigned wrong_bytes;        /* so many first chunks have a wrong bit */
    bool silent;                 /* hears everything, answers nothing but Stats */
    const char *refuse_field;    /* answers Submit with INVALID about this field */
    status_t refuse_model;       /* answers ModelAdd with this, the first time */
    const char *cache;           /* text of the job's caching; NULL: none */
    struct fake_caching {        /* what came of it: told live and in the end; branches 0: nothing */
        unsigned branches;
        const unsigned char *actions, *reasons; /* [steps * branches] */
        const float *changes;                   /* likewise */
        double seconds_saved;
        const struct refrain_comparison *comparison; /* NULL: none */
    } caching;
    const struct refrain_stats *stats; /* its groups and counts are told; NULL: nothing but a version */
    const char *server_secret;         /* Z85: wants CURVE; any client key will do */
    struct fake_file {
        const char *name;
        const unsigned char *bytes;
        size_t size;
    } files[FAKE_FILES]; /* NULL name: no more */
};

/* What it saw; strings are cut to fit. */
struct fake_seen {
    unsigned requests, submits, watches, fetches, cancels, deletes, model_adds;
    uint64_t watch_from; /* from_sequence of the latest Watch */
    uint64_t first_fetch_offset;
    char key[129], prompt[256], model[65], directory[512];
    uint64_t resume_from;
    uint32_t at_step, priority;
    bool has_model, has_guidance, has_steps;
    double guidance;
    unsigned width;
    char cache[256], table_kind[32];
    bool compare;
    unsigned tables;
    double table_sum; /* of the values of the first one */
};

struct fake;

/* Fails the test if the endpoint cannot be bound. */
struct fake *fake_start(const char *endpoint, const struct fake_script *script);
struct fake_seen fake_stop(struct fake *fake);

#endif
