/* home_report.c - what a home tells the coordinator of its jobs. Compute thread. */
#include "worker/home_core.h"

#include "base/clock.h"
#include "base/log.h"
#include "proto/validate.h"
#include "worker/caching_report.h"

void home_report_failed(struct home *home, uint64_t job, uint32_t attempt, const struct error *why)
{
    Refrain__JobFailed failed = REFRAIN__JOB_FAILED__INIT;
    failed.has_job = failed.has_attempt = failed.has_status = 1;
    failed.job = job;
    failed.attempt = attempt;
    failed.status = (uint32_t)why->status;
    failed.message = (char *)(uintptr_t)why->text;
    log_line(LOG_WARN, "job %lu: %s", (unsigned long)job, why->text);
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_FAILED, &failed);
}

static void report_cancelled(struct home *home, const struct slot *slot)
{
    Refrain__JobCancelled cancelled = REFRAIN__JOB_CANCELLED__INIT;
    cancelled.has_job = cancelled.has_attempt = 1;
    cancelled.job = job_number(slot->job);
    cancelled.attempt = job_attempt(slot->job);
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_CANCELLED, &cancelled);
}

/* Once. */
static void add_preview(struct slot *slot, Refrain__Progress *progress)
{
    const uint8_t *png;
    size_t bytes;
    int step = job_preview(slot->job, &png, &bytes);
    if (step == slot->previewed || bytes > LIMIT_PREVIEW_BYTES) return;
    slot->previewed = step;
    progress->has_preview = progress->has_preview_step = 1;
    progress->preview = (ProtobufCBinaryData){bytes, (uint8_t *)(uintptr_t)png};
    progress->preview_step = (uint32_t)step;
}

void home_report_progress(struct home *home, struct slot *slot, Refrain__Phase phase)
{
    const struct job_status *now = job_status(slot->job);
    Refrain__JobProgress message = REFRAIN__JOB_PROGRESS__INIT;
    Refrain__Progress progress = REFRAIN__PROGRESS__INIT;
    message.has_job = message.has_attempt = progress.has_phase = progress.has_step = progress.has_steps = 1;
    message.job = job_number(slot->job);
    message.attempt = job_attempt(slot->job);
    message.progress = &progress;
    progress.phase = phase;
    progress.step = (uint32_t)now->done;
    progress.steps = (uint32_t)now->of;
    progress.has_step_seconds = now->step_seconds > 0;
    progress.step_seconds = now->step_seconds;
    progress.has_seconds_left = now->seconds_left >= 0;
    progress.seconds_left = now->seconds_left;
    progress.has_steps_reused = progress.has_reused_seconds = now->steps_reused > 0;
    progress.steps_reused = (uint32_t)now->steps_reused;
    progress.reused_seconds = now->reused_seconds;
    uint8_t strip[CACHE_STEPS];
    caching_progress(slot->job, strip, &progress);
    add_preview(slot, &progress);
    slot->revision = now->revision;
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_PROGRESS, &message);
}

static void report_done(struct home *home, struct slot *slot)
{
    struct upload_file files[UPLOAD_MAX_FILES];
    Refrain__ResultFile results[UPLOAD_MAX_FILES], *pointers[UPLOAD_MAX_FILES];
    const struct job_status *status = job_status(slot->job);
    Refrain__JobDone done = REFRAIN__JOB_DONE__INIT;
    Refrain__JobTimes times = REFRAIN__JOB_TIMES__INIT;
    done.has_job = done.has_attempt = 1;
    done.job = job_number(slot->job);
    done.attempt = job_attempt(slot->job);
    done.n_files = (size_t)upload_files(slot->upload, files);
    done.files = pointers;
    for (size_t i = 0; i < done.n_files; i++) {
        refrain__result_file__init(&results[i]);
        results[i].name = (char *)(uintptr_t)files[i].name;
        results[i].has_bytes = results[i].has_xxh64 = 1;
        results[i].bytes = files[i].bytes;
        results[i].xxh64 = files[i].xxh64;
        pointers[i] = &results[i];
    }
    times.has_text = times.has_denoise = times.has_decode = times.has_encode = times.has_total = 1;
    times.text = status->text_seconds;
    times.denoise = status->denoise_seconds;
    times.decode = status->decode_seconds;
    times.encode = status->encode_seconds;
    times.has_home = 1;
    times.home = (double)slot->home_ns / (double)SECOND_NS;
    times.has_home_text = times.has_home_decode = times.has_home_files = 1;
    times.home_text = (double)slot->text_ns / (double)SECOND_NS;
    times.home_decode = (double)slot->decode_ns / (double)SECOND_NS;
    times.home_files = (double)slot->files_ns / (double)SECOND_NS;
    times.has_texts_reused = times.has_first_steps_reused = times.has_reused_seconds =
        times.has_steps_taken_over = times.has_steps_reused = 1;
    times.texts_reused = (uint32_t)status->texts_reused;
    times.first_steps_reused = (uint32_t)status->first_steps_reused;
    times.reused_seconds = status->reused_seconds;
    times.steps_taken_over = (uint32_t)status->steps_taken_over;
    times.steps_reused = (uint32_t)status->steps_reused;
    times.total = (double)(clock_now_ns() - slot->began_ns) / (double)SECOND_NS;
    done.times = &times;
    struct caching_report caching;
    done.cache = caching_report(slot->job, &caching);
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_DONE, &done);
}

void home_report_ending(struct home *home, struct slot *slot)
{
    switch (slot->ending) {
    case ENDING_NONE:
        break;
    case ENDING_DONE:
        report_done(home, slot);
        break;
    case ENDING_FAILED:
        home_report_failed(home, job_number(slot->job), job_attempt(slot->job), &slot->failure);
        break;
    case ENDING_CANCELLED:
        report_cancelled(home, slot);
        break;
    }
}

void home_report_rested(struct home *home, const struct slot *slot)
{
    Refrain__Rested rested = REFRAIN__RESTED__INIT;
    rested.has_job = rested.has_attempt = rested.has_step = 1;
    rested.job = job_number(slot->job);
    rested.attempt = job_attempt(slot->job);
    rested.step = (uint32_t)slot->sent;
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_RESTED, &rested);
}

void home_report_chunk(struct home *home, const struct slot *slot, const struct upload_chunk *chunk)
{
    Refrain__UploadChunk message = REFRAIN__UPLOAD_CHUNK__INIT;
    message.has_job = message.has_attempt = message.has_offset = message.has_total = message.has_data = 1;
    message.job = job_number(slot->job);
    message.attempt = job_attempt(slot->job);
    message.file = (char *)(uintptr_t)chunk->file;
    message.offset = chunk->offset;
    message.total = chunk->total;
    message.data = (ProtobufCBinaryData){chunk->bytes, (uint8_t *)(uintptr_t)chunk->data};
    message.has_xxh64 = chunk->offset + chunk->bytes == chunk->total;
    message.xxh64 = chunk->xxh64;
    control_report(home->control, REFRAIN__WORKER_REPORT__BODY_UPLOAD, &message);
}
