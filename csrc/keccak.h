/* Keccak-f[1600] and the sponge on it: private to csrc, never installed.
 *
 * Source: FIPS 202, sections 3.2 (permutation), 4 (sponge), 6 (domain bits).
 *
 * Everything that walks over a batch (sha3.c, kmac.c, bucket.c) goes through
 * `keccak_sponge` one row at a time. Rows of one batch call have equal widths
 * wherever columns are used, so 4 or 8 of them can run in lockstep: the place
 * for `keccak_f1600_x4` and `keccak_f1600_x8` is beside the permutation below,
 * and the place to call them is the row loop of each `_batch` function, which
 * steps by QFL_KECCAK_LANES.
 */
#ifndef QFL_KECCAK_H
#define QFL_KECCAK_H

#include <stddef.h>
#include <stdint.h>

/* Rows one permutation call advances. One here; 4 and 8 are other engines. */
#define QFL_KECCAK_LANES 1u

#define KECCAK_LANES_IN_STATE 25u
#define KECCAK_RATE_256 136u /* capacity 512: SHAKE256, cSHAKE256, KMAC256 */
#define KECCAK_RATE_512 72u  /* capacity 1024: SHA3-512 */

/* Domain separation bits and the first padding bit, FIPS 202 B.2, SP 800-185 3.3. */
#define KECCAK_DOMAIN_SHA3 0x06u
#define KECCAK_DOMAIN_SHAKE 0x1fu
#define KECCAK_DOMAIN_CSHAKE 0x04u

typedef struct {
    uint64_t lane[KECCAK_LANES_IN_STATE]; /* SECRET whenever the input is */
    size_t rate;                          /* bytes, a multiple of 8 */
    size_t at;                            /* bytes of the current block already used, < rate */
} keccak_sponge;

/* Apply the 24 rounds to one state. Constant time: no branch, no table index. */
void keccak_f1600(uint64_t lane[KECCAK_LANES_IN_STATE]);

void keccak_init(keccak_sponge *sponge, size_t rate);
void keccak_absorb(keccak_sponge *sponge, const uint8_t *data, size_t size);
/* Zero-fill to the end of the block, as `bytepad` does; nothing if at a block's start. */
void keccak_absorb_pad(keccak_sponge *sponge);
/* Close the input with `domain` and pad10*1; squeezing may begin. Call once. */
void keccak_finish(keccak_sponge *sponge, uint8_t domain);
void keccak_squeeze(keccak_sponge *sponge, uint8_t *out, size_t size);
/* Overwrite the stack that the calls above used; once at the end of a batch. */
void keccak_wipe_stack(void);

#endif
