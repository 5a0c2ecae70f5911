/*
 * coordinator_rig.h - a real coordinator process, clients and scripted workers for it, over real sockets.
 *
 *     struct rig rig;
 *     rig_start(&rig, (const char *[]){"--silence", "600ms", NULL});   on free ports, with a data directory
 *                                                                      of its own
 *     void *client = rig_client(&rig);
 *     Refrain__Reply *reply = rig_call(client, &request);
 *     struct fake_worker worker;
 *     fake_worker_open(&worker, &rig, "group", 0, 2);                  rank 0 of 2, speaks the real protocol
 *     rig_stop(&rig);                                                  ends it, checks its exit, removes
 *                                                                      everything
 *
 * Everything here fails the running test by cmocka's assertions; nothing returns an error.
 */
#ifndef REFRAIN_TESTS_COORDINATOR_RIG_H
#define REFRAIN_TESTS_COORDINATOR_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/status.h"
#include "proto/wire.h"

/* Fields of a small model's card, as `refrain-worker --inspect` prints them between braces. */
#define RIG_CARD                                                                                             \
    "\"pipeline\":\"WanPipeline\",\"layers\":8,\"heads\":3,\"head_dim\":40,\"ffn_dim\":256,"                 \
    "\"size_multiple\":16,\"frame_multiple\":4,\"text_length\":512,\"solver\":\"unipc\",\"shift\":3.0,"      \
    "\"parameter_count\":1000,\"weight_bytes\":4000,\"default_width\":64,\"default_height\":64,"             \
    "\"default_frames\":17,\"max_position\":1024,\"vae_scale\":8,\"patch\":2,\"latent_channels\":16"

struct rig {
    void *context;
    pid_t coordinator;
    char directory[64]; /* holds data/, the endpoint file and the stand-in for refrain-worker */
    char endpoint[128], worker_endpoint[128];
    char metrics[128];          /* the URL of --metrics; "": there is none */
    const char *const *options; /* borrowed: used again by rig_restart */
    const char *worker_script;  /* shell text of refrain-worker */
    bool small_disk;            /* data/ is a file system of 40 MiB (needs privileges) */
    bool quiet;                 /* its complaints are expected: not shown */
};

void rig_prepare(struct rig *rig); /* directory and script, nothing started */
bool rig_launch(struct rig *rig);  /* false: it ended by itself before it was ready */
void rig_start(struct rig *rig, const char *const *options); /* rig_prepare and rig_launch */
void rig_kill(struct rig *rig);                              /* SIGKILL */
void rig_restart(struct rig *rig);                           /* the same ports and data */
void rig_stop(struct rig *rig);

void *rig_client(struct rig *rig);
void rig_send(void *client, Refrain__Request *request);  /* fills in version and a fresh id */
Refrain__Reply *rig_reply(void *client, int timeout_ms); /* the caller frees it; NULL when none came */
Refrain__Reply *rig_call(void *client, Refrain__Request *request);
void rig_add_model(struct rig *rig, const char *name); /* 8 blocks, 64x64x17 */
uint64_t rig_submit(void *client, const char *prompt); /* 3 steps, the only model */
/* Asks until the job is in that state; fails the test after 10 s. */
void rig_await(void *client, uint64_t job, Refrain__JobState state);
Refrain__Reply *rig_status(void *client, uint64_t job);
/* A submit with a key, or NULL: none; deadline_ms 0: none. The reply is the caller's. */
Refrain__Reply *rig_submit_spec(void *client, const Refrain__JobSpec *spec, const char *key);
Refrain__Reply *rig_submit_keyed(void *client, const char *prompt, const char *key, uint64_t deadline_ms);
/* Cancel, delete, or the status. The reply is the caller's. */
Refrain__Reply *rig_about_job(void *client, Refrain__Request__BodyCase kind, uint64_t job);
void rig_watch(void *client, uint64_t job, uint64_t from_sequence);
/* Both free the reply: a job's number; an error, which says `part`. */
uint64_t rig_job_of(Refrain__Reply *reply);
void rig_expect_error(Refrain__Reply *reply, status_t status, const char *part);

struct fake_worker {
    void *socket;
    const char *group;
    uint32_t rank, ranks, pid;
    uint64_t epoch, last_epoch, running_job; /* what its Hello says */
    uint32_t running_attempt, epoch_members;
    const char *model;
    const char *gpu;                     /* NULL: none */
    const char *fabric, *host, *address; /* NULL: zmq, somewhere, tcp */
    bool alone;
    uint64_t memory, tier_device;
};
void fake_worker_open(struct fake_worker *worker, struct rig *rig, const char *group, uint32_t rank,
                      uint32_t ranks);
/* The same before its first Hello, which may then say something else. */
void fake_worker_connect(struct fake_worker *worker, struct rig *rig, const char *group, uint32_t rank,
                         uint32_t ranks);
/* Says Launcher of a group and waits for its Welcome; fake_worker_order and _close work on it, too. */
void fake_launcher_open(struct fake_worker *launcher, struct rig *rig, const char *group, uint32_t ranks);
void fake_worker_close(struct fake_worker *worker);
void fake_worker_hello(struct fake_worker *worker);
void fake_worker_report(struct fake_worker *worker, Refrain__WorkerReport *report);
void fake_worker_goodbye(struct fake_worker *worker, const char *message);
/* The next order of that kind, skipping others; NULL when none came. The caller frees it. */
Refrain__WorkerOrder *fake_worker_order(struct fake_worker *worker, Refrain__WorkerOrder__BodyCase kind,
                                        int timeout_ms);
/* All ranks of a group, ready to work. */
void fake_workers_open(struct fake_worker *workers, uint32_t count, struct rig *rig, const char *group);
void fake_workers_close(struct fake_worker *workers, uint32_t count);
/* Joins the epoch and loads what it is told, up to Loaded, on every rank. */
void fake_workers_join(struct fake_worker *workers, uint32_t count);
void fake_workers_load(struct fake_worker *workers, uint32_t count);
/* Takes the next Assign. */
void fake_worker_take(struct fake_worker *worker, uint64_t *job, uint32_t *attempt);
void fake_worker_progress(struct fake_worker *worker, uint64_t job, uint32_t attempt, uint32_t step);
/* Uploads `bytes` bytes made from `seed` and waits for the acknowledgement; *xxh64 is their hash. */
void fake_worker_upload(struct fake_worker *worker, uint64_t job, uint32_t attempt, const char *file,
                        uint64_t bytes, uint64_t seed, uint64_t *xxh64);
void fake_worker_done(struct fake_worker *worker, uint64_t job, uint32_t attempt, const char *file,
                      uint64_t bytes, uint64_t xxh64);
void fake_bytes(uint64_t seed, uint64_t offset, uint8_t *out,
                size_t bytes); /* the bytes fake_worker_upload sends */

#endif
