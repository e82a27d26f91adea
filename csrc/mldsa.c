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

/* One parameter set: its sizes, its constants of FIPS 204, Table 1, and liboqs's calls. */
typedef struct parameter_set {
    size_t pk_size;
    size_t sk_size;
    size_t sig_size;
    size_t c_tilde_size;
    size_t z_count;      /* coefficients of z: 256 * l */
    unsigned gamma1_log; /* gamma1 is 2^gamma1_log; a coefficient of z takes one bit more */
    uint32_t beta;
    OQS_STATUS (*keypair)(uint8_t *, uint8_t *);
    OQS_STATUS (*sign)(uint8_t *, size_t *, const uint8_t *, size_t, const uint8_t *, size_t, const uint8_t *);
    OQS_STATUS (*verify)(const uint8_t *, size_t, const uint8_t *, size_t, const uint8_t *, size_t, const uint8_t *);
} parameter_set;

static const parameter_set SET_44 = {
    .pk_size = QFL_MLDSA44_PK_BYTES,
    .sk_size = QFL_MLDSA44_SK_BYTES,
    .sig_size = QFL_MLDSA44_SIG_BYTES,
    .c_tilde_size = 32,
    .z_count = 256 * 4,
    .gamma1_log = 17,
    .beta = 78,
    .keypair = OQS_SIG_ml_dsa_44_keypair,
    .sign = OQS_SIG_ml_dsa_44_sign_with_ctx_str,
    .verify = OQS_SIG_ml_dsa_44_verify_with_ctx_str,
};

static const parameter_set SET_87 = {
    .pk_size = QFL_MLDSA87_PK_BYTES,
    .sk_size = QFL_MLDSA87_SK_BYTES,
    .sig_size = QFL_MLDSA87_SIG_BYTES,
    .c_tilde_size = 64,
    .z_count = 256 * 7,
    .gamma1_log = 19,
    .beta = 120,
    .keypair = OQS_SIG_ml_dsa_87_keypair,
    .sign = OQS_SIG_ml_dsa_87_sign_with_ctx_str,
    .verify = OQS_SIG_ml_dsa_87_verify_with_ctx_str,
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

/* 1 if |gamma1 - packed| < gamma1 - beta for each of `groups` x 4 packed values of `bits` bits. */
static inline int groups_are_short(const uint8_t *z, size_t groups, unsigned bits, uint32_t beta)
{
    const uint32_t mask = (UINT32_C(1) << bits) - 1;
    /* The condition says: beta < packed < 2 gamma1 - beta, and 2 gamma1 is mask + 1. */
    const uint32_t first = beta + 1;
    const uint32_t range = mask - 2 * beta; /* how many values from `first` on are good */
    uint32_t outside = 0;
    for (size_t group = 0; group < groups; group++) {
        /* Four values take 9 or 10 bytes; with constant `bits` every place and shift below is one too.
         * Four bytes hold any value with its shift; the very last load ends among the hints. */
        const uint8_t *const byte = z + group * bits / 2;
        for (unsigned at = 0; at < 4; at++) {
            const uint8_t *const four = byte + at * bits / 8;
            const uint32_t word =
                (uint32_t)four[0] | (uint32_t)four[1] << 8 | (uint32_t)four[2] << 16 | (uint32_t)four[3] << 24;
            outside |= ((word >> (at * bits % 8) & mask) - first) >= range;
        }
    }
    return outside == 0;
}

/* FIPS 204, Algorithm 8, step 13: 1 if every coefficient of z is below gamma1 - beta.  Public data.
 *
 * WHY: the AVX2 verification in liboqs 0.13 leaves this check out ("shortness follows from
 * unpacking", which gives gamma1 only), so it accepts signatures that the standard refuses. */
static int z_is_short(const uint8_t *sig, const parameter_set *set)
{
    const uint8_t *const z = sig + set->c_tilde_size;
    const size_t groups = set->z_count / 4;
    return set->gamma1_log == 17 ? groups_are_short(z, groups, 18, set->beta) : groups_are_short(z, groups, 20, set->beta);
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
        const uint8_t *const row_sig = sig + row * parameters->sig_size;
        const int good = z_is_short(row_sig, parameters) &&
                         parameters->verify(message, (size_t)sizes[row], row_sig, parameters->sig_size,
                                            context == NULL ? &nothing : context, context_size,
                                            pk + row * pk_stride) == OQS_SUCCESS;
        message += sizes[row];
        status[row] = (uint8_t)(good ? QFL_OK : QFL_ERR_SIGNATURE);
    }
    return QFL_OK;
}
