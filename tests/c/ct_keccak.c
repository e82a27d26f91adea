/* Constant time of the hashes and derivations (goal G1), to be run under valgrind's memcheck:
 * keys and secret inputs count as uninitialised, and a branch or index on them is reported.
 * Built with -DQFL_CT_CHECK; without it the marks are empty and this proves nothing, so it refuses.
 */
#include <stdio.h>
#include <string.h>

#include "qflare.h"

#ifndef QFL_CT_CHECK
#error "ct_keccak is built with -DQFL_CT_CHECK"
#endif

#define ROWS 11 /* a full group of any width, and one with idle states */

int main(void)
{
    uint8_t keys[ROWS * QFL_CHAIN_KEY_BYTES];
    uint8_t out[ROWS * QFL_CHAIN_KEY_BYTES];
    uint8_t sids[ROWS * QFL_SESSION_ID_BYTES];
    uint8_t data[ROWS * 201]; /* no multiple of 8: the paths for odd places too */
    const uint64_t from[ROWS] = {3, 4, 5, 6, 7, 3, 3, 3, 3, 6, 5};
    uint64_t sizes[ROWS];
    const uint8_t *custom = (const uint8_t *)"QFX1 bucket";
    int bad = 0;

    for (size_t i = 0; i < ROWS; i++) {
        sizes[i] = 201;
    }
    memset(keys, 1, sizeof keys);
    memset(sids, 2, sizeof sids);
    memset(data, 3, sizeof data);
    QFL_CT_SECRET(keys, sizeof keys);
    QFL_CT_SECRET(data, sizeof data);

    const qfl_column key = {keys, QFL_CHAIN_KEY_BYTES, QFL_CHAIN_KEY_BYTES};
    const qfl_column columns[2] = {{sids, QFL_SESSION_ID_BYTES, QFL_SESSION_ID_BYTES},
                                   {data, 201, 201}};
    /* valgrind reports a processor without AVX-512, so this covers widths 1 and 4; why the eight wide
     * path has no other branches than they stands in csrc/lanes/keccak_x8.c. */
    static const unsigned widths[3] = {1, 4, 8};
    for (size_t i = 0; i < 3; i++) {
        if (qfl_lanes_force(widths[i]) != QFL_OK) {
            printf("ct_keccak: no %u wide here\n", widths[i]);
            continue;
        }
        bad |= qfl_chain_advance_batch(out, keys, sids, from, custom, 7, 11, ROWS) != QFL_OK;
        bad |= qfl_message_key_batch(out, keys, custom, custom, 7, 1, 11, 11, ROWS) != QFL_OK;
        bad |= qfl_kmac256_batch(out, &key, columns, custom, 64, 2, 11, ROWS) != QFL_OK;
        bad |= qfl_transcript_batch(out, columns, 2, ROWS) != QFL_OK;
        bad |= qfl_sha3_512_batch(out, data, sizes, sizeof data, ROWS) != QFL_OK;
        bad |= qfl_shake256_batch(out, 33, data, sizes, sizeof data, ROWS) != QFL_OK;
    }

    puts(bad ? "ct_keccak: a call failed" : "ct_keccak: ran");
    return bad;
}
