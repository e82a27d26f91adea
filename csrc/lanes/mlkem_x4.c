/* ML-KEM-1024 for 16 items at once, with AVX2.  Compiled with the flags of that
 * machine and called only where mlkem_engine.c found it.
 *
 * CT: vpmullw, vpmulhw, vpmulhrsw and vpmaddwd take the same time for every operand.
 */
#include "lanes/mlkem.h"

#if LANES_HAVE_WIDE
#include "lanes/transpose.h"

#define WORDS 4u
#define KECCAK_ENGINE keccak_engine_x4
#define SAMPLE mlkem_sample_x4

typedef int16_t vec __attribute__((vector_size(32), may_alias));
typedef uint16_t uvec __attribute__((vector_size(32), may_alias));
typedef uint32_t uvec32 __attribute__((vector_size(32), may_alias));
typedef int32_t vec32 __attribute__((vector_size(32), may_alias));
typedef uint64_t vec64 __attribute__((vector_size(32), may_alias));

static inline vec all16(int16_t x)
{
    return (vec)_mm256_set1_epi16(x);
}

static inline vec32 all32(int32_t x)
{
    return (vec32)_mm256_set1_epi32(x);
}

static inline vec mulhi(vec a, vec b)
{
    return (vec)_mm256_mulhi_epi16((__m256i)a, (__m256i)b);
}

static inline vec mulhrs(vec a, vec b)
{
    return (vec)_mm256_mulhrs_epi16((__m256i)a, (__m256i)b);
}

static inline vec32 dot(vec32 sum, vec a, vec b)
{
    return sum + (vec32)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}

static inline vec low_pairs(vec a, vec b)
{
    return (vec)_mm256_unpacklo_epi16((__m256i)a, (__m256i)b);
}

static inline vec high_pairs(vec a, vec b)
{
    return (vec)_mm256_unpackhi_epi16((__m256i)a, (__m256i)b);
}

static inline vec narrow(vec32 a, vec32 b)
{
    return (vec)_mm256_packs_epi32((__m256i)(a >> 16), (__m256i)(b >> 16));
}

/* The words at `at` of four rows: word j of row i becomes word i of out[j]. */
static inline void read_words(vec64 out[WORDS], const uint8_t *const *rows, size_t at)
{
    __m256i x[WORDS];
    for (size_t i = 0; i < WORDS; i++) {
        x[i] = _mm256_loadu_si256((const __m256i *)(const void *)(rows[i] + at));
    }
    transpose_x4(x);
    for (size_t j = 0; j < WORDS; j++) {
        out[j] = (vec64)x[j];
    }
}

static inline vec low_32(vec a, vec b)
{
    return (vec)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b);
}

static inline vec low_64(vec a, vec b)
{
    return (vec)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
}

static inline vec high_32(vec a, vec b)
{
    return (vec)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b);
}

static inline vec high_64(vec a, vec b)
{
    return (vec)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b);
}

/* The other way. */
static inline void write_words(uint8_t *const *rows, size_t at, const vec64 in[WORDS])
{
    __m256i x[WORDS];
    for (size_t j = 0; j < WORDS; j++) {
        x[j] = (__m256i)in[j];
    }
    transpose_x4(x);
    for (size_t i = 0; i < WORDS; i++) {
        _mm256_storeu_si256((__m256i *)(void *)(rows[i] + at), x[i]);
    }
}

static inline __m128i piece(const void *from)
{
    return _mm_loadu_si128((const __m128i *)from);
}

/* 16 bytes each of two rows that are `stride` bytes apart. */
static inline vec pieces(const void *first, size_t stride)
{
    return (vec)_mm256_set_m128i(piece((const char *)first + stride), piece(first));
}

#include "lanes/mlkem_lanes.h"

const mlkem_engine mlkem_engine_x4 = MLKEM_ENGINE;
#else
typedef int mlkem_x4_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
