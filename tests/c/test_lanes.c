/* Every Keccak width gives the bytes of the one-wide path, for batches of every shape, under
 * sanitizers: buffers come from malloc at their exact size, so that a byte too far is found.
 * SPDX-License-Identifier: Apache-2.0 */
#include "expect.h"
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define OUT_SIZE ((size_t)300) /* more than two blocks of SHAKE256 */
#define KEY_WIDTH ((size_t)131)

static const size_t counts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 31, 32, 33, 64};
static uint32_t state = 1;

/* Numbers that look random and are the same in every run (xorshift). */
static uint32_t next(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static uint8_t *filled(size_t size)
{
    uint8_t *const memory = malloc(size > 0 ? size : 1);
    if (memory == NULL) {
        abort();
    }
    for (size_t at = 0; at < size; at++) {
        memory[at] = (uint8_t)next();
    }
    return memory;
}

/* One batch of everything; the outputs behind each other in `out`. */
typedef struct {
    size_t count;
    size_t parts_total;
    size_t data_size;
    uint64_t *sizes; /* of the parts; the first `count` of them also as messages */
    uint64_t *part_counts;
    uint64_t *from;
    uint8_t *data;
    uint8_t *keys;
    uint8_t *sids;
    uint8_t *columns;
} batch;

static size_t message_bytes(const batch *in)
{
    size_t sum = 0;
    for (size_t i = 0; i < in->count; i++) {
        sum += (size_t)in->sizes[i];
    }
    return sum;
}

static void run(uint8_t *out, const batch *in)
{
    static const uint8_t custom[11] = "QFX1 bucket";
    const size_t count = in->count;
    uint8_t *const messages = filled(message_bytes(in));
    memcpy(messages, in->data, message_bytes(in));
    const qfl_column key = {in->keys, KEY_WIDTH, KEY_WIDTH};
    const qfl_column columns[3] = {{in->columns, 77, 70}, {in->columns, 0, 13}, {in->columns, 77, 77}};

    EXPECT(qfl_sha3_512_batch(out, messages, in->sizes, message_bytes(in), count) == QFL_OK);
    out += count * QFL_SHA3_512_BYTES;
    EXPECT(qfl_shake256_batch(out, OUT_SIZE, messages, in->sizes, message_bytes(in), count) == QFL_OK);
    out += count * OUT_SIZE;
    EXPECT(qfl_transcript_var_batch(out, in->data, in->sizes, in->part_counts, in->data_size, in->parts_total,
                                    count) == QFL_OK);
    out += count * QFL_SHA3_512_BYTES;
    EXPECT(qfl_transcript_batch(out, columns, 3, count) == QFL_OK);
    out += count * QFL_SHA3_512_BYTES;
    EXPECT(qfl_kmac256_batch(out, &key, columns, custom, OUT_SIZE, 3, sizeof custom, count) == QFL_OK);
    out += count * OUT_SIZE;
    EXPECT(qfl_chain_advance_batch(out, in->keys, in->sids, in->from, custom, 9, sizeof custom, count) == QFL_OK);
    out += count * QFL_CHAIN_KEY_BYTES;
    EXPECT(qfl_message_key_batch(out, in->keys, custom, custom, 9, 2, 11, sizeof custom, count) == QFL_OK);
    free(messages);
}

static void one_count(size_t count)
{
    batch in = {count, 0, 0, NULL, malloc(8 * count + 1), malloc(8 * count + 1), NULL, NULL, NULL, NULL};
    in.sizes = malloc(8 * 4 * count + 1);
    if (in.sizes == NULL || in.part_counts == NULL || in.from == NULL) {
        abort();
    }
    for (size_t row = 0; row < count; row++) {
        in.from[row] = 9 - next() % 4;
        in.part_counts[row] = 1 + next() % 4;
        for (uint64_t part = 0; part < in.part_counts[row]; part++) {
            const uint64_t size = next() % 5 == 0 ? 0 : next() % 300;
            in.sizes[in.parts_total++] = size;
            in.data_size += (size_t)size;
        }
    }
    in.data = filled(in.data_size);
    in.keys = filled(count * KEY_WIDTH); /* chain keys take the first 64 bytes a row of it */
    in.sids = filled(count * QFL_SESSION_ID_BYTES);
    in.columns = filled(count * 77 > 77 ? count * 77 : 77);

    const size_t row_bytes = 3 * 64 + 2 * OUT_SIZE + 2 * 64;
    uint8_t *const expected = filled(count * row_bytes);
    uint8_t *const found = filled(count * row_bytes);
    EXPECT(qfl_lanes_force(1) == QFL_OK);
    run(expected, &in);
    static const unsigned widths[2] = {4, 8};
    for (size_t i = 0; i < 2; i++) {
        if (qfl_lanes_force(widths[i]) == QFL_OK) {
            memset(found, 0xa5, count * row_bytes);
            run(found, &in);
            EXPECT(memcmp(expected, found, count * row_bytes) == 0);
        }
    }
    EXPECT(qfl_lanes_force(0) == QFL_OK);
    free(in.sizes);
    free(in.part_counts);
    free(in.from);
    free(in.data);
    free(in.keys);
    free(in.sids);
    free(in.columns);
    free(expected);
    free(found);
}

int main(void)
{
    for (unsigned round = 0; round < 4; round++) {
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            one_count(counts[i]);
        }
    }
    printf("test_lanes: widest is %u\n", qfl_lanes_width());
    return expect_result("test_lanes");
}
