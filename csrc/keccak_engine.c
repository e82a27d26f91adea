/* Which Keccak engine runs: the widest that the processor and its system have.
 *
 * WHY this file has a thread-local variable, against the rule of no globals: a test must be able to
 * take every path of one machine, and a per-thread width cannot reach a caller on another thread.
 * What the processor has is asked of the compiler's run-time library, which read cpuid and xgetbv
 * once, before main; we keep no copy of it.
 */
#include "keccak.h"
#include "qflare.h"

static _Thread_local unsigned forced_width; /* 0: the widest */

/* AVX-512 needs BW for masks over bytes; F and BW were never apart on a server.  The run-time
 * library answers no where the system does not save the registers (xgetbv). */
static unsigned machine_width(void)
{
#if KECCAK_HAVE_WIDE
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
        return 8;
    }
    if (__builtin_cpu_supports("avx2")) {
        return 4;
    }
#endif
    return 1;
}

unsigned qfl_lanes_width(void)
{
    return forced_width != 0 ? forced_width : machine_width();
}

qfl_status qfl_lanes_force(unsigned width)
{
    if (width != 0 && width != 1 && width != 4 && width != 8) {
        return QFL_ERR_ARGUMENT;
    }
    if (width > machine_width()) {
        return QFL_ERR_ARGUMENT;
    }
    forced_width = width;
    return QFL_OK;
}

const keccak_engine *keccak_engine_for(size_t rows)
{
#if KECCAK_HAVE_WIDE
    /* Two states cost less in the widest engine than one after the other; one does not. */
    const unsigned width = rows >= 2 ? qfl_lanes_width() : 1;
    if (width == 8) {
        return &keccak_engine_x8;
    }
    if (width == 4) {
        return &keccak_engine_x4;
    }
#else
    (void)rows;
#endif
    return &keccak_engine_x1;
}

keccak_group keccak_group_at(size_t first, size_t count)
{
    const size_t left = count - first;
    const keccak_engine *engine = keccak_engine_for(left);
    const keccak_group group = {engine, first, left < engine->width ? left : engine->width};
    return group;
}
