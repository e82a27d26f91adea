/* The ML-KEM-1024 engine against liboqs, under sanitizers: buffers come from malloc at their exact
 * size and at every alignment, so that a byte too far and a wrong alignment are found.
 * SPDX-License-Identifier: Apache-2.0 */
#include "expect.h"
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define COUNT ((size_t)37) /* one full call of any width, and one with idle places */

static uint8_t *rows(size_t count, size_t size)
{
    uint8_t *const memory = malloc(count * size > 0 ? count * size : 1);
    if (memory == NULL) {
        abort();
    }
    memset(memory, 0xa5, count * size > 0 ? count * size : 1);
    return memory;
}

static void refuses_bad_arguments(uint8_t *scratch, uint8_t *context, const uint8_t *dk, const uint8_t *ct)
{
    uint8_t ss[QFL_KEM1024_SS_BYTES];
    memset(ss, 0xa5, sizeof ss);
    const size_t too_many[] = {QFL_BATCH_MAX + 1, (size_t)1 << 31, SIZE_MAX / 1568, SIZE_MAX};
    for (size_t at = 0; at < sizeof too_many / sizeof *too_many; at++) {
        EXPECT(qfl_kem1024_lanes_decaps(ss, scratch, context, ct, too_many[at]) == QFL_ERR_COUNT);
    }
    EXPECT(qfl_kem1024_lanes_expand(NULL, dk) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_lanes_expand(context, NULL) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_lanes_decaps(NULL, scratch, context, ct, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_lanes_decaps(ss, NULL, context, ct, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_lanes_decaps(ss, scratch, NULL, ct, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_lanes_decaps(ss, scratch, context, NULL, 1) == QFL_ERR_ARGUMENT);
    EXPECT(all_bytes_are(ss, sizeof ss, 0xa5));
}

static void one_width(const uint8_t *dk, const uint8_t *ct, const uint8_t *expected, size_t step)
{
    for (size_t shift = 0; shift < 64; shift += 21) {
        uint8_t *const context = rows(1, QFL_KEM1024_CONTEXT_BYTES + shift);
        uint8_t *const scratch = rows(1, QFL_KEM1024_SCRATCH_BYTES + shift);
        memset(scratch, 0, QFL_KEM1024_SCRATCH_BYTES + shift);
        EXPECT(qfl_kem1024_lanes_expand(context + shift, dk) == QFL_OK);
        for (size_t count = 0; count <= COUNT; count += step) {
            uint8_t *const some = rows(count, QFL_KEM1024_CT_BYTES);
            uint8_t *const ss = rows(count, QFL_KEM1024_SS_BYTES);
            memcpy(some, ct + (COUNT - count) * QFL_KEM1024_CT_BYTES, count * QFL_KEM1024_CT_BYTES);
            EXPECT(qfl_kem1024_lanes_decaps(ss, scratch + shift, context + shift, some, count) == QFL_OK);
            EXPECT(memcmp(ss, expected + (COUNT - count) * QFL_KEM1024_SS_BYTES, count * QFL_KEM1024_SS_BYTES) == 0);
            free(some);
            free(ss);
        }
        EXPECT(all_bytes_are(scratch, QFL_KEM1024_SCRATCH_BYTES + shift, 0));
        free(context);
        free(scratch);
    }
}

int main(void)
{
    qfl_random_install();
    uint8_t *const ek = rows(1, QFL_KEM1024_EK_BYTES);
    uint8_t *const dk = rows(1, QFL_KEM1024_DK_BYTES);
    uint8_t *const ct = rows(COUNT, QFL_KEM1024_CT_BYTES);
    uint8_t *const ss = rows(COUNT, QFL_KEM1024_SS_BYTES);
    uint8_t *const context = rows(1, QFL_KEM1024_CONTEXT_BYTES);
    uint8_t *const scratch = rows(1, QFL_KEM1024_SCRATCH_BYTES);
    uint8_t status = 1;

    for (unsigned round = 0; round < 6; round++) {
        EXPECT(qfl_kem1024_keygen_batch(ek, dk, &status, 1) == QFL_OK && status == QFL_OK);
        if (round == 4) { /* every coefficient of the secret is 4095 */
            memset(dk, 0xff, 1536);
        }
        for (size_t row = 0; row < COUNT; row++) {
            uint8_t *const at = ct + row * QFL_KEM1024_CT_BYTES;
            EXPECT(qfl_kem1024_encaps_batch(at, ss, &status, ek, 1) == QFL_OK && status == QFL_OK);
            if (row % 3 == 1) {
                at[(row * 41 + round * 7) % QFL_KEM1024_CT_BYTES] ^= (uint8_t)(1u << (row % 8));
            }
            if (row % 11 == 5) {
                memset(at, row % 2 == 0 ? 0 : 0xff, QFL_KEM1024_CT_BYTES);
            }
        }
        EXPECT(qfl_kem1024_decaps_one_key(ss, dk, ct, COUNT) == QFL_OK);
        static const unsigned widths[3] = {1, 4, 8};
        for (size_t i = 0; i < 3; i++) {
            if (qfl_lanes_force(widths[i]) == QFL_OK) {
                EXPECT(widths[i] == 1 ? qfl_kem1024_lanes_items() == 8 : qfl_kem1024_lanes_items() >= 16);
                one_width(dk, ct, ss, widths[i] == 1 ? 9 : 1); /* portable vectors are slow under sanitizers */
            } else {
                printf("test_kem_lanes: no %u wide on this machine\n", widths[i]);
            }
        }
        EXPECT(qfl_lanes_force(0) == QFL_OK);
    }
    refuses_bad_arguments(scratch, context, dk, ct);
    dk[QFL_KEM1024_DK_BYTES - 40] ^= 1; /* H(ek) */
    EXPECT(qfl_kem1024_lanes_expand(context, dk) == QFL_ERR_KEY);
    EXPECT(all_bytes_are(context, QFL_KEM1024_CONTEXT_BYTES, 0));

    free(ek);
    free(dk);
    free(ct);
    free(ss);
    free(context);
    free(scratch);
    return expect_result("test_kem_lanes");
}
