/* KMAC256 over batches.
 *
 * WHY the prefix is shared: the first block depends on the customization string alone, so a
 * batch of short derivations costs two permutations a row instead of three.
 *
 * Source: SP 800-185, sections 2.3 (encodings) and 4.3 (KMAC256).
 */
#include "kmac.h"

#include "column.h"

/* left_encode: the big-endian bytes of x behind their number.  right_encode has the number last. */
static size_t minimal_bytes(uint8_t bytes[8], uint64_t x)
{
    size_t size = 0;
    for (unsigned shift = 56; shift > 0; shift -= 8) {
        if (size != 0 || (x >> shift) != 0) {
            bytes[size++] = (uint8_t)(x >> shift);
        }
    }
    bytes[size++] = (uint8_t)x;
    return size;
}

static void absorb_left_encode(keccak_sponge *sponge, uint64_t x)
{
    uint8_t code[9];
    const size_t size = minimal_bytes(code + 1, x);
    code[0] = (uint8_t)size;
    keccak_absorb_shared(sponge, code, size + 1);
}

static void absorb_right_encode(keccak_sponge *sponge, uint64_t x)
{
    uint8_t code[9];
    const size_t size = minimal_bytes(code, x);
    code[size] = (uint8_t)size;
    keccak_absorb_shared(sponge, code, size + 1);
}

/* encode_string, and so a size in bits: callers keep sizes below 2^61 bytes. */
static void absorb_string(keccak_sponge *sponge, const uint8_t *data, size_t size)
{
    absorb_left_encode(sponge, (uint64_t)size * 8);
    keccak_absorb_shared(sponge, data, size);
}

void kmac256_share(kmac256_prefix *prefix, const uint8_t *custom, size_t custom_size, size_t key_size,
                   size_t count)
{
    static const uint8_t function_name[4] = {'K', 'M', 'A', 'C'};
    keccak_sponge *one = &prefix->one;
    keccak_init(one, &keccak_engine_x1, KECCAK_RATE_256);
    absorb_left_encode(one, KECCAK_RATE_256);
    absorb_string(one, function_name, sizeof function_name);
    absorb_string(one, custom, custom_size);
    keccak_absorb_pad(one);
    absorb_left_encode(one, KECCAK_RATE_256);
    absorb_left_encode(one, (uint64_t)key_size * 8);
    keccak_copy(&prefix->wide, one);
    keccak_broadcast(&prefix->wide, keccak_engine_for(count));
}

void kmac256_start(keccak_sponge *rows, const keccak_engine *engine, const kmac256_prefix *prefix,
                   const uint8_t *const *keys, size_t key_size)
{
    keccak_copy(rows, engine->width == 1 ? &prefix->one : &prefix->wide);
    keccak_absorb(rows, keys, key_size);
    keccak_absorb_pad(rows);
}

void kmac256_finish(keccak_sponge *rows, uint8_t *const *out, size_t out_size)
{
    absorb_right_encode(rows, (uint64_t)out_size * 8);
    keccak_finish(rows, KECCAK_DOMAIN_CSHAKE);
    keccak_squeeze(rows, out, out_size);
}

qfl_status qfl_kmac256_batch(uint8_t *out, const qfl_column *key, const qfl_column *columns,
                             const uint8_t *custom, size_t out_size, size_t column_count,
                             size_t custom_size, size_t count)
{
    kmac256_prefix prefix;
    keccak_sponge sponge;

    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (out == NULL || key == NULL || !column_is_good(key, count) ||
        (uint64_t)key->width >= (UINT64_C(1) << 61) ||
        !columns_are_good(columns, column_count, count) || (custom == NULL && custom_size != 0) ||
        custom_size > QFL_KMAC_CUSTOM_MAX || out_size == 0 || !rows_fit(out_size, count) ||
        (uint64_t)out_size >= (UINT64_C(1) << 61)) {
        return QFL_ERR_ARGUMENT;
    }

    kmac256_share(&prefix, custom, custom_size, key->width, count);
    for (size_t row = 0; row < count;) {
        const keccak_group group = keccak_group_at(row, count);
        const uint8_t *keys[KECCAK_WIDTH_MAX];
        uint8_t *outs[KECCAK_WIDTH_MAX];
        column_rows(keys, key, &group);
        output_rows(outs, out, out_size, &group);
        kmac256_start(&sponge, group.engine, &prefix, keys, key->width);
        for (size_t i = 0; i < column_count; i++) {
            column_absorb(&sponge, &columns[i], &group);
        }
        kmac256_finish(&sponge, outs, out_size);
        row += group.live;
    }
    /* The prefix holds nothing secret; the row's state held a key. */
    qfl_zeroize(&sponge, sizeof sponge);
    keccak_wipe_stack();
    return QFL_OK;
}
