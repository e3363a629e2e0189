// See segment.h.
#include "backends/shm/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "core/base/fork_guard.h"

namespace khorus::backends::shm {
namespace {

constexpr size_t kPage = 4096;
constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

std::runtime_error refused(const std::string& what) {
  return std::runtime_error(what + ": " + std::generic_category().message(errno));
}

}  // namespace

std::shared_ptr<Segment> Segment::create(size_t bytes) {
  const size_t size = whole_pages(bytes);
  Descriptor descriptor =
      Descriptor::make([] { return ::memfd_create("khorus", MFD_CLOEXEC | MFD_ALLOW_SEALING); });
  if (!descriptor) throw refused("memfd_create");
  // posix_fallocate() would fall back to writing zeros; this allocates or says why not.
  if (::fallocate(descriptor.get(), 0, 0, static_cast<off_t>(size)) != 0) {
    throw refused("no memory for a shared segment of " + std::to_string(size) + " bytes");
  }
  const int fd = descriptor.get();
  std::shared_ptr<Segment> segment(
      new Segment(std::move(descriptor), size, PROT_READ | PROT_WRITE));
  if (::fcntl(fd, F_ADD_SEALS, kSizeSeals | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
    throw refused("sealing shared memory (needs Linux 5.1)");
  }
  return segment;
}

std::shared_ptr<Segment> Segment::adopt(Descriptor descriptor, size_t bytes) {
  const size_t size = whole_pages(bytes);
  // First, because only memory has seals: anything else may be of a file system that never answers.
  const int seals = ::fcntl(descriptor.get(), F_GET_SEALS);
  const bool sealed = seals >= 0 && (seals & kSizeSeals) == kSizeSeals &&
                      (seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) != 0;
  struct stat status {};
  if (sealed && ::fstat(descriptor.get(), &status) != 0) throw refused("fstat");
  const bool allocated = static_cast<size_t>(status.st_blocks) * 512 >= size;
  if (!sealed || !allocated || static_cast<size_t>(status.st_size) != size) {
    throw std::runtime_error("it sent something else than a sealed segment of " +
                             std::to_string(size) + " bytes");
  }
  std::shared_ptr<Segment> segment(new Segment(std::move(descriptor), size, PROT_READ));
  segment->close_descriptor();
  return segment;
}

Segment::Segment(Descriptor descriptor, size_t bytes, int protection)
    : descriptor_(std::move(descriptor)), bytes_(bytes), process_(base::fork_generation()) {
  void* const address =
      ::mmap(nullptr, bytes, protection, MAP_SHARED | MAP_POPULATE, descriptor_.get(), 0);
  if (address == MAP_FAILED) throw refused("mapping shared memory");
  data_ = static_cast<std::byte*>(address);
  if (::madvise(address, bytes, MADV_DONTFORK) != 0) {
    const std::runtime_error error = refused("MADV_DONTFORK");
    ::munmap(address, bytes);
    throw error;
  }
}

// In a forked child the addresses are free and may be somebody else's.
Segment::~Segment() {
  if (base::fork_generation() == process_) ::munmap(data_, bytes_);
}

}  // namespace khorus::backends::shm
