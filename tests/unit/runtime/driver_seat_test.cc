// DriverSeat alone: who gets the seat, when a loan ends, and when the next one is worth it.
#include "core/runtime/driver_seat.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace khorus::runtime {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr DriverSeat::Times kLong{1min, 1min};  // longer than any test

// A seat, and the thread that lends it once.
class Loan {
 public:
  explicit Loan(DriverSeat& seat) : seat_(seat), thread_([this] { lend(); }) {
    while (!seat_.is_empty() && !over_) std::this_thread::yield();
  }
  ~Loan() {
    seat_.call_thread();
    thread_.join();
  }
  bool over() const { return over_; }

 private:
  void lend() {
    seat_.lend();
    over_ = true;
  }
  DriverSeat& seat_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

// As a thread does that blocks while the thread of the coordinator has the seat.
void want(DriverSeat& seat) {
  Parker sleeper;
  seat.drive_until_token(sleeper);
}

// How many wishes it takes until a loan is thought to pay.
int wishes_until_wanted(DriverSeat& seat) {
  for (int wishes = 1; wishes < 1000; ++wishes) {
    want(seat);
    if (seat.wanted()) return wishes;
  }
  return 1000;
}

TEST(DriverSeat, BelongsToItsThreadUntilItIsLent) {
  DriverSeat seat;
  EXPECT_FALSE(seat.is_empty());
  EXPECT_FALSE(seat.try_take());
}

TEST(DriverSeat, IsWantedOnlyAfterSomebodyWaitedWithoutIt) {
  DriverSeat seat;
  EXPECT_FALSE(seat.wanted());
  want(seat);
  EXPECT_TRUE(seat.wanted());
  EXPECT_FALSE(seat.wanted());
}

TEST(DriverSeat, GoesBackToItsThreadWhenNobodyComes) {
  DriverSeat seat;
  const Clock::time_point start = Clock::now();
  seat.lend();
  EXPECT_GE(Clock::now() - start, DriverSeat::Times().loan);
  EXPECT_FALSE(seat.try_take());
}

TEST(DriverSeat, IsLentMoreRarelyWhileLoansAreInVain) {
  DriverSeat seat;
  for (const int wishes : {2, 4, 8, 16, 32, 32}) {
    seat.lend();
    EXPECT_EQ(wishes_until_wanted(seat), wishes);
  }
}

TEST(DriverSeat, IsTakenByOneAtATime) {
  DriverSeat seat(kLong);
  const Loan loan(seat);
  ASSERT_TRUE(seat.try_take());
  EXPECT_FALSE(seat.is_empty());
  EXPECT_FALSE(seat.try_take());
  EXPECT_FALSE(loan.over());
  seat.put_back();
}

TEST(DriverSeat, IsDrivenUntilThereIsAToken) {
  DriverSeat seat(kLong);
  Parker sleeper;
  int turns = 0;
  seat.set_turn([&] {
    if (++turns == 3) {
      EXPECT_EQ(sleeper.give(), nullptr);  // nobody sleeps
    }
    return true;
  });
  { const Loan in_vain(seat); }
  EXPECT_EQ(wishes_until_wanted(seat), 2);
  {
    const Loan loan(seat);
    seat.drive_until_token(sleeper);
  }
  EXPECT_EQ(turns, 3);
  EXPECT_TRUE(sleeper.has_token());
  EXPECT_EQ(wishes_until_wanted(seat), 1);  // it paid
}

TEST(DriverSeat, IsNotDrivenByAThreadWithAToken) {
  DriverSeat seat(kLong);
  seat.set_turn([] {
    ADD_FAILURE() << "a turn for nothing";
    return true;
  });
  Parker sleeper;
  sleeper.give();
  const Loan loan(seat);
  seat.drive_until_token(sleeper);
}

TEST(DriverSeat, IsLeftWhenThereIsNothingToDriveAnyMore) {
  DriverSeat seat(kLong);
  Parker sleeper;
  int turns = 0;
  seat.set_turn([&] {
    ++turns;
    return false;
  });
  {
    const Loan loan(seat);
    seat.drive_until_token(sleeper);
  }
  EXPECT_EQ(turns, 1);
  EXPECT_FALSE(sleeper.has_token());
}

TEST(DriverSeat, IsLeftInTimeWhenNothingHappens) {
  DriverSeat seat({1min, 10ms});
  Parker sleeper;
  seat.set_turn([] { return true; });
  const Clock::time_point start = Clock::now();
  {
    const Loan loan(seat);
    seat.drive_until_token(sleeper);
  }
  EXPECT_GE(Clock::now() - start, 10ms);
  EXPECT_FALSE(seat.try_take());  // its thread was called
}

TEST(DriverSeat, ACallThatComesLateDoesNotEndTheNextLoan) {
  DriverSeat seat({5ms, 5ms});
  seat.call_thread();  // the thread has it: nothing to call for
  const Clock::time_point start = Clock::now();
  seat.lend();
  EXPECT_GE(Clock::now() - start, 5ms);
}

TEST(DriverSeat, ACallEndsALoanOnceTheSeatIsEmpty) {
  DriverSeat seat(kLong);
  Loan loan(seat);
  ASSERT_TRUE(seat.try_take());
  seat.call_thread();
  EXPECT_FALSE(loan.over());
  seat.put_back();
  seat.call_thread();
  while (!loan.over()) std::this_thread::yield();
}

TEST(Parker, SleepsUntilADeadlineOrAToken) {
  Parker parker;
  const Clock::time_point deadline = Clock::now() + 5ms;
  EXPECT_FALSE(parker.park_until(deadline));
  EXPECT_GE(Clock::now(), deadline);
  EXPECT_FALSE(parker.has_token());

  std::thread giver([&] { Parker::unpark(parker.give()); });
  EXPECT_TRUE(parker.park_until(Clock::now() + 1min));
  giver.join();
  EXPECT_FALSE(parker.has_token());
  parker.give();
  EXPECT_TRUE(parker.park_until(Clock::now()));
}

}  // namespace
}  // namespace khorus::runtime
