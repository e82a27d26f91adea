/* Keccak-f[1600], one state or several at a time, and the sponge on it: private to csrc.
 *
 * An engine permutes 1, 4 or 8 states at once.  A sponge holds as many states as its engine has;
 * all of them are at the same place of the same shape of message, so they run in lockstep: rows of
 * equal width (columns, derivations) go through here, rows of different sizes through messages.h.
 * Every engine gives the same bytes.
 *
 * Source: FIPS 202, sections 3.2 (permutation), 4 (sponge), 6 (domain bits).
 */
#ifndef QFL_KECCAK_H
#define QFL_KECCAK_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define KECCAK_HAVE_WIDE 1
#else
#define KECCAK_HAVE_WIDE 0
#endif

/* The build may leave the engines of csrc/lanes out: what has no batches needs Keccak alone. */
#ifndef QFL_LANES
#define QFL_LANES 1
#endif
#define LANES_HAVE_WIDE (KECCAK_HAVE_WIDE && QFL_LANES)

#define KECCAK_WIDTH_MAX 8u /* most states of an engine */
#define KECCAK_LANES_IN_STATE 25u
#define KECCAK_RATE_256 136u /* capacity 512: SHA3-256, SHAKE256, cSHAKE256, KMAC256 */
#define KECCAK_RATE_512 72u  /* capacity 1024: SHA3-512 */
#define KECCAK_RATE_MAX KECCAK_RATE_256

/* Domain separation bits and the first padding bit, FIPS 202 B.2, SP 800-185 3.3. */
#define KECCAK_DOMAIN_SHA3 0x06u
#define KECCAK_DOMAIN_SHAKE 0x1fu
#define KECCAK_DOMAIN_CSHAKE 0x04u

/* Lane i of state w is word i * width + w, and the first word is aligned to 64 bytes.  Rows are as
 * many pointers as the width; `size` bytes from `from` on are taken.  Absorbing starts at byte `at`
 * and extracting at byte 0 of a block; neither goes beyond it. */
typedef struct keccak_engine {
    size_t width;
    void (*permute)(uint64_t *lane); /* 24 rounds.  Constant time: no branch, no table index */
    void (*add)(uint64_t *lane, uint64_t word); /* xor `word` into one lane, the first, of every state */
    void (*absorb)(uint64_t *lane, size_t at, const uint8_t *const *rows, size_t from, size_t size);
    void (*extract)(const uint64_t *lane, uint8_t *const *rows, size_t from, size_t size);
} keccak_engine;

extern const uint64_t keccak_round_constant[24];
extern const keccak_engine keccak_engine_x1;
#if KECCAK_HAVE_WIDE
extern const keccak_engine keccak_engine_x4; /* AVX2 */
extern const keccak_engine keccak_engine_x8; /* AVX-512 */
#endif

/* The widest engine that this machine has and this thread allows (qfl_lanes_force), for `rows`. */
const keccak_engine *keccak_engine_for(size_t rows);

/* Rows that go through an engine together. */
typedef struct {
    const keccak_engine *engine;
    size_t first;
    size_t live; /* 1 to the width; states beyond repeat the first row, and write its bytes again */
} keccak_group;

/* The group that begins at row `first` of `count`; the next one begins at first + live. */
keccak_group keccak_group_at(size_t first, size_t count);

static inline size_t keccak_group_row(const keccak_group *group, size_t state)
{
    return group->first + (state < group->live ? state : 0);
}

typedef struct {
    _Alignas(64) uint64_t lane[KECCAK_LANES_IN_STATE * KECCAK_WIDTH_MAX]; /* SECRET whenever the input is */
    const keccak_engine *engine;
    size_t rate; /* bytes, a multiple of 8 */
    size_t at;   /* bytes of the current block already used, < rate */
} keccak_sponge;

void keccak_init(keccak_sponge *sponge, const keccak_engine *engine, size_t rate);
/* Make every state of `engine` a copy of the one state that the sponge has. */
void keccak_broadcast(keccak_sponge *sponge, const keccak_engine *engine);
/* Copy what of `from` its engine uses. */
void keccak_copy(keccak_sponge *sponge, const keccak_sponge *from);
/* Absorb `size` bytes of each row. */
void keccak_absorb(keccak_sponge *sponge, const uint8_t *const *rows, size_t size);
/* Absorb the same bytes into every state. */
void keccak_absorb_shared(keccak_sponge *sponge, const uint8_t *data, size_t size);
/* Zero-fill to the end of the block, as `bytepad` does; nothing if at a block's start. */
void keccak_absorb_pad(keccak_sponge *sponge);
/* Close the input with `domain` and pad10*1; squeezing may begin.  Call once. */
void keccak_finish(keccak_sponge *sponge, uint8_t domain);
/* Write the first `size` bytes of output to each row.  Call once. */
void keccak_squeeze(keccak_sponge *sponge, uint8_t *const *rows, size_t size);
/* Overwrite the stack that the calls above used; once at the end of a batch. */
void keccak_wipe_stack(void);

#endif
