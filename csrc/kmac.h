/* KMAC256 over the sponge, for the C files that derive keys; private to csrc.
 *
 * A call is share (once a batch) -> start (once a group of rows) -> absorb X -> finish.
 *
 * Source: SP 800-185, sections 2.3 and 4.
 */
#ifndef QFL_KMAC_H
#define QFL_KMAC_H

#include "keccak.h"
#include "qflare.h"

/* What all rows of a batch share, absorbed in one state and in as many as the batch's groups have:
 * bytepad(encode_string("KMAC") || encode_string(S), 136), and of the next block,
 * bytepad(encode_string(K), 136), the bytes before K. */
typedef struct {
    keccak_sponge one;
    keccak_sponge wide;
} kmac256_prefix;

void kmac256_share(kmac256_prefix *prefix, const uint8_t *custom, size_t custom_size, size_t key_size,
                   size_t count);

/* Start a group of rows, one state each: the prefix with K absorbed, up to the block's end. */
void kmac256_start(keccak_sponge *rows, const keccak_engine *engine, const kmac256_prefix *prefix,
                   const uint8_t *const *keys, size_t key_size);

/* End the rows: absorb right_encode(L), close, squeeze L / 8 = out_size bytes each. */
void kmac256_finish(keccak_sponge *rows, uint8_t *const *out, size_t out_size);

#endif
