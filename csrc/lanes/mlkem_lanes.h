/* ML-KEM-1024 for ITEMS items at once, over the vectors of the including file; private to csrc/lanes. */
#ifndef QFL_MLKEM_LANES_H
#define QFL_MLKEM_LANES_H

#include "lanes/many_keys.h"
#include "lanes/one_key.h"

_Static_assert(sizeof(decapsulation) + 64 <= QFL_KEM1024_SCRATCH_BYTES, "scratch size");
_Static_assert(sizeof(keyed) + 64 <= QFL_KEM1024_SCRATCH_BYTES, "scratch size");
_Static_assert(ITEMS <= MLKEM_WIDTH_MAX, "items of an engine");

#define MLKEM_ENGINE \
    {ITEMS, sizeof(decapsulation), sizeof(keyed), decapsulate_one_key, generate, open_keys, encapsulate, decapsulate}

#endif
