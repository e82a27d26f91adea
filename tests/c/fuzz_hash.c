/* libFuzzer: sizes and parts of any kind are refused or hashed as the one-wide path hashes them, and
 * nothing is read beyond what was given.  SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define ROWS_MAX ((size_t)12)
#define PARTS_MAX ((size_t)4 * ROWS_MAX)

static void require(int holds)
{
    if (!holds) {
        abort();
    }
}

/* `count` numbers from the input: small ones, and now and then one that is far out of range. */
static void numbers(uint64_t *out, size_t count, const uint8_t **data, size_t *size)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t byte = *size > 0 ? **data : 0;
        if (*size > 0) {
            (*data)++;
            (*size)--;
        }
        out[i] = byte == 0xff ? UINT64_MAX - i : byte == 0xfe ? UINT64_C(1) << 63 : byte;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t sizes[PARTS_MAX], part_counts[ROWS_MAX];
    uint8_t expected[2 * ROWS_MAX * 64], found[2 * ROWS_MAX * 64];
    if (size < 2) {
        return 0;
    }
    const size_t count = data[0] % (ROWS_MAX + 1), parts = data[1] % (PARTS_MAX + 1);
    data += 2;
    size -= 2;
    numbers(part_counts, ROWS_MAX, &data, &size);
    numbers(sizes, PARTS_MAX, &data, &size);
    for (size_t row = 0; row < ROWS_MAX; row++) {
        part_counts[row] %= part_counts[row] > 1000 ? UINT64_MAX : 5;
    }
    /* The bytes themselves in memory of exactly their size. */
    uint8_t *const exact = malloc(size > 0 ? size : 1);
    require(exact != NULL);
    memcpy(exact, data, size);
    static const unsigned widths[3] = {1, 4, 8};
    qfl_status first_hash = QFL_OK, first_transcript = QFL_OK;
    for (size_t i = 0; i < 3; i++) {
        if (qfl_lanes_force(widths[i]) != QFL_OK) {
            continue;
        }
        memset(found, 0, sizeof found);
        const qfl_status hash = qfl_sha3_512_batch(found, exact, sizes, size, count);
        const qfl_status transcript = qfl_transcript_var_batch(found + sizeof found / 2, exact, sizes, part_counts, size,
                                                               parts, count);
        if (i == 0) {
            first_hash = hash;
            first_transcript = transcript;
            memcpy(expected, found, sizeof found);
        }
        require(hash == first_hash && transcript == first_transcript);
        require(memcmp(expected, found, sizeof found) == 0);
    }
    require(qfl_lanes_force(0) == QFL_OK);
    free(exact);
    return 0;
}
