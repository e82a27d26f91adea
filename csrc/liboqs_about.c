/* What is known about the liboqs at hand. SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"

#include <oqs/oqs.h>

const char *qfl_liboqs_version(void)
{
    return OQS_version();
}

const char *qfl_liboqs_origin(void)
{
    return QFL_LIBOQS_ORIGIN;
}

const char *qfl_liboqs_features(void)
{
    return QFL_LIBOQS_FEATURES;
}
