// Codec: messages to bytes and back.
//
// Pure functions, thread-safe. Decoding trusts nothing: every count is bounded by Limits and by the
// bytes that are left, every enum by its range, nothing is allocated before its size is checked,
// trailing bytes are an error. FORMAT.md documents the bytes.
#pragma once

#include <cstddef>
#include <span>

#include "core/wire/message.h"
#include "khorus/status.h"

namespace khorus::wire {

// Appends nothing else: one frame, one byte string.
Bytes encode(const Frame& frame);

// Never less than what these take in a frame; quick.
size_t size_bound(const Contribution& contribution) noexcept;
size_t size_bound(const Response& response) noexcept;

// InvalidArgument says what is wrong and at which byte offset.
Result<Frame> decode(std::span<const std::byte> bytes);

}  // namespace khorus::wire
