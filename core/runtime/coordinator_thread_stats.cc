// See coordinator_thread.h. This file: the figures that the loop publishes for other threads.
#include "core/runtime/coordinator_thread.h"

namespace khorus::runtime {

EngineStats CoordinatorThread::stats() const {
  EngineStats stats;
  stats.control_messages_sent = published_.messages_sent.load(std::memory_order_relaxed);
  stats.control_bytes_sent = published_.bytes_sent.load(std::memory_order_relaxed);
  stats.control_messages_received = published_.messages_received.load(std::memory_order_relaxed);
  stats.control_bytes_received = published_.bytes_received.load(std::memory_order_relaxed);
  stats.tensors_from_cache = published_.from_cache.load(std::memory_order_relaxed);
  return stats;
}

protocol::NodeStats CoordinatorThread::node_stats() const {
  protocol::NodeStats stats;
  stats.submitted = published_.submitted.load(std::memory_order_relaxed);
  stats.submitted_from_cache = published_.from_cache.load(std::memory_order_relaxed);
  stats.decisions = published_.decisions.load(std::memory_order_relaxed);
  stats.cached_tensors = published_.cached.load(std::memory_order_relaxed);
  stats.stall_reports = published_.stall_reports.load(std::memory_order_relaxed);
  return stats;
}

protocol::FusionSettings CoordinatorThread::fusion() const {
  return {published_.fusion_threshold_bytes.load(std::memory_order_relaxed),
          published_.flush_window_us.load(std::memory_order_relaxed)};
}

void CoordinatorThread::publish_stats() {
  const net::ChannelStats channel = channel_.stats();
  published_.messages_sent.store(channel.messages_sent, std::memory_order_relaxed);
  published_.bytes_sent.store(channel.bytes_sent, std::memory_order_relaxed);
  published_.messages_received.store(channel.messages_received, std::memory_order_relaxed);
  published_.bytes_received.store(channel.bytes_received, std::memory_order_relaxed);
  const protocol::NodeStats& node = node_.stats();
  published_.submitted.store(node.submitted, std::memory_order_relaxed);
  published_.from_cache.store(node.submitted_from_cache, std::memory_order_relaxed);
  published_.decisions.store(node.decisions, std::memory_order_relaxed);
  published_.cached.store(node.cached_tensors, std::memory_order_relaxed);
  published_.stall_reports.store(node.stall_reports, std::memory_order_relaxed);
}

}  // namespace khorus::runtime
