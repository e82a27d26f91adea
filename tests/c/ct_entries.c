/* Constant time of the log's leaves, to be run under valgrind's memcheck: salts and what they hide count as
 * uninitialised, and a branch or index on them is reported.  SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "qflare.h"

#ifndef QFL_CT_CHECK
#error "ct_entries is built with -DQFL_CT_CHECK"
#endif

#define ROWS ((size_t)3)
#define PART_BYTES ((size_t)70)
#define PARTS ((size_t)7)

int main(void)
{
    uint8_t salts[ROWS * QFL_ENTRY_SALT_BYTES], data[ROWS * PARTS * PART_BYTES], tenant[QFL_TENANT_BYTES];
    uint8_t leaves[ROWS * (PART_BYTES + 64)], hashes[ROWS * QFL_LEAF_HASH_BYTES];
    uint64_t sizes[ROWS * PARTS], fields[ROWS];
    for (size_t i = 0; i < ROWS * PARTS; i++) {
        sizes[i] = PART_BYTES;
    }
    for (size_t i = 0; i < ROWS; i++) {
        fields[i] = 2;
    }
    memset(salts, 1, sizeof salts);
    memset(data, 2, sizeof data);
    memset(tenant, 3, sizeof tenant);
    QFL_CT_SECRET(salts, sizeof salts);
    QFL_CT_SECRET(data, sizeof data);
    QFL_CT_SECRET(tenant, sizeof tenant);
    /* valgrind knows no processor with SHA instructions; that way of compressing has no branch but over blocks. */
    const int bad = qfl_entry_leaves_batch(leaves, hashes, tenant, salts, data, sizes, fields, sizeof data, ROWS * PARTS,
                                           sizeof leaves, ROWS) != QFL_OK;
    puts(bad ? "ct_entries: a call failed" : "ct_entries: ran");
    return bad;
}
