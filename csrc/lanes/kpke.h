/* What K-PKE (FIPS 203, section 5) does to single polynomials, for ITEMS items at once; private to csrc/lanes.
 *
 * CT: nothing here branches on, or indexes with, anything but counts.
 */
#ifndef QFL_KPKE_H
#define QFL_KPKE_H

#include "lanes/hashes.h"

#define CT_PLACES (QFL_KEM1024_CT_BYTES / 2)
#define CT_VALUES ((MLKEM_K + 1) * MLKEM_N)

/* The rows of the items; places without an item repeat the first. */
static inline void rows_of(const uint8_t *rows[ITEMS], const uint8_t *first, size_t size, size_t count)
{
    for (size_t item = 0; item < ITEMS; item++) {
        rows[item] = first + (item < count ? item : 0) * size;
    }
}

/* The same rows to be written: the idle places of a group write the first row's bytes again. */
static inline void outputs_of(uint8_t *rows[ITEMS], uint8_t *first, size_t size, size_t count)
{
    for (size_t item = 0; item < ITEMS; item++) {
        rows[item] = first + (item < count ? item : 0) * size;
    }
}

static inline size_t groups_of(size_t count)
{
    return (count + WORDS - 1) / WORDS;
}

/* The values that the ciphertexts encode: u, then v.  `places` is room for CT_PLACES. */
static void read_ciphertexts(vec values[CT_VALUES], vec *places, const uint8_t *const rows[ITEMS])
{
    read_all_places(places, rows, 0, QFL_KEM1024_CT_BYTES);
    for (size_t i = 0; i < MLKEM_K; i++) {
        decode(values + i * MLKEM_N, places + i * 176, 11);
    }
    decode(values + MLKEM_K * MLKEM_N, places + MLKEM_CT_V_AT / 2, 5);
}

/* u of Algorithm 15, step 3, in NTT form. */
static void decompress_u(vec y[MLKEM_N], const vec values[MLKEM_N])
{
    for (size_t i = 0; i < MLKEM_N; i++) { /* Decompress_11 */
        y[i] = mulhrs(up(values[i], 4), all16(MLKEM_Q));
    }
    ntt(y);
}

/* Algorithm 15, steps 4 and 7: m from v's values and s^T u, which carries 2. */
static void read_message(hashes *hash, const vec product[MLKEM_N], const vec v[MLKEM_N])
{
    for (size_t word = 0; word < 4; word++) { /* Compress_1 and ByteEncode_1, 64 coefficients a word */
        vec64 x[GROUPS];
        for (size_t t = 0; t < GROUPS; t++) {
            vec part = all16(0);
#pragma GCC unroll 16
            for (unsigned bit = 0; bit < 16; bit++) {
                const size_t i = 64 * word + 16 * t + bit;
                const vec twice = up(mulhrs(up(v[i], 10), all16(MLKEM_Q)), 1); /* Decompress_5 */
                part |= up(compress(twice - product[i], 1), bit);
            }
            x[t] = (vec64)part;
        }
        swap(x);
        for (size_t g = 0; g < GROUPS; g++) {
            hash->m[g][word] = x[g];
        }
    }
}

/* The message as places: bit b of vector w is coefficient 16 w + b (ByteDecode_1). */
static void message_places(vec out[16], const hashes *hash)
{
    for (size_t word = 0; word < 4; word++) {
        vec64 x[GROUPS] = {hash->m[0][word], hash->m[1][word], hash->m[2][word], hash->m[3][word]};
        swap(x);
        for (size_t t = 0; t < GROUPS; t++) {
            out[4 * word + t] = (vec)x[t];
        }
    }
}

/* Algorithm 14, steps 19 and 22, a coefficient of u: product carries 2^11, which is -1281 modulo q. */
static inline vec value_of_u(vec product, vec noise)
{
    return compress(product + mullo(noise, all16(-1281)), 11);
}

/* Steps 20, 21 and 23, a coefficient of v: product carries 2^5; Decompress_1 of a set bit is 1665, and
 * 2^5 * 1665 is 16 modulo q. */
static inline vec value_of_v(vec product, vec noise, vec message, unsigned bit)
{
    const vec mu = up((vec)(((uvec)message >> bit) & (uvec)all16(1)), 4);
    return compress(product + mullo(noise, all16(32)) + mu, 5);
}

#endif
