/*
 * table_published.c - calibration tables that the authors of TeaCache and MagCache published for the Wan
 * family.
 *
 * Numbers only. TeaCache: arXiv 2411.19108, code ali-vilab/TeaCache (TeaCache4Wan2.1). MagCache: arXiv
 * 2506.09045, code Zehong-Ma/MagCache, conditional branch, rounded to five decimals (the unconditional one
 * differs by less than 0.01). Wan2.1 I2V has the architecture of T2V-14B: without a table of its own a job
 * gets the one for T2V, which comes first here. Wan2.2-A14B has two experts with the architecture of T2V-14B; its table
 * is of a run across both, and drops to 0.66 where they switch.
 */
#include "cache/table.h"

#include <stddef.h>

/* Polynomials, highest power first. */
static const double tea_13b_normal[] = {2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774};
static const double tea_13b_retention[] = {-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664};
static const double tea_14b_normal[] = {-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429,
                                        -13.02252404};
static const double tea_14b_retention[] = {-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525};
static const double tea_480p_normal[] = {-302.33167, 223.948934, -52.546397, 5.8734844, -0.201973289};
static const double tea_480p_retention[] = {257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977};
static const double tea_720p_normal[] = {-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683};
static const double tea_720p_retention[] = {8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401};

/* Ratios of step i to step i - 1. */
static const double mag_13b[] = {
    1,       1.0124,  1.00166, 0.99791, 0.99682, 0.99634, 0.99567, 0.99416, 0.99578, 0.9957,
    0.99511, 0.99535, 0.99552, 0.99541, 0.9954,  0.99489, 0.99518, 0.99484, 0.99481, 0.99415,
    0.99419, 0.99396, 0.99388, 0.99349, 0.99309, 0.9927,  0.99228, 0.99171, 0.99137, 0.99068,
    0.99005, 0.98944, 0.98849, 0.98758, 0.98644, 0.98504, 0.9836,  0.98202, 0.97977, 0.97717,
    0.9741,  0.97003, 0.96538, 0.9593,  0.95086, 0.94013, 0.92402, 0.90241, 0.86821, 0.81838};
static const double mag_14b[] = {
    1,       1.02504, 1.00025, 0.9985,  0.99779, 0.9966,  0.99482, 0.99467, 0.99664, 0.99434,
    0.99533, 0.99468, 0.99438, 0.99516, 0.99384, 0.99404, 0.99517, 0.99409, 0.99428, 0.99347,
    0.99418, 0.99271, 0.99313, 0.99215, 0.99218, 0.99216, 0.99163, 0.99138, 0.98982, 0.98996,
    0.9887,  0.98772, 0.98767, 0.98573, 0.98501, 0.9838,  0.98177, 0.98037, 0.97678, 0.97546,
    0.97184, 0.96711, 0.96349, 0.95629, 0.94926, 0.93964, 0.92511, 0.90693, 0.8796,  0.86111};
static const double mag_a14b[] = {1,       1.00124, 0.99822, 0.99696, 0.99703, 0.9966,  0.99602, 0.99578,
                                  0.99484, 0.99633, 0.99659, 0.99534, 0.99584, 0.99681, 0.99563, 0.9944,
                                  0.99594, 0.99466, 0.99453, 0.99389, 0.99391, 0.99354, 0.99283, 0.99268,
                                  0.99057, 0.99125, 0.65523, 0.98808, 0.98765, 0.9851,  0.98311, 0.9805,
                                  0.97776, 0.97278, 0.96731, 0.95857, 0.94385, 0.92118, 0.88108, 0.80263};
static const double mag_5b[] = {
    1,       0.99505, 0.99441, 0.99558, 0.99499, 0.99534, 0.99468, 0.99463, 0.9946,  0.99408,
    0.9945,  0.99409, 0.99403, 0.99382, 0.99349, 0.99377, 0.9933,  0.99303, 0.99217, 0.992,
    0.99201, 0.99133, 0.99112, 0.99155, 0.98958, 0.98959, 0.98838, 0.98826, 0.9883,  0.98711,
    0.98562, 0.98511, 0.98414, 0.98284, 0.98104, 0.97981, 0.97849, 0.97557, 0.97398, 0.97171,
    0.96917, 0.96511, 0.96263, 0.95839, 0.95483, 0.94942, 0.9468,  0.94583, 0.94843, 0.96949};
static const double mag_480p[] = {1,       0.98783, 0.97559, 0.98311, 0.98202, 0.9888,  0.98762, 0.98957,
                                  0.99052, 0.99383, 0.98857, 0.99065, 0.98845, 0.99057, 0.98957, 0.98601,
                                  0.98823, 0.98756, 0.98808, 0.98721, 0.98571, 0.98543, 0.98157, 0.98411,
                                  0.97952, 0.98149, 0.9774,  0.97825, 0.97355, 0.97085, 0.97056, 0.96588,
                                  0.96113, 0.9567,  0.94961, 0.93973, 0.93217, 0.91878, 0.90955, 0.92617};
static const double mag_720p[] = {1,       0.99428, 0.98588, 0.98273, 0.99018, 0.98911, 0.98646, 0.99454,
                                  0.9891,  0.99124, 0.99102, 0.99215, 0.99515, 0.99576, 0.99068, 0.99097,
                                  0.99166, 0.99041, 0.99201, 0.99101, 0.98599, 0.98845, 0.98848, 0.98862,
                                  0.98718, 0.98497, 0.98264, 0.98389, 0.97938, 0.97535, 0.97498, 0.973,
                                  0.96827, 0.96261, 0.95335, 0.94649, 0.93397, 0.91636, 0.89088, 0.8679};

/* clang-format off */
#define WAN_1_3B {30, 12, 128, 8960, 16, 1}
#define WAN_14B  {40, 40, 128, 13824, 16, 1}
#define WAN_A14B {40, 40, 128, 13824, 16, 2}
#define WAN_5B   {30, 24, 128, 14336, 48, 1}
#define TEACACHE(where, architecture, numbers) \
    {"teacache", where "-normal", architecture, 0, 0, 5, 5, numbers##_normal}, \
    {"teacache-retention", where "-retention", architecture, 0, 0, 5, 5, numbers##_retention}
#define MAGCACHE(where, architecture, numbers) \
    {"magcache", where, architecture, (int)(sizeof(numbers) / sizeof *(numbers)), 0, 1, \
     (int)(sizeof(numbers) / sizeof *(numbers)), numbers}

const struct cache_table tables_published[] = {
    TEACACHE("wan2.1-t2v-1.3b", WAN_1_3B, tea_13b),
    TEACACHE("wan2.1-t2v-14b", WAN_14B, tea_14b),
    TEACACHE("wan2.1-i2v-480p", WAN_14B, tea_480p),
    TEACACHE("wan2.1-i2v-720p", WAN_14B, tea_720p),
    MAGCACHE("wan2.1-t2v-1.3b", WAN_1_3B, mag_13b),
    MAGCACHE("wan2.1-t2v-14b", WAN_14B, mag_14b),
    MAGCACHE("wan2.2-t2v-a14b", WAN_A14B, mag_a14b),
    MAGCACHE("wan2.2-ti2v-5b", WAN_5B, mag_5b),
    MAGCACHE("wan2.1-i2v-480p", WAN_14B, mag_480p),
    MAGCACHE("wan2.1-i2v-720p", WAN_14B, mag_720p),
    {0},
};
/* clang-format on */
