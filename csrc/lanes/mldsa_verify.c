/* ML-DSA-44 verification for many signatures, FIPS 204, Algorithms 3 and 8.
 *
 * Hashes run over up to eight signatures at once; the matrix A of one key is sampled eight entries at
 * once, so that a single signature gains as well.  Everything is public (mldsa.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lanes/mldsa.h"

#include <string.h>

#define ALIGNMENT 64u
#define GROUP KECCAK_WIDTH_MAX
#define MU_BYTES 64u
#define SIGNS_BYTES 8u /* the sign bits of SampleInBall */

#if LANES_HAVE_WIDE

/* What is laid out in the caller's scratch memory. */
typedef struct {
    mldsa_roots roots;
    mldsa_poly a[MLDSA44_K][MLDSA44_L]; /* of one key, in NTT form, as t1 */
    mldsa_poly t1[MLDSA44_K];
    mldsa_poly z[MLDSA44_L]; /* of one signature, as c and w */
    mldsa_poly c;
    mldsa_poly w;
    uint16_t hints[MLDSA44_K][MLDSA_N / 16];
    uint8_t stream[GROUP][MLDSA_STREAM_ROOM]; /* of SHAKE128, one an entry of A */
    uint8_t mu[GROUP][MU_BYTES];              /* before that tr */
    uint8_t ball[GROUP][KECCAK_RATE_256];     /* what SampleInBall draws from */
    uint8_t w1[GROUP][MLDSA44_K * MLDSA44_W1_BYTES];
    uint8_t c_tilde[GROUP][MLDSA44_C_BYTES];
} verification;

_Static_assert(sizeof(verification) + ALIGNMENT <= QFL_MLDSA44_SCRATCH_BYTES, "scratch size");

/* Up to eight signatures: where each one's parts are. */
typedef struct {
    size_t live;
    const uint8_t *pk[GROUP];
    const uint8_t *sig[GROUP];
    const uint8_t *message[GROUP];
    uint64_t message_size[GROUP];
} group;

/* -------------------------------------------------------------------------------- one key's matrix */

/* Algorithm 30 with a sixth block, 336 tries: FIPS 204, appendix C lets a loop stop after 298, with a
 * probability of failure below 2^-256.  Returns 1 if there are enough coefficients. */
static int sample_longer(mldsa_poly *a, const uint8_t seed[MLDSA_RHO_BYTES + 2])
{
    uint8_t stream[6 * MLDSA_RATE_128];
    uint8_t *const out[1] = {stream};
    const uint8_t *const in[1] = {seed};
    keccak_sponge sponge;
    keccak_init(&sponge, &keccak_engine_x1, MLDSA_RATE_128);
    keccak_absorb(&sponge, in, MLDSA_RHO_BYTES + 2);
    keccak_finish(&sponge, KECCAK_DOMAIN_SHAKE);
    keccak_squeeze(&sponge, out, sizeof stream);
    return mldsa_sample_slowly(a, stream, sizeof stream);
}

/* Algorithm 32, eight entries at a time: rows 0 and 1, then 2 and 3.  Returns 1, and 0 as above. */
static int expand_a(verification *v, const uint8_t *rho)
{
    uint8_t seeds[GROUP][MLDSA_RHO_BYTES + 2];
    const uint8_t *in[GROUP];
    uint8_t *out[GROUP];
    for (size_t first = 0; first < MLDSA44_K; first += GROUP / MLDSA44_L) {
        keccak_sponge sponge;
        for (size_t entry = 0; entry < GROUP; entry++) {
            memcpy(seeds[entry], rho, MLDSA_RHO_BYTES);
            seeds[entry][MLDSA_RHO_BYTES] = (uint8_t)(entry % MLDSA44_L);             /* the column s ... */
            seeds[entry][MLDSA_RHO_BYTES + 1] = (uint8_t)(first + entry / MLDSA44_L); /* ... before the row r */
            in[entry] = seeds[entry];
            out[entry] = v->stream[entry];
        }
        keccak_init(&sponge, &keccak_engine_x8, MLDSA_RATE_128);
        keccak_absorb(&sponge, in, MLDSA_RHO_BYTES + 2);
        keccak_finish(&sponge, KECCAK_DOMAIN_SHAKE);
        keccak_squeeze(&sponge, out, MLDSA_STREAM_BYTES);
        for (size_t entry = 0; entry < GROUP; entry++) {
            mldsa_poly *const a = &v->a[first + entry / MLDSA44_L][entry % MLDSA44_L];
            if (mldsa_x8_sample(a, v->stream[entry]) < MLDSA_N && !sample_longer(a, seeds[entry])) {
                return 0;
            }
        }
    }
    return 1;
}

/* A and NTT(t1 2^d) of a key (Algorithm 8, steps 1 and 5, and a part of 9). */
static int expand_key(verification *v, const uint8_t *pk)
{
    for (size_t i = 0; i < MLDSA44_K; i++) {
        mldsa_x8_unpack_t1(&v->t1[i], pk + MLDSA_RHO_BYTES + i * MLDSA44_T1_BYTES);
        mldsa_x8_ntt(&v->t1[i], &v->roots);
    }
    return expand_a(v, pk);
}

/* ----------------------------------------------------------------------------------- one signature */

/* Algorithm 29 from the first block of SHAKE256(c~): 8 bytes of signs and 128 to draw from.  Appendix C
 * lets the drawing stop after 121 bytes.  Returns 1 if they were enough. */
static int sample_in_ball(mldsa_poly *c, const uint8_t *block)
{
    uint64_t signs = 0;
    size_t at = SIGNS_BYTES;
    for (size_t i = 0; i < SIGNS_BYTES; i++) {
        signs |= (uint64_t)block[i] << (8 * i);
    }
    memset(c, 0, sizeof *c);
    for (size_t i = MLDSA_N - MLDSA44_TAU; i < MLDSA_N; i++, signs >>= 1) {
        size_t j = MLDSA_N;
        while (j > i) {
            if (at == KECCAK_RATE_256) {
                return 0;
            }
            j = block[at++];
        }
        c->c[i] = c->c[j];
        c->c[j] = signs & 1 ? -1 : 1;
    }
    return 1;
}

/* The part of Algorithm 8 between the hashes, for one signature under the expanded key: w1 encoded.
 * Returns 0 if the signature is none: hints, norm of z. */
static int encode_w1(verification *v, uint8_t *w1, const uint8_t *sig, const uint8_t *ball)
{
    if (!mldsa_unpack_hints(v->hints, sig + MLDSA44_HINTS_AT)) { /* steps 2 to 4 */
        return 0;
    }
    for (size_t j = 0; j < MLDSA44_L; j++) { /* step 13, the norm, and step 9 */
        if (!mldsa_x8_unpack_z(&v->z[j], sig + MLDSA44_C_BYTES + j * MLDSA44_Z_BYTES)) {
            return 0;
        }
        mldsa_x8_ntt(&v->z[j], &v->roots);
    }
    if (!sample_in_ball(&v->c, ball)) { /* step 8 */
        return 0;
    }
    mldsa_x8_ntt(&v->c, &v->roots);
    for (size_t i = 0; i < MLDSA44_K; i++) { /* steps 9, 10 and the encoding of 12 */
        mldsa_x8_row(&v->w, v->a[i], v->z, &v->c, &v->t1[i]);
        mldsa_x8_inverse_ntt(&v->w, &v->roots);
        mldsa_x8_encode_w1(w1 + i * MLDSA44_W1_BYTES, &v->w, v->hints[i]);
    }
    return 1;
}

/* -------------------------------------------------------------------------------- a group's hashes */

/* One sponge for all signatures from `first` on that are `live`, as wide as pays. */
static void begin(keccak_sponge *sponge, size_t live)
{
    keccak_init(sponge, keccak_engine_for(live), KECCAK_RATE_256);
}

/* Rows `from` on of an array of rows of `size` bytes; places beyond the live ones repeat the first. */
#define ROWS(pointer, array, from, live)                                                                               \
    for (size_t row = 0; row < GROUP; row++) {                                                                         \
        pointer[row] = (array)[(from) + (row < (live) ? row : 0)];                                                     \
    }

/* Step 7 for signatures `from` to from + live - 1, whose messages have one size. */
static void hash_message(verification *v, const group *g, const uint8_t *head, size_t head_size, size_t from,
                         size_t live)
{
    const uint8_t *in[GROUP];
    uint8_t *out[GROUP];
    keccak_sponge sponge;
    begin(&sponge, live);
    ROWS(in, v->mu, from, live)
    keccak_absorb(&sponge, in, MU_BYTES); /* tr */
    keccak_absorb_shared(&sponge, head, head_size);
    ROWS(in, g->message, from, live)
    keccak_absorb(&sponge, in, (size_t)g->message_size[from]);
    keccak_finish(&sponge, KECCAK_DOMAIN_SHAKE);
    ROWS(out, v->mu, from, live)
    keccak_squeeze(&sponge, out, MU_BYTES);
}

/* Steps 6, 7 and what step 8 draws from. */
static void hash_before(verification *v, const group *g, const uint8_t *head, size_t head_size)
{
    const uint8_t *in[GROUP];
    uint8_t *out[GROUP];
    keccak_sponge sponge;

    begin(&sponge, g->live);
    ROWS(in, g->pk, 0, g->live)
    keccak_absorb(&sponge, in, QFL_MLDSA44_PK_BYTES);
    keccak_finish(&sponge, KECCAK_DOMAIN_SHAKE);
    ROWS(out, v->mu, 0, g->live)
    keccak_squeeze(&sponge, out, MU_BYTES);

    for (size_t from = 0; from < g->live;) { /* messages of one size that stand together go together */
        size_t live = 1;
        while (from + live < g->live && g->message_size[from + live] == g->message_size[from]) {
            live++;
        }
        hash_message(v, g, head, head_size, from, live);
        from += live;
    }

    begin(&sponge, g->live);
    ROWS(in, g->sig, 0, g->live)
    keccak_absorb(&sponge, in, MLDSA44_C_BYTES);
    keccak_finish(&sponge, KECCAK_DOMAIN_SHAKE);
    ROWS(out, v->ball, 0, g->live)
    keccak_squeeze(&sponge, out, KECCAK_RATE_256);
}

/* Step 12. */
static void hash_after(verification *v, const group *g)
{
    const uint8_t *in[GROUP];
    uint8_t *out[GROUP];
    keccak_sponge sponge;
    begin(&sponge, g->live);
    ROWS(in, v->mu, 0, g->live)
    keccak_absorb(&sponge, in, MU_BYTES);
    ROWS(in, v->w1, 0, g->live)
    keccak_absorb(&sponge, in, sizeof v->w1[0]);
    keccak_finish(&sponge, KECCAK_DOMAIN_SHAKE);
    ROWS(out, v->c_tilde, 0, g->live)
    keccak_squeeze(&sponge, out, MLDSA44_C_BYTES);
}

static void verify_group(uint8_t *status, verification *v, const group *g, const uint8_t *head, size_t head_size,
                         const uint8_t **expanded)
{
    int good[GROUP];
    hash_before(v, g, head, head_size);
    for (size_t row = 0; row < g->live; row++) {
        if (*expanded != g->pk[row]) { /* a key shared by all is expanded once */
            *expanded = expand_key(v, g->pk[row]) ? g->pk[row] : NULL;
        }
        memset(v->w1[row], 0, sizeof v->w1[row]);
        good[row] = *expanded != NULL && encode_w1(v, v->w1[row], g->sig[row], v->ball[row]);
    }
    hash_after(v, g);
    for (size_t row = 0; row < g->live; row++) { /* step 13 */
        good[row] = good[row] && memcmp(v->c_tilde[row], g->sig[row], MLDSA44_C_BYTES) == 0;
        status[row] = (uint8_t)(good[row] ? QFL_OK : QFL_ERR_SIGNATURE);
    }
}

static int has_engine(void)
{
    return qfl_lanes_width() == 8;
}

static verification *aligned(uint8_t *scratch)
{
    return (verification *)(void *)(scratch + (ALIGNMENT - (uintptr_t)scratch % ALIGNMENT) % ALIGNMENT);
}
#endif

int mldsa_sample_slowly(mldsa_poly *a, const uint8_t *stream, size_t size)
{
    size_t have = 0;
    for (size_t at = 0; at + 3 <= size && have < MLDSA_N; at += 3) { /* Algorithm 14 */
        const int32_t some = stream[at] | stream[at + 1] << 8 | (stream[at + 2] & 0x7f) << 16;
        if (some < MLDSA_Q) {
            a->c[have++] = some;
        }
    }
    return have == MLDSA_N;
}

int mldsa_unpack_hints(uint16_t hints[MLDSA44_K][MLDSA_N / 16], const uint8_t *packed)
{
    size_t index = 0;
    memset(hints, 0, MLDSA44_K * sizeof *hints);
    for (size_t i = 0; i < MLDSA44_K; i++) {
        const size_t end = packed[MLDSA44_OMEGA + i];
        if (end < index || end > MLDSA44_OMEGA) {
            return 0;
        }
        for (const size_t first = index; index < end; index++) {
            if (index > first && packed[index - 1] >= packed[index]) {
                return 0;
            }
            hints[i][packed[index] / 16] |= (uint16_t)(1u << packed[index] % 16);
        }
    }
    for (; index < MLDSA44_OMEGA; index++) {
        if (packed[index] != 0) {
            return 0;
        }
    }
    return 1;
}

size_t qfl_mldsa44_lanes_items(void)
{
#if LANES_HAVE_WIDE
    return has_engine() ? GROUP : 0;
#else
    return 0;
#endif
}

qfl_status qfl_mldsa44_lanes_verify(uint8_t *status, uint8_t *scratch, const uint8_t *pk, const uint8_t *messages,
                                    const uint64_t *sizes, const uint8_t *sig, const uint8_t *context, size_t count,
                                    size_t pk_count, size_t messages_size, size_t context_size)
{
    if (count > QFL_BATCH_MAX) {
        return QFL_ERR_COUNT;
    }
    if (context_size > QFL_MLDSA_CONTEXT_MAX || (context == NULL && context_size > 0) ||
        (messages == NULL && messages_size > 0) || (pk_count != count && pk_count != 1)) {
        return QFL_ERR_ARGUMENT;
    }
    if (count > 0 && (sig == NULL || status == NULL || pk == NULL || scratch == NULL || sizes == NULL)) {
        return QFL_ERR_ARGUMENT;
    }
    uint64_t left = messages_size;
    for (size_t row = 0; row < count; row++) {
        if (sizes[row] > left) {
            return QFL_ERR_ARGUMENT;
        }
        left -= sizes[row];
    }
#if LANES_HAVE_WIDE
    if (has_engine()) {
        static const uint8_t nothing = 0;
        /* Algorithm 3, step 5: M' = 0 || |ctx| || ctx || M. */
        uint8_t head[2 + QFL_MLDSA_CONTEXT_MAX] = {0, (uint8_t)context_size};
        if (context_size > 0) {
            memcpy(head + 2, context, context_size);
        }
        const size_t pk_stride = pk_count == 1 ? 0 : QFL_MLDSA44_PK_BYTES;
        const uint8_t *message = messages == NULL ? &nothing : messages;
        const uint8_t *expanded = NULL;
        if (count == 0) {
            return QFL_OK; /* no memory needs to be there */
        }
        verification *const v = aligned(scratch);
        mldsa_x8_roots(&v->roots);
        for (size_t first = 0; first < count; first += GROUP) {
            group g = {.live = count - first < GROUP ? count - first : GROUP};
            for (size_t row = 0; row < g.live; row++) {
                g.pk[row] = pk + (first + row) * pk_stride;
                g.sig[row] = sig + (first + row) * QFL_MLDSA44_SIG_BYTES;
                g.message[row] = message;
                g.message_size[row] = sizes[first + row];
                message += sizes[first + row];
            }
            verify_group(status + first, v, &g, head, 2 + context_size, &expanded);
        }
        return QFL_OK;
    }
#endif
    return QFL_ERR_BACKEND;
}
