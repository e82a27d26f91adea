/* Randomness for liboqs and for Python: the system's source, or an input given to this thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "qflare.h"

#include <errno.h>
#include <string.h>

#include <oqs/oqs.h>

#if defined(__linux__)
#include <sys/random.h>
#else
#include <unistd.h>
#endif

/* State of one thread.  There is no shared state and no buffer of random bytes, so a fork cannot
 * repeat anything and threads need no lock. */
static _Thread_local struct {
    const uint8_t *input; /* next byte of the given input; meaningful if has_input */
    size_t input_left;
    size_t drawn;         /* bytes since qfl_random_watch */
    int has_input;
    int failed;           /* since qfl_random_watch */
    int fail_for_test;
} qfl_random_state;

/* Read `size` bytes from the kernel; 0 on success. */
static int qfl_system_random(uint8_t *out, size_t size)
{
#if defined(__linux__)
    while (size > 0) {
        const ssize_t got = getrandom(out, size, 0);
        if (got < 0) {
            if (errno == EINTR) {
                continue; /* a signal before any byte came: ask again */
            }
            return -1;
        }
        /* Above 256 bytes a signal may cut the answer short. */
        out += (size_t)got;
        size -= (size_t)got;
    }
#else
    while (size > 0) {
        const size_t part = size < 256 ? size : 256; /* getentropy takes no more */
        if (getentropy(out, part) != 0) {
            return -1;
        }
        out += part;
        size -= part;
    }
#endif
    return 0;
}

/* What liboqs calls.  It cannot report failure, so failure is a flag and zeros: the batch function
 * above it throws the row away. */
static void qfl_random_draw(uint8_t *out, size_t size)
{
    qfl_random_state.drawn += size;
    if (qfl_random_state.has_input) {
        if (size <= qfl_random_state.input_left) {
            memcpy(out, qfl_random_state.input, size);
            qfl_random_state.input += size;
            qfl_random_state.input_left -= size;
        } else {
            qfl_random_state.input_left = 0; /* later draws fail too, whatever their size */
            qfl_random_state.failed = 1;
            memset(out, 0, size);
        }
        return;
    }
    if (qfl_random_state.fail_for_test || qfl_system_random(out, size) != 0) {
        qfl_random_state.failed = 1;
        memset(out, 0, size);
    }
    QFL_CT_SECRET(out, size);
}

void qfl_random_install(void)
{
    OQS_init();
    OQS_randombytes_custom_algorithm(qfl_random_draw);
}

qfl_status qfl_random_bytes(uint8_t *out, size_t size)
{
    if (size > QFL_RANDOM_MAX) {
        return QFL_ERR_COUNT;
    }
    if (size == 0) {
        return QFL_OK;
    }
    if (out == NULL) {
        return QFL_ERR_ARGUMENT;
    }
    qfl_random_watch();
    qfl_random_draw(out, size);
    if (qfl_random_failed()) {
        qfl_zeroize(out, size);
        return QFL_ERR_ENTROPY;
    }
    return QFL_OK;
}

size_t qfl_random_rows(uint8_t *out, size_t size, size_t count)
{
    size_t drawn = 0;
    qfl_random_watch();
    if (qfl_random_state.has_input) { /* it may end between two rows */
        while (drawn < count && size <= qfl_random_state.input_left) {
            qfl_random_draw(out + drawn * size, size);
            drawn++;
        }
        if (drawn < count) {
            qfl_random_draw(out + drawn * size, size); /* fails, and lets what follows fail */
        }
    } else {
        qfl_random_draw(out, count * size);
        drawn = qfl_random_failed() ? 0 : count;
    }
    qfl_zeroize(out + drawn * size, (count - drawn) * size);
    return drawn;
}

qfl_status qfl_random_input_begin(const uint8_t *input, size_t size)
{
    if ((input == NULL && size > 0) || qfl_random_state.has_input) {
        return QFL_ERR_ARGUMENT; /* nested inputs would leave a dangling pointer behind */
    }
    qfl_random_state.input = input;
    qfl_random_state.input_left = size;
    qfl_random_state.has_input = 1;
    return QFL_OK;
}

size_t qfl_random_input_end(void)
{
    const size_t left = qfl_random_state.input_left;
    qfl_random_state.input = NULL;
    qfl_random_state.input_left = 0;
    qfl_random_state.has_input = 0;
    return left;
}

void qfl_random_fail_for_test(int fail)
{
    qfl_random_state.fail_for_test = fail != 0;
}

void qfl_random_watch(void)
{
    qfl_random_state.failed = 0;
    qfl_random_state.drawn = 0;
}

int qfl_random_failed(void)
{
    return qfl_random_state.failed;
}

size_t qfl_random_drawn(void)
{
    return qfl_random_state.drawn;
}
