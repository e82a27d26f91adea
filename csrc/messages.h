/* Hashing messages of any sizes, several at a time; private to csrc. */
#ifndef QFL_MESSAGES_H
#define QFL_MESSAGES_H

#include "keccak.h"

/* Messages behind each other in `data`.  Without `part_counts`, sizes[i] is the size of message i.
 * With it, message i has part_counts[i] parts, whose sizes are the next ones in `sizes`, and each
 * part is preceded by its size as u32, big-endian (PROTOCOL N1). */
typedef struct {
    const uint8_t *data;
    const uint64_t *sizes;
    const uint64_t *part_counts;
    size_t count;
} messages;

/* Hash each message to out_size bytes, row-major; wipes what it leaves on the stack. */
void messages_hash(uint8_t *out, size_t out_size, const messages *from, size_t rate, uint8_t domain);

#endif
