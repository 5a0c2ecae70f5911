/*
 * hermite.h - the basis HiCache and FreqCa share: basis[k] = s^k H_k(s d), for differences_expand.
 */
#ifndef REFRAIN_CACHE_HERMITE_H
#define REFRAIN_CACHE_HERMITE_H

#include "cache/differences.h"

/* d: steps since the last computed one; contraction: s. H_0 = 1, H_1 = 2x, H_{k+1} = 2 x H_k - 2 k H_{k-1}.
 */
void hermite_basis(double d, double contraction, double basis[DIFFERENCES_ORDER + 1]);

#endif
