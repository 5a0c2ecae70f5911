/*
 * bands.h - spectral maps over the token lattice, as small matrices for ops->mix.
 *
 *     bands_wiener(n, sigma, power, matrix, &gain)      SeaCache's filter along one axis
 *     bands_cosine(n, matrix)                           orthonormal DCT-II; its transpose is the inverse
 *
 * Pure functions, double inside, float32 out.
 */
#ifndef REFRAIN_CACHE_BANDS_H
#define REFRAIN_CACHE_BANDS_H

/* The circulant [n, n] matrix of H(f) = a P / (a^2 P + b^2), P = 1 / (|f|^power + 1e-16), a = 1 - sigma, b =
 * sigma, f the frequency in cycles per token (SeaCache, arXiv 2602.18993). *mean: the mean of H, to divide
 * by. */
void bands_wiener(int n, double sigma, double power, float *matrix, double *mean);

/* matrix [n, n]: row u of an orthonormal DCT-II; inverse: its transpose. */
void bands_cosine(int n, float *matrix, float *inverse);

/* keep [height * width]: 1 where sqrt(u^2 + v^2) <= cutoff * sqrt((height-1)^2 + (width-1)^2), else 0: the
 * low band of FreqCa (arXiv 2510.08669). */
void bands_low(int height, int width, double cutoff, unsigned char *keep);

#endif
