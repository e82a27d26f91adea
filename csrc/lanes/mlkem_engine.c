/* The border of the ML-KEM-1024 engine: which one runs, arguments, and memory of the caller.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lanes/mlkem.h"

#include <string.h>

#define ALIGNMENT 64u

_Static_assert(sizeof(mlkem_key) + ALIGNMENT <= QFL_KEM1024_CONTEXT_BYTES, "context size");

/* The widest engine that the machine has and this thread allows; null where it has none. */
static const mlkem_engine *engine(void)
{
#if LANES_HAVE_WIDE
    const unsigned width = qfl_lanes_width();
    /* Dot products of 16-bit words came with VNNI, permuting and compressing of small elements with VBMI and VBMI2; an
     * older processor with AVX-512 takes AVX2. */
    if (width == 8 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vbmi2")) {
        return &mlkem_engine_x8;
    }
    if (width >= 4 && __builtin_cpu_supports("avx2")) {
        return &mlkem_engine_x4;
    }
#endif
#if MLKEM_HAVE_PORTABLE
    return &mlkem_engine_x2;
#else
    return NULL;
#endif
}

/* The first aligned byte: the same for the same memory, wherever that lies. */
static uint8_t *aligned(uint8_t *memory)
{
    return memory + (ALIGNMENT - (uintptr_t)memory % ALIGNMENT) % ALIGNMENT;
}

static const mlkem_key *key_in(const uint8_t *context)
{
    return (const mlkem_key *)(const void *)(context + (ALIGNMENT - (uintptr_t)context % ALIGNMENT) % ALIGNMENT);
}

/* Items from `row` on that go through the engine together. */
static size_t live_of(const mlkem_engine *found, size_t row, size_t count)
{
    return count - row < found->width ? count - row : found->width;
}

/* What every batch ends with. */
static void wipe(uint8_t *scratch, size_t size, size_t count)
{
    if (count > 0) {
        qfl_zeroize(aligned(scratch), size);
    }
    keccak_wipe_stack();
}

size_t qfl_kem1024_lanes_items(void)
{
    const mlkem_engine *found = engine();
    return found == NULL ? 0 : found->width;
}

qfl_status qfl_kem1024_lanes_expand(uint8_t *context, const uint8_t *dk)
{
    uint8_t status = QFL_ERR_ARGUMENT;
    if (context == NULL || dk == NULL) {
        return QFL_ERR_ARGUMENT;
    }
    if (qfl_kem1024_check_dk_batch(&status, dk, 1) != QFL_OK || status != QFL_OK) { /* SPEC: FIPS 203, 7.3 */
        qfl_zeroize(context, QFL_KEM1024_CONTEXT_BYTES);
        return QFL_ERR_KEY;
    }
    mlkem_expand_key((mlkem_key *)(void *)aligned(context), dk);
    keccak_wipe_stack();
    return QFL_OK;
}

qfl_status qfl_kem1024_lanes_decaps(uint8_t *ss, uint8_t *scratch, const uint8_t *context, const uint8_t *ct,
                                    size_t count)
{
    const mlkem_engine *found = engine();
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ss == NULL || scratch == NULL || context == NULL || ct == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    if (found == NULL) {
        return QFL_ERR_BACKEND;
    }
    for (size_t row = 0; row < count; row += found->width) {
        found->decapsulate_one_key(ss + row * QFL_KEM1024_SS_BYTES, aligned(scratch), key_in(context),
                                   ct + row * QFL_KEM1024_CT_BYTES, live_of(found, row, count));
    }
    wipe(scratch, found->one_key_scratch, count);
    return QFL_OK;
}

/* Zeros for a row of a pair of outputs that failed. */
static void wipe_row(uint8_t *first, size_t first_size, uint8_t *second, size_t second_size, size_t row)
{
    qfl_zeroize(first + row * first_size, first_size);
    qfl_zeroize(second + row * second_size, second_size);
}

/* Key pairs of rows from seeds, or from fresh randomness where there are none. */
static void generate_rows(const mlkem_engine *found, uint8_t *ek, uint8_t *dk, uint8_t *status, uint8_t *scratch,
                          const uint8_t *seeds, size_t count)
{
    uint8_t fresh[MLKEM_WIDTH_MAX * QFL_KEM1024_SEED_BYTES];
    for (size_t row = 0; row < count; row += found->width) {
        const size_t live = live_of(found, row, count);
        const uint8_t *from = seeds == NULL ? fresh : seeds + row * QFL_KEM1024_SEED_BYTES;
        /* Algorithm 19: d and z of one row after the other. */
        const size_t drawn = seeds == NULL ? qfl_random_rows(fresh, QFL_KEM1024_SEED_BYTES, live) : live;
        found->generate(ek + row * QFL_KEM1024_EK_BYTES, dk + row * QFL_KEM1024_DK_BYTES, aligned(scratch), from, live);
        for (size_t item = 0; item < live; item++) {
            status[row + item] = (uint8_t)(item < drawn ? QFL_OK : QFL_ERR_ENTROPY);
            if (item >= drawn) {
                wipe_row(ek, QFL_KEM1024_EK_BYTES, dk, QFL_KEM1024_DK_BYTES, row + item);
            }
        }
    }
    qfl_zeroize(fresh, sizeof fresh);
    wipe(scratch, found->scratch, count);
}

qfl_status qfl_kem1024_lanes_keygen_batch(uint8_t *ek, uint8_t *dk, uint8_t *status, uint8_t *scratch, size_t count)
{
    const mlkem_engine *found = engine();
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ek == NULL || dk == NULL || status == NULL || scratch == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    if (found == NULL) {
        return QFL_ERR_BACKEND;
    }
    generate_rows(found, ek, dk, status, scratch, NULL, count);
    return QFL_OK;
}

qfl_status qfl_kem1024_lanes_keygen_seeded_batch(uint8_t *ek, uint8_t *dk, uint8_t *status, uint8_t *scratch,
                                                 const uint8_t *seeds, size_t count)
{
    const mlkem_engine *found = engine();
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ek == NULL || dk == NULL || status == NULL || scratch == NULL || seeds == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    if (found == NULL) {
        return QFL_ERR_BACKEND;
    }
    if (count > 0) {
        generate_rows(found, ek, dk, status, scratch, seeds, count);
    }
    return QFL_OK;
}

/* Draw m (Algorithm 20) for the rows whose key is good, and say how it went.  A row that has none gets zeros. */
static void draw_messages(uint8_t *m, uint8_t *status, const uint64_t *bad, size_t live)
{
    size_t good = 0;
    for (size_t item = 0; item < live; item++) {
        status[item] = (uint8_t)(bad[item] != 0 ? QFL_ERR_KEY : QFL_OK); /* SPEC: FIPS 203, 7.2 */
        good += bad[item] == 0;
    }
    const size_t drawn = qfl_random_rows(m, 32, good);
    /* From the end, so that nothing is written over before it was moved. */
    for (size_t item = live; item-- > 0;) {
        if (status[item] != QFL_OK) {
            memset(m + item * 32, 0, 32);
            continue;
        }
        good--;
        memmove(m + item * 32, m + good * 32, 32);
        status[item] = (uint8_t)(good < drawn ? QFL_OK : QFL_ERR_ENTROPY);
    }
}

qfl_status qfl_kem1024_lanes_encaps_batch(uint8_t *ct, uint8_t *ss, uint8_t *status, uint8_t *scratch,
                                          const uint8_t *ek, size_t count)
{
    uint64_t bad[MLKEM_WIDTH_MAX];
    uint8_t m[MLKEM_WIDTH_MAX * 32];
    const mlkem_engine *found = engine();
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ct == NULL || ss == NULL || status == NULL || scratch == NULL || ek == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    if (found == NULL) {
        return QFL_ERR_BACKEND;
    }
    for (size_t row = 0; row < count; row += found->width) {
        const size_t live = live_of(found, row, count);
        const uint8_t *const keys = ek + row * QFL_KEM1024_EK_BYTES;
        found->open_keys(bad, aligned(scratch), keys, live);
        draw_messages(m, status + row, bad, live);
        found->encapsulate(ct + row * QFL_KEM1024_CT_BYTES, ss + row * QFL_KEM1024_SS_BYTES, aligned(scratch), m, keys,
                           live);
        for (size_t item = row; item < row + live; item++) {
            if (status[item] != QFL_OK) {
                wipe_row(ct, QFL_KEM1024_CT_BYTES, ss, QFL_KEM1024_SS_BYTES, item);
            }
        }
    }
    qfl_zeroize(m, sizeof m);
    wipe(scratch, found->scratch, count);
    return QFL_OK;
}

qfl_status qfl_kem1024_lanes_decaps_batch(uint8_t *ss, uint8_t *status, uint8_t *scratch, const uint8_t *dk,
                                          const uint8_t *ct, size_t count)
{
    uint64_t bad[MLKEM_WIDTH_MAX];
    const mlkem_engine *found = engine();
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (count > 0 && (ss == NULL || status == NULL || scratch == NULL || dk == NULL || ct == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    if (found == NULL) {
        return QFL_ERR_BACKEND;
    }
    for (size_t row = 0; row < count; row += found->width) {
        const size_t live = live_of(found, row, count);
        found->decapsulate(ss + row * QFL_KEM1024_SS_BYTES, bad, aligned(scratch), dk + row * QFL_KEM1024_DK_BYTES,
                           ct + row * QFL_KEM1024_CT_BYTES, live);
        for (size_t item = 0; item < live; item++) {
            status[row + item] = (uint8_t)(bad[item] != 0 ? QFL_ERR_KEY : QFL_OK); /* SPEC: FIPS 203, 7.3 */
            if (bad[item] != 0) {
                qfl_zeroize(ss + (row + item) * QFL_KEM1024_SS_BYTES, QFL_KEM1024_SS_BYTES);
            }
        }
    }
    wipe(scratch, found->scratch, count);
    return QFL_OK;
}
