// NoSigpipe: while it lives, a write to a closed connection is an error of that write and not a
// signal that ends the process.
//
// Gloo writes with writev(2), which raises SIGPIPE, on the calling thread and on its loop thread
// (which inherits the mask of the thread that makes the device). What the application does with
// SIGPIPE stays as it is: a signal raised meanwhile is taken away, and the thread's mask is
// restored. Used by the thread that runs a communicator.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <ctime>

namespace khorus::backends::gloo {

class NoSigpipe {
 public:
  NoSigpipe() {
    sigemptyset(&sigpipe_);
    sigaddset(&sigpipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &sigpipe_, &before_);
  }
  ~NoSigpipe() {
    if (sigismember(&before_, SIGPIPE) != 0) return;  // blocked all along: not ours to take
    const timespec now{};
    ::sigtimedwait(&sigpipe_, nullptr, &now);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  sigset_t sigpipe_;
  sigset_t before_;
};

}  // namespace khorus::backends::gloo
