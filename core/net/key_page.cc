// See key_page.h; madvise(2), mlock(2).
#include "core/net/key_page.h"

#include <sys/mman.h>

#include <new>

#include "core/net/mac.h"

namespace khorus::net {
namespace {

constexpr size_t kPageBytes = 4096;

}  // namespace

KeyPage::KeyPage() {
  void* const page =
      ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw std::bad_alloc();
  // What a kernel or a limit does not grant makes the key no less usable.
  static_cast<void>(::madvise(page, kPageBytes, MADV_DONTDUMP));
  static_cast<void>(::madvise(page, kPageBytes, MADV_WIPEONFORK));
  static_cast<void>(::mlock(page, kPageBytes));
  page_ = static_cast<std::byte*>(page);
}

KeyPage::~KeyPage() {
  wipe(bytes());
  ::munmap(page_, kPageBytes);
}

}  // namespace khorus::net
