// See process.h.
#include "backends/mpi/process.h"

#include <pthread.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>
#include <utility>

namespace khorus::backends::mpi {

namespace {

Status is_over() {
  return Status(StatusCode::kUnavailable,
                "MPI_Finalize was called already, and MPI cannot start again in a process; call "
                "khorus::init() before it");
}

}  // namespace

// Never destroyed: abandoned memory is MPI's until the end.
Process& Process::instance() {
  static auto* const process = new Process;
  return *process;
}

Status Process::refusal() const {
  if (pid_ != 0 && pid_ != ::getpid()) {
    return Status(StatusCode::kUnavailable, "MPI belongs to process " + std::to_string(pid_) +
                                                "; a forked child (" + std::to_string(::getpid()) +
                                                ") cannot use it");
  }
  if (!abandoned_.empty()) {
    return Status(StatusCode::kUnavailable,
                  "MPI cannot be used again in this process: " + abandoned_ +
                      ", and MPI cannot take such an operation back; start the job again, or set "
                      "KHORUS_BACKEND=gloo, which can start over");
  }
  int finalized = 0;
  if (state_ == State::kRunning) library_->finalized(&finalized);
  if (finalized != 0 || state_ == State::kEnding || state_ == State::kEnded) return is_over();
  return failure_;
}

Status Process::start(const std::shared_ptr<Interrupt>& interrupt) {
  {
    const std::scoped_lock lock(mutex_);
    const Status refused = refusal();
    if (!refused.ok() || state_ == State::kRunning) return refused;
  }
  if (!Interrupt::run(interrupt, [this] { start_and_wait(); })) {
    abandon("an abort came while MPI_Init_thread waited for the other ranks", nullptr);
    return interrupt->status();
  }
  const std::scoped_lock lock(mutex_);
  return refusal();
}

// The first to come starts MPI, whoever comes meanwhile waits for the outcome.
void Process::start_and_wait() {
  std::unique_lock lock(mutex_);
  if (state_ == State::kNew) {
    state_ = State::kStarting;
    pid_ = ::getpid();
    std::thread([this] { own_thread(); }).detach();
  }
  changed_.wait(lock, [this] { return state_ != State::kStarting; });
}

// "khorus-mpi": from MPI_Init_thread to MPI_Finalize.
void Process::own_thread() {
  ::pthread_setname_np(::pthread_self(), "khorus-mpi");
  int already = 0;
  const Result<const Library*> loaded = Library::load();
  Status status = loaded.status();
  if (status.ok()) {
    library_ = *loaded;
    library_->initialized(&already);
    status = already != 0 ? adopt() : initialise();
    if (status.ok()) status = look_around();
  }
  std::unique_lock lock(mutex_);
  failure_ = status;
  state_ = status.ok() ? State::kRunning : State::kFailed;
  changed_.notify_all();
  if (!status.ok() || already != 0) return;
  // Registered after the library was loaded, hence run before its own clean-up.
  std::atexit(finish_at_exit);
  changed_.wait(lock, [this] { return state_ == State::kEnding; });
  lock.unlock();
  library_->finalize();
  lock.lock();
  state_ = State::kEnded;
  changed_.notify_all();
}

Status Process::adopt() {
  int finalized = 0;
  int level = MPI_THREAD_SINGLE;
  library_->finalized(&finalized);
  if (finalized != 0) return is_over();
  library_->query_thread(&level);
  if (level == MPI_THREAD_MULTIPLE) return {};
  return Status(StatusCode::kUnavailable,
                "the application has initialised MPI without MPI_THREAD_MULTIPLE, and Khorus uses "
                "it from threads of its own; call MPI_Init_thread with MPI_THREAD_MULTIPLE, or "
                "leave it to Khorus");
}

Status Process::initialise() {
  int level = MPI_THREAD_SINGLE;
  const int code = library_->init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level);
  if (code != MPI_SUCCESS) {
    return Status(StatusCode::kUnavailable, "MPI_Init_thread failed: " + library_->describe(code));
  }
  // Errors are ours to report; by default they would end the process.
  library_->comm_set_errhandler(library_->world, library_->errors_return);
  if (level == MPI_THREAD_MULTIPLE) return {};
  return Status(StatusCode::kUnavailable,
                "this Open MPI was built without support for threads (MPI_THREAD_MULTIPLE)");
}

Status Process::look_around() {
  library_->comm_rank(library_->world, &world_rank_);
  library_->comm_size(library_->world, &world_size_);
  int* bound = nullptr;
  int found = 0;
  library_->comm_get_attr(library_->world, MPI_TAG_UB, static_cast<void*>(&bound), &found);
  if (found != 0 && bound != nullptr) largest_tag_ = *bound;
  return {};
}

uint64_t Process::next_number() {
  const std::scoped_lock lock(mutex_);
  return ++numbers_;
}

SharedComm Process::find_comm(const std::vector<int>& world_ranks) {
  const std::scoped_lock lock(mutex_);
  const auto found = comms_.find(world_ranks);
  return found == comms_.end() ? SharedComm() : found->second;
}

void Process::keep_comm(const std::vector<int>& world_ranks, SharedComm comm) {
  const std::scoped_lock lock(mutex_);
  comms_.insert_or_assign(world_ranks, comm);
}

void Process::skip_finalize() {
  const std::scoped_lock lock(mutex_);
  skip_finalize_ = true;
}

void Process::abandon(const std::string& why, std::shared_ptr<void> memory) {
  const std::scoped_lock lock(mutex_);
  if (abandoned_.empty()) abandoned_ = why;
  skip_finalize_ = true;
  kept_.push_back(std::move(memory));
}

void Process::finish() {
  std::unique_lock lock(mutex_);
  if (pid_ != ::getpid() || state_ != State::kRunning || skip_finalize_) return;
  int finalized = 0;
  library_->finalized(&finalized);  // the application may have done it
  if (finalized != 0) return;
  state_ = State::kEnding;
  changed_.notify_all();
  changed_.wait(lock, [this] { return state_ == State::kEnded; });
}

void Process::finish_at_exit() { instance().finish(); }

}  // namespace khorus::backends::mpi
