/* SHA3-256, SHA3-512, SHAKE256 and the transcript hash, over batches.
 *
 * Source: FIPS 202, section 6; PROTOCOL N1 for the transcript.
 */
#include "column.h"
#include "keccak.h"
#include "messages.h"
#include "qflare.h"

/* Whether `size_count` sizes add up to exactly `total`, none above `each_max`. */
static int sizes_add_up(const uint64_t *sizes, size_t size_count, size_t total, uint64_t each_max)
{
    uint64_t left = total;
    for (size_t i = 0; i < size_count; i++) {
        if (sizes[i] > left || sizes[i] > each_max) {
            return 0;
        }
        left -= sizes[i];
    }
    return left == 0;
}

static void put_u32(uint8_t out[4], uint64_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        out[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

qfl_status qfl_sha3_256(uint8_t *out, const uint8_t *data, size_t size)
{
    const uint64_t sizes[1] = {size};
    if (out == NULL || (data == NULL && size != 0)) {
        return QFL_ERR_ARGUMENT;
    }
    const messages one = {data, sizes, NULL, 1};
    messages_hash(out, QFL_SHA3_256_BYTES, &one, KECCAK_RATE_256, KECCAK_DOMAIN_SHA3);
    return QFL_OK;
}

qfl_status qfl_sha3_512_batch(uint8_t *out, const uint8_t *data, const uint64_t *sizes,
                              size_t data_size, size_t count)
{
    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (out == NULL || sizes == NULL || (data == NULL && data_size != 0) ||
        !sizes_add_up(sizes, count, data_size, UINT64_MAX)) {
        return QFL_ERR_ARGUMENT;
    }
    const messages all = {data, sizes, NULL, count};
    messages_hash(out, QFL_SHA3_512_BYTES, &all, KECCAK_RATE_512, KECCAK_DOMAIN_SHA3);
    return QFL_OK;
}

qfl_status qfl_shake256_batch(uint8_t *out, size_t out_size, const uint8_t *data,
                              const uint64_t *sizes, size_t data_size, size_t count)
{
    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (out == NULL || sizes == NULL || (data == NULL && data_size != 0) || out_size == 0 ||
        !rows_fit(out_size, count) || !sizes_add_up(sizes, count, data_size, UINT64_MAX)) {
        return QFL_ERR_ARGUMENT;
    }
    const messages all = {data, sizes, NULL, count};
    messages_hash(out, out_size, &all, KECCAK_RATE_256, KECCAK_DOMAIN_SHAKE);
    return QFL_OK;
}

qfl_status qfl_transcript_batch(uint8_t *out, const qfl_column *columns, size_t column_count,
                                size_t count)
{
    keccak_sponge sponge;

    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (out == NULL || column_count == 0 || !columns_are_good(columns, column_count, count)) {
        return QFL_ERR_ARGUMENT;
    }
    for (size_t i = 0; i < column_count; i++) {
        if ((uint64_t)columns[i].width > UINT32_MAX) {
            return QFL_ERR_ARGUMENT;
        }
    }

    for (size_t row = 0; row < count;) {
        const keccak_group group = keccak_group_at(row, count);
        keccak_init(&sponge, group.engine, KECCAK_RATE_512);
        for (size_t i = 0; i < column_count; i++) {
            uint8_t width[4];
            put_u32(width, columns[i].width);
            keccak_absorb_shared(&sponge, width, sizeof width);
            column_absorb(&sponge, &columns[i], &group);
        }
        keccak_finish(&sponge, KECCAK_DOMAIN_SHA3);
        uint8_t *outs[KECCAK_WIDTH_MAX];
        output_rows(outs, out, QFL_SHA3_512_BYTES, &group);
        keccak_squeeze(&sponge, outs, QFL_SHA3_512_BYTES);
        row += group.live;
    }
    qfl_zeroize(&sponge, sizeof sponge);
    keccak_wipe_stack();
    return QFL_OK;
}

qfl_status qfl_transcript_var_batch(uint8_t *out, const uint8_t *data, const uint64_t *sizes,
                                    const uint64_t *part_counts, size_t data_size,
                                    size_t part_total, size_t count)
{
    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (out == NULL || part_counts == NULL || (sizes == NULL && part_total != 0) ||
        (data == NULL && data_size != 0) ||
        !sizes_add_up(part_counts, count, part_total, UINT64_MAX) ||
        !sizes_add_up(sizes, part_total, data_size, UINT32_MAX)) {
        return QFL_ERR_ARGUMENT;
    }

    const messages all = {data, sizes, part_counts, count};
    messages_hash(out, QFL_SHA3_512_BYTES, &all, KECCAK_RATE_512, KECCAK_DOMAIN_SHA3);
    return QFL_OK;
}
