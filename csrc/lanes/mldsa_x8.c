/* Arithmetic of ML-DSA-44 verification with AVX-512 (F, BW).  Compiled with the flags of that machine
 * and called only where mldsa_verify.c found it.
 *
 * A polynomial is sixteen vectors of sixteen coefficients, which all fit into registers.  Layers of
 * the NTT whose partners are sixteen or more places apart work from vector to vector; a transposition
 * of the sixteen vectors makes the other layers the same, and a second one restores the order.
 *
 * Not constant time, and needs not be: everything is public (mldsa.h).
 */
#include "lanes/mldsa.h"

#if LANES_HAVE_WIDE
#include <immintrin.h>

#include "lanes/mldsa_zetas.h"

#define VECTORS 16
#define ODD 0xaaaau /* the upper word of each pair */

/* ------------------------------------------------------------------------ modular arithmetic */

static inline __m512i all(int32_t x)
{
    return _mm512_set1_epi32(x);
}

/* Montgomery reduction of 64-bit sums, of the even and of the odd places, below 2^31 q in absolute
 * value; the result is below q.  Source: FIPS 204, Algorithm 49. */
static inline __m512i reduce(__m512i even, __m512i odd)
{
    const __m512i q = all(MLDSA_Q), q_inverse = all(MLDSA_QINV);
    const __m512i m0 = _mm512_mul_epi32(even, q_inverse), m1 = _mm512_mul_epi32(odd, q_inverse);
    const __m512i r0 = _mm512_sub_epi64(even, _mm512_mul_epi32(m0, q));
    const __m512i r1 = _mm512_sub_epi64(odd, _mm512_mul_epi32(m1, q));
    return _mm512_mask_blend_epi32(ODD, _mm512_srli_epi64(r0, 32), r1);
}

/* a * root / 2^32 modulo q, where `times` is root * q^-1 modulo 2^32 in every place: a multiplication
 * fewer than reduce. */
static inline __m512i times_root(__m512i a, __m512i root, __m512i times)
{
    const __m512i q = all(MLDSA_Q);
    const __m512i a1 = _mm512_srli_epi64(a, 32), root1 = _mm512_srli_epi64(root, 32);
    const __m512i m0 = _mm512_mul_epi32(a, times), m1 = _mm512_mul_epi32(a1, _mm512_srli_epi64(times, 32));
    const __m512i r0 = _mm512_sub_epi64(_mm512_mul_epi32(a, root), _mm512_mul_epi32(m0, q));
    const __m512i r1 = _mm512_sub_epi64(_mm512_mul_epi32(a1, root1), _mm512_mul_epi32(m1, q));
    return _mm512_mask_blend_epi32(ODD, _mm512_srli_epi64(r0, 32), r1);
}

/* The same root in every place. */
static inline __m512i times_one_root(__m512i a, int32_t root)
{
    const __m512i q = all(MLDSA_Q), r = all(root), times = all((int32_t)((uint32_t)root * (uint32_t)MLDSA_QINV));
    const __m512i a1 = _mm512_srli_epi64(a, 32);
    const __m512i m0 = _mm512_mul_epi32(a, times), m1 = _mm512_mul_epi32(a1, times);
    const __m512i r0 = _mm512_sub_epi64(_mm512_mul_epi32(a, r), _mm512_mul_epi32(m0, q));
    const __m512i r1 = _mm512_sub_epi64(_mm512_mul_epi32(a1, r), _mm512_mul_epi32(m1, q));
    return _mm512_mask_blend_epi32(ODD, _mm512_srli_epi64(r0, 32), r1);
}

/* Place j of vector i becomes place i of vector j. */
static inline void transpose(__m512i v[VECTORS])
{
    __m512i t[VECTORS];
    for (int i = 0; i < VECTORS; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < VECTORS; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* quarters: 0 2 of both, then 1 3 of both */
        const __m512i a0 = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88), a1 = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd);
        const __m512i b0 = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
        const __m512i b1 = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a0, b0, 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(a1, b1, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(a0, b0, 0xdd);
        t[12 + i] = _mm512_shuffle_i32x4(a1, b1, 0xdd);
    }
    for (int i = 0; i < VECTORS; i++) {
        v[i] = t[i];
    }
}

static inline void load(__m512i v[VECTORS], const mldsa_poly *f)
{
    for (int i = 0; i < VECTORS; i++) {
        v[i] = _mm512_load_si512(f->c + 16 * i);
    }
}

static inline void store(mldsa_poly *f, const __m512i v[VECTORS])
{
    for (int i = 0; i < VECTORS; i++) {
        _mm512_store_si512(f->c + 16 * i, v[i]);
    }
}

/* --------------------------------------------------------------------------------------- NTT */

/* After the transposition place p of the vectors holds coefficients 16 p to 16 p + 15, and a layer whose
 * partners are `apart` places apart has 8 / apart roots for them: each place has roots of its own. */
void mldsa_x8_roots(mldsa_roots *roots)
{
    size_t row = 0;
    for (size_t apart = 8; apart > 0; apart /= 2) {
        const size_t groups = 8 / apart;
        for (size_t group = 0; group < groups; group++, row++) {
            for (size_t place = 0; place < 16; place++) {
                const int32_t root = mldsa_zetas[16 * groups + groups * place + group];
                roots->root[row][0][place] = root;
                roots->root[row][1][place] = (int32_t)((uint32_t)root * (uint32_t)MLDSA_QINV);
            }
        }
    }
    row = 0;
    for (size_t apart = 1; apart < 16; apart *= 2) { /* the inverse takes them from the last to the first */
        const size_t groups = 8 / apart;
        for (size_t group = 0; group < groups; group++, row++) {
            for (size_t place = 0; place < 16; place++) {
                const int32_t root = mldsa_zetas[32 * groups - 1 - (groups * place + group)];
                roots->inverse[row][0][place] = root;
                roots->inverse[row][1][place] = (int32_t)((uint32_t)root * (uint32_t)MLDSA_QINV);
            }
        }
    }
}

/* One layer between whole vectors: pairs `apart` vectors apart, root number `first` and on. */
#define LAYER(apart, first)                                                                                            \
    for (int i = 0; i < VECTORS; i += 2 * (apart)) {                                                                   \
        for (int j = i; j < i + (apart); j++) {                                                                        \
            const __m512i t = times_one_root(v[j + (apart)], mldsa_zetas[(first) + i / (2 * (apart))]);                \
            v[j + (apart)] = _mm512_sub_epi32(v[j], t);                                                                \
            v[j] = _mm512_add_epi32(v[j], t);                                                                          \
        }                                                                                                              \
    }

/* The same after the transposition: a root for every place. */
#define PLACE_LAYER(apart, first)                                                                                      \
    for (int i = 0; i < VECTORS; i += 2 * (apart)) {                                                                   \
        const __m512i root = _mm512_load_si512(roots->root[(first) + i / (2 * (apart))][0]);                           \
        const __m512i times = _mm512_load_si512(roots->root[(first) + i / (2 * (apart))][1]);                          \
        for (int j = i; j < i + (apart); j++) {                                                                        \
            const __m512i t = times_root(v[j + (apart)], root, times);                                                 \
            v[j + (apart)] = _mm512_sub_epi32(v[j], t);                                                                \
            v[j] = _mm512_add_epi32(v[j], t);                                                                          \
        }                                                                                                              \
    }

/* FIPS 204, Algorithm 41.  A layer adds less than q: from below q to below 9 q. */
void mldsa_x8_ntt(mldsa_poly *f, const mldsa_roots *roots)
{
    __m512i v[VECTORS];
    load(v, f);
    LAYER(8, 1)
    LAYER(4, 2)
    LAYER(2, 4)
    LAYER(1, 8)
    transpose(v);
    PLACE_LAYER(8, 0)
    PLACE_LAYER(4, 1)
    PLACE_LAYER(2, 3)
    PLACE_LAYER(1, 7)
    transpose(v);
    store(f, v);
}

/* Algorithm 42 negates its roots; here the difference is the other way round. */
#define INVERSE_PLACE_LAYER(apart, first)                                                                              \
    for (int i = 0; i < VECTORS; i += 2 * (apart)) {                                                                   \
        const __m512i root = _mm512_load_si512(roots->inverse[(first) + i / (2 * (apart))][0]);                        \
        const __m512i times = _mm512_load_si512(roots->inverse[(first) + i / (2 * (apart))][1]);                       \
        for (int j = i; j < i + (apart); j++) {                                                                        \
            const __m512i t = _mm512_sub_epi32(v[j + (apart)], v[j]);                                                  \
            v[j] = _mm512_add_epi32(v[j], v[j + (apart)]);                                                             \
            v[j + (apart)] = times_root(t, root, times);                                                               \
        }                                                                                                              \
    }

#define INVERSE_LAYER(apart, last)                                                                                     \
    for (int i = 0; i < VECTORS; i += 2 * (apart)) {                                                                   \
        for (int j = i; j < i + (apart); j++) {                                                                        \
            const __m512i t = _mm512_sub_epi32(v[j + (apart)], v[j]);                                                  \
            v[j] = _mm512_add_epi32(v[j], v[j + (apart)]);                                                             \
            v[j + (apart)] = times_one_root(t, mldsa_zetas[(last) - i / (2 * (apart))]);                               \
        }                                                                                                              \
    }

/* FIPS 204, Algorithm 42.  A layer doubles the bound at most: from below q to below 2^8 q < 2^31. */
void mldsa_x8_inverse_ntt(mldsa_poly *f, const mldsa_roots *roots)
{
    const int32_t scale = 41978; /* 2^64 / 256 modulo q: undoes one Montgomery reduction, and divides by 256 */
    __m512i v[VECTORS];
    load(v, f);
    transpose(v);
    INVERSE_PLACE_LAYER(1, 0)
    INVERSE_PLACE_LAYER(2, 8)
    INVERSE_PLACE_LAYER(4, 12)
    INVERSE_PLACE_LAYER(8, 14)
    transpose(v);
    INVERSE_LAYER(1, 15)
    INVERSE_LAYER(2, 7)
    INVERSE_LAYER(4, 3)
    INVERSE_LAYER(8, 1)
    for (int i = 0; i < VECTORS; i++) {
        const __m512i r = times_one_root(v[i], scale);
        v[i] = _mm512_mask_add_epi32(r, _mm512_cmplt_epi32_mask(r, _mm512_setzero_si512()), r, all(MLDSA_Q));
    }
    store(f, v);
}

void mldsa_x8_row(mldsa_poly *w, const mldsa_poly a[MLDSA44_L], const mldsa_poly z[MLDSA44_L], const mldsa_poly *c,
                  const mldsa_poly *t1)
{
    for (int i = 0; i < VECTORS; i++) {
        /* |a| < q, |z|, |c|, |t1| < 9 q: the sum is below 4 * 9 q^2 + 81 q^2 < 2^31 q. */
        const __m512i x = _mm512_load_si512(c->c + 16 * i), y = _mm512_load_si512(t1->c + 16 * i);
        __m512i even = _mm512_sub_epi64(_mm512_setzero_si512(), _mm512_mul_epi32(x, y));
        __m512i odd = _mm512_sub_epi64(_mm512_setzero_si512(),
                                       _mm512_mul_epi32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(y, 32)));
        for (int j = 0; j < MLDSA44_L; j++) {
            const __m512i s = _mm512_load_si512(a[j].c + 16 * i), t = _mm512_load_si512(z[j].c + 16 * i);
            even = _mm512_add_epi64(even, _mm512_mul_epi32(s, t));
            odd = _mm512_add_epi64(odd, _mm512_mul_epi32(_mm512_srli_epi64(s, 32), _mm512_srli_epi64(t, 32)));
        }
        _mm512_store_si512(w->c + 16 * i, reduce(even, odd));
    }
}

/* ------------------------------------------------------------------------ sampling and packing */

/* Bytes of a vector's quarters: four for each coefficient, beginning `step` bytes apart; quarter p begins at byte p. */
#define FOUR(at) (at), (at) + 1, (at) + 2, (at) + 3
#define QUARTER(p, step) FOUR(p), FOUR((p) + (step)), FOUR((p) + 2 * (step)), FOUR((p) + 3 * (step))
#define QUARTERS(step) {QUARTER(0, step), QUARTER(1, step), QUARTER(2, step), QUARTER(3, step)}

/* Sixteen packed coefficients into the low bits of sixteen words.  `words` brings what a quarter needs into it,
 * `bytes` what a coefficient needs into its place; `down` is the bits before it. */
static inline __m512i spread(__m512i packed, __m512i words, const uint8_t bytes[64])
{
    const __m512i down = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 2, 4, 6));
    return _mm512_srlv_epi32(
        _mm512_shuffle_epi8(_mm512_permutexvar_epi32(words, packed), _mm512_load_si512(bytes)), down);
}

size_t mldsa_x8_sample(mldsa_poly *a, const uint8_t *stream)
{
    const __m512i words = _mm512_setr_epi32(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 9, 10, 11, 0);
    const __m512i bytes = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
    size_t have = 0;
    for (size_t at = 0; at < MLDSA_STREAM_BYTES && have < MLDSA_N; at += 48) {
        /* Algorithm 14: three bytes without the top bit, refused from q on.  The last 24 bytes are eight of them. */
        const __mmask16 real = (__mmask16)(MLDSA_STREAM_BYTES - at >= 48 ? 0xffffu : 0x00ffu);
        const __m512i packed = _mm512_permutexvar_epi32(words, _mm512_loadu_si512(stream + at));
        const __m512i some = _mm512_and_si512(_mm512_shuffle_epi8(packed, bytes), all(0x7fffff));
        const __mmask16 good = _mm512_mask_cmplt_epi32_mask(real, some, all(MLDSA_Q));
        const size_t room = MLDSA_N - have;
        const __mmask16 fits = (__mmask16)(room >= 16 ? 0xffffu : (1u << room) - 1);
        _mm512_mask_storeu_epi32(a->c + have, fits, _mm512_maskz_compress_epi32(good, some));
        have += (size_t)__builtin_popcount(good);
    }
    return have < MLDSA_N ? have : MLDSA_N;
}

int mldsa_x8_unpack_z(mldsa_poly *z, const uint8_t *packed)
{
    /* Four coefficients of 18 bits are nine bytes: quarter p begins in word 2 p. */
    static const _Alignas(64) uint8_t bytes[64] = QUARTERS(2);
    const __m512i words = _mm512_setr_epi32(0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9);
    const __mmask64 real = ((__mmask64)1 << 36) - 1;
    __mmask16 good = 0xffffu;
    for (int i = 0; i < VECTORS; i++) {
        const __m512i some = _mm512_and_si512(
            spread(_mm512_maskz_loadu_epi8(real, packed + 36 * i), words, bytes), all(2 * MLDSA44_GAMMA1 - 1));
        /* |gamma_1 - packed| < gamma_1 - beta, which is beta < packed < 2 gamma_1 - beta. */
        good = _kand_mask16(good, _mm512_cmplt_epu32_mask(_mm512_sub_epi32(some, all(MLDSA44_BETA + 1)),
                                                          all(2 * MLDSA44_GAMMA1 - 1 - 2 * MLDSA44_BETA)));
        _mm512_store_si512(z->c + 16 * i, _mm512_sub_epi32(all(MLDSA44_GAMMA1), some));
    }
    return good == 0xffffu;
}

void mldsa_x8_unpack_t1(mldsa_poly *t1, const uint8_t *packed)
{
    /* Four coefficients of 10 bits are five bytes: quarter p begins in word p. */
    static const _Alignas(64) uint8_t bytes[64] = QUARTERS(1);
    const __m512i words = _mm512_setr_epi32(0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5, 3, 4, 5, 6);
    const __mmask64 real = ((__mmask64)1 << 20) - 1;
    for (int i = 0; i < VECTORS; i++) {
        const __m512i some = spread(_mm512_maskz_loadu_epi8(real, packed + 20 * i), words, bytes);
        _mm512_store_si512(t1->c + 16 * i, _mm512_slli_epi32(_mm512_and_si512(some, all(0x3ff)), MLDSA_D));
    }
}

void mldsa_x8_encode_w1(uint8_t *packed, const mldsa_poly *w, const uint16_t hints[MLDSA_N / 16])
{
    /* Three bytes of each word, the words of a quarter behind each other. */
    const __m128i bytes = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    for (int i = 0; i < VECTORS; i++) {
        const __m512i r = _mm512_load_si512(w->c + 16 * i);
        /* Algorithm 36: r1 is r / (2 gamma_2) rounded, a half downwards, which is (r + gamma_2 - 1) / (2 gamma_2)
         * without its fraction.  2 gamma_2 is 93 * 2^11, and y / 93 is y * 11276 >> 20 for y up to 4,199. */
        const __m512i y = _mm512_srli_epi32(_mm512_add_epi32(r, all(MLDSA44_GAMMA2 - 1)), 11);
        const __m512i r1 = _mm512_srli_epi32(_mm512_mullo_epi32(y, all(11276)), 20);
        const __m512i r0 = _mm512_sub_epi32(r, _mm512_mullo_epi32(r1, all(2 * MLDSA44_GAMMA2)));
        /* Where r1 comes out as 44 the standard says 0 and takes one from r0, which is below 0 already. */
        /* Algorithm 40: with a hint one up or down, modulo 44. */
        const __mmask16 hint = hints[i], up = _mm512_cmpgt_epi32_mask(r0, _mm512_setzero_si512());
        __m512i w1 = _mm512_mask_sub_epi32(r1, _mm512_cmpeq_epi32_mask(r1, all(44)), r1, all(44));
        w1 = _mm512_mask_add_epi32(w1, _kand_mask16(hint, up), w1, all(1));
        w1 = _mm512_mask_sub_epi32(w1, _kandn_mask16(up, hint), w1, all(1));
        w1 = _mm512_mask_sub_epi32(w1, _mm512_cmpeq_epi32_mask(w1, all(44)), w1, all(44));
        w1 = _mm512_mask_add_epi32(w1, _mm512_cmplt_epi32_mask(w1, _mm512_setzero_si512()), w1, all(44));
        /* SimpleBitPack of 6 bits: two coefficients into 12 bits, four into 24. */
        const __m128i narrow = _mm512_cvtepi32_epi8(w1);
        const __m128i pairs = _mm_maddubs_epi16(narrow, _mm_set1_epi16(0x4001));
        const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x10000001));
        const __m128i out = _mm_shuffle_epi8(fours, bytes);
        _mm_storel_epi64((__m128i *)(void *)(packed + 12 * i), out);
        const int last = _mm_cvtsi128_si32(_mm_srli_si128(out, 8));
        __builtin_memcpy(packed + 12 * i + 8, &last, 4);
    }
}
#else
typedef int mldsa_x8_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
