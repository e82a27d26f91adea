/* ML-KEM-1024 batches: arguments, failing rows, round trips, under sanitizers.
 * Buffers come from malloc at their exact size, so that AddressSanitizer sees a byte too far.
 * SPDX-License-Identifier: Apache-2.0 */
#include "expect.h"
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define COUNT ((size_t)9)

static uint8_t *rows(size_t count, size_t size)
{
    uint8_t *const memory = malloc(count * size > 0 ? count * size : 1);
    if (memory == NULL) {
        abort();
    }
    memset(memory, 0xa5, count * size);
    return memory;
}

static void refuses_bad_arguments(uint8_t *ek, uint8_t *dk, uint8_t *status)
{
    const size_t too_many[] = {QFL_BATCH_MAX + 1, (size_t)1 << 31, SIZE_MAX / 1568, SIZE_MAX / 3168 + 1, SIZE_MAX};
    for (size_t at = 0; at < sizeof too_many / sizeof *too_many; at++) {
        const size_t count = too_many[at];
        EXPECT(qfl_kem1024_keygen_batch(ek, dk, status, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_keygen_seeded_batch(ek, dk, status, ek, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_encaps_batch(ek, dk, status, ek, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_decaps_batch(ek, status, dk, ek, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_decaps_one_key(ek, dk, ek, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_check_ek_batch(status, ek, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_check_dk_batch(status, dk, count) == QFL_ERR_COUNT);
    }
    EXPECT(qfl_kem1024_keygen_batch(NULL, dk, status, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_keygen_batch(ek, NULL, status, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_keygen_batch(ek, dk, NULL, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_keygen_seeded_batch(ek, dk, status, NULL, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_encaps_batch(ek, dk, status, NULL, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_decaps_batch(ek, status, NULL, ek, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_decaps_one_key(ek, NULL, ek, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_check_ek_batch(NULL, ek, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kem1024_check_dk_batch(status, NULL, 1) == QFL_ERR_ARGUMENT);
    /* Refused before anything is written. */
    EXPECT(all_bytes_are(ek, COUNT * QFL_KEM1024_EK_BYTES, 0xa5));
    EXPECT(all_bytes_are(dk, COUNT * QFL_KEM1024_DK_BYTES, 0xa5));
    EXPECT(all_bytes_are(status, COUNT, 0xa5));
    /* No rows need no memory. */
    EXPECT(qfl_kem1024_keygen_batch(NULL, NULL, NULL, 0) == QFL_OK);
    EXPECT(qfl_kem1024_encaps_batch(NULL, NULL, NULL, NULL, 0) == QFL_OK);
    EXPECT(qfl_kem1024_decaps_batch(NULL, NULL, NULL, NULL, 0) == QFL_OK);
}

int main(void)
{
    qfl_random_install();
    uint8_t *const ek = rows(COUNT, QFL_KEM1024_EK_BYTES);
    uint8_t *const dk = rows(COUNT, QFL_KEM1024_DK_BYTES);
    uint8_t *const ct = rows(COUNT, QFL_KEM1024_CT_BYTES);
    uint8_t *const ss = rows(COUNT, QFL_KEM1024_SS_BYTES);
    uint8_t *const opened = rows(COUNT, QFL_KEM1024_SS_BYTES);
    uint8_t *const status = rows(COUNT, 1);
    refuses_bad_arguments(ek, dk, status);

    EXPECT(qfl_kem1024_keygen_batch(ek, dk, status, COUNT) == QFL_OK && all_bytes_are(status, COUNT, QFL_OK));
    EXPECT(qfl_kem1024_check_ek_batch(status, ek, COUNT) == QFL_OK && all_bytes_are(status, COUNT, QFL_OK));
    EXPECT(qfl_kem1024_check_dk_batch(status, dk, COUNT) == QFL_OK && all_bytes_are(status, COUNT, QFL_OK));
    EXPECT(qfl_kem1024_encaps_batch(ct, ss, status, ek, COUNT) == QFL_OK && all_bytes_are(status, COUNT, QFL_OK));
    EXPECT(qfl_kem1024_decaps_batch(opened, status, dk, ct, COUNT) == QFL_OK && all_bytes_are(status, COUNT, QFL_OK));
    EXPECT(memcmp(ss, opened, COUNT * QFL_KEM1024_SS_BYTES) == 0);
    EXPECT(qfl_kem1024_decaps_one_key(opened, dk, ct, COUNT) == QFL_OK);
    EXPECT(memcmp(ss, opened, QFL_KEM1024_SS_BYTES) == 0);
    EXPECT(memcmp(ss + 32, opened + 32, QFL_KEM1024_SS_BYTES) != 0);

    /* One bad row at every position fails alone and is zero. */
    for (size_t bad = 0; bad < COUNT; bad++) {
        uint8_t *const coefficient = ek + bad * QFL_KEM1024_EK_BYTES + 1534; /* the last one of the key */
        uint8_t *const hash = dk + bad * QFL_KEM1024_DK_BYTES + QFL_KEM1024_DK_BYTES - 33;
        const uint8_t kept = coefficient[1];
        coefficient[1] = 0xff;
        *hash ^= 1;
        EXPECT(qfl_kem1024_encaps_batch(ct, ss, status, ek, COUNT) == QFL_OK);
        for (size_t row = 0; row < COUNT; row++) {
            EXPECT(status[row] == (row == bad ? QFL_ERR_KEY : QFL_OK));
            EXPECT(all_bytes_are(ct + row * QFL_KEM1024_CT_BYTES, QFL_KEM1024_CT_BYTES, 0) == (row == bad));
            EXPECT(all_bytes_are(ss + row * 32, 32, 0) == (row == bad));
        }
        EXPECT(qfl_kem1024_decaps_batch(opened, status, dk, ct, COUNT) == QFL_OK);
        for (size_t row = 0; row < COUNT; row++) {
            EXPECT(status[row] == (row == bad ? QFL_ERR_KEY : QFL_OK));
            EXPECT(all_bytes_are(opened + row * 32, 32, 0) == (row == bad));
        }
        EXPECT(qfl_kem1024_decaps_one_key(opened, dk + bad * QFL_KEM1024_DK_BYTES, ct, COUNT) == QFL_ERR_KEY);
        EXPECT(all_bytes_are(opened, COUNT * 32, 0));
        coefficient[1] = kept;
        *hash ^= 1;
    }

    /* A failing source: every row says so and is zero. */
    qfl_random_fail_for_test(1);
    EXPECT(qfl_kem1024_keygen_batch(ek, dk, status, COUNT) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, QFL_ERR_ENTROPY));
    EXPECT(all_bytes_are(ek, COUNT * QFL_KEM1024_EK_BYTES, 0) && all_bytes_are(dk, COUNT * QFL_KEM1024_DK_BYTES, 0));
    qfl_random_fail_for_test(0);

    free(ek);
    free(dk);
    free(ct);
    free(ss);
    free(opened);
    free(status);
    return expect_result("test_kem");
}
