/* Polynomials of many items at once, one item in each 16-bit place of a vector; private to csrc/lanes.
 * The including file says what a vector is:
 *
 *   vec, uvec            vectors of int16_t, uint16_t (GCC vector types: + - & | ^ >> work)
 *   vec32, uvec32, vec64 the same bytes as int32_t, uint32_t, uint64_t
 *   mulhi(a, b)          high half of each product
 *   mulhrs(a, b)         (a * b + 2^14) >> 15 of each product
 *   dot(acc, a, b)       acc + the sum of the two products in each 32-bit place
 *   low_pairs(a, b), high_pairs(a, b)   interleave a and b, per 128 bits
 *   low_32, high_32, low_64, high_64    the same with elements of 32 and 64 bits
 *   narrow(a, b)         high halves of 32-bit places, in the order that the pairs came from
 *   all16(x), all32(x)   x in every place
 *
 * CT: constant trip counts everywhere and no index that depends on a coefficient.
 *
 * Bounds: |x| is the largest magnitude; a Montgomery product with a centred constant is at most
 * |x| * 1664 / 65536 + 1665.
 */
#ifndef QFL_POLYNOMIAL_H
#define QFL_POLYNOMIAL_H

#include "lanes/mlkem.h"
#include "lanes/zetas.h"

/* What may leave 16 bits goes through unsigned places, where that is defined. */
static inline vec mullo(vec a, vec b)
{
    return (vec)((uvec)a * (uvec)b);
}

static inline vec up(vec x, unsigned bits)
{
    return (vec)((uvec)x << bits);
}

/* Change the places of the two halves of each 32-bit place. */
static inline vec turn_pairs(vec x)
{
    return (vec)((uvec32)x << 16 | (uvec32)x >> 16);
}

/* b * zeta_k, where the table's zeta carries 2^16. */
static inline vec by_zeta(vec b, size_t k)
{
    const vec zeta = (vec)all32(zetas[k].zeta), times_inverse = (vec)all32(zetas[k].times_inverse);
    return mulhi(b, zeta) - mulhi(mullo(b, times_inverse), all16(MLKEM_Q));
}

/* b * c / 2^16 modulo q, c centred. */
static inline vec by_constant(vec b, int c)
{
    const int16_t times_inverse = (int16_t)(uint16_t)((uint32_t)c * (uint32_t)MLKEM_QINV);
    return mulhi(b, all16((int16_t)c)) - mulhi(mullo(b, all16(times_inverse)), all16(MLKEM_Q));
}

/* The residue in [-1664, 1664], for every x of 16 bits. */
static inline vec centre(vec x)
{
    const vec t = (mulhi(x, all16(20159)) + all16(512)) >> 10;
    return (vec)((uvec)x - (uvec)mullo(t, all16(MLKEM_Q)));
}

/* The residue in [0, q), for every x of 16 bits. */
static inline vec canonical(vec x)
{
    const vec residue = centre(x);
    return residue + ((residue >> 15) & all16(MLKEM_Q));
}

static inline void butterfly(vec *a, vec *b, size_t k)
{
    const vec t = by_zeta(*b, k);
    *b = *a - t;
    *a = *a + t;
}

/* Algorithm 9, NTT.  In: |x| <= 3329.  Out: |x| <= 16600, as the bound above says layer by layer; and
 * each two neighbours f[2i], f[2i + 1] interleaved, which is what `add_product` reads. */
static void ntt(vec f[MLKEM_N])
{
    for (size_t j = 0; j < 64; j++) { /* len = 128, 64 */
        vec a = f[j], b = f[j + 64], c = f[j + 128], d = f[j + 192];
        butterfly(&a, &c, 1), butterfly(&b, &d, 1);
        butterfly(&a, &b, 2), butterfly(&c, &d, 3);
        f[j] = a, f[j + 64] = b, f[j + 128] = c, f[j + 192] = d;
    }
    for (size_t block = 0; block < 4; block++) { /* len = 32, 16, 8 */
        const size_t k = 4 + block;
        for (size_t j = 64 * block; j < 64 * block + 8; j++) {
            vec x[8];
            for (size_t i = 0; i < 8; i++) {
                x[i] = f[j + 8 * i];
            }
            butterfly(&x[0], &x[4], k), butterfly(&x[1], &x[5], k);
            butterfly(&x[2], &x[6], k), butterfly(&x[3], &x[7], k);
            butterfly(&x[0], &x[2], 2 * k), butterfly(&x[1], &x[3], 2 * k);
            butterfly(&x[4], &x[6], 2 * k + 1), butterfly(&x[5], &x[7], 2 * k + 1);
            butterfly(&x[0], &x[1], 4 * k), butterfly(&x[2], &x[3], 4 * k + 1);
            butterfly(&x[4], &x[5], 4 * k + 2), butterfly(&x[6], &x[7], 4 * k + 3);
            for (size_t i = 0; i < 8; i++) {
                f[j + 8 * i] = x[i];
            }
        }
    }
    for (size_t block = 0; block < 32; block++) { /* len = 4, 2 */
        const size_t k = 32 + block;
        vec *const x = f + 8 * block;
        vec a0 = x[0], a1 = x[1], b0 = x[2], b1 = x[3], c0 = x[4], c1 = x[5], d0 = x[6], d1 = x[7];
        butterfly(&a0, &c0, k), butterfly(&a1, &c1, k), butterfly(&b0, &d0, k), butterfly(&b1, &d1, k);
        butterfly(&a0, &b0, 2 * k), butterfly(&a1, &b1, 2 * k);
        butterfly(&c0, &d0, 2 * k + 1), butterfly(&c1, &d1, 2 * k + 1);
        x[0] = low_pairs(a0, a1), x[1] = high_pairs(a0, a1), x[2] = low_pairs(b0, b1), x[3] = high_pairs(b0, b1);
        x[4] = low_pairs(c0, c1), x[5] = high_pairs(c0, c1), x[6] = low_pairs(d0, d1), x[7] = high_pairs(d0, d1);
    }
}

static inline void inverse_butterfly(vec *a, vec *b, size_t k)
{
    const vec t = *a;
    *a = t + *b;
    *b = by_zeta(*b - t, k);
}

/* Algorithm 10, NTT^-1, without its last step, the division by 128, which the factor brought in.
 * In: |x| <= 5100.  The sums of layers 2 and 5 are reduced: 5100, 10200, 20400 -> 2184, 4368, 8736,
 * 17472 -> 2109, 4218, 8436.  Out: |x| <= 8436. */
static void inverse_ntt(vec f[MLKEM_N])
{
    for (size_t block = 0; block < 32; block++) { /* len = 2, 4 */
        const size_t k = 63 - block;
        vec *const x = f + 8 * block;
        for (size_t j = 0; j < 2; j++) {
            vec a = x[j], b = x[j + 2], c = x[j + 4], d = x[j + 6];
            inverse_butterfly(&a, &b, 2 * k + 1), inverse_butterfly(&c, &d, 2 * k);
            inverse_butterfly(&a, &c, k), inverse_butterfly(&b, &d, k);
            x[j] = centre(a), x[j + 2] = centre(b), x[j + 4] = c, x[j + 6] = d;
        }
    }
    for (size_t block = 0; block < 4; block++) { /* len = 8, 16, 32 */
        const size_t k = 7 - block;
        for (size_t j = 64 * block; j < 64 * block + 8; j++) {
            vec x[8];
            for (size_t i = 0; i < 8; i++) {
                x[i] = f[j + 8 * i];
            }
            inverse_butterfly(&x[0], &x[1], 4 * k + 3), inverse_butterfly(&x[2], &x[3], 4 * k + 2);
            inverse_butterfly(&x[4], &x[5], 4 * k + 1), inverse_butterfly(&x[6], &x[7], 4 * k);
            inverse_butterfly(&x[0], &x[2], 2 * k + 1), inverse_butterfly(&x[1], &x[3], 2 * k + 1);
            inverse_butterfly(&x[4], &x[6], 2 * k), inverse_butterfly(&x[5], &x[7], 2 * k);
            inverse_butterfly(&x[0], &x[4], k), inverse_butterfly(&x[1], &x[5], k);
            inverse_butterfly(&x[2], &x[6], k), inverse_butterfly(&x[3], &x[7], k);
            for (size_t i = 0; i < 8; i++) {
                f[j + 8 * i] = i < 4 ? centre(x[i]) : x[i];
            }
        }
    }
    for (size_t j = 0; j < 64; j++) { /* len = 64, 128 */
        vec a = f[j], b = f[j + 64], c = f[j + 128], d = f[j + 192];
        inverse_butterfly(&a, &b, 3), inverse_butterfly(&c, &d, 2);
        inverse_butterfly(&a, &c, 1), inverse_butterfly(&b, &d, 1);
        f[j] = a, f[j + 64] = b, f[j + 128] = c, f[j + 192] = d;
    }
}

/* Two coefficients modulo q of 32-bit sums, each divided by 2^16: |sum| / 65536 + 1665. */
static inline vec reduce_sums(vec32 low, vec32 high)
{
    const vec inverse = (vec)all32(MLKEM_QINV & 0xffff); /* times the low half; the high half becomes 0 */
    const vec minus_q = (vec)all32(-MLKEM_Q & 0xffff);
    low = dot(low, mullo((vec)low, inverse), minus_q);
    high = dot(high, mullo((vec)high, inverse), minus_q);
    return narrow(low, high);
}

/* The inner products of the vector f (as `ntt` leaves it) and `rows` vectors g: Algorithm 11,
 * MultiplyNTTs, four times a row, and their sum.  |f| <= 16600 and |g| <= 1664, so a sum of eight
 * products is below 2^28 and |out| <= 5100.
 *
 * WHY all rows at once: f is larger than the first cache, so it is read once, not once a row. */
static inline void inner_products(vec (*out)[MLKEM_N], const vec f[MLKEM_K * MLKEM_N],
                                  const mlkem_factor (*g)[MLKEM_K], size_t rows)
{
    for (size_t i = 0; i < MLKEM_N / 2; i++) { /* Algorithm 12, BaseCaseMultiply */
        vec low[MLKEM_K], high[MLKEM_K];
        for (size_t j = 0; j < MLKEM_K; j++) {
            low[j] = f[j * MLKEM_N + 2 * i], high[j] = f[j * MLKEM_N + 2 * i + 1];
        }
        for (size_t row = 0; row < rows; row++) {
            vec32 c0_low = all32(0), c0_high = all32(0), c1_low = all32(0), c1_high = all32(0);
            for (size_t j = 0; j < MLKEM_K; j++) {
                const vec g0 = (vec)all32(g[row][j].pair[i][0]), g1 = (vec)all32(g[row][j].pair[i][1]);
                c0_low = dot(c0_low, low[j], g0), c0_high = dot(c0_high, high[j], g0);
                c1_low = dot(c1_low, low[j], g1), c1_high = dot(c1_high, high[j], g1);
            }
            out[row][2 * i] = reduce_sums(c0_low, c0_high);
            out[row][2 * i + 1] = reduce_sums(c1_low, c1_high);
        }
    }
}

/* Compress_d (section 4.2.1) of x, given 2^d x: with r the centred residue of 2^d x,
 * round(2^d x / q) = (2^d x - r) / q, which is -r / q modulo 2^d. */
static inline vec compress(vec scaled, int d)
{
    return mullo(centre(scaled), all16(-MLKEM_QINV)) & all16((int16_t)((1 << d) - 1));
}

#endif
