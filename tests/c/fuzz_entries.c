/* libFuzzer: entries of any shape are refused or made, the same with and without the processor's instructions, and
 * nothing is read or written beyond what was given.  SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define ROWS_MAX ((size_t)6)
#define PARTS_MAX ((size_t)48)

static void require(int holds)
{
    if (!holds) {
        abort();
    }
}

static uint8_t next(const uint8_t **data, size_t *size)
{
    if (*size == 0) {
        return 0;
    }
    (*size)--;
    return *(*data)++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t sizes[PARTS_MAX], fields[ROWS_MAX];
    const size_t count = next(&data, &size) % (ROWS_MAX + 1);
    const int is_honest = next(&data, &size) % 4 != 0;
    size_t parts = 0, leaves_size = 0, bytes = 0;
    for (size_t row = 0; row < ROWS_MAX; row++) {
        fields[row] = next(&data, &size) % 3;
    }
    for (size_t part = 0; part < PARTS_MAX; part++) {
        sizes[part] = next(&data, &size) % 140;
    }
    for (size_t row = 0; row < count; row++) {
        leaves_size += (size_t)sizes[parts] + 64;
        for (size_t end = parts + 3 + 2 * (size_t)fields[row]; parts < end; parts++) {
            bytes += (size_t)sizes[parts];
        }
    }
    if (!is_honest) {
        /* One number is anything. */
        const size_t at = next(&data, &size);
        uint64_t any = 0;
        for (size_t i = 0; i < 8; i++) {
            any = any << 8 | next(&data, &size);
        }
        if (at < 64) {
            sizes[at % PARTS_MAX] = any;
        } else if (at < 128) {
            fields[at % ROWS_MAX] = any;
        } else if (at < 192) {
            parts = any % (PARTS_MAX + 1);
        } else {
            leaves_size = any % 2000;
        }
    }
    /* Everything in memory of exactly its size. */
    uint8_t *const exact = calloc(bytes > 0 ? bytes : 1, 1), *const salts = calloc(count > 0 ? count : 1, 32);
    uint8_t *const leaves = malloc(leaves_size > 0 ? leaves_size : 1), *const again = malloc(leaves_size > 0 ? leaves_size : 1);
    uint8_t *const hashes = malloc(count > 0 ? count * 32 : 1), tenant[QFL_TENANT_BYTES] = {1};
    require(exact != NULL && salts != NULL && leaves != NULL && again != NULL && hashes != NULL);
    memcpy(exact, data, size < bytes ? size : bytes);
    const qfl_status plain = qfl_sha256_force(1) != QFL_OK
                                 ? QFL_ERR_BACKEND
                                 : qfl_entry_leaves_batch(again, hashes, tenant, salts, exact, sizes, fields, bytes,
                                                          parts, leaves_size, count);
    (void)!qfl_sha256_force(0);
    const qfl_status usual = qfl_entry_leaves_batch(leaves, hashes, tenant, salts, exact, sizes, fields, bytes, parts,
                                                    leaves_size, count);
    require(plain == usual && (!is_honest || usual == QFL_OK));
    require(usual != QFL_OK || leaves_size == 0 || memcmp(leaves, again, leaves_size) == 0);
    free(exact);
    free(salts);
    free(leaves);
    free(again);
    free(hashes);
    return 0;
}
