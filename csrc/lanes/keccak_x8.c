/* Keccak-f[1600] on eight states at once, with AVX-512.  Compiled with the flags of that machine and
 * called only where keccak_engine.c found it.
 *
 * CT: no branch or index here depends on anything but sizes and places, which are public: the
 * rounds are counted by a constant, the loops over rows by eight, the loops over bytes by a size
 * that the caller's message has; masks are made from that size.  No instruction here has a time
 * that depends on its data (boolean logic, shifts, rotates, permutes, plain and masked moves).
 *
 * Source: FIPS 202, section 3.2.
 */
#include "keccak.h"

#if KECCAK_HAVE_WIDE
#include "lanes/transpose.h"

#define VECTOR __m512i
#define XOR(x, y) _mm512_xor_si512(x, y)
#define XOR3(x, y, z) _mm512_ternarylogic_epi64(x, y, z, 0x96)
#define XOR5(a, b, c, d, e) XOR3(XOR3(a, b, c), d, e)
#define CHI(x, y, z) _mm512_ternarylogic_epi64(x, y, z, 0xd2)
#define ROL(x, n) _mm512_rol_epi64(x, n)
/* Three operands in one instruction: the two neighbours stay apart, which saves a xor a column. */
#define PARITY(x, left, right) const VECTOR l##x = left, r##x = ROL(right, 1)
#define ADD_PARITY(w, x) XOR3(w, l##x, r##x)
#include "lanes/keccak_round.h"

#define WIDTH 8u

static void permute(uint64_t *lane)
{
    __m512i *const state = (__m512i *)lane;
    STATE(s);
    STATE(t);
    LOAD_STATE(s, state);
    for (size_t round = 0; round < 24; round += 2) {
        ROUND(s, t, _mm512_set1_epi64((long long)keccak_round_constant[round]));
        ROUND(t, s, _mm512_set1_epi64((long long)keccak_round_constant[round + 1]));
    }
    STORE_STATE(state, s);
}

/* The bytes of a chunk of 64 that are within `left`. */
static inline __mmask64 mask_of(size_t left)
{
    return left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
}

static void add(uint64_t *lane, uint64_t word)
{
    __m512i *const to = (__m512i *)lane;
    *to = XOR(*to, _mm512_set1_epi64((long long)word));
}

static void absorb(uint64_t *lane, size_t at, const uint8_t *const *rows, size_t from, size_t size)
{
    __m512i *to = (__m512i *)lane + at / 8;
    /* A message off an 8-byte place gives each word to two lanes.  A shift by 64 gives 0, and the
     * lane behind the last one is inside the state, since every rate is shorter than it. */
    const __m128i up = _mm_cvtsi32_si128((int)(8 * (at % 8)));
    const __m128i down = _mm_cvtsi32_si128((int)(64 - 8 * (at % 8)));
    for (size_t done = 0; done < size; done += 64) {
        const size_t left = size - done;
        const __mmask64 mask = mask_of(left);
        __m512i w[WIDTH];
        for (size_t i = 0; i < WIDTH; i++) {
            w[i] = _mm512_maskz_loadu_epi8(mask, rows[i] + from + done);
        }
        transpose_x8(w);
        const size_t words = left >= 64 ? WIDTH : (left + 7) / 8;
        for (size_t j = 0; j < words; j++, to++) {
            to[0] = XOR(to[0], _mm512_sll_epi64(w[j], up));
            to[1] = XOR(to[1], _mm512_srl_epi64(w[j], down));
        }
    }
}

static void extract(const uint64_t *lane, uint8_t *const *rows, size_t from, size_t size)
{
    const __m512i *word = (const __m512i *)lane;
    for (size_t done = 0; done < size; done += 64, word += WIDTH) {
        const __mmask64 mask = mask_of(size - done);
        __m512i w[WIDTH];
        for (size_t j = 0; j < WIDTH; j++) { /* lanes 0 to 23 of 25: every rate is below 192 */
            w[j] = word[j];
        }
        transpose_x8(w);
        for (size_t i = 0; i < WIDTH; i++) {
            _mm512_mask_storeu_epi8(rows[i] + from + done, mask, w[i]);
        }
    }
}

const keccak_engine keccak_engine_x8 = {WIDTH, permute, add, absorb, extract};
#else
typedef int keccak_x8_is_for_x86_64; /* ISO C wants a declaration in every file */
#endif
