/* The matrix of every item's own key, and products with it; private to csrc/lanes.
 *
 * The matrix is never whole in memory: one row of it is sampled, multiplied and forgotten.  Samples lie
 * item by item, as the rejection leaves them, and are brought into pairs of places as they are read.
 *
 * CT: rho and the matrix are public (part of ek), and rejection sampling branches on them.  Everything
 * else here has constant trip counts.
 */
#ifndef QFL_MATRIX_H
#define QFL_MATRIX_H

#include "lanes/hashes.h"
#include "lanes/sample.h"

/* One row of the matrix for every item: MLKEM_K polynomials. */
typedef int16_t sampled[MLKEM_K][ITEMS][SAMPLE_ROW];

/* Algorithm 7, SampleNTT, of rho || x || y for the items of the groups that have some. */
static void sample_entry(int16_t out[ITEMS][SAMPLE_ROW], hashes *hash, uint64_t x, uint64_t y, size_t groups)
{
    uint8_t stream[WORDS][SAMPLE_STREAM_BYTES];
    uint8_t *blocks[WORDS];
    for (size_t g = 0; g < groups; g++) {
        vec64 *const state = hash->state[g];
        for (size_t i = 0; i < KECCAK_LANES_IN_STATE; i++) {
            state[i] = i < 4 ? hash->rho[g][i] : all64(0);
        }
        state[4] = all64(x | y << 8 | KECCAK_DOMAIN_SHAKE << 16);
        state[MLKEM_RATE_128 / 8 - 1] = all64(UINT64_C(0x80) << 56);
        for (size_t block = 0; block < SAMPLE_BLOCKS; block++) {
            for (size_t item = 0; item < WORDS; item++) {
                blocks[item] = stream[item] + block * MLKEM_RATE_128;
            }
            KECCAK_ENGINE.permute((uint64_t *)state);
            KECCAK_ENGINE.extract((const uint64_t *)state, blocks, 0, MLKEM_RATE_128);
        }
        size_t have[WORDS], fewest = MLKEM_N;
        for (size_t item = 0; item < WORDS; item++) {
            have[item] = SAMPLE(out[g * WORDS + item], 0, stream[item], SAMPLE_BLOCKS * MLKEM_RATE_128);
            fewest = have[item] < fewest ? have[item] : fewest;
        }
        while (fewest < MLKEM_N) { /* one group of eight in twenty */
            KECCAK_ENGINE.permute((uint64_t *)state);
            KECCAK_ENGINE.extract((const uint64_t *)state, blocks, 0, MLKEM_RATE_128);
            fewest = MLKEM_N;
            for (size_t item = 0; item < WORDS; item++) {
                if (have[item] < MLKEM_N) {
                    have[item] = SAMPLE(out[g * WORDS + item], have[item], blocks[item], MLKEM_RATE_128);
                }
                fewest = have[item] < fewest ? have[item] : fewest;
            }
        }
    }
}

/* Row i of A, or of A^T: entry (i, j) of A is SampleNTT(rho || j || i) (Algorithm 13, step 5). */
static void sample_row(sampled out, hashes *hash, size_t i, int is_transposed, size_t groups)
{
    for (size_t j = 0; j < MLKEM_K; j++) {
        sample_entry(out[j], hash, is_transposed ? i : j, is_transposed ? j : i, groups);
    }
}

/* A vector in NTT form as the second factor of products: for each pair of coefficients (b0, b1), as `ntt` leaves
 * them, what gives c0 = a0 b0 + a1 b1 gamma and c1 = a0 b1 + a1 b0.  Four pairs of all items stand together, in the
 * order in which products read them. */
typedef struct {
    struct {
        vec first[4];  /* b0, b1 gamma */
        vec second[4]; /* b1, b0 */
    } of[MLKEM_N / 8][2][MLKEM_K]; /* pairs, half of the items, polynomial */
} factors;

/* Make the factors of polynomial j from what `ntt` left, times scale / 2^16.  Each is at most 2087. */
static void make_factors(factors *out, size_t j, const vec b[MLKEM_N], int scale)
{
    const uint32_t one = (uint32_t)zetas[0].zeta & 0xffff, one_inverse = (uint32_t)zetas[0].times_inverse & 0xffff;
    for (size_t i = 0; i < MLKEM_N / 2; i++) {
        /* zeta^(2 BitRev7(i) + 1) is zetas[64 + i / 2], with the sign of (-1)^i; b0 is multiplied by zetas[0], 1. */
        const int32_t sign = i % 2 == 0 ? 1 : -1;
        const uint32_t gamma = (uint32_t)(zetas[64 + i / 2].zeta >> 16) * (uint32_t)sign;
        const uint32_t inverse = (uint32_t)(zetas[64 + i / 2].times_inverse >> 16) * (uint32_t)sign;
        const vec zeta = (vec)all32((int32_t)(gamma << 16 | one));
        const vec times_inverse = (vec)all32((int32_t)(inverse << 16 | one_inverse));
        for (size_t half = 0; half < 2; half++) {
            const vec x = by_constant(b[2 * i + half], scale);
            out->of[i / 4][half][j].first[i % 4] = mulhi(x, zeta) - mulhi(mullo(x, times_inverse), all16(MLKEM_Q));
            out->of[i / 4][half][j].second[i % 4] = turn_pairs(x);
        }
    }
}

/* Four pairs of coefficients, at `at`, of the items in the places of one half, as low_pairs (0) or
 * high_pairs (1) would give them. */
static inline void read_pairs(vec out[4], int16_t rows[ITEMS][SAMPLE_ROW], size_t at, size_t half)
{
    vec x[GROUPS];
    for (size_t g = 0; g < GROUPS; g++) {
        x[g] = pieces(&rows[g * WORDS + half][at], 2 * sizeof rows[0]);
    }
    const vec a = low_32(x[0], x[1]), b = low_32(x[2], x[3]), c = high_32(x[0], x[1]), d = high_32(x[2], x[3]);
    out[0] = low_64(a, b), out[1] = high_64(a, b), out[2] = low_64(c, d), out[3] = high_64(c, d);
}

/* The inner product of a sampled row and a vector: Algorithm 11, MultiplyNTTs, four times, and the sum,
 * divided by 2^16.  |a| <= 4095, so |out| <= 2800. */
static void product_with_row(vec out[MLKEM_N], sampled a, const factors *b)
{
    for (size_t at = 0; at < MLKEM_N; at += 8) { /* Algorithm 12, BaseCaseMultiply */
        vec32 c0[2][4], c1[2][4];
        for (size_t half = 0; half < 2; half++) {
            for (size_t pair = 0; pair < 4; pair++) {
                c0[half][pair] = c1[half][pair] = all32(0);
            }
            for (size_t j = 0; j < MLKEM_K; j++) {
                vec x[4];
                read_pairs(x, a[j], at, half);
                for (size_t pair = 0; pair < 4; pair++) {
                    c0[half][pair] = dot(c0[half][pair], x[pair], b->of[at / 8][half][j].first[pair]);
                    c1[half][pair] = dot(c1[half][pair], x[pair], b->of[at / 8][half][j].second[pair]);
                }
            }
        }
        for (size_t pair = 0; pair < 4; pair++) {
            out[at + 2 * pair] = reduce_sums(c0[0][pair], c0[1][pair]);
            out[at + 2 * pair + 1] = reduce_sums(c1[0][pair], c1[1][pair]);
        }
    }
}

/* The same with a vector in places, of any coefficients up to 4095. */
static void product_with_vector(vec out[MLKEM_N], const vec a[MLKEM_K * MLKEM_N], const factors *b)
{
    for (size_t at = 0; at < MLKEM_N; at += 2) {
        vec32 c0[2] = {all32(0), all32(0)}, c1[2] = {all32(0), all32(0)};
        for (size_t j = 0; j < MLKEM_K; j++) {
            const vec a0 = a[j * MLKEM_N + at], a1 = a[j * MLKEM_N + at + 1];
            const vec low = low_pairs(a0, a1), high = high_pairs(a0, a1);
            const size_t pair = at / 2 % 4;
            c0[0] = dot(c0[0], low, b->of[at / 8][0][j].first[pair]);
            c0[1] = dot(c0[1], high, b->of[at / 8][1][j].first[pair]);
            c1[0] = dot(c1[0], low, b->of[at / 8][0][j].second[pair]);
            c1[1] = dot(c1[1], high, b->of[at / 8][1][j].second[pair]);
        }
        out[at] = reduce_sums(c0[0], c0[1]);
        out[at + 1] = reduce_sums(c1[0], c1[1]);
    }
}

#endif
