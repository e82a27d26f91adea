/* The compression of SHA-256, in plain C and with the SHA extensions of x86.
 *
 * CT: straight lines; the only indexes are of rounds.
 *
 * Source: FIPS 180-4, section 6.2.2.
 */
#include "qflare.h"
#include "sha256.h"

static uint32_t turned(uint32_t word, unsigned by)
{
    return word >> by | word << (32 - by);
}

void sha256_blocks_plain(uint32_t state[8], const uint8_t *data, size_t count)
{
    uint32_t w[64], s[8];
    for (; count > 0; count--, data += SHA256_BLOCK_BYTES) {
        for (size_t t = 0; t < 16; t++) {
            w[t] = (uint32_t)data[4 * t] << 24 | (uint32_t)data[4 * t + 1] << 16 | (uint32_t)data[4 * t + 2] << 8 |
                   (uint32_t)data[4 * t + 3];
        }
        for (size_t t = 16; t < 64; t++) {
            const uint32_t one = turned(w[t - 2], 17) ^ turned(w[t - 2], 19) ^ w[t - 2] >> 10;
            const uint32_t zero = turned(w[t - 15], 7) ^ turned(w[t - 15], 18) ^ w[t - 15] >> 3;
            w[t] = one + w[t - 7] + zero + w[t - 16];
        }
        for (size_t i = 0; i < 8; i++) {
            s[i] = state[i];
        }
        for (size_t t = 0; t < 64; t++) {
            const uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]);
            const uint32_t majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
            const uint32_t one = s[7] + (turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25)) + choice +
                                 sha256_constants[t] + w[t];
            const uint32_t two = (turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22)) + majority;
            for (size_t i = 7; i > 0; i--) {
                s[i] = s[i - 1];
            }
            s[4] += one;
            s[0] = one + two;
        }
        for (size_t i = 0; i < 8; i++) {
            state[i] += s[i];
        }
    }
    qfl_zeroize(w, sizeof w);
    qfl_zeroize(s, sizeof s);
}

#if SHA256_HAVE_NI
#include <immintrin.h>

/* Called where the processor has said that it has these instructions (sha256.c). */
__attribute__((target("sha,ssse3,sse4.1"))) void sha256_blocks_ni(uint32_t state[8], const uint8_t *data, size_t count)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    /* The instructions keep the state as A B E F and C D G H, the first in the highest word. */
    const __m128i abcd = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)state), 0x1b);
    const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)(state + 4)), 0x1b);
    __m128i abef = _mm_unpackhi_epi64(efgh, abcd), cdgh = _mm_unpacklo_epi64(efgh, abcd);
    for (; count > 0; count--, data += SHA256_BLOCK_BYTES) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (size_t i = 0; i < 4; i++) {
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(data + 16 * i)), big_endian);
        }
#pragma GCC unroll 16
        for (size_t t = 0; t < 16; t++) { /* four rounds each */
            if (t >= 4) {                 /* w[t - 16], t - 15, t - 7 and t - 2 of the schedule, four at a time */
                const __m128i w7 = _mm_alignr_epi8(w[(t + 3) % 4], w[(t + 2) % 4], 4);
                const __m128i early = _mm_add_epi32(_mm_sha256msg1_epu32(w[t % 4], w[(t + 1) % 4]), w7);
                w[t % 4] = _mm_sha256msg2_epu32(early, w[(t + 3) % 4]);
            }
            const __m128i k = _mm_loadu_si128((const __m128i *)(const void *)(sha256_constants + 4 * t));
            const __m128i sum = _mm_add_epi32(w[t % 4], k);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    _mm_storeu_si128((__m128i *)(void *)state, _mm_shuffle_epi32(_mm_unpackhi_epi64(cdgh, abef), 0x1b));
    _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_shuffle_epi32(_mm_unpacklo_epi64(cdgh, abef), 0x1b));
}
#endif
