/* The smallest test frame: a claim that does not hold is printed, and the program fails.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QFLARE_EXPECT_H
#define QFLARE_EXPECT_H

#include <stdio.h>

static int expect_failures = 0;

#define EXPECT(claim)                                                                                                  \
    do {                                                                                                               \
        if (!(claim)) {                                                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #claim);                                 \
            expect_failures++;                                                                                         \
        }                                                                                                              \
    } while (0)

static inline int expect_result(const char *name)
{
    if (expect_failures == 0) {
        printf("%s: good\n", name);
    }
    return expect_failures != 0;
}

static inline int all_bytes_are(const unsigned char *bytes, size_t size, unsigned char value)
{
    for (size_t at = 0; at < size; at++) {
        if (bytes[at] != value) {
            return 0;
        }
    }
    return 1;
}

#endif
