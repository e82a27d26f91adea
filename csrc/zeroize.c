/* Wiping memory that held a secret. SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"

#include <string.h>

void qfl_zeroize(void *memory, size_t size)
{
    if (memory == NULL || size == 0) {
        return;
    }
    memset(memory, 0, size);
    /* The barrier claims to read the memory, so the memset above is not a dead store. */
    __asm__ __volatile__("" : : "r"(memory) : "memory");
}
