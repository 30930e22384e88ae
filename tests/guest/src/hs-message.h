/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The numbered message that members exchange, the same over UDP and TCP. A checker finds it in
 * recorded frames by this layout (tests/support/channel.py); all numbers are little endian.
 */
#ifndef HS_MESSAGE_H
#define HS_MESSAGE_H

#include "hs-tag.h"

#include <string.h>

struct hs_message {
    char magic[8];   /* "HSCHAT01" */
    uint64_t nonce;  /* of the sender's tagged page */
    uint64_t number; /* from 1; each peer and protocol has numbers of its own */
    char sender[HS_NAME_SIZE];
    uint64_t check; /* FNV-1a over all bytes before it */
};
_Static_assert(sizeof(struct hs_message) == 64, "the checker finds messages by this layout");

#define HS_MESSAGE_MAGIC "HSCHAT01"

static inline uint64_t hs_message_check(const struct hs_message *message) {
    const uint8_t *bytes = (const uint8_t *)message;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < offsetof(struct hs_message, check); i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

static inline void hs_message_make(struct hs_message *message, const struct hs_tag_page *page,
                                   uint64_t number) {
    memcpy(message->magic, HS_MESSAGE_MAGIC, sizeof(message->magic));
    message->nonce = page->nonce;
    message->number = number;
    memcpy(message->sender, page->name, HS_NAME_SIZE);
    message->check = hs_message_check(message);
}

/* Whether `message` is a message at all, and undamaged. */
static inline bool hs_message_whole(const struct hs_message *message) {
    return memcmp(message->magic, HS_MESSAGE_MAGIC, sizeof(message->magic)) == 0 &&
           message->check == hs_message_check(message);
}

#endif
