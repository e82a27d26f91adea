/* The known-answer tests that run when the extension is loaded.
 *
 * The answers are the first records of the KAT files of post-quantum-cryptography/KAT
 * (kat_MLKEM_1024.rsp, kat_MLDSA_44_det_pure.rsp, kat_MLDSA_87_det_pure.rsp).  A shared secret and
 * the first bytes of a signature (c~) depend on every byte of the key, so no whole key stands here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "qflare.h"

#include <string.h>

#include <oqs/oqs.h>

static const uint8_t KEM_SEED[64] = { /* d || z */
    0x6d, 0xbb, 0xc4, 0x37, 0x51, 0x36, 0xdf, 0x3b, 0x07, 0xf7, 0xc7, 0x0e, 0x63, 0x9e, 0x22, 0x3e,
    0x17, 0x7e, 0x7f, 0xd5, 0x3b, 0x16, 0x1b, 0x3f, 0x4d, 0x57, 0x79, 0x17, 0x94, 0xf1, 0x26, 0x24,
    0xf6, 0x96, 0x48, 0x40, 0x48, 0xec, 0x21, 0xf9, 0x6c, 0xf5, 0x0a, 0x56, 0xd0, 0x75, 0x9c, 0x44,
    0x8f, 0x37, 0x79, 0x75, 0x2f, 0x03, 0x83, 0xd3, 0x74, 0x49, 0x69, 0x06, 0x94, 0xcf, 0x7a, 0x68,
};
static const uint8_t KEM_M[32] = {
    0x20, 0xa7, 0xb7, 0xe1, 0x0f, 0x70, 0x49, 0x6c, 0xc3, 0x82, 0x20, 0xb9, 0x44, 0xde, 0xf6, 0x99,
    0xbf, 0x14, 0xd1, 0x4e, 0x55, 0xcf, 0x4c, 0x90, 0xa1, 0x2c, 0x1b, 0x33, 0xfc, 0x80, 0xff, 0xff,
};
static const uint8_t KEM_SS[32] = {
    0x23, 0xf2, 0x11, 0xb8, 0x4a, 0x6e, 0xe2, 0x0c, 0x8c, 0x29, 0xf6, 0xe5, 0x31, 0x4c, 0x91, 0xb4,
    0x14, 0xe9, 0x40, 0x51, 0x3d, 0x38, 0x0a, 0xdd, 0x17, 0xbd, 0x72, 0x4a, 0xb3, 0xa1, 0x3a, 0x52,
};
static const uint8_t SIG_SEED[32] = {
    0xf6, 0x96, 0x48, 0x40, 0x48, 0xec, 0x21, 0xf9, 0x6c, 0xf5, 0x0a, 0x56, 0xd0, 0x75, 0x9c, 0x44,
    0x8f, 0x37, 0x79, 0x75, 0x2f, 0x03, 0x83, 0xd3, 0x74, 0x49, 0x69, 0x06, 0x94, 0xcf, 0x7a, 0x68,
};
static const uint8_t SIG_MESSAGE[16] = {
    0x6d, 0xbb, 0xc4, 0x37, 0x51, 0x36, 0xdf, 0x3b, 0x07, 0xf7, 0xc7, 0x0e, 0x63, 0x9e, 0x22, 0x3e,
};
static const uint8_t SIG_CONTEXT[16] = {
    0x48, 0x0c, 0x65, 0x8c, 0x0c, 0xb3, 0xe0, 0x40, 0xbd, 0xe0, 0x84, 0x34, 0x5c, 0xef, 0x0d, 0xf7,
};
static const uint8_t SIG44_PK_START[64] = {
    0xbd, 0x4e, 0x96, 0xf9, 0xa0, 0x38, 0xab, 0x5e, 0x36, 0x21, 0x4f, 0xe6, 0x9c, 0x0b, 0x1c, 0xb8,
    0x35, 0xef, 0x9d, 0x7c, 0x84, 0x17, 0xe7, 0x6a, 0xec, 0xd1, 0x52, 0xf5, 0xcd, 0xde, 0xbe, 0xc8,
    0xa1, 0xac, 0x25, 0xf0, 0x3b, 0x36, 0x43, 0x70, 0x0d, 0xbf, 0x76, 0xee, 0xf4, 0x9a, 0x32, 0x4f,
    0x93, 0xd5, 0x04, 0x2e, 0x20, 0x3f, 0x3c, 0x70, 0x65, 0x8a, 0xd1, 0xad, 0x13, 0xb9, 0x17, 0xcc,
};
static const uint8_t SIG44_C_TILDE[32] = {
    0xe7, 0xc8, 0x2f, 0xca, 0x31, 0x55, 0x73, 0xef, 0x8c, 0xc7, 0x16, 0x0c, 0xe9, 0x5d, 0x92, 0xfa,
    0x79, 0xac, 0x21, 0x52, 0x15, 0x23, 0xde, 0x0e, 0x67, 0x00, 0x76, 0x82, 0x07, 0xe9, 0xb7, 0xb9,
};
static const uint8_t SIG87_PK_START[64] = {
    0xbc, 0x89, 0xb3, 0x67, 0xd4, 0x28, 0x8f, 0x47, 0xc7, 0x1a, 0x74, 0x67, 0x9d, 0x0f, 0xcf, 0xfb,
    0xe0, 0x41, 0xde, 0x41, 0xb5, 0xda, 0x2f, 0x5f, 0xc6, 0x6d, 0x8e, 0x28, 0xc5, 0x89, 0x94, 0x94,
    0x04, 0x68, 0x73, 0xa6, 0xe1, 0xdc, 0xaf, 0x16, 0x66, 0xfa, 0xf2, 0x6b, 0x09, 0x13, 0x79, 0x34,
    0xba, 0x22, 0xd8, 0x2b, 0xb1, 0x42, 0x3d, 0x54, 0x4c, 0x7c, 0x19, 0x51, 0x24, 0x1f, 0x6f, 0x69,
};
static const uint8_t SIG87_C_TILDE[64] = {
    0x69, 0xaf, 0xd2, 0x62, 0x7b, 0x4c, 0xc0, 0xa8, 0x8c, 0x90, 0x0c, 0xb9, 0x44, 0xf9, 0x3e, 0x65,
    0x66, 0xde, 0x71, 0x1d, 0xcd, 0xf8, 0x62, 0x50, 0x3c, 0x8d, 0x26, 0x04, 0x62, 0xa2, 0xd5, 0xdf,
    0x54, 0x30, 0x87, 0xd7, 0xcf, 0x22, 0xcb, 0xdb, 0xe6, 0xac, 0x11, 0xf2, 0xe9, 0x95, 0x7d, 0xdb,
    0x8c, 0x52, 0xd9, 0x3d, 0x57, 0x58, 0x28, 0xeb, 0x71, 0x8c, 0x24, 0x01, 0xa9, 0x97, 0xa1, 0x06,
};

static int is_zero(const uint8_t *bytes, size_t size)
{
    uint8_t seen = 0;
    for (size_t at = 0; at < size; at++) {
        seen |= bytes[at];
    }
    return seen == 0;
}

/* Key from a seed, secret from a drawn m, its decapsulation, and the secret of a changed ciphertext. */
static int kem_answers(void)
{
    uint8_t ek[QFL_KEM1024_EK_BYTES];
    uint8_t dk[QFL_KEM1024_DK_BYTES];
    uint8_t rejected[32 + QFL_KEM1024_CT_BYTES]; /* z || ct, what the rejection secret is the hash of */
    uint8_t *const ct = rejected + 32;
    uint8_t ss[QFL_KEM1024_SS_BYTES];
    uint8_t expected[QFL_KEM1024_SS_BYTES];
    uint8_t status = 1;
    int good = qfl_kem1024_keygen_seeded_batch(ek, dk, &status, KEM_SEED, 1) == QFL_OK && status == QFL_OK;

    good = good && qfl_random_input_begin(KEM_M, sizeof KEM_M) == QFL_OK;
    if (good) {
        good = qfl_kem1024_encaps_batch(ct, ss, &status, ek, 1) == QFL_OK && status == QFL_OK;
        good = qfl_random_input_end() == 0 && good && memcmp(ss, KEM_SS, sizeof ss) == 0;
    }
    good = good && qfl_kem1024_decaps_one_key(ss, dk, ct, 1) == QFL_OK && memcmp(ss, KEM_SS, sizeof ss) == 0;

    memcpy(rejected, KEM_SEED + 32, 32);
    if (good) {
        /* SPEC: FIPS 203, Algorithm 18, step 7: J(z || c) is 32 bytes of SHAKE256. */
        ct[QFL_KEM1024_CT_BYTES - 1] ^= 1;
        const uint64_t size = sizeof rejected;
        good = qfl_shake256_batch(expected, sizeof expected, rejected, &size, sizeof rejected, 1) == QFL_OK;
        good = good && qfl_kem1024_decaps_batch(ss, &status, dk, ct, 1) == QFL_OK && status == QFL_OK;
        good = good && memcmp(ss, expected, sizeof ss) == 0;
    }
    if (good) {
        memset(ek, 0xff, 3); /* coefficients 4095: not below q */
        good = qfl_kem1024_check_ek_batch(&status, ek, 1) == QFL_OK && status == QFL_ERR_KEY;
        dk[QFL_KEM1024_DK_BYTES - 64] ^= 1; /* the hash of ek */
        good = good && qfl_kem1024_decaps_batch(ss, &status, dk, ct, 1) == QFL_OK && status == QFL_ERR_KEY &&
               is_zero(ss, sizeof ss);
    }
    qfl_zeroize(dk, sizeof dk);
    qfl_zeroize(ss, sizeof ss);
    qfl_zeroize(rejected, sizeof rejected);
    return good;
}

/* liboqs must draw through our callback, and a failing source must cost the row. */
static int random_is_ours(void)
{
    uint8_t ek[QFL_KEM1024_EK_BYTES];
    uint8_t dk[QFL_KEM1024_DK_BYTES];
    uint8_t status = 0;
    memset(dk, 0xff, sizeof dk);
    qfl_random_fail_for_test(1);
    const qfl_status result = qfl_kem1024_keygen_batch(ek, dk, &status, 1);
    qfl_random_fail_for_test(0);
    return result == QFL_OK && status == QFL_ERR_ENTROPY && is_zero(ek, sizeof ek) && is_zero(dk, sizeof dk);
}

/* Key from a seed, deterministic signature (the hedge drawn as zeros), verification, refusal. */
static int sig_answers(int *seeded, int set, const uint8_t *pk_start, const uint8_t *c_tilde, size_t c_tilde_size)
{
    static const uint8_t no_hedge[32] = {0};
    const uint64_t sizes[1] = {sizeof SIG_MESSAGE};
    uint8_t pk[QFL_MLDSA87_PK_BYTES]; /* the larger set's sizes serve both */
    uint8_t sk[QFL_MLDSA87_SK_BYTES];
    uint8_t sig[QFL_MLDSA87_SIG_BYTES];
    uint8_t status = 1;
    *seeded = qfl_mldsa_keygen_seeded_batch(pk, sk, &status, SIG_SEED, set, 1) == QFL_OK && status == QFL_OK &&
              memcmp(pk, pk_start, 64) == 0;
    int good = *seeded || (qfl_mldsa_keygen_batch(pk, sk, &status, set, 1) == QFL_OK && status == QFL_OK);

    good = good && qfl_random_input_begin(no_hedge, sizeof no_hedge) == QFL_OK;
    if (good) {
        good = qfl_mldsa_sign_batch(sig, &status, sk, SIG_MESSAGE, sizes, SIG_CONTEXT, set, 1, 1, sizeof SIG_MESSAGE,
                                    sizeof SIG_CONTEXT) == QFL_OK &&
               status == QFL_OK;
        good = qfl_random_input_end() == 0 && good;
    }
    /* Without a seeded key there is no key to know the answer for; the round trip below remains. */
    good = good && (!*seeded || memcmp(sig, c_tilde, c_tilde_size) == 0);
    good = good &&
           qfl_mldsa_verify_batch(&status, pk, SIG_MESSAGE, sizes, sig, SIG_CONTEXT, set, 1, 1, sizeof SIG_MESSAGE,
                                  sizeof SIG_CONTEXT) == QFL_OK &&
           status == QFL_OK;
    if (good) {
        sig[c_tilde_size + 1] ^= 1;
        good = qfl_mldsa_verify_batch(&status, pk, SIG_MESSAGE, sizes, sig, SIG_CONTEXT, set, 1, 1,
                                      sizeof SIG_MESSAGE, sizeof SIG_CONTEXT) == QFL_OK &&
               status == QFL_ERR_SIGNATURE;
    }
    qfl_zeroize(sk, sizeof sk);
    return good;
}

qfl_status qfl_selftest(qfl_selftest_report *report)
{
    if (report == NULL) {
        return QFL_ERR_ARGUMENT;
    }
    report->random_used = random_is_ours();
    report->kem = kem_answers();
    report->sig44 = sig_answers(&report->seeded_sig44, 44, SIG44_PK_START, SIG44_C_TILDE, sizeof SIG44_C_TILDE);
    report->sig87 = sig_answers(&report->seeded_sig87, 87, SIG87_PK_START, SIG87_C_TILDE, sizeof SIG87_C_TILDE);
    return QFL_OK;
}
