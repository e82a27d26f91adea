/* The hash functions of ML-KEM (FIPS 203, section 4.1) for ITEMS items at once; private to csrc/lanes.
 *
 * CT: nothing here branches on, or indexes with, anything but counts.
 */
#ifndef QFL_HASHES_H
#define QFL_HASHES_H

#include "lanes/items.h"

#include <string.h>

/* Each item's 32-byte values as four words, and the states that they come from.  SECRET but rho and h. */
typedef struct {
    vec64 state[GROUPS][KECCAK_LANES_IN_STATE];
    vec64 rho[GROUPS][4];
    vec64 h[GROUPS][4];        /* H(ek) */
    vec64 m[GROUPS][4];
    vec64 secret[GROUPS][4];   /* K or K' */
    vec64 coins[GROUPS][4];    /* sigma or r */
    vec64 rejected[GROUPS][4]; /* K-bar */
} hashes;

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

/* The 32 bytes at `at` of every item's row, as four words. */
static void read_32_bytes(vec64 out[GROUPS][4], hashes *hash, const uint8_t *const *rows, size_t at, size_t groups)
{
    clear_states(hash->state);
    for (size_t g = 0; g < groups; g++) {
        KECCAK_ENGINE.absorb((uint64_t *)hash->state[g], 0, rows + g * WORDS, at, 32);
        memcpy(out[g], hash->state[g], sizeof out[g]);
    }
}

/* Write 32 bytes of every item to its row at `at`. */
static void write_32_bytes(uint8_t *const *rows, size_t at, const vec64 in[GROUPS][4], size_t groups)
{
    for (size_t g = 0; g < groups; g++) {
        KECCAK_ENGINE.extract((const uint64_t *)in[g], rows + g * WORDS, at, 32);
    }
}

/* Take both halves of SHA3-512's output. */
static void take_two(hashes *at, vec64 first[GROUPS][4], vec64 second[GROUPS][4], size_t groups)
{
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 4; i++) {
            first[g][i] = at->state[g][i];
            second[g][i] = at->state[g][4 + i];
        }
    }
}

/* G(m || h) is SHA3-512 (section 4.1): K' and r. */
static void hash_g(hashes *at, size_t groups)
{
    clear_states(at->state);
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 4; i++) {
            at->state[g][i] = at->m[g][i];
            at->state[g][4 + i] = at->h[g][i];
        }
        at->state[g][8] = all64(KECCAK_DOMAIN_SHA3 | UINT64_C(0x80) << 56); /* the last word of 72 bytes */
    }
    permute_states(at->state, groups);
    take_two(at, at->secret, at->coins, groups);
}

/* G(d || k), Algorithm 13, step 1: rho and sigma, from d in `m`. */
static void hash_g_of_seed(hashes *at, size_t groups)
{
    clear_states(at->state);
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 4; i++) {
            at->state[g][i] = at->m[g][i];
        }
        at->state[g][4] = all64(MLKEM_K | KECCAK_DOMAIN_SHA3 << 8);
        at->state[g][8] = all64(UINT64_C(0x80) << 56);
    }
    permute_states(at->state, groups);
    take_two(at, at->rho, at->coins, groups);
}

/* PRF_2(r, n) and Algorithm 8, SamplePolyCBD_2: coefficient i is bits 4i and 4i + 1 less bits 4i + 2
 * and 4i + 3.  128 bytes of SHAKE256 are less than one block. */
static void sample_noise(vec out[MLKEM_N], hashes *at, uint64_t n, size_t groups)
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

/* The first 32 bytes of a sponge over `first_size` and then `size` bytes of each row: H is SHA3-256,
 * J(z || c) is SHAKE256 (section 4.1), and both have this rate. */
static void hash_rows(vec64 out[GROUPS][4], const uint8_t *const *first, size_t first_size, const uint8_t *const *rows,
                      size_t size, uint8_t domain, size_t groups)
{
    keccak_sponge sponge;
    for (size_t g = 0; g < groups; g++) {
        keccak_init(&sponge, &KECCAK_ENGINE, KECCAK_RATE_256);
        if (first_size > 0) {
            keccak_absorb(&sponge, first + g * WORDS, first_size);
        }
        keccak_absorb(&sponge, rows + g * WORDS, size);
        keccak_finish(&sponge, domain);
        memcpy(out[g], sponge.lane, sizeof out[g]);
    }
    qfl_zeroize(&sponge, sizeof sponge);
}

/* All ones in the words of the items whose place is not zero. */
static inline void masks_of(vec64 masks[GROUPS], vec differences)
{
    /* The sign of x | -x is set for every x but 0. */
    const uvec x = (uvec)differences;
    const vec64 wrong = (vec64)((vec)(x | ((uvec)all16(0) - x)) >> 15);
    for (size_t g = 0; g < GROUPS; g++) {
        masks[g] = wrong;
    }
    swap(masks);
}

/* Algorithm 18, steps 8 to 11: K', or K-bar where the item differs. */
static void write_chosen(hashes *at, vec differences, uint8_t *const outputs[ITEMS], size_t groups)
{
    vec64 masks[GROUPS];
    masks_of(masks, differences);
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 4; i++) {
            at->state[g][i] = (at->secret[g][i] & ~masks[g]) | (at->rejected[g][i] & masks[g]);
        }
        KECCAK_ENGINE.extract((const uint64_t *)at->state[g], outputs + g * WORDS, 0, QFL_KEM1024_SS_BYTES);
    }
}

#endif
