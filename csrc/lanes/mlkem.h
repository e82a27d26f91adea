/* ML-KEM-1024 for many items at once: what the files of the engine share; private to csrc.
 *
 * Names are those of FIPS 203.  Polynomials are 256 coefficients modulo q = 3329, k = 4 of them a
 * vector, eta_1 = eta_2 = 2, d_u = 11, d_v = 5.
 */
#ifndef QFL_MLKEM_H
#define QFL_MLKEM_H

#include <stddef.h>
#include <stdint.h>

#include "keccak.h"
#include "qflare.h"

#define MLKEM_N 256
#define MLKEM_K 4
#define MLKEM_Q 3329
#define MLKEM_QINV (-3327) /* q^-1 modulo 2^16 */
#define MLKEM_RATE_128 168u /* SHAKE128 */

/* R^2 / 128 * 2^d mod q, centred, R = 2^16: what a factor carries (below), times R for the multiplication
 * that brings it in. */
#define MLKEM_SCALE_1 (-447)
#define MLKEM_SCALE_5 (-494)
#define MLKEM_SCALE_11 (-1655)
#define MLKEM_SCALE_NONE 1353 /* R^2 mod q: for products that no inverse NTT follows */

/* Layout of dk (FIPS 203, Algorithm 16): dk_PKE || ek || H(ek) || z. */
#define MLKEM_POLY_BYTES 384 /* ByteEncode_12 */
#define MLKEM_DK_EK_AT (MLKEM_K * MLKEM_POLY_BYTES)
#define MLKEM_DK_H_AT (QFL_KEM1024_DK_BYTES - 64)
#define MLKEM_DK_Z_AT (QFL_KEM1024_DK_BYTES - 32)
#define MLKEM_CT_V_AT (MLKEM_K * 352)

/* A polynomial in NTT form as the second factor of a product: for each pair of coefficients
 * (b0, b1) the two words that give c0 = a0 b0 + a1 b1 gamma and c1 = a0 b1 + a1 b0, low half first. */
typedef struct {
    int32_t pair[MLKEM_N / 2][2];
} mlkem_factor;

/* A decapsulation key, expanded once for any number of ciphertexts.  SECRET.
 *
 * Each factor carries R / 128 * 2^d mod q: R for the Montgomery reduction of the product, 128 for
 * the inverse NTT, which leaves out its last step, and 2^d for Compress_d, which then needs the
 * centred residue alone (polynomial.h, compress). */
typedef struct {
    mlkem_factor s[1][MLKEM_K];            /* the secret, d = 1 */
    mlkem_factor a[MLKEM_K + 1][MLKEM_K];  /* the rows of A^T, d = 11, and t^T, d = 5 */
    uint8_t h[32];                         /* H(ek) */
    uint8_t z[32];                         /* for implicit rejection */
} mlkem_key;

/* Expand dk; the caller checked its hash. */
void mlkem_expand_key(mlkem_key *key, const uint8_t *dk);

/* What works on `width` items at once, for 1 to `width` items, in scratch memory aligned to 64 bytes. */
typedef struct {
    size_t width;
    size_t one_key_scratch; /* bytes that `decapsulate_one_key` uses */
    size_t scratch;         /* bytes that the others use */
    /* Algorithm 18, ciphertexts under one key. */
    void (*decapsulate_one_key)(uint8_t *ss, void *scratch, const mlkem_key *key, const uint8_t *ct, size_t count);
    /* Algorithm 16, seeds d || z. */
    void (*generate)(uint8_t *ek, uint8_t *dk, void *scratch, const uint8_t *seeds, size_t count);
    /* Section 7.2: bad[item] is not 0 for a key that fails.  What was read stays in scratch memory ... */
    void (*open_keys)(uint64_t *bad, void *scratch, const uint8_t *ek, size_t count);
    /* ... for Algorithm 17 with the same keys. */
    void (*encapsulate)(uint8_t *ct, uint8_t *ss, void *scratch, const uint8_t *m, const uint8_t *ek, size_t count);
    /* Algorithm 18, each ciphertext with its own key; bad[item] is not 0 where section 7.3 fails. */
    void (*decapsulate)(uint8_t *ss, uint64_t *bad, void *scratch, const uint8_t *dk, const uint8_t *ct, size_t count);
} mlkem_engine;

#define MLKEM_WIDTH_MAX 32u

/* Vectors of the compiler's own, on any machine that is little-endian. */
#if QFL_LANES && defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define MLKEM_HAVE_PORTABLE 1
extern const keccak_engine keccak_engine_x2;
extern const mlkem_engine mlkem_engine_x2; /* 8 items */
#else
#define MLKEM_HAVE_PORTABLE 0
#endif
#if LANES_HAVE_WIDE
extern const mlkem_engine mlkem_engine_x4; /* 16 items: AVX2 */
extern const mlkem_engine mlkem_engine_x8; /* 32 items: AVX-512 */
#endif

#endif
