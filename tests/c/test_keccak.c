/* Keccak, KMAC256 and the time-bucket KDF in C, built under ASan and UBSan.
 *
 * Expected bytes: hashlib for SHA3 and SHAKE256, NIST's SP 800-185 sample 4 and pycryptodome's
 * KMAC256 for the rest; the derivations stand beside each value.  Buffers are exactly as long as
 * the header says and come from malloc, so that a byte too many is found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qflare.h"

static int failures;

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            failures++;                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
        }                                                                                          \
    } while (0)

static uint8_t *allocate(size_t size, uint8_t fill)
{
    uint8_t *memory = malloc(size > 0 ? size : 1);
    if (memory == NULL) {
        abort();
    }
    memset(memory, fill, size);
    return memory;
}

/* size bytes first, first + 1, ... */
static uint8_t *counting(size_t size, uint8_t first)
{
    uint8_t *memory = allocate(size, 0);
    for (size_t i = 0; i < size; i++) {
        memory[i] = (uint8_t)(first + i);
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

static int all_are(const uint8_t *bytes, size_t size, uint8_t value)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != value) {
            return 0;
        }
    }
    return 1;
}

static void test_hashes(void)
{
    const uint8_t *abc = (const uint8_t *)"abcabc";
    const uint64_t sizes[3] = {3, 0, 3};
    uint8_t *out = allocate(3 * QFL_SHA3_512_BYTES, 0x55);

    EXPECT(qfl_sha3_512_batch(out, abc, sizes, 6, 3) == QFL_OK);
    EXPECT(equals_hex(out, "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e"
                           "10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0"));
    EXPECT(equals_hex(out + 64, "a69f73cca23a9ac5c8b567dc185a756e97c982164fe25859e0d1dcc1475c80a6"
                                "15b2123af1f5f94c11e3e9402c3ac558f500199d95b6d3e301758586281dcd26"));
    EXPECT(memcmp(out, out + 128, 64) == 0);

    const uint64_t empty[1] = {0};
    EXPECT(qfl_shake256_batch(out, 32, NULL, empty, 0, 1) == QFL_OK);
    EXPECT(equals_hex(out, "46b9dd2b0ba88d13233b3feb743eeb243fcd52ea62b81b82b50c27646ed5762f"));
    EXPECT(qfl_sha3_256(out, NULL, 0) == QFL_OK);
    EXPECT(equals_hex(out, "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"));
    free(out);
}

/* H("hello", 00 01 .. 0f) as shared column, as row, and in the form for rows of any shape. */
static void test_transcript(void)
{
    static const char expected[] =
        "11eee0eb7dc724ce91a2c18b3b11a1cbbcec6af73276e5d055bcf80a8fa43177"
        "5db9abede65e240e8a843cb6f1e314380cb4bf73664bdf9ce9d4fb80fe37c869";
    uint8_t *values = counting(17, 0);
    uint8_t *out = allocate(2 * QFL_SHA3_512_BYTES, 0x55);
    const qfl_column columns[2] = {{(const uint8_t *)"hello", 0, 5}, {values, 0, 16}};
    const qfl_column overlapping[1] = {{values, 8, 16}};

    EXPECT(qfl_transcript_batch(out, columns, 2, 2) == QFL_OK);
    EXPECT(equals_hex(out, expected) && equals_hex(out + 64, expected));
    memset(out, 0x55, 128);
    EXPECT(qfl_transcript_batch(out, overlapping, 1, 2) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_transcript_batch(out, NULL, 1, 2) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_transcript_batch(out, columns, 0, 2) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_transcript_batch(out, columns, QFL_COLUMNS_MAX + 1, 2) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_transcript_batch(out, columns, 2, QFL_BATCH_MAX + 1) == QFL_ERR_COUNT);
    EXPECT(qfl_transcript_batch(out, columns, 2, SIZE_MAX) == QFL_ERR_COUNT);
    const qfl_column endless[1] = {{values, SIZE_MAX, 1}};
    EXPECT(qfl_transcript_batch(out, endless, 1, 3) == QFL_ERR_ARGUMENT);
    EXPECT(all_are(out, 128, 0x55));

    uint8_t *joined = allocate(21, 0);
    memcpy(joined, "hello", 5);
    memcpy(joined + 5, values, 16);
    const uint64_t sizes[2] = {5, 16};
    const uint64_t parts[2] = {2, 0};
    EXPECT(qfl_transcript_var_batch(out, joined, sizes, parts, 21, 2, 2) == QFL_OK);
    EXPECT(equals_hex(out, expected));
    memset(out, 0x55, 128);
    EXPECT(qfl_transcript_var_batch(out, joined, sizes, parts, 20, 2, 2) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_transcript_var_batch(out, joined, sizes, parts, 22, 2, 2) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_transcript_var_batch(out, joined, sizes, parts, 21, 1, 2) == QFL_ERR_ARGUMENT);
    const uint64_t wrapping[2] = {UINT64_MAX, 22};
    EXPECT(qfl_transcript_var_batch(out, joined, wrapping, parts, 21, 2, 2) == QFL_ERR_ARGUMENT);
    EXPECT(all_are(out, 128, 0x55));
    free(joined);
    free(out);
    free(values);
}

static void test_kmac(void)
{
    static const char tag[] = "My Tagged Application";
    const uint8_t *custom = (const uint8_t *)tag;
    uint8_t *key = counting(32, 0x40);
    uint8_t *data = counting(4, 0);
    uint8_t *out = allocate(64, 0x55);
    const qfl_column keys = {key, 0, 32};
    const qfl_column parts[2] = {{data, 0, 1}, {data + 1, 0, 3}};

    EXPECT(qfl_kmac256_batch(out, &keys, parts, custom, 64, 2, sizeof tag - 1, 1) == QFL_OK);
    EXPECT(equals_hex(out, "20c570c31346f703c9ac36c61c03cb64c3970d0cfc787e9b79599d273a68d2f7"
                           "f69d4cc3de9d104a351689f27cf6f5951f0103f33f4f24871024d9c27773a8dd"));
    memset(out, 0x55, 64);
    EXPECT(qfl_kmac256_batch(out, &keys, parts, custom, 0, 2, 4, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kmac256_batch(out, &keys, parts, NULL, 64, 2, 4, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kmac256_batch(out, NULL, parts, custom, 64, 2, 4, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kmac256_batch(out, &keys, parts, custom, SIZE_MAX / 2, 2, 4, 3) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_kmac256_batch(out, &keys, parts, custom, 64, 2, QFL_KMAC_CUSTOM_MAX + 1, 1) ==
           QFL_ERR_ARGUMENT);
    EXPECT(qfl_kmac256_batch(out, &keys, parts, custom, 64, 2, 4, QFL_BATCH_MAX + 1) ==
           QFL_ERR_COUNT);
    EXPECT(qfl_kmac256_batch(out, &keys, parts, custom, 64, 2, 4, 0) == QFL_OK);
    EXPECT(all_are(out, 64, 0x55));
    free(out);
    free(data);
    free(key);
}

static void test_bucket_arithmetic(void)
{
    const uint64_t times[5] = {0, 299, 300, UINT64_MAX - 1, UINT64_MAX};
    uint64_t buckets[5] = {7, 7, 7, 7, 7};
    uint64_t first = 7;
    uint64_t end = 7;

    EXPECT(qfl_bucket_of_batch(buckets, times, 0, 5) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_bucket_of_batch(buckets, times, 300, QFL_BATCH_MAX + 1) == QFL_ERR_COUNT);
    EXPECT(buckets[0] == 7);
    EXPECT(qfl_bucket_of_batch(buckets, times, 300, 5) == QFL_OK);
    EXPECT(buckets[0] == 0 && buckets[1] == 0 && buckets[2] == 1);
    EXPECT(buckets[3] == UINT64_MAX / 300 && buckets[4] == UINT64_MAX / 300);

    EXPECT(qfl_bucket_range(&first, &end, UINT64_MAX / 300, 300) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_bucket_range(&first, &end, UINT64_MAX, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_bucket_range(&first, &end, 1, 0) == QFL_ERR_ARGUMENT);
    EXPECT(first == 7 && end == 7);
    EXPECT(qfl_bucket_range(&first, &end, UINT64_MAX / 300 - 1, 300) == QFL_OK);
    EXPECT(end - first == 300 && end <= UINT64_MAX);
    EXPECT(qfl_bucket_range(&first, &end, UINT64_MAX - 1, 1) == QFL_OK);
    EXPECT(first == UINT64_MAX - 1 && end == UINT64_MAX);
}

/* Keys 00 .. 3f, sid 00 .. 0f; pycryptodome's KMAC256, twice with S = "QFX1 bucket". */
static void test_chain(void)
{
    static const char from_5_to_7[] =
        "6a0bf5c45d62dc692b1ec8e480c3b53866d691fe0825090fff845bd1e9c74ca1"
        "59e004559cbc365cdaeaf988de6a737ae13fe03c7e5f2413f11e01e3a0218ecb";
    const uint8_t *label = (const uint8_t *)"QFX1 bucket";
    uint8_t *keys = allocate(2 * QFL_CHAIN_KEY_BYTES, 0);
    uint8_t *sids = allocate(2 * QFL_SESSION_ID_BYTES, 0);
    uint8_t *out = allocate(2 * QFL_CHAIN_KEY_BYTES, 0x55);
    const uint64_t from[2] = {5, 7};
    const uint64_t back[2] = {5, 8};

    for (size_t i = 0; i < 128; i++) {
        keys[i] = (uint8_t)(i % 64);
    }
    for (size_t i = 0; i < 32; i++) {
        sids[i] = (uint8_t)(i % 16);
    }
    EXPECT(qfl_chain_advance_batch(out, keys, sids, back, label, 7, 11, 2) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_chain_advance_batch(out, keys, sids, from, label, 5 + 289, 11, 2) ==
           QFL_ERR_ARGUMENT);
    EXPECT(qfl_chain_advance_batch(out, keys, sids, NULL, label, 7, 11, 2) == QFL_ERR_ARGUMENT);
    EXPECT(all_are(out, 128, 0x55));
    EXPECT(qfl_chain_advance_batch(out, keys, sids, from, label, 7, 11, 2) == QFL_OK);
    EXPECT(equals_hex(out, from_5_to_7));
    EXPECT(memcmp(out + 64, keys + 64, 64) == 0); /* no step is a copy */
    EXPECT(qfl_chain_advance_batch(keys, keys, sids, from, label, 7, 11, 2) == QFL_OK);
    EXPECT(memcmp(out, keys, 128) == 0); /* in place */

    uint8_t *key = counting(QFL_CHAIN_KEY_BYTES, 0);
    const uint8_t *purpose = (const uint8_t *)"qfx.record";
    const uint8_t *key_label = (const uint8_t *)"QFX1 key";
    EXPECT(qfl_message_key_batch(out, key, purpose, key_label, 5, 1, 10, 8, 1) == QFL_OK);
    EXPECT(equals_hex(out, "72e77bed27bce8ea1b346f1cacf81ce43815f66d3a9695843a244f4eea6e42a9"
                           "9eb7d55c3035f19ffab5083d3e8d5e24da7c576f603736c922b02947b108a6de"));
    memset(out, 0x55, 128);
    EXPECT(qfl_message_key_batch(out, key, purpose, key_label, 5, 0, 10, 8, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_message_key_batch(out, key, purpose, key_label, 5, 3, 10, 8, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_message_key_batch(out, key, purpose, key_label, 5, 1, 0, 8, 1) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_message_key_batch(out, key, purpose, key_label, 5, 1, QFL_PURPOSE_MAX + 1, 8, 1) ==
           QFL_ERR_ARGUMENT);
    EXPECT(all_are(out, 128, 0x55));
    free(key);
    free(out);
    free(sids);
    free(keys);
}

int main(void)
{
    /* Every width of this machine gives the same known answers; the widest comes last. */
    static const unsigned widths[3] = {1, 4, 8};
    const unsigned widest = qfl_lanes_width();
    EXPECT(qfl_lanes_force(2) == QFL_ERR_ARGUMENT && qfl_lanes_width() == widest);
    for (size_t i = 0; i < 3; i++) {
        if (widths[i] > widest) {
            EXPECT(qfl_lanes_force(widths[i]) == QFL_ERR_ARGUMENT);
            printf("test_keccak: no %u wide on this machine\n", widths[i]);
            continue;
        }
        EXPECT(qfl_lanes_force(widths[i]) == QFL_OK && qfl_lanes_width() == widths[i]);
        test_hashes();
        test_transcript();
        test_kmac();
        test_bucket_arithmetic();
        test_chain();
    }
    EXPECT(qfl_lanes_force(0) == QFL_OK && qfl_lanes_width() == widest);
    if (failures != 0) {
        fprintf(stderr, "test_keccak: %d failures\n", failures);
        return 1;
    }
    puts("test_keccak: ok");
    return 0;
}
