/* The control of check_branches: a search in a vector that leaves early.  It must be reported.
 * SPDX-License-Identifier: Apache-2.0 */
#include <immintrin.h>
#include <stddef.h>

int leaky_vector(const __m512i *secret, size_t size);

int leaky_vector(const __m512i *secret, size_t size)
{
    __m512i sum = _mm512_setzero_si512();
    /* Enough vector code that the check takes it for an engine. */
    for (size_t i = 0; i + 64 <= size; i += 64) {
#pragma GCC unroll 64
        for (size_t j = 0; j < 64; j++) {
            sum = _mm512_xor_si512(_mm512_add_epi64(sum, secret[i + j]), _mm512_slli_epi64(sum, 1));
        }
        if (_mm512_test_epi16_mask(sum, sum) != 0) {
            return 1;
        }
    }
    return 0;
}
