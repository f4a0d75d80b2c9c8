#include "tools/console.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine/error.h"
#include "tools/exit_codes.h"

namespace adder::tools {
namespace {

constexpr std::chrono::milliseconds kTerminalInterval{100};
constexpr std::chrono::milliseconds kPlainInterval{5000};

std::atomic<bool> interrupted{false};
std::atomic<int> scopes{0};

extern "C" void on_signal(int) {
  if (scopes.load() == 0 || interrupted.exchange(true)) _exit(kExitInterrupted);
}

[[noreturn]] void output_failed() {
  throw IoError(str("stdout: ", std::strerror(errno)));
}

bool stderr_is_terminal() {
  const char* kind = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && kind != nullptr && std::strcmp(kind, "dumb") != 0;
}

std::size_t terminal_width() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) output_failed();
}

void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) output_failed();
}

std::string grouped(std::int64_t number) {
  std::string digits = std::to_string(number < 0 ? -number : number);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  if (number < 0) digits.insert(digits.begin(), '-');
  return digits;
}
std::string grouped(std::int64_t number, const std::string& noun) {
  return grouped(number) + " " + noun + (number == 1 ? "" : "s");
}

std::string byte_size(std::int64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  char text[40];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

std::string clock_time(double seconds) {
  const auto total =
      static_cast<std::int64_t>(std::isfinite(seconds) ? std::clamp(seconds, 0.0, 1e9) : 0.0);
  char text[40];
  if (total >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", static_cast<long long>(total / 3600),
                  static_cast<long long>(total / 60 % 60), static_cast<long long>(total % 60));
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", static_cast<long long>(total / 60),
                  static_cast<long long>(total % 60));
  }
  return text;
}

Status::Status() : terminal_(stderr_is_terminal()), next_(std::chrono::steady_clock::now()) {
  if (!terminal_) next_ += kPlainInterval;  // what is done before that needs no line
}

Status::~Status() {
  clear();
}

bool Status::due() const {
  return std::chrono::steady_clock::now() >= next_;
}

void Status::update(const std::string& line) {
  if (!due()) return;
  next_ = std::chrono::steady_clock::now() + (terminal_ ? kTerminalInterval : kPlainInterval);
  if (terminal_) {
    const std::string cut = line.substr(0, terminal_width() - 1);
    std::fprintf(stderr, "\r%s\033[K", cut.c_str());
    std::fflush(stderr);
    shown_ = true;
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
}

void Status::message(const std::string& line) {
  clear();
  std::fprintf(stderr, "%s\n", line.c_str());
}

void Status::clear() {
  if (!shown_) return;
  std::fprintf(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_ = false;
}

void print_error(const std::string& message) {
  const char* plain = std::getenv("NO_COLOR");
  const bool colour = stderr_is_terminal() && (plain == nullptr || *plain == '\0');
  // One paragraph, whatever the message's origin.
  std::string line = message;
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::fprintf(stderr, "%sadder: error:%s %s\n", colour ? "\033[1;31m" : "",
               colour ? "\033[0m" : "", line.c_str());
}

void set_up_process() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    if (fcntl(descriptor, F_GETFD) == -1 && errno == EBADF) {
      // Read-only, so that writing to a stream that was closed still fails.
      if (open("/dev/null", O_RDONLY) != descriptor) return;
    }
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit, like a full disk, is an error to report
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

InterruptScope::InterruptScope() {
  scopes.fetch_add(1);
}
InterruptScope::~InterruptScope() {
  scopes.fetch_sub(1);
}
const std::atomic<bool>& InterruptScope::flag() const {
  return interrupted;
}

}  // namespace adder::tools
