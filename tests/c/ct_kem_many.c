/* Constant time of key generation, encapsulation and decapsulation in the ML-KEM-1024 engine, under valgrind's
 * memcheck: seeds, messages and the secret parts of keys count as uninitialised, and a branch or an index that
 * depends on one is reported.  rho is part of every encapsulation key: sampling the matrix may branch on it, and
 * on nothing else.
 *
 * valgrind reports a processor without AVX-512, so this runs the portable and the AVX2 engine; ct_kem_lanes.c says
 * what stands for the AVX-512 one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QFL_CT_CHECK
#error "build this with QFL_CT_CHECK"
#endif
#include "expect.h"
#include "qflare.h"

#include <string.h>

#define COUNT ((size_t)9) /* more than a group of the portable engine */

static uint8_t ek[COUNT * QFL_KEM1024_EK_BYTES];
static uint8_t dk[COUNT * QFL_KEM1024_DK_BYTES];
static uint8_t ct[COUNT * QFL_KEM1024_CT_BYTES];
static uint8_t ss[COUNT * QFL_KEM1024_SS_BYTES];
static uint8_t opened[COUNT * QFL_KEM1024_SS_BYTES];
static uint8_t seeds[COUNT * QFL_KEM1024_SEED_BYTES];
static uint8_t scratch[QFL_KEM1024_SCRATCH_BYTES];

int main(void)
{
    static const unsigned widths[2] = {1, 4};
    uint8_t status[COUNT];
    qfl_random_install();
    for (size_t width = 0; width < 2; width++) {
        EXPECT(qfl_lanes_force(widths[width]) == QFL_OK);
        for (size_t at = 0; at < sizeof seeds; at++) {
            seeds[at] = (uint8_t)(at * 167 % 251);
        }
        QFL_CT_SECRET(seeds, sizeof seeds);
        EXPECT(qfl_kem1024_lanes_keygen_seeded_batch(ek, dk, status, scratch, seeds, COUNT) == QFL_OK);
        EXPECT(all_bytes_are(status, COUNT, QFL_OK));
        /* CT: what is sent, and what the key repeats of it, is no secret any more. */
        QFL_CT_PUBLIC(ek, sizeof ek);
        for (size_t row = 0; row < COUNT; row++) {
            QFL_CT_PUBLIC(dk + row * QFL_KEM1024_DK_BYTES + 1536, QFL_KEM1024_EK_BYTES + 32);
        }
        /* Fresh randomness counts as secret where it is drawn (csrc/random.c). */
        EXPECT(qfl_kem1024_lanes_encaps_batch(ct, ss, status, scratch, ek, COUNT) == QFL_OK);
        EXPECT(all_bytes_are(status, COUNT, QFL_OK));
        QFL_CT_PUBLIC(ct, sizeof ct);
        for (size_t row = 1; row < COUNT; row += 2) {
            ct[row * QFL_KEM1024_CT_BYTES + 100] ^= 1;
        }
        EXPECT(qfl_kem1024_lanes_decaps_batch(opened, status, scratch, dk, ct, COUNT) == QFL_OK);
        EXPECT(all_bytes_are(status, COUNT, QFL_OK));
        /* CT: the test is over; whether they matched is no secret here. */
        QFL_CT_PUBLIC(ss, sizeof ss);
        QFL_CT_PUBLIC(opened, sizeof opened);
        for (size_t row = 0; row < COUNT; row++) {
            EXPECT((memcmp(ss + 32 * row, opened + 32 * row, 32) == 0) == (row % 2 == 0));
        }
        EXPECT(qfl_kem1024_lanes_keygen_batch(ek, dk, status, scratch, COUNT) == QFL_OK);
        EXPECT(all_bytes_are(status, COUNT, QFL_OK));
        QFL_CT_PUBLIC(ek, sizeof ek);
        QFL_CT_PUBLIC(dk, sizeof dk);
        QFL_CT_PUBLIC(scratch, sizeof scratch);
    }
    return expect_result("ct_kem_many");
}
