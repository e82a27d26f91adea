/* Keccak-f[1600] on four states at once, with AVX2.  Compiled with the flags of that machine and
 * called only where keccak_engine.c found it.
 *
 * CT: as in keccak_x8.c: only sizes and places steer a branch or an index, and they are public.
 *
 * Source: FIPS 202, section 3.2.
 */
#include "keccak.h"

#if KECCAK_HAVE_WIDE
#include "lanes/transpose.h"

#include <string.h>

#define VECTOR __m256i
#define XOR(x, y) _mm256_xor_si256(x, y)
#define XOR5(a, b, c, d, e) XOR(XOR(XOR(a, b), XOR(c, d)), e)
#define CHI(x, y, z) _mm256_xor_si256(x, _mm256_andnot_si256(y, z))
/* Whole bytes turn by one shuffle instead of two shifts and an or. */
#define ROL(x, n)                                                                                                      \
    ((n) == 8    ? _mm256_shuffle_epi8(x, rol8)                                                                        \
     : (n) == 56 ? _mm256_shuffle_epi8(x, rol56)                                                                       \
                 : _mm256_or_si256(_mm256_slli_epi64(x, n), _mm256_srli_epi64(x, 64 - (n))))
#define PARITY(x, left, right) const VECTOR q##x = XOR(left, ROL(right, 1))
#define ADD_PARITY(w, x) XOR(w, q##x)
#include "lanes/keccak_round.h"

#define WIDTH 4u

static void permute(uint64_t *lane)
{
    __m256i *const state = (__m256i *)lane;
    const __m256i rol8 = _mm256_set_epi8(14, 13, 12, 11, 10, 9, 8, 15, 6, 5, 4, 3, 2, 1, 0, 7, 14, 13, 12, 11, 10, 9, 8,
                                         15, 6, 5, 4, 3, 2, 1, 0, 7);
    const __m256i rol56 = _mm256_set_epi8(8, 15, 14, 13, 12, 11, 10, 9, 0, 7, 6, 5, 4, 3, 2, 1, 8, 15, 14, 13, 12, 11,
                                          10, 9, 0, 7, 6, 5, 4, 3, 2, 1);
    STATE(s);
    STATE(t);
    LOAD_STATE(s, state);
    for (size_t round = 0; round < 24; round += 2) {
        ROUND(s, t, _mm256_set1_epi64x((long long)keccak_round_constant[round]));
        ROUND(t, s, _mm256_set1_epi64x((long long)keccak_round_constant[round + 1]));
    }
    STORE_STATE(state, s);
}

static void add(uint64_t *lane, uint64_t word)
{
    __m256i *const to = (__m256i *)lane;
    *to = XOR(*to, _mm256_set1_epi64x((long long)word));
}

static void absorb(uint64_t *lane, size_t at, const uint8_t *const *rows, size_t from, size_t size)
{
    __m256i *to = (__m256i *)lane + at / 8;
    /* As in keccak_x8.c: a shift by 64 gives 0, and the lane behind the last one is in the state. */
    const __m128i up = _mm_cvtsi32_si128((int)(8 * (at % 8)));
    const __m128i down = _mm_cvtsi32_si128((int)(64 - 8 * (at % 8)));
    for (size_t done = 0; done < size; done += 32) {
        const size_t left = size - done;
        __m256i w[WIDTH];
        for (size_t i = 0; i < WIDTH; i++) {
            w[i] = _mm256_setzero_si256();
            if (left >= 32) {
                w[i] = _mm256_loadu_si256((const __m256i *)(const void *)(rows[i] + from + done));
            } else {
                memcpy(&w[i], rows[i] + from + done, left); /* never a byte behind the row */
            }
        }
        transpose_x4(w);
        const size_t words = left >= 32 ? WIDTH : (left + 7) / 8;
        for (size_t j = 0; j < words; j++, to++) {
            to[0] = XOR(to[0], _mm256_sll_epi64(w[j], up));
            to[1] = XOR(to[1], _mm256_srl_epi64(w[j], down));
        }
    }
}

static void extract(const uint64_t *lane, uint8_t *const *rows, size_t from, size_t size)
{
    const __m256i *word = (const __m256i *)lane;
    for (size_t done = 0; done < size; done += 32, word += WIDTH) {
        const size_t left = size - done;
        __m256i w[WIDTH];
        for (size_t j = 0; j < WIDTH; j++) { /* lanes 0 to 23 of 25: every rate is below 192 */
            w[j] = word[j];
        }
        transpose_x4(w);
        for (size_t i = 0; i < WIDTH; i++) {
            if (left >= 32) {
                _mm256_storeu_si256((__m256i *)(void *)(rows[i] + from + done), w[i]);
            } else {
                memcpy(rows[i] + from + done, &w[i], left);
            }
        }
    }
}

const keccak_engine keccak_engine_x4 = {WIDTH, permute, add, absorb, extract};
#else
typedef int keccak_x4_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
