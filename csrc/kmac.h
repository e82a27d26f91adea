/* KMAC256 over the sponge, for the C files that derive keys; private to csrc.
 *
 * A call is prefix (once a batch) -> key (once a row) -> keccak_absorb of X -> finish.
 *
 * Source: SP 800-185, sections 2.3 and 4.
 */
#ifndef QFL_KMAC_H
#define QFL_KMAC_H

#include "keccak.h"
#include "qflare.h"

/* Absorb bytepad(encode_string("KMAC") || encode_string(S), 136): the same for a whole batch. */
void kmac256_prefix(keccak_sponge *prefix, const uint8_t *custom, size_t custom_size);

/* Start a row: a copy of `prefix` with bytepad(encode_string(K), 136) absorbed. */
void kmac256_start(keccak_sponge *row, const keccak_sponge *prefix, const uint8_t *key,
                   size_t key_size);

/* End a row: absorb right_encode(L), close, squeeze L / 8 = out_size bytes. */
void kmac256_finish(keccak_sponge *row, uint8_t *out, size_t out_size);

#endif
