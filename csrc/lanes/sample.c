/* Rejection sampling without vectors. */
#include "lanes/sample.h"

size_t mlkem_sample(int16_t row[SAMPLE_ROW], size_t have, const uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at < size && have < MLKEM_N; at += 3) {
        const int d1 = (bytes[at] | bytes[at + 1] << 8) & 0xfff;
        const int d2 = bytes[at + 1] >> 4 | bytes[at + 2] << 4;
        row[have] = (int16_t)d1; /* written always, counted if it is good: a branch here is often mispredicted */
        have += d1 < MLKEM_Q;
        row[have] = (int16_t)d2;
        have += d2 < MLKEM_Q && have < MLKEM_N;
    }
    return have;
}
