/* Key generation, encapsulation and decapsulation of the ML-KEM-1024 engine against liboqs, under sanitizers:
 * buffers come from malloc at their exact size and at every alignment, so that a byte too far and a wrong
 * alignment are found.
 * SPDX-License-Identifier: Apache-2.0 */
#include "expect.h"
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define COUNT ((size_t)37) /* one full call of any width, and one with idle places */
#define EK QFL_KEM1024_EK_BYTES
#define DK QFL_KEM1024_DK_BYTES
#define CT QFL_KEM1024_CT_BYTES
#define SS QFL_KEM1024_SS_BYTES

static uint8_t *rows(size_t count, size_t size)
{
    uint8_t *const memory = malloc(count * size > 0 ? count * size : 1);
    if (memory == NULL) {
        abort();
    }
    memset(memory, 0xa5, count * size > 0 ? count * size : 1);
    return memory;
}

/* What liboqs makes of COUNT seeds, with a key that is not reduced and one whose hash is wrong. */
typedef struct {
    uint8_t *seeds, *m, *ek, *dk, *ct, *ss, *opened;
    uint8_t *key_status, *ek_status, *dk_status;
} expectation;

static void expect_from_liboqs(expectation *all, unsigned round)
{
    EXPECT(qfl_random_bytes(all->seeds, COUNT * QFL_KEM1024_SEED_BYTES) == QFL_OK);
    EXPECT(qfl_random_bytes(all->m, COUNT * 32) == QFL_OK);
    EXPECT(qfl_kem1024_keygen_seeded_batch(all->ek, all->dk, all->key_status, all->seeds, COUNT) == QFL_OK);
    const size_t bad = (round * 11 + 3) % COUNT;
    all->ek[bad * EK + 1534] = 0xff, all->ek[bad * EK + 1535] = 0xff; /* the last coefficient is 4095 */
    EXPECT(qfl_random_input_begin(all->m, COUNT * 32) == QFL_OK);
    EXPECT(qfl_kem1024_encaps_batch(all->ct, all->ss, all->ek_status, all->ek, COUNT) == QFL_OK);
    EXPECT(qfl_random_input_end() == 32); /* the bad key drew nothing */
    EXPECT(all->ek_status[bad] == QFL_ERR_KEY);
    for (size_t row = 0; row < COUNT; row++) {
        uint8_t *const ct = all->ct + row * CT;
        if (row % 3 == 1) {
            ct[(row * 41 + round * 7) % CT] ^= (uint8_t)(1u << (row % 8));
        }
        if (row % 11 == 5) {
            memset(ct, row % 2 == 0 ? 0 : 0xff, CT);
        }
    }
    all->dk[(bad + 1) % COUNT * DK + DK - 40] ^= 1; /* H(ek) */
    memset(all->dk + (bad + 2) % COUNT * DK, 0xff, 1536); /* every coefficient of the secret is 4095 */
    EXPECT(qfl_kem1024_decaps_batch(all->opened, all->dk_status, all->dk, all->ct, COUNT) == QFL_OK);
    EXPECT(all->dk_status[(bad + 1) % COUNT] == QFL_ERR_KEY);
}

/* The last `count` rows through the engine. */
static void one_count(const expectation *all, uint8_t *scratch, size_t count)
{
    const size_t first = COUNT - count;
    uint8_t *const ek = rows(count, EK), *const dk = rows(count, DK), *const ct = rows(count, CT);
    uint8_t *const ss = rows(count, SS), *const status = rows(count, 1);
    uint8_t *const given = rows(count, DK), *const also_given = rows(count, CT);
    size_t good = 0;

    memcpy(given, all->seeds + first * 64, count * 64);
    EXPECT(qfl_kem1024_lanes_keygen_seeded_batch(ek, dk, status, scratch, given, count) == QFL_OK);
    EXPECT(all_bytes_are(status, count, QFL_OK));
    for (size_t row = 0; row < count; row++) { /* where nothing was spoilt afterwards */
        uint8_t expected_ek[EK], expected_dk[DK], one = 1;
        EXPECT(qfl_kem1024_keygen_seeded_batch(expected_ek, expected_dk, &one, given + row * 64, 1) == QFL_OK);
        EXPECT(memcmp(ek + row * EK, expected_ek, EK) == 0 && memcmp(dk + row * DK, expected_dk, DK) == 0);
    }
    EXPECT(qfl_random_input_begin(given, count * 64) == QFL_OK);
    memset(status, 0xa5, count);
    uint8_t *const drawn_ek = rows(count, EK);
    EXPECT(qfl_kem1024_lanes_keygen_batch(drawn_ek, dk, status, scratch, count) == QFL_OK);
    EXPECT(qfl_random_input_end() == 0 && all_bytes_are(status, count, QFL_OK));
    EXPECT(memcmp(ek, drawn_ek, count * EK) == 0);
    free(drawn_ek);

    memcpy(ek, all->ek + first * EK, count * EK);
    size_t drawn_before = 0;
    for (size_t row = 0; row < COUNT; row++) {
        drawn_before += row < first && all->ek_status[row] == QFL_OK;
        good += row >= first && all->ek_status[row] == QFL_OK;
    }
    EXPECT(qfl_random_input_begin(all->m + 32 * drawn_before, 32 * good) == QFL_OK);
    EXPECT(qfl_kem1024_lanes_encaps_batch(ct, ss, status, scratch, ek, count) == QFL_OK);
    EXPECT(qfl_random_input_end() == 0);
    EXPECT(memcmp(status, all->ek_status + first, count) == 0);
    EXPECT(memcmp(ss, all->ss + first * SS, count * SS) == 0);
    for (size_t row = 0; row < count; row++) {
        if ((first + row) % 3 != 1 && (first + row) % 11 != 5) { /* the others were altered since */
            EXPECT(memcmp(ct + row * CT, all->ct + (first + row) * CT, CT) == 0);
        }
    }

    memcpy(given, all->dk + first * DK, count * DK);
    memcpy(also_given, all->ct + first * CT, count * CT);
    EXPECT(qfl_kem1024_lanes_decaps_batch(ss, status, scratch, given, also_given, count) == QFL_OK);
    EXPECT(memcmp(status, all->dk_status + first, count) == 0);
    EXPECT(memcmp(ss, all->opened + first * SS, count * SS) == 0);
    free(ek), free(dk), free(ct), free(ss), free(status), free(given), free(also_given);
}

static void refuses_bad_arguments(uint8_t *scratch)
{
    uint8_t out[64];
    memset(out, 0xa5, sizeof out);
    const size_t too_many[] = {QFL_BATCH_MAX + 1,      ((size_t)1 << 31) / CT,     ((size_t)1 << 31) / CT + 1,
                               ((size_t)1 << 32) / DK, ((size_t)1 << 32) / DK + 1, SIZE_MAX / 2 + 1, SIZE_MAX};
    for (size_t at = 0; at < sizeof too_many / sizeof *too_many; at++) {
        const size_t count = too_many[at];
        EXPECT(qfl_kem1024_lanes_keygen_batch(out, out, out, scratch, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_lanes_keygen_seeded_batch(out, out, out, scratch, out, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_lanes_encaps_batch(out, out, out, scratch, out, count) == QFL_ERR_COUNT);
        EXPECT(qfl_kem1024_lanes_decaps_batch(out, out, scratch, out, out, count) == QFL_ERR_COUNT);
    }
    for (unsigned missing = 0; missing < 5; missing++) {
        uint8_t *arg[5];
        for (unsigned at = 0; at < 5; at++) {
            arg[at] = at == missing ? NULL : out;
        }
        EXPECT(qfl_kem1024_lanes_keygen_seeded_batch(arg[0], arg[1], arg[2], arg[3], arg[4], 1) == QFL_ERR_ARGUMENT);
        EXPECT(qfl_kem1024_lanes_encaps_batch(arg[0], arg[1], arg[2], arg[3], arg[4], 1) == QFL_ERR_ARGUMENT);
        EXPECT(qfl_kem1024_lanes_decaps_batch(arg[0], arg[1], arg[2], arg[3], arg[4], 1) == QFL_ERR_ARGUMENT);
        if (missing < 4) {
            EXPECT(qfl_kem1024_lanes_keygen_batch(arg[0], arg[1], arg[2], arg[3], 1) == QFL_ERR_ARGUMENT);
        }
    }
    EXPECT(all_bytes_are(out, sizeof out, 0xa5));
}

/* The random source fails: every row says so and is zero, never a key. */
static void fails_without_randomness(uint8_t *scratch, const uint8_t *ek_in)
{
    uint8_t *const ek = rows(COUNT, EK), *const dk = rows(COUNT, DK), *const status = rows(COUNT, 1);
    qfl_random_fail_for_test(1);
    EXPECT(qfl_kem1024_lanes_keygen_batch(ek, dk, status, scratch, COUNT) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, QFL_ERR_ENTROPY));
    EXPECT(all_bytes_are(ek, COUNT * EK, 0) && all_bytes_are(dk, COUNT * DK, 0));
    memset(ek, 0xa5, COUNT * EK);
    memset(dk, 0xa5, COUNT * SS);
    EXPECT(qfl_kem1024_lanes_encaps_batch(ek, dk, status, scratch, ek_in, COUNT) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, QFL_ERR_ENTROPY));
    EXPECT(all_bytes_are(ek, COUNT * CT, 0) && all_bytes_are(dk, COUNT * SS, 0));
    qfl_random_fail_for_test(0);
    free(ek), free(dk), free(status);
}

int main(void)
{
    qfl_random_install();
    expectation all = {rows(COUNT, 64), rows(COUNT, 32), rows(COUNT, EK), rows(COUNT, DK), rows(COUNT, CT),
                       rows(COUNT, SS), rows(COUNT, SS), rows(COUNT, 1),  rows(COUNT, 1),  rows(COUNT, 1)};
    static const unsigned widths[3] = {1, 4, 8};
    for (unsigned round = 0; round < 3; round++) {
        expect_from_liboqs(&all, round);
        for (size_t i = 0; i < 3; i++) {
            if (qfl_lanes_force(widths[i]) != QFL_OK) {
                printf("test_kem_many: no %u wide on this machine\n", widths[i]);
                continue;
            }
            const size_t shift = (round * 23 + i * 21) % 64;
            uint8_t *const scratch = rows(1, QFL_KEM1024_SCRATCH_BYTES + shift);
            memset(scratch, 0, QFL_KEM1024_SCRATCH_BYTES + shift);
            /* Portable vectors are slow under sanitizers. */
            for (size_t count = 0; count < COUNT; count += widths[i] == 1 ? 9 : count < 18 ? 1 : 5) {
                one_count(&all, scratch + shift, count);
            }
            one_count(&all, scratch + shift, COUNT);
            EXPECT(all_bytes_are(scratch, QFL_KEM1024_SCRATCH_BYTES + shift, 0));
            if (round == 0) {
                refuses_bad_arguments(scratch + shift);
                EXPECT(qfl_kem1024_keygen_seeded_batch(all.ek, all.dk, all.key_status, all.seeds, COUNT) == QFL_OK);
                fails_without_randomness(scratch + shift, all.ek);
                EXPECT(all_bytes_are(scratch, QFL_KEM1024_SCRATCH_BYTES + shift, 0));
                expect_from_liboqs(&all, round);
            }
            free(scratch);
        }
        EXPECT(qfl_lanes_force(0) == QFL_OK);
    }
    free(all.seeds), free(all.m), free(all.ek), free(all.dk), free(all.ct), free(all.ss), free(all.opened);
    free(all.key_status), free(all.ek_status), free(all.dk_status);
    return expect_result("test_kem_many");
}
