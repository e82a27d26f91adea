/* Rejection sampling of 32 candidates at once, with AVX-512 (F, BW, VBMI, VBMI2).  Compiled with the flags of that
 * machine and called only where mlkem_engine.c found it. */
#include "lanes/sample.h"

#if LANES_HAVE_WIDE
#include <immintrin.h>

/* 16-bit place p of a vector takes the two bytes in which candidate p begins: 3 p / 2. */
#define PAIR(p) (char)(3 * (p) / 2), (char)(3 * (p) / 2 + 1)
#define PAIRS(p) PAIR(p), PAIR((p) + 1), PAIR((p) + 2), PAIR((p) + 3)
static const char spread[64] = {PAIRS(0),  PAIRS(4),  PAIRS(8),  PAIRS(12),
                                PAIRS(16), PAIRS(20), PAIRS(24), PAIRS(28)};

typedef struct {
    __m512i order, shifts, low, q;
} constants;

/* Append the good ones of the candidates that `real` tells; returns how many there are, 256 at most. */
static inline size_t append(int16_t *row, size_t have, const uint8_t *bytes, __mmask32 real, const constants *with)
{
    const __m512i spaced = _mm512_permutexvar_epi8(with->order, _mm512_loadu_si512(bytes));
    const __m512i d = _mm512_and_si512(_mm512_srlv_epi16(spaced, with->shifts), with->low);
    const __mmask32 good = _mm512_mask_cmplt_epu16_mask(real, d, with->q);
    /* WHY not compressed into memory: that is many times slower on some processors. */
    _mm512_storeu_si512(row + have, _mm512_maskz_compress_epi16(good, d));
    have += (size_t)__builtin_popcount(good);
    return have < MLKEM_N ? have : MLKEM_N;
}

/* WHY no early end: a branch on where the 256th is found is mispredicted every other time. */
size_t mlkem_sample_x8(int16_t row[SAMPLE_ROW], size_t have, const uint8_t *bytes, size_t size)
{
    const constants with = {_mm512_loadu_si512(spread), _mm512_set1_epi32(4 << 16), _mm512_set1_epi16(0xfff),
                            _mm512_set1_epi16(MLKEM_Q)};
    size_t at = 0;
    for (; at + 48 <= size; at += 48) {
        have = append(row, have, bytes + at, 0xffffffffu, &with);
    }
    return at < size ? append(row, have, bytes + at, 0xffffu, &with) : have;
}
#else
typedef int sample_x8_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
