/* comparison.c - see comparison.h. */
#include "client/comparison.h"

#include "client/jobjson.h"

#include <math.h>
#include <stdio.h>

/* Equal videos have no finite ratio of signal to noise. */
static const char *decibels(double psnr, char out[SHOW_BYTES])
{
    if (isfinite(psnr))
        snprintf(out, SHOW_BYTES, "%.1f dB", psnr);
    else
        snprintf(out, SHOW_BYTES, "%s", isinf(psnr) && psnr > 0 ? "equal" : "unknown");
    return out;
}

static double ratio_of(const struct refrain_comparison *comparison)
{
    return comparison->cached_seconds > 0 ? comparison->uncached_seconds / comparison->cached_seconds : 0;
}

const char *comparison_words(const struct show_style *style, const struct refrain_comparison *comparison,
                             char out[SHOW_TEXT_BYTES])
{
    char psnr[SHOW_BYTES], worst[SHOW_BYTES], uncached[SHOW_BYTES], cached[SHOW_BYTES];
    snprintf(out, SHOW_TEXT_BYTES,
             "PSNR %s (worst frame %s), SSIM %.3f, perceptual distance %.3g; denoising %s without, %s with",
             decibels(comparison->psnr, psnr), decibels(comparison->psnr_worst, worst), comparison->ssim,
             comparison->perceptual, show_duration(style, comparison->uncached_seconds, uncached),
             show_duration(style, comparison->cached_seconds, cached));
    return out;
}

void comparison_print(const struct cli *cli, const struct refrain_comparison *comparison)
{
    const struct show_style *style = &cli->style;
    char mean[SHOW_BYTES], worst[SHOW_BYTES];
    double ratio = ratio_of(comparison);
    if (cli->settings.json) {
        json_t *object = jobjson_comparison(comparison);
        json_object_set_new(object, "event", json_string("comparison"));
        jobjson_print(object);
    }
    if (cli->settings.json || cli->settings.quiet) return;
    printf("compared %-20s %10s %10s\n", "", "cached", "uncached");
    printf("%9s%-20s %8.2f s %8.2f s", "", "denoising", comparison->cached_seconds,
           comparison->uncached_seconds);
    if (ratio > 0) printf("   %.2f%s", ratio, style->unicode ? "×" : "x");
    printf("\n%9s%-20s %10s   worst frame %s\n", "", "PSNR", decibels(comparison->psnr, mean),
           decibels(comparison->psnr_worst, worst));
    printf("%9s%-20s %10.4f   1: equal\n", "", "SSIM", comparison->ssim);
    printf("%9s%-20s %10.4g   0: equal\n", "", "perceptual distance", comparison->perceptual);
    fflush(stdout);
}
