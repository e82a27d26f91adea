/* Welch's t over the running times of two classes of secrets, as dudect has it: interleaved in random
 * order, and again over the fastest part alone, where noise is least.  SPDX-License-Identifier: Apache-2.0 */
#ifndef QFLARE_TIMING_H
#define QFLARE_TIMING_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>

#define TIMING_T_MAX 4.5 /* the usual bound of leakage assessment; what counts is passing it again and again */
#define TIMING_CROPS 8

typedef struct {
    double n, mean, m2;
} timing_class;

static inline void timing_push(timing_class *to, double x)
{
    to->n += 1;
    const double delta = x - to->mean;
    to->mean += delta / to->n;
    to->m2 += delta * (x - to->mean);
}

static inline double timing_t(const timing_class c[2])
{
    if (c[0].n < 2 || c[1].n < 2) {
        return 0;
    }
    const double v = c[0].m2 / (c[0].n - 1) / c[0].n + c[1].m2 / (c[1].n - 1) / c[1].n;
    return v > 0 ? fabs(c[0].mean - c[1].mean) / sqrt(v) : c[0].mean == c[1].mean ? 0 : INFINITY;
}

static int timing_ascending(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The largest t of `count` times, with and without the slow part of them.  which[i] is 0 or 1. */
static inline double timing_worst(const uint64_t *cycles, const uint8_t *which, size_t count)
{
    uint64_t *const sorted = malloc(count * sizeof *sorted);
    double worst = 0;
    if (sorted == NULL) {
        abort();
    }
    for (size_t i = 0; i < count; i++) {
        sorted[i] = cycles[i];
    }
    qsort(sorted, count, sizeof *sorted, timing_ascending);
    static const double kept[TIMING_CROPS] = {0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.99};
    for (size_t crop = 0; crop < TIMING_CROPS; crop++) {
        const uint64_t most = sorted[(size_t)(kept[crop] * (double)(count - 1))];
        timing_class c[2] = {{0, 0, 0}, {0, 0, 0}};
        for (size_t i = 0; i < count; i++) {
            if (cycles[i] <= most) {
                timing_push(&c[which[i]], (double)cycles[i]);
            }
        }
        const double t = timing_t(c);
        worst = t > worst ? t : worst;
    }
    free(sorted);
    return worst;
}

static inline uint64_t timing_now(void)
{
    unsigned aux = 0;
    _mm_lfence();
    const uint64_t now = __rdtscp(&aux);
    _mm_lfence();
    return now;
}

#endif
