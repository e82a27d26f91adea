/* QFLARE C core: batches of post-quantum and Keccak operations over contiguous rows.
 *
 * C is a calculator here: no allocation, no threads, no I/O, no clock, no globals but the random
 * callback (random.c).  Row i of an array starts at i * its row size.  Outputs come first, then
 * inputs, then sizes.  Arguments are checked before any output is touched.
 *
 * Copyright the QFLARE authors.  SPDX-License-Identifier: Apache-2.0
 */
#ifndef QFLARE_H
#define QFLARE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define QFL_MUST_CHECK __attribute__((warn_unused_result))
#else
#define QFL_MUST_CHECK
#endif

/* Visible between our own translation units only; the extension exports its init symbol alone. */
#define QFL_API

/* What a call says as a whole.  Per-row results use the same values in one byte. */
typedef enum qfl_status {
    QFL_OK = 0,
    QFL_ERR_COUNT = 1,    /* count is out of range; outputs untouched */
    QFL_ERR_ARGUMENT = 2, /* null pointer or impossible size; outputs untouched */
    QFL_ERR_BACKEND = 3,  /* liboqs reported a failure; the row is zero */
    QFL_ERR_ENTROPY = 4,  /* the system's random source failed; the row is zero */
    QFL_ERR_KEY = 5,      /* a key failed its check (FIPS 203 7.2, 7.3); the row is zero */
    QFL_ERR_SIGNATURE = 6 /* a signature does not verify */
} qfl_status;

/* Most rows one call takes; keeps every `count * size` far below SIZE_MAX even on 32 bits. */
#define QFL_BATCH_MAX ((size_t)65536)

/* ------------------------------------------------------------------------------------ memory */

/* Overwrite `size` bytes with zeros in a way the compiler may not remove. */
QFL_API void qfl_zeroize(void *memory, size_t size);

#endif /* QFLARE_H */
