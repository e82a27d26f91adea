/* ML-KEM-1024 for 32 items at once, with AVX-512 (F, BW, VNNI).  Compiled with the flags of that
 * machine and called only where mlkem_engine.c found it.
 *
 * CT: vpmullw, vpmulhw, vpmulhrsw and vpdpwssd take the same time for every operand.
 */
#include "lanes/mlkem.h"

#if LANES_HAVE_WIDE
#include "lanes/transpose.h"

#define WORDS 8u
#define KECCAK_ENGINE keccak_engine_x8
#define SAMPLE mlkem_sample_x8

typedef int16_t vec __attribute__((vector_size(64), may_alias));
typedef uint16_t uvec __attribute__((vector_size(64), may_alias));
typedef uint32_t uvec32 __attribute__((vector_size(64), may_alias));
typedef int32_t vec32 __attribute__((vector_size(64), may_alias));
typedef uint64_t vec64 __attribute__((vector_size(64), may_alias));

static inline vec all16(int16_t x)
{
    return (vec)_mm512_set1_epi16(x);
}

static inline vec32 all32(int32_t x)
{
    return (vec32)_mm512_set1_epi32(x);
}

static inline vec mulhi(vec a, vec b)
{
    return (vec)_mm512_mulhi_epi16((__m512i)a, (__m512i)b);
}

static inline vec mulhrs(vec a, vec b)
{
    return (vec)_mm512_mulhrs_epi16((__m512i)a, (__m512i)b);
}

static inline vec32 dot(vec32 sum, vec a, vec b)
{
    return (vec32)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}

static inline vec low_pairs(vec a, vec b)
{
    return (vec)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b);
}

static inline vec high_pairs(vec a, vec b)
{
    return (vec)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b);
}

static inline vec narrow(vec32 a, vec32 b)
{
    return (vec)_mm512_packs_epi32((__m512i)(a >> 16), (__m512i)(b >> 16));
}

/* The words at `at` of eight rows: word j of row i becomes word i of out[j]. */
static inline void read_words(vec64 out[WORDS], const uint8_t *const *rows, size_t at)
{
    __m512i x[WORDS];
    for (size_t i = 0; i < WORDS; i++) {
        x[i] = _mm512_loadu_si512(rows[i] + at);
    }
    transpose_x8(x);
    for (size_t j = 0; j < WORDS; j++) {
        out[j] = (vec64)x[j];
    }
}

static inline vec low_32(vec a, vec b)
{
    return (vec)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b);
}

static inline vec low_64(vec a, vec b)
{
    return (vec)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b);
}

static inline vec high_32(vec a, vec b)
{
    return (vec)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b);
}

static inline vec high_64(vec a, vec b)
{
    return (vec)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b);
}

/* The other way. */
static inline void write_words(uint8_t *const *rows, size_t at, const vec64 in[WORDS])
{
    __m512i x[WORDS];
    for (size_t j = 0; j < WORDS; j++) {
        x[j] = (__m512i)in[j];
    }
    transpose_x8(x);
    for (size_t i = 0; i < WORDS; i++) {
        _mm512_storeu_si512(rows[i] + at, x[i]);
    }
}

static inline __m128i piece(const void *from)
{
    return _mm_loadu_si128((const __m128i *)from);
}

/* 16 bytes each of four rows that are `stride` bytes apart. */
static inline vec pieces(const void *first, size_t stride)
{
    const char *const from = first;
    const __m512i x = _mm512_inserti32x4(_mm512_castsi128_si512(piece(from)), piece(from + stride), 1);
    return (vec)_mm512_inserti32x4(_mm512_inserti32x4(x, piece(from + 2 * stride), 2), piece(from + 3 * stride), 3);
}

#include "lanes/mlkem_lanes.h"

const mlkem_engine mlkem_engine_x8 = MLKEM_ENGINE;
#else
typedef int mlkem_x8_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
