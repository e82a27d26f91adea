/* Keccak-f[1600] on two states at once, in vectors of the compiler's own: for the portable ML-KEM engine, on every
 * little-endian machine.
 *
 * CT: as in keccak_x8.c: only sizes and places steer a branch or an index, and they are public.
 *
 * Source: FIPS 202, section 3.2.
 */
#include "lanes/mlkem.h"

#if MLKEM_HAVE_PORTABLE
#include <string.h>

#define WIDTH 2u

typedef uint64_t pair __attribute__((vector_size(16), may_alias));

#define VECTOR pair
#define XOR(x, y) ((x) ^ (y))
#define XOR5(a, b, c, d, e) ((a) ^ (b) ^ (c) ^ (d) ^ (e))
#define CHI(x, y, z) ((x) ^ (~(y) & (z)))
#define ROL(x, n) ((x) << (n) | (x) >> ((64 - (n)) % 64)) /* by 0 it is x | x */
#define PARITY(x, left, right) const VECTOR q##x = XOR(left, ROL(right, 1))
#define ADD_PARITY(w, x) XOR(w, q##x)
#include "lanes/keccak_round.h"

static pair both(uint64_t word)
{
    return (pair){word, word};
}

static void permute(uint64_t *lane)
{
    pair *const state = (pair *)(void *)lane;
    STATE(s);
    STATE(t);
    LOAD_STATE(s, state);
    for (size_t round = 0; round < 24; round += 2) {
        ROUND(s, t, both(keccak_round_constant[round]));
        ROUND(t, s, both(keccak_round_constant[round + 1]));
    }
    STORE_STATE(state, s);
}

static void add(uint64_t *lane, uint64_t word)
{
    lane[0] ^= word, lane[1] ^= word;
}

static void absorb(uint64_t *lane, size_t at, const uint8_t *const *rows, size_t from, size_t size)
{
    const unsigned shift = 8 * (unsigned)(at % 8);
    lane += at / 8 * WIDTH;
    for (size_t state = 0; state < WIDTH; state++) {
        uint64_t *to = lane + state;
        for (size_t done = 0; done < size; done += 8, to += WIDTH) {
            uint64_t word = 0;
            memcpy(&word, rows[state] + from + done, size - done < 8 ? size - done : 8);
            to[0] ^= word << shift;
            if (shift != 0) { /* the lane behind the last one is in the state: every rate is shorter than it */
                to[WIDTH] ^= word >> (64 - shift);
            }
        }
    }
}

static void extract(const uint64_t *lane, uint8_t *const *rows, size_t from, size_t size)
{
    for (size_t state = 0; state < WIDTH; state++) {
        for (size_t done = 0; done < size; done += 8) {
            const uint64_t word = lane[done / 8 * WIDTH + state];
            memcpy(rows[state] + from + done, &word, size - done < 8 ? size - done : 8);
        }
    }
}

const keccak_engine keccak_engine_x2 = {WIDTH, permute, add, absorb, extract};
#else
typedef int keccak_x2_is_for_little_endian; /* ISO C wants a declaration in every file */
#endif
