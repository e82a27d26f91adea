/* ML-KEM-1024 batches over liboqs.
 *
 * FIPS 203 names here; liboqs's public_key is ek, its secret_key dk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "qflare.h"

#include <string.h>

#include <oqs/oqs.h>

_Static_assert(QFL_KEM1024_EK_BYTES == OQS_KEM_ml_kem_1024_length_public_key, "ek size");
_Static_assert(QFL_KEM1024_DK_BYTES == OQS_KEM_ml_kem_1024_length_secret_key, "dk size");
_Static_assert(QFL_KEM1024_CT_BYTES == OQS_KEM_ml_kem_1024_length_ciphertext, "ct size");
_Static_assert(QFL_KEM1024_SS_BYTES == OQS_KEM_ml_kem_1024_length_shared_secret, "ss size");

/* Layout of dk (FIPS 203, Algorithm 16): dk_PKE || ek || H(ek) || z. */
#define DK_EK_AT (QFL_KEM1024_DK_BYTES - 64 - QFL_KEM1024_EK_BYTES)
#define DK_HASH_AT (QFL_KEM1024_DK_BYTES - 64)
#define EK_POLY_BYTES (QFL_KEM1024_EK_BYTES - 32)

/* What a row's result means: drawing randomness comes first, since liboqs goes on with zeros. */
static qfl_status row_status(OQS_STATUS result)
{
    if (qfl_random_failed()) {
        return QFL_ERR_ENTROPY;
    }
    return result == OQS_SUCCESS ? QFL_OK : QFL_ERR_BACKEND;
}

/* FIPS 203, section 7.2: 1 if every 12-bit coefficient of ek is below q.  Public data. */
static int ek_is_reduced(const uint8_t *ek)
{
    /* Two coefficients at a time in 24-bit lanes, four a step: c + (4096 - q) carries into bit 12
     * exactly if c >= q.  Reads of 8 bytes for 6 stay inside ek, whose last 32 bytes are rho. */
    const uint64_t lanes = UINT64_C(0x000FFF000FFF);
    const uint64_t addend = UINT64_C(0x0002FF0002FF); /* 4096 - 3329 = 767 */
    const uint64_t carry = UINT64_C(0x001000001000);
    uint64_t overflow = 0;
    for (size_t at = 0; at < EK_POLY_BYTES; at += 6) {
        uint64_t word = 0;
        for (size_t byte = 0; byte < 6; byte++) {
            word |= (uint64_t)ek[at + byte] << (8 * byte);
        }
        overflow |= ((word & lanes) + addend) | (((word >> 12) & lanes) + addend);
    }
    return (overflow & carry) == 0;
}

/* FIPS 203, section 7.3: 1 if dk holds the hash of its own ek. */
static int dk_hash_matches(const uint8_t *dk)
{
    uint8_t hash[QFL_SHA3_256_BYTES];
    if (qfl_sha3_256(hash, dk + DK_EK_AT, QFL_KEM1024_EK_BYTES) != QFL_OK) {
        return 0;
    }
    /* CT: ek and its hash are public, so memcmp may leave early. */
    return memcmp(hash, dk + DK_HASH_AT, sizeof hash) == 0;
}

static void wipe_pair(uint8_t *ek, uint8_t *dk)
{
    qfl_zeroize(ek, QFL_KEM1024_EK_BYTES);
    qfl_zeroize(dk, QFL_KEM1024_DK_BYTES);
}

/* One pair from d || z.  Where liboqs has no derandomised call, it draws the seed as randomness. */
static qfl_status keygen_seeded(uint8_t *ek, uint8_t *dk, const uint8_t *seed)
{
    qfl_random_watch();
#if QFL_HAVE_KEM_KEYPAIR_DERAND
    return row_status(OQS_KEM_ml_kem_1024_keypair_derand(ek, dk, seed));
#else
    if (qfl_random_input_begin(seed, QFL_KEM1024_SEED_BYTES) != QFL_OK) {
        return QFL_ERR_ARGUMENT;
    }
    const OQS_STATUS result = OQS_KEM_ml_kem_1024_keypair(ek, dk);
    const size_t left = qfl_random_input_end();
    const int drew_seed = left == 0 && qfl_random_drawn() == QFL_KEM1024_SEED_BYTES;
    return drew_seed ? row_status(result) : QFL_ERR_BACKEND;
#endif
}

qfl_status qfl_kem1024_keygen_batch(uint8_t *ek, uint8_t *dk, uint8_t *status, size_t count)
{
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ek == NULL || dk == NULL || status == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t row = 0; row < count; row++) {
        uint8_t *const row_ek = ek + row * QFL_KEM1024_EK_BYTES;
        uint8_t *const row_dk = dk + row * QFL_KEM1024_DK_BYTES;
        qfl_random_watch();
        const qfl_status result = row_status(OQS_KEM_ml_kem_1024_keypair(row_ek, row_dk));
        if (result != QFL_OK) {
            wipe_pair(row_ek, row_dk);
        }
        status[row] = (uint8_t)result;
    }
    return QFL_OK;
}

qfl_status qfl_kem1024_keygen_seeded_batch(uint8_t *ek, uint8_t *dk, uint8_t *status, const uint8_t *seeds,
                                           size_t count)
{
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ek == NULL || dk == NULL || status == NULL || seeds == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t row = 0; row < count; row++) {
        uint8_t *const row_ek = ek + row * QFL_KEM1024_EK_BYTES;
        uint8_t *const row_dk = dk + row * QFL_KEM1024_DK_BYTES;
        const qfl_status result = keygen_seeded(row_ek, row_dk, seeds + row * QFL_KEM1024_SEED_BYTES);
        if (result != QFL_OK) {
            wipe_pair(row_ek, row_dk);
        }
        status[row] = (uint8_t)result;
    }
    return QFL_OK;
}

qfl_status qfl_kem1024_encaps_batch(uint8_t *ct, uint8_t *ss, uint8_t *status, const uint8_t *ek, size_t count)
{
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ct == NULL || ss == NULL || status == NULL || ek == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t row = 0; row < count; row++) {
        uint8_t *const row_ct = ct + row * QFL_KEM1024_CT_BYTES;
        uint8_t *const row_ss = ss + row * QFL_KEM1024_SS_BYTES;
        const uint8_t *const row_ek = ek + row * QFL_KEM1024_EK_BYTES;
        qfl_status result = QFL_ERR_KEY;
        if (ek_is_reduced(row_ek)) { /* SPEC: FIPS 203, 7.2 */
            qfl_random_watch();
            result = row_status(OQS_KEM_ml_kem_1024_encaps(row_ct, row_ss, row_ek));
        }
        if (result != QFL_OK) {
            qfl_zeroize(row_ct, QFL_KEM1024_CT_BYTES);
            qfl_zeroize(row_ss, QFL_KEM1024_SS_BYTES);
        }
        status[row] = (uint8_t)result;
    }
    return QFL_OK;
}

/* One decapsulation.  Only a failed call asks why, so a good row pays for no second hash where
 * liboqs makes the check of section 7.3 itself; QFL_DECAPS_CHECKS_DK says whether it does. */
static qfl_status decaps(uint8_t *ss, const uint8_t *dk, const uint8_t *ct)
{
#if !QFL_DECAPS_CHECKS_DK
    if (!dk_hash_matches(dk)) {
        return QFL_ERR_KEY;
    }
#endif
    /* CT: liboqs returns failure only for a bad key hash, which is public. */
    if (OQS_KEM_ml_kem_1024_decaps(ss, ct, dk) == OQS_SUCCESS) {
        return QFL_OK;
    }
    return dk_hash_matches(dk) ? QFL_ERR_BACKEND : QFL_ERR_KEY;
}

qfl_status qfl_kem1024_decaps_batch(uint8_t *ss, uint8_t *status, const uint8_t *dk, const uint8_t *ct, size_t count)
{
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ss == NULL || status == NULL || dk == NULL || ct == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t row = 0; row < count; row++) {
        uint8_t *const row_ss = ss + row * QFL_KEM1024_SS_BYTES;
        const qfl_status result =
            decaps(row_ss, dk + row * QFL_KEM1024_DK_BYTES, ct + row * QFL_KEM1024_CT_BYTES);
        if (result != QFL_OK) {
            qfl_zeroize(row_ss, QFL_KEM1024_SS_BYTES);
        }
        status[row] = (uint8_t)result;
    }
    return QFL_OK;
}

qfl_status qfl_kem1024_decaps_one_key(uint8_t *ss, const uint8_t *dk, const uint8_t *ct, size_t count)
{
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (dk == NULL || (count > 0 && (ss == NULL || ct == NULL))) {
        return QFL_ERR_ARGUMENT;
    }
    qfl_status result = dk_hash_matches(dk) ? QFL_OK : QFL_ERR_KEY;
    for (size_t row = 0; row < count && result == QFL_OK; row++) {
        result = decaps(ss + row * QFL_KEM1024_SS_BYTES, dk, ct + row * QFL_KEM1024_CT_BYTES);
    }
    if (result != QFL_OK) {
        qfl_zeroize(ss, count * QFL_KEM1024_SS_BYTES);
    }
    return result;
}

qfl_status qfl_kem1024_check_ek_batch(uint8_t *status, const uint8_t *ek, size_t count)
{
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (status == NULL || ek == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t row = 0; row < count; row++) {
        const int good = ek_is_reduced(ek + row * QFL_KEM1024_EK_BYTES);
        status[row] = (uint8_t)(good ? QFL_OK : QFL_ERR_KEY);
    }
    return QFL_OK;
}

qfl_status qfl_kem1024_check_dk_batch(uint8_t *status, const uint8_t *dk, size_t count)
{
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (status == NULL || dk == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t row = 0; row < count; row++) {
        const int good = dk_hash_matches(dk + row * QFL_KEM1024_DK_BYTES);
        status[row] = (uint8_t)(good ? QFL_OK : QFL_ERR_KEY);
    }
    return QFL_OK;
}
