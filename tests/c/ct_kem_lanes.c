/* Constant time of the ML-KEM-1024 engine, under valgrind's memcheck: the key's secrets count as
 * uninitialised, and a branch or an index that depends on one is reported.
 *
 * valgrind reports a processor without AVX-512, so this runs the portable and the AVX2 engine; the
 * AVX-512 one is the same source over wider vectors (csrc/lanes/mlkem_lanes.h), and tests/c/check_branches looks
 * at what the compiler made of it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QFL_CT_CHECK
#error "build this with QFL_CT_CHECK"
#endif
#include "expect.h"
#include "qflare.h"

#include <string.h>

#define COUNT ((size_t)18)

int main(void)
{
    static uint8_t ek[QFL_KEM1024_EK_BYTES];
    static uint8_t dk[QFL_KEM1024_DK_BYTES];
    static uint8_t ct[COUNT * QFL_KEM1024_CT_BYTES];
    static uint8_t context[QFL_KEM1024_CONTEXT_BYTES];
    static uint8_t scratch[QFL_KEM1024_SCRATCH_BYTES];
    static uint8_t ss[COUNT * QFL_KEM1024_SS_BYTES];
    static uint8_t opened[COUNT * QFL_KEM1024_SS_BYTES];
    static const uint8_t seed[QFL_KEM1024_SEED_BYTES] = {1, 2, 3};
    uint8_t status = 1;

    qfl_random_install();
    EXPECT(qfl_kem1024_keygen_seeded_batch(ek, dk, &status, seed, 1) == QFL_OK && status == QFL_OK);
    for (size_t row = 0; row < COUNT; row++) {
        uint8_t *const at = ct + row * QFL_KEM1024_CT_BYTES;
        EXPECT(qfl_kem1024_encaps_batch(at, ss + 32 * row, &status, ek, 1) == QFL_OK && status == QFL_OK);
        /* CT: what encapsulation drew counts as secret; here the ciphertexts are given, and ss is compared. */
        QFL_CT_PUBLIC(at, QFL_KEM1024_CT_BYTES);
        QFL_CT_PUBLIC(ss + 32 * row, QFL_KEM1024_SS_BYTES);
        at[100] ^= (uint8_t)(row % 2);
    }

    QFL_CT_SECRET(dk, 1536);                           /* dk_PKE */
    QFL_CT_SECRET(dk + QFL_KEM1024_DK_BYTES - 32, 32); /* z */
    static const unsigned widths[2] = {1, 4};
    for (size_t width = 0; width < 2; width++) {
        EXPECT(qfl_lanes_force(widths[width]) == QFL_OK && qfl_kem1024_lanes_items() == (width == 0 ? 8 : 16));
        EXPECT(qfl_kem1024_lanes_expand(context, dk) == QFL_OK);
        EXPECT(qfl_kem1024_lanes_decaps(opened, scratch, context, ct, COUNT) == QFL_OK);
        /* CT: the test is over; whether they matched is no secret here. */
        QFL_CT_PUBLIC(opened, sizeof opened);
        for (size_t row = 0; row < COUNT; row++) {
            EXPECT((memcmp(ss + 32 * row, opened + 32 * row, 32) == 0) == (row % 2 == 0));
        }
    }
    QFL_CT_PUBLIC(dk, sizeof dk);
    return expect_result("ct_kem_lanes");
}
