/* ML-KEM-1024 for ITEMS items at once, over the vectors of the including file; private to csrc/lanes.
 *
 * CT: J is always computed and the secret chosen by a mask; noise has one path for every byte; no
 * branch and no index here depends on anything but counts.
 */
#ifndef QFL_MLKEM_LANES_H
#define QFL_MLKEM_LANES_H

#include "lanes/items.h"

#include <string.h>

#define CT_PLACES (QFL_KEM1024_CT_BYTES / 2)

typedef struct {
    union { /* the first is done with before the second begins */
        vec ct[CT_PLACES]; /* the ciphertexts, in places */
        vec product[MLKEM_K + 1][MLKEM_N];
    };
    vec values[(MLKEM_K + 1) * MLKEM_N];                             /* what they encode: u, then v */
    vec y[MLKEM_K * MLKEM_N];                                        /* u, then y, in NTT form */
    vec noise[MLKEM_N];
    vec64 state[GROUPS][KECCAK_LANES_IN_STATE];
    vec64 m[GROUPS][4];
    vec64 secret[GROUPS][4]; /* K' */
    vec64 coins[GROUPS][4];  /* r */
    vec64 rejected[GROUPS][4];
} decapsulation;

static void clear_states(vec64 state[GROUPS][KECCAK_LANES_IN_STATE])
{
    for (size_t g = 0; g < GROUPS; g++) {
        for (size_t i = 0; i < KECCAK_LANES_IN_STATE; i++) {
            state[g][i] = all64(0);
        }
    }
}

/* Permute the states of the groups that have items; the others' coefficients go nowhere. */
static void permute_states(vec64 state[GROUPS][KECCAK_LANES_IN_STATE], size_t groups)
{
    for (size_t g = 0; g < groups; g++) {
        KECCAK_ENGINE.permute((uint64_t *)state[g]);
    }
}

static uint64_t load_word(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word); /* little-endian machines only, as all with these vectors are */
    return word;
}

/* G(m || h) is SHA3-512 (section 4.1). */
static void hash_g(decapsulation *at, const uint8_t h[32], size_t groups)
{
    clear_states(at->state);
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 4; i++) {
            at->state[g][i] = at->m[g][i];
            at->state[g][4 + i] = all64(load_word(h + 8 * i));
        }
        at->state[g][8] = all64(KECCAK_DOMAIN_SHA3 | UINT64_C(0x80) << 56); /* the last word of 72 bytes */
    }
    permute_states(at->state, groups);
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 4; i++) {
            at->secret[g][i] = at->state[g][i];
            at->coins[g][i] = at->state[g][4 + i];
        }
    }
}

/* PRF_2(r, n) and Algorithm 8, SamplePolyCBD_2: coefficient i is bits 4i and 4i + 1 less bits 4i + 2
 * and 4i + 3.  128 bytes of SHAKE256 are less than one block. */
static void sample_noise(vec out[MLKEM_N], decapsulation *at, uint64_t n, size_t groups)
{
    const uvec bits = (uvec)all16(0x5555), pairs = (uvec)all16(0x3333), bias = (uvec)all16(0x4444);
    const uvec nibble = (uvec)all16(15);
    const vec four = all16(4);
    clear_states(at->state);
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 4; i++) {
            at->state[g][i] = at->coins[g][i];
        }
        at->state[g][4] = all64(n | KECCAK_DOMAIN_SHAKE << 8);
        at->state[g][KECCAK_RATE_256 / 8 - 1] = all64(UINT64_C(0x80) << 56);
    }
    permute_states(at->state, groups);
    for (size_t i = 0; i < 16; i++) {
        vec64 x[GROUPS] = {at->state[0][i], at->state[1][i], at->state[2][i], at->state[3][i]};
        swap(x);
        for (size_t t = 0; t < GROUPS; t++) {
            const uvec word = (uvec)x[t];
            const uvec sums = (word & bits) + ((word >> 1) & bits);
            /* Four differences in one word, each 2 to 6 with the bias, so that none borrows. */
            const uvec biased = (sums & pairs) + bias - ((sums >> 2) & pairs);
            vec *const to = out + 16 * i + 4 * t;
            to[0] = (vec)(biased & nibble) - four;
            to[1] = (vec)((biased >> 4) & nibble) - four;
            to[2] = (vec)((biased >> 8) & nibble) - four;
            to[3] = (vec)(biased >> 12) - four;
        }
    }
}

/* J(z || c) is the first 32 bytes of SHAKE256 (section 4.1). */
static void hash_j(decapsulation *at, const uint8_t z[32], const uint8_t *const rows[ITEMS], size_t groups)
{
    keccak_sponge sponge;
    for (size_t g = 0; g < groups; g++) {
        keccak_init(&sponge, &KECCAK_ENGINE, KECCAK_RATE_256);
        keccak_absorb_shared(&sponge, z, 32);
        keccak_absorb(&sponge, rows + g * WORDS, QFL_KEM1024_CT_BYTES);
        keccak_finish(&sponge, KECCAK_DOMAIN_SHAKE);
        memcpy(at->rejected[g], sponge.lane, sizeof at->rejected[g]);
    }
    qfl_zeroize(&sponge, sizeof sponge);
}

/* Algorithm 15, K-PKE.Decrypt: m from the values of the ciphertexts. */
static void decrypt(decapsulation *at, const mlkem_key *key)
{
    for (size_t i = 0; i < MLKEM_K * MLKEM_N; i++) { /* Decompress_11 */
        at->y[i] = mulhrs(up(at->values[i], 4), all16(MLKEM_Q));
    }
    for (size_t i = 0; i < MLKEM_K; i++) {
        ntt(at->y + i * MLKEM_N);
    }
    inner_products(at->product, at->y, key->s, 1);
    inverse_ntt(at->product[0]);
    const vec *const v = at->values + MLKEM_K * MLKEM_N;
    for (size_t word = 0; word < 4; word++) { /* Compress_1 and ByteEncode_1, 64 coefficients a word */
        vec part[GROUPS];
        for (size_t t = 0; t < GROUPS; t++) {
            part[t] = all16(0);
#pragma GCC unroll 16
            for (unsigned bit = 0; bit < 16; bit++) {
                const size_t i = 64 * word + 16 * t + bit;
                const vec twice = up(mulhrs(up(v[i], 10), all16(MLKEM_Q)), 1); /* Decompress_5 */
                part[t] |= up(compress(twice - at->product[0][i], 1), bit);
            }
        }
        vec64 x[GROUPS] = {(vec64)part[0], (vec64)part[1], (vec64)part[2], (vec64)part[3]};
        swap(x);
        for (size_t g = 0; g < GROUPS; g++) {
            at->m[g][word] = x[g];
        }
    }
}

/* Algorithm 14, K-PKE.Encrypt, against the values of the ciphertexts: nonzero where they differ.
 * No byte of the encodings is spare, so equal values are equal bytes. */
static vec encrypt_and_compare(decapsulation *at, const mlkem_key *key, size_t groups)
{
    vec differences = all16(0);
    for (size_t i = 0; i < MLKEM_K; i++) {
        sample_noise(at->y + i * MLKEM_N, at, i, groups);
        ntt(at->y + i * MLKEM_N);
    }
    inner_products(at->product, at->y, key->a, MLKEM_K + 1);
    for (size_t i = 0; i < MLKEM_K; i++) { /* u, scaled by 2^11, which is -1281 modulo q */
        sample_noise(at->noise, at, MLKEM_K + i, groups);
        inverse_ntt(at->product[i]);
        for (size_t j = 0; j < MLKEM_N; j++) {
            const vec u = at->product[i][j] + mullo(at->noise[j], all16(-1281));
            differences |= compress(u, 11) ^ at->values[i * MLKEM_N + j];
        }
    }
    sample_noise(at->noise, at, 2 * MLKEM_K, groups); /* v, scaled by 2^5 */
    inverse_ntt(at->product[MLKEM_K]);
    for (size_t word = 0; word < 4; word++) {
        vec64 x[GROUPS] = {at->m[0][word], at->m[1][word], at->m[2][word], at->m[3][word]};
        swap(x);
        for (size_t t = 0; t < GROUPS; t++) {
#pragma GCC unroll 16
            for (unsigned bit = 0; bit < 16; bit++) {
                const size_t j = 64 * word + 16 * t + bit;
                /* Decompress_1 of a set bit is 1665, and 2^5 * 1665 is 16 modulo q. */
                const vec mu = up((vec)(((uvec)x[t] >> bit) & (uvec)all16(1)), 4);
                const vec scaled = at->product[MLKEM_K][j] + mullo(at->noise[j], all16(32)) + mu;
                differences |= compress(scaled, 5) ^ at->values[MLKEM_K * MLKEM_N + j];
            }
        }
    }
    return differences;
}

/* Algorithm 18, ML-KEM.Decaps_internal, for 1 to ITEMS ciphertexts under one key. */
static void decapsulate(uint8_t *ss, void *scratch, const mlkem_key *key, const uint8_t *ct, size_t count)
{
    decapsulation *const at = scratch;
    const size_t groups = (count + WORDS - 1) / WORDS;
    const uint8_t *rows[ITEMS];
    uint8_t *outputs[ITEMS];
    for (size_t item = 0; item < ITEMS; item++) { /* places without an item repeat the first */
        const size_t row = item < count ? item : 0;
        rows[item] = ct + row * QFL_KEM1024_CT_BYTES;
        outputs[item] = ss + row * QFL_KEM1024_SS_BYTES;
    }

    const size_t step = 8 * WORDS;
    size_t bytes = 0;
    for (; bytes + step <= QFL_KEM1024_CT_BYTES; bytes += step) {
        read_places(at->ct + bytes / 2, rows, bytes);
    }
    if (bytes < QFL_KEM1024_CT_BYTES) { /* the last step again, as far in front as it must begin */
        read_places(at->ct + (QFL_KEM1024_CT_BYTES - step) / 2, rows, QFL_KEM1024_CT_BYTES - step);
    }
    for (size_t i = 0; i < MLKEM_K; i++) {
        decode(at->values + i * MLKEM_N, at->ct + i * 176, 11);
    }
    decode(at->values + MLKEM_K * MLKEM_N, at->ct + MLKEM_CT_V_AT / 2, 5);

    decrypt(at, key);
    hash_g(at, key->h, groups);
    hash_j(at, key->z, rows, groups);
    const vec differences = encrypt_and_compare(at, key, groups);

    /* All ones in the place of a wrong item: the sign of x | -x is set for every x but 0. */
    const uvec x = (uvec)differences;
    const vec64 wrong = (vec64)((vec)(x | ((uvec)all16(0) - x)) >> 15);
    vec64 masks[GROUPS] = {wrong, wrong, wrong, wrong};
    swap(masks);
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 4; i++) {
            at->state[g][i] = (at->secret[g][i] & ~masks[g]) | (at->rejected[g][i] & masks[g]);
        }
        KECCAK_ENGINE.extract((const uint64_t *)at->state[g], outputs + g * WORDS, 0, QFL_KEM1024_SS_BYTES);
    }
}

#endif
