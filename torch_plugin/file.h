// Files: one that is written whole or not at all, and one that is read at given places.
//
// Errors are khorus::Error with the path and the system's words. One thread per object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace khorus::torch {

// Bytes go to PATH.new. commit() forces them to the disk and renames; without it the destructor
// removes PATH.new, and PATH is as it was.
class NewFile {
 public:
  explicit NewFile(std::string path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(std::string_view bytes);
  void commit();

 private:
  [[noreturn]] void fail();

  const std::string path_, temporary_;
  int file_ = -1;
};

// size() is the size when it was opened.
class OldFile {
 public:
  explicit OldFile(std::string path);
  ~OldFile();
  OldFile(const OldFile&) = delete;
  OldFile& operator=(const OldFile&) = delete;

  uint64_t size() const noexcept { return size_; }
  void read(uint64_t offset, void* to, size_t count) const;

 private:
  [[noreturn]] void fail(const std::string& why) const;

  const std::string path_;
  int file_ = -1;
  uint64_t size_ = 0;
};

}  // namespace khorus::torch
