/* Rejection sampling of public coefficients, FIPS 203, Algorithm 7, steps 5 to 14; private to csrc/lanes.
 *
 * CT: the bytes come from rho, which is public, and so does every branch here and where this is called.
 */
#ifndef QFL_SAMPLE_H
#define QFL_SAMPLE_H

#include "lanes/mlkem.h"

#define SAMPLE_BLOCKS 3 /* of SHAKE128: 336 candidates, enough for all but one polynomial in 150 */
#define SAMPLE_STREAM_BYTES (SAMPLE_BLOCKS * MLKEM_RATE_128 + 64) /* vectors are read whole */
#define SAMPLE_ROW (MLKEM_N + 32)                                 /* and written whole */

/* Append the coefficients below q that `size` bytes hold to the `have` that a row has, 256 at most; returns how
 * many there are now.  `size` is a multiple of 24; up to 64 bytes behind it are read, and places of the row behind
 * the last coefficient are written. */
size_t mlkem_sample(int16_t row[SAMPLE_ROW], size_t have, const uint8_t *bytes, size_t size);
#if LANES_HAVE_WIDE
size_t mlkem_sample_x4(int16_t row[SAMPLE_ROW], size_t have, const uint8_t *bytes, size_t size); /* AVX2 */
size_t mlkem_sample_x8(int16_t row[SAMPLE_ROW], size_t have, const uint8_t *bytes, size_t size); /* AVX-512 VBMI2 */
#endif

#endif
