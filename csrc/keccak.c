/* The Keccak-f[1600] permutation on one state, in portable C11.
 *
 * Source: FIPS 202, section 3.2.
 *
 * Lanes are named by row and column: a b c d e are the rows y = 0..4 of
 * FIPS 202, the digit is x. A round reads one set of 25 variables and writes
 * the other, so that two rounds unrolled need no copy.
 *
 * WHY complemented lanes: chi needs one NOT a lane. Keeping the lanes
 * {a1 a2 b3 c2 d2 e0} inverted between rounds turns most (~x & y) into
 * (x | y) by De Morgan and leaves one NOT a row; x86-64 without BMI has no
 * and-not, so this saves twenty instructions a round.
 */
#include "keccak.h"

#define ROL(x, n) (((x) << (n)) | ((x) >> (64 - (n))))

const uint64_t keccak_round_constant[24] = {
    0x0000000000000001u, 0x0000000000008082u, 0x800000000000808au, 0x8000000080008000u,
    0x000000000000808bu, 0x0000000080000001u, 0x8000000080008081u, 0x8000000000008009u,
    0x000000000000008au, 0x0000000000000088u, 0x0000000080008009u, 0x000000008000000au,
    0x000000008000808bu, 0x800000000000008bu, 0x8000000000008089u, 0x8000000000008003u,
    0x8000000000008002u, 0x8000000000000080u, 0x000000000000800au, 0x800000008000000au,
    0x8000000080008081u, 0x8000000000008080u, 0x0000000080000001u, 0x8000000080008008u,
};

#define DECLARE(s)                                                                                 \
    uint64_t s##a0, s##a1, s##a2, s##a3, s##a4, s##b0, s##b1, s##b2, s##b3, s##b4, s##c0, s##c1,   \
        s##c2, s##c3, s##c4, s##d0, s##d1, s##d2, s##d3, s##d4, s##e0, s##e1, s##e2, s##e3, s##e4

/* One round from state `s` to state `t`: theta, rho, pi, chi, iota.
 * The five rotated inputs v0..v4 of a row are named after their place in it. */
#define ROUND(s, t, constant)                                                                      \
    do {                                                                                           \
        const uint64_t p0 = s##a0 ^ s##b0 ^ s##c0 ^ s##d0 ^ s##e0;                                 \
        const uint64_t p1 = s##a1 ^ s##b1 ^ s##c1 ^ s##d1 ^ s##e1;                                 \
        const uint64_t p2 = s##a2 ^ s##b2 ^ s##c2 ^ s##d2 ^ s##e2;                                 \
        const uint64_t p3 = s##a3 ^ s##b3 ^ s##c3 ^ s##d3 ^ s##e3;                                 \
        const uint64_t p4 = s##a4 ^ s##b4 ^ s##c4 ^ s##d4 ^ s##e4;                                 \
        const uint64_t q0 = p4 ^ ROL(p1, 1);                                                       \
        const uint64_t q1 = p0 ^ ROL(p2, 1);                                                       \
        const uint64_t q2 = p1 ^ ROL(p3, 1);                                                       \
        const uint64_t q3 = p2 ^ ROL(p4, 1);                                                       \
        const uint64_t q4 = p3 ^ ROL(p0, 1);                                                       \
        uint64_t v0, v1, v2, v3, v4;                                                               \
                                                                                                   \
        v0 = s##a0 ^ q0;                                                                           \
        v1 = ROL(s##b1 ^ q1, 44);                                                                  \
        v2 = ROL(s##c2 ^ q2, 43);                                                                  \
        v3 = ROL(s##d3 ^ q3, 21);                                                                  \
        v4 = ROL(s##e4 ^ q4, 14);                                                                  \
        t##a0 = v0 ^ (v1 | v2) ^ (constant);                                                       \
        t##a1 = v1 ^ (~v2 | v3);                                                                   \
        t##a2 = v2 ^ (v3 & v4);                                                                    \
        t##a3 = v3 ^ (v4 | v0);                                                                    \
        t##a4 = v4 ^ (v0 & v1);                                                                    \
                                                                                                   \
        v0 = ROL(s##a3 ^ q3, 28);                                                                  \
        v1 = ROL(s##b4 ^ q4, 20);                                                                  \
        v2 = ROL(s##c0 ^ q0, 3);                                                                   \
        v3 = ROL(s##d1 ^ q1, 45);                                                                  \
        v4 = ROL(s##e2 ^ q2, 61);                                                                  \
        t##b0 = v0 ^ (v1 | v2);                                                                    \
        t##b1 = v1 ^ (v2 & v3);                                                                    \
        t##b2 = v2 ^ (v3 | ~v4);                                                                   \
        t##b3 = v3 ^ (v4 | v0);                                                                    \
        t##b4 = v4 ^ (v0 & v1);                                                                    \
                                                                                                   \
        v0 = ROL(s##a1 ^ q1, 1);                                                                   \
        v1 = ROL(s##b2 ^ q2, 6);                                                                   \
        v2 = ROL(s##c3 ^ q3, 25);                                                                  \
        v3 = ROL(s##d4 ^ q4, 8);                                                                   \
        v4 = ROL(s##e0 ^ q0, 18);                                                                  \
        t##c0 = v0 ^ (v1 | v2);                                                                    \
        t##c1 = v1 ^ (v2 & v3);                                                                    \
        t##c2 = v2 ^ (~v3 & v4);                                                                   \
        t##c3 = ~v3 ^ (v4 | v0);                                                                   \
        t##c4 = v4 ^ (v0 & v1);                                                                    \
                                                                                                   \
        v0 = ROL(s##a4 ^ q4, 27);                                                                  \
        v1 = ROL(s##b0 ^ q0, 36);                                                                  \
        v2 = ROL(s##c1 ^ q1, 10);                                                                  \
        v3 = ROL(s##d2 ^ q2, 15);                                                                  \
        v4 = ROL(s##e3 ^ q3, 56);                                                                  \
        t##d0 = v0 ^ (v1 & v2);                                                                    \
        t##d1 = v1 ^ (v2 | v3);                                                                    \
        t##d2 = v2 ^ (~v3 | v4);                                                                   \
        t##d3 = ~v3 ^ (v4 & v0);                                                                   \
        t##d4 = v4 ^ (v0 | v1);                                                                    \
                                                                                                   \
        v0 = ROL(s##a2 ^ q2, 62);                                                                  \
        v1 = ROL(s##b3 ^ q3, 55);                                                                  \
        v2 = ROL(s##c4 ^ q4, 39);                                                                  \
        v3 = ROL(s##d0 ^ q0, 41);                                                                  \
        v4 = ROL(s##e1 ^ q1, 2);                                                                   \
        t##e0 = v0 ^ (~v1 & v2);                                                                   \
        t##e1 = ~v1 ^ (v2 | v3);                                                                   \
        t##e2 = v2 ^ (v3 & v4);                                                                    \
        t##e3 = v3 ^ (v4 | v0);                                                                    \
        t##e4 = v4 ^ (v0 & v1);                                                                    \
    } while (0)

static void permute(uint64_t *lane)
{
    DECLARE(s);
    DECLARE(t);

    sa0 = lane[0], sa1 = ~lane[1], sa2 = ~lane[2], sa3 = lane[3], sa4 = lane[4];
    sb0 = lane[5], sb1 = lane[6], sb2 = lane[7], sb3 = ~lane[8], sb4 = lane[9];
    sc0 = lane[10], sc1 = lane[11], sc2 = ~lane[12], sc3 = lane[13], sc4 = lane[14];
    sd0 = lane[15], sd1 = lane[16], sd2 = ~lane[17], sd3 = lane[18], sd4 = lane[19];
    se0 = ~lane[20], se1 = lane[21], se2 = lane[22], se3 = lane[23], se4 = lane[24];

    for (size_t round = 0; round < 24; round += 2) {
        ROUND(s, t, keccak_round_constant[round]);
        ROUND(t, s, keccak_round_constant[round + 1]);
    }

    lane[0] = sa0, lane[1] = ~sa1, lane[2] = ~sa2, lane[3] = sa3, lane[4] = sa4;
    lane[5] = sb0, lane[6] = sb1, lane[7] = sb2, lane[8] = ~sb3, lane[9] = sb4;
    lane[10] = sc0, lane[11] = sc1, lane[12] = ~sc2, lane[13] = sc3, lane[14] = sc4;
    lane[15] = sd0, lane[16] = sd1, lane[17] = ~sd2, lane[18] = sd3, lane[19] = sd4;
    lane[20] = ~se0, lane[21] = se1, lane[22] = se2, lane[23] = se3, lane[24] = se4;
}

/* Little-endian loads and stores by shifts: right on every machine, and one
 * instruction where the machine is little-endian (gcc and clang both see it). */
static uint64_t load64(const uint8_t *p)
{
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 |
           (uint64_t)p[7] << 56;
}

static void store64(uint8_t *p, uint64_t x)
{
    for (unsigned i = 0; i < 8; i++) {
        p[i] = (uint8_t)(x >> (8 * i));
    }
}

static void add(uint64_t *lane, uint64_t word)
{
    *lane ^= word;
}

static void absorb(uint64_t *lane, size_t at, const uint8_t *const *rows, size_t from, size_t size)
{
    /* Whole words even off an 8-byte place: the u32 length before every transcript part leaves most
     * parts there.  The second lane is inside the state, since every rate is shorter than it. */
    const uint8_t *data = rows[0] + from;
    const unsigned shift = 8 * (unsigned)(at % 8);
    size_t left = size;
    lane += at / 8;
    if (shift == 0) {
        for (; left >= 8; left -= 8, data += 8) {
            *lane++ ^= load64(data);
        }
    } else {
        for (; left >= 8; left -= 8, data += 8) {
            const uint64_t word = load64(data);
            *lane++ ^= word << shift;
            *lane ^= word >> (64 - shift);
        }
    }
    for (at = shift / 8; left > 0; left--, at++) {
        lane[at / 8] ^= (uint64_t)*data++ << (8 * (at % 8));
    }
}

static void extract(const uint64_t *lane, uint8_t *const *rows, size_t from, size_t size)
{
    uint8_t *out = rows[0] + from;
    for (; size >= 8; size -= 8, out += 8) {
        store64(out, *lane++);
    }
    for (size_t i = 0; i < size; i++) {
        out[i] = (uint8_t)(*lane >> (8 * i));
    }
}

const keccak_engine keccak_engine_x1 = {1, permute, add, absorb, extract};
