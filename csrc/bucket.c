/* The time-bucket KDF: which bucket a time lies in, and the ratchet of chain keys over buckets.
 *
 * Time is whole seconds and buckets are whole numbers, in 64 bits; no division rounds but the one
 * floor that defines a bucket.
 *
 * Source: PROTOCOL A2 (buckets), R1 (step), R2 (message keys), R5 (how far).
 */
#include "column.h"
#include "kmac.h"
#include "qflare.h"

#include <string.h>

#define U64_BYTES 8u

static void put_u64(uint8_t out[U64_BYTES], uint64_t x)
{
    for (unsigned i = 0; i < U64_BYTES; i++) {
        out[i] = (uint8_t)(x >> (8 * (U64_BYTES - 1 - i)));
    }
}

static int custom_is_good(const uint8_t *custom, size_t custom_size)
{
    return custom_size <= QFL_KMAC_CUSTOM_MAX && (custom != NULL || custom_size == 0);
}

qfl_status qfl_bucket_of_batch(uint64_t *buckets, const uint64_t *times_s, uint32_t width_s,
                               size_t count)
{
    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (buckets == NULL || times_s == NULL || width_s == 0) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t row = 0; row < count; row++) {
        buckets[row] = times_s[row] / width_s;
    }
    return QFL_OK;
}

qfl_status qfl_bucket_range(uint64_t *first_s, uint64_t *end_s, uint64_t bucket, uint32_t width_s)
{
    if (first_s == NULL || end_s == NULL || width_s == 0) {
        return QFL_ERR_ARGUMENT;
    }
    /* (bucket + 1) * width must fit; written so that nothing overflows on the way. */
    if (bucket >= UINT64_MAX / width_s) {
        return QFL_ERR_ARGUMENT;
    }
    *first_s = bucket * width_s;
    *end_s = *first_s + width_s;
    return QFL_OK;
}

qfl_status qfl_chain_advance_batch(uint8_t *out, const uint8_t *chain_keys, const uint8_t *sids,
                                   const uint64_t *from, const uint8_t *custom, uint64_t to_bucket,
                                   size_t custom_size, size_t count)
{
    kmac256_prefix prefix;
    keccak_sponge sponge;
    _Alignas(64) uint8_t keys[KECCAK_WIDTH_MAX][QFL_CHAIN_KEY_BYTES];
    uint8_t unused[QFL_CHAIN_KEY_BYTES]; /* where states write that have no step to make yet */

    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (out == NULL || chain_keys == NULL || sids == NULL || from == NULL ||
        !custom_is_good(custom, custom_size)) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t row = 0; row < count; row++) {
        if (from[row] > to_bucket || to_bucket - from[row] > QFL_CHAIN_STEPS_MAX) {
            return QFL_ERR_ARGUMENT;
        }
    }

    kmac256_share(&prefix, custom, custom_size, QFL_CHAIN_KEY_BYTES, count);
    for (size_t row = 0; row < count;) {
        const keccak_group group = keccak_group_at(row, count);
        const uint8_t *inputs[KECCAK_WIDTH_MAX];
        const uint8_t *ids[KECCAK_WIDTH_MAX];
        uint8_t *outputs[KECCAK_WIDTH_MAX];
        uint64_t first = to_bucket;
        for (size_t state = 0; state < group.engine->width; state++) {
            const size_t at = keccak_group_row(&group, state);
            memcpy(keys[state], chain_keys + at * QFL_CHAIN_KEY_BYTES, QFL_CHAIN_KEY_BYTES);
            inputs[state] = keys[state];
            ids[state] = sids + at * QFL_SESSION_ID_BYTES;
            first = from[at] < first ? from[at] : first;
        }
        /* The bucket of a step is the same for all rows; a row joins in at its own. */
        for (uint64_t b = first; b < to_bucket; b++) {
            uint8_t bucket[U64_BYTES];
            for (size_t state = 0; state < group.engine->width; state++) {
                const int has_begun = from[keccak_group_row(&group, state)] <= b;
                outputs[state] = has_begun ? keys[state] : unused;
            }
            /* R1: CK_{b+1} = Expand(CK_b, "bucket", b+1 || sid, 64) */
            put_u64(bucket, b + 1);
            kmac256_start(&sponge, group.engine, &prefix, inputs, QFL_CHAIN_KEY_BYTES);
            keccak_absorb_shared(&sponge, bucket, sizeof bucket);
            keccak_absorb(&sponge, ids, QFL_SESSION_ID_BYTES);
            kmac256_finish(&sponge, outputs, QFL_CHAIN_KEY_BYTES);
        }
        for (size_t state = 0; state < group.live; state++) {
            memcpy(out + (row + state) * QFL_CHAIN_KEY_BYTES, keys[state], QFL_CHAIN_KEY_BYTES);
        }
        row += group.live;
    }
    qfl_zeroize(keys, sizeof keys);
    qfl_zeroize(unused, sizeof unused);
    qfl_zeroize(&sponge, sizeof sponge);
    keccak_wipe_stack();
    return QFL_OK;
}

qfl_status qfl_message_key_batch(uint8_t *out, const uint8_t *chain_keys, const uint8_t *purpose,
                                 const uint8_t *custom, uint64_t bucket, uint8_t direction,
                                 size_t purpose_size, size_t custom_size, size_t count)
{
    uint8_t index[U64_BYTES];

    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (out == NULL || chain_keys == NULL || purpose == NULL || purpose_size == 0 ||
        purpose_size > QFL_PURPOSE_MAX || direction < 1 || direction > 2 ||
        !custom_is_good(custom, custom_size)) {
        return QFL_ERR_ARGUMENT;
    }

    /* R2: MK(b, direction, purpose) = Expand(CK_b, "key", b || direction || purpose, 64) */
    put_u64(index, bucket);
    const qfl_column key = {chain_keys, QFL_CHAIN_KEY_BYTES, QFL_CHAIN_KEY_BYTES};
    const qfl_column context[3] = {
        {index, 0, sizeof index},
        {&direction, 0, 1},
        {purpose, 0, purpose_size},
    };
    return qfl_kmac256_batch(out, &key, context, custom, QFL_MESSAGE_KEY_BYTES, 3, custom_size,
                             count);
}
