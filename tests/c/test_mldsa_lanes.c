/* ML-DSA-44 verification in lanes against liboqs and against FIPS 204 written plainly, under
 * sanitizers: buffers come from malloc at their exact size and at every alignment.
 * SPDX-License-Identifier: Apache-2.0 */
#include "expect.h"
#include "lanes/mldsa.h"
#include "qflare.h"

#include <stdlib.h>
#include <string.h>

#define COUNT ((size_t)19) /* two full groups and a part of one */
#define SEED_BYTES QFL_MLDSA_SEED_BYTES

static uint32_t state = 1;

/* Numbers that look random and are the same in every run (xorshift). */
static uint32_t next(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void *memory(size_t size)
{
    void *const found = malloc(size > 0 ? size : 1);
    if (found == NULL) {
        abort();
    }
    return found;
}

#if KECCAK_HAVE_WIDE

/* ------------------------------------------------------------------------------- parts, written plainly */

static int64_t power(int64_t base, unsigned exponent)
{
    int64_t result = 1;
    for (; exponent > 0; exponent >>= 1, base = base * base % MLDSA_Q) {
        if (exponent & 1) {
            result = result * base % MLDSA_Q;
        }
    }
    return result;
}

/* Algorithm 41 in its own words. */
static void plain_ntt(int64_t w[MLDSA_N])
{
    unsigned m = 0;
    for (size_t apart = 128; apart > 0; apart /= 2) {
        for (size_t start = 0; start < MLDSA_N; start += 2 * apart) {
            unsigned reversed = 0;
            m++;
            for (unsigned bit = 0; bit < 8; bit++) {
                reversed |= (m >> bit & 1) << (7 - bit);
            }
            const int64_t root = power(1753, reversed);
            for (size_t j = start; j < start + apart; j++) {
                const int64_t t = root * w[j + apart] % MLDSA_Q;
                w[j + apart] = (w[j] - t + MLDSA_Q) % MLDSA_Q;
                w[j] = (w[j] + t) % MLDSA_Q;
            }
        }
    }
}

static int32_t canonical(int32_t x)
{
    const int32_t r = x % MLDSA_Q;
    return r < 0 ? r + MLDSA_Q : r;
}

/* Every transform is the standard's, and the inverse undoes it, also at the bounds. */
static void ntt_is_the_standards(const mldsa_roots *roots)
{
    for (unsigned round = 0; round < 40; round++) {
        mldsa_poly f;
        int64_t expected[MLDSA_N];
        int32_t before[MLDSA_N];
        for (size_t i = 0; i < MLDSA_N; i++) {
            f.c[i] = round == 0 ? MLDSA_Q - 1 : round == 1 ? 1 - MLDSA_Q : (int32_t)(next() % MLDSA_Q);
            if (round == 2) {
                f.c[i] = i % 2 == 0 ? MLDSA_Q - 1 : 1 - MLDSA_Q;
            }
            before[i] = canonical(f.c[i]);
            expected[i] = before[i];
        }
        mldsa_x8_ntt(&f, roots);
        plain_ntt(expected);
        for (size_t i = 0; i < MLDSA_N; i++) {
            EXPECT(canonical(f.c[i]) == expected[i]);
            /* Centred or not, what the inverse is given is below q. */
            f.c[i] = canonical(f.c[i]) - (round % 3 == 1 ? MLDSA_Q - 1 : 0) + (round % 3 == 1 ? -1 : 0);
        }
        mldsa_x8_inverse_ntt(&f, roots);
        for (size_t i = 0; i < MLDSA_N; i++) {
            /* times 2^32 */
            EXPECT(f.c[i] >= 0 && f.c[i] < MLDSA_Q);
            EXPECT(f.c[i] == (int32_t)((((int64_t)1 << 32) % MLDSA_Q) * before[i] % MLDSA_Q));
        }
    }
}

/* Algorithm 36 and 40 for one coefficient. */
static int32_t plain_use_hint(int32_t r, int hint)
{
    int32_t r0 = r % (2 * MLDSA44_GAMMA2);
    int32_t r1 = 0;
    if (r0 > MLDSA44_GAMMA2) {
        r0 -= 2 * MLDSA44_GAMMA2;
    }
    if (r - r0 == MLDSA_Q - 1) {
        r0 -= 1;
    } else {
        r1 = (r - r0) / (2 * MLDSA44_GAMMA2);
    }
    return !hint ? r1 : r0 > 0 ? (r1 + 1) % 44 : (r1 + 43) % 44;
}

/* UseHint and the encoding, for every coefficient modulo q with and without a hint. */
static void every_coefficient_with_every_hint(void)
{
    mldsa_poly w;
    uint16_t hints[MLDSA_N / 16];
    uint8_t packed[MLDSA44_W1_BYTES];
    for (int hint = 0; hint < 2; hint++) {
        unsigned wrong = 0;
        memset(hints, hint ? 0xff : 0, sizeof hints);
        for (int32_t first = 0; first < MLDSA_Q; first += MLDSA_N) {
            for (int32_t i = 0; i < MLDSA_N; i++) {
                w.c[i] = first + i < MLDSA_Q ? first + i : MLDSA_Q - 1;
            }
            mldsa_x8_encode_w1(packed, &w, hints);
            for (size_t i = 0; i < MLDSA_N; i++) {
                const size_t bit = 6 * i;
                const unsigned two = packed[bit / 8] | (unsigned)(bit / 8 + 1 < sizeof packed ? packed[bit / 8 + 1] : 0) << 8;
                wrong += (int32_t)(two >> bit % 8 & 63) != plain_use_hint(w.c[i], hint);
            }
        }
        EXPECT(wrong == 0);
    }
}

/* Sampling refuses what the standard refuses, wherever it stands, and says how many it found. */
static void sampling_refuses(void)
{
    uint8_t stream[MLDSA_STREAM_ROOM];
    mldsa_poly found, expected;
    for (unsigned round = 0; round < 300; round++) {
        const unsigned refused = round % 60; /* more than the 24 that five blocks have to spare, as well */
        for (size_t i = 0; i < sizeof stream; i++) {
            stream[i] = (uint8_t)next();
        }
        for (unsigned i = 0; i < refused; i++) { /* q and above, and just below, with either top bit */
            const size_t at = 3 * (next() % (MLDSA_STREAM_BYTES / 3));
            const uint32_t value = MLDSA_Q + (i % 4 == 3 ? UINT32_C(0xffffffff) : i % 4 * 8) + (next() % 2 << 23);
            stream[at] = (uint8_t)value;
            stream[at + 1] = (uint8_t)(value >> 8);
            stream[at + 2] = (uint8_t)(value >> 16);
        }
        memset(&found, 0xa5, sizeof found);
        memset(&expected, 0xa5, sizeof expected);
        const int enough = mldsa_sample_slowly(&expected, stream, MLDSA_STREAM_BYTES);
        const size_t have = mldsa_x8_sample(&found, stream);
        EXPECT((have == MLDSA_N) == enough);
        EXPECT(memcmp(found.c, expected.c, have * sizeof *found.c) == 0);
        EXPECT(enough || expected.c[have] == (int32_t)0xa5a5a5a5); /* neither found one more */
    }
    memset(stream, 0xff, sizeof stream);
    EXPECT(mldsa_x8_sample(&found, stream) == 0);
}

/* --------------------------------------------------------------------------------------- whole */

typedef struct {
    uint8_t *pk, *sig, *messages;
    uint64_t sizes[COUNT];
    size_t messages_size;
} batch;

static const uint8_t context[7] = "lanes 7";

static batch signed_batch(void)
{
    batch made = {memory(COUNT * QFL_MLDSA44_PK_BYTES), memory(COUNT * QFL_MLDSA44_SIG_BYTES), NULL, {0}, 0};
    uint8_t *const sk = memory(COUNT * QFL_MLDSA44_SK_BYTES);
    uint8_t seeds[COUNT * SEED_BYTES], status[COUNT];
    for (size_t i = 0; i < sizeof seeds; i++) {
        seeds[i] = (uint8_t)next();
    }
    for (size_t row = 0; row < COUNT; row++) { /* none, blocks' ends, runs of one size */
        static const uint64_t sizes[] = {0, 63, 64, 64, 64, 70, 71, 136, 300};
        made.sizes[row] = sizes[row % (sizeof sizes / sizeof *sizes)];
        made.messages_size += (size_t)made.sizes[row];
    }
    made.messages = memory(made.messages_size);
    for (size_t i = 0; i < made.messages_size; i++) {
        made.messages[i] = (uint8_t)next();
    }
    EXPECT(qfl_mldsa_keygen_seeded_batch(made.pk, sk, status, seeds, 44, COUNT) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, 0));
    EXPECT(qfl_mldsa_sign_batch(made.sig, status, sk, made.messages, made.sizes, context, 44, COUNT, COUNT,
                                made.messages_size, sizeof context) == QFL_OK);
    EXPECT(all_bytes_are(status, COUNT, 0));
    free(sk);
    return made;
}

/* Both engines say the same of rows `from` to COUNT; returns how many are good. */
static size_t same(const batch *b, uint8_t *scratch, size_t from)
{
    const size_t count = COUNT - from;
    size_t skipped = 0, good = 0;
    for (size_t row = 0; row < from; row++) {
        skipped += (size_t)b->sizes[row];
    }
    uint8_t *const expected = memory(count), *const found = memory(count);
    memset(found, 0xa5, count);
    EXPECT(qfl_mldsa_verify_batch(expected, b->pk + from * QFL_MLDSA44_PK_BYTES, b->messages + skipped, b->sizes + from,
                                  b->sig + from * QFL_MLDSA44_SIG_BYTES, context, 44, count, count,
                                  b->messages_size - skipped, sizeof context) == QFL_OK);
    EXPECT(qfl_mldsa44_lanes_verify(found, scratch, b->pk + from * QFL_MLDSA44_PK_BYTES, b->messages + skipped,
                                    b->sizes + from, b->sig + from * QFL_MLDSA44_SIG_BYTES, context, count, count,
                                    b->messages_size - skipped, sizeof context) == QFL_OK);
    EXPECT(memcmp(found, expected, count) == 0);
    for (size_t row = 0; row < count; row++) {
        good += found[row] == QFL_OK;
    }
    free(expected);
    free(found);
    return good;
}

static void refuses_bad_arguments(const batch *b, uint8_t *scratch)
{
    uint8_t status[COUNT];
    memset(status, 0xa5, sizeof status);
    const size_t all = b->messages_size, c = sizeof context;
    const size_t too_many[] = {QFL_BATCH_MAX + 1, (size_t)1 << 31, SIZE_MAX / QFL_MLDSA44_SIG_BYTES, SIZE_MAX};
#define CALL(status, scratch, pk, messages, sizes, sig, context, count, pks, size, c)                                  \
    qfl_mldsa44_lanes_verify(status, scratch, pk, messages, sizes, sig, context, count, pks, size, c)
    for (size_t at = 0; at < sizeof too_many / sizeof *too_many; at++) {
        EXPECT(CALL(status, scratch, b->pk, b->messages, b->sizes, b->sig, context, too_many[at], 1, all, c) ==
               QFL_ERR_COUNT);
    }
    EXPECT(CALL(NULL, scratch, b->pk, b->messages, b->sizes, b->sig, context, 1, 1, all, c) == QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, NULL, b->pk, b->messages, b->sizes, b->sig, context, 1, 1, all, c) == QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, scratch, NULL, b->messages, b->sizes, b->sig, context, 1, 1, all, c) == QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, scratch, b->pk, NULL, b->sizes, b->sig, context, 1, 1, all, c) == QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, scratch, b->pk, b->messages, NULL, b->sig, context, 1, 1, all, c) == QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, scratch, b->pk, b->messages, b->sizes, NULL, context, 1, 1, all, c) == QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, scratch, b->pk, b->messages, b->sizes, b->sig, NULL, 1, 1, all, c) == QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, scratch, b->pk, b->messages, b->sizes, b->sig, context, 2, 3, all, c) == QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, scratch, b->pk, b->messages, b->sizes, b->sig, context, COUNT, COUNT, all - 1, c) ==
           QFL_ERR_ARGUMENT);
    EXPECT(CALL(status, scratch, b->pk, b->messages, b->sizes, b->sig, context, 1, 1, all, 256) == QFL_ERR_ARGUMENT);
    EXPECT(qfl_lanes_force(1) == QFL_OK && qfl_mldsa44_lanes_items() == 0);
    EXPECT(CALL(status, scratch, b->pk, b->messages, b->sizes, b->sig, context, 1, 1, all, c) == QFL_ERR_BACKEND);
    EXPECT(all_bytes_are(status, sizeof status, 0xa5) && qfl_lanes_force(0) == QFL_OK);
    EXPECT(CALL(NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0) == QFL_OK);
}

/* Whatever is altered, both engines agree: every byte of a signature, in a row of its own. */
static void altered_signatures(batch *b, uint8_t *scratch)
{
    for (size_t place = 0; place < QFL_MLDSA44_SIG_BYTES; place += COUNT) {
        uint8_t flipped[COUNT];
        for (size_t row = 0; row < COUNT && place + row < QFL_MLDSA44_SIG_BYTES; row++) {
            flipped[row] = (uint8_t)(1u << next() % 8);
            b->sig[row * QFL_MLDSA44_SIG_BYTES + place + row] ^= flipped[row];
        }
        EXPECT(same(b, scratch, 0) <= (place + COUNT > QFL_MLDSA44_SIG_BYTES ? COUNT : 0));
        for (size_t row = 0; row < COUNT && place + row < QFL_MLDSA44_SIG_BYTES; row++) {
            b->sig[row * QFL_MLDSA44_SIG_BYTES + place + row] ^= flipped[row];
        }
    }
    EXPECT(same(b, scratch, 0) == COUNT);
}

/* Keys and messages altered, and a key for all. */
static void altered_keys(batch *b, uint8_t *scratch)
{
    for (unsigned round = 0; round < 40; round++) {
        const size_t row = next() % COUNT, place = next() % QFL_MLDSA44_PK_BYTES;
        b->pk[row * QFL_MLDSA44_PK_BYTES + place] ^= 1;
        EXPECT(same(b, scratch, 0) == COUNT - 1);
        b->pk[row * QFL_MLDSA44_PK_BYTES + place] ^= 1;
    }
    uint8_t status[COUNT];
    EXPECT(qfl_mldsa44_lanes_verify(status, scratch, b->pk, b->messages, b->sizes, b->sig, context, COUNT, 1,
                                    b->messages_size, sizeof context) == QFL_OK);
    EXPECT(status[0] == QFL_OK && all_bytes_are(status + 1, COUNT - 1, QFL_ERR_SIGNATURE));
}

int main(void)
{
    qfl_random_install();
    if (qfl_mldsa44_lanes_items() == 0) {
        printf("test_mldsa_lanes: this processor has no AVX-512\n");
        return expect_result("test_mldsa_lanes");
    }
    mldsa_roots *const roots = aligned_alloc(64, (sizeof *roots + 63) / 64 * 64);
    if (roots == NULL) {
        abort();
    }
    mldsa_x8_roots(roots);
    ntt_is_the_standards(roots);
    free(roots);
    every_coefficient_with_every_hint();
    sampling_refuses();

    batch b = signed_batch();
    for (size_t shift = 0; shift < 64; shift += 21) {
        uint8_t *const scratch = memory(QFL_MLDSA44_SCRATCH_BYTES + shift);
        for (size_t from = 0; from <= COUNT; from++) {
            EXPECT(same(&b, scratch + shift, from) == COUNT - from);
        }
        free(scratch);
    }
    uint8_t *const scratch = memory(QFL_MLDSA44_SCRATCH_BYTES);
    refuses_bad_arguments(&b, scratch);
    altered_signatures(&b, scratch);
    altered_keys(&b, scratch);
    free(scratch);
    free(b.pk);
    free(b.sig);
    free(b.messages);
    return expect_result("test_mldsa_lanes");
}
#else
int main(void)
{
    (void)memory;
    (void)next;
    printf("test_mldsa_lanes: no vectors on this machine\n");
    return expect_result("test_mldsa_lanes");
}
#endif
