/* Expanding an ML-KEM-1024 decapsulation key once, for many ciphertexts.
 *
 * CT: the only branches on data are in the rejection sampling of the matrix, which is public.
 */
#include "lanes/mlkem.h"
#include "lanes/zetas.h"

#include <string.h>

/* a / 2^16 modulo q, in (-q, q) for |a| < q * 2^15. */
static int16_t montgomery(int32_t a)
{
    const int16_t m = (int16_t)(uint16_t)((uint32_t)a * (uint32_t)MLKEM_QINV);
    return (int16_t)((a - (int32_t)m * MLKEM_Q) >> 16);
}

/* The residue of a in [-1664, 1664]. */
static int16_t centre(int16_t a)
{
    const int16_t t = (int16_t)((a * 20159 + (1 << 25)) >> 26);
    return (int16_t)(a - t * MLKEM_Q);
}

static int32_t word_of(int16_t low, int16_t high)
{
    return (int32_t)((uint32_t)(uint16_t)low | (uint32_t)(uint16_t)high << 16);
}

/* The factor of Algorithm 11 (MultiplyNTTs) and 12 (BaseCaseMultiply) for b, times `scale`. */
static void make_factor(mlkem_factor *out, const int16_t b[MLKEM_N], int16_t scale)
{
    for (size_t i = 0; i < MLKEM_N / 2; i++) {
        const int16_t b0 = centre(montgomery(b[2 * i] * scale));
        const int16_t b1 = centre(montgomery(b[2 * i + 1] * scale));
        /* zeta^(2 BitRev7(i) + 1) is zetas[64 + i / 2], with the sign of (-1)^i. */
        const int16_t zeta = (int16_t)(zetas[64 + i / 2].zeta & 0xffff);
        const int16_t gamma = i % 2 == 0 ? zeta : (int16_t)-zeta;
        const int16_t b1_gamma = centre(montgomery(b1 * gamma));
        out->pair[i][0] = word_of(b0, b1_gamma);
        out->pair[i][1] = word_of(b1, b0);
    }
}

/* Algorithm 6, ByteDecode_12. */
static void decode_12(int16_t out[MLKEM_N], const uint8_t *bytes)
{
    for (size_t i = 0; i < MLKEM_N / 2; i++, bytes += 3) {
        out[2 * i] = (int16_t)((bytes[0] | bytes[1] << 8) & 0xfff);
        out[2 * i + 1] = (int16_t)(bytes[1] >> 4 | bytes[2] << 4);
    }
}

/* Algorithm 7, SampleNTT, on one block of its stream; returns how many coefficients there are now. */
static size_t sample_block(int16_t out[MLKEM_N], size_t have, const uint8_t block[MLKEM_RATE_128])
{
    for (size_t at = 0; at + 3 <= MLKEM_RATE_128 && have < MLKEM_N; at += 3) {
        const int d1 = (block[at] | block[at + 1] << 8) & 0xfff;
        const int d2 = block[at + 1] >> 4 | block[at + 2] << 4;
        if (d1 < MLKEM_Q) {
            out[have++] = (int16_t)d1;
        }
        if (d2 < MLKEM_Q && have < MLKEM_N) {
            out[have++] = (int16_t)d2;
        }
    }
    return have;
}

/* A^T from rho: entry (i, j) is SampleNTT(rho || i || j), since A[j, i] is SampleNTT(rho || i || j)
 * with the column first (Algorithm 13, step 5). */
static void expand_matrix(mlkem_factor a[][MLKEM_K], const uint8_t rho[32])
{
    const size_t count = MLKEM_K * MLKEM_K;
    keccak_sponge sponge;
    uint8_t seeds[KECCAK_WIDTH_MAX][34];
    uint8_t blocks[KECCAK_WIDTH_MAX][MLKEM_RATE_128];
    int16_t poly[KECCAK_WIDTH_MAX][MLKEM_N];
    for (size_t first = 0; first < count;) {
        const keccak_group group = keccak_group_at(first, count);
        const uint8_t *inputs[KECCAK_WIDTH_MAX];
        uint8_t *outputs[KECCAK_WIDTH_MAX];
        size_t have[KECCAK_WIDTH_MAX] = {0};
        for (size_t state = 0; state < group.engine->width; state++) {
            const size_t entry = keccak_group_row(&group, state);
            memcpy(seeds[state], rho, 32);
            seeds[state][32] = (uint8_t)(entry / MLKEM_K);
            seeds[state][33] = (uint8_t)(entry % MLKEM_K);
            inputs[state] = seeds[state];
            outputs[state] = blocks[state];
        }
        keccak_init(&sponge, group.engine, MLKEM_RATE_128);
        keccak_absorb(&sponge, inputs, 34);
        keccak_finish(&sponge, KECCAK_DOMAIN_SHAKE);
        for (size_t complete = 0; complete < group.live;) {
            group.engine->extract(sponge.lane, outputs, 0, MLKEM_RATE_128);
            complete = 0;
            for (size_t state = 0; state < group.live; state++) {
                have[state] = sample_block(poly[state], have[state], blocks[state]);
                complete += have[state] == MLKEM_N;
            }
            group.engine->permute(sponge.lane);
        }
        for (size_t state = 0; state < group.live; state++) {
            const size_t entry = first + state;
            make_factor(&a[entry / MLKEM_K][entry % MLKEM_K], poly[state], MLKEM_SCALE_11);
        }
        first += group.live;
    }
}

void mlkem_expand_key(mlkem_key *key, const uint8_t *dk)
{
    const uint8_t *ek = dk + MLKEM_DK_EK_AT;
    int16_t poly[MLKEM_N];
    for (size_t i = 0; i < MLKEM_K; i++) {
        decode_12(poly, ek + i * MLKEM_POLY_BYTES);
        make_factor(&key->a[MLKEM_K][i], poly, MLKEM_SCALE_5);
        decode_12(poly, dk + i * MLKEM_POLY_BYTES);
        make_factor(&key->s[0][i], poly, MLKEM_SCALE_1);
    }
    qfl_zeroize(poly, sizeof poly);
    expand_matrix(key->a, ek + MLKEM_DK_EK_AT);
    memcpy(key->h, dk + MLKEM_DK_H_AT, sizeof key->h);
    memcpy(key->z, dk + MLKEM_DK_Z_AT, sizeof key->z);
}
