// The executable's two outputs: results on stdout, everything else on stderr.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <string_view>

namespace adder::tools {

// Results. A write that fails (full disk, closed pipe) is an IoError, at the latest when flushed.
void print(std::string_view text);
void flush_output();

// "12,345,678"
std::string grouped(std::int64_t number);
// "1 parameter", "12,345 parameters".
std::string grouped(std::int64_t number, const std::string& noun);
// "1.2 MiB"
std::string byte_size(std::int64_t bytes);
// "1:02:03" or "2:03"
std::string clock_time(double seconds);

// Progress on stderr: on a terminal one line that is rewritten, elsewhere plain lines, not more
// often than every few seconds. Messages always get a line of their own.
class Status {
 public:
  Status();
  ~Status();
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;

  // Whether update() would show anything now; spares composing the line.
  bool due() const;
  void update(const std::string& line);
  void message(const std::string& line);
  void clear();

 private:
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point next_;
};

// "adder: error: …" on stderr, coloured on a terminal unless NO_COLOR is set.
void print_error(const std::string& message);

// Prepares signals and standard streams: writing to a closed pipe becomes an error to report, and
// a closed standard stream cannot be mistaken for the next file that is opened.
void set_up_process();

// While one lives, Ctrl-C and SIGTERM set a flag instead of ending the process (a second one ends
// it all the same).
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
  const std::atomic<bool>& flag() const;
};

}  // namespace adder::tools
