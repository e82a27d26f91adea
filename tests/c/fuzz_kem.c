/* libFuzzer: whatever bytes come as ciphertext, key or encapsulation key, the lanes engine says what
 * liboqs says, and neither reads or writes out of bounds.  SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define ROWS ((size_t)5) /* enough for the lanes to be used, few enough to be quick */

static uint8_t ek[QFL_KEM1024_EK_BYTES], dk[QFL_KEM1024_DK_BYTES];
static uint8_t ct[ROWS * QFL_KEM1024_CT_BYTES];
static uint8_t context[QFL_KEM1024_CONTEXT_BYTES], scratch[QFL_KEM1024_SCRATCH_BYTES];

static void require(int holds)
{
    if (!holds) {
        abort();
    }
}

/* One key pair and one ciphertext for all inputs; what comes is laid over them. */
static void prepare(void)
{
    static const uint8_t seed[QFL_KEM1024_SEED_BYTES] = {7};
    uint8_t status[ROWS], ss[ROWS * QFL_KEM1024_SS_BYTES], eks[ROWS * QFL_KEM1024_EK_BYTES];
    qfl_random_install();
    require(qfl_kem1024_keygen_seeded_batch(ek, dk, status, seed, 1) == QFL_OK && status[0] == QFL_OK);
    for (size_t row = 0; row < ROWS; row++) {
        memcpy(eks + row * sizeof ek, ek, sizeof ek);
    }
    require(qfl_kem1024_encaps_batch(ct, ss, status, eks, ROWS) == QFL_OK && status[0] == QFL_OK);
}

/* Lay `size` bytes of `data` over `target` from a place that they name. */
static void overlay(uint8_t *target, size_t target_size, const uint8_t *data, size_t size)
{
    if (size < 2) {
        return;
    }
    const size_t at = ((size_t)data[0] << 8 | data[1]) % target_size;
    const size_t take = size - 2 < target_size - at ? size - 2 : target_size - at;
    memcpy(target + at, data + 2, take);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_prepared = 0;
    uint8_t some_ct[sizeof ct], some_dk[sizeof dk], some_ek[sizeof ek], status = 0;
    uint8_t expected[ROWS * QFL_KEM1024_SS_BYTES], found[sizeof expected];
    if (!is_prepared) {
        prepare();
        is_prepared = 1;
    }
    if (size < 1) {
        return 0;
    }
    memcpy(some_ct, ct, sizeof ct);
    memcpy(some_dk, dk, sizeof dk);
    memcpy(some_ek, ek, sizeof ek);
    const unsigned kind = data[0] % 3;
    if (kind == 0) {
        overlay(some_ct, sizeof some_ct, data + 1, size - 1);
    } else if (kind == 1) {
        overlay(some_dk, sizeof some_dk, data + 1, size - 1);
    } else {
        overlay(some_ek, sizeof some_ek, data + 1, size - 1);
        require(qfl_kem1024_check_ek_batch(&status, some_ek, 1) == QFL_OK);
        uint8_t out_ct[QFL_KEM1024_CT_BYTES], out_ss[QFL_KEM1024_SS_BYTES], made = 0xff;
        require(qfl_kem1024_encaps_batch(out_ct, out_ss, &made, some_ek, 1) == QFL_OK);
        require(made == status); /* a key that is refused makes nothing, one that is not does */
        uint8_t statuses[ROWS], many[ROWS * QFL_KEM1024_EK_BYTES], made_ct[sizeof ct];
        for (size_t row = 0; row < ROWS; row++) { /* it fails alone, wherever it stands */
            memcpy(many + row * sizeof ek, row == ROWS / 2 ? some_ek : ek, sizeof ek);
        }
        require(qfl_kem1024_lanes_encaps_batch(made_ct, found, statuses, scratch, many, ROWS) == QFL_OK);
        for (size_t row = 0; row < ROWS; row++) {
            require(statuses[row] == (row == ROWS / 2 ? status : QFL_OK));
        }
        return 0;
    }
    const qfl_status by_liboqs = qfl_kem1024_decaps_one_key(expected, some_dk, some_ct, ROWS);
    const qfl_status by_lanes = qfl_kem1024_lanes_expand(context, some_dk);
    require(by_liboqs == by_lanes);
    if (by_lanes == QFL_OK && qfl_kem1024_lanes_items() > 0) {
        require(qfl_kem1024_lanes_decaps(found, scratch, context, some_ct, ROWS) == QFL_OK);
        require(memcmp(found, expected, sizeof found) == 0);
        uint8_t statuses[ROWS], dks[ROWS * sizeof dk];
        for (size_t row = 0; row < ROWS; row++) {
            memcpy(dks + row * sizeof dk, some_dk, sizeof dk);
        }
        require(qfl_kem1024_lanes_decaps_batch(found, statuses, scratch, dks, some_ct, ROWS) == QFL_OK);
        require(memcmp(found, expected, sizeof found) == 0);
    }
    return 0;
}
