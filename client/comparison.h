/*
 * comparison.h - how much caching changed a video and what it saved, for a person.
 *
 *     if (job->cache && job->cache->comparison) comparison_print(cli, job->cache->comparison);
 */
#ifndef REFRAIN_CLIENT_COMPARISON_H
#define REFRAIN_CLIENT_COMPARISON_H

#include "client/cli.h"

/* On one line: "PSNR 31.2 dB (worst frame 28.0), SSIM 0.953, perceptual distance 0.012; 3.2 s without, 1.4 s
 * with". */
const char *comparison_words(const struct show_style *style, const struct refrain_comparison *comparison,
                             char out[SHOW_TEXT_BYTES]);

/* A small table on standard output; with --json an object, with --quiet nothing. */
void comparison_print(const struct cli *cli, const struct refrain_comparison *comparison);

#endif
