// See stack_dump.h.
#include "core/runtime/stack_dump.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

#include "core/base/timespec.h"

namespace khorus::runtime {
namespace {

constexpr int kMaxFrames = 64;
constexpr std::chrono::milliseconds kPatience{500};  // of all threads together
constexpr int kHandlerFrames = 2;                    // the handler, and what called it

// What one thread is asked. Whoever takes it from kAsked, the thread or who gives up on it, decides
// what becomes of it.
struct Question {
  enum State : int { kAsked, kAnswering, kAnswered, kGivenUp };
  std::atomic<int> state{kAsked};
  sem_t* answered = nullptr;
  pthread_t thread{};
  int count = 0;
  std::array<void*, kMaxFrames> frames{};
};

void answer(int /*signal*/, siginfo_t* info, void* /*context*/) {
  if (info->si_code != SI_QUEUE || info->si_pid != getpid()) return;
  const int error = errno;
  auto* question = static_cast<Question*>(info->si_value.sival_ptr);
  int expected = Question::kAsked;
  if (question->state.compare_exchange_strong(expected, Question::kAnswering)) {
    question->thread = pthread_self();
    question->count = backtrace(question->frames.data(), kMaxFrames);
    question->state.store(Question::kAnswered);
    sem_post(question->answered);
  }
  errno = error;
}

// A signal that nobody uses; 0: there is none. Once installed the handler stays: a thread that
// answers late would else be ended by the signal.
int own_signal() {
  for (int signal = SIGRTMAX - 1; signal > SIGRTMIN; --signal) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) != 0) continue;
    if ((action.sa_flags & SA_SIGINFO) != 0) {
      if (action.sa_sigaction == answer) return signal;
      continue;
    }
    if (action.sa_handler != SIG_DFL) continue;
    action = {};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    if (::sigaction(signal, &action, nullptr) == 0) return signal;
  }
  return 0;
}

std::string file_of(int thread, const char* name) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/" + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string field(const std::string& status, const std::string& name) {
  const size_t at = status.find("\n" + name + ":");
  if (at == std::string::npos) return "";
  const size_t begin = status.find_first_not_of(" \t", at + name.size() + 2);
  return status.substr(begin, status.find('\n', begin) - begin);
}

bool blocks(const std::string& status, int signal) {
  const std::string mask = field(status, "SigBlk");
  uint64_t bits = 0;
  std::from_chars(mask.data(), mask.data() + mask.size(), bits, 16);
  return ((bits >> (signal - 1)) & 1U) != 0;
}

struct Thread {
  int id = 0;
  std::string name, status;
  std::unique_ptr<Question> question;
};

std::vector<Thread> other_threads() {
  std::vector<Thread> threads;
  const auto self = static_cast<int>(::syscall(SYS_gettid));
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", ignored)) {
    Thread thread;
    thread.id = std::atoi(entry.path().filename().c_str());
    if (thread.id == self) continue;
    thread.status = file_of(thread.id, "status");
    thread.name = field("\n" + thread.status, "Name");
    thread.question = std::make_unique<Question>();
    threads.push_back(std::move(thread));
  }
  return threads;
}

bool ask(const Thread& thread, int signal) {
  if (signal == 0 || blocks(thread.status, signal)) return false;
  siginfo_t info{};
  info.si_signo = signal;
  info.si_code = SI_QUEUE;
  info.si_pid = getpid();
  info.si_uid = getuid();
  info.si_value.sival_ptr = thread.question.get();
  return ::syscall(SYS_rt_tgsigqueueinfo, getpid(), thread.id, signal, &info) == 0;
}

std::string hexadecimal(uintptr_t value) {
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "0x%llx", static_cast<unsigned long long>(value));
  return text.data();
}

// A return address may be that of the next function already: it is looked up one byte before.
std::string describe_frame(void* address, bool is_return) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(at - (is_return ? 1 : 0)), &info) == 0) {
    return hexadecimal(at);
  }
  const char* path = info.dli_fname != nullptr ? info.dli_fname : "?";
  const char* slash = std::strrchr(path, '/');
  const std::string place = std::string(slash != nullptr ? slash + 1 : path) + "+" +
                            hexadecimal(at - reinterpret_cast<uintptr_t>(info.dli_fbase));
  if (info.dli_sname == nullptr) return place;
  int failed = 0;
  const std::unique_ptr<char, decltype(&std::free)> readable(
      abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &failed), &std::free);
  return std::string(failed == 0 ? readable.get() : info.dli_sname) + "+" +
         hexadecimal(at - reinterpret_cast<uintptr_t>(info.dli_saddr)) + " (" + place + ")";
}

std::vector<std::string> frames_of(const Question& question) {
  std::vector<std::string> lines;
  for (int i = kHandlerFrames; i < question.count; ++i) {
    const int number = i - kHandlerFrames;
    lines.push_back("  #" + std::to_string(number) + " " +
                    describe_frame(question.frames.at(static_cast<size_t>(i)), number > 0));
  }
  return lines;
}

// What the kernel tells without being asked for more than any process may know of itself.
std::vector<std::string> kernel_view(const Thread& thread) {
  std::vector<std::string> lines = {"  does not answer; state " + field(thread.status, "State")};
  for (const char* name : {"wchan", "syscall", "stack"}) {
    std::string text = file_of(thread.id, name);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    for (char& c : text) {
      if (c == '\n') c = ' ';
    }
    if (!text.empty() && text != "0") lines.push_back("  " + std::string(name) + ": " + text);
  }
  return lines;
}

}  // namespace

void prepare_stack_dumps() {
  void* frame = nullptr;
  backtrace(&frame, 1);  // loads the unwinder
}

std::vector<std::string> native_stacks() {
  const int signal = own_signal();
  auto answered = std::make_unique<sem_t>();
  sem_init(answered.get(), 0, 0);
  std::vector<Thread> threads = other_threads();
  int asked = 0;
  for (const Thread& thread : threads) {
    thread.question->answered = answered.get();
    if (ask(thread, signal)) {
      ++asked;
    } else {
      thread.question->state.store(Question::kGivenUp);
    }
  }
  const timespec deadline = base::as_timespec(std::chrono::steady_clock::now() + kPatience);
  while (asked > 0) {
    if (sem_clockwait(answered.get(), CLOCK_MONOTONIC, &deadline) == 0) {
      --asked;
    } else if (errno != EINTR) {
      break;
    }
  }
  std::map<std::vector<std::string>, std::string> threads_of;  // by stack
  std::vector<std::string> lines;
  for (Thread& thread : threads) {
    int state = Question::kAsked;
    thread.question->state.compare_exchange_strong(state, Question::kGivenUp);
    const bool good = state == Question::kAnswered;
    std::string name = std::to_string(thread.id) + " (" + thread.name;
    if (thread.id == getpid()) name += ", main";
    if (good) name += ", " + hexadecimal(thread.question->thread);
    const std::vector<std::string> stack = good ? frames_of(*thread.question) : kernel_view(thread);
    if (thread.id == getpid()) {  // the one that most want to see
      lines.push_back("thread " + name + ")");
      lines.insert(lines.end(), stack.begin(), stack.end());
    } else {
      std::string& names = threads_of[stack];
      names += (names.empty() ? "" : ", ") + name + ")";
    }
    // It may still come, and then looks at what it was asked.
    if (asked > 0 && !good) static_cast<void>(thread.question.release());
  }
  if (asked > 0) {
    static_cast<void>(answered.release());
  } else {
    sem_destroy(answered.get());
  }
  for (const auto& [stack, names] : threads_of) {
    lines.push_back("thread " + names);
    lines.insert(lines.end(), stack.begin(), stack.end());
  }
  return lines;
}

}  // namespace khorus::runtime
