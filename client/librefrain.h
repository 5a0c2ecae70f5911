/*
 * librefrain.h - videos from a refrain coordinator, for C programs.
 *
 *     #include "client/librefrain.h"
 *
 *     int main(void)
 *     {
 *         struct refrain *refrain = NULL;
 *         struct refrain_job *job = NULL;
 *         struct error error;
 *         struct refrain_spec spec = REFRAIN_SPEC_INIT;
 *         spec.model = "reference";
 *         spec.prompt = "a large red star spinning on a navy background";
 *         spec.seed = 7;
 *
 *         status_t status = refrain_output_check("star.mp4", &error);
 *         if (!status) status = refrain_connect(NULL, NULL, 2000, &refrain, &error);
 *         if (!status) status = refrain_submit(refrain, &spec, NULL, 10000, &job, &error);
 *         if (!status) status = refrain_wait(refrain, &job, REFRAIN_FOREVER, &error);
 *         if (!status) status = refrain_fetch(refrain, job, REFRAIN_VIDEO, "star.mp4", 0, 60000, &error);
 *         if (status) fprintf(stderr, "%s\n", error.text);
 *         refrain_free(job);
 *         refrain_close(refrain);
 *         return status != STATUS_OK;
 *     }
 *
 * Link with libzmq, libprotobuf-c, libxxhash and libm.
 *
 * Threads: a connection and everything opened on it (watches) belongs to one thread at a time; different
 * connections are independent. What refrain_free() frees is plain data without a connection behind it: any
 * thread, any time.
 *
 * Time: every call that talks to the coordinator takes `timeout_ms`, the longest it may take in milliseconds,
 * or REFRAIN_FOREVER. If the coordinator goes away in the meantime, the library reconnects and asks again;
 * every call may be repeated without harm (a submission without a key is given a random one). When the time
 * is over the call returns STATUS_PEER_LOST if there is no connection, STATUS_DEADLINE if there is one but no
 * answer.
 *
 * Failure: a status of base/status.h; if `error` is not NULL a sentence for a person is in it, and where the
 * coordinator blamed a field of the request, refrain_error_field() names it. Outputs are written only on
 * success.
 */
#ifndef REFRAIN_CLIENT_LIBREFRAIN_H
#define REFRAIN_CLIENT_LIBREFRAIN_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REFRAIN_DEFAULT_ENDPOINT "tcp://127.0.0.1:5731"
#define REFRAIN_FOREVER          (-1)

/* Files of a completed job; those below the first two exist only if they were asked for. */
#define REFRAIN_VIDEO            "video.mp4"
#define REFRAIN_SHEET            "sheet.png" /* the frames on one page */
#define REFRAIN_LATENTS          "latents.safetensors"
#define REFRAIN_FRAMES           "frames.safetensors"
#define REFRAIN_COMPARISON       "comparison.mp4" /* cached and uncached side by side: spec.compare */
#define REFRAIN_COMPARISON_SHEET "comparison.png"
#define REFRAIN_TRACE            "trace.json" /* what a policy `calibrate` measured */

struct refrain;       /* a connection to a coordinator */
struct refrain_watch; /* a subscription to one job's events */

/* -------------------------------------------------------------------------- what is asked for */

/* The numbers of these enums are those of proto/refrain.proto. */
enum refrain_solver { REFRAIN_SOLVER_DEFAULT, REFRAIN_SOLVER_UNIPC, REFRAIN_SOLVER_EULER };
enum refrain_priority { REFRAIN_PRIORITY_LOW, REFRAIN_PRIORITY_NORMAL, REFRAIN_PRIORITY_HIGH };

/* Numbers measured on a model for one method of caching (docs/caching.md). */
struct refrain_cache_table {
    const char *kind; /* "teacache", "magcache", "sencache", "l2p" */
    const char *name; /* of the model or the publication they are from */
    unsigned layers, heads, head_dim, ffn_dim, latent_channels; /* the architecture they are for; 0: any */
    unsigned experts;                                           /* of it; 0: 1 */
    unsigned steps;                                             /* made at so many; 0: any */
    double shift;                                               /* likewise */
    unsigned width;                                             /* values per row */
    const double *values;                                       /* [count] */
    size_t count;
};

/* A video to make. Start from REFRAIN_SPEC_INIT: each field then has the value that means "the default of the
 * model or of the reference pipeline". In a spec that comes from the coordinator every field says what is
 * really used. */
struct refrain_spec {
    const char *model;           /* a name the coordinator knows; NULL is refused */
    const char *prompt;          /* UTF-8, at most 16384 bytes; NULL: refused, unless resume_from is given */
    const char *negative_prompt; /* likewise; NULL: empty */
    uint64_t seed;
    unsigned steps;  /* 0: 50 */
    double guidance; /* REFRAIN_GUIDANCE_DEFAULT: 5.0; guidance is in effect only above 1 */
    double
        guidance_scale_2; /* of the steps that the second of two experts makes; REFRAIN_GUIDANCE_DEFAULT: guidance */
    unsigned width;  /* pixels, a multiple of 16; 0: the model's */
    unsigned height; /* likewise */
    unsigned frames; /* 4n + 1; 0: the model's */
    enum refrain_solver solver;
    double shift;      /* flow shift; 0: that of the model's scheduler */
    unsigned fps;      /* of the video file; 0: 16 */
    bool save_latents; /* also keep REFRAIN_LATENTS */
    bool save_frames;  /* also keep REFRAIN_FRAMES */
    enum refrain_priority priority;
    uint64_t deadline_ms; /* from submission; a job not finished by then expires. 0: none */
    bool deadline_strict; /* refuse it where it is not expected to be done by then */
    const char *label;    /* free text, shown in lists; NULL: none */
    const char *cache;    /* what may be reused between steps: "balanced", "dbcache:F1B0"; NULL: "off" */
    const struct refrain_cache_table
        *cache_tables; /* for policies that need what the model has no table of */
    size_t cache_table_count;
    bool compare;         /* also make the video without caching, and measure the difference */
    int checkpoint_every; /* steps between checkpoints, from which the job goes on when ranks are lost; 0:
                             none; REFRAIN_CHECKPOINT_DEFAULT: 1 */
    uint64_t
        resume_from; /* one's own job from whose checkpoint after at_step steps this one goes on: what is not said
                             is as there; model, seed, steps, size, solver and shift cannot be others. 0: none */
    unsigned at_step;       /* 0: all steps are taken over, only the files are made */
    unsigned preview_every; /* steps between previews; 0: none */
    bool recompute;         /* make every step, also those that a job equal in everything has made before */
};

#define REFRAIN_GUIDANCE_DEFAULT   (-1.0)
#define REFRAIN_CHECKPOINT_DEFAULT (-1)
#define REFRAIN_SPEC_INIT                                                                                    \
    {                                                                                                        \
        .guidance = REFRAIN_GUIDANCE_DEFAULT, .guidance_scale_2 = REFRAIN_GUIDANCE_DEFAULT,                  \
        .priority = REFRAIN_PRIORITY_NORMAL, .checkpoint_every = REFRAIN_CHECKPOINT_DEFAULT                  \
    }

/* ---------------------------------------------------------------------------- what comes back */

enum refrain_state {
    REFRAIN_ACCEPTED,
    REFRAIN_QUEUED,
    REFRAIN_RUNNING,
    REFRAIN_CANCELLING,
    REFRAIN_COMPLETED, /* from here on final */
    REFRAIN_FAILED,
    REFRAIN_CANCELLED,
    REFRAIN_EXPIRED,
    REFRAIN_REJECTED,
};

enum refrain_phase {
    REFRAIN_PHASE_NONE,
    REFRAIN_PHASE_LOAD,
    REFRAIN_PHASE_TEXT,
    REFRAIN_PHASE_DENOISE,
    REFRAIN_PHASE_DECODE,
    REFRAIN_PHASE_ENCODE,
    REFRAIN_PHASE_UPLOAD,
};

/* What became of a step, or of one branch of it. The numbers are those of proto/refrain.proto. */
enum refrain_action {
    REFRAIN_COMPUTED,
    REFRAIN_REUSED,
    REFRAIN_FORECAST, /* extrapolated from several computed steps */
    REFRAIN_PARTLY,   /* some blocks, or one of the branches, were computed */
};

struct refrain_progress {
    enum refrain_phase phase;
    unsigned step;                /* done: solver steps, or latent frames while decoding */
    unsigned steps;               /* of how many; 0: unknown */
    double seconds_left;          /* estimate for the whole job; negative: unknown */
    double step_seconds;          /* recent mean; 0: unknown */
    const unsigned char *actions; /* [action_count] enum refrain_action, one for each step so far */
    size_t action_count;          /* 0: nothing is cached, or no step was taken yet */
    double largest_reused;        /* largest change that was let through so far; negative: none */
    const unsigned char
        *preview; /* [preview_bytes] PNG: the first frame as the video looks after preview_step steps; */
    size_t preview_bytes; /* in the one event that brings it; 0: none */
    unsigned preview_step;
    unsigned steps_reused; /* that a run equal in everything had made; then */
    double reused_seconds; /* what all that was not made again had taken */
};

struct refrain_file {
    const char *name;
    uint64_t bytes;
    uint64_t xxh64; /* XXH64, seed 0, of the whole file */
};

/* Where a job's time went, in seconds; 0 where unknown. */
struct refrain_times {
    double queued, load, text, denoise, decode, encode, total;
    unsigned texts_reused, first_steps_reused; /* branches whose text, first step others had made before */
    unsigned steps_reused;                     /* of all passes: that a run equal in everything had made */
    double reused_seconds;                     /* what all that had taken them */
    unsigned steps_taken_over;                 /* of the job it went on from */
};

/* The cached video against the uncached one of the same job. */
struct refrain_comparison {
    double psnr;       /* dB over all pixels of all frames, 8-bit range; infinite if they are equal */
    double psnr_worst; /* of the worst frame */
    double ssim;       /* mean over frames */
    double perceptual; /* distance of the features that the model's own video encoder sees; 0: none */
    double cached_seconds, uncached_seconds; /* of denoising */
};

/* What a job's caching did. */
struct refrain_cache_report {
    const char *policy;                  /* complete text: every parameter */
    unsigned steps, branches;            /* of the arrays; a job with guidance has two branches */
    unsigned computed, reused, forecast; /* steps of each branch, added up */
    const unsigned char *actions;        /* [steps][branches] enum refrain_action; NULL: not told */
    const unsigned char *reasons;        /* [steps][branches], see refrain_reason_name; NULL: not told */
    const float *changes;                /* [steps][branches] what was compared with the threshold; negative:
                                            nothing was measured; NULL: not told */
    double computed_seconds, reused_seconds; /* mean time of a wholly computed, of a wholly reused step; 0:
                                                there was none */
    double seconds_saved;                    /* estimate: denoising without caching minus with it */
    double run_seconds;                      /* of denoising with it, whoever made the steps; 0: not told */
    uint64_t bytes;                          /* of features kept, over all ranks */
    unsigned
        switch_at; /* the first step of the second of two experts, where caching began anew; 0: there was none */
    const uint32_t *block_computed, *block_reused; /* [blocks], policies that decide by block */
    size_t blocks;                                 /* 0: others */
    const struct refrain_comparison *comparison;   /* NULL unless the job was to compare */
};

struct refrain_job {
    uint64_t number;
    struct refrain_spec spec;
    enum refrain_state state;
    uint64_t sequence; /* of its latest change of state */
    unsigned attempt;  /* 0 before it first ran */
    struct refrain_progress progress;
    const char *message; /* why it failed, expired or went back to the queue; NULL: nothing to say */
    const struct refrain_file *files;
    size_t file_count;
    uint64_t submitted_ms, started_ms, finished_ms; /* wall clock since 1970; 0: not yet */
    uint64_t finish_ms;  /* when it is expected to be done, by the coordinator's wall clock; 0: unknown */
    const char *warning; /* of a submission: what speaks against its deadline; NULL: nothing */
    const char *waits;   /* while queued, in answers to a submission, a status or a list: what for; NULL: it is not said */
    unsigned ahead;      /* jobs before it, while queued */
    struct refrain_times times;
    const char *plan;                         /* how it ran, for people; NULL: not known yet */
    const struct refrain_cache_report *cache; /* once completed, if caching was on; else NULL */
};

struct refrain_job_list {
    const struct refrain_job *jobs; /* newest first */
    size_t count;
    bool more; /* ask again with before_job = number of the last one */
};

struct refrain_event {
    uint64_t sequence;
    bool progress_only; /* a live note, not part of the job's history */
    bool last;          /* nothing more will come */
    struct refrain_job job;
};

struct refrain_model {
    const char *name, *pipeline;
    unsigned layers, heads, head_dim, ffn_dim;
    unsigned size_multiple, frame_multiple; /* width and height: multiples; frames: frame_multiple * n + 1 */
    unsigned text_length;                   /* tokens kept of a prompt */
    enum refrain_solver solver;
    double shift;
    uint64_t parameter_count, weight_bytes;
    unsigned default_width, default_height, default_frames;
    unsigned latent_channels;
    unsigned experts; /* denoisers: 1, or 2 that share the steps */
    double boundary;  /* with 2: the second one makes the steps whose timestep is below this part of all */
    const struct refrain_cache_table *tables; /* calibrations in its directory */
    size_t table_count;
};

struct refrain_model_list {
    const struct refrain_model *models;
    size_t count;
};

struct refrain_rank {
    unsigned rank, pid, threads, first_block, blocks;
    const char *host, *backend;
    uint64_t weight_bytes;
    double seconds_since_heard;
    const char *state;             /* "here", "missing" (a replacement is awaited; the rest is 0 or "") */
    uint64_t epoch;                /* the one it is in; 0: none */
    uint64_t compute_progress;     /* grows while it computes */
    double seconds_since_progress; /* since it last grew; negative: it has computed nothing yet */
    double gflops;                 /* measured when it started; 0: unknown */
    unsigned replaced;             /* how often its place was taken by a new process */
};

/* A job in flight. */
struct refrain_running {
    uint64_t job;
    unsigned attempt, home; /* home: the rank where its loop lives */
    enum refrain_phase phase;
    unsigned step, steps;
    double step_seconds; /* 0: unknown */
};

/* A link between two ranks of a group. */
struct refrain_link {
    unsigned rank, peer;              /* the smaller number first */
    double bytes_per_second, latency; /* latency: seconds of an empty message, one way */
};

/* Ranks that share the layers of a model. */
struct refrain_group {
    const char *name;
    const char
        *state; /* "gathering", "complete", "joining", "loading", "ready", "running", "broken", "lost" */
    const char *fabric;
    const char *model;   /* "" before one is loaded */
    const char *plan;    /* how it is laid over the ranks, for people; "" before */
    const char *message; /* what happened last; NULL: nothing to say */
    uint64_t epoch;
    const struct refrain_rank *ranks;
    size_t rank_count;
    const struct refrain_running *jobs; /* your own */
    size_t job_count;
    unsigned jobs_in_flight, jobs_limit; /* everybody's */
    bool repairable;                     /* a launcher can start replacements */
    const struct refrain_link *links;    /* those that were measured, the slowest first */
    size_t link_count;
};

struct refrain_stats {
    const char *version;
    double uptime_seconds;
    uint64_t queued, running, completed, failed, cancelled, expired;
    uint64_t epoch;
    const char *group_state;          /* "none", "starting", "ready", "running", "lost" */
    const struct refrain_rank *ranks; /* those that are here, of all groups */
    size_t rank_count;
    const struct refrain_group *groups;
    size_t group_count;
    double mean_step_seconds; /* 0: nothing ran yet */
    uint64_t store_bytes, result_bytes, checkpoint_bytes;
    uint64_t checkpoints_saved, ranks_replaced, steps_repeated; /* since the coordinator began */
    uint64_t tier_items, tier_hits, tier_misses; /* of the cache tier: one's own, and public ones */
    double tier_seconds_saved;
};

/* Frees anything a call below wrote through a `**` parameter except connections and watches, with all the
 * strings and arrays in it. NULL is fine. */
void refrain_free(const void *record);

bool refrain_state_is_final(enum refrain_state state);
const char *refrain_state_name(enum refrain_state state);          /* "running"; never NULL */
const char *refrain_phase_name(enum refrain_phase phase);          /* "denoise"; "" for none */
const char *refrain_solver_name(enum refrain_solver solver);       /* "unipc" */
const char *refrain_priority_name(enum refrain_priority priority); /* "normal" */
const char *refrain_action_name(enum refrain_action action);       /* "reused" */
const char *refrain_reason_name(unsigned reason);                  /* "below": why it was; docs/caching.md */

/* --------------------------------------------------------------------------------- connection */

/* CURVE keys in Z85 text, 40 characters and a zero. `secret_key` may be "" where only the public half is
 * needed. */
struct refrain_keys {
    char public_key[41], secret_key[41]; /* who we are: the coordinator takes the public key as the tenant */
    char server_key[41];                 /* public key of the coordinator */
};

/* Reads `key_file` (proto/keyfile.h says what is in it; both halves of a pair are needed). The coordinator's
 * key comes from the public-key line of `server_key_file` or, if that is NULL, from the server-key line of
 * `key_file`. INVALID, NOT_FOUND, DENIED (others may read the secret) or IO, with a sentence that names the
 * file. */
status_t refrain_keys_load(const char *key_file, const char *server_key_file, struct refrain_keys *keys,
                           struct error *error);

/* Makes a new pair: `path` (both halves) and `path`.pub (the public half, to give away). CONFLICT
 * if either file exists. */
status_t refrain_keys_make(const char *path, char public_key[41], struct error *error);

/* Connects and waits until the coordinator has answered once. `endpoint` is tcp://HOST:PORT or ipc://PATH;
 * NULL: $REFRAIN_COORDINATOR, else REFRAIN_DEFAULT_ENDPOINT. `keys` NULL: in the clear. INVALID: not an
 * endpoint; PEER_LOST: nobody answers; DENIED: the keys do not fit; UNSUPPORTED: it speaks another version.
 */
status_t refrain_connect(const char *endpoint, const struct refrain_keys *keys, int timeout_ms,
                         struct refrain **refrain, struct error *error);

/* Ends it; its watches must have been closed. NULL is fine. */
void refrain_close(struct refrain *refrain);

/* From now on every wait ends with STATUS_ABORTED once `fd` is readable (a signalfd, an eventfd, an epoll fd:
 * the library does not read from it). -1: no more. The descriptor stays the caller's. */
void refrain_stop_on(struct refrain *refrain, int fd);

/* Whether the coordinator was there when last looked. */
bool refrain_connected(const struct refrain *refrain);
const char *refrain_endpoint(const struct refrain *refrain);

/* The field of the request that the latest failed call was refused for, as proto/refrain.proto names it; "":
 * none. */
const char *refrain_error_field(const struct refrain *refrain);

/* --------------------------------------------------------------------------------------- jobs */

/* What can be said about a request without asking anybody: INVALID with a sentence that starts with the
 * field, and `field` (NULL is allowed) naming it. A missing model is fine here. */
status_t refrain_spec_check(const struct refrain_spec *spec, const char **field, struct error *error);

/* Checks what can be checked here (INVALID), then asks for a video. When this returns OK the job is on the
 * coordinator's disk. Two submissions with the same `idempotency_key` are one job (CONFLICT if they differ);
 * NULL: a random key. NOT_FOUND: no such model. */
status_t refrain_submit(struct refrain *refrain, const struct refrain_spec *spec, const char *idempotency_key,
                        int timeout_ms, struct refrain_job **job, struct error *error);

/* A job as it is now. NOT_FOUND: no such job (or another tenant's). */
status_t refrain_status(struct refrain *refrain, uint64_t number, int timeout_ms, struct refrain_job **job,
                        struct error *error);

/* Waits until *job is in a final state and replaces it by the job as it is then (the old one is freed). OK
 * also if it failed: look at (*job)->state. On failure *job is untouched and still the caller's. */
status_t refrain_wait(struct refrain *refrain, struct refrain_job **job, int timeout_ms, struct error *error);

/* Asks for the end of a job; a running one stops at its next step. `job` (NULL is allowed): the job as it is
 * then, cancelled or cancelling. CONFLICT: it completed, failed or expired already. */
status_t refrain_cancel(struct refrain *refrain, uint64_t number, int timeout_ms, struct refrain_job **job,
                        struct error *error);

/* Forgets a finished job and its files. CONFLICT: not finished yet. */
status_t refrain_delete(struct refrain *refrain, uint64_t number, int timeout_ms, struct error *error);

/* At most `limit` jobs (0: as many as the coordinator likes) numbered below `before_job` (0: from the
 * newest). */
status_t refrain_list(struct refrain *refrain, unsigned limit, uint64_t before_job, bool active_only,
                      int timeout_ms, struct refrain_job_list **list, struct error *error);

/* ----------------------------------------------------------------------------------- watching */

/* Asks for a job's changes of state with a sequence above `from_sequence` (0: all of its history), then live
 * ones and progress notes. Survives reconnecting and restarts of the coordinator: no change of state is lost
 * or told twice. */
status_t refrain_watch_open(struct refrain *refrain, uint64_t number, uint64_t from_sequence,
                            struct refrain_watch **watch, struct error *error);

/* The next event. DEADLINE: none came in `timeout_ms`, also while the coordinator is away: ask again.
 * NOT_FOUND: no such job. After an event with `last` there is none to wait for. */
status_t refrain_watch_next(struct refrain_watch *watch, int timeout_ms, struct refrain_event **event,
                            struct error *error);
void refrain_watch_close(struct refrain_watch *watch);

/* -------------------------------------------------------------------------------------- files */

/* Whether `path` could be written: its directory exists and takes files, and nothing that is not a plain file
 * is in the way. To be asked before a long job, not after. INVALID or IO with a sentence beginning with the
 * path. */
status_t refrain_output_check(const char *path, struct error *error);

enum refrain_fetch_flags {
    REFRAIN_FETCH_NEW = 1, /* CONFLICT if `path` exists, instead of replacing it */
    REFRAIN_FETCH_KEEP_PARTIAL =
        2, /* keep what has come when the wait ends early; the next fetch goes on from there */
};

/* Writes a completed job's file to `path`: into a hidden file beside it, checked against the file's hash,
 * synced and only then renamed, so that `path` is never a half. NOT_FOUND: the job has no such file; CORRUPT:
 * wrong hash twice. */
status_t refrain_fetch(struct refrain *refrain, const struct refrain_job *job, const char *file,
                       const char *path, unsigned flags, int timeout_ms, struct error *error);

/* ------------------------------------------------------------------------------------ service */

status_t refrain_stats(struct refrain *refrain, int timeout_ms, struct refrain_stats **stats,
                       struct error *error);
/* The cache tier of the ranks (docs/tier.md). */
enum { REFRAIN_CACHE_LEVELS = 3 }; /* device, host, disk */
enum refrain_cache_verb {
    REFRAIN_CACHE_SHOW = 0,
    REFRAIN_CACHE_LIST = 1,
    REFRAIN_CACHE_FLUSH = 2, /* all items, or those of one kind, are forgotten */
    REFRAIN_CACHE_FORGET = 3,
    REFRAIN_CACHE_PIN = 4,
    REFRAIN_CACHE_UNPIN = 5,
};
struct refrain_cache_query {
    enum refrain_cache_verb verb;
    const char *key;  /* of FORGET, PIN, UNPIN */
    const char *kind; /* NULL: all */
    bool all;         /* everybody's: with an admin key */
    unsigned limit;   /* of LIST; 0: 100 */
};
struct refrain_cache_figure {
    const char *group, *kind;
    const char *scope; /* "own", "public", "all" */
    unsigned rank;
    uint64_t items, bytes[REFRAIN_CACHE_LEVELS]; /* now */
    uint64_t published, refused, fetched, lent;  /* fetched: hits on other ranks; lent: theirs here */
    uint64_t copied;                             /* taken in as second copies of other ranks' items */
    uint64_t hits[REFRAIN_CACHE_LEVELS], evictions[REFRAIN_CACHE_LEVELS];
    const uint64_t *misses; /* [miss_count], by reason: refrain_cache_miss */
    size_t miss_count;
    double seconds_saved;
};
struct refrain_cache_rank {
    const char *group;
    unsigned rank;
    uint64_t limit_bytes[REFRAIN_CACHE_LEVELS]; /* all 0: its tier is off, or it has not told yet */
    bool has_used;                              /* with `all` */
    uint64_t used_bytes[REFRAIN_CACHE_LEVELS], pinned_bytes;
};
struct refrain_cache_item {
    const char *key, *scope, *group;
    uint64_t bytes;
    double seconds; /* that a hit saves */
    const unsigned *ranks;
    size_t rank_count;
};
struct refrain_cache {
    const struct refrain_cache_figure *figures;
    size_t figure_count;
    const struct refrain_cache_rank *ranks;
    size_t rank_count;
    const struct refrain_cache_item *items;
    size_t item_count;
    bool more;     /* items than were listed */
    unsigned told; /* ranks that were told to forget or pin */
};
status_t refrain_cache(struct refrain *refrain, const struct refrain_cache_query *query, int timeout_ms,
                       struct refrain_cache **cache, struct error *error);
/* "absent", "late", ...: the reason of misses[i]. */
const char *refrain_cache_miss(size_t i);

status_t refrain_models(struct refrain *refrain, int timeout_ms, struct refrain_model_list **models,
                        struct error *error);

/* Makes the checkpoint in `directory` (absolute, on the coordinator's host) known as `name`; the list then
 * holds this one model. The same pair again is fine; CONFLICT: the name means another directory. Opening a
 * large checkpoint takes a while: allow half a minute. */
status_t refrain_model_add(struct refrain *refrain, const char *name, const char *directory, int timeout_ms,
                           struct refrain_model_list **models, struct error *error);
status_t refrain_model_remove(struct refrain *refrain, const char *name, int timeout_ms, struct error *error);

/* Ranks that are to serve no more; their group goes on without them. who: "GROUP/RANK", "RANK" where there is one group,
 * or a host's name. With `back` they are to serve again. done [bytes]: a sentence on what was done. */
status_t refrain_drain(struct refrain *refrain, const char *who, bool back, int timeout_ms, char *done,
                       size_t bytes, struct error *error);

#endif
