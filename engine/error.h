// Every error the library reports is one of these types; it never prints and never aborts.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace adder {

// The base of all errors thrown by this library. Messages are one paragraph that starts with the
// place ("selective_scan: …", "model.safetensors:8192: …") and carries the numbers concerned.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A tensor has the wrong number of dimensions or the wrong extents.
class ShapeError : public Error {
 public:
  using Error::Error;
};

// A tensor has a dtype that the operation does not take.
class DtypeError : public Error {
 public:
  using Error::Error;
};

// A device is absent, lacks a kernel, or has run out of memory.
class DeviceError : public Error {
 public:
  using Error::Error;
};

// A file cannot be read or written, or its content is malformed. Messages give "path:offset".
class IoError : public Error {
 public:
  using Error::Error;
};

// A configuration has an unknown key, an impossible value or an impossible combination.
class ConfigError : public Error {
 public:
  using Error::Error;
};

// A computation produced NaN or an infinity where a finite number is required.
class NumericError : public Error {
 public:
  using Error::Error;
};

// Concatenates its arguments with operator<<: the one way this library composes messages.
template <typename... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace adder
