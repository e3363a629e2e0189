// Descriptor: owns one file descriptor, close-on-exec and known to the fork guard, so that neither
// a program that is started nor a data-loader child that is forked keeps it open.
//
// Thread rule: that of an int.
#pragma once

#include <utility>

namespace khorus::backends::shm {

class Descriptor {
 public:
  Descriptor() = default;
  // Calls open(), which makes one descriptor or returns -1 with errno, so that no fork falls
  // between making and registering it. open() must not block.
  template <class Open>
  static Descriptor make(Open&& open) {
    Descriptor made;
    made.fd_ = guarded(&call<Open>, &open);
    return made;
  }
  ~Descriptor() { reset(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset() noexcept;

 private:
  template <class Open>
  static int call(void* open) {
    return (*static_cast<std::remove_reference_t<Open>*>(open))();
  }
  static int guarded(int (*call)(void*), void* open);

  int fd_ = -1;
};

}  // namespace khorus::backends::shm
