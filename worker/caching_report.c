/* caching_report.c - see caching_report.h. */
#include "worker/caching_report.h"

#include <math.h>

static void fill_comparison(const struct job_cache *cache, Refrain__Comparison *c)
{
    refrain__comparison__init(c);
    c->has_psnr = isfinite(cache->quality.psnr); /* absent: not a pixel differs */
    c->has_psnr_worst = isfinite(cache->quality.psnr_worst);
    c->has_ssim = isfinite(cache->quality.ssim);
    c->has_perceptual = isfinite(cache->quality.perceptual);
    c->has_cached_seconds = c->has_uncached_seconds = 1;
    c->psnr = cache->quality.psnr;
    c->psnr_worst = cache->quality.psnr_worst;
    c->ssim = cache->quality.ssim;
    c->perceptual = cache->quality.perceptual;
    c->cached_seconds = cache->cached_seconds;
    c->uncached_seconds = cache->uncached_seconds;
}

Refrain__CacheReport *caching_report(const struct job *job, struct caching_report *storage)
{
    struct job_cache cache;
    Refrain__CacheReport *m = &storage->report;
    if (!job_cache(job, &cache)) return NULL;
    const struct reuse_report *r = &cache.report;
    size_t cells = (size_t)r->steps * (size_t)r->branches;
    refrain__cache_report__init(m);
    m->policy = (char *)(uintptr_t)cache.policy;
    m->has_branches = m->has_computed = m->has_reused = m->has_forecast = m->has_actions = m->has_reasons = 1;
    m->branches = (uint32_t)r->branches;
    m->computed = (uint32_t)r->computed;
    m->reused = (uint32_t)r->reused;
    m->forecast = (uint32_t)r->forecast;
    m->actions = (ProtobufCBinaryData){cells, (uint8_t *)(uintptr_t)r->actions};
    m->reasons = (ProtobufCBinaryData){cells, (uint8_t *)(uintptr_t)r->reasons};
    m->n_changes = cells;
    m->changes = (float *)(uintptr_t)r->changes;
    m->has_computed_seconds = cache.computed_seconds > 0;
    m->computed_seconds = cache.computed_seconds;
    m->has_reused_seconds = cache.reused_seconds > 0;
    m->reused_seconds = cache.reused_seconds;
    m->has_seconds_saved = m->has_bytes = 1;
    m->has_run_seconds = cache.cached_seconds > 0;
    m->run_seconds = cache.cached_seconds;
    m->seconds_saved = cache.seconds_saved;
    m->bytes = cache.bytes;
    m->has_switch_at = r->switch_at > 0 && r->switch_at < r->steps;
    m->switch_at = (uint32_t)r->switch_at;
    if (r->block_computed) {
        m->n_block_computed = m->n_block_reused = (size_t)r->layers;
        m->block_computed = (uint32_t *)(uintptr_t)r->block_computed;
        m->block_reused = (uint32_t *)(uintptr_t)r->block_reused;
    }
    if (cache.compared) {
        fill_comparison(&cache, &storage->comparison);
        m->comparison = &storage->comparison;
    }
    return m;
}

void caching_progress(const struct job *job, uint8_t *strip, Refrain__Progress *progress)
{
    struct job_cache cache;
    const struct job_status *status = job_status(job);
    if (status->phase < JOB_PHASE_DENOISE || !job_cache(job, &cache)) return;
    const struct reuse_report *r = &cache.report;
    /* Only the last pass is cached; its steps are the last ones. */
    int steps = status->phase == JOB_PHASE_DENOISE ? status->done - (status->of - r->steps) : r->steps;
    if (steps <= 0) return;
    for (int i = 0; i < steps; i++) {
        const unsigned char *of = r->actions + i * r->branches;
        strip[i] = of[0];
        for (int b = 1; b < r->branches; b++)
            if (of[b] != of[0]) strip[i] = REUSE_PARTLY;
    }
    progress->has_cache_actions = 1;
    progress->cache_actions = (ProtobufCBinaryData){(size_t)steps, strip};
    progress->has_largest_reused = r->largest_reused >= 0;
    progress->largest_reused = (double)r->largest_reused;
}
