/*
 * lane.h - what a team has on the GPU: a stream on which its ops run in order, a workspace, and pinned memory through
 * which the host's own memory comes and goes.
 *
 *     lane_open(true, &lane, &error);
 *     lane_copy(lane, device_memory, my_array, bytes);       returns before it is done; my_array has been read
 *     lane_wait(lane, &error);                               now everything is done, or the sentence why not
 *
 * One thread at a time. No op waits for the device, but a copy from or to the host's own memory that finds all staging
 * buffers in use does. Waiting is looking at an event, with pauses, until a deadline: a device that hangs is an error.
 */
#ifndef REFRAIN_KERNELS_CUDA_LANE_H
#define REFRAIN_KERNELS_CUDA_LANE_H

#include "kernels/cuda/device.h"
#include "kernels/cuda/sizes.h"

struct linear_plans;
struct cudnn;

/* A staging buffer; in use until its event has happened. */
struct lane_stage {
    char *memory; /* pinned, [LANE_STAGE_BYTES] */
    void *event;  /* cudaEvent_t */
    bool used;
    /* what is to be written to the host's memory then; NULL: nothing */
    char *to;
    size_t to_stride, row_bytes;
    int64_t rows;
};

struct lane {
    void *stream, *done; /* cudaStream_t, cudaEvent_t */
    const char *last_op; /* for the sentence when something fails later than it was called */
    int64_t wait_ns;     /* a wait longer than this is a failure */
    struct lane_stage stages[LANE_STAGES];
    int next_stage;
    char *workspace, *pieces; /* [LANE_CUBLAS_BYTES], [piece_bytes] */
    size_t piece_bytes;
    struct linear_plans *plans; /* of dense layers, by shape */
    struct cudnn *cudnn;        /* attention's; NULL: our own kernel */
    bool recording;
};

/* with_workspace: for ops; without, it only moves data. */
status_t lane_open(bool with_workspace, struct lane **lane, struct error *error);
void lane_close(struct lane *lane); /* NULL is fine */

/* Before an op's calls into CUDA. False: something has failed, do nothing. */
bool lane_begin(struct lane *lane, const char *op);

status_t lane_wait(struct lane *lane, struct error *error);

/* As of struct ops. */
void lane_copy(struct lane *lane, void *to, const void *from, size_t bytes);
void lane_copy_rows(struct lane *lane, void *to, size_t to_stride, const void *from, size_t from_stride,
                    size_t row_bytes, int64_t rows);
void lane_zero(struct lane *lane, void *memory, size_t bytes);

/* Whether it is the device's own memory, rather than the host's that the device can reach. */
bool lane_on_device(const void *memory);

/* A staging buffer to be filled by the caller and sent off; NULL after a failure. */
struct lane_stage *lane_stage_take(struct lane *lane);
void lane_stage_send(struct lane *lane, struct lane_stage *stage, void *to, size_t bytes);

/* --- recorded stretches ------------------------------------------------------------------------------------------ */

/* As of struct ops. */
status_t lane_record(struct lane *lane, struct error *error);
status_t lane_recorded(struct lane *lane, struct stretch **stretch, struct error *error);
void lane_replay(struct lane *lane, const struct stretch *stretch);
void lane_forget(struct stretch *stretch); /* NULL is fine */

#endif
