// StatusPage: what a rank leaves behind for its launcher, so that a failure summary can say what
// the rank did last even when it was killed.
//
// A page is a memfd of 4096 bytes with a sealed size. khorusrun makes one per rank and hands it
// over as the descriptor KHORUS_STATUS_FD (Config::status_fd); the engine writes, the launcher
// reads. Texts are written to the slot that is not current, then made current, so that a SIGKILL at
// any instruction leaves a whole text. Nothing secret belongs here.
//
// Thread rule: of the writer's methods, one thread at a time; the reader may run at any time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "khorus/status.h"

namespace khorus::base {

struct StatusPageLayout;  // the bytes; status_page.cc

// What the launcher finds on a page. Text is cut to printable characters.
struct StatusPageContents {
  std::string last_operation;  // "allreduce \"layers.3.weight\"", empty if there was none
  uint64_t operations = 0;     // how many were noted
  std::string failure;         // the first error that ended this rank's engine; empty: none
  int lost_rank = -1;          // the rank that this rank's engine holds responsible
};

class StatusPage {
 public:
  StatusPage() = default;  // no page: notes go nowhere
  StatusPage(StatusPage&& other) noexcept : page_(std::exchange(other.page_, nullptr)) {}
  StatusPage& operator=(StatusPage&& other) noexcept {
    std::swap(page_, other.page_);
    return *this;
  }
  ~StatusPage();

  // A new page on a new descriptor that programs may inherit only when told to (close-on-exec).
  static Result<int> create_descriptor();

  // Maps the page. The descriptor is not closed and is no longer needed afterwards. InvalidArgument
  // if it is not a page.
  static Result<StatusPage> map(int descriptor);

  // Writer: the operation that was submitted last. `operation` is cut to 255 bytes.
  void note_operation(std::string_view operation) noexcept;
  // Writer: what ended the engine. Only the first counts.
  void note_failure(const Status& status) noexcept;

  StatusPageContents read() const;
  explicit operator bool() const noexcept { return page_ != nullptr; }

 private:
  explicit StatusPage(StatusPageLayout* page) : page_(page) {}
  StatusPageLayout* page_ = nullptr;
};

}  // namespace khorus::base
