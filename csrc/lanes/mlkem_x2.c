/* ML-KEM-1024 for 8 items at once, in vectors of the compiler's own: for every little-endian machine.
 *
 * CT: multiplications of 16-bit words, which take the same time for every operand wherever a multiplier is not
 * slower than that for small numbers on purpose (some cores for small devices).
 */
#include "lanes/mlkem.h"

#if MLKEM_HAVE_PORTABLE
#include <string.h>

#define WORDS 2u
#define KECCAK_ENGINE keccak_engine_x2
#define SAMPLE mlkem_sample

typedef int16_t vec __attribute__((vector_size(16), may_alias));
typedef uint16_t uvec __attribute__((vector_size(16), may_alias));
typedef uint32_t uvec32 __attribute__((vector_size(16), may_alias));
typedef int32_t vec32 __attribute__((vector_size(16), may_alias));
typedef uint64_t vec64 __attribute__((vector_size(16), may_alias));

static inline vec all16(int16_t x)
{
    return (vec){x, x, x, x, x, x, x, x};
}

static inline vec32 all32(int32_t x)
{
    return (vec32){x, x, x, x};
}

static inline vec mulhi(vec a, vec b)
{
    vec high = a;
    for (size_t i = 0; i < 8; i++) {
        high[i] = (int16_t)((a[i] * b[i]) >> 16);
    }
    return high;
}

static inline vec mulhrs(vec a, vec b)
{
    vec high = a;
    for (size_t i = 0; i < 8; i++) {
        high[i] = (int16_t)((a[i] * b[i] + (1 << 14)) >> 15);
    }
    return high;
}

static inline vec32 dot(vec32 sum, vec a, vec b)
{
    for (size_t i = 0; i < 4; i++) {
        sum[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    }
    return sum;
}

static inline vec low_pairs(vec a, vec b)
{
    return (vec){a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]};
}

static inline vec high_pairs(vec a, vec b)
{
    return (vec){a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]};
}

static inline vec low_32(vec a, vec b)
{
    return (vec){a[0], a[1], b[0], b[1], a[2], a[3], b[2], b[3]};
}

static inline vec high_32(vec a, vec b)
{
    return (vec){a[4], a[5], b[4], b[5], a[6], a[7], b[6], b[7]};
}

static inline vec low_64(vec a, vec b)
{
    return (vec){a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]};
}

static inline vec high_64(vec a, vec b)
{
    return (vec){a[4], a[5], a[6], a[7], b[4], b[5], b[6], b[7]};
}

static inline vec narrow(vec32 a, vec32 b)
{
    const vec x = (vec)a, y = (vec)b; /* the high halves: little-endian */
    return (vec){x[1], x[3], x[5], x[7], y[1], y[3], y[5], y[7]};
}

/* The words at `at` of two rows: word j of row i becomes word i of out[j]. */
static inline void read_words(vec64 out[WORDS], const uint8_t *const *rows, size_t at)
{
    uint64_t x[2], y[2];
    memcpy(x, rows[0] + at, sizeof x);
    memcpy(y, rows[1] + at, sizeof y);
    out[0] = (vec64){x[0], y[0]}, out[1] = (vec64){x[1], y[1]};
}

/* The other way. */
static inline void write_words(uint8_t *const *rows, size_t at, const vec64 in[WORDS])
{
    for (size_t i = 0; i < WORDS; i++) {
        const uint64_t x[2] = {in[0][i], in[1][i]};
        memcpy(rows[i] + at, x, sizeof x);
    }
}

/* 16 bytes of one row. */
static inline vec pieces(const void *first, size_t stride)
{
    vec x;
    (void)stride;
    memcpy(&x, first, sizeof x);
    return x;
}

#include "lanes/mlkem_lanes.h"

const mlkem_engine mlkem_engine_x2 = MLKEM_ENGINE;
#else
typedef int mlkem_x2_is_for_little_endian; /* ISO C wants a declaration in every file */
#endif
