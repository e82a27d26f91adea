/* Leaves of log entries of type 3, a batch at a time: commitments, digests, leaf data and leaf hashes.
 *
 * CT: nothing depends on salts or values but through SHA-256; sizes are public.
 *
 * Source: docs/audit.md, "Entry type 3"; RFC 9162, section 2.1.1.
 */
#include "column.h"
#include "qflare.h"
#include "sha256.h"

#include <string.h>

/* Parts of an entry in front of those of its fields. */
enum { HEAD, STORED, DEVICE, FIXED_PARTS };

static const uint8_t row_label[] = {'Q', 'F', 'X', '1', ' ', 'R', 'O', 'W'};
static const uint8_t salt_label[] = {'Q', 'F', 'X', '1', ' ', 'S', 'A', 'L', 'T'};
static const uint8_t field_label[] = {'Q', 'F', 'X', '1', ' ', 'F', 'I', 'E', 'L', 'D'};
static const uint8_t fields_label[] = {'Q', 'F', 'X', '1', ' ', 'F', 'I', 'E', 'L', 'D', 'S'};

enum { TENANT_FIELD, DEVICE_FIELD, DATA_FIELD };

/* Whether parts and sizes are those of `count` entries, and their leaves take `leaves_size` bytes. */
static int shape_is_good(const uint64_t *sizes, const uint64_t *field_counts, size_t data_size, size_t part_count,
                         size_t leaves_size, size_t count)
{
    size_t parts_left = part_count;
    uint64_t bytes_left = data_size, leaves_left = leaves_size;
    for (size_t row = 0; row < count; row++) {
        if (parts_left < FIXED_PARTS || field_counts[row] > (parts_left - FIXED_PARTS) / 2) {
            return 0;
        }
        const uint64_t parts = FIXED_PARTS + 2 * field_counts[row];
        for (uint64_t part = 0; part < parts; part++) {
            if (sizes[part] > bytes_left || sizes[part] > UINT32_MAX) {
                return 0;
            }
            bytes_left -= sizes[part];
        }
        if (sizes[HEAD] > leaves_left || leaves_left - sizes[HEAD] < 2 * SHA256_BYTES) {
            return 0;
        }
        leaves_left -= sizes[HEAD] + 2 * SHA256_BYTES;
        sizes += parts;
        parts_left -= (size_t)parts;
    }
    return parts_left == 0 && bytes_left == 0 && leaves_left == 0;
}

/* Add the commitment to one field to `fields`. */
static void commit(sha256 *fields, const sha256_key *salts, uint8_t kind, const uint8_t *name, size_t name_size,
                   const uint8_t *value, size_t value_size)
{
    uint8_t head[sizeof salt_label + 1], salt[SHA256_BYTES], commitment[SHA256_BYTES];
    memcpy(head, salt_label, sizeof salt_label);
    head[sizeof salt_label] = kind;
    sha256_hmac(salts, salt, head, sizeof head, name, name_size);

    const uint8_t kind_and_size[5] = {kind, (uint8_t)(name_size >> 24), (uint8_t)(name_size >> 16),
                                      (uint8_t)(name_size >> 8), (uint8_t)name_size};
    sha256 hash;
    sha256_start(&hash);
    sha256_add(&hash, field_label, sizeof field_label);
    sha256_add(&hash, salt, sizeof salt);
    sha256_add(&hash, kind_and_size, sizeof kind_and_size);
    sha256_add(&hash, name, name_size);
    sha256_add(&hash, value, value_size);
    sha256_end(&hash, commitment);
    sha256_add(fields, commitment, sizeof commitment);
    qfl_zeroize(&hash, sizeof hash);
    qfl_zeroize(salt, sizeof salt);
}

qfl_status qfl_entry_leaves_batch(uint8_t *leaves, uint8_t *leaf_hashes, const uint8_t *tenant, const uint8_t *salts,
                                  const uint8_t *data, const uint64_t *sizes, const uint64_t *field_counts,
                                  size_t data_size, size_t part_count, size_t leaves_size, size_t count)
{
    if (!count_is_good(count)) {
        return QFL_ERR_COUNT;
    }
    if (leaves == NULL || leaf_hashes == NULL || tenant == NULL || salts == NULL || data == NULL || sizes == NULL ||
        field_counts == NULL || !shape_is_good(sizes, field_counts, data_size, part_count, leaves_size, count)) {
        return QFL_ERR_ARGUMENT;
    }

    static const uint8_t leaf_prefix = 0;
    sha256_key key;
    sha256 hash;
    for (size_t row = 0; row < count; row++) {
        const uint8_t *const head = data, *const stored = head + sizes[HEAD], *const device = stored + sizes[STORED];
        data = device + sizes[DEVICE];
        const size_t head_size = (size_t)sizes[HEAD];
        uint8_t *const row_digest = leaves + head_size, *const fields_hash = row_digest + SHA256_BYTES;
        memcpy(leaves, head, head_size);

        sha256_start(&hash);
        sha256_add(&hash, row_label, sizeof row_label);
        sha256_add(&hash, tenant, QFL_TENANT_BYTES);
        sha256_add(&hash, stored, (size_t)sizes[STORED]);
        sha256_end(&hash, row_digest);

        sha256_key_start(&key, salts + row * SHA256_BYTES);
        sha256_start(&hash);
        sha256_add(&hash, fields_label, sizeof fields_label);
        commit(&hash, &key, TENANT_FIELD, NULL, 0, tenant, QFL_TENANT_BYTES);
        commit(&hash, &key, DEVICE_FIELD, NULL, 0, device, (size_t)sizes[DEVICE]);
        sizes += FIXED_PARTS;
        for (uint64_t field = 0; field < field_counts[row]; field++, sizes += 2) {
            const uint8_t *const name = data, *const value = name + sizes[0];
            data = value + sizes[1];
            commit(&hash, &key, DATA_FIELD, name, (size_t)sizes[0], value, (size_t)sizes[1]);
        }
        sha256_end(&hash, fields_hash);

        sha256_start(&hash);
        sha256_add(&hash, &leaf_prefix, 1);
        sha256_add(&hash, leaves, head_size + 2 * SHA256_BYTES);
        sha256_end(&hash, leaf_hashes + row * SHA256_BYTES);
        leaves += head_size + 2 * SHA256_BYTES;
    }
    qfl_zeroize(&key, sizeof key);
    qfl_zeroize(&hash, sizeof hash);
    return QFL_OK;
}
