// The status page's bytes; see status_page.h.
#include "core/base/status_page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <span>

namespace khorus::base {

struct StatusPageLayout {
  uint64_t magic;
  std::atomic<uint64_t> operations;  // the current operation text is in slot operations % 2
  char operation[2][256];            // each ends with a NUL
  std::atomic<uint32_t> failed;      // 1 once the fields below are whole
  int32_t lost_rank;
  char failure[512];
};

namespace {

constexpr size_t kPageBytes = 4096;
constexpr uint64_t kMagic = 0x3130'5355'524f'484b;  // "KHORUS01", little endian
static_assert(sizeof(StatusPageLayout) <= kPageBytes);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

void copy_text(std::string_view text, std::span<char> to) noexcept {
  const size_t length = std::min(text.size(), to.size() - 1);
  std::memcpy(to.data(), text.data(), length);
  to[length] = '\0';
}

// The page can be written by the rank's whole process tree: nothing on it is believed.
std::string printable(std::span<const char> from) {
  std::string text;
  for (const char c : from) {
    if (c == '\0') break;
    const auto byte = static_cast<unsigned char>(c);
    text += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  return text;
}

Status failed_call(const char* call) {
  return Status(StatusCode::kUnavailable,
                std::string("status page: ") + call + " failed: " + std::strerror(errno));
}

}  // namespace

StatusPage::~StatusPage() {
  if (page_) ::munmap(page_, kPageBytes);
}

Result<int> StatusPage::create_descriptor() {
  const int descriptor = ::memfd_create("khorus-status", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return failed_call("memfd_create");
  StatusPageLayout first{};
  first.magic = kMagic;
  const bool made =
      ::ftruncate(descriptor, kPageBytes) == 0 &&
      ::pwrite(descriptor, &first, sizeof(first), 0) == static_cast<ssize_t>(sizeof(first)) &&
      ::fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
  if (made) return descriptor;
  const Status status = failed_call("preparing a memfd");
  ::close(descriptor);
  return status;
}

Result<StatusPage> StatusPage::map(int descriptor) {
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) return failed_call("fstat");
  const int seals = ::fcntl(descriptor, F_GET_SEALS);
  if (info.st_size != kPageBytes || seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return Status(StatusCode::kInvalidArgument, "status page: descriptor " +
                                                    std::to_string(descriptor) +
                                                    " is not a sealed page of 4096 bytes");
  }
  void* memory = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) return failed_call("mmap");
  StatusPage page(static_cast<StatusPageLayout*>(memory));
  if (page.page_->magic != kMagic) {
    return Status(StatusCode::kInvalidArgument,
                  "status page: descriptor " + std::to_string(descriptor) +
                      " holds something else, or a page of another version");
  }
  return page;
}

void StatusPage::note_operation(std::string_view operation) noexcept {
  if (!page_) return;
  const uint64_t next = page_->operations.load(std::memory_order_relaxed) + 1;
  copy_text(operation, page_->operation[next % 2]);
  page_->operations.store(next, std::memory_order_release);
}

void StatusPage::note_failure(const Status& status) noexcept {
  if (!page_ || status.ok() || page_->failed.load(std::memory_order_relaxed) != 0) return;
  copy_text(status.message(), page_->failure);
  page_->lost_rank = status.lost_rank();
  page_->failed.store(1, std::memory_order_release);
}

StatusPageContents StatusPage::read() const {
  StatusPageContents contents;
  if (!page_) return contents;
  contents.operations = page_->operations.load(std::memory_order_acquire);
  if (contents.operations > 0) {
    contents.last_operation = printable(page_->operation[contents.operations % 2]);
  }
  if (page_->failed.load(std::memory_order_acquire) == 1) {
    contents.failure = printable(page_->failure);
    contents.lost_rank = page_->lost_rank;
  }
  return contents;
}

}  // namespace khorus::base
