/* Constant-time check, to be run under valgrind's memcheck: secrets are marked as uninitialised,
 * and any branch or index that depends on one is an error.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QFL_CT_CHECK
#error "build this with QFL_CT_CHECK"
#endif
#include "expect.h"
#include "qflare.h"

#include <string.h>

/* liboqs is part of what runs; our own marks are on what its caller knows to be secret. */
static void decapsulation(int altered)
{
    static uint8_t ek[QFL_KEM1024_EK_BYTES];
    static uint8_t dk[QFL_KEM1024_DK_BYTES];
    static uint8_t ct[QFL_KEM1024_CT_BYTES];
    uint8_t ss[QFL_KEM1024_SS_BYTES];
    uint8_t opened[QFL_KEM1024_SS_BYTES];
    uint8_t status = 1;
    static const uint8_t seed[QFL_KEM1024_SEED_BYTES] = {1, 2, 3};
    static const uint8_t m[32] = {4, 5, 6};

    EXPECT(qfl_kem1024_keygen_seeded_batch(ek, dk, &status, seed, 1) == QFL_OK && status == QFL_OK);
    EXPECT(qfl_random_input_begin(m, sizeof m) == QFL_OK);
    EXPECT(qfl_kem1024_encaps_batch(ct, ss, &status, ek, 1) == QFL_OK && status == QFL_OK);
    EXPECT(qfl_random_input_end() == 0);
    ct[100] ^= (uint8_t)altered;

    QFL_CT_SECRET(dk, 1536);                           /* dk_PKE */
    QFL_CT_SECRET(dk + QFL_KEM1024_DK_BYTES - 32, 32); /* z */
    EXPECT(qfl_kem1024_decaps_batch(opened, &status, dk, ct, 1) == QFL_OK && status == QFL_OK);
    /* CT: the test is over; whether it matched is no secret here. */
    QFL_CT_PUBLIC(opened, sizeof opened);
    EXPECT((memcmp(ss, opened, sizeof ss) == 0) == !altered);

    EXPECT(qfl_kem1024_decaps_one_key(opened, dk, ct, 1) == QFL_OK);
    EXPECT(qfl_kem1024_check_dk_batch(&status, dk, 1) == QFL_OK && status == QFL_OK);
    QFL_CT_PUBLIC(dk, sizeof dk);
    qfl_zeroize(dk, sizeof dk);
}

static void key_generation(void)
{
    static uint8_t ek[QFL_KEM1024_EK_BYTES];
    static uint8_t dk[QFL_KEM1024_DK_BYTES];
    uint8_t seed[QFL_KEM1024_SEED_BYTES];
    uint8_t status = 1;
    memset(seed, 7, sizeof seed);
    QFL_CT_SECRET(seed + 32, 32); /* z; d gives rho, which is public, by a hash that cannot tell */
    EXPECT(qfl_kem1024_keygen_seeded_batch(ek, dk, &status, seed, 1) == QFL_OK && status == QFL_OK);
    QFL_CT_PUBLIC(dk, sizeof dk);
}

int main(void)
{
    qfl_random_install();
    decapsulation(0);
    decapsulation(1);
    key_generation();
    return expect_result("ct_check");
}
