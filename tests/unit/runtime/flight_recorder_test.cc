// The flight recorder keeps the last operations under torch's key names.
#include "core/runtime/flight_recorder.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/runtime/folder.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

using nlohmann::json;
using runtime::FlightRecorder;

wire::Request request_of(const std::string& name) {
  wire::Request request;
  request.name = name;
  return request;
}

json dump_of(const FlightRecorder& recorder) {
  FlightRecorder::Header header;
  header.backend = "gloo";
  header.reason = "a \"test\"";
  return json::parse(recorder.to_json(header));
}

TEST(FlightRecorder, StagesOfAnOperation) {
  FlightRecorder recorder(4);
  recorder.set_group(kGlobalProcessSet, {0, 1});
  const uint64_t a = recorder.submitted(request_of("a"), {2, 3}, {2, 3}, 1000);
  json entry = dump_of(recorder).at("entries").at(0);
  EXPECT_EQ(entry.at("state"), "scheduled");
  EXPECT_EQ(entry.at("collective_seq_id"), 0);
  EXPECT_TRUE(entry.at("time_discovered_started_ns").is_null());
  EXPECT_TRUE(entry.at("duration_ms").is_null());

  recorder.agreed(a, 17, 16, 3, 1'500);
  recorder.started(a, 2'000'000);
  entry = dump_of(recorder).at("entries").at(0);
  EXPECT_EQ(entry.at("state"), "started");
  EXPECT_EQ(entry.at("retired"), false);

  const Shape output = {4, 3};
  recorder.completed(a, &output, 3'500'000);
  const json dump = dump_of(recorder);
  entry = dump.at("entries").at(0);
  EXPECT_EQ(entry.at("state"), "completed");
  EXPECT_EQ(entry.at("retired"), true);
  EXPECT_EQ(entry.at("record_id"), 17);
  EXPECT_EQ(entry.at("collective_seq_id"), 17);
  EXPECT_EQ(entry.at("duration_ms"), 1.5);
  EXPECT_EQ(entry.at("profiling_name"), "gloo:all_reduce");
  EXPECT_EQ(entry.at("process_group"), json({"0", "default_pg"}));
  EXPECT_EQ(entry.at("input_sizes"), json({{2, 3}}));
  EXPECT_EQ(entry.at("output_sizes"), json({{4, 3}}));
  EXPECT_EQ(entry.at("input_dtypes"), json({"Float"}));
  EXPECT_EQ(entry.at("khorus_name"), "a");
  EXPECT_EQ(entry.at("khorus_fused_tensors"), 3);
  EXPECT_TRUE(entry.at("khorus_error").is_null());
  EXPECT_EQ(dump.at("version"), "2.10");
  EXPECT_EQ(dump.at("khorus_reason"), "a \"test\"");
  EXPECT_EQ(dump.at("pg_config").at("0").at("ranks"), "[0, 1]");
  EXPECT_EQ(dump.at("pg_status").at("0").at("last_completed_collective"), 17);
}

TEST(FlightRecorder, KeepsTheLastInAgreedOrder) {
  FlightRecorder recorder(3);
  std::vector<uint64_t> records;
  for (const char* name : {"1", "2", "3", "4", "5"}) {
    records.push_back(recorder.submitted(request_of(name), {}, {}, 1));
  }
  recorder.agreed(records[0], 1, 1, 1, 1);  // has left the ring: changes nothing
  recorder.agreed(records[4], 2, 2, 1, 1);
  recorder.failed(records[2], StatusCode::kMismatch);
  const json entries = dump_of(recorder).at("entries");
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0].at("khorus_name"), "5");
  EXPECT_EQ(entries[0].at("record_id"), 2);
  EXPECT_EQ(entries[1].at("khorus_name"), "3");
  EXPECT_EQ(entries[1].at("record_id"), 3);
  EXPECT_EQ(entries[1].at("khorus_error"), "mismatch");
  EXPECT_EQ(entries[1].at("state"), "scheduled");
  EXPECT_EQ(entries[2].at("khorus_name"), "4");
}

TEST(FlightRecorder, AnyNameAndShapeFits) {
  FlightRecorder recorder(2);
  recorder.submitted(request_of(std::string(1000, '\xff')), Shape(32, 1), {}, 1);
  const json entry = dump_of(recorder).at("entries").at(0);
  EXPECT_LT(entry.at("khorus_name").get<std::string>().size(), 300U);
  EXPECT_EQ(entry.at("input_sizes").at(0).size(), 8U);
}

TEST(FlightRecorder, MessagesNameBothRanksOfTheirSet) {
  FlightRecorder recorder(4);
  recorder.set_group(kGlobalProcessSet, {0, 1, 2, 3});
  recorder.set_group(1, {0, 2, 3});
  wire::Request request = request_of("m");
  request.kind = OpKind::kSendRecv;
  request.process_set = 1;
  request.root_rank = 0;
  request.peer = 3;
  recorder.submitted(request, {2}, {}, 1);
  request.root_rank = 3;
  request.peer = 0;
  recorder.submitted(request, {}, {2}, 1);
  const json entries = dump_of(recorder).at("entries");  // of rank 0
  EXPECT_EQ(entries[0].at("profiling_name"), "gloo:send 0->2");
  EXPECT_EQ(entries[1].at("profiling_name"), "gloo:recv 0<-2");
  EXPECT_EQ(entries[0].at("is_p2p"), true);
}

TEST(FlightRecorder, OffRecordsNothing) {
  FlightRecorder recorder(0);
  EXPECT_EQ(recorder.submitted(request_of("a"), {}, {}, 1), 0U);
  recorder.started(0, 1);
  EXPECT_TRUE(dump_of(recorder).at("entries").empty());
}

TEST(FlightRecorder, ThreadsMayRecordWhileItIsDumped) {
  FlightRecorder recorder(7);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&recorder] {
      for (uint64_t i = 1; i < 2000; ++i) {
        const uint64_t record = recorder.submitted(request_of("name"), {1, 2}, {1, 2}, 1);
        recorder.agreed(record, i, i, 1, 1);
        recorder.started(record, 2);
        recorder.completed(record, nullptr, 3);
      }
    });
  }
  for (int i = 0; i < 50; ++i) EXPECT_LE(dump_of(recorder).at("entries").size(), 7U);
  for (std::thread& thread : threads) thread.join();
  const json dump = dump_of(recorder);
  for (const json& entry : dump.at("entries")) {
    EXPECT_EQ(entry.at("state"), "completed");
  }
}

// Ranks that submit in different orders record the same order.
TEST(FlightRecorder, OfAnEngine) {
  const Folder folder;
  const auto path = [&](int rank) { return folder / ("rank_" + std::to_string(rank)); };
  Ranks ranks(2);
  ranks.run([&](Engine& engine) {
    std::vector<std::vector<float>> tensors(4, std::vector<float>(8));
    std::vector<WorkPtr> works;
    for (size_t i = 0; i < 4; ++i) {
      const size_t t = engine.rank() == 0 ? i : 3 - i;
      works.push_back(
          engine.allreduce_async(std::to_string(t), view_of(tensors[t]), view_of(tensors[t]), {}));
    }
    ASSERT_TRUE(wait_all(works).ok());
    ASSERT_TRUE(engine.allgather_async("rows", view_of(tensors[0]))->wait().ok());
    ASSERT_TRUE(engine.barrier_async("b")->wait().ok());
    ASSERT_TRUE(engine.dump_flight_recorder(path(engine.rank())).ok());
    EXPECT_EQ(engine.dump_flight_recorder(folder / "no/such/file").code(),
              StatusCode::kUnavailable);
  });
  const json first = json::parse(contents(path(0))).at("entries");
  const json second = json::parse(contents(path(1))).at("entries");
  ASSERT_EQ(first.size(), 6U);
  ASSERT_EQ(second.size(), 6U);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(first[i].at("khorus_name"), second[i].at("khorus_name"));
    EXPECT_EQ(first[i].at("record_id"), second[i].at("record_id"));
    EXPECT_EQ(first[i].at("collective_seq_id"), second[i].at("collective_seq_id"));
    EXPECT_EQ(first[i].at("state"), "completed");
  }
  EXPECT_EQ(first[4].at("output_sizes"), json({{16}}));
  EXPECT_EQ(first[5].at("profiling_name"), "local:barrier");
}

// Every rank of a job that fails leaves a dump that says why.
TEST(FlightRecorder, DumpedWhenTheEngineFails) {
  const Folder folder;
  Ranks ranks(2, {}, [&](EngineOptions* options) {
    options->config.flight_recorder_path = folder / "rank_";
    options->config.stall_warning_s = 0.02;
    options->config.stall_shutdown_s = 0.05;
  });
  ranks.run([](Engine& engine) {
    std::vector<float> a(4);
    ASSERT_TRUE(engine.allreduce_async("both", view_of(a), view_of(a), {})->wait().ok());
    if (engine.rank() == 0) {
      EXPECT_EQ(engine.allreduce_async("alone", view_of(a), view_of(a), {})->wait().code(),
                StatusCode::kTimeout);
    } else {
      engine.barrier_async("never")->wait().ok();
    }
  });
  for (const int rank : {0, 1}) {
    const json dump = json::parse(contents(folder / ("rank_" + std::to_string(rank))));
    EXPECT_NE(dump.at("khorus_reason").get<std::string>().find("stalled"), std::string::npos);
    const json& entries = dump.at("entries");
    ASSERT_EQ(entries.size(), 2U);
    EXPECT_EQ(entries[0].at("khorus_name"), "both");
    EXPECT_EQ(entries[1].at("khorus_name"), rank == 0 ? "alone" : "never");
    EXPECT_EQ(entries[1].at("state"), "scheduled");
  }
}

}  // namespace
}  // namespace khorus::test
