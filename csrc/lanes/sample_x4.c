/* Rejection sampling of 16 candidates at once, with AVX2.  Compiled with the flags of that machine and called only
 * where mlkem_engine.c found it. */
#include "lanes/sample.h"

#if LANES_HAVE_WIDE
#include <immintrin.h>

/* For every set of good candidates among eight, which are they, in order: one byte each.
 *
 * WHY a table and not pext: some processors with AVX2 take hundreds of cycles for that instruction.  The index is
 * public. */
#define BIT(m, i) (((m) >> (i)) & 1)
#define BEFORE(m, i) (BIT((m) & ((1 << (i)) - 1), 0) + BIT((m) & ((1 << (i)) - 1), 1) + BIT((m) & ((1 << (i)) - 1), 2) + \
                      BIT((m) & ((1 << (i)) - 1), 3) + BIT((m) & ((1 << (i)) - 1), 4) + BIT((m) & ((1 << (i)) - 1), 5) + \
                      BIT((m) & ((1 << (i)) - 1), 6))
#define PLACE(m, i) ((uint64_t)(BIT(m, i) * (i)) << (8 * BEFORE(m, i)))
#define SET_1(m) PLACE(m, 1) | PLACE(m, 2) | PLACE(m, 3) | PLACE(m, 4) | PLACE(m, 5) | PLACE(m, 6) | PLACE(m, 7)
#define SET_4(m) SET_1(m), SET_1((m) + 1), SET_1((m) + 2), SET_1((m) + 3)
#define SET_16(m) SET_4(m), SET_4((m) + 4), SET_4((m) + 8), SET_4((m) + 12)
#define SET_64(m) SET_16(m), SET_16((m) + 16), SET_16((m) + 32), SET_16((m) + 48)
static const uint64_t good_places[256] = {SET_64(0), SET_64(64), SET_64(128), SET_64(192)};

/* Write the good ones of eight candidates; returns where the next ones go. */
static inline int16_t *append(int16_t *to, __m128i candidates, unsigned good)
{
    const __m128i places = _mm_loadl_epi64((const __m128i *)(const void *)&good_places[good]);
    /* Byte i of the candidate's number n is byte 2 n + i of the vector. */
    const __m128i twice = _mm_add_epi8(places, places);
    const __m128i order = _mm_unpacklo_epi8(twice, _mm_add_epi8(twice, _mm_set1_epi8(1)));
    _mm_storeu_si128((__m128i *)(void *)to, _mm_shuffle_epi8(candidates, order));
    return to + __builtin_popcount(good);
}

size_t mlkem_sample_x4(int16_t row[SAMPLE_ROW], size_t have, const uint8_t *bytes, size_t size)
{
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11));
    const __m256i low = _mm256_set1_epi16(0xfff), q = _mm256_set1_epi16(MLKEM_Q);
    int16_t *to = row + have;
    for (size_t at = 0; at < size && to < row + MLKEM_N; at += 24) {
        const __m128i first = _mm_loadu_si128((const __m128i *)(const void *)(bytes + at));
        const __m128i second = _mm_loadu_si128((const __m128i *)(const void *)(bytes + at + 12));
        const __m256i spaced = _mm256_shuffle_epi8(_mm256_set_m128i(second, first), order);
        const __m256i odd = _mm256_srli_epi16(spaced, 4), even = _mm256_and_si256(spaced, low);
        const __m256i d = _mm256_blend_epi16(even, odd, 0xaa);
        const __m256i is_good = _mm256_cmpgt_epi16(q, d);
        const unsigned good = (unsigned)_mm_movemask_epi8(
            _mm_packs_epi16(_mm256_castsi256_si128(is_good), _mm256_extracti128_si256(is_good, 1)));
        to = append(to, _mm256_castsi256_si128(d), good & 0xff);
        to = append(to, _mm256_extracti128_si256(d, 1), good >> 8);
    }
    have = (size_t)(to - row);
    return have < MLKEM_N ? have : MLKEM_N;
}
#else
typedef int sample_x4_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
