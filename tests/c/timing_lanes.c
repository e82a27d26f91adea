/* Does the time of the lanes engine depend on its secrets?  Statistics for what valgrind cannot run
 * (AVX-512), beside the reading of its machine code (check_branches).
 *
 *   timing_lanes ROUNDS [control]
 *
 * Two classes each, in random order: ciphertexts that are good and ones that are rejected implicitly,
 * under one secret key, and under a key for each; one secret key and fresh ones; one message and fresh
 * ones in encapsulations to one key.  (Key generation has no such pair: the time of its public matrix
 * depends on the seed's public half.)  |t| above 4.5 in three runs out of three
 * is a leak; one run on a shared machine may stumble.  With `control` the decapsulation
 * is followed by a comparison that leaves at the first difference, and the program must find it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "qflare.h"
#include "timing.h"

#include <string.h>

#define ITEMS_MAX 32
#define KEYS 64
#define RUNS 3

static uint8_t ek[KEYS][QFL_KEM1024_EK_BYTES], dk[KEYS][QFL_KEM1024_DK_BYTES];
/* A context may be copied only to a place with the same alignment. */
static _Alignas(64) uint8_t contexts[KEYS][QFL_KEM1024_CONTEXT_BYTES];
_Static_assert(QFL_KEM1024_CONTEXT_BYTES % 64 == 0, "every context of the array is aligned as the first");
static uint8_t good[KEYS][ITEMS_MAX * QFL_KEM1024_CT_BYTES], bad[KEYS][ITEMS_MAX * QFL_KEM1024_CT_BYTES];
static uint8_t scratch[QFL_KEM1024_SCRATCH_BYTES], ss[ITEMS_MAX * QFL_KEM1024_SS_BYTES];
static size_t items;

static void require(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "timing_lanes: %s failed\n", what);
        exit(2);
    }
}

static void make_ciphertexts(void)
{
    static uint8_t all[ITEMS_MAX * QFL_KEM1024_EK_BYTES];
    uint8_t status[ITEMS_MAX];
    for (size_t key = 0; key < KEYS; key++) {
        require(qfl_kem1024_keygen_batch(ek[key], dk[key], status, 1) == QFL_OK && status[0] == 0, "key generation");
        require(qfl_kem1024_lanes_expand(contexts[key], dk[key]) == QFL_OK, "expansion");
        for (size_t i = 0; i < items; i++) {
            memcpy(all + i * sizeof ek[0], ek[key], sizeof ek[0]);
        }
        require(qfl_kem1024_encaps_batch(good[key], ss, status, all, items) == QFL_OK, "encapsulation");
        memcpy(bad[key], good[key], sizeof bad[key]);
        for (size_t i = 0; i < items; i++) { /* a bit of each, anywhere */
            uint16_t at = 0;
            require(qfl_random_bytes((uint8_t *)&at, sizeof at) == QFL_OK, "randomness");
            bad[key][i * QFL_KEM1024_CT_BYTES + at % QFL_KEM1024_CT_BYTES] ^= 1;
        }
    }
}

/* What the control does: compare the secret with a guess, byte by byte, until they differ. */
static volatile uint8_t sink;
static __attribute__((noinline)) void leak(const uint8_t *secret, const uint8_t *guess, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (secret[i] != guess[i]) {
            return;
        }
        sink = (uint8_t)(sink + secret[i]);
    }
}

typedef enum { REJECTION, KEY, REJECTION_MANY, MESSAGE, QUESTIONS } question;

static const char *const names[QUESTIONS] = {
    "good and rejected ciphertexts",
    "one key and fresh keys",
    "good and rejected ciphertexts, a key for each",
    "one message and fresh messages",
};

/* The same memory for both classes, so that caches and places are no difference. */
static _Alignas(64) uint8_t context[QFL_KEM1024_CONTEXT_BYTES];
static uint8_t ct[ITEMS_MAX * QFL_KEM1024_CT_BYTES], dks[ITEMS_MAX * QFL_KEM1024_DK_BYTES];
static uint8_t eks[ITEMS_MAX * QFL_KEM1024_EK_BYTES], messages[ITEMS_MAX * 32], statuses[ITEMS_MAX];

/* Lay the inputs of one measurement out; class 0 is always the same. */
static void lay_out(question asked, int class)
{
    uint8_t draw = 0;
    require(qfl_random_bytes(&draw, 1) == QFL_OK, "randomness");
    const size_t key = asked == KEY && class ? 1 + draw % (KEYS - 1) : 0;
    const int is_rejected = class && (asked == REJECTION || asked == REJECTION_MANY);
    memcpy(context, contexts[key], sizeof context);
    memcpy(ct, is_rejected ? bad[key] : good[key], items * QFL_KEM1024_CT_BYTES);
    for (size_t i = 0; i < items; i++) {
        memcpy(dks + i * sizeof dk[0], dk[key], sizeof dk[0]);
        memcpy(eks + i * sizeof ek[0], ek[key], sizeof ek[0]);
    }
    require(qfl_random_bytes(messages, sizeof messages) == QFL_OK, "randomness");
    if (!class) {
        memset(messages, 0x5a, sizeof messages);
    }
}

static qfl_status measured(question asked)
{
    if (asked == REJECTION_MANY) {
        return qfl_kem1024_lanes_decaps_batch(ss, statuses, scratch, dks, ct, items);
    }
    if (asked != MESSAGE) {
        return qfl_kem1024_lanes_decaps(ss, scratch, context, ct, items);
    }
    qfl_status status = qfl_random_input_begin(messages, items * 32);
    if (status == QFL_OK) {
        status = qfl_kem1024_lanes_encaps_batch(ct, ss, statuses, scratch, eks, items);
        (void)qfl_random_input_end();
    }
    return status;
}

static double run(question asked, size_t rounds, int is_control)
{
    uint64_t *const cycles = malloc(rounds * sizeof *cycles);
    uint8_t *const which = malloc(rounds);
    uint8_t guess[ITEMS_MAX * QFL_KEM1024_SS_BYTES];
    require(cycles != NULL && which != NULL, "memory");
    lay_out(asked, 0);
    require(measured(asked) == QFL_OK, "the operation");
    memcpy(guess, ss, sizeof guess);
    for (size_t i = 0; i < rounds; i++) {
        require(qfl_random_bytes(which + i, 1) == QFL_OK, "randomness");
        which[i] &= 1;
        lay_out(asked, which[i]);
        const uint64_t start = timing_now();
        const qfl_status status = measured(asked);
        for (int again = 0; is_control && again < 4; again++) { /* as a few comparisons on a way would */
            leak(ss, guess, items * QFL_KEM1024_SS_BYTES);
        }
        cycles[i] = timing_now() - start;
        require(status == QFL_OK, "the operation");
        /* What was timed is what it is said to be. */
        require((memcmp(ss, guess, items * QFL_KEM1024_SS_BYTES) == 0) == !which[i], "telling the classes apart");
    }
    const double t = timing_worst(cycles, which, rounds);
    free(cycles);
    free(which);
    return t;
}

int main(int argc, char **argv)
{
    const size_t rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    const int is_control = argc > 2 && strcmp(argv[2], "control") == 0;
    int leaks = 0;
    require(rounds >= 1000, "reading ROUNDS, at least 1000,");
    qfl_random_install();
    items = qfl_kem1024_lanes_items();
    make_ciphertexts();
    for (int asked = 0; asked < QUESTIONS; asked++) {
        int seen = 0;
        for (int number = 0; number < RUNS; number++) {
            const double t = run((question)asked, rounds, is_control);
            printf("%s, run %d: |t| = %.1f\n", names[asked], number + 1, t);
            seen += t > TIMING_T_MAX;
        }
        leaks += seen == RUNS;
    }
    printf(leaks > 0 ? "timing_lanes: time depends on secrets\n" : "timing_lanes: no dependence found\n");
    return leaks > 0;
}
