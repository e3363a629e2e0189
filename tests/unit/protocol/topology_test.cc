// The control tree: every rank is below the root once, whatever the world's size and fan-in.
#include "core/protocol/topology.h"

#include <gtest/gtest.h>

namespace khorus::protocol {
namespace {

TEST(Topology, ParentsAndChildrenAgree) {
  for (int fan_in : {1, 2, 3, 8, 16}) {
    for (int size : {1, 2, 3, 7, 8, 9, 64, 65, 200}) {
      for (int rank = 0; rank < size; ++rank) {
        const Topology topology(rank, size, fan_in);
        EXPECT_LE(topology.children().size(), static_cast<size_t>(fan_in));
        for (int child : topology.children()) {
          EXPECT_EQ(Topology(child, size, fan_in).parent(), rank);
        }
        EXPECT_EQ(topology.parent() < 0, rank == 0);
      }
    }
  }
}

TEST(Topology, SubtreesPartitionTheRanksBelow) {
  for (int fan_in : {1, 2, 3, 8}) {
    for (int size : {1, 2, 5, 8, 9, 40, 73}) {
      EXPECT_EQ(Topology(0, size, fan_in).subtree(), wire::RankSet::all(size));
      for (int rank = 0; rank < size; ++rank) {
        const Topology topology(rank, size, fan_in);
        wire::RankSet below = wire::RankSet::single(rank);
        for (int child : topology.children()) {
          const wire::RankSet subtree = Topology::subtree_of(child, size, fan_in);
          EXPECT_FALSE(below.intersects(subtree));
          below.add_all(subtree);
        }
        EXPECT_EQ(below, topology.subtree());
      }
    }
  }
}

TEST(Topology, FindsTheWayDown) {
  const int size = 60;
  for (int fan_in : {1, 2, 5}) {
    for (int rank = 0; rank < size; ++rank) {
      const Topology topology(rank, size, fan_in);
      for (int target = 0; target < size; ++target) {
        int expected = -1;
        for (int child : topology.children()) {
          if (Topology::subtree_of(child, size, fan_in).contains(target)) expected = child;
        }
        EXPECT_EQ(topology.child_towards(target), expected);
      }
    }
  }
}

TEST(Topology, DepthIsLogarithmic) {
  EXPECT_EQ(Topology::depth(1, 8), 0);
  EXPECT_EQ(Topology::depth(9, 8), 1);
  EXPECT_EQ(Topology::depth(10, 8), 2);
  EXPECT_EQ(Topology::depth(73, 8), 2);
  EXPECT_EQ(Topology::depth(8192, 8), 5);
  EXPECT_EQ(Topology::depth(5, 1), 4);
}

TEST(Topology, SubtreesAreFewIntervals) {
  for (int rank : {0, 1, 5, 9, 100}) {
    EXPECT_LE(Topology(rank, 8192, 8).subtree().intervals().size(), 6U);
  }
}

TEST(TopologyDeathTest, ARankOutsideTheWorldIsAProgrammersError) {
  EXPECT_DEATH(Topology(3, 3, 2), "outside the world");
}

}  // namespace
}  // namespace khorus::protocol
