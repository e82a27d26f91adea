/* Hashing messages of any sizes, several at a time.
 *
 * Each state of the engine works on one message, block by block, and takes the next message as soon
 * as its own is done; so a batch of mixed sizes keeps the states busy until few messages are left.
 * A single message that is left goes on alone in the engine of one state.
 *
 * CT: which state does what follows from sizes and counts, which are public.
 */
#include "messages.h"

#include "qflare.h"

#include <string.h>

/* What is left of one message. */
typedef struct {
    const uint8_t *data;
    const uint64_t *sizes; /* of the parts behind the current one */
    uint64_t parts;        /* how many those are */
    size_t left;           /* bytes of the current part */
    uint8_t head[4];       /* the current part's size, where parts are framed */
    size_t head_left;      /* bytes of head not yet read */
} reader;

/* What one state of the engine does. */
typedef enum { IDLE, ABSORBING, SQUEEZING } phase;
typedef struct {
    phase phase;
    reader reader;
    uint8_t *out;    /* where its next output goes */
    size_t out_left; /* bytes */
} job;

static void begin_part(reader *from, int framed)
{
    const uint64_t size = *from->sizes++;
    from->parts--;
    from->left = (size_t)size;
    if (framed) {
        for (unsigned i = 0; i < 4; i++) {
            from->head[i] = (uint8_t)(size >> (24 - 8 * i));
        }
        from->head_left = 4;
    }
}

/* Copy up to `size` bytes of the message into `block`; fewer only at its end. */
static size_t read_bytes(reader *from, uint8_t *block, size_t size, int framed)
{
    size_t done = 0;
    for (;;) {
        while (from->head_left > 0 && done < size) {
            block[done++] = from->head[4 - from->head_left--];
        }
        const size_t take = from->left < size - done ? from->left : size - done;
        if (take > 0) { /* an empty message may have no data at all */
            memcpy(block + done, from->data, take);
            from->data += take;
            from->left -= take;
            done += take;
        }
        if (done == size || from->parts == 0) {
            return done;
        }
        begin_part(from, framed);
    }
}

/* The next block of a message: where it lies, or a padded copy of what is left. */
static const uint8_t *next_block(job *work, uint8_t *block, size_t rate, uint8_t domain, int framed)
{
    reader *from = &work->reader;
    if (from->head_left == 0 && from->left >= rate) {
        const uint8_t *whole = from->data;
        from->data += rate;
        from->left -= rate;
        return whole;
    }
    const size_t size = read_bytes(from, block, rate, framed);
    if (size < rate) {
        memset(block + size, 0, rate - size);
        block[size] = domain;
        block[rate - 1] |= 0x80;
        work->phase = SQUEEZING;
    }
    return block;
}

/* Give `work` the next message and move `from` behind it. */
static void take_message(job *work, messages *from, uint8_t **out, size_t out_size)
{
    const int framed = from->part_counts != NULL;
    const uint64_t parts = framed ? *from->part_counts++ : 1;
    work->phase = ABSORBING;
    work->reader.data = from->data;
    work->reader.sizes = from->sizes;
    work->reader.parts = parts;
    work->reader.left = 0;
    work->reader.head_left = 0;
    work->out = *out;
    work->out_left = out_size;
    for (uint64_t part = 0; part < parts; part++) {
        const size_t size = (size_t)*from->sizes++;
        if (size > 0) {
            from->data += size;
        }
    }
    from->count--;
    *out += out_size;
}

static void clear_state(keccak_sponge *sponge, size_t state)
{
    for (size_t lane = 0; lane < KECCAK_LANES_IN_STATE; lane++) {
        sponge->lane[lane * sponge->engine->width + state] = 0;
    }
}

/* Write the next bytes of output of one state. */
static void squeeze_state(job *work, const keccak_sponge *sponge, size_t state)
{
    const size_t size = work->out_left < sponge->rate ? work->out_left : sponge->rate;
    for (size_t at = 0; at < size; at += 8) {
        const uint64_t word = sponge->lane[at / 8 * sponge->engine->width + state];
        if (size - at >= 8) {
            for (unsigned i = 0; i < 8; i++) { /* one store, as the compiler sees */
                work->out[at + i] = (uint8_t)(word >> (8 * i));
            }
        } else {
            for (size_t i = 0; i < size - at; i++) {
                work->out[at + i] = (uint8_t)(word >> (8 * i));
            }
        }
    }
    work->out += size;
    work->out_left -= size;
}

/* Go on with the only job left, in the engine of one state. */
static void narrow(keccak_sponge *sponge, job jobs[KECCAK_WIDTH_MAX])
{
    const size_t width = sponge->engine->width;
    size_t state = 0;
    while (jobs[state].phase == IDLE) {
        state++;
    }
    for (size_t lane = 0; lane < KECCAK_LANES_IN_STATE; lane++) {
        sponge->lane[lane] = sponge->lane[lane * width + state]; /* never behind what is still read */
    }
    sponge->engine = &keccak_engine_x1;
    jobs[0] = jobs[state];
}

void messages_hash(uint8_t *out, size_t out_size, const messages *from, size_t rate, uint8_t domain)
{
    static const uint8_t zeros[KECCAK_RATE_MAX] = {0};
    messages left = *from;
    const int framed = from->part_counts != NULL;
    keccak_sponge sponge;
    uint8_t blocks[KECCAK_WIDTH_MAX][KECCAK_RATE_MAX];
    const uint8_t *rows[KECCAK_WIDTH_MAX];
    job jobs[KECCAK_WIDTH_MAX];
    size_t busy = 0;

    keccak_init(&sponge, keccak_engine_for(from->count), rate);
    for (size_t state = 0; state < sponge.engine->width; state++) {
        jobs[state].phase = IDLE;
        if (left.count > 0) {
            take_message(&jobs[state], &left, &out, out_size);
            busy++;
        }
    }
    while (busy > 0) {
        if (busy == 1 && sponge.engine->width > 1) {
            narrow(&sponge, jobs);
        }
        const size_t width = sponge.engine->width;
        for (size_t state = 0; state < width; state++) {
            rows[state] = jobs[state].phase == ABSORBING
                              ? next_block(&jobs[state], blocks[state], rate, domain, framed)
                              : zeros;
        }
        sponge.engine->absorb(sponge.lane, 0, rows, 0, rate);
        sponge.engine->permute(sponge.lane);
        for (size_t state = 0; state < width; state++) {
            if (jobs[state].phase != SQUEEZING) {
                continue;
            }
            squeeze_state(&jobs[state], &sponge, state);
            if (jobs[state].out_left > 0) {
                continue;
            }
            jobs[state].phase = IDLE;
            clear_state(&sponge, state);
            if (left.count > 0) {
                take_message(&jobs[state], &left, &out, out_size);
            } else {
                busy--;
            }
        }
    }
    qfl_zeroize(&sponge, sizeof sponge);
    qfl_zeroize(blocks, sizeof blocks);
    keccak_wipe_stack();
}
