/* The control of the constant-time check: a comparison that leaves early on a secret.  It must be
 * reported; if it is not, the check sees nothing.  SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"

#include <stdio.h>

int main(void)
{
    volatile uint8_t secret[32] = {1, 2, 3};
    QFL_CT_SECRET((void *)secret, sizeof secret);
    for (size_t at = 0; at < sizeof secret; at++) {
        if (secret[at] != (uint8_t)(at + 1)) {
            printf("left early\n");
            return 0;
        }
    }
    return 0;
}
