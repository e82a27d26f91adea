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
#if KECCAK_HAVE_WIDE
    const unsigned width = qfl_lanes_width();
    /* Dot products of 16-bit words came with VNNI; an older processor with AVX-512 takes AVX2. */
    if (width == 8 && __builtin_cpu_supports("avx512vnni")) {
        return &mlkem_engine_x8;
    }
    if (width >= 4 && __builtin_cpu_supports("avx2")) {
        return &mlkem_engine_x4;
    }
#endif
    return NULL;
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
        const size_t live = count - row < found->width ? count - row : found->width;
        found->decapsulate(ss + row * QFL_KEM1024_SS_BYTES, aligned(scratch), key_in(context),
                           ct + row * QFL_KEM1024_CT_BYTES, live);
    }
    if (count > 0) {
        qfl_zeroize(aligned(scratch), found->scratch_size);
    }
    keccak_wipe_stack();
    return QFL_OK;
}
