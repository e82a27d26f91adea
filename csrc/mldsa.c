/* ML-DSA-44 and ML-DSA-87 batches over liboqs.
 *
 * FIPS 204 names here; liboqs's public_key is pk, its secret_key sk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "qflare.h"

#include <oqs/oqs.h>

_Static_assert(QFL_MLDSA44_PK_BYTES == OQS_SIG_ml_dsa_44_length_public_key, "pk size");
_Static_assert(QFL_MLDSA44_SK_BYTES == OQS_SIG_ml_dsa_44_length_secret_key, "sk size");
_Static_assert(QFL_MLDSA44_SIG_BYTES == OQS_SIG_ml_dsa_44_length_signature, "signature size");
_Static_assert(QFL_MLDSA87_PK_BYTES == OQS_SIG_ml_dsa_87_length_public_key, "pk size");
_Static_assert(QFL_MLDSA87_SK_BYTES == OQS_SIG_ml_dsa_87_length_secret_key, "sk size");
_Static_assert(QFL_MLDSA87_SIG_BYTES == OQS_SIG_ml_dsa_87_length_signature, "signature size");

/* One parameter set: its sizes and liboqs's calls. */
typedef struct parameter_set {
    size_t pk_size;
    size_t sk_size;
    size_t sig_size;
    OQS_STATUS (*keypair)(uint8_t *, uint8_t *);
    OQS_STATUS (*sign)(uint8_t *, size_t *, const uint8_t *, size_t, const uint8_t *, size_t, const uint8_t *);
    OQS_STATUS (*verify)(const uint8_t *, size_t, const uint8_t *, size_t, const uint8_t *, size_t, const uint8_t *);
} parameter_set;

static const parameter_set SET_44 = {
    QFL_MLDSA44_PK_BYTES,     QFL_MLDSA44_SK_BYTES,
    QFL_MLDSA44_SIG_BYTES,    OQS_SIG_ml_dsa_44_keypair,
    OQS_SIG_ml_dsa_44_sign_with_ctx_str, OQS_SIG_ml_dsa_44_verify_with_ctx_str,
};

static const parameter_set SET_87 = {
    QFL_MLDSA87_PK_BYTES,     QFL_MLDSA87_SK_BYTES,
    QFL_MLDSA87_SIG_BYTES,    OQS_SIG_ml_dsa_87_keypair,
    OQS_SIG_ml_dsa_87_sign_with_ctx_str, OQS_SIG_ml_dsa_87_verify_with_ctx_str,
};

static const parameter_set *find_set(int set)
{
    return set == 44 ? &SET_44 : set == 87 ? &SET_87 : NULL;
}

/* 1 if the messages' sizes add up to what lies there; never overflows. */
static int sizes_are_sound(const uint64_t *sizes, size_t count, size_t messages_size)
{
    uint64_t left = messages_size;
    if (sizes == NULL) {
        return 0;
    }
    for (size_t row = 0; row < count; row++) {
        if (sizes[row] > left) {
            return 0;
        }
        left -= sizes[row];
    }
    return left == 0;
}

/* One key pair from a seed that liboqs draws as its randomness (DESIGN, decision 4). */
static qfl_status keygen_seeded(uint8_t *pk, uint8_t *sk, const uint8_t *seed, const parameter_set *set)
{
    if (qfl_random_input_begin(seed, QFL_MLDSA_SEED_BYTES) != QFL_OK) {
        return QFL_ERR_ARGUMENT;
    }
    qfl_random_watch();
    const OQS_STATUS result = set->keypair(pk, sk);
    const size_t left = qfl_random_input_end();
    /* A liboqs that draws more, less or elsewhere would give another key than the standard's. */
    const int drew_seed = left == 0 && qfl_random_drawn() == QFL_MLDSA_SEED_BYTES && !qfl_random_failed();
    return drew_seed && result == OQS_SUCCESS ? QFL_OK : QFL_ERR_BACKEND;
}

static qfl_status keygen_fresh(uint8_t *pk, uint8_t *sk, const parameter_set *set)
{
    qfl_random_watch();
    const OQS_STATUS result = set->keypair(pk, sk);
    if (qfl_random_failed()) {
        return QFL_ERR_ENTROPY;
    }
    return result == OQS_SUCCESS ? QFL_OK : QFL_ERR_BACKEND;
}

/* Both forms of key generation; `seeds` is null for fresh keys. */
static qfl_status keygen_rows(uint8_t *pk, uint8_t *sk, uint8_t *status, const uint8_t *seeds,
                              const parameter_set *set, size_t count)
{
    for (size_t row = 0; row < count; row++) {
        uint8_t *const row_pk = pk + row * set->pk_size;
        uint8_t *const row_sk = sk + row * set->sk_size;
        const qfl_status result = seeds == NULL
                                      ? keygen_fresh(row_pk, row_sk, set)
                                      : keygen_seeded(row_pk, row_sk, seeds + row * QFL_MLDSA_SEED_BYTES, set);
        if (result != QFL_OK) {
            qfl_zeroize(row_pk, set->pk_size);
            qfl_zeroize(row_sk, set->sk_size);
        }
        status[row] = (uint8_t)result;
    }
    return QFL_OK;
}

qfl_status qfl_mldsa_keygen_batch(uint8_t *pk, uint8_t *sk, uint8_t *status, int set, size_t count)
{
    const parameter_set *const parameters = find_set(set);
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (parameters == NULL || (count > 0 && (pk == NULL || sk == NULL || status == NULL))) {
        return QFL_ERR_ARGUMENT;
    }
    return keygen_rows(pk, sk, status, NULL, parameters, count);
}

qfl_status qfl_mldsa_keygen_seeded_batch(uint8_t *pk, uint8_t *sk, uint8_t *status, const uint8_t *seeds, int set,
                                         size_t count)
{
    const parameter_set *const parameters = find_set(set);
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (parameters == NULL || (count > 0 && (pk == NULL || sk == NULL || status == NULL || seeds == NULL))) {
        return QFL_ERR_ARGUMENT;
    }
    return keygen_rows(pk, sk, status, seeds, parameters, count);
}

/* One signature; liboqs draws the 32 bytes that hedge it. */
static qfl_status sign_row(uint8_t *sig, const uint8_t *sk, const uint8_t *message, size_t message_size,
                           const uint8_t *context, size_t context_size, const parameter_set *set)
{
    size_t sig_size = 0;
    qfl_random_watch();
    const OQS_STATUS result = set->sign(sig, &sig_size, message, message_size, context, context_size, sk);
    if (qfl_random_failed()) {
        return QFL_ERR_ENTROPY; /* the signature was made with zeros in place of the hedge */
    }
    return result == OQS_SUCCESS && sig_size == set->sig_size ? QFL_OK : QFL_ERR_BACKEND;
}

qfl_status qfl_mldsa_sign_batch(uint8_t *sig, uint8_t *status, const uint8_t *sk, const uint8_t *messages,
                                const uint64_t *sizes, const uint8_t *context, int set, size_t count,
                                size_t sk_count, size_t messages_size, size_t context_size)
{
    static const uint8_t nothing = 0; /* liboqs gets a valid pointer even for empty input */
    const parameter_set *const parameters = find_set(set);
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (parameters == NULL || context_size > QFL_MLDSA_CONTEXT_MAX || (context == NULL && context_size > 0) ||
        (messages == NULL && messages_size > 0) || (sk_count != count && sk_count != 1)) {
        return QFL_ERR_ARGUMENT;
    }
    if (count > 0 && (sig == NULL || status == NULL || sk == NULL || !sizes_are_sound(sizes, count, messages_size))) {
        return QFL_ERR_ARGUMENT;
    }
    const size_t sk_stride = sk_count == 1 ? 0 : parameters->sk_size;
    const uint8_t *message = messages == NULL ? &nothing : messages;
    for (size_t row = 0; row < count; row++) {
        uint8_t *const row_sig = sig + row * parameters->sig_size;
        const qfl_status result = sign_row(row_sig, sk + row * sk_stride, message, (size_t)sizes[row],
                                           context == NULL ? &nothing : context, context_size, parameters);
        message += sizes[row];
        if (result != QFL_OK) {
            qfl_zeroize(row_sig, parameters->sig_size);
        }
        status[row] = (uint8_t)result;
    }
    return QFL_OK;
}

qfl_status qfl_mldsa_verify_batch(uint8_t *status, const uint8_t *pk, const uint8_t *messages,
                                  const uint64_t *sizes, const uint8_t *sig, const uint8_t *context, int set,
                                  size_t count, size_t pk_count, size_t messages_size, size_t context_size)
{
    static const uint8_t nothing = 0;
    const parameter_set *const parameters = find_set(set);
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (parameters == NULL || context_size > QFL_MLDSA_CONTEXT_MAX || (context == NULL && context_size > 0) ||
        (messages == NULL && messages_size > 0) || (pk_count != count && pk_count != 1)) {
        return QFL_ERR_ARGUMENT;
    }
    if (count > 0 && (sig == NULL || status == NULL || pk == NULL || !sizes_are_sound(sizes, count, messages_size))) {
        return QFL_ERR_ARGUMENT;
    }
    const size_t pk_stride = pk_count == 1 ? 0 : parameters->pk_size;
    const uint8_t *message = messages == NULL ? &nothing : messages;
    for (size_t row = 0; row < count; row++) {
        const OQS_STATUS result = parameters->verify(
            message, (size_t)sizes[row], sig + row * parameters->sig_size, parameters->sig_size,
            context == NULL ? &nothing : context, context_size, pk + row * pk_stride);
        message += sizes[row];
        status[row] = (uint8_t)(result == OQS_SUCCESS ? QFL_OK : QFL_ERR_SIGNATURE);
    }
    return QFL_OK;
}
