/* Key generation, encapsulation and decapsulation, each item with its own key; private to csrc/lanes.
 *
 * CT: as in one_key.h; rho is part of every encapsulation key and public, with what is made of it.
 */
#ifndef QFL_MANY_KEYS_H
#define QFL_MANY_KEYS_H

#include "lanes/kpke.h"
#include "lanes/matrix.h"

#define EK_RHO_AT (QFL_KEM1024_EK_BYTES - 32)

typedef struct {
    hashes hash;
    vec t[MLKEM_K * MLKEM_N]; /* of the encapsulation keys */
    vec values[CT_VALUES];    /* what ciphertexts encode: u, then v */
    union {                   /* places are read before, and written after there are factors */
        factors y;
        vec places[CT_PLACES];
    };
    union { /* the secret is done with before a matrix begins */
        sampled row;
        vec s[MLKEM_K * MLKEM_N];
    };
    vec product[MLKEM_N];
    vec noise[MLKEM_N];
} keyed;

/* Undo the interleaving of `ntt` for two neighbours. */
static inline void part_pair(vec *a0, vec *a1, vec low, vec high)
{
    *a0 = narrow((vec32)((uvec32)low << 16), (vec32)((uvec32)high << 16));
    *a1 = narrow((vec32)low, (vec32)high);
}

/* Algorithm 5, ByteEncode_12, of canonical coefficients, to every row at `at`; `places` is room. */
static void write_polynomial(uint8_t *const rows[ITEMS], size_t at, vec places[MLKEM_N], const vec values[MLKEM_N],
                             size_t groups)
{
    encode(places, values, 12);
    write_all_places(rows, at, places, MLKEM_POLY_BYTES, groups);
}

/* Algorithm 13, K-PKE.KeyGen, and 16, ML-KEM.KeyGen_internal, for 1 to ITEMS seeds d || z. */
static void generate(uint8_t *ek, uint8_t *dk, void *scratch, const uint8_t *seeds, size_t count)
{
    keyed *const at = scratch;
    const size_t groups = groups_of(count);
    const uint8_t *seed_rows[ITEMS], *ek_rows[ITEMS];
    uint8_t *ek_outputs[ITEMS], *dk_outputs[ITEMS];
    rows_of(seed_rows, seeds, QFL_KEM1024_SEED_BYTES, count);
    rows_of(ek_rows, ek, QFL_KEM1024_EK_BYTES, count);
    outputs_of(ek_outputs, ek, QFL_KEM1024_EK_BYTES, count);
    outputs_of(dk_outputs, dk, QFL_KEM1024_DK_BYTES, count);

    read_32_bytes(at->hash.m, &at->hash, seed_rows, 0, groups);
    hash_g_of_seed(&at->hash, groups);
    QFL_CT_PUBLIC(at->hash.rho, sizeof at->hash.rho); /* CT: it is part of ek */
    for (size_t i = 0; i < MLKEM_K; i++) {
        sample_noise(at->noise, &at->hash, i, groups);
        ntt(at->noise);
        make_factors(&at->y, i, at->noise, MLKEM_SCALE_NONE);
        for (size_t j = 0; j < MLKEM_N; j += 2) {
            part_pair(&at->product[j], &at->product[j + 1], canonical(at->noise[j]), canonical(at->noise[j + 1]));
        }
        write_polynomial(dk_outputs, i * MLKEM_POLY_BYTES, at->noise, at->product, groups);
    }
    for (size_t i = 0; i < MLKEM_K; i++) { /* t = A s + e */
        sample_noise(at->noise, &at->hash, MLKEM_K + i, groups);
        ntt(at->noise);
        sample_row(at->row, &at->hash, i, 0, groups);
        product_with_row(at->product, at->row, &at->y);
        for (size_t j = 0; j < MLKEM_N; j += 2) {
            vec e0, e1;
            part_pair(&e0, &e1, at->noise[j], at->noise[j + 1]);
            at->product[j] = canonical(at->product[j] + e0);
            at->product[j + 1] = canonical(at->product[j + 1] + e1);
        }
        write_polynomial(ek_outputs, i * MLKEM_POLY_BYTES, at->noise, at->product, groups);
    }
    write_32_bytes(ek_outputs, EK_RHO_AT, at->hash.rho, groups);
    hash_rows(at->hash.h, NULL, 0, ek_rows, QFL_KEM1024_EK_BYTES, KECCAK_DOMAIN_SHA3, groups);
    write_32_bytes(dk_outputs, MLKEM_DK_H_AT, at->hash.h, groups);
    for (size_t row = 0; row < count; row++) {
        copy(dk + row * QFL_KEM1024_DK_BYTES + MLKEM_DK_EK_AT, ek_rows[row], QFL_KEM1024_EK_BYTES);
        memcpy(dk + row * QFL_KEM1024_DK_BYTES + MLKEM_DK_Z_AT, seed_rows[row] + 32, 32);
    }
}

/* Algorithm 14, steps 2 and 3: t and rho of every row at `ek_at`, and where a coefficient of t is not below q. */
static vec read_keys(keyed *at, const uint8_t *const rows[ITEMS], size_t groups)
{
    vec beyond = all16(0);
    read_all_places(at->places, rows, 0, EK_RHO_AT);
    for (size_t i = 0; i < MLKEM_K; i++) {
        decode(at->t + i * MLKEM_N, at->places + i * MLKEM_POLY_BYTES / 2, 12);
    }
    for (size_t i = 0; i < MLKEM_K * MLKEM_N; i++) {
        beyond |= at->t[i] + all16(4096 - MLKEM_Q); /* bit 12 for what is not below q */
    }
    read_32_bytes(at->hash.rho, &at->hash, rows, EK_RHO_AT, groups);
    return beyond & all16(4096);
}

/* Section 7.2 for 1 to ITEMS keys, whose t and rho stay in scratch memory for `encapsulate`. */
static void open_keys(uint64_t *bad, void *scratch, const uint8_t *ek, size_t count)
{
    keyed *const at = scratch;
    const uint8_t *rows[ITEMS];
    vec64 masks[GROUPS];
    rows_of(rows, ek, QFL_KEM1024_EK_BYTES, count);
    masks_of(masks, read_keys(at, rows, groups_of(count)));
    memcpy(bad, masks, sizeof masks);
}

/* Algorithm 14, K-PKE.Encrypt, without its last encodings: what u and v encode is added to `values` bit by bit, so
 * that zeros become the ciphertext's values, and a ciphertext's values become zeros if it is the same. */
static void encrypt(keyed *at, size_t groups)
{
    vec message[16];
    for (size_t i = 0; i < MLKEM_K; i++) {
        sample_noise(at->noise, &at->hash, i, groups);
        ntt(at->noise);
        make_factors(&at->y, i, at->noise, MLKEM_SCALE_11);
    }
    for (size_t i = 0; i < MLKEM_K; i++) {
        sample_row(at->row, &at->hash, i, 1, groups);
        product_with_row(at->product, at->row, &at->y);
        inverse_ntt(at->product);
        sample_noise(at->noise, &at->hash, MLKEM_K + i, groups);
        for (size_t j = 0; j < MLKEM_N; j++) {
            at->values[i * MLKEM_N + j] ^= value_of_u(at->product[j], at->noise[j]);
        }
    }
    product_with_vector(at->product, at->t, &at->y);
    for (size_t j = 0; j < MLKEM_N; j++) {
        at->product[j] = by_constant(at->product[j], 1 << 10); /* from 2^11 to 2^5: 2^16 / 64 */
    }
    inverse_ntt(at->product);
    sample_noise(at->noise, &at->hash, 2 * MLKEM_K, groups);
    message_places(message, &at->hash);
    for (size_t word = 0; word < 16; word++) {
#pragma GCC unroll 16
        for (unsigned bit = 0; bit < 16; bit++) {
            const size_t j = 16 * word + bit;
            at->values[MLKEM_K * MLKEM_N + j] ^= value_of_v(at->product[j], at->noise[j], message[word], bit);
        }
    }
}

/* Algorithm 17, ML-KEM.Encaps_internal, for the keys that `open_keys` left in scratch memory. */
static void encapsulate(uint8_t *ct, uint8_t *ss, void *scratch, const uint8_t *m, const uint8_t *ek, size_t count)
{
    keyed *const at = scratch;
    const size_t groups = groups_of(count);
    const uint8_t *ek_rows[ITEMS], *m_rows[ITEMS];
    uint8_t *ct_outputs[ITEMS], *ss_outputs[ITEMS];
    rows_of(ek_rows, ek, QFL_KEM1024_EK_BYTES, count);
    rows_of(m_rows, m, 32, count);
    outputs_of(ct_outputs, ct, QFL_KEM1024_CT_BYTES, count);
    outputs_of(ss_outputs, ss, QFL_KEM1024_SS_BYTES, count);

    hash_rows(at->hash.h, NULL, 0, ek_rows, QFL_KEM1024_EK_BYTES, KECCAK_DOMAIN_SHA3, groups);
    read_32_bytes(at->hash.m, &at->hash, m_rows, 0, groups);
    hash_g(&at->hash, groups);
    for (size_t i = 0; i < CT_VALUES; i++) {
        at->values[i] = all16(0);
    }
    encrypt(at, groups);
    for (size_t i = 0; i < MLKEM_K; i++) {
        encode(at->places + i * 176, at->values + i * MLKEM_N, 11);
    }
    encode(at->places + MLKEM_CT_V_AT / 2, at->values + MLKEM_K * MLKEM_N, 5);
    write_all_places(ct_outputs, 0, at->places, QFL_KEM1024_CT_BYTES, groups);
    write_32_bytes(ss_outputs, 0, at->hash.secret, groups);
}

/* Algorithm 18, ML-KEM.Decaps_internal, for 1 to ITEMS keys and as many ciphertexts; `bad` is not 0 for a key that
 * fails the hash check of section 7.3, whose secret means nothing. */
static void decapsulate(uint8_t *ss, uint64_t *bad, void *scratch, const uint8_t *dk, const uint8_t *ct, size_t count)
{
    keyed *const at = scratch;
    const size_t groups = groups_of(count);
    const uint8_t *dk_rows[ITEMS], *ek_rows[ITEMS], *z_rows[ITEMS], *ct_rows[ITEMS];
    uint8_t *outputs[ITEMS];
    vec differences = all16(0);
    rows_of(dk_rows, dk, QFL_KEM1024_DK_BYTES, count);
    rows_of(ek_rows, dk + MLKEM_DK_EK_AT, QFL_KEM1024_DK_BYTES, count);
    rows_of(z_rows, dk + MLKEM_DK_Z_AT, QFL_KEM1024_DK_BYTES, count);
    rows_of(ct_rows, ct, QFL_KEM1024_CT_BYTES, count);
    outputs_of(outputs, ss, QFL_KEM1024_SS_BYTES, count);

    hash_rows(at->hash.rejected, NULL, 0, ek_rows, QFL_KEM1024_EK_BYTES, KECCAK_DOMAIN_SHA3, groups);
    read_32_bytes(at->hash.h, &at->hash, dk_rows, MLKEM_DK_H_AT, groups);
    for (size_t g = 0; g < groups; g++) {
        vec64 different = all64(0);
        for (size_t i = 0; i < 4; i++) {
            different |= at->hash.h[g][i] ^ at->hash.rejected[g][i];
        }
        memcpy(bad + g * WORDS, &different, sizeof different);
    }

    read_ciphertexts(at->values, at->places, ct_rows);
    read_all_places(at->places, dk_rows, 0, MLKEM_DK_EK_AT);
    for (size_t i = 0; i < MLKEM_K; i++) {
        decode(at->s + i * MLKEM_N, at->places + i * MLKEM_POLY_BYTES / 2, 12);
    }
    (void)read_keys(at, ek_rows, groups);
    for (size_t i = 0; i < MLKEM_K; i++) { /* Algorithm 15, K-PKE.Decrypt */
        decompress_u(at->noise, at->values + i * MLKEM_N);
        make_factors(&at->y, i, at->noise, MLKEM_SCALE_1);
    }
    product_with_vector(at->product, at->s, &at->y);
    inverse_ntt(at->product);
    read_message(&at->hash, at->product, at->values + MLKEM_K * MLKEM_N);

    hash_g(&at->hash, groups);
    hash_rows(at->hash.rejected, z_rows, 32, ct_rows, QFL_KEM1024_CT_BYTES, KECCAK_DOMAIN_SHAKE, groups);
    encrypt(at, groups);
    for (size_t i = 0; i < CT_VALUES; i++) { /* no byte of the encodings is spare: equal values are equal bytes */
        differences |= at->values[i];
    }
    write_chosen(&at->hash, differences, outputs, groups);
}

#endif
