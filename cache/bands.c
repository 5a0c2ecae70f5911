/* bands.c - see bands.h. */
#include "cache/bands.h"

#include <math.h>

/* Frequency of bin k of n, in cycles per token, as numpy's fftfreq has it. */
static double bin_frequency(int k, int n)
{
    return (double)(k < (n + 1) / 2 ? k : k - n) / n;
}

void bands_wiener(int n, double sigma, double power, float *matrix, double *mean)
{
    double a = 1 - sigma, b = sigma, total = 0;
    for (int pass = 0; pass < 2;
         pass++) /* the sum first: pure noise (a = 0) passes nothing and is left alone */
        for (int distance = 0; distance < (pass ? n : 1); distance++) {
            double value = 0;
            for (int k = 0; k < n; k++) {
                double p = 1 / (pow(fabs(bin_frequency(k, n)), power) + 1e-16);
                value += a * p / (a * a * p + b * b) * cos(2 * M_PI * (double)(k * distance % n) / n);
            }
            if (!pass) {
                total = value;
                continue;
            }
            double entry = total > 0 ? value / n : distance == 0;
            for (int i = 0; i < n; i++) matrix[i * n + (i + distance) % n] = (float)entry;
        }
    *mean = total > 0 ? total / n : 1;
}

void bands_cosine(int n, float *matrix, float *inverse)
{
    for (int u = 0; u < n; u++)
        for (int i = 0; i < n; i++) {
            double scale = sqrt((u ? 2.0 : 1.0) / n);
            matrix[u * n + i] = inverse[i * n + u] = (float)(scale * cos(M_PI * u * (2 * i + 1) / (2.0 * n)));
        }
}

void bands_low(int height, int width, double cutoff, unsigned char *keep)
{
    double radius = cutoff * hypot(height - 1, width - 1);
    for (int u = 0; u < height; u++)
        for (int v = 0; v < width; v++) keep[u * width + v] = hypot(u, v) <= radius;
}
