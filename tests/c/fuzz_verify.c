/* libFuzzer: whatever bytes come as signature, key, message or context, the lanes say of them what
 * liboqs says.  SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t context[3] = "ctx";
static const uint8_t message[64] = {1, 2, 3};
static uint8_t pk[QFL_MLDSA44_PK_BYTES], sk[QFL_MLDSA44_SK_BYTES], sig[QFL_MLDSA44_SIG_BYTES];
static uint8_t scratch[QFL_MLDSA44_SCRATCH_BYTES];

static void require(int holds)
{
    if (!holds) {
        abort();
    }
}

static void prepare(void)
{
    static const uint8_t seed[QFL_MLDSA_SEED_BYTES] = {7};
    const uint64_t sizes[1] = {sizeof message};
    uint8_t status = 0;
    qfl_random_install();
    require(qfl_mldsa_keygen_seeded_batch(pk, sk, &status, seed, 44, 1) == QFL_OK && status == QFL_OK);
    require(qfl_mldsa_sign_batch(sig, &status, sk, message, sizes, context, 44, 1, 1, sizeof message,
                                 sizeof context) == QFL_OK &&
            status == QFL_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_prepared = 0;
    if (!is_prepared) {
        prepare();
        is_prepared = 1;
    }
    if (size < 3) {
        return 0;
    }
    uint8_t some_pk[sizeof pk], some_sig[sizeof sig];
    memcpy(some_pk, pk, sizeof pk);
    memcpy(some_sig, sig, sizeof sig);
    uint8_t *const target = data[0] & 1 ? some_pk : some_sig;
    const size_t target_size = data[0] & 1 ? sizeof some_pk : sizeof some_sig;
    /* From the end as often as from a place: the hints are the last bytes. */
    const size_t at = data[0] & 2 ? target_size - (size - 3 < target_size ? size - 3 : target_size)
                                  : ((size_t)data[1] << 8 | data[2]) % target_size;
    const size_t take = size - 3 < target_size - at ? size - 3 : target_size - at;
    memcpy(target + at, data + 3, take);
    const uint64_t sizes[2] = {sizeof message, 0};
    uint8_t keys[2 * sizeof pk], sigs[2 * sizeof sig], expected[2] = {9, 9}, found[2] = {9, 9};
    memcpy(keys, some_pk, sizeof pk);
    memcpy(keys + sizeof pk, pk, sizeof pk);
    memcpy(sigs, some_sig, sizeof sig);
    memcpy(sigs + sizeof sig, some_sig, sizeof sig);
    require(qfl_mldsa_verify_batch(expected, keys, message, sizes, sigs, context, 44, 2, 2, sizeof message,
                                   sizeof context) == QFL_OK);
    if (qfl_mldsa44_lanes_items() > 0) {
        require(qfl_mldsa44_lanes_verify(found, scratch, keys, message, sizes, sigs, context, 2, 2, sizeof message,
                                         sizeof context) == QFL_OK);
        require(memcmp(found, expected, sizeof found) == 0);
    }
    return 0;
}
