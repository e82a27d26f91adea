/* Raw liboqs: its own calls in plain loops over arrays, the speed that everything else is held against.
 *
 * As a shared library it is called in the process that measures, with the arrays that QFLARE is given.
 * As a program, pinned to one core, it is one of the two processes that two threads are held against:
 *
 *     raw_liboqs OPERATION COUNT CPU
 *
 * prepares COUNT inputs, writes a byte, and for every byte it reads does COUNT operations and writes a byte.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <oqs/oqs.h>

#include "keccak.h"

enum {
    EK = OQS_KEM_ml_kem_1024_length_public_key,
    DK = OQS_KEM_ml_kem_1024_length_secret_key,
    CT = OQS_KEM_ml_kem_1024_length_ciphertext,
    SS = OQS_KEM_ml_kem_1024_length_shared_secret,
    PK44 = OQS_SIG_ml_dsa_44_length_public_key,
    SK44 = OQS_SIG_ml_dsa_44_length_secret_key,
    SIG44 = OQS_SIG_ml_dsa_44_length_signature,
};

const char *raw_version(void)
{
    return OQS_version();
}

void raw_start(void)
{
    OQS_init();
}

int raw_keygen(uint8_t *ek, uint8_t *dk, size_t count)
{
    int failed = 0;
    for (size_t row = 0; row < count; row++) {
        failed |= OQS_KEM_ml_kem_1024_keypair(ek + row * EK, dk + row * DK) != OQS_SUCCESS;
    }
    return failed;
}

int raw_encaps(uint8_t *ct, uint8_t *ss, const uint8_t *ek, size_t count)
{
    int failed = 0;
    for (size_t row = 0; row < count; row++) {
        failed |= OQS_KEM_ml_kem_1024_encaps(ct + row * CT, ss + row * SS, ek + row * EK) != OQS_SUCCESS;
    }
    return failed;
}

/* dk_step is 0 for one key, else the size of a key. */
int raw_decaps(uint8_t *ss, const uint8_t *ct, const uint8_t *dk, size_t dk_step, size_t count)
{
    int failed = 0;
    for (size_t row = 0; row < count; row++) {
        failed |= OQS_KEM_ml_kem_1024_decaps(ss + row * SS, ct + row * CT, dk + row * dk_step) != OQS_SUCCESS;
    }
    return failed;
}

int raw_sign(uint8_t *sig, const uint8_t *sk, size_t sk_step, const uint8_t *text, size_t size, const uint8_t *context,
             size_t context_size, size_t count)
{
    int failed = 0;
    for (size_t row = 0; row < count; row++) {
        size_t length = SIG44;
        failed |= OQS_SIG_ml_dsa_44_sign_with_ctx_str(sig + row * SIG44, &length, text + row * size, size, context,
                                                      context_size, sk + row * sk_step) != OQS_SUCCESS;
    }
    return failed;
}

int raw_verify(const uint8_t *sig, const uint8_t *pk, size_t pk_step, const uint8_t *text, size_t size,
               const uint8_t *context, size_t context_size, size_t count)
{
    int failed = 0;
    for (size_t row = 0; row < count; row++) {
        failed |= OQS_SIG_ml_dsa_44_verify_with_ctx_str(text + row * size, size, sig + row * SIG44, SIG44, context,
                                                        context_size, pk + row * pk_step) != OQS_SUCCESS;
    }
    return failed;
}

/* At least `count` permutations and nothing else: QFLARE's own, as many states at once as its widest engine takes. */
uint64_t raw_permutations(size_t count)
{
    _Alignas(64) uint64_t lane[KECCAK_LANES_IN_STATE * KECCAK_WIDTH_MAX] = {1};
    const keccak_engine *const engine = keccak_engine_for(count);
    for (size_t number = 0; number < count; number += engine->width) {
        engine->permute(lane);
    }
    return lane[0];
}

/* --- the program --- */

static uint8_t *array(size_t size)
{
    uint8_t *const made = calloc(size, 1);
    if (made == NULL) {
        exit(3);
    }
    return made;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: raw_liboqs keygen|encaps|decaps|sign|verify COUNT CPU\n");
        return 2;
    }
    const char *const operation = argv[1];
    const size_t count = strtoul(argv[2], NULL, 10);
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(strtoul(argv[3], NULL, 10), &set);
    if (count == 0 || sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("raw_liboqs");
        return 2;
    }
    raw_start();
    static const uint8_t context[] = "bench";
    const size_t text_size = 128;
    uint8_t *const ek = array(count * EK), *const dk = array(count * DK), *const ct = array(count * CT);
    uint8_t *const ss = array(count * SS), *const pk = array(PK44), *const sk = array(SK44);
    uint8_t *const sig = array(count * SIG44), *const text = array(count * text_size);
    for (size_t at = 0; at < count * text_size; at++) {
        text[at] = (uint8_t)(at * 2654435761u >> 13);
    }
    int failed = raw_keygen(ek, dk, count) | raw_encaps(ct, ss, ek, count);
    failed |= OQS_SIG_ml_dsa_44_keypair(pk, sk) != OQS_SUCCESS;
    failed |= raw_sign(sig, sk, 0, text, text_size, context, sizeof context - 1, count);

    uint8_t byte = 'r';
    while (failed == 0 && write(STDOUT_FILENO, &byte, 1) == 1 && read(STDIN_FILENO, &byte, 1) == 1) {
        if (strcmp(operation, "keygen") == 0) {
            failed = raw_keygen(ek, dk, count);
        } else if (strcmp(operation, "encaps") == 0) {
            failed = raw_encaps(ct, ss, ek, count);
        } else if (strcmp(operation, "decaps") == 0) {
            failed = raw_decaps(ss, ct, dk, DK, count);
        } else if (strcmp(operation, "sign") == 0) {
            failed = raw_sign(sig, sk, 0, text, text_size, context, sizeof context - 1, count);
        } else {
            failed = raw_verify(sig, pk, 0, text, text_size, context, sizeof context - 1, count);
        }
    }
    return failed;
}
