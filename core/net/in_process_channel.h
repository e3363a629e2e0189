// InProcessWorld: what N ranks of one process share: a store and a mailbox per rank.
//
// The channels it gives out behave as TCP channels do: frames in order and exactly once, a closed
// channel is seen by its neighbours at once as kClosed. A rank may connect once per generation; a
// generation is over when all its channels are closed, and a rank that connects again before that
// (because others have not closed yet) starts the next one, where the others will join it.
//
// Thread rule: InProcessWorld's methods from any thread; each channel as control_channel.h says.
// Channels keep what they need alive and may outlive the world.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/net/control_channel.h"
#include "core/net/store.h"
#include "khorus/options.h"

namespace khorus {

class InProcessWorld {
 public:
  explicit InProcessWorld(int size);
  ~InProcessWorld();
  InProcessWorld(const InProcessWorld&) = delete;
  InProcessWorld& operator=(const InProcessWorld&) = delete;

  int size() const noexcept;

  // The store of the generation that `rank` is in, or would join by connect().
  std::shared_ptr<net::Store> store(int rank);

  // Never blocks: frames to a neighbour that has not connected yet wait in its mailbox.
  // REQUIRES: 0 <= rank < size; parent is -1 at the root.
  std::unique_ptr<net::ControlChannel> connect(int rank, int parent,
                                               const std::vector<int>& children);

  // As if `rank`'s process died: its neighbours see kClosed with this reason, and so does the rank
  // itself of each neighbour. Frames sent before are delivered. Nothing if it is not connected.
  void sever(int rank, const std::string& reason);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace khorus
