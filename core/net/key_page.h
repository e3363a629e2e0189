// KeyPage: the 32 bytes of a job key on a page of their own, which the kernel keeps out of core
// dumps (MADV_DONTDUMP), out of swap (mlock, as far as the limit on locked memory goes) and out of
// forked children (MADV_WIPEONFORK, Linux 4.14: they see zeros). Wiped when it is destroyed.
//
// Thread rule: a value in shared_ptr<const KeyPage> is read by any thread.
#pragma once

#include <cstddef>
#include <span>

namespace khorus::net {

class KeyPage {
 public:
  static constexpr size_t kBytes = 32;

  // All zero. Throws std::bad_alloc when there is no memory.
  KeyPage();
  ~KeyPage();
  KeyPage(const KeyPage&) = delete;
  KeyPage& operator=(const KeyPage&) = delete;

  std::span<std::byte, kBytes> bytes() noexcept {
    return std::span<std::byte, kBytes>(page_, kBytes);
  }
  std::span<const std::byte, kBytes> bytes() const noexcept {
    return std::span<const std::byte, kBytes>(page_, kBytes);
  }

 private:
  std::byte* page_;
};

}  // namespace khorus::net
