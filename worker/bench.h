/*
 * bench.h - `refrain-worker --bench DIR`: one process that computes on command, for `refrain measure` and to be timed against a rival.
 *
 * Reads lines on standard input, answers each with one JSON object on standard output:
 *
 *     text        {"seconds": 0.0021}    both prompts through the text encoder and the denoiser's text layers
 *     forward     {"seconds": 0.0123}    one denoiser evaluation, conditional
 *     blocks      {"seconds": 0.0119}    its blocks alone
 *     decode      {"seconds": 0.2500}    latents to frames
 *     run 10      {"seconds": 0.9000}    ten guided steps and the decode
 *     quit
 */
#ifndef REFRAIN_WORKER_BENCH_H
#define REFRAIN_WORKER_BENCH_H

#include "base/status.h"

struct bench_config {
    const char *directory; /* of the pipeline */
    const char *backend;   /* as ops_find */
    int width, height, frames, threads;
    size_t decode_memory; /* as engine.decode_memory */
};

status_t bench_run(const struct bench_config *config, struct error *error);

#endif
