/* QFLARE C core: batches of post-quantum and Keccak operations over contiguous rows.
 *
 * C is a calculator here: no allocation, no threads, no I/O, no clock, no globals but the random
 * callback (random.c) and a thread's forced width (keccak_engine.c).  Row i of an array starts at
 * i * its row size.  Outputs come first, then inputs, then sizes.  Arguments are checked before any
 * output is touched.
 *
 * Copyright the QFLARE authors.  SPDX-License-Identifier: Apache-2.0
 */
#ifndef QFLARE_H
#define QFLARE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define QFL_MUST_CHECK __attribute__((warn_unused_result))
#else
#define QFL_MUST_CHECK
#endif

/* Visible between our own translation units only; the extension exports its init symbol alone. */
#define QFL_API

/* What a call says as a whole.  Per-row results use the same values in one byte. */
typedef enum qfl_status {
    QFL_OK = 0,
    QFL_ERR_COUNT = 1,    /* count is out of range; outputs untouched */
    QFL_ERR_ARGUMENT = 2, /* null pointer or impossible size; outputs untouched */
    QFL_ERR_BACKEND = 3,  /* liboqs reported a failure; the row is zero */
    QFL_ERR_ENTROPY = 4,  /* the system's random source failed; the row is zero */
    QFL_ERR_KEY = 5,      /* a key failed its check (FIPS 203 7.2, 7.3); the row is zero */
    QFL_ERR_SIGNATURE = 6 /* a signature does not verify */
} qfl_status;

/* Most rows one call takes; keeps every `count * size` far below SIZE_MAX even on 32 bits. */
#define QFL_BATCH_MAX ((size_t)65536)

/* ------------------------------------------------------------------------------------ memory */

/* Overwrite `size` bytes with zeros in a way the compiler may not remove. */
QFL_API void qfl_zeroize(void *memory, size_t size);

/* ------------------------------------------------------------------------- constant-time checks */

/* Under valgrind's memcheck (QFL_CT_CHECK), memory marked secret counts as uninitialised, so that a
 * branch or an index that depends on it is reported.  In every other build both are nothing. */
#ifdef QFL_CT_CHECK
#include <valgrind/memcheck.h>
#define QFL_CT_SECRET(memory, size) ((void)VALGRIND_MAKE_MEM_UNDEFINED((memory), (size)))
#define QFL_CT_PUBLIC(memory, size) ((void)VALGRIND_MAKE_MEM_DEFINED((memory), (size)))
#else
#define QFL_CT_SECRET(memory, size) ((void)0)
#define QFL_CT_PUBLIC(memory, size) ((void)0)
#endif

/* ------------------------------------------------------------------------------------ randomness */

/* Most bytes one call of qfl_random_bytes gives. */
#define QFL_RANDOM_MAX ((size_t)16777216)

/* Make liboqs draw from this file's source.  Called once at load; liboqs keeps the one pointer.
 *
 * Why: liboqs's own source ends the process when the system fails.  Ours zeroes the buffer and sets
 * a flag of this thread, which every batch function turns into QFL_ERR_ENTROPY and a zeroed row.
 */
QFL_API void qfl_random_install(void);

/* Fill `out` with `size` bytes from the system, or from this thread's input (below).
 *
 *   out     out     size bytes                                                           SECRET
 *   in      size    0 ... QFL_RANDOM_MAX
 *
 * QFL_ERR_COUNT    size out of range; output untouched
 * QFL_ERR_ENTROPY  the source failed or the input ran out; output all zero
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_random_bytes(uint8_t *out, size_t size);

/* From now on this thread draws the bytes of `input` in order; when they run out, drawing fails.
 * SAFETY: `input` must stay valid until qfl_random_input_end, on the same thread. */
QFL_API QFL_MUST_CHECK qfl_status qfl_random_input_begin(const uint8_t *input, size_t size);

/* Go back to the system's source on this thread; returns how many input bytes were not drawn. */
QFL_API size_t qfl_random_input_end(void);

/* Let the system's source fail (1) or work (0) on this thread alone.  For tests of the failure
 * path: it can only turn success into an error, never the other way. */
QFL_API void qfl_random_fail_for_test(int fail);

/* Between our own files: clear this thread's failure flag and its count of drawn bytes ... */
void qfl_random_watch(void);
/* ... and say since then: did drawing fail, and how many bytes were drawn. */
int qfl_random_failed(void);
size_t qfl_random_drawn(void);
/* Draw `count` rows of `size` bytes at once, as if one after the other: returns how many came, from the first on, and
 * leaves the others zero. */
size_t qfl_random_rows(uint8_t *out, size_t size, size_t count);

/* ---------------------------------------------------------------------- ML-KEM-1024 (FIPS 203) */

#define QFL_KEM1024_EK_BYTES 1568
#define QFL_KEM1024_DK_BYTES 3168
#define QFL_KEM1024_CT_BYTES 1568
#define QFL_KEM1024_SS_BYTES 32
#define QFL_KEM1024_SEED_BYTES 64

/* Generate `count` key pairs with fresh randomness.
 *
 *   out     ek      count x QFL_KEM1024_EK_BYTES, row-major
 *   out     dk      count x QFL_KEM1024_DK_BYTES, row-major                              SECRET
 *   out     status  count bytes, a qfl_status each; the pair of a failed row is all zero
 *   in      count   0 ... QFL_BATCH_MAX
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  a null pointer; outputs untouched
 *
 * Reentrant. Source: FIPS 203, Algorithm 19.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_kem1024_keygen_batch(uint8_t *ek, uint8_t *dk, uint8_t *status, size_t count);

/* Generate `count` key pairs from seeds.
 *
 *   out     ek, dk, status   as above
 *   in      seeds   count x QFL_KEM1024_SEED_BYTES, d || z                               SECRET
 *
 * Reentrant. Source: FIPS 203, Algorithm 16.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_kem1024_keygen_seeded_batch(uint8_t *ek, uint8_t *dk, uint8_t *status, const uint8_t *seeds, size_t count);

/* Encapsulate once to each of `count` keys.
 *
 *   out     ct      count x QFL_KEM1024_CT_BYTES, row-major
 *   out     ss      count x QFL_KEM1024_SS_BYTES, row-major                              SECRET
 *   out     status  count bytes: QFL_ERR_KEY where the key fails the modulus check of section 7.2
 *   in      ek      count x QFL_KEM1024_EK_BYTES
 *
 * Reentrant. Source: FIPS 203, Algorithm 20.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_kem1024_encaps_batch(uint8_t *ct, uint8_t *ss, uint8_t *status, const uint8_t *ek, size_t count);

/* Decapsulate row by row, each with its own key.  A wrong ciphertext is no failure (implicit
 * rejection): its secret is pseudorandom.
 *
 *   out     ss      count x QFL_KEM1024_SS_BYTES, row-major                              SECRET
 *   out     status  count bytes: QFL_ERR_KEY where the key fails the hash check of section 7.3
 *   in      dk      count x QFL_KEM1024_DK_BYTES                                         SECRET
 *   in      ct      count x QFL_KEM1024_CT_BYTES
 *
 * Reentrant. Source: FIPS 203, Algorithm 21.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_kem1024_decaps_batch(uint8_t *ss, uint8_t *status, const uint8_t *dk, const uint8_t *ct, size_t count);

/* Decapsulate `count` ciphertexts under one key.
 *
 *   out     ss      count x QFL_KEM1024_SS_BYTES, row-major                              SECRET
 *   in      dk      QFL_KEM1024_DK_BYTES                                                 SECRET
 *   in      ct      count x QFL_KEM1024_CT_BYTES
 *
 * QFL_ERR_KEY       the key fails the hash check of section 7.3; outputs all zero
 * QFL_ERR_BACKEND   liboqs failed; outputs all zero
 *
 * Reentrant. Source: FIPS 203, Algorithm 21.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_kem1024_decaps_one_key(uint8_t *ss, const uint8_t *dk, const uint8_t *ct, size_t count);

/* ML-KEM-1024 of csrc/lanes: the same results as above for many items at once, in vectors of AVX-512 (F, BW,
 * VNNI, VBMI, VBMI2), of AVX2, or of the compiler's own on any little-endian machine.  Scratch memory is the caller's,
 * at any address, one for each call that runs; all that was used is zero afterwards. */
#define QFL_KEM1024_CONTEXT_BYTES 24704
#define QFL_KEM1024_SCRATCH_BYTES 458752

/* How many items this thread's calls of the engine take together: 32, 16, 8 where the processor (or
 * qfl_lanes_force) has no wide vectors, or 0 where there is no engine (QFLARE_LANES=OFF, big-endian machines). */
QFL_API size_t qfl_kem1024_lanes_items(void);

/* Generate `count` key pairs with fresh randomness, drawn once for as many rows as go together.
 *
 *   out     scratch  QFL_KEM1024_SCRATCH_BYTES
 *   other arguments and errors as qfl_kem1024_keygen_batch
 *
 * QFL_ERR_BACKEND   qfl_kem1024_lanes_items is 0; outputs untouched
 *
 * Reentrant. Source: FIPS 203, Algorithms 13, 16 and 19.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_kem1024_lanes_keygen_batch(uint8_t *ek, uint8_t *dk, uint8_t *status,
                                                                 uint8_t *scratch, size_t count);

/* Generate `count` key pairs from seeds; arguments and errors as above and of qfl_kem1024_keygen_seeded_batch.
 *
 * Reentrant. Source: FIPS 203, Algorithms 13 and 16.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_kem1024_lanes_keygen_seeded_batch(uint8_t *ek, uint8_t *dk, uint8_t *status,
                                                                        uint8_t *scratch, const uint8_t *seeds,
                                                                        size_t count);

/* Encapsulate once to each of `count` keys; arguments and errors as above and of qfl_kem1024_encaps_batch.
 * Randomness is drawn for good keys alone, once for as many rows as go together.
 *
 * Reentrant. Source: FIPS 203, Algorithms 14, 17 and 20, section 7.2.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_kem1024_lanes_encaps_batch(uint8_t *ct, uint8_t *ss, uint8_t *status,
                                                                 uint8_t *scratch, const uint8_t *ek, size_t count);

/* Decapsulate row by row, each with its own key; arguments and errors as above and of qfl_kem1024_decaps_batch.
 *
 * Reentrant. Source: FIPS 203, Algorithms 15, 18 and 21, section 7.3.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_kem1024_lanes_decaps_batch(uint8_t *ss, uint8_t *status, uint8_t *scratch,
                                                                 const uint8_t *dk, const uint8_t *ct, size_t count);

/* Expand a decapsulation key for any number of calls of qfl_kem1024_lanes_decaps.
 *
 *   out     context  QFL_KEM1024_CONTEXT_BYTES, at any address, not to be moved           SECRET
 *   in      dk       QFL_KEM1024_DK_BYTES                                                 SECRET
 *
 * QFL_ERR_ARGUMENT  a null pointer; output untouched
 * QFL_ERR_KEY       the key fails the hash check of section 7.3; output all zero
 *
 * Reentrant. Source: FIPS 203, Algorithm 13, steps 3 to 7, and Algorithm 11.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_kem1024_lanes_expand(uint8_t *context, const uint8_t *dk);

/* Decapsulate `count` ciphertexts under one expanded key.
 *
 *   out     ss       count x QFL_KEM1024_SS_BYTES, row-major                              SECRET
 *   out     scratch  QFL_KEM1024_SCRATCH_BYTES
 *   in      context  as expanded                                                          SECRET
 *   in      ct       count x QFL_KEM1024_CT_BYTES
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  a null pointer; outputs untouched
 * QFL_ERR_BACKEND   qfl_kem1024_lanes_items is 0; outputs untouched
 *
 * Reentrant. Source: FIPS 203, Algorithms 18 and 21.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_kem1024_lanes_decaps(uint8_t *ss, uint8_t *scratch, const uint8_t *context,
                                                           const uint8_t *ct, size_t count);

/* Check encapsulation keys: every coefficient is below q = 3329 (FIPS 203, section 7.2).
 *
 *   out     status  count bytes: QFL_OK or QFL_ERR_KEY
 *   in      ek      count x QFL_KEM1024_EK_BYTES
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_kem1024_check_ek_batch(uint8_t *status, const uint8_t *ek, size_t count);

/* Check decapsulation keys: the hash inside is that of the encapsulation key inside (section 7.3).
 *
 *   out     status  count bytes: QFL_OK or QFL_ERR_KEY
 *   in      dk      count x QFL_KEM1024_DK_BYTES                                         SECRET
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_kem1024_check_dk_batch(uint8_t *status, const uint8_t *dk, size_t count);

/* --------------------------------------------------------------------------- ML-DSA (FIPS 204) */

#define QFL_MLDSA_SEED_BYTES 32
#define QFL_MLDSA_CONTEXT_MAX 255
#define QFL_MLDSA44_PK_BYTES 1312
#define QFL_MLDSA44_SK_BYTES 2560
#define QFL_MLDSA44_SIG_BYTES 2420
#define QFL_MLDSA87_PK_BYTES 2592
#define QFL_MLDSA87_SK_BYTES 4896
#define QFL_MLDSA87_SIG_BYTES 4627

/* The functions below take `set`, 44 or 87; PK, SK and SIG stand for that set's sizes.
 * Messages lie behind each other in `messages`; `sizes` holds count sizes in bytes, whose sum is
 * messages_size, else QFL_ERR_ARGUMENT. */

/* Generate `count` key pairs with fresh randomness.
 *
 *   out     pk      count x PK, row-major
 *   out     sk      count x SK, row-major                                                SECRET
 *   out     status  count bytes; the pair of a failed row is all zero
 *
 * Reentrant. Source: FIPS 204, Algorithm 1.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_mldsa_keygen_batch(uint8_t *pk, uint8_t *sk, uint8_t *status, int set, size_t count);

/* Generate `count` key pairs from seeds, by letting liboqs draw the seed as its randomness.
 *
 *   in      seeds   count x QFL_MLDSA_SEED_BYTES (xi)                                    SECRET
 *   out     status  QFL_ERR_BACKEND where liboqs did not draw exactly the seed's bytes
 *
 * Reentrant. Source: FIPS 204, Algorithm 6.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_mldsa_keygen_seeded_batch(uint8_t *pk, uint8_t *sk, uint8_t *status, const uint8_t *seeds, int set, size_t count);

/* Sign `count` messages, hedged and pure, with one context for all.
 *
 *   out     sig     count x SIG, row-major
 *   out     status  count bytes; the signature of a failed row is all zero
 *   in      sk      sk_count x SK; sk_count is count, or 1 for a key shared by all       SECRET
 *   in      context context_size bytes, at most QFL_MLDSA_CONTEXT_MAX; null if empty
 *
 * Reentrant. Source: FIPS 204, Algorithm 2.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_mldsa_sign_batch(uint8_t *sig, uint8_t *status, const uint8_t *sk, const uint8_t *messages,
                     const uint64_t *sizes, const uint8_t *context, int set, size_t count, size_t sk_count,
                     size_t messages_size, size_t context_size);

/* Verify `count` signatures.
 *
 *   out     status  count bytes: QFL_OK or QFL_ERR_SIGNATURE
 *   in      pk      pk_count x PK; pk_count is count, or 1 for a key shared by all
 *   in      sig     count x SIG
 *
 * Reentrant. Source: FIPS 204, Algorithm 3.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_mldsa_verify_batch(uint8_t *status, const uint8_t *pk, const uint8_t *messages, const uint64_t *sizes,
                       const uint8_t *sig, const uint8_t *context, int set, size_t count, size_t pk_count,
                       size_t messages_size, size_t context_size);

/* ML-DSA-44 verification of csrc/lanes, on a processor with AVX-512 (F, BW): the same results as
 * above for set 44.  Everything it takes is public. */
#define QFL_MLDSA44_SCRATCH_BYTES 65536

/* How many signatures this thread's calls of the engine hash together: 8, or 0 where the processor
 * (or qfl_lanes_force) has none. */
QFL_API size_t qfl_mldsa44_lanes_items(void);

/* Verify `count` signatures.
 *
 *   out     status   count bytes: QFL_OK or QFL_ERR_SIGNATURE
 *   out     scratch  QFL_MLDSA44_SCRATCH_BYTES, at any address
 *   in      the others as above
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  as above, or no scratch memory; outputs untouched
 * QFL_ERR_BACKEND   qfl_mldsa44_lanes_items is 0; outputs untouched
 *
 * Reentrant, one scratch memory for each call that runs. Source: FIPS 204, Algorithms 3 and 8.
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_mldsa44_lanes_verify(uint8_t *status, uint8_t *scratch, const uint8_t *pk, const uint8_t *messages,
                         const uint64_t *sizes, const uint8_t *sig, const uint8_t *context, size_t count,
                         size_t pk_count, size_t messages_size, size_t context_size);

/* ------------------------------------------------------------------------------------- self-test */

/* What the load-time self-test found; 1 is good, 0 is bad. */
typedef struct qfl_selftest_report {
    int kem;          /* ML-KEM-1024 known answers: keygen, encaps, decaps, implicit rejection */
    int sig44;        /* ML-DSA-44 known answers: keygen, sign, verify, refusal */
    int sig87;        /* the same for ML-DSA-87 */
    int random_used;  /* liboqs draws through our callback, and its failure is seen */
    int seeded_sig44; /* liboqs draws exactly the 32 seed bytes and gives the standard's key */
    int seeded_sig87;
} qfl_selftest_report;

/* Run the known-answer tests against the liboqs at hand; about half a millisecond.
 *
 * Leaves no secret behind. Fixed inputs only.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_selftest(qfl_selftest_report *report);

/* The version text of the liboqs that is loaded now. */
QFL_API const char *qfl_liboqs_version(void);

/* How the build found liboqs and what it can do; text fixed at configure time. */
QFL_API const char *qfl_liboqs_origin(void);
QFL_API const char *qfl_liboqs_features(void);

/* ------------------------------------------------------------------------------------ keccak */
/* SHA-3, KMAC256 and the time-bucket KDF (keccak.c, sha3.c, kmac.c, bucket.c).  All calls below
 * are reentrant, take 0 to QFL_BATCH_MAX rows, and wipe what they leave on the
 * stack.  Hashing cannot fail for one row alone, so there is no per-row status. */

#define QFL_SHA3_256_BYTES 32
#define QFL_SHA3_512_BYTES 64
#define QFL_COLUMNS_MAX 64        /* most columns one call takes */
#define QFL_KMAC_CUSTOM_MAX 256   /* most bytes of a customization string S */
#define QFL_CHAIN_KEY_BYTES 64    /* a session's secret for one bucket, PROTOCOL R1 */
#define QFL_SESSION_ID_BYTES 16   /* sid, PROTOCOL N2 */
#define QFL_MESSAGE_KEY_BYTES 64  /* MK, PROTOCOL R2 */
#define QFL_CHAIN_STEPS_MAX 288   /* most buckets one row may go forward, PROTOCOL R5 */
#define QFL_PURPOSE_MAX 64        /* most bytes of a purpose, PROTOCOL N2 */

/* One field of every row of a batch: row i is `width` bytes at data + i * stride.  A stride of 0
 * says that all rows share the one value.  Data may be null only where width is 0. */
typedef struct qfl_column {
    const uint8_t *data;
    size_t stride; /* bytes; 0, or at least width */
    size_t width;  /* bytes */
} qfl_column;

/* How many Keccak states this thread's batch calls advance at once: 8 (AVX-512), 4 (AVX2) or 1,
 * the widest that processor and system have. */
QFL_API unsigned qfl_lanes_width(void);

/* Let this thread use another width, for tests of every path; 0 goes back to the widest.  All
 * widths give the same bytes.
 *
 * QFL_ERR_ARGUMENT  no such width, or wider than this machine; nothing changed
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_lanes_force(unsigned width);

/* Hash one message with SHA3-256.
 *
 *   out     out     QFL_SHA3_256_BYTES
 *   in      data    size bytes; null only if size is 0
 *
 * Source: FIPS 202, section 6.1.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_sha3_256(uint8_t *out, const uint8_t *data, size_t size);

/* Hash `count` messages, which lie behind each other, with SHA3-512.
 *
 *   out     out        count x QFL_SHA3_512_BYTES, row-major
 *   in      data       data_size bytes; null only if data_size is 0
 *   in      sizes      count sizes in bytes; their sum is data_size
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  null pointer, or the sizes do not add up to data_size; outputs untouched
 *
 * Source: FIPS 202, section 6.1.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_sha3_512_batch(uint8_t *out, const uint8_t *data,
                                                     const uint64_t *sizes, size_t data_size,
                                                     size_t count);

/* Hash `count` messages, which lie behind each other, to `out_size` bytes each with SHAKE256.
 *
 *   out     out        count x out_size, row-major
 *   in      out_size   at least 1
 *   other arguments and errors as qfl_sha3_512_batch
 *
 * Source: FIPS 202, section 6.2.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_shake256_batch(uint8_t *out, size_t out_size,
                                                     const uint8_t *data, const uint64_t *sizes,
                                                     size_t data_size, size_t count);

/* Compute H(x, y, ...) of PROTOCOL N1 for `count` rows: SHA3-512 over the columns in order, each
 * value preceded by its width as u32, big-endian.
 *
 *   out     out            count x QFL_SHA3_512_BYTES, row-major
 *   in      columns        column_count columns, 1 to QFL_COLUMNS_MAX, each width below 2^32
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  null pointer, bad column or column count; outputs untouched
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_transcript_batch(uint8_t *out, const qfl_column *columns,
                                                       size_t column_count, size_t count);

/* The same for rows of different shapes: row i has part_counts[i] parts; all parts of all rows lie
 * behind each other in `data`, their sizes likewise in `sizes`.
 *
 *   out     out           count x QFL_SHA3_512_BYTES, row-major
 *   in      data          data_size bytes; null only if data_size is 0
 *   in      sizes         part_total sizes in bytes, each below 2^32; their sum is data_size
 *   in      part_counts   count numbers of parts; their sum is part_total
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  null pointer, or the sums do not hold; outputs untouched
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_transcript_var_batch(uint8_t *out, const uint8_t *data,
                                                           const uint64_t *sizes,
                                                           const uint64_t *part_counts,
                                                           size_t data_size, size_t part_total,
                                                           size_t count);

/* Compute KMAC256(K, X, L, S) for `count` rows; X is the columns in order, with nothing between.
 *
 *   out     out           count x out_size, row-major   SECRET
 *   in      key           one column, any width         SECRET
 *   in      columns       column_count columns, 0 to QFL_COLUMNS_MAX
 *   in      custom        S, custom_size bytes, at most QFL_KMAC_CUSTOM_MAX, the same for all rows
 *   in      out_size      L / 8, at least 1
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  null pointer, bad column or size; outputs untouched
 *
 * Source: SP 800-185, section 4 (not the XOF).
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_kmac256_batch(uint8_t *out, const qfl_column *key,
                                                    const qfl_column *columns,
                                                    const uint8_t *custom, size_t out_size,
                                                    size_t column_count, size_t custom_size,
                                                    size_t count);

/* Name the bucket of `count` points in time: floor(time / width), PROTOCOL A2.
 *
 *   out     buckets   count indexes since the Unix epoch
 *   in      times_s   count times, whole seconds since the Unix epoch
 *   in      width_s   seconds a bucket, at least 1
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  null pointer or width 0; outputs untouched
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_bucket_of_batch(uint64_t *buckets, const uint64_t *times_s,
                                                      uint32_t width_s, size_t count);

/* Say when a bucket begins and when the next one does, in seconds since the Unix epoch.
 *
 *   out     first_s   first second inside
 *   out     end_s     first second of the next bucket
 *
 * QFL_ERR_ARGUMENT  null pointer, width 0, or an end beyond 2^64 - 1; outputs untouched
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_bucket_range(uint64_t *first_s, uint64_t *end_s,
                                                   uint64_t bucket, uint32_t width_s);

/* Ratchet `count` chain keys forward, each from its own bucket to `to_bucket`; every step is
 * CK_{b+1} = KMAC256(CK_b, b+1 || sid, 512, S).  Zero steps copy the key.
 *
 *   out     out          count x QFL_CHAIN_KEY_BYTES   SECRET; may be `chain_keys` itself
 *   in      chain_keys   count x QFL_CHAIN_KEY_BYTES   SECRET
 *   in      sids         count x QFL_SESSION_ID_BYTES
 *   in      from         count buckets, at most to_bucket, at least to_bucket - QFL_CHAIN_STEPS_MAX
 *   in      custom       S, "QFX1 bucket" in the protocol
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  null pointer, bad size, or a row that would go back or too far; untouched
 *
 * Source: PROTOCOL R1, R5.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_chain_advance_batch(uint8_t *out, const uint8_t *chain_keys,
                                                          const uint8_t *sids, const uint64_t *from,
                                                          const uint8_t *custom, uint64_t to_bucket,
                                                          size_t custom_size, size_t count);

/* Derive the message keys of `count` sessions for one bucket, direction and purpose:
 * MK = KMAC256(CK_b, b || direction || purpose, 512, S).
 *
 *   out     out          count x QFL_MESSAGE_KEY_BYTES   SECRET
 *   in      chain_keys   count x QFL_CHAIN_KEY_BYTES     SECRET
 *   in      purpose      purpose_size bytes, 1 to QFL_PURPOSE_MAX
 *   in      custom       S, "QFX1 key" in the protocol
 *   in      direction    1 device to server, 2 back
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  null pointer, bad size or direction; outputs untouched
 *
 * Source: PROTOCOL R2.
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_message_key_batch(uint8_t *out, const uint8_t *chain_keys,
                                                        const uint8_t *purpose,
                                                        const uint8_t *custom, uint64_t bucket,
                                                        uint8_t direction, size_t purpose_size,
                                                        size_t custom_size, size_t count);

/* ------------------------------------------------------------------------------ entries of the log */

#define QFL_LEAF_HASH_BYTES 32  /* SHA-256 */
#define QFL_ENTRY_SALT_BYTES 32 /* of an entry of type 3, docs/audit.md */
#define QFL_TENANT_BYTES 16

/* Make the leaves of `count` entries of type 3 of one tenant: leaf data = head || row || fields, where row is the digest
 * of what the entry's row stores, and fields the hash over the commitments to tenant, device and each field of the data.
 *
 *   out     leaves         leaves_size bytes: the leaf data behind each other, each 64 bytes longer than its head
 *   out     leaf_hashes    count x QFL_LEAF_HASH_BYTES, row-major
 *   in      tenant         QFL_TENANT_BYTES
 *   in      salts          count x QFL_ENTRY_SALT_BYTES                                   SECRET
 *   in      data           data_size bytes: for each entry its head (leaf data up to the severity), what its row stores,
 *                          its device's name (may be empty), then name and value of each field in order   SECRET
 *   in      sizes          part_count sizes of these parts, each below 2^32; their sum is data_size
 *   in      field_counts   count numbers of fields; 3 + 2 x each are an entry's parts, in sum part_count
 *
 * QFL_ERR_COUNT     count out of range; outputs untouched
 * QFL_ERR_ARGUMENT  null pointer, or the sums do not hold; outputs untouched
 *
 * Source: docs/audit.md, "Entry type 3".
 */
QFL_API QFL_MUST_CHECK qfl_status
qfl_entry_leaves_batch(uint8_t *leaves, uint8_t *leaf_hashes, const uint8_t *tenant, const uint8_t *salts,
                       const uint8_t *data, const uint64_t *sizes, const uint64_t *field_counts, size_t data_size,
                       size_t part_count, size_t leaves_size, size_t count);

/* Let this thread's SHA-256 do without the processor's instructions for it (1) or use them again (0): for tests of both
 * ways, which give the same bytes.
 *
 * QFL_ERR_ARGUMENT  0 where the processor has none; it goes on without
 */
QFL_API QFL_MUST_CHECK qfl_status qfl_sha256_force(int plain);

#endif /* QFLARE_H */
