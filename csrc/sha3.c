/* SHA3-256, SHA3-512, SHAKE256 and the transcript hash, over batches.
 *
 * Source: FIPS 202, section 6; PROTOCOL N1 for the transcript.
 */
#include "column.h"
#include "keccak.h"
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

static void absorb_u32(keccak_sponge *sponge, uint64_t value)
{
    const uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8),
                              (uint8_t)value};
    keccak_absorb(sponge, bytes, sizeof bytes);
}

/* Hash messages behind each other; the arguments were checked. */
static void hash_messages(uint8_t *out, size_t out_size, const uint8_t *data, const uint64_t *sizes,
                          size_t count, size_t rate, uint8_t domain)
{
    keccak_sponge sponge;
    for (size_t row = 0; row < count; row += QFL_KECCAK_LANES) {
        const size_t size = (size_t)sizes[row];
        keccak_init(&sponge, rate);
        if (size != 0) {
            keccak_absorb(&sponge, data, size);
            data += size;
        }
        keccak_finish(&sponge, domain);
        keccak_squeeze(&sponge, out + row * out_size, out_size);
    }
    qfl_zeroize(&sponge, sizeof sponge);
    keccak_wipe_stack();
}

qfl_status qfl_sha3_256(uint8_t *out, const uint8_t *data, size_t size)
{
    const uint64_t sizes[1] = {size};
    if (out == NULL || (data == NULL && size != 0)) {
        return QFL_ERR_ARGUMENT;
    }
    hash_messages(out, QFL_SHA3_256_BYTES, data, sizes, 1, KECCAK_RATE_256, KECCAK_DOMAIN_SHA3);
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
    hash_messages(out, QFL_SHA3_512_BYTES, data, sizes, count, KECCAK_RATE_512, KECCAK_DOMAIN_SHA3);
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
    hash_messages(out, out_size, data, sizes, count, KECCAK_RATE_256, KECCAK_DOMAIN_SHAKE);
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

    for (size_t row = 0; row < count; row += QFL_KECCAK_LANES) {
        keccak_init(&sponge, KECCAK_RATE_512);
        for (size_t i = 0; i < column_count; i++) {
            absorb_u32(&sponge, columns[i].width);
            keccak_absorb(&sponge, column_row(&columns[i], row), columns[i].width);
        }
        keccak_finish(&sponge, KECCAK_DOMAIN_SHA3);
        keccak_squeeze(&sponge, out + row * QFL_SHA3_512_BYTES, QFL_SHA3_512_BYTES);
    }
    qfl_zeroize(&sponge, sizeof sponge);
    keccak_wipe_stack();
    return QFL_OK;
}

qfl_status qfl_transcript_var_batch(uint8_t *out, const uint8_t *data, const uint64_t *sizes,
                                    const uint64_t *part_counts, size_t data_size,
                                    size_t part_total, size_t count)
{
    keccak_sponge sponge;

    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (out == NULL || part_counts == NULL || (sizes == NULL && part_total != 0) ||
        (data == NULL && data_size != 0) ||
        !sizes_add_up(part_counts, count, part_total, UINT64_MAX) ||
        !sizes_add_up(sizes, part_total, data_size, UINT32_MAX)) {
        return QFL_ERR_ARGUMENT;
    }

    for (size_t row = 0; row < count; row += QFL_KECCAK_LANES) {
        keccak_init(&sponge, KECCAK_RATE_512);
        for (uint64_t part = 0; part < part_counts[row]; part++) {
            const size_t size = (size_t)*sizes++;
            absorb_u32(&sponge, size);
            if (size != 0) {
                keccak_absorb(&sponge, data, size);
                data += size;
            }
        }
        keccak_finish(&sponge, KECCAK_DOMAIN_SHA3);
        keccak_squeeze(&sponge, out + row * QFL_SHA3_512_BYTES, QFL_SHA3_512_BYTES);
    }
    qfl_zeroize(&sponge, sizeof sponge);
    keccak_wipe_stack();
    return QFL_OK;
}
