/* The sponge over any Keccak engine.
 *
 * CT: every branch here is on sizes and places, which are public.
 *
 * Source: FIPS 202, section 4.
 */
#include "keccak.h"
#include "qflare.h"

#include <string.h>

static void permute(keccak_sponge *sponge)
{
    sponge->engine->permute(sponge->lane);
    sponge->at = 0;
}

/* The same word into one lane of every state. */
static void add_word(keccak_sponge *sponge, size_t lane, uint64_t word)
{
    sponge->engine->add(sponge->lane + lane * sponge->engine->width, word);
}

void keccak_init(keccak_sponge *sponge, const keccak_engine *engine, size_t rate)
{
    for (size_t i = 0; i < KECCAK_LANES_IN_STATE * engine->width; i++) {
        sponge->lane[i] = 0;
    }
    sponge->engine = engine;
    sponge->rate = rate;
    sponge->at = 0;
}

void keccak_broadcast(keccak_sponge *sponge, const keccak_engine *engine)
{
    const size_t width = engine->width;
    for (size_t i = KECCAK_LANES_IN_STATE; i-- > 0;) { /* from the end: a word moves up or stays */
        const uint64_t word = sponge->lane[i];
        for (size_t state = 0; state < width; state++) {
            sponge->lane[i * width + state] = word;
        }
    }
    sponge->engine = engine;
}

void keccak_copy(keccak_sponge *sponge, const keccak_sponge *from)
{
    memcpy(sponge->lane, from->lane, KECCAK_LANES_IN_STATE * from->engine->width * sizeof *from->lane);
    sponge->engine = from->engine;
    sponge->rate = from->rate;
    sponge->at = from->at;
}

void keccak_absorb(keccak_sponge *sponge, const uint8_t *const *rows, size_t size)
{
    for (size_t done = 0; done < size;) {
        const size_t room = sponge->rate - sponge->at;
        const size_t take = size - done < room ? size - done : room;
        sponge->engine->absorb(sponge->lane, sponge->at, rows, done, take);
        sponge->at += take;
        done += take;
        if (sponge->at == sponge->rate) {
            permute(sponge);
        }
    }
}

void keccak_absorb_shared(keccak_sponge *sponge, const uint8_t *data, size_t size)
{
    while (size > 0) {
        /* As many bytes as the lane has room for, so that no word is split. */
        const size_t place = sponge->at % 8;
        const size_t take = size < 8 - place ? size : 8 - place;
        uint64_t word = 0;
        for (size_t i = 0; i < take; i++) {
            word |= (uint64_t)*data++ << (8 * (place + i));
        }
        add_word(sponge, sponge->at / 8, word);
        sponge->at += take;
        size -= take;
        if (sponge->at == sponge->rate) {
            permute(sponge);
        }
    }
}

void keccak_absorb_pad(keccak_sponge *sponge)
{
    if (sponge->at != 0) {
        permute(sponge);
    }
}

void keccak_finish(keccak_sponge *sponge, uint8_t domain)
{
    add_word(sponge, sponge->at / 8, (uint64_t)domain << (8 * (sponge->at % 8)));
    add_word(sponge, sponge->rate / 8 - 1, (uint64_t)0x80u << 56);
    permute(sponge);
}

void keccak_squeeze(keccak_sponge *sponge, uint8_t *const *rows, size_t size)
{
    for (size_t done = 0; done < size;) {
        const size_t take = size - done < sponge->rate ? size - done : sponge->rate;
        if (done > 0) {
            permute(sponge);
        }
        sponge->engine->extract(sponge->lane, rows, done, take);
        done += take;
    }
}

/* What the permutation spills is on the stack below its callers, where no name reaches it; the
 * same depth of stack, written over, is what a caller can do.  A round's 50 vectors of 64 bytes and
 * the frames between take under 4 KiB; the dynamic linker, when it binds memset at its first call,
 * saves the vector registers up to 3 KiB down. */
__attribute__((noinline)) void keccak_wipe_stack(void)
{
    uint8_t below[8192];
    qfl_zeroize(below, sizeof below);
}
