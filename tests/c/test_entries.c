/* Leaves of log entries, built under ASan and UBSan: known answers, both ways of SHA-256, and refusals.
 *
 * Expected bytes: the vector of docs/audit.md (entry type 3), which tests/protocol/test_audit_document.py holds against
 * hashlib.  Buffers are exactly as long as the header says and come from malloc, so that a byte too many is found.
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "expect.h"
#include "qflare.h"
#include "sha256.h"

static uint8_t *exact(const uint8_t *bytes, size_t size)
{
    uint8_t *const memory = malloc(size > 0 ? size : 1);
    if (memory == NULL) {
        abort();
    }
    if (bytes != NULL && size > 0) {
        memcpy(memory, bytes, size);
    }
    return memory;
}

static int equals_hex(const uint8_t *bytes, const char *hex)
{
    for (size_t i = 0; i < strlen(hex) / 2; i++) {
        unsigned byte = 0;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1 || bytes[i] != byte) {
            return 0;
        }
    }
    return 1;
}

static const uint8_t head[] = "QFX1 LEAF\x03"
                              "\x00\x00\x01\x8b\xcf\xe5\x68\x7b"
                              "\x0ckey_exchange\x04info";
static const char json[] = "{\"by\":\"operator\",\"round\":3}";
#define HEAD_BYTES (sizeof head - 1)
#define JSON_BYTES (sizeof json - 1)
#define STORED_BYTES (1 + QFL_ENTRY_SALT_BYTES + 1 + JSON_BYTES)
#define LEAF_BYTES (HEAD_BYTES + 64)

static void add(uint8_t **at, const void *bytes, size_t size)
{
    memcpy(*at, bytes, size);
    *at += size;
}

/* The entry of docs/audit.md, `count` times. */
static void the_documents_vector(size_t count)
{
    uint8_t tenant[QFL_TENANT_BYTES], salt[QFL_ENTRY_SALT_BYTES], stored[STORED_BYTES] = {0};
    for (size_t i = 0; i < sizeof tenant; i++) {
        tenant[i] = (uint8_t)(0x10 + i);
    }
    for (size_t i = 0; i < sizeof salt; i++) {
        salt[i] = (uint8_t)i;
    }
    memcpy(stored + 1, salt, sizeof salt);
    memcpy(stored + 2 + sizeof salt, json, JSON_BYTES);

    const size_t one = HEAD_BYTES + STORED_BYTES + 2 + 10 + 5 + 1;
    uint8_t *const data = exact(NULL, count * one), *const salts = exact(NULL, count * sizeof salt), *at = data;
    uint64_t *const sizes = malloc(count * 7 * sizeof *sizes), *const fields = malloc(count * sizeof *fields);
    uint8_t *const leaves = exact(NULL, count * LEAF_BYTES), *const hashes = exact(NULL, count * QFL_LEAF_HASH_BYTES);
    if (sizes == NULL || fields == NULL) {
        abort();
    }
    for (size_t row = 0; row < count; row++) {
        const uint64_t row_sizes[7] = {HEAD_BYTES, STORED_BYTES, 0, 2, 10, 5, 1};
        memcpy(sizes + 7 * row, row_sizes, sizeof row_sizes);
        memcpy(salts + row * sizeof salt, salt, sizeof salt);
        fields[row] = 2;
        add(&at, head, HEAD_BYTES);
        add(&at, stored, sizeof stored);
        add(&at, "by\"operator\"round3", 18);
    }
    EXPECT(qfl_entry_leaves_batch(leaves, hashes, tenant, salts, data, sizes, fields, count * one, count * 7,
                                  count * LEAF_BYTES, count) == QFL_OK);
    for (size_t row = 0; row < count; row++) {
        EXPECT(memcmp(leaves + row * LEAF_BYTES, head, HEAD_BYTES) == 0);
        EXPECT(equals_hex(leaves + row * LEAF_BYTES + HEAD_BYTES,
                          "9fe403e68d1e3f323187b665f8cff216c6098dad0f514f3b9835d92d54d2a646"
                          "9227ab025c60f585000a3c8c98b64a8de47ef25fbd68abc4a1afad87106f2860"));
        EXPECT(equals_hex(hashes + row * QFL_LEAF_HASH_BYTES,
                          "20612d6e3b98c94e1b04dbc9bd41936d6649e66ff0a01b0e11f4370d8e663ed4"));
    }

    /* What does not add up is refused, and no output is touched. */
    memset(leaves, 0xaa, count * LEAF_BYTES);
    memset(hashes, 0xaa, count * QFL_LEAF_HASH_BYTES);
#define REFUSED(data_size, parts, leaves_size, rows)                                                                   \
    EXPECT(qfl_entry_leaves_batch(leaves, hashes, tenant, salts, data, sizes, fields, data_size, parts, leaves_size,   \
                                  rows) != QFL_OK)
    REFUSED(count * one - 1, count * 7, count * LEAF_BYTES, count);
    REFUSED(count * one + 1, count * 7, count * LEAF_BYTES, count);
    REFUSED(count * one, count * 7 - 1, count * LEAF_BYTES, count);
    REFUSED(count * one, count * 7, count * LEAF_BYTES - 1, count);
    REFUSED(count * one, count * 7, count * LEAF_BYTES + 1, count);
    REFUSED(count * one, count * 7, count * LEAF_BYTES, QFL_BATCH_MAX + 1);
    const uint64_t wrong[] = {UINT64_MAX, UINT64_MAX / 2, UINT64_MAX / 2 - 1, (uint64_t)1 << 63, 3, 0};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        fields[count - 1] = wrong[i];
        REFUSED(count * one, count * 7, count * LEAF_BYTES, count);
        fields[count - 1] = 2;
        const uint64_t was = sizes[1];
        sizes[1] = wrong[i];
        REFUSED(count * one, count * 7, count * LEAF_BYTES, count);
        sizes[1] = was;
    }
    EXPECT(qfl_entry_leaves_batch(NULL, hashes, tenant, salts, data, sizes, fields, count * one, count * 7,
                                  count * LEAF_BYTES, count) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_entry_leaves_batch(leaves, hashes, tenant, NULL, data, sizes, fields, count * one, count * 7,
                                  count * LEAF_BYTES, count) == QFL_ERR_ARGUMENT);
    EXPECT(all_bytes_are(leaves, count * LEAF_BYTES, 0xaa));
    EXPECT(all_bytes_are(hashes, count * QFL_LEAF_HASH_BYTES, 0xaa));

    free(data);
    free(salts);
    free(sizes);
    free(fields);
    free(leaves);
    free(hashes);
}

/* SHA-256: NIST's examples "abc" and a million times "a", and the empty message; HMAC: hashlib's
 * hmac.digest(bytes(range(32)), b"QFX1 SALT\0", "sha256"). */
static void known_hashes(void)
{
    uint8_t out[SHA256_BYTES], key[SHA256_BYTES], chunk[1000];
    sha256 hash;
    sha256_start(&hash);
    sha256_end(&hash, out);
    EXPECT(equals_hex(out, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    sha256_start(&hash);
    sha256_add(&hash, (const uint8_t *)"abc", 3);
    sha256_end(&hash, out);
    EXPECT(equals_hex(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    memset(chunk, 'a', sizeof chunk);
    sha256_start(&hash);
    for (size_t i = 0; i < 1000; i++) {
        sha256_add(&hash, chunk, sizeof chunk);
    }
    sha256_end(&hash, out);
    EXPECT(equals_hex(out, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
    for (size_t i = 0; i < sizeof key; i++) {
        key[i] = (uint8_t)i;
    }
    sha256_key hmac;
    sha256_key_start(&hmac, key);
    sha256_hmac(&hmac, out, (const uint8_t *)"QFX1 SALT", 9, (const uint8_t *)"\0", 1);
    EXPECT(equals_hex(out, "59bcd5921c3349b547e576ae3f960e927f7f0dacb2635fb525a0e4a2b78b52b2"));
}

/* Every length around a block's, whole and in two pieces, both ways of compressing. */
static void lengths_and_pieces(void)
{
    uint8_t expected[SHA256_BYTES], found[SHA256_BYTES];
    for (size_t size = 0; size <= 200; size++) {
        uint8_t *const message = exact(NULL, size);
        for (size_t i = 0; i < size; i++) {
            message[i] = (uint8_t)(i * 7 + size);
        }
        EXPECT(qfl_sha256_force(1) == QFL_OK);
        sha256 hash;
        sha256_start(&hash);
        sha256_add(&hash, message, size);
        sha256_end(&hash, expected);
        (void)!qfl_sha256_force(0);
        for (size_t cut = 0; cut <= size; cut++) {
            sha256_start(&hash);
            sha256_add(&hash, message, cut);
            sha256_add(&hash, message + cut, size - cut);
            sha256_end(&hash, found);
            EXPECT(memcmp(expected, found, sizeof found) == 0);
        }
        free(message);
    }
}

int main(void)
{
    for (int plain = 0; plain < 2; plain++) {
        if (qfl_sha256_force(plain) != QFL_OK) {
            continue; /* this machine has no instructions for it */
        }
        known_hashes();
        the_documents_vector(1);
        the_documents_vector(9);
    }
    lengths_and_pieces();
    return expect_result("entries");
}
