// Packets between two ranks, on the connection they have met by: a few bytes each, and sometimes a
// descriptor (SCM_RIGHTS, unix(7)). They keep their bounds, and nothing here blocks.
//
// Thread rule: one thread at a time per connection and direction.
#pragma once

#include <cstddef>

#include "backends/shm/descriptor.h"

namespace khorus::backends::shm {

// `descriptor`: goes with it, unless -1. False, with errno, if it was not sent.
bool send_packet(int connection, const void* bytes, size_t size, int descriptor = -1);

// Receives one packet of `size` bytes, and the descriptor that came with it if there was one and
// this process may have more. 1: got it; 0: not yet; -1: something else, or the end.
int receive_packet(int connection, void* bytes, size_t size, Descriptor& passed);

}  // namespace khorus::backends::shm
