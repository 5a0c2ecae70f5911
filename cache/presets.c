/*
 * presets.c - settings with a name: ours, chosen from measurements (docs/caching.md), and the combinations
 * that authors published, as near as one reuse site comes to them.
 */
#include "cache/settings.h"

const struct cache_preset cache_presets[] = {
    {"off", "off", "no caching: every step is computed"},
    {"safe", "seacache:threshold=0.1,first=4,forecast=taylor1", "hardly to be told from uncached"},
    {"balanced", "seacache:threshold=0.2,first=4,forecast=taylor1",
     "two to three times as fast at 50 steps, less at fewer"},
    {"fast", "seacache:threshold=0.3,first=4,forecast=taylor1", "as fast as the video still holds"},

    {"fora", "interval:N=3,backwards=1,forecast=reuse",
     "FORA, arXiv 2407.01425: every third step, plain reuse"},
    {"taylorseer", "interval:N=5,first=1,forecast=taylor1", "TaylorSeer, 2503.06923: its setting for Wan2.1"},
    {"hicache", "interval:N=5,first=1,forecast=hermite", "HiCache, 2508.16984"},
    {"foca", "interval:N=5,first=1,forecast=foca", "FoCa, 2508.16211"},
    {"freqca", "interval:N=6,first=3,forecast=freqca", "FreqCa, 2510.08669: its quality setting"},
    {"freqca-fast", "interval:N=9,first=3,forecast=freqca", "FreqCa: its fast setting"},
    {"spectrum", "interval:N=2,first=5,grow=0.75,forecast=spectrum", "Spectrum, 2603.01623: 14 of 50 steps"},
    {"spectrum-fast", "interval:N=2,first=5,grow=3,forecast=spectrum", "Spectrum: 10 of 50 steps"},

    {"scm-slow", "mask:mask=scm-slow,forecast=taylor1",
     "cache-dit's step mask, 18 of 28 steps, with TaylorSeer"},
    {"scm-medium", "mask:mask=scm-medium,forecast=taylor1", "the same, 15 of 28"},
    {"scm-fast", "mask:mask=scm-fast,forecast=taylor1", "the same, 11 of 28"},
    {"scm-ultra", "mask:mask=scm-ultra,forecast=taylor1", "the same, 8 of 28"},

    {"lemica-25", "mask:mask=lemica-wan2.1-1.3b-25",
     "LeMiCa, 2511.00090: 25 of 50 steps, found on Wan2.1 1.3B"},
    {"lemica-20", "mask:mask=lemica-wan2.1-1.3b-20", "the same, 20 of 50"},
    {"lemica-17", "mask:mask=lemica-wan2.1-1.3b-17", "the same, 17 of 50"},
    {"lemica-14", "mask:mask=lemica-wan2.1-1.3b-14", "the same, 14 of 50"},

    {"meancache-25", "meancache:budget=25", "MeanCache, 2601.19961: 25 of 50 steps, found on Qwen-Image"},
    {"meancache-17", "meancache:budget=17", "the same, 17 of 50"},
    {"meancache-10", "meancache:budget=10", "the same, 10 of 50"},

    {"cache-dit", "dbcache:F8B0_W8_R0.08", "cache-dit's own defaults; needs more than 8 blocks"},
    {0},
};
