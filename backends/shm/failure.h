// Failure: why an operation cannot go on. Thrown inside this backend only; Communicator turns it
// into a Status.
#pragma once

#include <stdexcept>
#include <string>

namespace khorus::backends::shm {

class Failure : public std::runtime_error {
 public:
  enum class Cause {
    kTimeout,      // the peer is silent
    kGone,         // the peer has left the group, or its process has ended
    kInterrupted,  // abort() on this rank
    kMismatch,     // the peer runs something else
    kUnreachable,  // the peer's socket is not there
  };
  // `peer`: its rank in the group, or -1.
  Failure(Cause cause, int peer, const std::string& what)
      : std::runtime_error(what), cause_(cause), peer_(peer) {}
  Cause cause() const { return cause_; }
  int peer() const { return peer_; }

 private:
  Cause cause_;
  int peer_;
};

}  // namespace khorus::backends::shm
