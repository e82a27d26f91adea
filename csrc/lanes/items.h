/* Moving the bytes of many items into and out of vectors; private to csrc/lanes.
 *
 * Two arrangements of the same items, w = WORDS being the 64-bit words of a vector:
 *
 *   words   four vectors, one for each group of w items; word i of vector g is of item g w + i,
 *           which is what Keccak's states are
 *   places  four vectors, one for each 16-bit part of such words; place 4 i + g is of item g w + i
 *
 * `swap` goes from one to the other and back.
 */
#ifndef QFL_ITEMS_H
#define QFL_ITEMS_H

#include "lanes/polynomial.h"

#include <string.h>

#define GROUPS 4u
#define ITEMS (GROUPS * WORDS)

static inline vec64 all64(uint64_t x)
{
    return (vec64){0} + x;
}

/* Transpose the 4 x 4 matrix of 16-bit parts that stands in each word of the four vectors. */
static inline void swap(vec64 x[GROUPS])
{
    const vec64 even = all64(0x0000ffff0000ffff), low = all64(0x00000000ffffffff);
    const vec64 a = (x[0] & even) | ((x[1] << 16) & ~even), b = ((x[0] >> 16) & even) | (x[1] & ~even);
    const vec64 c = (x[2] & even) | ((x[3] << 16) & ~even), d = ((x[2] >> 16) & even) | (x[3] & ~even);
    x[0] = (a & low) | (c << 32), x[1] = (b & low) | (d << 32);
    x[2] = (a >> 32) | (c & ~low), x[3] = (b >> 32) | (d & ~low);
}

/* Read the next WORDS words of every item's row at `at` into places: out[4 j + t] is part t of word j. */
static inline void read_places(vec *out, const uint8_t *const rows[ITEMS], size_t at)
{
    vec64 x[GROUPS][WORDS];
    for (size_t g = 0; g < GROUPS; g++) {
        read_words(x[g], rows + g * WORDS, at);
    }
    for (size_t j = 0; j < WORDS; j++) {
        vec64 part[GROUPS] = {x[0][j], x[1][j], x[2][j], x[3][j]};
        swap(part);
        for (size_t t = 0; t < GROUPS; t++) {
            out[4 * j + t] = (vec)part[t];
        }
    }
}

/* Write places to the next WORDS words of the rows of the groups that have items; `read_places` turned round. */
static inline void write_places(uint8_t *const rows[ITEMS], size_t at, const vec *in, size_t groups)
{
    vec64 x[GROUPS][WORDS];
    for (size_t j = 0; j < WORDS; j++) {
        vec64 part[GROUPS] = {(vec64)in[4 * j], (vec64)in[4 * j + 1], (vec64)in[4 * j + 2], (vec64)in[4 * j + 3]};
        swap(part);
        for (size_t g = 0; g < GROUPS; g++) {
            x[g][j] = part[g];
        }
    }
    for (size_t g = 0; g < groups; g++) {
        write_words(rows + g * WORDS, at, x[g]);
    }
}

/* Bytes that one `read_places` or `write_places` moves. */
#define STEP_BYTES (8 * WORDS)

/* Read `size` bytes, at least a step, of every item's row at `at` into size / 2 vectors of places. */
static void read_all_places(vec *out, const uint8_t *const rows[ITEMS], size_t at, size_t size)
{
    size_t done = 0;
    for (; done + STEP_BYTES <= size; done += STEP_BYTES) {
        read_places(out + done / 2, rows, at + done);
    }
    if (done < size) { /* the last step again, as far in front as it must begin */
        read_places(out + (size - STEP_BYTES) / 2, rows, at + size - STEP_BYTES);
    }
}

/* The same the other way. */
static void write_all_places(uint8_t *const rows[ITEMS], size_t at, const vec *in, size_t size, size_t groups)
{
    size_t done = 0;
    for (; done + STEP_BYTES <= size; done += STEP_BYTES) {
        write_places(rows, at + done, in + done / 2, groups);
    }
    if (done < size) {
        write_places(rows, at + size - STEP_BYTES, in + (size - STEP_BYTES) / 2, groups);
    }
}

/* Copy `size` bytes, at least a vector.  WHY not memcpy: for a size that it knows gcc makes a string instruction. */
static inline void copy(uint8_t *to, const uint8_t *from, size_t size)
{
    vec x;
    for (size_t at = 0; at + sizeof x <= size; at += sizeof x) {
        memcpy(&x, from + at, sizeof x);
        memcpy(to + at, &x, sizeof x);
    }
    memcpy(&x, from + size - sizeof x, sizeof x);
    memcpy(to + size - sizeof x, &x, sizeof x);
}

/* Algorithm 5, ByteEncode_d, of one polynomial for every item: 16 values become d vectors of places. */
static inline void encode(vec *places, const vec values[MLKEM_N], unsigned d)
{
    for (size_t block = 0; block < 16; block++, places += d, values += 16) {
        vec word = values[0];
        size_t at = 0;
#pragma GCC unroll 16
        for (unsigned i = 1; i < 16; i++) {
            const unsigned shift = i * d % 16;
            if (shift == 0) {
                places[at++] = word;
                word = values[i];
                continue;
            }
            word |= up(values[i], shift);
            if (shift + d > 16) {
                places[at++] = word;
                word = (vec)((uvec)values[i] >> (16 - shift));
            }
        }
        places[at] = word;
    }
}

/* Algorithm 6, ByteDecode_d, of one polynomial for every item: d vectors of places hold 16 values. */
static inline void decode(vec out[MLKEM_N], const vec *places, unsigned d)
{
    const vec mask = all16((int16_t)((1 << d) - 1));
    for (size_t block = 0; block < 16; block++, places += d, out += 16) {
#pragma GCC unroll 16
        for (unsigned i = 0; i < 16; i++) {
            const unsigned word = i * d / 16, shift = i * d % 16;
            vec value = (vec)((uvec)places[word] >> shift);
            if (shift + d > 16) {
                value |= up(places[word + 1], 16 - shift);
            }
            out[i] = value & mask;
        }
    }
}

#endif
