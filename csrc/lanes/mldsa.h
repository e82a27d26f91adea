/* ML-DSA-44 verification for many signatures: what the files of the engine share; private to csrc.
 *
 * Names are those of FIPS 204.  Polynomials are 256 coefficients modulo q = 8380417; ML-DSA-44 has
 * k = l = 4, tau = 39, beta = 78, gamma_1 = 2^17, gamma_2 = (q - 1) / 88, omega = 80, d = 13.
 *
 * Everything here is public: keys to verify with, messages and signatures.  So nothing is constant
 * time and nothing is wiped; no secret may ever be given to these functions.
 */
#ifndef QFL_MLDSA_H
#define QFL_MLDSA_H

#include <stddef.h>
#include <stdint.h>

#include "keccak.h"
#include "qflare.h"

#define MLDSA_N 256
#define MLDSA_Q 8380417
#define MLDSA_QINV 58728449 /* q^-1 modulo 2^32 */
#define MLDSA_D 13
#define MLDSA44_K 4
#define MLDSA44_L 4
#define MLDSA44_TAU 39
#define MLDSA44_BETA 78
#define MLDSA44_GAMMA1 (1 << 17)
#define MLDSA44_GAMMA2 ((MLDSA_Q - 1) / 88)
#define MLDSA44_OMEGA 80

/* pk = rho || t1 packed; sigma = c~ || z packed || hints packed (Algorithms 22, 26). */
#define MLDSA_RHO_BYTES 32
#define MLDSA44_T1_BYTES 320 /* a polynomial, 10 bits a coefficient */
#define MLDSA44_C_BYTES 32
#define MLDSA44_Z_BYTES 576 /* a polynomial, 18 bits a coefficient */
#define MLDSA44_HINTS_AT (MLDSA44_C_BYTES + MLDSA44_L * MLDSA44_Z_BYTES)
#define MLDSA44_W1_BYTES 192 /* a polynomial, 6 bits a coefficient */

#define MLDSA_RATE_128 168u                       /* SHAKE128 */
#define MLDSA_STREAM_BYTES (5u * MLDSA_RATE_128)  /* what a polynomial of A takes but for once in 2^140 or so */
#define MLDSA_STREAM_ROOM 1024u                   /* six blocks, and what vectors read beyond the fifth */

/* Coefficient i at place i; 64 bytes are 16 of them. */
typedef struct {
    _Alignas(64) int32_t c[MLDSA_N];
} mldsa_poly;

/* The roots of unity as vectors, each with itself times q^-1, in the order of use; laid out once a call. */
typedef struct {
    _Alignas(64) int32_t root[15][2][16];    /* layers 8 to 1 of the NTT */
    _Alignas(64) int32_t inverse[15][2][16]; /* layers 1 to 8 of its inverse */
} mldsa_roots;

/* Algorithm 21; bit i of word j belongs to coefficient 16 j + i.  Returns 0 where the standard says so. */
int mldsa_unpack_hints(uint16_t hints[MLDSA44_K][MLDSA_N / 16], const uint8_t *packed);
/* Algorithm 30 over `size` bytes of SHAKE128; returns 1 if they gave all coefficients. */
int mldsa_sample_slowly(mldsa_poly *a, const uint8_t *stream, size_t size);

#if LANES_HAVE_WIDE
/* mldsa_x8.c, with AVX-512 (F and BW). */
void mldsa_x8_roots(mldsa_roots *roots);
/* Algorithm 41; the result is below 9 q in absolute value. */
void mldsa_x8_ntt(mldsa_poly *f, const mldsa_roots *roots);
/* Algorithm 42, times 2^32, of coefficients below q in absolute value; the result is 0 to q - 1. */
void mldsa_x8_inverse_ntt(mldsa_poly *f, const mldsa_roots *roots);
/* Algorithm 30 over the first MLDSA_STREAM_BYTES of SHAKE128; returns how many coefficients there are. */
size_t mldsa_x8_sample(mldsa_poly *a, const uint8_t *stream);
/* BitUnpack(z, gamma_1 - 1, gamma_1); returns 1 if every coefficient is below gamma_1 - beta. */
int mldsa_x8_unpack_z(mldsa_poly *z, const uint8_t *packed);
/* SimpleBitUnpack(t1, 2^10 - 1), times 2^d. */
void mldsa_x8_unpack_t1(mldsa_poly *t1, const uint8_t *packed);
/* (a_0 z_0 + ... + a_3 z_3 - c t1) / 2^32, all in NTT form; the result is below q in absolute value. */
void mldsa_x8_row(mldsa_poly *w, const mldsa_poly a[MLDSA44_L], const mldsa_poly z[MLDSA44_L], const mldsa_poly *c,
                  const mldsa_poly *t1);
/* Algorithm 40 on coefficients 0 to q - 1, and Algorithm 28 for one polynomial.  Bit i of word j of
 * `hints` belongs to coefficient 16 j + i. */
void mldsa_x8_encode_w1(uint8_t *packed, const mldsa_poly *w, const uint16_t hints[MLDSA_N / 16]);
#endif

#endif
