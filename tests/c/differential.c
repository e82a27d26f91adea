/* The ML-KEM-1024 engine held against liboqs on random and adversarial rows, at every width of the machine.
 *
 *     differential ROWS [FIRST]
 *
 * A row is three cases at a width: its key pair, an encapsulation to it, and a decapsulation.  Batches have any size;
 * rows are made from SHAKE256 of the batch's number, so that a difference can be seen again by its number.  Among them
 * are keys with coefficients of 0, q - 1, q and 4095, wrong hashes, and ciphertexts altered, foreign, random and of
 * one repeated byte.  Every eighth batch goes through the portable vectors too, which are slow.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 97u /* rows of a batch: three groups of the widest engine, and one */
#define EK QFL_KEM1024_EK_BYTES
#define DK QFL_KEM1024_DK_BYTES
#define CT QFL_KEM1024_CT_BYTES
#define SS QFL_KEM1024_SS_BYTES
#define DK_EK_AT 1536u
#define DK_H_AT (DK - 64u)

typedef struct {
    uint8_t ek[MOST * EK], dk[MOST * DK], ct[MOST * CT], ss[MOST * SS], opened[MOST * SS], under_one[MOST * SS];
    uint8_t keys[MOST], eks[MOST], dks[MOST]; /* status of each operation */
} results;

static struct {
    uint8_t seeds[MOST * QFL_KEM1024_SEED_BYTES], m[MOST * 32];
    uint8_t ek[MOST * EK], dk[MOST * DK], ct[MOST * CT]; /* what is given to the second and third operation */
    uint8_t choices[MOST * 16], noise[MOST * CT];
} given;

static results expected, found;
static uint8_t scratch[QFL_KEM1024_SCRATCH_BYTES], context[QFL_KEM1024_CONTEXT_BYTES];
static uint64_t cases, differences;

static void must(qfl_status status)
{
    if (status != QFL_OK) {
        fprintf(stderr, "differential: a call failed with %d\n", (int)status);
        exit(2);
    }
}

static void stream(uint8_t *out, size_t size, uint64_t batch, uint8_t what)
{
    uint8_t name[9];
    const uint64_t sizes = sizeof name;
    memcpy(name, &batch, 8);
    name[8] = what;
    must(qfl_shake256_batch(out, size, name, &sizes, sizeof name, 1));
}

/* Write a coefficient of 12 bits. */
static void set_coefficient(uint8_t *vector, size_t at, unsigned value)
{
    uint8_t *const pair = vector + at / 2 * 3;
    if (at % 2 == 0) {
        pair[0] = (uint8_t)value, pair[1] = (uint8_t)((pair[1] & 0xf0) | value >> 8);
    } else {
        pair[1] = (uint8_t)((pair[1] & 0x0f) | value << 4), pair[2] = (uint8_t)(value >> 4);
    }
}

static unsigned edge(uint8_t choice)
{
    static const unsigned edges[8] = {0, 1, 1664, 1665, 3328, 3329, 3330, 4095};
    return edges[choice % 8];
}

/* Spoil a key: one coefficient or all of them at an edge. */
static void spoil_vector(uint8_t *vector, const uint8_t *choice)
{
    const size_t one = (size_t)(choice[1] | choice[2] << 8) % 1024;
    for (size_t at = 0; at < 1024; at++) {
        if (at == one || choice[3] % 4 == 0) {
            set_coefficient(vector, at, edge((uint8_t)(choice[4] + (choice[3] % 8 == 0 ? at : 0))));
        }
    }
}

static void spoil_keys(size_t row, const uint8_t *choice)
{
    uint8_t *const dk = given.dk + row * DK;
    if (choice[0] % 4 == 0) {
        spoil_vector(given.ek + row * EK, choice);
    }
    if (choice[5] % 4 == 0) {
        spoil_vector(dk, choice + 4);
    }
    if (choice[5] % 8 == 1) { /* another key of its holder, whose hash is right */
        spoil_vector(dk + DK_EK_AT, choice + 3);
        must(qfl_sha3_256(dk + DK_H_AT, dk + DK_EK_AT, EK));
    }
    if (choice[5] % 32 == 2) {
        dk[DK_EK_AT + choice[6] * 6u] ^= (uint8_t)(1u << choice[7] % 8);
    }
    if (choice[5] % 32 == 3) {
        dk[DK_H_AT + choice[6] % 32] ^= (uint8_t)(1u << choice[7] % 8);
    }
}

static void spoil_ciphertext(size_t row, size_t count, const uint8_t *choice)
{
    uint8_t *const ct = given.ct + row * CT;
    const size_t at = (size_t)(choice[9] | choice[10] << 8) % CT;
    switch (choice[8] % 8) {
    case 0: /* the byte whose turn it is: all of them, sooner or later */
        ct[at] ^= (uint8_t)(1u << choice[11] % 8);
        break;
    case 1:
        for (size_t i = 0; i <= choice[11] % 64u; i++) {
            ct[(at + i * i * 7) % CT] ^= given.noise[row * CT + i];
        }
        break;
    case 2: /* the end of another one's */
        memmove(ct + at, given.ct + (row + 1) % count * CT + at, CT - at);
        break;
    case 3:
        memcpy(ct, given.noise + row * CT, CT);
        break;
    case 4:
        memset(ct, choice[11] % 4 == 0 ? 0xff : choice[11] % 4 == 1 ? 0 : choice[11], CT);
        break;
    default:
        break; /* as it was made */
    }
}

static void compare(const char *what, const uint8_t *a, const uint8_t *b, size_t size, uint64_t batch, unsigned width)
{
    if (memcmp(a, b, size) != 0) {
        differences++;
        printf("differential: batch %llu, %u wide: %s differs\n", (unsigned long long)batch, width, what);
    }
}

static void run_lanes(size_t count, size_t good, uint64_t batch, unsigned width)
{
    memset(&found, 0xa5, sizeof found);
    must(qfl_lanes_force(width));
    must(qfl_kem1024_lanes_keygen_seeded_batch(found.ek, found.dk, found.keys, scratch, given.seeds, count));
    compare("status of key generation", expected.keys, found.keys, count, batch, width);
    compare("ek", expected.ek, found.ek, count * EK, batch, width);
    compare("dk", expected.dk, found.dk, count * DK, batch, width);
    must(qfl_random_input_begin(given.m, good * 32));
    must(qfl_kem1024_lanes_encaps_batch(found.ct, found.ss, found.eks, scratch, given.ek, count));
    differences += qfl_random_input_end() != 0;
    compare("status of encapsulation", expected.eks, found.eks, count, batch, width);
    compare("ct", expected.ct, found.ct, count * CT, batch, width);
    compare("ss", expected.ss, found.ss, count * SS, batch, width);
    must(qfl_kem1024_lanes_decaps_batch(found.opened, found.dks, scratch, given.dk, given.ct, count));
    compare("status of decapsulation", expected.dks, found.dks, count, batch, width);
    compare("opened ss", expected.opened, found.opened, count * SS, batch, width);
    cases += 3 * count;
    if (expected.dks[0] == QFL_OK && batch % 4 == 0) {
        must(qfl_kem1024_lanes_expand(context, given.dk));
        must(qfl_kem1024_lanes_decaps(found.under_one, scratch, context, given.ct, count));
        compare("ss under one key", expected.under_one, found.under_one, count * SS, batch, width);
        cases += count;
    }
    must(qfl_lanes_force(0));
}

static size_t run_batch(uint64_t batch)
{
    uint8_t size;
    size_t good = 0;
    stream(&size, 1, batch, 's');
    const size_t count = 1 + size % MOST;
    stream(given.seeds, count * QFL_KEM1024_SEED_BYTES, batch, 'd');
    stream(given.m, count * 32, batch, 'm');
    stream(given.choices, count * 16, batch, 'c');
    stream(given.noise, count * CT, batch, 'n');

    must(qfl_kem1024_keygen_seeded_batch(expected.ek, expected.dk, expected.keys, given.seeds, count));
    memcpy(given.ek, expected.ek, count * EK);
    memcpy(given.dk, expected.dk, count * DK);
    for (size_t row = 0; row < count; row++) {
        spoil_keys(row, given.choices + row * 16);
    }
    must(qfl_random_input_begin(given.m, count * 32));
    must(qfl_kem1024_encaps_batch(expected.ct, expected.ss, expected.eks, given.ek, count));
    good = count - qfl_random_input_end() / 32;
    memcpy(given.ct, expected.ct, count * CT);
    for (size_t row = 0; row < count; row++) {
        spoil_ciphertext(row, count, given.choices + row * 16);
    }
    must(qfl_kem1024_decaps_batch(expected.opened, expected.dks, given.dk, given.ct, count));
    if (expected.dks[0] == QFL_OK && batch % 4 == 0) {
        must(qfl_kem1024_decaps_one_key(expected.under_one, given.dk, given.ct, count));
    }

    static const unsigned widths[3] = {8, 4, 1};
    const unsigned widest = qfl_lanes_width();
    for (size_t i = 0; i < 3; i++) {
        if (widths[i] <= widest && (widths[i] > 1 || widest == 1 || batch % 8 == 0)) {
            run_lanes(count, good, batch, widths[i]);
        }
    }
    return count;
}

int main(int argc, char **argv)
{
    const uint64_t rows = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    uint64_t batch = argc > 2 ? strtoull(argv[2], NULL, 10) : 0, done = 0;
    if (rows == 0) {
        fprintf(stderr, "usage: differential ROWS [FIRST]\n");
        return 2;
    }
    qfl_random_install();
    if (qfl_kem1024_lanes_items() == 0) {
        printf("differential: this machine has no engine\n");
        return 0;
    }
    for (uint64_t told = 0; done < rows; batch++) {
        done += run_batch(batch);
        if (done * 10 / rows > told) {
            told = done * 10 / rows;
            printf("differential: %llu rows, %llu cases, %llu differences\n", (unsigned long long)done,
                   (unsigned long long)cases, (unsigned long long)differences);
            fflush(stdout);
        }
    }
    return differences != 0;
}
