/* Decapsulation under one key, which was expanded before, for ITEMS ciphertexts at once; private to csrc/lanes.
 *
 * CT: J is always computed and the secret chosen by a mask; noise has one path for every byte; no
 * branch and no index here depends on anything but counts.
 */
#ifndef QFL_ONE_KEY_H
#define QFL_ONE_KEY_H

#include "lanes/kpke.h"

typedef struct {
    union { /* the first is done with before the second begins */
        vec ct[CT_PLACES]; /* the ciphertexts, in places */
        vec product[MLKEM_K + 1][MLKEM_N];
    };
    vec values[CT_VALUES];     /* what they encode: u, then v */
    vec y[MLKEM_K * MLKEM_N];  /* u, then y, in NTT form */
    vec noise[MLKEM_N];
    hashes hash;
} decapsulation;

/* Algorithm 15, K-PKE.Decrypt: m from the values of the ciphertexts. */
static void decrypt(decapsulation *at, const mlkem_key *key)
{
    for (size_t i = 0; i < MLKEM_K; i++) {
        decompress_u(at->y + i * MLKEM_N, at->values + i * MLKEM_N);
    }
    inner_products(at->product, at->y, key->s, 1);
    inverse_ntt(at->product[0]);
    read_message(&at->hash, at->product[0], at->values + MLKEM_K * MLKEM_N);
}

/* Algorithm 14, K-PKE.Encrypt, against the values of the ciphertexts: nonzero where they differ.
 * No byte of the encodings is spare, so equal values are equal bytes. */
static vec encrypt_and_compare(decapsulation *at, const mlkem_key *key, size_t groups)
{
    vec differences = all16(0), message[16];
    for (size_t i = 0; i < MLKEM_K; i++) {
        sample_noise(at->y + i * MLKEM_N, &at->hash, i, groups);
        ntt(at->y + i * MLKEM_N);
    }
    inner_products(at->product, at->y, key->a, MLKEM_K + 1);
    for (size_t i = 0; i < MLKEM_K; i++) {
        sample_noise(at->noise, &at->hash, MLKEM_K + i, groups);
        inverse_ntt(at->product[i]);
        for (size_t j = 0; j < MLKEM_N; j++) {
            differences |= value_of_u(at->product[i][j], at->noise[j]) ^ at->values[i * MLKEM_N + j];
        }
    }
    sample_noise(at->noise, &at->hash, 2 * MLKEM_K, groups);
    inverse_ntt(at->product[MLKEM_K]);
    message_places(message, &at->hash);
    for (size_t word = 0; word < 16; word++) {
#pragma GCC unroll 16
        for (unsigned bit = 0; bit < 16; bit++) {
            const size_t j = 16 * word + bit;
            differences |= value_of_v(at->product[MLKEM_K][j], at->noise[j], message[word], bit) ^
                           at->values[MLKEM_K * MLKEM_N + j];
        }
    }
    return differences;
}

/* Algorithm 18, ML-KEM.Decaps_internal, for 1 to ITEMS ciphertexts under one key. */
static void decapsulate_one_key(uint8_t *ss, void *scratch, const mlkem_key *key, const uint8_t *ct, size_t count)
{
    decapsulation *const at = scratch;
    const size_t groups = groups_of(count);
    const uint8_t *rows[ITEMS], *z[ITEMS], *h[ITEMS];
    uint8_t *outputs[ITEMS];
    rows_of(rows, ct, QFL_KEM1024_CT_BYTES, count);
    rows_of(z, key->z, 0, count);
    rows_of(h, key->h, 0, count);
    outputs_of(outputs, ss, QFL_KEM1024_SS_BYTES, count);

    read_ciphertexts(at->values, at->ct, rows);
    decrypt(at, key);
    read_32_bytes(at->hash.h, &at->hash, h, 0, groups);
    hash_g(&at->hash, groups);
    hash_rows(at->hash.rejected, z, 32, rows, QFL_KEM1024_CT_BYTES, KECCAK_DOMAIN_SHAKE, groups);
    write_chosen(&at->hash, encrypt_and_compare(at, key, groups), outputs, groups);
}

#endif
