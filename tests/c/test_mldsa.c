/* ML-DSA batches: arguments, failing rows, round trips, under sanitizers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "expect.h"
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define COUNT ((size_t)5)

static uint8_t *rows(size_t count, size_t size)
{
    uint8_t *const memory = malloc(count * size);
    if (memory == NULL) {
        abort();
    }
    memset(memory, 0xa5, count * size);
    return memory;
}

static void one_set(int set, size_t pk_size, size_t sk_size, size_t sig_size)
{
    static const uint64_t sizes[COUNT] = {0, 1, 64, 3, 32};
    const size_t messages_size = 100;
    uint8_t *const pk = rows(COUNT, pk_size);
    uint8_t *const sk = rows(COUNT, sk_size);
    uint8_t *const sig = rows(COUNT, sig_size);
    uint8_t *const messages = rows(1, messages_size);
    uint8_t *const context = rows(1, QFL_MLDSA_CONTEXT_MAX);
    uint8_t *const seeds = rows(COUNT, QFL_MLDSA_SEED_BYTES);
    uint8_t *const status = rows(COUNT, 1);
    const uint64_t too_long[COUNT] = {0, 1, 64, 3, 33};
    const uint64_t wrapping[COUNT] = {UINT64_MAX, 2, 33, 33, 33};

    EXPECT(qfl_mldsa_keygen_batch(pk, sk, status, set, QFL_BATCH_MAX + 1) == QFL_ERR_COUNT);
    EXPECT(qfl_mldsa_keygen_batch(pk, sk, status, 65, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_mldsa_keygen_batch(NULL, sk, status, set, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_mldsa_keygen_seeded_batch(pk, sk, status, NULL, set, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_mldsa_keygen_batch(NULL, NULL, NULL, set, 0) == QFL_OK);
    EXPECT(qfl_mldsa_sign_batch(sig, status, sk, messages, too_long, NULL, set, COUNT, COUNT, messages_size, 0) ==
           QFL_ERR_ARGUMENT);
    EXPECT(qfl_mldsa_sign_batch(sig, status, sk, messages, wrapping, NULL, set, COUNT, COUNT, messages_size, 0) ==
           QFL_ERR_ARGUMENT);
    EXPECT(qfl_mldsa_sign_batch(sig, status, sk, messages, sizes, context, set, COUNT, COUNT, messages_size, 256) ==
           QFL_ERR_ARGUMENT);
    EXPECT(qfl_mldsa_sign_batch(sig, status, sk, messages, sizes, NULL, set, COUNT, 2, messages_size, 0) ==
           QFL_ERR_ARGUMENT);
    EXPECT(qfl_mldsa_sign_batch(sig, status, sk, NULL, sizes, NULL, set, COUNT, COUNT, messages_size, 0) ==
           QFL_ERR_ARGUMENT);
    EXPECT(qfl_mldsa_verify_batch(status, pk, messages, NULL, sig, NULL, set, COUNT, COUNT, messages_size, 0) ==
           QFL_ERR_ARGUMENT);
    EXPECT(all_bytes_are(pk, COUNT * pk_size, 0xa5) && all_bytes_are(sk, COUNT * sk_size, 0xa5));
    EXPECT(all_bytes_are(sig, COUNT * sig_size, 0xa5) && all_bytes_are(status, COUNT, 0xa5));

    EXPECT(qfl_mldsa_keygen_seeded_batch(pk, sk, status, seeds, set, COUNT) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, QFL_OK) && memcmp(pk, pk + pk_size, pk_size) == 0);
    EXPECT(qfl_mldsa_keygen_batch(pk, sk, status, set, COUNT) == QFL_OK && all_bytes_are(status, COUNT, QFL_OK));
    EXPECT(qfl_mldsa_sign_batch(sig, status, sk, messages, sizes, context, set, COUNT, COUNT, messages_size,
                                QFL_MLDSA_CONTEXT_MAX) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, QFL_OK));
    EXPECT(qfl_mldsa_verify_batch(status, pk, messages, sizes, sig, context, set, COUNT, COUNT, messages_size,
                                  QFL_MLDSA_CONTEXT_MAX) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, QFL_OK));
    EXPECT(qfl_mldsa_verify_batch(status, pk, messages, sizes, sig, context, set, COUNT, 1, messages_size,
                                  QFL_MLDSA_CONTEXT_MAX) == QFL_OK);
    EXPECT(status[0] == QFL_OK && all_bytes_are(status + 1, COUNT - 1, QFL_ERR_SIGNATURE));
    /* Every byte of a signature changed, the hints at its end included: refused, and nothing read beyond. */
    for (size_t at = 0; at < sig_size; at++) {
        sig[(COUNT - 1) * sig_size + at] ^= 0x81;
        if (at % 7 == 0 || at > sig_size - 100) {
            EXPECT(qfl_mldsa_verify_batch(status, pk, messages, sizes, sig, context, set, COUNT, COUNT, messages_size,
                                          QFL_MLDSA_CONTEXT_MAX) == QFL_OK);
            EXPECT(all_bytes_are(status, COUNT - 1, QFL_OK) && status[COUNT - 1] == QFL_ERR_SIGNATURE);
        }
        sig[(COUNT - 1) * sig_size + at] ^= 0x81;
    }

    qfl_random_fail_for_test(1);
    EXPECT(qfl_mldsa_sign_batch(sig, status, sk, messages, sizes, NULL, set, COUNT, COUNT, messages_size, 0) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, QFL_ERR_ENTROPY) && all_bytes_are(sig, COUNT * sig_size, 0));
    EXPECT(qfl_mldsa_keygen_batch(pk, sk, status, set, COUNT) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, QFL_ERR_ENTROPY) && all_bytes_are(sk, COUNT * sk_size, 0));
    qfl_random_fail_for_test(0);

    free(pk);
    free(sk);
    free(sig);
    free(messages);
    free(context);
    free(seeds);
    free(status);
}

int main(void)
{
    qfl_random_install();
    one_set(44, QFL_MLDSA44_PK_BYTES, QFL_MLDSA44_SK_BYTES, QFL_MLDSA44_SIG_BYTES);
    one_set(87, QFL_MLDSA87_PK_BYTES, QFL_MLDSA87_SK_BYTES, QFL_MLDSA87_SIG_BYTES);
    return expect_result("test_mldsa");
}
