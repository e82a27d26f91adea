/* Transposing 64-bit words: from rows to the same word of every row, and back; private to csrc/lanes. */
#ifndef QFL_TRANSPOSE_H
#define QFL_TRANSPOSE_H

#include <immintrin.h>

#ifdef __AVX512F__
/* Word j of row i becomes word i of row j. */
static inline void transpose_x8(__m512i w[8])
{
    const __m512i a0 = _mm512_unpacklo_epi64(w[0], w[1]), a1 = _mm512_unpackhi_epi64(w[0], w[1]);
    const __m512i a2 = _mm512_unpacklo_epi64(w[2], w[3]), a3 = _mm512_unpackhi_epi64(w[2], w[3]);
    const __m512i a4 = _mm512_unpacklo_epi64(w[4], w[5]), a5 = _mm512_unpackhi_epi64(w[4], w[5]);
    const __m512i a6 = _mm512_unpacklo_epi64(w[6], w[7]), a7 = _mm512_unpackhi_epi64(w[6], w[7]);
    /* 128-bit pieces: 0 2 of both, then 1 3 of both. */
    const __m512i b0 = _mm512_shuffle_i64x2(a0, a2, 0x88), b1 = _mm512_shuffle_i64x2(a1, a3, 0x88);
    const __m512i b2 = _mm512_shuffle_i64x2(a0, a2, 0xdd), b3 = _mm512_shuffle_i64x2(a1, a3, 0xdd);
    const __m512i b4 = _mm512_shuffle_i64x2(a4, a6, 0x88), b5 = _mm512_shuffle_i64x2(a5, a7, 0x88);
    const __m512i b6 = _mm512_shuffle_i64x2(a4, a6, 0xdd), b7 = _mm512_shuffle_i64x2(a5, a7, 0xdd);
    w[0] = _mm512_shuffle_i64x2(b0, b4, 0x88), w[1] = _mm512_shuffle_i64x2(b1, b5, 0x88);
    w[2] = _mm512_shuffle_i64x2(b2, b6, 0x88), w[3] = _mm512_shuffle_i64x2(b3, b7, 0x88);
    w[4] = _mm512_shuffle_i64x2(b0, b4, 0xdd), w[5] = _mm512_shuffle_i64x2(b1, b5, 0xdd);
    w[6] = _mm512_shuffle_i64x2(b2, b6, 0xdd), w[7] = _mm512_shuffle_i64x2(b3, b7, 0xdd);
}
#endif

#ifdef __AVX2__
/* Word j of row i becomes word i of row j. */
static inline void transpose_x4(__m256i w[4])
{
    const __m256i a0 = _mm256_unpacklo_epi64(w[0], w[1]), a1 = _mm256_unpackhi_epi64(w[0], w[1]);
    const __m256i a2 = _mm256_unpacklo_epi64(w[2], w[3]), a3 = _mm256_unpackhi_epi64(w[2], w[3]);
    w[0] = _mm256_permute2x128_si256(a0, a2, 0x20), w[1] = _mm256_permute2x128_si256(a1, a3, 0x20);
    w[2] = _mm256_permute2x128_si256(a0, a2, 0x31), w[3] = _mm256_permute2x128_si256(a1, a3, 0x31);
}
#endif

#endif
