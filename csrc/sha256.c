/* SHA-256 and HMAC-SHA-256: padding, keys, and which compression runs.
 *
 * CT: sizes are public; no branch and no index depends on what is hashed.
 */
#include "sha256.h"

#include "qflare.h"

#include <string.h>
#if SHA256_HAVE_NI
#include <cpuid.h>
#endif

const uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* Square roots of the first eight primes (FIPS 180-4, section 5.3.3). */
static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* Whether this thread's calls use the processor's instructions: asked once, and by tests the other way.  The compiler's
 * run-time library, which keccak_engine.c asks, does not know of them everywhere. */
typedef enum { UNASKED, PLAIN, NI } way;
static _Thread_local way chosen;

static way machine_way(void)
{
#if SHA256_HAVE_NI
    unsigned a, b, c, d;
    const unsigned ssse3_and_sse41 = 1U << 9 | 1U << 19, sha = 1U << 29;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & ssse3_and_sse41) == ssse3_and_sse41 &&
        __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & sha) != 0) {
        return NI;
    }
#endif
    return PLAIN;
}

qfl_status qfl_sha256_force(int plain)
{
    chosen = plain != 0 ? PLAIN : machine_way();
    return plain != 0 || chosen == NI ? QFL_OK : QFL_ERR_ARGUMENT;
}

static void compress(uint32_t state[8], const uint8_t *data, size_t count)
{
#if SHA256_HAVE_NI
    if (chosen == UNASKED) {
        chosen = machine_way();
    }
    if (chosen == NI) {
        sha256_blocks_ni(state, data, count);
        return;
    }
#endif
    sha256_blocks_plain(state, data, count);
}

void sha256_start(sha256 *hash)
{
    memcpy(hash->state, start, sizeof start);
    hash->size = 0;
}

void sha256_add(sha256 *hash, const uint8_t *data, size_t size)
{
    if (size == 0) {
        return;
    }
    const size_t used = (size_t)(hash->size % SHA256_BLOCK_BYTES);
    hash->size += size;
    if (used > 0) {
        const size_t room = SHA256_BLOCK_BYTES - used;
        const size_t take = size < room ? size : room;
        memcpy(hash->block + used, data, take);
        if (take < room) {
            return;
        }
        compress(hash->state, hash->block, 1);
        data += take;
        size -= take;
    }
    const size_t blocks = size / SHA256_BLOCK_BYTES;
    if (blocks > 0) {
        compress(hash->state, data, blocks);
    }
    const size_t left = size % SHA256_BLOCK_BYTES;
    if (left > 0) {
        memcpy(hash->block, data + blocks * SHA256_BLOCK_BYTES, left);
    }
}

/* Most significant byte first. */
static void put_word(uint8_t *out, uint64_t word, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        out[i] = (uint8_t)(word >> (8 * (bytes - 1 - i)));
    }
}

void sha256_end(sha256 *hash, uint8_t out[SHA256_BYTES])
{
    const uint64_t bits = hash->size * 8;
    size_t used = (size_t)(hash->size % SHA256_BLOCK_BYTES);
    hash->block[used++] = 0x80;
    if (used > SHA256_BLOCK_BYTES - 8) {
        memset(hash->block + used, 0, SHA256_BLOCK_BYTES - used);
        compress(hash->state, hash->block, 1);
        used = 0;
    }
    memset(hash->block + used, 0, SHA256_BLOCK_BYTES - 8 - used);
    put_word(hash->block + SHA256_BLOCK_BYTES - 8, bits, 8);
    compress(hash->state, hash->block, 1);
    for (size_t i = 0; i < 8; i++) {
        put_word(out + 4 * i, hash->state[i], 4);
    }
}

void sha256_key_start(sha256_key *hmac, const uint8_t *key)
{
    uint8_t block[SHA256_BLOCK_BYTES];
    memset(block, 0x36, sizeof block);
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        block[i] ^= key[i];
    }
    sha256_start(&hmac->inner);
    sha256_add(&hmac->inner, block, sizeof block);
    for (size_t i = 0; i < sizeof block; i++) {
        block[i] ^= 0x36 ^ 0x5c;
    }
    sha256_start(&hmac->outer);
    sha256_add(&hmac->outer, block, sizeof block);
    qfl_zeroize(block, sizeof block);
}

void sha256_hmac(const sha256_key *hmac, uint8_t out[SHA256_BYTES], const uint8_t *head, size_t head_size,
                 const uint8_t *data, size_t size)
{
    sha256 hash = hmac->inner;
    sha256_add(&hash, head, head_size);
    sha256_add(&hash, data, size);
    sha256_end(&hash, out);
    hash = hmac->outer;
    sha256_add(&hash, out, SHA256_BYTES);
    sha256_end(&hash, out);
    qfl_zeroize(&hash, sizeof hash);
}
