/* One round of Keccak-f[1600] over vectors: state by state, one vector is the same lane of every
 * state.  Private to csrc/lanes; the including file says what a vector is:
 *
 *   VECTOR               the vector of 64-bit words
 *   XOR(x, y)            x ^ y
 *   XOR5(a, b, c, d, e)  a ^ b ^ c ^ d ^ e
 *   CHI(x, y, z)         x ^ (~y & z)
 *   ROL(x, n)            rotate every word left by n
 *   PARITY(x, left, right)   note for column x the sums of its two neighbours
 *   ADD_PARITY(w, x)     w ^ left ^ ROL(right, 1) of column x
 *
 * The names are those of csrc/keccak.c: a b c d e are the rows y = 0..4 of FIPS 202, the digit is x.
 * A round reads the variables s and writes t; two rounds need no copy.  No lane is complemented:
 * the machines with vectors have and-not.
 *
 * Source: FIPS 202, section 3.2.
 */
#ifndef QFL_KECCAK_ROUND_H
#define QFL_KECCAK_ROUND_H

#define STATE(s)                                                                                                       \
    VECTOR s##a0, s##a1, s##a2, s##a3, s##a4, s##b0, s##b1, s##b2, s##b3, s##b4, s##c0, s##c1, s##c2, s##c3, s##c4,    \
        s##d0, s##d1, s##d2, s##d3, s##d4, s##e0, s##e1, s##e2, s##e3, s##e4

/* Theta's column x added, then rho: the five words that pi brings into one row. */
#define ROW(t, row, w0, n0, x0, w1, n1, x1, w2, n2, x2, w3, n3, x3, w4, n4, x4)                                        \
    const VECTOR t##row##v0 = ROL(ADD_PARITY(w0, x0), n0);                                                             \
    const VECTOR t##row##v1 = ROL(ADD_PARITY(w1, x1), n1);                                                             \
    const VECTOR t##row##v2 = ROL(ADD_PARITY(w2, x2), n2);                                                             \
    const VECTOR t##row##v3 = ROL(ADD_PARITY(w3, x3), n3);                                                             \
    const VECTOR t##row##v4 = ROL(ADD_PARITY(w4, x4), n4);                                                             \
    t##row##0 = CHI(t##row##v0, t##row##v1, t##row##v2);                                                               \
    t##row##1 = CHI(t##row##v1, t##row##v2, t##row##v3);                                                               \
    t##row##2 = CHI(t##row##v2, t##row##v3, t##row##v4);                                                               \
    t##row##3 = CHI(t##row##v3, t##row##v4, t##row##v0);                                                               \
    t##row##4 = CHI(t##row##v4, t##row##v0, t##row##v1)

#define ROUND(s, t, constant)                                                                                          \
    do {                                                                                                               \
        const VECTOR p0 = XOR5(s##a0, s##b0, s##c0, s##d0, s##e0);                                                     \
        const VECTOR p1 = XOR5(s##a1, s##b1, s##c1, s##d1, s##e1);                                                     \
        const VECTOR p2 = XOR5(s##a2, s##b2, s##c2, s##d2, s##e2);                                                     \
        const VECTOR p3 = XOR5(s##a3, s##b3, s##c3, s##d3, s##e3);                                                     \
        const VECTOR p4 = XOR5(s##a4, s##b4, s##c4, s##d4, s##e4);                                                     \
        PARITY(0, p4, p1);                                                                                             \
        PARITY(1, p0, p2);                                                                                             \
        PARITY(2, p1, p3);                                                                                             \
        PARITY(3, p2, p4);                                                                                             \
        PARITY(4, p3, p0);                                                                                             \
        ROW(t, a, s##a0, 0, 0, s##b1, 44, 1, s##c2, 43, 2, s##d3, 21, 3, s##e4, 14, 4);                                \
        t##a0 = XOR(t##a0, constant);                                                                                  \
        ROW(t, b, s##a3, 28, 3, s##b4, 20, 4, s##c0, 3, 0, s##d1, 45, 1, s##e2, 61, 2);                                \
        ROW(t, c, s##a1, 1, 1, s##b2, 6, 2, s##c3, 25, 3, s##d4, 8, 4, s##e0, 18, 0);                                  \
        ROW(t, d, s##a4, 27, 4, s##b0, 36, 0, s##c1, 10, 1, s##d2, 15, 2, s##e3, 56, 3);                               \
        ROW(t, e, s##a2, 62, 2, s##b3, 55, 3, s##c4, 39, 4, s##d0, 41, 0, s##e1, 2, 1);                                \
    } while (0)

#define LOAD_STATE(s, from)                                                                                            \
    s##a0 = (from)[0], s##a1 = (from)[1], s##a2 = (from)[2], s##a3 = (from)[3], s##a4 = (from)[4];                     \
    s##b0 = (from)[5], s##b1 = (from)[6], s##b2 = (from)[7], s##b3 = (from)[8], s##b4 = (from)[9];                     \
    s##c0 = (from)[10], s##c1 = (from)[11], s##c2 = (from)[12], s##c3 = (from)[13], s##c4 = (from)[14];                \
    s##d0 = (from)[15], s##d1 = (from)[16], s##d2 = (from)[17], s##d3 = (from)[18], s##d4 = (from)[19];                \
    s##e0 = (from)[20], s##e1 = (from)[21], s##e2 = (from)[22], s##e3 = (from)[23], s##e4 = (from)[24]

#define STORE_STATE(to, s)                                                                                             \
    (to)[0] = s##a0, (to)[1] = s##a1, (to)[2] = s##a2, (to)[3] = s##a3, (to)[4] = s##a4;                               \
    (to)[5] = s##b0, (to)[6] = s##b1, (to)[7] = s##b2, (to)[8] = s##b3, (to)[9] = s##b4;                               \
    (to)[10] = s##c0, (to)[11] = s##c1, (to)[12] = s##c2, (to)[13] = s##c3, (to)[14] = s##c4;                          \
    (to)[15] = s##d0, (to)[16] = s##d1, (to)[17] = s##d2, (to)[18] = s##d3, (to)[19] = s##d4;                          \
    (to)[20] = s##e0, (to)[21] = s##e1, (to)[22] = s##e2, (to)[23] = s##e3, (to)[24] = s##e4

#endif
