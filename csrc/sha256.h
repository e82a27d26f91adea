/* SHA-256 and HMAC-SHA-256 for the log's entries; private to csrc.
 *
 * The library that does the lattice schemes has a SHA-256 of its own, which it does not offer to others (no exported
 * symbol where it is shared); this one is small.
 *
 * Sources: FIPS 180-4, section 6.2; FIPS 198-1, section 4.
 */
#ifndef QFL_SHA256_H
#define QFL_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES ((size_t)32)
#define SHA256_BLOCK_BYTES ((size_t)64)

typedef struct sha256 {
    uint32_t state[8];
    uint64_t size;                     /* bytes so far */
    uint8_t block[SHA256_BLOCK_BYTES]; /* the first size % 64 of them wait */
} sha256;

/* The two states after the key's blocks: all messages under one key start from them. */
typedef struct sha256_key {
    sha256 inner;
    sha256 outer;
} sha256_key;

void sha256_start(sha256 *hash);
/* `data` may be null where `size` is 0. */
void sha256_add(sha256 *hash, const uint8_t *data, size_t size);
void sha256_end(sha256 *hash, uint8_t out[SHA256_BYTES]);

/* `key` is SHA256_BYTES long. */
void sha256_key_start(sha256_key *hmac, const uint8_t *key);
/* HMAC over `head` and `data` behind each other. */
void sha256_hmac(const sha256_key *hmac, uint8_t out[SHA256_BYTES], const uint8_t *head, size_t head_size,
                 const uint8_t *data, size_t size);

/* The compression of `count` blocks that lie behind each other, by the processor's own instructions ... */
#if defined(__x86_64__)
#define SHA256_HAVE_NI 1
void sha256_blocks_ni(uint32_t state[8], const uint8_t *data, size_t count);
#else
#define SHA256_HAVE_NI 0
#endif
/* ... and without. */
void sha256_blocks_plain(uint32_t state[8], const uint8_t *data, size_t count);

/* The constants of FIPS 180-4, section 4.2.2. */
extern const uint32_t sha256_constants[64];

#endif
