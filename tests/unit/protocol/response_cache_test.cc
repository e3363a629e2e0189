// The response cache: least recently used out first, ids never twice, and what was evicted lately
// can still be read.
#include "core/protocol/response_cache.h"

#include <gtest/gtest.h>

#include <list>
#include <random>
#include <string>

namespace khorus::protocol {
namespace {

wire::ResponseTensor tensor(const std::string& name, int64_t extent = 1) {
  wire::ResponseTensor tensor;
  tensor.request.name = name;
  tensor.request.shape = {extent};
  return tensor;
}

const ResponseCache::Entry* find(const ResponseCache& cache, const std::string& name) {
  return cache.find(TensorKey{0, name});
}

TEST(ResponseCache, FindsByNameAndById) {
  ResponseCache cache(4);
  cache.put(tensor("a"), 1);
  cache.put(tensor("b"), 1);
  ASSERT_NE(find(cache, "a"), nullptr);
  const uint64_t id = find(cache, "a")->id;
  EXPECT_EQ(cache.find(id)->tensor, tensor("a"));
  EXPECT_EQ(cache.find_live(id)->tensor, tensor("a"));
  EXPECT_EQ(find(cache, "c"), nullptr);
  EXPECT_EQ(cache.find(uint64_t{999}), nullptr);
  EXPECT_EQ(cache.find(TensorKey{1, "a"}), nullptr) << "another process set";
}

TEST(ResponseCache, EvictsTheLeastRecentlyUsed) {
  ResponseCache cache(2);
  cache.put(tensor("a"), 1);
  cache.put(tensor("b"), 1);
  cache.touch(find(cache, "a")->id);
  cache.put(tensor("c"), 2);
  EXPECT_NE(find(cache, "a"), nullptr);
  EXPECT_EQ(find(cache, "b"), nullptr);
  EXPECT_EQ(cache.size(), 2U);
}

TEST(ResponseCache, WhatWasEvictedLatelyIsReadableUntilForgotten) {
  ResponseCache cache(1);
  cache.put(tensor("a"), 1);
  const uint64_t id = find(cache, "a")->id;
  cache.put(tensor("b"), 5);
  EXPECT_EQ(cache.find_live(id), nullptr);
  ASSERT_NE(cache.find(id), nullptr);
  EXPECT_EQ(cache.find(id)->tensor, tensor("a"));
  cache.forget_evicted(4);
  EXPECT_NE(cache.find(id), nullptr);
  cache.forget_evicted(5);
  EXPECT_EQ(cache.find(id), nullptr);
}

TEST(ResponseCache, AChangedTensorGetsANewId) {
  ResponseCache cache(4);
  cache.put(tensor("a", 1), 1);
  const uint64_t old_id = find(cache, "a")->id;
  cache.put(tensor("a", 2), 2);
  EXPECT_NE(find(cache, "a")->id, old_id);
  EXPECT_EQ(find(cache, "a")->tensor, tensor("a", 2));
  EXPECT_EQ(cache.find(old_id)->tensor, tensor("a", 1));
  EXPECT_EQ(cache.size(), 1U);
}

TEST(ResponseCache, CapacityZeroHoldsNothing) {
  ResponseCache cache(0);
  cache.put(tensor("a"), 1);
  EXPECT_EQ(cache.size(), 0U);
  EXPECT_EQ(find(cache, "a"), nullptr);
}

TEST(ResponseCache, BarriersAndExchangesAreNotCached) {
  ResponseCache cache(4);
  for (OpKind kind : {OpKind::kBarrier, OpKind::kExchange}) {
    wire::ResponseTensor plain = tensor("b");
    plain.request.kind = kind;
    cache.put(plain, 1);
    EXPECT_FALSE(ResponseCache::cacheable(kind));
  }
  EXPECT_EQ(cache.size(), 0U);
}

TEST(ResponseCache, TheDigestTellsOrderAndContent) {
  const auto cache_of = [](std::initializer_list<const char*> names) {
    ResponseCache cache(8);
    for (const char* name : names) cache.put(tensor(name), 1);
    return cache.digest();
  };
  EXPECT_EQ(cache_of({"a", "b"}), cache_of({"a", "b"}));
  EXPECT_NE(cache_of({"a", "b"}), cache_of({"b", "a"}));
  EXPECT_NE(cache_of({"a", "b"}), cache_of({"a"}));
  ResponseCache touched(8);
  touched.put(tensor("a"), 1);
  touched.put(tensor("b"), 1);
  const uint64_t before = touched.digest();
  touched.touch(find(touched, "a")->id);
  EXPECT_NE(touched.digest(), before);
}

TEST(ResponseCache, BehavesAsAModel) {
  std::mt19937 random(3);
  for (size_t capacity : {1U, 3U, 7U}) {
    ResponseCache cache(capacity);
    std::list<std::string> model;  // front: the next to go
    for (uint64_t step = 1; step < 3000; ++step) {
      const std::string name(1, static_cast<char>('a' + random() % 12));
      const auto it = std::find(model.begin(), model.end(), name);
      if (it != model.end() && random() % 2 == 0) {
        cache.touch(find(cache, name)->id);
        model.splice(model.end(), model, it);
      } else {
        cache.put(tensor(name, static_cast<int64_t>(step)), step);
        if (it != model.end()) model.erase(it);
        if (model.size() == capacity) model.pop_front();
        model.push_back(name);
      }
      ASSERT_EQ(cache.size(), model.size());
      for (char c = 'a'; c < 'a' + 12; ++c) {
        const std::string other(1, c);
        const bool there = std::find(model.begin(), model.end(), other) != model.end();
        ASSERT_EQ(find(cache, other) != nullptr, there) << other << " at step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace khorus::protocol
